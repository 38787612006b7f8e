"""Columns of a data set: read without copying rows, encoded as positions on an axis. Needs numpy and Arrow only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BATCH_ROWS = 1_000_000


def encode_column(column: Any, name: str) -> tuple[tuple[Any, ...], np.ndarray]:
    """A column as its sorted distinct values and int64 positions on them.

    Args:
        column: list, numpy, pandas or Arrow array; languages are turned into strings, labels keep their type.
        name: "language" or "label", for messages.

    Raises:
        ValueError: null entries, mixed types, or floating-point numbers.
    """
    array = _as_arrow(column, name)
    if pa.types.is_floating(array.type):
        raise ValueError(
            f"The {name} column holds floating-point numbers; expected strings or integers. "
            "Cast it first, for example dataset.cast_column(name, Value('int64'))."
        )
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array)
    if isinstance(array, pa.ChunkedArray):
        array = array.unify_dictionaries().combine_chunks()
        array = array if isinstance(array, pa.Array) else array.chunk(0)
    nulls = array.null_count
    if nulls:
        raise ValueError(
            f"The {name} column has {nulls:,} null entries of {len(array):,}; every row needs a {name}. "
            "Fill them in or filter these rows out."
        )
    values = array.dictionary.to_pylist()
    if name == "language":
        values = [str(value) for value in values]
    axis = sorted(set(values))
    position = {value: i for i, value in enumerate(axis)}
    lookup = np.array([position[value] for value in values], dtype=np.int64)
    ids = lookup[array.indices.to_numpy(zero_copy_only=False)] if len(array) else np.zeros(0, dtype=np.int64)
    if len(axis) > (used := np.unique(ids)).size:  # a dictionary may hold values that no row has
        axis, ids = [axis[i] for i in used], np.searchsorted(used, ids)
    return tuple(axis), ids


def _as_arrow(column: Any, name: str) -> pa.Array | pa.ChunkedArray:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The {name} column mixes types or is not one-dimensional: {error}") from None


def class_label_names(dataset: Any, column: str) -> list[str] | None:
    """Names of a ClassLabel column of a `datasets` data set, in order; None for any other column."""
    feature = (getattr(dataset, "features", None) or {}).get(column)
    return list(feature.names) if hasattr(feature, "int2str") else None


def require_columns(dataset: Any, columns: dict[str, str]) -> None:
    """Raise unless the data set has the columns: {what it is for: name}. Rows of unknown layout pass.

    Raises:
        ValueError: names what is missing, what there is, and what to do.
    """
    present = getattr(dataset, "column_names", None)
    if present is None:
        return
    for purpose, column in columns.items():
        if column in present:
            continue
        advice = f"name the right column with {purpose}_column"
        if purpose == "language":
            advice += (
                "; if the data have none, add one with a language identifier such as fastText's lid.176, GlotLID or "
                "lingua, for example dataset.map(lambda row: {'language': identify(row['text'])})"
            )
        raise ValueError(f"Expected a {purpose} column {column!r}, found columns {sorted(present)}: {advice}.")


def column_batches(dataset: Any, language_column: str, label_column: str) -> Iterable[tuple[Any, Any]]:
    """Pairs of column chunks, as Arrow where the data set can give it."""
    columns = [language_column, label_column]
    if hasattr(dataset, "select_columns"):
        for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=_BATCH_ROWS):
            yield table[language_column], table[label_column]
        return
    rows = [(row[language_column], row[label_column]) for row in dataset]
    if rows:
        languages, labels = zip(*rows, strict=True)
        yield list(languages), list(labels)
