"""Independent jobs in several processes: results, errors, and an end with the process that started them."""

import subprocess
import sys

import psutil
import pytest

from hf_langimb.runs.parallel import in_processes

SLEEPING = """
import time
from hf_langimb.runs.parallel import in_processes
list(in_processes(time.sleep, [600, 600], 2))
"""


def test_each_job_is_done_and_its_error_is_raised():
    jobs = in_processes(int, ["1", "2", "x"], 1)
    assert [next(jobs), next(jobs)] == [1, 2]
    with pytest.raises(ValueError, match="invalid literal for int"):
        next(jobs)


def test_the_processes_end_with_the_one_that_started_them():
    process = subprocess.Popen([sys.executable, "-c", SLEEPING], stderr=subprocess.DEVNULL)
    seen = psutil.Process(process.pid)
    while not (workers := [one for one in seen.children(recursive=True) if "spawn_main" in str(one.cmdline())]):
        assert process.poll() is None
    process.kill()
    process.wait(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
