"""`fused_fits`: whatever scikit-learn runs through joblib trains its networks together, as stacks.

A joblib backend runs the tasks as threads, of which one at a time has the turn, so that no lock is needed.
A task that comes to `ScratchNNClassifier.fit` hands in its `TrainingRun` and passes the turn. When no task can go on
without its network, the thread that waits for the results trains what has been handed in, and the tasks go on.
"""

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import joblib
import torch
from joblib.parallel import ParallelBackendBase

from ._threads import SharedContext, find_most_threads, use_threads
from .training import Data, TrainingRun, explain_alone, make_stacks, train, trainer

MAX_TASKS = 256  # that are under way at the same time
_current = threading.local()  # .task: the task that this thread runs


@dataclass(frozen=True)
class Stack:
    """Fits that were trained together: ``share`` is each one's part of the ``seconds``."""

    n_models: int
    seconds: float
    sizes: tuple[int, ...]  # neurons per layer, from the columns to the outputs
    n_samples: int
    alone: str | None  # why, if it is one fit that could not be stacked

    @property
    def share(self) -> float:
        """Seconds of training for each fit."""
        return self.seconds / self.n_models

    def __str__(self) -> str:
        what = f"{self.n_models} x {'-'.join(map(str, self.sizes))} on {self.n_samples} rows: {self.seconds:.2f} s"
        return what if self.alone is None else f"{what} ({self.alone})"


@dataclass
class FusionReport:
    """What the tasks of `fused_fits` trained, in the order of training, fits that diverged included."""

    stacks: list[Stack] = field(default_factory=list)

    @property
    def n_fits(self) -> int:
        """Number of networks trained."""
        return sum(stack.n_models for stack in self.stacks)

    @property
    def seconds(self) -> float:
        """Seconds of training in all."""
        return sum(stack.seconds for stack in self.stacks)

    def __str__(self) -> str:
        head = f"{self.n_fits} fits in {len(self.stacks)} stacks, {self.seconds:.2f} s of training"
        return "\n".join([head, *map(str, self.stacks)])


@contextmanager
def fused_fits(
    *, backend: str | None = None, n_jobs: int | None = None, verbose: bool | int = False
) -> Iterator[FusionReport]:
    """Train the networks that scikit-learn's parallel tasks fit inside this context together, with the same results.

    Parameters
    ----------
    backend : str, default=None
        A joblib backend, such as 'loky' or 'dask', to deal the tasks out to: each worker fuses its share. None trains
        in this process.
    n_jobs : int, default=None
        Number of shares, with ``backend``: one for each worker. None or -1 is as many as the backend has.
    verbose : bool or int, default=False
        Whether to print a line for each stack.

    Yields
    ------
    report : FusionReport
        What has been trained so far: stacks, sizes, seconds, and why a fit was trained alone.

    Raises
    ------
    ValueError
        If ``n_jobs`` is given without ``backend``, or is 0.

    Notes
    -----
    The ``n_jobs`` of what runs inside is not used: tasks take turns, and large steps of training use PyTorch's threads.
    Times that scikit-learn measures, such as ``mean_fit_time``, count the wait for the others. What is fitted in no
    task of joblib, such as the final ``refit`` of a search, trains as ever, and is not in the report.
    ``joblib.Parallel`` cannot return a generator inside.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from scratchnn import ScratchNNClassifier, fused_fits
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = ScratchNNClassifier((10,), max_iter=20, tol=0, n_iter_no_change=np.inf, random_state=0)
    >>> with fused_fits() as report:
    ...     search = GridSearchCV(classifier, {"alpha": [0.1, 1.0]}, cv=3, refit=False).fit(X, y)
    >>> report.n_fits
    6
    """
    if n_jobs == 0:
        raise ValueError("n_jobs must not be 0, got 0. Use the number of workers, or None for all of the backend's.")
    if backend is None and n_jobs is not None:
        raise ValueError(f"n_jobs must go with a backend, got {n_jobs} and backend=None. Use backend='loky'.")
    report = FusionReport()
    conductor = _Conductor(report, bool(verbose))
    chosen: ParallelBackendBase = FusedBackend(conductor)
    if backend is not None:
        chosen = DealingBackend(backend, -1 if n_jobs is None else n_jobs, report)
    with _warning_filters:
        try:
            with joblib.parallel_config(backend=chosen):
                yield report
        finally:
            conductor.close()


# Tasks change the filters in turn: the last block to end restores what the first one found.
_warning_filters = SharedContext(warnings.catch_warnings)


class _Cancelled(BaseException):
    """Ends a task whose result nobody waits for any more."""


