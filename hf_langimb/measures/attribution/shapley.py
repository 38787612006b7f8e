"""Shapley values of tokens by paired KernelSHAP, each with a standard error (Covert and Lee, arXiv 2012.01536)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from hf_langimb.measures.attribution.examples import Attribution, Floats

EVALUATIONS_A_PLAYER = 4  # fewer do not determine the regression
MOST_EXACT = 16  # players all of whose coalitions are evaluated without a budget

Bools = NDArray[np.bool_]


def shapley_values(
    players: Sequence[int], tokens: int, *, budget: int | None, seed: int | Sequence[int] = 0
) -> Generator[list[int], Floats, Attribution]:
    """Shapley values of the players (positions of maskable tokens) among T tokens; constant tokens get 0.

    Coalitions are drawn from the Shapley kernel, each with its complement, and a linear model is fitted to them that
    adds up to the full effect. Where the budget is enough for every coalition the values are exact. The budget counts
    the empty and the full coalition, and is raised to 4 evaluations per player; None evaluates every coalition.

    Yields:
        Coalitions (bit i: token i is as it was written, else masked); expects their probabilities float64[n, C].

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
    numbers = np.arange(2**n)
    values = []
    for i in range(n):
        without = numbers[numbers >> i & 1 == 0]
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
