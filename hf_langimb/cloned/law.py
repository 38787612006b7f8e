"""How many tokens a monolingual model needs for a perplexity: scaling law, its fit, and token efficiency.

The law is 1/PPL = c - a * (tokens / total)**-b (arXiv 2404.07982), with the tokens of the longest run as `total`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Law = tuple[float, float, float]  # a, b, c
BOUNDS = ((0.0, np.inf), (1e-3, 10.0), (0.0, 1.0))  # of a, b and c in a fit
EXPONENTS = (0.03, 0.1, 0.3, 1.0, 3.0)  # with which a fit begins
FLAT = 1e-6  # of 1/PPL: a law that says the same for all models


def equivalent_tokens(perplexity: float, *, law: Law, total: float) -> float | None:
    """Tokens that a monolingual model needs for a perplexity, by the law; None if no number of tokens is enough.

    Raises:
        ValueError: a perplexity below 1, a `total` that is not above 0, or parameters of no law.
    """
    a, b, c = law
    if not (perplexity >= 1 and total > 0):
        raise ValueError(f"Expected a perplexity of 1 or more and a total above 0, got {perplexity} and {total}.")
    if not (a > 0 and b > 0 and 0 < c <= 1):
        raise ValueError(f"Expected a law whose a and b are above 0 and whose c is above 0 and at most 1, got {law}.")
    gap = c - 1 / perplexity
    with np.errstate(all="ignore"):
        found = float(total * np.float64(gap / a) ** (-1 / b)) if gap > 0 else math.inf
    return found if math.isfinite(found) else None


def token_efficiency(perplexity: float, tokens: float, *, law: Law, total: float) -> float | None:
    """Tokens that a monolingual model needs for a perplexity, divided by the tokens of that language in the training.

    Above 1, other languages have helped. None if no number of tokens is enough, or the training had none.

    Args:
        perplexity: in this language.
        tokens: of this language in the training.
        law: (a, b, c) of monolingual models.
        total: unit of the law's tokens: those of its longest run.

    Raises:
        ValueError: tokens below 0, or as `equivalent_tokens`.
    """
    found = equivalent_tokens(perplexity, law=law, total=total)
    if not 0 <= tokens < math.inf:
        raise ValueError(f"Expected a number of tokens of 0 or more, got {tokens}.")
    return None if found is None or tokens < 1 else found / tokens


@dataclass(frozen=True)
class FittedLaw:
    """A law fitted to monolingual models."""

    law: Law
    total: float
    residuals: tuple[float, ...]  # ln PPL of each model minus that of the law
    at_bound: bool  # of a parameter, or flat: the curve is no power law, and only the residuals mean something


def fit_law(tokens: Sequence[float], perplexities: Sequence[float], *, total: float | None = None) -> FittedLaw:
    """Fit the law to monolingual models, by least squares of 1/PPL.

    Args:
        tokens: of each model; three or more different numbers.
        perplexities: of each model.
        total: unit of the law's tokens; None takes the largest of `tokens`.

    Raises:
        ValueError: fewer than three different numbers of tokens, or perplexities that no law fits.
    """
    from scipy.optimize import curve_fit

    x, perplexity = _curve(tokens, perplexities)
    y = 1 / perplexity
    if len(np.unique(x)) < 3:
        raise ValueError(f"A law needs three different numbers of tokens or more, got {x.tolist()}.")
    total = float(x.max()) if total is None else total
    fits, shares = [], x / total
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three points leave no covariance
        for b in EXPONENTS:
            slope, c = np.polyfit(shares**-b, y, 1)  # which are best for this exponent
            start = [
                np.clip(value, low + 1e-9, high) for value, (low, high) in zip((-slope, b, c), BOUNDS, strict=True)
            ]
            with suppress(RuntimeError):
                found, _ = curve_fit(_inverse, shares, y, p0=start, bounds=[*zip(*BOUNDS, strict=True)], maxfev=20_000)
                fits.append((float(((_inverse(shares, *found) - y) ** 2).sum()), *map(float, found)))
    _, a, b, c = min(fits, default=(0.0, 0.0, 1.0, 0.0))
    inverse = _inverse(shares, a, b, c)
    if not (inverse > 0).all():
        raise ValueError(f"No law fits perplexities of {perplexity.tolist()} at {x.tolist()} tokens.")
    near = [np.isclose(value, bounds, rtol=0.05).any() for value, bounds in zip((b, c), BOUNDS[1:], strict=True)]
    return FittedLaw((a, b, c), total, tuple(np.log(inverse / y).tolist()), bool(any(near) or np.ptp(inverse) < FLAT))


def _curve(tokens: Sequence[float], perplexities: Sequence[float]) -> tuple[Floats, Floats]:
    """Tokens and perplexities of models, checked: float64[N] each."""
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(perplexities, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not (np.isfinite(x) & (x > 0) & np.isfinite(y) & (y >= 1)).all():
        raise ValueError(
            "Expected as many perplexities of 1 or more as numbers of tokens above 0, got "
            f"{y.tolist()} and {x.tolist()}."
        )
    return x, y


def _inverse(x: Any, a: float, b: float, c: float) -> Any:
    """1/PPL of a share of the tokens."""
    return c - a * x**-b


def interpolated_tokens(perplexity: float, tokens: Sequence[float], perplexities: Sequence[float]) -> float | None:
    """Tokens that a monolingual model needs for a perplexity, by a monotone curve through several models.

    For curves that the law does not fit; None outside the range of the models.

    Args:
        perplexity: to be reached.
        tokens: of each model.
        perplexities: of each model; where more tokens gave a larger one, the best so far counts.
    """
    from scipy.interpolate import PchipInterpolator

    x, y = map(np.log, _curve(tokens, perplexities))
    order = np.argsort(x)
    x, y = x[order], np.minimum.accumulate(y[order])
    y, first = np.unique(-y, return_index=True)  # ascending with tokens
    if len(y) < 2 or not y[0] <= -np.log(perplexity) <= y[-1]:
        return None
    return float(np.exp(PchipInterpolator(y, x[first])(-np.log(perplexity))))
