"""Columns of a dataset: read without copying rows, encoded as positions on an axis. Needs numpy and Arrow only."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.types import (
    is_boolean,
    is_float32,
    is_float64,
    is_integer,
    is_large_string,
    is_null,
    is_string,
    is_string_view,
)

NO_LABEL = -1  # the class id of rows without a label, as in test splits whose labels are kept back
_BATCH_ROWS, _TRANSFORMED_ROWS = 1_000_000, 1000
# is_null: no rows, or only nulls, which have their own message
_ACCEPTED = (is_integer, is_boolean, is_string, is_large_string, is_string_view, is_null)


def encode_column(column: Any, name: str) -> tuple[tuple[Any, ...], np.ndarray]:
    """A column as its sorted distinct values and int64 positions on them.

    Args:
        column: list, numpy, pandas or Arrow array; languages are turned into strings, labels keep their type.
        name: "language" or "label", for messages.

    Raises:
        ValueError: null entries, mixed types, or values other than strings, integers or booleans.
    """
    array, problem = to_arrow(column, name), ""
    if isinstance(array, pa.ChunkedArray) and array.num_chunks == 1:
        array = array.chunk(0)
    if pa.types.is_dictionary(array.type) and (isinstance(array, pa.ChunkedArray) or array.dictionary.null_count):
        array = array.cast(array.type.value_type)
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if array.null_count:
        problem = (
            f"is empty in {array.null_count:,} of {len(array):,} rows: fill it in, or "
            f"{'name no id column' if name == 'id' else 'drop these rows (commands: --drop-null)'}."
        )
    elif pa.types.is_nested(kind):
        problem = f"has lists ({kind}); expected one {name} per text."
        if name == "label":
            problem = f"{problem[:-1]} (for several labels per text: langimb audit --label-columns, "
            problem += "MultiLabelDistribution, and models with problem_type='multi_label_classification')."
    elif not any(accepts(kind) for accepts in _ACCEPTED):
        # `datasets` reads mixed types as JSON
        found = "mixed types" if isinstance(kind, pa.JsonType) else f"type {kind}"
        problem = (
            f"has values of {found}; expected strings, integers or booleans. Convert or cast it first, for example "
            "dataset.cast_column(column, Value('int64'))."
        )
    if problem:
        raise ValueError(f"The {name} column {problem}")
    if isinstance(array, pa.ChunkedArray):  # selected rows are a chunk each: one dictionary, not thousands
        array = (array.cast(pa.large_string()) if is_string(array.type) else array).combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array)
    values, indices = array.dictionary.to_pylist(), array.indices.to_numpy(zero_copy_only=False)
    used = np.flatnonzero(np.bincount(indices, minlength=len(values)))  # a dictionary may hold what no row has
    if name == "language":
        values = [str(value) for value in values]
    axis = sorted({values[i] for i in used})
    position = {value: i for i, value in enumerate(axis)}
    lookup = np.array([position.get(value, 0) for value in values], dtype=np.int64)
    return tuple(axis), lookup[indices] if len(indices) else indices.astype(np.int64)


def to_arrow(column: Any, name: str) -> Any:
    """A list, numpy or pandas column as an Arrow array; name: for the message.

    Raises:
        ValueError: mixed types, or no column.
    """
    try:
        return column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"The {name} column mixes types or is not one-dimensional: {error}") from None


def whole_floats(column: Any) -> Any:
    """A column of Arrow as integers if it has whole floats (a null among integers makes floats of them), else as is.

    What is not a number is null.
    """
    if not (is_float32(column.type) or is_float64(column.type)):
        return column
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    whole = pc.and_(pc.equal(column, pc.round(column)), pc.less(pc.abs(column), 2.0**53))
    return column.cast(pa.int64()) if pc.all(whole).as_py() else column


def whole_number(value: Any) -> int | None:
    """A whole number, also as text or a float (1.0); None for anything else."""
    found = re.fullmatch(r"\s*(-?\d{1,18})(\.0*)?\s*", str(int(value) if isinstance(value, bool) else value), re.ASCII)
    return int(found[1]) if found else None


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
    """Names of a ClassLabel column of a `datasets` dataset, in order; None for any other column."""
    if type(dataset).__module__ == "torch.utils.data.dataset":
        if type(dataset).__name__ == "Subset":
            return class_label_names(dataset.dataset, column)
        if type(dataset).__name__ == "ConcatDataset":
            first, *others = (class_label_names(part, column) for part in dataset.datasets)
            if any(other != first for other in others):
                raise ValueError(f"The parts of the dataset have different class names in the column {column!r}.")
            return first
    features = getattr(getattr(dataset, "_info", dataset), "features", None)  # without the copy that `datasets` gives
    feature: Any = (features or {}).get(column)
    return list(feature.names) if hasattr(feature, "int2str") else None


def require_columns(dataset: Any, columns: dict[str, str]) -> None:
    """Raise unless a dataset, or a row, has the columns: {purpose: name}. A stream of unknown columns passes.

    Raises:
        ValueError: names the missing column, the existing ones, and what to do.
    """
    present = getattr(dataset, "column_names", dataset)
    problem = ""
    if isinstance(present, dict) and present is not dataset:
        problem = (
            f"Expected one dataset, got a dictionary of splits {sorted(present)}: choose one, for example "
            f"dataset[{next(iter(present), 'train')!r}]."
        )
    elif not isinstance(present, Mapping | list | None):
        problem = (
            f"Expected rows that are mappings such as {{'language': 'fr', 'label': 0}}, found "
            f"{type(dataset).__name__}: pass a datasets.Dataset (see Dataset.from_pandas) or a list of dicts."
        )
    elif len(set(columns.values())) < len(columns):
        repeated = max(columns.values(), key=[*columns.values()].count)
        purposes = [purpose for purpose, column in columns.items() if column == repeated]
        problem = f"Expected different columns for {' and '.join(purposes)}, got {repeated!r} for all of them."
    elif missing := [purpose for purpose, column in columns.items() if column not in (present or columns.values())]:
        purpose = missing[0].partition(" ")[0]  # of "text 2"
        problem = (
            f"Expected {'an' if purpose == 'id' else 'a'} {purpose} column {columns[missing[0]]!r}, found columns "
            f"{sorted(present or ())}: name the right column with {purpose}_column"
        )
        if purpose == "language":
            problem += (
                "; if the data have none, pass --language NAME to langimb train (one language), or add one with a "
                "language identifier such as fastText's lid.176, GlotLID or lingua, for example dataset.map("
                "lambda row: {'language': identify(row['text'])})"
            )
        problem += "."
    if problem:
        raise ValueError(problem)


def column_batches(dataset: Any, columns: dict[str, str]) -> Iterable[tuple[Any, ...]]:
    """Chunks of columns, {purpose: name}, as Arrow where the dataset can give it; errors as `require_columns`."""
    names = [*columns.values()]
    if is_transformed(dataset):
        for batch in dataset.iter(batch_size=_TRANSFORMED_ROWS):
            require_columns(batch, columns)
            yield tuple(_plain(batch[name]) for name in names)
    elif hasattr(dataset, "select_columns"):
        for row in dataset.take(1) if dataset.column_names is None else [dataset]:
            require_columns(row, columns)
        for table in dataset.select_columns(names).with_format("arrow").iter(batch_size=_BATCH_ROWS):
            yield tuple(table[name] for name in names)
    else:
        found: list[list[Any]] = []
        for row in _rows(dataset):
            require_columns(row, columns)
            found.append([row[name] for name in names])
        if found:
            yield tuple(map(_plain, zip(*found, strict=True)))


def is_transformed(dataset: Any) -> bool:
    """Whether a `datasets` dataset has a transform: its rows are trained on, not its columns."""
    return bool(getattr(dataset, "format", {}).get("type") == "custom")


def first_row(dataset: Any) -> Any:
    """The first row of a dataset as it is trained on, None where there is none."""
    return next(iter(_rows(dataset)), None)


def _rows(dataset: Any) -> Iterable[Any]:
    """Rows in their order: by index where the number of rows is known, as a DataLoader reads them."""
    torch = sys.modules.get("torch.utils.data")  # whose streams inherit __getitem__
    stream = (torch is not None and isinstance(dataset, torch.IterableDataset)) or hasattr(dataset, "keys")
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not stream:
        return (dataset[i] for i in range(len(dataset)))
    rows: Iterable[Any] = dataset
    return rows


def _plain(values: Iterable[Any]) -> list[Any]:
    """Values without the tensor or array around each."""
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]
