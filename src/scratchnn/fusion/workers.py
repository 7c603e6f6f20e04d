"""The joblib backends that deal tasks out to the workers of another backend, where each worker fuses its portions."""

import os
import pickle
import platform
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import joblib
import torch
from joblib.parallel import BACKENDS, FallbackToBackend, ParallelBackendBase

from ..training.threads import find_most_threads, use_threads
from .backend import FusedBackend
from .report import FusionReport, TrainedStack
from .scheduler import Scheduler, Task, current, warning_filters

# A portion of fewer tasks makes smaller stacks, which take longer for each model.
LEAST_PORTION = 64
MOST_PORTIONS = 4  # for each worker


class DealingBackend(FusedBackend):
    """The joblib backend of `fused_fits`: a call with ``n_jobs`` of one is fused here, and others are dealt out.

    Parameters
    ----------
    scheduler : Scheduler
        Gets the tasks that are fused here.
    name : str, joblib backend or None
        Whose workers get the tasks that are dealt out. None is 'loky', and one worker where no ``n_jobs`` is given.
    report : FusionReport
        Gets the stacks of the workers.
    verbose : bool
        Whether to print a line for each of these stacks.
    """

    def __init__(
        self, scheduler: Scheduler, name: str | ParallelBackendBase | None, report: FusionReport, verbose: bool
    ) -> None:
        super().__init__(scheduler)
        self.is_named, self.report, self.verbose = name is not None, report, verbose
        self.name = name or ("loky" if "loky" in BACKENDS else "threading")
        self.default_n_jobs = -1 if self.is_named else 1
        self.asked: int | None = None  # the n_jobs of a question that no call has followed yet

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return into how many tasks to cut the work, however many workers there are: one network each fuses best."""
        n_tasks = super().effective_n_jobs(n_jobs)
        # Whoever asks, such as bagging, calls with the answer as its n_jobs, which then is no number of workers.
        self.asked = self.default_n_jobs if n_jobs is None else n_jobs
        return n_tasks

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: str | None = None, require: str | None = None, **kwargs: Any
    ) -> int:
        """Have the calls dealt out, by joblib's way to change to another backend, or fused here."""
        asked, self.asked = self.asked, None
        if asked is not None and n_jobs > 1:
            n_jobs = asked
        n_workers = self._count_workers(n_jobs, prefer, require)
        if n_workers > 0:
            raise FallbackToBackend(WorkerBackend(self, n_workers))
        n_tasks = super().configure(n_jobs, parallel)
        self.asked = None
        return n_tasks

    def start_call(self) -> None:
        """Begin to take tasks. joblib has asked for their number once more, for itself."""
        self.asked = None
        super().start_call()

    def _count_workers(self, n_jobs: int, prefer: str | None, require: str | None) -> int:
        """Return how many workers get the tasks of a call, or 0 if they are fused here."""
        if n_jobs in (0, 1) or require == "sharedmem" or current.is_dispatching:
            return 0
        if not self.is_named and (prefer == "threads" or self.nesting_level):
            return 0
        with joblib.parallel_config(backend=self.name):
            n_workers = int(joblib.effective_n_jobs(n_jobs))
        n_workers = max(1, min(n_workers, n_jobs) if n_jobs > 0 else n_workers)  # some backends do not look at n_jobs
        if self.is_named:
            return n_workers
        if n_workers > 1 and torch.cuda.is_available():
            self.report.note(
                f"n_jobs={n_jobs} was not used: a search on CUDA stays in one process. For networks on the CPU, use "
                "fused_fits(backend='loky')"
            )
            return 0
        return n_workers if n_workers > 1 else 0


