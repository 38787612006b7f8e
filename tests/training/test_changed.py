"""What has changed, or is not as it seems: data in place, arguments on resuming, labels and outputs in evaluation."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel
from test_any_data import Module

from hf_langimb import DataCollatorWithLanguage, LangImbTrainer

WEIGHTED = {"weighting": "per_language", "missing_cell_policy": "ignore"}
TURNED = {0: 2, 1: 1, 2: 0}


class Held(torch.utils.data.Dataset):
    """Rows that can be exchanged."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize("kind", ["list", "torch", "transform"])
def test_rows_that_change_in_place_are_counted_again(build, rows, kind):
    plain, turned = list(rows), [{**row, "label": TURNED[row["label"]]} for row in rows]
    state = {"turned": False}

    def transform(batch):
        return batch | {"label": [TURNED[label] if state["turned"] else label for label in batch["label"]]}

    data = {"list": plain, "torch": Held(plain), "transform": rows.with_transform(transform)}[kind]
    trainer = build(data=data, remove_unused_columns=False, **WEIGHTED)
    trainer.train()
    assert trainer.weights[0].tolist() == pytest.approx([7 / 12, 7 / 6, 7 / 3])
    state["turned"] = True
    if kind == "list":
        data[:] = turned
    elif kind == "torch":
        data.rows = turned
    trainer.train()
    assert trainer.weights[0].tolist() == pytest.approx([7 / 3, 7 / 6, 7 / 12])
    assert trainer.model.config.langimb["counts"][0] == [1, 2, 4]


def test_another_language_column_for_another_training(build, rows):
    data = rows.add_column("script", ["Latn" if name != "ja" else "Jpan" for name in rows["language"]])
    trainer = build(data=data, **WEIGHTED)
    trainer.train()
    trainer.args.language_column = "script"
    trainer.train()
    assert trainer.distribution.languages == ("Jpan", "Latn")


def test_settings_of_the_optimizer_follow_the_arguments(build):
    trainer = build()
    trainer.train()
    trainer.args.adam_beta1, trainer.args.adam_epsilon = 0.5, 1e-3
    trainer.train()
    assert {(group["betas"][0], group["eps"]) for group in trainer._own_optimizer.param_groups} == {(0.5, 1e-3)}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"head_learning_rate": 0.1}, {"head_learning_rate": 0.9}, "learning rates 0.01 and 0.1, got 0.01 and 0.9"),
        ({}, {"head_learning_rate": 0.1}, "learning rates 0.01, got 0.01 and 0.1"),
        (
            {"learning_rate": 0.1, "head_learning_rate": 0.01},
            {"learning_rate": 0.01, "head_learning_rate": 0.1},
            "learning rates 0.1 and 0.01, got 0.01 and 0.1",
        ),
        ({}, {"learning_rate": 0.5}, "learning rates 0.01, got 0.5: use the same"),
        ({"lora_rank": 2}, {"lora_rank": 4}, "lora_rank=2, got 4"),
        ({"lora_rank": 2}, {}, "lora_rank=2, got 0"),
        ({}, {"lora_rank": 2}, "lora_rank=0, got 2"),
    ],
)
def test_resuming_with_other_arguments_is_refused(build, tmp_path, before, after, message):
    saved = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    expected = build(**saved, **before)
    expected.train()
    again = build(**saved, **before)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for one, other in zip(again.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match=message):
        build(**saved, **after).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_integers_are_no_ids_for_a_model_that_learned_numerals(build, rows):
    stars = rows.cast_column("label", ClassLabel(names=["1", "2", "3"]))
    numbers = rows.map(lambda row: {"label": row["label"] + 1}).filter(lambda row: row["label"] < 3)
    trainer = build(data=stars, **WEIGHTED)
    trainer.train()
    assert trainer.evaluate(stars)["eval_loss"] > 0 and trainer.evaluate(rows)["eval_loss"] > 0  # 0 is no name
    loaded = LangImbTrainer(trainer.model, trainer.args, eval_dataset=stars, processing_class=trainer.processing_class)
    for one in (trainer, loaded):
        for way in (one.evaluate, one.predict):
            with pytest.raises(ValueError, match=r"classes 1, 2, 3, .* labels 1, 2 may be class names or class ids"):
                way(numbers)
    with pytest.raises(
        ValueError, match="labels 1, 2, 3 may be class names or class ids"
    ):  # before: load it with 4 labels
        build(trainer.model, data=rows.map(lambda row: {"label": row["label"] + 1}))


