"""results.json of a run of cloned languages: measures, comparisons with controls, token efficiency, the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from hf_langimb.cloned.schedule import expected_shares
from hf_langimb.files import read_json, write_json
from hf_langimb.results.schema import FILE_NAME, Interval
from hf_langimb.results.summary import interval

SCHEMA_VERSION = 2
CLONED = "cloned_languages"  # the recipe
RELATIONS = ("clones", "unrelated", "shuffled", "disjoint", "merged")  # of language 0 to the others
OF_PAIR = ("disjoint", "merged")  # of two datasets
ONE_RATE = "_one_rate"  # suffix of a setup that is trained with the common learning rate
MATERIAL = 0.02  # smallest difference of ln PPL that counts
SAME_TOKENS = 0.1  # largest relative difference of tokens of a setup and its control
LEAST_SEEDS = 3  # for a yes or no
QUESTION = "Does the majority help the minority beyond equal steps?"


class Model(TypedDict):
    """Measures of one model: perplexity and tokens by language, history by step.

    `seen_in_several` is the share of windows of text that were read in more than one language.
    """

    perplexity: list[float]
    tokens: list[int]
    seen_in_several: float | None
    alignment: dict[str, Any] | None
    downstream: dict[str, Any] | None
    history: list[dict[str, float]]


class SetupResults(TypedDict):
    """A setup, and its models by seed."""

    schedule: str
    languages: int
    relation: str
    fraction_cloned: float
    steps: int
    rows: int
    learning_rate: float
    seeds: dict[str, Model]


class Comparison(TypedDict):
    """ln PPL of a language of a setup minus that of its control, the reference, paired by seed."""

    metric: str
    setup: str
    language: int
    reference: str
    tokens: float  # of the language in the reference, divided by those in the setup
    difference: Interval


class Efficiency(TypedDict):
    """Token efficiency of a language, by interpolation and by the law; see `cloned.law.token_efficiency`."""

    setup: str
    language: int
    interpolated: float | None
    law: float | None
    extrapolated: bool


class Curve(TypedDict):
    """Monolingual models with the batch size of the longest run; three or more have residuals of the scaling law.

    `law` is None where it is at a bound of its parameters: the curve is no power law.
    """

    setups: list[str]
    tokens: list[float]
    perplexity: list[float]
    law: list[float] | None
    residuals: list[float] | None


class Answer(TypedDict):
    """The answer to `QUESTION` by a setup and the best of its controls, the reference: their difference of ln PPL."""

    name: str
    question: str
    answer: str
    value: float
    low: float | None
    high: float | None
    delta: float
    basis: str
    setup: str
    reference: str
    text: str


class ClonedResults(TypedDict):
    """results.json."""

    schema_version: int
    recipe: str
    config_name: str
    config: dict[str, Any]
    flags: dict[str, Any]
    seeds: list[int]
    optimum_perplexity: float | None
    setups: dict[str, SetupResults]
    curves: dict[str, Curve | None]
    efficiency: list[Efficiency]
    comparisons: list[Comparison]
    verdict: list[Answer]


def is_cloned(folder: str | Path) -> bool:
    """Whether a folder is that of a run of cloned languages; False where its results.json is missing or damaged."""
    try:
        found = read_json(Path(folder, FILE_NAME), "")
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("recipe") == CLONED


def read_cloned(folder: str | Path) -> ClonedResults:
    """results.json of a run folder.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    path = Path(folder, FILE_NAME)
    found = read_json(path, "run the recipe again with this folder as --output_dir")
    if not isinstance(found, dict) or found.get("recipe") != CLONED:
        raise ValueError(f"{path} is not from a run of cloned languages: choose the folder of such a run.")
    if found.get("schema_version") != SCHEMA_VERSION:
        version, advice = found.get("schema_version"), "run the recipe again with this folder as --output_dir"
        raise ValueError(f"{path} has version {version}, expected {SCHEMA_VERSION}: {advice}; models are kept.")
    found_results: Any = found
    return found_results  # type: ignore[no-any-return]


def write_cloned(folder: Path, results: ClonedResults) -> None:
    """Write results.json."""
    write_json(folder / FILE_NAME, results)


def log_perplexity(setup: SetupResults, language: int) -> dict[str, float]:
    """{seed: ln PPL} of a language of a setup."""
    return {seed: math.log(model["perplexity"][language]) for seed, model in setup["seeds"].items()}


def perplexity_interval(setup: SetupResults, language: int) -> tuple[float, float | None, float | None]:
    """The geometric mean over seeds, and its 95% interval from `LEAST_SEEDS` seeds on, else None."""
    found = interval([*log_perplexity(setup, language).values()])
    low, high = (found["low"], found["high"]) if found["n"] >= LEAST_SEEDS else (None, None)
    return math.exp(found["mean"]), low and math.exp(low), high and math.exp(high)


def mean_perplexity(setup: SetupResults, language: int) -> float:
    """The geometric mean over seeds."""
    return perplexity_interval(setup, language)[0]


def tokens_of(setup: SetupResults, language: int) -> float:
    """Mean tokens of a language over seeds."""
    return float(np.mean([model["tokens"][language] for model in setup["seeds"].values()]))


def at_own_rates(setups: Mapping[str, SetupResults]) -> dict[str, SetupResults]:
    """Setups without those that are trained with the common learning rate."""
    return {name: of for name, of in setups.items() if not name.endswith(ONE_RATE)}


def shares_of(setup: SetupResults) -> list[float]:
    """The expected share of the windows of each language."""
    return [round(share, 9) for share in expected_shares(setup["schedule"], setup["steps"], setup["languages"])]


def is_alone(setup: SetupResults) -> bool:
    """Whether a setup reads one language alone."""
    return max(shares_of(setup)) == 1


def is_constant(setup: SetupResults) -> bool:
    """Whether the probabilities of the languages do not change."""
    return len({*map(float, setup["schedule"].split("_"))}) == 1


def could_help(setup: SetupResults) -> bool:
    """Whether a language of a setup could help the others."""
    return not is_alone(setup) and setup["relation"] not in ("unrelated", "shuffled")


def is_even(setup: SetupResults) -> bool:
    """Whether all languages have equal shares in every stage."""
    return not is_alone(setup) and len({*shares_of(setup)}) == 1 and is_constant(setup)


def has_minority(setup: SetupResults) -> bool:
    """Whether a language has fewer windows than another one."""
    return not is_alone(setup) and len({*shares_of(setup)}) > 1


def minority(setup: SetupResults) -> int:
    """The language that is compared: the one with the fewest windows (ties: the last one), or the only one."""
    shares = shares_of(setup)
    wanted = max(shares) if is_alone(setup) else min(shares)
    return max(language for language, share in enumerate(shares) if share == wanted)


def alignments(setup: SetupResults) -> list[dict[str, Any]]:
    """Alignment of languages 0 and 1 by seed; empty where they are not clones."""
    return [model["alignment"] for model in setup["seeds"].values() if model["alignment"]]


def source_of(setup: SetupResults, language: int) -> str:
    """The dataset of a language."""
    return "second" if setup["relation"] in OF_PAIR and language == 1 else "first"
