"""What each task has for itself, what tasks share, and what is restored at the end."""

import contextlib
import contextvars
import decimal
import io
import os
import random
import sys
import threading
import warnings

import joblib
import numpy as np
import pytest
import sklearn
import torch
from fusion_helpers import assert_equal_results, fit, network, run, run_fused, search
from helpers import call_in_thread
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from small_problems import X, y

from scratchnn import fused_fits


def get_state():
    backend = type(joblib.parallel.get_active_backend()[0])
    return backend, list(warnings.filters), torch.get_num_threads(), sklearn.get_config(), sys.stdout, sys.stderr


def draw():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()  # noqa: NPY002


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_state_is_restored(two_threads):
    before = get_state()
    with fused_fits():
        search().fit(X, y)
        assert get_state()[1:] == before[1:]
        with pytest.raises(ZeroDivisionError):
            run(lambda k: (fit(k), 1 / 0))
        assert get_state()[1:] == before[1:]
    assert get_state() == before
    assert call_in_thread(get_state) == before


def test_several_threads_each_with_their_own_fused_fits(two_threads):
    before, plain = get_state(), search().fit(X, y)
    start, outcomes = threading.Barrier(4), []

    def use():
        start.wait()
        for _ in range(5):
            with fused_fits() as report:
                outcomes.append((report, search().fit(X, y)))

    threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 20
    for report, result in outcomes:
        assert [stack.n_models for stack in report.stacks] == [12]
        assert_equal_results(result, plain)
    assert get_state() == before


def test_streams_are_each_tasks_own():
    def task(k):
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            print("before", k)
            fit(k)
            print("after", k)
            print("error", k, file=sys.stderr)
        return out.getvalue(), error.getvalue()

    assert run_fused(task)[0] == run(task) == [(f"before {k}\nafter {k}\n", f"error {k}\n") for k in range(3)]


def test_a_task_that_seeds_gets_the_numbers_of_its_seed():
    def task(k):
        seed_all(42)
        drawn = [draw()]
        for _ in range(2):
            fit(k)
            drawn.append(draw())
        return drawn

    seed_all(42)
    (first, second, third), sizes = run_fused(task)
    assert sizes == [3, 3]
    assert first == second == third == task(0)


@pytest.mark.parametrize("n_drawn", [1, 700])
def test_tasks_draw_different_numbers_and_each_run_the_same(n_drawn):
    def task(k):
        drawn = []
        for _ in range(2):
            drawn += [random.random() for _ in range(n_drawn)]
            drawn += [*np.random.rand(n_drawn), *torch.rand(n_drawn, dtype=torch.float64).tolist()]  # noqa: NPY002
            fit(k)
        return drawn

    def draw_in_nested_tasks():
        seed_all(0)
        results = [run_fused(lambda k: [task(k), *run(task, 2)])[0] for _ in range(2)]
        return np.ravel(results).tolist(), draw()

    (drawn, after), again = draw_in_nested_tasks(), draw_in_nested_tasks()
    assert (drawn, after) == again
    assert len(set(drawn)) == len(drawn) == 2 * 9 * 6 * n_drawn


def test_a_search_that_draws_nothing_leaves_the_generators():
    def task(k):
        state = np.random.get_state()  # noqa: NPY002
        fit(k)
        np.random.rand(3)  # noqa: NPY002
        np.random.set_state(state)  # noqa: NPY002

    seed_all(0)
    expected = draw()
    seed_all(0)
    run_fused(task)
    assert draw() == expected


def test_what_the_main_thread_sets_during_a_search_in_another_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stop, searching = threading.Event(), threading.Event()

    def search_on():
        with fused_fits():
            while not stop.is_set():
                run(fit)
                searching.set()

    thread = threading.Thread(target=search_on, daemon=True)
    thread.start()
    searching.wait()
    stream, out = io.StringIO(), sys.stdout
    for k in range(20):
        folder = tmp_path / str(k)
        folder.mkdir()
        os.chdir(folder)
        monkeypatch.setenv("SCRATCHNN_TEST", str(k))
        sys.stdout = stream
        seed_all(k)
        stop.wait(0.01)
        seen = os.getcwd(), os.environ["SCRATCHNN_TEST"], sys.stdout, random.random(), np.random.rand()  # noqa: NPY002
        sys.stdout = out
        seed_all(k)
        assert seen == (str(folder), str(k), stream, random.random(), np.random.rand())  # noqa: NPY002
    stop.set()
    thread.join()


