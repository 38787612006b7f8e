"""Predictions -> tables: how right, how sure, and how dependent on language (arXiv 2402.13016, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hf_langimb.counts.columns import encode_columns
from hf_langimb.counts.distribution import JointDistribution, mutual_information_bits
from hf_langimb.measures.intervals import Floats, percentile_interval
from hf_langimb.models.axes import IGNORED_LABEL

CONFIDENCE_BINS = 10  # of equal width

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Rows:
    """Rows as positions on the axes of the evaluation; `groups` numbers what is resampled together."""

    axes: tuple[tuple[str, ...], tuple[Any, ...]]
    languages: Ints
    labels: Ints
    predictions: Ints
    groups: Ints | None

    @property
    def cells(self) -> Ints:
        """Number of rows [L, true label, predicted label]."""
        return np.bincount(self.places, minlength=int(np.prod(self.shape))).reshape(self.shape)

    @property
    def places(self) -> Ints:
        """The flat position in `cells` of each row."""
        return np.ravel_multi_index((self.languages, self.labels, self.predictions), self.shape).astype(np.int64)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of `cells`."""
        return len(self.axes[0]), len(self.axes[1]), len(self.axes[1])


def evaluate_predictions(
    languages: Any,
    labels: Any,
    predictions: Any,
    probabilities: Any = None,
    *,
    plan: Any = None,
    weights: Any = None,
    groups: Any = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Quality of predictions and their dependence on language (METRICS["test"] of results.json).

    Args:
        languages, labels, predictions: one entry per row; labels and predictions have the same type.
        probabilities: float[N, C], columns in the order of the labels axis, for the losses (null without).
        plan: the skewed joint distribution that training followed: a `JointDistribution`, or counts or shares [L, C]
            on the axes of this evaluation. `reliance` and `skew_transfer` compare with it (null without).
        weights: float[L, C], the class weights of training, for `loss`; None is the plain loss, which is also used
            for languages that training did not have.
        groups: one entry per row, rows of one group are resampled together (translations of one item); None resamples
            single rows.
        resamples: of the bootstrap; 0 leaves the intervals out (null).
        seed: of the bootstrap.

    Returns:
        A JSON-ready dictionary. `intervals` contains 95 % percentile bootstrap intervals [low, high] of the measures
        of correctness, over examples: they do not include the noise of training, which only several seeds show.
        `calibration` has for each language the expected calibration error and the bins of its reliability curve (null
        without probabilities). `dependence_bits` is MI(prediction; language), `_corrected` that less its chance
        level; `dependence_given_label_bits` is MI(prediction; language | label); `reliance` is dependence over the
        plan's own MI(label; language); `skew_transfer` is 1 where the predicted shares copy the plan's skew, 0 where
        they ignore it, negative where they over-correct.

    Raises:
        ValueError: no rows, lengths differ, nulls, labels and predictions of two types, or a plan, probabilities or
            weights whose axes do not fit.
    """
    rows = _rows(languages, labels, predictions, groups, plan)
    cells = rows.cells
    predicted = JointDistribution(*rows.axes, cells.sum(axis=1))
    plan_shares = _plan_shares(plan, rows)
    plan_bits = None if plan_shares is None else mutual_information_bits(plan_shares)
    dependence = predicted.mutual_information_bits
    table = _probabilities(probabilities, rows)
    return {
        "rows": predicted.rows,
        **_named(_correctness(cells), rows.axes[0]),
        "predicted": predicted.counts.tolist(),
        "dependence_bits": dependence,
        "dependence_bits_corrected": dependence - predicted.mutual_information_chance_bits,
        "dependence_given_label_bits": _dependence_given_label(cells),
        "reliance": dependence / plan_bits if plan_bits else None,
        "skew_transfer": None if plan_shares is None else _skew_transfer(predicted, plan_shares),
        **_losses(table, rows, _class_weights(weights, plan, rows)),
        "intervals": _bootstrap(rows, cells, resamples, seed) if resamples else None,
        "calibration": None if table is None else _calibration(table, rows),
    }


def join_by_id(predictions: pa.Table, ids: Sequence[Any], languages: Sequence[Any], labels: Sequence[Any]) -> pa.Table:
    """Predictions in the order of a data set's rows: joined by id and language, not by position.

    Args:
        predictions: columns id, language, label and any others (predictions.parquet of a run).
        ids, languages, labels: one entry per row of the data set. Rows of one id and language are taken in order.

    Raises:
        ValueError: rows without a prediction, or labels that differ.
    """
    known, wanted = np.split(_keys(predictions, ids, languages), [len(predictions)])
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    missing = np.flatnonzero(known[places] != wanted)
    joined = predictions.take(pa.array(places))
    differing = np.count_nonzero(np.asarray(joined["label"]) != np.asarray(labels[:]))
    if missing.size or differing:
        found = f"{differing:,} rows with another label than when they were predicted"
        if missing.size:
            first = int(missing[0])
            found = f"none for {missing.size:,} (first: id {ids[first]}, language {languages[first]})"
        raise ValueError(f"Expected predictions for each of {len(wanted):,} rows, got {found}: they are of other data.")
    return joined


def _keys(predictions: pa.Table, ids: Sequence[Any], languages: Sequence[Any]) -> Ints:
    """An integer for the n-th row of one id and language, of the predictions and then of the data set."""
    keys = np.zeros(1, dtype=np.int64)
    for name, values in (("id", ids), ("language", languages)):
        parts = [predictions[name].cast(pa.string()), pa.chunked_array([pa.array(values[:]).cast(pa.string())])]
        both = pa.chunked_array([chunk for part in parts for chunk in part.chunks]).combine_chunks()
        encoded = both.dictionary_encode("encode")
        keys = keys * len(encoded.dictionary) + encoded.indices.to_numpy()
    sides = 2 * keys + (np.arange(len(keys)) >= len(predictions))
    order = np.argsort(sides, kind="stable")
    _, starts, counts = np.unique(sides[order], return_index=True, return_counts=True)
    before = np.empty_like(keys)
    before[order] = np.arange(len(keys)) - np.repeat(starts, counts)
    return keys * len(keys) + before


def _rows(languages: Any, labels: Any, predictions: Any, groups: Any, plan: Any) -> _Rows:
    """The columns on the plan's axes where it has some, else on the sorted values found."""
    columns = {"language": languages, "label": labels, "prediction": predictions}
    encoded = encode_columns(**columns, **({} if groups is None else {"group": groups}))
    (named, language_ids), (true, label_ids), (predicted, prediction_ids) = encoded[:3]
    if not len(language_ids):
        raise ValueError("No rows to evaluate: the columns are empty.")
    if IGNORED_LABEL in true:
        raise ValueError(f"Rows labelled {IGNORED_LABEL} are ignored in training: leave them out of an evaluation.")
    axes = _axes(named, {*true, *predicted}, plan)
    return _Rows(
        axes,
        _on_axis(named, axes[0])[language_ids],
        _on_axis(true, axes[1])[label_ids],
        _on_axis(predicted, axes[1])[prediction_ids],
        encoded[3][1] if groups is not None else None,
    )


def _axes(languages: tuple[str, ...], found: set[Any], plan: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The plan's axes, with languages that it lacks at the end; without a plan the values found, sorted."""
    kinds = sorted({type(value).__name__ for value in found})
    known = plan.labels if isinstance(plan, JointDistribution) else None
    if len(kinds) > 1 or (known is not None and not found <= {*known}):
        problem = f"have the same type, got {' and '.join(kinds)}: convert one of them"
        if len(kinds) == 1:
            problem = f"be among those of the plan, {list(known or ())}, got {sorted(found)}"
        raise ValueError(f"Labels and predictions must {problem}.")
    if not isinstance(plan, JointDistribution):
        return languages, tuple(sorted(found))
    return plan.languages + tuple(name for name in languages if name not in plan.languages), plan.labels


def _on_axis(values: tuple[Any, ...], axis: tuple[Any, ...]) -> Ints:
    """The place of each value on an axis."""
    return np.array([axis.index(value) for value in values], dtype=np.int64)


def _table(name: str, values: Any, shape: tuple[int, int], advice: str, *, sums_to_one: bool = False) -> Floats:
    """An argument as a table whose columns are the labels."""
    table = np.asarray(values, dtype=np.float64)
    fits = table.shape == shape
    usable = fits and np.isfinite(table).all() and (table >= 0).all() and bool(table.any())
    if not usable or (sums_to_one and np.abs(table.sum(axis=1) - 1).max() > 1e-3):
        found = "values that are not" if fits else f"shape {list(table.shape)}"
        raise ValueError(
            f"Expected {name} of shape {list(shape)}, finite, not negative and not all 0, got {found}: {advice}."
        )
    return table


def _plan_shares(plan: Any, rows: _Rows) -> Floats | None:
    """The plan as joint shares on the axes of the evaluation; languages that it does not have get no share."""
    if plan is None:
        return None
    table = plan
    if isinstance(plan, JointDistribution):
        table = np.pad(plan.counts, ((0, len(rows.axes[0]) - len(plan.languages)), (0, 0)))
    advice = f"a plan has the counts or shares of the languages {list(rows.axes[0])} x labels {list(rows.axes[1])}"
    shares = _table("a plan", table, rows.shape[:2], advice)
    return np.asarray(shares / shares.sum())


def _probabilities(probabilities: Any, rows: _Rows) -> Floats | None:
    """Probabilities float[N, C]."""
    if probabilities is None:
        return None
    advice = (
        f"each row has one share for each of the labels {list(rows.axes[1])} and sums to 1 (apply softmax to logits "
        "first; labels that no row has need a plan with axes, a JointDistribution)"
    )
    return _table("probabilities", probabilities, (len(rows.labels), rows.shape[1]), advice, sums_to_one=True)


def _class_weights(weights: Any, plan: Any, rows: _Rows) -> Floats:
    """The weights on the axes of the evaluation: 1 without weights, and for languages that the plan lacks."""
    table = np.ones(rows.shape[:2])
    if weights is not None:
        known = len(plan.languages) if isinstance(plan, JointDistribution) else rows.shape[0]
        table[:known] = _table("weights", weights, (known, rows.shape[1]), "weights are those of languages x labels")
    return table


def _dependence_given_label(cells: Ints) -> float:
    """MI(prediction; language | label): the mean over labels of the dependence among rows of that label."""
    total = cells.sum()
    parts = (part for part in np.moveaxis(cells, 1, 0) if part.sum())
    return float(sum(mutual_information_bits(part) * part.sum() / total for part in parts))


def _skew_transfer(predicted: JointDistribution, plan_shares: Floats) -> float | None:
    """Slope of predicted shares on the plan's shares within languages, both centred over languages (SPEC A7)."""
    used = (plan_shares.sum(axis=1) > 0) & (predicted.counts.sum(axis=1) > 0)
    if not used.any():
        return None
    target = plan_shares[used] / plan_shares[used].sum(axis=1, keepdims=True)
    target = target - target.mean(axis=0)
    shares = predicted.row_shares[used]
    variance = float((target**2).sum())
    return float((target * (shares - shares.mean(axis=0))).sum() / variance) if variance > 1e-12 else None


def _correctness(cells: Ints) -> dict[str, Floats]:
    """Accuracy and F1 of confusion counts [..., L, true label, predicted label], in total and per language.

    Undefined values (no row of a language) are NaN here, and left out or null in what callers see.
    """
    right = np.diagonal(cells, axis1=-2, axis2=-1)  # [..., L, C]
    truth = cells.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": right.sum(axis=(-2, -1)) / truth.sum(axis=(-2, -1)),
            "macro_f1": _macro_f1(cells.sum(axis=-3)),
            "worst_cell_accuracy": np.where(truth > 0, right / truth, np.inf).min(axis=(-2, -1)),
            "by_language.accuracy": right.sum(axis=-1) / truth.sum(axis=-1),
            "by_language.macro_f1": _macro_f1(cells),
        }


def _macro_f1(confusion: Ints) -> Floats:
    """Mean F1 over the labels that occur in truth or prediction; confusion[..., true, predicted]."""
    total = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    scores: Floats = 2 * np.diagonal(confusion, axis1=-2, axis2=-1) / np.maximum(total, 1)
    return np.asarray(scores.sum(axis=-1) / (total > 0).sum(axis=-1))


def _named(measures: dict[str, Floats], languages: tuple[str, ...]) -> dict[str, Any]:
    """`_correctness` as JSON: numbers, or [low, high]; languages without rows are left out of by_language."""
    total = {name: value.T.tolist() for name, value in measures.items() if not name.startswith("by_language.")}
    split = {name.partition(".")[2]: value.T for name, value in measures.items() if name.startswith("by_language.")}
    by_language = {
        language: {name: value[i].tolist() for name, value in split.items()}
        for i, language in enumerate(languages)
        if all(np.isfinite(value[i]).all() for value in split.values())
    }
    return total | {"by_language": by_language}


def _bootstrap(rows: _Rows, cells: Ints, resamples: int, seed: int) -> dict[str, Any]:
    """95 % percentile intervals of `_correctness` over resampled rows, or groups of rows.

    A resample is a number of copies of each group; its confusion counts are those copies times the groups' own.
    """
    from scipy.sparse import csr_array

    rng = np.random.default_rng(seed)
    count = len(rows.labels)
    if rows.groups is None:
        resampled = rng.multinomial(count, cells.ravel() / count, size=resamples)
    else:
        number = int(rows.groups.max()) + 1
        ones = np.ones(count, dtype=np.int64)
        of_group = csr_array((ones, (rows.groups, rows.places)), shape=(number, cells.size))
        copies = (np.bincount(rng.integers(0, number, number), minlength=number) for _ in range(resamples))
        resampled = np.stack([times @ of_group for times in copies])
    measures = _correctness(resampled.reshape(resamples, *cells.shape))
    return _named({name: percentile_interval(values) for name, values in measures.items()}, rows.axes[0])


def _calibration(probabilities: Floats, rows: _Rows) -> dict[str, Any]:
    """Per language: expected calibration error, mean confidence, and bins of the reliability curve with rows."""
    confidence = probabilities[np.arange(len(rows.predictions)), rows.predictions]
    right = rows.labels == rows.predictions
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    result = {}
    for i, language in enumerate(rows.axes[0]):
        chosen = rows.languages == i
        if not chosen.any():
            continue
        curve = [
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "rows": int(inside.sum()),
            }
            for number in range(CONFIDENCE_BINS)
            if (inside := chosen & (bins == number)).any()
        ]
        gap = sum(point["rows"] * abs(point["confidence"] - point["accuracy"]) for point in curve)
        result[language] = {
            "expected_calibration_error": float(gap / chosen.sum()),
            "mean_confidence": float(confidence[chosen].mean()),
            "bins": curve,
        }
    return result


def _losses(table: Floats | None, rows: _Rows, weights: Floats) -> dict[str, float | None]:
    """Mean cross-entropy in nats, with each row's weight and without."""
    if table is None:
        return {"loss": None, "plain_loss": None}
    losses = -np.log(np.maximum(table[np.arange(len(rows.labels)), rows.labels], np.finfo(np.float64).tiny))
    weighted = losses * weights[rows.languages, rows.labels]
    return {"loss": float(weighted.mean()), "plain_loss": float(losses.mean())}
