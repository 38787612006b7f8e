"""A recipe, step by step: plan -> subsets -> train -> predict and probe -> explain -> results."""

from __future__ import annotations

import logging
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging

from hf_langimb.console import RESUMES, about, bar, ends_in_words, hidden, on_main, start_program
from hf_langimb.data import mini_xnli
from hf_langimb.data.rows import find_text_columns
from hf_langimb.files import MODEL, is_done, record, write_json, write_text
from hf_langimb.hub.push import push_run, require_login
from hf_langimb.hub.repository import CARD
from hf_langimb.measures.attribution.fingerprints import hash_rows
from hf_langimb.models.loading import load_tokenizer, tokenize
from hf_langimb.models.mini_bert import make_mini_bert, pretrain_mini_bert
from hf_langimb.models.mini_characters import write_mini_characters
from hf_langimb.results.cards import render_card
from hf_langimb.results.folder import SETTINGS, RunFolder, model_files
from hf_langimb.results.page import write_report
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import Results, write_results
from hf_langimb.results.summary import Roles, represented, roles_of
from hf_langimb.results.tables import rows_text
from hf_langimb.runs.custom import fitted
from hf_langimb.runs.explaining import STOPPED, compared, explain_models
from hf_langimb.runs.held_out import TRAINED_ON, record_rows
from hf_langimb.runs.judge import Judge, Sizes, tokens_verdict
from hf_langimb.runs.notes import LEAVE_OUT, Said, joined_tokens, token_notes, token_shares, weight_notes
from hf_langimb.runs.parallel import at_once
from hf_langimb.runs.recipe import Recipe, parse_recipe, total_batch
from hf_langimb.runs.setups import AUTO, Setup, prepare_setups, resolve_setup, with_recommended
from hf_langimb.runs.steps import Job, MeasuredRows, assemble_results, loader, work
from hf_langimb.runs.subsets import TEST_SEED, Data, external_text, extra_tests, load_data

logger = logging.getLogger(__name__)

# A run may be continued with other values of these.
FREE = ["seeds", "setups", "seed", "models_at_once", "logging_steps", "report_to", "disable_tqdm", "license"]
FREE += ["explain_rows", "explain_tolerance", "control_seed", "extra_test"]
FREE += ["material_bits", "material_transfer", "accuracy_margin"]
MADE_HERE = ("mini_bert", "mini_characters")  # start models that a run makes itself
SHOWN_SETTINGS = ("class_weighting", "masked_entropy_weight", "lora_rank")  # of a setup in results.json
SHOWN_APART = {"seeds", "seed", "setups"}  # flags that results.json has as keys of their own


def run(recipe: Recipe, validated: bool = False) -> tuple[Path, Results]:
    """Run every step that is not done yet.

    Args:
        recipe: to run.
        validated: whether the validation rows are predicted by every model, and not only where a setup is recommended.

    Returns:
        The run folder and its results (results.json).

    Raises:
        ValueError: data, model, setups or folder do not fit the recipe; says which and what to do.
    """
    began, training, auto, recipe = time.time(), recipe.training, AUTO in recipe.data.setups, with_recommended(recipe)
    check_hub(training)
    plan = "imbalanced" if recipe.data.imbalanced_shares or recipe.data.skew is not None else "natural"
    settings = {name: resolve_setup(name, recipe.setups, plan) for name in recipe.data.setups}
    data = load_data(recipe.data, training.language_column)
    if auto and len(data.languages) == 1:
        raise ValueError(f"All rows are in {data.languages[0]}: --setups {AUTO} is for data in several languages.")
    if recipe.name == "custom":
        recipe, said = fitted(recipe, data.distribution("train", "natural").rows)
        data.notes = [*data.notes, *([said] if said else [])]
        rows = {split: hash_rows(rows, data.text_columns) for split, rows in data.source.items()}
        recipe = replace(recipe, config=recipe.config | {"data_fingerprints": rows})  # not continued on other rows
    for note in data.notes:
        logger.info(note)
    prepared = prepare_setups(recipe, settings, data)
    external = external_text(recipe.data, data.languages, training.language_column)
    extra = extra_tests(recipe.data, data, training.language_column)
    folder = RunFolder(Path(training.output_dir))
    with folder.working():
        return folder.path, _run_in(folder, recipe, data, prepared, external, extra, began, validated)


