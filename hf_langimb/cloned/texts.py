"""What a setup reads: windows and held-out texts of each language, of a Markov language or of datasets."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from transformers import AutoTokenizer

from hf_langimb.cloned.arguments import MARKOV, MINI_XNLI, ClonedArguments, SetupArguments
from hf_langimb.cloned.downstream import english_texts
from hf_langimb.cloned.markov import MarkovLanguage
from hf_langimb.cloned.results import OF_PAIR
from hf_langimb.cloned.vocabulary import CloneMap, Vocabulary, real_pair
from hf_langimb.cloned.windows import cut
from hf_langimb.console import one_line
from hf_langimb.data.spec import DataSpec
from hf_langimb.models.counted_tokenizer import make_tokenizer
from hf_langimb.models.loading import loading

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
TEST_SEED = 1_000_003  # of Markov texts to test on, apart from the seeds of trainings
SHUFFLE_SEED = 7
TEXT = "text"  # column of texts
SPACE = "\u2581"  # a token that all tokenizers made here have, like the special ones
UNKNOWN = 0.01  # share of unknown tokens from which it is said
TOGETHER = 256  # texts that are tokenized at once


@dataclass(frozen=True)
class Texts:
    """What a setup reads, in ids of the tokenizers.

    Args:
        vocabulary: of the model.
        train: windows of each language, int[N, context] each.
        test: held-out text of each language, int[M] each.
        padding_id: which is not predicted; None where there is none.
        tokenizer: of language 0; None for Markov languages.
        second_tokenizer: of language 1 of a real pair.
    """

    vocabulary: Vocabulary
    train: list[Ints]
    test: list[Ints]
    padding_id: int | None
    tokenizer: Any = None
    second_tokenizer: Any = None


class MarkovTexts:
    """A Markov language, of which each seed has fresh text; language 0 can be an unrelated one."""

    def __init__(self, data: ClonedArguments) -> None:
        self.data = data
        self.language, self.other = MarkovLanguage(), MarkovLanguage(seed=1)

    @property
    def optimum_perplexity(self) -> float | None:
        """The best possible perplexity."""
        return self.language.optimum_perplexity

    @property
    def fingerprint(self) -> str:
        """Of the texts; these follow from the settings alone."""
        return MARKOV

    @cached_property
    def _tests(self) -> list[Ints]:
        """Held-out text of the language, and of the unrelated one."""
        of = (self.language, self.other)
        return [language.windows(1, self.data.test_tokens, seed=TEST_SEED)[0] for language in of]

    def of(self, setup: SetupArguments, windows: int, seed: int) -> Texts:
        """The texts of a setup for one seed; `windows`: training windows to draw."""
        size, number = self.language.vocabulary_size, setup.languages
        vocabulary = CloneMap(size, number, fraction_cloned=setup.fraction_cloned)
        train, test = self.language.windows(windows, self.data.context, seed=seed), self._tests[0]
        first, first_test = _first(train, test, setup, seed)
        if setup.relation == "unrelated":
            first, first_test = self.other.windows(windows, self.data.context, seed=seed), self._tests[1]
        others = number - 1
        return Texts(vocabulary, [first, *[train] * others], [first_test, *[test] * others], 0)


class Corpus:
    """A dataset of plain text as one text in ids, with its tokenizer."""

    def __init__(
        self, name: str, config: str | None, column: str | None, tokenizer: str | None, data: ClonedArguments
    ) -> None:
        train, test = _split_texts(name, config, column or data.text_column, data.test_share)
        self.tokenizer = _tokenizer(tokenizer, train, data.vocabulary_size)
        self.train = _ids(train, self.tokenizer, data.train_tokens)
        self.test = _ids(test, self.tokenizer, data.test_tokens)
        for what, text, least in (("training", self.train, "one window"), ("test", self.test, "two windows")):
            if len(text) < data.context * (1 + (what == "test")):
                cut_to = what == "training" and data.train_tokens is not None and len(text) == data.train_tokens
                advice = "set a larger --train_tokens" if cut_to else "add text"
                raise ValueError(
                    f"The {what} text of {name} has {len(text):,} tokens, fewer than {least} of {data.context:,}: "
                    f"{advice}, or set a smaller --context."
                )
        if (unknown := float(np.mean(self.train == self.tokenizer.unk_token_id))) > UNKNOWN:
            words = "%s: %.0f%% of the tokens are unknown to the tokenizer: choose another one, or a larger vocabulary."
            logger.warning(words, name, 100 * unknown)


def _tokenizer(name: str | None, texts: Dataset, size: int) -> Any:
    """A fast tokenizer: the one that is named, or one made from texts."""
    if name is None:
        return make_tokenizer({"": texts[TEXT]}, size=size)
    with loading(name):
        found = AutoTokenizer.from_pretrained(name)
    if not found.is_fast:
        raise ValueError(f"{name} has no fast tokenizer: choose one that has.")
    return found


def _padding(tokenizer: Any) -> int | None:
    """The id that is padding alone; None where padding is a token of the texts, or there is none."""
    used = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    return None if tokenizer.pad_token_id in used else tokenizer.pad_token_id


def _ids(texts: Dataset, tokenizer: Any, most: int | None) -> Ints:
    """Texts concatenated, each with its end token, and cut to `most` ids: int32[N]."""
    ends = [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if token is not None][:1]
    parts, count = [np.zeros(0, dtype=np.int32)], 0
    for batch in texts.iter(batch_size=TOGETHER):
        rows = tokenizer(batch[TEXT], add_special_tokens=False, verbose=False)["input_ids"]
        parts += [np.array([*row, *ends], dtype=np.int32) for row in rows]
        count += sum(map(len, parts[-len(rows) :]))
        if most is not None and count >= most:
            break
    joined: Any = np.concatenate(parts)[:most]  # int32: billions of tokens fit the memory
    return joined  # type: ignore[no-any-return]


class CorpusTexts:
    """One dataset of plain text, or two for a real pair of languages."""

    optimum_perplexity: float | None = None

    def __init__(self, data: ClonedArguments) -> None:
        self.data = data
        self.first = Corpus(data.dataset_name, data.config_name, None, data.tokenizer_name, data)

    @property
    def fingerprint(self) -> str:
        """Of the texts in ids: a run is not continued on others."""
        read = [self.first, *([self.second] if self.data.second_dataset_name else [])]
        digest = hashlib.sha256()
        for corpus in read:
            digest.update(corpus.train.tobytes() + corpus.test.tobytes())
        return digest.hexdigest()

    @cached_property
    def second(self) -> Corpus:
        """The other language of a real pair."""
        data = self.data
        name, column = str(data.second_dataset_name), data.second_text_column
        return Corpus(name, data.second_config_name, column, data.second_tokenizer_name, data)

    def of(self, setup: SetupArguments, windows: int, seed: int) -> Texts:
        """The texts of a setup for one seed; `windows` is not used."""
        tokenizer, context, number = self.first.tokenizer, self.data.context, setup.languages
        train, test = cut(self.first.train, context), self.first.test
        if setup.relation in OF_PAIR:
            second, merged = self.second, setup.relation == "merged"
            ours, theirs = tokenizer.get_vocab(), second.tokenizer.get_vocab()
            vocabulary = real_pair(ours, theirs, merged=merged)
            special = {*tokenizer.all_special_tokens, SPACE} & ours.keys() & theirs.keys()
            if merged and vocabulary.shared <= len(special):
                logger.warning("The tokenizers have no token of text in common: merged is almost the same as disjoint.")
            both = [train, cut(second.train, context)]
            return Texts(vocabulary, both, [test, second.test], None, tokenizer, second.tokenizer)
        padding, share = _padding(tokenizer), setup.fraction_cloned
        clones = CloneMap(max(tokenizer.get_vocab().values()) + 1, number, fraction_cloned=share, padding_id=padding)
        first, first_test = _first(train, test, setup, seed)
        others = number - 1
        return Texts(clones, [first, *[train] * others], [first_test, *[test] * others], padding, tokenizer)


def texts_of(data: ClonedArguments) -> MarkovTexts | CorpusTexts:
    """The texts of a recipe.

    Raises:
        ValueError: a dataset that cannot be read or is too short.
    """
    return MarkovTexts(data) if data.dataset_name == MARKOV else CorpusTexts(data)


def _first(train: Ints, test: Ints, setup: SetupArguments, seed: int) -> tuple[Ints, Ints]:
    """Windows and held-out text of language 0: those of its clones, or with their tokens in random order."""
    if setup.relation != "shuffled":
        return train, test
    return shuffled(train, seed), shuffled(test[None], seed)[0]


def shuffled(texts: Ints, seed: int) -> Ints:
    """Each text with its tokens in random order."""
    return np.random.default_rng([seed, SHUFFLE_SEED]).permuted(texts, axis=1)


def _split_texts(name: str, config: str | None, column: str, test_share: float) -> tuple[Dataset, Dataset]:
    """Training and test texts; without a test split, the last texts of the training split are tested on."""
    if name == MINI_XNLI:
        rows: Any = Dataset.from_dict({TEXT: english_texts()})
        column = TEXT
    elif Path(name).suffix == ".txt":
        try:
            rows = datasets.load_dataset(TEXT, data_files=name, split="train", encoding="utf-8-sig")
        except Exception as error:  # of datasets, any
            raise ValueError(f"Could not read {name} as UTF-8 text: {one_line(error.__cause__ or error)}") from error
        column = TEXT
    else:
        names = [config] if config else []
        rows = DataSpec(name, config_names=names, text_columns=[column], label_column="").read()
    splits: dict[str, Dataset] = rows if isinstance(rows, DatasetDict) else {"train": rows}
    if "train" not in splits:
        raise ValueError(f"{name} has splits {', '.join(splits)}, but no train split: name one of them train.")
    for split, part in splits.items():
        if column not in part.column_names:
            raise ValueError(
                f"{name} has no column {column!r}, only {', '.join(part.column_names)}: set --text_column "
                "(--second_text_column for the second dataset)."
            )
        texts = part.select_columns([column]).rename_columns({column: TEXT} if column != TEXT else {})
        splits[split] = texts.filter(lambda batch: [bool(text) for text in batch[TEXT]], batched=True)
    train = splits["train"]
    if "test" in splits:
        return train, splits["test"]
    kept = len(train) - max(1, round(len(train) * test_share))
    if kept < 1:
        raise ValueError(
            f"{name} has {len(train)} text{'s' * (len(train) != 1)} (in a .txt file, each line is one). Testing on a "
            f"share of {test_share:g} leaves none to train on: add texts, or set a smaller --test_share."
        )
    return train.select(range(kept)), train.select(range(kept, len(train)))
