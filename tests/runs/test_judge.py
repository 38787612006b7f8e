"""The verdict of a run and its recommendation, on simulated predictions of known kinds."""

import json

import numpy as np
import pytest

from hf_langimb import JointDistribution
from hf_langimb.measures.dependence import language_shifts, sampled, target_measures
from hf_langimb.results.summary import Roles, roles_of
from hf_langimb.runs.judge import Judge, Sizes, tokens_verdict

TRAINING = np.array([[600, 300, 100], [100, 300, 600]] * 3)
PLAN = TRAINING / TRAINING.sum(axis=1, keepdims=True)
NAMES = np.array(["de", "en", "es", "fr", "ja", "zh"])
LANGUAGES, LABELS = (np.repeat(values, 150) for values in (np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)))


def predict(right, lean, seed, toward=PLAN):
    """Predictions that are right with a probability of `right`, else of a label that `toward` has, or of any."""
    rng = np.random.default_rng(seed)
    shares = (lean * toward + (1 - lean) / 3)[LANGUAGES]
    drawn = (rng.random(len(LABELS))[:, None] > np.cumsum(shares, axis=1)[:, :2]).sum(axis=1)
    return np.where(rng.random(len(LABELS)) < right, LABELS, drawn)


OWN, USUAL = Roles("plain", None, ("independence",)), Sizes()


def judge(models, roles=OWN, training=TRAINING, sizes=USUAL):
    """The judge of {setup: predictions by seed}; validation rows are the test rows."""
    metrics, samples = {}, {}
    plan = JointDistribution(NAMES.tolist(), [0, 1, 2], training)
    for setup, by_seed in models.items():
        for seed, predictions in enumerate(by_seed):
            columns = {"languages": NAMES[LANGUAGES], "labels": LABELS, "predictions": predictions, "plan": plan}
            columns["groups"] = np.arange(len(LABELS))
            found = {
                "targets": target_measures(**columns, resamples=300, draws=50),
                "shift": language_shifts(**columns),
            }
            probe = {"accuracy": 0.9 - 0.1 * (setup != "plain"), "rows": 900, "groups": 900}
            metrics.setdefault(setup, {})[str(seed)] = found | {"probe": {"test": probe, "external": None}}
            model = sampled(**columns, resamples=300)
            samples[setup, str(seed)] = {"test": model, "validation": model}
    return Judge(roles, metrics, samples, plan.audit(), len(LABELS), sizes)


def answers(judged):
    verdict = [*judged.verdict()]
    assert json.dumps(verdict, allow_nan=False)
    return {entry["name"]: entry["answer"] for entry in verdict}, judged.recommendation(verdict)


def test_a_shortcut_that_weights_remove():
    judged = judge({"plain": [predict(0.5, 1.0, 0)], "independence": [predict(0.5, 0.0, 1)]})
    found, recommended = answers(judged)
    expected = dict.fromkeys(("link", "dependence", "follows_skew", "caused_by_link", "shortcut", "cure"), "yes")
    assert {name: found[name] for name in expected} == expected
    assert found["accuracy"] in ("yes", "unclear")
    assert found["probe"] == "yes"
    assert (recommended["setup"], recommended["chosen_on"]) == ("independence", "validation")
    entries = {entry["name"]: entry for entry in judged.verdict()}
    assert entries["follows_skew"]["value"] == pytest.approx(0.5, abs=0.05)  # of every second row, the plan's label
    assert (entries["cure"]["setup"], entries["cure"]["reference"]) == ("independence", "plain")
    assert set(entries["languages"]["languages"]) == {*NAMES}
    assert entries["accuracy"]["question"].startswith(
        "Is the accuracy of independence at most 0.02 below that of plain"
    )


def test_no_shortcut_without_a_link_and_without_dependence():
    leaning = {"plain": [predict(0.5, 1.0, 0)], "independence": [predict(0.5, 0.0, 1)]}
    found, recommended = answers(judge(leaning, training=np.full((6, 3), 300)))
    assert (found["link"], found["shortcut"]) == ("no", "no")
    assert recommended["setup"] == "plain"
    assert recommended["reason"] == "no shortcut was found"
    found, recommended = answers(judge({"plain": [predict(0.7, 0.0, 0)], "independence": [predict(0.7, 0.0, 1)]}))
    assert (found["link"], found["dependence"], found["shortcut"], found["languages"]) == ("yes", "no", "no", "no")
    assert recommended["setup"] == "plain"


