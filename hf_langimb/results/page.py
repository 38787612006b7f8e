"""One self-contained HTML page of a run: verdict, figures, tables, configuration, how to repeat it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.console import shown
from hf_langimb.files import read_json, write_text
from hf_langimb.results import plots, rendering
from hf_langimb.results.folder import FIGURES, PAGE, RunFolder
from hf_langimb.results.moved import most_moved
from hf_langimb.results.schema import FORMS, Results, read_results
from hf_langimb.results.tables import file_names, probes_cells
from hf_langimb.results.verdict import moved_text

logger = logging.getLogger(__name__)

SENTENCES, LANGUAGES = 2, 12  # shown of each language, and languages
Figures = dict[str, dict[str, str]]  # by kind the panels: file name and SVG


def write_report(folder: str | Path, output: str | Path | None = None, *, shown: str | Path | None = None) -> Path:
    """Write the page of a run folder, by default as its report.html with the figures next to it; returns the path.

    Error messages call the folder `shown`, where it is a copy.

    Raises:
        ValueError: the folder has no valid results.json, or the output is not an .html file in an existing folder.
    """
    results = read_results(folder)
    path = Path(output) if output else Path(folder, PAGE)
    if path.suffix not in (".html", ".htm") or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected output to be an .html file in an existing folder, got {path}.")
    try:
        environment = read_json(RunFolder(Path(folder)).environment, "remove it")
    except (OSError, ValueError):
        environment = {}  # the page does without it
    with rendering.rendered_from(shown or folder):
        figures = draw(results)
        page = render(results, figures, environment, _sentences(Path(folder), results))
    write_text(path, page)
    if output is None:
        write_figures(figures, path.parent / FIGURES)
    return path


def write_figures(figures: Figures, folder: Path) -> None:
    """The figures of the page as SVG files of their own."""
    drawn = {name: svg for panels in figures.values() for name, svg in panels.items()}
    for name, file in file_names(drawn).items():
        alone = drawn[name].replace("<svg", '<svg style="color: #1a1a1a; background: #ffffff"', 1)
        write_text(folder / f"{file}.svg", alone)


def render(results: Results, figures: Figures, environment: dict[str, Any], sentences: Sequence[Any] = ()) -> str:
    """The page as HTML: nothing fetched, complete without its script, light or dark as the reader's browser is set."""
    values = {"results": results, "figures": figures, "environment": environment, "sentences": sentences}
    return rendering.render("page.html", small_bin=plots.SMALL_BIN, drawn=plots.DRAWN, **values)


def draw(results: Results) -> Figures:
    """The panels of each kind of figure; each has a description for those who do not see it."""
    setups, labels, found = results["setups"], results["labels"], results["attributions"]
    probe = plots.to_svg(plots.probe_bars(results), "Accuracy of the probe. The same numbers are in its table.")
    figures: Figures = {"labels": {}, "probe": {"probe": probe} if probes_cells(results)[1] else {}}
    if found_moves := most_moved(results):
        figures["moved"] = {"moved": plots.to_svg(plots.moved_shares(found_moves), moved_text(found_moves))}
    for plan in [name for name in results["data"] if name.startswith("train/")] or list(results["data"]):
        audit, rows = results["data"][plan], []
        for i in plots.farthest(audit["counts"]):
            row = zip(audit["labels"], audit["row_shares"][i], strict=True)
            shares = [f"{shown(label)} {share or 0:.0%}" for label, share in row]
            rows.append(f"{shown(audit['languages'][i])}: {', '.join(shares)}")
        drawn = plots.joint_heatmap(audit["languages"], audit["labels"], audit["counts"], plan)
        described = f"Heat map of {plan}. {'; '.join(rows)}."
        figures["labels"][f"labels-{plan.replace('/', '-')}"] = plots.to_svg(drawn, described)

    def add(kind: str, plot: Callable[..., Any], names: Iterable[str], described: str) -> None:
        """A panel for each name."""
        figures[kind] = {
            f"{kind}-{name}": plots.to_svg(plot(results, name), described.format(shown(name))) for name in names
        }

    same = "The same numbers are in"
    add("predictions", plots.prediction_bars, setups, f"Predicted labels of {{}}. {same} the table Predicted labels.")
    forms = [form for form in FORMS if found and found[form]]
    if len(results["languages"]) > plots.DRAWN:
        forms = forms[-1:]  # the least biased one, which cards show, too
    for form in forms:
        described = f"Cumulative difference of the attributions, {form} of {{}}. {same} the table of that name."
        add(f"attributions-{form}", partial(plots.attribution_bars, form=form), labels, described)
    if any(metrics["test"]["calibration"] for setup in setups.values() for metrics in setup["seeds"].values()):
        described = f"Accuracy against confidence of {{}}. {same} results.json, calibration."
        add("reliability", plots.reliability_curves, setups, described)
    return figures


def _sentences(folder: Path, results: Results) -> list[dict[str, Any]]:
    """Of each language the examples whose prediction differs most between the compared setups, of the first seed.

    Of more than `LANGUAGES` languages, those with the largest differences.
    """
    from hf_langimb.measures.attribution.store import first_batches, stack

    found = results["attributions"]
    names = [found["reference"], found["setup"]] if found else []
    folders = [RunFolder(folder).store(name, found["seeds"][0]) for name in names if found]
    if not found or not all(path.is_dir() for path in folders):
        return []  # a page of results.json alone
    try:
        stores = [first_batches(path, found["examples"]) for path in folders]
    except ValueError as error:
        logger.warning("The page shows no example sentences: %s", error)
        return []
    tokens, examples = stores[0].tokens, stores[0].examples
    probabilities = np.array([stack(store.examples["p"]) for store in stores])  # [2, N, C]
    added = np.array([stack(store.tokens["S"]) for store in stores])  # [2, tokens, C]
    example, segments = tokens["example"].to_numpy(), tokens["segment"].to_numpy()
    moved = np.abs(probabilities[1] - probabilities[0]).max(axis=1)
    languages = np.array(examples["language"].to_pylist(), dtype=object)
    shown = []
    first = list(dict.fromkeys(languages[np.argsort(-moved, kind="stable")]))[:LANGUAGES]
    for language in sorted(first):
        rows = np.flatnonzero(languages == language)
        for row in rows[np.argsort(-moved[rows], kind="stable")][:SENTENCES].tolist():
            label = int(probabilities[1, row].argmax())
            places = np.flatnonzero((example == row) & (segments >= 0))
            values = added[:, places, label].astype(float)
            strengths = 100 * np.abs(values) / (np.abs(values).max(initial=0) or 1.0)
            pieces = [piece.strip() for piece in tokens["piece"].take(places).to_pylist()]
            begins = (segments[places] == 1) & (segments[places - 1] != 1)  # the second text
            marked = [
                list(zip(pieces, *columns, begins, strict=True)) for columns in zip(values, strengths, strict=True)
            ]
            lines = list(zip(names, probabilities[:, row, label].tolist(), marked, strict=True))
            truth = examples["label"][row].as_py()
            shown.append({"language": language, "truth": truth, "label": results["labels"][label], "lines": lines})
    return shown
