"""Figures of a run of cloned languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_langimb.cloned.results import (
    ONE_RATE,
    ClonedResults,
    SetupResults,
    alignments,
    at_own_rates,
    could_help,
    is_constant,
    minority,
    perplexity_interval,
)
from hf_langimb.results.plots import COLORS, INK, MARKERS, STYLE, finished, new_axes

ROUND = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8))  # first digits of ticks, the fewest that are enough


@rc_context(STYLE)
def minority_by_control(results: ClonedResults, names: Sequence[str]) -> Figure:
    """Perplexity of the minority of a setup, the first name, and of its controls, with 95% intervals over seeds.

    Filled: each at its own learning rate. Hollow: at the common learning rate, if it differs.
    """
    axes, places = new_axes(5.2, 1.1 + 0.36 * len(names)), np.arange(len(names))
    for place, name in enumerate(names):
        color, filled = COLORS[0] if place == 0 else COLORS[1], True
        for twin in (name, f"{name}{ONE_RATE}"):
            if twin in results["setups"]:
                middle, low, high = perplexity_interval(results["setups"][twin], minority(results["setups"][twin]))
                height = place + (0 if filled else 0.22)
                if low is not None and high is not None:
                    axes.hlines(height, low, high, color=color, linewidth=2)
                face: dict[str, Any] = {} if filled else {"markerfacecolor": "none"}
                axes.plot(middle, height, MARKERS[place > 0], color=color, markersize=6, markeredgecolor=INK, **face)
            filled = False
    _logarithmic(axes, "x")
    axes.set_yticks(places, [name.replace("_", " ") for name in names])
    axes.tick_params(axis="y", length=0)
    return finished(axes, ylim=(len(names) - 0.5, -0.5), xlabel="perplexity of the minority (log scale)")


@rc_context(STYLE)
def perplexity_by_tokens(series: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Perplexity of a language against its tokens, with a clone and in monolingual models; see `by_tokens`."""
    axes = new_axes()
    for i, (label, points) in enumerate(series.items()):
        shares, values = zip(*sorted(points), strict=True)
        style: dict[str, Any] = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 5, "label": label}
        axes.plot([100 * share for share in shares], values, **style)
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    return finished(axes, xlabel="tokens (% of the longest run)", ylabel="perplexity")


@rc_context(STYLE)
def alignment_by_layer(results: ClonedResults) -> Figure:
    """Cosine of the states of a text in both languages after each block, mean over seeds; dotted: chance."""
    axes = new_axes()
    for i, (name, of) in enumerate(aligned(results).items()):
        found = [one["hidden"] for one in alignments(of)]
        for key, line, label in (("cosine", "-", name.replace("_", " ")), ("cosine_chance", ":", None)):
            values = np.mean([[layer[key] for layer in layers] for layers in found], axis=0)
            style: dict[str, Any] = {
                "color": COLORS[i % len(COLORS)],
                "marker": MARKERS[i % len(MARKERS)] if label else None,
            }
            axes.plot(range(1, len(values) + 1), values, linestyle=line, label=label, **style)
    axes.set(xticks=range(1, values.size + 1), xlabel="block")
    return finished(axes, ylim=(-1.05, 1.05), ylabel="cosine similarity")


@rc_context(STYLE)
def during_training(results: ClonedResults) -> Figure:
    """Perplexity of the minority language and of another one of each setup during training, of the first seed.

    Vertical lines: where the stages of a schedule begin, in the color of its setup.
    """
    axes, first = new_axes(), str(results["seeds"][0])
    several = [(name, of) for name, of in at_own_rates(results["setups"]).items() if of["languages"] > 1]
    several.sort(key=lambda item: not could_help(item[1]))  # controls last: not all may be shown
    for i, (name, of) in enumerate(several[: len(COLORS)]):
        history = of["seeds"][first]["history"]
        steps = [entry["step"] for entry in history]
        rare, stages = minority(of), of["schedule"].split("_")
        for start in [] if is_constant(of) else range(1, len(stages)):
            axes.axvline(start * of["steps"] / len(stages), color=COLORS[i], linewidth=0.8, linestyle="--", zorder=0)
        for language in (of["languages"] - 1 if rare == 0 else 0, rare):
            values = [entry[f"perplexity_{language}"] for entry in history]
            line, label = ("-", name.replace("_", " ")) if language == rare else (":", None)
            axes.plot(steps, values, line, color=COLORS[i], marker=MARKERS[i], markersize=3, label=label)
    _logarithmic(axes, "y")
    return finished(axes, xlabel="optimizer step", ylabel="perplexity (log scale)")


def aligned(results: ClonedResults) -> dict[str, SetupResults]:
    """Setups whose first two languages are clones, at their own learning rates."""
    return {name: of for name, of in at_own_rates(results["setups"]).items() if alignments(of)}


def _logarithmic(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Give an axis a logarithmic scale with three ticks or more, at round numbers if there are enough."""
    axes.set(**{f"{axis}scale": "log"})
    scale = axes.xaxis if axis == "x" else axes.yaxis
    low, high = scale.get_view_interval()
    ticks: list[float] = []
    for factors in ROUND:
        found = [factor * 10.0**power for power in range(-1, 7) for factor in factors]
        ticks = [value for value in found if low <= value <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [float(f"{value:.3g}") for value in np.geomspace(low, high, 5)[1:-1]]
    scale.set_ticks(ticks, [f"{value:g}" for value in ticks])
    scale.set_ticks([], minor=True)
