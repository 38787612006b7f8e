"""Counts of a dataset on the outputs of a model: the labels that it must have to be trained or evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.trainer_utils import has_length

from hf_langimb.counts.columns import class_label_names, first_row, is_transformed
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.data.rows import arrow_columns
from hf_langimb.models.axes import IGNORED_LABEL, names_or_ids
from hf_langimb.training.checks import other_ids

COUNTED_ROWS = 1_000_000  # of a dataset without a length
GIVE_COUNTS = "pass its counts as distribution=, or set class_weighting='none'"


def count_for_model(
    dataset: Any,
    name: str,
    *,
    classes: int | None,
    language_column: str,
    label_names: Sequence[str],
    given: JointDistribution | MultiLabelDistribution | None = None,
    trained: JointDistribution | None = None,
    names: Sequence[str] = (),
) -> JointDistribution:
    """Count a dataset with a language and a label column on all classes (outputs) of a model.

    A dataset without a length is counted up to `COUNTED_ROWS`.

    Args:
        classes: None where the model does not say how many it has: as many as the labels need.
        name: of the dataset, for messages; "train_dataset" must use the model's highest output.
        label_names: columns that the Trainer uses as label, before `label`, `labels` and `label_ids`.
        given: its counts, where they are known; the dataset is not read.
        trained: counts of the training data, whose class ids must mean the same.
        names: the model's, of its classes.

    Raises:
        ValueError: columns are missing or contain nulls, labels are not class ids of this model, or a stream has too
            many rows.
    """
    try:
        if given is None:
            column = label_column_of(dataset, language_column, label_names)
            counted = JointDistribution.from_dataset(_limited(dataset), language_column, column)
            named = class_label_names(dataset, column) is not None
            _refuse_endless(dataset, counted.rows)
        elif isinstance(given, MultiLabelDistribution):
            kind = "problem_type='multi_label_classification'"
            raise ValueError(f"it has counts of several labels per text: load the model with {kind}.")
        else:
            column, counted, named = "label", given, all(isinstance(label, str) for label in given.labels)
            trained = given  # of this dataset
        if classes is None:
            classes = len(trained.labels) if trained else _needed(counted, named)
        problem = _misfit(counted.labels, named, classes, column, names, all_used=name == "train_dataset")
        if not problem:
            counted = counted if named else _on_all_classes(counted, classes)
            if trained is not None:
                problem = other_ids(dataset, language_column, trained)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{name}: {problem}")
    return counted


def count_labels_for_model(
    dataset: Any,
    name: str,
    *,
    language_column: str,
    label_names: Sequence[str],
    names: Sequence[str],
    given: MultiLabelDistribution | None = None,
    trained: MultiLabelDistribution | None = None,
) -> MultiLabelDistribution:
    """`count_for_model` of a model with several labels: a column of lists with a 0 or 1 for each of its outputs.

    Raises:
        ValueError: as `count_for_model`, or lists that are not 0 and 1 for each output.
    """
    try:
        if given is not None:
            if not isinstance(given, MultiLabelDistribution) or len(given.labels) != len(names):
                raise ValueError(
                    f"distribution must be a MultiLabelDistribution of {len(names)} labels, one for each output of the "
                    f"model, got {type(given).__name__}."
                )
            return given
        column, read = label_column_of(dataset, language_column, label_names, several=True), dataset
        if not has_length(dataset):
            read = [{name: row[name] for name in (language_column, column) if name in row} for row in _limited(dataset)]
            _refuse_endless(dataset, len(read))
        try:
            counted = MultiLabelDistribution.from_dataset(read, language_column, column, names)
        except ValueError as error:
            advice = "for one label per text, set the model's problem_type to 'single_label_classification'"
            raise ValueError(f"{str(error).removesuffix('.')} ({advice}).") from None
        if isinstance(dataset, Dataset) and not is_transformed(dataset) and (empty := _null_lists(dataset, column)):
            nulls = f"[{', '.join(['null'] * min(len(names), 3))}{', ...' * (len(names) > 3)}]"
            raise ValueError(f"The column {column!r} has no list in {empty:,} rows: write {nulls}, or leave them out.")
        if trained is not None and (problem := other_ids(dataset, language_column, trained)):
            raise ValueError(problem)
        return counted
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _null_lists(dataset: Dataset, column: str) -> int:
    """Number of rows without a list."""
    return int(arrow_columns(dataset, column)[0].null_count)


def _refuse_endless(dataset: Any, rows: int) -> None:
    """Refuse a dataset without a length that has too many rows to count, or whose rows are used up by counting."""
    endless = not has_length(dataset) and rows > COUNTED_ROWS
    if endless or (not has_length(dataset) and first_row(dataset) is None):
        what = f"has no length and more than {COUNTED_ROWS:,} rows" if endless else "can be read only once"
        raise ValueError(f"it {what}: {GIVE_COUNTS}.")


def _limited(dataset: Any) -> Any:
    """A dataset without a length as its first rows, one more than are counted; any other as it is."""
    if has_length(dataset):
        return dataset
    if hasattr(dataset, "take"):
        return dataset.take(COUNTED_ROWS + 1)
    return islice(dataset, COUNTED_ROWS + 1)


def label_column_of(dataset: Any, language_column: str, label_names: Sequence[str], several: bool = False) -> str:
    """Name of the one label column; `several`: it has lists."""
    names = getattr(dataset, "column_names", None)
    present = first_row(dataset) if is_transformed(dataset) or not names else names
    if isinstance(names, dict) or not isinstance(present, list | Mapping):  # splits, no rows: counting reports it
        return "label"
    found = [name for name in dict.fromkeys([*label_names, "label", "labels", "label_ids"]) if name in present]
    problem = ""
    if any(text.isdigit() for text in class_label_names(dataset, language_column) or ()):
        problem = (
            f"The language column {language_column!r} is a ClassLabel whose names are numbers, which cannot be "
            "distinguished from its class ids: name the languages, or cast the column to strings."
        )
    elif len(found) != 1:
        advice = "keep one, for example with dataset.rename_column('stars', 'label')"
        if several:
            names = list(label_names) if len(label_names) > 1 else ["toxic", "insult"]
            advice = f"make one of lists: dataset.map(lambda row: {{'labels': [row[name] for name in {names}]}})"
        problem = (
            f"Expected one label column 'label{'s' * several}', got {' and '.join(found) or 'none'} in columns "
            f"{sorted(present)}: {advice}."
        )
    if problem:
        raise ValueError(problem)
    return found[0]


def _misfit(
    axis: Sequence[Any], named: bool, classes: int, column: str, names: Sequence[str], all_used: bool
) -> str | None:
    """How the sorted labels of a column, or the names of its ClassLabel, differ from the outputs of a model."""
    labels = [label for label in axis if label != IGNORED_LABEL]
    if named:
        fits, found = len(labels) == classes, f"{len(labels)} classes ({', '.join(labels)})"
        advice = f"load the model with num_labels={len(labels)}"
    elif labels and _is_id(labels[0]):
        lowest, highest = labels[0], labels[-1]
        fits = lowest >= 0 and (highest == classes - 1 if all_used else highest < classes)
        found = f"labels {lowest} to {highest}"
        advice = f"load the model with num_labels={highest + 1}; if classes have no rows, declare all in a ClassLabel"
        if lowest < 0:
            advice = f"leave out the rows labeled {lowest}, or label them {IGNORED_LABEL}, which the loss ignores"
    else:
        fits = False
        found = f"{type(labels[0]).__name__} such as {labels[0]!r}" if labels else f"only {IGNORED_LABEL} (ignored)"
        advice = f"use dataset.class_encode_column({column!r}), cast the column to int64, or use predict without labels"
    if fits:
        return None
    if not named and labels and _is_id(labels[0]) and (problem := names_or_ids(names, labels)):
        return problem
    return f"The model has outputs for labels 0 to {classes - 1}, but the column {column!r} has {found}: {advice}."


def _needed(counted: JointDistribution, named: bool) -> int:
    """How many classes the labels of a column, or the names of its ClassLabel, need."""
    highest = counted.labels[-1]
    return int(highest) + 1 if _is_id(highest) and not named else len(counted.labels)


def _is_id(label: Any) -> bool:
    """Whether a label is an integer, which booleans are not."""
    return type(label) is int


def _on_all_classes(counted: JointDistribution, classes: int) -> JointDistribution:
    """Counts with one column per output of the model; ignored rows (-100) are left out."""
    counts = np.zeros((len(counted.languages), classes), dtype=np.int64)
    for label, rows in zip(counted.labels, counted.counts.T, strict=True):
        if label != IGNORED_LABEL:
            counts[:, label] = rows
    return JointDistribution(counted.languages, tuple(range(classes)), counts)
