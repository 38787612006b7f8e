"""What a dataset must contain for a model to be trained or evaluated on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedModel
from transformers.trainer_utils import default_compute_objective, has_length

from hf_langimb.counts.columns import class_label_names, first_row, is_transformed
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.multi_label import MultiLabelDistribution
from hf_langimb.models.adapters import base_model_of, head_parameters
from hf_langimb.models.axes import IGNORED_LABEL, folded, names_or_ids, spelling_of, unnamed
from hf_langimb.models.inputs import (
    has_position_table,
    most_tokens,
    numbers_padding,
    reads,
    takes_last_token,
    token_types_of,
)
from hf_langimb.training.collator import LABELS

Counts = JointDistribution | MultiLabelDistribution
OWN_LOSSES = ("loss", "plain_loss", "uniform_loss")  # of an evaluation, means over rows


def problem_of_optimizer(optimizer: Any, model: Any) -> str | None:
    """Why a given optimizer does not train a model: each trainable parameter is in exactly one of its groups."""
    held = Counter(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
    names = {name: held[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = [name for name, times in names.items() if times != 1]
    if not wrong:
        return None
    return (
        f"The given optimizer has {len(names) - len(wrong)} of {len(names)} trainable parameters in exactly one group, "
        f"but not {wrong[0]}: create it from the model that you train (lora_rank adds adapters only afterwards: leave "
        "optimizers out, or add the adapters with PEFT first)."
    )


def fit_inputs(trainer: Any) -> str | None:
    """Tell a decoder's head how rows are padded; why the model cannot read the batches, and what to do, else None."""
    base, collator, args = base_model_of(trainer.model), trainer.data_collator, trainer.args
    several = max(args.train_batch_size, args.eval_batch_size) > 1
    tokenizer = getattr(collator.collator, "tokenizer", collator.tokenizer)
    pad_id = getattr(tokenizer, "pad_token_id", None)
    if pad_id is None and isinstance(collator.collator, DataCollatorWithPadding):
        return (
            f"{type(tokenizer).__name__} has no padding token, but batches are padded: set tokenizer.pad_token = "
            "tokenizer.eos_token (padding is masked, so any token works)."
        )
    if not isinstance(base, PreTrainedModel):
        return None
    if takes_last_token(base):
        config = base.config.get_text_config()
        if pad_id is not None:
            config.pad_token_id = pad_id  # as `Trainer` does when training starts
        elif config.pad_token_id is None and several:
            return f"{type(base).__name__} finds the last token of a row by its padding: set model.config.pad_token_id."
    attended = "attention_mask" in getattr(tokenizer, "model_input_names", ["attention_mask"])
    shifts = getattr(tokenizer, "padding_side", "right") == "left" and numbers_padding(base)
    if several and (shifts or not attended) and reads(base, "attention_mask"):
        trainer.say_once(
            f"Outputs depend on the padding of a batch: {type(tokenizer).__name__} "
            + (
                "pads on the left, where this model counts positions: set tokenizer.padding_side='right'."
                if shifts
                else "makes no attention_mask: add it to tokenizer.model_input_names."
            )
        )
    known, most = token_types_of(base), (has_position_table(base) and most_tokens(base)) or math.inf
    evaluated = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    for dataset in (trainer.train_dataset, *evaluated.values()):
        longest, highest = (0, 0) if not has_length(dataset) else _longest_and_highest(dataset, most, known)
        if longest > most:
            return (
                f"The data have rows of up to {longest} tokens, but the model reads {most}: tokenize with "
                f"truncation=True, max_length={most}."
            )
        if 0 < known <= highest:
            return (
                f"The data have token_type_ids up to {highest}, but the model knows {known} (type_vocab_size): use "
                "dataset.remove_columns('token_type_ids'), or tokenize with return_token_type_ids=False."
            )
    return None


