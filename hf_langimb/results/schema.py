"""results.json: the one home of a run's numbers. Everything else (tables, plots, cards, pages) reads them here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_langimb.files import write_json

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
NUMBER, TEXT, OBJECT = (int, float), (str,), (dict,)


class Maybe(tuple):
    """A shape that may be null."""


class Each(tuple):
    """An object, or a list, whose values all have one shape; one value or more."""


INTERVAL = {"mean": NUMBER, "low": Maybe([NUMBER]), "high": Maybe([NUMBER]), "n": NUMBER}
COUNTS = Each([Each([NUMBER])])
PROBE = dict.fromkeys(("accuracy", "chance", "control", "bits_below_chance", "confidence", "rows"), NUMBER) | {
    "control_interval": Each([NUMBER])
}
TEST = dict.fromkeys(
    (
        "rows",
        "accuracy",
        "macro_f1",
        "worst_cell_accuracy",
        "dependence_bits",
        "dependence_bits_corrected",
        "dependence_given_label_bits",
    ),
    NUMBER,
) | {
    "predicted": COUNTS,
    "by_language": Each([{"accuracy": NUMBER, "macro_f1": NUMBER}]),
    "reliance": Maybe([NUMBER]),
    "skew_transfer": Maybe([NUMBER]),
    "loss": Maybe([NUMBER]),
    "plain_loss": Maybe([NUMBER]),
    "intervals": Maybe([{"accuracy": Each([NUMBER]), "by_language": OBJECT}]),
    "calibration": Maybe([Each([{"expected_calibration_error": NUMBER, "bins": (list,)}])]),
}
RESULTS = {
    "schema_version": NUMBER,
    "recipe": TEXT,
    "config_name": TEXT,
    "config": OBJECT,
    "languages": Each([TEXT]),
    "labels": Each([TEXT]),
    "seeds": Each([NUMBER]),
    "data": Each([{"languages": Each([TEXT]), "labels": Each([(str, int)]), "counts": COUNTS, "row_shares": (list,)}]),
    "setups": Each(
        [
            {
                "plan": TEXT,
                "class_weighting": TEXT,
                "masked_entropy_weight": NUMBER,
                "lora_rank": NUMBER,
                "seeds": Each([{"test": TEST, "probe": {"test": Maybe([PROBE]), "external": Maybe([PROBE])}}]),
                "summary": OBJECT,
            }
        ]
    ),
    "comparisons": (list,),
    "attributions": Maybe(
        [
            {
                "setup": TEXT,
                "reference": TEXT,
                "result": (list,),
                "control": (list,),
                "unbiased": (list,),
                "seeds": Each([NUMBER]),
                "examples": NUMBER,
                "truncated_share": NUMBER,
                "base_values": Each(
                    [{"mean": Each([NUMBER]), "over_seeds": Maybe([NUMBER]), "over_examples": Maybe([NUMBER])}]
                ),
            }
        ]
    ),
}
TOKENS = dict.fromkeys(("threshold", "positive", "neutral", "negative", "base_difference"), NUMBER) | {
    "language": TEXT,
    "label": TEXT,
    "probability_difference": NUMBER,
    "intervals": Maybe([OBJECT]),
    "seed_intervals": Maybe([OBJECT]),
}
FORMS = ("result", "control", "unbiased")  # of the cumulative difference
COMPARISON = {"metric": TEXT, "setup": TEXT, "reference": TEXT, "difference": INTERVAL}
SETTINGS = ("rows", "folds", "layer", "C")  # numbers that are no measures
COMPARED = (
    "test.accuracy",
    "test.dependence_bits",
    "test.dependence_bits_corrected",
    "test.reliance",
    "test.skew_transfer",
    "probe.test.accuracy",
    "probe.external.accuracy",
)


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and 95 % t interval over seeds: {mean, low, high, n}; low and high are None for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": 1}
    from scipy.stats import t

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def summarise(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Intervals over seeds of every scalar measure of `test` and `probe`, by dotted name, for those each seed has."""
    flat = [dict(_scalars({part: metrics[part] for part in ("test", "probe")})) for metrics in seeds.values()]
    return {name: interval([metrics[name] for metrics in flat]) for name in flat[0] if all(name in m for m in flat)}


