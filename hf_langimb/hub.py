"""The Hub: publish the checkpoints of a run with what was measured of them, and load them back.

A repository is prepared and checked as a whole on this machine, then written as one commit: it never has weights
without a card, nor a card without weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from hf_langimb.axes import AXES_FILE
from hf_langimb.hub_faults import retried, told
from hf_langimb.lora import load_model
from hf_langimb.model_card import measured, render_attributions_card, render_base_card, render_card
from hf_langimb.results import FILE_NAME, read_results

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
MODEL_FILES = (WEIGHTS, ".json", ".txt", ".model")  # weights, configuration, tokenizer; no pickles
PULLED = (*MODEL_FILES, ".md", ".html", ".svg", ".parquet")
NOT_PUBLISHED = ("training.json", "trainer_state.json")
ADAPTER, BASE_MODEL = "adapter_config.json", "base_model_name_or_path"


@dataclass
class Repository:
    """What one repository will hold: a local file or its content by path."""

    repo_id: str
    kind: str  # model or dataset
    files: dict[str, Path | bytes]
    model: Path | None = None  # folder of the model that it publishes


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


def push_run(
    run: str | Path,
    repo_id: str,
    *,
    setups: Sequence[str] | None = None,
    seed: int | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    collection: str | None = None,
) -> list[str]:
    """Publish a run: a model repository for each setup, its attributions as a data set.

    Each repository is one commit, made when everything is prepared; what is there already and the same is left alone,
    so that the same run pushed twice changes nothing and an interrupted push goes on. After each commit the model is
    downloaded into an empty cache and must give the same logits. The run folder is not changed.

    Args:
        run: run folder of a recipe.
        repo_id: for one setup of that name; with several, REPO_ID-SETUP. Attributions: REPO_ID-attributions.
        setups: to publish; None takes all, each as REPO_ID-SETUP.
        seed: whose weights; None takes the lowest.
        private: new repositories are.
        revision: branch to commit to, made where it is missing; None takes main.
        token: of the Hub, with permission to write; None takes the one that you are logged in with.
        collection: title of a collection that lists the repositories, made where it is missing.

    Returns:
        URLs of the repositories.

    Raises:
        ValueError: the run is not whole, or the Hub refuses; says what to do.
    """
    from huggingface_hub import HfApi

    folder = Path(run)
    results = read_results(folder)
    names = {setup: f"{repo_id}-{setup}" for setup in (results["setups"] if setups is None else setups)}
    if setups is not None and len(names) == 1:
        names = dict.fromkeys(names, repo_id)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        repositories = prepare(folder, results, repo_id, names, seed, Path(scratch), revision)
        urls = [publish(api, one, private=private, revision=revision) for one in repositories]
    if collection:
        with told(repo_id):
            made = retried(
                lambda: api.create_collection(collection, namespace=repo_id.partition("/")[0], exists_ok=True)
            )
            for one in repositories:
                _add_to_collection(api, made.slug, one)
    return urls


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
    axes_file = folder / AXES_FILE
    if not axes_file.is_file():
        raise ValueError(
            f"{folder_or_repo_id} has no {AXES_FILE}: it was not trained with hf_langimb. Load it with "
            "AutoModelForSequenceClassification; recipes/evaluate.py measures any classifier."
        )
    from transformers import AutoTokenizer

    axes = json.loads(axes_file.read_text(encoding="utf-8"))
    with told(str(folder_or_repo_id)):
        model = load_model(folder, token=token, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return Run(model, tokenizer, axes["languages"], axes["labels"], np.array(axes["weights"]), results)


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
    target = Path(output_dir or repo_id.rpartition("/")[2])
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not an empty folder: choose another --output-dir, or remove it.")
    source = download(repo_id, revision=revision, token=token)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        shutil.copytree(source, part, dirs_exist_ok=True)
        part.chmod(0o755)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise OSError(f"{repo_id} could not be written to {target} ({reason}): nothing is left there.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def publish_evaluation(folder: Path, repo_id: str, *, token: str | None = None) -> str:
    """Put an evaluation's results, page and figures under `evaluation/` and its section into the card of a model.

    One commit, or a pull request where one may not write; returns its URL.

    Raises:
        ValueError: the Hub refuses; says what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    from hf_langimb.model_card import refresh_card

    results = read_results(folder)
    files: dict[str, Path | bytes] = {FILE_NAME: folder / FILE_NAME, **_page_of(folder, folder)}
    api = HfApi(token=token)

    def commit(create_pr: bool) -> Any:
        head = api.model_info(repo_id)
        try:
            card = Path(hf_hub_download(repo_id, "README.md", revision=head.sha, token=token)).read_text("utf-8")
        except EntryNotFoundError:
            card = ""
        content = {f"evaluation/{name}": file for name, file in files.items()}
        content["README.md"] = refresh_card(card, results, repo_id).encode()
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(path, file) for path, file in sorted(content.items())],
            commit_message="Evaluate by language with hf_langimb",
            parent_commit=head.sha,
            create_pr=create_pr,
        )

    with told(repo_id):
        try:
            made = retried(lambda: commit(False))
        except HfHubHTTPError as error:
            if error.response.status_code != 403:
                raise
            made = retried(lambda: commit(True))
    return made.pr_url or f"{api.endpoint}/{repo_id}"


