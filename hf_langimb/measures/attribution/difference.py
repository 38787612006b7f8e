"""The cumulative difference of two models' attributions, by language and label (arXiv 2402.13016, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_langimb.counts.columns import encode_column
from hf_langimb.measures.attribution import SETS
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.measures.intervals import Floats, bootstrap_mean, jackknife_interval

THRESHOLDS = (0.001, 0.01, 0.05)
PARTS = (*SETS, "base_difference", "probability_difference")
SETTINGS = ("tokenizer", "data", "labels", "method", "masking", "budget", "budget_unit", "mask_token", "dtype")
Store = AttributionStore | str | Path
Choice = tuple[int, int, int]  # places of the stores other, reference and selection

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def cumulative_difference(
    other: Store,
    reference: Store,
    *,
    selection: Store | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Sum over tokens of S_other - S_reference, by the sign of the token, averaged over the examples of a language.

    A token is positive for a label if its S in `selection` is above the threshold, negative if it is below minus the
    threshold, else neutral. Positive + neutral + negative equals the difference of the probabilities minus the
    difference of the base values.

    Selecting tokens by the reference and then subtracting the reference causes regression to the mean: even for two
    equally good models, positive tokens fall and negative tokens rise. Call this function three times with models of
    three seeds: the result (other, A), the control (B, A), and the unbiased form (other, B, selection=A), which equals
    result - control. `compare_seeds` does this.

    Args:
        other, reference: stores of two models on the same data.
        selection: the store that decides which tokens are positive; None takes the reference.
        thresholds: of S, in probability.
        resamples, seed: of the bootstrap over examples; 0 resamples for no intervals (null).

    Returns:
        JSON-ready, one entry for each threshold, language and label: `positive`, `neutral`, `negative`,
        `base_difference` and `probability_difference`; `intervals`, their 95 % percentile bootstrap intervals over
        examples, which do not include the noise of training; `token_shares` of the three sets (with special tokens,
        most of which are neutral); `examples`.

    Raises:
        ValueError: the stores differ in data, tokenizer or settings, or the data have no languages.
    """
    sums = _Sums([other, reference, reference if selection is None else selection], thresholds)
    return sums.entries([(0, 1, 2)], resamples, seed)


