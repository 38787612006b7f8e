"""The recipe of cloned languages, step by step: texts -> train -> measure -> results."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.contrib.logging import logging_redirect_tqdm

from hf_langimb.cloned.arguments import ClonedRecipe, Setup, parse_cloned
from hf_langimb.cloned.comparisons import derive
from hf_langimb.cloned.page import write_page
from hf_langimb.cloned.publish import push_cloned, render_card
from hf_langimb.cloned.results import SCHEMA_VERSION, ClonedResults, SetupResults, write_cloned
from hf_langimb.cloned.show import text_of
from hf_langimb.cloned.texts import texts_of
from hf_langimb.cloned.training import MEASURES, measure, train
from hf_langimb.console import RESUMES, bar, ends_in_words, hidden, on_main
from hf_langimb.files import is_done, write_json, write_text
from hf_langimb.hub.repository import CARD
from hf_langimb.results.folder import RunFolder
from hf_langimb.runs.experiment import check_hub, environment, publish, start_recipe
from hf_langimb.runs.parallel import at_once
from hf_langimb.runs.recipe import total_batch

logger = logging.getLogger(__name__)

FREE = ["seeds", "setups", "main", "all", "seed", "logging_steps", "report_to", "disable_tqdm", "license"]
FREE += ["models_at_once", "setup_definitions"]  # those that are trained are in their folders
NOT_IN_FLAGS = {"seeds", "seed", "setups", "main"}


def run(recipe: ClonedRecipe) -> tuple[Path, ClonedResults]:
    """Run every step that is not done yet.

    Returns:
        The run folder and its results (results.json).

    Raises:
        ValueError: texts, setups or folder do not fit the recipe; says which and what to do.
    """
    check_hub(recipe.training)
    began, folder = time.time(), RunFolder(Path(recipe.training.output_dir))
    source = texts_of(recipe.data)
    seeds = range(recipe.training.seed, recipe.training.seed + recipe.data.seeds)
    with folder.working():
        on_main(lambda: _claim(folder, recipe, source.fingerprint))
        trainings = [(seed, name, setup) for seed in seeds for name, setup in recipe.setups.items()]
        _train_at_once(recipe, folder, trainings)
        found: dict[str, SetupResults] = {name: described(setup) for name, setup in recipe.setups.items()}
        with logging_redirect_tqdm(), bar(trainings, unit="training") as progress:
            for seed, name, setup in progress:
                progress.set_description(f"{name}, seed {seed}")
                logger.info("Setup %s, seed %d", name, seed)
                place = folder.model(name, seed)
                with _names(name, seed):
                    facts, texts = train(place, setup, seed, source, recipe.data)
                    measured = measure(place, setup, seed, source, recipe.data, texts)
                model: Any = {"alignment": None, "downstream": None} | measured | facts
                found[name]["seeds"][str(seed)] = model
        config, chosen = recipe.parsed.config, recipe.parsed.flags - NOT_IN_FLAGS
        results: Any = {
            "schema_version": SCHEMA_VERSION,
            "recipe": recipe.name,
            "config_name": recipe.parsed.config_name,
            "config": config,
            "flags": {key: config[key] for key in sorted(chosen & config.keys())},
            "seeds": [*seeds],
            "optimum_perplexity": source.optimum_perplexity,
            "setups": found,
        }
        derive(results)
        if PartialState().is_main_process:
            write_cloned(folder.path, results)
            write_json(folder.environment, environment(began))
        PartialState().wait_for_everyone()
    return folder.path, results


def _train_at_once(recipe: ClonedRecipe, folder: RunFolder, trainings: Sequence[tuple[int, str, Setup]]) -> None:
    """Train and measure the models that are not done yet in several processes, where the recipe asks for it."""
    jobs = [(recipe, folder, name, seed) for seed, name, _ in trainings]
    jobs = [job for job in jobs if not is_done(folder.model(*job[2:]), MEASURES)]
    at_once(_train_one, jobs, recipe.data.models_at_once, recipe.training.device.type)


def _train_one(job: tuple[ClonedRecipe, RunFolder, str, int]) -> None:
    """Train and measure one model in a process of its own."""
    start_recipe()
    recipe, folder, name, seed = job
    setup, source, place = recipe.setups[name], texts_of(recipe.data), folder.model(name, seed)
    with _names(name, seed):
        _, texts = train(place, setup, seed, source, recipe.data, shown=f"{name}, seed {seed}")
        measure(place, setup, seed, source, recipe.data, texts)


@contextmanager
def _names(name: str, seed: int) -> Iterator[None]:
    """Name the setup and seed in error messages."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Setup {name}, seed {seed}: {error}") from error


def described(setup: Setup) -> SetupResults:
    """A setup in results.json, without its models."""
    of, training = setup.of, setup.training
    return {
        "schedule": of.schedule,
        "languages": of.languages,
        "relation": of.relation,
        "fraction_cloned": of.fraction_cloned,
        "steps": training.max_steps,
        "rows": setup.rows(PartialState().num_processes),
        "learning_rate": training.learning_rate,
        "seeds": {},
    }


def _claim(folder: RunFolder, recipe: ClonedRecipe, fingerprint: str) -> None:
    """Begin or continue the run of a folder: on the same texts, with the same setups, or more of them."""
    processes = PartialState().num_processes
    config = {"recipe": recipe.name, "config_name": recipe.parsed.config_name, **recipe.parsed.config}
    config |= {"processes": processes, "rows": total_batch(recipe.training, processes), "texts": fingerprint}
    folder.claim(config, FREE)


def main(name: str, folder: Path, argv: Sequence[str] | None = None) -> None:
    """Run the recipe `name`, whose YAML files are in `folder`: parse, run, print the results and where they are.

    `argv` is the command line; None takes the process's.
    """
    start_recipe()
    with ends_in_words(Path(sys.argv[0]).name, RESUMES):
        recipe = parse_cloned(name, folder, argv)
        if "disable_tqdm" not in recipe.parsed.config:
            recipe.training.disable_tqdm = hidden()
            for setup in recipe.setups.values():
                setup.training.disable_tqdm = hidden()
        output, results = run(recipe)
        if PartialState().is_main_process:
            for one, seed in product(results["setups"], results["seeds"]):
                write_text(RunFolder(output).model(one, seed) / CARD, render_card(results, one, seed))
            print(text_of(results, output, write_page(output)), end="")
            publish(recipe.training, push_cloned, output)
