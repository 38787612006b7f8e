"""Class weights as a table: one weight for each cell (language, label), from the counts alone.

Every scheme returns w[L, C] with mean 1 over the data (sum of counts * w = number of rows), so that a weighted loss
keeps the scale of the plain one. `per_language` is the scheme of arXiv 2402.13016; the loss that uses the table is
`hf_langimb.training.losses.weighted_cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MISSING_CELL_POLICIES = ("error", "ignore", "smooth")


def cell_weights(
    distribution: JointDistribution,
    scheme: str,
    *,
    missing_cell_policy: str = "error",
    smoothing: float = 1.0,
    clip: float | None = None,
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

    Args:
        distribution: counts on the axes languages x labels.
        scheme: a name of the table above.
        missing_cell_policy: what to do where a formula divides by an empty cell. `error` raises and lists the cells;
            `ignore` spreads the language's weight over the labels that have rows and gives the empty cell weight 0;
            `smooth` adds `smoothing` rows to every cell first and then restores each language's mean weight.
        smoothing: rows added to each cell under `smooth` (> 0).
        clip: largest weight. Larger ones become `clip`, and the other weights of the language grow by one factor that
            keeps its mean.

    Returns:
        float64[L, C], mean 1 over the rows of `distribution`.

    Raises:
        ValueError: unknown scheme or policy, no rows at all, empty cells under `error`, or a `clip` that is not larger
            than the mean weight of each language.
    """
    counts = distribution.counts.astype(np.float64)
    schemes, policies = ", ".join(WEIGHTING_SCHEMES), ", ".join(MISSING_CELL_POLICIES)
    policy, bad_smoothing = missing_cell_policy, missing_cell_policy == "smooth" and not 0 < smoothing < np.inf
    bad_clip = clip is not None and not 0 < clip < np.inf
    refused = (
        (scheme not in WEIGHTING_SCHEMES, f"Unknown class weighting {scheme!r}: choose one of {schemes}."),
        (policy not in MISSING_CELL_POLICIES, f"Unknown missing_cell_policy {policy!r}: choose one of {policies}."),
        (counts.sum() == 0, "Class weights need at least one row, got a distribution without rows."),
        (bad_smoothing, f"smoothing must be a number above 0 (rows added to each cell), got {smoothing}."),
        (bad_clip, f"clip must be a number above 0 (the largest weight), got {clip}."),
    )
    if problems := [problem for wrong, problem in refused if wrong]:
        raise ValueError(problems[0])
    formula = WEIGHTING_SCHEMES[scheme]
    with np.errstate(divide="ignore", invalid="ignore"):
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
        weights = formula(counts + smoothing)
        total, target = _sums(counts * weights), _sums(counts * ignored)  # of each language
        weights = weights * np.divide(target, total, out=np.ones_like(total), where=total > 0)
    elif missing_cell_policy == "ignore":
        weights = ignored
    return weights if clip is None else _clipped(weights, counts, clip, distribution.languages)


def language_means(weights: Floats, counts: npt.NDArray[Any]) -> Floats:
    """The mean weight of the rows of each language, float64[L]; 0 where it has none."""
    return np.asarray((counts * weights).sum(axis=1) / np.maximum(counts.sum(axis=1), 1), dtype=np.float64)


def _clipped(weights: Floats, counts: Floats, clip: float, languages: tuple[str, ...]) -> Floats:
    """min(s_l w, clip), with a factor s_l of each language that keeps its mean weight."""
    result, means = weights.copy(), language_means(weights, counts)
    for i in np.flatnonzero((weights * (counts > 0) > clip).any(axis=1)):
        rows, mean = counts[i], float(means[i])
        if clip <= mean:
            raise ValueError(
                f"weight_clip must be above the mean weight of every language; that of {languages[i]} is {mean:.3g}."
            )
        cut = np.zeros(len(rows), dtype=bool)
        while True:  # each round cuts the weights that the factor has raised above the limit
            factor = (mean * rows.sum() - clip * rows[cut].sum()) / (rows * weights[i])[~cut].sum()
            more = ~cut & (rows > 0) & (factor * weights[i] > clip)
            if not more.any():
                break
            cut |= more
        result[i] = np.where(cut, clip, np.minimum(factor * weights[i], clip))
    return result


def effective_ratio(counts: npt.NDArray[Any], weights: Floats) -> float:
    """Kish's effective sample size of weighted rows as a share of the N rows: (sum w)^2 / (N sum w^2)."""
    return float((counts * weights).sum() ** 2 / (counts.sum() * (counts * weights**2).sum()))


def _sums(table: npt.NDArray[Any]) -> Floats:
    """The sum over labels for each language, float64[L, 1]."""
    return np.asarray(table.sum(axis=1, keepdims=True), dtype=np.float64)


# The formulas of `cell_weights` for counts n[L, C]. Where they divide by C, it is the labels *present* in a language,
# which without empty cells are all of them.
WEIGHTING_SCHEMES: dict[str, Callable[[Floats], Floats]] = {
    "none": np.ones_like,
    "class": lambda n: np.ones_like(n) * n.sum() / ((n.sum(axis=0) > 0).sum() * n.sum(axis=0)),
    "per_language": lambda n: _sums(n) / (_sums(n > 0) * n),
    "independence": lambda n: _sums(n) * n.sum(axis=0) / (_sums((n > 0) * n.sum(axis=0)) * n),
    "joint": lambda n: n.sum() / ((_sums(n) > 0).sum() * _sums(n > 0) * n),
}
