"""Starts and resumes the tasks of a thread, and trains the queued runs when no task can go on without its network."""

import asyncio
import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from greenlet import getcurrent, greenlet

from ..training import TrainingRun, train, trainer
from .pool import RunPool
from .tasks import Cancelled, ParallelCall, Task, TaskTimeoutError

CANNOT_WAIT = "it was called where the task cannot wait: in a thread, an event loop or an iterator of calls"


class Hub:
    """The tasks of one thread.

    The greenlet that waits for results outside of tasks chooses what is next: it resumes a task that has what it waits
    for, or else starts a task, or else trains. A task runs until it ends, queues a run, or waits for tasks of its own.

    Parameters
    ----------
    pool : RunPool
        Trains the runs.
    """

    def __init__(self, pool: RunPool) -> None:
        self.pool = pool
        self.thread = threading.get_ident()
        self.of_process = threading.current_thread() is threading.main_thread()
        self.greenlet: greenlet | None = None  # that waits outside of tasks
        self.pid, self.loop = os.getpid(), find_loop()
        self.current: Task | None = None  # the task that runs
        self.is_busy = False  # with joblib's iterator of calls, or with training: no task may wait
        self.unstarted: list[tuple[int, int, Task]] = []  # a heap: tasks of inner calls come first
        self.numbers = count()
        self.started: dict[Task, None] = {}
        self.ready: deque[Task] = deque()  # tasks that can be resumed
        self.queued: list[Task] = []  # tasks whose runs are in the pool
        self.timed: list[ParallelCall] = []  # calls by tasks that wait with a timeout
        self.n_resumed = 0  # a measure of progress
        self.n_ended = 0  # fits of the tasks that have ended
        self.n_lost = 0.0  # how many of them were not trained, as their tasks were cancelled

    def can_wait(self) -> bool:
        """Return whether the code that runs may wait for tasks, or for training."""
        here = self.greenlet if self.current is None else self.current.greenlet
        if here is None:
            return True
        is_own = getcurrent() is here and self.pid == os.getpid() and find_loop() is self.loop
        return is_own and not self.is_busy and not (self.current is not None and self.current.is_cancelled)

    def begin_call(self) -> ParallelCall:
        """Return a parallel call, made by the code that runs, whose tasks joblib will submit."""
        if self.current is None:
            self.greenlet, self.pid, self.loop = getcurrent(), os.getpid(), find_loop()
        self.is_busy = True
        return ParallelCall(self.current, self.of_process)

    def end_dispatch(self) -> None:
        """Note that joblib has submitted the first tasks of a call."""
        self.is_busy = False

    def end_call(self, call: ParallelCall) -> None:
        """Cancel what has not ended, and forget the call."""
        self.is_busy = False
        self.cancel(call)
        call.state.advance()
        if call.owner is None:
            self.greenlet = None

    def submit(self, task: Task) -> None:
        """Let a task wait for its start."""
        heapq.heappush(self.unstarted, (-task.call.depth, next(self.numbers), task))

    def wait_for(self, task: Task, timeout: float | None = None) -> None:
        """Let tasks run until this one has ended. Raises the first error of its call, or TaskTimeoutError."""
        call = task.call
        call.awaited = [task]
        call.deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            self._call_back(call)
            if call.error is not None:
                raise call.error
            if task.is_done:
                return
            if time.monotonic() > call.deadline:
                raise TaskTimeoutError(
                    f"A task of fused_fits took longer than timeout={timeout} s. Raise it, or leave it None."
                )
            self._wait(call)

    def cancel(self, call: ParallelCall) -> None:
        """End the tasks of a call: those that wait raise Cancelled, and the unstarted never start."""
        call.awaited = [task for task in call.tasks if not task.is_done]
        call.is_cancelling, call.deadline = True, float("inf")
        for task in call.awaited:
            task.is_cancelled = task.must_raise = True
            if task.greenlet is None or task.greenlet.dead:
                self._end(task)
            else:
                self._make_ready(task, first=True)
        cancelled = set(call.awaited)
        self.queued = [task for task in self.queued if task not in cancelled]
        self.pool.remove([task.run for task in call.awaited])
        while not call.is_answered:
            self._wait(call)

    def train(self, task: Task, run: TrainingRun) -> None:
        """Train a task's run, in place, with those of other tasks if the task can wait."""
        if task is not self.current or not self.can_wait():
            if task.is_cancelled:
                raise Cancelled
            self.pool.train_alone(run, CANNOT_WAIT) if self.thread == threading.get_ident() else train([run])
            return
        task.n_fits += 1
        if self.pool.trains_alone(run):
            with self._busy():
                self.pool.train_alone(run)
            return
        task.run = run
        entry = self.pool.add(run)
        self.queued.append(task)
        self._leave()
        task.run = None
        if entry.failure is not None:
            failure, entry.failure = entry.failure, None
            raise failure

    def count_fits(self) -> tuple[float, int]:
        """Return how many fits are done, with parts of those in training, and how many are known.

        A task counts as one fit until it has queued more.
        """
        started = list(self.started)
        n_done = self.n_ended - self.n_lost + sum(task.count_trained() for task in started)
        return n_done, self.n_ended + len(self.unstarted) + sum(max(1, task.n_fits) for task in started)

    def _wait(self, call: ParallelCall) -> None:
        """Let tasks run: until the call is answered if a task has made it, or else for one step."""
        if call.owner is None:
            self._advance()
            return
        if call.deadline < float("inf"):
            self.timed.append(call)
        try:
            self._leave()
        finally:
            self.timed = [other for other in self.timed if other is not call]

    def _leave(self) -> None:
        """Leave the task that runs, until it is resumed."""
        assert self.greenlet is not None
        self.greenlet.switch()

    def _advance(self) -> None:
        """Resume a task, start one, or train."""
        now = time.monotonic() if self.timed else 0.0
        for call in self.timed:
            if now > call.deadline and call.owner is not None:
                self._make_ready(call.owner, first=True)
        if self.ready:
            task = self.ready.popleft()
            task.is_ready = False
            self._resume(task)
        elif self.unstarted and (not self.queued or self.pool.has_room()):
            task = heapq.heappop(self.unstarted)[-1]
            if not task.is_done:
                self._start(task)
        elif self.queued:
            self._train_queued()
        else:
            raise RuntimeError("no task of fused_fits can run: this is a bug in scratchnn, please report it")

    def _start(self, task: Task) -> None:
        task.greenlet = greenlet(task.execute, self.greenlet)
        context = task.call.context.copy()
        context.run(trainer.set, partial(self.train, task))
        task.greenlet.gr_context = context
        self.started[task] = None
        self._resume(task)

    def _resume(self, task: Task) -> None:
        """Let a task run until it leaves."""
        assert task.greenlet is not None
        must_raise, task.must_raise = task.must_raise, False
        self.n_resumed += 1
        try:
            with task.state.active():
                self.current = task
                try:
                    task.greenlet.throw(Cancelled) if must_raise else task.greenlet.switch()
                finally:
                    self.current = None
        finally:
            if task.greenlet.dead:
                self._end(task)

    def _end(self, task: Task) -> None:
        """Note the end of a task, and resume the task that waits for it."""
        call = task.call
        if task.error is None and task.is_cancelled:
            task.error = Cancelled()
        task.is_done, task.greenlet, task.function = True, None, None
        task.state.end()
        self.started.pop(task, None)
        self.n_ended += max(1, task.n_fits)
        self.n_lost += max(1, task.n_fits) - task.count_trained() if task.is_cancelled else 0
        if task.error is None:
            call.ended.append(task)
        elif not call.is_cancelling:
            call.error = call.error or task.error
        if call.owner is not None and call.is_answered:
            self._make_ready(call.owner, first=call.error is not None)

    def _make_ready(self, task: Task, first: bool) -> None:
        if task is self.current or task.is_ready:
            return
        task.is_ready = True
        self.ready.appendleft(task) if first else self.ready.append(task)

    def _train_queued(self) -> None:
        tasks, self.queued = self.queued, []
        with self._busy():
            self.pool.train_all()
        for task in tasks:
            self._make_ready(task, first=False)

    def _call_back(self, call: ParallelCall) -> None:
        """Tell joblib of the tasks that have ended: it submits the next."""
        while call.ended:
            task = call.ended.popleft()
            with self._busy():
                task.callback(task.result)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False


class Fusion:
    """What a `fused_fits` context has: a hub for each thread that uses it.

    Parameters
    ----------
    make_pool : callable
        Returns a new pool for a hub.
    """

    def __init__(self, make_pool: Callable[[], RunPool]) -> None:
        self.make_pool = make_pool
        self.hubs: list[Hub] = []
        self.local = threading.local()

    def get_hub(self) -> Hub:
        """Return the hub of the calling thread."""
        hub: Hub | None = getattr(self.local, "hub", None)
        if hub is None:
            hub = self.local.hub = Hub(self.make_pool())
            self.hubs.append(hub)
        return hub


def find_loop() -> Any:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
