"""Protocol overhead of publishing: push and pull of all setups of a run over loopback, against hashing and copying.

python tests/benchmarks/hub.py RUN [--repeats 5]

RUN is the run folder of a recipe. Each repeat pushes it to a Hub of its own on 127.0.0.1 and pulls every model into an
empty cache; then the files that lie there are hashed and copied with nothing around it. Prints JSON, in seconds;
model_cards/benchmarks/hub.json keeps what README shows.
"""

import hashlib
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{PORT}", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
os.environ["HF_HOME"] = tempfile.mkdtemp()
sys.path.insert(0, str(Path(__file__).parents[1]))

from hub_server import HubServer
from huggingface_hub import constants

from hf_langimb import push_run
from hf_langimb.hub.pull import pull
from hf_langimb.results.schema import read_results


def measure(run, setups):
    """Seconds of push, pull and of hashing and copying the same files; their number and bytes."""
    folder = Path(tempfile.mkdtemp())
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    with HubServer(PORT) as server:
        server.add_user("ann", "hf_ann")
        times = [time.perf_counter()]
        push_run(run, "ann/run", token="hf_ann")
        times.append(time.perf_counter())
        for setup in setups:
            pull(f"ann/run-{setup}", folder / setup)
        times.append(time.perf_counter())
        files = [content for repo in server.repos.values() for content in repo.files().values()]
    began = time.perf_counter()
    for i, content in enumerate(files):
        hashlib.sha256(content).hexdigest()
        (folder / f"copy-{i}").write_bytes(content)
    copied = time.perf_counter() - began
    shutil.rmtree(folder)
    return times[1] - times[0], times[2] - times[1], copied, len(files), sum(map(len, files))


def main():
    parser = ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    setups = list(read_results(options.run)["setups"])
    measured = [measure(options.run, setups) for _ in range(options.repeats + 1)][1:]  # the first imports all it needs
    push, pulled, floor, files, size = (statistics.median(column) for column in zip(*measured, strict=True))
    found = {"setups": setups, "files": files, "bytes": size, "push": push, "pull": pulled, "hash and copy": floor}
    overhead = statistics.median(push + pulled - floor for push, pulled, floor, _, _ in measured)
    print(json.dumps(found | {"overhead": overhead}, indent=1))


if __name__ == "__main__":
    main()
