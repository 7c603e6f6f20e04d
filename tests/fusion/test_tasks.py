"""Tasks run one at a time in the caller's thread, wherever that is, however they are nested, and wherever they fit."""

import asyncio
import multiprocessing
import os
import sqlite3
import sys
import threading
import time
from multiprocessing.pool import ThreadPool

import joblib
import pytest
from fusion_helpers import Doing, assert_equal_results, check_same, fit, network, run, run_fused, search
from greenlet import getcurrent, greenlet
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from small_problems import X, y

from scratchnn import fused_fits
from scratchnn.fusion import pool


def test_the_same_search_makes_the_same_stacks_with_the_same_bits():
    def use():
        with fused_fits() as report:
            result = search(network(dtype="float32", early_stopping=True), cv=4).fit(X, y)
        return [stack.n_models for stack in report.stacks], result.cv_results_["mean_test_score"].tobytes()

    assert use() == use()


def test_fused_inside_fused():
    def use():
        with fused_fits() as report:
            result = search().fit(X, y)
        assert (report.n_fits, report.n_outside) == (12, 1)
        return result

    plain = search().fit(X, y)
    with fused_fits() as report:
        assert_equal_results(use(), plain)
        cross_val_score(network(), X, y)
        assert (report.n_fits, report.n_outside) == (5, 1)
        assert_equal_results(run(lambda k: use()), [plain] * 3)
        assert report.stacks[-1].n_models == 3  # their final fits
        assert_equal_results(search().fit(X, y), plain)


@pytest.mark.parametrize(("workers", "n_jobs"), [("loky", None), ("sequential", -1)])
def test_bagging_makes_a_task_of_each_estimator(workers, n_jobs):
    """Fails if scikit-learn changes how bagging divides its estimators: see `find_bagging`."""
    with joblib.parallel_config(workers), fused_fits() as report:
        BaggingClassifier(network(), n_estimators=10, n_jobs=n_jobs, random_state=0).fit(X, y).predict_proba(X)
    assert sum(stack.n_models for stack in report.stacks) == 10
    assert len(report.stacks) <= 3  # by the numbers of samples that differ


def test_the_timeout_of_joblib_is_kept():
    begun = []

    def sleep_and_fit(k):
        return begun.append(time.sleep(0.2)), fit(k)

    def nest(k):
        return run(lambda k: time.sleep(0.3), 2, timeout=0.1)

    def nest_or_sleep(k):
        if k == 0:
            with pytest.raises(TimeoutError):
                run(fit, timeout=0.1)
            return len(begun)
        return begun.append(time.sleep(0.2))

    with fused_fits() as report:
        with pytest.raises(TimeoutError, match=r"longer than timeout=0\.1 s"):  # as processes raise
            run(sleep_and_fit, timeout=0.1)
        assert len(begun) == 1
        with pytest.raises(multiprocessing.TimeoutError, match=r"longer than timeout=0\.1 s"):  # as threads raise
            run(nest)
        assert run(nest_or_sleep, 5)[0] == 2  # its deadline comes before the next task
        run(fit)
    assert report.stacks[-1].n_models == 3


def test_tasks_run_one_at_a_time_in_the_callers_thread():
    """A step may compute or wait, for a request or the caller's database, and the fits are one stack."""
    entered = []
    guard = threading.Lock()

    def query():
        with guard:
            connection.execute("insert into steps values (1)")
            time.sleep(0.02)
            entered.append(threading.current_thread())

    with sqlite3.connect(":memory:") as connection, fused_fits() as report:
        connection.execute("create table steps (number integer)")
        cross_val_score(make_pipeline(Doing(query), network()), X, y, cv=6)
    connection.close()
    assert [stack.n_models for stack in report.stacks] == [6]
    assert entered == [threading.current_thread()] * 6


