"""Draws clauses and pairs of them, and writes the rows of the data sets."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import datasets

from hf_langimb.data.mini_xnli.lexicon import Word
from hf_langimb.data.mini_xnli.meaning import (
    ACTIVITIES,
    CIRCUMSTANCES,
    LABELS,
    NEUTRAL,
    SUBJECT_OF,
    Clause,
    Frame,
    choices,
    label_of,
    relate,
)
from hf_langimb.data.mini_xnli.sentences import LANGUAGES, say

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
DATA_SEED = 2024
DISAGREEMENT = 0.15  # probability that an annotator's label is redrawn uniformly over the three labels
ANNOTATORS = 5  # per test row, as in XNLI; rows of the other splits have one
QUANTIFIERS = ("all", "some", "three")  # a negated "all" says "no"
CHANGEABLE = ("noun", "modifier", "verb", "object", *CIRCUMSTANCES)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options; three times as fast as `rng.choice`."""
    return options[int(rng.random() * len(options))]


def replaced(clause: Clause, slot: str, word: Word | None) -> Clause:
    """The clause with another word, or none, in one slot."""
    return clause._replace(**{slot: word})  # type: ignore[arg-type]


def draw_activity(rng: random.Random, clause: Clause, frame: Frame, size: int) -> Clause:
    """The clause with a new verb and object and `size` circumstances, or all but one if there are fewer."""
    thing = pick(rng, pick(rng, frame.objects)) if frame.objects else None
    clause = Clause(*clause[:4], frame, pick(rng, frame.verbs), thing)
    slots = [slot for slot in CIRCUMSTANCES if choices(clause, slot)]
    for slot in rng.sample(slots, min(size, len(slots) - 1)):  # one stays free: a premise may say more
        clause = replaced(clause, slot, pick(rng, choices(clause, slot)))
    return clause


NOUNS = tuple(SUBJECT_OF)


def draw_hypothesis(rng: random.Random, split: str) -> Clause:
    """A clause of the split, drawn without regard to any label."""
    noun = pick(rng, NOUNS)
    subject = SUBJECT_OF[noun]
    quantifier = pick(rng, QUANTIFIERS) if len(subject.nouns) > 2 and rng.random() < QUANTIFIED else ""
    modifier = pick(rng, subject.modifiers) if subject.modifiers and rng.random() < 0.3 else None
    frame = pick(rng, ACTIVITIES[split, subject])
    bare = Clause(quantifier, noun, modifier, rng.random() < 0.5, frame, frame.verbs[0])
    return draw_activity(rng, bare, frame, pick(rng, (0, 1)) if frame.objects else 1)


@functools.cache
def near(value: Word, words: tuple[Word, ...], siblings: bool) -> tuple[Word, ...]:
    """The other words that imply, follow from or exclude `value`; `siblings`: or are independent of it."""
    return tuple(word for word in words if word is not value and (siblings or relate(word, value) != "#"))


def changed(rng: random.Random, clause: Clause, slot: str) -> Clause:
    """The clause with another word in this slot, near the present one, or none."""
    value: Word | None = getattr(clause, slot)
    words: tuple[Word | None, ...] = choices(clause, slot)
    if value is not None:
        optional = clause.frame.optional and not clause.verb.above  # one eats, but devours something
        words = near(value, choices(clause, slot), slot == "object")
        if slot in ("modifier", *CIRCUMSTANCES) or (slot == "object" and optional):
            words = (*words, None)
    return replaced(clause, slot, pick(rng, words)) if words else clause


# Premises of all labels should look alike, so these compensate for what each label favours.
# By label: the chance that the premise is negated if the hypothesis is affirmed, and if it is negated (without
# opposites, entailments agree in negation and contradictions do not); and the quantifiers to pick from.
PREMISE_NEGATED = ((0.0, 0.7), (0.35, 0.35), (0.7, 0.0))
PREMISE_QUANTIFIERS = (
    ("all", "some", "some", "three"),
    ("all", "all", "all", "some", "three"),
    ("all", "some", "some", "three", "three", "three"),
)
QUANTIFIED = 0.05  # the chance that a sentence speaks of all, some or three and not of one
CHANGES = (1, 1, 2)  # how many words of the hypothesis change in a premise
UNRELATED = 0.1  # the chance that a neutral premise speaks of something else


