"""Predictions -> tables: the paper's Table 2, identities, scikit-learn as a witness, and input that does not fit."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, f1_score, mutual_info_score

from hf_langimb import JointDistribution, evaluate_predictions
from hf_langimb.measures.predictions import join_by_id

XNLI_PLAN = {"en": [1, 2, 3], "fr": [3, 2, 1]}
AMAZON_PLAN = {language: [1, 2, 3, 4, 5] for language in ("fr", "es", "ja")}
AMAZON_PLAN |= {language: [5, 4, 3, 2, 1] for language in ("de", "en", "zh")}
# Shares of predictions of imbalanced mBERT on the balanced test set (the paper's Table 2), in thousandths.
XNLI_PREDICTED = {"fr": [328, 390, 281], "en": [231, 358, 411]}
AMAZON_PREDICTED = {language: [139, 206, 201, 196, 258] for language in ("fr", "es", "ja")}
AMAZON_PREDICTED |= {language: [273, 207, 169, 204, 147] for language in ("de", "en", "zh")}


def rows_of(predicted, rows=None):
    """Languages, labels in turn, and predictions with these counts in each language, scaled to `rows` rows."""
    languages, predictions = [], []
    for language, counts in predicted.items():
        times = (rows or sum(counts)) // sum(counts)
        languages += [language] * times * sum(counts)
        predictions.append(np.repeat(np.arange(len(counts)), np.array(counts) * times))
    predictions = np.concatenate(predictions)
    return np.array(languages), np.arange(len(predictions)) % len(counts), predictions


def plan_of(table):
    languages = sorted(table)
    return JointDistribution(languages, range(len(table[languages[0]])), [table[name] for name in languages])


def test_skew_transfer_of_a_plan_whose_labels_are_uneven_overall():
    """By hand: plan shares .75/.25 and .5/.5 (mean .625/.375), predicted 1/0 and .5/.5 (mean .75/.25): slope 2."""
    for counts, labels, predictions, slope in (
        ((2, 2), [0, 1, 0, 1], [0, 0, 0, 1], 2),
        ((8, 6), [0] * 14, [0] * 6 + [1] * 2 + [0, 1] * 3, 1),
    ):
        found = evaluate_predictions(np.repeat(["a", "b"], counts), labels, predictions, plan=[[6, 2], [3, 3]])
        assert found["skew_transfer"] == pytest.approx(slope)


@pytest.fixture
def noisy():
    """600 rows in three languages, four labels; predictions are right more often than not."""
    rng = np.random.default_rng(0)
    languages, labels = np.array(["en", "fr", "ja"])[rng.integers(0, 3, 600)], rng.integers(0, 4, 600)
    return languages, labels, np.where(rng.random(600) < 0.6, labels, rng.integers(0, 4, 600))


def test_table_2_of_the_paper():
    for predicted, plan, rows, dependence, percent, transfer in (
        (XNLI_PREDICTED, XNLI_PLAN, 999_000, 0.015464, 12, 0.341),
        (AMAZON_PREDICTED, AMAZON_PLAN, 100_000, 0.028181, 16, 0.362),
    ):
        languages, labels, predictions = rows_of(predicted, rows)
        quality = evaluate_predictions(languages, labels, predictions, plan=plan_of(plan))
        assert np.unique(np.array(quality["predicted"]).sum(axis=1)).tolist() == [rows]
        assert quality["dependence_bits"] == pytest.approx(dependence, abs=5e-7)
        assert round(100 * quality["reliance"]) == percent
        assert quality["skew_transfer"] == pytest.approx(transfer, abs=5e-4)
        chance = (len(predicted) - 1) * (predictions.max()) / (2 * len(predictions) * np.log(2))
        assert quality["dependence_bits_corrected"] == pytest.approx(quality["dependence_bits"] - chance, abs=1e-12)


def test_predictions_that_copy_or_mirror_the_plan_or_do_not_depend_on_language_or_are_perfect():
    def of(**counts):
        return evaluate_predictions(*rows_of(counts), plan=plan_of(XNLI_PLAN))

    copies, independent = of(en=[10, 20, 30], fr=[30, 20, 10]), of(en=[5, 2, 3], fr=[50, 20, 30])
    for quality, dependence, transfer in ((copies, 0.125815, 1), (independent, 0, 0)):
        assert quality["dependence_bits"] == pytest.approx(dependence, abs=1e-6 if dependence else 1e-12)
        assert (quality["dependence_bits_corrected"] < 0) is (dependence == 0)
        assert quality["reliance"] == pytest.approx(transfer, abs=1e-12)
        assert quality["skew_transfer"] == pytest.approx(transfer, abs=1e-12)
    # Over-correction is negative transfer, which dependence cannot see.
    copied, mirrored = of(en=[2, 3, 4], fr=[4, 3, 2]), of(en=[4, 3, 2], fr=[2, 3, 4])
    assert copied["dependence_bits"] == pytest.approx(mirrored["dependence_bits"])
    assert copied["skew_transfer"] == pytest.approx(2 / 3)
    assert mirrored["skew_transfer"] == pytest.approx(-2 / 3)
    # Perfect predictions depend on language only through the label.
    languages, _, labels = rows_of({"en": [10, 20, 30], "fr": [30, 20, 10], "ja": [1, 0, 0]})
    quality = evaluate_predictions(languages, labels, labels)
    assert quality["accuracy"] == quality["macro_f1"] == quality["worst_cell_accuracy"] == 1
    assert quality["dependence_given_label_bits"] == 0
    assert quality["dependence_bits"] > 0.1


def test_against_scikit_learn(noisy):
    languages, labels, predictions = noisy
    quality = evaluate_predictions(*noisy)
    assert quality["rows"] == 600
    assert quality["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert quality["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert quality["dependence_bits"] == pytest.approx(mutual_info_score(languages, predictions) / np.log(2))
    given = sum(
        (labels == label).mean() * mutual_info_score(languages[labels == label], predictions[labels == label])
        for label in range(4)
    )
    assert quality["dependence_given_label_bits"] == pytest.approx(given / np.log(2))
    right = []
    for name in ("en", "fr", "ja"):
        here = languages == name
        found, columns = quality["by_language"][name], (labels[here], predictions[here])
        assert found["accuracy"] == pytest.approx(accuracy_score(*columns))
        assert found["macro_f1"] == pytest.approx(f1_score(*columns, average="macro"))
        right += [(predictions == labels)[here & (labels == label)].mean() for label in range(4)]
    assert quality["worst_cell_accuracy"] == pytest.approx(min(right))


def test_any_column_type_gives_the_same_in_strict_json_with_null_for_what_is_undefined(noisy):
    languages, labels, predictions = noisy
    names, expected = np.array(["a", "b", "c", "d"]), evaluate_predictions(*noisy)
    lists = [column.tolist() for column in noisy]
    for columns in (lists, map(pa.array, lists), (pa.chunked_array([column]) for column in lists)):
        assert evaluate_predictions(*columns) == expected
    assert evaluate_predictions(languages, names[labels], names[predictions]) == expected
    quality = evaluate_predictions(*noisy, np.full((600, 4), 0.25), plan=np.ones((3, 4)))
    assert json.loads(json.dumps(quality, allow_nan=False)) == quality
    undefined = {expected[name] for name in ("reliance", "skew_transfer", "loss", "plain_loss", "calibration")}
    assert undefined == {None}
    quality = evaluate_predictions(*noisy, plan=np.ones((3, 4)))
    assert quality["reliance"] is quality["skew_transfer"] is None


def test_plan_as_counts_or_shares_or_on_the_axis_order_of_a_class_label():
    names = np.array(["entailment", "neutral", "contradiction"])  # not sorted
    languages, labels, predictions = rows_of(XNLI_PREDICTED)
    plan = JointDistribution(["fr", "en"], names.tolist(), [[3, 2, 1], [1, 2, 3]])
    quality = evaluate_predictions(languages, names[labels], names[predictions], plan=plan)
    assert quality["predicted"] == [XNLI_PREDICTED["fr"], XNLI_PREDICTED["en"]]
    assert list(quality["by_language"]) == ["fr", "en"]
    assert quality["skew_transfer"] == pytest.approx(0.341, abs=1e-3)
    scales = (1, 1 / 6, 1 / 12, 700)  # counts, shares of rows, joint shares, large numbers
    plans = [plan_of(XNLI_PLAN), *(np.array([[1, 2, 3], [3, 2, 1]]) * scale for scale in scales)]
    for same in (evaluate_predictions(languages, labels, predictions, plan=plan) for plan in plans):
        for name in ("reliance", "skew_transfer"):
            assert same[name] == pytest.approx(quality[name])


def test_classes_and_languages_without_rows_or_predictions_or_unseen_in_training():
    plan = JointDistribution(["en", "fr"], [0, 1, 2, 3], [[1, 2, 3, 1], [3, 2, 1, 1]])
    quality = evaluate_predictions(["en", "en", "fr", "fr"], [0, 1, 0, 2], [0, 0, 0, 0], plan=plan)
    assert quality["predicted"] == [[2, 0, 0, 0], [2, 0, 0, 0]]
    assert quality["accuracy"] == 0.5
    assert quality["worst_cell_accuracy"] == 0
    expected = f1_score([0, 1, 0, 2], [0, 0, 0, 0], average="macro", labels=[0, 1, 2], zero_division=0)
    assert quality["macro_f1"] == pytest.approx(expected)
    assert quality["dependence_bits"] == 0
    plan = JointDistribution(["en", "fr", "xx"], [0, 1], [[1, 2], [2, 1], [3, 3]])
    quality = evaluate_predictions(["en", "en", "en", "fr"], [0, 1, 1, 1], [0, 1, 0, 1], plan=plan)
    assert quality["by_language"].keys() == {"en", "fr"}
    assert quality["by_language"]["fr"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert quality["predicted"][2] == [0, 0]
    assert json.dumps(quality, allow_nan=False)
    # A language unseen in training is appended, with the plain loss.
    plan = JointDistribution(["en", "fr"], [0, 1], [[3, 1], [1, 3]])
    columns = (["en", "fr", "ca"], [0, 1, 0], [0, 1, 1])
    probabilities = [[0.5, 0.5], [0.25, 0.75], [0.2, 0.8]]
    quality = evaluate_predictions(*columns, probabilities, plan=plan, weights=[[2, 1], [1, 4]])
    assert quality["predicted"] == [[1, 0], [0, 1], [0, 1]]
    assert list(quality["by_language"]) == ["en", "fr", "ca"]
    assert quality["loss"] == pytest.approx(-(2 * np.log(0.5) + 4 * np.log(0.75) + np.log(0.2)) / 3)
    assert quality["skew_transfer"] == pytest.approx(2)  # en and fr alone: .75/.25 planned, 1/0 predicted


def test_losses_with_weights_and_without_and_of_a_probability_of_zero():
    rng = np.random.default_rng(1)
    languages, labels = np.array(["en", "fr"])[rng.integers(0, 2, 40)], rng.integers(0, 3, 40)
    probabilities = rng.dirichlet(np.ones(3), 40)
    weights = np.array([[2 / 3, 1, 2], [2, 1, 2 / 3]])
    quality = evaluate_predictions(languages, labels, probabilities.argmax(1), probabilities, weights=weights)
    surprise = -np.log(probabilities[np.arange(40), labels])
    assert quality["plain_loss"] == pytest.approx(surprise.mean())
    assert quality["loss"] == pytest.approx((weights[(languages == "fr").astype(int), labels] * surprise).mean())
    of_zero = evaluate_predictions(["en", "fr"], [0, 1], [1, 1], [[0.0, 1.0], [0.0, 1.0]])
    assert 300 < of_zero["loss"] < np.inf


def test_intervals_are_those_of_resampled_rows_and_groups(noisy):
    quality = evaluate_predictions(*noisy)
    languages, labels, predictions = noisy
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 600, 600) for _ in range(2000)]  # rows one by one, as the definition says
    french = [rows[languages[rows] == "fr"] for rows in drawn]
    intervals = quality["intervals"]
    for (low, high), measure, resampled in (
        (intervals["accuracy"], accuracy_score, drawn[:500]),
        (intervals["macro_f1"], lambda *columns: f1_score(*columns, average="macro"), drawn[:500]),
        (intervals["by_language"]["fr"]["accuracy"], accuracy_score, french),
    ):
        expected = np.quantile([measure(labels[rows], predictions[rows]) for rows in resampled], (0.025, 0.975))
        assert [low, high] == pytest.approx(expected, abs=0.01)
    for name in ("accuracy", "macro_f1"):
        assert intervals[name][0] < quality[name] < intervals[name][1]
    assert quality == evaluate_predictions(*noisy)
    assert quality["intervals"] != evaluate_predictions(*noisy, seed=1)["intervals"]
    assert evaluate_predictions(*noisy, resamples=0)["intervals"] is None

    def width(groups):
        low, high = evaluate_predictions(*(np.repeat(c, 4) for c in noisy), groups=groups)["intervals"]["accuracy"]
        return high - low

    single, of_four = width(None), width(np.repeat(np.arange(600), 4))
    assert of_four == pytest.approx(2 * single, rel=0.1)  # four equal rows know no more than one
    assert width(np.arange(2400)) == pytest.approx(single, rel=0.1)


def test_calibration_of_each_language():
    rng = np.random.default_rng(0)
    languages, confidence = np.repeat(["en", "fr"], 20_000), rng.uniform(0.5, 1, 40_000)
    right = rng.random(40_000) < np.where(languages == "en", confidence, 0.6)  # English knows what it knows
    predictions = rng.integers(0, 2, 40_000)
    labels = np.where(right, predictions, 1 - predictions)
    probabilities = np.where(np.arange(2) == predictions[:, None], confidence[:, None], 1 - confidence[:, None])
    quality = evaluate_predictions(languages, labels, predictions, probabilities)["calibration"]
    assert quality["en"]["expected_calibration_error"] < 0.015
    french, centers = quality["fr"], np.array([0.55, 0.65, 0.75, 0.85, 0.95])
    assert french["expected_calibration_error"] == pytest.approx(np.abs(centers - 0.6).mean(), abs=0.01)
    assert french["mean_confidence"] == pytest.approx(0.75, abs=0.01)
    assert [point["confidence"] for point in french["bins"]] == pytest.approx(centers, abs=0.01)
    assert [point["accuracy"] for point in french["bins"]] == pytest.approx([0.6] * 5, abs=0.03)
    assert sum(point["rows"] for point in french["bins"]) == 20_000


def predicted(ids, languages, labels):
    return pa.table({"id": ids, "language": languages, "label": labels, "prediction": range(len(ids))})


def test_predictions_are_joined_by_id_and_language():
    table = predicted(["b", "a", "a", "b", "c"], ["fr", "en", "fr", "en", "en"], [1, 0, 0, 1, 2])
    joined = join_by_id(table, ["a", "b", "b"], ["fr", "en", "fr"], [0, 1, 1])
    assert joined["prediction"].to_pylist() == [2, 3, 0]
    table = predicted(["a", "b", "a"], ["en"] * 3, [0, 1, 2])  # rows that share both are taken in order
    assert join_by_id(table, ["a", "a", "b"], ["en"] * 3, [0, 2, 1])["prediction"].to_pylist() == [0, 2, 1]
    # Predictions of other data.
    table = predicted(["a", "b", "c"], ["en"] * 3, [0, 1, 2])
    for ids, labels, message in (
        (["a", "x", "y"], [0, 1, 2], r"each of 3 rows, got none for 2 \(first: id x, language en\)"),
        (["a", "a", "b"], [0, 1, 1], r"got none for 1 \(first: id a"),
        (["a", "b", "c"], [0, 2, 1], "each of 3 rows, got 2 rows whose label has changed since the prediction"),
    ):
        with pytest.raises(ValueError, match=message):
            join_by_id(table, ids, ["en"] * 3, labels)


NO_PLANS = [[0, 0], [0, 0]], [[1, -1], [1, 1]], [[1, np.nan], [1, 1]]
NO_YES = JointDistribution(["en", "fr"], ["no", "yes"], [[1, 2], [2, 1]])


def test_bad_input():
    for change, message in (
        ({"predictions": [0]}, r"one entry per row in each column, .* 2 in the language column.* 1 in the pred"),
        ({"languages": ["en"]}, "1 in the language column"),
        ({"languages": ["en", None]}, "language column is empty in 1 of 2"),
        ({"labels": [0, None]}, "label column is empty in 1 of 2"),
        ({"predictions": [0.0, 1.0]}, "prediction column has values of type double"),
        ({"languages": [], "labels": [], "predictions": []}, "No rows to evaluate"),
        ({"predictions": ["0", "1"]}, "Labels and predictions must have the same type, got int and str"),
        ({"plan": [[1, 2, 3]]}, r"plan of shape \[2, 2\], .* got shape \[1, 3\]: .*\['en', 'fr'\] x labels \[0, 1\]"),
        *(({"plan": plan}, "Expected a plan .* not negative and not all 0") for plan in NO_PLANS),
        ({"plan": NO_YES}, r"must be among those of the plan, \['no', 'yes'\], got \[0, 1\]"),
        ({"probabilities": [[0.5, 0.5]]}, r"of shape \[2, 2\], .* got shape \[1, 2\]: .* the labels \[0, 1\]"),
        ({"probabilities": [[0.2, 0.3, 0.5]] * 2}, "labels that no row has need a plan with axes"),
        ({"weights": [[1, 1, 1]] * 2}, r"Expected weights of shape \[2, 2\], .* got shape \[2, 3\]"),
        ({"weights": [[1, 1]]}, r"Expected weights of shape \[2, 2\], .* got shape \[1, 2\]"),
        ({"probabilities": [[1.0, 2.0], [3.0, -1.0]]}, r"each row .* sums to 1 \(apply softmax to logits"),
        ({"probabilities": [[np.nan, 1.0], [0.5, 0.5]]}, "apply softmax"),
        ({"labels": [0, -100]}, "Rows labeled -100 are ignored in training: leave them out"),
        ({"weights": [[np.nan, 1], [1, 1]]}, r"Expected weights .* finite, not negative"),
        ({"groups": ["a"]}, r"one entry per row in each column, .* 1 in the group column"),
        ({"groups": ["a", None]}, "group column is empty in 1 of 2"),
    ):
        columns = {"languages": ["en", "fr"], "labels": [0, 1], "predictions": [0, 1]}
        with pytest.raises(ValueError, match=message):
            evaluate_predictions(**columns | change)
