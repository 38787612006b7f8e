"""Shapley values of tokens by paired KernelSHAP, each with a standard error (Covert and Lee, arXiv 2012.01536)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import comb
from typing import Any

import numpy as np

EVALUATIONS_A_PLAYER = 4  # fewer do not determine the regression
MOST_EXACT = 16  # players all of whose coalitions are evaluated without a budget


def shapley_values(
    players: Sequence[int], tokens: int, *, budget: int | None, seed: int | Sequence[int] = 0
) -> Generator[list[int], np.ndarray, dict[str, Any]]:
    """Shapley values of the players among M tokens; all other tokens are constant and get 0.

    Coalitions are drawn from the Shapley kernel, each with its complement, and a linear model is fitted to them whose
    values add up to the total effect. If the budget covers every coalition, the values are exact.

    Args:
        players: positions of the tokens that can be masked.
        tokens: M.
        budget: evaluations, including the empty and the full coalition; at least 4 per player are made. None evaluates
            every coalition.
        seed: of the draws.

    Yields:
        Coalitions (bit i: token i is as it was written); expects their probabilities float64[n, C].

    Returns:
        As `owen_values`, and standard_error float64[M, C].
    """
    n = len(players)
    everyone = sum(1 << i for i in players)
    base, full = yield [0, everyone]
    values, errors = np.zeros((tokens, len(base))), np.zeros((tokens, len(base)))
    evaluations = 2
    if n == 1:
        values[players[0]] = full - base
    elif budget is None and n > MOST_EXACT:
        raise ValueError(f"{n} tokens need 2^{n} evaluations: set a budget.")
    elif n > 1 and (budget is None or 2**n <= max(budget, EVALUATIONS_A_PLAYER * n + 2)):
        found = yield [_bits(players, number) for number in range(2**n)]
        evaluations = 2**n
        values[list(players)] = _exact(found, n)
    elif n > 1:
        pairs = max(int(budget) - 2, EVALUATIONS_A_PLAYER * n) // 2  # type: ignore[arg-type]
        drawn = _draw(n, pairs, seed)
        found = yield [_bits(players, int.from_bytes(row, "little")) for row in np.packbits(drawn, 1, "little")]
        evaluations += 2 * pairs
        values[list(players)], errors[list(players)] = _regress(drawn, found, base, full)
    return {
        "values": values,
        "standard_error": errors,
        "base": base,
        "full": full,
        "evaluations": evaluations,
        "truncated": False,
    }


def _bits(players: Sequence[int], chosen: int) -> int:
    """A coalition over all tokens from one over the players."""
    return sum(1 << position for i, position in enumerate(players) if chosen >> i & 1)


def _exact(found: np.ndarray, n: int) -> np.ndarray:
    """Shapley values [n, C] from the values [2^n, C] of all coalitions."""
    numbers = np.arange(2**n)
    sizes = np.array([number.bit_count() for number in range(2**n)])
    values = []
    for i in range(n):
        without = numbers[numbers >> i & 1 == 0]
        weights = np.array([1 / (n * comb(n - 1, size)) for size in sizes[without]])
        values.append(weights @ (found[without | 1 << i] - found[without]))
    return np.array(values)


def _draw(n: int, pairs: int, seed: int | Sequence[int]) -> np.ndarray:
    """Coalitions bool[2 pairs, n] from the Shapley kernel, each followed by its complement.

    Drawn again if they do not determine the regression.
    """
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, n)
    chances = 1 / (sizes * (n - sizes))
    while True:
        drawn = rng.choice(sizes, pairs, p=chances / chances.sum())
        ranks = rng.random((pairs, n)).argsort(axis=1).argsort(axis=1)
        chosen = ranks < drawn[:, None]
        coalitions = np.stack([chosen, ~chosen], axis=1).reshape(2 * pairs, n)
        if np.linalg.matrix_rank(_design(coalitions)) == n - 1:
            return coalitions


def _design(drawn: np.ndarray) -> np.ndarray:
    """Of the regression whose last player is fixed by the sum."""
    chosen = drawn.astype(np.float64)
    return chosen[:, :-1] - chosen[:, -1:]


def _regress(drawn: np.ndarray, found: np.ndarray, base: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors [n, C]: least squares with the last player fixed by the sum, errors by pairs."""
    effect = full - base
    design = _design(drawn)
    target = found - base - drawn[:, -1:] * effect
    bread = np.linalg.pinv(design.T @ design)
    free = bread @ design.T @ target
    residuals = target - design @ free
    influence = np.einsum("rp,rc->rpc", design @ bread, residuals)
    influence = influence[0::2] + influence[1::2]  # a pair is one draw
    influence = np.concatenate([influence, -influence.sum(axis=1, keepdims=True)], axis=1)
    pairs, unknown = len(influence), design.shape[1]
    variance = (influence**2).sum(axis=0) * pairs / max(pairs - unknown, 1)
    return np.concatenate([free, (effect - free.sum(axis=0))[None]]), np.sqrt(variance)