def _longest_and_highest(dataset: Any, most: float, known: float) -> tuple[int, int]:
    """Tokens of the longest row and the highest token type; of the first row where rows are made as they are read."""
    names = [name for name in ("input_ids", "token_type_ids") if name in (getattr(dataset, "column_names", None) or ())]
    if not isinstance(dataset, Dataset) or is_transformed(dataset) or "input_ids" not in names:
        row = first_row(dataset)
        row = row if isinstance(row, Mapping) else {}
        return len(row.get("input_ids", ())), max(map(int, row.get("token_type_ids", ())), default=0)

    def largest(table: Any) -> tuple[int, int]:
        """Both of a table."""
        types = pc.max(pc.list_flatten(table.column("token_type_ids"))).as_py() if "token_type_ids" in names else 0
        return pc.max(pc.list_value_length(table.column("input_ids"))).as_py() or 0, types or 0

    longest, highest = largest(dataset.data)  # also of rows that a filter left out, but fast
    if longest > most or 0 < known <= highest:
        selected = dataset.select_columns(names).with_format("arrow")
        exact = [largest(table) for table in selected.iter(batch_size=10_000)] or [(0, 0)]
        longest, highest = (max(column) for column in zip(*exact, strict=True))
    return longest, highest


def optimized(model: Any, args: Any) -> tuple[Any, ...]:
    """The parameters that an optimizer trains, and its settings: with others it is made again."""
    trained = (id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    rates = args.learning_rate, args.head_learning_rate, args.weight_decay
    return (*trained, args.optim, args.optim_args, *rates, args.adam_beta1, args.adam_beta2, args.adam_epsilon)


def objective(metrics: dict[str, float]) -> float:
    """`Trainer`'s objective of a search: the sum of the metrics of `compute_metrics`, else eval_loss."""
    own = ("_plain_loss", "_uniform_loss", "_unseen_rows")
    return default_compute_objective({name: value for name, value in metrics.items() if not name.endswith(own)})


def selecting_datasets(eval_dataset: Any, metric_for_best_model: str | None) -> dict[str, Any]:
    """The evaluation set that selects the checkpoint: the only one, or the one in the metric's name."""
    if not isinstance(eval_dataset, dict):
        return {} if eval_dataset is None else {"eval_dataset": eval_dataset}
    metric = (metric_for_best_model or "").removeprefix("eval_")
    named = [name for name in eval_dataset if metric.startswith(f"{name}_")]  # of "t" and "t_en" the longer one
    return {name: eval_dataset[name] for name in sorted(named, key=len)[-1:]}


def other_ids(dataset: Any, language_column: str, trained: Counts, names: Sequence[str] = ()) -> str | None:
    """How the class ids of a dataset mean other languages or labels than in training, and what to do; else None.

    `names` are the model's for its classes.
    """
    label = next((column for column in ("labels", "label_ids") if class_label_names(dataset, column)), "label")
    known = (
        []
        if unnamed(names) or not {*map(folded, names)} & {*map(folded, class_label_names(dataset, label) or ())}
        else [names]
    )
    for purpose, column, expected in (
        ("language", language_column, trained.languages),
        *(("label", label, one) for one in (trained.labels, *known)),
    ):
        found = class_label_names(dataset, column)
        spelling = spelling_of(expected, found or ()) if purpose == "label" else str
        start = [spelling(name) for name in (found or ())[: len(expected)]]
        if found and isinstance(expected[0], str) and start != [spelling(name) for name in expected]:
            ids = {entry: i for i, entry in enumerate(expected)}
            return (
                f"its {purpose} column is a ClassLabel with the order {', '.join(found)}, expected "
                f"{', '.join(expected)} as in train_dataset: use dataset.align_labels_with_mapping({ids}, column)."
            )
    return None


def problem_of_collator(collator: Any, language_column: str, counts: Counts | None) -> str | None:
    """Why a given `DataCollatorWithLanguage` does not number languages as the weights do; None if it does."""
    if collator.language_column != language_column:
        return (
            f"data_collator reads the language from {collator.language_column!r}, and language_column is "
            f"{language_column!r}: make them the same."
        )
    if counts is not None and collator.languages != counts.languages:
        return (
            f"data_collator numbers the languages {', '.join(collator.languages)}, expected "
            f"{', '.join(counts.languages)} as in the weights: leave data_collator out, or use their order."
        )
    return None


def problem_of_numerals(
    dataset: Any, names: Sequence[str], trained: JointDistribution | None, labels: Any
) -> str | None:
    """Why the labels of evaluated rows, float64[N], may be the model's names or class ids; None if they are ids.

    They are ids where a ClassLabel, or integer labels in training, say so.
    """
    declared = any(class_label_names(dataset, column) for column in LABELS)
    if declared or not names or (trained is not None and not isinstance(trained.labels[0], str)):
        return None
    return names_or_ids(names, {int(label) for label in labels.unique().tolist()} - {IGNORED_LABEL})


def problem_of_selection(metric: str | None, name: str, unseen_rows: int, rows: int) -> str | None:
    """Why the evaluation set `name` cannot select the checkpoint by a metric; None if it can, or nothing is selected.

    Args:
        unseen_rows: number of its rows that are in cells without training rows.
        rows: number of its labeled rows.
    """
    if metric is None or not unseen_rows:
        return None
    if metric.removeprefix("eval_").removeprefix(f"{name}_") not in OWN_LOSSES:
        return (
            f"{unseen_rows:,} rows in a language or a cell (language, label) without training rows would count in "
            f"{metric}: remove them, or set metric_for_best_model='eval_loss', which leaves them out."
        )
    if unseen_rows == rows:
        return (
            f"all of its {rows:,} rows are in a language or a cell (language, label) without training rows, so that no "
            "loss can select the checkpoint: evaluate on other rows."
        )
    return None


def count_unseen(evaluated: Counts, trained: Counts) -> int:
    """Number of rows in languages, or with labels in a language, that have no training rows."""
    known = {language: counts > 0 for language, counts in zip(trained.languages, trained.counts, strict=True)}
    pairs = zip(evaluated.languages, evaluated.counts, strict=True)
    return sum(int(counts.sum() - counts[known[one]].sum() if one in known else counts.sum()) for one, counts in pairs)


def problem_of_parts(trainer: Any, optimizer: Any) -> str | None:
    """Why a Trainer's arguments, model, tokenizer and given optimizer do not work together, and what to do; or None."""
    args = trainer.args
    base, head = base_model_of(trainer.model), list(head_parameters(trainer.model))
    known = not hasattr(base, "config") or hasattr(base.config, "get_text_config")
    if not known and trainer.processing_class is not None:
        return (
            f"{type(base).__name__} has a {type(base.config).__name__} as config, which Trainer takes for that "
            "of a Transformers model: rename it, or leave processing_class out."
        )
    frozen = base is not trainer.model and head and not any(parameter.requires_grad for parameter in head)
    if args.n_gpu > 1:
        return (
            f"Expected one GPU per process, got {args.n_gpu} (DataParallel), where the loss cannot be scaled "
            "exactly: start one process per GPU with `accelerate launch`, or set CUDA_VISIBLE_DEVICES."
        )
    if args.masked_entropy_weight and getattr(trainer.processing_class, "mask_token_id", None) is None:
        return (
            "masked_entropy_weight needs a tokenizer with a mask token (processing_class=...), got "
            f"{type(trainer.processing_class).__name__}: add one (tokenizer.add_special_tokens({{'mask_token': "
            "'<mask>'}) and model.resize_token_embeddings), or set masked_entropy_weight=0."
        )
    if args.head_learning_rate is not None and not head:
        return (
            f"head_learning_rate needs to know the head of {type(base).__name__}: set its base_model_prefix to the "
            "name of its encoder, or leave head_learning_rate out."
        )
    if optimizer is not None and args.head_learning_rate is not None:
        return "head_learning_rate is for the Trainer's own optimizer: leave it out, or leave optimizers out."
    if optimizer is not None and (problem := problem_of_optimizer(optimizer, trainer.model)):
        return problem
    if getattr(trainer.model, "_hf_peft_config_loaded", False) and trainer.train_dataset is not None:
        return (
            "Adapters of model.add_adapter are saved without the classification head: use peft.get_peft_model with "
            "LoraConfig(task_type='SEQ_CLS'), or pass a model without adapters and set lora_rank."
        )
    if frozen and trainer.train_dataset is not None:
        return (
            "The classification head of this PEFT model is frozen at its random initialization, so that the model "
            "cannot learn the labels: use LoraConfig(task_type='SEQ_CLS') or modules_to_save=['classifier'] (of "
            "trained adapters: load them with is_trainable=True), or pass a model without adapters and set lora_rank."
        )
    return None
