"""Reports to scikit-learn's callbacks, which are experimental and new in version 1.9."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ..tables.statistics import ColumnStatistics
from ..training import EpochResult, TrainingRun
from ..training.buffers import Buffer
from .attributes import store_coeffs
from .call import Call

VALIDATED = ("n_features_in_", "feature_names_in_", "encoder_", "_fill")  # attributes that validation sets


class Reporter:
    """Notifies the callbacks of an estimator when a fit and each of its epochs begin and end.

    ``describe`` takes coefficients and returns the fitted attributes. It is called only if a callback reads them. If a
    fit resumes from a checkpoint, its first ``n_done`` epochs are counted, but not reported.
    """

    def __init__(
        self, data: dict[str, Any], max_iter: int, describe: Callable[[Buffer], dict[str, Any]], n_done: int = 0
    ) -> None:
        self.data, self.max_iter, self.describe = data, max_iter, describe
        self.n_reported = n_done
        self.context = data["estimator"]._init_callback_context(max_subtasks=max_iter)
        self.context.call_on_fit_task_begin(**self.data)
        for _ in range(n_done):
            self.context.subcontext(task_name="epoch")
        if n_done < max_iter:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self.data)

    def end_epoch(self, epoch: EpochResult) -> bool:
        """Report the end of an epoch, and the beginning of the next. Return whether to stop."""
        if epoch.number <= self.n_reported:  # the run was restarted, and this epoch has been reported
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


def make_reporter(call: Call, run: TrainingRun, statistics: ColumnStatistics, has_ended: bool) -> Reporter | None:
    """Return a reporter of the run to the estimator's callbacks; None if there are no callbacks."""
    if call.reported is None or not get_callbacks(call.estimator):
        return None

    def describe(buffer: Buffer) -> dict[str, Any]:
        validated = {name: value for name, value in vars(call.estimator).items() if name in VALIDATED}
        described = SimpleNamespace(**validated)
        store_coeffs(described, buffer, call.labels, statistics, call.array_library)
        return vars(described)

    max_iter = run.n_epochs if has_ended else run.hyperparameters.max_iter
    return Reporter(call.reported, max_iter, describe, run.n_epochs)
