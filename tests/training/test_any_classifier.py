"""Any classifier is trained and evaluated as it reads each row alone, or refused before training with what to set."""

import numpy as np
import pytest
import torch
from any_checkpoint import FAMILIES, make_classifier, make_rows, make_tokenizer, row_by_row
from conftest import gradients_of
from datasets import concatenate_datasets
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithPadding

from hf_langimb import DataCollatorWithLanguage, LangImbTrainer


@pytest.fixture
def build(training_arguments):
    """Function (model, tokenizer, rows, collator=None, **arguments): a trainer on tokenized rows, four in a batch."""

    def make(model, tokenizer, rows, collator=None, **changes):
        sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4} | changes
        names = [name for name in rows.column_names if name in ("text", "premise", "hypothesis")]
        rows = rows.map(lambda row: tokenizer(*(row[name] for name in names)), remove_columns=["id", *names])
        return LangImbTrainer(model, training_arguments(**sizes), collator, rows, rows, tokenizer)

    return make


@pytest.mark.parametrize("family", ["bart", "mbart", "t5", "umt5", "gpt2", "mistral", "qwen2", "bloom", "gemma"])
def test_batches_train_as_rows_alone(family, build):
    kind, rows = FAMILIES[family][0], make_rows(8)
    padding = {"pad_token": "</s>"} if kind == "decoder" else {}
    model, tokenizer = make_classifier(family), make_tokenizer(kind, **padding)
    expected, labels = row_by_row(model, tokenizer, rows), torch.tensor(rows["label"])
    trainer = build(model, tokenizer, rows, gradient_accumulation_steps=2)
    found = trainer.predict(trainer.eval_dataset)
    logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions  # as in `Trainer`
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    loss = cross_entropy(torch.tensor(expected), labels).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(found.metrics["test_loss"]) == pytest.approx(loss, abs=1e-5)
    found, by_hand = gradients_of(trainer), make_classifier(family)
    for row in rows:
        inputs = tokenizer(row["text"], return_tensors="pt")
        (cross_entropy(by_hand(**inputs).logits, torch.tensor([row["label"]])) / 8).backward()
    for name, parameter in by_hand.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name].float(), parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_what_batches_need_is_said_when_the_trainer_is_made(build, training_arguments):
    rows, decoder, pairs = make_rows(8), make_tokenizer("decoder"), make_rows(8, pair=True)
    long, cut = make_rows(8, longest=100), "data have rows of up to .* the model reads {0}: .* max_length={0}"
    one_type = make_classifier("bert", type_vocab_size=1)
    no_padding = r"has no padding token, but batches are padded: set tokenizer.pad_token = tokenizer.eos_token"
    for model, tokenizer, data, message in (
        (make_classifier("gpt2"), decoder, rows, no_padding),
        (make_classifier("mistral"), decoder, rows, no_padding),
        (make_classifier("gemma"), decoder, rows, no_padding),
        (
            one_type,
            make_tokenizer("bert"),
            pairs,
            r"token_type_ids up to 1, but the model knows 1 \(type_vocab_size\): use",
        ),
        (make_classifier("xlm-roberta", type_vocab_size=1), make_tokenizer("bert"), pairs, "token_type_ids up to 1"),
        (make_classifier("bert", 1), make_tokenizer("bert"), rows, "one output, .* load it with num_labels=2 or more"),
        (make_classifier("xlm-roberta"), make_tokenizer("roberta"), long, cut.format(30)),
        (make_classifier("mpnet"), make_tokenizer("roberta"), long, cut.format(30)),
        (make_classifier("bart"), make_tokenizer("roberta"), long, cut.format(32)),
        (make_classifier("gpt2"), make_tokenizer("decoder", pad_token="</s>"), long, cut.format(32)),
        (make_classifier("gpt2", 1), decoder, rows, "one output, .* load it with num_labels=2 or more"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            build(model, tokenizer, data)
        assert "\n" not in str(refused.value)
    same = rows.map(lambda row: decoder("w1 w2"), remove_columns=["id", "text"])
    with pytest.raises(ValueError, match=r"GPT2ForSequenceClassification finds .* set model.config.pad_token_id"):
        LangImbTrainer(make_classifier("gpt2"), training_arguments(), train_dataset=same)


def test_what_needs_nothing_of_that_trains(build, training_arguments):
    rows, decoder = make_rows(8), make_tokenizer("decoder")
    for family in ("distilbert", "deberta-v2", "t5"):  # which ignore token types, or do not take them
        tokenizer = make_tokenizer(
            "t5" if family == "t5" else "bert", model_input_names=["input_ids", "token_type_ids"]
        )
        build(make_classifier(family), tokenizer, make_rows(8, pair=True)).train()
    padded, expected = make_tokenizer("decoder", pad_token="</s>"), row_by_row(make_classifier("gpt2"), decoder, rows)
    for collator in (DataCollatorWithLanguage(padded, languages=["en", "fr"]), DataCollatorWithPadding(padded)):
        trainer = build(make_classifier("gpt2"), decoder, rows, collator)
        np.testing.assert_allclose(trainer.predict(trainer.eval_dataset).predictions, expected, atol=1e-5)
    long = make_rows(8, longest=100)
    for family, changes in (("t5", {"n_positions": 32}), ("xlnet", {}), ("mistral", {})):  # their positions have no end
        padding = {"pad_token": "</s>"} if family == "mistral" else {}
        build(make_classifier(family, **changes), make_tokenizer(FAMILIES[family][0], **padding), long).train()
    short = build(make_classifier("bart"), make_tokenizer("roberta"), rows)
    mixed = concatenate_datasets([short.train_dataset, *[short.train_dataset.map(lambda row: {"input_ids": [5] * 40})]])
    short.train_dataset = mixed.filter(lambda row: len(row["input_ids"]) < 20)
    short.train()
    one = training_arguments(per_device_train_batch_size=1, per_device_eval_batch_size=1)
    encoded = rows.map(lambda row: decoder(row["text"]), remove_columns=["id", "text"])
    trainer = LangImbTrainer(make_classifier("gpt2"), one, None, encoded, encoded)
    np.testing.assert_allclose(trainer.predict(encoded).predictions, expected, atol=1e-5)
    trainer.train()
