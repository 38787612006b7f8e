"""The comparison of mitigations: grids, what is chosen, tests over seeds, and the recommendation."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_run import stamps
from scipy.stats import ttest_rel

from hf_langimb.results import mitigations as made
from hf_langimb.runs import mitigations
from hf_langimb.runs.custom import FOLDER, words_of
from hf_langimb.runs.experiment import run
from hf_langimb.runs.mitigations import compare, parse, read_methods, write_setups
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.runs.setups import RECOMMENDED, prepare_setups, resolve_setup, with_recommended
from hf_langimb.runs.steps import Diverged
from hf_langimb.runs.subsets import load_data

RECIPES = Path(__file__).parents[2] / "recipes"
METHODS = {
    "plain": {"weight_decay": [0.0, 0.1]},
    "per_language": {"class_weighting": "per_language", "weight_exponent": [0.5, 1.0]},
}
BOTH = {"sampling": "joint", "masked_entropy_weight": 1.0}
RECIPE = {"recipe": "toy", "config": "mini", "methods": METHODS}


@pytest.fixture
def write(tmp_path):
    """Function (values): the path of a YAML file."""

    def write_yaml(values):
        (tmp_path / "mini.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / "mini.yaml"

    return write_yaml


def metrics(accuracy, bits):
    """METRICS with some measures."""
    target = {"accuracy": accuracy, "dependence_bits_corrected": bits, "skew_transfer": None}
    languages = {"a": {"accuracy": accuracy - 0.1}, "b": {"accuracy": accuracy}}
    targets = dict.fromkeys(["independent", "natural", "uniform"], target)
    return {"test": {"by_language": languages}, "targets": targets, "probe": {"test": None}, "seconds": 10 * accuracy}


def comparison(values):
    """A comparison of {method: [(accuracy, dependence) of each seed]}."""
    found = {name: {str(i): metrics(*of) for i, of in enumerate(seeds)} for name, seeds in values.items()}
    audit = {"mutual_information_bits": 0.1, "counts": [[1, 2], [3, 4]]}
    grids = {name: [{"tau": 0.5}, {"tau": 1.0}] for name in values if "," not in name}
    parts = {"recipe": "toy", "config_name": "mini", "arguments": {}, "languages": ["a", "b"], "labels": ["no", "yes"]}
    parts |= {"grids": grids, "losses": {name: [1.0, 0.5] for name in grids}}
    chosen = {name: {"tau": 1.0} for name in grids}
    return made.compared(audit=audit, metrics=found, chosen=chosen, **parts)


def seeds(accuracy, bits, number=5):
    """Seeds around two values."""
    return [(accuracy + 0.001 * i, bits + 0.001 * (i * 7 % 5)) for i in range(number)]


def test_methods_that_lower_the_dependence_without_a_loss_are_recommended():
    found = comparison(
        {
            "plain": [(0.70 + 0.002 * (i % 3), 0.1 + 0.003 * i) for i in range(5)],
            "per_language": seeds(0.72, 0.01),
            "costly": seeds(0.6, 0.005),
            "useless": [(0.70 + 0.001 * i, 0.1 + 0.003 * (4 - i)) for i in range(5)],
            "better": seeds(0.78, 0.02),
            "plain, corrected": seeds(0.8, 0.001),
        }
    )
    assert found["recommended"] == ["better", "per_language"]
    text = made.recommendation_text(found)
    assert text.startswith("Recommended for data like these: better, per_language (")
    assert "Significantly more accurate than per_language weights: better; plain, corrected." in text
    header, rows = made.mitigations_cells(found)
    assert header[:3] == ["method", "chosen setting", "independent"]
    assert [row[0] for row in rows][:2] == ["plain, corrected", "better"]
    assert rows[1][1] == "tau=1.0" and rows[1][2].endswith("*") and rows[0][1] == "-"
    assert rows[1][5].startswith("0.682"), "the worst language"
    assert header[-1] == "time relative to plain" and rows[1][-1] == "1.11"
    header, rows = made.differences_cells(found, "per_language")
    assert header == ["difference", "independent", "p (Holm)", "dependence (bits)", "p (Holm)"]
    better = next(row for row in rows if row[0] == "better - per_language")
    assert better[1] == "+0.060 [+0.060, +0.060]" and float(better[2]) < 0.001
    shown = made.text_of(found, "runs/x")
    assert "2 languages" in shown and "runs/x/comparison.json" in shown
    json.dumps(found, allow_nan=False)


def test_p_values_are_paired_and_adjusted_over_the_methods():
    random = np.random.default_rng(0)
    values = {name: [(x, x / 10) for x in random.normal(0.7, 0.02, 5)] for name in ("plain", "a", "b", "c")}
    found = comparison(values)
    of = [one for one in found["differences"] if (one["reference"], one["measure"]) == ("plain", "independent")]
    p = [ttest_rel([x for x, _ in values[one["method"]]], [x for x, _ in values["plain"]]).pvalue for one in of]
    assert [one["p"] for one in of] == pytest.approx(p)
    ordered = sorted(p)
    expected = np.minimum(np.maximum.accumulate([ordered[0] * 3, ordered[1] * 2, ordered[2]]), 1)
    assert sorted(one["p_holm"] for one in of) == pytest.approx(expected)


def test_without_seeds_nothing_is_recommended():
    found = comparison({"plain": seeds(0.7, 0.1, 1), "per_language": seeds(0.72, 0.01, 1)})
    assert found["recommended"] == [] and found["differences"][0]["p"] is None
    assert made.recommendation_text(found).startswith("With one seed, no difference can be tested: add --seeds 5")
    found = comparison({"plain": seeds(0.7, 0.1), "per_language": seeds(0.7, 0.1)})
    assert made.recommendation_text(found).startswith("On these data, no training method")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "expected the keys recipe, config and methods"),
        ({"recipe": 5}, "recipe must be a string, got 5"),
        (
            {"methods": METHODS | {"a": {"sampling": ["b_1", "c"]}, "a_b": {"focal_gamma": [1, 2]}}},
            "two settings have the same name, a_b_1: rename a method",
        ),
        ({"arguments": ["a"]}, "arguments must be a mapping"),
        ({"methods": ["plain"]}, "methods must be a mapping"),
        ({"methods": {"plain": {"weight_decay": [0]}}}, "methods must list at least two methods"),
        ({"methods": {"plain": {"weight_decay": []}, "a": {"focal_gamma": []}}}, "one or more, got 0"),
        ({"methods": METHODS | {"focal": {"objective": "focal"}}}, "exactly one argument with a list of values, got 0"),
        ({"methods": METHODS | {"focal": {"focal_gamma": [1]}}}, "the same number of values"),
        ({"methods": {key: {"focal_gamma": [1]} for key in "ab"}}, "one of the methods must be plain"),
    ],
)
def test_wrong_grids_are_refused(write, change, message):
    with pytest.raises(ValueError, match=message):
        read_methods(write(RECIPE | change))


def test_a_configuration_that_is_not_there_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match="found none"):
        read_methods(tmp_path / "mini.yaml")
    for change in ({"methods": METHODS | {"plain": {"class_weighting": ["none", "joint"]}}}, {"arguments": BOTH}):
        with pytest.raises(ValueError, match="plain is the method without mitigations: remove"):
            compare(write(RECIPE | {"recipe": "xnli"} | change), RECIPES, tmp_path / "out", 2)
    with pytest.raises(ValueError, match="the recipe toy has no configuration nope"):
        compare(write(RECIPE | {"config": "nope"}), tmp_path, tmp_path / "out", 2)
    (tmp_path / "mini.yaml").write_text("recipe: [toy")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_methods(tmp_path / "mini.yaml")


@pytest.mark.parametrize("words", [["--seed", "3"], ["--setups=plain"], ["--seeds", "0"]])
def test_what_the_comparison_sets_is_not_a_flag(words, capsys):
    with pytest.raises(SystemExit):
        parse(RECIPES / "compare_mitigations", words)
    assert "leave it out" in (said := capsys.readouterr().err) or "must be 1 or more" in said


@pytest.mark.parametrize("where", ["out/comparison/notes.txt", "out"])
def test_files_of_others_are_refused_before_any_training(workshop, write, tmp_path, where):
    (tmp_path / "toy").symlink_to(workshop)
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_text("mine")
    with pytest.raises(ValueError, match=r"contains files but no run|lies in a file"):
        compare(write(RECIPE), tmp_path, tmp_path / "out", 2)
    assert (tmp_path / where).read_text() == "mine" and not (tmp_path / "out" / "tuning").exists()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("compare_mitigations/*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_recipe_are_setups_that_can_be_trained(path, tmp_path):
    name, config, arguments, methods = read_methods(path)
    setups = {setup: settings for points in methods.values() for setup, settings in points.items()}
    write_setups(tmp_path / "methods.yaml", RECIPES / name / f"{config}.yaml", arguments, setups)
    recipe = parse_recipe(name, RECIPES / name, ["--config", str(tmp_path / "methods.yaml")])
    assert recipe.data.explain_rows == 0 and {*setups} <= {*recipe.setups}
    plan = "natural" if path.stem == "cldr_all" else "imbalanced"
    settings = {setup: resolve_setup(setup, recipe.setups, plan) for setup in setups}
    if path.stem != "cldr_all":  # which takes longer to read
        prepare_setups(recipe, settings, load_data(recipe.data, "language"))


def test_auto_trains_the_methods_that_the_kept_comparison_recommends():
    kept = made.read_comparison(RECIPES.parent / "model_cards" / "mitigations" / "mini")
    assert {name: kept["chosen"][name] for name in kept["recommended"]} == RECOMMENDED
    recipe = parse_recipe("custom", FOLDER, words_of(["rows.csv", "--setups", "auto"]))
    assert with_recommended(recipe).data.setups == ["plain", *kept["recommended"]]
    with pytest.raises(ValueError, match="auto stands for several setups"):
        with_recommended(parse_recipe("custom", FOLDER, words_of(["rows.csv", "--setups", "auto", "plain"])))
    others = parse_recipe("custom", FOLDER, words_of(["rows.csv"]))
    assert with_recommended(others) is others


def test_auto_needs_several_languages(tmp_path):
    lines = [f"text {i},en,{'no' if i % 2 else 'yes'}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,language,label", *lines]))
    words = words_of([str(tmp_path / "rows.csv"), "--setups", "auto", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="All rows are in en: --setups auto is for data in several languages"):
        run(parse_recipe("custom", FOLDER, words))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_each_method_is_compared_at_its_best_setting(workshop, write, tmp_path):
    (tmp_path / "toy").symlink_to(workshop)
    path = write(copy.deepcopy(RECIPE) | {"arguments": {"num_train_epochs": 1}})
    found = compare(path, tmp_path, tmp_path / "out", 2)
    assert made.read_comparison(tmp_path / "out") == found
    assert {*found["methods"]} == {"plain", "per_language", *made.CHANGED}
    assert found["seconds"]["plain, refitted"] == [None, None] and min(found["seconds"]["plain"]) > 0
    for method, losses in found["losses"].items():
        assert len(losses) == 2
        assert found["chosen"][method] == found["grids"][method][int(np.argmin(losses))]
    assert all(len(values["independent"]) == 2 for values in found["methods"].values())
    assert (tmp_path / "out" / "tuning" / "plain_0_1" / "seed-100").is_dir()


@pytest.mark.slow
def test_a_training_that_diverges_is_not_chosen_and_grids_can_be_changed(workshop, write, tmp_path, monkeypatch):
    (tmp_path / "toy").symlink_to(workshop)
    smoothing = {"weight_decay": 0.1, "label_smoothing_factor": [0.1, 0.2]}  # no mitigation, so nothing is recommended
    methods = {"plain": METHODS["plain"], "smooth": smoothing, "wild": {"learning_rate": [1e30, 2e30]}}
    path = write(RECIPE | {"methods": methods, "arguments": {"num_train_epochs": 1}})
    with pytest.raises(ValueError, match="the training diverged with every setting of wild"):
        compare(path, tmp_path, tmp_path / "out", 1)
    before = stamps(tmp_path / "out" / "tuning" / "smooth_0_1" / "seed-100")
    methods["wild"] = {"learning_rate": [1e30, 1e-4]}
    path = write(RECIPE | {"methods": methods, "arguments": {"num_train_epochs": 1}})
    worked, chosen = mitigations.run, []

    def diverging(recipe, validated=False):
        """As `run`, but the first model of a chosen setting diverges."""
        if not validated and not chosen:
            chosen.append(next(name for name in recipe.data.setups if name.startswith("smooth")))
            raise Diverged(tmp_path / chosen[0] / "seed-0")
        return worked(recipe, validated)

    monkeypatch.setattr(mitigations, "run", diverging)
    found = compare(path, tmp_path, tmp_path / "out", 1)
    assert stamps(tmp_path / "out" / "tuning" / "smooth_0_1" / "seed-100") == before
    assert found["losses"]["wild"][0] is None and found["chosen"]["wild"] == {"learning_rate": 1e-4}
    assert found["losses"]["smooth"].count(None) == 1
    assert f"smooth_{str(found['chosen']['smooth']['label_smoothing_factor']).replace('.', '_')}" != chosen[0]
