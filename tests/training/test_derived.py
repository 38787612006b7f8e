"""Weights, counts, adapters and axes belong to the training that runs, whatever the Trainer was made with."""

import pytest
import torch
from by_hand import assert_same_weights, without
from transformers import TrainerCallback

import hf_langimb.training.counting as counting
from hf_langimb import LangImbTrainer, cell_weights
from hf_langimb.training.checks import objective

SCHEMES = ("none", "per_language", "joint")


@pytest.fixture
def search(bert_tokenizer, tiny_bert, rows, training_arguments):
    """Function (name, values, **arguments): {value: (model, axes of its configuration, logs)} of a search."""

    def run(name, values, lora_rank=0, **arguments):
        kept = {}

        class Kept(LangImbTrainer):
            def save_model(self, *args, **kwargs):
                return None

        trainer = Kept(
            args=training_arguments(
                eval_strategy="steps", eval_steps=30, max_steps=30, lora_rank=lora_rank, **arguments
            ),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=bert_tokenizer,
            model_init=lambda: tiny_bert(),  # without arguments
        )

        def objective(metrics):
            kept[getattr(trainer.args, name)] = {
                "model": {key: value.detach().clone() for key, value in trainer.model.named_parameters()},
                "axes": dict(trainer.model.config.langimb),
                "loss": metrics["eval_loss"],
            }
            return metrics["eval_loss"]

        trainer.hyperparameter_search(
            lambda trial: {name: trial.suggest_categorical(name, list(values))},
            objective,
            n_trials=len(values),
            backend="optuna",
            direction="minimize",
            sampler=__import__("optuna").samplers.GridSampler({name: list(values)}),
        )
        return kept

    return run


def alone(build, **arguments):
    trainer = build(mask_length=None, max_steps=30, **arguments)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("name", "values"),
    [("class_weighting", SCHEMES), ("head_learning_rate", (0.01, 0.05))],
)
def test_each_trial_of_a_search_is_the_training_alone(search, build, name, values):
    found = search(name, values)
    assert set(found) == set(values)
    for value, trial in found.items():
        single = alone(build, **{name: value})
        assert_same_weights(single.model, trial["model"])
        assert trial["axes"] == single.model.config.langimb
    first, *others = found.values()
    for other in others:
        assert any((first["model"][key] - other["model"][key]).abs().max() > 1e-4 for key in first["model"])


def test_a_search_over_weights(search, build):
    """A trial without weights is plain where a table of own weights is given."""
    table = {language: {str(label): 1.0 + 3 * label for label in range(3)} for language in ("en", "fr", "ja")}
    for name, values, settings in (
        ("weight_exponent", (0.5, 2.0), {"class_weighting": "per_language"}),
        ("effective_number_beta", (0.0, 0.9), {"class_weighting": "effective_number"}),
        ("class_weighting", ("none", "own"), {"class_weights": table}),
    ):
        found = search(name, values, **settings)
        for value, trial in found.items():
            given = {"class_weights": table} if value == "own" else settings | {name: value}
            assert_same_weights(alone(build, **{} if value == "none" else given).model, trial["model"])
        first, second = (trial["model"] for trial in found.values())
        assert any((first[key] - second[key]).abs().max() > 1e-4 for key in first)


def test_a_search_counts_the_data_once(search, monkeypatch):
    counted, count = [], counting.count_for_model
    monkeypatch.setattr(counting, "count_for_model", lambda *a, **kw: counted.append(a[1]) or count(*a, **kw))
    search("class_weighting", SCHEMES)
    assert counted == ["train_dataset", "eval_dataset"]


def test_a_search_over_adapters(search):
    found = search("lora_rank", (0, 4))
    assert any("lora" in key for key in found[4]["model"]) and not any("lora" in key for key in found[0]["model"])


def test_a_misspelled_scheme_in_a_search_is_refused(search):
    with pytest.raises(ValueError, match="Unknown class_weighting 'per_langauge'"):
        search("class_weighting", ("per_langauge",))


def test_another_train_dataset(build, rows):
    trainer = build(weighting="per_language")
    fewer = without(rows, "ja")
    trainer.train_dataset = fewer
    trainer.train()
    assert trainer.distribution.languages == ("en", "fr")
    assert trainer.weights.tolist() == [
        [pytest.approx(weight) for weight in row] for row in cell_weights(trainer.distribution, "per_language")
    ]
    assert trainer.model.config.langimb["languages"] == ["en", "fr"]


def test_changed_arguments(build):
    trainer = build(weighting="none", max_steps=3)
    trainer.train()
    assert trainer.model.config.langimb["class_weighting"] == "none"
    trainer.args.class_weighting = "per_language"
    trainer.train()
    assert trainer.model.config.langimb["class_weighting"] == "per_language"
    assert trainer.weights.max() > 1.5


