"""Measure a model that predicts several labels per text: each label by itself, with a page."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from hf_langimb.console import shown, with_dashes
from hf_langimb.counts.multi_label import MultiLabelDistribution, values_of
from hf_langimb.data.flags import data_spec, name_of_data
from hf_langimb.data.label_counts import label_rows
from hf_langimb.data.rows import find_text_columns
from hf_langimb.files import read_json, write_json, write_text
from hf_langimb.measures.forward import forward_rows, usual_pooling
from hf_langimb.measures.multi_label import MultiLabelMeasures, evaluate_labels
from hf_langimb.measures.shortcut import MATERIAL_BITS
from hf_langimb.models.axes import MULTI_LABEL, counts_of, folded, stored_axes, unnamed
from hf_langimb.models.inputs import longest_input
from hf_langimb.models.loading import Trained, load_trained, tokenize
from hf_langimb.results.folder import PAGE
from hf_langimb.results.plots import label_dependence, to_svg
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import FILE_NAME
from hf_langimb.results.tables import Cells, file_name

RECIPE = "evaluate_labels"  # in results.json
NOT_FOR_LABELS = (
    "explain_rows",
    "explain_tolerance",
    "extra_test",
    "material_bits",
    "material_transfer",
    "push_to_hub",
)


def check_labels(options: Namespace) -> tuple[Path, dict[str, Any]]:
    """Measure the predictions of several labels per text, and write results.json and a page.

    Returns:
        The folder and its results: the options, and what `evaluate_labels` returns.

    Raises:
        ValueError: no such model or data, or labels that the model does not have; says what to do.
    """
    asked = {*options.flags} | ({"push_to_hub"} if options.push_to_hub else set())
    if unused := [with_dashes(f"--{name}") for name in NOT_FOR_LABELS if name in asked]:
        raise ValueError(f"Not supported with --label-columns: leave {', '.join(unused)} out.")
    folder = Path(options.output_dir or f"runs/evaluate-{file_name(Path(options.model).name)}")
    path = folder / FILE_NAME
    results: dict[str, Any] = {"recipe": RECIPE, "model": options.model, "dataset": name_of_data(options.dataset)}
    results |= {"flags": options.flags}
    before = read_json(path, "choose another --output-dir") if path.is_file() else results
    if not isinstance(before, dict) or any(before.get(key) != value for key, value in results.items()):
        raise ValueError(f"{folder} has the results of another run: choose another --output-dir.")
    trained = load_trained(options.model)
    rows, values = label_rows(data_spec(options), options.label_columns, options.rows or None)
    names, known = _on_outputs(trained, values, options)
    columns = find_text_columns(rows, options.text_column)
    encoded = tokenize(rows, trained.tokenizer, columns, longest_input(trained.tokenizer, trained.model))
    reading: dict[str, Any] = {"pooling": usual_pooling(trained.tokenizer), "batch_size": options.batch_size}
    logits, _ = forward_rows(trained.model, trained.tokenizer, encoded, **reading)
    if not np.isfinite(logits).all():
        raise ValueError(
            f"The model {options.model} gives logits that are not finite: its training has diverged, or its weights "
            "are damaged."
        )
    groups = np.asarray(rows["id"][:]).astype(str) if "id" in rows.column_names else None
    if len(names) == 1:  # of two classes, 0 and z
        logits = logits[:, 1:]
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    found = evaluate_labels(
        rows["language"][:], known, probabilities, labels=names, plan=_plan(trained, names), groups=groups
    )
    results |= {"rows": len(rows), "languages": sorted({*map(str, rows["language"][:])}), **found}
    if PartialState().is_main_process:
        write_json(path, results)
        write_text(folder / PAGE, _page(results))
    PartialState().wait_for_everyone()
    return folder, results


def _on_outputs(trained: Trained, values: Any, options: Namespace) -> tuple[list[str], np.ndarray]:
    """The model's names of its labels, and their values float64[N, C] in its order.

    Raises:
        ValueError: the model has one label per text, or other labels.
    """
    config, model = trained.model.config, options.model
    if config.problem_type != MULTI_LABEL:
        raise ValueError(
            f"The model {model} predicts one label per text: leave --label-columns out, or, if it was trained for "
            f"several labels, set problem_type={MULTI_LABEL!r} in its config.json."
        )
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    if options.labels and (len({*options.labels}), unnamed(names)) != (len(names), True):
        raise ValueError(
            f"--labels needs {len(names)} different names and a model that does not name its labels; {model} "
            f"has the labels {', '.join(names)}: if these are real names, leave --labels out, else give one for each."
        )
    names = options.labels or names
    if not isinstance(values, dict):
        return names, values_of(values, names)[1]
    columns, known = values_of(values)
    places = {folded(name): i for i, name in enumerate(columns)}
    if unnamed(names) and len(columns) == len(names):
        return columns, known  # in the order of the flags
    if len(places) < len(columns) or {*places} != {*map(folded, names)}:
        raise ValueError(
            f"The model {model} has the labels {', '.join(names)}, but --label-columns names {', '.join(columns)}: "
            "pass one column of 0 and 1 per label of the model."
        )
    return names, known[:, [places[folded(name)] for name in names]]


def _plan(trained: Trained, names: Sequence[str]) -> MultiLabelDistribution | None:
    """Counts of the training data, if the model records them for the same labels."""
    axes = stored_axes(trained.model)
    counts = counts_of(axes) if axes else None
    return counts if isinstance(counts, MultiLabelDistribution) and [*counts.labels] == [*names] else None


def labels_cells(found: MultiLabelMeasures) -> Cells:
    """Each label: the accuracy of its predictions, and whether they depend on language."""
    cells = []
    for name, of in found["labels"].items():
        natural, independent = of["targets"]["natural"], of["targets"]["independent"]
        low, high = independent["intervals"]["dependence_bits"]
        bits = f"{independent['dependence_bits_corrected']:.3f} [{low:.3f}, {high:.3f}]"
        right = [f"{one['accuracy']:.3f}" for one in (natural, independent)]
        moved = independent["skew_transfer"]
        skew = "-" if moved is None else f"{moved:+.2f}"
        cells.append([shown(name), f"{of['rows']:,}", *right, bits, f"{of['p_holm']:.2g}", skew, of["answer"]])
    header = ["label", "rows", "accuracy", "accuracy without the link", "dependence (bits)", "p (Holm)"]
    return [*header, "skew transfer", "depends on language"], cells


def labels_text(folder: Path, results: Any) -> str:
    """The measures in the terminal: the answer first, then each label, and what to do next."""
    return render("several_labels.txt", folder=folder, page=folder / PAGE, **_values(results))


def _page(results: Any) -> str:
    """One self-contained HTML page."""
    described = "Dependence of the predictions of each label on language. The same numbers are in the table Labels."
    drawing = to_svg(label_dependence(results["labels"], MATERIAL_BITS), described)
    return render("several_labels.html", drawing=drawing, **_values(results))


def _values(results: Any) -> dict[str, Any]:
    """What terminal and page show."""
    answers = [of["answer"] for of in results["labels"].values()]
    answer = next(one for one in ("yes", "unclear", "no") if one in answers)
    return {"results": results, "cells": labels_cells(results), "material": MATERIAL_BITS, "answer": answer}
