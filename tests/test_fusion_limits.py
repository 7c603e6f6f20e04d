"""`fused_fits` where memory or threads are scarce: the same results with fewer tasks under way; nothing stuck."""

import functools
import subprocess
import sys
import threading
import warnings
import weakref

import joblib
import numpy as np
import pytest
import torch
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion import memory, pool
from scratchnn.fusion.scheduler import Scheduler, Task
from scratchnn.training import Data, TrainingRun, train

X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] + X[:, 1] > 0).astype(int)
alphas = {"alpha": [1e-4, 0.1, 1.0, 10.0]}


def network(**changes):
    settings = {"max_iter": 4, "tol": 0, "n_iter_no_change": np.inf, "dtype": "float64", "random_state": 0}
    return ScratchNNClassifier(**{"hidden_layer_sizes": (5,), **settings, **changes})


def search(**settings):
    return GridSearchCV(network(), alphas, **{"cv": KFold(3), "scoring": "neg_log_loss", "refit": False, **settings})


def score(**settings):
    return search(**settings).fit(X, y).cv_results_["mean_test_score"]


def score_nested():
    return cross_val_score(search(refit=True), X, y, cv=2)


def score_bagging():
    return BaggingClassifier(network(), n_estimators=6, random_state=0).fit(X, y).predict_proba(X)


def score_with_early_stopping():
    return (
        GridSearchCV(network(early_stopping=True), alphas, cv=3, scoring="neg_log_loss", refit=False)
        .fit(X, y)
        .cv_results_["mean_test_score"]
    )


USES = [score, score_nested, score_bagging, score_with_early_stopping]


