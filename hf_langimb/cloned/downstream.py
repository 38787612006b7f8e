"""Fine-tune a language model in language 0 and test it in every language: does it transfer without an example?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, GPT2ForSequenceClassification, Trainer, TrainingArguments, set_seed

from hf_langimb.cloned.vocabulary import Vocabulary
from hf_langimb.console import hidden
from hf_langimb.data import mini_xnli

LANGUAGE = "en"  # of the pairs, whichever clone reads them
TESTED = 600  # items
RATE, EPOCHS, BATCH = 1e-3, 4, 32


def english_texts() -> list[str]:
    """Unlabeled English sentences of mini-XNLI's grammar."""
    rows = mini_xnli.pretraining_text()  # whose premise and hypothesis are in different languages
    columns = ["premise" if language == LANGUAGE else "hypothesis" for language in rows["language"]]
    return [row[column] for row, column in zip(rows, columns, strict=True)]


def transfer(
    place: Path, vocabulary: Vocabulary, tokenizer: Any, *, items: int, seed: int, use_cpu: bool = False
) -> dict[str, Any]:
    """Fine-tune on pairs of mini-XNLI in language 0; the classifier reads the last token that is not padding.

    Args:
        place: folder of the language model.
        vocabulary: of the model.
        tokenizer: of all languages, which are clones.
        items: pairs to train on.
        seed: of the training.
        use_cpu: whether to train on the CPU where there is an accelerator.

    Returns:
        accuracy: in each language; items: training pairs; tested: test pairs; chance: share of the most frequent label.
    """
    padding = int(tokenizer.pad_token_id)
    set_seed(seed)
    model = GPT2ForSequenceClassification.from_pretrained(place, num_labels=len(mini_xnli.LABELS), pad_token_id=padding)
    context = model.config.n_positions
    train = _encoded("train", items, vocabulary, tokenizer, 0, context)
    arguments = TrainingArguments(
        str(place / "downstream"),
        learning_rate=RATE,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=256,
        warmup_steps=0.06,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        seed=seed,
        use_cpu=use_cpu,
        disable_tqdm=hidden(),
        dataloader_pin_memory=False,
    )
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model, arguments, collator, train_dataset=train, processing_class=tokenizer)
    trainer.train()
    accuracy = []
    for language in range(vocabulary.languages):
        tested = _encoded("test", TESTED, vocabulary, tokenizer, language, context)
        found: Any = trainer.predict(tested)
        accuracy.append(float((found.predictions.argmax(axis=1) == found.label_ids).mean()))
    share = np.bincount(found.label_ids).max() / len(found.label_ids)
    return {"accuracy": accuracy, "items": items, "tested": len(found.label_ids), "chance": float(share)}


def _encoded(split: str, items: int, vocabulary: Vocabulary, tokenizer: Any, language: int, context: int) -> Dataset:
    """Pairs with their labels, in ids of a language of the model; both texts end with the token that ends a text."""
    rows = mini_xnli.generate(split, items)
    rows = rows.select(np.flatnonzero(np.array(rows["language"]) == LANGUAGE))
    ids = []
    for pair in zip(rows["premise"], rows["hypothesis"], strict=True):
        read = tokenizer([*pair], add_special_tokens=False)["input_ids"]
        joined = [one for text in read for one in [*text, tokenizer.sep_token_id]][-context:]
        ids.append(vocabulary.encode(joined, language).tolist())
    names = list(mini_xnli.LABELS)
    labels = [one if isinstance(one, int) else names.index(one) for one in rows["label"]]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids], "labels": labels})
