"""The same values on a GPU as on the CPU, and mixed precision; skipped where there is no GPU."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from conftest import assert_close
from datasets import Dataset
from faults import SMALL

import hf_langimb
from hf_langimb.measures.forward import forward_rows
from hf_langimb.results.schema import read_results
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
TRAINING = {"weighting": "per_language", "entropy": 0.5, "batch": 4, "accumulation": 2, "log_every": 1, "max_steps": 6}


def logged(trainer):
    """What is logged while a trainer trains and evaluates, without times."""
    trainer.train()
    trainer.evaluate()
    keys = ("loss", "loss_classification", "loss_masked_entropy", "grad_norm")
    entries = [{key: value for key, value in entry.items() if key in keys} for entry in trainer.state.log_history]
    losses = {key: value for key, value in trainer.state.log_history[-1].items() if key.endswith("loss")}
    return [*filter(None, entries), losses]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weighting": "joint", "entropy": 0.0},
        {"head_learning_rate": 0.05, "label_smoothing_factor": 0.1},
        {"lora_rank": 2},
        {"dataloader_num_workers": 2},
        {"auto_find_batch_size": True},
        {"gradient_checkpointing": True},
    ],
)
def test_a_training_logs_the_same_losses(build, rows, changes):
    found, expected = (logged(build(eval_dataset=rows, use_cpu=cpu, **TRAINING | changes)) for cpu in (False, True))
    assert_close(found, expected, atol=2e-3)
    assert len(found) == 7 and {"eval_loss", "eval_plain_loss", "eval_uniform_loss"} <= found[-1].keys()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_computes_its_losses_in_float32(build, rows, precision):
    expected = logged(build(eval_dataset=rows, **TRAINING))
    trainer = build(eval_dataset=rows, use_cpu=False, **TRAINING, **{precision: True})
    found = logged(trainer)
    assert [entry["loss"] for entry in found[:-1]] == pytest.approx([entry["loss"] for entry in expected[:-1]], abs=0.1)
    assert_close(found[-1], expected[-1], atol=0.1)
    assert trainer._loss_parts.dtype == torch.float32 and trainer.model.device.type == "cuda"


def test_a_stream_and_rows_in_an_unseen_language(build, rows):
    unseen = rows.map(lambda row, i: {"language": "sw" if i < 3 else row["language"]}, with_indices=True)
    found, expected = (
        logged(build(data=rows.to_iterable_dataset(), eval_dataset=unseen, use_cpu=cpu, **TRAINING))
        for cpu in (False, True)
    )
    assert_close(found, expected, atol=2e-3)
    assert "eval_unseen_plain_loss" in found[-1]


def test_logits_features_and_attributions(tiny_bert, bert_tokenizer, rows, tmp_path):
    model = tiny_bert(num_hidden_layers=2)
    pairs = [forward_rows(m, bert_tokenizer, rows, batch_size=5) for m in (model, copy.deepcopy(model).cuda())]
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
    texts = Dataset.from_dict({"text": ["w1 w2 w3", "w4 w5 w6 w7"], "language": ["en", "fr"]})
    stores = [
        hf_langimb.attribute(m, bert_tokenizer, texts, out=str(tmp_path / name)).to_explanation()
        for name, m in (("cpu", model), ("gpu", copy.deepcopy(model).cuda()))
    ]
    for one, other in zip(*stores, strict=True):
        np.testing.assert_allclose(other.values, one.values, atol=1e-3)


def test_a_recipe_from_start_to_end(tmp_path):
    settings = yaml.safe_load(SMALL)
    del settings["use_cpu"]
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(settings | {"fp16": True}))
    run(parse_recipe("xnli", tmp_path, ["--output_dir", str(tmp_path / "run")]))
    setups = read_results(tmp_path / "run")["setups"].values()
    assert all(0 <= setup["seeds"]["0"]["test"]["accuracy"] <= 1 for setup in setups)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["device"].startswith("cuda")
