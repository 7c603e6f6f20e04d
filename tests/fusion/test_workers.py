"""Workers of a joblib backend fuse their chunks of tasks."""

import logging
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from fusion_helpers import Doing, OwnError, assert_equal_results, count_fits, fail, make_two_fits, network, run, search
from helpers import run_python
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import cross_val_score, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from small_problems import X, y
from uses import USES

from scratchnn import fused_fits
from scratchnn.fusion import backend

HERE = {os.getpid()}


def find_processes(n_jobs=None, **settings):
    """Return the processes that the calls of joblib run in."""
    return set(Parallel(n_jobs=n_jobs, **settings)(delayed(os.getpid)() for _ in range(4)))


def check_dispatched(use):
    """Check that a use gives on two workers of the active backend what it gives plainly, and return both."""
    with joblib.parallel_config("loky", n_jobs=1):
        plain, n_fits = count_fits(use)
    with joblib.parallel_config(n_jobs=2), fused_fits() as report:
        dispatched, n_outside = count_fits(use)
    assert_equal_results(dispatched, plain)
    assert report.n_fits == n_fits - n_outside
    return dispatched, report


def check_workers():
    """Check what holds for any active backend: each worker fuses its chunk; errors arrive."""
    for name in ["HalvingGridSearchCV", "cross_validate", "nested search", "search without the classifier"]:
        check_dispatched(USES[name])
    noting = make_pipeline(Doing(partial(time.sleep, 0.1)), network())  # so each worker begins before another ends
    fits, report = check_dispatched(lambda: cross_validate(noting, X, y, cv=6, return_estimator=True)["estimator"])
    assert [stack.n_models for stack in report.stacks] == [3, 3]
    bagging, _ = check_dispatched(lambda: BaggingClassifier(noting, 6, random_state=0).fit(X, y))
    for models in (fits, bagging.estimators_):
        assert len({model[0].process_ for model in models} - HERE) == 2
    failing = search(make_two_fits(None), {"doing": ["passthrough", Doing(fail)]}, refit=False)
    with joblib.parallel_config(n_jobs=2), fused_fits():
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            failing.fit(X, y)
        with pytest.raises(OwnError, match="of a task") as error:
            cross_val_score(make_two_fits(fail), X, y, error_score="raise")
    assert np.isnan(failing.cv_results_["mean_test_score"]).tolist() == [False, True]
    assert ", in fail\n" in "".join(traceback.format_exception(error.value))  # the frames of the worker


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_loky_workers_fuse_their_chunks():
    check_workers()


@pytest.mark.filterwarnings("ignore")
def test_dask_workers_fuse_their_chunks():
    distributed = pytest.importorskip("distributed")
    where = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **where) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        client.wait_for_workers(2, timeout=60)
        check_workers()
        with fused_fits():  # joblib's default for Dask is all workers
            assert find_processes().isdisjoint(HERE)


RAY_CODE = """
import warnings
warnings.simplefilter("ignore")
import joblib, ray
from fusion_helpers import assert_equal_results, search
from small_problems import X, y
from ray.util.joblib import register_ray
from scratchnn import fused_fits

register_ray()
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
plain = search(refit=False).fit(X, y)
with joblib.parallel_config("ray", n_jobs=2), fused_fits() as report:
    dispatched = search(refit=False).fit(X, y)
assert_equal_results(dispatched, plain)
print(*[stack.n_models for stack in report.stacks])
ray.shutdown()
"""


def test_ray_workers_fuse_their_chunks(monkeypatch):
    pytest.importorskip("ray", reason="Ray is not among the packages of the tests")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    # In a process of its own: register_ray changes joblib's pools of processes.
    assert run_python(RAY_CODE).split() == ["6", "6"]


def test_one_job_is_this_process_and_more_are_workers():
    with fused_fits():
        assert find_processes() == find_processes(1) == HERE
        assert find_processes(2, require="sharedmem") == find_processes(2, prefer="threads") == HERE
        assert find_processes(2).isdisjoint(HERE)
        assert Parallel()(delayed(find_processes)(2) for _ in range(2)) == [HERE] * 2
        with joblib.parallel_config(n_jobs=1):
            assert find_processes() == HERE
        with fused_fits():
            assert find_processes(2).isdisjoint(HERE)
        with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
            find_processes(0)
        with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
            run(lambda k: find_processes(0))
    with joblib.parallel_config(n_jobs=2), fused_fits():
        assert find_processes().isdisjoint(HERE)
        assert find_processes(1) == HERE


def test_large_data_are_mapped_for_the_workers_and_fused():
    data = make_classification(6000, 30, n_informative=8, n_classes=4, random_state=0)
    _, report = check_dispatched(lambda: OneVsRestClassifier(network(max_iter=2)).fit(*data).predict_proba(data[0]))
    assert [(stack.n_models, stack.unfused_reason) for stack in report.stacks] == [(2, None), (2, None)]
    for max_nbytes, kind in (("1M", "memmap"), (None, "ndarray")):
        with fused_fits():
            calls = [delayed(lambda table: type(table).__name__)(data[0])] * 2
            assert Parallel(n_jobs=2, max_nbytes=max_nbytes)(calls) == [kind] * 2


def test_tasks_of_different_workers_draw_different_numbers():
    def draw(k):
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    def use():
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        with fused_fits():
            return [run(draw, 4, n_jobs=n_jobs) for n_jobs in (2, 2, None)]

    drawn = use()
    assert len(set(np.ravel(drawn))) == 3 * 4 * 3
    assert use() == drawn


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.filterwarnings("ignore:A worker stopped")
def test_errors_end_the_call_and_the_next_one_works():
    with fused_fits() as report:
        with pytest.raises(TerminatedWorkerError):
            Parallel(n_jobs=2)(delayed(lambda: os.kill(os.getpid(), signal.SIGKILL))() for _ in range(2))
        with pytest.raises(pickle.PicklingError, match="Could not pickle the task to send it to the workers"):
            cross_validate(make_pipeline(Doing(threading.Lock().acquire), network()), X, y, n_jobs=2)
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(n_jobs=2, timeout=0.1)(delayed(time.sleep)(60) for _ in range(2))
        factor = 3
        assert Parallel(n_jobs=2)(delayed(lambda k: k * factor)(k) for k in range(3)) == [0, 3, 6]
        cross_validate(network(), X, y, cv=4, n_jobs=2)
    assert [stack.n_models for stack in report.stacks] == [2, 2]


def test_threads_of_joblib_fuse_their_chunks_which_have_equal_parts_of_all_folds(monkeypatch):
    """Because a search has its folds innermost. Their tasks share the generators."""
    monkeypatch.setattr(backend, "MIN_CHUNK", 3)
    state = random.getstate()
    with joblib.parallel_config("threading"), fused_fits() as report:
        assert find_processes(2) == HERE
        search(refit=False, n_jobs=2).fit(X, y)
    assert [stack.n_models for stack in report.stacks] == [3] * 4
    assert random.getstate() == state
