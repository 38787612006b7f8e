"""recipes/evaluate.py with several labels per text: measures of each label, a page, and what is refused."""

import json

import numpy as np
import pytest
import torch
from conftest import WORDS
from datasets import Dataset

from hf_langimb import evaluate_labels
from hf_langimb.runs.evaluate import main

NAMES = ["toxic", "insult", "spam"]


@pytest.fixture(scope="module")
def model(tiny_bert, bert_tokenizer, rows, tmp_path_factory):
    """The folder of a model that predicts each label in half of the texts, and the first one by language."""
    place = tmp_path_factory.mktemp("model")
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    bert = tiny_bert(problem_type="multi_label_classification", **names)
    with torch.no_grad():
        logits = bert.eval()(**bert_tokenizer(rows["text"][:], return_tensors="pt", padding=True)).logits
        bert.classifier.bias -= logits.median(dim=0).values
    bert.save_pretrained(place)
    bert_tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def rows():
    """Rows in two languages without common words, with labels in columns and in lists, some of them not known."""
    rng = np.random.default_rng(0)
    languages, half = rng.choice(["en", "fr"], 280), len(WORDS) // 2
    words = {"en": WORDS[:half], "fr": WORDS[half:]}
    values = rng.integers(0, 2, (280, 3)).astype(float)
    values[:5, 0] = np.nan
    known = [[None if np.isnan(value) else int(value) for value in row] for row in values]
    columns = {name: [row[c] for row in known] for c, name in enumerate(NAMES)}
    texts = [" ".join(rng.choice(words[name], 4)) for name in languages]
    return Dataset.from_dict({"text": texts, "language": languages, **columns, "labels": known})


def evaluated(folder, capsys, *argv):
    """What the recipe prints, and its results."""
    main([*map(str, argv), "--output-dir", str(folder)])
    return capsys.readouterr().out, json.loads((folder / "results.json").read_text())


