"""mini-XNLI: a small, seeded, parallel French-English inference data set written by a grammar.

An *item* is a meaning (premise, hypothesis, gold label) said in both languages. A sentence is a `Clause`: a
subject, a verb, perhaps an object, a manner, a place, a time, perhaps negated. The label is *computed* from the
two clauses by the rules of natural logic, whatever way the pair was made:

1. Slot by slot the premise's word is the hypothesis's ("="), implies it ("<": dog < animal, "in the garden" <
   nothing said), is implied by it (">"), excludes it ("|": opposites) or is independent of it ("#").
2. The slots after the subject join into one relation of the two activities (`activity_relation`); negation turns
   it around (`NEGATED`): "does not eat fruit" < "does not eat apples".
3. "=" and "<" make an entailment, "|" a contradiction, ">" and "#" a neutral pair, if the premise's subject is
   the hypothesis's or a kind of it ("the old pianist" < "the musician"). *All*, *no*, *some* and *three* turn
   around the subject as well (`quantified_label`): "all animals sleep" implies "all dogs sleep".
4. A pair whose label logic or a reader could dispute gets none (None) and is never used.

So that a hypothesis alone says nothing, it is drawn first, without regard to the label; then premises near it are
drawn until one makes the wanted label true. The splits share no combination of subject and verb (`ACTIVITIES`).
Annotators disagree now and then (`DISAGREEMENT`): `label` is what they said, `gold` what the grammar says.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hf_langimb.data import lexicon

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")
LANGUAGES = ("fr", "en")
LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
SPLITS = ("train", "validation", "test")
DATA_SEED = 2024
DISAGREEMENT = 0.2  # the chance that an annotator's label is drawn anew, uniformly over the three
ANNOTATORS = 5  # of a test row, as in XNLI; a row of another split has one


# --- Words ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)  # eq=False: words are compared, and looked up, by identity
class Word:
    """A word or phrase in both languages, tied to others by their senses (the marks of `lexicon`)."""

    fr: str
    en: str
    sense: str
    above: tuple[str, ...]  # senses it implies
    against: tuple[str, ...]  # senses it excludes
    gender: str = ""  # of a noun: m, f, and capital if uncountable
    other: str = ""  # the feminine of an adjective, the irregular plural of a verb
    before: bool = False  # an adjective that French puts before the noun
    relative: bool = False  # an adjective that depends on its noun: a small horse is not a small animal


def parse(text: str, noun: bool = False) -> tuple[Word, ...]:
    """The words of one lexicon row, in order."""
    rows = [[part.replace("_", " ") for part in entry.split()] for entry in text.split(",") if entry.strip()]
    genders = [row.pop(1) if noun else "" for row in rows]
    marks = [{mark[0]: mark[1:] for mark in row[2:]} for row in rows]
    senses = [mark.get("=", row[1]) for row, mark in zip(rows, marks, strict=True)]
    excluded = [(sense, mark["!"]) for sense, mark in zip(senses, marks, strict=True) if "!" in mark]
    excluded += [(b, a) for a, b in excluded]
    words = []
    for (fr, en, *_), gender, sense, mark in zip(rows, genders, senses, marks, strict=True):
        above = (mark[">"],) if ">" in mark else ()
        against = tuple(b for a, b in excluded if a in (sense, *above))
        french, _, other = fr.lstrip("<").partition("/")
        words.append(Word(french, en, sense, above, against, gender, other, fr[0] == "<", "~" in mark))
    return tuple(words)


def family(general: str, text: str) -> tuple[Word, ...]:
    """A row of nouns with the general noun, if any, first and above the others."""
    if not general:
        return parse(text, noun=True)
    sense = general.split()[2]
    return parse(f"{general}, " + ", ".join(f"{entry} >{sense}" for entry in text.split(",")), noun=True)


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


# --- Who can do what ------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Subject:
    """Nouns that are each other's kinds or synonyms, with what may be said of them."""

    who: str
    nouns: tuple[Word, ...]
    modifiers: tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """Verbs (of one meaning, or opposites) with the words that may go with them."""

    who: str
    verbs: tuple[Word, ...]
    objects: tuple[tuple[Word, ...], ...]  # one tuple a class
    optional: bool  # the object may be left out
    article: str
    manner: tuple[Word, ...]
    place: tuple[Word, ...]
    time: tuple[Word, ...]


