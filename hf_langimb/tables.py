"""Tables of text: an audit, and the two tables of a run, read from AUDIT and results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_langimb.distribution import SMALL_CELL, JointDistribution

COLUMNS = (
    ("accuracy", "test.accuracy", ".3f"),
    ("dependence (bits)", "test.dependence_bits_corrected", ".4f"),
    ("reliance", "test.reliance", ".3f"),
    ("skew transfer", "test.skew_transfer", ".3f"),
    ("probe, test", "probe.test.accuracy", ".3f"),
    ("probe, external", "probe.external.accuracy", ".3f"),
)
SHOWN_LANGUAGES, SHOWN_LABELS = 12, 8  # of an audit's table; its JSON has all


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


def audit_text(audit: dict[str, Any]) -> str:
    """An AUDIT for people: verdict, table, measures in words, what to do next."""
    counts = JointDistribution(audit["languages"], audit["labels"], audit["counts"])
    link = _link(counts, audit)
    parts = [
        _verdict(counts, audit, link),
        f"{counts.rows:,} rows, {len(counts.languages)} languages, {len(counts.labels)} labels",
        _counts_table(counts, audit),
        _measures(counts, audit),
    ]
    if audit["weighting"] != "none":
        parts.append(_weights_table(counts, audit))
    return "\n\n".join([*parts, _advice(audit, link)])


def _link(counts: JointDistribution, audit: dict[str, Any]) -> str:
    """How labels hang on language: strong, slight, none, unknown or undefined.

    The rule: beyond chance if Pearson's chi^2 test gives p < 0.001, and strong if bias-corrected Cramér's V is 0.05 or
    more besides; not beyond chance and under 5 rows a cell on average: unknown.
    """
    from scipy.special import chdtrc

    if audit["cramers_v"] is None:
        return "undefined"
    used_languages, used_labels = (int((counts.counts.sum(axis=axis) > 0).sum()) for axis in (1, 0))
    if chdtrc((used_languages - 1) * (used_labels - 1), counts.chi_squared) < 0.001:
        return "strong" if (audit["cramers_v_corrected"] or 0) >= 0.05 else "slight"
    return "none" if counts.rows >= 5 * used_languages * used_labels else "unknown"


def _verdict(counts: JointDistribution, audit: dict[str, Any], link: str) -> str:
    bits, chance = (_bits(audit[f"mutual_information_{name}bits"]) for name in ("", "chance_"))
    if link == "undefined":
        axis, what = (
            (counts.languages, "language") if (counts.counts.sum(axis=1) > 0).sum() < 2 else (counts.labels, "label")
        )
        used = counts.counts.sum(axis=1 if what == "language" else 0) > 0
        return f"only one {what} ({axis[int(used.argmax())]}): labels cannot depend on language here"
    if link == "unknown":
        return (
            f"too few rows to tell whether labels depend on language: {bits} bits, where chance alone gives {chance} "
            f"in {counts.rows:,} rows"
        )
    if link == "none":
        return f"labels do not depend on language beyond chance: {bits} bits, where chance alone gives {chance}"
    known, majority = audit["language_only_accuracy"], audit["majority_accuracy"]
    if known - majority < 0.0005:
        guess = f"knowing only the language scores no more than always the same label ({majority:.0%})"
    else:
        digits = 0 if known - majority >= 0.01 else 1
        guess = f"knowing only the language already scores {known:.{digits}%} (majority {majority:.{digits}%})"
    return f"labels depend on language{' slightly' * (link == 'slight')}: {bits} bits; {guess}".replace("%", " %")


def _counts_table(counts: JointDistribution, audit: dict[str, Any]) -> str:
    """Counts with row shares and marks; of many languages or labels those with the most mutual information."""
    languages, labels = _shown(counts)
    table_of_marks = np.array(
        [
            [
                ("+" if residual > 3 else "-" if residual < -3 else "") + "!" * (rows < SMALL_CELL)
                for rows, residual in zip(*cells, strict=True)
            ]
            for cells in zip(audit["counts"], audit["residuals"], strict=True)
        ]
    )
    rows = []
    for i in languages:
        total = sum(audit["counts"][i])
        cells = [
            f"{audit['counts'][i][j]:,} {audit['row_shares'][i][j] or 0:4.0%}"
            + str(table_of_marks[i, j]).ljust(max(map(len, table_of_marks[languages, j])))
            for j in labels
        ]
        divergences = audit["kl_divergence_bits"][i], audit["total_variation"][i]
        rows.append([counts.languages[i], f"{total:,}", *cells, *(f"{value:.3f}" for value in divergences)])
    header = ["language", "rows", *(str(counts.labels[j]) for j in labels), "KL (bits)", "TV"]
    return "\n".join([table(header, rows), *_legend(counts, audit, table_of_marks[np.ix_(languages, labels)])])


def _shown(counts: JointDistribution) -> tuple[list[int], list[int]]:
    """Positions of the languages and labels to show: all in order, or those that hold most mutual information."""
    ratio = np.divide(counts.counts, counts.expected, out=np.ones(counts.counts.shape), where=counts.counts > 0)
    information = counts.counts * np.log2(ratio)  # its sums by language are rows * KL, its whole is rows * MI
    return tuple(
        list(range(len(by))) if len(by) <= most else np.argsort(-by, kind="stable")[:most].tolist()
        for by, most in ((information.sum(axis=1), SHOWN_LANGUAGES), (information.sum(axis=0), SHOWN_LABELS))
    )  # type: ignore[return-value]


def _legend(counts: JointDistribution, audit: dict[str, Any], marks: np.ndarray) -> list[str]:
    lines = [
        f"({hidden} more {what} not shown; these hold the most mutual information)"
        for what, hidden in (
            ("languages", len(counts.languages) - SHOWN_LANGUAGES),
            ("labels", len(counts.labels) - SHOWN_LABELS),
        )
        if hidden > 0
    ]
    lines.append("Cells: rows and their share of the language. KL, TV: Kullback-Leibler divergence and total variation")
    lines.append("of the language's labels from all data's.")
    used = "".join(marks.ravel())
    if "+" in used or "-" in used:
        lines.append("+ - many more or fewer rows than independence gives (adjusted residual beyond 3).")
    if "!" in used:
        lines.append(f"! under {SMALL_CELL} rows.")
    for what, cells in (("without rows", audit["missing_cells"]), (f"under {SMALL_CELL} rows", audit["small_cells"])):
        if cells:
            names = ", ".join(f"({language}, {label})" for language, label, *_ in cells[:6])
            lines.append(f"Cells {what}: {len(cells)}: {names}" + (", ..." if cells[6:] else "."))
    return lines


def _measures(counts: JointDistribution, audit: dict[str, Any]) -> str:
    relative, share = audit["relative_mutual_information"], audit["effective_sample_size_ratio"]
    lines = [
        f"mutual information: {_bits(audit['mutual_information_bits'])} bits"
        + ("" if relative is None else f", {relative:.1%} of the label's entropy")
        + f" (chance alone: {_bits(audit['mutual_information_chance_bits'])} bits)"
    ]
    if audit["cramers_v"] is not None:
        corrected = audit["cramers_v_corrected"]
        lines.append(
            f"Cramér's V: {audit['cramers_v']:.3f}"
            + ("" if corrected is None else f", bias-corrected {corrected:.3f}")
            + " (0 independent, 1 determined)"
        )
    lines.append(
        f"accuracy from language alone: {audit['language_only_accuracy']:.1%}"
        f" (always the same label: {audit['majority_accuracy']:.1%})"
    )
    lines.append(
        f"effective sample size, class_weighting {audit['weighting']}: {share:.1%} ({share * counts.rows:,.0f} rows)"
    )
    return "\n".join(f"- {line}" for line in lines).replace("%", " %")


def _weights_table(counts: JointDistribution, audit: dict[str, Any]) -> str:
    languages, labels = _shown(counts)
    rows = [[counts.languages[i], *(f"{audit['weights'][i][j]:.3f}" for j in labels)] for i in languages]
    return "\n".join(
        [
            f"Class weights, {audit['weighting']}" + " (cells without rows: 0)" * bool(audit["missing_cells"]),
            "",
            table(["language", *(str(counts.labels[j]) for j in labels)], rows),
        ]
    )


def _advice(audit: dict[str, Any], link: str) -> str:
    if link in ("none", "undefined"):
        return "Next: nothing needed; train with class_weighting='none'."
    if link == "unknown":
        return "Next: collect rows, or audit the data set that this is a sample of."
    if audit["weighting"] == "none":
        text = (
            "Next: train with LangImbTrainer and class_weighting='independence' (keeps the shares of languages and of\n"
            "labels) or 'per_language' (labels even in each language); --weighting NAME shows the weights and what\n"
            "they cost. accelerate launch recipes/xnli.py shows the effect and the cure."
        )
    else:
        text = f"Next: train with LangImbTrainer and class_weighting={audit['weighting']!r}."
    if audit["missing_cells"]:
        text += "\nCells without rows: collect some, or say missing_cell_policy='ignore' or 'smooth'."
    return text


def _bits(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"
