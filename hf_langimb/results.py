"""results.json: the one home of a run's numbers. Everything else (tables, plots, cards, pages) reads them here."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
KEYS = (
    "schema_version",
    "recipe",
    "config_name",
    "config",
    "languages",
    "labels",
    "seeds",
    "data",
    "setups",
    "comparisons",
    "attributions",
)
SETUP_KEYS = ("plan", "class_weighting", "seeds", "summary")
TEST_KEYS = (
    "rows",
    "accuracy",
    "macro_f1",
    "worst_cell_accuracy",
    "predicted",
    "by_language",
    "dependence_bits",
    "dependence_bits_corrected",
    "dependence_given_label_bits",
    "reliance",
    "skew_transfer",
    "loss",
    "plain_loss",
    "intervals",
    "calibration",
)
PROBE_KEYS = ("accuracy", "chance", "control", "control_interval", "bits_below_chance", "confidence", "rows")
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


def _scalars(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "rows":
            yield f"{prefix}{key}", value


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (no NaN) under a temporary name and rename it: a killed run leaves the old file whole."""
    path = Path(path)
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
    if not path.is_file():
        raise ValueError(f"Expected {FILE_NAME} in the run folder {folder}, found none: run the recipe first.")
    try:
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not whole JSON ({error}): run the recipe again with the same --output_dir; finished steps stay."
        ) from None
    validate(results, str(path))
    return results


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number in JSON", name, 0)


def validate(results: Any, where: str) -> None:
    """Raise ValueError unless `results` follows the schema."""
    _require_object(results, where)
    version = results.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(
            f"{where} has schema_version {version}, this hf_langimb reads up to {SCHEMA_VERSION}: upgrade hf_langimb."
        )
    if version != SCHEMA_VERSION:
        raise ValueError(f"{where}: expected schema_version {SCHEMA_VERSION}, found {version!r}.")
    _require_keys(results, KEYS, where)
    _require_object(results["setups"], f"{where}, setups")
    for name, setup in results["setups"].items():
        _require_keys(setup, SETUP_KEYS, f"{where}: setup {name}")
        _require_object(setup["seeds"], f"{where}: setup {name}, seeds")
        for seed, metrics in setup["seeds"].items():
            part = f"{where}: setup {name}, seed {seed}"
            _require_keys(metrics, ("test", "probe"), part)
            _require_keys(metrics["test"], TEST_KEYS, f"{part}, test")
            _require_keys(metrics["probe"], ("test", "external"), f"{part}, probe")
            for text, probe in metrics["probe"].items():
                if probe is not None:
                    _require_keys(probe, PROBE_KEYS, f"{part}, probe on {text} text")


def _require_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {type(value).__name__}.")


def _require_keys(value: Any, keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if not isinstance(value, Mapping) or key not in value]
    if missing:
        raise ValueError(f"{where}: expected the keys {', '.join(missing)}, found none of that name.")