def test_dependence_without_direction_or_cause_is_no_shortcut():
    """Languages lean to labels, but not as the training labels do, and weights change nothing."""
    other = np.eye(3)[[1, 1, 0, 0, 2, 2]]
    leaning = {name: [predict(0.5, 0.8, seed, other)] for seed, name in enumerate(("plain", "independence"))}
    found, recommended = answers(judge(leaning))
    assert found["dependence"] == "yes"
    assert found["follows_skew"] == "no"
    assert found["shortcut"] in ("no", "unclear")
    assert recommended["setup"] in ("plain", None)


def test_a_model_that_has_learned_nothing_is_not_judged():
    found, recommended = answers(judge({"plain": [predict(0.0, 1.0, 0)], "independence": [predict(0.0, 0.0, 1)]}))
    assert found == {"link": "yes", "shortcut": "not measured"}
    assert recommended["setup"] is None
    assert "not shown that the model has learned the task" in recommended["reason"]


def test_one_language_is_no_question():
    models = {"plain": [predict(0.6, 0.0, 0)], "independence": [predict(0.6, 0.0, 1)]}
    one = np.vstack([TRAINING[:1], np.zeros((5, 3), dtype=int)])
    found, recommended = answers(judge(models, training=one))
    assert found == {"link": "not measured", "shortcut": "not measured"}
    assert recommended["reason"] == "the training data are in one language"


def test_reasons_why_nothing_is_recommended():
    plain = [predict(0.5, 1.0, 0)]
    _, recommended = answers(judge({"plain": plain, "independence": [predict(0.2, 0.0, 1)]}))
    assert recommended["setup"] is None
    assert recommended["reason"].startswith(
        "the setup 'independence' lowers the dependence, but lowers accuracy by more than 0.02;"
    )
    _, recommended = answers(judge({"plain": plain, "independence": [predict(0.2, 0.0, 1)]}, sizes=Sizes(margin=0.9)))
    assert recommended["setup"] == "independence"
    _, recommended = answers(judge({"plain": plain, "independence": plain}))
    assert (recommended["setup"], recommended["reason"][:35]) == (None, "no setup lowers the dependence enou")
    for seed in range(1, 4):  # a model that is as dependent, up to chance
        _, recommended = answers(judge({"plain": plain, "independence": [predict(0.5, 1.0, seed)]}))
        assert recommended["setup"] is None
        assert "2,700 validation rows are too few to tell whether the setup 'independence'" in recommended["reason"]
    slightly = [predict(0.5, 0.97, 0)]
    _, recommended = answers(judge({"plain": plain, "independence": slightly}))
    assert recommended["setup"] in (None, "independence")
    if recommended["setup"] is None:
        assert "2,700 validation rows are too few to tell whether " in recommended["reason"]


def test_models_that_have_learned_nothing_are_neither_recommended_nor_a_cause():
    plain = [predict(0.5, 1.0, seed) for seed in range(3)]
    judged = judge({"plain": plain, "independence": [predict(0.0, 0.0, seed) for seed in range(3)]})
    entries = {entry["name"]: entry for entry in judged.verdict()}
    assert entries["caused_by_link"]["answer"] == entries["cure"]["answer"] == "not measured"
    assert "not shown that the model has learned" in entries["cure"]["detail"]
    assert judged.recommendation([*entries.values()])["setup"] is None


def test_one_failed_seed_is_left_out_and_said():
    plain = [predict(0.5, 1.0, 0), predict(0.0, 0.0, 1), predict(0.5, 1.0, 2)]
    cures = [predict(0.5, 0.0, seed) for seed in range(3)]
    (found,) = [e for e in judge({"plain": plain, "independence": cures}).verdict() if e["name"] == "shortcut"]
    assert (found["answer"], found["detail"]) == ("yes", "without 1 of 3 models, which have not learned the task")


