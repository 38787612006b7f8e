"""Load a model and its tokenizer from a folder or the Hub; no remote code, and no pickles but for a start model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from datasets import Dataset

from hf_langimb.console import one_line
from hf_langimb.files import check_model, read_json
from hf_langimb.models.axes import AXES_FILE, MULTI_LABEL, class_names, of_several_labels, read_axes, set_class_names

START = "start"  # the model that a run pretrains, in its folder
SAFE = {"use_safetensors": True, "trust_remote_code": False}
ADAPTER_FILE, BASE_MODEL = "adapter_config.json", "base_model_name_or_path"


@dataclass(frozen=True)
class Trained:
    """A classifier, or the encoder of one, with its tokenizer; `untrained` parameters are not in the checkpoint."""

    model: Any
    tokenizer: Any
    untrained: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the model's classes, in their order."""
        return class_names(self.model.config)


def load_trained(
    name: str | Path, *, encoder: bool = False, shown: str | Path | None = None, **options: Any
) -> Trained:
    """Load a checkpoint from the Hub or a folder; adapters are added to their base model.

    Args:
        name: Hub id or folder.
        encoder: load only the encoder of any model, not a classifier (adapters: a classifier).
        shown: what error messages call it, where `name` is a folder in the cache.
        options: of `from_pretrained`, such as the token with which the base of adapters is downloaded.

    Raises:
        ValueError: no such model, a classifier without a trained head, or a tokenizer that does not belong to it.
    """
    from transformers import AutoModel, AutoTokenizer

    from hf_langimb.models.inputs import token_embeddings

    check_model(Path(name))
    if Path(name, ADAPTER_FILE).is_file():
        check_model(Path(name).absolute().parents[1] / START)
    with loading(str(shown or name)):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        folder, untrained = _adapter_folder(name, options.get("token")), tuple[str, ...]()
        if encoder and folder is None:
            model, found = AutoModel.from_pretrained(name, output_loading_info=True, **SAFE, **options)
            untrained = tuple(found["missing_keys"])
        else:
            model = load_model(folder or name, **options)
        model.name_or_path = str(shown or name)  # of adapters it would be their base
        known = len(tokenizer)
        vocabulary = getattr(token_embeddings(model), "num_embeddings", known)
        if known > vocabulary or known <= len(tokenizer.all_special_ids):
            raise ValueError(
                f"The tokenizer has {known:,} tokens, the model {vocabulary:,}: save the model with its own tokenizer."
            )
        return Trained(model, tokenizer, untrained)


@contextmanager
def loading(shown: str) -> Iterator[None]:
    """Load untrusted files: any error becomes one ValueError without a token; the library's reports are hidden."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:
        reason = re.sub(r"Bearer [^'\"]*", "Bearer ...", one_line(error) or type(error).__name__)
        if "ignore_mismatched_sizes" in reason:
            reason = "weights have unexpected shapes (its config.json is of another model or number of classes)."
        elif damaged := _damaged_file(Path(shown)):
            reason = f"{damaged} is damaged: save or download the model again ({reason})"
        reason = shorten(reason.partition("If this is a private repository")[0], 300, placeholder=" ...")
        raise ValueError(
            f"Expected a model with its tokenizer at {shown!r} (Hub id or folder; in a run: RUN/SETUP/seed-N): {reason}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _damaged_file(folder: Path) -> str | None:
    """The file of a model's folder that cannot be read; None where all can."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            if path.suffix == ".safetensors":
                safe_open(path, "pt")
            elif path.name == "tokenizer.json":
                Tokenizer.from_file(str(path))
            elif path.suffix == ".json":
                read_json(path, "")
        except Exception:  # tokenizers raises nothing more special
            return path.name
    return None


def load_model(name: str | Path, **options: Any) -> Any:
    """A trained classifier, without its tokenizer; see `load_trained`.

    Raises:
        ValueError: the checkpoint lacks weights of its model, such as the classification head.
    """
    from transformers import AutoModelForSequenceClassification

    if Path(name, ADAPTER_FILE).is_file():
        return _load_adapter(Path(name), options)
    model, found = AutoModelForSequenceClassification.from_pretrained(name, output_loading_info=True, **SAFE, **options)
    if found["missing_keys"]:
        lacking = ", ".join(sorted(found["missing_keys"]))[:200]
        raise ValueError(f"{name} is not a trained classifier: it lacks the weights {lacking}.")
    return model


