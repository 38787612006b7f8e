"""What a reader of results must know about weights and tokens, as sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from hf_langimb.console import listed, shown
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import cell_weights, effective_ratio, language_means
from hf_langimb.data.rows import arrow_columns
from hf_langimb.results.schema import Tokens
from hf_langimb.training.arguments import LangImbTrainingArguments

SMALL_SAMPLE = 0.3  # effective sample size, as a share of the rows, below which a warning is due
LARGE_WEIGHT = 20  # above which a class weight without a limit is worth a note
UNKNOWN = 0.5  # share of unknown tokens at which a language cannot be learned
CUT = 0.01  # share of the texts that fill the input, or a fifth of the share in one language, that is worth a note


def weight_notes(
    name: str, arguments: LangImbTrainingArguments, trained: JointDistribution
) -> tuple[list[str], list[str]]:
    """Warnings and notes on the class weights of a setup, given the counts of its training data."""
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
    if clip and (cut := (free > clip) & (counts > 0)).any():
        rows, number = int(counts[cut].sum()), int(cut.sum())
        where = f"{_number(rows, 'row')} in {_number(number, 'cell')}"
        notes.append(f"{name}: weights above {clip:g} are reduced to {clip:g}, for {where}.")
    elif clip is None and (largest := float((free * (counts > 0)).max())) > LARGE_WEIGHT:
        means = language_means(free, counts)
        language, label = (int(place) for place in np.argwhere((free == largest) & (counts > 0))[0])
        rows, highest = int(counts[language, label]), shown(trained.languages[int(means.argmax())])
        notes.append(
            f"{name}: class weights have no limit. The largest is {largest:.0f}, for {_number(rows, 'row')} of "
            f"{shown(trained.labels[label])} in {shown(trained.languages[language])}. --weight_clip N limits them to "
            f"N, which must be above {means.max():.3g}, the mean weight of {highest}."
        )
    ratio = effective_ratio(counts, weights)
    if ratio < SMALL_SAMPLE:
        warnings.append(
            f"{name}: with these weights, {trained.rows:,} training rows count like {ratio * trained.rows:,.0f} "
            f"(effective sample size {ratio:.2f} of the rows): a few rows dominate, and accuracy may fall. Collect "
            "rows for rare combinations of language and label, or lower --weight_clip."
        )
    return warnings, notes


def token_shares(rows: Dataset, tokenizer: Any, limit: int | None) -> dict[str, Tokens]:
    """How a tokenizer reads the texts of each language.

    Args:
        rows: tokenized, with `language`.
        tokenizer: of the model.
        limit: tokens to which texts were truncated, if it is not the tokenizer's own limit.
    """
    ids, languages = arrow_columns(rows, "input_ids", "language")
    ids = ids.combine_chunks()
    lengths, tokens = np.diff(ids.offsets.to_numpy()), ids.flatten().to_numpy()
    special = np.isin(tokens, [one for one in tokenizer.all_special_ids if one != tokenizer.unk_token_id])
    names, language = np.unique(np.array(languages.to_pylist(), dtype=object), return_inverse=True)
    of_token = np.repeat(language, lengths)
    known = np.bincount(of_token[~special], minlength=len(names))
    unknown = np.bincount(of_token[~special & (tokens == tokenizer.unk_token_id)], minlength=len(names))
    texts = np.bincount(language, minlength=len(names))
    full = np.bincount(language[lengths >= min(limit or tokenizer.model_max_length, tokenizer.model_max_length)])
    full = np.pad(full, (0, len(names) - len(full)))
    return {
        name: {
            "texts": int(texts[i]),
            "per_text": float(known[i] / texts[i]),
            "unknown_share": float(unknown[i] / max(known[i], 1)),
            "full_share": float(full[i] / texts[i]),
        }
        for i, name in enumerate(names.tolist())
    }


def token_notes(tokens: dict[str, Tokens]) -> tuple[list[str], list[str]]:
    """Warnings and notes on languages that the tokenizer does not know, and on texts that are longer than the input."""
    warnings, notes = [], []
    if unknown := [name for name, of in tokens.items() if of["unknown_share"] >= UNKNOWN]:
        where = listed(f"{shown(name)} ({tokens[name]['unknown_share']:.0%})" for name in unknown)
        warnings.append(
            f"Most tokens in {where} are unknown to this model's tokenizer: the model cannot learn these languages. "
            "Choose a model whose tokenizer covers them, or leave them out with --languages."
        )
    number = sum(of["texts"] for of in tokens.values())
    share = sum(of["texts"] * of["full_share"] for of in tokens.values()) / number
    worst = max(tokens, key=lambda name: tokens[name]["full_share"])
    if max(share, tokens[worst]["full_share"] / 5) >= CUT:
        where = f" ({shown(worst)}: {tokens[worst]['full_share']:.0%})" if len(tokens) > 1 else ""
        notes.append(f"{share:.1%} of the texts{where} fill the model's input: it does not read what comes after.")
    return warnings, notes


def _number(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
