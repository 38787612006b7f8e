"""What the repositories of a run will hold, checked as a whole on this machine before anything is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_langimb.hub.pull import ADAPTER, BASE_MODEL, MODEL_FILES, WEIGHTS, loading
from hf_langimb.models.axes import AXES_FILE, class_names, read_axes
from hf_langimb.models.loading import load_model
from hf_langimb.results.card_update import carry_evaluations
from hf_langimb.results.cards import render_attributions_card, render_base_card, render_card
from hf_langimb.results.schema import FILE_NAME, measured

OURS = re.compile(  # names in a model repository that a push writes, or that would be loaded in their place
    r"(model|adapter_model|pytorch_model)[\w.-]*|(adapter_config|config|langimb|probe|results)\.json|report\.html|"
    r"(tokenizer|special_tokens|added_tokens|vocab|merges|sentencepiece|spiece|spm|bpe)[\w.-]*|"
    r"figures/(labels|predictions|probe|attributions|reliability)[^/]*\.svg"
)
Files = dict[str, Path | bytes]  # a local file or its content by the path in a repository


@dataclass
class Repository:
    """What one repository will hold."""

    repo_id: str
    kind: str  # model or dataset
    files: Files
    card: Callable[[str, set[str]], str]  # from the card that is there for the same weights, and the names there
    logits: torch.Tensor | None = None  # of the model that it publishes
    base: str = ""  # of adapters, where the run has made it


def prepare(
    folder: Path,
    results: dict[str, Any],
    repo_id: str,
    names: Mapping[str, str],
    seed: int | None,
    revision: str | None,
    scratch: Path,
) -> list[Repository]:
    """The repositories of a run, checked: a base that the run made itself, models, attributions.

    Args:
        folder, results: of the run.
        repo_id: from which the names of base and attributions are made.
        names: {setup: repository}.
        seed: whose weights; None takes the lowest.
        revision: branch that will hold them; None is main.
        scratch: an empty folder for what has to be made.

    Raises:
        ValueError: a model or its weights are missing or damaged; says what to do.
    """
    with whole_results(folder):
        page = page_of(folder, scratch)
    bases: dict[str, Repository] = {}
    models, stores = [], {}
    for setup, name in names.items():
        number, _ = measured(results, setup, seed)
        store = folder / "attributions" / f"{setup}-seed-{number}"
        if store.is_dir():
            stores[setup] = store
        model = folder / setup / f"seed-{number}"
        files: Files = {**_model_files(model), FILE_NAME: folder / FILE_NAME, **page}
        logits = _require_of_run(model, folder, results)
        base = _name_base(files, model, folder, f"{repo_id}-base")
        made = base if base == f"{repo_id}-base" else ""
        if made:
            start = _model_files(folder / "start")
            _require_tokenizer(folder / "start")
            bases[made] = Repository(made, "model", start, _always(render_base_card(results, made)))
        with whole_results(folder):
            card = render_card(
                results,
                setup,
                seed=number,
                repo_id=name,
                revision=revision,
                base_model=base,
                attributions=f"{repo_id}-attributions" if store.is_dir() else None,
            )
        models.append(Repository(name, "model", files, _with_evaluations(card), logits, made))
    data = [_attributions(f"{repo_id}-attributions", results, stores, seed)] if stores else []
    prepared = [*bases.values(), *models, *data]
    ids = [(one.kind, one.repo_id) for one in prepared]
    if twice := next((name for kind, name in ids if ids.count((kind, name)) > 1), None):
        raise ValueError(f"Two repositories would be named {twice}: choose another REPO_ID, or rename the setup.")
    return prepared


@contextmanager
def whole_results(folder: Path) -> Iterator[None]:
    """What rendering makes of results.json that has the right form and wrong content, as one ValueError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, StopIteration, RuntimeError) as error:
        raise ValueError(
            f"{folder / FILE_NAME} is damaged ({type(error).__name__}: {error}): run the recipe again with this folder "
            "as --output_dir."
        ) from None


