"""The recipe `toy`, a pytest plugin: data, a model to start from, and runs of some seconds."""

import itertools
from pathlib import Path

import numpy as np
import pytest

LABELS = ["no", "perhaps", "yes"]  # words w0-w7, w8-w15, w16-w23 are likelier with each
TINY = (Path(__file__).parent / "runs" / "toy.yaml").read_text()


def texts(rows, seed, languages=("fr", "en")):
    """Rows of each language and label, of six to nine words; `item` is shared by the languages."""
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    table = []
    for i, (label, name) in itertools.product(range(rows), enumerate(LABELS)):
        any_words, own_words = rng.integers(0, 24, 3 + i % 4), rng.integers(8 * label, 8 * label + 8, 3)
        words = [f"w{word}" for word in (*any_words, *own_words)]
        for language in languages:
            row = {"text": " ".join(rng.permutation(words)), "label": name, "language": language}
            table.append(row | {"item": f"{i}-{label}"})
    return Dataset.from_list(table)


def write_splits(folder, splits):
    """The rows of each split as a CSV file of a new folder."""
    folder.mkdir()
    for split, rows in splits.items():
        rows.to_csv(folder / f"{split}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, bert_tokenizer, tiny_bert):
    """A folder with data (CSV), external text, a model to start from and the YAML of the recipe `toy`."""
    folder = tmp_path_factory.mktemp("workshop")
    write_splits(folder / "data", {"train": texts(20, 0), "validation": texts(10, 1), "test": texts(12, 2)})
    texts(8, 3).to_parquet(folder / "external.parquet")
    tiny_bert().save_pretrained(folder / "model")
    bert_tokenizer.save_pretrained(folder / "model")
    text = f"dataset_name: {folder / 'data'}\nmodel_name_or_path: {folder / 'model'}\n{TINY}"
    (folder / "mini.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def work(workshop):
    """Function (output folder, *argv): run the recipe, (folder, results)."""

    from hf_langimb.runs.experiment import run
    from hf_langimb.runs.recipe import parse_recipe

    def run_toy(output, *argv):
        return run(parse_recipe("toy", workshop, ["--output_dir", str(output), *map(str, argv)]))

    return run_toy
