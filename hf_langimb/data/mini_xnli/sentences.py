"""How a clause is expressed as a sentence in French and in English."""

from __future__ import annotations

import functools

from hf_langimb.data.mini_xnli.meaning import SUBJECT_OF, TABLES, Clause, Word

LANGUAGES = ("fr", "en")
PLURAL = ("all", "some", "three")  # quantifiers with a plural noun and verb, unlike "no" and none


def elide(word: str, following: str) -> str:
    """A word in -e before what follows: "l'ours", but "le chat" and "le hibou"."""
    vowel = following[0] in "aeiouhéèêâîô" and not following.startswith(tuple(TABLES["aspirated_h"]))
    return f"{word[:-1]}'{following}" if vowel else f"{word} {following}"


def definite(text: str, feminine: bool) -> str:
    """A French noun phrase with its singular article: "le chat", "la fleur", "l'eau"."""
    article = elide("le", text)
    return f"la {text}" if feminine and article.startswith("le ") else article


def french_plural(word: str) -> str:
    """The plural of a French noun or adjective: "loups", "châteaux", "vieux"."""
    if word in TABLES["french_plurals"] or word.endswith(("s", "x")):
        return TABLES["french_plurals"].get(word, word)
    return word[:-2] + "aux" if word.endswith("al") else word + ("x" if word.endswith("eau") else "s")


def agree(masculine: str, feminine: str, gender: str, plural: bool) -> str:
    """A French adjective's form."""
    form = masculine if gender in "mM" else feminine
    return french_plural(form) if plural else form


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
        adjective = TABLES["before_vowel"].get(adjective, adjective)
    return f"{adjective} {text}"


@functools.cache
def french_subject(noun: Word, modifier: Word | None, quantifier: str) -> str:
    """The subject with its article or quantifier: "l'oiseau noir", "certaines artistes", "Marie"."""
    text, feminine = french_nominal(noun, modifier, quantifier in PLURAL), noun.gender == "f"
    if not SUBJECT_OF[noun].modifiers:  # a first name
        return text
    return f"{TABLES['quantifiers'][quantifier][feminine]} {text}" if quantifier else definite(text, feminine)


@functools.cache
def french_object(article: str, noun: Word, quality: Word | None, negated: bool) -> str:
    """The object with its article: "de la soupe fraîche", "de vieux livres", "un chapeau", "du piano"."""
    mass, feminine = noun.gender in "MF", noun.gender in "fF"
    text = french_nominal(noun, quality, article == "some" and not mass)
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


def french_predicate(clause: Clause, quantifier: str) -> str:
    """The clause after its subject: "n'est pas très riche", "joue bien du piano le lundi"."""
    plural, gender, verb = quantifier in PLURAL, clause.noun.gender, clause.verb
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
        form = elide("ne", form) + ("" if quantifier == "no" else " pas")
    if clause.object:
        early.append(french_object(clause.frame.article, clause.object, clause.quality, clause.negated))
    rest = (word.fr for word in (clause.place, clause.time) if word)
    return " ".join(part for part in (form, *early, late, *rest) if part)


def english_plural(word: str) -> str:
    """A noun's plural, or (they are formed alike) a verb's third person."""
    if word in TABLES["english_plurals"]:
        return TABLES["english_plurals"][word]
    if word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def english_nominal(noun: Word, modifier: Word | None, plural: bool) -> str:
    """A noun with its adjective or phrase: "old bear", "black cats", "pianists from Lyon"."""
    text = english_plural(noun.en) if plural else noun.en
    if modifier is None:
        return text
    if modifier.other:
        return f"{modifier.en} {text}"
    return f"{text} {modifier.en.replace(' lives ', ' live ') if plural else modifier.en}"


@functools.cache
def english_subject(noun: Word, modifier: Word | None, quantifier: str) -> str:
    """The subject with its article or quantifier: "the black bird", "no child", "Marie"."""
    text = english_nominal(noun, modifier, quantifier in PLURAL)
    return f"{quantifier or 'the'} {text}" if SUBJECT_OF[noun].modifiers else text


@functools.cache
def english_object(article: str, noun: Word, quality: Word | None) -> str:
    """The object with its article: "fresh soup", "old books", "a hat", "the piano"."""
    text = english_nominal(noun, quality, article == "some" and noun.gender in "mf")
    if article == "one" or (article == "play" and noun.en == "instrument"):
        return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
    return f"the {text}" if article in ("the", "play") else text


def english_predicate(clause: Clause, quantifier: str) -> str:
    """The clause after its subject: "is not very rich", "plays the piano well on Mondays"."""
    plural, negative = quantifier in PLURAL, clause.negated and quantifier != "no"
    manner = clause.manner.en if clause.manner else ""
    verb, *rest = clause.verb.en.split()
    if verb == "be":
        words = ["are" if plural else "is", "not" if negative else "", manner, *rest]
        manner = ""
    elif negative:
        words = ["do" if plural else "does", "not", verb, *rest]
    else:
        words = [verb if plural else english_plural(verb), *rest]
    if clause.object:
        words.append(english_object(clause.frame.article, clause.object, clause.quality))
    words += [manner, *(word.en for word in (clause.place, clause.time) if word)]
    return " ".join(word for word in words if word)


def say(clause: Clause, language: str) -> str:
    """The clause as a sentence, in "fr" or "en"."""
    quantifier = "no" if clause.quantifier == "all" and clause.negated else clause.quantifier
    if language == "fr":
        parts = french_subject(clause.noun, clause.modifier, quantifier), french_predicate(clause, quantifier)
    else:
        parts = english_subject(clause.noun, clause.modifier, quantifier), english_predicate(clause, quantifier)
    text = " ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
