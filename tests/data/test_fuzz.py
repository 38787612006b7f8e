"""Files that a writer knows, as file, folder and configurations: the reader gives the same counts, or one sentence.

LANGIMB_FUZZ_FILES=5000 python -m pytest tests/data/test_fuzz.py reads as many files as that.
"""

import csv
import gzip
import io
import json
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from datasets import Dataset, disable_progress_bars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_langimb.counts.columns import whole_number
from hf_langimb.data.spec import DataSpec

FILES = int(os.environ.get("LANGIMB_FUZZ_FILES", 40))
NULL_WORDS = ["nan", "NA", "null", "None", "NULL", "n/a", "-", "#N/A", "<NA>", "true"]
PIECES = st.sampled_from([*"\",;\t|\n aé東'\\1{", "b ", "5.0", '""', ": "])
TEXTS = st.one_of(st.lists(PIECES, max_size=6).map("".join), st.sampled_from([*NULL_WORDS, "007", "1e5", "a text"]))
LANGUAGES = st.sampled_from(["fr", "en", "pt-BR", "eng_Latn", "7", "1.0", "NA", "nan", "no", "null"])
LABELS = [
    st.sampled_from(["a", "b", "entailment", "not a", "a,b", 'the "a"']),
    st.sampled_from(["0", "1", "2", "10", "-1"]),
    st.sampled_from(["1.0", "2.0", "5.0"]),
    st.sampled_from([*NULL_WORDS, "1", "01", "2.5"]),
]


def quoted(rows, **dialect):
    """By Python's csv module."""
    out = io.StringIO(newline="")
    csv.writer(out, **dialect).writerows(rows)
    return out.getvalue()


def frame(rows):
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=object)


def by_arrow(rows):
    out = io.BytesIO()
    pa.csv.write_csv(pa.Table.from_pandas(frame(rows).astype("string")), out)
    return out.getvalue().decode()


def by_datasets(rows, form):
    out = io.BytesIO()
    getattr(Dataset.from_pandas(frame(rows)), f"to_{form}")(out)
    return out.getvalue().decode() if form == "csv" else out.getvalue()


def parquet(rows):
    out = io.BytesIO()
    frame(rows).to_parquet(out)
    return out.getvalue()


def lines(rows):
    """Nulls are absent, and an unneeded column changes its type late."""
    found = [{k: v for k, v in zip(rows[0], row, strict=True) if v is not None} for row in rows[1:]]
    found[-1] |= {"note": [1], "x": {"y": 1}}
    return "".join(json.dumps({"note": None} | row) + "\n" for row in found)


def raw(rows, separator="\t"):
    """By people: fields are joined, quotes are kept; separators and line breaks within a field are spaces."""
    cleaned = [[str(v or "").replace(separator, " ").replace("\n", " ") for v in row] for row in rows]
    cleaned = [["x" if v == '""' else v for v in row] for row in cleaned]  # which is an empty field
    return "".join(separator.join(row) + "\n" for row in cleaned)


def trailing(rows):
    """With a separator after each row, but not after the header."""
    header, *found = raw(rows, ",").splitlines()
    return "".join(f"{line}\n" for line in [header, *(f"{row}," for row in found)])


