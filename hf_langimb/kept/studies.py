"""Tables and the figure of the kept studies: the verdict's rule, the verdict on models, and scaling."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from hf_langimb.files import read_json
from hf_langimb.measures.targets import TARGETS
from hf_langimb.results.plots import COLORS, MARKERS, STYLE
from hf_langimb.results.summary import interval
from hf_langimb.results.tables import Cells, interval_text, mean_of

AGAIN = "run the benchmark again"
SCALING = "scaling.json"


def rule_cells(folder: Path) -> Cells:
    """How often the verdict's rule is wrong in the kept simulation, one row per number of cells and rows."""
    found = read_json(folder / "rule.json", AGAIN)
    rows = []
    for shape in dict.fromkeys((of["languages"], of["labels"], of["rows"]) for of in found):
        own = [of for of in found if (of["languages"], of["labels"], of["rows"]) == shape]
        below = [of["yes"] for of in own if of["dependence"] < 0.0101]
        twice = [of["yes"] for of in own if of["dependence"] > 0.0199]
        coverage = [of["coverage"] for of in own]
        texts = (
            f"{mean_of(below):.3f} ({max(below):.3f})",
            f"{mean_of(twice):.2f}",
            f"{mean_of(coverage):.3f} ({min(coverage):.3f})",
        )
        draws = "-".join(f"{number:,}" for number in sorted({of["draws"] for of in own}))
        rows.append([f"{shape[0]} x {shape[1]}", f"{shape[2]:,}", str(len(own)), draws, *texts])
    header = ["languages x labels", "test rows", "cases", "draws per case"]
    return [*header, "yes up to 0.01 bits", "yes at 0.02 bits", "coverage"], rows


def natural_cells(folder: Path) -> Cells:
    """Kept runs on names as they are: accuracies and dependence of both setups, and how far the latter falls."""
    rows = []
    for name, found in read_json(folder / "natural.json", AGAIN).items():
        for setup, of in found["setups"].items():
            accuracies = [interval_text(of[f"targets.{target}.accuracy"]) for target in TARGETS]
            dependence = interval_text(of["targets.independent.dependence_bits_corrected"])
            fall = found["fall"] if setup == "independence" else None
            facts = [
                f"{found['languages']:,}",
                f"{found['bits'] - found['bits_by_chance']:.3f}",
                str(found["empty_cells"]),
            ]
            change = "-" if fall is None else interval_text(fall, form="+.3f")
            rows.append([name, *facts, setup, *accuracies, dependence, change])
    header = ["names", "languages", "link (bits)", "empty cells", "setup", *(f"accuracy, {name}" for name in TARGETS)]
    return [*header, "dependence (bits)", "independence - plain (bits)"], rows


def models_cells(folder: Path) -> Cells:
    """How many seeds got each answer in the kept runs on trained models, one row per case and setup."""
    rows = []
    for case, found in read_json(folder / "models.json", AGAIN).items():
        for setup in [name for name in ("imbalanced", "independence") if name in found]:
            seeds, yes, answers = found[setup]["seeds"].values(), found[setup]["yes"], found[setup]["answers"]
            counts = [str(answers["shortcut"].get(answer, 0)) for answer in ("no", "unclear", "not measured")]
            parts = [str(answers[kind].get("yes", 0)) for kind in ("dependence", "follows_skew", "caused_by_link")]
            share = interval_text(yes["count"] / yes["of"], yes["interval"], ".2f")
            dependence = [of["dependence"] for of in seeds]
            measures = (
                f"{mean_of(dependence):.3f} ({max(dependence):.3f})",
                f"{mean_of(of['accuracy'] for of in seeds):.3f}",
            )
            weights = "none" if setup == "imbalanced" else setup
            rows.append([case, weights, f"{yes['count']} of {yes['of']}", share, *counts, *parts, *measures])
    header = ["training data", "class weights", "yes", "share of yes", "no", "unclear", "not measured"]
    header += ["dependence: yes", "follows the skew: yes", "caused by the link: yes"]
    return [*header, "dependence (largest)", "accuracy"], rows


