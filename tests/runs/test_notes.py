"""What a reader must know about tokens: languages that a tokenizer does not know."""

import pytest
from datasets import Dataset

from hf_langimb.models.counted_tokenizer import make_tokenizer
from hf_langimb.runs import notes
from hf_langimb.runs.notes import token_notes, token_shares

ENGLISH = ["the house is big", "a small house", "the big garden", "is the garden small"] * 5


@pytest.mark.parametrize("foreign", ["\u0e1a\u0e49\u0e32\u0e19 \u0e43\u0e2b\u0e0d\u0e48", "\u5bb6 \u5927\u304d\u3044"])
def test_a_script_without_training_texts_is_unknown_word_by_word(foreign):
    """Each word is a space, which is known, and one unknown token."""
    tokenizer = make_tokenizer({"en": ENGLISH}, size=60)
    rows = {"text": [*ENGLISH, *[foreign] * 5], "language": ["en"] * 20 + ["xx"] * 5, "label": [0, 1] * 12 + [0]}
    shares = token_shares(Dataset.from_dict(rows), ["text"], tokenizer, None)
    assert shares["xx"]["unknown_share"] == 1
    assert shares["en"]["unknown_share"] == 0
    ((warning,), _) = token_notes({"training texts": shares}, tokenizer, None)
    assert "Most tokens in xx (100%) are unknown to this model's tokenizer" in warning


def test_truncated_texts_are_noted_for_each_set_by_its_real_rows(monkeypatch):
    tokenizer = make_tokenizer({"en": ENGLISH}, size=60)
    short, long = ["big house"] * 90, ["big house " * 50] * 10
    rows = {"text": short + long, "language": ["en"] * 90 + ["sw"] * 10, "label": [0, 1] * 50}
    monkeypatch.setattr(notes, "COUNTED", 40)  # equally many of each cell are read
    shares = token_shares(Dataset.from_dict(rows), ["text"], tokenizer, 16)
    assert (shares["en"]["texts"], shares["sw"]["texts"]) == (90, 10)
    fine = {"en": shares["en"]}
    (_, said) = token_notes({"training texts": fine, "test texts": shares}, tokenizer, 16)
    assert said == ["10.0% of the test texts are longer than 16 tokens and are truncated."]


def test_where_the_unknown_token_is_also_another_one_no_token_is_unknown():
    tokenizer = make_tokenizer({"en": ENGLISH}, size=60)
    tokenizer.unk_token = tokenizer.cls_token  # as OPT's </s>
    rows = {"text": ENGLISH, "language": ["en"] * 20, "label": [0, 1] * 10}
    assert token_shares(Dataset.from_dict(rows), ["text"], tokenizer, None)["en"]["unknown_share"] == 0
