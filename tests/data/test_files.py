"""Files as people have them: quotes, nulls, separators, encodings, types and languages, read alike everywhere."""

import csv
import gzip
import io
import json
import logging
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from conftest import write_configurations
from datasets import ClassLabel, Dataset, Features, Translation, TranslationVariableLanguages, Value

from hf_langimb.data.sources import is_code, languages_of
from hf_langimb.data.spec import DataSpec
from hf_langimb.data.text import say_once, typed
from hf_langimb.runs.recipe import RecipeArguments
from hf_langimb.runs.subsets import load_data

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    say_once.cache_clear()


def counted(spec):
    """{language: {label: rows}} of the only split, which all ways to read agree on."""
    (table,) = spec.counts().values()
    rows = [dict(zip(table.labels, row, strict=True)) for row in table.counts.tolist()]
    found = {name: {k: n for k, n in row.items() if n} for name, row in zip(table.languages, rows, strict=True)}
    raw = spec.read()
    raw = next(iter(raw.values())) if isinstance(raw, dict) else raw
    assert raw.with_format("pandas")[:].groupby([spec.language_column, spec.label_column]).size().to_dict() == {
        (language, label): n for language, row in found.items() for label, n in row.items()
    }
    return found


def places(folder, name, content, again=1):
    """The same bytes as a file, in a folder, and as one and two configurations; yields specs and how often."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    inner = folder / "folder" / ("train" + name[name.index(".") :])
    inner.parent.mkdir()
    inner.write_bytes(content)
    both = folder / "both"
    both.mkdir()
    for config in "ab":
        (both / f"{config}{name[name.index('.') :]}").write_bytes(content)
    lines = "".join(f"- config_name: {c}\n  data_files: {c}{name[name.index('.') :]}\n" for c in "ab")
    (both / "README.md").write_text(f"---\nconfigs:\n{lines}---\n")
    return {str(file): (), str(folder / "folder"): (), str(both): ["a", "b"]}


def everywhere(folder, name, content, **settings):
    """Counts of the same bytes as a file, in a folder and as configurations, which must agree."""
    found = []
    for path, configs in places(folder, name, content).items():
        table = counted(DataSpec(path, configs, **settings))
        times = max(len(configs), 1)
        found.append({language: {label: n // times for label, n in row.items()} for language, row in table.items()})
    assert found[0] == found[1] == found[2]
    return found[0]


# Quotes.

PLAIN = "text\tlanguage\tlabel\n"
UNQUOTED = {
    "pairs over lines": PLAIN + '"Come in.\tfr\t0\nHe "said" so."\tfr\t1\nno\ten\t0\n',
    "one open": PLAIN + 'a\tfr\t0\n"b\tfr\t1\nc\ten\t0\n',
    "after a closing one": PLAIN + '"a" b\tfr\t0\nb\tfr\t1\nc\ten\t0\n',
    "in the middle and open": PLAIN + 'a " b\tfr\t0\n"c\tfr\t1\nc\ten\t0\n',
    "at the end": PLAIN + 'a\tfr\t0\nb\tfr\t1\n"c\ten\t0\n',
    "alone": PLAIN + '"\tfr\t0\nb\tfr\t1\n"c" d\ten\t0\n',
}


@pytest.mark.parametrize("case", UNQUOTED)
def test_quotes_that_are_text_are_kept_and_said_once(tmp_path, case, caplog):
    with caplog.at_level(logging.WARNING):
        found = everywhere(tmp_path, "rows.tsv", UNQUOTED[case].encode())
    assert found == {"fr": {0: 1, 1: 1}, "en": {0: 1}}
    texts = DataSpec(str(tmp_path / "rows.tsv")).rows()["text"][:]
    assert texts == [line.split("\t")[0] for line in UNQUOTED[case].splitlines()[1:]]
    said = [
        record.message for record in caplog.records if record.message.startswith("rows.tsv: read with --quoting none")
    ]
    assert len(said) == 1


QUOTED = {
    "line break": 'text,language,label\n"a\nb",fr,0\nc,fr,1\nd,en,0\n',
    "separator": 'text,language,label\n"a,b",fr,0\n"c ""d""",fr,1\nd,en,0\n',
    "both": 'text,language,label\r\n"a,\r\nb ""c""",fr,0\r\n"",fr,1\r\nd,en,0',
    "all": '"text","language","label"\n"a","fr","0"\n"b","fr","1"\n"c","en","0"\n',
    "middle": 'text,language,label\n5" pipe,fr,0\n"a, b",fr,1\nd,en,0\n',
    "header": '"te\nxt",language,label\na,fr,0\nb,fr,1\nc,en,0\n',
}


