"""Several labels per text: each label is measured as one by itself, and the answers are adjusted over the labels."""

import json

import numpy as np
import pytest

from hf_langimb import MultiLabelDistribution, evaluate_labels, evaluate_predictions
from hf_langimb.measures.dependence import target_measures

FAST = {"resamples": 200, "draws": 200}


@pytest.fixture(scope="module")
def predictions():
    """Rows of two languages and three labels: `follows` is predicted by language, `fair` is not, `rare` is constant."""
    rng = np.random.default_rng(0)
    languages = rng.choice(["en", "fr"], 1500)
    values = {name: rng.integers(0, 2, 1500).astype(float) for name in ("follows", "fair")} | {"rare": np.zeros(1500)}
    values["fair"][:100] = np.nan
    share = np.where(languages == "en", 0.8, 0.3)
    follows = np.where(rng.random(1500) < 0.5, rng.random(1500) < share, values["follows"] == 1)
    fair = np.where(rng.random(1500) < 0.3, 1 - values["fair"], values["fair"])
    guesses = np.stack([follows, np.nan_to_num(fair), np.zeros(1500)], axis=1) * 0.6 + 0.2
    return languages, values, guesses


def test_each_label_is_measured_by_itself(predictions):
    languages, values, guesses = predictions
    found = evaluate_labels(languages, values, guesses, **FAST)
    assert [*found["labels"]] == ["follows", "fair"] and found["not_measured"] == ["rare"]
    assert found["dependent"] == ["follows"] and found["labels"]["fair"]["answer"] == "no"
    assert found["verdict"] == "predictions depend on language for 1 of 2 labels: follows; not measured: rare"
    known = ~np.isnan(values["fair"])
    columns = languages[known], values["fair"][known].astype(int), (guesses[known, 1] > 0.5).astype(int)
    expected = target_measures(*columns, **FAST)["independent"]
    ours = found["labels"]["fair"]["targets"]["independent"]
    assert ours["dependence_bits"] == pytest.approx(expected["dependence_bits"])
    assert ours["accuracy"] == pytest.approx(expected["accuracy"]) and found["labels"]["fair"]["rows"] == 1400
    natural = [evaluate_predictions(languages, values["follows"].astype(int), (guesses[:, 0] > 0.5).astype(int))]
    natural.append(evaluate_predictions(*columns))
    assert found["accuracy"] == pytest.approx(np.mean([of["accuracy"] for of in natural]))
    json.dumps(found, allow_nan=False)


def test_p_values_are_adjusted_and_a_plan_gives_skew_transfer(predictions):
    languages, values, guesses = predictions
    plan = MultiLabelDistribution(("en", "fr"), tuple(values), [[[20, 80]] * 3, [[80, 20]] * 3])
    found = evaluate_labels(languages, values, guesses, plan=plan, groups=np.arange(1500), **FAST)
    of = found["labels"]
    assert of["follows"]["p"] == pytest.approx(1 / 201) and of["follows"]["p_holm"] == pytest.approx(2 / 201)
    assert of["fair"]["p_holm"] == of["fair"]["p"] > 0.05
    assert of["follows"]["targets"]["independent"]["skew_transfer"] > 0.3
    assert abs(of["fair"]["targets"]["independent"]["skew_transfer"]) < 0.1


def test_what_does_not_fit_is_refused(predictions):
    languages, values, guesses = predictions
    with pytest.raises(ValueError, match=r"probabilities of shape \(1500, 3\).*got shape \(1500, 2\)"):
        evaluate_labels(languages, values, guesses[:, :2])
    with pytest.raises(ValueError, match="Expected a language for each of 1500 rows, got 3000"):
        evaluate_labels([*languages, *languages], values, guesses)
    with pytest.raises(ValueError, match="Expected a group for each of 1500 rows, got 3"):
        evaluate_labels(languages, values, guesses, groups=[1, 2, 3])
    with pytest.raises(TypeError, match="plan of type MultiLabelDistribution, got int"):
        evaluate_labels(languages, values, guesses, plan=3)
    with pytest.raises(ValueError, match="apply the sigmoid"):
        evaluate_labels(languages, values, guesses * 5)
    for of, known in ((["en", "fr"], [0, 0]), (["fr", "fr"], [0, 1])):
        with pytest.raises(ValueError, match="No label can be measured"):
            evaluate_labels(of, {"a": known}, [[0.1], [0.2]])
    with pytest.raises(ValueError, match="plan has the labels x, but the rows have follows, fair, rare"):
        evaluate_labels(languages, values, guesses, plan=MultiLabelDistribution(("en",), ("x",), [[[1, 1]]]))


def test_arrays_and_many_labels():
    """What `Trainer.predict` returns; p-values of 60 labels can be significant after their adjustment."""
    rng = np.random.default_rng(0)
    languages = np.repeat(["en", "fr"], 150)
    values = rng.integers(0, 2, (300, 60)).astype(np.float32)
    values[0, 0] = -100
    guesses = np.repeat((languages == "en")[:, None] * 0.8 + 0.1, 60, axis=1)
    found = evaluate_labels(languages, values, guesses, resamples=100)
    assert len(found["dependent"]) == 60 and found["labels"]["0"]["rows"] == 299


def test_several_unclear_labels_are_counted():
    rng = np.random.default_rng(2)
    values = {"a": rng.integers(0, 2, 60), "b": rng.integers(0, 2, 60)}
    found = evaluate_labels(rng.choice(["en", "fr"], 60), values, rng.random((60, 2)), **FAST)
    assert found["verdict"] == "it is unclear for 2 of 2 labels whether predictions depend on language"
