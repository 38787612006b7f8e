"""The recipe `compare_mitigations`: every method at its best setting, on the same data and with the same budget.

1. Tuning: each method is trained at each of its settings, which its YAML lists, with one seed that no result uses. The
   one with the lowest cross-entropy on validation rows, weighted so that labels do not depend on language, is chosen.
2. Comparison: the chosen settings with the seeds of the results. The `plain` models are also changed with the help of
   their validation rows, which are not trained on, but on which the checkpoint is chosen: corrected, refitted, and
   refitted on features from which language is erased.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from accelerate import PartialState
from scipy.special import softmax

from hf_langimb.console import RESUMES, bar, ends_in_words
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.files import AGAIN, read_json, write_json, write_text
from hf_langimb.measures.correction import fit_correction
from hf_langimb.measures.dependence import target_measures
from hf_langimb.measures.erasure import language_eraser
from hf_langimb.measures.forward import head_inputs
from hf_langimb.measures.predictions import evaluate_predictions
from hf_langimb.measures.refit import STRENGTHS
from hf_langimb.models.axes import read_axes
from hf_langimb.models.inputs import longest_input
from hf_langimb.models.loading import load_trained
from hf_langimb.results.folder import PREDICTIONS, TIME, VALIDATION, RunFolder
from hf_langimb.results.mitigations import (
    CHANGED,
    CORRECTED,
    ERASED,
    FILE,
    PLAIN,
    REFITTED,
    Comparison,
    compared,
    text_of,
)
from hf_langimb.results.schema import Results
from hf_langimb.runs.custom import FOLDER
from hf_langimb.runs.experiment import run, start_recipe
from hf_langimb.runs.held_out import check_rows
from hf_langimb.runs.recipe import Recipe, find_yaml, parse_recipe, read_yaml
from hf_langimb.runs.refit import HeldOut
from hf_langimb.runs.steps import Diverged
from hf_langimb.runs.subsets import TEST_SEED, Data, load_data
from hf_langimb.training.arguments import LangImbTrainingArguments

logger = logging.getLogger(__name__)

TUNING_SEED = 100
KEYS = {"recipe": str, "config": str, "arguments": dict, "methods": dict}
MITIGATIONS = (  # arguments that `plain` does not have
    *("class_weighting", "deferred_weighting", "objective", "sampling", "language_temperature", "language_schedule"),
    *("language_adversary", "masked_entropy_weight"),
)
OWN_FLAGS = ("--seed", "--setups")  # of the recipe, which the comparison sets
Methods = dict[str, dict[str, dict[str, Any]]]  # by method the settings of each setup, by its name


def read_methods(path: Path) -> tuple[str, str, dict[str, Any], Methods]:
    """The YAML of a comparison: recipe, its configuration, arguments of all trainings, and methods with their grids.

    A method has one argument with a list: the values that are tried, the same number for every method.

    Raises:
        ValueError: no such file, or something else in it; says what.
    """
    found = read_yaml(find_yaml(str(path), path.parent, Path()))
    values = {key: value for key, value in found.items() if value is not None}
    if problem := next(_problems(values), None):
        raise ValueError(f"{path.name}: {problem}.")
    methods: Methods = {}
    for method, settings in values["methods"].items():
        (tuned,) = _lists(settings)
        points = [settings | {tuned: value} for value in settings[tuned]]
        methods[method] = dict(zip(_names(method, settings[tuned]), points, strict=True))
    return values["recipe"], values["config"], values.get("arguments", {}), methods


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the YAML of a comparison; each is found on the condition that those before are not there."""
    if {*values} - {*KEYS} or not {"recipe", "config", "methods"} <= {*values}:
        got = ", ".join(map(str, values)) or "none"
        yield f"expected the keys recipe, config and methods, and optionally arguments, got {got}"
    for key, value in values.items():
        if not isinstance(value, KEYS[key]):
            yield f"{key} must be a {'string' if KEYS[key] is str else 'mapping'}, got {value!r}"
    listed = values["methods"]
    if len(listed) < 2 or not all(isinstance(of, dict) for of in listed.values()):
        yield "methods must list at least two methods, each with a mapping of arguments"
    for method, settings in listed.items():
        if len(found := _lists(settings)) != 1:
            yield f"{method} must have exactly one argument with a list of values, got {len(found)}"
    lengths = sorted({len(settings[_lists(settings)[0]]) for settings in listed.values()})
    if len(lengths) > 1 or not lengths[0]:
        yield f"all methods must list the same number of values, one or more, got {', '.join(map(str, lengths))}"
    names = [name for method, of in listed.items() for name in _names(method, of[_lists(of)[0]])]
    if twice := [name for name in names if names.count(name) > 1]:
        yield f"two settings have the same name, {twice[0]}: rename a method"
    if PLAIN not in listed:
        yield f"one of the methods must be {PLAIN}"


