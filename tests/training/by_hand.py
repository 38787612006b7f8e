"""Losses and gradients of a tiny classifier computed one row at a time, and ways to change its rows."""

import torch
from conftest import SKEWED, gradients_of
from datasets import ClassLabel, DatasetDict, Value

# n_l / (C n_cl), the paper's class weights for SKEWED
WEIGHTS = {language: [sum(row) / (3 * count) for count in row] for language, row in SKEWED.items()}
MASK_ROW = [2, 4, 4, 4, 3]  # [CLS] [MASK] [MASK] [MASK] [SEP]


def row_logits(model, row):
    inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    return model(**inputs).logits[0]


def row_loss(logits, label, smoothing=0.0):
    logs = logits.double().log_softmax(-1)
    return -(1 - smoothing) * logs[label] - smoothing * logs.mean()


def entropy_term(model, mask_row=MASK_ROW):
    ids = torch.tensor([mask_row])
    probabilities = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().softmax(-1)
    return (probabilities * probabilities.log()).sum()


def loss_by_hand(model, rows, weights=WEIGHTS, entropy_weight=0.0, smoothing=0.0, mask_row=MASK_ROW, cost=None):
    """Sum of w * CE (or of another cost) over the rows / their number + lambda * sum p log p, one row at a time."""
    cost = cost or (lambda logits, label, language: row_loss(logits, label, smoothing))
    losses = [
        (weights[row["language"]][row["label"]] if weights else 1.0)
        * cost(row_logits(model, row), row["label"], row["language"])
        for row in rows
        if row["label"] != -100
    ]
    loss = sum(losses) / len(losses)
    return loss + entropy_weight * entropy_term(model, mask_row) if entropy_weight else loss


def gradients_by_hand(model, rows, **kwargs):
    loss_by_hand(model, rows, **kwargs).backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients(trainer, model, rows, *, absolute=1e-6, relative=0.0, **terms):
    """The trainer's first step has the gradients that loops give for `model`, which starts with the same weights."""
    gradients, expected = gradients_of(trainer), gradients_by_hand(model, rows, **terms)
    assert {name for name, gradient in expected.items() if gradient.any()} <= set(gradients)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for name, gradient in gradients.items():
        wanted = expected.get(name, torch.zeros_like(gradient))
        scale = max(wanted.norm().item(), 1e-2)  # below that (the bias of a key, say), rounding is all there is
        assert (gradient - wanted).norm() <= absolute + relative * scale, name


def assert_same_weights(model, expected, tolerance=1e-6):
    for name, parameter in model.named_parameters():
        assert (parameter - expected[name]).abs().max() < tolerance, name


def relabeled(rows, convert, feature):
    labels = [convert(label) for label in rows["label"]]
    feature = Value(feature) if isinstance(feature, str) else feature
    return rows.remove_columns("label").add_column("label", labels).cast_column("label", feature)


def without(rows, language, label=None):
    return rows.filter(lambda row: not (row["language"] == language and label in (None, row["label"])))


def with_null(column, number):
    """Function (rows): the first `number` rows lack a value of the column."""
    return lambda rows: rows.map(lambda row, i: {column: None if i < number else row[column]}, with_indices=True)


def relabeling(convert, feature):
    return lambda rows: relabeled(rows, convert, feature)


UNFIT = {  # what is wrong with a dataset: how good rows get there
    "no language": lambda rows: rows.remove_columns("language"),
    "lang": lambda rows: rows.rename_column("language", "lang"),
    "no language in a list": lambda rows: list(rows.remove_columns("language")),
    "no label in a list": lambda rows: list(rows.rename_column("label", "stars")),
    "splits": lambda rows: DatasetDict(train=rows),
    "unlabeled rows of a ClassLabel": relabeling(lambda label: label - 1, ClassLabel(names=["a", "b", "c"])),
    "stars": lambda rows: rows.rename_column("label", "stars"),
    "null language": with_null("language", 1),
    "null label": with_null("label", 2),
    "no rows": lambda rows: rows.select([]),
    "an empty list": lambda rows: [],
    "all ignored": relabeling(lambda label: -100, "int64"),
    "labels as strings": relabeling(lambda label: f"l{label}", "string"),
    "labels as booleans": relabeling(bool, "bool"),
    "labels as floats": relabeling(float, "float64"),
    "ClassLabel of other size": lambda rows: rows.cast_column("label", ClassLabel(names=["a", "b", "c", "d"])),
    "class id too many": relabeling(lambda label: label + 1, "int64"),
    "few classes": relabeling(lambda label: min(label, 1), "int64"),
    "two label columns": lambda rows: rows.add_column("labels", [0] * len(rows)),
    "a missing cell": lambda rows: without(without(rows, "en", 2), "fr", 0),
    "unseen language": lambda rows: rows.map(
        lambda row, i: {"language": "de" if i == 3 else row["language"]}, with_indices=True
    ),
    "languages numbered otherwise": lambda rows: rows.cast_column("language", ClassLabel(names=["fr", "en", "ja"])),
}
