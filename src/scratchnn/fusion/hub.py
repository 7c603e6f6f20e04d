"""Starts and resumes the tasks of a thread, and trains the queued runs when all tasks wait for their networks."""

import asyncio
import math
import os
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from ..exceptions import TaskTimeoutError
from ..training import TrainingRun, count_models, explain_alone, is_interrupt, train, trainer
from ..training.threads import found_threads, one_thread
from .pool import RunPool
from .process_state import StateSwitch, draw_if, peek_seeds
from .report import FusionReport, TrainedStack
from .tasks import Cancelled, ParallelCall, Task, calc_share

TOO_LARGE = "a network of this size trains no faster in a stack"
CANNOT_WAIT = "called where its task cannot wait: in a thread, an event loop, an iterator of calls, or a scorer"


class Hub:
    """The tasks of one thread.

    The greenlet that waits for results outside of tasks schedules them: it resumes a task whose result is ready,
    otherwise starts one, and otherwise trains. A task runs until it ends, queues a run, or waits for tasks of its own.
    """

    def __init__(self, pool: RunPool) -> None:
        self.pool = pool
        self.thread = threading.get_ident()
        self.states = StateSwitch()
        self.seeds: Sequence[int] = ()  # of the tasks' generators; if empty, drawn from the process's generators
        self.used: Sequence[bool] = ()  # which generators the tasks of the last call have used
        self.greenlet: Any = None  # the one that waits outside of tasks
        self.current: Task | None = None  # the task that runs
        self.is_busy = False  # with joblib's iterator of calls, or with training: no task may wait
        self.unstarted: list[Task] = []  # those of inner calls first
        self.started: dict[Task, None] = {}
        self.ready: deque[Task] = deque()  # tasks that can be resumed
        self.timed: list[ParallelCall] = []  # calls by tasks that wait with a timeout
        self.n_resumed = 0  # a measure of progress
        self.n_known, self.n_done = 0, 0.0  # fits of ended tasks: all, and the trained ones

    def can_wait(self) -> bool:
        """Return whether the code that runs may wait for tasks, or for training."""
        here = self.greenlet if self.current is None else self.current.greenlet
        if here is None:
            return True
        is_here = getcurrent() is here and self.pid == os.getpid() and asyncio._get_running_loop() is self.loop
        return is_here and not self.is_busy and not (self.current is not None and self.current.is_cancelled)

    def begin_call(self) -> ParallelCall:
        """Return a parallel call, made by the code that runs, whose tasks joblib will submit."""
        owner = self.current
        if owner is None:
            self.greenlet, self.pid, self.loop = getcurrent(), os.getpid(), asyncio._get_running_loop()
        self.is_busy = True
        state = self.states.caller if owner is None else owner.state
        seeds = self.seeds if self.seeds and owner is None else peek_seeds()
        return ParallelCall(owner, state, seeds, self.wait_for)

    def end_call(self, call: ParallelCall) -> None:
        """Cancel the tasks that have not ended, and forget the call."""
        self.is_busy = False
        self.cancel(call)
        draw_if(call.used)
        if call.owner is None:
            self.greenlet, self.used = None, call.used

    def submit(self, task: Task) -> Task:
        """Queue a task to be started, and return it."""
        insort(self.unstarted, task, key=lambda each: -each.call.depth)
        return task

    def wait_for(self, task: Task, timeout: float | None = None) -> None:
        """Run tasks until this one has ended. Raises TaskTimeoutError, or the interrupt of its call."""
        call = task.call
        call.awaited = [task]
        call.deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._wait(call)
        while call.ended:  # joblib submits the next
            ended = call.ended.popleft()
            with self._busy():
                ended.callback(ended.result)
        if call.interrupt is not None:
            raise call.interrupt
        if time.monotonic() > call.deadline:
            raise TaskTimeoutError(
                f"A task of fused_fits took longer than timeout={timeout} s. Raise timeout, or set it None."
            )

    def cancel(self, call: ParallelCall) -> None:
        """Cancel the tasks of a call: waiting tasks raise Cancelled, and unstarted tasks never start."""
        call.awaited = [task for task in call.tasks if not task.state.is_over]
        call.interrupt, call.deadline = None, math.inf
        self.pool.remove(call.awaited)
        for task in call.awaited:
            task.is_cancelled = task.must_raise = True
            if task.greenlet:
                self._make_ready(task, first=True)
            else:
                self._end(task)
        self.unstarted = [task for task in self.unstarted if not task.state.is_over]
        self._wait(call)

    def train(self, task: Task, run: TrainingRun) -> None:
        """Train a task's run, in place, with those of other tasks if the task can wait."""
        if task.is_cancelled:
            raise Cancelled
        if task is not self.current or not self.can_wait():
            self.pool.train([run], CANNOT_WAIT)
            return
        task.run = run
        task.n_fits += 1
        if explain_alone(run) is not None or count_models(run) == 1:
            with self._busy():
                self.pool.train([run], TOO_LARGE)
        else:
            self.pool.add(task, run)
            with found_threads():
                self.greenlet.switch()
        task.run = None
        failure, task.failure = task.failure, None
        if failure is not None:
            raise failure

    def count_fits(self) -> tuple[float, int]:
        """Return the number of finished fits, with fractions of fits in training, and the number of known fits.

        A task counts as one fit until it has queued more.
        """
        started = list(self.started)
        n_known = self.n_known + len(self.unstarted) + sum(max(1, task.n_fits) for task in started)
        return self.n_done + sum(task.count_trained() for task in started), n_known

    def _wait(self, call: ParallelCall) -> None:
        """Run tasks until the call is answered, or until its deadline."""
        if call.owner is not None:
            if not call.is_answered:
                self.timed += [call] if call.deadline < math.inf else []
                self.greenlet.switch()
            return
        try:
            # Ready tasks run without a return to the caller, whose state would have to be restored.
            while not call.is_answered or (self.ready and call.interrupt is None):
                if time.monotonic() > call.deadline:
                    return
                self._advance()
        finally:
            self.current = None  # also after Ctrl-C between the lines of `_resume`
            self.states.use(self.states.caller)

    def _advance(self) -> None:
        """Resume a task, start one, or train."""
        for call in self.timed:
            if time.monotonic() > call.deadline and call.owner is not None:
                self._make_ready(call.owner, first=True)
        if self.ready:
            self._resume(self.ready.popleft())
        elif self.unstarted and self.pool.has_room():
            task = self.unstarted.pop(0)
            if not task.call.has_failed:
                task.greenlet = greenlet(task.execute, self.greenlet)
                task.greenlet.gr_context = context = task.call.context.copy()
                context.run(trainer.set, partial(self.train, task))
                self.started[task] = None
                self._resume(task)
        elif self.pool.queue:
            self.states.use(self.states.caller)
            with self._busy(), one_thread():
                trained = self.pool.train_all()
            for task in trained:
                self._make_ready(task, first=False)
        else:
            raise RuntimeError("no task of fused_fits can run: this is a bug in scratchnn, please report it")

    def _resume(self, task: Task) -> None:
        """Run a task until it waits or ends."""
        must_raise, task.must_raise = task.must_raise, False
        self.n_resumed += 1
        self.timed = [call for call in self.timed if call.owner is not task]
        self.states.use(task.state)
        try:
            with task.state.own_grad_modes():
                self.current = task
                task.greenlet.throw(Cancelled) if must_raise else task.greenlet.switch()
        finally:
            self.current = None
            if task.greenlet.dead:
                self._end(task)

    def _end(self, task: Task) -> None:
        """Record the end of a task, and resume the task that waits for it."""
        call = task.call
        if task.is_cancelled:
            task.error = task.error or Cancelled()
        elif task.state.seeds:
            call.used = [a or b for a, b in zip(call.used, task.state.find_used(), strict=True)]
        task.state.is_over = True
        task.greenlet = task.function = None
        self.started.pop(task, None)
        self.n_known += max(1, task.n_fits)
        self.n_done += task.count_trained() if task.is_cancelled else max(1, task.n_fits)
        if task.error is None:
            call.ended.append(task)
        else:
            call.has_failed = True
            if not task.is_cancelled and is_interrupt(task.error):
                call.interrupt = task.error
        if call.owner is not None and call.is_answered:
            self._make_ready(call.owner, first=call.interrupt is not None)

    def _make_ready(self, task: Task, first: bool) -> None:
        if task is not self.current and task not in self.ready:
            self.ready.appendleft(task) if first else self.ready.append(task)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False


