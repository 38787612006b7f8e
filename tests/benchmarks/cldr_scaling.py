"""How accuracy and dependence change with the number of languages, the skew and the training size, on CLDR names.

python tests/benchmarks/cldr_scaling.py RUNS [--kept model_cards/cldr-scaling/scaling.json] [--seeds 3] [--jobs 2]

One factor at a time around 20 languages, a skew of 20:1 and 140 rows per language; the number of epochs is the same
everywhere, so steps are the same for all skews. Each point is a run of recipes/cldr_names.py in a folder of RUNS.
Setups: `balanced`, `imbalanced`, and `imbalanced` with the weights `independence` and `per_language`. Each finished
point is added to the kept file, with the measures of each seed and the slopes over the skews (95% t intervals);
points that are there already are not run again, and an interrupted command continues in its folders.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from several_runs import keep, kept, run_all

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.sampling import allocate, skewed_shares
from hf_langimb.data import cldr
from hf_langimb.files import read_json
from hf_langimb.results.summary import interval

RECIPE = Path(__file__).parents[2] / "recipes" / "cldr_names.py"
ORDER = [
    "en",
    "fr",
    "de",
    "es",
    "ja",
    "zh",
    "cs",
    "el",
    "fi",
    "he",
    "hi",
    "hu",
    "id",
    "ko",
    "pl",
    "pt",
    "ru",
    "sv",
    "tr",
    "vi",
]
SETUPS = ["balanced", "imbalanced", "independence", "weighted"]
MEASURES = ("accuracy", "dependence_bits", "skew_transfer")
POINTS = {  # languages, skew, rows per language
    "base": (20, 20, 140),
    "languages-2": (2, 20, 140),
    "languages-6": (6, 20, 140),
    "languages-110": (110, 20, 140),
    "skew-2": (20, 2, 140),
    "skew-5": (20, 5, 140),
    "skew-100": (20, 100, 140),
    "rows-70": (20, 20, 70),
    "rows-280": (20, 20, 280),
}


def languages_of(number, skew, rows):
    """The first of `ORDER`, or more languages in which all plans fit, in alphabetical order."""
    if number <= len(ORDER):
        return ORDER[:number]
    train = cldr.load("large")["train"]
    counts = JointDistribution.from_dataset(train)
    both = skewed_shares(skew, 2, counts.counts.shape[1])
    wanted = allocate(np.full(both.shape, rows), both, 2 * rows).max(axis=0)
    fits = [name for name, row in zip(counts.languages, counts.counts, strict=True) if (row >= wanted).all()]
    return [*ORDER, *(name for name in fits if name not in ORDER)][:number]


def command(name, folder, seeds):
    """The command line of a point."""
    number, skew, rows = POINTS[name]
    languages = languages_of(number, skew, rows)
    words = [sys.executable, str(RECIPE), "--config", "skew-20", "--skew", str(skew), "--languages", *languages]
    validation, test = (40, 160) if number <= len(ORDER) else (10, 40)  # small languages have few names
    words += ["--train_size", str(rows * len(languages)), "--validation_size", str(validation * len(languages))]
    words += ["--test_size", str(test * len(languages)), "--setups", *SETUPS, "--seeds", str(seeds)]
    return [*words, "--load_best_model_at_end", "false", "--output_dir", str(folder / name)]


def point(name, folder):
    """The kept measures of a run."""
    found = read_json(folder / name / "results.json", "run the point again")
    _, skew, rows = POINTS[name]
    trained = found["data"]["train/imbalanced"]
    setups = {}
    for setup, values in found["setups"].items():
        targets = [seed["targets"]["independent"] for seed in values["seeds"].values()]
        measures = {measure: [of[measure] for of in targets] for measure in MEASURES}
        chance = [of["dependence_chance_bits"] for of in targets]
        measures["dependence"] = [a - b for a, b in zip(measures.pop("dependence_bits"), chance, strict=True)]
        worst = [
            min(of["accuracy"] for of in seed["test"]["by_language"].values()) for seed in values["seeds"].values()
        ]
        setups[setup] = measures | {"worst_language": worst}
    return {
        "languages": len(found["languages"]),
        "skew": skew,
        "rows_per_language": rows,
        "bits": trained["mutual_information_bits"],
        "bits_by_chance": trained["mutual_information_chance_bits"],
        "smallest_cell": int(np.min(trained["counts"])),
        "setups": setups,
    }


def slopes(points):
    """Lines of each measure, less that of `balanced`, on the bits of the training data over the skews.

    A line is fitted for each seed; its slope and its value at 0 bits have intervals over the seeds.
    """
    used = [points[name] for name in ("skew-2", "skew-5", "base", "skew-100") if name in points]
    if len(used) < 3:
        return None
    bits, found = np.array([of["bits"] for of in used]), {}
    for setup in SETUPS[1:]:
        for measure in ("accuracy", "dependence", "skew_transfer"):
            values = np.array([of["setups"][setup][measure] for of in used], dtype=float)  # [points, seeds]
            against = np.array([of["setups"]["balanced"][measure] for of in used], dtype=float)
            lines = [np.polyfit(bits, column, 1) for column in (values - against).T]
            slope, start = ([float(line[i]) for line in lines] for i in (0, 1))
            found.setdefault(setup, {})[measure] = {"slope": interval(slope), "without link": interval(start)}
    return found


def main():
    parser = ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--kept", type=Path, default=RECIPE.parents[1] / "model_cards/cldr-scaling/scaling.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--points", nargs="+", default=list(POINTS), choices=list(POINTS))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)

    points = kept(options.kept).get("points", {})
    commands = {name: command(name, options.runs, options.seeds) for name in options.points if name not in points}
    for done in run_all(commands, options.runs, options.jobs):
        points[done] = point(done, options.runs)
        points = {name: points[name] for name in POINTS if name in points}
        keep(options.kept, {"seeds": options.seeds, "points": points, "slopes": slopes(points)})


if __name__ == "__main__":
    main()
