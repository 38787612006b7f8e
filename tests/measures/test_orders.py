"""Owen values from designed orders: where they are exact, no bias elsewhere, the budget, and their stores."""

import itertools
import re

import numpy as np
import pytest
from attribution_models import SENTENCES, rows
from conftest import assert_close

from hf_langimb import attribute, cumulative_difference
from hf_langimb.measures.attribution.methods import owen_values
from hf_langimb.measures.attribution.orders import SHARE, owen_orders
from hf_langimb.measures.attribution.store import AttributionStore, stack

DATA = rows(text=[SENTENCES[1 + i % 7] if i % 3 else "It" for i in range(12)])  # all orders of "It" are few
TOKENS = 11
INNER = 0b01111101110  # the tokens at the ends and one between are special


def merged(seed=None, tokens=TOKENS):
    """Merges of neighbors in a random order; without a seed each token is added to all before it."""
    rng, nodes, found = np.random.default_rng(seed), list(range(tokens)), []
    for node in range(tokens, 2 * tokens - 1):
        place = 0 if seed is None else rng.integers(len(nodes) - 1)
        found.append((*nodes[place : place + 2], 0, 0))
        nodes[place : place + 2] = [node]
    return np.array(found, dtype=float)


def game(together, tokens=TOKENS):
    """float[2^T, 2] of coalitions: random numbers of their subsets of at most `together` tokens, added up."""
    rng, bits = np.random.default_rng(0), np.arange(2**tokens)
    values = np.zeros((2**tokens, 2))
    for members in (one for size in range(together + 1) for one in itertools.combinations(range(tokens), size)):
        subset = sum(1 << i for i in members)
        values += (bits & subset == subset)[:, None] * rng.normal(size=2)
    return values


def run(method, values, maskable=-1):
    """What a method finds, and the coalitions of each of its requests."""
    requests, answer = [], None
    while True:
        try:
            requests.append([coalition & maskable for coalition in method.send(answer)])
        except StopIteration as stop:
            return stop.value, requests
        answer = values[requests[-1]]


def by_orders(tree, values, maskable=-1, *, orders=None, halves=2, budget=None, seed=0):
    """Their result, whose values add up; of given orders every coalition is asked for at once, once."""
    method = owen_orders(tree, orders=orders, halves=halves, budget=budget, maskable=maskable, seed=seed)
    found, requests = run(method, values, maskable)
    assert len({*itertools.chain(*requests)}) == found.evaluations
    if orders or not found.orders:
        assert len(requests) == 1 and len(requests[0]) == found.evaluations
    np.testing.assert_allclose(found.base + found.values.sum(axis=0), found.full, rtol=0, atol=1e-9)
    return found


def owen(tree, values, maskable=-1, **settings):
    return run(owen_values(tree, maskable=maskable, **{"budget": None} | settings), values, maskable)[0]


@pytest.mark.parametrize(("shape", "maskable"), [(None, INNER), (3, INNER), (3, -1)])
def test_all_orders_give_the_values_of_the_whole_tree(shape, maskable):
    tree, values = merged(shape), game(5)
    found, expected = by_orders(tree, values, maskable), owen(tree, values, maskable)
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-9)
    assert found.orders == 0 and (found.half_difference == 0).all()
    assert (found.values[[i for i in range(TOKENS) if not maskable >> i & 1]] == 0).all()


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("orders", [4, 8, 16, 32, 64])
def test_where_only_pairs_of_tokens_interact_any_number_of_orders_is_exact(orders, halves):
    values = game(2)
    for shape, maskable in ((None, -1), (None, INNER), (2, INNER)):
        tree = merged(shape)
        found = by_orders(tree, values, maskable, orders=orders, halves=halves)
        assert found.orders == orders or orders > 16 or shape  # else all orders need as few coalitions
        np.testing.assert_allclose(found.values, owen(tree, values, maskable).values, rtol=0, atol=1e-9)
        assert (found.half_difference is None) is (halves == 1)


