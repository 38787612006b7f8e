"""What a clause means: who can do what, the words that may stand in it, and the label of two clauses."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hf_langimb.data.mini_xnli import lexicon
from hf_langimb.data.mini_xnli.lexicon import Word, parse, parse_family

LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)


@dataclass(frozen=True, eq=False)
class Subject:
    """Related nouns (kinds and synonyms of each other) with their modifiers; first names have none."""

    who: str
    nouns: tuple[Word, ...]
    modifiers: tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """Verbs (of one meaning, its kinds and opposites) with the words that may go with them."""

    who: str
    verbs: tuple[Word, ...]
    objects: tuple[tuple[Word, ...], ...]  # one tuple per class of objects
    optional: bool  # the object may be left out
    article: str
    manner: tuple[Word, ...]
    place: tuple[Word, ...]
    time: tuple[Word, ...]


def _subjects() -> Iterator[Subject]:
    """The families of nouns, the lone nouns and the first names."""
    modifiers = {
        who: parse(text) + parse(lexicon.TABLES["subject_phrases"][who])
        for who, text in lexicon.TABLES["subject_adjectives"].items()
    }
    for who, general, text in lexicon.TABLES["subjects"]:
        nouns = parse_family(general, text)
        senses = [""] if general else dict.fromkeys(noun.sense for noun in nouns)
        for sense in senses:
            yield Subject(who, tuple(noun for noun in nouns if sense in ("", noun.sense)), modifiers[who])
    for name, gender in (entry.split() for entry in lexicon.TABLES["names"].split(",")):
        yield Subject("h", (Word(name, name, name, gender=gender),), ())


QUALITIES: dict[Word, tuple[Word, ...]] = {}  # the adjectives of each object, filled by `_objects`


@functools.cache
def _objects(name: str) -> tuple[Word, ...]:
    general, nouns, adjectives = lexicon.TABLES["objects"][name]
    words = parse_family(general, nouns)
    QUALITIES.update(dict.fromkeys(words, parse(adjectives)))
    return words


def _frame(row: tuple[str, ...]) -> Frame:
    who, verbs, objects, article, *circumstances = row
    classes = tuple(_objects(name) for name in objects.lstrip("?").split())
    tables = (lexicon.TABLES["manners"], lexicon.TABLES["places"], lexicon.TABLES["times"])
    manner, place, time = (
        parse(", ".join(table[name] for name in names.split()))
        for table, names in zip(tables, circumstances, strict=True)
    )
    return Frame(who, parse(verbs), classes, objects[:1] == "?", article, manner, place, time)


SUBJECTS = tuple(_subjects())
SUBJECT_OF = {noun: subject for subject in SUBJECTS for noun in subject.nouns}
FRAMES = tuple(_frame(row) for row in lexicon.TABLES["frames"])


def _activities() -> dict[tuple[str, Subject], tuple[Frame, ...]]:
    """What each family of subjects does in each split: a ninth of its verbs in validation, two ninths in the test.

    The held-out verbs move on from a family to the next, so that each verb is seen in training with others.
    """
    doers = Counter(frame for frame in FRAMES for subject in SUBJECTS if subject.who in frame.who)
    table = {}
    for index, subject in enumerate(SUBJECTS):
        frames = tuple(frame for frame in FRAMES if subject.who in frame.who)
        held = tuple(frame for frame in frames if doers[frame] > 1)[index % 3 :: 3]
        validation = held[index // 3 % min(3, len(held)) :: 3]
        table["train", subject] = tuple(frame for frame in frames if frame not in held)
        table["validation", subject] = validation
        table["test", subject] = tuple(frame for frame in held if frame not in validation)
    return table


ACTIVITIES = _activities()


class Clause(NamedTuple):
    """The meaning of one sentence."""

    quantifier: str  # "" for one definite subject, or one of QUANTIFIERS
    noun: Word
    modifier: Word | None
    negated: bool
    frame: Frame
    verb: Word
    object: Word | None = None
    quality: Word | None = None
    manner: Word | None = None
    place: Word | None = None
    time: Word | None = None


CIRCUMSTANCES = ("quality", "manner", "place", "time")  # what an activity can do without


def choices(clause: Clause, slot: str) -> tuple[Word, ...]:
    """The words that may stand in a slot of this clause."""
    if slot == "noun":
        return SUBJECT_OF[clause.noun].nouns
    if slot == "modifier":
        return SUBJECT_OF[clause.noun].modifiers
    if slot == "verb":
        return clause.frame.verbs
    if slot == "object":
        return next((words for words in clause.frame.objects if clause.object in words), ())
    if slot == "quality":
        return QUALITIES[clause.object] if clause.object and clause.frame.article in ("some", "one") else ()
    return getattr(clause.frame, slot)


def relate(premise: Word | None, hypothesis: Word | None) -> str:
    """How the premise's word in a slot relates to the hypothesis's: one of = < > | #."""
    if premise is hypothesis:
        return "="
    if premise is None or hypothesis is None:
        return ">" if premise is None else "<"
    if premise.sense == hypothesis.sense:
        return "="
    if hypothesis.sense in premise.above:
        return "<"
    if premise.sense in hypothesis.above:
        return ">"
    opposed = hypothesis.sense in premise.against or premise.sense in hypothesis.against
    return "|" if opposed else "#"


