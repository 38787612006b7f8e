"""Shared fixtures: tiny tokenizers, models and datasets made here, without any download.

Each process of a parallel run (pytest -n 2) has a port, caches and temporary folders of its own.
"""

import os
import random
import shutil
import socket
import sys
import tempfile
import threading

import pytest

# Read at first import, so set before it: no test reaches the network (a stray call meets a closed port), and the Hub
# tests may still talk to their own server on this machine, which offline mode would block.
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "0"
# The port stays bound, so that no other process gets it; a server with SO_REUSEADDR may still listen on it (Linux).
_reserved = socket.socket()
_reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_reserved.bind(("127.0.0.1", 0))
HUB_PORT = _reserved.getsockname()[1]  # closed except where a test starts its Hub
if sys.platform != "linux":
    _reserved.close()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
_caches = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # removed when the process ends
os.environ["HF_HOME"] = f"{_caches.name}/huggingface"
os.environ["HF_MODULES_CACHE"] = f"{_caches.name}/modules"  # where `evaluate` copies a module to load it
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # also torch's threads
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "HF_TOKEN" in os.environ:  # for the opt-in test alone; parallel workers inherit it under this name
    os.environ["LANGIMB_LIVE_TOKEN"] = os.environ.pop("HF_TOKEN")
LIVE_TOKEN = os.environ.get("LANGIMB_LIVE_TOKEN")

pytest_plugins = [
    "hub_run",
    "toy_run",
]  # a conftest.py in tests/hub would hide this one from `from conftest import ...`

TOKEN = "hf_ThisIsTheSecretOfAnn"  # of the Hub on this machine

WORDS = [f"w{i}" for i in range(24)]  # the vocabulary of every tiny tokenizer, besides special tokens


def _word_tokenizer(specials, template, unknown, last=(), **kwargs):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate([*specials, *WORDS, *last])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        used = [(token, i) for token, i in ids.items() if token in " ".join(template)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template[0], pair=template[1], special_tokens=used
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown, model_max_length=32, **kwargs)


