"""Model cards, rendered from results.json alone: they print no number that does not stand there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hf_langimb.console import one_line
from hf_langimb.results.schema import FORMS, measured
from hf_langimb.results.tables import (
    attributions_cells,
    command_of,
    comparisons_cells,
    file_name,
    interval_text,
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
WORDS = {  # of the plans that a recipe knows
    "balanced": "data in which every language has all labels equally often",
    "imbalanced": "data in which the labels depend on the language",
    "natural": "the data as they were collected",
}


def render_card(
    results: dict[str, Any],
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
        setup: whose weights the repository holds.
        seed: of these weights; None takes the lowest.
        repo_id: of the repository.
        revision: branch of the repository; None is main.
        base_model: Hub id of the model that was fine-tuned; None takes that of the results, where it is one.
        attributions: Hub id of the data set with the attributions of single tokens.

    Raises:
        ValueError: the run has no such setup or seed.
    """
    chosen = measured(results, setup, seed)
    number, metrics = chosen
    values = results["setups"][setup]
    config = DEFAULTS | results["config"]
    audit = results["data"][f"train/{values['plan']}"]
    adapter = bool(values["lora_rank"])
    base = base_model or (config["model_name_or_path"] if is_hub_id(config["model_name_or_path"]) else None)
    return card_template("model_card.md.jinja").render(
        metadata=_metadata(results, setup, metrics, config, base, adapter, repo_id),
        title=f"{results['recipe']} {results['config_name']}, {setup.replace('_', ' ')}",
        summary=_summary(results, setup, number, config),
        repo_id=repo_id,
        usage=_usage(repo_id, revision, results["labels"], adapter, len(config["text_columns"])),
        revision=f', revision="{revision}"' if revision else "",
        counts=grid("language", audit["labels"], audit["languages"], audit["counts"], "{:,}"),
        bits=f"{audit['mutual_information_bits']:.4f}",
        chance_bits=f"{audit['mutual_information_chance_bits']:.4f}",
        language_only=f"{audit['language_only_accuracy']:.3f}",
        majority=f"{audit['majority_accuracy']:.3f}",
        class_weighting=values["class_weighting"],
        weights=grid("language", audit["labels"], audit["languages"], audit["weights"], "{:.3f}")
        if values["class_weighting"] == audit["weighting"] != "none" and not audit["missing_cells"]
        else "",  # a cell without rows: its policy decides, and the audit always ignores it
        over=_over(results),
        setups=table(*setups_cells(results)),
        comparisons=_comparisons(results, setup),
        seed=number,
        test_rows=f"{metrics['test']['rows']:,}",
        languages=table(*quality_cells(metrics["test"])),
        predictions=grid("language", results["labels"], results["languages"], metrics["test"]["predicted"], "{:,}"),
        probes=probe_table(metrics["probe"]),
        probed=probed_text(metrics["probe"]),
        **_attributed(results),
        command=command_of(results),
        store=f"; what each token adds is in the data set [{attributions}](https://huggingface.co/datasets/{attributions})"
        if attributions
        else "",
    )


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
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        language=[language] if language else _language_codes(axes["languages"]),
        license=license,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification",
        base_model=base_model if is_hub_id(base_model) else None,
        datasets=list(datasets) or None,
        tags=list(dict.fromkeys([*TAGS, *tags, "generated_from_trainer"])),
        model_name=name,
    )
    columns = list(dict.fromkeys(key for entry in evaluations for key in entry if key.startswith("eval_")))
    shown = ["epoch", *(key for key in columns if not key.endswith(("runtime", "_per_second")))]
    rows = [[_plain(entry.get(key)) for key in shown] for entry in evaluations]
    return card_template("trained_card.md.jinja").render(
        metadata=metadata.to_yaml(line_break="\n"),
        title=name,
        repo_id=repo_id,
        usage=_usage(repo_id, None, axes["label_names"], adapter, 1),
        labels=_listed(axes["label_names"]),
        languages=_listed(axes["languages"]),
        class_weighting=axes["class_weighting"],
        masked_entropy_weight=masked_entropy_weight,
        counts=grid("language", axes["label_names"], axes["languages"], axes["counts"], "{:,}"),
        weights=""
        if axes["class_weighting"] == "none"
        else grid("language", axes["label_names"], axes["languages"], axes["weights"], "{:.3f}"),
        evaluations=table(shown, rows) if rows else "",
    )


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def render_attributions_card(results: dict[str, Any], setups: Sequence[str], seed: int, repo_id: str) -> str:
    """README.md of the data set with the attributions of single tokens, a configuration for each setup and table."""
    import yaml

    configs = [
        {"config_name": f"{setup}-{kind}", "data_files": f"{setup}/{kind}-*.parquet"}
        for setup in setups
        for kind in ("tokens", "examples")
    ]
    metadata = {
        "language": _language_codes(results["languages"]),
        "tags": [*TAGS, "shap"],
        "configs": configs,
    } | _licence(results)
    return card_template("attributions_card.md.jinja").render(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
        title=f"Token attributions of {results['recipe']} {results['config_name']}",
        repo_id=repo_id,
        setups=setups,
        seed=seed,
        command=command_of(results),
    )


