"""Figures: what they draw is what results.json says, told apart without color, the same bytes each time."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection

import hf_langimb
from hf_langimb.results import plots
from hf_langimb.results.moved import Moved, Shares
from hf_langimb.results.schema import read_results

KEPT = Path(hf_langimb.__file__).parents[1] / "model_cards" / "xnli-mini"


@pytest.fixture
def results():
    return read_results(KEPT)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_heat_map_shows_the_share_of_each_cell():
    figure = plots.joint_heatmap(["en", "fr"], ["no", "yes"], [[30, 10], [0, 5]], "Training data")
    assert texts(figure.axes[0]) == ["75%", "25%", "0%", "100%"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["en", "fr"]
    empty = plots.joint_heatmap(["en", "fr"], ["no", "yes"], [[3, 1], [0, 0]], "One language without rows")
    assert texts(empty.axes[0])[2:] == ["0%", "0%"]


def test_long_names_of_labels_do_not_overlap(results):
    """The boxes of neighboring tick labels, drawn."""
    long = ["a label of forty characters, about so long", "another label of as many characters here", "a third one"]
    results["labels"] = long
    for figure in (
        plots.joint_heatmap(["en", "fr"], long, np.ones((2, 3)), "Training data"),
        plots.prediction_bars(results, "balanced"),
    ):
        figure.draw_without_rendering()
        ticks = figure.axes[0].get_xticklabels()
        assert [" ".join(tick.get_text().split()) for tick in ticks] == long
        assert all("\n" in tick.get_text() for tick in ticks[:2])
        if not ticks[0].get_rotation():
            boxes = [tick.get_window_extent() for tick in ticks]
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_prediction_bars_are_the_mean_shares(results):
    drawn = {name: plots.prediction_bars(results, name).axes[0] for name in results["setups"]}
    for name, axes in drawn.items():
        counts = np.mean([m["test"]["predicted"] for m in results["setups"][name]["seeds"].values()], axis=0)
        shares = counts / counts.sum(axis=1, keepdims=True)
        assert axes.get_title() == name
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(shares.ravel())
        assert len({bar.get_hatch() for bar in axes.patches}) == len(results["languages"])
    assert len({axes.get_ylim() for axes in drawn.values()}) == 1  # one scale


def test_probe_bars_with_intervals_and_chance_and_without_probe_or_calibration(results):
    axes = plots.probe_bars(results).axes[0]
    measures, setups = [f"probe.{kind}.accuracy" for kind in ("test", "external")], results["setups"].values()
    summaries = [setup["summary"][measure] for measure in measures for setup in setups]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([summary["mean"] for summary in summaries])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chance", "test text", "external text"]
    assert axes.lines[-1].get_ydata() == [0.5, 0.5]
    drawn = [bar.lines[2][0].get_segments()[0][:, 1].tolist() for bar in axes.containers if hasattr(bar, "has_yerr")]
    assert drawn == [pytest.approx([summary["low"], summary["high"]]) for summary in summaries]
    for left_out, bars in (("probe.external", 3), ("probe", 0)):
        for setup in results["setups"].values():
            setup["summary"] = {k: v for k, v in setup["summary"].items() if not k.startswith(left_out)}
        assert len(plots.probe_bars(results).axes[0].patches) == bars
    for metrics in results["setups"]["balanced"]["seeds"].values():
        metrics["test"]["calibration"] = None
    assert plots.to_svg(plots.reliability_curves(results, "balanced"), "curves").startswith("<svg")


@pytest.mark.parametrize("form", ["result", "control", "unbiased"])
def test_attributions_by_language_with_intervals_over_seeds(results, form):
    figure = plots.attribution_bars(results, "entailment", form)
    axes = figure.axes[0]
    entries = [e for e in results["attributions"][form] if (e["threshold"], e["label"]) == (0.01, "entailment")]
    names = ("positive", "neutral", "negative")
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([e[name] for e in entries for name in names])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["en ▼", "fr ▲"]
    bars = [bar for bar in axes.containers if hasattr(bar, "has_yerr")]
    drawn = [segment[:, 1].tolist() for bar in bars for segment in bar.lines[2][0].get_segments()]
    assert drawn == [pytest.approx(e["seed_intervals"][name]) for e in entries for name in names]
    assert axes.get_ylim() == plots.attribution_bars(results, "neutral", "control").axes[0].get_ylim()


def test_attributions_of_many_languages_are_a_heat_map(results):
    kept = [e for e in results["attributions"]["result"] if e["threshold"] == 0.01 and e["language"] == "fr"]
    more = [e | {"language": f"l{i}", "neutral": 0.01 * i} for i in range(9) for e in kept]
    results["attributions"] |= {"result": kept + more}
    axes = plots.attribution_bars(results, "entailment", "result").axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["fr ▲", *(f"l{i}" for i in range(9))]
    assert texts(axes)[4::3] == [f"{0.01 * i:+.3f}" for i in range(9)]


def test_of_many_languages_those_that_deviate_most_are_drawn_and_small_ones_do_not_come_first():
    counts = np.full((40, 2), 500)
    counts[7], counts[9], counts[11] = [900, 100], [1, 0], [600, 400]
    assert plots.farthest(counts)[:2] == [7, 11] and len(plots.farthest(counts)) == plots.DRAWN
    axes = plots.joint_heatmap([f"l{i}" for i in range(40)], ["no", "yes"], counts, "Training data").axes[0]
    assert axes.get_title() == "Training data: 30 of 40 languages"
    assert texts(axes)[:2] == ["90%", "10%"] and axes.get_yticklabels()[0].get_text() == "l7"
    assert plots.farthest(counts[:30]) == [*range(30)]


def test_the_first_figure_has_a_line_from_the_expected_to_the_predicted_share():
    plain = [Shares(0.3, 0.6, True), Shares(0.3, 0.1, True)]
    shares = {"plain": plain, "independence": [Shares(0.3, 0.35, False), Shares(0.3, 0.3, False)]}
    found = Moved("a label of forty characters, about so long", ["en", "_fr"], 3, [0.5, None], shares)
    figure = plots.moved_shares(found)
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["en", "_fr"]
    lines = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    drawn = [line[:, 0].tolist() for of_setup in lines for line in of_setup.get_segments()]
    assert drawn == [
        pytest.approx([100 * of.expected, 100 * of.predicted]) for of_setup in shares.values() for of in of_setup
    ]
    assert [{*of_setup.get_colors()[:, 3]} for of_setup in lines] == [{1.0}, {0.35}]  # pale where chance may explain it
    points = [line.get_xdata().tolist() for line in axes.lines if line.get_label().startswith("predicted")]
    assert points == [pytest.approx([60, 10]), pytest.approx([35, 30])]
    assert axes.lines[-1].get_xdata()[0] == 50 and np.isnan(axes.lines[-1].get_xdata()[1])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["predicted, plain", "predicted, independence", "expected without language", "true share"]
    assert len({line.get_marker() for line in axes.lines if line.get_label().startswith("predicted")}) == 2
    svg = plots.to_svg(figure, "moved")
    assert svg == plots.to_svg(plots.moved_shares(found), "moved")


def test_probe_by_layer():
    layer = {"chance": 0.5, "control_interval": [0.45, 0.55]}
    layers = [layer | {"layer": 0, "accuracy": 0.5}, layer | {"layer": 1, "accuracy": 0.9}]
    axes = plots.probe_by_layer({"layers": layers}).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [0.5, 0.9]


def test_reliability_curves_are_those_of_the_first_seed_without_small_bins(results):
    bins = results["setups"]["balanced"]["seeds"]["0"]["test"]["calibration"]["en"]["bins"]
    bins[-1]["rows"] = plots.SMALL_BIN - 1
    axes = plots.reliability_curves(results, "balanced").axes[0]
    shown = [point["accuracy"] for point in bins if point["rows"] >= plots.SMALL_BIN]
    assert axes.lines[1].get_ydata().tolist() == shown and 0 < len(shown) < len(bins)
    assert len({line.get_marker() for line in axes.lines[1:]}) == 2


DRAWN = [("prediction_bars", ["weighted"]), ("probe_bars", []), ("reliability_curves", ["weighted"])]


@pytest.mark.parametrize(("draw", "setup"), DRAWN)
def test_an_svg_is_the_same_each_time_and_takes_the_color_of_the_page(results, draw, setup):
    figures, described = [getattr(plots, draw)(results, *setup) for _ in range(2)], 'a "description" <of> it'
    text = plots.to_svg(figures[0], described)
    assert text == plots.to_svg(figures[0], described) == plots.to_svg(figures[1], described)
    assert text.startswith('<svg role="img" aria-label="a &quot;description&quot; &lt;of&gt; it"')
    assert "currentColor" in text and "#010203" not in text
    assert not re.search(r"<dc:date>|<script|<image", text)
    assert "<text" in text  # text stays text: it can be selected and read aloud


def many_languages(results, names):
    """The results with other, or more, languages."""
    for setup in results["setups"].values():
        for metrics in setup["seeds"].values():
            test = metrics["test"]
            test["predicted"] = [test["predicted"][i % 2] for i in range(len(names))]
            curves = list(test["calibration"].values())
            test["calibration"] = {name: curves[i % 2] for i, name in enumerate(names)}
    return results | {"languages": names}


def test_many_languages_are_drawn_so_that_they_can_be_told_apart_by_their_names(results):
    for number in (7, 15, 40):
        results = many_languages(results, [f"l{i}" for i in range(number)])
        figure = plots.prediction_bars(results, "balanced")
        figure.draw_without_rendering()
        axes = figure.axes[0]
        drawn = [tick.get_text() for tick in axes.get_yticklabels()]
        assert len({*drawn}) == min(number, plots.DRAWN) and {*drawn} <= {*results["languages"]}
        assert number > plots.DRAWN or drawn == results["languages"]
        assert axes.get_window_extent().height > 12 * min(number, plots.DRAWN)
        curves = plots.reliability_curves(results, "balanced").axes[0]
        assert len(curves.lines) == 1 + plots.MANY
        assert len({(line.get_color(), line.get_marker()) for line in curves.lines[1:]}) == plots.MANY
    results = many_languages(results, ["_fr", "$x_{$"]) | {"labels": ["under $5", "$5-$10", "a < b & c"]}
    for figure in (plots.prediction_bars(results, "balanced"), plots.reliability_curves(results, "balanced")):
        svg = plots.to_svg(figure, "names")
        assert "_fr" in svg and "$x_{$" in svg
    assert "under $5" in plots.to_svg(plots.prediction_bars(results, "balanced"), "labels")