def _require_of_run(model: Path, folder: Path, results: dict[str, Any]) -> torch.Tensor:
    """Logits of a model, once it is found whole and of the axes of the results."""
    axes = read_axes(model)
    if axes is None:
        raise ValueError(f"{model} lacks {AXES_FILE}: remove it and run the recipe again.")
    _require_tokenizer(model)
    with loading(str(model)):
        loaded = load_model(model)
        logits = logits_of(loaded)
        named = class_names(loaded.config)
    of_run = [axes["languages"], axes["label_names"]] == [results["languages"], results["labels"]]
    if not of_run or named not in (axes["label_names"], [f"LABEL_{i}" for i in range(len(named))]):
        raise ValueError(f"{folder / FILE_NAME} is of other languages or labels than {model}: it is another run's.")
    return logits


def _require_tokenizer(model: Path) -> None:
    """Raise unless a model's folder has its own tokenizer, whole."""
    from transformers import AutoTokenizer

    with loading(f"{model} (its tokenizer)"):
        if len(AutoTokenizer.from_pretrained(model, trust_remote_code=False)) < 2:
            raise ValueError("it has no tokens")


def _name_base(files: Files, model: Path, folder: Path, made: str) -> str | None:
    """Hub id of the base of adapters, None of a whole model; `made` where the run has made it, and named so then."""
    if ADAPTER not in files:
        return None
    files.pop("config.json", None)
    try:
        config = json.loads((model / ADAPTER).read_text(encoding="utf-8"))
        base = str(config[BASE_MODEL])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{model / ADAPTER} is damaged: remove {model} and run the recipe again.") from None
    if Path(base).name == "start" and (folder / "start").is_dir():
        files[ADAPTER] = as_json(config | {BASE_MODEL: made})
        return made
    if Path(base).is_dir():
        raise ValueError(
            f"The base of the adapters in {model} is the folder {base}, which nobody else has: publish it, and name "
            f"its Hub id as {BASE_MODEL} in {ADAPTER}."
        )
    return base


def as_json(content: Mapping[str, Any]) -> bytes:
    """A configuration as PEFT writes it."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _attributions(repo_id: str, results: dict[str, Any], stores: Mapping[str, Path], seed: int | None) -> Repository:
    """The data set with the attributions of all setups."""
    rows: Files = {f"{setup}/{path.name}": path for setup, store in stores.items() for path in _store_files(store)}
    number, _ = measured(results, next(iter(stores)), seed)

    def card(_: str, there: set[str]) -> str:
        """Of the setups of this push, and of those that earlier ones have left."""
        held = {*stores, *(path.partition("/")[0] for path in there if path.endswith("/manifest.json"))}
        known = [setup for setup in results["setups"] if setup in held]
        return render_attributions_card(results, [*known, *sorted(held - {*known})], number, repo_id)

    return Repository(repo_id, "dataset", rows, card)


def _always(card: str) -> Callable[[str, set[str]], str]:
    return lambda _, __: card


def _with_evaluations(card: str) -> Callable[[str, set[str]], str]:
    return lambda old, _: carry_evaluations(card, old)


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


def _model_files(folder: Path) -> Files:
    """Weights, configuration and tokenizer of a model's folder; no pickles, no checkpoints."""
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise ValueError(f"Expected a trained model at {folder}, found none: run the recipe first.")
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
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
    from hf_langimb.measures.attribution.store import AttributionStore

    opened = AttributionStore(store)  # whole, or an error in words
    if len(opened.tokens) == 0:
        raise ValueError(f"{store} holds no tokens: remove it and run the recipe again.")
    return [path for path in sorted(store.iterdir()) if path.suffix in (".json", ".parquet")]


def logits_of(model: Any) -> torch.Tensor:
    """For token ids that any vocabulary has."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(32).reshape(4, 8) * max(size // 32, 1) % size
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
