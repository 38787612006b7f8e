"""Independent jobs in several processes: results, errors, and an end with the process that started them."""

import signal
import subprocess
import sys

import psutil
import pytest

from hf_langimb.runs.parallel import in_processes

SLEEPING = (
    "import time; from hf_langimb.runs.parallel import in_processes; list(in_processes(time.sleep, [600, 600], 2))"
)


def test_each_job_is_done_once():
    assert sorted(in_processes(abs, [-1, -2, -3], 2)) == [1, 2, 3]


def test_the_error_of_a_job_is_raised():
    with pytest.raises(ValueError, match="invalid literal for int"):
        list(in_processes(int, ["1", "x"], 2))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_processes_end_with_the_one_that_started_them(end):
    with subprocess.Popen([sys.executable, "-c", SLEEPING], stderr=subprocess.DEVNULL) as process:
        started = psutil.Process(process.pid)
        while not (workers := [one for one in started.children(recursive=True) if "spawn_main" in str(one.cmdline())]):
            assert process.poll() is None
        process.send_signal(end)
        process.wait(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
