"""Models of cloned languages on the Hub: card, page and results next to plain GPT-2 weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, ModelCardData

from hf_langimb.cloned.arguments import MARKOV
from hf_langimb.cloned.page import write_page
from hf_langimb.cloned.results import OF_PAIR, QUESTION, ClonedResults, read_cloned
from hf_langimb.cloned.show import every_cells
from hf_langimb.cloned.training import MEASURES, SECOND_TOKENIZER, load_decoder
from hf_langimb.files import is_done, read_record
from hf_langimb.hub.push import check_published, collect, logits_of, names_of, published_files
from hf_langimb.hub.repository import Files, Repository
from hf_langimb.results.folder import FIGURES, RunFolder
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import FILE_NAME

TAGS = ["hf_langimb", "multilingual", "cloned-languages"]


def push_cloned(
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
    """Publish the models of a run, each as REPO_ID-SETUP, or a single one as REPO_ID; returns their URLs.

    Args:
        run: folder of a run.
        repo_id: NAMESPACE/NAME.
        setups: to publish; None takes all.
        seed: of the weights; None takes the lowest.
        private, revision, token, collection: as of `hf_langimb.push_run`.

    Raises:
        ValueError: the run lacks a model, or the Hub refuses; says what to do.
    """
    folder, results = RunFolder(Path(run)), read_cloned(run)
    names = names_of(repo_id, setups, results["setups"])
    page, api = write_page(run), HfApi(token=token)
    urls: list[str] = []
    repositories: list[Repository] = []
    shared: Files = {FILE_NAME: folder.path / FILE_NAME, page.name: page}
    shared |= {f"{FIGURES}/{path.name}": path for path in sorted((page.parent / FIGURES).glob("*.svg"))}
    for setup, name in names.items():
        if setup not in results["setups"]:
            raise ValueError(f"{run} has no setup {setup!r}: choose among {', '.join(results['setups'])}.")
        number = results["seeds"][0] if seed is None else seed
        place = folder.model(setup, number)
        if not is_done(place, MEASURES):
            raise ValueError(f"{place} lacks files of a finished model: run the recipe again to recreate them.")
        files = published_files(place) | {name: place / name for name in read_record(place)[MEASURES]} | shared
        logits = logits_of(load_decoder(place))
        card = render_card(results, setup, number, name)
        repositories.append(Repository(name, "model", files, lambda *_, text=card: text, logits))  # type: ignore[misc]
    for one in repositories:
        url, oid = one.publish(api, private, revision)
        urls.append(url)
        check_published(one, oid, token, lambda place, _: load_decoder(place))
    if collection:
        collect(api, collection, repo_id, repositories)
    return urls


def render_card(results: ClonedResults, setup: str, seed: int, repo_id: str = "REPO_ID") -> str:
    """README.md of one model."""
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=results["config"].get("license"),
        tags=TAGS,
        model_name=repo_id.rpartition("/")[2],
    )
    model = results["setups"][setup]["seeds"][str(seed)]
    of, has_texts = results["setups"][setup], results["config"].get("dataset_name", MARKOV) != MARKOV
    values = {"results": results, "name": setup, "of": of, "model": model, "seed": seed, "has_texts": has_texts}
    values["second_tokenizer"] = SECOND_TOKENIZER if of["relation"] in OF_PAIR else None
    return render(
        "cloned_card.md",
        metadata=metadata.to_yaml(line_break="\n"),
        repo_id=repo_id,
        question=QUESTION,
        cells=every_cells(results),
        **values,
    )
