"""A small BERT trained from scratch: a tokenizer, and masked language modeling on unlabeled texts.

Every setup of a recipe starts from this one checkpoint, as the setups of arXiv 2402.13016 start from one mBERT. That of
mini-XNLI is a BERT that reads [CLS]. That of a user's texts is a ModernBERT that averages over tokens: with a few
thousand rows and no large pretraining, [CLS] does not learn where to look.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import MaskedLMOutput

from hf_langimb.console import hidden
from hf_langimb.models.counted_tokenizer import make_tokenizer, usual_length
from hf_langimb.models.loading import tokenize

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_TEXT = 64  # tokens of a pair
SHAPE: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
SHAPE |= {"max_position_embeddings": LONGEST_TEXT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SHAPE |= {"initializer_range": 0.12}  # 1 / sqrt(hidden size), about: BERT's 0.02 fits a width of 768
MASKED_SHARE = 0.3
OWN_SHAPE: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}  # for a user's texts
OWN_SHAPE |= {"intermediate_size": 128, "classifier_pooling": "mean", "global_attn_every_n_layers": 1}
OWN_SHAPE |= dict.fromkeys(["embedding_dropout", "mlp_dropout", "classifier_dropout"], 0.1)
OWN_SHAPE |= {"sparse_prediction": True}  # masked positions only: the vocabulary is most of the cost
OWN_PIECES, OWN_STEPS = 8_000, 500


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
    model: PreTrainedModel | None = None,
    learning_rate: float = 2e-3,
) -> None:
    """Write tokenizer and pretrained model to `folder` (masked language modeling).

    Args:
        rows: texts or pairs of texts; labels are not read.
        folder: read by `AutoModelForSequenceClassification.from_pretrained` afterwards.
        steps: optimizer steps of 32 rows.
        text_columns: one column, or two for pairs.
        tokenizer: None: that of mini-XNLI, from these texts.
        model: with a masked-language-modeling head, changed in place; None: that of mini-XNLI.
        learning_rate: the highest, reached after 6% of the steps.
    """
    set_seed(0)
    rows = rows.select_columns(list(text_columns))
    tokenizer = tokenizer or train_tokenizer([text for column in text_columns for text in rows[column]])
    model = model or _MaskedBert(BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SHAPE))
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


def make_mini_bert(
    rows: Dataset,
    folder: str | Path,
    *,
    text_columns: Sequence[str],
    language_column: str = "language",
    steps: int = OWN_STEPS,
) -> None:
    """Write a tokenizer and a small encoder made from a user's training texts, of any languages, to `folder`.

    Args:
        rows: texts or pairs of texts with their language; labels are not read.
        folder: read by `AutoModelForSequenceClassification.from_pretrained` afterwards.
        text_columns: one column, or two for pairs.
        language_column: so that large languages do not take all pieces of the tokenizer.
        steps: of the pretraining, of 32 rows each.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for language, *row in zip(rows[language_column], *(rows[column] for column in text_columns), strict=True):
        texts[str(language)] += row
    tokenizer = make_tokenizer(texts, size=OWN_PIECES)
    tokenizer.model_max_length = usual_length(rows, tokenizer, text_columns)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    tokens |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    set_seed(0)
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length, **OWN_SHAPE, **tokens
        )
    )
    pretrain_mini_bert(
        rows, folder, steps=steps, text_columns=text_columns, tokenizer=tokenizer, model=model, learning_rate=3e-3
    )
