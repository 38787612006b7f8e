"""Predictions -> tables: how right, how sure, and how dependent on language (arXiv 2402.13016, Table 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from hf_langimb.counts.columns import encode_column, encode_columns
from hf_langimb.counts.distribution import JointDistribution, mutual_information_bits
from hf_langimb.models.axes import IGNORED_LABEL

CONFIDENCE_BINS = 10  # of equal width


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
        languages, labels, predictions: one entry per row; labels and predictions are of one type.
        probabilities: float[N, C], columns in the order of the labels axis, for the losses (null without).
        plan: the skewed joint distribution that training followed: a `JointDistribution`, or counts or shares [L, C]
            on the axes of this evaluation. `reliance` and `skew_transfer` compare with it (null without).
        weights: float[L, C], the class weights of training, for `loss`; None is the plain loss, and so is it for
            languages that training did not have.
        groups: one entry per row, rows of one group are resampled together (translations of one item); None resamples
            single rows.
        resamples: of the bootstrap; 0 leaves the intervals out (null).
        seed: of the bootstrap.

    Returns:
        A JSON-ready dictionary. `intervals` holds 95 % percentile bootstrap intervals [low, high] of the measures of
        correctness, over examples: they do not know the noise of training, which only several seeds show.
        `calibration` has for each language the expected calibration error and the bins of its reliability curve (null
        without probabilities). `dependence_bits` is MI(prediction; language), `_corrected` that less its chance
        level; `dependence_given_label_bits` is MI(prediction; language | label); `reliance` is dependence over the
        plan's own MI(label; language); `skew_transfer` is 1 where the predicted shares copy the plan's skew, 0 where
        they ignore it, negative where they over-correct.

    Raises:
        ValueError: no rows, lengths differ, nulls, labels and predictions of two types, or a plan, probabilities or
            weights whose axes do not fit.
    """
    (spoken, language_ids), (true, label_ids), (guessed, prediction_ids) = encode_columns(
        language=languages, label=labels, prediction=predictions
    )
    if not len(language_ids):
        raise ValueError("No rows to evaluate: the columns are empty.")
    if IGNORED_LABEL in true:
        raise ValueError(f"Rows labelled {IGNORED_LABEL} are ignored in training: leave them out of an evaluation.")
    axes = _axes(spoken, true, guessed, plan)
    language_ids = _on_axis(spoken, axes[0])[language_ids]
    label_ids, prediction_ids = _on_axis(true, axes[1])[label_ids], _on_axis(guessed, axes[1])[prediction_ids]
    shape = (len(axes[0]), len(axes[1]))
    cells = np.zeros((*shape, shape[1]), dtype=np.int64)  # [L, true label, predicted label]
    np.add.at(cells, (language_ids, label_ids, prediction_ids), 1)
    predicted = JointDistribution(*axes, cells.sum(axis=1))
    plan_shares = _plan_shares(plan, axes)
    plan_bits = None if plan_shares is None else mutual_information_bits(plan_shares)
    dependence = predicted.mutual_information_bits
    table = _probabilities(probabilities, label_ids, axes[1])
    row_weights = _class_weights(weights, plan, axes)[language_ids, label_ids]
    positions = np.ravel_multi_index((language_ids, label_ids, prediction_ids), cells.shape)
    return {
        "rows": predicted.rows,
        **_named(_correctness(cells), axes[0]),
        "predicted": predicted.counts.tolist(),
        "dependence_bits": dependence,
        "dependence_bits_corrected": dependence - predicted.mutual_information_chance_bits,
        "dependence_given_label_bits": _dependence_given_label(cells),
        "reliance": dependence / plan_bits if plan_bits else None,
        "skew_transfer": None if plan_shares is None else _skew_transfer(predicted, plan_shares),
        **_losses(table, label_ids, row_weights),
        "intervals": _bootstrap(positions, groups, cells, axes[0], resamples, seed) if resamples else None,
        "calibration": None if table is None else _calibration(table, label_ids, prediction_ids, language_ids, axes[0]),
    }


