"""The rules of the house: who may import whom, how large a piece may be, and the order of the method."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import METHOD

import scratchnn

ROOT = Path(scratchnn.__file__).parent
MODULES = {str(path.relative_to(ROOT).with_suffix("")): path for path in sorted(ROOT.rglob("*.py"))}
TEXTBOOK = {"_kernels", "activations", "batch", "losses", "network"}
# What each folder, or module of the root, may import of the package besides itself.
ALLOWED = {
    "_kernels": set(),
    "_version": set(),
    "_show_versions": {"_version"},
    "exceptions": set(),
    "batch": set(),
    "activations": {"_kernels"},
    "losses": {"_kernels", "activations", "batch"},
    "network": {"_kernels", "activations", "batch", "losses"},
    "_compat": {"_version", "exceptions"},
    "training": TEXTBOOK | {"exceptions"},
    "tables": {"_compat", "exceptions"},
    "checkpoints": {"_compat", "_version", "exceptions", "tables", "training"},
    "estimator": TEXTBOOK | {"_compat", "checkpoints", "exceptions", "tables", "training"},
    "classifier": {"_compat", "estimator", "tables", "training"},
    "table_encoder": {"_compat", "tables"},
    "fusion": {"_compat", "exceptions", "training"},
    "distributed": {"batch", "checkpoints", "estimator", "exceptions", "tables", "training"},
    "display": {"classifier"},
    "onnx": {"classifier", "estimator", "table_encoder", "tables"},
    "__init__": {
        "_show_versions",
        "_version",
        "checkpoints",
        "classifier",
        "display",
        "distributed",
        "fusion",
        "table_encoder",
    },
}
# What may be imported from elsewhere, besides the standard library.
LIBRARIES = {name: {"torch"} for name in TEXTBOOK} | {
    "training": {"torch", "numpy", "scipy", "threadpoolctl", "joblib"},
    "distributed": {"torch"},
    "fusion": {"torch", "numpy", "joblib", "greenlet", "sklearn"},
}
# Lines at most. A commit that raises one says why.
MAX_LINES = {
    "textbook": 680,
    "classifier": 550,
    "tables": 1933,
    "estimator": 1938,
    "training": 1700,
    "fusion": 1248,
    "checkpoints": 500,
    "distributed": 450,
    "display": 250,
    "onnx": 420,
}
MAX_ALL_LINES = 9_992
MAX_MODULES = 12  # of a folder


def parse(name):
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def find_imports(name):
    """Return the modules of the package and the libraries that a module imports, also in functions and for types."""
    package = name.split("/")[:-1]
    modules, libraries = set(), set()
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            libraries |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            libraries.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                paths = ["/".join([*base, alias.name]), "/".join(base), "/".join([*base, "__init__"])]
                modules.add(next(path for path in paths if path in MODULES))
    return modules, libraries


def count_lines(name):
    return len(MODULES[name].read_text(encoding="utf-8").splitlines())


def get_body_length(function):
    """Return the number of lines of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def find_functions(name):
    return [node for node in ast.walk(parse(name)) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    folder = name.split("/")[0]
    modules, libraries = find_imports(name)
    assert {module.split("/")[0] for module in modules} - {folder} <= ALLOWED[folder]
    if folder in LIBRARIES:
        others = {"sklearn", "joblib", "scipy", "numpy", "torch", "threadpoolctl", "greenlet"}
        assert libraries & others <= LIBRARIES[folder]


def test_no_modules_import_one_another_in_a_circle():
    """TopologicalSorter raises CycleError with the modules of a circle."""
    order = TopologicalSorter({name: find_imports(name)[0] for name in MODULES if name != "__init__"}).static_order()
    assert set(order) == set(MODULES) - {"__init__"}


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name):
    assert count_lines(name) <= {"network": 230, "classifier": MAX_LINES["classifier"]}.get(name, 350)
    assert {function.name: get_body_length(function) for function in find_functions(name)} == {
        function.name: min(get_body_length(function), 40) for function in find_functions(name)
    }


@pytest.mark.parametrize("folder", MAX_LINES)
def test_folders_stay_small(folder):
    own = TEXTBOOK if folder == "textbook" else [name for name in MODULES if name.split("/")[0] == folder]
    assert sum(map(count_lines, own)) <= MAX_LINES[folder]
    assert len([name for name in own if not name.endswith("__init__")]) <= MAX_MODULES


def test_the_package_stays_small():
    assert sum(map(count_lines, MODULES)) <= MAX_ALL_LINES


def test_network_is_read_in_the_order_of_the_method():
    names = [function.name for function in find_functions("network")]
    assert [name for name in names if name in METHOD] == METHOD
    header = ast.get_docstring(parse("network"))
    assert all(name in header for name in METHOD)


def test_the_rules_see_every_module():
    assert {name.split("/")[0] for name in MODULES} == set(ALLOWED)
