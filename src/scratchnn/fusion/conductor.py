"""Who gives the turn and trains: a thread of its own, so that signals, which reach the main thread, disturb neither."""

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .bells import Bell, Watch
from .memory import has_space_for_thread
from .task import Cancelled, Task

if TYPE_CHECKING:
    from .scheduler import Scheduler


class OutsideWait:
    """A thread that is no task waits until tasks have ended. ``error`` is what the conductor raised meanwhile."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks, self.bell = tasks, Bell()
        self.error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return all(task.is_done for task in self.tasks)


class Conductor:
    """Does what a `Scheduler` chooses, one thing after the other, while a thread outside waits for results.

    Where no thread can be started for it, one of those that wait does it.
    """

    def __init__(self, scheduler: "Scheduler") -> None:
        self.scheduler = scheduler
        self.bell = Bell()
        self.outside: list[OutsideWait] = []
        self.driver: threading.Thread | None = None  # the thread that does it
        self.is_closed = False
        self.has_stuck_task = False  # whether one has been found stuck since the last training
        self.holder: Task | None = None  # the task whose settings the process has

    def wait_outside(self, tasks: Sequence[Task], timeout: float | None) -> bool:
        """Wait until tasks have ended, and return whether they have within ``timeout`` seconds."""
        wait = OutsideWait(tasks)
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.scheduler.lock:
            if wait.is_over:
                return True
            self.outside.append(wait)
            self.bell.ring()
        was_driver = self.driver is threading.current_thread()
        try:
            while True:
                if wait.error is not None:
                    raise wait.error
                if wait.is_over:
                    return True
                n_left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
                if n_left <= 0:
                    return False
                if self._drives():
                    self.advance()
                else:
                    wait.bell.wait(n_left)  # Windows raises Ctrl-C only between waits
        finally:
            self._leave(wait, was_driver)

    def wait_for_settings(self, tasks: Sequence[Task]) -> None:
        """Wait until the process has no settings of these tasks any more."""
        while self.holder in tasks and self.driver is not threading.current_thread():
            time.sleep(0.001)

    def close(self) -> None:
        """End the thread when nobody waits any more."""
        self.is_closed = True
        self.bell.ring()

    def note_settings(self, task: Task) -> None:
        """Note the settings of the process for a task that passes the turn. The scheduler's lock is held."""
        if self.holder is task:
            task.settings.note()

    def ring_those_who_wait(self) -> None:
        """Let outside threads go on that have what they wait for. The scheduler's lock is held."""
        for wait in self.outside:
            if wait.is_over:
                wait.bell.ring()

    def advance(self) -> None:
        """Do one thing."""
        self._end_returned()
        with self.scheduler.lock:
            if all(wait.is_over for wait in self.outside):
                return
            step = self.scheduler.choose()
        step()
        self._end_returned()

    def start(self, task: Task) -> None:
        """Start a task. Where there can be no thread, others end first, or the task runs in this thread."""
        scheduler = self.scheduler
        try:
            task.start()
        except (RuntimeError, MemoryError):
            scheduler.pool.n_threads = 1  # OpenMP ends the process where it can start no thread
            if scheduler.waiting:
                scheduler.put_back(task)
                self.train()
            else:
                try:
                    task.run_here()
                finally:
                    scheduler.end(task)
            return
        except BaseException:
            scheduler.put_back(task)
            raise
        self.resume(task)

    def resume(self, task: Task) -> None:
        """Give a task the turn until it passes it, or is stuck."""
        task.settings.begin()
        try:
            with self.scheduler.lock:
                if task.is_done:
                    return
                self.holder = task
                self.scheduler.running[task] = None
                task.is_parked = False
            task.turn.ring()
            self._attend(task)
        finally:
            with self.scheduler.lock:
                self.holder = None
                task.settings.end(task in self.scheduler.returned)

    def train(self) -> None:
        """Have the runs that wait trained, and make their tasks ready."""
        scheduler = self.scheduler
        with scheduler.lock:
            scheduler.training, scheduler.waiting = scheduler.waiting, []
            entries = scheduler.pool.take()
        try:
            scheduler.pool.train_taken(entries)
        finally:
            with scheduler.lock:
                scheduler.pool.keep_short(entries)
                scheduler.end_training()
        if threading.current_thread() is threading.main_thread() and any(entry.run.interrupted for entry in entries):
            raise KeyboardInterrupt  # training has taken it for the end of this stack

    def idle(self) -> None:
        """Wait until a stuck task goes on, or another call submits tasks."""
        if not self.bell.wait(0.5):
            for task in list(self.scheduler.running):
                self._check_thread(task)
                self._give_up(task)

    def _attend(self, task: Task) -> None:
        """Wait until a task has passed the turn, or is stuck and others can go on."""
        scheduler, watch = self.scheduler, Watch(task.clock)
        while True:
            has_rung = self.bell.wait(Watch.LOOK)
            with scheduler.lock:
                if task not in scheduler.running:
                    return
                is_alone = len(scheduler.started) == 1
                can_go_on = bool(scheduler.waiting or scheduler.ready or scheduler.unstarted)
            if has_rung:
                continue
            self._check_thread(task)
            if time.monotonic() > task.deadline:
                scheduler.abandon(task, Cancelled())
            elif watch.is_stuck(is_alone):
                if can_go_on:
                    self.has_stuck_task = True
                    return
                self._give_up(task)

    def _give_up(self, task: Task) -> None:
        """End a stuck task if another of its call has failed: that is what it may wait for."""
        error = next((other.error for other in task.parallel_call.tasks if other.error is not None), None)
        if error is not None:
            self.scheduler.abandon(task, error)

    def _check_thread(self, task: Task) -> None:
        if task.is_alive or task.is_done:
            return
        task.error = RuntimeError(
            "The thread of a task of fused_fits ended before the task, as it may when memory runs out. Free memory, or "
            "run the task outside of fused_fits."
        )
        with self.scheduler.lock:
            if task in self.scheduler.running:
                self.scheduler.finish(task)

    def _end_returned(self) -> None:
        """Let tasks end whose calls have."""
        while self.scheduler.returned:
            task = self.scheduler.returned.popleft()
            task.is_done = True
            self.scheduler.end(task)
            if task.thread is not None and task.is_alive:
                task.thread.join(1.0)  # so that the next finds its memory and its place free

    def _drives(self) -> bool:
        """Return whether this thread is the one to do it. If there is none, one is started."""
        with self.scheduler.lock:
            if self.driver is None:
                self.driver = threading.current_thread()
                if has_space_for_thread():
                    thread = threading.Thread(target=self._live, name="scratchnn-conductor", daemon=True)
                    try:
                        thread.start()
                        self.driver = thread
                    except (RuntimeError, MemoryError):
                        pass
            return self.driver is threading.current_thread()

    def _leave(self, wait: OutsideWait, was_driver: bool) -> None:
        """Let another thread that waits do it, if this one has."""
        with self.scheduler.lock:
            self.outside.remove(wait)
            if self.driver is threading.current_thread() and not was_driver:
                self.driver = None
                for other in self.outside:
                    other.bell.ring()

    def _live(self) -> None:
        scheduler = self.scheduler
        while True:
            with scheduler.lock:
                if self.driver is not threading.current_thread():  # an interrupt came when it was started
                    return
                is_needed = any(not wait.is_over and wait.error is None for wait in self.outside)
                if not is_needed and self.is_closed:
                    self.driver = None
                    return
            try:
                if is_needed:
                    self.advance()
                else:
                    self.bell.wait()
            except BaseException as error:
                with scheduler.lock:
                    for wait in self.outside:
                        wait.error = error
                        wait.bell.ring()
