"""Owen values of one example's tokens without bias at any number of forward passes: designed orders, and the tree."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from hf_langimb.measures.attribution.examples import Attribution, Floats
from hf_langimb.measures.attribution.methods import Bools, Method

ORDERS = (64, 32, 16, 8, 4)  # without a number of orders, the first whose coalitions fit their share of the budget
SHARE = 2 / 3  # of the budget, for orders; the rest opens nodes of the tree
FEWEST, MOST = ORDERS[-1], 4096
ROUND = 16  # nodes that are opened at once
DESIGN = "Hadamard, strength 3"


class _Inner(NamedTuple):
    """A node of the tree with maskable tokens below both children; a child is such a node or a single token."""

    node: int
    left: int
    right: int
    depth: int  # number of such nodes above it


class _Tree(NamedTuple):
    """The nodes that divide maskable tokens, parents first; the bits of those tokens in all nodes; the topmost node."""

    inner: list[_Inner]
    children: dict[int, tuple[int, int]]
    members: list[int]
    root: int


class _Opened(NamedTuple):
    """The game that equals the model's where the tree was opened, and is linear in the tokens of an unopened node."""

    credit: Floats  # [T, C], its Owen values
    games: set[tuple[int, int]]  # node and tokens outside of it that are not masked
    values: dict[int, Floats]  # of the coalitions that were evaluated for it


def owen_orders(
    tree: Floats,
    *,
    orders: int | None,
    halves: int,
    budget: int | None,
    maskable: int = -1,
    seed: int | Sequence[int] = 0,
) -> Method:
    """Owen values of T tokens, estimated from some of the orders that keep every subtree together.

    The Owen value of a token is its mean marginal contribution over all such orders. An order decides at each node of
    the tree which child comes first. Here a node's decisions are a column of a two-level orthogonal array of strength 3
    (a Hadamard matrix and its negative), chosen by the depth of the node, and flipped by a coin of its own. A single
    order is then a uniform draw, so the mean is unbiased; together they are balanced, so the mean is exact if
    only pairs of tokens interact, or if at most four tokens interact at once and the array has a column for each depth
    (it has `orders` / 4 columns with two halves, else `orders` / 2).

    Without `orders`, a part of the budget opens nodes of the tree as `owen_values` does, those with the largest effect
    first. This gives a simpler game whose Owen values are known; the orders estimate only what the model adds to it
    (a control variate), which is little where a few tokens decide. The nodes are chosen without looking at the draws,
    so the sum is unbiased too. All orders are taken, and the values are exact, where their coalitions fit the budget or
    are not more than those of the chosen orders.

    Args:
        tree: float[T - 1, 4], merges of a clustering as of `owen_values`.
        orders: a power of two from 4 up, of all halves together; None takes the largest of `ORDERS` that fits `SHARE`.
        halves: 2 draws two independent arrays: their means differ by twice the estimated error. 1 draws a single one.
        budget: different coalitions, the empty and the full one included; only without `orders`. None: no limit.
        maskable: bits of the tokens that masking changes.
        seed: of the draws.

    Raises:
        ValueError: the budget is too small for the smallest of `ORDERS`.
    """
    content = _content_tree(tree, maskable)
    limit = np.inf if budget is None or orders else budget
    number, before, needed = _taken(content, orders, halves, limit, seed)
    members = content.members
    asked = dict.fromkeys([0, members[-1]])
    for token, coalitions in before.items():
        asked |= dict.fromkeys(coalitions) | dict.fromkeys(bits | members[token] for bits in coalitions)
    places = {bits: place for place, bits in enumerate(asked)}
    found = yield list(asked)
    ends = found[0], found[places[members[-1]]]
    values = np.zeros((2, len(tree) + 1, found.shape[1]))  # of the two halves
    evaluations = len(asked)
    if number and not orders:
        opened = yield from _open(content, int(limit) - needed + 2, *ends)
        values += opened.credit
        found = found - np.stack([_of_opened(opened, content, bits) for bits in asked])
        evaluations = len(asked | dict.fromkeys(opened.values))
    for token, coalitions in before.items():
        without = found[[places[bits] for bits in coalitions]]
        added = found[[places[bits | members[token]] for bits in coalitions]] - without
        parts = np.split(added, halves if number else 1)
        values[:, token] += parts[0].mean(axis=0), parts[-1].mean(axis=0)
    difference = (values[0] - values[1]) / 2 if halves == 2 else None
    return Attribution(values.mean(axis=0), *ends, evaluations, orders=number, half_difference=difference)


def fewest_passes(tree: Floats, halves: int, maskable: int, seed: int | Sequence[int]) -> int:
    """The smallest budget of forward passes that `owen_orders` takes, with the same arguments."""
    return _taken(_content_tree(tree, maskable), FEWEST, halves, np.inf, seed)[2]


