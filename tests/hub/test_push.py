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
from hub_run import SETUPS, stamps, whole
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from hf_langimb import AttributionStore, load_run, push_run
from hf_langimb.data import mini_xnli
from hf_langimb.hub.pull import pull
from hf_langimb.hub.push import logits_of
from hf_langimb.models.loading import load_model
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe


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
        assert torch.equal(logits_of(loaded.model), logits_of(load_model(local)))
        assert (loaded.languages, loaded.labels) == (["en", "fr"], ["entailment", "neutral", "contradiction"])
        assert loaded.model.config.id2label[2] == "contradiction"
        assert loaded.weights.shape == (2, 3) and (loaded.weights == 1).all() is not setup.startswith("weighted")
        assert loaded.results["setups"].keys() == set(SETUPS)
        assert (
            "[ann/xnli-attributions](https://huggingface.co/datasets/ann/xnli-attributions)"
            in files["README.md"].decode()
        )
        assert loaded.tokenizer("an", "a")["input_ids"] == load_run(local).tokenizer("an", "a")["input_ids"]
        through_run = load_run("ann/xnli", setup=setup)
        assert torch.equal(logits_of(through_run.model), logits_of(loaded.model))


def test_others_load_it_without_this_package(server, finished):
    from datasets import load_dataset
    from peft import AutoPeftModelForSequenceClassification
    from transformers import pipeline

    push_run(finished, "ann/xnli", setups=["balanced", "weighted_lora"], token=TOKEN)
    plain = AutoModelForSequenceClassification.from_pretrained("ann/xnli-balanced")
    assert torch.equal(logits_of(plain), logits_of(load_model(finished / "balanced" / "seed-0")))
    assert plain.config.langimb["languages"] == ["en", "fr"]
    classify = pipeline("text-classification", model="ann/xnli-balanced")
    answer = classify({"text": "A cat sleeps.", "text_pair": "An animal sleeps."})
    assert answer["label"] in plain.config.id2label.values()
    adapted = AutoPeftModelForSequenceClassification.from_pretrained("ann/xnli-weighted_lora", num_labels=3)
    assert torch.equal(logits_of(adapted), logits_of(load_model(finished / "weighted_lora" / "seed-0")))
    rows = load_dataset("ann/xnli-attributions", "balanced-tokens", split="train")
    store = AttributionStore(finished / "attributions" / "balanced-seed-0")
    assert len(rows) == len(store.tokens) and rows["piece"][:] == store.tokens["piece"].to_pylist()


def test_the_same_push_twice_changes_nothing(server, finished):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    before = {key: [commit.oid for commit in repo.commits()] for key, repo in server.repos.items()}
    assert set(before) == {"ann/one", "datasets/ann/one-attributions"}
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    assert {key: [commit.oid for commit in repo.commits()] for key, repo in server.repos.items()} == before


def test_another_model_takes_the_place_of_the_first(server, finished):
    push_run(finished, "ann/one", setups=["weighted_lora"], token=TOKEN)
    server.write("ann/one", {"notes.md": b"Mine.", "pytorch_model.bin": b"old"})
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    files = server.repos["ann/one"].files()
    assert "config.json" in files and files["notes.md"] == b"Mine."
    assert not {"adapter_config.json", "adapter_model.safetensors", "pytorch_model.bin"} & set(files)
    assert torch.equal(logits_of(load_run("ann/one").model), logits_of(load_model(finished / "weighted" / "seed-0")))


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


def test_adapters_keep_the_base_that_they_were_trained_on(server, finished, tmp_path):
    push_run(finished, "ann/x", setups=["weighted_lora"], token=TOKEN)
    before = logits_of(load_run("ann/x").model)
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    weights = load_file(other / "start" / "model.safetensors")
    save_file(
        {name: value * 1.5 for name, value in weights.items()}, other / "start" / "model.safetensors", {"format": "pt"}
    )
    server.fail("commit", 403, path="models/ann/x/")
    with pytest.raises(ValueError, match="403"):
        push_run(other, "ann/x", setups=["weighted_lora"], token=TOKEN)
    assert len(server.repos["ann/x-base"].commits()) == 3
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert torch.equal(logits_of(load_run("ann/x").model), before)


