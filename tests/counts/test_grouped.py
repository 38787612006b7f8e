"""Tables of counts, as a GROUP BY of any engine gives them: the same distribution as that of the rows."""

import multiprocessing
import sqlite3
from collections import Counter, namedtuple
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_langimb import JointDistribution
from hf_langimb.data.spec import DataSpec

LANGUAGES = ["fr", "en", "fr", "de", "fr"]
LABELS = [10, 2, 2, 2, 10]  # in order of number, not of text
TRIPLES = [("fr", 10, 2), ("en", 2, 1), ("fr", 2, 1), ("de", 2, 1)]
LANGUAGE, LABEL, NUMBER = map(list, zip(*TRIPLES, strict=True))
COUNTED = JointDistribution(["de", "en", "fr"], [2, 10], [[1, 0], [1, 0], [1, 2]])
Reordered = namedtuple("Reordered", "label n language")


class SparkRow(tuple):
    """As pyspark's Row: a tuple whose class does not know the names."""

    __fields__ = ("label", "count", "language")


def counted(languages, labels):
    """The distribution of rows, nulls counted."""
    return JointDistribution.from_batches([(pa.array(languages), pa.array(labels))], count_nulls=True)


def everything(distribution):
    """All that a distribution is, with types."""
    labels = [(type(label), label) for label in distribution.labels]
    nulls = distribution.null_languages, distribution.null_labels
    return distribution.languages, labels, distribution.counts.tolist(), nulls


LABELS_OF_A_TYPE = [st.sampled_from(["a", "b", "10", "", "2"]), st.integers(-3, 12), st.booleans()]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_a_table_of_counts_gives_the_distribution_of_its_rows(data):
    label = st.none() | data.draw(st.sampled_from(LABELS_OF_A_TYPE))
    language = st.none() | data.draw(st.sampled_from([st.sampled_from(["en", "fr", "de"]), st.integers(8, 12)]))
    table = data.draw(st.lists(st.tuples(language, label, st.integers(0, 5)), min_size=1))
    rows = [entry[:2] for entry in table for _ in range(entry[2])]
    if rows:
        expected = everything(counted(*zip(*rows, strict=True)))
        assert everything(JointDistribution.from_counts(table)) == expected
        grouped = [(*pair, number) for pair, number in Counter(rows).items()]
        assert everything(JointDistribution.from_counts(grouped)) == expected
    else:
        with pytest.raises(ValueError, match="No rows to count"):
            JointDistribution.from_counts(table)


def frame(names=("language", "label", "n")):
    return pd.DataFrame(TRIPLES, columns=list(names))


def rows_of_sqlite():
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    pd.DataFrame({"language": LANGUAGES, "label": LABELS}).to_sql("data", connection, index=False)
    return connection.execute("SELECT count(*) AS n, label, language FROM data GROUP BY 2, 3").fetchall()


def groups(*names):
    return pd.DataFrame({names[0]: LANGUAGES, names[1]: LABELS}).groupby(list(names))


def with_categories():
    """Counts of all pairs of categories, many of them 0, and of one that no row has."""
    columns = {"language": pd.Categorical(LANGUAGES, ["xx", "fr", "en", "de"]), "label": LABELS}
    return pd.DataFrame(columns).groupby(["language", "label"], observed=False).size()


def of_polars():
    polars = pytest.importorskip("polars")
    return polars.DataFrame({"label": LABELS, "language": LANGUAGES}).group_by("label", "language").len()


