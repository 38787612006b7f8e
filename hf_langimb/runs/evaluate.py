"""Measure a model that is there already: predictions, probe, attributions, card.

The folder that it writes is that of a run with one setup, `model`, whose training happened elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import HfApi, constants

from hf_langimb.console import RESUMES, about, ends_in_words, on_main, start_program, with_dashes
from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import WEIGHTING_SCHEMES, cell_weights
from hf_langimb.data.flags import (
    AUTO,
    LABEL_COLUMNS_HELP,
    TOLERANCE,
    TOLERANCE_HELP,
    above_zero,
    add_classifier_flags,
    data_spec,
    name_of_data,
    number_or,
)
from hf_langimb.data.rows import find_text_columns
from hf_langimb.data.spec import DataSpec
from hf_langimb.files import MODEL, check_model, is_done, read_json, read_record, record, sha256
from hf_langimb.hub.errors import hub_errors, retried
from hf_langimb.hub.pull import download
from hf_langimb.hub.push import publish_evaluation, require_login
from hf_langimb.hub.repository import Head, is_of_model, safe_files
from hf_langimb.measures.attribution.difference import base_values, token_sums
from hf_langimb.measures.attribution.store import AttributionStore
from hf_langimb.measures.correction import FILE
from hf_langimb.measures.shortcut import MATERIAL_BITS, MATERIAL_TRANSFER
from hf_langimb.models.axes import MULTI_LABEL, match_labels, read_axes, set_class_names, stored_axes, unnamed
from hf_langimb.models.inputs import longest_input
from hf_langimb.models.loading import ADAPTER_FILE, Trained, tokenize
from hf_langimb.results.folder import EVALUATED, PREDICTIONS, RunFolder, model_files
from hf_langimb.results.page import write_report
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import ExplainedRows, Results, write_results
from hf_langimb.results.summary import roles_of
from hf_langimb.results.tables import file_name
from hf_langimb.runs.correct import add_corrected
from hf_langimb.runs.explaining import explain_models
from hf_langimb.runs.held_out import ROWS, check_rows, held_out
from hf_langimb.runs.judge import Judge, Sizes
from hf_langimb.runs.labels import check_labels, labels_text
from hf_langimb.runs.notes import joined_tokens, token_notes, token_shares
from hf_langimb.runs.refit import add_refitted
from hf_langimb.runs.steps import Load, MeasuredRows, assemble_results, loader, measure
from hf_langimb.runs.subsets import named_tests, names_the_set

logger = logging.getLogger(__name__)

# What may differ when a run is continued.
FREE = ["explain_rows", "explain_tolerance", "material_bits", "material_transfer", "extra_test", "erase_language"]
WITHOUT_CORRECTION = "The model has a correction, which is not applied here: its results.json has the measures of both."
CHANGES = {"correct": ("correction", add_corrected), "refit": ("refit", add_refitted)}  # commands instead of a recipe
NOT_ASKED = ("output_dir", "push_to_hub", "batch_size", "json")  # where, how fast, in which form: not what


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of recipes/evaluate.py."""
    options = _parse(argv)
    state = start_program()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO if state.is_main_process else logging.ERROR)
    with ends_in_words("evaluate.py", RESUMES):
        with about(options.model, options.dataset):
            check: Any = check_labels if options.label_columns else check_up
            folder, found = check(options)
        if state.is_main_process:
            print(labels_text(folder, found), end="") if options.label_columns else _show(folder, found, options)


