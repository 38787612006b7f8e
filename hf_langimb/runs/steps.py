"""The steps of one trained model: train -> predict and probe. Attributions follow in `explaining`.

Each step writes its output to the run folder and is skipped if the output exists.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset
from scipy.special import softmax
from transformers import PrinterCallback, set_seed

from hf_langimb.console import on_main
from hf_langimb.counts.columns import encode_columns
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.sampling import draw
from hf_langimb.data.rows import arrow_columns
from hf_langimb.files import AGAIN, is_done, read_json, record, replacing, write_json
from hf_langimb.measures.attribution.fingerprints import hash_model, hash_rows
from hf_langimb.measures.attribution.masked import base_of_rows
from hf_langimb.measures.attribution.regression import FINGERPRINTS
from hf_langimb.measures.dependence import Sampled, language_shifts, sampled, target_measures
from hf_langimb.measures.forward import extract_features, forward_rows, usual_pooling
from hf_langimb.measures.predictions import evaluate_predictions, join_by_id
from hf_langimb.measures.probe import probe_languages
from hf_langimb.measures.targets import REVERSED
from hf_langimb.models.axes import read_axes
from hf_langimb.models.loading import Trained, load_trained, new_classifier
from hf_langimb.results.folder import PREDICTIONS, PROBE, VALIDATION
from hf_langimb.results.schema import SCHEMA_VERSION, Explained, Results
from hf_langimb.results.summary import compare, summarize
from hf_langimb.runs.checkpoints import facts_of, train_into
from hf_langimb.training.arguments import LangImbTrainingArguments
from hf_langimb.training.trainer import LangImbTrainer

logger = logging.getLogger(__name__)

BATCH_SIZE = 64  # rows in a forward pass at most, as in `extract_features`: the same features to the last bit
PROBED = 1_000_000  # rows times languages of a probe at most: one or two minutes for each model
PREDICTED = ["id", "language", "label", "prediction", "logits"]  # columns of the predictions
Load = Callable[[], Trained]


class Diverged(ValueError):
    """A model gives logits that are not finite.

    Args:
        place: its folder, in that of its setup.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.place = place

    def __str__(self) -> str:
        return (
            f"The model in {self.place} gives logits that are not finite: has its training diverged? Set a lower "
            "learning_rate, or leave this setup out."
        )


@dataclass(frozen=True)
class MeasuredRows:
    """What every model of a run is measured on.

    Args:
        test: tokenized rows with `id`, `language` and `label`.
        texts: the same rows, with their texts.
        external: tokenized rows with `id` and `language` for the probe, or None.
        text_columns, max_length: of `texts`.
        skewed: int64[L, C], the training counts that reliance and skew transfer compare with; None takes those of each
            model's own training data, or even ones where they are not known.
        extra: tokenized rows of further test sets by name; None takes `test`, skewed the other way than training.
        based: whether the logits of masked rows are computed, with which attributions begin.
    """

    test: Dataset
    texts: Dataset
    external: Dataset | None
    text_columns: Sequence[str]
    max_length: int | None
    skewed: np.ndarray | None = None
    extra: Mapping[str, Dataset | None] = field(default_factory=dict)
    based: bool = True


def loader(place: Path, shown: str | None = None) -> Load:
    """A function that loads a trained model to the device of this process, once; `shown` as of `load_trained`."""

    @cache
    def load() -> Trained:
        """The model, tokenizer and axes, the same at each call."""
        trained = load_trained(place, shown=shown)
        trained.model.to(PartialState().device)
        return trained

    return load


