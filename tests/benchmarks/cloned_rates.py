"""Perplexity of every setup of cloned languages by its learning rate, on a seed that no result uses.

python tests/benchmarks/cloned_rates.py OUTPUT [--seed 100] [--setups NAME ...] [--config mini] [--flags of the recipe]

OUTPUT/rates.json has {setup: {rate: PPL of its last language}}. Rates are 1, 2, 4 and 8 times the recipe's, and more
while the best one is at an edge. Finished models are kept: run the same command again to continue.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.experiment import run
from hf_langimb.cloned.results import ONE_RATE
from hf_langimb.console import start_program

RECIPES = Path(__file__).parents[2] / "recipes" / "cloned_languages"
MULTIPLES = [1, 2, 4, 8]
SMALLEST, LARGEST = 1 / 4, 64


def perplexities_at(rate: float, setups: list[str], options) -> dict[str, float]:
    """PPL of the last language of each setup, trained with a rate."""
    place, names = options.output / f"rate-{rate:g}", [f"{setup}{ONE_RATE}" for setup in setups]
    words = ["--config", options.config, "--setups", *names, "--learning_rate", f"{rate:g}", *options.flags]
    words += ["--seed", options.seed, "--output_dir", place]
    _, results = run(parse_cloned("cloned_languages", RECIPES, [*map(str, words)]))
    models = {name.removesuffix(ONE_RATE): of["seeds"][str(options.seed)] for name, of in results["setups"].items()}
    return {setup: model["perplexity"][-1] for setup, model in models.items()}


def next_multiple(found: dict[float, float]) -> float | None:
    """The multiple to try next: one of the first, or beyond the best one if that is at an edge."""
    if missing := [multiple for multiple in MULTIPLES if multiple not in found]:
        return missing[0]
    best = min(found, key=found.__getitem__)
    if best == max(found) and best < LARGEST:
        return best * 2
    return best / 2 if best == min(found) and best > SMALLEST else None


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--setups", nargs="+")
    parser.add_argument("--config", default="mini")
    options, options.flags = parser.parse_known_args()
    start_program()
    recipe = parse_cloned("cloned_languages", RECIPES, ["--config", options.config, "--all"])
    found: dict[str, dict[float, float]] = {setup: {} for setup in options.setups or recipe.setups}
    while True:
        wanted = {setup: multiple for setup, of in found.items() if (multiple := next_multiple(of)) is not None}
        if not wanted:
            return
        multiple = min(wanted.values())
        rate = multiple * recipe.training.learning_rate
        asked = [setup for setup, of in wanted.items() if of == multiple]
        for setup, perplexity in perplexities_at(rate, asked, options).items():
            found[setup][multiple] = perplexity
            print(f"{setup}: {rate:g} {perplexity:.3f}", flush=True)
        of_rates = {
            setup: {f"{one * recipe.training.learning_rate:g}": of[one] for one in sorted(of)}
            for setup, of in found.items()
        }
        (options.output / "rates.json").write_text(json.dumps(of_rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