def _parse(argv: Sequence[str] | None) -> Namespace:
    """The command line, and `flags`: what was chosen that measures depend on."""
    parser = ArgumentParser(
        "accelerate launch recipes/evaluate.py",
        description="Measure a published or local classifier: quality by language, language probe, attributions.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    add_classifier_flags(parser)
    flag("--output-dir", metavar="DIR", help="default: runs/evaluate-MODEL")
    further = "further test sets with the same columns: NAME=DATASET, or reversed (the test set, skewed the other way)"
    flag("--extra-test", nargs="+", default=[], metavar="NAME=DATASET", help=further)
    explained = "rows whose tokens are attributed; 0: none, -1: all, auto: as many as needed (default: %(default)s)"
    flag("--explain-rows", type=number_or(AUTO, AUTO), default=60, metavar="N|auto", help=explained)
    flag("--label-columns", nargs="+", default=[], metavar="COLUMN", help=LABEL_COLUMNS_HELP)
    sizes = f"smallest link or dependence that counts, in bits; default: {MATERIAL_BITS}"
    flag("--material-bits", type=above_zero, metavar="X", help=sizes)
    sizes = f"smallest skew transfer that counts; default: {MATERIAL_TRANSFER}"
    flag("--material-transfer", type=above_zero, metavar="X", help=sizes)
    text = f"{TOLERANCE_HELP}; default: {TOLERANCE}"
    flag("--explain-tolerance", type=above_zero, metavar="X", help=text)
    flag("--push-to-hub", action="store_true", help="publish the measures and the refreshed card in MODEL's repository")
    options = parser.parse_args([with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)])
    chosen = {key: value for key, value in vars(options).items() if value != parser.get_default(key)}
    if "extra_test" in chosen:
        chosen["extra_test"] = [_without_place(entry) for entry in options.extra_test]
    options.flags = {key: value for key, value in chosen.items() if key not in ("model", "dataset", *NOT_ASKED)}
    options.recipe = "evaluate"
    return options


def check_up(options: Namespace) -> tuple[Path, Results]:
    """Measure, and write results.json; a step that is done is not done again.

    Returns:
        The run folder and its results.

    Raises:
        ValueError: no such model or data, or labels that the model does not have; says what to do.
    """
    for name, least in (("batch_size", 1), ("explain_rows", -1)):
        if (value := getattr(options, name)) != AUTO and value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}.")
    if options.explain_tolerance and options.explain_rows != AUTO:
        raise ValueError(f"--explain-tolerance needs --explain-rows {AUTO}: add it, or leave the tolerance out.")
    if options.push_to_hub:
        if Path(options.model).is_dir():
            raise ValueError(f"--push_to_hub needs a Hub id as MODEL, got the folder {options.model}.")
        on_main(lambda: require_login(options.model, own=False))
    rows = data_spec(options).rows(options.rows or None)
    folder = RunFolder(Path(options.output_dir or f"runs/evaluate-{file_name(Path(options.model).name)}"))
    source = on_main(lambda: _source(options.model, folder.model(*EVALUATED)))
    load = loader(source, options.model)
    test, extra = _test_rows(options, load(), rows), {}
    files = on_main(lambda: _checksums_of(options.model))
    known = WITHOUT_CORRECTION if FILE in (files or {}) or (source / FILE).is_file() else ""
    if options.recipe in CHANGES:
        test, seen_text = held_out(options.model, test, find_text_columns(test, options.text_column))
        check_rows(test, load().names)
        known = f"{known} {seen_text}".strip()
    if known:
        logger.warning(known)
    same = Namespace(**vars(options) | {"text_column": find_text_columns(test, options.text_column)})
    seen = _seen(read_axes(Path(source)), load().names)
    for name, path in named_tests(options.extra_test, seen, JointDistribution.from_dataset(test)).items():
        spec = replace(data_spec(same), name=path, config_names=(), split=None)
        with names_the_set(name):
            extra[name] = _test_rows(same, load(), spec.rows(options.rows or None), path) if path else None
    if not Path(options.dataset).is_file():  # `datasets` calls any single file "train"
        options.split = options.split or str(rows.split or "")
    facts = {"recipe": options.recipe, "files": files, "data": _fingerprint(rows)}
    with folder.working():
        request = _request(options) | facts | {"processes": PartialState().num_processes}
        on_main(lambda: folder.claim(request, FREE))
        on_main(lambda: _copy(source, folder.model(*EVALUATED)))
        results = _measure(options, folder, load, test, extra, source)
        results["notes"] = [*results.get("notes", []), *([known] if known else [])]
        if PartialState().is_main_process:
            write_results(folder.path, results)
        PartialState().wait_for_everyone()
    return folder.path, results


