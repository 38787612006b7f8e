"""The store of attributions: what is in it, what stops and continues, and what is refused or damaged."""

import json
import shutil
import signal
import subprocess
import sys
import time

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


@pytest.mark.parametrize("method", ["owen", "shapley"])
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_what_the_store_holds(bert, tmp_path, pair, method):
    model, tokenizer = bert
    data = rows(pair=pair)
    store = attribute(model, tokenizer, data, out=tmp_path / "store", budget=80, method=method, shard_size=5)
    assert len(store) == 12 and store.manifest["shards"] == 3
    assert store.examples["id"].to_pylist() == data["id"][:]
    assert store.examples["language"].to_pylist() == data["language"][:]
    assert store.examples["label"].to_pylist() == [f"LABEL_{i}" for i in data["label"]]
    tokens = store.tokens
    sums = np.zeros((12, 3))
    np.add.at(sums, tokens["example"].to_numpy(), stack(tokens["S"]))
    np.testing.assert_allclose(stack(store.examples["base"]) + sums, stack(store.examples["p"]), atol=1e-5)
    for token in tokens.to_pylist():
        text = data[token["example"]][["premise", "hypothesis"][token["segment"]] if pair else "text"]
        if token["segment"] != SPECIAL:
            assert text[token["start"] :].startswith(token["piece"])
            assert (
                tokenizer.convert_tokens_to_ids(tokenizer.unk_token) == token["token_id"]
                or token["end"] > token["start"]
            )
    with torch.no_grad():
        inputs = [data[0][name] for name in (("premise", "hypothesis") if pair else ("text",))]
        expected = model(**tokenizer(*inputs, return_tensors="pt")).logits.softmax(-1)
    np.testing.assert_allclose(stack(store.examples["p"])[0], expected[0].numpy(), atol=1e-6)
    assert ("standard_error" in tokens.column_names) is (method == "shapley")


class Stopped(Exception):
    pass


def same_store(first, second):
    files = sorted(path.name for path in first.folder.iterdir())
    assert files == sorted(path.name for path in second.folder.iterdir())
    for name in files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


def test_a_stopped_call_goes_on(bert, tmp_path, monkeypatch):
    import hf_langimb.measures.attribution.attribute as module

    model, tokenizer = bert
    settings = {"budget": 40, "shard_size": 4}
    whole = attribute(model, tokenizer, rows(), out=tmp_path / "whole", **settings)
    written = []

    def stop(folder, number, *found):
        if len(written) == 2:
            (folder / ".tokens-00002.parquet.part").write_text("half")
            raise Stopped
        written.append(number)
        inner(folder, number, *found)

    inner = module.write_shard
    monkeypatch.setattr(module, "write_shard", stop)
    with pytest.raises(Stopped):
        attribute(model, tokenizer, rows(), out=tmp_path / "parts", **settings)
    with pytest.raises(ValueError, match="got 2 of 3 shards: run the same command again to continue"):
        AttributionStore(tmp_path / "parts")
    written.clear()
    monkeypatch.setattr(module, "write_shard", lambda *a: (written.append(a[1]), inner(*a)))
    parts = attribute(model, tokenizer, rows(), out=tmp_path / "parts", **settings)
    assert written == [2]
    same_store(whole, parts)


EXPLAINING = """
import sys
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from hf_langimb import attribute
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(f"{folder}/model").eval()
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
rows = Dataset.from_parquet(f"{folder}/rows.parquet")
attribute(model, tokenizer, rows, out=f"{folder}/out", shard_size=4, budget=60)
"""


def test_a_killed_call_goes_on(bert, tmp_path):
    _, tokenizer = bert
    model, data = make_model("bert", tokenizer, torch.float32), rows(200)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data.to_parquet(tmp_path / "rows.parquet")
    killed = subprocess.Popen([sys.executable, "-c", EXPLAINING, str(tmp_path)], stderr=subprocess.DEVNULL)
    while killed.poll() is None and len(list((tmp_path / "out").glob("examples-*.parquet"))) < 3:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it was at its end: give it more rows"
    assert len(list((tmp_path / "out").glob("examples-*.parquet"))) < 50
    same_store(
        attribute(model, tokenizer, data, out=tmp_path / "out", shard_size=4, budget=60),
        attribute(model, tokenizer, data, out=tmp_path / "whole", shard_size=4, budget=60),
    )


