"""Tables of a run, read from results.json: as rows of text, as Markdown, and between the marks of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hf_langimb.console import one_line, shown
from hf_langimb.measures.attribution import SETS, TokenSet
from hf_langimb.results.schema import (
    FORMS,
    TEXTS,
    Attributions,
    Difference,
    Explained,
    ExplainedRows,
    Form,
    Metrics,
    Results,
)
from hf_langimb.results.summary import language_text, represented, tested_languages

COLUMNS = (
    ("accuracy", "test.accuracy", ".3f"),
    ("dependence (bits)", "test.dependence_bits_corrected", ".4f"),
    ("reliance", "test.reliance", ".3f"),
    ("skew transfer", "test.skew_transfer", ".3f"),
    ("probe, test", "probe.test.accuracy", ".3f"),
    ("probe, external", "probe.external.accuracy", ".3f"),
)
QUALITY = ("accuracy", "macro F1", "calibration error")
Cells = tuple[list[str], list[list[str]]]  # header, rows


def table(header: Sequence[str], rows: Sequence[Sequence[str]], plain: bool = False) -> str:
    """A Markdown table, padded so that it reads as plain text too; all columns but the first are right-aligned.

    `plain` is for a terminal: cells are shown as they are, without Markdown's escapes.
    """
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    if not plain:
        lines = [[escaped(cell).replace("|", "\\|") for cell in row] for row in lines]
    first, *rest = (max(map(len, column)) for column in zip(*lines, strict=True))
    padded = [
        [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], rest, strict=True))] for row in lines
    ]
    rule = "|".join(["", "-" * (first + 2), *("-" * (width + 1) + ":" for width in rest), ""])
    text = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([text[0], rule, *text[1:]])


def escaped(text: str, brackets: str = r"\](?=[(\[])") -> str:
    """Text without Markdown's marks and HTML; of brackets only links, as intervals contain others."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))
    return re.sub(rf"\\(?=[!-/:-@\[-`{{-~])|[`*~]|(?<![^\W_])_|_(?![^\W_])|{brackets}", r"\\\g<0>", text)


def grid_cells(rows: Sequence[Sequence[Any]], languages: Sequence[str], columns: Iterable[Any], form: str) -> Cells:
    """Numbers of each language by label, each as `form` formats it; rows without a language are left out."""
    cells = [[shown(name), *(format(value, form) for value in row)] for name, row in zip(languages, rows, strict=False)]
    return ["language", *map(shown, columns)], cells


