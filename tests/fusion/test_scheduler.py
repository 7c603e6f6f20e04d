"""Tasks take turns, however they are nested and however many there are."""

import threading

import joblib
import pytest
import torch
from fusion_helpers import (
    X,
    assert_equal_results,
    check_same,
    count_task_threads,
    fit_alone,
    network,
    search,
    wait_for_task_threads,
    y,
)
from helpers import call_in_thread, within
from sklearn.model_selection import cross_val_score

from scratchnn import fused_fits
from scratchnn.fusion.scheduler import Scheduler


@within(60)
def test_tasks_without_fits_end():
    with fused_fits() as report:
        assert joblib.Parallel()(joblib.delayed(pow)(k, 2) for k in range(5)) == [0, 1, 4, 9, 16]
        assert joblib.Parallel()([]) == []
    assert report.n_fits == 0


def fit_nested(depth):
    loss = network(alpha=depth).fit(X, y).loss_
    if depth == 0:
        return [loss]
    results = joblib.Parallel()(joblib.delayed(fit_nested)(depth - 1) for _ in range(2))
    return [loss, results, network(alpha=depth + 0.5).fit(X, y).loss_]


@within(60)
def test_calls_inside_tasks_train_together():
    report = check_same(lambda: joblib.Parallel()(joblib.delayed(fit_nested)(3) for _ in range(2)))
    assert report.n_fits == 2 * (2 * 7 + 8)
    assert max(stack.n_models for stack in report.stacks) >= 8


@within(60)
def test_calls_may_be_made_while_they_are_taken():
    """The iterator of the calls itself fits, and calls joblib."""

    def make_calls():
        for k in range(3):
            network(alpha=k).fit(X, y)
            cross_val_score(network(alpha=k), X, y)
            yield joblib.delayed(network(alpha=k).fit)(X, y)

    def use():
        return joblib.Parallel()(make_calls())

    def use_within_tasks():
        return joblib.Parallel()(joblib.delayed(use)() for _ in range(2))

    check_same(use)
    check_same(use_within_tasks)


@pytest.mark.parametrize("call", [fit_alone, lambda: search().fit(X, y)])
@within(60)
def test_a_task_may_fit_in_a_thread_of_its_own(call):
    def use():
        return joblib.Parallel()(joblib.delayed(call_in_thread)(call) for _ in range(3))

    with fused_fits():
        fused = use()
    assert_equal_results(fused, use())


@within(60)
def test_a_task_may_fit_in_a_pool_of_threads():
    def fit_both():
        return joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(fit_alone)() for _ in range(4))

    def use():
        return joblib.Parallel()(joblib.delayed(fit_both)() for _ in range(2))

    with fused_fits():
        fused = use()
    assert_equal_results(fused, use())


@within(60)
def test_fused_inside_fused():
    def use():
        with fused_fits() as report:
            result = search().fit(X, y)
            network().fit(X, y)
        assert report.n_fits == 12 or threading.current_thread().name == "scratchnn-task"
        return result

    plain = search().fit(X, y)
    with fused_fits() as report:
        assert_equal_results(use(), plain)
        cross_val_score(network(), X, y)
        assert report.n_fits == 5
        assert_equal_results(joblib.Parallel()(joblib.delayed(use)() for _ in range(3)), [plain] * 3)
        assert_equal_results(search().fit(X, y), plain)


def execute(node):
    """Run a random program: a task's result is nested lists of losses."""
    kind, value = node
    if kind == "fit":
        return network(alpha=value, max_iter=1 + value % 3).fit(X[:60], y[:60]).loss_
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


def assert_equal_nested(left, right):
    if isinstance(right, list):
        assert isinstance(left, list)
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_equal_nested(*pair)
    elif isinstance(right, float):
        assert left == pytest.approx(right, rel=1e-6)
    else:
        assert left == right


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
        return some.one_of(
            some.tuples(some.just("tasks"), some.lists(children, max_size=4)), some.tuples(some.just("catch"), children)
        )

    programs = some.lists(some.recursive(leaf, branch, max_leaves=12), min_size=1, max_size=4)

    @hypothesis.settings(deadline=None, max_examples=25, derandomize=True, database=None)
    @hypothesis.given(programs)
    def check(programs):
        program = ("tasks", programs)

        @within(30)
        def run():
            with fused_fits():
                return run_program(program)

        assert_equal_nested(run(), run_program(program))
        wait_for_task_threads()

    check()


@within(60)
def test_thousands_of_tasks_need_few_threads():
    most = 0

    def count_and_fit(k):
        nonlocal most
        most = max(most, count_task_threads())
        return network(max_iter=1, alpha=k).fit(X[:20], y[:20]).loss_

    with fused_fits() as report:
        losses = joblib.Parallel()(joblib.delayed(count_and_fit)(k) for k in range(600))
    assert len(set(losses)) == 600
    assert report.n_fits == 600
    assert 1 < most <= Scheduler.MAX_TASKS


@within(60)
def test_more_tasks_are_under_way_where_there_is_cuda(monkeypatch):
    """They wait until all of them have handed in their networks, which then train in larger stacks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Scheduler, "MAX_TASKS", 8)
    monkeypatch.setattr(Scheduler, "MAX_TASKS_WITH_CUDA", 40)
    with fused_fits() as report:
        joblib.Parallel()(
            joblib.delayed(network(max_iter=1, device="cpu", alpha=k).fit)(X[:20], y[:20]) for k in range(60)
        )
    assert [stack.n_models for stack in report.stacks] == [40, 20]


@within(60)
def test_thousands_of_nested_tasks_need_few_threads(monkeypatch):
    monkeypatch.setattr(Scheduler, "MAX_TASKS", 8)
    most = 0

    def work(depth):
        nonlocal most
        most = max(most, count_task_threads())
        if depth:
            return joblib.Parallel()(joblib.delayed(work)(depth - 1) for _ in range(6))
        return network(max_iter=1).fit(X[:20], y[:20]).loss_

    with fused_fits() as report:
        work(3)
    assert report.n_fits == 216
    assert most <= 8 + 3 * 8  # a task that waits for inner ones lets them go on
