"""The table of cumulative differences from fewer forward passes, measured on the kept mini models.

python tests/benchmarks/attributions_table.py --collect RUN [--rows 1200]    explains RUN's models, writes the sums
python tests/benchmarks/attributions_table.py                                measures on the sums that are kept

`--collect` explains the same test rows with the full tree, with shap's budget of 500, with 8 and 16 orders in two
halves, and with the budget of recipes, for five seeds of balanced and imbalanced, and keeps the sums over tokens at the
threshold 0.01 of every pair of models (float16, so that they take less than 5 MB). Everything else draws rows from
these sums and calls the estimators that `compare_seeds` calls. The truth is the mean over all rows of the full trees.
Prints JSON.
"""

import json
from argparse import ArgumentParser
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_langimb import attribute
from hf_langimb.measures.attribution.difference import _forms, _Sums
from hf_langimb.measures.attribution.regression import Population
from hf_langimb.measures.attribution.store import stack
from hf_langimb.measures.intervals import student
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FORMS
from hf_langimb.runs.explaining import BATCH_ROWS, batches
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.steps import loader
from hf_langimb.runs.subsets import TEST_SEED, load_data

KEPT = Path(__file__).parents[2] / "model_cards" / "benchmarks" / "attributions-table.parquet"
METHODS = {
    "full": {"method": "owen", "budget": None},
    "owen 500": {"method": "owen", "budget": 500},
    "8 orders": {"orders": 8},
    "16 orders": {"orders": 16},
    "budget 300": {"budget": 300},
}
ORDERS = ("8 orders", "16 orders", "budget 300")
SEEDS, SETUPS = range(5), ("imbalanced", "balanced")
LABELS = ["entailment", "neutral", "contradiction"]
PAIRS = [*product(range(10), range(5, 10))]  # a model and the balanced model that selects tokens


def collect(run, number, scratch):
    """Explain `number` rows of the test set by every model and method; keep the sums of all pairs of models."""
    recipe = parse_recipe("xnli", Path("recipes/xnli"), ["--config", "mini"])
    data = load_data(recipe.data, "language")
    texts = data.subset("test", data.test_plan, TEST_SEED)
    rows = np.concatenate(batches(texts["language"][:], texts["label"][:]))[:number]
    texts, folder, columns = texts.select(rows), RunFolder(run), {}
    for method, settings in METHODS.items():
        stores = []
        for setup, seed in product(SETUPS, SEEDS):
            trained, out = loader(folder.model(setup, seed))(), scratch / f"{method}-{setup}-{seed}".replace(" ", "-")
            stores.append(
                attribute(trained.model, trained.tokenizer, texts, out=out, text_columns=data.text_columns, **settings)
            )
        sums = _Sums(stores, (0.01,))
        over = [sums.over(*pair)[0, ..., ::2] for pair in PAIRS]  # [N, C, 2] each: the rest of p - b is neutral
        columns[method] = np.stack(over, axis=1).reshape(number, -1).astype(np.float16)
        columns[f"{method}, forwards"] = np.mean([store.examples["forwards"].to_numpy() for store in stores], axis=0)
        if method == "full":
            columns |= {name: np.array(stores[0].examples[name].to_pylist()) for name in ("language", "label")}
            columns["ends"] = sums.ends.transpose(1, 0, 2, 3).reshape(number, -1).astype(np.float32)
    arrays = {
        name: pa.array(of) if of.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(of.ravel()), of.shape[1])
        for name, of in columns.items()
    }
    pq.write_table(pa.table(arrays), KEPT, compression="zstd", compression_level=19)


@cache
def arrays(method):
    """Languages [N], labels [N], ends [10, N, 3, 2] and sums [pairs, N, 3, 3] of a method."""
    table = pq.read_table(KEPT)
    languages, labels = (np.array(table[name].to_pylist()) for name in ("language", "label"))
    ends = stack(table["ends"]).reshape(-1, 10, 3, 2).transpose(1, 0, 2, 3).astype(np.float64)
    over = stack(table[method]).astype(np.float64).reshape(-1, len(PAIRS), 3, 2).transpose(1, 0, 2, 3)
    effects = (ends[..., 1] - ends[..., 0])[[model for model, _ in PAIRS]]
    neutral = effects - over.sum(axis=-1)
    return (languages == "fr").astype(int), labels, ends, np.stack([over[..., 0], neutral, over[..., 1]], axis=-1)


