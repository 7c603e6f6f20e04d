"""Workers of another joblib backend fuse their portions."""

import contextlib
import logging
import os
import signal
import traceback
from collections import Counter

import joblib
import numpy as np
import pytest
from fusion_helpers import (
    Doing,
    SpecialError,
    X,
    assert_equal_results,
    count_fits,
    fail,
    make_call,
    make_pipeline_of_two_fits,
    network,
    search,
    y,
)
from fusion_uses import USES
from helpers import ROOT, run_python, within
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline

from scratchnn import fused_fits
from scratchnn.fusion import portions
from scratchnn.fusion.shipping import SharedArrays
from scratchnn.fusion.workers import DealtCalls


class Noting(Doing):
    """A transformer that notes the process it was fitted in."""

    def fit(self, X, y=None):
        self.process_ = os.getpid()
        return self


class DyingOnce(Doing):
    """A transformer that notes its fits in a folder. The third of a process kills it, but only one process dies."""

    n_fits = 0

    def __init__(self, action=None, folder=None):
        super().__init__(action)
        self.folder = folder

    def fit(self, X, y=None):
        DyingOnce.n_fits += 1
        with open(f"{self.folder}/fits", "a") as file:
            file.write(f"{self.action} {X.sum():.9f}\n")
        if DyingOnce.n_fits == 3:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(f"{self.folder}/died", os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        return self


class NotedTable:
    """A table that notes each time that a process sends it or gets it."""

    def __init__(self, values, path):
        self.values, self.path = values, path
        self.shape = values.shape

    def __getitem__(self, rows):
        return self.values[rows]

    def __sizeof__(self):
        return self.values.nbytes

    def __reduce__(self):
        self.note("sent")
        return receive_table, (self.values, self.path)

    def note(self, what):
        with open(self.path, "a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def read_notes(self):
        """Return how often this process has sent the table, and how often each other one has got it."""
        with open(self.path) as file:
            counts = Counter(file.read().splitlines())
        got = [count for note, count in counts.items() if note.startswith("got")]
        return counts[f"sent {os.getpid()}"], got


def receive_table(values, path):
    table = NotedTable(values, path)
    table.note("got")
    return table


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
def test_more_calls_than_are_taken_at_once_are_dealt():
    _, report = check_same_on_workers("loky", lambda: search(refit=False, pre_dispatch=4).fit(X, y))
    assert report.n_fits == 12


@pytest.fixture(scope="module")
def cluster_client():
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


@pytest.fixture
def client(cluster_client):
    """Return a client of a cluster of Dask with two workers, also where a test before has killed one."""
    cluster_client.wait_for_workers(2, timeout=60)
    return cluster_client


@pytest.mark.filterwarnings("ignore")
@within(300)
def test_dask_workers_fuse_their_portions(client):
    check_workers("dask")


@pytest.fixture
def small_portions(monkeypatch):
    monkeypatch.setattr(portions, "LEAST_PORTION", 3)


@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_of_dask_costs_its_portion_only(client, small_portions, tmp_path):
    tags = {"dyingonce__action": list("abcdefgh")}
    plain = search(make_pipeline(Doing(), network()), {"doing__action": [None] * 8}, scoring="neg_log_loss").fit(X, y)
    dying = search(make_pipeline(DyingOnce(folder=str(tmp_path)), network()), tags, scoring="neg_log_loss", refit=False)

    @within(60)
    def use():
        with fused_fits(backend="dask", n_jobs=2) as report:
            return dying.fit(X, y).cv_results_["mean_test_score"], report

    scores, report = use()
    np.testing.assert_allclose(scores, plain.cv_results_["mean_test_score"], rtol=1e-6)
    assert (tmp_path / "died").exists()
    assert report.n_fits == 24
    counts = Counter((tmp_path / "fits").read_text().splitlines())
    assert sorted(counts.values()) == [1] * 21 + [2] * 3  # the portion's first three fits are made again


@pytest.mark.filterwarnings("ignore")
def test_dask_sends_each_worker_the_data_once(client, small_portions, tmp_path):
    table = NotedTable(X, str(tmp_path / "notes"))
    grid = {"alpha": [1e-4, 1e-3, 1e-2, 0.1, 0.2, 1.0, 2.0, 10.0]}

    @within(60)
    def use():
        with fused_fits(backend="dask", n_jobs=2) as report:
            # Calls are dealt out twice, and each time in several portions.
            return search(grid=grid, refit=False, scoring="neg_log_loss", pre_dispatch=12).fit(table, y), report

    dealt, report = use()
    plain = search(grid=grid, refit=False, scoring="neg_log_loss").fit(X, y)
    assert_equal_results(dealt, plain)
    assert len(report.stacks) >= 6
    n_sent, n_got = table.read_notes()
    assert n_sent == 1
    assert n_got == [1, 1]


@pytest.mark.filterwarnings("ignore")
def test_shared_arrays_survive_the_loss_of_a_worker_of_dask(client):
    """Each is at all workers before the first portion begins, and is not sent again for the next portions."""
    shared = SharedArrays()
    portions = [[make_call(X, y)], [make_call(X, y)]]
    with joblib.parallel_config(backend="dask"):
        backend = joblib.parallel.get_active_backend()[0]
        _, futures = shared.take_out(portions, backend)
        _, again = shared.take_out(portions, backend)
    assert [len(workers) for workers in client.who_has(futures).values()] == [2, 2]
    assert [future.key for future in again] == [future.key for future in futures]


@pytest.mark.filterwarnings("ignore")
def test_portions_of_dask_move_the_bar(client, small_portions, capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    counts = []
    count_dealt = DealtCalls.count_fits

    def count_fits(calls):
        counts.append(count_dealt(calls))
        return counts[-1]

    monkeypatch.setattr(DealtCalls, "count_fits", count_fits)

    @within(60)
    def use():
        with fused_fits(backend="dask", n_jobs=2, progress=True, verbose=True) as report:
            search(make_pipeline(Noting(), network(max_iter=200)), {"noting__action": [None] * 4}).fit(X, y)
        return report

    report = use()
    assert len(report.stacks) >= 4
    assert {done for done, _ in counts} <= {0, 3, 6, 9, 12}
    assert counts[-1][0] >= 9  # joblib may count the last portion after the end
    written = capsys.readouterr()
    assert "13 of 13 fits" in written.err  # with the final one
    lines = [line for line in written.out.splitlines() if line.startswith("[fused_fits]")]
    assert len(lines) == len(report.stacks)


RAY_CODE = """
import os, sys, warnings
sys.path[:0] = [{tests!r}, {fusion!r}]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # of the workers
warnings.simplefilter("ignore")
import ray
from fusion_helpers import X, assert_equal_results, search, y
from ray.util.joblib import register_ray
from scratchnn import fused_fits
from scratchnn.fusion import portions
from test_workers import NotedTable

register_ray()
portions.LEAST_PORTION = 3
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
plain = search(refit=False).fit(X, y)
table = NotedTable(X, {notes!r})
with fused_fits(backend="ray", n_jobs=2) as report:
    dealt = search(refit=False).fit(table, y)
assert_equal_results(dealt, plain)
print(report.n_fits, len(report.stacks), table.read_notes()[0])
ray.shutdown()
"""


def test_ray_workers_fuse_their_portions(tmp_path):
    pytest.importorskip("ray", reason="Ray is not among the packages of the tests")
    # In a process of its own: register_ray changes joblib's pools of processes.
    tests = ROOT / "tests"
    paths = {"tests": str(tests), "fusion": str(tests / "fusion"), "notes": str(tmp_path / "notes")}
    n_fits, n_stacks, n_sent = map(int, run_python(RAY_CODE.format(**paths)).split())
    assert n_fits == 12
    assert n_stacks >= 4  # portions, each with stacks of its own
    assert n_sent == 1
