"""Counts of texts that have several labels at once, each of them yes or no: one table languages x {0, 1} per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.types import is_large_string, is_string, is_string_view

from hf_langimb.counts.audit import Audit, holm
from hf_langimb.counts.columns import class_label_names, column_batches, encode_column, to_arrow
from hf_langimb.counts.distribution import JointDistribution, on_class_axis
from hf_langimb.counts.weighting import Counts, Floats, cell_weights

IGNORED = -100  # a value that is not known, like null and NaN
VALUES = {"0": 0, "false": 0, "1": 1, "true": 1}  # of a column that is read as text
LEVEL = 0.001  # of the adjusted p-values below which a label is linked to the language, as in an audit


class MultiLabelAudit(TypedDict):
    """An AUDIT of each label, whose labels are 0 and 1, and p-values adjusted over the labels by Holm's method."""

    languages: list[str]
    labels: list[str]
    audits: dict[str, Audit]
    p_holm: dict[str, float | None]
    linked: list[str]  # labels that depend on language: p_holm < 0.001, the strongest first
    verdict: str
    null_languages: int  # rows without a language, which are not counted


@dataclass(frozen=True, eq=False)
class MultiLabelDistribution:
    """Counts on the axes languages x labels x {0, 1}.

    Args:
        languages: L distinct names.
        labels: C distinct names.
        counts: int64[L, C, 2], rows in which a label is 0 and 1; rows in which it is not known are in neither.
        null_languages: rows without a language, which are not counted.

    Raises:
        ValueError: the shape does not fit the axes, or what `JointDistribution` refuses.
    """

    languages: tuple[str, ...]
    labels: tuple[str, ...]
    counts: Counts
    null_languages: int = 0

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        if counts.shape != (shape := (len(self.languages), len(self.labels), 2)) or not self.labels:
            raise ValueError(f"Counts must have shape {shape} (languages, labels, no and yes), got {counts.shape}.")
        object.__setattr__(self, "languages", tuple(map(str, self.languages)))
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        if len({*self.labels}) < len(self.labels):
            raise ValueError(f"Labels must have different names, got {', '.join(self.labels)}.")
        tables = [JointDistribution(self.languages, (0, 1), counts[:, c]) for c in range(shape[1])]
        object.__setattr__(self, "counts", np.stack([table.counts for table in tables], axis=1))

    @classmethod
    def from_columns(cls, languages: Any, values: Any, labels: Sequence[str] = ()) -> MultiLabelDistribution:
        """Count a column of languages and one of lists, or one column of 0 and 1 for each label.

        Args:
            languages: language of each row.
            values: {label: column}, or a column of lists with a 0 or 1 for each label. Null, NaN and -100: not known.
                Or an array or tensor [N, C], or a DataFrame with a column for each label.
            labels: names for the places in the lists; by default their numbers.

        Raises:
            ValueError: values other than 0 and 1, lists of different lengths, columns of different lengths, or no rows.
        """
        names, table = values_of(values, labels)
        axis, ids = encode_column(languages, "language")
        if not len(ids):
            raise ValueError("No rows to count: the dataset is empty.")
        if len(ids) != len(table):
            raise ValueError(
                f"Expected one entry per row, got {len(ids):,} languages and {len(table):,} rows of labels."
            )
        counts = np.zeros((len(axis), len(names), 2), dtype=np.int64)
        for value in (0, 1):
            np.add.at(counts[..., value], ids, (table == value).astype(np.int64))
        return cls(axis, tuple(names), counts)

    @classmethod
    def from_tables(cls, tables: Mapping[str, JointDistribution]) -> MultiLabelDistribution:
        """Combine the counts of each label's own column, {label: counts}, whose labels are 0 and 1.

        Raises:
            ValueError: other labels than 0, 1, -100, true and false.
        """
        languages = tuple(sorted({name for table in tables.values() for name in table.languages}))
        counts = np.zeros((len(languages), len(tables), 2), dtype=np.int64)
        for c, (name, table) in enumerate(tables.items()):
            places = [languages.index(language) for language in table.languages]
            for label, rows in zip(table.labels, table.counts.T, strict=True):
                if label in (IGNORED, str(IGNORED)):
                    continue
                value = VALUES.get(str(label).lower())
                if value is None:
                    raise ValueError(f"The label {name!r} must be 0 or 1 in each row (null: not known), got {label!r}.")
                counts[places, c, value] += rows
        return cls(languages, tuple(tables), counts, max(table.null_languages for table in tables.values()))

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        language_column: str = "language",
        label_columns: str | Sequence[str] = "labels",
        labels: Sequence[str] = (),
    ) -> MultiLabelDistribution:
        """Count columns of a `datasets` dataset, or of any rows that are mappings, in batches.

        Args:
            dataset: with the columns.
            language_column: name of a column of strings.
            label_columns: one column of lists, or the names of several columns of 0 and 1, which name the labels.
            labels: see `from_columns`.

        Raises:
            ValueError: a column is missing, or what `from_columns` raises.
        """
        several = not isinstance(label_columns, str)
        names = [*label_columns] if several else [str(label_columns)]
        columns = {"language": language_column} | {f"label {name}": name for name in names}
        named = class_label_names(dataset, language_column)
        total: MultiLabelDistribution | None = None
        for languages, *values in column_batches(dataset, columns):
            of: Any = dict(zip(names, values, strict=True)) if several else values[0]
            part = cls.from_columns(languages, of, labels)
            total = part if total is None else total + part
        total = total or cls.from_columns([], {})  # which raises
        axis, table = on_class_axis(total.languages, named, total.counts.reshape(len(total.languages), -1), "language")
        return cls(axis, total.labels, table.reshape(len(axis), -1, 2))

    def __add__(self, other: MultiLabelDistribution) -> MultiLabelDistribution:
        """Counts of two datasets with the same labels."""
        if self.labels != other.labels:
            ours, theirs = ", ".join(self.labels), ", ".join(other.labels)
            raise ValueError(
                f"Only counts of the same labels in the same order can be added, got ({ours}) and ({theirs})."
            )
        languages = tuple(sorted({*self.languages, *other.languages}))
        counts = np.zeros((len(languages), len(self.labels), 2), dtype=np.int64)
        for part in (self, other):
            counts[[languages.index(name) for name in part.languages]] += part.counts
        return MultiLabelDistribution(languages, self.labels, counts, self.null_languages + other.null_languages)

    @property
    def rows(self) -> int:
        """Number of known values, of all labels."""
        return int(self.counts.sum())

    @property
    def tables(self) -> dict[str, JointDistribution]:
        """By label its counts on the axes languages x {0, 1}."""
        tables = (JointDistribution(self.languages, (0, 1), self.counts[:, c]) for c in range(len(self.labels)))
        return dict(zip(self.labels, tables, strict=True))

    def weights(self, scheme: str = "independence", **options: Any) -> Floats:
        """Class weights of each label, float64[L, C, 2], with mean 1 over the rows in which the label is known.

        Languages in which a label is not known in any row have the weight 1.

        Args:
            scheme, options: see `cell_weights`, which is called for each label.

        Raises:
            ValueError: as `cell_weights`; names the label.
        """
        found = np.ones(self.counts.shape)
        for c, label in enumerate(self.labels):
            used = np.flatnonzero(self.counts[:, c].any(axis=1))
            table = JointDistribution(tuple(self.languages[i] for i in used), (0, 1), self.counts[used, c])
            try:
                found[used, c] = cell_weights(table, scheme, **options) if table.rows else 1
            except ValueError as error:
                raise ValueError(f"Label {label!r}: {error}") from None
        return found

    def audit(self, weighting: str = "none") -> MultiLabelAudit:
        """Whether each label depends on the language; see `JointDistribution.audit`.

        Raises:
            ValueError: a label that is not known in any row.
        """
        if unknown := [label for label, table in self.tables.items() if not table.rows]:
            raise ValueError(f"The label {unknown[0]!r} has no 0 or 1 in any row: leave it out.")
        audits = {label: table.audit(weighting) for label, table in self.tables.items()}
        p = np.array([np.nan if (of := audit["p_value"]) is None else of for audit in audits.values()])
        adjusted = {label: None if np.isnan(of) else float(of) for label, of in zip(audits, holm(p), strict=True)}
        certain = [label for label, of in adjusted.items() if of is not None and of < LEVEL]
        linked = sorted(certain, key=lambda label: -audits[label]["mutual_information_bits"])
        return {
            "languages": list(self.languages),
            "labels": list(self.labels),
            "audits": audits,
            "p_holm": adjusted,
            "linked": linked,
            "verdict": _verdict(linked, audits),
            "null_languages": self.null_languages,
        }


