"""Tasks: calls that joblib submitted, each a thread that runs while it has the turn."""

import contextlib
import ctypes
import math
import os
import threading
import warnings
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..training import TrainingRun, train, trainer
from ..training.threads import use_threads
from .bells import Bell, find_clock
from .memory import has_space_for_thread
from .pool import WaitingRun
from .progress import calc_share
from .settings import TaskSettings

if TYPE_CHECKING:
    from .scheduler import Scheduler


class CurrentThread(threading.local):
    """What the thread that asks does for `fused_fits`."""

    task: "Task | None" = None
    scheduler: "Scheduler | None" = None
    parallel_call: "ParallelCall | None" = None  # that takes tasks from this thread
    is_dispatching = False  # whether joblib is taking calls, and holds its lock


current = CurrentThread()


@dataclass(eq=False)
class ParallelCall:
    """A call of `joblib.Parallel`: its tasks, the task that makes it, and the context variables when it began."""

    tasks: "list[Task]" = field(default_factory=list)
    outer: "Task | None" = field(default_factory=lambda: current.task)
    context: Context = field(default_factory=copy_context)


class Cancelled(BaseException):
    """Ends a task whose result nobody waits for any more."""


class Task:
    """A call that joblib submitted: a thread that runs while it has the turn. joblib calls `get` for the result.

    Parameters
    ----------
    scheduler : Scheduler
        Says when the task has the turn.
    call : callable
        The call, without arguments.
    callback : callable
        What joblib wants to be called with the result.
    depth : int
        How many other tasks this one is inside.
    parallel_call : ParallelCall, default=None
        The call of joblib that the task belongs to. None is one of its own.
    """

    def __init__(
        self,
        scheduler: "Scheduler",
        call: Callable[[], Any],
        callback: Callable[[Any], Any],
        depth: int,
        parallel_call: ParallelCall | None = None,
    ) -> None:
        self.scheduler, self.call, self.callback, self.depth = scheduler, call, callback, depth
        self.parallel_call = ParallelCall() if parallel_call is None else parallel_call
        self.pid = os.getpid()
        self.thread: threading.Thread | None = None
        self.clock: int | None = None  # of the thread's processor time
        self.turn = Bell()  # rings when the task gets the turn; replaced for each thread
        self.settings = TaskSettings()
        self.waiter: Task | None = None  # the task that needs the result
        self.entry: WaitingRun | None = None  # what it has handed in
        self.n_fits = 0  # how often it has
        self.is_parked = False  # whether its thread waits for the turn
        self.is_done = self.is_cancelled = False
        self.deadline = math.inf  # when a cancelled task is left to itself, by `time.monotonic`
        self.result: Any = None
        self.error: BaseException | None = None  # what the call raised

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result, for ``timeout`` seconds at most, and return or raise it."""
        self.scheduler.wait_for(self, timeout)
        if self.error is not None:
            raise self.error
        return self.result

    def start(self) -> None:
        """Start the thread, which waits for its turn. If this raises, there is none."""
        if not has_space_for_thread():
            raise MemoryError("a thread would take too much of what the limits of this process leave")
        self.turn = turn = Bell()
        self.thread = threading.Thread(target=self._begin, args=(turn,), name="scratchnn-task", daemon=True)
        try:
            self.thread.start()
            self.clock = find_clock(self.thread)
        except BaseException:
            self.thread = None
            turn.ring()  # for a thread that has begun all the same, which then ends
            raise

    @property
    def is_alive(self) -> bool:
        """Whether there is a thread that can have the turn."""
        return self.thread is not None and self.thread.is_alive()

    def count_trained(self) -> float:
        """Return how many of the fits that it has handed in are trained, with the part of the one in training."""
        entry = self.entry
        return self.n_fits if entry is None else self.n_fits - 1 + calc_share(entry.run)

    def interrupt(self) -> None:
        """Raise Cancelled in the thread as soon as it executes Python code, as Ctrl-C does in the main thread."""
        if self.thread is not None and self.thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), ctypes.py_object(Cancelled))

    def run_here(self) -> None:
        """Make the call in this thread, where the networks train at once, each alone. Only an interrupt is raised."""
        outer = vars(current).copy()
        current.scheduler = self.scheduler
        thread = threading.current_thread()

        def train_here(run: TrainingRun) -> None:
            if threading.current_thread() is thread:
                self.scheduler.pool.train([run], "no thread could be started")
            else:
                train([run])

        def make_call() -> None:
            trainer.set(train_here)
            with use_threads(0, most=1), warnings.catch_warnings():
                self._make_call()

        try:
            self.parallel_call.context.copy().run(make_call)
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            vars(current).clear()
            vars(current).update(outer)
            current.is_dispatching = False
            self.is_done = True

    def wait_for_turn(self, timeout: float | None = None) -> None:
        """Wait to be resumed, or ask for the turn after ``timeout`` seconds. Raises Cancelled if nobody needs it."""
        if timeout is None or not self.turn.wait(timeout):
            if timeout is not None:
                self.scheduler.ask_for_turn(self)
            self.turn.wait()
        if self.is_cancelled:
            raise Cancelled

    def _begin(self, turn: Bell) -> None:
        turn.wait()
        if threading.current_thread() is not self.thread:  # see start
            return
        try:
            self.parallel_call.context.copy().run(self._live)
        except BaseException as error:
            self.error = error
        with contextlib.suppress(Cancelled):  # see interrupt
            self.scheduler.finish(self)

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
        current.is_dispatching, current.parallel_call = True, self.parallel_call
        self.callback(self.result)  # which may submit the next task

    def _train(self, run: TrainingRun) -> None:
        """Train the run in place, with those of other tasks if it can be."""
        # Context variables, and so this trainer, are copied to other threads, such as those of `asyncio.to_thread`.
        # A process forked from the task has nobody to train with.
        if self.pid != os.getpid() or threading.current_thread() is not self.thread:
            train([run])
            return
        if current.is_dispatching:
            self.scheduler.pool.train([run], "fitted while joblib's tasks were being made")
            return
        entry = self.scheduler.hand_in(self, run)
        self.entry = None
        if entry.failure is not None:
            failure, entry.failure = entry.failure, None
            raise failure
