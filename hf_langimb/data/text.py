"""csv and JSON files as people have them: encodings, quotes, nulls and types are decided here."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from datasets.utils.file_utils import xopen

from hf_langimb.counts.columns import whole_number

logger = logging.getLogger(__name__)

BLOCK = 1 << 24  # bytes of text that are parsed at once; no row may be longer
BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig"}
BOMS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # after that of UTF-32, which begins alike
SEPARATORS = {",": "','", ";": "';'", "\t": "'\\t'", "|": "'|'"}
TYPED = "\0"  # begins a label of a JSON file that is no string
QUOTES: dict[str, Any] = {"minimal": '"', "none": False}


@dataclass(frozen=True)
class DataFile:
    """A data file and how it is read.

    Args:
        path: on this machine, or a URL of the Hub.
        kind: csv, json or parquet.
        columns: to read; those that a JSON row lacks are null.
        separator, encoding, quoting: of a text file; None for an encoding or quoting finds it out.
        names: columns of a csv file without header.
        field: of a JSON file, which contains the rows.
        language: of all rows, as column `language_column`; "" takes it from the keys of `texts`, None from its column.
        label_column: which keeps its type in a JSON file.
        texts: columns of texts.
        features: of columns that are not strings.
    """

    path: str
    kind: str
    columns: tuple[str, ...] = ()
    separator: str = ","
    encoding: str | None = None
    quoting: str | None = None
    names: tuple[str, ...] = ()
    field: str | None = None
    language: str | None = None
    language_column: str = "language"
    label_column: str = ""
    texts: tuple[str, ...] = ()
    features: Any = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


@cache
def say_once(message: str) -> None:
    """Log a decision about a dataset as a warning, the first time that it is made."""
    logger.warning("%s", message)


def typed(values: Iterable[str], kind: str) -> dict[str, Any]:
    """Labels of a text file by how `tables` gives them: integers if all are whole numbers, else strings.

    Args:
        values: the distinct labels of all files, splits and configurations.
        kind: csv, where any text may be a number, or json, where a string is none.
    """
    plain = {value: value.removeprefix(TYPED) for value in values}
    numbers = {value: whole_number(text) for value, text in plain.items() if kind == "csv" or text != value}
    padded = any(re.match(r"\s*-?0\d", text) for text in plain.values())  # 007 is a code, not 7
    if len(numbers) == len(plain) and None not in numbers.values() and not padded:
        return numbers
    booleans = {"true": "True", "false": "False"}
    return {value: text if text == value else booleans.get(text, text) for value, text in plain.items()}


def _open(path: str) -> Any:
    """A file's bytes, decompressed."""
    stream = xopen(path, "rb")
    compressed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    if not compressed:
        return stream
    opened = gzip.GzipFile(fileobj=stream)
    opened.myfileobj = stream  # which is closed with it
    return opened


def _encoding(file: DataFile) -> str:
    """The encoding of a text file: that of its byte order mark, else the one that is given, else UTF-8.

    Raises:
        ValueError: an unknown encoding, or bytes that are no UTF-8 text.
    """
    with _open(file.path) as stream:
        start = stream.read(4096)
    marked = next((name for mark, name in BOMS.items() if start.startswith(mark)), None)
    found, problem = marked or file.encoding or "utf-8", ""
    try:
        found = codecs.lookup(found).name
    except LookupError:
        problem = f"expected an encoding such as latin-1 or utf-16, got {file.encoding!r}"
    if found == "utf-8" and b"\0" in start.partition(b"\n")[0]:
        problem = not_utf8("NUL bytes")
    if problem:
        raise ValueError(f"{file.name}: {problem}.")
    return found


def not_utf8(reason: object) -> str:
    """What to do about a text file in another encoding."""
    return f"not UTF-8 text ({reason}): name its encoding, such as --encoding latin-1 or utf-16"


def _text(file: DataFile, newline: str) -> Any:
    """A text file's characters."""
    return io.TextIOWrapper(_open(file.path), encoding=_encoding(file), newline=newline)


def _utf8(file: DataFile) -> Any:
    """A text file's bytes as UTF-8, without a byte order mark, for Arrow."""
    encoding, stream = _encoding(file), _open(file.path)
    if encoding == "utf-8-sig":
        stream.read(3)
    source = pa.PythonFile(stream, "r")
    return source if encoding in ("utf-8", "utf-8-sig") else pa.transcoding_input_stream(source, encoding, "utf-8")


def _blocks(file: DataFile) -> Iterator[bytes]:
    """A text file as UTF-8, in blocks that end with a line."""
    encoding = _encoding(file)
    with _open(file.path) if encoding == "utf-8" else _text(file, "\n") as source:
        while block := source.read(BLOCK >> 6):
            block += source.readline()
            yield block if isinstance(block, bytes) else block.encode()


# csv.


