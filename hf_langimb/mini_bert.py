"""A small BERT made on the spot: tokenizer and masked language modelling on unlabelled pairs.

Every setup of a recipe starts from this one checkpoint, as the setups of arXiv 2402.13016 start from one mBERT.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import MaskedLMOutput

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_SIZE = 4000
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
DROPOUT = 0.0
MASKED_SHARE = 0.3
LEARNING_RATE = 3e-3
BATCH_SIZE = 64
LONGEST_TEXT = 64


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer with BERT's layout, whole words for all words of `texts`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=LONGEST_TEXT,
    )


class _MaskedPositionsLM(BertForMaskedLM):
    """Predicts the masked positions alone: the vocabulary's projection is most of a small model's arithmetic."""

    def forward(self, input_ids: Any = None, labels: Any = None, **inputs: Any) -> Any:
        hidden = self.bert(input_ids, **inputs).last_hidden_state
        masked = labels != -100
        logits = self.cls(hidden[masked])
        return MaskedLMOutput(loss=F.cross_entropy(logits, labels[masked]), logits=logits)


def pretrain_mini_bert(pairs: Dataset, folder: str | Path, *, steps: int, seed: int = 0) -> None:
    """Write tokenizer and pre-trained model to `folder` (masked language modelling on pairs of texts).

    Args:
        pairs: columns `premise` and `hypothesis`, without labels.
        folder: read by `AutoModelForSequenceClassification.from_pretrained` afterwards.
        steps: optimiser steps of 64 pairs.
        seed: of initialisation, order and masks.
    """
    set_seed(seed)
    tokenizer = train_tokenizer(pairs["premise"][:] + pairs["hypothesis"][:])
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=LONGEST_TEXT,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    model = _MaskedPositionsLM(config)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.06,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_steps=max(steps // 6, 1),
        dataloader_pin_memory=False,
        report_to="none",
        seed=seed,
    )
    encoded = pairs.map(_encoder(tokenizer), batched=True, remove_columns=pairs.column_names, desc="Tokenizing")
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_SHARE)
    trainer = Trainer(model, arguments, collator, encoded, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


def _encoder(tokenizer: PreTrainedTokenizerFast) -> Any:
    return lambda rows: tokenizer(rows["premise"], rows["hypothesis"], truncation=True)
