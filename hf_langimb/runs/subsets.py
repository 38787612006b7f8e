"""Plan -> subsets: a recipe's dataset, the plans it is drawn by, and the rows of each plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, List

from hf_langimb.console import listed, shown
from hf_langimb.counts.columns import class_label_names, whole_floats
from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.counts.sampling import allocate, draw, joint_shares, keep_one_language_per_item, skewed_shares
from hf_langimb.data import cldr, mini_xnli
from hf_langimb.data.reading import pick
from hf_langimb.data.rows import arrow_columns, find_text_columns
from hf_langimb.data.spec import DataSpec
from hf_langimb.data.splits import make_splits, merge_languages, odd_cells, overlaps, spelling_text, spellings
from hf_langimb.measures.targets import REVERSED, SAME
from hf_langimb.models.loading import tokenize
from hf_langimb.runs.recipe import RecipeArguments

FEW_ROWS = 10  # half of 20 rows, below which a dataset may have any number of labels
TEST_SEED = 0  # the test set is one and the same for every seed and setup


def plan_shares(lines: list[str], labels: list[str]) -> dict[str, np.ndarray]:
    """The recipe's plans as joint shares [L, C] on sorted languages: `balanced` and `imbalanced`.

    `lines` are 'fr 1/2 1/3 1/6' for each language, with exact fractions, in the order of `labels`.

    Raises:
        ValueError: a line is not a language with one share per label, or shares do not add up.
    """
    table = {}
    for line in lines:
        language, *shares = _plan_line(line)
        try:
            table[language] = [float(Fraction(share)) for share in shares]
        except (ValueError, ArithmeticError):
            table[language] = []
        if len(table[language]) != len(labels) or not any(table[language]):
            raise ValueError(
                f"imbalanced_shares expects a language and {len(labels)} shares ({', '.join(labels)}) such as "
                f"'fr {' '.join(['1/' + str(len(labels))] * len(labels))}', got {line!r}."
            )
    return _with_balanced([table[language] for language in sorted(table)])


def _with_balanced(skewed: Any) -> dict[str, np.ndarray]:
    """The plans of a recipe whose skewed subset has these shares [L, C]."""
    skewed = joint_shares(skewed)
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
    notes: Sequence[str] = ()  # on the splits, as sentences

    @property
    def test_plan(self) -> str:
        """The plan of the test set."""
        return "balanced" if self.plans else "natural"

    @cached_property
    def _available(self) -> dict[str, JointDistribution]:
        """Counts of all rows of each split."""
        return {split: JointDistribution.from_dataset(rows) for split, rows in self.source.items()}

    def distribution(self, split: str, plan: str) -> JointDistribution:
        """Counts of the rows of a plan, without drawing them: the given size, else the largest that all plans allow.

        Raises:
            ValueError: the rows do not allow it; names the split and its axes.
        """
        available, size = self._available[split], getattr(self.recipe, f"{split}_size")
        if plan == "natural" and size is not None and size > available.rows:
            raise ValueError(f"{split}_size is {size:,}, but the {split} split has {available.rows:,} rows.")
        if plan == "natural" and size is not None:
            counts = allocate(available.counts, available.counts / available.rows, size)
            return JointDistribution(available.languages, available.labels, counts)
        if plan == "natural":
            return available
        try:
            if size is None:
                size = min(int(allocate(available.counts, shares).sum()) for shares in self.plans.values())
            counts = allocate(available.counts, self.plans[plan], size)
            if counts.any():
                return JointDistribution(available.languages, available.labels, counts)
            cells = available.counts.tolist()
            problem = f"the plans leave no rows: each cell with a share above 0 needs rows, the data have {cells}."
        except ValueError as error:
            problem = str(error)
        raise ValueError(
            f"{split} split, languages {listed(self.languages)}, labels {listed(self.labels)}: "
            f"{problem[0].lower()}{problem[1:]}"
        )

    def rows(self, split: str, plan: str, seed: int) -> np.ndarray:
        """Row numbers of a plan, ascending; `natural` takes all, or as many as the given size in the same shares.

        Those of one seed overlap as far as plans allow.
        """
        source, counts = self.source[split], self.distribution(split, plan).counts
        if counts.sum() == len(source):
            return np.arange(len(source))
        languages, labels = arrow_columns(source, "language", "label")
        return draw(languages, labels, counts[:, self._available[split].counts.any(axis=0)], seed=seed)

    def subset(self, split: str, plan: str, seed: int) -> Dataset:
        """The rows of a plan."""
        return self.source[split].select(self.rows(split, plan, seed))

    def tokenized(
        self, tokenizer: Any, plans: Iterable[str], seeds: Iterable[int], max_length: int | None
    ) -> dict[tuple[str, str, int], Dataset]:
        """{(split, plan, seed): rows} of the plans and of the test set; only the rows that are drawn are tokenized."""
        keys = [(split, plan, seed) for split in ("train", "validation") for plan in plans for seed in seeds]
        drawn = {key: self.rows(*key) for key in [*keys, ("test", self.test_plan, TEST_SEED)]}
        found = {}
        for name, source in self.source.items():
            of_split = {key: rows for key, rows in drawn.items() if key[0] == name}
            used = np.unique(np.concatenate([*of_split.values()]))
            kept = source if len(used) == len(source) else source.select(used)
            encoded = tokenize(kept, tokenizer, self.text_columns, max_length)
            for key, rows in of_split.items():
                found[key] = encoded if len(rows) == len(used) else encoded.select(np.searchsorted(used, rows))
        return found


def sample_evenly(test: Dataset, rows: int) -> Dataset | None:
    """About `rows` test rows, equally many per (language, label) cell, at least one; -1 takes all of them, 0 none."""
    if rows == 0:
        return None
    if rows == -1 or rows >= len(test):
        return test
    available = JointDistribution.from_dataset(test).counts
    counts = np.minimum(available, np.int64(max(rows // int(np.count_nonzero(available)), 1)))
    counts = counts[:, available.any(axis=0)]  # `draw` sees only the labels that have rows
    languages, labels = arrow_columns(test, "language", "label")
    return test.select(draw(languages, labels, counts, seed=TEST_SEED))


def _read(spec: DataSpec) -> Any:
    """All splits of a dataset that is built in, or else read."""
    return EMBEDDED[spec.name](spec.config_names) if spec.name in EMBEDDED else spec.read()


EMBEDDED = {"mini_xnli": lambda parts: mini_xnli.load(), "cldr": lambda parts: cldr.load(", ".join(parts) or "large")}


def _spec(recipe: RecipeArguments, language_column: str) -> DataSpec:
    """The dataset of a recipe, its columns, and how its files are read."""
    return DataSpec(
        recipe.dataset_name,
        recipe.config_names,
        text_columns=recipe.text_columns,
        language_column=language_column,
        label_column=recipe.label_column,
        id_column=recipe.id_column,
        quoting=recipe.quoting,
        separator=recipe.separator,
        encoding=recipe.encoding,
        language_from=recipe.language_from,
        drop_null=recipe.drop_null,
    )


def load_data(recipe: RecipeArguments, language_column: str) -> Data:
    """Read the recipe's dataset into train, validation and test with standard columns.

    Raises:
        ValueError: missing splits, columns, languages or labels; says which.
    """
    spec = _spec(recipe, language_column)
    raw = _read(spec)
    raw = raw if isinstance(raw, DatasetDict) else DatasetDict(train=raw)
    names = _named_splits(recipe, raw)
    if recipe.language is not None:
        raw = DatasetDict({split: _in_language(rows, recipe, language_column) for split, rows in raw.items()})
    spec = replace(spec, text_columns=find_text_columns(raw[names["train"]], recipe.text_columns))
    languages = recipe.languages or [_plan_line(line)[0] for line in recipe.imbalanced_shares]
    if recipe.merge_languages and recipe.languages:
        raise ValueError("merge_languages renames languages, and languages names some of them: leave one of them out.")
    labels, source = recipe.label_order or _labels([raw[split] for split in names.values()], recipe), DatasetDict()
    for name, split in names.items():
        source[name] = spec.standardized(raw[split], label_names=labels, languages=languages)
        labels = list(source["train"].features["label"].names)
    _check(source, languages, names, recipe)
    source, notes = _complete(source, spec, recipe)
    for name in ("train", "validation") if recipe.one_language_per_item else ():
        items = keep_one_language_per_item(*arrow_columns(source[name], "language", "id"), seed=TEST_SEED)
        source[name] = source[name].select(items)
    present = sorted(source["train"].unique("language"))
    plans = plan_shares(recipe.imbalanced_shares, labels) if recipe.imbalanced_shares else {}
    if recipe.skew is not None:
        plans = _with_balanced(skewed_shares(recipe.skew, len(present), len(labels)))
    ceiling = mini_xnli.noise_ceiling(raw["test"]) if recipe.dataset_name == "mini_xnli" else None
    return Data(source, list(spec.text_columns), present, labels, plans, recipe, ceiling, notes)


def _check(source: DatasetDict, languages: Sequence[str], names: Mapping[str, str], recipe: RecipeArguments) -> None:
    """Refuse data that a classifier cannot be trained on, or that lack what the recipe names.

    Args:
        source: splits with standard columns, of `languages` if there are any.
        names: of the splits in the dataset.
    """
    train = source["train"]
    labels, present, rows = train.features["label"].names, train.unique("language"), len(train)
    named = f"{'languages' if recipe.languages else 'imbalanced_shares'} names {listed(map(shown, languages))}"
    problem = ""
    if len({*languages}) < len(languages):
        problem = f"{named}: name each language once"
    elif lacking := sorted({*languages} - {*present}):
        problem = f"{named}, but the training data have no rows in {listed(map(shown, lacking))}"
    elif len(labels) < 2:
        only = f"column {recipe.label_column!r} has only the label {labels[0]!r}" if labels else "there are no labels"
        problem = f"A classifier needs two labels or more, but {only}"
    elif len(labels) > rows / 2 >= FEW_ROWS:
        problem = (
            f"Column {recipe.label_column!r} has {len(labels):,} different values in {rows:,} rows, but a classifier "
            "needs a few classes: name another column with --label_column, or group the values"
        )
    elif empty := [names[name] for name, part in source.items() if not len(part)]:
        problem = f"No rows in the split {empty[0]!r} of {recipe.dataset_name}, languages {list(languages) or 'all'}"
    if problem:
        raise ValueError(f"{problem}.")


def _named_splits(recipe: RecipeArguments, raw: DatasetDict) -> dict[str, str]:
    """The splits of a dataset by purpose; those that are missing are made later, unless they were named.

    Raises:
        ValueError: no training split, or a named one is missing.
    """
    names = {name: getattr(recipe, f"{name}_split") for name in ("train", "validation", "test")}
    if list(raw) == ["test"] and names["train"] == "train":  # a single split, whatever its name
        names["train"] = "test"
        return {"train": "test"}
    needed = [split for name, split in names.items() if name == "train" or split != name]
    if missing := [split for split in needed if split not in raw]:
        raise ValueError(
            f"Expected the split {missing[0]!r} in {recipe.dataset_name}, found {', '.join(raw)}: name it with "
            "--train_split, --validation_split or --test_split."
        )
    return {name: split for name, split in names.items() if split in raw}


def _in_language(rows: Dataset, recipe: RecipeArguments, column: str) -> Dataset:
    """Rows whose language is given."""
    if column in rows.column_names:
        raise ValueError(
            f"--language is for data without a language column, but the data have {column!r}: leave out --language."
        )
    return rows.add_column(column, [recipe.language] * len(rows))


def _labels(splits: Sequence[Dataset], recipe: RecipeArguments) -> list[str]:
    """The labels of all splits in order; none where a ClassLabel gives them."""
    column = recipe.label_column
    if any(column in rows.column_names and isinstance(rows.features[column], List | dict) for rows in splits):
        raise ValueError(
            f"The column {column!r} has several labels per row, but this command trains and measures models with one "
            "label per row: audit the column with langimb audit --label-columns, and train with LangImbTrainer."
        )
    if any(column not in rows.column_names or class_label_names(rows, column) for rows in splits):
        return []  # which `standardized` refuses or reads
    values = {value for rows in splits for value in whole_floats(pa.array(rows.unique(column))).to_pylist()} - {None}
    return [str(value) for value in sorted(values, key=lambda value: (str(type(value)), value))]


def _complete(source: DatasetDict, spec: DataSpec, recipe: RecipeArguments) -> tuple[DatasetDict, list[str]]:
    """The three splits, made where they are missing, and notes about them, as sentences."""
    if recipe.dataset_name in EMBEDDED:
        return source, []
    texts, has_ids = spec.text_columns, spec.id_column is not None
    spelled = spellings({language for rows in source.values() for language in rows.unique("language")})
    notes = [spelling_text(spelled, recipe.merge_languages)] if spelled else []
    if spelled and recipe.merge_languages:
        source = merge_languages(source, spelled)
    shares = {"validation_share": recipe.validation_share, "test_share": recipe.test_share}
    divided, said = make_splits(source, texts, has_ids=has_ids, seed=TEST_SEED, **shares)
    shared = overlaps(divided, texts, has_ids) if len(source) > 1 else []  # parts of one split share nothing
    return divided, [*notes, *said, *shared, *odd_cells(divided)]


def named_tests(entries: Sequence[str], *joints: JointDistribution | None) -> dict[str, str]:
    """{name: dataset} of further test sets; an empty one for `reversed`.

    Args:
        entries: NAME=DATASET, or `reversed`.
        joints: of training data and test set, as far as they are known.

    Raises:
        ValueError: an entry is neither, a name is repeated, or `reversed` is requested where no labels depend on
            language.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if name in found or not name or bool(equals) is (name == REVERSED) or (equals and not path):
            raise ValueError(
                f"Each extra_test must be NAME=DATASET or {REVERSED}, and each name may occur once, got {entry!r}."
            )
        found[name] = path
    if REVERSED in found:
        audits = [joint.audit() for joint in joints if joint]
        if not any(audit["link"] != "none" and audit["mutual_information_bits"] > SAME for audit in audits):
            raise ValueError(f"{REVERSED} needs labels that depend on language, in the training data or the test set.")
    return found


