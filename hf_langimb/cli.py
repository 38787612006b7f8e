"""Command line `langimb`: one function per command, which imports what it needs, and the flags of all of them."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_langimb import __version__
from hf_langimb.console import RESUMES, about, ends_in_words, hide_bars, start_program, with_dashes
from hf_langimb.counts.weighting import WEIGHTING_SCHEMES
from hf_langimb.data.flags import (
    AUTO,
    LABEL_COLUMNS_HELP,
    TOLERANCE,
    TOLERANCE_HELP,
    above_zero,
    add_classifier_flags,
    add_data_flags,
    data_spec,
    number_or,
)
from hf_langimb.measures import POOLINGS, PROTOCOLS
from hf_langimb.measures.attribution import DTYPES, MASKINGS, METHODS, OWEN_ORDERS


def audit(options: Namespace) -> None:
    """Print whether labels depend on language in a dataset, split by split."""
    from hf_langimb.data.label_counts import label_counts
    from hf_langimb.runs.answers import audit_text, labels_text

    spec = replace(data_spec(options), count_column=options.count_column)
    splits: Any = label_counts(spec, options.label_columns) if options.label_columns else spec.counts()
    audits = {split: counts.audit(options.weighting) for split, counts in splits.items()}
    several, text_of = len(audits) > 1, labels_text if options.label_columns else audit_text
    texts = (f"## {split}\n\n" * several + text_of(values) for split, values in audits.items())
    _print(options, audits if several else next(iter(audits.values())), lambda: "\n\n".join(texts))


def probe(options: Namespace) -> None:
    """Print how well a probe identifies the language from a model's features."""
    from hf_langimb.data.rows import find_text_columns
    from hf_langimb.measures.probe import probe_model
    from hf_langimb.runs.answers import probe_report

    start_program()
    rows = data_spec(options).texts(first=options.rows or None)
    settings: dict[str, Any] = {"protocol": options.protocol, "pooling": options.pooling}
    settings["layers"] = None if options.layer is None else (options.layer,)
    settings["aligned"] = options.alignment
    if options.alignment and not options.id_column:
        raise ValueError("--alignment compares translations: name the column that they share with --id-column.")
    found = probe_model(options.model, rows, text_columns=find_text_columns(rows, options.text_column), **settings)
    if found is None:  # another process prints
        return
    found = {"model": options.model, "dataset": options.dataset} | found
    _print(options, found, lambda: probe_report(found))
    if options.figure:
        from hf_langimb.results.plots import probe_by_layer

        probe_by_layer(found).savefig(options.figure)


def explain(options: Namespace) -> None:
    """Attribute a model's probabilities to the tokens of a dataset's rows."""
    from hf_langimb.measures.attribution.attribute import attribute
    from hf_langimb.models.loading import load_trained
    from hf_langimb.runs.answers import explained_report
    from hf_langimb.runs.explaining import explain_rows

    state = start_program()
    logging.basicConfig(format="langimb: %(message)s")
    auto = options.rows == AUTO
    if options.tolerance and not auto:
        raise ValueError(
            f"--tolerance needs --rows {AUTO}, got --rows {options.rows}: use --rows {AUTO}, or leave --tolerance out."
        )
    rows = data_spec(options).rows(None if auto else options.rows or None)
    trained = load_trained(options.model)
    settings = {name: getattr(options, name) for name in ("method", "masking", "budget", "dtype", "orders")}
    settings |= {"text_columns": options.text_column}
    model, folder, used = trained.model.to(state.device), options.output_dir, None
    if auto:
        store, used = explain_rows(model, trained.tokenizer, rows, folder, options.tolerance or TOLERANCE, **settings)
    else:
        store = attribute(model, trained.tokenizer, rows, out=folder, **settings)
    if state.is_main_process:
        print(explained_report(store.manifest, store.examples, store.folder, used))


def correct(options: Namespace) -> None:
    """Correct a trained model for each language on held-out rows, without training it."""
    _change(options, "correct", "correction")


