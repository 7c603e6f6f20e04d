"""scikit-learn's own checks, with no expected failures."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from scratchnn import ScratchNNClassifier, TableEncoder

ESTIMATORS = [
    ScratchNNClassifier(),
    ScratchNNClassifier(hidden_layer_sizes=()),
    ScratchNNClassifier(hidden_layer_sizes=(20, 10), activation="tanh", solver="sgd", dtype="float64"),
    ScratchNNClassifier(hidden_layer_sizes=(50,), solver="lbfgs", alpha=1.0, numeric_encoding=None),
    ScratchNNClassifier(hidden_layer_sizes=(), solver="lbfgs", standardize=False),
    ScratchNNClassifier(hidden_layer_sizes=(50,), early_stopping=True),
    TableEncoder(),
    TableEncoder(categorical_features=[0]),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
