"""Runs are published by the real client to a Hub on this machine: complete, checked, or not at all."""

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import LIVE_TOKEN, TOKEN
from hub_run import SETUPS, assert_same_logits, stamps, whole
from huggingface_hub import DatasetCard, HfApi, constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from hf_langimb import AttributionStore, attribute, load_run, push_run
from hf_langimb.data import mini_xnli
from hf_langimb.hub.pull import pull
from hf_langimb.hub.push import logits_of
from hf_langimb.models.loading import load_model
from hf_langimb.results.schema import read_results, write_results
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def scale_weights(folder):
    """Change the weights of a model."""
    path = folder / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(path).items()}, path, {"format": "pt"})


def test_a_run_is_published_and_loads_everywhere(server, finished, tmp_path):
    before = stamps(finished)
    urls = push_run(finished, "ann/xnli", token=TOKEN)
    assert stamps(finished) == before, "the local run is not touched"
    names = [*(f"ann/xnli-{setup}" for setup in SETUPS), "ann/xnli-base", "datasets/ann/xnli-attributions"]
    assert set(server.repos) == set(names)
    assert urls[1:] == [f"{server.url}/{name}" for name in (*names[:4], names[5])]
    whole(server)
    for repo in server.repos.values():
        assert len(repo.commits()) == 2, "one commit after that which makes it"
    for setup in SETUPS:
        files = server.repos[f"ann/xnli-{setup}"].files()
        expected = {"README.md", "langimb.json", "results.json", "probe.json", "report.html", "tokenizer.json"}
        assert expected <= set(files)
        assert ("config.json" in files) is not setup.endswith("_lora")
        assert files["results.json"] == (finished / "results.json").read_bytes()
        assert {name.partition("/")[0] for name in files if "/" in name} == {"figures"}
        loaded = load_run(f"ann/xnli-{setup}")
        local = finished / setup / "seed-0"
        assert_same_logits(loaded.model, load_model(local))
        assert (loaded.languages, loaded.labels) == (["en", "fr"], ["entailment", "neutral", "contradiction"])
        assert loaded.model.config.id2label[2] == "contradiction"
        assert loaded.weights.shape == (2, 3) and (loaded.weights == 1).all() is not setup.startswith("weighted")
        assert loaded.results["setups"].keys() == set(SETUPS)
        assert b"[ann/xnli-attributions](https://huggingface.co/datasets/ann/xnli-attributions)" in files["README.md"]
        assert loaded.tokenizer("an", "a")["input_ids"] == load_run(local).tokenizer("an", "a")["input_ids"]
        assert_same_logits(load_run("ann/xnli", setup=setup).model, loaded.model)


def test_others_load_it_without_this_package(server, finished):
    from datasets import load_dataset
    from peft import AutoPeftModelForSequenceClassification
    from transformers import pipeline

    push_run(finished, "ann/xnli", setups=["balanced", "weighted_lora"], token=TOKEN)
    plain = AutoModelForSequenceClassification.from_pretrained("ann/xnli-balanced")
    assert_same_logits(plain, load_model(finished / "balanced" / "seed-0"))
    assert plain.config.langimb["languages"] == ["en", "fr"]
    classify = pipeline("text-classification", model="ann/xnli-balanced")
    answer = classify({"text": "A cat sleeps.", "text_pair": "An animal sleeps."})
    assert answer["label"] in plain.config.id2label.values()
    adapted = AutoPeftModelForSequenceClassification.from_pretrained("ann/xnli-weighted_lora", num_labels=3)
    assert_same_logits(adapted, load_model(finished / "weighted_lora" / "seed-0"))
    rows = load_dataset("ann/xnli-attributions", "balanced-tokens", split="train")
    store = AttributionStore(finished / "attributions" / "balanced-seed-0")
    assert len(rows) == len(store.tokens) and rows["piece"][:] == store.tokens["piece"].to_pylist()


