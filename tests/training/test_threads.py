import os
import textwrap
import threading

import joblib
import numpy as np
import pytest
import torch
from helpers import call_in_thread, make_table, run_python
from sklearn.model_selection import GridSearchCV

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.tables.arrays import count_values
from scratchnn.training import threads as _threads
from scratchnn.training.threads import MIN_PARALLEL_WORK, SharedContext, count_work, use_threads

pytestmark = [
    pytest.mark.usefixtures("two_threads"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture(params=["own", "for all"])
def setter(request, monkeypatch):
    """Both ways to set the number: the thread's own, and PyTorch's function where that is not to be had."""
    if request.param == "for all":
        monkeypatch.setattr(_threads, "_set_number", _threads._set_for_all)


class CountingLoss:
    """The log loss of two classes, which notes how many threads its steps have."""

    def __init__(self):
        self.numbers = []

    def __deepcopy__(self, memo):
        return self  # by scikit-learn's clone

    def __call__(self, logits, deps):
        self.numbers.append(torch.get_num_threads())
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, deps, reduction="none")


def test_small_work_uses_one_thread_and_large_work_all(setter):
    with use_threads(MIN_PARALLEL_WORK - 1):
        assert torch.get_num_threads() == 1
        with use_threads(MIN_PARALLEL_WORK):
            assert torch.get_num_threads() == 2
            with use_threads(0):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("n_cores", [1, 2, 5])
def test_no_more_threads_than_cores(setter, monkeypatch, n_cores):
    torch.set_num_threads(3)
    monkeypatch.setattr(_threads, "cpu_count", lambda: n_cores)
    with use_threads(MIN_PARALLEL_WORK):
        assert torch.get_num_threads() == min(3, n_cores)
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_counts_also_when_it_changes_later():
    printed = run_python("""
import os
import torch
from scratchnn.training.threads import MIN_PARALLEL_WORK, use_threads
torch.set_num_threads(2)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with use_threads(MIN_PARALLEL_WORK):
    print(torch.get_num_threads())
""")
    assert printed.split() == ["1"]


def test_number_is_restored_after_an_error(setter):
    with pytest.raises(KeyboardInterrupt), use_threads(0), use_threads(MIN_PARALLEL_WORK):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2
    with use_threads(MIN_PARALLEL_WORK):
        assert torch.get_num_threads() == 2


def test_number_that_is_set_inside_stays(setter):
    with use_threads(0):
        torch.set_num_threads(3)
        with use_threads(0):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_other_threads_are_left_alone():
    if _threads._set_number is _threads._set_for_all:
        pytest.skip("this PyTorch has no functions for the calling thread's number")
    with use_threads(0):
        assert call_in_thread(torch.get_num_threads) == 2
        call_in_thread(lambda: torch.set_num_threads(3))  # also for threads that begin later
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
        assert _threads._find_setter() is _threads._set_for_all


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (np.ones((3, 2)), 6),
        (torch.ones(3, 2), 6),
        ([[1.0, 2.0]], 0),
        (np.array(1.0), 0),
        (type("Lazy", (), {"shape": (None, 2)})(), 0),
    ],
)
def test_count_values(X, expected):
    assert count_values(X) == expected


def test_count_values_of_a_sparse_matrix_and_a_frame():
    sparse, pandas = pytest.importorskip("scipy.sparse"), pytest.importorskip("pandas")
    assert count_values(sparse.csr_array(np.eye(5))) == 5
    assert count_values(pandas.DataFrame({"nnz": [1.0, 2.0, 3.0], "shape": [1.0, 2.0, 3.0]})) == 6


def test_count_work():
    assert count_work(100 * 7, 100, (7, 5, 3)) == 100 * (7 * 5 + 5 * 3) + _threads.VALUE_WORK * 700


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_small_fit_uses_one_thread(setter, solver):
    loss = CountingLoss()
    X, y = make_table(300, 20)
    ScratchNNClassifier((10,), solver=solver, loss=loss, max_iter=2, random_state=0).fit(X, y, X_val=X, y_val=y)
    assert set(loss.numbers) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("params", [{"batch_size": "full"}, {"solver": "lbfgs"}])
def test_large_steps_use_all_threads(params):
    loss = CountingLoss()
    X, y = make_table(3000, 50)
    ScratchNNClassifier((100,), loss=loss, max_iter=1, tol=0, random_state=0, **params).fit(X, y)
    assert set(loss.numbers) == {2}
    assert torch.get_num_threads() == 2