def scaling_cells(folder: Path) -> Cells:
    """Kept scaling study: measures of each setup, means over seeds, one row per point."""
    rows = []
    for of in read_json(folder / SCALING, AGAIN)["points"].values():
        setups = of["setups"]

        def means(measure: str, form: str, of_setups: Any = setups) -> str:
            """Those of all setups, in their order."""
            return " / ".join(format(np.mean(found[measure]), form) for found in of_setups.values())

        fall = np.subtract(setups["imbalanced"]["dependence"], setups["independence"]["dependence"])
        rows.append(
            [
                str(of["languages"]),
                f"{of['skew']}:1",
                str(of["rows_per_language"]),
                f"{of['bits']:.2f}",
                str(of["smallest_cell"]),
                means("accuracy", ".2f"),
                means("worst_language", ".2f"),
                means("dependence", "z.3f"),
                means("skew_transfer", "z.2f"),
                interval_text(interval([*map(float, fall)])),
            ]
        )
    header = ["languages", "skew", "rows per language", "link (bits)", "smallest cell", "accuracy", "worst language"]
    return [*header, "dependence (bits)", "skew transfer", "imbalanced - independence (bits)"], rows


def slopes_cells(folder: Path) -> Cells:
    """Kept scaling study: how much each measure changes for each bit of the link, against `balanced`."""
    found = read_json(folder / SCALING, AGAIN)["slopes"]
    rows = []
    for setup, measures in found.items():
        texts = [interval_text(of["slope"], form="+.3f") for of in measures.values()]
        rows.append([setup, *texts, interval_text(measures["dependence"]["without link"], form="+.3f")])
    names = {"accuracy": "accuracy", "dependence": "dependence (bits)", "skew_transfer": "skew transfer"}
    return ["setup", *(names[measure] for measure in next(iter(found.values()))), "dependence at 0 bits"], rows


@rc_context(STYLE)
def scaling_figure(folder: Path) -> Figure:
    """Dependence of each setup against the languages, the link and the rows, with the range over seeds."""
    points = read_json(folder / SCALING, AGAIN)["points"]
    panels: dict[str, tuple[str, str, Callable[[Any], float]]] = {
        "languages": ("languages", "log", lambda of: of["languages"]),
        "skew": ("link between language and label (bits)", "linear", lambda of: of["bits"]),
        "rows": ("training rows per language", "log", lambda of: of["rows_per_language"]),
    }
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    for axes, (kind, (label, scale, place)) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        own = sorted((of for name, of in points.items() if name == "base" or name.startswith(kind)), key=place)
        places = [place(of) for of in own]
        for i, setup in enumerate(own[0]["setups"]):
            seeds = np.array([of["setups"][setup]["dependence"] for of in own])
            means = seeds.mean(axis=1)
            bars = [means - seeds.min(axis=1), seeds.max(axis=1) - means]
            style: dict[str, Any] = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 5, "capsize": 2}
            axes.errorbar(places, means, bars, label=setup, **style)
        axes.set_xscale(scale)
        axes.set_xticks(places, [f"{value:.2f}" if scale == "linear" else str(value) for value in places], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set(ylabel="dependence (bits)", ylim=(0, None))  # of all, once their points are drawn
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def rates_cells(folder: Path) -> Cells:
    """Kept runs of cloned languages: perplexity of the last language by learning rate, and the best rate.

    Geometric means over seeds; in parentheses those of fewer seeds, which the best rate is not chosen from.
    """
    found = read_json(folder / "rates.json", AGAIN)
    rates = sorted({float(rate) for of in found.values() for rate in of})
    rows = []
    for setup, of in found.items():
        values, most = {float(rate): values for rate, values in of.items()}, max(map(len, of.values()))
        means = {rate: math.exp(np.mean(np.log(seeds))) for rate, seeds in values.items()}
        best = min((rate for rate in means if len(values[rate]) == most), key=means.__getitem__)
        forms = {rate: "{:.2f}" if len(values[rate]) == most else "({:.2f})" for rate in means}
        shown = [forms[rate].format(means[rate]) if rate in means else "" for rate in rates]
        rows.append([setup, f"{best:g}", *shown])
    return ["setup", "best", *(f"{rate:g}" for rate in rates)], rows
