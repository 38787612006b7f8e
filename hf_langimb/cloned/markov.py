"""A language whose best possible perplexity is known: each symbol depends on the two before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CONCENTRATION = 0.05  # of the Dirichlet distribution of each row


class MarkovLanguage:
    """Symbols 1 to S (0 is padding), the next one drawn by a random table of the last two.

    Args:
        symbols: S.
        seed: of the table; another seed is an unrelated language.
    """

    def __init__(self, symbols: int = 32, *, seed: int = 0) -> None:
        self.symbols = symbols
        self.table: Floats = np.random.default_rng([seed, 0]).dirichlet(
            np.full(symbols, CONCENTRATION), size=(symbols, symbols)
        )
        self.stationary = _stationary(self.table)
        thresholds = self.table.cumsum(axis=2).reshape(symbols**2, symbols)
        self._thresholds = (thresholds / thresholds[:, -1:] + np.arange(symbols**2)[:, None]).ravel()  # ascending

    @property
    def vocabulary_size(self) -> int:
        """Ids, with padding."""
        return self.symbols + 1

    @property
    def optimum_perplexity(self) -> float:
        """Exp of the entropy of the next symbol, given the two before it; no model can do better on long texts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.where(self.table > 0, -self.table * np.log(self.table), 0.0)
        return float(np.exp((self.stationary[..., None] * surprise).sum()))

    def windows(self, count: int, length: int, *, seed: int) -> Ints:
        """Fresh texts, int64[count, length], each with a start of its own."""
        rng = np.random.default_rng([seed, 1])
        pairs = rng.choice(self.symbols**2, size=count, p=self.stationary.ravel())
        texts = np.empty((count, max(length, 2)), dtype=np.int64)
        texts[:, 0], texts[:, 1] = np.divmod(pairs, self.symbols)
        for place in range(2, length):
            pairs = texts[:, place - 2] * self.symbols + texts[:, place - 1]
            drawn = np.searchsorted(self._thresholds, pairs + rng.random(count), side="right")
            texts[:, place] = np.minimum(drawn - pairs * self.symbols, self.symbols - 1)  # the sum may round to 1
        return texts[:, :length] + 1


def _stationary(table: Floats) -> Floats:
    """The long-run shares of pairs of symbols, float64[S, S]."""
    pairs = np.full(table.shape[:2], 1 / table.shape[0] ** 2)
    for _ in range(10_000):
        new = np.einsum("ij,ijk->jk", pairs, table)
        new = (new + pairs) / 2  # also where the chain has a period
        if np.abs(new - pairs).max() < 1e-14:
            break
        pairs = new
    return new / new.sum()
