"""How a recipe reads YAML and command line."""

import re
from pathlib import Path

import pytest

import hf_langimb
from hf_langimb.runs.experiment import resolve_setup
from hf_langimb.runs.recipe import parse_recipe
from hf_langimb.training.arguments import LangImbTrainingArguments

RECIPES = Path(hf_langimb.__file__).parents[1] / "recipes"


@pytest.fixture
def parse(tmp_path):
    """Function (yaml, *argv): the recipe `toy` with that `mini.yaml`."""

    def read(text, *argv, stem="mini"):
        (tmp_path / f"{stem}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse_recipe("toy", tmp_path, list(argv))

    return read


# Values.


def test_yaml_gives_the_defaults_and_the_command_line_overrides(parse):
    text = "learning_rate: 1e-3\ntrain_size: 100\nconfig_names: [fr, en]\nnum_train_epochs: 2\nbf16: false\n"
    recipe = parse(text, "--train_size", "50", "--weight-decay", "0.1", "--text_columns", "a", "b")
    training, data = recipe.training, recipe.data
    assert (training.learning_rate, training.num_train_epochs, training.weight_decay) == (1e-3, 2, 0.1)
    assert (data.train_size, data.config_names, data.text_columns) == (50, ["fr", "en"], ["a", "b"])
    assert data.dataset_name == "mini_xnli"
    for value in ("yes", "off"):
        recipe = parse(f"log_on_each_node: {value}", "--no_log_on_each_node")
        assert recipe.training.log_on_each_node is False
    assert parse("setups: [balanced, weighted]", "--setups", "imbalanced").data.setups == ["imbalanced"], "no addition"


def test_rows_to_explain_are_a_number_or_as_many_as_needed(parse):
    data = parse("explain_rows: auto\nexplain_tolerance: 5e-3\ncontrol_seed: true").data
    assert (data.explain_rows, data.explain_tolerance, data.control_seed) == ("auto", 0.005, True)
    recipe = parse("explain_rows: auto", "--explain_rows", "-1")
    assert (recipe.data.explain_rows, recipe.config["explain_rows"], recipe.data.control_seed) == (-1, -1, False)
    assert parse("explain_rows: 6", "--explain-rows", "auto").config["explain_rows"] == "auto"


def test_names_and_places(parse):
    recipe = parse("")
    assert (recipe.name, recipe.config_name) == ("toy", "mini")
    assert (recipe.training.output_dir, recipe.training.seed) == ("runs/toy-mini", 0)
    assert recipe.data.setups == ["balanced", "imbalanced", "weighted"]
    assert parse("", "--output_dir", "here").training.output_dir == "here"
    assert parse("output_dir: there").training.output_dir == "there"
    assert parse("", "--config", "other", stem="other").training.output_dir == "runs/toy-other"


def test_a_file_elsewhere_extends_by_name_or_by_path(parse, tmp_path):
    (tmp_path / "base.yaml").write_text("seeds: 3")
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "near.yaml").write_text("extends: base\ntrain_size: 7")
    path = place / "mine.yaml"
    path.write_text("extends: near.yaml\ntest_size: 8")
    for argv in (("--config", str(path)), (f"--config={path}",)):
        recipe = parse("", *argv)
        assert (recipe.config_name, recipe.data.seeds) == ("mine", 3)
        assert (recipe.data.train_size, recipe.data.test_size) == (7, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"head_learning_rate: {value}", 5e-4) for value in ("5e-4", "0.0005", "'5e-4'", "5.0E-4")),
        *((f"log_on_each_node: {value}", True) for value in ("yes", "true")),
        *((f"log_on_each_node: {value}", False) for value in ("off", "'no'")),
        *((f"one_language_per_item: {value}\nid_column: item", True) for value in ("yes", "true")),
        *((f"one_language_per_item: {value}", False) for value in ("off", "'no'")),
        ("train_size: null", None),
        ("id_column:", None),
        ("setups: []", ["balanced", "imbalanced", "weighted"]),
        ("learning_rate:", LangImbTrainingArguments().learning_rate),
        ("lr_scheduler_kwargs: {num_cycles: 2}\nlr_scheduler_type: cosine_with_restarts", {"num_cycles": 2}),
        ("label_order: [1, 2, 3]", ["1", "2", "3"]),
        ("probe_config_names: [20231101.fr]", ["20231101.fr"]),
    ],
)
def test_values_however_yaml_writes_them(parse, text, expected):
    """Null and an empty list mean the default."""
    recipe, name = parse(text), text.partition(":")[0]
    assert {**vars(recipe.data), **vars(recipe.training)}[name] == expected


