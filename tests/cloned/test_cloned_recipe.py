"""The recipe of cloned languages: from its YAML to results, continued, with ordinary texts, and refused."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import unknown_keys
from transformers import AutoTokenizer, Trainer

from hf_langimb.cloned import comparisons as derived
from hf_langimb.cloned import results as made
from hf_langimb.cloned.alignment import embedding_alignment, gradient_alignment, hidden_alignment
from hf_langimb.cloned.arguments import parse_cloned
from hf_langimb.cloned.decoder import make_decoder
from hf_langimb.cloned.experiment import _train_one, described, run
from hf_langimb.cloned.page import write_page
from hf_langimb.cloned.perplexity import perplexity
from hf_langimb.cloned.publish import render_card
from hf_langimb.cloned.show import alignment_cells, efficiency_cells, seen_text, text_of
from hf_langimb.cloned.texts import texts_of
from hf_langimb.cloned.training import _check_started, measures, train, untrained_decoder
from hf_langimb.cloned.vocabulary import CloneMap, Vocabulary
from hf_langimb.cloned.windows import TrainingWindows
from hf_langimb.files import record
from hf_langimb.models.counted_tokenizer import make_tokenizer
from hf_langimb.runs.checkpoints import _Checkpoints

RECIPES = Path(__file__).parents[2] / "recipes" / "cloned_languages"
STEPS = 20
SETTINGS = {
    "dataset_name": "markov",
    "context": 16,
    "stride": 8,
    "test_tokens": 200,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "learning_rate": 0.01,
    "max_steps": STEPS,
    "per_device_train_batch_size": 10,
    "warmup_steps": 2,
    "report_to": "none",
    "use_cpu": True,
    "main": ["imbalanced", "fewer_rows"],
    "setups": {
        "imbalanced": {"schedule": "0.1", "learning_rate": 0.02},
        "fewer_rows": {"schedule": "0", "languages": 1, "per_device_train_batch_size": 1},
        "shuffled": {"schedule": "0.1", "relation": "shuffled"},
        "monolingual": {"schedule": "0", "languages": 1},
    },
}
TEXTS = {"en": "the cat saw a dog and the dog saw the cat", "fr": "le chat a vu un chien et le chien a vu le chat"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Function (*argv, **changed settings): the parsed recipe."""
    folder = tmp_path_factory.mktemp("recipe")

    def parse(*argv, **settings):
        (folder / "mini.yaml").write_text(yaml.safe_dump(SETTINGS | settings))
        return parse_cloned("cloned_languages", folder, [*map(str, argv)])

    return parse


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory):
    """A run of the two main setups: folder and results."""
    return run(recipe("--output_dir", tmp_path_factory.mktemp("run")))


def test_results_have_every_setup_with_its_tokens_and_perplexities(two):
    folder, results = two
    assert made.read_cloned(folder) == results
    assert [*results["setups"]] == ["imbalanced", "fewer_rows"]
    model = results["setups"]["imbalanced"]["seeds"]["0"]
    assert sum(model["tokens"]) == STEPS * 10 * 16
    assert model["tokens"][1] / sum(model["tokens"]) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 200))
    assert all(1 < value < 66 * 2 for value in model["perplexity"])
    assert [entry["step"] for entry in model["history"]] == [*range(2, STEPS + 1, 2)]
    last = {"perplexity_0": model["perplexity"][0], "tokens_1": model["tokens"][1]}
    logged = {"perplexity_1", "cosine_layer_1", "cosine_gradient_chance", "cosine_embedding"}
    assert logged <= model["history"][-1].keys()
    assert {key: model["history"][-1][key] for key in last} == pytest.approx(last, rel=1e-3)
    (compared,) = results["comparisons"]
    assert (compared["setup"], compared["language"], compared["reference"]) == ("imbalanced", 1, "fewer_rows")
    alone = results["setups"]["fewer_rows"]["seeds"]["0"]["perplexity"][0]
    assert compared["difference"]["mean"] == pytest.approx(math.log(model["perplexity"][1] / alone))


def test_a_saved_model_is_plain_gpt2_with_the_perplexity_of_its_results(two, recipe):
    from transformers import AutoModelForCausalLM

    folder, results = two
    place = folder / "imbalanced" / "seed-0"
    model, vocabulary = AutoModelForCausalLM.from_pretrained(place), Vocabulary.load(place)
    parsed = recipe()
    test = texts_of(parsed.data).of(parsed.setups["imbalanced"].of, 1, 0).test[1]
    found = perplexity(model, vocabulary.encode(test, 1), window=16, stride=8)
    assert found == pytest.approx(results["setups"]["imbalanced"]["seeds"]["0"]["perplexity"][1], rel=1e-5)


def test_the_training_arguments_are_those_of_the_paper(recipe):
    parsed = recipe("--max_steps", 1000, "--warmup_steps", 200)
    (of, _) = parsed.setups.values()
    model = torch.nn.Linear(1, 1)
    trainer = Trainer(model, of.training)
    trainer.create_optimizer_and_scheduler(1000)
    (group,) = trainer.optimizer.param_groups[:1]
    assert (group["betas"], group["weight_decay"], of.training.max_grad_norm) == ((0.9, 0.95), 0, 0)
    rates = []
    for _ in range(1000):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
    expected = {99: 0.5, 199: 1, 599: 0.01 + 0.99 / 2, 999: 0.01}
    assert {step: rates[step] / 0.02 for step in expected} == pytest.approx(expected)


