"""Owen and Shapley values of one example's tokens, for all classes at once.

A generator requests probabilities of coalitions and receives them, so that one forward pass can serve many examples.
Coalitions are integers: bit i says that token i is as it was written, else it is masked.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from itertools import count
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_langimb.measures.attribution.examples import Attribution, Floats

Method = Generator[list[int], Floats, Attribution]  # requests coalitions, is sent their probabilities float64[n, C]
Bools = NDArray[np.bool_]

ROUND = 6  # evaluations between two looks at the queue, shap's for texts
EVALUATIONS_A_PLAYER = 4  # fewer do not determine the regression
MOST_EXACT = 16  # players all of whose coalitions are evaluated without a budget


class _Game(NamedTuple):
    """A node in a context: its priority in the queue, and its value with all of its tokens masked and written."""

    priority: float
    tie: float
    node: int
    outside: int  # tokens of other nodes that are not masked
    low: Floats
    high: Floats
    weight: float


def owen_values(
    tree: Floats, *, budget: int | None, maskable: int = -1, count_forwards: bool = False, seed: int = 0
) -> Method:
    """Owen values of T tokens: the recursion of shap's Partition explainer.

    A node of the tree is the game between its two children, played where the tokens outside are masked and where they
    are not; nodes with the largest effect are opened first. The effect of a node that the budget leaves unopened is
    shared equally among its tokens.

    Args:
        tree: float[T - 1, 4], merges of a clustering as shap makes them: left, right, height, size.
        budget: evaluations, with the two of the empty and the full coalition; None opens all nodes.
        maskable: bits of the tokens that masking changes; coalitions that agree on them are the same.
        count_forwards: the budget counts different coalitions, not evaluations.
        seed: of numpy's legacy generator, which breaks ties in the queue (with `count_forwards` the first comes first).
    """
    tokens = len(tree) + 1
    children: list[list[int]] = [[] for _ in range(tokens)] + tree[:, :2].astype(int).tolist()  # the root is last
    members = [1 << i for i in range(tokens)]  # bits of the tokens in each node
    for left, right in children[tokens:]:
        members.append(members[left] | members[right])
    root = len(members) - 1
    base, full = yield [0, members[root]]
    credit = np.zeros((root + 1, len(base)))
    limit = np.inf if budget is None else budget - 2
    depth = [0] * (root + 1)
    for node in range(root, tokens - 1, -1):
        for child in children[node]:
            depth[child] = depth[node] + 1
    everything = sum(2 << depth[node] for node in range(tokens, root + 1)) <= limit  # in 2^depth contexts each
    in_order = everything or count_forwards
    ties: Iterator[float] = count() if in_order else iter(_ties(seed, 2 * int(limit) + 4 * ROUND))
    batch = np.inf if everything else ROUND  # the order does not matter if all nodes will be opened
    queue = [_Game(0.0, 0.0, root, 0, base, full, 1.0)]
    evaluations, seen = 0, {0, members[root] & maskable}
    while True:
        asked: list[int] = []
        opened: list[_Game] = []
        while queue and len(asked) < batch and (len(seen) - 2 if count_forwards else evaluations + len(asked)) < limit:
            game = heapq.heappop(queue)
            if game.node < tokens:
                credit[game.node] += (game.high - game.low) * game.weight
                continue
            opened.append(game)
            asked += [game.outside | members[child] for child in children[game.node]]
            if count_forwards:
                seen |= {bits & maskable for bits in asked[-2:]}
        if not opened:
            break
        found = yield asked
        evaluations += len(asked)
        for i, game in enumerate(opened):  # next: its children, each with the other masked and written
            (left, right), (left_alone, right_alone) = children[game.node], found[2 * i : 2 * i + 2]
            outside = (game.outside, game.outside, game.outside | members[right], game.outside | members[left])
            low = np.stack([game.low, game.low, right_alone, left_alone])
            high = np.stack([left_alone, right_alone, game.high, game.high])
            weight = game.weight / 2
            priorities = (-np.abs(high - low).max(axis=1) * weight).tolist()
            for part in zip(priorities, ties, (left, right, left, right), outside, low, high, strict=False):
                heapq.heappush(queue, _Game._make([*part, weight]))
    for game in queue:
        credit[game.node] += (game.high - game.low) * game.weight
    for node in range(root, tokens - 1, -1):  # what nodes with several tokens have is divided among their tokens
        for child in children[node]:
            credit[child] += credit[node] * (members[child].bit_count() / members[node].bit_count())
    truncated = any(game.node >= tokens for game in queue)
    return Attribution(credit[:tokens], base, full, evaluations + 2, truncated)


@lru_cache(maxsize=4)
def _ties(seed: int, number: int) -> list[float]:
    """Normal draws, as shap breaks ties with."""
    return list(map(float, np.random.RandomState(seed).randn(number)))


def shapley_values(players: Sequence[int], tokens: int, *, budget: int | None, seed: int | Sequence[int] = 0) -> Method:
    """Shapley values of the players (positions of maskable tokens) among T tokens; constant tokens get 0.

    Paired KernelSHAP (Covert and Lee, arXiv 2012.01536): coalitions are drawn from the Shapley kernel, each with its
    complement, and a linear model is fitted to them that adds up to the full effect, with standard errors. Where the
    budget is enough for every coalition the values are exact. The budget counts the empty and the full coalition, and
    is raised to 4 evaluations per player; None evaluates every coalition.

    Raises:
        ValueError: every coalition of too many players.
    """
    n = len(players)
    base, full = yield [0, sum(1 << i for i in players)]
    values, errors = np.zeros((2, tokens, len(base)))
    result = Attribution(values, base, full, evaluations=2, errors=errors)
    limit = np.inf if budget is None else max(budget, EVALUATIONS_A_PLAYER * n + 2)
    if n == 1:
        values[players[0]] = full - base
    elif budget is None and n > MOST_EXACT:
        raise ValueError(f"{n} tokens would need 2^{n} evaluations: give a budget.")
    elif n > 1 and 2**n <= limit:
        found = yield [_bits(players, number) for number in range(2**n)]
        result.evaluations = 2**n
        values[list(players)] = _exact(found, n)
    elif n > 1:
        drawn = _draw(n, int(limit - 2) // 2, seed)
        found = yield [_bits(players, int.from_bytes(row, "little")) for row in np.packbits(drawn, 1, "little")]
        result.evaluations += len(drawn)
        values[list(players)], errors[list(players)] = _regress(drawn, found, base, full)
    return result


def _bits(players: Sequence[int], chosen: int) -> int:
    """A coalition over all tokens from one over the players."""
    return sum(1 << position for i, position in enumerate(players) if chosen >> i & 1)


def _exact(found: Floats, n: int) -> Floats:
    """Shapley values [n, C] from the values [2^n, C] of all coalitions."""
    values = []
    for i in range(n):
        without = np.array([number for number in range(2**n) if not number >> i & 1])
        weights = np.array([1 / (n * comb(n - 1, number.bit_count())) for number in without.tolist()])
        values.append(weights @ (found[without | 1 << i] - found[without]))
    return np.array(values)


def _draw(n: int, pairs: int, seed: int | Sequence[int]) -> Bools:
    """Coalitions bool[2 pairs, n] from the Shapley kernel, each with its complement, that determine the regression."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, n)
    chances = 1 / (sizes * (n - sizes))
    while True:
        drawn = rng.choice(sizes, pairs, p=chances / chances.sum())
        ranks = rng.random((pairs, n)).argsort(axis=1).argsort(axis=1)
        chosen = ranks < drawn[:, None]
        coalitions = np.stack([chosen, ~chosen], axis=1).reshape(2 * pairs, n)
        if np.linalg.matrix_rank(coalitions[:, :-1] - coalitions[:, -1:].astype(np.float64)) == n - 1:
            return coalitions


def _regress(drawn: Bools, found: Floats, base: Floats, full: Floats) -> tuple[Floats, Floats]:
    """Values and standard errors [n, C]: least squares with the last player fixed by the sum, errors by pairs."""
    effect = full - base
    design: Floats = drawn[:, :-1] - drawn[:, -1:].astype(np.float64)
    target = found - base - drawn[:, -1:] * effect
    bread = np.linalg.pinv(design.T @ design)
    free = bread @ design.T @ target
    residuals = target - design @ free
    influence = np.einsum("rp,rc->rpc", design @ bread, residuals)
    influence = influence[0::2] + influence[1::2]  # a pair is one draw
    influence = np.concatenate([influence, -influence.sum(axis=1, keepdims=True)], axis=1)
    pairs = len(influence)
    variance = (influence**2).sum(axis=0) * pairs / max(pairs - design.shape[1], 1)
    return np.concatenate([free, (effect - free.sum(axis=0))[None]]), np.sqrt(variance)
