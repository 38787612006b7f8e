"""Datasets without a length: counts that are given, counted if they end, or none at all."""

import itertools
import json
import logging

import numpy as np
import pytest
import torch
from by_hand import assert_same_weights
from datasets import ClassLabel, IterableDataset

from hf_langimb import JointDistribution, cell_weights


class Stream(torch.utils.data.IterableDataset):
    """Rows without a length, `times` times over; `read` counts them."""

    def __init__(self, rows, times=1):
        self.rows, self.times, self.read = list(rows), times, 0

    def __iter__(self):
        for _ in itertools.repeat(None) if self.times is None else range(self.times):
            for row in self.rows:
                self.read += 1
                yield dict(row)


def endless(rows):
    return IterableDataset.from_generator(lambda: iter(Stream(rows, None)), features=rows.features)


ENDLESS = {"torch": lambda rows: Stream(rows, None), "datasets": endless}
FINITE = {
    "torch": Stream,
    "datasets": lambda rows: rows.to_iterable_dataset(),
    "several shards": lambda rows: rows.to_iterable_dataset(num_shards=3),
    "generator": lambda rows: IterableDataset.from_generator(lambda: iter(list(rows))),
    "mapped": lambda rows: rows.to_iterable_dataset().map(lambda row: row),
}
STEPS = {"max_steps": 3, "batch": 7}


@pytest.fixture(autouse=True)
def _few_rows_are_many(monkeypatch):
    monkeypatch.setattr("hf_langimb.training.model_counts.COUNTED_ROWS", 1000)


def weights_of(distribution, scheme="per_language"):
    return cell_weights(distribution, scheme).astype(np.float32).tolist()


def counted(rows):
    return JointDistribution.from_columns(rows["language"], rows["label"])


