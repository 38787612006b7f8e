"""The loss and its gradients against loops written out by hand."""

import math
from collections import Counter

import pytest
import torch
from by_hand import assert_gradients, assert_same_weights, entropy_term, gradients_by_hand, loss_by_hand
from conftest import SKEWED, gradients_of
from datasets import Dataset
from transformers import Trainer, TrainingArguments

# The gradient of an optimizer step


@pytest.mark.parametrize("entropy", [0.0, 0.5])
@pytest.mark.parametrize(
    ("number", "batch", "accumulation"),
    [(8, 8, 1), (8, 4, 2), (8, 2, 4), (8, 1, 8), (7, 3, 3)],  # 7: 3 + 3 + 1
)
def test_the_gradient_is_that_of_the_whole_batch_however_it_is_cut(
    build, tiny_bert, rows, number, batch, accumulation, entropy
):
    data = rows.select(range(number))
    counts, weights = Counter(zip(data["language"], data["label"], strict=True)), {}
    for language in data["language"]:
        row = [counts[language, label] for label in range(3)]
        weights[language] = [sum(row) / (sum(n > 0 for n in row) * n) if n else 0.0 for n in row]
    settings = {"weighting": "per_language", "missing_cell_policy": "ignore", "entropy": entropy}
    trainer = build(tiny_bert().double(), data, batch=batch, accumulation=accumulation, **settings)
    assert_gradients(trainer, tiny_bert().double(), data, weights=weights, entropy_weight=entropy)
    assert trainer.state.global_step == 1


def test_the_gradient_of_every_weighting_option(build, tiny_bert, rows):
    """Weights by their formulas, for 4, 2, 1 / 1, 2, 5 / 2, 2, 2 rows of three labels in three languages."""
    effective = {language: [(1 - 0.9) / (1 - 0.9**n) for n in row] for language, row in SKEWED.items()}
    total = sum(w * n for name, row in SKEWED.items() for w, n in zip(effective[name], row, strict=True))
    roots = {language: [math.sqrt(sum(row) / (3 * n)) for n in row] for language, row in SKEWED.items()}
    own = {"en": [1, 2, 3], "fr": [4, 5, 6], "ja": [7, 8, 9]}
    scale = sum(w * n for name, row in SKEWED.items() for w, n in zip(own[name], row, strict=True))
    for settings, weights in (
        (
            {"weighting": "effective_number", "effective_number_beta": 0.9},
            {language: [w * 21 / total for w in row] for language, row in effective.items()},
        ),
        (
            {"weighting": "per_language", "weight_exponent": 0.5},
            {
                language: [
                    root * sum(row) / sum(r * n for r, n in zip(roots[language], row, strict=True))
                    for root in roots[language]
                ]
                for language, row in SKEWED.items()
            },
        ),
        (
            {"class_weights": {language: {str(i): w for i, w in enumerate(row)} for language, row in own.items()}},
            {language: [w * 21 / scale for w in row] for language, row in own.items()},
        ),
    ):
        trainer = build(tiny_bert().double(), batch=7, accumulation=3, **settings)
        assert_gradients(trainer, tiny_bert().double(), rows, weights=weights)


@pytest.mark.parametrize(("batch", "accumulation"), [(21, 1), (7, 3), (4, 6)])
def test_the_gradient_in_float32(build, tiny_bert, rows, batch, accumulation):
    trainer = build(weighting="per_language", entropy=1.0, batch=batch, accumulation=accumulation)
    assert_gradients(trainer, tiny_bert().double(), rows, entropy_weight=1.0, absolute=0.0, relative=1e-5)


def test_the_gradient_of_drawn_mask_rows_ignored_rows_and_smoothed_labels(
    build, tiny_bert, rows, bert_tokenizer, tiny_dataset
):
    data = tiny_dataset(bert_tokenizer, length=(1, 1))  # texts of one word leave one mask row to draw
    trainer = build(tiny_bert().double(), data, mask_length=None, entropy=1.0, batch=5, accumulation=5)
    terms = {"weights": None, "entropy_weight": 1.0}
    assert_gradients(trainer, tiny_bert().double(), data, **terms, mask_row=[2, 4, 3])
    data = rows.map(lambda row, i: {"label": row["label"] if i % 3 else -100}, with_indices=True)
    trainer = build(tiny_bert().double(), data, entropy=1.0, batch=4, accumulation=6)
    assert_gradients(trainer, tiny_bert().double(), data, **terms)
    assert trainer.distribution.rows == 14
    trainer = build(tiny_bert().double(), weighting="per_language", label_smoothing_factor=0.2, batch=7, accumulation=3)
    assert_gradients(trainer, tiny_bert().double(), rows, smoothing=0.2)


def test_the_mask_row_is_drawn_from_the_rows_and_lengths_of_a_batch_with_texts(bert_tokenizer, build):
    trainer = build(mask_length=None, entropy=1.0)
    texts = ["w1", "w1 w2 w3 w4", "", "w1 unheard"]
    inputs = bert_tokenizer(texts, padding=True, return_tensors="pt")
    drawn = [trainer._draw_mask(inputs) for _ in range(200)]
    assert {draw["length"] for draw in drawn} == {1, 2, 3, 4}
    assert {draw["row"] for draw in drawn} == {0, 1, 3}, "an empty text has no content to take the layout of"
    assert trainer._draw_mask({name: tensor[2:3] for name, tensor in inputs.items()}) is None
    empty = [bert_tokenizer("") | {"label": i % 3, "language": "fr"} for i in range(6)]
    trainer = build(data=Dataset.from_list(empty), mask_length=None, entropy=1.0, log_every=1)
    trainer.train()
    assert trainer.state.log_history[0]["loss_masked_entropy"] == 0
    assert trainer.state.log_history[0]["loss_classification"] > 0


