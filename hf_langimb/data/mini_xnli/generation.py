"""Draws clauses and pairs of them, and writes the rows of the datasets."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import datasets
import numpy as np
import pandas as pd

from hf_langimb.data.mini_xnli import meaning
from hf_langimb.data.mini_xnli.meaning import ACTIVITIES, CIRCUMSTANCES, LABELS, SUBJECT_OF, Clause, Frame, Word
from hf_langimb.data.mini_xnli.sentences import LANGUAGES, say

T = TypeVar("T")
DATA_SEED = 2024
DISAGREEMENT = 0.15  # probability that an annotator's label is redrawn uniformly over the three labels
ANNOTATORS = 5  # per test row, as in XNLI; rows of the other splits have one

NOUNS = tuple(SUBJECT_OF)
QUANTIFIERS = ("all", "some", "three")  # a negated "all" says "no"
QUANTIFIED = 0.05  # the chance that a sentence speaks of all, some or three and not of one
CHANGEABLE = ("noun", "modifier", "verb", "object", *CIRCUMSTANCES)
PLACE = {slot: place for place, slot in enumerate(Clause._fields)}
CHANGES = (1, 1, 2)  # how many words of the hypothesis change in a premise
UNRELATED = 0.1  # the chance that a neutral premise speaks of something else
# Premises of all labels should look alike, so these compensate for what each label favors.
# By label: the chance that the premise is negated if the hypothesis is affirmed, and if it is negated (without
# opposites, entailments agree in negation and contradictions do not); and the quantifiers to pick from.
PREMISE_NEGATED = ((0.0, 0.7), (0.35, 0.35), (0.7, 0.0))
PREMISE_QUANTIFIERS = (
    ("all", "some", "some", "three"),
    ("all", "all", "all", "some", "three"),
    ("all", "some", "some", "three", "three", "three"),
)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options; three times as fast as `rng.choice`."""
    return options[int(rng.random() * len(options))]


def draw_activity(rng: random.Random, clause: Clause, frame: Frame, size: int) -> Clause:
    """The clause with a new verb and object and `size` circumstances, or all but one if there are fewer."""
    thing = pick(rng, pick(rng, frame.objects)) if frame.objects else None
    verb = pick(rng, frame.verbs)
    words = {slot: found for slot in CIRCUMSTANCES if (found := meaning.choices(slot, clause.noun, frame, thing))}
    slots = rng.sample([*words], min(size, len(words) - 1))  # one stays free: a premise may say more
    chosen: Any = {slot: pick(rng, words[slot]) for slot in slots}
    return Clause(*clause[:4], frame, verb, thing, **chosen)


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
def near(
    slot: str, value: Word | None, frame: Frame, verb: Word, thing: Word | None, noun: Word
) -> tuple[Word | None, ...]:
    """The other words that imply, follow from or exclude the value of a slot, or none where it may be left out."""
    words = meaning.choices(slot, noun, frame, thing)
    if value is None:
        return words
    related = [w for w in words if w is not value and (slot == "object" or meaning.relate(w, value) != "#")]
    optional = slot == "object" and frame.optional and not verb.above  # one eats, but devours something
    return (*related, None) if optional or slot in ("modifier", *CIRCUMSTANCES) else (*related,)


def draw_stance(rng: random.Random, clause: Clause, gold: int) -> Clause:
    """The hypothesis with the quantifier and negation of a premise."""
    if clause.quantifier:
        return clause._replace(quantifier=pick(rng, PREMISE_QUANTIFIERS[gold]), negated=rng.random() < 0.5)
    return clause._replace(negated=rng.random() < PREMISE_NEGATED[gold][clause.negated])


