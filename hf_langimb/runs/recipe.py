"""A recipe: its YAML gives the defaults, the command line overrides them."""

from __future__ import annotations

import difflib
import json
import re
import sys
from argparse import Action, ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hf_langimb.training.arguments import LangImbTrainingArguments

NOT_IN_RESULTS = (  # where a run lies and where it is published
    "config",
    "output_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "hub_strategy",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
)


@dataclass
class RecipeArguments:
    """What a recipe trains on, with what plan, how often."""

    dataset_name: str = field(
        default="mini_xnli",
        metadata={"help": "mini_xnli (embedded), a Hub id, a folder or a .parquet/.csv/.jsonl file."},
    )
    config_names: list[str] = field(
        default_factory=list, metadata={"help": "Configurations to read; of several, each is one language."}
    )
    text_columns: list[str] = field(default_factory=list, metadata={"help": "One text column, or two for a pair."})
    label_column: str = field(default="label", metadata={"help": "Column of the label."})
    id_column: str | None = field(
        default=None, metadata={"help": "Column of the item, the same for translations of one text."}
    )
    label_order: list[str] = field(default_factory=list, metadata={"help": "Names of the labels in class order."})
    train_split: str = field(default="train", metadata={"help": "Split to draw the training subsets from."})
    validation_split: str = field(default="validation", metadata={"help": "Split to draw the validation subsets from."})
    test_split: str = field(default="test", metadata={"help": "Split to draw the balanced test set from."})
    imbalanced_shares: list[str] = field(
        default_factory=list,
        metadata={"help": "Plan of the skewed subset: a language and its label shares, as in 'fr 1/2 1/3 1/6'."},
    )
    train_size: int | None = field(
        default=None, metadata={"help": "Training rows; default: as many as all plans allow."}
    )
    validation_size: int | None = field(default=None, metadata={"help": "Validation rows; default: likewise."})
    test_size: int | None = field(default=None, metadata={"help": "Test rows; default: as many as the plans allow."})
    one_language_per_item: bool = field(
        default=False, metadata={"help": "Give each item to one language: no translations within the training set."}
    )
    model_name_or_path: str = field(
        default="mini_bert", metadata={"help": "mini_bert (made on the spot and pre-trained), a Hub id or a folder."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens after which a text is cut."})
    pretraining_steps: int = field(default=2400, metadata={"help": "Steps of mini_bert's masked language modelling."})
    setups: list[str] = field(
        default_factory=lambda: ["balanced", "imbalanced", "weighted"], metadata={"help": "Setups to train, by name."}
    )
    seeds: int = field(default=1, metadata={"help": "Number of seeds: seed, seed + 1, ..."})
    probe_dataset_name: str | None = field(
        default=None, metadata={"help": "External text for the language probe: data set with text and language."}
    )
    probe_config_names: list[str] = field(default_factory=list, metadata={"help": "Its configurations."})
    probe_rows: int = field(default=1000, metadata={"help": "External rows for each language."})
    explain_rows: int = field(
        default=60,
        metadata={"help": "Test rows whose tokens are attributed, even over languages and labels; 0: none, -1: all."},
    )

    license: str | None = field(
        default=None, metadata={"help": "Licence of the trained models, for their cards: apache-2.0, mit, ..."}
    )

    def __post_init__(self) -> None:
        for name in ("seeds", "probe_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} expects 1 or more, found {getattr(self, name)}.")
        if self.explain_rows < -1:
            raise ValueError(f"explain_rows expects a number of rows, 0 or -1 (all), found {self.explain_rows}.")
        if self.max_length is not None and self.max_length < 8:
            raise ValueError(f"max_length expects 8 tokens or more, found {self.max_length}.")


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe: `data` and `training` with everything resolved, `config` what differs from the defaults."""

    name: str
    config_name: str
    data: RecipeArguments
    training: LangImbTrainingArguments
    setups: dict[str, dict[str, Any]]
    config: dict[str, Any]
    flags: frozenset[str] = frozenset()  # those given on the command line


def parse_recipe(name: str, folder: Path, argv: Sequence[str] | None = None) -> Recipe:
    """Read a recipe: its YAML gives the defaults, the command line overrides them.

    Args:
        name: of the recipe; `--config STEM` is `folder/STEM.yaml`.
        folder: of the recipe's YAMLs.
        argv: command line; None takes the process's.

    Raises:
        ValueError: no such YAML, or keys and values in it that do not fit; says which, and what is expected.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    program = f"accelerate launch recipes/{name}.py"
    parser = HfArgumentParser(
        (RecipeArguments, LangImbTrainingArguments),
        prog=program,
        allow_abbrev=False,
        usage=f"{program} [--config STEM|FILE.yaml] [--option value ...] (--help lists the options)",
    )
    parser.add_argument("--config", default="mini", help=f"Name of a YAML under {folder}, or a file.")
    hard_defaults = vars(parser.parse_args([]))
    path = _find_config(folder, argv)
    values, definitions = _read_yaml(path, parser)
    parser.set_defaults(**{"output_dir": f"runs/{name}-{path.stem}", "seed": 0} | values)
    resolved = vars(parser.parse_args(argv))
    data, training = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[:2]
    config = {key: value for key, value in resolved.items() if value != hard_defaults[key]}
    config = {key: value for key, value in config.items() if key not in NOT_IN_RESULTS}
    words = (word.partition("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--"))
    flags = frozenset(word if word in resolved else word.removeprefix("no_") for word in words)
    return Recipe(name, path.stem, data, training, definitions, config | {"seed": training.seed}, flags)


def _find_config(folder: Path, argv: Sequence[str]) -> Path:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="mini")
    config = parser.parse_known_args(argv)[0].config
    path = Path(config) if config.endswith((".yaml", ".yml")) else folder / f"{config}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"Expected a configuration at {path}, found none: choose one of {known}, or name a YAML file.")
    return path


def _read_yaml(path: Path, parser: ArgumentParser) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Checked values of a YAML, and the setups that it defines (its `setups` may be names or definitions)."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"Expected keys and values in {path}, found {type(values).__name__}.")
    definitions = values.get("setups")
    if not isinstance(definitions, dict):
        return _check_values(values, path.name, parser), {}
    checked = {}
    for name, settings in definitions.items():
        if not re.fullmatch(r"[a-z0-9_]+", str(name)):
            raise ValueError(f"{path.name}: a setup's name has the letters a-z, 0-9 and _, found {name!r}.")
        checked[name] = _check_setup(settings or {}, f"{path.name}, setup {name}", parser)
    return _check_values(values | {"setups": list(definitions)}, path.name, parser), checked


def _check_setup(settings: Any, where: str, parser: ArgumentParser) -> dict[str, Any]:
    """A setup's definition: its plan, and training arguments."""
    if not isinstance(settings, dict):
        raise ValueError(f"{where} expects a plan and training arguments, found {settings!r}.")
    common = {item.name for item in fields(RecipeArguments)} | {"seed", "language_column", *NOT_IN_RESULTS}
    if wrong := ", ".join(key for key in settings if key in common):
        raise ValueError(f"{where}: {wrong} cannot differ between setups, only the plan and training arguments can.")
    plan = {"plan": settings["plan"]} if "plan" in settings else {}
    return plan | _check_values({key: value for key, value in settings.items() if key != "plan"}, where, parser)


def _check_values(values: dict[str, Any], where: str, parser: ArgumentParser) -> dict[str, Any]:
    """Convert values to their fields' types: YAML reads 5e-4 as a string and no as False."""
    actions = {action.dest: action for action in reversed(parser._actions)}  # --x before its twin --no_x
    checked = {}
    for key, value in values.items():
        if key not in actions or key in ("help", "config"):
            close = difflib.get_close_matches(str(key), actions, n=1)
            raise ValueError(f"{where}: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "."))
        checked[key] = _convert(actions[key], value, f"{where}: {key}")
    return checked


def _convert(action: Action, value: Any, where: str) -> Any:
    takes_list = action.nargs == "+"
    if value is None and not takes_list:
        return None
    if isinstance(value, dict) and action.dest in LangImbTrainingArguments._VALID_DICT_FIELDS:
        return json.dumps(value)  # TrainingArguments reads it back
    if takes_list != isinstance(value, list):
        raise ValueError(f"{where} expects {'a list' if takes_list else 'a single value'}, found {value!r}.")
    if takes_list:
        return [_convert_scalar(action, item, where) for item in value]
    return _convert_scalar(action, value, where)


def _convert_scalar(action: Action, value: Any, where: str) -> Any:
    if isinstance(value, dict | list):
        raise ValueError(f"{where} expects a single value, found {value!r}.")
    convert: Any = action.type
    takes_bool = convert is string_to_bool
    if isinstance(value, bool) and not takes_bool:
        raise ValueError(
            f"{where} expects text or a number, found {value}: put quotes round yes, no, on and off in YAML."
        )
    try:
        converted = convert(str(value)) if convert else value
    except (TypeError, ValueError, ArgumentTypeError):
        expected = "true or false" if takes_bool else getattr(convert, "__name__", "another type")
        raise ValueError(f"{where} expects {expected}, found {value!r}.") from None
    if action.choices and converted not in action.choices:
        raise ValueError(f"{where} expects one of {', '.join(map(str, action.choices))}, found {value!r}.")
    return converted
