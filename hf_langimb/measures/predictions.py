"""Predictions -> tables: how right, how sure, and how dependent on language (arXiv 2402.13016, Table 2)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hf_langimb.counts.columns import encode_columns
from hf_langimb.counts.distribution import JointDistribution, mutual_information_bits
from hf_langimb.measures.intervals import Floats, percentile_interval, resampled_cells
from hf_langimb.measures.targets import REVERSED, SAME, TARGETS, complete, information, row_weights, transfer, weighted
from hf_langimb.models.axes import IGNORED_LABEL

CONFIDENCE_BINS = 10  # of equal width

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """Rows as positions on the axes of the evaluation; `groups` numbers what is resampled together."""

    axes: tuple[list[str], list[Any]]
    languages: Ints
    labels: Ints
    predictions: Ints
    groups: Ints | None
    cells: Ints  # number of rows [L, true label, predicted label]
    places: Ints  # the flat position of each row in `cells`


def evaluate_predictions(
    languages: Any,
    labels: Any,
    predictions: Any,
    probabilities: Any = None,
    *,
    plan: Any = None,
    target: str = "natural",
    weights: Any = None,
    groups: Any = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Quality of predictions and their dependence on language (METRICS["test"] of results.json).

    Args:
        languages, labels, predictions: one entry per row; labels and predictions have the same type.
        probabilities: float[N, C], columns in the order of the labels axis, for losses and calibration (else null).
        plan: the skewed joint distribution that training followed: a `JointDistribution`, or counts or shares [L, C]
            on the axes of this evaluation. `reliance` and `skew_transfer` compare with it (null without).
        target: the joint of language and label to which rows are weighted in every measure but `predicted` and
            `calibration`: `natural` (as they are), `independent` (the language tells nothing about the label, both
            marginals stay), `uniform` (every cell the same) or `reversed` (frequent cells are rare). Cells without rows
            are left out.
        weights: float[L, C], the class weights of training, for `loss`; None is the plain loss, which is also used
            for languages that training did not have.
        groups: one entry per row, rows of one group are resampled together (translations of one item).
        resamples, seed: of the bootstrap; 0 resamples for no intervals (null).

    Returns:
        A JSON-ready dictionary. `intervals` contains 95% percentile bootstrap intervals [low, high] of the measures
        of correctness, over examples: they do not include the noise of training, which only several seeds show.
        `dependence_bits` is MI(prediction; language), `_corrected` that less its chance level;
        `dependence_given_label_bits` is MI(prediction; language | label); `reliance` is dependence over the plan's own
        MI(label; language); `skew_transfer` is 1 where the predicted shares copy the plan's skew, 0 where they ignore
        it, negative where they over-correct. The last two use the languages of plan and rows, weighted by their rows;
        under other targets than `natural` only those that have all labels, and are null for fewer than two.

    Raises:
        ValueError: no rows, lengths differ, nulls, labels and predictions of two types, or a plan, probabilities or
            weights whose axes do not fit.
    """
    if target not in (*TARGETS, REVERSED):
        raise ValueError(f"Unknown target {target!r}: choose one of {', '.join(TARGETS)}.")
    rows = encode_rows(languages, labels, predictions, groups, plan)
    axis, names = rows.axes
    trained = len(plan.languages) if isinstance(plan, JointDistribution) else len(axis)  # others have the weight 1
    shares = plan_shares(plan, rows.axes)
    skewed = shares if shares is not None and information(shares) > SAME else None
    counted = weighted(rows.cells, target, skewed)
    of_rows = row_weights(rows.cells.sum(axis=2), target, skewed)[rows.languages, rows.labels]
    advice = f"each row has one share for each of the labels {names} and sums to 1 (apply softmax to logits first; "
    advice += "labels that no row has need a plan with axes, a JointDistribution)"
    probabilities = _table("probabilities", probabilities, (len(rows.labels), len(names)), advice)
    factors = _table("weights", weights, (trained, len(names)), "weights are those of languages x labels")
    loss = plain_loss = None
    if probabilities is not None:
        true = probabilities[np.arange(len(rows.labels)), rows.labels]
        losses = -np.log(np.maximum(true, np.finfo(np.float64).tiny))
        losses *= of_rows
        loss = plain_loss = float(losses.mean())
        if factors is not None:
            factors = np.pad(factors, ((0, len(axis) - trained), (0, 0)), constant_values=1)
            loss = float((losses * factors[rows.languages, rows.labels]).mean())
    predicted = JointDistribution(tuple(axis), tuple(names), rows.cells.sum(axis=1))
    dependence = mutual_information_bits(counted.sum(axis=1))
    of_label = np.moveaxis(counted, 1, 0)
    given_label = (information(of_label) * of_label.sum(axis=(1, 2))).sum() / predicted.rows
    return {
        "rows": predicted.rows,
        **correctness(counted, rows.axes[0]),
        "predicted": predicted.counts.tolist(),
        "dependence_bits": dependence,
        "dependence_bits_corrected": dependence - predicted.mutual_information_chance_bits,
        "dependence_given_label_bits": float(given_label),
        **reliance_and_transfer(rows.cells, shares, target),
        "loss": loss,
        "plain_loss": plain_loss,
        "intervals": _intervals(rows, target, skewed, resamples, seed) if resamples else None,
        "calibration": None if probabilities is None else _calibration(probabilities, rows),
    }


