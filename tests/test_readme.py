"""README and the page of results: the example prints what it says, tables are rendered, commands and links exist."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from hf_langimb.cli import _parser
from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.kept.tables import fill_marks
from hf_langimb.results.schema import read_results
from hf_langimb.runs.custom import FOLDER, words_of
from hf_langimb.runs.evaluate import _parse
from hf_langimb.runs.mitigations import parse as parse_comparison
from hf_langimb.runs.mitigations import read_methods
from hf_langimb.runs.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "model_cards"
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "model_cards/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
README, RESULTS = PAGES["README.md"], PAGES["model_cards/README.md"]
PROGRAMS = r"(?:python -m )?(?:langimb|accelerate launch|make) "


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands() -> list[str]:
    """Each command in a block or between backticks, once."""
    found = []
    for page in PAGES.values():
        lines = [line for block in blocks("bash", page) for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", page)
        found += [line.partition("  #")[0].strip() for line in lines if re.match(PROGRAMS, line)]
    return sorted(set(found))


def parse(command: str) -> None:
    """Raise, or exit with a code above 0, if a command has an argument that its program does not accept."""
    program, *words = shlex.split(command)
    if program == "make":
        targets = [word for word in words if "=" not in word]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), command
    elif program == "langimb" and words[0] == "train":
        parse_recipe("custom", FOLDER, words_of(words[1:]))
    elif program == "langimb":
        _parser().parse_args(words if len(words) > 1 else [*words, "--help"])  # a command's name alone
    elif words[1] == "recipes/evaluate.py":
        _parse(words[2:])
    elif words[1] == "-m":
        parse(f"langimb {shlex.join(words[3:])}")
    elif words[1] == "recipes/cloned_languages.py":
        parse_cloned("cloned_languages", ROOT / "recipes" / "cloned_languages", words[2:])
    elif words[1] == "recipes/compare_mitigations.py":
        assert read_methods(parse_comparison(ROOT / "recipes" / "compare_mitigations", words[2:])[0].path)
    else:
        recipe = Path(words[1])
        assert (ROOT / recipe).is_file(), command
        folder = FOLDER if recipe.stem == "custom" else ROOT / recipe.with_suffix("")
        parse_recipe(recipe.stem, folder, [*words[2:], "--bf16", "false"])  # without a GPU


def test_the_first_example_prints_what_the_page_says():
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert output.getvalue() == blocks("text")[0]


def test_the_readme_is_short_and_tables_are_rendered_from_the_kept_results():
    assert len(README.splitlines()) <= 335
    assert README.count("<!-- langimb:") >= 1 and RESULTS.count("<!-- langimb:") >= 12
    for page in (README, RESULTS):
        changed = re.sub(r"\| balanced .*", "| balanced | 0.999 |", page)
        assert changed != page
        assert fill_marks(page, KEPT) == fill_marks(changed, KEPT) == page


def test_the_kept_results_are_those_of_the_recipe_as_it_is():
    flags = ["--seeds", "5", "--explain_rows", "auto"]
    for run, config in (("xnli-mini", []), ("xnli-mini/entropy", ["mini-entropy"]), ("xnli-mini/lora", ["mini-lora"])):
        kept = read_results(KEPT / run)
        words = [*(["--config", *config] if config else []), *flags]
        assert f"accelerate launch recipes/xnli.py {' '.join(words)}\n" in RESULTS
        recipe = parse_recipe("xnli", ROOT / "recipes" / "xnli", words)
        assert kept["config"] == recipe.config
        assert kept["seeds"] == [0, 1, 2, 3, 4]


def test_marks_that_are_still_empty_are_filled_and_swallow_nothing_and_unknown_ones_are_refused():
    marks = "<!-- langimb:xnli-mini:{} -->\n<!-- /langimb -->"
    text = f"{marks.format('setups')}\nbetween\n{marks.format('predictions')}\n"
    filled = fill_marks(text, KEPT)
    assert filled.count("| balanced") == 3 and "\nbetween\n" in filled
    assert fill_marks(filled, KEPT) == filled
    with pytest.raises(ValueError, match=r"Unknown table 'sizes'.*predictions, setups, comparisons, attributions"):
        fill_marks("<!-- langimb:xnli-mini:sizes -->\n\n<!-- /langimb -->", KEPT)


def test_the_pages_name_every_command_and_configurations_and_files_that_exist():
    found = " ".join(commands())
    for name in ("audit", "probe", "explain", "compare", "report", "push", "pull"):
        assert f"langimb {name} " in found
    for name in ("recipes/xnli.py", "recipes/evaluate.py", "make demo", "make test", "make readme", "make lint"):
        assert name in found
    names = {name for page in PAGES.values() for name in re.findall(r"--config ([\w-]+)", page)}
    assert names >= {"mini-entropy", "mini-lora", "mbert", "small"}
    for name in names:
        assert [*(ROOT / "recipes").glob(f"*/{name}.yaml")], name
    pattern = r"`((?:hf_langimb|recipes|tests|model_cards)/[\w./-]*|\w+\.(?:toml|cfg|txt|cff))`"
    for name, page in PAGES.items():
        for path in re.findall(pattern, page):
            assert (ROOT / path).exists() or (ROOT / name).parent.joinpath(path).exists(), path
        for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page):
            assert text, f"{target} has no text"
            if not target.startswith("https://"):
                assert (ROOT / name).parent.joinpath(target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_parses(command):
    try:
        parse(command)
    except SystemExit as stop:
        assert stop.code == 0  # --help


def test_a_command_with_an_unknown_argument_does_not_parse():
    for command in ("langimb audit DATA --labels x", "accelerate launch recipes/xnli.py --sedes 5", "make demos"):
        with pytest.raises((SystemExit, ValueError, AssertionError)):
            parse(command)


def test_the_demo_passes_the_values_that_accelerate_would_warn_of(caplog, monkeypatch, tmp_path):
    from accelerate.commands import launch

    (line,) = re.findall(r"^LAUNCH = .*accelerate launch (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    monkeypatch.setattr(launch, "default_config_file", str(tmp_path / "none.yaml"))
    for words, said in (([*line.split(), "recipes/xnli.py"], 0), (["recipes/xnli.py"], 1)):
        caplog.clear()
        launch._validate_launch_command(launch.launch_command_parser().parse_args(words))
        assert sum("had defaults used" in record.message for record in caplog.records) == said
