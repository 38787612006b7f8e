"""A recipe: its YAML gives the defaults, the command line overrides them."""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from argparse import Action, ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg, string_to_bool

from hf_langimb.console import one_line
from hf_langimb.counts.own_weights import read_weights
from hf_langimb.data.flags import AUTO, TOLERANCE, TOLERANCE_HELP, number_or
from hf_langimb.measures.shortcut import ACCURACY_MARGIN, MATERIAL_BITS, MATERIAL_TRANSFER
from hf_langimb.results.folder import OWN_FOLDERS
from hf_langimb.training.arguments import LangImbTrainingArguments

HUB = [item.name for item in fields(LangImbTrainingArguments) if item.name.startswith("hub_")]
NOT_IN_RESULTS = {"config", "output_dir", "push_to_hub", *HUB}  # where a run lies and where it is published
FITTED = (
    "Epochs, batch size, learning rate, pretraining steps and bf16 are chosen by the number of training rows and the "
    "device unless they are given. Short names: --model, --text-column, --config-name, --split (of the training rows)."
)
LEAST = {"seeds": 1, "models_at_once": 1, "probe_rows": 1, "explain_rows": -1, "max_length": 8, "pretraining_steps": 1}
LEAST |= dict.fromkeys(["train_size", "validation_size", "test_size"], 1)
MOST = 2**31 - 1  # of any number
DEFAULTS = ("mini", "mbert")  # configurations, the first that a recipe has
HELP = ("-h", "--help")


class _Loader(yaml.SafeLoader):
    """YAML in which a number with underscores is text: 0.1_0 is a schedule."""


