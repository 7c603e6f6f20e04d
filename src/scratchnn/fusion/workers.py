"""The joblib backends that deal tasks out to the workers of another backend, where each worker fuses its portions."""

import os
import pickle
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from itertools import islice
from types import FrameType
from typing import Any, TypeAlias

import joblib
import torch
from joblib.parallel import BACKENDS, FallbackToBackend, ParallelBackendBase

from ..training.threads import find_most_threads, use_threads
from .backend import FusedBackend
from .cores import use_own_core
from .portions import cut_portions, list_values
from .report import FusionReport, TrainedStack
from .scheduler import Scheduler, warning_filters
from .shipping import SharedArrays, put_back_arrays
from .task import Task, current

# How many tasks are under way, as joblib is told: it makes twice as many before it waits for the first result.
AHEAD_PER_WORKER = 4 * Scheduler.MAX_TASKS
MOST_AHEAD = 2**16  # joblib refuses numbers above a million
PortionResult: TypeAlias = tuple[list[Any], list[TrainedStack]]  # the results of a portion's calls, and its stacks
ON_CUDA = (
    "n_jobs was not used: a search on CUDA stays in one process. Use device='cpu' for networks on the CPU, or "
    "fused_fits(backend='loky') for several processes."
)


class DealingBackend(FusedBackend):
    """The joblib backend of `fused_fits`: a call with ``n_jobs`` of one is fused here, and others are dealt out.

    Parameters
    ----------
    scheduler : Scheduler
        Gets the tasks that are fused here, and reports the stacks of the workers.
    name : str, joblib backend or None
        Whose workers get the tasks that are dealt out. None is 'loky', for CPUs only.
    n_jobs : int
        The number of workers where a call gives none.
    """

    def __init__(self, scheduler: Scheduler, name: str | ParallelBackendBase | None, n_jobs: int) -> None:
        super().__init__(scheduler)
        self.is_named = name is not None
        self.name = name or ("loky" if "loky" in BACKENDS else "threading")
        self.default_n_jobs = n_jobs
        self.asked, self.askers = n_jobs, set[object]()  # the last question for n_jobs, and the functions that ran then

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return into how many tasks to cut the work, however many workers there are: one network each fuses best."""
        asker = sys._getframe(1)
        if asker.f_code is joblib.effective_n_jobs.__code__:
            self.asked = self.default_n_jobs if n_jobs is None else n_jobs
            self.askers = {_identify(frame) for frame, _ in traceback.walk_stack(asker)}
        return super().effective_n_jobs(n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Have the calls dealt out, by joblib's way to change to another backend, or fused here."""
        # A function that asked, as bagging does, gives the answer as n_jobs, which then is a number of tasks.
        if n_jobs > 1 and _identify(_find_caller()) in self.askers:
            n_jobs = self.asked
        n_workers = self._count_workers(n_jobs, settings.get("prefer"), settings.get("require"))
        if n_workers > 0:
            raise FallbackToBackend(WorkerBackend(self, n_workers))
        return super().configure(n_jobs, parallel)

    def _count_workers(self, n_jobs: int, prefer: str | None, require: str | None) -> int:
        """Return how many workers get the tasks of a call, or 0 if they are fused here."""
        if n_jobs in (0, 1) or require == "sharedmem" or current.is_dispatching:
            return 0
        if not self.is_named and (prefer == "threads" or self.nesting_level):
            return 0
        with joblib.parallel_config(backend=self.name):
            n_workers = int(joblib.effective_n_jobs(n_jobs))
        n_workers = max(1, min(n_workers, n_jobs) if n_jobs > 0 else n_workers)  # some backends do not look at n_jobs
        return n_workers if self.is_named or n_workers > 1 else 0


def _identify(frame: FrameType) -> object:
    """Return what tells a running function from others."""
    return id(frame), frame.f_code


def _find_caller() -> FrameType:
    """Return the function that called ``joblib.Parallel``."""
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    inner = ("joblib.", "sklearn.utils.parallel", __name__)
    return next(frame for frame in frames if not str(frame.f_globals.get("__name__")).startswith(inner))


