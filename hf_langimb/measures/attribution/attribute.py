"""Attribute the predictions on a whole data set to its tokens: shards that are computed and written one by one."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset

from hf_langimb.console import bar
from hf_langimb.counts.columns import class_label_names
from hf_langimb.data.rows import find_text_columns
from hf_langimb.measures.attribution import BUDGET_UNITS, DTYPES, MASKINGS, METHODS
from hf_langimb.measures.attribution.engine import Forward, explain, id_masker, string_masker
from hf_langimb.measures.attribution.examples import Example, encode
from hf_langimb.measures.attribution.owen import owen_values
from hf_langimb.measures.attribution.shapley import shapley_values
from hf_langimb.measures.attribution.store import (
    SCHEMA_VERSION,
    AttributionStore,
    is_written,
    open_store,
    require_same,
    write_shard,
)
from hf_langimb.models.axes import class_names, match_labels
from hf_langimb.models.loading import longest_input

logger = logging.getLogger(__name__)

SHARD = 256  # examples that are written together
NOT_OF_THE_FUNCTION = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "langimb",
    "id2label",
    "label2id",
    "use_cache",
}


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
            `shapley` takes four a token at least.
        budget_unit: `evaluations` as shap counts them, or `forwards`: different sequences.
        dtype: float32, float64 or bfloat16 (which moves probabilities by some thousandths, and says so).
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
    integers = {"shard_size": shard_size, "seed": seed, "budget": budget, "batch_tokens": batch_tokens}
    _check(method, masking, budget_unit, dtype, integers)
    dataset, columns = _readable(dataset, [text_columns] if isinstance(text_columns, str) else text_columns)
    if masking == "string" and len(columns) == 2:
        raise ValueError("masking='string' would make one text of a pair: use masking='ids', or one text column.")
    max_length = _limit(tokenizer, model.config, max_length, pair=len(columns) == 2)
    names = _names(model.config)
    if "label" in dataset.column_names:
        dataset = dataset.remove_columns("label").add_column("label", match_labels(dataset, names))
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
        "model": _fingerprint(model),
        "tokenizer": _hash_of_tokenizer(tokenizer),
        "data": data_hash,
        "examples": len(dataset),
        "truncated_texts": truncated,
        "shards": len(shards),
        "shard_size": shard_size,
    }
    folder = Path(out)
    require_same(folder, manifest)  # in every process, so that all end alike
    state.wait_for_everyone()
    if state.is_main_process:
        open_store(folder, manifest)
        if truncated:
            logger.warning("%s of %s texts are longer than the model and were truncated.", truncated, len(dataset))
        if dtype == "bfloat16":
            logger.warning("bfloat16 moves probabilities by some thousandths: compare with stores of this type alone.")
        if tokenizer.mask_token_id is None:
            logger.warning("This tokenizer has no mask token: %r stands for it.", mask_token)
    state.wait_for_everyone()
    todo = [number for number in range(len(shards)) if not is_written(folder, number)]
    state.wait_for_everyone()  # all have seen the same shards; now they write
    todo = todo[state.process_index :: state.num_processes]
    modes = [(module, module.training) for module in model.modules()]
    forward.model.eval()
    try:
        with bar(description="Explaining", total=sum(len(shards[number]) for number in todo), unit="row") as progress:
            for number in todo:
                rows = dataset.select(shards[number])
                texts = [rows[column][:] for column in columns]
                examples = encode(tokenizer, texts, max_length=max_length)
                masker = id_masker(mask_id) if masking == "ids" else string_masker(tokenizer, texts[0], max_length)
                ordered = sorted(examples, key=len, reverse=True)
                generators = (_values(e, method, budget, budget_unit == "forwards", seed) for e in ordered)
                found: list[Any] = [None] * len(examples)
                for example, result in explain(ordered, generators, masker, forward):
                    found[example.index] = _columns(example, result)
                    progress.update()
                write_shard(folder, number, [_known(*known) for known in zip(shards[number], rows, found, strict=True)])
    finally:
        for module, training in modes:
            module.training = training
    state.wait_for_everyone()
    return AttributionStore(folder)


def _check(method: str, masking: str, budget_unit: str, dtype: str, integers: dict[str, Any]) -> None:
    for name, value, known in (
        ("method", method, METHODS),
        ("masking", masking, MASKINGS),
        ("budget_unit", budget_unit, BUDGET_UNITS),
        ("dtype", dtype, DTYPES),
    ):
        if value not in known:
            raise ValueError(f"Unknown {name} {value!r}: choose one of {', '.join(known)}.")
    if method == "shapley" and budget_unit == "forwards":
        raise ValueError("budget_unit='forwards' counts for method='owen' alone: leave it out.")
    least = {"shard_size": 1, "seed": 0, "budget": 4, "batch_tokens": 1}
    for name, value in integers.items():
        optional = name in ("budget", "batch_tokens")
        if (value is None and optional) or (type(value) is int and value >= least[name]):
            continue
        unit = " evaluations" if name == "budget" else ""
        raise ValueError(
            f"Expected a {name} of {least[name]}{unit} or more{', or None' if optional else ''}, found {value!r}."
        )


def _readable(dataset: Any, text_columns: Sequence[str]) -> tuple[Dataset, list[str]]:
    """The rows without a format, languages and ids by name, and the text columns.

    Raises:
        ValueError: no `Dataset`, no rows, or texts that are no strings.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"Expected a datasets.Dataset, found {type(dataset).__name__}: name one split, or make a list of rows one "
            "with Dataset.from_list."
        )
    if len(dataset) == 0:
        raise ValueError("No rows to explain: the data set is empty.")
    dataset = dataset.with_format(None)
    columns = find_text_columns(dataset, text_columns)
    for column in {"language", "id"} & {*dataset.column_names}:
        if classes := class_label_names(dataset, column):
            named = [None if value is None else classes[value] for value in dataset[column]]
            dataset = dataset.remove_columns(column).add_column(column, named)
    return dataset, columns


