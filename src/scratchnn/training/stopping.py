"""The end of an epoch and of a run: improvement, patience, the learning rate, divergence, and messages."""

import math
import signal
import traceback
from functools import partial

import torch
from torch import Tensor

from ..exceptions import DivergenceError
from .run import EpochResult, Hyperparameters, TrainingRun
from .solvers import N_ANNEALED, SCHEDULES

MIN_RATE = 1e-6  # "adaptive" stops at this rate
FINITE_LOSS = "make sure that loss, your function, and its gradient are finite for all finite logits"


def end_epoch(
    run: TrainingRun,
    loss: float,
    validation_loss: float | None,
    flat: Tensor,
    training_loss: float | None = None,
    generator: torch.Generator | None = None,
) -> bool:
    """Record an epoch of ``run``, in place, and return whether it was the last.

    ``flat``, (n_coeffs,), are the coefficients after the epoch. ``training_loss`` is the loss without the penalty; None
    if ``loss`` has no penalty. ``generator`` is the one that the run draws from; None is its own.
    """
    run.n_epochs += 1
    run.history.losses.append(loss)
    run.history.training_losses.append(loss if training_loss is None else training_loss)
    try:
        return _judge_epoch(run, loss, validation_loss, flat, generator or run.generator)
    except Exception as error:
        if is_interrupt(error):  # which ends all runs
            raise
        run.error = error
        return True


