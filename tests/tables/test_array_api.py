"""Tensors, and arrays of other libraries, with scikit-learn's array API dispatch, and without."""

import functools

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import ALL_EPOCHS, DEVICES, assert_same_fit, make_network
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import fused_fits
from scratchnn._compat import HAS_ARRAY_API
from scratchnn.tables.arrays import resolve_device

if not HAS_ARRAY_API:
    pytest.skip("array API support needs scikit-learn 1.9", allow_module_level=True)

X, y = make_classification(300, 6, n_informative=4, n_classes=3, random_state=0)
labels = np.stack([y > 0, X[:, 0] > 1], 1).astype(int)


network = functools.partial(make_network, max_iter=6, **ALL_EPOCHS)


@pytest.fixture
def dispatch():
    with sklearn.config_context(array_api_dispatch=True):
        yield


METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


def assert_same_outputs(model, plain, rows, device, atol=1e-12):
    for name in METHODS:
        result, expected = getattr(model, name)(rows), getattr(plain, name)(X)
        assert isinstance(result, torch.Tensor)
        assert result.device.type == device
        assert str(result.dtype).endswith(str(expected.dtype))
        np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"standardize": False},
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "accuracy"},
        {"solver": "lbfgs", "tol": 1e-9},
        {"class_weight": "balanced"},
        {"hidden_layer_sizes": ()},
        {"hidden_bias": False},
        {"batch_size": "full"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_tensors_train_the_same_network(dispatch, device, params):
    atol = 1e-12 if device == "cpu" else 1e-4
    for targets in (y, (y > 0).astype(int), labels):
        rows = torch.tensor(X, device=device)
        model = network(**params).fit(rows, torch.tensor(targets, device=device))
        plain = network(**params).fit(X, targets)
        assert_same_outputs(model, plain, rows, device, atol)
        for name in ("mean_", "scale_"):
            if plain.scale_ is not None:
                assert getattr(model, name).device.type == device
        assert all(coef.device.type == device for coef in model.coefs_ + model.intercepts_)
        assert model.score(rows, torch.tensor(targets, device=device)) == pytest.approx(
            plain.score(X, targets), abs=0.01
        )
        if not plain.coefs_[1:]:
            np.testing.assert_allclose(model.coef_.cpu(), plain.coef_, atol=atol)
            np.testing.assert_allclose(model.intercept_.cpu(), plain.intercept_, atol=atol)


@pytest.mark.parametrize("device", DEVICES)
def test_training_goes_on_with_tensors(dispatch, device):
    rows, targets = torch.tensor(X, device=device), torch.tensor(y, device=device)
    once = network(max_iter=4, learning_rate="constant").fit(rows, targets)
    twice = network(max_iter=2, learning_rate="constant", warm_start=True).fit(rows, targets).fit(rows, targets)
    torch.testing.assert_close(twice.predict_proba(rows), once.predict_proba(rows))
    parts, plain = network(), network()
    for part in (slice(150), slice(150, 300)):
        parts.partial_fit(rows[part], targets[part], classes=torch.tensor([0, 1, 2], device=device))
        plain.partial_fit(X[part], y[part], classes=[0, 1, 2])
    assert_same_outputs(parts, plain, rows, device, 1e-12 if device == "cpu" else 1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_search_over_a_pipeline_takes_tensors(dispatch, device):
    search = GridSearchCV(Pipeline([("scale", StandardScaler()), ("net", network())]), {"net__alpha": [0.1, 1.0]}, cv=3)
    plain = clone(search).fit(X, y)
    rows, targets = torch.tensor(X, device=device), torch.tensor(y, device=device)
    search.fit(rows, targets)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], atol=0.01)
    assert search.predict(rows).device.type == device
    with fused_fits():
        fused = clone(search).fit(rows, targets)
    np.testing.assert_allclose(fused.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], atol=0.01)


def test_rows_do_not_travel(dispatch, monkeypatch):
    """A tensor on another device than the host cannot be read there: the meta device has no values at all."""
    travelled = []
    for name in ("cpu", "numpy", "tolist"):
        original = getattr(torch.Tensor, name)

        def watch(tensor, *args, original=original, **kwargs):
            travelled.append(tuple(tensor.shape))
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watch)
    rows, targets = torch.tensor(X), torch.tensor(y)
    network().fit(rows, targets).predict_proba(rows)
    assert travelled
    assert not [shape for shape in travelled if len(shape) == 2 and shape[0] >= 100]


def test_tensors_may_lack_values_and_have_bins(dispatch):
    rows = torch.tensor(X)
    model = network(numeric_encoding="piecewise").fit(rows, torch.tensor(y))
    assert isinstance(model.bin_edges_, torch.Tensor)
    rows[0, 0] = torch.nan  # filled with the mean of training
    assert torch.isfinite(model.predict_proba(rows)).all()
    assert torch.isfinite(network().fit(rows, torch.tensor(y)).predict_proba(rows)).all()


def test_strings_stay_strings(dispatch):
    names = np.array(["a", "b", "c"])[y]
    model = network().fit(torch.tensor(X), names)
    np.testing.assert_array_equal(model.predict(torch.tensor(X)), network().fit(X, names).predict(X))


def test_another_library_at_prediction_is_refused(dispatch):
    model = network().fit(torch.tensor(X), torch.tensor(y))
    for name in METHODS:
        with pytest.raises(ValueError, match=rf"ScratchNNClassifier\.{name}\(\) must use the same namespace"):
            getattr(model, name)(X)
    with pytest.raises(ValueError, match="must use the same namespace"):
        network().fit(X, y).predict(torch.tensor(X))


def test_without_dispatch_tensors_are_arrays():
    model = network().fit(torch.tensor(X), torch.tensor(y))
    plain = network().fit(X, y)
    for name in METHODS:
        result = getattr(model, name)(torch.tensor(X))
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, getattr(plain, name)(X))
    assert all(type(coef) is np.ndarray for coef in model.coefs_)


def test_the_tag_says_so():
    assert network().__sklearn_tags__().array_api_support


@pytest.mark.parametrize(
    "rows", [X, X.astype(object), pd.DataFrame(X), sparse.csr_array(X)], ids=lambda rows: type(rows).__name__
)
def test_device_auto_is_the_cpu_for_tables_of_the_host_where_there_is_a_gpu(rows, monkeypatch):
    expected = network().fit(rows, y)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto", rows) == torch.device("cpu")
    assert resolve_device("cuda", rows) == torch.device("cuda")
    model = network(device="auto").fit(rows, y)
    assert_same_fit(model, expected)
    np.testing.assert_array_equal(model.predict_proba(rows), expected.predict_proba(rows))


@pytest.mark.parametrize("device", DEVICES)
def test_device_auto_is_that_of_a_tensor(device):
    assert resolve_device("auto", torch.zeros(2, 3, device=device)).type == device
