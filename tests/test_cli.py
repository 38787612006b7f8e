"""The command `langimb`: real runs on small files of every kind, exit codes, and what lands on which stream."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_configurations
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import hf_langimb
from hf_langimb import JointDistribution
from hf_langimb.cli import main
from hf_langimb.data.spec import DataSpec
from hf_langimb.runs.answers import audit_text, probe_report

LABELS = ["entailment", "neutral", "contradiction"]
XNLI = {"en": (100, 200, 300), "fr": (300, 200, 100)}  # the table of GOLDEN in test_distribution.py, a hundred times

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by datasets, of CSV files


@pytest.fixture(scope="module", autouse=True)
def collect_unclosed_files():
    yield
    gc.collect()


def columns_of(counts, labels=LABELS):
    """Language, label and a text for each row of a table {language: rows of each label}."""
    cells = [
        (name, label) for name, row in counts.items() for label, n in zip(labels, row, strict=True) for _ in range(n)
    ]
    languages, named = map(list, zip(*cells, strict=True))
    return {"text": [f"text, {i}" for i in range(len(cells))], "language": languages, "label": named}


def write(path, counts=XNLI, labels=LABELS):
    """The rows of a table as a file, folder or saved dataset; `path` says which."""
    columns = columns_of(counts, labels)
    rows = Dataset.from_dict(columns)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix in (".csv", ".tsv"):
        rows.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".jsonl":
        rows.to_json(path)
    elif path.name == "saved":
        rows.save_to_disk(path)
    elif path.name == "saved-splits":
        DatasetDict(train=rows).save_to_disk(path)
    else:
        path.mkdir()
        write(path / "train.parquet", counts, labels)
    return str(path)


@pytest.fixture
def langimb(capsys):
    """Function (*arguments): exit code, stdout and stderr of main()."""

    def run(*arguments):
        capsys.readouterr()  # progress bars of the data's making
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def audit(langimb):
    """Function (*arguments): what `langimb audit ... --json` prints, which must be strict JSON and all of it."""

    def run(*arguments):
        code, out, err = langimb("audit", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out, parse_constant=pytest.fail)

    return run


@pytest.mark.parametrize(
    "name", ["rows.parquet", "rows.csv", "rows.tsv", "rows.jsonl", "folder", "saved", "saved-splits"]
)
def test_every_kind_of_data_set(name, tmp_path, audit):
    found = audit(write(tmp_path / name))
    assert found == JointDistribution.from_columns(*list(columns_of(XNLI).values())[1:]).audit()
    assert found["languages"] == ["en", "fr"]
    assert found["labels"] == sorted(LABELS)
    assert found["counts"] == [[300, 100, 200], [100, 300, 200]]


def test_splits_one_by_one_or_one_alone(tmp_path, langimb, audit):
    folder = tmp_path / "folder"
    write(folder)
    write(folder / "test.parquet", {"en": (50, 50, 50), "fr": (50, 50, 50)})
    found = audit(folder)
    assert list(found) == ["train", "test"]
    assert sum(map(sum, found["train"]["counts"])) == 1200
    assert found["test"]["mutual_information_bits"] == 0
    assert audit(folder, "--split", "test") == found["test"]
    code, out, _ = langimb("audit", folder)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("## ")] == ["## train", "## test"]
    assert out.count("Next: ") == 2
    for split in ("dev", ""):
        expected = f"langimb: {folder}: Expected the split {split!r}, found train, test: choose one with --split.\n"
        assert langimb("audit", folder, "--split", split) == (1, "", expected)


@pytest.mark.parametrize("name", ["rows.parquet", "folder/train.parquet"])
def test_class_labels_show_their_names_and_unused_ones(name, tmp_path, audit):
    features = Features({"language": Value("string"), "text": Value("string"), "label": ClassLabel(names=LABELS)})
    rows = Dataset.from_dict({"language": ["fr", "en"], "text": ["a", "b"], "label": [0, 1]}, features=features)
    (tmp_path / "folder").mkdir()
    rows.to_parquet(tmp_path / name)
    found = audit(tmp_path / name.removesuffix("/train.parquet"))
    assert (found["labels"], found["counts"]) == (LABELS, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_integer_labels_stay_integers(name, tmp_path, audit):
    assert audit(write(tmp_path / name, labels=[2, 10, 1]))["labels"] == [1, 2, 10]


def test_several_configurations_are_languages(tmp_path, audit):
    columns = {name: columns_of({name: rows}) for name, rows in XNLI.items()}
    tables = {name: {"train": Dataset.from_dict(of).remove_columns("language")} for name, of in columns.items()}
    write_configurations(tmp_path, tables)
    for flags in (("--config-name", "en", "fr"), ("--config_name", "en", "--config-name=fr")):
        found = audit(tmp_path, *flags)
        assert (found["languages"], found["counts"]) == (["en", "fr"], [[300, 100, 200], [100, 300, 200]])


def test_flags_of_files_and_what_is_said_about_them(tmp_path, langimb, caplog):
    for code, rows in {"am": "a;1\n b;2\n", "ha": "\xe9;1\nc;\n"}.items():
        (tmp_path / "data" / code).mkdir(parents=True)
        (tmp_path / "data" / code / "train.csv").write_bytes(f'te"xt;label\n{rows}'.encode("latin-1"))
    flags = ("--separator", ";", "--encoding=latin-1", "--quoting=none", "--drop_null", "--language_from", "folder")
    code, out, _ = langimb("audit", tmp_path / "data", *flags, "--json")
    found = json.loads(out)
    assert (code, found["languages"], found["labels"], found["null_labels"]) == (0, ["am", "ha"], [1, 2], {"ha": 1})
    assert caplog.text.count("the language is taken from the folder names (am, ha).") == 1
    code, out, _ = langimb("audit", tmp_path / "data", *flags)
    assert "Rows without a label, not counted: ha 1.\n" in out
    (tmp_path / "rows.csv").write_text("language,label\nfr,a\n,b\n,a\n")
    assert "Rows without a language, not counted: 2.\n" in langimb("audit", tmp_path / "rows.csv")[1]


COUNTED = [("en", "0", 5), ("en", "2", 40), ("fr", "2", 7), ("fr", "10", 3), ("de", "1.0", 2), ("en", "2", 4)]
COUNTED += [("fr", None, 3), (None, "2", 2), (None, None, 1), ("xx", "other", 0)]  # rows that no row has


def write_counts(path, columns=("language", "label", "n"), separator=",", encoding="utf-8"):
    """A table of counts, and beside it the rows that it counts: (counts, rows)."""
    entries = {"counts": COUNTED, "rows": [(*entry[:2], 1) for entry in COUNTED for _ in range(entry[2])]}
    paths = [path.with_stem(f"{path.stem}-{name}") for name in entries]
    for target, found in zip(paths, entries.values(), strict=True):
        if path.name.endswith(".parquet"):
            pq.write_table(pa.table(dict(zip(columns, zip(*found, strict=True), strict=True))), target)
        elif path.name.endswith((".jsonl", ".json")):
            rows = [dict(zip(columns, entry, strict=True)) for entry in found]
            lines = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
            target.write_text(lines)
        else:
            fields = [columns, *(["" if value is None else str(value) for value in entry] for entry in found)]
            target.write_text("\n".join(map(separator.join, fields)), encoding=encoding)
    return paths


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.json", "c.parquet"])
def test_a_table_of_counts_is_audited_as_its_rows(name, tmp_path, audit, caplog):
    counts, rows = write_counts(tmp_path / name, separator="\t" if name == "c.tsv" else ",")
    expected = audit(rows)
    assert audit(counts, "--count-column", "n") == expected
    assert (expected["null_languages"], expected["null_labels"]) == (3, {"fr": 3})
    assert expected["labels"] == ([0, 1, 2, 10] if name in ("c.csv", "c.tsv") else ["0", "1.0", "10", "2"])
    assert sum(map(sum, expected["counts"])) == 61
    assert not caplog.messages


def test_flags_of_files_say_how_counts_are_read(tmp_path, audit, langimb):
    names = ("sprache", "größe", "häufigkeit")
    counts, rows = write_counts(tmp_path / "c.csv", names, separator=";", encoding="latin-1")
    flags = ("--language-column", names[0], "--label-column", names[1], "--separator", ";", "--encoding", "latin-1")
    flags += ("--weighting", "independence")
    assert audit(counts, *flags, "--count-column", names[2]) == audit(rows, *flags)
    text = langimb("audit", counts, *flags, "--count-column", names[2])
    assert text == langimb("audit", rows, *flags)
    code, _, err = langimb("audit", rows, *flags, "--count-column", "n")
    assert code == 1 and f"Expected a count column 'n', found columns {sorted(names)}: name the right column" in err


def test_splits_class_names_and_saved_data_sets_of_counts(tmp_path, audit):
    """Splits of a folder, parts of them, and class ids, -1 of which is no label; as files and saved."""
    names = ClassLabel(names=["no", "never", "yes"])
    features = Features({"language": Value("string"), "label": names, "n": Value("int32")})
    entries = {"language": ["en", "fr", "fr", "en"], "label": [2, 0, 2, -1], "n": [30, 20, 10, 5]}
    splits = DatasetDict({split: Dataset.from_dict(entries, features=features) for split in ("train", "test")})
    rows = DatasetDict({split: part.select(np.repeat(range(4), part["n"][:])) for split, part in splits.items()})
    for kind, data in (("counts", splits), ("rows", rows)):
        data.save_to_disk(tmp_path / f"saved-{kind}")
        (tmp_path / kind).mkdir()
        for split, part in data.items():
            part.to_parquet(tmp_path / kind / f"{split}.parquet")
    expected = audit(tmp_path / "rows")
    assert expected["train"]["counts"] == [[0, 0, 30], [20, 0, 10]]
    assert expected["train"]["null_labels"] == {"en": 5}
    for name in ("counts", "saved-counts"):
        assert audit(tmp_path / name, "--count-column", "n") == expected
        assert audit(tmp_path / name, "--count-column", "n", "--split", "test") == expected["test"]
    (part,) = DataSpec(str(tmp_path / "counts"), split="train[:2]", count_column="n").counts().values()
    assert part.counts.tolist() == [[0, 0, 30], [20, 0, 0]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("column", "number", "message"),
    [
        ("m", 1, "Expected a count column 'm', found columns ['label', 'language', 'n']: name the right column with c"),
        ("label", 1, "Expected different columns for label and count, got 'label' for all of them."),
        ("n", "many", "found 'many': correct it, or name another column."),
        ("n", -4, "found {}: correct it, or name another column."),
        ("n", 0.5, "found {}: correct it, or name another column."),
        ("n", None, "found no value: correct it, or name another column."),
    ],
)
def test_counts_that_cannot_be_are_one_sentence(suffix, column, number, message, tmp_path, langimb):
    entries, path = {"language": ["en", "fr"], "label": ["a", "b"], "n": [number, number]}, tmp_path / f"c.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(entries), path)
    else:
        frame = pd.DataFrame(entries)
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_json(path, orient="records", lines=True)
    code, out, err = langimb("audit", path, "--count-column", column)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"langimb: {path}: ")
    assert message.format(number if suffix == "parquet" else repr(str(number))) in err


def test_a_table_of_counts_without_the_flag_is_hinted_at(tmp_path, langimb, caplog):
    counts, rows = write_counts(tmp_path / "c.csv", ("language", "label", "count"))
    assert langimb("audit", rows)[0] == 0 and not caplog.messages
    pairs = {entry[:2]: entry for entry in COUNTED}
    counts.write_text("\n".join(["language,label,count", *(",".join(map(str, entry)) for entry in pairs.values())]))
    assert langimb("audit", counts)[0] == 0
    assert caplog.messages == [
        f"{counts}: each combination of language and label occurs once: if column 'count' is its number of rows, pass "
        "--count-column count."
    ]
    caplog.clear()
    assert langimb("audit", counts, "--count-column", "count")[0] == 0 and not caplog.messages


@pytest.mark.parametrize("name", ["rows.parquet", "folder"])
def test_of_parquet_the_two_columns_alone_are_read(name, tmp_path, audit):
    """A file whose text is overwritten with zeros is audited all the same."""
    path = Path(write(tmp_path / name))
    file = path if path.is_file() else path / "train.parquet"
    chunk = pq.read_metadata(file).row_group(0).column(0)
    content = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    file.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(file)
    assert sum(map(sum, audit(path)["counts"])) == 1200


def test_nothing_is_copied_to_the_cache(tmp_path, monkeypatch, langimb):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("rows.parquet", "rows.csv", "folder"):
        assert langimb("audit", write(tmp_path / name))[0] == 0
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def text_of(counts, weighting="none"):
    return audit_text(JointDistribution(list(counts), LABELS, list(counts.values())).audit(weighting))


def test_verdict_table_and_measures_of_xnli(tmp_path, langimb):
    code, out, err = langimb("audit", write(tmp_path / "rows.parquet"), "--weighting", "per-language")
    assert (code, err) == (0, "")
    assert out == (
        """labels depend on language: 0.126 bits; predicting from the language alone scores 50% \
