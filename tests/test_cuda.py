"""The estimator on a CUDA device. All but the tests of CUDA itself also run on the CPU."""

import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from helpers import ALL_EPOCHS, DEVICES, TARGETS, assert_same_fit, get_coeffs, needs_cuda
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_predict

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.training import graphs, stack

# Draws of orders differ between devices, so what is compared with the CPU takes the rows in their order.
IN_ORDER = {"shuffle": False, "dtype": "float64", "random_state": 0, "max_iter": 10, **ALL_EPOCHS}
SETTINGS = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "lbfgs": {"solver": "lbfgs"},
    "scratch": {"init": "scratch", "loss": "mae", "solver": "sgd"},
    "deep": {"hidden_layer_sizes": (20, 10), "activation": "tanh"},
    "early stopping": {"early_stopping": True},
    "scoring": {"early_stopping": True, "scoring": "roc_auc"},
    "full batch": {"batch_size": "full"},
    "a user's loss": {"loss": lambda logits, deps: (torch.sigmoid(logits) - deps) ** 2},
}


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X[:250], y[:250]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("params", SETTINGS.values(), ids=SETTINGS)
def test_fit_is_that_of_the_cpu(params, device, cancer):
    X, y = cancer
    expected = ScratchNNClassifier(device="cpu", **{**IN_ORDER, **params}).fit(X, y)
    fitted = clone(expected).set_params(device=device).fit(X, y)
    assert all(isinstance(array, np.ndarray) for array in get_coeffs(fitted))
    assert fitted.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(fitted.loss_curve_, expected.loss_curve_, rtol=1e-6)
    np.testing.assert_allclose(fitted.predict_proba(X), expected.predict_proba(X), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_all_targets_and_forms(form, target, device, problems):
    X, y = problems[target]
    expected = ScratchNNClassifier(device="cpu", **IN_ORDER).fit(form(X), y)
    fitted = clone(expected).set_params(device=device).fit(form(X), y)
    np.testing.assert_allclose(fitted.decision_function(form(X)), expected.decision_function(form(X)), rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_partial_fit_and_warm_start(device, cancer):
    X, y = cancer
    fits = []
    for each in ["cpu", device]:
        classifier = ScratchNNClassifier(device=each, **IN_ORDER)
        for part in np.array_split(np.arange(len(X)), 3):
            classifier.partial_fit(X[part], y[part], classes=[0, 1])
        fits.append(classifier.set_params(warm_start=True).fit(X, y))
    assert_same_fit(*fits, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
def test_memory_mapped_rows(device, cancer, tmp_path):
    X, y = cancer
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    classifier = ScratchNNClassifier(device=device, **IN_ORDER)
    assert_same_fit(clone(classifier).fit(mapped, y), clone(classifier).fit(X, y), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_seed_gives_the_same_model(device, cancer):
    classifier = ScratchNNClassifier(device=device, dropout=0.2, max_iter=5, random_state=0, **ALL_EPOCHS)
    first, second, other = (clone(classifier).set_params(random_state=seed).fit(*cancer) for seed in (0, 0, 1))
    assert_same_fit(first, second)
    assert first.loss_ != other.loss_


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"early_stopping": True}], ids=["plain", "dropout", "early"])
def test_fused_fits_are_those_alone(params, device, cancer):
    """Of different rows, rates, and numbers of epochs."""
    classifier = ScratchNNClassifier((10,), device=device, dtype="float64", random_state=0, **ALL_EPOCHS)
    grid = {"learning_rate_init": [1e-3, 1e-2], "max_iter": [5, 8]}
    search = GridSearchCV(classifier.set_params(**params), grid, cv=3, scoring="neg_log_loss", refit=False)
    plain = clone(search).fit(*cancer).cv_results_["mean_test_score"]
    with fused_fits() as report:
        fused = clone(search).fit(*cancer).cv_results_["mean_test_score"]
    np.testing.assert_allclose(fused, plain, rtol=1e-5)
    assert report.n_fits == 12
    assert max(stack.n_models for stack in report.stacks) >= 6


@pytest.mark.parametrize("device", DEVICES)
def test_models_on_rows_of_their_own_are_fused(device, cancer):
    classifier = ScratchNNClassifier((5,), device=device, dtype="float64", max_iter=3, random_state=0, **ALL_EPOCHS)
    bagging = BaggingClassifier(classifier, n_estimators=6, random_state=0)
    plain = clone(bagging).fit(*cancer).predict_proba(cancer[0])
    with fused_fits():
        fused = clone(bagging).fit(*cancer).predict_proba(cancer[0])
    np.testing.assert_allclose(fused, plain, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_two_processes_share_a_device(device, cancer):
    classifier = ScratchNNClassifier((5,), device=device, dtype="float64", max_iter=3, random_state=0, **ALL_EPOCHS)
    plain = cross_val_predict(classifier, *cancer, cv=4, method="predict_proba")
    with fused_fits() as report:
        fused = cross_val_predict(classifier, *cancer, cv=4, method="predict_proba", n_jobs=2)
    np.testing.assert_allclose(fused, plain, rtol=1e-5)
    assert (report.n_fits, report.notes) == (4, [])


ON_THE_CPU = """
import sys, warnings
import joblib, numpy as np, torch
assert not torch.cuda.is_available()
warnings.simplefilter("ignore")
model = joblib.load(sys.argv[1])
np.save(sys.argv[2], model.predict_proba(np.load(sys.argv[3])))
"""


@pytest.mark.parametrize("device", DEVICES)
def test_a_model_predicts_in_a_process_without_cuda(device, cancer, tmp_path, monkeypatch):
    X, y = cancer
    model = ScratchNNClassifier(device=device, max_iter=3, random_state=0, **ALL_EPOCHS).fit(X, y)
    paths = [tmp_path / name for name in ("model.joblib", "preds.npy", "X.npy")]
    joblib.dump(model, paths[0])
    np.save(paths[2], X)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    subprocess.run([sys.executable, "-c", ON_THE_CPU, *map(str, paths)], check=True, timeout=120)
    np.testing.assert_allclose(np.load(Path(paths[1])), model.predict_proba(X), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_rounded_products_change_little(dtype, device, cancer):
    X, y = cancer
    exact = ScratchNNClassifier((50, 20), device=device, dtype="float32", max_iter=10, random_state=0).fit(X, y)
    rounded = clone(exact).set_params(dtype=dtype).fit(X, y)
    assert {array.dtype for array in get_coeffs(rounded)} == {np.dtype(np.float32)}
    assert rounded.loss_ == pytest.approx(exact.loss_, rel=0.02)
    is_rounded = dtype == "bfloat16" or device == "cuda"
    assert (rounded.loss_ != exact.loss_) == is_rounded


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"batch_size": "full"}, {"early_stopping": True}])
def test_steps_are_captured_and_change_nothing(params, cancer, monkeypatch):
    made = []
    init = graphs._Graph.__init__
    monkeypatch.setattr(graphs._Graph, "__init__", lambda self, *args: made.append(init(self, *args)))
    classifier = ScratchNNClassifier(device="cuda", max_iter=10, random_state=0, **ALL_EPOCHS, **params)
    captured = clone(classifier).fit(*cancer)
    assert len(made) == 1
    monkeypatch.setattr(stack, "can_capture", lambda runs: False)
    eager = clone(classifier).fit(*cancer)
    assert len(made) == 1
    assert_same_fit(captured, eager, rtol=1e-4, atol=1e-6)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("captures", [True, False])
def test_an_epoch_waits_for_nothing(captures, cancer, monkeypatch):
    """PyTorch raises an error at each copy, or other operation, that waits for the device."""
    train = stack.Stack._train_and_validate

    def train_without_waiting(self):
        torch.cuda.set_sync_debug_mode("error" if any(run.n_epochs > 5 for run in self.runs) else "default")
        try:
            return train(self)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(stack.Stack, "_train_and_validate", train_without_waiting)
    monkeypatch.setattr(stack, "can_capture", lambda runs: captures)
    ScratchNNClassifier(device="cuda", dropout=0.2, early_stopping=True, max_iter=10, **ALL_EPOCHS).fit(*cancer)
