"""Models with several labels per text: gradients by hand with nulls, evaluations, what is saved and refused."""

import numpy as np
import pytest
import torch
from by_hand import MASK_ROW, row_logits
from conftest import gradients_of
from transformers import AutoModelForSequenceClassification

from hf_langimb import LangImbTrainer, MultiLabelDistribution
from hf_langimb.models.axes import read_axes
from hf_langimb.training.losses import negative_binary_entropy

NAMES = ["toxic", "insult", "spam"]


@pytest.fixture
def several(rows):
    """The rows with three labels, some of which are not known."""
    random = np.random.default_rng(0)
    values = random.integers(0, 2, (len(rows), 3)).astype(float).tolist()
    for i, c, unknown in ((0, 1, None), (3, 0, float("nan")), (7, 2, None), (7, 1, None), (9, 0, -100.0)):
        values[i][c] = unknown
    return rows.remove_columns("label").add_column("labels", values)


@pytest.fixture
def model(tiny_bert):
    """Function (seed=0): a model in float64 with an output for each label."""
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    return lambda **changes: tiny_bert(problem_type="multi_label_classification", **names, **changes).double()


def known(row):
    """Numbers and values of the labels that a row has."""
    return [(c, value) for c, value in enumerate(row["labels"]) if value is not None and value in (0, 1)]


def loss_by_hand(model, rows, weights, smoothing=0.0, gamma=0.0):
    """Sum over known values of w * focal loss / their number, one row at a time."""
    languages, losses = sorted({*rows["language"]}), []
    for row in rows:
        yes = row_logits(model, row).sigmoid()
        for c, value in known(row):
            q = value * (1 - smoothing) + smoothing / 2
            loss = -q * (1 - yes[c]) ** gamma * yes[c].log() - (1 - q) * yes[c] ** gamma * (1 - yes[c]).log()
            losses.append(loss * weights[languages.index(row["language"])][c][int(value)])
    return sum(losses) / len(losses)


def gradients(loss, model):
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(found, expected):
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-6, name


@pytest.mark.parametrize(("batch", "accumulation"), [(21, 1), (7, 3), (4, 6)])
@pytest.mark.parametrize("scheme", ["none", "independence", "per_language"])
def test_gradients_are_those_of_the_loop(build, several, model, batch, accumulation, scheme):
    options = {"missing_cell_policy": "ignore", "batch": batch, "accumulation": accumulation}
    trainer = build(model(), several, weighting=scheme, **options)
    counted = MultiLabelDistribution.from_dataset(several, labels=NAMES)
    weights = counted.weights(scheme, missing_cell_policy="ignore")
    assert trainer.distribution.counts.tolist() == counted.counts.tolist()
    assert trainer.weights.shape == (3, 3, 2) and trainer.weights.numpy() == pytest.approx(weights)
    other = model()
    assert_same(gradients_of(trainer), gradients(loss_by_hand(other, several, trainer.weights.tolist()), other))


def test_label_smoothing_focal_loss_and_masked_entropy(build, several, model):
    options = {"objective": "focal", "focal_gamma": 2.0, "label_smoothing_factor": 0.1, "entropy": 0.5}
    trainer = build(model(), several, batch=7, accumulation=3, **options)
    other = model()
    ids = torch.tensor([MASK_ROW])
    p = other(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].sigmoid()
    entropy = (p * p.log() + (1 - p) * (1 - p).log()).sum()
    loss = loss_by_hand(other, several, np.ones((3, 3, 2)).tolist(), smoothing=0.1, gamma=2.0) + 0.5 * entropy
    assert_same(gradients_of(trainer), gradients(loss, other))


def test_with_every_option_off_the_gradients_are_those_of_the_stock_loss(build, several, model):
    complete = several.filter(lambda row: len(known(row)) == 3)
    other = model()
    stock = sum(
        torch.nn.functional.binary_cross_entropy_with_logits(
            row_logits(other, row), torch.tensor(row["labels"], dtype=torch.float64)
        )
        for row in complete
    )
    assert_same(gradients_of(build(model(), complete, batch=21)), gradients(stock / len(complete), other))


def test_binary_entropy_is_lowest_where_all_are_even():
    found = negative_binary_entropy(torch.tensor([[0.0, 0.0], [100.0, -100.0]]))
    assert found.tolist() == pytest.approx([-2 * np.log(2), 0.0])