def _subjects() -> tuple[Subject, ...]:
    """Every family of subjects: the rows of the lexicon, the lone nouns and the first names."""
    modifiers = {
        who: parse(text) + parse(lexicon.SUBJECT_PHRASES[who]) for who, text in lexicon.SUBJECT_ADJECTIVES.items()
    }
    subjects = []
    for who, general, text in lexicon.SUBJECTS:
        nouns = family(general, text)
        groups = {noun.sense: [] for noun in nouns} if not general else {"": []}
        for noun in nouns:
            groups["" if general else noun.sense].append(noun)
        subjects += [Subject(who, tuple(group), modifiers[who]) for group in groups.values()]
    names = [entry.split() for entry in lexicon.NAMES.split(",")]
    return (*subjects, *(Subject("h", (Word(n, n, n, (), (), g),), ()) for n, g in names))


QUALITIES: dict[Word, tuple[Word, ...]] = {}  # the adjectives of each object, filled by `_objects`


@functools.cache
def _objects(name: str) -> tuple[Word, ...]:
    general, nouns, adjectives = lexicon.OBJECTS[name]
    words, qualities = family(general, nouns), parse(adjectives)
    QUALITIES.update(dict.fromkeys(words, qualities))
    return words


def _phrases(table: dict[str, str], names: str) -> tuple[Word, ...]:
    return parse(", ".join(table[name] for name in names.split()))


SUBJECTS = _subjects()
FRAMES = tuple(
    Frame(
        who,
        parse(verbs),
        tuple(_objects(name) for name in objects.lstrip("?").split()),
        objects[:1] == "?",
        article,
        _phrases(lexicon.MANNERS, manners),
        _phrases(lexicon.PLACES, places),
        _phrases(lexicon.TIMES, times),
    )
    for who, verbs, objects, article, manners, places, times in lexicon.FRAMES
)


def _activities() -> dict[tuple[str, Subject], tuple[Frame, ...]]:
    """What each family of subjects does in each split: 70 % of its verbs in training, 10 % and 20 % elsewhere."""
    rng = random.Random("mini-XNLI splits")
    table = {}
    for subject in SUBJECTS:
        frames = [frame for frame in FRAMES if subject.who in frame.who]
        free = [frame for frame in frames if len(frame.who) > 1 or frame.who == "h"]  # others know one family
        held = rng.sample(free, max(3, round(0.3 * len(free))))
        cut = len(held) // 3
        table["validation", subject] = tuple(held[:cut])
        table["test", subject] = tuple(held[cut:])
        table["train", subject] = tuple(frame for frame in frames if frame not in held)
    return table


