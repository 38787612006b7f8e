"""Losses of evaluation against means by hand; evaluation sets that are refused."""

import numpy as np
import pytest
from by_hand import UNFIT, loss_by_hand, relabeled, row_logits, row_loss
from conftest import assert_close
from datasets import ClassLabel


@pytest.mark.parametrize("batch", [4, 8, 100])  # 21 rows: the last batch is uneven
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_evaluation_reports_own_plain_and_uniform_loss(build, tiny_bert, rows, batch, smoothing):
    settings = {"label_smoothing_factor": smoothing, "per_device_eval_batch_size": batch}
    trainer = build(eval_dataset=rows, weighting="per_language", **settings)
    metrics = trainer.evaluate()
    model = tiny_bert()
    cells = {}
    for row in rows:
        loss = row_loss(row_logits(model, row), row["label"]).item()
        cells.setdefault((row["language"], row["label"]), []).append(loss)
    uniform = sum(sum(losses) / len(losses) for losses in cells.values()) / len(cells)
    assert metrics["eval_loss"] == pytest.approx(loss_by_hand(model, rows, smoothing=smoothing).item(), rel=1e-5)
    assert metrics["eval_plain_loss"] == pytest.approx(loss_by_hand(model, rows, weights=None).item(), rel=1e-5)
    assert metrics["eval_uniform_loss"] == pytest.approx(uniform, rel=1e-5)


def test_mask_rows_and_weights_leave_evaluation_as_it_is(build, rows):
    trainers = [build(mask_length=None, eval_dataset=rows, entropy=weight) for weight in (0.0, 1.0)]
    (plain, predicted), (entropy, predicted_too) = ((t.evaluate(), t.predict(rows)) for t in trainers)
    assert len(predicted.predictions) == len(predicted_too.predictions) == len(rows)
    np.testing.assert_allclose(predicted.predictions, predicted_too.predictions, atol=1e-6)
    assert (predicted_too.label_ids == rows["label"][:]).all()
    kinds = ("eval_loss", "eval_plain_loss", "eval_uniform_loss")
    assert_close([plain[kind] for kind in kinds], [entropy[kind] for kind in kinds], atol=1e-6)
    assert set(plain) == set(entropy)


def test_evaluation_between_steps_disturbs_nothing(build, rows):
    settings = {"weighting": "per_language", "entropy": 1.0, "eval_steps": 1, "log_every": 1, "max_steps": 3}
    losses = []
    for strategy in ("no", "steps"):
        trainer = build(eval_dataset=rows, eval_strategy=strategy, **settings)
        trainer.train()
        losses.append([entry["loss_classification"] for entry in trainer.state.log_history if "loss" in entry])
    assert_close(losses[0], losses[1])


@pytest.mark.parametrize("removed", [("label",), ("label", "language"), ("language",), ()], ids=str)
def test_predict_needs_neither_labels_nor_languages(build, rows, removed):
    trainer = build(weighting="per_language", entropy=1.0)
    received = set()
    trainer.model.register_forward_pre_hook(lambda model, args, kwargs: received.update(kwargs), with_kwargs=True)
    expected = trainer.predict(rows).predictions
    output = trainer.predict(rows.remove_columns(list(removed)))
    np.testing.assert_allclose(output.predictions, expected, atol=1e-6)
    assert ("test_loss" in output.metrics) == ("label" not in removed)
    assert "language_ids" not in received and "input_ids" in received


BAD_EVALUATION = {  # of UNFIT: the message
    "languages numbered otherwise": r"eval_dataset: .*language.*fr, en, ja.*en, fr, ja.*align_labels_with_mapping",
    "no language": r"eval_dataset: .*language column",
    "null label": r"eval_dataset: .*is empty in 2 of",
    "no rows": r"eval_dataset: No rows",
    "class id too many": r"eval_dataset: .* has labels 1 to 3",
}


@pytest.mark.parametrize("name", BAD_EVALUATION)
def test_a_bad_evaluation_set_is_refused_in_words(build, rows, name):
    with pytest.raises(ValueError, match=f"(?s){BAD_EVALUATION[name]}"):
        build(eval_dataset=UNFIT[name](rows))
    with pytest.raises(ValueError, match=r"^chosen: "):
        build(eval_dataset={"chosen": UNFIT[name](rows), "other": rows}, metric_for_best_model="eval_chosen_loss")


def test_what_only_a_class_label_names_is_unseen_and_its_order_must_be_that_of_training(build, rows):
    one, other = (rows.cast_column("label", ClassLabel(names=list(names))) for names in ("abc", "acb"))
    for column, dataset in (
        ("label", one),
        ("language", rows.cast_column("language", ClassLabel(names=["en", "fr", "ja"]))),
    ):
        seen = dataset.filter(lambda row, name=column: row[name] < 2)
        metrics = build(data=seen, eval_dataset=dataset).evaluate()
        assert metrics["eval_unseen_rows"] == len(dataset) - len(seen) > 0
    with pytest.raises(ValueError, match=r"eval_dataset: .*label.*a, c, b.*a, b, c") as refusal:
        build(data=one, eval_dataset=other)
    assert "align_labels_with_mapping({'a': 0, 'b': 1, 'c': 2}, column)" in str(refusal.value)
    build(data=one, eval_dataset=other.align_labels_with_mapping({"a": 0, "b": 1, "c": 2}, "label"))


@pytest.mark.parametrize("column", ["language", "label"])
def test_class_ids_numbered_otherwise_or_without_output_are_refused_wherever_they_are_evaluated(build, rows, column):
    texts = rows.map(lambda row: {"label": "abc"[row["label"]]})
    ordered = sorted(set(texts[column]))
    if column == "language":
        texts = texts.cast_column("label", ClassLabel(names=["a", "b", "c"]))
    one, other = (texts.cast_column(column, ClassLabel(names=names)) for names in (ordered, ordered[::-1]))
    trainer = build(data=one, eval_dataset={"some": other})  # selects nothing
    message = f"its {column} column is a ClassLabel with the order {', '.join(ordered[::-1])}, expected"
    for call in (trainer.evaluate, lambda: trainer.evaluate(other), lambda: trainer.predict(other)):
        with pytest.raises(ValueError, match=message):
            call()
    assert trainer.evaluate(one)["eval_loss"] > 0
    with pytest.raises(ValueError, match=r"labels from 0 to 2, the outputs of the model, got .* labels 5 to 5"):
        build().evaluate(relabeled(rows, lambda label: 5, "int64"))


@pytest.mark.parametrize(("own", "other"), [("own", "foreign"), ("t_en", "t")])  # the longest name selects
def test_each_set_reports_under_its_name_and_one_that_selects_nothing_may_have_any_language(build, rows, own, other):
    data = {other: rows.map(lambda row: {"language": "de"}), own: rows.filter(lambda row: row["language"] == "en")}
    trainer = build(eval_dataset=data, metric_for_best_model=f"eval_{own}_loss", weighting="per_language")
    metrics = trainer.evaluate()
    assert metrics[f"eval_{other}_unseen_rows"] == len(rows) and f"eval_{other}_loss" not in metrics
    assert {f"eval_{own}_loss", f"eval_{own}_plain_loss", f"eval_{own}_uniform_loss"} <= set(metrics)
