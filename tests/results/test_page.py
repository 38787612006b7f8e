"""The page of a run: what it says, that it stands alone, and how a real browser shows it."""

import json
import re
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from datasets import Dataset
from skewed_run import skewed_results

import hf_langimb
from hf_langimb import attribute
from hf_langimb.cli import main
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.results.cards import render_card
from hf_langimb.results.moved import moved_cells, targets_cells
from hf_langimb.results.page import draw, write_figures, write_report
from hf_langimb.results.page import render as render_page
from hf_langimb.results.rendering import render as render_text
from hf_langimb.results.schema import read_results, write_results
from hf_langimb.results.tables import predictions_cells
from hf_langimb.results.verdict import EXPLAINED, QUESTION, answer_of, facts_text

KEPT = Path(hf_langimb.__file__).parents[1] / "model_cards" / "xnli-mini"


@pytest.fixture
def results():
    return read_results(KEPT)


def render(results):
    return render_page(results, draw(results), {})


class Outline(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def with_one_seed(results, left_out="nothing"):
    """The same results of seed 0 alone, without intervals over seeds and without some measures."""
    results["seeds"] = [0]
    for setup in results["setups"].values():
        setup["seeds"] = {"0": setup["seeds"]["0"]}
        setup["summary"] = {k: v | {"low": None, "high": None, "n": 1} for k, v in setup["summary"].items()
                            if not k.startswith(left_out)}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """Results of a user's own data in twelve languages."""
    return skewed_results(12, rows=4000, draws=50)


def test_the_first_screen_has_the_question_the_answer_a_figure_and_what_to_ship(run):
    page = render(run)
    first = page.partition('<section aria-labelledby="answers">')[0]
    said = answer_of(run)
    for text in (
        QUESTION,
        said.sentence,
        said.basis,
        "Use the setup &#39;independence&#39;",
        "small encoder",
        "a few rows dominate",
        "<svg",
    ):
        assert text in first.replace("\u00a0", " "), text
    assert page.index("<h1>") < page.index(said.basis) < page.index("<svg") < page.index("All answers")
    assert [tag for tag, _ in Outline(page).tags].count("svg") == 1 + 2 + 1  # first figure, predictions, training data
    assert run["notes"][0] in page


def test_headings_are_true_for_balanced_and_for_natural_test_sets(run, results):
    natural, balanced = (Outline(render(of)).text for of in (run, results))
    assert "as collected" in natural and "unweighted test rows" in natural and "equally often" not in natural
    assert "in which every language has all labels equally often" in balanced and "as it is" not in balanced
    texts = [render_text("recipe.txt", results=of, folder="", page="") for of in (run, results)]
    assert ["balanced test set" in text for text in texts] == [False, True]


def test_every_answer_is_listed_and_each_measure_is_explained_once(run):
    page = Outline(render(run)).text
    for entry in run["verdict"]:
        assert entry["question"] in page and facts_text(entry) in page
        if entry["name"] != "shortcut":
            assert page.count(EXPLAINED[entry["name"]]) == 1


def test_long_tables_are_folded_and_complete_without_the_script(run):
    page = re.sub(r"<script>.*?</script>", "", render(run), flags=re.DOTALL)
    for cells in (moved_cells(run, "plain"), predictions_cells(run), targets_cells(run)):
        for row in cells[1]:
            assert "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) in page
    folded = re.findall(r"<details>\n<summary>(.*?)</summary>.*?</details>", page, re.DOTALL)
    assert [name for name in folded if name.startswith("Table")] == [
        "Table: Predicted labels, 24 rows", "Table: By language, 26 rows",
    ]  # fmt: skip


def test_the_page_and_cards_of_205_languages_are_small(tmp_path):
    run = skewed_results(205, labels=7, rows=12_000, draws=4)
    write_results(tmp_path, run)
    page = write_report(tmp_path).read_text()
    card = render_card(run, "plain")
    terminal = render_text("recipe.txt", results=run, folder="", page="")
    assert len(page.encode()) < 3e6 and len(card.encode()) < 1e6 and len(terminal.splitlines()) < 100
    assert "plain: 30 of 205 languages" in page and "185 more languages are in the tables" in page
    assert page.count("<details>") == 7  # what moved, predictions, languages, each split
    assert card.count("<summary>205 rows</summary>") == 2 and all(name in page for name in run["languages"])
    assert "(175 more rows are on the page)" in terminal


def test_the_page_stands_alone_can_be_read_aloud_and_repeats_the_command(results):
    page = render(results)
    outline = Outline(page)
    assert not re.search(r"<script .|<link|<img|<iframe|@import|url\((?!#)", page) and page.count("<script>") == 1
    fetched = [value for _, attributes in outline.tags for key, value in attributes.items() if key in ("src", "href")]
    assert not fetched or all(value.startswith("#") for value in fetched)
    names = [tag for tag, _ in outline.tags]
    assert names.count("h1") == 1 and names.count("table") == names.count("caption") >= 4
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in outline.tags if tag == "th")
    pictures = [attributes for tag, attributes in outline.tags if attributes.get("role") == "img"]
    drawn = 1 + 2 + 3 + 1 + 9 + 3  # what moved, data, predictions, probe, attributions, reliability
    assert len(pictures) == names.count("svg") == drawn
    assert names.count("figure") == names.count("figcaption") == 8
    assert all(len(attributes["aria-label"]) > 40 for attributes in pictures)
    assert "fr: entailment 50%, neutral 33%, contradiction 17%" in page
    assert "nan" not in outline.text.lower().split()
    assert render(results | {"config_name": "<script>alert(1)</script>"}).count("<script>") == 1
    flags = {"train_size": 240, "text_columns": ["a", "b c"], "dataset_name": "my data"}
    assert (
        "accelerate launch recipes/xnli.py --config mini --train_size 240 --text_columns a 'b c' "
        "--dataset_name 'my data' --seeds 5 --seed 0 --setups balanced imbalanced weighted"
    ) in Outline(render(results | {"flags": flags})).text


