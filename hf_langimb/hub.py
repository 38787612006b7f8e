"""The Hub: publish the checkpoints of a run with what was measured of them, and load them back.

A repository is prepared and checked as a whole on this machine, then written as one commit: it never has weights
without a card, nor a card without weights.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from hf_langimb.axes import AXES_FILE, read_axes
from hf_langimb.hub_faults import retried, told
from hf_langimb.lora import load_model
from hf_langimb.model_card import (
    carry_evaluations,
    evaluation_slug,
    measured,
    refresh_card,
    render_attributions_card,
    render_base_card,
    render_card,
)
from hf_langimb.results import FILE_NAME, read_results

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
MODEL_FILES = (WEIGHTS, ".json", ".txt", ".model")  # weights, configuration, tokenizer; no pickles
PULLED = (*MODEL_FILES, ".md", ".html", ".svg", ".parquet")
ADAPTER, BASE_MODEL = "adapter_config.json", "base_model_name_or_path"
OURS = re.compile(  # names in a model repository that a push writes, or that would be loaded in their place
    r"(model|adapter_model|pytorch_model)[\w.-]*|(adapter_config|config|langimb|probe|results)\.json|report\.html|"
    r"(tokenizer|special_tokens|added_tokens|vocab|merges|sentencepiece|spiece)[\w.-]*|"
    r"figures/(labels|predictions|probe|attributions|reliability)[^/]*\.svg"
)


@dataclass
class Repository:
    """What one repository will hold: a local file or its content by path."""

    repo_id: str
    kind: str  # model or dataset
    files: dict[str, Path | bytes]
    card: Callable[[str, set[str]], str]  # from the card that is there for the same weights, and the names there
    logits: torch.Tensor | None = None  # of the model that it publishes
    base: str = ""  # of adapters, where the run has made it


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
    if setups is not None and not setups:
        raise ValueError("No setup to publish: name one or more, or leave setups out for all of them.")
    names = {setup: f"{repo_id}-{setup}" for setup in (results["setups"] if setups is None else setups)}
    if setups is not None and len(names) == 1:
        names = dict.fromkeys(names, repo_id)
    require_name(repo_id)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        repositories = prepare(folder, results, repo_id, names, seed, Path(scratch))
        urls: list[str] = []
        commits: dict[str, str] = {}
        for one in repositories:
            if one.base in commits:  # a later push of another run does not change these adapters
                config = json.loads(bytes(one.files[ADAPTER])) | {"revision": commits[one.base]}  # type: ignore[arg-type]
                one.files[ADAPTER] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
            url, commits[one.repo_id] = publish(api, one, private=private, revision=revision)
            urls.append(url)
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
    axes = read_axes(folder)
    if axes is None:
        raise ValueError(
            f"{folder_or_repo_id} has no {AXES_FILE}: it was not trained with hf_langimb. Load it with "
            "AutoModelForSequenceClassification; recipes/evaluate.py measures any classifier."
        )
    if (folder / ADAPTER).is_file() and (folder / "config.json").is_file():
        raise ValueError(f"{folder_or_repo_id} holds adapters and a whole model: remove {ADAPTER} or config.json.")
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        with told(str(folder_or_repo_id)):
            model = load_model(folder, token=token).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"The model in {folder_or_repo_id} cannot be loaded: {reason}") from None
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
        shutil.copytree(source, part, dirs_exist_ok=True, ignore=_not_pulled)
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


def _not_pulled(folder: str, names: list[str]) -> list[str]:
    """What another client may have put into the cache."""
    return [name for name in names if not Path(folder, name).is_dir() and Path(name).suffix not in PULLED]


def publish_evaluation(folder: Path, repo_id: str, *, token: str | None = None) -> str:
    """Put an evaluation's results, page and figures under `evaluation/NAME/` and its section into the card of a model.

    One commit, or a pull request where one may not write; returns its URL.

    Raises:
        ValueError: the Hub refuses, or the model has other weights by now; says what to do.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    results = read_results(folder)
    place = f"evaluation/{evaluation_slug(results)}"
    files = {f"{place}/{name}": file for name, file in _page_of(folder, folder).items()}
    files[f"{place}/{FILE_NAME}"] = folder / FILE_NAME
    weights = [path for path in (folder / "model" / "seed-0").iterdir() if path.suffix == WEIGHTS]
    api = HfApi(token=token)

    def commit(create_pr: bool) -> Any:
        head = api.model_info(repo_id, files_metadata=True)
        there = {sibling.rfilename: sibling for sibling in head.siblings or ()}
        if not all(path.name in there and _is_whole(path, there[path.name]) for path in weights):
            raise ValueError(f"{repo_id} has other weights than those that were measured: evaluate it again.")
        card = refresh_card(_card_of(api, repo_id, "model", head), results, repo_id)
        content = files | {"README.md": card.encode()}
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


