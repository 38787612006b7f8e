"""The one table of the package: how many rows each language has of each label, and measures of it.

Datasets, sampling plans and a model's predictions are all audited by the same `JointDistribution`: only the column
that is counted differs. Needs numpy, scipy and Arrow, not torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hf_langimb.counts.audit import Audit, audit, expected_counts, ratio, used_axes
from hf_langimb.counts.columns import (
    NO_LABEL,
    class_label_names,
    column_batches,
    encode_column,
    encode_columns,
    whole_floats,
)
from hf_langimb.counts.grouped import grouped_columns, without_zeros
from hf_langimb.counts.weighting import Counts, Floats


@dataclass(frozen=True, eq=False)
class JointDistribution:
    """Counts of rows on the axes languages x labels.

    Args:
        languages: L distinct names, as strings.
        labels: C distinct labels as they are in the data (strings, integers or booleans; the names of a ClassLabel).
        counts: int64[L, C], rows in each cell.
        null_languages: rows without a language, which are in no cell.
        null_labels: rows of each language without a label, likewise.

    Raises:
        ValueError: the shape does not fit the axes, a name is repeated on its axis, or a count is not a whole number.
    """

    languages: tuple[str, ...]
    labels: tuple[Any, ...]
    counts: Counts
    null_languages: int = 0
    null_labels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = whole_counts(self.counts)
        languages = tuple(map(str, self.languages))
        labels = tuple(value.item() if isinstance(value, np.generic) else value for value in self.labels)
        sizes = len(languages), len(labels)
        if counts.shape != sizes or (len(set(languages)), len(set(labels))) != sizes:
            raise ValueError(
                f"Counts must have shape {sizes} for {sizes[0]} languages and {sizes[1]} labels, each name once; "
                f"got shape {counts.shape}, languages {list(languages)} and labels {list(labels)}."
            )
        counts.flags.writeable = False
        for name, value in (("counts", counts), ("languages", languages), ("labels", labels)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_columns(cls, languages: Any, labels: Any) -> JointDistribution:
        """Count two columns of equal length (lists, numpy, pandas or Arrow arrays).

        Both axes are sorted. Languages become strings; labels keep their type.

        Raises:
            ValueError: no rows, different lengths, nulls, or values other than strings, integers or booleans.
        """
        return cls._from_entries(languages, labels)

    @classmethod
    def _from_entries(cls, languages: Any, labels: Any, rows: Counts | None = None) -> JointDistribution:
        """As `from_columns`, of entries that each stand for `rows` (above 0) rows, None: for one."""
        (language_axis, language_ids), (label_axis, label_ids) = encode_columns(language=languages, label=labels)
        if len(language_ids) == 0:
            raise ValueError("No rows to count: the dataset is empty.")
        shape = len(language_axis), len(label_axis)
        cells = np.bincount(language_ids * shape[1] + label_ids, rows, minlength=shape[0] * shape[1])
        return cls(language_axis, label_axis, cells.reshape(shape))

    @classmethod
    def from_counts(cls, rows: Any) -> JointDistribution:
        """Create from a table of counts, such as the result of a GROUP BY of any engine.

        The result is the same as that of `from_columns` for the rows themselves; entries of 0 are left out. Rows
        without a language or label are in `null_languages` and `null_labels`. If each process, file or machine counts
        a part of the data, add their distributions.

        Args:
            rows: (language, label, count) triples or mappings, or a table of these three columns (Arrow, pandas,
                polars, a DuckDB relation). Columns that are called language, label, and count or n, are these; others
                are taken in this order. The counts of entries with the same language and label add up.

        Raises:
            ValueError: not three columns, counts that are not whole numbers of 0 or more, what `from_columns` raises.

        Example:
            >>> query = "SELECT language, label, count(*) AS n FROM 'data.parquet' GROUP BY ALL"  # of DuckDB
            >>> JointDistribution.from_counts(duckdb.sql(query).fetchall())
            >>> # Spark: one row per language and label leaves the cluster
            >>> JointDistribution.from_counts(frame.groupBy("language", "label").count().collect())
        """
        return cls.from_batches([without_zeros(*grouped_columns(rows))], count_nulls=True)

    @classmethod
    def from_dataset(
        cls, dataset: Any, language_column: str = "language", label_column: str = "label"
    ) -> JointDistribution:
        """Count two columns of a `datasets.Dataset` or `IterableDataset`, or of any rows that are mappings, in batches.

        A ClassLabel column gives its names, in its order, those without rows included.

        Raises:
            ValueError: a column is missing (the message names the existing ones), nulls, or no rows.
        """
        names = [class_label_names(dataset, column) for column in (language_column, label_column)]
        columns = {"language": language_column, "label": label_column}
        return cls.from_batches(column_batches(dataset, columns), *names)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[tuple[Any, ...]],
        language_names: list[str] | None = None,
        label_names: list[str] | None = None,
        *,
        count_nulls: bool = False,
    ) -> JointDistribution:
        """Count pairs of columns, batch by batch.

        Args:
            batches: languages and labels of the same rows, as `from_columns` takes them; with `count_nulls` also the
                number of rows that each entry stands for, as `without_zeros` gives it.
            language_names, label_names: of class ids, in order; those without rows are on the axis too.
            count_nulls: count rows without a language or label (of Arrow columns; also class id -1) instead of
                refusing them.

        Raises:
            ValueError: what `from_columns` raises.
        """
        total = None
        null_languages, null_labels = 0, Counter[str]()
        for languages, labels, *rows in batches:
            if count_nulls:
                languages, labels = whole_floats(languages), whole_floats(labels)
                if label_names is not None:
                    labels = pc.if_else(pc.equal(labels, NO_LABEL), pa.scalar(None, labels.type), labels)
            if count_nulls and (languages.null_count or labels.null_count):
                number, by_language, (languages, labels, *rows) = _split_nulls(languages, labels, language_names, *rows)
                null_languages += number
                null_labels.update(by_language)
            if len(languages) or len(labels):
                part = cls._from_entries(languages, labels, *rows)
                total = part if total is None else total + part
        if total is None and (null_languages or null_labels):
            nothing = np.zeros((len(language_names or ()), len(label_names or ())), dtype=np.int64)
            nulls = null_languages, dict(sorted(null_labels.items()))
            return cls(tuple(language_names or ()), tuple(label_names or ()), nothing, *nulls)
        total = total or cls.from_columns([], [])  # which raises
        named, counts = on_class_axis(total.languages, language_names, total.counts, "language")
        labels, counts = on_class_axis(total.labels, label_names, counts.T, "label")
        return cls(named, labels, counts.T, null_languages, dict(sorted(null_labels.items())))

    def relabeled(self, names: Mapping[Any, Any]) -> JointDistribution:
        """The same rows with a new name for each label, sorted; labels that get the same name become one."""
        found = [names[label] for label in self.labels]
        labels = tuple(sorted({*found}))
        counts = np.zeros((len(labels), len(self.languages)), dtype=np.int64)
        np.add.at(counts, [labels.index(name) for name in found], self.counts.T)
        return JointDistribution(self.languages, labels, counts.T, self.null_languages, self.null_labels)

    def __add__(self, other: JointDistribution) -> JointDistribution:
        """Counts of two datasets together; an axis that both share stays, otherwise the two are merged."""
        if not isinstance(other, JointDistribution):
            return NotImplemented
        languages, labels = _merge(self.languages, other.languages), _merge(self.labels, other.labels)
        counts = np.zeros((len(languages), len(labels)), dtype=np.int64)
        for part in (self, other):
            counts[np.ix_([*map(languages.index, part.languages)], [*map(labels.index, part.labels)])] += part.counts
        without = Counter(self.null_labels) + Counter(other.null_labels)
        nulls = self.null_languages + other.null_languages, dict(sorted(without.items()))
        return JointDistribution(languages, labels, counts, *nulls)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, JointDistribution)
            and (self.languages, self.labels) == (other.languages, other.labels)
            and np.array_equal(self.counts, other.counts)
        )

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return int(self.counts.sum())

    @property
    def row_shares(self) -> Floats:
        """Share of each label within each language, float64[L, C]; NaN for a language without rows."""
        return ratio(self.counts, self.counts.sum(axis=1, keepdims=True), np.nan)

    @property
    def mutual_information_bits(self) -> float:
        """I(language; label), plug-in, in bits: 0 where labels do not depend on language."""
        return mutual_information_bits(self.counts)

    @property
    def mutual_information_chance_bits(self) -> float:
        """Mean of the mutual information of independent columns of this size: (L - 1)(C - 1) / (2 N ln 2)."""
        languages, labels = used_axes(self.counts)
        return float(max(languages - 1, 0) * max(labels - 1, 0) / (2 * max(self.rows, 1) * np.log(2)))

    @property
    def missing_cells(self) -> list[list[Any]]:
        """Cells without rows, as [language, label]."""
        return [[self.languages[i], self.labels[j]] for i, j in np.argwhere(self.counts == 0).tolist()]

    def audit(self, weighting: str = "none") -> Audit:
        """Every measure as one JSON-ready dictionary (AUDIT of results.json), with its verdict in words.

        Args:
            weighting: the scheme whose `weights` and effective sample size are reported. Empty cells are listed under
                `missing_cells` and get weight 0 (an audit must be able to show them).
        """
        return audit(self, weighting)


def whole_counts(counts: Any) -> Counts:
    """A copy of a table of counts, int64.

    Raises:
        ValueError: a negative or fractional entry, NaN, or infinity.
    """
    table = np.asarray(counts)
    wrong = ~(np.isfinite(table) & (table >= 0) & (table == np.floor(table)))
    if wrong.any():
        advice = " (hf_langimb.allocate turns shares into counts)" if table.ndim else ""
        raise ValueError(f"Counts of rows must be whole numbers of 0 or more, got {table[wrong][0]}{advice}.")
    return table.astype(np.int64)


def mutual_information_bits(table: npt.NDArray[Any]) -> float:
    """Mutual information of rows and columns of a table of counts or joint shares [L, C], in bits; 0 if it is empty."""
    total = table.sum()
    if total == 0:
        return 0.0
    surprise = np.log2(np.divide(table, expected_counts(table), out=np.ones(table.shape), where=table > 0))
    bits = float((table * surprise).sum() / total)
    return bits if bits > 1e-12 else 0.0  # rounding is not dependence


def _merge(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """Union of two axes: sorted where both are, else the first's order followed by the second's new entries."""
    kinds = {type(value) for value in first + second}
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"Cannot add distributions whose axes differ in type ({names}); cast one column first.")
    if first == second:
        return first
    if list(first) == sorted(first) and list(second) == sorted(second):
        return tuple(sorted({*first, *second}))
    return first + tuple(value for value in second if value not in first)


def _split_nulls(
    languages: Any, labels: Any, language_names: list[str] | None, rows: Counts | None = None
) -> tuple[int, dict[str, int], list[Any]]:
    """Rows without a language, rows without a label by language, and the columns (Arrow) of the others.

    Args:
        languages, labels: of entries that each stand for `rows` rows, None: for one.
        language_names: of class ids.
    """
    with_language, with_label = np.asarray(languages.is_valid()), np.asarray(labels.is_valid())
    number = np.ones(len(languages), dtype=np.int64) if rows is None else rows
    complete, unlabeled = with_language & with_label, with_language & ~with_label
    axis, ids = encode_column(languages.filter(pa.array(unlabeled)), "language")
    named = axis if language_names is None else [language_names[int(value)] for value in axis]
    by_language = np.bincount(ids, number[unlabeled], len(axis)).astype(np.int64).tolist()
    kept = [column.filter(pa.array(complete)) for column in (languages, labels)]
    kept += [] if rows is None else [rows[complete]]
    return int(number[~with_language].sum()), dict(zip(named, by_language, strict=True)), kept


def on_class_axis(
    axis: tuple[Any, ...], names: list[str] | None, counts: Counts, what: str
) -> tuple[tuple[Any, ...], Counts]:
    """An axis of class ids as all names of its ClassLabel, with counts [axis, other]; unchanged where names is None."""
    if names is None:
        return axis, counts
    ids = [int(value) for value in axis]
    if wrong := [number for number in ids if not 0 <= number < len(names)]:
        raise ValueError(
            f"The {what} column has class id {wrong[0]}; expected 0 to {len(names) - 1}, the {len(names)} names of its "
            f"ClassLabel. Filter these rows out (-1 marks rows without a {what}"
            f"{'; commands: --drop-null' if what == 'label' else ''})."
        )
    table = np.zeros((len(names), counts.shape[1]), dtype=np.int64)
    table[ids] = counts
    return tuple(names), table
