"""Predictions -> tables: how right, and how dependent on language (arXiv 2402.13016, Table 2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_langimb.columns import encode_columns
from hf_langimb.distribution import JointDistribution, mutual_information_bits


def evaluate_predictions(
    languages: Any,
    labels: Any,
    predictions: Any,
    probabilities: Any = None,
    *,
    plan: Any = None,
    weights: Any = None,
) -> dict[str, Any]:
    """Quality of predictions and their dependence on language (METRICS["test"] of results.json).

    Args:
        languages, labels, predictions: one entry per row; labels and predictions are of one type.
        probabilities: float[N, C], columns in the order of the labels axis, for the losses (null without).
        plan: the skewed joint distribution that training followed: a `JointDistribution`, or counts or shares [L, C]
            on the axes of this evaluation. `reliance` and `skew_transfer` compare with it (null without).
        weights: float[L, C], the class weights of training, for `loss`; None is the plain loss, and so is it for
            languages that training did not have.

    Returns:
        A JSON-ready dictionary. `dependence_bits` is MI(prediction; language), `_corrected` that less its chance
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
    axes = _axes(spoken, true, guessed, plan)
    language_ids = _on_axis(spoken, axes[0])[language_ids]
    label_ids, prediction_ids = _on_axis(true, axes[1])[label_ids], _on_axis(guessed, axes[1])[prediction_ids]
    shape = (len(axes[0]), len(axes[1]))
    cells = np.zeros((*shape, shape[1]), dtype=np.int64)  # [L, true label, predicted label]
    np.add.at(cells, (language_ids, label_ids, prediction_ids), 1)
    predicted = JointDistribution(*axes, cells.sum(axis=1))
    truth = cells.sum(axis=2)
    right = np.diagonal(cells, axis1=1, axis2=2)
    plan_shares = _plan_shares(plan, axes)
    plan_bits = None if plan_shares is None else mutual_information_bits(plan_shares)
    dependence = predicted.mutual_information_bits
    return {
        "rows": predicted.rows,
        "accuracy": float(right.sum() / predicted.rows),
        "macro_f1": _macro_f1(cells.sum(axis=0)),
        "worst_cell_accuracy": float((right[truth > 0] / truth[truth > 0]).min()),
        "predicted": predicted.counts.tolist(),
        "by_language": {
            language: {"accuracy": float(right[i].sum() / truth[i].sum()), "macro_f1": _macro_f1(cells[i])}
            for i, language in enumerate(axes[0])
            if truth[i].sum()
        },
        "dependence_bits": dependence,
        "dependence_bits_corrected": dependence - predicted.mutual_information_chance_bits,
        "dependence_given_label_bits": _dependence_given_label(cells),
        "reliance": dependence / plan_bits if plan_bits else None,
        "skew_transfer": None if plan_shares is None else _skew_transfer(predicted, plan_shares),
        **_losses(probabilities, label_ids, _class_weights(weights, plan, axes)[language_ids, label_ids], axes[1]),
    }


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
    return sum(mutual_information_bits(part) * part.sum() / total for part in np.moveaxis(cells, 1, 0) if part.sum())


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


def _macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the labels that occur in truth or prediction; confusion[true, predicted]."""
    right = np.diagonal(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * right[total > 0] / total[total > 0]).mean())


def _class_weights(weights: Any, plan: Any, axes: tuple[tuple[str, ...], tuple[Any, ...]]) -> np.ndarray:
    """The weights on the axes of the evaluation: 1 without weights, and for languages that the plan lacks."""
    known = len(plan.languages) if isinstance(plan, JointDistribution) else len(axes[0])
    table = np.ones((len(axes[0]), len(axes[1])))
    if weights is None:
        return table
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (known, len(axes[1])):
        raise ValueError(
            f"Expected weights for {known} languages x {len(axes[1])} labels, found shape {list(given.shape)}."
        )
    table[:known] = given
    return table


def _losses(probabilities: Any, label_ids: np.ndarray, weights: np.ndarray, labels: Any) -> dict[str, float | None]:
    """Mean cross-entropy in nats, with each row's weight and without."""
    if probabilities is None:
        return {"loss": None, "plain_loss": None}
    table = np.asarray(probabilities, dtype=np.float64)
    if table.shape != (len(label_ids), len(labels)):
        raise ValueError(
            f"Expected probabilities of shape [{len(label_ids)}, {len(labels)}] for the labels {list(labels)}, found "
            f"{list(table.shape)}: labels that no row has need a plan with axes (a JointDistribution)."
        )
    losses = -np.log(np.maximum(table[np.arange(len(label_ids)), label_ids], np.finfo(np.float64).tiny))
    return {"loss": float((losses * weights).mean()), "plain_loss": float(losses.mean())}
