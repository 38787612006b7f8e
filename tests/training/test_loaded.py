"""A checkpoint knows its training: axes, weights and policy after loading; rows without training rows stand apart."""

import json
import logging

import numpy as np
import pytest
from by_hand import WEIGHTS, loss_by_hand, row_logits, row_loss, without
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification

from hf_langimb import JointDistribution, LangImbTrainer, cell_weights, load_run

WEIGHTED = {"weighting": "per_language", "max_steps": 3, "batch": 7}


@pytest.fixture
def saved(build, tiny_bert, tmp_path):
    """Function (lora): folders of a base model and of a trained model."""

    def make(lora):
        base, trained = tmp_path / "base", tmp_path / "trained"
        tiny_bert().save_pretrained(base)
        model = AutoModelForSequenceClassification.from_pretrained(base)
        trainer = build(model, lora_rank=4 if lora else 0, **WEIGHTED)
        trainer.train()
        trainer.save_model(trained)
        return base, trained

    return make


LOADED = {
    "full model": (False, lambda base, path: AutoModelForSequenceClassification.from_pretrained(path)),
    "adapters": (True, lambda base, path: AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=3)),
    "adapters on their base": (
        True,
        lambda base, path: PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), path),
    ),
    "adapters by Transformers": (
        True,
        lambda base, path: AutoModelForSequenceClassification.from_pretrained(path, num_labels=3),
    ),
    "run": (True, lambda base, path: load_run(str(path)).model),
}


@pytest.mark.parametrize("kind", LOADED)
@pytest.mark.parametrize("weighting", ["none", "per_language"])
def test_evaluation_after_loading_uses_what_the_checkpoint_records(build, saved, rows, kind, weighting):
    lora, load = LOADED[kind]
    base, trained = saved(lora)
    model = load(base, trained)
    subset = rows.filter(lambda row: row["language"] != "ja").select(range(9))  # whose own weights are others
    metrics = build(model, data=None, eval_dataset=subset, weighting=weighting).evaluate()
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    assert metrics["eval_loss"] == pytest.approx(loss_by_hand(plain.eval(), subset).item(), rel=1e-4)
    assert metrics["eval_plain_loss"] == pytest.approx(loss_by_hand(plain, subset, weights=None).item(), rel=1e-4)


@pytest.mark.parametrize("adapters", [False, True])
def test_without_recorded_axes_the_loss_is_plain_and_that_is_said(build, tiny_bert, rows, caplog, adapters):
    model = tiny_bert()
    if adapters:
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    with caplog.at_level(logging.WARNING):
        trainer = build(model, data=None, eval_dataset=rows, weighting="per_language")
        metrics = trainer.evaluate()
        trainer.evaluate()
    assert metrics["eval_loss"] == metrics["eval_plain_loss"]
    assert (trainer.weights == 1).all()
    assert sum("not weighted" in record.message for record in caplog.records) == 1


def test_another_weighting_than_the_recorded_one_is_said(build, saved, rows, caplog):
    model = AutoModelForSequenceClassification.from_pretrained(saved(False)[1])
    with caplog.at_level(logging.WARNING):
        trainer = build(model, data=None, eval_dataset=rows, weighting="joint")
    assert trainer.weights.numpy() == pytest.approx(np.array([WEIGHTS[language] for language in ("en", "fr", "ja")]))
    assert "per_language" in caplog.text and "joint" in caplog.text


