"""CPU seconds and memory of `langimb audit` on large files, two versions of the package side by side.

python tests/benchmarks/audit.py TREE OTHER_TREE [REPEATS [FOLDER]]

Each tree is a checkout. Its audits run in their own processes, interleaved. Files of 10 million rows (csv, quoted csv,
JSON lines, Parquet) are read by both trees; Parquet files of 100 million rows, in 100 row groups and in one, by the
first tree and by `pq.read_table`. FOLDER keeps the files (3 GB). Prints JSON and writes it to FOLDER/audit.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, MANY, STRINGS = 10_000_000, 100_000_000, ["language", "label"]
BOTH = ["rows.parquet", "rows.csv", "quoted.csv", "rows.jsonl"]


def make(folder):
    """The files, with 50 languages, 20 labels and some text; and one of two rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    values = [[f"language_{i:02}" for i in range(50)], [f"label_{i:02}" for i in range(20)]]
    codes = [rng.integers(0, len(names), MANY, dtype=np.int32) for names in values]
    columns = [pa.DictionaryArray.from_arrays(*pair) for pair in zip(codes, values, strict=True)]
    table = pa.table(columns, names=STRINGS)
    for name, rows, group in (
        ("groups", MANY, 1_000_000),
        ("single", MANY, MANY),
        ("rows", ROWS, 1_000_000),
        ("two", 2, 2),
    ):
        pq.write_table(table[:rows], folder / f"{name}.parquet", row_group_size=group, store_schema=False)
    plain = table[:ROWS].cast(pa.schema([(name, pa.string()) for name in STRINGS]))
    for name, text in (("rows", "a text of some words"), ("quoted", 'a text, with "quotes" in it')):
        written = plain.append_column("text", pa.repeat(text, ROWS))
        pa.csv.write_csv(written, folder / f"{name}.csv", pa.csv.WriteOptions(quoting_style="needed"))
    pa.csv.write_csv(plain[:2], folder / "two.csv")
    with open(folder / "rows.jsonl", "w") as file:
        for batch in plain.to_batches(100_000):
            file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain[:2].to_pylist()))


def measure(how, path):
    """CPU seconds of an audit or of reading two columns, and the most memory in MB."""
    began = time.process_time()
    if how == "audit":
        from hf_langimb.cli import main as langimb

        assert langimb(["audit", path, "--json"]) == 0
    else:
        import pyarrow.parquet as pq

        began = time.process_time()
        pq.read_table(path, columns=STRINGS, read_dictionary=STRINGS)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return time.process_time() - began, int(status["VmHWM"].split()[0]) / 1024  # of this program alone


def run(tree, how, path):
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "measure", how, str(path)]
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_DATASETS_CACHE": str(path.parent / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


def main(tree, other, repeats=3, folder=None):
    """Medians of interleaved processes, less those of two rows; ratios of the first tree to the second."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        place.mkdir(exist_ok=True)
        if not (place / "two.jsonl").exists():
            make(place)
        tasks = [(where, "audit", f"two{end}") for where in (tree, other) for end in (".parquet", ".csv", ".jsonl")]
        tasks += [(where, "audit", name) for where in (tree, other) for name in BOTH]
        tasks += [(tree, how, f"{name}.parquet") for how in ("audit", "read") for name in ("groups", "single")]
        runs = {task: [] for task in tasks}
        for i in range(int(repeats)):
            for task in tasks[:: 1 - 2 * (i % 2)]:
                runs[task].append(run(task[0], task[1], place / task[2]))
        seconds = {task: statistics.median(cpu for cpu, _ in found) for task, found in runs.items()}
        alone = {
            task: value - seconds[(*task[:2], f"two{Path(task[2]).suffix}")]
            for task, value in seconds.items()
            if task[1] == "audit"
        }
        found = {
            "seconds": {" ".join(task[1:]): seconds[task] for task in tasks if task[0] == tree},
            "other": {" ".join(task[1:]): seconds[task] for task in tasks if task[0] == other},
            "ratio": {name: seconds[tree, "audit", name] / seconds[other, "audit", name] for name in BOTH},
            "ratio to read_table": {
                name: alone[tree, "audit", name] / seconds[tree, "read", name]
                for name in ("groups.parquet", "single.parquet")
            },
            "memory in MB": {
                " ".join(task[1:]): max(memory for _, memory in runs[task]) for task in tasks if task[0] == tree
            },
        }
        (place / "audit.json").write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        print(json.dumps(measure(*sys.argv[2:])), file=sys.stderr)
    else:
        print(json.dumps(main(*sys.argv[1:]), indent=1))
