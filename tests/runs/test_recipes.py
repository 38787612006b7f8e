"""The YAMLs for a GPU, unchanged but for sizes: tiny models of their architectures, data laid out as theirs."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_configurations
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoConfig, AutoModelForMaskedLM

import hf_langimb
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.subsets import load_data

FOLDER = Path(hf_langimb.__file__).parents[1] / "recipes" / "xnli"
LABELS = ["entailment", "neutral", "contradiction"]  # class order of facebook/xnli
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
START = {  # the published checkpoint: its tokenizer's layout, architecture and configuration at tiny size
    "bert-base-multilingual-cased": ("bert", "bert", {"pad_token_id": 0}),
    "xlm-roberta-base": ("roberta", "xlm-roberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "jhu-clsp/mmBERT-base": ("bert", "modernbert", {"pad_token_id": 0, "reference_compile": False}),
}


def parse(config, *argv):
    """A configuration of the recipe, for a CPU."""
    return parse_recipe("xnli", FOLDER, ["--config", config, "--output_dir", "x", "--bf16", "false", *argv])


CONFIGS = [
    stem for stem in sorted(p.stem for p in FOLDER.glob("*.yaml")) if parse(stem).data.dataset_name == "facebook/xnli"
]


@pytest.fixture(scope="module")
def xnli(tmp_path_factory):
    """facebook/xnli's columns, configurations and labels: premise, hypothesis, label; translations row by row."""
    rng = np.random.default_rng(0)
    features = Features(premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=LABELS))

    def texts(number, words):
        return [" ".join(f"w{word}" for word in rng.integers(0, 24, words)) for _ in range(number)]

    def rows(number):
        columns = {"premise": texts(number, 8), "hypothesis": texts(number, 4), "label": [i % 3 for i in range(number)]}
        return Dataset.from_dict(columns, features=features)

    sizes = {"train": 120, "test": 60, "validation": 60}
    tables = {config: {split: rows(number) for split, number in sizes.items()} for config in ("ar", "en", "fr")}
    return write_configurations(tmp_path_factory.mktemp("xnli"), tables)


@pytest.fixture(scope="module")
def wikipedia(tmp_path_factory):
    """wikimedia/wikipedia's columns and configurations."""
    ids, texts = [str(i) for i in range(30)], [f"w{i % 24} w{(i * 7) % 24}" for i in range(30)]
    rows = Dataset.from_dict({"id": ids, "url": ids, "title": ids, "text": texts})
    tables = {config: {"train": rows} for config in ("20231101.en", "20231101.fr")}
    return write_configurations(tmp_path_factory.mktemp("wikipedia"), tables)


@pytest.fixture
def start(request, tmp_path):
    """Function (published name): folder of a random tiny model of its architecture with a tokenizer of its layout."""

    def make(name):
        layout, architecture, settings = START[name]
        tokenizer = request.getfixturevalue(f"{layout}_tokenizer")
        torch.manual_seed(0)
        config = AutoConfig.for_model(architecture, **SHAPE, **settings, vocab_size=len(tokenizer))
        AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "start")
        tokenizer.save_pretrained(tmp_path / "start")
        return str(tmp_path / "start")

    return make


@pytest.mark.parametrize("config", CONFIGS)
def test_the_recipe_of_a_gpu_runs_at_tiny_size(config, xnli, wikipedia, start, tmp_path):
    argv = shlex.split("--num_train_epochs 1 --eval_steps 2 --save_steps 2 --use_cpu true --disable_tqdm true")
    argv += ["--explain_rows", "4", "--config", config, "--dataset_name", xnli, "--probe_dataset_name", wikipedia]
    model = start(parse(config).data.model_name_or_path)
    argv += ["--model_name_or_path", model, "--output_dir", str(tmp_path / "run")]
    recipe = parse_recipe("xnli", FOLDER, argv)
    assert (recipe.training.gradient_accumulation_steps, recipe.training.bf16) == (8, True)
    folder, results = run(recipe)
    assert (results["languages"], results["labels"]) == (["en", "fr"], LABELS)
    skewed = results["data"]["train/imbalanced"]
    assert skewed["counts"] == [[13, 27, 40], [40, 27, 13]]  # 40 rows per cell allow 160: fr 1/2 1/3 1/6
    for setup, parts in results["setups"].items():
        assert parts["seeds"]["0"]["probe"]["external"]["rows"] == 60
        assert ("entropy" in setup) == config.startswith(("xlmr", "mbert-entropy"))
        adapter = (folder / setup / "seed-0" / "adapter_config.json").exists()
        assert adapter == ("lora" in config)


@pytest.mark.parametrize("config", CONFIGS)
def test_hyper_parameters_are_those_of_the_paper(config):
    training = parse(config).training
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
    assert (training.num_train_epochs, training.lr_scheduler_type) == (3, "linear")
    assert training.head_learning_rate == 5e-4
    assert training.metric_for_best_model == "eval_loss" and training.load_best_model_at_end
    assert training.learning_rate == (3e-4 if "lora" in config else 5e-5)


def test_translations_share_their_id(xnli):
    recipe = parse("mbert", "--dataset_name", xnli)
    test = load_data(recipe.data, "language").source["test"]
    assert sorted(test["id"]) == sorted(2 * [str(i) for i in range(60)])
    premises = dict(zip(zip(test["id"], test["language"], strict=True), test["premise"], strict=True))
    assert premises["7", "fr"] != premises["7", "en"]


def test_label_order_of_the_source_does_not_matter(tmp_path):
    turned = Features(premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=LABELS[::-1]))
    columns = {"premise": LABELS * 4, "hypothesis": ["w1"] * 12, "label": LABELS * 4}
    rows = Dataset.from_dict(columns, features=turned)
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    folder = write_configurations(tmp_path, dict.fromkeys(("ar", "en", "fr"), splits))
    recipe = parse("mbert", "--dataset_name", folder)
    data = load_data(recipe.data, "language")
    assert data.labels == LABELS
    train = data.source["train"]
    assert train.features["label"].names == LABELS
    assert train["premise"][:] == [LABELS[i] for i in train["label"]]
    assert set(train["language"]) == {"en", "fr"}  # ar is in the folder and not in the recipe
