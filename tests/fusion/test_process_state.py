"""What each task has for itself, what tasks share, and what is restored at the end."""

import contextlib
import contextvars
import decimal
import io
import random
import sys
import threading
import warnings
from itertools import chain
from multiprocessing.pool import ThreadPool

import joblib
import numpy as np
import pytest
import sklearn
import torch
from fusion_helpers import assert_equal_results, check_same, fit, network, run, run_fused, search
from helpers import call_in_thread
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


def test_several_threads_each_with_their_own_fused_fits(two_threads):
    before, plain = get_state(), search().fit(X, y)
    start = threading.Barrier(4)

    def use(k):
        start.wait()
        outcomes = []
        for _ in range(5):
            with fused_fits() as report:
                outcomes.append((report, search().fit(X, y)))
        return outcomes

    with ThreadPool(4) as threads:
        outcomes = threads.map(use, range(4))
    for report, result in chain.from_iterable(outcomes):
        assert [stack.n_models for stack in report.stacks] == [12]
        assert_equal_results(result, plain)
    with pytest.raises(ZeroDivisionError), fused_fits():
        run(lambda k: (fit(k), 1 / 0))
    assert get_state() == call_in_thread(get_state) == before


@pytest.mark.parametrize(("n_drawn", "make_bits"), [(1, np.random.PCG64), (700, np.random.MT19937)])
def test_tasks_draw_different_numbers_and_each_run_the_same(n_drawn, make_bits, request):
    def task(k):
        drawn = []
        for _ in range(2):
            drawn += [random.random() for _ in range(n_drawn)]
            drawn += [*np.random.rand(n_drawn), *torch.rand(n_drawn, dtype=torch.float64).tolist()]  # noqa: NPY002
            fit(k)
        return drawn

    def restore(k):
        state = np.random.get_state()  # noqa: NPY002
        fit(k)
        np.random.rand(3)  # noqa: NPY002
        np.random.set_state(state)  # noqa: NPY002

    def seed():
        np.random.set_bit_generator(before)  # that of make_bits refuses to be seeded
        seed_all(0)
        np.random.set_bit_generator(make_bits(0))

    def draw_in_nested_tasks():
        seed()
        expected = draw()
        seed()
        run_fused(restore)
        assert draw() == expected  # no task has used the generators
        seed()
        results = [run_fused(lambda k: [task(k), *run(task, 2)])[0] for _ in range(2)]
        assert isinstance(np.random.get_bit_generator(), make_bits)
        return np.ravel(results).tolist(), draw()

    before = np.random.get_bit_generator()
    request.addfinalizer(lambda: np.random.set_bit_generator(before))
    (drawn, after), again = draw_in_nested_tasks(), draw_in_nested_tasks()
    assert (drawn, after) == again
    assert len(set(drawn)) == len(drawn) == 2 * 9 * 6 * n_drawn


def test_what_the_main_thread_sets_during_a_search_in_another_stays():
    stop, searching = threading.Event(), threading.Event()

    def search_on():
        with fused_fits():
            while not stop.is_set():
                run(fit)
                searching.set()

    with ThreadPool(1) as threads:
        result = threads.apply_async(search_on)
        searching.wait()
        for k in range(20):
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                seed_all(k)
                stop.wait(0.01)
                seen = sys.stdout, random.random(), np.random.rand()  # noqa: NPY002
            seed_all(k)
            assert seen == (stream, random.random(), np.random.rand())  # noqa: NPY002
        stop.set()
        result.get()


def print_and_fit(k):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        print("before", k)
        fit(k)
        print("after", k)
        print("error", k, file=sys.stderr)
    return out.getvalue(), error.getvalue()


def seed_and_draw(k):
    seed_all(42)
    return [draw(), fit(k), draw(), fit(k), draw()][::2]


def set_modes(k):
    with [torch.no_grad, torch.enable_grad, torch.inference_mode][k]():
        fit(k)
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def configure(k):
    seen = sklearn.get_config()["transform_output"], torch.is_grad_enabled(), torch.get_num_threads()
    sklearn.set_config(transform_output="polars" if k else "default")
    with sklearn.config_context(assume_finite=k == 1), joblib.parallel_config(n_jobs=k + 5):
        fit(k)
        own = [sklearn.get_config()[name] for name in ("transform_output", "assume_finite")]
        own.append(joblib.parallel.get_active_backend()[1])
    return seen, own, run(lambda j: (sklearn.get_config()["transform_output"], fit(j))[0])


variable = contextvars.ContextVar("variable", default="outside")


def set_context(k):
    seen = variable.get(), np.geterr()["divide"], decimal.getcontext().prec
    variable.set(f"of task {k}")
    fit(k)
    return seen, variable.get()


def filter_warnings(k):
    action = ["ignore", "error", "always"][k]
    with warnings.catch_warnings(record=action == "always") as caught:
        warnings.simplefilter(action)
        fit(k)
        try:
            warnings.warn(str(k), UserWarning, stacklevel=1)
        except UserWarning:
            return "error"
        fit(k)
        return "silent" if caught is None else [str(each.message) for each in caught]


OWN = {  # what a task returns, alone or among others
    print_and_fit: lambda k: (f"before {k}\nafter {k}\n", f"error {k}\n"),
    seed_and_draw: lambda k: seed_and_draw(0),
    set_modes: lambda k: [(False, False), (True, False), (False, True)][k],
    configure: lambda k: (
        ("pandas", False, 2),
        [("polars" if k else "default"), k == 1, k + 5],
        ["polars" if k else "default"] * 3,
    ),
    set_context: lambda k: (("inside", "raise", 5), f"of task {k}"),
    filter_warnings: lambda k: ["silent", "error", ["2"]][k],
}


@pytest.mark.parametrize("task", OWN)
def test_each_task_begins_with_the_callers_state_and_keeps_its_own(task, two_threads):
    def use():
        variable.set("inside")
        with (
            sklearn.config_context(transform_output="pandas"),
            torch.no_grad(),
            np.errstate(divide="raise"),
            decimal.localcontext(decimal.Context(prec=5)),
        ):
            state, show = get_state(), warnings._showwarnmsg_impl
            results, sizes = run_fused(task)
            assert get_state() == state
            assert warnings._showwarnmsg_impl is show
            assert not torch.is_grad_enabled()
        return results, sizes

    results, sizes = contextvars.copy_context().run(use)
    assert results == [OWN[task](k) for k in range(3)]
    assert max(sizes) >= 3


def test_warnings_of_tasks_reach_the_user_as_without_fusion():
    def use():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search(network(n_iter_no_change=100), refit=False).fit(X, y)
        assert len(caught) == 12
        return sorted((each.category.__name__, str(each.message), each.filename, each.lineno) for each in caught)

    check_same(use)
