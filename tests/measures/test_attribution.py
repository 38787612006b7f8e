"""Token attributions against shap itself and against exact Shapley values; the store; what stops and goes on."""

import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import shap
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from hf_langimb import attribute
from hf_langimb.measures.attribution.engine import Forward, explain, id_masker
from hf_langimb.measures.attribution.examples import SPECIAL, encode, mask_ids
from hf_langimb.measures.attribution.owen import owen_values
from hf_langimb.measures.attribution.shapley import shapley_values
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.models.adapters import add_lora

SENTENCES = [  # whole trees fit the budget of the first of each, not of the others
    "It rains.",
    "He didn't say (or so I heard), that the train had left; did he?",
    "L'été dernier, nous n'avons pas vu la mer.",
    "Où est-il allé ? « À la gare », dit-elle, et rien d'autre.",
    "猫が好きです。",
    "昨日、友達と一緒に映画を見ました。とても面白かったです。",
    "我喜欢喝茶。",
    "他说他明天会来，但是我不相信他的话。",
]
PAIRS = list(itertools.pairwise(SENTENCES))
STYLES = {  # first and last token, between two texts, as the family does it
    "bert": ("[CLS]", "[SEP]", "[SEP]"),
    "xlm-roberta": ("<s>", "</s>", "</s> </s>"),
    "deberta-v2": ("[CLS]", "[SEP]", "[SEP]"),
}


def make_tokenizer(style):
    """A tokenizer of the family's kind, trained on the sentences: word pieces, or pieces with the space in front."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    first, last, between = STYLES[style]
    unknown, pad, mask = ("<unk>", "<pad>", "<mask>") if style == "xlm-roberta" else ("[UNK]", "[PAD]", "[MASK]")
    specials = list(dict.fromkeys([pad, unknown, first, last, mask]))
    if style == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=specials, show_progress=False)
        tokenizer.decoder = decoders.WordPiece()
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=specials, unk_token=unknown, show_progress=False
        )
        tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {between} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    names = (
        ["input_ids", "attention_mask"] if style == "xlm-roberta" else ["input_ids", "token_type_ids", "attention_mask"]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, pad_token=pad, mask_token=mask, cls_token=first, sep_token=last,
        model_max_length=128, model_input_names=names,
    )  # fmt: skip


def make_model(style, tokenizer, dtype=torch.float64):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = {"bert": {}, "xlm-roberta": {"type_vocab_size": 1}, "deberta-v2": {"type_vocab_size": 2}}[style]
    config = AutoConfig.for_model(
        style, **size, **shape, vocab_size=len(tokenizer), num_labels=3, initializer_range=0.5,
        max_position_embeddings=136, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval().to(dtype)


@pytest.fixture(scope="module", params=STYLES)
def style(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(style):
    return make_tokenizer(style)


@pytest.fixture(scope="module")
def model(style, tokenizer):
    return make_model(style, tokenizer)


@pytest.fixture(scope="module")
def bert():
    tokenizer = make_tokenizer("bert")
    return make_model("bert", tokenizer), tokenizer


def run(model, tokenizer, texts, budget, **settings):
    """{row: result} of the engine with ids masked."""
    examples = encode(tokenizer, texts)
    generators = [owen_values(e.tree(), budget=budget, maskable=e.content, **settings) for e in examples]
    forward = Forward(model, str(next(model.parameters()).dtype).removeprefix("torch."))
    return {e.index: found for e, found in explain(examples, generators, id_masker(tokenizer.mask_token_id), forward)}


def one_by_one(model, example):
    """Probabilities for rows of ids, each alone, as shap's default asks for them."""

    def probabilities(rows):
        with torch.no_grad():
            inputs = [{"input_ids": torch.tensor([[int(token) for token in row]])} for row in rows]
            if example.types is not None:
                inputs = [{**one, "token_type_ids": torch.tensor(example.types)[None]} for one in inputs]
            return np.concatenate([model(**one).logits.double().softmax(-1).numpy() for one in inputs])

    return probabilities


