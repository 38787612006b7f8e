"""The words of mini-XNLI (`words.yaml`) and the forms that they take in French and English."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import yaml

TABLES = yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))

# --- Irregular forms ----------------------------------------------------------------------------------------
ASPIRATED_H = ("haricot", "hibou", "héron")  # no elision before these
FRENCH_PLURALS = {"bio": "bio", "hibou": "hiboux"}
BEFORE_VOWEL = {"vieux": "vieil", "beau": "bel"}
ENGLISH_PLURALS = {
    "fruit": "fruit", "furniture": "furniture", "child": "children", "wolf": "wolves", "scarf": "scarves",
    "postman": "postmen", "mouse": "mice", "tomato": "tomatoes",
}  # fmt: skip


# --- Words --------------------------------------------------------------------------------------------------
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
    if not general:
        return parse(text, noun=True)
    sense = general.split()[2]
    return parse(f"{general}, " + ", ".join(f"{entry} >{sense}" for entry in text.split(",")), noun=True)


# --- Forms --------------------------------------------------------------------------------------------------
def elide(word: str, following: str) -> str:
    """A word in -e before what follows: "l'ours", but "le chat" and "le hibou"."""
    vowel = following[0] in "aeiouhéèêâîô" and not following.startswith(ASPIRATED_H)
    return f"{word[:-1]}'{following}" if vowel else f"{word} {following}"


def definite(text: str, feminine: bool) -> str:
    """A French noun phrase with its singular article: "le chat", "la fleur", "l'eau"."""
    article = elide("le", text)
    return f"la {text}" if feminine and article.startswith("le ") else article


def french_plural(word: str) -> str:
    """The plural of a French noun or adjective: "loups", "châteaux", "vieux"."""
    if word in FRENCH_PLURALS:
        return FRENCH_PLURALS[word]
    if word.endswith(("s", "x")):
        return word
    return word[:-2] + "aux" if word.endswith("al") else word + ("x" if word.endswith("eau") else "s")


def agree(masculine: str, feminine: str, gender: str, plural: bool) -> str:
    """A French adjective's form."""
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
    if not plural and elide("e", text)[0] == "'":
        adjective = BEFORE_VOWEL.get(adjective, adjective)
    return f"{adjective} {text}"


def english_plural(word: str) -> str:
    """A noun's plural, or (they are formed alike) a verb's third person."""
    if word in ENGLISH_PLURALS:
        return ENGLISH_PLURALS[word]
    if word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def english_a(text: str) -> str:
    """The text with its indefinite article: "an old hat"."""
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


@functools.cache
def english_nominal(noun: Word, modifier: Word | None, plural: bool) -> str:
    """A noun with its adjective or phrase: "old bear", "black cats", "pianists from Lyon"."""
    text = english_plural(noun.en) if plural else noun.en
    if modifier is None:
        return text
    if modifier.other:
        return f"{modifier.en} {text}"
    return f"{text} {modifier.en.replace(' lives ', ' live ') if plural else modifier.en}"
