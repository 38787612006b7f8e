"""The one table of the package: how many rows each language has of each label, and what that says.

Data sets, sampling plans and a model's predictions are all audited by the same `JointDistribution`: only the column
that is counted differs. Needs numpy and Arrow, not torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_langimb.counts.columns import class_label_names, column_batches, encode_columns, require_columns
from hf_langimb.counts.weighting import cell_weights

SMALL_CELL = 10  # rows under which a cell's shares and weights say little


@dataclass(frozen=True, eq=False)
class JointDistribution:
    """Counts of rows on the axes languages x labels.

    Args:
        languages: L names, strings, no repeats.
        labels: C labels as they stand in the data (strings, integers or booleans; the names of a ClassLabel).
        counts: int64[L, C], rows in each cell.

    Raises:
        ValueError: the shape does not fit the axes, an axis repeats itself, or a count is no number of rows.
    """

    languages: tuple[str, ...]
    labels: tuple[Any, ...]
    counts: np.ndarray

    def __post_init__(self) -> None:
        counts = whole_counts(self.counts)
        languages = tuple(map(str, self.languages))
        labels = tuple(value.item() if isinstance(value, np.generic) else value for value in self.labels)
        if counts.shape != (len(languages), len(labels)):
            raise ValueError(
                f"Expected counts of shape ({len(languages)}, {len(labels)}) for {len(languages)} languages and "
                f"{len(labels)} labels, found {counts.shape}."
            )
        for name, axis in (("language", languages), ("label", labels)):
            if len(set(axis)) < len(axis):
                raise ValueError(f"Each {name} must stand once on its axis; found {list(axis)}.")
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "languages", languages)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def from_columns(cls, languages: Any, labels: Any) -> JointDistribution:
        """Count two columns of equal length (lists, numpy, pandas or Arrow arrays).

        Both axes are sorted. Languages become strings; labels keep their type.

        Raises:
            ValueError: no rows, different lengths, nulls, or values that are no strings, integers or booleans.
        """
        (language_axis, language_ids), (label_axis, label_ids) = encode_columns(language=languages, label=labels)
        if len(language_ids) == 0:
            raise ValueError("No rows to count: the data set is empty.")
        cells = np.bincount(language_ids * len(label_axis) + label_ids, minlength=len(language_axis) * len(label_axis))
        return cls(language_axis, label_axis, cells.reshape(len(language_axis), len(label_axis)))

    @classmethod
    def from_dataset(
        cls, dataset: Any, language_column: str = "language", label_column: str = "label"
    ) -> JointDistribution:
        """Count two columns of a `datasets.Dataset`, of a streamed `IterableDataset`, or of any rows that are mappings.

        Read in batches, so memory does not grow with the data. A ClassLabel column gives its names, in its order,
        those without rows included.

        Raises:
            ValueError: a column is missing (the message names those there are), nulls, or no rows.
        """
        require_columns(dataset, {"language": language_column, "label": label_column})
        total: JointDistribution | None = None
        for languages, labels in column_batches(dataset, language_column, label_column):
            part = cls.from_columns(languages, labels)
            total = part if total is None else total + part
        if total is None:
            raise ValueError("No rows to count: the data set is empty.")
        return total._on_class_label_axes(
            class_label_names(dataset, language_column), class_label_names(dataset, label_column)
        )

    def _on_class_label_axes(
        self, language_names: list[str] | None, label_names: list[str] | None
    ) -> JointDistribution:
        """Replace class ids by their names on either axis (None: leave the axis as it is)."""
        counts = self.counts
        languages, labels = self.languages, self.labels
        if language_names is not None:
            counts = _spread(counts, [int(name) for name in languages], len(language_names), "language")
            languages = tuple(language_names)
        if label_names is not None:
            counts = _spread(counts.T, [int(value) for value in labels], len(label_names), "label").T
            labels = tuple(label_names)
        return JointDistribution(languages, labels, counts)

    def __add__(self, other: JointDistribution) -> JointDistribution:
        """Counts of two data sets together; an axis that both have the same stays, else the two are merged."""
        if not isinstance(other, JointDistribution):
            return NotImplemented
        languages = _merge(self.languages, other.languages)
        labels = _merge(self.labels, other.labels)
        counts = np.zeros((len(languages), len(labels)), dtype=np.int64)
        for part in (self, other):
            rows = [languages.index(name) for name in part.languages]
            columns = [labels.index(value) for value in part.labels]
            counts[np.ix_(rows, columns)] += part.counts
        return JointDistribution(languages, labels, counts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, JointDistribution)
            and self.languages == other.languages
            and self.labels == other.labels
            and np.array_equal(self.counts, other.counts)
        )

    # Measures. With p(l, c) the shares of the cells: p(l), p(c) its marginals; logarithms to base 2.

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return int(self.counts.sum())

    @property
    def row_shares(self) -> np.ndarray:
        """Share of each label within each language, float64[L, C]; NaN for a language without rows."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.divide(self.counts, totals, out=np.full(self.counts.shape, np.nan), where=totals > 0)

    @property
    def expected(self) -> np.ndarray:
        """Counts that independence of language and label would give, n_l n_c / N, float64[L, C]."""
        per_language, per_label = self.counts.sum(axis=1), self.counts.sum(axis=0)
        return np.outer(per_language, per_label) / max(self.rows, 1)

    @property
    def mutual_information_bits(self) -> float:
        """I(language; label), plug-in, in bits: 0 where labels do not depend on language."""
        return mutual_information_bits(self.counts)

    @property
    def mutual_information_chance_bits(self) -> float:
        """What independent columns of this size give on average: (L - 1)(C - 1) / (2 N ln 2)."""
        freedom = max(self._used_languages - 1, 0) * max(self._used_labels - 1, 0)
        return float(freedom / (2 * max(self.rows, 1) * np.log(2)))

    @property
    def relative_mutual_information(self) -> float | None:
        """I(language; label) / H(label): the share of what there is to know about a label that language tells."""
        shares = self.counts.sum(axis=0) / max(self.rows, 1)
        entropy = float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
        return self.mutual_information_bits / entropy if entropy > 0 else None

    @property
    def chi_squared(self) -> float:
        """Pearson's statistic, sum of (count - expected)^2 / expected."""
        difference = self.counts - self.expected
        return float(
            np.divide(difference**2, self.expected, out=np.zeros_like(difference), where=self.expected > 0).sum()
        )

    @property
    def cramers_v(self) -> float | None:
        """Cramér's V, 0 to 1: sqrt(chi^2 / (N (min(L, C) - 1))); None with a single language or label."""
        smaller = min(self._used_languages, self._used_labels) - 1
        return float(np.sqrt(self.chi_squared / (self.rows * smaller))) if smaller > 0 else None

    @property
    def cramers_v_corrected(self) -> float | None:
        """Cramér's V without its upward bias in small samples (Bergsma 2013); None with a single language or label."""
        n, k, r = self.rows, self._used_languages, self._used_labels
        if min(k, r) < 2 or n < 2:
            return None
        squared = max(self.chi_squared / n - (k - 1) * (r - 1) / (n - 1), 0.0)
        smaller = min(k - (k - 1) ** 2 / (n - 1), r - (r - 1) ** 2 / (n - 1)) - 1
        return float(np.sqrt(squared / smaller)) if smaller > 0 else None

    @property
    def residuals(self) -> np.ndarray:
        """Adjusted chi^2 residuals, float64[L, C]: about N(0, 1) each if language and label were independent."""
        per_language = self.counts.sum(axis=1, keepdims=True) / max(self.rows, 1)
        per_label = self.counts.sum(axis=0, keepdims=True) / max(self.rows, 1)
        deviation = np.sqrt(self.expected * (1 - per_language) * (1 - per_label))
        difference = self.counts - self.expected
        return np.divide(difference, deviation, out=np.zeros_like(difference), where=deviation > 0)

    @property
    def kl_divergence_bits(self) -> np.ndarray:
        """KL of each language's labels from all data's labels, float64[L], bits; its mean over rows is the MI."""
        shares, overall = np.nan_to_num(self.row_shares), self.counts.sum(axis=0) / max(self.rows, 1)
        ratio = np.divide(shares, overall, out=np.ones_like(shares), where=shares > 0)
        return (shares * np.log2(ratio)).sum(axis=1)

    @property
    def total_variation(self) -> np.ndarray:
        """Half the sum of |share in the language - share overall|, float64[L]."""
        overall = self.counts.sum(axis=0) / max(self.rows, 1)
        return np.abs(np.nan_to_num(self.row_shares, nan=0.0) - overall).sum(axis=1) / 2 * (self.counts.sum(axis=1) > 0)

    @property
    def language_only_accuracy(self) -> float:
        """Accuracy of predicting each language's most frequent label."""
        return float(self.counts.max(axis=1).sum() / max(self.rows, 1))

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of always predicting the most frequent label."""
        return float(self.counts.sum(axis=0).max() / max(self.rows, 1))

    def effective_sample_size_ratio(self, weights: np.ndarray) -> float:
        """Kish's effective sample size under weights[L, C], as a share of N: (sum w)^2 / (N sum w^2)."""
        squares = (self.counts * weights**2).sum()
        return float((self.counts * weights).sum() ** 2 / (self.rows * squares)) if squares > 0 else 0.0

    @property
    def missing_cells(self) -> list[list[Any]]:
        """Cells without rows, as [language, label]."""
        return [[self.languages[i], self.labels[j]] for i, j in np.argwhere(self.counts == 0).tolist()]

    @property
    def small_cells(self) -> list[list[Any]]:
        """Cells with some rows, but fewer than `SMALL_CELL`, as [language, label, rows]."""
        small = np.argwhere((self.counts > 0) & (self.counts < SMALL_CELL)).tolist()
        return [[self.languages[i], self.labels[j], int(self.counts[i, j])] for i, j in small]

    @property
    def _used_languages(self) -> int:
        return int((self.counts.sum(axis=1) > 0).sum())

    @property
    def _used_labels(self) -> int:
        return int((self.counts.sum(axis=0) > 0).sum())

    def audit(self, weighting: str = "none") -> dict[str, Any]:
        """Every measure as one JSON-ready dictionary (AUDIT of results.json).

        Args:
            weighting: the scheme whose `weights` and effective sample size are reported. Empty cells are listed under
                `missing_cells` and get weight 0 (an audit must be able to show them).
        """
        weights = cell_weights(self, weighting, missing_cell_policy="ignore")
        return {
            "languages": list(self.languages),
            "labels": list(self.labels),
            "counts": self.counts.tolist(),
            "row_shares": [[None if np.isnan(share) else share for share in row] for row in self.row_shares.tolist()],
            "mutual_information_bits": self.mutual_information_bits,
            "mutual_information_chance_bits": self.mutual_information_chance_bits,
            "relative_mutual_information": self.relative_mutual_information,
            "cramers_v": self.cramers_v,
            "cramers_v_corrected": self.cramers_v_corrected,
            "residuals": self.residuals.tolist(),
            "kl_divergence_bits": self.kl_divergence_bits.tolist(),
            "total_variation": self.total_variation.tolist(),
            "language_only_accuracy": self.language_only_accuracy,
            "majority_accuracy": self.majority_accuracy,
            "effective_sample_size_ratio": self.effective_sample_size_ratio(weights),
            "missing_cells": self.missing_cells,
            "small_cells": self.small_cells,
            "weighting": weighting,
            "weights": weights.tolist(),
        }


