"""Figures of a run: told apart by colour-blind-safe colours *and* hatches, so that they read in grey as well."""

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
from hf_langimb.results.schema import FORMS, represented
from hf_langimb.results.tables import shown_interval, shown_threshold

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\")
MARKERS = ("o", "s", "^", "D", "v", "P")
SMALL_BIN = 20  # rows below which a bin of a reliability curve is noise
_INK = "#010203"  # stands for the page's text colour in an SVG


_STYLE: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
) | {
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # names may hold dollar signs
}
MANY = len(COLOURS)  # more languages than that are not told apart by colour


@rc_context(_STYLE)
def joint_heatmap(languages: Sequence[str], labels: Sequence[Any], counts: Any, title: str) -> Figure:
    """Shares of the labels in each language: of data, a plan or predictions.

    Args:
        languages, labels: the axes.
        counts: [L, C], counts or shares; each row is divided by its sum.
        title: of the figure.
    """
    shares = _row_shares(counts)
    figure, axes = _figure(1.6 + 1.1 * len(labels), 1.2 + 0.42 * len(languages))
    brightest = max(float(shares.max()), 2 / len(labels))  # even shares are of middle brightness
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=brightest, aspect="auto")
    axes.set_xticks(range(len(labels)), [str(label) for label in labels])
    axes.set_yticks(range(len(languages)), list(languages))
    for i, j in np.ndindex(shares.shape):
        bright = shares[i, j] > 0.45 * brightest
        axes.text(j, i, f"{100 * shares[i, j]:.0f} %", ha="center", va="center", color="black" if bright else "white")
    axes.set_title(title)
    axes.tick_params(length=0)
    return figure


@rc_context(_STYLE)
def prediction_bars(results: dict[str, Any], setup: str) -> Figure:
    """Shares of a setup's predicted labels in each language on the balanced test set, mean over seeds.

    The scale is the same for all setups of the run. More than `MANY` languages are drawn as a heat map.
    """
    languages, labels = results["languages"], results["labels"]
    shares = {name: _predicted_shares(values) for name, values in results["setups"].items()}
    if len(languages) > MANY:
        return joint_heatmap(languages, labels, shares[setup], setup)
    figure, axes = _figure(4.2, 2.9)
    width = 0.8 / len(languages)
    for i, language in enumerate(languages):
        places = np.arange(len(labels)) + (i - (len(languages) - 1) / 2) * width
        axes.bar(places, shares[setup][i], width, label=_shown(language), **_style(i))
    axes.axhline(1 / len(labels), color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(labels)), [str(label) for label in labels], rotation=20, ha="right")
    axes.set_ylim(0, 1.05 * max(float(table.max()) for table in shares.values()))
    axes.set_ylabel("share of predictions")
    axes.set_title(setup)
    _legend(axes, "language")
    return figure


def _predicted_shares(setup: dict[str, Any]) -> np.ndarray:
    return _row_shares(np.mean([metrics["test"]["predicted"] for metrics in setup["seeds"].values()], axis=0))


@rc_context(_STYLE)
def probe_bars(results: dict[str, Any]) -> Figure:
    """Accuracy of the language probe by setup, on test and external text, with 95 % intervals over seeds and chance."""
    setups = results["setups"]
    kinds = [kind for kind in ("test", "external") if _summaries(setups, f"probe.{kind}.accuracy")]
    figure, axes = _figure(max(2.1 + 0.7 * len(setups), 4.2), 2.9)
    width = 0.8 / max(len(kinds), 1)
    for i, kind in enumerate(kinds):
        for j, setup in enumerate(setups.values()):
            value = setup["summary"].get(f"probe.{kind}.accuracy")
            if value is None:
                continue
            place = j + (i - (len(kinds) - 1) / 2) * width
            axes.bar(place, value["mean"], width, label=f"{kind} text" if j == 0 else None, **_style(i))
            if value["low"] is not None:
                spread = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
                axes.errorbar(place, value["mean"], spread, color=_INK, capsize=3)
    chances = [value["mean"] for kind in kinds for value in _summaries(setups, f"probe.{kind}.chance")]
    if chances:
        axes.axhline(max(chances), color=_INK, linewidth=1, linestyle="--", label="chance")
    axes.set_xticks(range(len(setups)), list(setups))
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("languages identified")
    if kinds:
        _legend(axes)
    return figure


