"""What the repositories of a run will contain; all of it is checked on this machine before anything is published."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from hf_langimb.files import read_json
from hf_langimb.hub.pull import MODEL_FILES, WEIGHTS
from hf_langimb.models.axes import AXES_FILE
from hf_langimb.models.loading import ADAPTER_FILE, BASE_MODEL, START, load_trained
from hf_langimb.results.card_update import carry_evaluations
from hf_langimb.results.cards import render_attributions_card, render_base_card, render_card
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FILE_NAME, Results
from hf_langimb.results.summary import measured

OURS = re.compile(  # names in a model repository that a push writes, or that would be loaded instead
    r"(model|adapter_model|pytorch_model)[\w.-]*|(adapter_config|config|langimb|probe|results)\.json|report\.html|"
    r"(tokenizer|special_tokens|added_tokens|vocab|merges|sentencepiece|spiece|spm|bpe)[\w.-]*|"
    r"figures/(labels|predictions|probe|attributions|reliability)[^/]*\.svg"
)
Files = dict[str, Path | bytes]  # a local file or its content by the path in a repository


@dataclass
class Repository:
    """What one repository will contain."""

    repo_id: str
    kind: Literal["model", "dataset"]
    files: Files
    card: Callable[[str, set[str]], str]  # from the present card of the same weights, and the names of present files
    logits: torch.Tensor | None = None  # of the model that it publishes
    base: str = ""  # of adapters, where the run pre-trained it

    def pin_base(self, commit: str) -> None:
        """Name the commit of the base, so that a later push of another run does not change these adapters."""
        config = json.loads(bytes(self.files[ADAPTER_FILE]))  # type: ignore[arg-type]
        self.files[ADAPTER_FILE] = _as_json(config | {"revision": commit})


def prepare(
    folder: Path,
    results: Results,
    repo_id: str,
    names: Mapping[str, str],
    seed: int | None,
    revision: str | None,
    scratch: Path,
) -> list[Repository]:
    """The repositories of a run: a base that the run pre-trained itself, models, attributions.

    Args:
        folder, results: of the run.
        repo_id: from which the names of base and attributions are made.
        names: {setup: repository}.
        seed: whose weights; None takes the lowest.
        revision: branch that will contain them; None is main.
        scratch: an empty folder for the page of the run.

    Raises:
        ValueError: a model or its weights are missing or damaged; says what to do.
    """
    shared: Files = {FILE_NAME: folder / FILE_NAME, **page_of(folder, scratch)}
    models, stores, base, data = [], {}, f"{repo_id}-base", f"{repo_id}-attributions"
    for setup, name in names.items():
        number, _ = measured(results, setup, seed)
        store = RunFolder(folder).store(setup, number)
        if store.is_dir():
            stores[setup] = store
        model = RunFolder(folder).model(setup, number)
        files, logits = _model_files(model), _checked_logits(model, folder, results)
        named = _name_base(files, model, base) if ADAPTER_FILE in files else None
        options: dict[str, Any] = {"seed": number, "repo_id": name, "revision": revision, "base_model": named}
        card = render_card(results, setup, attributions=data if store.is_dir() else None, **options)
        own = base if named == base else ""
        models.append(Repository(name, "model", files | shared, _with_evaluations(card), logits, own))
    bases = [_base(base, RunFolder(folder).start, results)] if any(one.base for one in models) else []
    prepared = [*bases, *models, *([_attributions(data, results, stores, seed)] if stores else [])]
    ids = [(one.kind, one.repo_id) for one in prepared]
    if twice := next((name for kind, name in ids if ids.count((kind, name)) > 1), None):
        raise ValueError(f"Two repositories would be named {twice}: choose another REPO_ID, or rename the setup.")
    return prepared


def _checked_logits(model: Path, folder: Path, results: Results) -> torch.Tensor:
    """Logits of a model that is complete and has the axes of the results."""
    trained = load_trained(model)
    axes = trained.axes or {"languages": [], "label_names": []}
    of_run = (axes["languages"], axes["label_names"]) == (results["languages"], results["labels"])
    if not of_run or trained.names not in (results["labels"], [f"LABEL_{i}" for i in range(len(trained.names))]):
        raise ValueError(
            f"{model} and {folder / FILE_NAME} are of different runs: {AXES_FILE} or config.json has other languages "
            "or labels, or is missing. Remove the model and run the recipe again."
        )
    return logits_of(trained.model)


def _model_files(folder: Path) -> Files:
    """Weights, configuration and tokenizer of a model's folder; no pickles, no checkpoints."""
    paths = [path for path in sorted(folder.glob("*")) if path.is_file()]
    paths = [path for path in paths if OURS.fullmatch(path.name) and path.suffix in MODEL_FILES]
    problems = {path.name: _problem_of(path) for path in paths if path.suffix == WEIGHTS} or {"*": "none"}
    if found := "; ".join(f"{name}: {problem}" for name, problem in problems.items() if problem):
        raise ValueError(f"{folder} has no complete {WEIGHTS} weights ({found}): remove it and run the recipe again.")
    names = {path.name for path in paths}
    return {path.name: path for path in paths if not (path.name == "config.json" and ADAPTER_FILE in names)}


