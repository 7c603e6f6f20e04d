"""A run, which is a model to train: its hyperparameters, its data and its history."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..batch import Batch
from ..network import Coeffs
from .buffers import Buffer


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The estimator's parameters of the same names, validated and resolved to plain values."""

    loss: str | Callable[[Tensor, Tensor], Tensor]
    solver: str
    alpha: float
    batch_size: int
    learning_rate: str
    learning_rate_init: float
    dropout: float
    power_t: float
    max_iter: int
    full_schedule: bool  # whether max_iter leaves the schedule its full length, so its end needs no warning
    shuffle: bool
    tol: float
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    verbose: bool
    precision: str = "float32"  # of products of float32 numbers, see `use_precision`
    standardize: bool = False  # only for the remedies in messages


class RowSource(Protocol):
    """Samples of a sparse or memory-mapped table, which become a tensor only when they are taken."""

    shape: tuple[int, int]

    def take(self, samples: slice | Tensor) -> Tensor:
        """Return samples, (n_taken, n_features), which may be sparse."""


@dataclass(eq=False)
class Data:
    """Samples: ``inputs`` (n, features), ``targets`` (n, outputs), and weights (n,) with a mean of one, or None.

    For many classes, ``targets`` may be class indices, (n, 1) of int64, see `losses`. ``weight_mean`` is the mean that
    the weights were divided by: a sample of weight 2 counts as two samples.
    """

    inputs: Tensor | RowSource
    targets: Tensor
    sample_weights: Tensor | None = None
    weight_mean: float = 1.0

    def __len__(self) -> int:
        return len(self.targets)

    def as_coeffs(self, buffer: Buffer) -> Coeffs:
        """Return the network of a buffer for these inputs, which may end in a column of ones."""
        return buffer.as_coeffs(with_ones=self.inputs.shape[-1] > buffer.sizes[0])


@dataclass(eq=False)
class History:
    """The progress of a model's training. The curves are of the current call; all other fields cover every call."""

    losses: list[float] = field(default_factory=list)
    training_losses: list[float] = field(default_factory=list)  # without the penalty
    validation_losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_score: float = -math.inf
    n_no_change: int = 0
    n_samples_seen: int = 0
    n_updates: int = 0
    rate: float | None = None  # the learning rate; None before the first call
    annealing: int | None = None  # the epoch after which a schedule that ran out of patience falls to zero

    def copy_without_curves(self) -> "History":
        """Return a copy for the next call, with empty curves. Copies of the curves would cost more with each call."""
        return replace(self, annealing=None, losses=[], training_losses=[], validation_losses=[], validation_scores=[])


@dataclass(frozen=True, eq=False)
class EpochResult:
    """The end of an epoch. The ``history`` and ``solver_state`` of the run are those of this moment, too."""

    number: int  # epochs of this call so far
    is_last: bool  # whether the run's own rules end it
    get_buffer: Callable[[], Buffer]  # returns a copy of the coefficients
    generator: torch.Generator  # of the run, or of another run in the stack with the same draws


class Steps:
    """The steps of an epoch, in which one process takes all samples. `distributed` has steps of several processes."""

    def count_samples(self, run: "TrainingRun") -> int:
        """Return the number of samples of an epoch."""
        return len(run.data)

    def count_steps(self, run: "TrainingRun") -> int:
        """Return the number of steps of an epoch."""
        return math.ceil(len(run.data) / run.hyperparameters.batch_size)

    def align(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return a minibatch for each step."""
        return batches

    def add_grads(self, grads: Tensor) -> None:
        """Add the gradients of the other processes, in place."""

    def add_losses(self, penalized: Tensor, losses: Tensor) -> Tensor:
        """Return the losses of an epoch with the penalty, and without it, (2, models)."""
        return torch.stack([penalized, losses])

    def add_validation_losses(self, losses: Tensor) -> Tensor:
        """Return the mean validation losses, (models,)."""
        return losses

    def agree_on_end(self, is_last: bool, error: Exception | None) -> tuple[bool, Exception | None]:
        """Return whether an epoch is the last, and the error that ended it."""
        return is_last, error

    def leave(self) -> None:
        """End the training in the other processes, after an error or an interrupt in this one."""


@dataclass(eq=False)
class TrainingRun:
    """One model to train. `train` changes ``buffer``, ``solver_state`` and the fields below it, in place."""

    data: Data
    hyperparameters: Hyperparameters
    buffer: Buffer  # of one model: no models axis
    generator: torch.Generator
    validation: Data | None = None
    calc_score: Callable[[Buffer], float] | None = None  # None: minus the validation loss
    on_epoch: Callable[[EpochResult], bool] | None = None  # returns whether to stop
    solver_state: dict[str, Tensor] = field(default_factory=dict)
    history: History = field(default_factory=History)
    best_flat: Tensor | None = None  # with early stopping, the coefficients of the best validation score
    n_epochs: int = 0  # of this call
    n_updates_before: int = field(init=False)  # steps before this call
    interrupted: bool = False
    warning: str | None = None  # why the run ended before its own rule stopped it
    error: Exception | None = None  # of this run alone: divergence, or an error of a scorer or a callback
    steps: Steps = field(default_factory=Steps)

    def __post_init__(self) -> None:
        self.n_updates_before = self.history.n_updates

    @property
    def n_samples(self) -> int:
        """The number of samples of an epoch."""
        return self.steps.count_samples(self)

    @property
    def n_steps(self) -> int:
        """The number of steps of an epoch."""
        return self.steps.count_steps(self)

    def count_rows(self) -> int:
        """Return the samples of a step."""
        n_samples = len(self.data)
        return n_samples if self.hyperparameters.solver == "lbfgs" else min(n_samples, self.hyperparameters.batch_size)

    def copy_buffer(self, flat: Tensor) -> Buffer:
        """Return a copy of the coefficients ``flat``, (n_coeffs,), as a buffer of this network."""
        return replace(self.buffer, flat=flat.clone())