def join_by_id(predictions: pa.Table, ids: Iterable[Any], languages: Iterable[Any], labels: Iterable[Any]) -> pa.Table:
    """Predictions in the order of a data set's rows: joined by id and language, not by position.

    Args:
        predictions: columns id, language, label and any others (predictions.parquet of a run).
        ids, languages, labels: one entry per row of the data set. Rows of one id and language are taken in order.

    Raises:
        ValueError: rows without a prediction, or labels that differ.
    """
    place = {key: i for i, key in enumerate(_keys(predictions["id"].to_pylist(), predictions["language"].to_pylist()))}
    wanted = _keys(ids, languages)
    if missing := [key for key in wanted if key not in place]:
        raise ValueError(
            f"Expected a prediction for each of {len(wanted):,} rows, found none for {len(missing):,} (first: id "
            f"{missing[0][0]}, language {missing[0][1]}): these predictions are of other data."
        )
    joined = predictions.take(pa.array([place[key] for key in wanted], pa.int64()))
    differing = sum(a != b for a, b in zip(joined["label"].to_pylist(), labels, strict=True))
    if differing:
        raise ValueError(f"{differing:,} of {len(wanted):,} rows have another label than when they were predicted.")
    return joined


def _keys(ids: Iterable[Any], languages: Iterable[Any]) -> list[tuple[str, str, int]]:
    """(id, language, how often that came before) of each row."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for key in zip(map(str, ids), map(str, languages), strict=True):
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _axes(
    languages: tuple[str, ...], labels: tuple[Any, ...], predictions: tuple[Any, ...], plan: Any
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The plan's axes where it has some, languages that it lacks behind them; else the values found, sorted."""
    found = {*labels, *predictions}
    if len(kinds := sorted({type(value).__name__ for value in (*labels, *predictions)})) > 1:
        raise ValueError(f"Expected labels and predictions of one type, found {' and '.join(kinds)}: convert either.")
    if not isinstance(plan, JointDistribution):
        return languages, tuple(sorted(found))
    if not found <= set(plan.labels):
        raise ValueError(f"Labels {sorted(found)} of the rows are not among those of the plan, {list(plan.labels)}.")
    return plan.languages + tuple(name for name in languages if name not in plan.languages), plan.labels


def _on_axis(values: tuple[Any, ...], axis: tuple[Any, ...]) -> np.ndarray:
    """The place of each value on an axis."""
    return np.array([axis.index(value) for value in values], dtype=np.int64)


def _plan_shares(plan: Any, axes: tuple[tuple[str, ...], tuple[Any, ...]]) -> np.ndarray | None:
    """The plan as joint shares on the axes of the evaluation; languages that it does not have get no share."""
    if plan is None:
        return None
    table = np.asarray(plan.counts if isinstance(plan, JointDistribution) else plan, dtype=np.float64)
    if isinstance(plan, JointDistribution):
        table = np.pad(table, ((0, len(axes[0]) - len(table)), (0, 0)))
    if table.shape != (len(axes[0]), len(axes[1])):
        raise ValueError(
            f"Expected a plan of {len(axes[0])} languages x {len(axes[1])} labels, found shape {table.shape}."
        )
    if not np.isfinite(table).all() or (table < 0).any() or table.sum() == 0:
        raise ValueError("Expected a plan of counts or shares, none negative and not all 0.")
    return table / table.sum()


def _dependence_given_label(cells: np.ndarray) -> float:
    """MI(prediction; language | label): the mean over labels of the dependence among rows of that label."""
    total = cells.sum()
    parts = (part for part in np.moveaxis(cells, 1, 0) if part.sum())
    return float(sum(mutual_information_bits(part) * part.sum() / total for part in parts))


def _skew_transfer(predicted: JointDistribution, plan_shares: np.ndarray) -> float | None:
    """Slope of predicted shares on the plan's shares within languages, both centred over languages (SPEC A7)."""
    used = (plan_shares.sum(axis=1) > 0) & (predicted.counts.sum(axis=1) > 0)
    if not used.any():
        return None
    target = plan_shares[used] / plan_shares[used].sum(axis=1, keepdims=True)
    target = target - target.mean(axis=0)
    shares = predicted.row_shares[used]
    variance = float((target**2).sum())
    return float((target * (shares - shares.mean(axis=0))).sum() / variance) if variance > 1e-12 else None