(always the same label: 33%)

1,200 rows, 2 languages, 3 labels

| language | rows | contradiction | entailment |  neutral | KL (bits) |    TV |
|----------|-----:|--------------:|-----------:|---------:|----------:|------:|
| en       |  600 |     300  50%+ |  100  17%- | 200  33% |     0.126 | 0.167 |
| fr       |  600 |     100  17%- |  300  50%+ | 200  33% |     0.126 | 0.167 |
Cells: rows and their share in the language. KL, TV: divergence (Kullback-Leibler) and total variation from \
the labels of all data.
+/-: far more/fewer rows than expected if label and language were independent (adjusted residual beyond 3).

- mutual information: 0.126 bits, 7.9% of the label's entropy (chance alone: 0.0012 on average)
- Cramér's V: 0.408, bias-corrected 0.406 (0 independent, 1 determined)
- accuracy from language alone: 50.0% (always predicting the same label: 33.3%)
- effective sample size under class_weighting 'per_language': 81.8% (982 rows)

Class weights, per_language

| language | contradiction | entailment | neutral |
|----------|--------------:|-----------:|--------:|
| en       |         0.667 |      2.000 |   1.000 |
| fr       |         2.000 |      0.667 |   1.000 |

Next: train with LangImbTrainer and class_weighting='per_language'.
"""
    )


CANNOT = ": labels cannot depend on language here"


@pytest.mark.parametrize(
    ("counts", "verdict", "advice"),
    [
        (
            {"en": (300, 200, 100), "fr": (300, 200, 100)},
            "labels do not depend on language beyond chance: 0.0000 bits (chance alone: 0.0012 on average; p = 1)",
            "no class weights are needed",
        ),
        (
            {"en": (34000, 33000, 33000), "fr": (33000, 34000, 33000)},
            "labels depend on language slightly: 0.0001 bits; predicting from the language alone scores 34.0% "
            "(always the same label: 33.5%)",
            "class_weighting='independence'",
        ),
        (
            {"en": (800, 100, 100), "fr": (500, 400, 100)},
            "labels depend on language: 0.095 bits; predicting from the language alone scores no more than always "
            "the same label (65.0%)",
            "class_weighting='independence'",
        ),
        (
            {"en": (1, 2, 3), "fr": (3, 2, 1)},
            "12 rows are too few to tell whether labels depend on language: 0.126 bits (chance alone: 0.120 on "
            "average; p = 0.37)",
            "collect rows",
        ),
        ({"en": (100, 200, 300)}, f"only one language (en){CANNOT}", "no class weights are needed"),
        ({"en": (0, 200, 0), "fr": (0, 100, 0)}, f"only one label (neutral){CANNOT}", "no class weights are needed"),
    ],
    ids=["none", "slight", "same-majority", "few", "one-language", "one-label"],
)
def test_verdicts(counts, verdict, advice):
    lines = text_of(counts).splitlines()
    assert lines[0] == verdict
    assert advice in next(line for line in lines if line.startswith("Next: "))


def test_random_independent_tables_are_hardly_ever_accused():
    randomness = np.random.default_rng(0)
    accused = [
        text_of(dict(zip("abcd", randomness.multinomial(500, (0.5, 0.3, 0.2), size=4).tolist(), strict=True)))
        for _ in range(200)
    ]
    assert sum(text.startswith("labels depend") for text in accused) <= 2


def test_missing_and_small_cells_are_marked_and_listed():
    text = text_of({"en": (300, 300, 0), "fr": (300, 300, 4)}, "joint")
    rows = [line.split("|")[5].strip() for line in text.splitlines() if line[:4] in ("| en", "| fr")]
    assert rows[:2] == ["0   0%!", "4   1%!"]
    assert "!: under 10 rows." in text
    assert "Cells without rows (1): (en, contradiction)" in text
    assert "Cells under 10 rows (1): (fr, contradiction)" in text
    assert "Class weights, joint (0 where there are no rows)" in text


def test_many_languages_and_labels_stay_readable():
    randomness = np.random.default_rng(0)
    counts = randomness.multinomial(1000, np.full(60, 1 / 60), size=205)
    counts[77] = np.eye(60, dtype=int)[5] * 1000
    distribution = JointDistribution([f"l{i:03d}" for i in range(205)], [f"intent_{j}" for j in range(60)], counts)
    lines = audit_text(distribution.audit("class")).splitlines()
    table = [line for line in lines if line.startswith("| ") and "rows" not in line]
    assert len(lines) < 60
    assert max(map(len, lines)) < 160
    assert table[0].startswith("| l077 ")
    assert "intent_5 " in next(line for line in lines if line.startswith("| language "))
    assert "(193 more languages not shown, none with more mutual information than these)" in lines
    assert "(52 more labels not shown, none with more mutual information than these)" in lines


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        (0.9, "the features reveal the language of 90.0% of 1,200 rows; chance is 50.0%"),
        (0.54, "the probe does not find the language above chance: 54.0% of 1,200 rows; chance is 50.0%, up to 55.0%"
         " on shuffled languages"),
    ],
)  # fmt: skip
def test_a_probe_at_chance_finds_nothing(accuracy, verdict):
    layer = {"layer": -1, "accuracy": accuracy, "chance": 0.5, "control": 0.51, "control_interval": [0.45, 0.55]}
    layer |= {"bits_below_chance": 0.1, "confidence": 0.5, "rows": 1200, "folds": 5, "converged": True}
    layer |= {"languages": ["en", "fr"], "confusion": [[300, 300], [300, 300]]}
    found = {"layers": [layer], "model": "m", "pooling": "cls", "text_columns": ["a", "b"], "C": 1.0}
    assert probe_report(found).splitlines()[0] == verdict


def test_flags_take_dashes_and_underscores_and_leave_values_alone(tmp_path, audit):
    path = tmp_path / "my_rows.parquet"
    pq.write_table(pa.table({"my_language": ["fr", "en"], "my-label": ["a", "b"]}), path)
    expected = audit(path, "--language-column", "my_language", "--label-column", "my-label")
    for flag in (["--language_column=my_language"], ["--language_column", "my_language"]):
        assert audit(path, *flag, "--label_column=my-label") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("audit",), "DATASET"),
        (("inspect", "x"), "invalid choice: 'inspect'"),
        (("audit", "x", "--weighting", "heavy"), "invalid choice: 'heavy' (choose from"),
        (("audit", "x", "--lang", "fr"), "unrecognized arguments: --lang fr"),
    ],
)
def test_wrong_usage_is_2(arguments, message, langimb):
    code, out, err = langimb(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: langimb")
    assert message in err


def test_help_and_version_are_0(langimb):
    assert langimb("--version") == (0, f"langimb {hf_langimb.__version__}\n", "")
    assert langimb("audit", "--help")[0] == 0
    assert langimb("--help")[1].startswith("usage: langimb")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "lang,label\nfr,a\n", "Expected a language column 'language', found columns ['label', 'lang']"),
        ("rows.csv", "language,sentiment\nfr,a\n", "Expected a label column 'label'"),
        ("rows.csv", "language,label\nfr,\nen,\n", "The label column is empty in 2 of 2"),
        ("rows.csv", "language,label\n", "No rows to count"),
        ("rows.jsonl", "", "No rows to count"),
        ("rows.jsonl", '{"language": "fr", "label": 1}\n{"language": "fr", label\n', "JSON parse error"),
        ("rows.csv", 'language,label\nfr,"a\nb,c,d\n', "unexpected end of data in line 3: choose --quoting minimal"),
        ("rows.parquet", "PAR?", "Parquet"),
        ("rows.txt", "fr a", "Expected a .parquet, .csv, .tsv, .jsonl, .json file, found rows.txt."),
        ("rows.csv", "text,label\na,0\n", "found columns ['label', 'text']"),
        ("rows.csv", "text,label\na,0\n", "GlotLID"),  # finds the language of a text
        ("rows.csv --config-name fr", "language,label\nfr,a\n", "no configurations, got --config-name fr"),
    ],
)
def test_an_error_is_1_and_one_sentence(name, content, message, tmp_path, langimb):
    name, *flags = name.split()
    path = tmp_path / name
    path.write_text(content)
    code, out, err = langimb("audit", path, *flags, "--json")
    assert (code, out) == (1, "")
    assert err.startswith(f"langimb: {path}: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


MISSING = "no such file or data folder"


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        *((name, None, MISSING) for name in ("{}/rows.csv", "rows.parquet", "./rows", "{}/nowhere", "", "/")),
        ("some/name", ConnectionError("no network"), "no network"),
        ("some/name", RuntimeError("Dataset scripts are not supported"), "Dataset scripts are not supported"),
    ],
)
def test_a_data_set_that_is_not_there(name, error, reason, tmp_path, langimb, monkeypatch):
    """The Hub is not asked for paths."""
    builder = Mock(side_effect=error)
    monkeypatch.setattr("datasets.load_dataset_builder", builder)
    name = name.format(tmp_path)
    code, out, err = langimb("audit", name)
    assert (code, out, builder.called) == (1, "", error is not None)
    assert err.startswith(f"langimb: Cannot read a dataset at {name!r} (Hub id, folder")
    assert err.endswith(f"{reason}\n")


def test_a_command_that_is_interrupted_or_fails_unexpectedly(langimb, monkeypatch):
    errors = [KeyboardInterrupt, KeyError("a bug"), KeyError("a bug")]
    monkeypatch.setattr("hf_langimb.data.spec.DataSpec.counts", Mock(side_effect=errors))
    assert langimb("audit", "x") == (130, "", "langimb: interrupted\n")
    assert langimb("audit", "x") == (1, "", "langimb: x: KeyError: 'a bug' (LANGIMB_DEBUG=1 shows the traceback)\n")
    monkeypatch.setenv("LANGIMB_DEBUG", "1")
    with pytest.raises(KeyError):
        langimb("audit", "x")


def test_installed_script(tmp_path):
    script = Path(sys.executable).with_name("langimb")
    path = write(tmp_path / "rows.parquet", {"한국어": (100, 200, 300), "français": (300, 200, 100)})
    done = subprocess.run([script, "audit", path, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["languages"] == ["français", "한국어"]
    assert done.stderr == ""
    failed = subprocess.run([script, "audit", tmp_path / "none.csv"], capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("langimb: Cannot read a dataset")
    with subprocess.Popen(
        [script, "audit", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as stopped:
        stopped.stdout.close()  # as head does
        assert stopped.stderr.read() == ""
    assert stopped.returncode == 0


def test_a_home_that_cannot_be_written_is_one_sentence_before_the_work(tmp_path):
    (tmp_path / "rows.csv").write_text("text,language,label\na,fr,1\nb,en,0\n")
    cache = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in cache} | {"HOME": "/dev/null"}
    command = [sys.executable, "-m", "hf_langimb", "audit", "rows.csv"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "/dev/null/.cache" in done.stderr and "set HF_HOME to a folder that can be written" in done.stderr


def test_an_audit_holds_few_rows_of_a_parquet_file_at_once(tmp_path, monkeypatch):
    """Of a file with one row group of 100 rows never more than ten."""
    table = pa.table({"language": ["en", "fr"] * 50, "label": ["a", "b", "b", "b"] * 25})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    monkeypatch.setattr("hf_langimb.data.spec.COUNTED_ROWS", 10)
    seen, count = [], JointDistribution._from_entries.__func__

    def counted(cls, languages, labels):
        seen.append(len(labels))
        return count(cls, languages, labels)

    monkeypatch.setattr(JointDistribution, "_from_entries", classmethod(counted))
    (found,) = DataSpec(str(tmp_path / "rows.parquet")).counts().values()
    assert found.counts.tolist() == [[25, 25], [0, 50]] and max(seen) <= 10 and sum(seen) == 100
