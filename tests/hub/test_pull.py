"""Models are downloaded, checked and loaded; untrusted repositories are refused in one sentence."""

import errno
import json
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import TOKEN
from datasets import Dataset
from hub_run import assert_same_logits, refused
from huggingface_hub import HfApi, constants
from safetensors.torch import load, save

from hf_langimb import load_run, push_run
from hf_langimb.cli import main
from hf_langimb.hub.pull import pull
from hf_langimb.hub.push import logits_of
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.models.loading import load_model


def test_the_commands(server, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(finished), "ann/xnli"]) == 1
    assert "several setups: choose one with --setup (balanced, imbalanced," in capsys.readouterr().err
    assert main(["push", str(finished), "ann/xnli", "--setup", "balanced"]) == 0
    assert f"{server.url}/ann/xnli\n" in capsys.readouterr().out
    assert main(["pull", "ann/xnli"]) == 0
    shown = capsys.readouterr().out
    assert "Labels entailment, neutral, contradiction; languages en, fr; class weights none" in shown
    assert {"model.safetensors", "README.md", "report.html", "results.json"} <= {p.name for p in Path("xnli").iterdir()}
    assert_same_logits(load_run("xnli").model, load_model(finished / "balanced" / "seed-0"))
    assert main(["pull", "ann/xnli"]) == 1
    assert "xnli is not an empty folder" in capsys.readouterr().err


def test_a_published_run_is_compared_and_shown(server, finished, tmp_path, capsys, monkeypatch):
    push_run(finished, "ann/one", setups=["weighted"], token=TOKEN)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "ann/one"]) == 0
    assert "imbalanced - balanced: change of the sums" in capsys.readouterr().out
    assert main(["report", "ann/one"]) == 0
    assert (tmp_path / "one.html").read_text().startswith("<!doctype html>")
    assert main(["compare", "runs/nothing"]) == 1
    assert "runs/nothing" in capsys.readouterr().err


def test_a_run_folder_is_loaded_too(finished):
    assert load_run(finished, setup="weighted", seed=0).weights.max() > 1.5
    for wanted, message in (
        ({}, "several setups: set setup= to one of balanced, imbalanced"),
        ({"setup": "best"}, "no setup 'best': choose one of balanced"),
        ({"setup": "weighted", "seed": 3}, "Setup weighted has no seed 3: choose one of 0"),
    ):
        with pytest.raises(ValueError, match=message):
            load_run(finished, **wanted)


def test_repositories_without_access(server, finished):
    push_run(finished, "ann/hidden", setups=["balanced"], private=True, token=TOKEN)
    load_run("ann/hidden", token=TOKEN)  # from now on it is in the cache
    refused("ann/hidden", r"ann/hidden does not exist, or is private and this token cannot read it \(401\)")
    refused("ann/hidden", r"cannot read it \(404\)", token="hf_reader")
    refused("ann/hidden", r"does not accept this token \(401\)", token="hf_unknown")
    refused("ann/hidden", "ann/hidden has no such revision", revision="v9", token=TOKEN)
    refused("ann/nothing", "ann/nothing does not exist")
    refused("../etc", "is not a valid repository name")
    server.add_repo("ann/gated", gated=True)
    server.write("ann/gated", {"model.safetensors": b"x"})
    refused("ann/gated", "ann/gated is gated: request access on its page", token="hf_reader")


def test_pickles_are_refused(server, finished, tmp_path, capsys):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    server.add_repo("eve/model")
    server.write("eve/model", {"pytorch_model.bin": pickle.dumps(Bomb()), "config.json": b"{}", "langimb.json": b"{}"})
    refused("eve/model", r"only pickled weights \(pytorch_model.bin\), which can run code when they are loaded")
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    server.write("ann/one", {"pytorch_model.bin": pickle.dumps(Bomb()), "training_args.bin": pickle.dumps(Bomb())})
    folder = pull("ann/one", tmp_path / "pulled")
    assert not list(folder.rglob("*.bin")) and (folder / "model.safetensors").is_file()
    load_run("ann/one")
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "rows.csv").write_text("text,language\na,en\nb,fr\n")
    capsys.readouterr()
    assert main(["probe", "eve/model", str(tmp_path / "rows.csv")]) == 1
    assert capsys.readouterr().err.startswith("langimb: Expected a model with its tokenizer at 'eve/model'")
    server.add_repo("eve/empty")
    refused("eve/empty", "eve/empty contains no weights: expected .safetensors files")


