"""Model cards: kept ones are rendered again byte for byte, and print no number that results.json does not have."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import hf_langimb
from hf_langimb.cloned.results import is_cloned
from hf_langimb.kept.readme import write_cards
from hf_langimb.results.card_update import refresh_card
from hf_langimb.results.cards import DEFAULTS, render_attributions_card, render_base_card, render_card
from hf_langimb.results.schema import read_results
from hf_langimb.runs.recipe import RecipeArguments

KEPT = Path(hf_langimb.__file__).parents[1] / "model_cards"
RUNS = [path.parent.relative_to(KEPT) for path in sorted(KEPT.rglob("results.json"))]
CONSTANTS = {"95", "99"}  # levels of the intervals


@pytest.fixture
def results():
    return read_results(KEPT / "xnli-mini")


class Float(float):
    """A number of results.json; what is computed from it is none."""

    def __format__(self, form):
        return f"<{float.__format__(self, form)}>"


class Int(int):
    def __format__(self, form):
        return f"<{int.__format__(self, form)}>"


def marked(results):
    """The same results, whose numbers are printed between < and >."""
    text = json.dumps(results)
    marking = json.loads(text, parse_float=Float, parse_int=Int)
    for name in ("schema_version", "seeds", "config"):
        marking[name] = json.loads(text)[name]
    return marking


def computed(card):
    """The numbers of a card that stand in no JSON; its metadata, citation, command and code are left out."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->", " ", card.partition("\n---\n")[2], flags=re.DOTALL)
    assert len(re.findall(r"<[-+\d.,]+>", text)) > 10
    words = r"0: no dependence|1: they copy it|at most [\d.]+ below|in \d+ of \d+ cells|interval is above 0"
    words += r"|[\d,]+ validation rows are too few|--seeds 5|p is below 0.05|of \d+ models, [^)]*|<summary>[\d,]+ rows"
    text = re.sub(rf"<[-+\d.,]+>|seed \d+|macro F1|{words}", " ", text)
    return [number for number in re.findall(r"\d[\d.,]*", text) if number not in CONSTANTS]


