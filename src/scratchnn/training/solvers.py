"""Update rules of the coefficients, for a stack of models, and learning rate schedules.

Buffers are flat, ``(models, n_coeffs)``, and hyperparameters of each model are columns, ``(models, 1)``. The formulas
come from scikit-learn's MLPClassifier, so its parameters keep their meaning.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..network import Coeffs, update_coeffs
from .buffers import make_column, stack_buffers
from .run import TrainingRun


class Solver(Protocol):
    """An update rule. ``solver_state`` holds its moments by name, (models, n_coeffs) each."""

    solver_state: dict[str, Tensor]

    def calc_rates(self, rates: np.ndarray, n_updates: list[int]) -> Sequence[Tensor]:
        """Return ``rates`` for `update` at each of the next steps, (models, 1), from learning rates (n_steps, models).

        ``n_updates`` counts each model's steps so far.
        """

    def update(self, flat: Tensor, grads: Tensor, rates: Tensor) -> None:
        """Change ``flat`` by one step, in place, and set ``grads`` to zero."""


class GradientDescent:
    """Plain gradient descent, without momentum: the network's own `update_coeffs`."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.solver_state: dict[str, Tensor] = {}
        self.like = runs[0].buffer.flat

    def calc_rates(self, rates: np.ndarray, n_updates: list[int]) -> Sequence[Tensor]:
        """Return the learning rates unchanged."""
        return _to_columns(rates, self.like)

    def update(self, flat: Tensor, grads: Tensor, rates: Tensor) -> None:
        """Subtract ``rate * grad`` from ``flat``, in place. `update_coeffs` sees all layers as one weight."""
        update_coeffs(Coeffs([flat], [None]), rates)


class SGD:
    """Stochastic gradient descent with (Nesterov's) momentum."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.solver_state = _stack_solver_states(runs, ["velocity"])
        self.momentum = make_column([run.hyperparameters.momentum for run in runs], runs[0].buffer.flat)
        self.nesterov = runs[0].hyperparameters.nesterovs_momentum

    def calc_rates(self, rates: np.ndarray, n_updates: list[int]) -> Sequence[Tensor]:
        """Return the learning rates unchanged."""
        return _to_columns(rates, self.momentum)

    def update(self, flat: Tensor, grads: Tensor, rates: Tensor) -> None:
        """Add ``velocity = momentum * velocity - rate * grad`` to ``flat``, in place."""
        steps = grads.mul_(rates)
        velocity = self.solver_state["velocity"].mul_(self.momentum).sub_(steps)
        if self.nesterov:
            flat.addcmul_(velocity, self.momentum).sub_(steps)
        else:
            flat.add_(velocity)
        grads.zero_()


class Adam:
    """Adam (Kingma & Ba, 2014): steps divided by the root of a running mean of the squared gradients."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.solver_state = _stack_solver_states(runs, ["mean", "square"])
        mean, params = self.solver_state["mean"], runs[0].hyperparameters  # the same in a stack, see `make_stacks`
        self.steps = torch.zeros_like(mean)
        self.betas, self.epsilon = (params.beta_1, params.beta_2), params.epsilon
        self.step_count = torch.tensor(1e9, dtype=torch.float32, device=mean.device)

    def calc_rates(self, rates: np.ndarray, n_updates: list[int]) -> Sequence[Tensor]:
        """Return the learning rates times the bias correction of each step, computed in double precision."""
        n_steps = np.arange(1, len(rates) + 1)[:, np.newaxis] + n_updates
        corrections = (1 - self.betas[1] ** n_steps) ** 0.5 / (1 - self.betas[0] ** n_steps)
        return _to_columns(rates * corrections, self.steps)

    def update(self, flat: Tensor, grads: Tensor, rates: Tensor) -> None:
        """Subtract ``rate * mean / (sqrt(square) + epsilon)`` from ``flat``, in place."""
        # PyTorch's kernel needs one pass, but takes one learning rate for all models. So it runs with lr=1 on zeros,
        # which yields the unscaled steps, and with a step count of 1e9, which disables its bias correction:
        # MLPClassifier applies epsilon differently.
        torch._fused_adam_(
            [self.steps.zero_()],
            [grads],
            [self.solver_state["mean"]],
            [self.solver_state["square"]],
            [],
            [self.step_count],
            lr=1.0,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )
        flat.addcmul_(self.steps, rates)
        grads.zero_()


def _one_cycle(progress: np.ndarray) -> np.ndarray:
    """Rise along a cosine from 1/25 to 1 over the first 30 %, then fall to 1e-4 / 25 (Smith & Topin, 2018)."""
    rising = 1 / 25 + (1 - 1 / 25) * (1 - np.cos(np.pi * progress / 0.3)) / 2
    falling = 1e-4 / 25 + (1 - 1e-4 / 25) * (1 + np.cos(np.pi * (progress - 0.3) / 0.7)) / 2
    return np.where(progress < 0.3, rising, falling)


# Factors of the learning rate for progress from 0, the first step of a fit, to 1, its end.
SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda progress: (1 + np.cos(np.pi * progress)) / 2,
    "one_cycle": _one_cycle,
}


N_ANNEALED = 10  # epochs in which a schedule falls to zero after patience has run out


def calc_rate_factors(run: TrainingRun, n_updates: int, n_steps: int) -> np.ndarray:
    """Return the schedule's factors of the learning rate for ``n_steps`` steps after ``n_updates``, (n_steps,)."""
    calc_factors = SCHEDULES.get(run.hyperparameters.learning_rate)
    if calc_factors is None:  # 'invscaling' and 'adaptive' change the rate after an epoch
        return np.ones(n_steps)
    done = (n_updates - run.n_updates_before + np.arange(n_steps)) / run.n_steps  # epochs
    factors = calc_factors(np.minimum(done / run.hyperparameters.max_iter, 1))
    if run.history.annealing is not None:
        factors *= SCHEDULES["cosine"](np.clip((done - run.history.annealing) / N_ANNEALED, 0, 1))
    return factors


def count_steps_left(run: TrainingRun) -> int:
    """Return the steps until the last epoch of this call ends, counted from the start of this epoch."""
    return (run.hyperparameters.max_iter - run.n_epochs) * run.n_steps


def _make_sgd(runs: Sequence[TrainingRun]) -> Solver:
    return SGD(runs) if any(run.hyperparameters.momentum for run in runs) else GradientDescent(runs)


SOLVERS: dict[str, Callable[[Sequence[TrainingRun]], Solver]] = {"sgd": _make_sgd, "adam": Adam}


def make_solver(runs: Sequence[TrainingRun]) -> Solver:
    """Return the solver of the runs, which are of one kind. It resumes from their ``solver_state``."""
    return SOLVERS[runs[0].hyperparameters.solver](runs)


def _to_columns(rates: np.ndarray, like: Tensor) -> Sequence[Tensor]:
    """Return a column for each step, (models, 1), of rates of shape (n_steps, models)."""
    return torch.tensor(rates, dtype=like.dtype, device=like.device).unsqueeze(-1).unbind()


def _stack_solver_states(runs: Sequence[TrainingRun], names: list[str]) -> dict[str, Tensor]:
    """Return the runs' moments of these names, (models, n_coeffs) each, with zeros where a run has none yet."""
    return {
        name: stack_buffers(
            [run.solver_state[name] if name in run.solver_state else torch.zeros_like(run.buffer.flat) for run in runs]
        )
        for name in names
    }
