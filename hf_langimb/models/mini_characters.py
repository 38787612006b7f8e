"""A small untrained encoder that reads characters: for names and other short texts in many languages.

In held-out names, parts of words tell what they name (-ische, -landia, per). From a few thousand names a model with
characters, relative positions and a narrow window learns them; pieces of words are too rare, and pretraining on so
little text does not help.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast, set_seed

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_TEXT = 64  # characters
SHAPE: dict[str, Any] = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
SHAPE |= {"local_attention": 4, "global_attn_every_n_layers": 2, "classifier_pooling": "mean"}
SHAPE |= {"initializer_range": 0.1, "initializer_cutoff_factor": 3.0, "max_position_embeddings": LONGEST_TEXT}
SHAPE |= dict.fromkeys(["embedding_dropout", "mlp_dropout", "attention_dropout", "classifier_dropout"], 0.1)


def character_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each character of the texts, and BERT's layout."""
    tokens = [*SPECIAL_TOKENS, *sorted(set().union(*texts))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    ids = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST_TEXT,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
    )


def write_mini_characters(texts: Iterable[str], folder: str | Path) -> None:
    """Write the tokenizer of the texts and an untrained encoder to `folder`, the same in every process."""
    set_seed(0)
    tokenizer = character_tokenizer(texts)
    ids = dict.fromkeys(["bos_token_id", "cls_token_id"], tokenizer.cls_token_id)
    ids |= dict.fromkeys(["eos_token_id", "sep_token_id"], tokenizer.sep_token_id)
    config = ModernBertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ids, **SHAPE)
    ModernBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
