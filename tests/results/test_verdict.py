"""The answer of a run in words: a sentence for each situation, the same on the page, in the terminal and in cards."""

import copy
import html
import json
import re

import pytest
from skewed_run import skewed_results

from hf_langimb.results import verdict
from hf_langimb.results.cards import render_card
from hf_langimb.results.moved import compared_setups, farthest_text, most_moved, moved_cells, moves_of, targets_cells
from hf_langimb.results.page import draw
from hf_langimb.results.page import render as render_page
from hf_langimb.results.rendering import render
from hf_langimb.results.schema import validate
from hf_langimb.results.tables import predictions_cells


@pytest.fixture(scope="module")
def run():
    return skewed_results(12, rows=4000)


@pytest.fixture
def results(run):
    return copy.deepcopy(run)


def answered(results, shortcut, basis="rows", **answers):
    """The results with other answers: (answer, value, low, high) or the answer alone, by name; None removes one."""
    entries = {entry["name"]: entry for entry in results["verdict"]}
    entries["shortcut"] |= {"answer": shortcut, "basis": basis}
    for name, answer in answers.items():
        answer, *numbers = (answer,) if isinstance(answer, str) or answer is None else answer
        entries[name] |= {"answer": answer} | dict(zip(("value", "low", "high"), numbers, strict=False))
    results["verdict"] = [entry for entry in results["verdict"] if entry["answer"] is not None]
    return verdict.answer_of(results)


def test_the_run_is_of_the_schema_and_has_the_answer_yes(results):
    validate(results, "results")
    assert verdict.answer_of(results).answer == "yes"
    assert results["recommendation"]["setup"] == "independence"


