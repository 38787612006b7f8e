"""Which data to read: `DataSpec` names a data set and its columns, and every path to data goes through its methods."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from hf_langimb.counts.distribution import JointDistribution


@dataclass(frozen=True)
class DataSpec:
    """A data set and what is read of it. Its methods raise ValueErrors that name the data set and what to do.

    Args:
        name: Hub id, folder (also of `save_to_disk`), or path of a .parquet, .csv, .tsv, .jsonl or .json file.
        config_names: configurations to read. Of several, each is one language: where their rows have no column
            `language` (as in `facebook/xnli`), it becomes the configuration's name, and the column `row` the place of
            a row in it, which is the id of a text and its translations where the configurations are parallel.
        split: one split. None means all of them for `read` and `counts`; test, else train, else the only one for
            `rows` and `texts`.
        text_columns: one column, or two for a pair; empty takes the usual names.
        language_column, label_column: string, integer, boolean or ClassLabel columns.
        id_column: has the same value for translations of one text.
    """

    name: str
    config_names: Sequence[str] = ()
    split: str | None = None
    text_columns: Sequence[str] = ()
    language_column: str = "language"
    label_column: str = "label"
    id_column: str | None = None

    @staticmethod
    def add_arguments(parser: ArgumentParser) -> None:
        """Add DATASET and the flags of a data set to a command."""
        flag: Any = parser.add_argument
        column = {"metavar": "COLUMN"}
        several: dict[str, Any] = {"nargs": "+", "default": []}
        flag("dataset", metavar="DATASET", help="Hub id, folder, or a .parquet, .csv or .jsonl file")
        configurations = "configurations of the data set; of several, each is one language (write them after DATASET)"
        flag("--config-name", **several, action="extend", metavar="NAME", help=configurations)
        flag("--split", help="one split (default: all of them for audit, else test or train)")
        flag("--language-column", **column, default="language", help="default: %(default)s")
        flag("--label-column", **column, default="label", help="default: %(default)s")
        flag("--text-column", **column, **several, help="one, or two for a pair (not used by audit)")
        flag("--id-column", **column, help="has one value for translations of one text (not used by audit)")

    @classmethod
    def from_options(cls, options: Namespace) -> DataSpec:
        """The data set that the flags of `add_arguments` name."""
        names = ("dataset", "config_name", "split", "text_column", "language_column", "label_column", "id_column")
        return cls(*(getattr(options, name) for name in names))

    def read(self) -> DatasetDict | Dataset:
        """All splits with all columns, or the split that is named; a file is a single `Dataset`."""
        from hf_langimb.data.reading import read

        return read(self)

    def counts(self) -> dict[str, JointDistribution]:
        """The joint distribution of language and label in each split; reads these two columns and caches nothing."""
        from hf_langimb.data.reading import count

        return count(self)

    def rows(self, first: int | None = None) -> Dataset:
        """Unchanged texts, and the columns `language`, `label` and `id` where the data set has them.

        Args:
            first: the first rows of each language; None keeps all.
        """
        from hf_langimb.data.rows import rows

        return rows(self, first)

    def texts(
        self, languages: Sequence[str] = (), first: int | None = None, *, language_columns: Sequence[str] = ()
    ) -> Dataset:
        """Texts with the same spacing in every language, `language` and `id`, one language after the other.

        Args:
            languages: those to keep, each with two rows or more; empty keeps all. A date before a language
                ("20231101.fr") is dropped.
            first: the first rows of each language; None keeps all. Of several configurations only these rows are
                fetched (from `wikimedia/wikipedia`, not its 20 GB).
            language_columns: the first of these that the data set has, instead of `language_column`.
        """
        from hf_langimb.data.rows import texts

        return texts(self, languages, first, language_columns or (self.language_column,))

    def standardised(
        self, dataset: Dataset, *, label_names: Sequence[str] = (), languages: Sequence[str] = ()
    ) -> Dataset:
        """Texts (under their names), `language` (string), `label` (ClassLabel) and `id` (else row numbers).

        Args:
            dataset: rows of this data set.
            label_names: label names in class order; empty takes the ClassLabel's order, else sorted values.
            languages: keep only these; empty keeps all.
        """
        from hf_langimb.data.rows import standardise

        return standardise(self, dataset, label_names, languages)
