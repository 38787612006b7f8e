"""The language of each training window: a pure function of seed, optimizer step and row.

It does not depend on how a step's rows are divided among processes and accumulated batches, on prefetching, or on
where training was resumed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_langimb.counts.drawing import stages_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def window_language(schedule: str, *, step: int, row: int, total_steps: int, seed: int = 0, languages: int = 2) -> int:
    """The language of one training window.

    Args:
        schedule: probability that a window is not in language 0, for equal stages of the training: "0.1_0.9". Such
            a window is in each of the other languages with the same probability.
        step: of the optimizer, from 0.
        row: of the window among all windows of the step.
        total_steps: of the training.
        seed: of the assignment.
        languages: number of languages.

    Raises:
        ValueError: a schedule that is not probabilities, or has more stages than there are steps; a step that the
            training does not have.
    """
    if not (0 <= step < total_steps and row >= 0):
        raise ValueError(f"Expected a step from 0 to {total_steps - 1} and a row from 0, got {step} and {row}.")
    probability = probabilities(schedule, total_steps, languages)[step]
    return int(_languages(probability, seed, np.int64(step), np.int64(row), languages))


def all_languages(schedule: str, *, rows: int, total_steps: int, seed: int = 0, languages: int = 2) -> Ints:
    """The language of every window of a training, int64[total_steps, rows]; see `window_language`."""
    steps = np.arange(total_steps)[:, None]
    return _languages(probabilities(schedule, total_steps, languages)[:, None], seed, steps, np.arange(rows), languages)


def expected_shares(schedule: str, total_steps: int, languages: int = 2) -> Floats:
    """The expected share of the windows of each language in a whole training, float64[K]."""
    other = float(probabilities(schedule, total_steps, languages).mean())
    return np.array([1 - other, *[other / max(languages - 1, 1)] * (languages - 1)])


def _languages(probability: Any, seed: int, steps: Any, rows: Any, languages: int) -> Ints:
    """The languages of windows, by a uniform number of each: below the probability, it also chooses among others."""
    mixed = _mix(_mix(_mix(np.int64(seed)) ^ _mix(steps)) ^ rows.astype(np.uint64))
    drawn = (mixed >> np.uint64(11)) * 2.0**-53
    with np.errstate(divide="ignore", invalid="ignore"):
        others = np.where(drawn < probability, 1 + drawn / probability * (languages - 1), 0)
    return np.minimum(others.astype(np.int64), languages - 1)  # the quotient may round to 1


def _mix(numbers: Any) -> Any:
    """SplitMix64 (Steele, Lea, Flood 2014): numbers -> uint64 that look independent."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(numbers).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=8)
def probabilities(schedule: str, total_steps: int, languages: int) -> Floats:
    """The probability of each step of a schedule, checked: float64[total_steps]."""
    if languages < 1:
        raise ValueError(f"Expected one language or more, got {languages}.")
    stages = stages_of(schedule, total_steps)
    if languages < 2 and any(stages):
        raise ValueError(f"With one language, the schedule must be 0, got {schedule!r}.")
    steps = np.arange(total_steps)
    return np.asarray(stages)[steps * len(stages) // total_steps]
