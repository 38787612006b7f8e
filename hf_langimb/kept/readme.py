"""Render again what is kept: a card and figures next to each results.json, and the tables of Markdown pages.

python -m hf_langimb.kept.readme model_cards README.md model_cards/README.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_langimb.cloned.page import draw as draw_cloned
from hf_langimb.cloned.publish import render_card as render_cloned_card
from hf_langimb.cloned.results import is_cloned, read_cloned
from hf_langimb.files import write_text
from hf_langimb.kept.studies import SCALING, scaling_figure
from hf_langimb.kept.tables import fill_marks
from hf_langimb.results.cards import render_card
from hf_langimb.results.folder import FIGURES
from hf_langimb.results.page import draw, write_figures
from hf_langimb.results.plots import to_svg
from hf_langimb.results.schema import FILE_NAME, read_results


def write_cards(folder: Path) -> None:
    """Next to every results.json under a folder: its figures, and the card of each setup as SETUP.md.

    For cloned languages, only the card of the first setup.
    """
    for path in sorted(folder.rglob(FILE_NAME)):
        if is_cloned(path.parent):
            found = read_cloned(path.parent)
            write_figures(draw_cloned(found), path.parent / FIGURES)
            setup = next(iter(found["setups"]))
            write_text(path.parent / f"{setup}.md", render_cloned_card(found, setup, found["seeds"][0]))
            continue
        results = read_results(path.parent)
        write_figures(draw(results), path.parent / FIGURES)
        for setup in results["setups"]:
            write_text(path.parent / f"{setup}.md", render_card(results, setup))


def write_scaling(folder: Path) -> None:
    """The figure of the scaling study, if it is kept in a folder."""
    if (folder / SCALING).is_file():
        described = "Dependence of each setup against languages, link and rows. The same numbers are in the table."
        write_figures({"scaling": {"scaling": to_svg(scaling_figure(folder), described)}}, folder / FIGURES)


def main(folder: str, *pages: str) -> None:
    """Render the cards and figures of the kept results in a folder, and the tables of pages that have marks."""
    for page in pages:
        write_text(page, fill_marks(Path(page).read_text(encoding="utf-8"), folder))
    write_cards(Path(folder))
    write_scaling(Path(folder, "cldr-scaling"))


if __name__ == "__main__":  # make readme
    main(*sys.argv[1:])
