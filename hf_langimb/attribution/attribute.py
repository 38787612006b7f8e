"""Attribute the predictions on a whole data set to its tokens: shards that are computed and written one by one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from hf_langimb.attribution import BUDGET_UNITS, DTYPES, MASKINGS, METHODS
from hf_langimb.attribution.engine import Forward, explain, id_masker, string_masker
from hf_langimb.attribution.examples import Example, encode
from hf_langimb.attribution.owen import owen_values
from hf_langimb.attribution.shapley import shapley_values
from hf_langimb.attribution.store import SCHEMA_VERSION, AttributionStore, is_written, open_store, write_shard
from hf_langimb.columns import labels_by_name
from hf_langimb.data.loading import find_text_columns, longest_input
from hf_langimb.progress import bar

logger = logging.getLogger(__name__)

SHARD = 256  # examples; those of a shard are in flight together


def attribute(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    *,
    out: str | Path,
    method: str = "owen",
    masking: str = "ids",
    budget: int | None = 500,
    budget_unit: str = "evaluations",
    dtype: str = "float32",
    text_columns: Sequence[str] = (),
    max_length: int | None = None,
    batch_tokens: int | None = None,
    shard_size: int = SHARD,
    seed: int = 0,
) -> AttributionStore:
    """Attribute the probabilities of all classes to the tokens of each row; several processes share the work.

    p(T, y) = sum of S over the tokens + base, base = p(y | every token masked) (arXiv 2402.13016, section 4.3). A
    stopped call goes on where it was: shards that are written are not computed again.

    Args:
        model: any `AutoModelForSequenceClassification`, adapters included, on its device; it is not changed.
        tokenizer: its fast tokenizer.
        dataset: rows with texts; `id`, `language` and `label` are kept where they are there.
        out: folder of the store.
        method: `owen` (shap's Partition explainer) or `shapley` (paired KernelSHAP, with standard errors).
        masking: `ids` puts the mask token in a token's place; `string` masks the text and tokenizes it again, as shap
            does by default (single texts alone). A tokenizer without mask token masks with "...", as shap does.
        budget: evaluations of each example, those of the empty and the full text included; None takes all there are.
        budget_unit: `evaluations` as shap counts them, or `forwards`: different sequences.
        dtype: float32, float64 or bfloat16 (which moves probabilities by some thousandths).
        text_columns: one, or two for a pair; empty takes the usual names.
        max_length: in tokens; None takes the tokenizer's. Longer texts are truncated, and counted.
        batch_tokens: of a forward pass; None takes what suits the device. Halved where memory runs out.
        shard_size: examples that are computed and written together.
        seed: of the draws, and of the order of equally large effects.

    Raises:
        ValueError: unknown settings, no rows or text, a row without tokens, a label that the model does not have, a
            store of something else in `out`, or probabilities that are not finite.
        OSError: the disk is full; shards that are written stay.
    """
    _check(method, masking, budget, budget_unit, dtype, shard_size)
    if len(dataset) == 0:
        raise ValueError("No rows to explain: the data set is empty.")
    columns = find_text_columns(dataset, text_columns)
    if masking == "string" and len(columns) == 2:
        raise ValueError("masking='string' would make one text of a pair: use masking='ids', or one text column.")
    max_length = max_length or longest_input(tokenizer, model.config)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if "label" in dataset.column_names:
        dataset = dataset.remove_columns("label").add_column("label", labels_by_name(dataset, names))
    state = PartialState()
    forward = Forward(model, dtype, batch_tokens)
    mask_id, mask_token = _mask_token(tokenizer)
    lengths, data_hash, truncated = _measure(tokenizer, dataset, columns, max_length)
    order = np.lexsort((np.arange(len(lengths)), -lengths))  # neighbours of one length, the longest first
    shards = [np.sort(order[i : i + shard_size]) for i in range(0, len(order), shard_size)]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "masking": masking,
        "budget": budget,
        "budget_unit": budget_unit,
        "dtype": dtype,
        "seed": seed,
        "labels": names,
        "text_columns": columns,
        "max_length": max_length,
        "mask_token": mask_token,
        "mask_token_is_substitute": tokenizer.mask_token_id is None,
        "model": _hash_of_weights(model),
        "tokenizer": _hash_of_tokenizer(tokenizer),
        "data": data_hash,
        "examples": len(dataset),
        "truncated_texts": truncated,
        "shards": len(shards),
        "shard_size": shard_size,
    }
    folder = Path(out)
    if state.is_main_process:
        open_store(folder, manifest)
        if truncated:
            logger.warning("%s of %s texts are longer than the model and were truncated.", truncated, len(dataset))
        if tokenizer.mask_token_id is None:
            logger.warning("This tokenizer has no mask token: %r stands for it.", mask_token)
    state.wait_for_everyone()
    todo = [number for number in range(len(shards)) if not is_written(folder, number)]
    state.wait_for_everyone()  # all have seen the same shards; now they write
    todo = todo[state.process_index :: state.num_processes]
    training = model.training
    forward.model.eval()
    try:
        with bar(description="Explaining", total=sum(len(shards[number]) for number in todo), unit="row") as progress:
            for number in todo:
                rows = dataset.select(shards[number])
                texts = [rows[column][:] for column in columns]
                examples = encode(tokenizer, texts, max_length=max_length)
                masker = id_masker(mask_id) if masking == "ids" else string_masker(tokenizer, texts[0])
                ordered = sorted(examples, key=len, reverse=True)
                generators = (_values(e, method, budget, budget_unit == "forwards", seed) for e in ordered)
                found: list[Any] = [None] * len(examples)
                for example, result in explain(ordered, generators, masker, forward):
                    found[example.index] = _columns(example, result)
                    progress.update()
                write_shard(folder, number, [_known(*known) for known in zip(shards[number], rows, found, strict=True)])
    finally:
        model.train(training)
    state.wait_for_everyone()
    return AttributionStore(folder)


def _check(method: str, masking: str, budget: int | None, budget_unit: str, dtype: str, shard_size: int) -> None:
    for name, value, known in (
        ("method", method, METHODS),
        ("masking", masking, MASKINGS),
        ("budget_unit", budget_unit, BUDGET_UNITS),
        ("dtype", dtype, DTYPES),
    ):
        if value not in known:
            raise ValueError(f"Unknown {name} {value!r}: choose one of {', '.join(known)}.")
    if budget is not None and budget < 4:
        raise ValueError(f"Expected a budget of 4 evaluations or more, or None for all, found {budget}.")
    if shard_size < 1:
        raise ValueError(f"Expected a shard_size of 1 or more, found {shard_size}.")


def _mask_token(tokenizer: Any) -> tuple[int, str]:
    """Id and text of what stands for a masked token; "..." (as in shap) where the tokenizer has none."""
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id, tokenizer.mask_token
    substitute = tokenizer.encode("...", add_special_tokens=False)[0]
    return substitute, tokenizer.convert_ids_to_tokens(substitute)


def _measure(
    tokenizer: Any, dataset: Any, columns: Sequence[str], max_length: int | None
) -> tuple[np.ndarray, str, int]:
    """Length of each row in tokens, a hash of all of them, and how many were truncated."""
    lengths: list[int] = []
    digest = hashlib.sha256()
    truncated = 0
    kept = [name for name in ("id", "language", "label") if name in dataset.column_names]
    for first in range(0, len(dataset), 1000):
        rows = dataset[first : first + 1000]
        examples = encode(tokenizer, [rows[column] for column in columns], first=first, max_length=max_length)
        lengths += [len(example) for example in examples]
        truncated += sum(example.truncated for example in examples)
        for example in examples:
            digest.update(example.ids.tobytes())
            digest.update(example.segments.tobytes())
        digest.update(repr([rows[name] for name in kept]).encode())
    return np.array(lengths), digest.hexdigest()[:16], truncated


def _hash_of_weights(model: Any) -> str:
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if ".original_module." in name:  # a head that PEFT has replaced: random, and not used
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _hash_of_tokenizer(tokenizer: Any) -> str:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return hashlib.sha256(plain.to_str().encode()).hexdigest()[:16]


def _values(example: Example, method: str, budget: int | None, forwards: bool, seed: int) -> Any:
    if method == "owen":
        return owen_values(example.tree(), budget=budget, maskable=example.content, count_forwards=forwards, seed=seed)
    players = [i for i in range(len(example)) if example.content >> i & 1]
    return shapley_values(players, len(example), budget=budget, seed=seed)


def _columns(example: Example, result: dict[str, Any]) -> dict[str, Any]:
    """The columns of an example and of its tokens, without what the data set knows."""
    tokens = {
        "position": np.arange(len(example)),
        "token_id": example.ids,
        "start": example.starts,
        "end": example.ends,
        "segment": example.segments,
        "piece": example.pieces,
        "S": result["values"],
    }
    if "standard_error" in result:
        tokens["standard_error"] = result["standard_error"]
    return {
        "p": result["full"],
        "base": result["base"],
        "evaluations": result["evaluations"],
        "forwards": result["forwards"],
        "truncated": result["truncated"],
        "text_truncated": example.truncated,
        "tokens": tokens,
    }


def _known(index: int, row: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """The columns of an example with those that the data set knows."""
    given = {name: None if row.get(name) is None else str(row[name]) for name in ("id", "language", "label")}
    tokens = {"example": np.full(len(columns["tokens"]["position"]), index)} | columns["tokens"]
    return columns | given | {"example": int(index), "tokens": tokens}
