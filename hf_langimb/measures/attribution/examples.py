"""Rows of text -> examples: token ids, their place in the text, their tree, and the ids after masking."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPECIAL = -1  # the segment of special tokens

Floats = NDArray[np.float64]


@dataclass
class Example:
    """A text or pair of T tokens as the model reads it."""

    index: int  # row of the dataset
    ids: NDArray[np.int64]
    types: NDArray[np.int64] | None  # token types, None if the model has none
    starts: list[int]  # the token's first character in its text; 0 for special tokens
    ends: list[int]
    segments: NDArray[np.int64]  # 0 the first text, 1 the second, -1 special tokens
    pieces: list[str]  # the text from each token up to the next one
    truncated: bool  # whether the text was longer than the model's limit

    @cached_property
    def content(self) -> int:
        """Bits of the tokens that can be masked."""
        return sum(1 << int(i) for i in np.flatnonzero(self.segments != SPECIAL))

    def __len__(self) -> int:
        return len(self.ids)

    def tree(self) -> Floats:
        """Merges of neighboring tokens, float[T - 1, 4], as shap's text masker makes them."""
        from shap.maskers._text import partition_tree

        words: list[str] = []
        for before, piece in itertools.pairwise([" ", *self.pieces]):
            inside = not re.match(r"^.*\W$", before) and re.match(r"^[A-Za-z]", piece) and words[-1] != ""
            words.append(("##" if inside else "") + piece.strip())
        inner = np.flatnonzero(self.segments[1:-1] == SPECIAL) + 1
        return np.asarray(partition_tree(words, sorted({self.pieces[i] for i in inner})))


@dataclass
class Attribution:
    """What a method finds for an example of T tokens."""

    values: Floats  # [T, C], of each token for each class
    base: Floats  # [C], the probabilities of the masked text
    full: Floats  # [C], those of the full text
    evaluations: int  # coalitions that were asked for
    truncated: bool = False  # whether the budget ended before the tree was opened completely
    errors: Floats | None = None  # [T, C], standard errors of the values; None without sampling
    forwards: int = 0  # different sequences that were evaluated
    orders: int | None = None  # of `owen_orders`, 0 if all were taken; None for other methods
    half_difference: Floats | None = None  # [T, C], of `owen_orders` with halves: they are values +- this


def encode(
    tokenizer: Any, texts: Sequence[Sequence[str]], *, first: int = 0, max_length: int | None = None
) -> list[Example]:
    """Tokenize one column of texts, or two, with a fast tokenizer; longer texts are truncated, and marked.

    Raises:
        ValueError: a row without any token.
        NotImplementedError: a slow tokenizer, which has no character offsets.
    """
    encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    examples = []
    for row, parts in enumerate(zip(*texts, strict=True)):
        ids = np.array(encoded["input_ids"][row], dtype=np.int64)
        if not len(ids):
            raise ValueError(
                f"Row {first + row} has no tokens: its text is empty, and this tokenizer adds no special tokens. "
                "Remove empty rows."
            )
        segments = np.array([SPECIAL if owner is None else owner for owner in encoded.sequence_ids(row)])
        types = np.array(encoded["token_type_ids"][row]) if "token_type_ids" in encoded else None
        starts, ends = map(list, zip(*encoded["offset_mapping"][row], strict=True))
        pieces = []  # a separator between two texts, nothing at the ends
        for i, segment in enumerate(segments):
            piece = (tokenizer.sep_token or "") if 0 < i < len(ids) - 1 else ""
            if segment != SPECIAL:
                goes_on = i + 1 < len(ids) and segments[i + 1] == segment
                piece = parts[segment][starts[i] : max(ends[i], starts[i + 1]) if goes_on else ends[i]]
            pieces.append(piece)
        truncated = bool(encoded.encodings[row].overflowing)
        examples.append(Example(first + row, ids, types, starts, ends, segments, pieces, truncated))
    return examples