@pytest.mark.parametrize("case", QUOTED)
def test_quotes_that_enclose_fields(tmp_path, case, caplog):
    with caplog.at_level(logging.WARNING):
        assert everywhere(tmp_path, "rows.csv", QUOTED[case].encode()) == {"fr": {0: 1, 1: 1}, "en": {0: 1}}
    assert "quotes" not in caplog.text
    if case != "header":
        texts = [row["text"] or None for row in csv.DictReader(io.StringIO(QUOTED[case], newline=""))]
        assert DataSpec(str(tmp_path / "rows.csv")).read()["text"][:] == texts


def test_what_can_be_read_in_two_ways_or_none_is_refused_unless_a_flag_decides(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(PLAIN + '"Come in.\tfr\t0\nHe said so."\tfr\t1\nc\ten\t0\n')
    with pytest.raises(
        ValueError, match=r"rows.tsv: line 3 ends within quotes, but all rows are also valid.*--quoting"
    ):
        DataSpec(str(path)).counts()
    assert counted(DataSpec(str(path), quoting="none")) == {"fr": {0: 1, 1: 1}, "en": {0: 1}}
    assert counted(DataSpec(str(path), quoting="minimal")) == {"fr": {1: 1}, "en": {0: 1}}
    path.write_text(PLAIN + 'a\tb\tfr\t0\n"c\tfr\t1\n')
    for way in (DataSpec(str(path)).counts, DataSpec(str(path)).rows):
        with pytest.raises(ValueError, match="Expected 3 fields in line 2, saw 4: choose --quoting"):
            way()


# Fields.

SAME = {"fr": {"a": 1, "b": 1}, "en": {"a": 1}}


def test_trailing_separators_leave_columns_in_place_and_long_or_short_rows_are_refused(tmp_path):
    head = "language,label,text\n"
    assert everywhere(tmp_path, "rows.csv", f"{head}fr,a,x,\nfr,b,y,\nen,a,z,\n".encode()) == SAME
    assert DataSpec(str(tmp_path / "rows.csv")).rows()["text"][:] == ["x", "y", "z"]
    for i, (rows, line) in enumerate(
        (
            ("fr,a,x,\nfr,b,y,z\n", 3),  # a value under no header
            ("1,fr,a,x\n2,fr,b,y\n", 2),  # row numbers without a header, as R writes them
            ("fr,a,x\nfr,b\n", 3),
            ("fr,a,x\nfr,b,y,z\n", 3),
            ("fr,a\nfr,b\n", 2),
        )
    ):
        path = tmp_path / f"wrong{i}.csv"
        path.write_text(head + rows)
        for way in (DataSpec(str(path)).counts, DataSpec(str(path)).read):
            with pytest.raises(ValueError, match=f"wrong{i}.csv: Expected 3 fields in line {line}, saw"):
                way()


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_a_separator_is_named_by_its_flag(tmp_path, separator):
    name = "rows.tsv" if separator == "," else "rows.csv"
    path = tmp_path / name
    path.write_text("text,language,label\nx,fr,a\ny,fr,b\nz,en,a\n".replace(",", separator))
    shown = "\\t" if separator == "\t" else separator
    for way in (DataSpec(str(path)).counts, DataSpec(str(path)).texts):
        with pytest.raises(ValueError, match="one column") as caught:
            way()
        assert str(caught.value).endswith(f"pass the separator, for example --separator '{shown}'.")
    for given in (separator, shown):
        assert counted(DataSpec(str(path), separator=given)) == SAME
    for wrong in ("", ";;", "\n", '"', "é"):
        with pytest.raises(ValueError, match="Expected one character as separator"):
            DataSpec(str(path), separator=wrong)


ACCENTS = "text,language,label\né,fr,a\nü,fr,b\nz,en,a\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_byte_order_marks_are_honored(tmp_path, encoding):
    assert everywhere(tmp_path, "rows.csv", ACCENTS.encode(encoding)) == SAME
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in csv.DictReader(io.StringIO(ACCENTS)))
    assert everywhere(tmp_path / "json", "rows.jsonl", lines.encode(encoding)) == SAME
    assert DataSpec(str(tmp_path / "rows.csv")).read()["text"][:] == ["é", "ü", "z"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be", "cp1252", "koi8-r"])
def test_other_encodings_are_named_by_their_flag(tmp_path, encoding):
    text = ACCENTS.replace("é", "да").replace("ü", "нет") if encoding == "koi8-r" else ACCENTS
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode(encoding))
    for way in (DataSpec(str(path)).rows, DataSpec(str(path)).texts):
        with pytest.raises(ValueError, match=r"rows.csv: not UTF-8 text \(.*\): name its encoding, such as --encoding"):
            way()
    found = DataSpec(str(path), encoding=encoding)
    assert counted(found) == SAME
    assert found.rows()["text"][:] == [row["text"] for row in csv.DictReader(io.StringIO(text))]
    with pytest.raises(ValueError, match="expected an encoding such as latin-1 or utf-16, got 'latin-9000'"):
        DataSpec(str(path), encoding="latin-9000").counts()


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.tsv.gz", "rows.jsonl.gz"])
def test_compressed_files(tmp_path, name):
    rows = pd.DataFrame({"text": ["x", "y", "z"], "language": ["fr", "fr", "en"], "label": ["a", "b", "a"]})
    text = rows.to_json(orient="records", lines=True) if "json" in name else rows.to_csv(index=False)
    text = text.replace(",", "\t") if "tsv" in name else text
    assert everywhere(tmp_path, name, gzip.compress(text.encode())) == SAME


