"""What the loss reads of a batch: rows with one label each, or each known value of rows with several labels.

A text with several labels has a target of its own for each label whose value is known. Its class is 2c + v for the
value v of label c, so that class weights [L, C, 2] are a table [L, 2C], and everything else is as for single labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from hf_langimb.counts.weighting import GROUP_DRO, OWN
from hf_langimb.models.axes import IGNORED_LABEL, MULTI_LABEL
from hf_langimb.training.losses import row_weights, weighted_cross_entropy

if TYPE_CHECKING:
    from hf_langimb.training.arguments import LangImbTrainingArguments

OBJECTIVES = ("cross_entropy", "focal")  # that are defined for labels that are 0 or 1


class Batch(NamedTuple):
    """The arguments of a loss, of T rows or targets."""

    logits: torch.Tensor  # [T, C], of several labels [T]
    labels: torch.Tensor  # int64[T], -100: left out
    language_ids: torch.Tensor  # int64[T]
    weights: torch.Tensor | None  # float32[L, C], of several labels [L, 2C]

    def unweighted(self) -> Batch:
        """The same with weights of 1, where a loss may expect weights."""
        return self._replace(weights=None if self.weights is None else torch.ones_like(self.weights))

    def plain_losses(self) -> torch.Tensor:
        """The cross-entropy without class weights, [T]."""
        loss = weighted_cross_entropy if self.logits.dim() == 2 else weighted_binary
        return loss(self.logits, self.labels, self.language_ids, None)


@contextmanager
def smoothing_of_our_own() -> Iterator[None]:
    """Without the warning of `Trainer`, which does not smooth the labels of such models itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label smoothing is not compatible with multi-label classification")
        yield


def has_several_labels(config: Any) -> bool:
    """Whether each of a model's outputs decides about a label of its own."""
    return getattr(config, "problem_type", None) == MULTI_LABEL


def batch_of(
    logits: torch.Tensor, labels: torch.Tensor, language_ids: torch.Tensor, weights: torch.Tensor | None, several: bool
) -> Batch:
    """What the loss reads of a batch.

    Args:
        logits: [B, C].
        labels: int64[B], or 0, 1 and -100 [B, C] for several labels.
        language_ids: int64[B].
        weights: float32[L, C], or [L, C, 2] for several labels.
        several: whether each row has several labels.

    Raises:
        ValueError: logits or labels of another form.
    """
    ignored = labels == IGNORED_LABEL
    if several:
        if labels.shape != logits.shape or not (ignored | (labels == 0) | (labels == 1)).all():
            raise ValueError(
                f"Expected labels of shape [rows, {logits.shape[-1]}], each 0, 1 or {IGNORED_LABEL} (not known), one "
                f"for each output of the model, got shape {list(labels.shape)} with values from "
                f"{labels.min().item():g} to {labels.max().item():g}."
            )
        classes = 2 * torch.arange(labels.shape[1], device=labels.device) + labels.long()
        flat = torch.where(ignored, IGNORED_LABEL, classes).flatten()
        ids = language_ids.repeat_interleave(labels.shape[1])
        return Batch(logits.flatten(), flat, ids, None if weights is None else weights.flatten(1))
    wrong = (labels >= logits.shape[-1]) | ((labels < 0) & ~ignored)
    if logits.dim() != 2 or labels.dim() != 1 or labels.dtype != torch.int64 or wrong.any():
        raise ValueError(
            f"Expected logits [rows, classes] and labels from 0 to {logits.shape[-1] - 1}, the outputs of the "
            f"model, got logits {list(logits.shape)} and {list(labels.shape)} {labels.dtype} labels "
            f"{labels.min().item()} to {labels.max().item()}: one label per text (int64), and {IGNORED_LABEL} for "
            "rows that the loss ignores. For several labels per text, load the model with "
            "problem_type='multi_label_classification'."
        )
    return Batch(logits, labels, language_ids, weights)


def weighted_binary(
    logits: torch.Tensor,
    labels: torch.Tensor,
    language_ids: torch.Tensor,
    weights: torch.Tensor | None,
    label_smoothing: float = 0.0,
    *,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Weighted binary cross-entropy of each target, in nats, [T], computed in float32 or better.

    Args:
        logits: [T].
        labels: int64[T], 2c + v for the value v of label c; targets labeled -100 give 0.
        language_ids, weights: see `weighted_cross_entropy`, for the classes 2c + v.
        label_smoothing: s takes 1 to 1 - s/2 and 0 to s/2.
        gamma: of the focal loss, which multiplies -log p by (1 - p)^gamma; 0: the cross-entropy.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    share = (labels % 2) * (1 - label_smoothing) + label_smoothing / 2
    losses = -(share * (gamma * no).exp() * yes + (1 - share) * (gamma * yes).exp() * no)
    losses = torch.where(labels == IGNORED_LABEL, 0.0, losses)
    return losses if weights is None else losses * row_weights(weights, labels, language_ids)


def problem_of_arguments(args: LangImbTrainingArguments, given_loss: Any, trained: bool) -> str | None:
    """Why arguments are not for several labels per text, and what to do; None if they are.

    `trained`: the model is trained, not only evaluated, where the loss has no class weights but those of a checkpoint.
    """
    used = {
        f"class_weighting={args.class_weighting!r}": args.class_weighting in (OWN, GROUP_DRO),
        f"objective={args.objective!r}": args.objective not in OBJECTIVES,
        "drawing rows (sampling, language_temperature, language_schedule)": args.draws_rows,
        "language_adversary": args.language_adversary != "none",
        "row_loss": given_loss is not None,
    }
    if unfit := [name for name, is_used in used.items() if is_used and (trained or name == "row_loss")]:
        return f"Not supported for several labels per text: {', '.join(unfit)}. Remove these arguments."
    return None
