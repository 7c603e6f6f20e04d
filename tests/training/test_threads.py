import os
import textwrap
import threading

import joblib
import numpy as np
import pytest
import torch
from helpers import call_in_thread, make_table, run_python

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.training import objective
from scratchnn.training import threads as _threads
from scratchnn.training.threads import SharedContext, one_thread, run_parts

pytestmark = [
    pytest.mark.usefixtures("two_threads"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture(params=["own", "for all"])
def setter(request, monkeypatch):
    """Both ways to set the number: the thread's own, and PyTorch's function where that is not to be had."""
    if request.param == "for all":
        monkeypatch.setattr(_threads, "_set_number", torch.set_num_threads)


def test_operations_use_one_thread_and_the_number_is_restored(setter):
    with one_thread():
        with pytest.raises(KeyboardInterrupt), one_thread():
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_number_that_is_set_inside_stays(setter):
    with one_thread():
        torch.set_num_threads(3)
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_other_threads_are_left_alone():
    if _threads._set_number is torch.set_num_threads:
        pytest.skip("this PyTorch has no functions for the calling thread's number")
    with one_thread():
        assert call_in_thread(torch.get_num_threads) == 2
        call_in_thread(lambda: torch.set_num_threads(3))  # also for threads that begin later
        assert run_parts([torch.get_num_threads] * 20, 2) == [1] * 20
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert call_in_thread(torch.get_num_threads) == 3


def test_setter_is_pytorchs_where_the_libraries_have_no_effect(monkeypatch):
    class Library:
        @staticmethod
        def omp_set_num_threads(number):
            """Set the number of another library than PyTorch's."""

        MKL_Set_Num_Threads_Local = omp_set_num_threads

    for library in (object(), Library()):
        monkeypatch.setattr(_threads.ctypes, "PyDLL", lambda name, library=library: library)
        assert _threads._find_setter() is torch.set_num_threads


def test_helpers_take_parts_as_the_caller_does():
    both = threading.Barrier(2)

    def compute(number):
        if number < 2:
            both.wait(60)
        return number, threading.get_ident(), torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        results = run_parts([lambda number=number: compute(number) for number in range(9)], 2)
    numbers, idents, modes = zip(*results, strict=True)
    assert numbers == tuple(range(9))
    assert len(set(idents)) == 2
    assert set(modes) == {True}


def test_the_caller_computes_what_no_helper_has_begun():
    started, go = threading.Barrier(3), threading.Event()

    def keep_busy():
        started.wait(60)
        go.wait(60)

    other = threading.Thread(target=run_parts, args=([keep_busy] * 2, 2), daemon=True)
    other.start()
    started.wait(60)
    assert run_parts([threading.get_ident] * 9, 2) == [threading.get_ident()] * 9
    go.set()
    other.join(60)


@pytest.mark.parametrize("fails_in_helper", [False, True])
def test_errors_of_parts_reach_the_caller(fails_in_helper):
    caller, both = threading.get_ident(), threading.Barrier(2)

    def fail():
        both.wait(60)
        if (threading.get_ident() != caller) == fails_in_helper:
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_parts([fail, fail], 2)


@pytest.mark.parametrize(("n_threads", "n_cores", "expected"), [(1, 8, 1), (3, 2, 2), (2, 8, 2)])
def test_no_more_cores_than_threads_of_pytorch(monkeypatch, n_threads, n_cores, expected):
    monkeypatch.setattr(_threads, "cpu_count", lambda: n_cores)
    torch.set_num_threads(n_threads)
    with one_thread():
        assert _threads.count_cores() == expected


def test_parts_depend_on_the_work_alone():
    sizes = [(200, 10_000), (200, 60_000), (1000, 60_000), (1500, 60_000), (10_000, 60_000), (72, 10_000_000)]
    assert [objective.count_parts(*size) for size in sizes] == [1, 2, 2, 4, 8, 1]


LARGE = {"hidden_layer_sizes": (400,), "batch_size": 512, "numeric_encoding": None, "alpha": 0.01, "random_state": 0}


def test_a_loss_of_the_users_is_called_in_the_thread_of_fit():
    idents, numbers = set(), set()

    def loss(logits, deps):
        idents.add(threading.get_ident())
        numbers.add(torch.get_num_threads())
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, deps, reduction="none")

    X, y = make_table(1024, 100)
    fitted = ScratchNNClassifier(loss=loss, max_iter=2, **LARGE).fit(X, y)
    assert (idents, numbers) == ({threading.get_ident()}, {1})
    named = ScratchNNClassifier(max_iter=2, **LARGE).fit(X, y)  # whose parts run in two threads
    np.testing.assert_allclose(fitted.predict_proba(X), named.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize(
    "params", [{"dropout": 0.2}, {"solver": "lbfgs"}, {"dtype": "bfloat16"}, {"loss": "mae", "batch_size": "full"}]
)
def test_parts_add_up_to_the_whole_step(monkeypatch, params):
    X, y = make_table(1300, 100)
    weights = np.random.default_rng(0).uniform(size=len(X))
    network = ScratchNNClassifier(**(LARGE | {"max_iter": 3} | params))
    n_calls, store = [0], objective.store_grads
    monkeypatch.setattr(objective, "store_grads", lambda *args: (n_calls.append(0), store(*args))[1])
    parted = network.fit(X, y, weights).predict_proba(X)
    n_parted = len(n_calls)
    monkeypatch.setattr(objective, "count_parts", lambda n_rows, n_weights: 1)
    whole = network.fit(X, y, weights).predict_proba(X)
    assert n_parted > len(n_calls) - n_parted
    np.testing.assert_allclose(parted, whole, atol=0.02 if params.get("dtype") == "bfloat16" else 1e-3)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "predict_proba", "decision_function"])
