"""`langimb correct` and `langimb refit`: a changed copy of a model, measured on rows that were not fitted."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from conftest import TOKEN, unknown_keys
from datasets import Dataset
from huggingface_hub import ModelCard
from scipy.special import softmax
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_langimb import load_run, push_run
from hf_langimb.cli import main
from hf_langimb.hub.push import own_setups
from hf_langimb.measures.forward import forward_rows, head_inputs
from hf_langimb.measures.refit import STRENGTHS, fit_head
from hf_langimb.measures.targets import information
from hf_langimb.models.loading import load_trained
from hf_langimb.results.schema import Results, read_results
from hf_langimb.runs.held_out import held_out, independent, record_rows
from hf_langimb.runs.refit import HeldOut

TEXTS = ["premise", "hypothesis"]


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="module")
def corrected(finished, texts, tmp_path_factory):
    """The folder of a correction of a model with random weights."""
    folder = tmp_path_factory.mktemp("corrected") / "run"
    model = finished / "imbalanced" / "seed-0"
    assert main(["correct", str(model), str(texts), "--id-column", "item", "--output-dir", str(folder)]) == 0
    return folder


def skewed(rows, seed):
    """Rows of two languages, each with one frequent label; the second word of most texts is of their label."""
    rng = np.random.default_rng(seed)
    languages = rng.integers(2, size=rows)
    labels = np.where(rng.random(rows) < 0.7, 2 * languages, rng.integers(3, size=rows))
    topics = np.where(rng.random(rows) < 0.75, labels, rng.integers(3, size=rows))
    texts = [f"w{of} w{3 + topic} w{rng.integers(10, 24)}" for of, topic in zip(languages, topics, strict=True)]
    names = [["no", "perhaps", "yes"][label] for label in labels]
    return Dataset.from_dict({"text": texts, "language": [f"l{of}" for of in languages], "label": names})


@pytest.fixture(scope="module")
def shortcut(tiny_bert, bert_tokenizer, tmp_path_factory):
    """The folder of a model that learned to use language as a shortcut, and a file of other rows."""
    folder, model, rows = tmp_path_factory.mktemp("shortcut"), tiny_bert(), skewed(600, 0)
    batch = bert_tokenizer(rows["text"][:], return_tensors="pt", padding=True)
    labels = torch.tensor([["no", "perhaps", "yes"].index(name) for name in rows["label"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(**batch).logits, labels).backward()
        optimizer.step()
    model.config.id2label = dict(enumerate(["no", "perhaps", "yes"]))
    model.save_pretrained(folder / "model")
    bert_tokenizer.save_pretrained(folder / "model")
    skewed(1500, 1).to_parquet(folder / "rows.parquet")
    return folder


def test_a_shortcut_is_removed(shortcut, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["correct", str(shortcut / "model"), str(shortcut / "rows.parquet"), "--output-dir", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("The correction lowers the dependence of predictions on language")
    results = read_results(folder)
    names = [(entry["name"], entry["setup"]) for entry in results["verdict"]]
    assert ("cure", "corrected") in names and "caused_by_link" not in {name for name, _ in names}
    before, after = (of["seeds"]["0"]["targets"]["independent"] for of in results["setups"].values())
    assert before["dependence_bits_corrected"] > 0.1
    assert after["dependence_bits_corrected"] < before["dependence_bits_corrected"] / 4
    assert after["accuracy"] > before["accuracy"]


def test_a_refitted_layer_relies_less_on_language(shortcut, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["refit", str(shortcut / "model"), str(shortcut / "rows.parquet"), "--output-dir", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(
        "Refitting the last layer lowers the dependence of predictions on language"
    )
    results = read_results(folder)
    assert not list(unknown_keys(results, Results))
    before, after = (of["seeds"]["0"]["targets"]["independent"] for of in results["setups"].values())
    assert after["dependence_bits_corrected"] < before["dependence_bits_corrected"] / 2
    assert (results["refit"]["draws"], results["refit"]["rows"]) == (10, 1500)
    old, new = (
        AutoModelForSequenceClassification.from_pretrained(folder / name / "seed-0") for name in ("model", "refitted")
    )
    changed = {name for name, value in new.state_dict().items() if not torch.equal(value, old.state_dict()[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    text = (folder / "report.html").read_text()
    assert "The last layer" in text and "random subsets with" in text
    again = ["refit", str(folder / "refitted" / "seed-0"), str(shortcut / "rows.parquet")]
    assert main([*again, "--output-dir", str(tmp_path / "again")]) == 1
    assert "was trained or fitted on 1,500 of 1,500 rows" in capsys.readouterr().err, "which its layer was fitted on"


def test_a_language_that_lacks_a_label_teaches_no_shortcut():
    def features_of(rows, seed):
        rng = np.random.default_rng(seed)
        of, labels = rng.integers(3, size=rows), rng.integers(3, size=rows)
        features = rng.normal(size=(rows, 8))
        features[np.arange(rows), labels] += 1.5
        features[np.arange(rows), 3 + of] += 3
        return features, of, labels

    test, languages, truth = features_of(20_000, 9)
    features, of, labels = features_of(1000, 1)
    kept = np.flatnonzero((of != 0) | (labels != 2))
    rows = HeldOut.of(features[kept], of[kept], labels[kept], kept, ["no", "perhaps", "yes"], True)
    assert {*rows.languages[rows.balanced(np.arange(len(kept)))]} == {1, 2}
    bits = []
    for head in (
        rows.fit(np.arange(len(kept)), None, STRENGTHS),
        fit_head(rows.features, rows.cells, rows.labels, classes=3),
    ):
        bits.append(independent(languages, truth, head.logits(test))["dependence_bits"])
    assert bits[0] < 0.01 < bits[1] / 2, bits
    with pytest.raises(ValueError, match="No held-out row has the label 'maybe'"):
        HeldOut.of(features, of, labels, np.arange(1000), ["no", "perhaps", "yes", "maybe"], True)
    two = np.flatnonzero(rows.labels == rows.languages)
    with pytest.raises(ValueError, match="No language has held-out rows of each label"):
        rows.balanced(two)


def test_language_is_erased_with_controls(shortcut, tmp_path, capsys):
    folder, data = tmp_path / "out", tmp_path / "rows.parquet"
    skewed(400, 3).to_parquet(data)
    words = ["refit", str(shortcut / "model"), str(data), "--output-dir", str(folder)]
    assert main(words) == 0
    assert "So few rows often cost accuracy" not in capsys.readouterr().out
    assert main([*words, "--erase-language"]) == 0, "in the folder without"
    assert "Does language in the features cost accuracy?" in capsys.readouterr().out
    results = read_results(folder)
    assert [*results["setups"]] == ["model", "refitted", "erased"]
    found = results["refit"]["erasure"]
    assert found["rank"] == 1 and len(found["controls"]) == 10
    places = [folder / name / "seed-0" for name in ("refitted", "erased")]
    one, other = (AutoModelForSequenceClassification.from_pretrained(place).classifier.weight for place in places)
    assert not torch.allclose(one, other)
    trained = load_trained(places[1])
    _, features, layer = head_inputs(trained.model, trained.tokenizer, skewed(400, 3))
    rows, languages = skewed(400, 3), np.array([name == "l1" for name in skewed(400, 3)["language"]])
    # the new layer sees no difference between the languages for the same label
    logits = features @ layer.weight.detach().numpy().T
    labels = np.array(rows["label"])
    gaps = [
        logits[languages & (labels == name)].mean(0) - logits[~languages & (labels == name)].mean(0)
        for name in {*labels}
    ]
    assert np.abs(np.mean(gaps, axis=0)).max() < 0.3


@pytest.mark.parametrize("kind", ["bert", "roberta", "decoder", "one output"])
def test_the_new_layer_gives_the_logits_of_its_features(kind, tiny_bert, bert_tokenizer, decoder_tokenizer, tmp_path):
    tokenizer = decoder_tokenizer if kind == "decoder" else bert_tokenizer
    shape = {"vocab_size": len(tokenizer), "num_labels": 1 if kind == "one output" else 3, "pad_token_id": 1}
    if kind == "decoder":
        model = GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **shape))
    elif kind == "roberta":
        shape |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = RobertaForSequenceClassification(RobertaConfig(max_position_embeddings=40, **shape))
    else:
        model = tiny_bert(num_labels=shape["num_labels"])
    rows = skewed(120, 2)
    if kind == "one output":
        rows = rows.map(lambda row: row | {"label": "no" if row["label"] == "no" else "yes"})
        model.config.id2label = {0: "yes"}
    else:
        model.config.id2label = dict(enumerate(["no", "perhaps", "yes"]))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = rows.map(lambda row: {"label": "not yes"} if kind == "one output" and row["label"] == "no" else {})
    rows.to_parquet(tmp_path / "rows.parquet")
    words = [str(tmp_path / name) for name in ("model", "rows.parquet", "out")]
    assert main(["refit", *words[:2], "--output-dir", words[2]]) == 0
    trained = load_trained(tmp_path / "out" / "refitted" / "seed-0")
    logits, features, layer = head_inputs(trained.model, trained.tokenizer, rows)
    expected = features @ layer.weight.detach().numpy().T
    expected += 0 if layer.bias is None else layer.bias.detach().numpy()
    assert logits[:, -expected.shape[1] :] == pytest.approx(expected, abs=2e-3)
    cells = np.unique([f"{row['language']} {row['label']}" for row in rows], return_inverse=True)[1]
    options = {"classes": len(trained.names), "intercept": layer.bias is not None}
    options["strengths"] = [read_results(tmp_path / "out")["refit"]["C"]]
    head = fit_head(features, cells, [trained.names.index(label) for label in rows["label"]], **options)
    fitted = head.logits(features)
    assert logits - logits[:, :1] == pytest.approx(fitted - fitted[:, :1], abs=2e-3)


def test_a_model_that_changes_its_logits_is_not_refitted(tiny_bert, bert_tokenizer, rows):
    model = tiny_bert()
    model.register_forward_hook(
        lambda module, inputs, output: type(output)(logits=output.logits * 2, hidden_states=output.hidden_states)
    )
    with pytest.raises(ValueError, match="changes the logits of its last linear layer"):
        head_inputs(model, bert_tokenizer, rows)


def test_results_compare_the_model_with_its_correction(corrected, finished, texts, capsys):
    results = read_results(corrected)
    assert not list(unknown_keys(results, Results))
    assert [*results["setups"]] == ["model", "corrected"]
    found = results["correction"]
    assert found["rows"] == 120 and found["languages"] == ["en", "fr"]
    assert np.sum(found["bias"], axis=1) == pytest.approx([0, 0], abs=1e-9)
    model, other = (results["setups"][name]["seeds"]["0"] for name in ("model", "corrected"))
    assert model["probe"] == other["probe"]
    bits = model["targets"]["independent"]["dependence_bits"]
    assert information(np.array(other["test"]["predicted"])) == pytest.approx(other["test"]["dependence_bits"])
    words = ["correct", str(finished / "imbalanced" / "seed-0"), str(texts), "--id-column", "item"]
    assert main([*words, "--output-dir", str(corrected)]) == 0, "the same again changes nothing"
    shown = capsys.readouterr().out
    assert "The model has not learned the task" in shown.partition("\n")[0]
    assert (
        "langimb push" in shown
        and f"EM changes the dependence on language from {bits:.3f} to" in shown
        and "bias of each language and label" in shown
    )
    assert "Correction" in (corrected / "report.html").read_text()
    assert main([*words, "--output-dir", str(corrected), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_only_predict_applies_the_correction(corrected, finished, mini_xnli_rows, caplog):
    run, plain = load_run(corrected, setup="corrected"), load_run(finished, setup="imbalanced")
    rows = mini_xnli_rows.select(range(12))
    columns = {"text_pairs": rows["hypothesis"][:]}
    logits, _ = forward_rows(plain.model, plain.tokenizer, rows)
    assert np.allclose(forward_rows(run.model, run.tokenizer, rows)[0], logits, atol=1e-5)
    expected = softmax(run.correction.apply(logits, rows["language"]), axis=1)
    found = run.predict(rows["premise"][:], rows["language"][:], **columns)
    assert [one["label"] for one in found] == [run.model.config.id2label[i] for i in expected.argmax(axis=1)]
    assert [one["score"] for one in found] == pytest.approx(expected.max(axis=1), abs=1e-5)
    without = [one["score"] for one in plain.predict(rows["premise"][:], **columns)]
    assert without == pytest.approx(softmax(logits, axis=1).max(axis=1), abs=1e-5)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            unbiased = run.predict(rows["premise"][:], ["xx"] * 12, **columns)
    assert [record.message for record in caplog.records] == ["No correction for xx: no bias is added there."]
    expected = softmax(logits / run.correction.temperature, axis=1).max(axis=1)
    assert [one["score"] for one in unbiased] == pytest.approx(expected, abs=1e-5)
    assert run.predict([], []) == []


def test_wrong_calls_of_predict_are_refused(corrected):
    run = load_run(corrected / "corrected" / "seed-0")
    for words, message in (
        ((["a"],), "pass languages=, one for each text. A language identifier such as GlotLID"),
        ((["a", "b"], ["en"]), r"Expected 2 languages, one for each text, got \['en'\]"),
        (("a", "en"), "Expected a list of texts"),
    ):
        with pytest.raises(ValueError, match=message):
            run.predict(*words)
    with pytest.raises(ValueError, match="Expected 1 second texts"):
        run.predict(["a"], ["en"], text_pairs=[])


def test_a_damaged_table_is_refused(corrected, tmp_path):
    folder = shutil.copytree(corrected / "corrected" / "seed-0", tmp_path / "model")
    table = json.loads((folder / "correction.json").read_text())
    for changed in ({"temperature": 0}, {"bias": [[0, 0]]}, {"languages": ["en"]}):
        (folder / "checksums.json").unlink(missing_ok=True)
        (folder / "correction.json").write_text(json.dumps(table | changed))
        with pytest.raises(ValueError, match="must have a temperature above 0 and 3 biases for each language"):
            load_run(folder)


def test_rows_of_the_training_and_too_few_rows_are_refused(finished, mini_xnli_rows, tmp_path, capsys):
    model, rows = tmp_path / "model", mini_xnli_rows
    shutil.copytree(finished / "balanced" / "seed-0", model)
    record_rows(model, rows.select(range(20)), TEXTS)

    def corrected(rows, name):
        rows.to_parquet(tmp_path / f"{name}.parquet")
        return main(["correct", str(model), str(tmp_path / f"{name}.parquet"), "--output-dir", str(tmp_path / name)])

    assert corrected(rows.select(range(60)), "seen") == 1
    assert "was trained or fitted on 20 of 60 rows" in capsys.readouterr().err
    assert corrected(rows.select([*range(15, 120)]), "few") == 0
    for name in ("model", "corrected"):  # which know the rows, too
        with pytest.raises(ValueError, match="was trained or fitted on 20 of 60 rows"):
            held_out(str(tmp_path / "few" / name / "seed-0"), rows.select(range(60)), TEXTS)
    assert "Left out: 5 of 105 rows" in read_results(tmp_path / "few")["notes"][-1]
    assert read_results(tmp_path / "few")["correction"]["rows"] == 100
    assert corrected(rows.select(range(30, 34)), "small") == 1
    assert "4 rows for" in capsys.readouterr().err
    new = rows.select(range(20, len(rows)))
    labels = np.array(new["label"])
    assert corrected(new.select(np.flatnonzero(labels == labels[0])), "one") == 1
    assert "All rows have the label" in capsys.readouterr().err
    (model / "training_rows.parquet").write_bytes(b"nothing")
    assert corrected(rows, "damaged") == 1
    assert "training_rows.parquet cannot be read" in capsys.readouterr().err
    assert main(["refit", str(finished), str(tmp_path / "few.parquet"), "--output-dir", str(tmp_path / "run")]) == 1
    assert "is the folder of a run: name one of its models, such as" in capsys.readouterr().err


def test_a_label_without_held_out_rows_has_no_bias(finished, mini_xnli_rows, tmp_path, capsys):
    labels = np.array(mini_xnli_rows["label"])
    mini_xnli_rows.select(np.flatnonzero(labels != 2)).to_parquet(tmp_path / "rows.parquet")
    words = [str(finished / "balanced" / "seed-0"), str(tmp_path / "rows.parquet"), "--output-dir"]
    assert main(["correct", *words, str(tmp_path / "corrected")]) == 0
    name = mini_xnli_rows.features["label"].names[2]
    said = capsys.readouterr().out
    assert f"No held-out rows with the label '{name}': no bias could be fitted for it" in said
    assert "the mean of the biases in other languages" not in said
    assert main(["refit", *words, str(tmp_path / "refitted")]) == 1
    assert f"No held-out row has the label '{name}'" in capsys.readouterr().err


def test_a_label_that_training_lacked_too_cannot_be_corrected(finished, mini_xnli_rows, tmp_path, capsys):
    model = shutil.copytree(finished / "balanced" / "seed-0", tmp_path / "model")
    axes = json.loads((model / "langimb.json").read_text())
    axes["counts"][0][2] = 0
    (model / "langimb.json").write_text(json.dumps(axes | {"missing_cell_policy": "ignore"}))
    (model / "checksums.json").unlink(missing_ok=True)
    lacking, name = axes["languages"][0], axes["label_names"][2]
    labels = mini_xnli_rows.features["label"].int2str(mini_xnli_rows["label"])
    kept = [i for i, row in enumerate(mini_xnli_rows) if (row["language"], labels[i]) != (lacking, name)]
    mini_xnli_rows.select(kept).to_parquet(tmp_path / "rows.parquet")
    assert main(["correct", str(model), str(tmp_path / "rows.parquet"), "--output-dir", str(tmp_path / "out")]) == 0
    assert f"Cannot be corrected: '{name}' in {lacking}" in capsys.readouterr().out
    assert read_results(tmp_path / "out")["correction"]["never_trained"] == [[lacking, 2]]


def test_a_model_from_elsewhere_is_corrected(tiny_bert, bert_tokenizer, tmp_path):
    tiny_bert().save_pretrained(tmp_path / "model")
    bert_tokenizer.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    rows = [{"text": f"w{rng.integers(24)} w{rng.integers(24)}", "language": "ab"[i % 2]} for i in range(60)]
    labeled = [row | {"label": f"LABEL_{i % 3}"} for i, row in enumerate(rows)]
    Dataset.from_list(labeled).to_parquet(tmp_path / "rows.parquet")
    words = [str(tmp_path / name) for name in ("model", "rows.parquet", "out")]
    assert main(["correct", *words[:2], "--output-dir", words[2]]) == 0
    run = load_run(tmp_path / "out", setup="corrected")
    assert run.languages == ["a", "b"] and run.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert len(run.predict(["w1", "w2"], ["a", "b"])) == 2


def test_adapters_are_corrected_with_their_base(finished, texts, tmp_path):
    model = finished / "weighted_lora" / "seed-0"
    assert main(["correct", str(model), str(texts), "--output-dir", str(tmp_path / "out")]) == 0
    run = load_run(tmp_path / "out", setup="corrected")
    assert len(run.predict(["a text"], ["en"], text_pairs=["another"])) == 1


def test_a_correction_is_published_like_any_other_model(server, corrected, texts, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"model that it did not train: publish corrected \(--setup\)"):
        push_run(corrected, "ann/fixed", setups=["model"], token=TOKEN)
    push_run(corrected, "ann/fixed", setups=["corrected"], token=TOKEN)
    run, local = load_run("ann/fixed", token=TOKEN), load_run(corrected, setup="corrected")
    assert run.correction.bias.tolist() == local.correction.bias.tolist()
    card = ModelCard(server.repos["ann/fixed"].files()["README.md"].decode())
    assert "load the model without its correction" in card.text
    assert "run.predict" in card.text and "langimb correct" in card.text
    words = [str(corrected / "corrected" / "seed-0"), str(texts), "--output-dir", str(tmp_path / "again")]
    assert main(["refit", *words]) == 0
    assert not [*(tmp_path / "again").rglob("correction.json")], "it is measured without"
    with pytest.raises(ValueError, match=r"publish refitted \(--setup\)"):
        push_run(tmp_path / "again", "ann/again", setups=["model"], token=TOKEN)
    assert own_setups(read_results(tmp_path / "again")) == ["refitted"]
    assert "has a correction, which is not applied here" in read_results(tmp_path / "again")["notes"][-1]
