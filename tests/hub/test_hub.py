"""Publishing and loading back, by the real clients against a Hub on this machine: whole pushes, and every fault."""

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import LIVE_TOKEN, TOKEN, unknown_keys
from datasets import Dataset
from hub_run import SETUPS, refused, stamps, whole
from huggingface_hub import HfApi, ModelCard, close_session, constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_langimb import AttributionStore, load_run, push_run
from hf_langimb.cli import main
from hf_langimb.data import mini_xnli
from hf_langimb.hub.prepare import Repository, logits_of
from hf_langimb.hub.pull import pull
from hf_langimb.hub.push import publish, publish_evaluation, require_login
from hf_langimb.models.loading import load_model
from hf_langimb.results.schema import Results
from hf_langimb.runs import evaluate
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "xnli"
SIZES = {"train_size": 60, "validation_size": 24, "test_size": 60, "probe_rows": 20, "pretraining_steps": 2}
FLAGS = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
FLAGS += ["--explain_rows", "6", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "true"]
FLAGS += ["--setups", "weighted_lora"]


# Push, and load back.


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


def test_offline_a_download_is_found(server, finished, monkeypatch):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    online = logits_of(load_run("ann/one").model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits_of(load_run("ann/one").model), online)
    (blob,) = {path.resolve() for path in Path(constants.HF_HUB_CACHE).rglob("model.safetensors")}
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    refused("ann/one", "model.safetensors of ann/one is damaged in the cache: download it again")


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


def test_the_commands(server, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(finished), "ann/xnli"]) == 1
    assert "several setups: choose one with --setup (balanced, imbalanced," in capsys.readouterr().err
    assert main(["push", str(finished), "ann/xnli", "--setup", "balanced"]) == 0
    assert f"{server.url}/ann/xnli\n" in capsys.readouterr().out
    assert main(["pull", "ann/xnli"]) == 0
    shown = capsys.readouterr().out
    assert "Labels entailment, neutral, contradiction; languages en, fr; class weights none" in shown
    assert {"model.safetensors", "README.md", "report.html", "results.json"} <= {p.name for p in Path("xnli").iterdir()}
    assert torch.equal(logits_of(load_run("xnli").model), logits_of(load_model(finished / "balanced" / "seed-0")))
    assert main(["pull", "ann/xnli"]) == 1
    assert "xnli is not an empty folder" in capsys.readouterr().err


def test_a_published_run_is_compared_and_shown(server, finished, tmp_path, capsys, monkeypatch):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "ann/one"]) == 0
    assert "imbalanced - balanced: change of the sums" in capsys.readouterr().out
    assert main(["report", "ann/one"]) == 0
    assert (tmp_path / "one.html").read_text().startswith("<!doctype html>")
    assert main(["compare", "runs/nothing"]) == 1
    assert "runs/nothing" in capsys.readouterr().err


def test_a_run_folder_is_loaded_too(finished):
    assert load_run(finished, setup="weighted", seed=0).weights.max() > 1.5
    for wanted, message in (
        ({}, "several setups: choose setup= among balanced, imbalanced"),
        ({"setup": "best"}, "no setup 'best': choose one of balanced"),
        ({"setup": "weighted", "seed": 3}, "Setup weighted has no seed 3: choose one of 0"),
    ):
        with pytest.raises(ValueError, match=message):
            load_run(finished, **wanted)


# Faults that pass.


ENDPOINTS = [
    "create", "info", "tree", "refs", "branch", "validate-yaml", "preupload", "lfs-batch", "lfs-put", "lfs-verify",
    "commit", "head", "resolve", "collections", "collection-items",
]  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_busy_hub_is_asked_again(server, finished, endpoint):
    fault = server.fail(endpoint, status=503, times=2)
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN, revision="v1", collection="All")
    assert fault.hits == 2, "the fault was met"
    assert len(server.repos["ann/one"].commits("v1")) == 2
    (collection,) = server.collections.values()
    assert len(collection["items"]) == 2
    whole(server)


