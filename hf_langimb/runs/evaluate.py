"""Measure a model that is there already: predictions, probe, attributions, card.

The folder that it writes is that of a run with one setup, `model`, whose training happened elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from hf_langimb.console import RESUMES, ends_in_words, on_main, start_program, with_dashes
from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.data.rows import find_text_columns
from hf_langimb.data.spec import DataSpec
from hf_langimb.files import read_json, write_json
from hf_langimb.models.axes import match_labels
from hf_langimb.models.loading import ADAPTER_FILE, longest_input, tokenize
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import Results, write_results
from hf_langimb.results.tables import file_name
from hf_langimb.runs.assemble import assemble_results
from hf_langimb.runs.drawing import sample_evenly
from hf_langimb.runs.steps import explain, load_on_device, measure_predictions, predict_and_probe

logger = logging.getLogger(__name__)

SETUP, SEED = "model", 0
NOT_ASKED = ("output_dir", "push_to_hub", "batch_size")  # where, and how fast: no measure depends on them


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of recipes/evaluate.py."""
    options = _parse(argv)
    state = start_program()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO if state.is_main_process else logging.ERROR)
    with ends_in_words("evaluate.py", RESUMES):
        folder, results = check_up(options)
        if state.is_main_process:
            _show(folder, results, options)


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(
        "accelerate launch recipes/evaluate.py",
        description="Measure a published or local classifier: quality by language, language probe, attributions.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of a classifier or adapter")
    DataSpec.add_arguments(parser)
    parser.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="NAME",
        help="the model's classes in its order, where its configuration calls them LABEL_0, LABEL_1, ...",
    )
    parser.add_argument("--output-dir", metavar="DIR", help="default: runs/evaluate-MODEL")
    parser.add_argument("--rows", type=int, default=0, help="first rows of each language, 0 for all (default)")
    parser.add_argument(
        "--explain-rows", type=int, default=60, help="rows whose tokens are attributed; 0 none, -1 all (default: 60)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="of a device (default: %(default)s)")
    parser.add_argument(
        "--push-to-hub", action="store_true", help="publish the measures and the refreshed card in MODEL's repository"
    )
    options = parser.parse_args([with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)])
    places = ("model", "dataset", *NOT_ASKED)
    given = {key: value for key, value in vars(options).items() if key not in places}
    options.flags = {key: value for key, value in given.items() if value != parser.get_default(key)}
    return options


def check_up(options: Namespace) -> tuple[Path, Results]:
    """Measure, and write results.json; a step that is done is not done again.

    Args:
        options: of the command line.

    Returns:
        The run folder and its results.

    Raises:
        ValueError: no such model or data, or labels that the model does not have; says what to do.
    """
    from hf_langimb.hub.push import require_login

    if options.push_to_hub:
        if Path(options.model).is_dir():
            raise ValueError(f"--push_to_hub writes to the repository of MODEL, got the folder {options.model}.")
        on_main(lambda: require_login(options.model, own=False))
    rows = DataSpec.from_options(options).rows(options.rows or None)
    columns = find_text_columns(rows, options.text_column)
    folder = RunFolder(Path(options.output_dir or f"runs/evaluate-{file_name(Path(options.model).name)}"))
    place = folder.model(SETUP, SEED)
    if not Path(options.dataset).is_file():  # `datasets` calls any single file "train"
        options.split = options.split or str(rows.split or "")
    facts = {"recipe": "evaluate", "files": on_main(lambda: _checksums_of(options.model)), "data": _fingerprint(rows)}
    on_main(lambda: folder.claim(_request(options) | facts))
    on_main(lambda: _fetch(options.model, place, options.labels))
    results = _measure(options, folder, rows, columns)
    if PartialState().is_main_process:
        write_results(folder.path, results)
    PartialState().wait_for_everyone()
    return folder.path, results


def _measure(options: Namespace, folder: RunFolder, rows: Dataset, columns: Sequence[str]) -> Results:
    """results.json of a run with one setup."""
    place, store = folder.model(SETUP, SEED), folder.store(SETUP, SEED)
    load = cache(partial(load_on_device, place))
    trained = load()
    axes, names = trained.axes, trained.names
    test = _labelled(options.dataset, rows, columns, names)
    limit = longest_input(trained.tokenizer, trained.model.config)
    encoded = tokenize(test, trained.tokenizer, columns, limit)
    predictions, probes = predict_and_probe(place, load, encoded, None, options.batch_size)
    sample, explained = sample_evenly(test, options.explain_rows), None
    if sample is not None:
        explain(store, load, sample, columns, limit)
        explained = on_main(lambda: _explained(store))
    tested = sorted(test.unique("language"))
    counts = np.array(axes["counts"]) if axes else np.ones((len(tested), len(names)), dtype=np.int64)  # else even
    plan = JointDistribution(tuple(axes["languages"] if axes else tested), tuple(range(len(names))), counts)
    weights = np.array(axes["weights"]) if axes else None
    metrics = {"test": measure_predictions(predictions, encoded, plan, weights), "probe": probes}
    audits = {"test/natural": JointDistribution.from_dataset(test).audit()}
    if axes:
        trained_on = JointDistribution(plan.languages, tuple(names), counts)
        audits["train/natural"] = trained_on.audit("none" if trained_on.missing_cells else axes["class_weighting"])
    adapter = read_json(place / ADAPTER_FILE, "download it again") if (place / ADAPTER_FILE).is_file() else {}
    setup = {
        "plan": "natural",
        "class_weighting": axes["class_weighting"] if axes else "none",
        "masked_entropy_weight": 0,
        "lora_rank": adapter.get("r", 0),
        "seeds": {str(SEED): metrics},
    }
    return assemble_results(
        recipe="evaluate",
        config_name=options.model,
        config=_request(options),
        flags=options.flags,
        languages=list(dict.fromkeys([*plan.languages, *tested])),
        labels=names,
        seeds=[SEED],
        data=audits,
        setups={SETUP: setup},
        explained=explained,
    )


