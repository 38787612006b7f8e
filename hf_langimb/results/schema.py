"""results.json, the single source of the numbers in tables, figures, cards and pages: its keys, check, files."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

from hf_langimb.counts.audit import Audit
from hf_langimb.files import read_json, write_json
from hf_langimb.measures import correction, refit

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
Form = Literal["result", "control", "unbiased"]
FORMS: tuple[Form, ...] = ("result", "control", "unbiased")  # of the cumulative difference
TEXTS: tuple[Literal["test", "external"], ...] = ("test", "external")  # that the language probe reads

T = TypeVar("T")
Filled = Annotated[T, "one entry or more"]  # a list or object


class Interval(TypedDict):
    """Mean over n seeds with its 95% t interval; low and high are null for a single seed."""

    mean: float
    low: float | None
    high: float | None
    n: int


class Quality(TypedDict):
    """Of the predictions in one language."""

    accuracy: float
    macro_f1: float


class Calibration(TypedDict):
    """How well confidence matches accuracy in one language; bins have mean confidence, accuracy and rows."""

    expected_calibration_error: float
    mean_confidence: NotRequired[float]
    bins: list[dict[str, float]]


class TestIntervals(TypedDict):
    """95% bootstrap intervals over examples, [low, high] each."""

    accuracy: Filled[list[float]]
    macro_f1: NotRequired[list[float]]
    worst_cell_accuracy: NotRequired[list[float]]
    by_language: dict[str, dict[str, list[float]]]


class TestMetrics(TypedDict):
    """Measures of one model's predictions, as `evaluate_predictions` documents them."""

    rows: int
    accuracy: float
    macro_f1: float
    worst_cell_accuracy: float
    by_language: Filled[dict[str, Quality]]
    predicted: Filled[list[Filled[list[int]]]]
    dependence_bits: float
    dependence_bits_corrected: float
    dependence_given_label_bits: float
    reliance: float | None
    skew_transfer: float | None
    loss: float | None
    plain_loss: float | None
    intervals: TestIntervals | None
    calibration: Filled[dict[str, Calibration]] | None


class TargetIntervals(TypedDict):
    """95% bootstrap intervals over examples, [low, high] each."""

    accuracy: Filled[list[float]]
    dependence_bits: Filled[list[float]]
    skew_transfer: NotRequired[list[float]]


class TargetMetrics(TypedDict):
    """Measures on test rows weighted to a target joint of language and label, as `target_measures` documents them."""

    accuracy: float
    macro_f1: float
    majority_accuracy: float
    dependence_bits: float
    dependence_bits_corrected: float
    dependence_chance_bits: float
    dependence_chance_high_bits: float
    reliance: float | None
    skew_transfer: float | None
    skew_alignment: float | None
    skew_permutation_p: float | None
    left_out: NotRequired[list[str]]  # languages without which skew transfer and reliance are measured
    effective_sample_size_ratio: float
    intervals: TargetIntervals


class Shift(TypedDict):
    """How far predictions of a language are from those of all languages, as `language_shifts` documents it."""

    expected: Filled[list[float]]
    total_variation: float
    p: float | None


class ProbeMetrics(TypedDict):
    """A language probe, as `ProbeResult` documents it, and its settings."""

    accuracy: float
    chance: float
    control: float
    control_interval: Filled[list[float]]
    bits_below_chance: float
    confidence: float
    rows: int
    groups: NotRequired[int]
    folds: NotRequired[int]
    languages: NotRequired[list[str]]
    confusion: NotRequired[list[list[int]]]
    converged: NotRequired[bool]
    pooling: NotRequired[str]
    layer: NotRequired[int]
    C: NotRequired[float]


class Probes(TypedDict):
    """The language probe on each kind of text; null where it could not be measured."""

    test: ProbeMetrics | None
    external: ProbeMetrics | None


class Training(TypedDict):
    """Steps with the lowest evaluated loss, by kind of loss, and whether they differ."""

    best_step: dict[str, int | None]
    choice_would_change: bool


