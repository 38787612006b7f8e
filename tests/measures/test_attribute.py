"""Attributions of datasets: settings, rows and models; the store, continued, refused or damaged; the command."""

import copy
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import shap
import torch
from attribution_models import SENTENCES, make_model, make_tokenizer, rows
from conftest import assert_close
from datasets import ClassLabel, Dataset, DatasetDict
from pyarrow.parquet import read_table
from transformers import AutoConfig, AutoModelForSequenceClassification

import hf_langimb.measures.attribution.attribute as attribute_module
import hf_langimb.measures.attribution.store as store_module
from hf_langimb import attribute
from hf_langimb.measures.attribution.examples import SPECIAL
from hf_langimb.measures.attribution.masked import base_of_rows
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.models.adapters import add_lora


@pytest.fixture
def explain(bert, tmp_path):
    """Function (data, model=BERT, out="store", **settings): attributions in a folder of the test."""

    def make(data, model=None, out="store", **settings):
        return attribute(
            model or bert[0], bert[1], data, out=tmp_path / out, **{"method": "owen", "budget": 8} | settings
        )

    return make


def test_texts_that_are_hardly_any(explain):
    store = explain(Dataset.from_dict({"text": ["", "It", "[SEP] [CLS]", "It rains. " * 80]}), budget=40)
    assert store.manifest["truncated_texts"] == 1
    assert store.examples["text_truncated"].to_pylist() == [False, False, False, True]
    values = stack(store.tokens["S"])
    assert np.isfinite(values).all()
    assert (values[store.tokens["example"].to_numpy() == 0] == 0).all()
    assert store.examples["language"].to_pylist() == [None] * 4


def test_base_values_of_many_rows_are_those_of_their_attributions(bert, tmp_path):
    """Texts are cut where the model ends, if the tokenizer has no limit."""
    model, tokenizer = bert[0], copy.deepcopy(bert[1])
    tokenizer.model_max_length = 10**30
    singles = Dataset.from_dict({"text": ["", "It rains.", "It rains. " * 80, "It snows.", "Why?"]})
    for name, data in {"singles": singles, "pairs": rows(5, pair=True)}.items():
        store = attribute(model, tokenizer, data, out=tmp_path / name, orders=4)
        columns = store.manifest["text_columns"]
        found = base_of_rows(model, tokenizer, data, columns, None)
        np.testing.assert_allclose(found, stack(store.examples["base"]), atol=1e-5)


