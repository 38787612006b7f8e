"""Plans and the subsets that they draw."""

from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from hf_langimb import JointDistribution
from hf_langimb.runs.recipe import RecipeArguments
from hf_langimb.runs.subsets import TEST_SEED, Data, external_text, extra_tests, load_data, plan_shares

LABELS = ["entailment", "neutral", "contradiction"]
XNLI = ["fr 1/2 1/3 1/6", "en 1/6 1/3 1/2"]
AMAZON = [f"{language} 1/15 2/15 3/15 4/15 5/15" for language in ("fr", "es", "ja")]
AMAZON += [f"{language} 5/15 4/15 3/15 2/15 1/15" for language in ("de", "en", "zh")]


def rows_of(counts):
    """{language: rows of each label} -> rows with text, label name, language and an item that languages share."""
    rows = [
        {"text": f"{language} {label} {i}", "label": label, "language": language, "item": f"{label}-{i}"}
        for language, row in counts.items()
        for label, number in zip(LABELS, row, strict=False)
        for i in range(number)
    ]
    return Dataset.from_list(rows).shuffle(seed=0)


AXES = "validation split, languages en, fr, labels entailment, neutral, contradiction: "
EVEN = {"fr": (12, 12, 12), "en": (12, 12, 12)}


@pytest.fixture
def recipe(tmp_path):
    """Function (splits, **settings): RecipeArguments of a dataset saved to disk; splits are counts or datasets."""

    def make(train=EVEN, validation=EVEN, test=EVEN, **settings):
        splits = {"train": train, "validation": validation, "test": test}
        parts = {name: rows_of(part) if isinstance(part, dict) else part for name, part in splits.items()}
        DatasetDict(parts).save_to_disk(tmp_path / "data")
        defaults = {"dataset_name": str(tmp_path / "data"), "label_order": LABELS, "imbalanced_shares": XNLI}
        return RecipeArguments(**defaults | settings)

    return make


def load(recipe):
    return load_data(recipe, "language")


def cells(dataset):
    names = dataset.features["label"].names
    return Counter((row["language"], names[row["label"]]) for row in dataset)


def counts(data, plan):
    return data.distribution("train", plan).counts


# Plans.


@pytest.mark.parametrize("form", ["{0} {1} {2} {3}", "{0}: {1} {2} {3}", "{0}, {1}, {2}, {3}", "  {0}  {1} {2}  {3} "])
def test_plans_are_joint_shares_on_sorted_languages(form):
    plans = plan_shares([form.format(*line.split()) for line in XNLI], LABELS)
    assert list(plans) == ["balanced", "imbalanced"]
    np.testing.assert_allclose(plans["balanced"], np.full((2, 3), 1 / 6))
    np.testing.assert_allclose(plans["imbalanced"], np.array([[1, 2, 3], [3, 2, 1]]) / 12)  # en, fr
    decimals = plan_shares([form.format(*line.split()) for line in ("fr .3 .2 0", "en 0.1 0.2 0.2")], LABELS)
    np.testing.assert_allclose(decimals["imbalanced"], [[0.1, 0.2, 0.2], [0.3, 0.2, 0]])  # shares of all rows


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["fr 1/2 1/2"], r"a language and 3 shares \(entailment, neutral, contradiction\) such as 'fr 1/3 1/3 1/3'"),
        (["fr 1/4 1/4 1/4 1/4"], "got 'fr 1/4 1/4 1/4 1/4'"),
        (["fr half 1/3 1/6"], "got 'fr half 1/3 1/6'"),
        (["fr 1/0 1/3 1/6"], "got 'fr 1/0 1/3 1/6'"),
        (["1/2 1/3 1/6"], "got '1/2 1/3 1/6'"),
        ([""], "got ''"),
        (["fr 1/2 1/3 1/6", "en 1/6 1/3 1/3"], "must sum to 1 .* sums 0.833333, 1"),
        (["fr .5 .33 .17", "en .17 .33 .5", "de .33 .33 .33"], "write exact fractions"),
        (["fr 3/2 -1/3 -1/6", "en 1/6 1/3 1/2"], "must be 0 or more, got -0.333333"),
    ],
)
def test_plans_that_are_none(lines, message):
    with pytest.raises(ValueError, match=message):
        plan_shares(lines, LABELS)


# Sizes.


