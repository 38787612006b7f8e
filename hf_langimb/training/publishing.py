"""Publishing while training: each push has its own model card and axes, and reads files that nothing overwrites."""

from __future__ import annotations

import logging
import shutil
import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy

from hf_langimb.console import on_main
from hf_langimb.files import write_text
from hf_langimb.hub.errors import hub_errors, is_transient, retried, sentence_of
from hf_langimb.models.adapters import base_model_of
from hf_langimb.models.axes import stored_axes
from hf_langimb.models.loading import ADAPTER_FILE
from hf_langimb.training.arguments import LangImbTrainingArguments

logger = logging.getLogger(__name__)

NOT_PUBLISHED = ("_*", "checkpoint-*")  # names in the output folder
_STATE = "group_dro.pt optimizer* scheduler* scaler* rng_state* global_step* latest zero_to_fp32.py pytorch_model_fsdp*"
TRAINING_STATE = _STATE.split()  # names in a checkpoint that are not part of its model


class PublishingTrainer(Trainer):
    """A Trainer that publishes the model with its card and axes, also in the background during training."""

    args: LangImbTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hub = HfApi()
        self._pushes: list[Future[Any]] = []  # in the background, in order
        self._latest: tuple[Any, ...] | None = None  # what `_upload` needs to repeat the latest of them
        super().__init__(*args, **kwargs)
        if self.args.push_to_hub and self.args.lora_rank:
            base = base_model_of(self.model).config.name_or_path
            if Path(base).is_dir():
                logger.warning("The adapters name the folder %s as base, which others cannot load: use a Hub id.", base)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository before training.

        Raises:
            ValueError: the Hub refuses, or the repository contains adapters and this is a full model, or the reverse.
        """
        make = super().init_hf_repo
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        place = {"revision": self.args.hub_revision, "token": token or self.args.hub_token}
        there, file, ours = "adapters", ADAPTER_FILE, "a full model"
        if base_model_of(self.model) is not self.model:
            there, file, ours = "a full model", "config.json", "adapters"

        def open_repository() -> str | None:
            """Create the repository and check what it contains; returns its name."""
            with hub_errors(name):
                retried(lambda: make(token, private))
                mixed = retried(lambda: self._hub.file_exists(str(self.hub_model_id), file, **place))
            if mixed:
                raise ValueError(
                    f"{name} already contains {there} ({file}); pushing {ours} next to it would break loading: choose "
                    "another hub_model_id, or delete it there."
                )
            return self.hub_model_id

        self.hub_model_id = on_main(open_repository)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save and publish the model with its card; retried while the Hub is busy.

        Takes what `Trainer.push_to_hub` takes. With `blocking=False` it returns a Future and uploads a copy of the
        output folder in the background.

        Raises:
            ValueError: the Hub refuses; the message says what to do.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self._finish_current_push()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        if not blocking:
            return self._upload_copy(None, commit_message, token, revision)
        with hub_errors(str(self.hub_model_id)):
            return self._upload(self.args.output_dir, None, commit_message, token, revision)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write README.md: the joint table that the model was trained on, and the evaluations so far.

        Takes what `Trainer.create_model_card` takes; `tasks`, `dataset` and `dataset_args` are not used.
        """
        folder, axes = Path(self.args.output_dir), stored_axes(self.model)
        if axes is None:  # not trained with this package
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            from hf_langimb.results.cards import render_trained_card

            facts = signature(Trainer.create_model_card).bind(self, *args, **kwargs).arguments
            base = base_model_of(self.model)
            metadata = {
                "model_name": facts.get("model_name") or (self.args.hub_model_id or folder.name).rpartition("/")[2],
                "language": _as_list(facts.get("language")),
                "license": facts.get("license"),
                "tags": [*_as_list(facts.get("tags")), *_as_list(getattr(self.model, "model_tags", None))],
                "base_model": facts.get("finetuned_from") or base.config.name_or_path,
                "datasets": _as_list(facts.get("dataset_tags")) or None,
            }
            card = render_trained_card(
                axes,
                [entry for entry in self.state.log_history if "eval_loss" in entry],
                metadata,
                repo_id=getattr(self, "hub_model_id", None) or "REPO_ID",
                adapter=base is not self.model,
                masked_entropy_weight=self.args.masked_entropy_weight,
                options=self.args.options,
            )
            write_text(folder / "README.md", card)
            self.state.save_to_json(str(folder / "trainer_state.json"))  # the card's numbers

    # In the background: training overwrites and removes its files, so each push uploads a copy of them

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint, which the output folder then contains, in the background; not during another push."""
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if not args.hub_always_push and not all(job.done() for job in self._pushes):
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        in_steps = args.save_strategy == SaveStrategy.STEPS
        moment = f"step {self.state.global_step}" if in_steps else f"epoch {int(self.state.epoch or 0)}"
        checkpoint = None if args.hub_strategy == HubStrategy.EVERY_SAVE else checkpoint_folder
        push = checkpoint, f"Training in progress, {moment}"
        self._latest = None
        try:
            ignored = shutil.ignore_patterns(*TRAINING_STATE)
            shutil.copytree(checkpoint_folder, args.output_dir, ignore=ignored, dirs_exist_ok=True)
            self.create_model_card()
            self._pushes.append(self._upload_copy(*push))
            self._latest = args.output_dir, *push
        except OSError as error:  # for example, the disk is full: training goes on
            logger.warning("%s is not pushed, because its files could not be copied: %s", checkpoint_folder, error)

    def _upload_copy(self, checkpoint: str | None, *settings: Any) -> Future[Any]:
        """Copy the output folder and a checkpoint, then upload the copies in the background and remove them."""
        output = self.args.output_dir
        if all(job.done() for job in self._pushes):
            for left in Path(output).glob("_push-*"):  # by a killed run
                shutil.rmtree(left, ignore_errors=True)
        with ExitStack() as stack:
            copies = stack.enter_context(tempfile.TemporaryDirectory(prefix="_push-", dir=output))
            ignored = shutil.ignore_patterns(*NOT_PUBLISHED, ".git")
            model = shutil.copytree(output, Path(copies, "model"), ignore=ignored, ignore_dangling_symlinks=True)
            if checkpoint is not None:
                checkpoint = str(shutil.copytree(checkpoint, Path(copies, Path(checkpoint).name)))
            kept = stack.pop_all()

        def upload() -> Any:
            """Upload the copies, then remove them."""
            with kept:
                return self._upload(model, checkpoint, *settings)

        return self._hub.run_as_future(upload)

    def _upload(
        self,
        model: str | Path,
        checkpoint: str | None,
        message: str | None,
        token: str | None = None,
        revision: str | None = None,
    ) -> Any:
        """Commit the model, then the checkpoint: there is never a checkpoint without the model's card."""
        commit = partial(
            self._hub.upload_folder,
            repo_id=str(self.hub_model_id),
            token=token or self.args.hub_token,
            ignore_patterns=[*NOT_PUBLISHED],
            revision=revision or self.args.hub_revision,
        )
        done = retried(lambda: commit(folder_path=model, commit_message=message))
        if checkpoint is not None and Path(checkpoint).is_dir():
            latest_only = self.args.hub_strategy == HubStrategy.CHECKPOINT
            target = "last-checkpoint" if latest_only else Path(checkpoint).name
            title = f"{message}, checkpoint"
            retried(lambda: commit(folder_path=checkpoint, path_in_repo=target, commit_message=title))
        return done

    def _finish_current_push(self) -> None:
        """Wait for the pushes in the background, repeat the latest if the Hub was busy, and report which failed."""
        if self._latest and (error := self._pushes[-1].exception()) and is_transient(error):
            self._pushes[-1] = self._hub.run_as_future(self._upload, *self._latest)
        failed = [sentence_of(error, str(self.hub_model_id)) for job in self._pushes if (error := job.exception())]
        self._pushes, self._latest = [], None
        if failed:
            logger.warning(
                "%d of the pushes during training failed: %s The model is in %s; trainer.push_to_hub() publishes it.",
                *(len(failed), " ".join(dict.fromkeys(failed)), self.args.output_dir),
            )


def _as_list(value: Any) -> list[str]:
    """A string, a list of strings or None as a list."""
    return [value] if isinstance(value, str) else list(value or ())