def require_name(repo_id: str) -> None:
    """Raise unless a repository is named with its namespace.

    Raises:
        ValueError: it is not.
    """
    from huggingface_hub.utils import validate_repo_id

    with told(repo_id):
        validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"Expected a repository as NAMESPACE/NAME, found {repo_id!r}.")


def require_login(repo_id: str, token: str | None = None, own: bool = True) -> None:
    """Raise before any work where a run could not be published at its end.

    Args:
        repo_id: to publish to.
        token: of the Hub.
        own: whether it must be in a namespace of the user's (to others one may propose).

    Raises:
        ValueError: not logged in, a token that the Hub does not know or that may not write, or another's namespace.
    """
    from huggingface_hub import HfApi

    require_name(repo_id)

    with told(repo_id):
        user = retried(lambda: HfApi(token=token).whoami())
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"The token may only read: publishing {repo_id} needs one with permission to write.")
    mine = {str(user.get("name")), *(str(org.get("name")) for org in user.get("orgs") or ())}
    if own and repo_id.partition("/")[0] not in mine:
        raise ValueError(f"{repo_id} is not in a namespace of yours: choose one of {', '.join(sorted(mine))}.")


# What a repository holds


def prepare(
    folder: Path,
    results: dict[str, Any],
    repo_id: str,
    names: dict[str, str],
    seed: int | None,
    scratch: Path,
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
        axes = read_axes(model)
        if axes is None or not any(name.startswith(("tokenizer", "vocab")) for name in files):
            raise ValueError(f"{model} lacks {AXES_FILE} or its tokenizer: remove it and run the recipe again.")
        if axes["label_names"] != results["labels"] or axes["languages"] != results["languages"]:
            raise ValueError(f"{folder / FILE_NAME} is of other languages or labels than {model}: it is another run's.")
        base = None
        if ADAPTER in files:
            files.pop("config.json", None)
            config = json.loads((model / ADAPTER).read_text(encoding="utf-8"))
            base = config[BASE_MODEL]
            if Path(base).name == "start" and (folder / "start").is_dir():  # made by the run itself
                base = f"{repo_id}-base"
                card = render_base_card(results, base)
                bases[base] = Repository(base, "model", _model_files(folder / "start"), _unchanging(card))
                changed = config | {BASE_MODEL: base}
                files[ADAPTER] = (json.dumps(changed, indent=2, sort_keys=True) + "\n").encode()
            elif Path(base).is_dir():
                raise ValueError(
                    f"The base of the adapters in {model} is the folder {base}, which nobody else has: publish it, and "
                    f"name its Hub id as {BASE_MODEL} in {ADAPTER}."
                )
        store = folder / "attributions" / f"{setup}-seed-{number}"
        if store.is_dir():
            stores[setup] = store
        rows_at = f"{repo_id}-attributions" if store.is_dir() else None
        card = render_card(results, setup, seed=number, repo_id=name, base_model=base, attributions=rows_at)
        logits = _local_logits(model)
        made = base if base in bases else ""
        models.append(Repository(name, "model", files, partial(_with_evaluations, card), logits, made))
    data = []
    if stores:
        number = measured(results, next(iter(stores)), seed)[0]
        rows: dict[str, Path | bytes] = {
            f"{setup}/{path.name}": path for setup, store in stores.items() for path in _store_files(store)
        }
        name = f"{repo_id}-attributions"

        def card_of_all(_: str, there: set[str]) -> str:
            """Of the setups of this push, and of those that earlier ones have left."""
            held = {*stores, *(path.partition("/")[0] for path in there if path.endswith("/manifest.json"))}
            known = [setup for setup in results["setups"] if setup in held]
            return render_attributions_card(results, [*known, *sorted(held - {*known})], number, name)

        data.append(Repository(name, "dataset", rows, card_of_all))
    prepared = [*bases.values(), *models, *data]
    ids = [(one.kind, one.repo_id) for one in prepared]
    if twice := next((name for kind, name in ids if ids.count((kind, name)) > 1), None):
        raise ValueError(f"Two repositories would be named {twice}: choose another REPO_ID, or rename the setup.")
    for one in prepared:
        require_name(one.repo_id)
    return prepared


def _unchanging(card: str) -> Callable[[str, set[str]], str]:
    return lambda _, __: card


def _with_evaluations(card: str, old: str, _: set[str]) -> str:
    return carry_evaluations(card, old)


def _local_logits(model: Path) -> torch.Tensor:
    from safetensors import SafetensorError

    try:
        return _logits(load_model(model))
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"The model in {model} cannot be loaded ({' '.join(str(error).split())[:200]}).") from None


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
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]
    paths = [path for path in paths if OURS.fullmatch(path.name) and path.suffix in MODEL_FILES]
    weights = [path for path in paths if path.suffix == WEIGHTS]
    if not weights:
        raise ValueError(f"{folder} has no {WEIGHTS} weights to publish: run the recipe again.")
    for path in weights:
        try:
            with safe_open(path, "pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove {folder} and run the recipe again.") from None
    return {path.name: path for path in paths}


