"""LoRA adapters and the learning rates of encoder and head."""

import pytest
import torch
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
