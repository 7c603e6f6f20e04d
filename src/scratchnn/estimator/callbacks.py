"""The bridge to scikit-learn's callbacks, which are experimental there and came with 1.9. Nothing else knows them."""

from collections.abc import Callable
from typing import Any

from ..training.buffers import Buffer

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Reporter", "has_callbacks", "with_callbacks"]


class Reporter:
    """Tells the callbacks of an estimator of the beginning and end of a fit and of each of its epochs.

    ``describe`` gives the fitted attributes for coefficients. It is called only if a callback wants them.
    """

    def __init__(
        self, estimator: Any, max_iter: int, data: dict[str, Any], describe: Callable[[Buffer], dict[str, Any]]
    ) -> None:
        self.data = {"estimator": estimator, **data}
        self.max_iter, self.describe = max_iter, describe
        self.n_reported = 0
        self.context = estimator._init_callback_context(max_subtasks=max_iter)
        self.context.call_on_fit_task_begin(**self.data)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self.data)

    def end_epoch(self, n_epochs: int, get_coeffs: Callable[[], Buffer]) -> bool:
        """Report the end of an epoch, the ``n_epochs``-th, and the beginning of the next. Return whether to stop."""
        if n_epochs <= self.n_reported:  # of a run that had to begin again
            return False
        self.n_reported = n_epochs
        stop = bool(
            self.epoch.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.describe(get_coeffs()))
        )
        if not stop and n_epochs < self.max_iter:
            self._begin_epoch()
        return stop

    def end(self, buffer: Buffer) -> None:
        """Report the end of the fit, which arrived at these coefficients."""
        self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.describe(buffer))


def has_callbacks(estimator: Any) -> bool:
    """Return whether anybody wants to hear of the estimator's fit."""
    return bool(getattr(estimator, "_skl_callbacks", None))
