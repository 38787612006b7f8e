"""Splits that are made and checked: groups stay together, cells are in every part, overlaps and odd names are said."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_langimb import JointDistribution
from hf_langimb.data.splits import (
    folded,
    make_splits,
    merge_languages,
    odd_cells,
    overlaps,
    spelling_text,
    spellings,
    stratify,
)

SHARES = [0.7, 0.2, 0.1]


def rows(texts, languages, labels, ids=None, names=("a", "b", "c")):
    """Rows with standard columns."""
    columns = {"text": list(texts), "language": list(languages), "label": list(labels)}
    columns["id"] = [str(i) for i in (range(len(columns["text"])) if ids is None else ids)]
    features = {name: Value("string") for name in columns} | {"label": ClassLabel(names=list(names))}
    return Dataset.from_dict(columns, features=Features(features))


def uneven(cell_rows):
    """Rows with different texts: {(language, label): their number}."""
    cells = [cell for cell, number in cell_rows.items() for _ in range(number)]
    return rows(map("text {}".format, range(len(cells))), *zip(*cells, strict=True))


def counts(dataset):
    """The number of rows of each cell that has any, {(language, label id): rows}."""
    found = JointDistribution.from_dataset(dataset)
    every = product(enumerate(found.languages), range(len(found.labels)))
    return {(name, j): int(found.counts[i, j]) for (i, name), j in every if found.counts[i, j]}


def contents(splits):
    return {name: part.to_dict() for name, part in splits.items()}


def test_folded_texts_differ_in_case_width_and_white_space_at_most():
    texts = ["Straße  1", " STRASSE\t１ ", "strasse\u00a01\n", "strasse 2", "ﬁn", "FIN", "", " \u3000"]
    keys = folded(pa.chunked_array([texts])).to_pylist()
    assert keys == ["strasse 1"] * 3 + ["strasse 2", "fin", "fin", "", ""]
    first, second = pa.chunked_array([["a b", "a", "A B"]]), pa.chunked_array([["c", "b c", "C "]])
    pairs = folded(first, second).to_pylist()
    assert pairs[0] == pairs[2] != pairs[1], "a pair is not its two texts in a row"
    assert len(folded(pa.chunked_array([], pa.string()))) == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=150),
    st.lists(st.floats(0.05, 1), min_size=2, max_size=3),
    st.integers(0, 9),
)
def test_no_group_is_divided_and_every_row_has_one_part(pairs, weights, seed):
    cells, groups = np.array(pairs).T
    groups = np.unique(groups, return_inverse=True)[1]
    parts = stratify(cells, groups, np.array(weights) / sum(weights), seed=seed)
    assert len(parts) == len(cells) and {*parts} <= {*range(len(weights))}
    assert len({*zip(groups, parts, strict=True)}) == len({*groups})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30).filter(any),
    st.sampled_from([SHARES, [0.8, 0.2], [0.9, 0.1], [0.4, 0.3, 0.3], [0.1, 0.6, 0.3]]),
    st.integers(0, 9),
)
def test_single_rows_give_each_part_its_share_of_every_cell(cell_rows, shares, seed):
    cells = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(cell_rows)), cell_rows))
    parts = stratify(cells, np.arange(len(cells)), shares, seed=seed)
    for cell, number in enumerate(cell_rows):
        found = np.bincount(parts[cells == cell], minlength=len(shares))
        assert found.sum() == number
        assert np.count_nonzero(found) == min(number, len(shares)), "every part has rows of the cell as far as they go"
        assert (found[: min(number, len(shares))] > 0).all(), "the first parts before the others"
        if number * min(shares) >= 1:
            assert (abs(found - number * np.array(shares)) < 1).all()


def test_roundings_of_cells_even_out_over_all_of_them():
    """Without it, cells of 14 rows give each validation 1 row (7%) and not 1.4."""
    parts = stratify(np.repeat(np.arange(100), 14), np.arange(1400), SHARES, seed=0)
    assert abs(np.bincount(parts) - 1400 * np.array(SHARES)).max() <= 2


def test_translations_stay_together_and_parts_have_their_shares():
    """400 items in 5 of 6 languages each: no two items need have the same cells."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=400, p=[0.6, 0.3, 0.1])
    items = [(i, language) for i in range(400) for language in rng.choice([*"uvwxyz"], 5, replace=False)]
    ids, languages = zip(*items, strict=True)
    source = rows([f"{language} {i}" for i, language in items], languages, labels[list(ids)], ids)
    made, _ = make_splits(DatasetDict(train=source), ["text"], has_ids=True)
    of_part = [set(part["id"]) for part in made.values()]
    assert sum(map(len, of_part)) == len(set.union(*of_part)) == 400
    available = counts(source)
    for name, share in {"train": 0.7, "test": 0.2, "validation": 0.1}.items():
        found = counts(made[name])
        assert found.keys() == available.keys()
        assert len(made[name]) == pytest.approx(share * len(source), abs=40)
        off = [found[cell] - share * number for cell, number in available.items()]
        assert np.abs(off).max() < 8, (name, off)
    separate, _ = make_splits(DatasetDict(train=source), ["text"], has_ids=False)
    assert not set(separate["train"]["id"]).isdisjoint(separate["test"]["id"]), "row numbers are no ids"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 30), st.integers(0, 30)), min_size=40, max_size=90))
