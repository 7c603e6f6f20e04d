"""Restores the fitted attributes if `fit` or `partial_fit` fails."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ..tables.summary import get_exchange
from ..training import is_out_of_memory

FITTED_PRIVATE = ("_state", "_cache", "_fill")  # attributes that a fit sets, besides those whose names end in "_"


@contextmanager
def keep_on_error(estimator: Any, method: str) -> Iterator[None]:
    """Give the estimator back the fitted attributes that it had, in place, if an error or an interrupt ends the block.

    So a fit that fails changes nothing: the estimator predicts as before, or is not fitted. If memory ran out, the
    error that is raised says what to lower. If other processes take part in the ``method``, it fails in all of them.
    """
    exchange = get_exchange()
    before = _get_fitted(estimator)
    lengths = {name: len(value) for name, value in before.items() if isinstance(value, list)}
    try:
        with nullcontext() if exchange is None else exchange.guard(estimator, method):
            yield
    except BaseException as error:
        for name in _get_fitted(estimator):
            delattr(estimator, name)
        vars(estimator).update(before)
        for name, length in lengths.items():  # curves are extended in place
            del before[name][length:]
        if is_out_of_memory(error):
            raise _explain_memory(estimator, error) from error
        raise


def _get_fitted(estimator: Any) -> dict[str, Any]:
    """Return the attributes that fits set."""
    return {
        name: value
        for name, value in vars(estimator).items()
        if name in FITTED_PRIVATE or (name.endswith("_") and not name.startswith("_"))
    }


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
