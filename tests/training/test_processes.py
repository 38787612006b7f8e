"""Two processes compute what one computes.

As a program, started with `accelerate launch`: test_processes.py FOLDER, which holds model/, rows/ and texts.parquet;
trains one step, evaluates, extracts features, explains, and writes gradients.pt and measured.json there.
"""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from conftest import assert_close, gradients_of
from datasets import Dataset, load_from_disk
from pyarrow.parquet import read_table
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_langimb import AttributionStore, LangImbTrainer, LangImbTrainingArguments, attribute, extract_features
from hf_langimb.console import on_main
from hf_langimb.runs.evaluate import _parse, check_up


def build(folder: Path, rows, *, model=None, **changes) -> LangImbTrainer:
    """A trainer on a CPU; `model` are changes of its configuration."""
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    arguments = LangImbTrainingArguments(str(folder / "run"), **settings | changes)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", **model or {}).double()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return LangImbTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


def watched(folder: Path, rows, **settings) -> tuple[LangImbTrainer, list[int]]:
    """A trainer in steps of 4 of 20 rows, and a list that gets the rows that this process sees."""
    numbered = rows.select(range(20)).map(lambda row, i: {"label": i % 3, "number": i}, with_indices=True)
    settings |= {"per_device_train_batch_size": 4 // PartialState().num_processes}
    # dropout draws from the generator of each process alone
    trainer = build(folder, numbered, model={"hidden_dropout_prob": 0.1}, **settings)
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns.append("number")
    seen, inner = [], trainer.data_collator

    def collate(features):
        seen.extend(feature.pop("number") for feature in features)
        return inner(features)

    trainer.data_collator = collate
    return trainer, seen


def resumed(folder: Path, rows, **settings) -> bool:
    """Whether a training that is resumed in its second epoch sees the rows that it would have seen, in any process."""
    found = []
    for checkpoint in (None, str(folder / "run" / "checkpoint-7")):
        trainer, seen = watched(folder, rows, max_steps=14, save_steps=7, save_strategy="steps", **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        found.append(seen[-(28 // PartialState().num_processes) :])
    return all(gather_object([found[0] == found[1] != []]))


def rows_seen(folder: Path, rows, **settings) -> list[list[int]]:
    """The rows that all processes together see in each of three epochs, sorted."""
    trainer, seen = watched(folder, rows, num_train_epochs=3, **settings)
    trainer.train()
    epochs = [seen[i : i + len(seen) // 3] for i in range(0, len(seen), len(seen) // 3)]
    shares = gather_object([epochs])
    return [sorted(number for share in shares for number in share[epoch]) for epoch in range(3)]


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
    """Gradients of one optimizer step, and numbers: its logged loss and parts, losses and predictions after it."""
    rows = load_from_disk(folder / "rows")
    settings = {"learning_rate": 0.01, "max_grad_norm": 0.0, "max_steps": 1, "train_sampling_strategy": "sequential"}
    settings |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    settings |= {"class_weighting": "per_language", "masked_entropy_weight": 0.7, "per_device_eval_batch_size": 4}
    trainer = build(folder, rows, **settings)
    trainer._draw_mask = lambda inputs: {"row": 0, "length": 3}
    gradients = gradients_of(trainer)  # first: evaluated before, transformers 5.23 would not synchronise gradients
    evaluated = trainer.evaluate()
    predicted = trainer.predict(trainer.eval_dataset)
    step = next(entry for entry in trainer.state.log_history if "loss_classification" in entry)
    numbers = {name: value for name, value in (evaluated | step).items() if "loss" in name}
    texts = [" ".join(f"w{1 + i % 9}" for i in range(1 + n % 7)) for n in range(30)]
    pairs = Dataset.from_dict({"premise": texts, "hypothesis": texts[::-1]})
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    store = folder / f"store-{trainer.args.world_size}"
    attribute(model, trainer.processing_class, pairs, out=store, shard_size=4, orders=4)
    argv = [folder / "model", folder / "texts.parquet", "--output-dir", folder / f"checkup-{trainer.args.world_size}"]
    argv += ["--explain-rows", "auto", "--explain-tolerance", "1e-6", "--batch-size", "4"]
    with patch("hf_langimb.runs.explaining.BATCH_ROWS", 3):
        _, checked = check_up(_parse([*map(str, argv)]))
    found = checked["setups"]["model"]["seeds"]["0"]
    moving = {"class_weighting": "group_dro", "group_dro_step_size": 1.0, "masked_entropy_weight": 0.0, "max_steps": 3}
    dro = build(folder, rows, **settings | moving)
    dro.train()
    plain = {"class_weighting": "none", "masked_entropy_weight": 0.0, "max_steps": 3}
    reversed_ = build(folder, rows, **settings | plain | {"language_adversary": "gradient_reversal"})
    reversed_.train()
    lists = [[None if (i + c) % 5 == 0 else float((i * c) % 3 == 1) for c in range(3)] for i in range(len(rows))]
    listed = rows.remove_columns("label").add_column("labels", lists)
    options = plain | {"class_weighting": "independence", "missing_cell_policy": "ignore"}
    several = build(folder, listed, model={"problem_type": "multi_label_classification"}, **settings | options)
    several.train()
    return gradients, numbers | {
        "shares": dro.group_dro.shares.flatten().tolist(),
        "adversary": reversed_.adversary.classifier.weight.flatten().tolist(),
        "several": [value for name, value in several.evaluate().items() if name.endswith("loss")],
        "grouped": rows_seen(folder, rows, train_sampling_strategy="group_by_length"),
        "drawn": rows_seen(folder, rows, sampling="joint", language_schedule="fr:0.2_0.8"),
        "resumed": [
            resumed(folder, rows, sampling="joint"),
            resumed(folder, rows, train_sampling_strategy="group_by_length"),
        ],
        "checked": [found["test"]["predicted"], found["probe"]["test"]["rows"]],
        "processes": trainer.args.world_size,
        "predictions": predicted.predictions.tolist(),
        "labels": predicted.label_ids.tolist(),
        "told": told_by_main(),
        "features": extract_features(trainer.model, trainer.processing_class, rows, layers=None, batch_size=4).tolist(),
    }


def test_two_processes_compute_what_one_computes(tmp_path, bert_tokenizer, tiny_bert, tiny_dataset):
    rows = tiny_dataset(bert_tokenizer)  # 21: the last batch of an evaluation is uneven
    # 24 rows fill 4 micro-batches of 3 on both processes; ignored labels leave the two with unequal shares of the items
    rows = rows.select([*range(21), 0, 1, 2]).map(
        lambda row, i: {"label": -100 if i in (0, 1, 2, 7) else row["label"]}, with_indices=True
    )
    rows.save_to_disk(tmp_path / "rows")
    texts = [{"text": f"w{i % 20} w{i % 7}", "language": "fe"[i % 2], "label": i % 3} for i in range(30)]
    Dataset.from_list(texts).to_parquet(tmp_path / "texts.parquet")
    tiny_bert().save_pretrained(tmp_path / "model")
    bert_tokenizer.save_pretrained(tmp_path / "model")
    # accelerate 1.15: `launch --cpu --num_processes=2` starts a single process, without a word; this starts two
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command += ["--main_process_port=0", __file__, str(tmp_path)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # a barrier of Accelerate wants a GPU for each process, also on the CPU
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    gradients = torch.load(tmp_path / "gradients.pt")
    single, expected = measure(tmp_path, batch=24, accumulation=1)
    assert (measured.pop("processes"), expected.pop("processes")) == (2, 1)
    assert measured.pop("labels") == expected.pop("labels")
    assert measured.pop("grouped") == expected.pop("grouped") == [[*range(20)]] * 3
    assert measured["drawn"] == expected.pop("drawn")
    assert measured.pop("resumed") == expected.pop("resumed") == [True, True]
    assert len({*map(tuple, measured.pop("drawn"))}) == 3
    assert_close(measured.pop("checked"), expected.pop("checked"))
    explained = [json.loads((tmp_path / f"checkup-{n}" / "results.json").read_text())["explained"] for n in (1, 2)]
    assert_close(*explained)
    assert explained[0]["rows"]["used"] == explained[1]["examples"] == 30
    stores = [AttributionStore(tmp_path / f"checkup-{n}" / "attributions" / "model-seed-0") for n in (1, 2)]
    assert [len(store.batches) for store in stores] == [2, 2]
    words = "from 0: the main process's own words"
    assert (measured.pop("told"), expected.pop("told")) == ([words, "from 0: exit 1"], [words])
    for name in ("predictions", "features"):
        values, wanted = (torch.tensor(numbers.pop(name)) for numbers in (measured, expected))
        assert values.allclose(wanted, atol=1e-6), name
    assert {"eval_loss", "eval_plain_loss", "eval_uniform_loss", "loss", "loss_masked_entropy"} <= set(measured)
    assert measured == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    stores = [{path.name: path for path in (tmp_path / f"store-{n}").iterdir()} for n in (1, 2)]
    assert stores[0].keys() == stores[1].keys() and len(stores[0]) == 17  # a manifest, two files for each of 8 shards
    for name in stores[0]:
        read = json.loads if name.endswith(".json") else lambda data: read_table(BytesIO(data)).to_pydict()
        contents = [read(store[name].read_bytes()) for store in stores]
        assert contents[0].keys() == contents[1].keys(), name
        assert_close(*contents, atol=1e-6)
    parts = measured["loss_classification"] + measured["loss_masked_entropy"]
    assert measured["loss"] == pytest.approx(parts, rel=1e-5)
    assert gradients.keys() == single.keys()
    for name, gradient in single.items():
        assert (gradient - gradients[name]).abs().max() < 1e-6, name


if __name__ == "__main__":
    target = Path(sys.argv[1])
    gradients, numbers = measure(target, batch=3, accumulation=4)
    if numbers["processes"] == 1 or torch.distributed.get_rank() == 0:
        torch.save(gradients, target / "gradients.pt")
        (target / "measured.json").write_text(json.dumps(numbers), encoding="utf-8")
    PartialState().destroy_process_group()
