"""What follows from the setups of a run: monolingual curves, token efficiency, comparisons with controls, answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_langimb.cloned.law import fit_law, interpolated_tokens, token_efficiency
from hf_langimb.cloned.results import (
    LEAST_SEEDS,
    MATERIAL,
    ONE_RATE,
    QUESTION,
    SAME_TOKENS,
    Answer,
    Comparison,
    Curve,
    Efficiency,
    SetupResults,
    at_own_rates,
    could_help,
    has_minority,
    is_alone,
    is_constant,
    is_even,
    log_perplexity,
    mean_perplexity,
    minority,
    shares_of,
    source_of,
    tokens_of,
)
from hf_langimb.results.schema import Interval
from hf_langimb.results.summary import interval


def derive(results: Any) -> None:
    """Add what follows from the setups: curve, token efficiency, comparisons and answer."""
    setups: dict[str, SetupResults] = results["setups"]
    results["curves"] = {source: curve_of(setups, source) for source in ("first", "second")}
    results["efficiency"] = [*_efficiencies(setups, results["curves"])]
    results["comparisons"] = [*compare(setups)]
    results["verdict"] = answers(results["comparisons"], setups)


def compare(setups: Mapping[str, SetupResults]) -> Iterator[Comparison]:
    """The first and last language of each setup with each control.

    A control has read as many tokens of the language, in no more steps, without another language that could help; or,
    for a majority, it has had as many windows of that language alone as the setup had of all. Imbalanced setups are
    also compared with even ones of as many tokens of the language. Setups at the common learning rate are compared
    with each other.
    """
    for name, setup in setups.items():
        if not could_help(setup):
            continue
        for other, control in setups.items():
            even = is_even(control) and not is_even(setup) and control["relation"] == setup["relation"]
            if (could_help(control) and not even) or not _same_rates(name, other, setups):
                continue
            of, size, shares = minority(control), (setup["steps"], setup["rows"]), shares_of(setup)
            for language in sorted({0, setup["languages"] - 1}):
                tokens = tokens_of(control, of) / max(tokens_of(setup, language), 1)
                close = abs(tokens - 1) <= SAME_TOKENS and control["steps"] <= setup["steps"]
                majority = shares[language] > 0.5 and is_constant(setup) and is_alone(control)
                whole = majority and (control["steps"], control["rows"]) == size
                if (close or whole) and source_of(control, of) == source_of(setup, language):
                    yield {
                        "metric": "log_perplexity",
                        "setup": name,
                        "language": language,
                        "reference": other,
                        "tokens": tokens,
                        "difference": _difference(setup, language, control),
                    }


def _same_rates(name: str, other: str, setups: Mapping[str, SetupResults]) -> bool:
    """Whether two setups both have their own learning rate, or both the common one."""
    one = name.endswith(ONE_RATE)
    if one == other.endswith(ONE_RATE):
        return True
    own = other if one else name  # a setup without an own rate has no twin
    return one and f"{own}{ONE_RATE}" not in setups and setups[own]["learning_rate"] == setups[name]["learning_rate"]


def _difference(setup: SetupResults, language: int, control: SetupResults) -> Interval:
    """Ln PPL of a language of a setup minus that of a control, over the seeds that both have."""
    one, two = log_perplexity(setup, language), log_perplexity(control, minority(control))
    return interval([one[seed] - two[seed] for seed in one if seed in two])


def curve_of(setups: Mapping[str, SetupResults], source: str) -> Curve | None:
    """Perplexity by tokens of monolingual models, at their own learning rates; None for fewer than two."""
    own = {name: of for name, of in at_own_rates(setups).items() if is_alone(of)}
    alone = {name: of for name, of in own.items() if source_of(of, minority(of)) == source}
    if not alone:
        return None
    rows = max(alone.values(), key=lambda of: of["steps"] * of["rows"])["rows"]
    names = sorted((name for name, of in alone.items() if of["rows"] == rows), key=lambda name: alone[name]["steps"])
    if len(names) < 2:
        return None
    tokens = [tokens_of(alone[name], minority(alone[name])) for name in names]
    perplexity = [mean_perplexity(alone[name], minority(alone[name])) for name in names]
    try:
        fitted = fit_law(tokens, perplexity)
    except ValueError:  # too few models, or no fit
        fitted = None
    return {
        "setups": names,
        "tokens": tokens,
        "perplexity": perplexity,
        "law": [*fitted.law] if fitted and not fitted.at_bound else None,
        "residuals": [*fitted.residuals] if fitted else None,
    }


def by_tokens(setups: Mapping[str, SetupResults]) -> dict[str, list[tuple[float, float]]]:
    """(tokens of a language / tokens of the longest run, PPL) with a clone, and without one in two ways.

    Each at its own learning rate; only of two clones, at a constant probability. Monolingual models have fewer steps or
    smaller batches than the longest run. Empty where fewer than two of the three have two models.
    """
    own = [of for of in at_own_rates(setups).values() if of["relation"] == "clones"]
    alone = [of for of in own if is_alone(of)]
    longest = max(alone, key=lambda of: of["steps"] * of["rows"], default=None)
    if longest is None:
        return {}
    cloned = [of for of in own if (of["languages"], of["fraction_cloned"]) == (2, 1) and not is_alone(of)]
    found = {
        "with a clone": [of for of in cloned if is_constant(of)],
        "alone, fewer steps": [of for of in alone if of["rows"] == longest["rows"]],
        "alone, smaller batches": [of for of in alone if of["steps"] == longest["steps"]],
    }
    total = tokens_of(longest, minority(longest))
    read = {
        name: [(of, k) for of in members for k, share in enumerate(shares_of(of)) if share]
        for name, members in found.items()
    }
    points = {name: [(tokens_of(of, k) / total, mean_perplexity(of, k)) for of, k in read[name]] for name in found}
    lines = {name: of for name, of in points.items() if len(of) > 1}
    return lines if len(lines) > 1 else {}


def _efficiencies(setups: Mapping[str, SetupResults], curves: Mapping[str, Curve | None]) -> Iterator[Efficiency]:
    """Token efficiency of the first and last language of setups with several, at their own learning rates."""
    for name, setup in at_own_rates(setups).items():
        if is_alone(setup):
            continue
        for language in sorted({0, setup["languages"] - 1}):
            tokens = tokens_of(setup, language)
            curve, perplexity = curves[source_of(setup, language)], mean_perplexity(setup, language)
            if tokens == 0 or not curve or (language == 0 and not could_help(setup)):
                continue
            between = interpolated_tokens(perplexity, curve["tokens"], curve["perplexity"])
            law: Any = curve["law"]
            total = max(curve["tokens"])
            yield {
                "setup": name,
                "language": language,
                "interpolated": between and between / tokens,
                "law": token_efficiency(perplexity, tokens, law=tuple(law), total=total) if law else None,
                "extrapolated": not min(curve["perplexity"]) <= perplexity <= max(curve["perplexity"]),
            }


def answers(comparisons: Sequence[Comparison], setups: Mapping[str, SetupResults]) -> list[Answer]:
    """The answer by the first imbalanced setup whose minority has controls, if any: against the best of these."""
    own = [one for one in comparisons if not one["setup"].endswith(ONE_RATE) and has_minority(setups[one["setup"]])]
    unhelped = [one for one in own if not could_help(setups[one["reference"]])]
    rare = [one for one in unhelped if one["language"] == minority(setups[one["setup"]])]
    if not rare:
        return []
    of = rare[0]["setup"]
    controls = [one for one in rare if one["setup"] == of]
    best = max(controls, key=_mean)
    found, reference = best["difference"], best["reference"]
    rates = {setups[name]["learning_rate"] for name in (of, *(one["reference"] for one in controls))}
    references = [setups[one["reference"]] for one in controls]
    equal = any(is_alone(control) and control["steps"] == setups[of]["steps"] for control in references)
    said, why = _said(found, len(rates) > 1, equal)
    less = "lower" if found["mean"] < 0 else "higher"
    rate = "each at the learning rate of its setup" if len(rates) > 1 else f"all at the learning rate {min(rates):g}"
    alone = max((one for one in controls if is_alone(setups[one["reference"]])), key=_mean, default=best)
    text = (
        f"The minority language of '{of}' has a log perplexity that is {abs(found['mean']):.3f} {less} than in its "
        f"best control, '{reference}' ({difference_text(found)}), {rate}. {why}."
    )
    if alone is not best:
        text += f" Best monolingual control, '{alone['reference']}': {difference_text(alone['difference'])}."
    return [
        {
            "name": "majority_helps",
            "question": QUESTION,
            "answer": said,
            "value": found["mean"],
            "low": found["low"],
            "high": found["high"],
            "delta": -MATERIAL,
            "basis": "seeds",
            "setup": of,
            "reference": reference,
            "text": text,
        }
    ]


def _said(found: Interval, tuned: bool, equal: bool) -> tuple[str, str]:
    """The answer by the difference from the best control, and why.

    `tuned`: whether learning rates differ; `equal`: whether a monolingual control has as many steps.
    """
    low, high, count = found["low"], found["high"], found["n"]
    least = f"-{MATERIAL:g} (2% of the perplexity), the smallest gain that counts"
    if count < LEAST_SEEDS or low is None or high is None:
        return f"unclear, {'one seed' if count == 1 else 'two seeds'}", f"Add --seeds {LEAST_SEEDS} for an interval"
    if low > -MATERIAL:
        return "no", f"The whole interval is above {least}"
    if high >= -MATERIAL:
        return "unclear", f"The interval contains {least}"
    if not tuned:
        return (
            "unclear, one learning rate",
            "At one learning rate, controls can look worse than they are: choose one for each setup",
        )
    if not equal:
        return "unclear, no control in equal steps", "Add a monolingual setup of smaller batches in as many steps"
    return "yes", f"The whole interval is below {least}"


def _mean(one: Comparison) -> float:
    """The mean difference of a comparison."""
    return one["difference"]["mean"]


def difference_text(found: Interval) -> str:
    """A difference of ln PPL, with its interval from `LEAST_SEEDS` seeds on."""
    enough = found["low"] is not None and found["n"] >= LEAST_SEEDS
    return f"{found['mean']:+.3f}" + (f" [{found['low']:+.3f}, {found['high']:+.3f}]" if enough else "")
