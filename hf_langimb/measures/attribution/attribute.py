"""Attribute the predictions on a dataset to its tokens: shards that are computed and written one by one."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from hf_langimb.console import bar
from hf_langimb.counts.columns import class_label_names
from hf_langimb.data.rows import find_text_columns
from hf_langimb.measures.attribution import BUDGET_UNITS, DTYPES, MASKINGS, METHODS, OWEN_ORDERS
from hf_langimb.measures.attribution.engine import Forward, explain, id_masker, string_masker
from hf_langimb.measures.attribution.examples import Attribution, Example, encode
from hf_langimb.measures.attribution.fingerprints import KNOWN, hash_model, hash_tokenizer, measure_rows
from hf_langimb.measures.attribution.masked import mask_id_of
from hf_langimb.measures.attribution.methods import Method, owen_values, shapley_values
from hf_langimb.measures.attribution.orders import DESIGN, FEWEST, MOST, SHARE, fewest_passes, owen_orders
from hf_langimb.measures.attribution.store import (
    SCHEMA_VERSION,
    AttributionStore,
    finish_store,
    start_store,
    working,
    write_shard,
)
from hf_langimb.models.axes import class_names, match_labels, stored_axes
from hf_langimb.models.inputs import longest_input, most_tokens, reading_whole_rows

logger = logging.getLogger(__name__)

SHARD = 256  # examples that are written together
CHOICES = {"method": METHODS, "masking": MASKINGS, "budget_unit": BUDGET_UNITS, "dtype": DTYPES}


def attribute(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    *,
    out: str | Path,
    method: str = OWEN_ORDERS,
    masking: str = "ids",
    orders: int | None = None,
    halves: int = 2,
    budget: int | None = 500,
    budget_unit: str | None = None,
    dtype: str = "float32",
    text_columns: Sequence[str] = (),
    max_length: int | None = None,
    batch_tokens: int | None = None,
    shard_size: int = SHARD,
    seed: int = 0,
    first_example: int = 0,
) -> AttributionStore:
    """Attribute the probabilities of all classes to the tokens of each row; several processes share the work.

    p(T, y) = sum of S over the tokens + base, base = p(y | every token masked) (arXiv 2402.13016, section 4.3). A
    stopped call continues where it was: shards that are written are not computed again.

    Args:
        model: any `AutoModelForSequenceClassification`, adapters included, on its device; it is not changed.
        tokenizer: its fast tokenizer.
        dataset: rows with texts; `id`, `language` and `label` are kept if the rows have them.
        out: folder of the store.
        method: `owen_orders` (Owen values, unbiased at any budget), `owen` (the values of shap's Partition explainer,
            biased where the budget cuts the tree of a long text) or `shapley` (paired KernelSHAP, with standard
            errors).
        masking: `ids` puts the mask token in a token's place; `string` masks the text and tokenizes it again, as shap
            does by default (single texts only). A tokenizer without mask token masks with "...", as shap does.
        orders: of `owen_orders`: a power of two from 4 up; more are more precise. None takes the largest of 4, 8,
            16, 32 and 64 that fits two thirds of the budget (4: all of it) and opens nodes of the tree with the rest,
            which is more precise where a few tokens decide. Where all orders need no more forward passes, all are
            taken, and the values are exact.
        halves: of `owen_orders`: 2 draws the orders as two independent halves, so that `cumulative_difference` can
            select tokens by one half, which reduces the bias of its sums; 1 draws them together, which is slightly more
            precise.
        budget: evaluations or forward passes of each example, those of the empty and the full text included; None takes
            all there are. `shapley` takes at least four per token. Not used where `orders` is given.
        budget_unit: `evaluations` as shap counts them, or `forwards`: different sequences. None takes `forwards` for
            `owen_orders`, where nothing else is possible, and `evaluations` for other methods.
        dtype: float32, float64 or bfloat16 (which moves probabilities by some thousandths, and warns).
        text_columns: one, or two for a pair; empty takes the usual names.
        max_length: in tokens; None takes the tokenizer's. Longer texts are truncated, and counted.
        batch_tokens: of a forward pass; None takes what suits the device. Halved when memory runs out.
        shard_size: examples that are computed and written together.
        seed: of the draws, and of the order of equally large effects.
        first_example: number of the first row, where the rows continue those of another store.

    Raises:
        ValueError: unknown settings, no rows or text, a row without tokens, a label that the model does not have, a
            budget that is too small for four orders of a text (the message says how large it must be), a store of
            something else in `out`, or probabilities that are not finite.
        OSError: the disk is full; shards that are written stay.
    """
    if not isinstance(dataset, Dataset) or not len(dataset):
        kind = "an empty one" if isinstance(dataset, Dataset) else type(dataset).__name__
        advice = "name one split, or convert a list of rows with Dataset.from_list"
        raise ValueError(f"Expected a datasets.Dataset with rows to explain, got {kind}: {advice}.")
    dataset = dataset.with_format(None)
    columns = find_text_columns(dataset, [text_columns] if isinstance(text_columns, str) else text_columns)
    unit = budget_unit or ("forwards" if method == OWEN_ORDERS else "evaluations")
    settings: dict[str, Any] = {"method": method, "masking": masking, "budget": budget, "budget_unit": unit}
    settings |= {"dtype": dtype, "seed": seed, "shard_size": shard_size, "max_length": max_length}
    of_method = {"orders": orders, "halves": halves}
    given = settings | of_method | {"batch_tokens": batch_tokens, "first_example": first_example}
    if problem := next(_problems(given, model, tokenizer, pair=len(columns) == 2), None):
        raise ValueError(problem)
    dataset = with_names(dataset, model)
    if method == OWEN_ORDERS:
        settings |= of_method | {"budget": None if orders else budget}
        settings["design"] = DESIGN if orders else f"{DESIGN}, {SHARE:.2f} of the budget; nodes of the tree"
    if first_example:
        settings["first_example"] = first_example
    settings["max_length"] = max_length or longest_input(tokenizer, model)
    lengths, data_hash, truncated = measure_rows(tokenizer, dataset, columns, settings["max_length"])
    if budget and (long := [row for row, length in enumerate(lengths) if length * FEWEST > budget]):
        check_budget(tokenizer, dataset, settings | {"text_columns": columns}, long)
    order = np.argsort(-np.array(lengths), kind="stable")  # neighbors of one length, the longest first
    shards = [np.sort(order[i : i + shard_size]) for i in range(0, len(order), shard_size)]
    manifest = settings | {
        "schema_version": SCHEMA_VERSION,
        "labels": class_names(model.config),
        "text_columns": columns,
        "mask_token": tokenizer.convert_ids_to_tokens(mask_id_of(tokenizer)),
        "mask_token_is_substitute": tokenizer.mask_token_id is None,
        "model": hash_model(model),
        "tokenizer": hash_tokenizer(tokenizer),
        "data": data_hash,
        "examples": len(dataset),
        "truncated_texts": truncated,
        "shards": len(shards),
    }
    _write(Path(out), manifest, shards, dataset, model, tokenizer, Forward(model, dtype, batch_tokens))
    return AttributionStore(out)


def check_budget(tokenizer: Any, dataset: Dataset, settings: Mapping[str, Any], rows: Sequence[int] = ()) -> None:
    """Refuse a budget that is too small for the fewest orders of a text, before anything is computed.

    Args:
        tokenizer, dataset: as of `attribute`.
        settings: of `attribute`; its defaults where they lack one.
        rows: numbers of those that may be too long; empty: all.
    """
    budget, worst, numbers = settings.get("budget", 500), (0, 0, 0), rows or range(len(dataset))
    if settings.get("method", OWEN_ORDERS) != OWEN_ORDERS or settings.get("orders") or not budget:
        return
    columns = find_text_columns(dataset, settings.get("text_columns") or ())
    encoded = (
        encode(tokenizer, [some[column] for column in columns], first=first, max_length=settings["max_length"])
        for first, some in zip(count(step=1000), dataset.select(numbers).iter(1000))
    )
    for row, example in zip(numbers, chain.from_iterable(encoded), strict=True):
        if len(example) * FEWEST > budget:
            draws = (settings.get("seed", 0), zlib.crc32(example.ids.tobytes()))
            needed = fewest_passes(example.tree(), settings.get("halves", 2), example.content, draws)
            worst = max(worst, (needed, example.content.bit_count(), row))
    if worst[0] > budget:
        needed, tokens, row = worst
        raise ValueError(
            f"Row {row}, a text of {tokens} tokens, needs {needed} forward passes for the minimum of {FEWEST} orders, "
            f"but the budget is {budget}: raise it to {needed} or more, set orders={FEWEST}, or shorten the texts "
            "(max_length)."
        )


def with_names(dataset: Dataset, model: Any) -> Dataset:
    """Rows with the names of languages, ids and labels in place of their numbers."""
    for column in {"language", "id"} & {*dataset.column_names}:
        if classes := class_label_names(dataset, column):
            named = [None if value is None else classes[value] for value in dataset[column]]
            dataset = dataset.remove_columns(column).add_column(column, named)
    if "label" in dataset.column_names:
        labels = match_labels(dataset, class_names(model.config), stored_axes(model))
        dataset = dataset.remove_columns("label").add_column("label", labels)
    return dataset


def _write(
    out: Path, manifest: dict[str, Any], shards: list[Any], rows: Dataset, model: Any, tokenizer: Any, forward: Forward
) -> None:
    """Compute and write the shards that are not there, given the rows of each; `model` stays in its modes."""
    with working(out):
        mine = start_store(out, manifest)
        if PartialState().is_main_process:
            _warn(manifest)
        modes = {module: module.training for module in model.modules()}
        forward.model.eval()  # the model, or its copy
        try:
            progress = bar(description="Explaining", total=sum(len(shards[i]) for i in mine), unit="row")
            with progress, reading_whole_rows(forward.model):
                for i in mine:
                    found = _explained(rows.select(shards[i]), shards[i], tokenizer, manifest, forward, progress)
                    write_shard(out, i, *found)
        finally:
            for module, training in modes.items():
                module.training = training
        finish_store(out, manifest)


def _warn(manifest: dict[str, Any]) -> None:
    """Report what makes these attributions differ from others."""
    if truncated := manifest["truncated_texts"]:
        logger.warning("%s of %s texts exceed the maximum length and were truncated.", truncated, manifest["examples"])
    if manifest["dtype"] == "bfloat16":
        logger.warning("bfloat16 changes probabilities by a few thousandths: compare only with other bfloat16 runs.")
    if manifest["mask_token_is_substitute"]:
        logger.warning("This tokenizer has no mask token: %r is used instead.", manifest["mask_token"])


def _explained(
    chosen: Dataset, rows: Any, tokenizer: Any, settings: dict[str, Any], forward: Forward, progress: Any
) -> tuple[list[Example], list[Attribution], dict[str, list[Any]]]:
    """The examples of some rows, their attributions and their columns `example`, `id`, `language` and `label`."""

    def method(example: Example) -> Method:
        """The method at work on an example."""
        budget, seed, content = settings["budget"], settings["seed"], example.content
        if settings["method"] == "owen":
            forwards = settings["budget_unit"] == "forwards"
            return owen_values(example.tree(), budget=budget, maskable=content, count_forwards=forwards, seed=seed)
        draws = (seed, zlib.crc32(example.ids.tobytes()))  # differ between texts: errors do not add up
        if settings["method"] == OWEN_ORDERS:
            of_orders = {name: settings[name] for name in ("orders", "halves", "budget")}
            return owen_orders(example.tree(), maskable=content, seed=draws, **of_orders)
        players = [i for i in range(len(example)) if content >> i & 1]
        return shapley_values(players, len(example), budget=budget, seed=draws)

    mask_id: Any = mask_id_of(tokenizer)
    texts, max_length = [chosen[column][:] for column in settings["text_columns"]], settings["max_length"]
    examples = encode(tokenizer, texts, max_length=max_length)
    ordered = sorted(examples, key=len, reverse=True)
    mask = id_masker(mask_id) if settings["masking"] == "ids" else string_masker(tokenizer, texts[0], max_length)
    found: dict[int, Attribution] = {}
    for example, result in explain(ordered, map(method, ordered), mask, forward):
        found[example.index] = result
        progress.update()
    known: dict[str, list[Any]] = {"example": (rows + settings.get("first_example", 0)).tolist()}
    for name in KNOWN:
        given = chosen[name][:] if name in chosen.column_names else [None] * len(chosen)
        known[name] = [None if value is None else str(value) for value in given]
    return examples, [found[i] for i in range(len(examples))], known


def _problems(settings: dict[str, Any], model: Any, tokenizer: Any, *, pair: bool) -> Iterator[str]:
    """What is wrong with the settings, the model or its tokenizer, as messages."""
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        yield f"Attributions need a fast tokenizer, which knows where in the text a token is, got {kind}."
        return
    for name, known in CHOICES.items():
        if settings[name] not in known:
            yield f"Unknown {name} {settings[name]!r}: choose one of {', '.join(known)}."
    method, orders = settings["method"], settings["orders"]
    if method != "owen" and settings["budget_unit"] != ("forwards" if method == OWEN_ORDERS else "evaluations"):
        yield f"budget_unit={settings['budget_unit']!r} is not for method={method!r}: leave it out."
    if orders is not None and method != OWEN_ORDERS:
        yield f"orders are for method={OWEN_ORDERS!r} only, got method={method!r}: leave them out."
    elif orders is not None and not (type(orders) is int and 4 <= orders <= MOST and orders.bit_count() == 1):
        yield f"orders must be a power of two from 4 up (at most {MOST}), or None, got {orders!r}."
    if type(settings["halves"]) is not int or settings["halves"] not in (1, 2):
        yield f"halves must be 1 or 2, got {settings['halves']!r}."
    if settings["masking"] == "string" and pair:
        yield "masking='string' would merge the two texts of a pair: use masking='ids', or one text column."
    least = tokenizer.num_special_tokens_to_add(pair) + 1
    most = most_tokens(model) or math.inf
    for name, low, high, words in (
        ("shard_size", 1, math.inf, "1 or more"),
        ("seed", 0, math.inf, "0 or more"),
        ("budget", 4, math.inf, f"4 {settings['budget_unit']} or more, or None"),
        ("batch_tokens", 1, math.inf, "1 or more, or None"),
        ("first_example", 0, math.inf, "0 or more"),
        ("max_length", least, most, f"{least} tokens or more, up to {most}, or None".replace(", up to inf", "")),
    ):
        value = settings[name]
        if not (type(value) is int and low <= value <= high) and not (value is None and "None" in words):
            yield f"{name} must be {words}, got {value!r}."
    if mask_id_of(tokenizer) is None:
        yield "This tokenizer has no mask token, and no token for '...' either: set tokenizer.mask_token."
    config = model.config
    names, regression = class_names(config), config.problem_type == "regression"
    if regression or len({*names}) < len(names) or "None" in names:
        found = "a regression (problem_type)" if regression else f"id2label {config.id2label}"
        yield f"Attributions need a classifier with a distinct name for each class, got {found}."
