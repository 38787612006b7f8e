"""Recipes of a study, some at a time, each with its own log; an interrupted study continues in their run folders."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from hf_langimb.files import write_json


def run_all(commands, folder, jobs):
    """Run {name: command}, one thread each, with the log NAME.log in a folder; yields each name that succeeded."""

    def work(name):
        with (folder / f"{name}.log").open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            return subprocess.run(commands[name], stdout=log, stderr=log, env=environment, check=False).returncode

    with ThreadPoolExecutor(jobs) as pool:
        names = {pool.submit(work, name): name for name in commands}
        for future in as_completed(names):
            failed = future.result()
            print(f"{names[future]}: {'failed, see its log' if failed else 'done'}", file=sys.stderr, flush=True)
            if not failed:
                yield names[future]


def kept(path: Path):
    """What a study has kept so far."""
    return json.loads(path.read_text()) if path.is_file() else {}


def keep(path: Path, content):
    """Replace the kept file of a study, so that it is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
