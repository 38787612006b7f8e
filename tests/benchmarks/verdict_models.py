"""How often the verdict is right for trained models: with and without a link in the training data, each seed by itself.

python tests/benchmarks/verdict_models.py RUNS [--kept model_cards/verdict/models.json] [--seeds 20] [--jobs 2]

Each case is trained in runs of five seeds, in folders of RUNS: on the data as they are (`imbalanced`), with the weights
`independence`, and, where labels and language are linked, on balanced data. The thresholds are the defaults. After each
run the kept file is written again: for each case the measures of each seed, how many seeds give each answer to each
question, for the setup without weights and, where there is a link, for the weighted one, and the Clopper-Pearson
interval of the share of yes. Seeds that are there already are not run again, and an interrupted command continues in
its folders.
"""

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyarrow.parquet import read_table
from scipy.stats import beta
from several_runs import keep, kept, run_all

from hf_langimb import JointDistribution
from hf_langimb.counts.sampling import skewed_shares
from hf_langimb.files import read_json
from hf_langimb.measures.dependence import sampled
from hf_langimb.results.summary import Roles
from hf_langimb.runs.judge import Judge

RECIPES = Path(__file__).parents[2] / "recipes"
TWELVE = ["cs", "de", "en", "es", "fi", "fr", "he", "hu", "ja", "pl", "ru", "zh"]
BLOCK = 5  # seeds of one run
SIZES = np.array([10, 7, 6, 5, 4, 4, 4, 4, 3, 3, 3, 3])  # rows of a label in an uneven language, in proportion
SETUPS = {False: ["imbalanced", "independence"], True: ["balanced", "imbalanced", "independence"]}  # by link
KINDS = ("link", "dependence", "follows_skew", "caused_by_link", "shortcut")
ASKED = {False: ["imbalanced"], True: ["imbalanced", "independence"]}


class Case(NamedTuple):
    """A case: whether language and label are linked, how training rows are drawn, and the recipe's other settings.

    `shares` [L, C] are those of the population; the rows of each block of seeds are a multinomial sample of it. The
    balanced test sets of CLDR have 1,920 rows, the most that the names of these languages allow.
    """

    link: bool
    languages: list[str]
    shares: np.ndarray
    rows: int
    settings: dict[str, int]


CLDR = {"validation_size": 480, "test_size": 1920, "load_best_model_at_end": False}
CASES = {
    "no link, mini-XNLI": Case(False, ["fr", "en"], np.ones((2, 3)), 4800, {}),
    "no link, undertrained": Case(False, TWELVE, np.ones((12, 5)), 3000, CLDR | {"num_train_epochs": 2}),
    "link of 0.1 bits, 2 languages": Case(True, ["fr", "en"], np.array([[29, 20, 11], [11, 20, 29]]), 4800, {}),
    "link of 0.1 bits, 12 languages": Case(True, TWELVE, skewed_shares(3.1, 12, 5), 3000, CLDR),
    "no link, 12 uneven languages": Case(
        False, TWELVE, np.repeat(SIZES[:, None], 5, axis=1), 2520, CLDR | {"validation_size": 280}
    ),
}


def folder_of(name, first):
    return "".join(letter if letter.isalnum() else "-" for letter in name) + f"-{first}"


def command(name, first, folder):
    """The command line of `BLOCK` seeds of a case, which gets a configuration of its own."""
    case, place = CASES[name], folder_of(name, first)
    shares = case.shares / case.shares.sum()
    drawn = np.random.default_rng([1000, first]).multinomial(case.rows, shares.ravel()).reshape(shares.shape)
    rows = [" ".join(f"{number}/{case.rows}" for number in row) for row in drawn]
    lines = [f"{language} {row}" for language, row in zip(case.languages, rows, strict=True)]
    script, extended = ("xnli", "mini") if case.shares.shape[1] == 3 else ("cldr_names", "skew-20")
    settings = {"extends": extended, "imbalanced_shares": lines, "explain_rows": 0, **case.settings}
    settings |= (
        {"control_seed": False} if script == "xnli" else {"skew": None, "languages": [], "train_size": case.rows}
    )
    (folder / f"{place}.yaml").write_text(json.dumps(settings))  # which is YAML
    words = [sys.executable, str(RECIPES / f"{script}.py"), "--config", str(folder / f"{place}.yaml")]
    words += ["--setups", *SETUPS[case.link], "--seed", str(first), "--seeds", str(BLOCK)]
    return [*words, "--output_dir", str(folder / place)]


