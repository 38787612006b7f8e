"""How much predictions depend on the language of the text (arXiv 2402.13016), as an `evaluate` module."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from hf_langimb.counts.distribution import JointDistribution

DESCRIPTION = """\
Mutual information of prediction and language in bits, on test data whose labels are balanced in each language: 0 if
predictions do not depend on the language. Divided by the mutual information of label and language in the training data,
it is the share of that link that the model reproduces (arXiv 2402.13016).
"""
INPUTS = """\
Args:
    predictions: predicted labels, integers or strings.
    languages: the language of each row, a string.
    training_labels, training_languages: columns of the training data, for the reliance (optional).
Returns:
    dependence_bits, the mutual information; dependence_bits_corrected, minus its average for independent columns;
    reliance, dependence_bits divided by that of the training data (None without training data, or if that is 0).
Example:
    >>> metric = evaluate.load("hf_langimb/metrics/language_reliance")
    >>> metric.compute(predictions=[0, 1, 0, 1], languages=["en", "en", "fr", "fr"])["dependence_bits"]
    0.0
"""


class LanguageReliance(evaluate.Metric):
    """How much predictions depend on the language."""

    def _info(self) -> evaluate.MetricInfo:
        features = [
            datasets.Features({"predictions": label, "languages": datasets.Value("string")})
            for label in (datasets.Value("int64"), datasets.Value("string"))
        ]
        return evaluate.MetricInfo(DESCRIPTION, citation="", features=features, inputs_description=INPUTS)

    def _compute(
        self,
        predictions: Sequence[Any],
        languages: Sequence[str],
        training_labels: Sequence[Any] | None = None,
        training_languages: Sequence[str] | None = None,
    ) -> dict[str, float | None]:
        if (training_labels is None) != (training_languages is None):
            raise ValueError("Expected both training_labels and training_languages, or neither, got one of them.")
        predicted = JointDistribution.from_columns(list(languages), list(predictions))
        dependence = predicted.mutual_information_bits
        trained = 0.0
        if training_languages is not None:
            trained = JointDistribution.from_columns(training_languages, training_labels).mutual_information_bits
        return {
            "dependence_bits": dependence,
            "dependence_bits_corrected": dependence - predicted.mutual_information_chance_bits,
            "reliance": dependence / trained if trained else None,
        }
