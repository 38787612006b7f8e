"""What a row costs: one contract for every objective, gradients against loops by hand, and moving weights."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from by_hand import assert_gradients, assert_same_weights
from conftest import SKEWED
from torch.nn import functional as F

from hf_langimb import JointDistribution, LangImbTrainer
from hf_langimb.models.axes import read_axes
from hf_langimb.training.arguments import LangImbTrainingArguments
from hf_langimb.training.group_dro import DECAY, GroupDRO
from hf_langimb.training.losses import weighted_cross_entropy
from hf_langimb.training.objectives import OBJECTIVES, log_priors, weighted_focal

COUNTS = JointDistribution([*SKEWED], [0, 1, 2], [*SKEWED.values()])
NEUTRAL = {"focal_gamma": 0.0, "logit_adjustment_tau": 0.0}  # values that make every objective the cross-entropy
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def objective(name, **settings):
    arguments = LangImbTrainingArguments("unused", report_to="none", use_cpu=True, objective=name, **settings)
    return OBJECTIVES[name](arguments, COUNTS)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 3, dtype=torch.float64, generator=generator)
    return logits, torch.tensor([0, 1, 2, -100, 2, 0]), torch.tensor([0, 1, 2, 1, 0, -1])


# One contract


@every_objective
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_every_objective_is_a_loss_per_row(batch, name, smoothing):
    logits, labels, languages = batch
    weights = torch.rand(3, 3) + 0.5
    loss = objective(name)
    plain = loss(logits, labels, languages, None, label_smoothing=smoothing)
    assert plain.shape == labels.shape
    assert plain[3] == 0
    assert (plain[labels >= 0] > 0).all()
    weighted = loss(logits, labels, languages, weights, label_smoothing=smoothing)
    expected = [1.0 if c < 0 or k < 0 else weights[k, c].item() for k, c in zip(languages, labels, strict=True)]
    torch.testing.assert_close(weighted, plain * torch.tensor(expected, dtype=torch.float64))
    neutral = objective(name, **NEUTRAL)(logits, labels, languages, weights, label_smoothing=smoothing)
    torch.testing.assert_close(
        neutral, weighted_cross_entropy(logits, labels, languages, weights, smoothing), atol=1e-12, rtol=1e-7
    )
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(
        loss(logits[order], labels[order], languages[order], weights, label_smoothing=smoothing), weighted[order]
    )
    half = loss(logits.bfloat16(), labels, languages, weights, label_smoothing=smoothing)
    assert half.dtype == torch.float32


@every_objective
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_losses_and_gradients_are_finite_at_certain_predictions(name, gamma):
    logits = torch.tensor([[300.0, 0, -300], [-300, 0, 300.0]], requires_grad=True)
    losses = objective(name, focal_gamma=gamma)(logits, torch.tensor([0, 0]), torch.tensor([0, 1]), None)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()


# Formulas


def test_focal_loss_is_that_of_the_paper(batch):
    logits, labels, languages = batch
    losses = weighted_focal(logits, labels, languages, None, gamma=1.5)
    for row, label, loss in zip(logits, labels, losses, strict=True):
        if label >= 0:
            p = row.softmax(0)[label]
            torch.testing.assert_close(loss, -((1 - p) ** 1.5) * p.log())


def test_log_priors():
    priors = log_priors(COUNTS, keep_labels=False).double()
    overall = [7 / 21, 6 / 21, 8 / 21]
    for row, counts in zip(priors, SKEWED.values(), strict=True):
        total = sum(counts) + 3
        expected = [math.log((n + 3 * share) / total) for n, share in zip(counts, overall, strict=True)]
        assert row.tolist() == pytest.approx(expected, rel=1e-5)
    relative = log_priors(COUNTS, keep_labels=True)
    assert (priors - relative.double()).numpy() == pytest.approx(np.log([overall] * 3), rel=1e-5)
    independent = JointDistribution(["a", "b"], [0, 1], [[2, 6], [5, 15]])
    assert log_priors(independent, keep_labels=True).numpy() == pytest.approx(0, abs=1e-6)
    gaps = JointDistribution(["a", "b"], [0, 1, 2], [[2, 0, 0], [0, 15, 0]])
    assert log_priors(gaps, keep_labels=False).isfinite().all()
    assert log_priors(gaps, keep_labels=True).isfinite().all()


def focal(logits, label, language, gamma=2.0, smoothing=0.0):
    logs = logits.double().log_softmax(-1)
    terms = -((1 - logs.exp()) ** gamma) * logs
    return (1 - smoothing) * terms[label] + smoothing * terms.mean()


def adjusted(logits, label, language, tau=1.0, keep_labels=False):
    priors = log_priors(COUNTS, keep_labels=keep_labels).double()
    return -(logits.double() + tau * priors[[*SKEWED].index(language)]).log_softmax(-1)[label]


@pytest.mark.parametrize(
    ("batch", "accumulation", "weighting"), [(21, 1, "per_language"), (4, 6, "none"), (7, 3, "per_language")]
)
@pytest.mark.parametrize(
    ("settings", "cost"),
    [
        ({"objective": "focal"}, focal),
        (
            {"objective": "focal", "focal_gamma": 0.7, "label_smoothing_factor": 0.2},
            partial(focal, gamma=0.7, smoothing=0.2),
        ),
        ({"objective": "logit_adjustment", "logit_adjustment_tau": 1.5}, partial(adjusted, tau=1.5)),
        ({"objective": "logit_adjustment_independence"}, partial(adjusted, keep_labels=True)),
    ],
)
def test_the_gradient_of_every_objective(build, tiny_bert, rows, settings, cost, batch, accumulation, weighting):
    given = {"batch": batch, "accumulation": accumulation, "weighting": weighting, "entropy": 0.5} | settings
    trainer = build(tiny_bert().double(), **given)
    terms = {"weights": None} if weighting == "none" else {}
    assert_gradients(trainer, tiny_bert().double(), rows, cost=cost, entropy_weight=0.5, **terms)


# A user's own loss


def test_a_loss_of_the_user(build, tiny_bert, rows):
    seen = []

    def cost(logits, labels, language_ids, weights):
        seen.append((labels.min().item(), weights.shape))
        return weights[language_ids, labels] * F.cross_entropy(logits, labels, reduction="none")

    data = rows.map(lambda row, i: {"label": row["label"] if i % 3 else -100}, with_indices=True)
    settings = {"weighting": "per_language", "missing_cell_policy": "ignore", "batch": 4, "accumulation": 6}
    mine = build(tiny_bert(), data, keywords={"row_loss": cost}, **settings)
    mine.train()
    ours = build(tiny_bert(), data, **settings)
    ours.train()
    assert_same_weights(mine.model, dict(ours.model.named_parameters()))
    assert seen
    assert all(lowest >= 0 and tuple(shape) == (3, 3) for lowest, shape in seen)
    assert mine.evaluate(data)["eval_loss"] == pytest.approx(ours.evaluate(data)["eval_loss"])


def test_a_loss_that_does_not_fit_is_refused(build):
    mean = build(keywords={"row_loss": lambda logits, labels, language_ids, weights: logits.mean()})
    with pytest.raises(ValueError, match=r"row_loss must return the loss of each row, \[\d+\], got \[\]"):
        mean.train()
    for settings in ({"objective": "focal"}, {"label_smoothing_factor": 0.1}):
        with pytest.raises(ValueError, match="row_loss replaces the loss of the arguments"):
            build(keywords={"row_loss": weighted_cross_entropy}, **settings)


# Weights that change during training


def test_deferred_weights_are_used_in_the_last_steps_alone(build):
    used = []

    def cost(logits, labels, language_ids, weights):
        if torch.is_grad_enabled():
            used.append(bool((weights != 1).any()))
        return weighted_cross_entropy(logits, labels, language_ids, weights)

    settings = {"weighting": "per_language", "deferred_weighting": 0.8, "max_steps": 10, "batch": 4, "accumulation": 2}
    trainer = build(keywords={"row_loss": cost}, **settings)
    trainer.train()
    assert used == [False] * 16 + [True] * 4
    trainer = build(keywords={"row_loss": cost}, **settings | {"deferred_weighting": 0.0})
    used.clear()
    trainer.train()
    assert all(used)


def dro(counts, step_size=0.01, adjustment=0.0):
    return GroupDRO(np.array(counts), step_size=step_size, adjustment=adjustment, device=torch.device("cpu"))


def step(group_dro, cells, losses):
    cells = torch.tensor(cells)
    columns = group_dro.counts.shape[1]
    group_dro.add(torch.tensor(losses), cells % columns, cells // columns)
    group_dro.update(lambda seen: seen)


def test_equal_losses_leave_the_shares_where_they_start():
    counts = [[5000, 1000, 500], [500, 200, 100]]
    moving, start = dro(counts), np.array(counts) / 7300
    rng = np.random.default_rng(0)
    for _ in range(1500):
        step(moving, rng.choice(6, 32, p=start.ravel()), [0.7] * 32)
    assert moving.shares.numpy() == pytest.approx(start, rel=1e-9)
    assert moving.weights.numpy() == pytest.approx(1)


def test_the_shares_follow_the_formula():
    counts = np.array([[6, 2], [0, 4]])
    moving = dro(counts, step_size=0.5, adjustment=0.3)
    means, shares = None, counts.ravel() / 12
    generator = np.random.default_rng(1)
    for _ in range(6):
        cells = generator.choice([0, 1, 3], 3)
        losses = generator.random(3).tolist()
        step(moving, cells, losses)
        means = np.full(4, np.mean(losses)) if means is None else means
        for cell in {*cells}:
            own = np.mean([loss for loss, of in zip(losses, cells, strict=True) if of == cell])
            means[cell] = DECAY * means[cell] + (1 - DECAY) * own
        with np.errstate(divide="ignore"):
            bonus = np.where(counts.ravel() > 0, 0.3 / np.sqrt(counts.ravel()), 0)
        shares = shares * np.exp(0.5 * (means + bonus))
        shares /= shares.sum()
        assert moving.shares.numpy().ravel() == pytest.approx(shares)
        weights = moving.weights.numpy()
        assert (counts * weights).sum() / 12 == pytest.approx(1)
        assert weights[1, 0] == 0
    assert weights.max() > 1.05


def test_group_dro_trains_with_its_moving_weights_and_records_them(build, tiny_bert, rows, tmp_path):
    used = []

    def cost(logits, labels, language_ids, weights):
        if torch.is_grad_enabled():
            used.append(weights.clone())
        return weighted_cross_entropy(logits, labels, language_ids, weights)

    settings = {"weighting": "group_dro", "group_dro_step_size": 1.0, "max_steps": 4, "save_steps": 2}
    settings |= {"batch": 7, "accumulation": 3, "save_strategy": "steps"}
    trainer = build(keywords={"row_loss": cost}, **settings)
    assert (trainer.weights == 1).all()
    trainer.train()
    assert len(used) == 12
    assert (used[0] == 1).all()
    for first, second, third in zip(used[::3], used[1::3], used[2::3], strict=True):
        assert (first == second).all()
        assert (first == third).all()
    counts = torch.tensor(trainer.distribution.counts)
    for weights in used[3:]:
        assert (weights - 1).abs().max() > 0.01
        assert (weights * counts).sum() / 21 == pytest.approx(1, rel=1e-6)
    assert trainer.model.config.langimb["weights"] == trainer.weights.tolist()
    assert trainer.model.config.langimb["class_weighting"] == "group_dro"
    own = trainer.evaluate(rows)["eval_loss"]
    alone = LangImbTrainer(trainer.model, trainer.args, eval_dataset=rows, processing_class=trainer.processing_class)
    assert alone.evaluate()["eval_loss"] == pytest.approx(own)
    again = build(**settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert_same_weights(again.model, dict(trainer.model.named_parameters()))
    assert again.weights.numpy() == pytest.approx(trainer.weights.numpy())
    with pytest.raises(ValueError, match="checkpoint-2 was trained with group_dro: use it again"):
        build(**settings | {"weighting": "none"}).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    plain = build(**settings | {"weighting": "none"})
    plain.train()
    with pytest.raises(ValueError, match=r"checkpoint-2 has no group_dro\.pt: it was trained without group_dro"):
        build(**settings).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert (build(**settings).weights == 1).all()


def test_moving_weights_are_those_of_their_training_alone(build, rows):
    trainer = build(eval_dataset=rows, weighting="group_dro", group_dro_step_size=1.0, max_steps=3)
    trainer.train()
    moved = trainer.weights.clone()
    assert (moved - 1).abs().max() > 0.01
    trainer.get_train_dataloader()  # to look at it
    assert (trainer.weights == moved).all()
    trainer.args.class_weighting = "none"
    assert (trainer.weights == 1).all()
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(found["eval_plain_loss"])
    trainer.args.class_weighting = "group_dro"
    trainer.train_dataset = rows.map(lambda row: {"language": {"en": "de"}.get(row["language"], row["language"])})
    assert (trainer.weights == 1).all()
    trainer.train()
    assert trainer.distribution.languages == ("de", "fr", "ja")
    assert (trainer.weights - 1).abs().max() > 0.01


def test_the_best_checkpoint_has_the_weights_of_its_step(build, rows, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 5}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_uniform_loss", "learning_rate": 0.5}
    trainer = build(eval_dataset=rows, weighting="group_dro", group_dro_step_size=1.0, **settings)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert not best.endswith("-5")
    expected = read_axes(best)["weights"]
    assert trainer.weights.numpy() == pytest.approx(np.array(expected), rel=1e-5)
    trainer.save_model(str(tmp_path / "best"))
    assert np.array(read_axes(tmp_path / "best")["weights"]) == pytest.approx(np.array(expected), rel=1e-5)


def test_losses_that_are_not_finite_do_not_move_weights():
    moving = dro([[6, 2], [1, 4]])
    step(moving, [0, 1], [0.5, 0.5])
    before = moving.shares.clone()
    step(moving, [0, 1, 2], [float("inf"), float("nan"), 0.5])
    assert moving.shares.numpy() == pytest.approx(before.numpy())
    with pytest.raises(ValueError, match="weights of 2 x 2 cells, the training data 1 x 3"):
        dro([[1, 2, 3]]).load_state_dict(moving.state_dict())


def test_a_loss_of_the_user_in_half_precision_is_counted_in_full(build, rows):
    def cost(logits, labels, language_ids, weights):
        return F.cross_entropy(logits, labels, reduction="none").bfloat16()

    found = build(eval_dataset=rows, keywords={"row_loss": cost}).evaluate()
    assert found["eval_loss"] == pytest.approx(found["eval_plain_loss"], rel=0.02)
    assert "eval_unseen_rows" not in found


def test_logit_adjustment_of_a_model_with_more_outputs_than_labels():
    logits = torch.randn(2, 5)
    labels, languages = torch.tensor([0, 1]), torch.tensor([0, 2])
    wide = objective("logit_adjustment")(logits, labels, languages, None)
    priors = log_priors(COUNTS, keep_labels=False)
    padded = torch.cat([priors, torch.full((3, 2), priors.min())], dim=1)[languages]
    torch.testing.assert_close(wide, F.cross_entropy(logits + padded, labels, reduction="none"))
    masked = torch.tensor([[1.0, 2.0, -torch.inf]])
    for name in OBJECTIVES:
        assert objective(name)(masked, labels[:1], languages[:1], None).isfinite().all()


def test_settings_without_effect_are_reported(build, caplog):
    build(focal_gamma=3.0, deferred_weighting=0.5, max_repeats=4)
    for name in ("focal_gamma=3.0", "deferred_weighting=0.5", "max_repeats=4"):
        assert f"{name} has no effect with these arguments" in caplog.text
    caplog.clear()
    build(objective="focal", focal_gamma=3.0, weighting="joint", deferred_weighting=0.5, weight_exponent=0.5)
    assert not caplog.text
    arguments = build(objective="focal", focal_gamma=3.0, weight_exponent=0.5).args
    assert arguments.options == {"objective": "focal", "focal_gamma": 3.0}


def test_options_that_exclude_each_other_and_a_loss_that_cannot_be_compared(build, rows, caplog):
    with pytest.raises(ValueError, match="group_dro changes the weights from the first step: leave deferred_weighting"):
        build(weighting="group_dro", deferred_weighting=0.8)
    for settings, message in (
        ({"focal_gamma": -1.0}, "focal_gamma must be 0 or more"),
        ({"objective": "hinge"}, "Unknown objective 'hinge': choose one of cross_entropy, focal, logit_adjustment"),
        ({"deferred_weighting": 1.0}, "deferred_weighting must be from 0 to below 1"),
        ({"group_dro_step_size": -0.1}, "group_dro_step_size must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**settings)
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    build(eval_dataset=rows, weighting="group_dro", metric_for_best_model="eval_uniform_loss", **best)
    assert "group_dro" not in caplog.text
    build(eval_dataset=rows, weighting="group_dro", metric_for_best_model="eval_loss", **best)
    assert "set metric_for_best_model='eval_uniform_loss'" in caplog.text


def test_a_stream_needs_its_counts_for_logit_adjustment(build, rows, monkeypatch):
    monkeypatch.setattr("hf_langimb.training.model_counts.COUNTED_ROWS", 50)
    with pytest.raises(ValueError, match="pass its counts as distribution="):
        build(data=rows.to_iterable_dataset().repeat(None), objective="logit_adjustment", max_steps=2)
