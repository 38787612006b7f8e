"""Models of the Hub on this machine: downloaded and compared with their checksums, pulled into a folder, loaded."""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hf_langimb.hub import errors as hub_faults
from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.models.axes import AXES_FILE, read_axes
from hf_langimb.models.loading import load_model
from hf_langimb.results.schema import FILE_NAME, measured, read_results

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
MODEL_FILES = (WEIGHTS, ".json", ".txt", ".model", ".codes", ".spm", ".tiktoken")  # also configuration and tokenizer
PULLED = (*MODEL_FILES, ".md", ".html", ".svg", ".parquet")
ADAPTER, BASE_MODEL = "adapter_config.json", "base_model_name_or_path"


@dataclass(frozen=True)
class Run:
    """A trained model with what it was trained on and what was measured of it.

    Args:
        model: on the CPU, in evaluation mode.
        tokenizer: of the model.
        languages, labels: the axes; `labels` as the data had them, names are in `model.config.id2label`.
        weights: float64[L, C], class weights of the training.
        results: results.json of its run; None where the folder has none.
    """

    model: Any
    tokenizer: Any
    languages: list[str]
    labels: list[Any]
    weights: np.ndarray
    results: dict[str, Any] | None


def load_run(
    folder_or_repo_id: str | Path,
    *,
    setup: str | None = None,
    seed: int | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Run:
    """A trained model with its axes, class weights and results.

    Args:
        folder_or_repo_id: folder of a model or of a run, or Hub id.
        setup: of a run folder; of a Hub id the repository REPO_ID-SETUP is taken.
        seed: of a run folder; None takes the lowest. A repository holds one.
        revision: branch, tag or commit of a repository.
        token: of the Hub; None takes the one that you are logged in with.

    Raises:
        ValueError: no such model, one that only pickles hold, or a damaged download; says what to do.
    """
    path = Path(folder_or_repo_id)
    if path.is_dir():
        results, folder = _find_model(path, setup, seed)
    else:
        if seed is not None:
            raise ValueError(f"{folder_or_repo_id} is no folder, and a repository holds one seed: leave seed out.")
        name = f"{folder_or_repo_id}-{setup}" if setup else str(folder_or_repo_id)
        folder = download(name, revision=revision, token=token)
        results = read_results(folder) if (folder / FILE_NAME).exists() else None
    axes = read_axes(folder)
    if axes is None:
        raise ValueError(
            f"{folder_or_repo_id} has no {AXES_FILE}: it was not trained with hf_langimb. Load it with "
            "AutoModelForSequenceClassification; recipes/evaluate.py measures any classifier."
        )
    if (folder / ADAPTER).is_file() and (folder / "config.json").is_file():
        raise ValueError(f"{folder_or_repo_id} holds adapters and a whole model: remove {ADAPTER} or config.json.")
    from transformers import AutoTokenizer

    with loading(str(folder_or_repo_id)):
        model = load_model(folder, token=token).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Run(model, tokenizer, axes["languages"], axes["labels"], np.array(axes["weights"]), results)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Whatever strangers' files do to the libraries that read them, as one ValueError."""
    try:
        with hub_errors(name):
            yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"The model in {name} cannot be loaded: {reason}") from None


