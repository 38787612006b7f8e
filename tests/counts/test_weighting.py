"""Class weights: one contract for every scheme, the identity that defines each, and cells without rows."""

import numpy as np
import pytest

from hf_langimb import JointDistribution, cell_weights
from hf_langimb.counts.distribution import mutual_information_bits
from hf_langimb.counts.own_weights import by_label, read_weights
from hf_langimb.counts.weighting import MISSING_CELL_POLICIES, WEIGHTING_SCHEMES

SCHEMES = tuple(WEIGHTING_SCHEMES)

FULL = {
    "xnli": [[3, 2, 1], [1, 2, 3]],
    "amazon": [[1, 2, 3, 4, 5]] * 3 + [[5, 4, 3, 2, 1]] * 3,
    "uneven": [[130, 7, 22], [5, 60, 11], [2, 1, 900], [40, 41, 42]],
    "one-language": [[8, 4, 3]],
    "one-label": [[8], [4], [3]],
}
GAPPED = {
    "spec": [[10, 0, 5], [4, 4, 4]],
    "one-label-left": [[9, 0, 0], [3, 4, 5], [0, 7, 2]],
    "empty-language": [[1, 2, 3], [0, 0, 0], [4, 1, 1]],
    "empty-label": [[1, 0, 3], [6, 0, 2]],
}


def table(counts):
    return JointDistribution([f"l{i}" for i in range(len(counts))], [f"c{j}" for j in range(len(counts[0]))], counts)


full = pytest.mark.parametrize("distribution", [table(counts) for counts in FULL.values()], ids=FULL)
gapped = pytest.mark.parametrize("distribution", [table(counts) for counts in GAPPED.values()], ids=GAPPED)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def own(distribution):
    """A table of weights that the user gives."""
    return {
        language: {label: 1 + 2 * i + j for j, label in enumerate(distribution.labels)}
        for i, language in enumerate(distribution.languages)
    }


def weighted(distribution, scheme, **options):
    """The data as a scheme weights them: counts * w, float64[L, C]."""
    return distribution.counts * cell_weights(distribution, scheme, **options)


@every_scheme
@full
def test_weights_are_positive_with_mean_one_whatever_the_policy_and_the_size(distribution, scheme):
    weights = cell_weights(distribution, scheme)
    assert weights.shape == distribution.counts.shape
    assert weights.dtype == np.float64
    assert (weights > 0).all()
    assert (distribution.counts * weights).sum() == pytest.approx(distribution.rows, rel=1e-12)
    for factor in (2, 1000) if scheme != "effective_number" else ():  # which knows how many rows are enough
        assert cell_weights(table(distribution.counts * factor), scheme) == pytest.approx(weights, rel=1e-12)
    ignoring = cell_weights(distribution, scheme, missing_cell_policy="ignore")
    assert ignoring == pytest.approx(weights)
    weights[:] = 0  # the table belongs to the caller
    assert cell_weights(distribution, scheme) == pytest.approx(ignoring)


@every_scheme
@pytest.mark.parametrize("policy", MISSING_CELL_POLICIES)
@full
def test_balanced_data_are_left_alone_and_reordered_axes_reorder_the_weights(distribution, policy, scheme):
    weights = cell_weights(table([[7] * 4] * 3), scheme, missing_cell_policy=policy)
    assert weights == pytest.approx(np.ones((3, 4)), rel=1e-12)
    rng = np.random.default_rng(0)
    rows, columns = (rng.permutation(size) for size in distribution.counts.shape)
    expected = cell_weights(distribution, scheme, missing_cell_policy=policy)[np.ix_(rows, columns)]
    reordered = table(distribution.counts[np.ix_(rows, columns)])
    assert cell_weights(reordered, scheme, missing_cell_policy=policy) == pytest.approx(expected, rel=1e-12)


