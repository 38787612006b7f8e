"""Plans of subsets: cell sizes from shares, and rows from cell sizes."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hf_langimb import JointDistribution, allocate, draw
from hf_langimb.counts.distribution import mutual_information_bits
from hf_langimb.counts.sampling import joint_shares, keep_one_language_per_item, skewed_shares

NLI = np.array([[1 / 6, 1 / 3, 1 / 2], [1 / 2, 1 / 3, 1 / 6]])  # en, fr: of the paper, each language sums to 1
STARS = np.array([1, 2, 3, 4, 5]) / 15
AMAZON = np.array([STARS[::-1]] * 2 + [STARS] * 3 + [STARS[::-1]])
UNIFORM = np.full((2, 3), 1 / 6)


def source(counts, seed=0):
    """Shuffled columns of languages and labels with the given counts."""
    counts = np.asarray(counts)
    cells = np.random.default_rng(seed).permutation(np.repeat(np.arange(counts.size), counts.ravel()))
    languages, labels = np.divmod(cells, counts.shape[1])
    return np.array(["en", "fr", "sw"])[languages], labels


def counted(languages, labels, rows):
    return JointDistribution.from_columns(languages[rows], labels[rows]).counts.tolist()


def random_plan(seed):
    """Rows available and whole-number proportions of a plan, some of them 0."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 6, size=2)
    proportions = rng.integers(0, 7, size=shape)
    proportions.flat[0] += 1
    return rng.integers(0, 10 ** rng.integers(1, 6), size=shape), proportions


def test_shares_are_joint_or_per_language_and_bad_ones_refused():
    assert joint_shares(NLI) == pytest.approx(NLI / 2)
    assert joint_shares(NLI / 2) == pytest.approx(NLI / 2)
    uneven = np.array([[0.5, 0.1, 0.1], [0.1, 0.1, 0.1]])
    assert joint_shares(uneven) == pytest.approx(uneven), "a joint table may give languages different sizes"
    assert joint_shares([[0.25, 0.75]]) == pytest.approx(np.array([[0.25, 0.75]]))
    available = np.full((2, 3), 900)
    assert allocate(available, NLI).tolist() == allocate(available, NLI / 2).tolist()
    for shares, message in (
        ([[0.5, 0.33, 0.17], [0.17, 0.33, 0.49]], "sums 1, 0.99: write exact fractions"),
        ([[0.5, 0.5], [0.5, 0.6]], "must sum to 1 for every language, .*got the sums 1, 1.1"),
        ([[0.2, 0.2], [0.2, 0.2]], "sums 0.4, 0.4"),
        ([[1.5, -0.5], [0.5, 0.5]], "must be 0 or more, got -0.5"),
        ([0.5, 0.5], r"must be a table, languages x labels, got the shape \(2,\)"),
        ([[np.nan, 0.5], [0.5, 0.5]], "must be 0 or more, got nan"),
        ([[0.25, 0.25, 0.5]], "1 languages x 3 labels, the source 2 x 2: give one share"),
    ):
        with pytest.raises(ValueError, match=message):
            allocate([[9, 9], [9, 9]], shares)


def test_largest_sizes_of_the_paper():
    for available, shares, size in (
        ([[130_899, 130_900, 130_903]] * 2, NLI, 523_596),  # XNLI, train and test
        ([[1_670] * 3] * 2, NLI, 6_680),
        ([[40_000] * 5] * 6, AMAZON, 720_000),
    ):
        counts = allocate(available, shares)
        assert counts.dtype == np.int64
        assert counts.sum() == size
        assert counts == pytest.approx(joint_shares(shares) * size, abs=1)


@pytest.mark.parametrize("seed", range(40))
def test_largest_size_is_the_largest_and_smaller_ones_round_by_less_than_a_row(seed):
    """In exact fractions: at that size no cell's share exceeds its rows; with one row more, some cell's does."""
    available, proportions = random_plan(seed)
    total = int(proportions.sum())
    shares = proportions / total
    largest = int(allocate(available, shares).sum())

    def fits(size):
        cells = zip(proportions.ravel(), available.ravel(), strict=True)
        return all(Fraction(int(share) * size, total) <= rows for share, rows in cells)

    assert fits(largest)
    assert not fits(largest + 1)
    for size in np.unique(np.linspace(0, largest, 200).astype(int)):
        counts = allocate(available, shares, int(size))
        assert counts.sum() == size
        assert (np.abs(counts - shares * size) < 1).all()
        assert (counts <= available).all()
        assert (counts[proportions == 0] == 0).all()


