"""Correcting a trained model: the fit against another optimizer, what it removes, and what it must not teach."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from hf_langimb.measures.correction import Correction, adapted_priors, cross_fitted, fit_correction
from hf_langimb.measures.targets import information, row_weights, weighted

SKEWED = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [1 / 3] * 3])


def drawn(n, shares, *, shortcut=0.0, seed=0):
    """Logits of a model that adds `shortcut` times the log share of each label in the language; names, labels."""
    rng = np.random.default_rng(seed)
    languages = rng.integers(len(shares), size=n)
    labels = np.array([rng.choice(shares.shape[1], p=shares[language]) for language in languages])
    logits = rng.normal(size=(n, shares.shape[1]))
    logits[np.arange(n), labels] += 1.5
    return 1.5 * logits + shortcut * np.log(shares + 1e-3)[languages], [f"l{i}" for i in languages], labels


def figures(logits, names, labels):
    """Dependence of predictions on language in bits and accuracy, where language says nothing about the label."""
    languages, classes = np.array([int(name[1:]) for name in names]), logits.shape[1]
    cells = np.zeros((languages.max() + 1, classes, classes))
    np.add.at(cells, (languages, labels, logits.argmax(axis=1)), 1)
    cells = weighted(cells, "independent")
    return float(information(cells.sum(axis=-2))), np.einsum("lcc->", cells) / cells.sum()


def test_the_fit_minimizes_the_weighted_loss():
    logits, names, labels = drawn(300, SKEWED, shortcut=1.0)
    found = fit_correction(logits, names, labels, ridges=[0.01])
    ids = np.array([int(name[1:]) for name in names])
    counts = np.zeros((3, 3))
    np.add.at(counts, (ids, labels), 1)
    weights = row_weights(counts, "independent")[ids, labels] / len(labels)

    def loss(parameters):
        bias = parameters[1:].reshape(3, 3)
        bias = bias - bias.mean(axis=1, keepdims=True)
        logs = log_softmax(parameters[0] * logits + bias[ids], axis=1)
        return -weights @ logs[np.arange(len(labels)), labels] + 0.01 * (bias**2).sum()

    other = minimize(loss, np.append(1.0, np.zeros(9)), method="BFGS", options={"gtol": 1e-8}).x
    bias = other[1:].reshape(3, 3)
    assert 1 / found.temperature == pytest.approx(other[0], abs=1e-4)
    assert found.bias == pytest.approx(bias - bias.mean(axis=1, keepdims=True), abs=1e-4)
    assert found.bias.sum(axis=1) == pytest.approx(0, abs=1e-12)
    assert found.languages == ("l0", "l1", "l2")
    assert found.missing == ()


def test_a_shortcut_is_removed_on_rows_that_were_not_fitted():
    logits, names, labels = drawn(1000, SKEWED, shortcut=1.5)
    dependence, accuracy = figures(logits, names, labels)
    corrected = cross_fitted(logits, names, labels).corrected
    after, corrected_accuracy = figures(corrected, names, labels)
    assert dependence > 0.15
    assert after < dependence / 10
    assert corrected_accuracy > accuracy + 0.05
    others = drawn(4000, SKEWED, shortcut=1.5, seed=9)
    fitted = fit_correction(logits, names, labels)
    assert figures(fitted.apply(others[0], others[1]), *others[1:])[0] < figures(*others)[0] / 10


def test_a_temperature_is_found_and_a_model_without_a_shortcut_is_left_alone():
    logits, names, labels = drawn(3000, np.full((3, 3), 1 / 3))
    for factor in (0.01, 0.5, 1, 4, 100):
        found = fit_correction(logits * factor, names, labels)
        assert found.temperature == pytest.approx(factor, rel=0.15)
        assert np.abs(found.bias).max() < 0.15


@pytest.mark.parametrize("rows", [500, 1000, 2000])
@pytest.mark.parametrize("languages", [2, 4])
def test_a_language_without_a_label_learns_no_shortcut(rows, languages):
    shares = np.array([[0.5, 0.5, 0], *[[1 / 3] * 3] * (languages - 1)])
    logits, names, labels = drawn(rows, shares)
    found = fit_correction(logits, names, labels)
    assert found.missing == (("l0", 2),)
    others = drawn(20_000, np.full((languages, 3), 1 / 3), seed=1)
    before = figures(*others)[0]
    assert figures(found.apply(*others[:2]), *others[1:])[0] < before + 0.005


def test_folds_keep_groups_and_never_fit_what_they_correct():
    logits, names, labels = drawn(60, SKEWED, shortcut=1.0)
    groups = np.arange(60) // 3
    one = cross_fitted(logits, names, labels, groups=groups).corrected
    changed = logits.copy()
    changed[0, 0] += 5
    other = cross_fitted(changed, names, labels, groups=groups).corrected
    assert other[0, 0] > one[0, 0] + 1
    assert other[0, 1:] == pytest.approx(one[0, 1:])
    assert other[1:3] == pytest.approx(one[1:3])  # the rest of its group
    assert np.abs(other - one)[3:].max() > 1e-3
    with pytest.raises(
        ValueError, match=r"Expected at least 5 different texts .one per fold. and two folds, got 9 rows"
    ):
        cross_fitted(logits[:9], names[:9], labels[:9], groups=np.arange(9) // 3)


def test_unknown_languages_have_no_bias_and_bad_rows_are_refused():
    correction = Correction(("a", "b"), 2.0, np.array([[1.0, -1.0], [0.5, -0.5]]), 0.1)
    logits = np.array([[2.0, 4.0]] * 3)
    assert correction.apply(logits, ["b", "a", "c"]).tolist() == [[1.5, 1.5], [2, 1], [1, 2]]
    for wrong, message in (
        ((np.zeros((0, 2)), [], []), "got"),
        ((np.full((1, 2), np.nan), ["a"], [0]), "not finite"),
        ((np.zeros((1, 2)), ["a"], [2]), "labels from 0 to 1, got 2 to 2"),
        ((np.zeros((2, 2)), ["a"], [0]), "a language and a label per row"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_correction(*wrong)
    rows = np.zeros((2, 2)), ["a", "a"], [0, 1]
    for wrong, message in (
        ({"folds": 1}, "two folds or more"),
        ({"ridges": []}, "one ridge or more"),
        ({"groups": [0]}, "a group for each of 2 rows, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_correction(*rows, **wrong)
    with pytest.raises(ValueError, match="a language for each of 3 rows, got 1"):
        correction.apply(logits, ["a"])
    with pytest.raises(ValueError, match=r"Expected 2 logits in each row, got shape \(3, 3\)"):
        correction.apply(np.zeros((3, 3)), ["a"] * 3)


def test_priors_of_unlabeled_rows_are_found():
    source, target = np.full((2, 3), 1 / 3), np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    rng = np.random.default_rng(0)
    languages = np.repeat([0, 1], 5000)
    labels = np.array([rng.choice(3, p=target[language]) for language in languages])
    logits = rng.normal(size=(10_000, 3))
    logits[np.arange(10_000), labels] += 1.5
    probabilities = softmax(1.5 * logits, axis=1)  # calibrated for uniform labels
    found = adapted_priors(probabilities, languages, source, [1 / 3] * 3)
    assert found == pytest.approx(target, abs=0.02)
    assert found.sum(axis=1) == pytest.approx(1)
    few = adapted_priors(probabilities[:5], languages[:5], source, [1 / 3] * 3)
    assert few[0] == pytest.approx(1 / 3, abs=0.25)
    assert few[1].tolist() == source[1].tolist()  # without rows
    adapted = probabilities * (found / source)[languages]
    assert (adapted.argmax(axis=1) == labels).mean() > (probabilities.argmax(axis=1) == labels).mean() + 0.02