def join_by_id(predictions: pa.Table, ids: Sequence[Any], languages: Sequence[Any], labels: Sequence[Any]) -> pa.Table:
    """Predictions in the order of a dataset's rows: joined by id and language, not by position.

    Args:
        predictions: columns id, language, label and any others (predictions.parquet of a run).
        ids, languages, labels: one entry per row of the dataset. Rows of one id and language are taken in order.

    Raises:
        ValueError: rows without a prediction, or labels that differ.
    """
    waiting: defaultdict[tuple[str, ...], deque[int]] = defaultdict(deque)  # rows of each id and language
    columns = (predictions[name].to_pylist() for name in ("id", "language"))
    for place, key in enumerate(zip(*columns, strict=True)):
        waiting[tuple(map(str, key))].append(place)
    rows = (waiting[tuple(map(str, key))] for key in zip(ids[:], languages[:], strict=True))
    places = np.array([row.popleft() if row else -1 for row in rows], dtype=np.int64)
    joined, found = predictions.take(pa.array(places[places >= 0])), ""
    if (missing := np.flatnonzero(places < 0)).size:
        found = f"none for {missing.size:,} (first: id {ids[int(missing[0])]}, language {languages[int(missing[0])]})"
    elif differing := np.count_nonzero(np.asarray(joined["label"]) != np.asarray(labels[:])):
        found = f"{differing:,} rows whose label has changed since the prediction"
    if found:
        raise ValueError(f"Expected predictions for each of {len(places):,} rows, got {found}: the data differ.")
    return joined


def encode_rows(languages: Any, labels: Any, predictions: Any, groups: Any, plan: Any) -> Rows:
    """The columns on the plan's axes, with languages that it lacks at the end; without a plan on the values found."""
    columns = {"language": languages, "label": labels, "prediction": predictions}
    encoded = encode_columns(**columns, **({} if groups is None else {"group": groups}))
    names, true, predicted = (values for values, _ in encoded[:3])
    found = {*true, *predicted}
    kinds = sorted({type(value).__name__ for value in found})
    known = plan if isinstance(plan, JointDistribution) else None
    problem = None
    if not names:
        problem = "No rows to evaluate: the columns are empty."
    elif IGNORED_LABEL in true:
        problem = f"Rows labeled {IGNORED_LABEL} are ignored in training: leave them out of an evaluation."
    elif len(kinds) > 1:
        problem = f"Labels and predictions must have the same type, got {' and '.join(kinds)}: convert one of them."
    elif known and not found <= {*known.labels}:
        problem = f"Labels and predictions must be among those of the plan, {list(known.labels)}, got {sorted(found)}."
    if problem:
        raise ValueError(problem)
    axes = [*names], sorted(found)
    if known:
        axes = [*dict.fromkeys(known.languages + names)], [*known.labels]
    language, label, prediction = (
        np.array([axis.index(value) for value in values], dtype=np.int64)[ids]
        for axis, (values, ids) in zip((*axes, axes[1]), encoded[:3], strict=True)
    )
    shape = len(axes[0]), len(axes[1]), len(axes[1])
    places = np.ravel_multi_index((language, label, prediction), shape)
    cells = np.bincount(places, minlength=int(np.prod(shape))).reshape(shape)
    return Rows(axes, language, label, prediction, None if groups is None else encoded[3][1], cells, places)


def plan_shares(plan: Any, axes: tuple[list[str], list[Any]]) -> Floats | None:
    """A plan as joint shares [L, C] on the axes of an evaluation; 0 for languages that it does not have."""
    if isinstance(plan, JointDistribution):
        plan = np.pad(plan.counts, ((0, len(axes[0]) - len(plan.languages)), (0, 0)))
    advice = f"a plan has the counts or shares of the languages {axes[0]} x labels {axes[1]}"
    table = _table("a plan", plan, (len(axes[0]), len(axes[1])), advice)
    return None if table is None else table / table.sum()


