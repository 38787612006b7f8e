"""Figures of a run, in color-blind-safe colors *and* hatches, so that they can also be read in grayscale."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from hf_langimb.console import shown
from hf_langimb.measures.attribution import SETS
from hf_langimb.results.moved import Moved
from hf_langimb.results.schema import FORMS, TEXTS, Form, Results
from hf_langimb.results.summary import language_text, represented, tested_languages
from hf_langimb.results.tables import shown_entries, shown_interval

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\")
MARKERS = ("o", "s", "^", "D", "v", "P")
MANY = len(COLORS)  # more languages cannot be distinguished by color
DRAWN = 30  # rows of a heat map
SMALL_BIN = 20  # rows below which a bin of a reliability curve is noise
INK = "#010203"  # replaced by the page's text color in an SVG
_COLORED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
STYLE: dict[Any, Any] = dict.fromkeys(_COLORED, INK) | {
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.w_pad": 0.09,  # inches; browsers' letters are taller than those it reckons with
    "text.parse_math": False,  # names may contain dollar signs
}


@rc_context(STYLE)
def moved_shares(found: Moved) -> Figure:
    """One label's share in each language: true, predicted by each setup, and expected if language did not matter.

    Of each setup a line leads from the expected to the predicted share: the longer, the more its predictions depend on
    the language; pale where chance may explain it.
    """
    number = len(found.languages)
    axes, places = new_axes(4.4, 1.4 + 0.3 * number), np.arange(number)
    for place in places[1::2]:
        axes.axhspan(place - 0.5, place + 0.5, color=INK, alpha=0.06, linewidth=0)
    for i, (name, shares) in enumerate(found.shares.items()):
        heights = places + (i - (len(found.shares) - 1) / 2) * 0.34
        expected, predicted = 100 * np.array([(of.expected, of.predicted) for of in shares]).T
        colors = [to_rgba(COLORS[i], 1 if of.sure else 0.35) for of in shares]
        axes.hlines(heights, expected, predicted, colors=colors, linewidth=2.2)
        axes.scatter(expected, heights, s=36, c=colors, marker="|", linewidths=1.4)
        style: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.5, "markersize": 6, "color": COLORS[i]}
        axes.plot(predicted, heights, MARKERS[i], label=f"predicted, {name}", linestyle="", **style)
    axes.plot([], [], "|", color=INK, markersize=6, label="expected without language")
    true = 100 * np.array([np.nan if share is None else share for share in found.true], dtype=float)
    style = {"color": INK, "markerfacecolor": "none", "markersize": 5, "linestyle": ""}
    axes.plot(true, places, "D", label="true share", **style)
    axes.set_yticks(places, [shown(name) for name in found.languages])
    axes.set(
        ylim=(number - 0.5, -0.5),
        xlabel=textwrap.fill(f"share of \u201c{shown(found.label)}\u201d in a language (%)", 48),
    )
    axes.tick_params(axis="y", length=0)
    figure = axes.get_figure(root=True)
    assert figure
    figure.legend(frameon=False, labelcolor=INK, loc="outside upper left", ncols=2, handlelength=1, columnspacing=1)
    return figure


@rc_context(STYLE)
def label_dependence(labels: Mapping[str, Any], material: float) -> Figure:
    """Dependence of the predictions of each label on language, with 95% intervals over rows; the largest first.

    Args:
        labels: `labels` of `evaluate_labels`; of more than `DRAWN`, those with the largest dependence.
        material: the smallest dependence that counts, in bits.
    """
    found = {name: of["targets"]["independent"] for name, of in labels.items()}
    names = sorted(found, key=lambda name: -found[name]["dependence_bits_corrected"])[:DRAWN]
    axes, places = new_axes(5.2, 1.1 + 0.3 * len(names)), np.arange(len(names))
    low, high = np.array([found[name]["intervals"]["dependence_bits"] for name in names]).T
    axes.hlines(places, low, high, color=COLORS[0], linewidth=2)
    values = [found[name]["dependence_bits_corrected"] for name in names]
    axes.plot(values, places, MARKERS[0], color=COLORS[0], markersize=6, markeredgecolor=INK, linestyle="")
    axes.axvline(material, color=INK, linestyle="--", linewidth=1)
    axes.set_yticks(places, [shown(name) for name in names])
    axes.tick_params(axis="y", length=0)
    return finished(axes, ylim=(len(names) - 0.5, -0.5), xlabel="dependence (bits)")


@rc_context(STYLE)
def joint_heatmap(languages: Sequence[str], labels: Sequence[Any], counts: Any, title: str) -> Figure:
    """Shares of the labels in each language: of data, a plan or predictions.

    Args:
        languages, labels: the axes.
        counts: [L, C]; each row is divided by its sum.
        title: of the figure.

    Of more than `DRAWN` languages, those that deviate most from all languages.
    """
    kept = farthest(counts)
    if len(kept) < len(languages):
        title = f"{title}: {len(kept)} of {len(languages)} languages"
    languages, shares = [languages[i] for i in kept], _row_shares(counts)[kept]
    brightest = max(float(shares.max()), 2 / len(labels))  # even shares are of middle brightness
    axes = new_axes(1.6 + 1.1 * len(labels), 1.2 + 0.42 * len(languages))
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=brightest, aspect="auto")
    texts = [[f"{100 * share:.0f}%" for share in row] for row in shares]
    return _labeled(axes, languages, labels, texts, shares > 0.45 * brightest, title)


@rc_context(STYLE)
def prediction_bars(results: Results, setup: str) -> Figure:
    """Shares of a setup's predicted labels in each language on the test set, mean over seeds.

    The scale is the same for all setups of the run. More than `MANY` languages are drawn as a heat map.
    """
    languages, labels = [language_text(results, name) for name in tested_languages(results)], results["labels"]
    counts = {
        name: np.mean([metrics["test"]["predicted"] for metrics in values["seeds"].values()], axis=0)
        for name, values in results["setups"].items()
    }
    if len(languages) > MANY:
        return joint_heatmap(languages, labels, counts[setup][: len(languages)], setup)
    shares = {name: _row_shares(table) for name, table in counts.items()}
    names = [_wrapped(label) for label in labels]
    long = any("\n" in name for name in names)
    axes = new_axes(2.2 + 1.1 * len(labels) if long else 4.2)
    for i, (language, of_language) in enumerate(zip(languages, shares[setup], strict=False)):
        _bars(axes, i, len(languages), language, of_language)
    axes.axhline(1 / len(labels), color=INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(labels)), names, rotation=0 if long else 20, ha="center" if long else "right")
    highest = max(float(table.max()) for table in shares.values())
    return finished(axes, "language", ylim=(0, 1.05 * highest), ylabel="share of predictions", title=setup)


@rc_context(STYLE)
def probe_bars(results: Results) -> Figure:
    """Accuracy of the language probe by setup, on test and external text, with 95% intervals over seeds and chance."""
    summaries = [setup["summary"] for setup in results["setups"].values()]
    kinds = [kind for kind in TEXTS if any(summary.get(f"probe.{kind}.accuracy") for summary in summaries)]
    axes, chances = new_axes(max(2.1 + 0.7 * len(summaries), 4.2)), []
    for i, kind in enumerate(kinds):
        for j, summary in enumerate(summaries):
            if value := summary.get(f"probe.{kind}.accuracy"):
                ends = None if value["low"] is None else [(value["low"], value["high"])]
                name = f"{kind} text" if j == 0 else None
                _bars(axes, i, len(kinds), name, np.array([value["mean"]]), ends, first=j, capsize=3)
            chances += [summary[f"probe.{kind}.chance"]["mean"]] if f"probe.{kind}.chance" in summary else []
    if chances:
        axes.axhline(max(chances), color=INK, linewidth=1, linestyle="--", label="chance")
    axes.set_xticks(range(len(summaries)), list(results["setups"]))
    return finished(axes, ylim=(0, 1.05), ylabel="languages identified")


@rc_context(STYLE)
def attribution_bars(results: Results, label: str, form: Form) -> Figure:
    """Cumulative difference of one label's attributions over positive, neutral and negative tokens, bars by language.

    The paper's figure: the threshold .01, 95% intervals, over- and under-represented languages marked with a triangle
    up or down. The scale is the same for all labels and forms. More than `MANY` languages are drawn as a heat map.

    Args:
        results: of `read_results`, with attributions.
        label: whose probability is attributed.
        form: result, control or unbiased.
    """
    found, marks = results["attributions"], represented(results)
    assert found
    entries = [entry for entry in shown_entries(found, form) if entry["label"] == label]
    triangles, title = {1: " \u25b2", -1: " \u25bc", 0: ""}, f"{form}: {label}"
    if len(entries) > DRAWN:
        title = f"{title}: {DRAWN} of {len(entries)} languages"
        entries = sorted(entries, key=lambda e: -abs(e["neutral"]))[:DRAWN]
    names = [f"{e['language']}{triangles[marks.get((label, e['language']), 0)]}" for e in entries]
    shown = [(entry, name) for kind in FORMS for entry in shown_entries(found, kind) for name in SETS]
    ends = [x for entry, name in shown for x in (entry[name], *(shown_interval(entry, name) or ()))]
    reach = 1.15 * max(map(abs, ends), default=1) or 1  # all 0: the setups are the same
    values = np.array([[entry[name] for name in SETS] for entry in entries])
    if len(entries) > MANY:
        axes = new_axes(height=1.2 + 0.3 * len(entries))
        axes.imshow(values, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
        texts = [[f"{value:+.3f}" for value in row] for row in values]
        return _labeled(axes, names, SETS, texts, np.abs(values) <= 0.6 * reach, title)
    axes = new_axes()
    for i, entry in enumerate(entries):
        bounds = [shown_interval(entry, name) for name in SETS]
        _bars(axes, i, len(names), names[i], values[i], bounds if all(bounds) else None, fmt="none", capsize=2)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(3), SETS)
    return finished(axes, "language", ylim=(-reach, reach), ylabel="difference", title=title)


@rc_context(STYLE)
def probe_by_layer(found: dict[str, Any]) -> Figure:
    """Accuracy of the probe at each layer, with chance and the 99% interval of the shuffled control.

    Args:
        found: as `hf_langimb.measures.probe.probe_model` returns it.
    """
    layers = [probe["layer"] for probe in found["layers"]]
    axes = new_axes(6.2)
    low, high = np.array([probe["control_interval"] for probe in found["layers"]]).T
    axes.fill_between(layers, low, high, color=COLORS[1], alpha=0.4, label="shuffled languages (99%)")
    axes.plot(layers, [probe["accuracy"] for probe in found["layers"]], color=COLORS[0], marker="o", label="probe")
    axes.axhline(found["layers"][0]["chance"], color=INK, linewidth=1, linestyle="--", label="chance")
    axes.set(xticks=layers, xlabel="layer (0: embeddings)")
    return finished(axes, ylim=(0, 1.05), ylabel="languages identified")


@rc_context(STYLE)
def reliability_curves(results: Results, setup: str) -> Figure:
    """Accuracy against confidence in each language, of a setup's first seed; the diagonal is calibrated.

    Bins of fewer than `SMALL_BIN` rows are left out; of more than `MANY` languages the least calibrated are drawn.
    """
    first = next(iter(results["setups"][setup]["seeds"].values()))
    axes = new_axes()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    curves = list((first["test"]["calibration"] or {}).items())
    if len(curves) > MANY:
        curves = sorted(curves, key=lambda item: -item[1]["expected_calibration_error"])[:MANY]
    for i, (language, curve) in enumerate(curves):
        points = [point for point in curve["bins"] if point["rows"] >= SMALL_BIN]
        x, y = ([point[key] for point in points] for key in ("confidence", "accuracy"))
        axes.plot(x, y, color=COLORS[i], marker=MARKERS[i], label=_shown(language))
    axes.set(xlabel="confidence", xlim=(0, 1))
    return finished(axes, "language", ylim=(0, 1.02), ylabel="accuracy", title=setup)


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an inline SVG without a background, its text and axes in the color of the page's text.

    Args:
        figure: as the functions of this module draw it.
        description: what it shows, for screen readers.

    The same figure gives the same text: no date, no random ids.
    """
    if figure.get_layout_engine() is not None:  # once: a second pass would move things by a hair
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    output = io.StringIO()
    with rc_context(STYLE | {"svg.hashsalt": "hf_langimb", "svg.fonttype": "none"}):
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = output.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def farthest(counts: Any) -> list[int]:
    """Positions of the rows to draw: all in order, or the `DRAWN` with most mutual information of rows and columns."""
    table = np.asarray(counts, dtype=np.float64)
    if len(table) <= DRAWN:
        return list(range(len(table)))
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    ratio = np.divide(table, expected, out=np.ones_like(table), where=table > 0)
    found: list[int] = np.argsort(-(table * np.log(ratio)).sum(axis=1), kind="stable")[:DRAWN].tolist()
    return found