def _store_files(store: Path) -> list[Path]:
    from hf_langimb.attribution.store import AttributionStore

    AttributionStore(store)  # whole, or an error in words
    return [path for path in sorted(store.iterdir()) if path.suffix in (".json", ".parquet")]


# Writing


def publish(api: Any, repository: Repository, *, private: bool, revision: str | None) -> tuple[str, str]:
    """Make the repository where it is missing, commit what differs, load it back; returns its URL and commit."""
    repo_id, kind = repository.repo_id, repository.kind
    with told(repo_id):
        url = retried(lambda: api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True))
        if private and not retried(lambda: api.repo_info(repo_id, repo_type=kind)).private:
            raise ValueError(f"{repo_id} is there already, and public: make it private in its settings, or rename it.")
        if revision is not None:
            retried(lambda: api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True))
        oid = retried(lambda: _commit(api, repository, revision))
    if repository.logits is not None:
        _require_same_logits(repository, oid, api.token)
    return str(url), oid


def _commit(api: Any, repository: Repository, revision: str | None) -> str:
    """One commit on the present head; returns its hash, or that of the head where nothing differs."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo_id, kind = repository.repo_id, repository.kind
    head = api.repo_info(repo_id, repo_type=kind, revision=revision, files_metadata=True)
    there = {sibling.rfilename: sibling for sibling in head.siblings or ()}
    weights = {name: path for name, path in repository.files.items() if name.endswith(WEIGHTS)}
    same = all(name in there and _is_whole(path, there[name]) for name, path in weights.items())  # type: ignore[arg-type]
    old = _card_of(api, repo_id, kind, head) if same else ""
    files = repository.files | {"README.md": repository.card(old, {*there}).encode()}
    gone = [name for name in there if name not in files and _is_ours(name, repository)]
    if weights and not same:
        gone += [name for name in there if name.startswith("evaluation/")]  # of weights that go
    operations = [
        *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
        *(CommitOperationDelete(path) for path in sorted(gone)),
    ]
    return api.create_commit(
        repo_id,
        operations,
        commit_message="Publish a run of hf_langimb",
        repo_type=kind,
        revision=revision,
        parent_commit=head.sha,
    ).oid


def _card_of(api: Any, repo_id: str, kind: str, head: Any) -> str:
    """README.md of a commit, empty where it has none."""
    from huggingface_hub import hf_hub_download

    if not any(sibling.rfilename == "README.md" for sibling in head.siblings or ()):
        return ""
    with tempfile.TemporaryDirectory() as cache:
        settings = {"repo_type": kind, "revision": head.sha, "token": api.token, "cache_dir": cache}
        return Path(hf_hub_download(repo_id, "README.md", **settings)).read_bytes().decode("utf-8", "replace")


def _is_ours(name: str, repository: Repository) -> bool:
    """Whether a push writes a file of that name: an older one would be read in the place of the new."""
    if repository.kind == "dataset":
        return name.partition("/")[0] in {path.partition("/")[0] for path in repository.files}
    return OURS.fullmatch(name) is not None


def _add_to_collection(api: Any, slug: str, repository: Repository) -> None:
    retried(lambda: api.add_collection_item(slug, repository.repo_id, repository.kind, exists_ok=True))


def _require_same_logits(repository: Repository, oid: str, token: str | None) -> None:
    """Raise unless the published model, loaded into an empty cache, gives the logits of the local one."""
    assert repository.logits is not None
    with tempfile.TemporaryDirectory() as cache:
        folder = download(repository.repo_id, revision=oid, token=token, cache_dir=cache)
        with told(repository.repo_id):
            published = _logits(load_model(folder, token=token, cache_dir=cache))
    if not torch.allclose(published, repository.logits, atol=1e-5):
        raise ValueError(f"{repository.repo_id} was pushed but gives other logits than the model of the run.")


def _logits(model: Any) -> torch.Tensor:
    """Of token ids that any vocabulary has."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(32).reshape(4, 8) * max(size // 32, 1) % size
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


