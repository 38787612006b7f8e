"""What the commands of `langimb` print for people: an answer first, then its numbers, then what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.console import one_line
from hf_langimb.counts.distribution import SMALL_CELL, JointDistribution
from hf_langimb.models.axes import read_axes
from hf_langimb.results.schema import FILE_NAME, read_results
from hf_langimb.results.tables import (
    attributions_cells,
    base_values_cells,
    setups_cells,
    shares_of,
    shown_threshold,
    table,
)

SHOWN_LANGUAGES, SHOWN_LABELS = 12, 8  # of an audit's table; its JSON has all


def audit_text(audit: dict[str, Any]) -> str:
    """An AUDIT for people: verdict, table, measures in words, what to do next."""
    counts = JointDistribution(audit["languages"], audit["labels"], audit["counts"])
    link = _link(counts, audit)
    sizes = ((counts.rows, "row"), (len(counts.languages), "language"), (len(counts.labels), "label"))
    size = ", ".join(f"{number:,} {what}{'' if number == 1 else 's'}" for number, what in sizes)
    parts = [_verdict(counts, audit, link), size, _counts_table(counts, audit), _measures(counts, audit)]
    if audit["weighting"] != "none":
        parts.append(_weights_table(counts, audit))
    return "\n\n".join([*parts, _advice(audit, link)])


def probe_report(found: dict[str, Any]) -> str:
    """What `langimb probe` found, for people: verdict, one row a layer, confusion of the best, how it was measured."""
    best = max(found["layers"], key=lambda probe: probe["accuracy"])
    entropy = _entropy_bits([sum(row) for row in best["confusion"]])
    where = f" (layer {best['layer']})" if len(found["layers"]) > 1 else ""
    verdict = (
        f"the language of {_percent(best['accuracy'])} of {best['rows']:,} rows can be read off the features{where}; "
        f"chance is {_percent(best['chance'])}"
    )
    rows = [
        [
            str(probe["layer"]),
            f"{probe['accuracy']:.3f}",
            f"{probe['bits_below_chance']:.3f}",
            f"{probe['confidence']:.3f}",
            f"{probe['control']:.3f} [{probe['control_interval'][0]:.3f}, {probe['control_interval'][1]:.3f}]",
            "yes" if probe["converged"] else "no",
        ]
        for probe in found["layers"]
    ]
    header = ["layer", "accuracy", f"bits of {entropy:.2f}", "confidence", "shuffled [99 %]", "converged"]
    confusion = [
        [language, *(f"{number:,}" for number in row)]
        for language, row in zip(best["languages"], best["confusion"], strict=True)
    ]
    method = (
        f"Features: {found['pooling']} of {found['model']} on {' and '.join(found['text_columns'])}. Probe: logistic "
        f"regression, C = {found['C']:g}, out of {best['folds']} folds, rows of one id in one fold.\n"
        "bits: what the probe knows of the language, below chance; shuffled: the same probe on shuffled languages."
    )
    return "\n\n".join(
        [
            verdict,
            table(header, rows),
            f"Named by the probe{where}\n\n{table(['language', *best['languages']], confusion)}",
            method,
            "Next: --layer all for every layer; train on balanced or weighted data and probe again to compare.",
        ]
    )


def explained_report(manifest: dict[str, Any], examples: Any, folder: Path) -> str:
    """What `langimb explain` wrote, for people: how much of it, what was cut short, what to do next."""
    number = len(examples)
    forwards, cut = (sum(examples[name].to_pylist()) for name in ("forwards", "truncated"))
    lines = [
        f"Written: {folder} ({number:,} examples, {forwards / number:,.0f} different forward passes each)",
        f"Method: {manifest['method']}, masking {manifest['masking']} with {manifest['mask_token']}, budget "
        f"{manifest['budget'] or 'full'}, {manifest['dtype']}",
    ]
    if cut:
        lines.append(
            f"{_percent(cut / number)} of the examples needed more than the budget: what it left unopened is shared "
            "equally among neighbouring tokens (--budget raises it)."
        )
    if manifest["truncated_texts"]:
        lines.append(f"{manifest['truncated_texts']:,} texts were longer than the model reads and were cut.")
    lines.append(
        f"Next: AttributionStore({str(folder)!r}).to_explanation([0]) for shap's plots; explain a second model on the "
        "same rows and call cumulative_difference on the two."
    )
    return "\n".join(lines)


def pulled_report(folder: Path) -> str:
    """What `langimb pull` brought, for people: what the model knows, how good it is, what to do next."""
    lines = [f"Written: {folder}"]
    if known := read_axes(folder):
        labels, languages = ", ".join(known["label_names"]), ", ".join(known["languages"])
        lines.append(one_line(f"Labels {labels}; languages {languages}; class weights {known['class_weighting']}"))
    if (folder / FILE_NAME).is_file():
        try:
            lines.append("\n" + table(*setups_cells(read_results(folder))) + "\n")
        except ValueError:
            lines.append(f"Its {FILE_NAME} cannot be read: the model can be used, what was measured is not known.")
        lines.append(f"What was measured: {folder / 'report.html'}")
    lines.append(f"Next: load_run({str(folder)!r}), or langimb probe and langimb explain {folder} YOUR_DATA.")
    return "\n".join(lines)


def compared_report(results: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The attributions of a run, and the same for people.

    Raises:
        ValueError: the run has none.
    """
    found = results["attributions"]
    if not found:
        raise ValueError(
            "This run has no attributions to compare: run the recipe with explain_rows and the setups balanced and "
            "imbalanced."
        )
    over = "seeds" if len(found["seeds"]) > 3 else "examples"
    seeds = ", ".join(map(str, found["seeds"]))
    text = [
        f"{found['setup']} - {found['reference']}: change of the sums over positive, neutral and negative tokens "
        f"(threshold {shown_threshold(found)}, {found['examples']:,} examples, seeds {seeds})",
        table(*attributions_cells(results)),
        f"{_percent(found['truncated_share'])} of the examples needed more than the budget: what it left unopened is "
        "shared equally among neighbouring tokens.",
        f"95 % intervals over {over}. result: tokens selected by the model that is subtracted, as in the paper; "
        "control: a second balanced model in the imbalanced one's place; unbiased: result - control.",
        "Base values: what a model gives where every token is masked\n\n" + table(*base_values_cells(results)),
    ]
    if not found["unbiased"]:
        text.append("Next: --seeds 5 gives the control (two seeds) and the unbiased form (three), and intervals.")
    return found, "\n\n".join(text)


