"""The joblib backend that deals tasks out to the workers of another backend, where each worker fuses its portion."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import joblib
from joblib.parallel import ParallelBackendBase

from .backend import FusedBackend
from .report import FusionReport, TrainedStack
from .scheduler import Scheduler, Task, warning_filters


class DealtCall(Future[Any]):
    """A call that goes to a worker in a portion of calls. joblib calls `get` for the result."""

    def __init__(self, backend: "WorkerBackend", call: Callable[[], Any], callback: Callable[[Any], Any]) -> None:
        super().__init__()
        # joblib's callback may submit the next call, and may raise: `Future.add_done_callback` would swallow its error.
        self.backend, self.call, self.callback = backend, call, callback

    def get(self, timeout: float | None = None) -> Any:
        """Return or raise the result."""
        while not self.done():
            self.backend.deal()
        return self.result()


class WorkerBackend(ParallelBackendBase):  # type: ignore[misc]
    """The joblib backend of ``fused_fits(backend=...)``: each worker of another backend gets a portion of the tasks."""

    def __init__(
        self,
        name: str | ParallelBackendBase = "loky",
        n_jobs: int = -1,
        report: FusionReport | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name, self.n_portions = name, n_jobs
        self.report = FusionReport() if report is None else report
        self.undealt: list[DealtCall] = []

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks may be under way."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return Scheduler.MAX_TASKS * self._count_portions()

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Keep the caller, and return the number of tasks that may be under way."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any]) -> DealtCall:
        """Keep a call until it is dealt out."""
        self.undealt.append(DealtCall(self, func, callback))
        return self.undealt[-1]

    apply_async = submit

    def deal(self) -> None:
        """Have the workers run the calls that were taken, a portion each."""
        calls, self.undealt = self.undealt, []
        n = min(self._count_portions(), len(calls))
        portions = [calls[len(calls) * k // n : len(calls) * (k + 1) // n] for k in range(n)]
        with joblib.parallel_config(backend=self.name, n_jobs=self.n_portions):
            results = joblib.Parallel()(
                joblib.delayed(run_portion)([each.call for each in portion]) for portion in portions
            )
        for portion, (outcomes, stacks) in zip(portions, results, strict=True):
            self.report.stacks += stacks
            for each, (has_succeeded, outcome) in zip(portion, outcomes, strict=True):
                (each.set_result if has_succeeded else each.set_exception)(outcome)
        for each in calls:
            if each.exception() is None:
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

    def _count_portions(self) -> int:
        with joblib.parallel_config(backend=self.name):
            return int(joblib.effective_n_jobs(self.n_portions))


def run_portion(calls: list[Callable[[], Any]]) -> tuple[list[tuple[bool, Any]], list[TrainedStack]]:
    """Run calls in this process, fused. Return whether each succeeded, with its result or its error, and the stacks."""
    scheduler = Scheduler(FusionReport(), verbose=False)
    tasks = [Task(scheduler, call, lambda result: None, depth=0) for call in calls]
    for task in tasks:
        scheduler.submit(task)
    outcomes: list[tuple[bool, Any]] = []
    with warning_filters:
        try:
            for task in tasks:
                try:
                    outcomes.append((True, task.get()))
                except Exception as error:
                    outcomes.append((False, error))
                    break
        finally:
            scheduler.close()
    skipped = (False, RuntimeError("another task of this portion failed first"))
    return outcomes + [skipped] * (len(tasks) - len(outcomes)), scheduler.pool.report.stacks
