"""Any data set -> its table languages x labels, read for an audit: two columns, and no copy in the cache.

Training needs all columns and comes back to them, so it caches them (`loading.open_dataset`); an audit looks once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow.parquet as pq

from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.data.reading import FILE_BUILDERS, open_dataset


def count_splits(
    name: str,
    *,
    language_column: str = "language",
    label_column: str = "label",
    config_names: Sequence[str] = (),
    split: str | None = None,
) -> dict[str, JointDistribution]:
    """The joint distribution of language and label in each split, or in one.

    Parquet gives the two columns alone, from the Hub too; of other formats whole rows are read, a batch at a time.

    Args:
        name: Hub id, folder, or path of a .parquet, .csv, .tsv, .jsonl or .json file (whose one split is "train").
        language_column, label_column: any string, integer, boolean or ClassLabel column.
        config_names: configurations to read; of several, each is one language (see `open_dataset`).
        split: one split; None counts them all.

    Raises:
        ValueError: nothing there or not readable, no such configuration, split or column, nulls, or no rows.
    """
    columns = {"language": language_column, "label": label_column}
    try:
        splits = _open(name, columns, config_names)
        if split is not None and split not in splits:
            raise ValueError(f"Expected the split {split!r}, found {', '.join(map(str, splits))}.")
        chosen = {str(key): rows for key, rows in splits.items() if split in (None, key)}
        return {key: _count(rows, columns, key if len(chosen) > 1 else "") for key, rows in chosen.items()}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except (FileNotFoundError, ConnectionError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"Expected a data set at {name!r} (Hub id, folder, or .parquet, .csv or .jsonl file), found none that can "
            f"be read: {error}"
        ) from None


def _count(rows: Any, columns: dict[str, str], split: str) -> JointDistribution:
    try:
        return JointDistribution.from_dataset(rows, columns["language"], columns["label"])
    except ValueError as error:
        if not split:
            raise
        raise ValueError(f"In the split {split!r} (choose another with split): {error}") from None


def _open(name: str, columns: dict[str, str], config_names: Sequence[str]) -> dict[str, Any]:
    """Splits by name, each something that `JointDistribution.from_dataset` reads."""
    path = Path(name)
    if not path.exists() and (path.suffix in FILE_BUILDERS or path.is_absolute() or name.startswith(".")):
        raise FileNotFoundError("no such file or folder")  # not asked of the Hub
    saved = (path / "state.json").exists() or (path / "dataset_dict.json").exists()
    if saved or len(config_names) > 1 or (config_names and path.is_file()):
        opened = open_dataset(name, config_names=config_names)
        return opened if isinstance(opened, dict) else {"train": opened}
    if path.is_file() and path.suffix == ".parquet":
        return {"train": _read_parquet(path, columns)}
    return _stream(name, columns, config_names[0] if config_names else None)


def _read_parquet(path: Path, columns: dict[str, str]) -> datasets.Dataset:
    """The columns in memory: half the time of a stream, which imports torch."""
    with pq.ParquetFile(path) as file:
        require_columns(SimpleNamespace(column_names=file.schema_arrow.names), columns)
        table = file.read(columns=list(columns.values()))
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="audit")  # None would hash every row


def _stream(name: str, columns: dict[str, str], config_name: str | None) -> dict[str, Any]:
    path = Path(name)
    if path.is_file():
        if path.suffix not in FILE_BUILDERS:
            raise ValueError(f"Expected a {', '.join(FILE_BUILDERS)} file, found {path.name}.")
        separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
        builder = datasets.load_dataset_builder(FILE_BUILDERS[path.suffix], data_files=str(path), **separator)
    else:
        builder = datasets.load_dataset_builder(name, config_name)
    try:
        splits = builder.as_streaming_dataset()
    except StopIteration:  # an empty JSON file
        raise ValueError("No rows to count: the data set is empty.") from None
    for rows in splits.values():
        require_columns(rows, columns)
    settings = {
        "columns": list(columns.values()),  # of Parquet
        "keep_default_na": False,  # of CSV, where pandas takes the language nan (Min Nan) and the label None for nulls
        "na_values": [""],
    }
    for setting in settings.keys() & vars(builder.config).keys():
        setattr(builder.config, setting, settings[setting])
    return builder.as_streaming_dataset()
