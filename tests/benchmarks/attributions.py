"""Attributions against shap's default pipeline and against the arithmetic floor, side by side, values compared.

python tests/benchmarks/attributions.py MODEL DATA.parquet [--rows 64] [--reference 64] [--budget 500] [--device cpu]

Both sides have the same budget (method `owen`); `--orders` designed orders are timed as well; shap explains the same
rows, or `--reference` of them where it takes too long (every k-th, so of all lengths). Times are CPU seconds on a CPU
(one thread), wall seconds on another device. The floor is the same different sequences, sorted by length, in full
batches through the same model, with nothing around it. Values are compared in float32 (strings, the rows that were
timed) and, for `--exact` rows, in float64 with shap's default pipeline and with its masker of token ids. `--memory N`
measures the memory of N examples instead. Prints JSON; model_cards/benchmarks keeps what README shows.
"""

import copy
import json
import resource
import tempfile
import time
from argparse import ArgumentParser

import numpy as np
import shap
import torch
from datasets import Dataset, load_dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import hf_langimb
from hf_langimb.measures.attribution import attribute as module
from hf_langimb.measures.attribution.engine import Forward

WIDE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
NARROW = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}


def attribute(model, tokenizer, rows, **settings):
    return hf_langimb.attribute(model, tokenizer, rows, out=tempfile.mkdtemp(), **{"method": "owen"} | settings)


def load(name):
    """A checkpoint with a new head of three classes."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=3)
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # effects of the size of a trained model's
    return model


def random_model(vocabulary, **size):
    """A BERT of three classes with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **size, vocab_size=vocabulary, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config)


def clock(device):
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def spread(rows, number):
    """Rows of all lengths: every k-th."""
    return rows.select(range(0, len(rows), max(len(rows) // number, 1))[:number])


def explain_one_by_one(explainer, texts, budget):
    """shap's values, with its ties drawn again for each text, as the engine draws them."""
    for text in texts:
        np.random.seed(0)
        yield explainer([text], max_evals=budget, silent=True)[0].values


def largest_differences(store, expected):
    """Of each example, the largest first."""
    pairs = zip(store.to_explanation(), expected, strict=True)
    return sorted((float(np.abs(one.values - other).max()) for one, other in pairs), reverse=True)


def shap_explainer(model, tokenizer, device):
    whole = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device=device)
    return shap.Explainer(whole)


def exact_differences(model, tokenizer, rows, budget):
    """{masking: differences} in float64 to shap's masker of token ids and to its default pipeline."""
    model = copy.deepcopy(model).double()

    def probabilities(sequences):
        ids = [torch.tensor([[int(token) for token in sequence]], device=model.device) for sequence in sequences]
        with torch.no_grad():
            return np.concatenate([model(input_ids=one).logits.softmax(-1).cpu().numpy() for one in ids])

    by_ids = shap.explainers.Partition(probabilities, shap.maskers.Text(tokenizer, output_type="token_ids"))
    differences = {}
    for masking, explainer in {"ids": by_ids, "string": shap_explainer(model, tokenizer, model.device)}.items():
        store = attribute(model, tokenizer, rows, budget=budget, masking=masking, dtype="float64")
        differences[masking] = largest_differences(store, explain_one_by_one(explainer, rows["text"][:], budget))
    return differences


def measure_memory(tokenizer, rows):
    """The most that a model of 2 layers x 128 takes."""
    model = random_model(len(tokenizer), **NARROW).eval()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attribute(model, tokenizer, rows)
    risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"examples": len(rows), "GB above the model": risen / 1e6}


def measure_engine(model, tokenizer, rows, dtype, options, **settings):
    """Seconds of the engine and of the floor, the same sequences in full batches of one length."""
    settings = settings or {"budget": options.budget}
    sequences = []  # what the engine evaluates

    class Recorded(Forward):
        def __call__(self, ids, types):
            sequences.append((ids, types))
            return super().__call__(ids, types)

    module.Forward = Recorded
    began = clock(options.device)
    attribute(model, tokenizer, rows, dtype=dtype, text_columns=["text"], **settings)
    seconds = clock(options.device) - began
    module.Forward = Forward
    forward = Forward(model, dtype)
    forward.model.eval()
    batches = []
    for length in dict.fromkeys(ids.shape[1] for ids, _ in sequences):
        parts = [part for part in sequences if part[0].shape[1] == length]
        whole = [None if part[0] is None else np.concatenate(part) for part in zip(*parts, strict=True)]
        size = max(forward.batch_tokens // length, 1)
        for i in range(0, len(whole[0]), size):
            batches.append([None if part is None else part[i : i + size] for part in whole])
    began = clock(options.device)
    for batch in batches:
        forward(*batch)
    floor = clock(options.device) - began
    number = sum(len(ids) for ids, _ in sequences)
    found = {"seconds": seconds, "floor": floor, "seconds / floor": seconds / floor, "sequences": number}
    found |= {"sequences a second": number / seconds, "mean batch": number / len(sequences)}
    return found | {"examples a second": len(rows) / seconds}


def main():
    parser = ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    for name, default in {"rows": 64, "reference": 64, "exact": 4, "budget": 500, "orders": 16, "memory": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--languages", nargs="+", default=["eng_Latn", "fra_Latn", "jpn_Jpan", "zho_Hans"])
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--name", default="", help="of the data, kept with the results")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--base",
        action="store_true",
        help="12 layers x 768 with random weights (mBERT's size without its vocabulary); of MODEL only the tokenizer",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, budget = AutoTokenizer.from_pretrained(options.model), options.budget
    data = load_dataset("parquet", data_files=options.data, split="train")
    data = data.filter(lambda language: language in options.languages, input_columns="language")
    data = Dataset.from_dict({"text": data[options.text_column][:], "language": data["language"][:]})
    if options.memory:
        return measure_memory(tokenizer, spread(data, options.memory))
    model = random_model(len(tokenizer), **WIDE) if options.base else load(options.model)
    model = model.to(options.device).eval()
    rows = spread(data, options.rows)
    reference = spread(rows, options.reference)
    attribute(model, tokenizer, rows.select(range(2)), budget=20)  # warm
    engine = {dtype: measure_engine(model, tokenizer, rows, dtype, options) for dtype in options.dtypes}
    orders = {"method": "owen_orders", "orders": options.orders}
    for dtype in options.dtypes:
        engine[f"{dtype}, {options.orders} orders"] = measure_engine(model, tokenizer, rows, dtype, options, **orders)
    lengths = [len(ids) for ids in tokenizer(rows["text"][:], truncation=True)["input_ids"]]
    explainer, texts = shap_explainer(model, tokenizer, options.device), reference["text"][:]
    explainer(texts[:1], max_evals=10, silent=True)  # numba compiles at the first call
    began = clock(options.device)
    expected = list(explain_one_by_one(explainer, texts, budget))
    seconds = clock(options.device) - began
    strings = attribute(model, tokenizer, reference, budget=budget, masking="string")
    return {
        "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu, one thread",
        "data": options.name or options.data,
        "model": f"{model.config.num_hidden_layers} layers x {model.config.hidden_size}",
        "rows": len(rows),
        "budget": budget,
        "tokens": np.quantile(lengths, (0, 0.5, 1)).tolist(),
        "engine": engine,
        "shap": {"rows": len(texts), "seconds": seconds, "examples a second": len(texts) / seconds},
        "speed against shap": {name: of["examples a second"] * seconds / len(texts) for name, of in engine.items()},
        "differences in float32": largest_differences(strings, expected),
        "differences in float64": exact_differences(model, tokenizer, spread(rows, options.exact), budget)
        if options.exact
        else {},
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
