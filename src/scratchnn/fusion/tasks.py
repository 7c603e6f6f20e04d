"""Tasks: calls that joblib submitted, each a greenlet of the thread that called `joblib.Parallel`."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from ..training import TrainingRun
from .process_state import TaskState


class Cancelled(BaseException):
    """Ends a waiting task whose result is no longer needed."""


class ParallelCall:
    """A call of `joblib.Parallel`, by a task, its ``owner``, or outside of tasks: its tasks, and how they begin."""

    def __init__(self, owner: "Task | None", state: TaskState, seeds: Sequence[int], wait: Callable[..., None]) -> None:
        self.owner, self.state, self.seeds, self.wait_for = owner, state, seeds, wait
        self.depth: int = 0 if owner is None else owner.call.depth + 1
        self.context = copy_context()
        self.used = [False] * len(seeds)  # whether a task has used each generator
        self.tasks: list[Task] = []
        self.ended: deque[Task] = deque()  # whose callbacks have not been called
        self.has_failed = False  # whether a task has failed: then no other needs to start
        self.interrupt: BaseException | None = None  # raised by Ctrl-C or a signal handler in a task
        self.awaited: list[Task] = []  # that the caller waits for
        self.deadline = math.inf  # when the caller stops waiting, by `time.monotonic`

    @property
    def is_answered(self) -> bool:
        """Whether the caller has the results that it waits for, or an interrupt."""
        return self.interrupt is not None or all(task.state.is_over for task in self.awaited)


class Task:
    """A function that joblib submitted, with a callback for its result, which joblib gets by `get`."""

    def __init__(self, function: Callable[[], Any], callback: Callable[[Any], Any], call: ParallelCall) -> None:
        self.function: Any = function  # until the end: it holds the model, and joblib may hold the task for long
        self.callback, self.call = callback, call
        self.state = TaskState(call.state, [seed + len(call.tasks) for seed in call.seeds])
        self.greenlet: Any = None  # from its start to its end
        self.is_cancelled = self.must_raise = False  # the second until Cancelled has been raised
        self.run: TrainingRun | None = None  # that is queued
        self.failure: BaseException | None = None  # error of its training
        self.n_fits = 0  # number of runs that it has queued
        self.result: Any = None
        self.error: BaseException | None = None
        call.tasks.append(self)

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result, for ``timeout`` seconds at most, and return it or raise."""
        self.call.wait_for(self, timeout)
        if self.error is not None:
            raise self.error
        return self.result

    def execute(self) -> None:
        """Call the function, in the greenlet."""
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def count_trained(self) -> float:
        """Return the number of its trained fits, with the fraction of a fit in training."""
        return self.n_fits if self.run is None else self.n_fits - 1 + calc_share(self.run)


def calc_share(run: TrainingRun) -> float:
    """Return the finished fraction of a run's epochs, from 0 to 1. Early stopping may end it before 1."""
    return min(1.0, run.n_epochs / run.hyperparameters.max_iter)
