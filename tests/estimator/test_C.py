"""``C``, in the place of ``alpha``, as LogisticRegression has it."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

from scratchnn import ScratchNNClassifier

X, y = load_iris(return_X_y=True)


@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(
    "data", [(X, y), (scale(load_breast_cancer().data), load_breast_cancer().target)], ids=["iris", "cancer"]
)
def test_the_recipe_is_logistic_regression(data, C):
    expected = LogisticRegression(C=C, tol=1e-9, max_iter=10_000).fit(*data)
    model = ScratchNNClassifier.from_recipe("logistic_regression", C=C).fit(*data)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.predict_proba(data[0]), expected.predict_proba(data[0]), atol=1e-5)


def test_C_is_one_by_alpha():
    settings = {"hidden_layer_sizes": 4, "max_iter": 10, "random_state": 0}
    first = ScratchNNClassifier(C=4.0, **settings).fit(X, y)
    second = ScratchNNClassifier(alpha=0.25, **settings).fit(X, y)
    np.testing.assert_array_equal(first.coefs_[0], second.coefs_[0])
    unpenalized = ScratchNNClassifier(C=np.inf, **settings).partial_fit(X, y, classes=[0, 1, 2])
    expected = ScratchNNClassifier(alpha=0, **settings).partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(unpenalized.coefs_[0], expected.coefs_[0])