def test_the_policy_is_recorded_and_told_from_the_weights_of_older_files(build, rows, tmp_path):
    gap = without(rows, "en", 2)
    for policy in ("ignore", "smooth"):
        trainer = build(data=gap, missing_cell_policy=policy, **WEIGHTED)
        trainer.save_model(tmp_path / policy)
        path = tmp_path / policy / "langimb.json"
        axes = json.loads(path.read_text())
        assert axes["missing_cell_policy"] == trainer.model.config.langimb["missing_cell_policy"] == policy
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / policy)
        assert build(loaded, data=None, eval_dataset=rows).weights.equal(trainer.weights)
    from hf_langimb.models.axes import read_axes

    for policy, expected in (("ignore", "ignore"), ("smooth", "error")):
        axes = json.loads((tmp_path / policy / "langimb.json").read_text())
        del axes["missing_cell_policy"]
        (tmp_path / policy / "langimb.json").write_text(json.dumps(axes))
        assert read_axes(tmp_path / policy)["missing_cell_policy"] == expected
    axes["missing_cell_policy"] = "nothing"
    (tmp_path / policy / "langimb.json").write_text(json.dumps(axes))
    with pytest.raises(ValueError, match=r"langimb.json .*missing_cell_policy"):
        read_axes(tmp_path / policy)


