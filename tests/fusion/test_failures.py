"""Errors and interrupts stay in their task, or reach the user; nothing is stuck."""

import os

import numpy as np
import pytest
from fusion_helpers import (
    Doing,
    SpecialError,
    assert_equal_results,
    check_same,
    fail,
    fit,
    interrupt,
    network,
    run,
    search,
    squared_logits,
)
from helpers import run_python, within
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from small_problems import X, y

from scratchnn import fused_fits
from scratchnn.fusion.tasks import Cancelled


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


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(60)
def test_a_diverging_fit_fails_alone():
    rates = {"learning_rate_init": [0.01, 1e300, 0.1]}
    estimator = network(solver="sgd", batch_size=9, activation="identity")

    def use():
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            return search(estimator, rates, refit=False).fit(X, y)

    report = check_same(use)
    assert max(stack.n_models for stack in report.stacks) == 9


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
    assert [stack.unfused_reason for stack in report.stacks] == ["its stack failed"] * 4


def interrupt_while_scoring(estimator, X, y):
    raise KeyboardInterrupt


@within(60)
def test_an_interrupt_during_training_ends_the_search():
    estimator = network(early_stopping=True, scoring=interrupt_while_scoring)
    with fused_fits() as report:
        with pytest.raises(KeyboardInterrupt):
            cross_validate(estimator, X, y)
        cross_validate(network(), X, y, cv=3)
    assert report.stacks[-1].n_models == 3


@within(60)
def test_the_other_tasks_of_an_interrupted_call_run_their_finally_blocks():
    ended = []

    def task(k):
        try:
            if k == 2:
                run(lambda j: interrupt(), 2)
            return fit(k)
        finally:
            ended.append(k)
            if k < 2:
                with pytest.raises(Cancelled):  # it cannot wait any more
                    fit(k)

    with fused_fits(), pytest.raises(KeyboardInterrupt):
        run(task, 5)
    assert sorted(ended) == [0, 1, 2]


INTERRUPTS = """
import contextlib, io, os, signal, sys, threading, time, warnings
import numpy as np
from joblib import Parallel, delayed
from scratchnn import ScratchNNClassifier, fused_fits

warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(200, 5))
y = (X[:, 0] > 0).astype(int)
settings = {"hidden_layer_sizes": (5,), "max_iter": 10**7, "learning_rate": "constant"}
settings |= {"tol": 0, "n_iter_no_change": np.inf}
lock = threading.Lock()

class Alarm(TimeoutError):
    pass

def strike(number, frame):
    raise Alarm

def score(estimator, X, y):
    time.sleep(2)
    return 0.0

def train(k, **changes):
    return ScratchNNClassifier(**{**settings, "alpha": k, **changes}).fit(X, y)

def loop(k):
    with contextlib.redirect_stdout(io.StringIO()):
        while True:
            pass

def hold(k):
    with lock:
        return train(k)

tasks = {
    "stack": train,
    "scorer": lambda k: train(k, early_stopping=True, scoring=score),
    "endless": loop,
    "asleep": lambda k: time.sleep(2),
    "locked": hold,
    "nested": lambda k: Parallel()(delayed(train)(j) for j in range(2)),
}

def interrupt(task, number):
    def send():
        time.sleep(0.3)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    sent = []
    threading.Thread(target=send).start()
    try:
        with fused_fits():
            Parallel()(delayed(task)(k) for k in range(3))
    except (Alarm, KeyboardInterrupt) as error:
        seconds = time.monotonic() - sent[0]
        assert seconds < 1.5, seconds
        return type(error).__name__

signal.signal(signal.SIGALRM, strike)
for name, task in tasks.items():
    outcomes = interrupt(task, signal.SIGALRM), interrupt(task, signal.SIGINT)
    assert sys.stdout is sys.__stdout__
    assert lock.acquire(blocking=False) and lock.release() is None
    with fused_fits() as report:
        Parallel()(delayed(train)(k, max_iter=2) for k in range(3))
    print(name, *outcomes, report.n_fits, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_and_what_a_signal_handler_raises_reach_the_caller_at_once():
    outcomes = {name: rest for name, *rest in map(str.split, run_python(INTERRUPTS, seconds=60).splitlines())}
    names = ["stack", "scorer", "endless", "asleep", "locked", "nested"]
    assert outcomes == {name: ["Alarm", "KeyboardInterrupt", "3"] for name in names}


LOCKED = """
import os, signal, threading, warnings
import joblib, numpy as np
from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion import watcher

watcher.LIMIT = 0.3
lock, told = threading.Lock(), []
X = np.random.default_rng(0).normal(size=(60, 3))

def hold(k):
    with lock:
        return ScratchNNClassifier((2,), max_iter=2, tol=0, n_iter_no_change=np.inf).fit(X, X[:, 0] > 0)

def tell():
    while not caught:
        told.append(threading.Event().wait(0.1))
    threading.Event().wait(1.0)  # no second warning
    os.kill(os.getpid(), signal.SIGINT)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    threading.Thread(target=tell).start()
    try:
        with fused_fits():
            joblib.Parallel()(joblib.delayed(hold)(k) for k in range(3))
    except KeyboardInterrupt:
        print("interrupted")
assert len(caught) == 1
print(caught[0].message)
"""


def test_a_task_that_waits_for_a_lock_of_another_is_named_and_ctrl_c_ends_the_search():
    interrupted, *message = run_python(LOCKED, seconds=30).splitlines()
    assert interrupted == "interrupted"
    assert message[0].startswith("Task 1 of fused_fits has run for 0.3 s, while 1 tasks wait for their networks.")
    assert "take the lock inside the fit, or fit without fused_fits" in message[0]
    assert any("in hold" in line for line in message[1:])
