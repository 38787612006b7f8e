"""What the Trainer publishes while it trains and at its end, by the real client against a Hub on this machine."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TOKEN

from hf_langimb import LangImbTrainer, LangImbTrainingArguments, load_run
from hf_langimb.hub.prepare import logits_of


def trainer_of(tiny_bert, tokenizer, rows, folder, **settings):
    arguments = LangImbTrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True, report_to="none",
        disable_tqdm=True, class_weighting="per_language", push_to_hub=True, hub_model_id="ann/trained",
        hub_token=TOKEN, **settings,
    )  # fmt: skip
    return LangImbTrainer(tiny_bert(), arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


def test_the_trainer_pushes_each_checkpoint_with_its_card(server, tiny_bert, bert_tokenizer, tiny_dataset, tmp_path):
    rows = tiny_dataset(bert_tokenizer)
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "hub_always_push": True}
    trainer = trainer_of(tiny_bert, bert_tokenizer, rows, tmp_path / "out", hub_strategy="every_save", **settings)
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
    assert torch.equal(logits_of(load_run("ann/trained").model), logits_of(trainer.model))


def test_no_checkpoint_without_the_card(server, tiny_bert, bert_tokenizer, tiny_dataset, tmp_path, caplog):
    settings = {"save_strategy": "epoch", "hub_strategy": "checkpoint", "hub_always_push": True}
    trainer = trainer_of(tiny_bert, bert_tokenizer, tiny_dataset(bert_tokenizer), tmp_path / "out", **settings)
    server.fail("commit", status=403)
    trainer.train()
    for commit in server.repos["ann/trained"].commits()[:-1]:
        assert {"README.md", "langimb.json"} <= set(commit.files), commit.title
    assert "1 of the pushes during training failed" in caplog.text


@pytest.mark.parametrize("kind", ["busy", "cut", "lost"])
def test_the_trainer_asks_a_busy_hub_again(server, tiny_bert, bert_tokenizer, tiny_dataset, tmp_path, caplog, kind):
    settings = {"save_strategy": "epoch", "hub_strategy": "checkpoint", "hub_always_push": True}
    trainer = trainer_of(tiny_bert, bert_tokenizer, tiny_dataset(bert_tokenizer), tmp_path / "out", **settings)
    go_wrong = {"busy": server.fail, "cut": server.cut, "lost": partial(server.cut, done=True)}[kind]
    fault = go_wrong("commit", skip=2)  # of the last checkpoint
    trainer.train()
    repo = server.repos["ann/trained"]
    assert fault.hits == 1 and "pushes during training failed" not in caplog.text
    assert {"README.md", "model.safetensors", "last-checkpoint/model.safetensors"} <= set(repo.files())
    assert torch.equal(logits_of(load_run("ann/trained").model), logits_of(trainer.model))
    fault = go_wrong("commit")
    Path(trainer.args.output_dir, "notes.json").write_text("{}")
    trainer.push_to_hub()
    assert fault.hits == 1 and "notes.json" in repo.files()


def test_failed_pushes_are_told_at_the_end(server, tiny_bert, bert_tokenizer, tiny_dataset, tmp_path, caplog):
    settings = {"save_strategy": "epoch", "hub_strategy": "every_save", "hub_always_push": True}
    trainer = trainer_of(tiny_bert, bert_tokenizer, tiny_dataset(bert_tokenizer), tmp_path / "out", **settings)
    server.fail("commit", status=403, times=None)
    trainer.train()
    (told,) = [record.getMessage() for record in caplog.records if "pushes during training failed" in record.message]
    assert told.startswith("2 of the pushes during training failed: This token may not do that with ann/trained (403)")
    assert TOKEN not in caplog.text


def test_refusals_while_training_are_said_in_words(server, tiny_bert, bert_tokenizer, tiny_dataset, tmp_path):
    rows = tiny_dataset(bert_tokenizer)
    server.add_repo("ann/trained")
    server.write("ann/trained", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
    with pytest.raises(ValueError, match=r"holds adapters \(adapter_config.json\), and this .* a whole model beside"):
        trainer_of(tiny_bert, bert_tokenizer, rows, tmp_path / "out")
    server.write("ann/trained", {"adapter_config.json": None, "config.json": b"{}"})
    with pytest.raises(ValueError, match=r"holds a whole model \(config.json\), and this .* adapters beside"):
        trainer_of(tiny_bert, bert_tokenizer, rows, tmp_path / "out", lora_rank=2)
    trainer = trainer_of(tiny_bert, bert_tokenizer, rows, tmp_path / "out")
    trainer.train()
    server.fail("commit", status=403, times=None)
    with pytest.raises(ValueError, match=r"This token may not do that with ann/trained \(403\)"):
        trainer.push_to_hub()
    del server.users[TOKEN]
    with pytest.raises(ValueError, match=r"The Hub does not accept this token \(401\)"):
        trainer_of(tiny_bert, bert_tokenizer, rows, tmp_path / "out")