def draw_stance(rng: random.Random, clause: Clause, gold: int) -> Clause:
    """The hypothesis with the quantifier and negation of a premise."""
    if clause.quantifier:
        return clause._replace(quantifier=pick(rng, PREMISE_QUANTIFIERS[gold]), negated=rng.random() < 0.5)
    return clause._replace(negated=rng.random() < PREMISE_NEGATED[gold][clause.negated])


def draw_premise(rng: random.Random, stance: Clause, split: str, gold: int) -> Clause:
    """A clause with this stance and near its present meaning, or now and then unrelated."""
    if gold == NEUTRAL and rng.random() < UNRELATED:
        frame = pick(rng, ACTIVITIES[split, SUBJECT_OF[stance.noun]])
        return draw_activity(rng, stance, frame, pick(rng, (1, 2, 2)))
    clause = stance
    for slot in rng.sample(CHANGEABLE, pick(rng, CHANGES)):
        clause = changed(rng, clause, slot)
    return clause if clause.object else clause._replace(quality=None)


def fits(premise: Clause, hypothesis: Clause, gold: int) -> bool:
    """Whether the premise makes the label true, in not too many words."""
    return label_of(premise, hypothesis) == gold and premise != hypothesis and None in (premise.modifier, *premise[7:])


class Item(NamedTuple):
    """One meaning: two clauses and the grammar's label, an index of `LABELS`."""

    premise: Clause
    hypothesis: Clause
    gold: int

    def texts(self, language: str) -> tuple[str, str]:
        """The premise and the hypothesis as sentences."""
        return say(self.premise, language), say(self.hypothesis, language)


def draw_item(rng: random.Random, split: str, gold: int) -> Item:
    """A new item with this label."""
    while True:
        hypothesis = draw_hypothesis(rng, split)
        for _ in range(200):
            stance = draw_stance(rng, hypothesis, gold)
            for _ in range(6):
                premise = draw_premise(rng, stance, split, gold)
                if fits(premise, hypothesis, gold):
                    return Item(premise, hypothesis, gold)


def draw_items(split: str, items: int, seed: int) -> Iterator[Item]:
    """`items` different items; every three consecutive ones have the three labels in a random order."""
    rng = random.Random(f"mini-XNLI {split} {seed}")  # a string's seed is the same on every machine
    seen: set[tuple[Clause, Clause]] = set()
    order: list[int] = []
    while len(seen) < items:
        order = order or rng.sample(range(3), 3)
        item = draw_item(rng, split, order[-1])
        if item[:2] not in seen:
            seen.add(item[:2])
            order.pop()
            yield item


def annotate(rng: random.Random, gold: int, disagreement: float) -> int:
    """One annotator's label."""
    return rng.randrange(3) if rng.random() < disagreement else gold


def majority(labels: Sequence[int]) -> int | None:
    """The label of more than half of the annotators, or None."""
    label, votes = Counter(labels).most_common(1)[0]
    return label if 2 * votes > len(labels) else None


