"""What a reader of results must know about weights and tokens, as sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_langimb.console import listed, shown
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import cell_weights, effective_ratio, language_means
from hf_langimb.runs.subsets import sample_evenly
from hf_langimb.training.arguments import LangImbTrainingArguments

SMALL_SAMPLE = 0.3  # effective sample size, as a share of the rows, below which a warning is due
UNKNOWN = 0.5  # share of unknown tokens above which a language cannot be learned
CUT = 0.01  # share of truncated texts that is worth a note; in a single language, five times as many
FEW_TEXTS = 30  # below which a language is not named
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
    scheme, policy, clip = arguments.class_weighting, arguments.missing_cell_policy, arguments.weight_clip
    if scheme == "none":
        return [], []
    warnings, notes = [], []
    free, counts = cell_weights(trained, scheme, missing_cell_policy=policy), trained.counts
    weights = cell_weights(trained, scheme, missing_cell_policy=policy, clip=clip)
    if trained.missing_cells and policy == "ignore":
        cells = [f"({shown(language)}, {shown(label)})" for language, label in trained.missing_cells]
        notes.append(
            f"{name}: {len(cells):,} of {counts.size:,} cells of language and label have no training rows, for which "
            f"class weights cannot compensate: {listed(cells)}."
        )
    if clip and usual and clip > usual:
        means = language_means(free, counts)
        notes.append(
            f"{name}: class weights are limited to {clip:g} instead of {usual:g}, because the mean weight of "
            f"{shown(trained.languages[int(means.argmax())])}, a very small language, is {means.max():,.1f}."
        )
    if clip and (cut := (free > clip) & (counts > 0)).any():
        rows, number = int(counts[cut].sum()), int(cut.sum())
        where = f"{_number(rows, 'row')} in {_number(number, 'cell')}"
        notes.append(f"{name}: weights above {clip:g} are reduced to {clip:g}, for {where}.")
    ratio = effective_ratio(counts, weights)
    if ratio < SMALL_SAMPLE:
        warnings.append(
            f"{name}: with these weights, {trained.rows:,} training rows count like {ratio * trained.rows:,.0f} "
            f"(effective sample size {ratio:.2f} of the rows): a few rows dominate, and accuracy may fall. Collect "
            f"rows for rare combinations of language and label, or {'lower' if clip else 'set'} --weight_clip."
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
        of the tokens, and `truncated_share` of the texts, those that are longer than the limit.
    """
    rows, most = sample_evenly(rows, COUNTED) or rows, _most(tokenizer, limit)
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    sums: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(4, dtype=np.int64))
    for start in range(0, len(rows), 1_000):
        part = rows[start : start + 1_000]
        encoded = tokenizer(*(part[column] for column in text_columns), truncation=False, verbose=False)["input_ids"]
        for language, ids in zip(part["language"], encoded, strict=True):
            read = [token for token in ids if token not in special]
            sums[language] += (1, len(read), read.count(tokenizer.unk_token_id), len(ids) > most)
    return {
        name: {
            "texts": int(texts),
            "per_text": float(tokens / texts),
            "unknown_share": float(unknown / max(tokens, 1)),
            "truncated_share": float(truncated / texts),
        }
        for name, (texts, tokens, unknown, truncated) in sorted(sums.items())
    }


def token_notes(tokens: Tokens, tokenizer: Any, limit: int | None, advice: str = "") -> Said:
    """Warnings and notes on languages that the tokenizer does not know, and on texts that are longer than the input.

    `advice` ends the warning; the other arguments are as of `token_shares`, which gives `tokens`.
    """
    warnings, notes = [], []
    if unknown := [name for name, of in tokens.items() if of["unknown_share"] > UNKNOWN]:
        where = listed(f"{shown(name)} ({tokens[name]['unknown_share']:.0%})" for name in unknown)
        warnings.append(
            f"Most tokens in {where} are unknown to this model's tokenizer: the model cannot read these languages. "
            f"Choose a model whose tokenizer covers them{advice}."
        )
    cut = {name: of["texts"] * of["truncated_share"] for name, of in tokens.items()}
    share = sum(cut.values()) / sum(of["texts"] for of in tokens.values())
    large = [name for name, of in tokens.items() if of["texts"] >= FEW_TEXTS and of["truncated_share"] > 2 * share]
    if share >= CUT or (large and max(tokens[name]["truncated_share"] for name in large) >= 5 * CUT):
        worst = max(large, key=lambda name: tokens[name]["truncated_share"], default="")
        where = f" (in {shown(worst)} {tokens[worst]['truncated_share']:.0%})" if worst else ""
        notes.append(
            f"{share:.1%} of the texts{where} are longer than {_most(tokenizer, limit):,} tokens; the model does not "
            "read the rest of them."
        )
    return warnings, notes


def _most(tokenizer: Any, limit: int | None) -> int:
    """Tokens of the longest text that is read in full."""
    return int(min(limit or tokenizer.model_max_length, tokenizer.model_max_length))


def _number(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
