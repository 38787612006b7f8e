"""Command line `langimb`: for each of `COMMANDS` its flags and one function, which imports what it needs."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_langimb import __version__
from hf_langimb.console import ends_in_words, with_dashes
from hf_langimb.data.spec import DataSpec


def _number_or(word: str) -> Callable[[str], int | str]:
    """The type of a flag that is a number or one word."""

    def parse(text: str) -> int | str:
        if text != word and not text.removeprefix("-").isdecimal():
            raise ArgumentTypeError(f"expected a number or {word}, got {text!r}")
        return text if text == word else int(text)

    return parse


def _picture(text: str) -> str:
    """The path of a figure, checked before any work."""
    path = Path(text)
    if path.suffix not in (".svg", ".png", ".pdf") or not path.parent.is_dir():
        raise ArgumentTypeError(f"expected a .svg, .png or .pdf file in a folder that exists, got {text!r}")
    return text


RUN: dict[str, Any] = {"metavar": "RUN", "help": "run folder of a recipe, or Hub id of a model of one"}


def _audit_flags(command: ArgumentParser) -> None:
    from hf_langimb.counts.weighting import WEIGHTING_SCHEMES

    DataSpec.add_arguments(command)
    schemes: dict[str, Any] = {
        "type": lambda name: name.replace("-", "_"),
        "choices": list(WEIGHTING_SCHEMES),
        "default": "none",
    }
    weights = "show these class weights and the effective sample size they leave (default: %(default)s)"
    command.add_argument("--weighting", **schemes, help=weights)
    command.add_argument("--json", action="store_true", help="JSON alone on stdout: AUDIT, or {split: AUDIT}")


def audit(options: Namespace) -> None:
    """Print whether labels depend on language in a data set, split by split."""
    from hf_langimb.runs.answers import audit_text

    splits = DataSpec.from_options(options).counts()
    audits = {split: counts.audit(options.weighting) for split, counts in splits.items()}
    if options.json:
        print(json.dumps(audits if len(audits) > 1 else next(iter(audits.values())), indent=1, allow_nan=False))
    else:
        heading = "## {}\n\n" if len(audits) > 1 else ""
        print("\n\n".join(heading.format(split) + audit_text(values) for split, values in audits.items()))


def _probe_flags(command: ArgumentParser) -> None:
    from hf_langimb.measures import POOLINGS, PROTOCOLS

    flag = command.add_argument
    flag("model", metavar="MODEL", help="Hub id or folder of an encoder, classifier or adapter")
    DataSpec.add_arguments(command)
    flag("--rows", type=int, default=1000, help="first rows of each language, 0 for all (default: %(default)s)")
    flag("--pooling", choices=POOLINGS, help="default: cls (--protocol code: pooler for BERT)")
    flag("--layer", type=_number_or("all"), default=-1, help="0 the embeddings, -1 the last (default), or all")
    protocols = "text: as in the paper (default); code: as in its code (C = 1e-4, pooler for BERT, first text only)"
    flag("--protocol", choices=PROTOCOLS, default="text", help=protocols)
    flag("--figure", type=_picture, metavar="FILE", help="draw accuracy by layer (.svg, .png or .pdf)")
    flag("--json", action="store_true", help="JSON alone on stdout")


def probe(options: Namespace) -> None:
    """Print how well a probe identifies the language from a model's features."""
    from hf_langimb.console import start_program
    from hf_langimb.data.rows import find_text_columns
    from hf_langimb.measures.probe import probe_model
    from hf_langimb.runs.answers import probe_report

    start_program()
    rows = DataSpec.from_options(options).texts(first=options.rows or None)
    found = probe_model(
        options.model,
        rows,
        text_columns=find_text_columns(rows, options.text_column),
        protocol=options.protocol,
        pooling=options.pooling,
        layers=None if options.layer == "all" else (options.layer,),
    )
    if found is None:  # another process prints
        return
    found = {"model": options.model, "dataset": options.dataset} | found
    print(json.dumps(found, indent=1, allow_nan=False) if options.json else probe_report(found))
    if options.figure:
        from hf_langimb.results.plots import probe_by_layer

        probe_by_layer(found).savefig(options.figure)


def _explain_flags(command: ArgumentParser) -> None:
    from hf_langimb.measures.attribution import DTYPES, MASKINGS, METHODS

    flag, budget = command.add_argument, _number_or("full")
    flag("model", metavar="MODEL", help="Hub id or folder of a classifier or adapter")
    DataSpec.add_arguments(command)
    flag("--output-dir", required=True, metavar="DIR", help="of the attributions; interrupted calls continue")
    flag("--rows", type=int, default=0, help="first rows of each language, 0 for all (default)")
    flag("--method", choices=METHODS, default="owen", help="default: %(default)s (as shap for texts)")
    flag("--masking", choices=MASKINGS, default="ids", help="default: %(default)s; string: as shap masks texts")
    flag("--budget", type=budget, default=500, help="evaluations per example, or full (default: %(default)s)")
    flag("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")


def explain(options: Namespace) -> None:
    """Attribute a model's probabilities to the tokens of a data set's rows."""
    from hf_langimb.console import start_program
    from hf_langimb.data.rows import find_text_columns
    from hf_langimb.measures.attribution.attribute import attribute
    from hf_langimb.models.loading import load_trained
    from hf_langimb.runs.answers import explained_report

    state = start_program()
    logging.basicConfig(format="langimb: %(message)s")
    rows = DataSpec.from_options(options).rows(options.rows or None)
    trained = load_trained(options.model)
    store = attribute(
        trained.model.to(state.device),
        trained.tokenizer,
        rows,
        out=options.output_dir,
        method=options.method,
        masking=options.masking,
        budget=None if options.budget == "full" else options.budget,
        dtype=options.dtype,
        text_columns=find_text_columns(rows, options.text_column),
    )
    if state.is_main_process:
        print(explained_report(store.manifest, store.examples, store.folder))


