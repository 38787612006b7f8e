"""What a Trainer of this package pushes: its own card and axes with each checkpoint, faults in words."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import Trainer

from hf_langimb.arguments import LangImbTrainingArguments
from hf_langimb.axes import write_axes
from hf_langimb.hub_faults import retried, sentence_of, told
from hf_langimb.lora import base_model_of
from hf_langimb.progress import on_main

logger = logging.getLogger(__name__)


class PublishingTrainer(Trainer):
    """A Trainer whose model configuration has axes (`langimb`) once it knows its training data."""

    args: LangImbTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pushes: list[Any] = []  # in the background
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
            with told(name):
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

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s; what the Hub refuses is said in one sentence.

        Raises:
            ValueError: the Hub refuses; says what to do.
        """
        with told(str(self.hub_model_id or self.args.hub_model_id)):
            return super().push_to_hub(*args, **kwargs)

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
            from hf_langimb.model_card import render_trained_card

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
        for earlier, later in pairwise(jobs):  # a checkpoint without the model's commit would lie there without card
            earlier.add_done_callback(lambda job, later=later: job.exception() and later.cancel())

    def _finish_current_push(self) -> None:
        """Wait for pushes in the background, and say which of all of them failed."""
        super()._finish_current_push()
        errors = [job.exception() for job in self._pushes if job.done() and not job.cancelled()]
        said = [sentence_of(error, self.hub_model_id) for error in errors if error]
        self._pushes = [job for job in self._pushes if not job.done()]
        if said:
            logger.warning(
                "%d of the pushes during training failed: %s The model is in %s; trainer.push_to_hub() publishes it.",
                len(said),
                " ".join(dict.fromkeys(said)),
                self.args.output_dir,
            )
