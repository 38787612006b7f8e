"""The answer of a run in words, for its page, the terminal and model cards: read from `verdict` of results.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hf_langimb.console import listed, shown
from hf_langimb.results.moved import (
    Moved,
    compared_setups,
    farthest_text,
    measure_text,
    most_moved,
    moved_cells,
    moves_of,
    rows_or_seeds_text,
)
from hf_langimb.results.schema import Results, Verdict
from hf_langimb.results.summary import (
    MEASURED_ONLY,
    interval,
    language_text,
    mitigation_text,
    roles_of,
    tested_languages,
)
from hf_langimb.results.tables import Cells, interval_text, predictions_cells

QUESTION = "Does the model use language as a shortcut?"
MANY = 15  # languages of which the terminal shows those that differ most
FEW_ROWS = 30  # test rows below which a language is not called the worst
INDEPENDENT, NATURAL = "targets.independent.accuracy", "targets.natural.accuracy"
UNITS = {"link": " bits", "dependence": " bits", "caused_by_link": " bits", "cure": " bits"}
EXPLAINED = {  # at the first appearance of a measure
    "link": "The link between language and label, measured as their mutual information. 0: labels do not depend on "
    "language. The higher it is, the more a model can gain by predicting the label from the language.",
    "dependence": "Mutual information of prediction and language, minus its chance level, on test rows weighted so "
    "that labels do not depend on language. 0: no dependence, as for a perfect classifier. The higher it is, the more "
    "predictions differ between languages for the same labels.",
    "follows_skew": "Skew transfer: 0 if predictions ignore how the training labels differ between languages, 1 if "
    "they copy these differences, negative if they go against them.",
    "caused_by_link": "How much lower the dependence is if balanced data or class weights remove the link from "
    "training. High: the link is the cause of the dependence.",
    "cure": "How much lower the dependence is in this setup. High: it helps.",
    "accuracy": "Difference in accuracy on the same weighted rows. Below the threshold (negative): a loss that counts.",
    "languages": "Largest total variation of any language: the share of its predictions that would have to change to "
    "match those of all languages for the same labels, reduced by what chance explains.",
    "probe": "Difference in the accuracy of a linear classifier that identifies the language from the features. High: "
    "the features contain more information about the language, whether or not predictions use it.",
    "tokens": "Difference between sums of attributions over neutral tokens, which count neither for nor against a "
    "label in the reference model. High: they add to a label in languages where it is frequent.",
}
TOO_SMALL = (
    "Measured on a small encoder made from your texts. Before you decide, measure the model that you will use, with "
    "`--model NAME`."
)
TRAINED = {
    "natural": "trained on the data as they are",
    "balanced": "trained on data in which every language has all labels equally often",
    "imbalanced": "trained on data in which labels depend on language",
}
ANSWERS = (
    "An answer is yes if the 95% interval of its measure lies above the threshold (the smallest effect that counts), "
    "no if it lies below, and unclear otherwise. For single languages: yes if p is below 0.05, adjusted for their "
    "number, and the difference is above the threshold."
)


class Said(NamedTuple):
    """The answer to `QUESTION`: in a word, in a sentence with its numbers, and what it is a statement about."""

    answer: str
    sentence: str
    basis: str


def answer_of(results: Results) -> Said | None:
    """The answer of a run; None for results of an earlier version, which have none."""
    if "verdict" not in results:
        return None
    entries = first_entries(results)
    if (shortcut := entries.get("shortcut")) is None:
        words = "All models of this run were trained on balanced data: add a setup on skewed data to --setups."
        return Said("not measured", words, "")
    if "dependence" not in entries and "one language" in shortcut["detail"]:
        sentence = "The training data are in one language, so labels cannot depend on the language."
    elif "dependence" not in entries:
        sentence = _not_learned(results, shortcut["setup"])
    else:
        sentence = {"yes": _yes, "no": _no, "unclear": _unclear, "not measured": _not_measured}[shortcut["answer"]](
            results, entries
        )
    return Said(shortcut["answer"], sentence, _basis(results, shortcut))


def first_entries(results: Results) -> dict[str, Verdict]:
    """The first entry of the verdict of each name."""
    return {entry["name"]: entry for entry in reversed(results.get("verdict", []))}


def subject_of(results: Results) -> str | None:
    """The setup that the answer is about."""
    entry = first_entries(results).get("shortcut")
    return entry["setup"] if entry else None


def value_text(entry: Verdict) -> str:
    """The number that an answer rests on, with unit and interval."""
    form = "+z.3f" if entry["name"] in ("accuracy", "probe", "tokens") else "z.3f"
    number = entry["value"]
    if number is not None and entry["name"] in ("link", "dependence"):
        number = max(number, 0.0)  # as their intervals, which end there
    value, unit = interval_text(number, form=form), UNITS.get(entry["name"], "")
    ends = "" if entry["low"] is None else f" [{entry['low']:{form}}, {entry['high']:{form}}]"
    return "" if entry["value"] is None else f"{value}{unit}{ends}"


def facts_text(entry: Verdict) -> str:
    """An answer's number, interval, threshold, basis and detail."""
    facts = [value_text(entry)] if entry["value"] is not None else []
    if facts and entry["delta"]:
        facts.append(f"threshold: {entry['delta']:z.3g}")
    if entry["low"] is not None:
        facts.append(f"interval over {'test rows' if entry['basis'] == 'rows' else 'seeds'}")
        if entry["name"] == "link":
            facts[-1] = "interval over training rows"
        elif entry["name"] == "dependence" and entry["basis"] == "seeds":
            facts[-1] += ", computed on a log scale"  # the tables have that of the values
    if entry.get("languages"):
        facts.append(listed(map(shown, entry["languages"])))
    return "; ".join([*facts, *(text for text in (entry["detail"], entry.get("note")) if text)])


