"""The functions of `scratchnn.network` are what trains, watches and applies the classifier's networks."""

import inspect
import sys
import threading
from collections import Counter

import pytest
import torch
from helpers import METHOD, make_network
from sklearn.model_selection import cross_val_predict

from scratchnn import ScratchNNClassifier, fused_fits, network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def count_calls(action):
    """Return how often each function of the network was called while ``action`` ran, also in threads that it began."""
    names = {inspect.unwrap(getattr(network, name)).__code__: name for name in METHOD}
    counts = Counter()

    def count(frame, event, arg):
        if event == "call" and frame.f_code in names:
            counts[names[frame.f_code]] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return counts


@pytest.fixture
def rows(cancer):
    X, y = cancer
    return X[:200], y[:200]


ONE_FIT = {"init_coeffs", "execute_epoch", "store_grads"}


def test_train_model_is_the_loop_over_the_other_functions():
    indeps, deps = torch.rand(20, 3), torch.ones(20, 1)
    counts = count_calls(lambda: network.train_model(indeps, deps, epochs=5))
    assert counts == {"train_model": 1, "init_coeffs": 1, "execute_epoch": 5, "store_grads": 5, "update_coeffs": 5}


@pytest.mark.parametrize(
    ("params", "functions"),
    [
        ({}, ONE_FIT),
        ({"solver": "sgd"}, ONE_FIT),
        ({"solver": "sgd", "momentum": 0.0}, {*ONE_FIT, "update_coeffs"}),
        ({"solver": "lbfgs"}, ONE_FIT),
        ({"early_stopping": True}, {*ONE_FIT, "calc_loss"}),
        ({"early_stopping": True, "solver": "lbfgs"}, {*ONE_FIT, "calc_loss"}),
        ({"early_stopping": True, "scoring": "neg_log_loss"}, {*ONE_FIT, "calc_loss", "calc_preds"}),
    ],
)
def test_a_fit_calls_the_functions_of_the_method(rows, params, functions):
    counts = count_calls(lambda: make_network(**params).fit(*rows))
    assert set(counts) == functions
    assert counts["init_coeffs"] == 1
    assert counts["execute_epoch"] >= 3
    assert counts["calc_loss"] in (0, 3)


def test_the_scratch_recipe_is_train_model_in_other_hands(rows):
    classifier = ScratchNNClassifier.from_recipe("scratch", max_iter=6, random_state=0)
    counts = count_calls(lambda: classifier.fit(*rows))
    assert counts == {"init_coeffs": 1, "execute_epoch": 6, "store_grads": 6, "update_coeffs": 6}


@pytest.mark.parametrize("divisor", [1, 6], ids=["two classes", "more"])
def test_probabilities_are_those_of_calc_preds(rows, divisor):
    X, y = rows
    classifier = make_network().fit(X, y if divisor == 1 else X[:, 0] // divisor)
    assert count_calls(lambda: classifier.predict_proba(X)) == {"calc_preds": 1}
    assert count_calls(lambda: classifier.predict(X)) == {}


def test_a_stack_trains_with_the_same_functions(rows):
    def search():
        with fused_fits():
            cross_val_predict(make_network(), *rows, cv=2)

    assert count_calls(search)["execute_epoch"] == 3
