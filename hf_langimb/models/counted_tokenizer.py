"""A tokenizer for texts of any languages and scripts, made on the spot and the same in every process.

Pieces are counted: frequent substrings of words first, then those that the best segmentation of the words uses (the
unigram language model of arXiv 1804.10959, with Viterbi counts). Nothing depends on the order of a set or of threads.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from datasets import Dataset
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = 2_000_000  # of all texts that pieces are counted in
LONGEST_PIECE = 12  # characters
SHARE_OF_CHARACTERS = 3 / 8  # of the vocabulary, at most: scripts with thousands of characters leave room for words
MOST_TOKENS = 128


def make_tokenizer(texts: Mapping[str, Sequence[str]], *, size: int = 16_000) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer with BERT's layout (`[CLS] A [SEP] B [SEP]`), whose pieces are counted in `texts`.

    Args:
        texts: of each language. Large languages do not crowd out small ones: at most `CHARACTERS` are read, equally
            many of each language, and counts are divided by the root of the language's characters.
        size: tokens at most, special ones included.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    scores = _pieces(_words(texts, tokenizer), size - len(SPECIAL_TOKENS))
    tokenizer.model = _unigram(scores)
    ids = [(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MOST_TOKENS,
        model_input_names=["input_ids", "attention_mask"],  # token types are there on request
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
    )


def usual_length(rows: Dataset, tokenizer: PreTrainedTokenizerBase, text_columns: Sequence[str]) -> int:
    """Tokens that 95% of (at most 10,000) rows do not exceed, up to a multiple of 8 and to `MOST_TOKENS`."""
    drawn = rows.select(range(0, len(rows), -(-len(rows) // 10_000)))
    encoded = tokenizer(*(drawn[column][:] for column in text_columns), truncation=True, max_length=MOST_TOKENS)
    usual = np.percentile([len(ids) for ids in encoded["input_ids"]], 95)
    return min(MOST_TOKENS, 8 * math.ceil(usual / 8))


def _words(texts: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> dict[str, float]:
    """Words of a sample of the texts with their counts, those of small languages raised."""
    counts: dict[str, Counter[str]] = {}
    for language in sorted(texts):
        counts[language] = Counter()
        for text in _sample(texts[language], CHARACTERS // len(texts)):
            split = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
            counts[language].update(word for word, _ in split)
    sizes = {language: sum(len(word) * n for word, n in words.items()) for language, words in counts.items()}
    total: dict[str, float] = defaultdict(float)
    for language, words in counts.items():
        raised = math.sqrt(max(sizes.values()) / max(sizes[language], 1))
        for word, count in words.items():
            total[word] += count * raised
    return total


def _sample(texts: Sequence[str], characters: int) -> Iterator[str]:
    """Texts in a random order, until they have so many characters."""
    for row in np.random.default_rng(0).permutation(len(texts)):
        text = texts[int(row)][:characters]
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _pieces(words: Mapping[str, float], size: int) -> dict[str, float]:
    """The pieces with which the words need few tokens, with their counts, most frequent first."""
    letters: dict[str, float] = defaultdict(float)
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    letters = _largest(letters, int(size * SHARE_OF_CHARACTERS))
    substrings = _substrings(words)
    covered = {piece: count * len(piece) for piece, count in substrings.items()}
    pieces = letters | {piece: substrings[piece] for piece in _largest(covered, 4 * size)}
    for kept in (2 * size, size, size):
        used: dict[str, float] = defaultdict(float)
        model = _unigram(pieces)
        for word, count in words.items():
            for token in model.tokenize(word):
                used[token.value] += count
        longer = {piece: used[piece] for piece in pieces if piece in used and piece not in letters}
        rare = min(used.values(), default=1) / 2
        pieces = {letter: used.get(letter, rare) for letter in letters} | _largest(longer, kept - len(letters))
    return _largest(pieces, size)


def _substrings(words: Mapping[str, float]) -> dict[str, float]:
    """Substrings of 2 to `LONGEST_PIECE` characters that occur at least twice, with their counts."""
    found: dict[str, float] = {}
    frequent: dict[str, float] | None = None  # of one character less: no other can be frequent
    for length in range(2, LONGEST_PIECE + 1):
        counts: dict[str, float] = defaultdict(float)
        for word, count in words.items():
            for start in range(len(word) - length + 1):
                if frequent is None or word[start : start + length - 1] in frequent:
                    counts[word[start : start + length]] += count
        frequent = {piece: count for piece, count in counts.items() if count >= 2}
        found |= frequent
    return found


def _largest(counts: Mapping[str, float], size: int) -> dict[str, float]:
    """The pieces with the largest counts, ties in the order of their characters."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size])


def _unigram(counts: Mapping[str, float]) -> models.Unigram:
    """The model that segments a word into its most probable pieces."""
    total = sum(counts.values())
    pieces = [(piece, math.log(count / total)) for piece, count in counts.items()]
    return models.Unigram([*((token, 0.0) for token in SPECIAL_TOKENS), *pieces], unk_id=1)