def test_a_hub_that_stays_busy_is_left_in_time(server, monkeypatch):
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 0)
    fault = server.fail("whoami", status=503, times=None)
    with pytest.raises(ValueError, match="The Hub answers 503 for ann/one: run the command again later"):
        require_login("ann/one", TOKEN)
    assert fault.hits == 1
    server.faults.clear()
    server.fail("whoami", status=503, times=4)
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 60)
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    require_login("ann/one", TOKEN)
    assert all(2**i / 4 <= wait <= 2**i / 2 for i, wait in enumerate(waits)) and len(waits) == 4


def test_a_hub_that_does_not_answer(server, finished, monkeypatch):
    monkeypatch.setattr("hf_langimb.hub.errors.WAIT", 0.3)
    close_session()  # else its client waits as long as before
    hung = server.hang("info")
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert hung.hits == 1
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 0)
    server.hang("info", times=None)
    with pytest.raises(ValueError, match=r"The Hub cannot be reached \(ReadTimeout\): check the connection"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    close_session()


@pytest.mark.parametrize("endpoint", ["create", "info"])
def test_what_answers_is_not_the_hub(server, finished, endpoint):
    server.fail(endpoint, status=200, times=None)
    with pytest.raises(
        ValueError, match=r"The server at http://127.0.0.1:\d+ is not the Hub .*: log in to the network"
    ):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)


@pytest.mark.parametrize("endpoint", ["lfs-put", "commit", "resolve"])
@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
def test_a_connection_that_breaks_is_made_again(server, finished, endpoint, done):
    fault = server.cut(endpoint, done=done)
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert fault.hits == 1
    assert len(server.repos["ann/one"].commits()) == 2, "a commit whose answer was lost is not made twice"
    whole(server)


def test_somebody_else_commits_in_between(server, finished):
    def interfere(repo):
        server.before_commit = None
        server.write(repo.key, {"notes.md": b"Mine."})

    server.before_commit = interfere
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    files = server.repos["ann/one"].files()
    assert files["notes.md"] == b"Mine." and "README.md" in files
    assert len(server.repos["ann/one"].commits()) == 3
    asked = [one for one in server.requests if one.endpoint == "commit" and "models/ann/one/" in one.path]
    assert len(asked) == 2, "the first was made for the old head, and refused"


def test_eight_committers_at_once(server):
    HfApi(token=TOKEN).create_repo("ann/shared")
    start, failed = threading.Barrier(8), []

    def commit(i):
        start.wait()
        try:
            api = HfApi(token=TOKEN)
            one = Repository("ann/shared", "model", {f"notes-{i}.md": b"x" * i}, lambda old, there: old or "Card.")
            publish(api, one, private=False, revision=None)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=commit, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {f"notes-{i}.md" for i in range(8)} <= set(server.repos["ann/shared"].files())
    assert len(server.repos["ann/shared"].commits()) == 9


def test_a_push_that_was_interrupted_goes_on(server, finished):
    server.fail("commit", status=403, path="datasets")
    with pytest.raises(ValueError, match="may not"):
        push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert server.repos["ann/one"].files().keys() >= {"README.md", "model.safetensors"}
    whole(server)
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 2
    assert "README.md" in server.repos["datasets/ann/one-attributions"].files()


# Faults that do not pass: one sentence, and nothing half there.


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("ann/one", None, "needs a token|does not accept|log in"),
        ("ann/one", "hf_unknown", r"does not accept this token \(401\): log in"),
        ("ann/one", "hf_ThisIsTheSecret\n", r"does not accept this token \(401\): log in"),
        ("ann/one", "hf_\u00e9toile", r"does not accept this token \(401\): log in"),
        ("rob/one", "hf_reader", r"may not do that with rob/one \(403\): it needs the permission to write in rob"),
        ("ben/one", TOKEN, r"may not do that with ben/one \(403\)"),
        ("ann/../one", TOKEN, "is not a valid repository name"),
        ("one", TOKEN, "'one' is not a valid repository name: expected NAMESPACE/NAME"),
        ("../one", TOKEN, "is not a valid repository name"),
    ],
)
def test_pushes_that_are_refused(server, finished, repo_id, token, message, caplog, capsys):
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=message) as caught:
        push_run(finished, repo_id, setups=["balanced"], token=token)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is None
    said = "".join([str(caught.value), caplog.text, *capsys.readouterr()])
    assert not token or token not in said
    assert not [request for request in server.requests if request.endpoint in ("lfs-put", "commit")]
    whole(server)