@contextmanager
def names_the_set(name: str) -> Iterator[None]:
    """Begin error messages with the name of a further test set."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Test set {name}: {error}") from error


def extra_tests(recipe: RecipeArguments, data: Data, language_column: str) -> dict[str, Dataset | None]:
    """Further test sets with the columns of the first, by name; None for `reversed`, which is the test set itself.

    Raises:
        ValueError: an entry is not NAME=DATASET, a name is repeated, or rows do not fit the labels of the model.
    """
    found: dict[str, Dataset | None] = {}
    trained = data.distribution("train", "imbalanced" if data.plans else "natural")
    for name, path in named_tests(recipe.extra_test, trained, data.distribution("test", data.test_plan)).items():
        if not path:
            found[name] = None
            continue
        notes: list[str] = []
        spec = replace(_spec(recipe, language_column), name=path, config_names=(), text_columns=data.text_columns)
        with names_the_set(name):
            raw: Any = spec.read()
            rows = pick(raw, None) if isinstance(raw, DatasetDict) else raw
            if isinstance(raw, DatasetDict) and len(raw) > 1:
                notes.append(f"its split {next(split for split in raw if raw[split] is rows)} is used.")
            rows = rows if recipe.language is None else _in_language(rows, recipe, language_column)
            rows = spec.standardized(rows, label_names=data.labels)
        if recipe.merge_languages:
            groups = spellings({*data.languages, *rows.unique("language")})
            rows = merge_languages(DatasetDict(test=rows), groups, known=data.languages)["test"]
        elif spelled := spellings({*data.languages, *rows.unique("language")}):
            notes.append(spelling_text(spelled, merged=False))
        notes += overlaps(DatasetDict(data.source, test=rows), data.text_columns, has_ids=False)
        data.notes = [*data.notes, *(f"Test set {name}: {note}" for note in notes)]
        found[name] = rows
    return found


def external_text(recipe: RecipeArguments, languages: list[str], language_column: str) -> Dataset | None:
    """External text for the probe, columns text, language, id: the first `probe_rows` rows of each language."""
    if recipe.probe_dataset_name is None:
        if recipe.dataset_name != "mini_xnli":
            return None
        return mini_xnli.external_sentences(recipe.probe_rows).rename_column("item", "id")
    spec = DataSpec(recipe.probe_dataset_name, recipe.probe_config_names, split="train")
    return spec.texts(languages, recipe.probe_rows, language_columns=(language_column, "language"))
