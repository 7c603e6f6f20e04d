"""The bridge to scikit-learn's callbacks, experimental and new in its version 1.9. No other module uses them."""

from collections.abc import Callable
from typing import Any

from ..training import Epoch
from ..training.buffers import Buffer

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """An empty base class, as this scikit-learn has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method unchanged."""
        return method


__all__ = ["CallbackSupportMixin", "Reporter", "get_callbacks", "with_callbacks"]


class Reporter:
    """Tells the callbacks of an estimator of the beginning and end of a fit and of each of its epochs.

    ``describe`` takes coefficients and returns the fitted attributes. It is called only if a callback reads them. Of a
    fit that continues from a checkpoint, the first ``n_done`` epochs are counted, and not reported.
    """

    def __init__(
        self,
        estimator: Any,
        max_iter: int,
        data: dict[str, Any],
        describe: Callable[[Buffer], dict[str, Any]],
        n_done: int = 0,
    ) -> None:
        self.data = {"estimator": estimator, **data}
        self.max_iter, self.describe = max_iter, describe
        self.n_reported = n_done
        self.context = estimator._init_callback_context(max_subtasks=max_iter)
        self.context.call_on_fit_task_begin(**self.data)
        for _ in range(n_done):
            self.context.subcontext(task_name="epoch")
        if n_done < max_iter:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self.data)

    def end_epoch(self, epoch: Epoch) -> bool:
        """Report the end of an epoch, and the beginning of the next. Return whether to stop."""
        if epoch.number <= self.n_reported:  # the run was started again, and this epoch has been reported
            return False
        self.n_reported = epoch.number
        stop = self.epoch.call_on_fit_task_end(
            **self.data, reconstruction_attributes=lambda: self.describe(epoch.get_buffer())
        )
        if not stop and epoch.number < self.max_iter:
            self._begin_epoch()
        return bool(stop)

    def end(self, buffer: Buffer) -> None:
        """Report the end of the fit. ``buffer`` holds the coefficients of the model."""
        self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.describe(buffer))


def get_callbacks(estimator: Any) -> list[Any]:
    """Return the callbacks that are set on the estimator."""
    return list(getattr(estimator, "_skl_callbacks", None) or [])
