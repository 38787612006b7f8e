"""The law of training in one language, its fit, and token efficiency, against the numbers printed in the paper."""

import numpy as np
import pytest

from hf_langimb import token_efficiency
from hf_langimb.cloned.law import equivalent_tokens, fit_law, interpolated_tokens

PAPER = {"english": (0.0386839, 0.2072533, 0.0840653), "french": (0.0568635, 0.1932752, 0.1191904)}  # small model
T = 1.197e9
SMALL = [  # perplexity, share of T, printed token efficiency: small model, English clones
    (26.13, 0.5, 0.887), (26.14, 0.5, 0.885), (22.46, 0.9, 1.000), (32.81, 0.1, 2.076), (26.53, 0.5, 0.834),
    (24.44, 0.5, 1.182), (31.39, 0.5, 0.471), (23.35, 1.0, 0.735), (23.36, 1.0, 0.731), (20.06, 1.8, 1.004),
    (23.88, 0.2, 3.293), (22.78, 1.0, 0.835), (20.42, 1.0, 1.598), (22.17, 1.5, 0.644), (22.18, 1.5, 0.643),
    (19.03, 2.7, 0.994), (22.27, 0.3, 3.141),
]  # fmt: skip
TEN = [(35.54, 0.1, 1.69), (35.74, 0.1, 1.67), (24.57, 0.5, 1.15), (33.41, 0.5 / 9, 3.56)]
REAL = [  # language, perplexity, share of T, printed token efficiency: English and French
    ("english", 26.44, 0.5, 0.845), ("french", 19.39, 0.5, 0.816), ("english", 22.47, 0.9, 0.996),
    ("french", 31.89, 0.1, 1.054), ("english", 43.51, 0.1, 1.103), ("french", 16.45, 0.9, 0.969),
    ("english", 25.97, 0.5, 0.908), ("french", 19.01, 0.5, 0.884), ("english", 22.48, 0.9, 0.996),
    ("french", 29.04, 0.1, 1.268), ("english", 28.90, 0.5, 0.611), ("french", 19.33, 0.5, 0.826),
    ("english", 26.37, 0.5, 0.855), ("french", 18.48, 0.5, 0.995),
]  # fmt: skip


@pytest.mark.parametrize(("perplexity", "share", "printed"), SMALL)
def test_clones_have_the_token_efficiency_that_the_paper_prints(perplexity, share, printed):
    assert token_efficiency(perplexity, share * T, law=PAPER["english"], total=T) == pytest.approx(printed, abs=0.004)


@pytest.mark.parametrize(("perplexity", "share", "printed"), TEN)
def test_ten_languages_have_the_token_efficiency_that_the_paper_prints(perplexity, share, printed):
    assert token_efficiency(perplexity, share * T, law=PAPER["english"], total=T) == pytest.approx(printed, abs=0.008)


@pytest.mark.parametrize(("language", "perplexity", "share", "printed"), REAL)
def test_english_and_french_have_the_token_efficiency_that_the_paper_prints(language, perplexity, share, printed):
    assert token_efficiency(perplexity, share * T, law=PAPER[language], total=T) == pytest.approx(printed, abs=0.004)


def test_where_the_law_never_reaches_a_perplexity_there_is_no_efficiency():
    a, _, c = law = PAPER["english"]
    assert token_efficiency(1 / c, T, law=law, total=T) is None
    assert token_efficiency(5.0, T, law=law, total=T) is None
    assert token_efficiency(30.0, 0, law=law, total=T) is None
    assert equivalent_tokens(2.5, law=(0.05, 1e-3, 0.42), total=T) is None  # more than a number can say
    assert fit_law([1, 2, 3], [1.3, 1.15, 1.1]).law[2] < 1
    assert equivalent_tokens(1 / (c - a), law=law, total=T) == pytest.approx(T)


def test_a_law_is_found_again_and_says_where_there_is_none():
    a, b, c = PAPER["english"]
    tokens = np.array([0.05, 0.1, 0.2, 0.5, 1, 2]) * T
    fitted = fit_law(tokens, 1 / (c - a * (tokens / T) ** -b), total=T)
    assert fitted.law == pytest.approx((a, b, c), rel=1e-3)
    assert max(map(abs, fitted.residuals)) < 1e-5
    assert not fitted.at_bound and fit_law([1, 2, 3], [32.7, 32.9, 33.2]).at_bound


def test_a_fit_does_not_stay_where_it_begins():
    a, b, c = 0.0072, 0.748, 0.190
    tokens = np.array([13_373, 65_136, 1e6])
    fitted = fit_law(tokens, 1 / (c - a * (tokens / 1e6) ** -b))
    assert fitted.law == pytest.approx((a, b, c), rel=1e-3) and not fitted.at_bound
    assert fit_law([1e5, 5e5, 1e6], [22.6, 7.9, 4.29]).at_bound and fit_law([1, 2, 3], [41, 43, 50.8]).at_bound


def test_a_curve_that_is_no_power_law_is_interpolated_monotonously():
    tokens, found = [1, 2, 4, 8, 16], [22.6, 18.9, 7.9, 4.85, 4.29]
    assert max(map(abs, fit_law(tokens, found).residuals)) > 0.05
    assert [interpolated_tokens(ppl, tokens, found) for ppl in found] == pytest.approx(tokens)
    between = [interpolated_tokens(ppl, tokens, found) for ppl in np.linspace(22, 4.3, 50)]
    assert between == sorted(between)
    assert interpolated_tokens(30, tokens, found) is None and interpolated_tokens(4, tokens, found) is None
    assert interpolated_tokens(5, tokens, [22.6, 23.0, 7.9, 4.85, 4.29]) is not None  # more tokens, once worse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_law([1, 2], [3, 2]), "three different numbers of tokens"),
        (lambda: fit_law([1, 2, 3], [3, 2]), "as many perplexities"),
        (lambda: token_efficiency(30.0, float("nan"), law=PAPER["english"], total=T), "number of tokens of 0 or more"),
        (lambda: fit_law([0, 1, 2], [4, 3, 2]), "numbers of tokens above 0"),
        (lambda: interpolated_tokens(3, [1, 2], [4, 0.5]), "perplexities of 1 or more"),
        (lambda: equivalent_tokens(5, law=(-1, 0.2, 0.2), total=T), "a and b are above 0"),
        (lambda: equivalent_tokens(0.5, law=PAPER["english"], total=T), "perplexity of 1 or more"),
        (lambda: equivalent_tokens(float("nan"), law=PAPER["english"], total=T), "perplexity of 1 or more"),
        (lambda: equivalent_tokens(5.0, law=PAPER["english"], total=0), "total above 0"),
    ],
)
def test_what_the_law_cannot_tell_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
