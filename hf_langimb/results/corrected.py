"""What `langimb correct` did, in words and as a table: read from results.json."""

from __future__ import annotations

from hf_langimb.console import listed, shown
from hf_langimb.results.schema import Results
from hf_langimb.results.tables import Cells
from hf_langimb.results.verdict import answer_of, value_text

TEXT = (
    "Added to the logits of each language, after these are divided by the temperature. Above 0: the model predicted "
    "the label too rarely in this language, judged by rows that are weighted so that labels do not depend on language."
)


def answer_text(results: Results) -> str:
    """How much the correction changes, on rows that it was not fitted on."""
    entries = {(entry["name"], entry["setup"]): entry for entry in results.get("verdict", [])}
    fall, accuracy = (entries.get((name, "corrected")) for name in ("cure", "accuracy"))
    if not fall or not accuracy or fall["value"] is None:
        said = answer_of(results)
        return said.sentence if said else ""
    words = {"yes": "The correction lowers the dependence of predictions on language"}
    words |= {"no": "The correction hardly changes the dependence of predictions on language"}
    text = words.get(fall["answer"], "It is unclear whether the correction lowers the dependence on language")
    before, after = (
        results["setups"][name]["summary"]["targets.independent.dependence_bits_corrected"]["mean"]
        for name in ("model", "corrected")
    )
    return (
        f"{text}: from {max(before, 0):.3f} to {max(after, 0):.3f} bits, a difference of {value_text(fall)}. Accuracy "
        f"without the link changes by {value_text(accuracy)}."
    )


def notes(results: Results) -> list[str]:
    """What the correction cannot do, and what else was measured."""
    found = results.get("correction")
    if not found:
        return []

    def cells(of: list[list[str | int]]) -> str:
        """Cells in words."""
        return listed(f"{found['labels'][int(label)]!r} in {shown(language)}" for language, label in of)

    said = []
    others = [cell for cell in found["missing"] if cell not in found["never_trained"]]
    if found["never_trained"]:
        said.append(f"Cannot be corrected: {cells(found['never_trained'])}. Neither training rows nor these have it.")
    if others:
        said.append(f"Without rows: {cells(others)}. The bias is the mean of those in other languages.")
    if found["not_held_out"]:
        said.append(f"Without rows, and not corrected: {listed(map(shown, found['not_held_out']))}.")
    natural = results["setups"]["model"]["summary"]["targets.natural.accuracy"]["mean"]
    said.append(
        f"For comparison, accuracy on the rows as collected if their shares of labels in each language are estimated "
        f"without reading labels (EM): {found['adapted_accuracy']:.3f}, {natural:.3f} without it. EM makes predictions "
        "depend more on language."
    )
    return said


def bias_cells(results: Results) -> Cells:
    """The bias of each language and label."""
    found = results.get("correction")
    if not found:
        return [], []
    rows = [
        [shown(language), *(f"{value:+.2f}" for value in values)]
        for language, values in zip(found["languages"], found["bias"], strict=True)
    ]
    return ["language", *map(shown, found["labels"])], rows