def test_methods_restore_the_number_after_an_error(setter, method):
    X, y = make_table(100, 20)
    classifier = ScratchNNClassifier((5,), max_iter=1, random_state=0).fit(X, y)
    args = (X[:, :3] * np.inf, y) if "fit" in method else (X[:, :3],)
    with pytest.raises(ValueError, match=r"infinity|features"):
        getattr(classifier, method)(*args)
    assert torch.get_num_threads() == 2


def test_fits_in_several_threads_at_once_are_as_alone():
    X, y = make_table(1024, 100)
    network = ScratchNNClassifier(max_iter=3, **LARGE)
    expected = network.fit(X, y).predict_proba(X)

    def use(number):
        torch.set_num_threads(number)
        found = ScratchNNClassifier(max_iter=3, **LARGE).fit(X, y).predict_proba(X)
        return np.array_equal(found, expected), torch.get_num_threads() == number

    results = joblib.Parallel(4, prefer="threads")(joblib.delayed(use)(number) for number in (1, 2, 3, 2))
    assert results == [(True, True)] * 4
    assert torch.get_num_threads() == 2


def test_fused_tasks_have_the_callers_threads(setter):
    def fit(k):
        number = torch.get_num_threads()
        ScratchNNClassifier((5,), max_iter=1, random_state=k).fit(*make_table(100, 20))
        return number, torch.get_num_threads()

    torch.set_num_threads(3)
    with fused_fits() as report:
        assert joblib.Parallel()(joblib.delayed(fit)(k) for k in range(2)) == [(3, 3)] * 2
    assert report.n_fits == 2
    assert torch.get_num_threads() == 3


