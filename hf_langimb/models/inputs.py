"""What any classifier reads and returns: how many tokens, which token types, and the logits of its classes."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hf_langimb.models.adapters import base_model_of

NO_TOKEN = -1  # an id that no token has


def reads(model: Any, name: str) -> bool:
    """Whether the forward pass of a model, or of the model inside adapters, names an input."""
    return name in inspect.signature(base_model_of(model).forward).parameters


def token_types_of(model: Any) -> float:
    """How many token types a model knows: 0 if it reads none, infinity if its configuration does not limit them."""
    if not reads(model, "token_type_ids"):
        return 0
    known = getattr(base_model_of(model).config, "type_vocab_size", None)
    return math.inf if known is None else known


def token_embeddings(model: Any) -> Any:
    """The embeddings of a model's tokens; None where it names none (CANINE hashes characters)."""
    try:
        return base_model_of(model).get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def most_tokens(model: Any) -> int | None:
    """The longest sequence that a model reads, or was made for; None where its positions have no limit.

    The RoBERTa family numbers positions from `padding_idx` + 1 on, which leaves fewer than `max_position_embeddings`.
    """
    names = ("max_encoder_position_embeddings", "max_position_embeddings", "n_positions", "max_seq_len")
    base = base_model_of(model)
    config, tokens = base.config.get_text_config(), token_embeddings(base)
    positions = next((found for name in names if (found := getattr(config, name, None))), -1)
    if positions < 1:  # XLNet has -1
        return None
    embeddings = [one for one in base.modules() if hasattr(one, "padding_idx") and hasattr(one, "weight")]
    paddings = [one.padding_idx for one in embeddings if len(one.weight) == positions and one is not tokens]
    return positions - max((index + 1 for index in paddings if index is not None), default=0)


def has_position_table(model: Any) -> bool:
    """Whether a model has a vector for each position, so that longer rows are an error; else they are only unusual."""
    return bool(_position_tables(model))


def numbers_padding(model: Any) -> bool:
    """Whether the positions of a model's table are counted from the first token on, be it padding or not."""
    tables = _position_tables(model)
    positions = getattr(base_model_of(model).config.get_text_config(), "max_position_embeddings", None)
    of_mask = any("attention_mask" in inspect.signature(one.forward).parameters for one in tables)
    return bool(tables and positions) and most_tokens(model) == positions and not of_mask


def _position_tables(model: Any) -> list[Any]:
    """The modules with a vector for each position."""
    modules = base_model_of(model).named_modules()
    return [one for name, one in modules if hasattr(one, "padding_idx") and re.search(r"(pos|wpe)[^.]*$", name)]


def longest_input(tokenizer: Any, model: Any) -> int | None:
    """Maximum number of tokens, if the tokenizer does not already limit it to what the model reads; else None."""
    most = most_tokens(model)
    return None if most is None or tokenizer.model_max_length <= most else most  # `truncation=True` applies it


def logits_of(outputs: Any, classes: int | None = None) -> torch.Tensor:
    """The logits among a model's outputs: by name, else the first tensor with rows and a column for each class."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if hasattr(outputs, "logits"):
        return outputs.logits
    found = outputs if isinstance(outputs, Sequence) else ()
    tensors = [one for one in found if isinstance(one, torch.Tensor) and one.dim()]
    tables = [one for one in tensors if one.dim() == 2]
    fitting = [one for one in tables if one.shape[1] == classes]
    if not tensors or len(fitting) > 1:
        content = f" with {sorted(outputs)}" if isinstance(outputs, Mapping) else ""
        content = f" with {len(fitting)} tensors that could be the logits" if fitting else content
        raise ValueError(
            "Expected the model to return a ModelOutput, a dictionary with 'logits' or a tuple with the logits, got "
            f"{type(outputs).__name__}{content}."
        )
    return (fitting or tables or tensors)[0]


def class_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] of the classes; of a single logit z those of two, 0 and z: its sigmoid is the softmax of both."""
    return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits


def head_layers(model: Any) -> list[torch.nn.Linear]:
    """The linear layers of a classifier with a number for each label; the last one that runs gives the logits."""
    labels = base_model_of(model).config.num_labels
    return [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one.out_features == labels]


class HeadInputs:
    """What the last linear layer of a classifier reads in a forward pass, until `remove`."""

    def __init__(self, model: Any) -> None:
        self.layer: Any = None
        self._read = self._given = torch.empty(0)
        self._handles = [layer.register_forward_hook(self._keep) for layer in head_layers(model)]

    def _keep(self, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        """The hook."""
        self.layer, self._read, self._given = layer, inputs[0], output

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """[B, H]: what was read for logits [B, C], at the token that the model takes.

        Raises:
            ValueError: the logits are not those of a linear layer.
        """
        rows = len(logits)
        shape = (*self._given.shape[:1], *self._given.shape[2 if self._given.dim() == 3 else 1 :])
        if self.layer is None or shape != logits.shape:
            raise ValueError("The logits of this model are not those of a linear layer.")
        read, given = (one.reshape(rows, -1, one.shape[-1]) for one in (self._read, self._given))
        distances = (given - logits[:, None]).detach().abs().sum(dim=-1)
        if distances.amin(dim=1).max() > 0:
            raise ValueError("This model changes the logits of its last linear layer.")
        return read[torch.arange(rows, device=read.device), distances.argmin(dim=1)]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def takes_last_token(model: Any) -> bool:
    """Whether a model's head finds the last token of each row by the configuration's padding token, as decoders do."""
    return "pad_token_id" in inspect.unwrap(type(base_model_of(model)).forward).__code__.co_names


@contextmanager
def reading_whole_rows(model: Any) -> Iterator[None]:
    """Let a decoder without padding token read several rows of one length; its head takes the last token of each."""
    config = base_model_of(model).config.get_text_config()
    lacking = getattr(config, "pad_token_id", NO_TOKEN) is None
    try:
        if lacking:
            config.pad_token_id = NO_TOKEN
        yield
    finally:
        if lacking:
            config.pad_token_id = None
