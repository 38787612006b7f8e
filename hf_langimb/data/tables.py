"""Data files as Arrow tables of the columns that are used, here or on the Hub: the only reader, streamed or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.builder import Key
from datasets.table import table_cast
from datasets.utils.file_utils import xopen

from hf_langimb import __version__
from hf_langimb.data.text import QUOTES, DataFile, csv_tables, header_of, json_rows, json_tables, not_utf8, table_of


def tables(file: DataFile, rows: int, dictionaries: bool = False) -> Iterator[pa.Table]:
    """The columns of a file, batch by batch.

    Args:
        file: to read.
        rows: at most, of a batch of a Parquet file.
        dictionaries: give strings as dictionaries, which are faster to count.

    Raises:
        ValueError: the file cannot be read in one way only; says where and what to do.
    """
    read = {"csv": csv_tables, "json": json_tables, "parquet": _parquet_tables}[file.kind]
    with _decoded(file):
        for table in map(_without_blanks, read(file, rows, dictionaries)):
            if file.language:
                constant = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), [file.language])
                constant = constant if dictionaries else constant.cast(pa.string())
                table = table.append_column(file.language_column, constant)
            yield table


def _without_blanks(table: pa.Table) -> pa.Table:
    """Replace strings without visible characters by nulls: CSV cannot distinguish empty strings from nulls."""
    for i, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            text = pc.cast(table[i], kind)
            blank = pc.or_(pc.equal(text, ""), pc.utf8_is_space(text))
            if pc.any(blank).as_py():
                table = table.set_column(i, field, pc.if_else(blank, pa.scalar(None, field.type), table[i]))
    return table


@contextmanager
def _decoded(file: DataFile) -> Iterator[None]:
    """Name the file whose bytes are no text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name}: {not_utf8(error)}.") from None


def names_in(file: DataFile) -> dict[str, Any]:
    """The columns of a file with the feature of each (Parquet), a value (JSON, of the first rows), or None (csv)."""
    if file.kind == "parquet":
        with xopen(file.path, "rb") as source:
            schema = pq.read_schema(source)
        for i, field in enumerate(schema):
            if pa.types.is_dictionary(field.type):  # pandas' categories
                schema = schema.set(i, field.with_type(field.type.value_type))
            try:
                datasets.Features.from_arrow_schema(pa.schema([field]))
            except ValueError:  # a type that `datasets` lacks, such as pandas' periods
                schema = schema.set(i, field.with_type(pa.null()))
        return dict(datasets.Features.from_arrow_schema(schema))
    found: dict[str, Any] = {}
    with _decoded(file):
        if file.kind == "csv":
            return dict.fromkeys(header_of(file, QUOTES[file.quoting or "minimal"])[0])
        rows = [*islice(json_rows(file), 1000)]
    for row in rows:
        found |= {key: value for key, value in row.items() if value is not None or key not in found}
    return found


def _parquet_tables(file: DataFile, rows: int, dictionaries: bool) -> Iterator[pa.Table]:
    """Columns of a Parquet file as they are; a column of row groups is read piece by piece."""
    with xopen(file.path, "rb") as source:
        schema = pq.read_schema(source)
        strings = [column for column in file.columns if pa.types.is_string(schema.field(column).type)]
        read = pq.ParquetFile(source, read_dictionary=strings if dictionaries else None, buffer_size=1 << 20)
        kinds = {name: schema.field(name).type for name in file.columns if name not in file.texts}
        for batch in read.iter_batches(rows, columns=list(file.columns)):
            if file.language == "":
                yield table_of(file, batch.to_pylist(), kinds)
            else:
                yield pa.Table.from_batches([batch]).select(file.columns)


def table_builder(builder: Any, splits: dict[str, list[DataFile]]) -> Any:
    """A builder of `datasets` for files that `tables` reads; `builder` is the one that found them."""
    first = next(iter(splits.values()))[0]
    names = [*first.columns, *([first.language_column] if first.language is not None else [])]
    texts = first.texts if first.language == "" else ()
    features = {name: (first.features or {}).get(name) for name in names if name not in texts}
    return Tables(
        dataset_name=builder.dataset_name,
        config_name=builder.config.name,
        hash=__version__,
        base_path=builder.base_path,
        token=builder.token,
        data_files=builder.config.data_files,
        features=datasets.Features({name: features.get(name) or datasets.Value("string") for name in names}),
        splits=splits,
    )


@dataclass
class TablesConfig(datasets.BuilderConfig):
    """The files of each split, in the order of `data_files`."""

    splits: Any = None
    features: Any = None


class Tables(datasets.ArrowBasedBuilder):
    """`tables` of files as a dataset, in the cache of `datasets` or streamed."""

    BUILDER_CONFIG_CLASS = TablesConfig

    @property
    def first(self) -> DataFile:
        """The first file, of the kind of all."""
        found: DataFile = next(iter(self.config.splits.values()))[0]
        return found

    def _info(self) -> datasets.DatasetInfo:
        """What the columns are."""
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager: Any) -> list[Any]:
        """The files of each split, on this machine unless they are streamed."""
        paths, found = dl_manager.download(self.config.data_files), []
        for split, files in self.config.splits.items():
            here = [replace(file, path=str(path)) for file, path in zip(files, paths[split], strict=True)]
            found.append(datasets.SplitGenerator(name=split, gen_kwargs={"files": here}))
        return found

    def _generate_tables(self, files: list[DataFile]) -> Iterator[tuple[Any, pa.Table]]:
        """All rows of a split, with the number of file and table."""
        for i, file in enumerate(files):
            for j, table in enumerate(tables(file, 10_000)):
                yield Key(i, j), table_cast(table, self.config.features.arrow_schema)

    def _generate_shards(self, files: list[DataFile]) -> Iterator[str]:
        """The name of each file."""
        yield from (file.path for file in files)
