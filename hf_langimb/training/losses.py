"""The two terms of the training loss (arXiv 2402.13016): weighted cross-entropy and the masked-input entropy.

Both return a value per row; the Trainer divides their sums by the number of labeled rows in the full (accumulated,
all-process) batch, which is what makes them exact under gradient accumulation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from hf_langimb.models.axes import IGNORED_LABEL

UNKNOWN_LANGUAGE, NO_LANGUAGE = -1, -2  # ids of rows whose language is not on the axis, and of data without languages


def weighted_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    language_ids: torch.Tensor,
    weights: torch.Tensor | None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """w_i * CE_i of each row, in nats, computed in float32 or better.

    Args:
        logits: [B, C], any floating-point type.
        labels: int64[B]; rows labeled -100 give 0.
        language_ids: int64[B], positions on the language axis; below 0 (a language unseen in training) has weight 1.
        weights: float32[L, C]; None gives every row the weight 1.
        label_smoothing: of the cross-entropy. The weight of the true label multiplies the smoothed loss; torch's own
            `weight=` would spread the weights of the other labels into it.

    Returns:
        [B]. Sum it and divide by the number of labeled rows, not by the sum of weights.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(
        logits, labels, reduction="none", ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing
    )
    return losses if weights is None else losses * row_weights(weights, labels, language_ids)


def row_weights(weights: torch.Tensor, labels: torch.Tensor, language_ids: torch.Tensor) -> torch.Tensor:
    """The weight of each row, [B]; 1 where language or label are not on the axes of the table."""
    known = (language_ids >= 0) & (labels < weights.shape[1])  # of a model that does not say how many classes it has
    found = weights.to(labels.device)[language_ids.clamp(min=0), labels.clamp(0, weights.shape[1] - 1)]
    return torch.where(known, found, 1.0)


def negative_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Sum over classes of p log p, in nats: the masked-input term of arXiv 2402.13016 without its factor lambda.

    Args:
        logits: [B, C], any floating-point type.

    Returns:
        [B], from -log C (uniform) to 0; finite also where p underflows, since log p comes from log_softmax.
    """
    log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return (log_probabilities.exp() * log_probabilities).sum(dim=-1)


def negative_binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """`negative_entropy` of outputs that each decide about a label: sum over labels of p log p + (1 - p) log(1 - p).

    Args:
        logits: [B, C], any floating-point type.

    Returns:
        [B], from -C log 2 (all p = 1/2) to 0.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits.sigmoid() * F.logsigmoid(logits) + (-logits).sigmoid() * F.logsigmoid(-logits)).sum(dim=-1)


def mean_losses(rows: torch.Tensor, trained: torch.Tensor | None = None) -> dict[str, float]:
    """Means of the losses of evaluated rows; rows labeled -100 are left out.

    Args:
        rows: float64[N, 4]: weighted loss, plain loss, language id and label of each row.
        trained: bool[L, C], cells with training rows; None where they are not known.

    Returns:
        `loss` (weighted) and `plain_loss`, means over rows, and `uniform_loss`, the mean over the means of
        (language, label) cells, in nats; nan if not finite. Rows in cells without training rows are in none of them,
        but in `unseen_rows`, their number, and `unseen_plain_loss`. What has no rows is left out, and `uniform_loss`
        where languages are not known.
    """
    rows = rows[rows[:, 3] != IGNORED_LABEL]
    languages, labels = rows[:, 2].long(), rows[:, 3].long()
    seen = torch.ones(len(rows), dtype=torch.bool)
    if trained is not None:
        known = (languages >= 0) & (labels < trained.shape[1])
        cells = trained[languages.clamp(min=0), labels.clamp(max=trained.shape[1] - 1)]
        seen = (languages == NO_LANGUAGE) | known & cells
    own, plain, *cell = rows[seen].unbind(dim=1)
    losses = {}
    if len(own):
        losses = {"loss": own.mean(), "plain_loss": plain.mean()}
        if (cell[0] != UNKNOWN_LANGUAGE).all():
            _, cells = torch.stack(cell).unique(dim=1, return_inverse=True)
            per_cell = torch.zeros(int(cells.max()) + 1, dtype=torch.float64).index_add_(0, cells, plain)
            losses["uniform_loss"] = (per_cell / torch.bincount(cells)).mean()
    if not seen.all():
        losses["unseen_plain_loss"] = rows[~seen, 1].mean()
    means = {name: value.item() if math.isfinite(value.item()) else float("nan") for name, value in losses.items()}
    return means | ({} if seen.all() else {"unseen_rows": int((~seen).sum())})


def is_content(ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Which token ids are content, not special tokens, bool; unknown words and masks are content."""
    special = {*tokenizer.all_special_ids} - {tokenizer.mask_token_id, tokenizer.unk_token_id}
    return ~torch.isin(ids, torch.tensor(sorted(special), device=ids.device))


def draw_mask(inputs: Mapping[str, torch.Tensor], tokenizer: Any) -> dict[str, int] | None:
    """A random row of the batch and a length from 1 to the batch's longest content; None if all texts are empty."""
    ids = inputs["input_ids"]
    content = is_content(ids, tokenizer).sum(dim=1)
    with_content = content.nonzero().flatten().tolist()
    if not with_content:
        return None
    # Python's generator: checkpoints keep its state, and order of rows and dropout do not depend on it
    row = random.choice(with_content)
    read = inputs["attention_mask"][row] if "attention_mask" in inputs else ids[row] != tokenizer.pad_token_id
    room = ids.shape[1] - int(read.sum()) + int(content[row])  # the batch is as wide as the model reads
    return {"row": row, "length": random.randint(1, min(int(content.max()), room))}


def append_masked_row(
    inputs: Mapping[str, torch.Tensor], tokenizer: Any, *, row: int, length: int
) -> dict[str, torch.Tensor]:
    """The batch with one more row: a given row's layout, filled with `length` mask tokens.

    Special tokens stay where the tokenizer put them; each run of content tokens (the two texts of a pair) is shortened
    or lengthened in proportion and becomes mask tokens with the run's own token types.

    Args:
        inputs: tensors of the batch; those of shape [B, T] get the new row, T growing where it is longer; others pass.
        tokenizer: of the inputs, with a mask token.
        row: row of the batch whose layout is taken.
        length: number of mask tokens, at least 1.

    Returns:
        The inputs with B + 1 rows.
    """
    pad_id = tokenizer.pad_token_id or 0
    ids = inputs["input_ids"][row]
    attended = inputs["attention_mask"][row].bool() if "attention_mask" in inputs else ids != pad_id
    positions = attended.nonzero().flatten()
    content = is_content(ids[positions], tokenizer)
    seen, total = content.cumsum(dim=0), content.sum()
    masks = (2 * length * seen + total) // (2 * total)  # up to each position, rounded; `length` at the last
    repeats = torch.where(content, masks.diff(prepend=masks.new_zeros(1)), 1)
    index, is_mask = positions.repeat_interleave(repeats), content.repeat_interleave(repeats)
    shape = inputs["input_ids"].shape
    width = max(shape[1], len(index))

    def fit(tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """The tensor padded to the common width."""
        space = width - tensor.shape[-1]
        return F.pad(tensor, (space, 0) if tokenizer.padding_side == "left" else (0, space), value=fill)

    extended = dict(inputs)
    for name, tensor in inputs.items():
        if tensor.shape == shape:
            new, fill = tensor[row][index], 0
            if name == "input_ids":
                new, fill = torch.where(is_mask, tokenizer.mask_token_id, new), pad_id
            extended[name] = torch.cat([fit(tensor, fill), fit(new, fill)[None]])
    return extended