def test_batches_of_attributions_are_published_and_read_as_one_store(server, copy, tmp_path, mini_xnli_rows):
    """Those of the results alone: a larger tolerance, or another seed, may have needed fewer than there are."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    place, loaded = copy / "attributions" / "balanced-seed-0", load_run(copy, setup="balanced")
    push_run(copy, "ann/x", setups=["balanced"], token=TOKEN)
    shutil.rmtree(place)
    for number, rows in enumerate((range(3), range(3, 5), range(5, 6))):
        options = {"out": place / f"batch-{number:05d}", "first_example": rows[0], "orders": 4}
        attribute(loaded.model, loaded.tokenizer, mini_xnli_rows.select(rows), **options)
    next((place / "batch-00002").glob("tokens-*")).unlink()  # killed when it explained more
    results = read_results(copy)
    write_results(copy, results | {"attributions": results["attributions"] | {"examples": 5}})
    push_run(copy, "ann/x", setups=["balanced"], token=TOKEN)
    place, kinds = AttributionStore(place, batches=2), ("tokens", "examples")
    folder = Path(snapshot_download("ann/x-attributions", repo_type="dataset", cache_dir=tmp_path / "cache"))
    found = AttributionStore(folder / "balanced")
    assert len(found.batches) == 2 and found.manifest == place.manifest
    assert found.tokens.equals(place.tokens) and found.examples.equals(place.examples)
    configs = {one["config_name"]: one["data_files"] for one in DatasetCard.load(folder / "README.md").data.configs}
    files = {kind: {path for path in folder.rglob("*.parquet") if path.name.startswith(kind)} for kind in kinds}
    assert {name: {*folder.glob(pattern)} for name, pattern in configs.items()} == {
        f"balanced-{kind}": files[kind] for kind in kinds
    }
    rows = load_dataset("ann/x-attributions", "balanced-tokens", split="train")
    assert rows["piece"][:] == found.tokens["piece"].to_pylist()


def test_the_same_push_twice_changes_nothing_and_another_model_takes_the_place(server, finished):
    push_run(finished, "ann/one", setups=["weighted_lora"], token=TOKEN)
    before = {key: [commit.oid for commit in repo.commits()] for key, repo in server.repos.items()}
    assert set(before) == {"ann/one", "ann/one-base", "datasets/ann/one-attributions"}
    push_run(finished, "ann/one", setups=["weighted_lora"], token=TOKEN)
    assert {key: [commit.oid for commit in repo.commits()] for key, repo in server.repos.items()} == before
    server.write("ann/one", {"notes.md": b"Mine.", "pytorch_model.bin": b"old"})
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    files = server.repos["ann/one"].files()
    assert "config.json" in files and files["notes.md"] == b"Mine."
    assert not {"adapter_config.json", "adapter_model.safetensors", "pytorch_model.bin"} & set(files)
    assert_same_logits(load_run("ann/one").model, load_model(finished / "weighted" / "seed-0"))


def test_what_a_push_leaves_alone(server, finished):
    push_run(finished, "ann/x", setups=["balanced", "weighted"], token=TOKEN)
    mine = {"requirements.txt": b"x", "thesis.json": b"{}", "figures/mine.svg": b"<svg/>"}
    server.write("ann/x-balanced", mine)
    push_run(finished, "ann/x", setups=["balanced", "imbalanced"], token=TOKEN)
    assert mine.keys() <= server.repos["ann/x-balanced"].files().keys()
    rows = server.repos["datasets/ann/x-attributions"].files()
    assert {name.partition("/")[0] for name in rows if "/" in name} == {"balanced", "weighted", "imbalanced"}
    card = rows["README.md"].decode()
    assert all(f"config_name: {setup}-tokens" in card for setup in ("balanced", "imbalanced", "weighted"))


def test_adapters_keep_the_base_that_they_were_trained_on(server, finished, copy):
    push_run(finished, "ann/x", setups=["weighted_lora"], token=TOKEN)
    before = logits_of(load_run("ann/x").model)
    scale_weights(copy / "start")
    server.fail("commit", 403, path="models/ann/x/")
    with pytest.raises(ValueError, match="403"):
        push_run(copy, "ann/x", setups=["weighted_lora"], token=TOKEN)
    assert len(server.repos["ann/x-base"].commits()) == 3
    shutil.rmtree(constants.HF_HUB_CACHE)
    torch.testing.assert_close(logits_of(load_run("ann/x").model), before)


def test_a_run_that_was_moved(server, finished, copy):
    for config in copy.glob("*/seed-0/adapter_config.json"):
        config.write_text(config.read_text().replace(str(finished), "/gone"))
    push_run(copy, "ann/x", setups=["weighted_lora"], token=TOKEN)
    assert_same_logits(load_run("ann/x").model, load_run(copy, setup="weighted_lora").model)


def test_revision_private_and_collection(server, finished):
    server.add_repo("ann/one")  # public
    with pytest.raises(ValueError, match="ann/one exists already, and is public"):
        push_run(finished, "ann/one", setups=["balanced"], private=True, token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 1
    settings = {"private": True, "revision": "v1", "collection": "Weighted", "token": TOKEN}
    push_run(finished, "ann/kept", setups=["weighted"], **settings)
    push_run(finished, "ann/kept", setups=["weighted"], **settings)
    repo = server.repos["ann/kept"]
    assert repo.private and "README.md" not in repo.files() and "README.md" in repo.files("v1")
    assert load_run("ann/kept", revision="v1", token=TOKEN).labels[0] == "entailment"
    (collection,) = server.collections.values()
    assert [item["id"] for item in collection["items"]] == ["ann/kept", "ann/kept-attributions"]


def test_only_branches_are_committed_to(server, finished):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    HfApi(token=TOKEN).create_tag("ann/one", tag="v1")
    for revision in ("v1", "refs/pr/1", "0123456789" * 4):
        with pytest.raises(ValueError, match=f"^{revision} is a tag, commit or reference of ann/one: name a branch to"):
            push_run(finished, "ann/one", setups=["weighted"], revision=revision, token=TOKEN)
    assert set(server.repos["ann/one"].refs) == {"refs/heads/main", "refs/tags/v1"}


def with_values(**values):
    """Function that changes values of a JSON file."""
    return lambda text: json.dumps(json.loads(text) | values)


def without_entries(text):
    """Results whose attributions have no entries, which the schema lets pass."""
    results = json.loads(text)
    results["attributions"] |= {key: [] for key in ("result", "control", "unbiased")}
    return json.dumps(results)


NO_MODEL = r"Expected a model with its tokenizer at '.*{}'"
OTHER_RUN = "belong to different runs: langimb.json or config.json has other languages or labels, or is missing."


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weighted/seed-0/model.safetensors", -100, NO_MODEL.format("weighted/seed-0") + ".* not fully covered"),
        ("weighted/seed-0/model.safetensors", None, r"seed-0 contains no weights: expected \.safetensors files"),
        ("weighted/seed-0/tokenizer.json", None, NO_MODEL.format("seed-0")),
        ("weighted/seed-0/tokenizer.json", -1000, NO_MODEL.format("seed-0")),
        ("start/tokenizer.json", -1000, NO_MODEL.format("start")),
        ("weighted_lora/seed-0/adapter_config.json", lambda text: "{}", NO_MODEL.format("seed-0")),
        ("weighted_lora/seed-0/adapter_config.json", -10, "adapter_config.json"),
        ("balanced/seed-0/config.json", None, NO_MODEL.format("seed-0")),
        ("balanced/seed-0/langimb.json", None, OTHER_RUN),
        ("weighted/seed-0/config.json", lambda text: text.replace('"0": "entailment"', '"0": "other"'), OTHER_RUN),
        ("results.json", with_values(languages=["en", "de"]), OTHER_RUN),
        ("results.json", with_values(data={"train/imbalanced": {}}), "results.json"),
        ("results.json", lambda text: text.replace("train/balanced", "other"), "results.json is damaged .*train/balan"),
        ("results.json", without_entries, r"results.json is damaged \(IndexError"),
        ("attributions/weighted-seed-0/tokens-00000.parquet", -100, "tokens-00000|cannot be read"),
        ("attributions/balanced-seed-0/manifest.json", None, "Expected complete attributions in"),
    ],
)
def test_nothing_of_a_damaged_run_is_published(server, copy, name, change, message):
    path = copy / name
    content = path.read_bytes()
    path.unlink()
    if callable(change):
        path.write_text(change(content.decode()))
    elif change:
        path.write_bytes(content[:change])
    with pytest.raises(ValueError, match=message) as refused:
        push_run(copy, "ann/one", token=TOKEN)
    assert name != "results.json" or str(path) in str(refused.value)  # and not a copy of it
    assert not server.requests


def test_weights_and_adapters_that_are_not_published(server, finished, copy, tmp_path):
    weights = copy / "weighted" / "seed-0" / "model.safetensors"
    save_file({name: values * float("nan") for name, values in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="weighted/seed-0 gives logits that are not finite"):
        push_run(copy, "ann/one", token=TOKEN)
    config = copy / "weighted_lora" / "seed-0" / "adapter_config.json"
    config.write_text(with_values(base_model_name_or_path=str(tmp_path))(config.read_text()))
    shutil.copytree(finished / "start", tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"seed-0 contains adapters whose base is the folder .*, which others cannot"):
        push_run(copy, "ann/one", setups=["weighted_lora"], token=TOKEN)
    assert not server.requests


def test_pushes_that_cannot_be(server, finished, tmp_path):
    (tmp_path / "bare").mkdir()
    shutil.copy(finished / "results.json", tmp_path / "bare")
    for folder, repo_id, setups, message in (
        (tmp_path / "bare", "ann/x", None, "Expected a trained model at .*bare/balanced/seed-0, found none: run the"),
        (tmp_path / "nowhere", "ann/x", None, "Expected a run folder with results.json, got .*: run the recipe first"),
        (finished, "ann/x", [], r"Expected a list of one setup or more, got \[\]"),
        (finished, "ann/x", "weighted", "Expected a list of one setup or more, got 'weighted'"),
        (finished, f"ann/{'x' * 91}", ["balanced", "weighted"], "is not a valid repository name"),
    ):
        with pytest.raises(ValueError, match=message):
            push_run(folder, repo_id, setups=setups, token=TOKEN)
    assert not server.requests


def test_the_requested_seed_with_a_new_page(server, copy):
    third = shutil.copytree(copy / "weighted" / "seed-0", copy / "weighted" / "seed-3")
    scale_weights(third)
    (copy / "report.html").write_text("old")
    results = json.loads((copy / "results.json").read_text())
    for setup in results["setups"].values():
        setup["seeds"]["3"] = setup["seeds"]["0"]
    (copy / "results.json").write_text(json.dumps(results | {"seeds": [0, 3]}))
    os.utime(copy / "report.html", (0, 0))
    push_run(copy, "ann/one", setups=["weighted"], seed=3, token=TOKEN)
    assert_same_logits(load_run("ann/one").model, load_model(third))
    assert server.repos["ann/one"].files()["report.html"].startswith(b"<!doctype html>")


def test_a_model_that_changes_during_a_push_is_reported(server, finished, monkeypatch):
    noise = iter([0, 1e-3])
    monkeypatch.setattr("hf_langimb.hub.push.logits_of", lambda model: logits_of(model) + next(noise))
    with pytest.raises(ValueError, match="ann/one was pushed, but its logits differ from the run's: push it again"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)


def test_the_token_is_nowhere(server, finished, caplog, capsys, tmp_path):
    with caplog.at_level(logging.DEBUG):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
        pull("ann/one", tmp_path / "pulled", token=TOKEN)
    said = [caplog.text, *capsys.readouterr()]
    published = [content for repo in server.repos.values() for content in repo.files().values()]
    assert not [text for text in said if TOKEN in text]
    assert not [content for content in published if TOKEN.encode() in content]


RECIPES = Path(__file__).parents[2] / "recipes" / "xnli"
FLAGS = """--train_size 60 --validation_size 24 --test_size 60 --probe_rows 20 --pretraining_steps 2 --explain_rows 6
--num_train_epochs 1 --use_cpu --disable_tqdm true --setups weighted_lora --push_to_hub"""


def test_a_recipe_publishes_at_its_end(server, tmp_path, capsys, monkeypatch):
    from hf_langimb.runs.experiment import main as recipe_main

    small = {"train_items": 60, "validation_items": 30, "test_items": 80}
    monkeypatch.setattr(mini_xnli, "load", partial(mini_xnli.load, **small))
    monkeypatch.setattr(mini_xnli, "pretraining_text", partial(mini_xnli.pretraining_text, 60))
    argv = [*FLAGS.split(), "--output_dir", str(tmp_path), "--hub_model_id", "ann/mini", "--hub_token", TOKEN]
    monkeypatch.setattr("sys.argv", ["xnli.py", *argv])
    recipe_main("xnli", RECIPES)
    shown = capsys.readouterr().out
    assert f"{server.url}/ann/mini-weighted_lora" in shown and TOKEN not in shown
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in files if TOKEN.encode() in content]
    whole(server)


def test_a_recipe_that_could_not_publish_says_so_before_any_work(server, tmp_path):
    for name, token, message in (
        (None, TOKEN, "needs hub_model_id: add --hub_model_id NAMESPACE/NAME"),
        ("rob/x", "hf_reader", "cannot publish rob/x: it can .* read-only"),
        ("rob/x", "hf_no", "does not accept this token"),
        ("x", TOKEN, "'x' is not a valid repository name: expected NAMESPACE/NAME"),
        ("ben/x", TOKEN, "cannot publish ben/x: it can write only in ann"),
    ):
        named = ["--hub_model_id", name] if name else []
        place = ["--hub_token", token, "--output_dir", str(tmp_path / "run"), *named]
        with pytest.raises(ValueError, match=message):
            run(parse_recipe("xnli", RECIPES, [*FLAGS.split(), *place]))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif("LANGIMB_LIVE_HUB" not in os.environ, reason="set LANGIMB_LIVE_HUB=NAMESPACE (and HF_TOKEN) to run")
def test_the_live_hub(finished, tmp_path):
    name = f"{os.environ['LANGIMB_LIVE_HUB']}/langimb-test"
    ours = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET")
    live = {key: value for key, value in os.environ.items() if key not in ours} | {"HF_TOKEN": LIVE_TOKEN or ""}
    script = (
        "import sys; from hf_langimb import load_run, push_run; from huggingface_hub import HfApi\n"
        "run, name = sys.argv[1:]\n"
        "try:\n"
        "    print(push_run(run, name, setups=['weighted'], private=True)); print(load_run(name).languages)\n"
        "finally:\n"
        "    HfApi().delete_repo(name, missing_ok=True)\n"
        "    HfApi().delete_repo(name + '-attributions', repo_type='dataset', missing_ok=True)\n"
    )
    command = [sys.executable, "-c", script, str(finished), name]
    done = subprocess.run(command, env=live | {"HF_HOME": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "['en', 'fr']" in done.stdout
