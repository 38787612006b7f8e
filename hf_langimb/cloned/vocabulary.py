"""Vocabularies of several languages in one model: clones of one vocabulary, or two real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_langimb.files import read_json, write_json

Ints = NDArray[np.int64]
FILE = "vocabulary.json"  # next to the weights
SHARED = -1  # the language of an id that several languages use


class Vocabulary:
    """Ids of each language's tokenizer -> ids of the model.

    Args:
        tables: for each language, the model's id of every id of its tokenizer, int64[V] each.
        size: number of ids of the model.

    Raises:
        ValueError: a language that uses one id twice, or an id outside the model's.
    """

    def __init__(self, tables: Sequence[Any], size: int) -> None:
        self.tables = tuple(np.asarray(table, dtype=np.int64) for table in tables)
        self.model_vocabulary_size = size
        self._language = np.full(size, SHARED, dtype=np.int64)
        self._id = np.full(size, -1, dtype=np.int64)
        users = np.zeros(size, dtype=np.int64)
        for language, table in enumerate(self.tables):
            if not (table.min(initial=0) >= 0 and table.max(initial=0) < size) or len(np.unique(table)) < len(table):
                raise ValueError(f"Language {language} must map its ids to different ids from 0 to {size - 1}.")
            new = self._id[table] < 0
            self._id[table[new]] = np.flatnonzero(new)
            self._language[table] = language
            users[table] += 1
        self._language[users > 1] = SHARED

    @property
    def languages(self) -> int:
        """Number of languages."""
        return len(self.tables)

    @property
    def shared(self) -> int:
        """Number of ids that several languages use."""
        used = np.concatenate(self.tables)
        return len(np.unique(used[self._language[used] == SHARED]))

    def check(self, size: int) -> None:
        """Refuse a model with another number of ids; other vocabularies of the same size are not recognized.

        Raises:
            ValueError: names both numbers.
        """
        if size != self.model_vocabulary_size:
            wanted = f"{self.model_vocabulary_size} ({self.languages} languages)"
            raise ValueError(
                f"The model has {size} ids, its vocabulary {wanted}: use the {FILE} that was saved with the model."
            )

    def encode(self, ids: Any, language: int) -> Ints:
        """Ids of a language's tokenizer, of any shape, as ids of the model.

        Raises:
            ValueError: no such language, or an id that its tokenizer does not have.
        """
        if not 0 <= language < self.languages:
            raise ValueError(f"There are languages 0 to {self.languages - 1}, got {language}.")
        table = self.tables[language]
        return table[_within(ids, len(table))]

    def decode(self, ids: Any) -> tuple[Ints, Ints]:
        """Ids of the model as (ids of the tokenizer, languages), each of the same shape.

        The language is -1 where several languages share an id, whose tokenizer is then that of the first of them. An
        id that no language uses is (-1, -1).

        Raises:
            ValueError: an id that the model does not have.
        """
        ids = _within(ids, self.model_vocabulary_size)
        return self._id[ids], self._language[ids]

    def save(self, folder: str | Path) -> None:
        """Write the tables next to a model."""
        tables = [table.tolist() for table in self.tables]
        write_json(Path(folder) / FILE, {"size": self.model_vocabulary_size, "tables": tables})

    @classmethod
    def load(cls, folder: str | Path) -> Vocabulary:
        """Read the tables next to a model."""
        found = read_json(Path(folder) / FILE, "choose a model that was trained on cloned languages")
        return Vocabulary(found["tables"], found["size"])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Vocabulary)
            and self.model_vocabulary_size == other.model_vocabulary_size
            and self.languages == other.languages
            and all(np.array_equal(one, two) for one, two in zip(self.tables, other.tables, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]


class CloneMap(Vocabulary):
    """K copies of one vocabulary of V ids: id -> id + kV in language k.

    Args:
        vocabulary_size: ids of the tokenizer, V.
        languages: number of languages, K; the model has K * V ids.
        fraction_cloned: share of the ids (without padding) that differ between languages; the others are shared, with
            the ids of language 0. With one seed, a smaller share clones some of the ids that a larger one does.
        padding_id: the id that all languages share; None where the tokenizer has no padding.
        seed: of the choice of shared ids.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        vocabulary_size: int,
        languages: int = 2,
        *,
        fraction_cloned: float = 1.0,
        padding_id: int | None = 0,
        seed: int = 0,
    ) -> None:
        if vocabulary_size < 1 or languages < 1 or not 0 <= fraction_cloned <= 1:
            raise ValueError(
                "A clone map needs a vocabulary of one id or more, one language or more and a share of cloned ids "
                f"between 0 and 1, got {vocabulary_size}, {languages} and {fraction_cloned:g}."
            )
        if padding_id is not None and not 0 <= padding_id < vocabulary_size:
            raise ValueError(f"The padding id must be below the vocabulary size {vocabulary_size}, got {padding_id}.")
        ids = np.arange(vocabulary_size)
        movable = ids if padding_id is None else np.delete(ids, padding_id)
        moved = np.zeros(vocabulary_size, dtype=np.int64)
        order = np.random.default_rng(seed).permutation(movable)
        moved[order[: round(fraction_cloned * len(order))]] = vocabulary_size
        super().__init__([ids + moved * language for language in range(languages)], languages * vocabulary_size)


def real_pair(first: dict[str, int], second: dict[str, int], *, merged: bool) -> Vocabulary:
    """Two vocabularies in one model: concatenated, or with one id for equal token strings.

    Args:
        first, second: {token: id}, as `tokenizer.get_vocab()` gives them.
        merged: whether equal token strings share an id; without a common one, the result is that of two separate
            vocabularies.
    """
    sizes = [max(vocabulary.values(), default=-1) + 1 for vocabulary in (first, second)]
    table = np.arange(sizes[1]) + sizes[0]
    if merged:
        for token in first.keys() & second.keys():
            table[second[token]] = first[token]
        _, table = np.unique(np.concatenate([np.arange(sizes[0]), table]), return_inverse=True)
        table = table[sizes[0] :]
    return Vocabulary([np.arange(sizes[0]), table], int(max(sizes[0] - 1, table.max(initial=0))) + 1)


def _within(ids: Any, size: int) -> Ints:
    """Ids as int64, all from 0 to size - 1."""
    if not np.can_cast((ids := np.asarray(ids)).dtype, np.int64) and ids.size:
        raise ValueError(f"Ids must be integers, got {ids.dtype}.")
    ids = ids.astype(np.int64)
    if ids.size and not (ids.min() >= 0 and ids.max() < size):
        raise ValueError(f"Ids must be from 0 to {size - 1}, got {ids.min()} to {ids.max()}.")
    return ids
