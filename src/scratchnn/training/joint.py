"""The steps that several processes take together: each computes the gradients of its own rows."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from .buffers import Buffer, count_sizes
from .ranks import RankError, Ranks


class JointSteps:
    """How the rows of all ranks are divided among the steps of an epoch.

    In each step a rank takes an equal part of its own rows. A rank that has none left repeats its last ones with
    weight 0. A batch's losses and gradients are divided by the number of rows of all ranks in the step. Summed over the
    ranks, they equal what one process with all rows would compute.

    Parameters
    ----------
    ranks : Ranks
        The processes.
    n_own : int
        Number of samples that this process trains on.
    n_own_validation : int
        Number of samples that it validates on.
    batch_size : int
        Rows of a batch, of all ranks together.
    """

    def __init__(self, ranks: Ranks, n_own: int, n_own_validation: int, batch_size: int) -> None:
        self.ranks = ranks
        numbers, numbers_of_validation = zip(*ranks.gather((n_own, n_own_validation)), strict=True)
        self.n_samples = sum(numbers)
        n_steps = math.ceil(self.n_samples / batch_size)
        self.batch_size = math.ceil(n_own / n_steps)  # of this rank
        sizes = [count_sizes(number, math.ceil(number / n_steps)) for number in numbers]
        self.sizes = [sum(step) for step in zip_longest(*sizes, fillvalue=0)]  # rows of all ranks in each step
        self.validation_share = n_own_validation / max(1, sum(numbers_of_validation))

    def __enter__(self) -> "JointSteps":
        return self

    def __exit__(self, kind: Any, *error: object) -> None:
        if kind is not None:
            self.leave()

    def leave(self) -> None:
        """End the training of the other ranks, which wait for this one's next sum, with an error."""
        self.ranks.close()

    def align(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield a batch for each step, of this rank's ``batches`` while there are any."""
        own = iter(batches)
        last: Batch | None = None
        for n_samples in self.sizes:
            batch = next(own, None)
            if batch is None:
                assert last is not None  # each rank has a row
                batch = last = last._replace(weights=torch.zeros_like(last.deps[..., 0], dtype=last.indeps.dtype))
            last = batch
            yield batch._replace(n_samples=n_samples)

    def add_losses(self, penalized: Tensor, losses: Tensor) -> Tensor:
        """Return the losses of an epoch with the penalty, and without it, (2, models), of all ranks."""
        # All ranks have the same coefficients, so their penalty counts once.
        return self.ranks.add_up(torch.stack([penalized if self.ranks.rank == 0 else losses, losses]))

    def add_validation_losses(self, losses: Tensor) -> Tensor:
        """Return the mean validation losses, (models,), of all ranks."""
        return self.ranks.add_up(losses * self.validation_share)

    def agree_on_end(self, is_last: bool, error: Exception | None) -> tuple[bool, Exception | None]:
        """Return whether the epoch is the last in any rank, and the error: of this rank, or about that of another."""
        flags = torch.tensor([is_last, error is not None], dtype=torch.float64, device="cpu")
        try:
            n_last, n_failed = self.ranks.add_up(flags).tolist()
        except RankError:
            if error is None:
                raise
            return True, error  # it says why the others are lost
        if n_failed and error is None:
            error = RankError(
                f"Training failed in another rank of data_parallel, so rank {self.ranks.rank} stops, too. The output "
                "of that process says why."
            )
        return n_last > 0, error


def make_mean_score(calc_score: Callable[[Buffer], float], ranks: Ranks, weight: float) -> Callable[[Buffer], float]:
    """Return a function that scores coefficients as all ranks do: the mean of their scores, by their ``weight``."""

    def calc_mean_score(buffer: Buffer) -> float:
        try:
            score = calc_score(buffer)
        except Exception as error:
            ranks.announce(error)
            raise
        scores = ranks.gather((score, weight))
        return sum(score * weight for score, weight in scores) / sum(weight for _, weight in scores)

    return calc_mean_score
