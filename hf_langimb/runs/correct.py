"""Correct a trained model for each language on held-out rows, and measure it before and after: `langimb correct`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_langimb.files import AGAIN, MODEL, is_done, read_json, record, write_json
from hf_langimb.measures.correction import FILE, Corrected, Correction, cross_fitted, fit_correction
from hf_langimb.measures.predictions import join_by_id
from hf_langimb.models.loading import ADAPTER_FILE, BASE_MODEL, own_start
from hf_langimb.results.folder import EVALUATED, PREDICTIONS, PROBE, RunFolder, model_files

CORRECTED = "corrected", EVALUATED[1]  # setup and seed of the corrected model
FOLDS = 5
FEW = "The dataset has {rows:,} rows for {cells:,} combinations of language and label: name a dataset with more rows."


def check_rows(rows: Dataset, labels: int) -> None:
    """Refuse rows that are too few to correct a model.

    Raises:
        ValueError: fewer rows than cells, or fewer texts than folds; says how many.
    """
    cells, texts = len(rows.unique("language")) * labels, len(rows.unique("id"))
    if len(rows) < cells:
        raise ValueError(FEW.format(rows=len(rows), cells=cells))
    if texts < FOLDS:
        raise ValueError(f"The dataset has {texts} different texts, {FOLDS} or more are needed: name a larger dataset.")


def add_corrected(
    folder: RunFolder, source: Path, rows: Dataset, labels: Sequence[str], axes: Mapping[str, Any] | None
) -> Corrected:
    """Fit the correction of a measured model, and add a copy of the model with it to the run folder.

    The copy gets the model's probes, which a correction does not change, and predictions that are cross-fitted: each
    row's by a correction that was fitted on other rows.

    Args:
        folder: of the run, with the model and its predictions.
        source: folder that the model was copied from.
        rows: that it was measured on, with `id`, `language` and `label`.
        labels: names of its classes.
        axes: of langimb.json; None of a model whose training data are not known.

    Returns:
        `correction.json`.
    """
    model, place = folder.model(*EVALUATED), folder.model(*CORRECTED)
    if is_done(place, MODEL):
        found: Corrected = read_json(place / FILE, AGAIN)
        return found
    predictions = pq.read_table(model / PREDICTIONS)
    table = join_by_id(predictions, rows["id"], rows["language"], rows["label"])
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    _, groups = np.unique(table["id"].to_numpy(zero_copy_only=False), return_inverse=True)
    data: Any = {"languages": table["language"].to_pylist(), "labels": table["label"].to_numpy(), "groups": groups}
    correction = fit_correction(logits, **data, folds=FOLDS)
    fitted = cross_fitted(logits, **data, folds=FOLDS)
    adapted = float((fitted.adapted.argmax(axis=1) == data["labels"]).mean())
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in [*model_files(model), PROBE]:
        shutil.copy(model / name, part)
    write_json(
        part / FILE, correction.to_dict() | _facts(correction, labels, axes, len(rows)) | {"adapted_accuracy": adapted}
    )
    chosen = pa.array(fitted.corrected.argmax(axis=1))
    values = {"prediction": chosen, "logits": pa.array(list(fitted.corrected), pa.list_(pa.float32()))}
    for name, column in values.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, part / PREDICTIONS)
    record(part, MODEL, model_files(part))
    for step in (PREDICTIONS, PROBE):
        record(part, step, [step])
    base = read_json(part / ADAPTER_FILE, AGAIN)[BASE_MODEL] if (part / ADAPTER_FILE).is_file() else ""
    if (start := own_start(source, str(base))) and not folder.start.exists():  # the adapters' base
        shutil.copytree(start, folder.start)
    shutil.rmtree(place, ignore_errors=True)
    part.rename(place)
    return add_corrected(folder, source, rows, labels, axes)


def _facts(correction: Correction, labels: Sequence[str], axes: Mapping[str, Any] | None, rows: int) -> dict[str, Any]:
    """Names of labels, rows, and what could not be corrected, by the counts of the training data."""
    found: dict[str, Any] = {"labels": [*labels], "rows": rows, "never_trained": [], "not_held_out": []}
    if axes is not None:
        counts = dict(zip(axes["languages"], axes["counts"], strict=True))
        missing = ((name, label) for name, label in correction.missing if name in counts)
        found["never_trained"] = [[name, label] for name, label in missing if not counts[name][label]]
        found["not_held_out"] = [name for name in counts if name not in correction.languages]
    return found
