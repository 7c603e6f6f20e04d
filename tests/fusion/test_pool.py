"""What waits is kept once, takes a known amount of memory, and trains in parts where it must."""

import threading
import warnings
import weakref
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from fusion_helpers import allocate_too_much, alphas, check_same_after, network, raise_memory_error
from helpers import spoil, within
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from small_searches import SEARCHES, X, score, y

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion import pool
from scratchnn.fusion.report import FusionReport
from scratchnn.fusion.scheduler import Scheduler
from scratchnn.training import Data, TrainingRun, train
from scratchnn.training.buffers import Buffer

MEGABYTE = 2**20


def test_what_a_run_takes_counts_its_rows_and_its_coefficients():
    runs = []

    def record(given):
        runs.extend(given)
        return [[run] for run in given]

    with pytest.MonkeyPatch.context() as patch, fused_fits():
        patch.setattr(pool, "make_stacks", record)
        joblib.Parallel()(joblib.delayed(network(early_stopping=early).fit)(X, y) for early in [False, True])
    plain, watched = map(pool.count_bytes, runs)
    rows = 60 * (4 + 1 + 1) * 8  # columns, ones and target
    assert plain == 5 * rows + 8 * (5 * 5 + 6) * 8
    assert watched == plain  # the rows are dealt out to training and validation
    run = runs[0]
    meta = Data(run.data.inputs.to("meta"), run.data.targets.to("meta"))
    elsewhere = TrainingRun(meta, run.hyperparameters, run.buffer, run.generator)
    assert pool.count_bytes(elsewhere) == 8 * (5 * 5 + 6) * 8


@pytest.mark.parametrize(("n_free", "has_room"), [(3 * 8800 + 1, True), (3 * 8800, False)])
def test_what_waits_on_a_device_leaves_most_of_its_memory_free(n_free, has_room, monkeypatch):
    monkeypatch.setattr(pool, "count_device_memory", lambda device: n_free)
    monkeypatch.setattr(pool, "count_memory", lambda: 1000 * MEGABYTE)
    waiting = pool.RunPool(FusionReport(), None, 1)
    assert waiting.has_room()
    data = Data(*(torch.zeros(100, width, device="meta", dtype=torch.float64) for width in (9, 1)))
    buffer = Buffer(torch.zeros(100, device="meta", dtype=torch.float64), (9, 10, 1), "relu", "logistic", 0)
    waiting.add(TrainingRun(data, SimpleNamespace(), buffer, torch.Generator()))
    assert waiting.on_devices == {torch.device("meta"): 8800}
    assert waiting.has_room() == has_room
    waiting.clear()
    assert waiting.has_room()


@within(60)
def test_no_task_begins_while_those_that_wait_hold_much(monkeypatch):
    """What they hold beyond their data is seen in what is left."""
    tasks = []

    def count_memory():
        n_alive = sum(thread.name == "scratchnn-task" for thread in threading.enumerate())
        tasks.append(n_alive)
        return 1000 * MEGABYTE - 90 * MEGABYTE * n_alive

    monkeypatch.setattr(pool, "MEMORY_LIFE", -1)
    report = check_same_after(monkeypatch.setattr, score, pool, "count_memory", count_memory)
    assert report.n_fits == 12
    assert len(report.stacks) >= 4
    assert max(tasks) <= 4


@within(60)
def test_models_that_nobody_needs_are_not_kept_until_the_end():
    class Counted(ScratchNNClassifier):
        def fit(self, X, y):
            fitted.append(weakref.ref(self))
            most.append(sum(each() is not None for each in fitted))
            return super().fit(X, y)

    fitted, most = [], []
    model = Counted((2,), solver="lbfgs", max_iter=2)
    with pytest.MonkeyPatch.context() as patch, fused_fits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Scheduler, "MAX_TASKS", 2)
        cross_val_score(model, X, y, cv=10)
    assert len(most) == 10
    assert max(most) <= 3


@pytest.fixture
def train_if(monkeypatch):
    """Let training raise an error where a function of the runs says so."""

    def patch(fits, raise_error=raise_memory_error):
        def train_within_limit(runs):
            if not fits(runs):
                spoil(runs)
                raise_error()
            train(runs)

        monkeypatch.setattr(pool, "train", train_within_limit)

    return patch


