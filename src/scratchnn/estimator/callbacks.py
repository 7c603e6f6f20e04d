"""The bridge to scikit-learn's callbacks, experimental and new in its version 1.9. No other module uses them."""

from collections.abc import Callable
from typing import Any

from ..training.buffers import Buffer

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """An empty base class, as this scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method unchanged."""
        return method


__all__ = ["CallbackSupportMixin", "Reporter", "has_callbacks", "with_callbacks"]


class Reporter:
    """Tells the callbacks of an estimator of the beginning and end of a fit and of each of its epochs.

    ``describe`` takes coefficients and returns the fitted attributes. It is called only if a callback reads them.
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

    def end_epoch(self, n_epochs: int, get_buffer: Callable[[], Buffer]) -> bool:
        """Report the end of an epoch, the ``n_epochs``-th, and the beginning of the next. Return whether to stop."""
        if n_epochs <= self.n_reported:  # the run was started again, and this epoch has been reported
            return False
        self.n_reported = n_epochs
        stop = bool(
            self.epoch.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.describe(get_buffer()))
        )
        if not stop and n_epochs < self.max_iter:
            self._begin_epoch()
        return stop

    def end(self, buffer: Buffer) -> None:
        """Report the end of the fit. ``buffer`` holds the coefficients of the model."""
        self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.describe(buffer))


def has_callbacks(estimator: Any) -> bool:
    """Return whether callbacks are set on the estimator."""
    return bool(getattr(estimator, "_skl_callbacks", None))
