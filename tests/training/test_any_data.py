"""Models that are any module, and data that are no `datasets.Dataset`: trained as the Trainer reads them."""

from collections.abc import Mapping
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from by_hand import assert_same_weights
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_langimb import cell_weights

OUTPUTS = {
    "ModelOutput": lambda logits: SequenceClassifierOutput(logits=logits),
    "dictionary with a loss": lambda logits: {"loss": None, "logits": logits},
    "dictionary": lambda logits: {"logits": logits},
    "tuple": lambda logits: (logits,),
    "tuple without a loss": lambda logits: (None, logits),
    "tuple with hidden states": lambda logits: (logits, torch.zeros(len(logits), 4, 2)),
    "object": lambda logits: SimpleNamespace(logits=logits),
}


class Module(torch.nn.Module):
    """A classifier without a configuration."""

    def __init__(self, inner, outputs, config=None):
        super().__init__()
        self.inner, self.outputs = inner, outputs
        if config is not None:
            self.config = config

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None):
        return self.outputs(self.inner(input_ids, attention_mask, token_type_ids=token_type_ids).logits)


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_any_module_trains_as_its_classifier(build, tiny_bert, rows, outputs, configured):
    settings = {"weighting": "per_language", "entropy": 1.0, "max_steps": 3, "batch": 8}
    expected = build(**settings)
    expected.train()
    inner = tiny_bert()
    trainer = build(Module(inner, OUTPUTS[outputs], inner.config if configured else None), **settings)
    trainer.train()
    assert trainer.weights.tolist() == expected.weights.tolist()
    assert_same_weights(inner, dict(expected.model.named_parameters()))
    if outputs != "object":  # which `Trainer` itself does not evaluate
        assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected.evaluate(rows)["eval_loss"], abs=1e-6)
        predicted = trainer.predict(rows).predictions
        predicted = predicted[0] if isinstance(predicted, tuple) else predicted
        assert predicted == pytest.approx(expected.predict(rows).predictions, abs=1e-5)


class Torch(torch.utils.data.Dataset):
    """Rows by index, each made by a function."""

    def __init__(self, rows, row):
        self.rows, self.row = list(rows), row

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.row(self.rows[index])


class Frame(torch.utils.data.Dataset):
    """Over a data frame, whose missing rows are a KeyError."""

    def __init__(self, rows):
        self.frame = pd.DataFrame(list(rows))

    def __len__(self):
        return len(self.frame)

    def __getitem__(self, index):
        return self.frame.loc[index].to_dict()


class Lazy(Mapping):
    """A row that is a mapping of its own kind."""

    def __init__(self, row):
        self.row = row

    def __getitem__(self, key):
        return self.row[key]

    def __iter__(self):
        return iter(self.row)

    def __len__(self):
        return len(self.row)


SETS = {
    "labels as tensors": lambda rows: Torch(rows, lambda row: row | {"label": torch.tensor(row["label"])}),
    "all as tensors": lambda rows: Torch(rows, lambda row: row | {"label": torch.tensor([row["label"]])[0]}),
    "languages as tensors": lambda rows: Torch(
        rows, lambda row: row | {"language": torch.tensor(["en", "fr", "ja"].index(row["language"]))}
    ),
    "numpy": lambda rows: Torch(rows, lambda row: row | {"label": pd.Series([row["label"]]).to_numpy()[0]}),
    "a data frame": Frame,
    "mappings": lambda rows: Torch(rows, Lazy),
    "a list": list,
    "a subset": lambda rows: torch.utils.data.Subset(Torch(rows, dict), range(len(rows))),
    "concatenated": lambda rows: torch.utils.data.ConcatDataset(
        [Torch(rows.select(range(9)), dict), Torch(rows.select(range(9, 21)), dict)]
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_data_sets_are_read_by_index(build, rows, kind):
    settings = {"weighting": "per_language", "max_steps": 3, "batch": 8}
    expected = build(**settings)
    expected.train()
    trainer = build(data=SETS[kind](rows), **settings)
    assert trainer.distribution.counts.tolist() == expected.distribution.counts.tolist()
    assert trainer.distribution == expected.distribution or kind == "languages as tensors"
    trainer.train()
    assert_same_weights(trainer.model, dict(expected.model.named_parameters()))


def test_what_is_trained_on_is_counted(build, rows):
    flipped = rows.with_transform(lambda batch: batch | {"label": [2 - label for label in batch["label"]]})
    trainer = build(data=flipped, weighting="per_language", remove_unused_columns=False)
    assert trainer.distribution.counts[0].tolist() == [1, 2, 4]
    weights = cell_weights(trainer.distribution, "per_language")
    assert weights[0] == pytest.approx([7 / 3, 7 / 6, 7 / 12])
    trainer.train()


def test_a_mask_row_is_never_longer_than_the_model_reads(build, tiny_bert, rows, bert_tokenizer):
    long = rows.select([0, 1]).map(
        lambda row: {"input_ids": [2, *[7] * 22, 3], "attention_mask": [1] * 24, "token_type_ids": [0] * 24}
    )
    joined = long.map(
        lambda row, i: {"input_ids": [2, 7, 3, 7, 3, 7, 3, 7, 3, 3, 3, 3] if i else row["input_ids"]}, with_indices=True
    )
    joined = joined.map(
        lambda row: {
            name: [int(name == "attention_mask")] * len(row["input_ids"])
            for name in ("attention_mask", "token_type_ids")
        }
    )
    trainer = build(
        tiny_bert(max_position_embeddings=24), data=joined, entropy=1.0, mask_length=None, max_steps=40, batch=2
    )
    trainer.train()


def test_memory_is_pinned_only_for_a_device(training_arguments):
    assert training_arguments().dataloader_pin_memory is False


def test_launching_on_the_cpu_trains_there(training_arguments, monkeypatch):
    """`accelerate launch --cpu`, which TrainingArguments takes for the state and not for its own device."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert training_arguments(use_cpu=False).use_cpu
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    assert not training_arguments(use_cpu=False).use_cpu