BITS = """
import hashlib, os, subprocess, sys, warnings
import numpy as np, torch
from scratchnn import ScratchNNClassifier
warnings.simplefilter("ignore")
torch.set_num_threads(8)
cores = sorted(os.sched_getaffinity(0))
X = np.random.default_rng(0).normal(size=(5_000, 40))
y = (X[:, 0] > 0).astype(int)

def find_bits(n_cores):
    os.sched_setaffinity(0, cores[:n_cores])
    found = []
    for params in ({"batch_size": 500}, {"hidden_layer_sizes": (100, 100), "batch_size": "full"}, {"solver": "lbfgs"}):
        params = {"hidden_layer_sizes": (100,), "max_iter": 2, "random_state": 0} | params
        model = ScratchNNClassifier(**params).fit(X, y)
        found += [hashlib.sha256(array.tobytes()).hexdigest() for array in (*model.coefs_, model.predict_proba(X))]
    return found

expected = find_bits(1)
assert len(set(expected)) == 10, expected
assert find_bits(2) == expected == find_bits(len(cores))
neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
try:
    assert find_bits(2) == expected == find_bits(len(cores))
finally:
    for neighbour in neighbours:
        neighbour.kill()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_bits_depend_neither_on_the_cores_nor_on_other_processes():
    run_python(BITS)


def test_shared_context_is_left_by_the_last():
    events = []

    class Context:
        def __enter__(self):
            events.append("in")

        def __exit__(self, *error):
            events.append("out")

    shared = SharedContext(Context)
    with shared:
        call_in_thread(lambda: shared.__enter__())
        with shared:
            pass
        assert events == ["in"]
    assert events == ["in"]
    shared.__exit__(None, None, None)  # by another thread than the one that entered
    assert events == ["in", "out"]


HEAD = """
import multiprocessing, os, pickle, threading, traceback, warnings
import joblib, numpy as np, torch
from sklearn.model_selection import GridSearchCV
from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.tables.arrays import to_tensor

warnings.simplefilter("ignore")
torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(20_000, 60))
y = (X[:, 0] > 0).astype(int)


def make(**params):
    settings = {"hidden_layer_sizes": (100,), "max_iter": 1, "numeric_encoding": None, "random_state": 0}
    return ScratchNNClassifier(**(settings | params))


def call_in_child(call):
    '''Call in a forked process, whose torch must be as before after it, and return the result.'''
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            before = torch.get_num_threads()
            result = call()
            assert torch.get_num_threads() == before, (before, torch.get_num_threads())
            with os.fdopen(write, "wb") as file:
                pickle.dump(result, file)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return pickle.loads(data)


def run(name, script):
    torch.set_num_threads(2)
    float(to_tensor(X).sum()), torch.mm(torch.ones(2000, 2000), torch.ones(2000, 2000))  # so that there are threads
    exec(compile(script, name, "exec"), dict(globals()))