class IdMasker:
    """For shap: ids of one example with its tree, special tokens kept."""

    clustering = None
    immutable_outputs = True
    default_batch_size = 5  # shap's for texts

    def __init__(self, example, mask_id):
        self.example, self.mask_id = example, mask_id
        self.clustering = lambda row: self._tree()

    def _tree(self):
        tree = self.example.tree()
        tree[:, 2] = tree[:, 3] / tree[:, 3].max()
        return tree

    def __call__(self, mask, row):
        return (np.where(mask | (self.example.segments == SPECIAL), self.example.ids, self.mask_id)[None],)

    def shape(self, row):
        return (1, len(self.example))

    def mask_shapes(self, row):
        return [(len(self.example),)]

    def feature_names(self, row):
        return [[str(i) for i in range(len(self.example))]]


# Against shap.


@pytest.mark.parametrize("budget", [500, None], ids=["500", "full"])
def test_ids_of_single_texts_equal_shap_s_own_text_masker(model, tokenizer, budget):
    found = run(model, tokenizer, [SENTENCES], budget)
    cut = 0
    for i, text in enumerate(SENTENCES):
        example = encode(tokenizer, [[text]])[0]
        if budget is None and len(example) > 16:
            continue  # thousands of evaluations
        explainer = shap.explainers.Partition(
            one_by_one(model, example), shap.maskers.Text(tokenizer, output_type="token_ids")
        )
        np.random.seed(0)
        expected = explainer([text], max_evals=500 if budget else 10**6, silent=True)
        np.testing.assert_allclose(found[i]["values"], expected.values[0], atol=1e-9, rtol=0)
        np.testing.assert_allclose(found[i]["base"], expected.base_values[0], atol=1e-9, rtol=0)
        cut += found[i]["truncated"]
    assert cut >= 2 if budget else cut == 0


@pytest.mark.parametrize("budget", [60, 500])
def test_ids_of_pairs_equal_shap_on_the_same_tree(model, tokenizer, budget):
    found = run(model, tokenizer, list(zip(*PAIRS, strict=True)), budget)
    for i, example in enumerate(encode(tokenizer, list(zip(*PAIRS, strict=True)))):
        assert example.types is None or example.types.max() == 1
        explainer = shap.explainers.Partition(one_by_one(model, example), IdMasker(example, tokenizer.mask_token_id))
        np.random.seed(0)
        expected = explainer([example.ids], max_evals=budget, silent=True)
        np.testing.assert_allclose(found[i]["values"], expected.values[0], atol=1e-9, rtol=0)
        assert found[i]["evaluations"] <= budget + 4


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_strings_equal_shap_s_default_pipeline(model, tokenizer, tmp_path, dtype):
    from transformers import pipeline

    whole = pipeline("text-classification", model=model.to(getattr(torch, dtype)), tokenizer=tokenizer, top_k=None)
    explainer = shap.Explainer(whole, seed=0)
    texts = SENTENCES[1::2]  # one of each language
    rows = Dataset.from_dict({"text": texts})
    store = attribute(model, tokenizer, rows, out=tmp_path / "store", masking="string", dtype=dtype)
    values = store.to_explanation()
    differences = []
    for i, text in enumerate(texts):
        np.random.seed(0)
        expected = explainer([text], max_evals=500, silent=True)
        differences.append(np.abs(values[i].values - expected.values[0]).max())
        np.testing.assert_allclose(values[i].base_values, expected.base_values[0], atol=1e-6)
    model.double()
    flipped = 1 if dtype == "float32" else 0  # near ties may open another node
    assert np.sort(differences)[: len(texts) - flipped].max() < 1e-6


def test_the_two_texts_of_a_pair_are_two_branches(tokenizer):
    for example in encode(tokenizer, list(zip(*PAIRS, strict=True))):
        spans = [np.flatnonzero(example.segments == i) for i in (0, 1)]
        leaves = {i: {i} for i in range(len(example))}
        for number, (left, right) in enumerate(example.tree()[:, :2].astype(int)):
            leaves[len(example) + number] = leaves[left] | leaves[right]
        for span in spans:
            whole = min((node for node in leaves.values() if set(span) <= node), key=len)
            others = set(spans[0] if span is spans[1] else spans[1])
            assert not whole & others


# Exact values.


