"""One self-contained HTML page of a run: verdict, figures, tables, configuration, how to repeat it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from hf_langimb.report import plots
from hf_langimb.results import read_results
from hf_langimb.tables import comparisons_cells, interval_text, predictions_cells, setups_cells

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
    """Write the page of a run folder, by default as its report.html; returns the path.

    Raises:
        ValueError: the folder has no results.json that can be read.
    """
    results = read_results(folder)
    environment = Path(folder, "environment.json")
    facts = json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {}
    path = Path(output) if output else Path(folder, PAGE_FILE)
    part = path.with_name(f"{path.name}.part")
    part.write_text(render(results, facts), encoding="utf-8")
    part.replace(path)
    return path


def render(results: dict[str, Any], environment: dict[str, Any] | None = None) -> str:
    """The page as HTML: no script, nothing fetched, light and dark by the reader's setting.

    Args:
        results: of `read_results`.
        environment: versions, host and command of the run, where they are known.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hf_langimb", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    several = len(results["seeds"]) > 1
    over = f"mean [95 % interval] over {len(results['seeds'])} seeds" if several else f"seed {results['seeds'][0]}"
    tables = [("Setups", over, setups_cells(results))]
    if results["comparisons"] and several:
        tables.append(("Differences between setups", "paired by seed", comparisons_cells(results)))
    tables.append(("Predicted labels", "share in each language, mean over seeds", predictions_cells(results)))
    tables.append(
        ("Language probe", "mean over seeds; shuffled: the same probe on shuffled languages", _probes(results))
    )
    return templates.get_template("page.html.jinja").render(
        title=f"{results['recipe']}, {results['config_name']}",
        verdict=_verdict(results),
        figures=_figures(results),
        tables=tables,
        noise_ceiling=results.get("noise_ceiling"),
        config={key: json.dumps(value, ensure_ascii=False) for key, value in results["config"].items()},
        command=_command(results),
        environment=_flat(environment or {}),
    )


def _verdict(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(claim, yes | no | not known | not measured, detail); yes where it holds on each text that was measured."""
    differences = {
        entry["metric"]: entry["difference"]
        for entry in results["comparisons"]
        if (entry["setup"].partition("_")[0], entry["reference"].partition("_")[0]) == ("imbalanced", "balanced")
        and entry["setup"].partition("_")[2] == entry["reference"].partition("_")[2]
    }
    lines = []
    for claim, sign, measures in CLAIMS:
        found = {text: differences[metric] for text, metric in measures.items() if metric in differences}
        if not found:
            lines.append((claim, "not measured", "needs the setups balanced and imbalanced"))
            continue
        values = ", ".join(f"{interval_text(difference, '+.3f')} {text}" for text, difference in found.items())
        if any(difference["low"] is None for difference in found.values()):
            lines.append((claim, "not known", f"imbalanced - balanced: {values}; one seed has no interval"))
            continue
        holds = all(sign * difference[end] > 0 for difference in found.values() for end in ("low", "high"))
        lines.append((claim, "yes" if holds else "no", f"imbalanced - balanced: {values}"))
    neutral = "Neutral tokens count more in over-represented languages"
    return [*lines, (neutral, "not measured", "needs token attributions")]


def _figures(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(title, panels: SVGs with a description for those who do not see them)."""
    figures = [("Labels in each language", [_joint(name, audit) for name, audit in _audits(results)])]
    calibrated = any(m["test"]["calibration"] for setup in results["setups"].values() for m in setup["seeds"].values())
    predicted, curves = [], []
    for setup in results["setups"]:
        described = f"Predicted labels of {setup}. The same numbers are in the table Predicted labels."
        predicted.append(plots.to_svg(plots.prediction_bars(results, setup), described))
        described = f"Accuracy against confidence of {setup}. The same numbers are in results.json, calibration."
        curves.append(plots.to_svg(plots.reliability_curves(results, setup), described))
    probed = plots.to_svg(plots.probe_bars(results), "Accuracy of the probe. The same numbers are in its table.")
    figures += [("Predicted labels in each language, mean over seeds; dotted: uniform", predicted)]
    figures += [("Language probe: accuracy with 95 % intervals over seeds", [probed])]
    seed = next(iter(next(iter(results["setups"].values()))["seeds"]))
    reliability = f"Reliability: accuracy against confidence, seed {seed}, bins of {plots.SMALL_BIN} rows or more"
    return figures + ([(reliability, curves)] if calibrated else [])


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


def _probes(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    measures = (
        ("accuracy", ".3f"),
        ("chance", ".3f"),
        ("control", ".3f"),
        ("bits_below_chance", ".3f"),
        ("confidence", ".3f"),
    )
    rows = [
        [name, kind, *(interval_text(setup["summary"].get(f"probe.{kind}.{key}"), form) for key, form in measures)]
        for name, setup in results["setups"].items()
        for kind in ("test", "external")
        if f"probe.{kind}.accuracy" in setup["summary"]
    ]
    return ["setup", "text", "accuracy", "chance", "shuffled", "bits below chance", "confidence"], rows


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    """Versions one by one, without the command, which holds paths."""
    versions = {f"version of {name}": version for name, version in environment.get("versions", {}).items()}
    return {key: value for key, value in environment.items() if key not in ("command", "versions")} | versions


def _command(results: dict[str, Any]) -> str:
    changed = {"seeds": len(results["seeds"]), "seed": results["seeds"][0], "setups": list(results["setups"])}
    flags = [
        f"--{key} {shlex.join(map(str, value)) if isinstance(value, list) else value}" for key, value in changed.items()
    ]
    return " ".join([f"accelerate launch recipes/{results['recipe']}.py --config {results['config_name']}", *flags])
