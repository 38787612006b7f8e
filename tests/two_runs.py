"""Start a small recipe twice in one folder, at random offsets: python tests/two_runs.py [TRIALS]

The second start has the same settings, or others. One must work, the other be refused in one sentence, and results.json
must be that of the same settings alone.
"""

import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from faults import SMALL

START = """
from pathlib import Path
from hf_langimb.console import RESUMES, ends_in_words
with ends_in_words("xnli.py", RESUMES):
    from faults import use_few
    from hf_langimb.runs.experiment import main
    use_few()
    main("xnli", Path.cwd())
"""
OTHER = ["--learning_rate", "1e-4"]
REFUSED = r"Another process|another process|another configuration"


def start(folder: Path, argv: list[str]) -> subprocess.Popen:
    """The recipe in a process of its own."""
    path = os.pathsep.join(filter(None, [*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", START, "--config", "mini.yaml", "--output_dir", folder, *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, cwd=folder.parent, **pipes)


def trial(folder: Path, argv: list[str], offset: float, expected: dict[bool, bytes]) -> str:
    """What goes wrong in two starts; empty where nothing does."""
    first = start(folder, [])
    with contextlib.suppress(subprocess.TimeoutExpired):  # it works while the second one starts
        first.wait(offset)
    second = start(folder, argv)
    outputs = [process.communicate()[0] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    refused = [text.strip().rpartition("\n")[2] for code, text in zip(codes, outputs, strict=True) if code]
    if (
        0 not in codes
        or any("Traceback" in text for text in outputs)
        or not all(re.search(REFUSED, r) for r in refused)
    ):
        return f"{codes}: {refused}"
    right = (folder / "results.json").read_bytes() == expected[bool(argv) and codes[0] != 0]
    return "" if right else "other results"


def main(trials: int = 20) -> None:
    """Print each trial; the exit code is 1 if one went wrong."""
    randomness, wrong, expected = random.Random(0), 0, {}
    with tempfile.TemporaryDirectory(prefix="two-") as place:
        Path(place, "mini.yaml").write_text(SMALL)
        for other in (False, True):
            folder = Path(place, f"alone-{other}")
            output = start(folder, OTHER * other).communicate()[0]
            expected[other] = (folder / "results.json").read_bytes() if folder.exists() else sys.exit(output)
        for number in range(trials):
            offset = randomness.uniform(0, 0.5 if number < trials // 3 else 14)
            problem = trial(Path(place, str(number)), OTHER * (number % 2), offset, expected)
            wrong += bool(problem)
            print(f"{number}: {'other' if number % 2 else 'same'} settings after {offset:.1f} s: {problem or 'right'}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
