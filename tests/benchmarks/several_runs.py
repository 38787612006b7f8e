"""Recipes of a study, some at a time, each with its own log; an interrupted study continues in their run folders."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def run_all(commands, folder, jobs):
    """Run {name: command}, one thread each, with the log NAME.log in a folder; returns the names that succeeded."""

    def work(name):
        with (folder / f"{name}.log").open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            code = subprocess.run(commands[name], stdout=log, stderr=log, env=environment, check=False).returncode
        print(f"{name}: {'failed, see its log' if code else 'done'}", file=sys.stderr, flush=True)
        return code

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(work, commands))
    return [name for name, code in zip(commands, codes, strict=True) if code == 0]
