"""Which rows are explained: a number of them, or batches until the sums are precise; kept, continued and put aside."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from conftest import assert_close, unknown_keys
from datasets import Dataset
from pyarrow.parquet import read_metadata, read_table, write_table

from hf_langimb import AttributionStore, LangImbTrainer, compare_seeds
from hf_langimb.cli import main
from hf_langimb.files import record
from hf_langimb.measures.attribution.store import stack, write_shard
from hf_langimb.results.card_update import refresh_card
from hf_langimb.results.schema import Results
from hf_langimb.results.tables import explained_text
from hf_langimb.runs import evaluate
from hf_langimb.runs.explaining import batches, explain_rows, until_precise

TINY_TOLERANCE = "1e-06"  # never reached: the rows end
ARGV = ["--setups", "balanced", "imbalanced", "--explain_rows", "auto", "--explain_tolerance", TINY_TOLERANCE]


@pytest.fixture(scope="module")
def small():
    """Batches of three rows of each language and label, on the CPU."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        patched.setattr("hf_langimb.runs.explaining.BATCH_ROWS", 3)
        yield


@pytest.fixture(scope="module")
def begun(small, workshop, work):
    """A finished run of two setups with one seed; all 48 test rows are explained, in three batches."""
    return work(workshop / "begun", *ARGV)


@pytest.fixture
def copy(begun, tmp_path):
    return shutil.copytree(begun[0], tmp_path / "copy")


class Killed(BaseException):
    """Stands for the end of the process."""


def watched(monkeypatch, stop=None):
    """Names of the stores whose shards are written from here on; the shard number `stop` ends the process."""
    stores = []

    def write(folder, *args):
        if len(stores) == stop:
            raise Killed
        stores.append(f"{folder.parent.name}/{folder.name}")
        write_shard(folder, *args)

    monkeypatch.setattr("hf_langimb.measures.attribution.attribute.write_shard", write)
    return stores


def batches_of(*models, number=3):
    return [f"{model}/batch-{i:05d}" for i in range(number) for model in models]


# Which rows.


def test_batches_have_every_row_once_and_equally_many_of_each_cell():
    sizes = {("en", "a"): 45, ("en", "b"): 20, ("fr", "a"): 3, ("fr", "b"): 21}  # also fewer than a batch takes
    cells = np.random.default_rng(3).permutation(np.repeat([*sizes], [*sizes.values()], axis=0))
    languages, labels = cells.T
    found = batches(languages, labels)
    assert sorted(np.concatenate(found).tolist()) == list(range(89))
    assert all((np.diff(rows) > 0).all() for rows in found)
    counts = [Counter(map(tuple, cells[rows].tolist())) for rows in found]
    expected = {cell: [min(max(n - 20 * i, 0), 20) for i in range(3)] for cell, n in sizes.items()}
    assert {cell: [count[cell] for count in counts] for cell in sizes} == expected
    for one, other in zip(found, batches(languages.tolist(), labels.tolist()), strict=True):
        np.testing.assert_array_equal(one, other)
    one_cell = np.flatnonzero((languages == "en") & (labels == "a"))
    assert not {*one_cell[:20]} <= {*found[0]}, "drawn, not the first rows"
    assert [len(rows) for rows in batches(languages)] == [40, 24, 20, 5]  # without labels, 65 and 24 rows


def entry(language, half, over_seeds):
    """Intervals of one cell, of which that of the neutral tokens is the widest."""
    halves = {"positive": half / 3, "neutral": half, "negative": half / 2}
    bounds = {name: [0.2 - width, 0.2 + width] for name, width in halves.items()}
    seeds = over_seeds and {name: [-over_seeds, over_seeds] for name in halves}
    return {"language": language, "label": "yes", "examples": 20, "intervals": bounds, "seed_intervals": seeds}


