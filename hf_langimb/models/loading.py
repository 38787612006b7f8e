"""LoRA through PEFT, with a classification head that is trained and saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_langimb.models.axes import read_axes

SAFE = {"use_safetensors": True, "trust_remote_code": False}  # no pickles, no code of others


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


def load_model(folder: str | Path, **options: Any) -> Any:
    """A trained classifier from its folder, with LoRA adapters put on their base.

    Args:
        folder: with the weights.
        options: of `from_pretrained`, such as the token with which the base of adapters is downloaded.
    """
    if (Path(folder) / "adapter_config.json").exists():
        axes = read_axes(folder)
        if axes is None:  # not of this package: PEFT knows what it can
            return _load_adapter(Path(folder), options | {"num_labels": _classes_of(folder)})
        model = _load_adapter(Path(folder), options | {"num_labels": len(axes["labels"])})
        model.config.langimb = axes
        model.config.id2label = dict(enumerate(axes["label_names"]))  # its base does not know them
        model.config.label2id = {name: i for i, name in model.config.id2label.items()}
        return model
    from transformers import AutoModelForSequenceClassification

    loaded = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True, **SAFE, **options)
    model, found = loaded
    if found["missing_keys"]:
        raise ValueError(f"{folder} lacks weights of its model: {', '.join(sorted(found['missing_keys']))[:200]}.")
    return model


def _load_adapter(folder: Path, options: dict[str, Any]) -> Any:
    """Adapters on their base; that of a run is found in the run, wherever it was moved."""
    from peft import AutoPeftModelForSequenceClassification

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    start = folder.absolute().parents[1] / "start"  # of RUN/SETUP/seed-N
    if Path(str(config.get("base_model_name_or_path"))).name != "start" or not start.is_dir():
        with _quiet():
            return AutoPeftModelForSequenceClassification.from_pretrained(folder, **SAFE, **options)
    with TemporaryDirectory() as scratch, _quiet():
        shutil.copytree(folder, scratch, dirs_exist_ok=True, ignore=lambda _, names: {"predictions.parquet"} & {*names})
        changed = json.dumps(config | {"base_model_name_or_path": str(start)})
        (Path(scratch) / "adapter_config.json").write_text(changed, encoding="utf-8")
        return AutoPeftModelForSequenceClassification.from_pretrained(scratch, **SAFE, **options)


def load_classifier(name: str) -> tuple[Any, Any]:
    """A classifier or adapter with its tokenizer, from the Hub or a folder.

    Raises:
        ValueError: no such model, one without a trained head, or a tokenizer that does not belong to it.
    """
    from transformers import AutoModelForSequenceClassification

    model, untrained, tokenizer = load_with_tokenizer(name, AutoModelForSequenceClassification)
    if untrained:
        raise ValueError(f"The checkpoint {name!r} is no trained classifier: it lacks {', '.join(sorted(untrained))}.")
    return model, tokenizer


def load_with_tokenizer(name: str, kind: Any) -> tuple[Any, list[str], Any]:
    """A model, the parameters that its checkpoint lacks, and its tokenizer; faults in a sentence.

    Args:
        name: Hub id or folder.
        kind: auto class of the model; an adapter is loaded as a classifier, whatever it says.

    Raises:
        ValueError: no such model, or a tokenizer that does not belong to it.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, untrained = _load(name, kind)
    except Exception as error:  # whatever strangers' files do to the libraries that read them
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"Expected a model with its tokenizer at {name!r} (Hub id or folder; of a run RUN/SETUP/seed-N): {reason}"
        ) from None
    vocabulary, known = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if known > vocabulary or known <= len(tokenizer.all_special_ids):
        raise ValueError(
            f"The tokenizer at {name!r} has {known:,} tokens, its model {vocabulary:,}: they do not belong together."
        )
    return model, untrained, tokenizer


def _load(name: str, kind: Any) -> tuple[Any, list[str]]:
    if (Path(name) / "adapter_config.json").exists():
        return load_model(name), []
    with _quiet():
        model, loading = kind.from_pretrained(name, output_loading_info=True, **SAFE)
    return model, list(loading["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's reports: what is missing, or left out, is told by those who call."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _classes_of(folder: str | Path) -> int:
    """Number of classes of an adapter's saved head: rows of the last weight outside the adapters."""
    from safetensors import safe_open

    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as weights:
        heads = [name for name in weights.keys() if name.endswith(".weight") and "lora_" not in name]  # noqa: SIM118
        if not heads:
            raise ValueError(f"The adapter at {folder} has no classification head of its own: train it with one.")
        return weights.get_slice(heads[-1]).get_shape()[0]
