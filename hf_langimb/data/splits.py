"""Splits of a user's data: create missing ones, and report what makes given ones misleading.

All functions take rows with standard columns (`DataSpec.standardized`) and report as sentences.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo, Value
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_langimb.console import listed, shown
from hf_langimb.counts.columns import encode_column
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import Counts, Floats
from hf_langimb.data.rows import arrow_columns
from hf_langimb.data.sources import CODE

_BLOCK = 100_000  # rows whose texts are Python strings at once


def folded(*texts: Any) -> pa.ChunkedArray:
    """The key of each row's text or texts: rows with the same key differ only in case, character width or white space.

    Args:
        texts: Arrow columns of strings, without nulls.
    """
    columns = [_joined(column) for column in texts]
    blocks = []
    for start in range(0, len(columns[0]), _BLOCK):
        rows = zip(*(column.slice(start, _BLOCK).to_pylist() for column in columns), strict=True)
        # \x1f is white space, so that no folded text has it
        blocks.append(pa.array(("\x1f".join(map(_fold, row)) for row in rows), pa.large_string()))
    return pa.chunked_array(blocks, pa.large_string())


def _fold(text: str) -> str:
    """NFKC, case folded, one space between words."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _joined(column: Any) -> Any:
    """A column of strings in one chunk."""
    return column.cast(pa.large_string()).combine_chunks()


def make_splits(
    splits: DatasetDict,
    text_columns: Sequence[str],
    *,
    has_ids: bool,
    seed: int = 0,
    validation_share: float = 0.1,
    test_share: float = 0.2,
) -> tuple[DatasetDict, list[str]]:
    """Train, validation and test; those that are missing are taken from train (see `stratify`).

    Rows with the same folded text or the same id stay in one part. `overlaps` compares with the splits that are given.

    Args:
        has_ids: whether the ids are the user's; else they are row numbers.
        validation_share, test_share: of the training rows, for a split that is missing.

    Returns:
        the splits, and sentences: what was taken, and which cells (language, label) a part lacks.

    Raises:
        ValueError: shares that leave nothing for train, or a part without rows.
    """
    given = {"test": test_share, "validation": validation_share}
    shares = {name: share for name, share in given.items() if name not in splits}
    if not shares:
        return splits, []
    if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
        found = " and ".join(f"{share:g} for {name}" for name, share in shares.items())
        raise ValueError(f"--test_share and --validation_share must be above 0, with a sum below 1, got {found}.")
    source = splits["train"]
    counted = JointDistribution.from_dataset(source)
    cells, groups = _cells(source, counted), _groups(source, text_columns, has_ids)
    parts = {"train": 1 - sum(shares.values()), **shares}
    chosen = stratify(cells, groups, [*parts.values()], seed=seed)
    same = "text or id" if has_ids else "text"
    made = _divide(source, chosen, [*parts], same)
    lacking = [_lacking(name, cells[chosen == i], counted) for i, name in enumerate(parts)]
    every = DatasetDict({name: made.get(name, splits.get(name)) for name in ("train", "validation", "test")})
    return every, [_taken(shares, made, same), *filter(None, lacking)]


def _divide(source: Dataset, chosen: Counts, names: Sequence[str], same: str) -> dict[str, Dataset]:
    """The rows of each part, {name: rows}, from the number of the part of each row."""
    table, info = source.with_format("arrow")[:], DatasetInfo(features=source.features)
    if empty := [name for i, name in enumerate(names) if i not in chosen]:
        raise ValueError(
            f"The {len(source):,} training rows leave no row for {empty[0]} (rows with the same {same} stay in one "
            f"split): add rows with different texts{' and ids' if 'id' in same else ''}, or a {empty[0]} split."
        )
    # not `select`, whose rows are read one by one
    return {name: Dataset(table.filter(pa.array(chosen == i)), info=info) for i, name in enumerate(names)}


def _taken(missing: Iterable[str], made: Mapping[str, Dataset], same: str) -> str:
    """A sentence on the splits that were missing."""
    total = sum(map(len, made.values()))
    taken = [f"{len(made[name]):,} rows ({_percent(len(made[name]), total)}) for {name}" for name in missing]
    return (
        f"No {' and no '.join(missing)} split: {' and '.join(taken)} were taken from the {total:,} training rows; rows "
        f"with the same {same} stay in one split."
    )


def _cells(dataset: Dataset, counted: JointDistribution) -> Counts:
    """The cell (language, label) of each row, int64[N], as a position in the counts."""
    languages, labels = arrow_columns(dataset, "language", "label")
    return encode_column(languages, "language")[1] * len(counted.labels) + labels.to_numpy()


def _lacking(name: str, cells: Counts, counted: JointDistribution) -> str:
    """A sentence on the cells of the data that have no row in a part; empty where there are none."""
    found = np.bincount(cells, minlength=counted.counts.size).reshape(counted.counts.shape)
    missing = np.argwhere((found == 0) & (counted.counts > 0)).tolist()
    names = listed(f"({shown(counted.languages[i])}, {shown(counted.labels[j])})" for i, j in missing)
    cells_of_all = np.count_nonzero(counted.counts)
    return (
        f"The {name} split has no rows in {len(missing):,} of {cells_of_all:,} cells of language and label: {names}."
        if missing
        else ""
    )


