"""The joblib backend that runs calls as tasks of a scheduler."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from joblib.parallel import ParallelBackendBase

from ..training.threads import release_threads
from .scheduler import Scheduler
from .task import ParallelCall, Task, current


class FusedBackend(ParallelBackendBase):
    """The joblib backend of `fused_fits`. Its tasks are threads, whatever ``n_jobs`` is."""

    supports_sharedmem = True
    supports_timeout = True
    uses_threads = True

    def __init__(self, scheduler: Scheduler | None = None, nesting_level: int | None = None) -> None:
        super().__init__(nesting_level=nesting_level)
        self._scheduler = scheduler

    def __reduce__(self) -> tuple[Any, ...]:
        return FusedBackend, (None, self.nesting_level)  # elsewhere, it takes the scheduler of the task that runs there

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that gets the tasks."""
        return cast(Scheduler, current.scheduler if self._scheduler is None else self._scheduler)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way; 1 where none can wait for the others."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return 1 if current.is_dispatching else Scheduler.find_max_tasks()

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Keep the caller, and return the number of tasks that may be under way."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> Task:
        """Make a task of a call."""
        # Several threads may use this backend: each has calls of joblib of its own.
        parallel_call = current.parallel_call or ParallelCall()
        task = Task(self.scheduler, func, callback, self.nesting_level or 0, parallel_call)
        parallel_call.tasks.append(task)
        self.scheduler.submit(task)
        return task

    apply_async = submit

    def start_call(self) -> None:
        """Begin to take tasks: their iterator must not wait for other tasks while joblib's lock is held."""
        release_threads()  # this thread will wait for another, which trains
        current.parallel_call, current.is_dispatching = ParallelCall(), True

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Begin to wait for results."""
        current.is_dispatching = False
        yield

    def stop_call(self) -> None:
        """Forget the tasks, which have ended."""
        if current.parallel_call is not None:
            current.parallel_call.tasks.clear()
        current.parallel_call, current.is_dispatching = None, False

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the tasks of this call."""
        if current.parallel_call is not None:
            self.scheduler.cancel(current.parallel_call.tasks)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, None]:
        """Return the backend for calls inside a task."""
        return FusedBackend(self._scheduler, (self.nesting_level or 0) + 1), None