def _run_in(
    folder: RunFolder,
    recipe: Recipe,
    data: Data,
    prepared: dict[str, Setup],
    external: Any,
    extra: dict[str, Any],
    began: float,
    validated: bool,
) -> Results:
    """Run every step that is not done in a folder, on checked data and setups."""
    training, seeds = recipe.training, range(recipe.training.seed, recipe.training.seed + recipe.data.seeds)
    trainings = [(seed, name, setup) for seed in seeds for name, setup in prepared.items()]
    shown, explains = _shown_settings(prepared), recipe.data.explain_rows != 0
    roles = roles_of(shown)
    if recipe.data.control_seed and explains and len(seeds) == 1 and roles.control:
        trainings.append((training.seed + 1, roles.control, prepared[roles.control]))
    places = {(name, seed): folder.model(name, seed) for seed, name, _ in trainings}
    processes = on_main(lambda: _begin(recipe, folder, [*places.values()], prepared))
    start = _start_checkpoint(recipe, folder, data)
    tokenizer, limit = load_tokenizer(start)
    plans = sorted({setup.plan for setup in prepared.values()})
    rows = data.tokenized(tokenizer, plans, sorted({seed for seed, _, _ in trainings}), recipe.data.max_length or limit)
    external = external and tokenize(external, tokenizer, find_text_columns(external), limit)
    texts = data.subset("test", data.test_plan, TEST_SEED)
    test = rows["test", data.test_plan, TEST_SEED]
    skewed = data.distribution("train", "imbalanced").counts if data.plans else None
    limit = recipe.data.max_length or limit
    further = {name: part for name, part in extra.items() if part}
    extra = {name: part and tokenize(part, tokenizer, data.text_columns, limit) for name, part in extra.items()}
    measured = MeasuredRows(test, texts, external, data.text_columns, recipe.data.max_length, skewed, extra)
    metrics: dict[str, dict[str, Any]] = {name: {} for name in prepared}
    samples, jobs, judged = {}, {}, {*prepared} if validated else set[str]()
    if roles.subject and roles.mitigations:
        judged |= {name for name, setup in prepared.items() if setup.plan == prepared[roles.subject].plan}
    for seed, name, setup in trainings:
        place, tracked = places[name, seed], training.run_name or f"{name}-seed-{seed}"
        own: dict[str, Any] = {"output_dir": str(place), "seed": seed, "run_name": tracked}
        arguments = replace(setup.arguments, **own)
        subsets = tuple(rows[split, setup.plan, seed] for split in ("train", "validation"))
        jobs[name, seed] = Job(f"{name}, seed {seed}", arguments, start, tokenizer, subsets, measured, name in judged)
    new = [job for key, job in jobs.items() if not is_done(places[key], MODEL)]
    at_once(work_on_its_own, new, recipe.data.models_at_once, training.device.type)
    with logging_redirect_tqdm(), bar(trainings, unit="training") as progress:
        for seed, name, setup in progress:
            progress.set_description(f"{name}, seed {seed}")
            logger.info("Setup %s, seed %d", name, seed)
            facts, found, sample = work(jobs[name, seed])
            if PartialState().is_main_process and not (places[name, seed] / TRAINED_ON).is_file():
                record_rows(places[name, seed], data.subset("train", setup.plan, seed), data.text_columns)
            if seed in seeds:  # not that of the control
                metrics[name][str(seed)] = found | {"training": facts}
                samples[name, str(seed)] = sample
    results = _results_of(recipe, data, prepared, shown, metrics, processes)
    first = data.subset("train", prepared[roles.subject or next(iter(prepared))].plan, seeds[0])
    parts = {"training texts": first, "test texts": texts} | {
        f"texts of {name}": part for name, part in further.items()
    }
    sets = {name: token_shares(part, data.text_columns, tokenizer, limit) for name, part in parts.items()}
    results["tokens"] = joined_tokens([*sets.values()][1:])
    _note(results, data, prepared, token_notes(sets, tokenizer, limit, LEAVE_OUT), training.weight_clip)
    _judge(results, recipe, roles, prepared, metrics, samples)
    if explains:
        _explain(results, recipe, folder, places, measured, roles)
    if PartialState().is_main_process:
        write_results(folder.path, results)
        write_json(folder.environment, environment(began))
    PartialState().wait_for_everyone()  # the main process has the lock
    return results


def work_on_its_own(job: Job) -> None:
    """Train and measure a model in a process of its own."""
    start_recipe()
    work(replace(job, arguments=replace(job.arguments, disable_tqdm=True)), quiet=True)
    logger.info("Trained: %s", job.shown)


def _explain(
    results: Results, recipe: Recipe, folder: RunFolder, places: Any, rows: MeasuredRows, roles: Roles
) -> None:
    """Explain all models, and add the difference of the compared pair and the answers about tokens."""
    loads = {model: lambda place=place: loader(place)() for model, place in places.items()}  # type: ignore[misc]
    pair, cures = roles.pair, roles.cures if roles.control and recipe.data.seeds > 1 else ()
    wanted, tolerance = recipe.data.explain_rows, recipe.data.explain_tolerance
    explained, used = explain_models(folder, loads, rows, wanted, tolerance, pair)
    if PartialState().is_main_process:
        results["attributions"] = compared(folder, explained, pair, used) if explained and pair else None
        pairs = [(cure, str(roles.subject)) for cure in cures if explained]
        differences = [results["attributions"]] if results["attributions"] else []
        differences += [compared(folder, explained, two, None, thresholds=(STOPPED,)) for two in pairs]
        results["verdict"] += [entry for of in differences for entry in tokens_verdict(of, represented(results))]
        if used and not results["attributions"]:
            logger.info(rows_text(used))


