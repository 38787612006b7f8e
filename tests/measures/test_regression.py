"""Cumulative differences over all predicted rows from an explained sample; selection by halves of the orders."""

import json
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import assert_close
from datasets import Dataset, concatenate_datasets
from pyarrow.parquet import write_table
from scipy.special import softmax

from hf_langimb import attribute, compare_seeds, cumulative_difference
from hf_langimb.measures.attribution.difference import PARTS, Choice, _Sums, token_sums
from hf_langimb.measures.attribution.fingerprints import hash_model, hash_rows
from hf_langimb.measures.attribution.masked import base_of_rows
from hf_langimb.measures.attribution.regression import FINGERPRINTS, regress
from hf_langimb.measures.attribution.store import stack
from hf_langimb.measures.intervals import student

ROWS = {"en": (40, 16, 10), "fr": (10, 12, 40)}  # of labels 0, 1, 2: a natural test set
FORMS = ("result", "control", "unbiased")
FEW = {"thresholds": (0.01,), "resamples": 0}


def make_rows(counts, length=(1, 7), seed=0):
    rng = np.random.default_rng(seed)
    cells = [(name, label) for name, row in counts.items() for label, number in enumerate(row) for _ in range(number)]
    cells = [cells[i] for i in rng.permutation(len(cells))]
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 24, rng.integers(*length))) for _ in cells]
    ids = [f"row-{i}" for i in range(len(cells))]
    return Dataset.from_dict(
        dict(zip(("text", "id", "language", "label"), (texts, ids, *zip(*cells, strict=True)), strict=True))
    )


def evenly(data, number):
    """As many rows of each language and label."""
    cells = list(zip(data["language"], data["label"], strict=True))
    return data.select([i for i, cell in enumerate(cells) if cells[:i].count(cell) < number])


