"""Errors and costs of Owen values from designed orders and from shap's truncated tree, side by side, on real sentences.

python tests/benchmarks/attributions_errors.py MODEL DATA [--whole] [--save FOLDER] [--device cpu] [--name NAME]

MODEL is a pretrained encoder, DATA a folder with train.parquet and test.parquet (text, language, label). A head, or
with `--whole` all layers, are trained on the labels of twelve languages. Then the values of three groups of test
sentences are compared with a reference, the full tree unless stated otherwise: 64 of 38 to 46 tokens, 64 short ones
(full tree below 300 forward passes), and 32 of 60 to 96 tokens, whose reference is 64 independent orders. Sentences are
explained eight at a time by one method after another, so that all methods meet the same load of the machine; CPU
seconds, one thread (of no meaning on another `--device`). `--save` keeps the trained model, and takes it where it is
kept. Prints JSON after each group.
"""

import json
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_langimb import LangImbTrainer, LangImbTrainingArguments, attribute, extract_features
from hf_langimb.measures.attribution.examples import encode
from hf_langimb.measures.attribution.store import stack

LANGUAGES = (
    "eng_Latn fra_Latn deu_Latn spa_Latn ita_Latn por_Latn nld_Latn pol_Latn tur_Latn vie_Latn swh_Latn fin_Latn"
)
OWEN, EXACT = {"method": "owen", "budget": 500}, {"budget": None}
GROUPS = {  # name: (sentences, fewest and most tokens, largest full tree, reference, methods)
    "38-46 tokens": (
        64,
        38,
        46,
        None,
        EXACT,
        {
            "owen 500": OWEN,
            "8 orders": {"orders": 8},
            "16 orders": {"orders": 16},
            "budget 350": {"budget": 350},
            "budget 500": {},
        },
    ),
    "short": (
        64,
        5,
        46,
        300,
        EXACT,
        {"owen 500": OWEN, "budget 500": {}, "owen 250": OWEN | {"budget": 250}, "budget 150": {"budget": 150}},
    ),
    "60-96 tokens": (32, 60, 96, None, {"orders": 64, "seed": 1}, {"owen 500": OWEN, "budget 500": {}}),
}
CHUNK = 8  # sentences that one method explains before the next one


def train(name, data, folder, whole):
    """The encoder with a head fitted to its features, or with `whole` all layers trained; from `folder` if there."""
    if folder.is_dir():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(name)
    rows = data["train"].class_encode_column("label")
    labels = dict(enumerate(rows.features["label"].names))
    torch.manual_seed(0)
    options = {"num_labels": len(labels), "id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    model = AutoModelForSequenceClassification.from_pretrained(name, **options)
    rows = rows.map(
        lambda of: tokenizer(of["text"], truncation=True, max_length=128), batched=True, remove_columns=["text"]
    )
    if whole:
        arguments = LangImbTrainingArguments(
            tempfile.mkdtemp(),
            num_train_epochs=1,
            learning_rate=1e-4,
            per_device_train_batch_size=32,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        LangImbTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
    else:
        features = extract_features(model, tokenizer, rows, pooling="pooler")[0]
        fitted = LogisticRegression(max_iter=1000).fit(features, rows["label"][:])
        with torch.no_grad():
            model.classifier.weight.copy_(torch.from_numpy(fitted.coef_))
            model.classifier.bias.copy_(torch.from_numpy(fitted.intercept_))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def accuracy(model, tokenizer, rows):
    right = 0
    with torch.inference_mode():
        for batch in rows.iter(64):
            inputs = tokenizer(batch["text"], truncation=True, padding=True, return_tensors="pt").to(model.device)
            found = model(**inputs).logits.argmax(-1).tolist()
            right += sum(model.config.id2label[one] == label for one, label in zip(found, batch["label"], strict=True))
    return right / len(rows)


def whole_tree(example):
    """Forward passes of the full tree."""
    from hf_langimb.measures.attribution.orders import _content_tree

    return 2 + sum(2 << one.depth for one in _content_tree(example.tree(), example.content)[0])


def choose(tokenizer, rows, number, least, most, largest):
    """Sentences of a length, spread over the data, and the forward passes of their full trees."""
    examples = encode(tokenizer, [rows["text"][:]], max_length=512)
    fits = [one for one in examples if least <= len(one) - 2 <= most]
    if largest:
        fits = [one for one in fits if whole_tree(one) < largest]
    chosen = [fits[i] for i in np.linspace(0, len(fits) - 1, number).astype(int)]
    return rows.select([one.index for one in chosen]), [whole_tree(one) for one in chosen]


def values(store):
    """S of the tokens of the texts, [tokens, C]."""
    return stack(store.tokens["S"])[store.tokens["segment"].to_numpy() >= 0]


def category(of):
    return (of > 0.01).astype(int) - (of < -0.01)


def measure(model, tokenizer, rows, methods):
    """{method: {forwards, CPU seconds, values}} of the rows."""
    found = {name: defaultdict(list) for name in methods}
    for first in range(0, len(rows), CHUNK):
        chunk = rows.select(range(first, min(first + CHUNK, len(rows))))
        for name, settings in methods.items():
            began = time.process_time()
            store = attribute(model, tokenizer, chunk, out=tempfile.mkdtemp(), text_columns=["text"], **settings)
            found[name]["seconds"].append(time.process_time() - began)
            found[name]["forwards"] += store.examples["forwards"].to_pylist()
            found[name]["values"].append(values(store))
    return found


def main():
    parser = ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--name", default="", help="of the data, kept with the results")
    parser.add_argument("--save", type=Path, default=Path(tempfile.gettempdir()) / "attributions-errors")
    parser.add_argument("--whole", action="store_true", help="train all layers, not only the head")
    parser.add_argument("--sentences", type=int, help="fewer than those of a group")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = ["test"] if options.save.is_dir() else ["train", "test"]
    data = load_dataset("parquet", data_files={split: str(options.data / f"{split}.parquet") for split in splits})
    data = data.filter(lambda language: language in LANGUAGES.split(), input_columns="language")
    model, tokenizer = train(options.model, data, options.save, options.whole)
    model = model.float().to(options.device)
    device = "cpu, one thread" if options.device == "cpu" else torch.cuda.get_device_name()
    results: dict = {"device": device, "trained": "all layers" if options.whole else "the head"}
    results |= {
        "data": options.name or str(options.data),
        "accuracy": accuracy(model, tokenizer, data["test"]),
        "groups": {},
    }
    for group in options.groups:
        number, least, most, largest, reference, methods = GROUPS[group]
        number = min(number, options.sentences or number)
        rows, trees = choose(tokenizer, data["test"], number, least, most, largest)
        rows = rows.select_columns(["text", "language"])
        found = measure(model, tokenizer, rows, methods | {"reference": reference})
        truth = np.concatenate(found["reference"]["values"])
        results["groups"][group] = {"sentences": number, "full tree, forwards": float(np.mean(trees)), "methods": {}}
        for name, of in found.items():
            own = np.concatenate(of["values"])
            results["groups"][group]["methods"][name] = {
                "forwards": float(np.mean(of["forwards"])),
                "cpu_seconds": sum(of["seconds"]),
                "mean_error": float(np.abs(own - truth).mean()),
                "largest_error": float(np.abs(own - truth).max()),
                "same_category": float((category(own) == category(truth)).mean()),
            }
        print(json.dumps(results, indent=1), flush=True)


if __name__ == "__main__":
    main()
