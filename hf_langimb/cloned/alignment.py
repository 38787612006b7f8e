"""How much a model shares between two languages: hidden states, gradients and embeddings of the same texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_langimb.cloned.vocabulary import Vocabulary
from hf_langimb.measures.alignment import alignment, unit_rows

Ints = NDArray[np.int64]


def hidden_alignment(
    model: Any, vocabulary: Vocabulary, texts: Ints, *, languages: tuple[int, int] = (0, 1), batch_size: int = 32
) -> list[dict[str, float]]:
    """Alignment of the residual stream after each block between the same texts in two languages.

    Args:
        model: decoder of the GPT-2 kind.
        vocabulary: of the model.
        texts: at least two texts of equal length, int64[N, length], in ids of the tokenizer.
        languages: to compare.
        batch_size: texts in a forward pass.

    Returns:
        For each block, the measures of `measures.alignment.alignment` over all positions of all texts. The chance
        level of the cosine compares the states of different texts at the same position.

    Raises:
        ValueError: a model of another vocabulary, or fewer than two texts.
    """
    _check(model, vocabulary, texts)
    versions = [_states(model, vocabulary.encode(texts, language), batch_size) for language in languages]
    return [alignment(first, second, shift=texts.shape[1]) for first, second in zip(*versions, strict=True)]


def _check(model: Any, vocabulary: Vocabulary, texts: Ints) -> None:
    """Refuse a model of another vocabulary, and a single text, which has no other one to compare with."""
    vocabulary.check(model.get_input_embeddings().num_embeddings)
    if len(texts) < 2:
        raise ValueError(f"Alignment compares at least two texts, got {len(texts)}.")


def _states(model: Any, ids: Ints, batch_size: int) -> list[NDArray[np.float32]]:
    """The residual stream after each block, float32[N * length, H] each (the library's last one is normalized)."""
    blocks: list[list[NDArray[np.float32]]] = [[] for _ in model.transformer.h]

    def keep(place: list[NDArray[np.float32]]) -> Any:
        """A hook that appends the states of a block to `place`."""

        def hook(module: Any, inputs: Any, output: Any) -> None:
            """The output of one forward pass."""
            states = output[0] if isinstance(output, tuple) else output
            place.append(states.float().cpu().numpy().reshape(-1, states.shape[-1]))

        return hook

    handles = [
        block.register_forward_hook(keep(place)) for block, place in zip(model.transformer.h, blocks, strict=True)
    ]
    try:
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(ids), batch_size):
                model.transformer(torch.from_numpy(ids[start : start + batch_size]).to(model.device))
    finally:
        for handle in handles:
            handle.remove()
    return [np.concatenate(place) for place in blocks]


def gradient_alignment(
    model: Any, vocabulary: Vocabulary, texts: Ints, *, languages: tuple[int, int] = (0, 1), batch_size: int = 32
) -> dict[str, float]:
    """Cosine of the loss gradients of the same texts in two languages, mean over the tensors of all blocks.

    Args:
        model: decoder of the GPT-2 kind.
        vocabulary: of the model.
        texts: at least two texts of equal length, int64[N, length], in ids of the tokenizer.
        languages: to compare.
        batch_size: texts in a forward pass.

    Returns:
        cosine: of the first half of the texts in both languages; cosine_chance: of the first half in one language and
        the second half in the other.

    Raises:
        ValueError: a model of another vocabulary or without trainable blocks, or fewer than two texts.
    """
    _check(model, vocabulary, texts)
    half = len(texts) // 2
    first, second = texts[:half], texts[half : 2 * half]
    one = _gradients(model, vocabulary.encode(first, languages[0]), batch_size)
    pairs = {"cosine": first, "cosine_chance": second}
    cosine = torch.nn.functional.cosine_similarity
    found = {}
    for name, of in pairs.items():
        other = _gradients(model, vocabulary.encode(of, languages[1]), batch_size)
        found[name] = float(np.mean([float(cosine(*both, dim=0)) for both in zip(one, other, strict=True)]))
    return found


def _gradients(model: Any, ids: Ints, batch_size: int) -> list[torch.Tensor]:
    """The gradient of the mean loss of texts for each tensor of the blocks, flat; the model's own are not touched."""
    model.eval()
    tensors = [value for value in model.transformer.h.parameters() if value.requires_grad]
    total = [torch.zeros(value.numel(), device=value.device) for value in tensors]
    if not tensors or ids.shape[1] < 2:
        raise ValueError("Gradients need blocks with trainable parameters, and texts of two tokens or more.")
    for batch in torch.from_numpy(ids).to(model.device).split(batch_size):
        with torch.enable_grad():
            loss = model(input_ids=batch, labels=batch).loss * (len(batch) / len(ids))
            gradients = torch.autograd.grad(loss, tensors)
        for added, value in zip(total, gradients, strict=True):
            added += value.float().flatten()
    return total


def embedding_alignment(model: Any, vocabulary: Vocabulary, *, languages: tuple[int, int] = (0, 1)) -> dict[str, float]:
    """Mean cosine of the input embeddings of clones of one token, and of all pairs (`cosine_chance`).

    Tokens that both languages share are left out, unless they share all. Both must have the same number of ids.

    Raises:
        ValueError: a model of another vocabulary.
    """
    vocabulary.check(model.get_input_embeddings().num_embeddings)
    tables = [vocabulary.tables[language] for language in languages]
    apart = tables[0] != tables[1]
    apart = apart if apart.any() else ~apart
    weight = model.get_input_embeddings().weight.detach().float().cpu().numpy()
    one, two = (unit_rows(weight[table[apart]]) for table in tables)
    return {
        "cosine": float((one * two).sum(axis=1).mean()),
        "cosine_chance": float(one.mean(axis=0) @ two.mean(axis=0)),
    }
