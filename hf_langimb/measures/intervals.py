"""Intervals of a measure: bootstrap over rows, jackknife and Student's t over seeds or repetitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVELS = (0.025, 0.975)  # of a 95% interval
SMALLEST = 1e-9  # noncentrality that is 0
TOGETHER = 64  # resamples that are counted at once


def student(count: int, level: float = 0.95) -> float:
    """Half the width of a two-sided t interval in standard errors, for `count` values."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + level) / 2))


def percentile_interval(resampled: Floats) -> Floats:
    """95% interval [2, ...] from values of bootstrap resamples [R, ...]; NaN where no resample has a value."""
    bounds = np.full((2, *resampled.shape[1:]), np.nan)
    known = np.isfinite(resampled).any(axis=0)  # a language with one row is missing from some resamples
    values = resampled[:, known]
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile  # the first is much slower
    bounds[:, known] = quantile(values, LEVELS, axis=0)
    return bounds


def basic_interval(value: Floats, resampled: Floats) -> Floats:
    """95% basic bootstrap interval [2, ...] of a measure [...]: its percentile interval, mirrored at the measure.

    For measures that are biased upward and more so in every resample, such as mutual information: the mirror corrects
    the bias.
    """
    low, high = percentile_interval(resampled)
    return np.stack([2 * value - high, 2 * value - low])


def information_interval(value: float, resampled: Floats, bias: float | None = None) -> Floats:
    """95% interval [2] of a mutual information, from its plug-in value and that of bootstrap resamples [R].

    Plug-in information follows about a scaled noncentral chi^2, whose scale and degrees of freedom follow from its
    bias and the variance of the resamples. Inverting it gives right intervals near 0 too, where basic ones are too
    short, and whatever the number of cells.

    Args:
        value: plug-in.
        resampled: of resampled rows.
        bias: of the value if there is no information, its chance level; None takes that of the resamples, which is too
            small where cells have few rows.
    """
    from scipy.special import chndtrinc

    variance = float(resampled.var())
    bias = float(resampled.mean()) - value if bias is None else bias
    if variance <= 1e-18:
        return np.array([value, value])
    if bias <= 0 or value > 10 * np.sqrt(variance):  # about normal
        return basic_interval(np.array(value), resampled)
    scale = variance / (2 * bias + 4 * max(value, 0))
    found = [chndtrinc(max(value, 0) / scale, bias / scale, level) for level in reversed(LEVELS)]
    return np.asarray(scale * np.where(np.array(found) > SMALLEST, found, 0))  # NaN: even 0 is unlikely to be as small


def resampled_cells(
    places: NDArray[np.int64], size: int, groups: NDArray[np.int64] | None, resamples: int, seed: int
) -> NDArray[np.int64]:
    """Counts of bootstrap resamples, int64[resamples, size], of rows that are counted at `places`.

    `groups` numbers what is resampled together. Two models on the same rows get the same resamples from one seed if
    the rows have groups.
    """
    from scipy.sparse import csr_array

    rng, count = np.random.default_rng(seed), len(places)
    if groups is None:
        return np.asarray(rng.multinomial(count, np.bincount(places, minlength=size) / count, size=resamples))
    number = int(groups.max()) + 1
    of_group = csr_array((np.ones(count, dtype=np.int64), (groups, places)), shape=(number, size))
    counted = np.empty((resamples, size), dtype=np.int64)
    for part in np.array_split(counted, -(-resamples // TOGETHER)):  # views
        copies = [np.bincount(rng.integers(0, number, number), minlength=number) for _ in part]
        part[:] = (of_group.T @ np.stack(copies, axis=1)).T
    return counted


def bootstrap_mean(rows: Floats, resamples: int, seed: int) -> Floats:
    """95% percentile interval [2, ...] of the mean over rows [N, ...]."""
    rng = np.random.default_rng(seed)
    number = len(rows)
    flat = rows.reshape(number, -1)
    copies = (rng.multinomial(number, np.full(number, 1 / number)) for _ in range(resamples))
    means = np.stack([times @ flat / number for times in copies])
    return percentile_interval(means.reshape(resamples, *rows.shape[1:]))


def jackknife_interval(mean: Floats, left_out: Floats) -> Floats:
    """95% t interval [2, ...] of a mean [...] from its values without each of n seeds [n, ...]."""
    count = len(left_out)
    error = np.sqrt((count - 1) / count * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    half = student(count) * error
    return np.stack([mean - half, mean + half])
