"""Results of cloned languages as tables and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_langimb.cloned.comparisons import difference_text
from hf_langimb.cloned.results import (
    LEAST_SEEDS,
    ONE_RATE,
    QUESTION,
    SAME_TOKENS,
    ClonedResults,
    Comparison,
    SetupResults,
    alignments,
    at_own_rates,
    could_help,
    is_alone,
    perplexity_interval,
    source_of,
)
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import Interval
from hf_langimb.results.summary import interval
from hf_langimb.results.tables import Cells

FEWER, SMALLER = "fewer steps", "smaller batches"
KINDS = (FEWER, SMALLER, "unrelated", "shuffled")  # of controls
STATES = ("cosine", "retrieval", "cka")  # measures of hidden states
SEEN = 0.005  # smallest share of windows in several languages that is shown
NOT_MEASURED = "train a setup in which one language is rarer than others, and a control with as many tokens of it."


def text_of(results: ClonedResults, folder: Path, page: Path) -> str:
    """The results in the terminal: the answer first, then what it rests on, and what to do next."""
    values = {"said": answer_text(results), "least_seeds": LEAST_SEEDS, "cells": every_cells(results)}
    return render("cloned.txt", results=results, folder=folder, page=page, seen=seen_text(results), **values)


def every_cells(results: ClonedResults) -> dict[str, Cells]:
    """The tables of a run by name."""
    return {name: cells(results) for name, cells in CLONED_TABLES.items()}


def answer_text(results: ClonedResults) -> str:
    """The question, its answer and what that rests on."""
    for found in results["verdict"]:
        return f"{QUESTION} {found['answer'].upper()}\n{found['text']}\n"
    return f"{QUESTION} NOT MEASURED: {NOT_MEASURED}\n"


def seen_text(results: ClonedResults) -> str:
    """In which setups windows of text were read in several languages, which is parallel text; empty if in none."""
    shares = {
        name: float(np.mean([model["seen_in_several"] or 0 for model in of["seeds"].values()]))
        for name, of in results["setups"].items()
    }
    found = [f"{name} {share:.0%}" for name, share in shares.items() if share >= SEEN]
    return f"Windows of text that were read in more than one language: {', '.join(found)}." if found else ""


def perplexity_text(setup: SetupResults, language: int) -> str:
    """The geometric mean of perplexity over seeds, with its interval from `LEAST_SEEDS` seeds on."""
    mean, low, high = perplexity_interval(setup, language)
    return f"{mean:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def setups_cells(results: ClonedResults) -> Cells:
    """Each setup: what it reads, and the perplexity of its first and last language."""
    header = ["setup", "schedule", "languages", "steps", "batch size", "learning rate"]
    rows = []
    for name, of in results["setups"].items():
        languages = f"{of['languages']}" + ("" if of["relation"] == "clones" else f", {of['relation']}")
        cells = [name, of["schedule"], languages, f"{of['steps']:,}", f"{of['rows']}", f"{of['learning_rate']:g}"]
        last = of["languages"] - 1
        rows.append([*cells, perplexity_text(of, 0), perplexity_text(of, last) if last else ""])
    return [*header, "PPL, language 0", "PPL, last language"], rows


def comparisons_cells(results: ClonedResults) -> Cells:
    """Differences of ln PPL from controls."""
    rows = []
    for one in results["comparisons"]:
        names = one["setup"], one["reference"]
        rates = ", ".join(f"{results['setups'][name]['learning_rate']:g}" for name in names)
        setup, control = (name.removesuffix(ONE_RATE) for name in names)
        rows.append(
            [setup, str(one["language"]), control, f"{one['tokens']:.0%}", rates, difference_text(one["difference"])]
        )
    return ["setup", "language", "control", "its tokens", "learning rates", "difference of ln PPL"], rows


def efficiency_cells(results: ClonedResults) -> Cells:
    """Token efficiencies, next to the difference of ln PPL from each kind of control; of two, the better one."""
    rows, compared = [], results["comparisons"]
    kinds = [kind for kind in KINDS if any(_kind(results["setups"], of) == kind for of in compared)]
    for one in results["efficiency"]:
        curve = results["curves"][source_of(results["setups"][one["setup"]], one["language"])]
        fitted = curve and curve["law"]
        outside = "out of range" if one["extrapolated"] else "undefined"
        law = "undefined" if one["law"] is None else f"{one['law']:.2f}" + " (extrapolated)" * one["extrapolated"]
        between = outside if one["interpolated"] is None else f"{one['interpolated']:.2f}"
        cells = [one["setup"], str(one["language"]), between, law if fitted else "not fitted"]
        own = [of for of in compared if (of["setup"], of["language"]) == (one["setup"], one["language"])]
        for kind in kinds:
            found = [of["difference"] for of in own if _kind(results["setups"], of) == kind]
            cells.append(_with_width(max(found, key=lambda of: of["mean"])) if found else "-")
        rows.append(cells)
    return ["setup", "language", "efficiency, interpolated", "by the law", *kinds], rows


def _kind(setups: Mapping[str, SetupResults], compared: Comparison) -> str | None:
    """How a control reads as many tokens of a language without its clone; None for other references."""
    setup, control = setups[compared["setup"]], setups[compared["reference"]]
    if could_help(control) or abs(compared["tokens"] - 1) > SAME_TOKENS:
        return None
    if not is_alone(control):
        return control["relation"]
    if control["steps"] < setup["steps"]:
        return FEWER
    return SMALLER if control["rows"] < setup["rows"] else None


def _with_width(found: Interval) -> str:
    """A mean difference, and half of its interval from `LEAST_SEEDS` seeds on."""
    half = None if found["high"] is None or found["n"] < LEAST_SEEDS else found["high"] - found["mean"]
    return f"{found['mean']:+.3f}" + ("" if half is None else f" ± {half:.3f}")


def curve_cells(results: ClonedResults) -> Cells:
    """Perplexity of monolingual models by tokens, and residuals of the law."""
    rows = []
    for curve in filter(None, results["curves"].values()):
        residuals: Sequence[float | None] = curve["residuals"] or [None] * len(curve["setups"])
        for name, n, ppl, left in zip(curve["setups"], curve["tokens"], curve["perplexity"], residuals, strict=True):
            rows.append([name, f"{n:,.0f}", f"{ppl:.2f}", "" if left is None else f"{left:+.3f}"])
    return ["setup", "tokens", "PPL", "residual (ln PPL)"], rows


def downstream_cells(results: ClonedResults) -> Cells:
    """Accuracy after fine-tuning in language 0: in this one, and in the last one without an example; mean of seeds."""
    rows = []
    for name, of in results["setups"].items():
        found = [model["downstream"] for model in of["seeds"].values() if model["downstream"]]
        if found:
            values = np.mean([[one["accuracy"][0], one["accuracy"][-1], one["chance"]] for one in found], axis=0)
            last = f"{values[1]:.3f}" if of["languages"] > 1 else ""
            rows.append([name, f"{values[0]:.3f}", last, f"{values[2]:.3f}"])
    return ["setup", "language 0", "last language, zero-shot", "chance"], rows


def alignment_cells(results: ClonedResults) -> Cells:
    """Alignment of languages 0 and 1 minus its chance level; of hidden states in the block with the largest cosine."""
    rows = []
    for name, of in at_own_rates(results["setups"]).items():
        if not (found := alignments(of)):
            continue
        blocks = [np.mean([one["hidden"][i]["cosine"] for one in found]) for i in range(len(found[0]["hidden"]))]
        block = int(np.argmax(blocks))
        hidden = [one["hidden"][block] for one in found]
        untrained = [one["untrained"][block]["cka"] for one in found]
        parts = [(f"states after block {block + 1} of {len(blocks)}, {key}", hidden, key) for key in STATES]
        parts += [(f"{key}s, cosine", [one[key] for one in found], "cosine") for key in ("gradient", "embedding")]
        for what, part, key in parts:
            values = [one[key] for one in part]
            chance = untrained if key == "cka" else [one[f"{key}_chance"] for one in part]
            above = interval([value - level for value, level in zip(values, chance, strict=True)])
            means = [f"{np.mean(of):.3f}" for of in (values, chance)]
            rows.append([name, what.replace("cka", "CKA"), *means, difference_text(above)])
    return ["setup", "measure", "value", "chance level", "difference"], rows


CLONED_TABLES = {"setups": setups_cells, "compared": comparisons_cells, "efficient": efficiency_cells}
CLONED_TABLES |= {"aligned": alignment_cells, "curve": curve_cells, "downstream": downstream_cells}