def is_interrupt(error: BaseException) -> bool:
    """Return whether an error is Ctrl-C, or an error of a signal handler."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()} - {None}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return not isinstance(error, Exception) or any(frame.f_code in handlers for frame in frames)


def end_run(run: TrainingRun) -> None:
    """Record, in place, that a run diverged if its coefficients are not finite.

    The last update is part of no loss. If early stopping has kept coefficients, the run gets them.
    """
    if torch.isfinite(run.buffer.flat).all():
        return
    if run.best_flat is not None:
        run.buffer.flat.copy_(run.best_flat)
    if run.error is None and run.warning is None:
        diverge(run, "coefficients are not finite")


def calc_rate(params: Hyperparameters, n_samples_seen: int) -> float:
    """Return the learning rate with which an epoch begins, unless "adaptive" has lowered it."""
    if params.learning_rate != "invscaling":
        return params.learning_rate_init
    # A power with a negative exponent becomes 0 where its inverse would overflow.
    return float(params.learning_rate_init * (n_samples_seen + 1.0) ** -params.power_t)


def diverge(run: TrainingRun, sign: str) -> None:
    """Record, in place, that training diverged: as a warning if the best coefficients are kept, else as an error.

    ``sign`` is the evidence, as a clause.
    """
    when = f"at epoch {run.n_epochs}" if run.n_epochs else "at the start"
    message = f"Training diverged: {sign} {when}. "
    remedy = _advise_on_divergence(run)
    if run.best_flat is None:
        run.error = DivergenceError(message + remedy)
    else:
        run.warning = f"{message}The coefficients of the best epoch are kept. {remedy}"


def _judge_epoch(
    run: TrainingRun, loss: float, validation_loss: float | None, flat: Tensor, generator: torch.Generator
) -> bool:
    """Update the history of a run, in place, and return whether the epoch was its last."""
    params, history = run.hyperparameters, run.history
    line = f"Iteration {run.n_epochs}, loss = {loss:.8f}"
    if not math.isfinite(loss):
        _print(run, line)
        diverge(run, f"the loss is {loss}")
        return True
    improved = _note_loss(run, loss)
    if validation_loss is not None:
        validation_improved = _note_validation(run, validation_loss, flat)
        improved = validation_improved if params.early_stopping else improved
        line += f", validation score = {history.validation_scores[-1]:f}"
    _print(run, line)
    history.n_no_change = 0 if improved else history.n_no_change + 1
    if params.learning_rate == "invscaling":
        history.rate = calc_rate(params, history.n_samples_seen)
    is_last = _is_out_of_patience(run) or _is_out_of_epochs(run)
    if run.on_epoch is None:
        return is_last
    if run.on_epoch(EpochResult(run.n_epochs, is_last, partial(run.copy_buffer, flat), generator)):
        run.warning = None  # the run was asked to stop
        return True
    return is_last


def _note_loss(run: TrainingRun, loss: float) -> bool:
    """Record the best loss, in place, and return whether ``loss`` improves on all earlier ones by ``tol`` or more."""
    improved = loss <= run.history.best_loss - run.hyperparameters.tol
    run.history.best_loss = min(run.history.best_loss, loss)
    return improved


def _note_validation(run: TrainingRun, loss: float, flat: Tensor) -> bool:
    """Record the validation score, in place, and return whether it improves on all earlier ones by ``tol`` or more."""
    params, history = run.hyperparameters, run.history
    calc_score = run.calc_score if math.isfinite(loss) else None  # scorers refuse NaN and infinity
    score = -loss if calc_score is None else calc_score(run.copy_buffer(flat))
    history.validation_losses.append(loss)
    history.validation_scores.append(score)
    improved = score >= history.best_score + params.tol  # False for NaN
    if score > history.best_score:
        history.best_score = score
        if params.early_stopping:
            run.best_flat = flat.clone()
    return improved


def _is_out_of_patience(run: TrainingRun) -> bool:
    """Return whether too many epochs brought no improvement. "adaptive" lowers the rate first, in place."""
    params, history = run.hyperparameters, run.history
    if history.annealing is not None:
        return run.n_epochs >= history.annealing + N_ANNEALED
    if history.n_no_change <= params.n_iter_no_change:
        return False
    watched = "Validation score" if params.early_stopping else "Training loss"
    reason = f"{watched} did not improve more than tol={params.tol:f} for {params.n_iter_no_change} epochs."
    if params.learning_rate in SCHEDULES:
        history.annealing = run.n_epochs
        _print(run, f"{reason} The learning rate falls to zero.")
        return False
    if params.learning_rate != "adaptive":
        _print(run, f"{reason} Stopping.")
        return True
    assert history.rate is not None
    if history.rate <= MIN_RATE:
        _print(run, f"{reason} Learning rate too small. Stopping.")
        return True
    history.rate /= 5
    history.n_no_change = 0
    _print(run, f"{reason} Setting learning rate to {history.rate:f}")
    return False


def _is_out_of_epochs(run: TrainingRun) -> bool:
    params = run.hyperparameters
    if run.n_epochs < params.max_iter:
        return False
    has_rule = params.tol > 0 or math.isfinite(params.n_iter_no_change)
    if has_rule and not params.full_schedule:
        run.warning = (
            f"Maximum iterations (max_iter={params.max_iter}) reached and the training has not converged "
            f"yet. {_advise_on_end(run)}"
        )
    return True


def _advise_on_end(run: TrainingRun) -> str:
    params = run.hyperparameters
    more, patience = f"Set max_iter to more than {params.max_iter}", params.n_iter_no_change
    if params.learning_rate in SCHEDULES:
        return f"{more}, or leave it None: the schedule was over before n_iter_no_change={patience:g} epochs."
    if params.solver != "lbfgs":
        return (
            f"{more}, or raise tol={params.tol:g} or learning_rate_init={params.learning_rate_init:g}, or set "
            "learning_rate='auto', which ends after 50 epochs."
        )
    return f"{more}, or raise tol={params.tol:g}{'' if params.standardize else ', or set standardize=True'}."


def _advise_on_divergence(run: TrainingRun) -> str:
    params = run.hyperparameters
    remedies = []
    if params.solver != "lbfgs":
        remedies.append(f"lower learning_rate_init={params.learning_rate_init}")
    if params.solver == "sgd" and params.momentum > 0.9:
        remedies.append(f"lower momentum={params.momentum}")
    if not params.standardize:
        remedies.append("scale the columns of X (standardize=True does so)")
    if callable(params.loss):
        remedies.append(FINITE_LOSS)
    remedy = ", or ".join(remedies or [f"lower alpha={params.alpha:g}, or set solver='adam'"])
    return f"{remedy[0].upper()}{remedy[1:]}."


def _print(run: TrainingRun, line: str) -> None:
    if run.hyperparameters.verbose:
        print(line)
