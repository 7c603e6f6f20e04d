"""The context `fused_fits`."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from numbers import Integral

import joblib
import numpy as np
from joblib.parallel import get_active_backend

from ..training import trainer
from ..training.threads import SharedContext
from .backend import FusedBackend
from .hub import Fusion
from .progress_bar import Bar
from .report import FusionReport
from .watcher import start_watcher

# Several threads, whose tasks change the filters, may be in contexts: the last thread to leave restores the filters.
warning_filters = SharedContext(warnings.catch_warnings)


@contextmanager
def fused_fits(*, verbose: bool | int = 0, progress: bool = False) -> Iterator[FusionReport]:
    """Train the networks that joblib's tasks fit inside this context together. Each step is the same up to rounding.

    Parameters
    ----------
    verbose : bool or int, default=0
        Whether to print a line for each stack.
    progress : bool, default=False
        Whether to show a progress bar on standard error or in the notebook, with the number of finished fits and of
        stacks, and the time left. It needs tqdm.

    Yields
    ------
    report : FusionReport
        The stacks trained so far, with their sizes and times, and why a fit was trained alone.

    Raises
    ------
    ValueError
        If a parameter is of the wrong type.
    ImportError
        If ``progress`` is True and tqdm is not installed.

    Notes
    -----
    ``n_jobs`` has its usual meaning. With None or 1, all tasks run in the calling thread, one at a time. With more, or
    below 0, the workers of the active joblib backend (loky, or that of ``joblib.parallel_config`` around this context)
    get chunks of the tasks, and each worker fuses its chunks. Parallel calls inside a task are fused in its process.
    Calls that prefer threads or require shared memory run one after the other, as with joblib's sequential backend.

    ``mean_fit_time`` of a search includes the time in which a fit waits for others. The final ``refit`` of a search
    runs outside of joblib, and trains alone. ``joblib.Parallel(return_as="generator")`` is not supported.

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
    _check_parameters(verbose, progress)
    fusion = Fusion(partial(print, "[fused_fits]", flush=True) if verbose else None)
    backend = _make_backend(fusion)
    with ExitStack() as stack:
        stack.enter_context(warning_filters)
        if progress:
            bar = Bar(fusion)
            fusion.log = bar.log if verbose else None
            stack.enter_context(bar.show())
        stack.callback(start_watcher(fusion).set)
        stack.callback(trainer.set, trainer.get())
        trainer.set(partial(fusion.train_outside, trainer.get()))
        stack.enter_context(joblib.parallel_config(backend=backend, n_jobs=backend.default_n_jobs))
        yield fusion.report


def _make_backend(fusion: Fusion) -> FusedBackend:
    """Return the backend for calls outside of tasks, whose workers are those of the active backend."""
    active, n_jobs = get_active_backend()
    workers = active.workers if isinstance(active, FusedBackend) else None if active.nesting_level else active
    return FusedBackend(fusion, 0, workers, int(active.default_n_jobs if n_jobs is None else n_jobs))


def _check_parameters(verbose: object, progress: object) -> None:
    if not isinstance(verbose, bool | np.bool_) and not (isinstance(verbose, Integral) and int(verbose) >= 0):
        raise ValueError(f"verbose must be a bool or an int of at least 0, got {verbose!r}.")
    if not isinstance(progress, bool | np.bool_):
        raise ValueError(f"progress must be a bool, got {progress!r}.")
