"""Steps per CPU second of the recipe of cloned languages and of a plain `Trainer` on the same model, alternating.

python tests/benchmarks/cloned_throughput.py [--steps 3000] [--rounds 3]

The recipe's training makes its windows as they are read, and logs perplexity in each language, alignment and tokens
ten times. The plain one reads windows that are made beforehand, and logs its loss alone.
"""

import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer

from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.schedule import all_languages
from hf_langimb.cloned.texts import texts_of
from hf_langimb.cloned.training import LanguageLog, untrained_decoder
from hf_langimb.cloned.windows import TrainingWindows

RECIPES = Path(__file__).parents[2] / "recipes" / "cloned_languages"


def steps_per_second(recipe, folder: str, plain: bool) -> float:
    """Of one training of the setup `imbalanced`."""
    setup, data = recipe.setups["imbalanced"], recipe.data
    arguments, rows = setup.training, setup.rows(1)
    arguments.output_dir, arguments.save_strategy, arguments.disable_tqdm = folder, "no", True
    texts = texts_of(data).of(setup.of, arguments.max_steps * rows, seed=100)
    languages = all_languages(setup.of.schedule, rows=rows, total_steps=arguments.max_steps, languages=2)
    windows = TrainingWindows(texts.vocabulary, texts.train, languages, padding_id=texts.padding_id)
    read = [windows[i] for i in range(len(windows))] if plain else windows
    trainer = Trainer(untrained_decoder(texts.vocabulary, data, 0), arguments, train_dataset=read)
    if not plain:
        options = {"window": data.context, "stride": data.stride, "aligned": True}
        trainer.add_callback(LanguageLog(trainer, windows, texts.test, rows=rows, **options))
    began = time.process_time()  # unaffected by other processes
    trainer.train()
    return arguments.max_steps / (time.process_time() - began)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratios = []
    for _ in range(options.rounds):
        speeds = []
        for plain in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                words = ["--max_steps", str(options.steps), "--setups", "imbalanced", "--output_dir", folder]
                speeds.append(steps_per_second(parse_cloned("cloned_languages", RECIPES, words), folder, plain))
        ratios.append(speeds[0] / speeds[1])
        print(f"recipe {speeds[0]:.1f}, plain {speeds[1]:.1f} steps/s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {np.median(ratios):.3f}")


if __name__ == "__main__":
    main()
