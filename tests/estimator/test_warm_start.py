"""The state from which `fit` with ``warm_start`` resumes, and the state that starts again."""

import numpy as np
import pytest
from sklearn.base import clone

from scratchnn import ScratchNNClassifier


def calc_descent(X, y, rates):
    """Return the weights after steps of gradient descent on the log loss of logistic regression, from zero."""
    weights = np.zeros(X.shape[1])
    for rate in rates:
        weights = weights - rate * X.T @ (1 / (1 + np.exp(-X @ weights)) - y) / len(y)
    return weights


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1, 1, 1, 1, 1, 1]), ("cosine", np.tile((1 + np.cos(np.pi * np.arange(4) / 4)) / 2, 2))],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_fits_are_one_at_a_constant_rate_and_two_schedules_with_cosine(schedule, factors):
    X = np.random.default_rng(0).normal(size=(40, 3))
    X = np.concatenate([X, -X])
    y = np.concatenate([X[:40, 0] > 0, X[:40, 0] <= 0]).astype(int)  # symmetric: no intercept
    model = ScratchNNClassifier((), solver="sgd", momentum=0, batch_size="full", alpha=0, standardize=False)
    model.set_params(dtype="float64", learning_rate=schedule, learning_rate_init=0.5, max_iter=4, warm_start=True)
    model.fit(X, y).fit(X, y)
    np.testing.assert_allclose(model.coef_[0], calc_descent(X, y, 0.5 * np.asarray(factors)), rtol=1e-12)
    once = clone(model).set_params(max_iter=8, warm_start=False).fit(X, y)
    assert np.array_equal(once.coef_, model.coef_) == (schedule == "constant")
