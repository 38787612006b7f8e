"""Model cards, rendered from results.json alone: every number that they print is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import CardData, EvalResult, ModelCardData

from hf_langimb.models.axes import of_several_labels
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import Results, TestMetrics
from hf_langimb.results.summary import MEASURED_ONLY, measured
from hf_langimb.results.tables import Cells, grid_cells

TAGS = ["hf_langimb", "multilingual", "language-specific-class-imbalance"]
# Of a recipe, which results.json leaves out
DEFAULTS = {"dataset_name": "mini_xnli", "model_name_or_path": "mini_bert", "text_columns": [], "test_split": "test"}


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
        attributions: Hub id of the dataset with the attributions of single tokens.

    Raises:
        ValueError: the run has no such setup or seed.
    """
    number, metrics = measured(results, setup, seed)
    config, adapter = DEFAULTS | results["config"], bool(results["setups"][setup]["lora_rank"])
    changed = results["recipe"] in MEASURED_ONLY
    if changed:
        config |= {"model_name_or_path": config["model"], "dataset_name": config["dataset"]}
        config |= {"test_split": config.get("split") or None}
    data = str(config["dataset_name"])
    metadata = _classifier_metadata(
        adapter,
        language=_language_codes(results["languages"]),
        license=config.get("license"),
        base_model=base_model or _hub_id(config["model_name_or_path"]),
        datasets=[data] if is_hub_id(data) else None,
        tags=[*TAGS, *["lora"] * adapter],
        model_name=repo_id.rpartition("/")[2],
        eval_results=index_entries(metrics["test"], data, config["test_split"]),
    )
    values = {"results": results, "config": config, "name": setup, "seed": number, "metrics": metrics}
    place = {"repo_id": repo_id, "revision": revision, "attributions": attributions}
    return render(
        "changed_card.md" if changed else "model_card.md", metadata=metadata, adapter=adapter, **values, **place
    )


def render_trained_card(
    axes: dict[str, Any], evaluations: Sequence[dict[str, Any]], metadata: dict[str, Any], **values: Any
) -> str:
    """README.md that `LangImbTrainer` writes: what it was trained on; measures come from recipes/evaluate.py.

    Args:
        axes: of langimb.json.
        evaluations: entries of the Trainer's log with eval_loss.
        metadata: for the Hub's search, as `huggingface_hub.ModelCardData` takes it; tags are added to those of the
            package, languages are those of the axes where it has none, and a base that is not on the Hub is left out.
        values: repo_id, adapter (whether these are LoRA adapters), masked_entropy_weight.
    """
    known = {
        "language": metadata["language"] or _language_codes(axes["languages"]),
        "base_model": _hub_id(metadata["base_model"]),
        "tags": list(dict.fromkeys([*TAGS, *metadata["tags"], "generated_from_trainer"])),
    }
    front, cells = _classifier_metadata(values["adapter"], **metadata | known), _evaluations_cells(evaluations)
    values |= {"title": metadata["model_name"], "axes": axes, "multi_label": of_several_labels(axes)}
    values |= {"cells": _cells(axes, "counts", ","), "weights": _cells(axes, "weights", ".3f")}
    return render("trained_card.md", metadata=front, evaluations=cells, **values)


def _cells(axes: dict[str, Any], key: str, form: str) -> Cells:
    """Counts or weights of langimb.json; those of several labels are of no and yes."""
    rows, names = axes[key], axes["label_names"]
    if of_several_labels(axes):
        names = [f"{name} ({value})" for name in names for value in ("no", "yes")]
        rows = [[number for pair in row for number in pair] for row in rows]
    return grid_cells(rows, axes["languages"], names, form)


def _classifier_metadata(adapter: bool, **values: Any) -> str:
    """The metadata of a classifier's card as YAML."""
    library = "peft" if adapter else "transformers"
    data = ModelCardData(library_name=library, pipeline_tag="text-classification", **values)
    return str(data.to_yaml(line_break="\n"))


def _evaluations_cells(evaluations: Sequence[dict[str, Any]]) -> Cells:
    """The losses and metrics in the Trainer's log, without its times."""
    columns = dict.fromkeys(key for entry in evaluations for key in entry if key.startswith("eval_"))
    shown = ["epoch", *(key for key in columns if not key.endswith(("runtime", "_per_second")))]
    values = [[entry.get(key) for key in shown] for entry in evaluations]
    return shown, [
        [f"{x:.4g}" if isinstance(x, float) else "-" if x is None else str(x) for x in row] for row in values
    ]


def render_attributions_card(results: Results, setups: Sequence[str], seed: int, repo_id: str) -> str:
    """README.md of the dataset with the attributions of single tokens, a configuration for each setup and table."""
    stored = [(setup, kind) for setup in setups for kind in ("tokens", "examples")]
    configs = [
        {"config_name": f"{setup}-{kind}", "data_files": f"{setup}/**/{kind}-*.parquet"} for setup, kind in stored
    ]
    metadata = _shared_metadata(results, tags=[*TAGS, "shap"], configs=configs)
    values = {"results": results, "setups": setups, "seed": seed, "repo_id": repo_id}
    return render("attributions_card.md", metadata=metadata, **values)


def render_base_card(results: Results, repo_id: str) -> str:
    """README.md of the checkpoint that a run's setups start from, if the run pretrained it."""
    metadata = _shared_metadata(results, tags=TAGS, library_name="transformers", pipeline_tag="fill-mask")
    return render("base_card.md", metadata=metadata, results=results)


def _shared_metadata(results: Results, **values: Any) -> str:
    """The metadata of the cards that the models of a run share, as YAML."""
    languages, license = _language_codes(results["languages"]), results["config"].get("license")
    return str(CardData(language=languages, **values, license=license).to_yaml(line_break="\n"))


def is_hub_id(name: str) -> bool:
    """Whether a model or dataset is named as on the Hub and not a path, nor made by this package."""
    if re.search(r"\.(parquet|csv|jsonl?|bin|safetensors)$", name) or name.startswith((".", "runs/", "data/")):
        return False
    old = r"(distil|al|camem|flau)?(bert|roberta)-[\w.-]+|xlm-[\w.-]+"  # from before all had a namespace
    return bool(re.fullmatch(rf"[\w.-]+/[\w.-]+|{old}", name))


def _hub_id(name: Any) -> str | None:
    """The name of a model or dataset on the Hub, None for any other."""
    return str(name) if is_hub_id(str(name)) else None


def _language_codes(languages: Sequence[str]) -> list[str] | None:
    """Language codes that the Hub's search knows: en for en, eng for eng_Latn; None if there are none."""
    codes = [re.split(r"[_-]", language)[0] for language in languages]
    return list(dict.fromkeys(code for code in codes if re.fullmatch(r"[a-z]{2,3}", code))) or None


def index_entries(test: TestMetrics, dataset: str, split: str | None) -> list[EvalResult]:
    """For the Hub's index: accuracy and F1 in each language."""
    kind = dataset if is_hub_id(dataset) else re.sub(r"\W+", "_", dataset.rstrip("/").rpartition("/")[2])
    entries = []
    for language, of in test["by_language"].items():
        data: dict[str, Any] = {"dataset_type": kind, "dataset_name": f"{kind}, {language}", "dataset_config": language}
        for metric, title, value in (("accuracy", "Accuracy", of["accuracy"]), ("f1", "Macro F1", of["macro_f1"])):
            measure: dict[str, Any] = {"metric_type": metric, "metric_name": title, "metric_value": float(value)}
            entries.append(EvalResult(task_type="text-classification", dataset_split=split, **data, **measure))
    return entries
