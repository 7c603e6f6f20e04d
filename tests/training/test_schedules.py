"""Schedules of the learning rate: how far they stretch, and how they end."""

import numpy as np
import pytest
from helpers import assert_same_fit, make_table

from scratchnn import ScratchNNClassifier


@pytest.mark.parametrize("max_iter", [50, 51, 200, 1000])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_default_schedule_does_not_stretch_beyond_50_epochs(max_iter, solver):
    X, y = make_table(200, 4)
    default = ScratchNNClassifier((5,), solver=solver, random_state=0).fit(X, y)
    fitted = ScratchNNClassifier((5,), solver=solver, max_iter=max_iter, random_state=0).fit(X, y)
    assert_same_fit(fitted, default)
    assert fitted.n_iter_ == default.n_iter_ <= 50


def test_fewer_epochs_shorten_the_default_schedule():
    X, y = make_table(200, 4)
    params = {"max_iter": 12, "random_state": 0}
    auto, cosine = (ScratchNNClassifier((5,), learning_rate=name, **params).fit(X, y) for name in ("auto", "cosine"))
    assert_same_fit(auto, cosine)
    assert auto.n_iter_ == 12


def calc_cosine(progress):
    return (1 + np.cos(np.pi * np.minimum(progress, 1))) / 2


@pytest.mark.parametrize("max_iter", [40, 8])
def test_a_cosine_out_of_patience_falls_to_zero_within_ten_epochs(max_iter):
    """Gradient descent on logistic regression by hand. With tol=9 only the first epoch counts as an improvement."""
    X = np.random.default_rng(0).normal(size=(40, 3))
    X = np.concatenate([X, -X])
    y = np.concatenate([X[:40, 0] > 0, X[:40, 0] <= 0]).astype(int)  # symmetric: no intercept
    params = {"momentum": 0, "batch_size": "full", "alpha": 0, "standardize": False, "dtype": "float64"}
    model = ScratchNNClassifier((), solver="sgd", learning_rate="cosine", learning_rate_init=0.5, **params)
    model.set_params(max_iter=max_iter, tol=9, n_iter_no_change=2).fit(X, y)
    epochs = np.arange(min(14, max_iter))  # patience is over after the fourth
    assert model.n_iter_ == len(epochs)
    weights = np.zeros(3)
    for rate in 0.5 * calc_cosine(epochs / max_iter) * calc_cosine(np.maximum(epochs - 4, 0) / 10):
        weights -= rate * X.T @ (1 / (1 + np.exp(-X @ weights)) - y) / len(y)
    np.testing.assert_allclose(model.coef_[0], weights, rtol=1e-12)
