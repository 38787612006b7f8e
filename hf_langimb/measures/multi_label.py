"""Do predictions of several labels per text depend on language? Each label by itself, adjusted over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from hf_langimb.counts.audit import holm
from hf_langimb.counts.multi_label import MultiLabelDistribution, values_of
from hf_langimb.measures import shortcut
from hf_langimb.measures.chance import null_tables, permutation_p
from hf_langimb.measures.dependence import DRAWS, target_measures
from hf_langimb.measures.intervals import Floats
from hf_langimb.measures.predictions import encode_rows
from hf_langimb.measures.targets import information, row_weights

LEVEL, DRAWS_PER_LABEL = 0.05, 40


class LabelMeasures(TypedDict):
    """Measures of one label on the rows in which it is known."""

    rows: int
    targets: dict[str, dict[str, Any]]  # of `target_measures`
    p: float  # probability of at least this dependence if predictions depend on the label only
    p_holm: float  # adjusted over the labels by Holm's method
    answer: shortcut.Answer  # whether its predictions depend on language, on rows weighted to remove the link


class MultiLabelMeasures(TypedDict):
    """Measures of each label; labels with a single value or language in the rows are `not_measured`."""

    labels: dict[str, LabelMeasures]
    not_measured: list[str]
    dependent: list[str]  # labels whose answer is yes, the strongest first
    accuracy: float  # mean over labels, natural
    macro_f1: float  # mean over labels of the F1 score of the value 1, on rows as collected
    verdict: str


def evaluate_labels(
    languages: Any,
    values: Any,
    probabilities: Any,
    *,
    labels: Sequence[str] = (),
    plan: MultiLabelDistribution | None = None,
    groups: Any = None,
    threshold: float = 0.5,
    resamples: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> MultiLabelMeasures:
    """Measure predictions of several labels per text.

    Args:
        languages: language of each row.
        values, labels: see `MultiLabelDistribution.from_columns`; null, NaN and -100 are left out.
        probabilities: float[N, C], of yes (the sigmoid of the logits).
        plan: counts of the training data, for reliance and skew transfer.
        groups: one entry per row: rows of one group (translations) are resampled together.
        threshold: probability from which a label is predicted.
        resamples: number of bootstrap resamples.
        draws: number of simulated sets of predictions that depend on the label only.
        seed: of resamples and draws.

    Returns:
        Measures of each label. The answer is yes if the 95% interval of the dependence lies above 0.01 bits and its
        p-value, adjusted over the labels, is below 0.05; no if the interval lies below; else unclear.

    Raises:
        TypeError: a plan of another type.
        ValueError: languages, groups or probabilities of another length, a plan of other labels, or what
            `target_measures` raises.
    """
    names, known = values_of(values, labels)
    predicted, languages = np.asarray(probabilities, dtype=np.float64), np.asarray(languages)
    _check(names, known, predicted, languages, groups, plan)
    draws = max(draws, DRAWS_PER_LABEL * len(names))  # fewer could not be significant after the adjustment
    f1: list[float] = []
    found: dict[str, Any] = {}
    not_measured: list[str] = []
    tables = plan.tables if plan is not None else {}
    for c, name in enumerate(names):
        rows = np.flatnonzero(~np.isnan(known[:, c]))
        truth, guess = known[rows, c].astype(np.int64), (predicted[rows, c] >= threshold).astype(np.int64)
        if min(len(np.unique(truth)), len(np.unique(languages[rows]))) < 2:
            not_measured.append(name)
            continue
        f1.append(float(2 * (truth & guess).sum() / (truth + guess).sum()))
        of = languages[rows], truth, guess
        options: Any = {"plan": tables.get(name), "groups": _at(groups, rows), "seed": seed}
        targets = target_measures(*of, **options, resamples=resamples, draws=draws)
        found[name] = {"rows": len(rows), "targets": targets, "p": _p(*of, **options, draws=draws)}
    if not found:
        raise ValueError("No label can be measured: one needs rows with 0 and with 1, and rows in two languages.")
    adjusted = holm(np.array([of["p"] for of in found.values()]))
    measures: dict[str, LabelMeasures] = {}
    for (name, of), p in zip(found.items(), adjusted, strict=True):
        low, high = of["targets"]["independent"]["intervals"]["dependence_bits"]
        answer = shortcut.answer(low, high, shortcut.MATERIAL_BITS)
        answer = "unclear" if answer == "yes" and p >= LEVEL else answer
        measures[name] = {
            "rows": of["rows"],
            "targets": of["targets"],
            "p": of["p"],
            "p_holm": float(p),
            "answer": answer,
        }
    dependent = [name for name, of in measures.items() if of["answer"] == "yes"]
    dependent.sort(key=lambda name: -measures[name]["targets"]["independent"]["dependence_bits_corrected"])
    return {
        "labels": measures,
        "not_measured": not_measured,
        "dependent": dependent,
        "accuracy": float(np.mean([of["targets"]["natural"]["accuracy"] for of in measures.values()])),
        "macro_f1": float(np.mean(f1)),
        "verdict": _verdict(dependent, measures) + (f"; not measured: {', '.join(not_measured)}" * bool(not_measured)),
    }


def _check(
    names: list[str], known: Floats, predicted: Floats, languages: Any, groups: Any, plan: MultiLabelDistribution | None
) -> None:
    """Refuse columns that do not fit; see `evaluate_labels`."""
    for what, column in (("language", languages), ("group", groups)):
        if column is not None and len(column) != len(known):
            raise ValueError(f"Expected a {what} for each of {len(known)} rows, got {len(column)}.")
    if predicted.shape != known.shape:
        raise ValueError(
            f"Expected probabilities of shape {known.shape} (rows, labels), got shape {predicted.shape}: give one "
            "column per label."
        )
    if not ((predicted >= 0) & (predicted <= 1)).all():
        ends = f"{predicted.min():g} to {predicted.max():g}"
        raise ValueError(f"Probabilities must be from 0 to 1, got {ends}: apply the sigmoid to logits first.")
    if not isinstance(plan, MultiLabelDistribution | None):
        raise TypeError(f"Expected plan of type MultiLabelDistribution, got {type(plan).__name__}.")
    if plan is not None and [*plan.labels] != names:
        ours, theirs = ", ".join(plan.labels), ", ".join(names)
        raise ValueError(
            f"plan has the labels {ours}, but the rows have {theirs}: pass counts of the same labels in the same order."
        )


def _verdict(dependent: Sequence[str], measures: dict[str, LabelMeasures]) -> str:
    """One sentence: whether predictions depend on language, and of which labels."""
    if dependent:
        return f"predictions depend on language for {len(dependent)} of {_labels(measures)}: {', '.join(dependent)}"
    unclear = [name for name, of in measures.items() if of["answer"] == "unclear"]
    if unclear:
        return f"it is unclear for {len(unclear)} of {_labels(measures)} whether predictions depend on language"
    return f"predictions do not depend on language for any of {_labels(measures)}"


def _labels(measures: dict[str, LabelMeasures]) -> str:
    """How many labels were measured."""
    return f"{len(measures)} label{'s' * (len(measures) > 1)}"


def _at(groups: Any, rows: Any) -> Any:
    """The groups of some rows, if there are any."""
    return None if groups is None else np.asarray(groups)[rows]


def _p(languages: Any, labels: Any, predictions: Any, *, plan: Any, groups: Any, draws: int, seed: int) -> float:
    """How often predictions that know only the label depend on language as much, on rows weighted to have no link."""
    rows = encode_rows(languages, labels, predictions, groups, plan)
    weights = row_weights(rows.cells.sum(axis=-1), "independent")[..., None]

    def bits(tables: Any) -> Floats:
        """Dependence of confusion counts."""
        return np.asarray(information((tables * weights).sum(axis=-2)))

    columns = rows.languages, rows.labels, rows.predictions, rows.groups
    chance = np.concatenate([*map(bits, null_tables(*columns, rows.cells.shape[:2], draws, seed))])
    return permutation_p(bits(rows.cells), chance)
