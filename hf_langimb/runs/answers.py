"""What the commands of `langimb` print for people: an answer first, then its numbers, then what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.console import one_line
from hf_langimb.counts.distribution import SMALL_CELL
from hf_langimb.counts.verdict import Audit, bits_text
from hf_langimb.models.axes import read_axes
from hf_langimb.results.schema import FILE_NAME, Attributions, Results, read_results
from hf_langimb.results.tables import attributions_cells, base_values_cells, grid, setups_cells, shown_threshold, table

SHOWN_LANGUAGES, SHOWN_LABELS = 12, 8  # in the table of an audit; its JSON has all
CUT = "needed more than the budget; what it left unopened is shared equally among neighbouring tokens"


def audit_text(audit: Audit) -> str:
    """An AUDIT for people: verdict, table, measures in words, what to do next."""
    rows = int(np.sum(audit["counts"]))
    sizes = ((rows, "row"), (len(audit["languages"]), "language"), (len(audit["labels"]), "label"))
    size = ", ".join(f"{number:,} {what}{'' if number == 1 else 's'}" for number, what in sizes)
    shown = _shown(audit)
    parts = [audit["verdict"], size, _counts_table(audit, *shown), _measures(audit, rows)]
    if audit["weighting"] != "none":
        zero = " (0 where there are no rows)" if audit["missing_cells"] else ""
        weights = [[audit["weights"][i][j] for j in shown[1]] for i in shown[0]]
        names = [audit["labels"][j] for j in shown[1]], [audit["languages"][i] for i in shown[0]]
        parts.append(f"Class weights, {audit['weighting']}{zero}\n\n{grid('language', *names, weights, '{:.3f}')}")
    return "\n\n".join([*parts, _advice(audit)])


def _shown(audit: Audit) -> tuple[list[int], list[int]]:
    """Positions of the languages and labels to show: all in order, or those with most mutual information first."""
    counts = np.array(audit["counts"])
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    ratio = np.divide(counts, expected, out=np.ones(counts.shape), where=counts > 0)
    information = counts * np.log2(ratio)  # summed over labels: rows * KL; over the table: rows * MI

    def largest(values: np.ndarray, most: int) -> list[int]:
        return list(range(len(values))) if len(values) <= most else np.argsort(-values, kind="stable")[:most].tolist()

    return largest(information.sum(axis=1), SHOWN_LANGUAGES), largest(information.sum(axis=0), SHOWN_LABELS)


def _counts_table(audit: Audit, languages: list[int], labels: list[int]) -> str:
    """Counts with row shares and marks, then the legend."""
    residuals = np.array(audit["residuals"])
    marks = np.where(residuals > 3, "+", np.where(residuals < -3, "-", ""))
    marks = np.char.add(marks, np.where(np.array(audit["counts"]) < SMALL_CELL, "!", ""))
    widths = np.char.str_len(marks[languages]).max(axis=0)
    rows = []
    for i in languages:
        counts, shares = audit["counts"][i], audit["row_shares"][i]
        cells = [f"{counts[j]:,} {shares[j] or 0:4.0%}{marks[i, j]:{widths[j]}}" for j in labels]
        divergences = audit["kl_divergence_bits"][i], audit["total_variation"][i]
        rows.append([audit["languages"][i], f"{sum(counts):,}", *cells, *(f"{value:.3f}" for value in divergences)])
    header = ["language", "rows", *(str(audit["labels"][j]) for j in labels), "KL (bits)", "TV"]
    return "\n".join([table(header, rows), *_legend(audit, "".join(marks[np.ix_(languages, labels)].ravel()))])


def _legend(audit: Audit, used_marks: str) -> list[str]:
    """What the table leaves out, its marks, and the cells with few rows."""
    sizes = (("languages", len(audit["languages"]), SHOWN_LANGUAGES), ("labels", len(audit["labels"]), SHOWN_LABELS))
    lines = [
        f"({number - most} more {axis} not shown, none with more mutual information than these)"
        for axis, number, most in sizes
        if number > most
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


def _measures(audit: Audit, rows: int) -> str:
    """The measures of an audit, each with the value that it is compared with."""
    bits, chance = map(bits_text, (audit["mutual_information_bits"], audit["mutual_information_chance_bits"]))
    relative, corrected = audit["relative_mutual_information"], audit["cramers_v_corrected"]
    of_entropy = "" if relative is None else f", {_percent(relative)} of the label's entropy"
    lines = [f"mutual information: {bits} bits{of_entropy} (chance alone: {chance} on average)"]
    if audit["cramers_v"] is not None:
        bias_free = "" if corrected is None else f", bias-corrected {corrected:.3f}"
        lines.append(f"Cramér's V: {audit['cramers_v']:.3f}{bias_free} (0 independent, 1 determined)")
    share = audit["effective_sample_size_ratio"]
    lines += [
        f"accuracy from language alone: {_percent(audit['language_only_accuracy'])}"
        f" (always the same label: {_percent(audit['majority_accuracy'])})",
        f"effective sample size under class_weighting {audit['weighting']!r}: {_percent(share)}"
        f" ({share * rows:,.0f} rows)",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _advice(audit: Audit) -> str:
    """What to do about the link that an audit found."""
    if audit["link"] in ("none", "undefined"):
        return "Next: nothing needed; train with class_weighting='none'."
    if audit["link"] == "unknown":
        return "Next: collect rows, or audit the complete data set that this is a sample of."
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


def probe_report(found: dict[str, Any]) -> str:
    """What `langimb probe` found, for people: verdict, one row per layer, confusion of the best, the method."""
    best = max(found["layers"], key=lambda probe: probe["accuracy"])
    shares = np.sum(best["confusion"], axis=1) / np.sum(best["confusion"])
    entropy = -sum(share * np.log2(share) for share in shares if share > 0)
    where = f" (layer {best['layer']})" if len(found["layers"]) > 1 else ""
    verdict = (
        f"the features reveal the language of {_percent(best['accuracy'])} of {best['rows']:,} rows{where}; "
        f"chance is {_percent(best['chance'])}"
    )
    rows = [
        [
            str(probe["layer"]),
            *(f"{probe[key]:.3f}" for key in ("accuracy", "bits_below_chance", "confidence")),
            f"{probe['control']:.3f} [{probe['control_interval'][0]:.3f}, {probe['control_interval'][1]:.3f}]",
            "yes" if probe["converged"] else "no",
        ]
        for probe in found["layers"]
    ]
    header = ["layer", "accuracy", f"bits of {entropy:.2f}", "confidence", "shuffled [99 %]", "converged"]
    confusion = grid("language", best["languages"], best["languages"], best["confusion"], "{:,}")
    method = (
        f"Features: {found['pooling']} of {found['model']} on {' and '.join(found['text_columns'])}. Probe: logistic "
        f"regression, C = {found['C']:g}, {best['folds']} folds, rows of one id in one fold.\n"
        "bits: information about the language in the features; shuffled: the same probe on shuffled languages."
    )
    advice = "Next: --layer all for every layer; train on balanced or weighted data and probe again to compare."
    return "\n\n".join([verdict, table(header, rows), f"Identified by the probe{where}\n\n{confusion}", method, advice])


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
        lines.append(f"{_percent(cut / number)} of the examples {CUT} (--budget raises it).")
    if manifest["truncated_texts"]:
        lines.append(f"{manifest['truncated_texts']:,} texts were longer than the model's maximum input and were cut.")
    lines.append(
        f"Next: AttributionStore({str(folder)!r}).to_explanation([0]) for shap's plots; explain a second model on the "
        "same rows and call cumulative_difference on the two."
    )
    return "\n".join(lines)


def pulled_report(folder: Path) -> str:
    """What `langimb pull` downloaded, for people: what the model knows, its quality, what to do next."""
    lines = [f"Written: {folder}"]
    if known := read_axes(folder):
        labels, languages = ", ".join(known["label_names"]), ", ".join(known["languages"])
        lines.append(one_line(f"Labels {labels}; languages {languages}; class weights {known['class_weighting']}"))
    if (folder / FILE_NAME).is_file():
        try:
            lines.append("\n" + table(*setups_cells(read_results(folder))) + "\n")
        except ValueError:
            lines.append(f"Its {FILE_NAME} cannot be read: the model can be used, but its measures are not known.")
        lines.append(f"Measures: {folder / 'report.html'}")
    lines.append(f"Next: load_run({str(folder)!r}), or langimb probe and langimb explain {folder} YOUR_DATA.")
    return "\n".join(lines)


def compared_report(results: Results) -> tuple[Attributions, str]:
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
        f"{_percent(found['truncated_share'])} of the examples {CUT}.",
        f"95 % intervals over {over}. result: tokens selected by the model that is subtracted, as in the paper; "
        "control: a second balanced model instead of the imbalanced one; unbiased: result - control.",
        "Base values: the probabilities where every token is masked\n\n" + table(*base_values_cells(results)),
    ]
    if not found["unbiased"]:
        text.append("Next: --seeds 5 gives the control (two seeds) and the unbiased form (three), and intervals.")
    return found, "\n\n".join(text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
