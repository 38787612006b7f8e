"""Runs of cloned languages are published by the real client to a Hub on this machine, and pulled."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import TOKEN
from hub_run import whole
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_langimb import cli
from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.experiment import main, run
from hf_langimb.cloned.publish import push_cloned
from hf_langimb.cloned.vocabulary import Vocabulary
from hf_langimb.hub.pull import pull
from hf_langimb.hub.push import logits_of

SETTINGS = {"dataset_name": "markov", "context": 16, "stride": 8, "test_tokens": 100, "layers": 1, "width": 16}
SETTINGS |= {"heads": 2, "max_steps": 20, "per_device_train_batch_size": 10, "warmup_steps": 1, "report_to": "none"}
SETTINGS |= {"use_cpu": True, "license": "mit"}
SETTINGS["setups"] = {
    "imbalanced": {"schedule": "0.1"},
    "fewer_rows": {"schedule": "0", "languages": 1, "per_device_train_batch_size": 1},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run folder."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "mini.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return run(parse_cloned("cloned_languages", folder, ["--output_dir", str(folder / "run")]))[0]


def test_a_run_is_published_with_its_page_and_loads_as_plain_gpt2(server, done, tmp_path, capsys):
    urls = push_cloned(done, "ann/clones", token=TOKEN)
    assert urls == [f"{server.url}/ann/clones-{setup}" for setup in ("imbalanced", "fewer_rows")]
    whole(server)
    files = server.repos["ann/clones-imbalanced"].files()
    expected = {"README.md", "config.json", "model.safetensors", "vocabulary.json", "measures.json", "results.json"}
    assert expected | {"report.html", "figures/minority.svg"} <= set(files)
    card = files["README.md"].decode()
    assert "license: mit" in card and "pipeline_tag: text-generation" in card and "Unclear, one seed." in card
    options = SimpleNamespace(repo_id="ann/clones-imbalanced", output_dir=str(tmp_path / "pulled"), revision=None)
    cli.pull(options)
    assert "AutoModelForCausalLM" in capsys.readouterr().out
    pulled, local = (
        AutoModelForCausalLM.from_pretrained(of) for of in (tmp_path / "pulled", done / "imbalanced/seed-0")
    )
    torch.testing.assert_close(logits_of(pulled), logits_of(local))
    assert Vocabulary.load(tmp_path / "pulled").languages == 2
    cli.report(SimpleNamespace(run_folder=str(tmp_path / "pulled"), output=str(tmp_path / "page.html")))
    assert "Does the majority help the minority" in (tmp_path / "page.html").read_text()


def test_both_tokenizers_of_a_real_pair_are_published(server, tmp_path):
    for language, words in {"en": "the cat saw a dog", "fr": "le chat a vu un chien"}.items():
        (tmp_path / f"{language}.txt").write_text(f"{words} {words}\n" * 40)
    settings = SETTINGS | {"dataset_name": str(tmp_path / "en.txt"), "second_dataset_name": str(tmp_path / "fr.txt")}
    settings |= {"vocabulary_size": 40, "max_steps": 2, "setups": {"pair": {"schedule": "0.5", "relation": "merged"}}}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(settings))
    folder, _ = run(parse_cloned("cloned_languages", tmp_path, ["--output_dir", str(tmp_path / "run")]))
    push_cloned(folder, "ann/pair", token=TOKEN)
    files = server.repos["ann/pair-pair"].files()
    assert {"tokenizer.json", "tokenizer_1/tokenizer.json"} <= set(files)
    assert files["tokenizer.json"] != files["tokenizer_1/tokenizer.json"]
    card = files["README.md"].decode()
    assert "(dataset en.txt and fr.txt, seed 0)" in card and 'folder / "tokenizer_1"' in card
    pull("ann/pair-pair", tmp_path / "pulled")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "pulled" / "tokenizer_1")("chien").input_ids) == 3
    (folder / "pair" / "seed-0" / "tokenizer_1" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="lacks files of a finished model: run the recipe again"):
        push_cloned(folder, "ann/again", token=TOKEN)
    run(parse_cloned("cloned_languages", tmp_path, ["--output_dir", str(folder)]))
    assert (folder / "pair" / "seed-0" / "tokenizer_1" / "tokenizer.json").is_file()


def test_the_recipe_publishes_its_run(server, done, capsys):
    options = ["--push_to_hub", "true", "--hub_model_id", "ann/made", "--hub_token", TOKEN]
    main("cloned_languages", done.parent, ["--output_dir", str(done), *options])
    assert f"Published:\n{server.url}/ann/made-imbalanced\n" in capsys.readouterr().out
    assert "README.md" in server.repos["ann/made-fewer_rows"].files()


def test_a_damaged_model_or_an_unknown_setup_is_not_published(server, done, tmp_path):
    with pytest.raises(ValueError, match="has no setup 'even': choose among imbalanced, fewer_rows"):
        push_cloned(done, "ann/clones", setups=["even"], token=TOKEN)
    copy = shutil.copytree(done, tmp_path / "run")
    path = copy / "imbalanced" / "seed-0" / "measures.json"
    path.write_text(path.read_text().replace("perplexity", "perplexitx"))
    with pytest.raises(ValueError, match=r"measures.json is damaged"):
        push_cloned(copy, "ann/clones", setups=["imbalanced"], token=TOKEN)
    assert not server.repos
