"""What is rendered from the results that are kept: README's tables, and a card and figures beside each results.json.

python -m hf_langimb.results.readme README.md model_cards
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_langimb.results.cards import render_card
from hf_langimb.results.page import write_figures
from hf_langimb.results.schema import FILE_NAME, read_results
from hf_langimb.results.tables import fill_marks


def write_cards(folder: Path) -> None:
    """Beside every results.json under a folder its figures, and the card of each setup as SETUP.md."""
    for path in sorted(folder.rglob(FILE_NAME)):
        results = read_results(path.parent)
        write_figures(results, path.parent / "figures")
        for setup in results["setups"]:
            (path.parent / f"{setup}.md").write_text(render_card(results, setup), encoding="utf-8")


if __name__ == "__main__":  # make readme
    readme, kept = map(Path, sys.argv[1:])
    readme.write_text(fill_marks(readme.read_text(encoding="utf-8"), kept), encoding="utf-8")
    write_cards(kept)
