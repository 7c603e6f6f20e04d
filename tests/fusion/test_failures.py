"""Errors and interrupts stay in their task, or reach the user; nothing is stuck."""

import os
import signal
import threading

import joblib
import numpy as np
import pytest
from fusion_helpers import (
    Doing,
    SpecialError,
    X,
    assert_equal_results,
    check_same,
    fail,
    interrupt,
    make_pipeline_of_two_fits,
    network,
    search,
    squared_logits,
    wait_for_task_threads,
    y,
)
from helpers import run_python, within
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline

from scratchnn import fused_fits
from scratchnn.fusion.backend import FusedBackend


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(60)
def test_a_task_that_fails_gets_the_error_score_and_the_others_are_unaffected():
    candidates = {"doing__action": [None, fail, None], "network__alpha": [0.1, 1.0]}
    pipeline = Pipeline([("doing", Doing()), ("network", network())])
    with pytest.warns(FitFailedWarning, match="6 fits failed"):
        report = check_same(lambda: search(pipeline, candidates, refit=False).fit(X, y))
    assert [stack.n_models for stack in report.stacks] == [12]


@pytest.mark.parametrize("position", [0, 1, 3])
@within(60)
def test_an_error_to_be_raised_is_that_very_error(position):
    actions = [None, None, None, None]
    actions[position] = fail
    pipeline = Pipeline([("doing", Doing()), ("network", network())])
    with fused_fits(), pytest.raises(SpecialError, match="of a task"):
        search(pipeline, {"doing__action": actions}, error_score="raise").fit(X, y)


@within(60)
def test_a_fused_context_is_usable_after_an_error():
    with fused_fits() as report:
        with pytest.raises(SpecialError):
            cross_val_score(make_pipeline_of_two_fits(fail), X, y, error_score="raise")
        with pytest.raises(SpecialError):
            cross_val_score(make_pipeline(Doing(fail), network()), X, y, error_score="raise")
        scores = cross_val_score(network(), X, y)
    assert_equal_results(scores, cross_val_score(network(), X, y))
    assert report.stacks[-1].n_models == 5


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("loss", ["log_loss", "mae"])
@within(60)
def test_a_diverging_fit_fails_alone(loss):
    rates = {"learning_rate_init": [0.01, 1e300, 0.1]}
    estimator = network(solver="sgd", loss=loss, batch_size=9, activation="identity")

    def use():
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            return search(estimator, rates, refit=False).fit(X, y)

    report = check_same(use)
    assert max(stack.n_models for stack in report.stacks) == 9


def raise_while_scoring(estimator, X, y):
    raise SpecialError("while scoring")


def raise_while_scoring_once_in_a_while(estimator, X, y):
    if estimator.alpha == 1.0:
        raise SpecialError("while scoring")
    return estimator.score(X, y)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize(
    ("grid", "n_failed"),
    [
        ({"scoring": ["loss", raise_while_scoring, "accuracy"]}, 3),
        ({"scoring": [raise_while_scoring_once_in_a_while], "alpha": [0.1, 1.0, 10.0]}, 3),
    ],
)
@pytest.mark.parametrize("batch_size", [9, "full"])
@within(60)
def test_scoring_that_raises_during_training_fails_alone(grid, n_failed, batch_size):
    def use():
        with pytest.warns(FitFailedWarning, match=f"{n_failed} fits failed"):
            return search(network(early_stopping=True, batch_size=batch_size), grid, refit=False).fit(X, y)

    with fused_fits() as report:
        fused = use()
    assert_equal_results(fused, use())
    assert [stack.n_models for stack in report.stacks] == [9]
    with fused_fits(), pytest.raises(SpecialError, match="while scoring"):
        search(network(early_stopping=True), grid, error_score="raise").fit(X, y)


def refuse_one_fold(logits, deps):
    if deps[:, 0].sum() == 1:
        raise SpecialError("in the loss")
    return squared_logits(logits, deps)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(60)
def test_a_loss_that_raises_fails_alone():
    first, others = np.flatnonzero(y == 0), np.flatnonzero(y > 0)
    splits = [(np.r_[first[:n], others[: 30 - n]], others[-10:]) for n in (3, 1, 5)]
    net = network(loss=refuse_one_fold, batch_size="full")

    def use():
        with pytest.warns(FitFailedWarning, match="2 fits failed"):
            return GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=splits, refit=False).fit(X, y)

    with fused_fits() as report:
        fused = use()
    assert_equal_results(fused, use())
    assert [stack.alone for stack in report.stacks] == ["its stack failed"] * 4


@within(60)
def test_all_tasks_may_fail():
    with fused_fits() as report, pytest.raises(ValueError, match="All the 12 fits failed"):
        search(network(hidden_layer_sizes=(-1,))).fit(X, y)
    assert report.n_fits == 0


@within(60)
def test_an_interrupt_in_a_task_leaves_nothing_behind():
    with fused_fits(), pytest.raises(KeyboardInterrupt):
        search(make_pipeline_of_two_fits(None), {"doing": ["passthrough", Doing(interrupt)]}).fit(X, y)
    for model in [Doing(interrupt), make_pipeline_of_two_fits(interrupt)]:
        with pytest.raises(KeyboardInterrupt), fused_fits():
            joblib.Parallel()(joblib.delayed(each.fit)(X, y) for each in [network(), model, network()])
        assert type(joblib.parallel.get_active_backend()[0]) is not FusedBackend
        wait_for_task_threads()


def interrupt_while_scoring(estimator, X, y):
    raise KeyboardInterrupt


@within(60)
def test_an_interrupt_during_training_ends_the_fits_as_it_does_alone():
    estimator = network(early_stopping=True, scoring=interrupt_while_scoring)
    with fused_fits() as report, pytest.warns(UserWarning, match="interrupted by user"):
        fits = cross_validate(estimator, X, y, return_estimator=True)["estimator"]
    assert report.n_fits == 5
    assert {fit.n_iter_ for fit in fits} <= {0, 1}


CTRL_C = """
import os, signal, threading, warnings
from joblib import Parallel, delayed
from sklearn.datasets import load_iris
from scratchnn import ScratchNNClassifier, fused_fits

warnings.simplefilter("ignore")

def strike(depth):
    network.fit(*load_iris(return_X_y=True))
    if depth:
        return Parallel()(delayed(strike)(depth - 1) for _ in range(2))
    os.kill(os.getpid(), signal.SIGINT)

network = ScratchNNClassifier((5,), max_iter=2, tol=0)
for depth in (0, 1):
    try:
        with fused_fits():
            Parallel()(delayed(strike)(depth) for _ in range(3))
    except KeyboardInterrupt:
        print("interrupted", [thread.name for thread in threading.enumerate()])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_tasks_run_reaches_the_user():
    """Also where tasks have tasks of their own."""
    lines = run_python(CTRL_C).splitlines()
    assert [line.split()[0] for line in lines] == ["interrupted"] * 2
    assert not any("scratchnn-task" in line for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_signal_during_training_ends_the_search():
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with fused_fits(), pytest.raises(KeyboardInterrupt):
        cross_val_score(network(max_iter=100_000), X, y, cv=2)
