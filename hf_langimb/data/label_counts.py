"""Rows and counts of datasets whose texts have several labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.data import reading
from hf_langimb.data.reading import pick, readable
from hf_langimb.data.rows import arrow_columns, find_text_columns, first_of_each, strings
from hf_langimb.data.spec import DataSpec
from hf_langimb.data.text import say_once


def label_counts(spec: DataSpec, columns: Sequence[str]) -> dict[str, MultiLabelDistribution]:
    """Counts of several labels per text in each split of a dataset.

    Args:
        spec: the dataset.
        columns: of 0 and 1, one for each label, or a single one with lists of them.

    Raises:
        ValueError: names the dataset and what to do.
    """
    _check(spec)
    with readable(spec.name):
        if repeated := [column for column in columns if columns.count(column) > 1]:
            raise ValueError(
                f"Expected different columns of labels, got {repeated[0]!r} more than once: pass each column once."
            )
        try:
            tables = {column: replace(spec, label_column=column).counts() for column in columns}
        except ValueError as error:
            if len(columns) > 1 or "has lists" not in str(error):
                raise
            return _lists(spec, columns[0])
        splits = dict.fromkeys(split for of in tables.values() for split in of)
        counted = {}
        for split in splits:
            if lacking := [column for column in columns if split not in tables[column]]:
                say_once(f"{spec.name}: {split} left out: no values in the column {lacking[0]!r}.")
            else:
                of_split = {column: of[split] for column, of in tables.items()}
                counted[split] = MultiLabelDistribution.from_tables(of_split)
        if not counted:
            raise ValueError("No split has values in all label columns: choose other columns.")
        return counted


def label_rows(spec: DataSpec, columns: Sequence[str], first: int | None = None) -> tuple[Dataset, Any]:
    """Texts, languages and ids of one split, and the labels of its rows.

    Args:
        spec, columns: see `label_counts`. With `drop_null`, rows without text or language are left out.
        first: the first rows of each language; None keeps all.

    Returns:
        Rows with texts, `language` and, if the dataset has it, `id`; and {label: column} or a column of lists.

    Raises:
        ValueError: names the dataset and what to do.
    """
    _check(spec)
    with readable(spec.name):
        try:
            read = {column: replace(spec, label_column=column, unlabeled=True).rows(first) for column in columns}
            require_columns(read[columns[0]], {"language": "language", "label": "label"})
            values = {name: arrow_columns(rows, "label")[0] for name, rows in read.items()}
            lists = [column for column in values.values() if pa.types.is_nested(column.type)]
            return read[columns[0]].remove_columns("label"), lists[0] if lists and len(columns) == 1 else values
        except ValueError as error:
            if len(columns) > 1 or "has lists" not in str(error):
                raise
        rows = _list_rows(spec, columns[0])
        languages = strings(rows, "language", "language")
        rows = rows if first is None else rows.select(np.sort(first_of_each(languages, first)))
        return rows.remove_columns(columns[0]), arrow_columns(rows, columns[0])[0]


def _check(spec: DataSpec) -> None:
    """Refuse a column of one label per text next to those of several."""
    if spec.label_column != "label":
        raise ValueError(f"--label-columns is given: leave --label-column {spec.label_column} out.")


def _list_rows(spec: DataSpec, column: str) -> Dataset:
    """The rows of one split of a dataset with a column of lists, with `drop_null` those with text and language."""
    rows = replace(spec, unlabeled=True).complete(pick(_list_splits(spec, column), spec.split))
    named = {"language": spec.language_column} | ({"id": spec.id_column} if spec.id_column else {})
    require_columns(rows, named | {"label": column})
    texts = find_text_columns(rows, spec.text_columns, **named, label=column)
    rows = rows.select_columns([*texts, *named.values(), column])
    return rows.rename_columns({name: kind for kind, name in named.items() if name != kind})


def _lists(spec: DataSpec, column: str) -> dict[str, MultiLabelDistribution]:
    """Counts of a column of lists in each split."""
    return {split: _counted(spec, rows, column) for split, rows in _list_splits(spec, column).items()}


def _list_splits(spec: DataSpec, column: str) -> dict[str, Dataset]:
    """The rows of each split of a dataset with a column of lists, which `datasets` reads."""
    given = [*spec.flags, *(["--count-column"] if spec.count_column else [])]
    if given:
        raise ValueError(
            f"The column {column!r} has lists, for which {', '.join(given)} is not supported: leave it out."
        )
    configurations = spec.configurations()
    if reading.is_saved(spec.name):
        loaded = datasets.load_from_disk(spec.name)
        parts = [loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}]
    else:
        builders = [reading.builder_of(spec.name, config) for config in configurations]
        for builder in builders:
            builder.download_and_prepare()
        parts = [_of_builder(builder, spec.split) for builder in builders]
    every = dict(parts[0])
    if len(parts) > 1:
        named = dict(zip(configurations, parts, strict=True))
        splits = reading.shared_splits(parts)
        every = {split: reading.stack({config: part[split] for config, part in named.items()}) for split in splits}
    if spec.split is not None:
        every = {spec.split: pick(every, spec.split)}
    return every


def _of_builder(builder: Any, split: str | None) -> Any:
    """All splits of a dataset, or parts of one (`train[:1000]`)."""
    parts = split is not None and re.search(r"[\[+]", split)
    return {split: builder.as_dataset(split)} if parts else builder.as_dataset()


def _counted(spec: DataSpec, rows: Dataset, column: str) -> MultiLabelDistribution:
    """Counts of rows, and how many have no language."""
    require_columns(rows, {"language": spec.language_column, "label": column})
    known = np.flatnonzero(arrow_columns(rows, spec.language_column)[0].is_valid().to_numpy())
    found = MultiLabelDistribution.from_dataset(rows.select(known), spec.language_column, column)
    return replace(found, null_languages=len(rows) - len(known))
