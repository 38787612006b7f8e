"""Rows as models read them: which columns are the texts, and texts, languages, labels and ids in standard columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value

from hf_langimb.counts.columns import class_label_names, encode_column, require_columns
from hf_langimb.data.reading import first_rows, pick, read, readable

if TYPE_CHECKING:
    from hf_langimb.data.spec import DataSpec

KNOWN_TEXT_COLUMNS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text", "text_pair"), ("text",))


def find_text_columns(dataset: Dataset, text_columns: Sequence[str] = ()) -> list[str]:
    """The one or two text columns: those named, else the first usual names that the data set has.

    Raises:
        ValueError: a named column is missing, more than two are named, no name is usual, or texts that are not strings.
    """
    present = sorted(dataset.column_names)
    usual = [names for names in KNOWN_TEXT_COLUMNS if {*names} <= {*present}]
    if not text_columns and not usual:
        raise ValueError(f"Found no text column among {present}: name one or two with text_column.")
    columns = list(text_columns or usual[0])
    if len(columns) > 2 or len(set(columns)) < len(columns):
        raise ValueError(f"Expected one text column or two different ones (a pair), got {columns}.")
    for column in columns:
        require_columns(dataset, {"text": column})
        (texts,) = arrow_columns(dataset, column)
        problem = ""
        if texts.null_count:
            problem = f"has {texts.null_count:,} null entries: remove these rows"
        elif len(texts) and not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            problem = f"has values of type {texts.type}, expected strings"
        if problem:
            raise ValueError(f"The text column {column!r} {problem}.")
    return columns


def normalise_spacing(text: str) -> str:
    """Undo tokenisation: NFC, one space between words, none before , . ; : ! ? ) ] } % ... or after ( [ {.

    Some corpora are tokenised ("word , word") in one language only, which a language probe would find. The quotation
    marks of a language are kept.
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
    text = re.sub(r"`` ?| ?''", '"', text)
    text = re.sub(r" (?=(?:n['’]t|['’](?:s|re|ve|ll|d|m))\b)", "", text)
    return re.sub(r"(?<=[(\[{]) | (?=[,;:!?)\]}…%]|\.(?:\W|$))", "", text)


def rows(spec: DataSpec, first: int | None = None) -> Dataset:
    """See `DataSpec.rows`."""
    with readable(spec.name):
        raw = _one_split(spec, first)
        texts = find_text_columns(raw, spec.text_columns)
        given = {"language": spec.language_column, "label": spec.label_column, "id": spec.id_column or ""}
        given = {kind: name for kind, name in given.items() if name in raw.column_names or name not in ("", kind)}
        require_columns(raw, {f"text {i}": name for i, name in enumerate(texts, 1)} | given)
        if not spec.id_column:
            free = [name for name in ("id", "item") if name in {*raw.column_names} - {*texts, *given.values()}]
            given |= dict(zip(["id"], free, strict=False))
        if first is not None and "language" in given:
            raw = raw.select(np.sort(_first_of_each(_strings(raw, given["language"], "language"), first)))
        elif first is not None:
            raw = raw.select(range(min(first, len(raw))))
        raw = raw.select_columns([*texts, *given.values()])
        return raw.rename_columns({name: kind for kind, name in given.items() if name != kind})


def texts(spec: DataSpec, languages: Sequence[str], first: int | None, language_columns: Sequence[str]) -> Dataset:
    """See `DataSpec.texts`."""
    with readable(spec.name):
        raw = _one_split(spec, first)
        texts = find_text_columns(raw, spec.text_columns)
        column = next((name for name in language_columns if name in raw.column_names), language_columns[-1])
        require_columns(raw, {"language": column} | ({"id": spec.id_column} if spec.id_column else {}))
        found = np.array([re.sub(r"^\d{8}\.", "", name) for name in _strings(raw, column, "language")], dtype=object)
        kept = _first_of_each(found, first, languages)
        if missing := [language for language in languages if (found[kept] == language).sum() < 2]:
            raise ValueError(
                f"Expected text in {', '.join(languages)}, found fewer than two rows in {', '.join(missing)}: "
                "choose another data set or other configurations."
            )
        known = ("item", "row") if len(spec.config_names) > 1 else ("item",)
        id_column = spec.id_column or next((column for column in known if column in raw.column_names), None)
        raw = raw.select(kept)
        ids = _strings(raw, id_column, "id") if id_column else [str(i) for i in range(len(kept))]
        columns = {text: [normalise_spacing(value) for value in raw[text]] for text in texts}
        return Dataset.from_dict(columns | {"language": found[kept].tolist(), "id": ids})


def _one_split(spec: DataSpec, first: int | None) -> Dataset:
    """Of several splits test, else train, else the only one; with `first` of several configurations the first rows."""
    if first is not None and first < 1:
        raise ValueError(f"Expected 1 row of each language or more, got {first}.")
    raw: Any = first_rows(spec, first) if first and len(spec.config_names) > 1 else None
    raw = read(spec) if raw is None else raw
    return pick(raw, None) if isinstance(raw, dict) else raw


def _first_of_each(found: np.ndarray, first: int | None, languages: Sequence[str] = ()) -> np.ndarray:
    """Numbers of the first rows of each language, one language after the other."""
    rows = [np.flatnonzero(found == language)[:first] for language in languages or sorted(set(found))]
    return np.concatenate([np.empty(0, dtype=np.int64), *rows])


def standardise(spec: DataSpec, dataset: Dataset, label_names: Sequence[str], languages: Sequence[str]) -> Dataset:
    """See `DataSpec.standardised`."""
    with readable(spec.name):
        texts = find_text_columns(dataset, spec.text_columns)
        columns = {"text": texts[0], "language": spec.language_column, "label": spec.label_column}
        require_columns(dataset, columns | ({"id": spec.id_column} if spec.id_column else {}))
        found = _strings(dataset, spec.language_column, "language")
        if languages:
            kept = np.flatnonzero(np.isin(found, list(languages)))
            dataset, found = dataset.select(kept), found[kept]
        values, positions = _encoded(dataset, spec.label_column, "label")
        names = list(label_names) or class_label_names(dataset, spec.label_column) or values
        if unknown := [value for value in values if value not in names]:
            raise ValueError(f"Labels {unknown} of column {spec.label_column!r} are not among label_names {names}.")
        labels = np.array([names.index(value) for value in values], dtype=np.int64)[positions]
        ids = _strings(dataset, spec.id_column, "id") if spec.id_column else np.arange(len(dataset)).astype(str)
        kept_texts = dataset.select_columns(texts).flatten_indices()
        return (
            kept_texts.add_column("language", found, feature=Value("string"))
            .add_column("label", labels, feature=ClassLabel(names=names))
            .add_column("id", ids, feature=Value("string"))
        )


def arrow_columns(dataset: Dataset, *columns: str) -> list[Any]:
    """Columns as Arrow arrays."""
    table = dataset.select_columns(list(columns)).with_format("arrow")[:]
    return [table[column] for column in columns]


def _encoded(dataset: Dataset, column: str, purpose: str) -> tuple[list[str], np.ndarray]:
    """Distinct values of a column in order (2 before 10), as text, class ids as names; and each row's position."""
    (values,) = arrow_columns(dataset, column)
    axis, positions = encode_column(values, purpose)
    feature = dataset.features[column]
    return [feature.int2str(int(v)) if isinstance(feature, ClassLabel) else str(v) for v in axis], positions


def _strings(dataset: Dataset, column: str, purpose: str) -> np.ndarray:
    """A column as text, object[N]."""
    names, positions = _encoded(dataset, column, purpose)
    return np.array(names, dtype=object)[positions]