def render_base_card(results: dict[str, Any], repo_id: str) -> str:
    """README.md of the checkpoint that a run's setups start from, where the run has made it itself."""
    import yaml

    metadata = {
        "language": _language_codes(results["languages"]),
        "tags": list(TAGS),
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
    } | _licence(results)
    return card_template("base_card.md.jinja").render(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
        title=f"{results['recipe']} {results['config_name']}, start",
        repo_id=repo_id,
        command=command_of(results),
    )


@cache
def card_template(name: str) -> Any:
    """A template of this package, which fails where a value is not given."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("hf_langimb.results")
    return Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).get_template(name)


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


def _licence(results: dict[str, Any]) -> dict[str, str]:
    licence = results["config"].get("license")
    return {"license": licence} if licence else {}


def _metadata(
    results: dict[str, Any],
    setup: str,
    metrics: dict[str, Any],
    config: dict[str, Any],
    base_model: str | None,
    adapter: bool,
    repo_id: str,
) -> str:
    from huggingface_hub import ModelCardData

    name = str(config["dataset_name"])
    evaluated = index_entries(metrics["test"], name, config["test_split"])
    card = ModelCardData(
        language=_language_codes(results["languages"]),
        license=results["config"].get("license"),
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-classification",
        base_model=base_model,
        datasets=[name] if is_hub_id(name) else None,
        tags=[*TAGS, *(["lora"] if adapter else [])],
        model_name=repo_id.rpartition("/")[2],
        eval_results=evaluated,
    )
    return card.to_yaml(line_break="\n")


def index_entries(test: dict[str, Any], dataset: str, split: str | None) -> list[Any]:
    """For the Hub's index: accuracy and F1 in each language."""
    from huggingface_hub import EvalResult

    kind = dataset if is_hub_id(dataset) else re.sub(r"\W+", "_", dataset.rstrip("/").rpartition("/")[2])
    return [
        EvalResult(
            task_type="text-classification", dataset_type=kind, dataset_split=split, dataset_config=language,
            dataset_name=f"{kind}, {language}", metric_type=metric, metric_name=title, metric_value=float(values[key]),
        )
        for language, values in test["by_language"].items()
        for metric, title, key in (("accuracy", "Accuracy", "accuracy"), ("f1", "Macro F1", "macro_f1"))
    ]  # fmt: skip


def _summary(results: dict[str, Any], setup: str, seed: int, config: dict[str, Any]) -> str:
    values = results["setups"][setup]
    pair = "pairs of texts" if len(config["text_columns"]) == 2 else "texts"
    weighting = values["class_weighting"]
    made = {
        "balanced": "as a reference ",
        "imbalanced": ""
        if weighting != "none" or values["masked_entropy_weight"]
        else "**without a cure**, to show what such data do, ",
    }.get(values["plan"], "")
    how = [f"with `{weighting}` class weights" if weighting != "none" else "without class weights"]
    if values["masked_entropy_weight"]:
        how.append("with the masked-input entropy loss")
    if values["lora_rank"]:
        how.append(f"as LoRA adapters of rank {values['lora_rank']:d}")
    plan = WORDS.get(values["plan"], f"the plan {values['plan']}")
    start, data = config["model_name_or_path"], config["dataset_name"]
    labels, languages = _listed(results["labels"]), _listed(results["languages"])
    return (
        f"`{start}`, fine-tuned on `{data}`. Classifies {pair} as {labels}, in {languages}. Trained {made}on "
        f"{plan}, {', '.join(how)}: setup `{setup}`, seed {seed}, of a run that compares setups, with hf_langimb, "
        "after [*Understanding the effects of language-specific class imbalance in multilingual "
        "fine-tuning*](https://arxiv.org/abs/2402.13016)."
    )


def _plain_text(name: Any) -> str:
    """A name of the data, that it may not write Markdown."""
    return re.sub(r"([\\`*<\[\]])", r"\\\1", one_line(name))