class _Task:
    """A call that joblib submitted: a thread that runs while it has the turn. joblib calls `get` for the result."""

    def __init__(self, conductor: "_Conductor", call: Callable[[], Any], callback: Callable[[Any], Any], depth: int):
        self.conductor, self.call, self.callback, self.depth = conductor, call, callback, depth
        self.pid = os.getpid()
        self.turn = _make_closed_lock()
        self.back = _make_closed_lock()  # replaced by that of who resumes it
        self.waiter: _Task | None = None  # who needs the result
        self.run: TrainingRun | None = None  # what it has handed in
        self.warnings: warnings.catch_warnings[Any] | None = None  # the filters as it left them
        self.is_done = self.is_cancelled = self.is_dispatching = self.has_turn = False
        self.result: Any = None
        self.error: BaseException | None = None  # what the call raised
        self.failure: Exception | None = None  # what the training of the run raised

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result, and return or raise it."""
        self.conductor.wait_for(self)
        if self.error is not None:
            raise self.error
        return self.result

    def start(self) -> None:
        """Start the thread, which waits for its turn."""
        threading.Thread(target=self._live, name="scratchnn-task", daemon=True).start()

    def pass_turn(self) -> None:
        """Let others go on, until resumed. Raises _Cancelled if nobody waits for the result any more."""
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        self.has_turn = False
        self.back.release()
        self.turn.acquire()
        if self.is_cancelled:
            raise _Cancelled

    def _live(self) -> None:
        self.turn.acquire()
        _current.task = self
        trainer.set(self._train)
        try:
            with use_threads(0, most=1):  # pools of threads for every task would slow down everybody's
                if self.is_cancelled:
                    raise _Cancelled
                self.result = self.call()
                self.is_dispatching = True
                self.callback(self.result)  # which may submit the next task
        except BaseException as error:
            self.error = error
        self.conductor.end(self)
        self.has_turn = False
        self.back.release()

    def _train(self, run: TrainingRun) -> None:
        """Train the run in place, with those of other tasks if it can be."""
        if self.pid != os.getpid():  # forked from the task: nobody is there to train it
            train([run])
            return
        if self.is_dispatching:
            self.conductor.train([run], "fitted while joblib's tasks were being made")
            return
        self.conductor.hand_in(self, run)
        self.pass_turn()
        self.run = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure


def _make_closed_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Conductor:
    """Says whose turn it is. Its methods are called by whoever has the turn."""

    def __init__(self, report: FusionReport, verbose: bool) -> None:
        self.report, self.verbose = report, verbose
        self.pid = os.getpid()
        outer: _Task | None = getattr(_current, "task", None)
        self.n_threads: int = find_most_threads() if outer is None else outer.conductor.n_threads  # for training
        self.unstarted: deque[_Task] = deque()
        self.started: dict[_Task, None] = {}  # in order
        self.ready: deque[_Task] = deque()
        self.waiting: list[_Task] = []  # for their networks
        self.datas: dict[object, list[Data]] = {}  # that they handed in
        self.n_bytes = 0  # of them, each counted as often as it was handed in

    def submit(self, task: _Task) -> None:
        """Take note of a new task. Those of inner calls come first, so that outer ones can end."""
        self._forget_lost()
        position = next((k for k, other in enumerate(self.unstarted) if other.depth < task.depth), len(self.unstarted))
        self.unstarted.insert(position, task)

    def wait_for(self, task: _Task) -> None:
        """Let others go on until the task has ended."""
        self._forget_lost()
        mine = self._get_own_task()
        while mine is not None and not task.is_done:
            task.waiter = mine
            mine.pass_turn()
        while not task.is_done:
            self._advance()

    def hand_in(self, task: _Task, run: TrainingRun) -> None:
        """Put a run among those to train next. Data that another run has are not kept twice."""
        self.n_bytes += sum(data.nbytes for data in (run.data.indeps, run.data.deps) if isinstance(data, torch.Tensor))
        run.data = self._share(run.data)
        if run.validation is not None:
            run.validation = self._share(run.validation)
        task.run = run
        self.waiting.append(task)

    def train(self, runs: Sequence[TrainingRun], alone: str | None = None) -> None:
        """Train runs as one stack, in place, and report it."""
        start = time.perf_counter()
        with use_threads(0, most=self.n_threads):
            train(runs)
        stack = Stack(len(runs), time.perf_counter() - start, runs[0].coeffs.sizes, len(runs[0].data.deps), alone)
        self.report.stacks.append(stack)
        if self.verbose:
            print(f"[fused_fits] {stack}", flush=True)

    def end(self, task: _Task) -> None:
        """Take note that a task has its result, or its error."""
        task.is_done = True
        self.started.pop(task, None)
        if task.waiter is not None:
            self.ready.append(task.waiter)

    def cancel(self, tasks: Sequence[_Task]) -> None:
        """End the tasks: those that wait raise, those that have not started never do."""
        self._forget_lost()
        tasks = [task for task in tasks if task.pid == self.pid]
        for task in tasks:
            if not task.is_done:
                task.is_cancelled = True
            if task in self.unstarted:
                self.unstarted.remove(task)
                task.error = _Cancelled()
                task.is_done = True
        for task in tasks:
            while not task.is_done:
                self.waiting = [other for other in self.waiting if other is not task]
                self.ready = deque(other for other in self.ready if other is not task)
                self._resume(task)

    def close(self) -> None:
        """End what has not ended."""
        self.cancel([*self.unstarted, *self.started])

    def _get_own_task(self) -> _Task | None:
        task: _Task | None = getattr(_current, "task", None)
        return task if task is not None and task.conductor is self and task.pid == self.pid else None

    def _forget_lost(self) -> None:
        """Forget, in a forked process, the tasks that were under way: their threads are not there."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.started, self.ready, self.waiting, self.datas, self.n_bytes = {}, deque(), [], {}, 0

    def _advance(self) -> None:
        has_room = len(self.started) < MAX_TASKS and 5 * self.n_bytes < _count_memory() / 4
        if self.ready:
            self._resume(self.ready.popleft())
        elif self.unstarted and (has_room or not self.waiting):
            task = self.unstarted.popleft()
            self.started[task] = None
            task.start()
            self._resume(task)
        elif self.waiting:
            self._train_waiting()
        else:
            raise RuntimeError("no task of fused_fits can go on: this is a bug in scratchnn, please report it")

    def _resume(self, task: _Task) -> None:
        """Give a task the turn until it passes it back. Each has warning filters of its own meanwhile."""
        back = task.back = _make_closed_lock()
        with warnings.catch_warnings():
            if task.warnings is not None:
                task.warnings.__exit__(None, None, None)
            interrupt: BaseException | None = None
            is_given, task.has_turn = False, True
            while task.has_turn:
                try:
                    if not is_given:
                        is_given = True
                        task.turn.release()
                    back.acquire()
                except BaseException as error:  # Ctrl-C: the turn must come back first
                    interrupt = error
            if interrupt is not None:
                raise interrupt

    def _train_waiting(self) -> None:
        tasks = {id(task.run): task for task in self.waiting}
        self.waiting, self.datas, self.n_bytes = [], {}, 0
        try:
            for stack in make_stacks([cast(TrainingRun, task.run) for task in tasks.values()]):
                before = [_Snapshot(run) for run in stack]
                try:
                    self.train(stack, explain_alone(stack[0]))
                except Exception as error:
                    if len(stack) == 1:
                        tasks[id(stack[0])].failure = error
                        continue
                    for snapshot in before:  # so that the one at fault fails alone
                        snapshot.restore()
                        try:
                            self.train([snapshot.run], "its stack failed")
                        except Exception as error:
                            tasks[id(snapshot.run)].failure = error
        finally:
            self.ready.extend(tasks.values())

    def _share(self, data: Data) -> Data:
        """Return an equal one that has been handed in, or this."""
        if not isinstance(data.indeps, torch.Tensor):
            return data
        indeps = data.indeps
        key = (indeps.shape, indeps.dtype, indeps.device, data.deps.shape, data.weights is None, data.weight_mean)
        known = self.datas.setdefault(key, [])
        for other in known:
            if (
                torch.equal(other.deps, data.deps)
                and (data.weights is None or torch.equal(cast(torch.Tensor, other.weights), data.weights))
                and torch.equal(cast(torch.Tensor, other.indeps), indeps)
            ):
                return other
        known.append(data)
        return data


