"""Batches that know the language of each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, default_data_collator


class DataCollatorWithLanguage:
    """Pads a batch and turns its language column into `language_ids`, int64[B].

    Args:
        tokenizer: pads the batch; None takes rows of equal length.
        languages: the language axis (`JointDistribution.languages`); a row's id is its place on it, -1 for a language
            that is not on it. Integers are class ids of that axis, unless the axis itself contains numbers.
        language_column: name of the column; rows without it give no `language_ids`.
        collator: pads everything else; by default `DataCollatorWithPadding(tokenizer)`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        languages: Sequence[str],
        language_column: str = "language",
        collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.languages = tuple(map(str, languages))
        self.language_column = language_column
        self.collator = collator or (DataCollatorWithPadding(tokenizer) if tokenizer else default_data_collator)
        self._ids = {language: i for i, language in enumerate(self.languages)}
        if not any(language.isdigit() for language in self.languages):
            self._ids |= {str(i): i for i in range(len(self.languages))}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows; each is a mapping with the tokenized inputs, a label and the language."""
        features = [dict(feature) for feature in features]
        languages = [feature.pop(self.language_column, None) for feature in features]
        batch = self.collator(features)
        if any(language is not None for language in languages):
            names = [str(name.item() if isinstance(name, torch.Tensor) else name) for name in languages]
            batch["language_ids"] = torch.tensor([self._ids.get(name, -1) for name in names], dtype=torch.int64)
        return batch
