"""scikit-learn's own tests of MLPClassifier, with our class in its place."""

import importlib
import inspect
from unittest import mock

import pytest
from sklearn.neural_network import MLPClassifier

from scratchnn import ScratchNNClassifier

with mock.patch("sklearn.neural_network.MLPClassifier", ScratchNNClassifier):
    try:
        theirs = importlib.import_module("sklearn.neural_network.tests.test_mlp")
    except ImportError:
        pytest.skip("this scikit-learn comes without its tests", allow_module_level=True)

# What they are not about; scikit-learn runs them without errors for warnings.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

LEFT_OUT = {
    "test_adaptive_learning_rate": "reads _optimizer",
    "test_learning_rate_warmstart": "reads _optimizer",
    "test_n_iter_no_change": "reads _no_improvement_count",
    "test_n_iter_no_change_inf": "reads _no_improvement_count",
    "test_fit": "writes private attributes, and calls private methods",
    "test_gradient": "calls private methods",
    "test_predict_proba_multilabel": "wants five random rows learned by heart: alpha='auto' does not allow it",
    "test_mlp_param_dtypes": "dtype='auto' trains 300 rows of float64 in float32",
    "test_preserve_feature_names": "fits a single class, which is refused, as by LogisticRegression",
    "test_early_stopping_stratified": "a class with a single row stays in training, instead of an error of the split",
}


def is_of_the_classifier(name, test):
    source = inspect.getsource(test)
    return name.startswith("test_") and ("MLPClassifier" in source or "Estimator" in source) and name not in LEFT_OUT


TESTS = {name: test for name, test in vars(theirs).items() if inspect.isfunction(test) and name.startswith("test_")}
globals().update({name: test for name, test in TESTS.items() if is_of_the_classifier(name, test)})


def test_the_class_is_ours_and_what_is_left_out_exists():
    assert theirs.MLPClassifier is ScratchNNClassifier is not MLPClassifier
    assert set(LEFT_OUT) <= set(TESTS)
    assert sum(name in globals() for name in TESTS) >= 20