def reliance_and_transfer(cells: Ints, plan: Floats | None, target: str) -> dict[str, float | None]:
    """`reliance` and `skew_transfer` of confusion counts under a target; None without a plan that has a skew."""
    found: dict[str, float | None] = {"reliance": None, "skew_transfer": None}
    if plan is None:
        return found
    kept, table = complete(cells.sum(axis=2), plan, target), weighted(cells, target, plan).sum(axis=1)
    if target == "natural" or kept.sum() > 1:
        measured = slice(None) if target == "natural" else kept
        if bits := mutual_information_bits(plan[measured]):
            found["reliance"] = mutual_information_bits(table[measured]) / bits
    if kept.sum() > (target != "natural"):
        slope = float(transfer(table[kept], plan[kept] / plan[kept].sum(axis=1, keepdims=True)).slope)
        found["skew_transfer"] = None if np.isnan(slope) else slope
    return found


def _intervals(rows: Rows, target: str, skewed: Floats | None, resamples: int, seed: int) -> dict[str, Any]:
    """95% percentile bootstrap intervals of `correctness`."""
    resampled = resampled_cells(rows.places, rows.cells.size, rows.groups, resamples, seed)
    cells = resampled.reshape(resamples, *rows.cells.shape)
    return correctness(weighted(cells, target, skewed), rows.axes[0], percentile_interval)


def _table(name: str, values: Any, shape: tuple[int, int], advice: str) -> Floats | None:
    """An argument as a table whose columns are the labels; the rows of probabilities sum to 1."""
    if values is None:
        return None
    table = np.asarray(values, dtype=np.float64)
    fits = table.shape == shape
    usable = fits and np.isfinite(table).all() and (table >= 0).all() and bool(table.any())
    if not usable or (name == "probabilities" and np.abs(table.sum(axis=1) - 1).max() > 1e-3):
        found = "values that are not" if fits else f"shape {list(table.shape)}"
        raise ValueError(
            f"Expected {name} of shape {list(shape)}, finite, not negative and not all 0, got {found}: {advice}."
        )
    return table


def correctness(
    cells: Ints | Floats, languages: Sequence[str], summary: Callable[[Floats], Floats] = np.asarray
) -> dict[str, Any]:
    """Measures of confusion counts [..., L, true, predicted] as JSON, each [..., L] as `summary` shows it."""
    right = np.diagonal(cells, axis1=-2, axis2=-1)  # [..., L, C]
    truth = cells.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        measures = {
            "accuracy": right.sum(axis=(-2, -1)) / truth.sum(axis=(-2, -1)),
            "macro_f1": _macro_f1(cells.sum(axis=-3)),
            "worst_cell_accuracy": np.where(truth > 0, right / truth, np.inf).min(axis=(-2, -1)),
        }
        split = {"accuracy": right.sum(axis=-1) / truth.sum(axis=-1), "macro_f1": _macro_f1(cells)}
    shown = {name: summary(value).T for name, value in split.items()}  # [L] or [L, 2]
    by_language = {
        language: {name: value[i].tolist() for name, value in shown.items()}
        for i, language in enumerate(languages)
        if all(np.isfinite(value[i]).all() for value in shown.values())  # it has rows
    }
    return {name: summary(value).tolist() for name, value in measures.items()} | {"by_language": by_language}


def _macro_f1(confusion: Ints | Floats) -> Floats:
    """Mean F1 over the labels that occur in truth or prediction; confusion[..., true, predicted]."""
    total = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    scores = np.divide(2 * right, total, out=np.zeros(total.shape), where=total > 0)
    return np.asarray(scores.sum(axis=-1) / (total > 0).sum(axis=-1))


def _calibration(probabilities: Floats, rows: Rows) -> dict[str, Any]:
    """Per language: expected calibration error, mean confidence, and bins of the reliability curve with rows."""
    confidence = probabilities[np.arange(len(rows.predictions)), rows.predictions]
    right = rows.labels == rows.predictions
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    result = {}
    for i in np.unique(rows.languages):
        here = rows.languages == i
        curve = []
        for number in np.unique(bins[here]):
            inside = here & (bins == number)
            accuracy, mean = float(right[inside].mean()), float(confidence[inside].mean())
            curve.append({"confidence": mean, "accuracy": accuracy, "rows": int(inside.sum())})
        gap = sum(point["rows"] * abs(point["confidence"] - point["accuracy"]) for point in curve)
        measures = {
            "expected_calibration_error": float(gap / here.sum()),
            "mean_confidence": float(confidence[here].mean()),
        }
        result[rows.axes[0][i]] = measures | {"bins": curve}
    return result
