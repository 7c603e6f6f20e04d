"""Training with scipy's L-BFGS, one run at a time."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from .._kernels import get_grad
from ..batch import Batch
from ..losses import get_loss
from ..network import execute_epoch
from . import stopping
from .batches import take
from .objective import PartedGrads, Penalty, calc_validation_losses
from .run import TrainingRun
from .threads import SharedContext


@cache
def _find_blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


# While scipy minimizes, the BLAS of NumPy and scipy gets one thread, which is enough for short vectors. More threads
# would compete with PyTorch's for the cores, and the search would take several times as long.
_one_blas_thread = SharedContext(lambda: _find_blas().limit(limits=1))
# As in scikit-learn's LogisticRegression: a small gradient ends the search, not a small gain in the loss.
_OPTIONS = {"maxls": 50, "ftol": 64 * np.finfo(float).eps}


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

    ``calc_loss_and_grads`` takes coefficients, (n_coeffs,), and returns the loss and its gradient. The search starts at
    ``flat``, which becomes the last accepted step, in place. It ends when no entry of the gradient is larger than
    ``tol``, or after ``max_iter`` iterations or ``max_fun`` evaluations of the loss. ``on_iteration`` takes the
    coefficients and the loss after each iteration, and may raise StopIteration to end the search.
    """
    last = [np.inf]

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        last[0], grads = calc_loss_and_grads(torch.from_numpy(vector).to(flat))
        return last[0], grads.double().cpu().numpy()

    def callback(vector: np.ndarray) -> None:
        flat.copy_(torch.from_numpy(vector))
        on_iteration(flat, last[0])

    options = {"maxiter": max_iter, "maxfun": max_fun, "gtol": tol, **_OPTIONS}
    start = flat.double().cpu().numpy().copy()
    try:
        with _one_blas_thread:
            result = scipy.optimize.minimize(
                objective, start, method="L-BFGS-B", jac=True, callback=callback, options=options
            )
    except StopIteration:  # scipy before 1.11 lets it through
        return None
    return _find_reason(result, flat, tol)


def _find_reason(result: scipy.optimize.OptimizeResult, flat: Tensor, tol: float) -> str | None:
    """Return why scipy stopped short, or None if it did not. ``flat`` is of the dtype in which losses are computed."""
    if result.status in (0, 99):  # 99 is a StopIteration of the callback
        return None
    if result.status == 1:
        return "max_fun"
    # If the gradient is about the root of the loss's rounding error, no step lowers the loss by more than this error.
    rounding = torch.finfo(flat.dtype).eps * max(1.0, abs(result.fun))
    return None if np.abs(result.jac).max() <= max(tol, rounding**0.5) else "line search"


def _explain_lbfgs(run: TrainingRun, reason: str) -> str:
    params = run.hyperparameters
    if reason == "max_fun":
        return f"max_fun={params.max_fun} evaluations of the loss were made. Raise max_fun, or tol={params.tol:g}."
    remedies = [f"Raise tol={params.tol:g}"]
    if not params.standardize:
        remedies.append("scale the columns of X (standardize=True does so)")
    if run.buffer.flat.dtype != torch.float64:
        remedies.append("set dtype='float64'")
    if callable(params.loss):
        remedies.append(stopping.FINITE_LOSS)
    remedies.append("set solver='adam', which needs no smooth loss")
    return f"its line search found no smaller loss. {', or '.join(remedies)}."


class _Problem:
    """The optimization problem of a run: its penalized loss and gradient, and the end of an iteration."""

    def __init__(self, run: TrainingRun) -> None:
        data = run.data
        self.run, self.loss = run, get_loss(run.hyperparameters.loss)
        self.batch = Batch(take(data.inputs, slice(None)), data.targets, data.sample_weights)
        self.decay = run.buffer.flat.new_tensor([run.hyperparameters.alpha / (data.weight_mean * len(data))])
        self.training_loss = math.nan  # of the last evaluation, without the penalty

    def calc_loss_and_grads(self, flat: Tensor) -> tuple[float, Tensor]:
        """Return the penalized loss and its gradient, (n_coeffs,), at the coefficients ``flat``."""
        grads = get_grad(flat)
        buffer = replace(self.run.buffer, flat=flat)
        parted_grads, penalty = PartedGrads(self.run, buffer), Penalty(buffer)
        coeffs, store = parted_grads.coeffs[0], parted_grads.store
        loss = execute_epoch(coeffs, [self.batch], lambda coeffs: penalty.add_grads(self.decay), self.loss, store)
        self.run.history.n_updates += 1
        values = torch.stack([penalty.add_to_losses(loss, self.decay), loss])
        penalized_loss, self.training_loss = values.tolist()  # one copy from a device
        return penalized_loss, grads

    def end_iteration(self, flat: Tensor, penalized_loss: float) -> None:
        """End an epoch of the run, in place. Raise StopIteration if it was the last."""
        run, validation = self.run, self.run.validation
        run.history.n_samples_seen += len(run.data)
        validation_loss = None
        if validation is not None:
            batch = Batch(take(validation.inputs, slice(None)), validation.targets, validation.sample_weights)
            buffer = replace(run.buffer, flat=flat)
            validation_loss = calc_validation_losses(buffer, validation, batch, self.loss).item()
        if stopping.end_epoch(run, penalized_loss, validation_loss, flat, self.training_loss) or run.interrupted:
            raise StopIteration


def train_lbfgs(run: TrainingRun) -> None:
    """Train one run with L-BFGS, in place."""
    problem, params = _Problem(run), run.hyperparameters
    try:
        first_loss, first_grads = problem.calc_loss_and_grads(run.buffer.flat.clone())
        first_training_loss = problem.training_loss
        if not (math.isfinite(first_loss) and torch.isfinite(first_grads).all()):
            stopping.diverge(run, "the loss or its gradient is not finite")
            return
        reason = minimize_lbfgs(
            problem.calc_loss_and_grads,
            run.buffer.flat,
            max_iter=params.max_iter,
            max_fun=params.max_fun,
            tol=params.tol,
            on_iteration=problem.end_iteration,
        )
        if reason is not None and run.warning is None and run.error is None:
            run.warning = f"lbfgs stopped short of its tolerance: {_explain_lbfgs(run, reason)}"
        if not run.history.losses:  # it started at a minimum
            run.history.losses.append(first_loss)
            run.history.training_losses.append(first_training_loss)
    except KeyboardInterrupt:
        run.interrupted = True
    stopping.end_run(run)
