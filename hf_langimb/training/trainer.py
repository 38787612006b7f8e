"""`LangImbTrainer`: the Hugging Face Trainer with class weights per language and the masked-input entropy loss."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput, has_length

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.weighting import cell_weights
from hf_langimb.files import write_json
from hf_langimb.models.adapters import add_lora, base_model_of, head_parameters, problem_of
from hf_langimb.models.axes import AXES_FILE, IGNORED_LABEL, axes_of, class_names, name_labels
from hf_langimb.training import losses
from hf_langimb.training.arguments import LangImbTrainingArguments
from hf_langimb.training.checks import count_for_model, other_ids, selecting_datasets
from hf_langimb.training.collator import DataCollatorWithLanguage
from hf_langimb.training.publishing import PublishingTrainer

logger = logging.getLogger(__name__)


class ShuffledBatches(torch.utils.data.Sampler[int]):
    """The batches of a length-grouping sampler in random order, a last smaller one at the end.

    The order depends on seed and epoch alone: it is the same in every process, and when an epoch is resumed.
    """

    def __init__(self, sampler: Any, batch_size: int, seed: int) -> None:
        self.sampler, self.batch_size, self.seed = sampler, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.sampler.generator = generator
        rows = list(self.sampler)
        full = len(rows) // self.batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from rows[full * self.batch_size :]


class LangImbTrainer(PublishingTrainer):
    """Trains a sequence classifier whose loss knows the language of each row (arXiv 2402.13016).

    The loss of an optimizer step is the sum over its rows of w[language, label] * CE, divided by the number of rows in
    the full (accumulated, all-process) batch, plus `masked_entropy_weight` times the negative entropy of the
    prediction for an input of mask tokens. Takes the arguments of `Trainer`, except `compute_loss_func`.

    Attributes:
        distribution: counts of `train_dataset` on the axes languages x labels (without a training set, those stored
            in the model's configuration, else those of the evaluation set).
        weights: float32[L, C], the class weights.

    Raises:
        ValueError: data, model, tokenizer or arguments do not fit together; the message says what to do.
        TypeError: `args` are not LangImbTrainingArguments, or `compute_loss_func` is given.
    """

    data_collator: Any
    distribution: Any = None  # a JointDistribution once the data are counted

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
        if not isinstance(self.args, LangImbTrainingArguments):
            raise TypeError(f"Expected args of type LangImbTrainingArguments, got {type(args).__name__}.")
        if kwargs.get("compute_loss_func", self) is None:
            del kwargs["compute_loss_func"]  # the default; Python refuses any other, which would come twice
        model = None if model is None else self._prepared(model)
        given = (model, self.args, data_collator, train_dataset, eval_dataset, processing_class, model_init)
        super().__init__(*given, compute_loss_func=self._loss, **kwargs)
        self._learn_axes()
        if not isinstance(self.data_collator, DataCollatorWithLanguage):
            names = {"languages": self.distribution.languages, "language_column": self.args.language_column}
            self.data_collator = DataCollatorWithLanguage(self.processing_class, **names, collator=self.data_collator)
        if problem := self._problem():
            raise ValueError(problem)
        self._loss_parts = torch.zeros(3, device=self.args.device)  # classification, masked entropy, optimizer steps
        self._evaluated_rows: list[torch.Tensor] = []
        self._warned_of_unseen = False

    def _problem(self) -> str | None:
        """Why these arguments do not work together, and what to do; None if they do."""
        args, numbered, languages = self.args, self.data_collator.languages, self.distribution.languages
        base, head = base_model_of(self.model), list(head_parameters(self.model))
        frozen = base is not self.model and head and not any(parameter.requires_grad for parameter in head)
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
        if problem := problem_of(model, self.args.lora_rank):
            raise ValueError(problem)
        return add_lora(model, self.args.lora_rank) if self.args.lora_rank else model

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """`Trainer`'s model, prepared, with the axes: each training and each trial of a search makes it again."""
        model = self._prepared(super().call_model_init(trial))
        if self.distribution is not None:
            self._write_axes(model)
        return model

    def _learn_axes(self) -> None:
        """Count the training data, else take the checkpoint's counts, else count the evaluation data; then weights."""
        count = partial(
            count_for_model,
            classes=self.model.config.num_labels,
            language_column=self.args.language_column,
            label_names=self.label_names,
        )
        evaluated = self.eval_dataset
        first = next(iter(evaluated.values()), None) if isinstance(evaluated, dict) else evaluated
        if self.train_dataset is not None:
            self.distribution = count(self.train_dataset, "train_dataset")
            for name, dataset in selecting_datasets(evaluated, self.args.metric_for_best_model).items():
                count(dataset, name, trained=self.distribution)
        elif stored := getattr(self.model.config, "langimb", None):
            self.distribution = JointDistribution(*(stored[key] for key in ("languages", "labels", "counts")))
        elif first is not None:
            self.distribution = count(first, "eval_dataset")
        else:
            raise ValueError(
                "LangImbTrainer learns languages and labels from data: pass train_dataset or eval_dataset, or a model "
                "trained with it."
            )
        policy = self.args.missing_cell_policy
        self._cell_weights = cell_weights(self.distribution, self.args.class_weighting, missing_cell_policy=policy)
        self.weights = torch.tensor(self._cell_weights, dtype=torch.float32)
        if self.train_dataset is not None:
            self._write_axes(self.model)

    def _write_axes(self, model: PreTrainedModel) -> None:
        """Write languages, labels, counts and weights into the configuration, which every checkpoint contains."""
        name_labels(model.config, self.distribution.labels)
        names = class_names(model.config)
        model.config.langimb = axes_of(self.distribution, self.args.class_weighting, self._cell_weights, names)

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
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _draw_mask(self, inputs: dict[str, torch.Tensor]) -> dict[str, int] | None:
        """A random row of the batch and a length from 1 to the batch's longest content; None if all texts are empty."""
        content = losses.is_content(inputs["input_ids"], self.processing_class).sum(dim=1)
        with_content = content.nonzero().flatten().tolist()
        if not with_content:
            return None
        # Python's generator: checkpoints keep its state, and order of rows and dropout do not depend on it
        return {"row": random.choice(with_content), "length": random.randint(1, int(content.max()))}

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """Sum of w * CE over items of the full batch, plus the masked-input entropy; see the class."""
        logits = outputs.logits if hasattr(outputs, "logits") else outputs[0]
        rows = logits[: len(labels)]
        if logits.dim() != 2 or (labels >= logits.shape[1]).any():
            raise ValueError(
                f"Expected logits [rows, classes] and labels below {logits.shape[-1]}, the outputs of the model, got "
                f"logits {list(logits.shape)} and labels up to {labels.max().item()}: one label per text."
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
        if self.args.should_save and (axes := getattr(self.model.config, "langimb", None)):
            write_json(Path(output_dir or self.args.output_dir, AXES_FILE), axes)
        super().save_model(output_dir, _internal_call)
