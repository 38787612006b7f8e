"""Collators that drop, double or reorder rows, or change labels: a weight never goes to another row's language."""

import random

import numpy as np
import pytest
import torch
from by_hand import WEIGHTS, assert_same_weights
from transformers import DataCollatorWithPadding

from hf_langimb import DataCollatorWithLanguage, LangImbTrainer

AXIS = ("en", "fr", "ja")


def bare(features, pick=lambda features: features):
    """A batch of known columns alone."""
    features = pick(features)
    width = max(len(feature["input_ids"]) for feature in features)
    pad = [[*feature["input_ids"], *[0] * (width - len(feature["input_ids"]))] for feature in features]
    ids = torch.tensor(pad)
    labels = torch.tensor([int(feature["label"]) for feature in features])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


PICKS = {
    "reversed": lambda features: features[::-1],
    "sorted by length": lambda features: sorted(features, key=lambda feature: len(feature["input_ids"])),
    "the first dropped": lambda features: features[1:],
    "short rows dropped": lambda features: [f for f in features if len(f["input_ids"]) > 3] or features,
    "doubled": lambda features: [*features, *features],
    "each twice": lambda features: [feature for feature in features for _ in range(2)],
    "shuffled by Python": lambda features: random.sample(features, len(features)),
    "shuffled by torch": lambda features: [features[i] for i in torch.randperm(len(features))],
    "as they come": lambda features: features,
}


@pytest.mark.parametrize("kind", ["bare", "padding"])
@pytest.mark.parametrize("pick", PICKS)
def test_languages_and_labels_travel_together(bert_tokenizer, rows, pick, kind):
    pads = DataCollatorWithPadding(bert_tokenizer)
    inner = {"bare": lambda f: bare(f, PICKS[pick]), "padding": lambda f: pads(PICKS[pick](f))}[kind]
    batch = DataCollatorWithLanguage(bert_tokenizer, languages=AXIS, collator=inner)(list(rows))
    known = {tuple(row["input_ids"]): (AXIS.index(row["language"]), row["label"]) for row in rows}
    assert len(known) == len(rows)
    read = [
        tuple(ids[mask.bool()].tolist()) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert [*zip(batch["language_ids"].tolist(), batch["labels"].tolist(), strict=True)] == [known[ids] for ids in read]


def test_another_draw_of_a_collator_is_not_taken_for_the_same(bert_tokenizer, rows):
    own = random.Random(0)
    inner = lambda features: bare(features, lambda found: own.sample(found, len(found)))  # noqa: E731
    with pytest.raises(ValueError, match=r"data_collator .*language_ids"):
        DataCollatorWithLanguage(bert_tokenizer, languages=AXIS, collator=inner)(list(rows))


CHANGED = {
    "other class ids": lambda label: 2 - label,
    "all the same": lambda label: 1,
    "counted from 1": lambda label: label + 1,
}


@pytest.mark.parametrize("kind", ["bare", "padding"])
@pytest.mark.parametrize("change", CHANGED)
def test_labels_that_a_collator_changes_are_not_those_that_were_counted(bert_tokenizer, rows, change, kind):
    pads = DataCollatorWithPadding(bert_tokenizer)

    def inner(features):
        batch = bare(features) if kind == "bare" else pads(features)
        return {**batch, "labels": torch.tensor([CHANGED[change](label) for label in batch["labels"].tolist()])}

    english = [row for row in rows if row["language"] == "en" and row["label"] == 0]
    for batch in (english, list(rows)):
        with pytest.raises(ValueError, match=r"labels .*dataset"):
            DataCollatorWithLanguage(bert_tokenizer, languages=AXIS, collator=inner)(batch)


def test_a_collator_may_leave_rows_out_of_the_loss(bert_tokenizer, rows):
    def inner(features):
        batch = bare(features)
        return {**batch, "labels": torch.where(batch["attention_mask"].sum(dim=1) < 5, -100, batch["labels"])}

    batch = DataCollatorWithLanguage(bert_tokenizer, languages=AXIS, collator=inner)(list(rows))
    kept = batch["labels"] >= 0
    assert 0 < kept.sum() < len(rows)
    assert batch["labels"][kept].tolist() == torch.tensor(rows["label"][:])[kept].tolist()
    languages = torch.tensor([AXIS.index(language) for language in rows["language"]])
    assert batch["language_ids"][kept].tolist() == languages[kept].tolist()


def test_training_weights_each_row_by_its_own_language(build, bert_tokenizer, tiny_bert, training_arguments, rows):
    pads, reverse = DataCollatorWithPadding(bert_tokenizer), lambda features: bare(features, PICKS["reversed"])
    trained = []
    for collator in (pads, reverse):
        settings = {"class_weighting": "per_language", "max_steps": 3, "per_device_train_batch_size": 7}
        arguments = training_arguments(**settings, optim="sgd")
        trainer = LangImbTrainer(tiny_bert(), arguments, collator, train_dataset=rows, processing_class=bert_tokenizer)
        assert trainer.weights.numpy() == pytest.approx(np.array([WEIGHTS[language] for language in AXIS]))
        trainer.train()
        trained.append(trainer.model)
    assert_same_weights(trained[1], dict(trained[0].named_parameters()))
