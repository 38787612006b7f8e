"""A recipe from its YAML to its run folder: tiny runs of every step, interrupted, continued and repeated."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import assert_close, unknown_keys
from peft import PeftModel
from pyarrow.parquet import read_table, write_table
from scipy.special import softmax
from toy_run import LABELS, TINY, texts, write_splits
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import hf_langimb
from hf_langimb import LangImbTrainer, evaluate_predictions
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.models.loading import load_model
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import Results, read_results
from hf_langimb.runs import steps
from hf_langimb.runs.experiment import main, run, without_tokens
from hf_langimb.runs.recipe import parse_recipe

REPOSITORY = Path(hf_langimb.__file__).parents[1]
SETUPS = ["balanced", "imbalanced", "weighted", "weighted_lora", "imbalanced_entropy"]


@pytest.fixture(scope="module")
def whole(workshop, work):
    """A finished run of five setups with two seeds; tests leave it as they find it."""
    argv = ["--setups", *SETUPS, "--seeds", 2, "--probe_dataset_name", workshop / "external.parquet"]
    folder, results = work(workshop / "whole", *argv)
    return folder, results, argv


def stamps(folder):
    """{file: (bytes, time of the last change)} of all files but those that every call writes."""
    written = ("environment.json", "config.yaml", "results.json")
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file() and path.name not in written}
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in files.items()}


# The run folder.


def test_run_folder(whole, workshop):
    folder, _, _ = whole
    files = {"config.yaml", "results.json", "environment.json", "attributions", *SETUPS}
    assert {path.name for path in folder.iterdir()} == files
    for setup in SETUPS:
        assert {path.name for path in (folder / setup).iterdir()} == {"seed-0", "seed-1"}
        names = {path.name for path in (folder / setup / "seed-1").iterdir()}
        assert {"langimb.json", "predictions.parquet", "tokenizer.json"} <= names
        assert ("config.json" in names) is not setup.endswith("_lora")
        assert not [name for name in names if name.startswith("checkpoint") or name.endswith((".bin", ".part"))]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    expected = {"recipe": "toy", "train_size": 48, "dataset_name": str(workshop / "data")}
    assert expected.items() <= config.items()
    environment = json.loads((folder / "environment.json").read_text())
    assert {"versions", "host", "started", "seconds", "command"} <= set(environment)


@pytest.mark.parametrize("setup", SETUPS)
def test_saved_models_give_the_saved_predictions(whole, setup):
    folder = whole[0] / setup / "seed-0"
    if setup.endswith("_lora"):
        model = load_model(folder)
        assert [name for name, _ in model.named_parameters() if "lora_B" in name]
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.id2label == dict(enumerate(LABELS))
    axes = json.loads((folder / "langimb.json").read_text())
    assert model.config.langimb == axes
    assert (axes["languages"], axes["labels"]) == (["en", "fr"], LABELS)
    assert np.sum(axes["counts"]) == 48
    predictions = read_table(folder / "predictions.parquet").to_pylist()
    by_item = {(row["item"], row["language"]): row["text"] for row in texts(12, 2)}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer([by_item[row["id"], row["language"]] for row in predictions], padding=True, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        logits = model(**encoded).logits.numpy()
    np.testing.assert_allclose(logits, [row["logits"] for row in predictions], atol=1e-4)
    assert [row["prediction"] for row in predictions] == [int(np.argmax(row["logits"])) for row in predictions]


def test_setups_have_their_weights_and_train_differently_and_seeds_too(whole):
    folder, _, _ = whole
    axes = {setup: json.loads((folder / setup / "seed-0" / "langimb.json").read_text()) for setup in SETUPS}
    for setup in SETUPS:
        weights = [[2, 1, 2 / 3], [2 / 3, 1, 2]] if setup.startswith("weighted") else np.ones((2, 3))
        np.testing.assert_allclose(axes[setup]["weights"], weights)
    tables = {path: read_table(path) for path in sorted(folder.glob("*/seed-*/predictions.parquet"))}
    assert len(tables) == 10
    test, *others = [table.select(["id", "language", "label"]) for table in tables.values()]
    assert test.num_rows == 48  # of 72: what the skewed plan allows
    assert all(other.equals(test) for other in others)
    assert len({tuple(table["prediction"].to_pylist()) for table in tables.values()}) > 5
    logits = {path: np.array(table["logits"].to_pylist()) for path, table in tables.items()}
    for one, other in itertools.combinations(tables, 2):
        assert np.abs(logits[one] - logits[other]).max() > 1e-3, (one, other)


# results.json.


def test_results_are_those_of_the_contract(whole):
    folder, results, _ = whole
    text = (folder / "results.json").read_text()
    assert str(folder) not in text and "seconds" not in text and not re.search(r"\b20\d\d-\d\d-\d\d", text)
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in results.json"))
    assert parsed == results == read_results(folder)
    assert not list(unknown_keys(parsed, Results))
    assert list(results["setups"]) == SETUPS
    assert (results["languages"], results["labels"], results["seeds"]) == (["en", "fr"], LABELS, [0, 1])
    drawn = {f"{split}/{plan}" for split in ("train", "validation") for plan in ("balanced", "imbalanced")}
    assert set(results["data"]) == drawn | {"test/balanced"}
    skewed = results["data"]["train/imbalanced"]
    assert (skewed["counts"], skewed["labels"]) == ([[4, 8, 12], [12, 8, 4]], LABELS)
    assert skewed["mutual_information_bits"] == pytest.approx(0.125815, abs=1e-6)
    assert results["data"]["test/balanced"]["mutual_information_bits"] == 0
    weighted = results["setups"]["weighted_lora"]
    assert (weighted["plan"], weighted["class_weighting"]) == ("imbalanced", "per_language")
    assert set(weighted["seeds"]) == {"0", "1"}
    assert set(weighted["summary"]["test.accuracy"]) == {"mean", "low", "high", "n"}
    external = weighted["seeds"]["0"]["probe"]["external"]
    assert set(external) >= {"accuracy", "chance", "control", "bits_below_chance", "rows"}
    assert external["rows"] == 48
    found = results["attributions"]
    assert (found["setup"], found["reference"]) == ("imbalanced", "balanced")
    assert (found["seeds"], found["examples"]) == ([0, 1], 6)
    assert [len(found[form]) for form in ("result", "control", "unbiased")] == [18, 18, 18]  # three thresholds
    answered = [(entry["setup"], entry["reference"]) for entry in results["verdict"] if entry["name"] == "tokens"]
    assert answered == [("imbalanced", "balanced"), ("weighted", "imbalanced")]
    assert set(results["tokens"]) == {"en", "fr"}
    for setup in SETUPS:
        store = AttributionStore(folder / "attributions" / f"{setup}-seed-1")
        cells = zip(*(store.examples[column].to_pylist() for column in ("language", "label")), strict=True)
        assert sorted(cells) == list(itertools.product(("en", "fr"), LABELS))
        predictions = read_table(folder / setup / "seed-1" / "predictions.parquet").to_pylist()
        logits = {(row["id"], row["language"]): row["logits"] for row in predictions}
        wanted = [logits[row["id"], row["language"]] for row in store.examples.to_pylist()]
        np.testing.assert_allclose(
            stack(store.examples["p"]), softmax(np.array(wanted, dtype=np.float64), axis=1), atol=1e-5
        )
    assert len({(entry["setup"], entry["reference"]) for entry in results["comparisons"]}) == 10


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("seed", ["0", "1"])
def test_results_are_those_of_the_predictions(whole, setup, seed):
    folder, results, _ = whole
    table = read_table(folder / setup / f"seed-{seed}" / "predictions.parquet")
    assert table.column_names == ["id", "language", "label", "prediction", "logits", "base"]
    found = results["setups"][setup]["seeds"][seed]["test"]
    weighted = setup.startswith("weighted")
    again = evaluate_predictions(
        *(table[name].to_pylist() for name in ("language", "label", "prediction")),
        softmax(np.array(table["logits"].to_pylist(), dtype=np.float64), axis=1),
        plan=JointDistribution(["en", "fr"], [0, 1, 2], [[1, 2, 3], [3, 2, 1]]),
        weights=[[2, 1, 2 / 3], [2 / 3, 1, 2]] if weighted else None,
        groups=table["id"],
    )
    for name, value in again.items():
        if name == "calibration":  # weighted means, computed here from another softmax
            assert found[name].keys() == value.keys()
            continue
        expected = value if isinstance(value, dict | list) else pytest.approx(value, rel=1e-9, abs=1e-12)
        assert found[name] == expected, name
    assert (found["loss"] != found["plain_loss"]) is weighted


# Repeating, continuing, refusing.


def test_only_what_is_missing_is_done(whole, work, tmp_path, monkeypatch):
    folder, results, argv = whole
    copy = shutil.copytree(folder, tmp_path / "copy")
    before, text = stamps(copy), (copy / "results.json").read_bytes()
    monkeypatch.setattr(LangImbTrainer, "__init__", lambda *args, **kwargs: pytest.fail("trained or predicted again"))
    assert_close(work(copy, *argv)[1], results)
    assert (stamps(copy), (copy / "results.json").read_bytes()) == (before, text)
    missing = "weighted/seed-1/predictions.parquet"
    (copy / missing).unlink()
    work(copy, *argv)
    after = stamps(copy)
    assert {name for name in after if after[name] != before[name]} == {missing}
    assert_close(read_table(copy / missing).to_pydict(), read_table(folder / missing).to_pydict())
    assert_close(read_results(copy), results)
    write_table(read_table(copy / missing).drop(["logits"]), copy / missing)
    with pytest.raises(ValueError, match=r"predictions.parquet is damaged \(its checksum .*: remove it and run"):
        work(copy, *argv)


def test_a_run_is_continued_with_more_seeds_and_setups(work, tmp_path):
    _, one = work(tmp_path, "--setups", "balanced", "--seeds", 1)
    before = stamps(tmp_path)
    _, more = work(tmp_path, "--setups", "balanced", "weighted", "--seeds", 2)
    assert before.items() <= stamps(tmp_path).items()
    assert_close(more["setups"]["balanced"]["seeds"]["0"], one["setups"]["balanced"]["seeds"]["0"])
    assert set(more["setups"]["weighted"]["seeds"]) == {"0", "1"}
    assert one["setups"]["balanced"]["summary"]["test.accuracy"]["low"] is None
    assert more["setups"]["balanced"]["summary"]["test.accuracy"]["n"] == 2


def test_same_seed_same_bytes_in_another_folder(whole, work, tmp_path):
    argv = ["--setups", "balanced", "weighted_lora", "imbalanced_entropy", "--seed", 5]
    first, second = (work(tmp_path / name, *argv)[0] for name in ("a", "b"))
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()
    for path in first.glob("*/seed-5/predictions.parquet"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
        other_seed = read_table(whole[0] / "balanced" / "seed-0" / "predictions.parquet")
        assert read_table(path)["id"].equals(other_seed["id"])  # the test set depends on no seed


def test_models_that_are_trained_at_the_same_time_give_the_same_results(whole, work, tmp_path):
    _, results = work(
        tmp_path / "run", "--setups", "imbalanced", "weighted", "--models_at_once", 2, "--explain_rows", 0
    )
    for setup in ("imbalanced", "weighted"):
        model, other = (of["setups"][setup]["seeds"]["0"]["test"] for of in (whole[1], results))
        assert other["loss"] == pytest.approx(model["loss"], rel=1e-3)


def test_folder_of_another_configuration_is_refused(whole, work):
    folder, _, argv = whole

    def state():
        return stamps(folder), (folder / "config.yaml").read_bytes(), (folder / "results.json").read_bytes()

    before = state()
    message = r"another configuration \(learning_rate was 0.003, is 0.5; train_size was 48, is 24\): choose another"
    with pytest.raises(ValueError, match=message):
        work(folder, *argv, "--learning_rate", 0.5, "--train_size", 24)
    assert before == state()
    settings = yaml.safe_load((folder / "config.yaml").read_text())["setup_settings"]
    assert {*whole[1]["setups"]} <= {*settings} and settings["weighted"]["class_weighting"] == "per_language"


def test_setups_are_added_and_removed_but_not_redefined(tmp_path):
    def claim(**setups):
        return RunFolder(tmp_path).claim({"seed": 0, "setup_settings": setups}, ["seed"])

    one, other = ({"plan": "natural", "weight_decay": decay} for decay in (0.1, 0.2))
    claim(a=one, b=one)
    (tmp_path / "results.json").write_text("{}")
    claim(a=one)
    claim(a=one, c=other)
    with pytest.raises(ValueError, match=r"the setup b was {'weight_decay': 0.1}, is {'weight_decay': 0.2}\): choose"):
        claim(a=one, b=other)


def test_a_conflict_shows_where_long_values_differ(tmp_path):
    names = [f"language-{i}" for i in range(30)]
    RunFolder(tmp_path).claim({"languages": names})
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"was \.\.\.[^;]*'language-20'.*\.\.\., is \.\.\.[^;]*'other'"):
        RunFolder(tmp_path).claim({"languages": [*names[:20], "other", *names[21:]]})


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("setup", ["weighted", "imbalanced_lora", "imbalanced_entropy"])
def test_an_interrupted_training_continues_from_its_checkpoint(work, tmp_path, monkeypatch, setup):
    """Killed in the second of three epochs: the remaining epochs alone are trained, to the same predictions."""
    argv = ["--setups", setup, "--num_train_epochs", 3]
    _, results = work(tmp_path / "whole", *argv)
    step, reached = LangImbTrainer.training_step, []

    def counted(self, *args, **kwargs):
        reached.append(self.state.global_step)
        if len(reached) == 10:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LangImbTrainer, "training_step", counted)
    with pytest.raises(Killed):
        work(tmp_path / "killed", *argv)
    empty = tmp_path / "killed" / setup / "seed-0" / "checkpoint-18"  # killed while checkpoints were being removed
    empty.mkdir()
    (empty / "trainer_state.json").write_text("{}")
    torn = tmp_path / "killed" / setup / "seed-0" / "checkpoint-12"  # and killed again, while saving
    shutil.copytree(torn.with_name("checkpoint-6"), torn)
    (torn / "trainer_state.json").unlink()
    for path in torn.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    reached[:] = [None] * 10
    _, continued = work(tmp_path / "killed", *argv)
    assert reached[10:] == list(range(6, 18))
    assert_close(continued, results, atol=1e-4)
    assert not list((tmp_path / "killed").rglob("checkpoint-*"))
    times = [json.loads((tmp_path / run / setup / "seed-0" / "time.json").read_text()) for run in ("whole", "killed")]
    assert times[0]["seconds"] > 0 and times[1]["seconds"] is None, "of a training that was interrupted"


def test_a_data_set_without_a_plan(work, workshop, tmp_path):
    """Its own distribution is trained on, and what the predictions are compared with; a new language may be tested."""
    rows = texts(8, 0)
    kept = [i for i, row in enumerate(rows) if row["language"] == "fr" or row["label"] != "no" or i % 4 == 1]
    splits = {"train": rows.select(kept), "validation": texts(4, 1), "test": texts(4, 2, ("fr", "en", "ca"))}
    data = write_splits(tmp_path / "data", splits)
    yaml_file = tmp_path / "natural.yaml"
    yaml_file.write_text(
        re.sub(r"(?m)^(imbalanced_shares|train_size|validation_size|id_column).*\n", "", TINY)
        + f"dataset_name: {data}\nmodel_name_or_path: {workshop / 'model'}\n"
        + "setups: {plain: {plan: natural}, cured: {plan: natural, class_weighting: independence}}\n"
    )
    folder, results = work(tmp_path / "run", "--config", yaml_file)
    assert results["config_name"] == "natural"
    assert set(results["data"]) == {"train/natural", "validation/natural", "test/natural"}
    quality = results["setups"]["cured"]["seeds"]["0"]["test"]
    assert list(quality["by_language"]) == ["en", "fr", "ca"]
    skewed = results["data"]["train/natural"]["mutual_information_bits"]
    assert quality["reliance"] == pytest.approx(quality["dependence_bits"] / skewed)
    assert results["setups"]["plain"]["seeds"]["0"]["probe"]["external"] is None
    definitions = yaml.safe_load((folder / "config.yaml").read_text())["setup_definitions"]
    assert definitions["cured"]["class_weighting"] == "independence"
    with pytest.raises(ValueError, match=r"Setup balanced has plan 'balanced', expected one of natural \(imbalanced"):
        work(tmp_path / "other", "--config", yaml_file, "--setups", "balanced")


def test_own_data_by_flags_alone(workshop, tmp_path):
    """The recipe's own `mini`, with another dataset, other columns and another model."""
    names = {"language": "lang", "label": "stars"}
    rows = [texts(8, seed).remove_columns("item").rename_columns(names) for seed in range(3)]
    data = write_splits(tmp_path / "data", dict(zip(("train", "validation", "test"), rows, strict=True)))
    argv = shlex.split("--text_columns text --language_column lang --label_column stars --train_size 24 --test_size 24")
    argv += shlex.split("--validation_size 24 --num_train_epochs 1 --explain_rows 0 --disable_tqdm true --id_column ''")
    argv += ["--dataset_name", str(data), "--model_name_or_path", str(workshop / "model")]
    argv += ["--output_dir", str(tmp_path / "run"), "--label_order", *LABELS]
    argv += ["--imbalanced_shares", "fr 3/6 2/6 1/6", "en 1/6 2/6 3/6"]
    folder, results = run(parse_recipe("xnli", REPOSITORY / "recipes" / "xnli", argv))
    assert list(results["setups"]) == ["balanced", "imbalanced", "weighted"]
    assert results["attributions"] is None and not (folder / "attributions").exists()
    assert (results["labels"], results["languages"]) == (LABELS, ["en", "fr"])
    assert results["setups"]["weighted"]["seeds"]["0"]["test"]["rows"] == 24
    assert read_table(folder / "weighted/seed-0/predictions.parquet")["id"].to_pylist()[0].isdigit()
    assert not (folder / "start").exists()