def drawn(svg):
    """The outline of a figure and its numbers, whose last digits (and names made from them) differ between machines."""
    text = re.sub(r"\b[mp][0-9a-f]{10}\b", "name", svg.decode())
    return re.sub(r"-?\d+\.\d+", "number", text), [float(value) for value in re.findall(r"-?\d+\.\d+", text)]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_kept_cards_and_figures_are_those_of_their_results_and_print_no_other_numbers(run, tmp_path):
    kept = [*(KEPT / run).glob("*.md"), *(KEPT / run).glob("figures/*"), KEPT / run / "results.json"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_bytes((KEPT / run / "results.json").read_bytes())
    write_cards(tmp_path)
    made = {path.relative_to(tmp_path / "run"): path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    assert made.keys() == {path.relative_to(KEPT / run) for path in kept}  # not of folders below it
    for path, content in made.items():
        wanted = (KEPT / run / path).read_bytes()
        if path.suffix != ".svg":
            assert wanted == content, f"{run / path}: make readme"
            continue
        (outline, numbers), (expected, values) = drawn(content), drawn(wanted)
        assert outline == expected, f"{run / path}: make readme"
        np.testing.assert_allclose(numbers, values, atol=0.01)
    if is_cloned(KEPT / run):
        return
    results = marked(read_results(KEPT / run))
    for setup in results["setups"]:
        assert not computed(render_card(results, setup))
    summary = results["setups"][setup]["summary"]["test.accuracy"]
    summary["mean"] = summary["mean"] + 0.001
    assert computed(render_card(results, setup)), "a sum of two numbers stands nowhere"


def test_what_the_hub_s_search_reads(results):
    card = render_card(results, "weighted", repo_id="ann/xnli-weighted", attributions="ann/xnli-attributions")
    data = ModelCard(card).data
    assert (data.language, data.license, data.pipeline_tag) == (["en", "fr"], "apache-2.0", "text-classification")
    assert {"hf_langimb", "multilingual"} <= set(data.tags) and data.library_name == "transformers"
    accuracy = {r.dataset_config: r.metric_value for r in data.eval_results if r.metric_type == "accuracy"}
    measured = results["setups"]["weighted"]["seeds"]["0"]["test"]["by_language"]
    assert accuracy == {language: values["accuracy"] for language, values in measured.items()}
    assert data.model_name == "xnli-weighted"
    assert 'model="ann/xnli-weighted"' in card and "datasets/ann/xnli-attributions" in card
    adapter = copy.deepcopy(results)
    adapter["setups"]["weighted"]["lora_rank"] = 8
    card = render_card(adapter, "weighted", repo_id="ann/x", base_model="ann/x-base")
    data = ModelCard(card).data
    assert (data.library_name, data.base_model) == ("peft", "ann/x-base") and "lora" in data.tags
    assert "AutoPeftModelForSequenceClassification.from_pretrained" in card


def test_what_a_card_must_say(results):
    card = render_card(results, "weighted")
    for part in (
        "## Labels in each language", "Class weights, `per_language`", "## Results", "*Reliance*", "shuffled [99%]",
        "figures/attributions-unbiased-entailment.svg", "## Intended use", "## When this does not help",
        "accelerate launch recipes/xnli.py --config mini", "@inproceedings",
    ):  # fmt: skip
        assert part in card, part
    assert "**without mitigation**" in render_card(results, "imbalanced") and "**without" not in card
    single = copy.deepcopy(results)
    single["seeds"] = [0]
    assert "A single seed, therefore no intervals over seeds." in render_card(single, "weighted")
    bare = results | {"attributions": None}
    assert "What tokens add" not in render_card(bare, "weighted")


def test_defaults_of_recipes_unknown_setups_and_seeds_and_the_other_cards(results):
    assert {name: getattr(RecipeArguments(), name) for name in DEFAULTS} == DEFAULTS
    with pytest.raises(ValueError, match=r"no setup 'best': choose one of balanced"):
        render_card(results, "best")
    with pytest.raises(ValueError, match=r"Setup weighted has no seed 7: choose one of 0, 1, 2, 3, 4"):
        render_card(results, "weighted", seed=7)
    card = render_attributions_card(results, ["balanced", "weighted"], 0, "ann/x-attributions")
    names = [entry["config_name"] for entry in ModelCard(card).data.configs]
    assert names == ["balanced-tokens", "balanced-examples", "weighted-tokens", "weighted-examples"]
    assert "ann/x-attributions" in card
    assert "adapters of that run need it" in render_base_card(results, "ann/x-base")


def evaluated():
    """Results of recipes/evaluate.py, made from kept ones."""
    results = read_results(KEPT / "xnli-mini")
    setup = results["setups"]["weighted"]
    tokens = {"threshold": 0.01, "language": "fr", "label": "neutral", "examples": 6}
    tokens |= {"positive": 0.2, "neutral": 0.01, "negative": -0.1}
    tokens["token_shares"] = {"positive": 0.3, "neutral": 0.5, "negative": 0.2}
    return results | {
        "config": {"dataset": "ann/data", "split": "test"},
        "setups": {"model": setup},
        "explained": {"examples": 6, "truncated_share": 0.0, "base_values": {}, "tokens": [tokens]},
    }


STRANGER = """---
license: mit
custom: kept
model-index:
- name: theirs
  results:
  - task: {type: text-classification}
    dataset: {name: Theirs, type: theirs}
    metrics: [{type: accuracy, value: 0.5}]
---

# Their model

Their words.
"""


def test_an_evaluation_joins_the_card_of_others():
    card = refresh_card(STRANGER, evaluated(), "ben/model")
    assert "# Their model\n\nTheir words.\n" in card and card.count("## Evaluation by language: ann/data") == 1
    data = ModelCard(card).data
    assert (data.license, data.custom, data.model_name) == ("mit", "kept", "theirs")
    assert {(r.dataset_type, r.metric_type) for r in data.eval_results} == {
        ("theirs", "accuracy"), ("ann/data", "accuracy"), ("ann/data", "f1"),
    }  # fmt: skip
    assert refresh_card(card, evaluated(), "ben/model") == card, "again changes nothing"
    odd = STRANGER.replace("license: mit", "license: mit  # theirs\nlanguage: no").replace("\n", "\r\n")
    kept = refresh_card(odd, evaluated(), "ben/model")
    assert "license: mit  # theirs\r\nlanguage: no\r\n" in kept and "\n" not in kept.replace("\r\n", "")
    for broken in ("model-index: theirs", "model-index:\n- no: results", "a: [b"):
        text = f"---\n{broken}\n---\nTheir words.\n"
        assert refresh_card(text, evaluated(), "ben/model").startswith(text)
    other = evaluated()
    other["config"]["dataset"] = "ann/more"
    assert refresh_card(card, other, "ben/model").count("## Evaluation by language") == 2
    section = refresh_card(STRANGER, marked(evaluated()), "ben/model").partition("## Evaluation")[2]
    assert not computed(f"---\n\n---\n{section}")
    assert "## Evaluation by language" in refresh_card("", evaluated(), "ben/model")


def test_the_metadata_and_words_of_others_are_never_lost():
    for card in (
        "\n---\nlicense: mit\n---\n# Theirs\n",
        "  --- \nlicense: mit\n---\n# Theirs\n",
        "\ufeff---\rlicense: mit\r---\r# Theirs\r",
        "---\n{license: mit}\n---\n# Theirs\n",
        "---\nlicense: mit\nmodel-index: &a\n- name: x\n  results: []\nmore: *a\n---\n# Theirs\n",
    ):
        made = refresh_card(card, evaluated(), "ben/model")
        assert ModelCard(made).data.license == "mit" and made.count("license: mit") == 1
        assert "# Theirs\n" in made and "## Evaluation by language" in made
        assert refresh_card(made, evaluated(), "ben/model") == made
    card = refresh_card(STRANGER, evaluated(), "ben/model")  # which loses the end of its section
    made = refresh_card(card.replace("<!-- /hf_langimb evaluation -->", "Words of theirs."), evaluated(), "ben/model")
    assert "Words of theirs." in made
    assert refresh_card(made, evaluated(), "ben/model") == made


def test_no_name_writes_markdown_or_leaves_its_cell_of_a_table(results):
    text = json.dumps(results).replace('"contradiction"', json.dumps("a\n\n# Heading\n<!-- [x](y)"))
    card = render_card(json.loads(text), "weighted")
    prose = re.sub(r"```.*?```", "", card.partition("\n---\n")[2], flags=re.DOTALL)
    assert "# Heading" not in re.findall(r"^# .*", prose, re.MULTILINE) and not re.search(r"(?<!\\)<!--", prose)
    assert r"\[x\](y)" in prose.partition("##")[0]
    text = json.dumps(results).replace('"fr"', '"f|r"')
    lines = [line for line in render_card(json.loads(text), "weighted").splitlines() if line.startswith("|")]
    assert [line for line in lines if "f\\|r" in line] and not [line for line in lines if re.search(r"f\|r", line)]


def test_only_data_sets_and_models_of_the_hub_are_in_its_search(results):
    config, bert = results["config"], "bert-base-multilingual-cased"
    names = {"facebook/xnli": ["facebook/xnli"], "data/mine.csv": None, "./xnli": None}
    for config["dataset_name"], known in names.items():
        assert ModelCard(render_card(results, "weighted")).data.datasets == known
    models = {bert: bert, "ann/bert": "ann/bert", "my-model": None, "./a/b": None}
    for config["model_name_or_path"], known in models.items():
        assert ModelCard(render_card(results, "weighted")).data.base_model == known


def test_the_code_of_a_card_loads_the_branch_and_adapters_as_such(results):
    code = render_card(results, "weighted", repo_id="ann/x", revision="v1")
    assert 'model="ann/x", revision="v1")' in code and '`hf_langimb.load_run("ann/x", revision="v1")`' in code
    card = render_card(read_results(KEPT / "xnli-mini" / "lora"), "weighted_lora", repo_id="ann/x")
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert 'id2label = {0: "entailment", 1: "neutral", 2: "contradiction"}' in code and "num_labels=3" in code
    compile(code, "card", "exec")