def _groups(dataset: Dataset, text_columns: Sequence[str], has_ids: bool) -> Counts:
    """The group of each row, int[N]: rows with the same folded text, or the same id, also through other rows."""
    texts = _codes(folded(*arrow_columns(dataset, *text_columns)))
    if not has_ids:
        return texts
    ids = _codes(*arrow_columns(dataset, "id")) + texts.max() + 1
    graph = coo_array((np.ones(len(texts)), (texts, ids)), shape=(ids.max() + 1,) * 2)
    groups: Counts = connected_components(graph, directed=False)[1][texts]
    return groups


def _codes(column: Any) -> Counts:
    """A number from 0 up for each distinct string, int64[N]."""
    return pc.dictionary_encode(_joined(column)).indices.to_numpy().astype(np.int64)


def stratify(cells: Counts, groups: Counts, shares: Sequence[float], *, seed: int) -> Counts:
    """Divide rows into parts so that each part has its share of every cell and no group is divided.

    Groups with the same rows per cell are interchangeable, so each part takes its share of them. The groups left over
    are divided one by one, as in iterative stratification (Sechidis et al. 2011): those with the rarest cells first,
    each to the part that lacks most of its rows in the group's cells.

    Args:
        cells, groups: of each row, int[N]; every group from 0 to the largest has rows.
        shares: of the parts, sum 1. If a cell has fewer rows than there are parts, the first parts get one row each.
        seed: of the choice of groups.

    Returns:
        int64[N], the part of each row. If groups are single rows, each part has its share of every cell rounded up or
        down; of a cell so small that a share is less than a row, one row as far as they go.
    """
    rng = np.random.default_rng(seed)
    rows = np.bincount(cells)
    wanted = _wanted(rows, np.array(shares), rng)
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    sorted_cells = cells[order]

    keys = rng.random(len(sizes))
    codes = rng.integers(1 << 63, size=len(rows), dtype=np.uint64)  # their sum tells which cells a group has
    kinds = np.add.reduceat(codes[sorted_cells], starts)
    expected = np.add.reduceat((wanted / np.maximum(rows, 1)[:, None])[sorted_cells], starts) / sizes[:, None]
    parts = _divided(kinds, expected, keys)  # the number of parts: left over
    assigned = parts[groups] < len(shares)
    taken = np.bincount((cells * len(shares) + parts[groups])[assigned], minlength=wanted.size)
    rarest = np.minimum.reduceat(rows[sorted_cells], starts)
    left = np.lexsort((keys, -sizes, rarest))
    left = left[parts[left] == len(shares)]
    members = [sorted_cells[starts[group] : starts[group] + sizes[group]] for group in left]
    parts[left] = _iterative(wanted, wanted - taken.reshape(wanted.shape), members)
    return parts[groups]


def _divided(kinds: Counts, shares: Floats, keys: Floats) -> Counts:
    """The part of each group, int64[G], if it is among those of its kind that the parts take; else their number.

    Args:
        kinds: [G], equal where groups have the same cells.
        shares: of the parts in each group's kind, [G, parts].
        keys: the random order of groups, [G].
    """
    _, first, kind, alike = np.unique(kinds, return_index=True, return_inverse=True, return_counts=True)
    quota = np.floor(alike[:, None] * shares[first] + 1e-9)
    rank = np.empty(len(kinds), dtype=np.int64)
    rank[np.lexsort((keys, kind))] = np.arange(len(kinds)) - np.repeat(np.cumsum(alike) - alike, alike)
    parts: Counts = (rank[:, None] >= quota.cumsum(axis=1)[kind]).sum(axis=1)
    return parts


def _iterative(wanted: Counts, need: Counts, groups: Sequence[Counts]) -> list[int]:
    """The part of each group, one after the other: that which lacks most of the rows that it wants.

    Summed over the group's rows; a row of a rare cell weighs more.

    Args:
        wanted: rows of each part in each cell, int64[cells, parts].
        need: those of them that the parts do not have yet; changed.
        groups: the cells of each group's rows.
    """
    weights = 1 / np.maximum(wanted * wanted.sum(axis=1, keepdims=True), 1)
    parts = []
    for cells in groups:
        parts.append(int((need[cells] * weights[cells]).sum(axis=0).argmax()))
        np.subtract.at(need[:, parts[-1]], cells, 1)
    return parts


def _wanted(rows: Counts, shares: Floats, rng: np.random.Generator) -> Counts:
    """Rows of each part in each cell, int64[cells, parts].

    Shares are rounded up or down so that the parts have their shares of all cells together as well.
    """
    least = (rows[:, None] > np.arange(len(shares))).astype(np.int64)
    above = np.maximum(rows[:, None] * shares - 1, 0)
    rest = rows - least.sum(axis=1)
    exact = least + rest[:, None] * above / np.maximum(above.sum(axis=1), 1)[:, None]
    wanted = np.floor(exact + 1e-9).astype(np.int64)
    behind = np.zeros(len(shares))
    for cell in rng.permutation(len(rows)):
        fractions = exact[cell] - wanted[cell]
        order = np.argsort(-np.where(fractions > 1e-9, fractions + behind, -np.inf), kind="stable")
        wanted[cell, order[: rows[cell] - wanted[cell].sum()]] += 1
        behind += rows[cell] * shares - wanted[cell]
    return wanted


