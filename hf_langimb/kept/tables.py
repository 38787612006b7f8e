"""Pages with the tables of kept results: of runs, of studies, and of benchmarks."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from hf_langimb.cloned.results import is_cloned, read_cloned
from hf_langimb.cloned.show import CLONED_TABLES, answer_text
from hf_langimb.files import read_json
from hf_langimb.kept.studies import models_cells, natural_cells, rates_cells, rule_cells, scaling_cells, slopes_cells
from hf_langimb.results.mitigations import FILE as COMPARISON
from hf_langimb.results.mitigations import (
    PAPER,
    differences_cells,
    mitigations_cells,
    read_comparison,
    recommendation_text,
)
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import read_results
from hf_langimb.results.tables import (
    Cells,
    attributions_cells,
    base_values_cells,
    comparisons_cells,
    predictions_cells,
    setups_cells,
    table,
)


def speed_cells(folder: Path) -> Cells:
    """Kept benchmarks of attributions, one row per dataset and type."""
    rows = []
    for path in sorted(folder.glob("attributions-*.json")):
        found = read_json(path, "run the benchmark again")
        low, median, high = (f"{value:.0f}" for value in found["tokens"])
        for dtype, engine in found["engine"].items():
            speeds = f"{found['speed against shap'][dtype]:.1f} x", f"{engine['seconds / floor']:.2f} x"
            rows.append([found["data"], f"{median} ({low}-{high})", found["device"], dtype, *speeds])
    return ["data", "tokens", "device", "type", "examples per second, shap = 1", "time, bare passes = 1"], rows


def error_cells(folder: Path) -> Cells:
    """Kept benchmarks of errors: each method on each group of sentences, against its reference."""
    rows = []
    for path in sorted(folder.glob("attribution-errors*.json")):
        found = read_json(path, "run the benchmark again")
        for group, of_group in found["groups"].items():
            for method, of in of_group["methods"].items():
                if method != "reference":
                    values = f"{of['mean_error']:.5f}", f"{100 * of['same_category']:.1f}%", f"{of['cpu_seconds']:.0f}"
                    rows.append([found["trained"], group, method, f"{of['forwards']:.0f}", *values])
    return ["trained", "sentences", "method", "forward passes", "mean error", "same category", "CPU (s)"], rows


def cost_cells(folder: Path) -> Cells:
    """Kept benchmark of the table: forward passes for intervals of one width, and bias, by form and method."""
    found = read_json(folder / "attribution-table.json", "run the benchmark again")
    rows = []
    for form, methods in found["forms"].items():
        for method, of in methods.items():
            costs = (of.get(f"forwards for the same width{which}", 1.0) for which in (", without regression", ""))
            passes = f"{found['forwards of a row'][method]:.0f}"
            shown_costs = ["1.00", f"{of['regression']:.2f}"] if "regression" in of else [f"{x:.2f}" for x in costs]
            rows.append([form, method, passes, *shown_costs, f"{of['mean bias']:.4f}", f"{of['largest bias']:.4f}"])
    header = ["form", "method", "passes per row", "passes, same width", "with regression", "mean bias", "largest bias"]
    return header, rows


def method_cells(folder: Path) -> Cells:
    """Kept benchmark of methods: costs of both, and how far the tables of each run are apart."""
    rows = []
    for run, of_run in read_json(folder / "attribution-methods.json", "run the benchmark again")["runs"].items():
        methods, apart = of_run["methods"].values(), of_run["summary"]["shown"]
        forms = {"forwards": ".0f", "exact_share": ".0%", "cpu_seconds": ".0f"}
        costs = (" / ".join(format(of[key], form) for of in methods) for key, form in forms.items())
        found = (f"{apart[key]:.4f}" for key in ("mean_difference", "largest_difference"))
        counts = (f"{apart[key]} of {apart['cells']}" for key in ("other_sign", "other_answer"))
        rows.append([run, *costs, *found, f"{apart['largest_in_half_widths']:.2f}", *counts])
    header = ["run", "passes per row", "exact rows", "CPU (s)", "mean difference", "largest", "largest / half-width"]
    return [*header, "other sign", "other answer"], rows


def hub_cells(folder: Path) -> Cells:
    """Kept benchmark of publishing: seconds of a push and pull of all setups of a run over loopback."""
    found = read_json(folder / "hub.json", "run the benchmark again")
    cells = [str(len(found["setups"])), str(found["files"]), f"{found['bytes'] / 1e6:.1f}"]
    cells += [f"{found[key]:.2f}" for key in ("push", "pull", "hash and copy", "overhead")]
    return ["setups", "files", "MB", "push (s)", "pull (s)", "hash and copy (s)", "overhead (s)"], [cells]


def methods_cells(folder: Path) -> Cells:
    """Kept comparison of methods, each at its best setting."""
    return mitigations_cells(read_comparison(folder))


def against_cells(folder: Path) -> Cells:
    """Differences of the methods of a kept comparison from the weights of the paper."""
    return differences_cells(read_comparison(folder), PAPER)


def option_cells(folder: Path) -> Cells:
    """Kept benchmark of the time that each option takes in a training step."""
    found = read_json(folder / "mitigation_cost.json", "run the benchmark again")
    shares = found["shares"] | {"masked row (of the forward pass)": found["masked_row"]}
    return ["option", "share of a step"], [[name, f"{share:.2%}"] for name, share in shares.items()]


TABLES = {"predictions": predictions_cells, "setups": setups_cells, "comparisons": comparisons_cells}
TABLES |= {"attributions": attributions_cells, "base_values": base_values_cells}
KEPT = {
    "benchmarks": {"attributions": speed_cells, "errors": error_cells, "table": cost_cells, "hub": hub_cells},
    "verdict": {"rule": rule_cells, "models": models_cells},
    "cloned-mini": {"rates": rates_cells},
    "cloned-ordinary": {"rates": rates_cells},
    "mitigations/mini": {"methods": methods_cells, "against_weights": against_cells},
    "mitigations/cldr-20": {"methods": methods_cells},
    "mitigations/cldr-all": {"methods": methods_cells},
    "cldr-scaling": {"points": scaling_cells, "slopes": slopes_cells, "natural": natural_cells},
}
KEPT["benchmarks"] |= {"methods": method_cells, "options": option_cells}
_MARK = re.compile(r"(<!-- langimb:(?P<run>[\w/-]+):(?P<table>\w+) -->\n)(?:.*?\n)??(<!-- /langimb -->)", re.DOTALL)


def fill_marks(text: str, folder: str | Path) -> str:
    """Markdown whose `<!-- langimb:RUN:TABLE -->` ... `<!-- /langimb -->` marks contain the tables of kept results.

    The table `answer` is the beginning of what the run prints.

    Args:
        text: Markdown.
        folder: of the kept results (`model_cards`), RUN/results.json.

    Raises:
        ValueError: a mark names no known table, or its results cannot be read.
    """

    def filled(mark: re.Match[str]) -> str:
        """A mark with its table."""
        name, place = mark["table"], Path(folder, mark["run"])
        cloned = is_cloned(place)
        if name == "answer":
            if (place / COMPARISON).is_file():
                said = recommendation_text(read_comparison(place))
            else:
                said = answer_text(read_cloned(place)) if cloned else render("said.txt", results=read_results(place))
            lines = [textwrap.fill(line, 116) for line in said.splitlines()]
            return "\n".join([mark[1] + "```text", *lines, "```", mark[4]])
        known: Any = KEPT.get(mark["run"], {}) | (CLONED_TABLES if cloned else {}) or TABLES
        if name not in known:
            raise ValueError(f"Unknown table {name!r} in a mark: choose one of {', '.join(known)}.")
        read: Any = place
        if known is TABLES or name in CLONED_TABLES:
            read = read_cloned(place) if cloned else read_results(place)
        return mark[1] + table(*known[name](read)) + "\n" + mark[4]

    return _MARK.sub(filled, text)
