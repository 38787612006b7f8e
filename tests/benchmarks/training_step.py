"""Seconds of construction, training steps and evaluation of `LangImbTrainer`, two versions side by side.

python tests/benchmarks/training_step.py TREE OTHER_TREE [REPEATS]

Each tree is a checkout. Its measurements run in their own processes, interleaved; prints JSON with medians and ratios.
On a CPU the model is tiny and CPU seconds are measured; where there is a GPU, a BERT of base size trains in bf16 on
rows of 128 tokens, and the time on the clock is measured. "stock" is `Trainer` of Transformers.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

CPU = not os.path.exists("/dev/nvidia0")
STEPS, LARGE, TOKENS, BATCH = (300, 100_000, 16, 32) if CPU else (60, 20_000, 128, 64)


def data(rows):
    """Rows of random tokens in three languages with three labels."""
    import numpy as np
    from datasets import ClassLabel, Dataset

    rng = np.random.default_rng(0)
    ids = rng.integers(5, 500, (rows, TOKENS))
    made = Dataset.from_dict(
        {
            "input_ids": ids.tolist(),
            "attention_mask": np.ones_like(ids).tolist(),
            "language": rng.choice(["en", "fr", "ja"], rows).tolist(),
            "label": rng.integers(0, 3, rows).tolist(),
        }
    )
    return made.cast_column("label", ClassLabel(names=["a", "b", "c"]))


def measure():
    """CPU seconds by name."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, Trainer, logging

    from hf_langimb import LangImbTrainer, LangImbTrainingArguments

    logging.set_verbosity_error()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(495))]
    tokenizer = BertTokenizer({word: i for i, word in enumerate(words)})
    tiny = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
    shape, precision = (tiny, {"use_cpu": True}) if CPU else ({}, {"bf16": True})
    found, small, large = {}, data(640), data(LARGE)
    clock = time.process_time if CPU else time.perf_counter

    @contextmanager
    def timed(name):
        began = clock()
        yield
        found[name] = clock() - began  # the losses of all steps are on the CPU by then

    with tempfile.TemporaryDirectory() as folder:
        for name, changes in {
            "stock": {},
            "none": {},
            "per_language": {"class_weighting": "per_language"},
            "entropy": {"class_weighting": "per_language", "masked_entropy_weight": 1.0},
        }.items():
            torch.manual_seed(0)
            model = BertForSequenceClassification(BertConfig(vocab_size=500, num_labels=3, **shape))
            arguments = LangImbTrainingArguments(
                folder,
                max_steps=STEPS,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=256,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **precision,
                **changes,
            )
            kind, rows = (Trainer, small.remove_columns("language")) if name == "stock" else (LangImbTrainer, small)
            trainer = kind(model, arguments, train_dataset=rows, processing_class=tokenizer)
            if not CPU:
                trainer.train()  # its kernels are loaded
            with timed(f"steps, {name}"):
                trainer.train()
        with timed("evaluation, small"):
            for _ in range(5):
                trainer.evaluate(small)
        with timed("construction, large"):
            trainer = LangImbTrainer(model, arguments, train_dataset=large, processing_class=tokenizer)
        with timed("evaluation, large"):
            trainer.evaluate(large.select(range(LARGE // 5)))
    return found


def main(tree, other, repeats=3):
    """Medians of interleaved processes, and ratios of the first to the second."""
    runs = {tree: [], other: []}
    for i in range(int(repeats)):
        for place in (tree, other) if i % 2 else (other, tree):
            done = subprocess.run(
                [sys.executable, __file__],
                env=os.environ | {"PYTHONPATH": os.pathsep.join([place, *sys.path[1:]])},
                capture_output=True,
                text=True,
                check=True,
            )
            runs[place].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        place: {name: statistics.median(run[name] for run in of) for name in of[0]} for place, of in runs.items()
    }
    ratios = {name: medians[tree][name] / medians[other][name] for name in medians[tree]}
    return {"seconds": list(medians.values()), "ratio": ratios}


if __name__ == "__main__":
    print(
        json.dumps(main(*sys.argv[1:]) if len(sys.argv) > 1 else measure(), **({"indent": 1} if sys.argv[1:] else {}))
    )