def test_labels_that_differ_in_an_odd_character_have_a_file_each(tmp_path):
    write_figures(
        {"a": {"label-a/b": "<svg>1</svg>", "label-a b": "<svg>2</svg>"}, "b": {"label-a?b": "<svg>3</svg>"}}, tmp_path
    )
    assert {path.name for path in tmp_path.iterdir()} == {"label-a-b.svg", "label-a-b_.svg", "label-a-b__.svg"}


def test_without_training_data_the_labels_of_the_test_set_are_shown(results):
    results["data"] = {"test/natural": results["data"]["train/imbalanced"]}
    assert list(draw(results)["labels"]) == ["labels-test-natural"]
    assert "Heat map of test/natural" in render(results)


def test_one_seed_few_measures_and_a_class_never_predicted(results):
    with_one_seed(results)
    low, high = results["setups"]["weighted"]["seeds"]["0"]["test"]["intervals"]["by_language"]["fr"]["accuracy"]
    page = render(results)
    assert f"[{low:.3f}, {high:.3f}]" in page and "bootstrap intervals over test rows" in page
    assert "mean over seeds" not in page
    with_one_seed(results, "probe.external")
    for setup in results["setups"].values():
        setup["seeds"]["0"]["test"] |= {"predicted": [[10, 0, 0], [0, 0, 0]], "calibration": None}
    for entry in results["comparisons"]:
        entry["difference"] |= {"low": None, "high": None, "n": 1}
    page = render(results)
    assert "Differences between setups" not in page
    assert "nan" not in Outline(page).text.lower().split()


def test_the_command(tmp_path, capsys):
    shutil.copy(KEPT / "results.json", tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({"versions": {"torch": "9.9"}, "command": ["/home/me/x.py"]}))
    assert main(["report", str(tmp_path)]) == 0
    assert f"Written: {tmp_path}/report.html" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(figures) == 19 and "probe.svg" in figures and "predictions-weighted.svg" in figures
    assert "9.9" in page and "/home/me" not in page
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_text() == page
    before = (tmp_path / "results.json").read_bytes()
    for output in (tmp_path / "results.json", tmp_path / "nowhere" / "x.html", tmp_path):
        assert main(["report", str(tmp_path), "--output", str(output)]) == 1
        assert "Expected output to be an .html file in an existing folder, got" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before
    (tmp_path / "environment.json").write_text('{"versions": n')
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path / "results.json")]) == 1
    assert "name the folder that contains it" in capsys.readouterr().err


