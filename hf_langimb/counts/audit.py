"""AUDIT: measures of counts on the axes languages x labels, and their answer in words: do labels depend on language?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from hf_langimb.counts.weighting import Counts, Floats, cell_weights, effective_ratio

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution

Link = Literal["strong", "slight", "none", "unknown", "undefined"]
SMALL_CELL = 10  # with fewer rows, a cell's shares and weights say little


class Audit(TypedDict):
    """Measures of N rows in L languages and C labels. None where one is undefined; logarithms to base 2."""

    languages: list[str]
    labels: list[Any]
    counts: list[list[int]]  # [L, C], as the other tables
    row_shares: list[list[float | None]]  # of each label within each language; None in a language without rows
    mutual_information_bits: float  # I(language; label), plug-in: 0 where labels do not depend on language
    mutual_information_chance_bits: float  # its mean for independent columns: (L - 1)(C - 1) / (2 N ln 2)
    relative_mutual_information: float | None  # I(language; label) / H(label): what the language explains, 0 to 1
    cramers_v: float | None  # sqrt(chi^2 / (N (min(L, C) - 1))), 0 to 1; None with a single language or label
    cramers_v_corrected: float | None  # without its upward bias in small samples (Bergsma 2013)
    residuals: list[list[float]]  # adjusted, of chi^2: about N(0, 1) each if language and label were independent
    kl_divergence_bits: list[float]  # [L], of each language's labels from all labels; its mean over rows is the MI
    total_variation: list[float]  # [L], half the sum of |share in the language - share in all data|; 0 without rows
    language_only_accuracy: float  # of predicting each language's most frequent label
    majority_accuracy: float  # of always predicting the most frequent label
    effective_sample_size_ratio: float  # Kish's under the weights w, as a share of N: (sum w)^2 / (N sum w^2)
    missing_cells: list[list[Any]]  # without rows: [language, label]
    small_cells: list[list[Any]]  # with some rows, but fewer than `SMALL_CELL`: [language, label, rows]
    weighting: str
    weights: list[list[float]]
    null_languages: NotRequired[int]  # rows without a language, which are not counted; missing in earlier files
    null_labels: NotRequired[dict[str, int]]  # rows of each language without a label, likewise
    p_value: NotRequired[float | None]  # these three are missing in files of earlier versions
    link: NotRequired[Link]
    verdict: NotRequired[str]


def audit(table: JointDistribution, weighting: str) -> Audit:
    """Every measure; see `JointDistribution.audit`."""
    weights = cell_weights(table, weighting, missing_cell_policy="ignore")
    counts, rows, row_shares = table.counts, table.rows, table.row_shares
    shares, used = counts.sum(axis=0) / rows, used_axes(counts)
    expected, per_language = expected_counts(counts), counts.sum(axis=1, keepdims=True) / rows
    present = np.nan_to_num(row_shares)
    surprise = np.log2(np.divide(present, shares, out=np.ones_like(present), where=present > 0))
    entropy = float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
    chi_squared = float(ratio((counts - expected) ** 2, expected).sum())
    deviation = np.sqrt(expected * (1 - per_language) * (1 - shares))
    small = np.argwhere((counts > 0) & (counts < SMALL_CELL)).tolist()
    measures: Audit = {
        "languages": list(table.languages),
        "labels": list(table.labels),
        "counts": counts.tolist(),
        "row_shares": np.where(np.isnan(row_shares), np.array(None), row_shares).tolist(),
        "mutual_information_bits": table.mutual_information_bits,
        "mutual_information_chance_bits": table.mutual_information_chance_bits,
        "relative_mutual_information": table.mutual_information_bits / entropy if entropy > 0 else None,
        "cramers_v": float(np.sqrt(chi_squared / (rows * (min(used) - 1)))) if min(used) > 1 else None,
        "cramers_v_corrected": _corrected(chi_squared, rows, *used),
        "residuals": ratio(counts - expected, deviation).tolist(),
        "kl_divergence_bits": (present * surprise).sum(axis=1).tolist(),
        "total_variation": (np.nansum(np.abs(row_shares - shares), axis=1) / 2).tolist(),
        "language_only_accuracy": float(counts.max(axis=1).sum() / rows),
        "majority_accuracy": float(shares.max()),
        "effective_sample_size_ratio": effective_ratio(counts, weights),
        "missing_cells": table.missing_cells,
        "small_cells": [[table.languages[i], table.labels[j], int(counts[i, j])] for i, j in small],
        "weighting": weighting,
        "weights": weights.tolist(),
        "null_languages": table.null_languages,
        "null_labels": dict(table.null_labels),
    }
    return _judge(measures, counts, chi_squared)


def _corrected(chi_squared: float, n: int, languages: int, labels: int) -> float | None:
    """The bias-corrected Cramér's V."""
    if min(languages, labels) < 2:
        return None
    squared = max(chi_squared / n - (languages - 1) * (labels - 1) / (n - 1), 0.0)
    smaller = min(size - (size - 1) ** 2 / (n - 1) for size in (languages, labels)) - 1
    return float(np.sqrt(squared / smaller)) if smaller > 0 else None


