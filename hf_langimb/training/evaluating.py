"""Evaluation: exact means over rows, weighted as in training, plain, and as if all cells were equally frequent."""

from __future__ import annotations

from typing import Any

import torch
from transformers.trainer_utils import EvalLoopOutput, has_length

from hf_langimb.models.axes import IGNORED_LABEL, class_names, config_of
from hf_langimb.training import losses
from hf_langimb.training.checks import other_ids, problem_of_numerals, problem_of_selection
from hf_langimb.training.multi_label import Batch, has_several_labels
from hf_langimb.training.resuming import ResumingTrainer


class EvaluatingTrainer(ResumingTrainer):
    """Computes the losses of an evaluation from its rows, and checks that their class ids are those of the training."""

    _language_ids: torch.Tensor  # of the batch
    _evaluated_rows: list[torch.Tensor]

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Without labels no loss is computed, and the language ids must not reach the model."""
        if "labels" not in inputs:
            inputs = {name: value for name, value in inputs.items() if name != "language_ids"}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _remember_evaluated(self, batch: Batch, own: torch.Tensor, size: int) -> None:
        """Keep the losses of a batch of some rows, of all processes, for the means over rows."""
        columns = [own, batch.plain_losses(), batch.language_ids.to(own.dtype), batch.labels.to(own.dtype)]
        rows = torch.stack(columns, dim=1).reshape(size, -1, 4)  # [B, C, 4] of C labels: each row is gathered once
        self._evaluated_rows.append(self.accelerator.gather_for_metrics(rows).cpu().double())

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """`Trainer`'s loop of evaluate and predict; the losses are means over rows, not over batches.

        Raises:
            ValueError: class ids mean other languages or labels than in training.
        """
        dataset = getattr(dataloader.dataset, "dataset", dataloader.dataset)  # a stream's, in several processes
        known, prefix, config = self._present(), metric_key_prefix, config_of(self.model)
        names = () if config is None else class_names(config)
        if known.distribution and (problem := other_ids(dataset, self.args.language_column, known.distribution, names)):
            raise ValueError(f"{prefix}_dataset: {problem}")
        self._evaluated_rows = []
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=prefix, **kwargs)
        if not self._evaluated_rows:
            return output
        rows, several = torch.cat(self._evaluated_rows), has_several_labels(config)
        if not several and (problem := problem_of_numerals(dataset, names, known.distribution, rows[:, 0, 3])):
            raise ValueError(f"{prefix}_dataset: {problem}")
        dataset = dataloader.dataset
        if has_length(dataset) and not self.args.dataloader_drop_last and len(rows) != len(dataset):
            raise ValueError(
                f"{prefix}_dataset: data_collator returned {len(rows):,} rows, expected {len(dataset):,}: it must "
                "return every row exactly once in an evaluation."
            )
        means = losses.mean_losses(rows.flatten(0, 1), known.trained)
        if known.distribution is None and (self.args.world_size > 1 or self.args.dataloader_num_workers):
            means.pop("uniform_loss", None)  # each process numbers the languages that it meets
        metric = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        if self.is_in_train and metric in output.metrics:
            unseen = int(means.get("unseen_rows", 0))
            labeled = int((rows[..., 3] != IGNORED_LABEL).sum())
            if problem := problem_of_selection(metric, prefix.removeprefix("eval_"), unseen, labeled):
                raise ValueError(f"{prefix}_dataset: {problem}")
        if "loss" not in means:  # all rows are unseen or ignored
            output.metrics.pop(f"{prefix}_loss", None)
        output.metrics.update({f"{prefix}_{name}": value for name, value in means.items()})
        return output