def pull(
    repo_id: str, output_dir: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download a published model with its card and results into a folder of its own.

    Args:
        repo_id: of a model.
        output_dir: made by it; None takes the name of the repository.
        revision, token: as in `load_run`.

    Raises:
        ValueError: the folder is not empty, or the repository cannot be had; says what to do.
        OSError: the disk is full; the folder is not left half filled.
    """
    require_name(repo_id, namespace=False)
    target = Path(output_dir or repo_id.rpartition("/")[2])
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise OSError(f"{target} cannot be made ({error.strerror}): choose another --output-dir.") from None
    if taken:
        raise ValueError(f"{target} is not an empty folder: choose another --output-dir, or remove it.")
    source = download(repo_id, revision=revision, token=token)
    part = None
    try:
        place = target.resolve()  # of a link the folder that it names
        place.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".langimb-", dir=place if place.exists() else place.parent))
        shutil.copytree(source, part, dirs_exist_ok=True, ignore=_not_pulled)
        if place.exists():  # perhaps the working folder, which must stay the same one
            for path in list(part.iterdir()):
                path.rename(place / path.name)
        else:
            part.chmod(0o755)
            part.rename(place)
    except (OSError, ValueError) as error:  # the second: a name that no file can have
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else getattr(error, "strerror", None) or error
        reason = re.sub(r"\[Errno \d+\] ([^:]*).*", r"\1", str(reason))
        raise OSError(
            f"{repo_id} could not be written to {target} ({reason}): nothing is left there. Make room, or choose "
            "another --output-dir."
        ) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return target


def require_name(repo_id: str, namespace: bool = True) -> None:
    """Raise unless a repository has a name of the Hub's form.

    Args:
        repo_id: the name.
        namespace: whether it must be NAMESPACE/NAME, as all but a few old models have.

    Raises:
        ValueError: it has not.
    """
    from huggingface_hub.utils import validate_repo_id

    with hub_errors(repo_id):
        validate_repo_id(repo_id)
    if namespace and repo_id.count("/") != 1:
        raise ValueError(f"Expected a repository as NAMESPACE/NAME, found {repo_id!r}.")


def _not_pulled(folder: str, names: list[str]) -> list[str]:
    """What another client may have put into the cache."""
    return [name for name in names if not Path(folder, name).is_dir() and Path(name).suffix not in PULLED]


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    base: bool = False,
) -> Path:
    """A model repository's files in the cache, without pickles, each compared with its checksum.

    Access is asked for before the cache is looked at, which would serve private files to anybody on this machine.

    Args:
        repo_id: of a model.
        revision, token: as in `load_run`.
        cache_dir: None takes the one that all clients share.
        base: whether it is the base of adapters, which must be no adapters itself.

    Raises:
        ValueError: no such repository, no access, only pickled weights, or files that arrive damaged.
        OSError: the disk is full.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        folder = _from_cache(repo_id, revision, cache_dir)
    else:
        folder = _from_hub(repo_id, revision, token, cache_dir)
    if (folder / ADAPTER).is_file():
        if base:
            raise ValueError(f"{repo_id} is named as the base of adapters, and holds adapters itself.")
        name, commit = _base_of(repo_id, folder)
        download(name, revision=commit, token=token, cache_dir=cache_dir, base=True)
    return folder


def _from_cache(repo_id: str, revision: str | None, cache_dir: str | None) -> Path:
    """What an earlier download has left; the cache names its files by their checksums."""
    from huggingface_hub import snapshot_download

    settings: dict[str, Any] = {"local_files_only": True, "allow_patterns": [f"*{suffix}" for suffix in PULLED]}
    with hub_errors(repo_id):
        folder = Path(snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, **settings))
    for path in (path for path in folder.rglob("*") if path.is_symlink()):
        if not is_whole(path, path.resolve().name):
            raise ValueError(f"{path.name} of {repo_id} is damaged in the cache: download it again, with the Hub.")
    require_safe(repo_id, [path.name for path in folder.rglob("*")])
    return folder


