"""How a data set is opened: a file, a folder, a saved data set or a Hub id, cached for training or streamed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value

from hf_langimb.console import one_line
from hf_langimb.counts.distribution import JointDistribution

if TYPE_CHECKING:
    from hf_langimb.data.spec import DataSpec

T = TypeVar("T")
FILE_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
NULLS = {"keep_default_na": False, "na_values": [""]}  # else pandas takes the language nan and the label None for nulls

NOT_FOUND = (FileNotFoundError, ConnectionError, RuntimeError, datasets.exceptions.DatasetNotFoundError)


class _NamedError(ValueError):
    """An error whose message names the data set."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn any error raised while reading a user's data set into one ValueError that names it."""
    try:
        yield
    except Exception as error:  # the libraries raise errors of any type
        message = f"{name}: {_reason(error)}"
        if isinstance(error, _NamedError):
            message = str(error)
        elif isinstance(error, NOT_FOUND):
            message = (
                f"Expected a data set at {name!r} (Hub id, folder, or .parquet, .csv or .jsonl file), found none that "
                f"can be read: {one_line(str(error).partition(chr(10))[0])}"
            )
        raise _NamedError(message) from error


def _reason(error: BaseException) -> str:
    """What went wrong, in one sentence."""
    if isinstance(error, datasets.exceptions.DatasetGenerationError):
        error = error.__cause__ or error
    if isinstance(error, datasets.table.CastError):
        return "its files have different columns: name one of them."
    if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
        return "No rows to read: the data set is empty."
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text ({error}): save it as UTF-8."
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return one_line(f"{kind}{error}")


def read(spec: DataSpec) -> Any:
    """See `DataSpec.read`."""
    with readable(spec.name):
        parts = {config: _load(spec, config) for config in _configurations(spec)}
        if len(parts) == 1:
            return next(iter(parts.values()))
        if spec.split is not None:
            return _stack(parts)
        shared = sorted(_shared([*parts.values()]))
        return DatasetDict({split: _stack({c: part[split] for c, part in parts.items()}) for split in shared})


def _configurations(spec: DataSpec) -> Sequence[str | None]:
    """The names of configurations; None where a data set has no names for them."""
    if spec.config_names and (Path(spec.name).is_file() or _is_saved(spec)):
        given = ", ".join(spec.config_names)
        raise ValueError(f"files and saved data sets have no configurations, got config_names {given}: leave them out.")
    return spec.config_names or (None,)


def _is_saved(spec: DataSpec) -> bool:
    return any((Path(spec.name) / file).exists() for file in ("state.json", "dataset_dict.json"))


def _load(spec: DataSpec, config_name: str | None) -> Any:
    """One configuration, cached."""
    if _is_saved(spec):
        loaded = datasets.load_from_disk(spec.name)
        splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
        return loaded if spec.split is None else pick(splits, spec.split)
    builder = _builder(spec.name, config_name)
    builder.download_and_prepare()
    return builder.as_dataset("train" if Path(spec.name).is_file() and spec.split is None else spec.split)


def pick(splits: Mapping[str, T], split: str | None) -> T:
    """The named split; None takes test, else train, else the only one."""
    named = next((key for key in ("test", "train") if key in splits), None) if split is None else split
    if named is None and len(splits) == 1:
        named = next(iter(splits))
    if named is None or named not in splits:
        wanted = "one split" if split is None else f"the split {split!r}"
        raise ValueError(f"Expected {wanted}, found {', '.join(map(str, splits))}: name one with split.")
    return splits[named]


def _builder(name: str, config_name: str | None) -> Any:
    """The `datasets` builder of a file, folder or Hub id, with the same null words for all of them."""
    path = Path(name)
    source: dict[str, Any] = {"path": name, "name": config_name}
    if path.is_file():
        if path.suffix not in FILE_BUILDERS:
            raise ValueError(f"Expected a {', '.join(FILE_BUILDERS)} file, found {path.name}.")
        source = {"path": FILE_BUILDERS[path.suffix], "data_files": str(path)}
        if path.suffix == ".tsv":
            source["sep"] = "\t"
    elif not name.strip("/") or (
        not path.exists() and (path.suffix in FILE_BUILDERS or path.is_absolute() or name.startswith("."))
    ):
        raise FileNotFoundError("no such file or data folder")  # the Hub is not asked
    builder = datasets.load_dataset_builder(**source)
    if hasattr(builder.config, "keep_default_na"):
        builder = datasets.load_dataset_builder(**source, **NULLS)
    return builder


