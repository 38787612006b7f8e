"""Correct a trained model for each language on held-out rows, and measure it before and after: `langimb correct`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_langimb.console import on_main
from hf_langimb.files import AGAIN, read_json, write_json
from hf_langimb.measures.correction import FILE, Corrected, Correction, cross_fitted, fit_correction
from hf_langimb.models.loading import Trained
from hf_langimb.results.folder import RunFolder
from hf_langimb.runs.held_out import FOLDS, add_copy, copied, independent, measured
from hf_langimb.runs.steps import MeasuredRows

CORRECTED = "corrected"  # the setup of the corrected model


def add_corrected(
    folder: RunFolder,
    source: Path,
    rows: MeasuredRows,
    trained: Trained,
    axes: Mapping[str, Any] | None,
    options: Namespace,
) -> tuple[Corrected, list[str]]:
    """Fit the correction of a measured model, and add a copy of the model with it to the run folder.

    The arguments are those of `refit.add_refitted`. The predictions of the copy are cross-fitted: each row's by a
    correction that was fitted on other rows.

    Returns:
        `correction.json`, and the setup of the copy.
    """
    if not on_main(lambda: copied(folder, CORRECTED)):
        on_main(lambda: _add(folder, source, rows, trained.names, axes))
    found: Corrected = read_json(folder.model(CORRECTED, 0) / FILE, AGAIN)
    return found, [CORRECTED]


def _add(
    folder: RunFolder, source: Path, rows: MeasuredRows, labels: Sequence[str], axes: Mapping[str, Any] | None
) -> None:
    """The copy, in the main process."""
    table, logits, data = measured(folder, rows.test)
    data.pop("cells")
    correction, fitted = fit_correction(logits, **data, folds=FOLDS), cross_fitted(logits, **data, folds=FOLDS)
    found = correction.to_dict() | _facts(correction, labels, axes)
    found |= {"rows": len(logits), "adapted_accuracy": float((fitted.adapted.argmax(1) == data["labels"]).mean())}
    adapted = independent(data["languages"], data["labels"], fitted.adapted)
    found["adapted_dependence_bits"] = adapted["dependence_bits"]
    add_copy(folder, source, CORRECTED, table, fitted.corrected, lambda part: write_json(part / FILE, found))


def _facts(correction: Correction, labels: Sequence[str], axes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Names of labels, and what could not be corrected, by the counts of the training data."""
    found: dict[str, Any] = {"labels": [*labels], "never_trained": [], "not_held_out": []}
    if axes is not None:
        counts = dict(zip(axes["languages"], axes["counts"], strict=True))
        missing = ((name, label) for name, label in correction.missing if name in counts)
        found["never_trained"] = [[name, label] for name, label in missing if not counts[name][label]]
        found["not_held_out"] = [name for name in counts if name not in correction.languages]
    return found
