"""The axes of a trained model, languages x labels: counted on its training data and saved with its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.counts.columns import class_label_names, require_columns
from hf_langimb.counts.distribution import JointDistribution

AXES_FILE = "langimb.json"
IGNORED_LABEL = -100


def axes_of(
    distribution: JointDistribution, class_weighting: str, weights: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """What a checkpoint stores about its training data, JSON-ready: axes, label names, counts and weights."""
    return {
        "languages": list(distribution.languages),
        "labels": list(distribution.labels),
        "label_names": list(names),
        "counts": distribution.counts.tolist(),
        "class_weighting": class_weighting,
        "weights": weights.tolist(),
    }


def write_axes(folder: str | Path, axes: dict[str, Any]) -> None:
    """Write `langimb.json` to the folder of the weights."""
    text = json.dumps(axes, ensure_ascii=False, indent=1)
    Path(folder, AXES_FILE).write_text(text + "\n", encoding="utf-8")


def read_axes(folder: str | Path) -> dict[str, Any] | None:
    """`langimb.json` of a checkpoint, None if it has none.

    Raises:
        ValueError: the file is damaged or lacks a key.
    """
    path = Path(folder, AXES_FILE)
    if not path.is_file():
        return None
    try:
        axes = json.loads(path.read_text(encoding="utf-8"))
        languages, labels = axes["languages"], axes["labels"]
        names = axes.setdefault("label_names", [str(label) for label in labels])
        if not all(isinstance(one, list) for one in (languages, labels, names)) or len(names) != len(labels):
            raise ValueError("languages, labels and their names are not lists, or labels and names differ")
        if not all(isinstance(one, str) for one in [*languages, *names, axes["class_weighting"]]):
            raise ValueError("a name is not a string")
        JointDistribution(tuple(languages), tuple(labels), np.array(axes["counts"]))
        if np.array(axes["weights"], dtype=np.float64).shape != (len(languages), len(labels)):
            raise ValueError("the weights are not languages x labels")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} does not hold languages, labels, counts and weights ({error}).") from None
    return axes


def class_names(config: Any) -> list[str]:
    """Names of a model's classes in their order; LABEL_0, LABEL_1, ... if its configuration has none."""
    known = config.id2label or {}
    return [str(known.get(i, known.get(str(i), f"LABEL_{i}"))) for i in range(config.num_labels)]


def name_labels(config: Any, labels: Sequence[Any]) -> None:
    """Write the names of a ClassLabel to a model's configuration if that still has LABEL_0, LABEL_1, ...

    Raises:
        ValueError: the configuration has the same names in another order.
    """
    named = [config.id2label.get(i) for i in range(config.num_labels)]
    if named != list(labels) and set(named) == set(labels):
        ids = {name: i for i, name in enumerate(named)}
        raise ValueError(
            f"The model's id2label has the order {', '.join(named)}, the data have {', '.join(labels)}: use "
            f"dataset.align_labels_with_mapping({ids}, column), or load the model with the id2label of the data."
        )
    unnamed = {i: f"LABEL_{i}" for i in range(config.num_labels)}
    if config.id2label == unnamed and all(isinstance(label, str) for label in labels):
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}


def count_for_model(
    dataset: Any, classes: int, language_column: str, label_names: Sequence[str], name: str
) -> JointDistribution:
    """Count a data set on all classes of a model.

    Args:
        dataset: with a language and a label column.
        classes: outputs of the model.
        label_names: columns that the Trainer takes for the label, before `label`, `labels` and `label_ids`.
        name: of the data set, for messages; "train_dataset" must use the model's highest output.

    Raises:
        ValueError: columns are missing or contain nulls, or the labels are not class ids of this model.
    """
    try:
        require_columns(dataset, {"language": language_column})
        if any(text.isdigit() for text in class_label_names(dataset, language_column) or ()):
            raise ValueError(
                f"The language column {language_column!r} is a ClassLabel whose names are numbers, which cannot be "
                "distinguished from its class ids: name the languages, or cast the column to strings."
            )
        column = _label_column(dataset, label_names)
        counted = JointDistribution.from_dataset(dataset, language_column, column)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    names = class_label_names(dataset, column)
    if names is None:
        return _on_all_classes(counted, classes, column, name)
    if len(names) != classes:
        raise ValueError(
            f"{name}: its label column has {len(names)} classes ({', '.join(names)}), the model {classes} outputs: "
            f"load the model with num_labels={len(names)}."
        )
    return counted