class Kept(_Sums):
    """The sums of one method over some of the kept rows, in place of stores; `population` are all kept rows."""

    def __init__(self, method, rows=None):
        languages, labels, ends, over = arrays(method)
        rows = np.arange(len(languages)) if rows is None else rows
        self.thresholds, self.names, self.stores = [0.01], ["en", "fr"], [SimpleNamespace(labels=LABELS)]
        self._over = {pair: over[i][rows][None] for i, pair in enumerate(PAIRS)}
        self.languages, self.ends, self.resamples = languages[rows], ends[:, rows], 0
        self.population = Population(np.ones(len(rows)), languages, ends)
        self.cells = [np.flatnonzero((languages == k) & (labels == label)) for k in (0, 1) for label in LABELS]

    def estimate(self, form, regression=True, seeds=SEEDS):
        """Means [18], half of their intervals over rows (0 without regression), of their intervals over seeds."""
        choices = _forms([*seeds], [*seeds])[form]
        if len(seeds) == 1:  # the models of one seed, as in a run with one
            choices = [choices[0]._replace(reference=5, selection=5, known=((0, 5),))]
        found = self._by_regression(choices, self.population) if regression else self._by_means(choices)
        mean = found.by_choice.mean(axis=0)
        bounds = found.intervals, found.over_seeds(choices, [*seeds] * 2)
        halves = [np.zeros_like(mean) if of is None else np.diff(of, axis=0)[0] / 2 for of in bounds]
        return [of[0, ..., :3].ravel() for of in (mean, *halves)]


def draw(cells, rng):
    """Rows of a batch: 20 of each language and label, with replacement."""
    return np.concatenate([rng.choice(cell, BATCH_ROWS) for cell in cells])


def widths(method, form, rng):
    """Half-widths [18] squared times rows, without and with the regression; for a test set of 6,000 rows."""
    plain, regressed = [], []
    for _ in range(20):
        kept = Kept(method)
        rows = np.concatenate([draw(kept.cells, rng) for _ in range(3)])
        sample = Kept(method, rows)
        choices = _forms([*SEEDS], [*SEEDS])[form]
        parts = np.mean([sample._parts(choice)[0, ..., :3] for choice in choices], axis=0)
        of_language = [parts[sample.languages == k] for k in (0, 1)]
        plain.append([student(len(of)) ** 2 * of.var(axis=0, ddof=1) * 2 for of in of_language])
        every, copies = kept.population, 6000 // len(kept.languages)
        ends = np.tile(every.ends, (1, copies, 1, 1))
        sample.population = Population(sample.population.weights, np.tile(every.languages, copies), ends)
        regressed.append(sample.estimate(form)[1] ** 2 * len(rows))
    return np.mean(plain, axis=0).ravel(), np.mean(regressed, axis=0)


def coverage(method, form, seeds, tolerance, draws, rng):
    """With the stopping rule: the share of intervals that contain the truth, and the rows that were used."""
    whole = Kept(method)
    truth = Kept("full").estimate(form, regression=False, seeds=seeds)[0]
    inside, used, stopped = [], [], 0
    for _ in range(draws):
        rows = np.empty(0, dtype=np.int64)
        for _ in range(len(whole.languages) // 6 // BATCH_ROWS):
            rows = np.concatenate([rows, draw(whole.cells, rng)])
            mean, half, over_seeds = Kept(method, rows).estimate(form, seeds=seeds)
            if (half <= np.maximum(tolerance, over_seeds / 2)).all():
                stopped += 1
                break
        inside.append(np.abs(mean - truth) <= half)
        used.append(len(rows))
    by_cell = np.mean(inside, axis=0)
    found = {"coverage": float(np.mean(inside)), "lowest of a cell": float(by_cell.min()), "draws": draws}
    return found | {"tolerance": tolerance, "precise": stopped / draws, "mean rows": float(np.mean(used))}


def measure(draws):
    """Widths, forwards, bias and coverage of each method, and of Owen values at a budget of 500."""
    table, rng = pq.read_table(KEPT), np.random.default_rng(100)
    forwards = {method: float(np.mean(table[f"{method}, forwards"].to_numpy())) for method in METHODS}
    exact = {form: Kept("full").estimate(form, regression=False)[0] for form in FORMS}
    found = {"rows": len(table), "seeds": len(SEEDS), "forwards of a row": forwards, "forms": {}, "coverage": {}}
    for form in FORMS:
        base, base_regressed = widths("owen 500", form, rng)
        of_form = found["forms"][form] = {"owen 500": {"regression": float(np.mean(base_regressed / base))}}
        for method in ORDERS:
            plain, regressed = widths(method, form, rng)
            cost = forwards[method] / forwards["owen 500"]
            of_form[method] = {
                "forwards for the same width, without regression": float(np.mean(plain / base) * cost),
                "forwards for the same width": float(np.mean(regressed / base) * cost),
            }
        for method in ("owen 500", *ORDERS):
            bias = np.abs(Kept(method).estimate(form, regression=False)[0] - exact[form])
            of_form[method] |= {"mean bias": float(bias.mean()), "largest bias": float(bias.max())}
    for method in ORDERS:
        of_method = found["coverage"][method] = {}
        of_method["five seeds, unbiased"] = coverage(method, "unbiased", SEEDS, 0.01, draws, rng)
        of_method["one seed, result"] = coverage(method, "result", range(1), 0.03, draws, rng)
    return found


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--collect", type=Path, metavar="RUN")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/attributions-table"))
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, options.rows, options.scratch)
    else:
        print(json.dumps(measure(options.draws), indent=1))
