"""Find, train away and report labels that depend on language in multilingual classification data.

Names are imported on first use (PEP 562): `import hf_langimb` loads neither torch nor transformers.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "JointDistribution": "distribution",
    "cell_weights": "weighting",
    "allocate": "sampling",
    "draw": "sampling",
    "LangImbTrainingArguments": "arguments",
    "LangImbTrainer": "trainer",
    "DataCollatorWithLanguage": "collator",
    "evaluate_predictions": "evaluation",
    "extract_features": "probe",
    "probe_languages": "probe",
    "ProbeResult": "probe",
    "attribute": "attribution.attribute",
    "AttributionStore": "attribution.store",
    "cumulative_difference": "attribution.difference",
    "push_run": "hub.push",
    "load_run": "hub.download",
    "Run": "hub.download",
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
