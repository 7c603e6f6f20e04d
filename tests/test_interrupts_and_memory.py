"""Memory that runs out, Ctrl-C at any point, and errors of the user's own functions."""

import os
import pickle
import random
import sys
import traceback
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same_fit, make_network, make_table, spoil, within
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

import scratchnn
from scratchnn import fused_fits
from scratchnn.estimator import fitting
from scratchnn.fusion import pool
from scratchnn.training import stopping, train

X, y = make_table(40, 3)
OTHER_X, OTHER_y = make_table(30, 5)
SOURCE = str(Path(scratchnn.__file__).parent)
CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 20.00 GiB"


network = partial(make_network, hidden_layer_sizes=(3,), max_iter=2, numeric_encoding=None)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def raise_cuda_error():
    raise torch.cuda.OutOfMemoryError(CUDA_MESSAGE)


def allocate_too_much():
    torch.empty(2**60, dtype=torch.uint8)


def fit_in_parts(model):
    return model.partial_fit(X, y, classes=[0, 1])


@pytest.mark.parametrize("fit", [lambda model: model.fit(X, y), fit_in_parts])
@pytest.mark.parametrize(
    ("exhaust", "kind", "remedy"),
    [
        (raise_cuda_error, torch.cuda.OutOfMemoryError, "or set device='cpu'. The error was: CUDA out of memory"),
        (allocate_too_much, MemoryError, "or pass fewer samples or features. The error was: "),
    ],
)
def test_a_fit_that_memory_does_not_suffice_for_says_what_to_lower(fit, exhaust, kind, remedy, monkeypatch):
    model = fit(network())
    before = model.predict_proba(X)
    monkeypatch.setattr(fitting, "train_run", lambda run: exhaust())
    message = "must fit in memory, which ran out. Lower batch_size='auto' or hidden_layer_sizes="
    for each in [model, network()]:
        with pytest.raises(kind) as error:
            fit(each)
        assert message in str(error.value)
        assert remedy in str(error.value)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    if fit is not fit_in_parts:
        with pytest.raises(kind, match=r"ran out. Lower hidden_layer_sizes="):
            network(solver="lbfgs").fit(X, y)


def limit(most, exhaust=raise_cuda_error):
    """Return a function that trains, and runs out of memory for stacks of more than ``most`` models."""

    def train_or_raise(runs):
        if len(runs) > most:
            spoil(runs)
            exhaust()
        train(runs)

    return train_or_raise


@pytest.mark.parametrize("most", [1, 2])
def test_stacks_become_smaller_where_cuda_runs_out_of_memory(most, monkeypatch):
    search = partial(cross_val_score, network(dtype="float64"), X, y, cv=5, scoring="neg_log_loss")
    expected = search()
    monkeypatch.setattr(pool, "train", limit(most))
    with fused_fits() as report:
        np.testing.assert_allclose(search(), expected, rtol=1e-6)
    assert max(stack.n_models for stack in report.stacks) <= most


def test_searches_say_what_to_lower_where_no_stack_is_small_enough(monkeypatch):
    monkeypatch.setattr(pool, "train", limit(0))
    with fused_fits(), pytest.raises(torch.cuda.OutOfMemoryError, match=r"ran out. Lower batch_size='auto' or hidden"):
        cross_val_score(network(), X, y, cv=3, error_score="raise")


class Interrupter:
    """Raises KeyboardInterrupt at a line of the package that this thread executes: the ``number``-th, if there is one.

    ``places`` are the lines until then.
    """

    def __init__(self, number=None):
        self.number, self.places = number, []

    def __enter__(self):
        self.outer = sys.gettrace()
        sys.settrace(self._trace_call)
        return self

    def __exit__(self, *error):
        sys.settrace(self.outer)

    def _trace_call(self, frame, event, argument):
        return self._trace_line if frame.f_code.co_filename.startswith(SOURCE) else None

    def _trace_line(self, frame, event, argument):
        if event == "line":
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) == self.number:
                raise KeyboardInterrupt
        return self._trace_line


def list_interrupts(call, n_most):
    """Return numbers of lines at which to interrupt a call: each place once, or some that are drawn."""
    with Interrupter() as noted:
        call()
    numbers = {}
    for number, place in enumerate(noted.places, start=1):
        numbers.setdefault(place, []).append(number)
    generator = random.Random(0)
    numbers = [generator.choice(of_place) for of_place in numbers.values()]
    return numbers if os.environ.get("HYPOTHESIS_PROFILE") == "long" else generator.sample(numbers, n_most)


