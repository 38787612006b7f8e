"""How a data set is opened: a file, a folder, a saved data set or a Hub id, cached for training or streamed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value

from hf_langimb.console import one_line
from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.distribution import JointDistribution

if TYPE_CHECKING:
    from hf_langimb.data.spec import DataSpec

T = TypeVar("T")
FILE_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
NULLS = {"keep_default_na": False, "na_values": [""]}  # else pandas takes the language nan and the label None for nulls


class _NamedError(ValueError):
    """An error whose message names the data set."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn any error raised while reading a user's data set into one ValueError that names it."""
    try:
        yield
    except _NamedError:
        raise
    except (FileNotFoundError, ConnectionError, RuntimeError, datasets.exceptions.DatasetNotFoundError) as error:
        raise _NamedError(
            f"Expected a data set at {name!r} (Hub id, folder, or .parquet, .csv or .jsonl file), found none that can "
            f"be read: {one_line(str(error).partition(chr(10))[0])}"
        ) from error
    except Exception as error:  # of any type: so are the errors of the libraries that read any file
        raise _NamedError(f"{name}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, datasets.exceptions.DatasetGenerationError):
        error = error.__cause__ or error
    if isinstance(error, datasets.table.CastError):
        return "its files have different columns: name one of them."
    if isinstance(error, StopIteration):
        return "No rows to count: the data set is empty."
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return one_line(f"{kind}{error}")


def read(spec: DataSpec) -> Any:
    """See `DataSpec.read`."""
    with readable(spec.name):
        if len(spec.config_names) < 2:
            return _load(spec, *spec.config_names)
        parts = {config: _load(spec, config) for config in spec.config_names}
        if spec.split is not None:
            return _stack(parts)
        shared = set.intersection(*(set(part) for part in parts.values()))
        return DatasetDict({key: _stack({c: part[key] for c, part in parts.items()}) for key in sorted(shared)})


def _load(spec: DataSpec, config_name: str | None = None) -> Any:
    """One configuration, cached."""
    path = Path(spec.name)
    if not _is_saved(path):
        builder = _builder(spec.name, config_name)
        builder.download_and_prepare()
        return builder.as_dataset("train" if path.is_file() and not spec.split else spec.split)
    _refuse_configuration(spec.name, config_name)
    loaded = datasets.load_from_disk(spec.name)
    splits = loaded if isinstance(loaded, DatasetDict) else {str(loaded.split or "train"): loaded}
    return loaded if spec.split is None else pick(splits, spec.split)


def _is_saved(path: Path) -> bool:
    return (path / "state.json").exists() or (path / "dataset_dict.json").exists()


def _refuse_configuration(name: str, config_name: str | None) -> None:
    if config_name:
        raise ValueError(f"{name} has no configurations, found config_names {config_name!r}: leave them out.")


def pick(splits: Mapping[str, T], split: str | None) -> T:
    """The named split; None takes test, else train, else the only one."""
    named = split or next((key for key in ("test", "train") if key in splits), None)
    if named is None and len(splits) == 1:
        named = next(iter(splits))
    if named is None or named not in splits:
        wanted = f"the split {split!r}" if split else "one split"
        raise ValueError(f"Expected {wanted}, found {', '.join(map(str, splits))}: name one with split.")
    return splits[named]


def _builder(name: str, config_name: str | None) -> Any:
    """The `datasets` builder of a file, folder or Hub id, with the same null words for all of them."""
    path = Path(name)
    source: dict[str, Any] = {"path": name, "name": config_name}
    if path.is_file():
        _refuse_configuration(name, config_name)
        if path.suffix not in FILE_BUILDERS:
            raise ValueError(f"Expected a {', '.join(FILE_BUILDERS)} file, found {path.name}.")
        source = {"path": FILE_BUILDERS[path.suffix], "data_files": str(path)}
        if path.suffix == ".tsv":
            source["sep"] = "\t"
    elif not path.exists() and (path.suffix in FILE_BUILDERS or path.is_absolute() or name.startswith(".")):
        raise FileNotFoundError("no such file or folder")  # the Hub is not asked
    builder = datasets.load_dataset_builder(**source)
    if hasattr(builder.config, "keep_default_na"):
        builder = datasets.load_dataset_builder(**source, **NULLS)
    return builder


def _stack(parts: Mapping[str, Dataset]) -> Dataset:
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
    parts = {c: pick(_builder(spec.name, c).as_streaming_dataset(), spec.split) for c in spec.config_names}
    if any("language" in _columns_of(rows) for rows in parts.values()):
        return None
    return _stack({config: _take(rows, first) for config, rows in parts.items()})


def _take(rows: IterableDataset, first: int) -> Dataset:
    return Dataset.from_list(list(rows.take(first)), features=rows.features)


def _columns_of(rows: IterableDataset) -> list[str]:
    return rows.column_names or list(next(iter(rows), ()))


def _shared(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [split for split in parts[0] if all(split in part for part in parts)]


def count(spec: DataSpec) -> dict[str, JointDistribution]:
    """See `DataSpec.counts`. Of Parquet two columns are read, from the Hub too; of other formats whole rows."""
    with readable(spec.name):
        parts = [_two_columns(spec, config) for config in spec.config_names or (None,)]
        splits = {split: [part[split] for part in parts] for split in _shared(parts)}
        if spec.split is not None:
            splits = {spec.split: pick(splits, spec.split)}
        return {str(split): _count(tables, spec, split if len(splits) > 1 else "") for split, tables in splits.items()}


def _count(tables: Sequence[Any], spec: DataSpec, split: str) -> JointDistribution:
    try:
        counted = [JointDistribution.from_dataset(rows, spec.language_column, spec.label_column) for rows in tables]
    except ValueError as error:
        raise ValueError(f"In the split {split!r} (choose another with split): {error}" if split else error) from None
    return sum(counted[1:], counted[0])


def _two_columns(spec: DataSpec, config_name: str | None) -> dict[str, Any]:
    """Splits of a configuration, each something that `JointDistribution.from_dataset` reads."""
    path, columns = Path(spec.name), {"language": spec.language_column, "label": spec.label_column}
    if _is_saved(path):
        opened = _load(replace(spec, split=None), config_name)
        return opened if isinstance(opened, dict) else {"train": opened}
    if path.is_file() and path.suffix == ".parquet" and not config_name:
        return {"train": _parquet_columns(path, columns)}
    builder = _builder(spec.name, config_name)
    splits = builder.as_streaming_dataset()
    named = len(spec.config_names) > 1 and all("language" not in _columns_of(rows) for rows in splits.values())
    if named and spec.language_column == "language":
        del columns["language"]
    for rows in splits.values():
        require_columns(rows, columns)
    if hasattr(builder.config, "columns"):  # of Parquet
        builder.config.columns = list(columns.values())
        splits = builder.as_streaming_dataset()
    return splits if "language" in columns else {key: _add_language(rows, config_name) for key, rows in splits.items()}


def _add_language(rows: IterableDataset, language: str | None) -> IterableDataset:
    """The rows with one language in all of them."""
    features = rows.features and Features({**rows.features, "language": Value("string")})
    return rows.with_format("arrow").map(
        lambda table: table.append_column("language", pa.array([language] * len(table))),
        batched=True,
        features=features,
    )


def _parquet_columns(path: Path, columns: dict[str, str]) -> Dataset:
    """The columns in memory: half the time of a stream, which imports torch."""
    with pq.ParquetFile(path) as file:
        require_columns(SimpleNamespace(column_names=file.schema_arrow.names), columns)
        table = file.read(columns=list(columns.values()))
    return Dataset(datasets.table.InMemoryTable(table), fingerprint="audit")  # None would hash every row