class Metrics(TypedDict):
    """METRICS: all measures of one trained model."""

    test: TestMetrics
    targets: NotRequired[dict[str, TargetMetrics]]  # natural, independent, uniform
    shift: NotRequired[dict[str, Shift]]  # by language
    extra: NotRequired[dict[str, TestMetrics]]  # on further test sets, by name
    probe: Probes
    training: NotRequired[Training]


class Setup(TypedDict):
    """Settings of a setup (`total_batch` if it changes the run's), METRICS by seed, intervals over seeds by name."""

    plan: str
    class_weighting: str
    masked_entropy_weight: float
    lora_rank: int
    options: NotRequired[dict[str, Any]]  # of weights and objective, where they are not the default
    total_batch: NotRequired[int]
    seeds: Filled[dict[str, Metrics]]
    summary: dict[str, Interval]


class Comparison(TypedDict):
    """Differences setup - reference of one measure, paired by seed."""

    metric: str
    setup: str
    reference: str
    difference: Interval


class BaseValues(TypedDict):
    """Probabilities where every token is masked: their mean by label, and standard deviations."""

    mean: Filled[dict[str, float]]
    over_seeds: float | None
    over_examples: float | None


class TokenSums(TypedDict):
    """Sums of attributions over the tokens of each set, mean over the examples of a language."""

    threshold: float
    language: str
    label: str
    positive: float
    neutral: float
    negative: float
    token_shares: NotRequired[dict[str, float]]
    examples: NotRequired[int]
    method: NotRequired[Literal["regression", "mean"]]
    variance_ratio: NotRequired[dict[str, float] | None]


class ModelSums(TokenSums):
    """The same of one model, with 95% intervals [low, high] by name."""

    intervals: NotRequired[dict[str, list[float]]]


class Widest(TypedDict):
    """The widest interval over rows: of which sum, and half of its width."""

    language: str
    label: str
    set: str
    half_width: float


class ExplainedRows(TypedDict):
    """How many of the available rows were explained, and why no more: `precise`, or `rows ended`."""

    used: int
    available: int
    stopped: Literal["precise", "rows ended"]
    tolerance: float
    widest: Widest


class Difference(TokenSums):
    """The same of the difference between two models, with 95% intervals [low, high] by name."""

    base_difference: float
    probability_difference: float
    intervals: dict[str, list[float]] | None
    seed_intervals: dict[str, list[float]] | None


class Attributions(TypedDict):
    """Cumulative differences setup - reference in three forms, and the base values of all setups."""

    setup: str
    reference: str
    result: list[Difference]
    control: list[Difference]
    unbiased: list[Difference]
    seeds: Filled[list[int]]
    examples: int
    truncated_share: float
    base_values: Filled[dict[str, BaseValues]]
    method: NotRequired[str]
    rows: NotRequired[ExplainedRows]


class Explained(TypedDict):
    """Attributions of the one model of an evaluation."""

    examples: int
    truncated_share: float
    base_values: BaseValues
    tokens: list[ModelSums]
    method: NotRequired[str]
    rows: NotRequired[ExplainedRows]


class Verdict(TypedDict):
    """An answer, the number it rests on, its 95% interval over test rows or seeds (`basis`), and the threshold."""

    name: str
    question: str
    answer: Literal["yes", "no", "unclear", "not measured"]
    value: float | None
    low: float | None
    high: float | None
    delta: float | None
    basis: Literal["rows", "seeds"]
    setup: str
    reference: str | None
    detail: str
    note: NotRequired[str]
    languages: NotRequired[list[str]]


class Recommendation(TypedDict):
    """The setup to use (None: none), why, and how and on which rows it was chosen."""

    setup: str | None
    reason: str
    rule: str
    chosen_on: Literal["validation"]


class Results(TypedDict):
    """results.json. `total_batch`: rows of an optimizer step over all processes; version 0.1 did not write it."""

    schema_version: int
    recipe: str
    config_name: str
    config: dict[str, Any]
    total_batch: NotRequired[int]
    flags: NotRequired[dict[str, Any]]
    languages: Filled[list[str]]
    labels: Filled[list[str]]
    seeds: Filled[list[int]]
    data: Filled[dict[str, Audit]]
    setups: Filled[dict[str, Setup]]
    noise_ceiling: NotRequired[float | None]
    comparisons: list[Comparison]
    attributions: Attributions | None
    explained: NotRequired[Explained | None]
    warnings: NotRequired[list[str]]
    notes: NotRequired[list[str]]
    tokens: NotRequired[dict[str, dict[str, float]]]  # of `token_shares`, on test rows
    verdict: NotRequired[list[Verdict]]
    recommendation: NotRequired[Recommendation | None]
    correction: NotRequired[correction.Corrected]
    refit: NotRequired[refit.Refit]


