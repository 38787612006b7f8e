"""One forward pass over a data set's rows: a classifier's logits, and features from the hidden states of any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset

from hf_langimb.console import bar
from hf_langimb.data.rows import find_text_columns
from hf_langimb.measures import POOLINGS
from hf_langimb.models.adapters import base_model_of
from hf_langimb.models.loading import longest_input, tokenize

Pool = Callable[[Any, Any], torch.Tensor]  # (outputs of the model, batch) -> [layers, B, H]


def forward_rows(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    *,
    pooling: str = "cls",
    layers: Sequence[int] | None = (-1,),
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features of each row in one forward pass, in the model's own precision.

    Args:
        model: a Hugging Face sequence classifier that returns hidden states, adapters included, on its device.
        tokenizer, dataset, pooling, layers, batch_size: as for `extract_features`, without `pooler`.

    Returns:
        Logits float32[N, C] and the features of `extract_features`, which also says what is refused.
    """
    pool = _pool_with(pooling, layers)

    def read(batch: Any) -> list[torch.Tensor]:
        outputs = model(**batch, output_hidden_states=True)
        return [outputs.logits[None], pool(outputs, batch)]

    logits, features = _in_batches(read, model, tokenizer, _tokenized(dataset, model, tokenizer), batch_size)
    return logits[0], features


def extract_features(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    *,
    pooling: str = "cls",
    layers: Sequence[int] | None = (-1,),
    text_columns: Sequence[str] = (),
    batch_size: int = 64,
) -> np.ndarray:
    """Features of each row from a frozen model, in batches sorted by length; several processes share the batches.

    Args:
        model: any Hugging Face model that returns hidden states; of a classifier, the encoder is run.
        tokenizer: pads the batches, and encodes the texts if the data set has no `input_ids`.
        dataset: tokenized rows, or rows with texts (`text_columns`, else the usual names).
        pooling: `cls` first token, `pooler` the model's pooled output (which has no layers), `mean` over tokens,
            `last` last token.
        layers: hidden states to take, 0 the embeddings, -1 the last layer; None takes all, in one forward pass.
        text_columns: one column, or two for a pair.
        batch_size: rows in a forward pass.

    Returns:
        float32[layers, N, H], rows in the order of the data set, the same in every process.

    Raises:
        ValueError: no rows, a row without tokens, unknown pooling, no text column, no such layer, `pooler` with layers
            or on a model without one, or a model that returns no hidden states.
    """
    pool = _pool_with(pooling, layers)
    rows = _tokenized(dataset, model, tokenizer, text_columns)
    encoder = getattr(base_model_of(model), "base_model", model)  # adapters are inside the encoder's layers

    def read(batch: Any) -> list[torch.Tensor]:
        return [pool(encoder(**batch, output_hidden_states=True), batch)]

    return _in_batches(read, model, tokenizer, rows, batch_size)[0]


def _tokenized(dataset: Any, model: Any, tokenizer: Any, text_columns: Sequence[str] = ()) -> Dataset:
    """The rows with token ids."""
    if len(dataset) == 0:
        raise ValueError("The data set has no rows to run the model on.")
    if "input_ids" in dataset.column_names:
        return dataset
    columns = find_text_columns(dataset, text_columns)
    return tokenize(dataset, tokenizer, columns, longest_input(tokenizer, base_model_of(model).config))


def _in_batches(
    read: Callable[[Any], list[torch.Tensor]], model: Any, tokenizer: Any, dataset: Dataset, batch_size: int
) -> list[np.ndarray]:
    """What `read` returns for each batch, [K, B, W] each, as float32[K, N, W] over all rows, shared over processes."""
    from transformers.data.data_collator import pad_without_fast_tokenizer_warning as pad

    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    columns = dataset.select_columns(names).with_format(None)[:]
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    if (empty := np.flatnonzero(lengths == 0)).size:
        raise ValueError(f"Row {empty[0]} has no tokens: its text is empty. Filter such rows out ({empty.size:,}).")
    order = np.argsort(-lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    state = PartialState()
    shared = batches[state.process_index :: state.num_processes]
    found: list[np.ndarray] = []
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for index in bar(shared or batches[-1:], "Extracting features"):
                rows = {name: [column[i] for i in index] for name, column in columns.items()}
                # padding at the right moves no token's position
                parts = read(pad(tokenizer, rows, padding_side="right", return_tensors="pt").to(model.device))
                found = found or [np.zeros((len(part), len(order), part.shape[-1]), np.float32) for part in parts]
                for whole, part in zip(found, parts, strict=True):
                    whole[:, index] = part.float().cpu().numpy()
    finally:
        model.train(training)
    if state.num_processes == 1:
        return found
    if not shared:  # this process only learned the shapes
        found = [np.zeros_like(whole) for whole in found]
    return [reduce(torch.from_numpy(whole).to(state.device), reduction="sum").cpu().numpy() for whole in found]


def _pool_with(pooling: str, layers: Sequence[int] | None) -> Pool:
    """The function that takes features [layers, B, H] from a model's outputs."""
    by_pooler = pooling == "pooler"
    if pooling not in POOLINGS or (by_pooler and (layers is None or list(layers) != [-1])):
        reason = "The pooler has no layers: leave the layers out, or" if by_pooler else f"Unknown pooling {pooling!r}:"
        raise ValueError(f"{reason} choose one of {', '.join(POOLINGS)}.")

    def pool(outputs: Any, batch: Any) -> torch.Tensor:
        states: Any = getattr(outputs, "pooler_output" if by_pooler else "hidden_states", None)
        problem = None
        if states is None:
            problem = "returns no hidden states (an encoder-decoder?): choose an encoder or decoder"
            if by_pooler:
                problem = "returns no pooler: choose pooling cls, mean or last"
        elif wrong := [] if by_pooler else [i for i in layers or () if not -len(states) <= i < len(states)]:
            problem = f"has layers 0 to {len(states) - 1} (-1 is the last), got {wrong[0]}"
        if problem:
            raise ValueError(f"This model {problem}.")
        if by_pooler:
            return states[None]
        return _pool(states if layers is None else [states[layer] for layer in layers], batch, pooling)

    return pool


def _pool(chosen: Sequence[torch.Tensor], batch: Any, pooling: str) -> torch.Tensor:
    """[layers, B, H]: the first, the last or the mean token of each row."""
    mask = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(batch["input_ids"])
    if pooling == "mean":
        shares = (mask / mask.sum(dim=1, keepdim=True)).to(chosen[0].dtype)
        return torch.stack([torch.einsum("bth,bt->bh", hidden, shares) for hidden in chosen])
    token = mask.argmax(dim=1) if pooling == "cls" else mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    rows = torch.arange(len(token), device=token.device)
    return torch.stack([hidden[rows, token] for hidden in chosen])
