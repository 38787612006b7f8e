"""The small encoder made from a user's own texts: its tokenizer, and a model that trains, explains and masks."""

import os
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_langimb import LangImbTrainer, attribute
from hf_langimb.models.counted_tokenizer import make_tokenizer, usual_length
from hf_langimb.models.mini_bert import make_mini_bert

TEXTS = {
    "en": ["The queen bought a black hat yesterday.", "We don't like cold tea.", "Cold tea, again: 25 cups!"],
    "th": ["พระราชินีซื้อหมวกสีดำเมื่อวานนี้", "เราไม่ชอบชาเย็น", "ชาเย็นอีกแล้ว"],
    "zh": ["女王昨天买了一顶黑帽子。", "我们不喜欢冷茶。", "又是冷茶。"],
    "km": ["មហាក្សត្រិយានីបានទិញមួកខ្មៅកាលពីម្សិលមិញ", "យើងមិនចូលចិត្តតែត្រជាក់ទេ", "តែត្រជាក់ម្តងទៀត"],
    "ar": ["اشترت الملكة قبعة سوداء أمس.", "نحن لا نحب الشاي البارد.", "شاي بارد مرة أخرى."],
}
ALL = [text for texts in TEXTS.values() for text in texts]
PRINTED = f"""
from hf_langimb.models.counted_tokenizer import make_tokenizer
texts = {{language: texts * 3 for language, texts in {TEXTS!r}.items()}}
print(ascii(make_tokenizer(texts).backend_tokenizer.to_str()))
"""


def test_the_same_tokenizer_in_every_process():
    printed = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-c", PRINTED]
        printed.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(printed) == 1 and len(printed.pop()) > 1000


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer({language: texts * 3 for language, texts in TEXTS.items()})


def test_no_script_is_unknown_and_texts_come_back(tokenizer):
    for text in ALL:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) < 3 + len(text) / 2  # pieces are longer than characters, also without spaces
        plain = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == plain
    assert tokenizer.backend_tokenizer.normalizer.normalize_str("  Ｃold\u00a0\n Tea ") == "cold tea"
    assert tokenizer.unk_token_id in tokenizer("שלום")["input_ids"]  # a script that it never saw
    assert tokenizer([""], [""])["input_ids"] == [[2, 3, 3]]


def test_a_long_word_is_split_not_unknown(tokenizer):
    assert tokenizer.unk_token_id not in tokenizer(TEXTS["th"][0] * 100)["input_ids"]


def test_pairs_have_token_types(tokenizer):
    pair = tokenizer("cold tea", "black hat", return_token_type_ids=True)
    tokens, types = tokenizer.convert_ids_to_tokens(pair["input_ids"]), pair["token_type_ids"]
    end = tokens.index("[SEP]")
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    assert types == [0] * (end + 1) + [1] * (len(tokens) - end - 1)


def test_size_and_small_languages(tokenizer):
    assert len(tokenizer) < 16_000
    many = {"en": [f"word{i} filler{i % 97} and more" for i in range(3000)], "th": TEXTS["th"]}
    small = make_tokenizer(many, size=200)
    assert len(small) == 200
    assert "ชาเย็น" in "".join(small.get_vocab())  # its pieces are not crowded out
    assert len(small(TEXTS["th"][1])["input_ids"]) < len(TEXTS["th"][1])
    empty = make_tokenizer({"en": [""], "fr": []})
    assert len(empty) >= 5 and empty("a")["input_ids"] == [2, 1, 3]


LANGUAGES = [language for language, texts in TEXTS.items() for _ in texts]
ROWS = Dataset.from_dict({"text": ALL, "label": [0, 1, 2] * len(TEXTS), "language": LANGUAGES})


def test_a_model_that_trains_with_masked_entropy_and_explains(training_arguments, tmp_path):
    make_mini_bert(ROWS, tmp_path / "start", text_columns=["text"], steps=2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "start", num_labels=3)
    encoded = ROWS.map(lambda row: tokenizer(row["text"]), remove_columns="text")
    longest = max(map(len, encoded["input_ids"]))
    assert model.config.max_position_embeddings == tokenizer.model_max_length == -8 * (-longest // 8)
    arguments = training_arguments(masked_entropy_weight=1.0, max_steps=60, learning_rate=3e-3)
    trainer = LangImbTrainer(model, arguments, train_dataset=encoded, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(tmp_path / "trained")
    logits = trainer.predict(encoded).predictions
    assert (np.argmax(logits, axis=1) == encoded["label"]).mean() > 0.9
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "trained")(ALL, padding=True, return_tensors="pt")
    np.testing.assert_allclose(loaded(**inputs).logits.detach(), logits, atol=1e-4)
    store = attribute(loaded, tokenizer, ROWS.select([0, 3]), method="owen_orders", orders=4, out=tmp_path / "store")
    assert len(store) == 2


def test_pairs_give_the_same_model_twice(tmp_path):
    rows = ROWS.add_column("other", ALL[::-1])
    for name in "12":
        make_mini_bert(rows, tmp_path / name, text_columns=["text", "other"], steps=2)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "12")
    assert first == second
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_length_is_that_of_most_rows(tokenizer):
    texts = ["cold tea"] * 97 + ["cold tea " * 100] * 3
    assert usual_length(Dataset.from_dict({"text": texts}), tokenizer, ["text"]) == 8
    assert usual_length(Dataset.from_dict({"text": texts[-3:]}), tokenizer, ["text"]) == 128
