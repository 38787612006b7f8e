"""Attributions of the models of a run: on a given number of rows, or on batches of rows until they are precise."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from hf_langimb.console import on_main
from hf_langimb.counts.columns import encode_columns
from hf_langimb.data.flags import AUTO
from hf_langimb.files import read_json
from hf_langimb.measures.attribution import OWEN_ORDERS, SETS
from hf_langimb.measures.attribution.attribute import attribute, check_budget, with_names
from hf_langimb.measures.attribution.difference import base_values, compare_seeds, token_sums
from hf_langimb.measures.attribution.orders import FEWEST
from hf_langimb.measures.attribution.store import BATCH, FILES, MANIFEST, AttributionStore
from hf_langimb.models.inputs import longest_input
from hf_langimb.results.folder import PREDICTIONS, RunFolder
from hf_langimb.results.schema import Attributions, ExplainedRows, Widest
from hf_langimb.runs.steps import Load, MeasuredRows
from hf_langimb.runs.subsets import TEST_SEED, sample_evenly

BATCH_ROWS = 20  # of each language and label
BUDGET = 300  # forward passes per row, or more if the longest row needs them for four orders
STOPPED = 0.01  # the threshold of S of the sums that must be precise

Model = tuple[str, int]  # setup and seed
Cells = Sequence[Mapping[str, Any]]


def batches(languages: Any, labels: Any = None) -> list[np.ndarray]:
    """Row numbers, batch by batch: up to `BATCH_ROWS` of each language and label, in an order that a seed draws."""
    cells = [ids for _, ids in encode_columns(language=languages, **({} if labels is None else {"label": labels}))]
    shuffled = np.random.default_rng(TEST_SEED).permutation(len(cells[0]))
    order = shuffled[np.lexsort([of[shuffled] for of in cells])]  # by cell; within a cell as it was drawn
    begins = np.flatnonzero(np.any([np.diff(of[order], prepend=-1) for of in cells], axis=0))
    ranks = np.arange(len(order)) - np.repeat(begins, np.diff([*begins, len(order)]))
    return [np.sort(order[ranks // BATCH_ROWS == i]) for i in range(ranks.max() // BATCH_ROWS + 1)]


def until_precise(
    texts: Dataset,
    explain: Callable[[Dataset, str, int], None],
    cells: Callable[[int], Cells],
    tolerance: float,
) -> tuple[int, ExplainedRows]:
    """Explain batch after batch until all intervals over rows are narrow enough, or the rows end.

    Args:
        texts: all rows, with languages, and labels if they are known.
        explain: explains some rows, given the name of their store and the number of the first row.
        cells: entries with `intervals` of the token sums, given how many batches have been explained.
        tolerance: largest half-width of an interval over rows. Where an entry has intervals over seeds, half of their
            half-width is enough: more rows cannot reduce the noise of training.

    Returns:
        The number of batches, and `rows` of results.json.
    """
    planned = batches(*_cells_of(texts))
    used, precise, widest = 0, False, None
    for number, rows in enumerate(planned):
        explain(texts.select(rows), f"{BATCH}{number:05d}", used)
        used += len(rows)
        precise, widest = on_main(lambda: _widest(cells(number + 1), tolerance))  # noqa: B023
        if precise:
            break
    assert widest
    return number + 1, {
        "used": used,
        "available": len(texts),
        "stopped": "precise" if precise else "rows ended",
        "tolerance": tolerance,
        "widest": widest,
    }


def _widest(cells: Cells, tolerance: float) -> tuple[bool, Widest]:
    """Whether every interval over rows is narrow enough, and the widest one, of those that are not if there are any."""
    widest, precise = [], True
    for cell, name in product(cells, SETS):
        half, over_seeds = (_half_width(cell.get(kind), name) for kind in ("intervals", "seed_intervals"))
        enough = cell["examples"] > 1 and half <= max(tolerance, over_seeds / 2)  # of one row nothing is known
        precise &= enough
        found: Widest = {"language": cell["language"], "label": cell["label"], "set": name, "half_width": half}
        widest.append((not enough, half, found))
    return precise, max(widest, key=lambda one: one[:2])[2]


def _half_width(intervals: Mapping[str, Sequence[float]] | None, name: str) -> float:
    """Of an interval, 0 without it."""
    return (intervals[name][1] - intervals[name][0]) / 2 if intervals else 0.0


def explain_rows(
    model: Any, tokenizer: Any, rows: Dataset, out: str | Path, tolerance: float, **settings: Any
) -> tuple[AttributionStore, ExplainedRows]:
    """Attributions of one model on batches of rows until its token sums are precise; what is there is kept.

    Args:
        model, tokenizer, settings: as of `attribute`.
        rows: with the column language, and with label if batches shall have equally many of each.
        out: folder of the batches.
        tolerance: as of `until_precise`.

    Raises:
        ValueError: no languages, or other files in the folder; and as `attribute`.
    """
    folder, problem = Path(out), ""
    if not folder.is_dir():
        problem = "is a file: name a folder for the attributions" if folder.exists() else ""
    elif any(not path.name.startswith((".", BATCH)) for path in folder.iterdir()):
        problem = "contains files other than batches of attributions: choose another folder, or empty it"
    if problem or "language" not in rows.column_names:
        lacking = f"--rows {AUTO} needs the language of each row: give --language-column, or a number of rows."
        raise ValueError(f"{folder} {problem}." if problem else lacking)

    rows = with_names(rows, model)  # all of them: a batch may not have the labels that tell names from numbers
    if tokenizer.is_fast:  # else `attribute` refuses
        check_budget(tokenizer, rows, settings | {"max_length": longest_input(tokenizer, model)})

    def explain(texts: Dataset, batch: str, first: int) -> None:
        """The attributions of some rows."""
        attribute(model, tokenizer, texts, out=folder / batch, first_example=first, **settings)

    columns = _cells_of(rows)
    of_rows = [*zip(*columns, strict=True)]
    planned, available = batches(*columns), Counter(of_rows)

    def cells(number: int) -> Cells:
        """The intervals that must be narrow, of means in which each language and label has its own share of rows."""
        explained = [of_rows[row] for row in np.concatenate(planned[:number])]
        sampled = Counter(explained)
        weights = np.array([available[cell] / sampled[cell] for cell in explained])
        return token_sums(AttributionStore(folder, batches=number), weights=weights)

    number, used = until_precise(rows, explain, cells, tolerance)
    for surplus in sorted(folder.glob(f"{BATCH}*/"))[number:] if PartialState().is_main_process else []:
        begun = surplus / MANIFEST
        if not begun.is_file() or FILES not in read_json(begun, "remove it"):  # of a killed process that wanted more
            shutil.rmtree(surplus)
    return AttributionStore(folder, batches=number), used


def _cells_of(rows: Dataset) -> list[list[str]]:
    """Columns of the language and, if it is known, the label of each row; rows without a label are of one kind."""
    names = [name for name in ("language", "label") if name in rows.column_names]
    return [[str(value) for value in rows[name][:]] for name in names]


def explain_models(
    folder: RunFolder,
    models: Mapping[Model, Load],
    rows: MeasuredRows,
    wanted: int | str,
    tolerance: float,
    pair: tuple[str, str] | None = None,
) -> tuple[dict[Model, AttributionStore], ExplainedRows | None]:
    """Attributions of all models of a run on the same test rows; what is there is not computed again.

    Args:
        folder: with the models and their predictions.
        models: by setup and seed, what loads them.
        rows: the test rows.
        wanted: their number, equally many for each language and label (-1: all), or `AUTO`.
        tolerance: as of `until_precise`.
        pair: two setups, whose difference must be precise with `AUTO`; without them the sums of each model.

    Returns:
        The store of each model, in the main process, and with `AUTO` how many rows were used and why it stopped.
    """
    budget = max(BUDGET, FEWEST * max(map(len, rows.test["input_ids"])))  # the fewest orders of the longest must fit

    def explain(texts: Dataset, batch: str = "", first: int = 0) -> None:
        """The attributions of some rows by every model."""
        for model, load in models.items():
            trained, out = load(), folder.store(*model) / batch
            options: Any = {"text_columns": rows.text_columns, "max_length": rows.max_length, "first_example": first}
            attribute(trained.model, trained.tokenizer, texts, out=out, budget=budget, **options)

    def opened(number: int | None = None) -> dict[Model, AttributionStore]:
        """The stores, of some batches."""
        return {model: AttributionStore(folder.store(*model), batches=number) for model in models}

    def cells(number: int) -> Cells:
        """The intervals that must be narrow."""
        stores = opened(number)
        if pair:
            found = compared(folder, stores, pair, None, thresholds=(STOPPED,))
            return found["unbiased"] or found["result"]
        sums = (token_sums(store, predictions=folder.model(*model) / PREDICTIONS) for model, store in stores.items())
        return [cell for of_model in sums for cell in of_model]

    texts = None if wanted == AUTO else sample_evenly(rows.texts, int(wanted))
    for model in models:
        on_main(lambda: _put_aside(folder.store(*model), AUTO if texts is None else f"{len(texts)}-rows"))  # noqa: B023
    number, used = None, None
    if texts is None:
        number, used = until_precise(rows.texts, explain, cells, tolerance)
    else:
        explain(texts)
    return opened(number) if PartialState().is_main_process else {}, used


def compared(
    folder: RunFolder,
    stores: Mapping[Model, AttributionStore],
    pair: tuple[str, str],
    used: ExplainedRows | None,
    **options: Any,
) -> Attributions:
    """`attributions` of results.json: the difference of a pair of setups, with the predictions of the models."""
    by_setup = {of: {seed: stores[name, seed] for name, seed in stores if name == of} for of, _ in stores}
    roles = dict(zip(("other", "reference"), pair, strict=True))
    predictions = {
        role: {seed: folder.model(of, seed) / PREDICTIONS for seed in by_setup[of]} for role, of in roles.items()
    }
    found: Any = compare_seeds(*(by_setup[of] for of in pair), predictions=predictions, **options)
    found |= {"setup": pair[0], "reference": pair[1]} | ({"rows": used} if used else {})
    return found | {"base_values": {name: base_values(of) for name, of in by_setup.items()}}


def _put_aside(store: Path, kind: str) -> None:
    """Rename a store of other rows to NAME.KIND, and restore the one of this kind if there is one."""
    found, before = _kind(store), store.with_name(f"{store.name}.{kind}")
    if found is None and not any(path.is_file() and not path.name.startswith(".") for path in store.rglob("*")):
        shutil.rmtree(store, ignore_errors=True)  # a killed process had only begun it
    elif found not in (None, kind):
        aside = store.with_name(f"{store.name}.{found}")
        if aside.exists():  # by an earlier version, which did not name the method
            aside.rename(store.with_name(f"{store.name}.{_kind(aside)}"))
        store.rename(aside)
    if _kind(before) == kind and not store.exists():
        before.rename(store)


def _kind(store: Path) -> str | None:
    """Which rows were explained, and by which method if it is not that of recipes; None without a store."""
    first = next(iter(sorted(store.glob(f"{BATCH}*"))), store)
    if not (first / MANIFEST).is_file():
        return None
    manifest = read_json(first / MANIFEST, f"remove {store} and run the recipe again")
    entries = manifest if isinstance(manifest, dict) else {}
    rows = AUTO if first != store else f"{entries.get('examples')}-rows"
    return rows if entries.get("method", OWEN_ORDERS) == OWEN_ORDERS else f"{rows}-{entries['method']}"