def _names(method: str, values: Sequence[Any]) -> list[str]:
    """Names of the setups of a method, by their values: the models of others are kept where a grid is changed."""
    names = [f"{method}_{re.sub('[^a-z0-9]+', '_', str(value).lower())}" for value in values]
    return names if len({*names}) == len(names) else [f"{method}_{i}" for i in range(len(names))]


def _lists(settings: Mapping[str, Any]) -> list[str]:
    """The arguments of a method that have lists."""
    return [key for key, value in settings.items() if isinstance(value, list)]


def write_setups(path: Path, base: Path, arguments: Mapping[str, Any], setups: Mapping[str, Any]) -> None:
    """Write the YAML of a recipe with these setups, on the values of another one."""
    values = {"extends": str(base.resolve()), **arguments, "explain_rows": 0, "setups": dict(setups)}
    write_text(path, yaml.safe_dump(values, sort_keys=False))


def compare(path: Path, recipes: Path, output: Path, seeds: int, words: Sequence[str] = ()) -> Comparison:
    """Tune and compare the methods of a YAML; finished steps are skipped.

    Args:
        path: the YAML.
        recipes: folder of the recipes; `custom` is that of `langimb train`.
        output: folder of the runs `tuning` and `comparison`, and of the results.
        seeds: of the comparison: 0, 1, ...
        words: further flags of the recipe, for all trainings.
    """
    name, config, arguments, methods = read_methods(path)
    setups = {setup: settings for points in methods.values() for setup, settings in points.items()}
    base = FOLDER if name == "custom" else recipes / name
    if not (file := base / f"{config}.yaml").is_file():
        raise ValueError(f"{path.name}: the recipe {name} has no configuration {config} (no file {file}).")

    def recipe_of(part: str, names: Sequence[str], first: int, number: int) -> Recipe:
        """The recipe of some setups."""
        with tempfile.TemporaryDirectory() as scratch:
            write_setups(grid := Path(scratch, path.name), file, arguments, setups)
            flags = ["--config", grid, "--output_dir", output / part, "--seed", first, "--seeds", number]
            recipe = parse_recipe(name, base, [*words, *map(str, [*flags, "--setups", *names])])
        return replace(recipe, config_name="methods")  # whatever the file is called

    for part in ("tuning", "comparison"):
        RunFolder(output / part).refuse_foreign()
    _check_plain(path.name, methods[PLAIN].values(), recipe_of("tuning", [*setups], TUNING_SEED, 1).training)
    losses = _tuned(setups, lambda names: recipe_of("tuning", names, TUNING_SEED, 1))
    done = None
    while done is None:  # once, but where a chosen training diverges
        chosen = _chosen(path.name, methods, losses)
        done = _run(recipe := recipe_of("comparison", [*chosen.values()], 0, seeds), losses)
    folder, results = done
    plan = results["setups"][chosen[PLAIN]]["plan"]
    metrics: dict[str, Any] = {}
    for method, setup in chosen.items():
        places = {seed: RunFolder(folder).model(setup, int(seed)) for seed in results["setups"][setup]["seeds"]}
        metrics[method] = {
            seed: results["setups"][setup]["seeds"][seed] | {"seconds": _seconds(place)}
            for seed, place in places.items()
        }
    places = {seed: RunFolder(folder).model(chosen[PLAIN], int(seed)) for seed in metrics[PLAIN]}
    metrics |= _changed(recipe, plan, places, metrics[PLAIN])
    found = compared(
        recipe=name,
        config_name=path.stem,
        arguments=arguments | results["flags"],
        languages=results["languages"],
        labels=results["labels"],
        audit=results["data"][f"train/{plan}"],
        grids={method: [*points.values()] for method, points in methods.items()},
        losses={
            method: [None if losses[setup] == math.inf else losses[setup] for setup in points]
            for method, points in methods.items()
        },
        chosen={method: setups[setup] for method, setup in chosen.items()},
        metrics=metrics,
    )
    if PartialState().is_main_process:
        write_json(output / FILE, found)
    PartialState().wait_for_everyone()
    return found


