"""The page of a run: what it says, that it stands alone, and how a real browser shows it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from datasets import Dataset

import hf_langimb
from hf_langimb import attribute
from hf_langimb.cli import main
from hf_langimb.measures.attribution.store import AttributionStore, stack
from hf_langimb.results.page import _verdict, draw, write_figures, write_report
from hf_langimb.results.page import render as render_page
from hf_langimb.results.schema import read_results
from hf_langimb.results.summary import compare, represented

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


def difference(results, metric):
    wanted = metric, "imbalanced", "balanced"
    found = (e for e in results["comparisons"] if (e["metric"], e["setup"], e["reference"]) == wanted)
    return next(found)["difference"]


def test_the_verdict_has_three_lines_with_intervals(results):
    line = r"<li>(.*?): <span class=\"answer [\w ]+\">(.*?)</span> <span class=\"detail\">(.*?)</span>"
    lines = _verdict(results)
    assert re.findall(line, render(results)) == lines
    neutral = next(e for e in results["attributions"]["unbiased"]
                   if (e["threshold"], e["label"], e["language"]) == (0.01, "entailment", "fr"))  # fmt: skip
    assert f"entailment, fr: {neutral['neutral']:+.3f} [{neutral['seed_intervals']['neutral'][0]:+.3f}" in lines[2][2]
    for entry in results["attributions"]["unbiased"]:
        entry["seed_intervals"]["neutral"][0] = 0.01
    for text in ("test", "external"):
        difference(results, f"probe.{text}.accuracy")["low"] = 0.01
    assert [answer for _, answer, _ in _verdict(results)] == ["yes", "yes", "yes"]
    neutral["seed_intervals"]["neutral"][0] = -0.01
    assert _verdict(results)[2][1] == "no"
    neutral["seed_intervals"] = None
    assert _verdict(results)[2][1] == "not known"
    results["attributions"]["unbiased"] = []
    assert _verdict(results)[2][1] == "not known"
    results["attributions"] = None
    accuracy = difference(results, "test.accuracy")
    assert f"{accuracy['mean']:+.3f} [{accuracy['low']:+.3f}, {accuracy['high']:+.3f}] on test text" in lines[0][2]
    assert "on test text" in lines[1][2] and "on external text" in lines[1][2]
    accuracy["high"] = 0.01
    assert [answer for _, answer, _ in _verdict(results)] == ["no", "yes", "not measured"]
    difference(results, "probe.external.accuracy")["low"] = -0.01  # it does not hold on each text
    assert [answer for _, answer, _ in _verdict(results)] == ["no", "no", "not measured"]
    difference(results, "probe.test.accuracy").update(low=None, high=None)
    assert [answer for _, answer, _ in _verdict(results)] == ["no", "not known", "not measured"]
    results["comparisons"] = []
    assert [answer for _, answer, _ in _verdict(results)] == ["not measured"] * 3


def test_the_verdict_is_of_plain_setups_in_any_order_and_of_over_represented_languages(results):
    marks = represented(results)
    assert marks["entailment", "fr"] == marks["contradiction", "en"] == 1
    assert marks["entailment", "en"] == marks["contradiction", "fr"] == -1
    assert marks["neutral", "en"] == marks["neutral", "fr"] == 0
    for a, b, c in zip(*(results["attributions"][name] for name in ("result", "control", "unbiased")), strict=True):
        assert a["neutral"] - b["neutral"] == pytest.approx(c["neutral"], abs=1e-6)
    expected = _verdict(results)
    setups = results["setups"]
    turned = {name: setups[name] for name in ("weighted", "imbalanced", "balanced")}
    assert _verdict(results | {"setups": turned, "comparisons": compare(turned)}) == expected
    more = setups | {"balanced_entropy": setups["balanced"], "imbalanced_entropy": setups["weighted"]}
    assert _verdict(results | {"setups": more, "comparisons": compare(more)}) == expected
    only = {name: more[name] for name in ("imbalanced_entropy", "balanced_entropy")}
    (line, *_) = _verdict(results | {"setups": only, "comparisons": compare(only)})
    of = [
        [metrics["test"]["accuracy"] for metrics in setups[name]["seeds"].values()] for name in ("weighted", "balanced")
    ]
    lost = sum(of[0]) / len(of[0]) - sum(of[1]) / len(of[1])
    assert f"imbalanced_entropy - balanced_entropy: {lost:+.3f}" in line[2]


def test_the_page_stands_alone_can_be_read_aloud_and_repeats_the_command(results):
    page = render(results)
    outline = Outline(page)
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\((?!#)", page)
    fetched = [value for _, attributes in outline.tags for key, value in attributes.items() if key in ("src", "href")]
    assert not fetched or all(value.startswith("#") for value in fetched)
    names = [tag for tag, _ in outline.tags]
    assert names.count("h1") == 1 and names.count("table") == names.count("caption") >= 4
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in outline.tags if tag == "th")
    pictures = [attributes for tag, attributes in outline.tags if attributes.get("role") == "img"]
    drawn = 2 + 3 + 1 + 9 + 3  # data, predictions, probe, attributions, reliability
    assert len(pictures) == names.count("svg") == drawn
    assert names.count("figure") == names.count("figcaption") == 7
    assert all(len(attributes["aria-label"]) > 40 for attributes in pictures)
    assert "fr: entailment 50%, neutral 33%, contradiction 17%" in page
    assert "nan" not in outline.text.lower().split()
    assert "<script>" not in render(results | {"config_name": "<script>alert(1)</script>"})
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
    assert f"[{low:.3f}, {high:.3f}]" in page and "bootstrap intervals over examples" in page
    assert "mean over seeds" not in page
    with_one_seed(results, "probe.external")
    for setup in results["setups"].values():
        setup["seeds"]["0"]["test"] |= {"predicted": [[10, 0, 0], [0, 0, 0]], "calibration": None}
    for entry in results["comparisons"]:
        entry["difference"] |= {"low": None, "high": None, "n": 1}
    page = render(results)
    assert "Differences between setups" not in page
    assert "one seed has no interval" in page
    assert "nan" not in Outline(page).text.lower().split()


def test_the_command(tmp_path, capsys):
    shutil.copy(KEPT / "results.json", tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({"versions": {"torch": "9.9"}, "command": ["/home/me/x.py"]}))
    assert main(["report", str(tmp_path)]) == 0
    assert f"Written: {tmp_path}/report.html" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert len(figures) == 18 and "probe.svg" in figures and "predictions-weighted.svg" in figures
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
    assert page.get_by_role("heading", name="Verdict").is_visible()
    pictures = page.get_by_role("img")
    assert pictures.count() == 18
    assert all(pictures.nth(i).bounding_box()["width"] >= 280 for i in range(18))  # also on a phone
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


def test_the_difference_of_a_run(tmp_path, capsys, results):
    assert main(["compare", str(KEPT)]) == 0
    shown = capsys.readouterr().out
    assert f"threshold 0.01, {results['attributions']['examples']} examples, seeds 0, 1, 2, 3, 4" in shown
    assert len(re.findall(r"^\| (entailment|neutral|contradiction) ", shown, re.MULTILINE)) == 18
    assert main(["compare", str(KEPT), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results["attributions"]
    (tmp_path / "results.json").write_text(json.dumps(results | {"attributions": None}))
    assert main(["compare", str(tmp_path)]) == 1
    assert "has no attributions to compare: run the recipe with explain_rows" in capsys.readouterr().err
