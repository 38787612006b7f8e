"""Detect, mitigate and report labels that depend on language in multilingual classification data.

Names are imported on first use (PEP 562): `import hf_langimb` loads neither torch nor transformers.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "JointDistribution": "counts.distribution",
    "MultiLabelDistribution": "counts.multi_label",
    "cell_weights": "counts.weighting",
    "allocate": "counts.sampling",
    "draw": "counts.sampling",
    "LangImbTrainingArguments": "training.arguments",
    "LangImbTrainer": "training.trainer",
    "DataCollatorWithLanguage": "training.collator",
    "evaluate_predictions": "measures.predictions",
    "evaluate_labels": "measures.multi_label",
    "extract_features": "measures.forward",
    "probe_languages": "measures.probe",
    "ProbeResult": "measures.probe",
    "attribute": "measures.attribution.attribute",
    "AttributionStore": "measures.attribution.store",
    "cumulative_difference": "measures.attribution.difference",
    "compare_seeds": "measures.attribution.difference",
    "push_run": "hub.push",
    "load_run": "hub.pull",
    "Run": "hub.pull",
    "CloneMap": "cloned.vocabulary",
    "window_language": "cloned.schedule",
    "token_efficiency": "cloned.law",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
