"""Correcting a trained model without training it again: one temperature, and a bias for each language and label.

The correction is fitted on held-out rows that are weighted so that language tells nothing about the label. It makes
predictions independent of language as far as this can be done without looking at the text again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hf_langimb.files import read_json
from hf_langimb.measures.targets import row_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FILE = "correction.json"  # in the folder of a corrected model
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean loss, in nats for the sum of squared biases
SHARPEST = 10.0  # largest factor of standardized logits, and its inverse the smallest: few rows have no errors
PRIOR_ROWS = 10.0  # of a prior at the overall shares of the labels


@dataclass(frozen=True)
class Correction:
    """A temperature and biases of logits: logits / temperature + bias[language].

    Args:
        languages: axis of `bias`; other languages have bias 0.
        temperature: above 0, the same for all languages.
        bias: float64[L, C], sum 0 in each language. For a label without held-out rows in a language, the mean of the
            other languages' is taken before the sum is set to 0.
        ridge: factor of the sum of squared biases, chosen by cross-validation.
        missing: cells without held-out rows, [language, label position].
    """

    languages: tuple[str, ...]
    temperature: float
    bias: Floats
    ridge: float
    missing: tuple[tuple[str, int], ...] = ()

    def apply(self, logits: Any, languages: Sequence[str]) -> Floats:
        """Corrected logits, float64[N, C].

        Args:
            logits: of the model, [N, C].
            languages: of the rows; unknown ones are not biased.

        Raises:
            ValueError: another number of languages than rows, or of logits than labels.
        """
        position = {language: i for i, language in enumerate(self.languages)}
        if len(logits) != len(languages):
            raise ValueError(f"Expected a language for each of {len(logits)} rows, got {len(languages)} languages.")
        if np.shape(logits)[1:] != self.bias.shape[1:]:
            raise ValueError(f"Expected {self.bias.shape[1]} logits in each row, got shape {np.shape(logits)}.")
        ids = np.array([position.get(language, -1) for language in languages], dtype=np.int64)
        biases = np.vstack([self.bias, np.zeros(self.bias.shape[1])])  # the last for id -1
        return np.asarray(logits, dtype=np.float64) / self.temperature + biases[ids]

    def to_dict(self) -> dict[str, Any]:
        """The content of `correction.json` that `read_correction` reads."""
        return {**asdict(self), "bias": self.bias.tolist()}


class Corrected(TypedDict):
    """`correction.json`: a `Correction`, and what it was fitted on."""

    labels: list[str]
    languages: list[str]
    temperature: float
    bias: list[list[float]]  # by language and label
    ridge: float
    missing: list[list[Any]]  # cells without rows: [language, position of the label]
    never_trained: list[list[Any]]  # those of them that the training data lacked too
    not_held_out: list[str]  # languages of the training data without rows
    rows: int
    adapted_accuracy: float  # of EM for the rows' own shares of labels, cross-fitted
    adapted_dependence_bits: NotRequired[float]  # of EM, on rows weighted to remove the link


def read_correction(folder: Path, classes: int) -> Correction | None:
    """The correction of a model with this number of classes; None where its folder has none.

    Raises:
        ValueError: `correction.json` is damaged or of another model.
    """
    path, advice = folder / FILE, "save or download the corrected model again"
    if not path.is_file():
        return None
    found = read_json(path, advice)
    try:
        missing = tuple((str(language), int(label)) for language, label in found["missing"])
        languages, bias = tuple(map(str, found["languages"])), np.array(found["bias"], dtype=np.float64)
        correction = Correction(languages, float(found["temperature"]), bias, float(found["ridge"]), missing)
        right = bias.shape == (len({*languages}), classes) and correction.temperature > 0
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(f"{path} must have a temperature above 0 and {classes} biases for each language: {advice}.")
    return correction


def fit_correction(
    logits: Any,
    languages: Sequence[str],
    labels: Any,
    *,
    groups: Any = None,
    folds: int = 5,
    seed: int = 0,
    ridges: Sequence[float] = RIDGES,
) -> Correction:
    """The correction with the lowest `independent`-weighted cross-entropy plus ridge * (sum of squared biases).

    Args:
        logits: of held-out rows, [N, C].
        languages: of the rows.
        labels: positions of the true labels, int[N].
        groups: rows of one group (translations of a text) stay in one fold; None: each row is its own group.
        folds: of the cross-validation that chooses the ridge; with fewer rows or groups, the largest ridge is used.
        seed: of the folds.
        ridges: candidates, at least one; ties in cross-validation go to the largest.

    Raises:
        ValueError: no rows, numbers that are not finite, or labels that the model does not have.
    """
    rows = _checked(logits, languages, labels)
    if not ridges or folds < 2:
        raise ValueError(f"Expected one ridge or more and two folds or more, got {len(ridges)} and {folds}.")
    best = max(ridges)
    if len({*ridges}) > 1:
        losses = dict.fromkeys(sorted({*ridges}, reverse=True), 0.0)
        folded = grouped_folds(rows.cells, groups, folds, seed)
        for train, test in folded:
            for ridge in losses:
                fitted = _fit(rows.select(train), ridge)
                losses[ridge] += _loss(rows.select(test), fitted)
        best = min(losses, key=lambda ridge: losses[ridge]) if folded else best
    return _fit(rows, best)


class CrossFitted(NamedTuple):
    """Logits of rows, float64[N, C] each, by what was fitted on the other folds."""

    corrected: Floats  # by a correction
    adapted: Floats  # by its temperature and `adapted_priors` for the labels of the rows' own fold, which are not read


def cross_fitted(
    logits: Any,
    languages: Sequence[str],
    labels: Any,
    *,
    groups: Any = None,
    folds: int = 5,
    seed: int = 0,
    ridges: Sequence[float] = RIDGES,
) -> CrossFitted:
    """Corrected logits of each row, by corrections that were fitted on the other folds.

    The arguments are those of `fit_correction`.

    Raises:
        ValueError: fewer rows or groups than folds, or what `fit_correction` raises.
    """
    rows = _checked(logits, languages, labels)
    folded = grouped_folds(rows.cells, groups, folds, seed)
    if not folded or folds < 2:
        raise ValueError(
            f"Expected at least {folds} different texts (one per fold) and two folds, got {len(rows.labels)} rows: add "
            "held-out rows."
        )
    result = CrossFitted(np.empty_like(rows.logits), np.empty_like(rows.logits))
    names = np.asarray(languages, dtype=object)
    for train, test in folded:
        inner = None if groups is None else np.asarray(groups)[train]
        options: dict[str, Any] = {"groups": inner, "folds": folds, "seed": seed, "ridges": ridges}
        fitted = fit_correction(rows.logits[train], names[train].tolist(), rows.labels[train], **options)
        result.corrected[test] = fitted.apply(rows.logits[test], names[test].tolist())
        result.adapted[test] = _adapted(rows.select(train), rows.select(test), fitted.temperature)
    return result


def _adapted(held_out: _Rows, rows: _Rows, temperature: float) -> Floats:
    """Log probabilities of rows whose labels are not read, with the priors that EM finds in each of their languages."""
    known, classes = held_out.counts.sum(axis=1) > 0, held_out.logits.shape[1]
    probabilities = softmax(held_out.logits / temperature, axis=1)
    source = np.full((len(known), classes), 1 / classes)
    for language in np.flatnonzero(known):
        source[language] = probabilities[held_out.languages == language].mean(axis=0)
    own, overall = softmax(rows.logits / temperature, axis=1), held_out.counts.sum(axis=0) / len(held_out.labels)
    shares = np.where(known[:, None], adapted_priors(own, rows.languages, source, overall), source)
    return np.asarray(np.log(np.maximum(own * (shares / source)[rows.languages], np.finfo(np.float64).tiny)))


def adapted_priors(
    probabilities: Any, languages: Any, source: Any, overall: Any, *, rows: float = PRIOR_ROWS, steps: int = 1000
) -> Floats:
    """Shares of the labels in each language of unlabeled rows, by EM (Saerens et al. 2002): float64[L, C].

    Probabilities times shares / source, normalized, are the probabilities under these shares. They improve accuracy
    on the rows as collected; predictions often depend more on language.

    Args:
        probabilities: of a model whose temperature is fitted, [N, C].
        languages: positions of the rows' languages, int[N], 0 or more.
        source: shares of the labels that the model assumes, [L, C]: its mean probabilities on held-out rows.
        overall: shares of the labels in all languages, [C], the prior, which counts as `rows` added rows.
        steps: largest number of steps; fewer where the shares no longer change.
    """
    source, overall = np.maximum(source, np.finfo(np.float32).tiny), np.asarray(overall, dtype=np.float64)
    found = source.copy()
    for language in np.unique(languages):
        own = np.asarray(probabilities, dtype=np.float64)[np.asarray(languages) == language]
        shares = source[language]
        for _ in range(steps):
            adapted = own * (shares / source[language])
            adapted /= adapted.sum(axis=1, keepdims=True)
            before, shares = shares, (adapted.sum(axis=0) + rows * overall) / (len(own) + rows)
            if np.abs(shares - before).max() < 1e-9:
                break
        found[language] = shares
    return np.asarray(found)


@dataclass(frozen=True)
class _Rows:
    """Checked rows: logits [N, C], positions of languages and labels, and the names of the languages."""

    logits: Floats
    languages: Ints
    labels: Ints
    names: tuple[str, ...]

    @property
    def cells(self) -> Ints:
        """The cell of each row."""
        cells: Ints = self.languages * self.logits.shape[1] + self.labels
        return cells

    @property
    def counts(self) -> Ints:
        """Rows of each cell, int64[L, C]."""
        shape = len(self.names), self.logits.shape[1]
        return np.bincount(self.cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)

    def select(self, rows: Any) -> _Rows:
        """Some of the rows."""
        return _Rows(self.logits[rows], self.languages[rows], self.labels[rows], self.names)


def grouped_folds(cells: Ints, groups: Any, folds: int, seed: int) -> list[tuple[Ints, Ints]]:
    """(rows to fit, rows to test) of each fold: cells in proportion, groups in one fold; none with too few groups."""
    groups = np.arange(len(cells)) if groups is None else np.asarray(groups)
    if len(groups) != len(cells):
        raise ValueError(f"Expected a group for each of {len(cells)} rows, got {len(groups)} groups.")
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) < folds:
        return []
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), cells[first]))
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    of_row = fold[group.reshape(-1)]
    return [(np.flatnonzero(of_row != number), np.flatnonzero(of_row == number)) for number in range(folds)]


def _checked(logits: Any, languages: Sequence[str], labels: Any) -> _Rows:
    """Rows that can be fitted; the languages sorted."""
    table, names = np.asarray(logits, dtype=np.float64), tuple(sorted({str(name) for name in languages}))
    position = {name: i for i, name in enumerate(names)}
    ids = np.array([position[str(name)] for name in languages], dtype=np.int64)
    classes = np.asarray(labels).astype(np.int64)
    problem = ""
    if table.ndim != 2 or not len(table) == len(ids) == len(classes) > 0:
        problem = f"Expected logits [rows, labels] with a language and a label per row, got {table.shape}"
    elif not np.isfinite(table).all():
        problem = "Some logits are not finite"
    elif not ((classes >= 0) & (classes < table.shape[1])).all():
        problem = f"Expected labels from 0 to {table.shape[1] - 1}, got {classes.min()} to {classes.max()}"
    if problem:
        raise ValueError(f"{problem}.")
    return _Rows(table, ids, classes, names)


def _fit(rows: _Rows, ridge: float) -> Correction:
    """The correction of one ridge. The problem is convex in the factor of the logits and the biases."""
    from scipy.optimize import minimize

    counts = rows.counts
    present, (languages, classes) = counts > 0, counts.shape
    weights = row_weights(counts, "independent")[rows.languages, rows.labels] / len(rows.labels)
    target = np.eye(classes)[rows.labels]
    left_out = ~present[rows.languages]

    def centered(table: Floats) -> Floats:
        """A table whose sum over the present labels of a language is 0."""
        kept, number = np.where(present, table, 0.0), present.sum(axis=1, keepdims=True).clip(1)
        return np.asarray(np.where(present, kept - kept.sum(axis=1, keepdims=True) / number, 0.0))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """The objective and its gradient."""
        factor, bias = parameters[0], centered(parameters[1:].reshape(languages, classes))
        scores = np.where(left_out, -np.inf, factor * rows.logits + bias[rows.languages])
        scores -= scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores)
        totals = probabilities.sum(axis=1)
        own = np.log(totals) - scores[np.arange(len(scores)), rows.labels]
        residuals = weights[:, None] * (probabilities / totals[:, None] - target)
        slopes = np.zeros_like(bias)
        np.add.at(slopes, rows.languages, residuals)
        gradient = centered(slopes + 2 * ridge * bias)
        return float(weights @ own + ridge * (bias**2).sum()), np.append((residuals * rows.logits).sum(), gradient)

    spread = float(np.std(rows.logits - rows.logits.mean(axis=1, keepdims=True))) or 1.0
    start = np.append(1 / spread, np.zeros(counts.size))
    bounds = [(1 / SHARPEST / spread, SHARPEST / spread), *[(None, None)] * counts.size]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000}).x
    bias, known = centered(found[1:].reshape(languages, classes)), present.sum(axis=0)
    others = np.divide(bias.sum(axis=0), known, out=np.zeros(classes), where=known > 0)
    bias = np.where(present, bias, others)
    bias -= bias.mean(axis=1, keepdims=True)
    missing = tuple((rows.names[i], int(j)) for i, j in np.argwhere(~present))
    return Correction(rows.names, 1 / float(found[0]), bias, ridge, missing)


def _loss(rows: _Rows, fitted: Correction) -> float:
    """Sum of the `independent`-weighted cross-entropies of rows that were not fitted, in nats."""
    scores = fitted.apply(rows.logits, [fitted.languages[i] for i in rows.languages])
    scores -= scores.max(axis=1, keepdims=True)
    own = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(scores)), rows.labels]
    return float(row_weights(rows.counts, "independent")[rows.languages, rows.labels] @ own)
