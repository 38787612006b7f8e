"""Owen and Shapley values against shap itself and against their definition; how forward passes are shared."""

import itertools
import math

import numpy as np
import pytest
import shap
import torch
from attribution_models import PAIRS, SENTENCES, STYLES, make_model, make_tokenizer
from datasets import Dataset

from hf_langimb import attribute
from hf_langimb.measures.attribution.engine import Forward, explain, id_masker
from hf_langimb.measures.attribution.examples import SPECIAL, encode
from hf_langimb.measures.attribution.methods import owen_values, shapley_values


@pytest.fixture(scope="module", params=STYLES)
def family(request):
    tokenizer = make_tokenizer(request.param)
    return make_model(request.param, tokenizer), tokenizer


def run(model, tokenizer, texts, budget, forward=None, wrap=lambda generator: generator, **settings):
    """{row: result} of the engine with ids masked; `wrap` may watch a generator."""
    examples = encode(tokenizer, texts)
    generators = (wrap(owen_values(e.tree(), budget=budget, maskable=e.content, **settings)) for e in examples)
    forward = forward or Forward(model, str(next(model.parameters()).dtype).removeprefix("torch."))
    return {e.index: found for e, found in explain(examples, generators, id_masker(tokenizer.mask_token_id), forward)}


def one_by_one(model, example):
    """Probabilities for rows of ids, each alone, as shap's default asks for them."""

    def probabilities(rows):
        with torch.no_grad():
            inputs = [{"input_ids": torch.tensor([[int(token) for token in row]])} for row in rows]
            if example.types is not None:
                inputs = [{**one, "token_type_ids": torch.tensor(example.types)[None]} for one in inputs]
            return np.concatenate([model(**one).logits.double().softmax(-1).numpy() for one in inputs])

    return probabilities


class IdMasker:
    """For shap: ids of one example with its tree, special tokens kept."""

    immutable_outputs = True
    default_batch_size = 5  # shap's for texts

    def __init__(self, example, mask_id):
        self.example, self.mask_id = example, mask_id
        tree = example.tree()
        tree[:, 2] = tree[:, 3] / tree[:, 3].max()
        self.clustering = lambda row: tree.copy()
        self.shape = lambda row: (1, len(example))
        self.mask_shapes = lambda row: [(len(example),)]
        self.feature_names = lambda row: [[str(i) for i in range(len(example))]]

    def __call__(self, mask, row):
        return (np.where(mask | (self.example.segments == SPECIAL), self.example.ids, self.mask_id)[None],)


@pytest.mark.parametrize("budget", [100, None], ids=["100", "full"])
def test_ids_of_single_texts_equal_shap_s_own_text_masker(family, budget):
    model, tokenizer = family
    texts = SENTENCES[::2] + SENTENCES[1:4:2]
    found = run(model, tokenizer, [texts], budget)
    cut = 0
    for i, text in enumerate(texts):
        example = encode(tokenizer, [[text]])[0]
        if budget is None and len(example) > 16:
            continue  # thousands of evaluations
        explainer = shap.explainers.Partition(
            one_by_one(model, example), shap.maskers.Text(tokenizer, output_type="token_ids")
        )
        np.random.seed(0)
        expected = explainer([text], max_evals=budget or 10**6, silent=True)
        np.testing.assert_allclose(found[i].values, expected.values[0], atol=1e-9, rtol=0)
        np.testing.assert_allclose(found[i].base, expected.base_values[0], atol=1e-9, rtol=0)
        cut += found[i].truncated
    assert cut >= 2 if budget else cut == 0


@pytest.mark.parametrize("budget", [60, 150])
def test_ids_of_pairs_equal_shap_on_the_same_tree(family, budget):
    model, tokenizer = family
    pairs = list(zip(*PAIRS[::3], strict=True))
    found = run(model, tokenizer, pairs, budget)
    for i, example in enumerate(encode(tokenizer, pairs)):
        assert example.types is None or example.types.max() == 1
        explainer = shap.explainers.Partition(one_by_one(model, example), IdMasker(example, tokenizer.mask_token_id))
        np.random.seed(0)
        expected = explainer([example.ids], max_evals=budget, silent=True)
        np.testing.assert_allclose(found[i].values, expected.values[0], atol=1e-9, rtol=0)
        assert found[i].evaluations <= budget + 4


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_strings_equal_shap_s_default_pipeline(family, tmp_path, dtype):
    model, tokenizer = family
    from transformers import pipeline

    whole = pipeline("text-classification", model=model.to(getattr(torch, dtype)), tokenizer=tokenizer, top_k=None)
    explainer = shap.Explainer(whole, seed=0)
    texts = SENTENCES[1::2]  # one of each language
    rows = Dataset.from_dict({"text": texts})
    store = attribute(
        model, tokenizer, rows, out=tmp_path / "store", masking="string", dtype=dtype, method="owen", budget=100
    )
    values = store.to_explanation()
    differences = []
    for i, text in enumerate(texts):
        np.random.seed(0)
        expected = explainer([text], max_evals=100, silent=True)
        differences.append(np.abs(values[i].values - expected.values[0]).max())
        np.testing.assert_allclose(values[i].base_values, expected.base_values[0], atol=1e-6)
    model.double()
    flipped = 1 if dtype == "float32" else 0  # near ties may open another node
    assert np.sort(differences)[: len(texts) - flipped].max() < 1e-6


