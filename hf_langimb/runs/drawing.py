"""The rows that a run reads: all plans and seeds are drawn first, then what was drawn is tokenized once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.sampling import draw
from hf_langimb.data.rows import find_text_columns
from hf_langimb.models.loading import tokenize
from hf_langimb.runs.subsets import TEST_SEED, Data


class Rows:
    """Everything that the models of a run read, tokenized.

    Args:
        data: of the recipe.
        tokenizer: of the model that the setups start from.
        plans: that the setups use.
        seeds: of the run.
        external: rows with texts for the probe, or None.
        limit: tokens of an external text; None takes the tokenizer's limit.

    Attributes:
        test: the test set, the same for all setups and seeds.
        external: the external rows, or None.
        explained: test rows with their texts, whose tokens are attributed, or None.
    """

    def __init__(
        self,
        data: Data,
        tokenizer: Any,
        plans: Iterable[str],
        seeds: Iterable[int],
        external: Dataset | None = None,
        limit: int | None = None,
    ) -> None:
        self.data = data
        wanted = [(split, plan, seed) for split in ("train", "validation") for plan in plans for seed in seeds]
        wanted.append(("test", data.test_plan, TEST_SEED))
        self._rows = {key: data.rows(*key) for key in wanted}
        self._drawn: dict[str, np.ndarray] = {}  # of each split the rows that any plan draws, ascending
        self._tokenized: dict[str, Dataset] = {}
        for name, source in data.source.items():
            drawn = np.unique(np.concatenate([rows for (split, *_), rows in self._rows.items() if split == name]))
            kept = source if len(drawn) == len(source) else source.select(drawn)
            self._drawn[name] = drawn
            self._tokenized[name] = tokenize(kept, tokenizer, data.text_columns, data.recipe.max_length)
        self.test = self.get("test", data.test_plan, TEST_SEED)
        self.external = external and tokenize(external, tokenizer, find_text_columns(external), limit)
        texts = data.source["test"].select(self._rows["test", data.test_plan, TEST_SEED])
        self.explained = sample_evenly(texts, data.recipe.explain_rows)

    def get(self, split: str, plan: str, seed: int) -> Dataset:
        """The tokenized rows of a plan."""
        places = np.searchsorted(self._drawn[split], self._rows[split, plan, seed])
        rows = self._tokenized[split]
        return rows if len(places) == len(rows) else rows.select(places)


def sample_evenly(test: Dataset, rows: int) -> Dataset | None:
    """About `rows` test rows, equally many per (language, label) cell, at least one.

    Args:
        test: rows with `language` and `label`.
        rows: how many; -1 takes all of them, 0 none (None).
    """
    if rows == 0:
        return None
    if rows == -1 or rows >= len(test):
        return test
    available = JointDistribution.from_dataset(test).counts
    counts = np.minimum(available, np.int64(max(rows // int(np.count_nonzero(available)), 1)))
    counts = counts[:, available.any(axis=0)]  # `draw` sees only the labels that have rows
    return test.select(draw(test["language"][:], test["label"][:], counts, seed=TEST_SEED))