def test_rows_linked_by_texts_and_ids_are_in_one_part(found):
    texts = [f"{'T' if i % 2 else 't'}ext  {text}" for i, (_, text, _) in enumerate(found)]
    source = rows(texts, [language for language, *_ in found], [0] * len(found), [i for *_, i in found])
    try:
        made, _ = make_splits(DatasetDict(train=source), ["text"], has_ids=True, test_share=0.3, validation_share=0.3)
    except ValueError as error:
        assert "leave no row for" in str(error)
        return
    assert sum(map(len, made.values())) == len(source)
    for key in (lambda row: row["id"], lambda row: row["text"].casefold()):
        parts = [{key(row) for row in part} for part in made.values()]
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_only_missing_splits_are_made_the_same_for_the_same_seed():
    source, other = uneven({("en", 0): 60, ("fr", 1): 40}), uneven({("en", 0): 5})
    both, (sentence,) = make_splits(DatasetDict(train=source), ["text"], has_ids=True)
    assert {name: len(part) for name, part in both.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sentence == (
        "No test and no validation split: 20 rows (20%) for test and 10 rows (10%) for validation were taken from the "
        "100 training rows; rows with the same text or id stay in one split."
    )
    assert both["train"].features == source.features
    again, _ = make_splits(DatasetDict(train=source), ["text"], has_ids=True)
    assert contents(both) == contents(again)
    seeded, _ = make_splits(DatasetDict(train=source), ["text"], has_ids=True, seed=1)
    assert contents(both) != contents(seeded)
    for name, sizes in {"test": (90, 10, 5), "validation": (80, 5, 20)}.items():
        made, (sentence,) = make_splits(DatasetDict(train=source) | {name: other}, ["text"], has_ids=False)
        assert tuple(map(len, made.values())) == sizes and made[name] is other
        assert sentence.startswith("No validation split: 10" if name == "test" else "No test split: 20")
        assert sentence.endswith("; rows with the same text stay in one split.")
    complete = DatasetDict(train=source, test=other, validation=other)
    assert make_splits(complete, ["text"], has_ids=True) == (complete, [])


def test_small_cells_are_in_train_first_and_lacking_ones_are_named():
    source = uneven({("en", 0): 50, ("fr", 0): 1, ("fr", 1): 2, ("sw", 2): 3})
    made, (_, test, validation) = make_splits(DatasetDict(train=source), ["text"], has_ids=True)
    assert counts(made["test"]).keys() == {("en", 0), ("fr", 1), ("sw", 2)}
    assert counts(made["validation"]).keys() == {("en", 0), ("sw", 2)}
    assert counts(made["train"]).keys() == counts(source).keys()
    assert test == "The test split has no rows in 1 of 4 cells of language and label: (fr, a)."
    assert validation == "The validation split has no rows in 2 of 4 cells of language and label: (fr, a), (fr, b)."


def test_rows_that_cannot_be_divided_are_refused():
    one_id = rows("abcdef", ["en", "fr"] * 3, [0, 1] * 3, [7] * 6)
    with pytest.raises(ValueError, match=r"6 training rows leave no row for test \(rows with the same text or id"):
        make_splits(DatasetDict(train=one_id), ["text"], has_ids=True)
    assert len(make_splits(DatasetDict(train=one_id), ["text"], has_ids=False)[0]["test"]) == 2
    for shares in ({"test_share": 0}, {"test_share": 0.6, "validation_share": 0.4}):
        with pytest.raises(ValueError, match="--test_share and --validation_share must be above 0, with a sum below 1"):
            make_splits(DatasetDict(train=one_id), ["text"], has_ids=False, **shares)


def test_overlaps_are_counted_in_test_rows():
    train = rows(["One", "two", "two", "three"], ["en"] * 4, [0] * 4, [1, 2, 2, 3])
    validation = rows(["four"], ["en"], [0], [4])
    test = rows(["one ", " ONE", "one", "Two", "six"], ["fr"] * 5, [0] * 5, [9, 3, 8, 7, 4])
    splits = DatasetDict(train=train, validation=validation, test=test)
    texts = ["4 of 5 test rows (80%) have the same text as a train row: results on these rows may be too optimistic."]
    note = "ignore this if each split numbers its rows itself"
    assert overlaps(splits, ["text"], has_ids=False) == texts
    assert overlaps(splits, ["text"], has_ids=True) == [
        *texts,
        *(
            f"1 of 5 test rows (20%) have the same id as a {name} row: results on these rows may be too "
            f"optimistic; {note}."
            for name in ("train", "validation")
        ),
    ]
    many = rows(["one", *map(str, range(1999))], ["en"] * 2000, [0] * 2000)
    (rare,) = overlaps(DatasetDict(train=train, validation=validation, test=many), ["text"], has_ids=False)
    assert rare.startswith("1 of 2,000 test rows (less than 0.1%)")
    made, _ = make_splits(DatasetDict(train=uneven({("en", 0): 30})), ["text"], has_ids=True)
    assert overlaps(made, ["text"], has_ids=True) == []


def test_spellings_of_one_language_are_found_and_merged_when_asked():
    names = ["zh", "ZH", "zh-CN", "zh_Hans", "pt", "zho_Hans", "Old English", "old_english", "Old Norse", "fr", "frr"]
    groups = spellings([*names, "zh"])
    assert groups == [["Old English", "old_english"], ["ZH", "zh", "zh-CN", "zh_Hans"]]
    assert spelling_text(groups) == (
        "Languages that may be the same under different names: Old English = old_english, ZH = zh = zh-CN = zh_Hans; "
        "--merge_languages gives each group one name."
    )
    assert spelling_text([]) == "" and spellings(["de-en", "fr-en", "tr", "trv"]) == []
    train = rows("abcde", ["zh", "zh-CN", "fr", "Old English", "ZH"], [0, 1, 2, 0, 1])
    test = rows("xyz", ["zh", "zh_Hans", "old_english"], [0, 1, 2])
    merged = merge_languages(DatasetDict(train=train, test=test), groups)
    assert list(merged["train"]["language"]) == ["zh", "zh", "fr", "Old English", "zh"], "zh has more rows than ZH"
    assert list(merged["test"]["language"]) == ["zh", "zh", "Old English"], "equally many rows: the first in order"
    assert merged["train"].features == train.features
    assert merged["train"].remove_columns("language").to_dict() == train.remove_columns("language").to_dict()


def test_odd_cells_are_named():
    train = uneven({("en", 0): 9, ("en", 1): 9, ("fr", 0): 1, ("fr", 2): 3, ("ga", 0): 1, ("de", 0): 2})
    others = uneven({(name, 0): 2 for name in ("en", *"tuvwxyz")})
    assert odd_cells(DatasetDict(train=train, validation=train, test=others)) == [
        "Languages with only one training row: ga.",
        "Languages without training rows (only in test): t, u, v, w, x, and 2 more.",
        "Labels that occur in only one language of the training data: b (en), c (fr).",
    ]
    even = uneven({("en", 0): 2, ("en", 1): 2})
    assert odd_cells(DatasetDict(train=even, validation=even, test=even)) == [], "one language is no contrast"
