"""Refitting the last layer of a classifier on held-out rows, with equally many rows of each language and label.

Deep feature reweighting (Kirichenko et al. 2022): features often contain what is needed to tell the labels apart, and
only the last layer relies on the shortcut. On rows that the model was trained on, this fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from hf_langimb.measures.correction import grouped_folds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the inverse regularization of standardized features, C
DRAWS = 10


class Erasure(TypedDict):
    """Controls of the erasure of language: as many random directions (`rank`), several times."""

    rank: int
    controls: list[dict[str, float]]  # accuracy and dependence_bits, on rows weighted to remove the link


class Refit(TypedDict):
    """`refit.json`: what the last layer of a model was fitted on."""

    labels: list[str]
    languages: list[str]
    rows: int
    cell_rows: int  # of each cell in a draw
    draws: int
    C: float
    missing: list[list[Any]]  # cells without rows: [language, position of the label]
    erasure: NotRequired[Erasure]


class Head(NamedTuple):
    """A linear layer: features @ weight.T + bias, and the C that it was fitted with."""

    weight: Floats  # [C, H]
    bias: Floats  # [C]
    C: float

    def logits(self, features: Any) -> Floats:
        """float64[N, C]."""
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias)


def fit_head(
    features: Any,
    cells: Any,
    labels: Any,
    *,
    classes: int,
    groups: Any = None,
    draws: int = DRAWS,
    intercept: bool = True,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Head:
    """The mean of the heads that are fitted on draws of equally many rows of each cell.

    C, the inverse regularization strength, is the one with the lowest cross-entropy in five-fold cross-validation,
    weighted so that all cells count the same.

    Args:
        features: of held-out rows, [N, H].
        cells: combination of language and label of each row, int[N]; those without rows are left out.
        labels: positions of the true labels, int[N].
        classes: number of labels.
        groups: rows of one group (translations of a text) stay in one fold; None: each row is its own group.
        draws: number of draws, 1 or more.
        intercept: whether the layer has a bias.
        strengths: candidates for C, the inverse regularization strength.
        seed: of draws and folds.

    Raises:
        ValueError: rows of a single label.
    """
    table, cells, labels = np.asarray(features, dtype=np.float64), np.asarray(cells), np.asarray(labels)
    if len(np.unique(labels)) < 2:
        raise ValueError("All held-out rows have the same label: two labels or more are needed to refit a head.")
    options: Any = {"classes": classes, "intercept": intercept}
    best = strengths[0]
    if len(strengths) > 1:
        losses = dict.fromkeys(strengths, 0.0)
        for train, test in grouped_folds(cells, groups, 5, seed):
            rows = train[next(draws_of(cells[train], 1, seed))]
            if len(np.unique(labels[rows])) < 2:
                continue
            for strength in strengths:
                head = _fit(table[rows], labels[rows], strength, **options)
                losses[strength] += _loss(head.logits(table[test]), cells[test], labels[test])
        best = min(losses, key=lambda strength: losses[strength])
    heads = [_fit(table[rows], labels[rows], best, **options) for rows in draws_of(cells, draws, seed)]
    weight, bias = np.mean([one.weight for one in heads], axis=0), np.mean([one.bias for one in heads], axis=0)
    return Head(weight, bias, best)


def draws_of(cells: Ints, draws: int, seed: int) -> Iterator[Ints]:
    """Row numbers of each draw, int[cells * smallest]: as many rows of each cell as the smallest one has."""
    rng = np.random.default_rng(seed)
    of_cells = [np.flatnonzero(cells == cell) for cell in np.unique(cells)]
    size = min(map(len, of_cells))
    for _ in range(draws):
        yield np.sort(np.concatenate([rng.choice(rows, size, replace=False) for rows in of_cells]))


def _fit(features: Floats, labels: Ints, strength: float, *, classes: int, intercept: bool) -> Head:
    """A logistic regression on standardized features, as a layer for the features as they are."""
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0) if intercept else np.zeros(features.shape[1])
    scale = features.std(axis=0)
    scale[scale == 0] = 1.0
    model = LogisticRegression(C=strength, fit_intercept=intercept, max_iter=1000)
    model.fit((features - mean) / scale, labels)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -np.inf)
    found, offset = model.coef_ / scale, model.intercept_ if intercept else np.zeros(len(model.coef_))
    if len(model.classes_) == 2:  # one row of coefficients for the second class
        found, offset = np.vstack([-found, found]) / 2, np.append(-offset, offset) / 2
    weight[model.classes_], bias[model.classes_] = found, offset - found @ mean
    lacking = np.isinf(bias)
    bias[lacking] = bias[~lacking].min() - 10 if intercept else 0  # labels without rows are not predicted
    return Head(weight, bias, strength)


def _loss(logits: Floats, cells: Ints, labels: Ints) -> float:
    """Sum over rows of the cross-entropy in nats, weighted so that all cells count the same."""
    logs = logits - logits.max(axis=1, keepdims=True)
    own = np.log(np.exp(logs).sum(axis=1)) - logs[np.arange(len(labels)), labels]
    _, place, counts = np.unique(cells, return_inverse=True, return_counts=True)
    return float((own / counts[place.reshape(-1)]).sum() * len(own) / len(counts))