def _limit(tokenizer: Any, config: Any, max_length: int | None, pair: bool) -> int | None:
    """In tokens: what is asked for where the model can read it, else its own."""
    longest, specials = longest_input(tokenizer, config), tokenizer.num_special_tokens_to_add(pair)
    if max_length is None:
        return longest
    longest = longest or getattr(config, "max_position_embeddings", None)
    if type(max_length) is not int or max_length <= specials or (longest and max_length > longest):
        raise ValueError(
            f"Expected a max_length of {specials + 1} tokens or more{f', up to {longest}' if longest else ''}, found "
            f"{max_length!r}."
        )
    return max_length


def _names(config: Any) -> list[str]:
    """Of the classes.

    Raises:
        ValueError: the model is a regression, or its classes have not each a name of its own.
    """
    if config.problem_type == "regression":
        raise ValueError("Attributions are of probabilities; this model is a regression (problem_type).")
    names = class_names(config)
    if len(set(names)) < len(names) or "None" in names:
        raise ValueError(f"Expected a name for each class, each another, found id2label {config.id2label}.")
    return names


def _mask_token(tokenizer: Any) -> tuple[int, str]:
    """Id and text of what stands for a masked token; "..." (as in shap) where the tokenizer has none."""
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id, tokenizer.mask_token
    substitute = next(iter(tokenizer.encode("...", add_special_tokens=False)), None)
    if substitute is None:
        raise ValueError("This tokenizer has no mask token, and no token for '...' either: set tokenizer.mask_token.")
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
            digest.update(repr((len(example), example.ids.tolist(), example.segments.tolist())).encode())
        digest.update(repr([rows[name] for name in (*columns, *kept)]).encode())
    return np.array(lengths), digest.hexdigest()[:16], truncated


def _fingerprint(model: Any) -> str:
    """Of all that a prediction depends on: weights, configuration, and which adapters are on."""
    kept = {key: value for key, value in model.config.to_dict().items() if key not in NOT_OF_THE_FUNCTION}
    digest = hashlib.sha256(repr((type(model).__name__, sorted(kept.items(), key=str))).encode())
    for name, module in model.named_modules():
        if hasattr(module, "active_adapters") and hasattr(module, "scaling"):
            state = module.active_adapters, sorted(module.scaling.items()), getattr(module, "disable_adapters", False)
            digest.update(repr((name, *state)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if ".original_module." in name:  # a head that PEFT has replaced: random, and not used
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
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
    draws = (seed, zlib.crc32(example.ids.tobytes()))  # others for each text, so that errors do not add up over texts
    return shapley_values(players, len(example), budget=budget, seed=draws)


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