def by_definition(model, example, mask_id):
    """Shapley values of the content tokens from all orders' weights."""
    players = np.flatnonzero(example.segments != SPECIAL)
    numbers = range(2 ** len(players))
    coalitions = [sum(1 << int(p) for i, p in enumerate(players) if number >> i & 1) for number in numbers]
    probabilities = one_by_one(model, example)(mask_ids(example, coalitions, mask_id))
    values = np.zeros((len(example), probabilities.shape[1]))
    n = len(players)
    for i, player in enumerate(players):
        for number in numbers:
            if not number >> i & 1:
                size = number.bit_count()
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                values[player] += weight * (probabilities[number | 1 << i] - probabilities[number])
    return values


def shapley(model, tokenizer, example, budget, seed=0):
    players = np.flatnonzero(example.segments != SPECIAL).tolist()
    generator = shapley_values(players, len(example), budget=budget, seed=seed)
    ((_, found),) = explain([example], [generator], id_masker(tokenizer.mask_token_id), Forward(model, "float64"))
    return found


def test_shapley_values_are_exact_where_the_budget_allows_it(bert):
    model, tokenizer = bert
    example = encode(tokenizer, [["猫が好きです。"]])[0]
    exact = by_definition(model, example, tokenizer.mask_token_id)
    found = shapley(model, tokenizer, example, None)
    np.testing.assert_allclose(found["values"], exact, atol=1e-12)
    assert (found["standard_error"] == 0).all()


def test_sampled_shapley_values_are_as_far_off_as_their_standard_errors_say(bert):
    model, tokenizer = bert
    example = encode(tokenizer, [["L'été dernier, nous n'avons"]])[0]
    exact = by_definition(model, example, tokenizer.mask_token_id)
    players = example.segments != SPECIAL
    assert 2 ** players.sum() > 200
    deviations, errors = [], []
    for seed in range(30):
        found = shapley(model, tokenizer, example, 100, seed)
        assert found["evaluations"] == 100
        total = found["base"] + found["values"].sum(axis=0)
        np.testing.assert_allclose(total, found["full"], atol=1e-12)
        deviations.append((found["values"] - exact)[players])
        errors.append(found["standard_error"][players])
    spread = np.sqrt(np.mean(np.square(deviations), axis=0))
    assert np.median(np.mean(errors, axis=0) / spread) == pytest.approx(1, abs=0.3)
    assert np.mean(np.abs(deviations) < 2 * np.array(errors)) > 0.85
    assert np.abs(np.mean(deviations)) < 1e-3


# The store.