def test_all_adds_setups_and_keeps_what_is_trained(two, recipe):
    folder, results = two
    weights = folder / "imbalanced" / "seed-0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    _, more = run(recipe("--output_dir", folder, "--all"))
    assert weights.stat().st_mtime_ns == before
    assert more["setups"]["imbalanced"] == results["setups"]["imbalanced"]
    assert {one["reference"] for one in more["comparisons"]} == {"fewer_rows", "shuffled", "monolingual"}
    majority = [one for one in more["comparisons"] if one["reference"] == "monolingual"]
    assert [one["language"] for one in majority] == [0]
    shown = text_of(more, folder, write_page(folder))
    assert shown.startswith("Does the majority help the minority beyond equal steps? UNCLEAR, ONE SEED")
    assert "--seeds 3" in shown
    assert not [*unknown_keys(more, made.ClonedResults)]


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_the_screen_and_fetches_nothing(two, browser, width):
    path = write_page(two[0])
    page = browser.new_page(viewport={"width": width, "height": 800})
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert requests == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("heading", name=made.QUESTION).is_visible()
    setups = made.read_cloned(two[0])["setups"]  # also of `--all`, if that ran before
    assert page.get_by_role("img").count() == 3 + bool(derived.by_tokens(setups))
    page.close()


def test_another_configuration_is_refused(two, recipe):
    with pytest.raises(ValueError, match=r"another configuration.*width was 16, is 32"):
        run(recipe("--output_dir", two[0], "--width", "32"))


def test_a_run_is_not_continued_on_other_texts_or_with_another_vocabulary(files, recipe, tmp_path):
    settings = {"dataset_name": str(tmp_path / "texts.txt"), "vocabulary_size": 40, "main": [], "max_steps": 2}
    settings["setups"] = {"even": {"schedule": "0.5"}}
    (tmp_path / "texts.txt").write_text((files / "en.txt").read_text())
    parsed = recipe("--output_dir", tmp_path / "run", **settings)
    run(parsed)
    (tmp_path / "texts.txt").write_text((files / "fr.txt").read_text())
    with pytest.raises(ValueError, match=r"another configuration .texts was"):
        run(parsed)
    place = tmp_path / "run" / "even" / "seed-0"
    (place / "checksums.json").unlink()  # as if its training had not ended
    with pytest.raises(
        ValueError, match=r"has a model of \d+ ids in 2 language\(s\), 1 of them shared, the setup has 33 ids in 1"
    ):
        _check_started(place, CloneMap(33, 1))


def test_a_model_of_another_vocabulary_is_not_measured(recipe):
    parsed = recipe()
    texts = texts_of(parsed.data).of(parsed.setups["imbalanced"].of, 1, 0)
    small = make_decoder(33, context=16, layers=1, width=16, heads=2)
    with pytest.raises(ValueError, match=r"The model has 33 ids, its vocabulary 66 \(2 languages\)"):
        measures(small, parsed.data, texts, aligned=True, seed=0)
    versions = np.zeros((2, 8), dtype=np.int64)
    for measured in (hidden_alignment, gradient_alignment, lambda model, of, _: embedding_alignment(model, of)):
        with pytest.raises(ValueError, match="The model has 33 ids"):
            measured(small, texts.vocabulary, versions)
    with pytest.raises(ValueError, match="at least two texts, got 1"):
        hidden_alignment(make_decoder(66, context=16, layers=1, width=16, heads=2), texts.vocabulary, versions[:1])


def test_efficiencies_out_of_the_range_are_marked():
    """Perplexities between, above and below those of the monolingual models, and one that the law never reaches."""
    law = (0.04, 0.2, 0.25)

    def of(perplexity, languages=2, steps=100):
        model = {"perplexity": [perplexity] * languages, "tokens": [1000 * steps] * languages}
        setup = {"schedule": "0.5" if languages > 1 else "0", "languages": languages, "relation": "clones"}
        return setup | {"steps": steps, "rows": 1, "learning_rate": 0.1, "fraction_cloned": 1.0, "seeds": {"0": model}}

    curve = {"setups": ["a", "b"], "tokens": [1e4, 1e5], "perplexity": [9.0, 5.0], "law": law, "residuals": None}
    setups = {"inside": of(7.0), "above": of(20.0), "below": of(4.5), "unreached": of(3.9)}
    found = {one["setup"]: one for one in derived._efficiencies(setups, {"first": curve, "second": None})}
    assert not found["inside"]["extrapolated"] and found["inside"]["interpolated"] > 0
    for name in ("above", "below", "unreached"):
        assert found[name]["extrapolated"] and found[name]["interpolated"] is None
    assert found["unreached"]["law"] is None, "c - 1 / PPL is below 0"
    results = {"setups": setups, "curves": {"first": curve, "second": None}, "comparisons": []}
    cells = {row[0]: row for row in efficiency_cells(results | {"efficiency": [*found.values()]})[1]}
    assert cells["above"][2] == "out of range" and cells["above"][3].endswith("(extrapolated)")
    assert cells["unreached"][3] == "undefined" and "extrapolated" not in cells["inside"][3]


