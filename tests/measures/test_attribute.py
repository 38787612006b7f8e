"""Attributions of data sets: settings, rows and models that work and that are refused; the command."""

import numpy as np
import pytest
import torch
from attribution_models import SENTENCES, make_model, make_tokenizer, rows
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_langimb import attribute
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.models.adapters import add_lora


@pytest.fixture(scope="module")
def bert():
    tokenizer = make_tokenizer("bert")
    return make_model("bert", tokenizer), tokenizer


def test_texts_that_are_hardly_any(bert, tmp_path):
    model, tokenizer = bert
    data = Dataset.from_dict({"text": ["", "It", "[SEP] [CLS]", "It rains. " * 80]})
    store = attribute(model, tokenizer, data, out=tmp_path / "store", budget=40)
    assert store.manifest["truncated_texts"] == 1
    assert store.examples["text_truncated"].to_pylist() == [False, False, False, True]
    values = stack(store.tokens["S"])
    assert np.isfinite(values).all()
    assert (values[store.tokens["example"].to_numpy() == 0] == 0).all()
    assert store.examples["language"].to_pylist() == [None] * 4


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (rows(2), {"method": "lime"}, "Unknown method 'lime': choose one of owen, shapley"),
        (rows(2), {"masking": "gap"}, "Unknown masking 'gap'"),
        (rows(2), {"budget_unit": "hours"}, "Unknown budget_unit 'hours'"),
        (rows(2), {"dtype": "int8"}, "Unknown dtype 'int8'"),
        (rows(2), {"budget": 1}, "budget must be 4 evaluations or more, or None, got 1"),
        (rows(2), {"shard_size": 0}, "shard_size must be 1 or more, got 0"),
        (rows(2, pair=True), {"masking": "string"}, "would make one text of a pair"),
        (rows(2).select([]), {}, "Expected a datasets.Dataset with rows to explain, got an empty one"),
        (
            rows(2, label=[0, 7]),
            {},
            r"Labels run from 0 to 7, the model numbers its classes 0 to 2 \(LABEL_0, LABEL_1",
        ),
        (
            rows(2, label=["x", "LABEL_0"]),
            {},
            "Labels x are not among those of the model, .* or say what the model's classes are",
        ),
        (rows(2).rename_column("text", "body"), {}, "Found no text column"),
    ],
)
def test_bad_input(bert, tmp_path, data, settings, message):
    with pytest.raises(ValueError, match=message):
        attribute(*bert, data, out=tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


def test_labels_by_name(bert, tmp_path):
    names = ClassLabel(names=["LABEL_2", "LABEL_0", "LABEL_1"])
    data = rows(3).cast_column("label", names)
    store = attribute(*bert, data, out=tmp_path / "store", budget=8)
    assert store.examples["label"].to_pylist() == ["LABEL_2", "LABEL_0", "LABEL_1"]


def test_probabilities_that_are_not_finite(bert, tmp_path):
    _, tokenizer = bert
    broken = make_model("bert", tokenizer)
    with torch.no_grad():
        broken.classifier.bias[0] = float("nan")
    with pytest.raises(ValueError, match="probabilities that are not finite"):
        attribute(broken, tokenizer, rows(2), out=tmp_path / "store", budget=8, dtype="float64")


def test_the_model_is_left_as_it_was(bert, tmp_path):
    model, tokenizer = bert
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8, dtype="bfloat16")
    assert model.training and next(model.parameters()).dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


