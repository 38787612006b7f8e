"""Any classifier is measured as it reads each row alone: families, padding, types of tokens, limits, one logit."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from any_checkpoint import FAMILIES, make_classifier, make_rows, make_tokenizer, row_by_row
from scipy.special import expit, softmax
from transformers import AutoConfig, AutoModelForSequenceClassification, ByT5Tokenizer, T5EncoderModel

from hf_langimb import attribute, extract_features
from hf_langimb.cli import main
from hf_langimb.hub.push import logits_of
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.measures.forward import forward_rows
from hf_langimb.measures.probe import probe_model
from hf_langimb.models.inputs import most_tokens
from hf_langimb.models.loading import load_tokenizer
from hf_langimb.runs import evaluate


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def saved(tmp_path):
    """Function (model, tokenizer, rows): a folder with the model, and a dataset file."""

    def save(model, tokenizer, rows, name="model"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        rows.to_parquet(tmp_path / "rows.parquet")
        return str(tmp_path / name), str(tmp_path / "rows.parquet")

    return save


def measured(folder):
    """`results.json` of an evaluation, and the logits of its rows in their order."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "model/seed-0/predictions.parquet").to_pylist()
    logits = [row["logits"] for row in sorted(rows, key=lambda row: int(row["id"]))]
    return json.loads((folder / "results.json").read_text()), np.array(logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_rows_in_batches_get_what_each_gets_alone(family, pair, tmp_path):
    kind, _, most = FAMILIES[family]
    model, tokenizer, rows = make_classifier(family), make_tokenizer(kind), make_rows(pair=pair)
    drop = ("attention_mask",) if family == "fnet" else ("token_type_ids",) if family == "distilbert" else ()
    expected = row_by_row(model, tokenizer, rows, most, drop)
    assert np.ptp(expected, axis=0).max() > 1e-3, "rows differ"
    before = dict(vars(model.config))
    logits, features = forward_rows(model, tokenizer, rows, pooling="last", batch_size=8)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert features.shape == (1, 20, 16) and vars(model.config) == before
    if family != "longformer":  # whose classifier attends to the first token globally
        encoded = extract_features(model, tokenizer, rows, pooling="last", batch_size=7)
        np.testing.assert_allclose(encoded, features, atol=1e-5)
    store = attribute(
        model, tokenizer, rows.select(range(4)).remove_columns("label"), out=tmp_path / "out", method="owen", budget=8
    )
    np.testing.assert_allclose(stack(store.examples["p"]), softmax(expected[:4], axis=1), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [None, 32, 1000])
def test_long_texts_are_cut_at_what_the_model_reads(family, limit, tmp_path):
    kind, _, most = FAMILIES[family]
    model, rows = make_classifier(family), make_rows(6, longest=100)
    tokenizer = make_tokenizer(kind) if limit is None else make_tokenizer(kind, model_max_length=limit)
    assert most_tokens(model) == most
    logits, _ = forward_rows(model, tokenizer, rows)
    drop = ("attention_mask",) if family == "fnet" else ("token_type_ids",) if family == "distilbert" else ()
    np.testing.assert_allclose(logits, row_by_row(model, tokenizer, rows, most or limit, drop), atol=1e-5)
    store = attribute(
        model, tokenizer, rows.select([0]).remove_columns("label"), out=tmp_path / "out", method="owen", budget=4
    )
    np.testing.assert_allclose(stack(store.examples["p"])[0], softmax(logits[0]), atol=1e-5)


def test_any_padding_gives_the_same(monkeypatch):
    """The tokenizer's padding is another than the model's, is also a token of the texts, or is on the left."""
    rows = make_rows()
    for family in ("gpt2", "mistral", "mbart"):
        kind = FAMILIES[family][0]
        plain = make_tokenizer(kind)
        for pad_id in (None, 0, plain.convert_tokens_to_ids("w3"), 2):
            model = make_classifier(family)
            model.config.pad_token_id = 1 if pad_id is None and family == "mbart" else pad_id
            expected = row_by_row(model, plain, rows)
            for pad in ("w5", "w3"):
                tokenizer = make_tokenizer(kind, pad_token=pad, padding_side="left")
                logits, _ = forward_rows(model, tokenizer, rows, batch_size=8)
                np.testing.assert_allclose(logits, expected, atol=1e-5, err_msg=f"{family} {pad_id} {pad}")


def test_token_types_that_the_model_lacks_are_left_out(tmp_path, saved):
    tokenizer, rows = make_tokenizer("bert"), make_rows(pair=True)
    for family, types in (("bert", 1), ("roberta", 1), ("fnet", 1), ("convbert", 1), ("xlm-roberta", 1)):
        model = make_classifier(family, type_vocab_size=types, pad_token_id=0)
        drop = ["token_type_ids", *(["attention_mask"] if family == "fnet" else [])]
        expected = row_by_row(model, tokenizer, rows, drop=drop)
        np.testing.assert_allclose(forward_rows(model, tokenizer, rows)[0], expected, atol=1e-5)
        store = attribute(model, tokenizer, rows.select([0, 1]), out=tmp_path / family, method="owen", budget=4)
        np.testing.assert_allclose(stack(store.examples["p"]), softmax(expected[:2], axis=1), atol=1e-5)
        start, _ = saved(model, tokenizer, rows, f"start-{family}")
        assert "token_type_ids" not in load_tokenizer(start)[0]("w1", "w2")
    start, _ = saved(make_classifier("gpt2"), make_tokenizer("decoder"), rows, "gpt2")
    assert load_tokenizer(start)[0].pad_token == "</s>"
    start, _ = saved(make_classifier("bert"), tokenizer, rows)
    assert load_tokenizer(start)[0]("w1", "w2")["token_type_ids"][-1] == 1


def test_outputs_of_every_kind():
    """Tuples, fewer hidden states than tokens, and, for a push, rows of an encoder-decoder that end as it needs."""
    rows, bert = make_rows(), make_tokenizer("bert")
    model = make_classifier("bert", return_dict=False)
    np.testing.assert_allclose(forward_rows(model, bert, rows)[0], row_by_row(model, bert, rows), atol=1e-5)
    shape = {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "block_sizes": [1, 1], "vocab_size": 40}
    funnel = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("funnel", **shape)).eval()
    np.testing.assert_allclose(forward_rows(funnel, bert, rows)[0], row_by_row(funnel, bert, rows), atol=1e-5)
    with pytest.raises(ValueError, match="no hidden state for each token: choose pooling cls"):
        extract_features(funnel, bert, rows, pooling="mean")
    for family in FAMILIES:
        assert logits_of(make_classifier(family, pad_token_id=0)).shape == (4, 2)


