"""Language columns of every kind become positions on the language axis."""

import pytest
import torch
from transformers import DataCollatorWithPadding

from hf_langimb import DataCollatorWithLanguage

AXIS = ("en", "fr", "ja")


def rows(tokenizer, languages, column="language"):
    texts = ["w1 w2 w3", "w4", "w5 w6"]
    return [
        {**tokenizer(text), "label": label, column: language}
        for label, (text, language) in enumerate(zip(texts, languages, strict=False))
    ]


@pytest.mark.parametrize(
    ("axis", "column", "ids"),
    [
        (AXIS, ["ja", "en", "fr"], [2, 0, 1]),
        (AXIS, [2, 0, 1], [2, 0, 1]),
        (AXIS, [*torch.tensor([2, 0, 1])], [2, 0, 1]),  # a ClassLabel under set_format("torch")
        (AXIS, ["ja", "de", None], [2, -1, -1]),
        (AXIS, [3, -1, 1], [-1, -1, 1]),
        (("12", "7", "en"), [7, 12, "en"], [1, 0, 2]),  # a column of numbers: names, not positions
        (("12", "7"), [0, "7", 1], [-1, 1, -1]),
    ],
)
def test_languages_become_positions_on_the_axis(bert_tokenizer, axis, column, ids):
    batch = DataCollatorWithLanguage(bert_tokenizer, languages=axis)(rows(bert_tokenizer, column))
    assert batch["language_ids"].tolist() == ids
    assert batch["language_ids"].dtype == torch.int64
    assert "language" not in batch


def test_the_rest_of_the_batch_is_padded_as_ever_and_the_rows_stay_whole(bert_tokenizer):
    features = rows(bert_tokenizer, AXIS)
    plain = DataCollatorWithPadding(bert_tokenizer)(
        [{name: value for name, value in row.items() if name != "language"} for row in features]
    )
    batch = DataCollatorWithLanguage(bert_tokenizer, languages=AXIS)(features)
    assert set(batch) == {*plain, "language_ids"}
    assert all(batch[name].equal(plain[name]) for name in plain)
    assert [row["language"] for row in features] == list(AXIS)


def test_another_collator_does_the_rest_and_never_sees_the_language(bert_tokenizer):
    seen = []

    def first_token(features):
        seen.extend(features)
        return {"input_ids": torch.tensor([row["input_ids"][:1] for row in features])}

    collate = DataCollatorWithLanguage(languages=AXIS, collator=first_token)
    batch = collate(rows(bert_tokenizer, AXIS))
    assert batch["input_ids"].tolist() == [[2], [2], [2]]
    assert batch["language_ids"].tolist() == [0, 1, 2]
    assert all("language" not in row for row in seen)


def test_rows_without_a_language_or_of_equal_length(bert_tokenizer):
    collate = DataCollatorWithLanguage(bert_tokenizer, languages=AXIS, language_column="lang")
    assert "language_ids" not in collate(
        [{**bert_tokenizer("w1 w2"), "label": 0}, {**bert_tokenizer("w3"), "label": 1}]
    )
    assert collate(rows(bert_tokenizer, AXIS, column="lang"))["language_ids"].tolist() == [0, 1, 2]
    first, second = {"input_ids": [1, 2], "label": 1, "language": "fr"}, {"input_ids": [3, 4], "label": 0}
    batch = DataCollatorWithLanguage(languages=AXIS)([first, second | {"language": "en"}])  # without a tokenizer
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 2], [3, 4]],
        "labels": [1, 0],
        "language_ids": [1, 0],
    }