def require_login(repo_id: str, token: str | None = None) -> None:
    """Raise before any work where a run could not be published at its end.

    Raises:
        ValueError: not logged in, or a token that the Hub does not know or that may not write.
    """
    from huggingface_hub import HfApi

    with told(repo_id):
        user = retried(lambda: HfApi(token=token).whoami())
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"The token may only read: publishing {repo_id} needs one with permission to write.")


# What a repository holds


def prepare(
    folder: Path,
    results: dict[str, Any],
    repo_id: str,
    names: dict[str, str],
    seed: int | None,
    scratch: Path,
    revision: str | None,
) -> list[Repository]:
    """The repositories of a run, checked: a base that the run made itself, models, attributions.

    Raises:
        ValueError: a model or its weights are missing or damaged; says what to do.
    """
    page = _page_of(folder, scratch)
    models, stores = [], {}
    bases: dict[str, Repository] = {}
    for setup, name in names.items():
        number, _ = measured(results, setup, seed)
        model = folder / setup / f"seed-{number}"
        files: dict[str, Path | bytes] = {**_model_files(model), FILE_NAME: folder / FILE_NAME, **page}
        base = None
        if ADAPTER in files:
            files.pop("config.json", None)
            config = json.loads((model / ADAPTER).read_text(encoding="utf-8"))
            base = config[BASE_MODEL]
            if Path(base).name == "start" and (folder / "start").is_dir():  # made by the run itself
                base = f"{repo_id}-base"
                start = _model_files(folder / "start") | {"README.md": render_base_card(results, base).encode()}
                bases[base] = Repository(base, "model", start)
                changed = config | {BASE_MODEL: base, "revision": revision}
                files[ADAPTER] = (json.dumps(changed, indent=2, sort_keys=True) + "\n").encode()
            elif Path(base).is_dir():
                raise ValueError(
                    f"The base of the adapters in {model} is the folder {base}, which nobody else has: publish it, and "
                    f"name its Hub id as {BASE_MODEL} in {ADAPTER}."
                )
        store = folder / "attributions" / f"{setup}-seed-{number}"
        if store.is_dir():
            stores[setup] = store
        card_of = f"{repo_id}-attributions" if store.is_dir() else None
        card = render_card(results, setup, seed=number, repo_id=name, base_model=base, attributions=card_of)
        models.append(Repository(name, "model", files | {"README.md": card.encode()}, model))
    data = []
    if stores:
        number = measured(results, next(iter(stores)), seed)[0]
        rows: dict[str, Path | bytes] = {
            f"{setup}/{path.name}": path for setup, store in stores.items() for path in _store_files(store)
        }
        card = render_attributions_card(results, list(stores), number, f"{repo_id}-attributions")
        data.append(Repository(f"{repo_id}-attributions", "dataset", rows | {"README.md": card.encode()}))
    return [*bases.values(), *models, *data]


def _page_of(folder: Path, scratch: Path) -> dict[str, Path | bytes]:
    """The page of a run and its figures: those that are there, where they are no older than the results."""
    from hf_langimb.report.page import PAGE_FILE, write_report

    written = folder / PAGE_FILE
    if not written.is_file() or written.stat().st_mtime < (folder / FILE_NAME).stat().st_mtime:
        shutil.copy(folder / FILE_NAME, scratch)
        written = write_report(scratch)
    figures = {f"figures/{path.name}": path for path in sorted((written.parent / "figures").glob("*.svg"))}
    return {PAGE_FILE: written, **figures}


def _model_files(folder: Path) -> dict[str, Path | bytes]:
    """Weights, configuration and tokenizer of a model's folder; no pickles, no checkpoints."""
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise ValueError(f"Expected a trained model at {folder}, found none: run the recipe first.")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES]
    weights = [path for path in paths if path.suffix == WEIGHTS]
    if not weights:
        raise ValueError(f"{folder} has no {WEIGHTS} weights to publish: run the recipe again.")
    for path in weights:
        try:
            with safe_open(path, "pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove {folder} and run the recipe again.") from None
    return {path.name: path for path in paths if path.name not in NOT_PUBLISHED}


def _store_files(store: Path) -> list[Path]:
    from hf_langimb.attribution.store import AttributionStore

    AttributionStore(store)  # whole, or an error in words
    return [path for path in sorted(store.iterdir()) if path.suffix in (".json", ".parquet")]


# Writing


def publish(api: Any, repository: Repository, *, private: bool, revision: str | None) -> str:
    """Make the repository where it is missing, commit what differs, load it back; returns its URL."""
    repo_id, kind = repository.repo_id, repository.kind
    with told(repo_id):
        url = retried(lambda: api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True))
        if revision is not None:
            retried(lambda: api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True))
        oid = retried(lambda: _commit(api, repository, revision))
    if repository.model is not None:
        _require_same_logits(repository, oid, api.token)
    return str(url)


