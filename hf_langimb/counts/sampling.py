"""Training subsets with a chosen joint distribution: shares -> cell sizes (`allocate`) -> row numbers (`draw`).

Each row has one random key; a plan takes the rows with the smallest keys of each cell. Two plans drawn with one seed
therefore share as many rows as their sizes allow (the sum over cells of the smaller size), as arXiv 2402.13016 asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_langimb.counts.columns import encode_columns
from hf_langimb.counts.distribution import JointDistribution, whole_counts
from hf_langimb.counts.weighting import Counts, Floats

_TOLERANCE = 1e-6


def joint_shares(shares: Any) -> Floats:
    """Shares of a plan as a joint distribution: float64[L, C], sum 1.

    Args:
        shares: [L, C], either joint (the table sums to 1) or per language (each row sums to 1; the languages then
            have equal sizes, as in the tables of arXiv 2402.13016).

    Raises:
        ValueError: not a table, a negative share, or sums that are neither of the two.
    """
    table = np.asarray(shares, dtype=np.float64)
    sums: Floats = table.sum(axis=1) if table.ndim == 2 else table.ravel()
    adds_up = abs(sums.sum() - 1) <= _TOLERANCE or np.allclose(sums, 1, atol=_TOLERANCE, rtol=0)
    found = f"{', '.join(f'{value:.6g}' for value in sums)}: write exact fractions, for example 1/3 and not 0.33"
    refused = (
        (table.ndim != 2, f"be a table, languages x labels, got the shape {table.shape}"),
        (not (table >= 0).all(), f"be 0 or more, got {table.min(initial=0):.6g}"),
        (not adds_up, f"sum to 1 for every language, or in the whole table, got the sums {found}"),
    )
    if problems := [problem for wrong, problem in refused if wrong]:
        raise ValueError(f"The shares of a plan must {problems[0]}.")
    return np.asarray(table / sums.sum())


def skewed_shares(ratio: float, languages: int, labels: int) -> Floats:
    """Shares of the labels in each language, float64[L, C], that are skewed by `ratio`:1, one way or the other.

    In every second language the shares fall from the first label to the last, ratio**(-c / (C - 1)); in the others
    they rise. With 5 labels, ratios of 2, 5, 20 and 100 are .04, .20, .51 and .77 bits of mutual information.

    Raises:
        ValueError: a ratio below 1, or fewer than two languages or labels.
    """
    if not (ratio >= 1 and languages >= 2 and labels >= 2):
        raise ValueError(
            "Skewed shares need a ratio of 1 or more, two languages and two labels, got "
            f"a ratio of {ratio:g}, {languages} language(s) and {labels} label(s)."
        )
    falling = np.float64(ratio) ** -np.linspace(0, 1, labels)
    falling /= falling.sum()
    return np.stack([falling, falling[::-1]] * languages)[:languages]


def allocate(available: Any, shares: Any, size: int | None = None) -> Counts:
    """Cell sizes of a plan: the largest that the source allows, or a given size.

    Args:
        available: rows of the source in each cell, int[L, C].
        shares: the plan's shares, [L, C] (see `joint_shares`).
        size: rows in total; None takes the largest with size * share <= available in every cell. Every smaller size
            fits too; a slightly larger one may, where its shares happen to be rounded down in the scarce cells.

    Returns:
        int64[L, C]; its sum is `size`, each cell within one row of size * share (largest remainders are rounded up).

    Raises:
        ValueError: shapes differ, shares do not add up, a negative size, or a cell needs more rows than the source has
            (which cell, how many).
    """
    available, shares = whole_counts(available), joint_shares(shares)
    if available.shape != shares.shape:
        raise ValueError(
            f"The plan has {' languages x '.join(map(str, shares.shape))} labels, the source "
            f"{' x '.join(map(str, available.shape))}: give one share for every cell of the source."
        )
    if size is None:
        used = shares > 0
        size = int((available[used] / shares[used]).min() * (1 + 1e-12) + 1e-9)  # 1/3 is not exact: 11.9999999 is 12
    counts = _round(shares * whole_counts(size), size)
    short = counts > available
    if short.any():
        cells = "; ".join(
            f"language {i}, label {j}: needs {counts[i, j]:,}, has {available[i, j]:,}"
            for i, j in np.argwhere(short).tolist()
        )
        largest = int(allocate(available, shares).sum())
        advice = f"Every size up to {largest:,} fits." if largest else "Each cell with a share above 0 needs rows."
        raise ValueError(f"A plan of {size:,} rows is larger than the source ({cells}). {advice}")
    return counts


def _round(expected: Floats, size: int) -> Counts:
    """Round down, then add the remaining rows to the largest remainders (first cell first on ties)."""
    counts = np.floor(expected + 1e-9).astype(np.int64)
    remainders = np.round(expected - counts, 6)  # 1/3 and 1/6 are not exact: without rounding no two would tie
    order = np.argsort(-remainders.ravel(), kind="stable")
    counts.flat[order[: size - int(counts.sum())]] += 1  # `ravel` would copy a transposed table
    return counts


def draw(languages: Any, labels: Any, counts: Any, *, seed: int) -> Counts:
    """Row numbers of a subset with the given cell sizes.

    Args:
        languages, labels: one entry per row of the source, in any form that `JointDistribution.from_columns` takes.
        counts: rows to take from each cell, int[L, C], on the axes that `from_columns` would give.
        seed: of the random order in each cell. Smaller counts give subsets of larger ones.

    Returns:
        int64[N], ascending, no repeats.

    Raises:
        ValueError: a cell has fewer rows than requested, or lengths or shape do not match.
    """
    (language_axis, language_ids), (label_axis, label_ids) = encode_columns(language=languages, label=labels)
    counts = JointDistribution(language_axis, label_axis, counts).counts
    cells = language_ids * len(label_axis) + label_ids
    available = np.bincount(cells, minlength=counts.size)
    if (short := np.flatnonzero(counts.ravel() > available)).size:
        i, j = divmod(int(short[0]), len(label_axis))
        raise ValueError(
            f"Cell ({language_axis[i]}, {label_axis[j]}) needs {counts[i, j]:,} rows, the source has "
            f"{available[short[0]]:,}."
        )
    keys = np.random.default_rng(seed).random(len(cells))
    order = np.lexsort((keys, cells))
    rank = np.empty(len(cells), dtype=np.int64)  # place of each row in its cell's random order
    rank[order] = np.arange(len(cells)) - np.repeat(np.cumsum(available) - available, available)
    return np.flatnonzero(rank < counts.ravel()[cells])


def keep_one_language_per_item(languages: Sequence[Any], items: Sequence[Any], *, seed: int) -> Counts:
    """Rows to keep so that no two languages share an item (translations of one text).

    Every item is given to one of the languages at random, each language getting the same number of items (to within
    one). Meant for items that every language has: one whose language lacks it is left out.

    Args:
        languages, items: one entry per row of the source.
        seed: of the assignment.

    Returns:
        int64[N], ascending row numbers.

    Raises:
        ValueError: nulls, or lengths that differ.
    """
    (language_axis, language_ids), (item_axis, item_ids) = encode_columns(language=languages, item=items)
    owner = np.random.default_rng(seed).permutation(len(item_axis)) % len(language_axis)
    return np.flatnonzero(owner[item_ids] == language_ids)