def _compare_flags(command: ArgumentParser) -> None:
    command.add_argument("run_folder", **RUN)
    command.add_argument("--json", action="store_true", help="JSON alone on stdout")


def compare(options: Namespace) -> None:
    """Print the cumulative difference of a run's attributions."""
    from hf_langimb.results.schema import read_results
    from hf_langimb.runs.answers import compared_report

    found = compared_report(read_results(_run_folder(options.run_folder)))
    print(json.dumps(found[0], indent=1, allow_nan=False) if options.json else found[1])


def _report_flags(command: ArgumentParser) -> None:
    command.add_argument("run_folder", **RUN)
    command.add_argument("--output", metavar="FILE", help="default: RUN/report.html; for a Hub id NAME.html")


def report(options: Namespace) -> None:
    """Write one HTML page of a run."""
    from hf_langimb.results.page import write_report

    folder, output = _run_folder(options.run_folder), options.output
    if str(folder) != options.run_folder and output is None:  # a download, where nothing is written
        output = f"{options.run_folder.rpartition('/')[2]}.html"
    print(f"Written: {write_report(folder, output)} (open it in a browser; it needs no network)")


def _run_folder(name: str) -> Path:
    """A run's folder; a Hub id is downloaded."""
    if Path(name).exists() or name.count("/") != 1:
        return Path(name)
    from hf_langimb.console import hide_bars
    from hf_langimb.hub.pull import download

    hide_bars()
    return download(name)


def _push_flags(command: ArgumentParser) -> None:
    flag, either = command.add_argument, command.add_mutually_exclusive_group().add_argument
    flag("run_folder", metavar="RUN", help="run folder of a recipe")
    flag("repo_id", metavar="REPO_ID", help="NAMESPACE/NAME; --all appends -SETUP")
    either("--setup", metavar="NAME", help="publish this setup, as REPO_ID")
    either("--all", action="store_true", help="publish every setup, each as REPO_ID-SETUP")
    flag("--seed", type=int, metavar="N", help="seed of the weights (default: the lowest)")
    flag("--private", action="store_true", help="make new repositories private")
    flag("--revision", metavar="R", help="branch to commit to (default: main)")
    flag("--collection", metavar="TITLE", help="list the repositories in this collection")


def push(options: Namespace) -> None:
    """Publish the models of a run with their results."""
    from hf_langimb.console import hide_bars
    from hf_langimb.hub.push import push_run
    from hf_langimb.results.schema import read_results

    hide_bars()
    known = list(read_results(options.run_folder)["setups"])
    if not options.all and options.setup is None and len(known) > 1:
        raise ValueError(
            f"{options.run_folder} is a run of several setups: choose one with --setup ({', '.join(known)}), or --all."
        )
    urls = push_run(
        options.run_folder,
        options.repo_id,
        setups=None if options.all else [options.setup or known[0]],
        seed=options.seed,
        private=options.private,
        revision=options.revision,
        collection=options.collection,
    )
    print("\n".join(["Published, downloaded again, and loaded with the same logits:", *urls]))
    name = options.repo_id if not options.all else f"{options.repo_id}-{known[0]}"
    print(f"Next: langimb pull {name}, or load_run({name!r}); its card shows how to use it without this package.")


def _pull_flags(command: ArgumentParser) -> None:
    command.add_argument("repo_id", metavar="REPO_ID", help="NAMESPACE/NAME of a model")
    command.add_argument("--output-dir", metavar="DIR", help="default: NAME")
    command.add_argument("--revision", metavar="R", help="branch, tag or commit (default: main)")


def pull(options: Namespace) -> None:
    """Download a published model with its card and results."""
    from hf_langimb.console import hide_bars
    from hf_langimb.hub.pull import pull as download_into
    from hf_langimb.runs.answers import pulled_report

    hide_bars()
    print(pulled_report(download_into(options.repo_id, options.output_dir, revision=options.revision)))


COMMANDS = (
    (audit, _audit_flags, "do labels depend on language in a data set?"),
    (probe, _probe_flags, "do a model's features reveal the language?"),
    (explain, _explain_flags, "what does each token contribute to a prediction?"),
    (compare, _compare_flags, "how imbalance changes what tokens contribute, with a control"),
    (report, _report_flags, "write one HTML page of a run"),
    (push, _push_flags, "publish the models of a run on the Hub"),
    (pull, _pull_flags, "download a published model with its results"),
)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "langimb",
        description="Find labels that depend on language, and measure whether a model uses them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"langimb {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for run, add_flags, text in COMMANDS:
        command = commands.add_parser(run.__name__, help=text, allow_abbrev=False)
        command.set_defaults(run=run)
        add_flags(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `argv` None takes the process's arguments.

    Returns:
        Exit code: 0 success, 1 an error (one sentence on stderr), 2 wrong usage, 130 interrupted (Ctrl-C).
    """
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # they also log what they raise
    try:
        options = _parser().parse_args([with_dashes(a) for a in (sys.argv[1:] if argv is None else argv)])
        with ends_in_words("langimb"):
            options.run(options)
            sys.stdout.flush()
    except SystemExit as stop:  # argparse: 2 after a wrong argument, 0 after --help and --version
        return int(stop.code or 0)
    return 0