# Inheritance.


def test_a_configuration_extends_another(parse, tmp_path):
    (tmp_path / "base.yaml").write_text(
        "train_size: 100\nid_column: item\ntext_columns: [a]\nlearning_rate: 1e-3\n"
        "setups: {balanced: , own: {plan: natural}}"
    )
    recipe = parse("extends: base\nlearning_rate: 5e-4\nid_column: null\ntext_columns: []\nsetups: [own, weighted]")
    assert (recipe.data.train_size, recipe.training.learning_rate) == (100, 5e-4)
    assert recipe.data.id_column is None and recipe.data.text_columns == []  # the defaults, over what is inherited
    assert recipe.data.setups == ["own", "weighted"]
    assert recipe.setups["own"] == {"plan": "natural"}
    assert recipe.config_name == "mini" and "extends" not in recipe.config
    assert parse("extends: base\nsetups: {own: {plan: balanced}}").setups["own"] == {"plan": "balanced"}
    assert parse("extends: base\nsetups: null").setups == parse("train_size: 100").setups


def test_flags_are_the_words_of_the_user_alone(parse, tmp_path):
    (tmp_path / "base.yaml").write_text("learning_rate: 1e-3")
    assert parse("extends: base\ntrain_size: 100").flags == frozenset()
    flags = parse("extends: base", "--weight-decay=0.1", "--no_log_on_each_node").flags
    assert flags == {"weight_decay", "log_on_each_node"}


