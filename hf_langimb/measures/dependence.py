"""METRICS["targets"]: how far predictions depend on language, and follow the training labels, under each target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hf_langimb.counts.audit import holm
from hf_langimb.counts.weighting import effective_ratio
from hf_langimb.measures.chance import Ints, language_tests, null_tables, permutation_p, permutations
from hf_langimb.measures.intervals import (
    Floats,
    basic_interval,
    information_interval,
    percentile_interval,
    resampled_cells,
)
from hf_langimb.measures.predictions import Rows, correctness, encode_rows, plan_shares, reliance_and_transfer
from hf_langimb.measures.targets import (
    TARGETS,
    complete,
    excess,
    information,
    row_weights,
    transfer,
    weighted,
)

DRAWS = 1000  # of the null
SIGNIFICANT, SAME_ORDER = 0.05, 0.95  # p; alignment above which two orders of a plan are nearly the same
SAMPLED = ("accuracy", "bits", "slope")
PARTS = 1 << 21  # cells of resamples that are measured at a time


def target_measures(
    languages: Any,
    labels: Any,
    predictions: Any,
    *,
    plan: Any = None,
    groups: Any = None,
    resamples: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Measures of predictions on test rows weighted to each target (`targets.TARGETS`), JSON-ready.

    Args:
        languages, labels, predictions, plan, groups: as of `evaluate_predictions`.
        resamples: of the bootstrap.
        draws: of the null "predictions know the label, not the language", for the chance level.
        seed: of both.

    Returns:
        For each target: `accuracy`, `macro_f1`; `majority_accuracy`, of always predicting the most frequent label;
        `dependence_bits`, MI(prediction; language), with its chance level (mean and 97.5% quantile);
        `dependence_bits_corrected`, the same minus that mean; `reliance`, `skew_transfer`; `skew_alignment`, the
        correlation of predicted shares with the plan's, and `skew_permutation_p`, of the alignment if the plan's
        languages are permuted (None where it could not be below .05); `left_out`, languages of the plan that lack a
        label in the test rows: skew transfer and reliance leave them out; `effective_sample_size_ratio`; and 95%
        bootstrap intervals over rows or groups. The interval of `dependence_bits` corrects the upward bias: do not
        subtract the chance level from it. If cells have no rows, it is (except under `natural`) an interval of the
        dependence beyond that of predictions that know only the label.

    Raises:
        ValueError: as of `evaluate_predictions`.
    """
    rows = encode_rows(languages, labels, predictions, groups, plan)
    shares, shape = plan_shares(plan, rows.axes), rows.cells.shape
    columns = rows.languages, rows.labels, rows.predictions, rows.groups
    weights = {target: row_weights(rows.cells.sum(axis=-1), target)[..., None] for target in TARGETS}
    chance: dict[str, list[Floats]] = {target: [] for target in TARGETS}
    for tables in null_tables(*columns, shape[:2], draws, seed):
        for target in TARGETS:
            chance[target].append(information((tables * weights[target]).sum(axis=-2)))
    resampled = resampled_cells(rows.places, rows.cells.size, rows.groups, resamples, seed).reshape(-1, *shape)
    return {
        target: _measures(rows, shares, target, np.concatenate(chance[target]), resampled, seed) for target in TARGETS
    }


def language_shifts(
    languages: Any, labels: Any, predictions: Any, *, plan: Any = None, groups: Any = None
) -> dict[str, dict[str, Any]]:
    """How far the predictions of each language are from those that all languages get for the same labels, JSON-ready.

    The arguments are those of `target_measures`.

    Returns:
        For each language with rows: `expected`, the number of rows of each predicted label if the language did not
        matter; `total_variation` of the predicted from the expected shares, shrunk by what chance explains, so that
        small languages do not come first; and `p` (None if the predictions could not differ), adjusted by Holm's
        method over languages.
    """
    rows = encode_rows(languages, labels, predictions, groups, plan)
    columns = rows.languages, rows.labels, rows.predictions, rows.groups
    differences, squares, p = language_tests(*columns, rows.cells.shape[:2])
    predicted, adjusted = rows.cells.sum(axis=1), holm(p)
    found = {}
    for i in np.flatnonzero(predicted.any(axis=1)):
        size = float((differences[i] ** 2).sum())
        real = np.sqrt(max(1 - squares[i] / size, 0)) if size > 0 else 0.0
        found[rows.axes[0][i]] = {
            "expected": (predicted[i] - differences[i]).tolist(),
            "total_variation": float(real * np.abs(differences[i]).sum() / (2 * predicted[i].sum())),
            "p": None if np.isnan(adjusted[i]) else float(adjusted[i]),
        }
    return found


class Sampled(NamedTuple):
    """Measures of one model under a target, by name, and the same of bootstrap resamples [R]."""

    values: dict[str, float]
    resampled: dict[str, Floats]