def answers(run, results, link, setup, seed):
    """{name: answer} of one model as the subject, against the control or the cure of the run."""
    names = SETUPS[link]
    rows = {name: read_table(run / name / f"seed-{seed}" / "predictions.parquet") for name in names}
    audit = results["data"]["train/imbalanced"]
    labels = range(len(results["labels"]))
    plan = JointDistribution(tuple(audit["languages"]), tuple(labels), np.array(audit["counts"]))
    samples = {
        (name, seed): {"test": sampled(of["language"], of["label"], of["prediction"], plan=plan, groups=of["id"])}
        for name, of in rows.items()
    }
    for sample in samples.values():
        sample["validation"] = sample["test"]
    metrics = {name: {seed: results["setups"][name]["seeds"][seed]} for name in names}
    cures = ("independence",) if setup == "imbalanced" else ()
    roles = Roles(setup, "balanced" if link else None, cures)
    return {entry["name"]: entry["answer"] for entry in Judge(roles, metrics, samples, audit, 1).verdict()}


def measured(run, results, link, setup, seed):
    """The kept figures of one model."""
    of = results["setups"][setup]["seeds"][seed]["targets"]["independent"]
    return {
        "dependence": of["dependence_bits"] - of["dependence_chance_bits"],
        "skew_transfer": of["skew_transfer"],
        "accuracy": of["accuracy"],
        "answers": answers(run, results, link, setup, seed),
    }


def add(found, name, run):
    """Add the seeds of a run to the kept figures of its case, and count the answers again."""
    results, link = read_json(run / "results.json", "run the case again"), CASES[name].link
    entry = found.setdefault(name, {"link": link, "bits": {}})
    entry["bits"][str(results["seeds"][0])] = results["data"]["train/imbalanced"]["mutual_information_bits"]
    for setup in ASKED[link]:
        seeds = results["setups"][setup]["seeds"]
        entry["test_rows"] = next(iter(seeds.values()))["test"]["rows"]
        kept_seeds = entry.setdefault(setup, {"seeds": {}})["seeds"]
        kept_seeds |= {seed: measured(run, results, link, setup, seed) for seed in seeds}
        per_seed = [of["answers"] for of in kept_seeds.values()]
        counts = {kind: Counter(of.get(kind, "not measured") for of in per_seed) for kind in KINDS}
        yes, number = counts["shortcut"]["yes"], len(per_seed)
        low = float(beta.ppf(0.025, yes, number - yes + 1)) if yes else 0.0
        high = float(beta.ppf(0.975, yes + 1, number - yes)) if yes < number else 1.0
        entry[setup]["answers"] = {kind: dict(of) for kind, of in counts.items()}
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

    found, blocks = kept(options.kept), {}
    for first in range(0, options.seeds, BLOCK):  # every case gets its first seeds before one gets its last
        for name in options.cases:
            if str(first) not in found.get(name, {}).get("imbalanced", {"seeds": {}})["seeds"]:
                blocks[folder_of(name, first)] = name, first
    commands = {folder: command(*block, options.runs) for folder, block in blocks.items()}
    for done in run_all(commands, options.runs, options.jobs):
        add(found, blocks[done][0], options.runs / done)
        found = {name: found[name] for name in CASES if name in found}
        keep(options.kept, found)


if __name__ == "__main__":
    main()
