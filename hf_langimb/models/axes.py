"""The axes of a trained model, languages x labels: counted on its training data and saved with its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_langimb.counts.columns import class_label_names, whole_number
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.counts.weighting import MISSING_CELL_POLICIES
from hf_langimb.data.rows import arrow_columns
from hf_langimb.files import read_json

AXES_FILE = "langimb.json"
IGNORED_LABEL = -100
MULTI_LABEL = "multi_label_classification"  # the problem type of a model with several labels per text


def axes_of(
    distribution: JointDistribution | MultiLabelDistribution,
    class_weighting: str,
    missing_cell_policy: str,
    weights: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """What a checkpoint stores about its training data, JSON-ready: axes, label names, counts and weights."""
    return {
        "languages": list(distribution.languages),
        "labels": list(distribution.labels),
        "label_names": list(names),
        "counts": distribution.counts.tolist(),
        "class_weighting": class_weighting,
        "missing_cell_policy": missing_cell_policy,
        "weights": weights.tolist(),
    }


def read_axes(folder: str | Path) -> dict[str, Any] | None:
    """`langimb.json` of a checkpoint, None if it has none.

    Raises:
        ValueError: the file is damaged or has another form.
    """
    path = Path(folder, AXES_FILE)
    if not path.is_file():
        return None
    return _checked(read_json(path, f"save or download the model again, the file must contain {_CONTENT}"), str(path))


_CONTENT = "languages, labels, counts and weights"


def _checked(axes: Any, shown: str, classes: int | None = None) -> dict[str, Any]:
    """Axes that have their form and fit the classes of a model, with what earlier versions left out.

    `shown` is what messages call them.
    """
    problem = ""
    try:
        names = axes.setdefault("label_names", [str(label) for label in axes["labels"]])
        languages, labels, weights = axes["languages"], axes["labels"], np.array(axes["weights"], dtype=np.float64)
        policy = axes.setdefault("missing_cell_policy", "ignore" if (weights == 0).any() else "error")
        if not all(isinstance(one, list) for one in (languages, labels, names)) or len(names) != len(labels):
            problem = "languages, labels and label_names must be lists, with one name per label"
        elif not all(isinstance(one, str) for one in [*languages, *names, axes["class_weighting"]]):
            problem = "a name is not a string"
        elif classes not in (None, len(labels)):
            problem = f"{len(labels)} labels for a model with {classes} outputs"
        elif policy not in MISSING_CELL_POLICIES:
            problem = f"unknown missing_cell_policy {policy!r}"
        elif counts_of(axes).counts.shape != weights.shape:
            problem = "the weights are not languages x labels"
        elif not ((weights >= 0) & np.isfinite(weights)).all():
            problem = "a weight is negative or not a number"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{shown} must contain {_CONTENT} ({problem}): save or download the model again.")
    return axes


def counts_of(axes: Mapping[str, Any]) -> JointDistribution | MultiLabelDistribution:
    """The counts of training data that a checkpoint stores."""
    made: Any = MultiLabelDistribution if of_several_labels(axes) else JointDistribution
    found: JointDistribution | MultiLabelDistribution = made(axes["languages"], axes["labels"], axes["counts"])
    return found


def of_several_labels(axes: Mapping[str, Any]) -> bool:
    """Whether the counts of axes have a third one, of no and yes: those of a model with several labels per text."""
    return np.ndim(axes["counts"]) == 3


def stored_axes(model: Any) -> dict[str, Any] | None:
    """The axes in the configuration of a model, or of its adapters, that was trained with this package; else None.

    Raises:
        ValueError: they are damaged.
    """
    axes = (getattr(_active_adapter(model), "auto_mapping", None) or {}).get("langimb")
    if axes is None:
        axes = getattr(config_of(model), "langimb", None)
    classes = getattr(config_of(model), "num_labels", None)
    return None if axes is None else _checked(axes, "The configuration of this model (langimb)", classes)


def _active_adapter(model: Any) -> Any:
    """The PEFT configuration of a model's active adapter, the only one or the first; None without adapters."""
    configs: dict[Any, Any] = getattr(model, "peft_config", None) or {}
    active = getattr(model, "active_adapter", None)
    return configs.get(active) if isinstance(active, str) else next(iter(configs.values()), None)


def store_axes(model: Any, axes: dict[str, Any] | None) -> None:
    """Write axes to the configuration of a model and of its adapters; None removes them."""
    if (config := config_of(model)) is not None:
        config.langimb = axes
        if axes is None:
            del config.langimb
    if (adapters := _active_adapter(model)) is not None:
        # of what PEFT loads again this alone may contain anything; it is read only where task_type is missing
        others = {key: value for key, value in (adapters.auto_mapping or {}).items() if key != "langimb"}
        adapters.auto_mapping = others | ({} if axes is None else {"langimb": axes}) or None


def config_of(model: Any) -> Any:
    """The configuration of a model of Transformers; None for a module without one, or with one of another kind."""
    config = getattr(model, "config", None)
    return config if hasattr(config, "id2label") else None


def class_names(config: Any) -> list[str]:
    """Names of a model's classes in their order; LABEL_0, LABEL_1, ... if its configuration has none.

    A single output decides between two classes: its name is that of the second one.
    """
    known = config.id2label or {}
    names = [str(known.get(i, known.get(str(i), f"LABEL_{i}"))) for i in range(config.num_labels)]
    if len(names) > 1:
        return names
    return ["LABEL_0", "LABEL_1"] if unnamed(names) else [f"not {names[0]}", names[0]]


def unnamed(names: Sequence[str]) -> bool:
    """Whether a model has no names of its own for its classes: they are LABEL_0, LABEL_1, ..."""
    return list(names) == [f"LABEL_{i}" for i in range(len(names))]


