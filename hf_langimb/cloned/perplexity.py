"""Perplexity of a language model in each language, by a sliding window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hf_langimb.cloned.vocabulary import Vocabulary

Ints = NDArray[np.int64]
LARGEST_LOSS = 700  # whose exponential is still a number


def perplexity(model: Any, ids: Ints, *, window: int = 512, stride: int = 128, batch_size: int = 32) -> float:
    """Exp of the mean loss per token of a text; each token is predicted from at least `window - stride` preceding ones.

    The window moves by `stride` tokens, and the loss is that of its last `stride` tokens (arXiv 2404.07982). The first
    tokens of the text, and a remainder shorter than the stride, are not predicted.

    Args:
        model: causal language model.
        ids: one text, int64[N], in ids of the model.
        window: tokens that the model reads at once.
        stride: tokens that are predicted in each window, fewer than `window`.
        batch_size: windows in a forward pass.

    Raises:
        ValueError: a text that is shorter than a window, or a stride that is not below it.
    """
    if not 0 < stride < window or len(ids) < window:
        raise ValueError(
            f"Perplexity needs a stride below the window and a text of at least one window, got a stride of {stride}, "
            f"a window of {window} and {len(ids):,} tokens."
        )
    windows = np.lib.stride_tricks.sliding_window_view(ids, window)[::stride]
    losses = 0.0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(windows), batch_size):
            batch = torch.from_numpy(windows[start : start + batch_size].astype(np.int64)).to(model.device)
            logits = model(input_ids=batch, logits_to_keep=stride + 1).logits[:, :-1].float()
            loss = F.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), batch[:, -stride:].reshape(-1), reduction="sum"
            )
            losses += float(loss)
    loss = losses / (len(windows) * stride)
    if not loss < LARGEST_LOSS:
        raise ValueError(f"The loss of the model is {loss:g}: the training has diverged. Set a lower learning_rate.")
    return math.exp(loss)


def perplexities(model: Any, vocabulary: Vocabulary, texts: Any, **options: Any) -> list[float]:
    """Perplexity in each language; `texts` has one held-out text for each, in ids of its tokenizer.

    Raises:
        ValueError: a model of another vocabulary, or as `perplexity`.
    """
    vocabulary.check(model.get_input_embeddings().num_embeddings)
    return [perplexity(model, vocabulary.encode(ids, k), **options) for k, ids in enumerate(texts)]