def _number(loader: Any, node: Any) -> Any:
    """A number of a YAML file, or text."""
    kind = node.tag.rpartition(":")[2]
    return node.value if "_" in node.value else getattr(loader, f"construct_yaml_{kind}")(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


@dataclass
class RecipeArguments:
    """Data, plans, model and measurements of a recipe."""

    dataset_name: str = HfArg(
        default="mini_xnli", help="mini_xnli (built-in), cldr (needs Babel), a Hub id, folder or file."
    )
    config_names: list[str] = HfArg(default_factory=list, help="Configurations; if several, one for each language.")
    text_columns: list[str] = HfArg(default_factory=list, help="One text column, or two for a pair.")
    label_column: str = HfArg(default="label", help="Column of the label.")
    id_column: str | None = HfArg(default=None, help="Column with one value for all translations of a text.")
    language_from: str | None = HfArg(
        default=None,
        help="Take the language from names of folders or files, or from keys of {language: text}: folder, file, key.",
    )
    quoting: str | None = HfArg(
        default=None,
        help="Quotes in CSV files enclose fields (minimal) or are part of the text (none); default: detected.",
    )
    separator: str | None = HfArg(default=None, help="Field separator of CSV files.")
    encoding: str | None = HfArg(default=None, help="Encoding of text files, such as latin-1.")
    drop_null: bool = HfArg(default=False, help="Leave out rows without text, language or label.")
    language: str | None = HfArg(default=None, help="The language of all rows, if no column names it.")
    merge_languages: bool = HfArg(default=False, help="Give one name to several spellings of a language (zh, zh-CN).")
    label_order: list[str] = HfArg(default_factory=list, help="Names of the labels in class order.")
    train_split: str = HfArg(default="train", help="Split to draw the training subsets from.")
    validation_split: str = HfArg(default="validation", help="Split to draw the validation subsets from.")
    test_split: str = HfArg(default="test", help="Split to draw the test set from.")
    imbalanced_shares: list[str] = HfArg(
        default_factory=list,
        help="Plan of the skewed subset: languages with shares of labels, such as 'fr 1/2 1/3 1/6'.",
    )
    skew: float | None = HfArg(
        default=None,
        help="Instead of imbalanced_shares: with 20, the first label is 20 times as frequent as the last in every "
        "second language; in the others, it is the reverse.",
    )
    languages: list[str] = HfArg(
        default_factory=list, help="Languages to keep; default: all, or those of imbalanced_shares."
    )
    validation_share: float = HfArg(default=0.1, help="Share of training rows for a missing validation split.")
    test_share: float = HfArg(default=0.2, help="Share of training rows for a missing test split.")
    train_size: int | None = HfArg(default=None, help="Training rows; default: as many as possible.")
    validation_size: int | None = HfArg(default=None, help="Validation rows; default: as many as possible.")
    test_size: int | None = HfArg(default=None, help="Test rows; default: as many as possible.")
    one_language_per_item: bool = HfArg(default=False, help="Use each item in only one language, not its translations.")
    model_name_or_path: str = HfArg(
        default="mini_bert", help="mini_bert (pretrained by the recipe), mini_characters (untrained), Hub id, folder."
    )
    max_length: int | None = HfArg(default=None, help="Tokens to which longer texts are truncated.")
    pretraining_steps: int = HfArg(default=2400, help="Steps of the pretraining of mini_bert.")
    setups: list[str] = HfArg(
        default_factory=lambda: ["balanced", "imbalanced", "weighted"],
        help="Setups to train, by name; auto: plain and three recommended methods.",
    )
    seeds: int = HfArg(default=1, help="Number of seeds: seed, seed + 1, ...")
    models_at_once: int = HfArg(
        default=1, help="Models to train at the same time, if the recipe is one process on a CPU; they share its cores."
    )
    probe_dataset_name: str | None = HfArg(default=None, help="External text for the probe: texts and their language.")
    probe_config_names: list[str] = HfArg(default_factory=list, help="Configurations of the external text.")
    probe_rows: int = HfArg(default=1000, help="Rows of external text per language.")
    extra_test: list[str] = HfArg(
        default_factory=list,
        help="Further test sets: NAME=DATASET with the same columns, or reversed, the test set with weights that make "
        "rare what is frequent in training.",
    )
    explain_rows: int | str = HfArg(
        default=60,
        help="Test rows whose tokens are attributed, equally many per cell; 0: none, -1: all, auto: as many as needed.",
    )
    explain_tolerance: float = HfArg(default=TOLERANCE, help=TOLERANCE_HELP)
    control_seed: bool = HfArg(
        default=False, help="With one seed, also train balanced with a second seed, as the control of the attributions."
    )
    material_bits: float = HfArg(default=MATERIAL_BITS, help="Smallest link or dependence that counts, in bits.")
    material_transfer: float = HfArg(default=MATERIAL_TRANSFER, help="Smallest skew transfer that counts.")
    accuracy_margin: float = HfArg(
        default=ACCURACY_MARGIN,
        help="Largest loss of accuracy that a recommended setup may have (0.02: two percentage points).",
    )
    license: str | None = HfArg(default=None, help="License of the models, for their cards: apache-2.0, mit, ...")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            low = LEAST.get(name, -MOST)
            if isinstance(value, int) and not low <= value <= MOST:
                bound = f"{low} or more" if value < low else f"{MOST} or less"
                raise ValueError(f"{name} must be {bound}, got {value}.")
        if len({*self.text_columns}) < len(self.text_columns):
            raise ValueError(f"text_columns must be one column or two different ones, got {self.text_columns}.")
        if self.imbalanced_shares and (self.languages or self.skew is not None):
            raise ValueError("imbalanced_shares names languages and shares: leave out languages and skew.")
        sizes = dict.fromkeys(("explain_tolerance", "material_bits", "material_transfer"), math.inf)
        for name, most in {**sizes, "accuracy_margin": 1}.items():
            if not 0 < getattr(self, name) < most:
                bound = "above 0" if most == math.inf else f"between 0 and {most}"
                raise ValueError(f"{name} must be {bound}, got {getattr(self, name)}.")
        if self.one_language_per_item and not self.id_column:
            raise ValueError("one_language_per_item needs id_column: the column that translations of a text share.")


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe.

    Args:
        name: of the recipe, such as `xnli`.
        config_name: stem of its YAML.
        data: what is trained on, with everything resolved.
        training: the training arguments, with everything resolved.
        setups: definitions of setups in the YAML, {name: {"plan": ..., training argument: value}}.
        config: what differs from the defaults, as `results.json` records it.
        flags: names of the options that the user gave on the command line.
    """

    name: str
    config_name: str
    data: RecipeArguments
    training: LangImbTrainingArguments
    setups: dict[str, dict[str, Any]]
    config: dict[str, Any]
    flags: frozenset[str] = frozenset()


def parse_recipe(name: str, folder: Path, argv: Sequence[str] | None = None) -> Recipe:
    """Read a recipe of a classifier; see `parse_words`."""
    argv = sys.argv[1:] if argv is None else list(argv)
    (data, training), parsed = parse_words(name, folder, argv, (RecipeArguments, LangImbTrainingArguments))
    if training.class_weights is not None:
        parsed.config["class_weights"] = training.class_weights  # the table, whatever file it is in
    for setup, of in parsed.setups.items():
        if isinstance(table := of.get("class_weights"), str):
            try:
                of["class_weights"] = read_weights(table)
            except (OSError, ValueError) as error:
                raise ValueError(f"{parsed.config_name}.yaml, setup {setup}: class_weights: {error}") from None
    return Recipe(name, parsed.config_name, data, training, parsed.setups, parsed.config, parsed.flags)


class Parsed(NamedTuple):
    """What was parsed with the arguments of a recipe; see `Recipe`."""

    config_name: str
    setups: dict[str, dict[str, Any]]
    config: dict[str, Any]
    flags: frozenset[str]
    listed: list[str]  # setups of the YAML


def parse_words(name: str, folder: Path, argv: list[str], types: tuple[type, ...]) -> tuple[tuple[Any, ...], Parsed]:
    """Read a recipe: its YAML gives the defaults, the command line overrides them.

    Args:
        name: of the recipe; `--config STEM` is `folder/STEM.yaml`.
        folder: of the recipe's YAML files.
        argv: the command line.
        types: dataclasses of the arguments. The first is the same for all setups, the last has the training arguments.

    Returns:
        An object of each type, and the rest.

    Raises:
        ValueError: no such YAML file, or a key or value in it that does not fit.
    """
    program, given = f"accelerate launch recipes/{name}.py", "[--config STEM|FILE.yaml]"
    if name == "custom":
        program, given = "langimb train", "DATASET"
    usage = f"{program} {given} [--option value ...] (--help lists the options)"
    parser = HfArgumentParser(types, prog=program, allow_abbrev=False, usage=usage)  # type: ignore[arg-type]
    for action in parser._actions:
        action.type = number_or(AUTO, AUTO) if action.dest == "explain_rows" else action.type
    default = next((stem for stem in DEFAULTS if (folder / f"{stem}.yaml").is_file()), name)
    where = "A YAML file with other defaults." if name == "custom" else f"Name of a YAML file in {folder}, or a path."
    parser.add_argument("--config", default=default, help=where)
    asked = [word for word in argv if word not in HELP]
    found, unknown = parser.parse_known_args(asked)
    if unknown and asked == argv:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    path = find_yaml(found.config, folder, Path())
    origins: dict[str, str] = {}
    values, setups = _read_yaml(path, folder, parser, origins)
    defaults = vars(parser.parse_args([]))
    if asked != argv:
        shown = {"output_dir": f"runs/{name}-{path.stem}", "seed": 0}
        parser.description = f"Defaults come from {path.name}."
        if name == "custom":
            shown |= {"dataset_name": None, "output_dir": "runs/DATASET"}
            parser.description += f" {FITTED}"
        parser.set_defaults(**shown | {key: value for key, value in values.items() if value is not None})
        parser.parse_args(argv)  # prints them and ends
    words_given = (word.partition("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--"))
    flags = frozenset(word if word in defaults else word.removeprefix("no_") for word in words_given)
    for kind in ("", "probe_"):  # a file has none of the configurations that the YAML names; a mirror or copy has them
        chosen = getattr(parser.parse_known_args(argv)[0], f"{kind}dataset_name", None)
        if f"{kind}dataset_name" in flags and Path(str(chosen)).is_file():
            values.pop(f"{kind}config_names", None)
    words = [f"--output_dir=runs/{name}-{path.stem}", "--seed=0", *_words(values, path.name, parser), *argv]
    resolved = vars(parser.parse_args(words))
    try:
        made = parser.parse_args_into_dataclasses(words, look_for_args_file=False)[: len(types)]
    except Exception as error:  # of transformers, any
        named = {key for key in values.keys() | flags if re.search(rf"\b{key}\b".replace("_", "[_ ]"), str(error))}
        file = f"{origins[min(named)]}: " if named and not named & flags else ""
        raise ValueError(file + one_line(error)) from error
    config = {key: value for key, value in resolved.items() if value != defaults[key] and key not in NOT_IN_RESULTS}
    config |= {"seed": made[-1].seed} | ({"setup_definitions": setups} if setups else {})
    return made, Parsed(path.stem, setups, config, flags, values.get("setups") or [])


def total_batch(arguments: Any, processes: int) -> int:
    """Rows of an optimizer step."""
    return int(arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes)


def find_yaml(config: str, folder: Path, base: Path, expected: str = "Expected") -> Path:
    """The YAML file of a configuration: a path, from `base`, or the stem of a file in the recipe's folder."""
    path = base / config if config.endswith((".yaml", ".yml")) else folder / f"{config}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "those of the recipe"
        raise ValueError(f"{expected} a configuration at {path}, found none: choose one of {known}, or a YAML file.")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ValueError: the file has something else.
    """
    try:
        return {**(yaml.load(path.read_text(encoding="utf-8"), _Loader) or {})}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as error:  # the last: no keys
        raise ValueError(f"{path} is not valid YAML with keys and values, in UTF-8: {error}") from None


def _read_yaml(
    path: Path, folder: Path, parser: HfArgumentParser, origins: dict[str, str], below: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checked values of a YAML file and its setups, on those of a file that it extends; `origins` gets their files."""
    values = read_yaml(path)
    extended, setups = values.pop("extends", None), values.get("setups")
    definitions = {}
    if isinstance(setups, dict):  # names, or definitions by name
        values["setups"] = list(setups)
        definitions = {name: _check_setup(name, settings, path.name, parser) for name, settings in setups.items()}
    _words(values, path.name, parser)
    origins.update(dict.fromkeys(values, path.name) | origins)
    if extended is None:
        return values, definitions
    if not isinstance(extended, str):
        raise ValueError(f"{path}: extends: expected the name of one configuration, got {extended!r}.")
    parent = find_yaml(extended, folder, path.parent, f"{path}: extends: expected")
    if parent.resolve() in (known := (path.resolve(), *below)):
        raise ValueError(f"{path} extends {parent.name}, which leads back to itself: remove one `extends`.")
    inherited, inherited_definitions = _read_yaml(parent, folder, parser, origins, known)
    return inherited | values, (inherited_definitions if values.get("setups", True) else {}) | definitions


def _check_setup(name: Any, settings: Any, file: str, parser: HfArgumentParser) -> dict[str, Any]:
    """A setup's definition: its plan, and training arguments."""
    where, settings, arguments = f"{file}, setup {name}", settings or {}, next(iter(parser.dataclass_types))
    common = {item.name for item in fields(arguments)} | {"seed", "language_column", *NOT_IN_RESULTS}
    planned = "plan" if arguments is RecipeArguments else None
    problem = ""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name) or name in OWN_FOLDERS:
        problem = f"a setup name may contain only a-z, 0-9 and _ (and is not {', '.join(OWN_FOLDERS)}), got {name!r}"
    elif not isinstance(settings, dict):
        problem = f"expected a plan and training arguments, got {settings!r}"
    elif wrong := ", ".join(key for key in settings if key in common):
        others = "the plan and training arguments can" if planned else "other arguments can"
        problem = f"{wrong} cannot differ between setups, only {others}"
    if problem:
        raise ValueError(f"{where}: {problem}.")
    changes = {key: value for key, value in settings.items() if key != planned}
    parsed = vars(parser.parse_args(_words(changes, where, parser)))
    return {key: parsed.get(key, value) for key, value in settings.items()}