def predict(model, tokenizer, data):
    """predictions.parquet of a run, as a table."""
    encoded = tokenizer(data["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = {"logits": model.eval()(**encoded).logits.numpy()}
    found["base"] = base_of_rows(model, tokenizer, data, ["text"], None)
    table = data.select_columns(["id", "language", "label"]).with_format("arrow")[:]
    for name, values in found.items():
        table = table.append_column(name, pa.array(list(values), pa.list_(pa.float32())))
    return marked(table, hash_model(model), hash_rows(data, ["text"]))


def marked(table, model, data):
    return table.replace_schema_metadata({FINGERPRINTS: json.dumps({"model": model, "data": data})})


class Models:
    """Six models, three seeds of two setups, with their predictions of all rows; attributions of all and of some."""

    def __init__(self, folder, tokenizer, make):
        self.rows, self.tokenizer = make_rows(ROWS), tokenizer
        self.sample = evenly(self.rows, 10)
        self.models = [make(seed=seed, initializer_range=0.6) for seed in range(6)]
        self.tables = [predict(model, tokenizer, self.rows) for model in self.models]
        self.whole, self.some = (
            [
                attribute(model, tokenizer, data, out=folder / f"{len(data)}-{i}", budget=None)
                for i, model in enumerate(self.models)
            ]
            for data in (self.rows, self.sample)
        )

    def by_seed(self, parts):
        """{role: {seed: part of a model}}"""
        return {"other": dict(enumerate(parts[3:])), "reference": dict(enumerate(parts[:3]))}


@pytest.fixture(scope="module")
def six(tmp_path_factory, bert_tokenizer, tiny_bert):
    return Models(tmp_path_factory.mktemp("six"), bert_tokenizer, tiny_bert)


def parts(entries):
    return np.array([[entry[name] for name in PARTS] for entry in entries])


def roles(tables, *places):
    return dict(zip(("other", "reference", "selection"), (tables[i] for i in places), strict=False))


def test_base_values_of_predictions_are_those_of_attributions(six):
    for table, store in zip(six.tables, six.whole, strict=True):
        np.testing.assert_allclose(np.array(table["base"].to_pylist()), stack(store.examples["base"]), atol=1e-6)
    many = six.rows.select(np.arange(1100) % len(six.rows))
    found, expected = (
        base_of_rows(six.models[0], six.tokenizer, many, ["text"], None),
        six.tables[0]["base"].to_pylist(),
    )
    np.testing.assert_allclose(found, np.resize(expected, found.shape), atol=1e-6)


def test_with_all_rows_explained_the_regression_is_the_plain_mean(six):
    known = six.by_seed(six.tables)
    plain = compare_seeds(**six.by_seed(six.whole), **FEW)
    found = compare_seeds(**six.by_seed(six.whole), **FEW, predictions=known)
    for form in FORMS:
        np.testing.assert_allclose(parts(found[form]), parts(plain[form]), rtol=0, atol=1e-6)
        assert {entry["method"] for entry in found[form]} == {"regression"}
    stores = roles(six.whole, 0, 1, 2)
    plain, known = cumulative_difference(**stores, **FEW), roles(six.tables, 0, 1, 2)
    found = cumulative_difference(**stores, **FEW, predictions=known)
    np.testing.assert_allclose(parts(found), parts(plain), rtol=0, atol=1e-6)
    assert_close(token_sums(six.whole[0], predictions=six.tables[0]), token_sums(six.whole[0]), atol=1e-6)


def test_a_sample_with_predictions_keeps_what_must_add_up(six):
    found = compare_seeds(**six.by_seed(six.some), **FEW, predictions=six.by_seed(six.tables))
    values = {form: parts(found[form]) for form in FORMS}
    np.testing.assert_allclose(values["result"] - values["control"], values["unbiased"], rtol=0, atol=1e-6)
    whole = compare_seeds(**six.by_seed(six.whole), **FEW)
    for form in FORMS:
        sums, moved = values[form][:, :3].sum(axis=1), values[form][:, 4] - values[form][:, 3]
        np.testing.assert_allclose(sums, moved, rtol=0, atol=1e-6)
        np.testing.assert_allclose(values[form][:, 3:], parts(whole[form])[:, 3:], rtol=0, atol=1e-6)
        for entry in found[form]:
            assert entry["examples"] == 30 and entry["method"] == "regression"
            assert all(low <= entry[name] <= high for name, (low, high) in entry["intervals"].items())
    ratios = [list(entry["variance_ratio"].values()) for entry in found["unbiased"]]
    assert np.median(ratios) < 1
    known = roles(six.tables, 0, 0, 1)
    for entry in cumulative_difference(six.some[0], six.some[0], selection=six.some[1], predictions=known):
        assert [entry[name] for name in PARTS] == pytest.approx([0] * 5, abs=1e-9)
        assert np.ravel([*entry["intervals"].values()]) == pytest.approx([0] * 10, abs=1e-9)


def test_the_regression_by_definition(six):
    found = cumulative_difference(**roles(six.some, 0, 1, 2), **FEW, predictions=roles(six.tables, 0, 1, 2))
    other, reference, selection = (stack(store.tokens["S"]).astype(float) for store in six.some[:3])
    tokens = six.some[0].tokens["example"].to_numpy()
    sums = np.zeros((len(six.sample), 3))
    np.add.at(sums, tokens, np.where(selection > 0.01, other - reference, 0))
    names = [[*zip(data["language"], data["label"], strict=True)] for data in (six.rows, six.sample)]
    available, sampled = map(Counter, names)
    root = np.sqrt([available[cell] / sampled[cell] for cell in names[1]])
    ends = [[np.array(table[name].to_pylist()) for name in ("logits", "base")] for table in six.tables[:3]]
    effects = [softmax(logits, axis=1) - base for logits, base in ends]
    explained = [stack(store.examples["p"]) - stack(store.examples["base"]) for store in six.some[:3]]
    for entry in found:
        label = int(entry["label"][-1])
        design, everything = (
            np.stack([np.ones(len(a)), a, x, a * x], axis=1)
            for of in (explained, effects)
            for a, x in [(of[2][:, label], of[0][:, label] - of[1][:, label])]
        )
        here, there = (np.array(data["language"]) == entry["language"] for data in (six.sample, six.rows))
        weighted = design[here] * root[here, None], sums[here, label] * root[here]
        expected = everything[there].mean(axis=0) @ np.linalg.lstsq(*weighted)[0]
        assert entry["positive"] == pytest.approx(expected, abs=1e-5)


def test_each_label_counts_as_often_as_it_is_predicted_for(six, tmp_path):
    """Values that depend on the label: their mean in the sample, 1, is far from that of all rows."""
    few = evenly(six.sample, 3).filter(lambda row: row["language"] == "en")  # too few for a regression
    data = concatenate_datasets([few, six.sample.filter(lambda row: row["language"] == "fr")])
    models = zip(six.models[:2], ("I", "A"), strict=True)
    stores = [attribute(model, six.tokenizer, data, out=tmp_path / name, budget=None) for model, name in models]
    sums = _Sums(stores, 0.01, predictions=six.tables[:2])
    values = np.array(data["label"], dtype=float)[:, None, None]
    sums._parts = lambda choice: np.broadcast_to(values, (1, len(data), 3, 5))
    for entry in sums.compare([Choice(0, 1, 1, ((0, 1),))]):
        expected, is_few = np.average([0, 1, 2], weights=ROWS[entry["language"]]), entry["language"] == "en"
        assert entry["positive"] == pytest.approx(expected, abs=1e-9 if is_few else 0.3 * (expected - 1))
        assert entry["method"] == ("mean" if is_few else "regression")
        assert (entry["variance_ratio"] is None) is is_few


def test_intervals_contain_the_mean_over_all_rows():
    """500 populations at once, as classes; residuals are skewed and larger where the regressor is."""
    rng = np.random.default_rng(0)
    for number in (16, 60):
        x = rng.normal(size=(500, 2000))
        values = 0.3 + x + 0.4 * x**2 + rng.exponential(size=x.shape) * np.exp(x / 4)
        known = np.stack([np.ones_like(x), x, x**2, np.abs(x)], axis=-1)
        sampled = known[:, :number], known.mean(axis=1), np.ones(number)
        found = regress(values[:, :number, None], *sampled)
        error = np.abs(found.estimate[:, 0] - values.mean(axis=1))
        half = student(number - 4 + 1) * np.sqrt((found.influence[..., 0] ** 2).sum(axis=1))
        assert 0.92 <= np.mean(error <= half) <= 0.99


def test_predictions_are_paths_or_tables(six, tmp_path):
    write_table(six.tables[0], tmp_path / "0.parquet")
    expected = cumulative_difference(*six.some[:2], **FEW, predictions=roles(six.tables, 0, 1))
    for path in (tmp_path / "0.parquet", str(tmp_path / "0.parquet")):
        found = cumulative_difference(*six.some[:2], **FEW, predictions={"other": path, "reference": six.tables[1]})
        assert_close(found, expected)


def test_predictions_that_do_not_fit_are_refused(six):
    good, other = six.tables[0], six.tables[1]
    for table, message in (
        (six.tables[2], "is of another model than the attributions in"),
        (marked(good, six.some[0].manifest["model"], "others"), "is of other rows than the other predictions"),
        (good.drop_columns("base"), "has no base values or fingerprints, as of an earlier version: run"),
        (good.replace_schema_metadata(None), "has no base values or fingerprints"),
        (good.drop_columns("id"), "lacks id: name the predictions.parquet of a run"),
        (good.slice(40), "does not contain the rows of the attributions in"),
        (good.set_column(3, "logits", other["logits"]), "does not contain the rows of the attributions in"),
    ):
        with pytest.raises(ValueError, match=f"Predictions do not fit: the table {message}") as caught:
            cumulative_difference(*six.some[:2], predictions={"other": table, "reference": other})
        assert not re.search(r"\. |\n", str(caught.value))
    order = {"other": good, "reference": other.sort_by("label")}
    with pytest.raises(ValueError, match="has other rows than the other predictions, or another order"):
        cumulative_difference(*six.some[:2], predictions=order)
    with pytest.raises(ValueError, match=r"is no predictions.parquet: name one"):
        cumulative_difference(*six.some[:2], predictions={"other": "nowhere.parquet", "reference": other})
    masked = good.set_column(good.column_names.index("base"), "base", good["logits"])  # of another masking
    with pytest.raises(ValueError, match="does not contain the rows"):
        cumulative_difference(*six.some[:2], predictions={"other": masked, "reference": other})
    for known, message in (
        ("predictions.parquet", "predictions need an entry 'other', got 'predictions.parquet'"),
        ({"other": good}, "predictions need an entry 'reference', got None"),
        ({"other": good, "reference": other, "selection": good}, r"unknown entries \['selection'\]: expected other, r"),
    ):
        with pytest.raises(ValueError, match=message):
            cumulative_difference(*six.some[:2], predictions=known)
    known = six.by_seed(six.tables)
    del known["other"][2]
    with pytest.raises(ValueError, match=r"need an entry 'other' of the seeds \[0, 1, 2\], got"):
        compare_seeds(**six.by_seed(six.some), predictions=known)


def test_selection_by_halves_is_nearer_to_the_whole_trees(tmp_path, bert_tokenizer, tiny_bert):
    """Tokens selected by the errors of what is subtracted make positive tokens fall and negative ones rise."""
    data = make_rows({"en": (10, 10, 10)}, length=(12, 17))
    models = [tiny_bert(seed=seed, num_hidden_layers=2, initializer_range=0.5) for seed in (0, 1)]

    def fall(halves=True, **settings):
        out = tmp_path / str(settings)
        stores = [attribute(m, bert_tokenizer, data, out=out / str(i), **settings) for i, m in enumerate(models)]
        if not halves:
            stores[0].tokens = stores[0].tokens.drop_columns("half_difference")
        entries = cumulative_difference(stores[1], stores[0], **FEW)
        first, second = (stack(store.tokens["S"]).astype(float) for store in stores)
        signs = stores[0].halves if halves else [first]
        expected = [np.where(half > 0.01, second - first, 0).sum(axis=0) / len(data) for half in signs]
        np.testing.assert_allclose([of["positive"] for of in entries], np.mean(expected, axis=0), atol=1e-6)
        return np.mean([of["negative"] - of["positive"] for of in entries])

    whole, draws = fall(budget=None), range(6)
    excess = np.mean([fall(halves=False, orders=8, seed=seed) for seed in draws]) - whole
    assert excess > 0
    assert abs(np.mean([fall(orders=8, seed=seed) for seed in draws]) - whole) < 0.5 * excess
