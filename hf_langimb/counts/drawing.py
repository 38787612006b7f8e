"""How often rows are drawn in training: a rate for each cell (language, label), and rows drawn at these rates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_langimb.counts.weighting import Counts, Floats, limited

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution


def stages_of(schedule: str, total_steps: int) -> tuple[float, ...]:
    """The shares of a schedule such as "0.1_0.9", one for each of its stages, which are equally long.

    Raises:
        ValueError: they are not shares, or there are more stages than steps.
    """
    try:
        stages = tuple(float(part) for part in schedule.split("_"))
    except ValueError:
        stages = ()
    if not stages or not all(0 <= stage <= 1 for stage in stages):
        raise ValueError(f"A schedule is one share from 0 to 1 per stage, such as 0.1_0.9, got {schedule!r}.")
    if len(stages) > total_steps:
        raise ValueError(f"The schedule {schedule} has {len(stages)} stages, the training only {total_steps} steps.")
    return stages


def draw_rates(
    distribution: JointDistribution,
    weights: Floats,
    *,
    temperature: float | None = None,
    most: float | None = None,
    share: tuple[str, float] | None = None,
) -> Floats:
    """How often a row of each cell is drawn in an epoch, on average: float64[L, C], mean 1 over the rows.

    Args:
        distribution: counts of the rows.
        weights: [L, C], to which the rates are proportional; mean 1 over the rows.
        temperature: exponent alpha of the languages' shares, 0 (all the same) to 1 (as they are).
        most: how often a row may be drawn, above 1. Higher rates are lowered to it; all others grow by one factor.
        share: a language, and its share of the draws; the others keep their proportions.

    Raises:
        ValueError: an unknown language, or a share that its rows cannot have with `most`.
    """
    counts, languages = distribution.counts, distribution.languages
    if share is not None and share[0] not in languages:
        raise ValueError(f"language_schedule names {share[0]!r}, expected one of {', '.join(languages)}.")
    totals = (counts * weights).sum(axis=1)
    wanted = totals if temperature is None else np.where(totals > 0, totals**temperature, 0.0)
    wanted = wanted / wanted.sum()
    if share is not None:
        named = np.array([language == share[0] for language in languages])
        for group, part in ((named, share[1]), (~named, 1 - share[1])):
            if part and not wanted[group].sum():
                raise ValueError(f"language_schedule needs rows of {share[0]} and of other languages.")
            wanted[group] *= part / (wanted[group].sum() or 1)
    factors = np.divide(wanted * counts.sum(), totals, out=np.zeros_like(totals), where=totals > 0)
    rates: Floats = weights * factors[:, None]
    if most is None:
        return rates
    if share is not None and (highest := float((rates * (counts > 0)).max())) > most:
        raise ValueError(
            f"With a share of {share[1]:g} for {share[0]}, rows are drawn {math.ceil(highest)} times: set max_repeats "
            "to that or more, or leave it out."
        )
    return limited(rates.ravel(), counts.ravel(), most).reshape(rates.shape)


def draw_rows(
    cells: Counts,
    rates: Floats,
    size: int,
    generator: np.random.Generator,
    before: Counts | None = None,
    most: int | None = None,
) -> Counts:
    """Rows in random order, drawn at the rates of their cells: int64[size].

    Sizes of cells are rounded at random, up or down, and the rows of a cell are all drawn equally often, up to one.

    Args:
        cells: the cell of each row, int64[N], language * C + label; below 0 for rows that are not drawn.
        rates: [L, C], draws of a row, up to one factor.
        size: number of draws.
        generator: of random numbers.
        before: how often each row was drawn before in the epoch, int64[N], which counts as well; None: not at all.
        most: how often a row may be drawn, with the draws before.
    """
    before = np.zeros(len(cells), dtype=np.int64) if before is None else before
    order = np.argsort(cells, kind="stable")
    numbers = np.bincount(cells[cells >= 0], minlength=rates.size)
    expected = numbers * rates.ravel()
    bounds = np.floor(np.cumsum(expected * (size / expected.sum())) + generator.random() + 1e-9).astype(np.int64)
    bounds[-1] = size  # whatever the rounding
    draws = np.diff(np.minimum(bounds, size), prepend=0)
    if most is not None:
        drawn_before = np.bincount(cells[cells >= 0], before[cells >= 0], minlength=rates.size)
        draws = _within(draws, most * numbers - drawn_before.astype(np.int64), rates.ravel() > 0)
    ends = np.cumsum(numbers) + int((cells < 0).sum())
    drawn = []
    for cell in np.flatnonzero(draws):
        rows, number = order[ends[cell] - numbers[cell] : ends[cell]], int(draws[cell])
        mixed = generator.permutation(rows)
        mixed = mixed[np.argsort(before[mixed], kind="stable")]
        drawn += [np.tile(rows, number // len(rows)), mixed[: number % len(rows)]]
    return generator.permutation(np.concatenate(drawn))


def _within(draws: Counts, room: Counts, drawn: Any) -> Counts:
    """Draws of cells that were rounded above their room, moved to the drawn cells that have most room left."""
    found = np.minimum(draws, room)
    for _ in range(int(draws.sum() - found.sum())):
        found[np.argmax(np.where(drawn, room - found, np.iinfo(np.int64).min))] += 1
    return found
