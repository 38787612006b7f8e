"""Refitted heads and erased languages, on features whose shortcut is known."""

import numpy as np
import pytest

from hf_langimb.measures.erasure import Eraser, language_eraser, random_eraser
from hf_langimb.measures.probe import probe_languages
from hf_langimb.measures.refit import Head, fit_head


def drawn(rows, seed=0, languages=2, width=8, skew=0.8):
    """Features with a noisy direction for each label and one for each language; languages and labels of the rows."""
    rng = np.random.default_rng(seed)
    of = rng.integers(languages, size=rows)
    labels = np.where(rng.random(rows) < skew, of % 3, rng.integers(3, size=rows))
    features = rng.normal(size=(rows, width)) * np.linspace(0.5, 2, width)
    features[np.arange(rows), labels] += 1.5
    features[np.arange(rows), 3 + of] += 3
    return features @ np.linalg.qr(rng.normal(size=(width, width)))[0], of, labels


def accuracy(head, features, of, labels):
    """Mean over cells."""
    right = head.logits(features).argmax(axis=1) == labels
    return np.mean([right[(of == a) & (labels == b)].mean() for a in np.unique(of) for b in range(3)])


def test_a_head_of_equal_cells_ignores_the_shortcut():
    features, of, labels = drawn(2000)
    skewed = fit_head(features, np.zeros(2000), labels, classes=3, draws=1)
    refitted = fit_head(features, of * 3 + labels, labels, classes=3)
    assert accuracy(refitted, features, of, labels) > accuracy(skewed, features, of, labels) + 0.05
    again = fit_head(features, of * 3 + labels, labels, classes=3)
    assert np.array_equal(again.weight, refitted.weight)


def test_the_mean_of_draws_is_steadier_than_one():
    features, of, labels = drawn(300)

    def spread(draws):
        heads = [fit_head(features, of * 3 + labels, labels, classes=3, draws=draws, seed=seed) for seed in range(6)]
        return np.std([head.weight for head in heads], axis=0).mean()

    assert spread(20) < spread(1) / 2


def test_without_a_bias_the_layer_has_none_and_labels_without_rows_are_not_predicted():
    features, of, labels = drawn(400)
    head = fit_head(features, of * 3 + labels, labels, classes=3, intercept=False)
    assert np.abs(head.bias).max() == 0
    head = fit_head(features, of * 3 + labels, labels, classes=5)
    assert set(head.logits(features).argmax(axis=1)) <= {0, 1, 2}
    two = labels < 2
    head = fit_head(features[two], of[two] * 3 + labels[two], labels[two], classes=2)
    assert head.weight[0] == pytest.approx(-head.weight[1])
    with pytest.raises(ValueError, match="two labels or more"):
        fit_head(features, of, np.zeros(400), classes=3)


@pytest.mark.parametrize("languages", [2, 4])
@pytest.mark.parametrize("centered", [True, False])
def test_no_linear_probe_finds_an_erased_language(languages, centered):
    features, of, labels = drawn(1200, languages=languages, skew=0)
    names = [f"l{i}" for i in of]
    eraser = language_eraser(features, of, centered=centered)
    assert np.linalg.matrix_rank(eraser.projection, tol=1e-6) == languages - 1
    erased = eraser.apply(features)
    means = [erased[of == i].mean(axis=0) for i in range(languages)]
    assert means == pytest.approx(np.broadcast_to(means[0], (languages, 8)), abs=1e-6)
    assert probe_languages(features, names).accuracy > 1.5 / languages
    found = probe_languages(erased, names)
    assert found.accuracy < found.control_interval[1] + 0.01
    kept = fit_head(erased, of * 3 + labels, labels, classes=3)
    assert accuracy(kept, erased, of, labels) > 0.6, "labels can still be told apart"
    random = random_eraser(features, languages - 1, centered=centered)
    assert np.linalg.matrix_rank(random.projection, tol=1e-6) == languages - 1
    assert probe_languages(random.apply(features), names).accuracy > found.accuracy + 0.1


def test_a_layer_takes_the_erasure_in():
    features, of, labels = drawn(300)
    eraser, head = language_eraser(features, of), fit_head(features, of * 3 + labels, labels, classes=3, draws=2)
    assert eraser.before(head).logits(features) == pytest.approx(head.logits(eraser.apply(features)))
    head = Head(np.eye(8)[:3], np.zeros(3), 1.0)
    assert Eraser(np.zeros((8, 8)), np.ones(8)).before(head).logits(features) == pytest.approx(features[:, :3])


def test_more_directions_than_features_are_refused():
    features = drawn(50)[0]
    with pytest.raises(
        ValueError, match="Erasing 9 languages removes 8 directions, which must be fewer than the 8 features"
    ):
        language_eraser(features, np.arange(50) % 9)
    with pytest.raises(ValueError, match="fewer than the 8 features"):
        random_eraser(features, 8)
