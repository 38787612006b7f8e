"""Model cards, rendered from results.json alone: every number that they print is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hf_langimb.console import one_line
from hf_langimb.results.schema import FORMS, TEXTS, Metrics, Results, TestMetrics
from hf_langimb.results.summary import measured
from hf_langimb.results.tables import (
    attributions_cells,
    command_of,
    comparisons_cells,
    file_name,
    grid,
    interval_text,
    quality_cells,
    setups_cells,
    shown_threshold,
    table,
)

TAGS = ("hf_langimb", "multilingual", "language-specific-class-imbalance")
DEFAULTS = {  # of a recipe, which results.json leaves out
    "dataset_name": "mini_xnli",
    "model_name_or_path": "mini_bert",
    "text_columns": [],
    "test_split": "test",
}
PLANS = {
    "balanced": "data in which every language has all labels equally often",
    "imbalanced": "data in which the labels depend on the language",
    "natural": "the data as they were collected",
}


def render_card(
    results: Results,
    setup: str,
    *,
    seed: int | None = None,
    repo_id: str = "REPO_ID",
    revision: str | None = None,
    base_model: str | None = None,
    attributions: str | None = None,
) -> str:
    """README.md of one trained model.

    Args:
        results: of `read_results`.
        setup: whose weights are in the repository.
        seed: of these weights; None takes the lowest.
        repo_id: of the repository.
        revision: branch of the repository; None is main.
        base_model: Hub id of the model that was fine-tuned; None takes that of the results, where it is one.
        attributions: Hub id of the data set with the attributions of single tokens.

    Raises:
        ValueError: the run has no such setup or seed.
    """
    number, metrics = measured(results, setup, seed)
    return card_template("model_card.md.jinja").render(
        metadata=_run_metadata(results, setup, metrics["test"], repo_id, base_model),
        repo_id=repo_id,
        revision=revision,
        seed=number,
        store=attributions,
        **_setup_values(results, setup),
        **measured_text(metrics, results["languages"], results["labels"]),
    )


def _run_metadata(results: Results, setup: str, test: TestMetrics, repo_id: str, base_model: str | None) -> str:
    """The metadata of the card of a run's model as YAML."""
    config, adapter = DEFAULTS | results["config"], bool(results["setups"][setup]["lora_rank"])
    start, data = str(config["model_name_or_path"]), str(config["dataset_name"])
    return _metadata(
        adapter,
        language=_language_codes(results["languages"]),
        license=config.get("license"),
        base_model=base_model or (start if is_hub_id(start) else None),
        datasets=[data] if is_hub_id(data) else None,
        tags=[*TAGS, *["lora"] * adapter],
        model_name=repo_id.rpartition("/")[2],
        eval_results=index_entries(test, data, config["test_split"]),
    )


def _setup_values(results: Results, setup: str) -> dict[str, Any]:
    """What the card of a run's model says of its setup, its training data and the comparisons with other setups."""
    values, config, found = results["setups"][setup], DEFAULTS | results["config"], results["attributions"]
    audit = results["data"][f"train/{values['plan']}"]
    sides = audit["languages"], audit["labels"]
    # Where cells have no rows, missing_cell_policy decides on the weights, which the audit does not know.
    known = values["class_weighting"] == audit["weighting"] != "none" and not audit["missing_cells"]
    compared = [entry for entry in results["comparisons"] if setup in (entry["setup"], entry["reference"])]
    return {
        "results": results,
        "name": setup,
        "setup": values,
        "config": config,
        "plan": PLANS.get(values["plan"], f"the plan {values['plan']}"),
        "adapter": bool(values["lora_rank"]),
        "label_names": results["labels"],
        "pairs": len(config["text_columns"]) == 2,
        "audit": audit,
        "weights": _cells(*sides, audit["weights"], "{:.3f}") if known else "",
        "counts": _cells(*sides, audit["counts"]),
        "setups": table(*setups_cells(results)),
        "comparisons": table(*comparisons_cells({**results, "comparisons": compared})) if compared else "",
        "attributions": table(*attributions_cells(results)) if found else "",
        "form": found and next(form for form in reversed(FORMS) if found[form]),
        "threshold": found and shown_threshold(found),
        "command": command_of(results),
    }


