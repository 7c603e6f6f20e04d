"""Errors and interrupts stay in their task, or reach the user; nothing is stuck."""

import contextlib
import io
import signal
import sys
import threading
import time

import numpy as np
import pytest
from fusion_helpers import Doing, OwnError, assert_equal_results, fail, fit, interrupt, network, run, run_fused, search
from sklearn.exceptions import FitFailedWarning
from sklearn.pipeline import Pipeline
from small_problems import X, y

from scratchnn import fused_fits
from scratchnn.fusion import watcher
from scratchnn.fusion.tasks import Cancelled

pipeline = Pipeline([("doing", Doing()), ("network", network())])


def refuse_one_fold(logits, deps):
    if deps[:, 0].sum() == 1:
        raise OwnError("in the loss")
    return (logits - deps).square().sum(-1)


first, others = np.flatnonzero(y == 0), np.flatnonzero(y > 0)
steps = {"doing__action": [None, fail, None], "network__alpha": [0.1, 1.0]}
linear = network(solver="sgd", batch_size=9, activation="identity")
refusing = network(loss=refuse_one_fold, batch_size="full")
splits = [(np.r_[first[:n], others[: 30 - n]], others[-10:]) for n in (3, 1, 5)]
FAILING = {  # model, grid, splits, how many fits fail, and the models of each stack
    "a step": (pipeline, steps, 3, 6, [12]),
    "divergence": (linear, {"learning_rate_init": [0.01, 1e300, 0.1]}, 3, 3, [9]),
    "a loss, whose stack fails": (refusing, {"alpha": [0.1, 1.0]}, splits, 2, [1] * 4),
}


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("name", FAILING)
def test_a_fit_that_fails_gets_the_error_score_and_the_others_are_unaffected(name):
    model, grid, cv, n_failing, sizes = FAILING[name]

    def use():
        with pytest.warns(FitFailedWarning, match=f"{n_failing} fits failed"):
            return search(model, grid, cv=cv, refit=False).fit(X, y)

    plain = use()
    with fused_fits() as report:
        assert_equal_results(use(), plain)
    assert [stack.n_models for stack in report.stacks] == sizes
    assert report.stacks[0].unfused_reason == ("its stack failed" if len(sizes) > 1 else None)


@pytest.mark.parametrize("position", [0, 1, 3])
def test_an_error_to_be_raised_is_that_very_error(position):
    begun = []
    actions = [fail if k == position else lambda: begun.append(None) for k in range(4)]
    with fused_fits(), pytest.raises(OwnError, match="of a task"):
        search(pipeline, {"doing__action": actions}, error_score="raise").fit(X, y)
    assert len(begun) == 3 * position  # no other task begins after it


def test_the_other_tasks_of_an_interrupted_call_run_their_finally_blocks():
    trained, ended = [], []

    def task(k):
        try:
            if k == 2:
                run(lambda j: interrupt(), 2)
            trained.append(fit(k))
        finally:
            if k < 2:
                with pytest.raises(Cancelled):  # it cannot wait any more
                    fit(k)
            ended.append(k)

    with fused_fits(), pytest.raises(KeyboardInterrupt):
        run(task, 5)
    assert sorted(ended) == [0, 1, 2]
    assert trained == []


lock = threading.Lock()


def train(k, **changes):
    return network(alpha=k, max_iter=10**7, learning_rate="constant", **changes).fit(X, y)


def redirect_and_compute(k):
    with contextlib.redirect_stdout(io.StringIO()):
        while True:
            pass


def train_with_a_lock(k):
    with lock:
        return train(k)


def score_for_long(estimator, X, y):
    time.sleep(100)


ENDLESS = {
    "in training": train,
    "in a scorer": lambda k: train(k, early_stopping=True, scoring=score_for_long),
    "in a task": redirect_and_compute,
    "asleep": lambda k: time.sleep(100),
    "waiting for the lock of another": train_with_a_lock,
    "in nested tasks": lambda k: run(train),
}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals")
@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ENDLESS)
def test_ctrl_c_and_what_a_signal_handler_raises_end_the_search_at_once(where, error):
    def strike(number, frame):
        raise error

    stdout = sys.stdout
    signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with fused_fits() as report:
        with pytest.raises(error):
            run(ENDLESS[where])
        assert sys.stdout is stdout
        assert not lock.locked()
        run(fit)
    assert report.stacks[-1].n_models == 3


def test_a_task_that_waits_for_a_lock_of_another_is_named_once(monkeypatch):
    def hold(k):
        if lock.acquire(timeout=1):
            try:
                fit(k)
            finally:
                lock.release()

    monkeypatch.setattr(watcher, "LIMIT", 0.1)
    with pytest.warns(UserWarning, match="of fused_fits") as caught:
        run_fused(hold)
    (message,) = [str(each.message).splitlines() for each in caught]
    assert message[0].startswith("Task 1 of fused_fits has run for 0.1 s, while 1 tasks wait for their networks.")
    assert "acquire the lock inside the fit, or fit without fused_fits" in message[0]
    assert any("in hold" in line for line in message[1:])
