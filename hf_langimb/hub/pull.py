"""Models of the Hub on this machine: downloaded and compared with their checksums, pulled into a folder, loaded."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.utils import validate_repo_id

from hf_langimb.console import listed, shown
from hf_langimb.files import check_model, read_json, write_text
from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.hub.repository import PULLED, Head, is_intact, safe_files
from hf_langimb.measures.correction import FILE as CORRECTION_FILE
from hf_langimb.measures.correction import Correction, read_correction
from hf_langimb.models.axes import AXES_FILE, class_names, read_axes
from hf_langimb.models.loading import ADAPTER_FILE, BASE_MODEL, load_trained
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FILE_NAME, Results, read_results
from hf_langimb.results.summary import measured

logger = logging.getLogger(__name__)
_said: set[str] = set()  # languages without a correction, which are logged once


@dataclass(frozen=True)
class Run:
    """A trained model with the axes of its training data and the results of its run.

    Args:
        model: on the CPU, in evaluation mode.
        tokenizer: of the model.
        languages, labels: the axes; `labels` as in the data, their names are in `model.config.id2label`.
        weights: float64[L, C], class weights of the training.
        results: results.json of the run; None where the folder has none.
        correction: what `langimb correct` fitted, which `predict` applies and `model` does not; None without one.
    """

    model: Any
    tokenizer: Any
    languages: list[str]
    labels: list[Any]
    weights: np.ndarray
    results: Results | None
    correction: Correction | None = None

    def predict(
        self,
        texts: Sequence[str],
        languages: Sequence[str] | None = None,
        *,
        text_pairs: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """Classify texts; the predictions of a corrected model depend on the language that each text is said to be in.

        Args:
            texts: to classify.
            languages: of the texts, as in the data of the correction; needed for a corrected model alone. Those that
                the correction does not know are not biased, and logged.
            text_pairs: the second texts of pairs.
            batch_size: texts in a forward pass.

        Returns:
            {"label": name, "score": probability} of the most probable label of each text, as a pipeline of
            Transformers.

        Raises:
            ValueError: other numbers of languages or second texts than texts, or no languages for a corrected model.
        """
        from datasets import Dataset
        from scipy.special import softmax

        from hf_langimb.measures.forward import forward_rows

        problem = ""
        for name, given in (("languages", languages), ("second texts", text_pairs)):
            if given is not None and (isinstance(given, str) or len(given) != len(texts)):
                problem = f"Expected {len(texts):,} {name}, one for each text, got {given!r:.60}"
        if isinstance(texts, str):
            problem = "Expected a list of texts, got one text: write [text]"
        elif self.correction and languages is None:
            problem = (
                "This model is corrected for each language: pass languages=, one for each text. A language identifier "
                "such as GlotLID or fastText's lid.176 finds them"
            )
        if problem:
            raise ValueError(f"{problem}.")
        if not len(texts):
            return []
        columns = {"text": list(texts)} | ({} if text_pairs is None else {"text_pair": list(text_pairs)})
        logits, _ = forward_rows(self.model, self.tokenizer, Dataset.from_dict(columns), batch_size=batch_size)
        if self.correction and languages is not None:
            if unknown := sorted({*languages} - {*self.correction.languages} - _said):
                _said.update(unknown)
                logger.warning("No correction for %s: no bias is added there.", listed(map(shown, unknown)))
            logits = self.correction.apply(logits, languages)
        probabilities, names = softmax(logits, axis=1), class_names(self.model.config)
        return [{"label": names[row.argmax()], "score": float(row.max())} for row in probabilities]


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
    single = any((path / name).is_file() for name in (AXES_FILE, CORRECTION_FILE))
    if (seed is not None and not path.is_dir()) or (single and (setup, seed) != (None, None)):
        raise ValueError(f"{name} contains one model: leave {'setup and seed' if single else 'seed'} out.")
    if single:
        folder = path
    elif path.is_dir():
        run = read_results(path)
        if setup is None and len(run["setups"]) > 1:
            raise ValueError(f"{path} is a run of several setups: set setup= to one of {', '.join(run['setups'])}.")
        setup = setup or next(iter(run["setups"]))
        folder = RunFolder(path).model(setup, measured(run, setup, seed)[0])
    else:
        path = folder = download(f"{name}-{setup}" if setup else name, revision=revision, token=token)
    results = read_results(path) if (path / FILE_NAME).is_file() else None
    check_model(folder)
    axes, corrected = read_axes(folder), (folder / CORRECTION_FILE).is_file()
    both = (folder / ADAPTER_FILE).is_file() and (folder / "config.json").is_file()
    if (axes is None and not corrected) or both:
        problem = f"contains adapters and a full model: remove {ADAPTER_FILE} or config.json"
        if not both:
            problem = f"has no {AXES_FILE}: it was not trained with hf_langimb. Load it with AutoModelFor"
            problem += "SequenceClassification; recipes/evaluate.py measures any classifier"
        raise ValueError(f"{name} {problem}.")
    trained = load_trained(folder, shown=folder if Path(name).is_dir() else name, token=token)
    correction = read_correction(folder, len(trained.names))
    if axes is None and correction:  # of a model that was not trained with this package
        languages, weights = [*correction.languages], np.ones(correction.bias.shape)
        axes = {"languages": languages, "labels": trained.names, "weights": weights}
    axes = axes or {}
    own = axes["languages"], axes["labels"], np.array(axes["weights"])
    return Run(trained.model.eval(), trained.tokenizer, *own, results, correction)


def pull(
    repo_id: str, output_dir: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download a published model with its card and results into a new folder.

    Args:
        output_dir: created, or empty; None takes the name of the repository.
        revision, token: as in `load_run`.

    Raises:
        ValueError: the folder is not empty, or the repository cannot be downloaded; says what to do.
        OSError: the folder cannot be written; it is not left half filled.
    """
    with hub_errors(repo_id):
        validate_repo_id(repo_id)
    target = Path(output_dir or repo_id.rpartition("/")[2])
    if os.path.exists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is not an empty folder: choose another --output-dir, or remove it.")
    source = download(repo_id, revision=revision, token=token)
    read_axes(source)  # an error before anything is written
    try:
        _copy(source, target.resolve())  # of a link, the folder that it names
    except (OSError, ValueError) as error:  # the second for a name that no file can have
        raise OSError(
            f"{repo_id} could not be written to {target} ({getattr(error, 'strerror', None) or error}): nothing is "
            "left there. Free disk space, or choose another --output-dir."
        ) from None
    return target


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


