"""The command-line flags of a dataset, without importing any library."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_langimb.data.spec import DataSpec

AUTO = "auto"  # in place of a number of rows: as many as it takes
TOLERANCE = 0.01  # with `AUTO`
LABELS_HELP = "names of the model's classes, in order, if its configuration calls them LABEL_0, LABEL_1, ..."
LABEL_COLUMNS_HELP = (
    "for several labels per text: one column of 0 and 1 per label, or a single column of lists of 0 and 1"
)
TOLERANCE_HELP = (
    "auto stops when each interval over rows is at most +/-X (a probability), or half as wide as that over seeds"
)


def add_data_flags(parser: ArgumentParser) -> None:
    """Add DATASET and the flags of a dataset to a command."""
    flag: Any = parser.add_argument
    column = {"metavar": "COLUMN"}
    several: dict[str, Any] = {"nargs": "+", "default": []}
    flag("dataset", metavar="DATASET", help="Hub id, folder, or a .parquet, .csv, .tsv, .json or .jsonl file")
    configurations = "configurations of the dataset; if several, one for each language (write them after DATASET)"
    flag("--config-name", **several, action="extend", metavar="NAME", help=configurations)
    flag("--split", help="one split (default: all of them for audit, else test or train)")
    flag(
        "--language-column", **column, default="language", help="default: %(default)s; without it, see --language-from"
    )
    flag("--label-column", **column, default="label", help="default: %(default)s")
    flag("--text-column", **column, **several, help="one, or two for a pair (not used by audit)")
    flag("--id-column", **column, help="has the same value for all translations of a text (not used by audit)")
    source = "take the language from folder names, file names or the keys of {language: text} (default: automatic)"
    flag("--language-from", choices=("folder", "file", "key"), help=source)
    quotes = "quotes in CSV files enclose fields (minimal) or are part of the text (none); default: detected"
    flag("--quoting", choices=("minimal", "none"), help=quotes)
    flag("--separator", metavar="CHARACTER", help="field separator of CSV files (default: comma; tab for .tsv)")
    flag("--encoding", help="of text files, such as latin-1 (default: the byte order mark, else utf-8)")
    dropped = "leave out rows without text, language or label (audit reports their number; other commands refuse them)"
    flag("--drop-null", action="store_true", help=dropped)


def add_classifier_flags(parser: ArgumentParser) -> None:
    """Add MODEL, DATASET, and which rows of it a classifier is measured on."""
    flag: Any = parser.add_argument
    flag("model", metavar="MODEL", help="Hub id or folder of a classifier or adapter")
    add_data_flags(parser)
    flag("--labels", nargs="+", default=[], metavar="NAME", help=LABELS_HELP)
    flag("--rows", type=int, default=0, help="use the first N rows of each language; 0: all (default)")
    flag("--batch-size", type=int, default=32, help="rows per device in a forward pass (default: %(default)s)")


def data_spec(options: Namespace) -> DataSpec:
    """The dataset that the flags of `add_data_flags` name."""
    from hf_langimb.data.spec import DataSpec

    names = ["dataset", "config_name", "split", "text_column", "language_column", "label_column", "id_column"]
    names += ["quoting", "separator", "encoding", "language_from", "drop_null"]
    return DataSpec(*(getattr(options, name) for name in names))


def name_of_data(dataset: str) -> str:
    """What results call a dataset: of a file or folder its name, without where it is on this machine."""
    return Path(dataset).resolve().name if Path(dataset).exists() else dataset


def number_or(word: str, meaning: str | None = None) -> Callable[[str], int | str | None]:
    """The type of a flag that is a number or one word, which becomes `meaning`."""

    def parse(text: str) -> int | str | None:
        """The number, or the meaning of the word."""
        if text != word and not text.removeprefix("-").isdecimal():
            raise ArgumentTypeError(f"expected a number or {word}, got {text!r}")
        return meaning if text == word else int(text)

    return parse


def above_zero(text: str) -> float:
    """The type of a flag that is a number above 0."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise ArgumentTypeError(f"expected a number above 0, got {text!r}")
