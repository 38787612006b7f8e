"""Rows drawn at rates of their language and label."""

import numpy as np
import pytest

from hf_langimb import JointDistribution, cell_weights
from hf_langimb.counts.distribution import mutual_information_bits
from hf_langimb.counts.drawing import draw_rates, draw_rows, stages_of

COUNTS = JointDistribution(["en", "fr", "sw"], ["a", "b"], [[900, 100], [300, 300], [10, 30]])
LANGUAGES = COUNTS.counts.sum(axis=1)


def rates_of(scheme="none", **options):
    return draw_rates(COUNTS, cell_weights(COUNTS, scheme), **options)


@pytest.mark.parametrize("scheme", ["none", "independence", "joint", "per_language"])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.3}, {"temperature": 0.0, "most": 5}, {"share": ("fr", 0.9)}, {"share": ("sw", 0.0)}],
)
def test_rates_have_mean_one_and_draws_keep_what_the_weights_promise(scheme, options):
    rates = rates_of(scheme, **options)
    draws = COUNTS.counts * rates
    assert (rates >= 0).all()
    assert draws.sum() == pytest.approx(1640)
    if scheme != "none" and "most" not in options:
        assert mutual_information_bits(draws) == pytest.approx(0, abs=1e-12)


def test_languages_by_temperature_and_schedule():
    assert rates_of() == pytest.approx(1)
    assert rates_of(temperature=1) == pytest.approx(1)
    shares = (COUNTS.counts * rates_of("independence", temperature=0.5)).sum(axis=1)
    assert shares / shares.sum() == pytest.approx(np.sqrt(LANGUAGES) / np.sqrt(LANGUAGES).sum())
    shares = (COUNTS.counts * rates_of(temperature=0)).sum(axis=1)
    assert shares == pytest.approx(1640 / 3)
    shares = (COUNTS.counts * rates_of(share=("fr", 0.9))).sum(axis=1) / 1640
    assert shares == pytest.approx([0.1 * 1000 / 1040, 0.9, 0.1 * 40 / 1040])


def test_a_limit_of_repeats():
    rates = rates_of("joint", most=3)
    assert rates.max() == pytest.approx(3)
    free = rates_of("joint")
    below = rates < 3 * (1 - 1e-9)
    assert below.any()
    assert rates[below] / free[below] == pytest.approx((rates[below] / free[below])[0])
    with pytest.raises(ValueError, match=r"share of 0\.9 for sw, rows are drawn 37 times: set max_repeats"):
        rates_of(share=("sw", 0.9), most=3)
    with pytest.raises(ValueError, match="names 'de', expected one of en, fr, sw"):
        rates_of(share=("de", 0.9))
    one = JointDistribution(["en"], ["a"], [[4]])
    with pytest.raises(ValueError, match="needs rows of en and of other languages"):
        draw_rates(one, cell_weights(one, "none"), share=("en", 0.5))


@pytest.mark.parametrize("size", [1640, 100, 7])
def test_drawn_rows_have_the_sizes_of_their_rates(size):
    generator = np.random.default_rng(0)
    cells = generator.permutation(np.repeat(np.arange(6), COUNTS.counts.ravel()))
    cells[:9] = -1  # ignored
    numbers = np.bincount(cells[cells >= 0], minlength=6)
    rates = rates_of("independence", temperature=0.3)
    expected = numbers * rates.ravel() * size / (numbers * rates.ravel()).sum()
    total = np.zeros(6)
    for seed in range(200):
        rows = draw_rows(cells, rates, size, np.random.default_rng(seed))
        assert len(rows) == size
        assert (cells[rows] >= 0).all()
        drawn = np.bincount(cells[rows], minlength=6)
        assert (np.abs(drawn - expected) < 1 + 1e-6).all()
        repeats = np.bincount(rows, minlength=len(cells))
        for cell in range(6):
            assert np.ptp(repeats[cells == cell]) <= 1
        total += drawn
    assert total / 200 == pytest.approx(expected, abs=0.15)
    first, second = (draw_rows(cells, rates, size, np.random.default_rng(5)) for _ in range(2))
    assert (first == second).all()


def test_stages():
    assert stages_of("0.1_0.9", 2) == (0.1, 0.9)
    for wrong in ("", "a", "0.1_1.1", "-0.1", "0.1__0.9", "nan"):
        with pytest.raises(ValueError, match="one share from 0 to 1 per stage"):
            stages_of(wrong, 10)
    with pytest.raises(ValueError, match="has 3 stages, the training only 2 steps"):
        stages_of("0_1_0", 2)
