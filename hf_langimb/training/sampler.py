"""The order of training rows: batches of rows grouped by length, and rows drawn at the rates of their cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hf_langimb.counts.columns import class_label_names, column_batches, encode_column
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.drawing import draw_rates, draw_rows, stages_of
from hf_langimb.counts.weighting import Counts, Floats, cell_weights
from hf_langimb.training.checks import label_column_of


class ShuffledBatches(torch.utils.data.Sampler[int]):
    """The batches of a length-grouping sampler in random order, a last smaller one at the end.

    The order depends on seed and epoch alone: it is the same in every process, and when an epoch is resumed.
    """

    def __init__(self, sampler: Any, batch_size: int, seed: int) -> None:
        self.sampler, self.batch_size, self.seed = sampler, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.sampler.generator = generator
        rows = list(self.sampler)
        full = len(rows) // self.batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from rows[full * self.batch_size :]


class DrawnRows(torch.utils.data.Sampler[int]):
    """Rows drawn at the rates of their cells, as many in an epoch as the dataset has.

    The rows depend on seed and epoch alone: they are the same in every process, and when an epoch is resumed.

    Args:
        cells: of the rows, int64[N], see `draw_rows`.
        rates: [L, C] of each stage of the training, which are equally long.
        rows_per_step: rows of an optimizer step of all processes.
        total_steps: optimizer steps of the training.
        seed: of the random numbers.
    """

    def __init__(self, cells: Counts, rates: list[Floats], rows_per_step: int, total_steps: int, seed: int) -> None:
        self.cells, self.rates, self.seed = cells, rates, seed
        self.rows_per_step, self.total_steps = rows_per_step, total_steps
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        steps = np.arange(len(self)) // self.rows_per_step
        steps += self.epoch * math.ceil(len(self) / self.rows_per_step)
        stages = np.minimum(steps * len(self.rates) // self.total_steps, len(self.rates) - 1)
        for stage, size in zip(*np.unique(stages, return_counts=True), strict=True):
            yield from draw_rows(self.cells, self.rates[stage], int(size), generator).tolist()


def sampler_of(trainer: Any, dataset: Any) -> DrawnRows:
    """The sampler of a Trainer's arguments for a dataset with a length, whose counts are the Trainer's.

    Raises:
        ValueError: a schedule that does not fit the languages or the training.
    """
    args, distribution = trainer.args, trainer.distribution
    if args.train_sampling_strategy == "group_by_length":
        trainer.say_once("Rows that are drawn by language and label are not grouped by length.")
    if args.class_weighting != "none" and args.sampling != "none":
        trainer.say_once(
            "sampling and class_weighting both compensate for rare combinations of language and label: use one of them."
        )
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = math.ceil(len(dataset) / rows_per_step)
    total_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
    options = {"temperature": args.language_temperature, "most": args.max_repeats}
    shares: list[tuple[str, float] | None] = [None]
    if args.language_schedule is not None:
        language, _, stages = args.language_schedule.rpartition(":")
        shares = [(language, share) for share in stages_of(stages, total_steps)]
    weights = cell_weights(distribution, **args.sampling_weights)
    rates = [draw_rates(distribution, weights, share=share, **options) for share in shares]
    label_column = label_column_of(dataset, args.language_column, trainer.label_names)
    cells = _cells(dataset, args.language_column, label_column, distribution)
    return DrawnRows(cells, rates, rows_per_step, total_steps, args.seed if args.data_seed is None else args.data_seed)


def _cells(dataset: Any, language_column: str, label_column: str, distribution: JointDistribution) -> Counts:
    """The cell of each row, int64[N], language * C + label; -1 where its label is ignored."""
    position = {language: i for i, language in enumerate(distribution.languages)}
    named, parts = class_label_names(dataset, language_column) is not None, []
    for languages, labels in column_batches(dataset, {"language": language_column, "label": label_column}):
        axis, ids = encode_column(languages, "language")
        table = np.array([int(one) if named else position[one] for one in axis], dtype=np.int64)
        axis, classes = encode_column(labels, "label")
        found = np.array([int(one) for one in axis], dtype=np.int64)[classes]
        parts.append(np.where(found >= 0, table[ids] * len(distribution.labels) + found, -1))
    return np.concatenate(parts)