class Fusion:
    """The state of a `fused_fits` context: a report, a hub for each thread, and the fits that train elsewhere.

    ``log`` prints each stack.
    """

    def __init__(self, log: Callable[[object], None] | None = None) -> None:
        self.report, self.log = FusionReport(), log
        self.hubs: list[Hub] = []
        self.local = threading.local()
        self.outside: list[TrainingRun] = []  # that now train outside of tasks
        self.dispatched: list[tuple[Any, list[int]]] = []  # the workers' `joblib.Parallel`, and the sizes of its chunks

    def get_hub(self) -> Hub:
        """Return the hub of the calling thread."""
        hub: Hub | None = getattr(self.local, "hub", None)
        if hub is None:
            hub = self.local.hub = Hub(RunPool(self.note))
            self.hubs.append(hub)
        return hub

    def note(self, stack: TrainedStack) -> None:
        """Add a trained stack to the report."""
        self.report.stacks.append(stack)
        if self.log is not None:
            self.log(stack)

    def train_outside(self, outer: Callable[[TrainingRun], None] | None, run: TrainingRun) -> None:
        """Train a run outside of tasks, such as the final one of a search, in place, as without this context."""
        self.outside.append(run)
        try:
            train([run]) if outer is None else outer(run)
        finally:
            self.outside.remove(run)
            self.report.n_outside += 1

    def count_fits(self) -> tuple[float, int]:
        """Return the number of finished fits, with fractions of fits in training, and the number of known fits."""
        outside = list(self.outside)
        pairs = [(self.report.n_outside + sum(map(calc_share, outside)), self.report.n_outside + len(outside))]
        pairs += [hub.count_fits() for hub in list(self.hubs)]
        for parallel, sizes in list(self.dispatched):  # calls count when their chunk is done
            n_chunks = getattr(parallel, "n_completed_tasks", 0)  # an attribute once it has started
            pairs.append((sum(sizes[:n_chunks]), sum(sizes)))
        return sum(n_done for n_done, _ in pairs), sum(n_known for _, n_known in pairs)
