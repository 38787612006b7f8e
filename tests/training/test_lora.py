"""LoRA adapters and the learning rates of encoder and head."""

import json

import pytest
import torch
from conftest import SKEWED
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from hf_langimb.models.loading import load_model


@pytest.mark.parametrize("rank", [0, 4])
def test_every_trainable_parameter_has_one_rate(build, rank):
    trainer = build(lora_rank=rank, learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(names)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == (1e-2 if "classifier" in name else 1e-3), name
            assert group["weight_decay"] == (0.0 if "bias" in name or "LayerNorm" in name else 0.1), name
    assert any("classifier" in name for name in names.values())


def test_both_rates_follow_the_schedule(build):
    trainer = build(learning_rate=1e-3, head_learning_rate=1e-2, max_steps=4)
    trainer.create_optimizer_and_scheduler(4)
    for step in range(1, 3):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        rates = sorted({group["lr"] for group in trainer.optimizer.param_groups})
        assert rates == pytest.approx([1e-3 * (1 - step / 4), 1e-2 * (1 - step / 4)])


def test_lora_trains_adapters_and_head_alone(build, tiny_bert, rows, tmp_path):
    from peft import AutoPeftModelForSequenceClassification

    tiny_bert().save_pretrained(tmp_path / "base")
    names = {0: "bad", 1: "fair", 2: "good"}
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", id2label=names)
    trainer = build(base, weighting="per_language", entropy=1.0, lora_rank=4, max_steps=3)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        trains = "lora_" in name or "modules_to_save" in name
        assert parameter.requires_grad == trains, name
        assert parameter.equal(before[name]) != trains, name
    assert all(parameter.shape[0] == 4 for name, parameter in before.items() if "lora_A" in name)
    logits = trainer.predict(rows).predictions
    trainer.save_model(tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "langimb.json"} <= files
    assert not {"config.json", "model.safetensors"} & files
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3)
    again = build(loaded, None, rows).predict(rows).predictions
    assert torch.tensor(again).allclose(torch.tensor(logits), atol=1e-6)
    assert load_model(tmp_path / "adapter").config.id2label == names, "the base does not know them"
    axes = json.loads((tmp_path / "adapter" / "langimb.json").read_text(encoding="utf-8"))
    assert axes["counts"] == [list(row) for row in SKEWED.values()]


def test_lora_keeps_a_pooler_that_the_base_lacks(build, rows, tmp_path, tiny_bert):
    base = tiny_bert()
    masked = AutoModelForMaskedLM.from_config(base.config)
    masked.bert.load_state_dict(base.bert.state_dict(), strict=False)
    masked.save_pretrained(tmp_path / "base")
    trainer = build(AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3), lora_rank=2)
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    logits = trainer.predict(rows).predictions
    again = build(load_model(tmp_path / "adapter"), None, rows).predict(rows).predictions
    assert torch.tensor(again).allclose(torch.tensor(logits), atol=1e-6), "a pooler at random would give others"


def test_an_adapter_that_freezes_the_head_is_refused(build, tiny_bert):
    from peft import LoraConfig, get_peft_model

    settings = {"target_modules": ["query", "value"], "r": 2}
    with pytest.raises(ValueError, match=r"head .*is frozen.*task_type='SEQ_CLS'.*lora_rank"):
        build(get_peft_model(tiny_bert(), LoraConfig(**settings)))
    model = get_peft_model(tiny_bert(), LoraConfig(**settings, task_type="SEQ_CLS"))
    build(model, head_learning_rate=0.1).train()
    with pytest.raises(ValueError, match="got one with adapters: set lora_rank=0"):
        build(model, lora_rank=2)
