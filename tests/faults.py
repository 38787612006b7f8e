"""Stop a small recipe at every file operation, repeat the command, compare results.json: python tests/faults.py RECORD.

An operation is a call of the C library that creates, writes, renames, removes or truncates a file below the run folder,
so that writers in Rust and C++ count too; `faults.c` is preloaded and intercepts them (Linux, with a C compiler). Of
writes to one file in a row the first, middle and last are stopped at. Each is stopped in the ways of FAULTS; each trial
must give the same bytes in the end, leave no part of a file, and say in one sentence that the disk is full.

Trials are appended to RECORD as JSON lines and are not run again: a stopped call goes on. --sample N runs N of them,
evenly chosen. Each trial is a fork of one process that has imported everything.
"""

import argparse
import collections
import contextlib
import ctypes
import gc
import hashlib
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FAULTS = {1: "killed before", 2: "killed in the middle", 3: "disk full before", 4: "disk full in the middle"}
FAULTS[5] = "killed after"  # a write of safetensors, whose renaming does not call the C library
SMALL = """
dataset_name: mini_xnli
text_columns: [premise, hypothesis]
id_column: item
label_order: [entailment, neutral, contradiction]
imbalanced_shares: [fr 1/2 1/3 1/6, en 1/6 1/3 1/2]
train_size: 24
validation_size: 12
test_size: 24
model_name_or_path: mini_bert
pretraining_steps: 1
probe_rows: 6
explain_rows: 6
max_length: 10
learning_rate: 3.0e-3
per_device_train_batch_size: 12
num_train_epochs: 3
save_total_limit: 2
eval_strategy: epoch
save_strategy: epoch
load_best_model_at_end: true
metric_for_best_model: eval_loss
logging_strategy: "no"
report_to: none
use_cpu: true
disable_tqdm: true
setups:
  balanced: {}
  imbalanced: {lora_rank: 2}
"""


def few() -> dict[str, object]:
    """What the functions of `mini_xnli` give in place of all of its rows."""
    from hf_langimb.data import mini_xnli

    text = mini_xnli.pretraining_text(60)
    return {"load": mini_xnli.load(train_items=40, validation_items=20, test_items=40), "pretraining_text": text}


def use_few() -> None:
    """Let recipes of this process read few rows."""
    from hf_langimb.data import mini_xnli

    for name, value in few().items():
        setattr(mini_xnli, name, lambda value=value: value)


def preload() -> None:
    """Start this program again with the library preloaded, in one thread."""
    library = Path(tempfile.mkdtemp(prefix="faults-"), "faults.so")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        sys.exit("faults.py needs Linux and a C compiler (cc).")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    single = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    changes = {"LD_PRELOAD": str(library), "FAULTS_LIBRARY": str(library), "PYTHONPATH": path, **single}
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | changes)


def attempt(work: Path, operation: int = -1, fault: int = 0) -> tuple[int, str]:
    """Run the recipe in a child process that is stopped at an operation: its exit code, and what it printed."""
    child = os.fork()
    if not child:
        try:
            with (work / "output").open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.chdir(work)
            sys.argv = ["xnli.py", "--output_dir", str(work / "run"), "--config", str(work / "mini.yaml")]
            ctypes.CDLL(None).fault_arm(*(str(work / name).encode() for name in ("run", "journal")), operation, fault)
            from hf_langimb.runs.experiment import main

            main("xnli", work)
            (work / "modules").write_text("\n".join(sys.modules))
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        except BaseException:
            os._exit(99)  # a traceback would be a fault of the program under test
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, (work / "output").read_text(errors="replace")


def kind_of(line: str, work: Path) -> str:
    """An operation's kind and file, without numbers: what it is counted as."""
    kind, _, path = line.partition(" ")
    parts = ["TMP" if part.startswith(".tmp") else part for part in Path(path).relative_to(work / "run").parts]
    name = "/".join("".join(c for c in part if not c.isdigit() or "seed-" in part) for part in parts)
    return f"{kind} {name}"


