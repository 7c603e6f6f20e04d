"""The steps that several processes take together: each computes the gradients of its own samples."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..exceptions import RankError
from ..training import Steps, TrainingRun, train
from ..training.buffers import count_sizes
from .connection import Connection


class JointSteps(Steps):
    """The division of the samples of all ranks among the steps of an epoch.

    In each step, a rank takes an equal part of its own samples. A rank with no samples left repeats its last ones with
    weight 0. A minibatch's losses and gradients are divided by the number of samples of all ranks in the step. Summed
    over the ranks, they equal what one process with all samples would compute. ``batch_size`` counts these.
    """

    def __init__(self, connection: Connection, run: TrainingRun) -> None:
        self.connection = connection
        n_own, n_own_validation = len(run.data), 0 if run.validation is None else len(run.validation)
        counts, validation_counts = zip(*connection.gather((n_own, n_own_validation)), strict=True)
        self.n_samples: int = sum(counts)
        n_steps = math.ceil(self.n_samples / run.hyperparameters.batch_size)
        self.batch_size = math.ceil(n_own / n_steps)  # of this rank
        sizes = [count_sizes(count, math.ceil(count / n_steps)) for count in counts]
        self.sizes = [sum(step) for step in zip_longest(*sizes, fillvalue=0)]  # samples of all ranks in each step
        self.validation_share = n_own_validation / max(1, sum(validation_counts))

    def count_samples(self, run: TrainingRun) -> int:
        """Return the number of samples of all ranks in an epoch."""
        return self.n_samples

    def count_steps(self, run: TrainingRun) -> int:
        """Return the number of steps of an epoch."""
        return len(self.sizes)

    def align(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield a minibatch for each step, of this rank's ``batches`` while there are any."""
        last: Any = None
        for n_samples, batch in zip_longest(self.sizes, batches):
            if batch is not None:  # at least in the first step, as each rank has a sample
                last = batch
            else:
                last = last._replace(sample_weights=torch.zeros_like(last.deps[..., 0], dtype=last.indeps.dtype))
            yield last._replace(n_samples=n_samples)

    def add_grads(self, grads: Tensor) -> None:
        """Add the gradients of the other ranks, in place."""
        self.connection.add_up(grads)

    def add_losses(self, penalized: Tensor, losses: Tensor) -> Tensor:
        """Return the losses of an epoch with the penalty, and without it, (2, models), of all ranks."""
        # All ranks have the same coefficients, so their penalty counts once.
        return self.connection.add_up(torch.stack([penalized if self.connection.rank == 0 else losses, losses]))

    def add_validation_losses(self, losses: Tensor) -> Tensor:
        """Return the mean validation losses, (models,), of all ranks."""
        return self.connection.add_up(losses * self.validation_share)

    def agree_on_end(self, is_last: bool, error: Exception | None) -> tuple[bool, Exception | None]:
        """Return whether the epoch is the last in any rank, and the error of this rank, or one about another."""
        if error is None:
            try:
                return any(self.connection.gather(is_last)), None
            except RankError as other:
                error = other
        self.connection.announce(error)
        return True, error

    def leave(self) -> None:
        """End the training of the other ranks, which wait for this one's next sum, with an error."""
        self.connection.close()


def train_jointly(connection: Connection, run: TrainingRun) -> None:
    """Train a run, in place, together with the runs of the other ranks."""
    _align_start(connection, run)
    steps = run.steps = JointSteps(connection, run)
    is_verbose = run.hyperparameters.verbose and connection.rank == 0
    run.hyperparameters = replace(run.hyperparameters, batch_size=steps.batch_size, verbose=is_verbose)
    try:
        train([run])
    except BaseException:
        steps.leave()
        raise


def _align_start(connection: Connection, run: TrainingRun) -> None:
    """Let a new run start from the coefficients of rank 0, in place, and draw other orders and masks in each rank."""
    flat = run.buffer.flat
    is_new = run.history.n_updates == 0
    digest = hashlib.blake2b(flat.cpu().numpy().data).hexdigest()
    starts = connection.gather((is_new, None if is_new else digest))
    if len(set(starts)) > 1:
        raise ValueError(
            "coefs_ and intercepts_ must be the same in all processes of data_parallel to resume training, got "
            "different ones. Fit with warm_start=False, or load one model in all processes."
        )
    if is_new:
        if connection.rank:
            flat.zero_()
            run.generator.manual_seed(run.generator.initial_seed() + connection.rank)
        connection.add_up(flat)
