"""Which data to read: `DataSpec` names a data set and its columns, and every path to data goes through its methods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_langimb.counts.columns import class_label_names, require_columns
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.data import reading
from hf_langimb.data.reading import pick, readable
from hf_langimb.data.rows import TEXT_COLUMNS, encoded, find_text_columns, first_of_each, normalize_spacing, strings


@dataclass(frozen=True)
class DataSpec:
    """A data set and what is read of it. Its methods raise ValueErrors that name the data set and what to do.

    Args:
        name: Hub id, folder (also of `save_to_disk`), or path of a .parquet, .csv, .tsv, .jsonl or .json file.
        config_names: configurations to read. If there are several, each is one language: rows without a column
            `language` (as in `facebook/xnli`) get the configuration's name as their language, and a column `row` with
            their position in it, which identifies the translations of a text if the configurations are parallel.
        split: one split. None means all of them for `read` and `counts`; test, else train, else the only one for
            `rows` and `texts`.
        text_columns: one column, or two for a pair; empty takes the usual names.
        language_column, label_column: string, integer, boolean or ClassLabel columns.
        id_column: has the same value for translations of one text.
    """

    name: str
    config_names: Sequence[str] = ()
    split: str | None = None
    text_columns: Sequence[str] = ()
    language_column: str = "language"
    label_column: str = "label"
    id_column: str | None = None

    def read(self) -> DatasetDict | Dataset:
        """All splits with all columns, or the split that is named; a file is a single `Dataset`."""
        with readable(self.name):
            parts = {config: self._load(config) for config in self._configurations()}
            if len(parts) == 1:
                return parts.popitem()[1]
            if self.split is not None:
                return reading.stack(parts)
            splits = sorted(reading.shared_splits([*parts.values()]))
            return DatasetDict({key: reading.stack({c: part[key] for c, part in parts.items()}) for key in splits})

    def _configurations(self) -> Sequence[str | None]:
        """The names of configurations; None where a data set has no names for them."""
        if self.config_names and (Path(self.name).is_file() or reading.is_saved(self.name)):
            given = ", ".join(self.config_names)
            raise ValueError(
                f"files and saved data sets have no configurations, got config_names {given}: leave them out."
            )
        return self.config_names or (None,)

    def _load(self, config_name: str | None) -> Any:
        """One configuration, cached."""
        if reading.is_saved(self.name):
            loaded = datasets.load_from_disk(self.name)
            splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
            return loaded if self.split is None else pick(splits, self.split)
        builder = self._builder(config_name)
        builder.download_and_prepare()
        return builder.as_dataset("train" if Path(self.name).is_file() and self.split is None else self.split)

    def _builder(self, config_name: str | None) -> Any:
        """The `datasets` builder of a configuration."""
        ids = [self.id_column] if self.id_column else ["id", "item"]
        used = [self.language_column, self.label_column, *ids, *(self.text_columns or TEXT_COLUMNS)]
        return reading.builder_of(self.name, config_name, used)

    def counts(self) -> dict[str, JointDistribution]:
        """The joint distribution of language and label in each split; caches nothing.

        From Parquet files only two columns are read, on the Hub too; from other formats, complete rows.
        """
        with readable(self.name):
            parts = [self._two_columns(config) for config in self._configurations()]
            splits = {str(split): [part[split] for part in parts] for split in reading.shared_splits(parts)}
            if self.split is not None:
                splits = {self.split: pick(splits, self.split)}
            counted = {}
            for split, tables in splits.items():
                several = f"{self.name}, split {split!r} (choose one with split)"
                with readable(several if len(splits) > 1 else self.name):
                    found = [JointDistribution.from_dataset(t, self.language_column, self.label_column) for t in tables]
                counted[split] = sum(found[1:], found[0])
            return counted

    def _two_columns(self, config_name: str | None) -> dict[str, Any]:
        """Splits of a configuration, each something that `JointDistribution.from_dataset` reads and checks."""
        path, columns = Path(self.name), [self.language_column, self.label_column]
        if reading.is_saved(self.name):
            opened = replace(self, split=None)._load(config_name)
            return opened if isinstance(opened, dict) else {"train": opened}
        if path.is_file() and path.suffix == ".parquet":  # in memory: half the time of a stream, which imports torch
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                table = file.read(columns=columns) if {*columns} <= {*schema.names} else schema.empty_table()
            rows = Dataset(datasets.table.InMemoryTable(table), fingerprint="audit")  # None would hash every row
            return {"train": rows}
        builder = reading.builder_of(self.name, config_name, columns)
        splits = builder.as_streaming_dataset()
        known = [reading.columns_of(rows) for rows in splits.values()]
        named = len(self.config_names) > 1 and columns[0] == "language" not in {*known[0]}.union(*known)
        if named:
            del columns[0]
        if hasattr(builder.config, "columns") and all({*columns} <= {*names} for names in known):  # of Parquet
            builder.config.columns = columns
            splits = builder.as_streaming_dataset()
        return {key: _with_language(rows, config_name) for key, rows in splits.items()} if named else splits

    def rows(self, first: int | None = None) -> Dataset:
        """Unchanged texts, and the columns `language`, `label` and `id` where the data set has them.

        Args:
            first: the first rows of each language; None keeps all.
        """
        with readable(self.name):
            raw = self._one_split(first)
            given = {"language": self.language_column, "label": self.label_column, "id": self.id_column or ""}
            given = {kind: name for kind, name in given.items() if name in raw.column_names or name not in ("", kind)}
            texts = find_text_columns(raw, self.text_columns, **given)
            if not self.id_column:
                free = [name for name in ("id", "item") if name in {*raw.column_names} - {*texts, *given.values()}]
                given |= dict(zip(["id"], free, strict=False))
            if first is not None and "language" in given:
                raw = raw.select(np.sort(first_of_each(strings(raw, given["language"], "language"), first)))
            elif first is not None:
                raw = raw.select(range(min(first, len(raw))))
            raw = raw.select_columns([*texts, *given.values()])
            return raw.rename_columns({name: kind for kind, name in given.items() if name != kind})

    def texts(
        self, languages: Sequence[str] = (), first: int | None = None, *, language_columns: Sequence[str] = ()
    ) -> Dataset:
        """Texts with the same spacing in every language, `language` and `id`, one language after the other.

        Args:
            languages: those to keep, each with two rows or more; empty keeps all. A date before a language
                ("20231101.fr") is dropped.
            first: the first rows of each language; None keeps all. Of several configurations only these rows are
                fetched (from `wikimedia/wikipedia`, not its 20 GB).
            language_columns: the first of these that the data set has, instead of `language_column`.
        """
        with readable(self.name):
            read = replace(self, label_column="", id_column=self.id_column or "item")  # of the label nothing is read
            raw, known = read._one_split(first), language_columns or (self.language_column,)
            column = next((name for name in known if name in raw.column_names), known[-1])
            texts = find_text_columns(raw, self.text_columns)
            require_columns(raw, {"language": column} | self._id)
            found = np.array([re.sub(r"^\d{8}\.", "", name) for name in strings(raw, column, "language")], dtype=object)
            kept = first_of_each(found, first, languages)
            if missing := [language for language in languages if (found[kept] == language).sum() < 2]:
                raise ValueError(
                    f"Expected text in {', '.join(languages)}, found fewer than two rows in {', '.join(missing)}: "
                    "choose another data set or other configurations."
                )
            usual = ("item", "row") if len(self.config_names) > 1 else ("item",)
            id_column = self.id_column or next((column for column in usual if column in raw.column_names), None)
            raw = raw.select(kept)
            ids = strings(raw, id_column, "id") if id_column else [str(i) for i in range(len(kept))]
            columns = {text: [normalize_spacing(value) for value in raw[text]] for text in texts}
            return Dataset.from_dict(columns | {"language": found[kept].tolist(), "id": ids})

    @property
    def _id(self) -> dict[str, str]:
        """The id column by its purpose, if one is named."""
        return {"id": self.id_column} if self.id_column else {}

    def _one_split(self, first: int | None) -> Dataset:
        """Of several splits test, else train, else the only one; of several configurations with `first`, a stream."""
        if first is not None and first < 1:
            raise ValueError(f"Expected 1 row of each language or more, got {first}.")
        if first and len(self.config_names) > 1:
            streams = {config: self._builder(config).as_streaming_dataset() for config in self._configurations()}
            known = all(self.split in (None, *splits) for splits in streams.values())  # slices: by `read`
            parts = {config: pick(splits, self.split) for config, splits in streams.items() if known}
            if known and not any("language" in reading.columns_of(rows) for rows in parts.values()):
                taken = {c: Dataset.from_list([*rows.take(first)], features=rows.features) for c, rows in parts.items()}
                return reading.stack(taken)
        raw = self.read()
        return pick(raw, None) if isinstance(raw, dict) else raw

    def standardized(
        self, dataset: Dataset, *, label_names: Sequence[str] = (), languages: Sequence[str] = ()
    ) -> Dataset:
        """Texts (under their names), `language` (string), `label` (ClassLabel) and `id` (else row numbers).

        Args:
            dataset: rows of this data set.
            label_names: label names in class order; empty takes the ClassLabel's order, else sorted values.
            languages: keep only these; empty keeps all.
        """
        with readable(self.name):
            columns = {"language": self.language_column, "label": self.label_column}
            texts = find_text_columns(dataset, self.text_columns, **columns | self._id)
            found = strings(dataset, self.language_column, "language")
            if languages:
                kept = np.flatnonzero(np.isin(found, list(languages)))
                dataset, found = dataset.select(kept), found[kept]
            values, positions = encoded(dataset, self.label_column, "label")
            names = list(label_names) or class_label_names(dataset, self.label_column) or values
            if unknown := [value for value in values if value not in names]:
                raise ValueError(f"Labels {unknown} of column {self.label_column!r} are not among label_names {names}.")
            labels = np.array([names.index(value) for value in values], dtype=np.int64)[positions]
            ids = strings(dataset, self.id_column, "id") if self.id_column else np.arange(len(dataset)).astype(str)
            return (
                dataset.select_columns(texts)
                .flatten_indices()
                .add_column("language", found, feature=Value("string"))
                .add_column("label", labels, feature=ClassLabel(names=names))
                .add_column("id", ids, feature=Value("string"))
            )


def _with_language(rows: datasets.IterableDataset, language: str | None) -> datasets.IterableDataset:
    """The rows of a stream with one language in all of them."""
    features = rows.features and datasets.Features({**rows.features, "language": Value("string")})
    return rows.with_format("arrow").map(
        lambda table: table.append_column("language", pa.array([language] * len(table))),
        batched=True,
        features=features,
    )
