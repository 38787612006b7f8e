"""`LangImbTrainingArguments`: the arguments of `LangImbTrainer`."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from hf_langimb.counts.weighting import MISSING_CELL_POLICIES, WEIGHTING_SCHEMES


@dataclass
class LangImbTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus the language-aware loss.

    Changed defaults of the parent: `logging_nan_inf_filter` is False (a loss that is not a number is shown), and
    `dataloader_pin_memory` is False on a CPU.
    """

    language_column: str = HfArg(default="language", help="Column with each row's language (string or ClassLabel).")
    class_weighting: str = HfArg(default="none", help="Class weights: none, class, per_language, independence, joint.")
    missing_cell_policy: str = HfArg(default="error", help="For cells without rows: error, ignore or smooth.")
    weight_clip: float | None = HfArg(default=None, help="Largest class weight; default: no limit.")
    masked_entropy_weight: float = HfArg(default=0.0, help="Weight of the masked-input entropy loss (paper: 1).")
    head_learning_rate: float | None = HfArg(default=None, help="Learning rate of the head; None: same as encoder.")
    lora_rank: int = HfArg(default=0, help="Rank of LoRA adapters on the encoder; 0: full fine-tuning.")
    logging_nan_inf_filter: bool = HfArg(default=False, help="Hide losses that are not finite from the log.")

    def __post_init__(self) -> None:
        self.use_cpu |= parse_flag_from_env("ACCELERATE_USE_CPU")  # launch --cpu, which the parent takes by half
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn that there is nothing to pin it for
        self.check()

    def check(self) -> None:
        """Refuse values out of range, when they are made and before each training.

        Raises:
            ValueError: names the argument and what it can be.
        """
        sizes, problem = (
            ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"),
            "",
        )
        for name in ("learning_rate", "head_learning_rate", "masked_entropy_weight", "lora_rank", "seed", *sizes):
            low = int(name in sizes)
            if isinstance(value := getattr(self, name), int | float) and not low <= value < math.inf:
                problem = problem or f"{name} must be {low} or more, got {value}."
        for name, known in {"class_weighting": WEIGHTING_SCHEMES, "missing_cell_policy": MISSING_CELL_POLICIES}.items():
            if (value := getattr(self, name)) not in known:
                problem = problem or f"Unknown {name} {value!r}: choose one of {', '.join(known)}."
        if self.weight_clip is not None and not 0 < self.weight_clip < math.inf:
            problem = problem or f"weight_clip must be above 0, got {self.weight_clip}."
        if not hasattr(self.lr_scheduler_kwargs or {}, "keys"):
            problem = problem or f"lr_scheduler_kwargs must be a dictionary, got {self.lr_scheduler_kwargs!r}."
        if problem:
            raise ValueError(problem)

    def __getstate__(self) -> dict[str, Any]:
        """Without the token: the Trainer pickles its arguments next to the weights, and publishes them."""
        return self.__dict__ | {"hub_token": None}

    def __copy__(self) -> LangImbTrainingArguments:
        """With the token."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> LangImbTrainingArguments:
        made = copy.copy(self)
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made
