"""Answers as equivalence tests, of one model and of several, and the rule that makes a shortcut of them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hf_langimb.measures.dependence import Sampled
from hf_langimb.measures.shortcut import NOT_MEASURED, Finding, caused, follows, of_pairs, over_models, shortcut

YES, NO, UNCLEAR = (Finding(answer, 0.2, 0.1, 0.3, 0.01) for answer in ("yes", "no", "unclear"))


def ends(*pairs):
    return [np.array(pair) for pair in pairs]


def test_one_model_answers_by_its_interval_over_rows():
    for interval, expected in (((0.02, 0.05), "yes"), ((0.0, 0.005), "no"), ((0.005, 0.02), "unclear")):
        found = over_models([np.mean(interval)], ends(interval), 0.01)
        assert (found.answer, found.basis, found.agree) == (expected, "rows", "")
        assert (found.low, found.high) == interval
    assert over_models([np.nan], ends((0, 1)), 0.01) == NOT_MEASURED
    assert over_models([], [], 0.01) == NOT_MEASURED


def test_several_models_answer_if_all_agree_or_by_their_interval_over_seeds():
    found = over_models([0.03, 0.04], ends((0.02, 0.05), (0.03, 0.06)), 0.01)
    assert (found.answer, found.low, found.high, found.basis) == ("yes", 0.02, 0.06, "rows")
    found = over_models([0.03, 0.01, 0.03], ends((0.02, 0.05), (0.005, 0.02), (0.02, 0.05)), 0.01)
    assert (found.answer, found.agree) == ("unclear", "of 3 models, yes: 2, unclear: 1")
    values = [0.03, 0.012, 0.03, 0.035, 0.028]
    some = ends((0.02, 0.05), (0.005, 0.02), (0.02, 0.05), (0.02, 0.05), (0.02, 0.05))
    found = over_models(values, some, 0.01)
    assert (found.answer, found.basis) == ("yes", "seeds")  # the t interval lies above, although one model is unclear
    half = 2.776445 * np.std(values, ddof=1) / np.sqrt(5)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    logs = np.log([*values])
    half = 2.776445 * np.std(logs, ddof=1) / np.sqrt(5)
    found = over_models(values, some, 0.01, log=True)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp([logs.mean() - half, logs.mean() + half])))
    assert np.isfinite(over_models([-0.001, 0.0, 0.0, 0.0, 0.0], some, 0.01, log=True).high)  # of no dependence


def test_pairs_are_compared_on_the_same_resamples():
    common, own = np.random.default_rng(0).normal(size=(2, 500))
    models = [Sampled({"bits": 0.5}, {"bits": 0.5 + 0.1 * common + 0.001 * own})]
    others = [Sampled({"bits": 0.4}, {"bits": 0.4 + 0.1 * common})]
    found = of_pairs([0.1], models, others, "bits", 0.01)
    assert found.answer == "yes"
    assert found.high - found.low < 0.005


def test_a_direction_needs_permutations_or_seeds_or_the_cause():
    slope = replace(YES, basis="rows")
    for languages, p, basis, cause, expected in (
        (2, [None], "rows", NOT_MEASURED, "unclear"),
        (2, [None], "rows", YES, "yes"),
        (2, [None], "seeds", NO, "yes"),
        (5, [0.2], "seeds", YES, "unclear"),
        (5, [0.01], "rows", NOT_MEASURED, "yes"),
        (12, [0.01, 0.2, 0.04], "rows", NO, "yes"),  # the median
        (6, [None], "rows", YES, "yes"),
        (6, [None], "rows", NO, "unclear"),
    ):
        assert follows(replace(slope, basis=basis), p, languages, cause).answer == expected
    assert follows(NO, [0.01], 12, YES).answer == "no"


def test_the_cause_is_unclear_where_skew_transfer_does_not_fall():
    assert caused(YES, replace(YES, low=0.1)).answer == "yes"
    assert caused(YES, replace(UNCLEAR, low=-0.1)).answer == "unclear"
    assert caused(YES, NOT_MEASURED).answer == "yes"
    assert caused(NO, replace(UNCLEAR, low=-0.1)).answer == "no"


def test_the_rule():
    """Every combination, written down once more."""
    findings = {"yes": YES, "no": NO, "unclear": UNCLEAR, "not measured": NOT_MEASURED}
    for names in product(findings, repeat=4):
        link, dependence, direction, cause = names
        if "no" in (link, dependence):
            expected = "no"
        elif "not measured" in (link, dependence):
            expected = "not measured"
        elif direction == cause == "no":
            expected = "no"
        elif (link, dependence) == ("yes", "yes") and "yes" in (direction, cause):
            expected = "yes"
        else:
            expected = "unclear"
        assert shortcut(*(findings[name] for name in names)) == expected, names


def test_the_interval_agrees_with_the_answer():
    """Where every model's rows say yes and one seed is far off, the interval over seeds would contradict them."""
    found = over_models([0.02, 0.02, 0.02, 0.02, 0.4], ends(*[(0.015, 0.03)] * 4, (0.35, 0.45)), 0.01)
    assert (found.answer, found.basis, found.low, found.high) == ("yes", "rows", 0.015, 0.45)
    assert follows(found, [None], 2, NOT_MEASURED).answer == "unclear"
