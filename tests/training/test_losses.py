"""The loss terms against formulas written out by hand, and the layout of the mask row."""

import copy
import math

import pytest
import torch

from hf_langimb.training.losses import append_masked_row, negative_entropy, weighted_cross_entropy

WEIGHTS = torch.tensor([[2 / 3, 1.0, 2.0], [3.0, 1.5, 0.6]])


def smoothed(logits, label, smoothing=0.0):
    """Cross-entropy of one row against (1 - s) on the label plus s / C on every class, from exponentials alone."""
    total = sum(math.exp(z) for z in logits)
    logs = [math.log(math.exp(z) / total) for z in logits]
    return -(1 - smoothing) * logs[label] - smoothing * sum(logs) / len(logs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_each_row_costs_its_cell_weight_times_its_smoothed_cross_entropy(smoothing):
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, languages = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    expected = [
        float(WEIGHTS[language, label]) * smoothed(row.tolist(), label, smoothing)
        for row, label, language in zip(logits, labels.tolist(), languages.tolist(), strict=True)
    ]
    losses = weighted_cross_entropy(logits, labels, languages, WEIGHTS, smoothing)
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_weights_of_other_labels_do_not_leak_into_a_smoothed_loss():
    """torch's own weight= spreads the weight of each class into the smoothing term (pytorch issue 104776)."""
    logits, label, language = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([1]), torch.tensor([0])
    other = WEIGHTS.clone()
    other[:, [0, 2]] = 50.0
    ours = [weighted_cross_entropy(logits, label, language, table, 0.2) for table in (WEIGHTS, other)]
    settings = {"label_smoothing": 0.2, "reduction": "sum"}
    theirs = [torch.nn.functional.cross_entropy(logits, label, table[0], **settings) for table in (WEIGHTS, other)]
    assert ours[0].item() == ours[1].item()
    assert theirs[0].item() != pytest.approx(theirs[1].item(), rel=0.1)


def test_unseen_languages_weigh_1_and_ignored_labels_cost_nothing():
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    losses = weighted_cross_entropy(logits, torch.tensor([2, 2, -100]), torch.tensor([0, -1, 1]), WEIGHTS)
    plain = [smoothed(row.tolist(), 2) for row in logits]
    assert losses.tolist() == pytest.approx([2 * plain[0], plain[1], 0.0], rel=1e-5)


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_losses_are_computed_in_float32_or_better(given):
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=given)
    losses = weighted_cross_entropy(logits, torch.tensor([0]), torch.tensor([1]), WEIGHTS)
    expected = torch.float64 if given == torch.float64 else torch.float32
    assert losses.dtype == negative_entropy(logits).dtype == expected
    assert losses.item() == pytest.approx(3 * smoothed([1.0, -2.0, 0.5], 0), rel=1e-6)  # these are exact in bf16