# Reading


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

    Raises:
        ValueError: no such repository, no access, only pickled weights, or files that arrive damaged.
        OSError: the disk is full.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        with told(repo_id):
            cached: dict[str, Any] = {"local_files_only": True, "allow_patterns": [f"*{suffix}" for suffix in PULLED]}
            return Path(snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, **cached))
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
    settings: dict[str, Any] = {
        "revision": info.sha,
        "allow_patterns": [glob.escape(name) for name in wanted],
        "token": token,
        "cache_dir": cache_dir,
    }
    for last in (False, True):
        with told(repo_id):
            folder = Path(retried(lambda: snapshot_download(repo_id, **settings)))
        damaged = [name for name in wanted if not _is_whole(folder / name, files[name])]
        for name in damaged:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
        if not damaged:
            reference = folder.parents[1] / "refs" / (revision or "main")  # so that it is found offline
            if not constants.REGEX_COMMIT_OID.fullmatch(reference.name):
                reference.parent.mkdir(parents=True, exist_ok=True)
                reference.write_text(str(info.sha), encoding="utf-8")
            if not base:
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
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base = config[BASE_MODEL] + ""
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{ADAPTER} of {repo_id} names no base ({BASE_MODEL}).") from None
    if base.count("/") > 1 or base.startswith((".", "/")):
        raise ValueError(f"{repo_id} holds adapters of the folder {base!r} on another machine: its base is needed too.")
    if (
        download(base, revision=config.get("revision"), token=token, cache_dir=cache_dir, base=True) / ADAPTER
    ).is_file():
        raise ValueError(f"{repo_id} holds adapters of {base}, which holds adapters itself.")


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
