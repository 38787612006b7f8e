"""mini-XNLI: its labels, its sentences, its splits, its annotators, and that half a pair says nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import datasets
import numpy as np
import pytest

from hf_langimb.data import mini_xnli
from hf_langimb.data.mini_xnli import LANGUAGES, generation, meaning
from hf_langimb.data.mini_xnli.meaning import CIRCUMSTANCES, SUBJECT_OF, Clause, label_of
from hf_langimb.data.mini_xnli.sentences import say

NOUN_OF = {noun.en: noun for noun in SUBJECT_OF}
Rows = list[dict]


def word(words: tuple, en: object) -> meaning.Word | None:
    return None if en is None else next(found for found in words if found.en == en)


def clause(noun: str, verb: str, thing: str | None = None, **slots: object) -> Clause:
    """A clause from English words: clause("dog", "eat", "fish", place="in the forest", negated=True)."""
    found = NOUN_OF[noun]
    who, modifiers = SUBJECT_OF[found].who, SUBJECT_OF[found].modifiers
    frame = next(f for f in meaning.FRAMES if who in f.who and verb in [v.en for v in f.verbs])
    made = word(sum(frame.objects, ()), thing)
    rest = [word(meaning.choices(slot, found, frame, made), slots.get(slot)) for slot in CIRCUMSTANCES]
    quantifier, modifier = str(slots.get("quantifier", "")), word(modifiers, slots.get("modifier"))
    return Clause(quantifier, found, modifier, bool(slots.get("negated")), frame, word(frame.verbs, verb), made, *rest)


@pytest.fixture(scope="module")
def data() -> datasets.DatasetDict:
    return mini_xnli.load()


@pytest.fixture(scope="module")
def rows(data: datasets.DatasetDict) -> dict[str, Rows]:
    """The rows of each split as dictionaries."""
    return {name: split.to_list() for name, split in data.items()}


@pytest.fixture(scope="module")
def texts(rows: dict[str, Rows]) -> dict[str, list[str]]:
    """Every different sentence, by language."""
    every = [row for split in rows.values() for row in split]
    sides = ("premise", "hypothesis")
    return {
        language: [*dict.fromkeys(row[side] for row in every for side in sides if row["language"] == language)]
        for language in LANGUAGES
    }


def words_of(texts: Iterable[str]) -> Counter[str]:
    return Counter(found for text in texts for found in re.findall(r"\w+", text.lower()))


# --- Labels -------------------------------------------------------------------------------------------------
(E, N, C), OPEN = range(3), None
EATS = {"noun": "dog", "verb": "eat", "thing": "fish"}
PAIRS = [
    # dropping and adding, and the same under negation
    ({"place": "in the forest"}, {}, E),
    ({}, {"place": "in the forest"}, N),
    ({"negated": True}, {"negated": True, "place": "in the forest"}, E),
    ({"negated": True, "place": "in the forest"}, {"negated": True}, N),
    ({"place": "in the forest"}, {"negated": True}, C),
    ({"negated": True}, {"place": "in the forest"}, C),
    ({"negated": True, "place": "in the forest"}, {}, N),
    # kinds, opposites, independent words
    ({"verb": "devour"}, {}, E),
    ({"verb": "devour", "negated": True}, {"negated": True}, N),
    ({"manner": "quickly"}, {"manner": "fast"}, E),
    ({"manner": "quickly"}, {"manner": "slowly"}, C),
    ({"manner": "quickly"}, {"manner": "slowly", "negated": True}, E),
    ({"manner": "quickly", "negated": True}, {"manner": "slowly"}, OPEN),
    ({"manner": "quickly", "negated": True}, {}, OPEN),
    ({"thing": "meat"}, {}, N),
    ({"place": "in the forest"}, {"place": "in the garden"}, OPEN),
    # subjects
    ({}, {"noun": "animal"}, E),
    ({"noun": "animal"}, {}, N),
    ({"noun": "animal"}, {"negated": True}, OPEN),
    ({"modifier": "old"}, {"negated": True}, C),
    ({"modifier": "big"}, {"noun": "animal", "modifier": "big"}, OPEN),
    # quantifiers
    ({"quantifier": "all", "noun": "animal"}, {"quantifier": "all"}, E),
    ({"quantifier": "all"}, {"quantifier": "all", "noun": "animal"}, N),
    ({"quantifier": "all"}, {"quantifier": "some", "noun": "animal"}, E),
    ({"quantifier": "three"}, {"quantifier": "some"}, E),
    ({"quantifier": "some"}, {"quantifier": "three"}, N),
    ({"quantifier": "all"}, {"quantifier": "three"}, OPEN),
    ({"quantifier": "all"}, {"quantifier": "some", "negated": True}, C),
    ({"quantifier": "some"}, {"quantifier": "all", "negated": True}, C),
    ({"quantifier": "some"}, {"quantifier": "some", "negated": True}, N),
    ({"quantifier": "all", "negated": True}, {"quantifier": "all", "negated": True, "noun": "animal"}, N),
    ({"quantifier": "all", "noun": "animal"}, {"quantifier": "some", "negated": True}, C),
    ({"quantifier": "all"}, {"quantifier": "some", "negated": True, "noun": "animal"}, N),
]


def test_labels_follow_from_the_clauses() -> None:
    for premise, hypothesis, label in PAIRS:
        assert label_of(clause(**EATS | premise), clause(**EATS | hypothesis)) == label, (premise, hypothesis)
    doctor = clause("doctor", "buy", "apple", place="at the market")  # a synonym is the same
    physician = clause("physician", "purchase", "apple", place="at the market")
    assert label_of(doctor, physician) == label_of(physician, doctor) == E
    assert label_of(doctor, physician._replace(negated=True)) == C


# --- Sentences ----------------------------------------------------------------------------------------------
FORMS = """
bear, eat, meat, modifier=old: Le vieil ours mange de la viande. The old bear eats meat.
owl, hunt, mouse, modifier=beautiful, negated=yes:
    Le beau hibou ne chasse pas de souris. The beautiful owl does not hunt mice.