def test_given_optimizers(build, tiny_bert):
    for number, arguments, message in (
        (None, {"lora_rank": 4}, r"optimizer has 0 of .* trainable parameters in exactly one group"),
        (None, {"head_learning_rate": 0.1}, "head_learning_rate is for the Trainer's own optimizer"),
        (3, {}, r"optimizer has 3 of .* trainable"),
    ):
        model = tiny_bert()
        optimizer = torch.optim.AdamW(list(model.parameters())[:number], lr=0.05)
        with pytest.raises(ValueError, match=message):
            build(model, keywords={"optimizers": (optimizer, None)}, **arguments)
    model = tiny_bert()
    before = model.classifier.weight.detach().clone()
    build(model, keywords={"optimizers": (torch.optim.AdamW(model.parameters(), lr=0.05), None)}).train()
    assert (model.classifier.weight != before).any()


def test_adapters_follow_the_arguments(build):
    trainer = build(lora_rank=0)
    trainer.args.lora_rank = 4
    trainer.train()
    moved = [values.abs().max() for name, values in trainer.model.named_parameters() if "lora_B" in name]
    assert moved and min(moved) > 0, "they start at 0"
    trainer.args.lora_rank = 2
    with pytest.raises(ValueError, match=r"has adapters of rank 4, but lora_rank is now 2: pass model_init"):
        trainer.train()


def test_a_repetition_with_a_smaller_batch(build, monkeypatch):
    trainer = build(weighting="per_language", batch=8, max_steps=4, auto_find_batch_size=True, log_every=4)
    step, seen = LangImbTrainer.training_step, []

    def full(self, model, inputs, *args):
        seen.append(len(inputs["labels"]))
        if len(seen) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, model, inputs, *args)

    monkeypatch.setattr(LangImbTrainer, "training_step", full)
    trainer.train()
    assert seen[:2] == [8, 8] and seen[2] < 8
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logged:
        assert entry["loss_classification"] == pytest.approx(entry["loss"], abs=1e-4)


# Between two trainings.


def test_evaluation_after_another_data_set_numbers_languages_anew(build, tiny_bert, rows):
    trainer = build(weighting="per_language")
    trainer.train_dataset = without(rows, "en")
    metrics = trainer.evaluate(rows)
    assert metrics["eval_unseen_rows"] == sum(language == "en" for language in rows["language"])
    expected = build(data=without(rows, "en"), weighting="per_language").evaluate(rows)
    assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)


def test_another_model_or_rate_has_another_optimizer(build, tiny_bert):
    trainer = build(max_steps=1, head_learning_rate=0.0)
    trainer.train()
    head = trainer.model.classifier.weight.detach().clone()
    trainer.train()
    assert torch.equal(trainer.model.classifier.weight, head)
    trainer.args.head_learning_rate = 0.5
    trainer.train()
    assert not torch.equal(trainer.model.classifier.weight, head)
    other = tiny_bert(seed=1)
    before = other.classifier.weight.detach().clone()
    trainer.model = other
    trainer.train()
    assert not torch.equal(other.classifier.weight, before)


def test_a_given_optimizer_is_checked_before_every_training(build, tiny_bert):
    model, other = tiny_bert(), tiny_bert(seed=1)
    model.bert.requires_grad_(False)
    head = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    trainer = build(model, keywords={"optimizers": (head, None)}, max_steps=1)
    trainer.train()
    model.bert.requires_grad_(True)
    with pytest.raises(ValueError, match=r"The given optimizer has 2 of \d+ trainable parameters"):
        trainer.train()
    trainer.optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"The given optimizer has 0 of \d+ trainable parameters"):
        trainer.train()


def test_what_a_callback_changes_during_a_training_is_not_used_but_recorded_no_more_than_used(build):
    class Change(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            args.class_weighting = "joint"

    trainer = build(weighting="per_language", max_steps=2, keywords={"callbacks": [Change()]})
    before = trainer.weights
    seen = []
    trainer.model.register_forward_hook(lambda *_: seen.append(trainer.weights))
    trainer.train()
    assert all(torch.equal(weights, before) for weights in seen)
    assert trainer.model.config.langimb["class_weighting"] == "per_language"


def test_the_objective_of_a_search_is_that_of_the_trainer():
    losses = {"eval_loss": 0.5, "eval_plain_loss": 3.0, "eval_uniform_loss": 4.0, "epoch": 1.0}
    unseen = {"eval_unseen_rows": 9, "eval_unseen_plain_loss": 7.0}
    assert objective(losses) == objective(losses | unseen) == 0.5
    assert objective(losses | unseen | {"eval_accuracy": 0.25}) == 0.25
