"""README: its first example prints what it says, its tables are those of the kept results, its commands exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from hf_langimb.results.schema import read_results
from hf_langimb.results.tables import fill_marks
from hf_langimb.runs.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_example_prints_what_the_page_says():
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert output.getvalue() == blocks("text")[0]


def test_the_tables_are_rendered_from_the_kept_results():
    assert README.count("<!-- langimb:") >= 3
    assert fill_marks(README, ROOT / "model_cards") == README


def test_the_kept_results_are_those_of_the_recipe_as_it_is():
    kept = read_results(ROOT / "model_cards" / "xnli-mini")
    flags = ["--seeds", "5", "--explain_rows", "600"]
    assert f"accelerate launch recipes/xnli.py {' '.join(flags)}" in README
    recipe = parse_recipe("xnli", ROOT / "recipes" / "xnli", flags)
    assert kept["config"] == recipe.config
    assert kept["seeds"] == [0, 1, 2, 3, 4]


def test_a_changed_table_is_rendered_again():
    changed = re.sub(r"\| balanced .*", "| balanced | 0.999 |", README)
    assert changed != README
    assert fill_marks(changed, ROOT / "model_cards") == README


def test_a_mark_without_a_table_is_refused():
    with pytest.raises(ValueError, match=r"Unknown table 'sizes'.*predictions, setups, comparisons, attributions"):
        fill_marks("<!-- langimb:xnli-mini:sizes -->\n\n<!-- /langimb -->", ROOT / "model_cards")


def test_every_configuration_named_exists():
    for name in re.findall(r"--config ([\w-]+)", README):
        assert (ROOT / "recipes" / "xnli" / f"{name}.yaml").is_file(), name


def test_marks_that_are_still_empty_are_filled_and_swallow_nothing():
    marks = "<!-- langimb:xnli-mini:{} -->\n<!-- /langimb -->"
    text = f"{marks.format('setups')}\nbetween\n{marks.format('predictions')}\n"
    filled = fill_marks(text, ROOT / "model_cards")
    assert filled.count("| balanced") == 3 and "\nbetween\n" in filled
    assert fill_marks(filled, ROOT / "model_cards") == filled
