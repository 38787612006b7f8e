"""Progress bars: on a terminal or in a notebook, in the main process alone."""

from __future__ import annotations

import sys
from typing import Any


def hidden() -> bool:
    """Whether bars stay hidden: nobody looks on, or this is not the main process."""
    from accelerate import PartialState

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return not (watched and PartialState().is_main_process)


def bar(items: Any = None, description: str = "", **options: Any) -> Any:
    """`tqdm.auto.tqdm` over items (or with `total`), which clears its line at the end."""
    from tqdm.auto import tqdm

    return tqdm(items, description, disable=hidden(), leave=False, **options)


def quiet_libraries() -> None:
    """Hide the bars of datasets, transformers and huggingface_hub where ours are hidden."""
    import datasets
    from transformers.utils import logging

    if hidden():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
