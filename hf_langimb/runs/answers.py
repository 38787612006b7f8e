"""What the commands of `langimb` print for people: an answer first, then its numbers, then what to do next."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.console import shown
from hf_langimb.counts.audit import SMALL_CELL, Audit, bits_text, expected_counts
from hf_langimb.counts.multi_label import MultiLabelAudit
from hf_langimb.models.axes import read_axes
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import FILE_NAME, Attributions, ExplainedRows, Results, read_results
from hf_langimb.results.tables import Cells, explained_text, interval_text

SHOWN_LANGUAGES, SHOWN_LABELS = 12, 8  # in the table of an audit; its JSON has all


def audit_text(audit: Audit) -> str:
    """An AUDIT for people: verdict, table, measures in words, what to do next."""
    counts, residuals = np.array(audit["counts"]), np.array(audit["residuals"])
    rows, columns = _shown(counts)
    marks = np.where(residuals > 3, "+", np.where(residuals < -3, "-", ""))
    marks = np.char.add(marks, np.where(counts < SMALL_CELL, "!", ""))[rows][:, columns]
    total = int(counts.sum())
    return _answer(
        "audit",
        audit=audit,
        sizes={"row": total, "language": len(audit["languages"]), "label": len(audit["labels"])},
        cells=_audit_cells(audit, rows, columns, marks),
        hidden={"languages": len(counts) - len(rows), "labels": counts.shape[1] - len(columns)},
        marks="".join(marks.ravel()),
        small=SMALL_CELL,
        effective_rows=audit["effective_sample_size_ratio"] * total,
        weights=np.array(audit["weights"])[rows][:, columns],
        languages=[audit["languages"][i] for i in rows],
        labels=[audit["labels"][j] for j in columns],
    )


def labels_text(audit: MultiLabelAudit) -> str:
    """An audit of several labels per text, for people: verdict, a row for each label, what to do next."""
    rows = []
    for label, of in audit["audits"].items():
        known = [
            (row[1], name) for row, name in zip(of["row_shares"], of["languages"], strict=True) if row[1] is not None
        ]
        counts, p = np.array(of["counts"]), audit["p_holm"][label]
        cells = [f"{counts.sum():,}", f"{counts[:, 1].sum() / counts.sum():.1%}"]
        cells += [f"{shown(name)} {share:.0%}" for share, name in (min(known), max(known))]
        cells += [bits_text(of["mutual_information_bits"]), bits_text(of["mutual_information_chance_bits"])]
        rows.append([shown(label), *cells, "-" if p is None else f"{p:.2g}", _linked(audit, label)])
    header = ["label", "rows", "yes", "fewest", "most", "bits", "by chance", "p (Holm)", "depends on language"]
    weighting = next(iter(audit["audits"].values()))["weighting"]
    links = [of["link"] for of in audit["audits"].values()]
    return _answer("labels", audit=audit, links=links, weighting=weighting, cells=(header, rows))


def _linked(audit: MultiLabelAudit, label: str) -> str:
    """Whether a label depends on language, in a word."""
    unknown = audit["audits"][label]["link"] in ("unknown", "undefined")
    return "yes" if label in audit["linked"] else "unknown" if unknown else "no"


def _answer(name: str, **values: Any) -> str:
    """The answer of a command, from its template."""
    return render(f"{name}.txt", **values).rstrip("\n")


def _shown(counts: np.ndarray) -> tuple[list[int], list[int]]:
    """Positions of the languages and labels to show: all in order, or those with most mutual information first."""
    expected = expected_counts(counts)
    ratio = np.divide(counts, expected, out=np.ones(counts.shape), where=counts > 0)
    information = counts * np.log2(ratio)  # summed over labels: rows * KL; over the table: rows * MI

    def largest(values: np.ndarray, most: int) -> list[int]:
        """Positions of the largest values, or of all in order."""
        return list(range(len(values))) if len(values) <= most else np.argsort(-values, kind="stable")[:most].tolist()

    return largest(information.sum(axis=1), SHOWN_LANGUAGES), largest(information.sum(axis=0), SHOWN_LABELS)


def _audit_cells(audit: Audit, rows: list[int], columns: list[int], marks: np.ndarray) -> Cells:
    """Counts of the shown cells with row shares and marks; divergences of each language."""
    widths, lines = np.char.str_len(marks).max(axis=0), []
    for i, marked in zip(rows, marks, strict=True):
        counts, shares = audit["counts"][i], audit["row_shares"][i]
        cells = [
            f"{counts[j]:,} {shares[j] or 0:4.0%}{mark:{width}}"
            for j, mark, width in zip(columns, marked, widths, strict=True)
        ]
        divergences = audit["kl_divergence_bits"][i], audit["total_variation"][i]
        lines.append([shown(audit["languages"][i]), f"{sum(counts):,}", *cells, *map(interval_text, divergences)])
    return ["language", "rows", *(shown(audit["labels"][j]) for j in columns), "KL (bits)", "TV"], lines


def probe_report(found: dict[str, Any]) -> str:
    """What `langimb probe` found, for people: verdict, one row per layer, confusion of the best, the method."""
    best = max(found["layers"], key=lambda probe: probe["accuracy"])
    shares = np.sum(best["confusion"], axis=1) / np.sum(best["confusion"])
    entropy = -sum(share * np.log2(share) for share in shares if share > 0)
    rows = []
    for probe in found["layers"]:
        measures = (f"{probe[key]:.3f}" for key in ("accuracy", "bits_below_chance", "confidence"))
        shuffled = interval_text(probe["control"], probe["control_interval"])
        rows.append([str(probe["layer"]), *measures, shuffled, "yes" if probe["converged"] else "no"])
    header = ["layer", "accuracy", f"bits of {entropy:.2f}", "confidence", "shuffled [99%]", "converged"]
    return _answer("probe", found=found, best=best, cells=(header, rows), aligned=_alignment_cells(found))


def _alignment_cells(found: dict[str, Any]) -> list[Cells]:
    """Alignment by layer, and of each language in the layer with the best retrieval; none where it was not asked."""
    if not (compared := found.get("alignment")):
        return []
    names = ("cosine", "retrieval", "cka")

    def row(first: str, measures: dict[str, float]) -> list[str]:
        """One row: each measure with its chance level."""
        return [first, *(f"{measures[name]:.3f} ({measures[f'{name}_chance']:.3f})" for name in names)]

    header = [f"{name} (chance)" for name in ("cosine", "retrieval", "CKA")]
    by_layer = [row(str(layer["layer"]), layer["mean"]) for layer in compared["layers"]]
    best = max(compared["layers"], key=lambda layer: layer["mean"]["retrieval"])
    by_language = [row(name, measures) for name, measures in best["languages"].items()]
    return [(["layer", *header], by_layer), ([f"language, layer {best['layer']}", *header], by_language)]


def changed_report(folder: Path, results: Results) -> str:
    """What `langimb correct` or `refit` found and wrote, for people: how much it changes, and what to do next."""
    from hf_langimb.results.page import write_report  # which draws figures

    return _answer("changed", results=results, folder=str(folder), page=write_report(folder))


def explained_report(manifest: dict[str, Any], examples: Any, folder: Path, rows: ExplainedRows | None = None) -> str:
    """What `langimb explain` wrote, for people: how much of it, what was cut short, what to do next."""
    forwards, cut = (sum(examples[name].to_pylist()) / len(examples) for name in ("forwards", "truncated"))
    found: Any = {"truncated_share": cut} | ({"rows": rows} if rows else {})
    values = {"manifest": manifest, "examples": len(examples), "forwards": forwards, "cut": cut}
    return _answer("explain", folder=str(folder), text=explained_text(found), **values)


def pulled_report(folder: Path) -> str:
    """What `langimb pull` downloaded, for people: what the model knows, its quality, what to do next."""
    results, measured = None, (folder / FILE_NAME).is_file()
    with suppress(ValueError):
        results = read_results(folder)
    return _answer("pull", folder=str(folder), axes=read_axes(folder), results=results, measured=measured)


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
    return found, _answer("compare", results=results)