def test_nothing_of_a_damaged_run_is_published(server, finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    weights = copy / "weighted" / "seed-0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged .*: remove .*seed-0 and run the recipe again"):
        push_run(copy, "ann/xnli", token=TOKEN)
    assert not server.requests
    weights.unlink()
    with pytest.raises(ValueError, match=r"has no \.safetensors weights to publish"):
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
    with pytest.raises(ValueError, match="Expected attributions in"):
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
    with pytest.raises(ValueError, match=r"The base of the adapters in .* is the folder .*, which others cannot load"):
        push_run(copy, "ann/one", setups=["weighted_lora"], token=TOKEN)
    with pytest.raises(ValueError, match="is not a valid repository name"):
        push_run(finished, f"ann/{'x' * 91}", setups=["balanced", "weighted"], token=TOKEN)
    with pytest.raises(ValueError, match=r"Expected a list of one setup or more, got 'weighted'"):
        push_run(finished, "ann/one", setups="weighted", token=TOKEN)
    assert not server.requests


def test_the_seed_that_was_asked_for_and_a_page_of_now(server, finished, tmp_path):
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


def test_a_model_that_changed_on_its_way_is_told(server, finished, monkeypatch):
    monkeypatch.setattr("hf_langimb.hub.push.logits_of", lambda model: logits_of(model) + 1e-3)
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


def test_what_may_not_be_read(server, finished):
    push_run(finished, "ann/hidden", setups=["balanced"], private=True, token=TOKEN)
    load_run("ann/hidden", token=TOKEN)  # from now on it is in the cache
    refused("ann/hidden", r"ann/hidden does not exist, or is private and this token may not read it \(401\)")
    refused("ann/hidden", r"may not read it \(404\)|may not", token="hf_reader")
    refused("ann/hidden", r"does not accept this token \(401\)", token="hf_unknown")
    refused("ann/hidden", "ann/hidden has no such revision", revision="v9", token=TOKEN)
    refused("ann/nothing", "ann/nothing does not exist")
    refused("../etc", "is not a valid repository name")
    server.add_repo("ann/gated", gated=True)
    server.write("ann/gated", {"model.safetensors": b"x"})
    refused("ann/gated", "ann/gated is gated: ask for access on its page", token="hf_reader")


def test_pickles_are_refused(server, finished, tmp_path, capsys):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    server.add_repo("eve/model")
    server.write("eve/model", {"pytorch_model.bin": pickle.dumps(Bomb()), "config.json": b"{}", "langimb.json": b"{}"})
    refused("eve/model", r"only pickled weights \(pytorch_model.bin\), which can run code when they are loaded")
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    server.write("ann/one", {"pytorch_model.bin": pickle.dumps(Bomb()), "training_args.bin": pickle.dumps(Bomb())})
    folder = pull("ann/one", tmp_path / "pulled")
    assert not list(folder.rglob("*.bin")) and (folder / "model.safetensors").is_file()
    load_run("ann/one")
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "rows.csv").write_text("text,language\na,en\nb,fr\n")
    capsys.readouterr()
    assert main(["probe", "eve/model", str(tmp_path / "rows.csv")]) == 1
    assert capsys.readouterr().err.startswith("langimb: Expected a model with its tokenizer at 'eve/model'")
    server.add_repo("eve/empty")
    refused("eve/empty", "eve/empty contains no weights: expected .safetensors files")


