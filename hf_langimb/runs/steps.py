"""The steps of one trained model: train -> predict and probe -> explain.

Each step writes its output to the run folder and is skipped if the output exists.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset
from scipy.special import softmax

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.files import read_json, replacing, write_json
from hf_langimb.measures.attribution.attribute import attribute
from hf_langimb.measures.forward import extract_features, forward_rows
from hf_langimb.measures.predictions import evaluate_predictions, join_by_id
from hf_langimb.measures.probe import probe_languages
from hf_langimb.models.loading import Trained, load_trained
from hf_langimb.training.arguments import LangImbTrainingArguments

logger = logging.getLogger(__name__)

BATCH_SIZE = 64  # rows in a forward pass at most, as in `extract_features`: the same features to the last bit
AGAIN = "remove it and run the recipe again"
Load = Callable[[], Trained]


def load_on_device(place: Path) -> Trained:
    """A trained model on the device of this process."""
    trained = load_trained(place)
    trained.model.to(PartialState().device)
    return trained


def train(
    arguments: LangImbTrainingArguments,
    start: str,
    tokenizer: Any,
    subsets: Mapping[str, Dataset],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Train one setup with one seed into `arguments.output_dir`; a killed training continues from its checkpoint.

    Args:
        arguments: of the training.
        start: name or folder of the model to start from.
        tokenizer: of that model.
        subsets: tokenized rows, `train` and `validation`.
        labels: names of the classes, in order.

    Returns:
        Facts of the training: the step that was chosen and whether another loss would have chosen another.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    from hf_langimb.training.trainer import LangImbTrainer

    place = Path(arguments.output_dir)
    done = place / "training.json"
    if done.exists():
        return read_json(done, AGAIN)
    set_seed(arguments.seed)
    names = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        start, num_labels=len(names), id2label=names, label2id={name: i for i, name in names.items()}
    )
    trainer = LangImbTrainer(
        model,
        arguments,
        train_dataset=subsets["train"],
        eval_dataset=subsets["validation"],
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=_last_checkpoint(place))
    trainer.save_model()
    facts = _chosen_step(trainer.state)
    if trainer.is_world_process_zero():
        (place / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml has the same in words
        write_json(done, facts)
        for checkpoint in place.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    PartialState().wait_for_everyone()
    return facts


def _last_checkpoint(place: Path) -> str | None:
    """The newest checkpoint that is complete: the Trainer writes its state last."""
    complete = [
        state.parent
        for state in place.glob("checkpoint-*/trainer_state.json")
        if any(state.parent.glob("*model*.safetensors"))
    ]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def _chosen_step(state: Any) -> dict[str, Any]:
    """The evaluated step with the lowest loss of each kind: the setup's own (which chose), plain, uniform (SPEC A2)."""
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    steps = {
        kind: min(evaluated, key=lambda entry: entry[f"eval_{kind}"])["step"] if evaluated else None
        for kind in ("loss", "plain_loss", "uniform_loss")
    }
    return {"best_step": steps, "choice_would_change": len(set(steps.values())) > 1}