def test_a_full_disk_leaves_what_is_written(bert, tmp_path, monkeypatch):
    import hf_langimb.measures.attribution.store as module

    model, tokenizer = bert
    inner = module.pq.write_table

    def full(table, path):
        if "tokens-00001" in str(path):
            path.write_text("half")
            raise OSError(28, "No space left on device")
        inner(table, path)

    monkeypatch.setattr(module.pq, "write_table", full)
    with pytest.raises(OSError, match=r"Shard 1 of .* could not be written \(No space left on device\)"):
        attribute(model, tokenizer, rows(), out=tmp_path, budget=20, shard_size=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "examples-00000.parquet", "manifest.json", "tokens-00000.parquet",
    ]  # fmt: skip


def test_other_settings_are_not_mixed(bert, tmp_path):
    model, tokenizer = bert
    attribute(model, tokenizer, rows(4), out=tmp_path / "store", budget=20)
    for changed, name in (({"budget": 30}, "budget was 20, is 30"), ({"method": "shapley"}, "method was 'owen'")):
        with pytest.raises(ValueError, match=f"contains other attributions .*{name}.*choose another folder"):
            attribute(model, tokenizer, rows(4), out=tmp_path / "store", **{"budget": 20} | changed)
    with pytest.raises(ValueError, match="data was"):
        attribute(model, tokenizer, rows(5), out=tmp_path / "store", budget=20)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="contains files but no attributions"):
        attribute(model, tokenizer, rows(4), out=tmp_path / "other", budget=20)


def test_an_explanation_for_shap_s_plots(bert, tmp_path):
    model, tokenizer = bert
    store = attribute(model, tokenizer, rows(4), out=tmp_path / "store", budget=40)
    explanation = store.to_explanation([1, 3])
    assert explanation.output_names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    page = shap.plots.text(explanation[:, :, "LABEL_1"], display=False)
    assert "didn" in page
    with pytest.raises(IndexError, match=r"index 7 is out of bounds .* size 4"):
        store.to_explanation([7])


def test_a_damaged_store(bert, tmp_path):
    with pytest.raises(ValueError, match=r"got no manifest.json: run `langimb explain` first"):
        AttributionStore(tmp_path)
    store = attribute(*bert, rows(4), out=tmp_path / "store", budget=8)
    (store.folder / "examples-00000.parquet").write_text("?")
    with pytest.raises(ValueError, match="a shard cannot be read"):
        AttributionStore(store.folder)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    (store.folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 9}))
    with pytest.raises(ValueError, match="has schema_version 9, this hf_langimb reads 1"):
        AttributionStore(store.folder)
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"manifest.json is not valid JSON .*: remove the folder and run the command again"
    ):
        AttributionStore(store.folder)


def test_another_function_is_not_taken_for_the_same(tmp_path):
    tokenizer = make_tokenizer("bert")
    model = add_lora(make_model("bert", tokenizer, torch.float32), 2).eval()
    model.add_adapter("other", model.peft_config["default"])
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    model.set_adapter("other")
    with pytest.raises(ValueError, match=r"contains other attributions .model was"):
        attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    plain = make_model("bert", tokenizer, torch.float32)
    attribute(plain, tokenizer, rows(2), out=tmp_path / "plain", budget=8)
    plain.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match=r"contains other attributions .model was"):
        attribute(plain, tokenizer, rows(2), out=tmp_path / "plain", budget=8)
    other = rows(2).map(lambda row: {"text": row["text"].replace("It", "Xt")})
    attribute(plain, tokenizer, rows(2), out=tmp_path / "text", budget=8)
    with pytest.raises(ValueError, match=r"contains other attributions .data was"):
        attribute(plain, tokenizer, other, out=tmp_path / "text", budget=8)


def test_a_store_that_lost_or_repeats_rows(bert, tmp_path):
    model, tokenizer = bert
    folder = attribute(model, tokenizer, rows(), out=tmp_path / "store", budget=8, shard_size=4).folder
    for kind in ("examples", "tokens"):
        shutil.copy(folder / f"{kind}-00000.parquet", folder / f"{kind}-00001.parquet")
    with pytest.raises(ValueError, match="do not contain the 12 examples"):
        AttributionStore(folder)


def test_what_a_killed_start_leaves_is_no_store(bert, tmp_path):
    model, tokenizer = bert
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".manifest.json.123").write_text("{")
    with pytest.raises(ValueError, match="not finite"), torch.no_grad():
        broken = make_model("bert", tokenizer, torch.float32)
        broken.classifier.weight.fill_(float("nan"))
        attribute(broken, tokenizer, rows(2), out=folder, budget=8)
    attribute(model, tokenizer, rows(2), out=folder, budget=12)  # nothing was written: other settings may