ACTIVITIES = _activities()
NOUNS = tuple((subject, noun) for subject in SUBJECTS for noun in subject.nouns)
SUBJECT_OF = {noun: subject for subject, noun in NOUNS}


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, faster than `rng.choice`."""
    return options[int(rng.random() * len(options))]


# --- Clauses --------------------------------------------------------------------------------------------------
class Clause(NamedTuple):
    """The meaning of one sentence."""

    quantifier: str  # the, all, some, three; a negated "all" says "no"
    noun: Word
    modifier: Word | None
    negated: bool
    frame: Frame
    verb: Word
    object: Word | None
    quality: Word | None
    manner: Word | None
    place: Word | None
    time: Word | None


QUANTIFIERS = ("all", "some", "three")
CIRCUMSTANCES = ("quality", "manner", "place", "time")
EXTRAS = ("modifier", *CIRCUMSTANCES)  # what a clause can do without
PREDICATE = ("verb", "object", *CIRCUMSTANCES)
CHANGEABLE = ("noun", "modifier", *PREDICATE)


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
        return QUALITIES[clause.object] if clause.object and clause.frame.article in ("some", "kind", "one") else ()
    return getattr(clause.frame, slot)


def draw_activity(rng: random.Random, clause: Clause, frame: Frame, size: int) -> Clause:
    """The clause with a new verb and object and `size` circumstances, or all but one if there are fewer."""
    thing = pick(rng, pick(rng, frame.objects)) if frame.objects else None
    clause = Clause(*clause[:4], frame, pick(rng, frame.verbs), thing, None, None, None, None)
    slots = [slot for slot in CIRCUMSTANCES if choices(clause, slot)]
    for slot in rng.sample(slots, min(size, len(slots) - 1)):  # one stays free: the premise may say more
        clause = clause._replace(**{slot: pick(rng, choices(clause, slot))})
    return clause


def draw_hypothesis(rng: random.Random, split: str) -> Clause:
    """A clause of the split, drawn without regard to any label."""
    subject, noun = pick(rng, NOUNS)
    quantifier = pick(rng, QUANTIFIERS) if len(subject.nouns) > 2 and rng.random() < QUANTIFIED else "the"
    modifier = pick(rng, subject.modifiers) if subject.modifiers and rng.random() < 0.4 else None
    frame = pick(rng, ACTIVITIES[split, subject])
    bare = Clause(quantifier, noun, modifier, rng.random() < 0.5, frame, frame.verbs[0], *[None] * 5)
    return draw_activity(rng, bare, frame, pick(rng, (1, 1, 2)) if frame.objects else 2)


@functools.cache
def near(value: Word, words: tuple[Word, ...], siblings: bool) -> tuple[Word, ...]:
    """The words with a decided relation to `value`; `siblings`: or independent ones."""
    return tuple(word for word in words if word is not value and (siblings or relate(word, value) != "#"))


# The chance that the premise is negated, [entailment, contradiction][negated hypothesis]. Without opposites,
# entailments agree in negation and contradictions do not; a third of the premises of each label are negated.
PREMISE_NEGATED = {ENTAILMENT: (0.0, 0.7), CONTRADICTION: (0.7, 0.0)}
CHANGES = (0, 1, 1, 2, 2)
UNRELATED = 0.1
ANYSIZE = 0.3
QUANTIFIED = 0.25
BREAKS = (1, 1, 2, 2)


def changed(rng: random.Random, clause: Clause, slot: str) -> Clause:
    """The clause with another word in this slot, near the present one."""
    value, words = getattr(clause, slot), choices(clause, slot)
    if value is not None:
        words = near(value, words, slot == "object")
        if slot in EXTRAS or (slot == "object" and clause.frame.optional and not clause.verb.above):
            words = (*words, None)
    return clause._replace(**{slot: pick(rng, words)}) if words else clause


def draw_stance(rng: random.Random, hypothesis: Clause, gold: int) -> Clause:
    """The hypothesis with the subject and the negation of a premise."""
    clause = hypothesis
    if clause.quantifier == "the":
        negated = rng.random() < PREMISE_NEGATED[gold][clause.negated]
    else:
        negated = rng.random() < 0.5
        clause = clause._replace(quantifier=pick(rng, QUANTIFIERS))
    if rng.random() < 0.4:
        clause = changed(rng, clause, pick(rng, ("noun", "modifier")))
    return clause._replace(negated=negated)


def vary(rng: random.Random, clause: Clause, slots: tuple[str, ...], changes: int) -> Clause:
    for _ in range(changes):
        clause = changed(rng, clause, pick(rng, slots))
    return clause if clause.object else clause._replace(quality=None)


# --- Labels ---------------------------------------------------------------------------------------------------
# NEGATED[negated premise, negated hypothesis][relation of the activities] = relation of the two statements
NEGATED = {
    (False, False): {"=": "=", "<": "<", ">": ">", "|": "|", "#": "#"},
    (True, True): {"=": "=", "<": ">", ">": "<", "|": "#", "#": "#"},
    (False, True): {"=": "|", "<": "|", ">": "#", "|": "<", "#": "#"},
    (True, False): {"=": "|", "<": "#", ">": "|", "|": None, "#": "#"},  # is who is not happy sad? open
}


def join(*relations: str) -> str:
    """The relation of two conjunctions, from those of their parts (no opposites among them)."""
    kinds = set(relations) - {"="}
    return kinds.pop() if len(kinds) == 1 else "#" if kinds else "="


def noun_relation(nouns: str, premise: Word | None, hypothesis: Word | None) -> str | None:
    """The relation of two nouns with their adjectives, None if a relative adjective leaves it open."""
    if nouns != "=" and premise and hypothesis and premise.relative and hypothesis.relative:
        return None
    return join(nouns, relate(premise, hypothesis))


def activity_relation(premise: Clause, hypothesis: Clause) -> str | None:
    """How what the premise's subject does relates to what the hypothesis's does; None: open to dispute."""
    if premise.frame is not hypothesis.frame:  # two activities are independent, but one may walk or swim, not both
        return "#" if premise.frame.objects or hypothesis.frame.objects else None
    verb, manner = relate(premise.verb, hypothesis.verb), relate(premise.manner, hypothesis.manner)
    place, time = relate(premise.place, hypothesis.place), relate(premise.time, hypothesis.time)
    things = noun_relation(relate(premise.object, hypothesis.object), premise.quality, hypothesis.quality)
    if things is None or place == "#" or time in "|#":  # one may read both in the garden and in the park
        return None
    if "|" not in (verb, manner, place):
        return join(verb, things, manner, place, time)
    same = things == "=" and "#" not in (manner, place)  # opposites exclude each other about the same thing
    return "|" if same else None


def quantified_label(premise: Clause, hypothesis: Clause, nouns: str, statements: str) -> int | None:
    """The label of "all/some/three A do (not) X" -> "all/some/three B do (not) Y"; there are As and Bs."""
    before, after = premise.quantifier, hypothesis.quantifier
    follows, excluded = statements in "=<", statements == "|"
    if before == "all":
        if excluded:
            return CONTRADICTION if after == "all" or nouns in "=>" else NEUTRAL
        if after == "three":
            return None if follows else NEUTRAL  # are there three?
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
    activity = activity_relation(premise, hypothesis)
    nouns = noun_relation(relate(premise.noun, hypothesis.noun), premise.modifier, hypothesis.modifier)
    if activity is None or nouns is None or nouns == "#":
        return None
    statements = NEGATED[premise.negated, hypothesis.negated][activity]
    if statements is None:
        return None
    if hypothesis.quantifier != "the":
        return quantified_label(premise, hypothesis, nouns, statements)
    if statements == "|":
        return CONTRADICTION if nouns in "=<" else None
    return ENTAILMENT if statements in "=<" and nouns in "=<" else NEUTRAL


# --- French ---------------------------------------------------------------------------------------------------
def elide(word: str, following: str) -> str:
    """ "le", "de", "ne"... joined to what follows: "l'ours", "le chat", "le hibou"."""
    vowel = following[0] in "aeiouhyàâéèêîôû" and not following.startswith(lexicon.ASPIRATED_H)
    return f"{word[:-1]}'{following}" if vowel else f"{word} {following}"


def french_plural(word: str) -> str:
    if word in lexicon.FRENCH_PLURALS:
        return lexicon.FRENCH_PLURALS[word]
    if word.endswith(("s", "x", "z")):
        return word
    return word[:-2] + "aux" if word.endswith("al") else word + ("x" if word.endswith("eau") else "s")


def agree(masculine: str, feminine: str, gender: str, plural: bool) -> str:
    """An adjective's form."""
    form = masculine if gender in "mM" else feminine
    return french_plural(form) if plural else form


