"""How many tokens a monolingual model needs for a perplexity: scaling law, its fit, and token efficiency.

The law is 1/PPL = c - a * (tokens / total)**-b (arXiv 2404.07982), with the tokens of the longest run as `total`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Law = tuple[float, float, float]  # a, b, c
PAPER = {"english": (0.0386839, 0.2072533, 0.0840653), "french": (0.0568635, 0.1932752, 0.1191904)}  # small model


def equivalent_tokens(perplexity: float, *, law: Law, total: float) -> float | None:
    """Tokens that a monolingual model needs for a perplexity, by the law; None if no number of tokens is enough.

    Raises:
        ValueError: a perplexity below 1, or a `total` that is not above 0.
    """
    if not (perplexity >= 1 and total > 0):
        raise ValueError(f"Expected a perplexity of 1 or more and a total above 0, got {perplexity} and {total}.")
    a, b, c = law
    gap = c - 1 / perplexity
    return float(total * (gap / a) ** (-1 / b)) if gap > 0 else None


def token_efficiency(perplexity: float, tokens: float, *, law: Law, total: float) -> float | None:
    """Tokens that a monolingual model needs for a perplexity, divided by the tokens of that language in the training.

    Above 1, other languages have helped. None if no number of tokens is enough, or the training had none.

    Args:
        perplexity: in this language.
        tokens: of this language in the training.
        law: (a, b, c) of monolingual models.
        total: unit of the law's tokens: those of its longest run.
    """
    found = equivalent_tokens(perplexity, law=law, total=total)
    return None if found is None or tokens <= 0 else found / tokens


@dataclass(frozen=True)
class FittedLaw:
    """A law fitted to monolingual models."""

    law: Law
    total: float
    residuals: tuple[float, ...]  # ln PPL of each model minus that of the law
    largest: float  # largest and smallest perplexity that it was fitted to
    smallest: float

    def extrapolates(self, perplexity: float) -> bool:
        """Whether a perplexity is outside the range of the models."""
        return not self.smallest <= perplexity <= self.largest


def fit_law(tokens: Sequence[float], perplexities: Sequence[float], *, total: float | None = None) -> FittedLaw:
    """Fit the law to monolingual models, by least squares of 1/PPL.

    Args:
        tokens: of each model; three or more different numbers.
        perplexities: of each model.
        total: unit of the law's tokens; None takes the largest of `tokens`.

    Raises:
        ValueError: fewer than three different numbers of tokens, or lists of different lengths.
    """
    from scipy.optimize import curve_fit

    x, y = np.asarray(tokens, dtype=np.float64), 1 / np.asarray(perplexities, dtype=np.float64)
    if len(np.unique(x)) < 3 or len(x) != len(y):
        raise ValueError(f"A law needs three different numbers of tokens, each with a perplexity, got {x.tolist()}.")
    total = float(x.max()) if total is None else total
    low, start = (0, 1e-3, 0), (max(y.max() - y.min(), 1e-6), 0.3, y.max() * 1.2)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three points leave no covariance
        found, _ = curve_fit(_inverse, x / total, y, p0=start, bounds=(low, (np.inf, 10, 1)), maxfev=20_000)
    law: Law = (float(found[0]), float(found[1]), float(found[2]))
    residuals = np.log(_inverse(x / total, *law) / y)
    return FittedLaw(law, total, tuple(residuals.tolist()), float((1 / y).max()), float((1 / y).min()))


def _inverse(x: Any, a: float, b: float, c: float) -> Any:
    """1/PPL of a share of the tokens."""
    return np.maximum(c - a * x**-b, 1e-9)


def interpolated_tokens(perplexity: float, tokens: Sequence[float], perplexities: Sequence[float]) -> float | None:
    """Tokens that a monolingual model needs for a perplexity, by a monotone curve through several models.

    For curves that the law does not fit; None outside the range of the models.

    Args:
        perplexity: to be reached.
        tokens: of each model.
        perplexities: of each model; where more tokens gave a larger one, the best so far counts.
    """
    from scipy.interpolate import PchipInterpolator

    order = np.argsort(tokens)
    x = np.log(np.asarray(tokens, dtype=np.float64)[order])
    y = np.minimum.accumulate(np.log(np.asarray(perplexities, dtype=np.float64)[order]))
    y, first = np.unique(-y, return_index=True)  # ascending with tokens
    if len(y) < 2 or not y[0] <= -np.log(perplexity) <= y[-1]:
        return None
    return float(np.exp(PchipInterpolator(y, x[first])(-np.log(perplexity))))