def _test_rows(options: Namespace, trained: Trained, rows: Dataset, name: str = "") -> Dataset:
    """The rows with the model's names of their labels; refuses what cannot be measured."""
    config, own, labels = trained.model.config, trained.names, options.labels
    kind, tokenizer = config.problem_type, type(trained.tokenizer).__name__
    problem, several = "", ", or name columns with --label-columns" if kind == MULTI_LABEL else ""
    if kind == "regression" or (kind == MULTI_LABEL and config.num_labels > 1):
        problem = f"has problem_type {kind!r}, but each text has one label: choose a single-label classifier{several}"
    elif options.explain_rows and not trained.tokenizer.is_fast:
        problem = f"has a slow tokenizer ({tokenizer}), and attributions need a fast one: add --explain-rows 0"
    elif labels and not len({*labels}) == len(labels) == len(own):
        problem = f"has {len(own)} classes: --labels needs a different name for each, got {len(labels)}"
    elif labels and own != labels and not unnamed(own) and config.num_labels > 1:
        problem = f"names its classes itself ({', '.join(own)}): leave --labels out"
    if problem:
        raise ValueError(f"The model {options.model} {problem}.")
    if labels:
        set_class_names(config, labels)
    require_columns(rows, {"language": "language", "label": "label"})
    columns = find_text_columns(rows, options.text_column)
    matched = match_labels(rows, trained.names, stored_axes(trained.model))
    rows = rows.remove_columns("label").add_column("label", matched)
    id_column = "id" if "id" in rows.column_names else None
    spec = DataSpec(name or options.dataset, text_columns=columns, id_column=id_column, drop_null=options.drop_null)
    return spec.standardized(rows, label_names=trained.names)


def _seen(axes: Mapping[str, Any] | None, names: Sequence[str]) -> JointDistribution | None:
    """The training data of a model, if it records them."""
    return JointDistribution(tuple(axes["languages"]), tuple(names), np.array(axes["counts"])) if axes else None


def _measure(
    options: Namespace,
    folder: RunFolder,
    load: Load,
    test: Dataset,
    extra: Mapping[str, Dataset | None],
    source: Path,
) -> Results:
    """results.json of a run with one setup, or also a changed model; `extra` are further test sets.

    None among them is the reversed one; `source` is the folder of the model.
    """
    place, wanted = folder.model(*EVALUATED), options.explain_rows
    trained, columns = load(), find_text_columns(test, options.text_column)
    axes, tokenizer, names = read_axes(place), trained.tokenizer, trained.names
    languages, audits = sorted(test.unique("language")), {"test/natural": JointDistribution.from_dataset(test).audit()}
    limit = longest_input(tokenizer, trained.model)
    encoded = {name: rows and tokenize(rows, tokenizer, columns, limit) for name, rows in extra.items()}
    read, based = tokenize(test, tokenizer, columns, limit), options.recipe not in CHANGES
    measured = MeasuredRows(read, test, None, columns, limit, extra=encoded, based=based)
    parts = {"test texts": test} | {f"texts of {name}": rows for name, rows in extra.items() if rows}
    sets = {name: token_shares(rows, columns, tokenizer, limit) for name, rows in parts.items()}
    warnings, notes = token_notes(sets, tokenizer, limit)
    for note in notes:
        logger.info(note)
    found, facts = {EVALUATED: measure(place, load, measured, options.batch_size)}, dict[str, Any]()
    if options.recipe in CHANGES:
        key, change = CHANGES[options.recipe]
        facts[key], changed = change(folder, source, measured, trained, axes, options)
        for name in changed:
            copy = name, EVALUATED[1]
            found[copy] = measure(folder.model(*copy), load, measured, options.batch_size)
    stores, used = None, None
    if wanted != 0:
        stores, used = explain_models(
            folder, {EVALUATED: load}, measured, wanted, options.explain_tolerance or TOLERANCE
        )
    setup = {"plan": "natural", "class_weighting": "none", "masked_entropy_weight": 0, "lora_rank": 0}
    if axes and (seen := _seen(axes, names)):
        scheme = axes["class_weighting"] if not seen.missing_cells else "none"
        by_counts = scheme in WEIGHTING_SCHEMES and np.allclose(cell_weights(seen, scheme), axes["weights"])
        audits["train/natural"] = seen.audit(scheme if by_counts else "none")
        languages = list(dict.fromkeys([*seen.languages, *languages]))
        setup["class_weighting"] = axes["class_weighting"]
    if (adapter := place / ADAPTER_FILE).is_file():
        setup["lora_rank"] = read_json(adapter, "download it again").get("r", 0)
    setups: dict[str, Any] = {
        name: {**setup, "seeds": {str(seed): metrics}} for (name, seed), (metrics, _) in found.items()
    }
    for name in setups.keys() - {EVALUATED[0]}:
        setups[name]["options"] = {"changed": name}
    samples = {(name, str(seed)): sample for (name, seed), (_, sample) in found.items()}
    sizes = Sizes(options.material_bits or MATERIAL_BITS, options.material_transfer or MATERIAL_TRANSFER)
    metrics = {name: of["seeds"] for name, of in setups.items()}
    judge = Judge(roles_of(setups), metrics, samples, audits.get("train/natural"), 0, sizes)
    return assemble_results(
        verdict=[*judge.verdict()],
        tokens=joined_tokens(sets.values()),
        warnings=warnings,
        notes=notes,
        recipe=options.recipe,
        config_name=options.model,
        config=_request(options),
        flags=options.flags,
        languages=languages,
        labels=names,
        seeds=[EVALUATED[1]],
        data=audits,
        setups=setups,
        **facts,
        explained=_explained(stores[EVALUATED], place, used) if stores else None,
    )


