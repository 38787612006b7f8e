"""One self-contained HTML page of a run: verdict, figures, tables, configuration, how to repeat it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from hf_langimb.results import plots
from hf_langimb.results.schema import FORMS, compared_pair, read_results, represented
from hf_langimb.results.tables import (
    attributions_cells,
    base_values_cells,
    command_of,
    comparisons_cells,
    difference_text,
    file_name,
    interval_text,
    languages_cells,
    predictions_cells,
    probes_cells,
    setups_cells,
    shown_threshold,
    tokens_cells,
)

logger = logging.getLogger(__name__)

PAGE_FILE = "report.html"
CLAIMS = (  # what arXiv 2402.13016 found: words, sign of imbalanced - balanced, measures
    ("Imbalance costs accuracy", -1, {"on test text": "test.accuracy"}),
    (
        "Imbalance makes the language easier to read from the features",
        1,
        {"on test text": "probe.test.accuracy", "on external text": "probe.external.accuracy"},
    ),
)


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run folder, by default as its report.html with the figures beside it; returns the path.

    Raises:
        ValueError: the folder has no results.json that can be read.
    """
    results = read_results(folder)
    path = Path(output) if output else Path(folder, PAGE_FILE)
    if path.suffix not in (".html", ".htm") or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expected an .html file in a folder that exists as output, found {path}.")
    environment = Path(folder, "environment.json")
    try:
        facts = json.loads(environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}  # the page does without it
    figures, sentences = _figures(results), _sentences(Path(folder), results)
    part = path.with_name(f"{path.name}.part")
    part.write_text(render(results, facts, figures, sentences), encoding="utf-8")
    part.replace(path)
    if output is None:
        _write_figures(figures, path.parent / "figures")
    return path


def write_figures(results: dict[str, Any], folder: Path) -> None:
    """The figures of the page as SVG files that can be looked at alone."""
    _write_figures(_figures(results), folder)


