"""Columns of a data set: read without copying rows, encoded as positions on an axis. Needs numpy and Arrow only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.types import is_boolean, is_integer, is_large_string, is_null, is_string, is_string_view

_BATCH_ROWS = 1_000_000
# is_null: no rows, or nulls alone, which have a message of their own
_ACCEPTED = (is_integer, is_boolean, is_string, is_large_string, is_string_view, is_null)


def encode_column(column: Any, name: str) -> tuple[tuple[Any, ...], np.ndarray]:
    """A column as its sorted distinct values and int64 positions on them.

    Args:
        column: list, numpy, pandas or Arrow array; languages are turned into strings, labels keep their type.
        name: "language" or "label", for messages.

    Raises:
        ValueError: null entries, mixed types, or values that are no strings, integers or booleans.
    """
    try:
        array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The {name} column mixes types or is not one-dimensional: {error}") from None
    if pa.types.is_dictionary(array.type):  # its dictionary may hold nulls, repeats and values that no row has
        array = array.cast(array.type.value_type)
    problem = ""
    if array.null_count:  # before the type: a blank turns a CSV file's integers into floats
        problem = (
            f"has {array.null_count:,} null entries of {len(array):,}; every row needs one. Fill them in or filter "
            "these rows out."
        )
    elif not any(accepts(array.type) for accepts in _ACCEPTED):
        problem = (
            f"has values of type {array.type}; expected strings, integers or booleans. Cast it first, for example "
            "dataset.cast_column(column, Value('int64'))."
        )
    if problem:
        raise ValueError(f"The {name} column {problem}")
    array = pc.dictionary_encode(array)
    if isinstance(array, pa.ChunkedArray):
        array = array.unify_dictionaries().combine_chunks()
    values = array.dictionary.to_pylist()
    if name == "language":
        values = [str(value) for value in values]
    axis = sorted(values)
    position = {value: i for i, value in enumerate(axis)}
    lookup = np.array([position[value] for value in values], dtype=np.int64)
    return tuple(axis), lookup[array.indices.to_numpy(zero_copy_only=False)]


def encode_columns(**columns: Any) -> list[tuple[tuple[Any, ...], np.ndarray]]:
    """Columns of the same rows, by name, each encoded as by `encode_column`.

    Raises:
        ValueError: what `encode_column` raises, or columns of different lengths.
    """
    encoded = {name: encode_column(column, name) for name, column in columns.items()}
    if len({len(ids) for _, ids in encoded.values()}) > 1:
        found = ", ".join(f"{len(ids):,} in the {name} column" for name, (_, ids) in encoded.items())
        raise ValueError(f"Expected one entry per row in each column, found {found}.")
    return list(encoded.values())


def class_label_names(dataset: Any, column: str) -> list[str] | None:
    """Names of a ClassLabel column of a `datasets` data set, in order; None for any other column."""
    feature: Any = (getattr(dataset, "features", None) or {}).get(column)
    return list(feature.names) if hasattr(feature, "int2str") else None


def require_columns(dataset: Any, columns: dict[str, str]) -> None:
    """Raise unless a data set, or a row, has the columns: {purpose: name}. A stream of unknown columns passes.

    Raises:
        ValueError: names the missing column, the existing ones, and what to do.
    """
    present = getattr(dataset, "column_names", dataset if isinstance(dataset, Mapping) else None)
    missing = [purpose for purpose, column in columns.items() if column not in (present or columns.values())]
    problem = ""
    if present is not dataset and isinstance(present, dict):
        problem = (
            f"Expected one data set, got a dictionary of splits {sorted(present)}: choose one, for example "
            f"dataset[{next(iter(present), 'train')!r}]."
        )
    elif len(set(columns.values())) < len(columns):
        problem = f"Expected different columns for {' and '.join(columns)}, got {', '.join(columns.values())}."
    elif missing:
        problem = _missing_column(missing[0], columns[missing[0]], present)
    if problem:
        raise ValueError(problem)


def _missing_column(purpose: str, column: str, present: Iterable[str]) -> str:
    """Message of a missing column."""
    advice = f"name the right column with {purpose.partition(' ')[0]}_column"
    if purpose == "language":
        advice += (
            "; if the data have none, add one with a language identifier such as fastText's lid.176, GlotLID or "
            "lingua, for example dataset.map(lambda row: {'language': identify(row['text'])})"
        )
    article = "an" if purpose == "id" else "a"
    return f"Expected {article} {purpose} column {column!r}, found columns {sorted(present)}: {advice}."


def column_batches(dataset: Any, language_column: str, label_column: str) -> Iterable[tuple[Any, Any]]:
    """Pairs of column chunks, as Arrow where the data set can give it."""
    columns = {"language": language_column, "label": label_column}
    if hasattr(dataset, "select_columns"):
        if dataset.column_names is None and (first := next(iter(dataset), None)):  # a stream that declares no columns
            require_columns(first, columns)
        for table in dataset.select_columns(list(columns.values())).with_format("arrow").iter(batch_size=_BATCH_ROWS):
            yield table[language_column], table[label_column]
        return
    languages, labels = [], []
    for row in dataset:
        if not isinstance(row, Mapping):
            raise ValueError(
                f"Expected rows that are mappings such as {{{language_column!r}: 'fr', {label_column!r}: 0}}, found "
                f"{type(row).__name__}: pass a datasets.Dataset (see Dataset.from_pandas) or a list of dicts."
            )
        require_columns(row, columns)
        languages.append(row[language_column])
        labels.append(row[label_column])
    if languages:
        yield languages, labels
