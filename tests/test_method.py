"""The functions of `scratchnn.network` are what trains, watches and applies the classifier's networks."""

import inspect
import sys
import threading
from collections import Counter

import pytest
import torch
from helpers import METHOD
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


def make(**parameters):
    return ScratchNNClassifier(
        (4,), max_iter=3, batch_size=50, tol=0, n_iter_no_change=50, random_state=0, **parameters
    )


def test_train_model_is_the_loop_over_the_other_functions():
    indeps, deps = torch.rand(20, 3), torch.ones(20, 1)
    counts = count_calls(lambda: network.train_model(indeps, deps, epochs=5))
    assert counts == {"train_model": 1, "init_coeffs": 1, "execute_epoch": 5, "store_grads": 5, "update_coeffs": 5}


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_fit_draws_with_init_coeffs_and_goes_over_epochs_with_execute_epoch(rows, solver):
    counts = count_calls(lambda: make(solver=solver).fit(*rows))
    assert counts == {"init_coeffs": 1, "execute_epoch": 3, "store_grads": 3 * 4}


def test_lbfgs_evaluates_the_loss_with_execute_epoch(rows):
    classifier = ScratchNNClassifier((4,), solver="lbfgs", max_iter=5, random_state=0)
    counts = count_calls(lambda: classifier.fit(*rows))
    assert counts["execute_epoch"] == counts["store_grads"] >= classifier.n_iter_ == 5
    assert counts["init_coeffs"] == 1


def test_the_scratch_recipe_descends_with_update_coeffs(rows):
    classifier = ScratchNNClassifier.from_recipe("scratch", max_iter=6, random_state=0)
    counts = count_calls(lambda: classifier.fit(*rows))
    assert counts == {"init_coeffs": 1, "execute_epoch": 6, "store_grads": 6, "update_coeffs": 6}


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_without_momentum_is_update_coeffs_in_minibatches_too(rows, momentum):
    counts = count_calls(lambda: make(solver="sgd", momentum=momentum).fit(*rows))
    assert counts["update_coeffs"] == (3 * 4 if momentum == 0 else 0)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_validation_losses_are_those_of_calc_loss(rows, solver):
    X, y = rows
    classifier = make(solver=solver)
    counts = count_calls(lambda: classifier.fit(X[:100], y[:100], X_val=X[100:], y_val=y[100:]))
    assert counts["calc_loss"] == len(classifier.validation_loss_curve_) == 3


def test_probabilities_are_those_of_calc_preds(rows):
    X, y = rows
    for targets in (y, X[:, 0] // 6):  # of two classes, and of more
        classifier = make().fit(X, targets)
        assert count_calls(lambda: classifier.predict_proba(X)) == {"calc_preds": 1}  # noqa: B023
        assert count_calls(lambda: classifier.predict(X)) == {}  # noqa: B023


def test_scores_of_validation_rows_come_from_calc_preds(rows):
    X, y = rows
    classifier = make(early_stopping=True, scoring="neg_log_loss")
    assert count_calls(lambda: classifier.fit(X, y))["calc_preds"] == 3


def test_a_stack_trains_with_the_same_functions():
    indeps, deps = torch.rand(200, 3), torch.arange(200) % 2

    def search():
        with fused_fits():
            cross_val_predict(make(), indeps.numpy(), deps.numpy(), cv=2)

    counts = count_calls(search)
    assert counts["execute_epoch"] == 3
