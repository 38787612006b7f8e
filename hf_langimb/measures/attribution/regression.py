"""Means over all rows that a model has predicted, from attributions of a sample of them: regression on predictions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.measures.intervals import Floats

FINGERPRINTS = "langimb"  # in the metadata of the file: {"model": ..., "data": ..., "dtype": of the model}
CLOSE = {"float32": 0.005, "float64": 0.005}  # how much p may differ between predictions and attributions, by type
ROUGHLY = 0.05  # by any other type
ROWS_A_COLUMN = 5  # with fewer rows per coefficient the weighted mean is taken
LARGEST_LEVERAGE = 0.95

Predictions = str | Path | Any  # the last: a pyarrow table
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Population:
    """All rows that several models have predicted, and how many of them each explained row stands for.

    Args:
        weights: float64[n], for each explained row: all rows of its language and label / explained rows of them.
        languages: int64[N], the position of each row's language; None without predictions.
        ends: float64[models, N, C, 2], base value and probability.
    """

    weights: Floats
    languages: Ints | None = None
    ends: Floats | None = None


def population(given: Sequence[Predictions], stores: Sequence[AttributionStore], names: Sequence[str]) -> Population:
    """The predictions of the models of `stores`, of which the explained rows are a sample.

    Args:
        given: predictions.parquet of each store's model, as a path or table.
        stores: attributions of the same rows.
        names: languages in the order of their positions.

    Raises:
        ValueError: predictions without base values, of another model, or of other rows.
    """
    tables: list[pa.Table] = []
    data, keys = set(), None
    for source, store in zip(given, stores, strict=True):
        name, problem = "the table" if isinstance(source, pa.Table) else f"{source!s:.80}", ""
        try:
            table = source if isinstance(source, pa.Table) else pq.read_table(Path(source))
        except (TypeError, OSError, pa.ArrowException):
            raise ValueError(
                f"Predictions do not fit: {name} is no predictions.parquet: name one, or a table."
            ) from None
        found = json.loads((table.schema.metadata or {}).get(FINGERPRINTS.encode(), b"{}"))
        data.add(found.get("data"))
        lacking = {"id", "language", "label", "logits", "base"} - {*table.column_names}
        if lacking - {"base"}:
            problem = f"lacks {', '.join(sorted(lacking))}: name the predictions.parquet of a run"
        elif lacking or not found or table["base"].null_count:
            problem = "has no base values or fingerprints, as of an earlier version: run the recipe again"
        elif found.get("model") != store.manifest["model"]:
            problem = f"is of another model than the attributions in {store.folder}: name those of the same model"
        elif len(data) > 1:
            problem = "is of other rows than the other predictions: name those of the same run"
        elif tables and _keys(table, store, "id", "language", "label") != keys:
            problem = "has other rows than the other predictions, or another order: name those of the same run"
        elif not _contains(table, store, found.get("dtype")):
            problem = f"does not contain the rows of the attributions in {store.folder}: name those of the same run"
        if problem:
            raise ValueError(f"Predictions do not fit: {name} {problem}.")
        tables.append(table)
        keys = keys or _keys(table, store, "id", "language", "label")
    first, explained = tables[0], stores[0].examples
    strata = _keys(first, stores[0], "language", "label"), _keys(explained, stores[0], "language", "label")
    available, sampled = map(Counter, strata)
    places = {name: place for place, name in enumerate(names)}
    known = np.array([places.get(str(language), -1) for language in first["language"].to_pylist()], dtype=np.int64)
    ends = np.stack([_ends(table)[known >= 0] for table in tables])
    weights = np.array([available[cell] / sampled[cell] for cell in strata[1]])
    return Population(weights, known[known >= 0], ends)


def _keys(table: pa.Table, store: AttributionStore, *names: str) -> list[tuple[str, ...]]:
    """Columns of predictions or of a store, row by row, as a store has them: labels by name."""
    columns = {name: table[name].to_pylist() for name in names}
    columns["label"] = [store.labels[label] if isinstance(label, int) else label for label in columns["label"]]
    return [tuple(map(str, row)) for row in zip(*(columns[name] for name in names), strict=True)]


def _contains(table: pa.Table, store: AttributionStore, dtype: Any) -> bool:
    """Whether every explained row has been predicted, with the same probability and base value."""
    rows = defaultdict(list)
    for place, key in enumerate(_keys(table, store, "id", "language", "label")):
        rows[key].append(place)
    predicted, explained = _ends(table), np.stack([stack(store.examples[end]) for end in ("base", "p")], axis=-1)
    close = max(CLOSE.get(name, ROUGHLY) for name in (store.manifest["dtype"], dtype))
    keys = _keys(store.examples, store, "id", "language", "label")
    return predicted.shape[1] == explained.shape[1] and all(
        any(np.abs(predicted[place] - own).max() <= close for place in rows.get(key, ()))
        for key, own in zip(keys, explained, strict=True)
    )


def _ends(table: pa.Table) -> Floats:
    """float64[N, C, 2]: base value and probability."""
    from scipy.special import softmax

    base, logits = (np.array(table[name].to_pylist(), dtype=np.float64) for name in ("base", "logits"))
    return np.stack([base, softmax(logits, axis=1)], axis=-1)


@dataclass
class Regression:
    """Coefficients [C, q, K] of a weighted regression, and the influence [C, n, K] of each row on its estimate."""

    estimate: Floats  # [C, K], at the mean of all rows
    coefficients: Floats
    influence: Floats


def regress(values: Floats, known: Floats, means: Floats, weights: Floats) -> Regression:
    """Estimate means over all rows from values of some of them.

    A least-squares regression on what is known of all rows, evaluated at its mean. The influences are those of
    leave-one-out residuals: the sum of their squares is the variance of the estimate over samples (HC3).

    Args:
        values: float64[C, n, K] of the sampled rows.
        known: float64[C, n, q], the regressors of the sampled rows.
        means: float64[C, q], their means over all rows.
        weights: float64[n], how many rows each sampled row stands for.
    """
    root = np.sqrt(weights)[:, None]
    solution = np.linalg.pinv(known * root) * root.T
    coefficients = solution @ values
    leverage = np.einsum("cnq,cqn->cn", known, solution)
    left_out = (values - known @ coefficients) / (1 - np.minimum(leverage, LARGEST_LEVERAGE))[..., None]
    influence = np.einsum("cq,cqn->cn", means, solution)[..., None] * left_out
    return Regression(np.einsum("cq,cqk->ck", means, coefficients), coefficients, influence)


def regressors(effects: Floats, selection: int, differences: Sequence[tuple[int, int]]) -> Floats:
    """[C, n, q]: 1, a, and x and a x for each difference of two models.

    a = p - b of the model that selects the tokens, x = p - b of one model minus that of another.
    """
    chosen = effects[selection]
    moved = [effects[one] - effects[other] for one, other in differences]
    columns = [np.ones_like(chosen), chosen, *moved, *(chosen * one for one in moved)]
    return np.moveaxis(np.stack(columns, axis=-1), 1, 0)


def of_stores(given: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[Any] | None:
    """The predictions for the stores of each role, in their order; `wanted` {role: None or seeds}.

    Raises:
        ValueError: predictions of a role or seed are missing, or there are others.
    """
    if given is None:
        return None
    found: list[Any] = []
    for role, seeds in wanted.items():
        of_role = given.get(role) if isinstance(given, Mapping) else given
        fits = isinstance(given, Mapping) and of_role is not None
        if not fits or (seeds and not (isinstance(of_role, Mapping) and {*seeds} <= {*of_role})):
            what = f" of the seeds {list(seeds)}" if seeds else ""
            raise ValueError(f"predictions need an entry {role!r}{what}, got {of_role!r:.80}.")
        found += [of_role[seed] for seed in seeds] if seeds and isinstance(of_role, Mapping) else [of_role]
    if unknown := {*given} - {*wanted}:
        raise ValueError(f"predictions have unknown entries {sorted(unknown)}: expected {', '.join(wanted)}.")
    return found
