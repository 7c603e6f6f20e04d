"""Nothing that the package reads is run."""

import ast

import pytest
from helpers import ROOT

SOURCES = sorted((ROOT / "src" / "scratchnn").rglob("*.py"))
FORBIDDEN = {"eval", "exec", "compile", "__import__", "import_module", "load", "loads", "read_pickle", "system"}
FORBIDDEN |= {"all_gather_object"}  # it unpickles
SAFE = {"json.loads", "re.compile"}
ALLOWED = {
    ("checkpoints/archive.py", "np.load"),  # with allow_pickle=False, see tests/checkpoints/test_archive.py
    ("distributed/connection.py", "dist.all_gather_object"),  # between the processes of one group
}


def find_calls(path):
    """Return the functions that a module calls and that may run what they read."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    calls = {ast.unparse(node.func) for node in nodes}
    return {call for call in calls - SAFE if call.rpartition(".")[2] in FORBIDDEN}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_function_runs_what_it_reads(path):
    name = path.relative_to(ROOT / "src" / "scratchnn").as_posix()
    found = {(name, call) for call in find_calls(path)}
    assert found == {pair for pair in ALLOWED if pair[0] == name}


def test_the_search_finds_such_calls(tmp_path):
    (tmp_path / "module.py").write_text("import pickle\na = [pickle.load(file), eval('1')]\n")
    assert find_calls(tmp_path / "module.py") == {"pickle.load", "eval"}
