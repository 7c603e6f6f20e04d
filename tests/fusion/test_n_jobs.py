"""``n_jobs`` inside `fused_fits`: which calls are dealt out to workers, and what comes back from them."""

import multiprocessing
import os
import pickle
import signal
import threading
import time

import joblib
import numpy as np
import pytest
import torch
from fusion_helpers import (
    Doing,
    SpecialError,
    X,
    assert_equal_results,
    count_fits,
    make_pipeline_of_two_fits,
    network,
    search,
    y,
)
from helpers import within
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from scratchnn import fused_fits
from scratchnn.fusion.workers import name_process, run_portion

HERE = {os.getpid()}


class Noting(Doing):
    """A transformer that notes the process it was fitted in."""

    def fit(self, X, y=None):
        self.process_ = os.getpid()
        time.sleep(0.1)  # so that no worker is ready for the portion of another
        return self


def find_processes(n_jobs=None, n_calls=4, **settings):
    """Return the processes that the calls of joblib run in."""
    return set(Parallel(n_jobs=n_jobs, **settings)(delayed(os.getpid)() for _ in range(n_calls)))


def start_workers():
    """Wait until two workers are there: while the second starts, the first would take all portions."""
    deadline = time.monotonic() + 60
    while len(set(Parallel(2)(delayed(nap)() for _ in range(4)))) < 2:
        assert time.monotonic() < deadline


def nap():
    time.sleep(0.2)
    return os.getpid()


def fail_deep(error):
    raise error


def fail(error):
    fail_deep(error)


def fail_and_not_be_read():
    class PickyError(Exception):  # here, since importing distributed makes the errors that exist then readable
        def __init__(self, first, second):
            super().__init__(f"{first} and {second}")

    raise PickyError(1, 2)


def fail_and_not_be_pickled():
    error = SpecialError("with a lock")
    error.lock = threading.Lock()
    raise error


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def make_noting():
    return make_pipeline(Noting(), network())


def check_dealt(use):
    """Check that a use with two jobs gives on two workers what it gives plainly, and return both."""
    plain, n_fits = count_fits(lambda: use(None))
    with fused_fits() as report:
        dealt, n_outside = count_fits(lambda: use(2))
    assert_equal_results(dealt, plain)
    assert report.n_fits == n_fits - n_outside
    return dealt, report


@within(300)
def test_two_jobs_are_two_workers_which_fuse_their_portions():
    _, report = check_dealt(lambda n_jobs: search(n_jobs=n_jobs).fit(X, y))
    assert [stack.n_models for stack in report.stacks] == [6, 6]
    with fused_fits():
        start_workers()
        fits = cross_validate(make_noting(), X, y, cv=4, n_jobs=2, return_estimator=True)["estimator"]
    processes = {fit[0].process_ for fit in fits}
    assert len(processes) == 2
    assert processes.isdisjoint(HERE)


@within(300)
def test_one_job_is_this_process_and_more_are_workers():
    with fused_fits():
        assert find_processes() == find_processes(1) == HERE
        assert find_processes(2, require="sharedmem") == find_processes(2, prefer="threads") == HERE
        assert len(find_processes(2) - HERE) == 2
        with joblib.parallel_config(n_jobs=1):
            assert find_processes() == HERE
        assert find_processes(-1).isdisjoint(HERE) or joblib.cpu_count() == 1
    with joblib.parallel_config(n_jobs=2), fused_fits():
        assert len(find_processes() - HERE) == 2
        assert find_processes(1) == HERE
    with fused_fits(backend="loky", n_jobs=2):
        assert len(find_processes() - HERE) == 2
        assert find_processes(1) == HERE
    with fused_fits(backend="threading"):
        assert find_processes(2) == HERE


@within(300)
def test_bagging_which_asks_for_a_number_of_tasks_is_dealt_by_its_n_jobs():
    def fit(n_jobs):
        return BaggingClassifier(make_noting(), 6, n_jobs=n_jobs, random_state=0).fit(X, y)

    dealt, _ = check_dealt(fit)
    assert len({model[0].process_ for model in dealt.estimators_} - HERE) == 2
    with fused_fits() as report:
        fused = fit(None)
        pairwise_distances(X)
        joblib.effective_n_jobs()
        assert len(find_processes(2) - HERE) == 2  # an answer that nobody used
    assert {model[0].process_ for model in fused.estimators_} == HERE
    assert max(stack.n_models for stack in report.stacks) > 1