def _request(options: Namespace) -> dict[str, Any]:
    """What was asked for, without the places of folder, repository and data on this machine."""
    kept = {key: value for key, value in vars(options).items() if key not in (*NOT_ASKED, "flags")}
    if Path(options.dataset).exists():
        kept["dataset"] = Path(options.dataset).resolve().name
    return kept


def _checksums_of(name: str) -> dict[str, str | None] | None:
    """{file: checksum} of the model that a repository holds at present; None of a folder."""
    from huggingface_hub import HfApi, constants

    from hf_langimb.hub.errors import hub_errors, retried
    from hf_langimb.hub.pull import checksums_of, info_of, is_of_model

    if Path(name).is_dir() or constants.HF_HUB_OFFLINE:
        return None
    with hub_errors(name):
        checksums = checksums_of(retried(lambda: info_of(HfApi(), name)))
    return {file: checksum for file, checksum in checksums.items() if is_of_model(file)}


def _fingerprint(rows: Dataset) -> str:
    """A checksum of the rows."""
    digest = hashlib.sha256(repr(rows.column_names).encode())
    for first in range(0, len(rows), 10_000):
        digest.update(repr(rows[first : first + 10_000]).encode())
    return digest.hexdigest()[:16]


def _fetch(name: str, place: Path, labels: Sequence[str]) -> None:
    """Copy the model into the run folder, where predictions are written next to it, never next to the user's files."""
    from hf_langimb.hub.pull import download, is_of_model, safe_files

    if place.is_dir():
        return
    source = Path(name) if Path(name).is_dir() else download(name)
    safe_files(name, [path.name for path in source.iterdir()])
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and is_of_model(path.name):
            shutil.copy(path, part)
    if labels:
        _name_classes(part / "config.json", labels)
    part.rename(place)


def _name_classes(path: Path, labels: Sequence[str]) -> None:
    """Write the names of a model's classes to this copy of its configuration.

    Raises:
        ValueError: adapters, which have no configuration, or another number of classes.
    """
    config = read_json(path, "download the model again") if path.is_file() else {}
    classes = len(config.get("id2label") or range(2)) if isinstance(config, dict) else 0  # 2 is the library's default
    if not config or len(labels) != classes or len({*labels}) != classes:
        found = f"{classes} classes" if config else "adapters without a configuration"
        raise ValueError(f"--labels needs a different name for each class of the model, got {len(labels)} for {found}.")
    config["id2label"] = {str(i): name for i, name in enumerate(labels)}
    config["label2id"] = {name: i for i, name in enumerate(labels)}
    write_json(path, config)


def _labelled(name: str, rows: Dataset, columns: Sequence[str], names: Sequence[str]) -> Dataset:
    """The rows with standard columns, their labels as the model numbers them."""
    require_columns(rows, {"language": "language", "label": "label"})
    given = match_labels(rows, names)
    rows = rows.remove_columns("label").add_column("label", given)
    spec = DataSpec(name, text_columns=columns, id_column="id" if "id" in rows.column_names else None)
    return spec.standardised(rows, label_names=names)


def _explained(store: Path) -> Any:
    """`explained` of results.json: a summary of one model's attributions."""
    from hf_langimb.measures.attribution.difference import base_values, token_sums
    from hf_langimb.measures.attribution.store import AttributionStore

    opened = AttributionStore(store)
    cut = opened.examples["truncated"].to_pylist()
    return {
        "examples": len(opened),
        "truncated_share": sum(cut) / len(cut),
        "base_values": base_values({SEED: opened}),
        "tokens": token_sums(opened),
    }


def _show(folder: Path, results: Results, options: Namespace) -> None:
    """Print the results, write the page, publish if asked for."""
    from hf_langimb.hub.push import publish_evaluation
    from hf_langimb.results.page import write_report
    from hf_langimb.results.tables import languages_cells, predictions_cells, probes_cells, table

    print("\nPredicted labels, share in each language\n")
    print(table(*predictions_cells(results)))
    print("\nBy language, 95 % bootstrap intervals over rows\n")
    print(table(*languages_cells(results)))
    print("\nLanguage probe\n")
    print(table(*probes_cells(results)))
    print(f"\nTo look at: {write_report(folder)}\nAll numbers: {folder / 'results.json'}")
    if options.push_to_hub:
        print(f"Published: {publish_evaluation(folder, options.model)}")
    else:
        print("Next: --push_to_hub puts these measures and a refreshed card into the model's repository.")
