"""Fingerprints of models, tokenizers and rows: they show whether results belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer

from hf_langimb.measures.attribution.examples import encode

KNOWN = ("id", "language", "label")  # columns of the dataset that a store keeps
NOT_OF_THE_FUNCTION = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
NOT_OF_THE_FUNCTION |= {"langimb", "id2label", "label2id", "use_cache"}


def measure_rows(
    tokenizer: Any, dataset: Dataset, columns: Sequence[str], max_length: int | None
) -> tuple[list[int], str, int]:
    """Length of each row in tokens, a hash of all rows, and how many were truncated."""
    lengths: list[int] = []
    digest = hashlib.sha256()
    truncated = 0
    kept = [name for name in KNOWN if name in dataset.column_names]
    for rows in dataset.iter(1000):
        examples = encode(tokenizer, [rows[column] for column in columns], first=len(lengths), max_length=max_length)
        lengths += [len(example) for example in examples]
        truncated += sum(example.truncated for example in examples)
        for example in examples:
            digest.update(repr((len(example), example.ids.tolist(), example.segments.tolist())).encode())
        digest.update(repr([rows[name] for name in (*columns, *kept)]).encode())
    return lengths, digest.hexdigest()[:16], truncated


def hash_rows(dataset: Dataset, columns: Sequence[str]) -> str:
    """A hash of the texts of all rows, and of what is known of them."""
    kept = [*columns, *(name for name in KNOWN if name in dataset.column_names)]
    digest = hashlib.sha256(repr(kept).encode())
    for rows in dataset.select_columns(kept).iter(1000):
        digest.update(repr([rows[name] for name in kept]).encode())
    return digest.hexdigest()[:16]


def hash_model(model: Any) -> str:
    """A hash of all that a prediction depends on: weights, configuration, and the active adapters."""
    kept = {key: value for key, value in model.config.to_dict().items() if key not in NOT_OF_THE_FUNCTION}
    digest = hashlib.sha256(repr((type(model).__name__, sorted(kept.items(), key=str))).encode())
    for name, module in model.named_modules():
        if hasattr(module, "active_adapters") and hasattr(module, "scaling"):
            state = module.active_adapters, sorted(module.scaling.items()), getattr(module, "disable_adapters", False)
            digest.update(repr((name, *state)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if ".original_module." not in name:  # a head that PEFT has replaced: random, and not used
            digest.update(name.encode())
            digest.update(np.asarray(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)).tobytes())
    return digest.hexdigest()[:16]


def hash_tokenizer(tokenizer: Any) -> str:
    """A hash of a fast tokenizer, without what a call changes (truncation and padding)."""
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return hashlib.sha256(plain.to_str().encode()).hexdigest()[:16]
