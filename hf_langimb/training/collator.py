"""Batches that know the language of each row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, DefaultDataCollator, PreTrainedTokenizerBase, default_data_collator

from hf_langimb.models.axes import IGNORED_LABEL

IDS = "language_ids"
LABELS = ("labels", "label", "label_ids")
ROWS_IN_ORDER = (DataCollatorWithPadding, DefaultDataCollator)  # collators that keep rows and labels as they are


class DataCollatorWithLanguage:
    """Pads a batch and turns its language column into `language_ids`, int64[B].

    Args:
        tokenizer: pads the batch; None takes rows of equal length.
        languages: the language axis (`JointDistribution.languages`); a row's id is its place on it, -1 for a language
            that is not on it. Integers are class ids of that axis, unless the axis itself contains numbers. None: the
            languages are numbered as they appear.
        language_column: name of the column; rows without it give no `language_ids`.
        collator: pads everything else; by default `DataCollatorWithPadding(tokenizer)`. It may drop, repeat or reorder
            rows: their language ids stay with their labels.

    Raises:
        ValueError: in a batch whose `collator` returns labels that none of its rows has, or hides which row is where.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        languages: Sequence[str] | None,
        language_column: str = "language",
        collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.languages = tuple(map(str, languages or ()))
        self.language_column = language_column
        self.collator = collator or (DataCollatorWithPadding(tokenizer) if tokenizer else default_data_collator)
        self._numbers_new = languages is None
        self._ids = {language: i for i, language in enumerate(self.languages)}
        if not any(language.isdigit() for language in self.languages):
            self._ids |= {str(i): i for i in range(len(self.languages))}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows; each is a mapping with the tokenized inputs, a label and the language."""
        features = _with_known_labels(features)
        languages = [feature.pop(self.language_column, None) for feature in features]
        if all(language is None for language in languages):
            return self.collator(features)
        ids = [self._id(language) for language in languages]
        if type(self.collator) in ROWS_IN_ORDER or self.collator is default_data_collator:
            batch = self.collator(features)
            batch[IDS] = torch.tensor(ids)
            return batch
        for number, feature in enumerate(features):
            feature[IDS] = number
        randomness = random.getstate(), np.random.get_state(), torch.get_rng_state()
        batch = self.collator(features)
        labels = next((batch[name] for name in LABELS if name in batch), None)
        rows = batch[IDS].long() if IDS in batch else None
        name = next((name for name in LABELS if name in features[0]), "")
        several = isinstance(features[0].get(name), list)
        if several and rows is None:
            raise ValueError(f"data_collator must keep the column {IDS!r} in the batch, where labels are lists.")
        if not isinstance(labels, torch.Tensor) or labels.dim() != 1 + several:  # no labels, or refused later
            batch[IDS] = torch.tensor(ids) if rows is None else torch.tensor(ids)[rows]
            return batch
        if rows is None:
            rows = self._order(features, name, randomness, batch)
        values = [feature.get(name, IGNORED_LABEL) for feature in features]
        given = torch.tensor(values if several else [int(value) for value in values])
        inside, counted = rows.clamp(0, len(ids) - 1), labels != IGNORED_LABEL  # which a collator may set
        fits = len(rows) == len(labels) and given[inside].shape == labels.shape
        fits = fits and bool(
            (given[inside] == labels)[counted].all() and (inside == rows)[counted.nonzero()[:, 0]].all()
        )
        if name and not fits:
            raise ValueError(
                "data_collator changes labels, or its rows cannot be traced to the dataset. Change labels in the "
                f"dataset, where they are counted, and keep the column {IDS!r} in the batch."
            )
        batch[IDS] = torch.tensor(ids)[inside]
        return batch

    def _order(
        self, features: list[dict[str, Any]], label: str, randomness: tuple[Any, ...], batch: Any
    ) -> torch.Tensor:
        """Which row each row of a batch is, int64[B]: collated again with numbers for labels; empty if that fails."""
        for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), randomness, strict=True):
            restore(state)
        try:
            again = self.collator([{**feature, label: i} for i, feature in enumerate(features)])
            same = all(torch.equal(batch[name], again[name]) for name in again if name not in LABELS)
            return next(again[name] for name in LABELS if name in again).long()[: None if same else 0]
        except Exception:  # of a collator, any
            return torch.empty(0, dtype=torch.int64)

    def _id(self, language: Any) -> int:
        """A language's place on the axis, -1 if it has none."""
        name = str(language.item() if isinstance(language, torch.Tensor) else language)
        if self._numbers_new and language is not None:
            return self._ids.setdefault(name, len(self._ids))
        return self._ids.get(name, -1)


def _with_known_labels(features: list[Any]) -> list[dict[str, Any]]:
    """Rows in whose lists of labels, if they have some, values that are not known (null, NaN) are -100."""
    rows = [dict(feature) for feature in features]
    for row in rows:
        for name in LABELS:
            values: Any = row.get(name)
            if isinstance(values, list | tuple) or getattr(values, "ndim", 0) == 1:
                values = values.tolist() if hasattr(values, "tolist") else values
                row[name] = [float(IGNORED_LABEL if value is None or value != value else value) for value in values]
    return rows
