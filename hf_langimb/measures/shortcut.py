"""Is language a shortcut? Answers as equivalence tests: yes above a material size, no below it, unclear otherwise.

Dependence of predictions on language alone is no shortcut: a model that is less accurate in some languages may predict
one label too often there. A shortcut also has a direction (predictions follow the skew of the training labels) or a
cause (the dependence is lower after training without the link).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hf_langimb.measures.dependence import Sampled
from hf_langimb.measures.intervals import Floats, basic_interval, information_interval, student

Answer = Literal["yes", "no", "unclear", "not measured"]
MATERIAL_BITS = 0.01  # two even languages in which a label is predicted 56% and 44% of the time
MATERIAL_TRANSFER = 0.1  # of skew transfer
ACCURACY_MARGIN = 0.02  # accuracy that a cure may cost
MATERIAL_PROBE = 0.02  # accuracy of the language probe
MATERIAL_SHIFT = 0.06  # total variation of the predictions of a language: that of the two languages above
PERMUTED_FROM = 5  # fewest languages with which a permutation of the plan can be significant
SEEDS_FROM = 5  # fewest seeds with which their t interval answers, too
SMALLEST = 0.01  # of the threshold: smaller values are raised to this before taking logarithms


@dataclass(frozen=True)
class Finding:
    """An answer with the number that it rests on, its 95% interval and the material size.

    `basis`: the interval is over `rows` (a statement about these models on new rows of this kind; of several models the
    lowest and the highest end) or over `seeds` (about new trainings). `agree`: how many models say yes and no, if they
    differ.
    """

    answer: Answer
    value: float | None = None
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    basis: Literal["rows", "seeds"] = "rows"
    agree: str = ""


NOT_MEASURED = Finding("not measured")


def answer(low: float, high: float, delta: float) -> Answer:
    """Yes where the whole interval lies above the material size, no below, unclear otherwise."""
    return "yes" if low > delta else "no" if high < delta else "unclear"


def over_models(values: Sequence[float], intervals: Sequence[Floats], delta: float, log: bool = False) -> Finding:
    """The answer of several models that differ in their seed, from each one's value and interval over rows.

    Yes (no) where each model's interval says so, or, from `SEEDS_FROM` models on, where the t interval over them does;
    with `log`, that of the logarithm of the values. The interval that is returned is one that agrees with the answer.
    """
    if not values or not np.isfinite([*values, *np.ravel(intervals)]).all():
        return NOT_MEASURED
    answers = [answer(low, high, delta) for low, high in intervals]
    low, high = min(ends[0] for ends in intervals), max(ends[1] for ends in intervals)
    found = Finding(answers[0], float(np.mean(values)), float(low), float(high), delta)
    if len({*answers}) > 1:
        counts = Counter(answers)
        said = ", ".join(f"{kind}: {counts[kind]}" for kind in ("yes", "no", "unclear") if counts[kind])
        found = replace(found, answer="unclear", agree=f"of {len(answers)} models, {said}")
    if len(values) < SEEDS_FROM:
        return found
    scale: Callable[[Any], Any] = (lambda x: np.log(np.maximum(x, delta * SMALLEST))) if log else np.asarray
    back: Callable[[Any], Any] = np.exp if log else float
    scaled = scale(values)
    half = student(len(values)) * scaled.std(ddof=1) / np.sqrt(len(values))
    low, high = float(back(scaled.mean() - half)), float(back(scaled.mean() + half))
    said = answer(low, high, delta)
    if found.answer not in ("unclear", said):
        return found
    return replace(found, answer=said, low=low, high=high, basis="seeds")


def of_models(values: Sequence[float], models: Sequence[Sampled], measure: str, delta: float) -> Finding:
    """Whether a measure of each model is above a threshold; `values` are the numbers to show."""
    ends = []
    for shown, model in zip(values, models, strict=True):
        value, draws = model.values[measure], model.resampled[measure]
        bits = measure == "bits"  # whose values are less their chance level
        interval = information_interval(value, draws, value - shown) if bits else basic_interval(np.array(value), draws)
        ends.append(interval)
    return over_models(values, ends, delta, log=measure == "bits")


def of_pairs(
    values: Sequence[float], models: Sequence[Sampled], others: Sequence[Sampled], measure: str, delta: float
) -> Finding:
    """Whether a measure of models exceeds that of others by a size, paired by seed and by resampled rows."""
    ends = []
    for model, other in zip(models, others, strict=True):
        difference = np.array(model.values[measure] - other.values[measure])
        ends.append(basic_interval(difference, model.resampled[measure] - other.resampled[measure]))
    return over_models(values, ends, delta)


def caused(bits: Finding, slope: Finding) -> Finding:
    """Whether breaking the link lowers the dependence: its fall; unclear where skew transfer does not fall with it."""
    falls = slope.answer == "not measured" or (slope.low or 0) > 0
    return replace(bits, answer="unclear") if bits.answer == "yes" and not falls else bits


def follows(slope: Finding, p: Sequence[float | None], languages: int, cause: Finding) -> Finding:
    """Whether predictions follow the skew of the training labels: skew transfer, and what confirms its direction.

    From `PERMUTED_FROM` languages on the plan must fit better than with its languages permuted (p < .05, median over
    models). With fewer, or where no permutation could be significant (p is None), the interval must be one over seeds,
    or the cause known.
    """
    known = [value for value in p if value is not None]
    sure = slope.basis == "seeds" or cause.answer == "yes"
    if languages >= PERMUTED_FROM and len(known) == len(p):
        sure = float(np.median(known)) < 0.05
    return replace(slope, answer="unclear") if slope.answer == "yes" and not sure else slope


def shortcut(link: Finding, dependence: Finding, direction: Finding, cause: Finding) -> Answer:
    """Whether language is a shortcut: a link in the training data, material dependence, and a direction or a cause."""
    answers = link.answer, dependence.answer
    sources = {direction.answer, cause.answer}
    if "not measured" in answers:
        return "no" if "no" in answers else "not measured"
    if "no" in answers or sources == {"no"}:
        return "no"
    return "yes" if answers == ("yes", "yes") and "yes" in sources else "unclear"
