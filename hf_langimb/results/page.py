"""One self-contained HTML page of a run: verdict, figures, tables, configuration, how to repeat it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.counts.verdict import Audit
from hf_langimb.files import read_json, write_text
from hf_langimb.results import plots, tables
from hf_langimb.results.folder import RunFolder
from hf_langimb.results.schema import FORMS, Interval, Results, read_results
from hf_langimb.results.summary import compared_pair, represented
from hf_langimb.results.tables import Cells, difference_text, file_name, summary_text

logger = logging.getLogger(__name__)

PAGE_FILE = "report.html"
SENTENCES = 2  # shown of each language
CLAIMS = (  # what arXiv 2402.13016 found: words, sign of imbalanced - balanced, measures
    ("Imbalance costs accuracy", -1, {"on test text": "test.accuracy"}),
    (
        "Imbalance makes the language easier to identify from the features",
        1,
        {"on test text": "probe.test.accuracy", "on external text": "probe.external.accuracy"},
    ),
)
Figures = list[tuple[str, dict[str, str]]]  # title, panels: file name and SVG


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run folder, by default as its report.html with the figures next to it; returns the path.

    Raises:
        ValueError: the folder has no valid results.json, or the output is no .html file in an existing folder.
    """
    results = read_results(folder)
    path = Path(output) if output else Path(folder, PAGE_FILE)
    if path.suffix not in (".html", ".htm") or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected an .html file in a folder that exists as output, got {path}.")
    try:
        environment = read_json(Path(folder, "environment.json"), "remove it")
    except (OSError, ValueError):
        environment = {}  # the page does without it
    figures = _figures(results)
    write_text(path, render(results, environment, figures, _sentences(Path(folder), results)))
    if output is None:
        write_figures(figures, path.parent / "figures")
    return path


def write_figures(figures: Figures | Results, folder: Path) -> None:
    """The figures of the page as SVG files of their own."""
    drawn = figures if isinstance(figures, list) else _figures(figures)
    for name, svg in (item for _, panels in drawn for item in panels.items()):
        alone = svg.replace("<svg", '<svg style="color: #1a1a1a; background: #ffffff"', 1)
        write_text(folder / f"{file_name(name)}.svg", alone)