def test_encoder_decoders_are_probed_by_their_encoder(saved):
    for family in ("bart", "mbart", "t5", "umt5"):
        model, tokenizer = make_classifier(family), make_tokenizer(FAMILIES[family][0])
        name, _ = saved(model, tokenizer, make_rows(), family)
        for pooling in ("cls", "mean"):
            found = probe_model(name, make_rows(), text_columns=["text"], pooling=pooling, layers=None)
            assert [layer["rows"] for layer in found["layers"]] == [20, 20]
        with pytest.raises(ValueError, match="no pooler: choose pooling cls, mean or last"):
            probe_model(name, make_rows(), text_columns=["text"], pooling="pooler")
    # An encoder without its decoder, as in retrieval.
    name, _ = saved(T5EncoderModel(make_classifier("t5").config), make_tokenizer("t5"), make_rows(), "encoder")
    assert probe_model(name, make_rows(), text_columns=["text"])["layers"][0]["rows"] == 20


def test_commands_on_models_without_padding_token(saved, tmp_path, capsys):
    for family in ("gpt2", "mistral", "t5", "bart"):
        rows = make_rows(40)
        model, tokenizer = make_classifier(family), make_tokenizer(FAMILIES[family][0])
        model.config.id2label = {0: "no", 1: "yes"}  # without names, a saved BART of two classes has three
        name, data = saved(model, tokenizer, rows, family)
        evaluate.main([name, data, "--output-dir", str(tmp_path / f"run-{family}"), "--explain-rows", "4"])
        _, logits = measured(tmp_path / f"run-{family}")
        np.testing.assert_allclose(logits, row_by_row(model, tokenizer, rows), atol=1e-4)
        assert main(["probe", name, data]) == 0
        assert main(["explain", name, data, "--output-dir", str(tmp_path / f"out-{family}"), "--orders", "4"]) == 0
    capsys.readouterr()


