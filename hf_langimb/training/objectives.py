"""Objectives: the loss of each row. A family of functions with the signature of `weighted_cross_entropy`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.models.axes import IGNORED_LABEL
from hf_langimb.training.losses import row_weights, weighted_cross_entropy

if TYPE_CHECKING:
    from hf_langimb.training.arguments import LangImbTrainingArguments

RowLoss = Callable[..., torch.Tensor]  # of logits, labels, language ids, weights; all but the user's: label_smoothing


def weighted_focal(
    logits: torch.Tensor,
    labels: torch.Tensor,
    language_ids: torch.Tensor,
    weights: torch.Tensor | None,
    label_smoothing: float = 0.0,
    *,
    gamma: float,
) -> torch.Tensor:
    """w_i * sum over classes of -q_c (1 - p_c)^gamma log p_c of each row (focal loss, Lin et al. 2017).

    q is the label, smoothed. `gamma` = 0 is the cross-entropy. For the other arguments and the result see
    `weighted_cross_entropy`.
    """
    logs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    others = -torch.expm1(logs)  # 1 - p
    focused = -(others.clamp(min=torch.finfo(others.dtype).tiny) ** gamma) * logs
    own = focused.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    losses = own if not label_smoothing else (1 - label_smoothing) * own + label_smoothing * focused.mean(dim=1)
    losses = torch.where(labels == IGNORED_LABEL, 0.0, losses)
    return losses if weights is None else losses * row_weights(weights, labels, language_ids)


def adjusted_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    language_ids: torch.Tensor,
    weights: torch.Tensor | None,
    label_smoothing: float = 0.0,
    *,
    adjustment: torch.Tensor,
) -> torch.Tensor:
    """`weighted_cross_entropy` of logits + adjustment[language] (logit adjustment, Menon et al. 2021).

    Args:
        adjustment: float[L, C], see `log_priors`; rows of unknown languages (ids below 0) are not adjusted.
        logits, labels, language_ids, weights, label_smoothing: as of `weighted_cross_entropy`.
    """
    if (more := logits.shape[1] - adjustment.shape[1]) > 0:  # of a model that does not say how many classes it has
        adjustment = F.pad(adjustment, (0, more), value=adjustment.min().item())
    own = adjustment.to(logits.device)[language_ids.clamp(min=0)]
    adjusted = logits + torch.where((language_ids >= 0)[:, None], own, 0.0)  # in float32 or better, as `own` is
    return weighted_cross_entropy(adjusted, labels, language_ids, weights, label_smoothing)


def log_priors(distribution: JointDistribution, *, keep_labels: bool) -> torch.Tensor:
    """Logarithms of the shares of labels in each language, float32[L, C].

    C pseudo-rows, distributed like the labels of all languages, are added to each language, so that no share is 0.
    `keep_labels` subtracts the logarithms of the shares over all languages, which keeps the label marginal.
    """
    counts = distribution.counts.astype(np.float64)
    labels = np.maximum(counts.sum(axis=0), 1)
    overall, added = labels / labels.sum(), counts.shape[1]
    shares = (counts + added * overall) / (counts.sum(axis=1, keepdims=True) + added)
    return torch.tensor(np.log(shares) - (np.log(overall) if keep_labels else 0), dtype=torch.float32)


def _adjusted(args: LangImbTrainingArguments, distribution: Any, *, keep_labels: bool) -> RowLoss:
    """Logit adjustment by the counts of the training data."""
    adjustment = args.logit_adjustment_tau * log_priors(distribution, keep_labels=keep_labels)
    return partial(adjusted_cross_entropy, adjustment=adjustment)


def own_objective(function: RowLoss) -> RowLoss:
    """A loss that the user gives, called with the labeled rows alone; that of other rows is 0."""

    def loss(
        logits: torch.Tensor,
        labels: torch.Tensor,
        language_ids: torch.Tensor,
        weights: torch.Tensor | None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """See `weighted_cross_entropy`."""
        used = labels != IGNORED_LABEL
        found = function(logits[used], labels[used], language_ids[used], weights)
        if not isinstance(found, torch.Tensor) or found.shape != labels[used].shape:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(f"row_loss must return the loss of each row, [{int(used.sum())}], got {shape}.")
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        return found.new_zeros(labels.shape).masked_scatter(used, found)

    return loss


# The loss of the arguments, and of the counts of the training data.
OBJECTIVES: dict[str, Callable[[LangImbTrainingArguments, Any], RowLoss]] = {
    "cross_entropy": lambda args, distribution: weighted_cross_entropy,
    "focal": lambda args, distribution: partial(weighted_focal, gamma=args.focal_gamma),
    "logit_adjustment": partial(_adjusted, keep_labels=False),
    "logit_adjustment_independence": partial(_adjusted, keep_labels=True),
}