def test_small_validation_within_large_steps_uses_one_thread():
    loss = CountingLoss()
    X, y = make_table(3000, 50)
    classifier = ScratchNNClassifier((100,), loss=loss, batch_size="full", max_iter=2, tol=0, random_state=0)
    classifier.fit(X, y, X_val=X[:50], y_val=y[:50])
    assert set(loss.numbers) == {1, 2}
    assert torch.get_num_threads() == 2


def test_number_of_threads_changes_no_bit_of_small_work():
    X, y = make_table(500, 60)
    fits = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        settings = {"max_iter": 2, "early_stopping": True, "numeric_encoding": None}
        fitted = ScratchNNClassifier(**settings, random_state=0).fit(X, y)
        fits.append((fitted.coefs_[0], fitted.predict_proba(X)))
        assert torch.get_num_threads() == number
    for coef, probabilities in fits[1:]:
        np.testing.assert_array_equal(coef, fits[0][0])
        np.testing.assert_array_equal(probabilities, fits[0][1])


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "predict_proba", "decision_function"])
def test_methods_restore_the_number_after_an_error(setter, method):
    X, y = make_table(100, 20)
    classifier = ScratchNNClassifier((5,), max_iter=1, random_state=0).fit(X, y)
    args = (X[:, :3] * np.inf, y) if "fit" in method else (X[:, :3],)
    with pytest.raises(ValueError, match=r"infinity|features"):
        getattr(classifier, method)(*args)
    assert torch.get_num_threads() == 2


def test_number_is_restored_after_an_interrupt(setter):
    def interrupt(logits, deps):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        ScratchNNClassifier((5,), loss=interrupt, max_iter=1, random_state=0).fit(*make_table(100, 20))
    assert torch.get_num_threads() == 2


def test_several_threads_at_once_each_find_their_number_again():
    X, y = make_table(300, 20)
    start = threading.Barrier(4)
    found = []

    def use(number):
        if number:
            torch.set_num_threads(number)
        start.wait()
        before = torch.get_num_threads()
        for _ in range(5):
            ScratchNNClassifier((10,), max_iter=2, random_state=0).fit(X, y).predict(X)
        found.append((before, torch.get_num_threads()))

    threads = [threading.Thread(target=use, args=(number,)) for number in (None, 1, 3, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert all(before == after for before, after in found)
    assert torch.get_num_threads() == 2


def test_threads_that_begin_within_a_fit_keep_the_default():
    if _threads._set_number is _threads._set_for_all:
        pytest.skip("this PyTorch has no functions for the calling thread's number")
    X, y = make_table(100, 20)
    numbers = []

    def loss(logits, deps):
        numbers.append(call_in_thread(lambda: (ScratchNNClassifier((5,)), torch.get_num_threads())[1]))
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, deps, reduction="none")

    ScratchNNClassifier((5,), loss=loss, max_iter=1, random_state=0).fit(X, y)
    assert set(numbers) == {2}


def test_fused_tasks_have_the_callers_threads_and_large_steps_use_them(setter):
    losses = {n_rows: CountingLoss() for n_rows in (100, 3000)}

    def fit(n_rows):
        number = torch.get_num_threads()
        X, y = make_table(n_rows, 50)
        ScratchNNClassifier(
            (100,), loss=losses[n_rows], batch_size="full", max_iter=1, tol=0, random_state=0, standardize=False
        ).fit(X, y)
        return number, torch.get_num_threads()

    torch.set_num_threads(3)
    with fused_fits() as report:
        numbers = joblib.Parallel()(joblib.delayed(fit)(n_rows) for n_rows in losses)
    assert numbers == [(3, 3)] * 2
    assert report.n_fits == 2
    assert set(losses[100].numbers) == {1}
    assert set(losses[3000].numbers) == {3}
    assert torch.get_num_threads() == 3
    assert call_in_thread(torch.get_num_threads) == 3


def test_many_small_models_are_small_work():
    loss = CountingLoss()
    X, y = make_table(200, 20)
    search = GridSearchCV(
        ScratchNNClassifier((50,), loss=loss, max_iter=2, tol=0, n_iter_no_change=np.inf, random_state=0),
        {"alpha": list(np.geomspace(0.01, 1, 30))},
        cv=2,
        refit=False,
    )
    with fused_fits() as report:
        search.fit(X, y)
    assert max(stack.n_models for stack in report.stacks) >= 30
    assert set(loss.numbers) == {1}


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
X = np.random.default_rng(0).normal(size=(8_000, 60))
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
