"""What a Trainer of this package pushes: its own card and axes with each checkpoint, faults in words."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import Trainer

from hf_langimb.console import on_main
from hf_langimb.hub.errors import BUSY, hub_errors, is_transient, retried, sentence_of
from hf_langimb.models.adapters import base_model_of
from hf_langimb.models.axes import write_axes
from hf_langimb.training.arguments import LangImbTrainingArguments

logger = logging.getLogger(__name__)


class PublishingTrainer(Trainer):
    """A Trainer whose model configuration has axes (`langimb`) once it knows its training data."""

    args: LangImbTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pushes: list[Any] = []  # in the background
        self._last: tuple[str, list[Any]] = "", []  # checkpoint and jobs of the last of them
        super().__init__(*args, **kwargs)
        if self.args.push_to_hub and self.args.lora_rank:
            base = base_model_of(self.model).config.name_or_path
            if Path(base).is_dir():
                logger.warning(
                    "The adapters will name their base by the folder %s, where others cannot load it: start from a "
                    "Hub id.",
                    base,
                )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """`Trainer`'s: make the repository, before any training.

        Raises:
            ValueError: the Hub refuses, or the repository holds adapters and this is a whole model, or the reverse.
        """
        make = super().init_hf_repo
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name

        def open_repository() -> None:
            with hub_errors(name):
                retried(lambda: make(token, private))
                self._require_own_form(name, token)

        on_main(open_repository)

    def _require_own_form(self, name: str, token: str | None) -> None:
        """Raise where loading would take the adapters, or the whole model, that a repository holds already."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError

        api = HfApi(token=token or self.args.hub_token)
        try:
            there = retried(lambda: api.list_repo_files(str(self.hub_model_id), revision=self.args.hub_revision))
        except RevisionNotFoundError:  # a branch that the first push makes
            return
        forms = [("adapters", "adapter_config.json"), ("a whole model", "config.json")]
        if base_model_of(self.model) is not self.model:
            forms.reverse()
        (held, file), (ours, _) = forms
        if file in there:
            raise ValueError(
                f"{name} holds {held} ({file}), and this training would put {ours} beside: choose another "
                "hub_model_id, or delete it there."
            )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """`Trainer`'s; a busy Hub is asked again.

        Raises:
            ValueError: the Hub refuses; says what to do.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token or self.args.hub_token)
        with hub_errors(str(self.hub_model_id or self.args.hub_model_id)):
            try:
                return super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)
            except Exception as error:
                if not is_transient(error):
                    raise
            return retried(  # the upload alone: all is written by now, and other processes do not wait any more
                lambda: api.upload_folder(
                    repo_id=str(self.hub_model_id),
                    folder_path=str(self.args.output_dir),
                    commit_message=commit_message,
                    ignore_patterns=["_*", "checkpoint-*"],
                    revision=revision or self.args.hub_revision,
                )
            )

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """`Trainer`'s card, with the joint table that the model was trained on and what was evaluated."""
        axes = getattr(self.model.config, "langimb", None)
        if axes is None:  # not trained: there is nothing of ours to say
            super().create_model_card(
                language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
            )
        elif self.is_world_process_zero():
            from hf_langimb.results.cards import render_trained_card

            card = render_trained_card(
                axes,
                [entry for entry in self.state.log_history if "eval_loss" in entry],
                name=model_name or Path(self.args.output_dir).name,
                repo_id=getattr(self, "hub_model_id", None) or "REPO_ID",
                language=language,
                license=license,
                tags=[tags] if isinstance(tags, str) else tags or (),
                base_model=finetuned_from or base_model_of(self.model).config.name_or_path,
                datasets=[dataset_tags] if isinstance(dataset_tags, str) else dataset_tags or (),
                adapter=base_model_of(self.model) is not self.model,
                masked_entropy_weight=self.args.masked_entropy_weight,
            )
            Path(self.args.output_dir, "README.md").write_text(card, encoding="utf-8")
            self.state.save_to_json(str(Path(self.args.output_dir, "trainer_state.json")))  # the card's numbers

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push in the background, as `Trainer` does; the repository has card and axes from the first push on."""
        if self.is_world_process_zero() and self.args.hub_strategy != "end":
            self.create_model_card(model_name=(self.args.hub_model_id or "").rpartition("/")[2] or None)
            if axes := getattr(self.model.config, "langimb", None):
                write_axes(self.args.output_dir, axes)
        super()._push_from_checkpoint(checkpoint_folder)
        jobs = [job for job in getattr(getattr(self, "push_in_progress", None), "jobs", ()) if job not in self._pushes]
        self._pushes += jobs
        self._last = checkpoint_folder, jobs
        for earlier, later in pairwise(jobs):  # a checkpoint without the model's commit would lie there without card
            earlier.add_done_callback(lambda job, later=later: job.exception() and later.cancel())

    def _finish_current_push(self) -> None:
        """Wait for pushes in the background, repeat the last one while the Hub is busy, and say which of all failed."""
        super()._finish_current_push()
        for attempt in range(BUSY):
            folder, jobs = self._last
            if not any(is_transient(fault) for fault in _faults(jobs)) or not Path(folder).is_dir():
                break
            time.sleep(0.5 * 2**attempt)
            self._pushes = [job for job in self._pushes if job not in jobs]
            self._push_from_checkpoint(folder)
            super()._finish_current_push()
        said = [sentence_of(fault, self.hub_model_id) for fault in _faults(self._pushes)]
        self._pushes = [job for job in self._pushes if not job.done()]
        if said:
            logger.warning(
                "%d of the pushes during training failed: %s The model is in %s; trainer.push_to_hub() publishes it.",
                len(said),
                " ".join(dict.fromkeys(said)),
                self.args.output_dir,
            )


def _faults(jobs: Iterable[Any]) -> list[BaseException]:
    """What the jobs that have ended in the background raised."""
    ended = [job.exception() for job in jobs if job.done() and not job.cancelled()]
    return [fault for fault in ended if fault is not None]
