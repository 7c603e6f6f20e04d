"""Tasks run one at a time in the caller's thread, however they are nested and wherever they fit."""

import asyncio
import multiprocessing
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import pytest
from fusion_helpers import Doing, assert_equal_results, check_same, fit, network, run, run_fused, search
from greenlet import getcurrent, greenlet
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from small_problems import X, y

from scratchnn import fused_fits
from scratchnn.fusion import pool


def test_steps_that_wait_run_one_at_a_time_and_fits_are_one_stack():
    """A request, or a query of a database."""
    inside, most = 0, 0

    def wait():
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1

    with fused_fits() as report:
        cross_val_score(make_pipeline(Doing(wait), network()), X, y, cv=6)
    assert [stack.n_models for stack in report.stacks] == [6]
    assert most == 1


def test_tasks_run_in_the_callers_thread():
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table fits (loss real)")
        run_fused(lambda k: connection.execute("insert into fits values (?)", (fit(k),)))
        assert connection.execute("select count(*) from fits").fetchone() == (3,)
    connection.close()
    assert run_fused(lambda k: (fit(k), threading.current_thread())[1])[0] == [threading.current_thread()] * 3


def test_the_same_search_makes_the_same_stacks_with_the_same_bits():
    def use():
        with fused_fits() as report:
            result = search(network(dtype="float32", early_stopping=True), cv=4).fit(X, y)
        return [stack.n_models for stack in report.stacks], result.cv_results_["mean_test_score"].tobytes()

    assert use() == use()


def fit_nested(depth):
    loss = network(alpha=depth).fit(X, y).loss_
    if depth == 0:
        return [loss]
    results = joblib.Parallel()(joblib.delayed(fit_nested)(depth - 1) for _ in range(2))
    return [loss, results, network(alpha=depth + 0.5).fit(X, y).loss_]


def test_calls_inside_tasks_train_together():
    report = check_same(lambda: joblib.Parallel()(joblib.delayed(fit_nested)(3) for _ in range(2)))
    assert report.n_fits == 2 * (2 * 7 + 8)
    assert max(stack.n_models for stack in report.stacks) >= 8


def test_thousands_of_nested_tasks_make_full_stacks(monkeypatch):
    monkeypatch.setattr(pool, "MAX_RUNS", 8)

    def work(depth):
        if depth:
            return joblib.Parallel()(joblib.delayed(work)(depth - 1) for _ in range(6))
        return network(max_iter=1).fit(X[:20], y[:20]).loss_

    with fused_fits() as report:
        work(3)
    assert report.n_fits == 216
    assert len(report.stacks) == 27


def test_calls_may_be_made_while_they_are_taken():
    """The iterator of the calls itself fits, and calls joblib."""

    def make_calls():
        for k in range(3):
            network(alpha=k).fit(X, y)
            cross_val_score(network(alpha=k), X, y)
            yield joblib.delayed(network(alpha=k).fit)(X, y)

    def use():
        return joblib.Parallel(pre_dispatch=2)(make_calls())

    def use_within_tasks():
        return joblib.Parallel()(joblib.delayed(use)() for _ in range(2))

    with fused_fits():
        fused = use(), use_within_tasks()
    assert_equal_results(fused, (use(), use_within_tasks()))


def fit_in_a_greenlet(k):
    """As SQLAlchemy does for drivers of asyncio: the greenlet is not the task's."""
    return greenlet(fit, getcurrent()).switch(k)


def fit_in_loop(k):
    async def gather():
        return await asyncio.gather(asyncio.to_thread(fit, k), asyncio.to_thread(fit, k + 0.5)), fit(k)

    return asyncio.run(gather())


def fit_in_threads(k):
    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(fit, (k, k + 0.5)))


def fit_in_child(k):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put((fit(k), run(fit))))
    process.start()
    process.join()
    return results.get()


WAYS = [fit_in_a_greenlet, fit_in_loop, fit_in_threads]
WAYS += [fit_in_child] if hasattr(os, "fork") else []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_fits_where_a_task_cannot_wait_train_alone(way):
    def task(k):
        return way(k), fit(k)

    fused, sizes = run_fused(task)
    assert_equal_results(fused, run(task))
    assert sizes[-1] == 3  # those that can


def test_threads_outside_of_tasks_may_share_the_backend():
    with fused_fits() as report:
        backend = joblib.parallel.get_active_backend()[0]

        def use(k):
            with joblib.parallel_config(backend=backend):
                return run(fit)

        with ThreadPoolExecutor(3) as executor:
            results = list(executor.map(use, range(3)))
    assert_equal_results(results, [run(fit)] * 3)
    assert [stack.n_models for stack in report.stacks] == [3] * 3


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


