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

Coalitions = list[int]  # bit i: token i is as it was written, else it is masked
ROUND = 6  # evaluations between two looks at the queue, shap's for texts


def owen_values(
    tree: Floats, *, budget: int | None, maskable: int = -1, count_forwards: bool = False, seed: int = 0
) -> Generator[Coalitions, Floats, Attribution]:
    """Owen values of T tokens for all classes at once.

    A node of the tree is the game between its two children, played where the tokens outside are masked and where they
    are not; nodes with the largest effect are opened first. The effect of a node that the budget leaves unopened is
    shared equally among its tokens.

    Args:
        tree: float[T - 1, 4], merges of a clustering as shap makes them: left, right, height, size.
        budget: evaluations, the two of the empty and the full coalition included (two for each node that is opened);
            None opens all nodes.
        maskable: bits of the tokens that masking changes, -1 for all; coalitions that agree on them are the same.
        count_forwards: the budget counts different coalitions, not evaluations.
        seed: of numpy's legacy generator, which breaks ties in the queue (with `count_forwards` the first comes first).

    Yields:
        Coalitions to evaluate; expects their probabilities float64[n, C].
    """
    nodes = _Nodes(tree)
    root = nodes.members[-1]
    base, full = yield [0, root]
    credit = np.zeros((len(nodes.members), len(base)))
    budgeted = _Budget(np.inf if budget is None else budget - 2, maskable, count_forwards, {0, root & maskable})
    everything = nodes.fit(budgeted.limit)
    in_order = everything or count_forwards
    ties: Iterator[float] = count() if in_order else iter(_ties(seed, 2 * int(budgeted.limit) + 4 * ROUND))
    batch = np.inf if everything else ROUND  # the order does not matter if all nodes will be opened
    queue = [_Game(0.0, 0.0, 0, base, full, len(nodes.members) - 1, 1.0)]
    while opened := _open(queue, nodes, credit, budgeted, batch):
        asked = [game.outside | nodes.members[child] for game in opened for child in nodes.children_of(game.node)]
        found = yield asked
        for i, game in enumerate(opened):
            for part in _parts(game, nodes, found[2 * i], found[2 * i + 1], ties):
                heapq.heappush(queue, part)
    truncated = False
    for game in queue:
        credit[game.node] += (game.high - game.low) * game.weight
        truncated |= game.node >= nodes.tokens
    nodes.share(credit)
    return Attribution(credit[: nodes.tokens], base, full, budgeted.evaluations + 2, truncated)


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
        self.children: list[list[int]] = merges[:, :2].astype(int).tolist()
        self.members = [1 << i for i in range(self.tokens)]  # bits of the tokens in each node
        for left, right in self.children:
            self.members.append(self.members[left] | self.members[right])

    def children_of(self, node: int) -> list[int]:
        """Left and right child of a node with several tokens."""
        return self.children[node - self.tokens]

    def fit(self, limit: float) -> bool:
        """Whether opening every node stays within the limit: a node at depth d is opened in 2^d contexts."""
        depth = {len(self.members) - 1: 0}
        total = 0
        for node in range(len(self.members) - 1, self.tokens - 1, -1):
            total += 2 << depth[node]
            if total > limit:
                return False
            depth |= dict.fromkeys(self.children_of(node), depth[node] + 1)
        return True

    def share(self, credit: Floats) -> None:
        """Divide what nodes with several tokens have among their tokens, from the root down."""
        sizes = [bits.bit_count() for bits in self.members]
        for node in range(len(self.members) - 1, self.tokens - 1, -1):
            for child in self.children_of(node):
                credit[child] += credit[node] * (sizes[child] / sizes[node])


class _Budget:
    """Evaluations, or different coalitions, that may still be asked for."""

    def __init__(self, limit: float, maskable: int, by_coalition: bool, seen: set[int]) -> None:
        self.limit, self.maskable, self.by_coalition, self.seen = limit, maskable, by_coalition, seen
        self.evaluations = 0

    def left(self) -> bool:
        """Whether another node can be opened."""
        return (len(self.seen) - 2 if self.by_coalition else self.evaluations) < self.limit

    def spend(self, coalitions: Coalitions) -> None:
        """Count what is asked for."""
        self.evaluations += len(coalitions)
        if self.by_coalition:
            self.seen |= {bits & self.maskable for bits in coalitions}


def _open(queue: list[_Game], nodes: _Nodes, credit: Floats, budget: _Budget, batch: float) -> list[_Game]:
    """Take nodes of several tokens off the queue, as many as a batch and the budget allow; credit single tokens."""
    opened: list[_Game] = []
    while queue and 2 * len(opened) < batch and budget.left():
        game = heapq.heappop(queue)
        if game.node < nodes.tokens:
            credit[game.node] += (game.high - game.low) * game.weight
            continue
        opened.append(game)
        budget.spend([game.outside | nodes.members[child] for child in nodes.children_of(game.node)])
    return opened


def _parts(game: _Game, nodes: _Nodes, left_alone: Floats, right_alone: Floats, ties: Iterator[float]) -> list[_Game]:
    """The games of a node's children, each with the other masked and written."""
    left, right = nodes.children_of(game.node)
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
    return [float(value) for value in np.random.RandomState(seed).randn(number)]
