"""The decoder is saved as plain GPT-2; perplexity is the causal loss; clones are equivalent; limits of alignment."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_langimb import CloneMap
from hf_langimb.cloned.alignment import embedding_alignment, gradient_alignment, hidden_alignment
from hf_langimb.cloned.decoder import make_decoder
from hf_langimb.cloned.markov import MarkovLanguage
from hf_langimb.cloned.perplexity import perplexities, perplexity

SHAPE = {"context": 16, "layers": 2, "width": 24, "heads": 2}  # a width whose root is no whole number
LANGUAGE = MarkovLanguage(8)
CLONES = CloneMap(LANGUAGE.vocabulary_size, 2)


@pytest.fixture
def model():
    """A decoder that has learned a little, so that its languages differ."""
    decoder = make_decoder(CLONES.model_vocabulary_size, **SHAPE)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    ids = torch.from_numpy(CLONES.encode(LANGUAGE.windows(32, 16, seed=0), 0))
    for _ in range(20):
        decoder(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return decoder


def test_weights_are_drawn_as_in_the_paper():
    decoder = make_decoder(500, context=64, layers=8, width=128, heads=4)
    spread = {name: float(value.detach().std()) for name, value in decoder.named_parameters() if value.dim() == 2}
    assert "lm_head.weight" in spread and decoder.lm_head.bias is None
    for name, value in spread.items():
        expected = 0.02 / math.sqrt(16) if name.endswith("mlp.c_proj.weight") else 0.02
        assert value == pytest.approx(expected, rel=0.05), name
    assert {decoder.config.resid_pdrop, decoder.config.embd_pdrop, decoder.config.attn_pdrop} == {0.0}


def test_input_embeddings_are_scaled_and_saved_as_plain_gpt2(model, tmp_path):
    ids = torch.from_numpy(CLONES.encode(LANGUAGE.windows(4, 16, seed=1), 1))
    seen = []
    model.transformer.drop.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = model.eval()(ids).logits
        table, places = model.transformer.wte.weight, model.transformer.wpe.weight
        assert torch.allclose(seen[0], math.sqrt(24) * table[ids] + places[None, :16], atol=1e-6)
        model.save_pretrained(tmp_path)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.allclose(plain(ids).logits, logits, atol=1e-5)
    again = make_decoder(CLONES.model_vocabulary_size, **SHAPE, seed=9)
    again.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.allclose(again.eval()(ids).logits, logits, atol=1e-5)


def test_perplexity_is_the_causal_loss_of_the_last_tokens_of_each_window(model):
    ids = CLONES.encode(LANGUAGE.windows(1, 50, seed=2)[0], 0)
    losses = []
    for start in range(0, 50 - 16 + 1, 5):
        window = torch.from_numpy(ids[start : start + 16])[None]
        labels = window.clone()
        labels[:, :11] = -100
        with torch.inference_mode():
            losses.append(float(model(input_ids=window, labels=labels).loss))
    found = perplexity(model, ids, window=16, stride=5, batch_size=3)
    assert math.log(found) == pytest.approx(np.mean(losses), abs=1e-5)


def test_swapping_two_clones_in_both_tables_and_their_numbers_changes_no_perplexity(model):
    text = LANGUAGE.windows(1, 200, seed=3)[0]
    options = {"window": 16, "stride": 4}
    before = perplexities(model, CLONES, [text, text], **options)
    assert before[0] < 0.9 * before[1]
    size = LANGUAGE.vocabulary_size
    order = torch.cat(
        [torch.tensor([0]), torch.arange(size + 1, 2 * size), torch.tensor([size]), torch.arange(1, size)]
    )
    with torch.no_grad():
        for table in (model.transformer.wte, model.lm_head):
            table.weight.copy_(table.weight[order])
    assert perplexities(model, CLONES, [text, text], **options)[::-1] == pytest.approx(before, rel=1e-6)


def test_no_model_is_better_than_the_optimum_of_the_markov_language():
    assert LANGUAGE.windows(3, 1, seed=0).shape == (3, 1)
    text = LANGUAGE.windows(20_000, 12, seed=4)
    last = LANGUAGE.table[text[:, -3] - 1, text[:, -2] - 1, text[:, -1] - 1]
    assert np.exp(-np.log(last).mean()) == pytest.approx(LANGUAGE.optimum_perplexity, rel=0.03)
    shares = np.zeros((8, 8))
    np.add.at(shares, (text[:, -2] - 1, text[:, -1] - 1), 1 / len(text))
    assert np.abs(shares - LANGUAGE.stationary).max() < 0.02
    assert MarkovLanguage(8, seed=1).optimum_perplexity != LANGUAGE.optimum_perplexity


def test_a_language_is_aligned_with_itself(model):
    texts = LANGUAGE.windows(12, 16, seed=5)
    for layer in hidden_alignment(model, CLONES, texts, languages=(0, 0)):
        assert layer["cosine"] == pytest.approx(1) and layer["cka"] == pytest.approx(1)
        assert layer["retrieval"] > 0.8  # a prefix that two texts share has one state
    assert gradient_alignment(model, CLONES, texts, languages=(1, 1))["cosine"] == pytest.approx(1)
    assert embedding_alignment(model, CLONES, languages=(1, 1))["cosine"] == pytest.approx(1)


def test_clones_of_a_new_model_are_aligned_as_by_chance():
    decoder = make_decoder(CLONES.model_vocabulary_size, context=16, layers=2, width=128, heads=2)
    texts = LANGUAGE.windows(64, 16, seed=6)
    for layer in hidden_alignment(decoder, CLONES, texts):
        for name, tolerance in {"cosine": 0.1, "retrieval": 0.02}.items():
            assert layer[name] == pytest.approx(layer[f"{name}_chance"], abs=tolerance), name
        assert layer["cka"] > 0.5 > layer["cka_chance"]  # equal tokens have equal states in both, without training
    for found in (gradient_alignment(decoder, CLONES, texts), embedding_alignment(decoder, CLONES)):
        assert found["cosine"] == pytest.approx(found["cosine_chance"], abs=0.15)


def test_equal_embeddings_of_clones_are_seen(model):
    size = LANGUAGE.vocabulary_size
    with torch.no_grad():
        model.transformer.wte.weight[size + 1 :] = 3 * model.transformer.wte.weight[1:size]
    found = embedding_alignment(model, CLONES)
    assert found["cosine"] == pytest.approx(1) and found["cosine_chance"] < 0.5


@pytest.mark.parametrize(("size", "options"), [(15, {}), (40, {"stride": 16}), (40, {"stride": 0})])
def test_a_text_shorter_than_a_window_and_an_impossible_stride_are_refused(model, size, options):
    with pytest.raises(ValueError, match="Perplexity needs a stride below the window"):
        perplexity(model, np.zeros(size, dtype=np.int64), **{"window": 16, "stride": 4, **options})