@pytest.mark.parametrize(("fits_first", "n_stacks"), [(False, 8), (True, 20)])
def test_nested_tasks_make_full_stacks(fits_first, n_stacks, monkeypatch):
    monkeypatch.setattr(pool, "MAX_RUNS", 8)
    begun = []

    def work(*path):
        begun.append(path)
        is_last = len(path) == 3
        first = [fit(len(path))] if fits_first and path else []
        return [*first, fit(0) if is_last else run(lambda k: work(*path, k), 4)]

    report = check_same(work)
    assert report.n_fits == 64 + (84 if fits_first else 0)
    assert len(report.stacks) <= n_stacks
    if not fits_first:  # the tasks begin in the order of the sequence, so no more are open than their fits need
        assert begun[: len(begun) // 2] == begun[len(begun) // 2 :]


def test_calls_that_prefer_threads_run_as_with_the_sequential_backend(monkeypatch):
    tasks = []
    begin = joblib.parallel.BatchedCalls.__call__
    monkeypatch.setattr(joblib.parallel.BatchedCalls, "__call__", lambda batch: tasks.append(batch) or begin(batch))
    neighbors = KNeighborsClassifier(n_jobs=2).fit(X, y)
    forest = RandomForestClassifier(20, random_state=0, n_jobs=2)
    with fused_fits():
        forest.fit(X, y).predict(X)
        neighbors.kneighbors(X)
        assert tasks == []
        StackingClassifier([("forest", forest), ("network", network())], network(), cv=2).fit(X, y)
    assert len(tasks) == 8  # two fits, and two predictions, each of two folds


def test_other_code_is_told_the_truth_about_the_number_of_jobs():
    """Some cuts its work into as many pieces."""

    def ask(k):
        return [joblib.effective_n_jobs(n_jobs) for n_jobs in (None, 1, 2, -1)]

    with fused_fits():
        assert ask(0)[:3] == [1, 1, 2]
        assert run(ask) == [[1] * 4] * 3
        with pytest.raises(ValueError, match="return_as"):
            run(fit, return_as="generator")


def fit_in_a_greenlet(k):
    """As SQLAlchemy does for drivers of asyncio: the greenlet is not the task's."""
    return greenlet(fit, getcurrent()).switch(k)


def fit_in_a_loop_and_its_threads(k):
    async def gather():
        in_executor = asyncio.get_running_loop().run_in_executor(None, fit, k + 0.5)  # without the task's context
        return await asyncio.gather(asyncio.to_thread(fit, k), in_executor), fit(k)

    return asyncio.run(gather())


def fit_in_a_child(k):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put((fit(k), run(fit))))
    process.start()
    process.join()
    return results.get()


def fit_in_a_scorer(k):
    """The tasks whose runs are being trained must not run meanwhile."""

    def score(estimator, X, y):
        return sum(run(fit))

    return network(alpha=k, early_stopping=True, scoring=score, max_iter=2).fit(X, y).loss_


def fit_in_the_iterator_of_calls(k):
    def make_calls():
        for j in range(3):
            run(fit)
            yield joblib.delayed(fit)(fit(k) + j)

    return joblib.Parallel(pre_dispatch=2)(make_calls())


WAYS = [fit_in_a_greenlet, fit_in_a_loop_and_its_threads, fit_in_a_scorer, fit_in_the_iterator_of_calls]
WAYS += [fit_in_a_child] if hasattr(os, "fork") else []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_fits_where_a_task_cannot_wait_train_alone(way):
    def task(k):
        return fit(k), way(k), fit(k)

    with fused_fits() as report:
        fused = way(0), run(task)
    assert_equal_results(fused, (way(0), run(task)))
    assert report.stacks[-1].n_models == 3  # those that can


def execute(node):
    """Run a random program: a task's result is nested lists of losses."""
    kind, value = node
    if kind == "fit":
        return [round(network(alpha=k, max_iter=1 + k % 3).fit(X[:60], y[:60]).loss_, 6) for k in value]
    if kind == "raise":
        raise value("of a program")
    try:
        return joblib.Parallel()(joblib.delayed(execute)(child) for child in value)
    except (ValueError, KeyError) as error:
        if kind == "catch":
            return type(error).__name__
        raise


leaves = some.one_of(
    some.tuples(some.just("fit"), some.lists(some.integers(0, 5), max_size=2)),
    some.tuples(some.just("raise"), some.sampled_from([ValueError, KeyError])),
)
kinds = some.sampled_from(["tasks", "catch"])
programs = some.recursive(leaves, lambda each: some.tuples(kinds, some.lists(each, max_size=4)), max_leaves=12)


@settings(max_examples=25)
@given(some.lists(programs, min_size=1, max_size=4))
def test_random_programs_of_nested_tasks_give_what_they_give_in_sequence(programs):
    with fused_fits():
        fused = execute(("catch", programs))
    assert fused == execute(("catch", programs))


def test_in_a_running_event_loop():
    """As a notebook's cell, which the kernel's loop runs."""

    async def cell():
        with fused_fits() as report:
            await asyncio.sleep(0)
            run(fit)
        return *run_fused(fit), [stack.n_models for stack in report.stacks]

    assert asyncio.run(cell()) == (run(fit), [3], [3])


@pytest.mark.filterwarnings("ignore")
def test_in_a_notebook():
    pytest.importorskip("ipykernel")
    manager = pytest.importorskip("jupyter_client.manager")
    code = f"import sys; sys.path = {sys.path}\nfrom fusion_helpers import fit, run_fused\nprint(run_fused(fit)[1])"
    printed = []
    kernel, client = manager.start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(code, output_hook=lambda each: printed.append(each["content"].get("text")))
        assert "[3]\n" in printed
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("where", ["a thread", "spawn", *(["fork"] if hasattr(os, "fork") else [])])
def test_in_a_thread_or_process(where):
    pool = ThreadPool if where == "a thread" else multiprocessing.get_context(where).Pool
    with fused_fits(), pool(1) as workers:
        assert workers.apply(run_fused, (fit,)) == (run(fit), [3])