def rows(number=12, pair=False, **changes):
    chosen = [SENTENCES[i % len(SENTENCES)] for i in range(number)]
    columns = {"premise": chosen, "hypothesis": chosen[::-1]} if pair else {"text": chosen}
    columns |= {
        "id": [f"row-{i}" for i in range(number)],
        "language": [["en", "fr", "ja", "zh"][i % 8 // 2] for i in range(number)],
        "label": [i % 3 for i in range(number)],
    }
    return Dataset.from_dict(columns | changes)


@pytest.mark.parametrize("method", ["owen", "shapley"])
@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_what_the_store_holds(bert, tmp_path, pair, method):
    model, tokenizer = bert
    data = rows(pair=pair)
    store = attribute(model, tokenizer, data, out=tmp_path / "store", budget=80, method=method, shard_size=5)
    assert len(store) == 12 and store.manifest["shards"] == 3
    assert store.examples["id"].to_pylist() == data["id"][:]
    assert store.examples["language"].to_pylist() == data["language"][:]
    assert store.examples["label"].to_pylist() == [f"LABEL_{i}" for i in data["label"]]
    tokens = store.tokens
    sums = np.zeros((12, 3))
    np.add.at(sums, tokens["example"].to_numpy(), stack(tokens["S"]))
    np.testing.assert_allclose(stack(store.examples["base"]) + sums, stack(store.examples["p"]), atol=1e-5)
    for token in tokens.to_pylist():
        text = data[token["example"]][["premise", "hypothesis"][token["segment"]] if pair else "text"]
        if token["segment"] != SPECIAL:
            assert text[token["start"] :].startswith(token["piece"])
            assert (
                tokenizer.convert_tokens_to_ids(tokenizer.unk_token) == token["token_id"]
                or token["end"] > token["start"]
            )
    with torch.no_grad():
        inputs = [data[0][name] for name in (("premise", "hypothesis") if pair else ("text",))]
        expected = model(**tokenizer(*inputs, return_tensors="pt")).logits.softmax(-1)
    np.testing.assert_allclose(stack(store.examples["p"])[0], expected[0].numpy(), atol=1e-6)
    assert ("standard_error" in tokens.column_names) is (method == "shapley")


def test_equal_texts_and_special_tokens_cost_nothing(bert):
    model, tokenizer = bert
    calls = []
    forward = Forward(model, "float64", batch_tokens=64)
    inner = forward.model

    class Counting:
        def __call__(self, **inputs):
            calls.append(tuple(inputs["input_ids"].shape))
            return inner(**inputs)

    forward.model = Counting()
    examples = encode(tokenizer, [["It rains."] * 5 + ["It snows."] * 2])
    generators = [owen_values(e.tree(), budget=500, maskable=e.content) for e in examples]
    found = {e.index: r for e, r in explain(examples, generators, id_masker(tokenizer.mask_token_id), forward)}
    assert all(rows * length <= max(64, length) for rows, length in calls)
    assert sum(rows for rows, _ in calls) < sum(r["forwards"] for r in found.values())
    assert found[0]["forwards"] < 0.6 * found[0]["evaluations"]
    np.testing.assert_array_equal(found[0]["values"], found[4]["values"])


def test_no_more_examples_are_under_way_than_fill_a_batch(bert):
    model, tokenizer = bert
    examples = encode(tokenizer, [[" ".join(words) for words in itertools.permutations(SENTENCES[1].split()[:5])]])
    under_way, most = 0, 0

    def counted(generator):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        result = yield from generator
        under_way -= 1
        return result

    generators = (counted(owen_values(e.tree(), budget=60, maskable=e.content)) for e in examples)
    forward = Forward(model, "float64", batch_tokens=64)
    assert len(list(explain(examples, generators, id_masker(tokenizer.mask_token_id), forward))) == 120
    assert under_way == 0 and most < 20


def test_a_budget_of_forwards(bert):
    model, tokenizer = bert
    found = run(model, tokenizer, [SENTENCES], 60, count_forwards=True)
    assert all(40 < r["forwards"] <= 62 for r in found.values() if r["truncated"])
    assert any(r["evaluations"] > 62 for r in found.values())


class Stopped(Exception):
    pass


def same_store(first, second):
    files = sorted(path.name for path in first.folder.iterdir())
    assert files == sorted(path.name for path in second.folder.iterdir())
    for name in files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


def test_a_stopped_call_goes_on(bert, tmp_path, monkeypatch):
    import hf_langimb.measures.attribution.attribute as module

    model, tokenizer = bert
    settings = {"budget": 40, "shard_size": 4}
    whole = attribute(model, tokenizer, rows(), out=tmp_path / "whole", **settings)
    written = []

    def stop(folder, number, found):
        if len(written) == 2:
            (folder / "tokens-00002.part").write_text("half")
            raise Stopped
        written.append(number)
        inner(folder, number, found)

    inner = module.write_shard
    monkeypatch.setattr(module, "write_shard", stop)
    with pytest.raises(Stopped):
        attribute(model, tokenizer, rows(), out=tmp_path / "parts", **settings)
    with pytest.raises(ValueError, match="has 2 of 3 shards: run the same command again to continue"):
        AttributionStore(tmp_path / "parts")
    written.clear()
    monkeypatch.setattr(module, "write_shard", lambda *a: (written.append(a[1]), inner(*a)))
    parts = attribute(model, tokenizer, rows(), out=tmp_path / "parts", **settings)
    assert written == [2]
    same_store(whole, parts)


EXPLAINING = """
import sys
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from hf_langimb import attribute
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(f"{folder}/model").eval()
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
attribute(model, tokenizer, Dataset.from_parquet(f"{folder}/rows.parquet"), out=f"{folder}/out", shard_size=4)
"""


def test_a_killed_call_goes_on(bert, tmp_path):
    _, tokenizer = bert
    model, data = make_model("bert", tokenizer, torch.float32), rows(400)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data.to_parquet(tmp_path / "rows.parquet")
    killed = subprocess.Popen([sys.executable, "-c", EXPLAINING, str(tmp_path)], stderr=subprocess.DEVNULL)
    while killed.poll() is None and len(list((tmp_path / "out").glob("examples-*.parquet"))) < 3:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it was at its end: give it more rows"
    assert len(list((tmp_path / "out").glob("examples-*.parquet"))) < 100
    same_store(
        attribute(model, tokenizer, data, out=tmp_path / "out", shard_size=4),
        attribute(model, tokenizer, data, out=tmp_path / "whole", shard_size=4),
    )


def test_a_full_disk_leaves_what_is_written(bert, tmp_path, monkeypatch):
    import hf_langimb.measures.attribution.store as module

    model, tokenizer = bert
    inner = module.pq.write_table

    def full(table, path):
        if "tokens-00001" in str(path):
            path.write_text("half")
            raise OSError(28, "No space left on device")
        inner(table, path)

    monkeypatch.setattr(module.pq, "write_table", full)
    with pytest.raises(OSError, match=r"Shard 1 of .* could not be written \(No space left on device\)"):
        attribute(model, tokenizer, rows(), out=tmp_path, budget=20, shard_size=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "examples-00000.parquet", "manifest.json", "tokens-00000.parquet",
    ]  # fmt: skip


def test_other_settings_are_not_mixed(bert, tmp_path):
    model, tokenizer = bert
    attribute(model, tokenizer, rows(4), out=tmp_path / "store", budget=20)
    for changed, name in (({"budget": 30}, "budget was 20, is 30"), ({"method": "shapley"}, "method was 'owen'")):
        with pytest.raises(ValueError, match=f"contains other attributions .*{name}.*choose another folder"):
            attribute(model, tokenizer, rows(4), out=tmp_path / "store", **{"budget": 20} | changed)
    with pytest.raises(ValueError, match="data was"):
        attribute(model, tokenizer, rows(5), out=tmp_path / "store", budget=20)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="contains files but no attributions"):
        attribute(model, tokenizer, rows(4), out=tmp_path / "other", budget=20)


def test_an_explanation_for_shap_s_plots(bert, tmp_path):
    model, tokenizer = bert
    store = attribute(model, tokenizer, rows(4), out=tmp_path / "store", budget=40)
    explanation = store.to_explanation([1, 3])
    assert explanation.output_names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    page = shap.plots.text(explanation[:, :, "LABEL_1"], display=False)
    assert "didn" in page
    with pytest.raises(ValueError, match="Expected examples 0 to 3, got 7"):
        store.to_explanation([7])


# What cannot be explained, and what can.


def test_texts_that_are_hardly_any(bert, tmp_path):
    model, tokenizer = bert
    data = Dataset.from_dict({"text": ["", "It", "[SEP] [CLS]", "It rains. " * 80]})
    store = attribute(model, tokenizer, data, out=tmp_path / "store", budget=40)
    assert store.manifest["truncated_texts"] == 1
    assert store.examples["text_truncated"].to_pylist() == [False, False, False, True]
    values = stack(store.tokens["S"])
    assert np.isfinite(values).all()
    assert (values[store.tokens["example"].to_numpy() == 0] == 0).all()
    assert store.examples["language"].to_pylist() == [None] * 4


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (rows(2), {"method": "lime"}, "Unknown method 'lime': choose one of owen, shapley"),
        (rows(2), {"masking": "gap"}, "Unknown masking 'gap'"),
        (rows(2), {"budget_unit": "hours"}, "Unknown budget_unit 'hours'"),
        (rows(2), {"dtype": "int8"}, "Unknown dtype 'int8'"),
        (rows(2), {"budget": 1}, "Expected a budget of 4 evaluations or more, or None, found 1"),
        (rows(2), {"shard_size": 0}, "Expected a shard_size of 1 or more"),
        (rows(2, pair=True), {"masking": "string"}, "would make one text of a pair"),
        (rows(2).select([]), {}, "No rows to explain"),
        (
            rows(2, label=[0, 7]),
            {},
            r"Labels run from 0 to 7, the model numbers its classes 0 to 2 \(LABEL_0, LABEL_1",
        ),
        (
            rows(2, label=["x", "LABEL_0"]),
            {},
            "Labels x are not among those of the model, .* or say what the model's classes are",
        ),
        (rows(2).rename_column("text", "body"), {}, "Found no text column"),
    ],
)
def test_bad_input(bert, tmp_path, data, settings, message):
    with pytest.raises(ValueError, match=message):
        attribute(*bert, data, out=tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


def test_labels_by_name(bert, tmp_path):
    names = ClassLabel(names=["LABEL_2", "LABEL_0", "LABEL_1"])
    data = rows(3).cast_column("label", names)
    store = attribute(*bert, data, out=tmp_path / "store", budget=8)
    assert store.examples["label"].to_pylist() == ["LABEL_2", "LABEL_0", "LABEL_1"]


def test_probabilities_that_are_not_finite(bert, tmp_path):
    _, tokenizer = bert
    broken = make_model("bert", tokenizer)
    with torch.no_grad():
        broken.classifier.bias[0] = float("nan")
    with pytest.raises(ValueError, match="probabilities that are not finite"):
        attribute(broken, tokenizer, rows(2), out=tmp_path / "store", budget=8, dtype="float64")


def test_a_damaged_store(bert, tmp_path):
    with pytest.raises(ValueError, match=r"got no manifest.json: run `langimb explain` first"):
        AttributionStore(tmp_path)
    store = attribute(*bert, rows(4), out=tmp_path / "store", budget=8)
    (store.folder / "examples-00000.parquet").write_text("?")
    with pytest.raises(ValueError, match="a shard cannot be read"):
        AttributionStore(store.folder)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    (store.folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 9}))
    with pytest.raises(ValueError, match="has schema_version 9, but this version reads 1"):
        AttributionStore(store.folder)
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        AttributionStore(store.folder)