def _load_adapter(folder: Path, options: dict[str, Any]) -> Any:
    """Add adapters to their base model; the base of a run is found in the run folder, even if that was moved."""
    from peft import AutoPeftModelForSequenceClassification, PeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    axes = read_axes(folder)
    options = options | {"num_labels": len(axes["labels"]) if axes else _classes_of(folder)}
    config = read_json(folder / ADAPTER_FILE, "repair or replace it")
    if not isinstance(config, dict) or config.get("task_type") != "SEQ_CLS":
        raise ValueError(f"{ADAPTER_FILE} does not describe a sequence classifier (task_type SEQ_CLS).")
    if (start := own_start(folder, str(config.get(BASE_MODEL)))) is not None:
        model = AutoModelForSequenceClassification.from_pretrained(start, **SAFE, **options)
        model = PeftModelForSequenceClassification.from_pretrained(model, folder)
    else:
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder, **SAFE, **options)
    if axes:  # the base does not know them
        model.config.langimb = axes
        set_class_names(model.config, axes["label_names"])
        if of_several_labels(axes):
            model.config.problem_type = MULTI_LABEL
    return model


def _adapter_folder(name: str | Path, token: str | None) -> Path | None:
    """The folder of adapters, those of a repository in the cache, without pickles; None of a full model."""
    from huggingface_hub import snapshot_download

    folder = Path(name)
    if not folder.is_dir():
        wanted = [ADAPTER_FILE, "adapter_model.safetensors", AXES_FILE]
        folder = Path(snapshot_download(str(name), token=token, allow_patterns=wanted))
    return folder if (folder / ADAPTER_FILE).is_file() else None


def own_start(folder: Path, base: str) -> Path | None:
    """The model that a run pretrained, if it is the base of the adapters in the run's folder; None otherwise."""
    start = folder.absolute().parents[1] / START  # of RUN/SETUP/seed-N
    return start if Path(base).name == START and start.is_dir() else None


def _classes_of(folder: Path) -> int:
    """Number of classes of an adapter's saved head: rows of the last weight outside the adapters."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        heads = [name for name in weights.keys() if name.endswith(".weight") and "lora_" not in name]  # noqa: SIM118
        if not heads:
            raise ValueError(f"The adapter at {folder} has no classification head: train it with one.")
        return weights.get_slice(heads[-1]).get_shape()[0]


def load_tokenizer(name: str) -> tuple[Any, int | None]:
    """The tokenizer of a model to start from, and its `longest_input`.

    The tokenizer gets a padding token if it has none, and gives no token types that the model lacks.

    Raises:
        ValueError: no such model.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from hf_langimb.models.inputs import longest_input, token_types_of

    with loading(name):
        tokenizer, config = AutoTokenizer.from_pretrained(name), AutoConfig.from_pretrained(name)
        with torch.device("meta"):  # its layers, without weights
            model = AutoModel.from_config(config)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # padding is masked: any token will do
        if max(tokenizer("a", "b").get("token_type_ids", [0])) >= token_types_of(model):
            inputs = tokenizer.model_input_names
            tokenizer.model_input_names = [name for name in inputs if name != "token_type_ids"]
        return tokenizer, longest_input(tokenizer, model)


def new_classifier(name: str, names: Sequence[str]) -> Any:
    """A model to start from with a new last layer for classes of these names, also where the checkpoint has one."""
    from transformers import AutoModelForSequenceClassification

    with loading(name):
        options = {"num_labels": len(names), "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, found = AutoModelForSequenceClassification.from_pretrained(name, **options)
        mismatched = {entry[0] for entry in found["mismatched_keys"]}
        layers = [(at, of) for at, of in model.named_modules() if getattr(of, "out_features", None) == len(names)]
        head, layer = layers[-1] if layers else ("", None)
        if others := sorted(key for key in mismatched if key.rpartition(".")[0] != head):
            raise ValueError(
                f"weights have unexpected shapes, such as {others[0]} (its config.json is of another model)."
            )
        if layer is not None and f"{head}.weight" not in found["missing_keys"] | mismatched:
            layer.weight.data.normal_(std=getattr(model.config, "initializer_range", 0.02))
            if layer.bias is not None:
                layer.bias.data.zero_()
    set_class_names(model.config, names)
    if model.config.problem_type == MULTI_LABEL:  # of the checkpoint's own training
        model.config.problem_type = None
    return model


def tokenize(dataset: Dataset, tokenizer: Any, text_columns: Sequence[str], max_length: int | None = None) -> Dataset:
    """Add the tokenizer's columns; a pair is encoded as a pair, texts longer than the model are truncated."""

    def encode(rows: dict[str, list[Any]]) -> Any:
        """The tokenizer's columns of some rows."""
        return tokenizer(*(rows[column] for column in text_columns), truncation=True, max_length=max_length)

    return dataset.map(encode, batched=True, remove_columns=list(text_columns), desc="Tokenizing")