def data_of(counts, lines, labels, size=None):
    """A `Data` whose training split has these counts."""
    cells = [(name, label) for name, row in counts.items() for label, n in enumerate(row) for _ in range(n)]
    source = Dataset.from_dict({"language": [c[0] for c in cells], "label": [c[1] for c in cells]})
    source = source.cast_column("label", ClassLabel(names=labels))
    recipe = RecipeArguments(imbalanced_shares=lines, train_size=size)
    return Data(DatasetDict(train=source), ["text"], sorted(counts), labels, plan_shares(lines, labels), recipe)


def test_sizes_of_the_paper():
    """XNLI and Amazon at 1/100: 392,702 rows a language, about 130,900 a label; 200,000 a language."""
    xnli = data_of(dict.fromkeys(["fr", "en"], (1309, 1309, 1309)), XNLI, LABELS)
    balanced, imbalanced = counts(xnli, "balanced"), counts(xnli, "imbalanced")
    assert balanced.sum() == imbalanced.sum() == 5236
    assert imbalanced.max() == 1309
    assert np.minimum(balanced, imbalanced).sum() / 5236 == pytest.approx(5 / 6, abs=1e-3)
    stars = [str(star) for star in range(1, 6)]
    amazon = data_of(dict.fromkeys(["fr", "es", "ja", "de", "en", "zh"], (400,) * 5), AMAZON, stars)
    assert counts(amazon, "imbalanced").sum() == 7200
    assert counts(amazon, "balanced").tolist() == [[240] * 5] * 6
    assert set(counts(amazon, "imbalanced").sum(axis=0).tolist()) == {1440}
    # XNLI's test set at 1/10: 1,670 rows a cell; the size is what the skewed plan would allow, 6,680 and not 10,020
    test = counts(data_of(dict.fromkeys(["fr", "en"], (167, 167, 167)), XNLI, LABELS), "balanced")
    assert test.sum() == 668
    assert test.max() - test.min() <= 1