def refit(options: Namespace) -> None:
    """Refit the last layer of a trained model on held-out rows in which all cells are equally frequent."""
    _change(options, "refit", "refit")


def _change(options: Namespace, command: str, key: str) -> None:
    """Change a trained model with held-out rows, and print how much that helps."""
    from hf_langimb.runs.answers import changed_report
    from hf_langimb.runs.evaluate import check_up

    state = start_program()
    logging.basicConfig(format="langimb: %(message)s")
    usual = vars(_parser().parse_args([command, "MODEL", "DATASET", "--output-dir", "DIR"]))
    asked = {name: value for name, value in vars(options).items() if value != usual[name]}
    flags = {
        name: asked[name] for name in asked if name not in ("model", "dataset", "output_dir", "batch_size", "json")
    }
    unused = {"recipe": command, "flags": flags, "explain_rows": 0, "explain_tolerance": None, "extra_test": []}
    unused |= {"material_bits": None, "material_transfer": None, "push_to_hub": False}
    folder, results = check_up(Namespace(**vars(options) | unused))
    if state.is_main_process:
        _print(options, results[key], lambda: changed_report(folder, results))  # type: ignore[literal-required]


def train(words: Sequence[str]) -> None:
    """Train and compare setups on a user's data."""
    with ends_in_words("langimb", RESUMES):
        from hf_langimb.runs.custom import FOLDER, words_of
        from hf_langimb.runs.experiment import main as run_recipe  # takes seconds, in which a user may press Ctrl-C

        run_recipe("custom", FOLDER, words_of(words))


def compare(options: Namespace) -> None:
    """Print the cumulative difference of a run's attributions."""
    from hf_langimb.results.rendering import rendered_from
    from hf_langimb.results.schema import read_results
    from hf_langimb.runs.answers import compared_report

    folder = _run_folder(options.run_folder)
    with rendered_from(folder):
        found, text = compared_report(read_results(folder))
    _print(options, found, lambda: text)


def report(options: Namespace) -> None:
    """Write one HTML page of a run."""
    from hf_langimb.cloned.results import is_cloned

    folder, output = _run_folder(options.run_folder), options.output
    if is_cloned(folder):
        from hf_langimb.cloned.page import write_page as write_report
    else:
        from hf_langimb.results.page import write_report
    if str(folder) != options.run_folder and output is None:  # a download, where nothing is written
        output = f"{options.run_folder.rpartition('/')[2]}.html"
    print(f"Written: {write_report(folder, output)} (open it in a browser; it needs no network)")


def push(options: Namespace) -> None:
    """Publish the models of a run with their results."""
    from hf_langimb.cloned.results import is_cloned, read_cloned
    from hf_langimb.hub.push import own_setups, push_run
    from hf_langimb.results.schema import read_results

    hide_bars()
    run, publish = options.run_folder, push_run
    if cloned := is_cloned(Path(run)):
        from hf_langimb.cloned.publish import push_cloned as publish  # type: ignore[assignment]
    known = [*read_cloned(run)["setups"]] if cloned else own_setups(read_results(run))
    if not options.all and options.setup is None and len(known) > 1:
        raise ValueError(f"{run} is a run of several setups: choose one with --setup ({', '.join(known)}), or --all.")
    setups = None if options.all or not known else [options.setup or known[0]]
    settings = {name: getattr(options, name) for name in ("seed", "private", "revision", "collection")}
    urls = publish(run, options.repo_id, setups=setups, **settings)
    print("\n".join(["Published, downloaded again, and loaded with the same logits:", *urls]))
    name = options.repo_id if not options.all else f"{options.repo_id}-{known[0]}"
    load = "" if cloned else f", or load_run({name!r})"
    print(f"Next: langimb pull {name}{load}; its card shows how to use it{'' if cloned else ' without this package'}.")