def test_schemes_golden_values_and_where_schemes_meet():
    """The tables of GOLDEN in test_distribution.py."""
    assert SCHEMES == ("none", "class", "per_language", "independence", "joint", "effective_number")
    assert cell_weights(table(FULL["xnli"]), "per_language") == pytest.approx(np.array([[2 / 3, 1, 2], [2, 1, 2 / 3]]))
    stars = [3, 1.5, 1, 0.75, 0.6]
    amazon = np.array([stars] * 3 + [stars[::-1]] * 3)
    assert cell_weights(table(FULL["amazon"]), "per_language") == pytest.approx(amazon)
    # Schemes meet where their marginals do.
    uniform_labels = table([[1, 2, 3], [5, 4, 3]])  # 6, 6, 6 rows a label; 6, 12 a language
    per_language = cell_weights(uniform_labels, "per_language")
    assert cell_weights(uniform_labels, "independence") == pytest.approx(per_language)
    assert cell_weights(uniform_labels, "joint") != pytest.approx(per_language)
    uniform_both = table(FULL["xnli"])
    assert cell_weights(uniform_both, "joint") == pytest.approx(cell_weights(uniform_both, "per_language"))
    assert cell_weights(uniform_both, "class") == pytest.approx(1), "nothing that class weights alone could see"


@full
def test_each_scheme_keeps_its_identity(distribution):
    rows, labels = distribution.rows, len(distribution.labels)
    per_language, per_label = distribution.counts.sum(axis=1), distribution.counts.sum(axis=0)
    assert (cell_weights(distribution, "none") == 1).all()
    weights = cell_weights(distribution, "class")  # knows no language; labels become uniform over all data
    assert (distribution.counts * weights).sum(axis=0) == pytest.approx(np.full(labels, rows / labels))
    assert (weights == weights[0]).all()
    after = weighted(distribution, "per_language")  # labels become uniform in each language
    assert after == pytest.approx(np.broadcast_to(per_language[:, None] / labels, after.shape))
    after = weighted(distribution, "independence")  # the outer product of the marginals stays
    assert after == pytest.approx(np.outer(per_language, per_label) / rows)
    assert after.sum(axis=1) == pytest.approx(per_language)
    assert after.sum(axis=0) == pytest.approx(per_label)
    after = weighted(distribution, "joint")  # every cell counts the same
    assert after == pytest.approx(np.full(after.shape, rows / after.size))
    for beta in (0, 0.5, 0.9, 0.999):  # (1 - beta) / (1 - beta^n), up to one factor
        by_formula = np.array([[(1 - beta) / (1 - beta**n) for n in row] for row in distribution.counts.tolist()])
        ratios = cell_weights(distribution, "effective_number", beta=beta) / by_formula
        assert ratios == pytest.approx(ratios[0, 0], rel=1e-9)
    assert cell_weights(distribution, "effective_number", beta=0) == pytest.approx(1)
    near = cell_weights(distribution, "effective_number", beta=1 - 1e-12)
    assert near == pytest.approx(cell_weights(distribution, "joint"), rel=1e-6)


@full
def test_which_schemes_remove_the_link(distribution):
    for scheme in SCHEMES:
        table_of = JointDistribution(distribution.languages, distribution.labels, distribution.counts)
        before = table_of.mutual_information_bits
        after = mutual_information_bits(weighted(distribution, scheme))
        if scheme in ("per_language", "independence", "joint"):
            assert after == pytest.approx(0, abs=1e-12)
        elif before > 1e-9:
            assert after > 1e-9


@every_scheme
@pytest.mark.parametrize("policy", ["ignore", "smooth"])
def test_an_exponent_keeps_the_mean_weight_of_each_language(scheme, policy):
    for counts in [*FULL.values(), *GAPPED.values()]:
        distribution, filled = table(counts), np.array(counts) > 0
        for one in (scheme, own(distribution)):
            options = {"missing_cell_policy": policy, "beta": 0.9}
            free = cell_weights(distribution, one, **options)
            assert (cell_weights(distribution, one, exponent=1, **options) == free).all()
            means = (counts * free).sum(axis=1)
            for exponent in (0, 0.5, 2, 300):
                weights = cell_weights(distribution, one, exponent=exponent, **options)
                assert (counts * weights).sum(axis=1) == pytest.approx(means)
                for before, after in zip(free, weights, strict=True):  # w^exponent, up to a factor for each language
                    if (kept := before > 0).any() and exponent < 300:
                        ratios = after[kept] / before[kept] ** exponent
                        assert ratios == pytest.approx(ratios[0], rel=1e-9)
                assert ((weights > 0) == (free > 0)).all() or exponent == 300  # where the smallest underflow
            without = cell_weights(distribution, one, exponent=0, **options)
            assert all(len({*row[kept].round(9)}) <= 1 for row, kept in zip(without, filled, strict=True))
    with pytest.raises(ValueError, match=r"exponent must be 0 or more .*got -0\.5"):
        cell_weights(distribution, scheme, exponent=-0.5, **options)


