"""The steps of a recipe, one function each: plan -> subsets -> train -> predict -> probe -> explain -> results.

Each step writes its output into the run folder and is not run again when that is there.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from tqdm.contrib.logging import logging_redirect_tqdm

from hf_langimb.console import RESUMES, bar, ends_in_words, hidden, on_main, start_program
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.sampling import draw
from hf_langimb.counts.weighting import cell_weights
from hf_langimb.data import mini_xnli
from hf_langimb.files import write_json
from hf_langimb.measures.predictions import evaluate_predictions, join_by_id
from hf_langimb.models.axes import AXES_FILE
from hf_langimb.models.loading import tokenize
from hf_langimb.results.schema import SCHEMA_VERSION, compare, compared_pair, summarise, write_results
from hf_langimb.runs.recipe import Recipe
from hf_langimb.runs.subsets import TEST_SEED, Data, external_text, load_data
from hf_langimb.training.arguments import LangImbTrainingArguments

logger = logging.getLogger(__name__)

SETUPS: dict[str, dict[str, Any]] = {
    "balanced": {"plan": "balanced", "class_weighting": "none"},
    "imbalanced": {"plan": "imbalanced", "class_weighting": "none"},
    "weighted": {"plan": "imbalanced", "class_weighting": "per_language"},
}
SUFFIXES: dict[str, dict[str, Any]] = {"_entropy": {"masked_entropy_weight": 1.0}, "_lora": {"lora_rank": 8}}
NOT_OF_THE_RESULT = (
    "seeds",
    "setups",
    "seed",
    "logging_steps",
    "report_to",
    "disable_tqdm",
    "license",
    "explain_rows",
)  # a run folder may be continued with others


SHOWN_SETTINGS = ("class_weighting", "masked_entropy_weight", "lora_rank")  # of a setup in results.json
_SHOWN = {"seeds", "seed", "setups"}  # of the flags those that results.json has as keys


def resolve_setup(name: str, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Plan and training arguments of a setup: defined in the YAML, or built in, with suffixes `_entropy` and `_lora`.

    Raises:
        ValueError: no such setup; names those that are known.
    """
    if name in definitions:
        return SETUPS.get(name, {"plan": "imbalanced"}) | definitions[name]
    if name in SETUPS:
        return dict(SETUPS[name])
    for suffix, settings in SUFFIXES.items():
        if name.endswith(suffix):
            return resolve_setup(name.removesuffix(suffix), definitions) | settings
    known = ", ".join([*SETUPS, *definitions])
    raise ValueError(f"Unknown setup {name!r}: choose among {known}, each also with _entropy or _lora, or define it.")


def open_run(recipe: Recipe) -> Path:
    """Make or continue the run folder.

    Raises:
        ValueError: the folder holds a run of another configuration; names the keys that differ.
    """
    folder = Path(recipe.training.output_dir)
    config = _plain({"recipe": recipe.name, "config_name": recipe.config_name, **recipe.config, **_setups_of(recipe)})
    path = folder / "config.yaml"
    if path.exists() and len(list(folder.iterdir())) > 1:  # more was done than to name a configuration
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = sorted({*before, *config} - {*NOT_OF_THE_RESULT})
        differing = [
            f"{key} was {before.get(key)!r}, is {config.get(key)!r}"
            for key in keys
            if before.get(key) != config.get(key)
        ]
        if differing:
            raise ValueError(
                f"{folder} holds a run of another configuration ({'; '.join(differing)}): choose another --output_dir, "
                "or remove the folder."
            )
    elif not path.exists() and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files but no run (no config.yaml): choose another --output_dir, or empty it.")
    PartialState().wait_for_everyone()  # all have read
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(yaml.safe_dump(config, sort_keys=True, allow_unicode=True), encoding="utf-8")
        part.replace(path)
    PartialState().wait_for_everyone()
    return folder


