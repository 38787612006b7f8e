"""The cumulative difference of two models' attributions, by language and label (arXiv 2402.13016, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.attribution.store import AttributionStore, stack

THRESHOLDS = (0.001, 0.01, 0.05)
PARTS = ("positive", "neutral", "negative", "base_difference", "probability_difference")
SETTINGS = ("tokenizer", "data", "labels", "method", "masking", "budget", "budget_unit", "mask_token")


def cumulative_difference(
    other: AttributionStore | str | Path,
    reference: AttributionStore | str | Path,
    *,
    selection: AttributionStore | str | Path | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Sum over tokens of S_other - S_reference, by the sign of the token, averaged over the examples of a language.

    A token is positive for a label where its S in `selection` is above the threshold, negative where it is below minus
    the threshold, else neutral. In each row positive + neutral + negative is the difference of the probabilities less
    that of the base values.

    Selecting by the reference and subtracting it regresses to the mean: even two equal models show that positive tokens
    fall and negative ones rise. Call it three times, with models of three seeds: the result (other, A), the control
    (B, A), and (other, B, selection=A), which is free of that: result - control.

    Args:
        other, reference: stores of two models on the same data.
        selection: the store that says which tokens are positive; None takes the reference.
        thresholds: of S, in probability.
        resamples: of the bootstrap over examples; 0 leaves the intervals out (null).
        seed: of the bootstrap.

    Returns:
        JSON-ready, one entry for each threshold, language and label: `positive`, `neutral`, `negative`,
        `base_difference` and `probability_difference`; `intervals`, 95 % percentile bootstrap intervals of these over
        examples, which do not know the noise of training; `token_shares` of the three sets; `examples`.

    Raises:
        ValueError: stores of other data, tokenizers or settings, or data without languages.
    """
    chosen = reference if selection is None else selection
    stores = [
        store if isinstance(store, AttributionStore) else AttributionStore(store)
        for store in (other, reference, chosen)
    ]
    _require_alike(stores)
    first = stores[0]
    starts = np.flatnonzero(np.diff(first.tokens["example"].to_numpy(), prepend=-1))
    ours, theirs, signs = (stack(store.tokens["S"]).astype(np.float64) for store in stores)
    moved = ours - theirs  # [tokens, C]
    base, full = (
        stack(stores[0].examples[name]).astype(np.float64) - stack(stores[1].examples[name]) for name in ("base", "p")
    )
    languages = np.array(first.examples["language"].to_pylist(), dtype=object)
    if any(language is None for language in languages):
        raise ValueError("Attributions by language need a column language in the data; explain them again with one.")
    rows = {language: np.flatnonzero(languages == language) for language in sorted(set(languages))}
    sizes = np.diff(np.append(starts, len(moved)))
    entries = []
    for threshold in thresholds:
        sets = (signs > threshold, np.abs(signs) <= threshold, signs < -threshold)
        sums = [np.add.reduceat(np.where(chosen, moved, 0.0), starts) for chosen in sets]  # [N, C] each
        counts = [np.add.reduceat(chosen, starts) for chosen in sets]
        parts = np.stack([*sums, base, full], axis=-1)  # [N, C, 5]
        for language, of_language in rows.items():
            means = parts[of_language].mean(axis=0)
            bounds = _bootstrap(parts[of_language], resamples, seed) if resamples else None
            tokens = sizes[of_language].sum()
            for i, label in enumerate(first.labels):
                shares = (float(count[of_language, i].sum() / tokens) for count in counts)
                entries.append(
                    {"threshold": threshold, "language": language, "label": label}
                    | dict(zip(PARTS, means[i].tolist(), strict=True))
                    | {
                        "intervals": None if bounds is None else dict(zip(PARTS, bounds[:, i].T.tolist(), strict=True)),
                        "token_shares": dict(zip(PARTS[:3], shares, strict=True)),
                        "examples": len(of_language),
                    }
                )
    return entries


def _bootstrap(parts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """95 % percentile intervals [2, C, 5] of the means over examples."""
    rng = np.random.default_rng(seed)
    number = len(parts)
    flat = parts.reshape(number, -1)
    copies = (rng.multinomial(number, np.full(number, 1 / number)) for _ in range(resamples))
    means = np.stack([times @ flat / number for times in copies])
    return np.quantile(means, (0.025, 0.975), axis=0).reshape(2, *parts.shape[1:])


def _require_alike(stores: Sequence[AttributionStore]) -> None:
    first = stores[0]
    for store in stores[1:]:
        for name in SETTINGS:
            ours, theirs = first.manifest[name], store.manifest[name]
            if ours != theirs:
                raise ValueError(
                    f"{first.folder} and {store.folder} cannot be compared: {name} is {ours!r} in one and {theirs!r} "
                    "in the other. Explain the same rows with the same settings."
                )
