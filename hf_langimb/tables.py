"""Tables of text: an audit, and the two tables of a run, read from AUDIT and results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        padded = [str(first).ljust(widths[0]), *(str(c).rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def setups_table(results: dict[str, Any]) -> str:
    """One row a setup: accuracy, dependence, reliance, skew transfer and probe, with 95 % intervals over seeds."""
    columns = [c for c in COLUMNS if any(c[1] in setup["summary"] for setup in results["setups"].values())]
    rows = [
        [name, *(_interval(setup["summary"].get(key), form) for _, key, form in columns)]
        for name, setup in results["setups"].items()
    ]
    return table(["setup", *(title for title, _, _ in columns)], rows)


def predictions_table(results: dict[str, Any]) -> str:
    """Shares of predicted labels in each language on the balanced test set, mean over seeds (the paper's Table 2)."""
    rows = []
    for name, setup in results["setups"].items():
        for i, language in enumerate(results["languages"]):
            shares = [_shares(metrics["test"]["predicted"][i]) for metrics in setup["seeds"].values()]
            means = [sum(column) / len(column) for column in zip(*shares, strict=True)]
            rows.append([name, language, *(f"{mean:.3f}" for mean in means)])
    return table(["setup", "language", *map(str, results["labels"])], rows)


def comparisons_table(results: dict[str, Any]) -> str:
    """Differences between setups, paired by seed, with 95 % t intervals."""
    titles = {key: title for title, key, _ in COLUMNS}
    rows = [
        [
            f"{entry['setup']} - {entry['reference']}",
            titles[entry["metric"]],
            _interval(entry["difference"], "+.3f"),
        ]
        for entry in results["comparisons"]
        if entry["metric"] in titles
    ]
    return table(["difference", "measure", "mean [95 % interval]"], rows)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _interval(value: dict[str, Any] | None, form: str) -> str:
    if value is None:
        return "-"
    text = format(value["mean"], form)
    return text if value["low"] is None else f"{text} [{value['low']:{form}}, {value['high']:{form}}]"