class DealtCall(Future[Any]):
    """A call that goes to a worker in a portion of calls. joblib calls `get` for the result."""

    def __init__(self, backend: "WorkerBackend", call: Callable[[], Any], callback: Callable[[Any], Any]) -> None:
        super().__init__()
        # joblib's callback may submit the next call, and may raise: `Future.add_done_callback` would swallow its error.
        self.backend, self.call, self.callback = backend, call, callback

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the first error of all calls. A portion may take ``timeout`` seconds."""
        while not self.done():
            self.backend.deal(timeout)
        return self.result()


class DealtCalls:
    """Calls that workers run in portions of so many. A bar counts each as a fit, which is done when its portion is."""

    def __init__(self, parallel: joblib.Parallel, sizes: Sequence[int]) -> None:
        self.parallel, self.sizes = parallel, sizes

    def count_fits(self) -> tuple[float, int]:
        """Return how many calls are done, and how many there are."""
        n_ended = getattr(self.parallel, "n_completed_tasks", 0)  # it is not there before the parallel call begins
        return sum(islice(self.sizes, n_ended)), sum(self.sizes)  # they end in about the order in which they begin


class WorkerBackend(ParallelBackendBase):
    """The joblib backend of one call that is dealt out: workers of another backend get portions of its tasks."""

    supports_timeout = True

    def __init__(self, origin: DealingBackend, n_workers: int) -> None:
        super().__init__(nesting_level=origin.nesting_level)
        self.origin, self.n_workers = origin, n_workers
        self.undealt: list[DealtCall] = []
        self.shared = SharedArrays()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way."""
        return min(AHEAD_PER_WORKER * self.n_workers, MOST_AHEAD)

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

    def deal(self, timeout: float | None = None) -> None:
        """Have the workers run the calls that were taken. The first error is raised, as soon as its worker sends it."""
        dealt, self.undealt = self.undealt, []
        calls = [each.call for each in dealt]
        run = self._run_here if not self.origin.is_named and may_use_cuda(calls) else self._run_on_workers
        for portion, (outcomes, stacks) in run(calls, timeout):
            for stack in stacks:
                self.origin.scheduler.pool.note_stack(stack)
            for k, outcome in zip(portion, outcomes, strict=True):
                dealt[k].set_result(outcome)
        for each in dealt:
            each.callback(each.result())

    def _run_here(self, calls: Sequence[Any], timeout: float | None) -> list[tuple[list[int], PortionResult]]:
        self.origin.scheduler.pool.note(ON_CUDA)
        inner = Scheduler(FusionReport())
        with self.origin.scheduler.count_also(inner):
            return [(list(range(len(calls))), run_portion(calls, 1, name_process(), scheduler=inner))]

    def _run_on_workers(self, calls: Sequence[Any], timeout: float | None) -> list[tuple[list[int], PortionResult]]:
        """Return the positions of the calls of each portion, and what its worker sent."""
        portions = cut_portions(calls, self.n_workers)
        with joblib.parallel_config(backend=self.origin.name):
            parallel = joblib.Parallel(self.n_workers, batch_size=1, timeout=timeout, **self.mapping)
            backend = joblib.parallel.get_active_backend()[0]
            sent, arrays = self.shared.take_out([[calls[k] for k in portion] for portion in portions], backend)
            jobs = (joblib.delayed(run_portion)(each, self.n_workers, name_process(), *arrays) for each in sent)
            with self.origin.scheduler.count_also(DealtCalls(parallel, [len(portion) for portion in portions])):
                return list(zip(portions, parallel(jobs), strict=True))

    def start_call(self) -> None:
        """Begin to take calls."""
        self.undealt = []

    def stop_call(self) -> None:
        """Let go of the arrays that the workers have."""
        self.shared = SharedArrays()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Forget the calls that have not been dealt out."""
        self.undealt = []

    def get_nested_backend(self) -> tuple[ParallelBackendBase, None]:
        """Return the backend for calls inside a task, which is that of its worker."""
        return FusedBackend(None, (self.nesting_level or 0) + 1), None


def may_use_cuda(calls: Sequence[Any]) -> bool:
    """Return whether calls of joblib's may use CUDA: if there is an estimator for it, or none that one can ask."""
    if not torch.cuda.is_available():
        return False
    models = {id(value): value for call in calls for value in list_values(call) if hasattr(value, "get_params")}
    settings = [setting for model in models.values() for setting in model.get_params().items()]
    devices = [str(value) for name, value in settings if name.rpartition("__")[2] == "device"]
    return not models or not all(device.startswith("cpu") for device in devices)


def name_process() -> tuple[str, int]:
    """Return what tells this process from others, also from those of other machines."""
    return platform.node(), os.getpid()


def run_portion(
    calls: Sequence[Any], n_workers: int, caller: tuple[str, int], *arrays: Any, scheduler: Scheduler | None = None
) -> PortionResult:
    """Run calls in this process, fused. Return their results and the stacks, or raise the first error.

    ``caller`` names the process that has cut the portions. Workers on its machine share the cores.
    ``arrays`` are those that were taken out of the calls.
    ``scheduler`` is a new one for the calls; None makes it.
    """
    calls = put_back_arrays(calls, arrays)
    node, process = name_process()
    n_neighbours = n_workers if node == caller[0] else 1
    n_threads = min(find_most_threads(), max(1, joblib.cpu_count() // n_neighbours))
    keeping = use_own_core(n_neighbours) if process != caller[1] else nullcontext()
    with warning_filters, use_threads(0, most=n_threads), keeping:
        scheduler = Scheduler(FusionReport()) if scheduler is None else scheduler
        tasks = [Task(scheduler, call, lambda result: None, depth=0) for call in calls]
        try:
            for task in tasks:
                scheduler.submit(task)
            results = [task.get() for task in tasks]
        except BaseException as error:
            if name_process() != caller:
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
            f"A task's error must be one that pickle can send from its worker, got {what}, which it cannot: {reason}. "
            "Use n_jobs=1 to get it as it is, or give its class arguments that can be pickled."
        ) from error