# Types and nulls.


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_words_and_numerals_are_strings_and_whole_numbers_labels(tmp_path, name):
    languages, texts = ["nan", "NA", "7"], ["null", "1.50", "007"]
    for labels, expected in (
        (["None", "null", "NA"], ["None", "null", "NA"]),
        ([5.0, 1.0, 3.0], [5, 1, 3]),
        ([10, 2, 1], [10, 2, 1]),
        (["a", "1", "True"], ["a", "1", "True"]),
        (["01", "02", "10"], ["01", "02", "10"]),
        (["-1", "0", "1"], [-1, 0, 1] if name == "rows.csv" else ["-1", "0", "1"]),
    ):
        folder = tmp_path / "-".join(map(str, labels))
        frame = pd.DataFrame({"text": texts, "language": languages, "label": labels, "id": ["01", "2", "3"]})
        out = io.BytesIO()
        if name == "rows.csv":
            frame.to_csv(out, index=False)
        elif name == "rows.jsonl":
            frame.to_json(out, orient="records", lines=True)
        else:
            frame.to_parquet(out)
        if labels != [5.0, 1.0, 3.0] or name != "rows.parquet":
            found = everywhere(folder, name, out.getvalue())
            assert found == {language: {label: 1} for language, label in zip(languages, expected, strict=True)}
        else:
            folder.mkdir()
            (folder / name).write_bytes(out.getvalue())
        spec = DataSpec(str(folder / name))
        assert sorted(spec.counts()["train"].labels, key=str) == sorted(expected, key=str)
        assert spec.rows().to_dict() | {"label": 0} == {
            "text": texts,
            "language": languages,
            "label": 0,
            "id": ["01", "2", "3"],
        }
        assert spec.standardized(spec.read())["id"][:] == ["0", "1", "2"]


def test_labels_are_integers_only_if_all_of_all_files_splits_and_configurations_are(tmp_path):
    assert typed(["1", "2.0", " 3"], "csv") == {"1": 1, "2.0": 2, " 3": 3}
    for odd in ("a", "1.5", "", "1e3", "0x1", "12345678901234567890", "1_000", "+1", "01"):
        assert typed(["1", odd], "csv") == {"1": "1", odd: odd}
    assert typed(["\x001", "\x002.0"], "json") == {"\x001": 1, "\x002.0": 2}
    assert typed(["\x001", "2"], "json") == {"\x001": "1", "2": "2"}  # a string of JSON is no number
    assert typed(["\0true", "\x001"], "json") == {"\0true": "True", "\x001": "1"}
    for split, labels in {"train": "12", "test": "1x"}.items():
        rows = "".join(f"t,fr,{label}\n" for label in labels)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.csv").write_text("text,language,label\n" + rows)
    for split in (None, "train"):
        spec = DataSpec(str(tmp_path / "data"), split=split)
        assert spec.counts()["train"].labels == ("1", "2")
        read = spec.read()
        assert (read if split else read["train"])["label"][:] == ["1", "2"]


def blanks(folder, row, rows):
    """A csv of this many rows with a blank label in one of them, and a blank language in the next."""
    lines = [f"t,{'fr' if i % 2 else 'en'},{i % 3}\n" for i in range(rows)]
    lines[row], lines[row + 1] = "t,en,\n", "t,,1\n"
    return ("text,language,label\n" + "".join(lines)).encode()


@pytest.mark.parametrize("row", [20, 22_000])
def test_an_audit_counts_nulls_and_training_refuses_them_early_or_late(tmp_path, row, caplog):
    rows = 25_000 if row > 1_000 else 100
    for path, configs in places(tmp_path, "rows.csv", blanks(tmp_path, row, rows)).items():
        spec, times = DataSpec(path, configs), max(len(configs), 1)
        (table,) = spec.counts().values()
        assert (table.null_languages, dict(table.null_labels)) == (times, {"en": times})
        audit = table.audit()
        assert (audit["null_languages"], audit["null_labels"]) == (times, {"en": times})
        assert (audit["labels"], table.rows) == ([0, 1, 2], (rows - 2) * times)
        read = spec.read()
        read = read["train"] if isinstance(read, dict) else read
        with pytest.raises(ValueError, match=f"language column is empty in {times} of .*--drop-null"):
            spec.standardized(read)
        dropped = DataSpec(path, configs, drop_null=True)
        assert dropped.counts() == spec.counts()
        with caplog.at_level(logging.WARNING):
            read = dropped.read()
        assert f"{path}: {2 * times} of {rows * times:,} rows lack text or language or label: left out" in caplog.text
        read = read["train"] if isinstance(read, dict) else read
        assert len(dropped.standardized(read)) == len(dropped.rows()) == (rows - 2) * times
        assert len(dropped.texts()) == (rows - 1) * times


