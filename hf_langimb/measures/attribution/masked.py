"""Base values of many rows: the probabilities where every token is masked, one forward pass per distinct input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_langimb.console import bar
from hf_langimb.measures.attribution.engine import Forward
from hf_langimb.measures.attribution.examples import Floats
from hf_langimb.models.inputs import longest_input, reading_whole_rows


def mask_id_of(tokenizer: Any) -> int | None:
    """The id of the mask token; without one, that of the first token of "...", as in shap, or None."""
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    return next(iter(tokenizer.encode("...", add_special_tokens=False)), None)


def base_of_rows(
    model: Any, tokenizer: Any, dataset: Dataset, text_columns: Sequence[str], max_length: int | None
) -> Floats | None:
    """float64[N, C], the base values that `attribute` finds for the rows; None where it cannot mask them.

    Rows with equally many tokens in each text are the same when every token is masked.
    """
    if (mask_id := mask_id_of(tokenizer)) is None or not tokenizer.is_fast:
        return None
    forward = Forward(model)
    max_length = longest_input(tokenizer, model) if max_length is None else max_length
    forms: dict[tuple[bytes, bytes], tuple[Any, Any]] = {}
    rows_of: defaultdict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for rows in dataset.select_columns(list(text_columns)).iter(1000):
        encoded = tokenizer(*(rows[column] for column in text_columns), truncation=True, max_length=max_length)
        known_types = encoded.get("token_type_ids", [None] * len(encoded["input_ids"]))
        first = sum(map(len, rows_of.values()))
        for row, (ids, types) in enumerate(zip(encoded["input_ids"], known_types, strict=True)):
            owners = encoded.sequence_ids(row)
            masked = [token if owner is None else mask_id for token, owner in zip(ids, owners, strict=True)]
            inputs = np.array([masked]), None if types is None else np.array([types])
            key = inputs[0].tobytes(), b"" if inputs[1] is None else inputs[1].tobytes()
            forms[key] = inputs
            rows_of[key].append(first + row)
    training = model.training
    forward.model.eval()
    with reading_whole_rows(forward.model):
        found = {key: forward(*inputs)[0] for key, inputs in bar(forms.items(), "Reading masked texts")}
    model.train(training)
    values = np.zeros((len(dataset), len(next(iter(found.values())))))
    for key, places in rows_of.items():
        values[places] = found[key]
    return values
