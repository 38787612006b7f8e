"""What version 0.1 wrote is read with the same values: a run folder of two setups, one of them adapters, two seeds.

tests/fixtures has the folder (`run-0.1`), the YAML that made it, and what version 0.1 itself read from it.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HUB_PORT, assert_close
from datasets import Dataset
from hub_server import HubServer
from huggingface_hub import ModelCard
from pyarrow.parquet import read_schema
from scipy.special import log_softmax

import hf_langimb
from hf_langimb import AttributionStore, LangImbTrainer, cumulative_difference, load_run, push_run
from hf_langimb.cli import main
from hf_langimb.results.schema import FORMS
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe

FIXTURES = Path(__file__).parent / "fixtures"
RUN = FIXTURES / "run-0.1"
RECIPES = Path(hf_langimb.__file__).parents[1] / "recipes" / "xnli"
EXPECTED = json.loads((FIXTURES / "expected-0.1.json").read_text(encoding="utf-8"))
ROWS = EXPECTED["rows"]
MODELS = [(setup, seed) for setup in ("balanced", "imbalanced") for seed in (0, 1)]


def texts():
    return [row["premise"] for row in ROWS], [row["hypothesis"] for row in ROWS]


def logits_of(loaded):
    batch = loaded.tokenizer(*texts(), padding=True, return_tensors="pt")
    with torch.no_grad():
        return loaded.model(**batch).logits.numpy()


def sums_of(entries):
    """Cumulative differences without what other methods do not share."""
    return [{key: entry[key] for key in entry if "intervals" not in key and key != "token_shares"} for entry in entries]


def test_the_fixture_is_small_and_names_no_machine():
    files = [path for path in FIXTURES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2**20
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".json", ".yaml", ".md")]
    assert not [text for text in texts if re.search(r"/(tmp|home|root|Users|work)/", text)]


@pytest.mark.parametrize(("setup", "seed"), MODELS)
def test_load_run_gives_a_model_that_the_trainer_evaluates(training_arguments, setup, seed):
    loaded, expected = load_run(RUN, setup=setup, seed=seed), EXPECTED["load_run"][f"{setup}/{seed}"]
    np.testing.assert_allclose(logits_of(loaded), expected["logits"], atol=1e-5)
    np.testing.assert_allclose(loaded.weights, expected["weights"], atol=1e-5)
    assert (loaded.languages, loaded.labels) == (expected["languages"], expected["labels"])
    assert [loaded.model.config.id2label[i] for i in range(3)] == expected["id2label"]
    assert loaded.model.config.langimb["counts"] == expected["counts"]
    measured = loaded.results["setups"][setup]["seeds"][str(seed)]["test"]
    assert measured["accuracy"] == pytest.approx(expected["accuracy"])
    columns = {name: [row[name] for row in ROWS] for name in ("language", "label")}
    columns["label"] = [loaded.labels.index(name) for name in columns["label"]]
    data = Dataset.from_dict({**loaded.tokenizer(*texts()), **columns})
    trains = setup == "balanced"  # loaded adapters are frozen: they are only evaluated
    trainer = LangImbTrainer(
        loaded.model,
        training_arguments(class_weighting="per_language" if trains else "none", per_device_eval_batch_size=4),
        train_dataset=data.select([0, 0, 0, 1, 2, 3, 3, 4, 5, 5]) if trains else None,
        eval_dataset=data,
        processing_class=loaded.tokenizer,
    )
    expected = EXPECTED["evaluate"][f"{setup}/{seed}"]
    assert set(expected) == {"eval_loss", "eval_plain_loss", "eval_uniform_loss"}
    if not trains:  # 0.1 took the weighting of the arguments, not the recorded one
        losses = np.array(
            [-row[label] for row, label in zip(log_softmax(logits_of(loaded), axis=1), columns["label"], strict=True)]
        )
        own = [
            loaded.weights[loaded.languages.index(row["language"])][label]
            for row, label in zip(ROWS, columns["label"], strict=True)
        ]
        expected = expected | {"eval_loss": float((losses * own).mean())}
        assert expected["eval_loss"] != pytest.approx(expected["eval_plain_loss"], rel=0.01)
    assert_close(trainer.evaluate(), expected)


def test_compare_and_report(capsys, tmp_path):
    stores = {f"{setup}/{seed}": RUN / "attributions" / f"{setup}-seed-{seed}" for setup, seed in MODELS}
    pair, other = (stores["imbalanced/0"], stores["balanced/0"]), stores["balanced/1"]
    found = {"result": cumulative_difference(*pair, resamples=100)}
    found["unbiased"] = cumulative_difference(pair[0], other, selection=pair[1], resamples=0)
    assert_close(found, EXPECTED["cumulative_difference"])
    assert main(["compare", str(RUN), "--json"]) == 0
    assert_close(json.loads(capsys.readouterr().out), EXPECTED["compare"])
    # every number in the tables of the page that version 0.1 wrote is in today's
    assert main(["report", str(RUN), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    cells = [re.sub("<[^>]+>", " ", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)]
    numbers = Counter(number for cell in cells for number in re.findall(r"-?\d+\.\d+", cell))
    assert len(EXPECTED["report"]) > 200
    assert not Counter(EXPECTED["report"]) - numbers


def test_push():
    with HubServer(HUB_PORT) as hub:
        hub.add_user("ann", "hf_ann")
        push_run(RUN, "ann/old", token="hf_ann")
        for name, expected in EXPECTED["push"].items():
            files = hub.repos[name].files()
            assert set(expected["files"]) <= set(files), name
            if expected["metrics"]:
                found = ModelCard(files["README.md"].decode()).data.eval_results
                assert_close(sorted([one.metric_type, one.metric_value] for one in found), expected["metrics"])
        for setup in ("balanced", "imbalanced"):
            expected = EXPECTED["load_run"][f"{setup}/0"]["logits"]
            np.testing.assert_allclose(logits_of(load_run(f"ann/old-{setup}")), expected, atol=1e-5)


def test_the_recipe_continues_the_run(tmp_path):
    """Models and probes are kept, predictions get base values; the old attributions are put aside for unbiased ones."""
    folder = shutil.copytree(RUN, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    stores = folder / "attributions"
    (stores / "balanced-seed-0").rename(stores / "balanced-seed-0.12-rows")  # as an earlier version put it aside
    argv = ["--config", str(FIXTURES / "old.yaml"), "--output_dir", str(folder)]
    _, results = run(parse_recipe("xnli", RECIPES, argv))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    expected = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    results["comparisons"] = [one for one in results["comparisons"] if not one["metric"].startswith("targets")]
    found, owen = results.pop("attributions"), expected.pop("attributions")
    assert not owen.pop("unbiased")  # that version needed three seeds
    assert_close(results, expected)
    assert found["method"] == "owen_orders" and found["base_values"].keys() == owen["base_values"].keys()
    forms = FORMS[:2]
    assert_close({form: found[form] for form in forms}, {form: sums_of(owen[form]) for form in forms}, atol=0.01)
    run(parse_recipe("xnli", RECIPES, [*argv, "--explain_rows", "6"]))
    for setup, seed in MODELS:
        name = f"{setup}-seed-{seed}"
        assert "base" in read_schema(folder / setup / f"seed-{seed}" / "predictions.parquet").names
        kept = {path.name: path.read_bytes() for path in (stores / f"{name}.12-rows-owen").glob("*.parquet")}
        assert kept and kept == {path.name: path.read_bytes() for path in (RUN / stores.name / name).glob("*.parquet")}
        assert AttributionStore(stores / f"{name}.12-rows").manifest["method"] == "owen_orders"


def test_a_folder_without_records_is_continued_and_says_so(tmp_path, caplog):
    folder = shutil.copytree(RUN, tmp_path / "run")
    recipe = parse_recipe("xnli", RECIPES, ["--config", str(FIXTURES / "old.yaml"), "--output_dir", str(folder)])
    run(recipe)
    assert "was started by an earlier version: its finished steps are kept and now recorded" in caplog.text
    records = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("checksums.json")}
    assert records == {"start", *(f"{setup}/seed-{seed}" for setup, seed in MODELS)}
    weights = folder / "balanced" / "seed-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"else")
    with pytest.raises(ValueError, match=rf"{weights} is damaged"):
        run(recipe)