def test_the_two_texts_of_a_pair_are_two_branches(family):
    for example in encode(family[1], list(zip(*PAIRS, strict=True))):
        spans = [np.flatnonzero(example.segments == i) for i in (0, 1)]
        leaves = {i: {i} for i in range(len(example))}
        for number, (left, right) in enumerate(example.tree()[:, :2].astype(int)):
            leaves[len(example) + number] = leaves[left] | leaves[right]
        for span in spans:
            whole = min((node for node in leaves.values() if set(span) <= node), key=len)
            others = set(spans[0] if span is spans[1] else spans[1])
            assert not whole & others


def by_definition(model, tokenizer, example):
    """Shapley values of the content tokens from all orders' weights."""
    players = np.flatnonzero(example.segments != SPECIAL)
    n, numbers = len(players), range(2 ** len(players))
    coalitions = [sum(1 << int(p) for i, p in enumerate(players) if number >> i & 1) for number in numbers]
    masked = id_masker(tokenizer.mask_token_id)(example, coalitions)
    probabilities = one_by_one(model, example)([ids for ids, _ in masked])
    values = np.zeros((len(example), probabilities.shape[1]))
    for (i, player), number in itertools.product(enumerate(players), numbers):
        if not number >> i & 1:
            size = number.bit_count()
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            values[player] += weight * (probabilities[number | 1 << i] - probabilities[number])
    return values


def shapley(model, tokenizer, example, budget, seed=0):
    players = np.flatnonzero(example.segments != SPECIAL).tolist()
    generator = shapley_values(players, len(example), budget=budget, seed=seed)
    ((_, found),) = explain([example], [generator], id_masker(tokenizer.mask_token_id), Forward(model, "float64"))
    return found


def test_shapley_values_are_exact_or_as_far_off_as_their_standard_errors_say(bert):
    example = encode(bert[1], [["猫が好きです。"]])[0]
    found = shapley(*bert, example, None)
    np.testing.assert_allclose(found.values, by_definition(*bert, example), atol=1e-12)
    assert (found.errors == 0).all()
    # Sampled with a smaller budget: as far off as their standard errors say.
    example = encode(bert[1], [["L'été dernier, nous n'avons"]])[0]
    exact = by_definition(*bert, example)
    players = example.segments != SPECIAL
    assert 2 ** players.sum() > 200
    deviations, errors = [], []
    for seed in range(30):
        found = shapley(*bert, example, 100, seed)
        assert found.evaluations == 100
        np.testing.assert_allclose(found.base + found.values.sum(axis=0), found.full, atol=1e-12)
        deviations.append((found.values - exact)[players])
        errors.append(found.errors[players])
    spread = np.sqrt(np.mean(np.square(deviations), axis=0))
    assert np.median(np.mean(errors, axis=0) / spread) == pytest.approx(1, abs=0.3)
    assert np.mean(np.abs(deviations) < 2 * np.array(errors)) > 0.85
    assert np.abs(np.mean(deviations)) < 1e-3


def test_few_draws_determine_the_values(bert):
    for n in range(3, 9):
        for seed in range(60):
            generator = shapley_values(range(n), n, budget=8, seed=seed)
            asked = next(generator)
            known = {}
            try:
                while True:
                    known.update((bits, [bits.bit_count() * 1.0 + (bits & 1) + 3 * (bits >> 1 & 1)]) for bits in asked)
                    asked = generator.send(np.array([known[bits] for bits in asked]))
            except StopIteration as stop:
                expected = [2.0, 4.0] + [1.0] * (n - 2)
                np.testing.assert_allclose(stop.value.values[:, 0], expected, atol=1e-8)
    with pytest.raises(ValueError, match=r"40 tokens would need 2\^40 evaluations: give a budget"):
        generator = shapley_values(range(40), 40, budget=None)
        next(generator)
        generator.send(np.zeros((2, 3)))


def test_equal_texts_and_special_tokens_cost_nothing_and_a_budget_of_forwards(bert):
    calls, forward = [], Forward(bert[0], "float64", batch_tokens=64)

    def counting(**inputs):
        calls.append(tuple(inputs["input_ids"].shape))
        return bert[0](**inputs)

    forward.model = counting
    found = run(*bert, [["It rains."] * 5 + ["It snows."] * 2], 500, forward)
    assert all(rows * length <= max(64, length) for rows, length in calls)
    assert sum(rows for rows, _ in calls) < sum(r.forwards for r in found.values())
    assert found[0].forwards < 0.6 * found[0].evaluations
    np.testing.assert_array_equal(found[0].values, found[4].values)
    found = run(*bert, [SENTENCES], 60, count_forwards=True)
    assert all(40 < r.forwards <= 62 for r in found.values() if r.truncated)
    assert any(r.evaluations > 62 for r in found.values())


def test_no_more_examples_are_under_way_than_fill_a_batch(bert):
    texts = [" ".join(words) for words in itertools.permutations(SENTENCES[1].split()[:5])]
    under_way, most = 0, 0

    def counted(generator):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        result = yield from generator
        under_way -= 1
        return result

    assert len(run(*bert, [texts], 60, Forward(bert[0], "float64", batch_tokens=64), counted)) == 120
    assert under_way == 0 and most < 20


def test_memory_that_runs_out_makes_batches_smaller(bert):
    forward = Forward(bert[0], "float64", batch_tokens=200)

    def small(**inputs):
        if inputs["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bert[0](**inputs)

    forward.model = small
    ids = np.random.default_rng(0).integers(5, 40, (20, 10))
    np.testing.assert_allclose(forward(ids, None), Forward(bert[0], "float64")(ids, None), atol=1e-12)
    assert forward.batch_tokens <= 60
