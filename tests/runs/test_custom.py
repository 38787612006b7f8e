"""`langimb train`: a user's dataset to a verdict, with splits, weights and training arguments that fit it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict
from toy_run import LABELS, texts

from hf_langimb.cli import main
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.results.moved import extra_cells
from hf_langimb.results.page import write_report
from hf_langimb.results.summary import Roles, roles_of
from hf_langimb.runs.custom import FOLDER, fitted, words_of
from hf_langimb.runs.experiment import run
from hf_langimb.runs.notes import LEAVE_OUT, token_notes, token_shares, weight_notes
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.setups import prepare_setups, resolve_setup
from hf_langimb.runs.subsets import load_data
from hf_langimb.training.arguments import LangImbTrainingArguments

QUICK = ["--num_train_epochs", "1", "--probe_rows", "10", "--explain_rows", "6"]


def skewed(rows=40, languages=("de", "en", "fr"), seed=0):
    """Rows of which each language keeps one label in full, and a third or less of the others."""
    dataset, rng = texts(rows, seed, languages), np.random.default_rng(seed)
    place = [
        LABELS.index(label) == languages.index(language) % 3
        for label, language in zip(dataset["label"], dataset["language"], strict=True)
    ]
    return dataset.select(np.flatnonzero(np.array(place) | (rng.random(len(dataset)) < 0.3)))


@pytest.fixture(scope="module")
def trained(workshop, tmp_path_factory):
    """A finished `langimb train` of one csv file, in a folder of its own."""
    folder = tmp_path_factory.mktemp("own")
    skewed().to_csv(folder / "reviews.csv", index=False)
    argv = ["train", str(folder / "reviews.csv"), "--model", str(workshop / "model"), "--text-column", "text"]
    argv += ["--output-dir", str(folder / "run"), *QUICK]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        assert main(argv) == 0
    return folder / "run"


def test_one_command_gives_a_run_with_a_verdict(trained):
    results = json.loads((trained / "results.json").read_text())
    assert list(results["setups"]) == ["plain", "independence"]
    assert set(results["data"]) == {"train/natural", "validation/natural", "test/natural"}
    for setup in results["setups"].values():
        metrics = setup["seeds"]["0"]
        assert set(metrics["targets"]) == {"natural", "independent", "uniform"}
        assert set(metrics["shift"]) == {"de", "en", "fr"}
    names = {entry["name"] for entry in results["verdict"]}
    assert {"link", "shortcut"} <= names
    assert results["verdict"][0]["answer"] == "yes"  # labels depend on language in the data
    assert results["recommendation"]["chosen_on"] == "validation"
    assert any(note.startswith("No test and no validation split") for note in results["notes"])
    assert any("Training arguments chosen for" in note for note in results["notes"])
    assert results["attributions"]["setup"] == "plain"
    assert (trained / "report.html").is_file()
    assert (trained / "plain" / "seed-0" / "validation.parquet").is_file()


def test_other_objectives_and_sampling_are_compared_and_named(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    skewed().to_csv(tmp_path / "reviews.csv", index=False)
    argv = ["train", str(tmp_path / "reviews.csv"), "--model", str(workshop / "model"), "--text-column", "text"]
    argv += ["--output-dir", str(tmp_path / "run"), *QUICK, "--explain_rows", "0"]
    assert main([*argv, "--setups", "plain", "focal", "independence_sampling", "group_dro"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    options = {name: setup.get("options") for name, setup in results["setups"].items()}
    assert options == {
        "plain": None,
        "focal": {"objective": "focal"},
        "independence_sampling": {"sampling": "independence"},
        "group_dro": None,
    }
    assert [setup["class_weighting"] for setup in results["setups"].values()] == ["none"] * 3 + ["group_dro"]
    assert roles_of(results["setups"]) == Roles("plain", None, ("independence_sampling",), ("focal", "group_dro"))
    cards = {name: (tmp_path / "run" / name / "seed-0" / "README.md").read_text() for name in options}
    assert "with `objective=focal`" in cards["focal"]
    assert "with `sampling=independence`" in cards["independence_sampling"]
    assert "with `group_dro` class weights" in cards["group_dro"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "focal: on the same data, with the focal loss" in page
    assert "rows drawn in proportion to class weights that make labels independent of language" in page
    weights = json.loads((tmp_path / "run" / "group_dro" / "seed-0" / "langimb.json").read_text())["weights"]
    assert any(weight != 1 for row in weights for weight in row)


def test_the_command_line_is_that_of_the_recipe():
    words = words_of(["data/my-reviews.csv", "--model", "xlm-r", "--text-column", "a", "b", "--config-name=de"])
    assert words[:4] == ["--dataset_name", "data/my-reviews.csv", "--model_name_or_path", "xlm-r"]
    assert words[4:] == ["--text_columns", "a", "b", "--config_names=de", "--output_dir=runs/my-reviews"]
    assert words_of(["org/name", "--output-dir", "here"])[2:] == ["--output-dir", "here"]
    recipe = parse_recipe("custom", FOLDER, words_of(["x.csv", "--seeds", "2", "--learning_rate", "1e-4"]))
    assert (recipe.data.dataset_name, recipe.data.setups, recipe.data.seeds) == ("x.csv", ["plain", "independence"], 2)
    assert recipe.training.weight_clip == 20
    assert recipe.training.missing_cell_policy == "ignore"


def test_training_arguments_follow_from_the_data_unless_they_are_given():
    words = words_of(["x.csv", "--learning_rate", "1e-4"])
    recipe, text = fitted(parse_recipe("custom", FOLDER, words), 3_500)
    assert (recipe.training.num_train_epochs, recipe.data.pretraining_steps) == (6, 500)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.config["num_train_epochs"] == 6
    assert "3,500 training rows on this device (cpu): pretraining_steps=500, num_train_epochs=6" in text
    assert "learning_rate" not in text
    recipe, _ = fitted(parse_recipe("custom", FOLDER, [*words, "--model_name_or_path", "some/model"]), 60_000)
    assert (recipe.training.num_train_epochs, recipe.training.load_best_model_at_end) == (2, True)
    given = [*words, "--num_train_epochs", "3", "--per_device_train_batch_size", "8", "--pretraining_steps", "9"]
    recipe, text = fitted(parse_recipe("custom", FOLDER, [*given, "--load_best_model_at_end", "false"]), 100)
    assert (recipe.training.num_train_epochs, recipe.data.pretraining_steps, text) == (3, 9, "")


def loaded(dataset, *argv, folder):
    """The data of a run on splits that are saved in a folder."""
    dataset.save_to_disk(folder / "saved")
    recipe = parse_recipe("custom", FOLDER, ["--dataset_name", str(folder / "saved"), *map(str, argv)])
    return load_data(recipe.data, "language")


def test_splits_that_a_data_set_lacks_are_made_and_named_ones_expected(tmp_path):
    rows = skewed(60)
    data = loaded(DatasetDict(train=rows), folder=tmp_path)
    assert {*data.source} == {"train", "validation", "test"}
    assert sum(map(len, data.source.values())) == len(rows)
    data = loaded(DatasetDict(train=rows, test=skewed(9, seed=1)), folder=tmp_path / "b")
    assert len(data.source["test"]) == len(skewed(9, seed=1))
    assert any(note.startswith("No validation split") for note in data.notes)
    with pytest.raises(ValueError, match=r"Expected the split 'dev' in .* found train: name it with --train_split"):
        loaded(DatasetDict(train=rows), "--validation_split", "dev", folder=tmp_path / "c")


def test_spellings_are_said_and_merged_only_when_asked(tmp_path):
    rows = skewed(30, languages=("zh", "zh-CN", "en"))
    data = loaded(DatasetDict(train=rows), folder=tmp_path)
    assert data.languages == ["en", "zh", "zh-CN"]
    assert any("--merge_languages gives each group one name" in note for note in data.notes)
    data = loaded(DatasetDict(train=rows), "--merge_languages", "true", folder=tmp_path / "b")
    assert data.languages == ["en", "zh"]
    assert any(note.endswith("they were merged.") for note in data.notes)


def test_a_language_can_be_given_but_not_twice(tmp_path):
    rows = skewed(30).remove_columns("language")
    assert loaded(DatasetDict(train=rows), "--language", "sw", folder=tmp_path).languages == ["sw"]
    with pytest.raises(
        ValueError, match="--language is for data without a language column, but the data have 'language'"
    ):
        loaded(DatasetDict(train=skewed(9)), "--language", "sw", folder=tmp_path / "b")
    with pytest.raises(ValueError, match="language"):
        loaded(DatasetDict(train=rows), folder=tmp_path / "c")


def test_labels_of_all_splits_are_classes_and_null_rows_are_left_out(tmp_path):
    train = Dataset.from_dict(
        {"text": ["a", "b", "c", None] * 9, "language": ["x", "y"] * 18, "label": [2, 10, 1] * 12}
    )
    test = Dataset.from_dict({"text": ["d", "e"], "language": ["x", "y"], "label": [3, 1]})
    data = loaded(DatasetDict(train=train, test=test), folder=tmp_path)
    assert data.labels == ["1", "2", "3", "10"]
    assert len(data.source["train"]) + len(data.source["validation"]) == 27


def test_a_size_of_natural_data_keeps_their_shares(tmp_path):
    data = loaded(DatasetDict(train=skewed(90)), "--train_size", 60, folder=tmp_path)
    full, some = (
        JointDistribution.from_dataset(rows) for rows in (data.source["train"], data.subset("train", "natural", 0))
    )
    assert some.rows == 60
    assert np.abs(some.counts / 60 - full.counts / full.rows).max() < 1 / 60
    assert (some.counts == data.distribution("train", "natural").counts).all()
    assert {*data.rows("train", "natural", 0)} != {*data.rows("train", "natural", 1)}


def test_notes_on_weights(tmp_path):
    counts = JointDistribution(["a", "b", "c"], ["x", "y"], [[1, 5000], [5000, 1], [0, 40]])
    settings = {"class_weighting": "independence", "missing_cell_policy": "ignore", "weight_clip": 20}
    warnings, notes = weight_notes("independence", LangImbTrainingArguments(str(tmp_path), **settings), counts)
    assert warnings == []
    assert notes[0].startswith("independence: 1 of 6 cells of language and label have no training rows")
    assert notes[0].endswith("(c, x).")
    assert notes[1] == "independence: weights above 20 are reduced to 20, for 2 rows in 2 cells."
    settings["weight_clip"] = None
    warnings, notes = weight_notes("independence", LangImbTrainingArguments(str(tmp_path), **settings), counts)
    assert len(notes) == 1
    assert warnings[0].endswith("or set --weight_clip.")
    assert "10,042 training rows have an effective sample size of 8 (0.00 of the rows)" in warnings[0]
    assert weight_notes("plain", LangImbTrainingArguments(str(tmp_path)), counts) == ([], [])


def test_a_tiny_language_lifts_the_default_limit_of_weights_but_not_a_given_one(tmp_path):
    """Its mean weight is above the limit, which no factor of the others can keep."""
    counts = {("de", "x"): 900, ("de", "y"): 900, ("fr", "x"): 900, ("fr", "y"): 900, ("sw", "x"): 2, ("sw", "y"): 2}
    rows = [
        {"text": f"{cell} {i}", "language": cell[0], "label": cell[1]} for cell, n in counts.items() for i in range(n)
    ]
    Dataset.from_list(rows).to_csv(tmp_path / "rows.csv", index=False)

    def prepared(*words):
        """The setups `plain` and `joint` of a run."""
        argv = ["--dataset_name", str(tmp_path / "rows.csv"), "--setups", "plain", "joint", *words]
        recipe = parse_recipe("custom", FOLDER, [*argv, "--validation_share", "0.25", "--test_share", "0.25"])
        data = load_data(recipe.data, "language")
        settings = {name: resolve_setup(name, recipe.setups, "natural") for name in recipe.data.setups}
        return prepare_setups(recipe, settings, data), data.distribution("train", "natural")

    found, counts = prepared()
    limit = found["joint"].arguments.weight_clip
    assert found["plain"].arguments.weight_clip == 20
    assert limit > 2 * counts.rows / 3 / 2 - 1  # three languages, two rows of the small one in training
    _, notes = weight_notes("joint", found["joint"].arguments, counts, 20)
    assert any("instead of 20, because sw has few rows and a mean weight of" in note for note in notes)
    with pytest.raises(ValueError, match="must be above the mean weight of every language; that of sw"):
        prepared("--weight_clip", "20")


def test_own_weights_are_used_by_the_setup_own_alone_and_recorded_with_their_values(tmp_path):
    skewed().to_csv(tmp_path / "rows.csv", index=False)
    table = {language: {label: 1.0 + len(label) for label in LABELS} for language in ("de", "en", "fr")}
    (tmp_path / "weights.json").write_text(json.dumps(table))

    def prepared(*setups):
        argv = ["--dataset_name", str(tmp_path / "rows.csv"), "--class_weights", str(tmp_path / "weights.json")]
        recipe = parse_recipe("custom", FOLDER, [*argv, "--setups", *setups])
        data = load_data(recipe.data, "language")
        settings = {name: resolve_setup(name, recipe.setups, "natural") for name in recipe.data.setups}
        return recipe, prepare_setups(recipe, settings, data)

    recipe, found = prepared("plain", "own")
    assert recipe.config["class_weights"] == table
    assert found["plain"].arguments.weighting["scheme"] == "none"
    assert found["own"].arguments.weighting["scheme"] == table
    with pytest.raises(ValueError, match=r"No setup uses class_weights: add the setup own \(--setups plain own\)"):
        prepared("plain")
    with pytest.raises(ValueError, match="language_schedule names 'xx', expected one of de, en, fr"):
        prepared("own", "independence_sampling", "--language_schedule", "xx:0.5")
    table["de"].pop(LABELS[0])
    (tmp_path / "weights.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match=rf"lacks {LABELS[0]} \(expected labels of de: "):
        prepared("plain", "own")


def test_how_a_tokenizer_reads_the_languages(bert_tokenizer):
    rows = Dataset.from_dict(
        {"text": ["w1 w2", "日本 語", "w3 語"], "language": ["en", "ja", "fr"], "label": ["a"] * 3}
    )
    tokens = token_shares(rows, ["text"], bert_tokenizer, None)
    assert tokens["en"] == {"texts": 1, "per_text": 2, "unknown_share": 0, "truncated_share": 0}
    assert tokens["fr"]["unknown_share"] == 0.5
    (text,), notes = token_notes({"texts": tokens}, bert_tokenizer, None, LEAVE_OUT)
    assert text.startswith("Most tokens in ja (100%) are unknown to this model's tokenizer: the model cannot read")
    assert text.endswith("covers them, or leave them out with --languages.")
    assert notes == []
    exact = token_shares(rows, ["text"], bert_tokenizer, 4)  # [CLS] w1 w2 [SEP]
    assert [of["truncated_share"] for of in exact.values()] == [0, 0, 0]
    cut = token_shares(rows, ["text"], bert_tokenizer, 3)
    assert token_notes({"texts": cut}, bert_tokenizer, 3)[1] == [
        "100.0% of the texts are longer than 3 tokens and are truncated."
    ]
    many = {"en": tokens["en"] | {"texts": 900}, "sw": tokens["en"] | {"texts": 60, "truncated_share": 0.5}}
    assert token_notes({"texts": many}, bert_tokenizer, 9)[1][0].startswith(
        "3.1% of the texts (in sw 50%) are longer than 9 tokens"
    )
    many["sw"]["texts"] = 2
    assert token_notes({"texts": many}, bert_tokenizer, 9)[1] == []


@pytest.mark.slow
def test_without_a_model_a_small_encoder_is_made_from_the_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.chdir(tmp_path)
    skewed(30).to_json(tmp_path / "own.jsonl")
    words = words_of(["own.jsonl", *QUICK, "--pretraining_steps", "2"])
    output, results = run(parse_recipe("custom", FOLDER, words))
    assert str(output) == "runs/own"
    assert results["config"]["dataset_name"] == "own.jsonl"
    assert (output / "start" / "tokenizer.json").is_file()
    before = (output / "results.json").read_bytes()
    run(parse_recipe("custom", FOLDER, words))
    assert (output / "results.json").read_bytes() == before
    with pytest.raises(ValueError, match="contains a run with another configuration"):
        run(parse_recipe("custom", FOLDER, [*words, "--learning_rate", "0.1"]))


def test_a_run_is_not_continued_on_other_rows_and_sizes_fit(tmp_path, workshop, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.chdir(tmp_path)
    rows = skewed(30)
    rows.to_csv("own.csv")
    words = words_of(["own.csv", "--model", str(workshop / "model"), "--text-column", "text", *QUICK])
    run(parse_recipe("custom", FOLDER, words))
    rows.select(range(5, len(rows))).to_csv("own.csv")
    with pytest.raises(ValueError, match=r"contains a run with another configuration .data_fingerprints"):
        run(parse_recipe("custom", FOLDER, [*words, "--seeds", "2"]))
    with pytest.raises(ValueError, match=r"train_size is 5,000, but the train split has \d+ rows"):
        run(parse_recipe("custom", FOLDER, [*words, "--train_size", "5000", "--output_dir", "other"]))


def test_data_that_no_classifier_can_learn_from(tmp_path):
    one = Dataset.from_dict({"text": list("abcd"), "language": ["x", "y"] * 2, "label": ["same"] * 4})
    with pytest.raises(ValueError, match="needs two labels or more, but column 'label' has only the label 'same'"):
        loaded(DatasetDict(train=one), folder=tmp_path)
    many = one.remove_columns("label").add_column("label", [["a", "b"]] * 4)
    with pytest.raises(ValueError, match=r"several labels per row, but this command"):
        loaded(DatasetDict(train=many), folder=tmp_path / "b")
    train = Dataset.from_dict(
        {"text": [f"t {i}" for i in range(40)], "language": ["x", "y"] * 20, "label": [1, 2, 2, 1] * 10}
    )
    test = Dataset.from_dict({"text": ["u", "v"], "language": ["x", "y"], "label": [3, 1]})
    notes = loaded(DatasetDict(train=train, test=test), folder=tmp_path / "c").notes
    assert "Labels without training rows (only in test): 3." in notes


def test_errors_and_help_are_those_of_langimb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--help"]) == 0
    assert "usage: langimb train DATASET" in capsys.readouterr().out
    assert main(["train", "--seeds", "2"]) == 2
    assert "write DATASET first" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "hf_langimb", "train", "missing.csv"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "missing.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_further_test_sets_are_measured_beside_the_first(trained, workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    texts(6, 9, ("de", "xx")).to_csv(tmp_path / "other.csv", index=False)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    argv = [config["dataset_name"], "--model", str(workshop / "model"), "--text-column", "text", *QUICK]
    words = words_of(
        [*argv, "--output-dir", str(trained), "--extra_test", f"other={tmp_path / 'other.csv'}", "reversed"]
    )
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")}
    _, results = run(parse_recipe("custom", FOLDER, words))
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")} == before  # no training
    for setup in results["setups"].values():
        metrics = setup["seeds"]["0"]
        assert set(metrics["extra"]) == {"other", "reversed"}
        assert metrics["extra"]["other"]["rows"] == 36
        assert set(metrics["extra"]["other"]["by_language"]) == {"de", "xx"}
        natural, reversed_ = metrics["test"], metrics["extra"]["reversed"]
        assert reversed_["predicted"] == natural["predicted"]
        assert reversed_["accuracy"] != natural["accuracy"]
    header, rows = extra_cells(results)
    sets = ["other", "36"], ["reversed", f"{natural['rows']:,}"]
    assert [row[:3] for row in rows] == [[name, *of] for name in results["setups"] for of in sets]
    assert len(header) == len(rows[0])
    page = (write_report(trained)).read_text(encoding="utf-8")
    assert "Further test sets" in page
    for entry in ("other", "=x", "a=", "reversed reversed", "reversed=x.csv"):
        with pytest.raises(ValueError, match="Each extra_test must be NAME=DATASET or reversed"):
            run(parse_recipe("custom", FOLDER, [*words[:-2], *entry.split()]))