def _check_plain(file: str, settings: Iterable[Mapping[str, Any]], training: LangImbTrainingArguments) -> None:
    """Refuse a method `plain` with a mitigation, in its settings or in the arguments of all training runs."""
    usual = type(training).__dataclass_fields__
    for name in MITIGATIONS:
        if any(of.get(name, getattr(training, name)) != usual[name].default for of in settings):
            raise ValueError(
                f"{file}: {PLAIN} is the method without mitigations: remove {name} from it, from the arguments of all "
                "methods and from the command line."
            )


def _tuned(setups: Iterable[str], recipe_of: Callable[[Sequence[str]], Recipe]) -> dict[str, float]:
    """The validation loss of each setup, in nats; infinite where the training diverged."""
    losses = dict.fromkeys(setups, 0.0)
    while left := [setup for setup, loss in losses.items() if loss < math.inf]:
        if done := _run(recipe_of(left), losses, validated=True):
            return losses | {setup: _loss(RunFolder(done[0]).model(setup, TUNING_SEED)) for setup in left}
    return losses


def _run(recipe: Recipe, losses: dict[str, float], validated: bool = False) -> tuple[Path, Results] | None:
    """As `run`; None where a training diverges, whose loss becomes infinite."""
    try:
        return run(recipe, validated)
    except Diverged as error:
        setup = error.place.parent.name
        logger.warning("The training of %s diverged: this setting is not chosen.", setup)
        losses[setup] = math.inf
        return None


def _chosen(file: str, methods: Methods, losses: Mapping[str, float]) -> dict[str, str]:
    """By method the setup with the lowest loss.

    Raises:
        ValueError: a method whose training diverged with every setting.
    """
    chosen = {method: min(points, key=lambda setup: losses[setup]) for method, points in methods.items()}
    if failed := [method for method, setup in chosen.items() if losses[setup] == math.inf]:
        raise ValueError(
            f"{file}: the training diverged with every setting of {failed[0]}: list other values, or remove it "
            "(finished training runs are kept)."
        )
    return chosen


def _loss(place: Path) -> float:
    """Cross-entropy of a model on validation rows that are weighted to remove the link, in nats."""
    table = pq.read_table(place / VALIDATION)
    columns = {f"{name}s": table[name] for name in ("language", "label", "prediction")}
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    plan = _plan(place, logits.shape[1])
    probabilities = softmax(logits, axis=1)
    found = evaluate_predictions(**columns, probabilities=probabilities, plan=plan, target="independent", resamples=0)
    return float(math.inf if found["plain_loss"] is None else found["plain_loss"])


def _plan(place: Path, labels: int) -> JointDistribution:
    """The counts of a model's training data, with positions as labels."""
    axes = read_axes(place) or {}
    return JointDistribution(tuple(axes["languages"]), tuple(range(labels)), np.array(axes["counts"]))


def _seconds(place: Path) -> float | None:
    """How long a training took; None if it was interrupted."""
    seconds: float | None = read_json(place / TIME, AGAIN).get("seconds") if (place / TIME).is_file() else None
    return seconds