model = make().fit(X, y)
expected = model.predict_proba(X)
"""

SCRIPTS = {
    "predictions": """
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            found = call_in_child(lambda: getattr(model, method)(X))
            np.testing.assert_allclose(found, getattr(model, method)(X), rtol=1e-4, atol=1e-6)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            np.testing.assert_allclose(pool.apply(model.predict_proba, (X,)), expected, rtol=1e-5)

        def predict():
            return model.predict_proba(X)

        def predict_in_thread(predict):
            results = []
            thread = threading.Thread(target=lambda: results.append(predict()), daemon=True)
            thread.start()
            thread.join()
            return results[0]

        def use_and_fork():
            float(to_tensor(X).sum()), predict()
            return call_in_child(predict)

        np.testing.assert_allclose(call_in_child(lambda: call_in_child(predict)), expected, rtol=1e-5)
        np.testing.assert_allclose(call_in_child(lambda: predict_in_thread(predict)), expected, rtol=1e-5)
        np.testing.assert_allclose(predict_in_thread(use_and_fork), expected, rtol=1e-5)
        torch.set_num_threads(1)
        np.testing.assert_allclose(call_in_child(predict), expected, rtol=1e-5)
    """,
    "fit": """
        for params in (
            {},
            {"early_stopping": True},
            {"solver": "lbfgs", "hidden_layer_sizes": ()},
            {"batch_size": "full", "dropout": 0.1},
            {"loss": lambda logits, deps: (torch.sigmoid(logits) - deps).square()},
        ):
            fit = lambda: make(**params).fit(X, y, sample_weight=np.ones(len(X))).predict_proba(X)
            expected = fit()
            np.testing.assert_allclose(call_in_child(fit), expected, atol=0.02)
        fit = lambda: make().partial_fit(X, y, classes=[0, 1]).predict_proba(X)
        np.testing.assert_allclose(call_in_child(fit), fit(), atol=0.02)
    """,
    "fused_fits": """
        def search():
            with fused_fits() as report:
                grid = GridSearchCV(make(), {"alpha": [0.1, 1.0]}, cv=2, refit=False).fit(X, y)
            assert report.n_fits == 4
            return grid.cv_results_["mean_test_score"]
        filters = list(warnings.filters)
        np.testing.assert_allclose(call_in_child(search), search(), atol=0.02)
        assert warnings.filters == filters
    """,
    "within fused_fits": """
        def fit():
            return make().fit(X, y).score(X, y)
        def search():
            return joblib.Parallel()(joblib.delayed(fit)() for _ in range(2))
        def task():
            fit()
            return [call_in_child(fit), *call_in_child(search)]
        with fused_fits():
            found = joblib.Parallel()(joblib.delayed(task)() for _ in range(2))
            found.append([*call_in_child(search), call_in_child(fit)])
        np.testing.assert_allclose(found, fit(), atol=0.02)
    """,
    "end of the block in the child": """
        filters = list(warnings.filters)
        def leave():
            block.__exit__(None, None, None)
            assert warnings.filters == filters
            return 0
        block = fused_fits()
        block.__enter__()
        warnings.simplefilter("error")
        assert call_in_child(leave) == 0
    """,
    "other threads within their work": """
        from scratchnn.fusion import context
        from scratchnn.training import lbfgs
        ready, go = threading.Event(), threading.Event()
        filters = list(warnings.filters)
        def hold():
            with context.warning_filters, lbfgs._one_blas_thread:
                warnings.simplefilter("error")
                with context.warning_filters.lock, lbfgs._one_blas_thread.lock:
                    ready.set()
                    go.wait()
        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        ready.wait()
        def work():
            assert warnings.filters == filters
            fit = make(solver="lbfgs", hidden_layer_sizes=()).fit(X, y)
            with fused_fits():
                joblib.Parallel()(joblib.delayed(make().fit)(X, y) for _ in range(2))
            return fit.predict_proba(X)
        found = call_in_child(work)
        go.set()
        thread.join()
        expected = make(solver="lbfgs", hidden_layer_sizes=()).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(found, expected, atol=0.02)
    """,
    "another thread within a fit": """
        stop = threading.Event()
        def fit():
            while not stop.is_set():
                make(solver="lbfgs").fit(X, y)
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        for _ in range(3):
            np.testing.assert_allclose(call_in_child(lambda: model.predict_proba(X)), expected, rtol=1e-5)
        stop.set()
        thread.join()
    """,
    "within a fit": """
        pid = os.getpid()
        read, write = os.pipe()
        def loss(logits, deps):
            global child
            if os.getpid() == pid and child is None:
                child = os.fork()
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, deps, reduction="none")
        child = None
        make(batch_size="full", max_iter=2, loss=loss).fit(X, y)
        if os.getpid() != pid:
            os._exit(0 if torch.get_num_threads() == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.get_num_threads() == 2
    """,
}


# Scripts that train in the main thread alone share a process, as its start takes longer than they do. The last leaves a
# block open.
SHARED = ["fit", "within a fit", "end of the block in the child"]
PROCESSES = [SHARED, *([name] for name in SCRIPTS if name not in SHARED)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("names", PROCESSES, ids=", ".join)
def test_forked_processes_answer_as_their_parent(names):
    scripts = {name: textwrap.dedent(SCRIPTS[name]) for name in names}
    run_python(f"{HEAD}\nfor name, script in {scripts!r}.items():\n    run(name, script)")