@full
def test_own_weights_are_scaled_to_mean_one(distribution):
    given, counts = own(distribution), distribution.counts
    raw = np.array([[*row.values()] for row in given.values()])
    expected = raw * counts.sum() / (counts * raw).sum()
    for policy in MISSING_CELL_POLICIES:
        assert cell_weights(distribution, given, missing_cell_policy=policy).sum() > 0
    assert cell_weights(distribution, given) == pytest.approx(expected)
    turned = {language: dict(reversed(of.items())) for language, of in reversed(given.items())}
    assert cell_weights(distribution, turned) == pytest.approx(expected)
    assert cell_weights(distribution, given, clip=expected.max() * 2) == pytest.approx(expected)


def test_own_weights_by_ids_by_names_of_classes_and_of_any_number_type():
    distribution = JointDistribution(["en", "fr"], [0, 1], [[3, 4], [5, 6]])
    expected = cell_weights(distribution, {"en": {"0": 1, "1": 3}, "fr": {"0": 2, "1": 0.5}})
    by_id = {"en": {0: np.float32(1), 1: np.int64(3)}, "fr": {1: 0.5, 0: 2}}
    assert cell_weights(distribution, by_id) == pytest.approx(expected)
    named = {"en": {"neg": 1, "pos": 3}, "fr": {"neg": 2, "pos": 0.5}}
    assert cell_weights(distribution, by_label(named, distribution, ["neg", "pos"])) == pytest.approx(expected)
    for other in ("joint", {"en": {"neg": 1}}, by_id):
        assert by_label(other, distribution, ["neg", "pos"]) is other


def test_own_weights_of_cells_without_rows():
    distribution = table(GAPPED["spec"])
    given = own(distribution)
    assert (cell_weights(distribution, given) > 0).all()
    ignoring = cell_weights(distribution, given, missing_cell_policy="ignore")
    assert ((ignoring == 0) == (distribution.counts == 0)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"en": {"no": 1, "yes": 2}}, r"lacks fr \(expected languages: en, fr\)"),
        ({"en": {"no": 1, "yes": 2}, "fr": {"no": 1}}, r"lacks yes \(expected labels of fr: no, yes\)"),
        (
            {"en": {"no": 1, "maybe": 2}, "fr": {"no": 1, "yes": 2}},
            r"lacks yes and has maybe, not in the data \(expected labels of en",
        ),
        ({"en": {"no": 1, "yes": 2}, "fr": {"no": 1, "yes": 2}, "de": {}}, "has de, not in the data"),
        ({"en": {"no": 1, "yes": 0}, "fr": {"no": 1, "yes": 2}}, "must be numbers above 0"),
        ({"en": {"no": 1, "yes": float("nan")}, "fr": {"no": 1, "yes": 2}}, "must be numbers above 0"),
        ({"en": {"no": 1, "yes": "2"}, "fr": {"no": 1, "yes": 2}}, "must be numbers above 0"),
        ({"en": {"no": 1, "yes": True}, "fr": {"no": 1, "yes": 2}}, "must be numbers above 0"),
        ({"no": 1, "yes": 2}, "must have the form {language: {label: weight}}"),
    ],
)
def test_own_weights_of_other_axes_are_refused(given, message):
    distribution = JointDistribution(["en", "fr"], ["no", "yes"], [[3, 4], [5, 6]])
    with pytest.raises(ValueError, match=message):
        cell_weights(distribution, given)


