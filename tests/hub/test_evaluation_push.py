"""Evaluations are published into the repository of the model that they measured."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import TOKEN, unknown_keys
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from pandas import read_parquet
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_langimb import load_run, push_run
from hf_langimb.hub.push import publish_evaluation
from hf_langimb.models.loading import load_model
from hf_langimb.results.schema import Results
from hf_langimb.runs import evaluate


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ACCELERATE_USE_CPU", "true")
        yield


def check(*argv):
    evaluate.main(["--explain-rows", "6", "--batch-size", "16", *map(str, argv)])


def measures_of(folder):
    """What an evaluation measured."""
    return json.loads((folder / "results.json").read_text())["setups"]["model"]["seeds"]["0"]


@pytest.fixture
def refuses(capsys):
    """Function (message, *argv): an evaluation ends with this message."""

    def check_refused(message, *argv):
        with pytest.raises(SystemExit) as stopped:
            check(*argv)
        assert stopped.value.code == 1 and re.search(message, capsys.readouterr().err)

    return check_refused


def test_any_checkpoint_is_measured(server, finished, texts, tmp_path, monkeypatch, capsys, refuses):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    argv = ["ann/one", texts, "--output-dir", tmp_path / "out", "--push_to_hub"]
    before = server.repos["ann/one"].files()["README.md"].decode()
    check(*argv)
    shown = capsys.readouterr().out
    assert f"Published: {server.url}/ann/one" in shown and "Language probe" in shown
    assert len(server.repos["ann/one"].commits()) == 3, "one commit"
    files = server.repos["ann/one"].files()
    measured = json.loads(files["evaluation/texts.parquet/results.json"])
    assert not list(unknown_keys(measured, Results))
    assert measured["setups"]["model"]["seeds"]["0"]["test"]["rows"] == 120
    assert measured["setups"]["model"]["seeds"]["0"]["test"]["reliance"] is not None
    assert measured["explained"]["examples"] == 6
    card = files["README.md"].decode()
    assert card.count("## Evaluation by language") == 1
    body = before.partition("\n---\n")[2]
    assert body.strip() in card, "what the card said stays"
    data = ModelCard(card).data
    assert {result.dataset_type for result in data.eval_results} == {"mini_xnli", "texts_parquet"}
    check(*argv)
    assert len(server.repos["ann/one"].commits()) == 3, "the same again changes nothing"
    assert load_run("ann/one").results["recipe"] == "xnli"
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 3, "the same weights keep what was measured of them"
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    files = server.repos["ann/one"].files()
    assert "## Evaluation by language" not in files["README.md"].decode()
    assert not [name for name in files if name.startswith("evaluation/")], "they were of other weights"
    refuses(r"contains a run with another configuration \(files was {", *argv)


def test_a_model_of_another_user_gets_a_pull_request(server, finished, texts, tmp_path, monkeypatch, capsys):
    from transformers import AutoTokenizer

    server.add_user("ben", "hf_ben")
    model, tokenizer = load_model(finished / "balanced" / "seed-0"), AutoTokenizer.from_pretrained(finished / "start")
    del model.config.langimb
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    api = HfApi(token="hf_ben")
    api.create_repo("ben/plain")
    api.upload_folder(repo_id="ben/plain", folder_path=tmp_path / "model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check("ben/plain", texts, "--output-dir", tmp_path / "out", "--push_to_hub")
    assert "/ben/plain/discussions/1" in capsys.readouterr().out
    repo = server.repos["ben/plain"]
    assert "README.md" not in repo.files()
    proposed = repo.files("refs/pr/1")
    place = "evaluation/texts.parquet"
    assert {"README.md", f"{place}/results.json", f"{place}/report.html"} <= set(proposed)
    found = json.loads(proposed[f"{place}/results.json"])["setups"]["model"]["seeds"]["0"]["test"]
    assert found["reliance"] is None and found["accuracy"] > 0
    assert publish_evaluation(tmp_path / "out", "ben/plain", token=TOKEN) == f"{server.url}/ben/plain/discussions/1"
    assert len(repo.commits("refs/pr/1")) == 3, "the same again changes nothing"
    server.fail("discussions", 503, times=2)
    (tmp_path / "out" / "report.html").write_text("another page")
    publish_evaluation(tmp_path / "out", "ben/plain", token=TOKEN)
    assert repo.files("refs/pr/1")[f"{place}/report.html"] == b"another page"
    shutil.copy(texts, tmp_path / "others.parquet")
    check("ben/plain", tmp_path / "others.parquet", "--output-dir", tmp_path / "other", "--push_to_hub")
    assert [ref for ref in repo.refs if ref.startswith("refs/pr/")] == ["refs/pr/1", "refs/pr/2"], "one for each data"
    server.add_user("cal", "hf_cal")
    (tmp_path / "out" / "report.html").write_text("of cal")
    assert publish_evaluation(tmp_path / "out", "ben/plain", token="hf_cal").endswith("/discussions/3"), "not ann's"
    publish_evaluation(tmp_path / "out", "ben/plain", token="hf_ben")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    server.add_user("dan", "hf_dan")
    all_there = publish_evaluation(tmp_path / "out", "ben/plain", token="hf_dan")
    assert all_there == f"{server.url}/ben/plain"
    del results["setups"]["model"]["seeds"]["0"]["test"]["dependence_bits"]
    shutil.copytree(tmp_path / "out", tmp_path / "damaged")
    (tmp_path / "damaged" / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"results.json"):
        publish_evaluation(tmp_path / "damaged", "ben/plain", token="hf_ben")
    server.write("ben/plain", {"model.safetensors": b"other"})
    with pytest.raises(ValueError, match="ben/plain has other weights than those that were measured"):
        publish_evaluation(tmp_path / "out", "ben/plain", token="hf_ben")


def test_a_card_is_not_lost_and_two_evaluations_at_once_are_both_there(server, finished, texts, tmp_path):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    evaluated, other = tmp_path / "out", tmp_path / "other"
    check(finished / "weighted" / "seed-0", texts, "--output-dir", evaluated)
    for endpoint in ("head", "resolve"):  # the Hub is busy
        server.fail(endpoint, 503, times=None, path="README.md")
    with pytest.raises(ValueError, match=r"The Hub returned 503|cannot be reached"):
        publish_evaluation(evaluated, "ann/one", token=TOKEN)
    assert len(server.repos["ann/one"].commits()) == 2
    assert b"## Results" in server.repos["ann/one"].files()["README.md"]
    server.faults.clear()
    shutil.copytree(evaluated, other)
    results = json.loads((other / "results.json").read_text())
    results["config"]["dataset"] = "others.parquet"
    (other / "results.json").write_text(json.dumps(results))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda folder: publish_evaluation(folder, "ann/one", token=TOKEN), (evaluated, other)))
    files = server.repos["ann/one"].files()
    assert {f"evaluation/{name}.parquet/results.json" for name in ("texts", "others")} <= files.keys()
    card = files["README.md"].decode()
    assert card.count("## Evaluation by language") == 2
    assert {"texts_parquet", "others_parquet"} < {entry.dataset_type for entry in ModelCard(card).data.eval_results}


def test_further_test_sets_are_measured_and_published_without_their_folders(finished, texts, tmp_path, refuses, capsys):
    rows, out = read_parquet(texts), tmp_path / "out"
    rows.iloc[::2].to_csv(tmp_path / "half.csv", index=False)
    odd = rows.iloc[:6].assign(language="xx", text="\u3042 \u3044", premise="\u3042 \u3044", hypothesis="\u3046")
    odd.to_csv(tmp_path / "odd.csv", index=False)
    argv = [finished / "balanced" / "seed-0", texts, "--output-dir", out, "--explain-rows", "0", "--extra-test"]
    refuses("reversed needs labels that depend on language", *argv, "reversed")
    refuses("Test set a: Cannot read a dataset at 'missing.csv'", *argv, "a=missing.csv")
    check(*argv, f"half={tmp_path / 'half.csv'}", f"odd={tmp_path / 'odd.csv'}")
    assert "Further test sets" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    found = measures_of(out)["extra"]
    assert {name: of["rows"] for name, of in found.items()} == {"half": len(rows.iloc[::2]), "odd": 6}
    assert results["tokens"]["xx"]["unknown_share"] == 1
    assert results["warnings"][0].startswith("Most tokens in xx (100%) are unknown to this model's tokenizer")
    assert results["flags"]["extra_test"] == results["config"]["extra_test"] == ["half=half.csv", "odd=odd.csv"]
    assert str(tmp_path) not in (out / "report.html").read_text(encoding="utf-8")


def test_labels_by_other_names(finished, texts, tmp_path, refuses):
    model = tmp_path / "model"
    shutil.copytree(finished / "balanced" / "seed-0", model)
    config = json.loads((model / "config.json").read_text())
    del config["langimb"]
    numbered = {"id2label": {i: f"LABEL_{i}" for i in range(3)}, "label2id": {f"LABEL_{i}": i for i in range(3)}}
    axes = json.loads((model / "langimb.json").read_text())
    (model / "langimb.json").write_text(json.dumps({name: axes[name] for name in axes if name != "label_names"}))
    (model / "config.json").write_text(json.dumps(config | numbered))
    out = tmp_path / "out"
    refuses(r"or name the model's classes .*--labels of evaluate.py", model, texts, "--output-dir", out)
    wrong = "model has 3 classes: --labels needs a different name for each, got 2"
    refuses(wrong, model, texts, "--output-dir", out, "--labels", "a", "b")
    refuses("batch_size must be 1 or more, got 0", model, texts, "--output-dir", out, "--batch-size", "0")
    named, order = finished / "balanced" / "seed-0", ["neutral", "entailment", "contradiction"]
    wrong = r"names its classes itself \(entailment, neutral, contradiction\): leave --labels out"
    refuses(wrong, named, texts, "--output-dir", tmp_path / "named", "--labels", *order)
    assert not out.exists() and not (tmp_path / "named").exists(), "refused before any file is written"
    shouted = ["Entailment", "NEUTRAL", "contradiction"]
    check(model, texts, "--output-dir", out, "--labels", *shouted)
    results = json.loads((out / "results.json").read_text())
    assert results["labels"] == shouted == [entry["label"] for entry in results["explained"]["tokens"][:3]]
    plain = tmp_path / "plain"
    check(finished / "balanced" / "seed-0", texts, "--output-dir", plain)
    assert results["setups"]["model"]["summary"] != {}
    first, second = (measures_of(folder)["test"]["predicted"] for folder in (out, plain))
    assert first == second
    (model / "config.json").write_text(json.dumps(config))  # a changed model is not measured by its old copy
    refuses("files was .*: choose another --output_dir", model, texts, "--output-dir", out)


def test_a_decoder_is_probed_at_its_last_token(decoder_tokenizer, tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "llama", **size, num_key_value_heads=1, pad_token_id=decoder_tokenizer.pad_token_id, num_labels=2,
        vocab_size=len(decoder_tokenizer),
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    decoder_tokenizer.save_pretrained(tmp_path / "model")
    last = {"en": "w2", "fr": "w9"}  # the first token is the same
    rows = [{"text": f"w1 w{i % 20} {last[x]}", "language": x, "label": i % 2} for x in last for i in range(40)]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    check(tmp_path / "model", tmp_path / "rows.parquet", "--output-dir", tmp_path / "out")
    found = measures_of(tmp_path / "out")["probe"]["test"]
    assert found["pooling"] == "last" and found["accuracy"] > 0.9


def test_checkups_that_cannot_be(server, finished, texts, tmp_path, monkeypatch, refuses):
    unlabeled = tmp_path / "unlabeled.parquet"
    Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "language": ["en"]}).to_parquet(unlabeled)
    model = finished / "balanced" / "seed-0"
    (tmp_path / "taken").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_text("x")
    for name, content in (("list", "[]"), ("names", '{"model_type": "bert", "id2label": "x"}')):
        shutil.copytree(model, tmp_path / name)
        (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "taken" / "mine.txt").write_text("x")
    shutil.copytree(model, tmp_path / "nan")
    weights = {name: values * float("nan") for name, values in load_file(model / "model.safetensors").items()}
    save_file(weights, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    for argv, message in (
        (["ann/nothing", texts], "ann/nothing does not exist, or is private"),
        ([model, unlabeled], "Expected a label column 'label'"),
        ([model, texts, "--push-to-hub"], "needs a Hub id as MODEL, got the folder"),
        ([model, texts, "--output-dir", tmp_path / "taken"], "contains files but no run"),
        ([model, tmp_path / "no.parquet"], "no.parquet"),
        ([tmp_path / "pickled", texts], "contains only pickled weights"),
        ([tmp_path / "list", texts], "Expected a model with its tokenizer at"),
        ([tmp_path / "nan", texts], "The model in .*seed-0 gives logits that are not finite"),
        ([tmp_path / "names", texts], "Expected a model with its tokenizer at|Labels .* are not among those"),
    ):
        refuses(message, "--output-dir", tmp_path / "out", *argv)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    monkeypatch.setenv("HF_TOKEN", "hf_no")
    before = len(server.requests)
    refuses("does not accept this token", "ann/nothing", texts, "--push-to-hub", "--output-dir", tmp_path / "out")
    assert not [request for request in server.requests[before:] if request.endpoint != "whoami"], "before any work"
