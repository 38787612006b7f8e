"""Setups: a name -> a plan and training arguments, checked before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_langimb.counts.weighting import cell_weights
from hf_langimb.runs.recipe import Recipe
from hf_langimb.runs.subsets import Data

SETUPS: dict[str, dict[str, Any]] = {
    "balanced": {"plan": "balanced", "class_weighting": "none"},
    "imbalanced": {"plan": "imbalanced", "class_weighting": "none"},
    "weighted": {"plan": "imbalanced", "class_weighting": "per_language"},
}
SUFFIXES: dict[str, dict[str, Any]] = {"_entropy": {"masked_entropy_weight": 1.0}, "_lora": {"lora_rank": 8}}
SELECTING = ("eval_loss", "eval_plain_loss", "eval_uniform_loss")  # metrics that may choose the checkpoint


def resolve_setup(name: str, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Plan and training arguments of a setup: defined in the YAML, or built in, with suffixes `_entropy` and `_lora`.

    Raises:
        ValueError: no such setup; lists the known ones.
    """
    if name in definitions:
        return SETUPS.get(name, {"plan": "imbalanced"}) | definitions[name]
    if name in SETUPS:
        return dict(SETUPS[name])
    for suffix, settings in SUFFIXES.items():
        if name.endswith(suffix):
            return resolve_setup(name.removesuffix(suffix), definitions) | settings
    known = ", ".join([*SETUPS, *definitions])
    raise ValueError(f"Unknown setup {name!r}: choose among {known}, each also with _entropy or _lora, or define it.")


def check_setups(recipe: Recipe, settings: dict[str, dict[str, Any]], data: Data) -> None:
    """Check that plans, sizes, weights, metric and trackers fit the data and this environment, before any work.

    Raises:
        ValueError: one of them does not; says which and what to do.
    """
    from transformers.integrations import get_available_reporting_integrations

    known = [*data.plans, "natural"]
    metric = f"eval_{(recipe.training.metric_for_best_model or 'loss').removeprefix('eval_')}"
    missing = ", ".join(sorted({*recipe.training.report_to} - {"none", *get_available_reporting_integrations()}))
    problem = ""
    if metric not in SELECTING:
        problem = f"metric_for_best_model must be one of {', '.join(SELECTING)}, got {metric!r}"
    elif missing:
        problem = f"report_to names {missing}, which this environment does not have: install it, or leave it out"
    for setup, values in settings.items():
        plan, overrides = values["plan"], {key: value for key, value in values.items() if key != "plan"}
        if twice := ", ".join(f"{key} to {overrides[key]!r}" for key in sorted(recipe.flags & overrides.keys())):
            problem = problem or (
                f"Setup {setup} sets {twice}, got the flag too: leave the flag out, or define a setup of your own in a "
                "YAML file"
            )
        elif plan not in known:
            advice = "" if data.plans else " (imbalanced_shares would make others)"
            problem = problem or f"Setup {setup} has plan {plan!r}, expected one of {', '.join(known)}{advice}"
    if problem:
        raise ValueError(f"{problem}.")
    for values in settings.values():
        arguments = replace(recipe.training, **{key: value for key, value in values.items() if key != "plan"})
        trained = data.distribution("train", values["plan"])
        data.distribution("validation", values["plan"])
        cell_weights(trained, arguments.class_weighting, missing_cell_policy=arguments.missing_cell_policy)
    data.distribution("test", data.test_plan)