def predict_and_probe(
    place: Path, load: Load, test: Dataset, external: Dataset | None, batch_size: int
) -> tuple[pa.Table, dict[str, Any]]:
    """Predictions on the test set and language probes on it and on external text (SPEC A5), in one pass over the rows.

    Args:
        place: folder of the trained model, which gets predictions.parquet and probe.json.
        load: gives the trained model.
        test: tokenized rows with `id`, `language` and `label`.
        external: tokenized rows with `language` and `id`; None probes the test set alone.
        batch_size: rows in a forward pass that fit the device.

    Returns:
        Predictions (columns id, language, label, prediction, logits), and {test, external: probe, or None where no
        probe is possible}.
    """
    predictions, probes = place / "predictions.parquet", place / "probe.json"
    if not predictions.exists() or not probes.exists():
        trained = load()
        pooling = (
            "cls" if trained.tokenizer.mask_token_id is not None else "last"
        )  # a decoder's first token sees nothing
        size = min(batch_size, BATCH_SIZE)
        logits, features = forward_rows(trained.model, trained.tokenizer, test, pooling=pooling, batch_size=size)
        if not predictions.exists() and PartialState().is_main_process:
            _write_predictions(predictions, test, logits)
        if not probes.exists():
            texts = {"test": (test, features)}
            if external is not None:
                texts["external"] = (
                    external,
                    extract_features(trained.model, trained.tokenizer, external, pooling=pooling),
                )
            if PartialState().is_main_process:
                scores = {name: _probe(name, *text, pooling) for name, text in texts.items()}
                write_json(probes, {"test": None, "external": None} | scores)
        PartialState().wait_for_everyone()
    return _read_predictions(predictions), read_json(probes, AGAIN)


def _write_predictions(path: Path, test: Dataset, logits: np.ndarray) -> None:
    """Write predictions.parquet."""
    columns = test.select_columns(["id", "language", "label"]).with_format("arrow")[:]
    columns = columns.append_column("prediction", pa.array(logits.argmax(axis=1)))
    rows = pa.array(list(logits.astype(np.float32)), pa.list_(pa.float32()))
    with replacing(path) as part:
        pq.write_table(columns.append_column("logits", rows).replace_schema_metadata(), part)


def _read_predictions(path: Path) -> pa.Table:
    """Read predictions.parquet."""
    try:
        return pq.read_table(path)
    except (ValueError, OSError) as error:  # pyarrow's are ValueErrors
        raise ValueError(f"{path} cannot be read ({error}): {AGAIN}.") from None


def _probe(name: str, rows: Dataset, features: np.ndarray, pooling: str) -> dict[str, Any] | None:
    """The language probe on features of rows; None where no probe is possible."""
    try:
        found = probe_languages(features, rows["language"][:], groups=rows["id"][:])
    except ValueError as error:  # a single language, or one with a single row: everything else can be measured
        logger.warning("No language probe on %s text: %s", name, error)
        return None
    return found.to_dict() | {"pooling": pooling, "layer": -1, "C": 1.0}


def measure_predictions(
    predictions: pa.Table, test: Dataset, plan: JointDistribution, weights: np.ndarray | None
) -> dict[str, Any]:
    """METRICS["test"] of results.json.

    Args:
        predictions: as in predictions.parquet.
        test: the rows that they are of.
        plan: counts of the skewed training data, which reliance and skew transfer compare with.
        weights: float[L, C], class weights of the training; None is the plain loss.
    """
    joined = join_by_id(predictions, test["id"], test["language"], test["label"])
    logits = np.array(joined["logits"].to_pylist(), dtype=np.float64)
    return evaluate_predictions(
        joined["language"],
        joined["label"],
        joined["prediction"],
        softmax(logits, axis=1),
        plan=plan,
        weights=weights,
        groups=joined["id"],
    )


def explain(store: Path, load: Load, rows: Dataset, text_columns: Sequence[str], max_length: int | None) -> None:
    """Token attributions of a trained model's probabilities on rows with texts, written to a store."""
    _put_aside(store, len(rows))
    trained = load()
    attribute(trained.model, trained.tokenizer, rows, out=store, text_columns=text_columns, max_length=max_length)


def _put_aside(store: Path, rows: int) -> None:
    """Rename the store of a sample of another size to NAME.N-rows, and restore the one of this size if it exists."""
    manifest = store / "manifest.json"
    if PartialState().is_main_process and manifest.is_file():
        number = read_json(manifest, AGAIN).get("examples")
        if number != rows:
            store.rename(store.with_name(f"{store.name}.{number}-rows"))
            before = store.with_name(f"{store.name}.{rows}-rows")
            if before.is_dir():
                before.rename(store)
    PartialState().wait_for_everyone()
