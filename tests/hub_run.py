"""What the tests of publishing share, a pytest plugin: a run made without training, rows to evaluate its models on."""

import copy
from pathlib import Path

import numpy as np
import pytest

KEPT = Path(__file__).parents[1] / "model_cards" / "xnli-mini"
SETUPS = ["balanced", "imbalanced", "weighted", "weighted_lora"]


def stamps(folder):
    """(size, time of the last change) of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def whole(server):
    """No model repository has weights without a card, or a card without weights."""
    for key, repo in server.repos.items():
        names = set(repo.files()) - {".gitattributes"}
        weights = [name for name in names if name.endswith((".safetensors", ".parquet"))]
        assert bool(weights) is ("README.md" in names), key


def assert_same_logits(first, second):
    """Two models, loaded apart, give the same logits; their last digits may differ between calls."""
    import torch

    from hf_langimb.hub.push import logits_of

    torch.testing.assert_close(logits_of(first), logits_of(second))


def refused(name, message, **settings):
    """`load_run` refuses a repository in one sentence."""
    from hf_langimb import load_run

    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_run(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="session")
def mini_xnli_rows():
    """Rows of mini-XNLI in both languages."""
    from hf_langimb.data import mini_xnli

    return mini_xnli.generate("test", 80).select(range(120))


@pytest.fixture(scope="session")
def texts(tmp_path_factory, mini_xnli_rows):
    """A dataset file for the models of `finished`."""
    path = tmp_path_factory.mktemp("data") / "texts.parquet"
    mini_xnli_rows.to_parquet(path)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, mini_xnli_rows):
    """A run folder of four setups, one of them LoRA: random weights beside kept results of one seed."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

    from hf_langimb import JointDistribution, attribute, cell_weights
    from hf_langimb.files import write_json
    from hf_langimb.models.adapters import add_lora
    from hf_langimb.models.axes import AXES_FILE, axes_of
    from hf_langimb.models.mini_bert import SHAPE, train_tokenizer
    from hf_langimb.results.page import write_report
    from hf_langimb.results.schema import read_results, write_results

    folder = tmp_path_factory.mktemp("runs") / "xnli-mini"
    results = copy.deepcopy(read_results(KEPT))
    results["setups"]["weighted_lora"] = results["setups"]["weighted"] | {"lora_rank": 2}
    for setup in results["setups"].values():
        setup["seeds"] = {"0": setup["seeds"]["0"]}
    tokenizer = train_tokenizer([*mini_xnli_rows["premise"], *mini_xnli_rows["hypothesis"]])
    tokenizer.save_pretrained(folder / "start")
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(folder / "start")
    labels = results["labels"]
    for number, name in enumerate(SETUPS):
        torch.manual_seed(number)
        setup, place = results["setups"][name], folder / name / "seed-0"
        counts = np.array(results["data"][f"train/{setup['plan']}"]["counts"])
        distribution = JointDistribution(tuple(results["languages"]), tuple(labels), counts)
        weights = cell_weights(distribution, setup["class_weighting"])
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "start", id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}
        )
        axes = axes_of(distribution, setup["class_weighting"], "error", weights, labels)
        model.config.langimb = axes
        model = add_lora(model, 2) if name.endswith("lora") else model
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        write_json(place / AXES_FILE, axes)
        (place / "probe.json").write_text("{}\n")
        attribute(
            model, tokenizer, mini_xnli_rows.select(range(4)), out=folder / "attributions" / f"{name}-seed-0", orders=4
        )
    write_results(folder, results | {"seeds": [0]})
    write_report(folder)
    return folder
