"""Publishing: runs as one repository per setup, evaluations into the repository of the model that they measured.

A repository is written as one commit: it never has weights without a card, nor a card without weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.hub.prepare import OURS, Files, Repository, logits_of, page_of, prepare
from hf_langimb.hub.pull import WEIGHTS, checksums_of, download, has_files, info_of, require_name
from hf_langimb.models.loading import load_trained
from hf_langimb.results.card_update import evaluation_name, evaluation_slug, refresh_card
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FILE_NAME, Results, read_results


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
    """Publish a run: one model repository per setup, its attributions as a data set.

    Each repository is one commit, made when everything is prepared; files that are already there are left alone, so
    that pushing the same run twice changes nothing and an interrupted push goes on. After each commit the model is
    downloaded into an empty cache and must give the same logits. The run folder is not changed.

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

    Returns:
        URLs of the repositories.

    Raises:
        ValueError: the run is incomplete, or the Hub refuses; says what to do.
    """
    folder = Path(run)
    results = read_results(folder)
    names = _names(repo_id, setups, results)
    api = HfApi(token=token)
    urls: list[str] = []
    commits: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        repositories = prepare(folder, results, repo_id, names, seed, revision, Path(scratch))
        for one in repositories:
            if one.base:
                one.pin_base(commits[one.base])
            url, commits[one.repo_id] = publish(api, one, private=private, revision=revision)
            urls.append(url)
    if collection:
        _collect(api, collection, repo_id, repositories)
    return urls


def _names(repo_id: str, setups: Sequence[str] | None, results: Mapping[str, Any]) -> dict[str, str]:
    """{setup: repository} of the setups to publish."""
    if setups is not None and (isinstance(setups, str) or not setups):
        raise ValueError(f"Expected a list of one setup or more, got {setups!r}: leave setups out to publish all.")
    names = {setup: f"{repo_id}-{setup}" for setup in setups or results["setups"]}
    if setups and len(names) == 1:
        names = dict.fromkeys(names, repo_id)
    for name in (*names.values(), f"{repo_id}-attributions"):
        require_name(name)
    return names


def publish(api: HfApi, repository: Repository, *, private: bool, revision: str | None) -> tuple[str, str]:
    """Create the repository where it is missing, commit what differs, load it back; returns its URL and commit."""
    repo_id, kind = repository.repo_id, repository.kind
    with hub_errors(repo_id):
        url = retried(lambda: api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True))
        if private and not retried(lambda: info_of(api, repo_id, kind=kind)).private:
            raise ValueError(f"{repo_id} exists already, and is public: make it private in its settings, or rename it.")
        if revision is not None:
            _open_branch(api, repository, revision)
        oid = retried(lambda: _commit(api, repository, revision))
    if repository.logits is not None and not _same_logits(repository, oid, api.token):
        raise ValueError(f"{repo_id} was pushed but gives other logits than the model of the run.")
    return str(url), oid


def _open_branch(api: HfApi, repository: Repository, revision: str) -> None:
    """Create a branch where it is missing; nothing can be added to a commit, a tag or a reference."""
    repo_id, kind = repository.repo_id, repository.kind
    refs = retried(lambda: api.list_repo_refs(repo_id, repo_type=kind))
    if revision in [branch.name for branch in refs.branches]:
        return
    fixed = [*(tag.name for tag in refs.tags), *constants.REGEX_COMMIT_OID.findall(revision)]
    if revision in fixed or revision.startswith("refs/"):
        raise ValueError(f"{revision} is a tag, commit or reference of {repo_id}: name a branch to commit to.")
    retried(lambda: api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True))


def _commit(api: HfApi, repository: Repository, revision: str | None) -> str:
    """One commit on the present head; returns its hash, or that of the head where nothing differs."""
    repo_id, kind = repository.repo_id, repository.kind
    head = info_of(api, repo_id, revision, kind)
    there = checksums_of(head)
    weights = {name: path for name, path in repository.files.items() if name.endswith(WEIGHTS)}
    same = has_files(there, weights)  # type: ignore[arg-type]
    card = repository.card(_card_of(api, repo_id, kind, head) if same else "", {*there})
    gone = [name for name in there if name not in {*repository.files, "README.md"} and _is_ours(name, repository)]
    if weights and not same:
        gone += [name for name in there if name.startswith("evaluation/")]  # of the weights that are replaced
    return api.create_commit(
        repo_id,
        _operations(repository.files, card, gone),
        commit_message="Publish a run of hf_langimb",
        repo_type=kind,
        revision=revision,
        parent_commit=head.sha,
    ).oid


def _operations(files: Files, card: str, gone: Sequence[str] = ()) -> list[Any]:
    """Of one commit: files and card added, other files deleted."""
    files = files | {"README.md": card.encode(errors="surrogateescape")}
    return [
        *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
        *(CommitOperationDelete(path) for path in sorted(gone)),
    ]


def _card_of(api: HfApi, repo_id: str, kind: str, head: Any) -> str:
    """README.md of a commit, empty where it has none; `ModelCard.load` would read it from the cache of this machine."""
    if "README.md" not in checksums_of(head):
        return ""
    with tempfile.TemporaryDirectory() as cache:
        settings: dict[str, Any] = {"repo_type": kind, "revision": head.sha, "token": api.token, "cache_dir": cache}
        return Path(hf_hub_download(repo_id, "README.md", **settings)).read_bytes().decode(errors="surrogateescape")


def _is_ours(name: str, repository: Repository) -> bool:
    """Whether a push writes files of that name: an older one would be read instead of the new ones."""
    if repository.kind == "dataset":
        return name.partition("/")[0] in {path.partition("/")[0] for path in repository.files}
    return OURS.fullmatch(name) is not None


def _same_logits(repository: Repository, oid: str, token: Any) -> bool:
    """Whether the published model, loaded into an empty cache, gives the logits of the local one."""
    with tempfile.TemporaryDirectory() as cache:
        folder = download(repository.repo_id, revision=oid, token=token, cache_dir=cache)
        published = load_trained(folder, shown=repository.repo_id, token=token, cache_dir=cache)
    return torch.allclose(logits_of(published.model), repository.logits, atol=1e-5)  # type: ignore[arg-type]


def _collect(api: HfApi, title: str, repo_id: str, repositories: Sequence[Repository]) -> None:
    """List the repositories in a collection of their namespace."""
    with hub_errors(repo_id):
        made = retried(lambda: api.create_collection(title, namespace=repo_id.partition("/")[0], exists_ok=True))
        for one in repositories:
            retried(partial(api.add_collection_item, made.slug, one.repo_id, one.kind, exists_ok=True))


# Evaluations


def publish_evaluation(folder: Path, repo_id: str, *, token: str | None = None) -> str:
    """Put an evaluation's results, page and figures under `evaluation/NAME/` and its section into the card of a model.

    One commit, or a pull request where the token cannot write: an open one of the same data is continued.

    Returns:
        URL of the model, or of the pull request.

    Raises:
        ValueError: the Hub refuses, or the model has other weights by now; says what to do.
    """
    results = read_results(folder)
    refresh_card("", results, repo_id)  # an error before anything is asked
    title = f"Evaluate by language on {evaluation_name(results)}"
    api = HfApi(token=token)
    commit = partial(_commit_evaluation, api, folder, results, repo_id, title)
    with hub_errors(repo_id):
        try:
            retried(commit)
            return f"{api.endpoint}/{repo_id}"
        except HfHubHTTPError as error:
            if error.response.status_code != 403:
                raise
        proposed = retried(lambda: _open_proposal(api, repo_id, title))
        if proposed is None:
            made = retried(partial(commit, create_pr=True))
            return made.pr_url or f"{api.endpoint}/{repo_id}"  # the second where nothing differs
        retried(partial(commit, revision=proposed.git_reference))
        return proposed.url


def _commit_evaluation(
    api: HfApi,
    folder: Path,
    results: Results,
    repo_id: str,
    title: str,
    revision: str | None = None,
    create_pr: bool = False,
) -> Any:
    """One commit with an evaluation on the present head of a branch, or as a new pull request."""
    place = f"evaluation/{evaluation_slug(results)}"
    files: Files = {f"{place}/{name}": file for name, file in page_of(folder, folder).items()}
    files[f"{place}/{FILE_NAME}"] = folder / FILE_NAME
    head = info_of(api, repo_id, revision)
    if not has_files(
        checksums_of(head), {path.name: path for path in RunFolder(folder).model("model", 0).glob(f"*{WEIGHTS}")}
    ):
        raise ValueError(f"{repo_id} has other weights than those that were measured: evaluate it again.")
    card = refresh_card(_card_of(api, repo_id, "model", head), results, repo_id)
    settings: dict[str, Any] = {"revision": revision, "create_pr": create_pr, "parent_commit": head.sha}
    return api.create_commit(repo_id, _operations(files, card), commit_message=title, **settings)


def _open_proposal(api: HfApi, repo_id: str, title: str) -> Any:
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
        own: whether it must be in a namespace of the user (to others one may propose).

    Raises:
        ValueError: not logged in, a token that is unknown or read-only, or another user's namespace.
    """
    require_name(repo_id)
    with hub_errors(repo_id):
        user = retried(lambda: HfApi(token=token).whoami())
    names = {str(user.get("name")), *(str(org.get("name")) for org in user.get("orgs") or ())}
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        names = set()
    if not names or (own and repo_id.partition("/")[0] not in names):
        where = f"only in {', '.join(sorted(names))}" if names else "nowhere, it is read-only"
        raise ValueError(f"This token cannot publish {repo_id}: it can write {where}.")
