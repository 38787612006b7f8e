"""The one table of the package: how many rows each language has of each label, and measures of it.

Data sets, sampling plans and a model's predictions are all audited by the same `JointDistribution`: only the column
that is counted differs. Needs numpy, scipy and Arrow, not torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hf_langimb.counts.columns import class_label_names, column_batches, encode_columns, require_columns
from hf_langimb.counts.verdict import Audit, Measures, judge
from hf_langimb.counts.weighting import Counts, Floats, cell_weights

SMALL_CELL = 10  # rows under which a cell's shares and weights say little


@dataclass(frozen=True, eq=False)
class JointDistribution:
    """Counts of rows on the axes languages x labels.

    Args:
        languages: L distinct names, as strings.
        labels: C distinct labels as they are in the data (strings, integers or booleans; the names of a ClassLabel).
        counts: int64[L, C], rows in each cell.

    Raises:
        ValueError: the shape does not fit the axes, a name is repeated on its axis, or a count is no whole number.
    """

    languages: tuple[str, ...]
    labels: tuple[Any, ...]
    counts: Counts

    def __post_init__(self) -> None:
        counts = whole_counts(self.counts)
        languages = tuple(map(str, self.languages))
        labels = tuple(value.item() if isinstance(value, np.generic) else value for value in self.labels)
        sizes = len(languages), len(labels)
        if counts.shape != sizes or (len(set(languages)), len(set(labels))) != sizes:
            raise ValueError(
                f"Counts must have shape {sizes} for {sizes[0]} languages and {sizes[1]} labels, each name once; "
                f"got shape {counts.shape}, languages {list(languages)} and labels {list(labels)}."
            )
        counts.flags.writeable = False
        for name, value in (("counts", counts), ("languages", languages), ("labels", labels)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_columns(cls, languages: Any, labels: Any) -> JointDistribution:
        """Count two columns of equal length (lists, numpy, pandas or Arrow arrays).

        Both axes are sorted. Languages become strings; labels keep their type.

        Raises:
            ValueError: no rows, different lengths, nulls, or values other than strings, integers or booleans.
        """
        (language_axis, language_ids), (label_axis, label_ids) = encode_columns(language=languages, label=labels)
        if len(language_ids) == 0:
            raise ValueError("No rows to count: the data set is empty.")
        shape = len(language_axis), len(label_axis)
        cells = np.bincount(language_ids * shape[1] + label_ids, minlength=shape[0] * shape[1])
        return cls(language_axis, label_axis, cells.reshape(shape))

    @classmethod
    def from_dataset(
        cls, dataset: Any, language_column: str = "language", label_column: str = "label"
    ) -> JointDistribution:
        """Count two columns of a `datasets.Dataset` or `IterableDataset`, or of any rows that are mappings, in batches.

        A ClassLabel column gives its names, in its order, those without rows included.

        Raises:
            ValueError: a column is missing (the message names the existing ones), nulls, or no rows.
        """
        require_columns(dataset, {"language": language_column, "label": label_column})
        batches = iter(column_batches(dataset, language_column, label_column))
        total = cls.from_columns(*next(batches, ([], [])))
        for languages, labels in batches:
            total += cls.from_columns(languages, labels)
        names = [class_label_names(dataset, column) for column in (language_column, label_column)]
        named, counts = _on_class_axis(total.languages, names[0], total.counts, "language")
        labels, counts = _on_class_axis(total.labels, names[1], counts.T, "label")
        return cls(named, labels, counts.T)

    def __add__(self, other: JointDistribution) -> JointDistribution:
        """Counts of two data sets together; an axis that both share stays, otherwise the two are merged."""
        if not isinstance(other, JointDistribution):
            return NotImplemented
        languages, labels = _merge(self.languages, other.languages), _merge(self.labels, other.labels)
        counts = np.zeros((len(languages), len(labels)), dtype=np.int64)
        for part in (self, other):
            counts[np.ix_([*map(languages.index, part.languages)], [*map(labels.index, part.labels)])] += part.counts
        return JointDistribution(languages, labels, counts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, JointDistribution)
            and (self.languages, self.labels) == (other.languages, other.labels)
            and np.array_equal(self.counts, other.counts)
        )

    # Measures. With p(l, c) the shares of the cells: p(l), p(c) its marginals; logarithms to base 2.

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return int(self.counts.sum())

    @property
    def row_shares(self) -> Floats:
        """Share of each label within each language, float64[L, C]; NaN for a language without rows."""
        return _ratio(self.counts, self.counts.sum(axis=1, keepdims=True), np.nan)

    @property
    def label_shares(self) -> Floats:
        """Share of each label in all data, float64[C]."""
        return np.asarray(self.counts.sum(axis=0) / max(self.rows, 1))

    @property
    def expected(self) -> Floats:
        """Counts that independence of language and label would give, n_l n_c / N, float64[L, C]."""
        return np.asarray(np.outer(self.counts.sum(axis=1), self.counts.sum(axis=0)) / max(self.rows, 1))

    @property
    def mutual_information_bits(self) -> float:
        """I(language; label), plug-in, in bits: 0 where labels do not depend on language."""
        return mutual_information_bits(self.counts)

    @property
    def mutual_information_chance_bits(self) -> float:
        """Mean of the mutual information of independent columns of this size: (L - 1)(C - 1) / (2 N ln 2)."""
        languages, labels = used_axes(self.counts)
        return float(max(languages - 1, 0) * max(labels - 1, 0) / (2 * max(self.rows, 1) * np.log(2)))

    @property
    def relative_mutual_information(self) -> float | None:
        """I(language; label) / H(label): how much of a label's entropy the language explains, 0 to 1."""
        shares = self.label_shares[self.label_shares > 0]
        entropy = float(-(shares * np.log2(shares)).sum())
        return self.mutual_information_bits / entropy if entropy > 0 else None

    @property
    def chi_squared(self) -> float:
        """Pearson's statistic, sum of (count - expected)^2 / expected."""
        return float(_ratio((self.counts - self.expected) ** 2, self.expected).sum())

    @property
    def cramers_v(self) -> float | None:
        """Cramér's V, 0 to 1: sqrt(chi^2 / (N (min(L, C) - 1))); None with a single language or label."""
        smaller = min(used_axes(self.counts)) - 1
        return float(np.sqrt(self.chi_squared / (self.rows * smaller))) if smaller > 0 else None

    @property
    def cramers_v_corrected(self) -> float | None:
        """Cramér's V without its upward bias in small samples (Bergsma 2013); None with a single language or label."""
        n, (k, r) = self.rows, used_axes(self.counts)
        if min(k, r) < 2 or n < 2:
            return None
        squared = max(self.chi_squared / n - (k - 1) * (r - 1) / (n - 1), 0.0)
        smaller = min(k - (k - 1) ** 2 / (n - 1), r - (r - 1) ** 2 / (n - 1)) - 1
        return float(np.sqrt(squared / smaller)) if smaller > 0 else None

    @property
    def residuals(self) -> Floats:
        """Adjusted chi^2 residuals, float64[L, C]: about N(0, 1) each if language and label were independent."""
        per_language = self.counts.sum(axis=1, keepdims=True) / max(self.rows, 1)
        deviation = np.sqrt(self.expected * (1 - per_language) * (1 - self.label_shares))
        return _ratio(self.counts - self.expected, deviation)

    @property
    def kl_divergence_bits(self) -> Floats:
        """KL divergence of each language's labels from all labels, float64[L], bits; its mean over rows is the MI."""
        shares = np.nan_to_num(self.row_shares)
        ratio = np.divide(shares, self.label_shares, out=np.ones_like(shares), where=shares > 0)
        return np.asarray((shares * np.log2(ratio)).sum(axis=1))

    @property
    def total_variation(self) -> Floats:
        """Half the sum of |share in the language - share in all data|, float64[L]; 0 for a language without rows."""
        return np.asarray(np.nansum(np.abs(self.row_shares - self.label_shares), axis=1) / 2)

    @property
    def language_only_accuracy(self) -> float:
        """Accuracy of predicting each language's most frequent label."""
        return float(self.counts.max(axis=1).sum() / max(self.rows, 1))

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of always predicting the most frequent label."""
        return float(self.label_shares.max())

    def effective_sample_size_ratio(self, weights: Floats) -> float:
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

    def audit(self, weighting: str = "none") -> Audit:
        """Every measure as one JSON-ready dictionary (AUDIT of results.json), with its verdict in words.

        Args:
            weighting: the scheme whose `weights` and effective sample size are reported. Empty cells are listed under
                `missing_cells` and get weight 0 (an audit must be able to show them).
        """
        weights = cell_weights(self, weighting, missing_cell_policy="ignore")
        effective = self.effective_sample_size_ratio(weights)
        given = {"weighting": weighting, "weights": weights, "effective_sample_size_ratio": effective}
        values = {key: given[key] if key in given else getattr(self, key) for key in Measures.__annotations__}
        return judge(cast(Measures, {key: _plain(value) for key, value in values.items()}), self.chi_squared)


def _plain(value: Any) -> Any:
    """A measure as JSON has it: lists, and None for NaN."""
    if isinstance(value, np.ndarray):
        return np.where(np.isnan(value), np.array(None), value).tolist()
    return list(value) if isinstance(value, tuple) else value


def used_axes(counts: Counts) -> tuple[int, int]:
    """Numbers of languages and of labels that have rows."""
    return int((counts.sum(axis=1) > 0).sum()), int((counts.sum(axis=0) > 0).sum())


def whole_counts(counts: Any) -> Counts:
    """A copy of a table of counts, int64.

    Raises:
        ValueError: a negative or fractional entry, NaN, or infinity.
    """
    table = np.asarray(counts)
    wrong = ~(np.isfinite(table) & (table >= 0) & (table == np.floor(table)))
    if wrong.any():
        raise ValueError(
            f"Counts of rows must be whole numbers from 0 up, got {table[wrong][0]} "
            "(hf_langimb.allocate turns shares into counts)."
        )
    return table.astype(np.int64)


def mutual_information_bits(table: npt.NDArray[Any]) -> float:
    """Mutual information of rows and columns of a table of counts or joint shares [L, C], in bits; 0 if it is empty."""
    total = table.sum()
    if total == 0:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    ratio = np.divide(table, expected, out=np.ones(table.shape), where=table > 0)
    bits = float((table * np.log2(ratio)).sum() / total)
    return bits if bits > 1e-12 else 0.0  # rounding is not dependence


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any], otherwise: float = 0.0) -> Floats:
    """The quotient, float64; `otherwise` where `below` is 0."""
    return np.asarray(np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0))


def _merge(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """Union of two axes: sorted where both are, else the first's order followed by the second's new entries."""
    kinds = {type(value) for value in first + second}
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"Cannot add distributions whose axes differ in type ({names}); cast one column first.")
    if first == second:
        return first
    if list(first) == sorted(first) and list(second) == sorted(second):
        return tuple(sorted({*first, *second}))
    return first + tuple(value for value in second if value not in first)


def _on_class_axis(
    axis: tuple[Any, ...], names: list[str] | None, counts: Counts, what: str
) -> tuple[tuple[Any, ...], Counts]:
    """An axis of class ids as all names of its ClassLabel, with counts [axis, other]; unchanged where names is None."""
    if names is None:
        return axis, counts
    ids = [int(value) for value in axis]
    if wrong := [number for number in ids if not 0 <= number < len(names)]:
        raise ValueError(
            f"The {what} column has class id {wrong[0]}; expected 0 to {len(names) - 1}, the {len(names)} names of its "
            f"ClassLabel. Filter these rows out (-1 marks rows without a {what})."
        )
    table = np.zeros((len(names), counts.shape[1]), dtype=np.int64)
    table[ids] = counts
    return tuple(names), table
