"""Sizes of the package and its tests with their limits: python tests/sizes.py [ROOT]; exit code 1 if one is exceeded.

Lines are those of .py files, with docstrings and comments. A function is measured from its `def` to its last line.
"""

import ast
import math
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GRAMMAR = "data/mini_xnli"  # long because it is data
LAYERS = ["__main__", "cli", "kept", "cloned", "runs", "training", "hub", "results"]  # each may import those behind it
LAYERS += ["measures", "models", "data", "metrics", "counts", "console", "files"]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Size(NamedTuple):
    """A measure, its value and the largest value that is allowed; `detail` says where it is reached."""

    name: str
    value: float
    limit: float
    detail: str = ""


# Imports.


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a tree at any depth, in functions too, but not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            child = ast.Module(child.orelse, [])
        yield child
        yield from statements(child)


def names_imported(tree: ast.AST, module: str) -> list[str]:
    """Dotted names that a module imports; `module` is its own dotted name, for relative imports."""
    names: list[str] = []
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            names += [".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names]
    return names


def imports(package: Path) -> dict[str, set[str]]:
    """{module: modules of the package that it imports}, as names below the package ("counts.columns")."""
    paths = {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py"))}
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in paths.items()}
    top = [node for node in trees.pop("__init__").body if isinstance(node, ast.Assign)]
    homes = [ast.literal_eval(node.value) for node in top if ast.unparse(node.targets[0]) == "_HOMES"]
    exported = homes[0] if homes else {}  # {exported name: module below the package}

    def find(name: str) -> str | None:
        """The module that a dotted name below the package belongs to."""
        name = exported.get(name, name)
        while name and name not in trees and f"{name}.__init__" not in trees:
            name = name.rpartition(".")[0]
        return name if name in trees else f"{name}.__init__" if name else None

    prefix = f"{package.name}."
    graph = {}
    for module, tree in trees.items():
        names = [name for name in names_imported(tree, prefix + module) if name.startswith(prefix)]
        graph[module] = {found for name in names if (found := find(name.removeprefix(prefix)))} - {module}
    return graph


def upwards(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a higher layer by a lower one, and modules of no layer."""
    place = {name: number for number, name in enumerate(LAYERS)}
    top = {module: module.partition(".")[0] for module in graph}
    unknown = sorted({name for name in top.values() if name not in place})
    wrong = [
        f"{module} imports {imported}"
        for module, found in graph.items()
        for imported in sorted(found)
        if place.get(top[imported], math.inf) < place.get(top[module], -math.inf)
    ]
    return [f"{name} is in no layer" for name in unknown] + wrong


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules of a circle of imports, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return sorted(set(error.args[1]))
    return []


# Raises.


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a function without those of functions and classes within it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            yield from own_nodes(child)


def only_raises(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function does nothing but raise: it has a `raise`, and no result and no statement with an effect."""
    nodes = list(own_nodes(function))
    documented = ast.get_docstring(function) is not None
    effects: list[ast.AST] = [node for node in nodes if isinstance(node, ast.Expr)][documented:]
    effects += [node for node in nodes if isinstance(node, ast.Yield | ast.YieldFrom | ast.Global | ast.Nonlocal)]
    effects += [node for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    effects += [n for n in nodes if isinstance(n, ast.Attribute | ast.Subscript) and not isinstance(n.ctx, ast.Load)]
    return not effects and any(isinstance(node, ast.Raise) for node in nodes)


def raises(trees: list[ast.Module]) -> int:
    """`raise` statements, and calls of functions whose only job is to raise."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    raising = {node.name for node in nodes if isinstance(node, FUNCTIONS) and only_raises(node)}
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    called = [func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls]
    return sum(isinstance(node, ast.Raise) for node in nodes) + sum(name in raising for name in called)


# All sizes.


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def sizes(root: Path = ROOT) -> list[Size]:
    """Every size of a checkout, with its limit."""
    package = root / "hf_langimb"
    files = {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}
    length = {name: lines(path) for name, path in files.items()}
    total = sum(length.values())
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    functions = sorted(
        (node.end_lineno - node.lineno + 1, f"{name}: {node.name}")
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and node.end_lineno is not None
    )
    largest = max((name for name in length if not name.startswith(GRAMMAR)), key=length.__getitem__)
    entries = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    graph = imports(package)
    raised = raises([*trees.values()])
    return [
        Size("lines of the package", total, 24_600),
        Size("lines of the tests", sum(map(lines, (root / "tests").rglob("*.py"))), 23_400),
        Size("lines of the largest file", length[largest], 400, largest),
        Size("lines of a function, 95th percentile", functions[math.ceil(0.95 * len(functions)) - 1][0], 40),
        Size("raises per 1,000 lines", round(1000 * raised / total, 1), 16.5, f"{raised} in all"),
        Size("modules and folders of the package", len(entries), 16),
        Size("  of them modules", sum(path.suffix == ".py" for path in entries), 5),
        Size("imports upwards", len(upwards(graph)), 0, "; ".join(upwards(graph)[:3])),
        Size("modules in a circle of imports", len(circles(graph)), 0, ", ".join(circles(graph)[:6])),
    ]


if __name__ == "__main__":
    found = sizes(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print(f"{'':38} {'found':>8} {'limit':>8}")
    for size in found:
        mark = "  over " if size.value > size.limit else "       "
        print(f"{size.name:38} {size.value:8,g} {size.limit:8,g}{mark} {size.detail}".rstrip())
    sys.exit(any(size.value > size.limit for size in found))
