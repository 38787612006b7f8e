"""Several labels per text: counts by hand, weights of each label, audits, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset

from hf_langimb import JointDistribution, MultiLabelDistribution, cell_weights

LANGUAGES = ["en", "fr", "en", "fr", "en", "fr"]
VALUES = {"toxic": [1, 0, 1, 0, None, 1], "insult": [0, 0, 1, 1, 0, 1]}
LISTS = [list(row) for row in zip(*VALUES.values(), strict=True)]
COUNTS = [[[0, 2], [2, 1]], [[2, 1], [1, 2]]]  # of en and fr: no and yes of toxic, of insult


def test_columns_and_lists_are_counted_alike():
    for values in (VALUES, LISTS):
        found = MultiLabelDistribution.from_columns(LANGUAGES, values, [] if values is VALUES else ["toxic", "insult"])
        assert found.languages == ("en", "fr") and found.labels == ("toxic", "insult")
        assert found.counts.tolist() == COUNTS and found.rows == 11
    rows = Dataset.from_dict({"language": LANGUAGES, "labels": LISTS, **VALUES})
    for columns in ("labels", ["toxic", "insult"]):
        assert MultiLabelDistribution.from_dataset(rows, label_columns=columns).counts.tolist() == COUNTS
    assert MultiLabelDistribution.from_dataset([*rows], label_columns="labels").counts.tolist() == COUNTS


KINDS = [(int, None), (float, None), (bool, None), (str, None), (float, float("nan")), (int, -100)]


@pytest.mark.parametrize(("kind", "unknown"), KINDS)
def test_kinds_of_values_and_of_unknown_ones(kind, unknown):
    values = [unknown if value is None else kind(value) for value in VALUES["toxic"]]
    found = MultiLabelDistribution.from_columns(LANGUAGES, {"toxic": values})
    assert found.counts[:, 0].tolist() == [COUNTS[0][0], COUNTS[1][0]]


@pytest.mark.parametrize("words", [("True", "False"), ("true", "false")])
def test_words_of_boolean_columns_in_csv_files(words):
    values = [None if value is None else words[1 - value] for value in VALUES["toxic"]]
    found = MultiLabelDistribution.from_columns(LANGUAGES, {"toxic": values})
    assert found.counts[:, 0].tolist() == [COUNTS[0][0], COUNTS[1][0]]


def test_a_row_without_a_list_knows_no_label():
    found = MultiLabelDistribution.from_columns(["en", "en", "fr"], [[1, 0], None, [1, 1]])
    assert found.counts.tolist() == [[[0, 1], [1, 0]], [[0, 1], [0, 1]]]


def test_weights_are_those_of_each_label():
    counts = np.random.default_rng(0).integers(1, 50, (3, 4, 2))
    found = MultiLabelDistribution(("a", "b", "c"), ("w", "x", "y", "z"), counts)
    for scheme in ("independence", "per_language", "joint", "class"):
        weights = found.weights(scheme, exponent=0.5)
        assert np.einsum("lcv,lcv->c", counts, weights) == pytest.approx(counts.sum(axis=(0, 2)))
        for c in range(4):
            table = JointDistribution(("a", "b", "c"), (0, 1), counts[:, c])
            assert weights[:, c] == pytest.approx(cell_weights(table, scheme, exponent=0.5))
    n_l, n_v = counts.sum(axis=2, keepdims=True), counts.sum(axis=0, keepdims=True)
    assert found.weights() == pytest.approx(n_l * n_v / (counts.sum(axis=(0, 2))[:, None] * counts))
    assert found.weights("per_language") == pytest.approx(n_l / (2 * counts))


def test_audit_adjusts_over_labels_and_names_the_linked_ones():
    rng = np.random.default_rng(0)
    languages = rng.choice(["en", "fr"], 4000)
    share = np.where(languages == "en", 0.3, 0.5)
    values = {"linked": rng.random(4000) < share, "constant": np.zeros(4000, dtype=bool)}
    values |= {f"free {i}": rng.random(4000) < 0.4 for i in range(20)}
    found = MultiLabelDistribution.from_columns(languages, values).audit()
    assert found["linked"] == ["linked"] and found["verdict"].startswith("1 of 22 labels depend on language: linked (")
    assert found["p_holm"]["constant"] is None and found["audits"]["constant"]["link"] == "undefined"
    p = {label: audit["p_value"] for label, audit in found["audits"].items() if audit["p_value"] is not None}
    assert found["p_holm"]["linked"] == pytest.approx(21 * p["linked"]), "adjusted over the 21 labels that have both"
    free = MultiLabelDistribution.from_columns(languages, {"free": values["free 0"]}).audit()
    assert free["verdict"] == "none of the 1 labels depends on language beyond chance"


def test_too_few_rows_are_not_no_link():
    values = {"a": [0, 1, 0, 1, 0, 1], "b": [0, 0, 1, 1, 0, 1]}
    found = MultiLabelDistribution.from_columns(LANGUAGES, values).audit()
    assert found["verdict"] == "too few rows to tell for 2 of 2 labels whether they depend on language"
    one = MultiLabelDistribution.from_columns(["en"] * 6, values).audit()
    assert one["verdict"] == "only one language: labels cannot depend on language here"


def test_a_language_in_which_a_label_is_not_known_has_no_weights():
    found = MultiLabelDistribution.from_columns(["en", "en", "fr"], {"a": [0, 1, None], "b": [1, 0, 1]})
    assert found.weights("independence", missing_cell_policy="ignore")[:, 0].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(ValueError, match=r"Label 'b': .*\(fr, 0\)"):
        found.weights("independence")


@pytest.mark.parametrize("convert", [np.array, torch.tensor, lambda lists: pd.DataFrame(lists, columns=["x", "y"])])
def test_arrays_tensors_and_frames(convert):
    values = convert([[1.0, 0.0], [np.nan, 1.0]])
    assert MultiLabelDistribution.from_columns(["en", "fr"], values).counts.tolist() == [
        [[0, 1], [1, 0]],
        [[0, 0], [0, 1]],
    ]


def test_class_ids_of_languages_are_named():
    rows = Dataset.from_dict({"language": LANGUAGES, "labels": LISTS})
    rows = rows.cast_column("language", ClassLabel(names=["fr", "en", "de"]))
    found = MultiLabelDistribution.from_dataset(rows)
    assert found.languages == ("fr", "en", "de") and found.counts.tolist() == [COUNTS[1], COUNTS[0], [[0, 0], [0, 0]]]


def test_parts_add_up():
    one = MultiLabelDistribution.from_columns(LANGUAGES, VALUES)
    other = MultiLabelDistribution.from_columns(["de"], {"toxic": [1], "insult": [0]})
    both = one + other
    assert both.languages == ("de", "en", "fr") and both.counts[1:].tolist() == COUNTS
    with pytest.raises(ValueError, match="Only counts of the same labels"):
        one + MultiLabelDistribution.from_columns(["de"], {"toxic": [1]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"toxic": [0, 2, 1, 0, 0, 0]}, r"label 'toxic' must be 0 or 1 in each row \(null: not known\), got 2"),
        ({"toxic": [0, 0.5, 1, 0, 0, 0]}, r"must be 0 or 1 in each row \(null: not known\), got 0\.5"),
        ({"toxic": ["True", "x", "False", None, "1", "0"]}, r"must be 0 or 1 in each row \(null: not known\), got 'x'"),
        ({"toxic": ["no"] * 6}, r"must be 0 or 1 in each row \(null: not known\), got 'no'"),
        ({"toxic": [0] * 6, "insult": [1] * 5}, r"label columns of the same length, got 6 in toxic, 5 in"),
        ({"toxic": [0] * 5}, r"got 6 languages and 5 rows"),
        ([[0, 1]] * 5 + [[1]], r"lists of the same length in all rows, got lengths 1, 2: .*MultiLabelBinarizer"),
        ([[0, 3]] * 6, r"must be 0 or 1 in each row \(null: not known\), got 3"),
        ([["toxic", "insult"]] * 6, r"must be 0 or 1 in each row \(null: not known\), got 'toxic'"),
        ([0, 1] * 3, r"a column of lists with a 0 or 1 for each label, got values of type int64"),
    ],
)
def test_other_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelDistribution.from_columns(LANGUAGES, values)


def test_names_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"lists of length 3 \(one entry for each label\)"):
        MultiLabelDistribution.from_columns(LANGUAGES, LISTS, ["a", "b", "c"])
    with pytest.raises(ValueError, match="different names"):
        MultiLabelDistribution.from_columns(LANGUAGES, LISTS, ["a", "a"])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2\)"):
        MultiLabelDistribution(("en",), ("toxic",), [[1, 2]])
    with pytest.raises(ValueError, match=r"lists of the same length in all rows, got lengths 0"):
        MultiLabelDistribution.from_columns(["en", "fr"], [[], []])
    with pytest.raises(ValueError, match=r"shape \(1, 0, 2\)"):
        MultiLabelDistribution(("en",), (), np.zeros((1, 0, 2)))
    with pytest.raises(ValueError, match="No rows to count"):
        MultiLabelDistribution.from_dataset([])
    with pytest.raises(ValueError, match="'toxic' has no 0 or 1 in any row"):
        MultiLabelDistribution.from_columns(["en"], {"toxic": [None]}).audit()
    only = MultiLabelDistribution.from_columns(["en", "fr"], {"toxic": [0, 1]})
    with pytest.raises(ValueError, match=r"Label 'toxic': .*cells without rows: \(en, 1\), \(fr, 0\)"):
        only.weights()
    assert only.weights(missing_cell_policy="ignore").tolist() == [[[1, 0]], [[0, 1]]]
