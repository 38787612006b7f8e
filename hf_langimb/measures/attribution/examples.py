"""Rows of text -> examples: token ids, their place in the text, their tree, and the ids after masking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPECIAL = -1  # the segment of special tokens

Floats = NDArray[np.float64]


@dataclass
class Example:
    """A text or pair as the model reads it.

    Args:
        index: row of the data set.
        ids: int64[T], token ids.
        types: int64[T], token types, or None if the model has none.
        starts, ends: int[T], characters of the token in its text; 0, 0 for special tokens.
        segments: int[T], 0 the first text, 1 the second, -1 special tokens.
        pieces: T strings, the text from this token up to the next one.
        truncated: whether the text was longer than the model's limit.
    """

    index: int
    ids: NDArray[np.int64]
    types: NDArray[np.int64] | None
    starts: list[int]
    ends: list[int]
    segments: NDArray[np.int64]
    pieces: list[str]
    truncated: bool
    content: int = field(init=False)

    def __post_init__(self) -> None:
        self.content = sum(1 << int(i) for i in np.flatnonzero(self.segments != SPECIAL))  # bits of maskable tokens

    def __len__(self) -> int:
        return len(self.ids)

    def tree(self) -> Floats:
        """Merges of neighbouring tokens, float[T - 1, 4], as shap's text masker makes them."""
        from shap.maskers._text import partition_tree

        words: list[str] = []
        for i, piece in enumerate(self.pieces):
            inside = (
                i > 0
                and re.match(r"^.*\W$", self.pieces[i - 1]) is None
                and re.match(r"^[A-Za-z]", piece)
                and words[i - 1] != ""
            )
            words.append(("##" if inside else "") + piece.strip())
        inner = np.flatnonzero(self.segments[1:-1] == SPECIAL) + 1
        return np.asarray(partition_tree(words, sorted({self.pieces[i] for i in inner})))


@dataclass
class Attribution:
    """What a method finds for an example of T tokens.

    Args:
        values: float64[T, C], of each token for each class.
        base, full: float64[C], the probabilities of the masked and of the full text.
        evaluations: coalitions that were asked for.
        truncated: whether the budget ended before the tree was opened completely.
        errors: float64[T, C], standard errors of the values; None without sampling.
        forwards: different sequences that were evaluated.
    """

    values: Floats
    base: Floats
    full: Floats
    evaluations: int
    truncated: bool = False
    errors: Floats | None = None
    forwards: int = 0


def encode(
    tokenizer: Any, texts: Sequence[Sequence[str]], *, first: int = 0, max_length: int | None = None
) -> list[Example]:
    """Tokenize single texts or pairs; texts longer than the model are truncated, and marked.

    Args:
        tokenizer: a fast one.
        texts: one column of texts, or two.
        first: index of the first row.
        max_length: in tokens; None takes the tokenizer's.

    Raises:
        ValueError: a row without any token.
        NotImplementedError: a slow tokenizer, which has no character offsets.
    """
    encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    separator = tokenizer.sep_token or ""
    examples = []
    for row, parts in enumerate(zip(*texts, strict=True)):
        ids = np.array(encoded["input_ids"][row], dtype=np.int64)
        if not len(ids):
            raise ValueError(
                f"Row {first + row} has no tokens: its text is empty, and this tokenizer adds no special tokens. "
                "Remove empty rows."
            )
        owners = encoded.sequence_ids(row)
        segments = np.array([SPECIAL if owner is None else owner for owner in owners])
        offsets = encoded["offset_mapping"][row]
        examples.append(
            Example(
                index=first + row,
                ids=ids,
                types=np.array(encoded["token_type_ids"][row]) if "token_type_ids" in encoded else None,
                starts=[start for start, _ in offsets],
                ends=[end for _, end in offsets],
                segments=segments,
                pieces=_pieces(parts, offsets, segments, separator),
                truncated=bool(encoded.encodings[row].overflowing),
            )
        )
    return examples


def _pieces(
    parts: Sequence[str], offsets: Sequence[tuple[int, int]], segments: NDArray[np.int64], separator: str
) -> list[str]:
    """The text of each token with the space behind it; a separator between two texts, nothing at the ends."""
    pieces = []
    for i, ((start, end), segment) in enumerate(zip(offsets, segments, strict=True)):
        if segment == SPECIAL:
            pieces.append(separator if 0 < i < len(segments) - 1 else "")
            continue
        follows = i + 1 < len(segments) and segments[i + 1] == segment
        pieces.append(parts[segment][start : max(end, offsets[i + 1][0]) if follows else end])
    return pieces


def mask_ids(example: Example, coalitions: Sequence[int], mask_id: int) -> NDArray[np.int64]:
    """int64[n, T]: the example's ids where the coalition has the token's bit, the mask token elsewhere."""
    width = (len(example) + 7) // 8
    raw = b"".join(bits.to_bytes(width, "little") for bits in coalitions)
    written = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(-1, width), 1, len(example), "little")
    return np.where(written.astype(bool) | (example.segments == SPECIAL), example.ids, mask_id)
