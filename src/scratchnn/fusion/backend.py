"""The joblib backends: one chooses how a parallel call runs, one runs calls as tasks, one dispatches them to workers.

Another joblib backend provides the workers. Each worker gets chunks of the calls, and fuses its chunks.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias

import joblib
from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend

from .hub import Fusion, Hub
from .pool import MAX_RUNS
from .process_state import draw_if, is_main_thread, peek_seeds
from .report import TrainedStack
from .tasks import ParallelCall, Task

LIBRARIES = ("joblib.", "sklearn.utils.parallel", __name__.rpartition(".")[0])
MAX_AHEAD = 2**16  # calls that joblib submits ahead, to be divided into chunks; joblib refuses a million
MIN_CHUNK = 64  # tasks: smaller stacks take longer for each model, and larger chunks leave workers idle at the end
Items: TypeAlias = Sequence[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]]


class FusedBackend(ParallelBackendBase):
    """The joblib backend inside `fused_fits`: calls with one job are fused here, others by ``workers``, if any.

    ``default_n_jobs`` is for calls without ``n_jobs``.
    """

    supports_sharedmem = supports_timeout = uses_threads = True
    submit = apply_async = None  # the chosen backend gets the calls

    def __init__(
        self, fusion: Fusion, level: int = 0, workers: ParallelBackendBase | None = None, default_n_jobs: int = 1
    ) -> None:
        super().__init__(nesting_level=level)
        self.fusion, self.workers, self.default_n_jobs = fusion, workers, default_n_jobs

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of tasks that run at the same time; for bagging, the number of tasks to make."""
        n_workers = self._count_workers(n_jobs)
        return n_workers if find_bagging() is None else MAX_RUNS

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Choose the backend of a call. As joblib requires, an exception contains it."""
        bagging, hub = find_bagging(), self.fusion.get_hub()
        n_workers = self._count_workers(n_jobs if bagging is None else bagging.n_jobs)
        prefers_threads = settings.get("prefer") == "threads" or settings.get("require") == "sharedmem"
        if prefers_threads or not hub.can_wait():
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        raise FallbackToBackend(TaskBackend(hub, self) if n_workers == 1 else WorkerBackend(self, n_workers))

    def _count_workers(self, n_jobs: int | None) -> int:
        """Return the number of workers for a call. With one, the tasks are fused here."""
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs == 1 or self.workers is None:
            return 1
        n_workers = int(self.workers.effective_n_jobs(n_jobs))
        return max(1, min(n_workers, n_jobs) if n_jobs > 0 else n_workers)  # Dask's backend ignores n_jobs


class TaskBackend(ParallelBackendBase):
    """The joblib backend of one parallel call, whose tasks run in its thread."""

    supports_timeout = True
    call: ParallelCall

    def __init__(self, hub: Hub, origin: FusedBackend) -> None:
        super().__init__(nesting_level=origin.nesting_level)
        self.hub, self.origin = hub, origin

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return half the number of tasks that joblib submits ahead."""
        return MAX_RUNS

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> Task:
        """Make a task of a call."""
        return self.hub.submit(Task(func, callback, self.call))

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


class PendingCall:
    """A call that goes to a worker in a chunk. joblib calls `get` for the results of its items."""

    def __init__(self, backend: "WorkerBackend", items: Items, callback: Callable[[Any], Any]) -> None:
        self.backend, self.items, self.callback = backend, items, callback
        self.results: list[Any] | None = None

    def get(self, timeout: float | None = None) -> list[Any] | None:
        """Return the results, or raise the first error of all calls. A chunk may take ``timeout`` seconds."""
        if self.results is None:
            self.backend.dispatch(timeout)
        return self.results


class WorkerBackend(ParallelBackendBase):
    """The joblib backend of one parallel call whose tasks run in workers, in chunks."""

    supports_timeout = True

    def __init__(self, origin: FusedBackend, n_workers: int) -> None:
        super().__init__(nesting_level=origin.nesting_level)
        self.origin, self.n_workers = origin, n_workers
        self.pending: list[PendingCall] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return half the number of calls that joblib submits ahead."""
        return MAX_AHEAD

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Keep the settings of memory mapping."""
        self.mapping = {name: settings[name] for name in ("max_nbytes", "temp_folder", "mmap_mode") if name in settings}
        return MAX_AHEAD

    def submit(self, func: Any, callback: Callable[[Any], Any]) -> PendingCall:
        """Keep a call until it is dispatched."""
        self.pending.append(PendingCall(self, func.items, callback))
        return self.pending[-1]

    apply_async = submit

    def dispatch(self, timeout: float | None = None) -> None:
        """Run the pending calls in the workers. Raise the first error as soon as its worker sends it."""
        calls, self.pending = self.pending, []
        size = find_chunk_size(len(calls), self.n_workers)
        starts = range(0, len(calls), size)
        chunks = [calls[start : start + size] for start in starts]
        seeds = peek_seeds()
        with joblib.parallel_config(backend=self.origin.workers):
            parallel = joblib.Parallel(self.n_workers, batch_size=1, timeout=timeout, **self.mapping)
        self.origin.fusion.dispatched.append((parallel, [len(chunk) for chunk in chunks]))
        outcomes = parallel(
            joblib.delayed(run_chunk)([call.items for call in chunk], [seed + start for seed in seeds])
            for start, chunk in zip(starts, chunks, strict=True)
        )
        draw_if([any(flags) for flags in zip(*(used for _, _, used in outcomes), strict=True)])
        for stack in chain.from_iterable(stacks for _, stacks, _ in outcomes):
            self.origin.fusion.note(stack)
        for call, results in zip(calls, chain.from_iterable(results for results, _, _ in outcomes), strict=True):
            call.results = results
            call.callback(results)  # joblib may submit the next


def find_chunk_size(n_calls: int, n_workers: int) -> int:
    """Return the number of tasks per chunk: a worker's share, divided into chunks of about ``MIN_CHUNK`` tasks."""
    n_rounds = max(1, round(n_calls / n_workers / MIN_CHUNK))
    return -(-n_calls // (n_rounds * n_workers))


def run_chunk(chunk: Sequence[Items], seeds: Sequence[int]) -> tuple[list[Any], list[TrainedStack], Sequence[bool]]:
    """Run calls in this process, fused. Return results, stacks, and which global generators the calls have used."""
    fusion = Fusion()
    hub = fusion.get_hub()
    hub.seeds = seeds if is_main_thread() else ()
    with joblib.parallel_config(backend=FusedBackend(fusion), n_jobs=1):
        results = joblib.Parallel()(joblib.delayed(run_items)(items) for items in chunk)
    return list(results), fusion.report.stacks, hub.used


def run_items(items: Items) -> list[Any]:
    """Make the calls of a batch, one after the other."""
    return [function(*args, **kwargs) for function, args, kwargs in items]


def find_bagging() -> Any:
    """Return the bagging estimator whose `fit` asks joblib for the number of jobs, or makes a parallel call, or None.

    Bagging divides its estimators by the number of jobs, and passes this number to `joblib.Parallel` as ``n_jobs``. To
    be fused, each estimator must be a task. Other code gets the number of workers, as it may divide its work by this
    number.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").startswith(LIBRARIES) or frame.f_code.co_name == "_partition_estimators"
    ):
        frame = frame.f_back
    is_bagging = frame.f_globals.get("__name__") == "sklearn.ensemble._bagging" and frame.f_code.co_name == "_fit"
    return frame.f_locals["self"] if is_bagging else None
