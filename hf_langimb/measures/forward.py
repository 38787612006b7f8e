"""One forward pass over a dataset's rows: a classifier's logits, and features from the hidden states of any model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from hf_langimb.console import bar
from hf_langimb.data.rows import find_text_columns
from hf_langimb.measures import POOLINGS
from hf_langimb.models.adapters import base_model_of
from hf_langimb.models.inputs import (
    HeadInputs,
    class_logits,
    logits_of,
    longest_input,
    reading_whole_rows,
    reads,
    token_types_of,
)
from hf_langimb.models.loading import tokenize

Run = Callable[[np.ndarray], list[torch.Tensor]]  # rows -> tables [K, B, W]


def usual_pooling(tokenizer: Any) -> str:
    """The features of a classifier: of the first token, or of the last one where the first sees nothing (decoders)."""
    return "cls" if tokenizer.mask_token_id is not None else "last"


def forward_rows(
    model: Any, tokenizer: Any, dataset: Any, *, pooling: str = "cls", batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features of each row in one forward pass, in the model's own precision.

    Returns:
        Logits float32[N, C] of a classifier, and features of its last layer; the arguments are `extract_features`'.
    """
    tokenized = _tokenized(dataset, model, tokenizer, (), pooling, (-1,))
    logits, features = _in_batches(model, model, tokenizer, tokenized, pooling, (-1,), batch_size)
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
        model: any Hugging Face model that returns hidden states; of a classifier or encoder-decoder, the encoder runs.
        tokenizer: encodes the texts if the dataset has no `input_ids`.
        dataset: tokenized rows, or rows with texts (`text_columns`, else the usual names).
        pooling: `cls` first token, `pooler` the model's pooled output (which has no layers), `mean` over tokens,
            `last` last token.
        layers: hidden states to take, 0 the embeddings, -1 the last layer; None takes all, in one forward pass.
        text_columns: one column, or two for a pair.
        batch_size: rows in a forward pass.

    Returns:
        float32[layers, N, H], rows in the order of the dataset, the same in every process.

    Raises:
        ValueError: no rows, a row without tokens, unknown pooling, no text column, no such layer, `pooler` with layers
            or on a model without one, or a model that returns no hidden states.
    """
    tokenized = _tokenized(dataset, model, tokenizer, text_columns, pooling, layers)
    encoder = getattr(base_model_of(model), "base_model", model)  # adapters are inside the encoder's layers
    if reads(encoder, "decoder_input_ids"):
        encoder = encoder.get_encoder()
    return _in_batches(model, encoder, tokenizer, tokenized, pooling, layers, batch_size)[-1]


def head_inputs(
    model: Any, tokenizer: Any, dataset: Any, *, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray, torch.nn.Linear]:
    """What the last linear layer of a classifier reads, and the layer.

    Args:
        model: classifier whose logits are those of a linear layer.
        tokenizer, dataset, batch_size: as of `extract_features`.

    Returns:
        Logits float32[N, C], inputs of the layer float32[N, H] at the token that the model takes, and the layer.

    Raises:
        ValueError: the logits are not those of a linear layer.
    """
    head = HeadInputs(model)
    try:
        tokenized = _tokenized(dataset, model, tokenizer, (), "cls", (-1,))
        pool = lambda outputs, batch: head.of(logits_of(outputs))[None]  # noqa: E731
        logits, features = _in_batches(model, model, tokenizer, tokenized, pool, (-1,), batch_size)
    finally:
        head.remove()
    return logits[0], features[0], head.layer


def _tokenized(
    dataset: Any, model: Any, tokenizer: Any, text_columns: Sequence[str], pooling: str, layers: Sequence[int] | None
) -> Dataset:
    """The rows with token ids, if there are any and the pooling is known."""
    problem = None if len(dataset) else "The dataset has no rows to run the model on."
    if pooling not in POOLINGS:
        problem = f"Unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}."
    elif pooling == "pooler" and (layers is None or list(layers) != [-1]):
        problem = "The pooler has no layers: leave the layers out, or choose another pooling."
    if problem:
        raise ValueError(problem)
    if "input_ids" in dataset.column_names:
        return dataset
    columns = find_text_columns(dataset, text_columns)
    return tokenize(dataset, tokenizer, columns, longest_input(tokenizer, model))


def _in_batches(
    model: Any, part: Any, tokenizer: Any, dataset: Dataset, pooling: Any, layers: Any, batch_size: int
) -> list[np.ndarray]:
    """What a part of the model returns for all rows, shared over processes: logits, if any, and features [K, N, W].

    `pooling` is a name, or a function of outputs and batch.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
    names = {name for name in tokenizer.model_input_names if name in dataset.column_names and reads(part, name)}
    columns = dataset.select_columns(sorted({*names, "input_ids"})).with_format(None)[:]
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    if (empty := np.flatnonzero(lengths == 0)).size:
        raise ValueError(f"Row {empty[0]} has no tokens: its text is empty. Remove such rows ({empty.size:,} found).")
    if max(map(max, columns.get("token_type_ids", [[0]]))) >= token_types_of(part):
        columns.pop("token_type_ids", None)
    if reads(part, "attention_mask") and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * length for length in lengths]
    ids = (getattr(base_model_of(model).config.get_text_config(), "pad_token_id", None), tokenizer.pad_token_id, 0)
    pad_id = next(found for found in ids if found is not None and found >= 0)  # masked, any token will do

    def run(index: np.ndarray) -> list[torch.Tensor]:
        """Tables of some rows in one forward pass."""
        batch = {name: [torch.tensor(column[i]) for i in index] for name, column in columns.items()}
        fill = {"input_ids": pad_id}  # at the right, which moves no token's position
        padded = {name: pad_sequence(rows, True, fill.get(name, 0)).to(model.device) for name, rows in batch.items()}
        outputs = part(**padded, output_hidden_states=True, return_dict=True)
        logits = [class_logits(logits_of(outputs))[None]] if "logits" in outputs else []
        return [*logits, pooling(outputs, padded) if callable(pooling) else _pool(outputs, padded, pooling, layers)]

    order = np.argsort(-lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    state = PartialState()
    shared = batches[state.process_index :: state.num_processes]
    found: list[np.ndarray] = []
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), reading_whole_rows(model):
            by_length = _is_changed_by_padding(run, order, lengths)
            for index in bar(shared or batches[-1:], "Extracting features"):
                tables = _in_parts(run, index, lengths, by_length)
                found = found or [np.zeros((len(one), len(order), one.shape[-1]), np.float32) for one in tables]
                for whole, one in zip(found, tables, strict=True):
                    whole[:, index] = one.float().cpu().numpy()
    finally:
        model.train(training)
    if state.num_processes == 1:
        return found
    if not shared:  # this process only learned the shapes
        found = [np.zeros_like(whole) for whole in found]
    return [reduce(torch.from_numpy(whole).to(state.device), reduction="sum").cpu().numpy() for whole in found]


