"""The axes of a trained model: languages x labels, counted on its training data and kept beside its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.columns import class_label_names, require_columns
from hf_langimb.distribution import JointDistribution

AXES_FILE = "langimb.json"
IGNORED_LABEL = -100


def axes_of(distribution: JointDistribution, class_weighting: str, weights: np.ndarray) -> dict[str, Any]:
    """What a checkpoint remembers of its training data, JSON-ready: axes, counts and weights."""
    return {
        "languages": list(distribution.languages),
        "labels": list(distribution.labels),
        "counts": distribution.counts.tolist(),
        "class_weighting": class_weighting,
        "weights": weights.tolist(),
    }


def write_axes(folder: str | Path, axes: dict[str, Any]) -> None:
    """Write `langimb.json` beside the weights."""
    text = json.dumps(axes, ensure_ascii=False, indent=1)
    Path(folder, AXES_FILE).write_text(text + "\n", encoding="utf-8")


def count_for_model(
    dataset: Any, config: Any, language_column: str, label_names: Sequence[str], name: str
) -> JointDistribution:
    """Count a data set on all classes of a model; a ClassLabel's names go into a configuration that has none.

    Args:
        dataset: with a language and a label column.
        config: the model's configuration (`num_labels`, `id2label`).
        label_names: columns that the Trainer takes for the label, before `label`, `labels` and `label_ids`.
        name: of the data set, for messages.

    Raises:
        ValueError: columns are missing, hold nulls, or the labels are no class ids of this model.
    """
    candidates = [*label_names, "label", "labels", "label_ids"]
    present = getattr(dataset, "column_names", None) or candidates
    column = next((candidate for candidate in candidates if candidate in present), "label")
    try:
        require_columns(dataset, {"label": column, "language": language_column})
        counted = JointDistribution.from_dataset(dataset, language_column, column)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    names = class_label_names(dataset, column)
    if names is None:
        return _on_all_classes(counted, config.num_labels, column, name)
    if len(names) != config.num_labels:
        raise ValueError(
            f"{name}: its label column has {len(names)} classes ({', '.join(names)}), the model {config.num_labels} "
            f"outputs: load the model with num_labels={len(names)}."
        )
    if config.id2label == {i: f"LABEL_{i}" for i in range(config.num_labels)}:
        config.id2label = dict(enumerate(names))
        config.label2id = {label: i for i, label in enumerate(names)}
    return counted


def _on_all_classes(counted: JointDistribution, classes: int, column: str, name: str) -> JointDistribution:
    """Integer labels as columns 0 to classes - 1; ignored rows (-100) are left out."""
    kept = [i for i, label in enumerate(counted.labels) if label != IGNORED_LABEL]
    labels = [counted.labels[i] for i in kept]
    kinds = sorted({type(label).__name__ for label in labels})
    if kinds != ["int"]:
        raise ValueError(
            f"{name}: labels must be class ids 0 to {classes - 1} to train on, found {', '.join(kinds)} such as "
            f"{labels[0]!r}: use dataset.class_encode_column({column!r}), or cast the column to int64."
        )
    if min(labels) < 0 or max(labels) >= classes or (name == "train_dataset" and max(labels) < classes - 1):
        raise ValueError(
            f"{name}: labels run from {min(labels)} to {max(labels)}, the model has outputs for 0 to {classes - 1}: load "
            f"the model with num_labels={max(labels) + 1}; where classes have no rows, declare them all in a ClassLabel."
        )
    empty = JointDistribution(counted.languages, range(classes), [[0] * classes] * len(counted.languages))
    return empty + JointDistribution(counted.languages, labels, counted.counts[:, kept])


def selecting_datasets(eval_dataset: Any, metric_for_best_model: str | None) -> list[tuple[str, Any]]:
    """The evaluation sets that choose the checkpoint: a single one, or of several the one that the metric names."""
    if eval_dataset is None:
        return []
    if not isinstance(eval_dataset, dict):
        return [("eval_dataset", eval_dataset)]
    metric = (metric_for_best_model or "").removeprefix("eval_")
    return [(name, dataset) for name, dataset in eval_dataset.items() if metric.startswith(f"{name}_")]


def require_seen(evaluated: JointDistribution, trained: JointDistribution, name: str) -> None:
    """Raise where a set that selects the checkpoint has a language or label that training does not have.

    Raises:
        ValueError: which, and what to do.
    """
    languages = [language for language in evaluated.languages if language not in trained.languages]
    if languages:
        raise ValueError(
            f"{name}: language {', '.join(languages)} is not in train_dataset ({', '.join(trained.languages)}); it would "
            "select the checkpoint without a weight. Drop its rows, or evaluate them with predict."
        )
    columns = zip(trained.labels, trained.counts.sum(axis=0), evaluated.counts.sum(axis=0), strict=True)
    labels = [str(label) for label, before, now in columns if now and not before]
    if labels:
        raise ValueError(f"{name}: label {', '.join(labels)} has no rows in train_dataset. Drop its rows, or add some.")