def _row_shares(counts: Any) -> np.ndarray:
    """Each row divided by its sum; a row without counts is 0."""
    table = np.asarray(counts, dtype=np.float64)
    totals = table.sum(axis=1, keepdims=True)
    return np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)


def new_axes(width: float = 4.2, height: float = 2.9) -> Axes:
    """Axes at the left and bottom of a new figure of a size in inches."""
    axes = Figure(figsize=(width, height), layout="constrained").subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_color(INK)
    return axes


def _bars(
    axes: Axes, i: int, of: int, name: str | None, heights: Any, bounds: Any = None, first: int = 0, **caps: Any
) -> None:
    """Bars of the i-th of several names, next to those of the others from a place on, with [low, high] of each."""
    width = 0.8 / of
    places = first + np.arange(len(heights)) + (i - (of - 1) / 2) * width
    style: dict[str, Any] = {"facecolor": COLORS[i], "hatch": HATCHES[i], "edgecolor": INK, "linewidth": 0.6}
    axes.bar(places, heights, width, label=name and _shown(name), **style)
    if bounds is not None:
        low, high = np.array(bounds).T
        axes.errorbar(places, heights, [heights - low, high - heights], color=INK, **caps)


def _labeled(axes: Axes, rows: Sequence[str], columns: Sequence[Any], texts: Any, black: Any, title: str) -> Figure:
    """A heat map with the names of its rows and columns and a text in each cell, black where it is bright."""
    axes.set_xticks(range(len(columns)), [_wrapped(name) for name in columns])
    axes.set_yticks(range(len(rows)), [shown(name) for name in rows])
    for i, j in np.ndindex(black.shape):
        axes.text(j, i, texts[i][j], ha="center", va="center", color="black" if black[i, j] else "white")
    axes.tick_params(length=0)
    return finished(axes, title=title)


def finished(axes: Axes, names: str | None = None, **settings: Any) -> Figure:
    """The figure of axes with settings, and a legend at its right, where anything has a name."""
    axes.set(**settings)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(title=names, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
        legend.get_title().set_color(INK)
    figure = axes.get_figure(root=True)
    assert figure
    return figure


def _wrapped(name: Any) -> str:
    """A name in lines that fit under a column or bars."""
    return textwrap.fill(shown(name), 16)


def _shown(name: Any) -> str:
    """A name that matplotlib lists in a legend also if it begins with an underscore."""
    return f"\u200b{shown(name)}" if str(name).startswith("_") else shown(name)
