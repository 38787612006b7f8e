"""Attributions against shap's default pipeline and against the arithmetic floor, side by side, values compared.

python tests/benchmarks/attributions.py MODEL DATA.parquet [--rows 64] [--reference 64] [--budget 500] [--device cpu]

The same budget on both sides; shap explains the same rows, or `--reference` of them where it takes too long (every
k-th, so of all lengths). Times are CPU seconds on a CPU (one thread), wall seconds on another device. The floor is the
same different sequences, sorted by length, in full batches through the same model, with nothing around it. Values are
compared in float32 (strings, the rows that were timed) and, for `--exact` rows, in float64 with shap's default pipeline
and with its masker of token ids. Prints JSON; model_cards/benchmarks keeps what README shows.
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

from hf_langimb import attribute
from hf_langimb.measures.attribution import attribute as module
from hf_langimb.measures.attribution.engine import Forward


def load(name, device):
    """A checkpoint with a new head of three classes."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=3)
    with torch.no_grad():
        model.classifier.weight.mul_(20)  # effects of the size of a trained model's
    return tokenizer, model.to(device).eval()


def widen(model, device):
    """The same tokenizer's vocabulary under 12 layers x 768 (mBERT without its vocabulary), random weights."""
    size = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    config = AutoConfig.for_model("bert", **size, vocab_size=model.config.vocab_size, num_labels=3)
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).to(device).eval()


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


def largest_differences(found, expected):
    """Of each example, the largest first."""
    return sorted(
        (float(np.abs(one.values - other).max()) for one, other in zip(found, expected, strict=True)), reverse=True
    )


def exact_differences(model, tokenizer, rows, budget):
    """{masking: differences} in float64 to shap's masker of token ids and to its default pipeline."""
    model, texts = copy.deepcopy(model).double(), rows["text"][:]

    def probabilities(sequences):
        ids = [torch.tensor([[int(token) for token in sequence]], device=model.device) for sequence in sequences]
        with torch.no_grad():
            return np.concatenate([model(input_ids=one).logits.softmax(-1).cpu().numpy() for one in ids])

    whole = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device=model.device)
    explainers = {
        "ids": shap.explainers.Partition(probabilities, shap.maskers.Text(tokenizer, output_type="token_ids")),
        "string": shap.Explainer(whole),
    }
    differences = {}
    for masking, explainer in explainers.items():
        settings = {"budget": budget, "masking": masking, "dtype": "float64"}
        store = attribute(model, tokenizer, rows, out=tempfile.mkdtemp(), **settings)
        expected = explain_one_by_one(explainer, texts, budget)
        differences[masking] = largest_differences(store.to_explanation(), expected)
    return differences


def measure_memory(tokenizer, data, number):
    """{examples, GB above the model}: the most that a model of 2 layers x 128 takes with so many examples."""
    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = AutoConfig.for_model("bert", **size, vocab_size=len(tokenizer), num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    rows = spread(data, number)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attribute(model, tokenizer, rows, out=tempfile.mkdtemp())
    risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"examples": len(rows), "GB above the model": risen / 1e6}


def main():
    parser = ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--languages", nargs="+", default=["eng_Latn", "fra_Latn", "jpn_Jpan", "zho_Hans"])
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--reference", type=int, default=64)
    parser.add_argument("--exact", type=int, default=4, help="rows compared in float64")
    parser.add_argument("--name", default="", help="of the data, kept with the results")
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--memory", type=int, default=0, help="measure the memory of so many examples instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--base", action="store_true", help="12 layers x 768 with random weights in the model's place")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, model = load(options.model, options.device)
    if options.base:
        model = widen(model, options.device)
    data = load_dataset("parquet", data_files=options.data, split="train")
    data = data.filter(lambda language: language in options.languages, input_columns="language")
    data = Dataset.from_dict({"text": data[options.text_column][:], "language": data["language"][:]})
    if options.memory:
        print(json.dumps(measure_memory(tokenizer, data, options.memory)))
        return
    rows = spread(data, options.rows)
    reference = spread(rows, options.reference)
    texts = reference["text"][:]

    sequences = []  # what the engine evaluates, kept for the floor

    class Recorded(Forward):
        def __call__(self, ids, types):
            sequences.append((ids, types))
            return super().__call__(ids, types)

    found = {}
    attribute(model, tokenizer, rows.select(range(2)), out=tempfile.mkdtemp(), budget=20)  # warm
    for dtype in options.dtypes:
        sequences.clear()
        module.Forward = Recorded
        began = clock(options.device)
        store = attribute(
            model, tokenizer, rows, out=tempfile.mkdtemp(), budget=options.budget, dtype=dtype, text_columns=["text"]
        )
        seconds = clock(options.device) - began
        module.Forward = Forward
        forward = Forward(model, dtype)
        forward.model.eval()
        by_length = {}
        for ids, types in sequences:
            by_length.setdefault(ids.shape[1], []).append((ids, types))
        batches = []
        for length, parts in by_length.items():
            ids = np.concatenate([part[0] for part in parts])
            types = None if parts[0][1] is None else np.concatenate([part[1] for part in parts])
            size = max(forward.batch_tokens // length, 1)
            batches += [
                (ids[i : i + size], None if types is None else types[i : i + size]) for i in range(0, len(ids), size)
            ]
        began = clock(options.device)
        for batch in batches:
            forward(*batch)
        floor = clock(options.device) - began
        number = sum(len(ids) for ids, _ in sequences)
        found[dtype] = {
            "seconds": seconds,
            "floor": floor,
            "seconds / floor": seconds / floor,
            "sequences": number,
            "sequences a second": number / seconds,
            "mean batch": number / len(sequences),
            "examples a second": len(rows) / seconds,
        }
        lengths = np.bincount(store.tokens["example"].to_numpy())

    whole = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device=options.device)
    explainer = shap.Explainer(whole)
    explainer(texts[:1], max_evals=10, silent=True)  # numba compiles at the first call
    began = clock(options.device)
    expected = list(explain_one_by_one(explainer, texts, options.budget))
    seconds = clock(options.device) - began

    strings = attribute(
        model, tokenizer, reference, out=tempfile.mkdtemp(), budget=options.budget, masking="string"
    ).to_explanation()
    speed = {dtype: entry["examples a second"] * seconds / len(texts) for dtype, entry in found.items()}
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu, one thread",
                "data": options.name or options.data,
                "model": f"{model.config.num_hidden_layers} layers x {model.config.hidden_size}",
                "rows": len(rows),
                "budget": options.budget,
                "tokens": np.quantile(lengths, (0, 0.5, 1)).tolist(),
                "engine": found,
                "shap": {"rows": len(texts), "seconds": seconds, "examples a second": len(texts) / seconds},
                "speed against shap": speed,
                "differences in float32": largest_differences(strings, expected),
                "differences in float64": exact_differences(
                    model, tokenizer, spread(rows, options.exact), options.budget
                ),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