def within_a_minute(test):
    """Fail a test that takes longer, instead of waiting forever."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        outcomes = []

        def work():
            try:
                test(*args, **kwargs)
                outcomes.append(None)
            except BaseException as error:
                outcomes.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(60)
        assert outcomes, "still not done after a minute"
        if outcomes[0] is not None:
            raise outcomes[0]

    return run


@pytest.fixture(autouse=True)
def no_threads_are_left_behind():
    yield
    for thread in threading.enumerate():
        if thread.name == "scratchnn-task":
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def start_with(monkeypatch):
    """Let threads of tasks be started by a function of the thread, the way to start it, and how often it was called."""

    def patch(start):
        original, n_calls = threading.Thread.start, 0

        def start_thread(thread):
            nonlocal n_calls
            if thread.name != "scratchnn-task":
                original(thread)
                return
            n_calls += 1
            start(thread, original, n_calls)

        monkeypatch.setattr(threading.Thread, "start", start_thread)

    return patch


# What memory is left.


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


MEGABYTE = 2**20
MACHINE = {"proc/meminfo": "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n"}
V1 = "sys/fs/cgroup/memory"
CGROUPS = {
    "nothing but the machine": ({}, 1024 * 1024),
    "version 2": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "5000\n"}, 5000),
    "version 2, less what is used": (
        {
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": "5000\n",
            "sys/fs/cgroup/a/memory.current": "3000\n",
            "sys/fs/cgroup/a/memory.stat": "anon 7\nactive_file 600\ninactive_file 400\nodd\n",
        },
        3000,
    ),
    "version 2, the group around": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.max": "4000\n",
            "sys/fs/cgroup/a/memory.current": "1000\n",
        },
        3000,
    ),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "777"}, 777),
    "version 2, a path from outside": ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.max": "777"}, 777),
    "version 2, the limit that slows down": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.high": "800"},
        800,
    ),
    "version 2, all used": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.current": "901"},
        0,
    ),
    "no limit": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "max\n"}, 1024 * 1024),
    "malformed": (
        {
            "proc/self/cgroup": "what\n0:\n",
            "sys/fs/cgroup/memory.max": "12 MB",
            "sys/fs/cgroup/memory.high": "-5",
            f"{V1}/memory.limit_in_bytes": "\x00",
        },
        1024 * 1024,
    ),
    "no file that names the group": ({"sys/fs/cgroup/memory.max": "4321"}, 4321),
    "version 1": ({"proc/self/cgroup": "5:cpu,memory:/a", f"{V1}/a/memory.limit_in_bytes": "6000"}, 6000),
    "version 1, less what is used": (
        {
            "proc/self/cgroup": "0::/a\n5:memory:/a:b",
            f"{V1}/a:b/memory.limit_in_bytes": "6000",
            f"{V1}/a:b/memory.usage_in_bytes": "5000",
            f"{V1}/a:b/memory.stat": "active_file 1\ntotal_active_file 1500\ntotal_inactive_file 500\n",
        },
        3000,
    ),
    "version 1, the group around": (
        {
            "proc/self/cgroup": "5:memory:/a/b",
            f"{V1}/a/b/memory.limit_in_bytes": "9223372036854771712",
            f"{V1}/memory.limit_in_bytes": "2000",
        },
        2000,
    ),
    "version 1, no limit": (
        {"proc/self/cgroup": "5:memory:/", f"{V1}/memory.limit_in_bytes": "9223372036854771712"},
        1024 * 1024,
    ),
    "version 1 in a container": (
        {"proc/self/cgroup": "5:memory:/docker/1234", f"{V1}/memory.limit_in_bytes": "3000"},
        3000,
    ),
    "both versions": (
        {
            "proc/self/cgroup": "5:memory:/a\n0::/b",
            f"{V1}/a/memory.limit_in_bytes": "3000",
            "sys/fs/cgroup/b/memory.max": "2000",
        },
        2000,
    ),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_the_least_that_any_control_group_leaves_counts(case, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    files, expected = CGROUPS[case]
    write(tmp_path, MACHINE | files)
    assert memory.count_memory(str(tmp_path)) == expected


def test_files_that_cannot_be_read_are_no_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    write(tmp_path, MACHINE | {"sys/fs/cgroup/memory.max/a_directory": "", "sys/fs/cgroup/memory.high": "5"})
    (tmp_path / "sys/fs/cgroup/memory.high").write_bytes(b"\xff\xfe")
    assert memory.count_memory(str(tmp_path)) == 1024 * 1024


@pytest.mark.parametrize("meminfo", [None, "MemAvailable: much\n", "MemAvailable:\n", "MemAvailable: x kB\n"])
def test_systems_that_tell_little_get_a_guess(meminfo, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    if meminfo is not None:
        write(tmp_path, {"proc/meminfo": meminfo})
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__, raising=False)
    assert memory.count_memory(str(tmp_path)) == 4096 * 1000
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.count_memory(str(tmp_path)) == memory.GUESS


def set_limits(monkeypatch, **limits):
    resource = pytest.importorskip("resource")
    infinity = resource.RLIM_INFINITY
    known = {getattr(resource, name): limit for name, limit in limits.items()}
    monkeypatch.setattr(resource, "getrlimit", lambda name: (known.get(name, infinity), infinity))
    return resource.getpagesize()


@pytest.mark.parametrize(("name", "n_pages"), [("RLIMIT_AS", 100), ("RLIMIT_DATA", 20)])
def test_limits_of_the_process_count_less_what_it_has(name, n_pages, tmp_path, monkeypatch):
    size = set_limits(monkeypatch, **{name: 900_000})
    write(tmp_path, MACHINE | {"proc/self/statm": "100 50 30 5 0 20 0\n"})
    assert memory.count_memory(str(tmp_path)) == 900_000 - n_pages * size
    (tmp_path / "proc/self/statm").write_text("100")
    assert memory.count_memory(str(tmp_path)) in (900_000 - 100 * size, 900_000)
    (tmp_path / "proc/self/statm").unlink()
    assert memory.count_memory(str(tmp_path)) == 900_000


def test_a_thread_must_leave_most_of_the_address_space(tmp_path, monkeypatch):
    assert memory.has_space_for_thread(str(tmp_path))
    set_limits(monkeypatch, RLIMIT_AS=4 * memory.THREAD_BYTES)
    assert memory.has_space_for_thread(str(tmp_path))
    set_limits(monkeypatch, RLIMIT_AS=4 * memory.THREAD_BYTES - 1)
    assert not memory.has_space_for_thread(str(tmp_path))


def allocate_too_much():
    return torch.empty(2**60, dtype=torch.uint8)


def test_errors_that_say_that_memory_ran_out_are_known():
    with pytest.raises(RuntimeError) as error:
        allocate_too_much()
    with pytest.raises(MemoryError) as numpy_error:
        np.empty(2**60, np.uint8)
    assert memory.is_out_of_memory(error.value)
    assert memory.is_out_of_memory(numpy_error.value)
    assert memory.is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_out_of_memory(RuntimeError("sizes do not match"))
    assert not memory.is_out_of_memory(ValueError("DefaultCPUAllocator"))


UNDER_A_LIMIT = """
import resource, warnings
import numpy as np, torch
from sklearn.ensemble import BaggingClassifier
from scratchnn import ScratchNNClassifier, fused_fits

