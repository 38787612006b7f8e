"""How often the verdict is right for trained models: with and without a link in the training data, each seed by itself.

python tests/benchmarks/verdict_models.py RUNS [--kept model_cards/verdict/models.json] [--seeds 20] [--jobs 2]

Each case is trained in runs of five seeds, in folders of RUNS, with two setups: the data as they are, and with the
weights `independence`. The thresholds are the defaults. After each run the kept file is written again: for each
case the measures of each seed, how many seeds answer yes, no, unclear and not measured for the setup without weights
(`imbalanced`) and for the weighted one, and the Clopper-Pearson interval of the share of yes. Seeds that are there
already are not run again, and an interrupted command continues in its folders.
"""

import sys
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

import numpy as np
from pyarrow.parquet import read_table
from scipy.stats import beta
from several_runs import keep, kept, run_all

from hf_langimb import JointDistribution
from hf_langimb.files import read_json
from hf_langimb.measures.dependence import sampled
from hf_langimb.results.summary import Roles
from hf_langimb.runs.judge import Judge

RECIPES = Path(__file__).parents[2] / "recipes"
TWELVE = ["cs", "de", "en", "es", "fi", "fr", "he", "hu", "ja", "pl", "ru", "zh"]
SETUPS = ["imbalanced", "independence"]
BLOCK = 5  # seeds of one run
XNLI = ["xnli.py", "--config", "mini", "--control_seed", "false"]
CLDR = ["cldr_names.py", "--config", "skew-20", "--load_best_model_at_end", "false"]
EVEN = ["--languages", *TWELVE, "--train_size", "3360", "--validation_size", "480", "--test_size", "1920"]
SIZES = [10, 7, 6, 5, 4, 4, 4, 4, 3, 3, 3, 3]  # rows of one label, in proportion
UNEVEN = f"""extends: skew-20
languages: []
skew: null
imbalanced_shares: {[f"{name}{f' {size}/{5 * sum(SIZES)}' * 5}" for name, size in zip(TWELVE, SIZES, strict=True)]}
train_size: 2520
validation_size: 280
test_size: 1920
load_best_model_at_end: false
"""
CASES = {  # link, command
    "no link, mini-XNLI": (False, [*XNLI, "--imbalanced_shares", "fr 1/3 1/3 1/3", "en 1/3 1/3 1/3"]),
    "no link, undertrained": (False, [*CLDR, "--skew", "1", *EVEN, "--num_train_epochs", "2"]),
    "link of .1 bits, 2 languages": (
        True,
        [*XNLI, "--imbalanced_shares", "fr 29/60 20/60 11/60", "en 11/60 20/60 29/60"],
    ),
    "link of .1 bits, 12 languages": (True, [*CLDR, "--skew", "3.1", *EVEN]),
    "no link, 12 uneven languages": (False, ["cldr_names.py", "--config", "uneven.yaml"]),
}


def folder_of(name, first):
    return "".join(letter if letter.isalnum() else "-" for letter in name) + f"-{first}"


def command(name, first, folder):
    """The command line of `BLOCK` seeds of a case."""
    script, *words = CASES[name][1]
    words = [str(folder / word) if word.endswith(".yaml") else word for word in words]
    words = [sys.executable, str(RECIPES / script), *words, "--setups", *SETUPS]
    words += ["--seed", str(first), "--seeds", str(BLOCK)]
    return [*words, "--explain_rows", "0", "--output_dir", str(folder / folder_of(name, first))]


def answers(run, results, setup, seed):
    """{name: answer} of one model as the subject, with the other setup as its cure where it is the unweighted one."""
    rows = {name: read_table(run / name / f"seed-{seed}" / "predictions.parquet") for name in SETUPS}
    audit = results["data"]["train/imbalanced"]
    labels = range(len(results["labels"]))
    plan = JointDistribution(tuple(audit["languages"]), tuple(labels), np.array(audit["counts"]))
    samples = {
        (name, seed): {"test": sampled(of["language"], of["label"], of["prediction"], plan=plan, groups=of["id"])}
        for name, of in rows.items()
    }
    for sample in samples.values():
        sample["validation"] = sample["test"]
    metrics = {name: {seed: results["setups"][name]["seeds"][seed]} for name in SETUPS}
    roles = Roles(setup, None, (SETUPS[1],) if setup == SETUPS[0] else ())
    return {entry["name"]: entry["answer"] for entry in Judge(roles, metrics, samples, audit, 1).verdict()}


def measured(run, results, setup, seed):
    """The kept figures of one model."""
    of = results["setups"][setup]["seeds"][seed]["targets"]["independent"]
    return {
        "dependence": of["dependence_bits"] - of["dependence_chance_bits"],
        "skew_transfer": of["skew_transfer"],
        "accuracy": of["accuracy"],
        "answers": answers(run, results, setup, seed),
    }


def add(found, name, run):
    """Add the seeds of a run to the kept figures of its case, and count the answers anew."""
    results = read_json(run / "results.json", "run the case again")
    models = {setup: results["setups"][setup]["seeds"] for setup in SETUPS}
    entry = found.setdefault(name, {"link": CASES[name][0]})
    entry["bits"] = results["data"]["train/imbalanced"]["mutual_information_bits"]
    entry["test_rows"] = next(iter(models[SETUPS[0]].values()))["test"]["rows"]
    for setup, seeds in models.items():
        kept_seeds = entry.setdefault(setup, {"seeds": {}})["seeds"]
        kept_seeds |= {seed: measured(run, results, setup, seed) for seed in seeds}
        per_seed = [of["answers"] for of in kept_seeds.values()]
        counts = Counter(answer["shortcut"] for answer in per_seed)
        yes, number = counts["yes"], len(per_seed)
        low = float(beta.ppf(0.025, yes, number - yes + 1)) if yes else 0.0
        high = float(beta.ppf(0.975, yes + 1, number - yes)) if yes < number else 1.0
        entry[setup]["shortcut"] = dict(counts)
        entry[setup]["yes"] = {"count": yes, "of": number, "interval": [low, high]}


def main():
    parser = ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--kept", type=Path, default=RECIPES.parent / "model_cards/verdict/models.json")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    (options.runs / "uneven.yaml").write_text(UNEVEN)

    found, blocks = kept(options.kept), {}
    for first in range(0, options.seeds, BLOCK):  # every case gets its first seeds before one gets its last
        for name in options.cases:
            if str(first) not in found.get(name, {}).get(SETUPS[0], {"seeds": {}})["seeds"]:
                blocks[folder_of(name, first)] = name, first
    commands = {folder: command(*block, options.runs) for folder, block in blocks.items()}
    for done in run_all(commands, options.runs, options.jobs):
        add(found, blocks[done][0], options.runs / done)
        found = {name: found[name] for name in CASES if name in found}
        keep(options.kept, found)


if __name__ == "__main__":
    main()
