"""Runs that are killed, damaged, or started twice: the same results in the end, or one sentence."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import assert_close
from faults import SMALL, few
from transformers import Trainer

import hf_langimb
from hf_langimb import LangImbTrainer, files, load_run
from hf_langimb.files import locked
from hf_langimb.results.page import write_report
from hf_langimb.results.schema import read_results
from hf_langimb.runs.experiment import run
from hf_langimb.runs.recipe import parse_recipe

ROOT = Path(hf_langimb.__file__).parents[1]
RECIPE = SMALL.replace("train_batch_size: 12", "train_batch_size: 8")  # three steps in an epoch
PLACES = {  # a file of each kind that a later step reads
    "weights": "balanced/seed-0/model.safetensors",
    "adapters": "imbalanced/seed-0/adapter_model.safetensors",
    "axes": "balanced/seed-0/langimb.json",
    "tokenizer": "imbalanced/seed-0/tokenizer.json",
    "configuration": "balanced/seed-0/config.json",
    "facts": "balanced/seed-0/training.json",
    "predictions": "balanced/seed-0/predictions.parquet",
    "probe": "imbalanced/seed-0/probe.json",
    "start": "start/model.safetensors",
    "vocabulary of the start": "start/tokenizer.json",
    "tokens": "attributions/balanced-seed-0/tokens-00000.parquet",
    "examples": "attributions/imbalanced-seed-0/examples-00000.parquet",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Function (output folder, *argv): run the recipe on few rows of the built-in data, its results."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "mini.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in few().items():
            patch.setattr(f"hf_langimb.data.mini_xnli.{name}", lambda value=value: value)
        yield lambda output, *argv: run(parse_recipe("xnli", folder, ["--output_dir", str(output), *map(str, argv)]))[1]


@pytest.fixture(scope="module")
def whole(work, tmp_path_factory):
    """The folder of a finished run, which tests copy."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    work(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def bytes_of(folder):
    return (folder / "results.json").read_bytes()


def flip(path, at=0.6):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def left(folder):
    """Names that a finished run must not leave."""
    names = [path.name for path in folder.rglob("*")]
    return [name for name in names if re.match(r"\.|checkpoint-", name) or name.endswith((".part", ".bin"))]


# Damage


@pytest.mark.parametrize("kind", PLACES)
def test_a_flipped_bit_is_found_and_removing_the_file_is_the_remedy(work, whole, copy, kind):
    path = copy / PLACES[kind]
    flip(path)
    with pytest.raises(ValueError, match=rf"{path} is damaged \(its checksum differs .*: remove it and run") as caught:
        work(copy)
    assert "\n" not in str(caught.value) and bytes_of(copy) == bytes_of(whole)
    path.unlink()
    work(copy)
    assert bytes_of(copy) == bytes_of(whole)


@pytest.mark.parametrize("kind", ["weights", "axes", "tokenizer", "configuration", "adapters", "start"])
@pytest.mark.parametrize("content", [None, b"", b'{"a'])
def test_whoever_loads_a_damaged_model_is_told_its_file(copy, kind, content):
    path = copy / PLACES[kind]
    flip(path) if content is None else path.write_bytes(content)
    setup = "imbalanced" if kind in ("adapters", "start", "tokenizer") else "balanced"
    with pytest.raises(ValueError, match=rf"{path} is damaged .*: remove it and run the recipe again\.$"):
        load_run(copy, setup=setup)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path} is missing: run the recipe again"):
        load_run(copy, setup=setup)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_without_a_record_the_damaged_file_is_named_too(copy, name, kept):
    folder = copy / "balanced" / "seed-0"
    (folder / "checksums.json").unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"{name} is damaged: save or download the model again") as caught:
        load_run(copy, setup="balanced")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"model": 3}', "\x00"])
def test_a_damaged_record_does_not_hide_what_is_there(work, whole, copy, content):
    (copy / "balanced" / "seed-0" / "checksums.json").write_text(content)
    try:
        work(copy)
    except ValueError as error:
        assert re.search(r"checksums.json is not valid JSON .*: remove it and run the recipe again", str(error))
    else:
        assert bytes_of(copy) == bytes_of(whole)


def test_a_damaged_manifest_is_named_with_the_right_advice(work, whole, copy):
    store = copy / "attributions" / "balanced-seed-0"
    (store / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=rf"manifest.json is not valid JSON .*: remove {store} and run the recipe"):
        work(copy)
    shutil.rmtree(store)
    work(copy)
    assert bytes_of(copy) == bytes_of(whole)


