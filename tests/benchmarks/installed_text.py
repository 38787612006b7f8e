"""Write texts of installed packages with a free license to a file, to train small language models on.

python tests/benchmarks/installed_text.py OUTPUT.txt [--packages NAME ...] [--megabytes 12]
python tests/benchmarks/installed_text.py OUTPUT.jsonl --source --megabytes 250 --tokenizer FOLDER

Docstrings, one per line; with --source, whole files of source code and documentation instead, as JSON lines with a
column `text`. Each text once, in an order that depends on their content alone. --tokenizer makes a byte-level BPE of
16,384 tokens from them. Do not commit the output. Prints the packages with version, license and number
of texts.
"""

import ast
import hashlib
import json
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution, distributions, metadata
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

PACKAGES = ["numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "torch", "transformers", "datasets", "sympy"]
FREE = re.compile(r"\b(BSD|MIT|Apache|PSF|Python Software Foundation)\b")
SHORTEST = 200  # characters
SOURCES = {".py", ".pyi", ".rst", ".md", ".txt", ".h", ".hpp", ".cuh", ".cpp", ".c", ".pyx", ".pxd"}
END = "<|endoftext|>"


def license_of(package: str) -> str:
    """The first line of the package's metadata that names a free license; empty if there is none."""
    found = metadata(package)
    texts = [found.get("License-Expression"), *(found.get_all("Classifier") or []), found.get("License")]
    lines = [line.strip() for text in texts if text for line in text.splitlines() if FREE.search(line)]
    return lines[0] if lines else ""


def files(package: str, suffixes: set[str]) -> Iterator[str]:
    """The text of each file of a package with one of these suffixes, without its tests."""
    for file in distribution(package).files or ():
        path = Path(str(file.locate()))
        if path.suffix in suffixes and "tests" not in path.parts:
            try:
                yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def docstrings(package: str) -> Iterator[str]:
    """Docstrings of the modules, classes and functions of a package, each on one line."""
    for source in files(package, {".py"}):
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield " ".join((ast.get_docstring(node) or "").split())


def save_tokenizer(texts: Sequence[str], folder: Path) -> None:
    """Train a byte-level BPE, and save it as a fast tokenizer of Transformers."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=16_384, special_tokens=[END])
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=END).save_pretrained(folder)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", nargs="+", help="default with --source: all that are installed")
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--source", action="store_true")
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    every: set[str] = set()
    installed = sorted({of.metadata["Name"] for of in distributions()}, key=str.lower)
    for package in options.packages or (installed if options.source else PACKAGES):
        if not (terms := license_of(package)):
            print(f"{package}: left out, no free license in its metadata")
            continue
        read = files(package, SOURCES) if options.source else docstrings(package)
        found = {text for text in read if len(text) >= SHORTEST} - every
        every |= found
        print(f"{package} {distribution(package).version}, {terms}: {len(found):,} texts")
    size, kept = 0, []
    for text in sorted(every, key=lambda text: hashlib.sha256(text.encode()).digest()):
        size += len(text.encode())
        if size > options.megabytes * 1e6:
            break
        kept.append(text)
    rows = (json.dumps({"text": text}) for text in kept) if options.source else kept
    options.output.write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(kept):,} texts, {size / 1e6:.1f} MB")
    if options.tokenizer:
        save_tokenizer(kept, options.tokenizer)


if __name__ == "__main__":
    main()