def test_the_model_is_left_as_it_was(bert, tmp_path):
    model, tokenizer = bert
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8, dtype="bfloat16")
    assert model.training and next(model.parameters()).dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


def test_adapters_are_used(bert, tmp_path):
    _, tokenizer = bert
    adapted = add_lora(make_model("bert", tokenizer, torch.float32), 2).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    plain = attribute(
        make_model("bert", tokenizer, torch.float32), tokenizer, rows(2), out=tmp_path / "plain", budget=8
    )
    store = attribute(adapted, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    assert np.abs(stack(store.examples["p"]) - stack(plain.examples["p"])).max() > 0.01
    assert store.manifest["model"] != plain.manifest["model"]


def test_a_decoder_without_mask_token(decoder_tokenizer, tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "qwen2", **size, num_key_value_heads=1, pad_token_id=1, vocab_size=len(decoder_tokenizer), num_labels=3
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    data = Dataset.from_dict({"text": ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]})
    store = attribute(model, decoder_tokenizer, data, out=tmp_path / "store", budget=40)
    assert store.manifest["mask_token_is_substitute"] and store.manifest["mask_token"] == "<unk>"
    with pytest.raises(ValueError, match="Row 1 has no tokens: its text is empty"):
        attribute(model, decoder_tokenizer, Dataset.from_dict({"text": ["w1", ""]}), out=tmp_path / "empty")


def test_memory_that_runs_out_makes_batches_smaller(bert):
    model, _ = bert
    forward = Forward(model, "float64", batch_tokens=200)
    inner, sizes = forward.model, []

    class Small:
        def __call__(self, **inputs):
            sizes.append(inputs["input_ids"].numel())
            if sizes[-1] > 60:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return inner(**inputs)

    forward.model = Small()
    ids = np.random.default_rng(0).integers(5, 40, (20, 10))
    np.testing.assert_allclose(forward(ids, None), Forward(model, "float64")(ids, None), atol=1e-12)
    assert forward.batch_tokens <= 60


# What a reader found: settings that change the function, rows that are hardly any, odd models.


def test_another_function_is_not_taken_for_the_same(tmp_path):
    tokenizer = make_tokenizer("bert")
    model = add_lora(make_model("bert", tokenizer, torch.float32), 2).eval()
    model.add_adapter("other", model.peft_config["default"])
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    model.set_adapter("other")
    with pytest.raises(ValueError, match=r"contains other attributions .model was"):
        attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8)
    plain = make_model("bert", tokenizer, torch.float32)
    attribute(plain, tokenizer, rows(2), out=tmp_path / "plain", budget=8)
    plain.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match=r"contains other attributions .model was"):
        attribute(plain, tokenizer, rows(2), out=tmp_path / "plain", budget=8)
    other = rows(2).map(lambda row: {"text": row["text"].replace("It", "Xt")})
    attribute(plain, tokenizer, rows(2), out=tmp_path / "text", budget=8)
    with pytest.raises(ValueError, match=r"contains other attributions .data was"):
        attribute(plain, tokenizer, other, out=tmp_path / "text", budget=8)