def _commit(api: Any, repository: Repository, revision: str | None) -> str:
    """One commit on the present head; returns its hash, or that of the head where nothing differs."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo_id, kind = repository.repo_id, repository.kind
    head = api.repo_info(repo_id, repo_type=kind, revision=revision)
    there = {sibling.rfilename for sibling in head.siblings or ()}
    gone = sorted(name for name in there - {*repository.files} if _is_ours(name, kind))
    operations = [
        *(CommitOperationAdd(path, content) for path, content in sorted(repository.files.items())),
        *(CommitOperationDelete(path) for path in gone),
    ]
    return api.create_commit(
        repo_id,
        operations,
        commit_message="Publish a run of hf_langimb",
        repo_type=kind,
        revision=revision,
        parent_commit=head.sha,
    ).oid


def _is_ours(name: str, kind: str) -> bool:
    """Whether a file is of the kind that a push writes: an older one would be read in the place of the new."""
    path = PurePosixPath(name)
    if kind == "dataset":
        return path.suffix == ".parquet"
    return path.parts[0] == "figures" or (len(path.parts) == 1 and path.suffix in (*MODEL_FILES, *PICKLES))


def _add_to_collection(api: Any, slug: str, repository: Repository) -> None:
    retried(lambda: api.add_collection_item(slug, repository.repo_id, repository.kind, exists_ok=True))


def _require_same_logits(repository: Repository, oid: str, token: str | None) -> None:
    """Raise unless the published model, loaded into an empty cache, gives the logits of the local one."""
    assert repository.model is not None
    with tempfile.TemporaryDirectory() as cache:
        folder = download(repository.repo_id, revision=oid, token=token, cache_dir=cache)
        with told(repository.repo_id):
            published = _logits(load_model(folder, token=token, cache_dir=cache, use_safetensors=True))
    if not torch.allclose(published, _logits(load_model(repository.model)), atol=1e-5):
        raise ValueError(f"{repository.repo_id} was pushed but gives other logits than {repository.model}: push again.")


def _logits(model: Any) -> torch.Tensor:
    """Of token ids that any vocabulary has."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(32).reshape(4, 8) * max(size // 32, 1) % size
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


# Reading


def download(
    repo_id: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> Path:
    """A model repository's files in the cache, without pickles, each compared with its checksum.

    Access is asked for before the cache is looked at, which would serve private files to anybody on this machine.

    Raises:
        ValueError: no such repository, no access, only pickled weights, or files that arrive damaged.
        OSError: the disk is full.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        with told(repo_id):
            return Path(snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, local_files_only=True))
    with told(repo_id):
        info = retried(lambda: HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True))
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if unsafe := [name for name in files if _leaves_its_folder(name)]:
        raise ValueError(f"{repo_id} names a file outside of its folder ({unsafe[0]!r}): it is not downloaded.")
    wanted = [name for name in files if PurePosixPath(name).suffix in PULLED]
    if not any(name.endswith(WEIGHTS) for name in wanted):
        held = next((name for name in files if PurePosixPath(name).suffix in PICKLES), None)
        what = f"only pickled weights ({held}), which can run code when they are loaded" if held else "no weights"
        raise ValueError(f"{repo_id} holds {what}: expected {WEIGHTS} files.")
    settings: dict[str, Any] = {"revision": info.sha, "allow_patterns": wanted, "token": token, "cache_dir": cache_dir}
    for last in (False, True):
        with told(repo_id):
            folder = Path(retried(lambda: snapshot_download(repo_id, **settings)))
        damaged = [name for name in wanted if not _is_whole(folder / name, files[name])]
        for name in damaged:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
        if not damaged:
            _download_base(repo_id, folder, token, cache_dir)
            return folder
        if last:
            raise ValueError(
                f"{damaged[0]} of {repo_id} arrived damaged twice (its checksum differs): it was removed; try again, "
                "over another network."
            )
    raise AssertionError("unreachable")


def _download_base(repo_id: str, folder: Path, token: str | None, cache_dir: str | None) -> None:
    """The base of adapters, under the same rules; without them it would be taken in whatever form it is."""
    if not (folder / ADAPTER).is_file():
        return
    config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    base = str(config.get(BASE_MODEL))
    if base.count("/") > 1 or base.startswith((".", "/")):
        raise ValueError(f"{repo_id} holds adapters of the folder {base!r} on another machine: its base is needed too.")
    download(base, revision=config.get("revision"), token=token, cache_dir=cache_dir)


def _leaves_its_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name


def _is_whole(path: Path, sibling: Any) -> bool:
    """Whether a file is what the Hub lists: the SHA-256 of a large one, git's hash of another."""
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        if sibling.lfs is not None:
            return hashlib.file_digest(opened, "sha256").hexdigest() == sibling.lfs.sha256
        content = opened.read()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return sibling.blob_id is None or found == sibling.blob_id


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
