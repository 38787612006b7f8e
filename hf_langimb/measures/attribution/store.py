"""The store of a data set's attributions: a manifest, and shards of Parquet that are written atomically."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_langimb.files import write_json

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


class AttributionStore:
    """Attributions of a data set's examples for all classes.

    Tables: `examples`, a row each in the order of the data set (example, id, language, label, p and base float32[C],
    evaluations, forwards, truncated: its tree was not opened to the end, text_truncated), and `tokens`, a row each
    (example, position, token_id, start, end: characters, segment: 0, 1 or -1 for special tokens, piece: the text of the
    token, S float32[C], standard_error float32[C] with the method shapley). In each example base + the sum of S is p.

    Args:
        folder: with manifest.json, examples-*.parquet and tokens-*.parquet.

    Raises:
        ValueError: no store, an unfinished one, one of a newer version, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise ValueError(f"Expected attributions in {folder}, got no {MANIFEST}: run `langimb explain` first.")
        self.manifest: dict[str, Any] = manifest
        shards = self.manifest["shards"]
        if missing := [number for number in range(shards) if not is_written(self.folder, number)]:
            raise ValueError(
                f"{folder} has {shards - len(missing)} of {shards} shards: run the same command again to continue."
            )
        self.examples = self._read("examples", shards).sort_by("example")
        self._require_all(self.examples["example"].to_numpy())
        self._tokens: pa.Table | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of S."""
        return self.manifest["labels"]

    @property
    def tokens(self) -> pa.Table:
        """All tokens, by example and position."""
        if self._tokens is None:
            table = self._read("tokens", self.manifest["shards"])
            self._tokens = table.sort_by([("example", "ascending"), ("position", "ascending")])
            self._require_all(np.unique(self._tokens["example"].to_numpy()))
        return self._tokens

    def __len__(self) -> int:
        return len(self.examples)

    def to_explanation(self, examples: Sequence[int] | None = None) -> Any:
        """A `shap.Explanation` of some examples (all by default), for shap's own plots."""
        import shap

        rows = range(len(self)) if examples is None else list(examples)
        if outside := [row for row in rows if not 0 <= row < len(self)]:
            raise ValueError(f"Expected examples 0 to {len(self) - 1}, got {outside[0]}.")
        bounds = np.searchsorted(self.tokens["example"].to_numpy(), np.arange(len(self) + 1))
        values = stack(self.tokens["S"])
        pieces = np.array(self.tokens["piece"].to_pylist(), dtype=object)
        spans = [slice(bounds[row], bounds[row + 1]) for row in rows]
        ragged = [np.empty(len(spans), dtype=object) for _ in range(2)]
        for i, span in enumerate(spans):
            ragged[0][i], ragged[1][i] = values[span], pieces[span]
        base = stack(self.examples["base"])[list(rows)]
        return shap.Explanation(
            ragged[0], base_values=base, data=tuple(ragged[1]), output_names=self.labels, feature_names=list(ragged[1])
        )

    def _require_all(self, examples: np.ndarray) -> None:
        number = self.manifest["examples"]
        if not np.array_equal(examples, np.arange(number)):
            raise ValueError(
                f"{self.folder}: its shards must contain each of the {number} examples of {MANIFEST} once: remove the "
                "folder and run the command again."
            )

    def _read(self, kind: str, shards: int) -> pa.Table:
        try:
            return pa.concat_tables([pq.read_table(shard_path(self.folder, kind, i)) for i in range(shards)])
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{self.folder}: a shard cannot be read ({error}): remove it and run the same command again."
            ) from None


def stack(column: pa.ChunkedArray) -> np.ndarray:
    """[N, C] of a column of lists of one length."""
    whole = column.combine_chunks()
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), whole.type.list_size)


def shard_path(folder: Path, kind: str, number: int) -> Path:
    """Of the kind `examples` or `tokens`."""
    return folder / f"{kind}-{number:05d}.parquet"


def is_written(folder: Path, number: int) -> bool:
    """Whether a shard is there: its examples are written last."""
    return shard_path(folder, "examples", number).is_file() and shard_path(folder, "tokens", number).is_file()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store, None if there is none.

    Raises:
        ValueError: it cannot be read, or a newer version wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): remove the folder and run the command again.") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} must contain an object: remove the folder and run the command again.")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {manifest.get('schema_version')}, but this version reads {SCHEMA_VERSION}."
        )
    if missing := [key for key in ("shards", "examples", "labels", "method") if key not in manifest]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: remove the folder and run the command again.")
    return manifest


def require_same(folder: Path, manifest: dict[str, Any]) -> None:
    """Check that a folder is empty, contains a store with the same manifest, or one without any shard.

    Raises:
        ValueError: it contains other files or other attributions; names what differs.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose a folder for the attributions.")
    before = read_manifest(folder)
    if before is None:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ValueError(f"{folder} contains files but no attributions: choose another folder, or empty it.")
        return
    differing = [
        f"{key} was {before.get(key)!r}, is {manifest.get(key)!r}"
        for key in sorted({*before, *manifest})
        if before.get(key) != manifest.get(key)
    ]
    if differing and any(folder.glob("*.parquet")):
        raise ValueError(
            f"{folder} contains other attributions ({'; '.join(differing)}): choose another folder, or remove it."
        )


def open_store(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a store, and remove temporary files of killed calls."""
    if read_manifest(folder) != manifest:
        write_json(folder / MANIFEST, manifest)
    for part in folder.glob("*.part"):
        if not _is_alive(part.suffixes[-2] if len(part.suffixes) > 1 else ""):
            part.unlink(missing_ok=True)


def _is_alive(suffix: str) -> bool:
    """Whether the process whose number is a suffix is running."""
    try:
        os.kill(int(suffix.removeprefix(".")), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def write_shard(folder: Path, number: int, rows: list[dict[str, Any]]) -> None:
    """Write a shard's tokens, then its examples.

    Args:
        folder: of the store.
        number: of the shard.
        rows: one dictionary per example: `example` and the columns of the examples table, in `tokens` those of the
            tokens table.

    Raises:
        OSError: the disk is full; names the shard. Earlier shards remain valid.
    """
    classes = len(rows[0]["p"])
    floats = pa.list_(pa.float32(), classes)
    examples = {
        "example": pa.int64(),
        "id": pa.string(),
        "language": pa.string(),
        "label": pa.string(),
        "p": floats,
        "base": floats,
        "evaluations": pa.int64(),
        "forwards": pa.int64(),
        "truncated": pa.bool_(),
        "text_truncated": pa.bool_(),
    }
    tokens = {
        "example": pa.int64(),
        "position": pa.int32(),
        "token_id": pa.int32(),
        "start": pa.int32(),
        "end": pa.int32(),
        "segment": pa.int8(),
        "piece": pa.string(),
        "S": floats,
    }
    if "standard_error" in rows[0]["tokens"]:
        tokens["standard_error"] = floats
    per_token = {name: np.concatenate([row["tokens"][name] for row in rows]) for name in tokens}
    per_example = {name: [row[name] for row in rows] for name in examples}
    for kind, schema, columns in (("tokens", tokens, per_token), ("examples", examples, per_example)):
        path = shard_path(folder, kind, number)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            pq.write_table(pa.table({name: _array(columns[name], type_) for name, type_ in schema.items()}), part)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = re.sub(r"\[Errno \d+\] ", "", str(error))
            raise OSError(
                f"Shard {number} of {folder} could not be written ({reason}): run the same command again."
            ) from error


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        flat = np.asarray(values, dtype=np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), kind.list_size)
    return pa.array(values, kind)
