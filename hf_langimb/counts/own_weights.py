"""Class weights that the user gives, as a table or a file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution

Table = Mapping[str, Mapping[str, float]]  # {language: {label: weight}}


def read_weights(source: str | PathLike[str]) -> Table:
    """Own weights of a file, or of JSON text: {language: {label: weight}}.

    Args:
        source: JSON text of this form, or a file with it, or a CSV file with the labels in its first line and a line
            for each language.

    Raises:
        ValueError: the file has another form.
        OSError: no such file, or no permission.
    """
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    text = str(source) if is_text else Path(source).read_text(encoding="utf-8-sig")
    try:
        if not is_text and Path(source).suffix.lower() == ".csv":
            lines = [[cell.strip() for cell in line] for line in csv.reader(io.StringIO(text, newline="")) if line]
            if not lines or len(lines[0]) < 2:
                raise ValueError("no labels, separated by commas, in the first line")
            if wrong := next((line for line in lines if len(line) != len(lines[0])), None):
                raise ValueError(f"{len(lines[0])} fields in the first line, {len(wrong)} in {','.join(wrong)!r}")
            rows = [(line[0], _once(zip(lines[0][1:], map(float, line[1:]), strict=True))) for line in lines[1:]]
            return _once(rows)
        found = json.loads(text, object_pairs_hook=_once)
        return {language: {**weights} for language, weights in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} is not a table of class weights ({error}): write JSON of the form "
            "{language: {label: weight}} or CSV with the labels in its first line and a line for each language."
        ) from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary, of pairs whose keys all differ."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} appears twice")
        found[key] = value
    return found


def by_label(scheme: Any, distribution: JointDistribution, names: Sequence[str]) -> Any:
    """A table whose labels are the names of a model's classes with the labels of the data; anything else as it is."""
    labels = [str(label) for label in distribution.labels]
    if not isinstance(scheme, Mapping) or len(names) != len(labels) or {*names} == {*labels}:
        return scheme
    if not all(isinstance(of, Mapping) and {*map(str, of)} == {*names} for of in scheme.values()):
        return scheme
    position = dict(zip(names, labels, strict=True))
    return {language: {position[str(name)]: weight for name, weight in of.items()} for language, of in scheme.items()}


def on_axes(table: Table, distribution: JointDistribution) -> npt.NDArray[np.float64]:
    """Own weights on the axes of a distribution, float64[L, C].

    Raises:
        ValueError: they are of other languages or labels, or not above 0.
    """
    if not all(isinstance(of, Mapping) for of in table.values()):
        raise ValueError(f"Class weights must have the form {{language: {{label: weight}}}}, got {dict(table)}.")
    table = {str(language): {str(label): of[label] for label in of} for language, of in table.items()}
    labels = [str(label) for label in distribution.labels]
    rows = [(f"labels of {language}", labels, table[language]) for language in table]
    for what, expected, found in (("languages", distribution.languages, table), *rows):
        missing, unknown = [one for one in expected if one not in found], [one for one in found if one not in expected]
        if missing or unknown:
            problems = [f"lacks {', '.join(missing)}"] * bool(missing)
            problems += [f"has {', '.join(map(str, unknown))}, not in the data"] * bool(unknown)
            raise ValueError(
                f"The table of class weights {' and '.join(problems)} (expected {what}: {', '.join(expected)})."
            )
    values = [[table[language][label] for label in labels] for language in distribution.languages]
    numbers = all(isinstance(one, Real) and not isinstance(one, bool) for row in values for one in row)
    if not numbers or not all(0 < one < math.inf for row in values for one in row):
        raise ValueError(f"Class weights must be numbers above 0, got {values}.")
    return np.array(values, dtype=np.float64)