def measured_text(metrics: Metrics, languages: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """What a card says of one model's predictions and its language probe."""
    test, rows = metrics["test"], []
    probes = {text: probe for text in TEXTS if (probe := metrics["probe"].get(text))}
    for text, probe in probes.items():
        shuffled = interval_text(probe["control"], probe["control_interval"])
        rows.append([text, f"{probe['rows']:,}", f"{probe['accuracy']:.3f}", f"{probe['chance']:.3f}", shuffled])
    pooling = next((probe.get("pooling", "cls") for probe in probes.values()), "cls")
    return {
        "rows": f"{test['rows']:,}",
        "languages": table(*quality_cells(test)),
        "predictions": _cells(languages, labels, test["predicted"]),
        "probes": table(["text", "rows", "accuracy", "chance", "shuffled [99 %]"], rows) if rows else "",
        "probed": {"cls": "first token", "last": "last token"}.get(pooling, f"text ({pooling})"),
    }


def _cells(languages: Sequence[str], labels: Sequence[Any], rows: Sequence[Sequence[Any]], form: str = "{:,}") -> str:
    """A table languages x labels."""
    return grid("language", labels, languages, rows, form)


def render_trained_card(
    axes: dict[str, Any],
    evaluations: Sequence[dict[str, Any]],
    *,
    name: str,
    repo_id: str,
    language: str | None,
    license: str | None,
    tags: Sequence[str],
    base_model: str,
    datasets: Sequence[str],
    adapter: bool,
    masked_entropy_weight: float,
) -> str:
    """README.md that `LangImbTrainer` writes: what it was trained on; measures come from recipes/evaluate.py.

    Args:
        axes: of langimb.json.
        evaluations: entries of the Trainer's log with eval_loss.
        name, repo_id: of the model.
        language, license, tags, base_model, datasets: for the Hub's search.
        adapter: whether these are LoRA adapters.
        masked_entropy_weight: of the training.
    """
    metadata = _metadata(
        adapter,
        language=[language] if language else _language_codes(axes["languages"]),
        license=license,
        base_model=base_model if is_hub_id(base_model) else None,
        datasets=list(datasets) or None,
        tags=list(dict.fromkeys([*TAGS, *tags, "generated_from_trainer"])),
        model_name=name,
    )
    sides = axes["languages"], axes["label_names"]
    return card_template("trained_card.md.jinja").render(
        metadata=metadata,
        title=name,
        repo_id=repo_id,
        axes=axes,
        masked_entropy_weight=masked_entropy_weight,
        adapter=adapter,
        label_names=axes["label_names"],
        counts=_cells(*sides, axes["counts"]),
        weights="" if axes["class_weighting"] == "none" else _cells(*sides, axes["weights"], "{:.3f}"),
        evaluations=_evaluations(evaluations),
    )


def _evaluations(evaluations: Sequence[dict[str, Any]]) -> str:
    """A table of the losses and metrics in the Trainer's log, without its times; empty where there are none."""
    columns = dict.fromkeys(key for entry in evaluations for key in entry if key.startswith("eval_"))
    shown = ["epoch", *(key for key in columns if not key.endswith(("runtime", "_per_second")))]
    values = [[entry.get(key) for key in shown] for entry in evaluations]
    rows = [[f"{x:.4g}" if isinstance(x, float) else "-" if x is None else str(x) for x in row] for row in values]
    return table(shown, rows) if rows else ""


def render_attributions_card(results: Results, setups: Sequence[str], seed: int, repo_id: str) -> str:
    """README.md of the data set with the attributions of single tokens, a configuration for each setup and table."""
    stored = [(setup, kind) for setup in setups for kind in ("tokens", "examples")]
    configs = [{"config_name": f"{setup}-{kind}", "data_files": f"{setup}/{kind}-*.parquet"} for setup, kind in stored]
    title = f"Token attributions of {results['recipe']} {results['config_name']}"
    metadata = {"tags": [*TAGS, "shap"], "configs": configs}
    return _render_simple("attributions_card", results, title, repo_id, metadata, setups=setups, seed=seed)


def render_base_card(results: Results, repo_id: str) -> str:
    """README.md of the checkpoint that a run's setups start from, if the run pre-trained it."""
    title = f"{results['recipe']} {results['config_name']}, start"
    metadata = {"tags": [*TAGS], "library_name": "transformers", "pipeline_tag": "fill-mask"}
    return _render_simple("base_card", results, title, repo_id, metadata)


def _render_simple(
    name: str, results: Results, title: str, repo_id: str, metadata: Mapping[str, Any], **values: Any
) -> str:
    """A card of few words, with metadata for the Hub's search."""
    import yaml

    known = {"language": _language_codes(results["languages"]), **metadata, "license": results["config"].get("license")}
    lines = yaml.safe_dump({k: v for k, v in known.items() if v}, sort_keys=False, allow_unicode=True).strip()
    return card_template(f"{name}.md.jinja").render(
        metadata=lines, title=title, repo_id=repo_id, command=command_of(results), **values
    )


def _metadata(adapter: bool, **values: Any) -> str:
    """The metadata of a classifier's card as YAML."""
    from huggingface_hub import ModelCardData

    library = "peft" if adapter else "transformers"
    return ModelCardData(library_name=library, pipeline_tag="text-classification", **values).to_yaml(line_break="\n")


@cache
def card_template(name: str) -> Any:
    """A template of this package; a value that is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hf_langimb.results"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"listed": _listed, "plain": _plain_text, "file_name": file_name, "python": _python_names}
    return templates.get_template(name)


def is_hub_id(name: str) -> bool:
    """Whether a model or data set is named as on the Hub and not a path, nor made by this package."""
    if re.search(r"\.(parquet|csv|jsonl?|bin|safetensors)$", name) or name.startswith((".", "runs/", "data/")):
        return False
    old = r"(distil|al|camem|flau)?(bert|roberta)-[\w.-]+|xlm-[\w.-]+"  # from before all had a namespace
    return bool(re.fullmatch(rf"[\w.-]+/[\w.-]+|{old}", name))


def _language_codes(languages: Sequence[str]) -> list[str]:
    """Those that the Hub's search knows: en, of eng_Latn eng."""
    codes = [re.split(r"[_-]", language)[0] for language in languages]
    return list(dict.fromkeys(code for code in codes if re.fullmatch(r"[a-z]{2,3}", code)))


def index_entries(test: TestMetrics, dataset: str, split: str | None) -> list[Any]:
    """For the Hub's index: accuracy and F1 in each language."""
    from huggingface_hub import EvalResult

    kind = dataset if is_hub_id(dataset) else re.sub(r"\W+", "_", dataset.rstrip("/").rpartition("/")[2])
    return [
        EvalResult(
            task_type="text-classification", dataset_type=kind, dataset_split=split, dataset_config=language,
            dataset_name=f"{kind}, {language}", metric_type=metric, metric_name=title, metric_value=float(value),
        )
        for language, of in test["by_language"].items()
        for metric, title, value in (("accuracy", "Accuracy", of["accuracy"]), ("f1", "Macro F1", of["macro_f1"]))
    ]  # fmt: skip


def _plain_text(name: Any) -> str:
    """A name of the data with Markdown's characters escaped."""
    return re.sub(r"([\\`*<\[\]])", r"\\\1", one_line(name))


def _listed(names: Sequence[Any]) -> str:
    """Names in a sentence: a, b and c."""
    *others, last = map(_plain_text, names)
    return f"{', '.join(others)} and {last}" if others else last


def _python_names(names: Sequence[Any]) -> str:
    """Names as id2label in Python: {0: "a", 1: "b"}."""
    return "{" + ", ".join(f"{i}: {json.dumps(str(name), ensure_ascii=False)}" for i, name in enumerate(names)) + "}"
