"""comparison.json of the recipe `compare_mitigations`: what is in it, its table, and the recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from hf_langimb.counts.audit import Audit, holm
from hf_langimb.files import AGAIN, read_json
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import Interval
from hf_langimb.results.summary import interval
from hf_langimb.results.tables import Cells, interval_text

FILE = "comparison.json"
PLAIN, PAPER = "plain", "per_language"  # no method, and the paper's weights
CHANGED = tuple(f"{PLAIN}, {change}" for change in ("corrected", "refitted", "language erased"))
CORRECTED, REFITTED, ERASED = CHANGED  # `langimb correct` and `langimb refit` on the models of `plain`
MEASURES = {  # by name the path in METRICS, and how it is shown
    "independent": ("targets.independent.accuracy", ".3f"),
    "natural": ("targets.natural.accuracy", ".3f"),
    "uniform": ("targets.uniform.accuracy", ".3f"),
    "worst language": ("worst", ".3f"),
    "dependence (bits)": ("targets.independent.dependence_bits_corrected", "z.3f"),
    "skew transfer": ("targets.independent.skew_transfer", "z.3f"),
    "probe": ("probe.test.accuracy", ".3f"),
}
COMPARED = ("independent", "dependence (bits)")  # of which differences are tested
LEVEL = 0.05
RECOMMENDED = 3  # methods that `langimb train --setups auto` trains


class Difference(TypedDict):
    """A method minus a reference, paired by seed: mean with t interval, p, and p by Holm's method over the methods."""

    method: str
    reference: str
    measure: str
    difference: Interval
    p: float | None
    p_holm: float | None


class Comparison(TypedDict):
    """Every method at its best setting."""

    schema_version: int
    recipe: str
    config_name: str
    arguments: dict[str, Any]
    languages: list[str]
    labels: list[str]
    link_bits: float
    rows: int
    grids: dict[str, list[dict[str, Any]]]
    losses: dict[str, list[float | None]]  # on validation rows, of the settings in `grids`; null where one diverged
    chosen: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, list[float | None]]]  # by method and measure the value of each seed
    seconds: dict[str, list[float | None]]  # of the trainings of each method; null where a training was interrupted
    differences: list[Difference]
    recommended: list[str]


def compared(*, audit: Audit, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], **parts: Any) -> Comparison:
    """comparison.json of METRICS by method and seed.

    Args:
        audit: of the training data.
        metrics: of each method.
        parts: recipe, config_name, arguments, languages, labels, grids, losses, chosen.
    """
    methods = {
        method: {name: [_value(of, path) for of in seeds.values()] for name, (path, _) in MEASURES.items()}
        for method, seeds in metrics.items()
    }
    differences = [
        one
        for reference in (PLAIN, PAPER)
        if reference in methods
        for measure in COMPARED
        for one in _differences(methods, reference, measure)
    ]
    known: Any = {"schema_version": 1, **parts, "link_bits": audit["mutual_information_bits"], "methods": methods}
    known["seconds"] = {method: [of["seconds"] for of in seeds.values()] for method, seeds in metrics.items()}
    known |= {"rows": int(np.sum(audit["counts"])), "differences": differences}
    found: Comparison = {**known, "recommended": _recommended(methods, differences)}  # type: ignore[typeddict-item]
    return found


def read_comparison(folder: Path) -> Comparison:
    """`comparison.json` of a folder."""
    found: Comparison = read_json(folder / FILE, AGAIN)
    return found


def _value(metrics: Mapping[str, Any], path: str) -> float | None:
    """A measure of one model; None where it was not measured."""
    if path == "worst":
        return min(float(of["accuracy"]) for of in metrics["test"]["by_language"].values())
    found: Any = metrics
    for key in path.split("."):
        found = found and found[key]
    return None if found is None else float(found)


def _differences(methods: Mapping[str, Any], reference: str, measure: str) -> list[Difference]:
    """Differences of all other methods from one, in one measure."""
    from scipy.stats import ttest_rel

    found: list[Difference] = []
    for method, values in methods.items():
        ours, theirs = values[measure], methods[reference][measure]
        if method == reference or None in [*ours, *theirs]:
            continue
        differences = np.subtract(ours, theirs)
        p = None
        if len(ours) > 1:
            p = float(ttest_rel(ours, theirs).pvalue) if np.ptp(differences) > 0 else float(not differences.any())
        mean = interval(differences.tolist())
        found.append(Difference(method=method, reference=reference, measure=measure, difference=mean, p=p, p_holm=None))
    tested = [one for one in found if one["p"] is not None]
    for one, p_holm in zip(tested, holm(np.array([one["p"] for one in tested], dtype=np.float64)), strict=True):
        one["p_holm"] = float(p_holm)
    return found


