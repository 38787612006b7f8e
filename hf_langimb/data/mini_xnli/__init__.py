"""mini-XNLI: a small, seeded, parallel French-English inference data set written by a grammar.

An *item* is a meaning (premise, hypothesis, gold label) expressed in both languages. A sentence is a `Clause`: a
subject, a verb, optionally an object, a manner, a place and a time, optionally negated. The label is *computed*
from the two clauses by the rules of natural logic, independently of how the pair was made:

1. In each slot, the premise's word equals the hypothesis's ("="), implies it ("<": dog < animal, "in the garden" <
   no place), is implied by it (">"), excludes it ("|": opposites) or is independent of it ("#").
2. The relations of the slots after the subject are combined into one relation of the two activities
   (`activity_relation`); negation reverses it (`NEGATED`): "does not eat fruit" < "does not eat apples".
3. "=" and "<" give an entailment, "|" a contradiction, ">" and "#" a neutral pair, if the premise's subject is
   the hypothesis's or a kind of it ("the old pianist" < "the musician"). *All*, *no*, *some* and *three* reverse
   the relation of the subjects as well (`quantified_label`): "all animals sleep" implies "all dogs sleep".
4. A pair whose label is open to dispute has no label (None) and is never used. As in other inference data, both
   sentences describe one subject and one occasion: reading "inside" excludes reading "outside".

The hypothesis is drawn first, independently of the label, so that it tells nothing about the label; then premises
near it are drawn until one makes the wanted label true. The splits share no combination of subject and verb
(`ACTIVITIES`). Annotators sometimes disagree (`DISAGREEMENT`): `label` is the annotation, `gold` the label that the
grammar computes.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hf_langimb.data.mini_xnli import lexicon
from hf_langimb.data.mini_xnli.lexicon import Word, agree, definite, elide, parse, parse_family

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")
LANGUAGES = ("fr", "en")
LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
SPLITS = ("train", "validation", "test")
DATA_SEED = 2024
DISAGREEMENT = 0.15  # probability that an annotator's label is redrawn uniformly over the three labels
ANNOTATORS = 5  # per test row, as in XNLI; rows of the other splits have one


# --- Who can do what ----------------------------------------------------------------------------------------
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
        who: parse(text) + parse(lexicon.SUBJECT_PHRASES[who]) for who, text in lexicon.SUBJECT_ADJECTIVES.items()
    }
    for who, general, text in lexicon.SUBJECTS:
        nouns = parse_family(general, text)
        senses = [""] if general else dict.fromkeys(noun.sense for noun in nouns)
        for sense in senses:
            yield Subject(who, tuple(noun for noun in nouns if sense in ("", noun.sense)), modifiers[who])
    for name, gender in (entry.split() for entry in lexicon.NAMES.split(",")):
        yield Subject("h", (Word(name, name, name, gender=gender),), ())


QUALITIES: dict[Word, tuple[Word, ...]] = {}  # the adjectives of each object, filled by `_objects`


@functools.cache
def _objects(name: str) -> tuple[Word, ...]:
    general, nouns, adjectives = lexicon.OBJECTS[name]
    words = parse_family(general, nouns)
    QUALITIES.update(dict.fromkeys(words, parse(adjectives)))
    return words


def _frame(row: tuple[str, ...]) -> Frame:
    who, verbs, objects, article, *circumstances = row
    classes = tuple(_objects(name) for name in objects.lstrip("?").split())
    tables = (lexicon.MANNERS, lexicon.PLACES, lexicon.TIMES)
    manner, place, time = (
        parse(", ".join(table[name] for name in names.split()))
        for table, names in zip(tables, circumstances, strict=True)
    )
    return Frame(who, parse(verbs), classes, objects[:1] == "?", article, manner, place, time)


SUBJECTS = tuple(_subjects())
SUBJECT_OF = {noun: subject for subject in SUBJECTS for noun in subject.nouns}
FRAMES = tuple(_frame(row) for row in lexicon.FRAMES)


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


# --- Clauses ------------------------------------------------------------------------------------------------
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


QUANTIFIERS = ("all", "some", "three")  # a negated "all" says "no"
CIRCUMSTANCES = ("quality", "manner", "place", "time")  # what an activity can do without
CHANGEABLE = ("noun", "modifier", "verb", "object", *CIRCUMSTANCES)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options; three times as fast as `rng.choice`."""
    return options[int(rng.random() * len(options))]


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


# --- Labels -------------------------------------------------------------------------------------------------
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


# --- Sentences ----------------------------------------------------------------------------------------------
def sentence(*parts: str) -> str:
    """The parts with a capital and a full stop."""
    text = " ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def is_plural(clause: Clause) -> bool:
    """Whether the subject takes a plural verb: some, three and all, but not no."""
    return clause.quantifier in ("some", "three") or (clause.quantifier == "all" and not clause.negated)


