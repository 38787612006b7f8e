"""Perplexity of every setup of cloned languages by its learning rate, on a seed that no result uses.

python tests/benchmarks/cloned_rates.py OUTPUT [--seed 100] [--setups NAME ...] [--config mini]

OUTPUT/rates.json has {setup: {rate: PPL of its last language}}. Rates are 1, 2, 4 and 8 times the recipe's, and more
while the best one is at an edge. Finished models are kept: run the same command again to continue.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.experiment import run
from hf_langimb.cloned.results import ONE_RATE
from hf_langimb.console import start_program

RECIPES = Path(__file__).parents[2] / "recipes" / "cloned_languages"
MULTIPLES = [1, 2, 4, 8]
SMALLEST, LARGEST = 1 / 4, 64


def perplexity_at(rate: float, setup: str, options) -> float:
    """PPL of the last language of a setup that is trained with a rate."""
    place = options.output / f"rate-{rate:g}"
    words = ["--config", options.config, "--learning_rate", f"{rate:g}", "--seed", options.seed]
    words += ["--setups", f"{setup}{ONE_RATE}", "--output_dir", place]
    _, results = run(parse_cloned("cloned_languages", RECIPES, [*map(str, words)]))
    (found,) = results["setups"].values()
    return found["seeds"][str(options.seed)]["perplexity"][-1]


def edge(found: dict[float, float]) -> float | None:
    """The multiple to try next: beyond the best one, if that is at an edge."""
    best = min(found, key=found.__getitem__)
    if best == max(found) and best < LARGEST:
        return best * 2
    return best / 2 if best == min(found) and best > SMALLEST else None


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--setups", nargs="+")
    parser.add_argument("--config", default="mini")
    options = parser.parse_args()
    start_program()
    recipe = parse_cloned("cloned_languages", RECIPES, ["--config", options.config, "--all"])
    path, every = options.output / "rates.json", {}
    for setup in options.setups or recipe.setups:
        found: dict[float, float] = {}
        wanted: list[float] = [*MULTIPLES]
        while wanted:
            multiple = wanted.pop(0)
            rate = multiple * recipe.training.learning_rate
            found[multiple] = perplexity_at(rate, setup, options)
            print(f"{setup}: {rate:g} {found[multiple]:.3f}", flush=True)
            wanted += [further] if not wanted and (further := edge(found)) else []
            every = json.loads(path.read_text()) if path.exists() else {}
            every[setup] = {f"{one * recipe.training.learning_rate:g}": found[one] for one in sorted(found)}
            path.write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