def test_labels_and_budget_are_checked_on_all_rows_before_the_first_batch(tmp_path, bert_tokenizer, tiny_bert):
    """Labels 0 to 2 are numbers of the classes named 1 to 3, which a batch without 0 does not show."""
    names = {"id2label": {0: "1", 1: "2", 2: "3"}, "label2id": {"1": 0, "2": 1, "3": 2}}
    labels = [0] * 10 + [1] * 25 + [2] * 25
    rows = Dataset.from_dict({"text": [f"w{i % 20} w3" for i in range(60)], "language": ["en"] * 60, "label": labels})
    store, _ = explain_rows(tiny_bert(**names), bert_tokenizer, rows, tmp_path / "out", 1e-9)
    assert len(store.batches) == 2
    assert Counter(store.examples["label"].to_pylist()) == {"1": 10, "2": 25, "3": 25}
    unlabeled = rows.remove_columns("label").add_column("label", [None, *labels[1:]])
    store, _ = explain_rows(tiny_bert(**names), bert_tokenizer, unlabeled, tmp_path / "null", 1e-9)
    assert Counter(store.examples["label"].to_pylist())[None] == 1
    long = rows.map(lambda row, i: {"text": "w1 " * 12 if i == 59 else row["text"]}, with_indices=True)
    with pytest.raises(ValueError, match=r"Row 59, a text of 12 tokens, needs .* forward passes"):
        explain_rows(tiny_bert(**names), bert_tokenizer, long, tmp_path / "small", 1e-9, budget=20)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("halves", "over_seeds", "number", "stopped"),
    [
        ([0.03, 0.009, 0.001], None, 2, "precise"),
        ([0.03, 0.02, 0.015], None, 3, "rows ended"),
        ([0.03, 0.02, 0.001], 0.05, 2, "precise"),  # half of the noise of training
        ([0.03, 0.02, 0.015], 0.025, 3, "rows ended"),
        ([0.03, 0.009, 0.001], 0.001, 2, "precise"),  # the tolerance is enough
        ([0.009], None, 1, "precise"),
    ],
)
def test_batches_are_explained_until_every_interval_is_narrow(halves, over_seeds, number, stopped):
    rows = Dataset.from_dict({"language": ["en"] * 50, "label": [0] * 50})
    explained = []

    def explain(texts, batch, first):
        explained.append((batch, first, len(texts)))

    def cells(of):
        assert of == len(explained)
        return [entry("fr", 0.002, 9.0), entry("en", halves[of - 1], over_seeds), entry("ca", 0.001, None)]

    found, used = until_precise(rows, explain, cells, 0.01)
    assert explained == [("batch-00000", 0, 20), ("batch-00001", 20, 20), ("batch-00002", 40, 10)][:number]
    widest = {"language": "en", "label": "yes", "set": "neutral", "half_width": pytest.approx(halves[number - 1])}
    expected = {"used": min(20 * number, 50), "available": 50, "stopped": stopped, "tolerance": 0.01}
    assert (found, used) == (number, expected | {"widest": widest})


@pytest.mark.parametrize("value", ["0", "-0.1", "nan", "inf", "narrow"])
def test_a_tolerance_is_above_zero(capsys, value):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["model", "rows.csv", f"--explain-tolerance={value}"])
    command = ["explain", "model", "rows.csv", "--output-dir", "out", "--rows", "auto", f"--tolerance={value}"]
    assert (stopped.value.code, main(command)) == (2, 2)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert [line.partition("tolerance: ")[2] for line in errors] == [f"expected a number above 0, got '{value}'"] * 2


# In a recipe.


def test_a_run_says_how_many_rows_it_explained_and_why_no_more(begun, copy, work, monkeypatch):
    folder, results = begun
    found = results["attributions"]
    assert not list(unknown_keys(results, Results))
    widest = found["rows"].pop("widest")
    assert found["rows"] == {"used": 48, "available": 48, "stopped": "rows ended", "tolerance": 1e-6}
    assert found["method"] == "owen_orders" and found["examples"] == 48
    cells = [cell for cell in found["result"] if cell["threshold"] == 0.01]
    assert {cell["method"] for cell in cells} == {"regression"}
    assert all(ratio > 0 for cell in cells for ratio in cell["variance_ratio"].values())
    halves = {(cell["language"], cell["label"], name): np.diff(cell["intervals"][name]).item() / 2
              for cell in cells for name in ("positive", "neutral", "negative")}  # fmt: skip
    assert tuple(widest.values()) == (*max(halves, key=halves.get), pytest.approx(max(halves.values())))
    stores = {setup: {0: folder / "attributions" / f"{setup}-seed-0"} for setup in ("imbalanced", "balanced")}
    predictions = {role: {0: folder / setup / "seed-0" / "predictions.parquet"}
                   for role, setup in zip(("other", "reference"), stores, strict=True)}  # fmt: skip
    assert_close(compare_seeds(*stores.values(), predictions=predictions), {"result": found["result"]})
    written = watched(monkeypatch)
    _, loose = work(copy, *ARGV[:-1], 10)
    assert written == [], "what is there is enough"
    assert (loose["attributions"]["rows"]["stopped"], loose["attributions"]["examples"]) == ("precise", 18)
    assert {(cell["method"], cell["variance_ratio"]) for cell in loose["attributions"]["result"]} == {("mean", None)}