def render(
    results: Results,
    environment: dict[str, Any] | None = None,
    figures: Figures | None = None,
    sentences: Sequence[dict[str, Any]] = (),
) -> str:
    """The page as HTML: no script, nothing fetched, light or dark as the reader's browser is set.

    Args:
        results: of `read_results`.
        environment: versions, host and command of the run, where they are known.
        figures: already drawn; None draws them.
        sentences: examples with what their tokens add, from the run's stores.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hf_langimb.results"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    facts = dict(environment or {})
    versions = {f"version of {name}": version for name, version in (facts.pop("versions", None) or {}).items()}
    facts.pop("command", None)  # it contains paths
    return templates.get_template("page.html.jinja").render(
        title=f"{results['recipe']}, {results['config_name']}",
        verdict=[] if results["recipe"] == "evaluate" else _verdict(results),
        figures=_figures(results) if figures is None else figures,
        tables=_tables(results),
        sentences=sentences,
        noise_ceiling=results.get("noise_ceiling"),
        config={key: json.dumps(value, ensure_ascii=False) for key, value in results["config"].items()},
        command=tables.command_of(results),
        environment=facts | versions,
    )


def _tables(results: Results) -> list[tuple[str, str, Cells]]:
    """(heading, caption, cells) of each table."""
    several = len(results["seeds"]) > 1
    over = f"mean [95 % interval] over {len(results['seeds'])} seeds" if several else f"seed {results['seeds'][0]}"
    bootstrap = over if several else f"{over}, 95 % bootstrap intervals over examples"
    shuffled = "shuffled: interval of 99 % of the probes on shuffled languages"
    shares = f"share in each language{', mean over seeds' * several}"
    made = [("Setups", over, tables.setups_cells(results))]
    if results["comparisons"] and several:
        made.append(("Differences between setups", "paired by seed", tables.comparisons_cells(results)))
    made += [
        ("Predicted labels", shares, tables.predictions_cells(results)),
        ("By language", bootstrap, tables.languages_cells(results)),
        ("Language probe", f"{over}; {shuffled}", tables.probes_cells(results)),
    ]
    if found := results["attributions"]:
        caption = (
            f"{found['setup']} - {found['reference']}: sums over tokens, threshold {tables.shown_threshold(found)}, "
            f"mean over {found['examples']} examples ({100 * found['truncated_share']:.0f} % cut by the budget); "
            f"result - control = unbiased; intervals over {'seeds' if len(found['seeds']) > 3 else 'examples'}"
        )
        masked = "probabilities where every token is masked, mean and standard deviations (SD)"
        made.append(("Token attributions", caption, tables.attributions_cells(results)))
        made.append(("Base values", masked, tables.base_values_cells(results)))
    if explained := results.get("explained"):
        threshold = explained["tokens"][0]["threshold"]
        caption = f"threshold {threshold}, mean over {explained['examples']} examples"
        made.append(("Token attributions", caption, tables.tokens_cells(results)))
    return made


def _verdict(results: Results) -> list[tuple[str, str, str]]:
    """(claim, yes | no | not known | not measured, detail); yes where it holds on each text that was measured.

    Compares imbalanced with balanced, or, where these are missing, the first of their variants (such as _entropy).
    """
    setup, reference = compared_pair(results["setups"])
    differences = {}
    for entry in results["comparisons"]:
        pair = entry["setup"], entry["reference"]
        if pair in ((setup, reference), (reference, setup)):
            turned = pair == (reference, setup)
            differences[entry["metric"]] = _negated(entry["difference"]) if turned else entry["difference"]
    lines = []
    for claim, sign, measures in CLAIMS:
        found = {text: differences[metric] for text, metric in measures.items() if metric in differences}
        values = ", ".join(f"{summary_text(difference, '+.3f')} {text}" for text, difference in found.items())
        detail, signs = f"{setup} - {reference}: {values}", [_sign(difference) for difference in found.values()]
        if not found:
            lines.append((claim, "not measured", "needs the setups balanced and imbalanced"))
        elif None in signs:
            lines.append((claim, "not known", f"{detail}; one seed has no interval"))
        else:
            lines.append((claim, "yes" if set(signs) == {sign} else "no", detail))
    return [*lines, ("Neutral tokens count more in over-represented languages", *_neutral(results))]


def _sign(difference: Interval) -> int | None:
    """1 or -1 where the whole interval is above or below 0, else 0; None without an interval."""
    low, high = difference["low"], difference["high"]
    return None if low is None or high is None else (low > 0) - (high < 0)


def _negated(value: Interval) -> Interval:
    """The interval of the difference the other way round."""
    low, high = (None if end is None else -end for end in (value["high"], value["low"]))
    return {"mean": -value["mean"], "low": low, "high": high, "n": value["n"]}


def _neutral(results: Results) -> tuple[str, str]:
    """Answer and detail of the third claim: in each over-represented cell, by the form without selection bias."""
    found = results["attributions"]
    if not found:
        return "not measured", "needs token attributions"
    if not found["unbiased"]:
        return "not known", "needs three seeds: selecting tokens by the model that is subtracted shifts the difference"
    threshold, marks = tables.shown_threshold(found), represented(results)
    shown = [entry for entry in found["unbiased"] if entry["threshold"] == threshold]
    cells = [entry for entry in shown if marks.get((entry["label"], entry["language"])) == 1]
    if not cells:
        return "not measured", "no language is over-represented"
    texts = [f"{entry['label']}, {entry['language']}: {difference_text(entry, 'neutral')}" for entry in cells]
    detail = f"{found['setup']} - {found['reference']}, {'; '.join(texts)}"
    lows = [entry["seed_intervals"]["neutral"][0] for entry in cells if entry["seed_intervals"]]
    if len(lows) < len(cells):
        return "not known", f"{detail}; an interval over seeds needs four of them"
    return ("yes" if min(lows) > 0 else "no"), detail


def _figures(results: Results) -> Figures:
    """Title and panels of each figure; a panel has a description for those who do not see it."""
    several = len(results["seeds"]) > 1
    data = {
        f"labels-{name.replace('/', '-')}": _joint(name, audit)
        for name, audit in results["data"].items()
        if name.startswith("train/")
    }
    predicted, curves = {}, {}
    for setup in results["setups"]:
        described = f"Predicted labels of {setup}. The same numbers are in the table Predicted labels."
        predicted[f"predictions-{setup}"] = plots.to_svg(plots.prediction_bars(results, setup), described)
        described = f"Accuracy against confidence of {setup}. The same numbers are in results.json, calibration."
        curves[f"reliability-{setup}"] = plots.to_svg(plots.reliability_curves(results, setup), described)
    probed = plots.to_svg(plots.probe_bars(results), "Accuracy of the probe. The same numbers are in its table.")
    figures = [
        ("Labels in each language", data),
        (f"Predicted labels in each language{', mean over seeds' * several}; dotted: uniform", predicted),
        (f"Language probe: accuracy{' with 95 % intervals over seeds' * several}", {"probe": probed}),
    ]
    described = "Cumulative difference of the attributions, {} of {}. The same numbers are in the table of that name."
    found = results["attributions"]
    for form in (form for form in FORMS if found and found[form]):
        panels = {
            f"attributions-{form}-{label}": plots.to_svg(
                plots.attribution_bars(results, form, label), described.format(form, label)
            )
            for label in results["labels"]
        }
        figures.append((f"Token attributions, {form}", panels))
    seeds = [seed for setup in results["setups"].values() for seed in setup["seeds"].items()]
    if any(metrics["test"]["calibration"] for _, metrics in seeds):
        title = f"accuracy against confidence, seed {seeds[0][0]}, bins of {plots.SMALL_BIN} rows or more"
        figures.append((f"Reliability: {title}", curves))
    return figures


def _joint(name: str, audit: Audit) -> str:
    """Heat map of one plan's labels in each language."""
    described = [
        f"{language}: "
        + ", ".join(f"{label} {share or 0:.0%}" for label, share in zip(audit["labels"], row, strict=True))
        for language, row in zip(audit["languages"], audit["row_shares"], strict=True)
    ]
    drawn = plots.joint_heatmap(audit["languages"], audit["labels"], audit["counts"], name)
    return plots.to_svg(drawn, f"Heat map of {name}. {'; '.join(described)}.")