def test_a_run_that_was_moved(server, finished, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    for config in moved.glob("*/seed-0/adapter_config.json"):
        config.write_text(config.read_text().replace(str(finished), "/gone"))
    push_run(moved, "ann/x", setups=["weighted_lora"], token=TOKEN)
    local = load_run(moved, setup="weighted_lora").model
    assert torch.equal(logits_of(load_run("ann/x").model), logits_of(local))


def test_a_public_repository_is_not_taken_for_a_private_one(server, finished):
    server.add_repo("ann/one")
    with pytest.raises(ValueError, match="ann/one exists already, and is public"):
        push_run(finished, "ann/one", setups=["balanced"], private=True, token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 1


def test_revision_private_and_collection(server, finished):
    settings = {"private": True, "revision": "v1", "collection": "Weighted", "token": TOKEN}
    push_run(finished, "ann/kept", setups=["weighted"], **settings)
    push_run(finished, "ann/kept", setups=["weighted"], **settings)
    repo = server.repos["ann/kept"]
    assert repo.private and "README.md" not in repo.files() and "README.md" in repo.files("v1")
    assert load_run("ann/kept", revision="v1", token=TOKEN).labels[0] == "entailment"
    (collection,) = server.collections.values()
    assert [item["id"] for item in collection["items"]] == ["ann/kept", "ann/kept-attributions"]


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("v1", "v1 is a tag, commit or reference of ann/one: name a branch to commit to"),
        ("refs/pr/1", "refs/pr/1 is a tag, commit or reference of ann/one"),
        ("0123456789" * 4, "0123456789 is a tag, commit or reference of ann/one: name a branch"),
    ],
)
def test_only_branches_are_committed_to(server, finished, revision, message):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    HfApi(token=TOKEN).create_tag("ann/one", tag="v1")
    with pytest.raises(ValueError, match=message):
        push_run(finished, "ann/one", setups=["weighted"], revision=revision, token=TOKEN)
    assert set(server.repos["ann/one"].refs) == {"refs/heads/main", "refs/tags/v1"}


def test_nothing_of_a_damaged_run_is_published(server, finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    weights = copy / "weighted" / "seed-0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"Expected a model with its tokenizer at '.*weighted/seed-0'.* not fully cov"):
        push_run(copy, "ann/xnli", token=TOKEN)
    assert not server.requests
    weights.unlink()
    with pytest.raises(ValueError, match=r"seed-0 contains no weights: expected \.safetensors files"):
        push_run(copy, "ann/xnli", token=TOKEN)
    with pytest.raises(ValueError, match=r"Expected a run folder with results.json, got .*: run the recipe first"):
        push_run(tmp_path / "nowhere", "ann/xnli", token=TOKEN)
    for missing, message in (
        ("langimb.json", "are of different runs: langimb.json .* or is missing. Remove the model and run"),
        ("config.json", "Expected a model with its tokenizer at"),
    ):
        path = copy / "balanced" / "seed-0" / missing
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ValueError, match=message):
            push_run(copy, "ann/xnli", setups=["balanced"], token=TOKEN)
        path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected a list of one setup or more, got \\[\\]"):
        push_run(copy, "ann/xnli", setups=[], token=TOKEN)
    (copy / "attributions" / "balanced-seed-0" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="Expected complete attributions in"):
        push_run(copy, "ann/xnli", setups=["balanced"], token=TOKEN)
    assert not server.requests


@pytest.mark.parametrize(
    ("setup", "name", "content", "message"),
    [
        ("weighted", "tokenizer.json", None, r"Expected a model with its tokenizer at '.*seed-0'"),
        ("weighted", "tokenizer.json", '{"trunc', r"Expected a model with its tokenizer at '.*seed-0'"),
        ("weighted_lora", "../../start/tokenizer.json", "", r"Expected a model with its tokenizer at '.*start'"),
        ("weighted_lora", "adapter_config.json", "{}", r"Expected a model with its tokenizer at '.*seed-0'"),
        ("weighted_lora", "adapter_config.json", '{"tru', "adapter_config.json"),
        ("weighted", "../../attributions/weighted-seed-0/tokens-00000.parquet", "xxx", "tokens-00000|cannot be read"),
    ],
)
def test_damaged_files_of_a_run_are_found_before_anything_is_published(
    server, finished, tmp_path, setup, name, content, message
):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    path = copy / setup / "seed-0" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        push_run(copy, "ann/one", setups=[setup], token=TOKEN)
    assert not server.requests