def test_evaluation_saving_and_loading(build, several, model, bert_tokenizer, training_arguments, tmp_path):
    trainer = build(model(), several, several, weighting="independence", missing_cell_policy="ignore", batch=7)
    trainer.train()
    found, plain = trainer.evaluate(), loss_by_hand(trainer.model.eval(), several, np.ones((3, 3, 2)).tolist())
    own = loss_by_hand(trainer.model, several, trainer.weights.tolist())
    assert found["eval_plain_loss"] == pytest.approx(plain.item()) and found["eval_loss"] == pytest.approx(own.item())
    cells = {}
    for row in several:
        for c, value in known(row):
            logit = row_logits(trainer.model, row)[c]
            loss = torch.nn.functional.softplus(-logit if value else logit).item()
            cells.setdefault((row["language"], c, value), []).append(loss)
    assert found["eval_uniform_loss"] == pytest.approx(np.mean([np.mean(losses) for losses in cells.values()]))
    trainer.save_model(tmp_path / "saved")
    axes = read_axes(tmp_path / "saved")
    assert axes["labels"] == NAMES and np.array(axes["weights"]).shape == (3, 3, 2)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    again = LangImbTrainer(loaded.double(), training_arguments(), eval_dataset=several, processing_class=bert_tokenizer)
    assert again.evaluate()["eval_loss"] == pytest.approx(found["eval_loss"])
    assert again.distribution.counts.tolist() == trainer.distribution.counts.tolist()


def test_values_without_training_rows_are_left_out_of_the_evaluation(build, several, model):
    train = several.map(lambda row: {"labels": [row["labels"][0], row["labels"][1], 0.0]})
    trainer = build(model(), train, several, batch=7)
    yes = sum(value == 1 for row in several for c, value in known(row) if c == 2)
    assert trainer.evaluate()["eval_unseen_rows"] == yes > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "group_dro"}, "trained without class_weighting='group_dro'"),
        ({"objective": "logit_adjustment"}, "without objective='logit_adjustment'"),
        ({"sampling": "independence"}, "without drawing rows"),
        ({"language_adversary": "gradient_reversal"}, "without language_adversary"),
        ({"keywords": {"row_loss": lambda *args: None}}, "without row_loss"),
    ],
)
def test_options_for_one_label_are_refused(build, several, model, options, message):
    with pytest.raises(ValueError, match=message):
        build(model(), several, **options)


def test_data_of_another_kind_are_refused(build, several, model, rows, tiny_bert):
    with pytest.raises(ValueError, match="train_dataset: Expected a column of lists with a 0 or 1 for each label"):
        build(model(), rows)
    with pytest.raises(ValueError, match=r"train_dataset: Expected lists of 2 \(one for each label\).*got 3"):
        build(tiny_bert(num_labels=2, problem_type="multi_label_classification"), several)
    with pytest.raises(ValueError, match=r"expected one label per text \(several labels per text: .*MultiLabel"):
        build(tiny_bert(), several)
    wrong = several.map(lambda row: {"labels": [2.0, 0.0, 1.0]})
    with pytest.raises(ValueError, match="train_dataset: The label 'labels' must be 0 or 1 in each row, got 2"):
        build(model(), wrong)
    with pytest.raises(ValueError, match=r"Expected labels \[rows, 3\] of 0 and 1 .*labels 0 to 2"):
        build(model(), several).predict(wrong)
    counted = MultiLabelDistribution.from_dataset(several, labels=NAMES)
    with pytest.raises(ValueError, match="expected a MultiLabelDistribution of 2 labels"):
        two = tiny_bert(num_labels=2, problem_type="multi_label_classification")
        build(two, several, keywords={"distribution": counted})
    assert build(model(), several, keywords={"distribution": counted}).distribution is counted


def test_a_collator_must_keep_the_rows(build, several, model):
    def collate(features):
        kept = ("input_ids", "attention_mask", "labels")
        rows = [{name: feature[name] for name in kept} for feature in features]
        width = max(len(row["input_ids"]) for row in rows)
        padded = {name: [row[name] + [0] * (width - len(row[name])) for row in rows] for name in kept[:2]}
        return {name: torch.tensor(of) for name, of in (padded | {"labels": [row["labels"] for row in rows]}).items()}

    with pytest.raises(ValueError, match="must keep the column 'language_ids'"):
        build(model(), several, keywords={"data_collator": collate}).train()