def test_largest_remainders_are_rounded_up_first_cell_first():
    plenty = np.full((2, 3), 100)
    assert allocate(plenty, NLI, 12).tolist() == [[1, 2, 3], [3, 2, 1]]
    assert allocate(plenty, NLI, 13).tolist() == [[1, 2, 4], [3, 2, 1]]  # 3.25 twice
    assert allocate(plenty, UNIFORM, 8).tolist() == [[2, 2, 1], [1, 1, 1]]  # 1.33 six times
    assert allocate(plenty, UNIFORM, 0).tolist() == [[0, 0, 0], [0, 0, 0]]
    # Ties do not hang on how a fraction is written.
    plenty, shares = np.full((2, 3), 1000), np.array([[4, 1, 1], [2, 3, 1]]) / 12
    last_digit_off = shares.copy()
    last_digit_off[1] = np.nextafter(shares[1], 1)
    for size in range(200):
        assert allocate(plenty, last_digit_off, size).tolist() == allocate(plenty, shares, size).tolist()


def test_plans_that_do_not_fit_say_which_cells_and_what_fits():
    with pytest.raises(ValueError, match="larger than the source") as error:
        allocate([[10, 20, 30], [30, 20, 1_200]], NLI, 2_400)
    message = str(error.value)
    assert "A plan of 2,400 rows" in message
    assert "language 0, label 0: needs 200, has 10; " in message
    assert "language 1, label 2" not in message
    assert message.endswith("Every size up to 120 fits.")
    assert allocate([[10, 20, 30], [30, 20, 1_200]], NLI).sum() == 120
    quarters = np.full((2, 2), 0.25)
    for available, size, found in (
        ([[9, 9], [9, 9]], -4, r"-4\.$"),
        ([[9, -1], [9, 9]], None, "-1 "),
        (quarters, None, "0.25 "),
    ):
        with pytest.raises(ValueError, match=f"whole numbers of 0 or more, got {found}"):
            allocate(available, quarters, size)


def test_draw_takes_exactly_the_cells_asked_for_of_columns_of_any_make():
    languages, labels = source([[30, 40, 50], [60, 20, 10]])
    counts = [[30, 0, 7], [1, 20, 9]]
    rows = draw(languages, labels, counts, seed=0)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all(), "ascending, no repeats"
    assert counted(languages, labels, rows) == counts
    for make in (list, pd.Series, pa.array, lambda column: pa.array(column).dictionary_encode()):
        assert (draw(make(languages), make(labels), counts, seed=0) == rows).all()


def test_every_row_of_a_cell_is_drawn_equally_often():
    languages, labels = source([[8, 4], [4, 4]])
    times = np.zeros(20)
    for seed in range(600):
        times[draw(languages, labels, [[2, 1], [1, 1]], seed=seed)] += 1
    assert times == pytest.approx(np.full(20, 150), abs=45)  # 4 standard deviations