eagle, hunt, bird, quality=small, modifier=beautiful:
    Le bel aigle chasse de petits oiseaux. The beautiful eagle hunts small birds.
nurse, buy, orange, negated=yes, modifier=Spanish:
    L'infirmière espagnole n'achète pas d'oranges. The Spanish nurse does not buy oranges.
scientist, play, guitar, quantifier=all, manner=alone:
    Toutes les scientifiques jouent de la guitare seules. All scientists play the guitar alone.
child, be happy, quantifier=all, negated=yes, manner=very: Aucun enfant n'est très content. No child is very happy.
artist, be calm, quantifier=some, negated=yes: Certaines artistes ne sont pas calmes. Some artists are not calm.
wolf, drink, water, quantifier=three, modifier=white:
    Trois loups blancs boivent de l'eau. Three white wolves drink water.
Marie, speak, Arabic, manner=well, negated=yes, time=at 8 o'clock:
    Marie ne parle pas bien arabe à 8 heures. Marie does not speak Arabic well at 8 o'clock.
engineer, drive, automobile, negated=yes:
    L'ingénieur ne conduit pas d'automobile. The engineer does not drive an automobile.
pianist, wait for, bus, quantifier=some, modifier=who lives in Rome:
    Certains pianistes qui vivent à Rome attendent le bus. Some pianists who live in Rome wait for the bus.
student, play, instrument, place=in the living room:
    L'étudiante joue d'un instrument dans le salon. The student plays an instrument in the living room.
