"""The verdict of a run: is language a shortcut of its model, do class weights remove it, and which setup to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from hf_langimb.console import listed, shown
from hf_langimb.counts.audit import Audit, used_axes
from hf_langimb.measures import shortcut
from hf_langimb.measures.dependence import Sampled
from hf_langimb.measures.intervals import information_interval
from hf_langimb.measures.shortcut import NOT_MEASURED, Answer, Finding, of_models, of_pairs
from hf_langimb.measures.targets import information
from hf_langimb.results.schema import TEXTS, Attributions, Recommendation, Verdict
from hf_langimb.results.summary import Roles
from hf_langimb.results.tables import shown_entries, shown_interval

RESAMPLES = 1000  # of the training rows
NOT_LEARNED = "it is not shown that the model has learned the task"
LEARN = "; train longer or on more rows, use more test rows, or choose another model"
ONE_LANGUAGE = "the training data are in one language"
UNKNOWN_LINK = "it is not known whether labels depend on language in the training data"
NO_CURE = (
    "no setup lowers the dependence enough; collect rows for rare combinations of language and label, or try other "
    "class weights"
)
COSTLY = (
    "the setup '{cure}' lowers the dependence, but lowers accuracy by more than {margin:g}; if that is acceptable, run "
    "again with a larger --accuracy_margin"
)
HOPELESS = 20  # if this many times the present rows are needed, no number is reported
QUESTIONS = {
    "link": "Do labels depend on language in the training data?",
    "dependence": "Do the predictions of {setup} depend on language, beyond what the labels explain?",
    "follows_skew": "Do the predictions of {setup} follow the skew of the training labels?",
    "caused_by_link": "Is the dependence lower if balanced data or class weights remove the link between language and "
    "label from training ({setup} - {reference})?",
    "shortcut": "Does {setup} use language as a shortcut?",
    "cure": "Is the dependence of {setup} lower than that of {reference}?",
    "accuracy": "Is the accuracy of {setup} at most {delta:g} below that of {reference}, on test rows weighted to "
    "remove the link?",
    "languages": "Are there languages in which {setup} predicts differently for the same labels?",
    "probe": "Is the language easier to identify from the features of {setup} than from those of {reference}, on "
    "{text} text?",
    "tokens": "Do neutral tokens add more to labels in languages that over-represent them ({setup} - {reference})?",
}
RULE = (
    "the setup with the lowest dependence, of those whose dependence is lower than that of {subject} (paired interval "
    "below 0) and whose accuracy is not clearly lower by more than {margin:g} (paired interval not entirely below "
    "-{margin:g}); measured on validation rows weighted to remove the link"
)


@dataclass(frozen=True)
class Sizes:
    """What counts: `bits` of link and dependence, skew `transfer`, and the accuracy, `margin`, that a cure may cost."""

    bits: float = shortcut.MATERIAL_BITS
    transfer: float = shortcut.MATERIAL_TRANSFER
    margin: float = shortcut.ACCURACY_MARGIN


@dataclass(frozen=True)
class Judge:
    """What a verdict is read from.

    Args:
        roles: which setup is asked about, and which ones it is compared with.
        metrics: METRICS by setup and seed.
        samples: resampled measures of the same models on the rows of `test` and `validation`, by setup and seed.
        training: AUDIT of the training data of `roles.subject`; None where they are not known.
        validation_rows: number of rows that the recommendation is chosen on.
        sizes: the thresholds.
    """

    roles: Roles
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    samples: Mapping[tuple[str, str], Mapping[str, Sampled]]
    training: Audit | None
    validation_rows: int
    sizes: Sizes = Sizes()

    def verdict(self) -> Iterator[Verdict]:
        """The answers, in the order in which they are read."""
        subject, control, cures = self.roles.subject, self.roles.control, self.roles.mitigations
        if subject is None:
            return
        other = self.roles.pair[1] if self.roles.pair else None
        link, cause = self._link(), self._cause(subject, other) if other else NOT_MEASURED
        yield _entry("link", link, subject)
        problem = "" if self._learned[subject] else NOT_LEARNED
        if self.training and used_axes(np.array(self.training["counts"]))[0] < 2:
            problem = ONE_LANGUAGE
        if problem:
            yield _entry("shortcut", NOT_MEASURED, subject, detail=problem)
            return
        dependence, direction = self._dependence(subject), self._direction(subject, cause)
        yield _entry("dependence", dependence, subject)
        left_out = next(iter(self._without_link(subject).values()))["left_out"]
        entry = _entry("follows_skew", direction, subject)
        yield (
            {**entry, "note": f"without {listed(map(shown, left_out))}: test rows lack a label there"}
            if left_out
            else entry
        )
        if other:
            yield _entry("caused_by_link", cause, subject, other)
        answer = shortcut.shortcut(link, dependence, direction, cause)
        failed = len(self.metrics[subject]) - len(self._learned[subject])
        detail = f"without {failed} of {len(self.metrics[subject])} models, which have not learned the task"
        found = Finding(answer, basis=dependence.basis, agree=detail if failed else "")
        yield _entry("shortcut", found, subject, other)
        for cure in cures:
            found = self._cause(subject, cure)
            yield _entry("cure", found, cure, subject, NOT_LEARNED if found is NOT_MEASURED else "")
        for setup, reference in [(subject, control)] * bool(control) + [(cure, subject) for cure in cures]:
            yield _entry("accuracy", self._accuracy(setup, str(reference)), setup, reference)
        yield self._languages(subject)
        for setup, reference in [(subject, other)] * bool(other) + [(cure, subject) for cure in cures if control]:
            for text in TEXTS:
                yield from self._probe(setup, str(reference), text)

    def recommendation(self, verdict: Sequence[Verdict]) -> Recommendation | None:
        """The setup to use, chosen on validation rows; None where no cure was trained."""
        subject, cures = self.roles.subject, self.roles.mitigations
        if subject is None or not cures:
            return None
        answer, detail = next((entry["answer"], entry["detail"]) for entry in verdict if entry["name"] == "shortcut")
        setup, reason = self._best(subject, cures)
        if answer == "not measured":
            setup, reason = None, f"{detail or UNKNOWN_LINK}{LEARN if detail == NOT_LEARNED else ''}"
        elif answer == "no":
            setup, reason = subject, "no shortcut was found"
        rule = RULE.format(subject=subject, margin=self.sizes.margin)
        return {"setup": setup, "reason": reason, "rule": rule, "chosen_on": "validation"}

    def _best(self, subject: str, cures: Sequence[str]) -> tuple[str | None, str]:
        """The cure to use, or none, and why."""
        candidates, reasons = [], []
        for cure in cures:
            seeds, pair = self._pair(cure, subject, "validation")
            if not seeds:
                reasons.append((np.inf, f"the setup '{cure}': {NOT_LEARNED}"))
                continue
            fall = of_pairs(_values(pair, "bits"), *pair, "bits", 0)
            accuracy = of_pairs(_values(pair, "accuracy"), *pair, "accuracy", -self.sizes.margin)
            low, value, high = fall.low or 0.0, fall.value or 0.0, fall.high or 0.0
            if fall.answer == "no" and accuracy.answer != "no":  # no: the interval lies below
                candidates.append((value, -(accuracy.value or 0.0), cure))
            elif fall.answer == "no":
                reasons.append((0.0, COSTLY.format(cure=cure, margin=self.sizes.margin)))
            elif low < -self.sizes.bits:  # a fall that counts is possible
                needed = ((high - low) / 2 / value) ** 2 if value < 0 else np.inf
                reasons.append((needed, _too_few(cure, self.validation_rows, needed)))
        if candidates:
            most = " most" if len(cures) > 1 else ""
            return min(candidates)[2], f"it lowers the dependence{most}, without a clear loss of accuracy"
        return None, min(reasons)[1] if reasons else NO_CURE

    def _link(self) -> Finding:
        """Whether labels depend on language in the training data."""
        if self.training is None or min(used_axes(counts := np.array(self.training["counts"]))) < 2:
            return NOT_MEASURED
        rows, bits = int(counts.sum()), self.training["mutual_information_bits"]
        drawn = np.random.default_rng(0).multinomial(rows, counts.ravel() / rows, size=RESAMPLES)
        chance, resampled = (
            self.training["mutual_information_chance_bits"],
            information(drawn.reshape(-1, *counts.shape)),
        )
        low, high = map(float, information_interval(bits, resampled, chance))
        answer = shortcut.answer(low, high, self.sizes.bits)
        return Finding(answer, bits - chance, low, high, self.sizes.bits)

    def _without_link(self, setup: str) -> dict[str, Any]:
        """Measures under the target `independent`, by seed."""
        return {seed: of["targets"]["independent"] for seed, of in self._learned[setup].items()}

    @cached_property
    def _learned(self) -> dict[str, dict[str, Any]]:
        """METRICS of the models that are right more often than always predicting the most frequent label would be."""

        def learned(of: Any) -> bool:
            """Whether the interval of the accuracy says so."""
            found = of["targets"]["independent"]
            return bool(found["intervals"]["accuracy"][0] > found["majority_accuracy"])

        return {name: {seed: of for seed, of in seeds.items() if learned(of)} for name, seeds in self.metrics.items()}

    def _models(self, setup: str) -> list[Sampled]:
        """The resampled measures of a setup's models on test rows."""
        return [self.samples[setup, seed]["test"] for seed in self._learned[setup]]

    def _pair(self, setup: str, other: str, split: str) -> tuple[list[str], tuple[list[Sampled], list[Sampled]]]:
        """The seeds that two setups share, and their resampled measures."""
        seeds = [seed for seed in self._learned[setup] if seed in self._learned[other]]
        ours, theirs = ([self.samples[name, seed][split] for seed in seeds] for name in (setup, other))
        return seeds, (ours, theirs)

    def _dependence(self, setup: str) -> Finding:
        """Whether predictions depend on language beyond chance."""
        values = [of["dependence_bits_corrected"] for of in self._without_link(setup).values()]
        return of_models(values, self._models(setup), "bits", self.sizes.bits)

    def _direction(self, setup: str, cause: Finding) -> Finding:
        """Whether predictions follow the skew of the training labels."""
        found = [*self._without_link(setup).values()]
        slopes = [of["skew_transfer"] for of in found]
        if None in slopes or self.training is None:
            return NOT_MEASURED
        slope = of_models(slopes, self._models(setup), "slope", self.sizes.transfer)
        p = [of["skew_permutation_p"] for of in found]
        return shortcut.follows(slope, p, used_axes(np.array(self.training["counts"]))[0], cause)

    def _cause(self, setup: str, other: str) -> Finding:
        """Whether the dependence of a setup is larger than that of another, which was trained without the link."""
        seeds, pair = self._pair(setup, other, "test")
        if not seeds:
            return NOT_MEASURED
        found = [[self._without_link(name)[seed] for seed in seeds] for name in (setup, other)]
        key = "dependence_bits_corrected"
        falls = [a[key] - b[key] for a, b in zip(*found, strict=True)]
        bits = of_pairs(falls, *pair, "bits", self.sizes.bits)
        slopes = of_pairs(_values(pair, "slope"), *pair, "slope", self.sizes.transfer)
        return shortcut.caused(bits, slopes)

    def _accuracy(self, setup: str, other: str) -> Finding:
        """Whether the accuracy of a setup is above that of another, less the margin."""
        _, pair = self._pair(setup, other, "test")
        found = of_pairs(_values(pair, "accuracy"), *pair, "accuracy", -self.sizes.margin)
        return replace(found, delta=-self.sizes.margin)  # also where it is not measured

    def _probe(self, setup: str, other: str, text: Literal["test", "external"]) -> Iterator[Verdict]:
        """Whether the language is easier to identify from the features of a setup; both probes read the same rows."""
        seeds = [seed for seed in self._learned[setup] if seed in self._learned[other]]
        pairs = [[self._learned[name][seed]["probe"][text] for name in (setup, other)] for seed in seeds]
        if None in [probe for pair in pairs for probe in pair]:
            return
        values = [a["accuracy"] - b["accuracy"] for a, b in pairs]
        variances = [sum(p["accuracy"] * (1 - p["accuracy"]) / p["groups"] for p in pair) for pair in pairs]
        halves = 1.96 * np.sqrt(variances)  # of independent samples, which is wider
        ends = [np.array([value - half, value + half]) for value, half in zip(values, halves, strict=True)]
        found = shortcut.over_models(values, ends, shortcut.MATERIAL_PROBE)
        yield _entry("probe", found, setup, other, text=text)

    def _languages(self, setup: str) -> Verdict:
        """In which languages each model's predictions differ, and materially on average; the farthest first."""
        shifts = [of["shift"] for of in self._learned[setup].values()]
        far = {name: float(np.mean([of[name]["total_variation"] for of in shifts])) for name in shifts[0]}
        sure = [name for name in far if all((p := of[name]["p"]) is not None and p < 0.05 for of in shifts)]
        found = sorted((name for name in sure if far[name] > shortcut.MATERIAL_SHIFT), key=lambda name: -far[name])
        answer: Answer = "yes" if found else "no" if max(far.values()) < shortcut.MATERIAL_SHIFT else "unclear"
        entry = _entry("languages", Finding(answer, max(far.values()), delta=shortcut.MATERIAL_SHIFT), setup)
        return {**entry, "languages": found}