def test_draws_follow_the_seed_and_are_nested_and_independent_of_other_cells():
    languages, labels = source([[40] * 3] * 2)
    draws = [draw(languages, labels, [[20] * 3] * 2, seed=seed).tolist() for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({tuple(rows) for rows in draws}) == 3
    plans = [[[3, 0, 9], [1, 2, 3]], [[3, 8, 20], [5, 2, 3]], [[40] * 3] * 2]
    drawn = [set(draw(languages, labels, counts, seed=3).tolist()) for counts in plans]
    assert drawn[0] < drawn[1] < drawn[2] == set(range(240))
    cell = (languages == "fr") & (labels == 1)  # drawn alike whatever the others are asked for
    few, many = (draw(languages, labels, counts, seed=0) for counts in ([[0] * 3, [0, 9, 0]], [[40] * 3, [7, 9, 30]]))
    assert few.tolist() == many[cell[many]].tolist()
    before = draw(languages, labels, [[9] * 3] * 2, seed=0)  # rows appended to the source do not reorder the others
    more = draw(np.append(languages, ["sw"] * 5), np.append(labels, [0] * 5), [*[[9] * 3] * 2, [0] * 3], seed=0)
    assert more.tolist() == before.tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_plans_of_one_seed_share_as_many_rows_as_they_can(seed):
    languages, labels = source([[1_200] * 3] * 2)
    skewed = allocate([[1_200] * 3] * 2, NLI)
    balanced = allocate([[1_200] * 3] * 2, UNIFORM, int(skewed.sum()))
    assert skewed.sum() == balanced.sum() == 4_800
    rows = [set(draw(languages, labels, counts, seed=seed)) for counts in (skewed, balanced)]
    assert len(rows[0] & rows[1]) == np.minimum(skewed, balanced).sum() == 4_800 * 5 // 6
    other = set(draw(languages, labels, balanced, seed=seed + 10))
    assert len(rows[0] & other) < 4_800 * 0.7, "chance alone shares two thirds"


def test_marginals_stay_uniform_while_the_joint_is_skewed():
    languages, labels = source([[300] * 3] * 2)
    rows = draw(languages, labels, allocate([[300] * 3] * 2, NLI), seed=0)
    subset = JointDistribution.from_columns(languages[rows], labels[rows])
    assert subset.counts.sum(axis=0).tolist() == [400] * 3
    assert subset.counts.sum(axis=1).tolist() == [600] * 2
    assert subset.mutual_information_bits == pytest.approx(0.125815, abs=1e-6)


def test_bad_draws():
    for labels, counts, message in (
        ([0, 1, 0, 1], [[1, 1], [1, 2]], r"Cell \(fr, 1\) needs 2 rows, the source has 1"),
        ([0, 1, 0, 1], [[1, 1]], r"2 languages and 2 labels, .*got shape \(1, 2\)"),
        ([0, 1, 0, 1], [[1, 1], [1, -1]], "whole numbers of 0 or more, got -1"),
        ([0, 1, 0, 1], [[0.25, 0.25]] * 2, "got 0.25.*hf_langimb.allocate"),
        ([0, 1, 0], [[1, 1], [1, 1]], "found 4 in the language column, 3 in the label"),
        ([0], [[1], [1]], "found 4 in the language column, 1 in the label"),
        ([0, 1, 0, None], [[1, 1], [1, 1]], "label column is empty in 1 of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(["en", "en", "fr", "fr"], labels, counts, seed=0)


def test_no_item_is_kept_in_two_languages():
    order = np.random.default_rng(0).permutation(120)  # forty items in three languages, shuffled
    languages, items = np.repeat(["en", "fr", "sw"], 40)[order], np.tile(np.arange(40), 3)[order]
    names = np.array([f"item {item}" for item in items])
    calls = (items, 0), (items, 0), (names, 0), (items, 1)
    rows, again, named, other = (keep_one_language_per_item(languages, column, seed=seed) for column, seed in calls)
    assert (np.diff(rows) > 0).all()
    assert sorted(items[rows]) == list(range(40)), "every item once"
    assert sorted(int((languages[rows] == language).sum()) for language in ("en", "fr", "sw")) == [13, 13, 14]
    assert (rows == again).all()
    assert len(named) == 40
    assert rows.tolist() != other.tolist()
    with pytest.raises(ValueError, match="found 120 in the language column, 1 in the item"):
        keep_one_language_per_item(languages, items[:1], seed=0)
    with pytest.raises(ValueError, match="item column is empty in 120 of"):
        keep_one_language_per_item(languages, [None] * 120, seed=0)


def test_a_transposed_table_of_shares_is_filled_like_any_other():
    counts = np.array([[5, 1, 2], [1, 5, 2]])
    expected = allocate(counts, counts / counts.sum(), 11)
    assert expected.sum() == 11
    assert (allocate(np.asfortranarray(counts), np.asfortranarray(counts / counts.sum()), 11) == expected).all()


@pytest.mark.parametrize(("ratio", "bits"), [(1, 0), (2, 0.04), (5, 0.20), (20, 0.51), (100, 0.77)])
def test_skewed_shares_have_the_ratio_and_the_mutual_information(ratio, bits):
    shares = skewed_shares(ratio, 20, 5)
    assert shares.shape == (20, 5)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares.max(axis=1) / shares.min(axis=1), ratio)
    np.testing.assert_allclose(shares[1::2], shares[::2, ::-1])  # reversed in the other half
    np.testing.assert_allclose(joint_shares(shares).sum(axis=0)[0], joint_shares(shares).sum(axis=0)[-1])
    assert mutual_information_bits(joint_shares(shares)) == pytest.approx(bits, abs=0.005)


@pytest.mark.parametrize("wrong", [(0.5, 2, 2), (float("nan"), 2, 2), (2, 1, 5), (2, 5, 1)])
def test_skewed_shares_refuse_what_cannot_be_skewed(wrong):
    with pytest.raises(ValueError, match="Skewed shares need a ratio of 1 or more"):
        skewed_shares(*wrong)