def interval_text(value: Any, bounds: Sequence[float | None] | None = None, form: str = ".3f") -> str:
    """A number with bounds, or an INTERVAL, as text: "mean [low, high]", the mean alone without bounds, - for None."""
    if isinstance(value, dict):
        value, bounds = value["mean"], (value["low"], value["high"])
    if value is None:
        return "-"
    low, high = bounds or (None, None)
    return format(value, form) + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def file_name(text: str) -> str:
    """A name of a setup, label or dataset as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text)[:60].strip("-.") or "unnamed"  # in bytes at most a file system's 255


def file_names(names: Iterable[str], kind: str = "") -> dict[str, str]:
    """{name: file name of `kind` and the name}, all different, also where a file system takes A for a."""
    files: dict[str, str] = {}
    for name in names:
        file = file_name(kind + name)
        while file.casefold() in {known.casefold() for known in files.values()}:  # "a/b" and "a b"
            file += "_"
        files[name] = file
    return files


def columns_of(results: Results) -> list[tuple[str, str, str]]:
    """Title, measure and form of each column of a table of setups.

    On a test set that is skewed itself, dependence is that without the link of language and label: the other one is
    high for a perfect classifier, too.
    """
    first, of_target = (
        next(iter(results["setups"].values())),
        ("dependence_bits_corrected", "reliance", "skew_transfer"),
    )
    if "targets.independent.accuracy" not in first["summary"] or "test/balanced" in results["data"]:
        return [*COLUMNS]
    return [
        (title, f"targets.independent.{name}" if (name := key.rpartition(".")[2]) in of_target else key, form)
        for title, key, form in COLUMNS
    ]


def setups_cells(results: Results) -> Cells:
    """One row per setup: accuracy, dependence, reliance, skew transfer and probe, with 95% intervals over seeds."""
    known = {key for setup in results["setups"].values() for key in setup["summary"]}
    columns = [column for column in columns_of(results) if column[1] in known]
    rows = [
        [name, *(interval_text(setup["summary"].get(key), form=form) for _, key, form in columns)]
        for name, setup in results["setups"].items()
    ]
    return ["setup", *(title for title, _, _ in columns)], rows


def predictions_cells(results: Results) -> Cells:
    """Shares of predicted labels in each language on the test set, mean over seeds (the paper's Table 2)."""
    rows = []
    for name, setup in results["setups"].items():
        for i, language in enumerate(tested_languages(results)):
            counts = [metrics["test"]["predicted"][i] for metrics in setup["seeds"].values()]
            if not any(map(sum, counts)):
                continue  # a language of the training data alone
            shares = [[count / (sum(row) or 1) for count in row] for row in counts]
            rows.append(
                [
                    name,
                    language_text(results, language),
                    *(interval_text(mean_of(column)) for column in zip(*shares, strict=True)),
                ]
            )
    return ["setup", "language", *map(shown, results["labels"])], rows


def comparisons_cells(results: Results, setup: str | None = None) -> Cells:
    """Differences between setups, paired by seed, with 95% t intervals: all, or those of one setup."""
    titles = {key: title for title, key, _ in columns_of(results)}
    rows = [
        [f"{e['setup']} - {e['reference']}", titles[e["metric"]], interval_text(e["difference"], form="+.3f")]
        for e in results["comparisons"]
        if e["metric"] in titles and setup in (None, e["setup"], e["reference"])
    ]
    return ["difference", "measure", "mean [95% interval]"], rows


def shown_threshold(found: Attributions) -> float:
    """The paper's .01 where it was measured, else the first."""
    thresholds = [entry["threshold"] for entry in found["result"]]
    return next((threshold for threshold in thresholds if threshold == 0.01), thresholds[0])


def shown_entries(found: Attributions, form: Form) -> list[Difference]:
    """Cumulative differences of one form at `shown_threshold`."""
    threshold = shown_threshold(found)
    return [entry for entry in found[form] if entry["threshold"] == threshold]


def attributions_cells(results: Results) -> Cells:
    """Cumulative difference of the attributions at one threshold: a column each for result, control, unbiased form."""
    found, marks = results["attributions"], represented(results)
    assert found
    forms = [{(e["label"], e["language"]): e for e in shown_entries(found, form)} for form in FORMS]
    rows = []
    for label in results["labels"]:
        for language in sorted({cell[1] for entries in forms for cell in entries if cell[0] == label}):
            cell = label, language
            name = shown(language) + {1: " (over)", -1: " (under)", 0: ""}[marks.get(cell, 0)]
            for tokens in SETS:
                rows.append([shown(label), name, tokens, *(difference_text(form.get(cell), tokens) for form in forms)])
    return ["label", "language", "tokens", *FORMS], rows


def difference_text(entry: Difference | None, tokens: TokenSet) -> str:
    """A part of a cumulative difference with its 95% interval, over seeds where there is one, else over examples."""
    return "-" if entry is None else interval_text(entry[tokens], shown_interval(entry, tokens), "+.3f")


def shown_interval(entry: Difference, tokens: TokenSet) -> list[float] | None:
    """[low, high] of a part of a cumulative difference: over seeds, else over examples, else none."""
    return (entry["seed_intervals"] or entry["intervals"] or {}).get(tokens)


def tokens_cells(results: Results) -> Cells:
    """Of the evaluation of one model: sums over positive, neutral and negative tokens, and their shares of all."""
    found = results["explained"]
    assert found
    rows = [
        [
            shown(e["label"]),
            shown(e["language"]),
            *(f"{e[tokens]:+.3f} ({e['token_shares'][tokens]:.3f})" for tokens in SETS),
        ]
        for e in found["tokens"]
    ]
    return ["label", "language", *(f"{tokens} (share)" for tokens in SETS)], rows


def explained_text(found: Attributions | Explained) -> str:
    """How many rows were explained and why no more, and what a budget cut, in sentences; often none."""
    sentences = [rows_text(rows)] if (rows := found.get("rows")) else []
    if cut := found["truncated_share"]:
        sentences.append(
            f"For a share of {cut:.3f} of the rows, the budget was too small: tokens that were not separated share "
            "their contribution equally."
        )
    return " ".join(sentences)


def rows_text(rows: ExplainedRows) -> str:
    """How many rows were explained and why no more, in two sentences."""
    widest, tolerance = rows["widest"], rows["tolerance"]
    where = f"{widest['set']} tokens for {shown(widest['label'])} in {shown(widest['language'])}"
    half, number = f"{widest['half_width']:.3f}", f"{rows['used']:,} of {rows['available']:,} rows were explained"
    if rows["stopped"] == "precise":
        seeds = ""
        if widest["half_width"] > tolerance:
            seeds = " or at most half as wide as that over seeds, which more rows would not make narrower"
        return (
            f"{number}. No more are needed: every interval over rows is at most +/-{tolerance:g}{seeds} (the widest, "
            f"{where}: +/-{half})."
        )
    if widest["half_width"] <= tolerance:  # a single row has no interval
        return f"{number}, which is not enough: {shown(widest['language'])} has a single row."
    return (
        f"{number}. That is not enough for the tolerance of {tolerance:g}: an interval over rows is +/-{half} "
        f"({where}). All test rows were used: a narrower interval needs a larger test set."
    )


def base_values_cells(results: Results) -> Cells:
    """Base values of each setup, mean over seeds and texts, and their standard deviation over seeds and over texts."""
    assert results["attributions"]
    rows = []
    for name, values in results["attributions"]["base_values"].items():
        spreads = (interval_text(value, form=".4f") for value in (values["over_seeds"], values["over_examples"]))
        rows.append([name, *(f"{values['mean'][label]:.3f}" for label in results["labels"]), *spreads])
    return ["setup", *map(shown, results["labels"]), "SD over seeds", "SD over rows"], rows


def probes_cells(results: Results) -> Cells:
    """One row per setup and kind of text: the language probe with chance and its control, over seeds."""
    rows = []
    for name, setup in results["setups"].items():
        for text in TEXTS:
            probes = [probe for metrics in setup["seeds"].values() if (probe := metrics["probe"][text])]
            if len(probes) < len(setup["seeds"]):
                continue
            measures = (f"probe.{text}.{key}" for key in ("accuracy", "bits_below_chance", "confidence"))
            accuracy, *bits = (interval_text(setup["summary"].get(measure)) for measure in measures)
            chance, control = (mean_of(probe[key] for probe in probes) for key in ("chance", "control"))
            bounds = [mean_of(probe["control_interval"][end] for probe in probes) for end in (0, 1)]
            rows.append([name, text, accuracy, interval_text(chance), interval_text(control, bounds), *bits])
    return ["setup", "text", "accuracy", "chance", "shuffled [99%]", "bits below chance", "confidence"], rows


def probe_cells(metrics: Metrics) -> Cells:
    """One row per kind of text: the language probe of one model."""
    rows = []
    for text in TEXTS:
        if probe := metrics["probe"].get(text):
            shuffled = interval_text(probe["control"], probe["control_interval"])
            rows.append([text, f"{probe['rows']:,}", f"{probe['accuracy']:.3f}", f"{probe['chance']:.3f}", shuffled])
    return ["text", "rows", "accuracy", "chance", "shuffled [99%]"], rows


def languages_cells(results: Results) -> Cells:
    """Quality in each language, over seeds; for a single seed with bootstrap intervals over examples."""
    rows, tokens = [], results.get("tokens", {})
    for name, setup in results["setups"].items():
        models, summary = list(setup["seeds"].values()), setup["summary"]
        tests = [metrics["test"] for metrics in models]
        languages = [*tests[0]["by_language"], None]  # the last row is of all
        for language, (row, *cells) in zip(languages, quality_cells(models[0])[1], strict=True):
            if len(tests) > 1 and language is not None:
                measures = (f"test.by_language.{language}.{measure}" for measure in ("accuracy", "macro_f1"))
                curves = [test["calibration"][language] for test in tests if test["calibration"]]
                error = interval_text(mean_of(curve["expected_calibration_error"] for curve in curves))
                cells = [*(interval_text(summary.get(measure)) for measure in measures), error]
            elif len(tests) > 1:
                cells[0] = interval_text(summary.get("test.worst_cell_accuracy"))
            unknown = f"{tokens[language]['unknown_share']:.1%}" if language in tokens else "-"
            rows.append([name, row, *cells, *([unknown] if tokens else [])])
    return ["setup", "language", *QUALITY, *(["unknown tokens"] if tokens else [])], rows


def quality_cells(metrics: Metrics) -> Cells:
    """Quality of one model in each language, with bootstrap intervals over examples."""
    test = metrics["test"]
    bounds = test["intervals"]["by_language"] if test["intervals"] else {}
    rows = []
    for language, values in test["by_language"].items():
        interval, curve = bounds.get(language, {}), (test["calibration"] or {}).get(language)
        accuracy, f1 = (interval_text(values[key], interval.get(key)) for key in ("accuracy", "macro_f1"))
        rows.append([shown(language), accuracy, f1, interval_text(curve and curve["expected_calibration_error"])])
    rows.append(["worst label of a language", f"{test['worst_cell_accuracy']:.3f}", "-", "-"])
    return ["language", *QUALITY], rows


def mean_of(values: Iterable[float]) -> float | None:
    """Mean of numbers, None of none."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
