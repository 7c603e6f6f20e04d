"""Where threads cannot be started, results are the same with fewer tasks under way."""

import joblib
import numpy as np
import pytest
import torch
from fusion_helpers import Doing, check_same_after, interrupt, network, raise_memory_error
from helpers import within
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from small_searches import SEARCHES, X, score, score_nested, y

from scratchnn import fused_fits
from scratchnn.fusion import pool
from scratchnn.fusion.scheduler import Scheduler
from scratchnn.fusion.task import Task
from scratchnn.training import train


@pytest.mark.parametrize("use", SEARCHES)
@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@within(60)
def test_where_no_thread_can_be_started_results_are_the_same(use, most, error, start_with):
    def start(thread, original, n_calls):
        if n_calls > most:
            raise error
        original(thread)

    report = check_same_after(start_with, use, start)
    assert {stack.alone for stack in report.stacks} >= {"no thread could be started"}
    if use is score:
        assert report.n_fits == 12


@within(60)
def test_where_no_thread_can_be_started_training_asks_for_none(monkeypatch, start_with):
    """OpenMP would end the process."""

    def start(thread, original, n_calls):
        if n_calls > 2:
            raise RuntimeError("can't start new thread")
        original(thread)

    def note(runs):
        numbers.append(torch.get_num_threads())
        train(runs)

    numbers = []
    monkeypatch.setattr(pool, "train", note)
    start_with(start)
    with fused_fits():
        score()
    assert set(numbers) == {1}


@within(60)
def test_threads_that_can_be_started_at_times_serve_then(start_with):
    def start(thread, original, n_calls):
        if n_calls % 3 == 0:
            raise RuntimeError("can't start new thread")
        original(thread)

    expected = [use() for use in SEARCHES]
    start_with(start)
    with fused_fits() as report:
        for use, result in zip(SEARCHES, expected, strict=True):
            np.testing.assert_allclose(use(), result, rtol=1e-6)
    assert max(stack.n_models for stack in report.stacks) > 1


@within(60)
def test_a_thread_that_begins_although_its_start_failed_ends(start_with):
    def start(thread, original, n_calls):
        original(thread)
        if n_calls % 2 == 0:
            raise MemoryError

    report = check_same_after(start_with, score, start)
    assert report.n_fits == 12


@pytest.mark.parametrize("has_begun", [False, True])
@within(60)
def test_an_interrupt_while_a_thread_is_started_reaches_the_caller(has_begun, start_with):
    def start(thread, original, n_calls):
        if has_begun or n_calls != 3:
            original(thread)
        if n_calls == 3:
            raise KeyboardInterrupt

    start_with(start)
    with fused_fits():
        with pytest.raises(KeyboardInterrupt):
            score()
        assert len(score()) == 4


@pytest.mark.parametrize("most", [0, 1, 100])
@pytest.mark.parametrize(("action", "error"), [(raise_memory_error, MemoryError), (interrupt, KeyboardInterrupt)])
@within(60)
def test_an_error_of_a_task_reaches_the_caller_wherever_it_runs(most, action, error, start_with):
    def start(thread, original, n_calls):
        if n_calls > most:
            raise RuntimeError("can't start new thread")
        original(thread)

    start_with(start)
    failing = make_pipeline(Doing(action), network())
    with fused_fits():
        for k in range(3):
            models = [network(), network(), network()]
            models[k] = failing
            with pytest.raises(error):
                joblib.Parallel()(joblib.delayed(model.fit)(X, y) for model in models)
        with pytest.raises(error):
            joblib.Parallel()(joblib.delayed(cross_val_score)(failing, X, y, error_score="raise") for _ in range(2))
        assert joblib.Parallel()(joblib.delayed(pow)(k, 2) for k in range(3)) == [0, 1, 4]


@pytest.mark.parametrize("backend", ["threading", "sequential"])
@within(60)
def test_workers_without_threads_give_the_same(backend, start_with):
    def start(thread, original, n_calls):
        raise RuntimeError("can't start new thread")

    expected = [score(), score_nested()]
    start_with(start)
    with fused_fits(backend=backend, n_jobs=2):
        np.testing.assert_allclose(score(), expected[0], rtol=1e-6)
        np.testing.assert_allclose(score_nested(), expected[1], rtol=1e-6)


@within(60)
def test_a_thread_that_dies_fails_its_task(start_with):
    def start(thread, original, n_calls):
        if n_calls != 2:
            original(thread)

    start_with(start)
    with fused_fits(), pytest.raises(RuntimeError, match=r"thread of a task of fused_fits ended .* Free memory, or"):
        score()


@within(60)
def test_an_error_outside_of_the_call_reaches_the_caller(monkeypatch):
    original = Scheduler.end

    def end(self, task):
        if not failed:
            failed.append(task)
            raise MemoryError("at the end")
        original(self, task)

    failed = []
    monkeypatch.setattr(Scheduler, "end", end)
    with fused_fits():
        with pytest.raises(MemoryError, match="at the end"):
            score()
        assert len(score()) == 4
    monkeypatch.setattr(Task, "_live", lambda self: raise_memory_error())
    with fused_fits(), pytest.raises(MemoryError, match="of a task"):
        score()


@within(60)
def test_an_error_in_making_a_task_reaches_the_caller(monkeypatch):
    original, n_made = Scheduler.submit, 0

    def submit(self, task):
        nonlocal n_made
        n_made += 1
        if n_made == 3:
            raise MemoryError("while a task is made")
        original(self, task)

    monkeypatch.setattr(Scheduler, "submit", submit)
    with fused_fits():
        with pytest.raises(MemoryError, match="while a task is made"):
            score()
        assert len(score()) == 4


@within(60)
def test_calls_that_make_calls_while_they_are_taken_end():
    """A task that ends takes a lock of joblib's, which the caller holds while its iterator makes calls of its own."""
    small = network(max_iter=1)

    def make_calls():
        for k in range(Scheduler.MAX_TASKS + 10):
            if k > Scheduler.MAX_TASKS:
                cross_val_score(small, X, y, cv=2)
            yield joblib.delayed(small.fit)(X, y)

    with fused_fits() as report:
        assert len(joblib.Parallel()(make_calls())) == Scheduler.MAX_TASKS + 10
    assert report.n_fits == Scheduler.MAX_TASKS + 10
