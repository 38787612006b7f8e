"""`langimb train`: a recipe for a user's own data, whose training arguments follow from the size of the data.

The command line is that of recipes/custom.py with the names that the other commands use.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hf_langimb.results.tables import file_name
from hf_langimb.runs.recipe import Recipe

FOLDER = Path(__file__).parent  # of custom.yaml
NAMES = {
    "model": "model_name_or_path",
    "text_column": "text_columns",
    "config_name": "config_names",
    "split": "train_split",
}
# By the number of training rows: below it, steps of pretraining, epochs, batch size of mini_bert. Its loss on held-out
# rows is lowest long before its accuracy is highest: the last epoch is taken. Measured at 3,500 rows.
MINI = ((2_000, 300, 12, 16), (10_000, 500, 6, 32), (50_000, 800, 4, 32), (math.inf, 1_000, 3, 64))


def words_of(argv: Sequence[str]) -> list[str]:
    """The command line of recipes/custom.py for one of `langimb train`: DATASET first, and the names of its flags.

    Ends the process with a usage message where DATASET is missing.
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        words[:1] = ["--dataset_name", words[0]]
    elif not {"-h", "--help"} & {*words} and not any(re.match("--dataset[_-]name", word) for word in words):
        print("usage: langimb train DATASET [--option value ...]\nlangimb train: write DATASET first", file=sys.stderr)
        sys.exit(2)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        known = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and known in NAMES:
            words[i] = f"--{NAMES[known]}{equals}{value}"
    if not any(word.partition("=")[0].replace("-", "_") == "__output_dir" for word in words):
        named = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--dataset_name"]
        words += [f"--output_dir=runs/{file_name(Path(named[0]).resolve().name.partition('.')[0])}"] if named else []
    return words


def fitted(recipe: Recipe, rows: int) -> tuple[Recipe, str]:
    """A recipe whose batch size, learning rate and epochs fit the data, unless they were given; and which they are.

    Args:
        recipe: of the user.
        rows: of the training data.
    """
    device = recipe.training.device.type
    chosen = _chosen(recipe.data.model_name_or_path == "mini_bert", rows, device)
    free = {key: value for key, value in chosen.items() if key not in recipe.flags | recipe.config.keys()}
    if not free:
        return recipe, ""
    said = ", ".join(f"{key}={value}" for key, value in free.items())
    text = f"Training arguments chosen for {rows:,} training rows on this device ({device}): {said}."
    steps = free.pop("pretraining_steps", recipe.data.pretraining_steps)
    data = replace(recipe.data, pretraining_steps=steps)
    config = recipe.config | free | {"pretraining_steps": steps}
    return replace(recipe, data=data, training=replace(recipe.training, **free), config=config), text


def _chosen(mini: bool, rows: int, device: str) -> dict[str, Any]:
    """Training arguments for a number of rows on a device."""
    if mini:
        _, steps, epochs, batch = next(line for line in MINI if rows < line[0])
        chosen: dict[str, Any] = {"pretraining_steps": steps, "num_train_epochs": epochs}
        return chosen | {"per_device_train_batch_size": batch, "learning_rate": 1e-3, "load_best_model_at_end": False}
    epochs = 5 if rows < 5_000 else 3 if rows < 50_000 else 2
    chosen = {"num_train_epochs": epochs, "per_device_train_batch_size": 32, "learning_rate": 3e-5}
    chosen["load_best_model_at_end"] = True
    if device == "cuda" and torch.cuda.is_bf16_supported():
        chosen["bf16"] = True
    return chosen