def french_subject(clause: Clause) -> str:
    """The subject with its article or quantifier: "l'oiseau noir", "certaines artistes", "Marie"."""
    noun, feminine = clause.noun, clause.noun.gender == "f"
    text = lexicon.french_nominal(noun, clause.modifier, is_plural(clause))
    if not SUBJECT_OF[noun].modifiers:  # a first name
        return text
    if not clause.quantifier:
        return definite(text, feminine)
    if clause.quantifier == "all" and clause.negated:
        return f"{'aucune' if feminine else 'aucun'} {text}"
    words = {
        "all": ("tous les", "toutes les"),
        "some": ("certains", "certaines"),
        "three": ("trois", "trois"),
    }
    return f"{words[clause.quantifier][feminine]} {text}"


@functools.cache
def french_object(article: str, noun: Word, quality: Word | None, negated: bool) -> str:
    """The object with its article: "de la soupe fraîche", "de vieux livres", "un chapeau", "du piano"."""
    mass, feminine = noun.gender in "MF", noun.gender in "fF"
    text = lexicon.french_nominal(noun, quality, article == "some" and not mass)
    if article == "bare":
        return text
    if article in ("the", "kind"):
        return definite(text, feminine)
    if article == "play" and noun.en == "instrument":
        return f"d'un {text}"
    if negated and article != "play":
        return elide("de", text)
    if article == "one":
        return f"{'une' if feminine else 'un'} {text}"
    if article == "play" or mass:
        the = definite(text, feminine)
        return "du" + the[2:] if the.startswith("le ") else f"de {the}"
    return elide("de", text) if quality and quality.before else f"des {text}"


def french_predicate(clause: Clause) -> str:
    """The clause after its subject: "n'est pas très riche", "joue bien du piano le lundi"."""
    plural, gender, verb = is_plural(clause), clause.noun.gender, clause.verb
    manner = clause.manner.fr if clause.manner else ""
    if manner == "seul":
        manner = agree("seul", "seule", gender, plural)
    if verb.en.startswith("be "):
        form, masculine = verb.fr.split()
        form = "sont" if plural else form
        early, late = [manner, agree(masculine, verb.other, gender, plural)], ""
    else:
        form = (verb.other or verb.fr + "nt") if plural else verb.fr
        first = manner in ("bien", "mal") or (manner in ("vite", "rapidement", "lentement") and not clause.negated)
        early, late = ([manner], "") if first else ([], manner)
    if clause.negated:
        form = elide("ne", form) + ("" if clause.quantifier == "all" else " pas")
    if clause.object:
        early.append(french_object(clause.frame.article, clause.object, clause.quality, clause.negated))
    rest = (word.fr for word in (clause.place, clause.time) if word)
    return " ".join(part for part in (form, *early, late, *rest) if part)


def english_subject(clause: Clause) -> str:
    """The subject with its article or quantifier: "the black bird", "no child", "Marie"."""
    text = lexicon.english_nominal(clause.noun, clause.modifier, is_plural(clause))
    if not SUBJECT_OF[clause.noun].modifiers:  # a first name
        return text
    return f"{'no' if clause.quantifier == 'all' and clause.negated else clause.quantifier or 'the'} {text}"


def english_object(article: str, noun: Word, quality: Word | None) -> str:
    """The object with its article: "fresh soup", "old books", "a hat", "the piano"."""
    text = lexicon.english_nominal(noun, quality, article == "some" and noun.gender in "mf")
    if article == "one" or (article == "play" and noun.en == "instrument"):
        return lexicon.english_a(text)
    return f"the {text}" if article in ("the", "play") else text


def english_predicate(clause: Clause) -> str:
    """The clause after its subject: "is not very rich", "plays the piano well on Mondays"."""
    plural, negative = is_plural(clause), clause.negated and clause.quantifier != "all"
    manner = clause.manner.en if clause.manner else ""
    verb, *rest = clause.verb.en.split()
    if verb == "be":
        words = ["are" if plural else "is", "not" if negative else "", manner, *rest]
        manner = ""
    elif negative:
        words = ["do" if plural else "does", "not", verb, *rest]
    else:
        words = [verb if plural else lexicon.english_plural(verb), *rest]
    if clause.object:
        words.append(english_object(clause.frame.article, clause.object, clause.quality))
    words += [manner, *(word.en for word in (clause.place, clause.time) if word)]
    return " ".join(word for word in words if word)


def say(clause: Clause, language: str) -> str:
    """The clause as a sentence, in "fr" or "en"."""
    if language == "fr":
        return sentence(french_subject(clause), french_predicate(clause))
    return sentence(english_subject(clause), english_predicate(clause))


# --- Data sets ----------------------------------------------------------------------------------------------
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
    import datasets

    if split not in SPLITS:
        raise ValueError(f"Expected one of {', '.join(SPLITS)}, got {split!r}.")
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
    import datasets

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
    import datasets

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
