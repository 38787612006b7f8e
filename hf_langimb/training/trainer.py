"""`LangImbTrainer`: the Hugging Face Trainer with class weights per language and the masked-input entropy loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.trainer_utils import has_length

from hf_langimb.counts.columns import is_transformed
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.counts.weighting import GROUP_DRO
from hf_langimb.files import write_json
from hf_langimb.models.adapters import add_lora, head_parameters, problem_of
from hf_langimb.models.axes import (
    AXES_FILE,
    IGNORED_LABEL,
    axes_of,
    class_names,
    config_of,
    name_labels,
    store_axes,
    stored_axes,
)
from hf_langimb.models.inputs import logits_of
from hf_langimb.training import losses
from hf_langimb.training.adversary import LanguageAdversary, UpdateAdversary
from hf_langimb.training.arguments import LangImbTrainingArguments
from hf_langimb.training.checks import (
    fit_inputs,
    objective,
    optimized,
    problem_of_collator,
    problem_of_parts,
)
from hf_langimb.training.collator import DataCollatorWithLanguage
from hf_langimb.training.counting import Counted, count_again, name_uncounted
from hf_langimb.training.evaluating import EvaluatingTrainer
from hf_langimb.training.group_dro import GroupDRO, UpdateShares
from hf_langimb.training.multi_label import batch_of, has_several_labels, smoothing_of_our_own
from hf_langimb.training.objectives import RowLoss
from hf_langimb.training.sampler import SetEpoch, rates_of, sampler_of, settings_without_effect

logger = logging.getLogger(__name__)


class LangImbTrainer(EvaluatingTrainer):
    """Trains a sequence classifier whose loss knows the language of each row (arXiv 2402.13016).

    The loss of an optimizer step is the sum over its rows of w[language, label] * CE, divided by the number of rows in
    the full (accumulated, all-process) batch, plus `masked_entropy_weight` times the negative entropy of the
    prediction for an input of mask tokens. Takes the arguments of `Trainer`, except `compute_loss_func`.

    Counts, class weights and adapters follow the arguments, model and data of the training that runs: in each trial of
    a hyperparameter search, and after `trainer.args` or `trainer.train_dataset` has changed. A model that was trained
    with this class and is evaluated without a training set keeps the axes and weights that its checkpoint records.

    Rows in a language or a (language, label) cell without training rows are left out of the evaluation losses and
    reported in `eval_unseen_rows` (their number) and `eval_unseen_plain_loss`.

    Args:
        distribution: counts of `train_dataset`, which is then not read before training; needed for class weights of an
            endless stream. A dataset that is assigned to `trainer.train_dataset` later is counted.
        row_loss: your own loss instead of the cross-entropy, called with logits [B, C], labels int64[B], language ids
            int64[B] (below 0: unknown, in evaluations) and class weights (float32[L, C] or None) of the labeled rows of
            a batch. It returns the weighted loss of each row, [B].

    Raises:
        ValueError: data, model, tokenizer or arguments do not fit together; the message says what to do.
        TypeError: `args` are not LangImbTrainingArguments, or `compute_loss_func` is given.
    """

    data_collator: Any
    model: Any
    model_wrapped: Any
    _signed: str | None = None  # the language column among the columns that are read
    optimizer: Any

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module | None = None,
        args: LangImbTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Any = None,
        distribution: JointDistribution | MultiLabelDistribution | None = None,
        row_loss: RowLoss | None = None,
        **kwargs: Any,
    ) -> None:
        self.args = args or LangImbTrainingArguments()
        self._counted: Counted | None = None
        self._said: set[str] = set()
        self.given_counts, self.given_loss = (train_dataset, distribution), row_loss
        self.group_dro: GroupDRO | None = None
        self.adversary: LanguageAdversary | None = None
        self._moved_from: Counted | None = None  # for which group DRO moves the weights
        self._inner_collator: Any = None  # pads what ours collates
        self._axes: dict[str, Any] | None = None  # of the training data
        if not isinstance(self.args, LangImbTrainingArguments):
            raise TypeError(f"Expected args of type LangImbTrainingArguments, got {type(args).__name__}.")
        if not isinstance(distribution, JointDistribution | MultiLabelDistribution | None):
            raise TypeError(f"Expected a JointDistribution as distribution, got {type(distribution).__name__}.")
        if kwargs.get("compute_loss_func", self) is None:
            del kwargs["compute_loss_func"]  # the default; Python refuses any other, which would come twice
        model = None if model is None else self._prepared(model)
        given = (model, self.args, data_collator, train_dataset, eval_dataset, processing_class, model_init)
        with smoothing_of_our_own():
            super().__init__(*given, compute_loss_func=self._loss, **kwargs)
        self._own_optimizer: Any = None  # as `Trainer` made it, and for what
        self._made_for: Any = None
        for callback in (UpdateShares, UpdateAdversary, SetEpoch):
            self.add_callback(callback(self))
        self._fit_together()
        self._loss_parts = torch.zeros(3, device=self.args.device)  # classification, masked entropy, optimizer steps
        self._evaluated_rows: list[torch.Tensor] = []

    def _fit_together(self) -> None:
        """Number the languages of a batch as the weights do, record the axes, and refuse what does not fit."""
        self.args.check()
        self._counted = count_again(self, self._counted)
        self._number_languages()
        held = getattr(self.optimizer, "optimizer", self.optimizer)  # of Accelerate, after a training
        if problem := problem_of_parts(self, None if held is self._own_optimizer else held) or fit_inputs(self):
            raise ValueError(problem)
        if self.train_dataset is None:
            return
        for problem in settings_without_effect(self):
            self.say_once(problem)
        if self.args.draws_rows:
            rates_of(self)  # refuses what does not fit
        counts, weights = self._present()[:2]
        config, self._axes = config_of(self.model), None
        if counts is None or weights is None:
            self.say_once(
                "The training data have no length and are not counted, so the checkpoint will not record languages, "
                "labels and weights: pass distribution= to record them."
            )
            if config is not None and (kept := name_uncounted(self)):
                self.say_once(kept)
        else:
            if config is not None and (kept := name_labels(config, counts)):
                self.say_once(kept)
            names = [str(label) for label in counts.labels] if config is None else class_names(config)
            scheme = self.args.class_weighting, self.args.missing_cell_policy
            self._axes = axes_of(counts, *scheme, weights, names)
        store_axes(self.model, self._axes)  # every checkpoint contains the configuration

    def _number_languages(self) -> None:
        """Let the collator number the languages of a batch as the weights do."""
        counts = self.distribution
        if not isinstance(self.data_collator, DataCollatorWithLanguage):
            self._inner_collator = self.data_collator
        if self._inner_collator is not None:
            self.data_collator = DataCollatorWithLanguage(
                self.processing_class,
                languages=None if counts is None else counts.languages,
                language_column=self.args.language_column,
                collator=self._inner_collator,
            )
        elif problem := problem_of_collator(self.data_collator, self.args.language_column, counts):
            raise ValueError(problem)

    def say_once(self, sentence: str) -> None:
        """Warn once."""
        if sentence not in self._said:
            logger.warning(sentence)
            self._said.add(sentence)

    def _prepared(self, model: PreTrainedModel) -> PreTrainedModel:
        """A sequence classifier, with adapters if `lora_rank` asks for them."""
        self._rank = self.args.lora_rank
        if problem := problem_of(model, self._rank):
            raise ValueError(problem)
        return add_lora(model, self._rank) if self._rank else model

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """`Trainer`'s model, prepared with the arguments of a trial: each training and each trial makes it again."""
        if trial is not None:
            self._hp_search_setup(trial)  # which `Trainer` calls after this
        return self._prepared(super().call_model_init(trial))

    def get_train_dataloader(self) -> Any:
        """`Trainer`'s; each training, trial and repetition with a smaller batch begins with it."""
        if self.args.lora_rank != self._rank:
            if self._rank:
                raise ValueError(
                    f"This model has adapters of rank {self._rank}, but lora_rank is now {self.args.lora_rank}: pass "
                    "model_init, or create a new LangImbTrainer."
                )
            self.model = self._prepared(self.model)
        if self.accelerator.unwrap_model(self.model_wrapped, keep_torch_compile=False) is not self.model:
            self.model_wrapped = self.model.to(self.args.device)
        if self._own_optimizer is not None and self._made_for != optimized(self.model, self.args):
            self.optimizer = self._own_optimizer = None
        if has_length(data := self.train_dataset) and (not hasattr(data, "_fingerprint") or is_transformed(data)):
            self._counted = None  # rows may have changed in place
        self._fit_together()
        if self.is_in_train:
            self._begin_group_dro()
            self._begin_adversary()
        self._loss_parts.zero_()
        return super().get_train_dataloader()

    def _begin_group_dro(self) -> None:
        """New class weights for a training with group DRO."""
        self.group_dro, counts = None, self.distribution
        if self.args.class_weighting == GROUP_DRO and counts is not None:
            step = {"step_size": self.args.group_dro_step_size, "adjustment": self.args.group_dro_adjustment}
            self.group_dro = GroupDRO(counts.counts, **step, device=self.args.device)
            self._moved_from = self._present()

    def _begin_adversary(self) -> None:
        """A new adversary for a training with one."""
        if self.adversary is not None:
            self.adversary.head.remove()
        self.adversary, counts = None, self.distribution
        if (kind := self.args.language_adversary) != "none" and counts is not None:
            weight = self.args.language_adversary_weight
            self.adversary = LanguageAdversary(kind, self.model, languages=len(counts.languages), weight=weight)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s; model or data may be others than those of the last training."""
        self._number_languages()
        return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s; see `get_eval_dataloader`."""
        self._number_languages()
        return super().get_test_dataloader(*args, **kwargs)

    def hyperparameter_search(self, hp_space: Any = None, compute_objective: Any = None, **kwargs: Any) -> Any:
        """`Trainer`'s; its usual objective does not add up the losses that only this class reports."""
        return super().hyperparameter_search(hp_space, compute_objective or objective, **kwargs)

    @property
    def distribution(self) -> JointDistribution | MultiLabelDistribution | None:
        """Counts of `train_dataset` on the axes languages x labels; None for a stream that is not counted.

        Without a training set those in the model's configuration, else those of the evaluation set.
        """
        return self._present().distribution

    @property
    def weights(self) -> torch.Tensor | None:
        """The class weights, float32[L, C] (several labels: [L, C, 2]); None for a stream that is not counted.

        Those of group DRO change in each optimizer step.
        """
        now = self._present()
        return now.weights if self.group_dro is None or now is not self._moved_from else self.group_dro.weights

    @property
    def has_several_labels(self) -> bool:
        """Whether each output of the model decides about a label of its own."""
        return has_several_labels(config_of(self.model))

    def _present(self) -> Counted:
        """Counts and weights, made again where the arguments, the model or the data are others than before.

        During a training they stay as they were recorded at its start.
        """
        if self._counted is None or not self.is_in_train:
            self._counted = count_again(self, self._counted)
        return self._counted

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """`Trainer`'s sampler; batches grouped by length are shuffled: length correlates with language and label."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        return sampler_of(self, rows, super()._get_train_sampler(train_dataset))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows in their order: `Trainer` would group those of evaluation and prediction by length, too."""
        if self.args.train_sampling_strategy == "group_by_length" and has_length(eval_dataset):
            return torch.utils.data.SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        """`Trainer`'s columns, and the language, which would be dropped silently."""
        if self._signed not in (None, self.args.language_column):
            self._signature_columns: Any = None
        self._signed = self.args.language_column
        super()._set_signature_columns_if_needed()
        self._signature_columns += {self.args.language_column, "language_ids"} - {*self._signature_columns}

    # The loss

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take the language ids out, append the mask row in training, leave the forward pass to `Trainer`."""
        inputs = dict(inputs)
        self._language_ids = inputs.pop("language_ids", None)
        training = model.training
        if training and (self._language_ids is None or (self._language_ids < 0).any()):
            known = (
                self.distribution and f" or have a language that is not one of {', '.join(self.distribution.languages)}"
            )
            raise ValueError(
                f"A training batch has rows of unknown language: they lack the column {self.args.language_column!r}"
                f"{known or ''}, or data_collator is not a DataCollatorWithLanguage."
            )
        if self._language_ids is None:
            self._language_ids = torch.full([len(inputs["labels"])], losses.NO_LANGUAGE, device=self.args.device)
            self.say_once("The evaluated rows have no language: their loss is not weighted.")
        mask = self._draw_mask(inputs) if training and self.args.masked_entropy_weight else None
        self._has_mask_row = mask is not None
        if mask is not None:
            labels = inputs.pop("labels")
            inputs = losses.append_masked_row(inputs, self.processing_class, **mask) | {"labels": labels}
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if isinstance(found, tuple) and not isinstance(found[1], Mapping):  # what `Trainer` cannot evaluate
            return found[0], {"logits": logits_of(found[1], None if self.weights is None else self.weights.shape[1])}
        return found

    def _draw_mask(self, inputs: dict[str, torch.Tensor]) -> dict[str, int] | None:
        """`losses.draw_mask` for the tokenizer."""
        return losses.draw_mask(inputs, self.processing_class)

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Sum of w * CE over items of the full batch, plus the masked-input entropy; see the class."""
        weights = self.weights
        logits = logits_of(outputs, None if weights is None else weights.shape[1])
        smoothing, row_loss = self.args.label_smoothing_factor, self._present().row_loss
        batch = batch_of(logits[: len(labels)], labels, self._language_ids, weights, self.has_several_labels)
        if self.model.training and self.state.global_step < self.args.deferred_weighting * self.state.max_steps:
            batch = batch.unweighted()
        own = row_loss(*batch, label_smoothing=smoothing)
        labeled = (labels != IGNORED_LABEL).sum()
        items = torch.as_tensor(labeled if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        classification = own.sum() / items
        if not self.model.training:
            self._remember_evaluated(batch, own, len(labels))
            return classification
        if self.group_dro is not None:
            with torch.no_grad():
                plain = row_loss(*batch.unweighted(), label_smoothing=smoothing)
            self.group_dro.add(plain, labels, self._language_ids)
        entropy = classification.new_zeros(())
        if self._has_mask_row:
            negative_entropy = losses.negative_binary_entropy if self.has_several_labels else losses.negative_entropy
            entropy = self.args.masked_entropy_weight * labeled / items * negative_entropy(logits[-1])
        self._loss_parts += torch.stack([classification, entropy, labeled / items]).detach()
        if self.adversary is not None:
            done = self.state.global_step / self.state.max_steps
            classification = classification + self.adversary.loss(logits, labels, self._language_ids, done) / items
        return classification + entropy

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss too, averaged over the same steps and summed over processes."""
        if "loss" in logs:
            classification, entropy, steps = self.accelerator.reduce(self._loss_parts, reduction="sum").tolist()
            if steps:
                logs |= {"loss_classification": classification / steps, "loss_masked_entropy": entropy / steps}
        if "loss" in logs and self.adversary is not None:
            logs |= self.adversary.logs(lambda seen: self.accelerator.reduce(seen, reduction="sum"))
        if "loss" in logs or "train_loss" in logs:  # logged, or at the end of training
            self._loss_parts.zero_()
        super().log(logs, start_time)

    # Optimizer and files

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """`Trainer`'s optimizer; with `head_learning_rate` each of its groups is split into encoder and head."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created:
            self._own_optimizer, self._made_for = optimizer, optimized(self.model, self.args)
        if self.args.head_learning_rate is None or not created:
            return optimizer
        head = {id(parameter) for parameter in head_parameters(self.model)}
        groups = []
        for group in optimizer.param_groups:
            for in_head, rate in ((False, group["lr"]), (True, self.args.head_learning_rate)):
                parameters = [p for p in group["params"] if (id(p) in head) == in_head]
                if parameters:
                    groups.append({**group, "params": parameters, "lr": rate})
        optimizer.param_groups = groups
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """`Trainer`'s, with the axes next to the weights: a folder of adapters has no configuration for them."""
        if self.group_dro is not None and self._axes is not None:
            self._axes = self._axes | {"weights": self.group_dro.weights.tolist()}
            store_axes(self.model, self._axes)
        path = Path(output_dir or self.args.output_dir, AXES_FILE)
        axes = self._axes if self.train_dataset is not None else stored_axes(self.model)
        if self.args.should_save and axes is not None:
            write_json(path, axes)
        elif self.args.should_save:
            path.unlink(missing_ok=True)  # of a model that is overwritten
        super().save_model(output_dir, _internal_call)