def test_more_seeds_explain_the_new_models_alone(copy, work, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("attributions/*/*/*.parquet")}
    written = watched(monkeypatch)
    _, more = work(copy, *ARGV, "--seeds", 2)
    assert written == batches_of("balanced-seed-1", "imbalanced-seed-1")
    assert len(before) == 12 and {path: path.stat().st_mtime_ns for path in before} == before
    assert (more["attributions"]["rows"]["used"], more["attributions"]["seeds"]) == (48, [0, 1])
    examples = [AttributionStore(path).examples for path in sorted((copy / "attributions").iterdir())]
    assert len(examples) == 4 and all(one["id"].equals(examples[0]["id"]) for one in examples), "of the same rows"


@pytest.mark.parametrize("stop", [0, 3, 5])
def test_a_run_that_is_killed_while_it_explains_ends_with_the_same_bytes(begun, copy, work, monkeypatch, stop):
    shutil.rmtree(copy / "attributions")
    (copy / "results.json").unlink()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        first = watched(patched, stop)
        work(copy, *ARGV)
    rest = watched(monkeypatch)
    work(copy, *ARGV)
    assert first + rest == batches_of("balanced-seed-0", "imbalanced-seed-0") and len(first) == stop
    assert (copy / "results.json").read_bytes() == (begun[0] / "results.json").read_bytes()


def test_a_number_of_rows_and_batches_are_kept_beside_each_other(begun, copy, work, monkeypatch):
    written = watched(monkeypatch)
    _, numbered = work(copy, *ARGV[:-3], 6)
    assert [name.partition("/")[2] for name in written] == ["balanced-seed-0", "imbalanced-seed-0"]
    assert "rows" not in numbered["attributions"] and numbered["attributions"]["examples"] == 6
    text = (copy / "results.json").read_bytes()
    work(copy, *ARGV)
    assert (copy / "results.json").read_bytes() == (begun[0] / "results.json").read_bytes()
    (copy / "attributions" / "balanced-seed-0").rename(copy / "attributions" / "balanced-seed-0.auto")
    (copy / "attributions" / "balanced-seed-0").mkdir()  # killed before anything was written to it
    work(copy, *ARGV)
    work(copy, *ARGV[:-3], 6)
    assert (copy / "results.json").read_bytes() == text and len(written) == 2, "nothing was computed again"
    names = [f"{setup}-seed-0{kind}" for setup in ("balanced", "imbalanced") for kind in ("", ".auto")]
    assert sorted(path.name for path in (copy / "attributions").iterdir()) == names


def test_a_second_seed_of_the_reference_is_the_control(begun, copy, work, monkeypatch):
    trained, train = [], LangImbTrainer.train

    def counted(self, *args, **kwargs):
        trained.append(self.args.output_dir.removeprefix(f"{copy}/"))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(LangImbTrainer, "train", counted)
    results = begun[1]
    _, found = work(copy, *ARGV, "--control_seed", "true")
    assert trained == ["balanced/seed-1"]
    assert [found[key] == results[key] for key in ("setups", "comparisons", "seeds")] == [True] * 3
    assert not results["attributions"]["control"] and not results["attributions"]["unbiased"]
    assert [len(found["attributions"][form]) for form in ("result", "control", "unbiased")] == [18, 18, 18]
    assert "tokens" in {entry["name"] for entry in found["verdict"]}
    spreads = {name: of["over_seeds"] for name, of in found["attributions"]["base_values"].items()}
    assert spreads["balanced"] > 0 and spreads["imbalanced"] is None
    weights = (copy / "balanced" / "seed-1" / "model.safetensors").stat().st_mtime_ns
    _, more = work(copy, *ARGV, "--control_seed", "true", "--seeds", 2)
    assert trained[1:] == ["imbalanced/seed-1"]
    assert (copy / "balanced" / "seed-1" / "model.safetensors").stat().st_mtime_ns == weights
    assert set(more["setups"]["balanced"]["seeds"]) == {"0", "1"}


