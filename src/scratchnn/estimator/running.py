"""The training of a fit, of whose epochs its callbacks and its checkpoint are told."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..training import Epoch, TrainingRun, failing_together, get_ranks, train_run
from ..training.buffers import Buffer
from .callbacks import Reporter, get_callbacks
from .fitted import store_coeffs
from .resuming import Session
from .scaling import Scales

if TYPE_CHECKING:
    from .fitting import Call, Fit


@failing_together
def begin_training(fit: "Fit") -> tuple[Reporter | None, bool]:
    """Set the run to the state of its checkpoint, in place. Return the reporter, and whether the run had ended."""
    session = fit.call.session
    has_ended = session is not None and session.restore(fit.run)
    reporter = _make_reporter(fit.call, fit.run, fit.scales, has_ended)
    fit.call.ranks.gather(None)  # an error above reaches the other processes here, before they train
    return reporter, has_ended


def train_network(run: TrainingRun, reporter: Reporter | None, session: Session | None) -> None:
    """Train the run, in place, or raise its error. Tell ``reporter`` and ``session`` of its epochs."""

    def report(epoch: Epoch) -> bool:
        return reporter is not None and reporter.end_epoch(epoch)

    @failing_together
    def report_together(epoch: Epoch) -> bool:
        return get_ranks().any(report(epoch))

    def on_epoch(epoch: Epoch) -> bool:
        if session is None:
            return report(epoch)
        stop = report_together(epoch)  # all processes of data_parallel write, or none
        if not (stop or epoch.is_last):
            session.end_epoch(run, epoch)
        return stop

    if reporter is not None or session is not None:
        run.on_epoch = on_epoch
    if len(run.data.deps):
        train_run(run)
    if run.error is not None:
        raise run.error
    if session is not None and not run.interrupted:
        session.end(run)


def _make_reporter(call: "Call", run: TrainingRun, scales: Scales, has_ended: bool) -> Reporter | None:
    """Return a reporter that tells the estimator's callbacks of the run; None if there are no callbacks."""
    if call.reported is None or not get_callbacks(call.estimator):
        return None

    def describe(buffer: Buffer) -> dict[str, Any]:
        described = SimpleNamespace()
        store_coeffs(described, buffer, call.labels, scales, call.array_library)
        return vars(described)

    max_iter = run.n_epochs if has_ended else run.settings.max_iter
    return Reporter(call.estimator, max_iter, call.reported, describe, run.n_epochs)