@pytest.mark.parametrize(("halves", "enough"), [(1, 16), (2, 32)])
def test_where_four_tokens_interact_a_column_for_each_depth_is_exact(halves, enough):
    tree, maskable = merged(), 0b01111111110  # 9 tokens, 8 depths
    four, five = game(4), game(5)
    exact = {4: owen(tree, four, maskable).values, 5: owen(tree, five, maskable).values}
    for seed in range(4):
        for orders, together, is_exact in ((enough, 4, True), (enough // 2, 4, False), (enough, 5, False)):
            values = four if together == 4 else five
            found = by_orders(tree, values, maskable, orders=orders, halves=halves, seed=seed)
            assert found.orders == orders
            assert bool(np.abs(found.values - exact[together]).max() < 1e-9) is is_exact


@pytest.mark.parametrize("halves", [1, 2])
def test_draws_have_no_bias_and_half_differences_are_their_errors(halves):
    tree, maskable = merged(), 0b01111111110
    values = np.random.default_rng(0).normal(size=(2**TOKENS, 2)).cumsum(axis=0) / 40  # all tokens interact
    exact = owen(tree, values, maskable).values
    drawn = [by_orders(tree, values, maskable, orders=4, halves=halves, seed=(i, 7)) for i in range(600)]
    found = np.array([one.values for one in drawn])
    error = found.std(axis=0, ddof=1) / np.sqrt(600)
    assert (np.abs(found.mean(axis=0) - exact) < 4.5 * error + 1e-12).all()
    budget = max(one.evaluations for one in drawn)
    cut = owen(tree, values, maskable, budget=budget, count_forwards=True)
    assert cut.truncated and (np.abs(cut.values - exact) > 20 * error + 1e-12).any()
    if halves == 2:
        variance, squares = found.var(axis=0, ddof=1), np.mean([one.half_difference**2 for one in drawn], axis=0)
        noisy = variance > 1e-20
        assert noisy.any(axis=1).sum() >= 7
        np.testing.assert_allclose(squares[noisy] / variance[noisy], 1, atol=0.4)
        assert squares[noisy].sum() / variance[noisy].sum() == pytest.approx(1, abs=0.15)


def test_nodes_that_are_opened_take_the_large_effects_from_the_orders():
    """A game in which five tokens decide together: no bias, and far smaller errors than those of orders alone."""
    tree, together = merged(7), 0b01100101100
    values = 1.0 * np.stack([(np.arange(2**TOKENS) & together) == together] * 2, axis=1)
    exact = owen(tree, values).values
    drawn = [by_orders(tree, values, budget=100, seed=seed) for seed in range(600)]
    found, alone = (
        np.array([one.values for one in of])
        for of in (drawn, [by_orders(tree, values, orders=8, seed=seed) for seed in range(100)])
    )
    assert max(one.evaluations for one in drawn) <= 100 and {one.orders for one in drawn} <= {4, 8}
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found)) + 1e-12
    assert (np.abs(found.mean(axis=0) - exact) <= 4.5 * error).all()
    assert 0 < np.abs(found - exact).mean() < 0.5 * np.abs(alone - exact).mean()
    differences = np.array([one.half_difference for one in drawn])
    assert (differences**2).mean() == pytest.approx(found.var(axis=0).mean(), rel=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_the_most_orders_that_the_budget_allows(seed):
    tree, values = merged(seed, 11), game(3)
    everything = by_orders(tree, values).evaluations
    seen = {}
    for budget in range(everything + 1, 30, -1):
        try:
            found = by_orders(tree, values, budget=budget, seed=seed)
        except ValueError as error:  # says how many forward passes are needed
            needed = int(
                re.search(r"A text of 11 tokens needs (\d+) forward passes for the minimum of 4 orders", str(error))[1]
            )
            assert needed == budget + 1 == by_orders(tree, values, budget=needed, seed=seed).evaluations
            break
        assert found.evaluations <= budget
        assert (found.orders == 0) is (budget >= everything)
        if 0 < found.orders < 64:  # twice as many would not fit what is for orders
            assert by_orders(tree, values, orders=2 * found.orders, seed=seed).evaluations > SHARE * budget
        seen[found.orders] = found
    assert [*seen] == [0, *sorted({*seen} - {0}, reverse=True)] and 4 in seen and len(seen) >= 3
    again = by_orders(tree, values, orders=4, budget=4, seed=seed)  # given orders are taken at any budget
    np.testing.assert_allclose(again.values, seen[4].values, rtol=0, atol=1e-9)
    for content in (0, 2):  # nothing to draw: no order, or one
        assert by_orders(tree, values, content, orders=8, budget=4, seed=seed).orders == 0
    few = by_orders(merged(seed, 4), game(4, 4), orders=64, budget=4, seed=seed)  # all orders need no more
    assert few.orders == 0 and few.evaluations <= 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *[({"orders": o}, f"power of two from 4 up .*, got {o!r}") for o in (0, 2, 6, -4, True, 8.0, "8")],
        *[({"halves": halves}, f"halves must be 1 or 2, got {halves!r}") for halves in (0, 3, True, None)],
        ({"method": "owen", "orders": 8}, "orders are for method='owen_orders' only, got method='owen'"),
        ({"budget_unit": "evaluations"}, "budget_unit='evaluations' is not for method='owen_orders'"),
        (
            {"budget": 20},
            r"needs (\d+) forward passes for the minimum of 4 orders, but the budget is 20: raise it to \1 or more,",
        ),
    ],
)
def test_bad_input(bert, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        attribute(*bert, rows(2), out=tmp_path / "store", **settings)
    assert not re.search(r"\. |\n", str(caught.value)) and str(caught.value).endswith(".")


@pytest.fixture(scope="module")
def explain(bert, tmp_path_factory):
    """Function (data=12 rows, out=a new folder, **settings): their attributions from 4 orders."""
    folder, numbers = tmp_path_factory.mktemp("orders"), itertools.count()

    def make(data=None, out=None, **settings):
        place = folder / (out or f"store-{next(numbers)}")
        settings = {"shard_size": 5} | ({"orders": 4} if "method" not in settings else {}) | settings
        return attribute(*bert, data or DATA, out=place, **settings)

    return make


@pytest.fixture(scope="module")
def store(explain):
    return explain()


def tables(store):
    return [store.examples.to_pydict(), store.tokens.to_pydict()]


def test_a_store_mixes_exact_and_sampled_rows(store, explain):
    orders = np.array(store.examples["orders"].to_pylist())
    assert {*orders.tolist()} == {0, 4}
    expected = {"method": "owen_orders", "orders": 4, "halves": 2, "design": "Hadamard, strength 3", "seed": 0}
    expected |= {"budget": None, "budget_unit": "forwards", "exact_share": (orders == 0).mean()}
    assert_close(store.manifest, expected)
    exact = (orders == 0)[store.tokens["example"].to_numpy()]
    difference, values = stack(store.tokens["half_difference"]), stack(store.tokens["S"])
    assert (difference[exact] == 0).all() and np.abs(difference[~exact]).max() > 0.001
    assert store.halves.shape == (2, *values.shape)
    np.testing.assert_allclose(store.halves.mean(axis=0), values, atol=1e-6)
    np.testing.assert_allclose(store.halves[:, exact], np.stack([values[exact]] * 2), atol=1e-6)
    whole = stack(explain(budget=None, orders=None).tokens["S"])
    np.testing.assert_allclose(whole[exact], values[exact], atol=1e-6)
    assert not store.examples["truncated"].to_numpy().any()
    assert_close(tables(explain()), tables(store))
    entries = cumulative_difference(store, store, resamples=0)
    assert {entry["positive"] for entry in entries} == {0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orders": 8}, "orders is 4 in one and 8 in the other"),
        ({"seed": 1}, "seed is 0 in one and 1 in the other"),
        ({"halves": 1}, "halves is 2 in one and 1 in the other"),
        ({"method": "owen"}, "method is 'owen_orders' in one and 'owen' in the other"),
    ],
)
def test_stores_of_other_draws_are_not_compared(store, explain, settings, message):
    other = explain(**settings)
    for stores in ({"reference": other}, {"reference": store, "selection": other}):
        with pytest.raises(ValueError, match=f"cannot be compared: {message}. Explain the same rows"):
            cumulative_difference(store, **stores, resamples=0)