def recommendation_text(results: Results) -> str:
    """Which setup to use and why, or why none is recommended; empty if there is no choice."""
    if not (found := results.get("recommendation")):
        return ""
    if found["setup"] is None:
        return f"No recommendation: {found['reason']}."
    entries = (entry for entry in results.get("verdict", []) if entry["setup"] == found["setup"])
    fall = next((value_text(entry) for entry in entries if entry["name"] == "cure"), "")
    cause = first_entries(results).get("caused_by_link")
    known = cause and cause["answer"] == "yes" and cause["reference"] == found["setup"]  # from the answer
    fall = f" (decrease on test rows: {fall})" if fall and not known else ""
    doubts = _on_test_rows(results, found["setup"])
    return f"Use the setup '{found['setup']}': {found['reason']}{'' if doubts else fall}.{doubts}"


def _on_test_rows(results: Results, setup: str) -> str:
    """Where test rows, on which a setup was not chosen, do not confirm the reasons for it."""
    entries = [entry for entry in results.get("verdict", []) if entry["setup"] == setup]
    fall = next((entry for entry in entries if entry["name"] == "cure"), None)
    accuracy = next((entry for entry in entries if entry["name"] == "accuracy"), None)
    doubts = []
    if fall and fall["value"] is not None and (fall["low"] or 0.0) <= 0:
        doubts.append(f"a lower dependence is not confirmed (decrease {value_text(fall)})")
    if fall and accuracy and accuracy["answer"] == "no":
        doubts.append(f"accuracy is clearly lower ({value_text(accuracy)})")
    if not doubts:
        return ""
    more = "train several seeds (--seeds 5)" if len(results["seeds"]) < 5 else "use more test rows"
    return f" On test rows, however, {' and '.join(doubts)}: {more} before you decide."


def small_model_text(results: Results) -> str:
    """That a user's data were measured on a small encoder, where they were; else empty."""
    small = results["config"].get("model_name_or_path", "mini_bert") == "mini_bert"
    return TOO_SMALL if small and results["recipe"] == "custom" else ""


