"""Class weights as a table: one weight for each cell (language, label), from the counts alone.

Every scheme returns w[L, C] with mean 1 over the data (sum of counts * w = number of rows), so that a weighted loss
keeps the scale of the plain one. `per_language` is the scheme of arXiv 2402.13016; the loss that uses the table is
`hf_langimb.training.losses.weighted_cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_langimb.counts.own_weights import Table, on_axes

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MISSING_CELL_POLICIES = ("error", "ignore", "smooth")
OWN, GROUP_DRO = "own", "group_dro"  # weights that the user gives, and those that follow the losses in training
BETA = 0.999


def cell_weights(
    distribution: JointDistribution,
    scheme: str | Table,
    *,
    missing_cell_policy: str = "error",
    smoothing: float = 1.0,
    exponent: float = 1.0,
    clip: float | None = None,
    beta: float = BETA,
) -> Floats:
    """Class weights of a joint distribution of language and label.

    With n_cl = rows of label c in language l (n_l, n_c and N its sums, L and C the sizes of the table):

    | scheme         | w_cl                  | effect on the weighted data                                      |
    |----------------|-----------------------|------------------------------------------------------------------|
    | `none`         | 1                     | unchanged                                                        |
    | `class`        | N / (C n_c)           | labels uniform over all data; language and label still linked    |
    | `per_language` | n_l / (C n_cl)        | labels uniform in each language (arXiv 2402.13016, section 3)    |
    | `independence` | n_l n_c / (N n_cl)    | language and label independent, both marginals kept              |
    | `joint`        | N / (L C n_cl)        | every cell the same weight in total                              |

    `effective_number` (Cui et al. 2019) is proportional to (1 - beta) / (1 - beta^n_cl): from no weights (beta = 0) to
    those of `joint` (beta near 1).

    Args:
        distribution: counts on the axes languages x labels.
        scheme: a name of the above, or own weights {language: {label: weight}} of every cell, which are scaled to mean
            1; labels that are not strings are written as such.
        missing_cell_policy: what to do where a formula divides by an empty cell. `error` raises and lists the cells;
            `ignore` spreads the language's weight over the labels that have rows and gives the empty cell weight 0;
            `smooth` adds `smoothing` rows to every cell first and then restores each language's mean weight.
        smoothing: rows added to each cell under `smooth` (> 0).
        exponent: of the weights, 0 or more; 1/2 takes their square roots. Each language keeps its mean weight.
        clip: largest weight. Larger ones become `clip`, and the other weights of the language grow by one factor that
            keeps its mean.
        beta: of `effective_number`, from 0 to below 1.

    Returns:
        float64[L, C], mean 1 over the rows of `distribution`.

    Raises:
        ValueError: unknown scheme or policy, no rows at all, empty cells under `error`, own weights of other languages
            or labels, a number out of its range, or a `clip` that is not larger than the mean weight of each language.
    """
    counts = distribution.counts.astype(np.float64)
    own = on_axes(scheme, distribution) if isinstance(scheme, Mapping) else None
    schemes, policies = ", ".join(WEIGHTING_SCHEMES), ", ".join(MISSING_CELL_POLICIES)
    policy, bad_smoothing = missing_cell_policy, missing_cell_policy == "smooth" and not 0 < smoothing < np.inf
    bad_scheme, bad_clip = own is None and scheme not in WEIGHTING_SCHEMES, clip is not None and not 0 < clip < np.inf
    refused = (
        (bad_scheme, f"Unknown class weighting {scheme!r}: choose one of {schemes}."),
        (policy not in MISSING_CELL_POLICIES, f"Unknown missing_cell_policy {policy!r}: choose one of {policies}."),
        (counts.sum() == 0, "Class weights need at least one row, got a distribution without rows."),
        (bad_smoothing, f"smoothing must be a number above 0 (rows added to each cell), got {smoothing}."),
        (not 0 <= exponent < np.inf, f"exponent must be 0 or more (1 leaves the weights as they are), got {exponent}."),
        (bad_clip, f"clip must be a number above 0 (the largest weight), got {clip}."),
        (not 0 <= beta < 1, f"beta must be from 0 to below 1, got {beta}."),
    )
    if problems := [problem for wrong, problem in refused if wrong]:
        raise ValueError(problems[0])

    def formula(rows: Floats) -> Floats:
        """The weights for counts; not finite where they are undefined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if own is not None:
                return np.asarray(own * rows.sum() / (rows * own).sum(), dtype=np.float64)
            return WEIGHTING_SCHEMES[str(scheme)](rows, beta)

    weights = formula(counts)
    undefined = ~np.isfinite(weights)
    if missing_cell_policy == "error" and undefined.any():
        empty = np.argwhere(undefined).tolist()
        cells = ", ".join(f"({distribution.languages[i]}, {distribution.labels[j]})" for i, j in empty)
        raise ValueError(
            f"Class weighting {scheme!r} cannot weight cells without rows: {cells}. "
            "Collect rows for them, or choose missing_cell_policy 'ignore' or 'smooth'."
        )
    ignored = np.where(counts > 0, weights, 0.0)
    if missing_cell_policy == "smooth":
        weights = _with_means_of(ignored, formula(counts + smoothing), counts)
    elif missing_cell_policy == "ignore":
        weights = ignored
    if exponent != 1:
        used = np.where((counts > 0) | (counts.sum(axis=1, keepdims=True) == 0), weights, 0.0)
        largest = used.max(axis=1, keepdims=True)
        logs = np.log(np.divide(weights, largest, out=np.ones_like(weights), where=weights * largest > 0))
        weights = _with_means_of(weights, np.where(weights > 0, np.exp(np.minimum(exponent * logs, 300)), 0), counts)
    return weights if clip is None else _clipped(weights, counts, clip, distribution.languages)