def test_a_setup_with_the_rate_of_all_is_compared_with_such_controls(recipe, tmp_path):
    names = ["imbalanced", "imbalanced_one_rate", "fewer_rows", "shuffled"]
    parsed = recipe("--output_dir", tmp_path, "--setups", *names, "--max_steps", "20")
    rates = [setup.training.learning_rate for setup in parsed.setups.values()]
    assert rates == [0.02, 0.01, 0.01, 0.01]
    setups = {name: made_setup(parsed.setups[name]) for name in names}
    pairs = [(one["setup"], one["reference"]) for one in derived.compare(setups)]
    controls = ["fewer_rows", "shuffled"]
    assert pairs == [(setup, control) for setup in names[:2] for control in controls]


def test_token_efficiency_stands_next_to_each_kind_of_control():
    """Two seeds have no interval yet, three have; of two controls of a kind, the one that is better at the language."""
    size = {"steps": 100, "rows": 10, "learning_rate": 0.1, "fraction_cloned": 1.0, "relation": "clones"}
    setups = {"rare": size | {"schedule": "0.1", "languages": 2}}
    for name, relation in (("foreign", "unrelated"), ("mixed", "shuffled")):
        setups[name] = setups["rare"] | {"relation": relation}
    alone = size | {"schedule": "0", "languages": 1}
    setups |= {"whole": alone, "short": alone | {"steps": 10}, "narrow": alone | {"rows": 1}}
    setups |= {"shorter": setups["short"] | {"steps": 9}}
    logs = {"rare": 1.0, "foreign": 1.1, "mixed": 1.4, "whole": 0.5, "short": 1.3, "shorter": 1.25, "narrow": 1.2}
    for seeds, ends in ((2, ""), (3, " ± 0.000")):
        for name, of in setups.items():
            tokens = {"whole": [1000], "shorter": [95]}.get(name, [900, 100] if of["languages"] > 1 else [100])
            model = {"perplexity": [math.exp(logs[name])] * of["languages"], "tokens": tokens}
            of["seeds"] = {str(seed): model for seed in range(seeds)}
        curves = {"first": {"law": None, "setups": [], "perplexity": [1, 9]}}
        efficiency = [{"setup": "rare", "language": 1, "interpolated": 1.5, "law": None, "extrapolated": False}]
        results = {"setups": setups, "comparisons": [*derived.compare(setups)], "curves": curves}
        header, (row,) = efficiency_cells(results | {"efficiency": efficiency})
        found = dict(zip(header, row, strict=True))
        wanted = {"fewer steps": -0.25, "smaller batches": -0.2, "unrelated": -0.1, "shuffled": -0.4}
        assert {kind: found[kind] for kind in wanted} == {kind: f"{of:+.3f}{ends}" for kind, of in wanted.items()}


def test_alignment_is_shown_above_its_chance_level(two):
    """That of CKA is the model before training, which is the one that a training begins with."""
    _, results = two
    header, rows = alignment_cells(results)
    found = results["setups"]["imbalanced"]["seeds"]["0"]["alignment"]
    shown = {row[1]: [float(cell) for cell in row[2:]] for row in rows}
    assert header[2:] == ["value", "chance level", "difference"] and len(rows) == 5
    hidden = found["hidden"][0]
    pairs = {"states after block 1 of 1, cosine": (hidden["cosine"], hidden["cosine_chance"])}
    pairs |= {"states after block 1 of 1, CKA": (hidden["cka"], found["untrained"][0]["cka"])}
    pairs |= {"gradients, cosine": (found["gradient"]["cosine"], found["gradient"]["cosine_chance"])}
    for name, (value, level) in pairs.items():
        assert shown[name] == pytest.approx([value, level, value - level], abs=6e-4), name


def made_setup(setup):
    """A setup's entry in results.json, with one invented model."""
    found, languages = described(setup), setup.of.languages
    tokens = [1800, 200][-languages:]
    found["seeds"]["0"] = {"perplexity": [5.0] * languages, "tokens": tokens}
    return found


