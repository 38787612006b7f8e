"""The store of a dataset's attributions: a manifest, and Parquet shards that are written completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from numpy.typing import NDArray

from hf_langimb import files
from hf_langimb.console import on_main
from hf_langimb.files import read_json, replacing, write_json
from hf_langimb.measures.attribution import OWEN_ORDERS
from hf_langimb.measures.attribution.examples import Attribution, Example

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
AGAIN = "remove the folder and run the command again"
SHARD_AGAIN = "remove it and run the recipe or `langimb explain` again to recreate it"
FILES = "files"  # in the manifest of complete attributions: the checksum of each shard
EXACT = "exact_share"  # there as well, of `owen_orders`: the share of examples of which all orders were taken
BATCH = "batch-"  # folders of stores that are read as one
OF_ROWS = ("examples", "shards", "truncated_texts", "data", "first_example", FILES, EXACT)  # in a batch's manifest
COLUMNS = {  # of every shard
    "examples": ("example", "id", "language", "label", "p", "base", "evaluations", "forwards", "truncated"),
    "tokens": ("example", "position", "token_id", "segment", "piece", "S"),
}
FORM = {"shards": int, "examples": int, "labels": list, "method": str}  # of what every manifest must contain


class AttributionStore:
    """Attributions of a dataset's examples for all classes.

    Tables: `examples`, one row per example in the order of the dataset (example, id, language, label, p and base
    float32[C], evaluations, forwards, truncated: its tree was not opened completely, text_truncated), and `tokens`, one
    row per token (example, position, token_id, start, end: characters, segment: 0, 1 or -1 for special tokens, piece:
    the text of the token, S float32[C], standard_error float32[C] with the method shapley). In each example base + the
    sum of S is p. With the method owen_orders, `examples` also has orders (0: all were taken, the values are exact),
    and `tokens` has half_difference float32[C] if there are two halves: S + half_difference and S - half_difference.

    Args:
        folder: with manifest.json, examples-*.parquet and tokens-*.parquet, or with folders batch-00000, batch-00001,
            ... of batches of rows, which are read as one store.
        batches: how many batches are read; None reads all.

    Raises:
        ValueError: no store, or one that is not complete, of another version, or damaged.
    """

    def __init__(self, folder: str | Path, *, batches: int | None = None) -> None:
        self.folder = Path(folder)
        found = sorted(path for path in self.folder.glob(f"{BATCH}*") if path.is_dir())
        self.batches = [AttributionStore(path) for path in found[:batches]]
        self.manifest = _read_manifest(self.folder) or {"shards": 0, "examples": 0, "labels": []}
        if self.batches:
            self.manifest = _joined([one.manifest for one in self.batches], self.folder)
        self.labels: list[str] = list(self.manifest["labels"])  # names of the classes, in the order of S
        self.examples = self._read("examples").sort_by("example")

    @cached_property
    def tokens(self) -> pa.Table:
        """All tokens, by example and position."""
        return self._read("tokens").sort_by([("example", "ascending"), ("position", "ascending")])

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def has_halves(self) -> bool:
        """Whether the orders were drawn as two independent halves."""
        return "half_difference" in self.tokens.column_names

    @property
    def halves(self) -> NDArray[np.float32]:
        """float32[2, tokens, C]: the values of each half of the orders; the same where values are exact.

        Raises:
            ValueError: the attributions were not computed in halves.
        """
        if not self.has_halves:
            method = self.manifest["method"]
            raise ValueError(
                f"Attributions in {self.folder} have no halves (method {method!r}): explain the rows again with "
                f"method={OWEN_ORDERS!r} and halves=2."
            )
        difference = stack(self.tokens["half_difference"])
        return stack(self.tokens["S"]) + np.stack([difference, -difference])

    def to_explanation(self, examples: Sequence[int] | None = None) -> Any:
        """A `shap.Explanation` of some examples (all by default), for shap's own plots."""
        import shap

        rows = np.arange(len(self))[slice(None) if examples is None else list(examples)]
        ends = np.searchsorted(self.tokens["example"].to_numpy(), self.examples["example"].to_numpy()[1:])
        pieces = np.array(self.tokens["piece"].to_pylist(), dtype=object)
        values, names = np.split(stack(self.tokens["S"]), ends), np.split(pieces, ends)
        return shap.Explanation(
            np.fromiter((values[row] for row in rows), dtype=object, count=len(rows)),
            base_values=stack(self.examples["base"])[rows],
            data=tuple(names[row] for row in rows),
            output_names=self.labels,
            feature_names=[names[row] for row in rows],
        )

    def _read(self, kind: str) -> pa.Table:
        """The table of a kind, with rows of each example."""
        if self.batches:
            return pa.concat_tables([getattr(one, kind) for one in self.batches])
        number, shards, found = self.manifest["examples"], self.manifest["shards"], ""
        numbers = np.arange(number) + self.manifest.get("first_example", 0)
        written = min(len([*self.folder.glob(f"{name}-*.parquet")]) for name in COLUMNS)
        if not shards:
            found = f"no {MANIFEST}: run `langimb explain` first"
        elif written < shards:
            found = f"{written} of {shards} shards: run the same command again to continue"
        else:
            paths, tables = [_shard(self.folder, kind, i) for i in range(shards)], []
            try:
                for path in paths:
                    tables.append(pq.read_table(path))
                table = pa.concat_tables(tables)
                rows, lacking = np.sort(table["example"].to_numpy()), {*COLUMNS[kind]} - {*table.column_names}
                if lacking:
                    found = f"shards without {', '.join(sorted(lacking))}: {AGAIN}"
                elif not np.array_equal(rows if kind == "examples" else np.unique(rows), numbers):
                    found = f"shards that do not contain the {number} examples of {MANIFEST}, each once: {AGAIN}"
            except (pa.ArrowInvalid, KeyError, OSError) as error:  # KeyError: a column is missing
                damaged = paths[min(len(tables), shards - 1)]
                found = f"a shard that cannot be read ({damaged}: {error}): {SHARD_AGAIN}"
        if found:
            raise ValueError(f"Expected complete attributions in {self.folder}, got {found}.")
        recorded = self.manifest.get(FILES, {})
        files.are_there(self.folder, {name: recorded[name] for name in recorded if name.startswith(kind)}, SHARD_AGAIN)
        return table


