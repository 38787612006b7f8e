"""Losses and gradients of a tiny classifier computed one row at a time, and ways to change its rows."""

import torch
from conftest import SKEWED
from datasets import Value

WEIGHTS = {  # n_l / (C n_cl), the paper's class weights for SKEWED
    language: [sum(row) / (3 * count) for count in row] for language, row in SKEWED.items()
}


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


def loss_by_hand(model, rows, weights=WEIGHTS, entropy_weight=0.0, smoothing=0.0):
    """Sum of w * CE over the rows / their number + lambda * sum p log p, one row at a time."""
    losses = [
        (weights[row["language"]][row["label"]] if weights else 1.0)
        * row_loss(row_logits(model, row), row["label"], smoothing)
        for row in rows
        if row["label"] != -100
    ]
    loss = sum(losses) / len(losses)
    return loss + entropy_weight * entropy_term(model) if entropy_weight else loss


def gradients_by_hand(model, rows, **kwargs):
    loss_by_hand(model, rows, **kwargs).backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(gradients, expected, *, absolute=0.0, relative=0.0):
    assert {name for name, gradient in expected.items() if gradient.any()} <= set(gradients)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for name, gradient in gradients.items():
        wanted = expected.get(name, torch.zeros_like(gradient))
        scale = max(wanted.norm().item(), 1e-2)  # below that (the bias of a key, say), rounding is all there is
        assert (gradient - wanted).norm() <= absolute + relative * scale, name


def assert_same_weights(model, expected, tolerance=1e-6):
    for name, parameter in model.named_parameters():
        assert (parameter - expected[name]).abs().max() < tolerance, name


def relabelled(rows, convert, feature):
    labels = [convert(label) for label in rows["label"]]
    feature = Value(feature) if isinstance(feature, str) else feature
    return rows.remove_columns("label").add_column("label", labels).cast_column("label", feature)


def without(rows, language, label=None):
    return rows.filter(lambda row: not (row["language"] == language and label in (None, row["label"])))