def _entropy_bits(counts: Sequence[int]) -> float:
    shares = np.array(shares_of(counts))
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


def _link(counts: JointDistribution, audit: dict[str, Any]) -> str:
    """How labels hang on language: strong, slight, none, unknown, or undefined (a single language or label).

    The rule: beyond chance if Pearson's chi^2 test gives p < 0.001, and strong if besides the bias-corrected Cramér's V
    is 0.05 or more; not beyond chance, but with fewer than 5 rows a cell on average: unknown.
    """
    if audit["cramers_v"] is None:
        return "undefined"
    if _p_value(counts) < 0.001:
        return "strong" if (audit["cramers_v_corrected"] or 0) >= 0.05 else "slight"
    languages, labels = (np.count_nonzero(counts.counts.sum(axis=axis)) for axis in (1, 0))
    return "none" if counts.rows >= 5 * languages * labels else "unknown"


def _p_value(counts: JointDistribution) -> float:
    """Of Pearson's chi^2 test that language and label are independent."""
    from scipy.special import chdtrc

    languages, labels = (np.count_nonzero(counts.counts.sum(axis=axis)) for axis in (1, 0))
    return float(chdtrc((languages - 1) * (labels - 1), counts.chi_squared))


def _verdict(counts: JointDistribution, audit: dict[str, Any], link: str) -> str:
    bits, chance = (_bits(audit[f"mutual_information_{name}bits"]) for name in ("", "chance_"))
    if link == "undefined":
        languages, labels = (np.flatnonzero(counts.counts.sum(axis=axis)) for axis in (1, 0))
        only = f"language ({counts.languages[languages[0]]})"
        if len(languages) > 1:
            only = f"label ({counts.labels[labels[0]]})"
        return f"only one {only}: labels cannot depend on language here"
    if link in ("none", "unknown"):
        within = f"{bits} bits (chance alone: {chance} on average; p = {_p_value(counts):.2g})"
        if link == "unknown":
            return f"{counts.rows:,} rows are too few to tell whether labels depend on language: {within}"
        return f"labels do not depend on language beyond chance: {within}"
    known, majority = audit["language_only_accuracy"], audit["majority_accuracy"]
    digits = 0 if known - majority >= 0.01 else 1
    if known - majority < 0.0005:
        guess = f"knowing only the language scores no more than always the same label ({_percent(majority)})"
    else:
        guess = f"knowing only the language already scores {_percent(known, digits)}"
        guess += f" (majority {_percent(majority, digits)})"
    return f"labels depend on language{' slightly' if link == 'slight' else ''}: {bits} bits; {guess}"


