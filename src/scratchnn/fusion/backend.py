"""The joblib backend that runs calls as tasks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend

from .hub import Fusion, Hub
from .pool import MAX_RUNS
from .tasks import ParallelCall, Task

LIBRARIES = ("joblib.", "sklearn.utils.parallel", __name__.rpartition(".")[0])


class FusedBackend(ParallelBackendBase):
    """The joblib backend inside `fused_fits`: it chooses how each parallel call runs."""

    supports_sharedmem = supports_timeout = uses_threads = True

    def __init__(self, fusion: Fusion, nesting_level: int = 0) -> None:
        super().__init__(nesting_level=nesting_level)
        self.fusion = fusion

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at the same time."""
        check_n_jobs(n_jobs)
        return MAX_RUNS if find_bagging() is not None else 1

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Choose the backend of a call, in joblib's way: an exception names it."""
        check_n_jobs(n_jobs)
        hub = self.fusion.get_hub()
        if prefers_threads(settings) or not hub.can_wait():
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        raise FallbackToBackend(TaskBackend(hub, self))

    submit = apply_async = None  # the chosen backend gets the calls


class TaskBackend(ParallelBackendBase):
    """The joblib backend of one parallel call, whose tasks run in its thread."""

    supports_timeout = True
    call: ParallelCall

    def __init__(self, hub: Hub, origin: FusedBackend) -> None:
        super().__init__(nesting_level=origin.nesting_level)
        self.hub, self.origin = hub, origin

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks joblib is to submit ahead: it submits twice as many."""
        return MAX_RUNS

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> Task:
        """Make a task of a call."""
        task = Task(func, callback, self.call)
        self.hub.submit(task)
        return task

    apply_async = submit

    def start_call(self) -> None:
        """Begin to take tasks."""
        self.call = self.hub.begin_call()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Begin to wait for results."""
        self.hub.is_busy = False
        yield

    def stop_call(self) -> None:
        """End the call."""
        self.hub.end_call(self.call)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the tasks."""
        self.hub.cancel(self.call)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, None]:
        """Return the backend for calls inside a task."""
        return FusedBackend(self.origin.fusion, (self.nesting_level or 0) + 1), None


def prefers_threads(settings: dict[str, Any]) -> bool:
    """Return whether a call of joblib asks for threads: it cuts its work finely, and shares memory."""
    return settings.get("prefer") == "threads" or settings.get("require") == "sharedmem"


def check_n_jobs(n_jobs: int | None) -> None:
    """Raise ValueError for a number of jobs that joblib refuses, too."""
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")


def find_bagging() -> Any:
    """Return the bagging whose fit asks joblib for a number of jobs, or makes a parallel call; None if none does.

    Bagging divides its estimators by the number of jobs, and passes this number to `joblib.Parallel` as ``n_jobs``. To
    be fused, each estimator must be a task. Other code that asks is told the truth, as it may cut its work into as many
    pieces.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").startswith(LIBRARIES) or frame.f_code.co_name == "_partition_estimators"
    ):
        frame = frame.f_back
    is_bagging = frame.f_globals.get("__name__") == "sklearn.ensemble._bagging" and frame.f_code.co_name == "_fit"
    return frame.f_locals["self"] if is_bagging else None
