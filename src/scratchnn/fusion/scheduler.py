"""Whose turn it is: tasks are threads, of which one at a time runs.

All methods of a `Scheduler` are called by the thread that has the turn, so that no lock is needed.
"""

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..training import TrainingRun, train, trainer
from ..training.threads import SharedContext, find_most_threads, use_threads
from .memory import has_space_for_thread
from .pool import RunPool, WaitingRun
from .report import FusionReport


class CurrentThread(threading.local):
    """What the thread that asks does for `fused_fits`."""

    task: "Task | None" = None
    scheduler: "Scheduler | None" = None
    is_dispatching = False  # whether joblib is taking calls, and holds its lock


current = CurrentThread()

# Tasks change the filters in turn: the last block to end restores what the first one found.
warning_filters = SharedContext(warnings.catch_warnings)


class Cancelled(BaseException):
    """Ends a task whose result nobody waits for any more."""


class Task:
    """A call that joblib submitted: a thread that runs while it has the turn. joblib calls `get` for the result.

    Parameters
    ----------
    scheduler : Scheduler
        Whom the task passes the turn back to.
    call : callable
        The call, without arguments.
    callback : callable
        What joblib wants to be called with the result.
    depth : int
        How many other tasks this one is inside.
    """

    def __init__(self, scheduler: "Scheduler", call: Callable[[], Any], callback: Callable[[Any], Any], depth: int):
        self.scheduler, self.call, self.callback, self.depth = scheduler, call, callback, depth
        self.pid = os.getpid()
        self.thread: threading.Thread | None = None
        self.turn = _make_closed_lock()  # replaced for each thread
        self.back = _make_closed_lock()  # replaced each time that the task is resumed
        self.waiter: Task | None = None  # who needs the result
        self.entry: WaitingRun | None = None  # what it has handed in
        self.warnings: warnings.catch_warnings[Any] | None = None  # the filters as it left them
        self.is_done = self.is_cancelled = self.has_turn = False
        self.result: Any = None
        self.error: BaseException | None = None  # what the call raised

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result, and return or raise it."""
        self.scheduler.wait_for(self)
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
        token = trainer.set(lambda run: self.scheduler.pool.train([run], "no thread could be started"))
        outer, current.scheduler = current.scheduler, self.scheduler
        try:
            with use_threads(0, most=1), warnings.catch_warnings():
                self._make_call()
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            current.scheduler, current.is_dispatching = outer, False
            trainer.reset(token)
            self.is_done = True

    def resume(self) -> None:
        """Give the task the turn until it passes it back. An interrupt meanwhile is raised then."""
        back = self.back = _make_closed_lock()
        interrupt: BaseException | None = None
        with warnings.catch_warnings():  # each task has filters of its own
            if self.warnings is not None:
                self.warnings.__exit__(None, None, None)
            is_given, self.has_turn = False, True
            while self.has_turn:
                try:
                    if not is_given:
                        is_given = True
                        self.turn.release()
                    is_alive = self.is_alive
                    if not back.acquire(timeout=1.0 if is_alive else 0.0) and not is_alive:
                        self._fail_without_thread()
                except BaseException as error:  # Ctrl-C: the turn must come back first
                    interrupt = error
        if interrupt is not None:
            raise interrupt

    def pass_turn(self) -> None:
        """Let others go on, until resumed. Raises Cancelled if nobody waits for the result any more."""
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        self.has_turn = False
        self.back.release()
        self.turn.acquire()
        if self.is_cancelled:
            raise Cancelled

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
        current.task, current.scheduler = self, self.scheduler
        trainer.set(self._train)
        with use_threads(0, most=1):  # pools of threads for every task would slow down everybody's
            if self.is_cancelled:
                raise Cancelled
            self._make_call()

    def _make_call(self) -> None:
        call = self.call
        del self.call  # joblib's holds the model that it fits, and joblib may hold this task until all have ended
        self.result = call()
        del call
        current.is_dispatching = True
        self.callback(self.result)  # which may submit the next task

    def _train(self, run: TrainingRun) -> None:
        """Train the run in place, with those of other tasks if it can be."""
        if self.pid != os.getpid():  # forked from the task: nobody is there to train it
            train([run])
            return
        if current.is_dispatching:
            self.scheduler.pool.train([run], "fitted while joblib's tasks were being made")
            return
        entry = self.scheduler.hand_in(self, run)
        self.pass_turn()
        self.entry = None
        if entry.failure is not None:
            failure, entry.failure = entry.failure, None
            raise failure

    def _fail_without_thread(self) -> None:
        self.error = RuntimeError(
            "The thread of a task of fused_fits ended before the task, as it may when memory runs out. Free memory, or "
            "run the task outside of fused_fits."
        )
        self.is_done = True
        self.has_turn = False


def _make_closed_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Scheduler:
    """Says whose turn it is, and has the `RunPool` train what waits when no task can go on.

    Parameters
    ----------
    report : FusionReport
        Gets each stack that has been trained.
    verbose : bool
        Whether to print a line for each stack.
    """

    MAX_TASKS = 256  # that are under way at the same time

    def __init__(self, report: FusionReport, verbose: bool) -> None:
        outer = current.task
        n_threads = find_most_threads() if outer is None else outer.scheduler.pool.n_threads
        self.pool: RunPool = RunPool(report, verbose, n_threads)
        self.pid = os.getpid()
        self.unstarted: deque[Task] = deque()
        self.started: dict[Task, None] = {}  # in order
        self.ready: deque[Task] = deque()
        self.waiting: list[Task] = []  # for their networks

    def submit(self, task: Task) -> None:
        """Let a task wait for its start. Those of inner calls come first, so that outer ones can end."""
        self._forget_lost()
        position = next((k for k, other in enumerate(self.unstarted) if other.depth < task.depth), len(self.unstarted))
        self.unstarted.insert(position, task)

    def wait_for(self, task: Task) -> None:
        """Let others go on until the task has ended."""
        self._forget_lost()
        mine = self._get_own_task()
        while mine is not None and not task.is_done:
            task.waiter = mine
            mine.pass_turn()
        while not task.is_done:
            self._advance()

    def hand_in(self, task: Task, run: TrainingRun) -> WaitingRun:
        """Put a task's run among those to train next."""
        task.entry = self.pool.add(run)
        self.waiting.append(task)
        return task.entry

    def end(self, task: Task) -> None:
        """Let go on who needs the result, or the error, of a task."""
        self.started.pop(task, None)
        if task.waiter is not None:
            self.ready.append(task.waiter)

    def cancel(self, tasks: Sequence[Task]) -> None:
        """End the tasks: those that wait raise, those that have not started never do."""
        self._forget_lost()
        tasks = [task for task in tasks if task.pid == self.pid]
        for task in tasks:
            if task in self.unstarted:
                self.unstarted.remove(task)
            if not task.is_done:
                task.is_cancelled = True
                if task.thread is None:
                    task.error = Cancelled()
                    task.is_done = True
        for task in tasks:
            while not task.is_done:
                self._withdraw(task)
                self._resume(task)

    def close(self) -> None:
        """End what has not ended."""
        self.cancel([*self.unstarted, *self.started])

    def _withdraw(self, task: Task) -> None:
        """Forget that a task waits, or is ready."""
        self.ready = deque(other for other in self.ready if other is not task)
        self.waiting = [other for other in self.waiting if other is not task]
        if task.entry is not None:
            self.pool.remove(task.entry)

    def _get_own_task(self) -> Task | None:
        task = current.task
        return task if task is not None and task.scheduler is self and task.pid == self.pid else None

    def _forget_lost(self) -> None:
        """Forget, in a forked process, the tasks that were under way: their threads are not there."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.started, self.ready, self.waiting = {}, deque(), []
            self.pool.clear()

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
        return self.pool.has_room() and len(self.started) < self.MAX_TASKS

    def _start(self, task: Task) -> None:
        """Start a task. Where there can be no thread, others end first, or the task runs in this thread."""
        try:
            task.start()
        except (RuntimeError, MemoryError):
            self.pool.n_threads = 1  # OpenMP ends the process where it can start no thread
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

    def _resume(self, task: Task) -> None:
        """Give a task the turn until it passes it back."""
        if task.is_done:
            return
        try:
            task.resume()
        finally:
            if task.is_done:
                self.end(task)
                if task.thread is not None and task.is_alive:
                    task.thread.join(1.0)  # so that the next finds its memory and its place free

    def _train_waiting(self) -> None:
        """Have all runs trained. The tasks whose runs do not wait any more are ready."""
        tasks, self.waiting = self.waiting, []  # a scorer that is called meanwhile may run tasks of its own
        try:
            self.pool.train_waiting()
        finally:
            short = [task for task in tasks if task.entry in self.pool.waiting]
            self.waiting += short
            self.ready.extend(task for task in tasks if task not in short)