def test_few_draws_determine_the_values(bert):
    for n in range(3, 9):
        for seed in range(60):
            generator = shapley_values(range(n), n, budget=8, seed=seed)
            asked = next(generator)
            known = {}
            try:
                while True:
                    known.update((bits, [bits.bit_count() * 1.0 + (bits & 1) + 3 * (bits >> 1 & 1)]) for bits in asked)
                    asked = generator.send(np.array([known[bits] for bits in asked]))
            except StopIteration as stop:
                expected = [2.0, 4.0] + [1.0] * (n - 2)
                np.testing.assert_allclose(stop.value["values"][:, 0], expected, atol=1e-8)
    with pytest.raises(ValueError, match=r"40 tokens need 2\^40 evaluations: set a budget"):
        generator = shapley_values(range(40), 40, budget=None)
        next(generator)
        generator.send(np.zeros((2, 3)))


def test_long_texts_are_masked_as_far_as_they_are_read(bert, tmp_path):
    model, tokenizer = bert
    settings = {"max_length": 10, "budget": 60, "dtype": "float64"}
    data = Dataset.from_dict({"text": SENTENCES[1:4]})
    found = [
        attribute(model, tokenizer, data, out=tmp_path / masking, masking=masking, **settings)
        for masking in ("ids", "string")
    ]
    assert found[0].manifest["truncated_texts"] == 3
    np.testing.assert_allclose(stack(found[0].examples["p"]), stack(found[1].examples["p"]), atol=1e-6)
    tokenizer.model_max_length, limit = 4096, tokenizer.model_max_length
    try:  # longer than the model
        long = Dataset.from_dict({"text": [" ".join(SENTENCES * 9)]})
        store = attribute(model, tokenizer, long, out=tmp_path / "long", budget=8)
        assert store.manifest["truncated_texts"] == 1
    finally:
        tokenizer.model_max_length = limit


