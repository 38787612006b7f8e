"""Numbers computed once from a run's measures: intervals over seeds, paired differences, and which cells are skewed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hf_langimb.console import shown
from hf_langimb.measures.intervals import student
from hf_langimb.results.schema import Comparison, Interval, Metrics, Results, Setup

SAMPLING = ("sampling", "language_temperature", "language_schedule")  # options of a setup
SETTINGS = ("rows", "groups", "folds", "layer", "C")  # numbers that are not measures
COMPARED = (
    "test.accuracy",
    "test.dependence_bits",
    "test.dependence_bits_corrected",
    "test.reliance",
    "test.skew_transfer",
    "targets.independent.accuracy",
    "targets.independent.dependence_bits_corrected",
    "targets.independent.reliance",
    "targets.independent.skew_transfer",
    "probe.test.accuracy",
    "probe.external.accuracy",
)


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% t interval over seeds; low and high are None for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": 1}
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student(n) * deviation / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def summarize(seeds: Mapping[str, Metrics]) -> dict[str, Interval]:
    """Intervals over seeds of every scalar measure, by dotted name, for those each seed has."""
    flat = [measures_of(metrics) for metrics in seeds.values()]
    return {name: interval([metrics[name] for metrics in flat]) for name in flat[0] if all(name in m for m in flat)}


def compare(setups: Mapping[str, Setup]) -> list[Comparison]:
    """Per-seed paired differences, each setup against every setup before it, over the seeds that both have."""
    flat = {name: {seed: measures_of(of) for seed, of in setup["seeds"].items()} for name, setup in setups.items()}
    names = list(setups)
    comparisons: list[Comparison] = []
    for setup, reference in ((setup, reference) for i, setup in enumerate(names) for reference in names[:i]):
        pairs = [(ours, flat[reference][seed]) for seed, ours in flat[setup].items() if seed in flat[reference]]
        for metric in COMPARED:
            if differences := [a[metric] - b[metric] for a, b in pairs if metric in a and metric in b]:
                difference = interval(differences)
                comparisons.append({"metric": metric, "setup": setup, "reference": reference, "difference": difference})
    return comparisons


def measures_of(metrics: Metrics) -> dict[str, float]:
    """Every scalar measure of one trained model's `test`, `targets` and `probe`, by dotted name."""
    parts: dict[str, Any] = {"test": metrics["test"], "targets": metrics.get("targets", {}), "probe": metrics["probe"]}
    return dict(_scalars(parts | {"extra": metrics.get("extra", {})}))


def _scalars(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, value) of the numbers in nested objects that are measures."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in SETTINGS:
            yield f"{prefix}{key}", value


WEIGHTS_TEXT = {
    "per_language": "class weights that make labels uniform in each language",
    "independence": "class weights that make labels independent of language",
    "joint": "class weights that give every combination of language and label the same influence",
    "class": "class weights that make labels uniform over all data",
    "effective_number": "class weights by the effective number of rows of each combination of language and label",
    "own": "your class weights",
    "group_dro": "class weights that grow where the loss is large",
}
MEASURED_ONLY = ("evaluate", "correct", "refit")  # instead of recipes that train
CHANGED_TEXT = {
    "corrected": "a bias added to its logits in each language",
    "refitted": "its last layer refitted on held-out rows",
    "erased": "language erased from the features, and its last layer refitted",
}
OBJECTIVES_TEXT = {
    "focal": "the focal loss",
    "logit_adjustment": "logits adjusted by the share of each label in the language",
    "logit_adjustment_independence": "logits adjusted by the share of each label in the language relative to all data",
}


class Roles(NamedTuple):
    """What the setups of a run are for."""

    subject: str | None  # trained on the skewed data, without weights: does it use language as a shortcut?
    control: str | None  # trained without a link of language and label
    cures: tuple[str, ...]  # trained on the data of the subject, with weights that remove the link
    others: tuple[str, ...] = ()  # with other weights, sampling or another objective

    @property
    def mitigations(self) -> tuple[str, ...]:
        """All that may be recommended instead of the subject."""
        return self.cures + self.others

    @property
    def pair(self) -> tuple[str, str] | None:
        """The subject and what it is compared with."""
        other = self.control or next(iter(self.cures), None)
        return (self.subject, other) if self.subject and other else None


