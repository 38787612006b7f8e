"""Intervals of a measure: percentile bootstrap over rows, jackknife and Student's t over seeds or repetitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVELS = (0.025, 0.975)  # of a 95 % interval


def student(count: int, level: float = 0.95) -> float:
    """Half the width of a two-sided t interval in standard errors, for `count` values."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + level) / 2))


def percentile_interval(resampled: Floats) -> Floats:
    """95 % interval [2, ...] from values of bootstrap resamples [R, ...]; NaN where no resample has a value."""
    bounds = np.full((2, *resampled.shape[1:]), np.nan)
    known = np.isfinite(resampled).any(axis=0)  # a language with one row is missing from some resamples
    values = resampled[:, known]
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile  # the first is much slower
    bounds[:, known] = quantile(values, LEVELS, axis=0)
    return bounds


def bootstrap_mean(rows: Floats, resamples: int, seed: int) -> Floats:
    """95 % percentile interval [2, ...] of the mean over rows [N, ...]."""
    rng = np.random.default_rng(seed)
    number = len(rows)
    flat = rows.reshape(number, -1)
    copies = (rng.multinomial(number, np.full(number, 1 / number)) for _ in range(resamples))
    means = np.stack([times @ flat / number for times in copies])
    return percentile_interval(means.reshape(resamples, *rows.shape[1:]))


def jackknife_interval(mean: Floats, left_out: Floats) -> Floats:
    """95 % t interval [2, ...] of a mean [...] from its values without each of n seeds [n, ...]."""
    count = len(left_out)
    error = np.sqrt((count - 1) / count * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    half = student(count) * error
    return np.stack([mean - half, mean + half])
