"""Records: how to train, on what, and what is known of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..network import Coeffs
from .solvers import SCHEDULES
from .threads import VALUE_WORK, count_work

FINITE_LOSS = "make sure that loss, your function, and its slopes are finite for all finite logits"


class DivergenceError(ValueError):
    """The loss of a run is no longer a finite number."""


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
    ends_by_itself: bool  # by its schedule: it is no sign of trouble to come to the last epoch
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
    standardize: bool = False  # only to say what helps


class RowSource(Protocol):
    """Samples that become a tensor only when they are taken."""

    shape: tuple[int, int]
    n_values: int  # entries, if they are sparse

    def take(self, samples: slice | Tensor) -> Tensor:
        """Return samples, (n_taken, n_features), which may be sparse."""


@dataclass(eq=False)
class Data:
    """Samples: ``indeps`` (n, features), ``deps`` (n, outputs), and ``weights`` (n,) with a mean of one, or None.

    ``weight_mean`` is the mean that the weights were divided by: a row of weight 2 counts as two samples.
    """

    indeps: Tensor | RowSource
    deps: Tensor
    weights: Tensor | None = None
    weight_mean: float = 1.0

    def count_work(self, n_rows: int, coeffs: Coeffs) -> int:
        """Return the multiply-adds of a forward pass over so many of the samples."""
        indeps = self.indeps
        n_values = indeps.numel() if isinstance(indeps, Tensor) else indeps.n_values
        return count_work(n_values * n_rows // len(self.deps), n_rows, coeffs.sizes)


@dataclass(eq=False)
class History:
    """What is known of a model's training: the curves of one call, and the rest of all its calls."""

    losses: list[float] = field(default_factory=list)
    training_losses: list[float] = field(default_factory=list)  # without the penalty
    validation_losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_score: float = -math.inf
    n_no_change: int = 0
    n_samples_seen: int = 0
    n_updates: int = 0
    rate: float | None = None  # None: not begun

    def copy_without_curves(self) -> "History":
        """Return a copy for another call, whose curves begin anew: copying all of them would cost more and more."""
        return replace(self, losses=[], training_losses=[], validation_losses=[], validation_scores=[])