def set_class_names(config: Any, names: Sequence[str]) -> None:
    """Write the names of a model's classes to its configuration."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def name_labels(config: Any, distribution: JointDistribution | MultiLabelDistribution) -> str | None:
    """Write the names of a ClassLabel to a model's configuration, unless it has the same names, however spelled.

    Returns:
        A warning where the configuration has other names, which it keeps; else None.

    Raises:
        ValueError: the configuration has some of the names for other classes, or integer labels may be ids or names.
    """
    named, labels = class_names(config), distribution.labels
    if isinstance(distribution, MultiLabelDistribution):
        if unnamed(named):
            set_class_names(config, labels)
        elif [*labels] != named:
            given, own = ", ".join(labels), ", ".join(named)
            raise ValueError(f"distribution has the labels {given}, the model {own}: use the order of the model.")
        return None
    spelling = spelling_of(named, labels)
    ours, theirs = [spelling(name) for name in named], [spelling(label) for label in labels]
    problem: str | None = None
    if not all(isinstance(label, str) for label in labels):
        used = [label for label, rows in zip(labels, distribution.counts.sum(axis=0), strict=True) if rows]
        problem = names_or_ids(named, used)
    elif ours != theirs and {*ours} & {*theirs}:
        present, ids = ({name: i for i, name in enumerate(axis)} for axis in (named, labels))
        order = f"dataset.align_labels_with_mapping({present}, column)"
        problem = (
            f"The model's id2label has the classes {', '.join(named)}, but the data have {', '.join(labels)}: "
            f"{f'use {order}, or ' if {*ours} == {*theirs} else ''}load the model with label2id={ids}."
        )
    elif ours != theirs and not unnamed(named):
        return f"The model keeps its names {', '.join(named)} for the labels {', '.join(labels)} of the data."
    elif ours != theirs:
        set_class_names(config, labels)
    if problem:
        raise ValueError(problem)
    return None


def names_or_ids(named: Sequence[str], labels: Iterable[int]) -> str | None:
    """Why integer labels may be the model's names for its classes, or their ids; None if they can only be ids."""
    used = [str(label) for label in sorted(labels)]
    ours = [folded(name) for name in named]
    if not {*used} <= {*ours} or all(ours[int(label)] == label for label in used if 0 <= int(label) < len(ours)):
        return None
    return _unclear(named, used)


def _unclear(named: Sequence[str], labels: Sequence[Any]) -> str:
    """The message about labels that may be names or ids."""
    return (
        f"The model's id2label has the classes {', '.join(named)}, so the labels {', '.join(map(str, labels))} "
        "may be class names or class ids: use a ClassLabel, or load the model with other class names."
    )


def spelling_of(*axes: Sequence[Any]) -> Callable[[Any], str]:
    """How names are compared: `folded`, or as they are where folded ones of an axis are no longer different."""
    return folded if all(len({*map(folded, axis)}) == len(axis) for axis in axes) else str


def folded(value: Any) -> str:
    """A label without case, spaces, - and _; numbers by their value, also 1.0 and "1"."""
    text = str(value).strip()
    if (number := whole_number(text)) is not None:
        return str(number)
    bare = re.sub(r"[\s_-]+", "", text)
    return (bare if bare and whole_number(bare) is None else text).casefold()  # 1-2 is not 12


def match_labels(dataset: Dataset, names: Sequence[str], axes: dict[str, Any] | None = None) -> pa.Array:
    """The label of each row by the model's name for it, string[N]; null where a row has none.

    All labels are names (case, spaces, - and _ do not matter; numbers, also whole floats, are compared by value), or
    all are class ids, positions among the names. A -1 among class ids or in a ClassLabel is no label.

    Args:
        dataset: rows with a column `label`.
        names: what the model calls its classes, in their order.
        axes: of the model; if it was trained on class ids, integers are ids.

    Raises:
        ValueError: labels that the model does not have, or that may be names or ids.
    """
    (column,) = arrow_columns(dataset, "label")
    if pa.types.is_nested(column.type):
        raise ValueError(f"The label column has values of type {column.type}: expected names or class ids.")
    column = column.combine_chunks().dictionary_encode()
    given = column.dictionary.to_pylist()
    if classes := class_label_names(dataset, "label"):
        given = [None if value < 0 else classes[value] for value in given]
    spelled = {folded(name): name for name in names}
    ids = dict(enumerate(names)) | {-1: None}  # among class ids, -1 is no label
    exact = {name: name for name in names}
    ways: list[tuple[Any, Any]] = [(exact, str), (spelled if len(spelled) == len(names) else {}, folded)]
    of_ids = axes is not None and isinstance(axes["labels"][0], int) and not classes
    of_ids = of_ids and pa.types.is_integer(column.dictionary.type)
    ways.insert(0 if of_ids else len(ways), (ids, whole_number))
    lacking = []
    for known, key in ways:
        keys = [None if value is None else key(value) for value in given]
        pairs = zip(given, keys, strict=True)
        lacking.append([value for value, found in pairs if value is not None and found not in known])
        if not lacking[-1]:
            used = {found for found in keys if found is not None} - {-1}
            if known is ids and -1 in keys and ("-1" in spelled or (not of_ids and names_or_ids(names, used))):
                break
            return pa.array([known.get(found) for found in keys], pa.string()).take(column.indices)
    unknown = sorted({str(value) or "''" for value in min(lacking, key=len)})
    advice = "rename them"
    if unnamed(names):
        advice += ", or name the model's classes (id2label in its config.json; --labels of evaluate.py)"
    raise ValueError(
        f"Labels {', '.join(unknown)} are not among those of the model, {', '.join(names)} (class ids 0 to "
        f"{len(names) - 1}): {advice}."
        if unknown
        else _unclear(names, given)
    )