# Kills


class Killed(BaseException):
    """Stands for the end of the process."""


def stop_at(monkeypatch, step):
    """Training ends before this step, counted over all trainings."""
    inner, steps = LangImbTrainer.training_step, []

    def counted(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == step:
            raise Killed
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(LangImbTrainer, "training_step", counted)
    return steps


@pytest.mark.parametrize(
    ("damage", "how"),
    [
        ("optimizer.pt", "cut"),
        ("rng_state.pth", "gone"),
        ("model.safetensors", "flipped"),
        ("checksums.json", "gone"),
        ("", ""),
    ],
)
def test_a_checkpoint_counts_when_it_is_complete(work, whole, tmp_path, monkeypatch, caplog, damage, how):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 8)
        work(folder)
    path = folder / "balanced" / "seed-0" / "checkpoint-6" / damage
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif how == "flipped":
        flip(path)
    elif how == "gone":
        path.unlink()
    steps = stop_at(monkeypatch, 0)
    work(folder)
    assert steps[0] == (3 if damage else 6)
    words = "removing checkpoint-6 (damaged or incomplete); training continues from checkpoint-3"
    assert (words in caplog.text) is bool(damage)
    assert bytes_of(folder) == bytes_of(whole)
    assert not left(folder)


def test_the_best_checkpoint_must_be_intact_and_is_found_in_a_moved_folder(work, whole, tmp_path, monkeypatch):
    """A damaged best checkpoint would give other weights in the end; the Trainer remembers it by its old path."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_load_best_model", lambda self: (_ for _ in ()).throw(Killed()))
        work(tmp_path / "old")
    place = tmp_path / "new" / "balanced" / "seed-0"
    shutil.move(tmp_path / "old", tmp_path / "new")
    state = json.loads((place / "checkpoint-9" / "trainer_state.json").read_text())
    moved = shutil.copytree(tmp_path / "new", tmp_path / "moved")
    work(moved)
    assert bytes_of(moved) == bytes_of(whole)
    flip(place / f"checkpoint-{state['best_global_step']}" / "model.safetensors")
    work(tmp_path / "new")
    assert bytes_of(tmp_path / "new") == bytes_of(whole)


PARTS = [".config.yaml.4711", "config.part", "start.part/model.safetensors", ".results.json.2", ".lock"]
OF_STEPS = ["checkpoint-3/optimizer.pt", ".tmpAbC123", ".predictions.parquet.1", ".checksums.json.7"]
OF_STEPS = [f"balanced/seed-0/{name}" for name in OF_STEPS]
OF_STEPS += ["attributions/balanced-seed-0/.tokens-00000.parquet.99", "figures/.probe.svg.17"]


@pytest.mark.parametrize("begun", [False, True])
def test_parts_that_killed_processes_left_are_removed(work, whole, tmp_path, begun):
    folder = tmp_path / "run"
    if begun:
        shutil.copytree(whole, folder)
    for name in PARTS + OF_STEPS * begun:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")
    work(folder)
    assert not left(folder) and bytes_of(folder) == bytes_of(whole)


@pytest.mark.parametrize("name", ["notes.txt", ".notes.2024", "data.part.csv", ".tmp", "model.json"])
def test_files_of_the_user_are_not_removed(work, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="contains files but no run"):
        work(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# Two processes


def test_a_folder_is_locked_while_a_run_works_in_it(work, whole, copy):
    config = (copy / "config.yaml").read_bytes()
    words = rf"^another process \({os.getpid()} on .*\) is using {copy}: wait"
    with locked(copy, "wait"):
        for argv in ([], ["--learning_rate", 1e-4], ["--seeds", 2]):
            with pytest.raises(ValueError, match=words):
                work(copy, *argv)
        assert (copy / "config.yaml").read_bytes() == config
        assert read_results(copy) and load_run(copy, setup="balanced")  # they only read
        assert write_report(copy).is_file()
    work(copy)
    assert bytes_of(copy) == bytes_of(whole) and not (copy / ".lock").exists()


HOLD = """
import os, sys, time
from pathlib import Path
from hf_langimb.files import locked
with locked(Path(sys.argv[1]), "wait"):
    child = os.fork() if len(sys.argv) > 2 else 0
    if not child: print("locked", flush=True)  # a fork, when it has closed its descriptor
    time.sleep(60)