def _judge(measures: Audit, counts: Counts, chi_squared: float) -> Audit:
    """The measures with their p-value (Pearson's chi^2 test of independence; None if undefined), link and verdict.

    The link is `strong` or `slight` if p < 0.001 (strong: the bias-corrected Cramér's V is 0.05 or more), else `none`,
    `unknown` with fewer than 5 rows per cell on average, or `undefined` with a single language or label.
    """
    languages, labels = used_axes(counts)
    if min(languages, labels) < 2:
        only = f"label ({measures['labels'][int(counts.sum(axis=0).argmax())]})"
        if languages == 1:
            only = f"language ({measures['languages'][int(counts.sum(axis=1).argmax())]})"
        sentence = f"only one {only}: labels cannot depend on language here"
        return {**measures, "p_value": None, "link": "undefined", "verdict": sentence}
    from scipy.special import chdtrc

    p_value = float(chdtrc((languages - 1) * (labels - 1), chi_squared))
    link: Link = "none" if counts.sum() >= 5 * languages * labels else "unknown"
    if p_value < 0.001:
        link = "strong" if (measures["cramers_v_corrected"] or 0) >= 0.05 else "slight"
    return {**measures, "p_value": p_value, "link": link, "verdict": _verdict(measures, p_value, link)}


def _verdict(measures: Audit, p_value: float, link: Link) -> str:
    """One sentence: whether labels depend on language, by how many bits, and what the language alone predicts."""
    bits, chance = map(bits_text, (measures["mutual_information_bits"], measures["mutual_information_chance_bits"]))
    within = f"{bits} bits (chance alone: {chance} on average; p = {p_value:.2g})"
    if link == "unknown":
        return f"{np.sum(measures['counts']):,} rows are too few to tell whether labels depend on language: {within}"
    if link == "none":
        return f"labels do not depend on language beyond chance: {within}"
    known, majority = measures["language_only_accuracy"], measures["majority_accuracy"]
    digits = 0 if known - majority >= 0.01 else 1
    same = f"always the same label: {majority:.{digits}%}"
    guess = f"predicting from the language alone scores {known:.{digits}%} ({same})"
    if known - majority < 0.0005:
        guess = f"predicting from the language alone scores no more than always the same label ({majority:.1%})"
    return f"labels depend on language{' slightly' * (link == 'slight')}: {bits} bits; {guess}"


def bits_text(value: float) -> str:
    """Bits with enough digits for small values."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def used_axes(counts: Counts) -> tuple[int, int]:
    """Numbers of languages and of labels that have rows."""
    return int((counts.sum(axis=1) > 0).sum()), int((counts.sum(axis=0) > 0).sum())


def expected_counts(table: npt.NDArray[Any]) -> Floats:
    """Counts that independence of language and label would give, n_l n_c / N, float64[L, C]."""
    table = np.asarray(table, dtype=np.float64)  # a product of large whole numbers would overflow
    return np.asarray(np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum())


def ratio(above: npt.NDArray[Any], below: npt.NDArray[Any], otherwise: float = 0.0) -> Floats:
    """The quotient, float64; `otherwise` where `below` is 0."""
    return np.asarray(np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0))


def holm(p: Floats) -> Floats:
    """p-values adjusted by Holm's method, over those that are not NaN."""
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted
