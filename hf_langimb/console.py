"""How programs start and end, in one process or several, their progress bars, and data in their sentences."""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from hf_langimb.files import names_the_file

NAMED = 5  # texts that `listed` shows


def one_line(text: Any) -> str:
    """A text on one line, without control characters."""
    return re.sub(r"\s*[\x00-\x1f\x7f-\x9f]\s*", " ", str(text)).strip()


def shown(name: Any) -> str:
    r"""A name of a language or label, in which what cannot be seen is an escape (\n, \u202e): no two look alike."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
    return re.sub(r"^ | $|(?<= ) ", r"\\x20", text)


def listed(texts: Iterable[str]) -> str:
    """The first texts, and how many more there are."""
    every = list(texts)
    more = f", and {len(every) - NAMED:,} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more


def with_dashes(argument: str) -> str:
    """--label_column=x -> --label-column=x; values are unchanged."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


RESUMES = "interrupted; run the same command again to continue after the finished steps"


def hidden() -> bool:
    """Whether bars are hidden: not in a terminal or notebook, or not the main process."""
    from accelerate import PartialState

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return not (watched and PartialState().is_main_process)


@contextmanager
def ends_in_words(program: str, interrupted: str = "interrupted") -> Iterator[None]:
    """Run a program: an error ends it with one sentence and exit code 1, Ctrl-C with `interrupted` and 130.

    LANGIMB_DEBUG=1 shows the traceback of an error.
    """
    try:
        with names_the_file(None):
            yield
    except KeyboardInterrupt:
        print(f"{program}: {interrupted}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("LANGIMB_DEBUG") == "1":
            raise
        sentence = one_line(error)
        if not isinstance(error, ValueError | OSError) or not sentence:  # unexpected
            where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
            sentence = f"{one_line(f'{where}{type(error).__name__}: {error}')} (LANGIMB_DEBUG=1 shows the traceback)"
        print(f"{program}: {sentence}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def about(*names: str) -> Iterator[None]:
    """Add these names to any error that a library raises on a user's file or model."""
    try:
        yield
    except Exception as error:
        error.add_note(", ".join(names))
        raise


def bar(items: Any = None, description: str = "", **options: Any) -> Any:
    """`tqdm.auto.tqdm` over items (or with `total`), which clears its line at the end."""
    from tqdm.auto import tqdm

    return tqdm(items, description, disable=hidden(), leave=False, **options)


def start_program() -> Any:
    """Connect the processes that were launched together: their `PartialState`. Hides bars as `hide_bars` does."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # else each process on a CPU is on its own
    atexit.register(state.destroy_process_group)
    hide_bars()
    return state


def hide_bars() -> None:
    """Hide the bars of the libraries if ours are hidden."""
    if hidden():
        import datasets
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils import logging

        disable_progress_bars()
        datasets.disable_progress_bars()
        logging.disable_progress_bar()


def on_main(action: Callable[[], Any]) -> Any:
    """Run an action in the main process only, and return its result in every process.

    Raises:
        Exception: any that the action raises; the other processes exit silently.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    raised: Exception | None = None
    outcome: list[Any] = [None, True]  # the result, and whether there is one
    if PartialState().is_main_process:
        try:
            outcome[0] = action()
        except Exception as error:
            raised, outcome[1] = error, False
    broadcast_object_list(outcome)
    if not outcome[1]:
        raise raised or SystemExit(1)
    return outcome[0]
