"""Owen values over a tree of tokens: the recursion of shap's Partition explainer, one example at a time.

A generator requests probabilities of coalitions and receives them, so that one forward pass can serve many examples.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np

Coalitions = list[int]  # bit i: token i is as it was written, else it is masked
ROUND = 6  # evaluations between two looks at the queue, shap's for texts


def owen_values(
    tree: np.ndarray, *, budget: int | None, maskable: int = -1, count_forwards: bool = False, seed: int = 0
) -> Generator[Coalitions, np.ndarray, dict[str, Any]]:
    """Owen values of M tokens for all classes at once.

    A node of the tree is a game between its two children, played with the tokens outside masked and unmasked; nodes
    with the largest effect are opened first. If the budget leaves a node unopened, its value is shared equally among
    its tokens.

    Args:
        tree: float[M - 1, 4], merges of a clustering as shap makes them: left, right, height, size.
        budget: evaluations, including the empty and the full coalition (two for each node that is opened);
            None opens all nodes.
        maskable: bits of the tokens that masking changes, -1 for all; coalitions that agree on them are the same.
        count_forwards: the budget counts different coalitions, not evaluations.
        seed: of numpy's legacy generator, which breaks ties in the queue (with `count_forwards` the first comes first).

    Yields:
        Coalitions to evaluate; expects their probabilities float64[n, C].

    Returns:
        values float64[M, C], base float64[C] (the empty coalition), full float64[C], evaluations, truncated (whether a
        node of several tokens was left unopened).
    """
    tokens = len(tree) + 1
    children = tree[:, :2].astype(int).tolist()
    members = [1 << i for i in range(tokens)]
    for left, right in children:
        members.append(members[left] | members[right])
    base, full = yield [0, members[-1]]
    credit = np.zeros((len(members), len(base)))
    limit = np.inf if budget is None else budget - 2
    everything = _fits(children, tokens, limit)
    ties: Iterator[float] = count() if everything or count_forwards else iter(_ties(seed, 2 * int(limit) + 4 * ROUND))
    batch = np.inf if everything else ROUND  # the order is of no matter where all nodes will be opened
    # priority, tie, tokens outside that are not masked, value without and with the node's tokens, node, weight
    queue: list[tuple[float, float, int, np.ndarray, np.ndarray, int, float]] = []
    heapq.heappush(queue, (0.0, 0.0, 0, base, full, len(members) - 1, 1.0))
    evaluations = 0
    different = {0, members[-1] & maskable}
    while queue and (len(different) - 2 if count_forwards else evaluations) < limit:
        opened: list[Any] = []
        asked: Coalitions = []
        while queue and len(asked) < batch:
            if (len(different) - 2 if count_forwards else evaluations + len(asked)) >= limit:
                break
            node = heapq.heappop(queue)
            _, _, outside, without, with_, index, weight = node
            if index < tokens:
                credit[index] += (with_ - without) * weight
                continue
            left, right = children[index - tokens]
            opened.append(node)
            asked += [outside | members[left], outside | members[right]]
            different |= {bits & maskable for bits in asked[-2:]}
        if not asked:
            break
        found = yield asked
        evaluations += len(asked)
        for i, (_, _, outside, without, with_, index, weight) in enumerate(opened):
            left, right = children[index - tokens]
            with_left, with_right = found[2 * i], found[2 * i + 1]
            low = np.stack([without, without, with_right, with_left])
            high = np.stack([with_left, with_right, with_, with_])
            priorities = (-np.abs(high - low).max(axis=1) * (weight / 2)).tolist()
            places = (
                (outside, left),
                (outside, right),
                (outside | members[right], left),
                (outside | members[left], right),
            )
            for j, (context, child) in enumerate(places):
                heapq.heappush(queue, (priorities[j], next(ties), context, low[j], high[j], child, weight / 2))
    truncated = False
    for _, _, _, without, with_, index, weight in queue:
        credit[index] += (with_ - without) * weight
        truncated |= index >= tokens
    for index in range(len(members) - 1, tokens - 1, -1):  # from the root down
        for child in children[index - tokens]:
            credit[child] += credit[index] * (members[child].bit_count() / members[index].bit_count())
    return {
        "values": credit[:tokens],
        "base": base,
        "full": full,
        "evaluations": evaluations + 2,
        "truncated": truncated,
    }


def _fits(children: list[list[int]], tokens: int, limit: float) -> bool:
    """Whether opening every node stays within the limit: a node at depth d is opened in 2^d contexts."""
    depth = {len(children) + tokens - 1: 0}
    total = 0
    for index in range(len(children) + tokens - 1, tokens - 1, -1):
        total += 2 << depth[index]
        if total > limit:
            return False
        depth |= dict.fromkeys(children[index - tokens], depth[index] + 1)
    return True


@lru_cache(maxsize=4)
def _ties(seed: int, number: int) -> list[float]:
    return np.random.RandomState(seed).randn(number).tolist()