@pytest.mark.parametrize(
    ("means", "width", "seeds", "expected"),
    [
        ([-0.2, -0.1], 0.05, 3, "yes"),
        ([-0.2, -0.05], 0.05, 3, "unclear"),
        ([-0.2, 0.1], 0.05, 3, "no"),
        ([-0.2, -0.1], 0.05, 2, "unclear, two seeds"),
        ([-0.2, -0.1], None, 1, "unclear, one seed"),
    ],
)
def test_the_answer_is_that_of_the_best_control(means, width, seeds, expected):
    """At 5% of ln PPL, the interval of the smallest difference decides, not that of the largest."""
    compared = []
    for i, mean in enumerate(means):
        low, high = (None, None) if width is None else (mean - width, mean + width)
        difference = {"mean": mean, "low": low, "high": high, "n": seeds}
        compared.append({"setup": "imbalanced", "language": 1, "reference": f"control_{i}", "difference": difference})
    alone = {"schedule": "0", "steps": 1, "languages": 1, "relation": "clones", "learning_rate": 0.01}
    setups = {"imbalanced": alone | {"schedule": "0.1", "languages": 2, "learning_rate": 0.02}}
    setups |= {"control_0": alone, "control_1": alone, "even": alone | {"schedule": "0.5", "languages": 2}}
    even = compared[0] | {"reference": "even", "difference": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}}
    (answer,) = derived.answers([*compared, even], setups)  # an even control is helped too: it decides nothing
    assert (answer["answer"], answer["reference"]) == (expected, "control_1")
    assert "each at the learning rate of its setup" in answer["text"]
    assert "Best monolingual" not in answer["text"]
    setups["control_1"] = alone | {"schedule": "0.1", "languages": 2, "relation": "unrelated"}
    (answer,) = derived.answers(compared, setups)
    assert answer["text"].endswith(
        f"Best monolingual control, 'control_0': {derived.difference_text(compared[0]['difference'])}."
    )
    setups["imbalanced"]["learning_rate"] = 0.01
    (answer,) = derived.answers(compared, setups)
    assert answer["answer"] == ("unclear, one learning rate" if expected == "yes" else expected)
    assert "all at the learning rate 0.01" in answer["text"]
    setups["imbalanced"] |= {"learning_rate": 0.02, "steps": 2}  # of which no monolingual control has as many
    (answer,) = derived.answers(compared, setups)
    assert answer["answer"] == ("unclear, no control in equal steps" if expected == "yes" else expected)


def test_imbalanced_setups_are_compared_with_even_ones_of_as_many_tokens(recipe):
    setups = {
        "imbalanced": {"schedule": "0.1"},
        "half": {"schedule": "0.5"},
        "ten": {"schedule": "0.9", "languages": 10},
        "stages": {"schedule": "0.1_0.9"},
    }
    parsed = recipe(main=[], setups=setups)
    made_setups = {name: described(setup) for name, setup in parsed.setups.items()}
    tokens = {"imbalanced": [1800, 200], "half": [1000, 1000], "ten": [200] * 10, "stages": [1010, 990]}
    for name, counts in tokens.items():
        made_setups[name]["seeds"]["0"] = {"perplexity": [5.0] * len(counts), "tokens": counts}
    found = {(one["setup"], one["language"], one["reference"]) for one in derived.compare(made_setups)}
    assert found == {("imbalanced", 1, "ten"), ("stages", 0, "half"), ("stages", 1, "half")}


def test_perplexity_by_tokens_separates_a_clone_fewer_steps_and_smaller_batches(recipe):
    setups = {
        "rare": {"schedule": "0.1"},
        "ten": {"schedule": "0.9", "languages": 10},
        "stages": {"schedule": "0.1_0.9"},
        "whole": {"schedule": "0", "languages": 1},
        "short": {"schedule": "0", "languages": 1, "max_steps": 2},
        "narrow": {"schedule": "0", "languages": 1, "per_device_train_batch_size": 1},
        "narrow_one_rate": {"schedule": "0", "languages": 1, "per_device_train_batch_size": 1},
    }
    parsed = recipe(main=[], setups=setups)
    made_setups = {name: described(setup) for name, setup in parsed.setups.items()}
    perplexities = {"rare": [4, 5], "ten": [6] * 10, "stages": [4, 4], "whole": [3], "short": [7], "narrow": [8]}
    tokens = {"rare": [180, 20], "whole": [200], "short": [40], "narrow": [100]}
    for name, of in made_setups.items():
        values = perplexities.get(name, [9])
        of["seeds"]["0"] = {"perplexity": values, "tokens": tokens.get(name, [20] * len(values))}
    found = {
        name: sorted((x, round(y, 9)) for x, y in points) for name, points in derived.by_tokens(made_setups).items()
    }
    assert found == {
        "with a clone": [(0.1, 5), (0.9, 4)],
        "alone, fewer steps": [(0.2, 7), (1, 3)],
        "alone, smaller batches": [(0.5, 8), (1, 3)],
    }
    assert not derived.by_tokens({name: made_setups[name] for name in ("rare", "whole")})