def test_nulls_of_every_kind_of_file(tmp_path):
    frame = pd.DataFrame(
        {"text": ["x", "y", "z", "w"], "language": ["fr", None, "en", "fr"], "label": ["a", "b", None, "b"]}
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_csv(tmp_path / "rows.csv")
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "rows.json")
    frame.to_json(tmp_path / "list.json", orient="records", indent=2)
    frame.assign(language=frame.language.astype("category")).to_parquet(tmp_path / "category.parquet")
    Dataset.from_pandas(frame).save_to_disk(tmp_path / "saved")
    for path in sorted(tmp_path.iterdir()):
        (table,) = DataSpec(str(path)).counts().values()
        assert (table.languages, table.labels, table.counts.tolist()) == (("fr",), ("a", "b"), [[1, 1]]), path
        assert (table.null_languages, dict(table.null_labels)) == (1, {"en": 1})
        assert len(DataSpec(str(path), drop_null=True).rows()) == 2
        with pytest.raises(ValueError, match="language column is empty in 1 "):
            DataSpec(str(path)).texts()


def test_an_empty_string_and_one_of_spaces_are_nulls_in_every_kind_of_file(tmp_path):
    frame = pd.DataFrame(
        {"text": ["x", "", " \t", "\u3000", "a b"], "language": ["fr"] * 5, "label": ["a", "b"] * 2 + ["b"]}
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_csv(tmp_path / "rows.csv")
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    for path in sorted(tmp_path.iterdir()):
        assert DataSpec(str(path), drop_null=True).rows()["text"][:] == ["x", "a b"], path
        with pytest.raises(ValueError, match="is empty in 3 "):
            DataSpec(str(path)).rows()
    for blank in ("", " "):  # nothing is left
        (tmp_path / "none.csv").write_text(f"text,language,label\n{blank},fr,a\n")
        spec = DataSpec(str(tmp_path / "none.csv"), drop_null=True)
        assert len(spec.standardized(spec.read())) == len(spec.rows()) == 0


def test_only_the_columns_that_are_used_are_read(tmp_path):
    """An unneeded column may be null for 10 MB and then text, nested, of changing type, or no valid text."""
    late = [json.dumps({"text": "x" * 150, "language": "fr", "label": "a", "note": None}) for _ in range(60_000)]
    odd = ["text", 1, {"a": [1]}, [], True, {"b": {"c": None}}]
    late += [
        json.dumps({"text": "y", "language": "en", "label": "b", "note": value, f"n{i}": i})
        for i, value in enumerate(odd)
    ]
    assert everywhere(tmp_path / "json", "rows.jsonl", "\n".join(late).encode()) == {
        "fr": {"a": 60_000},
        "en": {"b": 6},
    }
    (tmp_path / "parquet").mkdir()
    for i, note in enumerate((pa.array([1]), pa.array(["a"]), pa.array([[1]]))):
        table = pa.table({"text": ["x"], "language": ["fr"], "label": ["a"], "note": note})
        pq.write_table(table, tmp_path / "parquet" / f"part-{i}.parquet")
    assert counted(DataSpec(str(tmp_path / "parquet"))) == {"fr": {"a": 3}}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_with_different_columns_are_refused_if_these_are_used(tmp_path, suffix):
    frame = pd.DataFrame({"text": ["x"], "language": ["fr"], "label": ["a"]})
    for i, part in enumerate((frame, frame.assign(note=1), frame.rename(columns={"label": "stars"}))):
        (tmp_path / "data").mkdir(exist_ok=True)
        getattr(part, f"to_{suffix}")(tmp_path / "data" / f"part-{i}.{suffix}", index=False)
    spec = DataSpec(str(tmp_path / "data"))
    for way in (spec.counts, spec.read):
        with pytest.raises(ValueError, match="its files have different columns: pass a single file"):
            way()
    assert len(replace(spec, label_column="").read()["train"]) == 3


def test_a_column_that_comes_late(tmp_path):
    rows = [{"text": "x"} for _ in range(20_000)] + [{"text": "y", "language": "fr", "label": 1} for _ in range(5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (table,) = DataSpec(str(path)).counts().values()
    assert (table.labels, table.rows, table.null_languages) == ((1,), 5, 20_000)
    assert len(DataSpec(str(path), drop_null=True).read()) == 5


# Languages.


@pytest.mark.parametrize(
    ("files", "expected", "said"),
    [
        (["am/train.tsv", "ha/train.tsv"], ["am", "ha"], "folder"),
        (["data/pt-BR/test.tsv", "data/eng_Latn/test.tsv"], ["eng_Latn", "pt-BR"], "folder"),
        (["am.tsv", "ha.tsv"], ["am", "ha"], "file"),
        (["train/am.tsv", "train/ha.tsv"], ["am", "ha"], "file"),
        (["zh-Hant/data/train.tsv", "yo/data/train.tsv"], ["yo", "zh-Hant"], "folder"),
    ],
)
def test_the_language_is_the_folder_or_file_and_said_once(tmp_path, files, expected, said, caplog):
    for i, file in enumerate(files):
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("tweet\tlabel\n" + "a\tpositive\n" * (i + 1))
    spec = DataSpec(str(tmp_path / "data"), text_columns=["tweet"])
    with caplog.at_level(logging.WARNING):
        found = counted(spec)
    assert sorted(found) == expected
    assert sorted(n for row in found.values() for n in row.values()) == [1, 2]
    assert caplog.text.count(f"the language is taken from the {said} names (") == 1
    assert sorted({*spec.rows()["language"]}) == expected
    assert sorted({*DataSpec(spec.name, text_columns=["tweet"]).texts()["language"]}) == expected


def test_a_language_that_is_forced(tmp_path):
    for split in ("train", "dev"):
        for name in ("english", "french"):
            path = tmp_path / "data" / name / f"{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text,label,language\nx,a,?\ny,b,?\n")
    assert DataSpec(str(tmp_path / "data")).counts()["train"].languages == ("?",)
    assert DataSpec(str(tmp_path / "data"), language_from="folder").counts()["train"].languages == ("english", "french")
    named = tmp_path / "named"
    named.mkdir()
    for name in ("test-de", "test_fr"):
        (named / f"{name}.csv").write_text("text,label\nx,a\ny,b\n")
    assert DataSpec(str(named), language_from="file").counts()["test"].languages == ("de", "fr")
    for how, message in (("key", "texts that are {language: text}"), ("file", None)):
        spec = DataSpec(str(tmp_path / "data"), language_from=how)
        if message:
            with pytest.raises(ValueError, match=f"Expected {message}"):
                spec.counts()
    with pytest.raises(ValueError, match="Expected language_from folder or file or key, got 'name'"):
        DataSpec("x", language_from="name")


def test_what_a_language_code_is():
    for name in ("am", "pt-BR", "eng_Latn", "zh-Hans", "zh_hans", "es-419", "twi", "pt_br", "sr-Latn-RS"):
        assert is_code(name), name
    for name in ("train", "dev", "val", "test", "data", "rows", "a", "EN", "eng_Latn_x", "english", "part-0", "1"):
        assert not is_code(name), name
    assert languages_of(["/d/am/a.csv", "/d/other/b.csv"], "/d", None) is None
    assert languages_of(["/am/a.csv"], "/am", None) is None  # the dataset's own place says nothing
    assert languages_of(["/am/a.csv"], "/am", "folder") == ("folder", ["am"])


PREMISE = {"en": "a cat", "fr": "un chat", "de": "eine Katze"}
HYPOTHESIS = {"language": ["de", "en", "fr"], "translation": ["ein Tier", "an animal", "un animal"]}


@pytest.mark.parametrize("form", ["rows.jsonl", "rows.parquet", "folder"])
def test_the_language_is_the_key_of_a_text(tmp_path, form, caplog):
    """As XNLI's configuration all_languages, with a row that lacks a language."""
    rows = [{"premise": PREMISE, "hypothesis": HYPOTHESIS, "label": i} for i in (0, 1)]
    rows.append({"premise": PREMISE | {"de": None}, "hypothesis": HYPOTHESIS, "label": 0})
    path = tmp_path / form
    if form == "rows.jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        features = {"premise": Translation(["de", "en", "fr"]), "label": Value("int64")}
        features = Features(features | {"hypothesis": TranslationVariableLanguages(["de", "en", "fr"])})
        path = tmp_path / "folder" / "test.parquet" if form == "folder" else path
        path.parent.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(rows, features.arrow_schema)
        pq.write_table(table, path)
    spec = DataSpec(str(tmp_path / form))
    with caplog.at_level(logging.WARNING):
        assert counted(spec) == {"de": {0: 1, 1: 1}, "en": {0: 2, 1: 1}, "fr": {0: 2, 1: 1}}
    assert caplog.text.count("the language is taken from the keys of premise and hypothesis") == 1
    french = spec.rows().filter(lambda row: row["language"] == "fr")
    assert french[0] == {"premise": "un chat", "hypothesis": "un animal", "label": 0, "language": "fr"}
    assert counted(DataSpec(str(tmp_path / form), language_from="key")) == counted(spec)


def test_a_recipe_reads_with_the_same_flags(tmp_path):
    for split in ("train", "validation", "test"):
        for language in ("fr", "en"):
            path = tmp_path / "data" / split / f"{language}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes('text;label\n\xe9;1.0\n"b;2\nc;\n'.encode("latin-1"))
    settings = {"separator": ";", "encoding": "latin-1", "quoting": "none", "language_from": "file"}
    recipe = RecipeArguments(str(tmp_path / "data"), **settings)
    with pytest.raises(ValueError, match=r"label column is empty in 2 of 6.*--drop-null"):
        load_data(recipe, "language")
    data = load_data(replace(recipe, drop_null=True), "language")
    assert (data.languages, data.labels) == (["en", "fr"], ["1", "2"])
    assert sorted(data.source["test"]["text"]) == ['"b', '"b', "\xe9", "\xe9"]


# Found by trying to break it.


def write(folder, **files):
    """Text files by their names, in which _ is a dot."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8", newline="")
    return str(folder)


DECLARED = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - {name: language, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': pos, '1': neg}}}}
---
"""


def test_class_names_that_a_readme_declares_are_kept(tmp_path):
    name = write(tmp_path / "d", test_csv="text,language,label\na,en,0\nNA,NA,1\n", README_md=DECLARED)
    (table,) = DataSpec(name).counts().values()
    assert (table.languages, table.labels, table.counts.tolist()) == (("NA", "en"), ("pos", "neg"), [[0, 1], [1, 0]])
    assert DataSpec(name).rows().features["label"].names == ["pos", "neg"]
    with pytest.raises(ValueError, match=r"its README says how its files are read: leave --separator out"):
        DataSpec(name, separator=";").counts()


@pytest.mark.parametrize("start", ["\n", "\r\n", "\ufeff\n", "\n\n\n"])
def test_empty_lines_before_a_header_are_no_rows(tmp_path, start):
    write(tmp_path, rows_csv=f"{start}text,language,label\na,fr,1\nb,en,2\n")
    assert counted(DataSpec(str(tmp_path / "rows.csv"))) == {"en": {2: 1}, "fr": {1: 1}}


def test_languages_are_not_looked_for_above_the_data_set(tmp_path, monkeypatch):
    for name, files in (("tmp", {"en_csv": "text,label\na,1\n", "fr_csv": "text,label\na,0\n"}), ("abc", {})):
        write(tmp_path / name, **files)
    write(tmp_path / "abc" / "data", train_csv="text,label\na,1\n")
    (tmp_path / "abc" / "link").symlink_to(tmp_path / "tmp")
    monkeypatch.chdir(tmp_path / "abc")
    for name in ("../tmp", "link", "../abc/../tmp"):
        assert counted(DataSpec(name)) == {"en": {1: 1}, "fr": {0: 1}}
    for name in ("data", "../abc/data"):
        with pytest.raises(ValueError, match="Expected a language column"):
            DataSpec(name).counts()


def test_class_ids_of_two_files_mean_the_same_or_are_refused(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b"], "language": ["en", "fr"], "label": [0, 1]})
    for split, names in (("train", ["x", "y"]), ("test", ["y", "x"])):
        rows.cast_column("label", ClassLabel(names=names)).to_parquet(tmp_path / "d" / f"{split}.parquet")
    for way in (DataSpec.counts, DataSpec.read):
        with pytest.raises(ValueError, match="the class names y, x, expected x, y as in the other files"):
            way(DataSpec(str(tmp_path / "d")))
    rows = DataSpec(str(tmp_path / "d")).rows()  # of test alone
    assert [rows.features["label"].int2str(i) for i in rows["label"]] == ["y", "x"]


def test_unneeded_columns_may_have_any_type(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "language": ["en", "fr"], "label": [0, 1]})
    frame.assign(when=pd.period_range("2020", periods=2, freq="M")).to_parquet(tmp_path / "rows.parquet")
    assert counted(DataSpec(str(tmp_path / "rows.parquet"))) == {"en": {0: 1}, "fr": {1: 1}}


def test_a_split_without_labels_leaves_the_others(tmp_path, caplog):
    rows = "text,language,label\na,en,{}\nb,fr,{}\n"
    name = write(tmp_path / "d", train_csv=rows.format(0, 1), test_csv=rows.format("", ""))
    assert [*DataSpec(name).counts()] == [*DataSpec(name, split="train").counts()] == ["train"]
    assert "test left out: no row has both" in caplog.text
    with pytest.raises(
        ValueError, match=r"is empty in 2 of 2 rows: no row of split 'test' has both a language and a label"
    ):
        DataSpec(name, split="test").counts()


def test_ids_that_nobody_asked_for_may_be_missing(tmp_path):
    write(tmp_path, rows_csv="text,language,label,id\na,en,0,1\nb,fr,1,\n")
    assert "id" not in DataSpec(str(tmp_path / "rows.csv")).rows().column_names


def test_files_of_another_kind_are_named(tmp_path, caplog):
    name = write(tmp_path / "d", en_csv="text,label\na,1\n", fr_jsonl='{"text": "a", "label": 1}\n')
    DataSpec(name).counts()
    assert "files are read, not " in caplog.text


def test_texts_of_configurations_may_be_keyed_by_language(tmp_path):
    lines = '{"text": {"en": "a", "fr": "b"}, "label": 1}\n'
    config = "- config_name: {0}\n  data_files: {0}.jsonl\n"
    readme = f"---\nconfigs:\n{config.format('a')}{config.format('b')}---\n"
    name = write(tmp_path / "d", a_jsonl=lines, b_jsonl=lines, README_md=readme)
    assert counted(DataSpec(name, ["a", "b"])) == {"en": {1: 2}, "fr": {1: 2}}


def test_numbers_are_written_in_ascii():
    assert typed({"1", "\uff11"}, "csv") == {"1": "1", "\uff11": "\uff11"}


# Splits, configurations and labels that differ


def split_files(folder, suffix, **splits):
    folder.mkdir(exist_ok=True)
    for split, columns in splits.items():
        frame = pd.DataFrame(columns)
        frame.to_csv(folder / f"{split}.csv", index=False) if suffix == "csv" else frame.to_parquet(
            folder / f"{split}.parquet"
        )
    return str(folder)


TEXTS = {"text": ["a", "b", "c"], "language": ["en", "fr", "fr"]}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_split_without_labels_is_left_out_and_can_be_read_alone(tmp_path, suffix, caplog):
    name = split_files(tmp_path / "d", suffix, train=TEXTS | {"label": [0, 1, 1]}, test=TEXTS)
    (table,) = DataSpec(name).counts().values()
    assert table.counts.tolist() == [[1, 0], [0, 2]] and "no column 'label' in test: left out" in caplog.text
    assert DataSpec(name, split="train").counts()["train"] == table
    assert list(DataSpec(name).read()) == ["train"]
    assert sorted(DataSpec(name).rows().column_names) == ["language", "text"]  # of test, as ever
    assert DataSpec(name, split="train").read()["label"] == [0, 1, 1]
    assert sorted(DataSpec(name, split="test").rows().column_names) == ["language", "text"]
    assert DataSpec(name, split="test").texts()["text"] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="a label column 'label', found columns"):
        DataSpec(name, split="test").counts()


@pytest.mark.parametrize("labels", [([0, 1, 1], ["0", "1", "1"]), (["0", "1", "1"], [0, 1, 1])])
def test_parquet_files_whose_labels_differ_in_type(tmp_path, labels):
    (tmp_path / "d").mkdir()
    for name, values in zip("ab", labels, strict=True):
        pd.DataFrame(TEXTS | {"label": values}).to_parquet(tmp_path / "d" / f"{name}.parquet")
    zero, one = sorted({*labels[0]})
    assert counted(DataSpec(str(tmp_path / "d"), split="train")) == {"en": {zero: 2}, "fr": {one: 4}}


def test_class_id_minus_one_is_no_label(tmp_path):
    """As in test splits whose labels are kept back."""
    features = Features(text=Value("string"), language=Value("string"), label=ClassLabel(names=["x", "y"]))
    rows = Dataset.from_dict(TEXTS | {"label": [0, -1, 1]}, features=features)
    rows.to_parquet(tmp_path / "one.parquet")
    rows.save_to_disk(tmp_path / "saved")
    for name in ("one.parquet", "saved"):
        spec = DataSpec(str(tmp_path / name))
        (table,) = spec.counts().values()
        assert table.counts.tolist() == [[1, 0], [0, 1]] and table.null_labels == {"fr": 1}
        with pytest.raises(ValueError, match="-1"):
            spec.standardized(spec._one_split(None))
        spec = replace(spec, drop_null=True)
        assert spec.standardized(spec._one_split(None))["label"][:] == [0, 1]
    rows.map(lambda row: {"label": -1}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="The label column is empty in 3 of 3"):
        DataSpec(str(tmp_path / "none.parquet")).counts()


@pytest.mark.parametrize("split", ["train[1:]", "train[:2]", "train[:1]+train[2:]"])
def test_parts_of_a_split_are_audited_as_they_are_read(tmp_path, split):
    name = split_files(tmp_path / "d", "csv", train=TEXTS | {"label": [0, 1, 1]}, test=TEXTS | {"label": [1, 1, 0]})
    spec = DataSpec(name, split=split)
    table = spec.counts()[split]
    assert table.rows == 2 and table.languages == tuple(sorted({*spec.read()["language"]}))


def test_not_a_number_is_null(tmp_path):
    arrow = pa.table({"text": ["a", "b"], "language": ["en", "fr"], "label": [1.0, float("nan")]})
    pq.write_table(arrow, tmp_path / "one.parquet")
    (table,) = DataSpec(str(tmp_path / "one.parquet")).counts().values()
    assert (table.labels, table.null_labels) == ((1,), {"fr": 1})
    assert DataSpec(str(tmp_path / "one.parquet"), drop_null=True).rows()["text"] == ["a"]


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({"a.jsonl": '{"text": "a", "label": 1}\n'}, {}, "Expected a language column 'language', found columns"),
        ({"a.jsonl": '{"text": "a", "language": "fr"}\n'}, {}, "Expected a label column 'label', found columns"),
        ({"a.jsonl": '{"lang": "fr", "label": 1}\n'}, {"language_column": "lag"}, "Expected a language column 'lag'"),
        (
            {"a.jsonl": '{"text": {"en": "a", "fr": "b"}, "label": 1}\n' * 1000 + '{"text": "c", "label": 1}\n'},
            {},
            "a.jsonl: The column 'text' has texts by language in some rows, and str such as 'c' in others",
        ),
        ({"fr.csv": "text,lang,label\na,en,1\n"}, {}, "Expected a language column 'language', found columns"),
        (
            {"b.csv": b"text,language,label\n\xe9t\xe9,fr,1\n", "a.csv": "text,language,label\na,fr,1\n"},
            {},
            "b.csv: not UTF-8",
        ),
        ({"a.csv": "text,language,label\na,fr,1\n"}, {"config_names": ["default", "default"]}, "'default' more than"),
    ],
)
def test_what_is_missing_or_mixed_is_named(tmp_path, files, settings, message):
    (tmp_path / "d").mkdir()
    for name, content in files.items():
        (tmp_path / "d" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        DataSpec(str(tmp_path / "d"), **settings).counts()


def test_a_column_that_may_be_the_language_counts_more_than_the_name_of_a_single_file(tmp_path):
    (tmp_path / "d").mkdir()
    for code in ("en", "fr"):
        (tmp_path / "d" / f"{code}.jsonl").write_text('{"text": "a", "locale": "x", "label": 1}\n')
    (tmp_path / "a.jsonl").write_text('{"text": {"en": "a", "fr": "b"}, "locale": "x", "label": 1}\n')
    assert counted(DataSpec(str(tmp_path / "a.jsonl"))) == {"en": {1: 1}, "fr": {1: 1}}
    assert counted(DataSpec(str(tmp_path / "d"))) == {"en": {1: 1}, "fr": {1: 1}}
    one = str(tmp_path / "d" / "en.jsonl")
    with pytest.raises(ValueError, match="Expected a language column 'language'"):
        DataSpec(one).counts()
    assert counted(DataSpec(one, language_from="file")) == {"en": {1: 1}}


def test_types_that_no_cast_unites_are_one_sentence(tmp_path):
    (tmp_path / "d").mkdir()
    for name, values in (("a", [0, 1, 1]), ("b", ["x", "y", "y"])):
        pd.DataFrame(TEXTS | {"label": values}).to_parquet(tmp_path / "d" / f"{name}.parquet")
    for way in ("counts", "read", "rows"):
        with pytest.raises(ValueError, match="its files have different types in one column"):
            getattr(DataSpec(str(tmp_path / "d")), way)()


def test_flags_that_a_data_set_cannot_follow_are_refused(tmp_path):
    Dataset.from_dict(TEXTS | {"label": [0, 1, 1]}).save_to_disk(tmp_path / "saved")
    for settings in ({"language_from": "folder"}, {"separator": ";"}, {"quoting": "none"}):
        for way in ("counts", "read", "rows"):
            with pytest.raises(ValueError, match=r"a saved dataset is read as it was saved: leave --.* out"):
                getattr(DataSpec(str(tmp_path / "saved"), **settings), way)()


def test_rows_without_a_language_are_refused_and_file_names_may_be_upper_case(tmp_path):
    (tmp_path / "ROWS.CSV").write_text("text,language,label\na,fr,1\nb,,1\n")
    with pytest.raises(ValueError, match=r"The language column is empty in 1 of 2.*--drop-null"):
        DataSpec(str(tmp_path / "ROWS.CSV")).rows()
    assert DataSpec(str(tmp_path / "ROWS.CSV"), drop_null=True).rows()["language"] == ["fr"]


def test_a_label_that_comes_late_in_a_split_of_json_is_counted(tmp_path):
    (tmp_path / "d").mkdir()
    row = '{"text": "a", "language": "fr", "label": 1}\n'
    (tmp_path / "d" / "train.jsonl").write_text(row * 3)
    (tmp_path / "d" / "test.jsonl").write_text('{"text": "a", "language": "fr"}\n' * 1500 + row)
    found = DataSpec(str(tmp_path / "d")).counts()
    assert {split: (table.rows, table.null_labels) for split, table in found.items()} == {
        "train": (3, {}),
        "test": (1, {"fr": 1500}),
    }


def test_the_usual_split_is_one_that_all_configurations_have(tmp_path):
    rows = Dataset.from_dict(TEXTS | {"label": [0, 1, 1]}).remove_columns("language")
    parts = {"en": {"train": rows, "test": rows.select([0])}, "fr": {"train": rows}}
    spec = DataSpec(write_configurations(tmp_path / "d", parts), ["en", "fr"])
    assert spec.rows()["language"] == ["en"] * 3 + ["fr"] * 3 == spec.texts()["language"][:]
