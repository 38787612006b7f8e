"""Any data set -> rows with texts, a language, a label and an id."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_langimb.counts.columns import class_label_names, encode_column, require_columns

FILE_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
KNOWN_TEXT_COLUMNS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text", "text_pair"), ("text",))


def open_dataset(name: str, *, config_names: Sequence[str] = (), split: str | None = None) -> Any:
    """A `Dataset` (with `split`) or all splits, from the Hub, a folder or a file.

    Args:
        name: Hub id, folder, or path of a .parquet, .csv or .jsonl file.
        config_names: configurations to read; of several, each is one language, and its name becomes a column
            `language` where the rows have none (as in `facebook/xnli`), the place of a row in it the column `row`: the
            id of a text and its translations where the configurations are parallel.
        split: one split; None reads them all.

    Raises:
        ValueError: nothing there, or no such split or configuration.
    """
    if len(config_names) > 1:
        return _join_configurations(name, config_names, split)
    try:
        loaded = _read(name, config_names[0] if config_names else None, split)
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid) as error:
        if isinstance(error.__cause__, datasets.table.CastError):
            raise ValueError(f"The files of {name!r} have different columns: name one of them.") from None
        raise ValueError(f"Cannot read the data set {name!r}: {error.__cause__ or error}") from None
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"Expected a data set at {name!r} (Hub id, folder, or .parquet, .csv or .jsonl file), found none: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return loaded


def _read(name: str, config_name: str | None, split: str | None) -> Any:
    path = Path(name)
    if config_name and (path.is_file() or (path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        raise ValueError(f"{name} has no configurations, found config_names {config_name!r}: leave them out.")
    if path.is_file():
        if split not in (None, "train"):
            raise ValueError(f"{path.name} is one file and has no split {split!r}: leave the split out.")
        if path.suffix not in FILE_BUILDERS:
            raise ValueError(f"Expected a {', '.join(FILE_BUILDERS)} file, found {path.name}.")
        options: dict[str, Any] = {"sep": "\t"} if path.suffix == ".tsv" else {}
        if FILE_BUILDERS[path.suffix] == "csv":
            options |= {
                "keep_default_na": False,
                "na_values": [""],
            }  # else the language nan and the label None are null
        return datasets.load_dataset(FILE_BUILDERS[path.suffix], data_files=str(path), split="train", **options)
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        loaded = datasets.load_from_disk(name)
        if not split or not isinstance(loaded, DatasetDict):
            return loaded
        if split not in loaded:
            raise ValueError(f"Expected the split {split!r} in {name}, found {', '.join(loaded)}.")
        return loaded[split]
    return datasets.load_dataset(name, config_name, split=split)


def _join_configurations(name: str, config_names: Sequence[str], split: str | None) -> Any:
    parts = {config: open_dataset(name, config_names=[config], split=split) for config in config_names}
    if split is None:
        shared = set.intersection(*(set(part) for part in parts.values()))
        return DatasetDict({key: _stack({c: part[key] for c, part in parts.items()}) for key in sorted(shared)})
    return _stack(parts)


def _stack(parts: dict[str, Dataset]) -> Dataset:
    named = []
    for config, part in parts.items():
        for column, values in (("language", [config] * len(part)), ("row", range(len(part)))):
            if column not in part.column_names:
                part = part.add_column(column, list(values))
        named.append(part)
    return datasets.concatenate_datasets(named)


def open_texts(
    name: str,
    *,
    config_names: Sequence[str] = (),
    split: str | None = None,
    text_columns: Sequence[str] = (),
    language_columns: Sequence[str] = ("language",),
    id_column: str | None = None,
    languages: Sequence[str] = (),
    rows: int | None = None,
) -> Dataset:
    """Text to probe: the text columns beside `language` and `id`, with the same spacing in every language.

    Args:
        name, config_names: as in `open_dataset`; of several configurations only the first rows are fetched (from
            `wikimedia/wikipedia`, not the 20 GB). A date before a language ("20231101.fr") is dropped.
        split: one split; None takes "test", "train" or the only one (of several configurations "train").
        text_columns: one column, or two for a pair; empty takes the usual names.
        language_columns: the first of these that the data have.
        id_column: the same for translations of one text; None takes `item` if there is one, of several configurations
            the place in them (right where they are parallel, harmless where they are not), else numbers the rows.
        languages: those to keep; empty keeps all.
        rows: the first rows of each language; None keeps all.

    Raises:
        ValueError: nothing there, a column is missing, or one of `languages` has fewer than two rows.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"Expected 1 row of each language or more, found {rows}.")
    raw = _first_rows(name, config_names, split or "train", rows) if len(config_names) > 1 and rows else None
    raw = open_dataset(name, config_names=config_names, split=split) if raw is None else raw
    raw = _one_split(raw, name)
    texts = find_text_columns(raw, text_columns)
    column = next((name for name in language_columns if name in raw.column_names), language_columns[-1])
    require_columns(raw, {"language": column} | ({"id": id_column} if id_column else {}))
    for text in texts:
        require_texts(raw, text)
    spoken = np.array([re.sub(r"^\d{8}\.", "", name) for name in _strings(raw, column, "language")], dtype=object)
    kept = np.concatenate([np.flatnonzero(spoken == language)[:rows] for language in languages or sorted(set(spoken))])
    if missing := [language for language in languages if (spoken[kept] == language).sum() < 2]:
        raise ValueError(
            f"Expected text in {', '.join(languages)} in {name}, found fewer than two rows in {', '.join(missing)}."
        )
    known = ("item", "row") if len(config_names) > 1 else ("item",)
    id_column = id_column or next((column for column in known if column in raw.column_names), None)
    raw = raw.select(kept)
    ids = _strings(raw, id_column, "id") if id_column else [str(i) for i in range(len(kept))]
    columns = {text: [normalise_spacing(value) for value in raw[text]] for text in texts}
    return Dataset.from_dict(columns | {"language": spoken[kept].tolist(), "id": ids})


