"""Publishing: runs as one repository a setup, evaluations into the repository of the model that they measured.

A repository is written as one commit: it never has weights without a card, nor a card without weights.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.hub.prepare import OURS, Files, Repository, as_json, logits_of, page_of, prepare, whole_results
from hf_langimb.hub.pull import ADAPTER, WEIGHTS, checksums_of, download, info_of, is_whole, loading, require_name
from hf_langimb.models.loading import load_model
from hf_langimb.results.card_update import evaluation_name, evaluation_slug, refresh_card
from hf_langimb.results.schema import FILE_NAME, read_results


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
    if isinstance(setups, str):
        raise ValueError(f"Expected setups as a list, found {setups!r}: write [{setups!r}].")
    names = {setup: f"{repo_id}-{setup}" for setup in (results["setups"] if setups is None else setups)}
    if setups is not None and len(names) == 1:
        names = dict.fromkeys(names, repo_id)
    require_name(repo_id)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        repositories = prepare(folder, results, repo_id, names, seed, revision, Path(scratch))
        for one in repositories:
            require_name(one.repo_id)
        urls: list[str] = []
        commits: dict[str, str] = {}
        for one in repositories:
            if one.base in commits:  # a later push of another run does not change these adapters
                config = json.loads(bytes(one.files[ADAPTER])) | {"revision": commits[one.base]}  # type: ignore[arg-type]
                one.files[ADAPTER] = as_json(config)
            url, commits[one.repo_id] = publish(api, one, private=private, revision=revision)
            urls.append(url)
    if collection:
        _collect(api, collection, repo_id, repositories)
    return urls


def publish(api: Any, repository: Repository, *, private: bool, revision: str | None) -> tuple[str, str]:
    """Make the repository where it is missing, commit what differs, load it back; returns its URL and commit."""
    repo_id, kind = repository.repo_id, repository.kind
    with hub_errors(repo_id):
        url = retried(lambda: api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True))
        if private and not retried(lambda: info_of(api, repo_id, kind=kind)).private:
            raise ValueError(f"{repo_id} is there already, and public: make it private in its settings, or rename it.")
        if revision is not None:
            _open_branch(api, repository, revision)
        oid = retried(lambda: _commit(api, repository, revision))
    if repository.logits is not None:
        _require_same_logits(repository, oid, api.token)
    return str(url), oid


def _open_branch(api: Any, repository: Repository, revision: str) -> None:
    """Make a branch where it is missing.

    Raises:
        ValueError: the revision is a commit, a tag or a reference, to which nothing can be added.
    """
    from huggingface_hub.constants import REGEX_COMMIT_OID

    repo_id, kind = repository.repo_id, repository.kind
    refs = retried(lambda: api.list_repo_refs(repo_id, repo_type=kind))
    if revision in [branch.name for branch in refs.branches]:
        return
    taken = {tag.name: "a tag" for tag in refs.tags}.get(revision)
    if REGEX_COMMIT_OID.fullmatch(revision):
        taken = "a commit"
    if taken or revision.startswith("refs/"):
        raise ValueError(f"{revision} is {taken or 'a reference'} of {repo_id}: name a branch to commit to.")
    retried(lambda: api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True))


def _commit(api: Any, repository: Repository, revision: str | None) -> str:
    """One commit on the present head; returns its hash, or that of the head where nothing differs."""
    repo_id, kind = repository.repo_id, repository.kind
    head = info_of(api, repo_id, revision, kind)
    there = checksums_of(head)
    weights = {
        name: path for name, path in repository.files.items() if isinstance(path, Path) and path.suffix == WEIGHTS
    }
    same = _holds(there, weights)
    card = repository.card(_card_of(api, repo_id, kind, head) if same else "", {*there})
    files: Files = repository.files | {"README.md": card.encode(errors="surrogateescape")}
    gone = [name for name in there if name not in files and _is_ours(name, repository)]
    if weights and not same:
        gone += [name for name in there if name.startswith("evaluation/")]  # of weights that go
    return api.create_commit(
        repo_id,
        _operations(files, gone),
        commit_message="Publish a run of hf_langimb",
        repo_type=kind,
        revision=revision,
        parent_commit=head.sha,
    ).oid


def _operations(files: Files, gone: Sequence[str] = ()) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    return [
        *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
        *(CommitOperationDelete(path) for path in sorted(gone)),
    ]


def _holds(there: Mapping[str, str | None], files: Mapping[str, Path]) -> bool:
    """Whether a repository of these checksums holds all of these local files."""
    return all(name in there and is_whole(path, there[name]) for name, path in files.items())


def _card_of(api: Any, repo_id: str, kind: str, head: Any) -> str:
    """README.md of a commit, empty where it has none."""
    from huggingface_hub import hf_hub_download

    if not any(sibling.rfilename == "README.md" for sibling in head.siblings or ()):
        return ""
    with tempfile.TemporaryDirectory() as cache:
        settings = {"repo_type": kind, "revision": head.sha, "token": api.token, "cache_dir": cache}
        return Path(hf_hub_download(repo_id, "README.md", **settings)).read_bytes().decode(errors="surrogateescape")


def _is_ours(name: str, repository: Repository) -> bool:
    """Whether a push writes a file of that name: an older one would be read in the place of the new."""
    if repository.kind == "dataset":
        return name.partition("/")[0] in {path.partition("/")[0] for path in repository.files}
    return OURS.fullmatch(name) is not None


def _require_same_logits(repository: Repository, oid: str, token: str | None) -> None:
    """Raise unless the published model, loaded into an empty cache, gives the logits of the local one."""
    assert repository.logits is not None
    with tempfile.TemporaryDirectory() as cache:
        folder = download(repository.repo_id, revision=oid, token=token, cache_dir=cache)
        with loading(repository.repo_id):
            published = logits_of(load_model(folder, token=token, cache_dir=cache))
    if not torch.allclose(published, repository.logits, atol=1e-5):
        raise ValueError(f"{repository.repo_id} was pushed but gives other logits than the model of the run.")


def _collect(api: Any, title: str, repo_id: str, repositories: Sequence[Repository]) -> None:
    """List the repositories in a collection of their namespace."""
    with hub_errors(repo_id):
        made = retried(lambda: api.create_collection(title, namespace=repo_id.partition("/")[0], exists_ok=True))
        for one in repositories:
            _add_to_collection(api, made.slug, one)


def _add_to_collection(api: Any, slug: str, repository: Repository) -> None:
    retried(lambda: api.add_collection_item(slug, repository.repo_id, repository.kind, exists_ok=True))


# Evaluations


def publish_evaluation(folder: Path, repo_id: str, *, token: str | None = None) -> str:
    """Put an evaluation's results, page and figures under `evaluation/NAME/` and its section into the card of a model.

    One commit, or a pull request where one may not write: the one that is open already, if it is of the same data.

    Returns:
        URL of the model, or of the pull request.

    Raises:
        ValueError: the Hub refuses, or the model has other weights by now; says what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    results = read_results(folder)
    with whole_results(folder):
        refresh_card("", results, repo_id)
    place = f"evaluation/{evaluation_slug(results)}"
    files: Files = {f"{place}/{name}": file for name, file in page_of(folder, folder).items()}
    files[f"{place}/{FILE_NAME}"] = folder / FILE_NAME
    weights = {path.name: path for path in (folder / "model" / "seed-0").iterdir() if path.suffix == WEIGHTS}
    title = f"Evaluate by language on {evaluation_name(results)}"
    api = HfApi(token=token)

    def commit(revision: str | None = None, create_pr: bool = False) -> Any:
        head = info_of(api, repo_id, revision)
        if not _holds(checksums_of(head), weights):
            raise ValueError(f"{repo_id} has other weights than those that were measured: evaluate it again.")
        card = refresh_card(_card_of(api, repo_id, "model", head), results, repo_id)
        return api.create_commit(
            repo_id,
            _operations(files | {"README.md": card.encode(errors="surrogateescape")}),
            commit_message=title,
            revision=revision,
            parent_commit=head.sha,
            create_pr=create_pr,
        )

    with hub_errors(repo_id):
        try:
            retried(commit)
            return f"{api.endpoint}/{repo_id}"
        except HfHubHTTPError as error:
            if error.response.status_code != 403:
                raise
        proposed = retried(lambda: _open_proposal(api, repo_id, title))
        if proposed is None:
            return retried(lambda: commit(create_pr=True)).pr_url or f"{api.endpoint}/{repo_id}"  # all is there
        retried(lambda: commit(proposed.git_reference))
        return proposed.url


def _open_proposal(api: Any, repo_id: str, title: str) -> Any:
    """The open pull request of that title by the user of this token; None where there is none."""
    author = api.whoami()["name"]
    known = api.get_repo_discussions(repo_id, author=author, discussion_type="pull_request", discussion_status="open")
    return next((one for one in known if one.title == title), None)


# Who may publish


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
    with hub_errors(repo_id):
        user = retried(lambda: HfApi(token=token).whoami())
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"The token may only read: publishing {repo_id} needs one with permission to write.")
    mine = {str(user.get("name")), *(str(org.get("name")) for org in user.get("orgs") or ())}
    if own and repo_id.partition("/")[0] not in mine:
        raise ValueError(f"{repo_id} is not in a namespace of yours: choose one of {', '.join(sorted(mine))}.")
