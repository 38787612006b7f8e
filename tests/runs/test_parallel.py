"""Independent jobs in several processes: results, errors, and an end with the process that started them."""

import signal
import subprocess
import sys

import psutil
import pytest

from hf_langimb.runs.parallel import in_processes

SLEEPING = """
import signal, time
from hf_langimb.runs.parallel import in_processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
list(in_processes(time.sleep, [600, 600], 2))
"""


def test_each_job_is_done_and_its_error_is_raised():
    jobs = in_processes(int, ["1", "2", "x"], 1)
    assert [next(jobs), next(jobs)] == [1, 2]
    with pytest.raises(ValueError, match="invalid literal for int"):
        next(jobs)


def test_the_processes_end_with_the_one_that_started_them():
    started = {}
    for end in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", SLEEPING], stderr=subprocess.DEVNULL)
        started[end] = process, psutil.Process(process.pid)
    workers = []
    for end, (process, seen) in started.items():
        while not (found := [one for one in seen.children(recursive=True) if "spawn_main" in str(one.cmdline())]):
            assert process.poll() is None
        process.send_signal(end)
        process.wait(timeout=120)
        workers += found
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