class _Snapshot:
    """A run as it was, but for its data."""

    def __init__(self, run: TrainingRun) -> None:
        self.run, self.flat, self.drawn = run, run.coeffs.flat.clone(), run.generator.get_state()
        self.state = {
            name: deepcopy(getattr(run, name))
            for name in ("solver_state", "history", "best_flat", "n_epochs", "warning")
        }

    def restore(self) -> None:
        """Undo, in place, what training did."""
        self.run.coeffs.flat.copy_(self.flat)
        self.run.generator.set_state(self.drawn)
        for name, value in self.state.items():
            setattr(self.run, name, value)


def _count_memory() -> int:
    """Return the bytes of memory of this machine, or a guess."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**33


class FusedBackend(ParallelBackendBase):  # type: ignore[misc]
    """The joblib backend of `fused_fits`. Its tasks are threads, whatever ``n_jobs`` is."""

    supports_sharedmem = True
    uses_threads = True

    def __init__(self, conductor: _Conductor | None = None, nesting_level: int | None = None) -> None:
        super().__init__(nesting_level=nesting_level)
        self._conductor = conductor
        self.tasks: list[_Task] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return FusedBackend, (None, self.nesting_level)  # elsewhere, it is that of the task that runs there

    @property
    def conductor(self) -> _Conductor:
        """Whose turn it is."""
        return _current.task.conductor if self._conductor is None else self._conductor

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way; 1 where none can wait for the others."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        task = getattr(_current, "task", None)
        return 1 if task is not None and task.is_dispatching else MAX_TASKS

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Take note of who calls, and return the number of tasks that may be under way."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> _Task:
        """Take a task."""
        task = _Task(self.conductor, func, callback, self.nesting_level or 0)
        self.tasks.append(task)
        self.conductor.submit(task)
        return task

    apply_async = submit

    def start_call(self) -> None:
        """Begin to take tasks: their iterator must not wait for other tasks while joblib's lock is held."""
        self.tasks = []
        self._set_dispatching(True)

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Begin to wait for results."""
        self._set_dispatching(False)
        yield

    def stop_call(self) -> None:
        """Forget the tasks, which have ended."""
        self.tasks = []
        self._set_dispatching(False)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the tasks of this call."""
        self.conductor.cancel(self.tasks)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, None]:
        """Return the backend for calls inside a task."""
        return FusedBackend(self._conductor, (self.nesting_level or 0) + 1), None

    def _set_dispatching(self, value: bool) -> None:
        task = getattr(_current, "task", None)
        if task is not None:
            task.is_dispatching = value


