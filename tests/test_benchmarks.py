"""The benchmarks write the tables that the documentation shows."""

import importlib
from collections import defaultdict

import pytest
from helpers import ROOT, load_script

refresh = load_script("docs/_figures/refresh.py")
INSTANT = {  # what takes the time of a benchmark
    "time_rounds": lambda calls, *_: {name: [1.0 + k] for k, name in enumerate(calls)},
    "run_fresh": lambda code: "1 1" if "read_peak" in code else "1",
    "time_ranks": lambda *_: 1.0,
    "measure_alone": lambda workload: defaultdict(lambda: 1.0),
}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("name", ["busy", "defaults", "fit", "growth", "ranks", "search"])
def test_benchmarks_write_each_table_and_column_that_the_pages_show(load, monkeypatch, name):
    common, benchmark = load("common"), load(name)
    monkeypatch.setattr(common, "IS_SMOKE", True)
    monkeypatch.setattr(common, "_tables", {})
    for function, fake in INSTANT.items():
        monkeypatch.setattr(benchmark, function, fake, raising=False)
    for bench in benchmark.TABLES.values():
        bench()
    assert refresh.list_lost(refresh.read_results(name), {"tables": common._tables}) == []


def test_exponents_are_slopes_of_logarithms(load):
    calc_exponents = load("growth").calc_exponents
    assert calc_exponents({10: 3.0, 100: 30.0, 1_000: 3_000.0}) == ("1.50", "2.00")
    assert calc_exponents({10: 3.0}) == ("", "")


def test_the_figures_and_the_readme_show_the_committed_results():
    for path, text in refresh.make_files().items():
        assert path.read_text(encoding="utf-8") == text, f"run docs/_figures/refresh.py: {path.name} is not up to date"
