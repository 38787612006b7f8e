"""How far the predictions of each language are from those that all languages get for the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_langimb.console import shown
from hf_langimb.measures.intervals import Floats
from hf_langimb.measures.shortcut import SEEDS_FROM
from hf_langimb.results.schema import Interval, Results
from hf_langimb.results.summary import interval, language_text, roles_of, tested_languages
from hf_langimb.results.tables import Cells, interval_text

SHOWN = 20  # languages in the figure
SURE = 0.05  # p below which predictions of a language differ, adjusted for the number of languages


class Move(NamedTuple):
    """Shares of the labels in a language, [C], mean over seeds: predicted, and expected if language did not matter."""

    language: str
    rows: int
    predicted: Floats
    expected: Floats
    total_variation: float  # of both, shrunk by what chance explains
    p: float | None  # the largest over seeds

    @property
    def sure(self) -> bool:
        """Whether predictions differ by more than chance explains."""
        return self.p is not None and self.p < SURE

    @property
    def shrunk(self) -> Floats:
        """Predicted less expected shares, by as much smaller as chance explains of them."""
        apart = self.predicted - self.expected
        size = float(np.abs(apart).sum()) / 2
        return apart * min(self.total_variation / size, 1.0) if size > 0 else apart


def moves_of(results: Results, setup: str) -> list[Move]:
    """Of each language with test rows, the farthest first; empty where shifts were not measured."""
    models, found = [*results["setups"][setup]["seeds"].values()], []
    for i, language in enumerate(tested_languages(results)):
        shifts = [of["shift"][language] for of in models if language in of.get("shift", {})]
        if not shifts or len(shifts) < len(models):
            continue
        predicted = np.mean([of["test"]["predicted"][i] for of in models], axis=0)
        expected, rows = np.mean([of["expected"] for of in shifts], axis=0), int(predicted.sum())
        p = [of["p"] for of in shifts]
        largest = None if None in p else max(value or 0.0 for value in p)
        variation = float(np.mean([of["total_variation"] for of in shifts]))
        found.append(Move(language, rows, predicted / rows, expected / rows, variation, largest))
    return sorted(found, key=lambda move: -move.total_variation)


def moved_cells(results: Results, setup: str) -> Cells:
    """Predicted minus expected shares of each language and label, in percentage points, largest difference first."""
    header = ["language", "rows", "total variation", "p", *map(shown, results["labels"])]
    rows = [
        [
            language_text(results, move.language),
            f"{move.rows:,}",
            f"{move.total_variation:.3f}",
            "-" if move.p is None else f"{move.p:.2g}" if move.p >= 0.001 else "< .001",
            *(f"{100 * value:+z.1f}" for value in move.predicted - move.expected),
        ]
        for move in moves_of(results, setup)
    ]
    return header, rows


def farthest_text(results: Results) -> str:
    """The languages and labels whose predicted shares are farthest from those that the labels explain."""
    found = [
        (value, label, move)
        for setup in compared_setups(results)[:1]
        for move in moves_of(results, setup)
        if move.sure
        for value, label in zip(move.shrunk, results["labels"], strict=True)
    ]
    found.sort(key=lambda one: -abs(one[0]))
    said = [
        f"{shown(label)} in {language_text(results, move.language)} (too {'often' if value > 0 else 'rarely'})"
        for value, label, move in found[:3]
    ]
    return f"Farthest from what the labels explain: {', '.join(said)}." if said else ""


class Shares(NamedTuple):
    """Of one label in a language; `sure`: that predictions of the language differ is more than chance explains."""

    expected: float
    predicted: float
    sure: bool


class Moved(NamedTuple):
    """What the first figure shows: shares of one label in the languages where it moved farthest."""

    label: str
    languages: list[str]
    hidden: int  # languages that are not shown
    true: list[float | None]
    shares: dict[str, list[Shares]]  # of one or two setups, for each language


def compared_setups(results: Results) -> list[str]:
    """The setup that the answer is about and what it is compared with: recommended, or a cure, or its control."""
    subject = next((of["setup"] for of in results.get("verdict", []) if of["name"] == "shortcut"), None)
    if subject is None:
        return []
    roles, found = roles_of(results["setups"]), results.get("recommendation")
    recommended = [found["setup"]] if found and found["setup"] in roles.mitigations else []
    others = [*recommended, *roles.mitigations, roles.control]
    return [subject, *[name for name in others if name and name != subject][:1]]


def most_moved(results: Results) -> Moved | None:
    """The label that moves most in all rows, in the languages where it does; None where shifts were not measured.

    Languages where chance cannot explain it come first.
    """
    moves = {name: {move.language: move for move in moves_of(results, name)} for name in compared_setups(results)}
    if not moves or not all(moves.values()):
        return None
    subject = [*next(iter(moves.values())).values()]
    label = int(np.sum([move.rows * np.abs(move.shrunk) for move in subject], axis=0).argmax())
    first = sorted(subject, key=lambda move: (not move.sure, -abs(move.shrunk[label])))
    names = [move.language for move in first[:SHOWN]]
    true = true_shares(results, results["labels"][label])
    shares = {name: [_shares(of[one], label) for one in names] for name, of in moves.items()}
    hidden = len(subject) - len(names)
    shown_names = [language_text(results, name) for name in names]
    return Moved(results["labels"][label], shown_names, hidden, [true.get(name) for name in names], shares)


def _shares(move: Move, label: int) -> Shares:
    """Those of a label in a language."""
    return Shares(float(move.expected[label]), float(move.predicted[label]), move.sure)


def true_shares(results: Results, label: str) -> dict[str, float]:
    """The share of a label in the test rows of each language."""
    audit = next((audit for name, audit in results["data"].items() if name.startswith("test/")), None)
    if audit is None or label not in (labels := [str(name) for name in audit["labels"]]):
        return {}
    column = labels.index(label)
    return {
        language: row[column] / sum(row)
        for language, row in zip(audit["languages"], audit["counts"], strict=True)
        if sum(row)
    }


TARGETS_TEXT = (
    "If the labels of a test set depend on language, so do the predictions of a perfect classifier. Therefore, rows "
    "are also weighted. Natural (as collected): rows as they are. Independent (without the link): labels do not depend "
    "on language; languages and labels keep their shares. Uniform: every combination of language and label has the "
    "same weight.\n"
    "Dependence: mutual information of prediction and language; far above its chance level if predictions differ "
    "between languages. By chance: mean and 97.5% quantile of the dependence of predictions that know the label but "
    "not the language. Reliance: dependence divided by the mutual information of label and language in the training "
    "data. Skew transfer: 1 if predictions copy the skew of the training labels, 0 if they ignore it. Alignment: "
    "correlation of the predictions with that skew; 1 if they have the same direction. Its p is low if permuted "
    "languages rarely give such a value. Effective rows: effective sample size of the weighted rows, as a share of all "
    "rows; low values mean wide intervals."
)
TARGET_COLUMNS = (
    ("accuracy", "accuracy", ".3f"),
    ("macro F1", "macro_f1", ".3f"),
    ("most frequent label", "majority_accuracy", ".3f"),
    ("dependence (bits)", "dependence_bits", ".4f"),
    ("by chance", "dependence_chance_bits", ".4f"),
    ("by chance, 97.5%", "dependence_chance_high_bits", ".4f"),
    ("reliance", "reliance", ".3f"),
    ("skew transfer", "skew_transfer", ".3f"),
    ("alignment", "skew_alignment", ".3f"),
    ("p of alignment", "skew_permutation_p", ".3f"),
    ("effective rows", "effective_sample_size_ratio", ".2f"),
)


def targets_cells(results: Results) -> Cells:
    """Measures on test rows weighted to each target, one row per setup and target."""
    rows = []
    for name, setup in results["setups"].items():
        for target in next(iter(setup["seeds"].values())).get("targets", {}):
            measures = [(f"targets.{target}.{key}", form) for _, key, form in TARGET_COLUMNS]
            rows.append([name, target, *(measure_text(results, name, key, form) for key, form in measures)])
    return ["setup", "rows weighted to", *(title for title, _, _ in TARGET_COLUMNS)], rows


def extra_cells(results: Results) -> Cells:
    """Accuracy on further test sets, and how far it falls below that on the test set; one row per setup and set."""
    rows = []
    for name, setup in results["setups"].items():
        models = [*setup["seeds"].values()]
        for other, of in models[0].get("extra", {}).items():
            falls = interval([m["test"]["accuracy"] - m["extra"][other]["accuracy"] for m in models])
            bounds = of["intervals"]["accuracy"] if of["intervals"] and len(models) == 1 else None
            accuracy = interval_text(setup["summary"][f"extra.{other}.accuracy"])
            if bounds:
                accuracy = interval_text(of["accuracy"], bounds)
            dependence = interval_text(setup["summary"].get("targets.independent.dependence_bits_corrected"))
            rows.append(
                [name, shown(other), f"{of['rows']:,}", accuracy, interval_text(falls, form="z.3f"), dependence]
            )
    return ["setup", "test set", "rows", "accuracy", "accuracy lost", "dependence on the test set (bits)"], rows


def measure_text(results: Results, setup: str, key: str, form: str = ".3f") -> str:
    """A measure under a target with its interval over seeds, or, of fewer than five, over rows where there is one."""
    found, models = results["setups"][setup]["summary"].get(key), [*results["setups"][setup]["seeds"].values()]
    if not found:
        return "-"
    _, target, name = key.split(".")
    return rows_or_seeds_text(found, [of["targets"][target]["intervals"].get(name) for of in models], form)


def rows_or_seeds_text(found: Interval, intervals: Sequence[Any], form: str = ".3f") -> str:
    """A mean over seeds with its interval, that over rows (lowest to highest end) for fewer seeds than can answer."""
    if found["n"] >= SEEDS_FROM or None in intervals:
        return interval_text(found, form=form)
    lows, highs = zip(*intervals, strict=True)
    return interval_text(found["mean"], (min(lows), max(highs)), form)