def _changed(
    recipe: Recipe, plan: str, places: Mapping[str, Path], metrics: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """METRICS of the models of a setup, by seed, after each change that needs no training.

    Args:
        recipe: of the run.
        plan: of the setup.
        places: folders of the models, by seed.
        metrics: of the models, by seed.
    """
    found: dict[str, dict[str, Any]] = {method: {} for method in CHANGED}
    data = load_data(recipe.data, recipe.training.language_column)
    for seed, place in bar(places.items(), "Changing models"):
        for method, logits in _changed_logits(recipe, data, plan, place, int(seed)).items():
            quality = _measured(place, logits)
            probe = {"test": None} if method == ERASED else metrics[seed]["probe"]  # which reads the same features
            found[method][seed] = quality | {"probe": probe, "seconds": None}
    return {method: of for method, of in found.items() if len(of) == len(places)}


def _changed_logits(recipe: Recipe, data: Data, plan: str, place: Path, seed: int) -> dict[str, np.ndarray]:
    """By method, logits of the test rows by what was fitted on the validation rows of a model, where it can be."""
    trained = load_trained(place)
    rows = data.tokenized(
        trained.tokenizer, [plan], [seed], recipe.data.max_length or longest_input(trained.tokenizer, trained.model)
    )
    validation, test = rows["validation", plan, seed], rows["test", data.test_plan, TEST_SEED]
    inputs = [head_inputs(trained.model, trained.tokenizer, part) for part in (validation, test)]
    (logits, features, layer), (before, read, _) = inputs
    languages, labels, ids = (validation[name] for name in ("language", "label", "id"))
    changed = {}
    try:
        check_rows(validation, trained.names)
        correction = fit_correction(logits, languages, np.asarray(labels), groups=np.asarray(ids))
        changed[CORRECTED] = correction.apply(before, test["language"])
        held_out = HeldOut.of(features, languages, labels, ids, trained.names, layer.bias is not None)
        every, erase = np.arange(len(features)), partial(language_eraser, centered=held_out.biased)
        head = held_out.fit(every, None, STRENGTHS)
        changed[REFITTED] = head.logits(read)
        changed[ERASED] = held_out.fit(every, erase, [head.C]).logits(read)  # with an extra of the package
    except ValueError as error:
        left_out = ", ".join(repr(method) for method in CHANGED if method not in changed)
        logger.warning("Not measured for the models of %s, and left out of the table: %s. %s", PLAIN, left_out, error)
    return changed


def _measured(place: Path, logits: np.ndarray) -> dict[str, Any]:
    """METRICS of predictions on the test rows of a model."""
    test = pq.read_table(place / PREDICTIONS, columns=["id", "language", "label"])
    columns = {"languages": test["language"], "labels": test["label"], "predictions": pa.array(logits.argmax(axis=1))}
    options: Any = {"plan": _plan(place, logits.shape[1]), "groups": test["id"]}
    quality = evaluate_predictions(**columns, probabilities=softmax(logits, axis=1), **options)
    return {"test": quality, "targets": target_measures(**columns, **options)}


def parse(folder: Path, argv: Sequence[str] | None = None) -> tuple[Namespace, list[str]]:
    """The options of the recipe, with the YAML file and the output folder, and further flags of all trainings."""
    description = (
        "Compare methods that make predictions depend less on language, each at its best setting. Other flags are "
        "passed to all training runs."
    )
    name = "accelerate launch recipes/compare_mitigations.py"
    parser = ArgumentParser(name, description=description, allow_abbrev=False)
    where = f"name of a YAML file in {folder}, or a path (default: %(default)s)"
    parser.add_argument("--config", default="mini", metavar="NAME|FILE.yaml", help=where)
    default = "default: runs/compare_mitigations-NAME"
    parser.add_argument("--output_dir", "--output-dir", type=Path, metavar="DIR", help=default)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds in the comparison (default: %(default)s)")
    options, words = parser.parse_known_args(argv)
    if options.seeds < 1:
        parser.error(f"--seeds must be 1 or more, got {options.seeds}")
    if own := {word.partition("=")[0] for word in words} & {*OWN_FLAGS}:
        parser.error(f"the comparison sets {min(own)} itself: leave it out")
    named = options.config.endswith((".yaml", ".yml"))
    options.path = Path(options.config) if named else folder / f"{options.config}.yaml"
    options.output_dir = options.output_dir or Path(f"runs/compare_mitigations-{options.path.stem}")
    return options, words


def main(folder: Path, argv: Sequence[str] | None = None) -> None:
    """The command line of recipes/compare_mitigations.py; `folder`, in that of the recipes, has its YAML files."""
    start_recipe()
    with ends_in_words(Path(sys.argv[0]).name, RESUMES):
        options, words = parse(folder, argv)
        found = compare(options.path, folder.parent, options.output_dir, options.seeds, words)
        if PartialState().is_main_process:
            print(text_of(found, options.output_dir), end="")