def test_intervals_are_of_differences_paired_by_seed():
    model = {"schedule": "0.1", "languages": 2, "relation": "clones", "steps": 1, "rows": 1, "learning_rate": 1}
    alone = model | {"languages": 1, "schedule": "0", "rows": 2}
    logs, others = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.2, 3.0])
    model["seeds"] = {str(i): {"perplexity": [1, math.exp(x)], "tokens": [9, 1]} for i, x in enumerate(logs)}
    alone["seeds"] = {str(i): {"perplexity": [math.exp(x)], "tokens": [1]} for i, x in enumerate(others)}
    (found,) = derived.compare({"a": model, "b": alone})
    assert (found["tokens"], found["difference"]["mean"]) == (1, pytest.approx(-0.1))
    half = 4.302652730 * 0.1 / math.sqrt(3)  # t quantile of two degrees of freedom
    bounds = found["difference"]["low"], found["difference"]["high"]
    assert bounds == pytest.approx((-0.1 - half, -0.1 + half))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A text file of each language."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for language, text in TEXTS.items():
        words = text.split()
        lines = [" ".join(rng.choice(words, 12)) for _ in range({"en": 60, "fr": 75}[language])]
        (folder / f"{language}.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("merged", [False, True])
def test_two_text_files_are_a_real_pair(files, recipe, tmp_path, merged):
    setup = {"schedule": "0.5", "relation": "merged" if merged else "disjoint"}
    settings = {"dataset_name": f"{files}/en.txt", "second_dataset_name": f"{files}/fr.txt", "vocabulary_size": 40}
    parsed = recipe("--output_dir", tmp_path, **settings, main=[], setups={"pair": setup}, max_steps=3)
    folder, results = run(parsed)
    vocabulary = Vocabulary.load(folder / "pair" / "seed-0")
    assert vocabulary.languages == 2
    assert (vocabulary.shared > 0) == merged
    place = folder / "pair" / "seed-0"
    for text, saved in {"dog cat": place, "chien chat": place / "tokenizer_1"}.items():
        tokenizer = AutoTokenizer.from_pretrained(saved)
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text
        assert len(tokenizer(text).input_ids) == 4  # two words, [CLS] and [SEP]
    assert 'folder / "tokenizer_1"' in render_card(results, "pair", 0)
    assert results["optimum_perplexity"] is None
    assert results["comparisons"] == []
    assert results["verdict"] == []


def test_a_text_that_is_shorter_than_a_window_is_refused(tmp_path, recipe):
    (tmp_path / "short.txt").write_text("one two\nthree four\n")
    parsed = recipe(dataset_name=str(tmp_path / "short.txt"))
    with pytest.raises(ValueError, match="fewer than one window of 16"):
        texts_of(parsed.data)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"setups": {"a": {"schedule": "1.2"}}}, r"Setup a: A schedule is one share from 0 to 1 per stage"),
        (
            {"setups": {"a": {"schedule": "0.1_0.9", "max_steps": 1, "warmup_steps": 0}}},
            "2 stages, the training only 1",
        ),
        ({"setups": {"a": {"max_steps": 1}}}, r"Setup a: warmup_steps must not exceed max_steps \(1\)"),
        ({"setups": {"a": {"relation": "merged"}}, "second_dataset_name": "b.txt"}, "needs two datasets of texts"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size must keep its default"),
        ({"ignore_data_skip": True}, "ignore_data_skip must keep its default"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches of accelerator_config must keep its default"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be 1 or more"),
        ({"train_tokens": -5}, "train_tokens must be 1 or more"),
        ({"setups": {"a": {"languages": 1, "schedule": "0.5"}}}, "With one language, the schedule must be 0"),
        ({"setups": {"a": {"relation": "merged"}}}, "relation merged needs two datasets of texts"),
        ({"setups": {"a": {"relation": "twins"}}}, "relation must be one of clones, unrelated"),
        ({"setups": {"a": {"relation": "shuffled", "languages": 3}}}, "needs languages 2"),
        ({"setups": {"a": {"context": 8}}}, "context cannot differ between setups"),
        ({"setups": {"a": {"plan": "natural"}}}, "unknown key 'plan'"),
        ({"main": ["b"]}, "Unknown setup 'b'"),
        ({"stride": 16}, "stride must be below context"),
        ({"heads": 3}, "width must be a multiple of heads"),
        ({"train_sampling_strategy": "random"}, "train_sampling_strategy must keep its default"),
        ({"test_tokens": 31}, "test_tokens must be at least twice the context"),
        ({"test_share": 1}, "test_share must be between 0 and 1"),
        ({"max_steps": 0, "setups": {"a": {}}, "main": []}, "max_steps must be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be 1 or more"),
        ({"seed": 2**32}, "seed must be 0 or more and below 2"),
        ({"eval_steps": -3}, "eval_steps must be above 0"),
        ({"save_only_model": True}, "save_only_model must keep its default"),
        ({"resume_from_checkpoint": "x"}, "run the same command again to continue"),
        ({"setups": {"a": {"relation": "shuffled", "schedule": "0"}}}, "needs a schedule that reads both languages"),
    ],
)
def test_settings_that_do_not_fit_are_refused(recipe, settings, expected):
    if "setups" in settings:
        settings = {"main": [], **settings}
    with pytest.raises(ValueError, match=expected):
        recipe(**settings)


def test_a_flag_that_a_setup_sets_or_that_has_no_effect_is_refused(recipe):
    with pytest.raises(ValueError, match="Setup imbalanced sets schedule, but the command line sets it too"):
        recipe("--schedule", "0.3")
    with pytest.raises(ValueError, match="train_tokens: no effect with dataset_name markov"):
        recipe("--train_tokens", 100)
    with pytest.raises(ValueError, match=r"text_column, vocabulary_size: no effect with dataset_name a\.txt"):
        recipe("--text_column", "x", "--vocabulary_size", 40, dataset_name="a.txt", tokenizer_name="t")