def tokens_verdict(found: Attributions, marks: Mapping[tuple[str, str], int]) -> list[Verdict]:
    """The paper's finding on neutral tokens: do they count more in each over-represented label of a language?

    Answered by the form without selection bias, over seeds where there are intervals over them; not at all without it.

    Args:
        found: the difference between two setups.
        marks: 1 for each (label, language) that is over-represented in training.
    """
    cells = [one for one in shown_entries(found, "unbiased") if marks.get((one["label"], one["language"])) == 1]
    ends = [bounds for one in cells if (bounds := shown_interval(one, "neutral"))]
    if not cells or len(ends) < len(cells):
        return []
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    answer: Answer = "yes" if low > 0 else "no" if high < 0 else "unclear"
    basis: Literal["seeds", "rows"] = "seeds" if all(one["seed_intervals"] for one in cells) else "rows"
    above = sum(end[0] > 0 for end in ends)
    value = sum(one["neutral"] for one in cells) / len(cells)
    detail = f"in {above} of {len(cells)} cells of language and label the interval is above 0"
    return [_entry("tokens", Finding(answer, value, low, high, 0.0, basis), found["setup"], found["reference"], detail)]


def _values(pair: tuple[Sequence[Sampled], Sequence[Sampled]], measure: str) -> list[float]:
    """Differences of a measure between models."""
    return [a.values[measure] - b.values[measure] for a, b in zip(*pair, strict=True)]


def _too_few(cure: str, rows: int, times: float) -> str:
    """Why it is unclear whether the dependence falls, and how many times the rows would be enough, to two digits."""
    few = f"{rows:,} validation rows are too few to tell whether the setup '{cure}' lowers the dependence"
    if times >= HOPELESS:
        return f"{few}: add rows, or train several seeds (--seeds 5)"
    needed = max(times, 2) * rows  # with about as many rows it would be a matter of luck
    digits = 10 ** max(len(str(int(needed))) - 2, 0)
    return f"{few}; about {int(np.ceil(needed / digits)) * digits:,} would be enough"


def _entry(
    name: str, found: Finding, setup: str, reference: str | None = None, detail: str = "", text: str = ""
) -> Verdict:
    """An entry of the verdict; `text` is what a probe read."""
    delta = -found.delta if name == "accuracy" and found.delta else found.delta
    return {
        "name": name,
        "question": QUESTIONS[name].format(setup=setup, reference=reference, delta=delta, text=text),
        "answer": found.answer,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "delta": found.delta,
        "basis": found.basis,
        "setup": setup,
        "reference": reference,
        "detail": detail or found.agree,
    }
