"""Nothing that the package reads is run."""

import ast

import pytest
from helpers import ROOT

SOURCES = sorted((ROOT / "src" / "scratchnn").rglob("*.py"))
FORBIDDEN = {"eval", "exec", "compile", "__import__", "import_module", "load", "loads", "read_pickle", "system"}
# A worker checks that an error of its own can be sent.
ALLOWED = {("fusion/workers.py", "loads")}


def find_calls(path):
    """Return the names of the functions that a module calls."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return {getattr(each, "attr", getattr(each, "id", "")) for each in calls}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_function_runs_what_it_reads(path):
    name = path.relative_to(ROOT / "src" / "scratchnn").as_posix()
    found = {(name, call) for call in find_calls(path) & FORBIDDEN}
    assert found == {pair for pair in ALLOWED if pair[0] == name}


def test_the_search_finds_such_calls(tmp_path):
    (tmp_path / "module.py").write_text("import pickle\na = [pickle.load(file), eval('1')]\n")
    assert find_calls(tmp_path / "module.py") & FORBIDDEN == {"load", "eval"}
