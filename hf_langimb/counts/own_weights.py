"""Class weights that the user gives, as a table or a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution

Table = Mapping[str, Mapping[str, float]]  # {language: {label: weight}}


def read_weights(path: str | Path) -> Table:
    """Own weights of a file: {language: {label: weight}}.

    Args:
        path: JSON of this form, or CSV with the labels in its first line and a line for each language.

    Raises:
        ValueError: the file has another form.
        OSError: no such file, or no permission.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        if Path(path).suffix == ".csv":
            (_, *labels), *lines = (line for line in csv.reader(text.splitlines()) if line)
            pairs = [(line[0], dict(zip(labels, map(float, line[1:]), strict=True))) for line in lines]
            if len({language for language, _ in pairs}) < len(pairs) or len({*labels}) < len(labels):
                raise ValueError("a language or a label appears twice")
            return dict(pairs)
        return {language: {**weights} for language, weights in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a table of class weights ({error}): write JSON of the form {{language: {{label: weight}}}} "
            "or CSV with the labels in its first line and a line for each language."
        ) from None


def on_axes(table: Table, distribution: JointDistribution) -> npt.NDArray[np.float64]:
    """Own weights on the axes of a distribution, float64[L, C].

    Raises:
        ValueError: they are of other languages or labels, or not above 0.
    """
    if not all(isinstance(of, Mapping) for of in table.values()):
        raise ValueError(f"Class weights must have the form {{language: {{label: weight}}}}, got {dict(table)}.")
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
    if not all(isinstance(one, int | float) and 0 < one < math.inf for row in values for one in row):
        raise ValueError(f"Class weights must be numbers above 0, got {values}.")
    return np.array(values, dtype=np.float64)