# What does not fit.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("language_column: no", r"mini.yaml: language_column: expected text or a number, got False \(yes, no"),
        ("config_names: [sv, no]", r"config_names: expected text or a number, got False \(yes, no, on and"),
        ("learning_rate: fast", "mini.yaml: learning_rate: invalid float value: 'fast'"),
        ("train_size: 1.5", "train_size: invalid int value: '1.5'"),
        ("bf16: perhaps", "bf16: Truthy value expected: got perhaps but expected one of yes/no, true/false"),
        ("eval_strategy: sometimes", "eval_strategy: invalid choice: 'sometimes' .choose from 'no', 'steps', 'epoch'"),
        ("lerning_rate: 1", "mini.yaml: unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ("qqqqqqq: 1", "mini.yaml: unknown key 'qqqqqqq'"),
        ("config: other", r"unknown key 'config'\."),
        ("help: 1", "unknown key 'help'"),
        ("1: 2", "unknown key 1"),
        ("config_names: fr", "config_names: expected a list, got 'fr'"),
        (
            "label_order: [a, '--seeds=5']",
            "mini.yaml: label_order: a list cannot contain '--seeds=5', which looks",
        ),
        ("label_order: [a, -h]", "label_order: a list cannot contain '-h'"),
        ("imbalanced_shares: {fr: [1/2, 1/2]}", "imbalanced_shares: expected a list, got {'fr'"),
        ("imbalanced_shares: [[fr, 1/2]]", r"imbalanced_shares: expected text or a number, got \['fr', '1/2'\]"),
        ("imbalanced_shares: [fr: 1/2 1/2]", "imbalanced_shares: expected text or a number, got {'fr': '1/2 1/2'}"),
        ("label_column: [label]", r"label_column: expected a single value, got \['label'\]"),
        ("label_column: {a: b}", "label_column: expected text or a number, got {'a': 'b'}"),
        ("- a\n- b", "mini.yaml is not valid YAML with keys and values, in UTF-8: 'list' object"),
        ("a: [b", "mini.yaml is not valid YAML"),
        ("seeds: 1".encode("utf-16"), "mini.yaml is not valid YAML with keys and values, in UTF-8: 'utf-8' codec"),
        ("[" * 5000, "mini.yaml is not valid YAML"),
        ("seeds: 0", "^mini.yaml: seeds must be 1 or more, got 0"),
        ("explain_rows: many", "^mini.yaml: explain_rows: expected a number or auto, got 'many'"),
        ("explain_rows: 1.5", "explain_rows: expected a number or auto, got '1.5'"),
        ("explain_rows: -2", "explain_rows must be -1 or more, got -2"),
        ("explain_tolerance: 0", "^mini.yaml: explain_tolerance must be above 0, got 0.0"),
        ("explain_tolerance: .nan", "explain_tolerance must be above 0, got nan"),
        ("train_size: 100000000000000000000", "train_size must be 2147483647 or less, got 1"),
        ("seed: -1\nclass_weighting: per_language", "^mini.yaml: seed must be 0 or more, got -1"),
        ("class_weighting: per_langauge", "^mini.yaml: Unknown class_weighting 'per_langauge': choose one of none,"),
        ("lr_scheduler_kwargs: 3", "mini.yaml: lr_scheduler_kwargs must be a dictionary, got '3'"),
        ("gradient_accumulation_steps: 0", "mini.yaml: gradient_accumulation_steps must be 1 or more, got 0"),
        ("masked_entropy_weight: .nan", "masked_entropy_weight must be 0 or more, got nan"),
        ("eval_strategy: steps\nload_best_model_at_end: true\nsave_strategy: epoch", "save and eval strategy"),
        # a configuration that it extends
        ("extends: bsae", r"mini\.yaml: extends: expected a configuration at .*bsae\.yaml, found none: choose one"),
        ("extends: bsae", r"found none: choose one of a, b, base, mini, wrong, zero, or a YAML file"),
        ("extends: zero\ntest_size: 5", "^zero.yaml: seeds must be 1 or more, got 0"),
        ("extends: no", r"mini\.yaml: extends: expected the name of one configuration, got False"),
        ("extends: mini", "mini.yaml extends mini.yaml, which leads back to itself"),
        ("extends: a", "b.yaml extends a.yaml, which leads back to itself"),
        ("extends: base\nlerning_rate: 1", "mini.yaml: unknown key 'lerning_rate'"),
        ("extends: wrong", "wrong.yaml: unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        # definitions of setups
        ("setups: {Bad-Name: }", "a setup name may contain only a-z, 0-9 and _ .*, got 'Bad-Name'"),
        ("setups: {1: }", "a setup name .*, got 1"),
        ("setups: {start: }", r"\(and is not start, attributions, figures\), got 'start'"),
        ("setups: {a: imbalanced}", "setup a: expected a plan and training arguments, got 'imbalanced'"),
        ("setups: {a: {lerning_rate: 1}}", "mini.yaml, setup a: unknown key 'lerning_rate'; did you mean"),
        ("setups: {a: {learning_rate: no}}", "mini.yaml, setup a: learning_rate: expected text or a number, got False"),
        ("setups: {a: {train_size: 5, seed: 1}}", "setup a: train_size, seed cannot differ between setups"),
        ("setups: {a: {output_dir: x}}", "setup a: output_dir cannot differ between setups"),
        ("setups: {a: {language_column: x}}", "setup a: language_column cannot differ"),
    ],
)
def test_bad_yaml(parse, tmp_path, text, message):
    files = {"base": "seeds: 3", "wrong": "lerning_rate: 1", "a": "extends: b", "b": "extends: a", "zero": "seeds: 0"}
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("other", r"other\.yaml, found none: choose one of mbert, or a YAML file"),
        ("nowhere/x.yaml", r"nowhere/x\.yaml, found none"),
    ],
)
def test_unknown_configuration(parse, config, message):
    with pytest.raises(ValueError, match=message):
        parse("", "--config", config, stem="mbert")


def test_help_shows_the_defaults_of_the_configuration(parse, capsys):
    for text in ("setups: [balanced, mine]\ntrain_size: 77\n", "setups: {mine: {plan: balanced}}\n"):
        with pytest.raises(SystemExit) as ended:
            parse(text, "--help")
        assert ended.value.code == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for default in ("['balanced', 'mine']", "['mine']"):
        assert f"recommended methods. (default: {default})" in shown
    assert "(default: 77)" in shown
    assert "(default: runs/toy-mini)" in shown
    with pytest.raises(SystemExit):
        parse("setups:\n", "--help")


