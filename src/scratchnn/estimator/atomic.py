"""All fitted attributes change at once: a fit works on a copy of the estimator, and predictions on one state of it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from ..tables.summary import get_exchange
from ..training import is_out_of_memory

FITTED_PRIVATE = ("_state", "_cache", "_fill", "_activation", "_fixed_params")  # besides names that end in "_"

T = TypeVar("T")


def freeze(estimator: T) -> T:
    """Return the estimator as it is now: a later `fit`, perhaps in another thread, does not change it."""
    frozen = object.__new__(type(estimator))
    frozen.__dict__ = vars(estimator)  # which `fit` replaces, and does not change
    return frozen


@contextmanager
def fitted_at_once(estimator: T, method: str) -> Iterator[T]:
    """Yield a copy of the estimator, which is to be fitted. The estimator gets its attributes at the end, all at once.

    So a fit that fails or is interrupted changes nothing. If memory ran out, the error that is raised says what to
    lower. If other processes take part in the ``method``, it fails in all of them.
    """
    copied = object.__new__(type(estimator))
    vars(copied).update(vars(estimator))
    exchange = get_exchange()
    try:
        with nullcontext() if exchange is None else exchange.guard(estimator, method):
            yield copied
    except BaseException as error:
        if is_out_of_memory(error):
            raise _explain_memory(estimator, error) from error
        raise
    others = {name: value for name, value in vars(estimator).items() if not is_fitted(name)}
    estimator.__dict__ = others | {name: value for name, value in vars(copied).items() if is_fitted(name)}


def is_fitted(name: str) -> bool:
    """Return whether fits set the attribute of this name."""
    return name in FITTED_PRIVATE or (name.endswith("_") and not name.startswith("_"))


def _explain_memory(estimator: Any, error: BaseException) -> BaseException:
    """Return an error that says what to lower so that memory suffices."""
    is_cuda = isinstance(error, torch.cuda.OutOfMemoryError)
    kind = torch.cuda.OutOfMemoryError if is_cuda else MemoryError
    batch = "" if estimator.solver == "lbfgs" else f"batch_size={estimator.batch_size!r} or "
    other = "set device='cpu'" if is_cuda else "pass fewer rows or columns"
    return kind(
        f"The network and its batches must fit in memory, which ran out. Lower {batch}"
        f"hidden_layer_sizes={estimator.hidden_layer_sizes!r}, or {other}. The error was: {error}"
    )