def moved_text(found: Moved) -> str:
    """What the first figure shows, for those who do not see it."""
    parts = []
    for i, language in enumerate(found.languages):
        true = found.true[i]
        shares = [f"{name} {of[i].predicted:.0%} (expected {of[i].expected:.0%})" for name, of in found.shares.items()]
        parts.append(f"{shown(language)}: {'' if true is None else f'true {true:.0%}, '}{', '.join(shares)}")
    return f"Share of {shown(found.label)} in each language, true and predicted. {'; '.join(parts)}."


def figure_text(results: Results) -> tuple[str, str]:
    """Caption of the first figure, and how to read it."""
    found = most_moved(results)
    if found is None:
        return "", ""
    hidden = f" {found.hidden:,} more languages are in the tables." if found.hidden else ""
    how = f"The longer a line, the larger this effect; pale: it may be due to chance.{hidden}"
    return f"\u201c{shown(found.label)}\u201d depends most on the language.", f"{how} {farthest_text(results)}"


def sure_text(results: Results) -> str:
    """What the intervals are over, and what that means."""
    said = answer_of(results)
    if said is None or not said.basis:
        return ""
    basis = said.basis
    if len(results["seeds"]) == 1 and results["recipe"] not in MEASURED_ONLY:
        basis += (
            " Models trained with other seeds may differ: --seeds 5 trains five per setup, with intervals over them."
        )
    elif results["recipe"] not in MEASURED_ONLY:
        basis += (
            " With five seeds or more, an answer is yes or no if the interval over seeds, or the interval over test "
            "rows of every seed, lies on one side of the threshold. With fewer seeds, only the latter is used."
        )
    return basis


def predicted_cells(results: Results) -> tuple[Cells, str]:
    """Predictions in each language, with a heading: their shares, or, of many languages, the largest differences."""
    setups = compared_setups(results)
    if len(tested_languages(results)) > MANY and setups and moves_of(results, setups[0]):
        heading = f"Differences between languages, {setups[0]}: predicted minus expected share in percentage points"
        return moved_cells(results, setups[0]), heading
    balanced = "balanced " if "test/balanced" in results["data"] else ""
    return predictions_cells(results), f"Predicted labels on the {balanced}test set, share in each language"


def price_cells(results: Results) -> Cells:
    """What each compared setup is worth: accuracy without the link, as collected, and in the worst language."""
    subject = first_entries(results).get("shortcut")
    names = [subject["setup"], *roles_of(results["setups"]).mitigations] if subject else []
    rows = []
    for name in dict.fromkeys(names):
        summary, (worst, accuracy) = results["setups"][name]["summary"], _worst(results, name)
        accuracies = [
            measure_text(results, name, f"targets.{target}.accuracy") for target in ("independent", "natural")
        ]
        if INDEPENDENT in summary:
            rows.append([name, *accuracies, f"{accuracy} ({language_text(results, worst)})"])
    natural = "as collected" if "test/natural" in results["data"] else "on the test set"
    return ["setup", "without the link", natural, "worst language"], rows


def setups_text(results: Results) -> str:
    """What the setups of `price_cells` are trained on."""
    said, before = [], ""
    for name in (row[0] for row in price_cells(results)[1] if results["recipe"] not in MEASURED_ONLY):
        setup = results["setups"][name]
        trained = "on the same data" if setup["plan"] == before else TRAINED.get(before := setup["plan"], before)
        said.append(f"{name}: {trained}{mitigation_text(setup)}")
    return f"{'; '.join(said)}." if said else ""


def accuracy_text(results: Results) -> str:
    """What the columns of `price_cells` are."""
    natural = " As collected: test rows as they are." if "test/natural" in results["data"] else ""
    return f"Without the link: test rows weighted so that labels do not depend on language.{natural}"