warnings.simplefilter("ignore")
torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(2000, 500))
y = (X[:, 0] > 0).astype(int)
network = ScratchNNClassifier((2,), max_iter=1, random_state=0)
bagging = BaggingClassifier(network, n_estimators=12, random_state=0)
network.fit(X[:50], y[:50])
for megabytes in [60, 400]:  # the samples of all 12 networks, in both precisions, are 140; each thread takes 72
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))
    plain = bagging.fit(X, y).predict_proba(X[:200])
    with fused_fits() as report:
        fused = bagging.fit(X, y).predict_proba(X[:200])
    print(np.abs(fused - plain).max() < 1e-6, report.n_fits)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
def test_bagging_under_a_limit_of_memory_gives_what_it_gives_in_sequence():
    command = [sys.executable, "-c", UNDER_A_LIMIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True", "12"] * 2, done.stderr


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
    meta = Data(run.data.indeps.to("meta"), run.data.deps.to("meta"))
    elsewhere = TrainingRun(meta, run.settings, run.coeffs, run.generator)
    assert pool.count_bytes(elsewhere) == 8 * (5 * 5 + 6) * 8


@within_a_minute
def test_no_task_begins_while_those_that_wait_hold_much(monkeypatch):
    """What they hold beyond their data is seen in what is left."""
    tasks = []

    def count_memory():
        n_alive = sum(thread.name == "scratchnn-task" for thread in threading.enumerate())
        tasks.append(n_alive)
        return 1000 * MEGABYTE - 90 * MEGABYTE * n_alive

    expected = score()
    monkeypatch.setattr(pool, "count_memory", count_memory)
    with fused_fits() as report:
        np.testing.assert_allclose(score(), expected, rtol=1e-6)
    assert report.n_fits == 12
    assert len(report.stacks) >= 4
    assert max(tasks) <= 4


@within_a_minute
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


# Threads that cannot be started.


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@within_a_minute
def test_where_no_thread_can_be_started_results_are_the_same(use, most, error, start_with):
    def start(thread, original, n_calls):
        if n_calls > most:
            raise error
        original(thread)

    expected = use()
    start_with(start)
    with fused_fits() as report:
        np.testing.assert_allclose(use(), expected, rtol=1e-6)
    assert {stack.alone for stack in report.stacks} >= {"no thread could be started"}
    if use is score:
        assert report.n_fits == 12


@within_a_minute
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


@within_a_minute
def test_threads_that_can_be_started_at_times_serve_then(start_with):
    def start(thread, original, n_calls):
        if n_calls % 3 == 0:
            raise RuntimeError("can't start new thread")
        original(thread)

    expected = [use() for use in USES]
    start_with(start)
    with fused_fits() as report:
        for use, result in zip(USES, expected, strict=True):
            np.testing.assert_allclose(use(), result, rtol=1e-6)
    assert max(stack.n_models for stack in report.stacks) > 1


@within_a_minute
def test_a_thread_that_begins_although_its_start_failed_ends(start_with):
    def start(thread, original, n_calls):
        original(thread)
        if n_calls % 2 == 0:
            raise MemoryError

    expected = score()
    start_with(start)
    with fused_fits() as report:
        np.testing.assert_allclose(score(), expected, rtol=1e-6)
    assert report.n_fits == 12


@pytest.mark.parametrize("has_begun", [False, True])
@within_a_minute
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


def raise_memory_error():
    raise MemoryError("of a task")


def interrupt():
    raise KeyboardInterrupt


class Doing(TransformerMixin, BaseEstimator):
    """A transformer that does something in each fit, and changes nothing."""

    def __init__(self, action=None):
        self.action = action

    def fit(self, X, y=None):
        if self.action is not None:
            self.action()
        return self

    def transform(self, X):
        return X


@pytest.mark.parametrize("most", [0, 1, 100])
@pytest.mark.parametrize(("action", "error"), [(raise_memory_error, MemoryError), (interrupt, KeyboardInterrupt)])
@within_a_minute
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
@within_a_minute
def test_workers_without_threads_give_the_same(backend, start_with):
    def start(thread, original, n_calls):
        raise RuntimeError("can't start new thread")

    expected = [score(), score_nested()]
    start_with(start)
    with fused_fits(backend=backend, n_jobs=2):
        np.testing.assert_allclose(score(), expected[0], rtol=1e-6)
        np.testing.assert_allclose(score_nested(), expected[1], rtol=1e-6)


@within_a_minute
def test_a_thread_that_dies_fails_its_task(start_with):
    def start(thread, original, n_calls):
        if n_calls != 2:
            original(thread)

    start_with(start)
    with fused_fits(), pytest.raises(RuntimeError, match=r"thread of a task of fused_fits ended .* Free memory, or"):
        score()


@within_a_minute
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


@within_a_minute
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


@within_a_minute
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


# Training that needs more memory than there is.


def raise_torch_error():
    allocate_too_much()


@pytest.fixture
def train_if(monkeypatch):
    """Let training raise an error where a function of the runs says so."""

    def patch(fits, raise_error=raise_memory_error):
        def train_within_limit(runs):
            if not fits(runs):
                for run in runs:  # as if it had happened in the middle
                    run.coeffs.flat.zero_()
                    run.generator.manual_seed(1)
                    run.history.losses.append(0.0)
                raise_error()
            train(runs)

        monkeypatch.setattr(pool, "train", train_within_limit)

    return patch


@pytest.mark.parametrize("raise_error", [raise_memory_error, raise_torch_error])
@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("use", USES)
@within_a_minute
def test_a_stack_for_which_memory_does_not_suffice_trains_in_parts(use, most, raise_error, train_if):
    expected = use()
    train_if(lambda runs: len(runs) <= most, raise_error)
    with fused_fits() as report:
        np.testing.assert_allclose(use(), expected, rtol=1e-6)
    assert max(stack.n_models for stack in report.stacks) == min(most, 3)


@within_a_minute
def test_a_fit_for_which_memory_suffices_when_others_have_ended_waits_for_them(train_if):
    """Two of the candidates fit while at most five tasks are under way."""
    n_failures = 0

    def fits(runs):
        nonlocal n_failures
        n_alive = sum(thread.name == "scratchnn-task" for thread in threading.enumerate())
        is_enough = len(runs) == 1 and (runs[0].settings.alpha < 1 or n_alive <= 7)
        n_failures += len(runs) == 1 and not is_enough
        return is_enough

    expected = score()
    train_if(fits)
    with fused_fits() as report:
        np.testing.assert_allclose(score(), expected, rtol=1e-6)
    assert report.n_fits == 12
    assert n_failures > 0


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("raise_error", [raise_memory_error, raise_torch_error])
@within_a_minute
def test_a_fit_for_which_memory_never_suffices_fails_alone(raise_error, train_if):
    expected = score()
    train_if(lambda runs: all(run.settings.alpha != 1.0 for run in runs), raise_error)
    with fused_fits():
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            scores = score()
        with pytest.raises((MemoryError, RuntimeError), match=r"of a task|allocate"):
            score(error_score="raise")
    assert np.isnan(scores).tolist() == [False, False, True, False]
    np.testing.assert_allclose(np.delete(scores, 2), np.delete(expected, 2), rtol=1e-6)


@within_a_minute
def test_all_fits_may_run_out_of_memory(train_if):
    train_if(lambda runs: False)
    with fused_fits() as report, pytest.raises(ValueError, match="All the 12 fits failed"):
        score()
    assert report.n_fits == 0


@within_a_minute
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

    expected = score()
    monkeypatch.setattr(pool, "Snapshot", Snapshot)
    with fused_fits() as report:
        np.testing.assert_allclose(score(), expected, rtol=1e-6)
    assert max(stack.n_models for stack in report.stacks) == 3


@within_a_minute
def test_what_was_not_trained_does_not_pass_for_it(monkeypatch):
    def make_stacks(runs):
        raise MemoryError("while stacks are made")

    monkeypatch.setattr(pool, "make_stacks", make_stacks)
    with fused_fits(), pytest.raises(MemoryError, match="while stacks are made"):
        score(error_score="raise")


# Parameters.


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"backend": "loki"}, ["backend must be", "'loki'", "'loky'", "'multiprocessing'", "'threading'", "'dask'"]),
        ({"backend": "ray"}, ["backend must be", "'ray'", "ray.util.joblib.register_ray"]),
        ({"backend": ""}, ["backend must be", "got ''", "Use 'loky'"]),
        ({"backend": 3}, ["backend must be", "got 3", "Use 'loky'"]),
        ({"backend": ["loky"]}, ["backend must be", "got ['loky']", "Use 'loky'"]),
        ({"backend": BACKENDS["threading"]}, ["backend must be", "ThreadingBackend", "an instance"]),
        ({"backend": "loky", "n_jobs": 1.5}, ["n_jobs must be an int or None", "got 1.5", "Use the number"]),
        ({"backend": "loky", "n_jobs": "2"}, ["n_jobs must be an int or None", "got '2'", "Use the number"]),
        ({"backend": "loky", "n_jobs": True}, ["n_jobs must be an int or None", "got True", "Use the number"]),
        ({"n_jobs": 0.0}, ["n_jobs must be an int or None", "got 0.0"]),
        ({"verbose": "yes"}, ["verbose must be a bool or an int", "got 'yes'", "Use True"]),
        ({"verbose": -1}, ["verbose must be a bool or an int", "got -1"]),
        ({"verbose": None}, ["verbose must be a bool or an int", "got None"]),
        ({"verbose": 0.5}, ["verbose must be a bool or an int", "got 0.5"]),
    ],
)
def test_wrong_parameters_are_refused_at_the_beginning(settings, parts):
    entered = False
    with pytest.raises(ValueError) as error, fused_fits(**settings):
        entered = True
    assert not entered
    for part in parts:
        assert part in str(error.value)