def test_a_schedule_without_quotes_keeps_its_stages(tmp_path):
    text = yaml.safe_dump(SETTINGS | {"setups": {"forgets": {"schedule": "STAGES"}}, "main": []})
    (tmp_path / "mini.yaml").write_text(text.replace("STAGES", "0_1").replace("max_steps: 20", "max_steps: 2_0"))
    parsed = parse_cloned("cloned_languages", tmp_path, [])
    assert (parsed.setups["forgets"].of.schedule, parsed.training.max_steps) == ("0_1", 20)


def test_a_setup_can_be_added_to_a_yaml_but_not_redefined(recipe, tmp_path):
    setups = {"alone": {"schedule": "0", "languages": 1, "max_steps": 2}}
    run(recipe("--output_dir", tmp_path, main=[], setups=setups))
    _, results = run(recipe("--output_dir", tmp_path, main=[], setups=setups | {"rare": {"max_steps": 2}}))
    assert [*results["setups"]] == ["alone", "rare"]
    with pytest.raises(ValueError, match=r"alone.seed-0 has a model .*'max_steps': 2.*but it now has"):
        run(recipe("--output_dir", tmp_path, main=[], setups={"alone": setups["alone"] | {"max_steps": 3}}))


def test_setups_at_the_common_rate_alone_have_a_page(recipe, tmp_path):
    setups = {"rare": {"max_steps": 2, "learning_rate": 0.02}}
    folder, results = run(recipe("--output_dir", tmp_path, "--setups", "rare_one_rate", setups=setups))
    assert results["verdict"] == [] and write_page(folder).is_file()


def test_a_share_of_clones_that_rounds_to_none_and_a_divergence_are_said(recipe, tmp_path):
    setups = {"rare": {"max_steps": 2, "fraction_cloned": 0.001}}
    _, results = run(recipe("--output_dir", tmp_path / "a", main=[], setups=setups))
    assert results["setups"]["rare"]["seeds"]["0"]["alignment"] is None
    setups = {"rare": {"learning_rate": 1e5}}
    with pytest.raises(ValueError, match="the training has diverged"):
        run(recipe("--output_dir", tmp_path / "b", main=[], setups=setups))


def test_an_end_of_text_is_learned_where_it_is_also_the_padding(files, recipe, tmp_path):
    """As with GPT-2's tokenizer, which has no padding of its own."""
    tokenizer = make_tokenizer({"": [TEXTS["en"]]}, size=40)
    tokenizer.pad_token = tokenizer.sep_token
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    parsed = recipe(dataset_name=f"{files}/en.txt", tokenizer_name=str(tmp_path / "tokenizer"), main=[])
    texts = texts_of(parsed.data).of(parsed.setups["imbalanced"].of, 1, 0)
    assert texts.padding_id is None and texts.vocabulary.shared == 0
    assert tokenizer.sep_token_id in texts.train[0]


@pytest.mark.parametrize("name", ["texts.txt", "texts.csv"])
def test_rows_without_text_are_left_out(recipe, tmp_path, name):
    lines = [TEXTS["en"]] * 30
    text = "\n".join(["\ufeff" + ("text" if name.endswith("csv") else lines[0]), *lines, *[""] * 300, *lines])
    (tmp_path / name).write_text(text, encoding="utf-8")
    texts = texts_of(recipe(dataset_name=str(tmp_path / name), vocabulary_size=40).data)
    assert "\ufeff" not in texts.first.tokenizer.get_vocab()
    ends = [*texts.first.train, *texts.first.test].count(texts.first.tokenizer.sep_token_id)
    assert ends == 60 + name.endswith("txt")


def test_a_text_file_that_cannot_be_split_or_decoded_is_refused(recipe, tmp_path):
    (tmp_path / "one.txt").write_text(TEXTS["en"])
    with pytest.raises(ValueError, match=r"has 1 text \(.*add texts, or set a smaller --test_share"):
        texts_of(recipe(dataset_name=str(tmp_path / "one.txt")).data)
    (tmp_path / "latin.txt").write_bytes("caf\xe9 noir\n".encode("latin-1") * 9)
    with pytest.raises(ValueError, match=r"as UTF-8 text: .*can't decode byte 0xe9"):
        texts_of(recipe(dataset_name=str(tmp_path / "latin.txt")).data)


def test_a_pair_without_common_tokens_of_text_is_said(files, recipe, tmp_path, caplog):
    (tmp_path / "ru.txt").write_text("\u043a\u043e\u0442 \u0438 \u043f\u0435\u0441\n" * 300)
    pair = {"dataset_name": f"{files}/en.txt", "second_dataset_name": f"{tmp_path}/ru.txt", "vocabulary_size": 40}
    parsed = recipe(**pair, main=[], setups={"pair": {"schedule": "0.5", "relation": "merged"}})
    texts_of(parsed.data).of(parsed.setups["pair"].of, 1, 0)
    assert "have no token of text in common: merged is almost the same as disjoint" in caplog.text


def test_text_that_a_tokenizer_does_not_know_is_said(files, recipe, tmp_path, caplog):
    make_tokenizer({"": ["\u043f\u0440\u0438\u0432\u0435\u0442"] * 9}, size=40).save_pretrained(tmp_path)
    texts_of(recipe(dataset_name=f"{files}/en.txt", tokenizer_name=str(tmp_path)).data)
    assert "% of the tokens are unknown to the tokenizer" in caplog.text