def _worst(results: Results, setup: str) -> tuple[str, str]:
    """The language with the lowest accuracy, of those with `FEW_ROWS` test rows or more or of all; and the accuracy."""
    models = [*results["setups"][setup]["seeds"].values()]
    rows = {name: sum(row) for name, row in zip(tested_languages(results), models[0]["test"]["predicted"], strict=True)}
    known = {name: _accuracy(results, setup, name) for name in models[0]["test"]["by_language"]}
    large = [name for name in known if rows.get(name, 0) >= FEW_ROWS]
    worst = min(large or known, key=lambda name: known[name])
    found = results["setups"][setup]["summary"].get(f"test.by_language.{worst}.accuracy")
    bounds = [(of["test"]["intervals"] or {"by_language": {}})["by_language"].get(worst, {}) for of in models]
    return worst, rows_or_seeds_text(found or interval([known[worst]]), [of.get("accuracy") for of in bounds])


def _accuracy(results: Results, setup: str, language: str) -> float:
    """Accuracy in a language, mean over seeds."""
    of = results["setups"][setup]
    one = next(iter(of["seeds"].values()))["test"]["by_language"][language]["accuracy"]
    found = of["summary"].get(f"test.by_language.{language}.accuracy")
    return found["mean"] if found else one


def _yes(results: Results, entries: Mapping[str, Verdict]) -> str:
    """It is a shortcut: how large, and by which direction or cause."""
    dependence, direction, cause = entries["dependence"], entries.get("follows_skew"), entries.get("caused_by_link")
    model = _model(dependence["setup"])
    text = (
        f"Labels depend on language in training ({interval_text(entries['link']['value'])} bits), and the predictions "
    )
    text += f"of {model} do so beyond chance ({value_text(dependence)}; 0: no dependence)"
    if direction and direction["answer"] == "yes":
        text += f" and follow the skew of the training labels (skew transfer {value_text(direction)}; 1: they copy it)"
    if cause and cause["answer"] == "yes":
        text += f". Once the link is removed from training ({cause['reference']}), the dependence falls by "
        text += value_text(cause)
    return f"{text}."


def _no(results: Results, entries: Mapping[str, Verdict]) -> str:
    """It is none: because there is no link, no dependence, or neither direction nor cause."""
    link, dependence = entries["link"], entries["dependence"]
    if link["answer"] == "no":
        text = f"Labels hardly depend on language in the training data ({value_text(link)}), "
        text += "so there is no shortcut to learn."
        return text + (f" {_read_less_well(results, entries)}" if dependence["answer"] == "yes" else "")
    if dependence["answer"] == "no":
        text = f"The predictions of {_model(dependence['setup'])} hardly depend on language beyond chance "
        text += f"({_compared(dependence)})."
        found = entries.get("languages", dependence).get("languages")
        return f"{text} They differ in these languages, though: {listed(map(shown, found))}." if found else text
    if dependence["answer"] == "yes":
        return _read_less_well(results, entries)
    return f"The predictions do not follow the skew of the training labels ({_direction(entries)})."


def _read_less_well(results: Results, entries: Mapping[str, Verdict]) -> str:
    """Dependence that is no shortcut, with the languages in which accuracy is lower."""
    dependence, setup = entries["dependence"], entries["dependence"]["setup"]
    overall = results["setups"][setup]["summary"]["test.accuracy"]["mean"]
    named = entries.get("languages", dependence).get("languages", [])
    known = {name: _accuracy(results, setup, name) for name in named}
    weak = sorted((name for name in known if known[name] < overall), key=lambda name: known[name])
    text = f"Predictions differ between languages ({value_text(dependence)})"
    if entries.get("follows_skew", dependence)["answer"] == "no":
        text += ", but not in the direction of the training labels"
    if weak:
        tokens = results.get("tokens", {})
        unknown = {name: f", {tokens[name]['unknown_share']:.0%} unknown tokens" for name in weak if name in tokens}
        said = [
            f"{language_text(results, name)} (accuracy {interval_text(known[name])}{unknown.get(name, '')})"
            for name in weak
        ]
        return f"{text}: accuracy is lower in some languages: {listed(said)}."
    return f"{text}: the model makes different errors in different languages."