def _counts_table(counts: JointDistribution, audit: dict[str, Any]) -> str:
    """Counts with row shares and marks; of many languages or labels those that hold most mutual information."""
    languages, labels = _shown(counts)
    marks = np.where(counts.residuals > 3, "+", np.where(counts.residuals < -3, "-", ""))
    marks = np.char.add(marks, np.where(counts.counts < SMALL_CELL, "!", ""))
    widths = np.char.str_len(marks[languages]).max(axis=0)
    rows = []
    for i in languages:
        cells = [
            f"{audit['counts'][i][j]:,} {audit['row_shares'][i][j] or 0:4.0%}{marks[i, j]:{widths[j]}}" for j in labels
        ]
        divergences = audit["kl_divergence_bits"][i], audit["total_variation"][i]
        rows.append([counts.languages[i], f"{sum(audit['counts'][i]):,}", *cells, *(f"{d:.3f}" for d in divergences)])
    header = ["language", "rows", *(str(counts.labels[j]) for j in labels), "KL (bits)", "TV"]
    used = "".join(marks[np.ix_(languages, labels)].ravel())
    return "\n".join([table(header, rows), *_legend(audit, used)])


def _shown(counts: JointDistribution) -> tuple[list[int], list[int]]:
    """Positions of the languages and labels to show: all in order, or those that hold most mutual information first."""
    ratio = np.divide(counts.counts, counts.expected, out=np.ones(counts.counts.shape), where=counts.counts > 0)
    information = counts.counts * np.log2(ratio)  # summed over labels: rows * KL; over the table: rows * MI

    def largest(values: np.ndarray, most: int) -> list[int]:
        return list(range(len(values))) if len(values) <= most else np.argsort(-values, kind="stable")[:most].tolist()

    return largest(information.sum(axis=1), SHOWN_LANGUAGES), largest(information.sum(axis=0), SHOWN_LABELS)


def _legend(audit: dict[str, Any], used_marks: str) -> list[str]:
    lines = [
        f"({len(audit[axis]) - most} more {axis} not shown, none with more mutual information than these)"
        for axis, most in (("languages", SHOWN_LANGUAGES), ("labels", SHOWN_LABELS))
        if len(audit[axis]) > most
    ]
    lines.append(
        "Cells: rows, share of the language. KL, TV: divergence and total variation from the labels of all data."
    )
    if "+" in used_marks or "-" in used_marks:
        lines.append("+ - far more or fewer rows than independence gives (adjusted residual beyond 3).")
    if "!" in used_marks:
        lines.append(f"! under {SMALL_CELL} rows.")
    for what, cells in (("without rows", audit["missing_cells"]), (f"under {SMALL_CELL} rows", audit["small_cells"])):
        if cells:
            names = ", ".join(f"({language}, {label})" for language, label, *_ in cells[:6])
            lines.append(f"Cells {what} ({len(cells):,}): {names}{', ...' if cells[6:] else ''}")
    return lines


def _measures(counts: JointDistribution, audit: dict[str, Any]) -> str:
    relative, corrected = audit["relative_mutual_information"], audit["cramers_v_corrected"]
    share = audit["effective_sample_size_ratio"]
    lines = [
        f"mutual information: {_bits(audit['mutual_information_bits'])} bits"
        + ("" if relative is None else f", {_percent(relative)} of the label's entropy")
        + f" (chance alone: {_bits(audit['mutual_information_chance_bits'])} on average)",
        f"accuracy from language alone: {_percent(audit['language_only_accuracy'])}"
        f" (always the same label: {_percent(audit['majority_accuracy'])})",
        f"effective sample size under class_weighting {audit['weighting']!r}: {_percent(share)}"
        f" ({share * counts.rows:,.0f} rows)",
    ]
    if audit["cramers_v"] is not None:
        bias_free = "" if corrected is None else f", bias-corrected {corrected:.3f}"
        lines.insert(1, f"Cramér's V: {audit['cramers_v']:.3f}{bias_free} (0 independent, 1 determined)")
    return "\n".join(f"- {line}" for line in lines)


def _weights_table(counts: JointDistribution, audit: dict[str, Any]) -> str:
    languages, labels = _shown(counts)
    rows = [[counts.languages[i], *(f"{audit['weights'][i][j]:.3f}" for j in labels)] for i in languages]
    title = f"Class weights, {audit['weighting']}{' (0 where there are no rows)' if audit['missing_cells'] else ''}"
    return f"{title}\n\n{table(['language', *(str(counts.labels[j]) for j in labels)], rows)}"


def _advice(audit: dict[str, Any], link: str) -> str:
    if link in ("none", "undefined"):
        return "Next: nothing needed; train with class_weighting='none'."
    if link == "unknown":
        return "Next: collect rows, or audit the whole data set that this is a sample of."
    text = f"Next: train with LangImbTrainer and class_weighting={audit['weighting']!r}."
    if audit["weighting"] == "none":
        text = (
            "Next: train with LangImbTrainer and class_weighting='independence' (keeps the shares of languages and of\n"
            "labels) or 'per_language' (labels even in each language); --weighting NAME shows the weights and what\n"
            "they cost. accelerate launch recipes/xnli.py shows the effect and the cure."
        )
    if audit["missing_cells"]:
        text += "\nCells without rows: collect some, or set missing_cell_policy='ignore' or 'smooth'."
    return text


def _bits(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