def test_predictions_have_the_base_values_and_fingerprints_of_the_attributions(begun):
    data = set()
    for setup in ("balanced", "imbalanced"):
        path, store = (
            begun[0] / place for place in (f"{setup}/seed-0/predictions.parquet", f"attributions/{setup}-seed-0")
        )
        marks, store = json.loads(read_metadata(path).metadata[b"langimb"]), AttributionStore(store)
        assert marks["model"] == store.manifest["model"]
        data.add(marks["data"])
        base = {(row["id"], row["language"]): row["base"] for row in read_table(path).to_pylist()}
        wanted = [base[row["id"], row["language"]] for row in store.examples.to_pylist()]
        np.testing.assert_allclose(stack(store.examples["base"]), wanted, atol=1e-5)
    assert len(data) == 1 and len(np.unique(np.array(wanted).round(4), axis=0)) == 4, "texts of four lengths"


# Other commands.


def test_an_evaluation_explains_until_it_is_precise(begun, workshop, tmp_path):
    argv = [begun[0] / "balanced" / "seed-0", workshop / "external.parquet", "--output-dir", tmp_path]
    evaluate.main([*map(str, argv), "--explain-rows", "auto", "--explain-tolerance", TINY_TOLERANCE])
    found = json.loads((tmp_path / "results.json").read_text())
    assert not list(unknown_keys(found, Results))
    assert (found["explained"]["rows"]["used"], found["explained"]["rows"]["stopped"]) == (48, "rows ended")
    assert found["explained"]["method"] == "owen_orders" and found["explained"]["tokens"][0]["method"] == "regression"
    text = explained_text(found["explained"])
    assert text.startswith("48 of 48 rows were explained. That is not enough for the tolerance of 1e-06: an interval")
    assert f"<p>{text}</p>" in (tmp_path / "report.html").read_text()
    assert f"\n\n{text}\n\n" in refresh_card("", found, "ann/one")


def test_an_evaluation_that_an_earlier_version_began_is_continued(begun, workshop, tmp_path):
    argv = [begun[0] / "balanced" / "seed-0", workshop / "external.parquet", "--output-dir", tmp_path]
    argv = [*map(str, argv), "--explain-rows", "6"]
    evaluate.main(argv)
    text, config = ((tmp_path / name).read_bytes() for name in ("results.json", "config.yaml"))
    assert "explain_tolerance" not in yaml.safe_load(config)
    path = tmp_path / "model" / "seed-0" / "predictions.parquet"
    write_table(read_table(path).drop_columns("base").replace_schema_metadata(None), path)
    record(path.parent, path.name, [path.name])
    evaluate.main(argv)
    assert "base" in read_table(path).column_names
    assert_close(json.loads((tmp_path / "results.json").read_text()), json.loads(text))


def test_the_command(begun, workshop, tmp_path, monkeypatch, capsys):
    model, rows, out = begun[0] / "balanced" / "seed-0", workshop / "external.parquet", tmp_path / "out"

    def explain(*argv, rows=rows, tolerance=TINY_TOLERANCE, into=out):
        command = ["explain", model, rows, "--output-dir", into, "--rows", "auto", "--tolerance", tolerance, *argv]
        code = main([*map(str, command)])
        shown = capsys.readouterr()
        return (code, shown.out) if code == 0 else (code, shown.err.count("\n"), shown.err)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        watched(patched, 1)
        explain("--orders", "4")
    written = watched(monkeypatch)
    code, text = explain("--orders", "4")
    assert code == 0 and written == batches_of("out")[1:]
    assert "48 of 48 rows were explained. That is not enough for the tolerance of 1e-06" in text
    assert "4 orders" in text and f"Next: AttributionStore('{out}')" in text.replace('"', "'")
    assert len(AttributionStore(out)) == 48 and AttributionStore(out).manifest["orders"] == 4
    text = explain("--orders", "4", tolerance=5)[1]
    assert "18 of 48 rows were explained. No more are needed" in text and len(written) == 2
    Dataset.from_parquet(str(rows)).remove_columns("language").to_parquet(tmp_path / "bare.parquet")
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "manifest.json").touch()
    for wrong, message in (
        ({"into": tmp_path / "others"}, "contains files other than batches of attributions: choose another folder"),
        ({"into": tmp_path / "file"}, "is a file: name a folder for the attributions"),
        ({"into": tmp_path / "new", "rows": tmp_path / "bare.parquet"}, "needs the language of each row"),
        ({}, "contains other attributions"),  # of 4 orders
    ):
        code, lines, error = explain(**wrong)
        assert (code, lines) == (1, 1) and message in error
    assert not (tmp_path / "new").exists()