@functools.cache
def french_nominal(noun: Word, modifier: Word | None, plural: bool) -> str:
    """A noun with its adjective or phrase: "vieil ours", "chats noirs", "pianistes de Lyon"."""
    text = french_plural(noun.fr) if plural else noun.fr
    if modifier is None:
        return text
    if not modifier.other:
        return f"{text} {modifier.fr.replace('qui vit', 'qui vivent') if plural else modifier.fr}"
    adjective = agree(modifier.fr, modifier.other, noun.gender, plural)
    if not modifier.before:
        return f"{text} {adjective}"
    if elide("e", text)[0] == "'":
        adjective = lexicon.BEFORE_VOWEL.get(adjective, adjective)
    return f"{adjective} {text}"


@functools.cache
def french_subject(quantifier: str, noun: Word, modifier: Word | None, negated: bool) -> str:
    feminine = noun.gender == "f"
    if not SUBJECT_OF[noun].modifiers:  # a first name
        return noun.fr
    if quantifier == "the":
        text = french_nominal(noun, modifier, False)
        return f"la {text}" if feminine and elide("e", text)[0] == "e" else elide("le", text)
    if quantifier == "all" and negated:
        return ("aucune " if feminine else "aucun ") + french_nominal(noun, modifier, False)
    words = {"all": ("tous les ", "toutes les "), "some": ("certains ", "certaines "), "three": ("trois ",) * 2}
    return words[quantifier][feminine] + french_nominal(noun, modifier, True)