def _request(options: Namespace) -> dict[str, Any]:
    """What was asked for, without the places of folder, repository and data on this machine."""
    kept = {
        key: value
        for key, value in vars(options).items()
        if key not in (*NOT_ASKED, "flags", "recipe", "run", "label_columns")
    }
    for name in FREE[1:4]:
        if kept[name] is None:  # as in earlier versions, which did not have it
            del kept[name]
    if further := [_without_place(entry) for entry in kept.pop("extra_test")]:
        kept["extra_test"] = further
    return kept | {"dataset": name_of_data(options.dataset)}


def _without_place(entry: str) -> str:
    """NAME=DATASET, without the folders of a dataset on this machine."""
    name, equals, path = entry.partition("=")
    return f"{name}{equals}{name_of_data(path) if equals else path}"


def _checksums_of(name: str) -> dict[str, str | None] | None:
    """{file: checksum} of the model that a folder or repository contains at present; None of a repository, offline."""
    if Path(name).is_dir():
        return {path.name: sha256(path) for path in _model_files(Path(name))}
    if constants.HF_HUB_OFFLINE:
        return None
    with hub_errors(name):
        checksums = retried(lambda: Head(HfApi(), name)).checksums
    return {file: checksum for file, checksum in checksums.items() if is_of_model(file)}


def _model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that decide what it does."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_of_model(path.name)]


def _fingerprint(rows: Dataset) -> str:
    """A checksum of the rows."""
    digest = hashlib.sha256(repr(rows.column_names).encode())
    for first in range(0, len(rows), 10_000):
        digest.update(repr(rows[first : first + 10_000]).encode())
    return digest.hexdigest()[:16]


def _source(name: str, place: Path) -> Path:
    """The folder of a model; one of the Hub is downloaded, or was copied to `place` before.

    Raises:
        ValueError: the folder of a run with several models, no model, or a damaged one.
    """
    copied = place.is_dir() and (is_done(place, MODEL) or not read_record(place))
    source = Path(name) if Path(name).is_dir() else place if copied else download(name)
    if models := [*source.glob("seed-*"), *source.glob("*/seed-*")]:
        raise ValueError(f"{name} is the folder of a run: name one of its models, such as {min(models)}.")
    safe_files(name, [path.name for path in source.iterdir()])
    check_model(source)
    return source


def _copy(source: Path, place: Path) -> None:
    """Copy a model into the run folder, where predictions are written next to it, never next to the user's files."""
    if is_done(place, MODEL):
        return
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in [*_model_files(source), *(path for name in ROWS if (path := source / name).is_file())]:
        if path.name != FILE:  # a correction, without which the model is measured
            shutil.copy(path, part)
    record(part, MODEL, model_files(part))
    shutil.rmtree(place, ignore_errors=True)  # of which a file was missing
    part.rename(place)


def _explained(store: AttributionStore, place: Path, rows: ExplainedRows | None) -> Any:
    """`explained` of results.json: a summary of one model's attributions."""
    cut = store.examples["truncated"].to_pylist()
    return {
        "examples": len(store),
        "truncated_share": sum(cut) / len(cut),
        "base_values": base_values({EVALUATED[1]: store}),
        "tokens": token_sums(store, predictions=place / PREDICTIONS),
        "method": store.manifest["method"],
    } | ({"rows": rows} if rows else {})


def _show(folder: Path, results: Results, options: Namespace) -> None:
    """Print the results, write the page, publish if asked for."""
    print(render("evaluate.txt", results=results, folder=folder, page=write_report(folder)), end="")
    if options.push_to_hub:
        print(f"Published: {publish_evaluation(folder, options.model)}")
    else:
        print("Next: --push_to_hub puts these measures and a refreshed card into the model's repository.")
