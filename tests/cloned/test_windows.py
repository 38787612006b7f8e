"""Training windows: one order and one language each, in any number of processes, batches and sittings."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hf_langimb import CloneMap
from hf_langimb.cloned.decoder import make_decoder
from hf_langimb.cloned.markov import MarkovLanguage
from hf_langimb.cloned.schedule import all_languages
from hf_langimb.cloned.windows import TrainingWindows, cut

LANGUAGE = MarkovLanguage(8)
TEXTS = LANGUAGE.windows(40, 12, seed=0)
STEPS, ROWS = 6, 8


def windows(schedule="0.5", languages=2):
    """48 windows from 40 texts: a whole pass and the beginning of another."""
    table = all_languages(schedule, rows=ROWS, total_steps=STEPS, languages=languages)
    return TrainingWindows(CloneMap(9, languages), [TEXTS] * languages, table, padding_id=0)


def test_languages_with_texts_of_their_own_read_each_of_them_once_per_pass():
    table = all_languages("0.3", rows=ROWS, total_steps=STEPS)
    counts = np.bincount(table.ravel())
    texts = [TEXTS[: counts[0]], TEXTS[: counts[1] // 2]]
    data = TrainingWindows(CloneMap(9, 2), texts, table, parallel=False)
    for language, passes in ((0, 1), (1, 2)):
        read = np.bincount(data.order[data.languages == language], minlength=len(texts[language]))
        assert (read >= passes).all() and read.sum() == counts[language]


class Recorded(Trainer):
    """Keeps what each step reads."""

    def training_step(self, model, inputs, *others):
        self.read = [*getattr(self, "read", []), (self.state.global_step, inputs["input_ids"].tolist())]
        loss = super().training_step(model, inputs, *others)
        self.losses = [*getattr(self, "losses", []), float(loss)]
        return loss


def trained(data, folder, resume=None, vocabulary=18, kind=Recorded, **options):
    """A trainer that has trained."""
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to="none",
        save_steps=2,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        learning_rate=1e-2,
        **{"per_device_train_batch_size": ROWS, **options},
    )
    trainer = kind(make_decoder(vocabulary, context=12, layers=1, width=16, heads=2), arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def by_step(trainer):
    """{step: windows that it read}."""
    found = {}
    for step, rows in trainer.read:
        found.setdefault(step, []).extend(rows)
    return found


def test_each_text_is_read_once_per_pass_in_the_language_of_its_place():
    data = windows()
    decoded = [data.vocabulary.decode(data[i]["input_ids"].numpy()) for i in range(len(data))]
    table = all_languages("0.5", rows=ROWS, total_steps=STEPS)
    for (_, language), expected in zip(decoded, table.ravel(), strict=True):
        assert {*language.tolist()} == {expected}
    texts = [tuple(ids.tolist()) for ids, _ in decoded]
    assert sorted(texts[:40]) == sorted(map(tuple, TEXTS.tolist()))
    assert texts[:8] != [*map(tuple, TEXTS[:8].tolist())]  # shuffled
    assert data.tokens().sum() == 48 * 12 and (data.tokens(16) == np.bincount(table.ravel()[:16]) * 12).all()
    again = [i for i in range(40, 48) if table.ravel()[texts.index(texts[i])] != table.ravel()[i]]
    assert data.seen_in_several() == len(again) / 40 > 0


@pytest.mark.parametrize(
    "options", [{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, {"dataloader_num_workers": 2}]
)
def test_accumulation_and_prefetching_give_each_step_the_same_windows(tmp_path, options):
    plain, other = (by_step(trained(windows(), tmp_path / str(i), **of)) for i, of in enumerate(({}, options)))
    assert plain == other


@pytest.mark.parametrize("accumulated", [1, 2])
def test_two_processes_read_the_windows_of_one(tmp_path, accumulated):
    """Batches as Accelerate divides them: those of both processes in a step are the rows of the step."""
    whole, size = by_step(trained(windows(), tmp_path)), ROWS // 2 // accumulated
    parts = [
        [*prepare_data_loader(DataLoader(windows(), size), num_processes=2, process_index=i, put_on_device=False)]
        for i in range(2)
    ]
    for step, rows in whole.items():
        places = range(step * accumulated, (step + 1) * accumulated)
        read = [row for part in parts for place in places for row in part[place]["input_ids"].tolist()]
        assert sorted(read) == sorted(rows)
        assert {*map(tuple, parts[0][places[0]]["input_ids"].tolist())} < {*map(tuple, rows)}


def test_a_resumed_training_reads_the_rest_in_the_same_languages(tmp_path):
    whole = trained(windows(), tmp_path)
    rest = trained(windows(), tmp_path, resume=str(tmp_path / "checkpoint-4"))
    assert by_step(rest) == {step: rows for step, rows in by_step(whole).items() if step >= 4}
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.allclose(rest.model(ids).logits, whole.model(ids).logits, atol=1e-4)


def test_one_language_is_a_plain_training(tmp_path):
    class Plain(torch.utils.data.Dataset):
        """The texts in the same order, without anything of ours."""

        order = windows("0", 1).order

        def __len__(self):
            return STEPS * ROWS

        def __getitem__(self, place):
            ids = torch.from_numpy(TEXTS[self.order[place]])
            return {"input_ids": ids, "labels": ids}

    ours, plain = (trained(data, tmp_path / str(i), vocabulary=9) for i, data in enumerate((windows("0", 1), Plain())))
    assert ours.read == plain.read
    assert ours.losses == pytest.approx(plain.losses, abs=1e-6)


def test_padding_is_neither_moved_nor_predicted():
    padded = np.where(np.arange(12) < 9, TEXTS, 0)
    data = TrainingWindows(CloneMap(9), [padded] * 2, np.ones((1, 4), dtype=np.int64), padding_id=0)
    assert (data[0]["input_ids"][9:] == 0).all() and (data[0]["labels"][9:] == -100).all()
    assert (data[0]["labels"][:9] == data[0]["input_ids"][:9]).all()


def test_a_text_is_cut_into_windows_and_refused_if_it_is_shorter():
    assert cut(range(7), 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="has 2 tokens, less than one window of 3"):
        cut(range(2), 3)