def _stack(parts: Mapping[Any, Dataset]) -> Dataset:
    """Configurations one after the other, each with its name as language and its rows numbered."""
    named = []
    for config, part in parts.items():
        for column, values in (("language", [config] * len(part)), ("row", range(len(part)))):
            if column not in part.column_names:
                part = part.add_column(column, list(values))
        named.append(part)
    return datasets.concatenate_datasets(named)


def first_rows(spec: DataSpec, first: int) -> Dataset | None:
    """The first rows of each configuration, streamed; None where one configuration has several languages."""
    configs = _configurations(spec)
    parts = {config: pick(_builder(spec.name, config).as_streaming_dataset(), spec.split) for config in configs}
    if any("language" in _columns_of(rows) for rows in parts.values()):
        return None
    return _stack({config: _take(rows, first) for config, rows in parts.items()})


def _take(rows: IterableDataset, first: int) -> Dataset:
    return Dataset.from_list(list(rows.take(first)), features=rows.features)


def _columns_of(rows: IterableDataset) -> list[str]:
    return rows.column_names or list(next(iter(rows), ()))


def _shared(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Splits that all configurations have."""
    return [split for split in parts[0] if all(split in part for part in parts)]


def count(spec: DataSpec) -> dict[str, JointDistribution]:
    """See `DataSpec.counts`. Of Parquet two columns are read, from the Hub too; of other formats whole rows."""
    with readable(spec.name):
        parts = [_two_columns(spec, config) for config in _configurations(spec)]
        splits = {str(split): [part[split] for part in parts] for split in _shared(parts)}
        if spec.split is not None:
            splits = {spec.split: pick(splits, spec.split)}
        counted = {}
        for split, tables in splits.items():
            with readable(spec.name if len(splits) == 1 else f"{spec.name}, split {split!r} (choose one with split)"):
                found = [JointDistribution.from_dataset(t, spec.language_column, spec.label_column) for t in tables]
            counted[split] = sum(found[1:], found[0])
        return counted


def _two_columns(spec: DataSpec, config_name: str | None) -> dict[str, Any]:
    """Splits of a configuration, each something that `JointDistribution.from_dataset` reads and checks."""
    path, columns = Path(spec.name), [spec.language_column, spec.label_column]
    if _is_saved(spec):
        opened = _load(replace(spec, split=None), config_name)
        return opened if isinstance(opened, dict) else {"train": opened}
    if path.is_file() and path.suffix == ".parquet":
        return {"train": _parquet_columns(path, columns)}
    builder = _builder(spec.name, config_name)
    splits = builder.as_streaming_dataset()
    known = [_columns_of(rows) for rows in splits.values()]
    named = len(spec.config_names) > 1 and columns[0] == "language" and not any("language" in names for names in known)
    if named:
        del columns[0]
    if hasattr(builder.config, "columns") and all({*columns} <= {*names} for names in known):  # of Parquet
        builder.config.columns = columns
        splits = builder.as_streaming_dataset()
    return {key: _add_language(rows, config_name) for key, rows in splits.items()} if named else splits


def _add_language(rows: IterableDataset, language: str | None) -> IterableDataset:
    """The rows with one language in all of them."""
    features = rows.features and Features({**rows.features, "language": Value("string")})
    return rows.with_format("arrow").map(
        lambda table: table.append_column("language", pa.array([language] * len(table))),
        batched=True,
        features=features,
    )


def _parquet_columns(path: Path, columns: Sequence[str]) -> Dataset:
    """The columns in memory: half the time of a stream, which imports torch. All columns without rows if one lacks."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        table = file.read(columns=columns) if {*columns} <= {*schema.names} else schema.empty_table()
    return Dataset(datasets.table.InMemoryTable(table), fingerprint="audit")  # None would hash every row