def overlaps(splits: DatasetDict, text_columns: Sequence[str], has_ids: bool) -> list[str]:
    """Sentences on test rows whose folded text or id is also in train or validation; none is removed."""
    keys = {"text": {name: folded(*arrow_columns(rows, *text_columns)) for name, rows in splits.items()}}
    if has_ids:
        keys["id"] = {name: _joined(*arrow_columns(rows, "id")) for name, rows in splits.items()}
    sentences = []
    for what, of_split in keys.items():
        test = of_split["test"]
        for name in ("train", "validation"):
            shared = pc.sum(pc.is_in(test, value_set=pc.unique(of_split[name]))).as_py()
            if shared:
                note = "; ignore this if each split numbers its rows itself" if what == "id" else ""
                count = f"{shared:,} of {len(test):,} test rows ({_percent(shared, len(test))})"
                sentences.append(
                    f"{count} have the same {what} as a {name} row: results on these rows may be too optimistic{note}."
                )
    return sentences


def spellings(languages: Iterable[str]) -> list[list[str]]:
    """Groups of names that may be one language, sorted.

    Codes with the same primary subtag (zh, ZH, zh-CN, zh_Hans), and names that are equal without case, spaces,
    hyphens and underscores.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(languages)):
        key = _fold(name)
        code = re.fullmatch(CODE, key, re.IGNORECASE)
        groups.setdefault(re.split("[-_]", key)[0] if code else re.sub(r"[-_\s]", "", key), []).append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


def spelling_text(groups: Sequence[Sequence[str]], merged: bool = False) -> str:
    """A sentence on the groups of `spellings`, and whether they were merged; empty where there are none."""
    if not groups:
        return ""
    named = [" = ".join(map(shown, group)) for group in groups]
    done = "they were merged" if merged else "--merge_languages gives each group one name"
    return f"Languages that may be the same under different names: {listed(named)}; {done}."


def merge_languages(splits: DatasetDict, groups: Sequence[Sequence[str]], known: Collection[str] = ()) -> DatasetDict:
    """The same rows with one name for each group: a `known` one, else the shortest, of those the one with most rows."""
    columns = {split: _joined(*arrow_columns(dataset, "language")) for split, dataset in splits.items()}
    rows = Counter[str]()
    for column in columns.values():
        rows.update({found["values"]: found["counts"] for found in column.value_counts().to_pylist()})
    names = {
        old: min(group, key=lambda name: (name not in known, len(name), -rows[name], name))
        for group in groups
        for old in group
    }
    merged = DatasetDict()
    for split, dataset in splits.items():
        encoded = columns[split].dictionary_encode()
        values = pa.array([names.get(old, old) for old in encoded.dictionary.to_pylist()], pa.string())
        renamed = dataset.remove_columns("language").add_column(
            "language", values.take(encoded.indices), feature=Value("string")
        )
        merged[split] = renamed.select_columns(dataset.column_names)
    return merged


def odd_cells(splits: DatasetDict) -> list[str]:
    """Sentences on languages with one training row or none, and on labels that only one language has in train."""
    train = JointDistribution.from_dataset(splits["train"])
    others = {name: set(splits[name].unique("language")) for name in ("validation", "test")}
    unseen = sorted(set.union(*others.values()) - {*train.languages})
    where = " and ".join(name for name, languages in others.items() if not languages.isdisjoint(unseen))
    once = [name for name, rows in zip(train.languages, train.counts.sum(axis=1), strict=True) if rows == 1]
    used = train.counts > 0
    single = np.flatnonzero(used.sum(axis=0) == 1) if len(train.languages) > 1 else ()
    alone = [f"{train.labels[j]} ({train.languages[int(used[:, j].argmax())]})" for j in single]
    counted = {name: JointDistribution.from_dataset(splits[name]).counts.sum(axis=0) for name in ("validation", "test")}
    missing = [j for j in np.flatnonzero(~used.any(axis=0)) if any(rows[j] for rows in counted.values())]
    untrained = [str(train.labels[j]) for j in missing]
    elsewhere = [name for name, rows in counted.items() if any(rows[j] for j in missing)]
    found = (
        (once, "Languages with only one training row"),
        (unseen, f"Languages without training rows (only in {where})"),
        (alone, "Labels that occur in only one language of the training data"),
        (untrained, f"Labels without training rows (only in {' and '.join(elsewhere)})"),
    )
    return [f"{what}: {listed(map(shown, names))}." for names, what in found if names]


def _percent(part: int, whole: int) -> str:
    """A share in percent; never 0% of something."""
    return "less than 0.1%" if part / whole < 0.001 else f"{100 * part / whole:.3g}%"
