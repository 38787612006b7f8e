"""Languages and labels of every kind, collators and the order of the rows."""

import itertools
import warnings

import pytest
from by_hand import assert_gradients
from conftest import SKEWED
from datasets import ClassLabel, Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from hf_langimb import JointDistribution


@pytest.mark.parametrize("remove_unused", [True, False])
@pytest.mark.parametrize("kind", ["string", "ClassLabel", "torch ClassLabel", "number"])
def test_language_columns_of_every_kind_train_alike(build, tiny_bert, rows, kind, remove_unused):
    data, names, counts = rows, ["en", "fr", "ja"], SKEWED.values()
    if "ClassLabel" in kind:  # its order, sorted or not, is that of the axis
        names = ["ja", "en", "fr"]
        counts = [SKEWED[name] for name in names]
        data = rows.cast_column("language", ClassLabel(names=names))
        data = data.with_format("torch") if "torch" in kind else data
    elif kind == "number":
        numbers = [3 + names.index(language) for language in rows["language"]]
        data = rows.remove_columns("language").add_column("language", numbers)
        names = ["3", "4", "5"]
    trainer = build(tiny_bert().double(), data, weighting="per_language", remove_unused_columns=remove_unused, batch=21)
    assert trainer.distribution == JointDistribution(names, [0, 1, 2], list(counts))
    assert_gradients(trainer, tiny_bert().double(), rows)


def test_rows_may_be_a_list_of_mappings_or_a_stream_and_another_collator_is_wrapped(
    build, tiny_bert, rows, bert_tokenizer
):
    collator = {"data_collator": DataCollatorWithPadding(bert_tokenizer, pad_to_multiple_of=8)}
    for data, keywords in ((list(rows), {}), (rows.to_iterable_dataset(), {}), (rows, collator)):
        trainer = build(tiny_bert().double(), data, weighting="per_language", batch=21, keywords=keywords)
        assert_gradients(trainer, tiny_bert().double(), rows)


def test_names_of_a_class_label_go_into_a_configuration_without_names(build, tiny_bert, rows, tmp_path):
    names = ["entailment", "neutral", "contradiction"]
    data = rows.cast_column("label", ClassLabel(names=names))
    trainer = build(data=data, eval_dataset=data, weighting="per_language", entropy=1.0)
    trainer.train()
    trainer.save_model(tmp_path)
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path).config
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: i for i, name in enumerate(names)}
    assert config.langimb["labels"] == names
    own = {0: "yes", 1: "maybe", 2: "no"}
    assert build(tiny_bert(id2label=own), data).model.config.id2label == own


def test_training_is_quiet(build, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer = build(eval_dataset=rows, weighting="per_language", entropy=1.0)
        trainer.train()
        trainer.evaluate()


def test_batches_grouped_by_length_come_shuffled_and_whole(build):
    lengths = [3 + row % 40 for row in range(323)]
    columns = {"input_ids": [[5] * n for n in lengths], "attention_mask": [[1] * n for n in lengths]}
    columns |= {"label": [row % 3 for row in range(323)], "language": ["fr", "en"] * 161 + ["fr"]}
    trainer = build(data=Dataset.from_dict(columns), train_sampling_strategy="group_by_length", batch=4)
    order = list(trainer._get_train_sampler())
    assert sorted(order) == list(range(323))
    batches = [[lengths[row] for row in order[start : start + 4]] for start in range(0, 320, 4)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 5  # little padding
    longest = [max(batch) for batch in batches]
    ups = sum(after > before for before, after in itertools.pairwise(longest))
    assert 20 < ups < 60  # the stock sampler sorts them: hardly any