def _correctness(cells: np.ndarray) -> dict[str, np.ndarray]:
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


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the labels that occur in truth or prediction; confusion[..., true, predicted]."""
    total = confusion.sum(axis=-2) + confusion.sum(axis=-1)
    scores = 2 * np.diagonal(confusion, axis1=-2, axis2=-1) / np.maximum(total, 1)
    return scores.sum(axis=-1) / (total > 0).sum(axis=-1)


def _named(measures: dict[str, np.ndarray], languages: tuple[str, ...]) -> dict[str, Any]:
    """`_correctness` as JSON: numbers, or [low, high]; languages without rows are left out of by_language."""
    total = {name: value.T.tolist() for name, value in measures.items() if not name.startswith("by_language.")}
    split = {name.partition(".")[2]: value.T for name, value in measures.items() if name.startswith("by_language.")}
    by_language = {
        language: {name: value[i].tolist() for name, value in split.items()}
        for i, language in enumerate(languages)
        if all(np.isfinite(value[i]).all() for value in split.values())
    }
    return total | {"by_language": by_language}


def _bootstrap(
    positions: np.ndarray, groups: Any, cells: np.ndarray, languages: tuple[str, ...], resamples: int, seed: int
) -> dict[str, Any]:
    """95 % percentile intervals of `_correctness` over resampled rows, or groups of rows.

    A resample is a number of copies of each group; its confusion counts are those copies times the groups' own.
    """
    from scipy.sparse import csr_array

    rng = np.random.default_rng(seed)
    rows = len(positions)
    if groups is None:
        resampled = rng.multinomial(rows, cells.ravel() / rows, size=resamples)
    else:
        names = encode_column(groups, "group")[1]
        if len(names) != rows:
            raise ValueError(f"Expected one group per row, found {len(names):,} for {rows:,} rows.")
        number = int(names.max()) + 1
        of_group = csr_array((np.ones(rows, dtype=np.int64), (names, positions)), shape=(number, cells.size))
        copies = (np.bincount(rng.integers(0, number, number), minlength=number) for _ in range(resamples))
        resampled = np.stack([times @ of_group for times in copies])
    measures = _correctness(resampled.reshape(resamples, *cells.shape))
    bounds = {}
    for name, values in measures.items():
        bounds[name] = np.full((2, *values.shape[1:]), np.nan)
        drawn = np.isfinite(values).any(axis=0)  # a language of one example is missing from some resamples
        bounds[name][:, drawn] = np.nanquantile(values[:, drawn], (0.025, 0.975), axis=0)
    return _named(bounds, languages)


def _calibration(
    probabilities: np.ndarray,
    label_ids: np.ndarray,
    prediction_ids: np.ndarray,
    language_ids: np.ndarray,
    languages: tuple[str, ...],
) -> dict[str, Any]:
    """Per language: expected calibration error, mean confidence, and bins of the reliability curve with rows."""
    confidence = probabilities[np.arange(len(prediction_ids)), prediction_ids]
    right = label_ids == prediction_ids
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    result = {}
    for i, language in enumerate(languages):
        rows = language_ids == i
        if not rows.any():
            continue
        curve = [
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "rows": int(inside.sum()),
            }
            for number in range(CONFIDENCE_BINS)
            if (inside := rows & (bins == number)).any()
        ]
        gap = sum(point["rows"] * abs(point["confidence"] - point["accuracy"]) for point in curve)
        result[language] = {
            "expected_calibration_error": float(gap / rows.sum()),
            "mean_confidence": float(confidence[rows].mean()),
            "bins": curve,
        }
    return result


def _class_weights(weights: Any, plan: Any, axes: tuple[tuple[str, ...], tuple[Any, ...]]) -> np.ndarray:
    """The weights on the axes of the evaluation: 1 without weights, and for languages that the plan lacks."""
    known = len(plan.languages) if isinstance(plan, JointDistribution) else len(axes[0])
    table = np.ones((len(axes[0]), len(axes[1])))
    if weights is None:
        return table
    given = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(given).all() or (given < 0).any():
        raise ValueError("Expected weights that are finite and not negative.")
    if given.shape != (known, len(axes[1])):
        raise ValueError(
            f"Expected weights for {known} languages x {len(axes[1])} labels, found shape {list(given.shape)}."
        )
    table[:known] = given
    return table


def _probabilities(probabilities: Any, label_ids: np.ndarray, labels: Any) -> np.ndarray | None:
    if probabilities is None:
        return None
    table = np.asarray(probabilities, dtype=np.float64)
    if table.shape != (len(label_ids), len(labels)):
        raise ValueError(
            f"Expected probabilities of shape [{len(label_ids)}, {len(labels)}] for the labels {list(labels)}, found "
            f"{list(table.shape)}: labels that no row has need a plan with axes (a JointDistribution)."
        )
    if not np.isfinite(table).all() or (table < 0).any() or np.abs(table.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("Expected probabilities, rows of finite shares that sum to 1: apply softmax to logits first.")
    return table


def _losses(table: np.ndarray | None, label_ids: np.ndarray, weights: np.ndarray) -> dict[str, float | None]:
    """Mean cross-entropy in nats, with each row's weight and without."""
    if table is None:
        return {"loss": None, "plain_loss": None}
    losses = -np.log(np.maximum(table[np.arange(len(label_ids)), label_ids], np.finfo(np.float64).tiny))
    return {"loss": float((losses * weights).mean()), "plain_loss": float(losses.mean())}