def test_the_base_of_adapters_is_checked_too(server, finished):
    push_run(finished, "ann/lora", setups=["weighted_lora"], token=TOKEN)
    base = server.repos["ann/lora-base"].files()["model.safetensors"]
    config = json.loads(server.repos["ann/lora"].files()["adapter_config.json"]) | {"revision": None}

    def write(base="ann/lora-base", **others):
        changed = json.dumps(config | {"base_model_name_or_path": base}).encode()
        server.write("ann/lora", {"adapter_config.json": changed, **others})

    server.write("ann/lora-base", {"model.safetensors": None, "pytorch_model.bin": base})
    write()
    refused("ann/lora", r"ann/lora-base contains only pickled weights \(pytorch_model.bin\)")
    write("ann/lora")
    refused("ann/lora", "ann/lora contains adapters whose base 'ann/lora' is not a full model on the Hub")
    server.write("ann/lora-base", {"model.safetensors": base, "pytorch_model.bin": None})
    write(**{"config.json": b"{}"})
    refused("ann/lora", "ann/lora contains adapters and a full model: remove adapter_config.json or config.json")
    write("/home/ann/start", **{"config.json": None})
    refused("ann/lora", r"ann/lora contains adapters whose base '/home/ann/start' is not a full model on the Hub")


def test_adapters_on_the_hub_are_explained_and_probed(server, finished, texts, tmp_path, capsys):
    """As those in a folder are; also plain ones of PEFT, without langimb.json."""
    push_run(finished, "ann/lora", setups=["weighted_lora"], token=TOKEN)
    files = server.repos["ann/lora"].files()
    server.add_repo("ann/plain")
    server.write("ann/plain", {name: content for name, content in files.items() if name != "langimb.json"})
    found, unlabeled = [], tmp_path / "unlabeled.parquet"
    Dataset.from_parquet(str(texts)).remove_columns("label").to_parquet(unlabeled)
    for number, name in enumerate((str(finished / "weighted_lora" / "seed-0"), "ann/lora", "ann/plain")):
        out = str(tmp_path / str(number))
        assert main(["explain", name, str(unlabeled), "--output-dir", out, "--rows", "2", "--orders", "4"]) == 0
        capsys.readouterr()
        assert main(["probe", name, str(texts), "--json"]) == 0
        probed = json.loads(capsys.readouterr().out)["layers"][0]["bits_below_chance"]
        found.append((stack(AttributionStore(out).examples["p"]), probed))
    for probabilities, probed in found[1:]:
        torch.testing.assert_close(probabilities, found[0][0], atol=1e-5, rtol=0)
        assert probed == pytest.approx(found[0][1], abs=1e-2)
    weights = load(files["adapter_model.safetensors"])
    broken = {name: values * float("nan") for name, values in weights.items()}
    server.write("ann/plain", {"adapter_model.safetensors": save(broken, {"format": "pt"})})
    for command in (["probe"], ["explain", "--output-dir", str(tmp_path / "nan")]):
        assert main([command[0], "ann/plain", str(unlabeled), *command[1:]]) == 1
        assert re.search("The model '?ann/plain'? returns .* that are not finite", capsys.readouterr().err)


NOT_A_MODEL = "Expected a model with its tokenizer at 'ann/one'"


