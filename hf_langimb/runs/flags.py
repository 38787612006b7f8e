"""What several command lines share: flags."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

DATASET = "Hub id, folder, or a .parquet, .csv or .jsonl file"


def add_dataset(command: ArgumentParser) -> None:
    """The arguments of every command that reads a data set."""
    command.add_argument("dataset", metavar="DATASET", help=DATASET)
    command.add_argument(
        "--config-name",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="configurations of the data set; of several, each is one language (write them after DATASET)",
    )
    command.add_argument(
        "--split", help="one split (audit: default all of them, one after the other; else test or train)"
    )
    command.add_argument("--language-column", default="language", metavar="COLUMN", help="default: %(default)s")
    command.add_argument("--label-column", default="label", metavar="COLUMN", help="default: %(default)s (audit)")
    command.add_argument(
        "--text-column", nargs="+", default=[], metavar="COLUMN", help="one, or two for a pair (where texts are read)"
    )
    command.add_argument(
        "--id-column", metavar="COLUMN", help="the same for translations of one text (where texts are read)"
    )


def chosen_rows(options: Namespace) -> dict[str, Any]:
    """What the flags of `add_dataset`, and --rows, say to `hf_langimb.data.reading.open_rows`."""
    return {
        "config_names": options.config_name,
        "split": options.split,
        "text_columns": options.text_column,
        "language_column": options.language_column,
        "label_column": options.label_column,
        "id_column": options.id_column,
        "rows": options.rows or None,
    }


def with_dashes(argument: str) -> str:
    """--label_column=x -> --label-column=x; values stay as they are."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
