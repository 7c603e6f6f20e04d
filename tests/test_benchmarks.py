"""The figures that the benchmarks derive from what they measure."""

import importlib

import numpy as np
import pytest
from helpers import ROOT

from scratchnn import ScratchNNClassifier


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    return importlib.import_module


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_operations_of_a_step_are_counted(load):
    X = np.random.default_rng(0).standard_normal((400, 7)).astype(np.float32)
    classifier = ScratchNNClassifier((5,), batch_size=100, max_iter=3, numeric_encoding=None, device="cpu")
    with load("watch").watch_training(count=True) as training:
        classifier.fit(X, X[:, 0] > 0)
    assert training.n_steps == 12
    # The first bias is one more row of the weight. The gradient of the inputs is not computed.
    assert training.operations.n_flops == 12 * 2 * 100 * (2 * (7 + 1) * 5 + 3 * 5)
    assert training.operations.n_bytes == 0  # no operation touches a megabyte
    assert 12 * 15 < training.operations.n_calls < 12 * 60


def test_bytes_of_operations_on_large_tensors_are_counted(load):
    watch = load("watch")
    torch = watch.torch
    left, right, total = torch.ones(2**20), torch.ones(2**20), torch.ones(2**20)
    order = torch.arange(2**19)
    size = 4 * 2**20
    for call, expected in [
        (lambda: left + right, 3 * size),
        (lambda: total.add_(left), 3 * size),
        (lambda: total.zero_(), size),
        (lambda: total.copy_(left), 2 * size),
        (lambda: torch.add(left, right, out=total), 3 * size),
        (lambda: left.index_select(0, order), size),
        (lambda: left.view(2, -1), 0),
    ]:
        operations = watch.Operations()
        with watch.CountOperations(operations):
            call()
        assert operations.n_bytes == expected


def test_exponents_are_slopes_of_logarithms(load):
    calc_exponents = load("growth").calc_exponents
    assert calc_exponents({10: 3.0, 100: 30.0, 1_000: 3_000.0}) == ("1.50", "2.00")
    assert calc_exponents({10: 3.0}) == ("", "")


def test_the_regime_is_what_takes_longest_at_its_peak(load):
    growth = load("growth")
    point = {"step": 1e-3, "n_calls": 50, "n_flops": 2e7, "n_bytes": 6e6}
    peaks = {"n_calls": 1e6, "n_flops": 1e11, "n_bytes": 1e10}
    assert growth.find_parts(point, peaks) == pytest.approx({"calls": 0.05, "arithmetic": 0.2, "memory": 0.6})