def test_strings_that_a_transform_makes_ids_of_are_evaluated(build, rows):
    def ids(batch):
        return batch | {"label": ["abc".index(name) for name in batch["label"]]}

    named = rows.map(lambda row: {"label": "abc"[row["label"]]}, features=None).with_transform(ids)
    trainer = build(data=named, eval_dataset=named, remove_unused_columns=False, **WEIGHTED)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate(rows)["eval_loss"], abs=1e-6)


def test_a_collator_of_another_language_column_is_refused(build, rows, bert_tokenizer):
    collator = DataCollatorWithLanguage(bert_tokenizer, languages=["en", "fr", "ja"], language_column="lang2")
    with pytest.raises(ValueError, match="reads the language from 'lang2', and language_column is 'language'"):
        build(keywords={"data_collator": collator})


@dataclass
class Output:
    logits: torch.Tensor


@pytest.mark.parametrize(
    "outputs", [Output, lambda logits: [logits], lambda logits: [logits.sum(), logits]], ids=["class", "list", "loss"]
)
def test_other_outputs_are_trained_and_evaluated(build, tiny_bert, rows, outputs):
    expected = build(**WEIGHTED)
    trainer = build(Module(tiny_bert(), outputs), **WEIGHTED)
    for one in (expected, trainer):
        one.train()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected.evaluate(rows)["eval_loss"], abs=1e-6)
    assert trainer.predict(rows).predictions == pytest.approx(expected.predict(rows).predictions, abs=1e-5)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda logits: logits, "got Tensor"),
        (lambda logits: {"scores": logits}, r"got dict with \['scores'\]"),
        (lambda logits: (logits, 2 * logits), "got tuple with 2 tensors that could be the logits"),
    ],
)
def test_outputs_without_clear_logits_are_refused(build, tiny_bert, outputs, message):
    with pytest.raises(ValueError, match=f"dictionary with 'logits' or a tuple with the logits, {message}"):
        build(Module(tiny_bert(), outputs)).train()


def test_configurations_that_are_not_of_transformers(build, tiny_bert, rows, training_arguments):
    def module(config):
        return Module(tiny_bert(), lambda logits: {"logits": logits}, config)

    data = rows.map(lambda row: {name: (row[name] + [0] * 16)[:16] for name in ("input_ids", "attention_mask")})
    trainer = LangImbTrainer(
        module(SimpleNamespace(x=1)), training_arguments(), train_dataset=data.remove_columns("token_type_ids")
    )
    assert trainer.train().training_loss > 0
    with pytest.raises(ValueError, match="Module has a SimpleNamespace as config"):
        build(module(SimpleNamespace(x=1)))
    without = module(None)
    without.config = None
    with pytest.raises(ValueError, match="Module has a NoneType as config"):
        build(without)
    with pytest.raises(ValueError, match="Module has a dictionary as config"):
        build(module({"x": 1}))
    with pytest.raises(ValueError, match="Found no linear layers to adapt in the encoder of Module"):
        build(module(None), lora_rank=2)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, ""),
        ({"padding_side": "left"}, "pads on the left, where this model counts positions"),
        ({"model_input_names": ["input_ids", "token_type_ids"]}, "makes no attention_mask: add it to"),
    ],
)
def test_padding_that_changes_outputs_is_said(build, bert_tokenizer, monkeypatch, caplog, changes, warned):
    for name, value in changes.items():
        monkeypatch.setattr(bert_tokenizer, name, value)
    build()
    assert ("Outputs depend on the padding" in caplog.text) is bool(warned) and warned in caplog.text
