"""Accuracy in each language, as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np
import pandas as pd

from hf_langimb.counts.columns import encode_columns

DESCRIPTION = """\
Accuracy over all rows, in each language, in the worst language, and in the worst cell (rows with one label in one
language). A high accuracy over all rows can hide a low accuracy in one language, or for one label of a language.
"""
INPUTS = """\
Args:
    predictions: predicted labels, integers or strings.
    references: true labels, of the same type; rows with the label -100 are ignored, as in training.
    languages: the language of each row, a string.
Returns:
    accuracy, worst_language_accuracy, worst_cell_accuracy, and accuracy_LANGUAGE for each language.
Example:
    >>> metric = evaluate.load("hf_langimb/metrics/per_language_accuracy")
    >>> metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], languages=["en", "en", "fr"])["accuracy_fr"]
    0.0
"""


class PerLanguageAccuracy(evaluate.Metric):
    """Accuracy in each language."""

    def _info(self) -> evaluate.MetricInfo:
        languages = datasets.Value("string")
        features = [
            datasets.Features({"predictions": label, "references": label, "languages": languages})
            for label in (datasets.Value("int64"), datasets.Value("string"))
        ]
        return evaluate.MetricInfo(DESCRIPTION, citation="", features=features, inputs_description=INPUTS)

    def _compute(self, predictions: Any, references: Any, languages: Any) -> dict[str, float]:
        encode_columns(prediction=predictions, reference=references, language=languages)  # refuses nulls
        right = np.asarray(predictions) == np.asarray(references)
        rows = pd.DataFrame({"right": right, "language": languages, "label": references})
        rows = rows[rows["label"] != -100]
        by_language = rows.groupby("language")["right"].mean()
        return {
            "accuracy": float(rows["right"].mean()),
            "worst_language_accuracy": float(by_language.min()),
            "worst_cell_accuracy": float(rows.groupby(["language", "label"])["right"].mean().min()),
            **{f"accuracy_{name}": float(value) for name, value in by_language.items()},
        }