def significant(found: Sequence[Difference], method: str, reference: str, measure: str) -> float:
    """The mean difference of a method from a reference where it is significant, else 0."""
    key = method, reference, measure
    of = [one for one in found if (one["method"], one["reference"], one["measure"]) == key]
    return sum(one["difference"]["mean"] for one in of if one["p_holm"] is not None and one["p_holm"] < LEVEL)


def _recommended(methods: Mapping[str, Any], found: Sequence[Difference]) -> list[str]:
    """Trained methods that clearly lower the dependence of `plain` without a clear loss of accuracy, the best first."""
    accuracy, dependence = COMPARED
    good = [
        name
        for name in methods
        if significant(found, name, PLAIN, dependence) < 0 <= significant(found, name, PLAIN, accuracy)
    ]
    good = [name for name in good if name not in CHANGED]  # which need no training
    return sorted(good, key=lambda name: -float(np.mean(methods[name][accuracy])))[:RECOMMENDED]


def mitigations_cells(found: Comparison) -> Cells:
    """One row per method: its setting, and every measure with its interval over seeds; the best accuracy first."""

    def accuracy(method: str) -> float:
        """Mean over seeds, without the link."""
        return float(np.mean([value or 0.0 for value in found["methods"][method][COMPARED[0]]]))

    order = sorted(found["methods"], key=accuracy, reverse=True)
    marks = {
        (one["method"], one["measure"]): "*" if one["p_holm"] is not None and one["p_holm"] < LEVEL else ""
        for one in found["differences"]
        if one["reference"] == PLAIN
    }
    rows = []
    for method in order:
        cells = []
        for name, (_, form) in MEASURES.items():
            known = [value for value in found["methods"][method][name] if value is not None]
            whole = len(known) == len(found["methods"][method][name])
            cells.append(
                f"{interval_text(interval(known) if whole else None, form=form)}{marks.get((method, name), '')}"
            )
        rows.append([method, _setting(found, method), *cells, _time(found, method)])
    return ["method", "chosen setting", *MEASURES, "time relative to plain"], rows


def differences_cells(found: Comparison, reference: str) -> Cells:
    """One row per method: its differences from another one, with p-values adjusted over the methods."""
    of = {(one["method"], one["measure"]): one for one in found["differences"] if one["reference"] == reference}
    rows = []
    for method in dict.fromkeys(method for method, _ in of):
        cells = []
        for measure in COMPARED:
            one = of[method, measure]
            p = "-" if one["p_holm"] is None else f"{one['p_holm']:.2g}"
            cells += [interval_text(one["difference"], form=f"+{MEASURES[measure][1].removeprefix('z')}"), p]
        rows.append([f"{method} - {reference}", *cells])
    return ["difference", *(name for measure in COMPARED for name in (measure, "p (Holm)"))], rows


def _time(found: Comparison, method: str) -> str:
    """Median time of the trainings of a method, that of `plain` being 1."""
    known = [[value for value in found["seconds"][name] if value is not None] for name in (method, PLAIN)]
    return f"{np.median(known[0]) / np.median(known[1]):.2f}" if all(known) else "-"


def _setting(found: Comparison, method: str) -> str:
    """The chosen value of the argument that was tuned."""
    if method not in found["grids"]:
        return "-"
    first, *others = found["grids"][method]
    knob = next((key for key in first if any(one[key] != first[key] for one in others)), next(iter(first)))
    return f"{knob}={found['chosen'][method][knob]}"


def recommendation_text(found: Comparison) -> str:
    """Which methods to use, as far as the numbers support it."""
    best, accuracy = found["recommended"], COMPARED[0]
    if len(next(iter(found["methods"][PLAIN].values()))) == 1:
        return "With one seed, no difference can be tested: add --seeds 5 (finished training runs are kept)."
    if not best:
        return (
            "On these data, no training method significantly lowers the dependence of predictions on language without "
            "a significant loss of accuracy."
        )
    text = (
        f"Recommended for data like these: {', '.join(best)} (most accurate without the link first). "
        f"{'This method significantly lowers' if len(best) == 1 else 'These methods significantly lower'} the "
        "dependence of predictions on language without a significant loss of accuracy."
    )
    if PAPER not in found["methods"]:
        return text
    above = [name for name in found["methods"] if significant(found["differences"], name, PAPER, accuracy) > 0]
    beaten = f"Significantly more accurate than {PAPER} weights: {'; '.join(above)}."
    return f"{text} {beaten if above else f'No method is significantly more accurate than {PAPER} weights.'}"


def text_of(found: Comparison, folder: Path) -> str:
    """What the recipe prints."""
    cells, text = mitigations_cells(found), recommendation_text(found)
    return render("mitigations.txt", found=found, folder=str(folder), cells=cells, text=text)
