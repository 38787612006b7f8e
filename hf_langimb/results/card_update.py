"""Published cards are updated: sections of evaluations, and their entries in the metadata's model-index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml
from huggingface_hub.repocard_data import eval_results_to_model_index

from hf_langimb.results.cards import index_entries, is_hub_id
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import Results
from hf_langimb.results.tables import file_name


def refresh_card(card: str, results: Results, repo_id: str) -> str:
    """Add the section of an evaluation to a model's card, empty where there is none, or replace it; the rest stays."""
    (name, slug), title = evaluation_names(results), repo_id.rpartition("/")[2]
    metrics = next(iter(results["setups"]["model"]["seeds"].values()))
    block = render("evaluation_card.md", name=name, slug=slug, results=results, metrics=metrics).strip()
    ours = index_entries(metrics["test"], str(results["config"]["dataset"]), results["config"].get("split") or None)
    front, body = _split_front(card or f"# {title}\n")
    front = _with_entries(front, title, eval_results_to_model_index(title, ours)[0]["results"])
    old = next((found for found in _BLOCK.finditer(body) if found["slug"] == slug), None)
    body = body.replace(old[0], block) if old else f"{body.rstrip()}\n\n{block}\n"
    refreshed = f"---\n{front}---\n{body}" if front else body
    return refreshed.replace("\n", "\r\n") if "\r\n" in card else refreshed


def carry_evaluations(card: str, old: str) -> str:
    """A new card with the sections of evaluations in an older one, and their entries in its model-index."""
    (front, body), (old_front, old_body) = _split_front(card), _split_front(old)
    blocks = [found[0] for found in _BLOCK.finditer(old_body)]
    if not blocks:
        return card
    known = [_data_of(entry) for model in _index_of(front)[:1] for entry in model["results"]]
    others = [entry for model in _index_of(old_front)[:1] for entry in model["results"]]
    front = _with_entries(front, "", [entry for entry in others if _data_of(entry) not in known])
    return f"---\n{front}---\n{body.rstrip()}\n\n" + "\n\n".join(blocks) + "\n"


def evaluation_names(results: Results) -> tuple[str, str]:
    """The dataset of an evaluation, a path by its last part, and the name of a folder for it."""
    config = results["config"]
    name = str(config["dataset"])
    name = name if is_hub_id(name) else name.rstrip("/").rpartition("/")[2]
    name = " ".join(re.sub(r"[<>`|]|--+", " ", name).split())
    name = ", ".join([name, *config.get("config_name", ()), *([config["split"]] if config.get("split") else [])])
    return name, file_name(name[:100])


_BLOCK = re.compile(  # an end marker without its start marker matches nothing
    r"^<!-- hf_langimb evaluation: (?P<slug>[\w.-]+) -->$(?:(?!^<!-- hf_langimb evaluation: ).)*?"
    r"^<!-- /hf_langimb evaluation -->$",
    re.DOTALL | re.MULTILINE,
)
_FRONT = re.compile(r"\ufeff?\s*---[ \t]*\n(?P<front>.*?\n)?---[ \t]*(\n|\Z)(?P<body>.*)", re.DOTALL)
_UNREADABLE = (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError)
_INDEX = re.compile(r"^model-index:.*\n(?:[ \t-].*\n|\n)*", re.MULTILINE)


def _split_front(text: str) -> tuple[str, str]:
    """The metadata of a card and the rest."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = _FRONT.fullmatch(text)
    return (found["front"] or "", found["body"]) if found else ("", text)


def _index_of(front: str, title: str = "") -> list[dict[str, Any]]:
    """model-index of a card's metadata, a new one where it has none; empty where it has another form."""
    with suppress(*_UNREADABLE):
        index = (yaml.safe_load(front) or {}).get("model-index") or [{"name": title, "results": []}]
        return [index[0] | {"results": [*index[0]["results"]]}, *index[1:]]
    return []


def _with_entries(front: str, title: str, new: Sequence[Any]) -> str:
    """Replace entries of model-index of the same data; `ModelCard` would drop comments and reformat other metadata."""
    data = [_data_of(entry) for entry in new]
    if index := _index_of(front, title):
        index[0]["results"] = [*(entry for entry in index[0]["results"] if _data_of(entry) not in data), *new]
        dumped = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True)
        changed = _INDEX.sub("", front) + dumped
        with suppress(*_UNREADABLE):
            if yaml.safe_load(changed) == {**(yaml.safe_load(front) or {}), "model-index": index}:
                return changed
    return front  # of a form that cannot be changed line by line


def _data_of(entry: Any) -> Any:
    """What an entry of model-index was measured on."""
    data = entry.get("dataset") if isinstance(entry, dict) else entry
    return {key: value for key, value in data.items() if key != "name"} if isinstance(data, dict) else data
