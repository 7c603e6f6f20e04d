"""Runs that train together, as a stack along the leading models axis of `network`."""

from collections.abc import Iterable, Iterator, Sequence
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
from .batches import BatchSource, Group, stack_whole
from .buffers import make_column, stack_buffers
from .graphs import CapturedSteps, can_capture
from .objective import Penalty, calc_validation_losses
from .run import TrainingRun
from .solvers import calc_rate_factors, count_steps_left, make_solver

N_STEPS_BETWEEN = 16  # from one look for tiny values to the next, see `_clear_tiny_values`
N_STEPS_AHEAD = 128  # steps whose rates are computed together, at most


class Stack:
    """Runs that train in lockstep: their coefficients and solver states stacked along a leading models axis."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = runs
        self.joint = runs[0].joint  # then there is one run
        self.batches = BatchSource(runs)
        self.loss = get_loss(runs[0].settings.loss)
        self.buffer = replace(runs[0].buffer, flat=stack_buffers([run.buffer.flat for run in runs]))
        self.flats, self.grads = self.buffer.flat.unbind(), get_grad(self.buffer.flat)
        self.coeffs = runs[0].data.view(self.buffer)
        self.is_penalized = any(run.settings.alpha for run in runs)
        self.penalty = Penalty(self.buffer)
        self.strengths = make_column([run.settings.alpha / run.data.weight_mean for run in runs], self.buffer.flat)
        n_samples = make_column([run.n_samples for run in runs], self.buffer.flat)
        self.epoch_decays, self.epoch_samples = self.strengths / n_samples, n_samples.squeeze(-1)
        self.decays = self.strengths.clone()
        self.n_samples: int | None = 1  # of the batches that ``decays`` are for; None: each model has its own number
        self.n_steps = 0  # of the current epoch
        self.rates: list[float] = []
        self.step_rates: list[Tensor] = []  # of the next steps, in reverse order
        self.solver = make_solver(runs)
        for model, run in enumerate(runs):
            run.solver_state = {name: buffer[model] for name, buffer in self.solver.solver_state.items()}
        self.captured_steps = CapturedSteps(self._train_on_group, self.batches.on_device) if can_capture(runs) else None

    def train_until_one_stops(self) -> list[TrainingRun]:
        """Train until a run stops, and store the results in all runs, in place. Return the unfinished runs.

        Another thread ends the training between two epochs by marking all runs as interrupted.
        """
        unfinished = self.runs
        try:
            while len(unfinished) == len(self.runs) and not all(run.interrupted for run in self.runs):
                unfinished = self._execute_epoch()
        except KeyboardInterrupt:
            unfinished = []
            for run in self.runs:
                run.interrupted = True
            if self.joint is not None:
                self.joint.leave()
        finally:
            self.captured_steps = None  # it refers to this stack, whose memory an error must set free
        self._store()
        return list(unfinished)

    def _execute_epoch(self) -> list[TrainingRun]:
        """Train all runs for an epoch. Return the unfinished runs."""
        histories = [run.history for run in self.runs]
        self.n_steps = 0
        try:
            losses = self._train_and_validate()
        finally:
            for history in histories:
                history.n_updates += self.n_steps
        for run in self.runs:
            run.history.n_samples_seen += run.n_samples
        penalized, training, *others = losses.tolist()  # waits for the device
        validation = others[0] if others else [None] * len(self.runs)
        results = zip(penalized, validation, self.flats, training, self.batches.generators, strict=True)
        ended = [stopping.end_epoch(run, *result) for run, result in zip(self.runs, results, strict=True)]
        if self.joint is not None:
            ended[0], self.runs[0].error = self.joint.agree_on_end(ended[0], self.runs[0].error)
        return [run for run, is_last in zip(self.runs, ended, strict=True) if not is_last]

    def _train_and_validate(self) -> Tensor:
        """Train for an epoch, without waiting for the device.

        Return the losses with the penalty, those without it, and those of the validation data if there are any:
        (2 or 3, models).
        """
        self.penalty.squares.zero_()
        rates = [run.history.rate or 0.0 for run in self.runs]
        if rates != self.rates:
            self.rates, self.step_rates = rates, []
        losses = self._train() if self.captured_steps is None else self._train_in_groups(self.captured_steps)
        self._clear_tiny_values()
        penalized = self.penalty.add_to_losses(losses, self.epoch_decays)
        both = torch.stack([penalized, losses]) if self.joint is None else self.joint.add_losses(penalized, losses)
        validation = self.runs[0].validation
        if validation is None:
            return both
        losses = calc_validation_losses(self.buffer, validation, self.validation_batch, self.loss)
        losses = losses if self.joint is None else self.joint.add_validation_losses(losses)
        return torch.cat([both, losses.unsqueeze(0)])

    def _train(self) -> Tensor:
        """Train on the minibatches of an epoch. Return the mean losses, (models,)."""
        batches = self.batches.draw_batches()
        return self._execute(batches if self.joint is None else self.joint.align(batches))

    def _train_in_groups(self, train: CapturedSteps) -> Tensor:
        """Train on the minibatches of an epoch, group by group. Return the mean losses, (models,)."""
        totals = torch.zeros_like(self.penalty.squares)
        for group in self.batches.draw_groups():
            totals += train(group, torch.stack([self._take_rates() for _ in range(group.n_steps)]))
        return totals / self.epoch_samples

    def _train_on_group(self, group: Group, rates: Tensor) -> Tensor:
        """Train on the minibatches of a group, with rates of shape (n_steps, models, 1). Return the sums of losses."""
        outer = self.n_steps, self.step_rates
        self.n_steps, self.step_rates = 0, list(rates.unbind())[::-1]
        self.n_samples = None  # the operation that sets ``decays`` belongs to the group
        try:
            losses = self._execute(self.batches.split(group))
        finally:
            self.n_steps, self.step_rates = outer
        n_samples = group.rows.count_samples()
        return losses * (n_samples.squeeze(-1) if isinstance(n_samples, Tensor) else n_samples)

    def _execute(self, batches: Iterable[Batch]) -> Tensor:
        """Train on minibatches. Return the mean losses, (models,)."""
        return execute_epoch(self.coeffs, self._prepare(batches), self._update, self.loss)

    def _prepare(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the minibatches. Before each, set ``decays``, in place, to the penalty's strength for its samples."""
        for batch in batches:
            n_samples = batch.count_samples()
            if isinstance(n_samples, Tensor) or n_samples != self.n_samples:
                torch.div(self.strengths, n_samples, out=self.decays)
                self.n_samples = None if isinstance(n_samples, Tensor) else n_samples
            yield batch

    def _update(self, coeffs: Coeffs) -> None:
        """Add the gradients of other processes and of the penalty, and let the solver change the coefficients."""
        if self.joint is not None:
            self.joint.ranks.add_up(self.grads)
        if self.is_penalized:
            self.penalty.add_grads(self.decays)
        self.solver.update(self.buffer.flat, self.grads, self._take_rates())
        if self.n_steps % N_STEPS_BETWEEN == 0:
            self._clear_tiny_values()

    def _take_rates(self) -> Tensor:
        """Return the learning rates of the next step, (models, 1), and count the step."""
        if not self.step_rates:
            n_updates = [run.history.n_updates + self.n_steps for run in self.runs]
            n_steps = min(N_STEPS_AHEAD, max(count_steps_left(run) for run in self.runs))
            factors = [calc_rate_factors(run, n, n_steps) for run, n in zip(self.runs, n_updates, strict=True)]
            self.step_rates = list(self.solver.calc_rates(np.stack(factors, -1) * self.rates, n_updates))[::-1]
        self.n_steps += 1
        return self.step_rates.pop()

    @cached_property
    def validation_batch(self) -> Batch:
        """All validation samples as one batch. If rows pad shorter data, the weights correct the means for them."""
        batch = stack_whole([run.validation for run in self.runs if run.validation is not None])
        if batch.weights is None or batch.n_samples is None:
            return batch
        return Batch(batch.indeps, batch.deps, batch.weights * (batch.deps.shape[-2] / batch.n_samples))

    def _clear_tiny_values(self) -> None:
        """Set coefficients and moments to zero, in place, that are too small to change any sum.

        A penalty halves what the data do not need again and again. Processors take a hundred times as long to multiply
        numbers that are no longer normal, and a fit ten times.
        """
        limits = torch.finfo(self.buffer.flat.dtype)
        torch.hardshrink(self.buffer.flat, limits.tiny**0.5, out=self.buffer.flat)
        for moments in self.solver.solver_state.values():
            torch.hardshrink(moments, limits.tiny / limits.eps, out=moments)

    def _store(self) -> None:
        """Store generators, solver states and coefficients in the runs, in place."""
        self.batches.copy_generator_states()
        for model, run in enumerate(self.runs):
            if len(self.runs) > 1:  # a single run's buffer was trained in place, see `stack_buffers`
                run.buffer.flat.copy_(self.flats[model])
                run.solver_state = {name: buffer.clone() for name, buffer in run.solver_state.items()}
            stopping.end_run(run)
