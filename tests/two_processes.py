"""Started by test_processes.py with `accelerate launch`: train one step, evaluate, extract features, explain.

Usage: two_processes.py FOLDER, which holds model/ and rows/; writes gradients.pt and measured.json there.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from conftest import record_gradients
from datasets import Dataset, load_from_disk
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_langimb import LangImbTrainer, LangImbTrainingArguments, attribute, extract_features
from hf_langimb.console import on_main
from hf_langimb.runs.evaluate import _parse, check_up


def build(folder: Path, rows, *, model=None, **changes) -> LangImbTrainer:
    """A trainer on a CPU; `model` are changes of its configuration."""
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    arguments = LangImbTrainingArguments(str(folder / "run"), **settings | changes)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", **model or {}).double()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return LangImbTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


def distinct_rows(folder: Path, rows) -> list[int]:
    """How many different rows all processes together see in each of three epochs, with batches grouped by length."""
    numbered = rows.select(range(20)).remove_columns("label").add_column("label", [i % 3 for i in range(20)])
    numbered = numbered.add_column("number", list(range(20)))
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "train_sampling_strategy": "group_by_length"}
    # dropout draws from the generator of each process alone
    trainer = build(folder, numbered, model={"hidden_dropout_prob": 0.1}, **settings)
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns.append("number")
    seen = []
    inner = trainer.data_collator

    def collate(features):
        seen.extend(feature.pop("number") for feature in features)
        return inner(features)

    trainer.data_collator = collate
    trainer.train()
    epochs = [seen[i : i + len(seen) // 3] for i in range(0, len(seen), len(seen) // 3)]
    shares = gather_object([epochs])
    return [len({number for share in shares for number in share[epoch]}) for epoch in range(3)]


def told_by_main() -> list[str]:
    """What each process has of two actions of the main one, the second an error."""

    def refuse():
        raise ValueError("the main process's own words")

    try:
        told = on_main(lambda: f"from {PartialState().process_index}")
        on_main(refuse)
    except ValueError as error:
        found = f"{told}: {error}"
    except SystemExit as stop:
        found = f"{told}: exit {stop.code}"
    return gather_object([found])


def measure(folder: Path, batch: int, accumulation: int) -> tuple[dict, dict]:
    """Gradients of one optimiser step, and numbers: its logged loss and parts, losses and predictions after it."""
    rows = load_from_disk(folder / "rows")
    settings = {"learning_rate": 0.01, "max_grad_norm": 0.0, "max_steps": 1, "train_sampling_strategy": "sequential"}
    settings |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    settings |= {"class_weighting": "per_language", "masked_entropy_weight": 0.7, "per_device_eval_batch_size": 4}
    trainer = build(folder, rows, **settings)
    trainer._draw_mask = lambda inputs: {"row": 0, "length": 3}
    gradients = record_gradients(trainer)  # first: evaluated before, transformers 5.23 would not synchronise gradients
    evaluated = trainer.evaluate()
    predicted = trainer.predict(trainer.eval_dataset)
    step = next(entry for entry in trainer.state.log_history if "loss_classification" in entry)
    numbers = {name: value for name, value in (evaluated | step).items() if "loss" in name}
    texts = Dataset.from_dict({"text": [" ".join(f"w{1 + i % 9}" for i in range(1 + n % 7)) for n in range(30)]})
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    store = folder / f"store-{trainer.args.world_size}"
    attribute(model, trainer.processing_class, texts, out=store, shard_size=4)
    argv = [folder / "model", folder / "texts.parquet", "--output-dir", folder / f"checkup-{trainer.args.world_size}"]
    _, checked = check_up(_parse([*map(str, argv), "--explain-rows", "5", "--batch-size", "4"]))
    found = checked["setups"]["model"]["seeds"]["0"]
    return gradients, numbers | {
        "checked": [found["test"]["predicted"], found["probe"]["test"]["rows"]],
        "processes": trainer.args.world_size,
        "predictions": predicted.predictions.tolist(),
        "labels": predicted.label_ids.tolist(),
        "distinct": distinct_rows(folder, rows),
        "told": told_by_main(),
        "features": extract_features(trainer.model, trainer.processing_class, rows, layers=None, batch_size=4).tolist(),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    gradients, numbers = measure(target, batch=3, accumulation=4)
    if numbers["processes"] == 1 or torch.distributed.get_rank() == 0:
        torch.save(gradients, target / "gradients.pt")
        (target / "measured.json").write_text(json.dumps(numbers), encoding="utf-8")
    PartialState().destroy_process_group()
