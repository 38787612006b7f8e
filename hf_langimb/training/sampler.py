"""The order of training rows: batches of rows grouped by length, and rows drawn at the rates of their cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from hf_langimb.counts.columns import class_label_names, column_batches, encode_column
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.drawing import draw_rates, draw_rows, stages_of
from hf_langimb.counts.weighting import GROUP_DRO, Counts, Floats, cell_weights
from hf_langimb.training.model_counts import label_column_of

if TYPE_CHECKING:
    from hf_langimb.training.arguments import LangImbTrainingArguments


GROUPED = 50  # batches whose rows are sorted by length together, as in `Trainer`


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


class DrawnRows(torch.utils.data.Sampler[int]):
    """Rows drawn at the rates of their cells, as many per epoch as the dataset has labeled rows.

    The rows depend on seed and epoch alone: they are the same in every process, and when an epoch is resumed.

    Args:
        cells: of the rows, int64[N], see `draw_rows`.
        rates: [L, C] of each stage of the training, which are equally long.
        steps: of the training.
        seed: of the random numbers.
        most: how often a row may be drawn in an epoch.
        lengths: of the rows, int[N], if batches are to have rows of similar length.
        batch_size: of these batches.
    """

    def __init__(
        self,
        cells: Counts,
        rates: list[Floats],
        steps: Steps,
        seed: int,
        most: int | None = None,
        lengths: Any = None,
        batch_size: int = 1,
    ) -> None:
        self.cells, self.rates, self.steps, self.seed, self.most = cells, rates, steps, seed, most
        self.lengths, self.batch_size = lengths, batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int((self.cells >= 0).sum())

    def __iter__(self) -> Iterator[int]:
        generator, before = np.random.default_rng([self.seed, self.epoch]), np.zeros(len(self.cells), dtype=np.int64)
        steps = self.epoch * self.steps.in_epoch + np.arange(len(self)) // self.steps.rows
        stages = np.minimum(steps * len(self.rates) // self.steps.total, len(self.rates) - 1)
        for stage, size in zip(*np.unique(stages, return_counts=True), strict=True):
            rows = draw_rows(self.cells, self.rates[stage], int(size), generator, before, self.most)
            before += np.bincount(rows, minlength=len(before))
            yield from (rows if self.lengths is None else self._grouped(rows, generator)).tolist()

    def _grouped(self, rows: Any, generator: np.random.Generator) -> Any:
        """Rows in random order, in batches of similar length as `Trainer` groups them; the last may be smaller."""
        size = self.batch_size
        several = size * max(min(len(rows) // (4 * size), GROUPED), 1)
        parts = np.split(rows, range(several, len(rows), several))
        ordered = np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in parts])
        full = len(rows) // size * size
        batches = generator.permutation(ordered[:full].reshape(-1, size))
        return np.concatenate([batches.ravel(), ordered[full:]])


class SetEpoch(TrainerCallback):  # type: ignore[misc]
    """Gives the sampler of a Trainer the number of the epoch.

    Where several processes resume an epoch, neither Transformers nor Accelerate does: the rows of the first are drawn.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the sampler behind the batch samplers that Accelerate adds."""
        found = self.trainer.callback_handler.train_dataloader
        while found is not None and not isinstance(found, ShuffledBatches | DrawnRows):
            inner = getattr(found, "batch_sampler", None)
            found = getattr(found, "sampler", None) if inner is None else inner
        if found is not None:
            found.set_epoch(int(state.epoch or 0))


class Steps(NamedTuple):
    """Rows of an optimizer step of all processes, steps of an epoch and of the training."""

    rows: int
    in_epoch: int
    total: int


def steps_of(args: LangImbTrainingArguments, rows: int, rows_per_step: int) -> Steps:
    """The steps of a training on `rows` rows."""
    batch = rows_per_step // args.gradient_accumulation_steps
    batches = rows // batch if args.dataloader_drop_last else math.ceil(rows / batch)
    in_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    total = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * in_epoch)
    return Steps(rows_per_step, in_epoch, max(total, 1))


def stage_rates(args: LangImbTrainingArguments, distribution: JointDistribution, total_steps: int) -> list[Floats]:
    """How often a row of each cell is drawn, float64[L, C], in each stage of a training.

    Raises:
        ValueError: cells without rows, or a schedule that does not fit the languages or the training.
    """
    weights = cell_weights(distribution, **args.sampling_weights)
    shares: list[tuple[str, float] | None] = [None]
    if args.language_schedule is not None:
        language, _, stages = args.language_schedule.rpartition(":")
        shares = [(language, share) for share in stages_of(stages, total_steps)]
    options = {"temperature": args.language_temperature, "most": args.max_repeats}
    return [draw_rates(distribution, weights, share=share, **options) for share in shares]


def rates_of(trainer: Any) -> tuple[list[Floats], Steps]:
    """`stage_rates` of a Trainer, and the steps of its training.

    Raises:
        ValueError: as `stage_rates`, or a dataset whose rows cannot be drawn.
    """
    args, dataset = trainer.args, trainer.train_dataset
    if not has_length(dataset) or isinstance(dataset, torch.utils.data.IterableDataset):
        raise ValueError("Sampling by language and label needs a dataset with a length: load it without streaming.")
    steps = steps_of(args, trainer.distribution.rows, trainer.get_total_train_batch_size(args))
    return stage_rates(args, trainer.distribution, steps.total), steps


def sampler_of(trainer: Any, dataset: Any, usual: Any) -> Any:
    """The sampler of a Trainer's arguments for a dataset whose counts are the Trainer's.

    Args:
        trainer: with the arguments and counts.
        dataset: whose rows are read.
        usual: the sampler of `Trainer`, whose batches are shuffled if it groups rows by length.

    Raises:
        ValueError: as `rates_of`, or rows of a language that is not in the counts.
    """
    args = trainer.args
    seed = args.seed if args.data_seed is None else args.data_seed
    size = args.train_batch_size * args.gradient_accumulation_steps
    grouped = args.train_sampling_strategy == "group_by_length" and usual is not None
    if not args.draws_rows or trainer.distribution is None:
        return ShuffledBatches(usual, size, seed) if grouped else usual
    rates, steps = rates_of(trainer)
    label_column = label_column_of(dataset, args.language_column, trainer.label_names)
    cells = _cells(dataset, args.language_column, label_column, trainer.distribution)
    lengths = np.asarray(usual.lengths) if grouped else None
    return DrawnRows(cells, rates, steps, seed, args.max_repeats, lengths, size)


def settings_without_effect(trainer: Any) -> Iterator[str]:
    """Settings of a Trainer that have less or more effect than it seems, as sentences."""
    args, usual = trainer.args, type(trainer.args).__dataclass_fields__
    for name in args.without_effect:
        if (value := getattr(args, name)) != usual[name].default:
            yield f"{name}={value} has no effect with these arguments."
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    moving = metric.endswith("loss") and not metric.endswith(("plain_loss", "uniform_loss"))
    if args.class_weighting == GROUP_DRO and args.load_best_model_at_end and moving:
        yield (
            "eval_loss uses the group_dro weights of the current step, so its values at different steps cannot be "
            "compared: set metric_for_best_model='eval_uniform_loss'."
        )
    if args.draws_rows + (args.class_weighting != "none") + args.objective.startswith("logit_adjustment") > 1:
        yield (
            "Sampling, class weights and logit adjustment each compensate for how rows are distributed over languages "
            "and labels: use one of them."
        )


def _cells(dataset: Any, language_column: str, label_column: str, distribution: JointDistribution) -> Counts:
    """The cell of each row, int64[N], language * C + label; -1 where its label is ignored."""
    position = {language: i for i, language in enumerate(distribution.languages)}
    named, parts = class_label_names(dataset, language_column) is not None, []
    for languages, labels in column_batches(dataset, {"language": language_column, "label": label_column}):
        axis, ids = encode_column(languages, "language")
        if not named and (unknown := [one for one in axis if one not in position]):
            raise ValueError(
                f"The rows have the language {unknown[0]}, which is not in distribution: count these rows, too."
            )
        table = np.array([int(one) if named else position[one] for one in axis], dtype=np.int64)
        axis, classes = encode_column(labels, "label")
        found = np.array([int(one) for one in axis], dtype=np.int64)[classes]
        parts.append(np.where(found >= 0, table[ids] * len(distribution.labels) + found, -1))
    return np.concatenate(parts)