@functools.cache
def french_object(article: str, noun: Word, quality: Word | None, negated: bool) -> str:
    mass, feminine = noun.gender in "MF", noun.gender in "fF"
    text = french_nominal(noun, quality, article in ("some", "kind") and not mass)
    definite = f"la {text}" if feminine and elide("e", text)[0] == "e" else elide("le", text)
    if article == "bare":
        return text
    if article == "play" and noun.en == "instrument":
        return f"d'un {text}"
    if article in ("some", "one") and negated:
        return elide("de", text)
    if article == "one":
        return f"{'une' if feminine else 'un'} {text}"
    if article == "play" or (article == "some" and mass):
        return "du" + definite[2:] if definite.startswith("le ") else f"de {definite}"
    if article == "some":
        return elide("de", text) if quality and quality.before else f"des {text}"
    return f"les {text}" if article == "kind" and not mass else definite


def is_plural(clause: Clause) -> bool:
    return clause.quantifier in ("some", "three") or (clause.quantifier == "all" and not clause.negated)


def french_predicate(clause: Clause) -> str:
    """The clause after its subject: "n'est pas très riche", "joue bien du piano le lundi"."""
    plural, gender, manner = is_plural(clause), clause.noun.gender, clause.manner
    verb, *adjective = clause.verb.fr.split(maxsplit=1) if clause.verb.fr.startswith("est ") else [clause.verb.fr]
    close, late = [], []  # what stands right after the verb, and after the object
    if adjective:
        form = "sont" if plural else verb
        close = [agree(adjective[0], clause.verb.other, gender, plural)]
        close = [manner.fr, *close] if manner else close
    else:
        form = (clause.verb.other or f"{verb}nt") if plural else verb
        adverb = [agree("seul", "seule", gender, plural) if manner.fr == "seul" else manner.fr] if manner else []
        close, late = (adverb, late) if adverb in (["bien"], ["mal"]) else (close, adverb)
    if clause.negated:
        form = elide("ne", form) + ("" if clause.quantifier == "all" else " pas")
    if clause.object:
        close.append(french_object(clause.frame.article, clause.object, clause.quality, clause.negated))
    return " ".join((form, *close, *late, *(word.fr for word in (clause.place, clause.time) if word)))


def french(clause: Clause) -> str:
    """The clause as a French sentence."""
    subject = french_subject(clause.quantifier, clause.noun, clause.modifier, clause.negated)
    return sentence(subject, french_predicate(clause))


def sentence(*parts: str) -> str:
    text = " ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


# --- English --------------------------------------------------------------------------------------------------
def english_plural(word: str) -> str:
    if word in lexicon.ENGLISH_PLURALS:
        return lexicon.ENGLISH_PLURALS[word]
    if word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


@functools.cache
def english_nominal(noun: Word, modifier: Word | None, plural: bool) -> str:
    """A noun with its adjective or phrase: "old bear", "black cats", "pianists from Lyon"."""
    text = english_plural(noun.en) if plural else noun.en
    if modifier is None:
        return text
    if modifier.other:
        return f"{modifier.en} {text}"
    return f"{text} {modifier.en.replace(' lives ', ' live ') if plural else modifier.en}"


def english_subject(clause: Clause) -> str:
    text = english_nominal(clause.noun, clause.modifier, is_plural(clause))
    if not SUBJECT_OF[clause.noun].modifiers:
        return text
    return f"{'no' if clause.quantifier == 'all' and clause.negated else clause.quantifier} {text}"


def english_object(clause: Clause) -> str:
    article, noun = clause.frame.article, clause.object
    text = english_nominal(noun, clause.quality, article in ("some", "kind") and noun.gender in "mf")
    if article == "one" or (article == "play" and noun.en == "instrument"):
        return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
    return f"the {text}" if article in ("the", "play") else text


