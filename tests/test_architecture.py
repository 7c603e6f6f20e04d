"""The rules of the house: which room may import which, how long a piece may be, and the order of the method."""

import ast
from pathlib import Path

import pytest
from helpers import METHOD

import scratchnn

ROOT = Path(scratchnn.__file__).parent
MODULES = {str(path.relative_to(ROOT).with_suffix("")): path for path in sorted(ROOT.rglob("*.py"))}
# What each may import of the package, besides its own room. Rooms are folders; the others are modules.
ALLOWED = {
    "_kernels": set(),
    "_version": set(),
    "exceptions": set(),
    "batch": set(),
    "activations": {"_kernels"},
    "losses": {"_kernels", "activations", "batch"},
    "network": {"_kernels", "activations", "batch", "losses"},
    "training": {"_kernels", "activations", "batch", "losses", "network"},
    "checkpoint": set(),
    "fusion": {"training"},
    "estimator": {"_version", "activations", "checkpoint", "exceptions", "losses", "network", "training"},
    "classifier": {"estimator", "training"},
    "classifier_cv": {"classifier", "estimator"},
    "parallel": {"training"},
    "display": {"classifier"},
    "onnx": {"classifier", "classifier_cv", "estimator"},
    "__init__": {"_version", "checkpoint", "classifier", "classifier_cv", "display", "fusion", "parallel"},
}
# What may be imported from elsewhere, besides the standard library.
LIBRARIES = {
    "_kernels": {"torch"},
    "batch": {"torch"},
    "activations": {"torch"},
    "losses": {"torch"},
    "network": {"torch"},
    "training": {"torch", "numpy", "scipy", "threadpoolctl", "joblib"},
    "checkpoint": set(),
    "fusion": {"torch", "numpy", "joblib", "sklearn"},
}


def parse(name):
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def find_imports(name):
    """Return the rooms and the libraries that a module imports, also within functions."""
    package = ["scratchnn", *name.split("/")[:-1]]
    rooms, libraries = set(), set()
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            libraries |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            libraries.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            rooms |= {base[1]} if base[1] else {alias.name for alias in node.names}
    return rooms, libraries


def get_body_length(function):
    """Return the number of lines of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def find_functions(name):
    return [node for node in ast.walk(parse(name)) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    room = name.split("/")[0]
    rooms, libraries = find_imports(name)
    assert rooms - {room} <= ALLOWED[room]
    if room in LIBRARIES:
        standard = {"sklearn", "joblib", "scipy", "numpy", "torch", "threadpoolctl"}
        assert libraries & standard <= LIBRARIES[room]


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name):
    n_lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert n_lines <= {"network": 230, "classifier": 556}.get(name, 350)
    assert {function.name: get_body_length(function) for function in find_functions(name)} == {
        function.name: min(get_body_length(function), 40) for function in find_functions(name)
    }


def test_network_is_read_in_the_order_of_the_method():
    names = [function.name for function in find_functions("network")]
    assert [name for name in names if name in METHOD] == METHOD
    header = ast.get_docstring(parse("network"))
    assert all(name in header for name in METHOD)


def test_the_rules_see_every_module():
    assert {name.split("/")[0] for name in MODULES} == set(ALLOWED)
