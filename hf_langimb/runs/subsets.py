"""Plan -> subsets: a recipe's data set, the plans it is drawn by, and the rows of each plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.sampling import allocate, draw, joint_shares, keep_one_language_per_item
from hf_langimb.data import mini_xnli
from hf_langimb.data.rows import arrow_columns, find_text_columns
from hf_langimb.data.spec import DataSpec
from hf_langimb.runs.recipe import RecipeArguments

TEST_SEED = 0  # the test set is one and the same for every seed and setup


def plan_shares(lines: list[str], labels: list[str]) -> dict[str, np.ndarray]:
    """The recipe's plans as joint shares [L, C] on sorted languages: `balanced` and `imbalanced`.

    Args:
        lines: 'fr 1/2 1/3 1/6' for each language; fractions are exact.
        labels: label names in class order, the order of the shares.

    Raises:
        ValueError: a line is not a language with one share per label, or shares do not add up.
    """
    table = {}
    for line in lines:
        language, *shares = _plan_line(line)
        try:
            table[language] = [float(Fraction(share)) for share in shares]
        except (ValueError, ZeroDivisionError):
            table[language] = []
        if len(table[language]) != len(labels):
            raise ValueError(
                f"imbalanced_shares expects a language and {len(labels)} shares ({', '.join(labels)}) such as "
                f"'fr {' '.join(['1/' + str(len(labels))] * len(labels))}', got {line!r}."
            )
    skewed = joint_shares([table[language] for language in sorted(table)])
    return {"balanced": joint_shares(np.ones_like(skewed) / skewed.shape[1]), "imbalanced": skewed}


def _plan_line(line: str) -> list[str]:
    """A language and its shares: 'fr 1/2 1/3 1/6', also with a colon or commas."""
    return str(line).replace(":", " ").replace(",", " ").split() or [""]


@dataclass
class Data:
    """A recipe's data: subsets by split, plan and seed are drawn from `source`."""

    source: DatasetDict
    text_columns: list[str]
    languages: list[str]
    labels: list[str]
    plans: dict[str, np.ndarray]
    recipe: RecipeArguments
    noise_ceiling: float | None = None  # of the test labels, if it is known
    _counted: dict[str, JointDistribution] = field(default_factory=dict, init=False, repr=False)

    @property
    def test_plan(self) -> str:
        """The plan of the test set."""
        return "balanced" if self.plans else "natural"

    def distribution(self, split: str, plan: str) -> JointDistribution:
        """Counts of the rows of a plan, known without drawing them; a split is counted once."""
        if split not in self._counted:
            self._counted[split] = JointDistribution.from_dataset(self.source[split])
        available = self._counted[split]
        if plan == "natural":
            return available
        return JointDistribution(available.languages, available.labels, self._allocate(split, plan, available.counts))

    def counts(self, split: str, plan: str) -> np.ndarray:
        """Rows to draw, int64[L, C]: the given size, else the largest that every plan allows (SPEC A1)."""
        return self.distribution(split, plan).counts

    def _allocate(self, split: str, plan: str, available: np.ndarray) -> np.ndarray:
        size, reason = getattr(self.recipe, f"{split}_size"), ""
        try:
            if size is None:
                size = min(int(allocate(available, shares).sum()) for shares in self.plans.values())
            counts = allocate(available, self.plans[plan], size)
            if not counts.any():
                cells = available.tolist()
                reason = f"the plans leave no rows of {cells}; each cell that a plan names needs some."
        except ValueError as error:
            reason = str(error)
        if reason:
            raise ValueError(f"{split} split, axes {self.languages} x {self.labels}: {reason}")
        return counts

    def rows(self, split: str, plan: str, seed: int) -> np.ndarray:
        """Row numbers of a plan, ascending; `natural` takes all. Those of one seed overlap as far as plans allow."""
        source = self.source[split]
        if plan == "natural":
            return np.arange(len(source))
        languages, labels = arrow_columns(source, "language", "label")
        return draw(languages, labels, self.counts(split, plan), seed=seed)

    def subset(self, split: str, plan: str, seed: int) -> Dataset:
        """The rows of a plan."""
        return self.source[split].select(self.rows(split, plan, seed))


def load_data(recipe: RecipeArguments, language_column: str) -> Data:
    """Read the recipe's data set into train, validation and test with standard columns.

    Raises:
        ValueError: missing splits, columns, languages or labels; says which.
    """
    embedded = recipe.dataset_name == "mini_xnli"
    spec = DataSpec(
        recipe.dataset_name,
        recipe.config_names,
        text_columns=recipe.text_columns,
        language_column=language_column,
        label_column=recipe.label_column,
        id_column=recipe.id_column,
    )
    raw: Any = mini_xnli.load() if embedded else spec.read()
    names = {name: getattr(recipe, f"{name}_split") for name in ("train", "validation", "test")}
    if not isinstance(raw, DatasetDict) or not {*names.values()} <= {*raw}:
        found = ", ".join(raw) if isinstance(raw, DatasetDict) else "a single file"
        raise ValueError(f"Expected the splits {', '.join(names.values())} in {recipe.dataset_name}, found {found}.")
    spec = replace(spec, text_columns=find_text_columns(raw[names["train"]], recipe.text_columns))
    languages = [_plan_line(line)[0] for line in recipe.imbalanced_shares]
    source, labels = DatasetDict(), recipe.label_order
    for name, split in names.items():
        source[name] = spec.standardised(raw[split], label_names=labels, languages=languages)
        labels = list(source["train"].features["label"].names)
    if recipe.one_language_per_item:
        _part_items(source, recipe)
    present = sorted(source["train"].unique("language"))
    if languages and present != sorted(languages):
        raise ValueError(f"The plan names the languages {sorted(languages)}, the training data have {present}.")
    plans = plan_shares(recipe.imbalanced_shares, labels) if recipe.imbalanced_shares else {}
    ceiling = mini_xnli.noise_ceiling(raw["test"]) if embedded else None
    return Data(source, list(spec.text_columns), present, labels, plans, recipe, ceiling)


def _part_items(source: DatasetDict, recipe: RecipeArguments) -> None:
    """Give each item of the training and validation rows to one language."""
    if not recipe.id_column:
        raise ValueError("one_language_per_item needs id_column: the column that translations of a text share.")
    for name in ("train", "validation"):
        languages, items = arrow_columns(source[name], "language", "id")
        source[name] = source[name].select(keep_one_language_per_item(languages, items, seed=TEST_SEED))


def external_text(recipe: RecipeArguments, languages: list[str], language_column: str) -> Dataset | None:
    """External text for the probe, columns text, language, id: the first `probe_rows` rows of each language."""
    if recipe.probe_dataset_name is None:
        if recipe.dataset_name != "mini_xnli":
            return None
        return mini_xnli.external_sentences(recipe.probe_rows).rename_column("item", "id")
    spec = DataSpec(recipe.probe_dataset_name, recipe.probe_config_names, split="train")
    return spec.texts(languages, recipe.probe_rows, language_columns=(language_column, "language"))
