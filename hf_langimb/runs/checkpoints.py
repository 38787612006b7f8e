"""Resume killed training runs from their checkpoints, in the folder of their model."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerCallback

from hf_langimb.console import on_main
from hf_langimb.files import AGAIN, MODEL, is_done, read_json, record, write_json
from hf_langimb.results.folder import TIME, TRAINING, model_files

logger = logging.getLogger(__name__)


def facts_of(place: Path) -> dict[str, Any] | None:
    """The facts that a finished training run recorded, or None.

    Raises:
        ValueError: a file of the model is damaged.
    """
    if not on_main(lambda: is_done(place, MODEL)):
        return None
    facts = read_json(place / TRAINING, AGAIN)
    on_main(lambda: _remove_checkpoints(place))  # left by a process that was killed while it removed them
    return dict(facts)


def train_into(place: Path, trainer: Trainer, facts: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Train into the folder of a model, from its newest checkpoint that is complete, and record what was written.

    Args:
        place: the folder, which is the trainer's `output_dir`.
        trainer: of a model with random weights.
        facts: of the training, from its state.

    Returns:
        The facts, which are also in the folder, with a file of the seconds of the training: of the CPU if it trains
        there, else on the clock, and null if the training was interrupted.
    """
    trainer.add_callback(_Checkpoints(place))
    checkpoint = on_main(lambda: _last_checkpoint(place))
    clock = time.process_time if trainer.args.device.type == "cpu" else time.perf_counter
    began = clock()
    trainer.train(resume_from_checkpoint=checkpoint)
    spent = None if checkpoint else round(clock() - began, 2)
    trainer.save_model()
    found = facts(trainer.state)
    if trainer.is_world_process_zero():
        (place / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml has the same in words
        write_json(place / TRAINING, found)
        write_json(place / TIME, {"seconds": spent})
        record(place, MODEL, model_files(place))
        _remove_checkpoints(place)
    PartialState().wait_for_everyone()
    return found


class _Checkpoints(TrainerCallback):
    """Records each checkpoint when it is complete, and finds the best one in a folder that was moved."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Correct the path of the best checkpoint if the folder was moved."""
        if state.best_global_step:
            state.best_model_checkpoint = str(self.place / f"checkpoint-{state.best_global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record a checkpoint once all processes have saved their part."""
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            checkpoint = self.place / f"checkpoint-{state.global_step}"
            record(checkpoint, MODEL, model_files(checkpoint))


def _last_checkpoint(place: Path) -> str | None:
    """The newest usable checkpoint (it and the best one that it names are complete), or None; removes unusable ones."""
    found = sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    intact = [checkpoint for checkpoint in found if _is_intact(checkpoint)]
    best = {one: read_json(one / "trainer_state.json", AGAIN)["best_global_step"] for one in intact}
    usable = [one for one in intact if best[one] is None or place / f"checkpoint-{best[one]}" in intact]
    if usable != found:
        names, goes_on = [one.name for one in found if one not in usable], usable[0].name if usable else "the start"
        words = "%s: removing %s (damaged or incomplete); training continues from %s."
        logger.warning(words, place, ", ".join(names), goes_on)
    for checkpoint in {*found} - {*usable}:
        shutil.rmtree(checkpoint)
    return str(usable[0]) if usable else None


def _is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete and as it was written."""
    try:
        return is_done(checkpoint, MODEL)
    except ValueError:
        return False


def _remove_checkpoints(place: Path) -> None:
    """Remove the checkpoints of a finished training."""
    for checkpoint in place.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
