"""CLDR names: what territories, scripts, units, currencies and languages are called in many languages.

The names come with the library Babel, which contains the Unicode Common Locale Data Repository; nothing is downloaded.
A text is a name, and its label is what it names: "Norvège" in French is a territory. The label must be predicted from
the language's own words (dollar, per, alphabet, ...), because no concept is in two splits.

The counting rule: one locale per language, the one that is named by a language alone (`zh`, not `zh_Hant`), with the
names that Babel gives for it; of a unit the long name, else the short one; without names that are the code itself; a
text that names several concepts of one kind in a language is one row. If a language lacks a name, Babel gives an
inherited one, as most software shows it: many short names of units ("kWh") from CLDR's root, and all names of Norwegian
Bokmål (`nb`) and Haitian (`ht`) from Norwegian and French. Inherited names cause most of the skew in small languages.

| Babel 2.18 | languages | names | mutual information | empty cells |
|---|---|---|---|---|
| `names(1000)` | 129 | 174,681 | .023 bits | 0 |
| `names(500)` | 213 | 225,277 | .117 bits | 55 |
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

logger = logging.getLogger(__name__)

# {label: Babel's key}. The first and the last have the most names: plans that are skewed take most rows from them.
KINDS = {
    "territory": "territories",
    "script": "scripts",
    "unit": "unit_display_names",
    "currency": "currency_names",
    "language": "languages",
}
LABELS = tuple(KINDS)
LEAST = {"large": 1000, "all": 500}  # names in each language
SHARES = {"train": 0.65, "validation": 0.1, "test": 0.25}  # of the concepts of each kind


def names(least: int = 500) -> Dataset:
    """All names in the languages that have at least `least`: `text`, `language`, `label` and `id` (the concept).

    The concept "territory:NO" has the same id in all languages. Logs how many texts occur in several languages.

    Raises:
        ValueError: Babel is not installed, or no language has so many names.
    """
    try:
        from babel.localedata import locale_identifiers
    except ImportError:
        raise ValueError(
            'CLDR names need Babel, which is not installed: run pip install -e ".[cldr]" in the clone of hf_langimb.'
        ) from None
    languages = sorted(name for name in locale_identifiers() if "_" not in name)
    rows = [(text, language, label, f"{label}:{code}") for language in languages for text, label, code in _of(language)]
    table = pd.DataFrame(rows, columns=["text", "language", "label", "id"])
    table = table.drop_duplicates(["text", "language", "label"])
    table = table[table.groupby("language")["text"].transform("size") >= least]
    if table.empty:
        raise ValueError(f"No language has {least:,} CLDR names: most of the large ones have about 1,500.")
    logger.info(shared_texts(table))
    features = Features(dict.fromkeys(table, Value("string")) | {"label": ClassLabel(names=list(LABELS))})
    return Dataset.from_pandas(table.assign(label=table["label"].map(LABELS.index)), features, preserve_index=False)


def _of(language: str) -> Iterator[tuple[str, str, str]]:
    """(name, label, code) of all that has a name in a language, by label and code."""
    from babel.localedata import load

    data = load(language)
    for label, key in KINDS.items():
        for code, name in sorted(data[key].items()):
            if label == "unit":
                name = next((name[form] for form in ("long", "short") if isinstance(name.get(form), str)), None)
            if name and name != code:
                yield name, label, code


def shared_texts(table: pd.DataFrame) -> str:
    """How many of the texts occur in several languages, as a sentence."""
    languages = table.groupby("text")["language"].nunique()
    several = languages.index[languages > 1]
    return (
        f"{len(several):,} of {len(languages):,} texts occur in several languages "
        f"({table['text'].isin(several).sum():,} of {len(table):,} rows)."
    )


def splits(names: Dataset, seed: int = 0) -> DatasetDict:
    """Training, validation and test rows that share no concept, and no text, in any language.

    Concepts that share a text stay together: in some language "Vai" is both a script and a language. The concepts of
    each kind are divided in the same shares (`SHARES`).
    """
    table = names.to_pandas()
    texts, ids = (pd.factorize(table[column])[0] for column in ("text", "id"))
    nodes = ids.max() + texts.max() + 2  # concepts, then texts
    graph = coo_array((np.ones(len(ids)), (ids, ids.max() + 1 + texts)), shape=(nodes, nodes))
    groups = connected_components(graph, directed=False)[1][: ids.max() + 1]
    members = np.zeros((groups.max() + 1, len(LABELS)), dtype=np.int64)  # concepts of a group, by kind
    np.add.at(members, (groups, table.groupby(ids)["label"].first()), 1)
    part = np.empty(len(members), dtype=np.int64)
    generator = np.random.default_rng(seed)
    bounds = np.cumsum([*SHARES.values()])[:-1]
    for composition in np.unique(members, axis=0):
        alike = generator.permutation(np.flatnonzero((members == composition).all(axis=1)))
        part[alike] = np.searchsorted(bounds, (np.arange(len(alike)) + generator.random()) / len(alike), side="right")
    of_row = part[groups[ids]]
    return DatasetDict({name: names.select(np.flatnonzero(of_row == place)) for place, name in enumerate(SHARES)})


def load(part: str = "large", seed: int = 0) -> DatasetDict:
    """The splits of the languages with at least 1,000 names (`large`) or 500 (`all`).

    Raises:
        ValueError: no such part, or Babel is not installed.
    """
    if part not in LEAST:
        raise ValueError(f"CLDR names have the configurations {' and '.join(LEAST)}, got {part!r}.")
    return splits(names(LEAST[part]), seed)
