"""Test rows weighted to a target joint, what dependence is by chance, its intervals, and the measures under each."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hf_langimb import JointDistribution, evaluate_predictions
from hf_langimb.counts.audit import holm
from hf_langimb.counts.distribution import mutual_information_bits
from hf_langimb.counts.weighting import effective_ratio
from hf_langimb.measures.chance import language_tests, null_tables, permutation_p, permutations, strata
from hf_langimb.measures.dependence import language_shifts, sampled, target_measures
from hf_langimb.measures.targets import TARGETS, excess, information, row_weights, transfer, weighted

TABLES = arrays(np.int64, (3, 4), elements=st.integers(1, 50))


@settings(max_examples=50, deadline=None)
@given(TABLES)
def test_weights_give_the_joint_of_the_target(counts):
    rows = counts.sum()
    for target in TARGETS:
        weights = row_weights(counts, target)
        assert (weights * counts).sum() == pytest.approx(rows)
        joint = weights * counts / rows
        if target == "natural":
            assert weights == pytest.approx(1)
        elif target == "independent":
            assert joint == pytest.approx(np.outer(counts.sum(axis=1), counts.sum(axis=0)) / rows**2)
        else:
            assert joint == pytest.approx(1 / counts.size)
        assert effective_ratio(counts, weights) == pytest.approx(
            np.repeat(weights, counts.ravel()).sum() ** 2 / (rows * (np.repeat(weights, counts.ravel()) ** 2).sum())
        )


def rows_of(cells):
    """Columns of rows with the given confusion counts [L, C, C]."""
    languages, labels, predictions = np.nonzero(cells)
    repeats = cells[languages, labels, predictions]
    names = np.array([f"l{i:02}" for i in range(len(cells))])
    return [np.repeat(values, repeats) for values in (names[languages], labels, predictions)]


def noisy(counts, right=0.7, seed=0, lean=0.0):
    """Confusion counts of a model that knows the label with a probability, and leans to a label in each language."""
    rng, classes = np.random.default_rng(seed), counts.shape[1]
    cells = np.zeros((*counts.shape, classes), dtype=np.int64)
    for i, j in np.ndindex(counts.shape):
        of = right * np.eye(classes)[j] + (1 - right) * ((1 - lean) / classes + lean * np.eye(classes)[i % classes])
        cells[i, j] = rng.multinomial(counts[i, j], of)
    return cells


SKEWED = np.array([[400, 100, 50], [50, 300, 200], [30, 30, 240], [100, 100, 100]])


def test_a_perfect_classifier_depends_on_language_only_where_the_target_does():
    cells = SKEWED[:, :, None] * np.eye(3, dtype=np.int64)
    measures = target_measures(*rows_of(cells), plan=SKEWED, resamples=200, draws=200)
    assert measures["natural"]["dependence_bits"] == pytest.approx(mutual_information_bits(SKEWED))
    for target in ("independent", "uniform"):
        found = measures[target]
        assert found["dependence_bits"] == pytest.approx(0, abs=1e-12)
        assert found["intervals"]["dependence_bits"] == pytest.approx([0, 0], abs=1e-12)
        assert found["skew_transfer"] == pytest.approx(0, abs=1e-9)
    assert measures["natural"]["skew_transfer"] == pytest.approx(1)
    assert json.dumps(measures, allow_nan=False)
    # With an empty cell no weights make them independent: chance, and the interval, know it.
    holed = SKEWED.copy()
    holed[0, 1] = 0
    found = target_measures(*rows_of(holed[:, :, None] * np.eye(3, dtype=np.int64)), resamples=200, draws=50)
    found = found["independent"]
    assert found["dependence_bits"] > 0.03
    assert found["dependence_chance_bits"] == pytest.approx(found["dependence_bits"])
    assert found["intervals"]["dependence_bits"] == pytest.approx([0, 0], abs=1e-12)


def test_on_balanced_rows_every_target_is_the_natural_one():
    cells = noisy(np.full((2, 3), 200), lean=0.5)
    columns, plan = rows_of(cells), np.array([[3, 2, 1], [1, 2, 3]])
    quality, measures = evaluate_predictions(*columns, plan=plan), target_measures(*columns, plan=plan, draws=100)
    for found in measures.values():
        for name in ("accuracy", "macro_f1", "dependence_bits", "reliance", "skew_transfer"):
            assert found[name] == pytest.approx(quality[name], abs=1e-12)
        assert found["effective_sample_size_ratio"] == pytest.approx(1)


def test_measures_are_those_of_rows_that_are_repeated_in_proportion_to_their_weights():
    """Counts whose independent weights are whole numbers: 2 and 4 times the rows instead of weights 2 and 4 ..."""
    counts = np.array([[8, 2], [2, 8]])
    weights = row_weights(counts, "independent")
    assert weights == pytest.approx(np.array([[5 / 8, 5 / 2], [5 / 2, 5 / 8]]))
    cells = np.array([[[6, 2], [1, 1]], [[2, 0], [3, 5]]])
    repeated = (cells * (8 * weights[..., None])).round().astype(np.int64)
    expected, found = (
        evaluate_predictions(*rows_of(repeated)),
        evaluate_predictions(*rows_of(cells), target="independent"),
    )
    for name in ("accuracy", "macro_f1", "dependence_bits", "dependence_given_label_bits", "worst_cell_accuracy"):
        assert found[name] == pytest.approx(expected[name]), name
    assert found["predicted"] == cells.sum(axis=1).tolist()
    with pytest.raises(ValueError, match="Unknown target 'even': choose one of natural, independent, uniform"):
        evaluate_predictions(*rows_of(cells), target="even")


def test_skew_transfer_uses_the_languages_that_have_all_labels_weighted_by_their_rows():
    plan = np.array([[0.7, 0.3], [0.3, 0.7], [0.5, 0.5]])
    table = np.array([[66.0, 34], [10, 30], [20, 20]])
    rows = table.sum(axis=1)
    shares, mass = table / rows[:, None], (rows / rows.sum())[:, None]
    ours, planned = shares - (mass * shares).sum(axis=0), plan - (mass * plan).sum(axis=0)
    slope = (mass * ours * planned).sum() / (mass * planned**2).sum()
    found = transfer(table, plan)
    assert found.slope == pytest.approx(slope)
    assert found.alignment == pytest.approx(slope * np.sqrt((mass * planned**2).sum() / (mass * ours**2).sum()))
    counts = np.array([[40, 60], [50, 50], [0, 80]])  # the third lacks a label
    cells = noisy(counts, lean=0.8)
    both, alone = (
        target_measures(*rows_of(cells[:number]), plan=np.array([[3, 1], [1, 3], [9, 1]])[:number], draws=10)
        for number in (3, 2)
    )
    assert both["natural"]["skew_transfer"] != pytest.approx(alone["natural"]["skew_transfer"])
    for name in ("skew_transfer", "reliance"):
        assert target_measures(*rows_of(cells[1:]), plan=[[1, 3], [9, 1]], draws=10)["uniform"][name] is None
        assert both["uniform"][name] == pytest.approx(alone["uniform"][name])
    assert both["uniform"]["left_out"] == ["l02"] and alone["uniform"]["left_out"] == []


def test_chance_is_that_of_shuffling_predictions_within_labels_or_items():
    cells = noisy(SKEWED)
    names, labels, predictions = rows_of(cells)
    languages = np.unique(names, return_inverse=True)[1]
    rng, shuffled = np.random.default_rng(1), []
    for _ in range(400):
        mixed = predictions.copy()
        for label in range(3):
            mixed[labels == label] = rng.permutation(mixed[labels == label])
        table = np.zeros_like(cells)
        np.add.at(table, (languages, labels, mixed), 1)
        shuffled.append(information(weighted(table, "independent").sum(axis=1)))
    found = target_measures(names, labels, predictions, draws=2000)["independent"]
    assert found["dependence_chance_bits"] == pytest.approx(np.mean(shuffled), rel=0.08)
    assert found["dependence_chance_high_bits"] == pytest.approx(np.quantile(shuffled, 0.975), rel=0.15)
    # Translations that are predicted alike: any other order of an item's predictions is the same table.
    items = np.repeat(np.arange(60), 4)
    of_item = np.random.default_rng(2).integers(0, 3, (2, 60))
    columns = np.tile(np.arange(4), 60), *(values[items] for values in of_item)
    assert all((of == tables[0]).all() for tables in null_tables(*columns, items, (4, 3), 20, 0) for of in tables)
    tables = np.concatenate([*null_tables(*columns, None, (4, 3), 20, 0)])
    assert len({table.tobytes() for table in tables}) > 10
    # A row that shares its item with none is exchanged within its label.
    items[:40] = 1000 + np.arange(40)
    mixed = np.concatenate([*null_tables(*columns, items, (4, 3), 20, 0)])
    assert len({table.tobytes() for table in mixed}) > 10
    assert (mixed.sum(axis=3) == tables.sum(axis=3)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "rows", "lean", "ratio"),
    [
        ((30, 5), 3000, 0.0, 1),
        ((2, 3), 800, 0.0, 1),
        ((2, 3), 800, 0.3, 1),
        ((12, 3), 2000, 0.25, 3),
        ((12, 7), 955, 0, 6),
    ],
)
def test_intervals_of_dependence_cover_whatever_the_number_of_cells(shape, rows, lean, ratio):
    """Language-blind predictions in many cells, whose plug-in information is far from 0; dependent ones; few rows."""
    rng, (count, classes) = np.random.default_rng(0), shape
    shares = np.array([ratio ** -np.linspace(0, 1, classes)[:: 1 if i % 2 else -1] for i in range(count)])
    shares /= shares.sum()
    favored = np.eye(classes)[np.arange(count) % classes][:, None]
    of = 0.7 * np.eye(classes) + 0.3 * ((1 - lean) / classes + lean * favored)
    truth, covered = float(excess(shares[..., None] * of, "independent")), 0
    for draw in range(60):
        cells = noisy(rng.multinomial(rows, shares.ravel()).reshape(shape), seed=1000 + draw, lean=lean)
        found = target_measures(*rows_of(cells), resamples=200, draws=100)["independent"]
        low, high = found["intervals"]["dependence_bits"]
        covered += low <= truth + 1e-9 and truth <= high
        shown = found["dependence_bits"] - found["dependence_chance_bits"]
        assert low - 1e-9 <= max(shown, low) and shown <= high + 1e-9
    assert covered >= 52, covered  # of 60: 57 on average; fewer in one of 1,000 cases


def test_models_on_the_same_rows_get_the_same_resamples():
    columns, groups = rows_of(noisy(SKEWED)), np.arange(SKEWED.sum()) // 2
    first, second = (sampled(*columns, plan=SKEWED, groups=groups, resamples=50) for _ in range(2))
    names, labels, predictions = columns
    right = sampled(names, labels, np.where(groups % 2, labels, predictions), plan=SKEWED, groups=groups, resamples=50)
    for name in ("accuracy", "bits", "slope"):
        assert (first.resampled[name] == second.resampled[name]).all()
    paired = np.std(right.resampled["accuracy"] - first.resampled["accuracy"])
    assert paired < 0.8 * np.std(
        right.resampled["accuracy"] - np.random.default_rng(0).permutation(first.resampled["accuracy"])
    )
    assert first.values["bits"] == pytest.approx(float(excess(noisy(SKEWED), "independent")))


def test_the_language_test_is_right_by_simulation_and_finds_a_small_language():
    rng = np.random.default_rng(0)
    counts = np.full((20, 3), 40)
    p = []
    for seed in range(60):
        names, labels, predictions = rows_of(noisy(counts, seed=seed))
        languages = np.unique(names, return_inverse=True)[1]
        p += language_tests(languages, labels, predictions, None, (20, 3))[2].tolist()
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    cells = noisy(counts)
    cells[7] = noisy(np.full((1, 3), 40), right=0.2, lean=1.0)[0]
    found = language_shifts(*rows_of(cells))
    assert [name for name, of in found.items() if of["p"] < 0.05] == ["l07"]
    assert found["l07"]["total_variation"] > 0.4
    alike = [of["total_variation"] for of in language_shifts(*rows_of(noisy(counts))).values()]
    assert np.median(alike) < 0.03  # shrunk: half of what chance alone gives
    for name, of in found.items():
        assert sum(of["expected"]) == pytest.approx(120), name
    # Items: translations that are all predicted alike could not differ.
    items = np.repeat(np.arange(50), 20)
    alike = rng.integers(0, 3, (2, 50))[:, items]
    assert np.isnan(language_tests(np.tile(np.arange(20), 50), *alike, items, (20, 3))[2]).all()


def test_holm_and_permutations():
    assert holm(np.array([0.01, np.nan, 0.04, 0.03])) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert len(permutations(4, 0)) == 23
    assert len(permutations(8, 0)) == 2000
    assert permutation_p(1.0, np.array([0.5, 1.0, 2.0])) == 0.75
    # A plan whose languages are followed exactly, and one that is not.
    plan = np.array([[6, 2, 1], [1, 6, 2], [2, 1, 6], [5, 3, 1], [1, 3, 5]]) * 20
    half = np.array([[6, 2, 1], [1, 2, 6]] * 3) * 20
    columns = rows_of(noisy(np.full((6, 3), 60), right=0.3, lean=0.8))
    assert target_measures(*columns, plan=half, draws=10)["independent"]["skew_permutation_p"] is None
    follows = target_measures(*rows_of(noisy(np.full((5, 3), 60), right=0.3, lean=0.8)), plan=plan, draws=10)
    assert follows["independent"]["skew_permutation_p"] < 0.05
    assert follows["independent"]["skew_alignment"] > 0.6
    ignores = target_measures(*rows_of(noisy(np.full((5, 3), 60))), plan=plan, draws=10)
    assert ignores["independent"]["skew_permutation_p"] > 0.05


def test_a_plan_with_axes_and_a_language_that_only_the_test_has():
    plan = JointDistribution(["en", "fr"], [0, 1], [[30, 10], [10, 30]])
    names = np.repeat(["en", "fr", "xx"], 40)
    labels = np.tile([0, 1], 60)
    predictions = np.where(names == "en", 0, np.where(names == "fr", 1, labels))
    found = target_measures(names, labels, predictions, plan=plan, draws=50)["independent"]
    assert found["skew_transfer"] == pytest.approx(2)  # of en and fr
    assert found["majority_accuracy"] == 0.5


def test_ids_of_one_language_are_no_translations():
    languages, labels = np.repeat([0, 1], 6), np.tile([0, 1, 1], 4)
    users, items = np.arange(12) // 3, np.tile(np.arange(6), 2)
    np.testing.assert_array_equal(strata(languages, labels, users, 2), labels)
    shared = strata(languages, labels, items, 2)
    assert (shared >= 2).all() and len({*shared.tolist()}) == 6


def test_a_balanced_test_set_is_reversed_by_the_training_data():
    counts, training = np.full((3, 2), 10), np.array([[0.3, 0.1], [0.1, 0.3], [0.2, 0.0]])
    weights = row_weights(counts, "reversed", training)
    expected = np.outer(training.sum(axis=1), training.sum(axis=0))
    ratio = np.divide(
        expected, training, out=np.full((3, 2), (expected / np.maximum(training, 0.1)).max()), where=training > 0
    )
    assert weights == pytest.approx(ratio / ratio.mean())
    natural = np.array([[30, 10], [10, 30]])
    assert row_weights(natural, "reversed") == pytest.approx(row_weights(natural, "reversed", natural / 80))
    names, labels, predictions = rows_of(np.array([[[8, 2], [2, 8]], [[8, 2], [2, 8]]]))
    found = evaluate_predictions(names, labels, predictions, plan=[[0.4, 0.1], [0.1, 0.4]], target="reversed")
    assert found["accuracy"] == pytest.approx(0.8)


@pytest.mark.parametrize("shape", [(2, 3, 1000), (12, 3, 3000)])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_dependence_of_the_threshold_is_rarely_called_a_yes(shape, parallel, monkeypatch):
    """The rule in small; tests/benchmarks/verdict_rule.py has it in full."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    rule = import_module("verdict_rule")
    found = rule.measure(*shape, True, parallel, True, rule.MATERIAL_BITS, 60, 200, np.random.default_rng(0))
    assert found["dependence"] >= rule.MATERIAL_BITS - 1e-9
    assert found["yes"] <= 8 / 60  # at most 3.5% is the aim: more in one of 2,000 samples of 60
    assert found["coverage"] >= 50 / 60
