"""Sentences, tokenizers of three families trained on them, and small models, for the tests of attributions."""

import itertools
from functools import cache

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

SENTENCES = [  # whole trees fit the budget of the first of each, not of the others
    "It rains.",
    "He didn't say (or so I heard), that the train had left; did he?",
    "L'été dernier, nous n'avons pas vu la mer.",
    "Où est-il allé ? « À la gare », dit-elle, et rien d'autre.",
    "猫が好きです。",
    "昨日、友達と一緒に映画を見ました。とても面白かったです。",
    "我喜欢喝茶。",
    "他说他明天会来，但是我不相信他的话。",
]


PAIRS = list(itertools.pairwise(SENTENCES))


STYLES = {  # first and last token, between two texts, as the family does it
    "bert": ("[CLS]", "[SEP]", "[SEP]"),
    "xlm-roberta": ("<s>", "</s>", "</s> </s>"),
    "deberta-v2": ("[CLS]", "[SEP]", "[SEP]"),
}


@cache
def make_tokenizer(style):
    """A tokenizer of the family's kind, trained on the sentences: word pieces, or pieces with the space in front."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    first, last, between = STYLES[style]
    unknown, pad, mask = ("<unk>", "<pad>", "<mask>") if style == "xlm-roberta" else ("[UNK]", "[PAD]", "[MASK]")
    specials = list(dict.fromkeys([pad, unknown, first, last, mask]))
    if style == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=specials, show_progress=False)
        tokenizer.decoder = decoders.WordPiece()
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=specials, unk_token=unknown, show_progress=False
        )
        tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {between} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    names = ["input_ids", *(["token_type_ids"] if style != "xlm-roberta" else []), "attention_mask"]
    tokens = {"unk_token": unknown, "pad_token": pad, "mask_token": mask, "cls_token": first, "sep_token": last}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens, model_max_length=128, model_input_names=names)


def make_model(style, tokenizer, dtype=torch.float64):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = {"bert": {}, "xlm-roberta": {"type_vocab_size": 1}, "deberta-v2": {"type_vocab_size": 2}}[style]
    size |= {"vocab_size": len(tokenizer), "num_labels": 3, "max_position_embeddings": 136}
    config = AutoConfig.for_model(style, **size, **shape, initializer_range=0.5, pad_token_id=tokenizer.pad_token_id)
    return AutoModelForSequenceClassification.from_config(config).eval().to(dtype)


def rows(number=12, pair=False, **changes):
    chosen = [SENTENCES[i % len(SENTENCES)] for i in range(number)]
    columns = {"premise": chosen, "hypothesis": chosen[::-1]} if pair else {"text": chosen}
    columns |= {
        "id": [f"row-{i}" for i in range(number)],
        "language": [["en", "fr", "ja", "zh"][i % 8 // 2] for i in range(number)],
        "label": [i % 3 for i in range(number)],
    }
    return Dataset.from_dict(columns | changes)