def test_languages_and_missing_labels(bert, tmp_path):
    model, tokenizer = bert
    names = ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"])
    data = rows(4).remove_columns(["language", "label"])
    data = data.add_column("language", [0, 1, 0, 1]).cast_column("language", ClassLabel(names=["en", "fr"]))
    data = data.add_column("label", [0, 1, 2, -1]).cast_column("label", names)
    store = attribute(model, tokenizer, data, out=tmp_path / "store", budget=8)
    assert store.examples["language"].to_pylist() == ["en", "fr", "en", "fr"]
    assert store.examples["label"].to_pylist() == ["LABEL_0", "LABEL_1", "LABEL_2", None]


def test_models_that_take_no_batch(tmp_path):
    tokenizer = make_tokenizer("xlm-roberta")
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 136, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model("gpt2", **size, num_labels=3)  # without a padding token
    model = AutoModelForSequenceClassification.from_config(config).eval()
    data = Dataset.from_dict({"text": SENTENCES[:3]})
    assert len(attribute(model, tokenizer, data, out=tmp_path / "store", budget=20)) == 3


def test_each_module_keeps_its_mode(bert, tmp_path):
    model, tokenizer = bert
    model.train()
    model.bert.eval()
    attribute(model, tokenizer, rows(2), out=tmp_path / "store", budget=8, dtype="float64")
    assert model.training and not model.bert.training
    model.eval()