def test_own_weights_are_read_from_json_and_csv(tmp_path):
    expected = {"en": {"0": 1, "1": 3}, "fr": {"0": 2, "1": 0.5}}
    files = {
        "w.json": '{"en": {"0": 1, "1": 3}, "fr": {"0": 2, "1": 0.5}}',
        "w.csv": "\ufefflanguage,0,1\nen,1,3\n\nfr,2,.5\n",
        "spaces.CSV": "language, 0, 1\n en,1,3\nfr,2,.5\n",
        "wrong.csv": "language,0,1\nen,1\n",
        "semicolons.csv": "language;0;1\nen;1;2\n",
        "twice.json": '{"en": {"0": 1}, "en": {"0": 1}}',
        "twice.csv": "language,0,1\nen,1,2\nen,1,2\n",
        "empty.csv": "",
        "list.json": "[[1, 2]]",
        "flat.json": '{"0": 1, "1": 3}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    distribution = JointDistribution(["en", "fr"], [0, 1], [[3, 4], [5, 6]])  # class ids
    assert read_weights(files["w.json"]) == expected  # as text
    for name in ("w.json", "w.csv", "spaces.CSV"):
        assert read_weights(tmp_path / name) == expected
        assert cell_weights(distribution, read_weights(tmp_path / name)) == pytest.approx(
            cell_weights(distribution, expected)
        )
    for name in ("wrong.csv", "semicolons.csv", "twice.csv", "twice.json", "empty.csv", "list.json", "flat.json"):
        with pytest.raises(ValueError, match=f"{name} is not a table of class weights"):
            read_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "missing.csv")


def test_error_lists_the_empty_cells_that_the_formula_divides_by_and_the_ways_out():
    listed = r"cannot weight cells without rows: \(l0, c1\), \(l0, c2\), \(l2, c0\)\. .*'ignore' or 'smooth'"
    for scheme in ("per_language", "independence", "joint"):  # divide by the rows of a cell
        with pytest.raises(ValueError, match=f"'{scheme}' {listed}"):
            cell_weights(table(GAPPED["one-label-left"]), scheme)
    empty_cell = table(GAPPED["spec"])
    assert (cell_weights(empty_cell, "none") == 1).all()
    assert weighted(empty_cell, "class").sum(axis=0) == pytest.approx([9, 9, 9])
    with pytest.raises(ValueError, match=r"'class'.*: \(l0, c1\), \(l1, c1\)\. "):
        cell_weights(table(GAPPED["empty-label"]), "class")


@gapped
def test_ignore_divides_by_the_labels_that_a_language_has(distribution):
    present = distribution.counts > 0
    per_language = distribution.counts.sum(axis=1, keepdims=True)
    share = np.where(present, 1 / np.maximum(present.sum(axis=1, keepdims=True), 1), 0)
    after = weighted(distribution, "per_language", missing_cell_policy="ignore")
    assert after == pytest.approx(per_language * share)
    after = weighted(distribution, "joint", missing_cell_policy="ignore")
    assert after == pytest.approx(distribution.rows / present.any(axis=1).sum() * share)
    after = weighted(distribution, "independence", missing_cell_policy="ignore")
    assert after.sum(axis=1) == pytest.approx(per_language.ravel())


def test_ignore_on_the_table_of_the_specification_and_smooth_by_its_formula():
    """Row 1 by the paper's formula is 0.5, -, 1: mean 0.8148 over all data; divided by the labels present it is 1."""
    distribution = table(GAPPED["spec"])
    weights = cell_weights(distribution, "per_language", missing_cell_policy="ignore")
    assert weights == pytest.approx(np.array([[0.75, 0, 1.5], [1, 1, 1]]))
    by_the_paper = weights * [[2 / 3], [1]]
    assert by_the_paper[0] == pytest.approx([0.5, 0, 1])
    assert (distribution.counts * by_the_paper).sum() / distribution.rows == pytest.approx(0.8148, abs=1e-4)
    # Smooth: (n_l + aC) / (C (n_cl + a)), then each language's mean as before (here 1).
    weights = cell_weights(table([[10, 0, 5]]), "per_language", missing_cell_policy="smooth", smoothing=2)
    formula = (15 + 2 * 3) / (3 * np.array([12, 2, 7]))
    assert weights == pytest.approx(formula[None] * 15 / (10 * formula[0] + 5 * formula[2]))


