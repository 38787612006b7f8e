"""The order of training batches whose rows are grouped by length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


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