class DealtCall(Future[Any]):
    """A call that goes to a worker in a portion of calls. joblib calls `get` for the result."""

    def __init__(self, backend: "WorkerBackend", call: Callable[[], Any], callback: Callable[[Any], Any]) -> None:
        super().__init__()
        # joblib's callback may submit the next call, and may raise: `Future.add_done_callback` would swallow its error.
        self.backend, self.call, self.callback = backend, call, callback

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the first error of all calls."""
        while not self.done():
            self.backend.deal()
        return self.result()


class WorkerBackend(ParallelBackendBase):  # type: ignore[misc]
    """The joblib backend of one call that is dealt out: workers of another backend get portions of its tasks."""

    def __init__(self, origin: DealingBackend, n_workers: int) -> None:
        super().__init__(nesting_level=origin.nesting_level)
        self.origin, self.n_workers = origin, n_workers
        self.undealt: list[DealtCall] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way."""
        return Scheduler.MAX_TASKS * self.n_workers

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Keep the caller and its settings of memory mapping, and return the number of tasks that may be under way."""
        self.parallel = parallel
        self.mapping = {name: kwargs[name] for name in ("max_nbytes", "temp_folder", "mmap_mode") if name in kwargs}
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> DealtCall:
        """Keep a call until it is dealt out."""
        self.undealt.append(DealtCall(self, func, callback))
        return self.undealt[-1]

    apply_async = submit

    def deal(self) -> None:
        """Have the workers run the calls that were taken. The first error is raised, as soon as its worker sends it."""
        calls, self.undealt = self.undealt, []
        portions = cut_portions([each.call for each in calls], self.n_workers)
        with joblib.parallel_config(backend=self.origin.name):
            # joblib writes an array of more than `max_nbytes` to a file once, however many portions have it.
            results = joblib.Parallel(n_jobs=self.n_workers, batch_size=1, **self.mapping)(
                joblib.delayed(run_portion)([calls[k].call for k in portion], self.n_workers, name_process())
                for portion in portions
            )
        for portion, (outcomes, stacks) in zip(portions, results, strict=True):
            for stack in stacks:
                self.origin.report.add(stack, self.origin.verbose)
            for k, outcome in zip(portion, outcomes, strict=True):
                calls[k].set_result(outcome)
        for each in calls:
            each.callback(each.result())

    def start_call(self) -> None:
        """Begin to take calls."""
        self.undealt = []

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget the calls that have not been dealt out."""
        self.undealt = []

    def get_nested_backend(self) -> tuple[ParallelBackendBase, None]:
        """Return the backend for calls inside a task, which is that of its worker."""
        return FusedBackend(None, (self.nesting_level or 0) + 1), None


def cut_portions(calls: Sequence[Any], n_workers: int) -> list[list[int]]:
    """Return the positions of calls, in portions of about the same size, several for each worker if there are many.

    Calls with the same arrays, such as the candidates of a fold, go together, so that a worker has few folds to keep.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, call in enumerate(calls):
        groups.setdefault(identify_arrays(call), []).append(k)
    order = [k for group in groups.values() for k in group]
    n_each = min(max(len(calls) // (n_workers * LEAST_PORTION), 1), MOST_PORTIONS)
    n_portions = min(n_workers * n_each, len(calls))
    bounds = [len(calls) * k // n_portions for k in range(n_portions + 1)]
    return [order[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]


def identify_arrays(call: Any) -> tuple[int, ...]:
    """Return which arrays, tables and lists a call of joblib's has among its arguments."""
    values = [value for _, args, kwargs in call.items for value in (*args, *kwargs.values())]
    return tuple(id(value) for value in values if isinstance(value, list) or getattr(value, "shape", ()))


def name_process() -> str:
    """Return what tells this process from others, also from those of other machines."""
    return f"{platform.node()} {os.getpid()}"


def run_portion(
    calls: Sequence[Callable[[], Any]], n_workers: int, caller: str
) -> tuple[list[Any], list[TrainedStack]]:
    """Run calls in this process, fused. Return their results and the stacks, or raise the first error.

    ``caller`` names the process that has cut the portions. Workers that are threads of it share its cores.
    """
    is_here = name_process() == caller
    n_threads = max(1, min(find_most_threads(), joblib.cpu_count()) // (n_workers if is_here else 1))
    with warning_filters, use_threads(0, most=n_threads):
        scheduler = Scheduler(FusionReport(), verbose=False)
        tasks = [Task(scheduler, call, lambda result: None, depth=0) for call in calls]
        try:
            for task in tasks:
                scheduler.submit(task)
            results = [task.get() for task in tasks]
        except BaseException as error:
            if not is_here:
                _check_sendable(error)
            raise
        finally:
            scheduler.close()
    return results, scheduler.pool.report.stacks


def _check_sendable(error: BaseException) -> None:
    """Raise an error in place of one that would break the pool of workers."""
    try:
        pickle.loads(pickle.dumps(joblib.wrap_non_picklable_objects(error, keep_wrapper=False)))
    except Exception as reason:
        what = "".join(traceback.format_exception_only(error)).strip()
        raise RuntimeError(
            f"A task's error must be one that pickle can send from its worker, got {what}, which it cannot: {reason}. Use "
            "n_jobs=1 to get it as it is, or give its class arguments that can be pickled."
        ) from error
