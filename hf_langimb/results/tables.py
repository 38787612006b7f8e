"""Tables of a run, read from results.json: as rows of text, as Markdown, and where a page has marks for them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_langimb.console import one_line
from hf_langimb.measures.attribution import SETS
from hf_langimb.results.schema import FORMS, read_results, represented

COLUMNS = (
    ("accuracy", "test.accuracy", ".3f"),
    ("dependence (bits)", "test.dependence_bits_corrected", ".4f"),
    ("reliance", "test.reliance", ".3f"),
    ("skew transfer", "test.skew_transfer", ".3f"),
    ("probe, test", "probe.test.accuracy", ".3f"),
    ("probe, external", "probe.external.accuracy", ".3f"),
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text too; all columns but the first are right-aligned."""
    header, *rows = ([_cell(value) for value in row] for row in (header, *rows))
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        padded = [str(first).ljust(widths[0]), *(str(c).rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


Cells = tuple[list[str], list[list[str]]]  # header, rows


def _cell(value: Any) -> str:
    """A value on one line, without what would end a cell."""
    return one_line(value).replace("|", "\\|").replace("<!--", "&lt;!--")


def file_name(text: str) -> str:
    """A name of a setup, label or data set as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "unnamed"


def setups_cells(results: dict[str, Any]) -> Cells:
    """One row a setup: accuracy, dependence, reliance, skew transfer and probe, with 95 % intervals over seeds."""
    columns = [c for c in COLUMNS if any(c[1] in setup["summary"] for setup in results["setups"].values())]
    rows = [
        [name, *(interval_text(setup["summary"].get(key), form) for _, key, form in columns)]
        for name, setup in results["setups"].items()
    ]
    return ["setup", *(title for title, _, _ in columns)], rows


def predictions_cells(results: dict[str, Any]) -> Cells:
    """Shares of predicted labels in each language on the balanced test set, mean over seeds (the paper's Table 2)."""
    rows = []
    for name, setup in results["setups"].items():
        for i, language in enumerate(results["languages"]):
            shares = [shares_of(metrics["test"]["predicted"][i]) for metrics in setup["seeds"].values()]
            means = [sum(column) / len(column) for column in zip(*shares, strict=True)]
            rows.append([name, language, *(f"{mean:.3f}" for mean in means)])
    return ["setup", "language", *map(str, results["labels"])], rows


def comparisons_cells(results: dict[str, Any]) -> Cells:
    """Differences between setups, paired by seed, with 95 % t intervals."""
    titles = {key: title for title, key, _ in COLUMNS}
    rows = [
        [
            f"{entry['setup']} - {entry['reference']}",
            titles[entry["metric"]],
            interval_text(entry["difference"], "+.3f"),
        ]
        for entry in results["comparisons"]
        if entry["metric"] in titles
    ]
    return ["difference", "measure", "mean [95 % interval]"], rows


def attributions_cells(results: dict[str, Any]) -> Cells:
    """Cumulative difference of the attributions at one threshold: result, control and unbiased form side by side."""
    found, marks = results["attributions"], represented(results)
    threshold = shown_threshold(found)
    entries = {
        (form, entry["label"], entry["language"]): entry
        for form in FORMS
        for entry in found[form]
        if entry["threshold"] == threshold
    }
    rows = []
    for label in results["labels"]:
        for language in sorted({language for _, of_label, language in entries if of_label == label}):
            mark = {1: " (over)", -1: " (under)"}.get(marks.get((label, language), 0), "")
            for tokens in SETS:
                cells = [difference_text(entries.get((form, label, language)), tokens) for form in FORMS]
                rows.append([label, f"{language}{mark}", tokens, *cells])
    return ["label", "language", "tokens", *FORMS], rows


def tokens_cells(results: dict[str, Any]) -> Cells:
    """Of the evaluation of one model: sums over positive, neutral and negative tokens, and their shares of all."""
    rows = [
        [
            entry["label"],
            entry["language"],
            *(f"{entry[kind]:+.3f} ({entry['token_shares'][kind]:.3f})" for kind in SETS),
        ]
        for entry in results["explained"]["tokens"]
    ]
    return ["label", "language", *(f"{kind} (share)" for kind in SETS)], rows


def base_values_cells(results: dict[str, Any]) -> Cells:
    """Base values of each setup, mean over seeds and texts, and their standard deviation over seeds and over texts."""
    found = results["attributions"]["base_values"]
    rows = [
        [
            name,
            *(f"{values['mean'][label]:.3f}" for label in results["labels"]),
            *(
                "-" if values[f"over_{what}"] is None else f"{values[f'over_{what}']:.4f}"
                for what in ("seeds", "examples")
            ),
        ]
        for name, values in found.items()
    ]
    return ["setup", *results["labels"], "SD over seeds", "SD over texts"], rows


def speed_cells(folder: Path) -> Cells:
    """Of the kept benchmarks of attributions, a row for each data set and type."""
    rows = []
    for path in sorted(folder.glob("attributions-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        low, median, high = (f"{value:.0f}" for value in found["tokens"])
        rows += [
            [
                found["data"],
                f"{median} ({low}-{high})",
                found["device"],
                dtype,
                f"{found['speed against shap'][dtype]:.1f} x",
                f"{engine['seconds / floor']:.2f} x",
            ]
            for dtype, engine in found["engine"].items()
        ]
    return ["data", "tokens", "device", "type", "examples a second, shap = 1", "time, floor = 1"], rows


def hub_cells(folder: Path) -> Cells:
    """Of the kept benchmark of publishing: seconds of a push and pull of all setups of a run over loopback."""
    found = json.loads((folder / "hub.json").read_text(encoding="utf-8"))
    cells = [str(len(found["setups"])), str(found["files"]), f"{found['bytes'] / 1e6:.1f}"]
    cells += [f"{found[key]:.2f}" for key in ("push", "pull", "hash and copy", "overhead")]
    return ["setups", "files", "MB", "push (s)", "pull (s)", "hash and copy (s)", "overhead (s)"], [cells]


def probes_cells(results: dict[str, Any]) -> Cells:
    """One row a setup and kind of text: the language probe with chance and its control, over seeds."""
    rows = []
    for name, setup in results["setups"].items():
        for text in ("test", "external"):
            probes = [metrics["probe"][text] for metrics in setup["seeds"].values()]
            if any(probe is None for probe in probes):
                continue
            means = [
                setup["summary"].get(f"probe.{text}.{key}") for key in ("accuracy", "bits_below_chance", "confidence")
            ]
            low, high = (sum(probe["control_interval"][end] for probe in probes) / len(probes) for end in (0, 1))
            control = sum(probe["control"] for probe in probes) / len(probes)
            chance = f"{sum(probe['chance'] for probe in probes) / len(probes):.3f}"
            shown = [interval_text(mean, ".3f") for mean in means]
            rows.append([name, text, shown[0], chance, f"{control:.3f} [{low:.3f}, {high:.3f}]", *shown[1:]])
    return ["setup", "text", "accuracy", "chance", "shuffled [99 %]", "bits below chance", "confidence"], rows


def languages_cells(results: dict[str, Any]) -> Cells:
    """Quality in each language; for a single seed with bootstrap intervals over examples."""
    rows = []
    for name, setup in results["setups"].items():
        seeds = [metrics["test"] for metrics in setup["seeds"].values()]
        for language in seeds[0]["by_language"]:
            cells = []
            for measure in ("accuracy", "macro_f1"):
                summary = setup["summary"].get(f"test.by_language.{language}.{measure}")
                if summary and len(seeds) == 1 and seeds[0]["intervals"]:
                    bounds = seeds[0]["intervals"]["by_language"].get(language, {}).get(measure)
                    if bounds:
                        summary |= dict(zip(("low", "high"), bounds, strict=True))
                cells.append(interval_text(summary, ".3f"))
            errors = [test["calibration"][language]["expected_calibration_error"] for test in seeds
                      if language in (test["calibration"] or {})]  # fmt: skip
            rows.append([name, language, *cells, f"{sum(errors) / len(errors):.3f}" if errors else "-"])
        worst = interval_text(setup["summary"].get("test.worst_cell_accuracy"), ".3f")
        rows.append([name, "worst cell", worst, "-", "-"])
    return ["setup", "language", "accuracy", "macro F1", "calibration error"], rows


def shown_threshold(attributions: dict[str, Any]) -> float:
    """The paper's .01 where it was measured, else the first."""
    thresholds = [entry["threshold"] for entry in attributions["result"]]
    return next((threshold for threshold in thresholds if threshold == 0.01), thresholds[0])


def shown_interval(entry: dict[str, Any], tokens: str) -> list[float] | None:
    """[low, high] of a part of a cumulative difference: over seeds, else over examples, else none."""
    return (entry["seed_intervals"] or entry["intervals"] or {}).get(tokens)


def difference_text(entry: dict[str, Any] | None, tokens: str) -> str:
    """A part of a cumulative difference with its 95 % interval, over seeds where there is one, else over examples."""
    if entry is None:
        return "-"
    low, high = shown_interval(entry, tokens) or (None, None)
    return interval_text({"mean": entry[tokens], "low": low, "high": high}, "+.3f")


def shares_of(counts: Sequence[int]) -> list[float]:
    """Each count divided by their sum, 0 where that is 0."""
    total = sum(counts) or 1
    return [count / total for count in counts]


def interval_text(value: dict[str, Any] | None, form: str) -> str:
    """An INTERVAL of results.json as text: "mean [low, high]", the mean alone for one seed, - for none."""
    if value is None:
        return "-"
    text = format(value["mean"], form)
    return text if value["low"] is None else f"{text} [{value['low']:{form}}, {value['high']:{form}}]"


def command_of(results: dict[str, Any]) -> str:
    """The command that makes a run of these results."""
    chosen = {"seeds": len(results["seeds"]), "seed": results["seeds"][0], "setups": list(results["setups"])}
    begin = f"accelerate launch recipes/{results['recipe']}.py"
    if results["recipe"] == "evaluate":
        begin, chosen = shlex.join([*begin.split(), results["config"]["model"], results["config"]["dataset"]]), {}
    else:
        begin += f" --config {results['config_name']}"
    flags = [
        f"--{key} {shlex.join(map(str, value if isinstance(value, list) else [value]))}"
        for key, value in (results.get("flags", {}) | chosen).items()
    ]
    return one_line(" ".join([begin, *flags]))


TABLES = {
    "predictions": predictions_cells,
    "setups": setups_cells,
    "comparisons": comparisons_cells,
    "attributions": attributions_cells,
    "base_values": base_values_cells,
}
BENCHMARKS = {"attributions": speed_cells, "hub": hub_cells}
_MARK = re.compile(r"(<!-- langimb:(?P<run>[\w/-]+):(?P<table>\w+) -->\n)(?:.*?\n)??(<!-- /langimb -->)", re.DOTALL)


def fill_marks(text: str, folder: str | Path) -> str:
    """Text whose `<!-- langimb:RUN:TABLE -->` ... `<!-- /langimb -->` marks hold the tables of folder/RUN/results.json.

    Args:
        text: Markdown.
        folder: of the kept results (`model_cards`).

    Raises:
        ValueError: a mark names no table, or its results cannot be read.
    """

    def render(mark: re.Match[str]) -> str:
        name, place = mark["table"], Path(folder, mark["run"])
        known = [*(BENCHMARKS if mark["run"] == "benchmarks" else TABLES)]
        if name not in known:
            raise ValueError(f"Unknown table {name!r} in a mark: choose one of {', '.join(known)}.")
        cells = BENCHMARKS[name](place) if mark["run"] == "benchmarks" else TABLES[name](read_results(place))
        return mark[1] + table(*cells) + "\n" + mark[4]

    return _MARK.sub(render, text)
