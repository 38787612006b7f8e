"""Counts of several labels per text from every kind of source; `langimb audit --label-columns`."""

import json

import numpy as np
import pytest
from conftest import write_configurations
from datasets import Dataset, DatasetDict

from hf_langimb.cli import main
from hf_langimb.data.label_counts import label_counts
from hf_langimb.data.spec import DataSpec

TOXIC = [1, 0, None, 0, 1, 1, 0, 1]
INSULT = [0, 0, 1, 1, 0, 1, 0, 0]
COUNTS = [[[2, 1], [2, 2]], [[1, 3], [3, 1]]]  # of en and fr: no and yes of both


@pytest.fixture
def columns():
    lists = [[None if t is None else float(t), float(i)] for t, i in zip(TOXIC, INSULT, strict=True)]
    return Dataset.from_dict(
        {"text": ["x"] * 8, "language": ["en"] * 4 + ["fr"] * 4, "toxic": TOXIC, "insult": INSULT, "labels": lists}
    )


def test_the_same_counts_from_every_kind_of_source(columns, tmp_path):
    columns.to_parquet(tmp_path / "rows.parquet")
    columns.to_json(tmp_path / "rows.jsonl")
    columns.remove_columns("labels").to_csv(tmp_path / "rows.csv", index=False)
    columns.save_to_disk(tmp_path / "saved")
    parts = {
        name: {"train": columns.remove_columns("language").select(rows)}
        for name, rows in (("en", range(4)), ("fr", range(4, 8)))
    }
    folder = write_configurations(tmp_path / "several", parts)
    for source in ("rows.parquet", "rows.jsonl", "saved", "rows.csv"):
        for names in (["toxic", "insult"], ["labels"]):
            if source != "rows.csv" or len(names) > 1:
                (found,) = label_counts(DataSpec(str(tmp_path / source)), names).values()
                assert found.counts.tolist() == COUNTS, (source, names)
    for names in (["toxic", "insult"], ["labels"]):
        (found,) = label_counts(DataSpec(folder, ("en", "fr")), names).values()
        assert found.languages == ("en", "fr") and found.counts.tolist() == COUNTS
    one = label_counts(DataSpec(str(tmp_path / "rows.parquet")), ["insult"])["train"]
    assert one.labels == ("insult",) and one.counts[:, 0].tolist() == [[2, 2], [3, 1]]


def test_splits_are_counted_one_by_one(columns, tmp_path):
    DatasetDict(train=columns, test=columns.select(range(6))).save_to_disk(tmp_path / "saved")
    found = label_counts(DataSpec(str(tmp_path / "saved")), ["labels"])
    assert [*found] == ["train", "test"] and np.sum(found["test"].counts) == 11
    assert [*label_counts(DataSpec(str(tmp_path / "saved"), split="test"), ["labels"])] == ["test"]


def test_a_split_without_one_of_the_columns_is_left_out(columns, tmp_path, caplog):
    columns.remove_columns(["toxic", "labels"]).to_csv(tmp_path / "train.csv", index=False)
    columns.remove_columns("labels").to_csv(tmp_path / "test.csv", index=False)
    assert [*label_counts(DataSpec(str(tmp_path)), ["toxic", "insult"])] == ["test"]
    assert "train left out: no values in the column 'toxic'" in caplog.text
    with pytest.raises(ValueError, match="leave --label-column insult out"):
        label_counts(DataSpec(str(tmp_path), label_column="insult"), ["toxic"])


def test_lists_and_flags(columns, tmp_path):
    path = str(tmp_path / "rows.parquet")
    columns.map(lambda row, i: {"language": None if i == 0 else row["language"]}, with_indices=True).to_parquet(path)
    lists, several = (label_counts(DataSpec(path), names)["train"] for names in (["labels"], ["toxic", "insult"]))
    assert lists.null_languages == several.null_languages == 1
    assert lists.counts.tolist() == several.counts.tolist()
    half = label_counts(DataSpec(path, split="train[:50%]"), ["labels"])
    assert [*half] == ["train[:50%]"] and half["train[:50%]"].languages == ("en",)
    with pytest.raises(ValueError, match="has lists, for which --count-column is not supported"):
        label_counts(DataSpec(path, count_column="insult"), ["labels"])
    with pytest.raises(ValueError, match="different columns of labels, got 'toxic' more than once"):
        label_counts(DataSpec(path), ["toxic", "toxic"])


def test_the_command_prints_the_linked_labels(columns, tmp_path, capsys):
    rng = np.random.default_rng(0)
    languages = rng.choice(["en", "fr"], 2000)
    toxic, insult = rng.random(2000) < np.where(languages == "en", 0.1, 0.4), rng.random(2000) < 0.3
    Dataset.from_dict({"language": languages, "toxic": toxic, "insult": insult}).to_parquet(tmp_path / "rows.parquet")
    asked = ["audit", str(tmp_path / "rows.parquet"), "--label-columns", "toxic", "insult"]
    assert main([*asked, "--weighting", "independence"]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("1 of 2 labels depend on language: toxic (0.0")
        and "class weights (independence) of each" in said
    )
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["linked"] == ["toxic"] and found["audits"]["insult"]["link"] == "none"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["toxic", "text"], "rows.parquet: The label 'text' must be 0 or 1 in each row (null: not known), got 'x'"),
        (["toxic", "nope"], "rows.parquet: Expected a label column 'nope'"),
        (["nope"], "rows.parquet: Expected a label column 'nope'"),
        (["toxic", "labels"], "rows.parquet: The label column has lists"),
    ],
)
def test_other_columns_are_refused(columns, tmp_path, capsys, names, message):
    columns.to_parquet(tmp_path / "rows.parquet")
    assert main(["audit", str(tmp_path / "rows.parquet"), "--label-columns", *names]) == 1
    assert message in capsys.readouterr().err
