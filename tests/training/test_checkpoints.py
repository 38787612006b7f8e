"""Saved, loaded, resumed."""

import functools
import json

import pytest
import torch
from by_hand import WEIGHTS, assert_same_weights
from conftest import SKEWED
from datasets import ClassLabel
from transformers import AutoModelForSequenceClassification

from hf_langimb import LangImbTrainer


def test_the_axes_are_saved_beside_the_weights(build, rows, tmp_path):
    trainer = build(weighting="per_language", entropy=1.0)
    trainer.train()
    trainer.save_model(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    axes = json.loads((tmp_path / "langimb.json").read_text(encoding="utf-8"))
    assert axes == model.config.langimb
    assert axes["languages"] == ["en", "fr", "ja"]
    assert axes["labels"] == [0, 1, 2]
    assert axes["counts"] == [list(row) for row in SKEWED.values()]
    assert axes["class_weighting"] == "per_language"
    assert axes["weights"] == [pytest.approx(row) for row in WEIGHTS.values()]
    assert trainer.weights.dtype == torch.float32
    assert trainer.weights.tolist() == [pytest.approx(row) for row in WEIGHTS.values()]
    for name, parameter in trainer.model.state_dict().items():
        assert parameter.equal(model.state_dict()[name])


def test_without_training_data_the_axes_come_from_the_checkpoint(build, rows, tmp_path):
    trainer = build(eval_dataset=rows, weighting="per_language")
    expected = trainer.evaluate()
    trainer.save_model(tmp_path / "first")
    axes = json.loads((tmp_path / "first" / "langimb.json").read_text(encoding="utf-8"))
    english = rows.filter(lambda row: row["language"] == "fr")  # alone it would count languages otherwise
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "first")
    again = build(model, None, english, weighting="per_language")
    assert again.distribution == trainer.distribution
    assert again.evaluate(rows)["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
    assert build(model, None).distribution == trainer.distribution
    # to evaluate a checkpoint otherwise does not change what it was trained on
    build(model, None).save_model(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "langimb.json").read_text(encoding="utf-8")) == axes


def test_without_training_data_or_axes_those_of_the_evaluation_set_serve(build, rows, tmp_path):
    part = rows.filter(lambda row: row["label"] < 2)  # not every class need have rows
    trainer = build(data=None, eval_dataset={"part": part, "all": rows}, weighting="none")
    assert trainer.distribution.languages == ("en", "fr", "ja")
    assert trainer.evaluate()["eval_part_loss"] > 0
    trainer.save_model(tmp_path)
    assert not (tmp_path / "langimb.json").exists(), "these counts are not those of any training data"


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
@pytest.mark.parametrize("rank", [0, 4])
def test_resuming_continues_where_training_stopped(build, tiny_bert, rows, tmp_path, rank, sampling):
    settings = {"weighting": "per_language", "entropy": 1.0, "mask_length": None, "lora_rank": rank, "log_every": 1}
    settings |= {"max_steps": 6, "batch": 4, "accumulation": 2, "train_sampling_strategy": sampling}
    settings |= {"save_strategy": "steps", "save_steps": 2}
    whole = build(tiny_bert(hidden_dropout_prob=0.1), **settings)
    whole.train()
    resumed = build(tiny_bert(hidden_dropout_prob=0.1), **settings)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    assert_same_weights(resumed.model, dict(whole.model.named_parameters()), 1e-7)
    logged = [[entry for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)]
    assert [entry["step"] for entry in logged[1]] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(*logged, strict=True):
        for name in ("loss", "loss_classification", "loss_masked_entropy"):
            assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_the_best_checkpoint_is_that_of_the_own_loss(build, rows):
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 4}
    steps |= {"learning_rate": 0.3, "load_best_model_at_end": True}  # too large, so that the last step is not the best
    trainer = build(eval_dataset=rows, weighting="per_language", **steps)
    trainer.train()
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    assert trainer.state.best_metric == pytest.approx(min(losses.values()))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses.values()), rel=1e-5)


@pytest.mark.parametrize("way", ["function", "method", "for_trial", "partial", "callable"])
def test_model_init_works(tiny_bert, rows, bert_tokenizer, training_arguments, tmp_path, way):
    class Maker:
        def method(self):
            return tiny_bert()

        __call__ = method

    maker, names = Maker(), ["a", "b", "c"]
    ways = {"function": lambda: tiny_bert(), "method": maker.method, "for_trial": lambda trial: tiny_bert()}
    ways |= {"partial": functools.partial(Maker.method, maker), "callable": maker}
    trainer = LangImbTrainer(
        args=training_arguments(class_weighting="per_language", lora_rank=2, masked_entropy_weight=1.0),
        train_dataset=rows.cast_column("label", ClassLabel(names=names)),
        processing_class=bert_tokenizer,
        model_init=ways[way],
    )
    trainer.train()  # makes the model a second time
    assert trainer.model.config.langimb["languages"] == ["en", "fr", "ja"]
    assert trainer.model.config.id2label == dict(enumerate(names))
    assert any("lora" in name for name, _ in trainer.model.named_parameters())
    trainer.save_model(tmp_path)
    assert (tmp_path / "langimb.json").exists()
