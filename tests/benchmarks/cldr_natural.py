"""CLDR names as they are, `all` and `large`: what `independence` weights change where the link is natural.

python tests/benchmarks/cldr_natural.py RUNS [--kept model_cards/cldr-scaling/natural.json] [--seeds 3] [--jobs 2]

Each is a run of recipes/cldr_names.py in a folder of RUNS; its measures are kept, with 95% t intervals over seeds.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from several_runs import keep, kept, run_all

from hf_langimb.files import read_json

RECIPE = Path(__file__).parents[2] / "recipes" / "cldr_names.py"
SIZES = {"train_size": 30_000, "validation_size": 6_000, "test_size": 20_000, "num_train_epochs": 5, "explain_rows": 0}
ACCURACIES = [f"targets.{target}.accuracy" for target in ("natural", "independent", "uniform")]
DEPENDENCE = "targets.independent.dependence_bits_corrected"


def command(name, folder, seeds):
    """The command line of a run."""
    words = [sys.executable, str(RECIPE), "--config", name, "--seeds", str(seeds), "--output_dir", str(folder / name)]
    return words + [word for key, value in SIZES.items() for word in (f"--{key}", str(value))]


def measures(folder):
    """What is kept of a run."""
    found = read_json(folder / "results.json", "run it again")
    trained = found["data"]["train/natural"]
    measured = [*ACCURACIES, DEPENDENCE, "targets.independent.skew_transfer"]
    pairs = {entry["metric"]: entry["difference"] for entry in found["comparisons"]}
    return {
        "languages": len(found["languages"]),
        "rows": int(np.sum(trained["counts"])),
        "empty_cells": len(trained["missing_cells"]),
        "bits": trained["mutual_information_bits"],
        "bits_by_chance": trained["mutual_information_chance_bits"],
        "seeds": len(found["seeds"]),
        "setups": {name: {key: of["summary"][key] for key in measured} for name, of in found["setups"].items()},
        "fall": pairs[DEPENDENCE],
    }


def main():
    parser = ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--kept", type=Path, default=RECIPE.parents[1] / "model_cards/cldr-scaling/natural.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    found = kept(options.kept)
    commands = {name: command(name, options.runs, options.seeds) for name in ("all", "large") if name not in found}
    for name in run_all(commands, options.runs, options.jobs):
        found[name] = measures(options.runs / name)
        keep(options.kept, dict(sorted(found.items())))


if __name__ == "__main__":
    main()
