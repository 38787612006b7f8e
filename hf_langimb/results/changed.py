"""What `langimb correct` and `langimb refit` did, in words and as a table: read from results.json."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hf_langimb.console import listed, shown
from hf_langimb.results.schema import Results
from hf_langimb.results.tables import Cells
from hf_langimb.results.verdict import answer_of, value_text

BIAS = (
    "Added to the logits in each language, after they are divided by the temperature. Above 0: the model predicted "
    "the label too rarely in this language, judged by rows that are weighted so that labels do not depend on language."
)
FEW = 10  # rows per combination in a draw of `langimb refit`, below which it often costs accuracy
WHAT = {
    "corrected": "The correction",
    "refitted": "Refitting the last layer",
    "erased": "Refitting the last layer after language is erased",
}


def changed_setups(results: Results) -> list[str]:
    """The setups of the changed models."""
    return [name for name in results["setups"] if name != "model"]


def answer_text(results: Results) -> str:
    """How much each change helps, on rows that it was not fitted on."""
    found = [text for name in changed_setups(results) if (text := _answer(results, name))]
    said = answer_of(results)
    return " ".join(found) or (said.sentence if said else "")


def _answer(results: Results, setup: str) -> str:
    """How much one change helps; empty where the model has not learned the task."""
    what = WHAT[setup]
    entries = {(entry["name"], entry["setup"]): entry for entry in results.get("verdict", [])}
    fall, accuracy = (entries.get((name, setup)) for name in ("cure", "accuracy"))
    if not fall or not accuracy or fall["value"] is None:
        return ""
    text = f"It is unclear whether {what[0].lower()}{what[1:]} lowers the dependence of predictions on language"
    text = {
        "yes": f"{what} lowers the dependence of predictions on language",
        "no": f"{what} hardly changes the dependence of predictions on language",
    }.get(fall["answer"], text)
    before, after = (_measure(results, name, "dependence_bits_corrected") for name in ("model", setup))
    return (
        f"{text}: from {max(before, 0):.3f} to {max(after, 0):.3f} bits, a difference of {value_text(fall)}. Accuracy "
        f"without the link changes by {value_text(accuracy)}."
    )


def _measure(results: Results, setup: str, measure: str) -> float:
    """A measure of a setup on rows weighted to remove the link."""
    return results["setups"][setup]["summary"][f"targets.independent.{measure}"]["mean"]


def erasure_text(results: Results) -> str:
    """Whether language is what costs accuracy: erasing it, compared with refitting alone and with the controls."""
    found = results["refit"].get("erasure") if "refit" in results else None
    if not found:
        return ""
    model, refitted, erased = (_measure(results, name, "accuracy") for name in ("model", "refitted", "erased"))
    controls = [one["accuracy"] for one in found["controls"]]
    mean, low, high = sum(controls) / len(controls), min(controls), max(controls)
    directions = f"{found['rank']} direction{'s' if found['rank'] > 1 else ''}"
    return (
        f"Does language in the features cost accuracy? Accuracy without the link: {model:.3f} for the model, "
        f"{refitted:.3f} with a refitted layer, {erased:.3f} if language ({directions}) is erased from the features "
        f"first, {mean:.3f} [{low:.3f}, {high:.3f}] if as many random directions are erased instead ({len(controls)} "
        "draws). It does if accuracy is higher after erasing language than after refitting alone and after erasing "
        "random directions."
    )


def notes(results: Results) -> list[str]:
    """What the change cannot do, and what else was measured."""
    if found := results.get("refit"):
        said = [
            f"A layer was fitted on each of {found['draws']} random subsets with {found['cell_rows']:,} "
            f"row{'s' * (found['cell_rows'] > 1)} per combination of language and label; the new layer is the mean of "
            "these layers."
        ]
        if found["missing"]:
            lacking = listed(shown(name) for name in dict.fromkeys(name for name, _ in found["missing"]))
            said.append(f"Not used: the rows in {lacking}, where at least one label has no rows.")
        if found["cell_rows"] < FEW:
            said.append(f"So few rows often cost accuracy: add rows until each combination has {FEW} or more.")
        return [*said, *([text] if (text := erasure_text(results)) else [])]
    if not (correction := results.get("correction")):
        return []
    said, never = [], correction["never_trained"]
    languages = len(correction["languages"])
    number = Counter(label for _, label in correction["missing"])
    nowhere = [correction["labels"][label] for label in number if number[label] == languages]
    others = [cell for cell in correction["missing"] if cell not in never and number[cell[1]] < languages]
    if nowhere:
        said.append(f"No held-out rows with the label {listed(map(repr, nowhere))}: no bias could be fitted for it.")
    if never:
        said.append(f"Cannot be corrected: {_cells(correction, never)}. The training data have no such rows either.")
    if others:
        said.append(
            f"No held-out rows: {_cells(correction, others)}. Their bias is the mean of the biases in other languages."
        )
    if correction["not_held_out"]:
        said.append(
            f"Not corrected, because they have no held-out rows: {listed(map(shown, correction['not_held_out']))}."
        )
    natural = results["setups"]["model"]["summary"]["targets.natural.accuracy"]["mean"]
    said.append(
        f"For comparison: accuracy on the rows as collected is {natural:.3f}, and {correction['adapted_accuracy']:.3f} "
        "if predictions are adapted to the shares of labels in each language, estimated from unlabeled rows "
        "(expectation-maximization, EM)."
    )
    if "adapted_dependence_bits" in correction:
        before, after = _measure(results, "model", "dependence_bits"), correction["adapted_dependence_bits"]
        said.append(f"Without the link, EM changes the dependence on language from {before:.3f} to {after:.3f} bits.")
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