def pull(options: Namespace) -> None:
    """Download a published model with its card and results."""
    from hf_langimb.cloned.results import is_cloned
    from hf_langimb.hub.pull import pull as download_into
    from hf_langimb.runs.answers import pulled_report

    hide_bars()
    folder = download_into(options.repo_id, options.output_dir, revision=options.revision)
    if is_cloned(folder):
        next_step = f"AutoModelForCausalLM.from_pretrained({str(folder)!r}); its README.md shows how to use it"
        print(f"Written: {folder}\nMeasures: {folder}/report.html\nNext: {next_step}.")
    else:
        print(pulled_report(folder))


def _print(options: Namespace, value: Any, text: Callable[[], str]) -> None:
    """Print a text for people, with --json strict JSON."""
    print(json.dumps(value, indent=1, allow_nan=False) if options.json else text())


def _run_folder(name: str) -> Path:
    """A run's folder; a Hub id is downloaded."""
    if Path(name).exists() or name.count("/") != 1:
        return Path(name)
    from hf_langimb.hub.pull import download

    hide_bars()
    return download(name)


def _picture(text: str) -> str:
    """The path of a figure, checked before any work."""
    path = Path(text)
    if path.suffix not in (".svg", ".png", ".pdf") or not path.parent.is_dir():
        raise ArgumentTypeError(f"expected a .svg, .png or .pdf file in a folder that exists, got {text!r}")
    return text


