"""The context `fused_fits`, and the checks of its parameters."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from numbers import Integral

import joblib
import numpy as np
from joblib.parallel import BACKENDS, EXTERNAL_BACKENDS, MAYBE_AVAILABLE_BACKENDS, ParallelBackendBase

from .progress import Bar, OutsideFits
from .report import FusionReport, print_line
from .scheduler import Scheduler, warning_filters
from .workers import DealingBackend


@contextmanager
def fused_fits(
    *,
    backend: str | ParallelBackendBase | None = None,
    n_jobs: int | None = None,
    verbose: bool | int = False,
    progress: bool = False,
) -> Iterator[FusionReport]:
    """Train the networks that scikit-learn's parallel tasks fit inside this context together, with the same results.

    Parameters
    ----------
    backend : str or joblib backend, default=None
        The joblib backend whose workers get the tasks of calls with ``n_jobs`` of 2 or more, or below 0: None is
        'loky', with processes of this machine. Others are 'threading', 'multiprocessing', 'dask', which needs a
        ``distributed.Client``, and 'ray', which needs ``ray.init()`` and ``ray.util.joblib.register_ray()``. Any other
        must be registered with joblib before.
    n_jobs : int, default=None
        Number of workers of a call that does not set ``n_jobs``; needs a ``backend``. None takes the number from
        ``joblib.parallel_config``. Where that sets none, it is -1 with a ``backend``, and 1 without.
    verbose : bool or int, default=False
        Whether to print a line for each stack.
    progress : bool, default=False
        Whether to show a bar on standard error or in the notebook, with the fits that are done, the stacks, and the
        time left. It needs tqdm.

    Yields
    ------
    report : FusionReport
        What has been trained so far: stacks, sizes, seconds, and why a fit was trained alone.

    Raises
    ------
    ValueError
        If a parameter is of the wrong type, if joblib knows no such backend or it is not ready, or if ``n_jobs`` is
        given without ``backend``, or is 0.
    ImportError
        If ``progress`` is True and tqdm is not installed.

    Notes
    -----
    ``n_jobs`` has its usual meaning. With None or 1, all tasks train in this process, where they take turns. With more,
    or below 0, that many workers get portions of the tasks. Each worker trains its portions together, with its share of
    the cores. Calls inside a task, and calls that need threads, stay in the process of the task, whatever their
    ``n_jobs``. Without a ``backend``, so do calls that prefer threads and a search on CUDA. ``report.notes`` says so.

    Times that scikit-learn measures, such as ``mean_fit_time``, count the wait for the others. What is fitted in no
    task of joblib, such as the final ``refit`` of a search, is not fused and not in the report.
    ``joblib.Parallel`` cannot return a generator inside.

    The bar counts epochs, so it moves within a stack, and it counts fits outside of tasks, too. What other processes
    train counts when its portion ends. joblib makes at most 512 tasks ahead, and 2,048 for each of several workers: of
    a larger search, the number of fits grows meanwhile.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from scratchnn import ScratchNNClassifier, fused_fits
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = ScratchNNClassifier((10,), max_iter=20, tol=0, n_iter_no_change=np.inf, random_state=0)
    >>> with fused_fits() as report:
    ...     search = GridSearchCV(classifier, {"alpha": [0.1, 1.0]}, cv=3, refit=False).fit(X, y)
    >>> report.n_fits
    6
    """
    _check_parameters(backend, n_jobs, verbose, progress)
    report = FusionReport()
    bar = Bar(report) if progress else None
    say = None if not verbose else print_line if bar is None else bar.say
    scheduler = Scheduler(report, say)
    if n_jobs is None:
        n_jobs = joblib.parallel.get_active_backend()[1] or (1 if backend is None else -1)
    with warning_filters, nullcontext() if bar is None else _show(bar, scheduler):
        try:
            with joblib.parallel_config(backend=DealingBackend(scheduler, backend, int(n_jobs)), n_jobs=int(n_jobs)):
                yield report
        finally:
            scheduler.close()


@contextmanager
def _show(bar: Bar, scheduler: Scheduler) -> Iterator[None]:
    outside = OutsideFits()
    scheduler.counters.append(outside)
    with bar.show(scheduler.counters), outside.watch():
        yield


def _check_parameters(backend: object, n_jobs: object, verbose: object, progress: object) -> None:
    remedy = "Use the number of workers, or None for all of the backend's."
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral)):
        raise ValueError(f"n_jobs must be an int or None, got {n_jobs!r}. {remedy}")
    if n_jobs == 0:
        raise ValueError(f"n_jobs must not be 0, got 0. {remedy}")
    if backend is None and n_jobs is not None:
        raise ValueError(f"n_jobs must go with a backend, got {n_jobs} and backend=None. Use backend='loky'.")
    if not isinstance(verbose, bool | np.bool_) and not (isinstance(verbose, Integral) and int(verbose) >= 0):
        raise ValueError(f"verbose must be a bool or an int of at least 0, got {verbose!r}. Use True to print a line.")
    if not isinstance(progress, bool | np.bool_):
        raise ValueError(f"progress must be a bool, got {progress!r}. Use True to show a bar.")
    if backend is None or isinstance(backend, ParallelBackendBase):
        return
    names = sorted({*BACKENDS, *EXTERNAL_BACKENDS, *MAYBE_AVAILABLE_BACKENDS})
    if not isinstance(backend, str) or backend not in names:
        raise ValueError(
            f"backend must be None, one of {names} or an instance of a joblib backend, got {backend!r}. Use 'loky', or "
            "register yours with joblib.register_parallel_backend first; ray does so in ray.util.joblib.register_ray."
        )
    try:
        with joblib.parallel_config(backend=backend):
            pass
    except Exception as error:
        remedy = "Install distributed, and make a client first: distributed.Client()." if backend == "dask" else ""
        remedy = remedy or "Make it ready before, or use backend='loky'."
        raise ValueError(f"backend must be ready for use, got {backend!r}, which is not: {error}. {remedy}") from error
