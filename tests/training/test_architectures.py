"""Classifiers of every kind train unmodified: encoders with and without token types, decoders without a mask token."""

import copy

import pytest
import torch
from conftest import SKEWED
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_langimb import LangImbTrainer
from hf_langimb.models.loading import load_model

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {**SMALL, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 1, "max_position_embeddings": 64}
RELATIVE = {"type_vocab_size": 0, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
ARCHITECTURES = {  # name: tokenizer, configuration
    "bert": ("bert", SMALL),
    "xlm-roberta": ("roberta", {**SMALL, "type_vocab_size": 1, "pad_token_id": 1}),
    "deberta-v2": ("bert", {**SMALL, **RELATIVE}),
    "distilbert": ("bert", {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}),
    "modernbert": ("bert", {**SMALL, "pad_token_id": 0, "reference_compile": False, "num_hidden_layers": 2}),
    **dict.fromkeys(("qwen2", "qwen3", "llama"), ("decoder", DECODER)),
}
HEADS = {  # what stands outside the encoder, where it is not "classifier" alone
    "deberta-v2": {"pooler", "classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "modernbert": {"head", "classifier"},
    **{key: {"score"} for key in ("qwen2", "qwen3", "llama")},
}


def make(architecture, tokenizer):
    torch.manual_seed(0)
    settings = ARCHITECTURES[architecture][1] | {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    config = AutoConfig.for_model(architecture, **settings, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def tokenizer(architecture, request):
    return request.getfixturevalue(f"{ARCHITECTURES[architecture][0]}_tokenizer")


@pytest.fixture
def build(tokenizer, tiny_dataset, training_arguments):
    """Function (model, train=True, **arguments): a trainer on pairs (single texts for decoders), with every term."""
    data = tiny_dataset(tokenizer, pair=tokenizer.mask_token is not None)

    def trainer(model, train=True, **changes):
        changes |= {"class_weighting": "per_language", "masked_entropy_weight": float(bool(tokenizer.mask_token))}
        changes |= {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        arguments = training_arguments(**changes)
        return LangImbTrainer(model, arguments, None, data if train else None, data, tokenizer)

    return trainer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_whole_model_trains_evaluates_and_comes_back(architecture, tokenizer, build, tmp_path):
    trainer = build(make(architecture, tokenizer), head_learning_rate=0.02)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    unchanged = [name for name, parameter in trainer.model.named_parameters() if parameter.equal(before[name])]
    assert unchanged == []
    metrics = trainer.evaluate()
    assert 0 < metrics["eval_loss"] < 10
    trainer.save_model(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.langimb["languages"] == ["en", "fr", "ja"]
    again = build(model).evaluate()
    assert again["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_and_head_train_and_come_back(architecture, tokenizer, build, tmp_path):
    from peft import AutoPeftModelForSequenceClassification

    make(architecture, tokenizer).save_pretrained(tmp_path / "base")
    names = {0: "bad", 1: "fair", 2: "good"}
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", id2label=names)
    trainer = build(base, lora_rank=2, head_learning_rate=0.02)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    assert all(parameter.shape[0] == 2 for name, parameter in before.items() if "lora_A" in name)
    trainer.train()
    parameters = dict(trainer.model.named_parameters())
    changed = {name for name, parameter in parameters.items() if not parameter.equal(before[name])}
    assert changed == {name for name in before if "lora_" in name or "modules_to_save" in name}
    assert changed == {name for name, parameter in parameters.items() if parameter.requires_grad}
    outermost = [name.removeprefix("base_model.model.").split(".") for name in changed]
    saved = {parts[0] for parts in outermost if "modules_to_save" in parts and "pooler" not in parts[1:]}
    assert saved == HEADS.get(architecture, {"classifier"}), "besides a pooler in the encoder"
    assert {parts[0] for parts in outermost if not {"lora_A", "lora_B"}.isdisjoint(parts)} == {base.base_model_prefix}
    inside = f".{base.base_model_prefix}.pooler."
    heads = {id(p) for name, p in parameters.items() if "modules_to_save" in name and inside not in name}
    groups = trainer.optimizer.param_groups
    rates = {(id(p) in heads, group["initial_lr"]) for group in groups for p in group["params"]}
    assert rates == {(True, 0.02), (False, 0.01)}
    assert len({group["lr"] for group in groups}) == 1, "both have decayed to 0"
    logits = trainer.predict(trainer.eval_dataset).predictions
    trainer.save_model(tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "langimb.json"} <= files
    assert not {"config.json", "model.safetensors"} & files
    loaded = load_model(tmp_path / "adapter")
    assert loaded.config.id2label == names, "the base does not know them"
    assert loaded.config.langimb["counts"] == [list(row) for row in SKEWED.values()]
    plain = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3)
    for model in (loaded, plain):
        again = build(model, train=False).predict(trainer.eval_dataset).predictions
        assert torch.tensor(again).allclose(torch.tensor(logits), atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_with_a_mask_token_added_takes_the_entropy_loss(
    decoder_tokenizer, tiny_dataset, training_arguments, side
):
    tokenizer = copy.deepcopy(decoder_tokenizer)
    tokenizer.padding_side = side
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model = make("qwen2", decoder_tokenizer)
    model.resize_token_embeddings(len(tokenizer))
    arguments = training_arguments(masked_entropy_weight=1.0, logging_strategy="steps", logging_steps=1, max_steps=2)
    trainer = LangImbTrainer(model, arguments, train_dataset=tiny_dataset(tokenizer), processing_class=tokenizer)
    before = model.get_input_embeddings().weight[tokenizer.mask_token_id].detach().clone()
    trainer.train()
    assert not model.get_input_embeddings().weight[tokenizer.mask_token_id].equal(before)
    assert trainer.state.log_history[0]["loss_masked_entropy"] < 0
