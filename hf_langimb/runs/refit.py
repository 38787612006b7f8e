"""Refit the last layer of a trained model on held-out rows, and measure it before and after: `langimb refit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_langimb.console import on_main
from hf_langimb.files import AGAIN, read_json, write_json
from hf_langimb.measures.correction import grouped_folds
from hf_langimb.measures.forward import head_inputs
from hf_langimb.measures.refit import DRAWS, Head, Refit, fit_head
from hf_langimb.models.loading import Trained
from hf_langimb.results.folder import RunFolder
from hf_langimb.runs.held_out import FOLDS, add_copy, copied, measured
from hf_langimb.runs.steps import BATCH_SIZE, MeasuredRows

REFITTED, FILE = "refitted", "refit.json"  # the setup of the changed model, and its facts


def add_refitted(
    folder: RunFolder, source: Path, rows: MeasuredRows, trained: Trained, axes: Mapping[str, Any] | None
) -> Refit:
    """Refit the last layer of a measured model, and add a copy of the model with it to the run folder.

    The predictions of the copy are cross-fitted: each row's by a layer that was fitted on other rows.

    Args:
        folder: of the run, with the model and its predictions.
        source: folder that the model was copied from.
        rows: that it was measured on.
        trained: the model, which is not changed.
        axes: of langimb.json; None of a model whose training data are not known.

    Returns:
        `refit.json`.
    """
    if not on_main(lambda: copied(folder, REFITTED)):
        _, features, layer = head_inputs(trained.model, trained.tokenizer, rows.test, batch_size=BATCH_SIZE)
        on_main(lambda: _add(folder, source, rows, trained, features, layer))
    found: Refit = read_json(folder.model(REFITTED, 0) / FILE, AGAIN)
    return found


def _add(
    folder: RunFolder, source: Path, rows: MeasuredRows, trained: Trained, features: np.ndarray, layer: Any
) -> None:
    """The copy, in the main process."""
    table, _, data = measured(folder, rows.test)
    cells, labels, groups, classes = data["cells"], data["labels"], data["groups"], len(trained.names)
    options: Any = {"classes": classes, "intercept": layer.bias is not None}
    head = fit_head(features, cells, labels, groups=groups, **options)
    logits = np.zeros((len(features), classes))
    for train, test in grouped_folds(cells, groups, FOLDS, 0):
        fitted = fit_head(features[train], cells[train], labels[train], groups=groups[train], **options)
        logits[test] = fitted.logits(features[test])
    _, counts = np.unique(cells, return_counts=True)
    names = sorted({*data["languages"]})
    lacking = sorted(
        {(name, label) for name in names for label in range(classes)}
        - {(language, int(label)) for language, label in zip(data["languages"], labels, strict=True)}
    )
    facts = {"labels": trained.names, "languages": names, "rows": len(cells), "draws": DRAWS, "C": head.C}
    facts |= {"cell_rows": int(counts.min()), "missing": [list(cell) for cell in lacking]}

    def write(part: Path) -> None:
        """The model with the new layer, which is put back."""
        before = {name: value.detach().clone() for name, value in layer.named_parameters()}
        try:
            _set(layer, head)
            trained.model.save_pretrained(part)
        finally:
            with torch.no_grad():
                for name, value in layer.named_parameters():
                    value.copy_(before[name])
        write_json(part / FILE, facts)

    add_copy(folder, source, REFITTED, table, logits, write)


def _set(layer: Any, head: Head) -> None:
    """Copy a head into a layer; a layer with one output decides for the second label."""
    weight, bias = (torch.from_numpy(np.asarray(part)) for part in (head.weight, head.bias))
    if layer.out_features == 1:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias)
