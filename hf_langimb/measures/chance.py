"""What predictions look like by chance if they know the label and not the language.

The null: among rows of one label, predictions are exchangeable between languages. Where rows are translations of one
another (they share an id in several languages), the predictions of one item are exchangeable instead: translations are
predicted alike, so exchanging them between items would overstate chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_langimb.measures.intervals import Floats

Ints = NDArray[np.int64]
CHUNK = 1 << 22  # cells or rows that are drawn at a time


def strata(languages: Ints, labels: Ints, groups: Ints | None, classes: int) -> Ints:
    """The stratum of each row, int64[N]: its label below `classes`, its item and label if other languages share them.

    Rows that share an id in one language alone (a user's, a document's) are no translations: exchanging them with each
    other would leave every table as it is.
    """
    if groups is None:
        return labels
    _, inverse = np.unique(groups * classes + labels, return_inverse=True)
    several = languages.max() + 1
    of_language = np.bincount(np.unique(inverse * several + languages) // several)
    return np.where(of_language[inverse] > 1, classes + inverse, labels)


def null_tables(
    languages: Ints, labels: Ints, predictions: Ints, groups: Ints | None, shape: tuple[int, int], draws: int, seed: int
) -> Iterator[Ints]:
    """Confusion counts [some, L, C, C] of predictions that are exchanged within strata, `draws` in all.

    Args:
        languages, labels, predictions: positions on the axes, int64[N].
        groups: number of each row's item, or None.
        shape: numbers of languages and labels.
        draws, seed: of the random numbers.
    """
    from scipy.stats import random_table

    rng = np.random.default_rng(seed)
    of = strata(languages, labels, groups, shape[1])
    shared = of >= shape[1]
    full = shape[0], shape[1], shape[1]
    cells = np.zeros(full, dtype=np.int64)
    np.add.at(cells, (languages[~shared], labels[~shared], predictions[~shared]), 1)
    order = np.argsort(of[shared], kind="stable")  # rows of one item next to each other, where they are exchanged
    places, items, found = (x[shared][order] for x in (languages * shape[1] + labels, of, predictions))
    step = max(1, CHUNK // max(cells.size, len(items)))
    for first in range(0, draws, step):
        number = min(step, draws - first)
        tables = np.zeros((number, *full), dtype=np.int64)
        for label in np.flatnonzero(cells.any(axis=(0, 2))):
            margins = cells[:, label].sum(axis=1), cells[:, label].sum(axis=0)
            tables[:, :, label] = random_table(*margins).rvs(number, random_state=rng)
        for table in tables if len(items) else ():
            exchanged = found[np.argsort(items + rng.random(len(items)))]
            table += np.bincount(places * shape[1] + exchanged, minlength=table.size).reshape(full)
        yield tables


def language_tests(
    languages: Ints, labels: Ints, predictions: Ints, groups: Ints | None, shape: tuple[int, int]
) -> tuple[Floats, Floats, Floats]:
    """For each language: how far its predictions are from those of all languages for the same labels, and the p-value.

    The generalized Cochran-Mantel-Haenszel statistic of the language against the others, over the strata of the null;
    chi^2 with C - 1 degrees of freedom.

    Returns:
        The differences [L, C], observed less expected number of rows predicted as each label; the expectation of their
        sum of squares by chance [L]; and p [L], NaN where the language has no rows or could not differ.
    """
    from scipy.special import chdtrc

    count, classes = shape
    _, of = np.unique(strata(languages, labels, groups, classes), return_inverse=True)
    sizes = np.bincount(of).astype(np.float64)
    predicted = np.zeros((len(sizes), classes))
    np.add.at(predicted, (of, predictions), 1)
    shares = predicted / sizes[:, None]
    differences, squares, p = np.zeros((count, classes)), np.zeros(count), np.full(count, np.nan)
    for i in range(count):
        here = languages == i
        own = np.bincount(of[here], minlength=len(sizes)).astype(np.float64)
        differences[i] = np.bincount(predictions[here], minlength=classes) - own @ shares
        spread = own * (sizes - own) / np.maximum(sizes - 1, 1)
        covariance = np.diag(spread @ shares) - (spread[:, None] * shares).T @ shares
        squares[i] = np.trace(covariance)
        rank = np.linalg.matrix_rank(covariance, hermitian=True)
        if rank:
            statistic = differences[i] @ np.linalg.pinv(covariance, hermitian=True) @ differences[i]
            p[i] = chdtrc(rank, max(statistic, 0))
    return differences, squares, p


def permutation_p(observed: Any, permuted: Floats) -> float:
    """Share of permutations, the observed order included, whose value is at least the observed one."""
    values = permuted[~np.isnan(permuted)]
    return float((1 + (values >= observed - 1e-12).sum()) / (1 + len(values)))


def permutations(count: int, seed: int, most: int = 2000) -> Ints:
    """Orders of `count` languages other than theirs: all of them up to 7 languages, else `most` random ones."""
    from itertools import permutations as all_orders

    if count <= 7:
        return np.array([*all_orders(range(count))][1:], dtype=np.int64).reshape(-1, count)
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(count) for _ in range(most)])