SITUATIONS = {
    "shortcut": (
        {"shortcut": "yes", "dependence": ("yes", 0.06, 0.042, 0.081), "follows_skew": ("yes", 0.53, 0.47, 0.59),
         "caused_by_link": ("yes", 0.05, 0.04, 0.06)},
        "Labels depend on language in training ({link} bits), and the predictions of the plain model do so beyond "
        "chance (0.060 bits [0.042, 0.081]; 0: no dependence) and follow the skew of the training labels (skew "
        "transfer 0.530 [0.470, 0.590]; 1: they copy it). Once the link is removed from training (independence), the "
        "dependence falls by 0.050 bits [0.040, 0.060].",
    ),
    "caused, direction unclear": (
        {"shortcut": "yes", "dependence": ("yes", 0.06, 0.042, 0.081), "follows_skew": "unclear",
         "caused_by_link": ("yes", 0.05, 0.04, 0.06)},
        "Labels depend on language in training ({link} bits), and the predictions of the plain model do so beyond "
        "chance (0.060 bits [0.042, 0.081]; 0: no dependence). Once the link is removed from training "
        "(independence), the dependence falls by 0.050 bits [0.040, 0.060].",
    ),
    "no link": (
        {"shortcut": "no", "link": ("no", 0.003, 0.001, 0.005), "dependence": "no"},
        "Labels hardly depend on language in the training data (0.003 bits [0.001, 0.005]), so there is no shortcut "
        "to learn.",
    ),
    "no dependence": (
        {"shortcut": "no", "dependence": ("no", -0.0001, 0.0, 0.004), "languages": None},
        "The predictions of the plain model hardly depend on language beyond chance (0.000 bits [0.000, 0.004], "
        "threshold 0.01).",
    ),
    "no dependence, direction and cause": (
        {"shortcut": "no", "dependence": "unclear", "follows_skew": ("no", -0.02, -0.05, 0.01),
         "caused_by_link": ("no", 0.001, -0.002, 0.004)},
        "The predictions do not follow the skew of the training labels (skew transfer -0.020 [-0.050, 0.010], "
        "threshold 0.1; decrease of the dependence if the link is removed from training 0.001 bits [-0.002, 0.004], "
        "threshold 0.01).",
    ),
    "unclear link": (
        {"shortcut": "unclear", "link": ("unclear", 0.011, 0.006, 0.016)},
        "It is unclear whether labels depend on language in the training data: 0.011 bits [0.006, 0.016], threshold "
        "0.01. More training rows would tell.",
    ),
    "unclear dependence": (
        {"shortcut": "unclear", "dependence": ("unclear", 0.011, 0.006, 0.016)},
        "It is unclear whether the predictions of the plain model depend on language: 0.011 bits [0.006, 0.016], "
        "threshold 0.01. More test rows, or --seeds 5, would narrow the interval.",
    ),
    "unclear direction": (
        {"shortcut": "unclear", "dependence": ("yes", 0.06, 0.042, 0.081), "caused_by_link": None,
         "follows_skew": ("unclear", 0.3, 0.2, 0.4)},
        "The predictions of the plain model depend on language (0.060 bits [0.042, 0.081]), but it is unclear "
        "whether they follow the skew of the training labels: skew transfer 0.300 [0.200, 0.400], threshold 0.1, but "
        "its direction may be due to chance.",
    ),
    "training data not known": (
        {"shortcut": "not measured", "link": "not measured", "dependence": ("yes", 0.06, 0.042, 0.081)},
        "The training data have only one language or one label. The predictions of the model depend on language "
        "(0.060 bits [0.042, 0.081] beyond chance).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_has_a_sentence_with_its_numbers(results, situation):
    answers, sentence = SITUATIONS[situation]
    said = answered(results, **answers)
    link = f"{verdict.first_entries(results)['link']['value']:.3f}"
    assert said.sentence == sentence.replace("{link}", link) and said.answer == answers["shortcut"]
    assert said.basis == "One seed: the answer applies to these two models, on rows like the test rows."


def test_the_answer_ends_with_the_largest_differences(results):
    named = re.findall(r"(\w[\w ]*) in (l\d+) \(too (often|rarely)\)", farthest_text(results))
    moves = [move for move in moves_of(results, "plain") if move.sure]
    cells = [
        (abs(value), label, move.language, "often" if value > 0 else "rarely")
        for move in moves
        for value, label in zip(move.shrunk, results["labels"], strict=True)
    ]
    assert named == [tuple(cell[1:]) for cell in sorted(cells, reverse=True)[:3]]


def test_a_language_that_only_test_rows_are_in_is_shown_and_marked(results, monkeypatch):
    monkeypatch.setattr(verdict, "FEW_ROWS", 1)
    only = results["languages"].pop()
    validate(results, "results")
    assert only in [move.language for move in moves_of(results, "plain")]
    assert any(row[0] == f"{only} (not in training)" for row in moved_cells(results, "plain")[1])
    assert f"{only} (not in training)" in [row[1] for row in predictions_cells(results)[1]]
    for setup in results["setups"].values():
        setup["summary"][f"test.by_language.{only}.accuracy"]["mean"] = 0.01
    assert all(row[-1].endswith(f"({only} (not in training))") for row in verdict.price_cells(results)[1])
    page = render_page(results, draw(results), {}).replace("\u00a0", " ")
    assert "12 languages" in page and f"{only} (not in training)" in page


def test_an_evaluation_of_a_model_whose_training_data_are_not_known(results):
    del results["data"]["train/natural"], results["recommendation"]
    said = answered(results, "not measured", link="not measured", dependence=("no", 0.0, 0.0, 0.004))
    assert said.sentence == (
        "The training data of the model are not known. The predictions of the model hardly depend on language (0.000 "
        "bits [0.000, 0.004] beyond chance)."
    )
    assert "NOT MEASURED\nThe training data" in render("evaluate.txt", results=results, folder="", page="")


def test_dependence_without_direction_names_the_languages_of_lower_accuracy(results):
    tests = results["setups"]["plain"]["seeds"]["0"]["test"]
    named = [entry for entry in results["verdict"] if entry["name"] == "languages"]
    named[0]["languages"] = ["l003", "l001", "l002"]
    summary = results["setups"]["plain"]["summary"]
    for language, accuracy in (("l001", 0.3), ("l002", 0.2), ("l003", tests["accuracy"] + 0.1)):
        summary[f"test.by_language.{language}.accuracy"]["mean"] = accuracy
    none = {"follows_skew": "no", "caused_by_link": "no"}
    said = answered(results, "no", dependence=("yes", 0.28, 0.25, 0.31), **none)
    assert said.sentence == (
        "Predictions differ between languages (0.280 bits [0.250, 0.310]), but not in the direction of the training "
        "labels: accuracy is lower in some languages: l002 (accuracy 0.200), l001 (accuracy 0.300)."
    )
    tokens = {"texts": 9, "per_text": 8.0, "unknown_share": 0.4, "truncated_share": 0.0}
    said = verdict.answer_of(results | {"tokens": {"l002": tokens, "l001": tokens | {"unknown_share": 0.0}}})
    assert said.sentence.endswith(
        "l002 (accuracy 0.200, 40% unknown tokens), l001 (accuracy 0.300, 0% unknown tokens)."
    )
    said = answered(results, "no", link=("no", 0.0, 0.0, 0.001))
    assert "no shortcut to learn. Predictions differ between languages" in said.sentence
    named[0]["languages"] = []
    assert answered(results, "no", link="yes", **none).sentence.endswith(
        "the model makes different errors in different languages."
    )


def test_no_overall_but_in_small_languages(results):
    next(entry for entry in results["verdict"] if entry["name"] == "languages")["languages"] = list("abcdefg")
    said = answered(results, "no", dependence=("no", 0.001, 0.0, 0.004))
    assert said.sentence.endswith("They differ in these languages, though: a, b, c, d, e, and 2 more.")


def test_a_model_that_has_learned_nothing():
    results = skewed_results(5, rows=1500, accuracy=0.0, guesses=0.0)
    said = verdict.answer_of(results)
    measures = results["setups"]["plain"]["seeds"]["0"]["targets"]["independent"]
    (low, high), majority = measures["intervals"]["accuracy"], measures["majority_accuracy"]
    assert said.answer == "not measured"
    assert said.sentence == (
        f"The plain model has not learned the task: its accuracy, {measures['accuracy']:.3f} [{low:.3f}, {high:.3f}], "
        f"is not above that of always predicting the most frequent label, {majority:.3f}."
    )
    assert verdict.recommendation_text(results).startswith(
        "No recommendation: it is not shown that the model has learned the task;"
    )


def test_what_the_answer_is_a_statement_about(results):
    assert answered(results, "yes", "seeds").basis.startswith("Intervals over the seeds of the run")
    plain = results["setups"]["plain"]
    plain["seeds"]["1"] = plain["seeds"]["0"]
    entry = next(entry for entry in results["verdict"] if entry["name"] == "dependence")
    entry |= {"answer": "unclear", "detail": "of 2 models, yes: 1, unclear: 1"}
    said = answered(results, "unclear")
    assert said.basis == "Intervals over test rows: the answer applies to these models, on rows like the test rows."
    assert said.sentence.endswith(
        "of 2 models, yes: 1, unclear: 1). More test rows, or --seeds 5, would narrow the interval."
    )


def test_a_recommendation_says_where_test_rows_do_not_confirm_it(results):
    assert verdict.recommendation_text(results).endswith("without a clear loss of accuracy.")
    answered(results, "yes", caused_by_link="unclear")  # else the answer has the number
    said = verdict.recommendation_text(results)
    assert re.search(r"without a clear loss of accuracy \(decrease on test rows: .* bits \[.*\]\)\.$", said)
    of = {entry["name"]: entry for entry in results["verdict"] if entry["setup"] == "independence"}
    of["cure"] |= {"answer": "unclear", "value": 0.012, "low": -0.002, "high": 0.026}
    text = "On test rows, however, a lower dependence is not confirmed (decrease 0.012 bits [-0.002, 0.026])"
    assert f"of accuracy. {text}: train several seeds (--seeds 5)" in verdict.recommendation_text(results)
    of["accuracy"] |= {"answer": "no", "value": -0.08, "low": -0.1, "high": -0.06}
    both = f"{text} and accuracy is clearly lower (-0.080 [-0.100, -0.060]): train"
    assert both in verdict.recommendation_text(results)
    more = verdict.recommendation_text(results | {"seeds": [0, 1, 2, 3, 4]})
    assert more.endswith("use more test rows before you decide.")
    results["recommendation"] = {**results["recommendation"], "setup": "plain", "reason": "no shortcut was found"}
    assert verdict.recommendation_text(results) == "Use the setup 'plain': no shortcut was found."


def test_results_without_an_answer(results):
    assert "trained on balanced data" in verdict.answer_of(results | {"verdict": []}).sentence
    del results["verdict"], results["recommendation"]
    assert verdict.answer_of(results) is None and verdict.price_cells(results)[1] == []
    assert verdict.recommendation_text(results) == "" and most_moved(results) is None
    assert "shortcut?" not in render("recipe.txt", results=results, folder="", page="")
    assert "Does it use language" not in render_card(results, "plain")


def test_the_same_answer_on_the_page_in_the_terminal_and_in_cards(results):
    said = verdict.answer_of(results)
    page = render_page(results, draw(results), {}).replace("\u00a0", " ")
    texts = [page, render("recipe.txt", results=results, folder="", page=""), render_card(results, "plain")]
    for text in texts:
        for part in (said.sentence, said.basis, verdict.recommendation_text(results), results["warnings"][0]):
            assert part in html.unescape(text), part
        assert "Measured on a small encoder made from your texts" in text
        for entry in results["verdict"]:
            assert entry["question"] in text and verdict.facts_text(entry) in text
    assert texts[1].index(said.sentence) < texts[1].index("Predicted labels")
    assert "Of `plain`, which this model is compared with: **Yes.**" in render_card(results, "independence")
    results["config"]["model_name_or_path"] = "bert-base-multilingual-cased"
    assert "small encoder" not in render("recipe.txt", results=results, folder="", page="")


def test_the_price_is_accuracy_without_the_link_as_collected_and_in_the_worst_language_of_some_size(results):
    header, rows = verdict.price_cells(results)
    assert header == ["setup", "without the link", "as collected", "worst language"]
    for name, *cells in rows:
        metrics = results["setups"][name]["seeds"]["0"]
        for cell, target in zip(cells, ("independent", "natural"), strict=False):
            of = metrics["targets"][target]
            low, high = of["intervals"]["accuracy"]
            assert cell == f"{of['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        large = {
            language: metrics["test"]["by_language"][language]["accuracy"]
            for language, row in zip(results["languages"], metrics["test"]["predicted"], strict=True)
            if sum(row) >= verdict.FEW_ROWS
        }
        worst = min(large, key=large.get)
        low, high = metrics["test"]["intervals"]["by_language"][worst]["accuracy"]
        assert cells[2] == f"{large[worst]:.3f} [{low:.3f}, {high:.3f}] ({worst})"
    assert verdict.setups_text(results) == (
        "plain: trained on the data as they are; independence: on the same data, with class weights that make labels "
        "independent of language."
    )


def test_what_moved_is_predicted_less_expected_and_small_languages_are_shrunk(results):
    metrics = results["setups"]["plain"]["seeds"]["0"]
    moves = moves_of(results, "plain")
    variations = [of["total_variation"] for of in metrics["shift"].values()]
    assert [move.total_variation for move in moves] == sorted(variations, reverse=True)
    move = moves[0]
    predicted = metrics["test"]["predicted"][results["languages"].index(move.language)]
    expected = metrics["shift"][move.language]["expected"]
    first = 100 * (predicted[0] - expected[0]) / sum(predicted)
    assert moved_cells(results, "plain")[1][0][4] == f"{first:+.1f}"
    assert abs(move.shrunk).sum() / 2 == pytest.approx(move.total_variation)
    tiny = metrics["shift"][moves[-1].language]
    tiny |= {"total_variation": 0.0, "expected": [0.0] * 4}  # far, but by chance
    assert most_moved(results).languages[-1] == moves[-1].language


def test_the_first_figure_compares_the_subject_with_the_setup_to_ship(results):
    assert compared_setups(results) == ["plain", "independence"]
    found = most_moved(results)
    test = results["data"]["test/natural"]
    column, place = test["labels"].index(found.label), test["languages"].index(found.languages[0])
    assert found.true[0] == pytest.approx(test["row_shares"][place][column])
    predicted = results["setups"]["independence"]["seeds"]["0"]["test"]["predicted"][place]
    assert found.shares["independence"][0].predicted == pytest.approx(predicted[column] / sum(predicted))
    p = results["setups"]["plain"]["seeds"]["0"]["shift"]
    assert [of.sure for of in found.shares["plain"]] == [p[name]["p"] < 0.05 for name in found.languages]
    assert found.hidden == 0 and len(found.languages) == 12
    assert f"{found.languages[0]}: true {found.true[0]:.0%}" in verdict.moved_text(found)


def test_measures_under_the_targets_have_intervals_over_rows_or_seeds(results):
    header, rows = targets_cells(results)
    assert [row[:2] for row in rows[:3]] == [["plain", target] for target in ("natural", "independent", "uniform")]
    bits = results["setups"]["plain"]["seeds"]["0"]["targets"]["independent"]
    low, high = bits["intervals"]["dependence_bits"]
    place = header.index("dependence (bits)")
    assert rows[1][place] == f"{bits['dependence_bits']:.4f} [{low:.4f}, {high:.4f}]"


def test_a_card_prints_no_number_that_the_results_do_not_have(results):
    class Number(float):
        def __format__(self, form):
            return "<number>"

    text = json.dumps(results)
    marked = json.loads(text, parse_float=Number)
    section = render_card(marked, "independence").partition("## Does it")[2].partition("\n## ")[0]
    for entry in results["verdict"]:
        section = section.replace(entry["question"], "").replace("p is below 0.05", "")
    assert "<number>" in section and not re.search(r"\d\.\d", section)


def test_an_absolute_path_is_published_without_its_folders(results):
    results["config"] |= {"dataset_name": "/home/me/secret/reviews.csv", "model_name_or_path": "/home/me/secret/bert"}
    results["flags"] = {"dataset_name": "/home/me/secret/reviews.csv", "model_name_or_path": "/home/me/secret/bert"}
    card, page = render_card(results, "plain"), render_page(results, draw(results), {})
    for text in (card, page):
        assert "secret" not in text
        assert "langimb train reviews.csv --model_name_or_path bert" in text
    assert "`bert`, fine-tuned on `reviews.csv`" in card
