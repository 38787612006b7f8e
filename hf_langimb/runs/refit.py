"""Refit the last layer of a trained model on held-out rows, and measure it before and after: `langimb refit`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_langimb.console import bar, on_main
from hf_langimb.files import AGAIN, read_json, write_json
from hf_langimb.measures.correction import grouped_folds
from hf_langimb.measures.erasure import Eraser, check_rank, language_eraser, random_eraser
from hf_langimb.measures.forward import head_inputs
from hf_langimb.measures.refit import DRAWS, STRENGTHS, Head, Refit, draws_of, fit_head
from hf_langimb.models.loading import Trained
from hf_langimb.results.folder import RunFolder
from hf_langimb.runs.held_out import CHANGED_ON, FOLDS, add_copy, copied, independent, measured, record_rows
from hf_langimb.runs.steps import BATCH_SIZE, MeasuredRows

REFITTED, ERASED, FILE = "refitted", "erased", "refit.json"  # setups of the changed models, and their facts
CONTROLS = 10  # erasures of random directions
Erase = Callable[[np.ndarray, np.ndarray], Eraser]  # from features and languages of rows


def add_refitted(
    folder: RunFolder,
    source: Path,
    rows: MeasuredRows,
    trained: Trained,
    axes: Mapping[str, Any] | None,
    options: Namespace,
) -> tuple[Refit, list[str]]:
    """Refit the last layer of a measured model, and add copies of the model with new layers to the run folder.

    The predictions of a copy are cross-fitted: each row's by a layer that was fitted on other rows.

    Args:
        folder: of the run, with the model and its predictions.
        source: folder that the model was copied from.
        rows: that it was measured on.
        trained: the model, which is not changed.
        axes: of langimb.json; None of a model whose training data are not known.
        options: `erase_language`: whether to add a second copy, whose last layer reads features without language.

    Returns:
        `refit.json`, and the setups of the copies.
    """
    setups = [REFITTED, *([ERASED] if options.erase_language else [])]
    if not on_main(lambda: all(copied(folder, setup) for setup in setups)):
        _, features, layer = head_inputs(trained.model, trained.tokenizer, rows.test, batch_size=BATCH_SIZE)
        on_main(lambda: _add(folder, source, rows, trained, features, layer, setups))
    found: Refit = read_json(folder.model(setups[-1], 0) / FILE, AGAIN)
    return found, setups


@dataclass(frozen=True)
class HeldOut:
    """What the last layer of a model reads of held-out rows, and languages, labels, groups and cells, as positions."""

    features: np.ndarray
    languages: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    cells: np.ndarray
    classes: int
    biased: bool  # whether the layer has a bias

    @classmethod
    def of(
        cls, features: np.ndarray, languages: Any, labels: Any, groups: Any, names: Sequence[str], biased: bool
    ) -> HeldOut:
        """Rows whose languages and groups have names, or whose numbers have gaps; `names` are those of the labels.

        Raises:
            ValueError: a label without rows, which the new layer could not predict.
        """
        classes = len(names)
        if lacking := [names[int(i)] for i in np.flatnonzero(np.bincount(labels, minlength=classes) == 0)]:
            raise ValueError(
                f"No held-out row has the label {lacking[0]!r}, so the new layer would never predict it: use a "
                "dataset with rows of each label."
            )
        positions, groups = (np.unique(np.asarray(names), return_inverse=True)[1] for names in (languages, groups))
        cells, labels = positions * classes + np.asarray(labels), np.asarray(labels)
        return cls(features.astype(np.float64), positions, labels, groups, cells, classes, biased)

    def balanced(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows whose language has rows of each label: with other languages, labels depend on language.

        Raises:
            ValueError: no language has.
        """
        present = np.zeros((self.languages.max() + 1, self.classes), dtype=bool)
        present[self.languages[rows], self.labels[rows]] = True
        complete = np.asarray((present | ~present.any(axis=0)).all(axis=1))
        if not complete.any():
            raise ValueError("No language has held-out rows of each label: use a dataset with more rows.")
        return rows[complete[self.languages[rows]]]

    def fit(self, rows: np.ndarray, erase: Erase | None, strengths: Sequence[float]) -> Head:
        """The layer that is fitted on the `balanced` ones among rows, for features as they are."""
        rows = self.balanced(rows)
        table, cells = self.features[rows], self.cells[rows]
        if eraser := erase and erase(*self._draw(rows)):
            table = eraser.apply(table)
        options: Any = {"classes": self.classes, "intercept": self.biased, "strengths": strengths}
        head = fit_head(table, cells, self.labels[rows], groups=self.groups[rows], **options)
        return eraser.before(head) if eraser else head

    def _draw(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and languages of a draw in which labels do not depend on language."""
        drawn = rows[next(draws_of(self.cells[rows], 1, 0))]
        return self.features[drawn], self.languages[drawn]

    def crossed(self, erase: Erase | None = None, strengths: Sequence[float] = STRENGTHS) -> np.ndarray:
        """Logits of each row by a layer that was fitted on the other folds."""
        logits = np.zeros((len(self.features), self.classes))
        for train, test in grouped_folds(self.cells, self.groups, FOLDS, 0):
            logits[test] = self.fit(train, erase, strengths).logits(self.features[test])
        return logits


def _add(
    folder: RunFolder,
    source: Path,
    rows: MeasuredRows,
    trained: Trained,
    features: np.ndarray,
    layer: Any,
    setups: Sequence[str],
) -> None:
    """The copies, in the main process."""
    table, _, data = measured(folder, rows.test)
    present = {(language, int(label)) for language, label in zip(data["languages"], data["labels"], strict=True)}
    names, labels, biased = np.unique(data["languages"]), trained.names, layer.bias is not None
    held_out = HeldOut.of(features, data["languages"], data["labels"], data["groups"], labels, biased)
    every = np.arange(len(features))
    used = held_out.balanced(every)
    counts = np.unique(held_out.cells[used], return_counts=True)[1]
    rank = len(np.unique(held_out.languages[used])) - 1
    if ERASED in setups:
        check_rank(rank, features.shape[1])
    head = held_out.fit(every, None, STRENGTHS)
    lacking = {(str(name), label) for name in names for label in range(len(labels))} - present
    facts = {"labels": labels, "languages": names.tolist(), "rows": len(features), "draws": DRAWS, "C": head.C}
    facts |= {"cell_rows": int(counts.min()), "missing": [list(cell) for cell in sorted(lacking)]}
    write = partial(_write, trained=trained, layer=layer, rows=rows)
    add_copy(folder, source, REFITTED, table, held_out.crossed(), lambda part: write(part, head, facts))
    if ERASED not in setups:
        return
    strengths, centered = [head.C], held_out.biased
    language: Erase = partial(language_eraser, centered=centered)
    erased = held_out.fit(every, language, strengths)
    controls = []
    for seed in bar(range(CONTROLS), "Erasing random directions"):
        erase = partial(_random, rank=rank, centered=centered, seed=seed)
        controls.append(independent(data["languages"], data["labels"], held_out.crossed(erase, strengths)))
    facts["erasure"] = {"rank": rank, "controls": controls}
    logits = held_out.crossed(language, strengths)
    add_copy(folder, source, ERASED, table, logits, lambda part: write(part, erased, facts))


def _random(features: np.ndarray, languages: np.ndarray, **options: Any) -> Eraser:
    """A control, which does not read the languages."""
    return random_eraser(features, **options)


def _write(
    part: Path, head: Head, facts: Mapping[str, Any], *, trained: Trained, layer: Any, rows: MeasuredRows
) -> None:
    """Write the model with a new layer, which is put back, the facts, and which rows it was fitted on."""
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    weight, bias = (torch.from_numpy(np.asarray(values)) for values in (head.weight, head.bias))
    if layer.out_features == 1:  # which decides for the second label
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    try:
        _set(layer, {"weight": weight, "bias": bias})
        trained.model.save_pretrained(part)
    finally:
        _set(layer, before)
    write_json(part / FILE, facts)
    record_rows(part, rows.texts, rows.text_columns, CHANGED_ON)


def _set(layer: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters of a layer."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(values[name])