def test_adapters_are_used(bert, tmp_path):
    _, tokenizer = bert
    adapted = add_lora(make_model("bert", tokenizer, torch.float32), 2).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    plain = attribute(
        make_model("bert", tokenizer, torch.float32), tokenizer, rows(2), out=tmp_path / "plain", budget=8
    )
    store = attribute(adapted, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    assert np.abs(stack(store.examples["p"]) - stack(plain.examples["p"])).max() > 0.01
    assert store.manifest["model"] != plain.manifest["model"]


def test_a_decoder_without_mask_token(decoder_tokenizer, tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "qwen2", **size, num_key_value_heads=1, pad_token_id=1, vocab_size=len(decoder_tokenizer), num_labels=3
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    data = Dataset.from_dict({"text": ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]})
    store = attribute(model, decoder_tokenizer, data, out=tmp_path / "store", budget=40)
    assert store.manifest["mask_token_is_substitute"] and store.manifest["mask_token"] == "<unk>"
    with pytest.raises(ValueError, match="Row 1 has no tokens: its text is empty"):
        attribute(model, decoder_tokenizer, Dataset.from_dict({"text": ["w1", ""]}), out=tmp_path / "empty")


def test_long_texts_are_masked_as_far_as_they_are_read(bert, tmp_path):
    model, tokenizer = bert
    settings = {"max_length": 10, "budget": 60, "dtype": "float64"}
    data = Dataset.from_dict({"text": SENTENCES[1:4]})
    found = [
        attribute(model, tokenizer, data, out=tmp_path / masking, masking=masking, **settings)
        for masking in ("ids", "string")
    ]
    assert found[0].manifest["truncated_texts"] == 3
    np.testing.assert_allclose(stack(found[0].examples["p"]), stack(found[1].examples["p"]), atol=1e-6)
    tokenizer.model_max_length, limit = 4096, tokenizer.model_max_length
    try:  # longer than the model
        long = Dataset.from_dict({"text": [" ".join(SENTENCES * 9)]})
        store = attribute(model, tokenizer, long, out=tmp_path / "long", budget=8)
        assert store.manifest["truncated_texts"] == 1
    finally:
        tokenizer.model_max_length = limit


def test_languages_and_missing_labels(bert, tmp_path):
    model, tokenizer = bert
    names = ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"])
    data = rows(4).remove_columns(["language", "label"])
    data = data.add_column("language", [0, 1, 0, 1]).cast_column("language", ClassLabel(names=["en", "fr"]))
    data = data.add_column("label", [0, 1, 2, -1]).cast_column("label", names)
    store = attribute(model, tokenizer, data, out=tmp_path / "store", budget=8)
    assert store.examples["language"].to_pylist() == ["en", "fr", "en", "fr"]
    assert store.examples["label"].to_pylist() == ["LABEL_0", "LABEL_1", "LABEL_2", None]


def test_models_that_take_no_batch(tmp_path):
    tokenizer = make_tokenizer("xlm-roberta")
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 136, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model("gpt2", **size, num_labels=3)  # without a padding token
    model = AutoModelForSequenceClassification.from_config(config).eval()
    data = Dataset.from_dict({"text": SENTENCES[:3]})
    assert len(attribute(model, tokenizer, data, out=tmp_path / "store", budget=20)) == 3


def test_each_module_keeps_its_mode(bert, tmp_path):
    model, tokenizer = bert
    model.train()
    model.bert.eval()
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8, dtype="float64")
    assert model.training and not model.bert.training
    model.eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 1}, "max_length must be 3 tokens or more, up to 136, or None, got 1"),
        ({"max_length": 500}, "up to 136, or None, got 500"),
        ({"batch_tokens": 0}, "batch_tokens must be 1 or more, or None, got 0"),
        ({"seed": None}, "seed must be 0 or more, got None"),
        ({"budget": float("nan")}, "budget must be 4 evaluations or more, or None, got nan"),
        ({"method": "shapley", "budget_unit": "forwards"}, "is for method='owen' only"),
    ],
)
def test_settings_that_cannot_be(bert, tmp_path, settings, message):
    model, tokenizer = bert
    with pytest.raises(ValueError, match=message):
        attribute(model, tokenizer, rows(2), out=tmp_path / "store", **settings)


def test_data_and_models_that_cannot_be(bert, tmp_path):
    model, tokenizer = bert
    texts = Dataset.from_dict({"text": ["It rains.", None]})
    for data, message in (
        ([{"text": "a"}], r"Expected a datasets.Dataset .*, got list"),
        (DatasetDict({"test": rows(2)}), "got DatasetDict: name one split"),
        (texts, "has 1 null entries"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute(model, tokenizer, data, out=tmp_path / "store")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        attribute(model, tokenizer, rows(2), out=tmp_path / "file")
    other = make_model("bert", tokenizer)
    other.config.id2label = {0: "a", 1: "a", 2: "b"}
    with pytest.raises(ValueError, match="a distinct name for each class, got id2label"):
        attribute(other, tokenizer, rows(2).remove_columns("label"), out=tmp_path / "store")
    other.config.problem_type = "regression"
    with pytest.raises(ValueError, match=r"got a regression \(problem_type\)"):
        attribute(other, tokenizer, rows(2), out=tmp_path / "store")


def test_the_command(tmp_path, capsys):
    from hf_langimb.cli import main

    tokenizer = make_tokenizer("bert")
    make_model("bert", tokenizer, torch.float32).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows(12).rename_columns({"language": "lang", "label": "stars"}).to_parquet(tmp_path / "rows.parquet")
    command = [
        "explain",
        str(tmp_path / "model"),
        str(tmp_path / "rows.parquet"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    command += ["--language-column", "lang", "--label-column", "stars", "--budget", "60"]
    assert main([*command, "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "8 examples" in shown and "of the examples needed more than the budget" in shown
    store = AttributionStore(tmp_path / "out")
    assert sorted(store.examples["language"].to_pylist()) == ["en", "en", "fr", "fr", "ja", "ja", "zh", "zh"]
    assert store.examples["label"][0].as_py() == "LABEL_0"
    for wrong, message in (
        (["--rows", "3"], "contains other attributions"),
        (["--label-column", "mark"], "Expected a label column 'mark'"),
        (
            ["--masking", "string", "--output-dir", str(tmp_path / "no"), "--text-column", "text", "id"],
            "one of a pair|would make one",
        ),
    ):
        assert main([*command, "--rows", "2", *wrong]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and any(part in error for part in message.split("|")), error
    assert main([*command, "--budget", "many"]) == 2
    bare = tmp_path / "bare"
    make_model("bert", tokenizer).bert.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    assert main(["explain", str(bare), *command[2:]]) == 1
    assert (
        "is not a trained classifier: it lacks the weights classifier.bias, classifier.weight"
        in capsys.readouterr().err
    )
