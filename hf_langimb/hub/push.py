"""Publishing: runs as one repository per setup, evaluations into the repository of the model that they measured.

A repository is written as one commit: it never has weights without a card, nor a card without weights.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from hf_langimb.files import is_done, read_json
from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.hub.pull import download
from hf_langimb.hub.repository import OURS, WEIGHTS, Files, Head, Repository, safe_files
from hf_langimb.models.axes import AXES_FILE, read_axes, unnamed
from hf_langimb.models.loading import ADAPTER_FILE, BASE_MODEL, load_trained, own_start
from hf_langimb.results.card_update import carry_evaluations, evaluation_names, refresh_card
from hf_langimb.results.cards import render_attributions_card, render_base_card, render_card
from hf_langimb.results.folder import EVALUATED, FIGURES, PAGE, PROBE, RunFolder
from hf_langimb.results.rendering import rendered_from
from hf_langimb.results.schema import FILE_NAME, Results, read_results
from hf_langimb.results.summary import MEASURED_ONLY, measured


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
    """Publish a run: one model repository per setup, its attributions as a dataset.

    Each repository is one commit, made when everything is prepared; files that are already there are left alone, so
    that pushing the same run twice changes nothing and an interrupted push goes on. After each commit the model is
    downloaded into an empty cache and must give the same logits. The run folder is not changed. Returns the URLs of
    the repositories.

    Args:
        run: run folder of a recipe.
        repo_id: name of the repository for one setup; for several, they are REPO_ID-SETUP. Attributions:
            REPO_ID-attributions.
        setups: to publish; None takes all, each as REPO_ID-SETUP.
        seed: whose weights; None takes the lowest.
        private: whether new repositories are private.
        revision: branch to commit to, created where it is missing; None takes main.
        token: of the Hub, with permission to write; None takes the one that you are logged in with.
        collection: title of a collection that lists the repositories, created where it is missing.

    Raises:
        ValueError: the run is incomplete, or the Hub refuses; says what to do.
    """
    folder, results = RunFolder(Path(run)), read_results(run)
    known = own_setups(results)
    names = names_of(repo_id, setups, known)
    if not known or EVALUATED[0] in {*names} - {*known}:
        measures = "recipes/evaluate.py --push_to_hub publishes its measures"
        advice = f"publish {', '.join(known)} (--setup)" if known else measures
        raise ValueError(f"{run} has the measures of a model that it did not train: {advice}.")
    api = HfApi(token=token)
    urls: list[str] = []
    commits: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        repositories = _prepare(folder, results, repo_id, names, seed, revision, Path(scratch))
        for one in repositories:
            if one.adapter:  # names the commit of its base: a later push of another run does not change these adapters
                config = one.adapter | {"revision": commits[one.adapter[BASE_MODEL]]}
                one.files[ADAPTER_FILE] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()  # as PEFT
            url, commits[one.repo_id] = one.publish(api, private, revision)
            urls.append(url)
            if one.logits is not None:
                check_published(one, commits[one.repo_id], token, _load_published)
    if collection:
        collect(api, collection, repo_id, repositories)
    return urls


def own_setups(results: Results) -> list[str]:
    """The setups of a run that it trained or changed, without the model that it only measured."""
    measured_only = {EVALUATED[0]} if results["recipe"] in MEASURED_ONLY else set()
    return [name for name in results["setups"] if name not in measured_only]


def names_of(repo_id: str, setups: Sequence[str] | None, known: Iterable[str]) -> dict[str, str]:
    """{setup: name of its repository}, of all known setups where none are named; a single one has no suffix.

    Raises:
        ValueError: a text in place of a list, an empty list, or a name that no repository can have.
    """
    if setups is not None and (isinstance(setups, str) or not setups):
        raise ValueError(f"Expected a list of one setup or more, got {setups!r}: leave setups out to publish all.")
    names = {setup: f"{repo_id}-{setup}" for setup in setups or known}
    if setups and len(names) == 1:
        names = dict.fromkeys(names, repo_id)
    for name in (*names.values(), f"{repo_id}-attributions"):
        with hub_errors(name):
            validate_repo_id(name if "/" in name else f"{name}/")  # the client would add the namespace
    return names


def collect(api: HfApi, title: str, repo_id: str, repositories: Sequence[Repository]) -> None:
    """List repositories in a collection of the owner of `repo_id`, created where it is missing."""
    with hub_errors(repo_id):
        owner = repo_id.partition("/")[0]
        made = retried(lambda: api.create_collection(title, namespace=owner, exists_ok=True))
        for one in repositories:
            retried(partial(api.add_collection_item, made.slug, one.repo_id, one.kind, exists_ok=True))


def _prepare(
    run: RunFolder,
    results: Results,
    repo_id: str,
    names: Mapping[str, str],
    seed: int | None,
    revision: str | None,
    scratch: Path,
) -> list[Repository]:
    """The repositories of a run: a base that the run pretrained itself, models, attributions."""
    from hf_langimb.measures.attribution.store import MANIFEST, AttributionStore, first_batches

    base, data = f"{repo_id}-base", f"{repo_id}-attributions"
    shared = _page_of(run.path, scratch)
    rows: Files = {}
    models, explained, found = [], {}, results["attributions"]
    for setup, name in names.items():
        number, _ = measured(results, setup, seed)
        options: dict[str, Any] = {"seed": number, "repo_id": name, "revision": revision}
        if (store := run.store(setup, number)).is_dir():
            opened = first_batches(store, found["examples"]) if found else AttributionStore(store)
            len(opened.tokens)  # reads every file
            files = (path for part in opened.batches or [opened] for path in part.folder.iterdir())
            files = (path for path in files if path.suffix in (".json", ".parquet"))
            rows |= {f"{setup}/{path.relative_to(store).as_posix()}": path for path in files}
            explained[setup] = number
            options["attributions"] = data
        models.append(_model(run, results, setup, base, options))
        models[-1].files |= shared

    def attributions_card(_: str, present: set[str]) -> str:
        """The card of the setups in this push and in earlier ones."""
        held = {*explained, *(path.partition("/")[0] for path in present if path.endswith(f"/{MANIFEST}"))}
        known = [setup for setup in results["setups"] if setup in held]
        number = next(iter(explained.values()))
        with rendered_from(run.path):
            return render_attributions_card(results, [*known, *sorted(held - {*known})], number, data)

    bases = []
    if any(one.adapter for one in models):
        if base in names.values():
            raise ValueError(f"Two repositories would be named {base}: choose another REPO_ID, or rename the setup.")
        load_trained(run.start, encoder=True)
        bases = [Repository(base, "model", published_files(run.start), lambda *_: render_base_card(results, base))]
    return [*bases, *models, *([Repository(data, "dataset", rows, attributions_card)] if rows else [])]


def _model(run: RunFolder, results: Results, setup: str, made: str, options: dict[str, Any]) -> Repository:
    """The repository of one model; `options` are of its card, `made` names a base that the run pretrained."""
    folder = run.model(setup, options["seed"])
    is_done(folder, PROBE)  # which is published, and not damaged
    files, trained = published_files(folder), load_trained(folder)
    axes = read_axes(folder) or {}
    of_run = [axes.get("languages"), axes.get("label_names")] == [results["languages"], results["labels"]]
    of_run = of_run or results["recipe"] in MEASURED_ONLY  # of a model from elsewhere
    logits = logits_of(trained.model)
    base, adapter, problem = None, {}, ""
    if ADAPTER_FILE in files:
        config = read_json(folder / ADAPTER_FILE, f"remove {folder} and run the recipe again")
        base = str(config[BASE_MODEL])
        if own_start(folder, base):
            base, adapter = made, config | {BASE_MODEL: made}
        elif Path(base).is_dir():
            problem = (
                f"contains adapters whose base is the folder {base}, which others cannot load: publish it, and name "
                f"its Hub id as {BASE_MODEL} in {ADAPTER_FILE}"
            )
    if not of_run or not (trained.names == results["labels"] or unnamed(trained.names)):
        problem = (
            f"and {run.path / FILE_NAME} belong to different runs: {AXES_FILE} or config.json has other languages or "
            "labels, or is missing. Remove the model and run the recipe again"
        )
    if not logits.isfinite().all():
        problem = "gives logits that are not finite: remove it and run the recipe again"
    if problem:
        raise ValueError(f"{folder} {problem}.")
    with rendered_from(run.path):
        card = render_card(results, setup, base_model=base, **options)
    name = options["repo_id"]
    return Repository(name, "model", files, lambda old, _: carry_evaluations(card, old), logits, adapter)


def published_files(folder: Path) -> Files:
    """Weights, configuration and tokenizer of a model's folder; no pickles, no checkpoints."""
    if not folder.is_dir():
        raise ValueError(f"Expected a trained model at {folder}, found none: run the recipe again to train it.")
    files = {path.name: path for path in folder.glob("*") if path.is_file() and OURS.fullmatch(path.name)}
    safe = safe_files(str(folder), files)
    return {name: files[name] for name in safe if name != "config.json" or ADAPTER_FILE not in files}