@pytest.mark.parametrize("kind", ENDLESS)
def test_without_a_weighting_nothing_is_read_before_training_nor_recorded(build, rows, kind, caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        trainer = build(data=ENDLESS[kind](rows), eval_dataset=rows, entropy=1.0, **STEPS)
        assert getattr(trainer.train_dataset, "read", 0) == 0
        assert trainer.distribution is None and trainer.weights is None
        trainer.train()
    assert sum("will not record" in record.message for record in caplog.records) == 1
    assert "distribution=" in caplog.text
    trainer.save_model(tmp_path)
    assert not (tmp_path / "langimb.json").exists()
    assert "langimb" not in json.loads((tmp_path / "config.json").read_text())
    metrics, expected = trainer.evaluate(), build(model=trainer.model, eval_dataset=rows).evaluate()
    for name in ("eval_loss", "eval_plain_loss", "eval_uniform_loss"):
        assert metrics[name] == pytest.approx(expected["eval_uniform_loss" if "uniform" in name else "eval_plain_loss"])


def test_languages_are_numbered_as_they_appear(build, rows):
    trainer = build(data=Stream(rows, None), **STEPS)
    order = list(dict.fromkeys(rows["language"]))
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["language_ids"].tolist() == [order.index(language) for language in rows["language"][:7]]


def test_axes_of_a_training_before_are_not_kept(build, rows, tmp_path):
    trainer = build(weighting="per_language", **STEPS)
    trainer.train()
    trainer.save_model(tmp_path)
    assert (tmp_path / "langimb.json").exists()
    again = build(trainer.model, data=Stream(rows, None), **STEPS)
    again.train()
    again.save_model(tmp_path)
    assert not (tmp_path / "langimb.json").exists()
    assert "langimb" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("kind", FINITE)
def test_a_stream_that_ends_is_counted_for_the_weights(build, rows, kind):
    trainer = build(data=FINITE[kind](rows), weighting="per_language", **STEPS)
    assert trainer.distribution == counted(rows)
    assert trainer.weights.tolist() == weights_of(counted(rows))
    trainer.train()
    assert trainer.model.config.langimb["counts"] == counted(rows).counts.tolist()


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_stream_that_does_not_end_needs_counts_for_a_weighting(build, rows, kind):
    with pytest.raises(ValueError, match=r"train_dataset: .*1,000 rows.*distribution="):
        build(data=ENDLESS[kind](rows), weighting="per_language", **STEPS)
    given = build(data=ENDLESS[kind](rows), weighting="per_language", keywords={"distribution": counted(rows)}, **STEPS)
    assert given.distribution == counted(rows)
    given.train()
    assert given.model.config.langimb["counts"] == counted(rows).counts.tolist()


def test_counts_that_are_given_train_as_those_that_are_counted(build, rows):
    twice = JointDistribution(("en", "fr", "ja"), (0, 1, 2), 2 * counted(rows).counts)
    trainers = [
        build(data=Stream(rows), weighting="per_language", **STEPS),
        build(data=Stream(rows), weighting="per_language", keywords={"distribution": counted(rows)}, **STEPS),
        build(data=Stream(rows), weighting="per_language", keywords={"distribution": twice}, **STEPS),
    ]
    for trainer in trainers:
        trainer.train()
        assert_same_weights(trainer.model, dict(trainers[0].model.named_parameters()))
    assert trainers[1].train_dataset.read == 21 and trainers[0].train_dataset.read >= 42  # one of them counted
    assert trainers[2].distribution == twice


def test_counts_are_those_of_the_data_that_they_were_given_with(build, rows):
    more = JointDistribution(("en", "fr", "ja"), (0, 1, 2), counted(rows).counts + 5)
    trainer = build(weighting="per_language", keywords={"distribution": more}, **STEPS)
    assert trainer.distribution == more
    trainer.train_dataset = rows.select(range(len(rows)))
    assert trainer.distribution == counted(rows)
    evaluating = build(data=None, eval_dataset=rows, weighting="per_language", keywords={"distribution": more})
    assert evaluating.weights.tolist() == weights_of(more)


UNFIT = {
    "class ids too many": (("en", "fr", "ja"), (0, 1, 3), r"labels 0 to 3"),
    "names of other classes": (("en", "fr", "ja"), ("a", "b"), r"2 classes"),
    "no counts": ({"en": 3}, None, r"JointDistribution as distribution, got dict"),
    "an unknown language": (("en", "fr", "de"), (0, 1, 2), r"rows of unknown language.*en, fr, de"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_counts_that_do_not_fit_the_model_or_the_rows_are_refused(build, rows, name):
    languages, labels, message = UNFIT[name]
    given = languages
    if labels is not None:
        given = JointDistribution(languages, labels, np.full((3, len(labels)), 7))
    with pytest.raises((ValueError, TypeError), match=message):
        build(data=Stream(rows), weighting="joint", keywords={"distribution": given}, **STEPS).train()


def test_what_can_be_read_once_is_not_used_up_by_counting(build, rows):
    class Once(Stream):
        def __init__(self, rows):
            super().__init__(rows)
            self.iterator = super().__iter__()

        def __iter__(self):
            return self.iterator

    left = iter(list(rows))
    for once in (Once(rows), IterableDataset.from_generator(lambda: left)):
        with pytest.raises(ValueError, match=r"read only once.*distribution="):
            build(data=once, weighting="per_language", **STEPS)
    trainer = build(data=Once(rows), weighting="per_language", keywords={"distribution": counted(rows)}, **STEPS)
    trainer.train()
    assert trainer.train_dataset.read == 21


def test_a_search_counts_a_stream_once_a_weighting_needs_it(build, rows):
    trainer = build(data=Stream(rows), **STEPS)
    assert trainer.weights is None
    trainer.args.class_weighting = "joint"
    assert trainer.weights.tolist() == weights_of(counted(rows), "joint")


def test_class_names_of_a_stream_are_those_of_the_model_or_refused(build, rows, tiny_bert):
    named = rows.cast_column("label", ClassLabel(names=["a", "b", "c"]))
    trainer = build(data=named.to_iterable_dataset(), **STEPS)
    assert trainer.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    other = tiny_bert(id2label={0: "b", 1: "a", 2: "c"}, label2id={"b": 0, "a": 1, "c": 2})
    with pytest.raises(ValueError, match=r"id2label has the classes b, a, c, but the data have a, b, c"):
        build(other, data=named.to_iterable_dataset(), **STEPS)
    four = rows.cast_column("label", ClassLabel(names=["a", "b", "c", "d"]))
    with pytest.raises(ValueError, match="has 4 classes"):
        build(data=four.to_iterable_dataset(), **STEPS)


def test_given_counts_in_another_order_than_the_class_names_are_refused(build, rows):
    named = rows.cast_column("label", ClassLabel(names=["c", "b", "a"]))
    given = JointDistribution(("en", "fr", "ja"), ("a", "b", "c"), counted(rows).counts)
    with pytest.raises(ValueError, match=r"its label column is a ClassLabel with the order c, b, a, expected a, b, c"):
        build(data=named, weighting="joint", keywords={"distribution": given}, **STEPS)


class Sized(Stream):
    def __len__(self):
        return len(self.rows)


def test_a_stream_with_a_length_is_counted_in_its_order(build, rows):
    assert build(data=Sized(rows), weighting="joint", **STEPS).distribution == counted(rows)


def test_parts_of_a_data_set_keep_its_names(build, rows):
    named = rows.cast_column("language", ClassLabel(names=["en", "fr", "ja"]))
    part = torch.utils.data.Subset(named, range(len(named)))
    assert build(data=part, weighting="joint").distribution == counted(rows)
    both = torch.utils.data.ConcatDataset([part, named])
    assert build(data=both).distribution.languages == ("en", "fr", "ja")
    other = rows.cast_column("language", ClassLabel(names=["ja", "fr", "en"]))
    with pytest.raises(ValueError, match="have different class names in the column 'language'"):
        build(data=torch.utils.data.ConcatDataset([named, other]))
