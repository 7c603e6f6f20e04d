"""Records of training: its settings, its data, its history, and all of them as a run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..network import Coeffs
from .buffers import Buffer
from .joint import JointSteps
from .threads import VALUE_WORK, count_work


class DivergenceError(ValueError):
    """The loss, the gradient or the coefficients of a run are not finite."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train: the estimator's parameters of the same names, validated and resolved to plain values."""

    loss: str | Callable[[Tensor, Tensor], Tensor]
    solver: str
    alpha: float
    batch_size: int
    learning_rate: str
    learning_rate_init: float
    dropout: float
    power_t: float
    max_iter: int
    ends_by_itself: bool  # whether the schedule ends with the last epoch, which then is no reason to warn
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
    standardize: bool = False  # only for the remedies that messages name


class RowSource(Protocol):
    """Samples of a sparse or memory-mapped table, which become a tensor only when they are taken."""

    shape: tuple[int, int]
    n_values: int  # of all samples: the entries, if they are sparse

    def take(self, samples: slice | Tensor) -> Tensor:
        """Return samples, (n_taken, n_features), which may be sparse."""


@dataclass(eq=False)
class Data:
    """Samples: ``indeps`` (n, features), ``deps`` (n, outputs), and ``weights`` (n,) with a mean of one, or None.

    Of many classes, ``deps`` may be the numbers, (n, 1) of int64, see `losses`. ``weight_mean`` is the mean that the
    weights were divided by: a row of weight 2 counts as two samples.
    """

    indeps: Tensor | RowSource
    deps: Tensor
    weights: Tensor | None = None
    weight_mean: float = 1.0

    def view(self, buffer: Buffer) -> Coeffs:
        """Return the network of a buffer for these inputs, which may end in a column of ones."""
        return buffer.view(with_ones=self.indeps.shape[-1] > buffer.sizes[0])

    def count_work(self, n_rows: int, buffer: Buffer) -> int:
        """Return the multiply-adds of a forward pass over ``n_rows`` of the samples."""
        indeps = self.indeps
        n_values = indeps.numel() if isinstance(indeps, Tensor) else indeps.n_values
        return count_work(n_values * n_rows // len(self.deps), n_rows, buffer.sizes)


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

    def copy_without_curves(self) -> "History":
        """Return a copy for the next call, with empty curves. Copies of the curves would cost more with each call."""
        return replace(self, losses=[], training_losses=[], validation_losses=[], validation_scores=[])


@dataclass(frozen=True, eq=False)
class Epoch:
    """The end of an epoch. The ``history`` and ``solver_state`` of the run are those of this moment, too."""

    number: int  # epochs of this call so far
    is_last: bool  # whether the run's own rules end it
    get_buffer: Callable[[], Buffer]  # returns a copy of the coefficients
    generator: torch.Generator  # that the run draws from: in a stack, perhaps that of a run with the same draws


@dataclass(eq=False)
class TrainingRun:
    """One model to train. `train` changes ``buffer``, ``solver_state`` and the fields below it, in place."""

    data: Data
    settings: Settings
    buffer: Buffer  # of one model: no models axis
    generator: torch.Generator
    validation: Data | None = None
    calc_score: Callable[[Buffer], float] | None = None  # None: minus the validation loss
    on_epoch: Callable[[Epoch], bool] | None = None  # returns whether to stop
    solver_state: dict[str, Tensor] = field(default_factory=dict)
    history: History = field(default_factory=History)
    best_flat: Tensor | None = None  # with early stopping, the coefficients of the best validation score
    n_epochs: int = 0  # of this call
    n_updates_before: int = field(init=False)  # steps before this call
    interrupted: bool = False
    warning: str | None = None  # why the run ended before its own rule stopped it
    error: Exception | None = None  # of this run alone: divergence, or what a scorer or callback raised
    joint: JointSteps | None = None  # where other processes train the model, too, on other rows

    def __post_init__(self) -> None:
        self.n_updates_before = self.history.n_updates

    @property
    def n_samples(self) -> int:
        """The number of samples of an epoch, in all processes."""
        return len(self.data.deps) if self.joint is None else self.joint.n_samples

    @property
    def n_steps(self) -> int:
        """The number of steps of an epoch."""
        if self.joint is not None:
            return len(self.joint.sizes)
        return math.ceil(len(self.data.deps) / self.settings.batch_size)

    def count_work(self) -> int:
        """Return the multiply-adds of a step: forward pass, backward pass (twice as many), and update."""
        n_rows = len(self.data.deps)
        if self.settings.solver != "lbfgs":
            n_rows = min(n_rows, self.settings.batch_size)
        return 3 * self.data.count_work(n_rows, self.buffer) + VALUE_WORK * self.buffer.flat.numel()

    def copy_buffer(self, flat: Tensor) -> Buffer:
        """Return a copy of the coefficients ``flat``, (n_coeffs,), as a buffer of this network."""
        return replace(self.buffer, flat=flat.clone())
