"""The words of mini-XNLI (`words.yaml`), the clauses that they make, and the label of two clauses."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import yaml

TABLES: dict[str, Any] = yaml.safe_load((resources.files(__package__) / "words.yaml").read_text(encoding="utf-8"))
LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
CIRCUMSTANCES = ("quality", "manner", "place", "time")  # what an activity can do without


@dataclass(frozen=True, eq=False)  # eq=False: words are compared, and looked up, by identity
class Word:
    """A word or phrase in both languages, tied to others by their senses."""

    fr: str
    en: str
    sense: str
    above: tuple[str, ...] = ()  # senses it implies
    against: tuple[str, ...] = ()  # senses it excludes
    gender: str = ""  # of a noun: m, f, and capital if uncountable
    other: str = ""  # an adjective's feminine, a verb's irregular plural
    before: bool = False  # an adjective that French places before the noun
    relative: bool = False  # an adjective that depends on its noun


def parse(text: str, noun: bool = False) -> tuple[Word, ...]:
    """The different words of one table row, in order."""
    rows = [[part.replace("_", " ") for part in entry.split()] for entry in text.split(",") if entry.strip()]
    genders = [row.pop(1) if noun else "" for row in rows]
    marks = [{mark[0]: mark[1:] for mark in row[2:]} for row in rows]
    senses = [mark.get("=", row[1]) for row, mark in zip(rows, marks, strict=True)]
    excluded = [(sense, mark["!"]) for sense, mark in zip(senses, marks, strict=True) if "!" in mark]
    excluded += [(b, a) for a, b in excluded]
    words = {}
    for (fr, en, *_), gender, sense, mark in zip(rows, genders, senses, marks, strict=True):
        above = (mark[">"],) if ">" in mark else ()
        against = tuple(b for a, b in excluded if a in (sense, *above))
        french, _, other = fr.lstrip("<").partition("/")
        words[en] = Word(french, en, sense, above, against, gender, other, fr[0] == "<", "~" in mark)
    return tuple(words.values())


def parse_family(general: str, text: str) -> tuple[Word, ...]:
    """A row of nouns, the general noun (if any) first and above the others."""
    if general:
        text = ", ".join([general, *(f"{entry} >{general.split()[2]}" for entry in text.split(","))])
    return parse(text, noun=True)


@dataclass(frozen=True, eq=False)
class Subject:
    """Related nouns (kinds and synonyms of each other) with their modifiers; first names have none."""

    who: str
    nouns: tuple[Word, ...]
    modifiers: tuple[Word, ...] = ()


@dataclass(frozen=True, eq=False)
class Frame:
    """Verbs (of one meaning, its kinds and opposites) with the words that may go with them."""

    who: str
    verbs: tuple[Word, ...]
    objects: tuple[tuple[Word, ...], ...]  # one tuple per class of objects
    optional: bool  # the object may be left out
    article: str
    manners: tuple[Word, ...]
    places: tuple[Word, ...]
    times: tuple[Word, ...]


def _subjects() -> Iterator[Subject]:
    """The families of nouns, the lone nouns and the first names."""
    for who, general, text in TABLES["subjects"]:
        modifiers = parse(TABLES["subject_adjectives"][who]) + parse(TABLES["subject_phrases"][who])
        nouns = parse_family(general, text)
        for sense in [""] if general else dict.fromkeys(noun.sense for noun in nouns):
            yield Subject(who, tuple(noun for noun in nouns if sense in ("", noun.sense)), modifiers)
    for name, gender in (entry.split() for entry in TABLES["names"].split(",")):
        yield Subject("h", (Word(name, name, name, gender=gender),))


def _frames() -> Iterator[Frame]:
    """The verbs with the words that may go with them."""
    circumstances = [TABLES[name] for name in ("manners", "places", "times")]
    for who, verbs, objects, article, *rows in TABLES["frames"]:
        classes = tuple(OBJECTS[name] for name in objects.lstrip("?").split())
        words = [
            parse(", ".join(table[name] for name in names.split()))
            for table, names in zip(circumstances, rows, strict=True)
        ]
        yield Frame(who, parse(verbs), classes, objects[:1] == "?", article, *words)


OBJECTS: dict[str, tuple[Word, ...]] = {}
QUALITIES: dict[Word, tuple[Word, ...]] = {}  # the adjectives of each object
for _name, (_general, _nouns, _adjectives) in TABLES["objects"].items():
    OBJECTS[_name] = parse_family(_general, _nouns)
    QUALITIES |= dict.fromkeys(OBJECTS[_name], parse(_adjectives))
SUBJECTS, FRAMES = tuple(_subjects()), tuple(_frames())
SUBJECT_OF = {noun: subject for subject in SUBJECTS for noun in subject.nouns}


def _activities() -> dict[tuple[str, Subject], tuple[Frame, ...]]:
    """What each family of subjects does in each split; each verb is held out from some, and trained with others."""
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


def choices(slot: str, noun: Word, frame: Frame, thing: Word | None) -> tuple[Word, ...]:
    """The words that may fill a slot of a clause with this noun, frame and object."""
    if slot == "object":
        return next((words for words in frame.objects if thing in words), ())
    if slot == "quality":
        return QUALITIES[thing] if thing and frame.article in ("some", "one") else ()
    return getattr(SUBJECT_OF[noun] if slot in ("noun", "modifier") else frame, f"{slot}s")


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


# NEGATED[negated premise, negated hypothesis][relation of the activities] = relation of the statements. None: it
# is open whether someone who does not accept a gift refuses it.
NEGATED: dict[tuple[bool, bool], dict[str, str | None]] = {
    (False, False): {"=": "=", "<": "<", ">": ">", "|": "|", "#": "#"},
    (True, True): {"=": "=", "<": ">", ">": "<", "|": "#", "#": "#"},
    (False, True): {"=": "|", "<": "|", ">": "#", "|": "<", "#": "#"},
    (True, False): {"=": "|", "<": "#", ">": "|", "|": None, "#": "#"},
}


@functools.cache
def join(*relations: str) -> str:
    """The relation of two conjunctions, from those of their parts (no opposites among them)."""
    kinds = {*relations} - {"="}
    return kinds.pop() if len(kinds) == 1 else "#" if kinds else "="


@functools.cache
def noun_relation(
    premise: Word | None, hypothesis: Word | None, adjective: Word | None, other: Word | None
) -> str | None:
    """The relation of two nouns with their adjectives; None: a small horse need not be a small animal."""
    nouns = relate(premise, hypothesis)
    if nouns != "=" and adjective and other and adjective.relative and other.relative:
        return None
    return join(nouns, relate(adjective, other))


def activity_relation(premise: Clause, hypothesis: Clause) -> str | None:
    """How what the premise's subject does relates to what the hypothesis's does; None: open to dispute."""
    if premise.frame is not hypothesis.frame:  # independent, unless one cannot do both at once (walk and swim)
        return "#" if premise.frame.objects or hypothesis.frame.objects else None
    things = noun_relation(premise.object, hypothesis.object, premise.quality, hypothesis.quality)
    place, time = relate(premise.place, hypothesis.place), relate(premise.time, hypothesis.time)
    if things is None or place == "#" or time == "#":  # reading in the garden: also in the park?
        return None
    verb, manner = relate(premise.verb, hypothesis.verb), relate(premise.manner, hypothesis.manner)
    if premise.negated and manner in "<|":  # if someone does not sleep well, do they sleep at all?
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
    nouns = noun_relation(premise.noun, hypothesis.noun, premise.modifier, hypothesis.modifier)
    activity = activity_relation(premise, hypothesis)
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
