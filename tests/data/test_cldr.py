"""CLDR names: the counting rule and its figures, ids, the split by concept, and what is said."""

from __future__ import annotations

import logging
import sys

import datasets
import numpy as np
import pandas as pd
import pytest

from hf_langimb import JointDistribution
from hf_langimb.counts.sampling import allocate, joint_shares, skewed_shares

babel = pytest.importorskip("babel")
from hf_langimb.data import cldr  # noqa: E402

FIGURES = {1000: (129, 174_681, 0.0227, 0), 500: (213, 225_277, 0.1171, 55)}  # of Babel 2.18


@pytest.fixture(scope="module")
def large() -> datasets.Dataset:
    return cldr.names(1000)


@pytest.fixture(scope="module")
def parts(large: datasets.Dataset) -> datasets.DatasetDict:
    return cldr.splits(large, seed=0)


@pytest.mark.skipif(not babel.__version__.startswith("2.18."), reason="the figures are those of Babel 2.18")
@pytest.mark.parametrize("least", FIGURES)
def test_counting_rule_gives_the_figures(least, large):
    found = JointDistribution.from_dataset(large if least == 1000 else cldr.names(least))
    bits = round(found.mutual_information_bits, 4)
    assert (len(found.languages), found.rows, bits, len(found.missing_cells)) == FIGURES[least]
    assert found.counts.sum(axis=1).min() >= least


def test_rows_are_names_with_their_kind_language_and_concept(large):
    table = large.to_pandas()
    assert large.features["label"].names == list(cldr.LABELS)
    expected = {
        ("Norvège", "fr"): "territory:NO",
        ("кириллица", "ru"): "script:Cyrl",
        ("Kilometer pro Stunde", "de"): "unit:speed-kilometer-per-hour",
        ("人民币", "zh"): "currency:CNY",
        ("walijski", "pl"): "language:cy",
    }
    for (text, language), concept in expected.items():
        row = table[(table["text"] == text) & (table["language"] == language)]
        assert row["id"].tolist() == [concept]
        assert cldr.LABELS[row["label"].item()] == concept.partition(":")[0]
    assert not table.duplicated(["text", "language", "label"]).any()
    assert not table.duplicated(["id", "language"]).any()
    assert (table["text"] != table["id"].str.partition(":")[2]).all()
    assert {"zh", "sr", "no"} <= {*table["language"]} and not table["language"].str.contains("_").any()


def test_splits_share_no_concept_and_no_text_and_divide_each_kind_alike(large, parts):
    tables = {name: part.to_pandas() for name, part in parts.items()}
    assert sum(map(len, tables.values())) == len(large)
    for column in ("id", "text"):
        values = [value for table in tables.values() for value in {*table[column]}]
        assert len(values) == len({*values}), column
    counts = np.array([table.groupby("label")["id"].nunique() for table in tables.values()])
    shares = counts / counts.sum(axis=0)
    assert np.abs(shares - np.array([*cldr.SHARES.values()])[:, None]).max() < 0.03, shares


def test_splits_depend_on_the_seed_alone(large, parts):
    again, other = cldr.splits(large, seed=0), cldr.splits(large, seed=1)
    assert again["test"]["id"][:] == parts["test"]["id"][:]
    assert {*other["test"]["id"]} != {*parts["test"]["id"]}


def test_training_split_has_rows_for_skewed_plans(parts):
    languages = ["ar", "de", "es", "fr", "hi", "ja", "ko", "ru", "tr", "zh"]
    rows = parts["train"].filter(lambda language: language in languages, input_columns="language")
    available = JointDistribution.from_dataset(rows).counts
    assert allocate(available, joint_shares(skewed_shares(100, 10, 5)), 1500).sum() == 1500


def test_texts_in_several_languages_are_counted_and_logged(caplog):
    table = pd.DataFrame({"text": ["a", "a", "b", "c", "c"], "language": ["de", "fr", "fr", "fr", "fr"]})
    assert cldr.shared_texts(table) == "1 of 3 texts occur in several languages (2 of 5 rows)."
    with caplog.at_level(logging.INFO, logger="hf_langimb"):
        table = cldr.names(1580).to_pandas()
    assert cldr.shared_texts(table) in caplog.text


def test_no_language_has_so_many_names():
    with pytest.raises(ValueError, match="No language has 9,999 CLDR names"):
        cldr.names(9999)


def test_missing_babel_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel.localedata", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[cldr\]"'):
        cldr.names()
