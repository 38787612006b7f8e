"""Owen values over a tree of tokens: the recursion of shap's Partition explainer, one example at a time.

A generator requests probabilities of coalitions and receives them, so that one forward pass can serve many examples.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np

from hf_langimb.measures.attribution.examples import Attribution, Floats

ROUND = 6  # evaluations between two looks at the queue, shap's for texts


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
) -> Generator[list[int], Floats, Attribution]:
    """Owen values of T tokens for all classes at once.

    A node of the tree is the game between its two children, played where the tokens outside are masked and where they
    are not; nodes with the largest effect are opened first. The effect of a node that the budget leaves unopened is
    shared equally among its tokens.

    Args:
        tree: float[T - 1, 4], merges of a clustering as shap makes them: left, right, height, size.
        budget: evaluations, with the two of the empty and the full coalition; None opens all nodes.
        maskable: bits of the tokens that masking changes; coalitions that agree on them are the same.
        count_forwards: the budget counts different coalitions, not evaluations.
        seed: of numpy's legacy generator, which breaks ties in the queue (with `count_forwards` the first comes first).

    Yields:
        Coalitions (bit i: token i is as it was written, else masked); expects their probabilities float64[n, C].
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
    everything = _evaluations(children) <= limit
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


def _evaluations(children: Sequence[Sequence[int]]) -> int:
    """How many it takes to open every node: one at depth d is opened in 2^d contexts."""
    depth = [0] * len(children)
    for node in range(len(children) - 1, -1, -1):
        for child in children[node]:
            depth[child] = depth[node] + 1
    return sum(2 << depth[node] for node, pair in enumerate(children) if pair)


@lru_cache(maxsize=4)
def _ties(seed: int, number: int) -> list[float]:
    """Normal draws, as shap breaks ties with."""
    return list(map(float, np.random.RandomState(seed).randn(number)))