def _is_changed_by_padding(run: Run, order: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether padding changes what the model returns for a row, seen at the longest row that needs any.

    It does where a head takes the last token (XLNet, decoders with another padding token, or none), and where
    something else than attention mixes tokens (FNet, ConvBERT, CANINE).
    """
    shorter = np.flatnonzero(np.diff(lengths[order]))[:1] + 1
    if not len(shorter):
        return False
    row = order[shorter]
    try:
        together, alone = run(np.concatenate([order[:1], row])), run(row)
    except ValueError:
        return True
    pairs = ((one[:, 1:].float(), other.float()) for one, other in zip(together, alone, strict=True))
    close = math.sqrt(torch.finfo(alone[0].dtype).eps)  # between rounding errors and another result
    return not all((one - other).abs().max() <= close * other.abs().max() for one, other in pairs)


def _in_parts(run: Run, index: np.ndarray, lengths: np.ndarray, by_length: bool) -> list[torch.Tensor]:
    """Tables of a batch; in parts of rows of one length if asked for, and in halves where the model takes no batch."""
    ends = np.flatnonzero(np.diff(lengths[index])) + 1 if by_length else np.empty(0, dtype=np.int64)
    if not ends.size:
        try:
            return run(index)
        except ValueError:  # BART takes no batch of rows with different numbers of </s>
            if len(index) == 1:
                raise
            ends = np.array([len(index) // 2])
    parts = [_in_parts(run, part, lengths, by_length) for part in np.split(index, ends)]
    return [torch.cat(tables, dim=1) for tables in zip(*parts, strict=True)]


def _pool(outputs: Any, batch: Any, pooling: str, layers: Sequence[int] | None) -> torch.Tensor:
    """[layers, B, H] of a batch: the pooler's output, or the first, the last or the mean token of each row."""
    by_pooler = pooling == "pooler"
    names = ("pooler_output",) if by_pooler else ("hidden_states", "encoder_hidden_states")
    states: Any = next((found for name in names if (found := getattr(outputs, name, None)) is not None), None)
    problem = None
    if states is None:
        problem = "returns no hidden states: choose an encoder or decoder"
        if by_pooler:
            problem = "returns no pooler: choose pooling cls, mean or last"
    elif wrong := [] if by_pooler else [i for i in layers or () if not -len(states) <= i < len(states)]:
        problem = f"has layers 0 to {len(states) - 1} (-1 is the last), got {wrong[0]}"
    elif pooling in ("mean", "last") and states[-1].shape[1] != batch["input_ids"].shape[1]:  # Funnel
        problem = "returns no hidden state for each token: choose pooling cls"
    if problem:
        raise ValueError(f"This model {problem}.")
    if by_pooler:
        return states[None]
    chosen = states if layers is None else [states[layer] for layer in layers]
    mask = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(batch["input_ids"])
    if pooling == "mean":
        shares = (mask / mask.sum(dim=1, keepdim=True)).to(chosen[0].dtype)
        return torch.stack([torch.einsum("bth,bt->bh", hidden, shares) for hidden in chosen])
    token = mask.argmax(dim=1) if pooling == "cls" else mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    rows = torch.arange(len(token), device=token.device)
    return torch.stack([hidden[rows, token] for hidden in chosen])
