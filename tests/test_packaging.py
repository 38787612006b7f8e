"""What is shipped: the wheel's content, the pins, and a Makefile that refuses in words."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hf_langimb

ROOT = Path(__file__).parents[1]
PACKAGE = Path(hf_langimb.__file__).parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
CONSTRAINTS = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
PINS = {canonicalize_name(name): version for name, version in CONSTRAINTS}
REQUIRED = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
DIRECT = [Requirement(line) for text in REQUIRED for line in text.strip().splitlines()]


def test_the_wheel_has_every_file_of_the_package_nothing_else_and_its_metadata(tmp_path):
    source = tmp_path / "source"  # a copy, because the build leaves folders there
    for folder in (PACKAGE, ROOT / "tests", ROOT / "recipes"):
        shutil.copytree(folder, source / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (built,) = tmp_path.glob("*.whl")
    assert built.name == f"hf_langimb-{hf_langimb.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built) as archive:
        wheel = {name: archive.read(name).decode() for name in archive.namelist()}
    paths = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file() and path.name[0] != "."]
    files = {path.as_posix() for path in paths if "__pycache__" not in path.parts}
    assert "hf_langimb/py.typed" in files
    assert {name for name in wheel if ".dist-info/" not in name} == files
    folders = {path.parent for path in PACKAGE.rglob("*.py")}  # find: passes one without __init__.py over in silence
    assert all((folder / "__init__.py").exists() for folder in folders), folders
    assert SETUP["options"]["packages"] == "find:"
    assert SETUP["options.packages.find"]["include"] == "hf_langimb*"
    assert SETUP["options.package_data"]["hf_langimb"] == "py.typed"
    assert SETUP["options.package_data"]["hf_langimb.results"] == "templates/*.jinja"
    (metadata,) = (text for name, text in wheel.items() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {hf_langimb.__version__}\n" in metadata
    assert re.search(r"\nLicense(-Expression)?: Apache-2.0\n", metadata)
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert {"cldr", "erasure", "evaluate", "test"} == set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: evaluate")]
    assert required and all("extra ==" in line for line in required)
    assert any("langimb = hf_langimb.cli:main" in wheel[name] for name in wheel if name.endswith("/entry_points.txt"))
    (licence,) = (text for name, text in wheel.items() if name.endswith("/licenses/LICENSE"))
    assert "Copyright 2026 The hf_langimb authors" in licence and "Hugging Face" not in licence


def test_every_direct_requirement_is_pinned_within_its_range():
    assert not [str(r) for r in DIRECT if not r.specifier.contains(PINS.get(canonicalize_name(r.name), "0"))]
    assert PINS["torch"] == "2.13.0"


@pytest.mark.skipif(sys.platform != "linux", reason="the pins were made on Linux")
def test_every_indirect_requirement_is_pinned():
    """Walk the installed packages. CUDA's libraries, which come with other builds of torch, are as torch wants them."""
    todo, seen, missing = [(r, frozenset(r.extras)) for r in DIRECT], set(), set()
    while todo:
        requirement, extras = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen or name.startswith(("nvidia-", "cuda-")):
            continue
        seen.add((name, extras))
        if name not in PINS and all(specifier.operator != "==" for specifier in requirement.specifier):
            missing.add(name)
        try:
            indirect = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:  # an extra's, not installed here
            continue
        for r in indirect:
            if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                todo.append((r, frozenset(r.extras)))
    assert not missing


@pytest.mark.parametrize("name", ["Makefile", "constraints.txt", ".ci/run", "setup.cfg", "pyproject.toml"])
def test_no_address_and_no_path_of_a_machine(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"(?<![\w.$}])/(?!usr/bin/env)\w+/", text)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("body", "messages"),  # of a fake python3
    [
        (
            '[ "$1" = --version ] && echo Python 3.10.4; exit 1',
            ["needs Python 3.11 or newer, found", "Python 3.10.4. Name another: make PYTHON=python3.11"],
        ),
        (
            '[ "$2" = venv ] || exit 0; mkdir -p .venv/bin; touch .venv/bin/python; exit 1',
            ["Debian/Ubuntu: apt install python3-venv"],
        ),
    ],
)
def test_make_says_what_is_missing_and_leaves_no_environment(tmp_path, body, messages):
    for name in ("Makefile", "setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python-fake"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "demo", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert all(message in done.stderr for message in messages)
    assert not (tmp_path / ".venv").exists()


def test_ci_calls_what_the_readme_calls():
    text = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "set -euo pipefail" in text
    assert all(f"make {target}" in text for target in ("lint", "demo", "test"))
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"]).returncode == 0
