"""Training windows in the language that the schedule gives them, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_langimb.cloned.vocabulary import Vocabulary

Ints = NDArray[np.int64]


class TrainingWindows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The windows of a whole training: item `step * rows + row` is that row of that optimizer step.

    Read it in order (`train_sampling_strategy="sequential"`), for one epoch. An item then has the same text and the
    same language, however the rows of a step are divided among processes and accumulated batches, and wherever the
    training is resumed. Windows are shuffled for each pass over the texts.

    Args:
        vocabulary: of the model.
        texts: windows of each language, in ids of its tokenizer, int[N, length] each; clones have the same ones.
        languages: of each window of each step, int[steps, rows] (see `all_languages`).
        padding_id: in ids of the tokenizers, which is not predicted; None where there is none.
        seed: of the order.
        parallel: whether languages have the same texts, of which each is then read in one language per pass; else each
            language has its own texts, and its own order.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        texts: Sequence[Ints],
        languages: Ints,
        *,
        padding_id: int | None = None,
        seed: int = 0,
        parallel: bool = True,
    ) -> None:
        self.vocabulary, self.texts, self.padding_id, self.seed = vocabulary, texts, padding_id, seed
        self.languages = languages.ravel().astype(np.int32)
        self.order = _order(len(texts[0]), len(self.languages), seed)  # which of its texts each window is
        if not parallel:
            for language, of in enumerate(texts):
                chosen = self.languages == language
                self.order[chosen] = _order(len(of), int(chosen.sum()), seed)

    def __len__(self) -> int:
        return len(self.languages)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Several items at once, as PyTorch reads a batch: one by one takes ten times as long."""
        places = np.asarray(positions)
        languages, order = self.languages[places], self.order[places]
        ids = np.empty((len(places), self.texts[0].shape[1]), dtype=np.int64)
        labels = np.empty_like(ids)
        for language in np.unique(languages):
            chosen = languages == language
            texts = self.texts[language][order[chosen]]
            ids[chosen] = self.vocabulary.encode(texts, int(language))
            labels[chosen] = np.where(texts == self.padding_id, -100, ids[chosen])
        rows = zip(torch.from_numpy(ids), torch.from_numpy(labels), strict=True)
        return [{"input_ids": one, "labels": label} for one, label in rows]

    def tokens(self, windows: int | None = None) -> Ints:
        """Tokens of each language in the first windows, int64[K]; None: in all."""
        read = np.bincount(self.languages[:windows], minlength=len(self.texts))
        return read * np.array([of.shape[1] for of in self.texts])

    def seen_in_several(self) -> float:
        """Share of the windows of text that are read in more than one language, where languages are clones."""
        pairs = np.unique(np.stack([self.order, self.languages]), axis=1)[0]
        _, times = np.unique(pairs, return_counts=True)
        return float((times > 1).mean())


def _order(length: int, count: int, seed: int) -> Ints:
    """Which of `length` texts each of `count` windows is: one random order after another."""
    passes = -(-count // length)
    rng = np.random.default_rng([seed, 2])
    return np.concatenate([rng.permutation(length) for _ in range(max(passes, 1))])[:count]


def cut(ids: Any, length: int) -> Ints:
    """A text as consecutive windows, int[N, length]; a shorter remainder is left out.

    Raises:
        ValueError: the text is shorter than a window.
    """
    ids = np.asarray(ids)
    if len(ids) < length:
        raise ValueError(f"The text has {len(ids):,} tokens, less than one window of {length:,}: add text.")
    return ids[: len(ids) // length * length].reshape(-1, length)