def _words(values: dict[str, Any], where: str, parser: HfArgumentParser) -> list[str]:
    """Values of a YAML file as command-line words, which the parser checks; errors name file and key."""
    actions = {action.dest: action for action in reversed(parser._actions)}  # --x before its twin --no_x
    del actions["help"], actions["config"]
    words = []
    for key, value in values.items():
        option, problem = [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"], ""
        if key not in actions:
            close = difflib.get_close_matches(str(key), actions, n=1, cutoff=0.75)
            problem = f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else ".")
        elif value is None or value == []:
            continue  # the default
        elif reason := _misfit(actions[key], value):
            problem = f"{key}: {reason}."
        else:
            if isinstance(value, list):
                option = [f"--{key}", *map(str, value)]
            try:
                parser.exit_on_error = False  # for an error in place of the program's end
                parser.parse_known_args(option)
            except (ArgumentError, ValueError) as error:
                reason = re.sub(r"^argument [^:]*: ", "", str(error)).removesuffix(".")
                problem = f"{key}: {reason}."
            finally:
                parser.exit_on_error = True
        if problem:
            raise ValueError(f"{where}: {problem}")
        words += option
    return words


def _misfit(action: Action, value: Any) -> str:
    """Why an option does not take a YAML value; unquoted yes, no, on and off are not text."""
    if isinstance(value, dict) and action.dest in LangImbTrainingArguments._VALID_DICT_FIELDS:  # which read JSON
        tables = [of for of in (value, *value.values()) if isinstance(of, dict)]
        named = all(not isinstance(key, bool) for of in tables for key in of)
        return "" if named else "expected text as keys (yes, no, on and off need quotes in YAML)"
    if (action.nargs == "+") != isinstance(value, list):
        return f"expected {'a list' if action.nargs == '+' else 'a single value'}, got {value!r}"
    kinds = (dict, list) if action.type is string_to_bool else (dict, list, bool)
    items = value if isinstance(value, list) else [value]
    if flags := [item for item in items if isinstance(value, list) and re.match(r"-(?![\d.]+$).", str(item))]:
        return f"a list cannot contain {flags[0]!r}, which looks like a flag"
    wrong = [item for item in items if isinstance(item, kinds)]
    quotes = " (yes, no, on and off need quotes in YAML)" if wrong and isinstance(wrong[0], bool) else ""
    return f"expected text or a number, got {wrong[0]!r}{quotes}" if wrong else ""
