"""Write the docstrings of installed packages with a free license to a text file, to train small language models on.

python tests/benchmarks/installed_text.py OUTPUT.txt [--packages NAME ...] [--megabytes 12]

One docstring per line, each once, in an order that depends on their content alone. Nothing of it belongs into the
repository. Prints the packages with version, license and number of docstrings.
"""

import ast
import hashlib
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib.metadata import distribution, metadata
from pathlib import Path

PACKAGES = ["numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "torch", "transformers", "datasets", "sympy"]
FREE = re.compile(r"\b(BSD|MIT|Apache|PSF|Python Software Foundation)\b")
SHORTEST = 200  # characters


def license_of(package: str) -> str:
    """What the package's metadata say, in one line."""
    found = metadata(package)
    texts = [found.get("License-Expression"), *(found.get_all("Classifier") or []), found.get("License")]
    lines = [line.strip() for text in texts if text for line in text.splitlines() if FREE.search(line)]
    return lines[0] if lines else ""


def docstrings(package: str) -> Iterator[str]:
    """Docstrings of the modules, classes and functions of a package, each on one line."""
    for file in distribution(package).files or ():
        path = Path(str(file.locate()))
        if path.suffix != ".py" or "tests" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= SHORTEST:
                    yield text


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", nargs="+", default=PACKAGES)
    parser.add_argument("--megabytes", type=float, default=12)
    options = parser.parse_args()
    every: set[str] = set()
    for package in options.packages:
        if not (terms := license_of(package)):
            print(f"{package}: left out, no free license in its metadata")
            continue
        found = set(docstrings(package)) - every
        every |= found
        print(f"{package} {distribution(package).version}, {terms}: {len(found):,} docstrings")
    size, kept = 0, []
    for text in sorted(every, key=lambda text: hashlib.sha256(text.encode()).digest()):
        size += len(text.encode())
        if size > options.megabytes * 1e6:
            break
        kept.append(text)
    options.output.write_text("\n".join(kept) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(kept):,} docstrings, {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
