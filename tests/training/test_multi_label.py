"""Models with several labels per text: gradients by hand with nulls, evaluations, what is saved and refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import MASK_ROW, row_logits
from conftest import gradients_of
from datasets import ClassLabel
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from hf_langimb import LangImbTrainer, MultiLabelDistribution
from hf_langimb.models.axes import read_axes
from hf_langimb.models.loading import load_trained
from hf_langimb.training.losses import negative_binary_entropy

NAMES = ["toxic", "insult", "spam"]
POLICY = {"missing_cell_policy": "ignore"}


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


def test_label_smoothing_focal_loss_and_masked_entropy(build, several, model, recwarn):
    options = {"objective": "focal", "focal_gamma": 2.0, "label_smoothing_factor": 0.1, "entropy": 0.5}
    trainer = build(model(), several, batch=7, accumulation=3, **options)
    assert not [said for said in recwarn if "smoothing" in str(said.message)], "which would be wrong"
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
        ({"weighting": "group_dro"}, "class_weighting='group_dro'"),
        ({"objective": "logit_adjustment"}, "several labels per text: objective='logit_adjustment'"),
        ({"sampling": "independence"}, "several labels per text: drawing rows"),
        ({"language_adversary": "gradient_reversal"}, "several labels per text: language_adversary"),
        ({"keywords": {"row_loss": lambda *args: None}}, "several labels per text: row_loss"),
    ],
)
def test_options_for_one_label_are_refused(build, several, model, options, message):
    with pytest.raises(ValueError, match=message):
        build(model(), several, **options)


def test_data_of_another_kind_are_refused(build, several, model, rows, tiny_bert):
    with pytest.raises(ValueError, match="train_dataset: Expected a column of lists with a 0 or 1 for each label"):
        build(model(), rows)
    with pytest.raises(
        ValueError, match=r"train_dataset: Expected lists of length 2 \(one entry for each label\).*got lengths 3"
    ):
        build(tiny_bert(num_labels=2, problem_type="multi_label_classification"), several)
    with pytest.raises(ValueError, match=r"expected one label per text \(for several labels per text: .*problem_type="):
        build(tiny_bert(), several)
    wrong = several.map(lambda row: {"labels": [2.0, 0.0, 1.0]})
    with pytest.raises(
        ValueError, match=r"train_dataset: The label 'labels' must be 0 or 1 in each row .null: not known., got 2"
    ):
        build(model(), wrong)
    with pytest.raises(
        ValueError, match=r"Expected labels of shape \[rows, 3\], each 0, 1 or -100 .*values from 0 to 2"
    ):
        build(model(), several).predict(wrong)
    columns = rows.remove_columns("label").add_column("toxic", [1.0] * len(rows)).add_column("spam", [0.0] * len(rows))
    with pytest.raises(
        ValueError, match=r"one label column 'labels', got none.*make one of lists: dataset\.map\(lambda"
    ):
        build(model(), columns)
    counted = MultiLabelDistribution.from_dataset(several, labels=NAMES)
    with pytest.raises(ValueError, match="distribution must be a MultiLabelDistribution of 2 labels"):
        two = tiny_bert(num_labels=2, problem_type="multi_label_classification")
        build(two, several, keywords={"distribution": counted})
    assert build(model(), several, keywords={"distribution": counted}).distribution is counted


def test_a_step_without_known_values_changes_nothing_but_the_entropy(build, several, model):
    unknown = several.map(lambda row: {"labels": [None, None, None]})
    trainer = build(model(), several, unknown, batch=1, entropy=1.0, keywords={})
    trainer.train_dataset = several.select([0]).map(lambda row: {"labels": [None, None, None]})
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert "eval_loss" not in trainer.evaluate()


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_values_of_other_kinds(build, several, model, kind):
    """Tensors with NaN, integers, and languages as class ids give the gradients of lists with nulls."""
    expected = gradients_of(build(model(), several, batch=7, accumulation=3))
    assert_same(gradients_of(build(model(), several.with_format(kind), batch=7, accumulation=3)), expected)
    named = several.cast_column("language", ClassLabel(names=["en", "fr", "ja", "ko"]))
    trainer = build(model(), named, named, batch=7, accumulation=3, weighting="independence", **POLICY)
    assert trainer.distribution.languages == ("en", "fr", "ja", "ko")
    weighted = build(model(), several, several, batch=7, accumulation=3, weighting="independence", **POLICY)
    assert_same(gradients_of(trainer), gradients_of(weighted))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(weighted.evaluate()["eval_loss"])
    assert trainer.evaluate(several)["eval_loss"] == pytest.approx(weighted.evaluate()["eval_loss"])


def test_streams_are_counted_if_they_end(build, several, model):
    stream = several.to_iterable_dataset()
    counted = build(model(), several).distribution.counts.tolist()
    assert build(model(), stream, weighting="independence", **POLICY).distribution.counts.tolist() == counted
    evaluated = build(model(), data=None, eval_dataset=stream)
    assert evaluated.evaluate()["eval_plain_loss"] == pytest.approx(
        build(model(), None, several).evaluate()["eval_loss"]
    )


def test_an_evaluation_alone_has_the_plain_loss(build, several, model):
    options = {"objective": "focal", "sampling": "independence"}
    found = build(model(), None, several, **options).evaluate()
    assert found["eval_loss"] == pytest.approx(found["eval_plain_loss"])


def test_adapters_decide_about_each_label_when_they_are_loaded(build, several, model, bert_tokenizer, tmp_path):
    start = tmp_path / "start"
    model().float().save_pretrained(start)
    bert_tokenizer.save_pretrained(start)
    loaded = AutoModelForSequenceClassification.from_pretrained(start)
    trainer = build(loaded, several, several, lora_rank=2, weighting="independence", **POLICY)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    again = load_trained(tmp_path / "saved").model
    assert again.config.problem_type == "multi_label_classification"
    evaluated = build(again, None, several).evaluate()
    assert evaluated["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_card_shows_counts_of_no_and_yes(build, several, model, rank):
    trainer = build(model().float(), several, lora_rank=rank, weighting="independence", **POLICY)
    trainer.train()
    trainer.create_model_card()
    card = Path(trainer.args.output_dir, "README.md").read_text(encoding="utf-8")
    assert "Decides for each label whether a text has it: toxic, insult and spam" in card
    assert "top_k=None" in card and "toxic (yes)" in card and ("problem_type" in card) is bool(rank)
    counts = trainer.distribution.counts
    assert f"| {counts[0, 0, 0]} |" in " ".join(card.split()) and "evaluate_labels" in card


def test_arguments_that_change_later_are_refused_too(build, several, model):
    trainer = build(model(), several)
    trainer.args.language_adversary = "gradient_reversal"
    with pytest.raises(ValueError, match="several labels per text: language_adversary"):
        trainer.train()


def test_a_search_and_a_resumed_training(build, several, model, tmp_path):
    options = {"batch": 7, "max_steps": 6, "weighting": "independence", "save_strategy": "steps", "save_steps": 3}
    trainer = build(model(), several, **options, **POLICY)
    trainer.train()
    ended = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    again = build(model(), several, **options, **POLICY)
    again.train(resume_from_checkpoint=str(Path(again.args.output_dir, "checkpoint-3")))
    for name, parameter in again.model.named_parameters():
        assert (parameter - ended[name]).abs().max() < 1e-6, name
    made = build(model(), several, batch=7, **POLICY, keywords={"model_init": None})
    made.args.class_weighting = "per_language"
    assert made.weights.numpy() == pytest.approx(made.distribution.weights("per_language", **POLICY))


def test_given_counts_must_be_of_the_labels_of_the_model(build, several, model, tiny_bert, rows):
    counted = MultiLabelDistribution.from_dataset(several, labels=NAMES)
    turned = MultiLabelDistribution(counted.languages, ("spam", "toxic", "insult"), counted.counts[:, [2, 0, 1]])
    with pytest.raises(ValueError, match="labels spam, toxic, insult, the model toxic, insult, spam: use the order"):
        build(model(), several, keywords={"distribution": turned})
    unnamed = tiny_bert(problem_type="multi_label_classification")
    trainer = build(unnamed, several, keywords={"distribution": turned})
    assert [*trainer.model.config.id2label.values()] == ["spam", "toxic", "insult"]
    with pytest.raises(ValueError, match="counts of several labels per text: load the model with problem_type="):
        build(tiny_bert(), rows, keywords={"distribution": counted})


def test_a_collator_may_not_change_labels(build, several, model, bert_tokenizer):
    inner = DataCollatorWithPadding(bert_tokenizer)

    def collate(features):
        batch = inner(features)
        return batch | {"labels": batch["labels"].flip(0)}

    with pytest.raises(ValueError, match="data_collator changes labels"):
        build(model(), several, batch=7, keywords={"data_collator": collate}).train()


def test_rows_without_a_list_are_refused(build, several, model):
    lacking = several.map(lambda row, i: {"labels": None if i == 3 else row["labels"]}, with_indices=True)
    with pytest.raises(ValueError, match=r"column 'labels' has no list in 1 rows: write \[null, null"):
        build(model(), lacking)


def test_a_collator_must_keep_the_rows(build, several, model):
    def collate(features):
        kept = ("input_ids", "attention_mask", "labels")
        rows = [{name: feature[name] for name in kept} for feature in features]
        width = max(len(row["input_ids"]) for row in rows)
        padded = {name: [row[name] + [0] * (width - len(row[name])) for row in rows] for name in kept[:2]}
        return {name: torch.tensor(of) for name, of in (padded | {"labels": [row["labels"] for row in rows]}).items()}

    with pytest.raises(ValueError, match="must keep the column 'language_ids'"):
        build(model(), several, keywords={"data_collator": collate}).train()