def test_bad_input(bert, explain, tmp_path):
    for data, settings, message in (
        (rows(2), {"method": "lime"}, "Unknown method 'lime': choose one of owen_orders, owen, shapley"),
        (rows(2), {"masking": "gap"}, "Unknown masking 'gap'"),
        (rows(2), {"budget_unit": "hours"}, "Unknown budget_unit 'hours'"),
        (rows(2), {"dtype": "int8"}, "Unknown dtype 'int8'"),
        (rows(2), {"budget": 1}, "budget must be 4 evaluations or more, or None, got 1"),
        (rows(2), {"budget": float("nan")}, "budget must be 4 evaluations or more, or None, got nan"),
        (rows(2), {"shard_size": 0}, "shard_size must be 1 or more, got 0"),
        (rows(2), {"max_length": 1}, "max_length must be 3 tokens or more, up to 136, or None, got 1"),
        (rows(2), {"max_length": 500}, "up to 136, or None, got 500"),
        (rows(2), {"batch_tokens": 0}, "batch_tokens must be 1 or more, or None, got 0"),
        (rows(2), {"seed": None}, "seed must be 0 or more, got None"),
        (rows(2), {"method": "shapley", "budget_unit": "forwards"}, "is not for method='shapley'"),
        (rows(2, pair=True), {"masking": "string"}, "would merge the two texts of a pair"),
        (rows(2).select([]), {}, "Expected a datasets.Dataset with rows to explain, got an empty one"),
        ([{"text": "a"}], {}, r"Expected a datasets.Dataset .*, got list"),
        (DatasetDict({"test": rows(2)}), {}, "got DatasetDict: name one split"),
        (Dataset.from_dict({"text": ["It rains.", None]}), {}, "is empty in 1 "),
        (rows(2, label=[0, 7]), {}, r"Labels 7 are not among .* LABEL_0, LABEL_1.* \(class ids 0 to 2\)"),
        (rows(2, label=["x", "LABEL_0"]), {}, "Labels x are not among those of .* or name the model's classes"),
        (rows(2).rename_column("text", "body"), {}, "Found no text column"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(data, **settings)
        assert not (tmp_path / "store").exists()
    # Folders and models that cannot be.
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for out, message in (("file", "is a file: name a folder"), ("other", "contains files but no attributions")):
        with pytest.raises(ValueError, match=message):
            explain(rows(2), out=out)
    other = make_model("bert", bert[1])
    other.config.id2label = {0: "a", 1: "a", 2: "b"}
    with pytest.raises(ValueError, match="a distinct name for each class, got id2label"):
        explain(rows(2).remove_columns("label"), other)
    other.config.problem_type = "regression"
    with pytest.raises(ValueError, match=r"got a regression \(problem_type\)"):
        explain(rows(2), other)


def test_labels_and_languages_by_name(explain):
    data = rows(3).cast_column("label", ClassLabel(names=["LABEL_2", "LABEL_0", "LABEL_1"]))
    assert explain(data).examples["label"].to_pylist() == ["LABEL_2", "LABEL_0", "LABEL_1"]
    languages, names = ClassLabel(names=["en", "fr"]), ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"])
    data = rows(4, language=[0, 1, 0, 1], label=[0, 1, 2, -1])
    examples = explain(data.cast_column("language", languages).cast_column("label", names), out="missing").examples
    assert examples["language"].to_pylist() == ["en", "fr", "en", "fr"]
    assert examples["label"].to_pylist() == ["LABEL_0", "LABEL_1", "LABEL_2", None]


def test_the_model_is_left_as_it_was_and_its_adapters_are_used(bert, explain):
    model = bert[0].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(rows(2), dtype="bfloat16")
    assert model.training and next(model.parameters()).dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.bert.eval()
    explain(rows(2), out="modes", dtype="float64")
    assert model.training and not model.bert.training  # each module keeps its mode
    model.eval()
    plain, adapted = (make_model("bert", bert[1], torch.float32) for _ in range(2))
    adapted = add_lora(adapted, 2).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    plain, adapted = explain(rows(2), plain, out="plain"), explain(rows(2), adapted, out="adapted")
    assert np.abs(stack(adapted.examples["p"]) - stack(plain.examples["p"])).max() > 0.01
    assert adapted.manifest["model"] != plain.manifest["model"]


def classifier(style, **config):
    """A new classifier of another family."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(style, **config, num_labels=3)).eval()


def test_decoders_without_mask_token_or_padding(decoder_tokenizer, tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = classifier("qwen2", **size, num_key_value_heads=1, pad_token_id=1, vocab_size=len(decoder_tokenizer))
    data = Dataset.from_dict({"text": ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]})
    store = attribute(model, decoder_tokenizer, data, out=tmp_path / "store", method="owen", budget=40)
    assert store.manifest["mask_token_is_substitute"] and store.manifest["mask_token"] == "<unk>"
    with pytest.raises(ValueError, match="Row 1 has no tokens: its text is empty"):
        attribute(model, decoder_tokenizer, Dataset.from_dict({"text": ["w1", ""]}), out=tmp_path / "empty")
    # Without a padding token a model takes no batch.
    tokenizer = make_tokenizer("xlm-roberta")
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 136, "vocab_size": len(tokenizer)}
    model = classifier("gpt2", **size)
    data = Dataset.from_dict({"text": SENTENCES[:3]})
    assert len(attribute(model, tokenizer, data, out=tmp_path / "gpt2", method="owen", budget=20)) == 3


def test_long_texts_are_masked_as_far_as_they_are_read(bert, explain, monkeypatch):
    settings = {"max_length": 10, "budget": 60, "dtype": "float64"}
    data = Dataset.from_dict({"text": SENTENCES[1:4]})
    ids, strings = (explain(data, out=masking, masking=masking, **settings) for masking in ("ids", "string"))
    assert ids.manifest["truncated_texts"] == 3
    np.testing.assert_allclose(stack(ids.examples["p"]), stack(strings.examples["p"]), atol=1e-6)
    monkeypatch.setattr(bert[1], "model_max_length", 4096)  # longer than the model
    long = Dataset.from_dict({"text": [" ".join(SENTENCES * 9)]})
    assert explain(long, out="long").manifest["truncated_texts"] == 1


@pytest.mark.parametrize("method", ["owen_orders", "owen", "shapley"])
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_what_the_store_holds(bert, explain, pair, method):
    (model, tokenizer), data = bert, rows(pair=pair)
    texts = ("premise", "hypothesis") if pair else ("text",)
    store = explain(data, budget=160, method=method, shard_size=5)
    assert len(store) == 12 and store.manifest["shards"] == 3
    assert store.examples["id"].to_pylist() == data["id"][:]
    assert store.examples["language"].to_pylist() == data["language"][:]
    assert store.examples["label"].to_pylist() == [f"LABEL_{i}" for i in data["label"]]
    tokens = store.tokens
    sums = np.zeros((12, 3))
    np.add.at(sums, tokens["example"].to_numpy(), stack(tokens["S"]))
    np.testing.assert_allclose(stack(store.examples["base"]) + sums, stack(store.examples["p"]), atol=1e-5)
    for token in tokens.to_pylist():
        if token["segment"] != SPECIAL:
            text = data[token["example"]][texts[token["segment"]]]
            assert text[token["start"] :].startswith(token["piece"])
            assert token["token_id"] == tokenizer.unk_token_id or token["end"] > token["start"]
    with torch.no_grad():
        inputs = tokenizer(*(data[0][name] for name in texts), return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1)
    np.testing.assert_allclose(stack(store.examples["p"])[0], expected[0].numpy(), atol=1e-6)
    assert ("standard_error" in tokens.column_names) is (method == "shapley")


EXPLAINING = """
import os, signal, sys
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
import hf_langimb.measures.attribution.attribute as module
folder, inner = sys.argv[1], module.write_shard
def write_shard(out, number, *found):
    if number == 3:
        (out / ".tokens-00003.parquet.part").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    inner(out, number, *found)
module.write_shard = write_shard
model = AutoModelForSequenceClassification.from_pretrained(f"{folder}/model").eval()
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
rows = Dataset.from_parquet(f"{folder}/rows.parquet")
module.attribute(model, tokenizer, rows, out=f"{folder}/out", shard_size=4, orders=8)
"""


def test_a_killed_call_goes_on(bert, explain, tmp_path, monkeypatch):
    model, data = make_model("bert", bert[1], torch.float32), rows(24)
    model.save_pretrained(tmp_path / "model")
    bert[1].save_pretrained(tmp_path / "model")
    data.to_parquet(tmp_path / "rows.parquet")
    killed = subprocess.run([sys.executable, "-c", EXPLAINING, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(ValueError, match="got 3 of 6 shards: run the same command again to continue"):
        AttributionStore(tmp_path / "out")
    written, inner = [], attribute_module.write_shard
    monkeypatch.setattr(attribute_module, "write_shard", lambda *a: (written.append(a[1]), inner(*a)))
    files = []
    for out in ("out", "whole"):
        folder = explain(data, model, out, shard_size=4, method="owen_orders", orders=8).folder
        files.append({path.name: path for path in folder.iterdir()})
    assert written == [3, 4, 5, *range(6)]
    assert files[0].keys() == files[1].keys()
    for name in files[0].keys() - {"manifest.json"}:
        assert_close(*(read_table(made[name]).to_pydict() for made in files))
    manifests = [json.loads(made["manifest.json"].read_text()) for made in files]
    assert [len(manifest.pop("files")) for manifest in manifests] == [12, 12]  # checksums of numbers, which may differ
    assert manifests[0] == manifests[1]


def test_a_full_disk_leaves_what_is_written(explain, tmp_path, monkeypatch):
    inner = store_module.pq.write_table

    def full(table, path):
        if "tokens-00001" in str(path):
            path.write_text("half")
            raise OSError(28, "No space left on device")
        inner(table, path)

    monkeypatch.setattr(store_module.pq, "write_table", full)
    with pytest.raises(OSError, match=r"Shard 1 of .* could not be written \(No space left on device\)"):
        explain(rows(), budget=20, shard_size=4)
    files = ["examples-00000.parquet", "manifest.json", "tokens-00000.parquet"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == files


def test_other_attributions_are_not_mixed(bert, explain):
    """Other settings, rows, texts, adapters or functions of the same weights."""
    explain(rows(4), budget=20)
    texts = rows(4).map(lambda row: {"text": row["text"].replace("It", "Xt")})
    for data, changed, difference in (
        (rows(4), {"budget": 30}, "budget was 20, is 30"),
        (rows(4), {"method": "shapley"}, "method was 'owen'"),
        (rows(5), {}, "data was"),
        (texts, {}, "data was"),
    ):
        with pytest.raises(ValueError, match=f"contains other attributions .*{difference}.*choose another folder"):
            explain(data, **{"budget": 20} | changed)
    plain, adapted = (make_model("bert", bert[1], torch.float32) for _ in range(2))
    adapted = add_lora(adapted, 2).eval()
    adapted.add_adapter("other", adapted.peft_config["default"])
    for name, model in (("plain", plain), ("adapted", adapted)):
        explain(rows(2), model, name)
        explain(rows(2), model, name)
        adapted.set_adapter("other")
        plain.config.problem_type = "multi_label_classification"
        with pytest.raises(ValueError, match=r"contains other attributions .model was"):
            explain(rows(2), model, name)
        adapted.set_adapter("default")


def test_an_explanation_for_shap_s_plots(explain):
    store = explain(rows(4), budget=40)
    explanation = store.to_explanation([1, 3])
    assert explanation.output_names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    page = shap.plots.text(explanation[:, :, "LABEL_1"], display=False)
    assert "didn" in page
    with pytest.raises(IndexError, match=r"index 7 is out of bounds .* size 4"):
        store.to_explanation([7])


def test_a_damaged_store(explain, tmp_path):
    with pytest.raises(ValueError, match=r"got no manifest.json: run `langimb explain` first"):
        AttributionStore(tmp_path)
    folder = explain(rows(), shard_size=4).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    for kind in ("examples", "tokens"):
        shutil.copy(folder / f"{kind}-00000.parquet", folder / f"{kind}-00001.parquet")
    for name, content, message in (
        ("tokens-00000.parquet", (folder / "tokens-00000.parquet").read_bytes(), "do not contain the 12 examples"),
        ("examples-00000.parquet", b"?", "a shard that cannot be read"),
        ("manifest.json", json.dumps(manifest | {"schema_version": 9}).encode(), "has schema_version 9, expected 1"),
        ("manifest.json", json.dumps(manifest | {"shards": "2", "labels": None}).encode(), "no valid shards, labels: "),
        ("manifest.json", json.dumps(manifest | {"shards": 10**30}).encode(), "has 1000.* shards of 12 examples"),
        ("manifest.json", b"{", r"manifest.json is not valid JSON .*: remove the folder and run the command again"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            AttributionStore(folder)


def test_what_a_killed_start_leaves_is_no_store(bert, explain, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".manifest.json.123").write_text("{")
    with pytest.raises(ValueError, match="probabilities that are not finite"), torch.no_grad():
        broken = make_model("bert", bert[1], torch.float32)
        broken.classifier.weight.fill_(float("nan"))
        explain(rows(2), model=broken)
    explain(rows(2), budget=12)  # nothing was written: other settings may


def test_the_command(tmp_path, capsys):
    from hf_langimb.cli import main

    tokenizer = make_tokenizer("bert")
    make_model("bert", tokenizer, torch.float32).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "langimb.json").write_text("{")  # no attribution needs it
    rows(12).rename_columns({"language": "lang", "label": "stars"}).to_parquet(tmp_path / "rows.parquet")
    command = ["explain", f"{tmp_path}/model", f"{tmp_path}/rows.parquet", "--output_dir", f"{tmp_path}/out"]
    command += ["--language-column", "lang", "--label-column", "stars", "--budget", "160"]
    assert main([*command, "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "8 rows" in shown and "Method: owen_orders" in shown
    store = AttributionStore(tmp_path / "out")
    assert sorted(store.examples["language"].to_pylist()) == ["en", "en", "fr", "fr", "ja", "ja", "zh", "zh"]
    assert store.examples["label"][0].as_py() == "LABEL_0"
    pair = ["--masking", "string", "--output-dir", str(tmp_path / "no"), "--text-column", "text", "id"]
    for wrong, message in (
        (["--rows", "3"], "contains other attributions"),
        (["--label-column", "mark"], "Expected a label column 'mark'"),
        (pair, "would merge the two texts of a pair"),
    ):
        assert main([*command, "--rows", "2", *wrong]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error, error
    assert main([*command, "--budget", "many"]) == 2
    bare = tmp_path / "bare"
    make_model("bert", tokenizer).bert.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    assert main(["explain", str(bare), *command[2:]]) == 1
    error = capsys.readouterr().err
    assert "is not a trained classifier: it lacks the weights classifier.bias, classifier.weight" in error