def _sentences(folder: Path, results: Results) -> list[dict[str, Any]]:
    """Of each language the examples whose prediction differs most between the compared setups, of the first seed."""
    from hf_langimb.measures.attribution.store import AttributionStore, stack

    found = results["attributions"]
    names = [found["reference"], found["setup"]] if found else []
    folders = [RunFolder(folder).store(name, found["seeds"][0]) for name in names if found]
    if not folders or not all(path.is_dir() for path in folders):
        return []  # a page of results.json alone
    try:
        stores = [AttributionStore(path) for path in folders]
    except ValueError as error:
        logger.warning("The page has no sentences: %s", error)
        return []
    probabilities = [stack(store.examples["p"]) for store in stores]  # [N, C] each
    moved = np.abs(probabilities[1] - probabilities[0]).max(axis=1)
    languages = np.array(stores[0].examples["language"].to_pylist(), dtype=object)
    shown = []
    for language in sorted(set(languages)):
        rows = np.flatnonzero(languages == language)
        for row in rows[np.argsort(-moved[rows], kind="stable")][:SENTENCES]:
            label = int(probabilities[1][row].argmax())
            marked = _marked_tokens(stores, int(row), label)
            lines = [
                {"setup": name, "probability": f"{probability[row, label]:.2f}", "tokens": tokens}
                for name, probability, tokens in zip(names, probabilities, marked, strict=True)
            ]
            truth = stores[0].examples["label"][int(row)].as_py()
            shown.append({"language": language, "truth": truth, "label": results["labels"][label], "lines": lines})
    return shown


def _marked_tokens(stores: Sequence[Any], row: int, label: int) -> list[list[dict[str, Any]]]:
    """The tokens of one example for each store: text, what it adds, and how strongly to colour it."""
    from hf_langimb.measures.attribution.store import stack

    tokens = stores[0].tokens
    segments = tokens["segment"].to_numpy()
    places = np.flatnonzero((tokens["example"].to_numpy() == row) & (segments >= 0))
    pieces = tokens["piece"].take(places).to_pylist()
    second = [bool(segments[place] == 1 and segments[place - 1] != 1) for place in places]
    values = [stack(store.tokens["S"])[places, label] for store in stores]
    largest = float(np.abs(values).max(initial=0)) or 1.0
    return [
        [
            {
                "text": piece.strip(),
                "value": f"{value:+.3f}",
                "kind": "for" if value > 0 else "against",
                "strength": round(100 * float(abs(value)) / largest),
                "second": begins,
            }
            for piece, value, begins in zip(pieces, of_store, second, strict=True)
        ]
        for of_store in values
    ]
