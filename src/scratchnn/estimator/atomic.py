"""Atomic changes of the fitted attributes: `fit` works on a copy of the estimator, and predictions on a snapshot."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from ..tables.summary import get_exchange
from ..training import is_out_of_memory

FITTED_PRIVATE = ("_state", "_cache", "_fill", "_activation", "_fixed_params")  # besides names that end in "_"

T = TypeVar("T")


def freeze(estimator: T) -> T:
    """Return a snapshot of the estimator, which a later `fit`, perhaps in another thread, does not change."""
    frozen = object.__new__(type(estimator))
    frozen.__dict__ = vars(estimator)  # `fit` replaces this dict, and does not change it
    return frozen


@contextmanager
def fitted_at_once(estimator: T, method: str) -> Iterator[T]:
    """Yield a copy of the estimator for fitting. At the end, the estimator gets all fitted attributes at once.

    A fit that fails or is interrupted changes nothing. If memory runs out, the error says which parameters to lower. If
    other processes take part in the ``method``, it fails in all of them.
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
    """Return whether `fit` sets an attribute of this name."""
    return name in FITTED_PRIVATE or (name.endswith("_") and not name.startswith("_"))


def _explain_memory(estimator: Any, error: BaseException) -> BaseException:
    """Return an error that says which parameters to lower."""
    is_cuda = isinstance(error, torch.cuda.OutOfMemoryError)
    kind = torch.cuda.OutOfMemoryError if is_cuda else MemoryError
    batch = "" if estimator.solver == "lbfgs" else f"batch_size={estimator.batch_size!r} or "
    other = "set device='cpu'" if is_cuda else "pass fewer samples or features"
    return kind(
        f"The network and its batches must fit in memory, which ran out. Lower {batch}"
        f"hidden_layer_sizes={estimator.hidden_layer_sizes!r}, or {other}. The error was: {error}"
    )