WRITERS = {  # name: (suffix, writer, flags)
    "excel": (".csv", quoted, {}),
    "excel-tab": (".tsv", lambda rows: quoted(rows, dialect="excel-tab"), {}),
    "unix": (".csv", lambda rows: quoted(rows, dialect="unix"), {}),
    "nonnumeric": (".csv", lambda rows: quoted(rows, quoting=csv.QUOTE_NONNUMERIC), {}),
    "semicolons": (".csv", lambda rows: quoted(rows, delimiter=";"), {"separator": ";"}),
    "pipes": (".csv", lambda rows: quoted(rows, delimiter="|"), {"separator": "|"}),
    "pandas": (".csv", lambda rows: frame(rows).to_csv(), {}),
    "pandas, tabs": (".tsv", lambda rows: frame(rows).to_csv(sep="\t", index=False), {}),
    "arrow": (".csv", by_arrow, {}),
    "datasets, csv": (".csv", lambda rows: by_datasets(rows, "csv"), {}),
    "datasets, json": (".jsonl", lambda rows: by_datasets(rows, "json"), {}),
    "pandas, lines": (".jsonl", lambda rows: frame(rows).to_json(orient="records", lines=True), {}),
    "pandas, json": (".json", lambda rows: frame(rows).to_json(), {}),
    "pandas, records": (".json", lambda rows: frame(rows).to_json(orient="records", indent=1), {}),
    "json": (".jsonl", lines, {}),
    "parquet": (".parquet", parquet, {}),
    "datasets, parquet": (".parquet", lambda rows: by_datasets(rows, "parquet"), {}),
    "unquoted": (".tsv", raw, {"quoting": "none"}),
    "by hand": (".tsv", raw, {}),
    "by hand, csv": (".csv", lambda rows: raw(rows, ","), {}),
    "trailing separators": (".csv", trailing, {}),
}
BY_HAND = {"unquoted", "by hand", "by hand, csv", "trailing separators"}
ENCODINGS = [(name, None) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-32")]  # found by their marks
ENCODINGS += [("utf-16-le", "utf-16-le"), ("gb18030", "gb18030")]
MORE = [[], ["note"], ["id", "note"]]
PLACES = ["file", "folder", "configurations"]


@st.composite
def files(draw):
    """A writer, its encoding, and rows with a header; one has text, language and label."""
    writer = draw(st.sampled_from(list(WRITERS)))
    labels = draw(st.sampled_from(LABELS))
    null = st.sampled_from([False] * 9 + [True])
    columns = draw(st.permutations(["text", "language", "label", *draw(st.sampled_from(MORE))]))
    kinds = {"text": TEXTS.filter(len), "language": LANGUAGES, "label": labels, "note": TEXTS}
    kinds["id"] = st.sampled_from(["01", "2", "x"])
    rows = [[draw(kinds[column]) for column in columns]]
    for _ in range(draw(st.integers(0, 11))):
        rows.append([None if draw(null) else draw(kinds[column]) for column in columns])
    text = WRITERS[writer][0] in (".csv", ".tsv")
    encoding = draw(st.sampled_from(ENCODINGS)) if text else ("utf-8", None)
    return writer, encoding, [columns, *rows], draw(st.sampled_from(PLACES)), draw(st.booleans())


def written(folder, suffix, content, place):
    """The bytes as a file, folder or two configurations: what to read, and how often the rows are in it."""
    if place == "file":
        (folder / f"rows{suffix}").write_bytes(content)
        return str(folder / f"rows{suffix}"), (), 1
    names = ["train"] if place == "folder" else ["a", "b"]
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(content)
    if place == "folder":
        return str(folder), (), 1
    lines = "".join(f"- config_name: {name}\n  data_files: {name}{suffix}\n" for name in names)
    (folder / "README.md").write_text(f"---\nconfigs:\n{lines}---\n")
    return str(folder), names, 2


def known(writer, rows):
    """What an audit must count: {(language, label): rows}, nulls; and how many rows have text, language and label."""
    found = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    if writer in BY_HAND:
        separator = "\t" if WRITERS[writer][0] == ".tsv" else ","
        found = [{k: v and v.replace(separator, " ") for k, v in row.items()} for row in found]
    found = [{key: value if value and value.strip() else None for key, value in row.items()} for row in found]
    labels = {row["label"] for row in found if row["label"]}
    numbers = {label: whole_number(label) for label in labels} if WRITERS[writer][0] in (".csv", ".tsv") else {}
    padded = any(label.startswith("0") and len(label) > 1 for label in labels)
    if not numbers or None in numbers.values() or padded:
        numbers = {label: label for label in labels}
    both = [row for row in found if row["language"] and row["label"]]
    cells = Counter((row["language"], numbers[row["label"]]) for row in both)
    without = Counter(row["language"] for row in found if row["language"] and not row["label"])
    return dict(cells), sum(not row["language"] for row in found), dict(without), sum(bool(row["text"]) for row in both)


REFUSED = Counter()


@settings(
    max_examples=FILES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize="LANGIMB_FUZZ_FILES" not in os.environ,
)
@given(files())
def check(made):
    writer, (encoding, flag), rows, place, compressed = made
    suffix, write, flags = WRITERS[writer]
    content = write(rows)
    content = content.encode(encoding) if isinstance(content, str) else content
    if compressed and suffix != ".parquet":
        content, suffix = gzip.compress(content), f"{suffix}.gz"
    REFUSED["files"] += 1
    with tempfile.TemporaryDirectory() as folder, patch("datasets.config.HF_DATASETS_CACHE", Path(folder, "cache")):
        (Path(folder) / "data").mkdir()
        name, configs, times = written(Path(folder) / "data", suffix, content, place)
        spec = DataSpec(name, configs, encoding=flag, **flags)
        try:
            (table,) = spec.counts().values()
        except ValueError as error:
            if (
                writer not in BY_HAND
                and "but all rows are also valid if quotes are plain text: choose --quoting minimal" in str(error)
            ):
                REFUSED["either way"] += 1  # without quotes the same bytes are other rows: only the writer knows
                spec = replace(spec, quoting="minimal")
                (table,) = spec.counts().values()
                compare(table, replace(spec, drop_null=True), times, *known(writer, rows))
                return
            assert writer in BY_HAND - {"unquoted"}, (writer, str(error))
            assert "\n" not in str(error)
            assert str(error).startswith(name)
            REFUSED[str(error).rpartition(": ")[2]] += 1
            for way in (spec.rows, spec.read):
                with pytest.raises(ValueError):
                    way()
        else:
            compare(table, replace(spec, drop_null=True), times, *known(writer, rows))
            if writer not in BY_HAND:
                used = [rows[0].index(name) for name in ("text", "language", "label")]
                texts = [row[used[0]] for row in rows[1:] if all((row[i] or "").strip() for i in used)]
                assert Counter(replace(spec, drop_null=True).rows()["text"]) == Counter(texts * times)


def compare(table, spec, times, cells, languages, labels, complete):
    """An audit with what is known, and the rows of the commands and of training with each other."""
    counts = zip(table.languages, table.counts.tolist(), strict=True)
    found = {(a, b): n for a, row in counts for b, n in zip(table.labels, row, strict=True) if n}
    assert found == {cell: n * times for cell, n in cells.items()}
    nulls = {language: n * times for language, n in labels.items()}
    assert (table.null_languages, dict(table.null_labels)) == (languages * times, nulls)
    texts = replace(spec, drop_null=True).texts()  # of the probe
    rows, trained = spec.rows(), spec.standardized(spec._one_split(None))
    assert len(rows) == len(trained) == complete * times
    pairs = Counter(zip(rows["language"], rows["label"], strict=True))
    names = map(trained.features["label"].int2str, trained["label"])
    assert Counter(zip(trained["language"], names, strict=True)) == {(a, str(b)): n for (a, b), n in pairs.items()}
    assert {*pairs} <= {*found}
    assert {*rows["language"]} <= {*texts["language"]} and len(texts) >= len(rows)


def test_every_file_is_read_as_its_writer_knows_or_refused_in_one_sentence(capfd):
    disable_progress_bars()
    check()
    refused = sum(REFUSED.values()) - REFUSED["files"]
    with capfd.disabled():
        print(dict(REFUSED)) if FILES > 200 else None
    assert refused <= 0.1 * REFUSED["files"], REFUSED