def test_equal_shares_have_no_minority_and_a_language_that_is_not_read_no_perplexity(recipe):
    setups = {
        "stages": {"schedule": "0.1_0.9"},
        "half": {"schedule": "0", "languages": 1, "per_device_train_batch_size": 5},
        "other": {"schedule": "1"},
        "short": {"schedule": "1", "max_steps": 5},
        "rare": {"schedule": "0.1"},
    }
    parsed = recipe(main=[], setups=setups)
    made_setups = {name: described(setup) for name, setup in parsed.setups.items()}
    tokens = {"stages": [100, 100], "half": [100], "other": [0, 200], "short": [0, 50], "rare": [180, 20]}
    for name, counts in tokens.items():
        made_setups[name]["seeds"]["0"] = {
            "perplexity": [300.0 if count == 0 else 5.0 for count in counts],
            "tokens": counts,
        }
    compared = [*derived.compare(made_setups)]
    assert {one["setup"] for one in compared} >= {"stages"} and derived.answers(compared, made_setups) == []
    assert all(y == pytest.approx(5) for points in derived.by_tokens(made_setups).values() for _, y in points)
    assert made.is_even(made_setups["half"] | {"schedule": "0.5_.50", "languages": 2})


def test_measures_of_an_earlier_version_are_made_again(recipe, tmp_path):
    arguments = ["--output_dir", tmp_path, "--setups", "imbalanced"]
    _, results = run(recipe(*arguments))
    place = tmp_path / "imbalanced" / "seed-0"
    found = json.loads((place / "measures.json").read_text())
    del found["alignment"]["untrained"]
    (place / "measures.json").write_text(json.dumps(found))
    record(place, "measures.json", ["measures.json"])
    (tmp_path / "results.json").write_text(json.dumps(results | {"schema_version": 1}))
    with pytest.raises(ValueError, match="version 1, expected 2: run the recipe again with this folder"):
        made.read_cloned(tmp_path)
    assert run(recipe(*arguments))[1] == results


def test_a_language_is_compared_with_controls_that_read_the_same_text(recipe):
    """In 90/10 of a real pair French is rare; in 10/90 English is, whose control reads English."""
    setups = {
        "pair": {"schedule": "0.1", "relation": "disjoint"},
        "reversed": {"schedule": "0.9", "relation": "disjoint"},
        "few_en": {"schedule": "0", "languages": 1, "per_device_train_batch_size": 1},
        "few_fr": {"schedule": "1", "relation": "disjoint", "per_device_train_batch_size": 1},
        "all_fr": {"schedule": "1", "relation": "disjoint"},
    }
    parsed = recipe(main=[], setups=setups, dataset_name="en.txt", second_dataset_name="fr.txt")
    made_setups = {name: made_setup(setup) for name, setup in parsed.setups.items()}
    tokens = {"pair": [1800, 200], "reversed": [200, 1800], "few_en": [200], "few_fr": [0, 200], "all_fr": [0, 2000]}
    for name, counts in tokens.items():
        made_setups[name]["seeds"]["0"]["tokens"] = counts
    found = {(one["setup"], one["language"], one["reference"]) for one in derived.compare(made_setups)}
    assert found == {("pair", 1, "few_fr"), ("reversed", 0, "few_en"), ("reversed", 1, "all_fr")}
    assert [made.minority(made_setups[name]) for name in tokens] == [1, 0, 0, 1, 1]


def test_a_model_is_fine_tuned_in_one_language_and_tested_in_every_one(recipe, tmp_path):
    setups = {"even": {"schedule": "0.5"}}
    settings = {"dataset_name": "mini_xnli", "vocabulary_size": 400, "context": 64, "max_steps": 2, "main": []}
    parsed = recipe("--output_dir", tmp_path, **settings, setups=setups, downstream_items=40)
    folder, results = run(parsed)
    found = results["setups"]["even"]["seeds"]["0"]["downstream"]
    assert found["items"] == 40 and len(found["accuracy"]) == 2 and 0.3 < found["chance"] < 0.4
    assert "Accuracy on mini-XNLI after fine-tuning in language 0" in text_of(results, folder, write_page(folder))
    results["setups"]["even"]["seeds"]["0"]["seen_in_several"] = 0.25
    said = "Windows of text that were read in more than one language: even 25%."
    assert said in text_of(results, folder, folder) and seen_text(results) == said
    with pytest.raises(ValueError, match="downstream_items needs dataset_name mini_xnli"):
        recipe(downstream_items=40)


def test_the_classifier_reads_the_last_token_that_is_not_padding(tmp_path):
    """Padding is id 0 in every language: a longer batch does not change an answer."""
    from transformers import GPT2ForSequenceClassification

    make_decoder(66, context=16, layers=1, width=16, heads=2).save_pretrained(tmp_path)
    model = GPT2ForSequenceClassification.from_pretrained(tmp_path, num_labels=3, pad_token_id=0).eval()
    short = torch.tensor([[5, 40, 7]])
    padded = torch.tensor([[5, 40, 7, 0, 0, 0]])
    both = [model(input_ids=ids, attention_mask=(ids != 0).long()).logits for ids in (short, padded)]
    torch.testing.assert_close(*both)