def test_negative_entropy_is_the_sum_of_p_log_p_in_nats():
    rows = [[0.2, 1.1, -0.7], [0.0, 0.0, 0.0]]
    probabilities = [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in rows]
    expected = [sum(p * math.log(p) for p in row) for row in probabilities]
    assert negative_entropy(torch.tensor(rows, dtype=torch.float64)).tolist() == pytest.approx(expected, rel=1e-12)
    assert expected[1] == pytest.approx(-math.log(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("row", [[200.0, -200.0, 0.0], [-200.0, -200.0, 200.0], [200.0, 200.0, -200.0]])
def test_negative_entropy_stays_right_where_a_probability_underflows(row, dtype):
    logits = torch.tensor([row], dtype=dtype, requires_grad=True)
    value = negative_entropy(logits)
    value.sum().backward()
    assert value.item() == pytest.approx(-math.log(2) if row.count(200.0) == 2 else 0.0, abs=1e-6)
    assert logits.grad.isfinite().all()


# The mask row. The special tokens of each tokenizer stay; what stands between becomes mask tokens.


def encode(tokenizer, *texts):
    return tokenizer.pad([tokenizer(*text) for text in texts], return_tensors="pt")


LAYOUTS = [  # tokenizer, texts of the template row, length, tokens wanted, token types wanted
    ("bert", ("w1 w2 w3",), 3, "CMMMS", "00000"),
    ("bert", ("w1 w2 w3",), 1, "CMS", "000"),
    ("bert", ("w1",), 5, "CMMMMMS", "0000000"),
    ("bert", ("w1 w2 w3 w4", "w5 w6"), 6, "CMMMMSMMS", "000000111"),
    ("bert", ("w1 w2 w3 w4", "w5 w6"), 3, "CMMSMS", "000011"),
    ("bert", ("w1 w2 w3 w4", "w5 w6"), 12, "CMMMMMMMMSMMMMS", "000000000011111"),
    ("bert", ("w1 w2 w3 w4", "w5 w6"), 1, "CMSS", "0001"),
    ("bert", ("w1", "w5 w6 w7 w8"), 1, "CSMS", "0011"),
    ("bert", ("w1 unheard w3",), 3, "CMMMS", "00000"),  # an unknown word is content
    ("roberta", ("w1 w2 w3",), 2, "CMMS", None),
    ("roberta", ("w1 w2", "w5 w6"), 2, "CMSSMS", None),
    ("roberta", ("w1 w2 w3", "w5"), 8, "CMMMMMMSSMMS", None),
    ("roberta", ("w1 w2", "w5 w6"), 1, "CMSSS", None),
]


@pytest.mark.parametrize("other", ["w9", "w9 w9 w9 w9 w9 w9 w9 w9 w9 w9"], ids=["beside-short", "beside-long"])
@pytest.mark.parametrize(("kind", "texts", "length", "tokens", "types"), LAYOUTS)
def test_the_mask_row_keeps_special_tokens_and_shares_masks_in_proportion(
    kind, texts, length, tokens, types, other, request
):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    batch = encode(tokenizer, (other,) * len(texts), texts)
    extended = append_masked_row(batch, tokenizer, row=1, length=length)
    ids = {"C": tokenizer.cls_token_id, "S": tokenizer.sep_token_id, "M": tokenizer.mask_token_id}
    wanted = [ids[token] for token in tokens]
    new = {name: tensor[-1].tolist() for name, tensor in extended.items()}
    padding = len(new["input_ids"]) - len(wanted)
    assert new["input_ids"] == wanted + [tokenizer.pad_token_id] * padding
    assert new["attention_mask"] == [1] * len(wanted) + [0] * padding
    if types:
        assert new["token_type_ids"] == [int(kind) for kind in types] + [0] * padding
    assert extended["input_ids"].shape == (3, max(batch["input_ids"].shape[1], len(wanted)))


@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_rows_of_the_batch_stay_as_they_are(bert_tokenizer, side, length):
    tokenizer = copy.deepcopy(bert_tokenizer)
    tokenizer.padding_side = side
    batch = encode(tokenizer, ("w1 w2 w3 w4", "w5"), ("w6", "w7"))
    before = {name: tensor.clone() for name, tensor in batch.items()}
    extended = append_masked_row(batch, tokenizer, row=1, length=length)
    space = extended["input_ids"].shape[1] - before["input_ids"].shape[1]
    for name, tensor in before.items():
        kept = extended[name][:2, space:] if side == "left" else extended[name][:2, : tensor.shape[1]]
        assert kept.equal(tensor)
    attended = extended["attention_mask"].bool()
    assert extended["input_ids"][~attended].eq(bert_tokenizer.pad_token_id).all()
    assert attended.sum(dim=1).tolist() == [*before["attention_mask"].sum(dim=1).tolist(), length + 3]
    edge = attended[:, -1] if side == "left" else attended[:, 0]
    assert edge.all(), "padding on the wrong side"


def test_the_mask_row_of_other_inputs(bert_tokenizer, decoder_tokenizer):
    batch = encode(bert_tokenizer, ("w1 w2 w3",), ("w4",))
    extended = append_masked_row({"input_ids": batch["input_ids"]}, bert_tokenizer, row=1, length=2)
    assert extended["input_ids"][-1].tolist() == [2, 4, 4, 3, 0], "padding is known by its id"
    extended = append_masked_row(batch | {"row_number": torch.tensor([7, 8])}, bert_tokenizer, row=0, length=2)
    assert extended["row_number"].tolist() == [7, 8], "tensors that are no token sequences pass"
    tokenizer = copy.deepcopy(decoder_tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    batch = encode(tokenizer, ("w1 w2 w3",), ("w4",))
    extended = append_masked_row(batch, tokenizer, row=1, length=2)
    assert extended["input_ids"][-1].tolist() == [27, 27, 1], "without a template there are masks alone"