def axes_with(**changes):
    axes = {"languages": ["en"], "labels": ["a", "b"], "label_names": ["a", "b"], "class_weighting": "none"}
    return json.dumps(axes | {"counts": [[1, 1]], "weights": [[1, 1]]} | changes).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("langimb.json", b"{}", "must contain languages, labels, counts and weights"),
        ("langimb.json", b"[]", "must contain languages, labels, counts and weights"),
        ("langimb.json", b'{"languages": ["en"', "must contain languages, labels, counts and weights"),
        ("langimb.json", axes_with(languages="en"), "must contain languages, labels, .* must be lists"),
        ("langimb.json", axes_with(label_names=["a", 1]), "must contain languages, labels, .*a name is not a string"),
        ("langimb.json", axes_with(counts=[[1, -1]]), "must contain languages, labels, counts and weights"),
        ("langimb.json", axes_with(weights=[1, 1]), "the weights are not languages x labels"),
        ("tokenizer.json", b"{}", NOT_A_MODEL),
        ("config.json", b'{"model_type": "bert", "hidden_size": 1e99, "num_attention_heads": 1}', NOT_A_MODEL),
        ("config.json", b"[" * 5000, NOT_A_MODEL),
        ("config.json", b'{"model_type": "nope", "auto_map": {"AutoConfig": "eve/code--c.C"}}', NOT_A_MODEL),
        ("model.safetensors", b"\xff" * 64, NOT_A_MODEL),
    ],
)
def test_repositories_of_wrong_content(server, finished, name, content, message):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    server.write("ann/one", {name: content})
    refused("ann/one", message)


def test_files_outside_of_their_folder_are_refused(server, tmp_path):
    server.add_repo("eve/model")
    server.write("eve/model", {"model.safetensors": b"x", "../../outside.json": b"{}"})
    refused("eve/model", r"Invalid filename '../../outside.json': cannot contain a '..' path segment")
    assert not (Path(constants.HF_HUB_CACHE).parent / "outside.json").exists()


def test_damaged_downloads(server, finished, monkeypatch):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    online = logits_of(load_run("ann/one").model)
    for name in ("model.safetensors", "langimb.json"):
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        fault = server.corrupt(path=name)
        assert load_run("ann/one").languages == ["en", "fr"]
        assert fault.hits == 1, "fetched again"
        shutil.rmtree(constants.HF_HUB_CACHE)
        server.corrupt(path=name, times=None)
        refused("ann/one", f"{name} of ann/one was damaged in two downloads .* and was removed: try another")
        server.faults.clear()
        assert load_run("ann/one").languages == ["en", "fr"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    torch.testing.assert_close(logits_of(load_run("ann/one").model), online)
    (blob,) = {path.resolve() for path in Path(constants.HF_HUB_CACHE).rglob("model.safetensors")}
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    refused("ann/one", "model.safetensors of ann/one is damaged in the cache: unset HF_HUB_OFFLINE")


def test_a_full_disk_while_pulling(server, finished, tmp_path):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    full, closed = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EACCES, "Permission denied")
    with (
        mock.patch.object(shutil, "copy", side_effect=full),
        pytest.raises(OSError, match=r"could not be written to .* \(No space left on device\): nothing is left"),
    ):
        pull("ann/one", tmp_path / "pulled")
    assert not list(tmp_path.iterdir())
    shutil.rmtree(constants.HF_HUB_CACHE)
    with mock.patch("huggingface_hub.file_download.http_get", side_effect=full):
        refused("ann/one", r"ann/one could not be downloaded or published \(No space left on device\): free disk space")
    with mock.patch("huggingface_hub.file_download.http_get", side_effect=closed):
        refused("ann/one", r"could not be downloaded or published \(Permission denied\): .* set HF_HOME to a folder")
    assert pull("ann/one", tmp_path / "pulled").is_dir()


def test_folders_of_a_pull(server, finished, tmp_path, monkeypatch, capsys):
    push_run(finished, "ann/one", setups=["balanced"], token=TOKEN)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pull("ann/one", ".")
    assert (Path.cwd() / "README.md").is_file() and Path.cwd() == tmp_path / "here"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    pull("ann/one", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "model.safetensors").is_file()
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "sub", tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises((OSError, ValueError), match=r"choose another --output-dir|could not be written"):
            pull("ann/one", target)
    with pytest.raises(ValueError, match="is not a valid repository name"):
        pull("ann/..")
    server.write("ann/one", {"results.json": b"[]"})
    assert main(["pull", "ann/one", "--output-dir", str(tmp_path / "damaged")]) == 0
    assert "Its results.json cannot be read" in capsys.readouterr().out


def test_a_model_that_was_not_trained_here(server, tiny_bert, bert_tokenizer, tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    api = HfApi(token=TOKEN)
    api.create_repo("ann/plain")
    api.upload_folder(repo_id="ann/plain", folder_path=tmp_path)
    refused("ann/plain", "ann/plain has no langimb.json: it was not trained with hf_langimb")
