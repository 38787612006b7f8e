"""Trainings that go on from a checkpoint: with the adapters and learning rates that it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_langimb.files import read_json
from hf_langimb.models.adapters import base_model_of
from hf_langimb.models.axes import read_axes
from hf_langimb.training import adversary, group_dro
from hf_langimb.training.adversary import LanguageAdversary
from hf_langimb.training.group_dro import GroupDRO
from hf_langimb.training.publishing import PublishingTrainer


class ResumingTrainer(PublishingTrainer):
    """Refuses a checkpoint of other arguments, which `Trainer` would ignore or fail on in the middle of loading."""

    lr_scheduler: Any
    group_dro: GroupDRO | None
    adversary: LanguageAdversary | None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """`Trainer`'s, for adapters of the same rank."""
        path = Path(resume_from_checkpoint, "adapter_config.json")
        found = read_json(path, "choose another checkpoint").get("r", 0) if path.is_file() else 0
        given_adapters = not self.args.lora_rank and base_model_of(self.model) is not self.model
        if Path(resume_from_checkpoint).is_dir() and found != self.args.lora_rank and not given_adapters:
            raise ValueError(
                f"{resume_from_checkpoint} was trained with lora_rank={found}, got {self.args.lora_rank}: use the same "
                "rank, or begin a new training."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """`Trainer`'s, for the same learning rates: those of the checkpoint would be used in silence."""
        path = Path(checkpoint or "", "scheduler.pt")
        expected = getattr(self.lr_scheduler, "base_lrs", None)
        if checkpoint and expected and path.is_file():
            found = torch.load(path, weights_only=True).get("base_lrs", expected)
            if list(found) != list(expected):
                raise ValueError(
                    f"{checkpoint} was trained with learning rates {_listed(found)}, got {_listed(expected)}: use the "
                    "same learning_rate and head_learning_rate, or begin a new training."
                )
        super()._load_optimizer_and_scheduler(checkpoint)
        for argument, (file, part) in self._own_states().items():
            path = Path(checkpoint or "", file)
            if checkpoint and path.is_file() == (part is None):
                problem = (
                    f"was trained with {argument}: use it again, or"
                    if part is None
                    else f"has no {file}: it was trained without {argument}, or saved with save_only_model;"
                )
                raise ValueError(f"{checkpoint} {problem} begin a new training.")
            if checkpoint and part is not None:
                part.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))

    def _own_states(self) -> dict[str, tuple[str, Any]]:
        """What a checkpoint keeps besides the optimizer, by argument: the file, and its object if it is used."""
        return {
            "group_dro": (group_dro.STATE_FILE, self.group_dro),
            "language_adversary": (adversary.STATE_FILE, self.adversary),
        }

    def _load_best_model(self) -> None:
        """`Trainer`'s, with the weights that group DRO had at that step."""
        super()._load_best_model()
        axes = read_axes(str(self.state.best_model_checkpoint))
        if self.group_dro is not None and axes is not None:
            self.group_dro.load_weights(axes["weights"])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """`Trainer`'s, with the states of group DRO and of the language adversary."""
        super()._save_optimizer_and_scheduler(output_dir)
        for file, part in self._own_states().values():
            path = Path(output_dir, file)
            if self.args.should_save and part is not None:
                torch.save(part.state_dict(), path)
            elif self.args.should_save:
                path.unlink(missing_ok=True)  # of a training before, in the same folder


def _listed(rates: list[float]) -> str:
    """Different rates."""
    return " and ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