def _note(results: Results, data: Data, setups: Mapping[str, Setup], of_tokens: Said, usual: float | None) -> None:
    """Add what a reader must know about data, tokens (warnings and notes) and weights, and log the new notes."""
    said = [of_tokens]
    for name, setup in setups.items():
        said.append(weight_notes(name, setup.arguments, data.distribution("train", setup.plan), usual))
    results["warnings"] = [text for warnings, _ in said for text in warnings]
    new = [text for _, notes in said for text in notes]
    results["notes"] = [*data.notes, *new]
    for note in new:
        logger.info(note)


def _judge(
    results: Results, recipe: Recipe, roles: Roles, setups: Mapping[str, Setup], metrics: Any, samples: Any
) -> None:
    """Add verdict and recommendation."""
    plan = setups[roles.subject].plan if roles.subject else ""
    audit, chosen_on = results["data"].get(f"train/{plan}"), results["data"].get(f"validation/{plan}")
    validation_rows = int(np.sum(chosen_on["counts"])) if chosen_on else 0
    sizes = Sizes(recipe.data.material_bits, recipe.data.material_transfer, recipe.data.accuracy_margin)
    judge = Judge(roles, metrics, samples, audit, validation_rows, sizes)
    results["verdict"] = [*judge.verdict()]
    results["recommendation"] = judge.recommendation(results["verdict"])


def _begin(recipe: Recipe, folder: RunFolder, models: Sequence[Path], setups: Mapping[str, Setup]) -> int:
    """Begin or continue the run of a folder; the number of processes with which its trainings began.

    Raises:
        ValueError: the folder has another run, a damaged model, or trainings to do that another number began.
    """
    now = PartialState().num_processes
    batch = {"processes": now, "total_batch": total_batch(recipe.training, now)}
    config = {"recipe": recipe.name, "config_name": recipe.config_name, **recipe.config, **batch}
    config[SETTINGS] = {name: setup.settings for name, setup in setups.items()}
    before = folder.claim(config, FREE)
    places = [*models, *([folder.start] if recipe.data.model_name_or_path in MADE_HERE else [])]
    done = [is_done(place, MODEL) for place in places]
    if not all(done) and any(before[key] != batch[key] for key in batch):
        words = "{processes} process(es) and a total batch of {total_batch} rows"
        raise ValueError(
            f"{folder.path} was run with {words.format_map(before)}, got {words.format_map(batch)} for the remaining "
            "trainings: start as many processes as before, or choose another --output_dir."
        )
    return int(before["processes"])


def _shown_settings(setups: Mapping[str, Setup]) -> dict[str, dict[str, Any]]:
    """Plan and settings of each setup, as in results.json."""
    shown = {}
    for name, setup in setups.items():
        shown[name] = {"plan": setup.plan} | {key: getattr(setup.arguments, key) for key in SHOWN_SETTINGS}
        if options := setup.arguments.options:
            shown[name]["options"] = options
    return shown


def _results_of(
    recipe: Recipe,
    data: Data,
    setups: Mapping[str, Setup],
    shown: Mapping[str, Any],
    metrics: Mapping[str, Any],
    processes: int,
) -> Results:
    """results.json of a recipe, without the comparison of attributions."""
    audits = {f"test/{data.test_plan}": data.distribution("test", data.test_plan).audit()}
    for plan in dict.fromkeys(setup.plan for setup in setups.values()):
        for split in ("train", "validation"):
            audits[f"{split}/{plan}"] = data.distribution(split, plan).audit("per_language")
    batch = total_batch(recipe.training, processes)
    described = {name: {**shown[name], "seeds": metrics[name]} for name in setups}
    for name, setup in setups.items():
        if (own := total_batch(setup.arguments, processes)) != batch:
            described[name]["total_batch"] = own
    return assemble_results(
        recipe=recipe.name,
        config_name=recipe.config_name,
        config=recipe.config,
        total_batch=batch,
        flags={key: recipe.config[key] for key in sorted(recipe.flags & recipe.config.keys() - SHOWN_APART)},
        languages=data.languages,
        labels=data.labels,
        seeds=[recipe.training.seed + i for i in range(recipe.data.seeds)],
        data=audits,
        setups=described,
        noise_ceiling=data.noise_ceiling,
    )


