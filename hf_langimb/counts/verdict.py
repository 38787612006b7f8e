"""AUDIT, and its answer in words: do labels depend on language beyond chance, and how strongly?"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

Link = Literal["strong", "slight", "none", "unknown", "undefined"]


class Measures(TypedDict):
    """Measures of a table languages x labels, as `JointDistribution` documents them."""

    languages: list[str]
    labels: list[Any]
    counts: list[list[int]]
    row_shares: list[list[float | None]]
    mutual_information_bits: float
    mutual_information_chance_bits: float
    relative_mutual_information: float | None
    cramers_v: float | None
    cramers_v_corrected: float | None
    residuals: list[list[float]]
    kl_divergence_bits: list[float]
    total_variation: list[float]
    language_only_accuracy: float
    majority_accuracy: float
    effective_sample_size_ratio: float
    missing_cells: list[list[Any]]
    small_cells: list[list[Any]]
    weighting: str
    weights: list[list[float]]


class Audit(Measures):
    """AUDIT of results.json; files of earlier versions have no verdict."""

    p_value: NotRequired[float | None]
    link: NotRequired[Link]
    verdict: NotRequired[str]


def judge(measures: Measures, chi_squared: float) -> Audit:
    """The measures with their p-value (Pearson's chi^2 test of independence), link and verdict.

    The link is `strong` or `slight` if p < 0.001 (strong: the bias-corrected Cramér's V is 0.05 or more). Otherwise it
    is `none`, or `unknown` with fewer than 5 rows per cell on average. With a single language or label it is
    `undefined`, and p is None.
    """
    counts = np.array(measures["counts"])
    used = [np.flatnonzero(counts.sum(axis=axis)) for axis in (1, 0)]
    if measures["cramers_v"] is None:
        only = f"label ({measures['labels'][used[1][0]]})"
        if len(used[0]) == 1:
            only = f"language ({measures['languages'][used[0][0]]})"
        sentence = f"only one {only}: labels cannot depend on language here"
        return {**measures, "p_value": None, "link": "undefined", "verdict": sentence}
    from scipy.special import chdtrc

    languages, labels = map(len, used)
    p_value = float(chdtrc((languages - 1) * (labels - 1), chi_squared))
    link: Link = "none" if counts.sum() >= 5 * languages * labels else "unknown"
    if p_value < 0.001:
        link = "strong" if (measures["cramers_v_corrected"] or 0) >= 0.05 else "slight"
    return {**measures, "p_value": p_value, "link": link, "verdict": _verdict(measures, p_value, link)}


def _verdict(measures: Measures, p_value: float, link: Link) -> str:
    """One sentence: whether labels depend on language, by how many bits, and what the language alone predicts."""
    bits, chance = map(bits_text, (measures["mutual_information_bits"], measures["mutual_information_chance_bits"]))
    within = f"{bits} bits (chance alone: {chance} on average; p = {p_value:.2g})"
    if link == "unknown":
        return f"{np.sum(measures['counts']):,} rows are too few to tell whether labels depend on language: {within}"
    if link == "none":
        return f"labels do not depend on language beyond chance: {within}"
    known, majority = measures["language_only_accuracy"], measures["majority_accuracy"]
    digits = 0 if known - majority >= 0.01 else 1
    guess = f"knowing only the language already scores {known:.{digits}%} (majority {majority:.{digits}%})"
    if known - majority < 0.0005:
        guess = f"knowing only the language scores no more than always the same label ({majority:.1%})"
    return f"labels depend on language{' slightly' * (link == 'slight')}: {bits} bits; {guess.replace('%', ' %')}"


def bits_text(value: float) -> str:
    """Bits with enough digits for small values."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"
