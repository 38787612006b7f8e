"""The table of cumulative differences from fewer forward passes, measured on the kept mini models.

python tests/benchmarks/attributions_table.py --collect RUN [--rows 1200]    explains RUN's models, writes the sums
python tests/benchmarks/attributions_table.py                                measures on the sums that are kept

`--collect` explains the same test rows with the full tree, with shap's budget of 500, and with 8 and 16 orders in two
halves, for five seeds of balanced and imbalanced, and keeps the sums over tokens at the threshold 0.01 of every pair of
models (float16, so that they take less than 5 MB). Everything else draws rows from these sums and calls the estimators
that `compare_seeds` calls. The truth is the mean over all rows of the full trees. Prints JSON.
"""

import json
import time
from argparse import ArgumentParser
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_langimb import attribute
from hf_langimb.measures.attribution.difference import _forms, _Sums
from hf_langimb.measures.attribution.regression import Population, population
from hf_langimb.results.folder import RunFolder
from hf_langimb.runs.explaining import batches
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.steps import loader
from hf_langimb.runs.subsets import TEST_SEED, load_data

KEPT = Path(__file__).parents[2] / "model_cards" / "benchmarks" / "attributions-table.parquet"
METHODS = {
    "full": {"method": "owen", "budget": None},
    "owen 500": {"method": "owen", "budget": 500},
    "8 orders": {"orders": 8},
    "16 orders": {"orders": 16},
}
SEEDS, SETUPS = range(5), ("imbalanced", "balanced")
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
        over = [sums.over(*pair)[0] for pair in PAIRS]  # [N, C, 3] each
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


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--collect", type=Path, metavar="RUN")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/attributions-table"))
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, options.rows, options.scratch)
