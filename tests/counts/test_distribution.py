"""The table languages x labels: counting columns of any make, and the measures against independent computations."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value
from scipy.stats import chi2_contingency
from sklearn.metrics import mutual_info_score

from hf_langimb import JointDistribution
from hf_langimb.counts.audit import expected_counts

STARS = [1, 2, 3, 4, 5]
XNLI = JointDistribution(["en", "fr"], ["entailment", "neutral", "contradiction"], [[1, 2, 3], [3, 2, 1]])
AMAZON = JointDistribution(["de", "en", "es", "fr", "ja", "zh"], STARS, [STARS[::-1]] * 2 + [STARS] * 3 + [STARS[::-1]])
UNEVEN = JointDistribution(["en", "fr"], ["a", "b", "c"], [[10, 0, 5], [4, 4, 4]])

AUDIT_KEYS = {  # CONTRACT, AUDIT
    *("languages", "labels", "counts", "mutual_information_bits", "mutual_information_chance_bits", "cramers_v"),
    *("cramers_v_corrected", "language_only_accuracy", "majority_accuracy", "effective_sample_size_ratio"),
    *("missing_cells", "weights", "p_value", "link", "verdict"),
}
ALONE = {"cramers_v", "cramers_v_corrected", "p_value"}  # undefined with a single language or label
LANGUAGES = ["fr", "en", "fr", "de", "fr"]
LABELS = ["pos", "neg", "neg", "pos", "neg"]
COUNTED = JointDistribution(["de", "en", "fr"], ["neg", "pos"], [[0, 1], [1, 0], [2, 1]])


def random_table(seed, shape=(4, 3), high=60):
    counts = np.random.default_rng(seed).integers(1, high, size=shape)
    return JointDistribution([f"l{i}" for i in range(shape[0])], range(shape[1]), counts)


def rows_of(distribution):
    """The two columns that a distribution counts."""
    cells = np.repeat(np.arange(distribution.counts.size), distribution.counts.ravel())
    languages, labels = np.divmod(cells, len(distribution.labels))
    return [distribution.languages[i] for i in languages], [distribution.labels[j] for j in labels]


GOLDEN = {  # worked out by hand: bits, V, accuracy by language, of the most frequent label, effective sample size
    "xnli": (XNLI, 0.125815, 0.40825, 0.5, 0.33333, 0.81818),
    "amazon": (AMAZON, 0.172673, 0.23570, 0.33333, 0.2, 0.72993),
    "empty-cell": (UNEVEN, 0.213173, 0.48795, 0.51852, 0.51852),
}


def test_golden_values_and_dependence_of_the_paper_predictions():
    for distribution, bits, *expected in GOLDEN.values():
        audit = distribution.audit("per_language")
        assert audit["mutual_information_bits"] == pytest.approx(bits, abs=1e-6)
        keys = ("cramers_v", "language_only_accuracy", "majority_accuracy", "effective_sample_size_ratio")
        assert [audit[key] for key in keys][: len(expected)] == pytest.approx(expected, abs=1e-5)
    # The paper's Table 2 as predictions on a balanced test set, 1,000 rows a language.
    xnli = np.array([[231, 358, 411], [328, 390, 281]])
    amazon = np.array([[139, 206, 201, 196, 258]] * 3 + [[273, 207, 169, 204, 147]] * 3)
    for counts, bits in ((xnli, 0.015464), (amazon, 0.028181)):
        distribution = JointDistribution(map(str, range(len(counts))), range(counts.shape[1]), counts)
        assert distribution.mutual_information_bits == pytest.approx(bits, abs=2e-5)


def chunks_with_different_dictionaries(values):
    return pa.chunked_array([pa.array(values[:2]).dictionary_encode(), pa.array(values[2:]).dictionary_encode()])


def with_unused_values(values):
    """A dictionary that repeats a value and holds two that no row has, one of them null."""
    dictionary = [*values, "unused", None]
    return pa.DictionaryArray.from_arrays(pa.array(range(len(values))), pa.array(dictionary))


MAKES = {
    "list": list,
    "tuple": tuple,
    "numpy": np.array,
    "numpy-object": lambda values: np.array(values, dtype=object),
    "pandas": lambda values: pd.Series(values, index=range(7, 12)),
    "pandas-category": lambda values: pd.Series(values, dtype="category"),
    "arrow": pa.array,
    "arrow-large": lambda values: pa.array(values, pa.large_string()),
    "arrow-view": lambda values: pa.array(values, pa.string_view()),
    "arrow-slice": lambda values: pa.array(["x", *values]).slice(1),
    "arrow-chunked": lambda values: pa.chunked_array([values[:2], [], values[2:]]),
    "arrow-dictionary": lambda values: pa.array(values).dictionary_encode(),
    "arrow-chunked-dictionaries": chunks_with_different_dictionaries,
    "arrow-unused-values": with_unused_values,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_columns_of_any_make_count_alike(make):
    assert JointDistribution.from_columns(make(LANGUAGES), LABELS) == COUNTED
    assert JointDistribution.from_columns(LANGUAGES, make(LABELS)) == COUNTED
    assert JointDistribution.from_columns(make(LANGUAGES), make(LABELS)) == COUNTED


def test_labels_keep_their_type_and_integer_languages_become_strings():
    numbers, booleans = [10, 2, 10, 2, 10], [True, False, True, False, True]
    for labels, axis in (
        (numbers, (2, 10)),  # in order of number
        (np.array(numbers, dtype=np.int8), (2, 10)),
        (pd.Series(numbers, dtype="Int64"), (2, 10)),
        (list(map(str, numbers)), ("10", "2")),
        (booleans, (False, True)),
        (np.array(booleans), (False, True)),
    ):
        found = JointDistribution.from_columns(LANGUAGES, labels).labels
        assert found == axis
        assert [type(label) for label in found] == [type(label) for label in axis]
    distribution = JointDistribution.from_columns([10, 2, 10], LABELS[:3])
    assert distribution.languages == ("10", "2")  # in the order of strings
    assert distribution.counts.tolist() == [[1, 1], [1, 0]]


NAMES = ["zero", "never", "hero"]  # neither sorted nor all used


@pytest.fixture
def dataset():
    features = Features({"text": Value("string"), "language": Value("string"), "label": ClassLabel(names=NAMES)})
    rows = {"text": list("abcde"), "language": LANGUAGES, "label": [0, 2, 2, 0, 2]}
    return Dataset.from_dict(rows, features=features)


def test_class_label_gives_its_names_in_its_order(dataset):
    distribution = JointDistribution.from_dataset(dataset)
    assert distribution.labels == ("zero", "never", "hero")
    assert distribution.counts.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 2]]
    coded = dataset.cast_column("language", ClassLabel(names=["xx", "fr", "en", "de"]))
    distribution = JointDistribution.from_dataset(coded)
    assert distribution.languages == ("xx", "fr", "en", "de")
    assert distribution.counts.tolist() == [[0, 0, 0], [1, 0, 2], [0, 0, 1], [1, 0, 0]]


def test_selected_and_shuffled_rows_are_the_ones_counted(dataset):
    chosen = dataset.shuffle(seed=1).filter(lambda row: row["text"] in "abe").select([2, 1, 0, 0])
    expected = JointDistribution.from_columns(chosen["language"][:], [NAMES[label] for label in chosen["label"][:]])
    counted = JointDistribution.from_dataset(chosen)
    assert counted.rows == 4
    assert counted.languages == expected.languages
    assert counted.counts[:, [2, 0]].tolist() == expected.counts.tolist()  # hero, zero in sorted order
    assert JointDistribution.from_dataset(dataset.select([4, 0])).counts.tolist() == [[1, 0, 1]]
    # Format and column names do not matter.
    expected = JointDistribution.from_dataset(dataset)
    assert all(JointDistribution.from_dataset(dataset.with_format(name)) == expected for name in ("numpy", "pandas"))
    renamed = dataset.rename_columns({"language": "lang", "label": "stars"})
    assert JointDistribution.from_dataset(renamed, "lang", "stars") == expected


def test_streams_rows_and_batches_count_as_the_dataset_does(dataset, monkeypatch):
    expected = JointDistribution.from_dataset(dataset)
    assert JointDistribution.from_dataset(dataset.to_iterable_dataset()) == expected
    rows = [{"language": language, "label": label} for language, label in zip(LANGUAGES, LABELS, strict=True)]
    assert JointDistribution.from_dataset(rows) == COUNTED
    assert JointDistribution.from_dataset(iter(rows)) == COUNTED
    undeclared = IterableDataset.from_generator(lambda: iter(rows))  # knows neither columns nor features
    assert JointDistribution.from_dataset(undeclared) == COUNTED
    assert JointDistribution.from_dataset(undeclared) == COUNTED, "the stream was used up"
    monkeypatch.setattr("hf_langimb.counts.columns._BATCH_ROWS", 2)  # fr, en | fr, de | fr
    assert JointDistribution.from_dataset(dataset.to_iterable_dataset()) == expected
    assert JointDistribution.from_dataset(dataset) == expected


def test_a_sum_is_the_distribution_of_both_data_sets():
    both = XNLI + XNLI
    assert (both.languages, both.labels) == (XNLI.languages, XNLI.labels)
    assert both.counts.tolist() == [[2, 4, 6], [6, 4, 2]]
    first = JointDistribution.from_columns(["fr", "de"], ["b", "a"])
    second = JointDistribution.from_columns(["en", "fr"], ["c", "b"])
    together = JointDistribution.from_columns(["fr", "de", "en", "fr"], ["b", "a", "c", "b"])
    assert first + second == second + first == together
    # Unsorted axes keep their order and append.
    other = JointDistribution(["sw"], ["unsure"], [[7]])
    both = XNLI + other
    assert both.labels == ("entailment", "neutral", "contradiction", "unsure")
    assert both.counts.tolist() == [[1, 2, 3, 0], [3, 2, 1, 0], [0, 0, 0, 7]]
    assert both.rows == (other + XNLI).rows


def test_only_distributions_with_labels_of_one_type_add_and_compare():
    for first, second in ((1, "1"), (1, True), (True, "1")):
        with pytest.raises(ValueError, match=r"differ in type \(\w+ and \w+\); cast one"):
            JointDistribution(["fr"], [first], [[1]]) + JointDistribution(["fr"], [second], [[1]])
    with pytest.raises(TypeError):
        XNLI + 1
    assert XNLI not in (XNLI.counts.tolist(), JointDistribution(XNLI.languages, "abc", XNLI.counts), XNLI + XNLI)


@pytest.mark.parametrize("seed", range(5))
def test_measures_agree_with_scipy_and_scikit_learn(seed):
    distribution = random_table(seed)
    audit, counts, (rows, columns) = distribution.audit(), distribution.counts, distribution.counts.shape
    chi_squared, p_value, _, expected = chi2_contingency(counts, correction=False)
    languages, labels = rows_of(distribution)
    assert JointDistribution.from_columns(languages, labels) == distribution
    assert audit["p_value"] == pytest.approx(p_value)
    assert expected_counts(counts) == pytest.approx(expected)
    assert audit["cramers_v"] == pytest.approx(np.sqrt(chi_squared / counts.sum() / (min(rows, columns) - 1)))
    assert audit["mutual_information_bits"] == pytest.approx(mutual_info_score(languages, labels) / np.log(2))
    entropy = mutual_info_score(labels, labels) / np.log(2)
    assert audit["relative_mutual_information"] == pytest.approx(audit["mutual_information_bits"] / entropy)


def test_divergence_and_total_variation_of_rows_and_adjusted_residuals():
    for distribution in (XNLI, AMAZON, UNEVEN, random_table(7)):
        mean = np.average(distribution.audit()["kl_divergence_bits"], weights=distribution.counts.sum(axis=1))
        assert mean == pytest.approx(distribution.mutual_information_bits, rel=1e-12)
    assert XNLI.audit()["total_variation"] == pytest.approx([1 / 6, 1 / 6])  # |1/6 - 1/3| and |1/2 - 1/3|, halved
    assert UNEVEN.audit()["total_variation"] == pytest.approx([4 / 27, 5 / 27])
    # Adjusted residuals: of a 2 x 2 table all four are +- sqrt(chi^2); Agresti's gender gap (2007, table 2.5, to .01).
    small = JointDistribution("ab", "xy", [[30, 10], [15, 45]])
    root = np.sqrt(chi2_contingency(small.counts, correction=False)[0])
    assert np.array(small.audit()["residuals"]) == pytest.approx(root * np.array([[1, -1], [-1, 1]]))
    gap = JointDistribution(["females", "males"], range(3), [[762, 327, 468], [484, 239, 477]])
    printed = np.array([[4.50, 0.70, -5.32], [-4.50, -0.70, 5.32]])
    assert np.array(gap.audit()["residuals"]) == pytest.approx(printed, abs=0.005)


def test_chance_level_and_correction_are_those_of_independent_columns():
    rng = np.random.default_rng(0)
    tables = rng.multinomial(600, np.full(12, 1 / 12), size=400).reshape(400, 4, 3)
    draws = [JointDistribution("abcd", "xyz", table).audit() for table in tables]
    chance = draws[0]["mutual_information_chance_bits"]
    assert chance == pytest.approx(3 * 2 / (2 * 600 * np.log(2)))
    assert np.mean([draw["mutual_information_bits"] for draw in draws]) == pytest.approx(chance, rel=0.1)
    corrected, plain = np.mean([(draw["cramers_v_corrected"], draw["cramers_v"]) for draw in draws], axis=0)
    assert corrected < plain / 2
    # With many rows the correction goes to 0; it never raises Cramér's V.
    large = JointDistribution(XNLI.languages, XNLI.labels, XNLI.counts * 1_000_000).audit()
    assert large["cramers_v_corrected"] == pytest.approx(large["cramers_v"], abs=1e-5)
    assert XNLI.audit()["cramers_v_corrected"] == 0.0  # twelve rows show nothing
    assert UNEVEN.audit()["cramers_v_corrected"] == pytest.approx(0.40941, abs=1e-5)  # Bergsma 2013, by hand


def test_independent_columns_show_no_dependence_and_a_label_that_follows_the_language_full_dependence():
    for counts in ([[5, 5, 5], [5, 5, 5]], [[20, 10, 30], [4, 2, 6]]):
        audit = JointDistribution(["en", "fr"], "abc", counts).audit()
        assert audit["mutual_information_bits"] == pytest.approx(0, abs=1e-12)
        assert audit["cramers_v"] == pytest.approx(0, abs=1e-7)
        assert audit["cramers_v_corrected"] == 0
        assert np.array(audit["residuals"]) == pytest.approx(np.zeros((2, 3)), abs=1e-7)
        assert audit["language_only_accuracy"] == audit["majority_accuracy"]
    audit = JointDistribution("abc", "xyz", np.diag([9, 6, 3])).audit()
    assert audit["cramers_v"] == pytest.approx(1)
    assert audit["relative_mutual_information"] == pytest.approx(1)
    assert audit["language_only_accuracy"] == 1


def test_measures_are_none_where_they_are_undefined_and_never_nan(recwarn):
    for counts, undefined in (
        ([[3, 5]], ALONE),
        ([[3], [5]], ALONE | {"relative_mutual_information"}),
        ([[1]], ALONE | {"relative_mutual_information"}),
        ([[3, 5], [0, 0]], ALONE),
        ([[3, 0], [5, 0]], ALONE | {"relative_mutual_information"}),
        ([[1, 0], [0, 1]], {"cramers_v_corrected"}),
        ([[2, 2], [2, 2]], set()),
    ):
        distribution = JointDistribution("abc"[: len(counts)], "xyz"[: len(counts[0])], counts)
        audit = json.loads(json.dumps(distribution.audit("independence"), allow_nan=False))
        assert {key for key, value in audit.items() if value is None} == undefined
        assert (audit["link"] == "undefined") is (undefined >= ALONE)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def python_types(value):
    if isinstance(value, dict):
        return {str}.union(*(python_types(entry) for entry in value.values()))
    if isinstance(value, list):
        return set().union(*(python_types(entry) for entry in value))
    return {type(value)}


def test_audit_is_strict_json_with_the_keys_of_the_contract_and_cells_without_rows():
    for distribution in (
        XNLI,
        AMAZON,
        JointDistribution(np.array(["en", "fr"]), np.array(["a", "b", "c"]), UNEVEN.counts),
        JointDistribution(np.array([1, 2]), np.arange(3), UNEVEN.counts),
        JointDistribution(["en", "fr"], np.array([False, True]), [[0, 0], [0, 4]]),
    ):
        audit = distribution.audit("per_language")
        assert set(audit) >= AUDIT_KEYS
        assert json.loads(json.dumps(audit, allow_nan=False)) == audit
        assert python_types(audit) <= {str, int, float, bool, type(None)}
    audit = UNEVEN.audit("per_language")
    assert audit["missing_cells"] == [["en", "b"]]
    assert audit["weights"] == [[0.75, 0.0, 1.5], [1.0, 1.0, 1.0]]
    assert audit["small_cells"] == [["en", "c", 5], ["fr", "a", 4], ["fr", "b", 4], ["fr", "c", 4]]
    assert UNEVEN.audit()["effective_sample_size_ratio"] == 1


def test_distribution_is_frozen():
    source = np.ones((2, 3), dtype=np.int64)
    distribution = JointDistribution(["en", "fr"], "abc", source)
    with pytest.raises(ValueError, match="read-only"):
        distribution.counts[0, 0] = 9
    with pytest.raises(AttributeError):
        distribution.counts = source
    source[0, 0] = 9
    assert distribution.counts[0, 0] == 1, "the caller's array is still the distribution's own"
    distribution.row_shares[0, 0] = 9
    assert distribution.row_shares[0, 0] == pytest.approx(1 / 3)


# Bad input: what was expected, what was found, what to do.

NULL_CODED = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["fr", None]))


def test_bad_columns():
    for languages, labels, message in (
        ([], [], "No rows to count: the dataset is empty"),
        (["fr"] * 3, ["a"], "one entry per row.*3 in the language column, 1 in the label"),
        (["fr", None], ["a", "b"], "language column is empty in 1 of 2.*drop"),
        (["fr", float("nan")], ["a", "b"], "language column is empty in 1 of 2"),
        (["fr", "en"], [None, None], "label column is empty in 2 of 2"),
        (["fr", "en"], [0.0, 1.0], "label column .*double; expected strings, .*cast_column"),
        (["fr", "en"], pd.Series([0.5, 1.5]).astype("category"), "double"),
        (["fr", "en"], ["a", 1], "label column mixes types"),
        (["fr", "en"], [[1], [0, 1]], "list.*expected one label per text"),
        (["fr", "en"], np.eye(2, dtype=int), "not one-dimensional"),
        (NULL_CODED, ["a", "b"], "language column is empty in 1 of 2"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            JointDistribution.from_columns(languages, labels)


def test_missing_columns_are_named_with_what_to_do(dataset):
    undeclared = IterableDataset.from_generator(lambda: iter(list(dataset)))
    for rows in (dataset, dataset.to_iterable_dataset(), list(dataset), undeclared):
        with pytest.raises(ValueError, match="language_column") as language:
            JointDistribution.from_dataset(rows, language_column="lang")
        for part in ("'lang'", "['label', 'language', 'text']", "lid.176", "GlotLID"):
            assert part in str(language.value)
        with pytest.raises(ValueError, match=r"'stars'.*label_column") as label:
            JointDistribution.from_dataset(rows, label_column="stars")
        assert "lid.176" not in str(label.value)


def test_bad_data_sets(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"dictionary of splits \['train'\].*dataset\['train'\]"):
        JointDistribution.from_dataset(DatasetDict(train=dataset))
    with pytest.raises(ValueError, match=r"rows that are mappings.*found str: pass a datasets\.Dataset"):
        JointDistribution.from_dataset(pd.DataFrame({"language": ["fr"], "label": [0]}))
    unlabeled = dataset.map(lambda row: {"label": -1})
    with pytest.raises(ValueError, match=r"class id -1; expected 0 to 2.*Filter"):
        JointDistribution.from_dataset(unlabeled)
    for empty in (dataset.select([]), [], IterableDataset.from_generator(lambda: iter(()))):
        with pytest.raises(ValueError, match="No rows to count"):
            JointDistribution.from_dataset(empty)
    # A blank turns a CSV file's integers into floats: the reader should hear of the blank.
    (tmp_path / "data.csv").write_text("language,label\nfr,0\nfr,\nen,1\n")
    rows = Dataset.from_csv(str(tmp_path / "data.csv"), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="label column is empty in 1 of 3"):
        JointDistribution.from_dataset(rows)


TWICE = [[1, 2], [3, 4]]


def test_bad_tables():
    for languages, labels, counts, message in (
        (["en", "fr"], "ab", [[1, 2]], r"shape \(2, 2\) for 2 languages and 2 labels.*got shape \(1, 2\)"),
        (["en", "en"], "ab", TWICE, r"each name once.*languages \['en', 'en'\]"),
        (["en", "fr"], "aa", TWICE, r"each name once.*labels \['a', 'a'\]"),
        (["en", "en"], "ab", [[1, 2]], r"shape \(2, 2\)"),  # the language is counted once
        (["en"], "ab", [[1, -2]], "whole numbers of 0 or more, got -2"),
        (["en"], "ab", [[0.5, 0.5]], "whole numbers of 0 or more, got 0.5.*allocate"),
        (["en"], "ab", [[1, np.nan]], "got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            JointDistribution(languages, labels, counts)
    with pytest.raises(ValueError, match="at least one row"):
        JointDistribution(["en"], "ab", [[0, 0]]).audit()


def test_counts_whose_products_are_larger_than_an_integer_are_audited_as_their_shares():
    small = JointDistribution(("en", "fr"), ("a", "b"), [[8, 2], [2, 8]]).audit()
    large = JointDistribution(("en", "fr"), ("a", "b"), np.array([[8, 2], [2, 8]]) * 10**14).audit()
    assert (
        large["mutual_information_bits"]
        == pytest.approx(small["mutual_information_bits"])
        == pytest.approx(0.278, abs=1e-3)
    )
    assert large["cramers_v"] == pytest.approx(small["cramers_v"])
    assert np.sign(large["residuals"]).tolist() == [[1, -1], [-1, 1]]
    assert large["link"] == "strong"
