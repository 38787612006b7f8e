"""The command-line flags of a data set, without importing any library."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_langimb.data.spec import DataSpec


def add_data_flags(parser: ArgumentParser) -> None:
    """Add DATASET and the flags of a data set to a command."""
    flag: Any = parser.add_argument
    column = {"metavar": "COLUMN"}
    several: dict[str, Any] = {"nargs": "+", "default": []}
    flag("dataset", metavar="DATASET", help="Hub id, folder, or a .parquet, .csv or .jsonl file (also .gz)")
    configurations = "configurations of the data set; of several, each is one language (write them after DATASET)"
    flag("--config-name", **several, action="extend", metavar="NAME", help=configurations)
    flag("--split", help="one split (default: all of them for audit, else test or train)")
    flag("--language-column", **column, default="language", help="default: %(default)s, else as --language-from finds")
    flag("--label-column", **column, default="label", help="default: %(default)s")
    flag("--text-column", **column, **several, help="one, or two for a pair (not used by audit)")
    flag("--id-column", **column, help="has one value for translations of one text (not used by audit)")
    flag("--language-from", choices=("folder", "file", "key"), help="take it from folders, file names or keys of texts")
    flag("--quoting", choices=("minimal", "none"), help="in csv, quotes enclose fields, or are text (default: as fits)")
    flag("--separator", metavar="CHARACTER", help="of csv files (default: , and of .tsv \\t)")
    flag("--encoding", help="of text files, such as latin-1 (default: utf-8, or by the byte order mark)")
    dropped = "leave out rows without text, language or label (audit counts them; else they are refused)"
    flag("--drop-null", action="store_true", help=dropped)


def data_spec(options: Namespace) -> DataSpec:
    """The data set that the flags of `add_data_flags` name."""
    from hf_langimb.data.spec import DataSpec

    names = ["dataset", "config_name", "split", "text_column", "language_column", "label_column", "id_column"]
    names += ["quoting", "separator", "encoding", "language_from", "drop_null"]
    return DataSpec(*(getattr(options, name) for name in names))