def interrupt(call, number):
    """Make a call with an interrupt, and return whether it came out of it."""
    try:
        with Interrupter(number), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except KeyboardInterrupt:
        return True
    return False


def assert_predicts(model, X):
    probabilities = model.predict_proba(X)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)


CALLS = {
    "fit": lambda model: model.fit(X, y),
    "lbfgs": lambda model: model.set_params(solver="lbfgs").fit(X, y),
    "early stopping": lambda model: model.set_params(early_stopping=True, scoring="accuracy").fit(X, y),
    "partial_fit": lambda model: model.partial_fit(X, y),
}


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_anywhere_leaves_an_estimator_that_works_or_is_not_fitted(name):
    call = CALLS[name]
    begun, fitted = network(), network()
    if name == "partial_fit":
        begun.partial_fit(X, y, classes=[0, 1])
        fitted.partial_fit(X[::2], y[::2], classes=[0, 1])
        rows = X
    else:
        fitted.fit(OTHER_X, OTHER_y)
        rows = OTHER_X
    expected = call(pickle.loads(pickle.dumps(begun)))
    before, after = fitted.predict_proba(rows), call(pickle.loads(pickle.dumps(fitted)))
    n_raised = 0
    for number in list_interrupts(lambda: call(pickle.loads(pickle.dumps(begun))), n_most=25):
        new, old = (pickle.loads(pickle.dumps(model)) for model in (begun, fitted))
        was_fitted = hasattr(new, "coefs_")
        n_raised += interrupt(lambda model=new: call(model), number)
        if was_fitted or hasattr(new, "coefs_"):
            assert_predicts(new, X)
        else:
            with pytest.raises(NotFittedError):
                new.predict(X)
        if name != "partial_fit":
            assert_same_fit(call(new), expected)
        if interrupt(lambda model=old: call(model), number):
            if all(getattr(old, each, None) == getattr(after, each, None) for each in ("n_features_in_", "t_")):
                assert_same_fit(old, after)  # the interrupt came when all was done
            else:
                np.testing.assert_array_equal(old.predict_proba(rows), before)
        else:
            assert_predicts(old, X)
    assert n_raised > 5


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ctrl_c_during_training_keeps_the_model_so_far(solver, monkeypatch):
    ended = stopping.end_epoch

    def end_epoch(run, *args):
        result = ended(run, *args)
        if run.n_epochs == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(stopping, "end_epoch", end_epoch)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        classifier = network(solver=solver, learning_rate="constant", max_iter=10).fit(X, y)
    assert classifier.n_iter_ == 3
    monkeypatch.undo()
    assert_same_fit(classifier, network(solver=solver, learning_rate="constant", max_iter=3).fit(X, y))


def search():
    return GridSearchCV(network(), {"alpha": [0.1, 1.0]}, cv=2, scoring="neg_log_loss")


@within(120)
def test_ctrl_c_anywhere_in_a_fused_search_leaves_nothing_behind():
    def fit_fused(model):
        with fused_fits():
            model.fit(X, y)
        return model

    expected = fit_fused(search())
    model = search()
    n_raised = 0
    for number in list_interrupts(lambda: fit_fused(search()), n_most=20):
        model = search()
        n_raised += interrupt(lambda model=model: fit_fused(model), number)
        assert not hasattr(model.estimator, "coefs_")
        if hasattr(getattr(model, "best_estimator_", None), "coefs_"):
            assert_predicts(model, X)
        scores = fit_fused(model).cv_results_["mean_test_score"]
        np.testing.assert_array_equal(scores, expected.cv_results_["mean_test_score"])
    assert n_raised > 5


class OwnError(Exception):
    pass


def find_a_number(text):
    raise OwnError(f"no number in {text}")


def score_badly(estimator, X, y):
    return find_a_number("the score")


def lose_badly(logits, targets):
    return find_a_number("the loss")


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize(
    "params", [{"early_stopping": True, "scoring": score_badly}, {"loss": lose_badly}], ids=["scorer", "loss"]
)
def test_an_error_of_a_scorer_or_a_loss_keeps_its_traceback(params, is_alone):
    with nullcontext() if is_alone else fused_fits(), pytest.raises(OwnError, match="no number in the") as raised:
        cross_val_score(network(**params), X, y, cv=2, error_score="raise")
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-2:] == ["score_badly" if "scoring" in params else "lose_badly", "find_a_number"]
