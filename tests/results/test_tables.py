"""Tables of text from made-up results."""

from pathlib import Path

import pytest

import hf_langimb
from hf_langimb.results.cards import render_card
from hf_langimb.results.page import render
from hf_langimb.results.rendering import render as render_text
from hf_langimb.results.schema import read_results
from hf_langimb.results.summary import compare, summarize
from hf_langimb.results.tables import comparisons_cells, explained_text, predictions_cells, setups_cells, table


def seed(accuracy, predicted, external=True):
    test = {"accuracy": accuracy, "predicted": predicted, "dependence_bits_corrected": 0.01234, "reliance": None}
    return {"test": test, "probe": {"test": {"accuracy": 0.5}, "external": {"accuracy": 1} if external else None}}


def results_of(**setups):
    entries = {name: {"seeds": seeds, "summary": summarize(seeds)} for name, seeds in setups.items()}
    return {"languages": ["fr", "en"], "labels": ["no", "yes"], "setups": entries, "comparisons": compare(entries)}


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_table_is_markdown_aligned_and_commands_no_terminal():
    text = table(["name", "x"], [["a", "1"], ["longer", "22.5"]])
    assert text.splitlines() == ["| name   |    x |", "|--------|-----:|", "| a      |    1 |", "| longer | 22.5 |"]
    assert table(["only"], []).splitlines() == ["| only |", "|------|"]
    text = table(["a\x1b]0;owned\x07b"], [["1\n2"], ["50  %"]])
    assert text.splitlines() == ["| a ]0;owned b |", "|--------------|", "| 1 2          |", "| 50  %        |"]


def test_setups_predictions_and_comparisons():
    results = results_of(
        balanced={"0": seed(0.7, [[1, 3], [2, 2]]), "1": seed(0.8, [[30, 10], [1, 3]])},
        imbalanced={"0": seed(0.6, [[4, 0], [0, 4]]), "1": seed(0.7, [[4, 0], [0, 4]])},
    )
    header, _, balanced, imbalanced = cells(table(*setups_cells(results)))
    assert header == ["setup", "accuracy", "dependence (bits)", "probe, test", "probe, external"]
    assert balanced[:2] == ["balanced", "0.750 [0.115, 1.385]"]  # 0.75 +- 12.706 * 0.05
    assert balanced[2] == "0.0123 [0.0123, 0.0123]"
    assert imbalanced[1].startswith("0.650 [")
    assert balanced[-1] == "1.000 [1.000, 1.000]"
    # Mean shares over seeds.
    rows = cells(table(*predictions_cells(results)))
    assert rows[0] == ["setup", "language", "no", "yes"]
    assert rows[2:] == [
        ["balanced", "fr", "0.500", "0.500"],  # (1/4 + 3/4) / 2
        ["balanced", "en", "0.375", "0.625"],
        ["imbalanced", "fr", "1.000", "0.000"],
        ["imbalanced", "en", "0.000", "1.000"],
    ]
    rows = cells(table(*comparisons_cells(results)))
    assert rows[2][:2] == ["imbalanced - balanced", "accuracy"]
    assert rows[2][2] == "-0.100 [-0.100, -0.100]"
    assert {row[1] for row in rows[2:]} == {"accuracy", "dependence (bits)", "probe, test", "probe, external"}


def test_setups_with_one_seed_and_without_external_text():
    one = results_of(balanced={"0": seed(0.7, [[1, 3], [2, 2]], external=False)}, b={"0": seed(0.6, [[1, 1], [1, 1]])})
    header, _, balanced, other = cells(table(*setups_cells(one)))
    assert balanced[1] == "0.700"
    assert header[-1] == "probe, external"
    assert (balanced[-1], other[-1]) == ("-", "1.000")


def test_a_language_without_test_rows_has_no_shares():
    results = results_of(one={"0": seed(0.7, [[0, 0], [1, 3]])})
    assert predictions_cells(results)[1] == [["one", "en", "0.250", "0.750"]]


ROWS = {"used": 1200, "available": 3000, "stopped": "precise", "tolerance": 0.01}
ROWS["widest"] = {"language": "fr", "label": "yes", "set": "neutral", "half_width": 0.0123}
WIDEST = "neutral tokens for yes in fr"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {},
            "1,200 of 3,000 rows were explained. No more are needed: every interval over rows is at most +/-0.01 or "
            "at most half as wide as that over seeds, which more rows would not make narrower (the widest, "
            f"{WIDEST}: +/-0.012).",
        ),
        (
            {"widest": ROWS["widest"] | {"half_width": 0.0087}},
            "1,200 of 3,000 rows were explained. No more are needed: every interval over rows is at most +/-0.01 (the "
            f"widest, {WIDEST}: +/-0.009).",
        ),
        (
            {"stopped": "rows ended", "used": 3000},
            "3,000 of 3,000 rows were explained. That is not enough for the tolerance of 0.01: an interval "
            f"over rows is +/-0.012 ({WIDEST}). All test rows were used: a narrower interval needs a larger test set.",
        ),
    ],
)
def test_page_cards_and_terminal_say_how_many_rows_were_explained(changes, text):
    found = {"rows": ROWS | changes, "truncated_share": 0.0}
    assert explained_text(found) == text
    assert explained_text(found | {"truncated_share": 0.25}).startswith(
        f"{text} For a share of 0.250 of the rows, the budget"
    )
    assert explained_text({"truncated_share": 0.0}) == ""
    results = read_results(Path(hf_langimb.__file__).parents[1] / "model_cards" / "xnli-mini")
    results["attributions"] |= found
    drawn = {"labels": {}, "predictions": {}, "probe": {}}
    drawn |= {f"attributions-{form}": {} for form in ("result", "control", "unbiased")}
    assert f"<p>{text}</p>" in render(results, drawn, {})
    assert f"\n\n{text}\n\n" in render_card(results, "balanced")
    for name in ("recipe.txt", "compare.txt"):
        assert f"\n\n{text}\n\n" in render_text(name, results=results, folder="", page="")