def test_a_store_that_lost_or_repeats_rows(bert, tmp_path):
    model, tokenizer = bert
    folder = attribute(model, tokenizer, rows(), out=tmp_path / "store", budget=8, shard_size=4).folder
    for kind in ("examples", "tokens"):
        shutil.copy(folder / f"{kind}-00000.parquet", folder / f"{kind}-00001.parquet")
    with pytest.raises(ValueError, match="must contain each of the 12 examples"):
        AttributionStore(folder)


def test_what_a_killed_start_leaves_is_no_store(bert, tmp_path):
    model, tokenizer = bert
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".manifest.json.123").write_text("{")
    with pytest.raises(ValueError, match="not finite"), torch.no_grad():
        broken = make_model("bert", tokenizer, torch.float32)
        broken.classifier.weight.fill_(float("nan"))
        attribute(broken, tokenizer, rows(2), out=folder, budget=8)
    attribute(model, tokenizer, rows(2), out=folder, budget=12)  # nothing was written: other settings may


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 1}, "Expected a max_length of 3 tokens or more, up to 136, found 1"),
        ({"max_length": 500}, "up to 136, found 500"),
        ({"batch_tokens": 0}, "Expected a batch_tokens of 1 or more, or None, found 0"),
        ({"seed": None}, "Expected a seed of 0 or more, found None"),
        ({"budget": float("nan")}, "Expected a budget of 4 evaluations or more, or None, found nan"),
        ({"method": "shapley", "budget_unit": "forwards"}, "counts for method='owen' alone"),
    ],
)
def test_settings_that_cannot_be(bert, tmp_path, settings, message):
    model, tokenizer = bert
    with pytest.raises(ValueError, match=message):
        attribute(model, tokenizer, rows(2), out=tmp_path / "store", **settings)


def test_data_and_models_that_cannot_be(bert, tmp_path):
    model, tokenizer = bert
    texts = Dataset.from_dict({"text": ["It rains.", None]})
    for data, message in (
        ([{"text": "a"}], r"Expected a datasets.Dataset, found list"),
        (DatasetDict({"test": rows(2)}), "found DatasetDict: name one split"),
        (texts, "has 1 null entries"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute(model, tokenizer, data, out=tmp_path / "store")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file: choose a folder"):
        attribute(model, tokenizer, rows(2), out=tmp_path / "file")
    other = make_model("bert", tokenizer)
    other.config.id2label = {0: "a", 1: "a", 2: "b"}
    with pytest.raises(ValueError, match="Expected a name for each class, each another"):
        attribute(other, tokenizer, rows(2).remove_columns("label"), out=tmp_path / "store")
    other.config.problem_type = "regression"
    with pytest.raises(ValueError, match="this model is a regression"):
        attribute(other, tokenizer, rows(2), out=tmp_path / "store")


# The command.


def test_the_command(tmp_path, capsys):
    from hf_langimb.cli import main

    tokenizer = make_tokenizer("bert")
    make_model("bert", tokenizer, torch.float32).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows(12).rename_columns({"language": "lang", "label": "stars"}).to_parquet(tmp_path / "rows.parquet")
    command = [
        "explain",
        str(tmp_path / "model"),
        str(tmp_path / "rows.parquet"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    command += ["--language-column", "lang", "--label-column", "stars", "--budget", "60"]
    assert main([*command, "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert "8 examples" in shown and "of the examples needed more than the budget" in shown
    store = AttributionStore(tmp_path / "out")
    assert sorted(store.examples["language"].to_pylist()) == ["en", "en", "fr", "fr", "ja", "ja", "zh", "zh"]
    assert store.examples["label"][0].as_py() == "LABEL_0"
    for wrong, message in (
        (["--rows", "3"], "contains other attributions"),
        (["--label-column", "mark"], "Expected a label column 'mark'"),
        (
            ["--masking", "string", "--output-dir", str(tmp_path / "no"), "--text-column", "text", "id"],
            "one of a pair|would make one",
        ),
    ):
        assert main([*command, "--rows", "2", *wrong]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and any(part in error for part in message.split("|")), error
    assert main([*command, "--budget", "many"]) == 2
    bare = tmp_path / "bare"
    make_model("bert", tokenizer).bert.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    assert main(["explain", str(bare), *command[2:]]) == 1
    error = capsys.readouterr().err
    assert "is not a trained classifier: it lacks the weights classifier.bias, classifier.weight" in error