class _Dealt:
    """A call that goes to a worker in a share of calls. joblib calls `get` for the result."""

    def __init__(self, backend: "DealingBackend", call: Callable[[], Any], callback: Callable[[Any], Any]) -> None:
        self.backend, self.call, self.callback = backend, call, callback
        self.outcome: tuple[bool, Any] | None = None

    def get(self, timeout: float | None = None) -> Any:
        """Return or raise the result."""
        while self.outcome is None:
            self.backend.deal()
        succeeded, result = self.outcome
        if not succeeded:
            raise result
        return result


class DealingBackend(ParallelBackendBase):  # type: ignore[misc]
    """The joblib backend of ``fused_fits(backend=...)``: another backend's workers get a share of the tasks each."""

    def __init__(self, name: str = "loky", n_jobs: int = -1, report: FusionReport | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name, self.n_shares = name, n_jobs
        self.report = FusionReport() if report is None else report
        self.undealt: list[_Dealt] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return MAX_TASKS * self._count_shares()

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Take note of who calls, and return the number of tasks that may be under way."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> _Dealt:
        """Take a task."""
        self.undealt.append(_Dealt(self, func, callback))
        return self.undealt[-1]

    apply_async = submit

    def deal(self) -> None:
        """Have the tasks that were taken run, each worker a share of them."""
        tasks, self.undealt = self.undealt, []
        n_shares = min(self._count_shares(), len(tasks))
        shares = [tasks[len(tasks) * k // n_shares : len(tasks) * (k + 1) // n_shares] for k in range(n_shares)]
        with joblib.parallel_config(backend=self.name, n_jobs=self.n_shares):
            results = joblib.Parallel()(joblib.delayed(_run_share)([task.call for task in share]) for share in shares)
        for share, (outcomes, stacks) in zip(shares, results, strict=True):
            self.report.stacks += stacks
            for task, outcome in zip(share, outcomes, strict=True):
                task.outcome = outcome
        for task in tasks:
            if task.outcome is not None and task.outcome[0]:
                task.callback(task.outcome[1])  # which may submit the next

    def start_call(self) -> None:
        """Begin to take tasks."""
        self.undealt = []

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget the tasks that have not been dealt out."""
        self.undealt = []

    def get_nested_backend(self) -> tuple[ParallelBackendBase, None]:
        """Return the backend for calls inside a task, which is that of its worker."""
        return FusedBackend(None, (self.nesting_level or 0) + 1), None

    def _count_shares(self) -> int:
        with joblib.parallel_config(backend=self.name):
            return int(joblib.effective_n_jobs(self.n_shares))


def _run_share(calls: list[Callable[[], Any]]) -> tuple[list[tuple[bool, Any]], list[Stack]]:
    """Run calls in this process, fused. Return whether each succeeded, with its result or its error."""
    conductor = _Conductor(FusionReport(), verbose=False)
    tasks = [_Task(conductor, call, lambda result: None, depth=0) for call in calls]
    for task in tasks:
        conductor.submit(task)
    outcomes: list[tuple[bool, Any]] = []
    with _warning_filters:
        try:
            for task in tasks:
                try:
                    outcomes.append((True, task.get()))
                except Exception as error:
                    outcomes.append((False, error))
                    break
        finally:
            conductor.close()
    skipped = (False, RuntimeError("another task of this share failed first"))
    return outcomes + [skipped] * (len(tasks) - len(outcomes)), conductor.report.stacks
