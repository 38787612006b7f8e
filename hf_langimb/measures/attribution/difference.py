"""The cumulative difference of two models' attributions, by language and label (arXiv 2402.13016, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_langimb.counts.columns import encode_column
from hf_langimb.measures.attribution import SETS
from hf_langimb.measures.attribution.regression import (
    ROWS_A_COLUMN,
    Population,
    Predictions,
    of_stores,
    population,
    regress,
    regressors,
)
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.measures.intervals import Floats, bootstrap_mean, jackknife_interval, student

THRESHOLDS = (0.001, 0.01, 0.05)
PARTS = (*SETS, "base_difference", "probability_difference")
SETTINGS = ["tokenizer", "data", "labels", "method", "masking", "budget", "budget_unit", "mask_token", "dtype"]
SETTINGS += ["orders", "halves", "design"]
Store = AttributionStore | str | Path
Bools = NDArray[np.bool_]


def cumulative_difference(
    other: Store,
    reference: Store,
    *,
    selection: Store | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    predictions: Mapping[str, Predictions] | None = None,
) -> list[dict[str, Any]]:
    """Sum over tokens of S_other - S_reference, by the sign of the token, averaged over the examples of a language.

    A token is positive for a label if its S in `selection` is above the threshold, negative if it is below minus the
    threshold, else neutral. Positive + neutral + negative equals the difference of the probabilities minus the
    difference of the base values.

    Selecting tokens by the reference and then subtracting the reference causes regression to the mean: even for two
    equally good models, positive tokens fall and negative tokens rise. So compare models of three seeds three times:
    result (other, A), control (B, A), and unbiased form (other, B, selection=A) = result - control (`compare_seeds`).

    Where stores have halves, each half selects tokens once, S is always the mean of both halves, and the two results
    are averaged: selecting tokens by the same estimate that is summed would inflate the sums.

    Args:
        other, reference: stores of two models on the same data.
        selection: the store that decides which tokens are positive; None takes the reference.
        thresholds: of S, in probability.
        resamples, seed: of the bootstrap over examples, which is not used with `predictions`; 0: no intervals (null).
        predictions: {"other": P, "reference": P, "selection": P} (the last with `selection` only): predictions.parquet
            of each model, as a path or table. Then the means are those of all predicted rows, of which the examples are
            a sample: the sums are regressed, by language and label, on what is known of all rows, p - b of the models.
            result - control differs a little from the unbiased form then, except in `compare_seeds`.

    Returns:
        JSON-ready, one entry for each threshold, language and label: `positive`, `neutral`, `negative`,
        `base_difference` and `probability_difference`; `intervals`, their 95% intervals over examples (bootstrap
        percentiles; with predictions from leave-one-out residuals; null for one example), which do not include the
        noise of training; `token_shares` of the three sets (with special tokens, most of which are neutral);
        `examples`. With predictions also `method`: `regression`, or `mean` where a language has too few examples for
        one, and `variance_ratio` of the regression to the mean, by set (null for a mean).

    Raises:
        ValueError: the stores differ in data, tokenizer or settings, the data have no languages, or predictions are
            missing, or of other rows or models.
    """
    stores = {"other": other, "reference": reference} | ({} if selection is None else {"selection": selection})
    known = of_stores(predictions, dict.fromkeys(stores))
    sums = _Sums([*stores.values()], thresholds, resamples, seed, known)
    return sums.compare([Choice(0, 1, len(stores) - 1, ((0, 1),))])


def compare_seeds(
    other: Mapping[Any, Store],
    reference: Mapping[Any, Store],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    predictions: Mapping[str, Mapping[Any, Predictions]] | None = None,
) -> dict[str, Any]:
    """Result, control and unbiased form of two setups, averaged over all ordered tuples of different seeds.

    Args:
        other, reference: stores by seed, with at least one seed in common. All seeds are used: one of `other` and two
            of `reference` give a control.
        thresholds, resamples, seed: as of `cumulative_difference`.
        predictions: {"other": {seed: P}, "reference": {seed: P}}, as of `cumulative_difference`.

    Returns:
        JSON-ready: `result`, `control`, `unbiased` (entries as above, with `seed_intervals`: 95% t intervals by the
        jackknife over seeds, null unless both setups have the same seeds, at least four), `seeds` (common ones),
        `method` of the attributions, `examples`, `truncated_share`. The control and the unbiased form need two seeds of
        `reference`, otherwise they are empty; the latter is result - control if `other` has a third one. With one seed,
        the same for both setups, the result compares two models of that seed.

    Raises:
        ValueError: no common seed, or as `cumulative_difference`.
    """
    if not (seeds := [number for number in other if number in reference]):
        raise ValueError(f"The setups must have a common seed, got {list(other)} and {list(reference)}.")
    known = of_stores(predictions, {"other": other, "reference": reference})
    sums = _Sums([*other.values(), *reference.values()], thresholds, resamples, seed, known)
    forms, every = _forms([*other], [*reference]), [*other, *reference]
    entries = {form: sums.compare(choices, every) if choices else [] for form, choices in forms.items()}
    cut = np.mean([np.asarray(store.examples["truncated"]).mean() for store in sums.stores])
    facts = {"method": sums.stores[0].manifest["method"], "examples": len(sums.stores[0])}
    return {**entries, "seeds": seeds, **facts, "truncated_share": float(cut)}


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


def token_sums(
    store: Store, *, predictions: Predictions | None = None, weights: Floats | None = None
) -> list[dict[str, Any]]:
    """Shares of positive, neutral and negative tokens of one model and the sums of their S, mean over examples.

    Args:
        store: attributions of the model.
        predictions: of the model, as of `cumulative_difference`.
        weights: float64[N], how many rows each example stands for, where there are no predictions.

    Returns:
        JSON-ready, by language and label: `positive`, `neutral`, `negative`, `token_shares`, `examples`; with
        `predictions` or `weights` also `intervals`, 95% over rows.
    """
    given = None if predictions is None else [predictions]
    entries = _Sums([store], 0.01, predictions=given, weights=weights).compare([Choice(0, None, 0)])
    for entry in entries:
        bounds = entry.pop("intervals")
        del entry["seed_intervals"], entry["base_difference"], entry["probability_difference"]
        if bounds:
            entry["intervals"] = {name: bounds[name] for name in SETS}
    return entries


def _forms(other: Sequence[Any], reference: Sequence[Any]) -> dict[str, list[Choice]]:
    """All choices of models of different seeds, given the seeds of the stores of each setup.

    The three forms of a choice are regressed on the same values, so the unbiased form is result - control there too.
    """
    ours = [*enumerate(other)]
    theirs = [*enumerate(reference, start=len(ours))]
    pairs = [(i, a) for (i, one), (a, seed) in product(ours, theirs) if one != seed]
    controls = [(b, a) for (b, _), (a, _) in permutations(theirs, 2)]
    triples = [
        (i, b, a)
        for (i, one), ((b, second), (a, third)) in product(ours, permutations(theirs, 2))
        if one not in (second, third)
    ]
    few = [
        (i, b, a) for (i, one), (b, second), (a, third) in product(ours, theirs, theirs) if third not in (one, second)
    ]
    known = [((i, a), (b, a)) for i, b, a in triples]
    if triples:
        return {
            "result": [Choice(i, a, a, of) for (i, _, a), of in zip(triples, known, strict=True)],
            "control": [Choice(b, a, a, of) for (_, b, a), of in zip(triples, known, strict=True)],
            "unbiased": [Choice(i, b, a, of) for (i, b, a), of in zip(triples, known, strict=True)],
        }
    result = [Choice(i, a, a, ((i, a),)) for i, a in pairs or [(0, len(ours))]]
    control = [Choice(b, a, a, ((b, a),)) for b, a in controls]
    return {"result": result, "control": control, "unbiased": [Choice(i, b, a, ((i, b),)) for i, b, a in few]}


class Choice(NamedTuple):
    """Positions of the stores that are compared, and the pairs of models whose differences are regressed on."""

    other: int
    reference: int | None  # None: the sums of `other` alone
    selection: int
    known: tuple[tuple[int, int], ...] = ()

    def places(self) -> set[int]:
        """Positions of all stores that take part."""
        reference = () if self.reference is None else (self.reference,)
        return {self.other, *reference, self.selection, *chain.from_iterable(self.known)}


class _Estimates(NamedTuple):
    """What was estimated for each threshold, language and class: of each choice, and its intervals."""

    by_choice: Floats  # [choices, thresholds, L, C, 5]
    intervals: Floats | None  # [2, thresholds, L, C, 5]
    ratios: Floats | None = None  # [thresholds, L, C, 3]: variance of the regression over that of the plain mean
    regressed: Any = None  # bool[L]

    def over_seeds(self, choices: Sequence[Choice], seeds: Sequence[Any]) -> Floats | None:
        """[2, thresholds, L, C, 5], intervals given the seeds of the stores: four or more, each in both setups."""
        if len(different := {*seeds}) < 4 or any(seeds.count(seed) != 2 for seed in different):
            return None
        used = [{seeds[place] for place in one.places()} for one in choices]
        left_out = [self.by_choice[[seed not in seen for seen in used]].mean(axis=0) for seed in different]
        return jackknife_interval(self.by_choice.mean(axis=0), np.stack(left_out))


class _Sums:
    """Sums of S over the tokens that a store selects, for all examples, classes and thresholds of several stores."""

    def __init__(
        self,
        stores: Sequence[Store],
        thresholds: Any,
        resamples: int = 0,
        seed: int = 0,
        predictions: Sequence[Predictions] | None = None,
        weights: Floats | None = None,
    ) -> None:
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
        self.population = None if weights is None else Population(weights)
        if predictions is not None:
            self.population = population(predictions, self.stores, self.names)
        begins = np.diff(first.tokens["example"].to_numpy(), prepend=-1) != 0
        self.starts, self.examples = np.flatnonzero(begins), np.cumsum(begins) - 1  # of each token
        self.values = [_doubles(store.tokens["S"]) for store in self.stores]
        ends = ("base", "p")
        self.ends = np.stack([np.stack([_doubles(one.examples[end]) for end in ends], axis=-1) for one in self.stores])
        self._over: dict[tuple[int, int], Floats] = {}

    def _sets(self, selection: int, threshold: float) -> Bools:
        """[halves, 3, tokens, C]: which tokens are positive, neutral and negative by each half of a store's values."""
        store = self.stores[selection]
        signs = store.halves.astype(np.float64) if store.has_halves else self.values[selection][None]
        return np.stack([signs > threshold, np.abs(signs) <= threshold, signs < -threshold], axis=1)

    def over(self, store: int, selection: int) -> Floats:
        """[thresholds, N, C, 3]: sums of a store's S over another's positive, neutral and negative tokens.

        Each half selects tokens once, and the two sums are averaged (see `cumulative_difference`).
        """
        if (store, selection) not in self._over:
            sums = []
            for threshold in self.thresholds:
                halves = [np.where(chosen, self.values[store], 0.0) for chosen in self._sets(selection, threshold)]
                sums.append(np.mean([np.add.reduceat(half, self.starts, axis=1) for half in halves], axis=0))
            self._over[store, selection] = np.moveaxis(np.array(sums), 1, -1)
        return self._over[store, selection]

    def _parts(self, choice: Choice) -> Floats:
        """[thresholds, N, C, 5] of a choice of stores."""
        moved, ends = self.over(choice.other, choice.selection), self.ends[choice.other]
        if choice.reference is not None:
            moved = moved - self.over(choice.reference, choice.selection)
            ends = ends - self.ends[choice.reference]
        return np.concatenate([moved, np.broadcast_to(ends, (*moved.shape[:-1], 2))], axis=-1)

    def compare(self, choices: Sequence[Choice], seeds: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Entries with intervals; `seeds` are those of the stores, of which four give an interval over seeds."""
        found = self._by_means(choices) if self.population is None else self._by_regression(choices, self.population)
        means, over_seeds = found.by_choice.mean(axis=0), found.over_seeds(choices, seeds)
        selections = sorted({one.selection for one in choices})
        entries = []
        for (i, threshold), (k, language) in product(enumerate(self.thresholds), enumerate(self.names)):
            inside, rows = self.languages[self.examples] == k, int((self.languages == k).sum())
            halves = [self._sets(one, threshold)[:, :, inside].mean(axis=(0, 2)) for one in selections]
            shares = np.mean(halves, axis=0)
            over_rows = found.intervals if rows > 1 else None  # of one row nothing is known
            for j, label in enumerate(self.stores[0].labels):
                place = i, k, j
                entry = {"threshold": threshold, "language": language, "label": label} | _named(PARTS, means[place])
                for name, bounds in (("intervals", over_rows), ("seed_intervals", over_seeds)):
                    entry[name] = None if bounds is None else _named(PARTS, bounds[:, *place].T)
                entry |= {"token_shares": _named(SETS, shares[:, j]), "examples": rows}
                if found.ratios is not None and self.population and self.population.ends is not None:
                    regressed = found.regressed[k]
                    ratios = _named(SETS, found.ratios[place]) if regressed else None
                    entry |= {"method": "regression" if regressed else "mean", "variance_ratio": ratios}
                entries.append(entry)
        return entries

    def _by_means(self, choices: Sequence[Choice]) -> _Estimates:
        """Means over the examples of each language, with bootstrap intervals."""
        rows = [np.flatnonzero(self.languages == k) for k in range(len(self.names))]
        total: Any = 0.0
        by_choice = []
        for choice in choices:
            parts = self._parts(choice)
            by_choice.append(np.stack([parts[:, here].mean(axis=1) for here in rows], axis=1))
            total = total + parts
        bounds = None
        if self.resamples:
            parts = np.asarray(total / len(choices))
            resampled = [[bootstrap_mean(of[here], self.resamples, self.seed) for here in rows] for of in parts]
            bounds = np.moveaxis(np.array(resampled), 2, 0)
        return _Estimates(np.array(by_choice), bounds)

    def _by_regression(self, choices: Sequence[Choice], everything: Population) -> _Estimates:
        """Means over all rows of each language, with intervals of leave-one-out residuals.

        A regression on predictions, or a weighted mean of the explained rows where there are no predictions, or too few
        rows.
        """
        shape = len(self.thresholds), len(self.names), len(self.stores[0].labels)
        by_choice, intervals = np.zeros((len(choices), *shape, 5)), np.zeros((2, *shape, 5))
        ratios, regressed = np.zeros((*shape, 3)), np.zeros(shape[1], dtype=bool)
        columns = 2 + 2 * len(choices[0].known)
        for k in range(shape[1]):
            here, count = np.flatnonzero(self.languages == k), len(choices)
            weights, ends, ours = everything.weights[here], None, np.ones((shape[2], len(here), 1))
            if everything.ends is not None and len(here) >= ROWS_A_COLUMN * columns:
                ends, regressed[k] = everything.ends[:, np.flatnonzero(everything.languages == k)], True
            influence, plain, fitted = (np.zeros((shape[2], n, shape[0], 5)) for n in (len(here), len(here), 1))
            for number, choice in enumerate(choices):
                values = self._parts(choice)[:, here].transpose(2, 1, 0, 3)  # [C, n, thresholds, 5]
                flat = values.reshape(*values.shape[:2], -1)
                alone = regress(flat, ours, ours[:, 0], weights)
                plain += alone.influence.reshape(values.shape) / count
                if ends is None:
                    by_choice[number, :, k] = alone.estimate.reshape(shape[2], -1, 5).transpose(1, 0, 2)
                    influence = plain
                    continue
                effects = [of[..., 1] - of[..., 0] for of in (self.ends[:, here], ends)]
                sampled, all_rows = (regressors(of, choice.selection, choice.known) for of in effects)
                found = regress(flat, sampled, all_rows.mean(axis=1), weights)
                fit = (all_rows @ found.coefficients).reshape(shape[2], all_rows.shape[1], -1, 5)
                moved = ends[choice.other] - (0.0 if choice.reference is None else ends[choice.reference])
                fit[..., 3:] = moved.transpose(1, 0, 2)[:, :, None]  # both ends are known of all rows
                by_choice[number, :, k] = fit.mean(axis=1).transpose(1, 0, 2)
                influence += found.influence.reshape(values.shape) / count
                fitted = fitted + fit / count
            if ends is not None:
                influence[..., 3:] = 0.0
            variance, of_means = ((of**2).sum(axis=1) for of in (influence, plain))
            spread = variance + fitted.var(axis=1) / fitted.shape[1]
            degrees = max(len(here) - (columns if regressed[k] else 1), 1)
            half = student(degrees + 1) * np.sqrt(spread).transpose(1, 0, 2)
            mean = by_choice[:, :, k].mean(axis=0)
            intervals[:, :, k] = mean - half, mean + half
            both = variance[..., :3], of_means[..., :3]
            ratios[:, k] = np.divide(*both, out=np.ones_like(both[0]), where=both[1] > 0).transpose(1, 0, 2)
        return _Estimates(by_choice, intervals, ratios, regressed)


def _named(names: Iterable[str], values: Floats) -> dict[str, Any]:
    """{name: value}, JSON-ready; as many names as there are values."""
    return dict(zip(names, values.tolist(), strict=False))


def _doubles(column: Any) -> Floats:
    """float64[N, C] of a column of a store."""
    return stack(column).astype(np.float64)


def _opened(stores: Iterable[Store]) -> list[AttributionStore]:
    """Stores of the same rows, explained with the same settings; of batches, as many as all of them have."""
    opened = [store if isinstance(store, AttributionStore) else AttributionStore(store) for store in stores]
    numbers = {len(store.batches) for store in opened}
    if min(numbers) and len(numbers) > 1:
        opened = [AttributionStore(store.folder, batches=min(numbers)) for store in opened]
    first = opened[0]
    names = SETTINGS if first.manifest["method"] == "owen" else [*SETTINGS, "seed"]  # draws of others differ
    for store, name in product(opened[1:], names):
        ours, theirs = first.manifest.get(name), store.manifest.get(name)
        if ours != theirs:
            raise ValueError(
                f"{first.folder} and {store.folder} cannot be compared: {name} is {ours!r} in one and {theirs!r} in "
                "the other. Explain the same rows with the same settings."
            )
    return opened
