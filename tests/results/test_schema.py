"""results.json: intervals, paired comparisons, its keys, what is refused, and files that stay complete."""

import json
import math
from pathlib import Path
from typing import NotRequired, get_origin, get_type_hints

import numpy as np
import pytest
from conftest import unknown_keys
from scipy import stats

import hf_langimb
from hf_langimb import JointDistribution
from hf_langimb.cloned.results import ClonedResults, is_cloned, read_cloned
from hf_langimb.files import write_json
from hf_langimb.results import schema
from hf_langimb.results.schema import Results, read_results, validate, write_results
from hf_langimb.results.summary import COMPARED, compare, interval, summarize

KEPT = Path(hf_langimb.__file__).parents[1] / "model_cards"
HINTS = get_type_hints(Results, include_extras=True)
REQUIRED = {key for key, hint in HINTS.items() if get_origin(hint) is not NotRequired}


def metrics(accuracy, external=None, reliance=0.5):
    nulls = dict.fromkeys(("loss", "plain_loss", "skew_transfer", "intervals", "calibration"))
    test = dict.fromkeys(schema.TestMetrics.__annotations__, 0.25) | nulls
    test |= {"rows": 6, "accuracy": accuracy, "reliance": reliance}
    test["by_language"] = {"en": {"accuracy": accuracy, "macro_f1": 0.5}}
    test["predicted"] = [[1, 2], [3, 0]]
    measures = ("accuracy", "chance", "control", "bits_below_chance", "confidence")
    probe = dict.fromkeys(measures, 0.5) | {"control_interval": [0.4, 0.6], "rows": 6}
    external = external and probe | external
    return {"test": test, "probe": {"test": probe | {"accuracy": 0.9, "converged": True}, "external": external}}


def setup(*seeds, plan="balanced"):
    numbered = {str(seed): value for seed, value in enumerate(seeds)}
    settings = {"class_weighting": "none", "masked_entropy_weight": 0.0, "lora_rank": 0}
    return {"plan": plan, **settings, "seeds": numbered, "summary": summarize(numbered)}


@pytest.fixture
def results():
    setups = {"balanced": setup(metrics(0.7), metrics(0.8)), "imbalanced": setup(metrics(0.6), metrics(0.65))}
    names = {"languages": ["en", "fr"], "labels": ["no", "yes"]}
    head = {"schema_version": 1, "recipe": "xnli", "config_name": "mini", "config": {"seed": 0}, "seeds": [0, 1]}
    data = {"test/balanced": JointDistribution(**names, counts=[[2, 1], [1, 2]]).audit()}
    return head | names | {"data": data, "setups": setups, "comparisons": compare(setups), "attributions": None}


def test_interval_against_scipy():
    for values in ([0.5, 0.7], [0.61, 0.58, 0.66, 0.6, 0.63], [-1e-3, 2e-3, 5e-4]):
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        expected = {"mean": np.mean(values), "low": low, "high": high, "n": len(values)}
        assert interval(values) == pytest.approx(expected)
    assert interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert interval([0.25, 0.25, 0.25]) == {"mean": 0.25, "low": 0.25, "high": 0.25, "n": 3}


def test_summary_has_the_measures_that_every_seed_has():
    summary = summarize({"0": metrics(0.7, {"accuracy": 0.8}), "1": metrics(0.8, None, reliance=None)})
    assert summary["test.accuracy"] == interval([0.7, 0.8])
    assert summary["test.by_language.en.accuracy"] == interval([0.7, 0.8])
    assert not {"test.rows", "test.reliance", "probe.external.accuracy", "probe.test.converged"} & set(summary)


def test_comparisons_are_paired_by_seed():
    """Both setups rise by .2 from seed to seed: unpaired they overlap, paired the difference is exact."""
    setups = {"a": setup(metrics(0.5), metrics(0.7), metrics(0.9)), "b": setup(metrics(0.4), metrics(0.6))}
    found = {entry["metric"]: entry for entry in compare(setups)}
    entry, difference = found["test.accuracy"], found["test.accuracy"]["difference"]
    assert (entry["setup"], entry["reference"], difference["n"]) == ("b", "a", 2)  # seeds that both have
    assert [difference["mean"], difference["high"]] == pytest.approx([-0.1, -0.1])
    assert "probe.external.accuracy" not in found and set(found) <= set(COMPARED)
    three = {name: setup(metrics(0.5)) for name in ("a", "b", "c")}
    pairs = {(entry["setup"], entry["reference"]) for entry in compare(three)}
    assert pairs == {("b", "a"), ("c", "a"), ("c", "b")}  # each with those before it
    three["b"]["seeds"] = {"7": metrics(0.5)}
    assert compare({name: three[name] for name in ("a", "b")}) == []


def test_what_is_written_is_read(results, tmp_path):
    path = write_results(tmp_path / "new" / "folder", results)
    assert path == tmp_path / "new" / "folder" / "results.json"
    assert read_results(path.parent) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    write_json(tmp_path / "a.json", {"label": "négatif"})
    assert "négatif" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_what_cannot_be_written_leaves_the_old_file(results, tmp_path):
    with pytest.raises(ValueError, match="comparisons"):
        write_results(tmp_path, {key: value for key, value in results.items() if key != "comparisons"})
    assert not list(tmp_path.iterdir())
    path = write_results(tmp_path, results)
    before = path.read_bytes()
    for value in (math.nan, math.inf, -math.inf, object()):
        results["setups"]["balanced"]["seeds"]["0"]["test"]["accuracy"] = value
        with pytest.raises((ValueError, TypeError)):
            write_results(tmp_path, results)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("run", [path.parent for path in sorted(KEPT.rglob("results.json"))], ids=lambda run: run.name)