def english_verb(clause: Clause) -> str:
    """The verb with its negation: "waits for", "does not eat", "are not very happy"."""
    plural, negative = is_plural(clause), clause.negated and clause.quantifier != "all"
    verb, *rest = clause.verb.en.split()
    if verb == "be":
        words = ["are" if plural else "is", *["not"] * negative, *([clause.manner.en] if clause.manner else [])]
    elif negative:
        words = ["do" if plural else "does", "not", verb]
    else:  # the third person's -s is formed as the plural of nouns is
        words = [verb if plural else english_plural(verb)]
    return " ".join((*words, *rest))


def english_predicate(clause: Clause) -> str:
    """The clause after its subject: "is not very rich", "plays the piano well on Mondays"."""
    manner = None if clause.verb.en.startswith("be ") else clause.manner
    thing = [english_object(clause)] if clause.object else []
    return " ".join((english_verb(clause), *thing, *(w.en for w in (manner, clause.place, clause.time) if w)))


def english(clause: Clause) -> str:
    """The clause as an English sentence."""
    return sentence(english_subject(clause), english_predicate(clause))


# --- Data sets ------------------------------------------------------------------------------------------------
class Item(NamedTuple):
    """One meaning: two clauses and the grammar's label, an index of `LABELS`."""

    premise: Clause
    hypothesis: Clause
    gold: int

    def texts(self, language: str) -> tuple[str, str]:
        say = french if language == "fr" else english
        return say(self.premise), say(self.hypothesis)


def settle(rng, hypothesis: Clause, gold: int) -> Clause:
    for t in range(1000):
        stance = draw_stance(rng, hypothesis, gold)
        for _ in range(8):
            premise = vary(rng, stance, PREDICATE, pick(rng, CHANGES))
            if label_of(premise, hypothesis) == gold and None in (premise.modifier, *premise[7:]) and premise != hypothesis:
                if t < 3 and gold == ENTAILMENT and stance.negated == hypothesis.negated and rng.random() < LEXICAL and not lexical(premise, hypothesis):
                    continue
                return premise
    raise RuntimeError(f"no premise for {english(hypothesis)!r} with label {LABELS[gold]}")


LEXICAL = 0.6


def lexical(premise, hypothesis):
    return any(p is not h and h is not None and p is not None for p, h in zip(premise[1:], hypothesis[1:]))


def size(premise):
    return sum(x is not None for x in (premise.modifier, *premise[6:]))


def draw_item(rng: random.Random, split: str, gold: int) -> Item:
    """A new item with this label."""
    hypothesis = draw_hypothesis(rng, split)
    if gold != NEUTRAL:
        return Item(settle(rng, hypothesis, gold), hypothesis, gold)
    while True:
        firm = settle(rng, hypothesis, pick(rng, (ENTAILMENT, CONTRADICTION)))
        for _ in range(12):
            if rng.random() < UNRELATED:
                frame = pick(rng, ACTIVITIES[split, SUBJECT_OF[firm.noun]])
                premise = draw_activity(rng, firm, frame, sum(x is not None for x in firm[7:]))
            else:
                premise = vary(rng, firm, CHANGEABLE, pick(rng, BREAKS))
            if label_of(premise, hypothesis) == gold and (rng.random() < ANYSIZE or size(premise) == size(firm)):
                return Item(premise, hypothesis, gold)


def draw_items(split: str, items: int, seed: int) -> Iterator[Item]:
    """`items` different items, each three in a row having the three labels in a random order."""
    rng = random.Random(f"mini-XNLI {split} {seed}")
    seen = set()
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


def majority(labels: list[int]) -> int | None:
    """The label of more than half of the annotators, or None."""
    label, votes = Counter(labels).most_common(1)[0]
    return label if 2 * votes > len(labels) else None


