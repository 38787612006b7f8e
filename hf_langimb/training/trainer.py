"""`LangImbTrainer`: the Hugging Face Trainer with class weights per language and the masked-input entropy loss."""

from __future__ import annotations

import logging
import random
from functools import partial
from operator import is_not
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput, has_length

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import cell_weights
from hf_langimb.files import write_json
from hf_langimb.models.adapters import add_lora, base_model_of, head_parameters, problem_of
from hf_langimb.models.axes import AXES_FILE, IGNORED_LABEL, axes_of, class_names, name_labels, stored_axes
from hf_langimb.models.inputs import logits_of
from hf_langimb.training import losses
from hf_langimb.training.arguments import LangImbTrainingArguments
from hf_langimb.training.checks import count_for_model, fit_inputs, other_ids, problem_of_optimizer, selecting_datasets
from hf_langimb.training.collator import DataCollatorWithLanguage
from hf_langimb.training.publishing import PublishingTrainer
from hf_langimb.training.sampler import ShuffledBatches

logger = logging.getLogger(__name__)


class _Counted(NamedTuple):
    """Counts and class weights, and what they were made from."""

    distribution: JointDistribution
    cell_weights: np.ndarray
    weights: torch.Tensor
    objects: tuple[Any, ...]
    columns: tuple[Any, ...]
    settings: tuple[Any, ...]