@within(300)
def test_nested_calls_fuse_inside_the_worker():
    def use(n_jobs):
        model = OneVsRestClassifier(make_noting(), n_jobs=n_jobs)
        return cross_validate(model, X, y, cv=4, n_jobs=n_jobs, scoring="neg_log_loss", return_estimator=True)

    dealt, report = check_dealt(use)
    processes = {model[0].process_ for fit in dealt["estimator"] for model in fit.estimators_}
    assert len(processes) == 2
    assert [stack.n_models for stack in report.stacks] == [6, 6]


@within(300)
def test_large_data_are_mapped_for_the_workers_and_fused():
    data = make_classification(6000, 30, n_informative=8, n_classes=4, random_state=0)

    def use(n_jobs):
        return OneVsRestClassifier(network(max_iter=2), n_jobs=n_jobs).fit(*data).predict_proba(data[0])

    _, report = check_dealt(use)
    assert [(stack.n_models, stack.alone) for stack in report.stacks] == [(2, None), (2, None)]
    with fused_fits():
        kinds = Parallel(n_jobs=2)(delayed(lambda table: type(table).__name__)(data[0]) for _ in range(2))
    assert kinds == ["memmap", "memmap"]


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(300)
def test_functions_of_the_user_work_and_failed_fits_get_the_error_score():
    factor = 3
    candidates = {"doing": [Doing(), Doing(lambda: fail(SpecialError()))]}
    failing = search(make_pipeline_of_two_fits(None), candidates, refit=False, n_jobs=2)
    with fused_fits():
        assert Parallel(n_jobs=2)(delayed(lambda k: k * factor)(k) for k in range(3)) == [0, 3, 6]
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            failing.fit(X, y)
    assert np.isnan(failing.cv_results_["mean_test_score"]).tolist() == [False, True]


@within(300)
def test_cuda_stays_in_one_process_and_says_so(monkeypatch, capsys):
    with fused_fits(verbose=True) as report:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert find_processes() == HERE
        assert report.notes == []
        assert find_processes(2) == find_processes(-1) == HERE
        assert report.notes == [
            "n_jobs was not used: a search on CUDA stays in one process. Use device='cpu' for networks "
            "on the CPU, or fused_fits(backend='loky') for several processes."
        ]
        assert find_processes(2, backend="loky").isdisjoint(HERE)
        search(make_noting(), {"scratchnnclassifier__alpha": [0.1, 1.0]}, refit=False, n_jobs=2).set_params(
            estimator__scratchnnclassifier__device="cpu"
        ).fit(X, y)
    assert len(report.notes) == 1
    assert report.notes[0] in str(report)
    assert [stack.n_models for stack in report.stacks] == [3, 3]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[fused_fits] {report.notes[0]}"
    assert [line.split(" on ")[0] for line in lines[1:]] == ["[fused_fits] 3 x 4-5-3"] * 2


@pytest.mark.parametrize(
    ("call", "what"),
    [(fail_and_not_be_read, "PickyError: 1 and 2"), (fail_and_not_be_pickled, "SpecialError: with a lock")],
)
@within(60)
def test_an_error_that_cannot_be_sent_is_explained(call, what):
    message = rf"A task's error must be one that pickle can send .*, got .*{what}, which it cannot: .*Use n_jobs=1"
    with pytest.raises(RuntimeError, match=message) as error:
        run_portion([call], 1, ("another machine", 0))
    assert what.endswith(str(error.value.__cause__))
    with pytest.raises(Exception, match=what.split(": ")[1]) as error:  # a thread of the caller has nothing to send
        run_portion([call], 1, name_process())
    assert type(error.value).__name__ == what.split(":")[0]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.filterwarnings("ignore:A worker stopped")
@within(300)
def test_errors_end_the_call_and_the_next_one_works():
    with fused_fits() as report:
        with pytest.raises(SpecialError, match="of a task") as error:
            Parallel(n_jobs=2)(delayed(fail)(SpecialError("of a task")) for _ in range(4))
        assert "in fail_deep" in str(error.value.__cause__)
        with pytest.raises(TerminatedWorkerError):
            Parallel(n_jobs=2)(delayed(die)() for _ in range(2))
        with pytest.raises(pickle.PicklingError, match="Could not pickle the task to send it to the workers"):
            cross_validate(make_pipeline(Doing(threading.Lock().acquire), network()), X, y, n_jobs=2)
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(n_jobs=2, timeout=0.1)(delayed(time.sleep)(60) for _ in range(2))
        cross_validate(network(), X, y, cv=4, n_jobs=2)
    assert [stack.n_models for stack in report.stacks] == [2, 2]
