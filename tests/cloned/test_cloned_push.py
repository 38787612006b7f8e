"""Runs of cloned languages are published by the real client to a Hub on this machine, and pulled."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import TOKEN
from hub_run import whole
from transformers import AutoModelForCausalLM

from hf_langimb import cli
from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.experiment import main, run
from hf_langimb.cloned.publish import push_cloned
from hf_langimb.cloned.vocabulary import Vocabulary
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


def test_the_recipe_publishes_its_run(server, done, capsys):
    options = ["--push_to_hub", "true", "--hub_model_id", "ann/made", "--hub_token", TOKEN]
    main("cloned_languages", done.parent, ["--output_dir", str(done), *options])
    assert f"Published:\n{server.url}/ann/made-imbalanced\n" in capsys.readouterr().out
    assert "README.md" in server.repos["ann/made-fewer_rows"].files()


def test_a_damaged_model_or_an_unknown_setup_is_not_published(server, done, tmp_path):
    with pytest.raises(ValueError, match="has setups imbalanced, fewer_rows, got 'even'"):
        push_cloned(done, "ann/clones", setups=["even"], token=TOKEN)
    copy = shutil.copytree(done, tmp_path / "run")
    path = copy / "imbalanced" / "seed-0" / "measures.json"
    path.write_text(path.read_text().replace("perplexity", "perplexitx"))
    with pytest.raises(ValueError, match=r"measures.json is damaged"):
        push_cloned(copy, "ann/clones", setups=["imbalanced"], token=TOKEN)
    assert not server.repos