def _setups_of(recipe: Recipe) -> dict[str, Any]:
    return {"setup_definitions": recipe.setups} if recipe.setups else {}


def _plain(value: Any) -> Any:
    """Through JSON, so that what is read back compares equal."""
    return json.loads(json.dumps(value, default=str))


def start_checkpoint(recipe: Recipe, folder: Path) -> str:
    """Name or folder of the model that every setup starts from; `mini_bert` is made and pre-trained once."""
    if recipe.data.model_name_or_path != "mini_bert":
        return recipe.data.model_name_or_path
    start, part = folder / "start", folder / "start.part"
    if not start.is_dir():
        from hf_langimb.models.mini_bert import pretrain_mini_bert

        PartialState().wait_for_everyone()  # all have seen that there is none; all train it together
        pretrain_mini_bert(mini_xnli.pretraining_text(), part, steps=recipe.data.pretraining_steps)
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            (part / "training_args.bin").unlink(missing_ok=True)  # a pickle
            part.rename(start)
        PartialState().wait_for_everyone()
    return str(start)


def train(
    arguments: LangImbTrainingArguments, start: str, tokenizer: Any, subsets: dict[str, Dataset], data: Data
) -> dict[str, Any]:
    """Train one setup with one seed into `arguments.output_dir`; continues from its last checkpoint after a kill.

    Returns:
        Facts of the training: the step that was chosen and whether another loss would have chosen another.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    from hf_langimb.training.trainer import LangImbTrainer

    folder = Path(arguments.output_dir)
    done = folder / "training.json"
    if done.exists():
        return _read_step(done)
    set_seed(arguments.seed)
    names = dict(enumerate(data.labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        start, num_labels=len(names), id2label=names, label2id={name: i for i, name in names.items()}
    )
    trainer = LangImbTrainer(
        model,
        arguments,
        train_dataset=subsets["train"],
        eval_dataset=subsets["validation"],
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    trainer.save_model()
    facts = _chosen_step(trainer.state)
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml says the same in words
        write_json(done, facts)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    PartialState().wait_for_everyone()
    return facts


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the state is its last file."""
    whole = [
        state.parent
        for state in folder.glob("checkpoint-*/trainer_state.json")
        if any(state.parent.glob("*model*.safetensors"))
    ]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _chosen_step(state: Any) -> dict[str, Any]:
    """The evaluated step with the lowest loss of each kind: the setup's own (which chose), plain, uniform (SPEC A2)."""
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    steps = {
        kind: min(evaluated, key=lambda entry: entry[f"eval_{kind}"])["step"] if evaluated else None
        for kind in ("loss", "plain_loss", "uniform_loss")
    }
    return {"best_step": steps, "choice_would_change": len(set(steps.values())) > 1}


