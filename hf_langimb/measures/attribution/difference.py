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
    equally good models, positive tokens fall and negative tokens rise. So compare models of three seeds three times:
    result (other, A), control (B, A), and unbiased form (other, B, selection=A) = result - control (`compare_seeds`).

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
    stores = [other, reference, reference if selection is None else selection]
    return _Sums(stores, thresholds, resamples, seed).compare([(0, 1, 2)])


def compare_seeds(
    other: Mapping[Any, Store],
    reference: Mapping[Any, Store],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Result, control and unbiased form of two setups, averaged over all ordered tuples of different seeds.

    `other` and `reference` are by seed; the seeds of both are used.

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
    stores, count = [setup[number] for setup in (other, reference) for number in seeds], len(seeds)
    sums = _Sums(stores, thresholds, resamples, seed)
    pairs = list(permutations(range(count), 2)) or [(0, 0)]
    forms = {
        "result": [(i, count + a, count + a) for i, a in pairs],
        "control": [(count + b, count + a, count + a) for b, a in pairs if b != a],
        "unbiased": [(i, count + b, count + a) for i, b, a in permutations(range(count), 3)],
    }
    entries = {form: sums.compare(choices, count) if choices else [] for form, choices in forms.items()}
    cut = np.mean([np.asarray(store.examples["truncated"]).mean() for store in sums.stores])
    return {**entries, "seeds": seeds, "examples": len(sums.stores[0]), "truncated_share": float(cut)}


def base_values(stores: Mapping[Any, Store]) -> dict[str, Any]:
    """How much base values (p with every token masked) differ between the seeds of a setup, and between texts.

    Attributions of two models are comparable only if both have similar base values; the masked-input entropy loss moves
    them all to 1/C. `stores` are by seed, on the same data.

    Returns:
        JSON-ready: `mean` {label: float} over seeds and examples, and mean standard deviations: `over_seeds`, of an
        example's base value (null for one seed); `over_examples`, within a model (null for one example).
    """
    opened = _opened(stores.values())
    bases = np.stack([_doubles(store.examples["base"]) for store in opened])  # [seeds, N, C]
    spreads = [float(bases.std(axis=i, ddof=1).mean()) if bases.shape[i] > 1 else None for i in (0, 1)]
    means = _named(opened[0].labels, bases.mean(axis=(0, 1)))
    return {"mean": means, "over_seeds": spreads[0], "over_examples": spreads[1]}


def token_sums(store: Store) -> list[dict[str, Any]]:
    """Shares of positive, neutral and negative tokens of one model and the sums of their S, mean over examples.

    JSON-ready, by language and label: `positive`, `neutral`, `negative`, `token_shares`, `examples`.
    """
    sums = _Sums([store], 0.01)
    entries = sums.entries(sums.over(0, 0), [0])
    return [{name: value for name, value in entry.items() if "intervals" not in name} for entry in entries]


class _Sums:
    """Sums of S over the tokens that a store selects, for all examples, classes and thresholds of several stores."""

    def __init__(self, stores: Sequence[Store], thresholds: Any, resamples: int = 0, seed: int = 0) -> None:
        self.stores, self.resamples, self.seed = _opened(stores), resamples, seed
        self.thresholds = np.atleast_1d(np.asarray(thresholds, dtype=np.float64)).tolist()
        first, problem = self.stores[0], None
        if not self.thresholds or not all(value >= 0 for value in self.thresholds):
            problem = f"thresholds must be one or more values of S, each 0 or above, got {thresholds!r}."
        elif without := first.examples["language"].null_count:
            problem = (
                f"Attributions by language need a language column in the data; {without:,} of {len(first):,} examples "
                "have no language: add the column and explain them again."
            )
        if problem:
            raise ValueError(problem)
        self.names, self.languages = encode_column(first.examples["language"], "language")
        self.examples = first.tokens["example"].to_numpy()  # of each token
        self.starts = np.flatnonzero(np.diff(self.examples, prepend=-1))
        self.values = [_doubles(store.tokens["S"]) for store in self.stores]
        ends = ("base", "p")
        self.ends = [np.stack([_doubles(store.examples[end]) for end in ends], axis=-1) for store in self.stores]
        self._over: dict[tuple[int, int], Floats] = {}

    def _sets(self, selection: int, threshold: float) -> Bools:
        """[3, tokens, C]: which tokens of a store are positive, neutral and negative."""
        signs = self.values[selection]
        return np.stack([signs > threshold, np.abs(signs) <= threshold, signs < -threshold])

    def over(self, store: int, selection: int) -> Floats:
        """[thresholds, N, C, 3]: sums of a store's S over another's positive, neutral and negative tokens."""
        if (store, selection) not in self._over:
            chosen = (self._sets(selection, threshold) for threshold in self.thresholds)
            sums = [np.add.reduceat(np.where(of, self.values[store], 0.0), self.starts, axis=1) for of in chosen]
            self._over[store, selection] = np.moveaxis(np.array(sums), 1, -1)
        return self._over[store, selection]

    def _parts(self, choices: Sequence[Choice]) -> Floats:
        """[thresholds, N, C, 5], the mean over choices."""
        total: Any = 0.0
        for other, reference, selection in choices:
            moved = self.over(other, selection) - self.over(reference, selection)
            ends = np.broadcast_to(self.ends[other] - self.ends[reference], (*moved.shape[:-1], 2))
            total = total + np.concatenate([moved, ends], axis=-1)
        return np.asarray(total / len(choices))

    def compare(self, choices: Sequence[Choice], seeds: int = 1) -> list[dict[str, Any]]:
        """Entries with intervals; a store's place modulo `seeds` is the place of its seed."""
        parts, left_out = self._parts(choices), None
        if seeds > 3:
            left = [[one for one in choices if i not in {place % seeds for place in one}] for i in range(seeds)]
            left_out = np.stack([self._parts(fewer) for fewer in left])
        return self.entries(parts, sorted({selection for _, _, selection in choices}), left_out)

    def entries(self, parts: Floats, selections: Sequence[int], left_out: Any = None) -> list[dict[str, Any]]:
        """One for each threshold, language and label, from parts [thresholds, N, C, K], also without each seed."""
        found = []
        for (i, threshold), (k, language) in product(enumerate(self.thresholds), enumerate(self.names)):
            rows, inside = np.flatnonzero(self.languages == k), self.languages[self.examples] == k
            means = parts[i, rows].mean(axis=0)  # [C, K]
            bounds: dict[str, Floats | None] = {"intervals": None, "seed_intervals": None}  # [2, C, K] each
            if self.resamples:
                bounds["intervals"] = bootstrap_mean(parts[i, rows], self.resamples, self.seed)
            if left_out is not None:
                bounds["seed_intervals"] = jackknife_interval(means, left_out[:, i, rows].mean(axis=1))
            shares = np.mean([self._sets(one, threshold)[:, inside].mean(axis=1) for one in selections], axis=0)
            for j, label in enumerate(self.stores[0].labels):
                entry = {"threshold": threshold, "language": language, "label": label} | _named(PARTS, means[j])
                entry |= {name: pair if pair is None else _named(PARTS, pair[:, j].T) for name, pair in bounds.items()}
                found.append(entry | {"token_shares": _named(SETS, shares[:, j]), "examples": len(rows)})
        return found


def _named(names: Iterable[str], values: Floats) -> dict[str, Any]:
    """{name: value}, JSON-ready; as many names as there are values."""
    return dict(zip(names, values.tolist(), strict=False))


def _doubles(column: Any) -> Floats:
    """float64[N, C] of a column of a store."""
    return stack(column).astype(np.float64)


def _opened(stores: Iterable[Store]) -> list[AttributionStore]:
    """Stores of the same rows, explained with the same settings."""
    opened = [store if isinstance(store, AttributionStore) else AttributionStore(store) for store in stores]
    first = opened[0]
    names = (*SETTINGS, "seed") if first.manifest["method"] == "shapley" else SETTINGS
    for store, name in product(opened[1:], names):
        ours, theirs = first.manifest.get(name), store.manifest.get(name)
        if ours != theirs:
            raise ValueError(
                f"{first.folder} and {store.folder} cannot be compared: {name} is {ours!r} in one and {theirs!r} in "
                "the other. Explain the same rows with the same settings."
            )
    return opened