def first_batches(folder: Path, examples: int) -> AttributionStore:
    """The store in a folder, of batches only those of the first examples: a killed process may have begun more."""
    manifests = (_read_manifest(path) for path in sorted(folder.glob(f"{BATCH}*")))
    ends = np.cumsum([found["examples"] if found else 0 for found in manifests])
    return AttributionStore(folder, batches=int((ends < examples).sum()) + 1)


def stack(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """float32[N, C] from a column of lists of one length."""
    whole = column.combine_chunks()
    return np.asarray(whole.flatten()).reshape(len(whole), whole.type.list_size)


def _shard(folder: Path, kind: str, number: int) -> Path:
    """Path of a shard of the kind `examples` or `tokens`."""
    return folder / f"{kind}-{number:05d}.parquet"


def _missing(folder: Path, shards: int) -> list[int]:
    """Shards that are not complete."""
    return [i for i in range(shards) if not all(_shard(folder, kind, i).is_file() for kind in COLUMNS)]


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store, None if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path, AGAIN)
    entries: dict[str, Any] = manifest if isinstance(manifest, dict) else {}
    problem = ""
    if (version := entries.get("schema_version")) != SCHEMA_VERSION:
        problem = f"has schema_version {version}, expected {SCHEMA_VERSION}: {AGAIN}, or upgrade hf_langimb"
    elif wrong := [key for key, kind in FORM.items() if not isinstance(entries.get(key), kind)]:
        problem = f"has no valid {', '.join(wrong)}: {AGAIN}"
    elif not isinstance(entries.get(FILES, {}), dict):
        problem = f"has no valid {FILES}: {AGAIN}"
    elif not 0 < entries["shards"] <= entries["examples"]:
        problem = f"has {entries['shards']} shards of {entries['examples']} examples: {AGAIN}"
    if problem:
        raise ValueError(f"{path} {problem}.")
    return entries


