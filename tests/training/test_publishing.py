"""What the Trainer publishes while it trains and at its end, by the real client against a Hub on this machine."""

import errno
import json
import re
import shutil
import threading
from concurrent.futures import wait
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import TOKEN
from transformers import TrainerCallback

from hf_langimb import load_run
from hf_langimb.hub.push import logits_of


@pytest.fixture
def build(build, server, rows):
    """Function (**changes): a trainer of two epochs that publishes each as ann/trained."""
    settings = {"max_steps": -1, "num_train_epochs": 2, "batch": 8, "weighting": "per_language"}
    settings |= {"push_to_hub": True, "hub_model_id": "ann/trained", "hub_token": TOKEN}
    settings |= {"save_strategy": "epoch", "hub_strategy": "checkpoint", "hub_always_push": True}
    return lambda **changes: build(eval_dataset=rows, mask_length=None, **settings | changes)


def test_the_trainer_pushes_each_checkpoint_with_its_card(server, build):
    trainer = build(hub_strategy="every_save", eval_strategy="epoch")
    trainer.train()
    trainer.push_to_hub()
    repo = server.repos["ann/trained"]
    for commit in repo.commits()[:-1]:
        assert {"README.md", "model.safetensors", "langimb.json"} <= set(commit.files), commit.title
    card = repo.files()["README.md"].decode()
    assert "| language |" in card and "eval_uniform_loss" in card and "recipes/evaluate.py ann/trained" in card
    assert "with `per_language` class weights" in card
    (measured, *_) = [x for x in json.loads(repo.files()["trainer_state.json"])["log_history"] if "eval_loss" in x]
    assert f"{measured['eval_uniform_loss']:.4g}" in card, "the card's numbers stand in a file beside it"
    assert not [name for name, content in repo.files().items() if TOKEN.encode() in content]
    torch.testing.assert_close(logits_of(load_run("ann/trained").model), logits_of(trainer.model))


def test_no_checkpoint_without_the_card(server, build, caplog):
    trainer = build()
    server.fail("commit", status=403)
    trainer.train()
    for commit in server.repos["ann/trained"].commits()[:-1]:
        assert {"README.md", "langimb.json"} <= set(commit.files), commit.title
    assert "1 of the pushes during training failed" in caplog.text


@pytest.mark.parametrize("kind", ["busy", "cut", "lost"])
def test_the_trainer_asks_a_busy_hub_again(server, build, caplog, kind):
    trainer = build()
    go_wrong = {"busy": server.fail, "cut": server.cut, "lost": partial(server.cut, done=True)}[kind]
    fault = go_wrong("commit", skip=2)  # of the last checkpoint
    trainer.train()
    repo = server.repos["ann/trained"]
    assert fault.hits == 1 and "pushes during training failed" not in caplog.text
    assert {"README.md", "model.safetensors", "last-checkpoint/model.safetensors"} <= set(repo.files())
    torch.testing.assert_close(logits_of(load_run("ann/trained").model), logits_of(trainer.model))
    fault = go_wrong("commit")
    Path(trainer.args.output_dir, "notes.json").write_text("{}")
    trainer.push_to_hub()
    assert fault.hits == 1 and "notes.json" in repo.files()


FORBIDDEN, REFUSED = "This token has no permission for {} (403)", "The Hub rejected the request for {} (400): Injected"
REFUSALS = [("every_save", "commit", FORBIDDEN), ("checkpoint", "lfs-put", REFUSED), ("checkpoint", "commit", REFUSED)]


@pytest.mark.parametrize(("strategy", "endpoint", "cause"), REFUSALS)
def test_refused_pushes_are_reported_at_the_end(server, build, tmp_path, caplog, strategy, endpoint, cause):
    trainer = build(hub_strategy=strategy)
    server.fail(endpoint, status=403 if cause == FORBIDDEN else 400, times=None)
    trainer.train()
    (told,) = [record.getMessage() for record in caplog.records if "pushes during training failed" in record.message]
    assert told.startswith(f"2 of the pushes during training failed: {cause.format('ann/trained')}")
    assert TOKEN not in caplog.text
    assert [path.name for path in tmp_path.glob("run/_*")] == []