def test_each_label_is_measured_with_a_page(model, rows, tmp_path, capsys):
    rows.to_parquet(tmp_path / "rows.parquet")
    # in another order than that of the model
    asked = [model, tmp_path / "rows.parquet", "--label-columns", "spam", "toxic", "insult"]
    said, found = evaluated(tmp_path / "out", capsys, *asked)
    assert [*found["labels"]] == NAMES and found["labels"]["toxic"]["rows"] == len(rows) - 5
    assert said.startswith(found["verdict"][0].upper() + found["verdict"][1:]) and "macro F1" in said
    assert found["dependent"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Do the predictions of any label depend on language?" in page and page.count("<svg") == 1
    assert "src=" not in page and "<link" not in page and str(tmp_path) not in page
    _, of_lists = evaluated(tmp_path / "lists", capsys, *asked[:2], "--label-columns", "labels")
    assert of_lists["labels"] == found["labels"]


def test_probabilities_are_those_of_the_model(model, rows, bert_tokenizer, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification

    rows.to_parquet(tmp_path / "rows.parquet")
    asked = [model, tmp_path / "rows.parquet", "--label-columns", *NAMES, "--rows", 16]
    _, found = evaluated(tmp_path / "out", capsys, *asked)
    languages = np.array(rows["language"])
    first = np.sort(np.concatenate([np.flatnonzero(languages == name)[:16] for name in np.unique(languages)]))
    part, loaded = rows.select(first), AutoModelForSequenceClassification.from_pretrained(model).eval()
    with torch.inference_mode():
        logits = [loaded(**bert_tokenizer(text, return_tensors="pt")).logits[0] for text in part["text"]]
    probabilities = torch.stack(logits).sigmoid().numpy()
    groups = part["id"][:] if "id" in part.column_names else None
    expected = evaluate_labels(part["language"][:], part["labels"][:], probabilities, labels=NAMES, groups=groups)
    assert found["rows"] == len(first) and found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--label-columns", "toxic", "insult"],
            "has the labels toxic, insult, spam, but --label-columns names toxic, insult",
        ),
        (["--label-columns", "labels", "--explain-rows", "3"], "leave --explain-rows out"),
        (["--label-columns", "labels", "--label-column", "toxic"], "leave --label-column toxic out"),
        (["--label-columns", "labels", "--batch-size", "0"], "batch_size must be 1 or more, got 0"),
        (["--label-columns", "nope"], "Expected a label column 'nope'"),
        (["--label-columns", "labels", "--labels", "a", "b", "c"], "--labels needs 3 different names"),
        (["--label-column", "toxic"], "or name columns with --label-columns"),
    ],
)
def test_what_does_not_fit_is_refused(model, rows, tmp_path, capsys, argv, message):
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SystemExit):
        main([str(model), str(tmp_path / "rows.parquet"), *argv, "--output-dir", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("columns", [NAMES, ["labels"]])
@pytest.mark.parametrize("lacking", ["text", "language"])
def test_rows_without_text_or_language_are_left_out_if_asked_for(
    model, rows, tmp_path, capsys, caplog, columns, lacking
):
    """But not those in which a label is not known."""
    holes = rows.map(lambda row, i: {lacking: None if i % 4 == 0 else row[lacking]}, with_indices=True)
    holes.to_parquet(tmp_path / "rows.parquet")
    asked = [model, tmp_path / "rows.parquet", "--label-columns", *columns]
    with pytest.raises(SystemExit):
        main([*map(str, asked), "--output-dir", str(tmp_path / "out")])
    assert f"{lacking}" in (said := capsys.readouterr().err) and "70 of 280 rows" in said and "--drop-null" in said
    _, found = evaluated(tmp_path / "out", capsys, *asked, "--drop-null")
    assert "70 of 280 rows lack text or language: left out" in caplog.text
    assert found["rows"] == 210 and found["labels"]["toxic"]["rows"] == 210 - 3


def test_a_model_with_one_output_is_measured(tiny_bert, bert_tokenizer, rows, tmp_path, capsys):
    names = {"id2label": {0: "toxic"}, "label2id": {"toxic": 0}}
    bert = tiny_bert(problem_type="multi_label_classification", num_labels=1, **names)
    with torch.no_grad():
        logits = bert.eval()(**bert_tokenizer(rows["text"][:], return_tensors="pt", padding=True)).logits
        bert.classifier.bias -= logits.median()
    bert.save_pretrained(tmp_path / "one")
    bert_tokenizer.save_pretrained(tmp_path / "one")
    rows.to_parquet(tmp_path / "rows.parquet")
    asked = [tmp_path / "one", tmp_path / "rows.parquet", "--label-columns", "toxic"]
    said, found = evaluated(tmp_path / "out", capsys, *asked)
    known = [i for i, value in enumerate(rows["toxic"]) if value is not None]
    right = (logits[:, 0] > logits.median()).numpy()[known] == np.array(rows["toxic"][:])[known].astype(bool)
    assert found["labels"]["toxic"]["targets"]["natural"]["accuracy"] == pytest.approx(right.mean(), abs=0.005)
    assert "of 1 label:" in said or "of 1 label " in said
    with pytest.raises(SystemExit):  # not over these results
        main([*map(str, asked), "--rows", "50", "--output-dir", str(tmp_path / "out")])
    assert "has the results of another run" in capsys.readouterr().err


def test_a_model_of_one_label_and_a_folder_of_another_run_are_refused(
    tiny_bert, bert_tokenizer, rows, tmp_path, capsys
):
    tiny_bert().save_pretrained(tmp_path / "one")
    bert_tokenizer.save_pretrained(tmp_path / "one")
    rows.to_parquet(tmp_path / "rows.parquet")
    asked = [str(tmp_path / "one"), str(tmp_path / "rows.parquet"), "--label-columns", "labels", "--output-dir"]
    with pytest.raises(SystemExit):
        main([*asked, str(tmp_path / "out")])
    assert "predicts one label per text: leave --label-columns out" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text('{"recipe": "evaluate"}')
    with pytest.raises(SystemExit):
        main([*asked, str(tmp_path / "out")])
    assert "has the results of another run" in capsys.readouterr().err
