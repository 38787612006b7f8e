"""Setups: a name -> a plan and training arguments, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer
from transformers.integrations import get_available_reporting_integrations

from hf_langimb.console import one_line
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import GROUP_DRO, OWN, WEIGHTING_SCHEMES, cell_weights, language_means
from hf_langimb.runs.recipe import Recipe, total_batch
from hf_langimb.runs.subsets import Data
from hf_langimb.training.arguments import LangImbTrainingArguments
from hf_langimb.training.objectives import OBJECTIVES
from hf_langimb.training.sampler import stage_rates, steps_of

SETUPS: dict[str, dict[str, Any]] = {
    "balanced": {"plan": "balanced", "class_weighting": "none"},
    "imbalanced": {"plan": "imbalanced", "class_weighting": "none"},
    "weighted": {"plan": "imbalanced", "class_weighting": "per_language"},
}
WEIGHTED = [*(name for name in WEIGHTING_SCHEMES if name != "none"), OWN, GROUP_DRO]  # setups: skewed data, weighted
SAMPLING = "_sampling"  # setups whose rows are drawn in proportion to weights
SUFFIXES: dict[str, dict[str, Any]] = {"_entropy": {"masked_entropy_weight": 1.0}, "_lora": {"lora_rank": 8}}
SELECTING = ("eval_loss", "eval_plain_loss", "eval_uniform_loss")  # metrics that may choose the checkpoint


AUTO = "auto"  # in place of the names of setups: `plain` and these methods
RECOMMENDED: dict[str, dict[str, Any]] = {  # by model_cards/mitigations/mini/comparison.json
    "logit_adjustment_independence": {"objective": "logit_adjustment_independence", "logit_adjustment_tau": 1.5},
    "deferred": {"class_weighting": "independence", "deferred_weighting": 0.5},
    "sampling": {"sampling": "independence", "weight_exponent": 1.0},
}


@dataclass(frozen=True)
class Setup:
    """What a setup trains on, and how; `settings` are what it does not share with other setups."""

    plan: str
    arguments: LangImbTrainingArguments
    settings: dict[str, Any]


def with_recommended(recipe: Recipe) -> Recipe:
    """The recipe; for the setup `auto`, with `plain` and the methods that a kept comparison recommends.

    Raises:
        ValueError: `auto` and other setups.
    """
    if AUTO not in recipe.data.setups:
        return recipe
    if recipe.data.setups != [AUTO]:
        raise ValueError(f"{AUTO} stands for several setups, got {' '.join(recipe.data.setups)}: give it alone.")
    data = replace(recipe.data, setups=["plain", *RECOMMENDED])
    return replace(recipe, data=data, setups=RECOMMENDED | recipe.setups)


def resolve_setup(name: str, definitions: dict[str, dict[str, Any]], plan: str = "imbalanced") -> dict[str, Any]:
    """Plan and training arguments of a setup: defined in the YAML, or built in, with suffixes `_entropy` and `_lora`.

    Args:
        name: of the setup.
        definitions: in the YAML.
        plan: of setups that are named after their weights, or whose definition names none.

    Raises:
        ValueError: no such setup; lists the known ones.
    """
    schemes = {"plain": "none"} | {scheme: scheme for scheme in WEIGHTED}
    known = SETUPS | {setup: {"plan": plan, "class_weighting": scheme} for setup, scheme in schemes.items()}
    unweighted = {"plan": plan, "class_weighting": "none"}
    known |= {name: unweighted | {"objective": name} for name in OBJECTIVES if name != "cross_entropy"}
    known |= {f"{name}{SAMPLING}": unweighted | {"sampling": name} for name in WEIGHTED if name != GROUP_DRO}
    known[GROUP_DRO]["metric_for_best_model"] = "eval_uniform_loss"  # eval_loss has weights that change
    if name in definitions:
        return known.get(name, {"plan": plan}) | definitions[name]
    if name in known:
        return dict(known[name])
    for suffix, settings in SUFFIXES.items():
        if name.endswith(suffix):
            return resolve_setup(name.removesuffix(suffix), definitions, plan) | settings
    names = ", ".join(dict.fromkeys([*known, *definitions]))
    raise ValueError(
        f"Unknown setup {name!r}: choose among {names}, each also with _entropy or _lora, take {AUTO} alone, or define "
        "it."
    )


def prepare_setups(recipe: Recipe, settings: dict[str, dict[str, Any]], data: Data) -> dict[str, Setup]:
    """Setups by name, whose plans, sizes, weights, metric and trackers fit the data and this environment.

    Raises:
        ValueError: one of them does not; says which and what to do.
    """
    setups = {}
    for name, values in settings.items():
        changes = {key: value for key, value in values.items() if key != "plan"}
        changes |= {"language_column": "language", "push_to_hub": False}  # see `load_data`; a run is pushed at its end
        if OWN not in (changes.get("class_weighting", OWN), changes.get("sampling", recipe.training.sampling)):
            changes.setdefault("class_weights", None)  # the run's are for the setups that use them
        try:
            arguments = replace(recipe.training, **changes)
        except Exception as error:  # of transformers, any
            of = f" of {recipe.config_name}" * (name in recipe.setups)
            raise ValueError(f"Setup {name}{of}: {one_line(error)}") from error
        if problem := next(_problems(recipe, name, values, arguments, data), None):
            raise ValueError(problem)
        trained = data.distribution("train", values["plan"])
        data.distribution("validation", values["plan"])
        ours = recipe.config_name == "custom"  # and not a YAML file of the user
        if ours and recipe.name == "custom" and "weight_clip" not in recipe.flags | values.keys():
            arguments = replace(arguments, weight_clip=_usable_clip(arguments, trained))
        cell_weights(trained, **arguments.weighting)
        if arguments.draws_rows:
            rows_per_step = total_batch(arguments, PartialState().num_processes)
            stage_rates(arguments, trained, steps_of(arguments, trained.rows, rows_per_step).total)
        setups[name] = Setup(values["plan"], arguments, values)
    if recipe.training.class_weights and not any(setup.arguments.class_weights for setup in setups.values()):
        raise ValueError(f"No setup uses class_weights: add the setup {OWN} (--setups {' '.join(setups)} {OWN}).")
    data.distribution("test", data.test_plan)
    return setups


def _usable_clip(arguments: LangImbTrainingArguments, trained: JointDistribution) -> float | None:
    """The default limit of class weights, or twice the largest mean weight of a language, which it must exceed."""
    clip, free = arguments.weight_clip, cell_weights(trained, **arguments.weighting | {"clip": None})
    largest = language_means(free, trained.counts).max()
    return clip if clip is None or clip > largest else float(math.ceil(2 * largest))


def _problems(
    recipe: Recipe, name: str, values: dict[str, Any], arguments: LangImbTrainingArguments, data: Data
) -> Iterator[str]:
    """What is wrong with a setup's metric, trackers, flags and plan."""
    metric = f"eval_{(arguments.metric_for_best_model or 'loss').removeprefix('eval_')}"
    if metric not in SELECTING:
        yield f"metric_for_best_model must be one of {', '.join(SELECTING)}, got {metric!r}."
    try:
        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer([torch.nn.Parameter(torch.zeros(1))], **settings)
    except Exception as error:  # of an optimizer, any
        kind, reason = arguments.optim.value, one_line(error)
        yield f"The optimizer {kind} cannot be created ({reason}): check optim_args (NAME=VALUE, ...) and adam_*."
    if missing := {*arguments.report_to} - {"none", *get_available_reporting_integrations()}:
        trackers = ", ".join(sorted(missing))
        yield f"report_to names {trackers}, which is not installed: install it, or remove it from report_to."
    if twice := ", ".join(f"{key} to {values[key]!r}" for key in sorted(recipe.flags & values.keys())):
        yield (
            f"Setup {name} sets {twice}, but the command line sets it too: remove the flag, or define your own setup "
            "in a YAML file."
        )
    known = [*data.plans, "natural"]
    if values["plan"] not in known:
        advice = "" if data.plans else " (imbalanced_shares adds others)"
        yield f"Setup {name} has plan {values['plan']!r}, expected one of {', '.join(known)}{advice}."
