"""Sequence classifiers that can be trained, and LoRA adapters with a head that is trained and saved (PEFT)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from transformers import PreTrainedModel

from hf_langimb.models.axes import MULTI_LABEL


def base_model_of(model: torch.nn.Module) -> torch.nn.Module:
    """The Hugging Face model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _head_names(model: torch.nn.Module) -> list[str]:
    """Modules outside the encoder (`base_model_prefix`); none if the encoder cannot be identified."""
    names = [name for name, module in model.named_children() if any(True for _ in module.parameters())]
    prefix = getattr(model, "base_model_prefix", "")
    return [name for name in names if name != prefix] if prefix in names else []


def head_parameters(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Parameters of the classification head, including the frozen originals of a PEFT wrapper."""
    base = base_model_of(model)
    for name in _head_names(base):
        yield from base.get_submodule(name).parameters()


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers of the encoder, without those of a pooler."""
    inside, pooler = f"{model.base_model_prefix}.", f"{model.base_model_prefix}.pooler."
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [name for name in linear if name.startswith(inside) and not name.startswith(pooler)]


def problem_of(model: torch.nn.Module, rank: int) -> str | None:
    """Why the Trainer cannot use a model, or add adapters of a rank above 0 to it, and what to do; None if it can."""
    base = base_model_of(model)
    name = type(base).__name__
    if type(base).__module__.startswith("transformers.") and not name.endswith("ForSequenceClassification"):
        return (
            f"Expected a sequence-classification model, got {name}: load it with AutoModelForSequenceClassification "
            "(class weights per language need one label per text)."
        )
    if isinstance(getattr(base, "config", None), Mapping):
        return f"{name} has a dictionary as config, which Trainer takes for a configuration of Transformers: rename it."
    kind = getattr(getattr(base, "config", None), "problem_type", None)
    if kind == "regression":
        return (
            "The model's configuration has problem_type 'regression': set it to 'single_label_classification', or to "
            "'multi_label_classification' for texts with several labels."
        )
    if getattr(getattr(base, "config", None), "num_labels", None) == 1:
        if kind == MULTI_LABEL:
            return "A model with several labels needs two or more: for one, use two classes (num_labels=2), no and yes."
        return "The model has one output, and the loss needs one for each label: load it with num_labels=2 or more."
    if rank and (base is not model or getattr(model, "_hf_peft_config_loaded", False)):
        return "lora_rank needs a model without adapters, got one with adapters: set lora_rank=0."
    if rank and not (isinstance(base, PreTrainedModel) and _linear_layers(base)):
        return (
            f"Found no linear layers to adapt in the encoder of {name}: set lora_rank=0, or add the adapters with PEFT "
            "before training."
        )
    return None


def add_lora(model: PreTrainedModel, rank: int) -> torch.nn.Module:
    """Add adapters to every linear layer of a classifier's encoder; the classification head is fully trained.

    A pooler counts as part of the head: checkpoints of masked language modeling have none, so it is initialized at
    random and must be saved with the adapters.

    Args:
        model: any `AutoModelForSequenceClassification`.
        rank: of the adapters, at least 1; their scaling is alpha / rank = 2.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    pooler = f"{model.base_model_prefix}.pooler"
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=_linear_layers(model),
        modules_to_save=[*_head_names(model), *(name for name, _ in model.named_modules() if name == pooler)],
    )
    return get_peft_model(model, config)