class LangImbTrainer(PublishingTrainer):
    """Trains a sequence classifier whose loss knows the language of each row (arXiv 2402.13016).

    The loss of an optimizer step is the sum over its rows of w[language, label] * CE, divided by the number of rows in
    the full (accumulated, all-process) batch, plus `masked_entropy_weight` times the negative entropy of the
    prediction for an input of mask tokens. Takes the arguments of `Trainer`, except `compute_loss_func`.

    Counts, class weights and adapters follow the arguments, model and data of the training that runs: in each trial of
    a hyperparameter search, and after `trainer.args` or `trainer.train_dataset` has changed.

    Raises:
        ValueError: data, model, tokenizer or arguments do not fit together; the message says what to do.
        TypeError: `args` are not LangImbTrainingArguments, or `compute_loss_func` is given.
    """

    data_collator: Any
    model: Any

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module | None = None,
        args: LangImbTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Any = None,
        **kwargs: Any,
    ) -> None:
        self.args = args or LangImbTrainingArguments()
        self._counted: _Counted | None = None
        self._inner_collator: Any = None  # pads what ours collates
        self._axes: dict[str, Any] | None = None  # of the training data
        if not isinstance(self.args, LangImbTrainingArguments):
            raise TypeError(f"Expected args of type LangImbTrainingArguments, got {type(args).__name__}.")
        if kwargs.get("compute_loss_func", self) is None:
            del kwargs["compute_loss_func"]  # the default; Python refuses any other, which would come twice
        model = None if model is None else self._prepared(model)
        given = (model, self.args, data_collator, train_dataset, eval_dataset, processing_class, model_init)
        super().__init__(*given, compute_loss_func=self._loss, **kwargs)
        self._given_optimizer = self.optimizer
        self._fit_together()
        self._loss_parts = torch.zeros(3, device=self.args.device)  # classification, masked entropy, optimizer steps
        self._evaluated_rows: list[torch.Tensor] = []
        self._warned_of_unseen = False

    def _fit_together(self) -> None:
        """Number the languages of a batch as the weights do, record the axes, and refuse what does not fit."""
        if not isinstance(self.data_collator, DataCollatorWithLanguage):
            self._inner_collator = self.data_collator
        if self._inner_collator is not None:
            self.data_collator = DataCollatorWithLanguage(
                self.processing_class,
                languages=self.distribution.languages,
                language_column=self.args.language_column,
                collator=self._inner_collator,
            )
        if problem := self._problem() or fit_inputs(self):
            raise ValueError(problem)
        if self.train_dataset is not None:  # every checkpoint contains the configuration
            counted, config = self._present(), getattr(self.model, "config", None)
            names = [str(label) for label in counted.distribution.labels]
            if config is not None:
                name_labels(config, counted.distribution)
                names = class_names(config)
            self._axes = axes_of(counted.distribution, self.args.class_weighting, counted.cell_weights, names)
            if config is not None:
                config.langimb = self._axes

    def _problem(self) -> str | None:
        """Why these arguments do not work together, and what to do; None if they do."""
        args, numbered, languages = self.args, self.data_collator.languages, self.distribution.languages
        base, head = base_model_of(self.model), list(head_parameters(self.model))
        frozen = base is not self.model and head and not any(parameter.requires_grad for parameter in head)
        given = self.optimizer if self.optimizer is self._given_optimizer else None
        if args.n_gpu > 1:
            return (
                f"Expected one GPU per process, got {args.n_gpu} (DataParallel), where the loss cannot be scaled "
                "exactly: start one process per GPU with `accelerate launch`, or set CUDA_VISIBLE_DEVICES."
            )
        if numbered != languages:
            return (
                f"data_collator numbers the languages {', '.join(numbered)}, expected {', '.join(languages)} as in the "
                "weights: leave data_collator out, or use that order."
            )
        if args.masked_entropy_weight and getattr(self.processing_class, "mask_token_id", None) is None:
            return (
                "masked_entropy_weight needs a tokenizer with a mask token (processing_class=...), got "
                f"{type(self.processing_class).__name__}: add one (tokenizer.add_special_tokens({{'mask_token': "
                "'<mask>'}) and model.resize_token_embeddings), or set masked_entropy_weight=0."
            )
        if args.head_learning_rate is not None and not head:
            return (
                f"head_learning_rate needs to know the head of {type(base).__name__}: set its base_model_prefix to the "
                "name of its encoder, or leave head_learning_rate out."
            )
        if given is not None and args.head_learning_rate is not None:
            return "head_learning_rate is for the Trainer's own optimizer: leave it out, or leave optimizers out."
        if given is not None and (problem := problem_of_optimizer(given, self.model)):
            return problem
        if frozen and self.train_dataset is not None:
            return (
                "The classification head of this PEFT model is frozen at its random initialization, so that the model "
                "cannot learn the labels: use LoraConfig(task_type='SEQ_CLS') or modules_to_save=['classifier'], or "
                "pass a model without adapters and set lora_rank."
            )
        return None

    # Model and data

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
                    f"This model has adapters of rank {self._rank}, lora_rank is {self.args.lora_rank} now: pass "
                    "model_init, or make a new LangImbTrainer."
                )
            self.model = self.model_wrapped = self._prepared(self.model).to(self.args.device)
            self.optimizer = self.lr_scheduler = None
        self._fit_together()
        self._loss_parts.zero_()
        return super().get_train_dataloader()

    @property
    def distribution(self) -> JointDistribution:
        """Counts of `train_dataset` on the axes languages x labels.

        Without a training set those in the model's configuration, else those of the evaluation set.
        """
        return self._present().distribution

    @property
    def weights(self) -> torch.Tensor:
        """The class weights, float32[L, C]."""
        return self._present().weights

    def _present(self) -> _Counted:
        """Counts and weights, made again where the arguments, the model or the data are others than before."""
        args, data, known = self.args, self.train_dataset, self._counted
        objects = (data, None, None) if data is not None else (None, self.eval_dataset, stored_axes(self.model))
        columns, settings = (args.language_column, self._classes), (args.class_weighting, args.missing_cell_policy)
        if known is None or known.columns != columns or any(map(is_not, known.objects, objects)):
            counts = self._count()
        elif known.settings != settings:
            counts = known.distribution
        else:
            return known
        table = cell_weights(counts, args.class_weighting, missing_cell_policy=args.missing_cell_policy)
        weights = torch.tensor(table, dtype=torch.float32)
        self._counted = _Counted(counts, table, weights, objects, columns, settings)
        return self._counted

    @property
    def _classes(self) -> int | None:
        """Number of the model's outputs; None where it does not say."""
        return getattr(getattr(self.model, "config", None), "num_labels", None)

    def _count(self) -> JointDistribution:
        """Count the training data, else take the checkpoint's counts, else count the evaluation data."""
        count = partial(
            count_for_model,
            classes=self._classes,
            language_column=self.args.language_column,
            label_names=self.label_names,
        )
        evaluated = self.eval_dataset
        first = next(iter(evaluated.values()), None) if isinstance(evaluated, dict) else evaluated
        if self.train_dataset is not None:
            counted = count(self.train_dataset, "train_dataset")
            for name, dataset in selecting_datasets(evaluated, self.args.metric_for_best_model).items():
                count(dataset, name, trained=counted)
            return counted
        if stored := stored_axes(self.model):
            return JointDistribution(*(stored[key] for key in ("languages", "labels", "counts")))
        if first is None:
            raise ValueError(
                "LangImbTrainer learns languages and labels from data: pass train_dataset or eval_dataset, or a model "
                "trained with it."
            )
        return count(first, "eval_dataset")

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """`Trainer`'s sampler; batches grouped by length are shuffled: length correlates with language and label."""
        sampler = super()._get_train_sampler(train_dataset)
        if self.args.train_sampling_strategy != "group_by_length" or sampler is None:
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ShuffledBatches(sampler, self.args.train_batch_size * self.args.gradient_accumulation_steps, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows in their order: `Trainer` would group those of evaluation and prediction by length, too."""
        if self.args.train_sampling_strategy == "group_by_length" and has_length(eval_dataset):
            return torch.utils.data.SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        """`Trainer`'s columns, and the language, which would be dropped silently."""
        super()._set_signature_columns_if_needed()
        for column in (self.args.language_column, "language_ids"):
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    # The loss

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take the language ids out, append the mask row in training, leave the forward pass to `Trainer`."""
        inputs = dict(inputs)
        self._language_ids = inputs.pop("language_ids", None)
        training = model.training
        if training and (self._language_ids is None or (self._language_ids < 0).any()):
            raise ValueError(
                f"A training batch has rows of unknown language: they lack the column {self.args.language_column!r} or "
                f"have a language that is not one of {', '.join(self.distribution.languages)}, or data_collator is not "
                "a DataCollatorWithLanguage."
            )
        if self._language_ids is None:
            self._language_ids = torch.full_like(inputs["labels"], -1)
        mask = self._draw_mask(inputs) if training and self.args.masked_entropy_weight else None
        self._has_mask_row = mask is not None
        if mask is not None:
            labels = inputs.pop("labels")
            inputs = losses.append_masked_row(inputs, self.processing_class, **mask) | {"labels": labels}
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if isinstance(found, tuple) and isinstance(found[1], tuple) and logits_of(found[1]) is found[1][0]:
            return found[0], (None, *found[1])  # `Trainer` takes the first of a tuple for a loss
        return found

    def _draw_mask(self, inputs: dict[str, torch.Tensor]) -> dict[str, int] | None:
        """A random row of the batch and a length from 1 to the batch's longest content; None if all texts are empty."""
        ids = inputs["input_ids"]
        content = losses.is_content(ids, self.processing_class).sum(dim=1)
        with_content = content.nonzero().flatten().tolist()
        if not with_content:
            return None
        # Python's generator: checkpoints keep its state, and order of rows and dropout do not depend on it
        row = random.choice(with_content)
        read = (
            inputs["attention_mask"][row]
            if "attention_mask" in inputs
            else ids[row] != self.processing_class.pad_token_id
        )
        room = ids.shape[1] - int(read.sum()) + int(content[row])  # the batch is as wide as the model reads
        return {"row": row, "length": random.randint(1, min(int(content.max()), room))}

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Sum of w * CE over items of the full batch, plus the masked-input entropy; see the class."""
        logits = logits_of(outputs)
        rows = logits[: len(labels)]
        wrong = (labels >= logits.shape[-1]) | ((labels < 0) & (labels != IGNORED_LABEL))
        if logits.dim() != 2 or wrong.any():
            raise ValueError(
                f"Expected logits [rows, classes] and labels from 0 to {logits.shape[-1] - 1}, the outputs of the "
                f"model, got logits {list(logits.shape)} and labels {labels.min().item()} to {labels.max().item()}: "
                f"one label per text, and {IGNORED_LABEL} for rows that the loss ignores."
            )
        smoothing = self.args.label_smoothing_factor
        own = losses.weighted_cross_entropy(rows, labels, self._language_ids, self.weights, smoothing)
        labeled = (labels != IGNORED_LABEL).sum()
        items = labeled if num_items_in_batch is None else num_items_in_batch
        classification = own.sum() / items
        if not self.model.training:
            self._remember_evaluated(rows, labels, own)
            return classification
        entropy = classification.new_zeros(())
        if self._has_mask_row:
            entropy = self.args.masked_entropy_weight * labeled / items * losses.negative_entropy(logits[-1])
        self._loss_parts += torch.stack([classification, entropy, labeled / items]).detach()
        return classification + entropy

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss too, averaged over the same steps and summed over processes."""
        if "loss" in logs:
            classification, entropy, steps = self.accelerator.reduce(self._loss_parts, reduction="sum").tolist()
            if steps:
                logs |= {"loss_classification": classification / steps, "loss_masked_entropy": entropy / steps}
        if "loss" in logs or "train_loss" in logs:  # logged, or at the end of training
            self._loss_parts.zero_()
        super().log(logs, start_time)

    # Evaluation: exact means over rows, weighted as in training, plain, and as if all cells were equally frequent

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Without labels no loss is computed, and the language ids must not reach the model."""
        if "labels" not in inputs:
            inputs = {name: value for name, value in inputs.items() if name != "language_ids"}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _remember_evaluated(self, logits: torch.Tensor, labels: torch.Tensor, own: torch.Tensor) -> None:
        """Keep the losses of a batch, of all processes, for the means over rows."""
        if (self._language_ids < 0).any() and not self._warned_of_unseen:
            logger.warning(
                "Rows in a language unseen in training, or without one, are evaluated with weight 1 (the plain loss)."
            )
            self._warned_of_unseen = True
        plain = losses.weighted_cross_entropy(logits, labels, torch.full_like(labels, -1), self.weights)
        rows = torch.stack([own, plain, self._language_ids.to(own.dtype), labels.to(own.dtype)], dim=1)
        self._evaluated_rows.append(self.accelerator.gather_for_metrics(rows).cpu().double())

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """`Trainer`'s loop of evaluate and predict; the losses are means over rows, not over batches.

        Raises:
            ValueError: class ids mean other languages or labels than in training.
        """
        dataset = getattr(dataloader.dataset, "dataset", dataloader.dataset)  # a stream's, in several processes
        if problem := other_ids(dataset, self.args.language_column, self.distribution):
            raise ValueError(f"{metric_key_prefix}_dataset: {problem}")
        self._evaluated_rows = []
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._evaluated_rows:
            means = losses.mean_losses(torch.cat(self._evaluated_rows))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    # Optimizer and files

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """`Trainer`'s optimizer; with `head_learning_rate` each of its groups is split into encoder and head."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
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
        if self.args.should_save and (axes := self._axes or stored_axes(self.model)):
            write_json(Path(output_dir or self.args.output_dir, AXES_FILE), axes)
        super().save_model(output_dir, _internal_call)
