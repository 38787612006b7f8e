"""Rows drawn by language and label: shares, seeds, schedules, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from by_hand import assert_same_weights
from conftest import SKEWED
from datasets import ClassLabel

from hf_langimb import JointDistribution
from hf_langimb.training.losses import weighted_cross_entropy
from hf_langimb.training.sampler import steps_of


def drawn(trainer, epochs=1):
    """Rows of each epoch, [epochs, N]."""
    sampler = trainer._get_train_sampler()
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return np.array(found)


def shares(rows, numbers):
    counts = Counter((rows[int(i)]["language"], rows[int(i)]["label"]) for i in numbers.ravel())
    return np.array([[counts[language, label] for label in range(3)] for language in SKEWED]) / numbers.size


def test_rows_are_drawn_in_proportion_to_the_weights(build, rows):
    trainer = build(sampling="joint")
    numbers = drawn(trainer, 200)
    assert numbers.shape == (200, 21)
    assert shares(rows, numbers) == pytest.approx(1 / 9, abs=0.01)
    assert len({*map(tuple, numbers)}) == 200
    assert (drawn(build(sampling="joint"), 200) == numbers).all()
    assert (drawn(build(sampling="joint", data_seed=2)) != numbers[:1]).any()
    assert (trainer.weights == 1).all()
    table = {language: {str(label): 1 + 4 * (label == 2) for label in range(3)} for language in SKEWED}
    expected = np.array([[n * table[language][str(i)] for i, n in enumerate(row)] for language, row in SKEWED.items()])
    own = build(sampling="own", class_weights=table)
    assert (own.weights == 1).all()
    assert shares(rows, drawn(own, 200)) == pytest.approx(expected / expected.sum(), abs=0.01)


def test_languages_by_temperature_and_repeats(build, rows):
    numbers = drawn(build(language_temperature=0.0), 200)
    assert shares(rows, numbers).sum(axis=1) == pytest.approx(1 / 3, abs=0.01)
    most = max(Counter(epoch.tolist()).most_common(1)[0][1] for epoch in drawn(build(sampling="joint", max_repeats=2)))
    assert most <= 2
    ignored = rows.map(lambda row, i: {"label": -100 if i % 3 == 0 else row["label"]}, with_indices=True)
    settings = {"max_repeats": 2, "missing_cell_policy": "ignore"}
    for options in ({"data": ignored, "sampling": "joint"}, {"language_schedule": "ja:0.5_0.5_0.5_0.5"}):
        trainer = build(max_steps=4, batch=6, accumulation=1, **settings, **options)
        epochs = drawn(trainer, 20)
        assert len(epochs[0]) == trainer.distribution.rows
        assert max(np.bincount(epoch).max() for epoch in epochs) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_repeats_are_limited_over_the_stages_of_a_schedule(build, rows, seed):
    """Each stage rounds the sizes of cells by itself."""
    few = rows.select([i for i, row in enumerate(rows) if row["language"] != "ja"] * 3 + [rows["language"].index("ja")])
    settings = {"data": few, "max_repeats": 2, "batch": 2, "accumulation": 1, "data_seed": seed}
    share = 1.8 / len(few)
    options = {"max_steps": -(-len(few) // 2), "missing_cell_policy": "ignore"}
    trainer = build(language_schedule="ja:" + "_".join([f"{share:.4f}"] * 5), **settings, **options)
    for epoch in drawn(trainer):
        counts = np.bincount(epoch, minlength=len(few))
        assert counts.max() <= 2 and counts.sum() == len(few)


def test_batches_have_rows_of_similar_length_if_asked_for(build, rows):
    many = rows.select([*range(len(rows))] * 20)
    texts = [ids + [5] * (7 * i % 40) for i, ids in enumerate(many["input_ids"])]
    masks = [[1] * len(ids) for ids in texts]
    many = many.remove_columns(["input_ids", "attention_mask"]).add_column("input_ids", texts)
    many = many.add_column("attention_mask", masks).select_columns(["input_ids", "attention_mask", "language", "label"])
    lengths = np.array(list(map(len, texts)))
    settings = {"data": many, "sampling": "joint", "batch": 4, "accumulation": 1}
    grouped = drawn(build(train_sampling_strategy="group_by_length", **settings), 3)
    plain = drawn(build(train_sampling_strategy="random", **settings), 3)
    for epoch, others in zip(grouped, plain, strict=True):
        assert (np.sort(epoch) == np.sort(others)).all(), "the same draws in another order"
        spread = [np.ptp(lengths[of].reshape(-1, 4), axis=1).mean() for of in (epoch, others)]
        assert spread[0] < spread[1] / 4
    assert (drawn(build(train_sampling_strategy="group_by_length", **settings), 3) == grouped).all()
    firsts = lengths[grouped].reshape(3, -1, 4)[..., 0]
    assert (np.diff(firsts, axis=1) > 0).mean() > 0.3, "batches in random order"


@pytest.mark.parametrize(("batch", "accumulation"), [(6, 1), (3, 2)])
def test_a_schedule_of_a_language_follows_the_steps(build, rows, batch, accumulation):
    """21 rows in steps of 6, the last of 3: four steps in an epoch, eight in the training."""
    settings = {"max_steps": 8, "batch": batch, "accumulation": accumulation}
    seen = []

    def cost(logits, labels, language_ids, weights):
        seen.extend(language_ids.tolist())
        return weighted_cross_entropy(logits, labels, language_ids, weights)

    trainer = build(language_schedule="ja:0_1", keywords={"row_loss": cost}, **settings)
    trainer.train()
    assert trainer.state.global_step == 8
    ja = trainer.distribution.languages.index("ja")
    assert ja not in seen[:21]
    assert {*seen[21:]} == {ja}
    third = drawn(build(language_schedule="ja:0_0_1", max_steps=3, batch=7, accumulation=1))[0]
    assert [rows[int(i)]["language"] == "ja" for i in third] == [False] * 14 + [True] * 7


def test_a_resumed_training_draws_the_rows_that_it_would_have_drawn(build, tiny_bert, tmp_path):
    settings = {"sampling": "per_language", "language_schedule": "fr:0.2_0.7", "max_steps": 6, "batch": 4}
    settings |= {"accumulation": 2, "save_strategy": "steps", "save_steps": 2}
    whole = build(tiny_bert(), **settings)
    whole.train()
    resumed = build(tiny_bert(), **settings)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    assert_same_weights(resumed.model, dict(whole.model.named_parameters()), 1e-7)


def test_rows_with_ids_of_languages_and_ignored_labels(build, rows):
    data = rows.map(lambda row, i: {"label": row["label"] if i % 5 else -100}, with_indices=True)
    data = data.cast_column("language", ClassLabel(names=["ja", "en", "fr", "de"]))
    trainer = build(data=data, sampling="per_language", missing_cell_policy="ignore")
    numbers = drawn(trainer, 100)
    assert not {*range(0, 21, 5)} & {*numbers.ravel().tolist()}
    counts = Counter((data[int(i)]["language"], data[int(i)]["label"]) for i in numbers.ravel())
    for language in range(3):
        found = [counts[language, label] for label in range(3) if counts[language, label]]
        assert max(found) / min(found) == pytest.approx(1, abs=0.15)


def test_what_does_not_fit_is_refused_or_said(build, rows, caplog):
    for settings, message in (
        ({"sampling": "jiont"}, "Unknown sampling 'jiont': choose one of none, class"),
        ({"sampling": "own"}, "sampling='own' needs class_weights"),
        ({"language_temperature": 1.5}, r"language_temperature must be from 0 to 1, got 1\.5"),
        ({"max_repeats": 1}, "max_repeats must be a whole number of 2 or more, got 1"),
        ({"language_schedule": "de:0.5"}, "language_schedule names 'de', expected one of en, fr, ja"),
        ({"language_schedule": "fr:0_1_0", "max_steps": 2}, "has 3 stages, the training only 2 steps"),
        ({"language_schedule": "0.1_0.9"}, "language_schedule must be like fr:0.1_0.9, got '0.1_0.9'"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**settings)
    for settings in ({"sampling": "joint"}, {"language_temperature": 0.5}, {"language_schedule": "fr:0.5"}):
        with pytest.raises(ValueError, match="needs a dataset with a length: load it without"):
            build(data=rows.to_iterable_dataset(), max_steps=2, **settings)
    unordered = {"train_sampling_strategy": "random"}
    caplog.clear()
    build(sampling="joint", **unordered)
    assert not caplog.text
    for settings in ({"weighting": "joint"}, {"objective": "logit_adjustment"}):
        build(sampling="joint", **unordered, **settings)
        assert "each compensate for how rows are distributed" in caplog.text
        caplog.clear()
    build(weighting="joint", objective="logit_adjustment", **unordered)
    assert "each compensate for how rows are distributed" in caplog.text
    build(sampling="joint", train_sampling_strategy="sequential")
    assert "train_sampling_strategy=sequential has no effect" in caplog.text
    counts = JointDistribution(["en", "fr"], [0, 1, 2], [[4, 2, 1], [1, 2, 5]])
    with pytest.raises(ValueError, match="have the language ja, which is not in distribution"):
        build(sampling="joint", keywords={"distribution": counts})._get_train_sampler()


def test_steps_of_a_training(training_arguments):
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": -1}
    arguments = training_arguments(**settings, num_train_epochs=1.5)
    assert steps_of(arguments, 21, 8) == (8, 3, 5)  # batches of 4, 4 | 4, 4 | 4, 1
    assert steps_of(arguments, 21, 16) == (16, 2, 3)
    dropped = training_arguments(**settings, num_train_epochs=1.5, dataloader_drop_last=True)
    assert steps_of(dropped, 21, 8) == (8, 3, 5)  # 5 batches
    assert steps_of(dropped, 19, 8) == (8, 2, 3)
    assert steps_of(training_arguments(**settings | {"max_steps": 7}), 21, 8) == (8, 3, 7)