def _joined(manifests: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The manifest of several batches as one."""
    same, *others = ({key: of[key] for key in of if key not in OF_ROWS} for of in manifests)
    first = 0
    for batch in manifests:
        if any(other != same for other in others) or batch.get("first_example", 0) != first:
            raise ValueError(f"The batches in {folder} do not belong together: {AGAIN}.")
        first += batch["examples"]
    sums = {key: sum(batch[key] for batch in manifests) for key in ("examples", "shards", "truncated_texts")}
    if all(EXACT in batch for batch in manifests):
        sums[EXACT] = sum(batch[EXACT] * batch["examples"] for batch in manifests) / first
    return same | sums | {"data": " ".join(batch["data"] for batch in manifests)}


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Write attributions to a folder, which the main process locks.

    Raises:
        ValueError: the folder is a file, or another process writes attributions to it.
    """

    def lock() -> None:
        """The lock of a new folder, or of one that exists."""
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder for the attributions.")
        held.enter_context(files.locked(folder, "wait until it ends, or choose another folder"))

    with files.names_the_file(folder), ExitStack() as held:
        on_main(lock)
        yield
        PartialState().wait_for_everyone()


def start_store(folder: Path, manifest: dict[str, Any]) -> list[int]:
    """Make or continue a store; the shards that this process computes.

    Raises:
        ValueError: the folder contains attributions of something else (names what differs), other files, or a shard
            that is damaged.
    """
    state, before, problem = PartialState(), _read_manifest(folder), None
    recorded = before.pop(FILES, {}) if before else {}
    (before or {}).pop(EXACT, None)
    if before is None and any(not path.name.startswith(".") for path in folder.iterdir()):
        several = any(folder.glob(f"{BATCH}*/"))
        problem = f"contains {'batches of' if several else 'files but no'} attributions: choose another folder"
        problem += "" if several else ", or empty it"
    elif before not in (None, manifest) and any(folder.glob("*.parquet")):
        pairs = {key: (before.get(key), manifest.get(key)) for key in sorted({*before, *manifest})}
        differing = "; ".join(f"{key} was {was!r}, is {now!r}" for key, (was, now) in pairs.items() if was != now)
        problem = f"contains other attributions ({differing}): choose another folder, or remove it"
    if problem:  # in every process, so that all end alike
        raise ValueError(f"{folder} {problem}.")
    files.are_there(folder, recorded, SHARD_AGAIN)
    state.wait_for_everyone()
    if state.is_main_process:
        files.remove_parts(folder)
        if before != manifest:
            write_json(folder / MANIFEST, manifest)
    missing = _missing(folder, manifest["shards"])
    state.wait_for_everyone()  # all have seen the same shards; now they write
    return missing[state.process_index :: state.num_processes]


def finish_store(folder: Path, manifest: dict[str, Any]) -> None:
    """Record the checksums of all shards, in the main process, when all are written."""
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        shards = [_shard(folder, kind, i).name for i in range(manifest["shards"]) for kind in COLUMNS]
        complete = manifest | {FILES: files.checksums(folder, shards)}
        if manifest["method"] == OWEN_ORDERS:
            taken = [pq.read_table(_shard(folder, "examples", i))["orders"] for i in range(manifest["shards"])]
            complete[EXACT] = float(np.mean(pa.chunked_array(taken).to_numpy() == 0))
        if _read_manifest(folder) != complete:
            write_json(folder / MANIFEST, complete)
    PartialState().wait_for_everyone()


def write_shard(
    folder: Path, number: int, examples: Sequence[Example], found: Sequence[Attribution], known: dict[str, list[Any]]
) -> None:
    """Write a shard's tokens, then its examples; `known` has the dataset's columns, and `example`, their rows.

    Raises:
        OSError: the disk is full; names the shard. Shards that are written stay.
    """
    lengths = [len(example) for example in examples]
    tokens = {
        "example": pa.array(np.repeat(known["example"], lengths), pa.int64()),
        "position": pa.array(np.concatenate([np.arange(length) for length in lengths]), pa.int32()),
        "token_id": pa.array(np.concatenate([example.ids for example in examples]), pa.int32()),
        "start": pa.array([start for example in examples for start in example.starts], pa.int32()),
        "end": pa.array([end for example in examples for end in example.ends], pa.int32()),
        "segment": pa.array(np.concatenate([example.segments for example in examples]), pa.int8()),
        "piece": pa.array([piece for example in examples for piece in example.pieces], pa.string()),
        "S": _lists(np.concatenate([result.values for result in found])),
    }
    for name, of in (("standard_error", "errors"), ("half_difference", "half_difference")):
        if parts := [part for result in found if (part := getattr(result, of)) is not None]:
            tokens[name] = _lists(np.concatenate(parts))
    rows = {"example": pa.array(known["example"], pa.int64())}
    rows |= {name: pa.array(known[name], pa.string()) for name in ("id", "language", "label")}
    rows |= {"p": _lists([result.full for result in found]), "base": _lists([result.base for result in found])}
    for name in ("evaluations", "forwards", "truncated"):
        rows[name] = pa.array([getattr(result, name) for result in found])
    rows["text_truncated"] = pa.array([example.truncated for example in examples])
    if found[0].orders is not None:
        rows["orders"] = pa.array([result.orders for result in found])
    for kind, columns in (("tokens", tokens), ("examples", rows)):
        try:
            with replacing(_shard(folder, kind, number)) as part:
                pq.write_table(pa.table(columns), part)
        except OSError as error:
            reason = files.disk_reason(error) or error
            advice = "make room on its disk, and run the same command again"
            raise files.DiskError(f"Shard {number} of {folder} could not be written ({reason}): {advice}.") from error


def _lists(values: Any) -> pa.Array:
    """Lists of float32 of one length, from [N, C]."""
    table = np.asarray(values, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), table.shape[1])