def _start_checkpoint(recipe: Recipe, folder: RunFolder, data: Data) -> str:
    """Name or folder of the model that every setup starts from; those of `MADE_HERE` are made once."""
    name, steps = recipe.data.model_name_or_path, recipe.data.pretraining_steps
    if name not in MADE_HERE:
        return name
    start, part = folder.start, folder.start.with_suffix(".part")
    if not on_main(lambda: is_done(start, MODEL)):  # all train it together
        texts = data.source["train"]
        if name == "mini_bert" and recipe.data.dataset_name == "mini_xnli":
            pretrain_mini_bert(mini_xnli.pretraining_text(), part, steps=steps)
        elif name == "mini_bert":
            make_mini_bert(texts, part, text_columns=data.text_columns, steps=steps)
        elif PartialState().is_main_process:
            write_mini_characters([text for column in data.text_columns for text in texts[column]], part)
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            (part / "training_args.bin").unlink(missing_ok=True)  # a pickle
            record(part, MODEL, model_files(part))
            shutil.rmtree(start, ignore_errors=True)  # of which a file was missing
            part.rename(start)
        PartialState().wait_for_everyone()
    return str(start)


def environment(began: float) -> dict[str, Any]:
    """Versions, host, times and command: everything that may differ between two runs of the same numbers."""
    packages = ("hf_langimb", "torch", "transformers", "accelerate", "datasets", "peft", "scikit-learn", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "host": platform.platform(),
        "processes": PartialState().num_processes,
        "device": str(PartialState().device),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "command": without_tokens(sys.argv),
    }


def without_tokens(command: Sequence[str]) -> list[str]:
    """A command line whose --..._token flags have lost their values."""
    return [
        "..." if re.fullmatch(r"--[^=]*token", flag) else re.sub(r"(?s)^(--[^=]*token)=.*", r"\1=...", word)
        for flag, word in zip(["", *command], command, strict=False)
    ]


def start_recipe() -> None:
    """Set up the program: what it logs, in the main process alone, and what libraries do not."""
    start_program()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_langimb").setLevel(logging.INFO if PartialState().is_main_process else logging.ERROR)
    transformers_logging.set_verbosity_error()  # each training starts with a new head, as it should
    transformers_logging.disable_progress_bar()  # of weights that take no time to load


def main(
    name: str, folder: Path, argv: Sequence[str] | None = None, *, if_missing: Mapping[str, str] | None = None
) -> None:
    """Run the recipe `name`, whose YAML files are in `folder`: parse, run, print the results and where they are.

    `argv` is the command line; None takes the process's. `if_missing` says what to do if a dataset of this name cannot
    be read.
    """
    start_recipe()
    program = Path(sys.argv[0]).name
    with ends_in_words("langimb" if program == "__main__.py" else program, RESUMES):
        recipe = parse_recipe(name, folder, argv)
        if "disable_tqdm" not in recipe.config:
            recipe.training.disable_tqdm = hidden()
        with about(recipe.data.model_name_or_path, recipe.data.dataset_name):
            try:
                output, results = run(recipe)
            except (OSError, ValueError) as error:
                advice = (if_missing or {}).get(data := recipe.data.dataset_name)
                if not advice or f"dataset at {data!r}" not in str(error):
                    raise
                raise ValueError(f"{error}. {advice}") from error
        if PartialState().is_main_process:
            _show(recipe, output, results)


def check_hub(training: Any) -> None:
    """Check before a run, if it is to be published, that it can be.

    Raises:
        ValueError: no name, or a token that cannot publish it.
    """
    if training.push_to_hub:
        if not training.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id: add --hub_model_id NAMESPACE/NAME.")
        on_main(lambda: require_login(training.hub_model_id, training.hub_token))


def publish(training: Any, push: Callable[..., list[str]], output: Path) -> None:
    """Publish a run with `push`, if its training arguments say so, and print where."""
    if training.push_to_hub:
        options = {"private": bool(training.hub_private_repo), "revision": training.hub_revision}
        urls = push(output, str(training.hub_model_id), token=training.hub_token, **options)
        print("\n".join(["Published:", *urls]))


def _show(recipe: Recipe, output: Path, results: Results) -> None:
    """Print the results, write the page and the model cards, publish if asked for."""
    for name, seed in ((name, int(seed)) for name, setup in results["setups"].items() for seed in setup["seeds"]):
        write_text(RunFolder(output).model(name, seed) / CARD, render_card(results, name, seed=seed))
    print(render("recipe.txt", results=results, folder=output, page=write_report(output)), end="")
    publish(recipe.training, push_run, output)
    if len(results["seeds"]) == 1:
        further = {"custom": "--model MODEL to measure the model that you will use", "xnli": "--config mbert on a GPU"}
        made_here = recipe.data.model_name_or_path in MADE_HERE
        other = f", or {further[recipe.name]}" if made_here and recipe.name in further else ""
        print(f"Next: add --seeds 5 for intervals over seeds (finished models are kept){other}.")
