"""Files: JSON, atomic writes, records of checksums, and a lock on a folder.

A killed program leaves the old file or the new one, never a part of it. A step of a program that has ended has a record
with the checksums of what it wrote, which later steps compare before they read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

AGAIN = "remove it and run the recipe again"
RECORD, LOCK = "checksums.json", ".lock"
MODEL = "model"  # the step that writes a model, in a record
_ENDINGS = "html|json|md|parquet|svg|txt|yaml"  # of the files that `replacing` writes
_PART = re.compile(rf"\..+\.({_ENDINGS})\.(\d+|part)|\.tmp[A-Za-z0-9]{{6}}|[\w-]+\.part")  # the second by safetensors
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_NATIVE = r"os error (?P<number>\d+)|enforce fail at inline_container|iostream error"  # the disk, in Rust and torch


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with names_the_file(path):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def is_own_part(path: Path) -> bool:
    """Whether a file or folder is what a killed program left of an unfinished one, or its lock."""
    return path.name == LOCK or _PART.fullmatch(path.name) is not None


def remove_parts(folder: Path) -> None:
    """Remove what killed programs left of unfinished files and folders; nobody else may write to the folder."""
    for path in [path for path in folder.rglob("*") if is_own_part(path) and path.name != LOCK]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class DiskError(OSError):
    """A file could not be written; the message says which, why, and what to do."""


@contextmanager
def names_the_file(place: Path | None) -> Iterator[None]:
    """Report any library's error of a full, damaged or read-only disk as one sentence with the file.

    Args:
        place: the file or folder that is written to, for errors that do not say; None where it is not known.

    Raises:
        DiskError: says which file, why, and what to do.
    """
    try:
        yield
    except Exception as error:
        reason = None if isinstance(error, DiskError) else disk_reason(error)
        named = reason and DiskError(_sentence(_file_of(error, place), reason))
        raise (named or error) from (error if named else error.__cause__)


def _sentence(file: Path | None, reason: str) -> str:
    """Which file could not be written, why, and what to do."""
    if file is None:
        return (
            f"A file could not be written ({reason}): free space in the output folder and in the cache ({_cache()}; "
            "set HF_HOME to move it), then run the same command again."
        )
    file = file.with_name(re.sub(r"^\.(.+)\.\d+$", r"\1", file.name))  # the one that `replacing` writes
    advice, cache = "free space on its disk or make it writable, then run the same command again", _cache()
    if file.is_relative_to(cache) or cache.is_relative_to(file):
        advice = "downloads and datasets are cached there; set HF_HOME to a folder that can be written"
    return f"{file} could not be written ({reason}): {advice}."


def disk_reason(error: BaseException | None) -> str | None:
    """What is wrong with the disk according to an error or its causes; None where they are of another kind."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number is None and (found := re.search(_NATIVE, str(cause))):
            number = int(found["number"] or errno.ENOSPC)
        denied = number in (errno.EACCES, errno.EPERM, errno.ENOTDIR) and _cache().is_relative_to(_named(cause) or "-")
        if number is not None and (number in _DISK or denied):
            return os.strerror(number)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _named(error: BaseException) -> str:
    """The file that an error names."""
    return str(getattr(error, "filename2", None) or getattr(error, "filename", None) or "")  # of a copy, its target


def _file_of(error: BaseException, place: Path | None) -> Path | None:
    """The file that a library was writing: the one that an error names, or the innermost path of the traceback."""
    found = place
    for cause in _causes(error):
        if name := _named(cause):
            return Path(name)
        trace = cause.__traceback__
        while trace is not None and place is not None:
            for value in trace.tb_frame.f_locals.values():
                path = Path(value) if isinstance(value, str | Path) else place
                if path != place and path.absolute().is_relative_to(place.absolute()):
                    found = path
            trace = trace.tb_next
    return found


