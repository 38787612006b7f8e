"""A repository on the Hub: its present commit, what it will contain, and which of its files are safe to load."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.utils.sha import git_hash

from hf_langimb.files import RECORD, sha256
from hf_langimb.hub import errors
from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.results.folder import FIGURES, PAGE, PROBE
from hf_langimb.results.schema import FILE_NAME

CARD = "README.md"
WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
MODEL_FILES = (WEIGHTS, ".json", ".txt", ".model", ".codes", ".spm", ".tiktoken")  # also configuration and tokenizer
PULLED = (*MODEL_FILES, ".md", ".html", ".svg", ".parquet")
OURS = re.compile(  # names in a model repository that a push writes, or that would be loaded instead
    r"(model|adapter_model|pytorch_model)[\w.-]*|(adapter_config|config|langimb|correction|probe|results|measures)\.json|"
    r"(tokenizer|special_tokens|added_tokens|vocab|merges|sentencepiece|spiece|spm|bpe)[\w.-]*|"
    rf"{re.escape(PAGE)}|{FIGURES}/(labels|predictions|probe|attributions|reliability|moved)[^/]*\.svg|"
    rf"{FIGURES}/(minority|tokens|alignment|training)\.svg"  # of cloned languages
)
Files = dict[str, Path | bytes]  # a local file or its content by the path in a repository


class Head:
    """The present commit of a branch (None: main), requested from the Hub on creation; use it within `retried`."""

    def __init__(self, api: HfApi, repo_id: str, revision: str | None = None, kind: str = "model") -> None:
        info: Any = api.repo_info(repo_id, revision=revision, repo_type=kind, files_metadata=True, timeout=errors.WAIT)
        self._api, self._branch = api, revision
        self._place: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind}
        self.oid, self.private = str(info.sha), bool(info.private)
        # the SHA-256 of a large file, git's hash of another
        self.checksums = {one.rfilename: one.lfs.sha256 if one.lfs else one.blob_id for one in info.siblings or ()}

    def has(self, files: Mapping[str, Any]) -> bool:
        """Whether it contains all of these local files."""
        return all(name in self.checksums and is_intact(path, self.checksums[name]) for name, path in files.items())

    def card(self) -> str:
        """Its README.md, empty where it has none; `ModelCard.load` would read it from the cache of this machine."""
        if CARD not in self.checksums:
            return ""
        with tempfile.TemporaryDirectory() as cache:
            path = self._api.hf_hub_download(filename=CARD, revision=self.oid, cache_dir=cache, **self._place)
            return Path(path).read_bytes().decode(errors="surrogateescape")

    def commit(
        self, message: str, files: Files, card: str, gone: Iterable[str] = (), create_pr: bool = False
    ) -> CommitInfo:
        """Add files and a card, and delete the files `gone`, in one commit on this one; none where nothing differs."""
        files = files | {CARD: card.encode(errors="surrogateescape")}
        return self._api.create_commit(
            operations=[
                *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
                *(CommitOperationDelete(path) for path in sorted(gone)),
            ],
            commit_message=message,
            revision=self._branch,
            parent_commit=self.oid,
            create_pr=create_pr,
            **self._place,
        )


@dataclass
class Repository:
    """What one repository will contain."""

    repo_id: str
    kind: Literal["model", "dataset"]
    files: Files
    card: Callable[[str, set[str]], str]  # from the present card of the same weights, and the names of present files
    logits: Any = None  # of the model that it publishes
    adapter: dict[str, Any] = field(default_factory=dict)  # their configuration, if the run pretrained their base

    def publish(self, api: HfApi, private: bool = False, revision: str | None = None) -> tuple[str, str]:
        """Create the repository where it is missing and commit what differs; returns its URL and present commit."""
        with hub_errors(self.repo_id):
            url = retried(lambda: api.create_repo(self.repo_id, repo_type=self.kind, private=private, exist_ok=True))
            if private and not retried(lambda: Head(api, self.repo_id, kind=self.kind)).private:
                advice = "make it private in its settings, or rename it"
                raise ValueError(f"{self.repo_id} exists already, and is public: {advice}.")
            if revision is not None:
                self._open_branch(api, revision)
            return str(url), retried(lambda: self._commit(api, revision)).oid

    def _open_branch(self, api: HfApi, revision: str) -> None:
        """Create a branch where it is missing; nothing can be added to a commit, a tag or a reference."""
        refs = retried(lambda: api.list_repo_refs(self.repo_id, repo_type=self.kind))
        if revision in [branch.name for branch in refs.branches]:
            return
        fixed = constants.REGEX_COMMIT_OID.fullmatch(revision) or revision in [tag.name for tag in refs.tags]
        if fixed or revision.startswith("refs/"):
            raise ValueError(f"{revision} is a tag, commit or reference of {self.repo_id}: name a branch to commit to.")
        retried(lambda: api.create_branch(self.repo_id, branch=revision, repo_type=self.kind, exist_ok=True))

    def _commit(self, api: HfApi, revision: str | None) -> CommitInfo:
        """One commit on the present head; deletes older files of ours that would be read instead of the new ones."""
        head = Head(api, self.repo_id, revision, self.kind)
        same = head.has({name: path for name, path in self.files.items() if name.endswith(WEIGHTS)})
        folders, gone = {name.partition("/")[0] for name in self.files}, []
        for name in head.checksums.keys() - self.files.keys() - {CARD}:
            ours = name.partition("/")[0] in folders if self.kind == "dataset" else OURS.fullmatch(name)
            if ours or (name.startswith("evaluation/") and not same):  # of the weights that are replaced
                gone.append(name)
        card = self.card(head.card() if same else "", {*head.checksums})
        return head.commit("Publish a run of hf_langimb", self.files, card, gone)


def is_intact(path: Path, checksum: str | None) -> bool:
    """Whether a file has a checksum of the Hub; where the Hub lists none, whether it exists."""
    if checksum is None or not path.is_file():
        return path.is_file()
    return checksum == (sha256(path) if len(checksum) == 64 else git_hash(path.read_bytes()))


def is_of_model(file: str) -> bool:
    """Whether a file at the top of a model's folder decides what the model does."""
    return "/" not in file and file.endswith(MODEL_FILES) and file not in (PROBE, FILE_NAME, RECORD)


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