def _from_hub(repo_id: str, revision: str | None, token: str | None, cache_dir: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    with hub_errors(repo_id):
        info = retried(lambda: info_of(HfApi(token=token), repo_id, revision))
    checksums = checksums_of(info)
    if unsafe := [name for name in checksums if _leaves_its_folder(name)]:
        raise ValueError(f"{repo_id} names a file outside of its folder ({unsafe[0]!r}): it is not downloaded.")
    require_safe(repo_id, checksums)
    wanted = [name for name in checksums if PurePosixPath(name).suffix in PULLED]
    settings: dict[str, Any] = {
        "revision": info.sha,
        "allow_patterns": [glob.escape(name) for name in wanted],
        "token": token,
        "cache_dir": cache_dir,
    }
    damaged: list[str] = []
    for _ in range(2):
        with hub_errors(repo_id):
            folder = Path(retried(lambda: snapshot_download(repo_id, **settings)))
        damaged = [name for name in wanted if not is_whole(folder / name, checksums[name])]
        for name in damaged:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
        if not damaged:
            reference = folder.parents[1] / "refs" / (revision or "main")  # so that it is found offline
            if not constants.REGEX_COMMIT_OID.fullmatch(reference.name):
                with suppress(OSError):  # a/b where a is
                    reference.parent.mkdir(parents=True, exist_ok=True)
                    reference.write_text(str(info.sha), encoding="utf-8")
            return folder
    raise ValueError(
        f"{damaged[0]} of {repo_id} arrived damaged twice (its checksum differs): it was removed; try again, "
        "over another network."
    )


def require_safe(name: str, files: Iterable[str]) -> None:
    """Raise unless weights are there that run no code when they are loaded.

    Raises:
        ValueError: pickles alone, or no weights.
    """
    suffixes = {PurePosixPath(file).suffix: file for file in files}
    if WEIGHTS not in suffixes:
        held = next((file for suffix, file in suffixes.items() if suffix in PICKLES), None)
        what = f"only pickled weights ({held}), which can run code when they are loaded" if held else "no weights"
        raise ValueError(f"{name} holds {what}: expected {WEIGHTS} files.")


def _base_of(repo_id: str, folder: Path) -> tuple[str, str | None]:
    """Hub id and commit of what adapters were trained on; it would else be taken in whatever form it is."""
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base, commit = config[BASE_MODEL] + "", config.get("revision")
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{ADAPTER} of {repo_id} names no base ({BASE_MODEL}).") from None
    if base.count("/") > 1 or base.startswith((".", "/")):
        raise ValueError(f"{repo_id} holds adapters of the folder {base!r} on another machine: its base is needed too.")
    return base, commit if isinstance(commit, str) else None


def _leaves_its_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name


def info_of(api: Any, repo_id: str, revision: str | None = None, kind: str = "model") -> Any:
    """What the Hub says of a repository and its files; a call of `retried`, whose time limit this one needs by name."""
    settings = {"revision": revision, "files_metadata": True, "timeout": hub_faults.WAIT}
    return api.repo_info(repo_id, repo_type=kind, **settings)


def is_of_model(file: str) -> bool:
    """Whether a file at the top of a model's folder decides what the model does."""
    return "/" not in file and file.endswith(MODEL_FILES) and file not in ("probe.json", FILE_NAME)


def checksums_of(info: Any) -> dict[str, str | None]:
    """{file: checksum} of a repository: the SHA-256 of a large file, git's hash of another."""
    return {one.rfilename: one.lfs.sha256 if one.lfs else one.blob_id for one in info.siblings or ()}


def is_whole(path: Path, checksum: str | None) -> bool:
    """Whether a file has a checksum of `checksums_of`; where the Hub lists none, whether it is there."""
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        if len(checksum or "") == 64:
            return hashlib.file_digest(opened, "sha256").hexdigest() == checksum
        content = opened.read()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return checksum in (None, found)


def _find_model(path: Path, setup: str | None, seed: int | None) -> tuple[dict[str, Any] | None, Path]:
    """Results and model folder of a model's folder, or of a run's."""
    if (path / AXES_FILE).is_file():
        if setup is not None or seed is not None:
            raise ValueError(f"{path} is the folder of one model: leave setup and seed out.")
        return (read_results(path) if (path / FILE_NAME).is_file() else None), path
    results = read_results(path)
    if setup is None and len(results["setups"]) > 1:
        raise ValueError(f"{path} is a run of several setups: choose setup= among {', '.join(results['setups'])}.")
    setup = setup or next(iter(results["setups"]))
    number, _ = measured(results, setup, seed)
    return results, path / setup / f"seed-{number}"
