"""How a dataset is opened: a file, a folder, a saved dataset or a Hub id; and its errors in one sentence."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import datasets
from datasets import Dataset, IterableDataset

from hf_langimb.console import one_line
from hf_langimb.data.text import not_utf8

T = TypeVar("T")
FILE_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
NULLS = {"keep_default_na": False, "na_values": [""]}  # of csv that its README describes in other ways than we read
METADATA = (
    "state.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "README.md",
)  # the first two: of `save_to_disk`

NOT_FOUND = (FileNotFoundError, ConnectionError, RuntimeError, datasets.exceptions.DatasetNotFoundError)


class _NamedError(ValueError):
    """An error whose message names the dataset."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn any error raised while reading a user's dataset into one ValueError that names it."""
    try:
        yield
    except Exception as error:  # the libraries raise errors of any type
        message = f"{name}: {_reason(error, Path(name)).removeprefix(f'{Path(name).name}: ')}"
        if isinstance(error, _NamedError):
            message = str(error)
        elif isinstance(error, NOT_FOUND) and not isinstance(error, RecursionError):
            message = (
                f"Cannot read a dataset at {name!r} (Hub id, folder, or .parquet, .csv, .tsv, .json or .jsonl file): "
                f"{one_line(str(error).partition(chr(10))[0])}"
            )
        raise _NamedError(message) from error


def _reason(error: BaseException, path: Path) -> str:
    """What went wrong, in one sentence."""
    if isinstance(error, datasets.exceptions.DatasetGenerationError):
        error = error.__cause__ or error
    differing = isinstance(error, datasets.table.CastError | datasets.exceptions.DatasetGenerationCastError)
    if differing or re.search("does not exist in schema|No match for FieldRef|is not in list", str(error)):
        return "its files have different columns: pass a single file."
    if re.search("Failed to parse string|was truncated converting", str(error)):
        return "its files have different types in one column: write all of them with the same type."
    if unknown := re.match(r'Unknown split "(.*?)"\. Should be one of \[(.*)\]', str(error)):
        return f"Expected the split {unknown[1]!r}, found {unknown[2].replace(chr(39), '')}: choose one with --split."
    if missing := re.match(r"Config name is missing.*?\[(.*?)\]", str(error), re.DOTALL):
        return f"Choose a configuration with --config-name: {missing[1].replace(chr(39), '')}."
    if unknown := re.match(r"BuilderConfig '(.*?)' not found\. Available: \[(.*)\]", str(error)):
        known = unknown[2].replace(chr(39), "")
        return f"Expected the configuration {unknown[1]!r}, found {known}: choose one with --config-name."
    if isinstance(error, StopIteration) or re.search("corresponds to no data|BatchSize must be", str(error)):
        return "No rows to read: the dataset is empty."
    if isinstance(error, RecursionError):
        return "its rows are nested too deeply."
    if isinstance(error, UnicodeDecodeError):
        return f"{not_utf8(error)}."
    if isinstance(error, ValueError | OSError) and not isinstance(error, json.JSONDecodeError):
        return one_line(error)
    present = [file for file in METADATA if (path / file).is_file()]
    advice = f" (is its {' or '.join(present)} damaged?)" if present else ""
    return one_line(f"{type(error).__name__}: {error}{advice}")


def flattened(rows: Dataset) -> Dataset:
    """The selected rows as a dataset of their own; `flatten_indices` leaves all of them where none are selected."""
    return rows.flatten_indices() if len(rows) else Dataset(rows.data.table.slice(0, 0))


def is_saved(name: str) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((Path(name) / file).exists() for file in METADATA[:2])


def pick(splits: Mapping[str, T], split: str | None) -> T:
    """The named split; None takes test, else train, else the only one."""
    usual = [*(key for key in ("test", "train") if key in splits), *(splits if len(splits) == 1 else ())]
    named = next(iter(usual), None) if split is None else split
    if named is None or named not in splits:
        wanted = "one split" if split is None else f"the split {split!r}"
        raise ValueError(f"Expected {wanted}, found {', '.join(map(str, splits))}: choose one with --split.")
    return splits[named]


def builder_of(name: str, config_name: str | None) -> Any:
    """The `datasets` builder of a dataset, which knows its files."""
    path = Path(name).absolute()
    source: dict[str, Any] = {"path": str(path) if path.is_dir() else name, "name": config_name}
    suffix = suffix_of(name)
    local = suffix in FILE_BUILDERS or Path(name).is_absolute() or name.startswith(".")
    if not name or not path.name or (local and not path.exists()):
        raise FileNotFoundError("no such file or data folder")  # the Hub is not asked
    if path.is_file():
        if suffix not in FILE_BUILDERS:
            raise ValueError(f"Expected a {', '.join(FILE_BUILDERS)} file, found {path.name}.")
        source = {"path": FILE_BUILDERS[suffix], "data_files": glob.escape(str(path))}
    builder = datasets.load_dataset_builder(**source)
    return datasets.load_dataset_builder(**source, **NULLS) if hasattr(builder.config, "keep_default_na") else builder


def suffix_of(path: str) -> str:
    """How a file's name ends, before .gz."""
    return PurePosixPath(path.removesuffix(".gz")).suffix.lower()


def stack(parts: Mapping[Any, Dataset]) -> Dataset:
    """Configurations one after the other, each with its name as language and its rows numbered."""
    named = []
    for config, part in parts.items():
        for column, values in (("language", [config] * len(part)), ("row", range(len(part)))):
            if column not in part.column_names:
                part = part.add_column(column, list(values))
        named.append(part)
    return datasets.concatenate_datasets(named)


def columns_of(rows: IterableDataset) -> list[str]:
    """The columns of a stream; its first row is read where it declares none."""
    return rows.column_names or list(next(iter(rows), ()))


def shared_splits(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Splits that all configurations have."""
    return [split for split in parts[0] if all(split in part for part in parts)]
