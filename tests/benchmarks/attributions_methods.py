"""The tables of a run's attributions by two methods: Owen values of shap's cut tree, and the default of recipes.

python tests/benchmarks/attributions_methods.py RUN [RUN ...] [--work FOLDER]

RUN is a folder that a recipe wrote with `--explain_rows auto`. Every model explains the rows that the run explained
with `owen` (shap's budget of 500 evaluations) and with `owen_orders` (the run's budget of forward passes), one after
the other, in turn first; CPU seconds, one thread. Then the compared setups are compared by each method as in
results.json: all forms and thresholds, means by regression on the predictions, intervals over seeds. A cell is the sum
over one set of tokens. Nothing is written to RUN; models that are finished in `--work` are not explained again. Prints
JSON.
"""

import json
import shutil
import tempfile
import time
from argparse import ArgumentParser
from itertools import product
from pathlib import Path
from statistics import fmean as mean

import numpy as np
import torch

from hf_langimb import attribute
from hf_langimb.files import read_json, write_json
from hf_langimb.measures.attribution import SETS
from hf_langimb.measures.attribution.store import AttributionStore
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FORMS, read_results
from hf_langimb.results.tables import shown_interval
from hf_langimb.runs.explaining import batches, compared
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.steps import loader
from hf_langimb.runs.subsets import TEST_SEED, load_data

RECIPES, SHOWN = Path(__file__).parents[2] / "recipes", 0.01  # the threshold of the tables
ROWS, COUNTED = ["id", "language", "label"], ("forwards", "truncated")  # columns


def explained_rows(results):
    """The test rows that a run explained, their text columns and their maximum length."""
    flags = [[f"--{name}", *map(str, of if isinstance(of, list) else [of])] for name, of in results["flags"].items()]
    words = ["--config", results["config_name"], *(word for flag in flags for word in flag)]
    recipe = parse_recipe(results["recipe"], RECIPES / results["recipe"], words)
    data = load_data(recipe.data, recipe.training.language_column)
    texts = data.subset("test", data.test_plan, TEST_SEED)
    rows = np.concatenate(batches(texts["language"][:], texts["label"][:]))[: results["attributions"]["examples"]]
    return texts.select(rows), {"text_columns": data.text_columns, "max_length": recipe.data.max_length}


def explain(model, rows, out, **settings):
    """The store of a model and the CPU seconds that it took; those that are there if it is finished."""
    seconds = out.with_name(f"{out.name}.json")  # written last
    if not seconds.is_file():
        shutil.rmtree(out, ignore_errors=True)
        began = time.process_time()
        attribute(model.model, model.tokenizer, rows, out=out, **settings)
        write_json(seconds, time.process_time() - began)
    return AttributionStore(out), read_json(seconds, "remove it")


def cells(found):
    """{(form, threshold, language, label, set): mean, low and high} of a comparison."""
    of_cells = {}
    for form, tokens in product(FORMS, SETS):
        for entry in found[form]:
            low, high = shown_interval(entry, tokens)
            place = form, entry["threshold"], entry["language"], entry["label"], tokens
            of_cells[place] = {"mean": entry[tokens], "low": low, "high": high}
    return of_cells


def measure(run, work):
    """Costs of both methods on a run's models, and the cells of its tables by both."""
    folder, results = RunFolder(run), read_results(run)
    rows, settings = explained_rows(results)
    models = [(setup, int(seed)) for setup, of in results["setups"].items() for seed in of["seeds"]]
    kept = {model: AttributionStore(folder.store(*model)) for model in models}
    budgets = {"owen": 500, "owen_orders": kept[models[0]].manifest["budget"]}
    found = {method: {} for method in budgets}
    for number, model in enumerate(models):
        trained = loader(folder.model(*model))()
        attribute(trained.model, trained.tokenizer, rows.select(range(2)), out=tempfile.mkdtemp(), **settings)  # warm
        for method in sorted(budgets, reverse=number % 2 == 1):
            out, of_method = work / method / "{}-seed-{}".format(*model), {"method": method, "budget": budgets[method]}
            store, seconds = explain(trained, rows, out, **of_method, **settings)
            assert store.examples.select(ROWS) == kept[model].examples.select(ROWS), f"not the rows of {run}"
            found[method][model] = store, seconds
    methods, tables = {}, {}
    for method, of in found.items():
        tables[method] = cells(compared(folder, {model: store for model, (store, _) in of.items()}, None))
        opened = [store for store, _ in of.values()]
        forwards, cut = (mean(mean(one.examples[name].to_pylist()) for one in opened) for name in COUNTED)
        methods[method] = {
            "budget": budgets[method],
            "forwards": forwards,
            "cpu_seconds": sum(seconds for _, seconds in of.values()),
            "cut_share": cut,
            "exact_share": mean(one.manifest.get("exact_share", 1 - cut) for one in opened),
        }
    names, shown = ("form", "threshold", "language", "label", "set"), cells(results["attributions"])
    by_cell = [dict(zip(names, cell, strict=True)) | {way: tables[way][cell] for way in tables} for cell in shown]
    away = max(abs(of["mean"] - shown[cell]["mean"]) for cell, of in tables["owen_orders"].items())
    found = {"rows": len(rows), "models": len(models), "methods": methods, "largest difference from results.json": away}
    return found | {"summary": summary(by_cell), "cells": by_cell}


def summary(by_cell):
    """How far the methods are apart, of all cells and of those at the threshold of the tables; their other answers."""
    found = {}
    for name, chosen in {"all": by_cell, "shown": [of for of in by_cell if of["threshold"] == SHOWN]}.items():
        pairs = [(of["owen"], of["owen_orders"]) for of in chosen]
        differences = [abs(one["mean"] - other["mean"]) for one, other in pairs]
        widths = [(other["high"] - other["low"]) / 2 for _, other in pairs]
        excludes = [[of["low"] > 0 or of["high"] < 0 for of in pair] for pair in pairs]
        found[name] = {
            "cells": len(chosen),
            "mean_difference": mean(differences),
            "largest_difference": max(differences),
            "largest_in_half_widths": max(of / width for of, width in zip(differences, widths, strict=True)),
            "other_sign": sum(one["mean"] * other["mean"] < 0 for one, other in pairs),
            "other_answer": sum(one != other for one, other in excludes),  # whether the interval excludes zero
        }
    return found


def rounded(value):
    """Numbers with five significant digits, at any depth."""
    if isinstance(value, dict):
        return {key: rounded(of) for key, of in value.items()}
    if isinstance(value, list):
        return [rounded(of) for of in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main():
    parser = ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "attributions-methods")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {run.name: measure(run, options.work / run.name) for run in options.runs}
    every = [cell for of in found.values() for cell in of["cells"]]
    print(json.dumps(rounded({"device": "cpu, one thread", "summary": summary(every), "runs": found}), indent=1))


if __name__ == "__main__":
    main()
