"""`fused_fits`: whatever scikit-learn runs through joblib trains its networks together, as stacks.

A joblib backend runs the tasks as threads, of which one at a time has the turn, so that no lock is needed.
A task that comes to `ScratchNNClassifier.fit` hands in its `TrainingRun` and passes the turn. When no task can go on
without its network, the thread that waits for the results trains what has been handed in, and the tasks go on.
"""

import os
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, cast

import joblib
import numpy as np
import torch
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS, MAYBE_AVAILABLE_BACKENDS, ParallelBackendBase

from ._memory import count_memory as _count_memory
from ._memory import has_space_for_thread, is_out_of_memory
from .training import Data, TrainingRun, explain_alone, make_stacks, train, trainer
from .training.threads import SharedContext, find_most_threads, use_threads

MAX_TASKS = 256  # that are under way at the same time
# .task and .conductor: what this thread runs, and who says whose turn it is; .is_dispatching: whether joblib is taking
# calls, and holds its lock.
_current = threading.local()


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
    *, backend: str | ParallelBackendBase | None = None, n_jobs: int | None = None, verbose: bool | int = False
) -> Iterator[FusionReport]:
    """Train the networks that scikit-learn's parallel tasks fit inside this context together, with the same results.

    Parameters
    ----------
    backend : str or joblib backend, default=None
        A joblib backend, such as 'loky' or 'dask', to deal the tasks out to: each worker fuses its share. 'dask' needs
        a ``distributed.Client``, and others must be registered with joblib before. None trains in this process.
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
        If a parameter is of the wrong type, if joblib knows no such backend or it is not ready, or if ``n_jobs`` is
        given without ``backend``, or is 0.

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
    _check_parameters(backend, n_jobs, verbose)
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


def _check_parameters(backend: object, n_jobs: object, verbose: object) -> None:
    remedy = "Use the number of workers, or None for all of the backend's."
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral)):
        raise ValueError(f"n_jobs must be an int or None, got {n_jobs!r}. {remedy}")
    if n_jobs == 0:
        raise ValueError(f"n_jobs must not be 0, got 0. {remedy}")
    if backend is None and n_jobs is not None:
        raise ValueError(f"n_jobs must go with a backend, got {n_jobs} and backend=None. Use backend='loky'.")
    if not isinstance(verbose, bool | np.bool_) and not (isinstance(verbose, Integral) and int(verbose) >= 0):
        raise ValueError(f"verbose must be a bool or an int of at least 0, got {verbose!r}. Use True to print a line.")
    if backend is None or isinstance(backend, ParallelBackendBase):
        return
    names = sorted({*BACKENDS, *EXTERNAL_BACKENDS, *MAYBE_AVAILABLE_BACKENDS})
    if not isinstance(backend, str) or backend not in names:
        raise ValueError(
            f"backend must be None, one of {names} or an instance of a joblib backend, got {backend!r}. Use 'loky', or "
            "register yours with joblib.register_parallel_backend first; ray does so in ray.util.joblib.register_ray."
        )
    try:
        with joblib.parallel_config(backend=backend):
            pass
    except Exception as error:
        remedy = "Install distributed, and make a client first: distributed.Client()." if backend == "dask" else ""
        remedy = remedy or "Make it ready before, or use backend='loky'."
        raise ValueError(f"backend must be ready for use, got {backend!r}, which is not: {error}. {remedy}") from error


# Tasks change the filters in turn: the last block to end restores what the first one found.
_warning_filters = SharedContext(warnings.catch_warnings)


class _Cancelled(BaseException):
    """Ends a task whose result nobody waits for any more."""


class _Task:
    """A call that joblib submitted: a thread that runs while it has the turn. joblib calls `get` for the result."""

    def __init__(self, conductor: "_Conductor", call: Callable[[], Any], callback: Callable[[Any], Any], depth: int):
        self.conductor, self.call, self.callback, self.depth = conductor, call, callback, depth
        self.pid = os.getpid()
        self.thread: threading.Thread | None = None
        self.turn = _make_closed_lock()  # replaced for each thread
        self.back = _make_closed_lock()  # replaced by that of who resumes it
        self.waiter: _Task | None = None  # who needs the result
        self.run: TrainingRun | None = None  # what it has handed in
        self.warnings: warnings.catch_warnings[Any] | None = None  # the filters as it left them
        self.is_done = self.is_cancelled = self.has_turn = False
        self.result: Any = None
        self.error: BaseException | None = None  # what the call raised
        self.failure: BaseException | None = None  # what the training of the run raised

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result, and return or raise it."""
        self.conductor.wait_for(self)
        if self.error is not None:
            raise self.error
        return self.result

    def start(self) -> None:
        """Start the thread, which waits for its turn. If this raises, there is none."""
        if not has_space_for_thread():
            raise MemoryError("a thread would take too much of what the limits of this process leave")
        self.turn = turn = _make_closed_lock()
        self.thread = threading.Thread(target=self._begin, args=(turn,), name="scratchnn-task", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self.thread = None
            turn.release()  # for a thread that has begun all the same, which then ends
            raise

    @property
    def is_alive(self) -> bool:
        """Whether there is a thread that can have the turn."""
        return self.thread is not None and self.thread.is_alive()

    def run_here(self) -> None:
        """Make the call in this thread, where the networks train at once, each alone. Only an interrupt is raised."""
        token = trainer.set(lambda run: self.conductor.train([run], "no thread could be started"))
        outer, _current.conductor = getattr(_current, "conductor", None), self.conductor
        try:
            with use_threads(0, most=1), warnings.catch_warnings():
                self._make_call()
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            _current.conductor, _current.is_dispatching = outer, False
            trainer.reset(token)
            self.is_done = True

    def pass_turn(self) -> None:
        """Let others go on, until resumed. Raises _Cancelled if nobody waits for the result any more."""
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        self.has_turn = False
        self.back.release()
        self.turn.acquire()
        if self.is_cancelled:
            raise _Cancelled

    def _begin(self, turn: threading.Lock) -> None:
        turn.acquire()
        if threading.current_thread() is not self.thread:  # see start
            return
        try:
            self._live()
        except BaseException as error:
            self.error = error
        self.is_done = True
        self.has_turn = False
        self.back.release()

    def _live(self) -> None:
        _current.task, _current.conductor = self, self.conductor
        trainer.set(self._train)
        with use_threads(0, most=1):  # pools of threads for every task would slow down everybody's
            if self.is_cancelled:
                raise _Cancelled
            self._make_call()

    def _make_call(self) -> None:
        call = self.call
        del self.call  # joblib's holds the model that it fits, and joblib may hold this task until all have ended
        self.result = call()
        del call
        _current.is_dispatching = True
        self.callback(self.result)  # which may submit the next task

    def _train(self, run: TrainingRun) -> None:
        """Train the run in place, with those of other tasks if it can be."""
        if self.pid != os.getpid():  # forked from the task: nobody is there to train it
            train([run])
            return
        if _is_dispatching():
            self.conductor.train([run], "fitted while joblib's tasks were being made")
            return
        self.conductor.hand_in(self, run)
        self.pass_turn()
        self.run = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure


def _is_dispatching() -> bool:
    return getattr(_current, "is_dispatching", False)


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
        self.n_bytes = 0  # that those who wait take, as far as it can be told from their runs
        self.budget = 0  # what memory was left when nobody waited
        self.is_short = False  # of memory: some wait until others have ended
        self.lacks_threads = False

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
        self.n_bytes += _count_bytes(run)
        run.data = self._share(run.data)
        if run.validation is not None:
            run.validation = self._share(run.validation)
        task.run = run
        self.waiting.append(task)

    def train(self, runs: Sequence[TrainingRun], alone: str | None = None) -> None:
        """Train runs as one stack, in place, and report it."""
        start = time.perf_counter()
        with use_threads(
            0, most=1 if self.lacks_threads else self.n_threads
        ):  # OpenMP without threads ends the process
            train(runs)
        stack = Stack(len(runs), time.perf_counter() - start, runs[0].coeffs.sizes, len(runs[0].data.deps), alone)
        self.report.stacks.append(stack)
        if self.verbose:
            print(f"[fused_fits] {stack}", flush=True)

    def end(self, task: _Task) -> None:
        """Take note that a task has its result, or its error."""
        self.started.pop(task, None)
        if task.waiter is not None:
            self.ready.append(task.waiter)

    def cancel(self, tasks: Sequence[_Task]) -> None:
        """End the tasks: those that wait raise, those that have not started never do."""
        self._forget_lost()
        tasks = [task for task in tasks if task.pid == self.pid]
        for task in tasks:
            if task in self.unstarted:
                self.unstarted.remove(task)
            if not task.is_done:
                task.is_cancelled = True
                if task.thread is None:
                    task.error = _Cancelled()
                    task.is_done = True
        for task in tasks:
            while not task.is_done:
                self.waiting = [other for other in self.waiting if other is not task]
                self.ready = deque(other for other in self.ready if other is not task)
                self._resume(task)
        if not self.waiting:
            self.datas, self.n_bytes = {}, 0

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
        if self.ready:
            self._resume(self.ready.popleft())
        elif self.unstarted and (self._has_room() or not self.waiting):
            self._start(self.unstarted.popleft())
        elif self.waiting:
            self._train_waiting()
        else:
            raise RuntimeError("no task of fused_fits can go on: this is a bug in scratchnn, please report it")

    def _has_room(self) -> bool:
        """Return whether another task may begin: those that wait must leave enough for it, and for the training."""
        n_free = _count_memory()
        if not self.waiting:
            self.budget = n_free
        n_held = max(self.n_bytes, self.budget - n_free)  # the second is what tasks really hold, where it can be seen
        return len(self.started) < MAX_TASKS and not self.is_short and n_held < self.budget / 4

    def _start(self, task: _Task) -> None:
        """Start a task. Where there can be no thread, others end first, or the task runs in this thread."""
        try:
            task.start()
        except (RuntimeError, MemoryError):
            self.lacks_threads = True
            if self.waiting:
                self.unstarted.appendleft(task)
                self._train_waiting()
            else:
                try:
                    task.run_here()
                finally:
                    self.end(task)
            return
        self.started[task] = None
        self._resume(task)

    def _resume(self, task: _Task) -> None:
        """Give a task the turn until it passes it back. Each has warning filters of its own meanwhile."""
        if task.is_done:
            return
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
                    is_alive = task.is_alive
                    if not back.acquire(timeout=1.0 if is_alive else 0.0) and not is_alive:
                        _bury(task)
                except BaseException as error:  # Ctrl-C: the turn must come back first
                    interrupt = error
        if task.is_done:
            self.end(task)
            if task.thread is not None and task.is_alive:
                task.thread.join(1.0)  # so that the next finds its memory and its place free
        if interrupt is not None:
            raise interrupt

    def _train_waiting(self) -> None:
        tasks, self.waiting, self.datas, self.n_bytes = self.waiting, [], {}, 0
        untrained = {id(task.run): task for task in tasks}
        try:
            for stack in make_stacks([cast(TrainingRun, task.run) for task in tasks]):
                self._train_stack([untrained[id(run)] for run in stack], explain_alone(stack[0]), len(tasks) > 1)
                for run in stack:
                    del untrained[id(run)]
        except BaseException as error:  # what was not trained must not pass for it
            for task in untrained.values():
                task.failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            short = [task for task in tasks if task.failure is not None and is_out_of_memory(task.failure)]
            # They are tried again when those that could be trained have ended, or when one of them has failed.
            self.waiting = short[len(short) == len(tasks) :]
            self.is_short = bool(self.waiting)
            for task in self.waiting:
                task.failure = None
            self.ready.extend(task for task in tasks if task not in self.waiting)

    def _train_stack(self, tasks: Sequence[_Task], alone: str | None, is_tried_again: bool) -> None:
        """Train runs as one stack, or, if that fails, in parts, so that those at fault fail alone."""
        failure = self._try_to_train([cast(TrainingRun, task.run) for task in tasks], alone, is_tried_again)
        if failure is None or len(tasks) == 1:
            tasks[0].failure = failure
            return
        size = len(tasks) // 2 if is_out_of_memory(failure) else 1
        for start in range(0, len(tasks), size):
            part = tasks[start : start + size]
            self._train_stack(part, "its stack failed" if len(part) == 1 else None, is_tried_again)

    def _try_to_train(self, runs: Sequence[TrainingRun], alone: str | None, is_tried_again: bool) -> Exception | None:
        """Train runs as one stack, and return None, or what it raised, which then leaves the runs as they were."""
        before: list[_Snapshot] = []
        try:
            if is_tried_again:
                before = [_Snapshot(run) for run in runs]
            self.train(runs, alone)
            return None
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they keep the memory that the next to be tried need
            failure = error
        for snapshot in before:
            snapshot.restore()
        return failure

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
            for name in ("solver_state", "history", "best_flat", "n_epochs", "warning", "error")
        }

    def restore(self) -> None:
        """Undo, in place, what training did."""
        self.run.coeffs.flat.copy_(self.flat)
        self.run.generator.set_state(self.drawn)
        for name, value in self.state.items():
            setattr(self.run, name, value)