def _problem_of(weights: Path) -> str:
    """Why a file of weights cannot be read; empty where it can."""
    try:
        safe_open(weights, "pt")
    except (SafetensorError, OSError) as error:
        return str(error)
    return ""


def _name_base(files: Files, model: Path, made: str) -> str:
    """Hub id of the base of adapters; `made` where the run pre-trained it, and then their configuration names it so."""
    config = read_json(model / ADAPTER_FILE, f"remove {model} and run the recipe again")
    base = str(config[BASE_MODEL])
    if Path(base).name == START and (model.parents[1] / START).is_dir():
        files[ADAPTER_FILE] = _as_json(config | {BASE_MODEL: made})
        return made
    if Path(base).is_dir():
        raise ValueError(
            f"The base of the adapters in {model} is the folder {base}, which others cannot load: publish it, and name "
            f"its Hub id as {BASE_MODEL} in {ADAPTER_FILE}."
        )
    return base


def _as_json(content: Mapping[str, Any]) -> bytes:
    """A configuration as PEFT writes it."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _base(repo_id: str, start: Path, results: Results) -> Repository:
    """The base of adapters that the run pre-trained."""
    load_trained(start, encoder=True)
    card = render_base_card(results, repo_id)
    return Repository(repo_id, "model", _model_files(start), lambda old, names: card)


def _attributions(repo_id: str, results: Results, stores: Mapping[str, Path], seed: int | None) -> Repository:
    """The data set with the attributions of all setups."""
    rows: Files = {f"{setup}/{path.name}": path for setup, store in stores.items() for path in _store_files(store)}
    number, _ = measured(results, next(iter(stores)), seed)

    def card(_: str, names: set[str]) -> str:
        """Of the setups of this push, and of those from earlier ones."""
        held = {*stores, *(path.partition("/")[0] for path in names if path.endswith("/manifest.json"))}
        known = [setup for setup in results["setups"] if setup in held]
        return render_attributions_card(results, [*known, *sorted(held - {*known})], number, repo_id)

    return Repository(repo_id, "dataset", rows, card)


def _with_evaluations(card: str) -> Callable[[str, set[str]], str]:
    """A card that keeps the evaluations in the present one."""
    return lambda old, names: carry_evaluations(card, old)


def page_of(folder: Path, scratch: Path) -> Files:
    """The page of a run and its figures, made in `scratch` where there is none or the results are newer."""
    from hf_langimb.results.page import PAGE_FILE, write_report

    written = folder / PAGE_FILE
    newer = written.is_file() and written.stat().st_mtime >= (folder / FILE_NAME).stat().st_mtime
    if not newer or not written.stat().st_size or not any(folder.glob("figures/*.svg")):
        if scratch != folder:
            shutil.copy(folder / FILE_NAME, scratch)
        written = write_report(scratch)
    figures = {f"figures/{path.name}": path for path in sorted((written.parent / "figures").glob("*.svg"))}
    return {PAGE_FILE: written, **figures}


def _store_files(store: Path) -> list[Path]:
    """Files of an attribution store that can be opened."""
    from hf_langimb.measures.attribution.store import AttributionStore

    len(AttributionStore(store).tokens)  # reads every file
    return [path for path in sorted(store.iterdir()) if path.suffix in (".json", ".parquet")]


def logits_of(model: Any) -> torch.Tensor:
    """Logits float32[4, C] for token ids that any vocabulary has."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(32).reshape(4, 8) * max(size // 32, 1) % size
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
