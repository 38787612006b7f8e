"""Models of the Hub on this machine: downloaded and compared with their checksums, pulled into a folder, loaded."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from hf_langimb.files import read_json, write_text
from hf_langimb.hub import errors
from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.models.axes import AXES_FILE, read_axes
from hf_langimb.models.loading import ADAPTER_FILE, BASE_MODEL, load_trained
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FILE_NAME, Results, read_results
from hf_langimb.results.summary import measured

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
MODEL_FILES = (WEIGHTS, ".json", ".txt", ".model", ".codes", ".spm", ".tiktoken")  # also configuration and tokenizer
PULLED = (*MODEL_FILES, ".md", ".html", ".svg", ".parquet")


@dataclass(frozen=True)
class Run:
    """A trained model with the axes of its training data and the results of its run.

    Args:
        model: on the CPU, in evaluation mode.
        tokenizer: of the model.
        languages, labels: the axes; `labels` as in the data, their names are in `model.config.id2label`.
        weights: float64[L, C], class weights of the training.
        results: results.json of the run; None where the folder has none.
    """

    model: Any
    tokenizer: Any
    languages: list[str]
    labels: list[Any]
    weights: np.ndarray
    results: Results | None


def load_run(
    folder_or_repo_id: str | Path,
    *,
    setup: str | None = None,
    seed: int | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Run:
    """Load a trained model with its axes, class weights and results.

    Args:
        folder_or_repo_id: folder of a model or of a run, or Hub id.
        setup: of a run folder; for a Hub id, the repository REPO_ID-SETUP is loaded.
        seed: of a run folder; None takes the lowest. A repository contains one.
        revision: branch, tag or commit of a repository.
        token: of the Hub; None takes the one that you are logged in with.

    Raises:
        ValueError: no such model, pickled weights only, or a damaged download; says what to do.
    """
    name, path = str(folder_or_repo_id), Path(folder_or_repo_id)
    of_one_model = (path / AXES_FILE).is_file()
    if (seed is not None and not path.is_dir()) or (of_one_model and (setup, seed) != (None, None)):
        raise ValueError(f"{name} contains one model: leave {'setup and seed' if of_one_model else 'seed'} out.")
    if path.is_dir():
        folder = path if of_one_model else _model_of_run(path, setup, seed)
    else:
        path = folder = download(f"{name}-{setup}" if setup else name, revision=revision, token=token)
    results = read_results(path) if (path / FILE_NAME).is_file() else None
    axes = read_axes(folder)
    if axes is None:
        raise ValueError(
            f"{name} has no {AXES_FILE}: it was not trained with hf_langimb. Load it with "
            "AutoModelForSequenceClassification; recipes/evaluate.py measures any classifier."
        )
    if (folder / ADAPTER_FILE).is_file() and (folder / "config.json").is_file():
        raise ValueError(f"{name} contains adapters and a full model: remove {ADAPTER_FILE} or config.json.")
    trained = load_trained(folder, shown=name, token=token)
    weights = np.array(axes["weights"])
    return Run(trained.model.eval(), trained.tokenizer, axes["languages"], axes["labels"], weights, results)


def _model_of_run(path: Path, setup: str | None, seed: int | None) -> Path:
    """Folder of one model of a run."""
    results = read_results(path)
    if setup is None and len(results["setups"]) > 1:
        raise ValueError(f"{path} is a run of several setups: choose setup= among {', '.join(results['setups'])}.")
    setup = setup or next(iter(results["setups"]))
    number, _ = measured(results, setup, seed)
    return RunFolder(path).model(setup, number)


def pull(
    repo_id: str, output_dir: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download a published model with its card and results into a new folder.

    Args:
        repo_id: of a model.
        output_dir: created, or empty; None takes the name of the repository.
        revision, token: as in `load_run`.

    Raises:
        ValueError: the folder is not empty, or the repository cannot be downloaded; says what to do.
        OSError: the folder cannot be written; it is not left half filled.
    """
    with hub_errors(repo_id):
        validate_repo_id(repo_id)
    target = Path(output_dir or repo_id.rpartition("/")[2])
    with _writing(repo_id, target):
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if taken:
        raise ValueError(f"{target} is not an empty folder: choose another --output-dir, or remove it.")
    source = download(repo_id, revision=revision, token=token)
    with _writing(repo_id, target):
        _copy(source, target.resolve())  # of a link, the folder that it names
    return target


@contextmanager
def _writing(repo_id: str, target: Path) -> Iterator[None]:
    """Raise an error of the file system, or a name that no file can have, as one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OSError(
            f"{repo_id} could not be written to {target} ({getattr(error, 'strerror', None) or error}): nothing is "
            "left there. Make room, or choose another --output-dir."
        ) from None


def _copy(source: Path, place: Path) -> None:
    """Copy what we pull from the cache, where another client may have left more; all of it or nothing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".langimb-", dir=place if place.exists() else place.parent) as temporary:
        part = Path(temporary, "part")
        for path in source.rglob("*"):
            if path.is_file() and path.suffix in PULLED:
                (part / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, part / path.relative_to(source))
        if place.exists():  # perhaps the working folder, which must stay the same one
            for path in part.iterdir():
                path.rename(place / path.name)
        else:
            part.rename(place)


def require_name(repo_id: str) -> None:
    """Raise a ValueError unless a repository has a valid name, NAMESPACE/NAME; the client would add the namespace."""
    with hub_errors(repo_id):
        validate_repo_id(repo_id if "/" in repo_id else f"{repo_id}/")