def roles_of(setups: Mapping[str, Any]) -> Roles:
    """What each setup is for, by its plan and settings; variants with other settings than the subject have no role.

    The subject is the first setup on skewed data: preferably one without weights, and one that a setup on balanced data
    can be compared with.
    """

    def settings(name: str) -> tuple[float, int]:
        """What the setups that are compared must share."""
        return setups[name]["masked_entropy_weight"], setups[name]["lora_rank"]

    plain = [name for name, setup in setups.items() if is_plain(setup)]
    skewed = [name for name in plain if setups[name]["plan"] != "balanced"]
    skewed = skewed or [name for name in setups if setups[name]["plan"] != "balanced"]
    balanced = {settings(name): name for name in reversed(plain) if setups[name]["plan"] == "balanced"}
    subject = next((name for name in skewed if settings(name) in balanced), next(iter(skewed), None))
    if subject is None:
        return Roles(None, None, ())
    same = [
        name for name in setups if setups[name]["plan"] == setups[subject]["plan"] and name not in [subject, *plain]
    ]
    same = [name for name in same if settings(name) == settings(subject)]
    cures = tuple(name for name in same if _removes_link(setups[name]))
    others = tuple(name for name in same if name not in cures)
    return Roles(subject, balanced.get(settings(subject), next(iter(balanced.values()), None)), cures, others)


def is_plain(setup: Mapping[str, Any]) -> bool:
    """Whether a setup trains as the stock Trainer does, but for the masked-input entropy."""
    changed = {"objective", "changed", "language_adversary", *SAMPLING} & {*setup.get("options", {})}
    return setup["class_weighting"] == "none" and not changed


def _removes_link(setup: Mapping[str, Any]) -> bool:
    """Whether labels do not depend on language in the training data as they are weighted or drawn."""
    options = setup.get("options", {})
    schemes = {setup["class_weighting"], options.get("sampling")} - {"none", None}
    return len(schemes) == 1 and schemes <= {"per_language", "independence", "joint"} and {*options} <= {"sampling"}


def mitigation_text(setup: Mapping[str, Any]) -> str:
    """How the training of a setup differs from that of a plain one: ", with ..."."""
    weights, options = setup["class_weighting"], setup.get("options", {})
    said = [text for text in (WEIGHTS_TEXT.get(weights), OBJECTIVES_TEXT.get(options.get("objective"))) if text]
    if scheme := options.get("sampling"):
        said.append(f"rows drawn in proportion to {WEIGHTS_TEXT[scheme]}")
    if changed := options.get("changed"):
        said.append(CHANGED_TEXT[changed])
    others = {key: value for key, value in options.items() if key not in ("sampling", "objective", "changed")}
    if others:
        said.append(", ".join(f"{key}={value}" for key, value in others.items()))
    return f", with {' and '.join(said)}" if said else ""


def tested_languages(results: Results) -> list[str]:
    """The languages of the tables of predictions: those of the run, then those that only test rows are in."""
    metrics = next(iter(next(iter(results["setups"].values()))["seeds"].values()))
    names = dict.fromkeys([*results["languages"], *metrics["test"].get("by_language", {})])
    return [*names][: len(metrics["test"]["predicted"])]


def language_text(results: Results, language: str) -> str:
    """The name of a language as it is shown, marked where no training row is in it."""
    return shown(language) + ("" if language in results["languages"] else " (not in training)")


def represented(results: Results) -> dict[tuple[str, str], int]:
    """(label, language) -> 1 where training with the skewed plan had more of the label than other languages have.

    -1 where it had less, 0 where all languages have the same share; empty without a skewed plan.
    """
    audit = results["data"].get("train/imbalanced")
    if audit is None:
        return {}
    found = {}
    for j, label in enumerate(results["labels"]):
        shares = [row[j] or 0.0 for row in audit["row_shares"]]
        mean = math.fsum(shares) / len(shares)
        for language, share in zip(audit["languages"], shares, strict=True):
            found[label, language] = (share > mean + 0.005) - (share < mean - 0.005)
    return found


def measured(results: Results, setup: str, seed: int | None) -> tuple[int, Metrics]:
    """The seed that is published, the lowest where none is named, and its METRICS.

    Raises:
        ValueError: the run has no such setup or seed.
    """
    known = results["setups"].get(setup)
    seeds = {int(number): metrics for number, metrics in known["seeds"].items()} if known else {}
    number = min(seeds, default=0) if seed is None else seed
    if number not in seeds:
        what = f"Setup {setup} has no seed {number}" if known else f"The run has no setup {setup!r}"
        choices = map(str, sorted(seeds) if known else results["setups"])
        raise ValueError(f"{what}: choose one of {', '.join(choices)}.")
    return number, seeds[number]