"""


def test_forms_agree() -> None:
    forms = re.findall(r"^(\S.*?):\s+(.*)$", FORMS, re.M)
    assert len(forms) == 12
    for made, sentences in forms:
        words = [word for word in made.split(", ") if "=" not in word]
        slots = dict(word.split("=") for word in made.split(", ") if "=" in word)
        assert f"{say(clause(*words, **slots), 'fr')} {say(clause(*words, **slots), 'en')}" == sentences


VOWEL = r"(?!hibou|héron|haricot)[aeiouhéèêâîô]"
BEFORE = "vieux|vieilles|petite?s|belles|beaux|jolie?s|longue?s"
FAULTS = {
    "fr": [
        rf"\b(le|la|de|ne|se|que) {VOWEL}",  # elision
        r"'([bcdfgjklmnpqrstvwxz]|hibou|héron|haricot)",  # and no other
        r"\b(de|à) les? ",  # contraction: du, au, des, aux
        r"\b([Ll]e|une?|du|[Aa]ucun) (vieux|beau) [aeiouéèê]",  # vieil, bel
        r"\b(vieil|bel) [^aeiouéèê]|\b(trois|tous les|certains) (vieil|bel)\b",
        r"\b(tous les|toutes les|certaine?s|trois|des) \w+[^sxz .'] ",  # plural marks
        rf"\bdes ({BEFORE}) ",  # "de" before an adjective
        r"\bpas (du|des|un|une) (?!piano|violon)",  # "de" after a negated verb
        r"\baucune? .* pas\b",
    ],
    "en": [
        r"\ba [aeiou]|\ban [^aeiou]",
        r"\b(does|do) not (?!dress)\w+s ",  # "does not eats"
        r"\b(The|No) (?!.*\b(is|does)\b)[^s]+$",  # a third person has an -s somewhere
        r"\b(child|mouse|wolf|scarf)s\b|furnitures|\bfruits\b|mans\b",
        r"\bNo .* not\b",
    ],
}


def test_sentences_have_no_common_fault(texts: dict[str, list[str]]) -> None:
    for language in LANGUAGES:
        assert len(texts[language]) > 10_000
        for fault in (*FAULTS[language], r"\b(\w+) \1\b"):  # or a word twice
            assert [text for text in texts[language] if re.search(fault, text)][:5] == [], fault
        assert [text for text in texts[language] if not re.fullmatch(r"[A-ZÉ][\w' -]+\.", text)] == []
    for text in texts["fr"]:  # negations have two parts
        assert bool(re.search(r"\b(ne |n')", text)) == (" pas" in text or text.startswith("Aucun")), text


def test_sentences_are_short(data: datasets.DatasetDict) -> None:
    for column, low, high in (("premise", 7, 11), ("hypothesis", 6, 10)):
        lengths = [len(text.split()) for text in data["train"][column]]
        assert low <= np.mean(lengths) <= high
        assert max(lengths) <= 18


# --- The datasets ------------------------------------------------------------------------------------------
GOLDEN = {
    "train-00000-fr neutral": "Le musicien qui vit en Italie danse dehors. Le pianiste qui vit en Italie danse dehors.",
    "train-00001-en contradiction": "David does not praise the customer. David praises the customer.",
    "train-00002-fr entailment": "La sportive blonde ne dévore pas de légumes. "
    "La sportive blonde ne dévore pas de haricots.",
    "test-00002-fr contradiction": "La sculptrice fatiguée attend le train à l'hôtel. "
    "La sculptrice n'attend pas le train.",
}


def test_some_items_are_as_they_always_were(rows: dict[str, Rows]) -> None:
    first = [row for split in ("train", "test") for row in rows[split][:6]]
    found = {f"{r['id']} {mini_xnli.LABELS[r['gold']]}": f"{r['premise']} {r['hypothesis']}" for r in first}
    assert found | GOLDEN == found


def test_generation_is_deterministic_and_grows() -> None:
    short, long = (mini_xnli.generate("train", items).to_list() for items in (60, 90))
    assert short == long[: len(short)]
    assert short == mini_xnli.generate("train", 60).to_list()
    assert short != mini_xnli.generate("train", 60, seed=1).to_list()
    silent = mini_xnli.generate("train", 60, disagreement=0).to_list()
    assert [row["premise"] for row in silent] == [row["premise"] for row in short]


def test_rows(data: datasets.DatasetDict, rows: dict[str, Rows]) -> None:
    assert list(data) == ["train", "validation", "test"]
    for name, split in data.items():
        assert split.features["label"].names == split.features["gold"].names == list(mini_xnli.LABELS)
        assert len(set(split["id"])) == len(split)
        assert all(row["id"] == f"{row['item']}-{row['language']}" for row in rows[name])
        by_item: dict[str, Rows] = {}
        for row in rows[name]:
            by_item.setdefault(row["item"], []).append(row)
        for pair in by_item.values():
            assert [row["language"] for row in pair] == list(LANGUAGES)
            assert pair[0]["label"] == pair[1]["label"] and pair[0]["gold"] == pair[1]["gold"]
        assert name == "test" or len(set(Counter(split["gold"]).values())) == 1
    cells = Counter(zip(data["test"]["label"], data["test"]["language"], strict=True))
    assert len(cells) == 6 and len(set(cells.values())) == 1 and len(data["test"]) >= 6_000
    for language in LANGUAGES:
        every = [row for split in rows.values() for row in split if row["language"] == language]
        pairs = [(row["premise"], row["hypothesis"]) for row in every]
        assert len(set(pairs)) == len(pairs)
        assert [pair for pair in pairs if pair[0] == pair[1]] == []


def test_splits_share_no_subject_with_verb() -> None:
    seen: dict[tuple[str, str], set[str]] = {}
    for split in ("train", "validation", "test"):
        for premise, hypothesis, _ in generation.draw_items(split, 1_500, seed=3):
            for made in (premise, hypothesis):
                seen.setdefault((made.noun.en, made.verb.en), set()).add(split)
    assert {pair for pair, splits in seen.items() if len(splits) > 1} == set()
    held = Counter(split for (split, _), frames in meaning.ACTIVITIES.items() for _ in frames)
    assert 0.15 < held["test"] / sum(held.values()) < 0.3


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_occur_in_training(rows: dict[str, Rows], language: str) -> None:
    def words(split: Rows, *columns: str) -> Counter[str]:
        return words_of(row[column] for row in split if row["language"] == language for column in columns)

    train = words(rows["train"], "premise", "hypothesis")
    for split in ("validation", "test"):
        found = words(rows[split], "premise", "hypothesis")
        assert sum(found[word] for word in set(found) - set(train)) < 0.001 * sum(found.values())  # rare plurals
    pretraining = words(mini_xnli.pretraining_text(5_000).to_list(), "premise", "hypothesis")
    external = words(mini_xnli.external_sentences().to_list(), "text")
    unknown = sum(count for found, count in external.items() if found not in pretraining)
    assert unknown / sum(external.values()) < 0.1


def test_languages_share_some_words(texts: dict[str, list[str]]) -> None:
    words = {language: words_of(texts[language]) for language in LANGUAGES}
    shared = set(words["fr"]) & set(words["en"])
    for counts in words.values():
        assert 0.03 < sum(counts[found] for found in shared) / sum(counts.values()) < 0.15


def test_pretraining_pairs_cross_the_languages(data: datasets.DatasetDict) -> None:
    text = mini_xnli.pretraining_text(1_000)
    assert text.column_names == ["premise", "language", "hypothesis"]
    assert text["language"] == list(LANGUAGES) * 1_000
    drawn = mini_xnli.generate("train", 1_000, seed=generation.DATA_SEED + 1)
    assert text["premise"] == drawn["premise"]
    assert text["hypothesis"][:4] == [drawn["hypothesis"][row] for row in (1, 0, 3, 2)]
    train = set(zip(data["train"]["premise"], data["train"]["hypothesis"], strict=True))
    same = sum(pair in train for pair in zip(drawn["premise"], drawn["hypothesis"], strict=True))
    assert same / len(text) < 0.02


def test_external_sentences_are_parallel() -> None:
    rows = mini_xnli.external_sentences(1_200)
    for language in LANGUAGES:
        chosen = [row for row in rows if row["language"] == language]
        assert len({row["text"] for row in chosen}) == len({row["item"] for row in chosen}) == len(chosen) == 1_200
        assert [row["text"] for row in chosen if any(re.search(fault, row["text"]) for fault in FAULTS[language])] == []
    assert rows["language"] == list(LANGUAGES) * 1_200


# --- Annotators ---------------------------------------------------------------------------------------------
def test_annotators_disagree_as_often_as_said_and_a_majority_of_five_less() -> None:
    rows = mini_xnli.generate("train", 4_000)
    assert mini_xnli.noise_ceiling(rows) == pytest.approx(1 - 0.15 * 2 / 3, abs=0.015)
    assert mini_xnli.noise_ceiling(mini_xnli.generate("train", 90, disagreement=0)) == 1
    loud = mini_xnli.generate("train", 3_000, disagreement=1)
    assert mini_xnli.noise_ceiling(loud) == pytest.approx(1 / 3, abs=0.03)
    for votes, label in (([0, 1, 1, 2, 1], 1), ([0, 1, 1, 2, 0], None), ([2], 2)):
        assert generation.majority(votes) == label
    rows = mini_xnli.generate("test", 1_500, disagreement=0.4)
    # P(three of five or more right) for p = 1 - 0.4 * 2 / 3, given a majority
    assert mini_xnli.noise_ceiling(rows) == pytest.approx(0.96, abs=0.02)
    assert 0.85 < len(set(rows["item"])) / 1_500 < 0.98  # 2-2-1 votes leave no majority


# --- Artefacts ----------------------------------------------------------------------------------------------
def accuracy(rows: dict[str, Rows], language: str, column: str) -> float:
    """Of a classifier by words and pairs of words that sees one side only, and its length, on the gold labels."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    def side(split: str) -> tuple[list[str], list[int]]:
        seen = [row for row in rows[split][:12_000] if row["language"] == language]
        return [f"length{len(r[column].split())} {r[column]}" for r in seen], [r["gold"] for r in seen]

    bag = CountVectorizer(ngram_range=(1, 2), min_df=3, token_pattern=r"[\w'-]+")
    texts, gold = side("train")
    model = LogisticRegression(max_iter=300, C=0.1).fit(bag.fit_transform(texts), gold)
    texts, gold = side("test")
    return model.score(bag.transform(texts), gold)


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_side_hardly_tells_the_label(rows: dict[str, Rows], language: str) -> None:
    assert accuracy(rows, language, "hypothesis") < 0.38
    assert accuracy(rows, language, "premise") < 0.5  # its negation and length tell a little
