"""Language-identification probe: how well a linear model identifies the language from a model's features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_langimb.console import bar
from hf_langimb.counts.columns import encode_columns
from hf_langimb.measures import PROTOCOLS
from hf_langimb.measures.intervals import Floats, student

ATTEMPTS = 10  # to draw folds that leave every language among the rows to fit

Ints = NDArray[np.int64]
Split = tuple[Ints, Ints]  # rows to fit, rows to test


@dataclass(frozen=True)
class ProbeResult:
    """What a cross-validated probe found."""

    accuracy: float  # share of rows whose language is identified, each by a probe that has not seen its fold
    chance: float  # accuracy of always naming the most frequent language
    control: float  # mean accuracy of the same probe on shuffled languages; near `chance` where the protocol is sound
    control_interval: tuple[float, float]  # where that accuracy lies in 99% of shuffles
    bits_below_chance: float  # entropy of the languages less the probe's cross-entropy: what the features reveal
    confidence: float  # mean probability that the probe gives to the language it names
    rows: int
    folds: int
    languages: tuple[str, ...]  # the axis of `confusion`
    confusion: Ints  # [L, L], rows: true language, columns: identified
    converged: bool  # whether every fold's solver did

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the keys of results.json's `probe`."""
        return {name: np.asarray(value).tolist() for name, value in vars(self).items()}


def probe_languages(
    features: Any,
    languages: Any,
    *,
    groups: Any = None,
    C: float = 1.0,
    folds: int = 5,
    seed: int = 0,
    shuffles: int = 10,
) -> ProbeResult:
    """Cross-validated accuracy of a logistic regression that reads the language off frozen features.

    Args:
        features: float[N, H], or float[1, N, H] as `extract_features` gives for one layer.
        languages: N entries.
        groups: N entries, rows of one group stay in one fold (translations of one item); None folds single rows.
        C: inverse strength of the regularization (scikit-learn's default 1; the authors' code used 1e-4).
        folds: fewer where a language has fewer rows (or groups) or would be missing where the probe is fitted.
        seed: of the folds and of the shuffled control.
        shuffles: of the languages for the control, 2 or more.

    Raises:
        ValueError: fewer than two languages, a language with a single row or group, lengths that differ, or a number
            out of its range.
    """
    table = np.asarray(features, dtype=np.float64)
    table = table[0] if table.ndim == 3 and len(table) == 1 else table
    encoded = encode_columns(language=languages, **({} if groups is None else {"group": groups}))
    axis, target = encoded[0]
    group_ids = np.arange(len(target)) if groups is None else encoded[1][1]
    apart = np.bincount(np.unique(np.stack([target, group_ids]), axis=1)[0])  # groups of each language
    problem, splits = None, []
    if not C > 0 or folds < 2 or shuffles < 2:
        found = f"C={C}, folds={folds}, shuffles={shuffles}"
        problem = f"C must be above 0, folds and shuffles must be 2 or more, got {found}."
    elif len(axis) < 2 or apart.min() < 2:
        single = ", ".join(axis[i] for i in np.flatnonzero(apart < 2))
        found = f"only {', '.join(axis)}" if len(axis) < 2 else f"only one of {single}"
        needs = f"at least two languages with two {'rows' if groups is None else 'groups of rows'} each"
        problem = f"A language probe needs {needs}, got {found}: add rows, or leave such languages out."
    elif table.ndim != 2 or len(table) != len(target):
        problem = f"Expected features of shape [{len(target)}, H] for {len(target)} languages, got {list(table.shape)}."
    elif not np.isfinite(table).all():
        problem = "Features contain NaN or infinity: probe a model with finite weights."
    elif not (splits := _splits(target.tobytes(), group_ids.tobytes(), int(min(folds, apart.min())), seed)):
        problem = "No split into folds has every language in each training part: add more groups of rows."
    if problem:
        raise ValueError(problem)
    from threadpoolctl import threadpool_limits

    rng, controls = np.random.default_rng(seed), []
    table = np.hstack([table, np.ones((len(table), 1))])
    fits = bar(description="Probing", total=len(splits) * (1 + shuffles), unit="fit")
    with fits, threadpool_limits(1):  # threads wait for each other at every step, up to 15 times as long as one
        probabilities, converged = _out_of_fold(table, target, splits, C, fits)
        for _ in range(shuffles):
            shuffled = target.copy()
            for _, rows in splits:  # within folds, which keep their languages in proportion
                shuffled[rows] = rng.permutation(target[rows])
            named = _out_of_fold(table, shuffled, splits, C, fits)[0].argmax(axis=1)
            controls.append(float((named == shuffled).mean()))
    control = float(np.mean(controls))  # its interval: rows err together, a binomial one over rows is too narrow
    half = student(shuffles, 0.99) * float(np.std(controls, ddof=1)) * math.sqrt(1 + 1 / shuffles)
    identified = probabilities.argmax(axis=1)
    shares = np.bincount(target) / len(target)
    bits = np.log2(np.maximum(probabilities[np.arange(len(target)), target], np.finfo(np.float64).tiny))
    return ProbeResult(
        accuracy=float((identified == target).mean()),
        chance=float(shares.max()),
        control=control,
        control_interval=(max(control - half, 0.0), min(control + half, 1.0)),
        bits_below_chance=float(bits.mean() - (shares * np.log2(shares)).sum()),
        confidence=float(probabilities.max(axis=1).mean()),
        rows=len(target),
        folds=len(splits),
        languages=axis,
        confusion=np.bincount(target * len(axis) + identified, minlength=len(axis) ** 2).reshape(len(axis), -1),
        converged=converged,
    )


