"""Owen values over a tree of tokens: the recursion of shap's Partition explainer, one example at a time.

A generator requests probabilities of coalitions and receives them, so that one forward pass can serve many examples.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np

from hf_langimb.measures.attribution.examples import Attribution, Floats

ROUND = 6  # evaluations between two looks at the queue, shap's for texts


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
    nodes = _Nodes(tree)
    root = len(nodes.members) - 1
    base, full = yield [0, nodes.members[root]]
    credit = np.zeros((root + 1, len(base)))
    limit = np.inf if budget is None else budget - 2
    everything = nodes.fit(limit)
    in_order = everything or count_forwards
    ties: Iterator[float] = count() if in_order else iter(_ties(seed, 2 * int(limit) + 4 * ROUND))
    batch = np.inf if everything else ROUND  # the order does not matter if all nodes will be opened
    queue = [_Game(0.0, 0.0, 0, base, full, root, 1.0)]
    evaluations, seen = 0, {0, nodes.members[root] & maskable}
    while True:
        asked: list[int] = []
        opened: list[_Game] = []
        while queue and len(asked) < batch and (len(seen) - 2 if count_forwards else evaluations + len(asked)) < limit:
            game = heapq.heappop(queue)
            if game.node < nodes.tokens:
                credit[game.node] += (game.high - game.low) * game.weight
                continue
            opened.append(game)
            asked += [game.outside | nodes.members[child] for child in nodes.children[game.node]]
            if count_forwards:
                seen |= {bits & maskable for bits in asked[-2:]}
        if not opened:
            break
        found = yield asked
        evaluations += len(asked)
        for i, game in enumerate(opened):
            for part in _parts(game, nodes, found[2 * i], found[2 * i + 1], ties):
                heapq.heappush(queue, part)
    for game in queue:
        credit[game.node] += (game.high - game.low) * game.weight
    nodes.share(credit)
    truncated = any(game.node >= nodes.tokens for game in queue)
    return Attribution(credit[: nodes.tokens], base, full, evaluations + 2, truncated)


class _Game(NamedTuple):
    """A node in a context: its priority in the queue, and its value with all of its tokens masked and written."""

    priority: float
    tie: float
    outside: int  # tokens of other nodes that are not masked
    low: Floats
    high: Floats
    node: int
    weight: float


class _Nodes:
    """The nodes of a tree over T tokens: the tokens first, the root last."""

    def __init__(self, merges: Floats) -> None:
        self.tokens = len(merges) + 1
        pairs = merges[:, :2].astype(int).tolist()
        self.children: list[list[int]] = [[] for _ in range(self.tokens)] + pairs
        self.members = [1 << i for i in range(self.tokens)]  # bits of the tokens in each node
        for left, right in pairs:
            self.members.append(self.members[left] | self.members[right])

    def fit(self, limit: float) -> bool:
        """Whether opening every node stays within the limit: a node at depth d is opened in 2^d contexts."""
        depth = {len(self.members) - 1: 0}
        total = 0
        for node in range(len(self.members) - 1, self.tokens - 1, -1):
            total += 2 << depth[node]
            if total > limit:
                return False
            depth |= dict.fromkeys(self.children[node], depth[node] + 1)
        return True

    def share(self, credit: Floats) -> None:
        """Divide what nodes with several tokens have among their tokens, from the root down."""
        for node in range(len(self.members) - 1, self.tokens - 1, -1):
            for child in self.children[node]:
                share = self.members[child].bit_count() / self.members[node].bit_count()
                credit[child] += credit[node] * share


def _parts(game: _Game, nodes: _Nodes, left_alone: Floats, right_alone: Floats, ties: Iterator[float]) -> list[_Game]:
    """The games of a node's children, each with the other masked and written."""
    left, right = nodes.children[game.node]
    low = np.stack([game.low, game.low, right_alone, left_alone])
    high = np.stack([left_alone, right_alone, game.high, game.high])
    weight = game.weight / 2
    priorities = (-np.abs(high - low).max(axis=1) * weight).tolist()
    outside = (game.outside, game.outside, game.outside | nodes.members[right], game.outside | nodes.members[left])
    return [
        _Game(priorities[i], next(ties), outside[i], low[i], high[i], child, weight)
        for i, child in enumerate((left, right, left, right))
    ]


@lru_cache(maxsize=4)
def _ties(seed: int, number: int) -> list[float]:
    """Normal draws, as shap breaks ties with."""
    return list(map(float, np.random.RandomState(seed).randn(number)))
