"""results.json of a run of cloned languages: measures, comparisons with controls, token efficiency, the answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from hf_langimb.cloned.law import fit_law, interpolated_tokens, token_efficiency
from hf_langimb.cloned.schedule import expected_shares
from hf_langimb.files import read_json, write_json
from hf_langimb.results.schema import FILE_NAME, Interval
from hf_langimb.results.summary import interval

SCHEMA_VERSION = 1
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


class Comparison(Interval):
    """ln PPL of a language of a setup minus that of its control, paired by seed."""

    setup: str
    language: int
    control: str


class Efficiency(TypedDict):
    """Token efficiency of a language, by interpolation and by the law; see `cloned.law.token_efficiency`."""

    setup: str
    language: int
    interpolated: float | None
    law: float | None
    extrapolated: bool


class Curve(TypedDict):
    """Monolingual models with the batch size of the longest run; the law needs three or more."""

    setups: list[str]
    tokens: list[float]
    perplexity: list[float]
    law: list[float] | None
    residuals: list[float] | None


class Answer(TypedDict):
    """The answer to `QUESTION` by the setup `setup` and the best of its controls."""

    answer: str
    text: str
    setup: str
    control: str


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
    verdict: Answer | None


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
        raise ValueError(f"{path} is not that of a run of cloned languages.")
    if found.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{path} has version {found.get('schema_version')}, expected {SCHEMA_VERSION}.")
    found_results: Any = found
    return found_results  # type: ignore[no-any-return]


def write_cloned(folder: Path, results: ClonedResults) -> None:
    """Write results.json."""
    write_json(folder / FILE_NAME, results)


def derive(results: Any) -> None:
    """Add what follows from the setups: curve, token efficiency, comparisons and answer."""
    setups: dict[str, SetupResults] = results["setups"]
    results["curves"] = {source: curve_of(setups, source) for source in ("first", "second")}
    results["efficiency"] = [*_efficiencies(setups, results["curves"])]
    results["comparisons"] = [*_comparisons(setups)]
    results["verdict"] = answer(results["comparisons"], setups)


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


def shares_of(setup: SetupResults) -> list[float]:
    """The expected share of the windows of each language."""
    return [round(share, 9) for share in expected_shares(setup["schedule"], setup["steps"], setup["languages"])]


def is_alone(setup: SetupResults) -> bool:
    """Whether a setup reads one language alone."""
    return max(shares_of(setup)) == 1


def helped(setup: SetupResults) -> bool:
    """Whether a language of a setup could help the others."""
    return not is_alone(setup) and setup["relation"] not in ("unrelated", "shuffled")


def is_even(setup: SetupResults) -> bool:
    """Whether all languages have equal shares in every stage."""
    return not is_alone(setup) and len({*shares_of(setup)}) == 1 and len({*setup["schedule"].split("_")}) == 1


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


def _comparisons(setups: Mapping[str, SetupResults]) -> Iterator[Comparison]:
    """The first and last language of each setup with each control.

    A control has read as many tokens of the language without another one that could help; or, for a majority, it has
    had as many windows of that language alone as the setup had of all. Imbalanced setups are also compared with even
    ones of as many tokens of the language. Setups at the common learning rate are compared with each other.
    """
    for name, setup in setups.items():
        if not helped(setup):
            continue
        for other, control in setups.items():
            even = is_even(control) and not is_even(setup) and control["relation"] == setup["relation"]
            if (helped(control) and not even) or not _same_rates(name, other, setups):
                continue
            of, size, shares = minority(control), (setup["steps"], setup["rows"]), shares_of(setup)
            for language in sorted({0, setup["languages"] - 1}):
                close = abs(tokens_of(control, of) / max(tokens_of(setup, language), 1) - 1) <= SAME_TOKENS
                majority = shares[language] > 0.5 and is_alone(control)
                whole = majority and (control["steps"], control["rows"]) == size
                if (close or whole) and source_of(control, of) == source_of(setup, language):
                    yield _compared(name, language, other, setups)


def _same_rates(name: str, other: str, setups: Mapping[str, SetupResults]) -> bool:
    """Whether two setups both have their own learning rate, or both the common one."""
    one = name.endswith(ONE_RATE)
    if one == other.endswith(ONE_RATE):
        return True
    own = other if one else name  # a setup without an own rate has no twin
    return one and f"{own}{ONE_RATE}" not in setups and setups[own]["learning_rate"] == setups[name]["learning_rate"]


def _compared(name: str, language: int, control: str, setups: Mapping[str, SetupResults]) -> Comparison:
    """The comparison of a language of a setup with a control."""
    one = log_perplexity(setups[name], language)
    two = log_perplexity(setups[control], minority(setups[control]))
    found = interval([one[seed] - two[seed] for seed in one if seed in two])
    return {"setup": name, "language": language, "control": control, **found}


def curve_of(setups: Mapping[str, SetupResults], source: str) -> Curve | None:
    """Perplexity by tokens of monolingual models, at their own learning rates; None for fewer than two."""
    own = {name: of for name, of in setups.items() if is_alone(of) and not name.endswith(ONE_RATE)}
    alone = {name: of for name, of in own.items() if source_of(of, minority(of)) == source}
    if not alone:
        return None
    rows = max(alone.values(), key=lambda of: of["steps"] * of["rows"])["rows"]
    names = sorted((name for name, of in alone.items() if of["rows"] == rows), key=lambda name: alone[name]["steps"])
    if len(names) < 2:
        return None
    tokens = [tokens_of(alone[name], minority(alone[name])) for name in names]
    perplexity = [mean_perplexity(alone[name], minority(alone[name])) for name in names]
    fitted = fit_law(tokens, perplexity) if len(set(tokens)) >= 3 else None
    return {
        "setups": names,
        "tokens": tokens,
        "perplexity": perplexity,
        "law": [*fitted.law] if fitted else None,
        "residuals": [*fitted.residuals] if fitted else None,
    }


def by_tokens(setups: Mapping[str, SetupResults]) -> dict[str, list[tuple[float, float]]]:
    """(tokens of a language / tokens of the longest run, PPL) with a clone, and without one in two ways.

    Each at its own learning rate; only of two clones, at a constant probability. Monolingual models have fewer steps or
    smaller batches than the longest run. Empty where fewer than two of the three have two models.
    """
    own = [of for name, of in setups.items() if not name.endswith(ONE_RATE) and of["relation"] == "clones"]
    alone = [of for of in own if is_alone(of)]
    longest = max(alone, key=lambda of: of["steps"] * of["rows"], default=None)
    if longest is None:
        return {}
    cloned = [of for of in own if (of["languages"], of["fraction_cloned"]) == (2, 1) and not is_alone(of)]
    found = {
        "with a clone": [of for of in cloned if len({*of["schedule"].split("_")}) == 1],
        "alone, fewer steps": [of for of in alone if of["rows"] == longest["rows"]],
        "alone, smaller batches": [of for of in alone if of["steps"] == longest["steps"]],
    }
    total = tokens_of(longest, 0)
    points = {
        name: [(tokens_of(of, k) / total, mean_perplexity(of, k)) for of in members for k in range(of["languages"])]
        for name, members in found.items()
    }
    lines = {name: of for name, of in points.items() if len(of) > 1}
    return lines if len(lines) > 1 else {}


def _efficiencies(setups: Mapping[str, SetupResults], curves: Mapping[str, Curve | None]) -> Iterator[Efficiency]:
    """Token efficiency of each language of setups with several, at their own learning rates."""
    for name, setup in setups.items():
        if is_alone(setup) or name.endswith(ONE_RATE):
            continue
        for language in range(setup["languages"]):
            tokens = tokens_of(setup, language)
            curve, perplexity = curves[source_of(setup, language)], mean_perplexity(setup, language)
            if tokens == 0 or not curve or (setup["relation"] in ("unrelated", "shuffled") and language == 0):
                continue
            between = interpolated_tokens(perplexity, curve["tokens"], curve["perplexity"])
            law: Any = curve["law"]
            total = max(curve["tokens"])
            yield {
                "setup": name,
                "language": language,
                "interpolated": between and between / tokens,
                "law": token_efficiency(perplexity, tokens, law=tuple(law), total=total) if law else None,
                "extrapolated": not min(curve["perplexity"]) <= perplexity <= max(curve["perplexity"]),
            }


def answer(comparisons: Sequence[Comparison], setups: Mapping[str, SetupResults]) -> Answer | None:
    """The answer by the first setup whose minority has controls: against the one with the lowest mean ln PPL."""
    own = [one for one in comparisons if not one["setup"].endswith(ONE_RATE)]
    alone = [one for one in own if not helped(setups[one["control"]])]
    rare = [one for one in alone if one["language"] == minority(setups[one["setup"]])]
    if not rare:
        return None
    of = rare[0]["setup"]
    controls = [one for one in rare if one["setup"] == of]
    best = max(controls, key=lambda one: one["mean"])
    low, high, count = best["low"], best["high"], best["n"]
    least = f"-{MATERIAL:g} (2% of the perplexity), the smallest gain that counts"
    said, why, interval = "unclear", f"The interval contains {least}", ""
    if count < LEAST_SEEDS or low is None or high is None:
        said = "unclear, one seed" if count == 1 else "unclear, two seeds"
        why = f"Add --seeds {LEAST_SEEDS} for an interval"
    else:
        interval = f" ({best['mean']:+.3f} [{low:+.3f}, {high:+.3f}])"
        if high < -MATERIAL or low > -MATERIAL:
            said = "yes" if high < -MATERIAL else "no"
            why = f"The whole interval is {'below' if said == 'yes' else 'above'} {least}"
    less = "lower" if best["mean"] < 0 else "higher"
    text = (
        f"The minority language of '{of}' has a log perplexity that is {abs(best['mean']):.3f} {less} than in its best "
        f"control, '{best['control']}'{interval}, each at its own learning rate. {why}."
    )
    return {"answer": said, "text": text, "setup": of, "control": best["control"]}