def _unclear(results: Results, entries: Mapping[str, Verdict]) -> str:
    """Which part of the answer is missing, and why."""
    dependence = entries["dependence"]
    model = _model(dependence["setup"])
    if entries["link"]["answer"] == "unclear":
        words = "It is unclear whether labels depend on language in the training data"
        return f"{words}: {_compared(entries['link'])}. More training rows would tell."
    if dependence["answer"] == "unclear":
        words = f"It is unclear whether the predictions of {model} depend on language: {_compared(dependence)}."
        return f"{words} More test rows, or --seeds 5, would narrow the interval."
    text = f"The predictions of {model} depend on language ({value_text(dependence)}), but it is unclear whether "
    return f"{text}they follow the skew of the training labels: {_direction(entries)}."


def _direction(entries: Mapping[str, Verdict]) -> str:
    """What is known of direction and cause."""
    direction, cause, parts = entries.get("follows_skew"), entries.get("caused_by_link"), []
    if direction and direction["value"] is not None:
        parts.append(f"skew transfer {_compared(direction)}")
        if direction["answer"] == "unclear" and (direction["low"] or 0) > (direction["delta"] or 0):
            parts[-1] += ", but its direction may be due to chance"
    if cause and cause["value"] is not None:
        parts.append(f"decrease of the dependence if the link is removed from training {_compared(cause)}")
    return "; ".join(parts) or "skew transfer was not measured, and no model was trained without the link"


def _compared(entry: Verdict) -> str:
    """The number of an answer next to the threshold, and how the models differ where they do."""
    detail = f" ({entry['detail']})" if entry["detail"] else ""
    return f"{value_text(entry)}, threshold {entry['delta']:g}{detail}"


def _not_measured(results: Results, entries: Mapping[str, Verdict]) -> str:
    """What is missing for an answer, and what is known without it."""
    dependence = entries["dependence"]
    if entries["link"]["answer"] != "not measured":
        return "The test set is not sufficient: it needs rows in at least two languages and of at least two labels."
    trained = any(name.startswith("train/") for name in results["data"])
    text = f"The training data {'have only one language or one label' if trained else 'of the model are not known'}."
    if dependence["value"] is None:
        return text
    verb = {"yes": "depend", "no": "hardly depend"}.get(dependence["answer"], "may depend")
    return f"{text} The predictions of the model {verb} on language ({value_text(dependence)} beyond chance)."


def _not_learned(results: Results, setup: str) -> str:
    """That a model is not better than a constant answer."""
    summary, accuracy = results["setups"][setup]["summary"], measure_text(results, setup, INDEPENDENT)
    majority = interval_text(summary.get("targets.independent.majority_accuracy", {"mean": None})["mean"])
    means = [summary[f"targets.independent.{key}"]["mean"] for key in ("accuracy", "majority_accuracy")]
    if means[0] > means[1]:
        rows = next(iter(results["setups"][setup]["seeds"].values()))["test"]["rows"]
        return (
            f"{rows:,} test rows are too few to tell whether {_model(setup)} has learned the task: its accuracy, "
            f"{accuracy}, may be that of always predicting the most frequent label, {majority}."
        )
    return (
        f"T{_model(setup)[1:]} has not learned the task: its accuracy, {accuracy}, is not above that of always "
        f"predicting the most frequent label, {majority}."
    )


def _basis(results: Results, shortcut: Verdict) -> str:
    """What the answer is a statement about."""
    if shortcut["basis"] == "seeds":
        return "Intervals over the seeds of the run: the answer applies to new training runs on such data."
    one = len(results["setups"][shortcut["setup"]]["seeds"]) == 1
    which = "this model" if shortcut["reference"] is None else "these two models" if one else "these models"
    basis = "One seed" if one else "Intervals over test rows"
    return f"{basis}: the answer applies to {which}, on rows like the test rows."


def _model(setup: str) -> str:
    """A setup in a sentence."""
    return "the model" if setup == "model" else f"the {setup} model"
