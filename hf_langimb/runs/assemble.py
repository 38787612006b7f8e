"""results.json from its parts, the same for recipes and for evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hf_langimb.counts.verdict import Audit
from hf_langimb.results.schema import SCHEMA_VERSION, Explained, Results
from hf_langimb.results.summary import compare, summarise


def assemble_results(
    *,
    recipe: str,
    config_name: str,
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    languages: Sequence[str],
    labels: Sequence[str],
    seeds: Sequence[int],
    data: Mapping[str, Audit],
    setups: Mapping[str, Any],
    noise_ceiling: float | None = None,
    explained: Explained | None = None,
) -> Results:
    """The content of results.json, with intervals over seeds and paired comparisons of the setups.

    Args:
        recipe, config_name, config, flags: what was asked for; `flags` on the command line.
        languages, labels, seeds: the axes of all numbers.
        data: {split/plan: AUDIT}.
        setups: {name: {plan, settings ..., seeds: {seed: METRICS}}}.
        noise_ceiling: the best accuracy possible on the test labels, where it is known.
        explained: summary of one model's attributions.
    """
    summarised: Any = {name: {**setup, "summary": summarise(setup["seeds"])} for name, setup in setups.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe,
        "config_name": config_name,
        "config": json.loads(json.dumps(config, default=str)),
        "flags": json.loads(json.dumps(flags, default=str)),
        "languages": list(languages),
        "labels": list(labels),
        "seeds": list(seeds),
        "data": dict(data),
        "setups": summarised,
        "noise_ceiling": noise_ceiling,
        "comparisons": compare(summarised),
        "attributions": None,
        "explained": explained,
    }