DAMAGED = {
    "weights": lambda axes: axes | {"weights": [[1.0]]},
    "no counts": lambda axes: {key: value for key, value in axes.items() if key != "counts"},
    "a list": lambda axes: [axes],
    "negative counts": lambda axes: axes | {"counts": [[-1, 2, 3]] * 3},
    "no number": lambda axes: axes | {"weights": [[float("nan")] * 3] * 3},
    "another number of classes": lambda axes: axes | {"labels": [0, 1], "label_names": ["a", "b"]},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_axes_in_a_configuration_are_refused_in_words(build, saved, rows, name):
    model = AutoModelForSequenceClassification.from_pretrained(saved(False)[1])
    model.config.langimb = DAMAGED[name](model.config.langimb)
    with pytest.raises(ValueError, match=r"langimb"):
        build(model, data=None, eval_dataset=rows)


# Rows in cells without training rows.


def cells(*counted):
    """Rows (language, label, number)."""
    return [(language, label) for language, label, number in counted for _ in range(number)]


def data(rows, *counted):
    """Tokenized rows with these languages and labels."""
    found = cells(*counted)
    table = [dict(rows[i % len(rows)]) for i in range(len(found))]
    return Dataset.from_list(
        [row | {"language": one, "label": label} for row, (one, label) in zip(table, found, strict=True)]
    )


TRAINED = (("en", 0, 8), ("en", 1, 4), ("fr", 0, 3), ("fr", 1, 3), ("fr", 2, 3))
SEEN = (("en", 0, 3), ("fr", 1, 4), ("fr", 2, 2))
UNSEEN = {
    "cell": (("en", 2, 9),),
    "language": (("de", 0, 2), ("de", 1, 3)),
    "two languages": (("de", 0, 2), ("ja", 0, 1)),
    "cell and language": (("en", 2, 1), ("ja", 2, 1)),
}


@pytest.mark.parametrize("weighting", ["none", "per_language", "joint"])
@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("loaded", [False, True])
def test_rows_without_training_rows_are_left_out_and_reported(build, rows, tmp_path, name, weighting, loaded):
    settings = {"missing_cell_policy": "ignore", "weighting": weighting, "max_steps": 2}
    seen, unseen = data(rows, *SEEN), data(rows, *UNSEEN[name])
    mixed = data(rows, *SEEN, *UNSEEN[name]).shuffle(seed=1)
    trainer = build(data=data(rows, *TRAINED), eval_dataset=mixed, **settings)
    trainer.train()
    if loaded:
        trainer.save_model(tmp_path)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        trainer = build(model, data=None, eval_dataset=mixed, **settings)
    found, alone = trainer.evaluate(), trainer.evaluate(seen)
    model = trainer.model.eval()
    by_hand = [row_loss(row_logits(model, row), row["label"]).item() for row in mixed if is_unseen(row)]
    assert found["eval_unseen_rows"] == len(unseen) == len(by_hand)
    assert found["eval_unseen_plain_loss"] == pytest.approx(np.mean(by_hand), rel=1e-5)
    for part in ("loss", "plain_loss", "uniform_loss"):
        kept = loss_of(model, [row for row in mixed if not is_unseen(row)], part, trainer)
        assert found[f"eval_{part}"] == pytest.approx(kept, rel=1e-5), part
    assert "eval_unseen_rows" not in alone


def is_unseen(row):
    return (row["language"], row["label"]) not in {(language, label) for language, label, _ in TRAINED}


def loss_of(model, kept, part, trainer):
    losses = [row_loss(row_logits(model, row), row["label"]).item() for row in kept]
    if part == "uniform_loss":
        by_cell = {}
        for row, loss in zip(kept, losses, strict=True):
            by_cell.setdefault((row["language"], row["label"]), []).append(loss)
        return np.mean([np.mean(found) for found in by_cell.values()])
    place = trainer.distribution.languages.index
    weights = [1 if part == "plain_loss" else trainer.weights[place(r["language"])][r["label"]].item() for r in kept]
    return np.mean(np.array(losses) * weights)


ACCURACY = {"compute_metrics": lambda found: {"accuracy": 0.5}}
SELECTED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
SELECTED |= {"load_best_model_at_end": True, "missing_cell_policy": "ignore", "weighting": "per_language"}


@pytest.mark.parametrize("name", UNSEEN)
def test_such_rows_select_no_checkpoint_by_a_metric_of_the_user(build, rows, name):
    mixed, trained = data(rows, *SEEN, *UNSEEN[name]), data(rows, *TRAINED)
    for metric, dataset in (("accuracy", mixed), ("eval_accuracy", mixed), ("eval_a_accuracy", {"a": mixed})):
        keywords = {"eval_dataset": dataset, "metric_for_best_model": metric, "keywords": ACCURACY}
        with pytest.raises(ValueError, match=r"rows in .*without training rows.*accuracy.*eval_loss"):
            build(data=trained, **keywords, **SELECTED)
    by_loss = build(data=trained, eval_dataset=mixed, keywords=ACCURACY, **SELECTED)
    by_loss.train()
    assert by_loss.state.best_metric == pytest.approx(by_loss.evaluate()["eval_loss"], rel=1e-5)
    other = build(
        data=trained,
        eval_dataset={"a": data(rows, *SEEN), "b": mixed},
        metric_for_best_model="eval_a_accuracy",
        keywords=ACCURACY,
        **SELECTED,
    )
    other.train()


def test_a_stream_with_such_rows_is_refused_when_it_selects(build, rows):
    mixed = data(rows, *SEEN, *UNSEEN["cell"]).to_iterable_dataset()
    settings = {"eval_dataset": mixed, "metric_for_best_model": "accuracy", "keywords": ACCURACY}
    trainer = build(data=data(rows, *TRAINED), **settings, **SELECTED)
    with pytest.raises(ValueError, match=r"9 rows .*without training rows.*accuracy"):
        trainer.train()


def test_no_loss_selects_where_all_rows_are_such(build, rows):
    with pytest.raises(ValueError, match=r"eval_dataset: all of its 9 rows"):
        build(data=data(rows, *TRAINED), eval_dataset=data(rows, *UNSEEN["cell"]), **SELECTED)
    free = build(data=data(rows, *TRAINED), missing_cell_policy="ignore", weighting="per_language")
    predicted = free.predict(data(rows, *UNSEEN["cell"]))
    assert predicted.metrics["test_unseen_rows"] == 9 and "test_loss" not in predicted.metrics


def test_data_without_languages_have_the_plain_loss_and_that_is_said(build, tiny_bert, rows, caplog):
    trainer = build(weighting="per_language")
    with caplog.at_level(logging.WARNING):
        metrics = trainer.predict(rows.remove_columns("language")).metrics
    assert metrics["test_loss"] == pytest.approx(loss_by_hand(tiny_bert(), rows, weights=None).item(), rel=1e-5)
    assert "not weighted" in caplog.text and "test_unseen_rows" not in metrics


def test_weights_of_given_counts_are_recorded(build, rows):
    counts = JointDistribution(("en", "fr", "ja"), (0, 1, 2), np.arange(1, 10).reshape(3, 3))
    trainer = build(weighting="per_language", keywords={"distribution": counts})
    assert isinstance(trainer, LangImbTrainer)
    assert trainer.model.config.langimb["weights"] == cell_weights(counts, "per_language").tolist()