def _label_column(dataset: Any, label_names: Sequence[str]) -> str:
    candidates = [*label_names, "label", "labels", "label_ids"]
    present = getattr(dataset, "column_names", None) or next(iter(dataset), candidates)
    found = [candidate for candidate in dict.fromkeys(candidates) if candidate in present]
    column = next(iter(found), "label")
    if len(found) > 1 and present is not candidates:
        raise ValueError(
            f"Found the label columns {' and '.join(found)}, but the Trainer uses only one: remove the others."
        )
    if isinstance(present, list | Mapping) and column not in present:
        raise ValueError(
            f"Expected a label column 'label', got columns {sorted(present)}: rename yours, for example "
            "dataset.rename_column('stars', 'label')."
        )
    return column


def _on_all_classes(counted: JointDistribution, classes: int, column: str, name: str) -> JointDistribution:
    """Integer labels as columns 0 to classes - 1; ignored rows (-100) are left out."""
    kept = [i for i, label in enumerate(counted.labels) if label != IGNORED_LABEL]
    labels = [counted.labels[i] for i in kept]
    if not labels:
        raise ValueError(f"{name}: every row has the label {IGNORED_LABEL} (ignored): add labels, or use predict.")
    kinds = sorted({type(label).__name__ for label in labels})
    if kinds != ["int"]:
        raise ValueError(
            f"{name}: labels must be class ids 0 to {classes - 1}, got {', '.join(kinds)} such as {labels[0]!r}: "
            f"use dataset.class_encode_column({column!r}), or cast the column to int64."
        )
    if min(labels) < 0 or max(labels) >= classes or (name == "train_dataset" and max(labels) < classes - 1):
        raise ValueError(
            f"{name}: labels run from {min(labels)} to {max(labels)}, but the model has outputs for 0 to "
            f"{classes - 1}: load the model with num_labels={max(labels) + 1}; if some classes have no rows, declare "
            "all classes in a ClassLabel."
        )
    rows = len(counted.languages)
    empty = JointDistribution(counted.languages, tuple(range(classes)), np.zeros((rows, classes), dtype=np.int64))
    return empty + JointDistribution(counted.languages, tuple(labels), counted.counts[:, kept])


def selecting_datasets(eval_dataset: Any, metric_for_best_model: str | None) -> list[tuple[str, Any]]:
    """The evaluation set that selects the checkpoint: the only one, or the one in the metric's name."""
    if eval_dataset is None:
        return []
    if not isinstance(eval_dataset, dict):
        return [("eval_dataset", eval_dataset)]
    metric = (metric_for_best_model or "").removeprefix("eval_")
    named = [name for name in eval_dataset if metric.startswith(f"{name}_")]  # of "t" and "t_en" the longer one
    return [(name, eval_dataset[name]) for name in sorted(named, key=len)[-1:]]


def require_same_ids(dataset: Any, language_column: str, trained: JointDistribution, name: str) -> None:
    """Check that class ids of a data set mean the same languages and labels as in training.

    Raises:
        ValueError: they differ; names both orders.
    """
    label = next((column for column in ("labels", "label_ids") if class_label_names(dataset, column)), "label")
    columns = {"language": language_column, "label": label}
    for (purpose, column), expected in zip(columns.items(), (trained.languages, trained.labels), strict=True):
        found = class_label_names(dataset, column)
        if found is None or not all(isinstance(entry, str) for entry in expected):
            continue
        if tuple(found)[: len(expected)] != tuple(expected):
            ids = {entry: i for i, entry in enumerate(expected)}
            raise ValueError(
                f"{name}: its {purpose} column is a ClassLabel with the order {', '.join(found)}, expected "
                f"{', '.join(expected)} as in train_dataset: use dataset.align_labels_with_mapping({ids}, column)."
            )


def require_seen(evaluated: JointDistribution, trained: JointDistribution, name: str) -> None:
    """Check that an evaluation set that selects the checkpoint has only languages and labels of the training data.

    Raises:
        ValueError: it has others; names them.
    """
    known = _with_rows(trained.languages, trained.counts.sum(axis=1))
    languages = [x for x in _with_rows(evaluated.languages, evaluated.counts.sum(axis=1)) if x not in known]
    if languages:
        raise ValueError(
            f"{name}: language {', '.join(languages)} is not in train_dataset ({', '.join(known)}), so it has no "
            "weights and cannot select the checkpoint: remove its rows, or evaluate them with predict."
        )
    columns = zip(trained.labels, trained.counts.sum(axis=0), evaluated.counts.sum(axis=0), strict=True)
    labels = [str(label) for label, before, now in columns if now and not before]
    if labels:
        raise ValueError(
            f"{name}: label {', '.join(labels)} has no rows in train_dataset: remove its rows, or add some there."
        )


def _with_rows(axis: Sequence[Any], rows: np.ndarray) -> list[Any]:
    return [entry for entry, number in zip(axis, rows, strict=True) if number]