def test_the_base_of_adapters_is_held_to_the_same_rules(server, finished):
    push_run(finished, "ann/lora", setups=["weighted_lora"], token=TOKEN)
    base = server.repos["ann/lora-base"].files()["model.safetensors"]
    server.write("ann/lora-base", {"model.safetensors": None, "pytorch_model.bin": base})
    config = json.loads(server.repos["ann/lora"].files()["adapter_config.json"]) | {"revision": None}
    server.write("ann/lora", {"adapter_config.json": json.dumps(config).encode()})
    refused("ann/lora", r"ann/lora-base contains only pickled weights \(pytorch_model.bin\)")
    server.write(
        "ann/lora", {"adapter_config.json": json.dumps(config | {"base_model_name_or_path": "ann/lora"}).encode()}
    )
    refused("ann/lora", "ann/lora is named as the base of adapters, and contains adapters itself")
    server.write("ann/lora-base", {"model.safetensors": base, "pytorch_model.bin": None})
    server.write("ann/lora", {"adapter_config.json": json.dumps(config).encode(), "config.json": b"{}"})
    refused("ann/lora", "ann/lora contains adapters and a full model: remove adapter_config.json or config.json")
    server.write("ann/lora", {"config.json": None})
    changed = json.dumps(config | {"base_model_name_or_path": "/home/ann/start"}).encode()
    server.write("ann/lora", {"adapter_config.json": changed})
    refused("ann/lora", r"ann/lora contains adapters whose base '/home/ann/start' is not on the Hub")


NOT_A_MODEL = "Expected a model with its tokenizer at 'ann/one'"


def axes_with(**changes):
    axes = {"languages": ["en"], "labels": ["a", "b"], "label_names": ["a", "b"], "class_weighting": "none"}
    return json.dumps(axes | {"counts": [[1, 1]], "weights": [[1, 1]]} | changes).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("langimb.json", b"{}", "must contain languages, labels, counts and weights"),
        ("langimb.json", b"[]", "must contain languages, labels, counts and weights"),
        ("langimb.json", b'{"languages": ["en"', "must contain languages, labels, counts and weights"),
        ("langimb.json", axes_with(languages="en"), "must contain languages, labels, .* must be lists"),
        ("langimb.json", axes_with(label_names=["a", 1]), "must contain languages, labels, .*a name is not a string"),
        ("langimb.json", axes_with(counts=[[1, -1]]), "must contain languages, labels, counts and weights"),
        ("langimb.json", axes_with(weights=[1, 1]), "the weights are not languages x labels"),
        ("tokenizer.json", b"{}", NOT_A_MODEL),
        (
            "config.json",
            b'{"model_type": "bert", "hidden_size": 1e99, "num_attention_heads": 1}',
            "Expected a model with its tokenizer at 'ann/one'",
        ),
        ("config.json", b"[" * 5000, NOT_A_MODEL),
        (
            "config.json",
            b'{"model_type": "nope", "auto_map": {"AutoConfig": "eve/code--c.C"}}',
            "Expected a model with its tokenizer at 'ann/one'",
        ),
        ("model.safetensors", b"\xff" * 64, NOT_A_MODEL),
    ],
)
def test_repositories_of_wrong_content(server, finished, name, content, message):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    server.write("ann/one", {name: content})
    refused("ann/one", message)


