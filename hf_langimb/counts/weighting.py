"""Class weights as a table: one weight for each cell (language, label), from the counts alone.

Every scheme returns w[L, C] with mean 1 over the data (sum of counts * w = number of rows), so that a weighted loss
keeps the scale of the plain one. `per_language` is the scheme of arXiv 2402.13016; the loss that uses the table is
`hf_langimb.training.losses.weighted_cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

MISSING_CELL_POLICIES = ("error", "ignore", "smooth")


class Counted(Protocol):
    """Counts on the axes languages x labels, such as a `JointDistribution`."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the rows."""

    @property
    def labels(self) -> tuple[Any, ...]:
        """Values of the columns."""

    @property
    def counts(self) -> np.ndarray:
        """int64[L, C]."""


def cell_weights(
    distribution: Counted,
    scheme: str,
    *,
    missing_cell_policy: str = "error",
    smoothing: float = 1.0,
) -> np.ndarray:
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
        missing_cell_policy: what to do where a formula divides by an empty cell. `error` refuses and lists the cells;
            `ignore` spreads the language's weight over the labels that it has and gives the empty cell weight 0;
            `smooth` adds `smoothing` rows to every cell first and then restores each language's mean weight.
        smoothing: rows added to each cell under `smooth` (> 0).

    Returns:
        float64[L, C], mean 1 over the rows of `distribution`.

    Raises:
        ValueError: unknown scheme or policy, no rows at all, or empty cells under `error`.
    """
    if scheme not in WEIGHTING_SCHEMES:
        raise ValueError(f"Unknown class weighting {scheme!r}: choose one of {', '.join(WEIGHTING_SCHEMES)}.")
    if missing_cell_policy not in MISSING_CELL_POLICIES:
        raise ValueError(
            f"Unknown missing_cell_policy {missing_cell_policy!r}: choose one of {', '.join(MISSING_CELL_POLICIES)}."
        )
    counts = distribution.counts.astype(np.float64)
    if counts.sum() == 0:
        raise ValueError("Class weights need at least one row; the distribution has none.")
    formula = WEIGHTING_SCHEMES[scheme]
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = formula(counts)
    undefined = ~np.isfinite(weights)
    if missing_cell_policy == "error" and undefined.any():
        cells = ", ".join(
            f"({distribution.languages[i]}, {distribution.labels[j]})" for i, j in np.argwhere(undefined).tolist()
        )
        raise ValueError(
            f"Class weighting {scheme!r} cannot weight cells without rows into existence: {cells}. "
            "Collect rows for them, or choose missing_cell_policy 'ignore' or 'smooth'."
        )
    if missing_cell_policy == "smooth":
        if not 0 < smoothing < np.inf:
            raise ValueError(f"smoothing must be a number above 0 (rows added to each cell), found {smoothing}.")
        return _restore_language_means(formula(counts + smoothing), counts, np.where(counts > 0, weights, 0.0))
    return np.where(counts > 0, weights, 0.0) if missing_cell_policy == "ignore" else weights


def _restore_language_means(weights: np.ndarray, counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rescale each language's row of `weights` to the mean weight over its data that `reference` gives it."""
    total = (counts * weights).sum(axis=1, keepdims=True)
    target = (counts * reference).sum(axis=1, keepdims=True)
    return weights * np.divide(target, total, out=np.ones_like(total), where=total > 0)


# Formulas divide by the labels *present* in a language, which without empty cells are all C of them.
def _none(counts: np.ndarray) -> np.ndarray:
    return np.ones_like(counts)


def _class(counts: np.ndarray) -> np.ndarray:
    per_label = counts.sum(axis=0)
    return np.broadcast_to(counts.sum() / ((per_label > 0).sum() * per_label), counts.shape).copy()


def _per_language(counts: np.ndarray) -> np.ndarray:
    present = (counts > 0).sum(axis=1, keepdims=True)
    return counts.sum(axis=1, keepdims=True) / (present * counts)


def _independence(counts: np.ndarray) -> np.ndarray:
    per_label = counts.sum(axis=0)
    present_rows = ((counts > 0) * per_label).sum(axis=1, keepdims=True)
    return counts.sum(axis=1, keepdims=True) * per_label / (present_rows * counts)


def _joint(counts: np.ndarray) -> np.ndarray:
    present = (counts > 0).sum(axis=1, keepdims=True)
    return counts.sum() / ((present > 0).sum() * present * counts)


WEIGHTING_SCHEMES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": _none,
    "class": _class,
    "per_language": _per_language,
    "independence": _independence,
    "joint": _joint,
}
