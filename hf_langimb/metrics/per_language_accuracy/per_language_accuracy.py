"""Accuracy in each language, as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

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
        labels = (datasets.Value("int64"), datasets.Value("string"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=[
                datasets.Features({"predictions": label, "references": label, "languages": datasets.Value("string")})
                for label in labels
            ],
        )

    def _compute(self, predictions: Any, references: Any, languages: Any) -> dict[str, float]:
        predictions, references, languages = (np.asarray(column) for column in (predictions, references, languages))
        counted = references != -100 if references.dtype.kind == "i" else np.ones(len(references), dtype=bool)
        predictions, references, languages = predictions[counted], references[counted], languages[counted]
        right = predictions == references
        names = np.unique(languages).tolist()
        by_language = {f"accuracy_{name}": float(right[languages == name].mean()) for name in names}
        cells = [
            right[(languages == name) & (references == label)].mean()
            for name in names
            for label in np.unique(references[languages == name])
        ]
        return {
            "accuracy": float(right.mean()),
            "worst_language_accuracy": min(by_language.values()),
            "worst_cell_accuracy": float(min(cells)),
            **by_language,
        }