def test_refusals_while_training_are_said_in_words(server, build):
    server.add_repo("ann/trained")
    server.write("ann/trained", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
    with pytest.raises(ValueError, match=r"contains adapters \(adapter_config.json\); pushing a full model next"):
        build()
    server.write("ann/trained", {"adapter_config.json": None, "config.json": b"{}"})
    with pytest.raises(ValueError, match=r"contains a full model \(config.json\); pushing adapters next to it"):
        build(lora_rank=2)
    trainer = build()
    trainer.train()
    server.fail("commit", status=403, times=None)
    with pytest.raises(ValueError, match=r"This token has no permission for ann/trained \(403\)"):
        trainer.push_to_hub()
    del server.users[TOKEN]
    with pytest.raises(ValueError, match=r"The Hub does not accept this token \(401\)"):
        build()


class Recorder(TrainerCallback):
    """Keeps {step: {name in the repository: bytes}} written at each save; releases the uploads when training ends."""

    def __init__(self, released):
        self.released, self.steps = released, {}

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        places = ("", f"{checkpoint.name}/", "last-checkpoint/")
        kept = {f"{place}{name}": content for place in places for name, content in files.items()}
        self.steps[state.global_step] = kept | {"README.md": Path(args.output_dir, "README.md").read_bytes()}

    def on_train_end(self, args, state, control, **kwargs):
        self.released.set()


@pytest.fixture
def held(server):
    """An event for which all uploads wait, after their files are measured and before their bytes are read."""
    released, record = threading.Event(), server.record

    def wait(request):
        if request.endpoint == "preupload":
            assert released.wait(60)
        return record(request)

    server.record = wait
    return released


@pytest.mark.parametrize("always", [False, True], ids=["one", "always"])
@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_a_push_has_the_files_of_one_checkpoint(server, held, build, tmp_path, caplog, strategy, always):
    """The first upload is held open while training writes two more checkpoints and removes the first."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 1, "hub_always_push": always}
    trainer = build(save_strategy="steps", save_steps=1, max_steps=3, hub_strategy=strategy, **settings)
    recorder = Recorder(held)
    trainer.add_callback(recorder)
    trainer.train()
    assert "pushes during training failed" not in caplog.text
    assert [path.name for path in tmp_path.glob("run/*") if path.is_dir()] == ["checkpoint-3"]
    weights = {content["model.safetensors"] for content in recorder.steps.values()}
    assert len(weights) == 3, "each step has its own weights"
    commits = server.repos["ann/trained"].commits()[::-1]
    assert len(commits) - 1 == (3 if always else 1) * (1 if strategy == "every_save" else 2)
    for before, commit in pairwise(commits):
        written = recorder.steps[int(re.search(r"step (\d+)", commit.title)[1])]
        names = {name for name, file in commit.files.items() if before.files.get(name) != file}
        if commit.title.endswith(", checkpoint"):
            assert any(name.endswith("/model.safetensors") for name in names)
        else:
            names |= {"model.safetensors", "README.md", "langimb.json", "trainer_state.json", "tokenizer.json"}
            names |= {"training_args.bin", "config.json"}
        for name in names:
            assert commit.files[name].data == written[name], (commit.title, name)


def test_a_push_after_training_reads_a_copy_too(server, held, build, tmp_path):
    trainer = build(max_steps=1, hub_strategy="end", save_strategy="no")
    trainer.train()
    job = trainer.push_to_hub(blocking=False)
    expected = Path(trainer.args.output_dir, "model.safetensors").read_bytes()
    with torch.no_grad():
        trainer.model.classifier.weight.mul_(2)
    trainer.save_model(_internal_call=True)
    held.set()
    job.result()
    assert server.repos["ann/trained"].files()["model.safetensors"] == expected
    assert expected != Path(trainer.args.output_dir, "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.glob("run/_*")] == []


def test_training_goes_on_where_a_copy_cannot_be_written(server, build, tmp_path, caplog, monkeypatch):
    copytree = shutil.copytree

    def full(source, target, **options):
        if "_push-" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return copytree(source, target, **options)

    monkeypatch.setattr(shutil, "copytree", full)
    trainer = build(hub_always_push=False)
    (tmp_path / "run" / "_push-killed").mkdir(parents=True)
    trainer.train()
    assert trainer.state.global_step == 6
    assert caplog.text.count("is not pushed, because its files could not be copied") == 2
    assert len(server.repos["ann/trained"].commits()) == 1
    assert [path.name for path in tmp_path.glob("run/_*")] == []


def test_a_training_that_fails_leaves_no_copy(server, held, build, tmp_path):
    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise RuntimeError("stopped")

    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    trainer = build(hub_strategy="every_save", hub_always_push=False, **settings)
    trainer.add_callback(Failing())
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train()
    assert len(list(tmp_path.glob("run/_*"))) == 1
    held.set()
    wait(trainer._pushes)
    assert [path.name for path in tmp_path.glob("run/_*")] == []
    assert "model.safetensors" in server.repos["ann/trained"].files()


def test_a_hub_that_stays_busy_gets_the_last_push_at_the_end(server, build, caplog, monkeypatch):
    monkeypatch.setattr("hf_langimb.hub.errors.PATIENCE", 0)  # one attempt each
    trainer = build()
    fault = server.fail("commit", times=2)
    trainer.train()
    assert fault.hits == 2
    assert "1 of the pushes during training failed: The Hub returned 503 for ann/trained" in caplog.text
    (model, checkpoint), state = server.repos["ann/trained"].commits()[1::-1], trainer.state
    assert (model.title, checkpoint.title) == tuple(f"Training in progress, epoch {n}" for n in ("2", "2, checkpoint"))
    assert checkpoint.files["last-checkpoint/model.safetensors"].data == model.files["model.safetensors"].data
    assert json.loads(model.files["trainer_state.json"].data)["global_step"] == state.global_step
