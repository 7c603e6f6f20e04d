"""A fitted model stays whole: no parameter changes what it predicts, and a fit replaces it all at once."""

import copy
import threading

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import make_table
from sklearn.base import clone
from sklearn.metrics import log_loss

from scratchnn import ScratchNNClassifier

X, y = make_table(300, 6)
PARAMS = {"max_iter": 3, "tol": 0, "n_iter_no_change": np.inf, "random_state": 0}


def make(**params):
    return ScratchNNClassifier((8,), **PARAMS).set_params(**params)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive", "cosine"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_new_learning_rate_counts_in_the_next_call(solver, schedule, method):
    model = make(solver=solver, learning_rate=schedule, warm_start=True).fit(X, y)
    before = model.coefs_[0].copy()
    getattr(model.set_params(learning_rate_init=1e-9), method)(X, y)
    assert 0 < np.abs(model.coefs_[0] - before).max() < 1e-6


CHANGES = {
    "numeric_encoding": None,
    "standardize": False,
    "hidden_bias": False,
    "categorical_features": [0],
    "hidden_layer_sizes": (9,),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_what_training_cannot_change_is_refused(name, method):
    model = make(warm_start=True).fit(X, y)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=rf"^{name} must not change when training resumes"):
        getattr(model.set_params(**{name: CHANGES[name]}), method)(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_a_new_dtype_counts_in_the_next_call():
    model = make(dtype="float32", warm_start=True).fit(X, y)
    assert model.set_params(dtype="float64").fit(X, y).coefs_[0].dtype == np.float64
    assert model.set_params(dtype="auto").fit(X, y).coefs_[0].dtype == np.float64


OTHERS = {"activation": "tanh", "standardize": False, "numeric_encoding": None, "hidden_layer_sizes": (3,)}
OTHERS |= {"hidden_bias": False, "categorical_features": None, "dtype": "float64", "loss": "mae"}


@pytest.mark.parametrize("name", OTHERS)
def test_no_parameter_changes_the_predictions_of_a_fitted_model(name):
    model = make().fit(X, y)
    before = model.predict_proba(X)
    np.testing.assert_array_equal(model.set_params(**{name: OTHERS[name]}).predict_proba(X), before)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_model_that_is_trained_meanwhile_predicts_as_before_or_after(method):
    """The two models differ in columns, categories, classes and layers: a mixture of both would raise or be seen."""
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(c=np.where(X[:, 2] > 0, "u", "v"))
    model = make().fit(frame, y)
    other = frame.assign(c=np.where(X[:, 3] > 0, "u", np.where(X[:, 4] > 0, "v", "w")))
    twin = copy.deepcopy(model)
    targets = y if method == "partial_fit" else y + 2
    allowed = [model.predict_proba(frame)]
    errors, is_over = [], threading.Event()

    def serve():
        while not is_over.is_set():
            try:
                seen.append(model.predict_proba(frame))
            except Exception as error:  # what this test is about
                errors.append(error)

    seen = []
    thread = threading.Thread(target=serve)
    thread.start()
    for k in range(10):
        for each in (model, twin):
            each.set_params(hidden_layer_sizes=(8,) if method == "partial_fit" else (4 + k,))
            getattr(each, method)(other, targets)
        allowed.append(twin.predict_proba(frame))
    is_over.set()
    thread.join()
    assert not errors
    assert len(seen) > 10
    assert all(any(np.array_equal(preds, each) for each in allowed) for preds in seen)


def test_a_mapped_file_is_trained_on_without_being_changed(tmp_path):
    path = tmp_path / "model.joblib"
    joblib.dump(make().partial_fit(X, y, classes=[0, 1]), path)
    content = path.read_bytes()
    model = joblib.load(path, mmap_mode="r")
    before = model.coefs_[0].copy()
    model.partial_fit(X, y)
    assert np.abs(model.coefs_[0] - before).max() > 1e-3
    assert path.read_bytes() == content


def test_a_shallow_copy_keeps_the_curves_of_its_moment():
    model = make().partial_fit(X, y, classes=[0, 1])
    snapshot = copy.copy(model)
    loss_curve, preds = list(snapshot.loss_curve_), snapshot.predict_proba(X)
    model.partial_fit(X, y)
    assert snapshot.loss_curve_ == loss_curve
    np.testing.assert_array_equal(snapshot.predict_proba(X), preds)


class Shifting(ScratchNNClassifier):
    """Predicts for shifted columns, by what its own `fit` has set."""

    def fit(self, X, y):
        self.shift_ = np.zeros(1)
        return super().fit(X - self.shift_, y)

    def predict_proba(self, X):
        return super().predict_proba(X - self.shift_)


def test_a_scorer_sees_what_the_fit_of_a_subclass_has_set():
    plain = ScratchNNClassifier((8,), early_stopping=True, scoring="neg_log_loss", **PARAMS)
    expected = clone(plain).fit(X, y)
    model = Shifting(**plain.get_params()).fit(X, y)
    assert model.validation_scores_ == expected.validation_scores_
    assert log_loss(y, model.predict_proba(X)) == log_loss(y, expected.predict_proba(X))