def _one_split(raw: Any, name: str) -> Dataset:
    """Of several splits test, else train, else the only one."""
    if not isinstance(raw, DatasetDict):
        return raw
    chosen = next((key for key in ("test", "train") if key in raw), None) or (
        next(iter(raw)) if len(raw) == 1 else None
    )
    if chosen is None:
        raise ValueError(f"Expected one split of {name}, found {', '.join(raw)}: name one with split.")
    return raw[chosen]


def open_rows(
    name: str,
    *,
    config_names: Sequence[str] = (),
    split: str | None = None,
    text_columns: Sequence[str] = (),
    language_column: str = "language",
    label_column: str = "label",
    id_column: str | None = None,
    rows: int | None = None,
) -> Dataset:
    """Rows as they are, for a model to read: the text columns beside `language`, `label` and `id` where they are there.

    Args:
        name, config_names, split, text_columns: as in `open_texts`.
        language_column, label_column, id_column: a column that is named and has not its usual name must be there.
        rows: the first rows of each language; None keeps all.

    Raises:
        ValueError: nothing there, a column is missing, or texts that are no strings.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"Expected 1 row of each language or more, found {rows}.")
    raw = _one_split(open_dataset(name, config_names=config_names, split=split), name)
    texts = find_text_columns(raw, text_columns)
    for column in texts:
        require_texts(raw, column)
    given = {"language": language_column, "label": label_column, "id": id_column or ""}
    named = [column for column in (*texts, *given.values()) if column]
    if twice := sorted({column for column in named if named.count(column) > 1}):
        raise ValueError(f"The column {twice[0]!r} is named for two purposes: each needs one of its own.")
    required = {kind: column for kind, column in given.items() if column not in ("", kind)}
    require_columns(raw, required)
    if not id_column:
        free = [column for column in ("id", "item") if column in raw.column_names and column not in named]
        given["id"] = next(iter(free), "")
    found = {kind: column for kind, column in given.items() if column in raw.column_names}
    if rows is not None and "language" in found:
        spoken = np.array(_strings(raw, found["language"], "language"), dtype=object)
        kept = np.concatenate([np.flatnonzero(spoken == language)[:rows] for language in sorted(set(spoken))])
        raw = raw.select(np.sort(kept))
    elif rows is not None:
        raw = raw.select(range(min(rows, len(raw))))
    raw = raw.select_columns([*texts, *found.values()])
    return raw.rename_columns({column: kind for kind, column in found.items() if column != kind})


def _first_rows(name: str, config_names: Sequence[str], split: str, rows: int) -> Dataset | None:
    """The first rows of each configuration, streamed; None where the rows of one are in several languages."""
    parts = {}
    for config in config_names:
        try:
            stream = datasets.load_dataset(name, config, split=split, streaming=True)
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ConnectionError):
            return None  # `open_dataset` says what is wrong
        if "language" in (stream.column_names or ()):
            return None
        parts[config] = Dataset.from_list(list(stream.take(rows)), features=stream.features)
    return _stack(parts)


def normalise_spacing(text: str) -> str:
    """Undo tokenisation: NFC, one space between words, none before , . ; : ! ? ) ] } % ... or after ( [ {.

    Some corpora are tokenised ("word , word") in one language only: a language probe would find that. Quotation marks
    of a language's own stay as they are.
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
    text = re.sub(r"`` ?| ?''", '"', text)
    text = re.sub(r" (?=(?:n['’]t|['’](?:s|re|ve|ll|d|m))\b)", "", text)
    return re.sub(r"(?<=[(\[{]) | (?=[,;:!?)\]}…%]|\.(?:\W|$))", "", text)


def find_text_columns(dataset: Dataset, text_columns: Sequence[str] = ()) -> list[str]:
    """The one or two text columns: those named, else the first known names that the data set has.

    Raises:
        ValueError: a named column is missing, more than two are named, or none is known.
    """
    if text_columns:
        if len(text_columns) > 2 or len(set(text_columns)) < len(text_columns):
            raise ValueError(f"Expected one text column or two different ones (a pair), found {list(text_columns)}.")
        require_columns(dataset, {"text": text_columns[0]} | ({"text": text_columns[-1]}))
        return list(text_columns)
    for columns in KNOWN_TEXT_COLUMNS:
        if all(column in dataset.column_names for column in columns):
            return list(columns)
    raise ValueError(f"Found no text column among {sorted(dataset.column_names)}: name one or two with text_column.")


def standardise(
    dataset: Dataset,
    *,
    text_columns: Sequence[str],
    language_column: str = "language",
    label_column: str = "label",
    id_column: str | None = None,
    label_names: Sequence[str] = (),
    languages: Sequence[str] = (),
) -> Dataset:
    """Keep the texts (under their names) beside `language` (string), `label` (ClassLabel) and `id` (string).

    Args:
        dataset: rows as they come.
        text_columns: one column, or two for a pair.
        language_column, label_column: any string, integer or ClassLabel column.
        id_column: of the item, the same for translations of one text; None numbers the rows.
        label_names: label names in class order; empty takes the ClassLabel's order, else sorted values.
        languages: keep only these; empty keeps all.

    Raises:
        ValueError: missing columns, nulls, texts that are no strings, or labels that are not among `label_names`.
    """
    columns = {"text": text_columns[0], "language": language_column, "label": label_column}
    require_columns(dataset, columns | ({"id": id_column} if id_column else {}))
    for column in text_columns:
        require_texts(dataset, column)
    if languages:
        wanted = np.isin(_strings(dataset, language_column, "language"), list(languages))
        dataset = dataset.select(np.flatnonzero(wanted))
        if len(dataset) == 0:
            raise ValueError(f"No rows in languages {', '.join(languages)} (column {language_column!r}).")
    values, labels = _names(dataset, label_column, "label")
    names = list(label_names) or class_label_names(dataset, label_column) or values
    unknown = [value for value in values if value not in names]
    if unknown:
        raise ValueError(f"Labels {unknown} of column {label_column!r} are not among label_names {names}.")
    ids = _strings(dataset, id_column, "id") if id_column else [str(i) for i in range(len(dataset))]
    kept = dataset.select_columns(list(text_columns)).flatten_indices()
    position = {name: i for i, name in enumerate(names)}
    return (
        kept.add_column("language", _strings(dataset, language_column, "language"))
        .add_column("label", [position[label] for label in labels])
        .add_column("id", ids)
        .cast_column("language", Value("string"))
        .cast_column("label", ClassLabel(names=names))
    )


def require_texts(dataset: Dataset, column: str) -> None:
    """Raise where a text column holds nulls or other than strings."""
    texts = dataset.select_columns([column]).with_format("arrow")[:][column]
    if texts.null_count:
        raise ValueError(f"The text column {column!r} has {texts.null_count:,} null entries: filter these rows out.")
    if len(texts) and not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise ValueError(f"The text column {column!r} holds values of type {texts.type}, expected strings.")


def _names(dataset: Dataset, column: str, purpose: str) -> tuple[list[str], list[str]]:
    """A column's distinct values in order (2 before 10) and the column itself, both as text; class ids as names."""
    axis, positions = encode_column(dataset.select_columns([column]).with_format("arrow")[:][column], purpose)
    feature = dataset.features[column]
    names = [feature.int2str(int(value)) if isinstance(feature, ClassLabel) else str(value) for value in axis]
    return names, np.array(names, dtype=object)[positions].tolist()


def _strings(dataset: Dataset, column: str, purpose: str) -> list[str]:
    """A column as text."""
    return _names(dataset, column, purpose)[1]
