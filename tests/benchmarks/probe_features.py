"""Feature extraction against bare forward passes, side by side: ratios, medians of interleaved runs.

python tests/benchmarks/probe_features.py MODEL DATASET [ROWS_PER_LANGUAGE]

Prints JSON: seconds of the bare length-sorted forward passes (the floor), of `extract_features` for the last layer and
for all layers, and their ratios. The values are compared as well.
"""

import itertools
import json
import statistics
import sys
import time

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from hf_langimb import extract_features
from hf_langimb.data.spec import DataSpec
from hf_langimb.models.loading import tokenize

BATCH = 64


def floor(model, batches):
    """The same batches, padded beforehand, through the model: no bookkeeping at all."""
    with torch.inference_mode():
        return [model(**batch).last_hidden_state[:, 0] for batch in batches]


def main(name, dataset, rows=1000, repeats=3):
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    tokenized = tokenize(DataSpec(dataset).texts(first=int(rows)), tokenizer, ["text"])
    ids = tokenized["input_ids"][:]
    order = np.argsort([-len(row) for row in ids], kind="stable")
    batches = [
        tokenizer.pad({"input_ids": [ids[i] for i in order[start : start + BATCH]]}, return_tensors="pt")
        for start in range(0, len(order), BATCH)
    ]
    runs = {
        "floor": lambda: floor(model, batches),
        "last layer": lambda: extract_features(model, tokenizer, tokenized, batch_size=BATCH),
        "all layers": lambda: extract_features(model, tokenizer, tokenized, layers=None, batch_size=BATCH),
    }
    times, found = {name: [] for name in runs}, {}
    for _, (name, run) in itertools.product(range(repeats), runs.items()):
        began = time.perf_counter()
        found[name] = run()
        times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "rows": len(order),
        "threads": torch.get_num_threads(),
        "seconds": medians,
        "last layer / floor": medians["last layer"] / medians["floor"],
        "all layers / last layer": medians["all layers"] / medians["last layer"],
        "largest difference": float(np.abs(torch.cat(found["floor"]).numpy() - found["last layer"][0][order]).max()),
        "all layers agree": bool(np.array_equal(found["all layers"][-1], found["last layer"][0])),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:]), indent=1))