@pytest.fixture(scope="session")
def bert_tokenizer():
    """[CLS] a [SEP] b [SEP], token types 0 and 1; padding is id 0."""
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    names["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    template = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _word_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], template, "[UNK]", **names)


@pytest.fixture(scope="session")
def roberta_tokenizer():
    """<s> a </s></s> b </s>, no token types; padding is id 1 and the mask token comes last, as in XLM-R."""
    names = {"pad_token": "<pad>", "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    template = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    return _word_tokenizer(specials, template, "<unk>", last=["<mask>"], mask_token="<mask>", **names)


@pytest.fixture(scope="session")
def decoder_tokenizer():
    """Words alone: no special token is added, there is no mask token; padding is id 1."""
    return _word_tokenizer(["<unk>", "<pad>", "<eos>"], None, "<unk>", pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="session")
def tiny_bert(bert_tokenizer):
    """Function (num_labels=3, seed=0, **config): a fresh BERT classifier of width 16 without dropout."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    def make(num_labels=3, seed=0, **config):
        torch.manual_seed(seed)
        settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        settings |= {"vocab_size": len(bert_tokenizer), "max_position_embeddings": 64, "pad_token_id": 0}
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
        settings |= {"num_labels": num_labels}
        return BertForSequenceClassification(BertConfig(**settings | config))

    return make


SKEWED = {"en": (4, 2, 1), "fr": (1, 2, 5), "ja": (2, 2, 2)}  # rows of labels 0, 1, 2 in each language


@pytest.fixture(scope="session")
def tiny_dataset():
    """Function (tokenizer, pair=False, length=(1, 6)): tokenized rows, label, language (string) in a random order."""
    from datasets import Dataset

    def make(tokenizer, pair=False, length=(1, 6)):
        randomness = random.Random(0)

        def text():
            return " ".join(randomness.choices(WORDS, k=randomness.randint(*length)))

        cells = [(name, label) for name, row in SKEWED.items() for label, n in enumerate(row) for _ in range(n)]
        randomness.shuffle(cells)
        rows = []
        for language, label in cells:
            texts = (text(), text()) if pair else (text(),)
            rows.append({**tokenizer(*texts), "label": label, "language": language})
        return Dataset.from_list(rows)

    return make


@pytest.fixture
def training_arguments(tmp_path):
    """Function (**changes): LangImbTrainingArguments for tests: CPU, silent, rows in order, nothing saved."""
    from hf_langimb import LangImbTrainingArguments

    def make(**changes):
        settings = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
        settings |= {"save_strategy": "no", "logging_strategy": "no", "train_sampling_strategy": "sequential"}
        settings |= {"max_grad_norm": 0.0, "learning_rate": 0.01, "max_steps": 1, "seed": 1}
        return LangImbTrainingArguments(**settings | changes)

    return make


@pytest.fixture
def server(monkeypatch):
    """A Hub with an empty cache on this side, whose clients do not wait long between two attempts."""
    from hub_server import HubServer
    from huggingface_hub import constants

    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    wait = threading.Event().wait
    monkeypatch.setattr("time.sleep", lambda seconds: wait(min(seconds, 0.01)))
    with HubServer(HUB_PORT) as hub:
        hub.add_user("ann", TOKEN)
        hub.add_user("rob", "hf_reader", role="read")
        yield hub


@pytest.fixture(scope="session")
def browser():
    """Chromium; tests that need it are skipped where it is missing, or fail if LANGIMB_REQUIRE_BROWSER is set."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None and not os.environ.get("LANGIMB_REQUIRE_BROWSER"):
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def assert_close(found, expected, atol=1e-5, where=""):
    """Nested values are equal, floats to `atol`; keys that only `found` has are no difference."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), where
        for key, value in expected.items():
            assert_close(found[key], value, atol, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_close(found[i], value, atol, f"{where}/{i}")
    else:
        number = isinstance(expected, float)
        assert found == (pytest.approx(expected, rel=0, abs=atol, nan_ok=True) if number else expected), where


def unknown_keys(value, kind, where=""):
    """Places of the keys in JSON that a TypedDict, or a type of lists and objects, does not have."""
    from typing import Annotated, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        for key in value:
            place = f"{where}, {key}".removeprefix(", ")
            yield from unknown_keys(value[key], hints[key], place) if key in hints else [place]
    elif origin in (Annotated, NotRequired, Union) or "UnionType" in str(origin):
        yield from unknown_keys(value, inner[0], where) if value is not None else ()
    elif origin in (list, dict):
        for key, item in value.items() if origin is dict else enumerate(value):
            yield from unknown_keys(item, inner[-1], f"{where}, {key}")


@pytest.fixture(scope="session")
def rows(bert_tokenizer, tiny_dataset):
    """21 rows of three languages and three labels, as in SKEWED."""
    return tiny_dataset(bert_tokenizer)


@pytest.fixture
def build(bert_tokenizer, tiny_bert, tiny_dataset, training_arguments, rows, monkeypatch):
    """Function (model=None, data=rows, mask_length=3, **arguments): a trainer whose mask row has three tokens.

    The arguments have short names: weighting, entropy, batch, accumulation and log_every (steps).
    """
    from hf_langimb import LangImbTrainer

    names = {"weighting": "class_weighting", "entropy": "masked_entropy_weight", "log_every": "logging_steps"}
    names |= {"batch": "per_device_train_batch_size", "accumulation": "gradient_accumulation_steps"}

    def make(model=None, data=rows, eval_dataset=None, mask_length=3, keywords=None, **arguments):
        settings = {"logging_strategy": "steps"} if "log_every" in arguments else {}
        settings |= {names.get(name, name): value for name, value in arguments.items()}
        trainer = LangImbTrainer(
            tiny_bert() if model is None else model,
            training_arguments(**settings),
            train_dataset=data,
            eval_dataset=eval_dataset,
            processing_class=bert_tokenizer,
            **keywords or {},
        )
        if mask_length:
            monkeypatch.setattr(trainer, "_draw_mask", lambda inputs: {"row": 0, "length": mask_length})
        return trainer

    return make


def write_configurations(folder, tables):
    """A dataset with configurations as on the Hub; tables: {configuration: {split: Dataset}}. Gives its path."""
    lines = ["---", "configs:"]
    for config, splits in tables.items():
        lines += [f"- config_name: '{config}'", "  data_files:"]
        for split, rows in splits.items():
            (folder / config).mkdir(parents=True, exist_ok=True)
            rows.to_parquet(folder / config / f"{split}.parquet")
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)


def gradients_of(trainer):
    """Train; {parameter: gradient} of the first optimizer step, float64 copies taken before the step."""
    from transformers import TrainerCallback

    gradients = {}

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            for name, parameter in trainer.model.named_parameters():
                if parameter.grad is not None:
                    gradients.setdefault(name, parameter.grad.double().clone())

    trainer.add_callback(Recorder())
    trainer.train()
    return gradients


@pytest.fixture(scope="module")
def bert():
    """Model and tokenizer of the tests of attributions (of tests/measures, whose modules only they can import)."""
    from attribution_models import make_model, make_tokenizer

    tokenizer = make_tokenizer("bert")
    return make_model("bert", tokenizer), tokenizer