def test_tasks_see_the_callers_configuration_and_keep_their_own():
    def task(k):
        with sklearn.config_context(assume_finite=k == 1):
            fit(k)
            return sklearn.get_config()["transform_output"], sklearn.get_config()["assume_finite"]

    def nest(k):
        sklearn.set_config(transform_output="polars" if k else "default")
        return run(task)

    with sklearn.config_context(transform_output="pandas"):
        assert run_fused(task)[0] == [("pandas", k == 1) for k in range(3)]
        outputs = [[output for output, _ in inner] for inner in run_fused(nest)[0]]
        assert outputs == [["default"] * 3, ["polars"] * 3, ["polars"] * 3]
        assert sklearn.get_config()["transform_output"] == "pandas"


def test_gradients_are_recorded_as_each_task_says():
    def task(k):
        modes = [torch.no_grad, torch.enable_grad, torch.inference_mode]
        with modes[k]():
            fit(k)
            return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    expected = [(False, False), (True, False), (False, True)]
    assert run_fused(task)[0] == expected
    with torch.no_grad():
        assert run_fused(task)[0] == expected
        assert run_fused(lambda k: (fit(k), torch.is_grad_enabled())[1])[0] == [False] * 3
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_tasks_have_the_numbers_of_threads_that_they_have_alone(two_threads):
    with fused_fits():
        assert run(lambda k: (fit(k), torch.get_num_threads(), fit(k))[1]) == [2] * 3
        assert torch.get_num_threads() == 2


def test_tasks_inherit_the_context():
    variable = contextvars.ContextVar("variable", default="outside")

    def see(k):
        seen = variable.get(), np.geterr()["divide"], decimal.getcontext().prec
        variable.set(f"of task {k}")
        fit(k)
        return *seen, variable.get()

    def run_here():
        variable.set("inside")
        with np.errstate(divide="raise"), decimal.localcontext(decimal.Context(prec=5)):
            return run(see)

    with fused_fits():
        assert run_here() == [("inside", "raise", 5, f"of task {k}") for k in range(3)]
        assert contextvars.copy_context().run(run, lambda k: run_here())[0][2] == ("inside", "raise", 5, "of task 2")


def test_warnings_of_tasks_reach_the_user_as_without_fusion():
    def use():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search(network(n_iter_no_change=100), refit=False).fit(X, y)
        return sorted((each.category.__name__, str(each.message), each.filename, each.lineno) for each in caught)

    plain = use()
    assert len(plain) == 12
    with fused_fits():
        assert use() == plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fused_fits(), pytest.raises(ConvergenceWarning):
            cross_val_score(network(n_iter_no_change=100), X, y, error_score="raise")


def warn_within(action, name):
    """Fit within filters of this task's own, and return what became of a warning afterwards."""
    with warnings.catch_warnings(record=action == "record") as caught:
        warnings.simplefilter("always" if action == "record" else action)
        network().fit(X, y)
        try:
            warnings.warn(name, UserWarning, stacklevel=1)
        except UserWarning:
            return "error"
        network(alpha=1.0).fit(X, y)
        return "silent" if caught is None else [str(each.message) for each in caught]


def test_tasks_have_warning_filters_of_their_own():
    actions = ["ignore", "error", "record", "ignore", "record", "error", "record"]
    before, show = list(warnings.filters), warnings._showwarnmsg_impl

    def use(n_tasks):
        return run(lambda k: warn_within(actions[k], str(k)), n_tasks)

    plain = use(7)
    assert plain == ["silent", "error", ["2"], "silent", ["4"], "error", ["6"]]
    with fused_fits():
        assert use(7) == plain
        with pytest.raises(IndexError):
            use(8)
        assert warnings.filters == before
        assert warnings._showwarnmsg_impl is show
