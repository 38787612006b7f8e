"""Templates of cards, pages and answers: one environment, which knows the tables of a run and how values are shown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from hf_langimb.console import one_line, shown
from hf_langimb.counts.audit import bits_text
from hf_langimb.results import changed, moved, tables, verdict
from hf_langimb.results.schema import FILE_NAME, Results
from hf_langimb.results.summary import MEASURED_ONLY

LONG_TABLE = 30  # rows that a card or the terminal shows at once


def render(template: str, **values: Any) -> str:
    """A template of this package with values; one that the template needs and that is not given is an error."""
    return str(_environment().get_template(f"{template}.jinja").render(values))


@contextmanager
def rendered_from(folder: str | Path) -> Iterator[None]:
    """Report results.json as damaged if rendering it fails: the schema does not compare values with each other."""
    from jinja2 import UndefinedError

    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, UndefinedError) as error:
        raise ValueError(
            f"{Path(folder, FILE_NAME)} is damaged ({type(error).__name__}: {error}): run the recipe again with this "
            "folder as --output_dir."
        ) from error


@cache
def _environment() -> Any:
    """Jinja's environment, made once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context

    environment = Environment(
        loader=PackageLoader("hf_langimb.results"),
        autoescape=lambda name: ".html" in (name or ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"tables": tables, "moved": moved, "verdict": verdict, "changed": changed}
    environment.filters |= {
        "number": lambda value, form=".3f": tables.interval_text(value, form=form),
        "percent": lambda share, digits=1: f"{100 * share:.{digits}f}%",
        "bits": bits_text,
        "table": pass_context(_table),
        "grid": pass_context(_grid),
        "one_line": one_line,
        "prose": lambda text: tables.escaped(one_line(text)),
        "folded": _folded,
        "first_rows": _first_rows,
        "unbroken": lambda text: re.sub(r"(\[[^\]]*,) ", "\\1\u00a0", text),
        "quoted": repr,
        "without_folders": _without_folders,
        "shown": shown,
        "plain": lambda name: tables.escaped(shown(name), brackets=r"[\[\]]"),
        "json": partial(json.dumps, ensure_ascii=False),
        "command": _command,
    }
    return environment


def _table(context: Any, cells: tables.Cells) -> str:
    """A table, as it is in the terminal, and with Markdown's escapes elsewhere."""
    return tables.table(*cells, plain=".txt" in context.name)


def _grid(context: Any, rows: Any, names: Any, columns: Any, form: str = ",") -> str:
    """A table of numbers by language and label."""
    return _table(context, tables.grid_cells(rows, names, columns, form))


def _folded(table: str) -> str:
    """A Markdown table, that of more than `LONG_TABLE` rows behind a line to click on."""
    rows = table.count("\n") - 1
    return table if rows <= LONG_TABLE else f"<details>\n<summary>{rows:,} rows</summary>\n\n{table}\n\n</details>"


def _first_rows(cells: tables.Cells) -> str:
    """A table in the terminal, of a long one its first rows."""
    more = len(cells[1]) - LONG_TABLE
    text = tables.table(cells[0], cells[1][:LONG_TABLE], plain=True)
    return text if more <= 0 else f"{text}\n({more:,} more rows are on the page)"


def _without_folders(name: Any) -> str:
    """The name of a dataset or model; of an absolute path, which tells others only where it was, the last part."""
    return Path(str(name)).name if Path(str(name)).is_absolute() else str(name)


def _command(results: Results) -> str:
    """The command that repeats a run of these results."""
    config, chosen = results["config"], dict(results.get("flags", {}))
    words = ["accelerate", "launch", f"recipes/{results['recipe']}.py"]
    if results["recipe"] == "evaluate":
        words += [config["model"], config["dataset"]]
    elif results["recipe"] in MEASURED_ONLY:
        words = ["langimb", results["recipe"], config["model"], config["dataset"], "--output-dir", "DIR"]
    elif results["recipe"] == "custom":
        data = chosen.pop("dataset_name", config.get("dataset_name", "DATASET"))
        words = ["langimb", "train", _without_folders(data)]
        words += ["--config", results["config_name"]] if results["config_name"] != "custom" else []
    else:
        words += ["--config", results["config_name"]]
    if results["recipe"] not in MEASURED_ONLY:
        chosen |= {"seeds": len(results["seeds"]), "seed": results["seeds"][0], "setups": list(results["setups"])}
    for key, value in chosen.items():
        words += [f"--{key}", *map(_without_folders, value if isinstance(value, list) else [value])]
    return one_line(shlex.join(words))