# Plain training


PLAIN = {"learning_rate": 0.01, "weight_decay": 0.05, "max_steps": -1, "num_train_epochs": 3}


def torch_loop(model, rows, batch, epochs=3, rate=0.01):
    """AdamW with a linear schedule, the decay on everything but biases and layer norms; rows in order."""
    decayed, others = [], []
    for name, parameter in model.named_parameters():
        (others if "bias" in name or "LayerNorm" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8)
    steps = epochs * math.ceil(len(rows) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for start in range(0, len(rows), batch):
            part = [rows[i] for i in range(start, min(start + batch, len(rows)))]
            loss_by_hand(model, part, weights=None).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return dict(model.named_parameters())


@pytest.mark.parametrize("accumulation", [1, 3])
def test_without_weights_it_trains_as_a_plain_torch_loop(build, tiny_bert, rows, accumulation):
    trainer = build(tiny_bert().double(), batch=6 // accumulation, accumulation=accumulation, **PLAIN)
    trainer.train()
    assert trainer.state.global_step == 12
    assert_same_weights(trainer.model, torch_loop(tiny_bert().double(), rows, 6))


def stock(model, arguments, rows, tokenizer, **changes):
    settings = {field: getattr(arguments, field) for field in ("output_dir", "max_grad_norm", "learning_rate", "seed")}
    settings |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    settings |= {"train_sampling_strategy": "sequential", "logging_strategy": "no"}
    arguments = TrainingArguments(**settings | changes)
    return Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)


def test_without_weights_or_accumulation_it_trains_as_the_stock_trainer(
    build, tiny_bert, rows, bert_tokenizer, training_arguments
):
    ours = build(tiny_bert().double(), batch=6, **PLAIN)
    ours.train()
    model = tiny_bert().double()
    stock(model, training_arguments(), rows, bert_tokenizer, per_device_train_batch_size=6, **PLAIN).train()
    assert_same_weights(ours.model, dict(model.named_parameters()))


def test_the_stock_trainer_is_no_baseline_under_accumulation(tiny_bert, rows, bert_tokenizer, training_arguments):
    """transformers issue 47688: its gradient is 4 times too large, so plain runs must use LangImbTrainer too."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 1}
    data = rows.select(range(8))
    gradients = gradients_of(stock(tiny_bert().double(), training_arguments(), data, bert_tokenizer, **settings))
    expected = gradients_by_hand(tiny_bert().double(), data, weights=None)
    ratio = (gradients["classifier.weight"] / expected["classifier.weight"]).mean().item()
    if ratio == pytest.approx(1):
        pytest.xfail("transformers mended its loss under accumulation: the stock Trainer may serve as a baseline")
    assert ratio == pytest.approx(4)


# Mixed precision


def test_bf16_training_computes_its_losses_in_float32(build, tiny_bert, rows):
    settings = {"weighting": "per_language", "entropy": 1.0, "batch": 7, "accumulation": 3, "log_every": 1}
    logs = {}
    for bf16 in (False, True):
        trainer = build(bf16=bf16, max_steps=4, **settings)
        dtypes, own = set(), trainer.compute_loss_func

        def recording(*args, own=own, dtypes=dtypes, **kwargs):
            loss = own(*args, **kwargs)
            dtypes.add(loss.dtype)
            return loss

        trainer.compute_loss_func = recording
        trainer.train()
        assert dtypes == {torch.float32}
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
        logs[bf16] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logs[True] == pytest.approx(logs[False], rel=0.05)
    assert logs[True] != logs[False], "bf16 was not used"


def test_a_bf16_model_trains_with_float32_losses(build, tiny_bert):
    trainer = build(tiny_bert().bfloat16(), weighting="per_language", entropy=1.0, logging_strategy="steps")
    loss = trainer.train().training_loss
    expected = loss_by_hand(tiny_bert().double(), trainer.train_dataset.select(range(8)), entropy_weight=1.0)
    assert loss == pytest.approx(expected.item(), rel=0.05)


# What is logged


@pytest.mark.parametrize(("batch", "accumulation", "every"), [(7, 1, 1), (2, 4, 1), (3, 3, 2), (2, 3, 5)])
def test_the_parts_of_the_loss_are_logged(build, batch, accumulation, every):
    settings = {"batch": batch, "accumulation": accumulation, "log_every": every, "max_steps": 11}
    trainer = build(weighting="per_language", entropy=0.7, **settings)
    for _ in range(2):  # a second training starts its averages afresh
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(logged) == 11 // every
        for entry in logged:
            assert entry["loss"] == pytest.approx(entry["loss_classification"] + entry["loss_masked_entropy"], rel=1e-5)
            assert -0.7 * math.log(3) <= entry["loss_masked_entropy"] < 0 < entry["loss_classification"]


def test_a_logged_step_has_the_loss_computed_by_hand(build, tiny_bert, rows):
    trainer = build(weighting="per_language", entropy=0.7, batch=4, accumulation=6, log_every=1)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss_classification"] == pytest.approx(loss_by_hand(tiny_bert(), rows).item(), rel=1e-5)
    assert entry["loss_masked_entropy"] == pytest.approx(0.7 * entropy_term(tiny_bert()).item(), rel=1e-5)