def generate(split: str, items: int, *, seed: int = DATA_SEED, disagreement: float = DISAGREEMENT) -> datasets.Dataset:
    """The first `items` items of a split (train, validation or test), each in French and in English.

    Columns: `id` ("test-00012-fr"), `item` ("test-00012"), `premise`, `hypothesis`, `language`, `label` (what
    annotators said), `gold` (what the grammar says). Gold labels are balanced. A training or validation item has
    one annotator, a test item five: those without a majority of three are left out, as in XNLI.
    """
    import datasets

    rng = random.Random(f"mini-XNLI annotators {split} {seed}")
    annotators = ANNOTATORS if split == "test" else 1
    rows: dict[str, list] = {name: [] for name in ("id", "item", "premise", "hypothesis", "language", "label", "gold")}
    for index, item in enumerate(draw_items(split, items, seed)):
        label = majority([annotate(rng, item.gold, disagreement) for _ in range(annotators)])
        if label is None:
            continue
        name = f"{split}-{index:05d}"
        for language in LANGUAGES:
            row = (f"{name}-{language}", name, *item.texts(language), language, label, item.gold)
            for column, value in zip(rows.values(), row, strict=True):
                column.append(value)
    text, labels = datasets.Value("string"), datasets.ClassLabel(names=list(LABELS))
    kinds = dict.fromkeys(rows, text) | {"label": labels, "gold": labels}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


def load(
    *,
    train_items: int = 12_000,
    validation_items: int = 1_500,
    test_items: int = 3_300,
    disagreement: float = DISAGREEMENT,
    seed: int = DATA_SEED,
) -> datasets.DatasetDict:
    """Training, validation and test rows, two (French and English) an item.

    The test set is cut to as many rows of each label in each language as the rarest has.
    """
    import datasets

    sizes = dict(zip(SPLITS, (train_items, validation_items, test_items), strict=True))
    splits = {name: generate(name, size, seed=seed, disagreement=disagreement) for name, size in sizes.items()}
    cells = list(zip(splits["test"]["label"], splits["test"]["language"], strict=True))
    rarest = min(Counter(cells).values())
    count: Counter = Counter()
    kept = []
    for row, cell in enumerate(cells):
        count[cell] += 1
        if count[cell] <= rarest:
            kept.append(row)
    splits["test"] = splits["test"].select(kept)
    return datasets.DatasetDict(splits)


def pretraining_text(items: int = 20_000, *, seed: int = DATA_SEED + 1) -> datasets.Dataset:
    """Unlabelled pairs of training combinations, `items` in each language: `premise`, `hypothesis`, `language`."""
    return generate("train", items, seed=seed).select_columns(["premise", "hypothesis", "language"])


def external_sentences(items: int = 1_000, *, seed: int = DATA_SEED) -> datasets.Dataset:
    """Single sentences of another register (an encyclopaedia's), parallel: `text`, `language`, `item`.

    "Le loup est un animal qui dort dans la forêt." / "The wolf is an animal that sleeps in the forest."
    """
    import datasets

    rng = random.Random(f"mini-XNLI external {seed}")
    families = [subject for subject in SUBJECTS if len({noun.sense for noun in subject.nouns}) > 1]
    rows: dict[str, list[str]] = {"text": [], "language": [], "item": []}
    while len(rows["item"]) < 2 * items:
        subject = pick(rng, families)
        general, noun = subject.nouns[0], pick(rng, subject.nouns[1:])
        frame = pick(rng, ACTIVITIES["train", subject])
        bare = Clause("the", general, None, False, frame, frame.verbs[0], *[None] * 5)
        clause = draw_activity(rng, bare, frame, 2)
        kind = ("une " if general.gender == "f" else "un ") + general.fr
        texts = sentence(french_subject("the", noun, None, False), "est", kind, "qui", french_predicate(clause))
        article, pronoun = ("an" if general.en[0] in "aeiou" else "a"), ("that" if subject.who in "ab" else "who")
        other = sentence("the", noun.en, "is", article, general.en, pronoun, english_predicate(clause))
        if texts not in rows["text"]:
            rows["text"] += [texts, other]
            rows["language"] += LANGUAGES
            rows["item"] += [f"external-{len(rows['item']) // 2:05d}"] * 2
    return datasets.Dataset.from_dict(rows)


def noise_ceiling(dataset: datasets.Dataset) -> float:
    """The share of rows whose label is the grammar's: the accuracy of a perfect reader."""
    same = [label == gold for label, gold in zip(dataset["label"], dataset["gold"], strict=True)]
    return sum(same) / len(same)
