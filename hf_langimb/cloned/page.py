"""One self-contained HTML page of a run of cloned languages."""

from __future__ import annotations

from pathlib import Path

from hf_langimb.cloned import plots, show
from hf_langimb.cloned.comparisons import by_tokens
from hf_langimb.cloned.results import ONE_RATE, QUESTION, ClonedResults, minority, read_cloned
from hf_langimb.files import read_json, write_text
from hf_langimb.results.folder import FIGURES, PAGE, RunFolder
from hf_langimb.results.page import Figures, write_figures
from hf_langimb.results.plots import to_svg
from hf_langimb.results.rendering import render, rendered_from


def write_page(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run folder, by default as its report.html with the figures next to it; returns the path.

    Raises:
        ValueError: the folder has no valid results.json.
    """
    results, path = read_cloned(folder), Path(output or Path(folder, PAGE))
    try:
        environment = read_json(RunFolder(Path(folder)).environment, "remove it")
    except (OSError, ValueError):
        environment = {}  # the page does without it
    with rendered_from(folder):
        figures, cells = draw(results), show.every_cells(results)
        values = {"environment": environment, "cells": cells, "question": QUESTION, "not_measured": show.NOT_MEASURED}
        values["seen"] = show.seen_text(results)
        page = render("cloned.html", results=results, figures=figures, **values)
    write_text(path, page)
    if output is None:
        write_figures(figures, path.parent / FIGURES)
    return path


def draw(results: ClonedResults) -> Figures:
    """The panels of each kind of figure; each has a description for those who do not see it."""
    same = "The same numbers are in"
    figures: Figures = {}
    for found in results["verdict"]:
        language = minority(results["setups"][found["setup"]])
        compared = [one for one in results["comparisons"] if one["setup"] == found["setup"]]
        controls = [one["reference"] for one in compared if one["language"] == language]
        names = [found["setup"], *(name for name in dict.fromkeys(controls) if ONE_RATE not in name)]
        drawn = plots.minority_by_control(results, names)
        described = f"Perplexity of the minority of {found['setup']} and of its controls. {same} the table Perplexity."
        figures["minority"] = {"minority": to_svg(drawn, described)}
    if series := by_tokens(results["setups"]):
        described = f"Perplexity of a language against its tokens. {same} the table Perplexity."
        figures["tokens"] = {"tokens": to_svg(plots.perplexity_by_tokens(series), described)}
    if plots.aligned(results):
        described = f"Cosine similarity of hidden states by block. {same} results.json, alignment."
        figures["alignment"] = {"alignment": to_svg(plots.alignment_by_layer(results), described)}
    if any(of["languages"] > 1 for of in results["setups"].values()):
        described = f"Perplexity during training. {same} results.json, history."
        figures["training"] = {"training": to_svg(plots.during_training(results), described)}
    return figures