def download(
    repo_id: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> Path:
    """Download a model repository without pickles into the cache; each file is compared with its checksum.

    Access is checked before the cache is read, which would serve private files to any user of this machine.

    Args:
        repo_id: of a model; of adapters, the base is downloaded too.
        revision, token: as in `load_run`.
        cache_dir: None takes the one that all clients share.

    Returns:
        Folder in the cache.

    Raises:
        ValueError: no such repository, no access, pickled weights only, or damaged files.
        OSError: the disk is full.
    """
    get = _from_cache if constants.HF_HUB_OFFLINE else _from_hub
    with hub_errors(repo_id):
        folder = get(repo_id, revision, token, cache_dir)
    if (folder / ADAPTER_FILE).is_file():
        config = read_json(folder / ADAPTER_FILE, f"upload the adapters of {repo_id} again")
        config = config if isinstance(config, dict) else {}
        base, commit = config.get(BASE_MODEL), str(config.get("revision") or "") or None
        of_hub = isinstance(base, str) and base.count("/") <= 1 and not base.startswith((".", "/"))
        with hub_errors(str(base)):  # PEFT would load a base from pickles too
            if not of_hub or (get(str(base), commit, token, cache_dir) / ADAPTER_FILE).is_file():
                raise ValueError(f"{repo_id} contains adapters whose base {base!r} is not a full model on the Hub.")
    return folder


def _from_cache(repo_id: str, revision: str | None, token: str | None, cache_dir: str | None) -> Path:
    """A repository that was downloaded earlier; the cache names its files by their checksums."""
    place: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": True}
    folder = Path(snapshot_download(repo_id, allow_patterns=[f"*{suffix}" for suffix in PULLED], **place))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    safe_files(repo_id, [path.name for path in paths])
    if damaged := [path.name for path in paths if path.is_symlink() and not is_intact(path, path.resolve().name)]:
        raise ValueError(f"{damaged[0]} of {repo_id} is damaged in the cache: download it again, with the Hub.")
    return folder


def _from_hub(repo_id: str, revision: str | None, token: str | None, cache_dir: str | None) -> Path:
    """The present commit of a repository; the client refuses names of files outside of its folder."""
    info = retried(lambda: info_of(HfApi(token=token), repo_id, revision))
    checksums = checksums_of(info)
    wanted = safe_files(repo_id, checksums)
    settings: dict[str, Any] = {"token": token, "cache_dir": cache_dir}
    settings["allow_patterns"] = [glob.escape(name) for name in wanted]
    for _ in range(2):
        folder = Path(retried(lambda: snapshot_download(repo_id, revision=info.sha, **settings)))
        # `verify_repo_checksums` would list the repository again, and hash files that we do not read
        damaged = [name for name in wanted if not is_intact(folder / name, checksums[name])]
        if not damaged:
            if not constants.REGEX_COMMIT_OID.fullmatch(revision or ""):
                with suppress(OSError):  # the client finds a branch offline by this file, and writes none for a commit
                    write_text(folder.parents[1] / "refs" / (revision or "main"), info.sha)
            return folder
        for name in damaged:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
    raise ValueError(
        f"{damaged[0]} of {repo_id} arrived damaged twice (its checksum differs): it was removed; try again, "
        "over another network."
    )


def safe_files(name: str, files: Iterable[str]) -> list[str]:
    """The files of a model that are downloaded: weights that run no code when they are loaded, and no pickles.

    Raises:
        ValueError: pickled weights only, or no weights.
    """
    suffixes = {PurePosixPath(file).suffix: file for file in files}
    if WEIGHTS not in suffixes:
        pickled = next((file for suffix, file in suffixes.items() if suffix in PICKLES), None)
        what = f"only pickled weights ({pickled}), which can run code when they are loaded" if pickled else "no weights"
        raise ValueError(f"{name} contains {what}: expected {WEIGHTS} files.")
    return [file for file in files if PurePosixPath(file).suffix in PULLED]


def info_of(api: HfApi, repo_id: str, revision: str | None = None, kind: str = "model") -> Any:
    """Facts about a repository and its files; to be called by `retried`, with its time limit: the client has none."""
    return api.repo_info(repo_id, revision=revision, repo_type=kind, files_metadata=True, timeout=errors.WAIT)


def is_of_model(file: str) -> bool:
    """Whether a file at the top of a model's folder decides what the model does."""
    return "/" not in file and file.endswith(MODEL_FILES) and file not in ("probe.json", FILE_NAME)


def checksums_of(info: Any) -> dict[str, str | None]:
    """{file: checksum} of a repository: the SHA-256 of a large file, git's hash of another."""
    return {one.rfilename: one.lfs.sha256 if one.lfs else one.blob_id for one in info.siblings or ()}


def has_files(checksums: Mapping[str, str | None], files: Mapping[str, Path]) -> bool:
    """Whether a repository with these checksums contains all of these local files."""
    return all(name in checksums and is_intact(path, checksums[name]) for name, path in files.items())


def is_intact(path: Path, checksum: str | None) -> bool:
    """Whether a file has a checksum of `checksums_of`; where the Hub lists none, whether it exists."""
    if checksum is None or not path.is_file():
        return path.is_file()
    with path.open("rb") as opened:
        found = sha_fileobj(opened).hex() if len(checksum) == 64 else git_hash(opened.read())
    return found == checksum