def test_other_code_is_told_the_truth_about_the_number_of_jobs():
    """Some cuts its work into as many pieces."""

    def ask(k):
        return [joblib.effective_n_jobs(n_jobs) for n_jobs in (None, 1, 2, -1)]

    with fused_fits():
        assert ask(0)[:3] == [1, 1, 2]
        assert run(ask) == [[1] * 4] * 3


class CountingCalls:
    """Counts the calls that joblib runs as tasks."""

    def __init__(self, monkeypatch):
        self.n_tasks = 0
        begin = joblib.parallel.BatchedCalls.__call__

        def call(batch):
            self.n_tasks += 1
            return begin(batch)

        monkeypatch.setattr(joblib.parallel.BatchedCalls, "__call__", call)


def test_calls_that_prefer_threads_run_as_with_the_sequential_backend(monkeypatch):
    neighbors = KNeighborsClassifier(n_jobs=2).fit(X, y)
    forest = RandomForestClassifier(20, random_state=0, n_jobs=2)
    with fused_fits():
        counting = CountingCalls(monkeypatch)
        forest.fit(X, y).predict(X)
        neighbors.kneighbors(X)
        assert counting.n_tasks == 0
        StackingClassifier([("forest", forest), ("network", network())], network(), cv=2).fit(X, y)
    assert counting.n_tasks == 8  # two fits, and two predictions, each of two folds


@pytest.mark.parametrize("n_jobs", [None, -1])
def test_bagging_makes_a_task_of_each_estimator(n_jobs):
    """Fails if scikit-learn changes how bagging divides its estimators: see `find_bagging`."""
    workers = "sequential" if n_jobs else "loky"
    with joblib.parallel_config(workers), fused_fits() as report:
        bagging = BaggingClassifier(network(), n_estimators=10, n_jobs=n_jobs, random_state=0).fit(X, y)
        bagging.predict_proba(X)
    assert sum(stack.n_models for stack in report.stacks) == 10
    assert len(report.stacks) <= 3  # by the numbers of samples that differ


def test_the_timeout_of_joblib_is_kept():
    def nest(k):
        return run(lambda k: time.sleep(0.3), 2, timeout=0.1)

    with fused_fits() as report:
        with pytest.raises(TimeoutError, match=r"longer than timeout=0\.1 s"):  # as processes raise
            nest(0)
        with pytest.raises(multiprocessing.TimeoutError, match=r"longer than timeout=0\.1 s"):  # as threads raise
            run(nest)
        run(fit)
    assert report.stacks[-1].n_models == 3


def test_a_generator_of_results_is_refused():
    with fused_fits(), pytest.raises(ValueError, match="return_as"):
        joblib.Parallel(return_as="generator")(joblib.delayed(fit)(k) for k in range(2))


def execute(node):
    """Run a random program: a task's result is nested lists of losses."""
    kind, value = node
    if kind == "fit":
        return round(network(alpha=value, max_iter=1 + value % 3).fit(X[:60], y[:60]).loss_, 6)
    if kind == "fit twice":
        return [execute(("fit", value)), execute(("fit", value + 1))]
    if kind == "raise":
        raise value("of a program")
    if kind == "catch":
        try:
            return execute(value)
        except (ValueError, KeyError) as error:
            return type(error).__name__
    if kind == "tasks":
        return joblib.Parallel()(joblib.delayed(execute)(child) for child in value)
    return None


def run_program(program):
    """Return the result, or the type of error, of a program."""
    try:
        return execute(program)
    except Exception as error:
        return type(error)


def test_random_programs_of_nested_tasks_give_what_they_give_in_sequence():
    hypothesis = pytest.importorskip("hypothesis")
    some = hypothesis.strategies
    leaf = some.one_of(
        some.tuples(some.just("fit"), some.integers(0, 5)),
        some.tuples(some.just("fit twice"), some.integers(0, 5)),
        some.tuples(some.just("raise"), some.sampled_from([ValueError, KeyError])),
        some.just(("nothing", None)),
    )

    def branch(children):
        tasks = some.tuples(some.just("tasks"), some.lists(children, max_size=4))
        return some.one_of(tasks, some.tuples(some.just("catch"), children))

    programs = some.lists(some.recursive(leaf, branch, max_leaves=12), min_size=1, max_size=4)

    @hypothesis.settings(deadline=None, max_examples=25, derandomize=True, database=None)
    @hypothesis.given(programs)
    def check(programs):
        with fused_fits():
            fused = run_program(("tasks", programs))
        assert fused == run_program(("tasks", programs))

    check()
