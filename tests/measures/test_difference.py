"""The cumulative difference of two models' attributions, against its definition on three small stores."""

import itertools

import numpy as np
import pytest
from conftest import assert_close
from datasets import Dataset
from scipy.stats import t

from hf_langimb import attribute, cumulative_difference
from hf_langimb.measures.attribution.difference import PARTS, base_values, compare_seeds
from hf_langimb.measures.attribution.store import AttributionStore, stack


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    words = [" ".join(f"w{i}" for i in rng.integers(0, 24, rng.integers(1, 9))) for _ in range(24)]
    return Dataset.from_dict({"text": words, "language": ["en", "fr", "fr"] * 8, "label": [i % 3 for i in range(24)]})


@pytest.fixture(scope="module")
def stores(tmp_path_factory, bert_tokenizer, tiny_bert, texts):
    """Of three models: two references A and B, and another one."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: attribute(tiny_bert(seed=seed), bert_tokenizer, texts, out=folder / name, budget=60, shard_size=9)
        for seed, name in enumerate(("A", "B", "I"))
    }


def by_definition(other, reference, selection, threshold, language, label):
    """Loops over examples and tokens."""
    sums = []
    for example, found in enumerate(other.examples["language"].to_pylist()):
        if found != language:
            continue
        of_example = np.array(other.tokens["example"]) == example
        ours, theirs, signs = (
            stack(s.tokens["S"])[of_example, label].astype(float) for s in (other, reference, selection)
        )
        parts = dict.fromkeys(PARTS, 0.0)
        for mine, base, sign in zip(ours, theirs, signs, strict=True):
            kind = "positive" if sign > threshold else "negative" if sign < -threshold else "neutral"
            parts[kind] += mine - base
        for name, column in (("base_difference", "base"), ("probability_difference", "p")):
            ours, theirs = (np.array(s.examples[column].to_pylist())[example, label] for s in (other, reference))
            parts[name] = ours - theirs
        sums.append(list(parts.values()))
    return np.mean(sums, axis=0)


@pytest.mark.parametrize("names", [("I", "A", "A"), ("B", "A", "A"), ("I", "B", "A")])
def test_the_definition(stores, names):
    other, reference, selection = (stores[name] for name in names)
    found = cumulative_difference(other, reference, selection=selection, resamples=0)
    keys = [(entry["threshold"], entry["language"], entry["label"]) for entry in found]
    assert keys == list(itertools.product((0.001, 0.01, 0.05), ("en", "fr"), ("LABEL_0", "LABEL_1", "LABEL_2")))
    for entry in found:
        label = int(entry["label"][-1])
        expected = by_definition(other, reference, selection, entry["threshold"], entry["language"], label)
        np.testing.assert_allclose([entry[name] for name in PARTS], expected, atol=1e-6)
        assert entry["examples"] == {"en": 8, "fr": 16}[entry["language"]]
        assert sum(entry["token_shares"].values()) == pytest.approx(1)
        moved = entry["probability_difference"] - entry["base_difference"]
        assert entry["positive"] + entry["neutral"] + entry["negative"] == pytest.approx(moved, abs=1e-5)


def test_the_unbiased_form_is_the_result_less_the_control_and_no_model_differs_from_itself(stores):
    result = cumulative_difference(stores["I"], stores["A"], resamples=0)
    control = cumulative_difference(stores["B"], stores["A"], resamples=0)
    unbiased = cumulative_difference(stores["I"], stores["B"], selection=stores["A"], resamples=0)
    for a, b, c in zip(result, control, unbiased, strict=True):
        assert [a[name] - b[name] for name in PARTS] == pytest.approx([c[name] for name in PARTS], abs=1e-6)
    biased = [entry["positive"] - entry["negative"] for entry in control if entry["threshold"] == 0.001]
    assert np.mean(biased) < 0  # two models of equal quality: selection alone makes positive tokens fall
    for entry in cumulative_difference(stores["A"], stores["A"].folder, selection=stores["B"]):
        assert [entry[name] for name in PARTS] == [0] * 5
        assert set(map(tuple, entry["intervals"].values())) == {(0, 0)}


def test_intervals_over_examples(stores):
    found = cumulative_difference(stores["I"], stores["A"], thresholds=(0.01,), resamples=2000)
    again = cumulative_difference(stores["I"], stores["A"], thresholds=(0.01,), resamples=2000)
    assert_close(found, again, atol=1e-9)
    base = stack(stores["I"].examples["p"]) - stack(stores["A"].examples["p"])
    for entry in found:
        rows = np.array(stores["I"].examples["language"].to_pylist()) == entry["language"]
        values = base[rows, int(entry["label"][-1])]
        low, high = entry["intervals"]["probability_difference"]
        assert low < entry["probability_difference"] < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(len(values)), rel=0.15)


def test_what_cannot_be_compared(stores, tmp_path, bert_tokenizer, roberta_tokenizer, tiny_bert, texts):
    for name, model, tokenizer, data, budget, message in (
        ("budget", tiny_bert(), bert_tokenizer, texts, 40, "budget is 40 in one and 60 in the other"),
        ("data", tiny_bert(), bert_tokenizer, texts.select(range(5)), 60, "data is"),
        ("words", tiny_bert(vocab_size=40), roberta_tokenizer, texts, 60, "tokenizer is"),
    ):
        other = attribute(model, tokenizer, data, out=tmp_path / name, budget=budget)
        with pytest.raises(ValueError, match=f"cannot be compared: {message}"):
            cumulative_difference(other, stores["A"])
    nameless = texts.remove_columns("language")
    store = attribute(tiny_bert(), bert_tokenizer, nameless, out=tmp_path / "nameless", budget=60)
    with pytest.raises(ValueError, match="need a language column"):
        cumulative_difference(store, AttributionStore(tmp_path / "nameless"))
    for thresholds in ([], [float("nan")], [-0.01], ["a"], None):
        message = r"thresholds must be one or more values of S, each 0 or above|could not convert string to float: 'a'"
        with pytest.raises(ValueError, match=message):
            cumulative_difference(stores["I"], stores["A"], thresholds=thresholds)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, bert_tokenizer, tiny_bert, texts):
    """Four seeds of two setups: {setup: {seed: store}}."""
    folder = tmp_path_factory.mktemp("seeds")
    return [
        {
            seed: attribute(tiny_bert(seed=10 * k + seed), bert_tokenizer, texts, out=folder / f"{k}-{seed}", budget=40)
            for seed in range(4)
        }
        for k in (1, 2)
    ]


def test_all_choices_of_different_seeds_are_averaged_with_intervals_over_seeds(seeds):
    other, reference = seeds
    found = compare_seeds(other, reference, thresholds=(0.01,), resamples=0)
    assert (found["seeds"], found["examples"]) == ([0, 1, 2, 3], 24)

    def compare(other, reference, selection=None):
        return cumulative_difference(other, reference, selection=selection, thresholds=(0.01,), resamples=0)

    pairs, triples = itertools.permutations(range(4), 2), itertools.permutations(range(4), 3)
    forms = {"result": [], "control": []}
    for i, a in pairs:
        forms["result"].append(compare(other[i], reference[a]))
        forms["control"].append(compare(reference[i], reference[a]))
    forms["unbiased"] = [compare(other[i], reference[b], reference[a]) for i, b, a in triples]
    values = {}
    for form, entries in forms.items():
        expected = np.mean([[[entry[name] for name in PARTS] for entry in one] for one in entries], axis=0)
        values[form] = np.array([[entry[name] for name in PARTS] for entry in found[form]])
        np.testing.assert_allclose(values[form], expected, atol=1e-9)
    np.testing.assert_allclose(values["result"] - values["control"], values["unbiased"], atol=1e-6)
    # Intervals over seeds are the jackknife's.
    for form in ("result", "unbiased"):
        left = []
        for seed in range(4):
            fewer = [{s: store for s, store in setup.items() if s != seed} for setup in seeds]
            left.append([entry["neutral"] for entry in compare_seeds(*fewer, thresholds=(0.01,), resamples=0)[form]])
        left = np.array(left)
        half = t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
        for entry, expected in zip(found[form], half, strict=True):
            low, high = entry["seed_intervals"]["neutral"]
            assert (low, high) == pytest.approx((entry["neutral"] - expected, entry["neutral"] + expected))


@pytest.mark.parametrize(("number", "control", "unbiased"), [(1, 0, 0), (2, 6, 6), (3, 6, 6)])
def test_few_seeds_and_no_common_one(seeds, number, control, unbiased):
    few = [{seed: store for seed, store in setup.items() if seed < number} for setup in seeds]
    found = compare_seeds(*few, thresholds=(0.01,), resamples=10)
    assert [len(found[form]) for form in ("result", "control", "unbiased")] == [6, control, unbiased]
    assert all(entry["seed_intervals"] is None and entry["intervals"] for entry in found["result"])
    other, reference = seeds
    with pytest.raises(ValueError, match=r"must have a common seed, got \[0\] and \[1, 2\]"):
        compare_seeds({0: other[0]}, {seed: reference[seed] for seed in (1, 2)})


def test_base_values(stores, seeds):
    bases = np.stack([stack(store.examples["base"]).astype(float) for store in seeds[0].values()])
    found = base_values(seeds[0])
    assert list(found["mean"].values()) == pytest.approx(bases.mean(axis=(0, 1)))
    assert found["over_seeds"] == pytest.approx(np.std(bases, axis=0, ddof=1).mean())
    assert found["over_examples"] == pytest.approx(np.std(bases, axis=1, ddof=1).mean())
    assert base_values({0: stores["A"].folder})["over_seeds"] is None