# NEGATED[negated premise, negated hypothesis][relation of the activities] = relation of the statements. Whether
# who does not accept a gift refuses it is open.
NEGATED: dict[tuple[bool, bool], dict[str, str | None]] = {
    (False, False): {"=": "=", "<": "<", ">": ">", "|": "|", "#": "#"},
    (True, True): {"=": "=", "<": ">", ">": "<", "|": "#", "#": "#"},
    (False, True): {"=": "|", "<": "|", ">": "#", "|": "<", "#": "#"},
    (True, False): {"=": "|", "<": "#", ">": "|", "|": None, "#": "#"},
}


def join(*relations: str) -> str:
    """The relation of two conjunctions, from those of their parts (no opposites among them)."""
    kinds = set(relations) - {"="}
    return kinds.pop() if len(kinds) == 1 else "#" if kinds else "="


def noun_relation(nouns: str, premise: Word | None, hypothesis: Word | None) -> str | None:
    """The relation of two nouns with their adjectives; None: a small horse need not be a small animal."""
    if nouns != "=" and premise and hypothesis and premise.relative and hypothesis.relative:
        return None
    return join(nouns, relate(premise, hypothesis))


def subject_relation(premise: Clause, hypothesis: Clause) -> str | None:
    """How the two subjects with their modifiers relate; None: open to dispute."""
    return noun_relation(relate(premise.noun, hypothesis.noun), premise.modifier, hypothesis.modifier)


def activity_relation(premise: Clause, hypothesis: Clause) -> str | None:
    """How what the premise's subject does relates to what the hypothesis's does; None: open to dispute."""
    if premise.frame is not hypothesis.frame:  # independent, unless one cannot do both at once (walk and swim)
        return "#" if premise.frame.objects or hypothesis.frame.objects else None
    verb, manner = relate(premise.verb, hypothesis.verb), relate(premise.manner, hypothesis.manner)
    place, time = relate(premise.place, hypothesis.place), relate(premise.time, hypothesis.time)
    things = noun_relation(relate(premise.object, hypothesis.object), premise.quality, hypothesis.quality)
    if things is None or place == "#" or time == "#":  # does who reads in the garden read in the park?
        return None
    if premise.negated and manner in "<|":  # does who does not sleep well sleep?
        return None
    if "|" not in (verb, manner, place):
        return join(verb, things, manner, place, time)
    return "|" if things == "=" and manner != "#" else None  # opposites concern the same thing


def quantified_label(before: str, after: str, nouns: str, statements: str) -> int | None:
    """The label of "all/some/three A do (not) X" -> "all/some/three B do (not) Y", if there are As."""
    follows, excluded = statements in "=<", statements == "|"
    if before == "all":
        if excluded:
            return CONTRADICTION if after == "all" or nouns in "=>" else NEUTRAL
        if follows and (after == "three" or (after == "some" and nouns == ">")):
            return None  # are there three, are there any?
        return ENTAILMENT if follows and (after == "some" or nouns in "=>") else NEUTRAL
    if after == "all":
        return CONTRADICTION if excluded and nouns in "=<" else NEUTRAL
    if after == "three":
        if before == "some":
            return NEUTRAL
        if excluded:
            return None  # are they the same three?
    return ENTAILMENT if follows and nouns in "=<" else NEUTRAL


def label_of(premise: Clause, hypothesis: Clause) -> int | None:
    """The gold label of a pair (an index of `LABELS`), or None where it could be disputed."""
    nouns, activity = subject_relation(premise, hypothesis), activity_relation(premise, hypothesis)
    if nouns is None or nouns == "#" or activity is None:
        return None
    statements = NEGATED[premise.negated, hypothesis.negated][activity]
    if statements is None:
        return None
    if hypothesis.quantifier:
        return quantified_label(premise.quantifier, hypothesis.quantifier, nouns, statements)
    if statements == "|":
        return None if nouns == ">" else CONTRADICTION  # the premise does not say which musician
    return ENTAILMENT if statements in "=<" and nouns in "=<" else NEUTRAL
