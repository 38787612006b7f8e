"""The arguments of the recipe `cloned_languages`: texts, model, setups and training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from hf_langimb.cloned.results import OF_PAIR, ONE_RATE, RELATIONS
from hf_langimb.cloned.schedule import expected_shares
from hf_langimb.runs.recipe import Parsed, parse_words, total_batch

MARKOV, MINI_XNLI = "markov", "mini_xnli"
LEAST = dict.fromkeys(["seeds", "context", "layers", "width", "heads", "stride", "test_tokens", "train_tokens"], 1)
LEAST |= {"models_at_once": 1, "vocabulary_size": 20, "downstream_items": 0}
OF_TEXTS = ["config_name", "text_column", "tokenizer_name", "vocabulary_size", "test_share", "train_tokens"]
OF_TEXTS += ["second_dataset_name", "second_config_name", "second_text_column", "second_tokenizer_name"]
FINAL_RATE = 0.01  # of the largest learning rate


@dataclass
class ClonedArguments:
    """Texts, model and names of the setups; shared by all setups."""

    dataset_name: str = HfArg(
        default=MARKOV,
        help="markov (built-in: its best possible perplexity is known), mini_xnli (built-in English sentences), "
        "a Hub id, folder or file.",
    )
    config_name: str | None = HfArg(default=None, help="Configuration of the dataset.")
    text_column: str = HfArg(default="text", help="Column of the texts.")
    tokenizer_name: str | None = HfArg(
        default=None, help="Hub id or folder; default: one that is made from the training texts, lower-cased."
    )
    second_dataset_name: str | None = HfArg(
        default=None, help="Texts of the other language, for setups whose relation is disjoint or merged."
    )
    second_config_name: str | None = HfArg(default=None, help="Configuration of the second dataset.")
    second_text_column: str | None = HfArg(default=None, help="Its column of texts; default: text_column.")
    second_tokenizer_name: str | None = HfArg(default=None, help="Tokenizer of the second dataset.")
    vocabulary_size: int = HfArg(default=16_384, help="Size of the tokenizer that is made from the training texts.")
    test_share: float = HfArg(
        default=0.1, help="If there is no test split: share of the texts, from the end, to test on."
    )
    train_tokens: int | None = HfArg(
        default=None, help="Train on at most this many tokens of each dataset; default: all."
    )
    test_tokens: int = HfArg(default=100_000, help="Tokens to test on in each language, at most.")
    context: int = HfArg(default=512, help="Tokens of a window (training sequence).")
    stride: int = HfArg(default=128, help="Tokens that are scored in each window when perplexity is measured.")
    layers: int = HfArg(default=12, help="Blocks of the decoder.")
    width: int = HfArg(default=768, help="Width of the decoder.")
    heads: int = HfArg(default=12, help="Attention heads of each block.")
    downstream_items: int = HfArg(
        default=0,
        help="With dataset_name mini_xnli: labeled pairs to fine-tune on in language 0; 0: no downstream test.",
    )
    setups: list[str] = HfArg(
        default_factory=list, help=f"Setups to train, by name; NAME{ONE_RATE} uses the common learning rate."
    )
    main: list[str] = HfArg(default_factory=list, help="Setups to train if neither --all nor --setups is given.")
    all: bool = HfArg(default=False, help="Train every setup that the YAML defines.")
    seeds: int = HfArg(default=1, help="Number of seeds: seed, seed + 1, ...")
    models_at_once: int = HfArg(
        default=1, help="Models to train at the same time, if the recipe is one process on a CPU; they share its cores."
    )
    license: str | None = HfArg(default=None, help="License of the models, for their cards: apache-2.0, mit, ...")

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, got {value}.")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}.")
        if self.stride >= self.context:
            raise ValueError(f"stride must be below context, got {self.stride} and {self.context}.")
        if self.downstream_items and (self.dataset_name != MINI_XNLI or self.tokenizer_name):
            raise ValueError(f"downstream_items needs dataset_name {MINI_XNLI}, and no tokenizer_name.")
        if self.test_tokens < 2 * self.context:
            raise ValueError(f"test_tokens must be at least twice the context, {self.context}, got {self.test_tokens}.")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be between 0 and 1, got {self.test_share}.")


@dataclass
class SetupArguments:
    """Languages of a setup; they can differ between setups, as the training arguments can."""

    schedule: str = HfArg(
        default="0.1",
        help="Probability that a window is not in language 0, one for each equally long stage, such as 0.1_0.9.",
    )
    languages: int = HfArg(default=2, help="Number of languages.")
    fraction_cloned: float = HfArg(default=1.0, help="Share of the ids that differ between clones.")
    relation: str = HfArg(
        default="clones",
        help="How language 0 relates to the others: clones, unrelated (another Markov language), shuffled (tokens in "
        "random order), disjoint or merged (two datasets, with separate or common tokens).",
    )

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(f"relation must be one of {', '.join(RELATIONS)}, got {self.relation!r}.")
        if self.languages < 1 or not 0 <= self.fraction_cloned <= 1:
            raise ValueError(
                "languages must be 1 or more and fraction_cloned between 0 and 1, got "
                f"{self.languages} and {self.fraction_cloned}."
            )
        if self.relation != "clones" and (self.languages != 2 or self.fraction_cloned < 1):
            raise ValueError(f"relation {self.relation} needs languages 2 and fraction_cloned 1.")


@dataclass
class ClonedTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of arXiv 2404.07982: Adam (0.9, 0.95), no clipping, cosine to 1%."""

    learning_rate: float = HfArg(default=6e-4, help="Largest learning rate.")
    adam_beta2: float = HfArg(default=0.95, help="Second beta of Adam.")
    max_grad_norm: float = HfArg(default=0.0, help="Largest norm of the gradient; 0: no clipping.")
    lr_scheduler_type: str = HfArg(default="cosine_with_min_lr", help="Learning rate schedule.")
    warmup_steps: float = HfArg(default=200, help="Steps of the warm-up; below 1: share of all steps.")
    train_sampling_strategy: str = HfArg(default="sequential", help="Fixed: windows are shuffled when they are made.")
    remove_unused_columns: bool = HfArg(default=False, help="Not used: windows have no other columns.")
    logging_nan_inf_filter: bool = HfArg(default=False, help="Hide losses that are not finite from the log.")

    def __post_init__(self) -> None:
        self.use_cpu |= parse_flag_from_env("ACCELERATE_USE_CPU")  # launch --cpu, which the parent applies only in part
        if self.lr_scheduler_type == "cosine_with_min_lr" and not getattr(self, "lr_scheduler_kwargs", None):
            self.lr_scheduler_kwargs: Any = {"min_lr_rate": FINAL_RATE}
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn that there is nothing to pin it for
        fixed = {"train_sampling_strategy": self.train_sampling_strategy == "sequential"}
        fixed |= {"ignore_data_skip": not self.ignore_data_skip}
        fixed |= {"auto_find_batch_size": not self.auto_find_batch_size, "save_only_model": not self.save_only_model}
        fixed |= {"split_batches of accelerator_config": not self.accelerator_config.split_batches}
        for name in (name for name, kept in fixed.items() if not kept):
            raise ValueError(
                f"{name} must keep its default, because the language of a window depends on its step and row."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"Expected one GPU per process, got {self.n_gpu}: start one process per GPU with `accelerate launch`, "
                "or set CUDA_VISIBLE_DEVICES."
            )
        at_least = {"seed": 0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
        for name, least in at_least.items():
            if not least <= getattr(self, name) < 2**32:
                raise ValueError(f"{name} must be {least} or more and below 2^32, got {getattr(self, name)}.")
        if self.eval_steps is not None and not self.eval_steps > 0:
            raise ValueError(f"eval_steps must be above 0, got {self.eval_steps}.")
        if self.resume_from_checkpoint is not None:
            raise ValueError("resume_from_checkpoint is not used: run the same command again to continue a run.")


@dataclass(frozen=True)
class Setup:
    """A model to train: its languages, and its training arguments."""

    of: SetupArguments
    training: ClonedTrainingArguments
    definition: Mapping[str, Any]  # in the YAML

    def rows(self, processes: int) -> int:
        """Windows of an optimizer step."""
        return total_batch(self.training, processes)


@dataclass(frozen=True)
class ClonedRecipe:
    """A parsed recipe with the setups to train; `parsed` as of other recipes."""

    name: str
    data: ClonedArguments
    training: ClonedTrainingArguments
    setups: dict[str, Setup]
    parsed: Parsed


def parse_cloned(name: str, folder: Path, argv: Sequence[str] | None = None) -> ClonedRecipe:
    """Read a recipe: its YAML gives the defaults, the command line overrides them.

    Raises:
        ValueError: no such YAML file or setup, or a value that does not fit.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    types = (ClonedArguments, SetupArguments, ClonedTrainingArguments)
    (data, of, training), parsed = parse_words(name, folder, argv, types)
    unused = {*OF_TEXTS} if data.dataset_name == MARKOV else {"vocabulary_size"} if data.tokenizer_name else set()
    unused |= {"config_name", "text_column"} if data.dataset_name.endswith((MINI_XNLI, ".txt")) else set()
    if given := ", ".join(sorted(unused & parsed.flags)):
        raise ValueError(f"{given}: no effect with dataset_name {data.dataset_name} (or a tokenizer_name): remove it.")
    names = data.setups if "setups" in parsed.flags or not data.main else data.main
    names = [*data.main, *parsed.listed, *data.setups] if data.all else names
    if not names:
        raise ValueError(f"{parsed.config_name} defines no setups: define some in its YAML, or name them (--setups).")
    setups = {one: _setup(one, data, of, training, parsed) for one in dict.fromkeys(names)}
    return ClonedRecipe(name, data, training, setups, parsed)


def _setup(
    name: str, data: ClonedArguments, of: SetupArguments, training: ClonedTrainingArguments, parsed: Parsed
) -> Setup:
    """A setup by name, checked."""
    settings = parsed.setups.get(name, parsed.setups.get(name.removesuffix(ONE_RATE)))
    if settings is not None and name not in parsed.setups:
        settings = {key: value for key, value in settings.items() if key != "learning_rate"}
    if settings is None:
        known = ", ".join(parsed.setups)
        raise ValueError(f"Unknown setup {name!r}: choose among {known}, each also with {ONE_RATE}, or define it.")
    if twice := ", ".join(sorted(parsed.flags & settings.keys())):
        raise ValueError(f"Setup {name} sets {twice}, but the command line sets it too: remove the flag.")
    own = {item.name for item in fields(SetupArguments)}
    languages = {key: value for key, value in settings.items() if key in own}
    changes: dict[str, Any] = {key: value for key, value in settings.items() if key not in own}
    if "lr_scheduler_type" in changes:
        changes = {"lr_scheduler_kwargs": None} | changes  # those of another schedule do not fit
    try:
        made = Setup(replace(of, **languages), replace(training, **changes | {"push_to_hub": False}), settings)
        if made.training.max_steps < 1:
            raise ValueError(f"max_steps must be 1 or more, got {made.training.max_steps}.")
        shares = expected_shares(made.of.schedule, made.training.max_steps, made.of.languages)
        if made.of.relation in ("unrelated", "shuffled") and not shares.min() > 0:
            raise ValueError(f"relation {made.of.relation} needs a schedule that reads both languages.")
        if made.of.relation in OF_PAIR and (not data.second_dataset_name or data.dataset_name == MARKOV):
            raise ValueError(
                f"relation {made.of.relation} needs two datasets of texts: dataset_name and second_dataset_name."
            )
        if made.training.warmup_steps > made.training.max_steps:
            raise ValueError(f"warmup_steps must not exceed max_steps ({made.training.max_steps}): set --warmup_steps.")
        if made.of.relation == "unrelated" and data.dataset_name != MARKOV:
            raise ValueError(
                "relation unrelated needs dataset_name markov; for two datasets, use disjoint with second_dataset_name."
            )
    except ValueError as error:
        raise ValueError(f"Setup {name}: {error}") from error
    return made
