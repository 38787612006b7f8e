"""Which files a dataset consists of, which of their columns are read, and where their language is."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from datasets import ClassLabel, TranslationVariableLanguages

from hf_langimb.counts.columns import require_columns
from hf_langimb.counts.grouped import USUAL_NAMES
from hf_langimb.data.reading import FILE_BUILDERS, METADATA, suffix_of
from hf_langimb.data.rows import TEXT_COLUMNS
from hf_langimb.data.tables import names_in
from hf_langimb.data.text import DataFile, say_once

if TYPE_CHECKING:
    from hf_langimb.counts.distribution import JointDistribution
    from hf_langimb.data.spec import DataSpec

READ_OPTIONS = {"keep_default_na", "na_values"}  # which we set
READ_OPTIONS |= {"name", "version", "description", "data_dir", "data_files", "features"}  # of builders, that are ours
READ_OPTIONS |= {"sep", "delimiter", "names", "column_names", "header", "encoding", "quoting", "field"}
LANGUAGE_COLUMNS = ("lang", "locale", "language_code", "lang_code")  # not the name of the only file
SPLITS = "train|training|validation|valid|val|dev|test|testing|eval|evaluation"
CODE = "[a-z]{2,3}([-_]([A-Z][a-z]{3}|hans|hant))?([-_]([A-Z]{2}|[a-z]{2}|[0-9]{3}))?"


def files_of(
    spec: DataSpec, builder: Any, config_name: str | None, languages: Sequence[str] = (), *, counted: bool = False
) -> dict[str, list[DataFile]] | None:
    """The files of each split with what is read of them; None for files of another kind.

    Args:
        spec: the dataset.
        builder: of `datasets`, which finds the files.
        config_name: of the configuration, the language of its rows if there are several and no such column.
        languages: the first of these that is there is the language column, instead of the spec's.
        counted: read language and label alone, and demand them.
    """
    splits = _files(spec, builder)
    splits = splits and _labeled(spec, splits)
    every = [file for files in (splits or {}).values() for file in files]
    if splits is None or not every:
        return None
    present = names_in(every[0])  # other files that lack a column are found when they are read
    usual = (names for names in TEXT_COLUMNS if {*names} <= {*present})
    texts = tuple(spec.text_columns or next(usual, ()))
    known = languages or (spec.language_column,)
    column = next((name for name in known if name in present), known[-1])
    found: list[str | None] = [None] * len(every)
    samples = {name: present[name] for name in texts if name in present}
    keyed = bool(samples) and all(_is_keyed(sample, None) for sample in samples.values())
    if len(spec.config_names) > 1 and not (spec.language_from or keyed) and column == "language" not in present:
        found = [config_name] * len(every)
    elif spec.language_from or keyed or not {column, *(LANGUAGE_COLUMNS if len(every) == 1 else ())} & {*present}:
        found = _languages(spec, builder, every, samples) or found
    ids = [spec.id_column] if spec.id_column else [name for name in ("id", "item") if name in present]
    needed = [*(texts if found[0] == "" or not counted else ()), *([] if counted else ids)]
    required = {"label": spec.label_column} if spec.label_column else {}
    if found[0] is None:
        required = {"language": column} | required
    required |= {"count": spec.count_column} if spec.count_column else {}
    if counted:  # in JSON, language and label may come late
        late = every[0].kind == "json"
        sure = {kind: name for kind, name in required.items() if kind == "count" or not late or name in present}
        require_columns([*present], sure)
    columns = dict.fromkeys([*needed, *required.values()])
    if not counted and not {*columns} <= {*present}:  # all of them, for the message that names them
        columns = (columns if every[0].kind == "json" else {}) | present
    if found[0] is not None:
        columns.pop(column, None)
    declared = (builder.info.features or present) if every[0].kind == "parquet" else {}
    for name in (column, spec.label_column):
        if isinstance(declared.get(name), ClassLabel):
            _same_classes(every, name, declared[name].names)
    settings: dict[str, Any] = {"columns": tuple(columns), "language_column": column, "texts": texts}
    settings |= {"label_column": spec.label_column, "features": {name: declared.get(name) for name in columns}}
    sources = iter(found)
    return {
        split: [replace(file, language=next(sources), **settings) for file in files] for split, files in splits.items()
    }


def say_if_counts(spec: DataSpec, files: Sequence[DataFile], table: JointDistribution) -> None:
    """Warn that files may be tables of counts: no language and label occur twice, and a column is named like counts."""
    if not spec.count_column and table.rows > 1 and table.counts.max() == 1:
        present = names_in(files[0])
        if name := next((name for name in USUAL_NAMES["count"] if name in present), None):
            say_once(
                f"{spec.name}: each combination of language and label occurs once: if column {name!r} is its number "
                f"of rows, pass --count-column {name}."
            )


def _labeled(spec: DataSpec, splits: dict[str, list[DataFile]]) -> dict[str, list[DataFile]]:
    """The split that is named, of Parquet files, else those with a label column if some have none; says so once."""
    kinds = {file.kind for files in splits.values() for file in files}
    if spec.split in splits and kinds == {"parquet"}:
        return {spec.split: splits[spec.split]}
    if len(splits) < 2 or not spec.label_column or "json" in kinds:  # where a column may come late
        return splits
    lacking = [split for split, files in splits.items() if files and spec.label_column not in names_in(files[0])]
    if len(lacking) == len(splits) or not lacking:
        return splits
    if spec.split in lacking:
        return {spec.split: splits[spec.split]}
    say_once(f"{spec.name}: no column {spec.label_column!r} in {', '.join(lacking)}: left out.")
    return {split: files for split, files in splits.items() if split not in lacking}


def _others(folder: Path, kind: str) -> list[str]:
    """Names of data files of other kinds in a folder, which `datasets` leaves out."""
    names = sorted(path.name for path in folder.glob("**/*") if path.name not in METADATA)
    return [name for name in names if FILE_BUILDERS.get(suffix_of(name), kind) != kind]


def _same_classes(files: Sequence[DataFile], column: str, names: Sequence[str]) -> None:
    """Refuse Parquet files whose class ids mean other names than those of the dataset."""
    for file in files:
        found = getattr(names_in(file).get(column), "names", names)
        if list(found) != list(names):
            raise ValueError(
                f"{file.name}: its column {column!r} has the class names {', '.join(found)}, expected "
                f"{', '.join(names)} as in the other files: write them with the same ClassLabel."
            )


def _files(spec: DataSpec, builder: Any) -> dict[str, list[DataFile]] | None:
    """The files of each split with how they are read, as flags say, else the dataset's README, else their names.

    None if they are of another kind, or the README names options that are not ours.
    """
    config, kind = builder.config, builder.name
    usual = vars(type(config)())
    other = {key for key, value in vars(config).items() if value != usual.get(key)} - READ_OPTIONS
    names = getattr(config, "names", None) or ()
    declared = [(builder.info.features or {}).get(name) for name in (spec.language_column, spec.label_column)]
    classes = kind != "parquet" and any(isinstance(feature, ClassLabel) for feature in declared)
    headless = getattr(config, "header", "infer") != "infer" and not names
    if kind not in FILE_BUILDERS.values() or other or headless or classes:
        if given := spec.flags:
            raise ValueError(f"its README says how its files are read: leave {' and '.join(given)} out.")
        return None

    if config.name == "default" and (left := _others(Path(spec.name), kind)):
        say_once(f"{spec.name}: only its {kind} files are read, not {', '.join(left[:5])}.")

    def read(path: str) -> DataFile:
        """One file."""
        separator = "\t" if suffix_of(path) == ".tsv" else getattr(config, "sep", ",")
        return DataFile(
            path,
            kind,
            separator=spec.separator or separator,
            encoding=spec.encoding or getattr(config, "encoding", None),
            quoting=spec.quoting or ("none" if getattr(config, "quoting", 0) == csv.QUOTE_NONE else None),
            names=tuple(names),
            field=getattr(config, "field", None),
        )

    return {str(split): [read(str(path)) for path in paths] for split, paths in (config.data_files or {}).items()}


def _languages(spec: DataSpec, builder: Any, files: list[DataFile], texts: dict[str, Any]) -> list[Any] | None:
    """The language of each file, "" in the keys of its texts; None where it is not in names. Says so once.

    Args:
        spec: the dataset.
        builder: of `datasets`, which knows the root of the files.
        files: all of them.
        texts: samples of the text columns, as `names_in` gives them.
    """
    path, how = Path(spec.name).absolute(), spec.language_from
    root = path if path.is_dir() else path.parent if path.is_file() else builder.base_path
    if how in (None, "key") and texts and all(_is_keyed(sample, how) for sample in texts.values()):
        say_once(f"{spec.name}: the language is taken from the keys of {' and '.join(texts)}.")
        return [""] * len(files)
    found = None if how == "key" else languages_of([file.path for file in files], str(root), how)
    if found is None and how:
        where = "texts that are {language: text}" if how == "key" else f"{how}s named after their languages"
        raise ValueError(f"Expected {where}, found none: leave --language-from out, or add a language column.")
    if found is None:
        return None
    names = sorted({*found[1]})
    more = ", ..." if len(names) > 5 else ""
    say_once(f"{spec.name}: the language is taken from the {found[0]} names ({', '.join(names[:5])}{more}).")
    return found[1]


def _is_keyed(sample: Any, how: str | None) -> bool:
    """Whether a text is {language: text}, or lists of languages and translations; a sample as `names_in` gives it."""
    names = list(sample) if isinstance(sample, dict) else getattr(sample, "languages", None) or []
    lists = isinstance(sample, TranslationVariableLanguages) or {*names} == {"language", "translation"}
    return lists or (bool(names) and (how == "key" or all(map(is_code, names))))


def languages_of(paths: Sequence[str], root: str, how: str | None) -> tuple[str, list[str]] | None:
    """Where the language of each file is named, "folder" or "file", and the languages; None if it is not.

    Args:
        paths: of all files.
        root: folder of the dataset.
        how: folder or file takes the nearest folder or the name that is no split; None demands language codes.
    """
    for kind in [how] if how else ["folder", "file"]:
        found = []
        for path in paths:
            inner = PurePosixPath(_below(path, root))
            stem = inner.name.removesuffix(
                "".join(inner.suffixes[-2:] if path.endswith(".gz") else inner.suffixes[-1:])
            )
            if kind == "file":
                names = [stem] if not how else [re.sub(rf"(?i)^({SPLITS})[-_.]|[-_.]({SPLITS})$", "", stem)]
            else:
                names = [*reversed((PurePosixPath(path) if how else inner).parts[:-1])]
            fits = (name for name in names if (how and not re.fullmatch(SPLITS, name.lower())) or is_code(name))
            found.append(next(fits, ""))
        if found and all(found):
            return str(kind), found
    return None


def _below(path: str, root: str) -> str:
    """A path from the root of a dataset, which may contain links and ..; the file's name where it is not below."""
    known = (root, os.path.normpath(root), os.path.realpath(root))
    start = next((one for one in known if path.startswith(f"{one.rstrip('/')}/")), None)
    return PurePosixPath(path).name if start is None else path[len(start) :].lstrip("/")


def is_code(name: str) -> bool:
    """Whether a name is written as a language code: am, pt-BR, zh-Hant, eng_Latn; train, dev or val are splits."""
    return bool(re.fullmatch(CODE, name)) and not re.fullmatch(SPLITS, name)
