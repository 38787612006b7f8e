"""Measures of predictions on test rows that are weighted to a target joint of language and label.

On a test set that is skewed itself, the predictions of a perfect classifier depend on language too. Weighted to the
target `independent`, in which language says nothing about the label, they do not. All functions take confusion counts
[..., L, C, C]: language, true label, predicted label; leading axes are resamples, each with weights of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_langimb.measures.intervals import Floats

TARGETS = ("natural", "independent", "uniform")
REVERSED = "reversed"  # a test that is skewed the other way
SAME = 1e-12  # information that is rounding, in bits


def row_weights(counts: NDArray[Any], target: str, skewed: Floats | None = None) -> Floats:
    """Weight of a row of each cell, [..., L, C], so that the rows have the target's joint; their sum is N.

    Args:
        counts: test rows of each cell, [..., L, C]. A cell without rows has weight 0 and is not part of the target.
        target: `natural` (the test set as it is), `independent` (n_l n_c / N^2: language tells nothing about the
            label, both marginals stay), `uniform` (every cell the same) or `reversed` (of independence, a cell gets a
            k-th where it has k times as many in `skewed`: what was frequent is rare).
        skewed: of the training data, [L, C], for `reversed`; None takes `counts`.
    """
    counts = np.asarray(counts, dtype=np.float64)
    rows = counts.sum(axis=(-2, -1), keepdims=True)
    independent = counts.sum(axis=-1, keepdims=True) * counts.sum(axis=-2, keepdims=True)
    if target == "natural":
        joint = counts
    elif target == "independent":
        joint = independent
    elif target == REVERSED:
        joint = independent * _opposite(counts if skewed is None else skewed)
    else:
        joint = np.ones_like(counts)
    weights = np.divide(joint, counts, out=np.zeros_like(counts), where=counts > 0)
    return np.asarray(weights * rows / (weights * counts).sum(axis=(-2, -1), keepdims=True))


def _opposite(joint: NDArray[Any]) -> Floats:
    """Independence divided by a joint, [..., L, C]; its largest value where a cell is empty, 1 in other languages."""
    of_language, of_label = joint.sum(axis=-1, keepdims=True), joint.sum(axis=-2, keepdims=True)
    expected = of_language * of_label / joint.sum(axis=(-2, -1), keepdims=True)
    ratio = np.divide(expected, joint, out=np.zeros(joint.shape), where=joint > 0)
    largest = ratio.max(axis=(-2, -1), keepdims=True)
    return np.asarray(np.where(joint > 0, ratio, np.where(expected > 0, largest, 1.0)))


def weighted(cells: NDArray[Any], target: str, skewed: Floats | None = None) -> Floats:
    """Confusion counts [..., L, C, C] whose rows are weighted to a target; their sum stays N."""
    return np.asarray(cells * row_weights(cells.sum(axis=-1), target, skewed)[..., None])


def information(table: NDArray[Any]) -> Floats:
    """Mutual information of the last two axes of tables [..., L, C], in bits; 0 where a table is empty."""
    total = table.sum(axis=(-2, -1), keepdims=True)
    shares = np.divide(table, total, out=np.zeros(table.shape), where=total > 0)
    expected = shares.sum(axis=-1, keepdims=True) * shares.sum(axis=-2, keepdims=True)
    surprise = np.log2(np.divide(shares, expected, out=np.ones_like(shares), where=shares > 0))
    bits = (shares * surprise).sum(axis=(-2, -1))
    return np.asarray(np.where(bits > SAME, bits, 0.0))


def blind(cells: NDArray[Any]) -> Floats:
    """The confusion counts [..., L, C, C] that predictions give on average if they know the label, not the language."""
    of_label = cells.sum(axis=-3, keepdims=True)
    shares = of_label / np.maximum(of_label.sum(axis=-1, keepdims=True), 1)
    return np.asarray(cells.sum(axis=-1, keepdims=True) * shares)


def excess(cells: NDArray[Any], target: str) -> Floats:
    """MI(prediction; language) under a target, less that of `blind` predictions, [...], in bits.

    The latter is 0 under `independent` and `uniform`, unless a cell has no rows: then labels depend on language in
    any weighting, and so do the predictions of a perfect classifier.
    """
    weights = row_weights(cells.sum(axis=-1), target)[..., None]
    return information((cells * weights).sum(axis=-2)) - information((blind(cells) * weights).sum(axis=-2))


class Transfer(NamedTuple):
    """How far the predicted shares of languages follow those of the training plan: slope and correlation, [...]."""

    slope: Floats
    alignment: Floats


def complete(counts: NDArray[Any], plan: Floats, target: str) -> NDArray[np.bool_]:
    """The languages, bool[L], of plan and test set; except under `natural`, only those with test rows of each label."""
    labels = counts.any(axis=0) & plan.any(axis=0)  # one that training did not have is not asked for
    present = counts.any(axis=1) if target == "natural" else (counts[:, labels] > 0).all(axis=1)
    return np.asarray(present & (plan.sum(axis=1) > 0))


def transfer(table: Floats, plan: Floats) -> Transfer:
    """Skew transfer and its alignment.

    Within each label the shares of the languages are centered; languages count by their weight in the test set.

    Args:
        table: weighted rows by language and prediction, [..., L, C].
        plan: shares of the labels within each language, [..., L, C].

    Returns:
        Slope: 1 where predictions copy the plan's skew, 0 where they ignore it, NaN where the plan has none. Alignment:
        correlation with the plan's skew, from -1 to 1, NaN also where predictions do not differ between languages.
    """
    rows = table.sum(axis=-1, keepdims=True)
    shares = np.divide(table, rows, out=np.zeros(table.shape), where=rows > 0)
    total = rows.sum(axis=-2, keepdims=True)
    mass = np.divide(rows, total, out=np.zeros(rows.shape), where=total > 0)

    def centered(values: Floats) -> Floats:
        """Less the mean over languages."""
        return np.asarray(values - (mass * values).sum(axis=-2, keepdims=True))

    ours, planned = centered(shares), centered(plan)
    common, of_plan, of_ours = (
        (mass * product).sum(axis=(-2, -1)) for product in (ours * planned, planned**2, ours**2)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(of_plan > SAME, common / of_plan, np.nan)
        alignment = np.where((of_plan > SAME) & (of_ours > SAME), common / np.sqrt(of_plan * of_ours), np.nan)
    return Transfer(slope, alignment)
