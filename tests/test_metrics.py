"""The `evaluate` modules, loaded from their folders as users load them, alone and in a Trainer."""

import ast
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml

import hf_langimb
from hf_langimb import evaluate_predictions

FOLDER = Path(hf_langimb.__file__).parent / "metrics"


def load(name, tmp_path):
    return evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path))


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    languages, references = np.array(["en", "fr", "ja"])[rng.integers(0, 3, 300)], rng.integers(0, 3, 300)
    return languages, references, np.where(rng.random(300) < 0.7, references, rng.integers(0, 3, 300))


@pytest.mark.parametrize("kind", [int, str])
def test_accuracy_of_each_language(columns, tmp_path, kind):
    languages, references, predictions = columns
    found = load("per_language_accuracy", tmp_path).compute(
        predictions=[kind(x) for x in predictions], references=[kind(x) for x in references], languages=languages
    )
    expected = evaluate_predictions(languages, references, predictions)
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["worst_cell_accuracy"] == pytest.approx(expected["worst_cell_accuracy"])
    by_language = {name: part["accuracy"] for name, part in expected["by_language"].items()}
    assert {f"accuracy_{name}": pytest.approx(value) for name, value in by_language.items()}.items() <= found.items()
    assert found["worst_language_accuracy"] == pytest.approx(min(by_language.values()))


def test_reliance_on_the_language_and_what_is_left_out_or_half_given(columns, tmp_path):
    metric = load("language_reliance", tmp_path)
    languages, _, predictions = columns
    expected = evaluate_predictions(languages, predictions, predictions)
    found = metric.compute(predictions=predictions, languages=languages)
    assert found["dependence_bits"] == pytest.approx(expected["dependence_bits"])
    assert found["dependence_bits_corrected"] == pytest.approx(expected["dependence_bits_corrected"])
    assert found["reliance"] is None
    for part in np.array_split(np.arange(300), 4):
        metric.add_batch(predictions=predictions[part], languages=languages[part])
    assert metric.compute() == found, "batches add up"
    copied = metric.compute(
        predictions=predictions, languages=languages, training_labels=predictions, training_languages=languages
    )
    assert copied["reliance"] == pytest.approx(1)
    found = load("per_language_accuracy", tmp_path).compute(
        predictions=[1, 0, 1], references=[1, -100, 0], languages=["en", "fr", "en"]
    )
    assert found["accuracy"] == 0.5 and "accuracy_fr" not in found
    with pytest.raises(ValueError, match="Expected both training_labels and training_languages"):
        metric.compute(predictions=[0], languages=["en"], training_labels=[0])


@pytest.mark.parametrize("name", ["per_language_accuracy", "language_reliance"])
def test_the_example_of_its_page(monkeypatch, name):
    """The page that would be published: metadata, and an example that gives what it says."""
    page = (FOLDER / name / "README.md").read_text()
    metadata = yaml.safe_load(page.split("---")[1])
    assert metadata["tags"] == ["evaluate", "metric"]
    monkeypatch.chdir(FOLDER.parents[1])
    code, _, said = page.split("```python\n")[1].split("```")[0].rpartition("# ")
    *setup, call = ast.parse(code).body
    names: dict = {}
    exec(compile(ast.Module(setup, []), name, "exec"), names)
    found = eval(compile(ast.Expression(call.value), name, "eval"), names)
    assert found == {
        key: value and pytest.approx(value, abs=5e-4) for key, value in eval(said.partition("}")[0] + "}").items()
    }


def test_in_a_trainer_rows_keep_their_order(bert_tokenizer, build, tiny_dataset, tmp_path):
    metric = load("per_language_accuracy", tmp_path)
    rows = tiny_dataset(bert_tokenizer, length=(1, 12))

    def measure(evaluated):
        columns = {"references": evaluated.label_ids, "languages": rows["language"]}
        return metric.compute(predictions=evaluated.predictions.argmax(-1), **columns)

    settings = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 4}
    trainer = build(data=rows, eval_dataset=rows, keywords={"compute_metrics": measure}, **settings)
    found = trainer.evaluate()
    output = trainer.predict(rows)
    assert output.label_ids.tolist() == rows["label"][:]  # in order, though batches of training go by length
    expected = evaluate_predictions(rows["language"][:], rows["label"][:], output.predictions.argmax(-1).tolist())
    for language, part in expected["by_language"].items():
        assert found[f"eval_accuracy_{language}"] == pytest.approx(part["accuracy"])


@pytest.mark.parametrize("column", ["predictions", "references", "languages"])
@pytest.mark.parametrize("kind", [int, str])
def test_nulls_are_refused(tmp_path, column, kind):
    columns = {"predictions": [kind(1), kind(0)], "references": [kind(1), kind(1)], "languages": ["en", "fr"]}
    columns[column] = [columns[column][0], None]
    with pytest.raises(ValueError, match=f"The {column[:-1]} column is empty in 1 of 2"):
        load("per_language_accuracy", tmp_path).compute(**columns)
    if column != "references":
        columns.pop("references")
        with pytest.raises(ValueError, match=r"column is empty in 1 of 2|1 null"):
            load("language_reliance", tmp_path).compute(**columns)