class OwnBackend(BACKENDS["sequential"]):
    """A backend of a user's."""


@pytest.mark.parametrize("as_instance", [False, True])
@within_a_minute
def test_a_backend_of_ones_own_is_accepted(as_instance, monkeypatch):
    joblib.register_parallel_backend("own", OwnBackend)
    try:
        with fused_fits(backend=OwnBackend() if as_instance else "own", n_jobs=np.int64(2), verbose=np.True_) as report:
            score()
    finally:
        del BACKENDS["own"]
    assert report.n_fits == 12


def test_a_backend_that_is_not_ready_says_what_to_do(monkeypatch):
    def fail_to_import():
        raise ImportError("To use dask, install it")

    monkeypatch.delitem(BACKENDS, "dask", raising=False)
    monkeypatch.setitem(EXTERNAL_BACKENDS, "dask", fail_to_import)
    message = r"backend must be ready for use, got 'dask', .*install it. Install distributed, and make a client first"
    with pytest.raises(ValueError, match=message), fused_fits(backend="dask"):
        pass

    def fail_to_connect(**settings):
        raise OSError("no connection")

    monkeypatch.setitem(BACKENDS, "own", fail_to_connect)
    with pytest.raises(ValueError, match=r"got 'own', which is not: no connection. Make it ready before"):  # noqa: SIM117
        with fused_fits(backend="own"):
            pass


@pytest.mark.filterwarnings("ignore")
def test_dask_without_a_client_says_what_to_do():
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r"(?s)got 'dask', .*make a client first: distributed.Client()"):  # noqa: SIM117
        with fused_fits(backend="dask"):
            pass
