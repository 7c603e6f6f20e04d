"""Workers of another joblib backend fuse their portions."""

import contextlib
import logging
import os
import signal
import traceback

import numpy as np
import pytest
from fusion_helpers import (
    Doing,
    SpecialError,
    X,
    assert_equal_results,
    count_fits,
    fail,
    make_pipeline_of_two_fits,
    network,
    search,
    y,
)
from fusion_uses import USES
from helpers import within
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline

from scratchnn import fused_fits
from scratchnn.fusion.scheduler import Scheduler


class Noting(Doing):
    """A transformer that notes the process it was fitted in."""

    def fit(self, X, y=None):
        self.process_ = os.getpid()
        return self


class DyingOnce(Doing):
    """A transformer whose first fit kills its process. ``action`` is the path of a file to remember that by."""

    def fit(self, X, y=None):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.action, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        return self


def check_same_on_workers(backend, use):
    """Run a use plainly and on two workers, and return its result and the report."""
    plain, n_fits = count_fits(use)
    with fused_fits(backend=backend, n_jobs=2) as report:
        dealt, n_outside = count_fits(use)
    assert_equal_results(dealt, plain)
    assert report.n_fits == n_fits - n_outside
    return dealt, report


WORKER_USES = {
    name: USES[name]
    for name in ["GridSearchCV", "HalvingGridSearchCV", "cross_validate", "OneVsRest", "nested search", "no networks"]
}


def check_workers(backend):
    """Check what holds for any backend: each worker fuses its portion; errors arrive."""
    for use in WORKER_USES.values():
        _, report = check_same_on_workers(backend, use)
    report = check_same_on_workers(backend, USES["GridSearchCV"])[1]
    assert [stack.n_models for stack in report.stacks] == [6, 6]
    with fused_fits(backend=backend, n_jobs=2) as report:
        noting = make_pipeline(Noting(), network())
        fits = cross_validate(noting, X, y, cv=6, return_estimator=True)["estimator"]
    assert [stack.n_models for stack in report.stacks] == [3, 3]
    processes = {fit[0].process_ for fit in fits}
    assert len(processes) == 2
    assert os.getpid() not in processes
    for model in [make_pipeline(Doing(fail), network()), make_pipeline_of_two_fits(fail)]:
        with fused_fits(backend=backend, n_jobs=2), pytest.raises(SpecialError, match="of a task") as error:
            cross_val_score(model, X, y, error_score="raise")
        assert ", in fail\n" in "".join(traceback.format_exception(error.value))  # the frames of the worker
    candidates = {"doing": ["passthrough", Doing(fail), "passthrough"]}
    failing = search(make_pipeline_of_two_fits(None), candidates, refit=False)
    with pytest.warns(FitFailedWarning, match="3 fits failed"), fused_fits(backend=backend, n_jobs=2):
        result = failing.fit(X, y)
    failing.set_params(error_score="raise")
    with fused_fits(backend=backend, n_jobs=2), pytest.raises(SpecialError, match="of a task"):
        failing.fit(X, y)
    assert np.isnan(result.cv_results_["mean_test_score"]).tolist() == [False, True, False]


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(300)
def test_loky_workers_fuse_their_portions():
    check_workers("loky")


@within(60)
def test_more_calls_than_are_taken_at_once_are_dealt(monkeypatch):
    monkeypatch.setattr(Scheduler, "MAX_TASKS", 2)
    _, report = check_same_on_workers("loky", lambda: search(refit=False, pre_dispatch=4).fit(X, y))
    assert report.n_fits == 12


@pytest.fixture
def client():
    distributed = pytest.importorskip("distributed")
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)
    where = {"host": "127.0.0.1", "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL, **where) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
    log.setLevel(level)


@pytest.mark.filterwarnings("ignore")
def test_dask_workers_fuse_their_portions_and_may_die(client, tmp_path):
    within(300)(check_workers)("dask")
    dying = make_pipeline(DyingOnce(str(tmp_path / "died")), network())

    @within(60)
    def use():
        with fused_fits(backend="dask", n_jobs=2) as report:
            return cross_val_score(dying, X, y, scoring="neg_log_loss", error_score="raise"), report

    scores, report = use()
    assert (tmp_path / "died").exists()
    assert_equal_results(scores, cross_val_score(network(), X, y, scoring="neg_log_loss"))
    assert report.n_fits == 5
