"""results.json of a user's skewed data with simulated predictions: two setups, a natural test set, no trained model."""

import json

import numpy as np

from hf_langimb.counts.distribution import JointDistribution
from hf_langimb.measures.dependence import language_shifts, sampled, target_measures
from hf_langimb.measures.predictions import evaluate_predictions
from hf_langimb.results.summary import roles_of
from hf_langimb.runs.judge import Judge
from hf_langimb.runs.steps import assemble_results

LABELS = [
    "a question about an invoice or a payment",
    "delivery is late",
    "praise",
    "cancel",
    "return",
    "error",
    "other",
]
SETTINGS = {"plan": "natural", "masked_entropy_weight": 0.0, "lora_rank": 0}


def skewed_results(languages, labels=4, rows=3000, *, guesses=0.9, accuracy=0.5, seeds=1, draws=100):
    """Results of the setups plain and independence.

    Args:
        languages, labels: numbers of them.
        rows: of the test set, and a quarter of those of the training set.
        guesses: share of the wrong predictions of plain that are drawn from the labels of their language.
        accuracy: share of predictions that know the label.
        seeds: number of models of each setup.
        draws: of bootstraps and null distributions.
    """
    random = np.random.default_rng(0)
    names = [f"l{i:03d}" for i in range(languages)]
    joint = np.array([random.dirichlet(np.full(labels, 1.5)) for _ in names])
    joint[joint < 0.02] = 0  # cells without rows
    joint /= joint.sum(axis=1, keepdims=True)
    sizes = np.maximum(rows * random.dirichlet(np.full(languages, 2.0)), 4).astype(int)
    counts = {
        split: np.array([random.multinomial(times * size, shares) for size, shares in zip(sizes, joint, strict=True)])
        for split, times in (("train", 4), ("validation", 1), ("test", 1))
    }
    plan = JointDistribution(tuple(names), tuple(range(labels)), counts["train"])
    metrics, samples = {"plain": {}, "independence": {}}, {}
    for number, (setup, share) in enumerate((("plain", guesses), ("independence", 0.0))):
        for seed in map(str, range(seeds)):
            of = {}
            for split in ("validation", "test"):
                columns = _predicted(names, counts[split], joint, share, accuracy, [number, int(seed)])
                of[split] = sampled(**columns, plan=plan, groups=None, resamples=draws)
            targets = target_measures(**columns, plan=plan, resamples=draws, draws=draws)
            metrics[setup][seed] = {
                "test": evaluate_predictions(**columns, plan=plan),
                "targets": targets,
                "shift": language_shifts(**columns, plan=plan),
                "probe": {"test": None, "external": None},
            }
            samples[setup, seed] = of
    setups = {
        name: SETTINGS | {"class_weighting": weights}
        for name, weights in zip(metrics, ("none", "independence"), strict=True)
    }
    audits = {
        f"{split}/natural": JointDistribution(tuple(names), tuple(LABELS[:labels]), table).audit("none")
        for split, table in counts.items()
    }
    judge = Judge(roles_of(setups), metrics, samples, audits["train/natural"], int(counts["validation"].sum()))
    results = assemble_results(
        recipe="custom",
        config_name="custom",
        config={"dataset_name": "tickets.csv", "setups": list(setups)},
        flags={"dataset_name": "tickets.csv"},
        languages=names,
        labels=LABELS[:labels],
        seeds=list(range(seeds)),
        data=audits,
        setups={name: setup | {"seeds": metrics[name]} for name, setup in setups.items()},
    )
    results["verdict"] = [*judge.verdict()]
    results["recommendation"] = judge.recommendation(results["verdict"])
    results |= {"warnings": ["independence: a few rows dominate."], "notes": ["A tenth of the rows is the test set."]}
    return json.loads(json.dumps(results))


def _predicted(names, counts, joint, share, accuracy, seed):
    """Columns of rows with their predictions."""
    random = np.random.default_rng(seed)
    languages, labels = (np.repeat(axis, counts.ravel()) for axis in np.indices(counts.shape).reshape(2, -1))
    uniform = random.random(len(labels))
    local = (uniform[:, None] > joint[languages].cumsum(axis=1)[:, :-1]).sum(axis=1)
    anywhere = random.permutation(labels)
    guess = np.where(random.random(len(labels)) < share, local, anywhere)
    predictions = np.where(random.random(len(labels)) < accuracy, labels, guess)
    return {"languages": np.array(names, dtype=object)[languages], "labels": labels, "predictions": predictions}
