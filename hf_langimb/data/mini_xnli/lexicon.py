"""The words of mini-XNLI, French and English side by side: tables, and the forms their words take.

A word is written `french english`, a space inside a word as `_`, and may be followed by marks that tie it to
other words of the same table by their English name (their *sense*):

    `=other`  same meaning (synonym)          `>other`  a kind of `other`, so implies it
    `!other`  cannot be true together with it (opposite)

Nouns carry their French gender after the French word (`m`, `f`; capital for uncountable nouns), adjectives
their feminine after a slash, verbs their third person plural after a slash where it is irregular.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

# --- People and animals -------------------------------------------------------------------------------------
# (who, general noun or "", nouns). The nouns of a row form a family, of one French gender; without a general
# noun each (with its synonyms) is a family of its own. `who`: h adult, c child, a animal, b bird; it decides
# what they do and what is said of them.
SUBJECTS = (
    ("h", "musicien m musician", "pianiste m pianist, violoniste m violinist, guitariste m guitarist, "
     "chanteur m singer"),
    ("h", "artiste f artist", "peintre f painter, sculptrice f sculptor, danseuse f dancer"),
    ("h", "sportive f athlete", "nageuse f swimmer, coureuse f runner, cycliste f cyclist, skieuse f skier"),
    ("h", "scientifique f scientist", "chimiste f chemist, biologiste f biologist, physicienne f physicist"),
    ("c", "enfant m child", "garçon m boy, écolier m schoolboy"),
    ("c", "", "fille f girl"),
    ("a", "animal m animal", "chien m dog, chat m cat, ours m bear, loup m wolf, renard m fox, lion m lion, "
     "tigre m tiger"),
    ("b", "oiseau m bird", "aigle m eagle, hibou m owl, héron m heron, corbeau m crow"),
    ("h", "", "médecin m doctor, docteur m physician =doctor, infirmière f nurse, avocate f lawyer, "
     "boulanger m baker, facteur m postman, professeur m teacher, juge m judge, journaliste f journalist, "
     "pilote m pilot, fermier m farmer, étudiante f student, détective m detective, ingénieur m engineer, "
     "serveuse f waitress, reine f queen, marin m sailor, directrice f director"),
)  # fmt: skip
NAMES = "Marie f, Nadia f, Sarah f, Emma f, Paul m, Thomas m, David m, Omar m"

# A `~` marks adjectives that depend on the noun ("a small horse" need not be "a small animal"), a `<` those that
# French places before the noun.
SUBJECT_ADJECTIVES = {
    "h": "<vieux/vieille old, <jeune/jeune young, <grand/grande tall ~, célèbre/célèbre famous, "
    "connu/connue well-known =famous, timide/timide shy, blond/blonde blond, fatigué/fatiguée tired, "
    "élégant/élégante elegant, italien/italienne Italian, espagnol/espagnole Spanish",
    "c": "<jeune/jeune young, <petit/petite little ~, timide/timide shy, blond/blonde blond, "
    "fatigué/fatiguée tired, espagnol/espagnole Spanish",
    "a": "<vieux/vieille old, <jeune/jeune young, <petit/petite small ~, <gros/grosse big ~, noir/noire black, "
    "blanc/blanche white, blessé/blessée injured",
    "b": "<vieux/vieille old, <jeune/jeune young, <petit/petite small ~, <beau/belle beautiful, "
    "noir/noire black, blanc/blanche white, blessé/blessée injured",
}
SUBJECT_PHRASES = {
    "h": "de_Lyon from_Lyon >from_France, de_Paris from_Paris >from_France, de_France from_France, "
    "de_Madrid from_Madrid >from_Spain, d'Espagne from_Spain, "
    "qui_vit_à_Rome who_lives_in_Rome >who_lives_in_Italy, qui_vit_en_Italie who_lives_in_Italy",
    "c": "de_Lyon from_Lyon >from_France, de_France from_France",
    "a": "qui_vit_dans_la_forêt that_lives_in_the_forest",
    "b": "qui_vit_près_du_lac that_lives_near_the_lake",
}

# --- Things -------------------------------------------------------------------------------------------------
# name: (general noun or "", nouns, adjectives)
OBJECTS = {
    "fruit": ("fruit m fruit", "pomme f apple, poire f pear, orange f orange, banane f banana, melon m melon",
              "mûr/mûre ripe, bio/bio organic, frais/fraîche fresh"),
    "vegetable": ("légume m vegetable", "carotte f carrot, tomate f tomato, oignon m onion, haricot m bean",
                  "frais/fraîche fresh, bio/bio organic"),
    "food": ("", "pain M bread, fromage M cheese, viande F meat, riz M rice, soupe F soup",
             "bio/bio organic, italien/italienne Italian"),
    "prey": ("", "poisson M fish, viande F meat", "frais/fraîche fresh"),
    "drink": ("", "thé M tea, café M coffee, lait M milk, eau F water", "froid/froide cold, chaud/chaude hot"),
    "water": ("", "eau F water, lait M milk", "froid/froide cold"),
    "text": ("livre m book", "roman m novel, dictionnaire m dictionary, atlas m atlas",
             "<vieux/vieille old, rare/rare rare, anglais/anglaise English"),
    "press": ("", "journal m newspaper, magazine m magazine, poème m poem, lettre f letter",
              "anglais/anglaise English, <vieux/vieille old, <long/longue long ~"),
    "letter": ("", "lettre f letter, poème m poem, roman m novel", "<long/longue long ~, anglais/anglaise English"),
    "instrument": ("instrument m instrument", "piano m piano, violon m violin, guitare f guitar, "
                   "trompette f trumpet", "<vieux/vieille old, rare/rare rare"),
    "vehicle": ("véhicule m vehicle", "voiture f car, automobile f automobile =car, camion m truck, "
                "tracteur m tractor, taxi m taxi", "rouge/rouge red, noir/noire black, <vieux/vieille old"),
    "clothes": ("vêtement m garment", "chapeau m hat, manteau m coat, chemise f shirt, écharpe f scarf, "
                "robe f dress", "rouge/rouge red, noir/noire black, blanc/blanche white, <vieux/vieille old, "
                "élégant/élégante elegant"),
    "flower": ("fleur f flower", "rose f rose, tulipe f tulip, orchidée f orchid",
               "rouge/rouge red, blanc/blanche white, <beau/belle beautiful, <joli/jolie pretty =beautiful"),
    "furniture": ("meuble m furniture", "table f table, chaise f chair, lit m bed",
                  "moderne/moderne modern, <vieux/vieille old"),
    "toy": ("jouet m toy", "poupée f doll, puzzle m puzzle, robot m robot",
            "rouge/rouge red, <petit/petite small ~, <vieux/vieille old"),
    "beast": ("animal m animal", "cheval m horse, lion m lion, chat m cat, oiseau m bird",
              "blanc/blanche white, noir/noire black"),
    "game": ("", "lapin m rabbit, souris f mouse, oiseau m bird", "blanc/blanche white, <petit/petite small ~"),
    "sight": ("monument m monument", "château m castle, église f church, statue f statue",
              "célèbre/célèbre famous, connu/connue well-known =famous, <vieux/vieille old, "
              "moderne/moderne modern"),
    "science": ("", "chimie F chemistry, histoire F history, musique F music, biologie F biology", ""),
    "language": ("", "anglais m English, français m French, espagnol m Spanish, italien m Italian, "
                 "arabe m Arabic", ""),
    "opening": ("", "porte f door, fenêtre f window, boîte f box", ""),
    "container": ("", "bouteille f bottle, verre m glass, panier m basket", ""),
    "offer": ("", "cadeau m gift, invitation f invitation, contrat m contract", ""),
    "secret": ("", "clé f key, cadeau m gift, lettre f letter, photo f photo, photographie f photograph =photo",
               ""),
    "machine": ("", "radio f radio, télévision f television, horloge f clock", ""),
    "contest": ("", "match m match, course f race, procès m trial", ""),
    "building": ("", "pont m bridge, mur m wall, maison f house", ""),
    "transport": ("", "bus m bus, train m train, taxi m taxi", ""),
    "colleague": ("", "maire m mayor, client m customer, voisin m neighbor", ""),
}  # fmt: skip

# --- Circumstances ------------------------------------------------------------------------------------------
MANNERS = {
    "speed": "vite quickly, rapidement fast =quickly, lentement slowly !quickly",
    "sound": "fort loudly, doucement softly !loudly",
    "noise": "en_silence in_silence, silencieusement silently =in_silence, bruyamment noisily !in_silence",
    "company": "seul alone, avec_des_amis with_friends !alone",
    "skill": "bien well, mal badly !well",
    "care": "prudemment carefully, imprudemment carelessly !carefully",
    "hour": "tôt early, tard late !early",
    "means": "en_train by_train, en_voiture by_car, en_bus by_bus",
    "degree": "très very",
}
PLACES = {
    "home": "à_l'intérieur inside, dehors outside !inside, dans_la_cuisine in_the_kitchen >inside, "
    "dans_le_salon in_the_living_room >inside, dans_le_jardin in_the_garden >outside, "
    "dans_la_rue in_the_street >outside",
    "open": "dehors outside, à_l'intérieur inside !outside, dans_le_parc in_the_park >outside, "
    "dans_la_forêt in_the_forest >outside, dans_la_rue in_the_street >outside, "
    "dans_le_jardin in_the_garden >outside",
    "wild": "dans_la_forêt in_the_forest, près_du_lac near_the_lake, dans_le_jardin in_the_garden, "
    "à_la_ferme on_the_farm",
    "lake": "dans_le_lac in_the_lake, dans_la_mer in_the_sea",
    "shop": "au_marché at_the_market, en_ville in_town, à_Paris in_Paris",
    "table": "au_restaurant at_the_restaurant, à_l'hôtel at_the_hotel",
    "work": "au_bureau at_the_office, à_la_maison at_home",
    "study": "à_la_bibliothèque at_the_library, à_l'école at_school, à_la_maison at_home",
    "farm": "à_la_ferme on_the_farm, au_village in_the_village",
    "stage": "au_théâtre at_the_theater, dans_le_parc in_the_park",
    "station": "à_la_gare at_the_station, à_l'hôtel at_the_hotel",
    "map": "à_Lyon in_Lyon >in_France, à_Paris in_Paris >in_France, en_France in_France, "
    "à_Madrid in_Madrid >in_Spain, en_Espagne in_Spain, à_Rome in_Rome >in_Italy, en_Italie in_Italy",
}
TIMES = {
    "day": "le_matin in_the_morning, le_soir in_the_evening, à_8_heures at_8_o'clock, à_10_heures at_10_o'clock, "
    "le_lundi on_Mondays, le_lundi_matin on_Monday_mornings >on_Mondays, "
    "le_lundi_soir on_Monday_evenings >on_Mondays, le_week-end on_weekends, "
    "le_samedi on_Saturdays >on_weekends, le_dimanche on_Sundays >on_weekends",
    "year": "en_été in_summer, en_juillet in_July >in_summer, en_août in_August >in_summer, en_hiver in_winter, "
    "en_janvier in_January >in_winter",
}

# --- What subjects do ---------------------------------------------------------------------------------------
# (who, verbs, objects, article, manners, places, times). A `?` before the objects: they may be left out. The
# articles: some "des pommes / du thé", kind "la chimie", one "un chapeau", the "la porte", play "du piano / the
# piano", bare "anglais".
FRAMES = (
    ("h", "achète buy, acquiert/acquièrent purchase =buy", "fruit vegetable clothes text flower furniture toy",
     "some", "", "shop", "day"),
    ("h", "mange eat, dévore devour >eat", "?fruit vegetable food", "some", "speed noise company", "home table",
     "day"),
    ("c", "mange eat, dévore devour >eat", "?fruit vegetable food", "some", "speed noise company", "home study",
     "day"),
    ("ab", "mange eat, dévore devour >eat", "?prey", "some", "speed noise", "wild", "day year"),
    ("hc", "boit/boivent drink", "drink", "some", "speed company", "home", "day"),
    ("ab", "boit/boivent drink", "water", "some", "speed noise", "wild", "day"),
    ("hc", "lit/lisent read", "?text press", "some", "company", "home study", "day"),
    ("h", "écrit/écrivent write", "?letter", "some", "company", "home study", "day"),
    ("hc", "ouvre open, ferme close !open", "opening", "the", "noise", "", "day"),
    ("h", "répare repair, casse break !repair", "machine", "the", "", "work", "day"),
    ("h", "accepte accept, refuse refuse !accept", "offer", "the", "", "work", "day"),
    ("hc", "cache hide, dissimule conceal =hide, montre show !hide", "secret", "the", "", "home", "day"),
    ("h", "remplit/remplissent fill, vide empty !fill", "container", "the", "speed", "home", "day"),
    ("h", "gagne win, perd/perdent lose !win", "contest", "the", "", "map", "year"),
    ("h", "construit/construisent build, détruit/détruisent destroy !build", "building", "the", "", "farm",
     "year"),
    ("h", "félicite praise, critique criticize !praise", "colleague", "the", "", "work", "day"),
    ("h", "attend/attendent wait_for", "transport", "the", "company", "station", "day"),
    ("hc", "joue play", "instrument", "play", "skill company", "home", "day"),
    ("h", "parle speak", "language", "bare", "skill", "work", "day"),
    ("h", "étudie study", "science", "kind", "company", "study map", "day year"),
    ("hc", "dessine draw, esquisse sketch >draw", "?flower beast sight", "some", "company", "open", "day"),
    ("h", "conduit/conduisent drive", "vehicle", "one", "speed care", "map", "day"),
    ("h", "porte wear", "clothes", "one", "", "work table", "day year"),
    ("h", "regarde watch, observe observe =watch", "beast", "some", "company", "open", "day year"),
    ("h", "cultive grow", "fruit vegetable flower", "some", "", "farm", "year"),
    ("h", "choisit/choisissent choose, sélectionne select =choose", "clothes text flower fruit", "some",
     "speed", "shop", "day"),
    ("h", "visite visit", "sight", "some", "company", "map", "year"),
    ("h", "voyage travel", "", "", "means company", "map", "year"),
    ("h", "collectionne collect", "instrument toy text", "some", "", "map", ""),
    ("hc", "dort/dorment sleep", "", "", "skill", "home", "day"),
    ("ab", "dort/dorment sleep", "", "", "skill", "wild", "day year"),
    ("hc", "marche walk", "", "", "speed", "open", "day"),
    ("ab", "marche walk", "", "", "speed", "wild", "day year"),
    ("hc", "court/courent run", "", "", "speed", "open", "day"),
    ("a", "court/courent run", "", "", "speed", "wild", "day"),
    ("hca", "nage swim", "", "", "speed", "lake", "day year"),
    ("hc", "chante sing", "", "", "sound skill", "open stage", "day"),
    ("hc", "danse dance", "", "", "skill company", "stage home", "day"),
    ("hc", "rit/rient laugh, pleure cry !laugh", "", "", "sound", "home", "day"),
    ("h", "travaille work, se_repose rest !work", "", "", "company", "home farm", "day"),
    ("hc", "arrive arrive, part/partent leave !arrive", "", "", "hour company", "", "day"),
    ("b", "vole fly", "", "", "speed", "wild", "day year"),
    ("ab", "chasse hunt", "?game", "some", "speed noise", "wild", "day year"),
    ("h", "est_riche/riche be_rich, est_pauvre/pauvre be_poor !be_rich", "", "", "degree", "", ""),
    ("hc", "est_content/contente be_happy, est_heureux/heureuse be_glad =be_happy, "
     "est_triste/triste be_sad !be_happy", "", "", "degree", "home", "day"),
    ("hc", "est_calme/calme be_calm, est_nerveux/nerveuse be_nervous !be_calm", "", "", "degree", "home", "day"),
    ("ab", "est_calme/calme be_calm, est_nerveux/nerveuse be_nervous !be_calm", "", "", "degree", "wild", "day"),
    ("hc", "est_poli/polie be_polite, est_impoli/impolie be_rude !be_polite", "", "", "degree", "study", "day"),
)  # fmt: skip

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