def download(
    repo_id: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> Path:
    """Download a model repository without pickles into the cache; each file is compared with its checksum.

    Access is checked before the cache is read, which would serve private files to any user of this machine. With
    adapters, their base is downloaded too. Returns the folder in the cache, by default that of all clients.

    Raises:
        ValueError: no such repository, no access, pickled weights only, or damaged files.
        OSError: the disk is full.
    """
    folder = _fetch(repo_id, revision, token, cache_dir)
    if (folder / ADAPTER_FILE).is_file():
        config = read_json(folder / ADAPTER_FILE, f"upload the adapters of {repo_id} again")
        config = config if isinstance(config, dict) else {}
        base, commit = config.get(BASE_MODEL), str(config.get("revision") or "") or None
        of_hub = isinstance(base, str) and base.count("/") <= 1 and not base.startswith((".", "/"))
        # PEFT would load a base from pickles too
        if not of_hub or (_fetch(str(base), commit, token, cache_dir) / ADAPTER_FILE).is_file():
            raise ValueError(f"{repo_id} contains adapters whose base {base!r} is not a full model on the Hub.")
    return folder


def _fetch(repo_id: str, revision: str | None, token: str | None, cache_dir: str | None) -> Path:
    """One repository in the cache with intact files; the client refuses names of files outside of its folder."""
    patterns = [f"*{suffix}" for suffix in PULLED]
    get = partial(snapshot_download, repo_id, token=token, cache_dir=cache_dir, allow_patterns=patterns)
    with hub_errors(repo_id):
        if constants.HF_HUB_OFFLINE:
            folder = Path(get(revision=revision, local_files_only=True))
            files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
            safe_files(repo_id, files)
            # the cache names a file by its checksum, and links to it
            damaged = [
                name for name, path in files.items() if path.is_symlink() and not is_intact(path, path.resolve().name)
            ]
            problem = "is damaged in the cache: unset HF_HUB_OFFLINE and download it again"
        else:
            head = retried(lambda: Head(HfApi(token=token), repo_id, revision))
            wanted = safe_files(repo_id, head.checksums)
            for _ in range(2):
                folder = Path(retried(lambda: get(revision=head.oid)))
                # `verify_repo_checksums` would list the repository again, and hash files that we do not read
                damaged = [name for name in wanted if not is_intact(folder / name, head.checksums[name])]
                for name in damaged:
                    (folder / name).resolve().unlink(missing_ok=True)
                    (folder / name).unlink(missing_ok=True)
                if not damaged:
                    break
            problem = "was damaged in two downloads (its checksum differs) and was removed: try another network"
            if revision != head.oid and not damaged:
                with suppress(OSError):  # the client finds a branch offline by this file, and writes none for a commit
                    write_text(folder.parents[1] / "refs" / (revision or "main"), head.oid)
    if damaged:
        raise ValueError(f"{damaged[0]} of {repo_id} {problem}.")
    return folder