"""


@pytest.mark.parametrize("forked", [[], ["forked"]])
def test_a_lock_ends_with_its_process_even_if_a_child_survives(tmp_path, forked):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path, *forked], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"another process \({process.pid} on "), locked(tmp_path, "wait"):
            pass
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with locked(tmp_path, "wait"):
            assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")
        os.killpg(process.pid, signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, caplog):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *args: (_ for _ in ()).throw(OSError(37, "No locks available")))
    with locked(tmp_path, "wait"):
        pass
    assert "cannot be locked ([Errno 37] No locks available): run one process in it at a time" in caplog.text


# Total batch


def test_trainings_to_do_with_another_number_of_processes_are_refused(work, whole, copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    assert (config["processes"], config["total_batch"]) == (1, 8)
    assert read_results(copy)["total_batch"] == 8 and b"processes" not in bytes_of(copy)
    (copy / "config.yaml").write_text(yaml.safe_dump(config | {"processes": 2, "total_batch": 16}))
    (copy / "balanced" / "seed-0" / "predictions.parquet").unlink()
    work(copy)  # predictions and probe take any number
    assert_close(read_results(copy), read_results(whole) | {"total_batch": 16}, atol=1e-6)  # it was trained with
    assert yaml.safe_load((copy / "config.yaml").read_text())["processes"] == 2
    words = r"run with 2 process\(es\) and a total batch of 16 rows, got 1 process\(es\) and a total batch of 8"
    for argv, gone in ((["--seeds", 2], None), ([], "balanced/seed-0"), ([], "start")):
        if gone:
            shutil.rmtree(copy / gone)
        with pytest.raises(ValueError, match=words):
            work(copy, *argv)
    old = {key: value for key, value in config.items() if key not in ("processes", "total_batch")}
    (copy / "config.yaml").write_text(yaml.safe_dump(old))
    work(copy)


def test_a_setup_with_its_own_batch_has_its_own_total(work, tmp_path):
    (tmp_path / "own.yaml").write_text(
        RECIPE.replace("balanced: {}", "balanced: {gradient_accumulation_steps: 2, per_device_train_batch_size: 6}")
    )
    results = work(tmp_path / "run", "--config", tmp_path / "own.yaml", "--num_train_epochs", 1, "--explain_rows", 0)
    assert results["total_batch"] == 8
    assert {name: setup.get("total_batch") for name, setup in results["setups"].items()} == {
        "balanced": 12,
        "imbalanced": None,
    }


# A full disk


def test_a_full_disk_names_the_file_and_the_remedy(tmp_path):
    """Errors as the libraries raise them: with a number, with a cause, and in the words of Rust and C++."""
    path = tmp_path / "checkpoint-3" / "optimizer.pt"

    def save(error, filename=str(path)):  # as in the libraries' frames
        raise error

    numbered = OSError(28, "No space left on device")
    wrapped = RuntimeError("unexpected pos 64 vs 0")
    wrapped.__cause__ = numbered
    native = [
        Exception("No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22"),
        RuntimeError("basic_ios::clear: iostream error"),
        OSError(122, "Disk quota exceeded"),
        OSError(30, "Read-only file system"),
        OSError(27, "File too large", str(path)),
    ]
    for error in (numbered, wrapped, *native):
        words = rf"^{path} could not be written \(.*\): free space on its disk"
        with pytest.raises(OSError, match=words), files.names_the_file(tmp_path):
            save(error)
    with pytest.raises(ValueError, match=r"^of another kind$"), files.names_the_file(tmp_path):
        save(ValueError("of another kind"))
    path = tmp_path / "results.json"
    with pytest.raises(OSError, match=rf"^{path} could not be written"), files.replacing(path) as part:
        raise OSError(28, "No space left on device", str(part))
    assert not list(tmp_path.iterdir())


# Interrupts


@pytest.mark.parametrize("recipe", ["xnli.py", "evaluate.py"])
def test_an_interrupt_during_the_imports_is_one_sentence(tmp_path, recipe):
    hook = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    hook += "class Hook:\n  def find_spec(self, name, *_):\n    if name == 'torch': "
    hook += "signal.raise_signal(signal.SIGINT)\nsys.meta_path.insert(0, Hook())"
    (tmp_path / "sitecustomize.py").write_text(hook)
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / recipe],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert done.stderr == f"{recipe}: interrupted; run the same command again to continue after the finished steps\n"


# The fault test, of which the whole is python tests/faults.py RECORD


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_a_sample_of_faults(tmp_path):
    command = [sys.executable, ROOT / "tests" / "faults.py", tmp_path / "record", "--sample", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 wrong" in done.stdout
