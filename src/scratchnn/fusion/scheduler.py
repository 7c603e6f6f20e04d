"""What is to be done next: tasks take turns, and train their networks together when none can go on.

Tasks, the conductor and threads that wait for results change the lists of a `Scheduler`, each while it holds the lock.
Whoever has the lock neither waits nor calls what is not of this package.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ..training import TrainingRun
from ..training.threads import SharedContext, find_most_threads
from .conductor import Conductor
from .pool import RunPool, WaitingRun
from .progress import FitCounter
from .report import FusionReport
from .task import Cancelled, Task, current

# Tasks change the filters in turn: the last block to end restores what the first one found.
warning_filters = SharedContext(warnings.catch_warnings)


class TaskTimeoutError(multiprocessing.TimeoutError, TimeoutError):
    """What `joblib.Parallel` raises after ``timeout``: joblib's threads raise the first, its processes the second."""


class Scheduler:
    """The tasks of a `fused_fits`, by what they wait for.

    Parameters
    ----------
    report : FusionReport
        Gets each stack that has been trained.
    say : callable, default=None
        Prints a line for each stack, if there is one.
    """

    MAX_TASKS = 256  # that are under way at the same time,
    GRACE = 0.5  # seconds that cancelled tasks get to end, before they are left to themselves

    def __init__(self, report: FusionReport, say: Callable[[object], None] | None = None) -> None:
        outer = current.task
        n_threads = find_most_threads() if outer is None else outer.scheduler.pool.n_threads
        self.pool: RunPool = RunPool(report, say, n_threads)
        self.counters: list[FitCounter] = [self]  # what a bar asks: this, and what else has fits of the same calls
        self._clear()

    @classmethod
    def find_max_tasks(cls) -> int:
        """Return how many tasks may be under way at the same time."""
        return cls.MAX_TASKS

    def _clear(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.unstarted: deque[Task] = deque()
        self.started: dict[Task, None] = {}  # in order, until they have ended
        self.ready: deque[Task] = deque()
        self.waiting: list[Task] = []  # for the next training
        self.training: list[Task] = []  # whose runs are being trained
        self.running: dict[Task, None] = {}  # that have got a turn and not passed it: several if the others are stuck
        self.returned: deque[Task] = deque()  # whose calls have ended
        self.n_ended = 0  # fits of the tasks that have ended
        self.n_lost = 0.0  # how many of them were not trained, as their tasks were cancelled
        self.conductor = Conductor(self)

    def submit(self, task: Task) -> None:
        """Let a task wait for its start. Those of inner calls come first, so that outer ones can end."""
        self._forget_lost()
        with self.lock:
            depths = [other.depth for other in self.unstarted]
            position = next((k for k, depth in enumerate(depths) if depth < task.depth), len(depths))
            self.unstarted.insert(position, task)

    def wait_for(self, task: Task, timeout: float | None = None) -> None:
        """Let tasks go on until this one has ended. Raises TaskTimeoutError after ``timeout`` seconds."""
        self._forget_lost()
        if not self._wait([task], timeout):
            raise TaskTimeoutError(
                f"A task of fused_fits took longer than timeout={timeout} s. Raise it, or leave it None."
            )

    def hand_in(self, task: Task, run: TrainingRun) -> WaitingRun:
        """Have a task's run trained with the next, and return when that is done."""
        with self.lock:
            if task.is_cancelled:
                raise Cancelled
            entry = task.entry = self.pool.add(run)
            task.n_fits += 1
            self.waiting.append(task)
            self._park(task)
        task.wait_for_turn()
        return entry

    def ask_for_turn(self, task: Task) -> None:
        """Let a task go on that has waited for another in vain."""
        with self.lock:
            self._make_ready(task)
            self.conductor.bell.ring()

    def finish(self, task: Task) -> None:
        """Take the turn back from a task whose call has ended."""
        with self.lock:
            self.conductor.note_settings(task)
            self.running.pop(task, None)
            if not task.is_done:
                self.returned.append(task)
            self.conductor.bell.ring()

    def put_back(self, task: Task) -> None:
        """Let a task wait for its start once more."""
        with self.lock:
            self.started.pop(task, None)
            self.unstarted.appendleft(task)

    def end(self, task: Task) -> None:
        """Let go on who needs the result, or the error, of a task."""
        with self.lock:
            self.started.pop(task, None)
            n_fits = max(1, task.n_fits)
            self.n_ended += n_fits
            self.n_lost += n_fits - task.count_trained() if task.is_cancelled else 0
            if task.waiter is not None:
                self._make_ready(task.waiter)
            self.conductor.ring_those_who_wait()

    def cancel(self, tasks: Sequence[Task]) -> None:
        """End the tasks and those inside them: those that wait raise, the unstarted never start, some must be left."""
        self._forget_lost()
        with self.lock:
            found = {task: None for task in tasks if task.pid == self.pid}
            for task in (*self.started, *self.unstarted):  # outer ones come first
                if task.parallel_call.outer in found:
                    found[task] = None
            tasks = [task for task in found if not task.is_done]
            for task in tasks:
                self._cancel(task)
            self.conductor.bell.ring()
        if not self._wait(tasks, self.GRACE):
            with self.lock:
                for task in tasks:
                    self.abandon(task, Cancelled())
                self.conductor.bell.ring()
            self.conductor.wait_for_settings(tasks)

    def abandon(self, task: Task, error: BaseException) -> None:
        """Let a task go on by itself until it fits a network or ends, if it has not ended yet."""
        with self.lock:
            if task.is_done or task in self.returned:
                return
            task.error, task.is_done, task.is_cancelled = error, True, True
            self.running.pop(task, None)
            self._withdraw(task)
            if task.is_parked:
                task.is_parked = False
                task.turn.ring()
            self.end(task)

    def close(self) -> None:
        """End what has not ended."""
        self._forget_lost()
        with self.lock:
            tasks = [*self.unstarted, *self.started]
        self.cancel(tasks)
        self.conductor.close()

    def count_fits(self) -> tuple[float, int]:
        """Return how many fits are done, with parts of those in training, and how many are known.

        A task counts as one until it has handed in more.
        """
        with self.lock:
            n_done = self.n_ended - self.n_lost + sum(task.count_trained() for task in self.started)
            n_begun = sum(max(1, task.n_fits) for task in self.started)
            return n_done, self.n_ended + len(self.unstarted) + n_begun

    @contextmanager
    def count_also(self, counter: FitCounter) -> Iterator[None]:
        """Count what is done elsewhere for calls of this scheduler."""
        self.counters.append(counter)
        n_lost = 0.0
        try:
            yield
        except BaseException:
            n_done, n_known = counter.count_fits()
            n_lost = n_known - n_done
            raise
        finally:
            self.counters.remove(counter)
            with self.lock:
                self.n_ended += counter.count_fits()[1]
                self.n_lost += n_lost

    def choose(self) -> Callable[[], None]:
        """Return what the conductor is to do next. The lock is held."""
        conductor = self.conductor
        if self.ready:
            return partial(conductor.resume, self.ready.popleft())
        # Whether there is room is asked first, since the answer depends on what was free when no run waited.
        is_stuck = conductor.has_stuck_task and self.running
        if self.unstarted and ((self._has_room() and not is_stuck) or not self.waiting):
            task = self.unstarted.popleft()
            self.started[task] = None
            return partial(conductor.start, task)
        if self.waiting:
            conductor.has_stuck_task = False
            return conductor.train
        if self.running:
            return conductor.idle
        raise RuntimeError("no task of fused_fits can go on: this is a bug in scratchnn, please report it")

    def end_training(self) -> None:
        """Make the tasks ready whose runs have been trained. Those whose runs lacked memory wait on."""
        with self.lock:
            tasks, self.training = self.training, []
            for task in tasks:
                if task.entry in self.pool.waiting and not task.is_cancelled:
                    self.waiting.append(task)
                else:
                    self._make_ready(task)

    def _wait(self, tasks: Sequence[Task], timeout: float | None) -> bool:
        """Let tasks go on until all of these have ended, and return whether they have within ``timeout`` seconds."""
        mine = self._get_own_task()
        if mine is None:
            return self.conductor.wait_outside(tasks, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        for task in tasks:
            while True:
                n_left = None if deadline is None else deadline - time.monotonic()
                with self.lock:
                    if task.is_done:
                        break
                    if n_left is not None and n_left <= 0:
                        return False
                    task.waiter = mine
                    self._park(mine)
                mine.wait_for_turn(n_left)
        return True

    def _park(self, task: Task) -> None:
        """Take the turn back from a task, which is going to wait to be resumed."""
        self.conductor.note_settings(task)
        self.running.pop(task, None)
        task.is_parked = True
        if task.is_cancelled:
            self._make_ready(task)
        self.conductor.bell.ring()

    def _make_ready(self, task: Task) -> None:
        if task.is_parked and task not in self.ready:
            self.ready.append(task)

    def _cancel(self, task: Task) -> None:
        task.is_cancelled, task.deadline = True, time.monotonic() + self.GRACE
        if task in self.running:
            task.interrupt()
        if task not in self.started:
            self.unstarted = deque(other for other in self.unstarted if other is not task)
            task.error, task.is_done = Cancelled(), True
            self.end(task)
        if task.entry is not None:
            task.entry.run.interrupted = True
        if task not in self.training:
            self._withdraw(task)
            self._make_ready(task)

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
            self._clear()
            self.pool.clear()

    def _has_room(self) -> bool:
        n_tasks = len(self.started)
        # PyTorch takes a while to look for CUDA, so few tasks do not ask.
        return self.pool.has_room() and (n_tasks < self.MAX_TASKS or n_tasks < self.find_max_tasks())