@pytest.mark.parametrize("name", ["probe.json", "training.json", "predictions.parquet"])
def test_a_damaged_step_is_named(whole, work, tmp_path, name):
    folder, _, argv = whole
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "balanced" / "seed-0" / name).write_text('{"a')
    with pytest.raises(ValueError, match=f"balanced/seed-0/{name} .*: remove it and run the recipe again"):
        work(copy, *argv)


def test_each_trained_checkpoint_is_loaded_once_to_predict_and_once_to_explain(work, tmp_path, monkeypatch):
    loaded = []
    for kind in (PreTrainedModel, PeftModel):  # every way to load weights ends in one of them

        def load(cls, *args, original=kind.from_pretrained.__func__, **kwargs):
            loaded.extend(str(place) for place in args if isinstance(place, str | Path))
            return original(cls, *args, **kwargs)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(load))
    folder, _ = work(tmp_path / "run", "--setups", "balanced", "imbalanced_lora")
    trained = [place for place in loaded if place.endswith("seed-0")]
    assert trained == 2 * [str(folder / setup / "seed-0") for setup in ("balanced", "imbalanced_lora")]


# Errors are reported before any work, and leave no folder behind.


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--setups", "balanced", "wieghted"], "Unknown setup 'wieghted': choose among balanced, imbalanced, weighted"),
        (["--class_weighting", "joint"], "Setup balanced sets class_weighting to 'none', but the command line sets"),
        (
            ["--setups", "weighted_lora", "--lora_rank", "4"],
            "Setup weighted_lora sets lora_rank to 8, but the command line",
        ),
        (["--metric_for_best_model", "accuracy"], "must be one of eval_loss, eval_plain_loss, eval_uniform_loss, got"),
        (["--adam_beta1", "2"], "The optimizer .*adamw_torch_fused cannot be created .Invalid beta parameter"),
        (["--optim_args", "foo"], "The optimizer .* cannot be created .not enough values.*: check optim_args"),
        (["--report_to", "comet_ml"], "report_to names comet_ml, which is not installed: install it"),
        (["--missing_cell_policy", "hope"], "Unknown missing_cell_policy 'hope'"),
        (["--train_size", "5000"], "train split, languages .*a plan of 5,000 rows is larger than the source"),
        (["--test_size", "5000"], "test split, languages .*a plan of 5,000 rows is larger"),
        (["--validation_size", "0"], "^validation_size must be 1 or more, got 0"),
        (["--label_column", "stars"], "Expected a label column 'stars', found columns"),
        (["--language_column", "lang"], "Expected a language column 'lang'"),
        (["--text_columns", "premise"], "Expected a text column 'premise'"),
        (["--imbalanced_shares", "fr 1/2 1/2 1/2", "en 1/3 1/3 1/3"], "must sum to 1"),
        (["--imbalanced_shares", "fr 1e400 0 0", "en 1/3 1/3 1/3"], "expects a language and 3 shares"),
        (["--probe_dataset_name", "/nowhere"], "Cannot read a dataset at '/nowhere'"),
        (["--dataset_name", "/nowhere"], "Cannot read a dataset at '/nowhere'"),
    ],
)
def test_errors(work, tmp_path, argv, message):
    with pytest.raises(ValueError, match=message) as caught:
        work(tmp_path / "run", *argv)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_refused(work, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("...")
    with pytest.raises(ValueError, match=r"thesis contains files but no run .*choose another --output_dir, or empty"):
        work(tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter-1.txt"]


def test_a_model_that_is_not_there_does_not_bind_the_folder(work, workshop, tmp_path):
    with pytest.raises(ValueError, match=r"Expected a model .* at '/nowhere/model' \(Hub id or folder;") as caught:
        work(tmp_path / "run", "--model_name_or_path", "/nowhere/model")
    assert "\n" not in str(caught.value)
    work(tmp_path / "run", "--setups", "balanced", "--train_size", 24)  # the corrected call works


def test_recorded_commands_have_no_tokens():
    command = shlex.split("xnli.py --hub_token hf_a --seeds 2 --hub-token=hf_b --hub_token")
    assert without_tokens(command) == shlex.split("xnli.py --hub_token ... --seeds 2 --hub-token=... --hub_token")


# The command.


def launch(folder, *argv, **environment):
    """`accelerate launch recipes/xnli.py` in a folder, offline; its finished process."""
    cache = {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--quiet"]
    return subprocess.run(
        [*command, str(REPOSITORY / "recipes" / "xnli.py"), *argv],
        env=os.environ | cache | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,  # ends a launch that hangs, also on a busy machine
    )


@pytest.mark.slow
def test_the_recipe_from_the_command_line_writes_a_run(tmp_path):
    small = "--explain_rows 6 --train_size 60 --validation_size 24 --test_size 60 --probe_rows 20 --pretraining_steps 2"
    small += " --num_train_epochs 1 --seeds 2 --setups balanced_entropy imbalanced_entropy"
    done = launch(tmp_path, *small.split(), PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr[-3000:]
    run_folder = tmp_path / "runs" / "xnli-mini"
    written = {path.name for path in run_folder.rglob("*") if path.is_file()}
    assert {"README.md", "model.safetensors", "results.json", "predictions.parquet"} <= written
    for pattern in (
        "Predicted labels on the balanced test set",
        r"\| setup +\| language \| entailment \| neutral \| contradiction \|",
        r"\| setup +\| +accuracy \| +dependence \(bits\) \| +reliance \| +skew transfer \|",
        r"\| imbalanced_entropy +\| 0\.\d{3} \[",
        "Differences between setups, paired by seed",
        "All numbers: runs/xnli-mini/results.json",
        "Report: runs/xnli-mini/report.html",
    ):
        assert re.search(pattern, done.stdout), pattern
    assert (run_folder / "report.html").read_text().startswith("<!doctype html>")
    results = read_results(run_folder)
    assert (results["languages"], results["seeds"]) == (["en", "fr"], [0, 1])
    assert results["labels"] == ["entailment", "neutral", "contradiction"]
    metrics = results["setups"]["balanced_entropy"]["seeds"]["1"]
    assert (metrics["test"]["rows"], metrics["probe"]["external"]["rows"]) == (60, 40)
    assert (run_folder / "start" / "config.json").exists()


@pytest.mark.slow
def test_a_bad_flag_is_one_sentence(tmp_path):
    done = launch(tmp_path, "--seeds", "0")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("xnli.py: ")]
    assert lines == ["xnli.py: seeds must be 1 or more, got 0."]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_what_to_do_is_said_if_a_data_set_of_a_recipe_is_gone(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "mini.yaml").write_text("dataset_name: ./mirror\nimbalanced_shares: [fr 1/2 1/2]\n")
    argv = ["--output_dir", str(tmp_path / "run")]
    for more, said in (([], True), (["--dataset_name", "./mine"], False)):
        with pytest.raises(SystemExit):
            main("toy", tmp_path, argv + more, if_missing={"./mirror": "It was withdrawn."})
        error = capsys.readouterr().err
        assert "Cannot read a dataset at './mi" in error
        assert ("It was withdrawn." in error) is said


def test_a_probe_of_very_many_languages_reads_as_many_rows_of_each_as_its_time_allows(monkeypatch):
    languages = pa.array(["a"] * 50 + ["b"] * 20 + ["c"] * 3)
    everything, shuffles = steps._probed(languages)
    assert (len(everything), shuffles) == (73, 10)
    monkeypatch.setattr(steps, "PROBED", 3 * 31)
    kept, shuffles = steps._probed(languages)
    assert shuffles == 3
    assert Counter(languages.take(pa.array(kept)).to_pylist()) == {"a": 14, "b": 14, "c": 3}
