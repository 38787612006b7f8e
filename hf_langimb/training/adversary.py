"""A language adversary: training for features from which a linear classifier cannot tell the language.

arXiv 2402.13016 reports that both forms prevented the model from learning its task.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from hf_langimb.models.axes import IGNORED_LABEL
from hf_langimb.models.inputs import HeadInputs, head_layers

ADVERSARIES = ("none", "gradient_reversal", "language_entropy")
STATE_FILE = "language_adversary.pt"  # in a checkpoint
LEARNING_RATE = 0.01  # of the classifier, which must keep up with the features
STEEPNESS = 10.0  # of the ramp of the coefficient (Ganin et al. 2016)


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -coefficient."""

    @staticmethod
    def forward(context: Any, features: torch.Tensor, coefficient: float) -> torch.Tensor:
        """The features."""
        context.coefficient = coefficient
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The reversed gradient."""
        return -context.coefficient * gradients[0], None


class LanguageAdversary:
    """A linear classifier of the language, which learns from what the last layer of a model reads.

    `gradient_reversal` (Ganin et al. 2016): the model receives the reversed gradient of the classifier's cross-entropy.
    `language_entropy`: the model is trained to raise the entropy of the classifier's prediction. The coefficient
    rises from 0 to `weight` in training.

    Args:
        kind: `gradient_reversal` or `language_entropy`.
        model: classifier whose logits are those of a linear layer.
        languages: number of languages.
        weight: largest coefficient.
    """

    def __init__(self, kind: str, model: torch.nn.Module, *, languages: int, weight: float) -> None:
        self.kind, self.weight = kind, weight
        layers = head_layers(model)
        if not layers:
            raise ValueError(
                f"language_adversary needs a model whose last layer is linear, got {type(model).__name__}: set "
                "language_adversary='none'."
            )
        self.head, layer = HeadInputs(model), layers[-1]
        place: Any = {"device": layer.weight.device, "dtype": torch.promote_types(layer.weight.dtype, torch.float32)}
        # without drawing weights: the random numbers of the training stay as they are
        self.classifier = torch.nn.utils.skip_init(torch.nn.Linear, layer.in_features, languages, **place)
        torch.nn.init.zeros_(self.classifier.weight)
        torch.nn.init.zeros_(self.classifier.bias)
        self.optimizer = torch.optim.AdamW(self.classifier.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self.coefficient = 0.0
        self.seen = torch.zeros(2, device=layer.weight.device)  # rows whose language was found, and all

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, language_ids: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Sum of `losses` over the labeled rows of the batch whose logits were computed last."""
        added = self.losses(self.head.of(logits)[: len(labels)], language_ids, progress)
        return torch.where(labels == IGNORED_LABEL, 0.0, added).sum()

    def losses(self, features: torch.Tensor, language_ids: torch.Tensor, progress: float) -> torch.Tensor:
        """What is added to the loss of each row, [B].

        Args:
            features: that the last layer of the model reads, [B, H].
            language_ids: int64[B], 0 or more.
            progress: share of the training that is done.
        """
        self.coefficient = self.weight * (2 / (1 + math.exp(-STEEPNESS * progress)) - 1)
        features = features.to(self.classifier.weight.dtype)
        if self.kind == "gradient_reversal":
            logits = self.classifier(_Reversed.apply(features, self.coefficient))
        else:
            logits = self.classifier(features.detach())
        self.seen[0] += (logits.argmax(dim=1) == language_ids).sum()
        self.seen[1] += len(logits)
        losses = F.cross_entropy(logits, language_ids, reduction="none")
        if self.kind == "language_entropy":
            fixed = (parameter.detach() for parameter in (self.classifier.weight, self.classifier.bias))
            logs = F.log_softmax(F.linear(features, *fixed), dim=1)
            losses = losses + self.coefficient * (logs.exp() * logs).sum(dim=1)  # minus the entropy
        return losses

    def step(self, reduce: Any) -> None:
        """Update the classifier after the gradients of a step; `reduce` takes means over processes."""
        for parameter in self.classifier.parameters():
            if parameter.grad is not None:
                parameter.grad = reduce(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def logs(self, reduce: Any) -> dict[str, float]:
        """Accuracy of the classifier on the training rows since the last log, and the coefficient."""
        right, rows = reduce(self.seen).tolist()
        self.seen = torch.zeros_like(self.seen)
        found = {"adversary_accuracy": right / rows} if rows else {}
        return found | {"adversary_coefficient": self.coefficient}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        parts = {"classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | {"kind": self.kind}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it is of another adversary, or of other languages or features.
        """
        if (kind := state.get("kind", self.kind)) != self.kind:
            raise ValueError(
                f"The checkpoint was trained with language_adversary={kind!r}, got {self.kind!r}: use the same, or "
                "begin a new training."
            )
        found, expected = (list(of["weight"].shape) for of in (state["classifier"], self.classifier.state_dict()))
        if found != expected:
            raise ValueError(
                f"The language adversary of the checkpoint has weights of shape {found}, the model needs {expected}: "
                "resume with the same model and languages, or begin a new training."
            )
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])


class UpdateAdversary(TrainerCallback):  # type: ignore[misc]
    """Updates the language adversary of a Trainer, if it has one, with each optimizer step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """In all processes, before a checkpoint is saved."""
        if self.trainer.adversary is not None:
            self.trainer.adversary.step(lambda grad: self.trainer.accelerator.reduce(grad, reduction="mean"))