@dataclass(eq=False)
class TrainingRun:
    """One model to train. `train` changes ``coeffs``, ``solver_state``, ``history`` and what follows, in place."""

    data: Data
    settings: Settings
    coeffs: Coeffs  # of one model: no models axis
    generator: torch.Generator
    validation: Data | None = None
    calc_score: Callable[[Coeffs], float] | None = None  # None: minus the validation loss
    # Takes the number of epochs and what gives their coefficients, and returns whether to stop.
    on_epoch: Callable[[int, Callable[[], Coeffs]], bool] | None = None
    solver_state: dict[str, Tensor] = field(default_factory=dict)
    history: History = field(default_factory=History)
    best_flat: Tensor | None = None  # with early stopping, the coefficients of the best validation score
    n_epochs: int = 0  # of this call
    n_updates_before: int = field(init=False)  # this call
    interrupted: bool = False
    warning: str | None = None  # why the run ended short of its own rule
    error: Exception | None = None  # its own: divergence, or what a scorer or callback raised

    def __post_init__(self) -> None:
        self.n_updates_before = self.history.n_updates

    def count_work(self) -> int:
        """Return the multiply-adds of a step: a pass forward, backward in twice the time, and the update."""
        n_rows = len(self.data.deps)
        if self.settings.solver != "lbfgs":
            n_rows = min(n_rows, self.settings.batch_size)
        return 3 * self.data.count_work(n_rows, self.coeffs) + VALUE_WORK * self.coeffs.flat.numel()

    def draw_order(self) -> Tensor | None:
        """Draw the order in which an epoch takes the samples, (n_samples,), or None for the order they have."""
        n_samples = len(self.data.deps)
        if not self.settings.shuffle or self.settings.batch_size >= n_samples:
            return None
        return torch.randperm(n_samples, generator=self.generator, device="cpu").to(self.data.deps.device)

    def calc_rate_factors(self, n_updates: int, n_steps: int) -> np.ndarray:
        """Return what the schedule makes of the learning rate at each step after ``n_updates``, (n_steps,)."""
        calc_factors = SCHEDULES.get(self.settings.learning_rate)
        if calc_factors is None:  # 'invscaling' and 'adaptive' change the rate after an epoch
            return np.ones(n_steps)
        n_total = self.settings.max_iter * math.ceil(len(self.data.deps) / self.settings.batch_size)
        done = n_updates - self.n_updates_before + np.arange(n_steps)
        return calc_factors(np.minimum(done / n_total, 1))

    def end_epoch(
        self, loss: float, validation_loss: float | None, flat: Tensor, training_loss: float | None = None
    ) -> bool:
        """Take note of an epoch that arrived at ``flat``, in place, and return whether it was the last.

        ``training_loss`` is the loss without the penalty, None if there is none in ``loss``.
        """
        self.n_epochs += 1
        self.history.losses.append(loss)
        self.history.training_losses.append(loss if training_loss is None else training_loss)
        try:
            return self._end_epoch(loss, validation_loss, flat)
        except Exception as error:
            self.error = error
            return True

    def _end_epoch(self, loss: float, validation_loss: float | None, flat: Tensor) -> bool:
        if self.settings.verbose:
            print(f"Iteration {self.n_epochs}, loss = {loss:.8f}")
        if not math.isfinite(loss):
            self.diverge(f"the loss is {loss}")
            return True
        improved = self._note_loss(loss)
        if validation_loss is not None:
            validation_improved = self._note_validation(validation_loss, flat)
            improved = validation_improved if self.settings.early_stopping else improved
        self.history.n_no_change = 0 if improved else self.history.n_no_change + 1
        if self.settings.learning_rate == "invscaling":
            self.history.rate = self.settings.learning_rate_init / (
                (self.history.n_samples_seen + 1) ** self.settings.power_t
            )
        if self.on_epoch is not None and self.on_epoch(self.n_epochs, lambda: self._copy_coeffs(flat)):
            return True
        return self._is_out_of_patience() or self._is_out_of_epochs()

    def _copy_coeffs(self, flat: Tensor) -> Coeffs:
        return replace(self.coeffs, flat=flat.clone())

    def end(self) -> None:
        """Check the result, in place: the update after the last loss may have been the one too many."""
        if torch.isfinite(self.coeffs.flat).all():
            return
        if self.best_flat is not None:
            self.coeffs.flat.copy_(self.best_flat)
        if self.error is None and self.warning is None:
            self.diverge("coefficients are not finite")

    def _note_loss(self, loss: float) -> bool:
        improved = loss <= self.history.best_loss - self.settings.tol
        self.history.best_loss = min(self.history.best_loss, loss)
        return improved

    def _note_validation(self, loss: float, flat: Tensor) -> bool:
        if self.calc_score is None or not math.isfinite(loss):  # scorers refuse predictions that are no numbers
            score = -loss
        else:
            score = self.calc_score(self._copy_coeffs(flat))
        self.history.validation_losses.append(loss)
        self.history.validation_scores.append(score)
        self._print(f"Validation score: {score:f}")
        improved = score >= self.history.best_score + self.settings.tol  # a NaN is no improvement
        if score > self.history.best_score:
            self.history.best_score = score
            if self.settings.early_stopping:
                self.best_flat = flat.clone()
        return improved

    def _is_out_of_patience(self) -> bool:
        settings, history = self.settings, self.history
        if history.n_no_change <= settings.n_iter_no_change:
            return False
        watched = "Validation score" if settings.early_stopping else "Training loss"
        reason = f"{watched} did not improve more than tol={settings.tol:f} for {settings.n_iter_no_change} epochs."
        if settings.learning_rate != "adaptive":
            self._print(f"{reason} Stopping.")
            return True
        assert history.rate is not None
        if history.rate <= 1e-6:
            self._print(f"{reason} Learning rate too small. Stopping.")
            return True
        history.rate /= 5
        history.n_no_change = 0
        self._print(f"{reason} Setting learning rate to {history.rate:f}")
        return False

    def _is_out_of_epochs(self) -> bool:
        if self.n_epochs < self.settings.max_iter:
            return False
        has_rule = self.settings.tol > 0 or math.isfinite(self.settings.n_iter_no_change)
        if has_rule and not self.settings.ends_by_itself:
            self.warning = (
                f"Maximum iterations (max_iter={self.settings.max_iter}) reached and the training has not converged "
                f"yet. {self._advise_on_end()}"
            )
        return True

    def _advise_on_end(self) -> str:
        settings = self.settings
        more, patience = f"Set max_iter to more than {settings.max_iter}", settings.n_iter_no_change
        if settings.learning_rate in SCHEDULES:
            return f"{more}, or leave it None: the schedule was over before n_iter_no_change={patience:g} epochs."
        if settings.solver != "lbfgs":
            return (
                f"{more}, or raise tol={settings.tol:g} or learning_rate_init={settings.learning_rate_init:g}, or set "
                "learning_rate='cosine', which ends by itself."
            )
        return f"{more}, or raise tol={settings.tol:g}{'' if settings.standardize else ', or set standardize=True'}."

    def diverge(self, sign: str) -> None:
        """Take note, in place, that the training cannot go on, of which ``sign`` tells."""
        when = f"at epoch {self.n_epochs}" if self.n_epochs else "at the start"
        message = f"Training diverged: {sign} {when}. "
        remedy = self._advise_on_divergence()
        if self.best_flat is None:
            self.error = DivergenceError(message + remedy)
        else:
            self.warning = f"{message}The coefficients of the best epoch before are kept. {remedy}"

    def _advise_on_divergence(self) -> str:
        settings = self.settings
        remedies = []
        if settings.solver != "lbfgs":
            remedies.append(f"lower learning_rate_init={settings.learning_rate_init}")
        if settings.solver == "sgd" and settings.momentum > 0.9:
            remedies.append(f"lower momentum={settings.momentum}")
        if not settings.standardize:
            remedies.append("scale the columns of X (standardize=True does so)")
        if callable(settings.loss):
            remedies.append(FINITE_LOSS)
        remedy = ", or ".join(remedies or [f"lower alpha={settings.alpha:g}, or take solver='adam'"])
        return f"{remedy[0].upper()}{remedy[1:]}."

    def _print(self, line: str) -> None:
        if self.settings.verbose:
            print(line)
