"""Runs that train together, as a stack along the leading models axis of `network`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .._kernels import get_grad
from ..batch import Batch
from ..losses import get_loss
from ..network import Coeffs, execute_epoch
from . import stopping
from .batches import BatchSource, stack_whole
from .buffers import make_column, stack_buffers
from .objective import PartedGrads, Penalty, calc_validation_losses
from .run import TrainingRun
from .solvers import calc_rate_factors, count_steps_left, make_solver

CLEARING_INTERVAL = 16  # steps between two searches for tiny values, see `_clear_tiny_values`
MAX_STEPS_AHEAD = 128  # steps whose rates are computed together


class Stack:
    """Runs that train together: their coefficients and solver states stacked along a leading models axis."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = runs
        self.steps = runs[0].steps  # if these are shared with other processes, there is one run
        self.batches = BatchSource(runs)
        self.loss = get_loss(runs[0].hyperparameters.loss)
        self.buffer = replace(runs[0].buffer, flat=stack_buffers([run.buffer.flat for run in runs]))
        self.flats, self.grads = self.buffer.flat.unbind(), get_grad(self.buffer.flat)
        parted_grads = PartedGrads(runs[0], self.buffer)
        self.coeffs, self.store = parted_grads.coeffs[0], parted_grads.store
        self.penalty = Penalty(self.buffer)
        self.is_penalized = any(run.hyperparameters.alpha for run in runs)
        self.strengths = make_column([run.hyperparameters.alpha / run.data.weight_mean for run in runs], self.grads)
        self.epoch_decays = self.strengths / make_column([run.n_samples for run in runs], self.grads)
        self.decays = self.strengths.clone()
        self.n_samples: int | None = 1  # of the minibatches that ``decays`` are for; None: each model has its own count
        self.n_steps = 0  # of the current epoch
        self.rates: list[float] = []
        self.annealing: list[int | None] = []
        self.step_rates: list[Tensor] = []  # of the next steps, in reverse order
        self.solver = make_solver(runs)
        for model, run in enumerate(runs):
            run.solver_state = {name: moments[model] for name, moments in self.solver.solver_state.items()}

    def train_until_one_stops(self) -> list[TrainingRun]:
        """Train until a run stops, and store the results in all runs, in place. Return the unfinished runs.

        Another thread ends the training between two epochs by marking all runs as interrupted.
        """
        unfinished = list(self.runs)
        try:
            while len(unfinished) == len(self.runs) and not all(run.interrupted for run in self.runs):
                self._begin_epoch()
                # For each minibatch: `self.store`, which calls `store_grads`, then `self._update`.
                losses = execute_epoch(self.coeffs, self._draw_batches(), self._update, self.loss, self.store)
                self._clear_tiny_values()
                unfinished = self._end_epoch(losses, self._validate())
        except KeyboardInterrupt:
            unfinished = []
            for run in self.runs:
                run.interrupted = True
            self.steps.leave()
        finally:
            self._count_steps()
        self._store()
        return unfinished

    def _begin_epoch(self) -> None:
        self.penalty.squares.zero_()
        rates = [run.history.rate or 0.0 for run in self.runs]
        annealing = [run.history.annealing for run in self.runs]
        if (rates, annealing) != (self.rates, self.annealing):
            self.rates, self.annealing, self.step_rates = rates, annealing, []

    def _draw_batches(self) -> Iterator[Batch]:
        """Yield the minibatches. Before each, set ``decays``, in place, to the penalty's strength for its samples."""
        for batch in self.steps.align(self.batches.draw_batches()):
            n_samples = batch.count_samples()
            if isinstance(n_samples, Tensor) or n_samples != self.n_samples:
                torch.div(self.strengths, n_samples, out=self.decays)
                self.n_samples = None if isinstance(n_samples, Tensor) else n_samples
            yield batch

    def _update(self, coeffs: Coeffs) -> None:
        """Add the gradients of other processes and of the penalty, and let the solver change the coefficients."""
        self.steps.add_grads(self.grads)
        if self.is_penalized:
            self.penalty.add_grads(self.decays)
        self.solver.update(self.buffer.flat, self.grads, self._take_rates())
        if self.n_steps % CLEARING_INTERVAL == 0:
            self._clear_tiny_values()

    def _take_rates(self) -> Tensor:
        """Return the learning rates of the next step, (models, 1), and count the step."""
        if not self.step_rates:
            n_updates = [run.history.n_updates + self.n_steps for run in self.runs]
            n_steps = min(MAX_STEPS_AHEAD, max(count_steps_left(run) for run in self.runs))
            factors = [calc_rate_factors(run, n, n_steps) for run, n in zip(self.runs, n_updates, strict=True)]
            self.step_rates = list(self.solver.calc_rates(np.stack(factors, -1) * self.rates, n_updates))[::-1]
        self.n_steps += 1
        return self.step_rates.pop()

    def _clear_tiny_values(self) -> None:
        """Set coefficients and moments to zero, in place, that are too small to change any sum.

        The penalty shrinks unused weights towards zero. Products of subnormal numbers take a hundred times as long, and
        a fit with many of them ten times as long.
        """
        limits = torch.finfo(self.buffer.flat.dtype)
        torch.hardshrink(self.buffer.flat, limits.tiny**0.5, out=self.buffer.flat)
        for moments in self.solver.solver_state.values():
            torch.hardshrink(moments, limits.tiny / limits.eps, out=moments)

    def _validate(self) -> Tensor | None:
        """Return the mean validation losses, (models,), or None without validation data."""
        validation = self.runs[0].validation
        if validation is None:
            return None
        losses = calc_validation_losses(self.buffer, validation, self.validation_batch, self.loss)
        return self.steps.add_validation_losses(losses)

    @cached_property
    def validation_batch(self) -> Batch:
        """All validation samples as one batch. If shorter data are padded, the weights correct their means."""
        batch = stack_whole([run.validation for run in self.runs if run.validation is not None])
        if batch.sample_weights is None or batch.n_samples is None:
            return batch
        return Batch(batch.indeps, batch.deps, batch.sample_weights * (batch.deps.shape[-2] / batch.n_samples))

    def _end_epoch(self, losses: Tensor, validation_losses: Tensor | None) -> list[TrainingRun]:
        """Record the losses of an epoch, (models,), in the runs, in place. Return the unfinished runs."""
        self._count_steps()
        for run in self.runs:
            run.history.n_samples_seen += run.n_samples
        rows = self.steps.add_losses(self.penalty.add_to_losses(losses, self.epoch_decays), losses)
        if validation_losses is not None:
            rows = torch.cat([rows, validation_losses.unsqueeze(0)])
        penalized, training, *others = rows.tolist()  # one wait for the device
        validation = others[0] if others else [None] * len(self.runs)
        results = zip(penalized, validation, self.flats, training, self.batches.generators, strict=True)
        ended = [stopping.end_epoch(run, *result) for run, result in zip(self.runs, results, strict=True)]
        ended[0], self.runs[0].error = self.steps.agree_on_end(ended[0], self.runs[0].error)
        return [run for run, is_last in zip(self.runs, ended, strict=True) if not is_last]

    def _count_steps(self) -> None:
        """Add the steps of the current epoch to those of the runs, in place."""
        for run in self.runs:
            run.history.n_updates += self.n_steps
        self.n_steps = 0

    def _store(self) -> None:
        """Store generators, solver states and coefficients in the runs, in place."""
        self.batches.copy_generator_states()
        for model, run in enumerate(self.runs):
            if len(self.runs) > 1:  # a single run's buffer was trained in place, see `stack_buffers`
                run.buffer.flat.copy_(self.flats[model])
                run.solver_state = {name: moments.clone() for name, moments in run.solver_state.items()}
            stopping.end_run(run)
