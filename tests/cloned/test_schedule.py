"""The language of each window is a pure function of seed, step and row."""

import math

import numpy as np
import pytest

from hf_langimb import window_language
from hf_langimb.cloned.schedule import all_languages, expected_shares


def test_each_window_has_the_language_of_its_place_alone():
    table = all_languages("0.1_0.9", rows=8, total_steps=20, seed=3, languages=4)
    for step, row in np.ndindex(table.shape):
        options = {"step": step, "row": row, "total_steps": 20, "seed": 3, "languages": 4}
        assert window_language("0.1_0.9", **options) == table[step, row]


@pytest.mark.parametrize(("schedule", "languages"), [("0.1", 2), ("0.5", 2), ("0.9", 10), ("0.1_0.9", 2), ("0.3", 32)])
def test_shares_are_those_of_the_schedule_within_sampling_error(schedule, languages):
    table = all_languages(schedule, rows=64, total_steps=2000, languages=languages)
    for half, part in enumerate(np.array_split(table, 2)):
        stage = float(schedule.split("_")[half if "_" in schedule else 0])
        shares = np.bincount(part.ravel(), minlength=languages) / part.size
        for share, expected in zip(shares, [1 - stage, *[stage / (languages - 1)] * (languages - 1)], strict=True):
            assert abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / part.size)
    assert expected_shares(schedule, 2000, languages).sum() == pytest.approx(1)


def test_neighbors_seeds_steps_and_rows_are_independent():
    one, two = (all_languages("0.5", rows=64, total_steps=1000, seed=seed) - 0.5 for seed in (0, 1))
    pairs = [(one, two), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one[1:, 1:], one[:-1, :-1])]
    assert all(abs(np.mean(a * b)) * 4 < 4.5 / math.sqrt(a.size) for a, b in pairs)


def test_stages_are_equal_parts_and_certain_probabilities_are_kept():
    table = all_languages("0_1_0", rows=4, total_steps=9)
    assert table.tolist() == [[0] * 4] * 3 + [[1] * 4] * 3 + [[0] * 4] * 3
    assert not all_languages("0", rows=4, total_steps=3, languages=1).any()


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("0.1_1.9", {}, "one share from 0 to 1 per stage"),
        ("-0.1", {}, "one share from 0 to 1 per stage"),
        ("nan", {}, "one share from 0 to 1 per stage"),
        ("often", {}, "one share from 0 to 1 per stage"),
        ("", {}, "one share from 0 to 1 per stage"),
        ("0.1_0.9_0.1", {"total_steps": 2}, "3 stages, the training only 2 steps"),
        ("0.1", {"languages": 1}, "must be 0, got '0.1'"),
        ("0.1", {"step": 10}, "from 0 to 9"),
        ("0.1", {"row": -1}, "a row from 0"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        window_language(schedule, **{"step": 0, "row": 0, "total_steps": 10, **options})
