"""LoRA adapters through PEFT, with a classification head that is trained and saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel


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


def add_lora(model: PreTrainedModel, rank: int) -> torch.nn.Module:
    """Add adapters to every linear layer of a classifier's encoder; the classification head is fully trained.

    A pooler counts as part of the head: checkpoints of masked language modelling have none, so it is initialized at
    random and must be saved with the adapters.

    Args:
        model: any `AutoModelForSequenceClassification`.
        rank: of the adapters, at least 1; their scaling is alpha / rank = 2.

    Raises:
        ValueError: the model already has adapters, or its encoder has no linear layers.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    if base_model_of(model) is not model:
        raise ValueError("lora_rank needs a model without adapters, got one with adapters: set lora_rank=0.")
    prefix = model.base_model_prefix
    poolers = [name for name, _ in model.named_modules() if name == f"{prefix}.pooler"]
    encoder = [
        name
        for name, module in model.named_modules()
        if name.startswith(f"{prefix}.") and isinstance(module, torch.nn.Linear)
        if not any(name.startswith(f"{pooler}.") for pooler in poolers)
    ]
    if not encoder:
        raise ValueError(
            f"Found no linear layers to adapt in the encoder of {type(model).__name__}: set lora_rank=0, or add the "
            "adapters with PEFT before training."
        )
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=encoder,
        modules_to_save=[*_head_names(model), *poolers],
    )
    return get_peft_model(model, config)


def require_trainable_head(model: torch.nn.Module) -> None:
    """Check that the classification head of a PEFT model is trained.

    Raises:
        ValueError: the head is frozen at its random initialization.
    """
    if not hasattr(model, "get_base_model"):
        return
    head = list(head_parameters(model))
    if head and not any(parameter.requires_grad for parameter in head):
        raise ValueError(
            "The classification head of this PEFT model is frozen at its random initialization, so that the model "
            "cannot learn the labels: use LoraConfig(task_type='SEQ_CLS') or modules_to_save=['classifier'], or pass a "
            "model without adapters and set lora_rank."
        )