@every_scheme
@gapped
def test_ignore_gives_empty_cells_no_weight_and_smooth_keeps_means_and_tends_to_it(distribution, scheme):
    ignoring = cell_weights(distribution, scheme, missing_cell_policy="ignore")
    assert ((ignoring == 0) == (distribution.counts == 0)).all()
    assert np.isfinite(ignoring).all()
    assert (distribution.counts * ignoring).sum() == pytest.approx(distribution.rows)
    for smoothing in (0.01, 1, 50):
        smooth = cell_weights(distribution, scheme, missing_cell_policy="smooth", smoothing=smoothing)
        assert (smooth > 0).all() and np.isfinite(smooth).all()
        of_languages = (distribution.counts * ignoring).sum(axis=1)
        assert (distribution.counts * smooth).sum(axis=1) == pytest.approx(of_languages)
    gaps = []
    for smoothing in (1e-1, 1e-3, 1e-5):
        weights = cell_weights(distribution, scheme, missing_cell_policy="smooth", smoothing=smoothing)
        gaps.append(np.abs(weights - ignoring)[distribution.counts > 0].max())
    assert gaps[-1] < 1e-4
    assert gaps == sorted(gaps, reverse=True)


@every_scheme
def test_bad_smoothing_unknown_names_and_no_rows(scheme):
    for smoothing in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"above 0 .*got {smoothing}"):
            cell_weights(table(GAPPED["spec"]), scheme, missing_cell_policy="smooth", smoothing=smoothing)
    distribution = table(FULL["xnli"])
    with pytest.raises(ValueError, match="'balanced': choose one of none, class, per_language, independence, joint"):
        cell_weights(distribution, "balanced")
    with pytest.raises(ValueError, match="missing_cell_policy 'skip': choose one of error, ignore, smooth"):
        cell_weights(distribution, scheme, missing_cell_policy="skip")
    for policy in MISSING_CELL_POLICIES:
        with pytest.raises(ValueError, match="at least one row"):
            cell_weights(table([[0, 0], [0, 0]]), scheme, missing_cell_policy=policy)
    for beta in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=f"beta must be from 0 to below 1, got {beta}"):
            cell_weights(distribution, scheme, beta=beta)


@pytest.mark.parametrize("scheme", WEIGHTING_SCHEMES)
@pytest.mark.parametrize("policy", ["ignore", "smooth"])
def test_a_clip_keeps_the_mean_weight_of_each_language(scheme, policy):
    counts = np.array([[1000, 100, 1], [10, 500, 3000], [0, 40, 7], [300, 300, 300]])
    distribution = JointDistribution(list("abcd"), [0, 1, 2], counts)
    free = cell_weights(distribution, scheme, missing_cell_policy=policy)
    for clip in (3.9, 20, 1e6):
        means = (counts * free).sum(axis=1) / counts.sum(axis=1)
        if clip <= means.max():
            with pytest.raises(
                ValueError, match=r"weight_clip must be above the mean weight of every language; that of \w is "
            ):
                cell_weights(distribution, scheme, missing_cell_policy=policy, clip=clip)
            continue
        weights = cell_weights(distribution, scheme, missing_cell_policy=policy, clip=clip)
        assert (weights[counts > 0] <= clip * (1 + 1e-12)).all()
        assert (counts * weights).sum(axis=1) / counts.sum(axis=1) == pytest.approx(means)
        for i in range(4):  # below the limit, one factor per language
            below = (counts[i] > 0) & (weights[i] < clip * (1 - 1e-9))
            factors = weights[i][below] / free[i][below]
            assert factors == pytest.approx(factors.mean())
            assert factors.mean() >= 1 - 1e-12
    assert (cell_weights(distribution, scheme, missing_cell_policy=policy, clip=1e6) == free).all()
    with pytest.raises(ValueError, match="clip must be a number above 0"):
        cell_weights(distribution, scheme, missing_cell_policy=policy, clip=0)