def test_what_belongs_to_another_run(server, finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    results = json.loads((copy / "results.json").read_text())
    config = copy / "weighted" / "seed-0" / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"0": "entailment"', '"0": "other"'))
    with pytest.raises(ValueError, match=r"are of different runs: langimb.json or config.json has other"):
        push_run(copy, "ann/one", setups=["weighted"], token=TOKEN)
    config.write_text(before)
    (copy / "results.json").write_text(json.dumps(results | {"languages": ["en", "de"]}))
    with pytest.raises(ValueError, match=r"are of different runs: langimb.json or config.json has other"):
        push_run(copy, "ann/one", setups=["weighted"], token=TOKEN)
    del results["data"]["train/imbalanced"]["counts"]
    (copy / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"results.json"):
        push_run(copy, "ann/one", setups=["weighted"], token=TOKEN)
    adapters = json.loads((copy / "weighted_lora" / "seed-0" / "adapter_config.json").read_text())
    changed = json.dumps(adapters | {"base_model_name_or_path": str(tmp_path)})
    (copy / "weighted_lora" / "seed-0" / "adapter_config.json").write_text(changed)
    shutil.copy(finished / "results.json", copy)
    for file in (finished / "start").iterdir():
        shutil.copy(file, tmp_path)
    with pytest.raises(ValueError, match=r"seed-0 contains adapters whose base is the folder .*, which others cannot"):
        push_run(copy, "ann/one", setups=["weighted_lora"], token=TOKEN)
    with pytest.raises(ValueError, match="is not a valid repository name"):
        push_run(finished, f"ann/{'x' * 91}", setups=["balanced", "weighted"], token=TOKEN)
    with pytest.raises(ValueError, match=r"Expected a list of one setup or more, got 'weighted'"):
        push_run(finished, "ann/one", setups="weighted", token=TOKEN)
    assert not server.requests


def test_the_requested_seed_with_a_new_page(server, finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    shutil.copytree(copy / "weighted" / "seed-0", copy / "weighted" / "seed-3")
    weights = copy / "weighted" / "seed-3" / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    (copy / "report.html").write_text("old")
    results = json.loads((copy / "results.json").read_text())
    for setup in results["setups"].values():
        setup["seeds"]["3"] = setup["seeds"]["0"]
    (copy / "results.json").write_text(json.dumps(results | {"seeds": [0, 3]}))
    os.utime(copy / "report.html", (0, 0))
    push_run(copy, "ann/one", setups=["weighted"], seed=3, token=TOKEN)
    assert torch.equal(logits_of(load_run("ann/one").model), logits_of(load_model(weights.parent)))
    assert server.repos["ann/one"].files()["report.html"].startswith(b"<!doctype html>")


def test_a_model_that_changes_during_a_push_is_reported(server, finished, monkeypatch):
    noise = iter([0, 1e-3])
    monkeypatch.setattr("hf_langimb.hub.push.logits_of", lambda model: logits_of(model) + next(noise))
    with pytest.raises(ValueError, match="ann/one was pushed but gives other logits than the model of the run"):
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


SIZES = {"train_size": 60, "validation_size": 24, "test_size": 60, "probe_rows": 20, "pretraining_steps": 2}


FLAGS = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]


FLAGS += ["--explain_rows", "6", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "true"]


FLAGS += ["--setups", "weighted_lora"]


def test_a_recipe_publishes_at_its_end(server, tmp_path, capsys, monkeypatch):
    from hf_langimb.runs.experiment import main as recipe_main

    small = {"train_items": 60, "validation_items": 30, "test_items": 80}
    monkeypatch.setattr(mini_xnli, "load", partial(mini_xnli.load, **small))
    monkeypatch.setattr(mini_xnli, "pretraining_text", partial(mini_xnli.pretraining_text, 60))
    argv = [*FLAGS, "--output_dir", str(tmp_path), "--push_to_hub", "--hub_model_id", "ann/mini", "--hub_token", TOKEN]
    monkeypatch.setattr("sys.argv", ["xnli.py", *argv])
    recipe_main("xnli", RECIPES)
    shown = capsys.readouterr().out
    assert f"{server.url}/ann/mini-weighted_lora" in shown and TOKEN not in shown
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in files if TOKEN.encode() in content]
    whole(server)


def test_a_recipe_that_could_not_publish_says_so_before_any_work(server, tmp_path):
    for flags, message in (
        (["--push_to_hub"], "needs hub_model_id: add --hub_model_id NAMESPACE/NAME"),
        (
            ["--push_to_hub", "--hub_model_id", "rob/x", "--hub_token", "hf_reader"],
            "cannot publish rob/x: it can .* read-only",
        ),
        (["--push_to_hub", "--hub_model_id", "rob/x", "--hub_token", "hf_no"], "does not accept this token"),
        (
            ["--push_to_hub", "--hub_model_id", "x", "--hub_token", TOKEN],
            "'x' is not a valid repository name: expected NAMESPACE/NAME",
        ),
        (
            ["--push_to_hub", "--hub_model_id", "ben/x", "--hub_token", TOKEN],
            "cannot publish ben/x: it can write only in ann",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(parse_recipe("xnli", RECIPES, [*FLAGS, *flags, "--output_dir", str(tmp_path / "run")]))
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
