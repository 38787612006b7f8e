"""The package as a whole: what an import loads, what is exported, and that imports run only downwards."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_langimb

PACKAGE = Path(hf_langimb.__file__).parent
HEAVY = ("torch", "transformers", "datasets")

# Each may import those behind it.
LAYERS = [
    "__main__",
    "cli",
    "metrics",
    "runs",
    "training",
    "hub",
    "results",
    "measures",
    "models",
    "data",
    "counts",
    "console",
    "files",
]
PLACE = {name: place for place, name in enumerate(LAYERS)}


# What an import loads.


def loaded_by(statement):
    """The heavy libraries that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import hf_langimb; dir(hf_langimb)",
        "import hf_langimb as h; d = h.JointDistribution.from_columns(['fr', 'en'], [0, 0]); d.audit(); "
        "h.cell_weights(d, 'joint'); h.draw(['fr', 'en'], [0, 0], h.allocate(d.counts, [[.5], [.5]]), seed=0)",
    ],
    ids=["import", "counting"],
)
def test_counting_loads_no_heavy_library(statement):
    assert loaded_by(statement) == set()


def test_a_heavy_library_would_be_seen():
    assert loaded_by("import hf_langimb.training.trainer") >= {"torch", "transformers"}


# What is exported.


@pytest.mark.parametrize("name", hf_langimb.__all__)
def test_exported_names_resolve(name):
    exported = getattr(hf_langimb, name)
    assert exported.__name__ == name
    assert exported.__doc__
    assert name in dir(hf_langimb)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'hf_langimb' has no attribute 'JoinedDistribution'"):
        _ = hf_langimb.JoinedDistribution
    with pytest.raises(ImportError):
        exec("from hf_langimb import JoinedDistribution")


# Imports run only downwards.


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a tree at any depth, in functions too, but not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            child = ast.Module(child.orelse, [])
        yield child
        yield from statements(child)


def rooms_imported(source: str, module: str) -> set[str]:
    """Rooms that a module's source imports; `module` is its dotted name, for relative imports."""
    names = []
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            names += [".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names]
    rooms = {name.split(".")[1] for name in names if name.startswith("hf_langimb.")}
    return {hf_langimb._HOMES.get(room, room).partition(".")[0] for room in rooms} - {"__version__"}


def modules() -> Iterator[tuple[str, str, str]]:
    """Room, dotted name and source of each module but the package's own `__init__`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], ".".join(["hf_langimb", *parts]), path.read_text(encoding="utf-8")


def test_every_module_has_a_floor():
    unknown = sorted({room for room, _, _ in modules()} - set(PLACE))
    assert not unknown, f"give these modules a place in LAYERS: {unknown}"


def test_imports_run_only_downwards():
    upwards = [
        f"{module} imports {imported}"
        for room, module, source in modules()
        for imported in sorted(rooms_imported(source, module) - {room})
        if PLACE[imported] < PLACE[room]
    ]
    assert not upwards


@pytest.mark.parametrize(
    ("source", "rooms"),
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
def test_no_way_to_write_an_import_is_missed(source, rooms):
    assert rooms_imported(source, "hf_langimb.data.mini") == rooms