def test_one_logit_decides_between_two_classes(saved, tmp_path, capsys):
    for family, kind, name in (("bert", None, "LABEL_0"), ("bart", "multi_label_classification", "toxic")):
        rows, tokenizer = make_rows(40), make_tokenizer(FAMILIES[family][0])
        model = make_classifier(family, num_labels=1, problem_type=kind)
        model.config.id2label = {0: name}
        folder, data = saved(model, tokenizer, rows, family)
        evaluate.main([folder, data, "--output-dir", str(tmp_path / f"run-{family}"), "--explain-rows", "4"])
        results, logits = measured(tmp_path / f"run-{family}")
        expected = expit(row_by_row(model, tokenizer, rows)[:, 0].astype(np.float64))
        np.testing.assert_allclose(softmax(logits, axis=1), np.stack([1 - expected, expected], axis=1), atol=1e-5)
        names = ["LABEL_0", "LABEL_1"] if name == "LABEL_0" else ["not toxic", "toxic"]
        assert results["labels"] == names
        right = ((expected > 0.5) == np.array(rows["label"])).mean()
        assert results["setups"]["model"]["seeds"]["0"]["test"]["accuracy"] == pytest.approx(right)
        store = AttributionStore(tmp_path / f"run-{family}/attributions/model-seed-0")
        assert store.labels == names
        sums = stack(store.tokens["S"]).astype(np.float64)
        np.testing.assert_allclose(sums[:, 0], -sums[:, 1], atol=1e-6)
        out = str(tmp_path / f"named-{family}")
        evaluate.main([folder, data, "--output-dir", out, "--explain-rows", "0", "--labels", "no", "yes"])
        assert measured(tmp_path / f"named-{family}")[0]["labels"] == ["no", "yes"]
    capsys.readouterr()


def test_names_that_are_numerals_are_read_alike_from_every_file(saved, tmp_path, capsys):
    """Labels 1 and 2 of a model of three stars: class ids 1 and 2 would be the stars 2 and 3."""
    rows, found = make_rows(40), []
    rows = rows.map(lambda row: {"label": row["label"] + 1})
    model = make_classifier("bert", num_labels=3)
    model.config.id2label = {0: "1", 1: "2", 2: "3"}
    folder, data = saved(model, make_tokenizer(FAMILIES["bert"][0]), rows)
    rows.to_csv(tmp_path / "rows.csv")
    rows.map(lambda row: {"label": str(row["label"])}, features=None).to_json(tmp_path / "rows.jsonl")
    for number, file in enumerate([data, str(tmp_path / "rows.csv"), str(tmp_path / "rows.jsonl")]):
        evaluate.main([folder, file, "--output-dir", str(tmp_path / f"run-{number}"), "--explain-rows", "0"])
        results, logits = measured(tmp_path / f"run-{number}")
        found.append(results["setups"]["model"]["seeds"]["0"]["test"]["accuracy"])
    right = (logits.argmax(axis=1) + 1 == np.array(rows["label"])).mean()
    assert found == pytest.approx([right] * 3)
    capsys.readouterr()


def test_what_cannot_be_is_said_before_any_file(saved, tmp_path, capsys):
    rows = make_rows(20)
    byte = ByT5Tokenizer()
    slow = make_classifier("t5")
    slow.resize_token_embeddings(len(byte))
    bad = make_classifier("bert")
    with torch.no_grad():
        bad.classifier.weight.fill_(float("nan"))
        bad.bert.encoder.layer[0].output.dense.weight.fill_(float("nan"))
    regression = make_classifier("bert", num_labels=1, problem_type="regression")
    several = make_classifier("bert", problem_type="multi_label_classification")
    out, bert = tmp_path / "out", make_tokenizer("bert")
    cases = [
        ("evaluate", regression, bert, [], "problem_type 'regression', but each text has one label"),
        ("evaluate", several, bert, [], "problem_type 'multi_label_classification', but each text has one label"),
        ("evaluate", slow, byte, [], r"has a slow tokenizer \(ByT5Tokenizer\), .*: add --explain-rows 0"),
        ("evaluate", make_classifier("bert", 1), bert, ["--labels", "a"], "2 classes: .* for each, got 1"),
        ("explain", slow, byte, [], "need a fast tokenizer, which knows where .* got ByT5Tokenizer"),
        ("explain", regression, bert, [], r"got a regression \(problem_type\)"),
        ("explain", bad, bert, [], "The model .*/m6 returns probabilities that are not finite"),
        ("probe", bad, bert, [], "The model .*/m7' returns hidden states that are not finite"),
    ]
    for number, (command, model, tokenizer, flags, message) in enumerate(cases):
        name, data = saved(model, tokenizer, rows, f"m{number}")
        where = [] if command == "probe" else ["--output-dir", str(out)]
        try:
            code = evaluate.main([name, data, *where, *flags]) if command == "evaluate" else 0
            code = code or main([command, name, data, *where, *flags])
        except SystemExit as stopped:
            code = stopped.code
        error = capsys.readouterr().err
        assert code == 1 and error.count("\n") == 1, error
        assert re.search(message, error), error
        assert model is bad or not out.exists(), error
        shutil.rmtree(out, ignore_errors=True)
    # What needs no offsets works.
    name, data = saved(slow, byte, rows)
    assert main(["probe", name, data]) == 0
    evaluate.main([name, data, "--output-dir", str(out), "--explain-rows", "0"])
