"""Counts of datasets whose texts have several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import datasets

from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.data import reading
from hf_langimb.data.reading import pick, readable
from hf_langimb.data.spec import DataSpec


def label_counts(spec: DataSpec, columns: Sequence[str]) -> dict[str, MultiLabelDistribution]:
    """Counts of several labels per text in each split of a dataset.

    Args:
        spec: the dataset.
        columns: of 0 and 1, one for each label, or a single one with lists of them.

    Raises:
        ValueError: names the dataset and what to do.
    """
    with readable(spec.name):
        if len(columns) == 1 and (found := _lists(spec, columns[0])):
            return found
        tables = {column: replace(spec, label_column=column).counts() for column in columns}
        splits = [split for split in tables[columns[0]] if all(split in of for of in tables.values())]
        return {
            split: MultiLabelDistribution.from_tables({column: of[split] for column, of in tables.items()})
            for split in splits
        }


def _lists(spec: DataSpec, column: str) -> dict[str, MultiLabelDistribution] | None:
    """Counts of a column of lists in each split; None where it has no lists."""
    configurations = spec.configurations()
    if reading.is_saved(spec.name):
        loaded = datasets.load_from_disk(spec.name)
        parts = [loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}]
    else:
        builders = [reading.builder_of(spec.name, config) for config in configurations]
        for builder in builders:
            builder.download_and_prepare()
        parts = [builder.as_dataset() for builder in builders]
    every = dict(parts[0])
    if len(parts) > 1:
        named = dict(zip(configurations, parts, strict=True))
        splits = reading.shared_splits(parts)
        every = {split: reading.stack({config: part[split] for config, part in named.items()}) for split in splits}
    if spec.split is not None:
        every = {spec.split: pick(every, spec.split)}
    for rows in every.values():
        require_columns(rows, {"language": spec.language_column, "label": column})
    if not all(isinstance(rows.features[column], datasets.List | datasets.LargeList) for rows in every.values()):
        return None
    options = {"language_column": spec.language_column, "label_columns": column}
    return {split: MultiLabelDistribution.from_dataset(rows, **options) for split, rows in every.items()}
