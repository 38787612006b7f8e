"""LoRA adapters through PEFT, with a classification head that is trained and saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel


def base_model_of(model: torch.nn.Module) -> torch.nn.Module:
    """The Hugging Face model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _head_names(model: torch.nn.Module) -> list[str]:
    """Modules outside the encoder (`base_model_prefix`); none where the encoder cannot be told apart."""
    names = [name for name, module in model.named_children() if any(True for _ in module.parameters())]
    prefix = getattr(model, "base_model_prefix", "")
    return [name for name in names if name != prefix] if prefix in names else []


def head_parameters(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Parameters of the classification head, frozen originals of a PEFT wrapper included."""
    base = base_model_of(model)
    for name in _head_names(base):
        yield from base.get_submodule(name).parameters()


def add_lora(model: PreTrainedModel, rank: int) -> torch.nn.Module:
    """Wrap a sequence classifier: rank-`rank` adapters on every linear layer of the encoder, the head trained in full.

    A pooler counts as head: a checkpoint of masked language modelling alone has none, so that it starts at random and
    must be saved with the adapters.

    Args:
        model: any `AutoModelForSequenceClassification`.
        rank: of the adapters, at least 1; their scaling is alpha / rank = 2.

    Raises:
        ValueError: the model has adapters already.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    if base_model_of(model) is not model:
        raise ValueError("Expected a plain model for lora_rank, found one with adapters: set lora_rank=0 for those.")
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
            f"Found no linear layers to adapt in the encoder of {type(model).__name__}: set lora_rank=0, or wrap it "
            "with PEFT yourself."
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
    """Raise where a PEFT model would leave the classification head frozen at its random start.

    Raises:
        ValueError: what to set instead.
    """
    if not hasattr(model, "get_base_model"):
        return
    head = list(head_parameters(model))
    if head and not any(parameter.requires_grad for parameter in head):
        raise ValueError(
            "This PEFT model leaves the classification head frozen at its random start, so it cannot learn the labels: "
            "use LoraConfig(task_type='SEQ_CLS'), or modules_to_save=['classifier'], or pass the plain model with "
            "lora_rank."
        )