def _parser() -> ArgumentParser:
    """All commands with their flags."""
    purpose = "Measure whether labels depend on language, and whether a model uses language as a shortcut."
    parser = ArgumentParser("langimb", description=purpose, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"langimb {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(run: Callable[[Namespace], None], text: str) -> ArgumentParser:
        """A command that calls `run`, without its flags."""
        command = commands.add_parser(run.__name__, help=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    json_flag: dict[str, Any] = {"action": "store_true", "help": "print only JSON"}
    run_folder: dict[str, Any] = {"metavar": "RUN", "help": "run folder of a recipe, or Hub id of a model from one"}

    command = add(audit, "measure how much labels depend on language")
    add_data_flags(command)
    table = "column with the number of rows, if DATASET is a table of counts such as the result of a GROUP BY"
    command.add_argument("--count-column", metavar="COLUMN", help=table)
    command.add_argument("--label-columns", nargs="+", default=[], metavar="COLUMN", help=LABEL_COLUMNS_HELP)
    named: dict[str, Any] = {"type": lambda name: name.replace("-", "_"), "choices": list(WEIGHTING_SCHEMES)}
    weights = "show these class weights and the effective sample size they leave (default: %(default)s)"
    command.add_argument("--weighting", **named, default="none", help=weights)
    command.add_argument("--json", action="store_true", help="print only JSON: one audit, or {split: audit}")

    command = add(probe, "test whether a model's features reveal the language")
    flag = command.add_argument
    flag("model", metavar="MODEL", help="Hub id or folder of an encoder, classifier or adapter")
    add_data_flags(command)
    flag("--rows", type=int, default=1000, help="use the first N rows of each language; 0: all (default: %(default)s)")
    flag("--pooling", choices=POOLINGS, help="default: cls (--protocol code: pooler for BERT)")
    flag("--layer", type=number_or("all"), default=-1, help="0: embeddings, -1: last layer (default), or all")
    protocols = "text: as in the paper (default); code: as in its code (C = 1e-4, pooler for BERT, first text only)"
    flag("--protocol", choices=PROTOCOLS, default="text", help=protocols)
    closeness = "also measure how close translations of a text are (rows with the same --id-column)"
    flag("--alignment", action="store_true", help=closeness)
    flag("--figure", type=_picture, metavar="FILE", help="draw accuracy by layer (.svg, .png or .pdf)")
    flag("--json", **json_flag)

    command = add(explain, "attribute predictions to tokens")
    flag = command.add_argument
    flag("model", metavar="MODEL", help="Hub id or folder of a classifier or adapter")
    add_data_flags(command)
    flag("--output-dir", required=True, metavar="DIR", help="output folder; a rerun continues it")
    number = "use the first N rows of each language; 0: all (default); auto: batches of rows until sums are precise"
    flag("--rows", type=number_or(AUTO, AUTO), default=0, metavar="N|auto", help=number)
    flag("--tolerance", type=above_zero, metavar="X", help=f"{TOLERANCE_HELP}; default: {TOLERANCE}")
    methods = "default: %(default)s (Owen values without bias); owen: as shap for texts; shapley: Shapley values"
    flag("--method", choices=METHODS, default=OWEN_ORDERS, help=methods)
    orders = "orders of the tokens, a power of two, at least 4; replaces --budget (default: 4 to 64, by the budget)"
    flag("--orders", type=int, metavar="N", help=orders)
    flag("--masking", choices=MASKINGS, default="ids", help="default: %(default)s; string: as shap masks texts")
    budget = "forward passes (owen, shapley: evaluations) per example, or full (default: %(default)s)"
    flag("--budget", type=number_or("full"), default=500, help=budget)
    flag("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")

    changes = {correct: "make the predictions of a trained model depend less on language, without training it"}
    changes[refit] = "fit the last layer of a trained model again, on balanced subsets of held-out rows"
    for change, text in changes.items():
        command = add(change, text)
        add_classifier_flags(command)
        command.add_argument("--output-dir", required=True, metavar="DIR", help="output folder; a rerun continues it")
        command.add_argument("--json", **json_flag)
    erase = "also erase language from the features before fitting (LEACE), and compare with erasing random directions"
    command.add_argument("--erase-language", action="store_true", help=erase)  # of refit

    # The flags are those of recipes/custom.py: see `main`.
    commands.add_parser("train", help="train with and without class weights, and test for the shortcut")

    command = add(compare, "compare token attributions of setups, with a control")
    command.add_argument("run_folder", **run_folder)
    command.add_argument("--json", **json_flag)

    command = add(report, "write one HTML page of a run")
    command.add_argument("run_folder", **run_folder)
    command.add_argument("--output", metavar="FILE", help="default: RUN/report.html; for a Hub id NAME.html")

    command = add(push, "publish the models of a run on the Hub")
    flag, either = command.add_argument, command.add_mutually_exclusive_group().add_argument
    flag("run_folder", metavar="RUN", help="run folder of a recipe")
    flag("repo_id", metavar="REPO_ID", help="NAMESPACE/NAME; --all appends -SETUP")
    either("--setup", metavar="NAME", help="publish this setup, as REPO_ID")
    either("--all", action="store_true", help="publish every setup, each as REPO_ID-SETUP")
    flag("--seed", type=int, metavar="N", help="seed of the weights (default: the lowest)")
    flag("--private", action="store_true", help="make new repositories private")
    flag("--revision", metavar="R", help="branch to commit to (default: main)")
    flag("--collection", metavar="TITLE", help="list the repositories in this collection")

    command = add(pull, "download a published model with its results")
    command.add_argument("repo_id", metavar="REPO_ID", help="NAMESPACE/NAME of a model")
    command.add_argument("--output-dir", metavar="DIR", help="default: NAME")
    command.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `argv` None takes the process's arguments.

    Returns:
        Exit code: 0 success, 1 an error (one sentence on stderr), 2 wrong usage, 130 interrupted (Ctrl-C).
    """
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # they also log what they raise
    words = [*(sys.argv[1:] if argv is None else argv)]
    try:
        if words[:1] == ["train"]:
            train(words[1:])
            return 0
        options = _parser().parse_args([*map(with_dashes, words)])
        given = [
            value for name, value in vars(options).items() if name in ("model", "dataset", "run_folder", "repo_id")
        ]
        with ends_in_words("langimb"), about(*given):
            options.run(options)
            sys.stdout.flush()
    except SystemExit as stop:  # argparse: 2 after a wrong argument, 0 after --help and --version
        return int(stop.code or 0)
    return 0
