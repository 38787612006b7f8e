"""How a program starts among its processes, and its progress bars: on a terminal or in a notebook, in one process."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def one_line(text: Any) -> str:
    """A text on one line, without characters that a terminal would obey."""
    return re.sub(r"\s*[\x00-\x1f\x7f-\x9f]\s*", " ", str(text)).strip()


def hidden() -> bool:
    """Whether bars stay hidden: nobody looks on, or this is not the main process."""
    from accelerate import PartialState

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return not (watched and PartialState().is_main_process)


@contextmanager
def told_at_end(program: str) -> Iterator[None]:
    """End a program that was launched: faults in one sentence, and an interruption without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"{program}: {one_line(error)}")
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on from the steps that are done", file=sys.stderr)
        sys.exit(130)


def bar(items: Any = None, description: str = "", **options: Any) -> Any:
    """`tqdm.auto.tqdm` over items (or with `total`), which clears its line at the end."""
    from tqdm.auto import tqdm

    return tqdm(items, description, disable=hidden(), leave=False, **options)


def start_program() -> Any:
    """Join the processes that were launched together, and hide the libraries' bars where ours are hidden.

    Returns:
        accelerate's `PartialState`.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # else processes on CPUs are each alone
    atexit.register(state.destroy_process_group)
    hide_bars()
    return state


def hide_bars() -> None:
    """Hide the bars of the libraries where ours are hidden."""
    if hidden():
        import datasets
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils import logging

        disable_progress_bars()
        datasets.disable_progress_bars()
        logging.disable_progress_bar()


def on_main(action: Callable[[], Any]) -> Any:
    """What an action returns that the main process alone carries out, while the others wait for it.

    Raises:
        ValueError, OSError: of the action; the other processes end in silence.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    fault, outcome = None, [None, True]
    if PartialState().is_main_process:
        try:
            outcome = [action(), True]
        except (ValueError, OSError) as error:
            fault, outcome = error, [None, False]
    broadcast_object_list(outcome)
    if fault:
        raise fault
    if not outcome[1]:
        raise SystemExit(1)
    return outcome[0]