def whole_counts(counts: Any) -> np.ndarray:
    """A copy of a table of counts, int64.

    Raises:
        ValueError: a negative or fractional entry, NaN, or infinity.
    """
    table = np.asarray(counts)
    wrong = ~(np.isfinite(table) & (table >= 0) & (table == np.floor(table)))
    if wrong.any():
        raise ValueError(
            f"Expected counts of rows, whole numbers from 0 up, found {table[wrong][0]}: "
            "a table of shares becomes counts with hf_langimb.allocate."
        )
    return table.astype(np.int64)


def mutual_information_bits(table: np.ndarray) -> float:
    """Mutual information of rows and columns of a table of counts or joint shares [L, C], in bits; 0 if it is empty."""
    total = table.sum()
    if total == 0:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    ratio = np.divide(table, expected, out=np.ones(table.shape), where=table > 0)
    bits = float((table * np.log2(ratio)).sum() / total)
    return bits if bits > 1e-12 else 0.0  # rounding is not dependence


def _merge(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """Union of two axes: sorted where both are, else the first's order with the second's new entries behind it."""
    kinds = {type(value) for value in first + second}
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"Cannot add distributions whose axes differ in type ({names}); cast one column first.")
    if first == second:
        return first
    if list(first) == sorted(first) and list(second) == sorted(second):
        return tuple(sorted({*first, *second}))
    return first + tuple(value for value in second if value not in first)


def _spread(counts: np.ndarray, ids: list[int], size: int, name: str) -> np.ndarray:
    """Rows of `counts` placed at `ids` of a table with `size` rows (class ids -> all classes)."""
    if ids and not 0 <= min(ids) <= max(ids) < size:
        raise ValueError(
            f"The {name} column has class id {min(ids) if min(ids) < 0 else max(ids)}; expected 0 to {size - 1}, the "
            f"{size} names of its ClassLabel. Filter these rows out (-1 marks rows without a {name})."
        )
    table = np.zeros((size, counts.shape[1]), dtype=np.int64)
    table[ids] = counts
    return table
