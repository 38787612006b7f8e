"""Published cards kept up to date: the sections of evaluations, and their entries in the index of the metadata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hf_langimb.results.cards import (
    card_template,
    grid,
    index_entries,
    is_hub_id,
    probe_table,
    probed_text,
    quality_cells,
)
from hf_langimb.results.tables import file_name, table, tokens_cells


def refresh_card(card: str, results: dict[str, Any], repo_id: str) -> str:
    """A model's card with the section of this evaluation; all else that it says stays.

    Args:
        card: README.md as it is, empty where there is none.
        results: of an evaluation.
        repo_id: of the model.
    """
    name, slug = evaluation_name(results), evaluation_slug(results)
    section = card_template("evaluation_card.md.jinja").render(name=name, slug=slug, **_evaluated(results))
    block = f"<!-- hf_langimb evaluation: {slug} -->\n{section.strip()}\n<!-- /hf_langimb evaluation -->"
    title = repo_id.rpartition("/")[2]
    text = _with_newlines(card or f"# {title}\n")
    metrics = next(iter(results["setups"]["model"]["seeds"].values()))["test"]
    front, body = _split_front(text)
    ours = index_entries(metrics, str(results["config"]["dataset"]), results["config"].get("split") or None)
    front = _with_entries(front, ours, title)
    old = next((found for found in _BLOCK.finditer(body) if found["slug"] == slug), None)
    body = body.replace(old[0], block) if old else f"{body.rstrip()}\n\n{block}\n"
    whole = f"---\n{front}---\n{body}" if front else body
    return whole.replace("\n", "\r\n") if "\r\n" in card else whole


def carry_evaluations(card: str, old: str) -> str:
    """A card with the sections of evaluations, and their entries in the index, that an older one of it has."""
    old = _with_newlines(old)
    blocks = [found[0] for found in _BLOCK.finditer(old)]
    if not blocks:
        return card
    (front, body), before = _split_front(card), _index_of(_split_front(old)[0])
    front = _with_entries(front, [], "", (before or [{}])[0].get("results", ()))
    return f"---\n{front}---\n{body.rstrip()}\n\n" + "\n\n".join(blocks) + "\n"


def evaluation_name(results: dict[str, Any]) -> str:
    """The data of an evaluation, as others know them: of a path its last part."""
    config = results["config"]
    name = str(config["dataset"])
    name = name if is_hub_id(name) else name.rstrip("/").rpartition("/")[2]
    name = " ".join(re.sub(r"[<>`|]|--+", " ", name).split())
    return ", ".join([name, *config.get("config_name", ()), *([config["split"]] if config.get("split") else [])])


def evaluation_slug(results: dict[str, Any]) -> str:
    """`evaluation_name` as the name of a folder."""
    return file_name(evaluation_name(results)[:100])


_BLOCK = re.compile(  # an end whose begin is lost takes nothing with it
    r"^<!-- hf_langimb evaluation: (?P<slug>[\w.-]+) -->$(?:(?!^<!-- hf_langimb evaluation: ).)*?"
    r"^<!-- /hf_langimb evaluation -->$",
    re.DOTALL | re.MULTILINE,
)
_FRONT = re.compile(r"\ufeff?\s*---[ \t]*\n(?P<front>.*?\n)?---[ \t]*(\n|\Z)(?P<body>.*)", re.DOTALL)


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_front(text: str) -> tuple[str, str]:
    """The metadata of a card and the rest."""
    found = _FRONT.fullmatch(text)
    return (found["front"] or "", found["body"]) if found else ("", text)


def _index_of(front: str) -> list[dict[str, Any]] | None:
    """model-index of a card's metadata; None where it has none, or another form."""
    import yaml

    try:
        index = (yaml.safe_load(front) or {}).get("model-index")
    except (yaml.YAMLError, AttributeError):
        return None
    well_formed = (
        isinstance(index, list) and index and isinstance(index[0], dict) and isinstance(index[0].get("results"), list)
    )
    return index if well_formed else None


def _with_entries(front: str, ours: Sequence[Any], title: str, others: Sequence[Any] = ()) -> str:
    """Metadata with entries of model-index, in the place of those of the same data; other lines stay as they are."""
    import yaml
    from huggingface_hub.repocard_data import eval_results_to_model_index

    try:
        known = yaml.safe_load(front) or {}
    except yaml.YAMLError:
        return front  # not for us to mend
    index = _index_of(front)
    if not isinstance(known, dict) or (index is None and "model-index" in known):
        return front
    new = [*(eval_results_to_model_index(title, list(ours))[0]["results"] if ours else ())]
    index = index or [{"name": title, "results": []}]
    kept = [entry for entry in index[0]["results"] if _data_of(entry) not in [_data_of(other) for other in new]]
    more = [entry for entry in others if _data_of(entry) not in [_data_of(other) for other in (*kept, *new)]]
    index[0]["results"] = [*kept, *more, *new]
    lines, inside = [], False
    for line in front.removesuffix("\n").split("\n"):
        inside = line.startswith("model-index:") or (inside and line[:1] in (" ", "-", "\t", ""))
        if not inside and line:
            lines.append(line + "\n")
    made = "".join(lines) + yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True)
    try:
        kept_all = yaml.safe_load(made) == {**known, "model-index": index}
    except yaml.YAMLError:
        kept_all = False
    return made if kept_all else front  # of a form that cannot be added to line by line


def _data_of(entry: Any) -> str:
    """What an entry of model-index was measured on."""
    data = entry.get("dataset") if isinstance(entry, dict) else entry
    parts = {key: value for key, value in data.items() if key != "name"} if isinstance(data, dict) else data
    return repr(sorted(parts.items()) if isinstance(parts, dict) else parts)


def _evaluated(results: dict[str, Any]) -> dict[str, Any]:
    """What the section of an evaluation says."""
    metrics = next(iter(results["setups"]["model"]["seeds"].values()))
    test = metrics["test"]
    found = results["explained"]
    return {
        "rows": f"{test['rows']:,}",
        "dependence": f"{test['dependence_bits']:.4f}",
        "corrected": f"{test['dependence_bits_corrected']:.4f}",
        "given_label": f"{test['dependence_given_label_bits']:.4f}",
        "reliance": None if test["reliance"] is None else f"{test['reliance']:.3f}",
        "languages": table(*quality_cells(test)),
        "predictions": grid("language", results["labels"], results["languages"], test["predicted"], "{:,}"),
        "probes": probe_table(metrics["probe"]),
        "probed": probed_text(metrics["probe"]),
        "explained": found and f"{found['examples']:,}",
        "tokens": table(*tokens_cells(results)) if found else "",
    }