def _write_figures(figures: list[tuple[str, dict[str, str]]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in (item for _, panels in figures for item in panels.items()):
        alone = svg.replace("<svg", '<svg style="color: #1a1a1a; background: #ffffff"', 1)
        (folder / f"{file_name(name)}.svg").write_text(alone, encoding="utf-8")


def render(
    results: dict[str, Any],
    environment: dict[str, Any] | None = None,
    figures: list[tuple[str, dict[str, str]]] | None = None,
    sentences: list[dict[str, Any]] | None = None,
) -> str:
    """The page as HTML: no script, nothing fetched, light and dark by the reader's setting.

    Args:
        results: of `read_results`.
        environment: versions, host and command of the run, where they are known.
        figures: drawn before; None draws them.
        sentences: examples with what their tokens add, of the run's stores.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hf_langimb.results"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    several = len(results["seeds"]) > 1
    over = f"mean [95 % interval] over {len(results['seeds'])} seeds" if several else f"seed {results['seeds'][0]}"
    tables = [("Setups", over, setups_cells(results))]
    if results["comparisons"] and several:
        tables.append(("Differences between setups", "paired by seed", comparisons_cells(results)))
    tables.append(
        (
            "Predicted labels",
            f"share in each language{', mean over seeds' if several else ''}",
            predictions_cells(results),
        )
    )
    bootstrap = over if several else f"{over}, 95 % bootstrap intervals over examples"
    tables.append(("By language", f"{bootstrap}; worst cell: a label in a language", languages_cells(results)))
    shuffled = "shuffled: where 99 % of probes on shuffled languages lie"
    tables.append(("Language probe", f"{over}; {shuffled}", probes_cells(results)))
    if found := results["attributions"]:
        means = (
            f"{found['setup']} - {found['reference']}: sums over tokens, threshold {shown_threshold(found)}, mean over "
            f"{found['examples']} examples ({100 * found['truncated_share']:.0f} % cut by the budget); "
            f"result - control = unbiased; intervals over "
            f"{'seeds' if len(found['seeds']) > 3 else 'examples'}"
        )
        tables.append(("Token attributions", means, attributions_cells(results)))
        masked = "probabilities where every token is masked, mean and standard deviations (SD)"
        tables.append(("Base values", masked, base_values_cells(results)))
    if found := results.get("explained"):
        means = f"threshold {found['tokens'][0]['threshold']}, mean over {found['examples']} examples"
        tables.append(("Token attributions", means, tokens_cells(results)))
    return templates.get_template("page.html.jinja").render(
        title=f"{results['recipe']}, {results['config_name']}",
        verdict=[] if results["recipe"] == "evaluate" else _verdict(results),
        figures=_figures(results) if figures is None else figures,
        tables=tables,
        sentences=sentences or [],
        noise_ceiling=results.get("noise_ceiling"),
        config={key: json.dumps(value, ensure_ascii=False) for key, value in results["config"].items()},
        command=command_of(results),
        environment=_flat(environment or {}),
    )


def _verdict(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(claim, yes | no | not known | not measured, detail); yes where it holds on each text that was measured.

    Compares imbalanced with balanced, or, where these are missing, the first of their variants (such as _entropy).
    """
    setup, reference = compared_pair(results["setups"])
    differences = {}
    for entry in results["comparisons"]:
        pair = entry["setup"], entry["reference"]
        if pair == (setup, reference):
            differences[entry["metric"]] = entry["difference"]
        elif pair == (reference, setup):
            differences[entry["metric"]] = _negated(entry["difference"])
    lines = []
    for claim, sign, measures in CLAIMS:
        found = {text: differences[metric] for text, metric in measures.items() if metric in differences}
        if not found:
            lines.append((claim, "not measured", "needs the setups balanced and imbalanced"))
            continue
        values = ", ".join(f"{interval_text(difference, '+.3f')} {text}" for text, difference in found.items())
        if any(difference["low"] is None for difference in found.values()):
            lines.append((claim, "not known", f"{setup} - {reference}: {values}; one seed has no interval"))
            continue
        holds = all(sign * difference[end] > 0 for difference in found.values() for end in ("low", "high"))
        lines.append((claim, "yes" if holds else "no", f"{setup} - {reference}: {values}"))
    return [*lines, ("Neutral tokens count more in over-represented languages", *_neutral(results))]


def _neutral(results: dict[str, Any]) -> tuple[str, str]:
    """Answer and detail of the third claim: in each over-represented cell, by the form that selection does not bias."""
    found = results["attributions"]
    if not found:
        return "not measured", "needs token attributions"
    if not found["unbiased"]:
        return "not known", "needs three seeds: what one selects by the reference and compares with it moves by itself"
    threshold, marks = shown_threshold(found), represented(results)
    cells = [
        e for e in found["unbiased"] if e["threshold"] == threshold and marks.get((e["label"], e["language"])) == 1
    ]
    if not cells:
        return "not measured", "no language is over-represented"
    bounds = [(entry["seed_intervals"] or {}).get("neutral") for entry in cells]
    texts = [f"{entry['label']}, {entry['language']}: {difference_text(entry, 'neutral')}" for entry in cells]
    detail = f"{found['setup']} - {found['reference']}, {'; '.join(texts)}"
    lows = [bound[0] for bound in bounds if bound]
    if len(lows) < len(cells):
        return "not known", f"{detail}; an interval over seeds needs four of them"
    return ("yes" if min(lows) > 0 else "no"), detail


def _negated(interval: dict[str, Any]) -> dict[str, Any]:
    low, high = (None if interval[end] is None else -interval[end] for end in ("high", "low"))
    return interval | {"mean": -interval["mean"], "low": low, "high": high}


def _figures(results: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """(title, panels: file name and SVG, with a description for those who do not see it)."""
    several = len(results["seeds"]) > 1
    figures = [
        (
            "Labels in each language",
            {f"labels-{name.replace('/', '-')}": _joint(name, audit) for name, audit in _audits(results)},
        )
    ]
    calibrated = any(m["test"]["calibration"] for setup in results["setups"].values() for m in setup["seeds"].values())
    predicted, curves = {}, {}
    for setup in results["setups"]:
        described = f"Predicted labels of {setup}. The same numbers are in the table Predicted labels."
        predicted[f"predictions-{setup}"] = plots.to_svg(plots.prediction_bars(results, setup), described)
        described = f"Accuracy against confidence of {setup}. The same numbers are in results.json, calibration."
        curves[f"reliability-{setup}"] = plots.to_svg(plots.reliability_curves(results, setup), described)
    probed = plots.to_svg(plots.probe_bars(results), "Accuracy of the probe. The same numbers are in its table.")
    means = ", mean over seeds" if several else ""
    figures.append((f"Predicted labels in each language{means}; dotted: uniform", predicted))
    intervals = " with 95 % intervals over seeds" if several else ""
    figures.append((f"Language probe: accuracy{intervals}", {"probe": probed}))
    described = "Cumulative difference of the attributions, {} of {}. The same numbers are in the table of that name."
    for form in FORMS if results["attributions"] else ():
        if results["attributions"][form]:
            panels = {
                f"attributions-{form}-{label}": plots.to_svg(
                    plots.attribution_bars(results, form, label), described.format(form, label)
                )
                for label in results["labels"]
            }
            figures.append((f"Token attributions, {form}", panels))
    seed = next(iter(next(iter(results["setups"].values()))["seeds"]))
    reliability = f"Reliability: accuracy against confidence, seed {seed}, bins of {plots.SMALL_BIN} rows or more"
    return figures + ([(reliability, curves)] if calibrated else [])


SENTENCES = 2  # shown of each language


def _sentences(folder: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each language the examples whose prediction differs most between the compared setups, of the first seed."""
    from hf_langimb.measures.attribution.store import AttributionStore, stack

    found = results["attributions"]
    folders = (
        [folder / "attributions" / f"{found[name]}-seed-{found['seeds'][0]}" for name in ("reference", "setup")]
        if found
        else []
    )
    if not folders or not all(path.is_dir() for path in folders):
        return []  # a page of results.json alone
    try:
        stores = [AttributionStore(path) for path in folders]
    except ValueError as error:
        logger.warning("The page goes without sentences: %s", error)
        return []
    probabilities = [stack(store.examples["p"]) for store in stores]
    values = [stack(store.tokens["S"]) for store in stores]
    of_example = stores[0].tokens["example"].to_numpy()
    segments, pieces = stores[0].tokens["segment"].to_numpy(), stores[0].tokens["piece"].to_pylist()
    moved = np.abs(probabilities[1] - probabilities[0]).max(axis=1)
    languages = np.array(stores[0].examples["language"].to_pylist(), dtype=object)
    shown = []
    for language in sorted(set(languages)):
        rows = np.flatnonzero(languages == language)
        for row in rows[np.argsort(-moved[rows], kind="stable")][:SENTENCES]:
            label = int(probabilities[1][row].argmax())
            tokens = np.flatnonzero((of_example == row) & (segments >= 0))
            largest = max(float(np.abs(part[tokens, label]).max()) for part in values) or 1.0
            lines = []
            for name, probability, part in zip(
                (found["reference"], found["setup"]), probabilities, values, strict=True
            ):
                marked = [
                    {
                        "text": pieces[token].strip(),
                        "value": f"{part[token, label]:+.3f}",
                        "kind": "for" if part[token, label] > 0 else "against",
                        "strength": round(100 * float(abs(part[token, label])) / largest),
                        "second": segments[token] == 1 and segments[token - 1] != 1,
                    }
                    for token in tokens
                ]
                lines.append({"setup": name, "probability": f"{probability[row, label]:.2f}", "tokens": marked})
            truth = stores[0].examples["label"][int(row)].as_py()
            shown.append({"language": language, "truth": truth, "label": results["labels"][label], "lines": lines})
    return shown


def _audits(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, audit) for name, audit in results["data"].items() if name.startswith("train/")]


def _joint(name: str, audit: dict[str, Any]) -> str:
    described = [
        f"{language}: "
        + ", ".join(f"{label} {share or 0:.0%}" for label, share in zip(audit["labels"], row, strict=True))
        for language, row in zip(audit["languages"], audit["row_shares"], strict=True)
    ]
    drawn = plots.joint_heatmap(audit["languages"], audit["labels"], audit["counts"], name)
    return plots.to_svg(drawn, f"Heat map of {name}. {'; '.join(described)}.")


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    """Versions one by one, without the command, which holds paths."""
    versions = {f"version of {name}": version for name, version in (environment.get("versions") or {}).items()}
    return {key: value for key, value in environment.items() if key not in ("command", "versions")} | versions
