"""Group DRO (Sagawa et al. 2020): class weights that grow during training where the loss is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from hf_langimb.models.axes import IGNORED_LABEL

STATE_FILE = "group_dro.pt"  # in a checkpoint
DECAY = 0.9  # of the moving mean of each cell's loss


class GroupDRO:
    """Shares q[L, C] of the cells in the loss, a moving table of class weights w_cl = q_cl N / n_cl.

    q starts at n_cl / N (weights 1). After each optimizer step, q is multiplied by exp(step_size * (moving mean of the
    cell's loss + adjustment / sqrt(n_cl))) in *all* cells and normalized: if only the cells of the batch were updated,
    frequent cells would grow at equal losses.

    Args:
        counts: rows n_cl of the training data, [L, C]; cells without rows stay at weight 0.
        step_size: of the updates, above 0 (paper: 0.01).
        adjustment: 0 or more; raises the weights of small cells (the constant C of the paper).
        device: of the tensors.
    """

    def __init__(self, counts: Any, *, step_size: float, adjustment: float, device: torch.device) -> None:
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.counts = torch.tensor(np.asarray(counts), dtype=kind, device=device)
        self.step_size = step_size
        self.bonus = torch.where(self.counts > 0, adjustment / self.counts.clamp(min=1).sqrt(), 0.0)
        self.shares = self.counts / self.counts.sum()
        self.means: torch.Tensor | None = None
        self.seen = torch.zeros(2, *self.counts.shape, dtype=kind, device=device)  # sums of losses, and rows

    @property
    def weights(self) -> torch.Tensor:
        """The class weights, float32[L, C], mean 1 over the training data."""
        weights = self.shares * self.counts.sum() / self.counts.clamp(min=1)
        return weights.float()

    def add(self, losses: torch.Tensor, labels: torch.Tensor, language_ids: torch.Tensor) -> None:
        """Add the losses (not weighted) of the rows of a batch, [B] each; those that are not finite are left out."""
        used = (labels != IGNORED_LABEL) & (labels < self.counts.shape[1]) & losses.isfinite()
        cells = language_ids[used] * self.counts.shape[1] + labels[used]
        values = losses.detach()[used].to(self.seen.dtype)
        self.seen.view(2, -1).index_add_(1, cells, torch.stack([values, torch.ones_like(values)]))

    def update(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Update the shares after an optimizer step; `reduce` sums over processes."""
        sums, rows = reduce(self.seen)
        if self.means is None:
            self.means = (sums.sum() / rows.sum().clamp(min=1)).expand_as(sums)
        found = DECAY * self.means + (1 - DECAY) * sums / rows.clamp(min=1)
        self.means = torch.where(rows > 0, found, self.means)
        logs = self.step_size * (self.means + self.bonus)
        shares = self.shares * (logs - logs.max()).exp()
        self.shares = shares / shares.sum()
        self.seen = torch.zeros_like(self.seen)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"shares": self.shares, "means": self.means}

    def load_weights(self, weights: Any) -> None:
        """Continue with a table of class weights, [L, C]."""
        shares = torch.tensor(np.asarray(weights)).to(self.counts) * self.counts
        self.shares = shares / shares.sum()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it is of other languages or labels.
        """
        if state["shares"].shape != self.shares.shape:
            found, expected = (" x ".join(map(str, of.shape)) for of in (state["shares"], self.shares))
            raise ValueError(
                f"The checkpoint has group_dro weights of {found} cells, the training data {expected}: resume with the "
                "same languages and labels, or begin a new training."
            )
        self.shares = state["shares"].to(self.shares)
        self.means = None if state["means"] is None else state["means"].to(self.shares)


class UpdateShares(TrainerCallback):  # type: ignore[misc]
    """Updates the shares of a Trainer's group DRO, if it has one, after each optimizer step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """In all processes, before a checkpoint is saved."""
        if self.trainer.group_dro is not None:
            self.trainer.group_dro.update(lambda seen: self.trainer.accelerator.reduce(seen, reduction="sum"))