def test_files_outside_of_their_folder_are_refused(server, tmp_path):
    server.add_repo("eve/model")
    server.write("eve/model", {"model.safetensors": b"x", "../../outside.json": b"{}"})
    refused("eve/model", r"Invalid filename '../../outside.json': cannot contain a '..' path segment")
    assert not (Path(constants.HF_HUB_CACHE).parent / "outside.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "langimb.json"])
def test_damaged_downloads(server, finished, name):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    fault = server.corrupt(name, times=1)
    assert load_run("ann/one").languages == ["en", "fr"]
    assert fault.hits == 1, "fetched again"
    shutil.rmtree(constants.HF_HUB_CACHE)
    server.corrupt(name)
    refused("ann/one", f"{name} of ann/one arrived damaged twice .*: it was removed; try again")
    server.faults.clear()
    assert load_run("ann/one").languages == ["en", "fr"]


def test_a_full_disk_while_pulling(server, finished, tmp_path, monkeypatch):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    def closed(*arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy", full)
        with pytest.raises(OSError, match=r"could not be written to .* \(No space left on device\): nothing is left"):
            pull("ann/one", tmp_path / "pulled")
    assert not list(tmp_path.iterdir())
    shutil.rmtree(constants.HF_HUB_CACHE)
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.file_download.http_get", full)
        refused("ann/one", r"ann/one could not be downloaded \(No space left on device\)")
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.file_download.http_get", closed)
        refused("ann/one", r"could not be downloaded \(Permission denied\): set HF_HOME to a folder that you may write")
    assert pull("ann/one", tmp_path / "pulled").is_dir()


def test_where_a_pull_goes(server, finished, tmp_path, monkeypatch, capsys):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pull("ann/one", ".")
    assert (Path.cwd() / "README.md").is_file() and Path.cwd() == tmp_path / "here"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    pull("ann/one", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "model.safetensors").is_file()
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "sub", tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises((OSError, ValueError), match=r"choose another --output-dir|could not be written"):
            pull("ann/one", target)
    with pytest.raises(ValueError, match="is not a valid repository name"):
        pull("ann/..")
    server.write("ann/one", {"results.json": b"[]"})
    assert main(["pull", "ann/one", "--output-dir", str(tmp_path / "damaged")]) == 0
    assert "Its results.json cannot be read" in capsys.readouterr().out


def test_a_stranger_s_model(server, tiny_bert, bert_tokenizer, tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    api = HfApi(token=TOKEN)
    api.create_repo("ann/plain")
    api.upload_folder(repo_id="ann/plain", folder_path=tmp_path)
    refused("ann/plain", "ann/plain has no langimb.json: it was not trained with hf_langimb")


# Recipes.


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


def check(monkeypatch, *argv):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    evaluate.main([*map(str, argv), "--explain-rows", "6", "--batch-size", "16"])


def check_refused(monkeypatch, capsys, message, *argv):
    with pytest.raises(SystemExit) as stopped:
        check(monkeypatch, *argv)
    assert stopped.value.code == 1 and re.search(message, capsys.readouterr().err)


def test_any_checkpoint_is_measured_and_its_card_refreshed(server, finished, texts, tmp_path, monkeypatch, capsys):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = server.repos["ann/one"].files()["README.md"].decode()
    check(monkeypatch, "ann/one", texts, "--output-dir", tmp_path / "out", "--push_to_hub")
    shown = capsys.readouterr().out
    assert f"Published: {server.url}/ann/one" in shown and "Language probe" in shown
    assert len(server.repos["ann/one"].commits()) == 3, "one commit"
    files = server.repos["ann/one"].files()
    measured = json.loads(files["evaluation/texts.parquet/results.json"])
    assert not list(unknown_keys(measured, Results))
    assert measured["setups"]["model"]["seeds"]["0"]["test"]["rows"] == 120
    assert measured["setups"]["model"]["seeds"]["0"]["test"]["reliance"] is not None
    assert measured["explained"]["examples"] == 6
    card = files["README.md"].decode()
    assert card.count("## Evaluation by language") == 1
    body = before.partition("\n---\n")[2]
    assert body.strip() in card, "what the card said stays"
    data = ModelCard(card).data
    assert {result.dataset_type for result in data.eval_results} == {"mini_xnli", "texts_parquet"}
    check(monkeypatch, "ann/one", texts, "--output-dir", tmp_path / "out", "--push_to_hub")
    assert len(server.repos["ann/one"].commits()) == 3, "the same again changes nothing"
    assert load_run("ann/one").results["recipe"] == "xnli"
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 3, "the same weights keep what was measured of them"
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    files = server.repos["ann/one"].files()
    assert "## Evaluation by language" not in files["README.md"].decode()
    assert not [name for name in files if name.startswith("evaluation/")], "they were of other weights"
    check_refused(
        monkeypatch,
        capsys,
        r"contains a run with another configuration \(files was {",
        "ann/one",
        texts,
        "--output-dir",
        tmp_path / "out",
        "--push_to_hub",
    )


def test_a_card_is_not_lost_while_the_hub_is_busy(server, finished, texts, tmp_path, monkeypatch):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check(monkeypatch, "ann/one", texts, "--output-dir", tmp_path / "out")
    for endpoint in ("head", "resolve"):
        server.fail(endpoint, 503, times=None, path="README.md")
    with pytest.raises(ValueError, match=r"The Hub answers 503|cannot be reached"):
        publish_evaluation(tmp_path / "out", "ann/one", token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 2
    assert b"## Results" in server.repos["ann/one"].files()["README.md"]


def test_a_stranger_s_checkpoint_by_pull_request(server, finished, texts, tmp_path, monkeypatch, capsys):
    from transformers import AutoTokenizer

    server.add_user("ben", "hf_ben")
    model, tokenizer = load_model(finished / "balanced" / "seed-0"), AutoTokenizer.from_pretrained(finished / "start")
    del model.config.langimb
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    api = HfApi(token="hf_ben")
    api.create_repo("ben/plain")
    api.upload_folder(repo_id="ben/plain", folder_path=tmp_path / "model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check(monkeypatch, "ben/plain", texts, "--output-dir", tmp_path / "out", "--push_to_hub")
    assert "/ben/plain/discussions/1" in capsys.readouterr().out
    repo = server.repos["ben/plain"]
    assert "README.md" not in repo.files()
    proposed = repo.files("refs/pr/1")
    place = "evaluation/texts.parquet"
    assert {"README.md", f"{place}/results.json", f"{place}/report.html"} <= set(proposed)
    found = json.loads(proposed[f"{place}/results.json"])["setups"]["model"]["seeds"]["0"]["test"]
    assert found["reliance"] is None and found["accuracy"] > 0
    assert publish_evaluation(tmp_path / "out", "ben/plain", token=TOKEN) == f"{server.url}/ben/plain/discussions/1"
    assert len(repo.commits("refs/pr/1")) == 3, "the same again changes nothing"
    server.fail("discussions", 503, times=2)
    (tmp_path / "out" / "report.html").write_text("another page")
    publish_evaluation(tmp_path / "out", "ben/plain", token=TOKEN)
    assert repo.files("refs/pr/1")[f"{place}/report.html"] == b"another page"
    shutil.copy(texts, tmp_path / "others.parquet")
    check(monkeypatch, "ben/plain", tmp_path / "others.parquet", "--output-dir", tmp_path / "other", "--push_to_hub")
    assert [ref for ref in repo.refs if ref.startswith("refs/pr/")] == ["refs/pr/1", "refs/pr/2"], "one for each data"
    server.add_user("cal", "hf_cal")
    (tmp_path / "out" / "report.html").write_text("of cal")
    assert publish_evaluation(tmp_path / "out", "ben/plain", token="hf_cal").endswith("/discussions/3"), "not ann's"
    publish_evaluation(tmp_path / "out", "ben/plain", token="hf_ben")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    server.add_user("dan", "hf_dan")
    assert publish_evaluation(tmp_path / "out", "ben/plain", token="hf_dan") == f"{server.url}/ben/plain", (
        "all is there"
    )
    del results["setups"]["model"]["seeds"]["0"]["test"]["dependence_bits"]
    shutil.copytree(tmp_path / "out", tmp_path / "damaged")
    (tmp_path / "damaged" / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"results.json"):
        publish_evaluation(tmp_path / "damaged", "ben/plain", token="hf_ben")
    server.write("ben/plain", {"model.safetensors": b"other"})
    with pytest.raises(ValueError, match="ben/plain has other weights than those that were measured"):
        publish_evaluation(tmp_path / "out", "ben/plain", token="hf_ben")


def test_two_evaluations_at_once_are_both_there(server, finished, texts, tmp_path, monkeypatch):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    check(monkeypatch, "ann/one", texts, "--output-dir", tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "out", other)
    results = json.loads((other / "results.json").read_text())
    results["config"]["dataset"] = "others.parquet"
    (other / "results.json").write_text(json.dumps(results))
    start, done = threading.Barrier(2), []

    def publish_it(folder):
        start.wait()
        done.append(publish_evaluation(folder, "ann/one", token=TOKEN))

    threads = [threading.Thread(target=publish_it, args=(folder,)) for folder in (tmp_path / "out", other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    files = server.repos["ann/one"].files()
    assert {f"evaluation/{name}.parquet/results.json" for name in ("texts", "others")} <= files.keys()
    card = files["README.md"].decode()
    assert card.count("## Evaluation by language") == 2
    assert {"texts_parquet", "others_parquet"} < {entry.dataset_type for entry in ModelCard(card).data.eval_results}


def test_labels_by_other_names(finished, texts, tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    shutil.copytree(finished / "balanced" / "seed-0", model)
    config = json.loads((model / "config.json").read_text())
    del config["langimb"]
    numbered = {"id2label": {i: f"LABEL_{i}" for i in range(3)}, "label2id": {f"LABEL_{i}": i for i in range(3)}}
    (model / "langimb.json").unlink()
    (model / "config.json").write_text(json.dumps(config | numbered))
    out = tmp_path / "out"
    check_refused(
        monkeypatch,
        capsys,
        r"or say what the model's classes are .*--labels of evaluate.py",
        model,
        texts,
        "--output-dir",
        out,
    )
    shutil.rmtree(out)
    check_refused(
        monkeypatch,
        capsys,
        "--labels needs a different name for each class of the model, got 2 for 3 classes",
        model,
        texts,
        "--output-dir",
        out,
        "--labels",
        "a",
        "b",
    )
    shutil.rmtree(out)
    shouted = ["Entailment", "NEUTRAL", "contradiction"]
    check(monkeypatch, model, texts, "--output-dir", out, "--labels", *shouted)
    results = json.loads((out / "results.json").read_text())
    assert results["labels"] == shouted == [entry["label"] for entry in results["explained"]["tokens"][:3]]
    plain = tmp_path / "plain"
    check(monkeypatch, finished / "balanced" / "seed-0", texts, "--output-dir", plain)
    assert results["setups"]["model"]["summary"] != {}
    first, second = (
        json.loads((folder / "results.json").read_text())["setups"]["model"]["seeds"]["0"]["test"]["predicted"]
        for folder in (out, plain)
    )
    assert first == second


def test_a_decoder_is_probed_at_its_last_token(decoder_tokenizer, tmp_path, monkeypatch):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "llama", **size, num_key_value_heads=1, pad_token_id=decoder_tokenizer.pad_token_id, num_labels=2,
        vocab_size=len(decoder_tokenizer),
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    decoder_tokenizer.save_pretrained(tmp_path / "model")
    last = {"en": "w2", "fr": "w9"}  # the first token is the same
    rows = [{"text": f"w1 w{i % 20} {last[x]}", "language": x, "label": i % 2} for x in last for i in range(40)]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    check(monkeypatch, tmp_path / "model", tmp_path / "rows.parquet", "--output-dir", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())["setups"]["model"]["seeds"]["0"]["probe"][
        "test"
    ]
    assert found["pooling"] == "last" and found["accuracy"] > 0.9


def test_checkups_that_cannot_be(server, finished, texts, tmp_path, monkeypatch, capsys):
    unlabelled = tmp_path / "unlabelled.parquet"
    Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "language": ["en"]}).to_parquet(unlabelled)
    model = finished / "balanced" / "seed-0"
    (tmp_path / "taken").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_text("x")
    for name, content in (("list", "[]"), ("names", '{"model_type": "bert", "id2label": "x"}')):
        shutil.copytree(model, tmp_path / name)
        (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "taken" / "mine.txt").write_text("x")
    for argv, message in (
        (["ann/nothing", texts], "ann/nothing does not exist, or is private"),
        ([model, unlabelled], "Expected a label column 'label'"),
        ([model, texts, "--push-to-hub"], "writes to the repository of MODEL, got the folder"),
        ([model, texts, "--output-dir", tmp_path / "taken"], "contains files but no run"),
        ([model, tmp_path / "no.parquet"], "no.parquet"),
        ([tmp_path / "pickled", texts], "contains only pickled weights"),
        ([tmp_path / "list", texts], "Expected a model with its tokenizer at"),
        ([tmp_path / "names", texts], "Expected a model with its tokenizer at|Labels .* are not among those"),
    ):
        check_refused(monkeypatch, capsys, message, "--output-dir", tmp_path / "out", *argv)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    monkeypatch.setenv("HF_TOKEN", "hf_no")
    before = len(server.requests)
    check_refused(
        monkeypatch,
        capsys,
        "does not accept this token",
        "ann/nothing",
        texts,
        "--push-to-hub",
        "--output-dir",
        tmp_path / "out",
    )
    assert not [request for request in server.requests[before:] if request.endpoint != "whoami"], "before any work"


# The live Hub, for those who name an account of theirs in LANGIMB_LIVE_HUB.


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