def sampled(
    languages: Any,
    labels: Any,
    predictions: Any,
    *,
    plan: Any,
    groups: Any,
    target: str = "independent",
    resamples: int = 1000,
    seed: int = 0,
) -> Sampled:
    """`accuracy`, `bits` (dependence beyond what labels explain, not corrected for chance) and `slope` (skew transfer).

    The arguments are those of `target_measures`. For paired
    differences: models on the same rows get the same resamples if `groups` are given. Only differences and
    basic intervals may be taken of `bits`, which are biased upward; NaN where a measure is not defined.
    """
    rows = encode_rows(languages, labels, predictions, groups, plan)
    shares = plan_shares(plan, rows.axes)
    tables = resampled_cells(rows.places, rows.cells.size, rows.groups, resamples, seed)
    parts = _of_resamples(tables.reshape(-1, *rows.cells.shape), shares, rows.cells.sum(axis=-1), target)
    found = dict(zip(SAMPLED, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    points = next(_of_resamples(rows.cells[None], shares, rows.cells.sum(axis=-1), target))
    return Sampled({name: float(value[0]) for name, value in zip(SAMPLED, points, strict=True)}, found)


def _measures(
    rows: Rows, plan: Floats | None, target: str, chance: Floats, resampled: Ints, seed: int
) -> dict[str, Any]:
    """Every measure under one target."""
    cells = rows.cells
    counts, counted = cells.sum(axis=-1), weighted(cells, target)
    right, bits, slopes = (
        np.concatenate(values) for values in zip(*_of_resamples(resampled, plan, counts, target), strict=True)
    )
    value, dependence, by_chance = (
        float(_dependence(cells, target)),
        float(information(counted.sum(axis=1))),
        chance.mean(),
    )
    bias = None if target == "natural" else float(by_chance - (dependence - value))
    intervals = {
        "accuracy": percentile_interval(right).tolist(),
        "dependence_bits": information_interval(value, bits, bias).tolist(),
    }
    measures = {key: correctness(counted, rows.axes[0])[key] for key in ("accuracy", "macro_f1")} | {
        "majority_accuracy": float(counted.sum(axis=(0, 2)).max() / counted.sum()),
        "dependence_bits": dependence,
        "dependence_bits_corrected": float(dependence - by_chance),
        "dependence_chance_bits": float(by_chance),
        "dependence_chance_high_bits": float(np.quantile(chance, 0.975)),
        **reliance_and_transfer(cells, plan, target),
        **alignment(cells, plan, target, seed),
        "effective_sample_size_ratio": effective_ratio(counts, row_weights(counts, target)),
    }
    if plan is not None and target != "natural":
        trained = (plan.sum(axis=1) > 0) & counts.any(axis=1)
        left_out = np.flatnonzero(trained & ~complete(counts, plan, target))
        measures["left_out"] = [rows.axes[0][i] for i in left_out]
    if measures["skew_transfer"] is not None:
        intervals["skew_transfer"] = basic_interval(np.array(measures["skew_transfer"]), slopes).tolist()
    return measures | {"intervals": intervals}


def _of_resamples(
    resampled: Ints, plan: Floats | None, counts: Ints, target: str
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Accuracy, dependence (not corrected for chance) and skew transfer, one part of the resamples at a time."""
    kept = np.zeros(len(counts), dtype=bool) if plan is None else complete(counts, plan, target)
    planned = plan[kept] / plan[kept].sum(axis=1, keepdims=True) if plan is not None and kept.any() else None
    for part in np.array_split(resampled, max(1, resampled.size // PARTS)):
        counted = weighted(part, target)
        right = np.diagonal(counted, axis1=-2, axis2=-1).sum(axis=(-2, -1)) / part.sum(axis=(-3, -2, -1))
        right = np.minimum(right, 1)  # less what is rounded
        slopes = np.full(len(part), np.nan)
        if planned is not None:
            slopes = transfer(counted.sum(axis=-2)[:, kept], planned).slope
        yield right, _dependence(part, target), slopes


def _dependence(cells: Ints, target: str) -> Floats:
    """What the interval of `dependence_bits` is about, [...]."""
    return information(cells.sum(axis=-2)) if target == "natural" else excess(cells, target)


def alignment(cells: Ints, plan: Floats | None, target: str, seed: int) -> dict[str, float | None]:
    """`skew_alignment` of confusion counts with a plan, and its p-value if the plan's languages are permuted.

    The latter is None where even a copy of the plan could not be significant, as most orders are nearly the same: with
    few languages, or if half of six are skewed one way and half the other way.
    """
    found: dict[str, float | None] = {"skew_alignment": None, "skew_permutation_p": None}
    if plan is None:
        return found
    kept = complete(cells.sum(axis=-1), plan, target)
    if kept.sum() > 1:
        table = weighted(cells, target).sum(axis=1)[kept]
        planned = plan[kept] / plan[kept].sum(axis=1, keepdims=True)
        observed = float(transfer(table, planned).alignment)
        if not np.isnan(observed):
            orders = planned[permutations(int(kept.sum()), seed)]
            p = permutation_p(observed, transfer(table, orders).alignment)
            copied = table.sum(axis=1, keepdims=True) * planned
            smallest = permutation_p(SAME_ORDER, transfer(copied, orders).alignment)
            found = {"skew_alignment": observed, "skew_permutation_p": p if smallest < SIGNIFICANT else None}
    return found