def train(
    arguments: LangImbTrainingArguments,
    start: str,
    tokenizer: Any,
    rows: Dataset,
    validation: Dataset,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train the model `start` on tokenized rows into `arguments.output_dir`; a killed training continues where it was.

    `quiet` prints no log, for models that are trained at the same time.

    Returns:
        Facts of the training: the step that was chosen and whether another loss would have chosen another.
    """
    place = Path(arguments.output_dir)
    if (facts := facts_of(place)) is not None:
        return facts
    set_seed(arguments.seed)
    model = new_classifier(start, rows.features["label"].names)
    trainer = LangImbTrainer(model, arguments, train_dataset=rows, eval_dataset=validation, processing_class=tokenizer)
    if quiet:
        trainer.remove_callback(PrinterCallback)
    return train_into(place, trainer, _chosen_step)


def _chosen_step(state: Any) -> dict[str, Any]:
    """The evaluated step with the lowest loss of each kind: the setup's own (which chose), plain, uniform."""
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    steps = {
        kind: min(evaluated, key=lambda entry: entry[f"eval_{kind}"])["step"] if evaluated else None
        for kind in ("loss", "plain_loss", "uniform_loss")
    }
    return {"best_step": steps, "choice_would_change": len(set(steps.values())) > 1}


def measure(
    place: Path, load: Load, rows: MeasuredRows, batch_size: int, validation: Dataset | None = None
) -> tuple[dict[str, Any], dict[str, Sampled]]:
    """Measure the trained model of a folder, which gets its predictions and probes.

    Args:
        place: of the model.
        load: gives it.
        rows: that it is measured on.
        batch_size: rows in a forward pass that fit the device.
        validation: tokenized rows that a setup is chosen on.

    Returns:
        METRICS, and resampled measures on `test` and `validation` rows.
    """
    test = rows.test
    predictions, probes = _predict_and_probe(place, load, rows, batch_size)
    joined = join_by_id(predictions, test["id"], test["language"], test["label"])
    logits = np.array(joined["logits"].to_pylist(), dtype=np.float64)
    axes = read_axes(place) or {"languages": sorted(test.unique("language"))}
    if (skewed := rows.skewed) is None:
        skewed = np.array(axes.get("counts") or np.ones((len(axes["languages"]), logits.shape[1]), dtype=np.int64))
    plan = JointDistribution(tuple(axes["languages"]), tuple(range(logits.shape[1])), skewed)
    columns = {f"{name}s": joined[name] for name in ("language", "label", "prediction")}
    quality = evaluate_predictions(
        **columns,
        probabilities=softmax(logits, axis=1),
        plan=plan,
        weights=np.array(axes["weights"]) if "weights" in axes else None,
        groups=joined["id"],
    )
    for name, read in (("test", test), ("external", rows.external)):
        if probes[name] and read is not None:
            probes[name].setdefault("groups", len(pc.unique(*arrow_columns(read, "id"))))  # lacking in earlier versions
    found = {"test": quality, "targets": target_measures(**columns, plan=plan, groups=joined["id"])}
    found |= {"shift": language_shifts(**columns, plan=plan, groups=joined["id"]), "probe": probes}
    samples = {"test": sampled(**columns, plan=plan, groups=joined["id"])}
    for name, extra in rows.extra.items():
        target, of, groups = REVERSED, columns, joined["id"]
        if extra is not None:
            target, (of, groups) = "natural", _predicted(place, load, extra, batch_size)
        found.setdefault("extra", {})[name] = evaluate_predictions(**of, groups=groups, plan=plan, target=target)
    if validation is not None:
        columns, groups = _predicted(place, load, validation, batch_size, VALIDATION)
        samples["validation"] = sampled(**columns, plan=plan, groups=groups)
    return found, samples


def _predicted(
    place: Path, load: Load, rows: Dataset, batch_size: int, file: str | None = None
) -> tuple[dict[str, Any], Any]:
    """Languages, labels and predictions of rows, and their ids; in a file that is named after the rows by default."""
    file = file or f"extra-{hash_rows(rows, ['input_ids'])}.parquet"
    path = place / file
    if not on_main(lambda: is_done(place, file)):
        model, tokenizer = load().model, load().tokenizer
        logits, _ = forward_rows(model, tokenizer, rows, batch_size=min(batch_size, BATCH_SIZE))
        if PartialState().is_main_process:
            columns = rows.select_columns(PREDICTED[:3]).with_format("arrow")[:]
            columns = columns.append_column("prediction", pa.array(logits.argmax(axis=1)))
            columns = columns.append_column("logits", pa.array(list(logits), pa.list_(pa.float32())))
            with replacing(path) as part:
                pq.write_table(columns, part)
            record(place, file, [file])
        PartialState().wait_for_everyone()
    found = read_columns(path, PREDICTED[:4])
    return {f"{name}s": found[name] for name in ("language", "label", "prediction")}, found["id"]


def read_columns(path: Path, columns: list[str], advice: str = AGAIN) -> pa.Table:
    """Columns of a Parquet file; `advice` says what to do about a damaged one.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {advice}.") from None


@dataclass(frozen=True)
class Job:
    """A model to train and to measure; `chosen_on`: whether a setup is chosen on its validation rows."""

    shown: str
    arguments: Any  # LangImbTrainingArguments
    start: str
    tokenizer: Any
    subsets: tuple[Any, Any]
    measured: MeasuredRows
    chosen_on: bool


def work(job: Job, quiet: bool = False) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Facts of a training, METRICS and resampled measures; steps that are done are read. `quiet`: without a log."""
    arguments, place = job.arguments, Path(job.arguments.output_dir)
    facts = train(arguments, job.start, job.tokenizer, *job.subsets, quiet=quiet)
    chosen_on = job.subsets[1] if job.chosen_on else None
    return facts, *measure(place, loader(place), job.measured, arguments.per_device_eval_batch_size, chosen_on)


def _predict_and_probe(place: Path, load: Load, rows: MeasuredRows, batch_size: int) -> tuple[pa.Table, dict[str, Any]]:
    """Predictions on the test set, and probes on it and on external text; the test set is read once."""
    predictions, probes, test = place / PREDICTIONS, place / PROBE, rows.test
    predicted, probed = on_main(lambda: [_is_predicted(predictions), is_done(place, PROBE)])
    if not predicted or not probed:
        model, tokenizer = load().model, load().tokenizer
        pooling = usual_pooling(tokenizer)
        size = min(batch_size, BATCH_SIZE)
        logits, features = forward_rows(model, tokenizer, test, pooling=pooling, batch_size=size)
        if not np.isfinite(logits).all():
            raise Diverged(place)
        if not predicted and PartialState().is_main_process:
            columns = test.select_columns(PREDICTED[:3]).with_format("arrow")[:]
            columns = columns.append_column("prediction", pa.array(logits.argmax(axis=1)))
            masked = (model, tokenizer, rows.texts, rows.text_columns, rows.max_length)
            base = base_of_rows(*masked) if rows.based else None
            for name, values in (("logits", logits), ("base", base)):
                lists = [None] * len(test) if values is None else list(values)
                columns = columns.append_column(name, pa.array(lists, pa.list_(pa.float32())))
            marks = {"model": hash_model(model), "data": hash_rows(rows.texts, rows.text_columns)}
            marks["dtype"] = str(model.dtype).removeprefix("torch.")
            with replacing(predictions) as part:
                pq.write_table(columns.replace_schema_metadata({FINGERPRINTS: json.dumps(marks)}), part)
            record(place, PREDICTIONS, [PREDICTIONS])
        if not probed:
            found = {"test": (test, features), "external": (None, None)}
            if rows.external is not None:
                features = extract_features(model, tokenizer, rows.external, pooling=pooling)
                found["external"] = (rows.external, features)
            if PartialState().is_main_process:
                write_json(probes, {name: _probe(name, *text, pooling) for name, text in found.items()})
                record(place, PROBE, [PROBE])
        PartialState().wait_for_everyone()
    return read_columns(predictions, PREDICTED), read_json(probes, AGAIN)


def _is_predicted(path: Path) -> bool:
    """Whether a model's predictions are written, with the base values that earlier versions did not write.

    Raises:
        ValueError: the file is damaged.
    """
    return is_done(path.parent, path.name) and "base" in pq.read_schema(path).names


def _probe(name: str, rows: Dataset | None, features: np.ndarray | None, pooling: str) -> dict[str, Any] | None:
    """The language probe on features of rows; None without rows, or where no probe is possible."""
    if rows is None or features is None:
        return None
    try:
        languages, ids = arrow_columns(rows, "language", "id")
        kept, shuffles = _probed(languages)
        features, languages, ids = features[0][kept], languages.take(kept), ids.take(kept)
        found = probe_languages(features, languages, groups=ids, shuffles=shuffles)
    except ValueError as error:  # a single language, or one with a single row: everything else can be measured
        logger.warning("No language probe on %s text: %s", name, error)
        return None
    return found.to_dict() | {"groups": len(pc.unique(ids)), "pooling": pooling, "layer": -1, "C": 1.0}


def _probed(languages: pa.Array) -> tuple[np.ndarray, int]:
    """Rows to probe, all or as many of each language as its time (rows times languages) allows; shuffled controls."""
    counts = np.unique(encode_columns(language=languages)[0][1], return_counts=True)[1]
    most = int(counts.max())
    while most > 2 and np.minimum(counts, most).sum() * len(counts) > PROBED:
        most -= 1
    counts = np.minimum(counts, most)
    shuffles = 10 if counts.sum() * len(counts) <= PROBED / 10 else 3
    return draw(languages, ["any"] * len(languages), counts[:, None], seed=0), shuffles


def assemble_results(
    *, setups: Mapping[str, Any], noise_ceiling: float | None = None, explained: Explained | None = None, **parts: Any
) -> Results:
    """The content of results.json, with intervals over seeds and paired comparisons of the setups.

    `setups` is {name: {plan, settings ..., seeds: {seed: METRICS}}}; `parts` are recipe, config_name, config, flags,
    languages, labels, seeds and data.
    """
    summarized: Any = {name: {**setup, "summary": summarize(setup["seeds"])} for name, setup in setups.items()}
    results: Any = {
        "schema_version": SCHEMA_VERSION,
        **json.loads(json.dumps(parts, default=str)),
        "setups": summarized,
        "noise_ceiling": noise_ceiling,
        "comparisons": compare(summarized),
        "attributions": None,
        "explained": explained,
    }
    return results
