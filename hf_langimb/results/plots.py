"""Figures of a run, in colour-blind-safe colours *and* hatches, so that they can be read in grey as well."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_langimb.measures.attribution import SETS
from hf_langimb.results.schema import FORMS, TEXTS, Form, Results
from hf_langimb.results.summary import represented
from hf_langimb.results.tables import shown_interval, shown_threshold

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\")
MARKERS = ("o", "s", "^", "D", "v", "P")
SMALL_BIN = 20  # rows below which a bin of a reliability curve is noise
_INK = "#010203"  # replaced by the page's text colour in an SVG
_STYLE: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
) | {
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # names may contain dollar signs
}
_EDGE = {"edgecolor": _INK, "linewidth": 0.6}
MANY = len(COLOURS)  # more languages cannot be distinguished by colour


@rc_context(_STYLE)
def joint_heatmap(languages: Sequence[str], labels: Sequence[Any], counts: Any, title: str) -> Figure:
    """Shares of the labels in each language: of data, a plan or predictions.

    Args:
        languages, labels: the axes.
        counts: [L, C], counts or shares; each row is divided by its sum.
        title: of the figure.
    """
    shares = _row_shares(counts)
    brightest = max(float(shares.max()), 2 / len(labels))  # even shares are of middle brightness
    figure, axes = _figure(1.6 + 1.1 * len(labels), 1.2 + 0.42 * len(languages))
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=brightest, aspect="auto")
    texts = [[f"{100 * share:.0f} %" for share in row] for row in shares]
    _label_cells(axes, languages, labels, texts, shares > 0.45 * brightest)
    axes.set_title(title)
    return figure


def _label_cells(
    axes: Axes, rows: Sequence[str], columns: Sequence[Any], texts: Sequence[Sequence[str]], black: np.ndarray
) -> None:
    """Name the rows and columns of a heat map and write a text into each cell, black where it is bright."""
    axes.set_xticks(range(len(columns)), [str(name) for name in columns])
    axes.set_yticks(range(len(rows)), list(rows))
    for i, j in np.ndindex(black.shape):
        axes.text(j, i, texts[i][j], ha="center", va="center", color="black" if black[i, j] else "white")
    axes.tick_params(length=0)


def _grouped_bars(axes: Axes, heights: np.ndarray, bounds: Sequence[Any], names: Sequence[str]) -> None:
    """Bars [groups of one name, places] next to each other at each place, with [low, high] of each or None."""
    width = 0.8 / max(len(heights), 1)
    for i, (of_name, intervals, name) in enumerate(zip(heights, bounds, names, strict=True)):
        places = np.arange(len(of_name)) + (i - (len(heights) - 1) / 2) * width
        axes.bar(places, of_name, width, label=_shown(name), **_style(i))
        if intervals is not None:
            low, high = np.array(intervals).T
            axes.errorbar(places, of_name, [of_name - low, high - of_name], fmt="none", color=_INK, capsize=2)


@rc_context(_STYLE)
def prediction_bars(results: Results, setup: str) -> Figure:
    """Shares of a setup's predicted labels in each language on the balanced test set, mean over seeds.

    The scale is the same for all setups of the run. More than `MANY` languages are drawn as a heat map.
    """
    languages, labels = results["languages"], results["labels"]
    shares = {
        name: _row_shares(np.mean([metrics["test"]["predicted"] for metrics in values["seeds"].values()], axis=0))
        for name, values in results["setups"].items()
    }
    if len(languages) > MANY:
        return joint_heatmap(languages, labels, shares[setup], setup)
    figure, axes = _figure(4.2, 2.9)
    _grouped_bars(axes, shares[setup][: len(languages)], [None] * len(languages), languages)
    axes.axhline(1 / len(labels), color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(labels)), [str(label) for label in labels], rotation=20, ha="right")
    highest = max(float(table.max()) for table in shares.values())
    axes.set(ylim=(0, 1.05 * highest), ylabel="share of predictions", title=setup)
    _legend(axes, "language")
    return figure


@rc_context(_STYLE)
def probe_bars(results: Results) -> Figure:
    """Accuracy of the language probe by setup, on test and external text, with 95 % intervals over seeds and chance."""
    setups = results["setups"]
    found = {kind: [setup["summary"].get(f"probe.{kind}.accuracy") for setup in setups.values()] for kind in TEXTS}
    kinds = [kind for kind, values in found.items() if any(values)]
    figure, axes = _figure(max(2.1 + 0.7 * len(setups), 4.2), 2.9)
    width = 0.8 / max(len(kinds), 1)
    for i, kind in enumerate(kinds):
        for j, value in enumerate(found[kind]):
            if value is None:
                continue
            place, mean, low, high = j + (i - (len(kinds) - 1) / 2) * width, value["mean"], value["low"], value["high"]
            axes.bar(place, mean, width, label=f"{kind} text" if j == 0 else None, **_style(i))
            if low is not None and high is not None:
                axes.errorbar(place, mean, [[mean - low], [high - mean]], color=_INK, capsize=3)
    chances = [
        setup["summary"][f"probe.{kind}.chance"]["mean"]
        for kind in kinds
        for setup in setups.values()
        if f"probe.{kind}.chance" in setup["summary"]
    ]
    if chances:
        axes.axhline(max(chances), color=_INK, linewidth=1, linestyle="--", label="chance")
    axes.set_xticks(range(len(setups)), list(setups))
    axes.set(ylim=(0, 1.05), ylabel="languages identified")
    _legend(axes)
    return figure


@rc_context(_STYLE)
def attribution_bars(results: Results, form: Form, label: str) -> Figure:
    """Cumulative difference of one label's attributions over positive, neutral and negative tokens, bars by language.

    The paper's figure: the threshold .01, 95 % intervals, over- and under-represented languages marked with a triangle
    up or down. The scale is the same for all labels and forms. More than `MANY` languages are drawn as a heat map.

    Args:
        results: of `read_results`, with attributions.
        form: result, control or unbiased.
        label: whose probability is attributed.
    """
    found, marks = results["attributions"], represented(results)
    assert found
    threshold = shown_threshold(found)
    shown = [entry for kind in FORMS for entry in found[kind] if entry["threshold"] == threshold]
    entries = [e for e in found[form] if e["threshold"] == threshold and e["label"] == label]
    triangles = {1: " \u25b2", -1: " \u25bc", 0: ""}
    names = [f"{e['language']}{triangles[marks.get((label, e['language']), 0)]}" for e in entries]
    ends = [x for entry in shown for name in SETS for x in (entry[name], *(shown_interval(entry, name) or ()))]
    reach = 1.15 * max(map(abs, ends), default=1)
    values = np.array([[entry[name] for name in SETS] for entry in entries])
    if len(entries) > MANY:
        figure, axes = _figure(4.2, 1.2 + 0.3 * len(entries))
        axes.imshow(values, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
        texts = [[f"{value:+.3f}" for value in row] for row in values]
        _label_cells(axes, names, SETS, texts, np.abs(values) <= 0.6 * reach)
        axes.set_title(f"{form}: {label}")
        return figure
    figure, axes = _figure(4.2, 2.9)
    bounds = [[shown_interval(entry, name) for name in SETS] for entry in entries]
    _grouped_bars(axes, values, [row if all(row) else None for row in bounds], names)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_xticks(range(3), SETS)
    axes.set(ylim=(-reach, reach), ylabel="difference", title=f"{form}: {label}")
    _legend(axes, "language")
    return figure


@rc_context(_STYLE)
def probe_by_layer(found: dict[str, Any]) -> Figure:
    """Accuracy of the probe at each layer, with chance and the 99 % interval of the shuffled control.

    Args:
        found: as `hf_langimb.measures.probe.probe_model` returns it.
    """
    layers = [probe["layer"] for probe in found["layers"]]
    figure, axes = _figure(4.8, 2.9)
    low, high = np.array([probe["control_interval"] for probe in found["layers"]]).T
    axes.fill_between(layers, low, high, color=COLOURS[1], alpha=0.4, label="shuffled languages (99 %)")
    axes.plot(layers, [probe["accuracy"] for probe in found["layers"]], color=COLOURS[0], marker="o", label="probe")
    axes.axhline(found["layers"][0]["chance"], color=_INK, linewidth=1, linestyle="--", label="chance")
    axes.set(xticks=layers, ylim=(0, 1.05), xlabel="layer (0: embeddings)", ylabel="languages identified")
    _legend(axes, loc="best")
    return figure


@rc_context(_STYLE)
def reliability_curves(results: Results, setup: str) -> Figure:
    """Accuracy against confidence in each language, of a setup's first seed; the diagonal is calibrated.

    Bins of fewer than `SMALL_BIN` rows are left out; of more than `MANY` languages the least calibrated are drawn.
    """
    first = next(iter(results["setups"][setup]["seeds"].values()))
    figure, axes = _figure(4.2, 2.9)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    curves = list((first["test"]["calibration"] or {}).items())
    if len(curves) > MANY:
        curves = sorted(curves, key=lambda item: -item[1]["expected_calibration_error"])[:MANY]
    for i, (language, curve) in enumerate(curves):
        points = [point for point in curve["bins"] if point["rows"] >= SMALL_BIN]
        x, y = ([point[key] for point in points] for key in ("confidence", "accuracy"))
        axes.plot(x, y, color=COLOURS[i % MANY], marker=MARKERS[i % len(MARKERS)], label=_shown(language))
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=setup)
    _legend(axes, "language")
    return figure


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an inline SVG without a background, its text and axes in the colour of the page's text.

    Args:
        figure: as the functions of this module draw it.
        description: what it shows, for screen readers.

    The same figure gives the same text: no date, no random ids.
    """
    if figure.get_layout_engine() is not None:  # once: a second pass would move things by a hair
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    output = io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": "hf_langimb", "svg.fonttype": "none"}):
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = output.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def _row_shares(counts: Any) -> np.ndarray:
    """Each row divided by its sum; a row without counts is 0."""
    table = np.asarray(counts, dtype=np.float64)
    totals = table.sum(axis=1, keepdims=True)
    return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of a size in inches with axes at the left and bottom."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.title.set_color(_INK)
    return figure, axes


def _shown(name: Any) -> str:
    """A name that matplotlib lists in a legend also if it begins with an underscore."""
    return f"\u200b{name}" if str(name).startswith("_") else str(name)


def _legend(axes: Axes, title: str | None = None, **place: Any) -> None:
    """At the right of the axes, in the colour of the page's text; none where nothing was drawn."""
    if axes.get_legend_handles_labels()[0]:
        place = place or {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        axes.legend(title=title, frameon=False, labelcolor=_INK, **place).get_title().set_color(_INK)


def _style(i: int) -> dict[str, Any]:
    """Colour and hatch of the bars of one name."""
    return {"facecolor": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i % len(HATCHES)], **_EDGE}