def draw_premise(rng: random.Random, stance: Clause, split: str, gold: int) -> Clause:
    """A clause with this stance and near its present meaning, or now and then unrelated."""
    if gold == meaning.NEUTRAL and rng.random() < UNRELATED:
        frame = pick(rng, ACTIVITIES[split, SUBJECT_OF[stance.noun]])
        return draw_activity(rng, stance, frame, pick(rng, (1, 2, 2)))
    words: list[Any] = [*stance]  # in a list, as fast as it can be: most premises are rejected
    for slot in rng.sample(CHANGEABLE, pick(rng, CHANGES)):
        place = PLACE[slot]
        if others := near(slot, words[place], *words[4:7], stance.noun):
            words[place] = pick(rng, others)
    if not words[PLACE["object"]]:
        words[PLACE["quality"]] = None
    return Clause(*words)


def draw_item(rng: random.Random, split: str, gold: int) -> tuple[Clause, Clause]:
    """A premise and a hypothesis with this label, in not too many words."""
    while True:
        hypothesis = draw_hypothesis(rng, split)
        for _ in range(200):
            stance = draw_stance(rng, hypothesis, gold)
            for _ in range(6):
                premise = draw_premise(rng, stance, split, gold)
                short = premise != hypothesis and None in (premise.modifier, *premise[7:])
                if short and meaning.label_of(premise, hypothesis) == gold:
                    return premise, hypothesis


def draw_items(split: str, items: int, seed: int) -> Iterator[tuple[Clause, Clause, int]]:
    """Different premises and hypotheses with gold labels; every three have the three labels in a random order."""
    rng = random.Random(f"mini-XNLI {split} {seed}")  # a string's seed is the same on every machine
    seen: set[tuple[Clause, Clause]] = set()
    order: list[int] = []
    while len(seen) < items:
        order = order or rng.sample(range(3), 3)
        pair = draw_item(rng, split, order[-1])
        if pair not in seen:
            seen.add(pair)
            yield *pair, order.pop()


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
    rows: list[tuple[str | int, ...]] = []
    for index, (premise, hypothesis, gold) in enumerate(draw_items(split, items, seed)):
        annotators = range(ANNOTATORS if split == "test" else 1)
        label = majority([rng.randrange(3) if rng.random() < disagreement else gold for _ in annotators])
        if label is not None:
            item = f"{split}-{index:05d}"
            for language in LANGUAGES:
                texts = say(premise, language), say(hypothesis, language)
                rows.append((f"{item}-{language}", item, *texts, language, label, gold))
    text, labels = datasets.Value("string"), datasets.ClassLabel(names=list(LABELS))
    names = ("id", "item", "premise", "hypothesis", "language", "label", "gold")
    features = datasets.Features(dict.fromkeys(names, text) | {"label": labels, "gold": labels})
    return datasets.Dataset.from_pandas(pd.DataFrame(rows, columns=names), features=features, preserve_index=False)


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
    cells = splits["test"].to_pandas().groupby(["label", "language"])
    splits["test"] = splits["test"].select(np.flatnonzero(cells.cumcount() < cells.size().min()))
    return datasets.DatasetDict(splits)


def pretraining_text(items: int = 20_000) -> datasets.Dataset:
    """Unlabeled pairs of training combinations, two per item: `premise`, `hypothesis`, `language` (the premise's).

    The hypothesis is in the other language, so that a model learns what both languages express alike (as in translation
    language modeling, arXiv 1901.07291) and can ignore the language if a task does not need it, as large models do.
    """
    pairs = generate("train", items, seed=DATA_SEED + 1).select_columns(["premise", "hypothesis", "language"])
    other = np.array(pairs["hypothesis"][:], dtype=object).reshape(-1, 2)[:, ::-1].ravel()  # French and English swapped
    return pairs.remove_columns("hypothesis").add_column("hypothesis", other)


def external_sentences(items: int = 1_000) -> datasets.Dataset:
    """Single sentences, longer than those of the pairs, each in both languages: `text`, `language`, `item`.

    "La jeune reine porte un chapeau noir le lundi." / "The young queen wears a black hat on Mondays."
    """
    rng = random.Random(f"mini-XNLI external {DATA_SEED}")
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
    return float(np.mean(np.equal(dataset["label"][:], dataset["gold"][:])))
