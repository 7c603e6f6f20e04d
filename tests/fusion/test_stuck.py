"""A task that waits for another, or for what another holds, gets it; a caller that is interrupted can leave."""

import asyncio
import functools
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from fusion_helpers import X, assert_equal_results, network, y
from helpers import call_in_thread, within

from scratchnn import fused_fits
from scratchnn.fusion.bells import Watch

N_TASKS = 3


def fit(k):
    return network(alpha=float(k)).fit(X, y).loss_


def run(task):
    return joblib.Parallel()(joblib.delayed(task)(k) for k in range(N_TASKS))


def hold(lock):
    """Return tasks that fit while they hold a lock."""

    def task(k):
        with lock:
            return fit(k)

    return task


def use_a_memo():
    class Memo:
        lock = threading.RLock()  # as `functools.cached_property` has in Python 3.11

        @functools.cached_property
        def loss(self):
            return fit(0)

        def read(self):
            with self.lock:
                return self.loss

    memo = Memo()
    return lambda k: memo.read()


def import_a_module_that_fits(folder):
    name = f"fits_when_imported_{time.monotonic_ns()}"
    (folder / f"{name}.py").write_text("from test_stuck import fit\nloss = fit(0)\n")

    def task(k):
        sys.path.insert(0, str(folder))
        try:
            return __import__(name).loss
        finally:
            sys.path.remove(str(folder))

    return task


def lock_a_file(folder):
    fcntl = pytest.importorskip("fcntl")

    def task(k):
        with open(folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return fit(k)

    return task


def wait_for_the_last_fit(wait, tell):
    """Return tasks of which the first waits for what the last tells after its fit."""

    def task(k):
        if k == 0:
            wait()
            return None
        loss = fit(k)
        if k == N_TASKS - 1:
            tell()
        return loss

    return task


def wait_for_a_queue():
    results = queue.Queue()
    return wait_for_the_last_fit(results.get, lambda: results.put(None))


def wait_for_a_condition():
    condition, is_told = threading.Condition(), []

    def wait():
        with condition:
            condition.wait_for(lambda: is_told)

    def tell():
        with condition:
            is_told.append(True)
            condition.notify_all()

    return wait_for_the_last_fit(wait, tell)


def look_again_and_again():
    event = threading.Event()

    def wait():
        while not event.is_set():
            time.sleep(0.001)

    return wait_for_the_last_fit(wait, event.set)


def meet_after_the_fit():
    barrier = threading.Barrier(N_TASKS)

    def task(k):
        loss = fit(k)
        barrier.wait()
        return loss

    return task


def hold_a_lock_around_tasks():
    lock = threading.Lock()

    def task(k):
        with lock:
            return run(fit)

    return task


def compute():
    """Wait for a task without ever giving up the processor."""
    event = threading.Event()

    def wait():
        while not event.is_set():
            pass

    return wait_for_the_last_fit(wait, event.set)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: hold(threading.BoundedSemaphore(2)),
        lambda folder: hold(threading.RLock()),
        lambda folder: use_a_memo(),
        import_a_module_that_fits,
        lock_a_file,
        lambda folder: wait_for_a_queue(),
        lambda folder: wait_for_a_condition(),
        lambda folder: look_again_and_again(),
        lambda folder: meet_after_the_fit(),
        lambda folder: hold_a_lock_around_tasks(),
        lambda folder: compute(),
    ],
    ids=["semaphore", "rlock", "memo", "import", "file", "queue", "condition", "look", "barrier", "nested", "compute"],
)
@within(30)
def test_a_task_gets_what_another_holds_or_makes(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Watch, "LIMITS", (*Watch.LIMITS[:2], (float("inf"), 1.0)))
    monkeypatch.setattr(Watch, "ALONE", 3)
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # the one that computes slows down the others less
    with fused_fits():
        losses = run(make(tmp_path))
    sys.setswitchinterval(switch_interval)
    possible = [fit(k) for k in range(N_TASKS)]
    assert len(losses) == N_TASKS
    for loss in np.ravel([loss for loss in losses if loss is not None]):
        assert loss in [pytest.approx(each, rel=1e-6) for each in possible]


@within(30)
def test_without_clocks_of_threads_a_lock_does_not_hang(monkeypatch):
    monkeypatch.setattr("scratchnn.fusion.task.find_clock", lambda thread: None)
    with fused_fits():
        assert len(run(hold(threading.Lock()))) == N_TASKS


