"""A small BERT trained from scratch: a tokenizer, and masked language modeling on unlabeled pairs.

Every setup of a recipe starts from this one checkpoint, as the setups of arXiv 2402.13016 start from one mBERT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import MaskedLMOutput

from hf_langimb.console import hidden
from hf_langimb.models.counted_tokenizer import MOST_TOKENS, make_tokenizer
from hf_langimb.models.loading import tokenize

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_TEXT = 64  # tokens of a pair
SHAPE: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
SHAPE |= {"max_position_embeddings": LONGEST_TEXT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SHAPE |= {"initializer_range": 0.12}  # 1 / sqrt(hidden size), about: BERT's 0.02 fits a width of 768
MASKED_SHARE = 0.3
LENGTH_ROWS, LENGTH_SHARE = 5000, 0.95  # a sample of rows, and the share of them that is not truncated


def train_tokenizer(texts: list[str]) -> BertTokenizer:
    """A lower-casing WordPiece tokenizer with BERT's layout: words of `texts` are one token, others are characters.

    The vocabulary has a fixed order; the trainer of `tokenizers` breaks ties differently in each process.
    """
    tokenizer = BertTokenizer(do_lower_case=True, strip_accents=False, model_max_length=LONGEST_TEXT)
    rules = tokenizer.backend_tokenizer
    pieces = {piece for text in texts for piece in text.split()}  # few, where the texts are many
    splits = (rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(piece)) for piece in pieces)
    words = {word for split in splits for word, _ in split}
    characters = sorted(set().union(*words))
    tokens = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    tokens += sorted(words - set(characters))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return BertTokenizer(vocabulary, do_lower_case=True, strip_accents=False, model_max_length=LONGEST_TEXT)


class _MaskedBert(BertForMaskedLM):
    """Predicts masked positions only: projecting onto the vocabulary is most of the cost of a small model."""

    def forward(self, input_ids: Any = None, labels: Any = None, **inputs: Any) -> MaskedLMOutput:
        """Loss and logits of the masked positions."""
        hidden = self.bert(input_ids, **inputs).last_hidden_state
        masked = labels != -100
        words = self.cls(hidden[masked])
        return MaskedLMOutput(loss=F.cross_entropy(words, labels[masked]), logits=words)


def pretrain_mini_bert(
    rows: Dataset,
    folder: str | Path,
    *,
    steps: int,
    text_columns: Sequence[str] = ("premise", "hypothesis"),
    tokenizer: PreTrainedTokenizerBase | None = None,
    shape: Mapping[str, Any] = SHAPE,
    learning_rate: float = 2e-3,
) -> None:
    """Write tokenizer and pre-trained model to `folder` (masked language modeling).

    Args:
        rows: texts or pairs of texts, without labels.
        folder: read by `AutoModelForSequenceClassification.from_pretrained` afterwards.
        steps: optimizer steps of 32 rows.
        text_columns: one column, or two for pairs.
        tokenizer: its `model_max_length` is the number of the model's positions; None: `train_tokenizer` of the texts.
        shape: of the model, fields of `BertConfig`.
        learning_rate: the largest; it rises over 6 % of the steps, and falls to 0.
    """
    set_seed(0)
    rows = rows.select_columns(list(text_columns))
    tokenizer = tokenizer or train_tokenizer([text for column in text_columns for text in rows[column]])
    known = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    known["max_position_embeddings"] = tokenizer.model_max_length
    model = _MaskedBert(BertConfig(**dict(shape) | known))
    settings = {"warmup_steps": 0.06, "weight_decay": 0.01, "train_sampling_strategy": "group_by_length"}
    settings |= {"per_device_train_batch_size": 32, "learning_rate": learning_rate, "max_steps": steps, "seed": 0}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": hidden(), "dataloader_pin_memory": False}
    quiet["use_cpu"] = PartialState().device.type == "cpu"  # as the recipe decided
    arguments = TrainingArguments(str(folder), logging_steps=max(steps // 6, 1), **settings, **quiet)
    encoded = tokenize(rows, tokenizer, text_columns)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_SHARE)
    trainer = Trainer(model, arguments, collator, encoded, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


def make_mini_bert(rows: Dataset, text_columns: Sequence[str], folder: str | Path, *, steps: int) -> None:
    """Write a small BERT made for texts of any languages to `folder`: its tokenizer, its length, its weights.

    Args:
        rows: with texts and their `language`.
        text_columns: one, or two for pairs.
        folder, steps: as of `pretrain_mini_bert`.
    """
    languages = np.array(rows["language"][:], dtype=object)
    texts = np.array([rows[column][:] for column in text_columns], dtype=object)
    tokenizer = make_tokenizer({name: texts[:, languages == name].ravel().tolist() for name in sorted({*languages})})
    sample = np.random.default_rng(0).permutation(len(rows))[:LENGTH_ROWS]
    lengths = [len(ids) for ids in tokenizer(*texts[:, sample].tolist())["input_ids"]]
    tokenizer.model_max_length = min(int(np.ceil(np.quantile(lengths, LENGTH_SHARE) / 8)) * 8, MOST_TOKENS)
    pretrain_mini_bert(rows, folder, steps=steps, text_columns=text_columns, tokenizer=tokenizer)