def predict(folder: Path, dataset: Dataset, arguments: LangImbTrainingArguments) -> pa.Table:
    """Predictions on the test set: columns id, language, label, prediction, logits; kept as predictions.parquet."""
    path = folder / "predictions.parquet"
    if not path.exists():
        from transformers import AutoTokenizer

        from hf_langimb.models.loading import load_model
        from hf_langimb.training.trainer import LangImbTrainer

        changes: dict[str, Any] = {
            "lora_rank": 0,  # the adapters are there
            "prediction_loss_only": False,
            "dataloader_drop_last": False,
            "eval_do_concat_batches": True,
            "report_to": "none",  # the training's tracker has its run
        }
        plain = replace(arguments, **changes)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trainer = LangImbTrainer(load_model(folder), plain, eval_dataset=dataset, processing_class=tokenizer)
        logits = trainer.predict(dataset).predictions
        if PartialState().is_main_process:
            columns = {name: dataset[name][:] for name in ("id", "language", "label")}
            columns["prediction"] = logits.argmax(axis=1)
            columns["logits"] = pa.array(list(logits.astype(np.float32)), pa.list_(pa.float32()))
            pq.write_table(pa.table(columns), path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        PartialState().wait_for_everyone()
    return _read_step(path)


def probe(folder: Path, dataset: Dataset, external: Dataset | None) -> dict[str, Any]:
    """Language probe on the test set and on external text (SPEC A5), kept as probe.json; null where none can be."""
    path = folder / "probe.json"
    if not path.exists():
        from transformers import AutoTokenizer

        from hf_langimb.measures.forward import extract_features
        from hf_langimb.measures.probe import probe_languages
        from hf_langimb.models.loading import load_model

        model, tokenizer = load_model(folder).to(PartialState().device), AutoTokenizer.from_pretrained(folder)
        pooling = "cls" if tokenizer.mask_token_id is not None else "last"  # the first token of a decoder sees nothing
        scores: dict[str, Any] = {"test": None, "external": None}
        for name, rows in (("test", dataset), ("external", external)):
            if rows is None:
                continue
            features = extract_features(model, tokenizer, rows, pooling=pooling)  # by all processes
            if PartialState().is_main_process:
                try:
                    found = probe_languages(features, rows["language"][:], groups=rows["id"][:])
                    scores[name] = found.to_dict() | {"pooling": pooling, "layer": -1, "C": 1.0}
                except ValueError as error:  # a single language, or one with a single row: all else can be measured
                    logger.warning("No language probe on %s text: %s", name, error)
        if PartialState().is_main_process:
            write_json(path, scores)
        PartialState().wait_for_everyone()
    return _read_step(path)


def explain(folder: Path, rows: Dataset, out: Path, text_columns: Sequence[str], max_length: int | None) -> None:
    """Token attributions of a trained model's probabilities on rows with texts, kept in a store of their own."""
    from transformers import AutoTokenizer

    from hf_langimb.measures.attribution.attribute import attribute
    from hf_langimb.models.loading import load_model

    model, tokenizer = load_model(folder).to(PartialState().device), AutoTokenizer.from_pretrained(folder)
    attribute(model, tokenizer, rows, out=out, text_columns=text_columns, max_length=max_length)


def put_aside(store: Path, rows: int) -> None:
    """Keep the store of a sample of another size as NAME.N-rows; take that of this size back where there is one."""
    manifest = store / "manifest.json"
    if PartialState().is_main_process and manifest.is_file():
        number = _read_step(manifest).get("examples")
        if number != rows:
            store.rename(store.with_name(f"{store.name}.{number}-rows"))
            before = store.with_name(f"{store.name}.{rows}-rows")
            if before.is_dir():
                before.rename(store)
    PartialState().wait_for_everyone()


def explained_rows(test: Dataset, rows: int) -> Dataset | None:
    """As many test rows of each label in each language, one at least, `rows` in all; -1 takes all, 0 none."""
    if rows == 0:
        return None
    if rows == -1 or rows >= len(test):
        return test
    available = JointDistribution.from_dataset(test).counts
    counts = np.minimum(available, np.int64(max(rows // int(np.count_nonzero(available)), 1)))
    counts = counts[:, available.any(axis=0)]  # `draw` knows the labels that there are
    return test.select(draw(test["language"][:], test["label"][:], counts, seed=TEST_SEED))


def _compare_attributions(folder: Path, setups: Sequence[str], seeds: Sequence[int]) -> dict[str, Any] | None:
    """Cumulative difference of imbalanced and balanced, and base values; null where the run has not both setups."""
    from hf_langimb.measures.attribution.difference import base_values, compare_seeds

    setup, reference = compared_pair(setups)
    if setup not in setups or reference not in setups:
        return None
    stores = {name: {seed: folder / f"{name}-seed-{seed}" for seed in seeds} for name in setups}
    bases = {name: base_values(of_setup) for name, of_setup in stores.items()}
    compared = compare_seeds(stores[setup], stores[reference])
    return {"setup": setup, "reference": reference, "base_values": bases} | compared


def _read_step(path: Path) -> Any:
    """What a step has written."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else pq.read_table(path)
    except (ValueError, OSError) as error:  # pyarrow's are ValueErrors
        raise ValueError(f"{path} cannot be read ({error}): remove it and run the recipe again.") from None


def run(recipe: Recipe) -> tuple[Path, dict[str, Any]]:
    """Run every step that is not done yet.

    Returns:
        The run folder and its results (results.json).
    """
    from transformers import AutoTokenizer

    began = time.time()
    if recipe.training.push_to_hub:
        _check_publishing(recipe.training)
    settings = {name: resolve_setup(name, recipe.setups) for name in recipe.data.setups}
    data = load_data(recipe.data, recipe.training.language_column)
    _check_setups(recipe, settings, data)
    external = external_text(recipe.data, data.languages, recipe.training.language_column)
    folder = open_run(recipe)
    start = start_checkpoint(recipe, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(start)
    except OSError as error:
        raise ValueError(f"Expected a model at {start!r} (Hub id or folder): {str(error).splitlines()[0]}") from None
    test_plan = "balanced" if data.plans else "natural"
    explained = explained_rows(data.subset("test", test_plan, TEST_SEED), recipe.data.explain_rows)
    source = data.source
    data.source = DatasetDict(
        {name: tokenize(rows, tokenizer, data.text_columns, recipe.data.max_length) for name, rows in source.items()}
    )
    test = data.subset("test", test_plan, TEST_SEED)
    audits = {"test/balanced": JointDistribution.from_dataset(test).audit()}
    seeds = [recipe.training.seed + i for i in range(recipe.data.seeds)]
    metrics: dict[str, dict[str, Any]] = {name: {} for name in settings}
    trainings = [(seed, setup, values) for seed in seeds for setup, values in settings.items()]
    with logging_redirect_tqdm(), bar(trainings, unit="training") as progress:
        for seed, setup, values in progress:
            progress.set_description(f"{setup}, seed {seed}")
            changes = values | {"output_dir": str(folder / setup / f"seed-{seed}"), "seed": seed}
            changes["language_column"] = "language"  # as `load_data` names it
            changes["push_to_hub"] = False  # the whole run is published at its end
            changes["run_name"] = recipe.training.run_name or f"{setup}-seed-{seed}"  # in trackers
            arguments = replace(recipe.training, **{key: value for key, value in changes.items() if key != "plan"})
            subsets = {split: data.subset(split, values["plan"], seed) for split in ("train", "validation")}
            for split, rows in subsets.items():
                if (key := f"{split}/{values['plan']}") not in audits:
                    audits[key] = JointDistribution.from_dataset(rows).audit("per_language")
            logger.info("Setup %s, seed %d", setup, seed)
            training = train(arguments, start, tokenizer, subsets, data)
            metrics[setup][str(seed)] = _measure(arguments, test, external, data, training)
            if explained is not None:
                store = folder / "attributions" / f"{setup}-seed-{seed}"
                put_aside(store, len(explained))
                explain(Path(arguments.output_dir), explained, store, data.text_columns, data.recipe.max_length)
    results = _assemble(recipe, data, settings, audits, metrics)
    if PartialState().is_main_process:
        if explained is not None:
            results["attributions"] = _compare_attributions(folder / "attributions", list(settings), seeds)
        write_results(folder, results)
        _write_environment(folder, began)
    return folder, results


def _check_setups(recipe: Recipe, settings: dict[str, dict[str, Any]], data: Data) -> None:
    """Raise before any work where a setup's plan, its size or its weights do not fit the data, or a tracker lacks."""
    from transformers.integrations import get_available_reporting_integrations

    metrics = ("loss", "plain_loss", "uniform_loss")
    metric = (recipe.training.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in metrics:
        raise ValueError(f"metric_for_best_model expects one of eval_{', eval_'.join(metrics)}, found {metric!r}.")
    if missing := set(recipe.training.report_to) - {"none"} - {*get_available_reporting_integrations()}:
        names = ", ".join(sorted(missing))
        raise ValueError(f"report_to names {names}, which this environment does not have: install it, or leave it out.")
    available = JointDistribution.from_dataset(data.source["train"])
    for setup, values in settings.items():
        plan, overrides = values["plan"], {key: value for key, value in values.items() if key != "plan"}
        if twice := sorted(recipe.flags & overrides.keys()):
            raise ValueError(
                f"Setup {setup} sets {', '.join(f'{key} to {overrides[key]!r}' for key in twice)}, found the flag too: "
                "leave the flag out, or define a setup of your own in a YAML file."
            )
        if plan not in ("natural", *data.plans):
            known = ", ".join([*data.plans, "natural"])
            advice = "" if data.plans else " (imbalanced_shares would make others)"
            raise ValueError(f"Setup {setup} has plan {plan!r}, expected one of {known}{advice}.")
        arguments = replace(recipe.training, **overrides)
        trained = available
        if plan != "natural":
            trained = JointDistribution(available.languages, available.labels, data.counts("train", plan))
            data.counts("validation", plan)
        cell_weights(trained, arguments.class_weighting, missing_cell_policy=arguments.missing_cell_policy)
    if data.plans:
        data.counts("test", "balanced")


def publish_run(training: LangImbTrainingArguments, folder: Path) -> list[str]:
    """Push a finished run with the Trainer's own arguments of the Hub; returns the URLs."""
    from hf_langimb.hub.push import push_run

    assert training.hub_model_id
    return push_run(
        folder,
        training.hub_model_id,
        private=bool(training.hub_private_repo),
        revision=training.hub_revision,
        token=training.hub_token,
    )


def _check_publishing(training: LangImbTrainingArguments) -> None:
    """Raise before any work where the run could not be published at its end."""
    from hf_langimb.hub.push import require_login

    if not training.hub_model_id:
        raise ValueError("push_to_hub needs hub_model_id: add --hub_model_id NAMESPACE/NAME.")
    name, token = training.hub_model_id, training.hub_token
    on_main(lambda: require_login(name, token))


def _measure(
    arguments: LangImbTrainingArguments,
    test: Dataset,
    external: Dataset | None,
    data: Data,
    training: dict[str, Any],
) -> dict[str, Any]:
    """METRICS of one trained model."""
    folder = Path(arguments.output_dir)
    axes = json.loads((folder / AXES_FILE).read_text(encoding="utf-8"))
    skewed = data.counts("train", "imbalanced") if data.plans else np.array(axes["counts"])
    plan = JointDistribution(tuple(data.languages), tuple(range(len(data.labels))), skewed)
    quality = measure_predictions(predict(folder, test, arguments), test, plan, np.array(axes["weights"]))
    return {"test": quality, "probe": probe(folder, test, external), "training": training}


def measure_predictions(
    table: pa.Table, test: Dataset, plan: JointDistribution | None, weights: np.ndarray | None
) -> dict[str, Any]:
    """METRICS["test"] of predictions.parquet on the rows of a test set."""
    predictions = join_by_id(table, test["id"], test["language"], test["label"])
    logits = np.array(predictions["logits"].to_pylist(), dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return evaluate_predictions(
        predictions["language"],
        predictions["label"],
        predictions["prediction"],
        exponentials / exponentials.sum(axis=1, keepdims=True),
        plan=plan,
        weights=weights,
        groups=predictions["id"],
    )


def _assemble(
    recipe: Recipe,
    data: Data,
    settings: dict[str, dict[str, Any]],
    audits: dict[str, Any],
    metrics: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """results.json from the parts."""
    setups = {
        name: {
            "plan": values["plan"],
            **{name: values.get(name, getattr(recipe.training, name)) for name in SHOWN_SETTINGS},
            "seeds": metrics[name],
            "summary": summarise(metrics[name]),
        }
        for name, values in settings.items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.name,
        "config_name": recipe.config_name,
        "config": _plain({**recipe.config, **_setups_of(recipe)}),
        "flags": _plain({key: recipe.config[key] for key in sorted(recipe.flags & recipe.config.keys() - _SHOWN)}),
        "languages": data.languages,
        "labels": data.labels,
        "seeds": [recipe.training.seed + i for i in range(recipe.data.seeds)],
        "data": audits,
        "setups": setups,
        "noise_ceiling": data.noise_ceiling,
        "comparisons": compare(setups),
        "attributions": None,
    }


def _write_environment(folder: Path, began: float) -> None:
    """Versions, host, times and command: everything that may differ between two runs of the same numbers."""
    import platform
    import sys
    from importlib.metadata import version

    packages = ("hf_langimb", "torch", "transformers", "accelerate", "datasets", "peft", "scikit-learn", "numpy")
    write_json(
        folder / "environment.json",
        {
            "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
            "host": platform.platform(),
            "processes": PartialState().num_processes,
            "device": str(PartialState().device),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "seconds": round(time.time() - began, 1),
            "command": without_tokens(sys.argv),
        },
    )


def without_tokens(command: Sequence[str]) -> list[str]:
    """A command line whose --..._token flags have lost their values."""
    kept = list(command)
    for i, word in enumerate(kept):
        flag, equals, _ = word.partition("=")
        if flag.startswith("--") and flag.endswith("token"):
            if equals:
                kept[i] = f"{flag}=..."
            elif i + 1 < len(kept):
                kept[i + 1] = "..."
    return kept


def main(name: str, folder: Path) -> None:
    """Run a recipe from the command line: parse, run, print what came out and where it is."""
    import sys

    from transformers.utils import logging as transformers_logging

    from hf_langimb.runs.recipe import parse_recipe

    start_program()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_langimb").setLevel(logging.INFO if PartialState().is_main_process else logging.ERROR)
    transformers_logging.set_verbosity_error()  # each training starts with a head that is new, as it should be
    transformers_logging.disable_progress_bar()  # of weights that take no time to load
    with ends_in_words(Path(sys.argv[0]).name, RESUMES):
        recipe = parse_recipe(name, folder)
        if "disable_tqdm" not in recipe.config:
            recipe.training.disable_tqdm = hidden()
        output, results = run(recipe)
        if PartialState().is_main_process:
            _show(recipe, output, results)


def _show(recipe: Recipe, output: Path, results: dict[str, Any]) -> None:
    """Print what came out, write the page, publish where that was asked for."""
    from hf_langimb.results.page import write_report
    from hf_langimb.results.tables import attributions_cells, comparisons_cells, predictions_cells, setups_cells, table

    several = len(results["seeds"]) > 1
    over = f", mean [95 % interval] over {len(results['seeds'])} seeds" if several else ""
    print("\nPredicted labels on the balanced test set, share in each language\n")
    print(table(*predictions_cells(results)))
    print(f"\nSetups{over}\n")
    print(table(*setups_cells(results)))
    if several:
        print("\nDifferences between setups, paired by seed\n")
        print(table(*comparisons_cells(results)))
    if results["attributions"]:
        print("\nToken attributions, cumulative difference (see the page for what is compared)\n")
        print(table(*attributions_cells(results)))
    print(f"\nNoise ceiling of the test labels: {results['noise_ceiling']:.3f}" if results["noise_ceiling"] else "")
    print(f"To look at: {write_report(output)}")
    print(f"All numbers: {output / 'results.json'}; models: {output}/SETUP/seed-N/")
    if recipe.training.push_to_hub:
        print("\n".join(["Published:", *publish_run(recipe.training, output)]))
    if not several:
        print("Next: add --seeds 5 for intervals (finished trainings are kept), or --config mbert on a GPU.")