def write_results(folder: str | Path, results: Results) -> Path:
    """Validate and write a run's results.json; returns its path.

    Raises:
        ValueError: the results do not follow the schema.
    """
    validate(results, FILE_NAME)
    write_json(path := Path(folder, FILE_NAME), results)
    return path


def read_results(folder: str | Path) -> Results:
    """Read and validate a run's results.json.

    Raises:
        ValueError: missing, damaged, of a newer version, or not of the schema; the message says what to do.
    """
    path = Path(folder, FILE_NAME)
    if not path.is_file():
        advice = "name the folder that contains it" if Path(folder).is_file() else "run the recipe first"
        raise ValueError(f"Expected a run folder with {FILE_NAME}, got {folder}: {advice}.")
    results: Results = read_json(path, "run the recipe again with the same --output_dir; finished steps are kept")
    validate(results, str(path))
    return results


def validate(results: Any, where: str) -> None:
    """Raise ValueError unless `results` follows the schema; `where` begins the message. Unknown keys pass."""
    if problem := next(_problems_of_results(results), None):
        raise ValueError(where + problem)


def _problems_of_results(results: Any) -> Iterator[str]:
    """What is wrong with results: the version first, then each key."""
    yield from _problems(results, dict[str, Any], "")
    if (recipe := results.get("recipe")) in ("cloned_languages", "evaluate_labels"):
        yield f": it has results of {recipe}, which are not those of classifiers with one label per text."
    if (version := results.get("schema_version")) != SCHEMA_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        yield f": expected schema_version {SCHEMA_VERSION}, got {version!r}{': upgrade hf_langimb' if newer else ''}."
    yield from _problems(results, Results, "")
    rows, columns = len(results["languages"]), len(results["labels"])
    for name, setup in results["setups"].items():
        if not re.fullmatch(r"[\w-]+", name):
            yield f", setups: names must consist of letters, digits, _ and -, got {name!r}."
        for seed, metrics in setup["seeds"].items():
            table = metrics["test"]["predicted"]
            if len(table) < rows or any(len(row) != columns for row in table):
                place = f", setups, {name}, seeds, {seed}, test, predicted"
                yield f"{place}: expected {rows} languages or more x {columns} labels, got another shape."


def _problems(value: Any, kind: Any, where: str) -> Iterator[str]:
    """Where a value differs from a type: a TypedDict, `Filled`, a type or None, a list, a dict, or a scalar."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (value is None and NoneType in inner):
        return
    if origin is Annotated and value in ([], {}):
        yield f"{where}: expected one entry or more, got {json.dumps(value)}."
    elif origin in (Annotated, NotRequired, typing.Union, UnionType):
        yield from _problems(value, inner[0], where)
    elif typing.is_typeddict(kind):
        yield from _problems(value, dict[str, Any], where)
        hints = _hints(kind)
        if missing := [key for key in hints if key not in value and typing.get_origin(hints[key]) is not NotRequired]:
            yield f"{where}: expected the keys {', '.join(missing)}, which are missing."
        for key in (key for key in hints if key in value):
            yield from _problems(value[key], hints[key], f"{where}, {key}")
    else:
        kind = str if origin is Literal else origin or kind
        expected = (int, float) if kind in (int, float) else kind
        if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
            yield f"{where}: expected {_WORDS[kind]}, got {json.dumps(value, default=repr)[:40]}."
        parts: Any = value.items() if kind is dict else enumerate(value) if kind is list else ()
        for place, item in parts:
            yield from _problems(item, inner[-1], f"{where}, {place}")


_WORDS = {dict: "object", list: "list", str: "text", bool: "true or false", int: "number", float: "number"}
_hints = cache(partial(typing.get_type_hints, include_extras=True))  # of a TypedDict, with `NotRequired` and `Filled`
