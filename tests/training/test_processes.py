"""Two processes compute what one computes."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
import two_processes
from conftest import assert_close
from datasets import Dataset
from pyarrow.parquet import read_table
from two_processes import measure

SCRIPT = Path(two_processes.__file__)


def test_two_processes_compute_what_one_computes(tmp_path, bert_tokenizer, tiny_bert, tiny_dataset):
    rows = tiny_dataset(bert_tokenizer)  # 21: the last batch of an evaluation is uneven
    # 24 rows fill 4 micro-batches of 3 on both processes; ignored labels leave the two with unequal shares of the items
    rows = rows.select([*range(21), 0, 1, 2]).map(
        lambda row, i: {"label": -100 if i in (0, 1, 2, 7) else row["label"]}, with_indices=True
    )
    rows.save_to_disk(tmp_path / "rows")
    texts = [{"text": f"w{i % 20} w{i % 7}", "language": "fe"[i % 2], "label": i % 3} for i in range(30)]
    Dataset.from_list(texts).to_parquet(tmp_path / "texts.parquet")
    tiny_bert().save_pretrained(tmp_path / "model")
    bert_tokenizer.save_pretrained(tmp_path / "model")
    # accelerate 1.15: `launch --cpu --num_processes=2` starts a single process, without a word; this starts two
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command += ["--main_process_port=0", str(SCRIPT), str(tmp_path)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    gradients = torch.load(tmp_path / "gradients.pt")
    single, expected = measure(tmp_path, batch=24, accumulation=1)
    assert (measured.pop("processes"), expected.pop("processes")) == (2, 1)
    assert measured.pop("labels") == expected.pop("labels")
    assert measured.pop("distinct") == expected.pop("distinct") == [20, 20, 20]
    assert_close(measured.pop("checked"), expected.pop("checked"))
    explained = [json.loads((tmp_path / f"checkup-{n}" / "results.json").read_text())["explained"] for n in (1, 2)]
    assert_close(*explained)
    assert explained[0]["examples"] == explained[1]["examples"] == 6
    words = "from 0: the main process's own words"
    assert (measured.pop("told"), expected.pop("told")) == ([words, "from 0: exit 1"], [words])
    for name in ("predictions", "features"):
        values, wanted = (torch.tensor(numbers.pop(name)) for numbers in (measured, expected))
        assert values.allclose(wanted, atol=1e-6), name
    assert {"eval_loss", "eval_plain_loss", "eval_uniform_loss", "loss", "loss_masked_entropy"} <= set(measured)
    assert measured == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    stores = [{path.name: path for path in (tmp_path / f"store-{n}").iterdir()} for n in (1, 2)]
    assert stores[0].keys() == stores[1].keys() and len(stores[0]) == 17  # a manifest, two files for each of 8 shards
    for name in stores[0]:
        read = json.loads if name.endswith(".json") else lambda data: read_table(BytesIO(data)).to_pydict()
        contents = [read(store[name].read_bytes()) for store in stores]
        assert contents[0].keys() == contents[1].keys(), name
        assert_close(*contents, atol=1e-6)
    parts = measured["loss_classification"] + measured["loss_masked_entropy"]
    assert measured["loss"] == pytest.approx(parts, rel=1e-5)
    assert gradients.keys() == single.keys()
    for name, gradient in single.items():
        assert (gradient - gradients[name]).abs().max() < 1e-6, name
