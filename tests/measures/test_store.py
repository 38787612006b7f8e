"""The store of attributions: what is in it, what stops and continues, and what is refused or damaged."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import shap
import torch
from attribution_models import make_model, make_tokenizer, rows

from hf_langimb import attribute
from hf_langimb.measures.attribution.examples import SPECIAL
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.models.adapters import add_lora


@pytest.fixture(scope="module")
def bert():
    tokenizer = make_tokenizer("bert")
    return make_model("bert", tokenizer), tokenizer


@pytest.fixture
def explain(bert, tmp_path):
    """Function (data, out="store", model=BERT, **settings): attributions in a folder of the test."""

    def make(data, out="store", model=None, **settings):
        return attribute(model or bert[0], bert[1], data, out=tmp_path / out, **{"budget": 8} | settings)

    return make


@pytest.mark.parametrize("method", ["owen", "shapley"])
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_what_the_store_holds(bert, explain, pair, method):
    (model, tokenizer), data = bert, rows(pair=pair)
    texts = ("premise", "hypothesis") if pair else ("text",)
    store = explain(data, budget=80, method=method, shard_size=5)
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


class Stopped(Exception):
    pass


def same_store(first, second):
    files = [{path.name: path.read_bytes() for path in store.folder.iterdir()} for store in (first, second)]
    assert files[0].keys() == files[1].keys()
    for name, content in files[0].items():
        assert content == files[1][name], name


def test_a_stopped_call_goes_on(explain, tmp_path, monkeypatch):
    import hf_langimb.measures.attribution.attribute as module

    settings = {"budget": 40, "shard_size": 4}
    whole = explain(rows(), "whole", **settings)
    written, inner = [], module.write_shard

    def stop(folder, number, *found):
        if len(written) == 2:
            (folder / ".tokens-00002.parquet.part").write_text("half")
            raise Stopped
        written.append(number)
        inner(folder, number, *found)

    monkeypatch.setattr(module, "write_shard", stop)
    with pytest.raises(Stopped):
        explain(rows(), "parts", **settings)
    with pytest.raises(ValueError, match="got 2 of 3 shards: run the same command again to continue"):
        AttributionStore(tmp_path / "parts")
    written.clear()
    monkeypatch.setattr(module, "write_shard", lambda *a: (written.append(a[1]), inner(*a)))
    parts = explain(rows(), "parts", **settings)
    assert written == [2]
    same_store(whole, parts)


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
module.attribute(model, tokenizer, rows, out=f"{folder}/out", shard_size=4, budget=60)
"""


def test_a_killed_call_goes_on(bert, explain, tmp_path):
    model, data = make_model("bert", bert[1], torch.float32), rows(24)
    model.save_pretrained(tmp_path / "model")
    bert[1].save_pretrained(tmp_path / "model")
    data.to_parquet(tmp_path / "rows.parquet")
    killed = subprocess.run([sys.executable, "-c", EXPLAINING, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "out").glob("examples-*.parquet"))) == 3
    same_store(*(explain(data, out, model, shard_size=4, budget=60) for out in ("out", "whole")))


def test_a_full_disk_leaves_what_is_written(explain, tmp_path, monkeypatch):
    import hf_langimb.measures.attribution.store as module

    inner = module.pq.write_table

    def full(table, path):
        if "tokens-00001" in str(path):
            path.write_text("half")
            raise OSError(28, "No space left on device")
        inner(table, path)

    monkeypatch.setattr(module.pq, "write_table", full)
    with pytest.raises(OSError, match=r"Shard 1 of .* could not be written \(No space left on device\)"):
        explain(rows(), budget=20, shard_size=4)
    files = ["examples-00000.parquet", "manifest.json", "tokens-00000.parquet"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == files


def test_other_attributions_are_not_mixed(bert, explain, tmp_path):
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
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="contains files but no attributions"):
        explain(rows(4), "other")
    plain, adapted = (make_model("bert", bert[1], torch.float32) for _ in range(2))
    adapted = add_lora(adapted, 2).eval()
    adapted.add_adapter("other", adapted.peft_config["default"])
    for name, model in (("plain", plain), ("adapted", adapted)):
        explain(rows(2), name, model)
        explain(rows(2), name, model)
        adapted.set_adapter("other")
        plain.config.problem_type = "multi_label_classification"
        with pytest.raises(ValueError, match=r"contains other attributions .model was"):
            explain(rows(2), name, model)
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
        ("manifest.json", json.dumps(manifest | {"schema_version": 9}).encode(), "has schema_version 9, .* reads 1"),
        ("manifest.json", b"{", r"manifest.json is not valid JSON .*: remove the folder and run the command again"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            AttributionStore(folder)


def test_what_a_killed_start_leaves_is_no_store(bert, explain, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".manifest.json.123").write_text("{")
    with pytest.raises(ValueError, match="not finite"), torch.no_grad():
        broken = make_model("bert", bert[1], torch.float32)
        broken.classifier.weight.fill_(float("nan"))
        explain(rows(2), model=broken)
    explain(rows(2), budget=12)  # nothing was written: other settings may