def _csv_rows(file: DataFile, quote: str | bool, lines: Iterable[str], strict: bool = False) -> Any:
    """Python's reader of csv, which is slow and exact: to find headers and faults."""
    csv.field_size_limit(1 << 31)
    quoting: Any = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=file.separator, quoting=quoting, strict=strict)


def header_of(file: DataFile, quote: str | bool) -> tuple[list[str], int, int]:
    """The columns of a csv file, how many fields its first row has, and how many empty lines are before its header.

    Raises:
        ValueError: a column that is read occurs twice, or the separator is another one.
    """
    with _text(file, "") as lines:
        first = list(_csv_rows(file, quote, islice(lines, 1000)))
    start = list(filter(None, first))[:2]
    empty = next((i for i, row in enumerate(first) if row), 0)
    if not start:
        raise ValueError(f"{file.name}: the file is empty.")
    header = list(file.names) or start[0]
    repeated = [column for column, times in Counter(header).items() if times > 1 and column in file.columns]
    problem = f"its header has {repeated[0]!r} more than once: rename one" if repeated else ""
    others = [name for mark, name in SEPARATORS.items() if mark in header[0] and mark != file.separator]
    if len(header) == 1 and others:
        problem = f"its header is one column, {header[0]!r}: pass the separator, for example --separator {others[0]}"
    if problem:
        raise ValueError(f"{file.name}: {problem}.")
    return header, len(start[-1]), empty