def compare(setups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per-seed paired differences, each setup against every setup before it, over the seeds that both have."""
    comparisons = []
    names = list(setups)
    for i, setup in enumerate(names):
        for reference in names[:i]:
            ours, theirs = setups[setup]["seeds"], setups[reference]["seeds"]
            seeds = [seed for seed in ours if seed in theirs]
            flat = [(dict(_scalars(ours[seed])), dict(_scalars(theirs[seed]))) for seed in seeds]
            for metric in COMPARED:
                differences = [a[metric] - b[metric] for a, b in flat if metric in a and metric in b]
                if differences:
                    comparisons.append(
                        {
                            "metric": metric,
                            "setup": setup,
                            "reference": reference,
                            "difference": interval(differences),
                        }
                    )
    return comparisons


def compared_pair(setups: Iterable[str]) -> tuple[str, str]:
    """The setups whose difference is the verdict: imbalanced and balanced, else the first pair of their variants."""
    names = set(setups)
    suffixes = sorted(name.removeprefix("imbalanced") for name in names if name.startswith("imbalanced"))
    suffix = next((text for text in suffixes if f"balanced{text}" in names), "")
    return f"imbalanced{suffix}", f"balanced{suffix}"


def represented(results: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """(label, language) -> 1 where training with the skewed plan had more of the label than other languages have.

    -1 where it had less, 0 where all languages have the same share; empty without a skewed plan.
    """
    audit = results["data"].get("train/imbalanced")
    if audit is None:
        return {}
    found = {}
    for j, label in enumerate(results["labels"]):
        shares = [row[j] or 0.0 for row in audit["row_shares"]]
        mean = math.fsum(shares) / len(shares)
        for language, share in zip(audit["languages"], shares, strict=True):
            found[label, language] = (share > mean + 0.005) - (share < mean - 0.005)
    return found


def _scalars(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in SETTINGS:
            yield f"{prefix}{key}", value


def write_results(folder: str | Path, results: dict[str, Any]) -> Path:
    """Validate and write a run's results.json.

    Raises:
        ValueError: the results do not follow the schema.
    """
    validate(results, FILE_NAME)
    path = Path(folder, FILE_NAME)
    write_json(path, results)
    return path


def read_results(folder: str | Path) -> dict[str, Any]:
    """Read and validate a run's results.json.

    Raises:
        ValueError: missing, truncated, of a newer version, or not of the schema; says what to do.
    """
    path = Path(folder, FILE_NAME)
    if Path(folder).is_file():
        raise ValueError(f"Expected a run folder, found the file {folder}: name the folder that it is in.")
    if not path.is_file():
        raise ValueError(f"Expected {FILE_NAME} in the run folder {folder}, found none: run the recipe first.")
    try:
        text = path.read_text(encoding="utf-8")
        results = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not whole JSON ({error}): run the recipe again with the same --output_dir; finished steps stay."
        ) from None
    validate(results, str(path))
    return results


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number in JSON", name, 0)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse_constant(text)
    return value


def validate(results: Any, where: str) -> None:
    """Raise ValueError unless `results` follows the schema."""
    _require(results, OBJECT, where)
    version = results.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(
            f"{where} has schema_version {version}, this hf_langimb reads up to {SCHEMA_VERSION}: upgrade hf_langimb."
        )
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ValueError(f"{where}: expected schema_version {SCHEMA_VERSION}, found {version!r}.")
    _require(results, RESULTS, where)
    shape = len(results["languages"]), len(results["labels"])
    for name, setup in results["setups"].items():
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{where}, setups: expected names of letters, digits, _ and -, found {name!r}.")
        for measure, value in setup["summary"].items():
            _require(value, INTERVAL, f"{where}, setups, {name}, summary, {measure}")
        for seed, metrics in setup["seeds"].items():
            table = metrics["test"]["predicted"]
            if len(table) < shape[0] or any(len(row) != shape[1] for row in table):
                raise ValueError(
                    f"{where}, setups, {name}, seeds, {seed}, test, predicted: expected {shape[0]} languages or more x "
                    f"{shape[1]} labels, found another shape."
                )
    for form in FORMS if results["attributions"] else ():
        for i, entry in enumerate(results["attributions"].get(form, ())):
            _require(entry, TOKENS, f"{where}, attributions, {form}, {i}")
    for i, comparison in enumerate(results["comparisons"]):
        _require(comparison, COMPARISON, f"{where}, comparisons, {i}")


def _require(value: Any, shape: Any, where: str) -> None:
    """Raise unless a value has a shape: types, required keys with shapes of their own, `Each` or `Maybe`."""
    if isinstance(shape, Maybe):
        if value is not None:
            _require(value, shape[0], where)
    elif isinstance(shape, Each):
        if not isinstance(value, dict | list) or not value:
            raise ValueError(f"{where}: expected one entry or more, found {json.dumps(value)[:40]}.")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _require(item, shape[0], f"{where}, {key}")
    elif isinstance(shape, dict):
        _require(value, OBJECT, where)
        if missing := [key for key in shape if key not in value]:
            raise ValueError(f"{where}: expected the keys {', '.join(missing)}, found none of that name.")
        for key, inner in shape.items():
            _require(value[key], inner, f"{where}, {key}")
    elif not isinstance(value, shape) or isinstance(value, bool):
        kinds = {"dict": "object", "list": "list", "str": "text", "int": "number", "float": "number"}
        expected = " or ".join(dict.fromkeys(kinds[kind.__name__] for kind in shape))
        raise ValueError(f"{where}: expected {expected}, found {json.dumps(value)[:40]}.")


def measured(results: dict[str, Any], setup: str, seed: int | None) -> tuple[int, dict[str, Any]]:
    """The seed that is published, the lowest where none is named, and its METRICS.

    Raises:
        ValueError: the run has no such setup or seed.
    """
    if setup not in results["setups"]:
        raise ValueError(f"The run has no setup {setup!r}: choose one of {', '.join(results['setups'])}.")
    seeds = {int(number): metrics for number, metrics in results["setups"][setup]["seeds"].items()}
    number = min(seeds) if seed is None else seed
    if number not in seeds:
        raise ValueError(f"Setup {setup} has no seed {number}: choose one of {', '.join(map(str, sorted(seeds)))}.")
    return number, seeds[number]