def _count_bytes(run: TrainingRun) -> int:
    """Return about how many bytes of the CPU's memory a run that waits takes, and then its training."""
    datas = [data for data in (run.data, run.validation) if data is not None]
    tensors = [tensor for data in datas for tensor in (data.indeps, data.deps, data.weights)]
    n_bytes = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.is_cpu)
    # The task has its rows in double precision too, perhaps once more scaled, and a stack may copy what it trains on.
    # Of the coefficients there are those of run, snapshot and stack, their gradients, and moments with copies.
    return 5 * n_bytes + (8 * run.coeffs.flat.nbytes if run.coeffs.flat.is_cpu else 0)


def _bury(task: _Task) -> None:
    """Let a task fail whose thread has ended without a word."""
    task.error = RuntimeError(
        "The thread of a task of fused_fits ended before the task, as it may when memory runs out. Free memory, or run "
        "the task outside of fused_fits."
    )
    task.is_done = True
    task.has_turn = False


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
        return _current.conductor if self._conductor is None else self._conductor

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way; 1 where none can wait for the others."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return 1 if _is_dispatching() else MAX_TASKS

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
        _current.is_dispatching = value


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

    def __init__(
        self,
        name: str | ParallelBackendBase = "loky",
        n_jobs: int = -1,
        report: FusionReport | None = None,
        **kwargs: Any,
    ) -> None:
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
