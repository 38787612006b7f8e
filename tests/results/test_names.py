"""Hostile names of languages and labels: shown completely, each in its own way, and never read as Markdown or HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hf_langimb.console import shown
from hf_langimb.results.card_update import refresh_card
from hf_langimb.results.cards import render_card, render_trained_card
from hf_langimb.results.page import draw, render, write_figures
from hf_langimb.results.rendering import render as render_text
from hf_langimb.results.schema import read_results
from hf_langimb.results.tables import file_names, table

KEPT = Path(__file__).parents[2] / "model_cards" / "xnli-mini"
HOSTILE = [
    "<script>alert(1)</script>",
    "</svg><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "../../x",
    "a|b",
    "`code` ``x``",
    "two\nlines",
    "two lines",
    "\u202eevil\u2066",
    "zero\u200bwidth",
    "zerowidth",
    "no\u00a0break",
    "no break",
    "=cmd()",
    "[link](http://example.org)",
    "[a][b]",
    "![i](x)",
    "*bold* _it_ __b__ ~~s~~",
    "&lt;b&gt; &#60;",
    "back\\slash \\| \\`",
    " a",
    "a ",
    "a  b",
    "<!-- hf_langimb evaluation: x -->",
    "<http://example.org>",
    "عربي",
    "x" * 300,
    "中" * 100,
    "#1 - 2. + x",
    "$x$ $$y$$",
    "A",
    "a",
    "\x1b]0;owned\x07",
]
FOURS = [[*HOSTILE, *HOSTILE][i : i + 4] for i in range(0, len(HOSTILE), 4)]


def renamed(value, names):
    """JSON in which names of languages and labels are others, as values, as keys and in dotted keys."""
    if isinstance(value, dict):
        return {_key(key, names): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _key(key, names):
    for old, new in names.items():
        if key == old:
            return new
        if f".by_language.{old}." in key:
            return key.replace(f".{old}.", f".{new}.")
    return key


class Seen(HTMLParser):
    """Tags, and the text of each cell of a table, as a browser collapses it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.cells, self._open = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]
        if tag in ("td", "th"):
            self.cells.append("")
            self._open = True

    def handle_endtag(self, tag):
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data):
        if self._open:
            self.cells[-1] += data


def collapsed(text):
    return re.sub(r"[ \t\n]+", " ", text).strip()


def markdown(text):
    """A card without its metadata as HTML, as the Hub renders it, with HTML enabled."""
    body = re.sub(r"^---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)


@pytest.mark.parametrize("names", FOURS)
def test_cards_and_page_show_names_as_they_are(names):
    kept, pair = read_results(KEPT), names[:2]
    results = renamed(kept, dict(zip(("en", "fr", "entailment", "contradiction"), names, strict=True)))
    evaluated = results | {"config": {"dataset": "ann/data"}, "setups": {"model": results["setups"]["weighted"]}}
    axes = {"languages": pair, "label_names": names[2:], "counts": [[1, 2], [3, 4]]}
    axes |= {"class_weighting": "joint", "weights": [[1.0, 2.0], [3.0, 4.0]]}
    facts = dict.fromkeys(("language", "base_model", "tags", "datasets", "license", "model_name"))
    trained = render_trained_card(
        axes, [], facts | {"tags": []}, repo_id="a/b", adapter=False, masked_entropy_weight=0, options={}
    )
    shown_names = {collapsed(shown(name)) for name in names}
    assert len(shown_names) == 4
    plain = {*Seen(markdown(render_card(kept, "weighted"))).tags}
    for card in (render_card(results, "weighted"), refresh_card("# x\n", evaluated, "a/b"), trained):
        seen = Seen(markdown(card))
        assert {*seen.tags} <= plain | {"h2", "h3"}
        assert shown_names <= {collapsed(cell) for cell in seen.cells}
    seen = Seen(render(results, draw(results), {}))
    assert shown_names <= {collapsed(cell) for cell in seen.cells}
    assert not {"img", "b"} & {*seen.tags} and seen.tags.count("script") == 1  # the page's own


def test_a_browser_runs_and_fetches_nothing_of_a_name(browser, tmp_path):
    page = browser.new_page()
    said, requests = [], []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    for i, names in enumerate(FOURS[:3]):  # those with tags
        results = renamed(
            read_results(KEPT), dict(zip(("en", "fr", "entailment", "contradiction"), names, strict=True))
        )
        card = re.sub('<img src="figures/[^>]*>', "", markdown(render_card(results, "weighted")))  # its own figures
        for kind, text in (("page", render(results, draw(results), {})), ("card", f"<meta charset=utf-8>{card}")):
            path = tmp_path / f"{kind}-{i}.html"
            path.write_text(text, encoding="utf-8")
            page.goto(path.as_uri())
            assert requests.pop() == path.as_uri() and not requests + said
            cells = {collapsed(cell) for cell in page.locator("td, th").all_text_contents()}
            assert {collapsed(shown(name)) for name in names} <= cells
    page.close()


def test_all_names_are_shown_differently_and_have_files_of_their_own(tmp_path):
    assert len({collapsed(shown(name)) for name in HOSTILE}) == len(HOSTILE)
    files = file_names(HOSTILE, "attributions-unbiased-")
    assert len({file.casefold() for file in files.values()}) == len(HOSTILE)
    write_figures({"a": dict.fromkeys(HOSTILE, "<svg>")}, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)


def test_the_card_links_the_figures_that_the_page_writes(tmp_path):
    results = renamed(read_results(KEPT), {"contradiction": "a b", "entailment": "A?B"})
    write_figures(draw(results), tmp_path)
    linked = re.findall(r"\(figures/(.*?)\)", render_card(results, "weighted"))
    assert len({*linked}) == 3 and all((tmp_path / name).is_file() for name in linked)


@pytest.mark.parametrize("text", ["0.750 [0.115, 1.385]", "+0.200 (0.300)", "weighted_entropy - balanced", "50  %"])
def test_our_own_cells_are_not_changed(text):
    assert table(["name"], [[text]]).splitlines()[2] == f"| {text} |"


def test_names_in_a_terminal_are_as_they_are():
    results = renamed(read_results(KEPT), {"contradiction": "<b> & a|b"})
    printed = render_text("recipe.txt", results=results, folder="run", page="page.html")
    assert "| <b> & a|b |" in printed and "&lt;" not in printed