def test_one_language_is_a_plain_training_with_the_same_texts(recipe, tmp_path, monkeypatch):
    """The recipe with one language, and a stock Trainer on the same windows in the same order: equal ids and losses."""

    class Recorded(Trainer):
        """Keeps what it reads, and its losses."""

        def training_step(self, model, inputs, *others):
            loss = super().training_step(model, inputs, *others)
            read.append((inputs["input_ids"].tolist(), float(loss)))
            return loss

    read = []
    parsed = recipe("--output_dir", tmp_path / "run", "--setups", "monolingual")
    setup, source = parsed.setups["monolingual"], texts_of(parsed.data)
    monkeypatch.setattr("hf_langimb.cloned.training.Trainer", Recorded)
    train(tmp_path / "ours", setup, 0, source, parsed.data)
    ours, read = read, []
    text = source.of(setup.of, STEPS * 10, 0)
    order = TrainingWindows(text.vocabulary, text.train, np.zeros((STEPS, 10), dtype=np.int64)).order
    rows = [{"input_ids": ids, "labels": ids} for ids in text.train[0][order].tolist()]
    arguments = replace(setup.training, output_dir=str(tmp_path / "plain"))
    Recorded(untrained_decoder(text.vocabulary, parsed.data, 0), arguments, train_dataset=rows).train()
    assert [ids for ids, _ in ours] == [ids for ids, _ in read]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in read], abs=1e-6)


def killed(job):
    """In a process of its own: train a model until its second checkpoint is complete, then die."""
    complete = _Checkpoints.on_save

    def dies(self, args, state, control, **others):
        complete(self, args, state, control, **others)
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    _Checkpoints.on_save = dies
    _train_one(job)


def test_a_killed_recipe_that_trains_two_models_at_once_continues(recipe, tmp_path, monkeypatch):
    saved = {"save_strategy": "steps", "save_steps": 4}
    _, whole = run(recipe("--output_dir", tmp_path / "whole", **saved))
    monkeypatch.setattr("hf_langimb.cloned.experiment._train_one", killed)
    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory ran out"):
        run(recipe("--output_dir", tmp_path / "killed", **saved, models_at_once=2))
    left = [path.name for path in (tmp_path / "killed").glob("*/seed-0/checkpoint-*")]
    assert "checkpoint-8" in left and not [*tmp_path.glob("killed/*/seed-0/model.safetensors")]
    monkeypatch.undo()
    _, found = run(recipe("--output_dir", tmp_path / "killed", **saved))
    for name, of in whole["setups"].items():
        one, other = (setup["seeds"]["0"] for setup in (of, found["setups"][name]))
        assert one["tokens"] == other["tokens"]
        assert one["perplexity"] == pytest.approx(other["perplexity"], rel=1e-4)
        assert [entry["step"] for entry in one["history"]] == [entry["step"] for entry in other["history"]]


def test_two_processes_train_what_one_trains(tmp_path):
    """Five windows of each step in each of two processes are the ten of one process."""
    settings = {**SETTINGS, "main": ["imbalanced"], "max_steps": 4}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(settings))
    recipe_file = RECIPES.with_suffix(".py")
    words = ["--config", str(tmp_path / "mini.yaml"), "--output_dir", str(tmp_path / "two")]
    # as in tests/training/test_processes.py: with --cpu one process would start
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    launch += [str(recipe_file), *words, "--per_device_train_batch_size", "5"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    _, one = run(parse_cloned("cloned_languages", tmp_path, [*words[:2], "--output_dir", str(tmp_path / "one")]))
    (first, second) = (of["setups"]["imbalanced"] for of in (made.read_cloned(tmp_path / "two"), one))
    assert (first["rows"], second["rows"]) == (10, 10)
    assert first["seeds"]["0"]["tokens"] == second["seeds"]["0"]["tokens"]
    assert first["seeds"]["0"]["perplexity"] == pytest.approx(second["seeds"]["0"]["perplexity"], rel=1e-4)
    assert "dataset markov, seed 0" in (tmp_path / "two" / "imbalanced" / "seed-0" / "README.md").read_text()
    assert "Does the majority help" in done.stdout and done.stdout.count("All numbers:") == 1


@pytest.mark.parametrize("config", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_configuration_has_controls_of_its_setups(config):
    """At the tokens that are expected, the first imbalanced setup has a control, and each name is defined."""
    assert parse_cloned("cloned_languages", RECIPES, ["--config", config, "--all"]).setups
    recipe, setups = parse_cloned("cloned_languages", RECIPES, ["--config", config]), {}
    for name, setup in recipe.setups.items():
        found, tokens = described(setup), setup.training.max_steps * setup.rows(1) * recipe.data.context
        counts = [round(share * tokens) for share in made.shares_of(found)]
        setups[name] = found | {"seeds": {"0": {"perplexity": [5.0] * setup.of.languages, "tokens": counts}}}
    (answer,) = derived.answers([*derived.compare(setups)], setups)
    assert answer["setup"] in recipe.data.main
