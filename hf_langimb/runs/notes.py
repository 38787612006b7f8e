"""What a reader of results must know about weights and tokens, as sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_langimb.console import listed, shown
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import GROUP_DRO, cell_weights, effective_ratio, language_means
from hf_langimb.runs.subsets import sample_evenly
from hf_langimb.training.arguments import LangImbTrainingArguments

SMALL_SAMPLE = 0.3  # effective sample size, as a share of the rows, below which a warning is due
UNKNOWN = 0.5  # share of unknown tokens above which a language cannot be learned
CUT = 0.01  # share of truncated texts that is worth a note; in a single language, five times as many
FEW_TEXTS = 30  # below which a language is not named
ROLES = ("bos", "eos", "cls", "sep", "pad", "mask")
SPACES = "\u2581\u0120 "  # of which a token that stands for a space alone consists
COUNTED = 20_000  # rows that are tokenized once more, in full
LEAVE_OUT = ", or leave them out with --languages"  # where a model is trained
Said = tuple[list[str], list[str]]  # warnings and notes
Tokens = dict[str, dict[str, float]]  # of `token_shares`


def weight_notes(
    name: str, arguments: LangImbTrainingArguments, trained: JointDistribution, usual: float | None = None
) -> Said:
    """Warnings and notes on the class weights of a setup.

    Args:
        name: of the setup.
        arguments: of its training.
        trained: counts of its training data.
        usual: the limit of class weights that other setups have.
    """
    policy, weighted = arguments.missing_cell_policy, arguments.class_weighting not in ("none", GROUP_DRO)
    settings = arguments.weighting if weighted else arguments.sampling_weights
    if not weighted and arguments.sampling == "none":
        return [], []
    clip = settings["clip"]
    warnings, notes = [], []
    free, counts = cell_weights(trained, **settings | {"clip": None}), trained.counts
    weights = cell_weights(trained, **settings)
    if trained.missing_cells and policy == "ignore":
        cells = [f"({shown(language)}, {shown(label)})" for language, label in trained.missing_cells]
        notes.append(
            f"{name}: {len(cells):,} of {counts.size:,} cells of language and label have no training rows, for which "
            f"class weights cannot compensate: {listed(cells)}."
        )
    if clip and usual and clip > usual:
        means = language_means(free, counts)
        notes.append(
            f"{name}: class weights are limited to {clip:g} instead of {usual:g}, because "
            f"{shown(trained.languages[int(means.argmax())])} has few rows and a mean weight of {means.max():,.1f}."
        )
    if clip and (cut := (free > clip) & (counts > 0)).any():
        rows, number = int(counts[cut].sum()), int(cut.sum())
        where = f"{_number(rows, 'row')} in {_number(number, 'cell')}"
        notes.append(f"{name}: weights above {clip:g} are reduced to {clip:g}, for {where}.")
    ratio = effective_ratio(counts, weights)
    if ratio < SMALL_SAMPLE:
        limit = "weight_clip" if weighted else "max_repeats"
        warnings.append(
            f"{name}: with these weights, {trained.rows:,} training rows have an effective sample size of "
            f"{ratio * trained.rows:,.0f} ({ratio:.2f} of the rows): a few rows dominate, and accuracy may fall. "
            f"Collect rows for rare combinations of language and label, or {'lower' if clip else 'set'} --{limit}."
        )
    return warnings, notes


def token_shares(rows: Dataset, text_columns: Sequence[str], tokenizer: Any, limit: int | None) -> Tokens:
    """How a tokenizer reads the texts of each language, on at most `COUNTED` rows.

    Args:
        rows: texts or pairs of texts, with `language` and `label`.
        text_columns: one, or two for pairs.
        tokenizer: of the model.
        limit: tokens to which texts are truncated, if it is not the tokenizer's own limit.

    Returns:
        For each language the number of `texts`, the mean number of tokens `per_text`, and two shares: `unknown_share`
        of the tokens that are more than a space, and `truncated_share` of the texts, those longer than the limit.
    """
    texts, most = Counter(rows["language"]), _most(tokenizer, limit)
    rows = sample_evenly(rows, COUNTED) or rows
    special, unknown = {getattr(tokenizer, f"{role}_token_id") for role in ROLES}, tokenizer.unk_token_id
    special |= {*tokenizer.all_special_ids} - {unknown}  # where one of them is also unk, no token is unknown
    vocabulary = tokenizer.get_vocab()
    read, blank = np.ones(max(vocabulary.values()) + 1, dtype=bool), np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    read[[number for number in special if number is not None]] = False
    blank[[number for token, number in vocabulary.items() if not token.strip(SPACES)]] = True
    sums: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(5, dtype=np.int64))
    for start in range(0, len(rows), 1_000):
        part = rows[start : start + 1_000]
        encoded = tokenizer(*(part[column] for column in text_columns), truncation=False, verbose=False)["input_ids"]
        for language, ids in zip(part["language"], encoded, strict=True):
            kept = np.array(ids, dtype=np.int64)
            kept = kept[read[kept]]
            letters, missing = np.count_nonzero(~blank[kept]), np.count_nonzero(kept == unknown)
            sums[language] += np.array([1, len(kept), letters, missing, len(ids) > most])
    return {
        name: {
            "texts": texts[name],
            "per_text": float(tokens / counted),
            "unknown_share": float(missing / max(letters, 1)),
            "truncated_share": float(truncated / counted),
        }
        for name, (counted, tokens, letters, missing, truncated) in sorted(sums.items())
    }


def joined_tokens(sets: Iterable[Tokens]) -> Tokens:
    """Those of several sets of texts; a language that several have is described by the first."""
    return {name: of for found in reversed([*sets]) for name, of in found.items()}


def token_notes(sets: Mapping[str, Tokens], tokenizer: Any, limit: int | None, advice: str = "") -> Said:
    """Warnings and notes on languages that the tokenizer does not know, and on texts that are longer than the input.

    Args:
        sets: what `token_shares` gives of each set of texts, the most important first.
        tokenizer, limit: as of `token_shares`.
        advice: the end of the warning.
    """
    warnings, notes = [], []
    tokens = joined_tokens(sets.values())
    if unknown := [name for name, of in sorted(tokens.items()) if of["unknown_share"] > UNKNOWN]:
        where = listed(f"{shown(name)} ({tokens[name]['unknown_share']:.0%})" for name in unknown)
        warnings.append(
            f"Most tokens in {where} are unknown to this model's tokenizer: the model cannot read these languages. "
            f"Choose a model whose tokenizer covers them{advice}."
        )
    for texts, found in sets.items():
        if said := _truncated(found):
            notes.append(f"{said[0]} of the {texts}{said[1]} are longer than {_most(tokenizer, limit):,} tokens and ")
            notes[-1] += "are truncated."
    return warnings, notes


def _truncated(tokens: Tokens) -> tuple[str, str] | None:
    """The share of truncated texts, and the language with most, if it is worth a note."""
    share = sum(of["texts"] * of["truncated_share"] for of in tokens.values()) / sum(
        of["texts"] for of in tokens.values()
    )
    large = [name for name, of in tokens.items() if of["texts"] >= FEW_TEXTS and of["truncated_share"] > 2 * share]
    worst = max(large, key=lambda name: tokens[name]["truncated_share"], default="")
    if share < CUT and not (worst and tokens[worst]["truncated_share"] >= 5 * CUT):
        return None
    return f"{share:.1%}", f" (in {shown(worst)} {tokens[worst]['truncated_share']:.0%})" if worst else ""


def _most(tokenizer: Any, limit: int | None) -> int:
    """Tokens of the longest text that is read in full."""
    return int(min(limit or tokenizer.model_max_length, tokenizer.model_max_length))


def _number(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
