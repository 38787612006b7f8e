"""Owen values of one example's tokens from designed orders: without bias at any number of forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_langimb.measures.attribution.examples import Attribution, Floats
from hf_langimb.measures.attribution.methods import Bools, Method

ORDERS = (64, 32, 16, 8, 4)  # without a number of orders, the first whose coalitions fit the budget
DESIGN = "Hadamard, strength 3"


class _Inner(NamedTuple):
    """A node of the tree with maskable tokens below both children; a child is such a node or a single token."""

    node: int
    left: int
    right: int
    depth: int  # number of such nodes above it


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
    order is then a uniform draw, so the mean is unbiased; together they are balanced, so the mean is exact if only
    pairs of tokens interact, or up to four tokens and the array has a column for each depth (`orders` / 4 with two
    halves, else `orders` / 2). All orders are taken, and the values are exact, where their coalitions fit the budget or
    are not more than those of the chosen orders.

    Args:
        tree: float[T - 1, 4], merges of a clustering as of `owen_values`.
        orders: a power of two from 4 up, of all halves together; None takes the largest of `ORDERS` that fits.
        halves: 2 draws two independent arrays: their means differ by twice the estimated error. 1 draws a single one.
        budget: different coalitions, the empty and the full one included; only without `orders`. None: no limit.
        maskable: bits of the tokens that masking changes.
        seed: of the draws.

    Raises:
        ValueError: the budget is too small for the smallest of `ORDERS`.
    """
    inner, members, root = _content_tree(tree, maskable)
    everything = 2 + sum(2 << one.depth for one in inner)  # coalitions of all orders, which are all different
    limit = np.inf if budget is None or orders else budget
    number, before = 0, None
    if orders or everything > limit:
        number, before, needed = _drawn(inner, members, root, orders, halves, limit, seed)
        if everything <= needed or not inner:
            number, before = 0, None
    if before is None:
        before = _coalitions_before(inner, members, root)
    asked = dict.fromkeys([0, members[-1]])
    for token, coalitions in before.items():
        asked |= dict.fromkeys(coalitions) | dict.fromkeys(bits | members[token] for bits in coalitions)
    places = {bits: place for place, bits in enumerate(asked)}
    found = yield list(asked)
    values = np.zeros((2, len(tree) + 1, found.shape[1]))  # of the two halves
    for token, coalitions in before.items():
        without = found[[places[bits] for bits in coalitions]]
        added = found[[places[bits | members[token]] for bits in coalitions]] - without
        parts = np.split(added, halves if number else 1)
        values[:, token] = parts[0].mean(axis=0), parts[-1].mean(axis=0)
    difference = (values[0] - values[1]) / 2 if halves == 2 else None
    ends = found[0], found[places[members[-1]]]
    return Attribution(values.mean(axis=0), *ends, len(asked), orders=number, half_difference=difference)


def _content_tree(tree: Floats, maskable: int) -> tuple[list[_Inner], list[int], int]:
    """The nodes that divide maskable tokens, parents first; the bits of those tokens in each node; the topmost node."""
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
    return inner, members, root


def _drawn(
    inner: Sequence[_Inner], members: list[int], root: int, orders: int | None, halves: int, limit: float, seed: Any
) -> tuple[int, dict[int, list[int]], int]:
    """The number of orders, the coalitions before each token, and how many different ones there are."""
    for number in (orders,) if orders else ORDERS:
        rng = np.random.default_rng(seed)
        first = np.concatenate([_design(inner, number // halves, rng) for _ in range(halves)], axis=1)
        before = _coalitions_before(inner, members, root, first)
        needed = len({members[-1]}.union(*before.values()))
        if needed <= limit:
            return number, before, needed
    raise ValueError(
        f"A text of {len(before)} tokens needs {needed} forward passes for {number} orders, the fewest, but the budget "
        f"is {limit}: raise the budget to {needed}, or shorten the texts (max_length)."
    )


def _design(inner: Sequence[_Inner], runs: int, rng: np.random.Generator) -> Bools:
    """bool[nodes, runs]: whether the left child comes first."""
    from scipy.linalg import hadamard

    half = hadamard(runs // 2).T > 0
    columns = rng.permutation(np.concatenate([half, ~half], axis=1))
    coins = rng.integers(2, size=(len(inner), 1)).astype(bool)
    depths = np.array([one.depth for one in inner], dtype=np.int64)
    return np.asarray(columns[depths % len(columns)] ^ coins)


def _coalitions_before(
    inner: Sequence[_Inner], members: list[int], root: int, first: Bools | None = None
) -> dict[int, list[int]]:
    """{token: the coalition of the tokens before it, in each order}; without `first` for all orders, each once."""
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