TABLES = {
    "triples": lambda: TRIPLES,
    "lists": lambda: iter([list(row) for row in TRIPLES]),
    "one for each row": lambda: zip(LANGUAGES, LABELS, [1] * 5, strict=True),
    "numpy": lambda: np.array(TRIPLES, dtype=object),
    "floats": lambda: [(name, np.int8(label), float(n)) for name, label, n in TRIPLES],
    "decimals": lambda: [(name, label, Decimal(n)) for name, label, n in TRIPLES],
    "text": lambda: [(name, label, f" {n}") for name, label, n in TRIPLES],
    "mappings": lambda: [{"count": n, "label": label, "language": name} for name, label, n in TRIPLES],
    "named tuples": lambda: [Reordered(label, n, name) for name, label, n in TRIPLES],
    "spark": lambda: [SparkRow((label, n, name)) for name, label, n in TRIPLES],
    "sqlite": rows_of_sqlite,
    "arrow": lambda: pa.Table.from_pandas(frame().iloc[:, [2, 1, 0]], preserve_index=False),
    "arrow, upper case": lambda: pa.table({"N": NUMBER, "LABEL": LABEL, "LANGUAGE": LANGUAGE}),
    "arrow, by position": lambda: pa.table({"a": LANGUAGE, "b": LABEL, "c": NUMBER}),
    "arrow, one name": lambda: pa.table({"count": NUMBER, "lang": LANGUAGE, "stars": LABEL}),
    "pandas": frame,
    "pandas, selected": lambda: frame().iloc[::-1],
    "pandas, categories": lambda: frame().astype({"language": "category", "label": "category"}),
    "pandas, groups": lambda: groups("language", "label").size(),
    "pandas, other groups": lambda: groups("lang", "stars").size(),
    "pandas, groups with a name": lambda: groups("lang", "stars").size().to_frame("n"),
    "pandas, categories without rows": with_categories,
    "polars": of_polars,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_any_make_count_alike(name, recwarn):
    assert everything(JointDistribution.from_counts(TABLES[name]())) == everything(COUNTED)
    assert not recwarn.list


def test_two_processes_add_up():
    """Each counts half of the rows, with nulls, labels and languages that only one of them has."""
    randomness = np.random.default_rng(0)
    languages = [*randomness.choice(["en", "fr", "ja"], 5000), *["sw"] * 10, None]
    labels = ["z", None, *randomness.choice(["a", "b", "c"], 5009)]
    halves = []
    for part in (slice(0, 2500), slice(2500, None)):
        pairs = Counter(zip(languages[part], labels[part], strict=True))
        halves.append([(*pair, number) for pair, number in pairs.items()])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(JointDistribution.from_counts, halves, chunksize=1)
    assert (first.rows, second.rows) == (2499, 2510)  # of 2,500 and 2,511: one has no label, one no language
    assert everything(first + second) == everything(counted(languages, labels))
    assert first.languages != second.languages and first.labels != second.labels


def test_duckdb_counts_where_the_data_are(tmp_path):
    """The documented example: a Parquet file, also of two parts, counted as it is audited."""
    duckdb = pytest.importorskip("duckdb")
    randomness = np.random.default_rng(0)
    languages = pa.array(randomness.choice(["en", "fr", "ja"], 2000), mask=randomness.random(2000) < 0.01)
    labels = pa.array(randomness.integers(0, 12, 2000), mask=randomness.random(2000) < 0.01)
    rows = pa.table({"text": ["a, text"] * 2000, "language": languages, "label": labels})
    for name, part in (("data", rows), ("first", rows[:700]), ("second", rows[700:])):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    query = "SELECT language, label, count(*) AS n FROM '{}' GROUP BY ALL"
    (expected,) = DataSpec(str(tmp_path / "data.parquet")).counts().values()
    assert expected.null_languages and expected.null_labels
    with duckdb.connect() as connection:

        def count(name, query=query):
            return connection.sql(query.format(tmp_path / f"{name}.parquet"))

        assert everything(JointDistribution.from_counts(count("data").fetchall())) == everything(expected)
        assert everything(JointDistribution.from_counts(count("data"))) == everything(expected)
        first, second = (JointDistribution.from_counts(count(name).fetchall()) for name in ("first", "second"))
        assert everything(first + second) == everything(expected)
        # Without a name, and as the sum of other counts, which is a number of 128 bits.
        for number in ("count(*)", "sum(1)"):
            table = count("data", query.replace("count(*) AS n", number))
            assert everything(JointDistribution.from_counts(table)) == everything(expected)
        for suffix in ("csv", "parquet", "json"):
            path = tmp_path / f"counts.{suffix}"
            connection.sql(f"COPY ({query.format(tmp_path / 'data.parquet')}) TO '{path}'")
            (found,) = DataSpec(str(path), count_column="n").counts().values()
            assert everything(found) == everything(expected)


NUMBERS = "whole numbers of 0 or more .*; found {}: correct it"


def test_bad_tables_of_counts():
    for rows, message in (
        ([], "No rows to count"),
        ([("en", "a", 0)], "No rows to count"),
        *(([("fr", "a", n)], NUMBERS.format(n)) for n in (-1, 1.5, np.inf, True)),
        *(([("fr", "a", 3), ("en", "a", n)], NUMBERS.format("no value")) for n in (np.nan, None)),
        ([("en", "a", Decimal("0.5"))], NUMBERS.format(r"Decimal\('0.5'\)")),
        ([("en", "a", "many")], NUMBERS.format("'many'")),
        ([("en", "a", 10**15)] * 10, NUMBERS.format(r"1e\+16 in total")),
        ([("en", "a", 10**18)], NUMBERS.format(10**18)),
        ([("en", "a", [3])], NUMBERS.format(r"'\[3\]'")),
        ([("en", "a", 1), ("en", 1, 1)], "label column mixes types"),
        ([("en", 0.5, 1)], "label column .*double"),
        ([("en", ["a"], 1)], "label column has lists"),
        ([("en", "a", 2), ("en", "a")], r"Expected three columns.*found the row \('en', 'a'\): select"),
        ([{"language": "en", "label": "a", "n": 1}, {"language": "en", "label": "a", "m": 1}], "the row .*'m': 1"),
        ([{"language": "en", "label": "a", "n": 1}, ("en", "a", 1)], r"the row \('en', 'a', 1\)"),
        ({"language": ["en"], "label": ["a"], "n": [1]}, "the row language"),
        (pd.Series([3, 4]), "the columns .*'0'"),
        (frame().drop(columns="n"), r"the columns \['language', 'label'\]"),
        (frame().assign(text="t"), "the columns .*'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            JointDistribution.from_counts(rows)
