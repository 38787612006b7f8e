"""Measure the perplexity of each setup of cloned languages at several learning rates, on seeds that no result uses.

python tests/benchmarks/cloned_rates.py OUTPUT [--seeds 100 101 102] [--setups NAME ...] [--config mini] [recipe flags]

OUTPUT/rates.json has {setup: {rate: [PPL of its last language, by seed]}}. With the first seed, rates are 1, 2, 4 and 8
times the recipe's, and more while the best one is at an edge; the three best are then trained with the other seeds, and
the grid grows again where the best of all seeds is at its edge. Run the same command again to continue; then write the
best rate of each setup into the YAML as its `learning_rate`.
"""

import json
import math
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable
from pathlib import Path

from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.experiment import run
from hf_langimb.cloned.results import ONE_RATE
from hf_langimb.console import start_program

RECIPES = Path(__file__).parents[2] / "recipes" / "cloned_languages"
MULTIPLES = [1, 2, 4, 8]
SMALLEST, LARGEST = 1 / 4, 64
CANDIDATES = 3  # rates that are trained with every seed


def perplexities_at(rate: float, seed: int, setups: list[str], options) -> dict[str, float]:
    """PPL of the last language of each setup, trained with a rate and a seed."""
    place, names = options.output / f"rate-{rate:g}", [f"{setup}{ONE_RATE}" for setup in setups]
    words = ["--config", options.config, "--setups", *names, "--learning_rate", f"{rate:g}", *options.flags]
    words += ["--seed", seed, "--output_dir", place]
    _, results = run(parse_cloned("cloned_languages", RECIPES, [*map(str, words)]))
    models = {name.removesuffix(ONE_RATE): of["seeds"][str(seed)] for name, of in results["setups"].items()}
    return {setup: model["perplexity"][-1] for setup, model in models.items()}


def next_run(found: dict[float, list[float]], seeds: int) -> tuple[int, float] | None:
    """Number of the seed and multiple of the rate to train next; None where a setup is done."""
    if missing := [multiple for multiple in MULTIPLES if multiple not in found]:
        return 0, missing[0]
    ordered = sorted(found, key=lambda multiple: found[multiple][0])
    if (beyond := past_the_edge(ordered[0], found)) is not None:
        return 0, beyond
    if some := [(len(found[of]), of) for of in ordered[:CANDIDATES] if len(found[of]) < seeds]:
        return min(some)
    best = min((of for of in found if len(found[of]) == seeds), key=lambda of: math.prod(found[of]))
    beyond = past_the_edge(best, found)
    return None if beyond is None else (0, beyond)


def past_the_edge(best: float, found: Iterable[float]) -> float | None:
    """The multiple to add where the best one is the smallest or largest of those found."""
    if best == max(found) and best < LARGEST:
        return best * 2
    return best / 2 if best == min(found) and best > SMALLEST else None


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--setups", nargs="+")
    parser.add_argument("--config", default="mini")
    options, options.flags = parser.parse_known_args()
    start_program()
    recipe = parse_cloned("cloned_languages", RECIPES, ["--config", options.config, "--all"])
    path, base = options.output / "rates.json", recipe.training.learning_rate
    kept = json.loads(path.read_text()) if path.is_file() else {}
    found = {
        setup: {round(float(rate) / base, 6): values for rate, values in kept.get(setup, {}).items()}
        for setup in options.setups or recipe.setups
    }
    while True:
        runs = {setup: one for setup, of in found.items() if (one := next_run(of, len(options.seeds)))}
        if not runs:
            return
        number, multiple = min(runs.values())
        asked = [setup for setup, one in runs.items() if one == (number, multiple)]
        for setup, perplexity in perplexities_at(multiple * base, options.seeds[number], asked, options).items():
            found[setup].setdefault(multiple, []).append(perplexity)
            print(f"{setup}: {multiple * base:g} {perplexity:.3f}", flush=True)
        kept |= {setup: {f"{one * base:g}": of[one] for one in sorted(of)} for setup, of in found.items()}
        path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