def _cache() -> Path:
    """Where the libraries keep what they download and convert."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME).absolute()


@contextmanager
def locked(folder: Path, advice: str) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing.

    The lock is the kernel's and ends with its process, however that ends; host and process id are for the message.

    Raises:
        ValueError: another process has the lock; says which, and `advice`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder, advice)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            (folder / LOCK).unlink()
        _locks.discard(lock)
        os.close(lock)


def _close_locks() -> None:
    """Close the descriptors of locks in a forked process: one that survives its parent would keep the locks."""
    while _locks:
        os.close(_locks.pop())


_locks: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def _acquire(folder: Path, advice: str) -> int:
    """The descriptor of a folder's lock."""
    while True:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            from fcntl import LOCK_EX, LOCK_NB, flock  # not on Windows

            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 300).decode(errors="replace") or "just started"
            os.close(lock)
            raise ValueError(f"another process ({holder}) is using {folder}: {advice}.") from None
        except (ImportError, OSError) as error:
            logger.warning("%s cannot be locked (%s): run one process in it at a time.", folder, error)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):  # not removed by its last holder meanwhile
                break
        os.close(lock)
    _locks.add(lock)
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())
    return lock


# Records of checksums


def sha256(path: Path) -> str:
    """The checksum of a file, which may be larger than the memory; computed once while the file stays the same."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: Path, *_: int) -> str:
    """The checksum of the file that is this one at present."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """{name: checksum} of files of a folder."""
    return {name: sha256(folder / name) for name in sorted(names)}


def are_there(folder: Path, recorded: Mapping[str, str], advice: str = AGAIN) -> bool:
    """Whether a folder has all files of {name: checksum}.

    Raises:
        ValueError: a file that is there is not what was recorded; names it, and `advice`.
    """
    there = [name for name in recorded if (folder / name).is_file()]
    if damaged := next((name for name in there if sha256(folder / name) != recorded[name]), None):
        problem = "is damaged (its checksum differs from the one recorded when it was written)"
        raise ValueError(f"{folder / damaged} {problem}: {advice}.")
    return len(there) == len(recorded)


def read_record(folder: Path) -> dict[str, dict[str, str]]:
    """{step: {name: checksum}} of the finished steps whose files a folder has; empty where none are recorded."""
    path = folder / RECORD
    found = read_json(path, AGAIN) if path.is_file() else {}
    steps = found.items() if isinstance(found, dict) else ()
    return {step: names for step, names in steps if isinstance(names, dict)}


def record(folder: Path, step: str, names: Iterable[str]) -> None:
    """Record that a step has ended and what it wrote; a new model undoes the steps after it."""
    before, written = read_record(folder), checksums(folder, names)
    if before.get(step) != written:
        write_json(folder / RECORD, ({} if step == MODEL else before) | {step: written})


def is_done(folder: Path, step: str) -> bool:
    """Whether a step has ended and its files are there; a step of which one was removed is done again.

    Raises:
        ValueError: a file is damaged.
    """
    recorded = read_record(folder).get(step)
    return recorded is not None and are_there(folder, recorded)


def check_model(folder: Path) -> bool:
    """Compare the files of a model with its record; whether it has one.

    Raises:
        ValueError: a file is damaged or missing.
    """
    recorded = read_record(folder).get(MODEL, {})
    if not are_there(folder, recorded):
        missing = next(name for name in recorded if not (folder / name).is_file())
        raise ValueError(f"{folder / missing} is missing: run the recipe again to recreate it.")
    return bool(recorded)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (no NaN, no infinity) atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, advice: str) -> Any:
    """Read strict JSON.

    Args:
        path: of the file.
        advice: what the user can do about a damaged file; ends the error message.

    Raises:
        ValueError: not valid JSON, or a number that JSON does not allow (NaN, infinity).
        OSError: no such file, or no permission.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): {advice}.") from None


def _finite(text: str) -> float:
    """A number of JSON, which NaN and Infinity are not."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a number in JSON")
    return value
