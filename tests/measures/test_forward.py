"""Logits and features of one forward pass, against the Trainer's predictions and plain forward passes."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from hf_langimb import LangImbTrainer, extract_features
from hf_langimb.measures.forward import forward_rows
from hf_langimb.models.adapters import add_lora

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def adapted(model):
    """The model with adapters that do something."""
    model = add_lora(model, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


@pytest.fixture(params=["bert", "xlm-roberta", "qwen2", "adapters"])
def classifier(request, bert_tokenizer, roberta_tokenizer, decoder_tokenizer, tiny_bert):
    """A model and its tokenizer; the decoder has no mask token."""
    if request.param in ("bert", "adapters"):
        model = tiny_bert(num_hidden_layers=2)
        return (adapted(model) if request.param == "adapters" else model), bert_tokenizer
    decoder = request.param == "qwen2"
    tokenizer = decoder_tokenizer if decoder else roberta_tokenizer
    shape = SMALL | ({"num_key_value_heads": 1} if decoder else {"type_vocab_size": 1}) | {"initializer_range": 0.3}
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **shape, vocab_size=len(tokenizer), pad_token_id=1, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config), tokenizer


def test_logits_are_the_trainer_s_and_features_those_of_the_encoder(classifier, tiny_dataset, training_arguments):
    model, tokenizer = classifier
    dataset = tiny_dataset(tokenizer)
    pooling = "cls" if tokenizer.mask_token else "last"
    logits, features = forward_rows(model.train(), tokenizer, dataset, pooling=pooling, batch_size=5)
    assert model.training and logits.dtype == features.dtype == np.float32
    arguments = training_arguments(per_device_eval_batch_size=4)
    predicted = LangImbTrainer(model, arguments, eval_dataset=dataset, processing_class=tokenizer).predict(dataset)
    np.testing.assert_allclose(logits, predicted.predictions, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(logits.argmax(axis=1), predicted.predictions.argmax(axis=1))
    assert np.ptp(logits, axis=0).min() > 0.1  # rows in another order would be seen
    encoded = extract_features(model, tokenizer, dataset, pooling=pooling)
    assert features.shape == (1, len(dataset), 16)
    np.testing.assert_allclose(features, encoded, rtol=1e-4, atol=1e-5)


def by_hand(model, dataset, pooling, layers=(-1,)):
    """Features of each row alone, without padding."""
    model.eval()
    encoder = model.base_model
    rows = []
    for row in dataset:
        names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in row]
        with torch.no_grad():
            outputs = encoder(**{name: torch.tensor([row[name]]) for name in names}, output_hidden_states=True)
        if pooling == "pooler":
            rows.append(outputs.pooler_output)
            continue
        hidden = torch.stack([outputs.hidden_states[layer][0] for layer in layers])  # [layers, T, H]
        rows.append({"cls": hidden[:, 0], "last": hidden[:, -1], "mean": hidden.mean(dim=1)}[pooling])
    return torch.stack(rows, dim=1).numpy()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "pooler"])
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_features_are_those_of_single_rows(bert_tokenizer, tiny_bert, tiny_dataset, monkeypatch, pooling, side, pair):
    model, dataset = tiny_bert(), tiny_dataset(bert_tokenizer, pair=pair)
    monkeypatch.setattr(bert_tokenizer, "padding_side", side)
    features = extract_features(model, bert_tokenizer, dataset, pooling=pooling, batch_size=4)
    assert features.dtype == np.float32 and features.shape == (1, len(dataset), 16)
    np.testing.assert_allclose(features, by_hand(model, dataset, pooling), atol=1e-5)


def test_all_layers_and_a_bare_encoder(bert_tokenizer, tiny_bert, tiny_dataset):
    model, dataset = tiny_bert(num_hidden_layers=2), tiny_dataset(bert_tokenizer)
    features = extract_features(model, bert_tokenizer, dataset, layers=(0, 1, 2, -1), pooling="mean", batch_size=5)
    np.testing.assert_allclose(features, by_hand(model, dataset, "mean", (0, 1, 2, -1)), atol=1e-5)
    np.testing.assert_array_equal(features[2], features[3])  # of one pass
    assert not np.allclose(features[0], features[2])
    bare, whole = (extract_features(one, bert_tokenizer, dataset) for one in (model.bert, model))
    np.testing.assert_allclose(bare, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_decoder_without_first_token(decoder_tokenizer, tiny_dataset, monkeypatch, side):
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=27, pad_token_id=1, num_labels=3, **shape))
    dataset = tiny_dataset(decoder_tokenizer)
    monkeypatch.setattr(decoder_tokenizer, "padding_side", side)  # learned positions must not move
    features = extract_features(model, decoder_tokenizer, dataset, pooling="last", batch_size=4)
    np.testing.assert_allclose(features, by_hand(model, dataset, "last"), atol=1e-5)
    with pytest.raises(ValueError, match="no pooler: choose pooling cls, mean or last"):
        extract_features(model, decoder_tokenizer, dataset, pooling="pooler")


@pytest.mark.parametrize("pooling", ["cls", "pooler"])
def test_adapters_are_used(bert_tokenizer, tiny_bert, tiny_dataset, pooling):
    def features(model):
        return extract_features(model, bert_tokenizer, tiny_dataset(bert_tokenizer), pooling=pooling)

    plain, model = features(tiny_bert()), adapted(tiny_bert())
    np.testing.assert_allclose(features(add_lora(tiny_bert(), 2)), plain, rtol=1e-4, atol=1e-5)  # LoRA starts at 0
    moved = features(model)
    assert np.abs(moved - plain).max() > 0.1
    np.testing.assert_allclose(moved, features(model.merge_and_unload()), atol=1e-4)


def test_raw_texts_are_tokenized(bert_tokenizer, tiny_bert):
    columns, pair = (["w1", "w2 w3 w4", "w5 w6"], ["w7 w8", "w9", "w1 w1 w1"]), ("premise", "hypothesis")
    for names, text_columns in ((("text",), ()), (pair, ()), (("first",), ("first",)), (("x", "y"), ("y", "x"))):
        texts = dict(zip(names, columns, strict=False))
        tokenized = bert_tokenizer(*(texts[name] for name in text_columns or names))
        found = extract_features(tiny_bert(), bert_tokenizer, Dataset.from_dict(texts), text_columns=text_columns)
        expected = extract_features(tiny_bert(), bert_tokenizer, Dataset.from_dict(dict(tokenized)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=str(names))


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored_and_half_precision_gives_float32(bert_tokenizer, tiny_bert, tiny_dataset, training):
    model, dataset = tiny_bert(hidden_dropout_prob=0.5).train(training), tiny_dataset(bert_tokenizer)
    first = extract_features(model, bert_tokenizer, dataset)
    assert model.training is training
    np.testing.assert_allclose(
        first, extract_features(model, bert_tokenizer, dataset), rtol=1e-4, atol=1e-5
    )  # no dropout
    with pytest.raises(ValueError, match="layers 0 to 1"):
        extract_features(model, bert_tokenizer, dataset, layers=(7,))
    assert model.training is training
    assert not any(parameter.grad is not None for parameter in model.parameters())
    half = extract_features(model.to(torch.bfloat16), bert_tokenizer, dataset)
    assert half.dtype == np.float32 and np.isfinite(half).all()


def test_features_of_bad_input(bert_tokenizer, tiny_bert):
    for columns, settings, message in (
        ({"text": ["w1"]}, {"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"text": ["w1"]}, {"pooling": "max"}, "Unknown pooling 'max': choose one of cls, pooler, mean, last"),
        ({"text": []}, {}, "The dataset has no rows"),
        ({"input_ids": []}, {}, "The dataset has no rows"),
        ({"body": ["w1"]}, {}, r"Found no text column among \['body'\]"),
        ({"text": ["w1"]}, {"text_columns": ["body"]}, "Expected a text column 'body', found columns"),
        ({"text": ["w1"]}, {"layers": (0, 2)}, r"layers 0 to 1 \(-1 is the last\), got 2"),
        ({"text": ["w1"]}, {"layers": None, "pooling": "pooler"}, "The pooler has no layers"),
        ({"text": ["w1"]}, {"text_columns": ["text", "text"]}, "one text column or two different ones"),
        ({"input_ids": [[1], []]}, {}, "Row 1 has no tokens: its text is empty"),
        ({"input_ids": [[]], "token_type_ids": [[]]}, {}, "Row 0 has no tokens: its text is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            extract_features(tiny_bert(), bert_tokenizer, Dataset.from_dict(columns), **settings)
