"""`LangImbTrainingArguments`: the arguments of `LangImbTrainer`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


@dataclass
class LangImbTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus the language-aware loss.

    Changed defaults of the parent: `logging_nan_inf_filter` is False (a loss that is not a number is shown).
    """

    language_column: str = field(
        default="language", metadata={"help": "Column with the language of each row (string or ClassLabel)."}
    )
    class_weighting: str = field(
        default="none",
        metadata={"help": "Class weights: none, class, per_language (as in the paper), independence or joint."},
    )
    missing_cell_policy: str = field(
        default="error", metadata={"help": "What to do if a language has no rows of a label: error, ignore or smooth."}
    )
    masked_entropy_weight: float = field(
        default=0.0, metadata={"help": "Factor lambda of the masked-input entropy loss (1 in the paper)."}
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the classification head; None: as the encoder."}
    )
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA adapters on the encoder; 0: full training."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite from the log."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("masked_entropy_weight", "lora_rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")

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