def _verdict(linked: Sequence[str], audits: Mapping[str, Audit]) -> str:
    """One sentence: how many labels depend on language, and which most."""
    if not linked:
        links = [audit["link"] for audit in audits.values()]
        if {*links} == {"undefined"}:
            several = len(next(iter(audits.values()))["languages"]) > 1
            return f"only one {'value of each label' if several else 'language'}: labels cannot depend on language here"
        if few := links.count("unknown"):
            return f"too few rows to tell for {few} of {len(audits)} labels whether they depend on language"
        return f"none of the {len(audits)} labels depends on language beyond chance"
    bits = [f"{label} ({audits[label]['mutual_information_bits']:.3f} bits)" for label in linked[:5]]
    more = f", and {len(linked) - 5} more" if len(linked) > 5 else ""
    return f"{len(linked)} of {len(audits)} labels depend on language: {', '.join(bits)}{more}"


def values_of(values: Any, labels: Sequence[str] = ()) -> tuple[list[str], Floats]:
    """Names of labels, and their values float64[N, C]: 0, 1, or NaN where they are not known.

    Args:
        values, labels: see `MultiLabelDistribution.from_columns`.

    Raises:
        ValueError: values other than 0 and 1, or lists or columns of different lengths.
    """
    if hasattr(values, "columns") and hasattr(values, "to_dict"):  # of pandas
        values = {name: values[name] for name in values.columns}
    elif getattr(values, "ndim", 1) == 2:  # an array or a tensor
        values = np.asarray(values, dtype=np.float64).tolist()
    if isinstance(values, Mapping):
        columns = {str(name): _zeros_and_ones(to_arrow(column, "label"), str(name)) for name, column in values.items()}
        if len({*map(len, columns.values())}) > 1:
            sizes = ", ".join(f"{len(column):,} in {name}" for name, column in columns.items())
            raise ValueError(f"Expected label columns of the same length, got {sizes}.")
        return [*columns], np.stack([*columns.values()], axis=1) if columns else np.zeros((0, 0))
    column = to_arrow(values, "label")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_nested(column.type) or not hasattr(column.type, "value_type"):
        raise ValueError(f"Expected a column of lists with a 0 or 1 for each label, got values of type {column.type}.")
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) != 1 or not lengths[0] or (labels and lengths != [len(labels)]):
        expected = f"length {len(labels)} (one entry for each label)" if labels else "the same length in all rows"
        found = ", ".join(map(str, sorted(lengths)[:4])) or "none"
        raise ValueError(
            f"Expected lists of {expected}, got lengths {found}: write a 0 or 1 for each label into every list, for "
            "example with sklearn.preprocessing.MultiLabelBinarizer."
        )
    size = lengths[0]
    table = np.full((len(column), size), np.nan)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    table[present] = _zeros_and_ones(pc.list_flatten(column), "labels").reshape(-1, size)
    return [*(labels or map(str, range(size)))], table


def _zeros_and_ones(column: Any, name: str) -> Floats:
    """A column of 0 and 1 as float64[N]; NaN where the value is null, NaN or -100.

    Raises:
        ValueError: other values.
    """
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        numbers = column
        if any(is_kind(column.type) for is_kind in (is_string, is_large_string, is_string_view)):  # perhaps true, false
            lower = pc.utf8_lower(column.cast(pa.large_string()))
            numbers = pc.if_else(pc.equal(lower, "true"), "1", pc.if_else(pc.equal(lower, "false"), "0", lower))
        found = np.asarray(numbers.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64).copy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        known = (*VALUES, "0.0", "1.0", str(IGNORED))
        values = [value for value in column.to_pylist() if value is not None]
        example = next((value for value in values if str(value).lower() not in known), next(iter(values), None))
        raise ValueError(f"The label {name!r} must be 0 or 1 in each row (null: not known), got {example!r}.") from None
    found[found == IGNORED] = np.nan
    if (wrong := found[~np.isnan(found) & (found != 0) & (found != 1)]).size:
        raise ValueError(f"The label {name!r} must be 0 or 1 in each row (null: not known), got {wrong[0]:g}.")
    return found