def test_several_seeds_and_a_control():
    roles = Roles("imbalanced", "balanced", ("weighted",))
    models = {"balanced": [predict(0.6, 0.0, seed) for seed in range(5)]}
    models |= {"imbalanced": [predict(0.5, 0.8, 10 + seed) for seed in range(5)]}
    models |= {"weighted": [predict(0.55, 0.05, 20 + seed) for seed in range(5)]}
    judged = judge(models, roles)
    found, recommended = answers(judged)
    assert (found["caused_by_link"], found["shortcut"], found["cure"]) == ("yes", "yes", "yes")
    entries = [*judged.verdict()]
    assert all(entry["basis"] == "seeds" for entry in entries if entry["name"] in ("dependence", "cure", "accuracy"))
    compared = [(entry["setup"], entry["reference"]) for entry in entries if entry["name"] == "accuracy"]
    assert compared == [("imbalanced", "balanced"), ("weighted", "imbalanced")]
    assert recommended["setup"] == "weighted"
    assert [*judge(models, Roles(None, None, ())).verdict()] == []


def test_roles_follow_from_plans_and_weights():
    def setup(plan, weighting="none", entropy=0, rank=0):
        return {"plan": plan, "class_weighting": weighting, "masked_entropy_weight": entropy, "lora_rank": rank}

    paper = {"balanced": setup("balanced"), "imbalanced": setup("imbalanced")}
    paper |= {"weighted": setup("imbalanced", "per_language"), "other": setup("imbalanced", "joint", 1)}
    assert roles_of(paper) == Roles("imbalanced", "balanced", ("weighted",))
    assert roles_of(paper).pair == ("imbalanced", "balanced")
    own = {"plain": setup("natural"), "independence": setup("natural", "independence")}
    assert roles_of(own) == Roles("plain", None, ("independence",))
    assert roles_of(own).pair == ("plain", "independence")
    focal = setup("natural") | {"options": {"objective": "focal"}}
    drawn = setup("natural") | {"options": {"sampling": "joint"}}
    schedule = setup("natural") | {"options": {"language_schedule": "fr:0.5"}}
    others = {"focal": focal, "class": setup("natural", "class"), "drawn": drawn, "schedule": schedule}
    several = roles_of(others | {"plain": setup("natural") | {"options": {"weight_exponent": 0.5}}})
    assert several == Roles("plain", None, ("drawn",), ("focal", "class", "schedule"))
    assert several.mitigations == ("drawn", "focal", "class", "schedule")
    assert several.pair == ("plain", "drawn")  # the others leave the link in the data
    assert roles_of({"plain": setup("natural"), "focal": focal}).pair is None
    assert roles_of({"balanced": setup("balanced")}) == Roles(None, None, ())
    assert roles_of({"plain": setup("natural")}).pair is None


def test_neutral_tokens_are_answered_in_the_over_represented_cells_without_selection_bias():
    def found(*cells, over_seeds=True):
        """The difference between two setups, with the neutral sum and its interval in each cell."""
        entries = []
        for (label, language), (neutral, low, high) in cells:
            ends = {"neutral": [low, high]}
            entry = {"threshold": 0.01, "label": label, "language": language, "neutral": neutral, "intervals": ends}
            entries.append(entry | {"seed_intervals": ends if over_seeds else None})
        return {"setup": "weighted", "reference": "imbalanced", "result": entries, "unbiased": entries}

    marks = {("x", "de"): 1, ("y", "fr"): 1, ("x", "fr"): -1, ("y", "de"): 0}
    cells = [(("x", "de"), (0.2, 0.1, 0.3)), (("y", "fr"), (0.1, 0.05, 0.2)), (("x", "fr"), (-0.9, -1.0, -0.8))]
    (entry,) = tokens_verdict(found(*cells), marks)
    assert (entry["answer"], entry["low"], entry["high"], entry["basis"]) == ("yes", 0.05, 0.3, "seeds")
    assert entry["value"] == pytest.approx(0.15)
    assert entry["question"].endswith("(weighted - imbalanced)?")
    cells[1] = ("y", "fr"), (0.1, -0.05, 0.2)
    (entry,) = tokens_verdict(found(*cells, over_seeds=False), marks)
    assert (entry["answer"], entry["basis"]) == ("unclear", "rows")
    assert entry["detail"].startswith("in 1 of 2 cells")
    cells[:2] = [(("x", "de"), (-0.2, -0.3, -0.1)), (("y", "fr"), (-0.1, -0.2, -0.05))]
    assert tokens_verdict(found(*cells), marks)[0]["answer"] == "no"
    assert tokens_verdict(found(*cells) | {"unbiased": []}, marks) == []
    assert tokens_verdict(found(*cells), {}) == []
