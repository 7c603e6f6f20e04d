"""L-BFGS, which scipy does, for one run at a time."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from ..losses import get_loss
from ..network import calc_loss, get_grads, store_grads, sum_losses
from . import stopping
from .batches import take
from .buffers import add_squares, meet
from .run import TrainingRun
from .threads import SharedContext, use_threads


@cache
def _find_blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


# For scipy's optimizers: NumPy's and scipy's BLAS get one thread, as short vectors need no more. With more, they would
# fight with PyTorch's for the cores, which takes several times as long.
_one_blas_thread = SharedContext(lambda: _find_blas().limit(limits=1))


def minimize_lbfgs(
    calc_loss_and_grads: Callable[[Tensor], tuple[float, Tensor]],
    flat: Tensor,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    on_iteration: Callable[[Tensor, float], None],
) -> str | None:
    """Minimize with scipy's L-BFGS-B. Return why it stopped short: "max_fun", "line search", or None if it did not.

    Parameters
    ----------
    calc_loss_and_grads : callable
        Gives the loss and its gradient, ``(n_coeffs,)``, for coefficients of that shape.
    flat : Tensor of shape (n_coeffs,)
        Where to start; changed in place, to the last accepted step.
    max_iter, max_fun : int
        The most iterations, and the most evaluations of the loss.
    tol : float
        Stop when no entry of the gradient is larger.
    on_iteration : callable
        Takes the coefficients and the loss after each iteration; may raise StopIteration to end.
    """
    last = [np.inf]

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        last[0], grads = calc_loss_and_grads(torch.from_numpy(vector).to(flat))
        return last[0], grads.double().cpu().numpy()

    def callback(vector: np.ndarray) -> None:
        flat.copy_(torch.from_numpy(vector))
        on_iteration(flat, last[0])

    # The options of scikit-learn's LogisticRegression: the gradient decides, not a small gain in the loss.
    options = {"maxiter": max_iter, "maxfun": max_fun, "gtol": tol, "maxls": 50, "ftol": 64 * np.finfo(float).eps}
    start = flat.double().cpu().numpy().copy()
    try:
        with _one_blas_thread:
            result = scipy.optimize.minimize(
                objective, start, method="L-BFGS-B", jac=True, callback=callback, options=options
            )
    except StopIteration:  # scipy before 1.11 lets it through
        return None
    if result.status in (0, 99):  # 99 is a StopIteration of the callback
        return None
    if result.status == 1:
        return "max_fun"
    # Where the gradient is about the root of the loss's rounding, no step changes the loss by more than that.
    rounding = torch.finfo(flat.dtype).eps * max(1.0, abs(result.fun))
    return None if np.abs(result.jac).max() <= max(tol, rounding**0.5) else "line search"


def _explain_lbfgs(run: TrainingRun, reason: str) -> str:
    settings = run.settings
    if reason == "max_fun":
        return f"max_fun={settings.max_fun} evaluations of the loss are done. Raise max_fun, or tol={settings.tol:g}."
    remedies = [f"Raise tol={settings.tol:g}"]
    if not settings.standardize:
        remedies.append("scale the columns of X (standardize=True does so)")
    if run.coeffs.flat.dtype != torch.float64:
        remedies.append("set dtype='float64'")
    if callable(settings.loss):
        remedies.append(stopping.FINITE_LOSS)
    remedies.append("take solver='adam', which needs no smooth loss")
    return f"its line search found no smaller loss. {', or '.join(remedies)}."


def train_lbfgs(run: TrainingRun) -> None:
    """Train one run with L-BFGS, in place."""
    coeffs, data, loss = run.coeffs, run.data, get_loss(run.settings.loss)
    indeps = take(data.indeps, slice(None))
    penalty = run.settings.alpha / (run.data.weight_mean * len(data.deps))

    training_loss = math.nan  # of the last evaluation, without the penalty

    def calc_loss_and_grads(flat: Tensor) -> tuple[float, Tensor]:
        nonlocal training_loss
        current = meet(replace(coeffs, flat=flat), data)
        logits = store_grads(current, indeps, data.deps, data.weights, loss)
        value = sum_losses(logits, data.deps, data.weights, loss, coeffs.output) / len(data.deps)
        squares = torch.zeros_like(value)
        add_squares(squares, flat[: coeffs.n_weights])
        penalized = value + penalty / 2 * squares
        grads = get_grads(current.flat)
        grads[: coeffs.n_weights] += penalty * flat[: coeffs.n_weights]
        run.history.n_updates += 1
        penalized_loss, training_loss = torch.stack([penalized, value]).tolist()
        return penalized_loss, grads

    def on_iteration(flat: Tensor, value: float) -> None:
        run.history.n_samples_seen += len(data.deps)
        validation = run.validation
        validation_loss = None
        if validation is not None:
            with use_threads(validation.count_work(len(validation.deps), coeffs)):
                validation_loss = calc_loss(
                    meet(replace(coeffs, flat=flat), validation),
                    take(validation.indeps, slice(None)),
                    validation.deps,
                    validation.weights,
                    loss,
                ).item()
        if stopping.end_epoch(run, value, validation_loss, flat, training_loss):
            raise StopIteration

    settings = run.settings
    try:
        first_loss, first_grads = calc_loss_and_grads(coeffs.flat)
        first_training_loss = training_loss
        if not (math.isfinite(first_loss) and torch.isfinite(first_grads).all()):
            stopping.diverge(run, "the loss or its gradient is not finite")
            return
        reason = minimize_lbfgs(
            calc_loss_and_grads,
            coeffs.flat,
            max_iter=settings.max_iter,
            max_fun=settings.max_fun,
            tol=settings.tol,
            on_iteration=on_iteration,
        )
        if reason is not None and run.warning is None and run.error is None:
            run.warning = f"lbfgs stopped short of its tolerance: {_explain_lbfgs(run, reason)}"
        if not run.history.losses:  # it started at a minimum
            run.history.losses.append(first_loss)
            run.history.training_losses.append(first_training_loss)
    except KeyboardInterrupt:
        run.interrupted = True
    stopping.end_run(run)