def csv_tables(file: DataFile, rows: int, dictionaries: bool) -> Iterator[pa.Table]:
    """Columns of a csv file as strings, an empty field as null."""
    quote = _quote_of(file)
    header, width, empty = header_of(file, quote)
    names = [str(i) for i in range(max(width, len(header)))]  # names may repeat; fields past the header must be empty
    used = {str(header.index(column)): column for column in file.columns}
    kind = pa.dictionary(pa.int32(), pa.string()) if dictionaries else pa.string()
    options = {
        "read_options": pa.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK,
            skip_rows=empty,
            column_names=names,
            skip_rows_after_names=not file.names,
        ),
        "parse_options": pa.csv.ParseOptions(
            delimiter=file.separator, quote_char=quote, newlines_in_values=bool(quote)
        ),
        "convert_options": pa.csv.ConvertOptions(
            include_columns=list(dict.fromkeys([*used, *names[len(header) :]])),
            column_types=dict.fromkeys(used, kind) | dict.fromkeys(names[len(header) :], pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    }
    try:
        with _utf8(file) as stream, pa.csv.open_csv(stream, **options) as batches:
            for batch in batches:
                table = pa.Table.from_batches([batch])
                if any(table[name].null_count < len(table) for name in names[len(header) :]):
                    raise pa.ArrowInvalid("fields past the header")
                yield table.select(list(used)).rename_columns(list(used.values()))
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            reason = not_utf8(error) if "invalid UTF8" in str(error) else _fault(file, quote)[0] or error
            raise ValueError(f"{file.name}: {reason}.") from None


def _quote_of(file: DataFile) -> str | bool:
    """The character that encloses fields of a csv file; False if quotes are part of the text.

    A file is read with quotes, unless that is not possible, or runs over lines, and without them every row fits.

    Raises:
        ValueError: it can be read neither way, or either way with different rows.
    """
    if file.quoting is not None or _is_plain(file):
        return QUOTES[file.quoting or "minimal"]
    fault, line = _fault(file, '"')
    if not fault and not line:
        return '"'
    unquoted, _ = _fault(file, False)
    if fault and not unquoted:
        say_once(f"{file.name}: read with --quoting none, because its quotes are part of the text.")
        return False
    if fault or not unquoted:
        reason = fault or f"line {line} ends within quotes, but all rows are also valid if quotes are plain text"
        raise ValueError(f"{file.name}: {reason}: choose --quoting minimal (quoted fields) or none (quotes are text).")
    return '"'


def _is_plain(file: DataFile) -> bool:
    """Whether quotes of a csv file open after a separator or line, close before one in that line, or are doubled."""
    may_touch = np.zeros(256, bool)
    may_touch[[ord(file.separator), *b'\n\r"']] = True
    for block in _blocks(file):
        if b'"' in block:
            content = np.frombuffer(block + b"\n", np.uint8)  # so that every quote has neighbors
            marks = np.flatnonzero((content == ord('"')) | (content == ord("\n")))
            quoted = content[marks] == ord('"')
            within = np.cumsum(quoted, dtype=np.uint8) & 1  # after each mark
            outside = np.where(within, -1, 1)  # where the field's outside is: before the quote, or after it
            if within[~quoted].any() or not may_touch[content[(marks + outside)[quoted]]].all():
                return False
    return True


def _fault(file: DataFile, quote: str | bool) -> tuple[str, int]:
    """Why a csv file cannot be read in this way, "" if it can; and its last line that ends within quotes, or 0."""
    width = last = number = 0
    with _text(file, "") as lines:
        reader = _csv_rows(file, quote, lines, strict=file.quoting is None)
        try:
            for row in reader:
                width = width or len(file.names) or len(row)
                last = reader.line_num if reader.line_num > number + 1 else last
                number = reader.line_num
                if row and (len(row) < width or any(row[width:])):
                    return f"Expected {width} fields in line {number}, saw {len(row)}", last
        except csv.Error as error:
            return f"{error} in line {reader.line_num}", last
    return "", last


# JSON.


def json_rows(file: DataFile) -> Iterator[dict[str, Any]]:
    """Rows of a JSON file: an object per line, a list of objects, or an object of columns, as pandas writes it.

    Raises:
        ValueError: no JSON, or no objects; names the line.
    """
    with _text(file, "\n") as text:
        while lines := [] if file.field else text.readlines(BLOCK // 4):
            try:
                rows = json.loads(f"[{','.join(filter(str.strip, lines))}]")
            except ValueError:
                break
            if _columns_of(rows) or any(not isinstance(row, dict) for row in rows):
                break
            yield from rows
        else:
            if not file.field:
                return
    with _text(file, "\n") as text:  # no object per line
        lines = text.readlines()
    try:
        whole, fault = json.loads("".join(lines)), "its rows are not JSON objects"
    except ValueError as error:
        whole, fault = None, _json_fault(lines, error)
    whole = whole.get(file.field) if file.field and isinstance(whole, dict) else whole
    if columns := _columns_of([whole]):
        order = next(iter(columns.values()))
        whole = [{name: values.get(key) for name, values in columns.items()} for key in order]
    whole = [whole] if isinstance(whole, dict) else whole
    if not isinstance(whole, list) or any(not isinstance(row, dict) for row in whole):
        raise ValueError(f"{file.name}: {fault}.")
    yield from whole


def _json_fault(lines: Sequence[str], whole: ValueError) -> str:
    """Why lines are not JSON: the first wrong one, or what is wrong with all of them together."""
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            json.loads(line)
        except ValueError as error:
            return f"JSON parse error: {whole if number == 1 else f'{error}, row {number}'}"
    return "its rows are not JSON objects"


def _columns_of(rows: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The columns of a table that pandas wrote as one JSON object, {column: {row number: value}}; else nothing."""
    table = rows[0] if len(rows) == 1 and isinstance(rows[0], dict) else {}
    numbered = (isinstance(column, dict) and column and all(map(str.isdecimal, column)) for column in table.values())
    return table if all(numbered) else {}


def json_tables(file: DataFile, rows: int, dictionaries: bool) -> Iterator[pa.Table]:
    """Columns of a JSON file as strings; a label that is no string begins with `TYPED`."""
    found = json_rows(file)
    while batch := list(islice(found, 10_000)):
        yield table_of(file, batch, {})


def table_of(file: DataFile, rows: Sequence[dict[str, Any]], kinds: Mapping[str, Any]) -> pa.Table:
    """Rows as a table, one for each language if languages are the keys of texts; kinds: of columns, else strings."""
    if file.language == "":
        rows = [{**row, **texts} for row in rows for texts in _by_language(file, row)]
    names = [*file.columns, *([file.language_column] if file.language == "" else [])]
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name not in kinds:
            values = [v if v is None or isinstance(v, str) else _as_text(file, name, v) for v in values]
        columns[name] = pa.array(values, kinds.get(name, pa.string()))
    return pa.table(columns)


def _as_text(file: DataFile, column: str, value: Any) -> str | None:
    """A value of a JSON file as text; not a number is null."""
    if isinstance(value, list | dict) and column in (file.label_column, file.language_column, *file.texts):
        several = (
            " (for several labels per text, use langimb audit --label-columns)" if column == file.label_column else ""
        )
        raise ValueError(
            f"{file.name}: The column {column!r} has lists or objects; expected one value per row{several}."
        )
    text = json.dumps(value)
    return None if text == "NaN" else TYPED + text if column == file.label_column else text


def _by_language(file: DataFile, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The texts of a row in each language, from {language: text}, or lists of languages and translations."""
    texts = {}
    for name in file.texts:
        value = row.get(name) or {}
        if not isinstance(value, dict):
            raise ValueError(
                f"{file.name}: The column {name!r} has texts by language in some rows, and {type(value).__name__} such "
                f"as {str(value)[:40]!r} in others: write all rows in one way."
            )
        if {*value} == {"language", "translation"}:
            value = dict(zip(value["language"], value["translation"], strict=True))
        texts[name] = value
    for language in texts[file.texts[0]]:
        found = {name: value.get(language) for name, value in texts.items()}
        if None not in found.values():
            yield found | {file.language_column: language}
