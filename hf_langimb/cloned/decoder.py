"""The language model: GPT-2, initialized and scaled as in arXiv 2404.07982, saved as plain GPT-2."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, set_seed


def make_decoder(
    vocabulary_size: int, *, context: int, layers: int, width: int, heads: int, seed: int = 0
) -> GPT2LMHeadModel:
    """A decoder with random weights: untied embeddings, no dropout, input embeddings scaled by the root of the width.

    Weights have a standard deviation of 0.02, output projections of the MLPs divided by the root of twice the number
    of layers. For the scale of the embeddings see `scale_embeddings`.

    Args:
        vocabulary_size: ids of the model.
        context: longest text, in tokens.
        layers, width, heads: of the decoder.
        seed: of the weights.
    """
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        activation_function="gelu_pytorch_tanh",  # the same function as the default, computed faster
        use_cache=False,
        **off,
    )
    set_seed(seed)
    model = GPT2LMHeadModel(config)
    for block in model.transformer.h:  # the library divides this one, too
        torch.nn.init.normal_(block.attn.c_proj.weight, std=config.initializer_range)
    return scale_embeddings(model)


def scale_embeddings(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """Multiply the input embeddings by the root of the width, during training and wherever this object is used.

    State dicts contain the multiplied table and loading divides it, so that a saved model is plain GPT-2:
    `AutoModelForCausalLM.from_pretrained` gives the same logits.
    """
    table = model.get_input_embeddings()
    factor = math.sqrt(model.config.n_embd)
    table.register_forward_hook(lambda module, inputs, output: output * factor)

    def fold(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        """Saving."""
        state[f"{prefix}weight"] = state[f"{prefix}weight"] * factor

    def unfold(module: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
        """Loading."""
        if f"{prefix}weight" in state:
            state[f"{prefix}weight"] = state[f"{prefix}weight"] / factor

    table.register_state_dict_post_hook(fold)
    table.register_load_state_dict_pre_hook(unfold)
    return model
