"""Which data to read: `DataSpec` names a dataset and its columns, and every path to data goes through its methods."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_langimb.counts.columns import NO_LABEL, class_label_names, column_batches, require_columns, whole_floats
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.grouped import without_zeros
from hf_langimb.data import reading
from hf_langimb.data.reading import pick, readable
from hf_langimb.data.rows import (
    TEXT_COLUMNS,
    arrow_columns,
    encoded,
    find_text_columns,
    first_of_each,
    normalize_spacing,
    strings,
)
from hf_langimb.data.sources import files_of, say_if_counts
from hf_langimb.data.tables import Tables, names_in, table_builder, tables
from hf_langimb.data.text import QUOTES, say_once, typed

COUNTED_ROWS = 1 << 20  # of a Parquet file that are in memory at once


@dataclass(frozen=True)
class DataSpec:
    """A dataset and what is read of it. Its methods raise ValueErrors that name the dataset and what to do.

    Args:
        name: Hub id, folder (also of `save_to_disk`), or path of a .parquet, .csv, .tsv, .jsonl or .json file (also
            .gz). Of text files text, language and id are read as strings, and labels as integers if all of them are
            whole numbers (also 1.0), else as strings. An empty CSV field is null; words such as NA are not.
        config_names: configurations to read. If there are several, each is one language: rows without a column
            `language` (as in `facebook/xnli`) get the configuration's name as their language, and a column `row` with
            their position in it, which identifies the translations of a text if the configurations are parallel.
        split: one split. None means all of them for `read` and `counts`; test, else train, else the only one for
            `rows` and `texts`.
        text_columns: one column, or two for a pair; empty takes the usual names.
        language_column, label_column: string, integer, boolean or ClassLabel columns. Without a language column, the
            language is taken from folders or files that are named like language codes, or from the keys of texts.
        id_column: has the same value for translations of one text.
        quoting: of csv files: "minimal" (quotes enclose fields), "none" (they are text); None finds it out.
        separator, encoding: of text files; None takes the usual ones (a byte order mark decides).
        language_from: take the language from "folder", "file" or "key" (of texts), whatever it is called.
        drop_null: leave out rows without text, language or (but with `unlabeled`) label instead of refusing them.
        count_column: of a table of counts, the number of rows that each of its rows stands for; used by `counts` alone.
    """

    name: str
    config_names: Sequence[str] = ()
    split: str | None = None
    text_columns: Sequence[str] = ()
    language_column: str = "language"
    label_column: str = "label"
    id_column: str | None = None
    quoting: str | None = None
    separator: str | None = None
    encoding: str | None = None
    language_from: str | None = None
    drop_null: bool = False
    count_column: str | None = None
    unlabeled: bool = False

    def __post_init__(self) -> None:
        separator = {"\\t": "\t", "tab": "\t"}.get(self.separator or "", self.separator)
        object.__setattr__(self, "separator", separator)
        expected = {"quoting": QUOTES, "language_from": ["folder", "file", "key"]}
        wrong = [name for name, values in expected.items() if getattr(self, name) not in (None, *values)]
        problem = f"{wrong[0]} {' or '.join(expected[wrong[0]])}" if wrong else ""
        if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '"\r\n'):
            problem, wrong = "one character as separator, such as ';' or '\\t'", ["separator"]
        if problem:
            raise ValueError(f"Expected {problem}, got {getattr(self, wrong[0])!r}.")

    def read(self) -> DatasetDict | Dataset:
        """All splits, or the split that is named, with the columns that are used; a file is a single `Dataset`."""
        return self._read()

    def _read(self, languages: Sequence[str] = ()) -> DatasetDict | Dataset:
        """As `read`; the first of `languages` that is there is the language column."""
        with readable(self.name):
            parts = self._parts(languages)
            if len(parts) == 1:
                return self.complete(parts.popitem()[1])
            if self.split is not None:
                return self.complete(reading.stack(parts))
            splits = sorted(reading.shared_splits([*parts.values()]))
            stacked = {key: reading.stack({c: part[key] for c, part in parts.items()}) for key in splits}
            return self.complete(DatasetDict(stacked))

    def configurations(self) -> Sequence[str | None]:
        """The names of configurations; None where a dataset has no names for them."""
        saved = reading.is_saved(self.name)
        repeated = [name for name, times in Counter(self.config_names).items() if times > 1]
        problem = ""
        if self.config_names and (saved or Path(self.name).is_file()):
            given = ", ".join(self.config_names)
            problem = f"files and saved datasets have no configurations, got --config-name {given}: leave it out."
        elif repeated:
            problem = f"Expected different configurations, got {repeated[0]!r} more than once."
        elif saved and self.flags:
            problem = f"a saved dataset is read as it was saved: leave {' and '.join(self.flags)} out."
        if problem:
            raise ValueError(problem)
        return self.config_names or (None,)

    @property
    def flags(self) -> list[str]:
        """Flags that say how files are read."""
        names = ("separator", "encoding", "quoting", "language_from")
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]

    def _parts(self, languages: Sequence[str] = ()) -> dict[str | None, Any]:
        """Each configuration, cached: the split that is named, else a dictionary of all, of a file its rows."""
        configurations = self.configurations()
        if reading.is_saved(self.name):
            loaded = datasets.load_from_disk(self.name)
            splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
            return {None: loaded if self.split is None else pick(splits, self.split)}
        builders = {config: self._builder(config, languages) for config in configurations}
        parts, found, kind = {}, set[Any](), ""
        for config, builder in builders.items():
            builder.download_and_prepare()
            kind = builder.first.kind if isinstance(builder, Tables) else ""
            every = builder.as_dataset()
            parts[config] = every if self.split is None else builder.as_dataset(self.split)
            if Path(self.name).is_file() and self.split is None:
                parts[config] = every["train"]
            text = kind in ("csv", "json") and self.label_column in builder.config.features
            found.update(*(rows.unique(self.label_column) for rows in every.values() if text))
        names = typed(found - {None}, kind)
        return {config: self._typed(part, kind, names) for config, part in parts.items()}

    def _typed(self, part: Any, kind: str, names: dict[str, Any]) -> Any:
        """Rows of text files, or splits of them, with labels of one type; without columns that no JSON row has."""
        if isinstance(part, dict):
            return DatasetDict({split: self._typed(rows, kind, names) for split, rows in part.items()})
        if kind == "json":
            columns = zip(part.column_names, arrow_columns(part, *part.column_names), strict=True)
            part = part.remove_columns([name for name, values in columns if values.null_count == len(values) > 0])
        if self.label_column not in part.column_names or all(name == value for name, value in names.items()):
            return part
        (labels,) = arrow_columns(part, self.label_column)
        labels = labels.combine_chunks().dictionary_encode()
        kind = pa.int64() if all(isinstance(value, int) for value in names.values()) else pa.string()
        values = pa.array([names.get(name) for name in labels.dictionary.to_pylist()], kind).take(labels.indices)
        return part.remove_columns(self.label_column).add_column(self.label_column, values)

    def complete(self, part: Any) -> Any:
        """Rows, or splits of them; with `drop_null` those that have texts, language and label, and says how many."""
        if isinstance(part, dict):
            return DatasetDict({split: self.complete(rows) for split, rows in part.items()})
        texts = self.text_columns or next((names for names in TEXT_COLUMNS if {*names} <= {*part.column_names}), ())
        needed = (*texts, self.language_column, *([] if self.unlabeled else [self.label_column]))
        used = [name for name in needed if name in part.column_names]
        if not self.drop_null or not used:
            return part
        columns = dict(zip(used, map(whole_floats, arrow_columns(part, *used)), strict=True))
        valid = [column.is_valid().to_numpy() for column in columns.values()]
        if self.label_column in used and class_label_names(part, self.label_column):
            valid.append(pc.not_equal(columns[self.label_column], NO_LABEL).fill_null(False).to_numpy())
        kept = np.flatnonzero(np.all(valid, axis=0))
        if len(kept) == len(part):
            return part
        lacking, known = f"{len(part) - len(kept):,} of {len(part):,} rows", "" if self.unlabeled else " or label"
        say_once(f"{self.name}: {lacking} lack text or language{known}: left out.")
        return part.select(kept)

    def _builder(self, config_name: str | None, languages: Sequence[str] = ()) -> Any:
        """The `datasets` builder of a configuration; for files that `tables` reads, of our own."""
        builder = reading.builder_of(self.name, config_name)
        files = files_of(self, builder, config_name, languages)
        return table_builder(builder, files) if files else builder

    def counts(self) -> dict[str, JointDistribution]:
        """The joint distribution of language and label in each split, and rows that lack either.

        Caches nothing but parts of splits.

        From Parquet files only two columns are read, on the Hub too; from other formats, complete rows.
        """
        with readable(self.name):
            if self.split is not None and re.search(r"[\[+]", self.split):  # part of a split, or several
                return {self.split: self._count(replace(self, drop_null=False)._read())}
            parts = [self._two_columns(config) for config in self.configurations()]
            splits = {split: [part[split] for part in parts] for split in reading.shared_splits(parts)}
            named = {} if self.split is None else {self.split: pick(splits, self.split)}
            kinds = {source[0].kind for sources in splits.values() for source in sources if isinstance(source, list)}
            kind = "".join(kinds - {"parquet"})
            counted = {}
            for split, sources in splits.items() if kind or not named else named.items():
                several = f"{self.name}, split {split!r} (choose one with --split)"
                with readable(several if len(splits) > 1 else self.name):
                    found = [self._count(source) for source in sources]
                counted[split] = sum(found[1:], found[0])
            if empty := [split for split, table in counted.items() if not table.rows]:
                if len(empty) == len(counted) or self.split in empty:
                    table = counted[empty[0]]
                    labels, languages = sum(table.null_labels.values()), table.null_languages
                    raise ValueError(
                        f"The {'label' if labels else 'language'} column is empty in {labels or languages:,} of "
                        f"{labels + languages:,} rows: no row of split {empty[0]!r} has both a language and a label."
                    )
                say_once(f"{self.name}: {', '.join(empty)} left out: no row has both a language and a label.")
                counted = {split: table for split, table in counted.items() if split not in empty}
            if kind:  # a label is typed by those of all splits
                names = typed({label for table in counted.values() for label in table.labels}, kind)
                counted = {split: table.relabeled(names) for split, table in counted.items()}
            return {split: counted[split] for split in named or splits if split in counted}

    def _two_columns(self, config_name: str | None) -> dict[str, Any]:
        """Splits of a configuration, each a list of files or a dataset, for `_count`."""
        if reading.is_saved(self.name):
            opened = replace(self, split=None)._parts()[None]
            return opened if isinstance(opened, dict) else {"train": opened}
        builder = reading.builder_of(self.name, config_name)
        if files := files_of(self, builder, config_name, counted=True):
            return dict(files)
        splits = {str(split): rows for split, rows in builder.as_streaming_dataset().items()}
        known = {*()}.union(*(reading.columns_of(rows) for rows in splits.values()))
        if config_name and len(self.config_names) > 1 and self.language_column == "language" not in known:
            return {split: _with_language(rows, config_name) for split, rows in splits.items()}
        return splits

    def _count(self, source: Any) -> JointDistribution:
        """The joint distribution of language and label in a dataset or a list of files."""
        columns = {"language": self.language_column, "label": self.label_column}
        columns |= {"count": self.count_column} if self.count_column else {}
        if isinstance(source, list):
            read = (table for file in source for table in tables(file, COUNTED_ROWS, dictionaries=True))
            features = source[0].features or {}
            batches: Any = (tuple(_of_kind(table[n], features.get(n)) for n in columns.values()) for table in read)
        else:
            batches, features = column_batches(source, columns), source.features or {}
        found = (features.get(columns[purpose]) for purpose in ("language", "label"))
        classes = [list(feature.names) if isinstance(feature, ClassLabel) else None for feature in found]
        batches = (without_zeros(*batch) for batch in batches) if self.count_column else batches
        counted = JointDistribution.from_batches(batches, *classes, count_nulls=True)
        if isinstance(source, list):
            say_if_counts(self, source, counted)
        if not counted.rows and isinstance(source, list) and source[0].kind == "json":  # which lack a column?
            present = [*names_in(source[0]), *([self.language_column] if source[0].language is not None else [])]
            require_columns(present, columns)
        return counted

    def rows(self, first: int | None = None) -> Dataset:
        """Unchanged texts, and the columns `language`, `label` and `id` where the dataset has them.

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
                free = [name for name in free if not arrow_columns(raw, name)[0].null_count]  # nobody asked for it
                given |= dict(zip(["id"], free, strict=False))
            found = strings(raw, given["language"], "language") if "language" in given else None
            if first is not None and found is not None:
                raw = raw.select(np.sort(first_of_each(found, first)))
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
            language_columns: the first of these that the dataset has, instead of `language_column`.
        """
        with readable(self.name):
            known = language_columns or (self.language_column,)
            raw = replace(self, label_column="")._one_split(first, known)  # of the label nothing is read
            column = next((name for name in known if name in raw.column_names), known[-1])
            texts = find_text_columns(raw, self.text_columns)
            require_columns(raw, {"language": column} | self._id)
            found = np.array([re.sub(r"^\d{8}\.", "", name) for name in strings(raw, column, "language")], dtype=object)
            kept = first_of_each(found, first, languages)
            if missing := [language for language in languages if (found[kept] == language).sum() < 2]:
                raise ValueError(
                    f"Expected text in {', '.join(languages)}, found fewer than two rows in {', '.join(missing)}: "
                    "choose another dataset or other configurations."
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

    def _one_split(self, first: int | None, languages: Sequence[str] = ()) -> Dataset:
        """Of several splits test, else train, else the only one; of several configurations with `first`, a stream.

        Args:
            first: rows of each configuration to read, where that is possible; None reads all.
            languages: the first of these that is there is the language column, instead of `language_column`.
        """
        if first is not None and first < 1:
            raise ValueError(f"Expected at least 1 row of each language, got {first}.")
        if first and len(self.config_names) > 1 and not self.drop_null:
            builders = {config: self._builder(config, languages) for config in self.configurations()}
            streams = {config: builder.as_streaming_dataset() for config, builder in builders.items()}
            known = all(self.split in (None, *splits) for splits in streams.values())  # slices: by `read`
            parts = {config: pick(splits, self.split) for config, splits in streams.items() if known}
            if known and all(self._streams(builders[config], rows) for config, rows in parts.items()):
                taken = {c: Dataset.from_list([*rows.take(first)], features=rows.features) for c, rows in parts.items()}
                return self.complete(reading.stack(taken))
        raw = replace(self, split=self.split or self._usual_split())._read(languages)
        return pick(raw, None) if isinstance(raw, dict) else raw

    def _usual_split(self) -> str | None:
        """The split that `rows` and `texts` take of a folder, be it one without labels; None where it is not known."""
        if reading.is_saved(self.name) or Path(self.name).is_file():
            return None
        parts = [reading.builder_of(self.name, name).config.data_files or {} for name in self.configurations()]
        shared = reading.shared_splits(parts)
        return str(pick({split: split for split in shared}, None)) if shared else None

    def _streams(self, builder: Any, rows: Any) -> bool:
        """Whether the first rows of a configuration are read as all of them are: its name is the language of each."""
        if not isinstance(builder, Tables):
            return "language" not in reading.columns_of(rows)
        typed_later = builder.first.kind != "parquet" and self.label_column in builder.config.features
        return bool(builder.first.language) and not self.language_from and not typed_later

    def standardized(
        self, dataset: Dataset, *, label_names: Sequence[str] = (), languages: Sequence[str] = ()
    ) -> Dataset:
        """Texts (under their names), `language` (string), `label` (ClassLabel) and `id` (else row numbers).

        Args:
            dataset: rows of this dataset.
            label_names: label names in class order; empty takes the ClassLabel's order, else sorted values.
            languages: keep only these; empty keeps all.
        """
        with readable(self.name):
            dataset, columns = self.complete(dataset), {"language": self.language_column, "label": self.label_column}
            texts = find_text_columns(dataset, self.text_columns, **columns | self._id)
            found = strings(dataset, self.language_column, "language")
            if languages:
                kept = np.flatnonzero(np.isin(found, list(languages)))
                dataset, found = dataset.select(kept), found[kept]
            values, positions = encoded(dataset, self.label_column, "label")
            names = list(label_names) or class_label_names(dataset, self.label_column) or values
            if unknown := [value for value in values if value not in names]:
                raise ValueError(f"Labels {unknown} of column {self.label_column!r} are not among {names}.")
            labels = np.array([names.index(value) for value in values], dtype=np.int64)[positions]
            ids = strings(dataset, self.id_column, "id") if self.id_column else np.arange(len(dataset)).astype(str)
            return (
                reading.flattened(dataset.select_columns(texts))
                .add_column("language", found, feature=Value("string"))
                .add_column("label", labels, feature=ClassLabel(names=names))
                .add_column("id", ids, feature=Value("string"))
            )


def _of_kind(column: Any, feature: Any) -> Any:
    """A column of a file in the type of the dataset, whose other files may have another one."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    expected = feature.pa_type if isinstance(feature, Value) else kind
    return column if kind == expected else column.cast(expected)


def _with_language(rows: datasets.IterableDataset, language: str | None) -> datasets.IterableDataset:
    """The rows of a stream with one language in all of them."""
    features = rows.features and datasets.Features({**rows.features, "language": Value("string")})
    return rows.with_format("arrow").map(
        lambda table: table.append_column("language", pa.array([language] * len(table))),
        batched=True,
        features=features,
    )
