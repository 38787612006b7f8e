"""Counts and class weights of a Trainer: of its training data, its checkpoint or its evaluation data."""

from __future__ import annotations

import copy
from functools import partial
from operator import is_not
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.trainer_utils import has_length

from hf_langimb.counts.columns import class_label_names
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.counts.own_weights import by_label
from hf_langimb.counts.weighting import cell_weights
from hf_langimb.models.axes import (
    MULTI_LABEL,
    class_names,
    config_of,
    counts_of,
    name_labels,
    of_several_labels,
    stored_axes,
)
from hf_langimb.training.checks import count_unseen, problem_of_selection, selecting_datasets
from hf_langimb.training.model_counts import count_for_model, count_labels_for_model
from hf_langimb.training.multi_label import problem_of_arguments, weighted_binary
from hf_langimb.training.objectives import OBJECTIVES, RowLoss, own_objective


class Counted(NamedTuple):
    """Counts and class weights, None where they are not known, and what they were made from."""

    distribution: JointDistribution | MultiLabelDistribution | None
    cell_weights: np.ndarray | None
    weights: torch.Tensor | None
    trained: torch.Tensor | None  # bool[L, C], cells with training rows; of several labels bool[L, 2C]
    row_loss: RowLoss
    objects: tuple[Any, ...]
    columns: tuple[Any, ...]
    settings: dict[str, Any]  # of class weights and objective


def count_again(trainer: Any, known: Counted | None) -> Counted:
    """What is known, or counts and weights made again where arguments, model or data are others than before."""
    args, data = trainer.args, trainer.train_dataset
    if trainer.has_several_labels and (problem := problem_of_arguments(args, trainer.given_loss, data is not None)):
        raise ValueError(problem)
    objects = (data, None, None) if data is not None else (None, trainer.eval_dataset, stored_axes(trainer.model))
    state = str(getattr(data, "format", "")), getattr(data, "_fingerprint", "")  # of `datasets`, which change in place
    columns, settings = (args.language_column, _classes(trainer), state), copy.deepcopy(args.loss_settings)
    counts, table, of_training = None, None, True
    if known is not None and known.columns == columns and not any(map(is_not, known.objects, objects)):
        if known.settings == settings:
            return known
        counts = known.distribution if data is not None else None
    if counts is None:
        counts, table, of_training = _count(trainer)
    if table is None and isinstance(counts, MultiLabelDistribution):
        table = counts.weights(**args.weighting)
    elif table is None and isinstance(counts, JointDistribution):
        config = config_of(trainer.model)
        names = () if config is None else class_names(config)
        table = cell_weights(counts, **args.weighting | {"scheme": by_label(args.weighting["scheme"], counts, names)})
    weights = None if table is None else torch.tensor(table, dtype=torch.float32)
    trained = torch.tensor(counts.counts > 0).flatten(1) if counts is not None and of_training else None
    if trainer.has_several_labels:
        focal = args.objective == "focal" and of_training
        loss: RowLoss = partial(weighted_binary, gamma=args.focal_gamma if focal else 0.0)
    else:
        loss = OBJECTIVES[args.objective if of_training else "cross_entropy"](args, counts)
    if trainer.given_loss is not None:
        if args.objective != "cross_entropy" or args.label_smoothing_factor:
            raise ValueError("row_loss replaces the loss of the arguments: leave objective and label smoothing out.")
        loss = own_objective(trainer.given_loss)
    return Counted(counts, table, weights, trained, loss, objects, columns, settings)


def name_uncounted(trainer: Any) -> str | None:
    """`name_labels` with the names of classes that a stream declares, where it is not counted."""
    columns = [*trainer.label_names, "label", "labels"]
    names = next((found for column in columns if (found := class_label_names(trainer.train_dataset, column))), None)
    if names is None:
        return None
    one_each = JointDistribution(("",), tuple(names), np.ones((1, len(names)), dtype=np.int64))
    settings: dict[str, Any] = {"language_column": "", "label_names": (), "classes": _classes(trainer)}
    count_for_model(None, "train_dataset", given=one_each, **settings)
    return name_labels(trainer.model.config, one_each)


def _classes(trainer: Any) -> int | None:
    """Number of the model's outputs; None where it does not say."""
    return getattr(config_of(trainer.model), "num_labels", None)


def _count(trainer: Any) -> tuple[Any, np.ndarray | None, bool]:
    """Counts, class weights (None: by the arguments), and whether the counts are of training data.

    They are those that were given with this dataset, else counted, else the checkpoint's, else counted on the
    evaluation data, for which the loss is plain.
    """
    args, data, evaluated = trainer.args, trainer.train_dataset, trainer.eval_dataset
    several, config = trainer.has_several_labels, config_of(trainer.model)
    counting = count_labels_for_model if several else partial(count_for_model, classes=_classes(trainer))
    columns = partial(counting, language_column=args.language_column, label_names=trainer.label_names)
    count: Any = partial(columns, names=() if config is None else class_names(config))
    given_with, given = trainer.given_counts
    given = given if data is given_with else None
    if given is None and data is not None and not args.needs_counts and not has_length(data):
        return None, None, True
    if data is not None or given is not None:
        counted = count(data, "train_dataset" if given is None else "distribution", given=given)
        metric = args.metric_for_best_model
        for name, dataset in selecting_datasets(evaluated, metric).items():
            if has_length(dataset):
                found = count(dataset, name, trained=counted)
                if problem := problem_of_selection(metric, name, count_unseen(found, counted), found.rows):
                    raise ValueError(f"{name}: {problem}")
        return counted, None, True
    if stored := stored_axes(trainer.model):
        scheme = stored["class_weighting"]
        if args.class_weighting not in ("none", scheme):
            trainer.say_once(
                f"eval_loss uses the class weights of the checkpoint ({scheme}); {args.class_weighting!r} is ignored."
            )
        if several != of_several_labels(stored):
            kind = "single_label_classification" if several else MULTI_LABEL
            raise ValueError(f"This checkpoint was trained with another problem_type: set it to {kind!r}.")
        return counts_of(stored), np.array(stored["weights"], dtype=np.float64), True
    first = next(iter(evaluated.values()), None) if isinstance(evaluated, dict) else evaluated
    if first is None:
        raise ValueError(
            "LangImbTrainer learns languages and labels from data: pass train_dataset or eval_dataset, or a model "
            "trained with it."
        )
    trainer.say_once("No class weights are recorded in the model's configuration: eval_loss is not weighted.")
    counted = count(first, "eval_dataset")
    if config is not None and not several and not isinstance(counted.labels[0], str):
        name_labels(config, counted)  # are they names?
    return counted, np.ones(counted.counts.shape), False
