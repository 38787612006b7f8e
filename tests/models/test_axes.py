"""The names of a model's classes, and labels by these names."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from transformers import BertConfig

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.models.axes import class_names, match_labels, name_labels

NLI = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
STARS = ["1", "2", "3"]
UNNAMED = ["LABEL_0", "LABEL_1", "LABEL_2"]


def matched(labels, names, feature=None, axes=None):
    dataset = Dataset.from_dict({"label": labels})
    return match_labels(dataset.cast_column("label", feature) if feature else dataset, names, axes).to_pylist()


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["entailment", "Neutral"], NLI, ["ENTAILMENT", "NEUTRAL"]),
        (["very good", "Very-Bad"], ["very_good", "verybad"], ["very_good", "verybad"]),
        ([1, 2], STARS, ["1", "2"]),  # of a csv, and the same of jsonl and of floats
        (["1", "2"], STARS, ["1", "2"]),
        ([1.0, 3.0], STARS, ["1", "3"]),
        ([1, 2, 3], STARS, STARS),
        ([0, 2], STARS, ["1", "3"]),  # 0 is no name: class ids
        ([-1, 0, 1], ["-1", "0", "1"], ["-1", "0", "1"]),
        (["-1", "1.0"], ["-1", "0", "1"], ["-1", "1"]),
        ([-1, 0, 2], NLI, [None, "CONTRADICTION", "ENTAILMENT"]),
        (["0", "2"], UNNAMED, ["LABEL_0", "LABEL_2"]),
        ([0.0, None, 2.0], UNNAMED, ["LABEL_0", None, "LABEL_2"]),
        ([True, False], ["no", "yes"], ["yes", "no"]),
        ([True, False], ["True", "False"], ["True", "False"]),
        ([None, None], NLI, [None, None]),
        (["LABEL_1", "label_0"], UNNAMED, ["LABEL_1", "LABEL_0"]),
        (["a", "b"], ["A", "a", "b"], ["a", "b"]),
    ],
)
def test_labels_are_names_or_class_ids(labels, names, expected):
    assert matched(labels, names) == expected


def test_integers_are_ids_for_a_model_that_was_trained_on_ids():
    ids, signs = {"labels": [0, 1, 2]}, ["-1", "0", "1"]
    assert matched([0, 1], signs, axes=ids) == ["-1", "0"] and matched([0, 1], signs) == ["0", "1"]
    assert matched([1, 2], STARS, axes=ids) == ["2", "3"] and matched(["1", "2"], STARS, axes=ids) == ["1", "2"]
    assert matched([0, 1], STARS, ClassLabel(names=["1", "2"]), ids) == ["1", "2"]
    with pytest.raises(ValueError, match="-1, 0 may be class names or class ids"):
        matched([-1, 0], signs, axes=ids)


def test_names_of_a_class_label():
    feature = ClassLabel(names=["entailment", "neutral", "contradiction"])
    assert matched([0, 2, -1, None], NLI, feature) == ["ENTAILMENT", "CONTRADICTION", None, None]
    assert matched([0, 1], ["-1", "0", "1"], ClassLabel(names=["1", "-1"])) == ["1", "-1"]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([1, 2, 4], STARS, r"Labels 4 are not among .* 1, 2, 3 \(class ids 0 to 2\)"),
        (
            [1, 2, -1],
            STARS,
            "the labels 1, 2, -1 may be class names or class ids",
        ),  # -1 is no star, the others may be ids
        (["entailment", "other"], NLI, "Labels other are not among those of the model, CONTRADICTION, NEUTRAL, ENT"),
        ([0.5, 1.0], UNNAMED, "Labels 0.5 are not among"),
        ([0, 1, 3], NLI, "Labels 3 are not among"),
        (["a", "B"], ["A", "a", "b"], "Labels B are not among"),  # a is one of two, B is none
        (["", "neutral"], ["-", "neutral"], "Labels '' are not among"),
        (["1-2", "a"], ["12", "a"], "Labels 1-2 are not among"),
        (["", "NEUTRAL"], NLI, "Labels '' are not among"),
        ([[0], [1]], NLI, "values of type list<"),
    ],
)
def test_labels_that_a_model_does_not_have(labels, names, message):
    with pytest.raises(ValueError, match=message):
        matched(labels, names)


def named(names, labels, counts=None):
    """Names of a configuration after training on these labels in two languages."""
    config = BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    table = np.ones((2, len(labels)), dtype=int) if counts is None else counts
    warning = name_labels(config, JointDistribution(("en", "fr"), tuple(labels), table))
    return class_names(config), warning


def test_names_are_recorded_in_training():
    assert named(UNNAMED, ["a", "b", "c"]) == (["a", "b", "c"], None)
    assert named(NLI, ["contradiction", "neutral", "entailment"]) == (NLI, None)
    assert named(STARS, [0, 1, 2]) == (STARS, None)  # 0 is no name: class ids
    assert named(UNNAMED, [0, 1, 2]) == (UNNAMED, None)
    kept = "The model keeps its names CONTRADICTION, NEUTRAL, ENTAILMENT for the labels yes, perhaps, no of the data."
    assert named(NLI, ["yes", "perhaps", "no"]) == (NLI, kept)


@pytest.mark.parametrize(
    ("names", "labels", "counts", "message"),
    [
        (
            NLI,
            ["entailment", "neutral", "contradiction"],
            None,
            "CONTRADICTION, .* the data have entailment, .*align_la",
        ),
        (NLI, ["neutral", "entailment", "other"], None, r"the data have neutral, .* load the model with label2id"),
        (NLI, ["Contradiction", "neutral", "other"], None, "the data have Contradiction, neutral, other"),
        (["A", "a"], ["a", "A"], None, "the data have a, A: use dataset.align_labels"),
        (["ab", "a-b", "c"], ["a-b", "ab", "c"], None, "the data have a-b, ab, c: use dataset.align_labels"),
        (STARS, [0, 1, 2], [[0, 3, 1], [0, 2, 2]], "the labels 1, 2 may be class names or class ids"),
        (["-1", "0", "1"], [0, 1, 2], [[1, 3, 0], [1, 2, 0]], "the labels 0, 1 may be class names or class ids"),
    ],
)
def test_names_that_are_unclear_are_refused_in_training(names, labels, counts, message):
    with pytest.raises(ValueError, match=message):
        named(names, labels, counts)