def _with_means_of(before: Floats, weights: Floats, counts: Floats) -> Floats:
    """Weights multiplied by one factor for each language, so that it has the mean weight that it had before."""
    total, target = _sums(counts * weights), _sums(counts * before)
    return weights * np.divide(target, total, out=np.ones_like(total), where=total > 0)


def language_means(weights: Floats, counts: npt.NDArray[Any]) -> Floats:
    """The mean weight of the rows of each language, float64[L]; 0 where it has none."""
    return np.asarray((counts * weights).sum(axis=1) / np.maximum(counts.sum(axis=1), 1), dtype=np.float64)


def _clipped(weights: Floats, counts: Floats, clip: float, languages: tuple[str, ...]) -> Floats:
    """min(s_l w, clip), with a factor s_l of each language that keeps its mean weight."""
    result, means = weights.copy(), language_means(weights, counts)
    for i in np.flatnonzero((weights * (counts > 0) > clip).any(axis=1)):
        if clip <= means[i]:
            raise ValueError(
                "weight_clip must be above the mean weight of every language; that of "
                f"{languages[i]} is {means[i]:.3g}."
            )
        result[i] = limited(weights[i], counts[i], clip)
    return result


def limited(weights: Floats, counts: npt.NDArray[Any], most: float) -> Floats:
    """min(s w, most), with a factor s that keeps the mean weight, which must be below `most`: float64[C]."""
    mean, cut = (counts * weights).sum() / counts.sum(), np.zeros(len(counts), dtype=bool)
    while True:  # each round cuts the weights that the factor has raised above the limit
        factor = (mean * counts.sum() - most * counts[cut].sum()) / (counts * weights)[~cut].sum()
        more = ~cut & (counts > 0) & (factor * weights > most)
        if not more.any():
            break
        cut |= more
    return np.asarray(np.where(cut, most, np.minimum(factor * weights, most)), dtype=np.float64)


def effective_ratio(counts: npt.NDArray[Any], weights: Floats) -> float:
    """Kish's effective sample size of weighted rows as a share of the N rows: (sum w)^2 / (N sum w^2)."""
    return float((counts * weights).sum() ** 2 / (counts.sum() * (counts * weights**2).sum()))


def _sums(table: npt.NDArray[Any]) -> Floats:
    """The sum over labels for each language, float64[L, 1]."""
    return np.asarray(table.sum(axis=1, keepdims=True), dtype=np.float64)


def _effective_number(n: Floats, beta: float) -> Floats:
    """Weights by the effective number of rows of each cell, (1 - beta^n) / (1 - beta)."""
    weights: Floats = (1 - beta) / -np.expm1(n * np.log(beta)) if beta else np.ones_like(n)
    scale: float = n.sum() / (n * weights)[n > 0].sum()
    return weights * scale


# The formulas of `cell_weights` for counts n[L, C] and `beta`. Where they divide by C, it is the labels *present* in a
# language, which without empty cells are all of them.
WEIGHTING_SCHEMES: dict[str, Callable[[Floats, float], Floats]] = {
    "none": lambda n, _: np.ones_like(n),
    "class": lambda n, _: np.ones_like(n) * n.sum() / ((n.sum(axis=0) > 0).sum() * n.sum(axis=0)),
    "per_language": lambda n, _: _sums(n) / (_sums(n > 0) * n),
    "independence": lambda n, _: _sums(n) * n.sum(axis=0) / (_sums((n > 0) * n.sum(axis=0)) * n),
    "joint": lambda n, _: n.sum() / ((_sums(n) > 0).sum() * _sums(n > 0) * n),
    "effective_number": _effective_number,
}