@pytest.mark.parametrize("raise_error", [raise_memory_error, allocate_too_much])
@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("use", SEARCHES)
@within(60)
def test_a_stack_for_which_memory_does_not_suffice_trains_in_parts(use, most, raise_error, train_if):
    report = check_same_after(train_if, use, lambda runs: len(runs) <= most, raise_error)
    assert max(stack.n_models for stack in report.stacks) == min(most, 3)


@within(60)
def test_a_fit_for_which_memory_suffices_when_others_have_ended_waits_for_them(train_if):
    """Two of the candidates fit while at most five tasks are under way."""
    n_failures = 0

    def fits(runs):
        nonlocal n_failures
        n_alive = sum(thread.name == "scratchnn-task" for thread in threading.enumerate())
        is_enough = len(runs) == 1 and (runs[0].hyperparameters.alpha < 1 or n_alive <= 7)
        n_failures += len(runs) == 1 and not is_enough
        return is_enough

    report = check_same_after(train_if, score, fits)
    assert report.n_fits == 12
    assert n_failures > 0


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("raise_error", [raise_memory_error, allocate_too_much])
@within(60)
def test_a_fit_for_which_memory_never_suffices_fails_alone(raise_error, train_if):
    expected = score()
    train_if(lambda runs: all(run.hyperparameters.alpha != 1.0 for run in runs), raise_error)
    with fused_fits():
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            scores = score()
        with pytest.raises((MemoryError, RuntimeError), match=r"of a task|allocate"):
            score(error_score="raise")
    assert np.isnan(scores).tolist() == [False, False, True, False]
    np.testing.assert_allclose(np.delete(scores, 2), np.delete(expected, 2), rtol=1e-6)


@within(60)
def test_all_fits_may_run_out_of_memory(train_if):
    train_if(lambda runs: False)
    with fused_fits() as report, pytest.raises(ValueError, match="All the 12 fits failed"):
        score()
    assert report.n_fits == 0


@within(60)
def test_snapshots_for_which_memory_does_not_suffice_are_of_smaller_stacks(monkeypatch):
    class Snapshot(pool.Snapshot):
        n_alive = 0

        def __init__(self, run):
            if Snapshot.n_alive == 3:
                raise MemoryError
            super().__init__(run)
            Snapshot.n_alive += 1

        def __del__(self):
            Snapshot.n_alive -= hasattr(self, "fields")

    report = check_same_after(monkeypatch.setattr, score, pool, "Snapshot", Snapshot)
    assert max(stack.n_models for stack in report.stacks) == 3


@within(60)
def test_what_was_not_trained_does_not_pass_for_it(monkeypatch):
    def make_stacks(runs):
        raise MemoryError("while stacks are made")

    monkeypatch.setattr(pool, "make_stacks", make_stacks)
    with fused_fits(), pytest.raises(MemoryError, match="while stacks are made"):
        score(error_score="raise")


def score_by_tasks(estimator, X, y):
    return cross_val_score(network(alpha=0.3), X, y, cv=2, scoring="neg_log_loss").mean()


@within(60)
def test_scoring_during_training_may_run_tasks_of_its_own(monkeypatch):
    """The tasks whose runs are being trained must not go on meanwhile."""

    def train_one_at_a_time(runs):
        if len(runs) > 1:
            raise MemoryError
        trained.append(runs[0])
        if len(trained) == 1:
            raise MemoryError
        train(runs)

    def use():
        net = network(early_stopping=True, scoring=score_by_tasks, max_iter=2)
        return GridSearchCV(net, alphas, cv=KFold(3), scoring="neg_log_loss", refit=False).fit(X, y)

    expected, trained = use().cv_results_["mean_test_score"], []
    monkeypatch.setattr(Scheduler, "MAX_TASKS", 4)
    monkeypatch.setattr(pool, "train", train_one_at_a_time)
    with fused_fits():
        np.testing.assert_allclose(use().cv_results_["mean_test_score"], expected, rtol=1e-6)
