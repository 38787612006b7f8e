"""What a reader of results must know about weights and tokens, as sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from hf_langimb.console import listed, shown
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import cell_weights, effective_ratio
from hf_langimb.data.rows import arrow_columns
from hf_langimb.training.arguments import LangImbTrainingArguments

SMALL_SAMPLE = 0.3  # effective sample size, as a share of the rows, below which a warning is due
UNKNOWN = 0.5  # share of unknown tokens at which a language cannot be learned


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
        notes.append(f"{name}: weights above {clip:g} are reduced to {clip:g}, for {rows:,} rows in {number:,} cells.")
    ratio = effective_ratio(counts, weights)
    if ratio < SMALL_SAMPLE:
        warnings.append(
            f"{name}: with these weights, {trained.rows:,} training rows count like {ratio * trained.rows:,.0f} "
            f"(effective sample size {ratio:.2f} of the rows): a few rows dominate, and accuracy may fall. Collect "
            "rows for rare combinations of language and label, or lower --weight_clip."
        )
    return warnings, notes


def token_warnings(rows: Dataset, tokenizer: Any) -> list[str]:
    """A warning on languages in which the tokenizer does not know most tokens, in tokenized rows."""
    if tokenizer.unk_token_id is None:
        return []
    ids, languages = arrow_columns(rows, "input_ids", "language")
    lengths = np.diff(ids.combine_chunks().offsets.to_numpy())
    tokens = ids.combine_chunks().flatten().to_numpy()
    special = np.isin(tokens, [one for one in tokenizer.all_special_ids if one != tokenizer.unk_token_id])
    names = np.repeat(np.array(languages.to_pylist(), dtype=object), lengths)
    found = []
    for language in sorted({*languages.to_pylist()}):
        own = tokens[(names == language) & ~special]
        if len(own) and (share := float((own == tokenizer.unk_token_id).mean())) >= UNKNOWN:
            found.append(f"{shown(language)} ({share:.0%})")
    if not found:
        return []
    where = listed(found)
    return [
        f"Most tokens in {where} are unknown to this model's tokenizer: the model cannot learn these languages. "
        "Choose a model whose tokenizer covers them, or leave them out with --languages."
    ]
