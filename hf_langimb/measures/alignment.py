"""How close the states of the same texts in two languages are: cosine, retrieval and CKA, with chance levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOGETHER = 2048  # states that are compared with all others at a time


def alignment(first: Any, second: Any, *, shift: int = 1) -> dict[str, float]:
    """Compare N states with those of the same texts in another language; NAME_chance is the chance level of a measure.

    A chance level is the same measure with the states of another text, `shift` rows further.

    Args:
        first, second: float[N, H], in the same order.
        shift: rows of a text, so that states at the same position are compared.

    Returns:
        cosine: mean cosine of a state and its counterpart; also high if all states resemble each other.
        retrieval: share of states whose nearest state (by cosine) in the other language is its counterpart, both ways.
        cka: linear centered kernel alignment (Kornblith et al. 2019), 1 where one is a scaled rotation of the other.
            Untrained models of clones are far above chance, too: equal tokens have equal states in each language.

    Raises:
        ValueError: shapes that differ, or fewer than two rows.
    """
    one, two = (np.asarray(states, dtype=np.float64) for states in (first, second))
    if one.shape != two.shape or one.ndim != 2 or len(one) < 2:
        raise ValueError(f"Expected two tables of the same shape with two rows or more, got {one.shape}, {two.shape}.")
    units, others = unit_rows(one), unit_rows(two)
    closest, back = _nearest(units, others), _nearest(others, units)
    found = {}
    for name, moved in {"": 0, "_chance": shift}.items():
        own = (np.arange(len(one)) + moved) % len(one)  # the counterpart of each state
        nearest = (closest == own).mean() + (back[own] == np.arange(len(one))).mean()
        found[f"cosine{name}"] = float((units * others[own]).sum(axis=1).mean())
        found[f"retrieval{name}"] = float(nearest / 2)
        found[f"cka{name}"] = linear_cka(one, two[own])
    return found


def translations(features: Any, layers: Sequence[Any], languages: Any, ids: Any) -> dict[str, Any]:
    """Alignment of the states of translations in each language with those in the language that has most of them.

    Args:
        features: float[layers, N, H].
        layers: numbers of the layers.
        languages, ids: of the rows; translations of one text share an id; None: no translation.

    Returns:
        reference: the language that others are compared with; languages: {language: texts in common with it}; layers:
        for each layer its number, {language: measures of `alignment`}, and their mean over languages.

    Raises:
        ValueError: no language has two texts in common with another.
    """
    places: dict[str, dict[Any, int]] = {}
    for row, (language, one) in enumerate(zip(languages, ids, strict=True)):
        if one is not None:
            places.setdefault(str(language), {}).setdefault(one, row)
    reference = min(places, key=lambda language: (-len(places[language]), language), default="")
    pairs = {}
    for language in sorted(places.keys() - {reference}):
        common = [one for one in places[reference] if one in places[language]]
        if len(common) > 1:
            pairs[language] = [[places[of][one] for one in common] for of in (reference, language)]
    if not pairs:
        raise ValueError(
            "No two languages have two texts in common: name the column that translations share with --id-column."
        )
    found = []
    for number, states in zip(layers, features, strict=True):
        measures = {language: alignment(states[one], states[two]) for language, (one, two) in pairs.items()}
        mean = {key: float(np.mean([of[key] for of in measures.values()])) for key in next(iter(measures.values()))}
        found.append({"layer": number, "languages": measures, "mean": mean})
    return {"reference": reference, "languages": {name: len(of[0]) for name, of in pairs.items()}, "layers": found}


def unit_rows(states: Any) -> Any:
    """Rows of a table, each divided by its length; rows of zeros stay as they are."""
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)


def _nearest(one: Floats, two: Floats) -> NDArray[np.int64]:
    """For each row of the first table, the row of the second one with the largest product, some rows at a time."""
    parts = (one[start : start + TOGETHER] @ two.T for start in range(0, len(one), TOGETHER))
    return np.concatenate([part.argmax(axis=1) for part in parts])


def linear_cka(first: Floats, second: Floats) -> float:
    """Linear centered kernel alignment of two tables with the same rows; 0 where one does not vary."""
    one, two = first - first.mean(axis=0), second - second.mean(axis=0)
    if any(np.linalg.norm(of) <= 1e-10 * np.linalg.norm(all_of) for of, all_of in ((one, first), (two, second))):
        return 0.0  # what is left is rounding
    return float(np.linalg.norm(one.T @ two) ** 2 / (np.linalg.norm(one.T @ one) * np.linalg.norm(two.T @ two)))