@pytest.mark.parametrize("size", [12, 48])
def test_given_size(size):
    data = data_of(EVEN, XNLI, LABELS, size)
    assert (counts(data, "imbalanced") == size // 12 * np.array([[1, 2, 3], [3, 2, 1]])).all()
    assert set(counts(data, "balanced").ravel().tolist()) == {size // 6}


def test_a_size_that_the_source_lacks():
    message = (
        r"train split, languages en, fr, labels entailment, neutral, contradiction: a plan of 60 rows is larger "
        r"than the source \(language 0, label 2: needs 15, has 12; .*Every size up to 48 fits"
    )
    with pytest.raises(ValueError, match=message):
        counts(data_of(EVEN, XNLI, LABELS, 60), "imbalanced")


# Loading and drawing.


def test_subsets_follow_their_plans_and_overlap(recipe):
    data = load(recipe())
    assert (data.languages, data.labels, data.text_columns) == (["en", "fr"], LABELS, ["text"])
    balanced, imbalanced = (data.subset("train", plan, 3) for plan in ("balanced", "imbalanced"))
    assert cells(balanced) == dict.fromkeys(((name, label) for name in EVEN for label in LABELS), 8)
    rows = {"fr": (12, 8, 4), "en": (4, 8, 12)}
    assert cells(imbalanced) == {(name, LABELS[i]): n for name, row in rows.items() for i, n in enumerate(row)}
    assert len({*balanced["text"]} & {*imbalanced["text"]}) == 40  # 5/6 of 48
    assert len(data.subset("train", "natural", 3)) == 72
    texts = [data.subset("train", "imbalanced", seed)["text"][:] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]  # a seed draws the same rows, another one others


@pytest.mark.parametrize("plan", ["natural", "balanced", "imbalanced"])
def test_plans_know_their_counts_from_one_count_of_the_split(recipe, plan, monkeypatch):
    data = load(recipe())
    drawn = JointDistribution.from_dataset(data.subset("train", plan, 0))
    data.distribution("train", "natural")
    monkeypatch.setattr(JointDistribution, "from_dataset", None)  # would count again
    assert data.distribution("train", plan) == drawn


def test_test_set_depends_on_no_training_setting(recipe):
    def test_rows(**settings):
        return load(recipe(**settings)).subset("test", "balanced", TEST_SEED)["text"][:]

    assert test_rows() == test_rows(train_size=12, validation_size=24, id_column="item")
    assert test_rows() == test_rows(one_language_per_item=True, id_column="item", train_size=12)
    assert len(test_rows(test_size=72)) == 72  # the balanced plan fits; the skewed one need not


def test_one_language_per_item(recipe):
    data = load(recipe(one_language_per_item=True, id_column="item"))
    for split in ("train", "validation"):
        items = data.source[split]["id"][:]
        assert len(items) == len(set(items)) == 36
    assert len(data.source["test"]) == 72
    assert Counter(data.source["train"]["language"]) == {"fr": 18, "en": 18}
    with pytest.raises(ValueError, match="one_language_per_item needs id_column"):
        recipe(one_language_per_item=True)


def test_natural_data_without_a_plan(recipe):
    data = load(recipe({"fr": (3, 1, 2), "en": (2, 2, 0), "de": (1, 1, 1)}, {"fr": (1, 1, 1)}, imbalanced_shares=[]))
    assert (data.plans, data.languages) == ({}, ["de", "en", "fr"])
    assert len(data.subset("train", "natural", 5)) == 13


def test_a_split_without_one_of_the_labels_keeps_their_numbers(recipe):
    data = load(recipe(test={"fr": (0, 2, 2), "en": (0, 2, 2)}, imbalanced_shares=[], label_order=[]))
    assert data.labels == data.source["test"].features["label"].names == sorted(LABELS)
    assert cells(data.source["test"])["fr", "neutral"] == 2


def test_languages_outside_the_plan_are_left_out(recipe):
    data = load(recipe(EVEN | {"de": (5, 5, 5)}))
    assert data.languages == sorted(set(data.source["train"]["language"])) == ["en", "fr"]


def test_other_split_and_column_names(recipe, tmp_path):
    settings = recipe(train_split="validation", validation_split="test", test_split="train")
    assert len(load(settings).source["test"]) == 72
    renamed = rows_of(EVEN).rename_columns({"language": "lang", "label": "stars", "text": "body"})
    DatasetDict(dict.fromkeys(("train", "validation", "test"), renamed)).save_to_disk(tmp_path / "renamed")
    settings.dataset_name, settings.label_column, settings.text_columns = str(tmp_path / "renamed"), "stars", ["body"]
    data = load_data(settings, "lang")
    assert data.source["train"].column_names == ["body", "language", "label", "id"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "dev"}, "Expected the split 'dev' in .*, found train, validation, test"),
        (
            {"imbalanced_shares": [*XNLI, "de 1/3 1/3 1/3"]},
            "names fr, en, de, but the training data have no rows in de",
        ),
        ({"imbalanced_shares": [XNLI[0], *XNLI]}, "names fr, fr, en: name each language once"),
        ({"imbalanced_shares": ["de 1/3 1/3 1/3"]}, "names de, but the training data have no rows in de"),
        ({"label_order": LABELS[:2]}, r"Labels \['contradiction'\] of column 'label' are not among"),
        ({"label_column": "stars"}, "Expected a label column 'stars'"),
        ({"text_columns": ["body"]}, "Expected a text column 'body'"),
        (
            {"validation": EVEN | {"en": (12, 12, 0)}},
            rf"{AXES}the plans leave no rows: each .*, the data have \[\[12, 12, 0\], \[12, 12, 12\]\]",
        ),
        ({"validation": {"de": (12, 12, 12)}}, r"No rows in the split 'validation' of .*, languages \['fr', 'en'\]"),
        ({"validation": {"fr": (12, 12, 12)}}, f"{AXES}the plan has 2 languages x 3 labels, the source 1 x 3"),
    ],
)
def test_recipes_that_do_not_fit_their_data(recipe, tmp_path, settings, message):
    rows_of(EVEN).to_csv(tmp_path / "rows.csv", index=False)
    settings = {key: value.format(tmp_path) if key == "dataset_name" else value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        load(recipe(**settings)).distribution("validation", "balanced")


# External text of the probe.


def external(tmp_path, columns):
    Dataset.from_dict(columns).to_parquet(tmp_path / "external.parquet")
    names = {"dataset_name": "other", "probe_dataset_name": str(tmp_path / "external.parquet")}
    return external_text(RecipeArguments(**names, probe_rows=2), ["en", "fr"], "lang")


def test_external_text(tmp_path):
    columns = {"text": list("abcdef"), "language": ["fr", "20231101.en", "fr", "20231101.en", "fr", "de"]}
    found = external(tmp_path, columns)
    assert found.to_dict() == {"text": ["b", "d", "a", "c"], "language": ["en", "en", "fr", "fr"], "id": list("0123")}
    columns["lang"] = columns.pop("language")
    columns["item"] = [7, 7, 8, 8, 9, 9]
    assert external(tmp_path, columns)["id"][:] == ["7", "8", "7", "8"]


def test_no_external_text():
    assert external_text(RecipeArguments(dataset_name="other"), ["en", "fr"], "language") is None
    embedded = external_text(RecipeArguments(probe_rows=3), ["en", "fr"], "language")
    assert Counter(embedded["language"]) == {"en": 3, "fr": 3}
    assert len(set(embedded["id"])) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"] * 3, "language": ["fr"] * 3}, "fewer than two rows in en: choose another dataset"),
        ({"text": ["a"] * 3, "language": ["fr", "fr", "en"]}, "fewer than two rows in en"),
        ({"body": ["a"] * 2, "language": ["fr", "en"]}, "Found no text column among"),
        ({"text": ["a"] * 2}, "Expected a language column 'language'"),
    ],
)
def test_external_text_that_does_not_fit(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        external(tmp_path, columns)


def test_skew_plans_one_way_and_the_other_in_the_languages_present(recipe):
    data = load(recipe({"fr": (8, 4, 8), "en": (8, 4, 8), "sw": (8, 4, 8)}, imbalanced_shares=[], skew=4))
    shares = data.plans["imbalanced"] * 3
    np.testing.assert_allclose(shares, [[4 / 7, 2 / 7, 1 / 7], [1 / 7, 2 / 7, 4 / 7], [4 / 7, 2 / 7, 1 / 7]])
    np.testing.assert_allclose(data.plans["balanced"], 1 / 9)
    assert (data.languages, data.test_plan) == (["en", "fr", "sw"], "balanced")
    assert counts(data, "imbalanced").sum() == counts(data, "balanced").sum() == 36


def test_languages_keeps_only_these(recipe):
    data = load(
        recipe({"fr": (8, 4, 8), "en": (8, 4, 8), "sw": (8, 4, 8)}, imbalanced_shares=[], languages=["sw", "en"])
    )
    assert (data.languages, data.plans, data.test_plan) == (["en", "sw"], {}, "natural")
    with pytest.raises(ValueError, match="languages names en, xx, but the training data have no rows in xx"):
        load(recipe(imbalanced_shares=[], languages=["en", "xx"]))


def test_numbers_are_no_labels(tmp_path):
    rows = {"text": [f"a {i}" for i in range(40)], "language": ["fr", "en"] * 20, "label": [i / 7 for i in range(40)]}
    Dataset.from_dict(rows).to_csv(tmp_path / "scores.csv")
    with pytest.raises(ValueError, match="'label' has 40 different values in 40 rows, but a classifier needs a few"):
        load(RecipeArguments(dataset_name=str(tmp_path / "scores.csv")))


def test_without_a_link_in_training_or_test_nothing_can_be_reversed(recipe):
    skewed = {"fr": (300, 200, 100), "en": (100, 200, 300)}
    arguments = recipe(train=skewed, extra_test=["reversed"])
    assert extra_tests(arguments, load(arguments), "language") == {"reversed": None}  # skewed training, balanced test
    arguments = recipe(extra_test=["reversed"], imbalanced_shares=["fr 1/3 1/3 1/3", "en 1/3 1/3 1/3"])
    with pytest.raises(ValueError, match="reversed needs labels that depend on language"):
        extra_tests(arguments, load(arguments), "language")


def test_further_test_sets_get_the_names_of_the_merged_languages(recipe, tmp_path):
    rows_of({"FR": (2, 2, 2), "en": (1, 1, 1), "sw": (1, 0, 0), "SW": (0, 1, 0)}).to_csv(tmp_path / "other.csv")
    settings = {"imbalanced_shares": [], "extra_test": [f"other={tmp_path / 'other.csv'}"]}
    found = {}
    for merge in (False, True):
        arguments = recipe(**settings, merge_languages=merge)
        other = extra_tests(arguments, load(arguments), "language")["other"]
        found[merge] = Counter(other["language"])
    assert found == {False: {"FR": 6, "en": 3, "sw": 1, "SW": 1}, True: {"fr": 6, "en": 3, "SW": 2}}


@pytest.mark.parametrize("also", [{"skew": 4.0}, {"languages": ["fr"]}])
def test_imbalanced_shares_excludes_skew_and_languages(also):
    with pytest.raises(ValueError, match="imbalanced_shares names languages and shares"):
        RecipeArguments(imbalanced_shares=XNLI, **also)