@lru_cache(maxsize=4)  # all models of a run are probed on the same rows
def _splits(target_bytes: bytes, group_bytes: bytes, folds: int, seed: int) -> list[Split]:
    """(rows to fit, rows to test) of as many folds as leave every language among the rows to fit, else none.

    Languages are in proportion, rows of one group in one fold. Takes int64 arrays as bytes, which can be cached.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    target, groups = (np.frombuffer(given, dtype=np.int64) for given in (target_bytes, group_bytes))
    kind = StratifiedGroupKFold if len(np.unique(groups)) < len(groups) else StratifiedKFold
    languages = len(np.unique(target))
    for number, attempt in itertools.product(range(folds, 1, -1), range(ATTEMPTS)):
        splitter = kind(number, shuffle=True, random_state=seed + attempt)
        splits = list(splitter.split(target, target, groups if kind is StratifiedGroupKFold else None))
        if all(len(np.unique(target[train])) == languages for train, _ in splits):
            return splits
    return []


def _out_of_fold(table: Floats, target: Ints, splits: list[Split], C: float, fits: Any) -> tuple[Floats, bool]:
    """Probabilities float64[N, L] of each row by a probe fitted on the other folds, and whether all fits converged."""
    from scipy.special import softmax

    scores, converged = np.zeros((int(target.max()) + 1, len(target))), True
    for train, test in splits:
        weights, complete = _fit(table[train], target[train], C)
        scores[-len(weights) :, test] = weights @ table[test].T
        converged &= complete
        fits.update()
    return softmax(scores, axis=0).T, converged


def _fit(table: Floats, target: Ints, C: float) -> tuple[Floats, bool]:
    """Weights [L, H + 1] of a logistic regression on features and a last column of ones, and whether it converged.

    Of two languages only the second has weights. Loss, optimizer and stopping rule are those of scikit-learn's
    `LogisticRegression`, which takes half as long again; the last column is not regularized.
    """
    from scipy.optimize import minimize

    named = np.equal.outer(np.arange(target.max() + 1), target).astype(np.float64)
    free = len(named) if len(named) > 2 else 1
    penalty = np.append(np.full(table.shape[1] - 1, 1 / C), 0.0)
    scores, differences = np.zeros_like(named), np.empty_like(named)

    def loss(flat: Floats) -> tuple[float, Floats]:
        """Regularized cross-entropy and its gradient; [L, N] throughout, as numpy is fast along the last axis."""
        weights = flat.reshape(free, -1)
        np.matmul(weights, table.T, out=scores[-free:])
        np.subtract(scores, scores.max(axis=0), out=differences)
        value = 0.5 * np.vdot(weights * penalty, weights) - np.vdot(named, differences)
        totals = np.exp(differences, out=differences).sum(axis=0)
        np.subtract(np.divide(differences, totals, out=differences), named, out=differences)
        gradient = differences[-free:] @ table + weights * penalty
        return (value + np.log(totals).sum()) / len(table), gradient.ravel() / len(table)

    options = {"maxiter": 100, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(np.float64).eps}
    found = minimize(loss, np.zeros(free * table.shape[1]), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(free, -1), bool(found.success)


def probe_model(
    name: str,
    dataset: Any,
    *,
    text_columns: Sequence[str],
    protocol: str = "text",
    pooling: str | None = None,
    layers: Sequence[int] | None = (-1,),
    aligned: bool = False,
) -> dict[str, Any] | None:
    """Probe a checkpoint on text: features, then one probe per layer.

    Args:
        name: Hub id or folder of any encoder, classifier or adapter.
        dataset: the text columns, `language`, and `id` (equal ids stay in one fold), as `DataSpec.texts` gives them.
        text_columns: one column, or two for a pair.
        protocol: `text`, as the paper describes it: the first token's state, C = 1, the pair as a pair; `code`, as its
            authors' code does it: C = 1e-4, the pooler for BERT, only the first text.
        pooling, layers: see `extract_features`; None takes the protocol's pooling, and all layers.
        aligned: also compare translations, rows of equal `id` (see `measures.alignment.translations`).

    Returns:
        JSON-ready: the settings and, for each layer, the fields of `ProbeResult`; with `aligned` also `alignment`; None
        in all processes but the main.

    Raises:
        ValueError: no such model, a pooler that the checkpoint does not have, too few languages or rows.
    """
    from accelerate import PartialState

    from hf_langimb.data.rows import arrow_columns
    from hf_langimb.measures.alignment import translations
    from hf_langimb.measures.forward import extract_features
    from hf_langimb.models.inputs import reads
    from hf_langimb.models.loading import load_trained

    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}.")
    trained = load_trained(name, encoder=True)
    model, tokenizer, state = trained.model, trained.tokenizer, PartialState()
    code = protocol == "code"
    pooling = pooling or ("pooler" if code and model.config.model_type == "bert" else "cls")
    unused = ("pooler", "decoder.") if reads(model, "decoder_input_ids") else ("pooler",)
    problem, lacking = "", [one for one in trained.untrained if not any(name in one for name in unused)]
    if lacking:
        problem = f"lacks weights of its encoder, such as {lacking[0]}: choose a complete one"
    elif pooling == "pooler" and trained.untrained:
        problem = "has no trained pooler: choose pooling cls, mean or last"
    if problem:
        raise ValueError(f"The checkpoint {name!r} {problem}.")
    columns = list(text_columns[:1] if code else text_columns)
    model.to(state.device)
    features = extract_features(model, tokenizer, dataset, pooling=pooling, layers=layers, text_columns=columns)
    if not np.isfinite(features).all():
        advice = "check its weights and its type (bfloat16, float16)"
        raise ValueError(f"The model {name!r} returns hidden states that are not finite: {advice}.")
    if not state.is_main_process:
        return None
    strength = 1e-4 if code else 1.0
    numbers = ["pooler"] if pooling == "pooler" else list(range(len(features)) if layers is None else layers)
    languages, groups = arrow_columns(dataset, "language", "id")
    compared = translations(features, numbers, languages.to_pylist(), groups.to_pylist()) if aligned else None
    probes = [
        {"layer": number} | probe_languages(layer, languages, groups=groups, C=strength).to_dict()
        for number, layer in zip(numbers, bar(features, "Probing layers"), strict=True)
    ]
    settings = {"model": name, "protocol": protocol, "pooling": pooling, "C": strength, "text_columns": columns}
    return settings | {"layers": probes} | ({"alignment": compared} if compared else {})