def _listed(names: Sequence[Any]) -> str:
    names = [_plain_text(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _usage(repo_id: str, revision: str | None, labels: Sequence[str], adapter: bool, columns: int) -> str:
    """Code that loads the model without this package."""
    where = f'"{repo_id}"' + (f', revision="{revision}"' if revision else "")
    example = '{"text": "...", "text_pair": "..."}' if columns == 2 else '"..."'
    if not adapter:
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model={where})\nclassify({example})'
        )
    names = json.dumps(dict(enumerate(map(str, labels))), ensure_ascii=False)
    names = re.sub(r'"(\d+)":', r"\1:", names)
    return (
        "from peft import AutoPeftModelForSequenceClassification\n"
        "from transformers import AutoTokenizer, pipeline\n\n"
        f"model = AutoPeftModelForSequenceClassification.from_pretrained({where}, num_labels={len(labels)})\n"
        f"model.config.id2label = {names}\n"
        f"tokenizer = AutoTokenizer.from_pretrained({where})\n"
        f'classify = pipeline("text-classification", model=model, tokenizer=tokenizer)\nclassify({example})'
    )


def _over(results: dict[str, Any]) -> str:
    several = len(results["seeds"]) > 1
    return "Mean and 95 % t interval over the seeds of the run." if several else "A single seed, so without intervals."


def grid(corner: str, columns: Sequence[Any], names: Sequence[str], rows: Sequence[Any], form: str) -> str:
    """A table of numbers, a row for each name."""
    cells = [[name, *(form.format(value) for value in row)] for name, row in zip(names, rows, strict=False)]
    return table([corner, *map(str, columns)], cells)


def _comparisons(results: dict[str, Any], setup: str) -> str:
    if len(results["seeds"]) == 1:
        return ""
    with_it = [entry for entry in results["comparisons"] if setup in (entry["setup"], entry["reference"])]
    return table(*comparisons_cells(results | {"comparisons": with_it})) if with_it else ""


def quality_cells(test: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Quality of one model in each language."""
    bounds = (test["intervals"] or {}).get("by_language", {})
    rows = []
    for language, values in test["by_language"].items():
        cells = []
        for measure in ("accuracy", "macro_f1"):
            low, high = bounds.get(language, {}).get(measure, (None, None))
            cells.append(interval_text({"mean": values[measure], "low": low, "high": high}, ".3f"))
        error = (test["calibration"] or {}).get(language, {}).get("expected_calibration_error")
        rows.append([language, *cells, "-" if error is None else f"{error:.3f}"])
    rows.append(["worst label of a language", f"{test['worst_cell_accuracy']:.3f}", "-", "-"])
    return ["language", "accuracy", "macro F1", "calibration error"], rows


def probe_table(probes: dict[str, Any]) -> str:
    """Accuracy of the language probe against chance and shuffled languages; empty where none was measured."""
    rows = []
    for text, probe in probes.items():
        if probe is not None:
            low, high = probe["control_interval"]
            shuffled = interval_text({"mean": probe["control"], "low": low, "high": high}, ".3f")
            rows.append([text, f"{probe['rows']:,}", f"{probe['accuracy']:.3f}", f"{probe['chance']:.3f}", shuffled])
    return table(["text", "rows", "accuracy", "chance", "shuffled [99 %]"], rows) if rows else ""


def probed_text(probes: dict[str, Any]) -> str:
    """Whose features the probe reads."""
    pooling = next((probe["pooling"] for probe in probes.values() if probe), "cls")
    return {"cls": "first token", "last": "last token"}.get(pooling, f"text ({pooling})")


def _attributed(results: dict[str, Any]) -> dict[str, Any]:
    """What the template says of the attributions; empty texts where there are none."""
    found = results["attributions"]
    if not found:
        keys = ("attributions", "attributed_setup", "attributed_reference", "threshold", "attributed_rows")
        return dict.fromkeys(keys, "") | {"figures": {}}
    form = next(form for form in reversed(FORMS) if found[form])
    return {
        "attributions": table(*attributions_cells(results)),
        "attributed_setup": f"`{found['setup']}`",
        "attributed_reference": f"`{found['reference']}`",
        "threshold": f"{shown_threshold(found):g}",
        "attributed_rows": f"{found['examples']:,}",
        "figures": {
            f"figures/{file_name(f'attributions-{form}-{label}')}.svg": f"Differences ({form}) of {text} by language"
            for label, text in zip(results["labels"], map(_plain_text, results["labels"]), strict=True)
        },
    }
