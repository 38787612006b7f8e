"""The package as a whole: what an import loads, what is exported, and that imports run only downwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import sizes

import hf_langimb

PACKAGE = Path(hf_langimb.__file__).parent
HEAVY = ("torch", "transformers", "datasets")


def loaded_by(statement):
    """The heavy libraries that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return set(done.stdout.split())


COUNTING = """d = h.JointDistribution.from_columns(['fr', 'en'], [0, 0]); d.audit(); h.cell_weights(d, 'joint')
h.draw(['fr', 'en'], [0, 0], h.allocate(d.counts, [[.5], [.5]]), seed=0)"""


def test_counting_loads_no_heavy_library_which_would_be_seen():
    for statement in ("dir(h)", COUNTING):
        assert loaded_by(f"import hf_langimb as h\n{statement}") == set()
    assert loaded_by("import hf_langimb.training.trainer") >= {"torch", "transformers"}


# What is exported.

PUBLIC = """JointDistribution cell_weights allocate draw LangImbTrainingArguments LangImbTrainer
DataCollatorWithLanguage evaluate_predictions extract_features probe_languages ProbeResult attribute AttributionStore
cumulative_difference push_run load_run Run"""


@pytest.mark.parametrize("name", sorted({*hf_langimb.__all__, *PUBLIC.split()}))
def test_exported_names_resolve(name):
    exported = getattr(hf_langimb, name)
    assert exported.__name__ == name
    assert exported.__doc__
    assert name in dir(hf_langimb) and name in hf_langimb.__all__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'hf_langimb' has no attribute 'JoinedDistribution'"):
        _ = hf_langimb.JoinedDistribution
    with pytest.raises(ImportError):
        exec("from hf_langimb import JoinedDistribution")


# Imports run only downwards, and sizes stay within their limits.


def test_imports_run_only_downwards():
    graph = sizes.imports(PACKAGE)
    assert graph["training.trainer"] >= {"training.losses", "counts.distribution"}
    assert sizes.upwards(graph) == sizes.circles(graph) == []
    wrong = {"data.a": {"data.b"}, "data.b": {"data.c"}, "data.c": {"data.a"}, "cli": set()}
    wrong |= {"data.d": {"cli", "data.a"}}
    assert sizes.upwards(wrong) == ["data.d imports cli"]
    assert sizes.circles(wrong) == ["data.a", "data.b", "data.c"]
    assert sizes.upwards({"utils": set()}) == ["utils is in no layer"]


@pytest.mark.parametrize(
    ("source", "layers"),
    [
        ("import hf_langimb.training.trainer", {"training"}),
        ("import hf_langimb.data.reading as rows, torch", {"data"}),
        ("from hf_langimb import training, measures", {"training", "measures"}),
        ("from hf_langimb import LangImbTrainer, __version__", {"training"}),
        ("from hf_langimb.results.plots import bars", {"results"}),
        ("from . import reading", {"data"}),
        ("from .. import training", {"training"}),
        ("from ..training import LangImbTrainer", {"training"}),
        ("def f():\n    if True:\n        from hf_langimb.hub.push import push_run", {"hub"}),
        ("try:\n    import hf_langimb.cli\nexcept ImportError:\n    pass", {"cli"}),
        ("if TYPE_CHECKING:\n    from hf_langimb.cli import main\nelse:\n    import hf_langimb.hub", {"hub"}),
        ("import hf_langimbalance.cli\nfrom numpy import random", set()),
    ],
)
def test_no_way_to_write_an_import_is_missed(source, layers):
    names = sizes.names_imported(ast.parse(source), "hf_langimb.data.mini")
    found = {name.split(".")[1] for name in names if name.startswith("hf_langimb.")} - {"__version__"}
    assert {hf_langimb._HOMES.get(name, name).partition(".")[0] for name in found} == layers


@pytest.mark.parametrize("size", sizes.sizes(), ids=lambda size: size.name)
def test_sizes_are_within_their_limits(size):
    assert size.value <= size.limit, size.detail


def test_raises_are_counted_with_the_calls_of_functions_that_only_raise():
    source = """
def check(x):
    "Raise unless x is positive."
    kept = abs(x)
    for value in (x, kept):
        if value < 0:
            raise ValueError(value)
    return

def checked(x):
    if x < 0:
        raise ValueError(x)
    return x

def close(self):
    self.open = False
    if not self.open:
        raise ValueError

def report(x):
    print(x)
    if x:
        raise ValueError

check(1), checked(2), close(3), report(4), self.check(5)
"""
    assert sizes.raises([ast.parse(source)]) == 4 + 2
