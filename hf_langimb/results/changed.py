"""What `langimb correct` and `langimb refit` did, in words and as a table: read from results.json."""

from __future__ import annotations

from typing import Any

from hf_langimb.console import listed, shown
from hf_langimb.results.schema import Results
from hf_langimb.results.tables import Cells
from hf_langimb.results.verdict import answer_of, value_text

BIAS = (
    "Added to the logits of each language, after these are divided by the temperature. Above 0: the model predicted "
    "the label too rarely in this language, judged by rows that are weighted so that labels do not depend on language."
)
DEPENDENCE = "targets.independent.dependence_bits_corrected"


def setup_of(results: Results) -> str:
    """The setup of the changed model."""
    return next(name for name in results["setups"] if name != "model")


def answer_text(results: Results) -> str:
    """How much the change helps, on rows that it was not fitted on."""
    setup = setup_of(results)
    what = {"corrected": "The correction", "refitted": "Refitting the last layer"}[setup]
    entries = {(entry["name"], entry["setup"]): entry for entry in results.get("verdict", [])}
    fall, accuracy = (entries.get((name, setup)) for name in ("cure", "accuracy"))
    if not fall or not accuracy or fall["value"] is None:
        said = answer_of(results)
        return said.sentence if said else ""
    text = f"It is unclear whether {what[0].lower()}{what[1:]} lowers the dependence of predictions on language"
    text = {
        "yes": f"{what} lowers the dependence of predictions on language",
        "no": f"{what} hardly changes the dependence of predictions on language",
    }.get(fall["answer"], text)
    before, after = (results["setups"][name]["summary"][DEPENDENCE]["mean"] for name in ("model", setup))
    return (
        f"{text}: from {max(before, 0):.3f} to {max(after, 0):.3f} bits, a difference of {value_text(fall)}. Accuracy "
        f"without the link changes by {value_text(accuracy)}."
    )


def notes(results: Results) -> list[str]:
    """What the change cannot do, and what else was measured."""
    if found := results.get("refit"):
        said = [
            f"Fitted on {found['draws']} draws of {found['cell_rows']:,} rows of each combination of language and "
            "label; the mean of these layers is the new one."
        ]
        if found["missing"]:
            said.append(f"Without rows, and not balanced: {_cells(found, found['missing'])}.")
        return said
    if not (correction := results.get("correction")):
        return []
    said, never = [], correction["never_trained"]
    others = [cell for cell in correction["missing"] if cell not in never]
    if never:
        said.append(f"Cannot be corrected: {_cells(correction, never)}. The training data have no such rows either.")
    if others:
        said.append(f"Without rows: {_cells(correction, others)}. The bias is the mean of those in other languages.")
    if correction["not_held_out"]:
        said.append(f"Without rows, and not corrected: {listed(map(shown, correction['not_held_out']))}.")
    natural = results["setups"]["model"]["summary"]["targets.natural.accuracy"]["mean"]
    said.append(
        f"For comparison: accuracy on the rows as collected is {natural:.3f}, and {correction['adapted_accuracy']:.3f} "
        "if the share of each label in each language is estimated without reading labels (EM). EM makes predictions "
        "depend more on language."
    )
    return said


def _cells(found: Any, cells: list[list[Any]]) -> str:
    """Combinations of language and label in words."""
    return listed(f"{found['labels'][label]!r} in {shown(language)}" for language, label in cells)


def bias_cells(results: Results) -> Cells:
    """The bias of each language and label; empty without a correction."""
    found = results.get("correction")
    if not found:
        return [], []
    rows = [
        [shown(language), *(f"{value:+.2f}" for value in values)]
        for language, values in zip(found["languages"], found["bias"], strict=True)
    ]
    return ["language", *map(shown, found["labels"])], rows