def compare_seeds(
    other: Mapping[Any, Store],
    reference: Mapping[Any, Store],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Result, control and unbiased form of two setups, averaged over all ordered tuples of different seeds.

    Args:
        other, reference: seed -> store; the seeds of both are used.
        thresholds, resamples, seed: as in `cumulative_difference`.

    Returns:
        JSON-ready: `result`, `control`, `unbiased` (entries as above, with `seed_intervals`: 95 % t intervals by the
        jackknife over seeds, null for fewer than four), `seeds`, `examples`, `truncated_share`. The control needs two
        seeds and the unbiased form three, otherwise they are empty; with a single seed the result compares two models
        of the same seed.

    Raises:
        ValueError: no common seed, or as `cumulative_difference`.
    """
    seeds = [number for number in other if number in reference]
    if not seeds:
        raise ValueError(f"The setups must have a common seed, got {list(other)} and {list(reference)}.")
    sums, count = _Sums([setup[number] for setup in (other, reference) for number in seeds], thresholds), len(seeds)
    pairs = list(permutations(range(count), 2)) or [(0, 0)]
    forms = {
        "result": [(i, count + a, count + a) for i, a in pairs],
        "control": [(count + b, count + a, count + a) for b, a in pairs if b != a],
        "unbiased": [(i, count + b, count + a) for i, b, a in permutations(range(count), 3)],
    }
    entries = {
        form: sums.entries(choices, resamples, seed, count) if choices else [] for form, choices in forms.items()
    }
    cut = np.mean([np.asarray(store.examples["truncated"]).mean() for store in sums.stores])
    return {**entries, "seeds": seeds, "examples": len(sums.stores[0]), "truncated_share": float(cut)}


def base_values(stores: Mapping[Any, Store]) -> dict[str, Any]:
    """How much base values (p with every token masked) differ between the seeds of a setup, and between texts.

    Attributions of two models are comparable only if both have similar base values; the masked-input entropy loss moves
    them all to 1/C.

    Args:
        stores: seed -> store, on the same data.

    Returns:
        JSON-ready: `mean` {label: float} over seeds and examples, and mean standard deviations: `over_seeds`, of an
        example's base value (null for one seed); `over_examples`, within a model (null for one example).
    """
    opened = _opened(stores.values())
    bases = np.stack([_doubles(store.examples["base"]) for store in opened])  # [seeds, N, C]
    spreads = [float(bases.std(axis=i, ddof=1).mean()) if bases.shape[i] > 1 else None for i in (0, 1)]
    means = _named(opened[0].labels, bases.mean(axis=(0, 1)))
    return {"mean": means, "over_seeds": spreads[0], "over_examples": spreads[1]}


def token_sums(store: Store, threshold: float = 0.01) -> list[dict[str, Any]]:
    """Shares of positive, neutral and negative tokens of one model and the sums of their S, mean over examples.

    Returns:
        JSON-ready, one entry for each language and label: `positive`, `neutral`, `negative`, `token_shares`,
        `examples`.
    """
    sums = _Sums([store], [threshold])
    over = sums.over(0, 0)[0]  # [N, C, 3]
    found = []
    for language, rows in sums.rows.items():
        shares, means = sums.shares([0], threshold, rows), over[rows].mean(axis=0)
        for j, label in enumerate(sums.stores[0].labels):
            entry = {"threshold": threshold, "language": language, "label": label, "examples": len(rows)}
            found.append(entry | _named(SETS, means[j]) | {"token_shares": _named(SETS, shares[:, j])})
    return found


class _Sums:
    """Sums of S over the tokens that a store selects, for all examples, classes and thresholds of several stores."""

    def __init__(self, stores: Sequence[Store], thresholds: Sequence[float]) -> None:
        self.stores = _opened(stores)
        self.thresholds = np.atleast_1d(np.asarray(thresholds, dtype=np.float64)).tolist()
        first, problem = self.stores[0], None
        if not self.thresholds or not all(value >= 0 for value in self.thresholds):
            problem = f"thresholds must be one or more values of S, each 0 or above, got {thresholds!r}."
        elif without := first.examples["language"].null_count:
            problem = (
                f"Attributions by language need a column language in the data; {without:,} of {len(first):,} examples "
                "have none: explain them again with one."
            )
        if problem:
            raise ValueError(problem)
        self.starts = np.flatnonzero(np.diff(first.tokens["example"].to_numpy(), prepend=-1))
        self.sizes = np.diff(np.append(self.starts, len(first.tokens)))
        self.values = [_doubles(store.tokens["S"]) for store in self.stores]
        ends = ("base", "p")
        self.ends = [np.stack([_doubles(store.examples[end]) for end in ends], axis=-1) for store in self.stores]
        names, languages = encode_column(first.examples["language"], "language")
        self.rows = {name: np.flatnonzero(languages == i) for i, name in enumerate(names)}
        self._selected: dict[tuple[int, int], Floats] = {}

    def _sets(self, selection: int, threshold: float) -> tuple[Bools, ...]:
        """Which tokens of a store are positive, neutral and negative, bool[tokens, C] each."""
        signs = self.values[selection]
        return signs > threshold, np.abs(signs) <= threshold, signs < -threshold

    def over(self, store: int, selection: int) -> Floats:
        """[thresholds, N, C, 3]: sums of a store's S over another's positive, neutral and negative tokens."""
        if (store, selection) not in self._selected:
            sums = [
                [np.add.reduceat(np.where(chosen, self.values[store], 0.0), self.starts) for chosen in sets]
                for sets in (self._sets(selection, threshold) for threshold in self.thresholds)
            ]
            self._selected[store, selection] = np.moveaxis(np.array(sums), 1, -1)
        return self._selected[store, selection]

    def shares(self, selections: Sequence[int], threshold: float, rows: Ints) -> Floats:
        """[3, C]: shares of a language's tokens in the three sets, mean over the selecting stores."""
        counts = [
            [np.add.reduceat(chosen, self.starts)[rows].sum(axis=0) for chosen in self._sets(selection, threshold)]
            for selection in sorted(set(selections))
        ]
        return np.asarray((np.array(counts) / self.sizes[rows].sum()).mean(axis=0))

    def _parts(self, choices: Sequence[Choice]) -> Floats:
        """[thresholds, N, C, 5], the mean over choices."""
        total: Any = 0.0
        for other, reference, selection in choices:
            moved = self.over(other, selection) - self.over(reference, selection)
            ends = np.broadcast_to(self.ends[other] - self.ends[reference], (*moved.shape[:-1], 2))
            total = total + np.concatenate([moved, ends], axis=-1)
        return np.asarray(total / len(choices))

    def entries(self, choices: Sequence[Choice], resamples: int, seed: int, seeds: int = 1) -> list[dict[str, Any]]:
        """One for each threshold, language and label; a store's place modulo `seeds` is the place of its seed."""
        parts = self._parts(choices)
        left_out = None
        if seeds > 3:
            used = [{place % seeds for place in choice} for choice in choices]
            left = [
                [choice for choice, places in zip(choices, used, strict=True) if i not in places] for i in range(seeds)
            ]
            left_out = np.stack([self._parts(fewer) for fewer in left])
        selections = [selection for _, _, selection in choices]
        found = []
        for (i, threshold), (language, rows) in product(enumerate(self.thresholds), self.rows.items()):
            means = parts[i, rows].mean(axis=0)  # [C, 5]
            bounds: dict[str, Floats | None] = {"intervals": None, "seed_intervals": None}  # [2, C, 5] each
            if resamples:
                bounds["intervals"] = bootstrap_mean(parts[i, rows], resamples, seed)
            if left_out is not None:
                bounds["seed_intervals"] = jackknife_interval(means, left_out[:, i, rows].mean(axis=1))
            shares = self.shares(selections, threshold, rows)
            for j, label in enumerate(self.stores[0].labels):
                entry = {"threshold": threshold, "language": language, "label": label} | _named(PARTS, means[j])
                entry |= {name: pair if pair is None else _named(PARTS, pair[:, j].T) for name, pair in bounds.items()}
                found.append(entry | {"token_shares": _named(SETS, shares[:, j]), "examples": len(rows)})
        return found


def _named(names: Iterable[str], values: Floats) -> dict[str, Any]:
    """{name: value}, JSON-ready."""
    return dict(zip(names, values.tolist(), strict=True))


def _doubles(column: Any) -> Floats:
    """float64[N, C] of a column of a store."""
    return stack(column).astype(np.float64)


def _opened(stores: Iterable[Store]) -> list[AttributionStore]:
    """Stores of the same rows, explained with the same settings."""
    opened = [store if isinstance(store, AttributionStore) else AttributionStore(store) for store in stores]
    first = opened[0]
    names = (*SETTINGS, "seed") if first.manifest["method"] == "shapley" else SETTINGS
    for store, name in product(opened[1:], names):
        ours, theirs = first.manifest[name], store.manifest[name]
        if ours != theirs:
            raise ValueError(
                f"{first.folder} and {store.folder} cannot be compared: {name} is {ours!r} in one and {theirs!r} in "
                "the other. Explain the same rows with the same settings."
            )
    return opened
