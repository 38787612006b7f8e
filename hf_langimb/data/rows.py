"""Columns of rows as models read them: which are the texts, how they are spaced, and any column as text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset

from hf_langimb.counts.columns import encode_column, require_columns, whole_floats

TEXT_COLUMNS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text", "text_pair"), ("text",))


def find_text_columns(dataset: Dataset, text_columns: Sequence[str] = (), **others: str) -> list[str]:
    """The one or two text columns: those named, else the first usual names that the dataset has.

    Raises:
        ValueError: a named column is missing (also of `others`, by purpose), more than two texts are named, no name is
            usual, or texts that are not strings.
    """
    present = sorted(dataset.column_names)
    usual = [names for names in TEXT_COLUMNS if {*names} <= {*present}]
    columns = list(text_columns or next(iter(usual), ()))
    problem = ""
    if not columns:
        problem = f"Found no text column among {present}: name one or two with text_column."
    elif len(columns) > 2 or len(set(columns)) < len(columns):
        problem = f"Expected one text column or two different ones (a pair), got {columns}."
    else:
        require_columns(dataset, {f"text {i}": name for i, name in enumerate(columns, 1)} | others)
        for column, texts in zip(columns, arrow_columns(dataset, *columns), strict=True):
            if texts.null_count:
                number = f"{texts.null_count:,} of {len(texts):,} rows"
                problem = f"The text column {column!r} is empty in {number}: drop these rows (--drop-null)."
            elif len(texts) and not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
                problem = f"The text column {column!r} has values of type {texts.type}, expected strings."
    if problem:
        raise ValueError(problem)
    return columns


def normalize_spacing(text: str) -> str:
    """Undo tokenization: NFC, one space between words, none before , . ; : ! ? ) ] } % ... or after ( [ {.

    Some corpora are tokenized ("word , word") in one language only, which a language probe would find. The quotation
    marks of a language are kept.
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
    text = re.sub(r"`` ?| ?''", '"', text)
    text = re.sub(r" (?=(?:n['’]t|['’](?:s|re|ve|ll|d|m))\b)", "", text)
    return re.sub(r"(?<=[(\[{]) | (?=[,;:!?)\]}…%]|\.(?:\W|$))", "", text)


def arrow_columns(dataset: Dataset, *columns: str) -> list[Any]:
    """Columns as Arrow arrays."""
    table = dataset.select_columns(list(columns)).with_format("arrow")[:]
    return [table[column] for column in columns]


def encoded(dataset: Dataset, column: str, purpose: str) -> tuple[list[str], np.ndarray]:
    """Distinct values of a column in order (2 before 10), as text, class ids as names; and each row's position."""
    (values,) = arrow_columns(dataset, column)
    axis, positions = encode_column(whole_floats(values), purpose)
    feature = dataset.features[column]
    return [feature.int2str(int(v)) if isinstance(feature, ClassLabel) else str(v) for v in axis], positions


def strings(dataset: Dataset, column: str, purpose: str) -> np.ndarray:
    """A column as text, object[N]."""
    names, positions = encoded(dataset, column, purpose)
    return np.array(names, dtype=object)[positions]


def first_of_each(found: np.ndarray, first: int | None, languages: Sequence[str] = ()) -> np.ndarray:
    """Numbers of the first rows of each language, one language after the other."""
    rows = [np.flatnonzero(found == language)[:first] for language in languages or sorted(set(found))]
    return np.concatenate([np.empty(0, dtype=np.int64), *rows])
