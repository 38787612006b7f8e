"""How often the answers "predictions depend on language" are wrong, on simulated predictions whose dependence is known.

python tests/benchmarks/verdict_rule.py [--draws 1000] [--resamples 400] [--kept model_cards/verdict/rule.json]

Predictions of L languages and C labels are right with a probability that is lower in weak languages, and are otherwise
drawn from shares that favor one label per language. The strength of this preference is chosen so that the dependence D
under the target `independent` is 0, half of the threshold, the threshold or twice the threshold. Labels and language
sizes (1 : 1/2 : ... : 1/L) are even or uneven, uneven labels are reversed in every second language, and rows are
different or translations, which are predicted alike (languages then have one size and no label is reversed).
For each: the shares of the answers yes and no, and how often the interval contains D. "Yes" is wrong up to the
threshold. Cases are added to the kept file one by one; one that it has with as many draws or more is skipped.
"""

import json
import sys
from argparse import ArgumentParser
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from several_runs import keep, kept

from hf_langimb.measures.chance import null_tables
from hf_langimb.measures.dependence import sampled
from hf_langimb.measures.intervals import information_interval
from hf_langimb.measures.shortcut import MATERIAL_BITS, answer
from hf_langimb.measures.targets import excess, information, weighted

SHAPES = ((2, 3, 1000), (12, 3, 3000), (28, 7, 5000), (205, 7, 40_000))
KIND = ("languages", "labels", "rows", "uneven", "parallel", "weak languages", "size")  # what was simulated
RIGHT, WEAK = 0.75, 0.45  # accuracy of a language, before it leans


def joint(count, classes, uneven, parallel):
    """Shares of the test rows, [L, C]."""
    languages = np.ones(count) if not uneven or parallel else 1 / np.arange(1, count + 1)
    labels = 0.8 ** np.arange(classes) if uneven else np.ones(classes)
    table = np.outer(languages, labels)
    if uneven and not parallel:  # every second language has the labels the other way round
        table[1::2] = table[1::2, ::-1]
    return table / table.sum()


def predicted(count, classes, lean, weak):
    """P(prediction | language, label), [L, C, C], if languages lean to labels by `lean`."""
    right = np.where(weak & (np.arange(count) % 3 == 0), WEAK, RIGHT)[:, None, None]
    drift = np.full((count, classes), 1 / classes)
    favored = np.eye(classes)[np.arange(count) % classes]
    drift = (1 - lean) * drift + lean * favored
    return right * np.eye(classes) + (1 - right) * drift[:, None]


def leaning(table, size, weak):
    """How far languages must lean for a dependence of `size`; None where weakness alone gives more."""

    def surplus(lean):
        return float(excess(table[..., None] * predicted(*table.shape, lean, weak), "independent")) - size

    if surplus(0.0) >= 0:
        return 0.0 if size == 0 else None
    return brentq(surplus, 0, 1)


def draw(table, of, rows, parallel, rng):
    """Rows of a test set and their predictions: columns of positions, and groups."""
    count, classes = table.shape
    if parallel:
        items = rows // count
        labels = np.repeat(rng.choice(classes, items, p=table.sum(axis=0)), count)
        languages, groups = np.tile(np.arange(count), items), np.repeat(np.arange(items), count)
        chance = np.repeat(rng.random(items), count)  # translations are predicted alike
    else:
        cells = rng.choice(table.size, rows, p=table.ravel())
        languages, labels = np.divmod(cells, classes)
        groups, chance = np.arange(rows), rng.random(rows)
    steps = np.cumsum(of[languages, labels], axis=1)
    steps[:, -1] = 1
    return languages, labels, (chance[:, None] > steps).sum(axis=1), groups


def chance(languages, labels, predictions, groups, shape, seed):
    """Chance level of the dependence, less what labels explain where cells have no rows."""
    cells = np.zeros((*shape, shape[1]), dtype=np.int64)
    np.add.at(cells, (languages, labels, predictions), 1)
    drawn = null_tables(languages, labels, predictions, groups, shape, 200, seed)
    bits = np.concatenate([information(weighted(tables, "independent").sum(axis=-2)) for tables in drawn])
    explained = information(weighted(cells, "independent").sum(axis=1)) - excess(cells, "independent")
    return float(bits.mean() - explained)


def measure(count, classes, rows, uneven, parallel, weak, size, draws, resamples, rng):
    """Shares of the answers, and how often the interval contains the true dependence."""
    table = joint(count, classes, uneven, parallel)
    if (lean := leaning(table, size, weak)) is None:
        return None
    of = predicted(count, classes, lean, weak)
    truth = float(excess(table[..., None] * of, "independent"))
    answers, covered = [], []
    for _ in range(draws):
        languages, labels, predictions, groups = draw(table, of, rows, parallel, rng)
        names = np.char.mod("%03d", languages)
        plan = np.ones((len(np.unique(languages)), len(np.unique([*labels, *predictions]))))
        model = sampled(names, labels, predictions, plan=plan, groups=groups, resamples=resamples, seed=len(covered))
        bias = chance(languages, labels, predictions, groups if parallel else None, table.shape, len(covered))
        low, high = information_interval(model.values["bits"], model.resampled["bits"], bias)
        answers.append(answer(low, high, MATERIAL_BITS))
        covered.append(low <= truth <= high)
    shares = {kind: answers.count(kind) / draws for kind in ("yes", "no")}
    return {"dependence": truth, **shares, "coverage": float(np.mean(covered)), "draws": draws}


def main():
    parser = ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--shapes", type=int, nargs="+", default=range(len(SHAPES)), help="numbers of SHAPES")
    parser.add_argument("--kept", type=Path, default=Path(__file__).parents[2] / "model_cards/verdict/rule.json")
    options = parser.parse_args()
    found = {tuple(of[name] for name in KIND): of for of in kept(options.kept) or []}
    kinds = [*product(range(len(SHAPES)), (False, True), (False, True), (False, True), (0, 0.5, 1, 2))]
    for seed, (number, uneven, parallel, weak, times) in enumerate(kinds, 1000):
        kind = *SHAPES[number], uneven, parallel, weak, times * MATERIAL_BITS
        if number not in options.shapes or (kind in found and found[kind]["draws"] >= options.draws):
            continue
        rng = np.random.default_rng(seed)
        result = measure(
            *SHAPES[number], uneven, parallel, weak, times * MATERIAL_BITS, options.draws, options.resamples, rng
        )
        if result:
            found[kind] = dict(zip(KIND, kind, strict=True)) | result
            print(json.dumps(found[kind]), file=sys.stderr, flush=True)
            keep(options.kept, [found[kind] for kind in sorted(found)])


if __name__ == "__main__":
    main()
