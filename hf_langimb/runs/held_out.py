"""Whether a model was trained on rows: each training of a run records a checksum of every row next to its model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hf_langimb.data.rows import arrow_columns
from hf_langimb.files import replacing

TRAINED_ON = "training_rows.parquet"  # in the folder of a trained model; it is not published
DUPLICATES = 0.1  # share of the rows up to which those that are in the training data too are left out
NOT_KNOWN = "It is not known on which rows the model was trained: these rows must not be among them."


def record_rows(place: Path, rows: Dataset, text_columns: Sequence[str]) -> None:
    """Write the checksums of a model's training rows into its folder."""
    with replacing(place / TRAINED_ON) as part:
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
    record = Path(model, TRAINED_ON)
    if not record.is_file():
        return rows, NOT_KNOWN
    seen = pq.read_table(record)["checksum"].to_numpy()
    new = np.flatnonzero(~np.isin(_checksums(rows, text_columns), seen))
    left_out, number = len(rows) - len(new), f"{len(rows) - len(new):,} of {len(rows):,} rows"
    if left_out > DUPLICATES * len(rows):
        raise ValueError(f"The model {model} was trained on {number}: name rows that it was not trained on (--split).")
    if not left_out:
        return rows, ""
    return rows.select(new), f"Left out: {number}, whose texts are also in the training data."


def _checksums(rows: Dataset, text_columns: Sequence[str]) -> np.ndarray:
    """A checksum of the texts of each row, uint64[N]."""
    columns = [column.to_pylist() for column in arrow_columns(rows, *text_columns)]
    texts = ("\0".join(row).encode(errors="surrogatepass") for row in zip(*columns, strict=True))
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64)