def test_without_draws_seeds_may_differ_and_there_are_no_halves(explain):
    stores = [explain(method="owen", budget=40, seed=seed) for seed in (0, 1)]
    assert cumulative_difference(*stores, resamples=0)
    for store in (stores[0], explain(halves=1)):
        assert not store.has_halves
        with pytest.raises(ValueError, match=r"have no halves \(method 'owen.*\): explain the rows again with method="):
            _ = store.halves


def test_batches_are_read_as_one_store(store, explain):
    first, second = (DATA.select(part) for part in (range(7), range(7, 12)))
    explain(first, "all/batch-000")
    explain(second, "all/batch-001", first_example=7)
    folder = store.folder.parent / "all"
    joined = AttributionStore(folder)
    assert (len(joined), len(joined.batches)) == (12, 2)
    assert_close(tables(joined), tables(store))
    np.testing.assert_allclose(joined.halves, store.halves, atol=1e-6)
    assert joined.manifest["exact_share"] == pytest.approx(store.manifest["exact_share"])
    assert len(joined.to_explanation([8])) == 1
    assert len(AttributionStore(folder, batches=1)) == 7
    assert cumulative_difference(joined, AttributionStore(folder), resamples=0)
    fewer = cumulative_difference(joined, AttributionStore(folder, batches=1), resamples=0)
    assert sum(entry["examples"] for entry in fewer) == 7 * 3 * 3  # thresholds and labels
    wrong = [{"first_example": 7} | of for of in ({"seed": 1}, {"orders": 8})]
    for number, changed in enumerate([{}, {"first_example": 6}, {"first_example": 8}, *wrong]):
        name = f"wrong-{number}"
        explain(first, f"{name}/batch-000")
        explain(second, f"{name}/batch-001", **changed)
        with pytest.raises(ValueError, match=rf"The batches in .*{name} do not belong together: remove the folder"):
            AttributionStore(folder.parent / name)