def trials(journal: list[str]) -> list[tuple[int, int]]:
    """(operation, fault) of all trials: of writes in a row to one file the first, middle and last."""
    chosen, number = [], 0
    for line, run in itertools.groupby(journal):
        length = len(list(run))
        first, last = number, number + length - 1
        chosen += sorted({first, (first + last) // 2, last} if line.startswith("write ") else range(first, last + 1))
        number += length
    writes = [line.startswith("write ") for line in journal]
    grows = [not line.startswith(("rename ", "remove ")) for line in journal]
    native = [is_write and "/.tmp" in line for line, is_write in zip(journal, writes, strict=True)]
    ways = {1: lambda i: True, 2: writes.__getitem__, 3: grows.__getitem__, 4: writes.__getitem__}
    ways[5] = native.__getitem__
    return [(i, fault) for i in chosen for fault, fits in ways.items() if fits(i)]


def problem_of(work: Path, operation: int, fault: int, expected: bytes) -> str:
    """What goes wrong in one trial; empty where nothing does."""
    shutil.rmtree(work / "run", ignore_errors=True)
    code, text = attempt(work, operation, fault)
    last = text.strip().rpartition("\n")[2]
    full = fault in (3, 4)
    if not full and code != -signal.SIGKILL:
        return f"was not killed: {code} {last}"
    if full and code == 0:  # nothing needed the space
        return "" if (work / "run" / "results.json").read_bytes() == expected else "ended well with other results"
    named = "could not be written" in last and str(work / "run") in last
    if full and (code != 1 or "Traceback" in text or not named):
        return f"no sentence: {code} {last[-600:]}"
    code, text = attempt(work)
    if code != 0:
        return f"does not go on: {code} {text[-600:]}"
    if (work / "run" / "results.json").read_bytes() != expected:
        return "other results"
    names = [path.name for path in (work / "run").rglob("*")]
    left = [name for name in names if name.startswith((".", "checkpoint-")) or name.endswith((".part", ".bin"))]
    return f"left {', '.join(sorted(left))}" if left else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("record", type=Path, help="JSON lines of the finished trials, continued")
    parser.add_argument("--sample", type=int, default=0, help="number of trials, evenly chosen; 0: all")
    options = parser.parse_args()
    if "FAULTS_LIBRARY" not in os.environ:
        preload()
    import hf_langimb.runs.experiment  # noqa: F401  its imports, once

    use_few()
    options.record.touch()
    done = {(line["operation"], line["fault"]): line for line in map(json.loads, options.record.open())}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        work = Path(folder)
        (work / "mini.yaml").write_text(SMALL)
        code, text = attempt(work)
        if code:
            sys.exit(text)
        for module in (work / "modules").read_text().split():  # what the recipe imports later on
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        gc.freeze()  # the Trainer collects garbage often
        expected, journal = (work / "run" / "results.json").read_bytes(), (work / "journal").read_text().splitlines()
        wanted = trials(journal)
        if options.sample:
            wanted = [wanted[i * len(wanted) // options.sample] for i in range(options.sample)]
        random.Random(0).shuffle(wanted)  # what is done first is of all kinds
        shutil.copy(work / "journal", options.record.with_suffix(".journal"))
        print(
            f"{len(journal)} operations, {len(wanted)} trials, results.json", hashlib.sha256(expected).hexdigest()[:8]
        )
        for operation, fault in (pair for pair in wanted if pair not in done):
            line = {"operation": operation, "fault": fault, "kind": kind_of(journal[operation], work)}
            line["problem"] = problem_of(work, operation, fault, expected)
            done[operation, fault] = line
            with options.record.open("a") as record:
                print(json.dumps(line), file=record)
            if line["problem"]:
                print(f"{FAULTS[fault]}: {line['kind']}: {line['problem']}", flush=True)
    counts = collections.Counter((line["kind"].partition(" ")[0], FAULTS[line["fault"]]) for line in done.values())
    wrong = [line for line in done.values() if line["problem"]]
    for (kind, fault), number in sorted(counts.items()):
        bad = sum(line["kind"].startswith(kind) and FAULTS[line["fault"]] == fault for line in wrong)
        print(f"{kind:9} {fault:24} {number:5} trials {bad:5} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