@within(30)
def test_only_the_thread_of_a_task_hands_in():
    def fit_in_two_threads(k):
        async def gather():
            return await asyncio.gather(asyncio.to_thread(fit, k), asyncio.to_thread(fit, k + 0.5))

        with ThreadPoolExecutor(2) as pool:
            others = list(pool.map(fit, (k, k + 0.5)))
        return [*asyncio.run(gather()), *others, call_in_thread(lambda: fit(k)), fit(k)]

    plain = run(fit_in_two_threads)
    with fused_fits() as report:
        assert_equal_results(run(fit_in_two_threads), plain)
    assert report.n_fits == N_TASKS


@within(30)
def test_threads_outside_of_tasks_may_share_the_backend():
    with fused_fits() as report:
        backend = joblib.parallel.get_active_backend()[0]

        def use(k):
            with joblib.parallel_config(backend=backend):
                return run(fit)

        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(use, range(3)))
    assert_equal_results(results, [run(fit)] * 3)
    assert report.n_fits == 3 * N_TASKS


@within(30)
def test_the_timeout_of_joblib_is_kept():
    def wait(k):
        time.sleep(1.0)

    def nest(k):
        return joblib.Parallel(timeout=0.1)(joblib.delayed(wait)(k) for k in range(2))

    with fused_fits() as report:
        with pytest.raises(TimeoutError, match=r"longer than timeout=0\.1 s"):  # as processes raise
            nest(0)
        with pytest.raises(multiprocessing.TimeoutError, match=r"longer than timeout=0\.1 s"):  # as threads raise
            run(nest)
        run(fit)
    assert report.stacks[-1].n_models == N_TASKS


INTERRUPTS = """
import contextlib, io, os, signal, sys, threading, time, warnings
import numpy as np
from joblib import Parallel, delayed
from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion.scheduler import Scheduler

Scheduler.GRACE = 0.1
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(200, 5))
y = (X[:, 0] > 0).astype(int)
large = np.random.default_rng(0).normal(size=(20_000, 30)), np.random.default_rng(0).integers(0, 2, 20_000)
settings = {"hidden_layer_sizes": (5,), "max_iter": 10**7, "tol": 0, "n_iter_no_change": np.inf}
lock = threading.Lock()

class Alarm(TimeoutError):
    pass

def strike(number, frame):
    raise Alarm

def score(estimator, X, y):
    time.sleep(2)
    return 0.0

def train(k, data=(X, y), **changes):
    return ScratchNNClassifier(**{**settings, "alpha": k, **changes}).fit(*data)

def loop(k):
    with contextlib.redirect_stdout(io.StringIO()):
        while True:
            pass

def hold(k):
    with lock:
        return train(k)

tasks = {
    "stack": train,
    "scorer": lambda k: train(k, early_stopping=True, scoring=score),
    "lbfgs": lambda k: train(k, data=large, solver="lbfgs", hidden_layer_sizes=(50,)),
    "endless": loop,
    "asleep": lambda k: time.sleep(2),
    "locked": hold,
    "nested": lambda k: Parallel()(delayed(train)(j) for j in range(2)),
}

def interrupt(task, number):
    def send():
        time.sleep(0.2)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    sent = []
    threading.Thread(target=send).start()
    try:
        with fused_fits():
            Parallel()(delayed(task)(k) for k in range(3))
    except (Alarm, KeyboardInterrupt) as error:
        seconds = time.monotonic() - sent[0]
        assert seconds < 1.5, seconds
        return type(error).__name__

signal.signal(signal.SIGALRM, strike)
for name, task in tasks.items():
    outcomes = interrupt(task, signal.SIGALRM), interrupt(task, signal.SIGINT)
    assert sys.stdout is sys.__stdout__
    with fused_fits() as report:
        Parallel()(delayed(train)(k, max_iter=2) for k in range(3))
    print(name, *outcomes, report.n_fits, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_what_a_signal_handler_raises_reaches_the_caller_at_once():
    done = subprocess.run([sys.executable, "-c", INTERRUPTS], capture_output=True, text=True, timeout=60, check=False)
    outcomes = {name: rest for name, *rest in map(str.split, done.stdout.splitlines())}
    names = ["stack", "scorer", "lbfgs", "endless", "asleep", "locked", "nested"]
    assert outcomes == {name: ["Alarm", "KeyboardInterrupt", "3"] for name in names}, done.stderr


@within(30)
def test_an_error_in_the_block_does_not_wait_for_a_stuck_task():
    never = threading.Event()
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), fused_fits():
        joblib.Parallel()(joblib.delayed(call)() for call in (never.wait, lambda: 1 / 0))
    assert time.monotonic() - start < 10
    never.set()


@within(30)
def test_a_generator_of_results_is_refused():
    with fused_fits(), pytest.raises(ValueError, match="return_as"):
        joblib.Parallel(return_as="generator")(joblib.delayed(fit)(k) for k in range(2))
