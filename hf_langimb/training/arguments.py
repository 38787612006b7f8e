"""`LangImbTrainingArguments`: the arguments of `LangImbTrainer`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from os import PathLike
from typing import Any, ClassVar

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from hf_langimb.counts.own_weights import read_weights
from hf_langimb.counts.weighting import BETA, GROUP_DRO, MISSING_CELL_POLICIES, OWN, WEIGHTING_SCHEMES
from hf_langimb.training.adversary import ADVERSARIES
from hf_langimb.training.objectives import OBJECTIVES

CHOICES = {
    "class_weighting": [*WEIGHTING_SCHEMES, OWN, GROUP_DRO],
    "missing_cell_policy": MISSING_CELL_POLICIES,
    "objective": OBJECTIVES,
    "sampling": [*WEIGHTING_SCHEMES, OWN],
    "language_adversary": ADVERSARIES,
}
SIZES = ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size")
OPTIONS = ["objective", "focal_gamma", "logit_adjustment_tau", "weight_exponent", "effective_number_beta"]
OPTIONS += ["deferred_weighting", "group_dro_step_size", "group_dro_adjustment", "sampling", "language_temperature"]
OPTIONS += ["max_repeats", "language_schedule", "language_adversary"]
OPTIONS += ["language_adversary_weight"]  # results and cards show them only where they are set
NOT_NEGATIVE = ["learning_rate", "head_learning_rate", "masked_entropy_weight", "lora_rank", "seed", "weight_exponent"]
NOT_NEGATIVE += ["group_dro_step_size", "group_dro_adjustment", "focal_gamma", "logit_adjustment_tau"]
NOT_NEGATIVE += ["language_adversary_weight"]


@dataclass
class LangImbTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus the language-aware loss.

    Changed defaults of the parent: `logging_nan_inf_filter` is False (a loss that is not a number is shown), and
    `dataloader_pin_memory` is False on a CPU.
    """

    _VALID_DICT_FIELDS: ClassVar = [*TrainingArguments._VALID_DICT_FIELDS, "class_weights"]  # also read JSON

    language_column: str = HfArg(default="language", help="Column with each row's language (string or ClassLabel).")
    class_weighting: str = HfArg(
        default="none",
        help=f"Class weights: {', '.join(WEIGHTING_SCHEMES)}, {OWN} (those of class_weights), or {GROUP_DRO} (which "
        "grow where the loss is large).",
    )
    class_weights: dict[str, Any] | str | None = HfArg(
        default=None, help="Own class weights of all languages and labels: a JSON or CSV file, or a dictionary."
    )
    missing_cell_policy: str = HfArg(
        default="error", help="For languages without rows of a label: error, ignore or smooth."
    )
    weight_exponent: float = HfArg(default=1.0, help="Exponent of the class weights; 0.5: their square roots.")
    weight_clip: float | None = HfArg(
        default=None, help="Largest class weight; default: no limit. Not for sampling: see max_repeats."
    )
    effective_number_beta: float = HfArg(default=BETA, help="Beta of the class weights effective_number.")
    deferred_weighting: float = HfArg(
        default=0.0, help="Share of the steps, at the start, without class weights (deferred re-weighting: 0.8)."
    )
    group_dro_step_size: float = HfArg(default=0.01, help="How fast the class weights group_dro change.")
    group_dro_adjustment: float = HfArg(default=0.0, help="How much group_dro favors rare combinations.")
    objective: str = HfArg(
        default="cross_entropy",
        help="Loss of a row: cross_entropy, focal, logit_adjustment (by the shares of labels in each language), or "
        "logit_adjustment_independence (by these shares divided by the shares in all data).",
    )
    focal_gamma: float = HfArg(default=2.0, help="Gamma of the objective focal; 0: cross_entropy.")
    logit_adjustment_tau: float = HfArg(default=1.0, help="Factor (tau) of the logit adjustment.")
    sampling: str = HfArg(
        default="none", help=f"Draw rows in proportion to class weights: {', '.join(WEIGHTING_SCHEMES)} or {OWN}."
    )
    language_temperature: float | None = HfArg(
        default=None,
        help="Exponent of the languages' shares when rows are drawn; 0: all languages equal, 1: as in the data.",
    )
    max_repeats: int | None = HfArg(default=None, help="How often a row may be drawn in an epoch; default: no limit.")
    language_schedule: str | None = HfArg(
        default=None, help="Share of a language in equally long stages of the training, such as fr:0.1_0.9."
    )
    language_adversary: str = HfArg(
        default="none",
        help="Train features from which the language cannot be identified: gradient_reversal or language_entropy.",
    )
    language_adversary_weight: float = HfArg(default=0.1, help="Weight of the language adversary, reached gradually.")
    masked_entropy_weight: float = HfArg(default=0.0, help="Weight of the masked-input entropy loss (paper: 1).")
    head_learning_rate: float | None = HfArg(default=None, help="Learning rate of the head; None: same as encoder.")
    lora_rank: int = HfArg(default=0, help="Rank of LoRA adapters on the encoder; 0: full fine-tuning.")
    logging_nan_inf_filter: bool = HfArg(default=False, help="Hide losses that are not finite from the log.")

    def __post_init__(self) -> None:
        self.use_cpu |= parse_flag_from_env("ACCELERATE_USE_CPU")  # launch --cpu, which the parent takes by half
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn that there is nothing to pin it for
        if self.class_weights is not None and self.class_weighting == "none" and self.sampling != OWN:
            self.class_weighting = OWN
        self.check()
        if self.class_weights is not None and OWN not in (self.class_weighting, self.sampling):
            raise ValueError(f"Choose class_weights or class_weighting={self.class_weighting!r}, not both.")

    def check(self) -> None:
        """Refuse values out of range, when they are made and before each training.

        Raises:
            ValueError: names the argument and what it can be.
        """
        if isinstance(self.class_weights, str | PathLike):
            self.class_weights = {**read_weights(self.class_weights)}
        if not isinstance(self.class_weights, Mapping | None):
            raise ValueError(
                "class_weights must be a file, or of the form {language: {label: weight}}, got "
                f"{type(self.class_weights).__name__}."
            )
        problem = ""
        for name, kind in LangImbTrainingArguments.__annotations__.items():
            value = getattr(self, name)
            if "float" not in kind or (value is None and "None" in kind):
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"{name} must be a number, got {value!r}.")
            setattr(self, name, float(value))  # of a whole number, a search would make each other value whole, too
        for name in (*NOT_NEGATIVE, *SIZES):
            low = int(name in SIZES)
            if isinstance(value := getattr(self, name), int | float) and not low <= value < math.inf:
                problem = problem or f"{name} must be {low} or more, got {value}."
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                problem = problem or f"Unknown {name} {value!r}: choose one of {', '.join(known)}."
        for name in ("effective_number_beta", "deferred_weighting", "label_smoothing_factor"):
            if not 0 <= (value := getattr(self, name)) < 1:
                problem = problem or f"{name} must be from 0 to below 1, got {value}."
        if self.class_weighting == GROUP_DRO and self.deferred_weighting:
            problem = problem or "group_dro changes the weights from the first step: leave deferred_weighting out."
        if self.language_adversary != "none" and self.fp16:
            problem = problem or "language_adversary does not work with fp16: use bf16."
        if self.weight_clip is not None and not 0 < self.weight_clip < math.inf:
            problem = problem or f"weight_clip must be above 0, got {self.weight_clip}."
        for name in ("class_weighting", "sampling"):
            if getattr(self, name) == OWN and self.class_weights is None:
                problem = problem or f"{name}='own' needs class_weights, a table or a file."
        if self.language_temperature is not None and not 0 <= self.language_temperature <= 1:
            problem = problem or f"language_temperature must be from 0 to 1, got {self.language_temperature}."
        if self.max_repeats is not None and not (isinstance(self.max_repeats, int) and self.max_repeats > 1):
            problem = problem or f"max_repeats must be a whole number of 2 or more, got {self.max_repeats}."
        if self.language_schedule is not None and ":" not in self.language_schedule:
            problem = problem or f"language_schedule must be like fr:0.1_0.9, got {self.language_schedule!r}."
        if not hasattr(self.lr_scheduler_kwargs or {}, "keys"):
            problem = problem or f"lr_scheduler_kwargs must be a dictionary, got {self.lr_scheduler_kwargs!r}."
        if problem:
            raise ValueError(problem)

    @property
    def options(self) -> dict[str, Any]:
        """What differs from the defaults and has an effect in weights, objective and sampling, without their scheme."""
        usual = type(self).__dataclass_fields__
        changed = {name: value for name in OPTIONS if (value := getattr(self, name)) != usual[name].default}
        return {name: value for name, value in changed.items() if name not in self.without_effect}

    @property
    def without_effect(self) -> list[str]:
        """Options that are not used with the other arguments."""
        schemes, weighted = {self.class_weighting, self.sampling}, self.class_weighting not in ("none", GROUP_DRO)
        used = {
            "focal_gamma": self.objective == "focal",
            "logit_adjustment_tau": self.objective.startswith("logit_adjustment"),
            "weight_exponent": weighted or self.sampling != "none",
            "weight_clip": GROUP_DRO not in schemes,
            "effective_number_beta": "effective_number" in schemes,
            "deferred_weighting": weighted,
            "group_dro_step_size": GROUP_DRO in schemes,
            "group_dro_adjustment": GROUP_DRO in schemes,
            "max_repeats": self.draws_rows,
            "train_sampling_strategy": not self.draws_rows or self.train_sampling_strategy == "group_by_length",
            "language_adversary_weight": self.language_adversary != "none",
        }
        return [name for name, effect in used.items() if not effect]

    @property
    def needs_counts(self) -> bool:
        """Whether the loss or the sampling depends on the counts of the training data."""
        weighted = self.class_weighting != "none" or self.objective.startswith("logit_adjustment")
        return weighted or self.draws_rows or self.language_adversary != "none"

    @property
    def draws_rows(self) -> bool:
        """Whether rows are drawn at rates of their language and label."""
        return self.sampling != "none" or self.language_temperature is not None or self.language_schedule is not None

    @property
    def loss_settings(self) -> dict[str, Any]:
        """All that class weights and objective depend on."""
        names = ("class_weighting", "objective", "focal_gamma", "logit_adjustment_tau", "label_smoothing_factor")
        return self.weighting | {name: getattr(self, name) for name in names}

    @property
    def weighting(self) -> dict[str, Any]:
        """The arguments of `cell_weights`."""
        return {
            "scheme": {OWN: self.class_weights, GROUP_DRO: "none"}.get(self.class_weighting, self.class_weighting),
            "missing_cell_policy": self.missing_cell_policy,
            "exponent": self.weight_exponent,
            "clip": self.weight_clip,
            "beta": self.effective_number_beta,
        }

    @property
    def sampling_weights(self) -> dict[str, Any]:
        """The arguments of `cell_weights` for sampling."""
        scheme = self.class_weights if self.sampling == OWN else self.sampling
        return self.weighting | {"scheme": scheme, "clip": None}

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