def _page_of(folder: Path, scratch: Path) -> Files:
    """Results of a run with page and figures, made in `scratch` where there are none or the results are newer."""
    from hf_langimb.results.page import write_report

    written = folder / PAGE
    newer = written.is_file() and written.stat().st_mtime >= (folder / FILE_NAME).stat().st_mtime
    if not newer or not written.stat().st_size or not any(folder.glob(f"{FIGURES}/*.svg")):
        if scratch != folder:
            shutil.copy(folder / FILE_NAME, scratch)
        written = write_report(scratch, shown=folder)
    figures = {f"{FIGURES}/{path.name}": path for path in sorted((written.parent / FIGURES).glob("*.svg"))}
    return {FILE_NAME: folder / FILE_NAME, PAGE: written, **figures}


def check_published(
    repository: Repository, oid: str, token: str | None, load: Callable[[Path, dict[str, Any]], Any]
) -> None:
    """Check that a published model, loaded into an empty cache, gives the logits of the local one.

    Args:
        repository: of the model.
        oid: of the commit.
        token: of the Hub.
        load: takes the folder of a downloaded model, and the options of further downloads; returns the model.

    Raises:
        ValueError: the logits differ.
    """
    with tempfile.TemporaryDirectory() as cache:
        options = {"token": token, "cache_dir": cache}
        folder = download(repository.repo_id, revision=oid, **options)
        published = logits_of(load(folder, {"shown": repository.repo_id, **options}))
    if not torch.allclose(published, repository.logits, atol=1e-5):
        raise ValueError(f"{repository.repo_id} was pushed, but its logits differ from the run's: push it again.")