def test_every_key_of_kept_results_is_in_the_schema(run):
    if is_cloned(run):
        assert not list(unknown_keys(read_cloned(run), ClonedResults))
        return
    kept = read_results(run)
    assert not list(unknown_keys(kept, Results))
    earlier = run.name == "xnli-small"  # without a verdict in its audits
    assert all(("verdict" in audit) is not earlier for audit in kept["data"].values())
    kept["setups"]["balanced-too"] = {"surprise": 1}
    assert list(unknown_keys(kept, Results)) == ["setups, balanced-too, surprise"]


def test_unknown_keys_pass_and_later_ones_may_be_missing(results):
    later = {"flags", "noise_ceiling", "explained", "total_batch", "warnings", "notes"}
    later |= {"tokens", "verdict", "recommendation", "correction", "refit"}
    assert later == HINTS.keys() - REQUIRED
    validate(results | {"new": {"deep": [None]}}, "here")
    results["data"]["test/balanced"]["new"] = 1
    validate(results, "here")
    for key in ("p_value", "link", "verdict"):
        del results["data"]["test/balanced"][key]
    validate(results | {"flags": {}, "noise_ceiling": None, "explained": None}, "here")
    validate(results | {"noise_ceiling": 0.93}, "here")


def test_missing_and_damaged_files_other_versions_and_missing_keys(results, tmp_path):
    with pytest.raises(ValueError, match=r"got .*: run the recipe first"):
        read_results(tmp_path)
    path = write_results(tmp_path, results)
    text = path.read_text()
    numbers = [text.replace("0.7", number, 1).encode() for number in ("NaN", "-Infinity", "1e999")]
    for damaged in (text[: len(text) // 2].encode(), b"\xff\xfe\x00", *numbers, b"[" * 100_000, b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"not valid JSON.*run the recipe again with the same --output_dir"):
            read_results(tmp_path)
    for version, shown in ((2, "2: upgrade hf_langimb"), (0, "0"), ("1", "'1'"), (None, "None"), (True, "True")):
        path.write_text(json.dumps(results | {"schema_version": version}))
        with pytest.raises(ValueError, match=f"expected schema_version 1, got {shown}"):
            read_results(tmp_path)
    for key in REQUIRED - {"schema_version"}:
        with pytest.raises(ValueError, match=f"here: expected the keys {key}"):
            validate({name: value for name, value in results.items() if name != key}, "here")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "here: expected object, got \\[\\]"),
        (("setups",), [], "here, setups: expected one entry or more, got \\[\\]"),
        (("setups", "balanced"), {}, "here, setups, balanced: expected the keys plan, class_weighting"),
        (("setups", "balanced"), None, "here, setups, balanced: expected object, got null"),
        (("setups", "balanced", "seeds"), {}, "here, setups, balanced, seeds: expected one entry or more"),
        (("setups", "balanced", "seeds", "1", "test"), {}, "balanced, seeds, 1, test: expected the keys rows"),
        (("setups", "balanced", "seeds", "1", "probe"), {}, "seeds, 1, probe: expected the keys test, external"),
        (("setups", "balanced", "seeds", "1", "probe", "test"), {}, "probe, test: expected the keys accuracy"),
        (("setups", "balanced", "seeds", "1"), {"test": {}}, "balanced, seeds, 1: expected the keys probe"),
        (("setups", "balanced", "seeds", "1", "test", "predicted"), [[1, 2]], "expected 2 languages or more x 2 lab"),
        (("setups", "balanced", "seeds", "1", "test", "predicted"), None, "predicted: expected list, got null"),
        (("setups", "balanced", "seeds", "1", "test", "accuracy"), True, "accuracy: expected number, got true"),
        (("setups", "balanced", "summary", "test.accuracy"), 0.5, "summary, test.accuracy: expected object, got 0.5"),
        (("setups", "balanced", "summary", "test.accuracy", "mean"), None, "mean: expected number, got null"),
        (("comparisons",), None, "here, comparisons: expected list, got null"),
        (("comparisons",), [{"metric": "test.accuracy"}], "here, comparisons, 0: expected the keys setup, reference"),
        (("data", "test/balanced"), {}, "here, data, test/balanced: expected the keys languages"),
        (("seeds",), [], "here, seeds: expected one entry or more"),
        (("noise_ceiling",), "high", 'here, noise_ceiling: expected number, got "high"'),
        (("explained",), {"examples": 6}, "here, explained: expected the keys truncated_share, base_values, tokens"),
        (("data", "test/balanced", "link"), 7, "here, data, test/balanced, link: expected text, got 7"),
        (("setups", "balanced", "seeds", "1", "probe", "test", "converged"), 1, "converged: expected true or false"),
        (("setups", "a b"), {}, "here, setups, a b: expected the keys plan"),
        (("config",), "mini", 'here, config: expected object, got "mini"'),
    ],
)
def test_wrong_shape(results, path, value, message):
    tree = part = {"results": results}
    for key in ("results", *path)[:-1]:
        part = part[key]
    part[("results", *path)[-1]] = value
    with pytest.raises(ValueError, match=message):
        validate(tree["results"], "here")
