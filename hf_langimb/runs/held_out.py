"""Held-out rows: whether a model was trained on them, and copies of a model that are changed with their help.

Each training of a run records a checksum of every row next to its model.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_langimb.data.rows import arrow_columns
from hf_langimb.files import AGAIN, MODEL, is_done, read_json, record, replacing
from hf_langimb.measures.predictions import join_by_id
from hf_langimb.measures.targets import information, weighted
from hf_langimb.models.loading import ADAPTER_FILE, BASE_MODEL, own_start
from hf_langimb.results.folder import EVALUATED, PREDICTIONS, PROBE, RunFolder, model_files
from hf_langimb.runs.steps import read_columns

TRAINED_ON = "training_rows.parquet"  # in the folder of a trained model; it is not published
CHANGED_ON = "held_out_rows.parquet"  # in that of a model that was changed with their help
ROWS = (TRAINED_ON, CHANGED_ON)
DUPLICATES = 0.1  # share of the rows up to which those that are in the training data too are left out
FOLDS = 5  # of the rows, each of which is predicted by what was fitted on the others
FEW = "The dataset has {rows:,} rows for {cells:,} combinations of language and label: use a dataset with more rows."
NOT_KNOWN = "The model does not record its training rows: make sure that it was not trained on these rows."


def record_rows(place: Path, rows: Dataset, text_columns: Sequence[str], file: str = TRAINED_ON) -> None:
    """Write the checksums of the rows that a model was trained on, or changed with, into its folder."""
    with replacing(place / file) as part:
        pq.write_table(pa.table({"checksum": np.unique(_checksums(rows, text_columns))}), part)


def held_out(model: str, rows: Dataset, text_columns: Sequence[str]) -> tuple[Dataset, str]:
    """The rows whose texts a model was not trained on, and what a user must know about them, if anything.

    Args:
        model: folder or Hub id.
        rows: with texts.
        text_columns: of them.

    Raises:
        ValueError: the model was trained on more than a tenth of them.
    """
    known = Path(model, TRAINED_ON).is_file()
    files = [path for name in ROWS if (path := Path(model, name)).is_file()]
    read = [read_columns(path, ["checksum"], "copy it again from the run") for path in files]
    seen = np.concatenate([np.empty(0, np.uint64), *(table["checksum"].to_numpy() for table in read)])
    new = np.flatnonzero(~np.isin(_checksums(rows, text_columns), seen))
    left_out, number = len(rows) - len(new), f"{len(rows) - len(new):,} of {len(rows):,} rows"
    if left_out > DUPLICATES * len(rows):
        raise ValueError(
            f"The model {model} was trained or fitted on {number}: use others, for example another --split."
        )
    if not left_out:
        return rows, "" if known else NOT_KNOWN
    said = f"Left out: {number}, whose texts the model was trained or fitted on."
    return rows.select(new), said if known else f"{said} {NOT_KNOWN}"


def _checksums(rows: Dataset, text_columns: Sequence[str]) -> np.ndarray:
    """A checksum of the texts of each row, uint64[N]."""
    columns = [column.to_pylist() for column in arrow_columns(rows, *text_columns)]
    texts = ("\0".join(row).encode(errors="surrogatepass") for row in zip(*columns, strict=True))
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64)


def check_rows(rows: Dataset, names: Sequence[str]) -> None:
    """Refuse rows that are too few to change a model.

    Args:
        rows: with `id`, `language` and `label`.
        names: of the model's labels.

    Raises:
        ValueError: fewer rows than cells, fewer texts than folds, or a single label; says which or how many.
    """
    present, texts = rows.unique("label"), len(rows.unique("id"))
    cells = len(rows.unique("language")) * len(names)
    if len(present) == 1:
        only = names[present[0]]
        raise ValueError(f"All rows have the label {only!r}: use a dataset with rows of two labels or more.")
    if len(rows) < cells:
        raise ValueError(FEW.format(rows=len(rows), cells=cells))
    if texts < FOLDS:
        raise ValueError(
            f"The dataset has {texts} different texts, but at least {FOLDS} are needed: use a larger dataset."
        )


def measured(folder: RunFolder, rows: Dataset) -> tuple[pa.Table, np.ndarray, dict[str, Any]]:
    """Predictions of an evaluated model, its logits float64[N, C], and languages, labels, groups and cells of the rows.

    Rows of one group have the same id, rows of one cell the same language and label.
    """
    table = pq.read_table(folder.model(*EVALUATED) / PREDICTIONS)
    table = join_by_id(table, rows["id"], rows["language"], rows["label"])
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    _, groups = np.unique(table["id"].to_numpy(zero_copy_only=False), return_inverse=True)
    languages, labels = table["language"].to_pylist(), table["label"].to_numpy()
    cells = np.unique(languages, return_inverse=True)[1] * logits.shape[1] + labels
    return table, logits, {"languages": languages, "labels": labels, "groups": groups, "cells": cells}


def independent(languages: Any, labels: Any, logits: np.ndarray) -> dict[str, float]:
    """Accuracy and dependence of predictions on language, on rows weighted to remove the link."""
    names, positions = np.unique(languages, return_inverse=True)
    counts = np.zeros((len(names), logits.shape[1], logits.shape[1]))
    np.add.at(counts, (positions, np.asarray(labels), logits.argmax(axis=1)), 1)
    cells = weighted(counts, "independent")
    right = float(np.einsum("lcc->", cells) / cells.sum())
    return {"accuracy": right, "dependence_bits": float(information(cells.sum(axis=-2)))}


def copied(folder: RunFolder, setup: str) -> bool:
    """Whether the changed copy of an evaluated model is there."""
    return is_done(folder.model(setup, EVALUATED[1]), MODEL)


def add_copy(
    folder: RunFolder, source: Path, setup: str, table: pa.Table, logits: np.ndarray, write: Callable[[Path], None]
) -> None:
    """Add a changed copy of an evaluated model to a run folder, with its predictions and the probes of the model.

    Args:
        folder: of the run.
        source: folder that the model was copied from.
        setup: name of the copy.
        table: predictions of the model, in the order of the rows.
        logits: of the copy, [N, C], each row's by what was fitted on other rows.
        write: changes the copy in its folder.
    """
    model, place = folder.model(*EVALUATED), folder.model(setup, EVALUATED[1])
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in [*model_files(model), *(name for name in ROWS if (model / name).is_file()), PROBE]:
        shutil.copy(model / name, part)
    write(part)
    columns = {"prediction": pa.array(logits.argmax(axis=1)), "logits": pa.array(list(logits), pa.list_(pa.float32()))}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, part / PREDICTIONS)
    record(part, MODEL, model_files(part))
    for step in (PREDICTIONS, PROBE):
        record(part, step, [step])
    base = read_json(part / ADAPTER_FILE, AGAIN)[BASE_MODEL] if (part / ADAPTER_FILE).is_file() else ""
    if (start := own_start(source, str(base))) and not folder.start.exists():  # the base of adapters
        shutil.copytree(start, folder.start)
    shutil.rmtree(place, ignore_errors=True)
    part.rename(place)