def generate(split: str, items: int, *, seed: int = DATA_SEED, disagreement: float = DISAGREEMENT) -> datasets.Dataset:
    """The first `items` items of a split (train, validation or test), each in French and in English.

    Columns: `id` ("test-00012-fr"), `item` ("test-00012"), `premise`, `hypothesis`, `language`, `label` (the
    annotation), `gold` (the grammar's label). Gold labels are balanced. A training or validation item has one
    annotator; a test item has five, and is left out if no three of them agree, as in XNLI.
    """
    rng = random.Random(f"mini-XNLI annotators {split} {seed}")  # its own: disagreement changes no sentence
    rows = []
    for index, item in enumerate(draw_items(split, items, seed)):
        annotators = ANNOTATORS if split == "test" else 1
        label = majority([annotate(rng, item.gold, disagreement) for _ in range(annotators)])
        name = f"{split}-{index:05d}"
        if label is not None:
            for language in LANGUAGES:
                rows.append((f"{name}-{language}", name, *item.texts(language), language, label, item.gold))
    text, labels = datasets.Value("string"), datasets.ClassLabel(names=list(LABELS))
    names = ("id", "item", "premise", "hypothesis", "language", "label", "gold")
    features = datasets.Features(dict.fromkeys(names, text) | {"label": labels, "gold": labels})
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return datasets.Dataset.from_dict(
        {name: list(column) for name, column in zip(names, columns, strict=True)}, features=features
    )


def load(
    *,
    train_items: int = 12_000,
    validation_items: int = 1_500,
    test_items: int = 3_300,
    disagreement: float = DISAGREEMENT,
    seed: int = DATA_SEED,
) -> datasets.DatasetDict:
    """Training, validation and test rows, two per item (French and English).

    The test set is cut so that each cell (label, language) has as many rows as the rarest one.
    """
    sizes = {"train": train_items, "validation": validation_items, "test": test_items}
    splits = {name: generate(name, size, seed=seed, disagreement=disagreement) for name, size in sizes.items()}
    cells = list(zip(splits["test"]["label"], splits["test"]["language"], strict=True))
    rarest = min(Counter(cells).values(), default=0)
    count: Counter[tuple[int, str]] = Counter()
    kept = []
    for row, cell in enumerate(cells):
        count[cell] += 1
        if count[cell] <= rarest:
            kept.append(row)
    splits["test"] = splits["test"].select(kept)
    return datasets.DatasetDict(splits)


def pretraining_text(items: int = 20_000, *, seed: int = DATA_SEED + 1) -> datasets.Dataset:
    """Unlabelled pairs of training combinations, two per item: `premise`, `hypothesis`, `language` (the premise's).

    The hypothesis is in the other language, so that a model learns what both languages express alike (as in translation
    language modelling, arXiv 1901.07291) and can ignore the language if a task does not need it, as large models do.
    """
    pairs = generate("train", items, seed=seed).select_columns(["premise", "hypothesis", "language"])
    hypotheses = pairs["hypothesis"][:]
    other = [
        text for french, english in zip(hypotheses[::2], hypotheses[1::2], strict=True) for text in (english, french)
    ]
    return pairs.remove_columns("hypothesis").add_column("hypothesis", other)


def external_sentences(items: int = 1_000, *, seed: int = DATA_SEED) -> datasets.Dataset:
    """Single sentences, longer than those of the pairs, each in both languages: `text`, `language`, `item`.

    "La jeune reine porte un chapeau noir le lundi." / "The young queen wears a black hat on Mondays."
    """
    rng = random.Random(f"mini-XNLI external {seed}")
    pairs: dict[str, str] = {}  # French to English
    while len(pairs) < items:
        noun = pick(rng, NOUNS)
        modifiers = SUBJECT_OF[noun].modifiers
        frame = pick(rng, ACTIVITIES["train", SUBJECT_OF[noun]])
        bare = Clause("", noun, pick(rng, modifiers) if modifiers else None, False, frame, frame.verbs[0])
        clause = draw_activity(rng, bare, frame, 2)
        pairs[say(clause, "fr")] = say(clause, "en")
    rows = {
        "text": [text for pair in pairs.items() for text in pair],
        "language": list(LANGUAGES) * len(pairs),
        "item": [f"external-{index:05d}" for index in range(len(pairs)) for _ in LANGUAGES],
    }
    return datasets.Dataset.from_dict(rows)


def noise_ceiling(dataset: datasets.Dataset) -> float:
    """The noise ceiling: the share of rows whose label equals the grammar's, the accuracy of a model without errors."""
    pairs = zip(dataset["label"], dataset["gold"], strict=True)
    return sum(label == gold for label, gold in pairs) / len(dataset)