def _load_published(folder: Path, options: dict[str, Any]) -> Any:
    """A published classifier; its adapters may need their base from the Hub."""
    return load_trained(folder, **options).model


def logits_of(model: Any) -> torch.Tensor:
    """Logits float32[4, C] for token ids that any vocabulary has; an encoder-decoder needs one `</s>` in each row."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(32).reshape(4, 8) * max(size // 32, 1) % size
    if isinstance(end := getattr(model.config, "eos_token_id", None), int) and end < size:
        ids[ids == end] = (end + 1) % size
        ids[:, -1] = end
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def publish_evaluation(folder: Path, repo_id: str, *, token: str | None = None) -> str:
    """Put an evaluation's results, page and figures under `evaluation/NAME/` and its section into the card of a model.

    One commit, or a pull request where the token cannot write: an open one of the same data is continued. Returns the
    URL of the model, or of the pull request.

    Raises:
        ValueError: the Hub refuses, or the model has other weights by now; says what to do.
    """
    results = read_results(folder)
    with rendered_from(folder):
        refresh_card("", results, repo_id)  # an error before anything is asked
    name, slug = evaluation_names(results)
    title = f"Evaluate by language on {name}"
    files = {f"evaluation/{slug}/{path}": file for path, file in _page_of(folder, folder).items()}
    weights: Files = {path.name: path for path in RunFolder(folder).model(*EVALUATED).glob(f"*{WEIGHTS}")}
    api = HfApi(token=token)

    def commit(revision: str | None = None, create_pr: bool = False) -> CommitInfo:
        """One commit on the present head of a branch, or as a new pull request."""
        head = Head(api, repo_id, revision)
        if not head.has(weights):
            raise ValueError(f"{repo_id} has other weights than those that were measured: evaluate it again.")
        return head.commit(title, files, refresh_card(head.card(), results, repo_id), create_pr=create_pr)

    def open_proposal() -> Any:
        """The open pull request of this title by the user of this token; None where there is none."""
        of = {"author": api.whoami()["name"], "discussion_type": "pull_request", "discussion_status": "open"}
        return next((one for one in api.get_repo_discussions(repo_id, **of) if one.title == title), None)

    url = f"{api.endpoint}/{repo_id}"
    with hub_errors(repo_id):
        try:
            retried(commit)
            return url
        except HfHubHTTPError as error:
            if error.response.status_code != 403:
                raise
        if proposed := retried(open_proposal):
            retried(lambda: commit(proposed.git_reference))
            return proposed.url
        return retried(lambda: commit(create_pr=True)).pr_url or url  # the second where nothing differs


def require_login(repo_id: str, token: str | None = None, own: bool = True) -> None:
    """Check before any work that its result can be published; where `own` is False, a pull request is enough.

    Raises:
        ValueError: not logged in, a token that is unknown or read-only, or another user's namespace.
    """
    with hub_errors(repo_id):
        validate_repo_id(repo_id if "/" in repo_id else f"{repo_id}/")
        user = retried(lambda: HfApi(token=token).whoami())
    names = {str(user.get("name")), *(str(org.get("name")) for org in user.get("orgs") or ())}
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        names = set()
    if not names or (own and repo_id.partition("/")[0] not in names):
        where = f"only in {', '.join(sorted(names))}" if names else "nowhere (it is read-only)"
        raise ValueError(f"This token cannot publish {repo_id}: it can write {where}. Use another token.")