def _content_tree(tree: Floats, maskable: int) -> _Tree:
    """The tree without the nodes that do not divide maskable tokens."""
    tokens = len(tree) + 1
    children = [(i, i) for i in range(tokens)] + [(int(left), int(right)) for left, right in tree[:, :2]]
    members = [1 << i & maskable for i in range(tokens)]
    for left, right in children[tokens:]:
        members.append(members[left] | members[right])

    def below(node: int) -> int:
        """The first node from here down that divides maskable tokens, or the only token."""
        while node >= tokens and not all(members[child] for child in children[node]):
            node = max(children[node], key=members.__getitem__)
        return node

    root = below(len(members) - 1)
    inner, waiting = [], [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        if node >= tokens:
            left, right = map(below, children[node])
            inner.append(_Inner(node, left, right, depth))
            waiting += [(right, depth + 1), (left, depth + 1)]
    return _Tree(inner, {one.node: (one.left, one.right) for one in inner}, members, root)


def _taken(
    content: _Tree, orders: int | None, halves: int, limit: float, seed: Any
) -> tuple[int, dict[int, list[int]], int]:
    """The number of orders (0: all), the coalitions before each token, and how many different ones there are.

    The number of coalitions depends on the columns of the array and not on the coins. The coins alone make each order a
    uniform draw, so choosing the number of orders by the number of coalitions causes no bias.
    """
    everything = len({0, content.members[-1]}) + sum(2 << one.depth for one in content.inner)  # of all orders
    for number in (orders,) if orders else ORDERS if everything > limit else ():
        rng = np.random.default_rng(seed)
        first = np.concatenate([_design(content.inner, number // halves, rng) for _ in range(halves)], axis=1)
        before = _coalitions_before(content, first)
        needed = len({content.members[-1]}.union(*before.values()))
        fits = needed <= SHARE * limit or (number == ORDERS[-1] and needed <= limit)
        if fits and needed < everything and content.inner:
            return number, before, needed
    if everything <= limit:
        return 0, _coalitions_before(content), everything
    raise ValueError(
        f"A text of {len(before)} tokens needs {needed} forward passes for the minimum of {number} orders, but the "
        f"budget is {limit}: raise the budget to {needed}, or shorten the texts (max_length)."
    )


def _design(inner: Sequence[_Inner], runs: int, rng: np.random.Generator) -> Bools:
    """bool[nodes, runs]: whether the left child comes first.

    A column for each depth; below the last one, the same columns with their runs in another order.
    """
    from scipy.linalg import hadamard

    half = hadamard(runs // 2).T > 0
    columns = rng.permutation(np.concatenate([half, ~half], axis=1))
    depths = np.array([one.depth for one in inner], dtype=np.int64)
    cycles, places = np.divmod(depths, len(columns))
    runs_of = np.array([np.arange(runs), *(rng.permutation(runs) for _ in range(cycles.max(initial=0)))])
    coins = rng.integers(2, size=(len(inner), 1)).astype(bool)
    return np.asarray(columns[places[:, None], runs_of[cycles]] ^ coins)


def _coalitions_before(content: _Tree, first: Bools | None = None) -> dict[int, list[int]]:
    """{token: the coalition of the tokens before it, in each order}; without `first` for all orders, each once."""
    inner, _, members, root = content
    tokens_before = {root: [0] * (1 if first is None else first.shape[1])}
    decisions = [None] * len(inner) if first is None else first.tolist()
    for (node, left, right, _), is_first in zip(inner, decisions, strict=True):
        outside = tokens_before.pop(node)
        for child, sibling, comes_first in ((left, members[right], True), (right, members[left], False)):
            tokens_before[child] = (
                [*outside, *(bits | sibling for bits in outside)]
                if is_first is None
                else [
                    bits if yes is comes_first else bits | sibling for bits, yes in zip(outside, is_first, strict=True)
                ]
            )
    return tokens_before if members[root] else {}


def _open(content: _Tree, limit: int, base: Floats, full: Floats) -> Generator[list[int], Floats, _Opened]:
    """Open nodes, those with the largest effect first, until `limit` coalitions have been evaluated."""
    _, children, members, root = content
    tokens = (len(members) + 1) // 2
    values, games, tie = {0: base, members[root]: full}, set(), count()
    credit = np.zeros((tokens, len(base)))
    queue = [(0.0, next(tie), root, 0, 1.0)]  # priority, tie, node, tokens outside that are not masked, weight
    while queue and len(values) + 2 <= limit:
        most = min(ROUND, (limit - len(values)) // 2)  # each opens two coalitions that no other one does
        opened = [heapq.heappop(queue) for _ in range(min(most, len(queue)))]
        asked = [outside | members[child] for _, _, node, outside, _ in opened for child in children[node]]
        found = yield asked
        values |= dict(zip(asked, found, strict=True))
        for _, _, node, outside, weight in opened:
            games.add((node, outside))
            left, right = children[node]
            for child, sibling in ((left, members[right]), (right, members[left])):
                for context in (outside, outside | sibling):
                    effect = (values[context | members[child]] - values[context]) * (weight / 2)
                    if child < tokens:
                        credit[child] += effect
                    else:
                        priority = -float(np.abs(effect).max())
                        heapq.heappush(queue, (priority, next(tie), child, context, weight / 2))
    for _, _, node, outside, weight in queue:
        effect = (values[outside | members[node]] - values[outside]) * weight
        inside = [token for token in range(tokens) if members[node] >> token & 1]
        credit[inside] += effect / len(inside)
    return _Opened(credit, games, values)


def _of_opened(opened: _Opened, content: _Tree, coalition: int) -> Floats:
    """The value of a coalition in the game of the opened nodes."""
    _, games, values = opened
    _, children, members, node = content
    outside = 0
    while (node, outside) in games and coalition & members[node] not in (0, members[node]):
        left, right = children[node]
        if coalition & members[right] in (0, members[right]):  # only one of the two can be partly masked
            node, outside = left, outside | coalition & members[right]
        else:
            node, outside = right, outside | coalition & members[left]
    share = (coalition & members[node]).bit_count() / members[node].bit_count()
    low, high = values[outside], values[outside | members[node]]
    return np.asarray(low + share * (high - low))
