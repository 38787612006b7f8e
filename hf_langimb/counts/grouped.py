"""Tables of counts, the result of a GROUP BY of any engine: which column is which, and counts as whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.types import is_string_view

from hf_langimb.counts.columns import to_arrow, whole_number

USUAL_NAMES = {"language": ("language",), "label": ("label",), "count": ("count", "n")}
_MOST_ROWS = 2**53  # above, floats do not tell neighboring counts apart


def grouped_columns(rows: Any) -> list[Any]:
    """The columns language, label and count, as Arrow; see `JointDistribution.from_counts`.

    Raises:
        ValueError: not three columns, or one that mixes types.
    """
    names: list[Any] = []
    if hasattr(rows, "reset_index"):  # pandas, whose groups may be the index
        rows = rows.reset_index(drop=rows.ndim == 2 and rows.index.names == [None]).rename(columns=str)
    if hasattr(rows, "__arrow_c_stream__"):
        table = pa.table(rows)
        names, columns, found = table.column_names, table.columns, f"the columns {table.column_names}"
    else:
        rows = [*rows]
        first: Any = rows[0] if rows else ("language", "label", "count")
        keyed = hasattr(first, "keys")
        # tuples with names: of Spark, and named tuples
        names = [*first.keys()] if keyed else [*getattr(first, "__fields__", getattr(first, "_fields", ()))]
        misfit = next((row for row in rows if not _fits(row, names if keyed else None)), None)
        keys, found = names if keyed else range(3), f"the row {str(misfit)[:100]}"
        columns = [] if misfit is not None else [[row[key] for row in rows] for key in keys]
    if len(columns) != 3:
        raise ValueError(f"Expected three columns, language, label and count, found {found}: select these three.")
    places = _places([str(name).lower() for name in names])
    arrays = [to_arrow(columns[place], name) for name, place in places.items()]
    # polars' strings, which Arrow cannot filter
    return [array.cast(pa.large_string()) if is_string_view(array.type) else array for array in arrays]


def _fits(row: Any, keys: list[Any] | None) -> bool:
    """Whether a row is a mapping with these keys, None: a sequence, of three values."""
    found = {*row.keys()} if hasattr(row, "keys") else None
    return hasattr(row, "__len__") and len(row) == 3 and found == (keys and {*keys})


def _places(names: list[str]) -> dict[str, int]:
    """Where the columns language, label and count are: under their names, the others in this order."""
    found = {
        kind: next((names.index(name) for name in usual if name in names), -1) for kind, usual in USUAL_NAMES.items()
    }
    free = iter(place for place in range(3) if place not in found.values())
    return {kind: next(free) if place < 0 else place for kind, place in found.items()}


def without_zeros(languages: Any, labels: Any, counts: Any) -> tuple[Any, Any, npt.NDArray[np.int64]]:
    """Columns of a table of counts in Arrow, without entries that count no row; the counts as int64.

    Raises:
        ValueError: a count is not a whole number of 0 or more (as text too), or they are too large.
    """
    counts = counts.combine_chunks() if isinstance(counts, pa.ChunkedArray) else counts
    if pa.types.is_dictionary(counts.type):
        counts = counts.cast(counts.type.value_type)
    if pa.types.is_nested(counts.type):
        counts = pa.array(map(str, counts.to_pylist()))  # which are no numbers
    encoded = pc.dictionary_encode(counts, null_encoding="encode")
    values = encoded.dictionary.to_pylist()
    numbers = [None if isinstance(value, bool) else whole_number(value) for value in values]
    wrong = [value for value, number in zip(values, numbers, strict=True) if number is None or number < 0]
    if wrong:
        rows, found = np.zeros(0, dtype=np.int64), "no value" if wrong[0] is None else repr(wrong[0])
    else:
        rows = np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
        found = f"{rows.sum(dtype=float):.3g} in total"
    if wrong or rows.sum(dtype=float) >= _MOST_ROWS:
        raise ValueError(
            "The count column must contain the number of rows of each entry, whole numbers of 0 or more (less than "
            f"2**53 in total); found {found}: correct it, or name another column."
        )
    kept = pa.array(rows > 0)
    return languages.filter(kept), labels.filter(kept), rows[rows > 0]
