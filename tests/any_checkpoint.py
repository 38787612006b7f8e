"""Small classifiers of many families, with a tokenizer of each kind, and their logits row by row without padding."""

import random

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(30)]
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
POSITIONS = {"max_position_embeddings": 32}
SEQ2SEQ = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, **POSITIONS}
SEQ2SEQ |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
LLAMA = {**SIZE, **POSITIONS, "num_key_value_heads": 1, "head_dim": 8}
FAMILIES = {  # name: kind of tokenizer, configuration, most tokens
    "bert": ("bert", SIZE | POSITIONS, 32),
    "fnet": ("bert", SIZE | POSITIONS | {"tpu_short_seq_length": 32}, 32),
    "convbert": ("bert", SIZE | POSITIONS | {"embedding_size": 16}, 32),
    "xlnet": ("bert", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}, None),
    "deberta-v2": ("bert", SIZE | POSITIONS | {"type_vocab_size": 0, "relative_attention": True}, 32),
    "distilbert": ("bert", {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, **POSITIONS}, 32),
    **dict.fromkeys(("xlm-roberta", "roberta", "camembert"), ("roberta", SIZE | POSITIONS, 30)),
    **dict.fromkeys(("xlm-roberta-xl", "mpnet", "data2vec-text"), ("roberta", SIZE | POSITIONS, 30)),
    "longformer": ("roberta", SIZE | POSITIONS | {"attention_window": 4}, 30),
    **dict.fromkeys(("bart", "mbart", "plbart"), ("roberta", SEQ2SEQ, 32)),
    **dict.fromkeys(("t5", "umt5"), ("t5", T5, None)),
    "gpt2": ("decoder", GPT, 32),
    "bloom": ("decoder", {"hidden_size": 16, "n_layer": 1, "n_head": 2}, None),
    "mpt": ("decoder", {"d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 32}, 32),
    **dict.fromkeys(("llama", "mistral", "qwen2"), ("decoder", LLAMA, 32)),
    "gemma": ("decoder", LLAMA, 32),  # its configuration has the padding token 0, the tokenizer has none
}
TOKENIZERS = {  # kind: tokens before and after the words, a text, a pair, names
    "bert": (
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    ),
    "roberta": (
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>", "sep_token": "</s>", "mask_token": "<mask>"},
    ),
    "t5": (
        ("<pad>", "</s>", "<unk>"),
        ("$A </s>", "$A </s> $B </s>"),
        {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"},
    ),
    "decoder": (("<unk>", "<bos>", "</s>"), None, {"unk_token": "<unk>", "eos_token": "</s>"}),
}


def make_tokenizer(kind, **changes):
    """A fast tokenizer of words, without a limit."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    specials, template, names = TOKENIZERS[kind]
    ids = {token: i for i, token in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=names["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        used = [(token, i) for token, i in ids.items() if token in " ".join(template)]
        single, pair = template
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    inputs = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"model_input_names": inputs} | names | changes)


def make_classifier(family, num_labels=2, **changes):
    """A new classifier without dropout, whose logits differ much between rows."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family][1] | changes, vocab_size=40, num_labels=num_labels)
    config.initializer_range = config.init_std = 0.5
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return AutoModelForSequenceClassification.from_config(config).eval()


def make_rows(rows=20, longest=12, pair=False):
    """Random texts in two languages, with labels 0 and 1."""
    draw = random.Random(0)

    def text():
        return " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))

    texts = {name: [text() for _ in range(rows)] for name in (["premise", "hypothesis"] if pair else ["text"])}
    ids, languages = [str(i) for i in range(rows)], [("en", "fr")[i % 2] for i in range(rows)]
    return Dataset.from_dict({"id": ids, **texts, "language": languages, "label": [i // 2 % 2 for i in range(rows)]})


def row_by_row(model, tokenizer, dataset, most=None, drop=()):
    """Logits [N, C] of each row alone."""
    names, logits = [name for name in dataset.column_names if name in ("text", "premise", "hypothesis")], []
    for row in dataset:
        inputs = tokenizer(*(row[name] for name in names), truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**{name: value for name, value in inputs.items() if name not in drop})
        logits.append(outputs.logits if hasattr(outputs, "logits") else outputs[0])
    return torch.cat(logits).numpy()