def test_a_file_has_none_of_the_configurations_of_the_data_set_that_the_yaml_names(parse, tmp_path):
    text = (
        "dataset_name: org/reviews\nconfig_names: [de, en]\nprobe_dataset_name: org/wiki\nprobe_config_names: [x.de]\n"
    )
    (tmp_path / "rows.csv").touch()
    argv = [text, "--dataset_name", str(tmp_path / "rows.csv")]
    found = parse(*argv).data
    assert (found.config_names, found.probe_config_names) == ([], ["x.de"])
    assert parse(*argv, "--config_names", "fr").data.config_names == ["fr"]
    assert parse(text, "--probe_dataset_name", str(tmp_path / "rows.csv")).data.probe_config_names == []
    assert parse(text, "--dataset_name", "org/mirror").data.config_names == ["de", "en"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train_size", "many"], "argument --train_size/--train-size: invalid int value: 'many'"),
        (["--explain-rows", "many"], "argument --explain_rows/--explain-rows: expected a number or auto, got 'many'"),
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--setups"], "expected at least one argument"),
    ],
)
def test_bad_command_line_is_a_usage_error(parse, capsys, argv, message):
    with pytest.raises(SystemExit) as caught:
        parse("", *argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error
    assert len(error.splitlines()) == 2  # not the hundreds of options


# Setups.


def test_setups_by_definition(parse):
    text = """
class_weighting: none
setups:
  balanced:
  focus_2: {plan: natural, class_weighting: joint, learning_rate: 5e-4, bf16: no}
  other: {masked_entropy_weight: 0.5}
"""
    recipe = parse(text)
    assert recipe.data.setups == ["balanced", "focus_2", "other"]
    focus = {"plan": "natural", "class_weighting": "joint", "learning_rate": 5e-4, "bf16": False}
    assert recipe.setups["focus_2"] == focus
    resolved = {name: resolve_setup(name, recipe.setups) for name in recipe.data.setups}
    assert resolved["balanced"] == {"plan": "balanced", "class_weighting": "none"}
    assert resolved["focus_2"] == recipe.setups["focus_2"]
    assert resolved["other"] == {"plan": "imbalanced", "masked_entropy_weight": 0.5}
    assert resolve_setup("focus_2_lora", recipe.setups) == recipe.setups["focus_2"] | {"lora_rank": 8}
    assert parse(text, "--setups", "other").data.setups == ["other"]


BALANCED, IMBALANCED = ({"plan": plan, "class_weighting": "none"} for plan in ("balanced", "imbalanced"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("balanced", BALANCED),
        ("imbalanced", IMBALANCED),
        ("weighted", {"plan": "imbalanced", "class_weighting": "per_language"}),
        ("balanced_entropy", BALANCED | {"masked_entropy_weight": 1.0}),
        ("imbalanced_lora_entropy", IMBALANCED | {"lora_rank": 8, "masked_entropy_weight": 1.0}),
    ],
)
def test_known_setups(name, expected):
    assert resolve_setup(name, {}) == expected


def test_a_definition_adds_to_a_known_setup(parse):
    recipe = parse("setups: {weighted: {learning_rate: 1e-4}}")
    assert resolve_setup("weighted", recipe.setups) == resolve_setup("weighted", {}) | {"learning_rate": 1e-4}


@pytest.mark.parametrize("name", ["", "weigted", "_lora", "balanced_", "Balanced"])
def test_unknown_setups(name):
    with pytest.raises(
        ValueError,
        match=r"choose among balanced, imbalanced, weighted, plain, class, .*, mine, each also with _entropy",
    ):
        resolve_setup(name, {"mine": {}})


def test_words_without_a_flag_are_refused(parse, capsys):
    with pytest.raises(SystemExit):
        parse("setups: [plain]", "balanced")  # and not added to the list of the YAML
    assert "unrecognized arguments: balanced" in capsys.readouterr().err


# The record.


def test_config_is_what_differs_from_the_defaults(parse):
    text = "train_size: 100\nlearning_rate: 5e-5\nweight_decay: 0.0\nseeds: 1\noutput_dir: x\nbf16: false"
    assert LangImbTrainingArguments().learning_rate == 5e-5  # said, but the default
    assert parse(text).config == {"train_size": 100, "seed": 0}
    given = parse(text, "--seed", "7", "--label_column", "stars", "--config", "mini").config
    assert given == {"train_size": 100, "label_column": "stars", "seed": 7}
    assert parse("seed: 42").config == {"seed": 42}


OTHERS = ("cloned_languages", "compare_mitigations")  # whose YAML files have other keys
CLASSIFIERS = sorted(path for path in RECIPES.glob("*/*.yaml") if path.parent.name not in OTHERS)


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_configurations_of_the_recipes(path, tmp_path):
    argv = ["--config", path.stem, "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    recipe = parse_recipe(path.parent.name, path.parent, argv)
    assert recipe.config_name == path.stem
    assert isinstance(recipe.training.learning_rate, float)
    for setup in recipe.data.setups:
        assert resolve_setup(setup, recipe.setups)["plan"] in ("balanced", "imbalanced", "natural")
