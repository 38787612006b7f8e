"""How a clause is expressed as a sentence in French and in English."""

from __future__ import annotations

import functools

from hf_langimb.data.mini_xnli import lexicon
from hf_langimb.data.mini_xnli.lexicon import Word, agree, definite, elide
from hf_langimb.data.mini_xnli.meaning import SUBJECT_OF, Clause

LANGUAGES = ("fr", "en")


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