def test_a_run_that_cannot_be_read(tmp_path, capsys):
    for text, message in (
        (None, "Expected a run folder with results.json, got"),
        ('{"schema_version": 1, "rec', "is not valid JSON"),
        ('{"schema_version": 9}', "expected schema_version 1, got 9: upgrade hf_langimb"),
        ('{"schema_version": 1}', "expected the keys recipe"),
    ):
        if text is not None:
            (tmp_path / "results.json").write_text(text)
        assert main(["report", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def explained_run(tmp_path_factory, bert_tokenizer, tiny_bert):
    """A run folder with the attributions of two models on long pairs."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(KEPT / "results.json", folder)
    long = " ".join(f"w{i}" for i in range(14))
    columns = {"premise": [long] * 6, "hypothesis": [f"w{i} <b>" for i in range(6)], "language": ["en", "fr"] * 3}
    rows = Dataset.from_dict(columns | {"label": [0, 1, 2] * 2})
    for seed, setup in enumerate(("balanced", "imbalanced")):
        model = tiny_bert(seed=seed)
        attribute(
            model, bert_tokenizer, rows, out=folder / "attributions" / f"{setup}-seed-0", method="owen", budget=30
        )
    return folder


def test_sentences_show_what_their_tokens_add(explained_run):
    page = write_report(explained_run).read_text()
    outline = Outline(page)
    tokens = [a for tag, a in outline.tags if tag == "span" and a.get("title")]
    assert len(tokens) == 2 * 2 * 2 * 16  # languages, sentences, setups, tokens
    assert {a["title"] for a in tokens} <= {
        f"{value:+.3f}" for setup in ("balanced", "imbalanced")
        for value in stack(AttributionStore(explained_run / "attributions" / f"{setup}-seed-0").tokens["S"]).ravel()
    }  # fmt: skip
    assert all((a["title"][0] == "+") == ("for" in a["class"].split()) or a["title"][1:] == "0.000" for a in tokens)
    assert max(float(re.search(r"--strength: (\d+)%", a["style"])[1]) for a in tokens) == 100
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "true label: LABEL_" in page


def test_of_many_languages_one_form_is_drawn_and_those_that_differ_most_have_sentences(
    results, explained_run, monkeypatch
):
    monkeypatch.setattr("hf_langimb.results.page.LANGUAGES", 1)
    page = write_report(explained_run, explained_run / "one.html").read_text()
    assert len(re.findall(r"<h3>(en|fr): ", page)) == 2
    results["languages"] = [f"l{i}" for i in range(31)]
    for setup in results["setups"].values():
        for metrics in setup["seeds"].values():
            metrics["test"]["predicted"] = [[i, 1, 1] for i in range(31)]
    figures = draw(results)
    assert [name for name in figures if name.startswith("attributions")] == ["attributions-unbiased"]
    assert "Token attributions, unbiased" in render_page(results, figures, {})


@pytest.mark.parametrize("folder", [KEPT.parent / "xnli-small", Path(__file__).parents[1] / "fixtures" / "run-0.1"])
def test_results_of_an_earlier_version_have_a_page_without_an_answer(folder):
    results = read_results(folder)
    page = Outline(render(results))
    assert "come from an earlier version" in page.text and "All answers" not in page.text
    for heading in ("Setups", "Predicted labels", "By language", "The data", "How to reproduce it"):
        assert heading in page.text
    assert "Dependence: mutual information" in page.text  # measures are explained here, too


# In a real browser.


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_the_screen(browser, explained_run, width, scheme):
    path = write_report(explained_run)
    screen = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    context = browser.new_context(java_script_enabled=True, **screen)
    page = context.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    assert requests == [path.as_uri()] and errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll, the page does not
    assert page.get_by_role("heading", name=QUESTION).is_visible()
    pictures = page.get_by_role("img")
    assert pictures.count() == 19
    assert all(pictures.nth(i).bounding_box()["width"] >= 280 for i in range(19))  # also on a phone
    assert page.get_by_role("columnheader", name="accuracy").first.is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    style = "getComputedStyle(document.body)"
    ink, paper = page.evaluate(f"[{style}.color, {style}.backgroundColor]")
    brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ink, paper)]
    assert (brightness[0] > brightness[1]) is (scheme == "dark")
    drawn = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert drawn == ink  # figures take the color of the page's text
    context.close()


def test_a_click_on_a_header_sorts_a_table(browser, tmp_path, run):
    write_results(tmp_path, run)
    path = write_report(tmp_path)
    page = browser.new_page()
    page.goto(path.as_uri())
    table = page.locator("table.sortable").first
    header = table.get_by_role("columnheader", name="rows")
    read = "cells => cells.map(cell => Number(cell.innerText.replaceAll(',', '')))"
    for direction in ("descending", "ascending"):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == direction
        values = table.locator("tbody td:nth-child(2)").evaluate_all(read)
        assert values == sorted(values, reverse=direction == "descending") and len({*values}) > 9
    table.get_by_role("button", name="language").click()
    assert header.get_attribute("aria-sort") is None
    assert table.locator("tbody th").first.inner_text() == "l011"
    page.close()


def test_without_the_script_headers_are_no_buttons_and_print_opens_what_is_folded(browser, tmp_path, run):
    write_results(tmp_path, run)
    path = write_report(tmp_path)
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.get_by_role("button").count() == 0
    folded = page.locator("details table").first
    assert not folded.is_visible()
    page.locator("summary").first.click()
    assert folded.is_visible()
    page.locator("summary").first.click()
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 794, "height": 1123})  # A4
    assert folded.locator("tbody tr").last.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    context.close()


def test_the_answer_and_the_figure_are_on_the_first_screen_of_a_phone(browser, tmp_path, run):
    write_results(tmp_path, run)
    path = write_report(tmp_path)
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    advice, figure = page.locator(".advice").bounding_box(), page.locator("figure.main svg").bounding_box()
    assert advice["y"] + advice["height"] < 640 and figure["y"] < 750 and figure["width"] >= 340
    page.close()


def test_the_difference_of_a_run(tmp_path, capsys, results):
    assert main(["compare", str(KEPT)]) == 0
    shown = capsys.readouterr().out
    assert f"threshold 0.01, {results['attributions']['examples']} rows, seeds 0, 1, 2, 3, 4" in shown
    assert len(re.findall(r"^\| (entailment|neutral|contradiction) ", shown, re.MULTILINE)) == 18
    assert main(["compare", str(KEPT), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results["attributions"]
    (tmp_path / "results.json").write_text(json.dumps(results | {"attributions": None}))
    assert main(["compare", str(tmp_path)]) == 1
    assert "has no attributions to compare: run the recipe with explain_rows" in capsys.readouterr().err
