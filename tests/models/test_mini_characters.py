"""The encoder of characters: its tokens, and a classifier that starts from it."""

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_langimb.models.mini_characters import LONGEST_TEXT, character_tokenizer, write_mini_characters

TEXTS = ["Norvège", "US-Dollar (1999)", "人民币", "km/h"]


def test_a_token_is_a_character_of_the_texts_with_case_and_spaces():
    tokenizer = character_tokenizer(TEXTS)
    for text in TEXTS:
        assert tokenizer.tokenize(text) == [*text]
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.tokenize("Norve\u0300ge") == [*"Norvège"]
    assert tokenizer("q€")["input_ids"] == [2, 1, 1, 3]
    assert len(tokenizer("m" * 100, truncation=True)["input_ids"]) == LONGEST_TEXT
    assert character_tokenizer(reversed(TEXTS)).get_vocab() == tokenizer.get_vocab()


def test_a_classifier_starts_from_the_same_untrained_encoder(tmp_path):
    for place in ("a", "b"):
        write_mini_characters(TEXTS, tmp_path / place)
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / place, num_labels=5) for place in ("a", "b")
    )
    weights, again = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert tokenizer.tokenize("km/h") == [*"km/h"]
    logits = first(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert logits.shape == (4, 5) and logits.isfinite().all()