@rc_context(_STYLE)
def attribution_bars(results: dict[str, Any], form: str, label: str) -> Figure:
    """Cumulative difference of one label's attributions over positive, neutral and negative tokens, bars by language.

    The paper's figure: the threshold .01, 95 % intervals, over- and under-represented languages marked with a triangle
    up or down. The scale is the same for all labels and forms. More than `MANY` languages are drawn as a heat map.

    Args:
        results: of `read_results`, with attributions.
        form: result, control or unbiased.
        label: whose probability is attributed.
    """
    found, marks = results["attributions"], represented(results)
    threshold = shown_threshold(found)
    shown = [entry for kind in FORMS for entry in found[kind] if entry["threshold"] == threshold]
    entries = [e for e in found[form] if e["threshold"] == threshold and e["label"] == label]
    triangles = {1: " \u25b2", -1: " \u25bc", 0: ""}
    names = [f"{e['language']}{triangles[marks.get((label, e['language']), 0)]}" for e in entries]
    ends = [x for entry in shown for name in SETS for x in (entry[name], *(shown_interval(entry, name) or ()))]
    reach = 1.15 * max(map(abs, ends), default=1)
    if len(entries) > MANY:
        return _difference_heatmap(
            np.array([[e[name] for name in SETS] for e in entries]), names, reach, f"{form}: {label}"
        )
    figure, axes = _figure(4.2, 2.9)
    width = 0.8 / max(len(entries), 1)
    for i, (entry, shown_name) in enumerate(zip(entries, names, strict=True)):
        places = np.arange(3) + (i - (len(entries) - 1) / 2) * width
        heights = np.array([entry[name] for name in SETS])
        axes.bar(places, heights, width, label=_shown(shown_name), **_style(i))
        bounds = [shown_interval(entry, name) for name in SETS]
        if all(bounds):
            low, high = np.array(bounds).T
            axes.errorbar(places, heights, [heights - low, high - heights], fmt="none", color=_INK, capsize=2)
    axes.set_ylim(-reach, reach)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_xticks(range(3), SETS)
    axes.set_ylabel("difference")
    axes.set_title(f"{form}: {label}")
    _legend(axes, "language")
    return figure


def _difference_heatmap(values: np.ndarray, languages: Sequence[str], reach: float, title: str) -> Figure:
    """Signed values [languages, sets of tokens], dark at both ends of -reach to reach."""
    figure, axes = _figure(4.2, 1.2 + 0.3 * len(languages))
    axes.imshow(values, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_xticks(range(len(SETS)), SETS)
    axes.set_yticks(range(len(languages)), languages)
    for i, j in np.ndindex(values.shape):
        dark = abs(values[i, j]) > 0.6 * reach
        axes.text(j, i, f"{values[i, j]:+.3f}", ha="center", va="center", color="white" if dark else "black")
    axes.set_title(title)
    axes.tick_params(length=0)
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
    axes.set_xticks(layers)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("layer (0: embeddings)")
    axes.set_ylabel("languages identified")
    _legend(axes, loc="best")
    return figure


@rc_context(_STYLE)
def reliability_curves(results: dict[str, Any], setup: str) -> Figure:
    """Accuracy against confidence in each language, of a setup's first seed; the diagonal is calibrated.

    Bins of fewer than `SMALL_BIN` rows are left out; of more than `MANY` languages the least calibrated are drawn.
    """
    first = next(iter(results["setups"][setup]["seeds"].values()))
    figure, axes = _figure(4.2, 2.9)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    curves = (first["test"]["calibration"] or {}).items()
    if len(curves) > MANY:
        curves = sorted(curves, key=lambda item: -item[1]["expected_calibration_error"])[:MANY]
    for i, (language, curve) in enumerate(curves):
        points = [point for point in curve["bins"] if point["rows"] >= SMALL_BIN]
        axes.plot(
            [point["confidence"] for point in points],
            [point["accuracy"] for point in points],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            label=_shown(language),
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_title(setup)
    _legend(axes, "language")
    return figure


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an inline SVG without a background, its text and axes in the colour of the page's text.

    Args:
        figure: as the functions of this module draw it.
        description: what it shows, read aloud in its place.

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
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.title.set_color(_INK)
    return figure, axes


def _shown(name: Any) -> str:
    """A name as matplotlib lists it in a legend: it leaves out those that begin with an underscore."""
    return f"\u200b{name}" if str(name).startswith("_") else str(name)


def _legend(axes: Axes, title: str | None = None, **place: Any) -> None:
    """Beside the axes, in the colour of the page's text; none where nothing was drawn."""
    if axes.get_legend_handles_labels()[0]:
        place = place or {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        axes.legend(title=title, frameon=False, labelcolor=_INK, **place).get_title().set_color(_INK)


def _style(i: int) -> dict[str, Any]:
    return {
        "facecolor": COLOURS[i % len(COLOURS)],
        "hatch": HATCHES[i % len(HATCHES)],
        "edgecolor": _INK,
        "linewidth": 0.6,
    }


def _summaries(setups: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    return [setup["summary"][metric] for setup in setups.values() if metric in setup["summary"]]
