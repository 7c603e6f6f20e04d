"""What every solver minimizes and watches: the loss in parts, the penalty beside it, and the validation loss."""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .._kernels import get_grad
from ..batch import Batch, join_rows, split_rows
from ..losses import Loss
from ..network import Coeffs, calc_loss, store_grads
from .buffers import Buffer, count_sizes
from .run import Data, TrainingRun
from .threads import count_cores, run_parts

MIN_PART_WORK = 2**24  # multiply-adds. Two threads that want the interpreter at once lose the time of some 2**22.
LARGE_PART_WORK = 2**26  # for more than two parts
MIN_PART_ROWS = 64  # each part reads all weights, and adds a gradient to each
MAX_PARTS = 8


class PartedGrads:
    """The gradients of steps in parts, which are shares of a minibatch's rows. Each part has gradients of its own.

    The work of a step of one model decides how many there are, so that a model trains in a stack as it does alone.
    """

    def __init__(self, run: TrainingRun, buffer: Buffer) -> None:
        n_parts = count_parts(run.count_work(), run.buffer.flat.numel()) if buffer.flat.is_cpu else 1
        self.n_rows = math.ceil(run.count_rows() / n_parts)
        buffers = [buffer, *(replace(buffer, flat=buffer.flat.detach()) for _ in range(n_parts - 1))]
        self.grads = [get_grad(each.flat) for each in buffers]
        self.coeffs = [run.data.as_coeffs(each) for each in buffers]
        # A function of the user's need not be safe for threads.
        self.n_cores = 1 if callable(run.hyperparameters.loss) or n_parts == 1 else count_cores()

    def store(self, coeffs: Coeffs, batch: Batch, loss: Loss) -> Tensor:
        """Add the gradients of a minibatch to those of the buffer, in place, as `network.store_grads` does."""
        # Padded minibatches of a stack may have some rows more, and the last of an epoch has fewer.
        shares = split_rows(batch, max(self.n_rows, math.ceil(batch.deps.shape[-2] / len(self.coeffs))))
        if len(shares) == 1:
            return _store_share(self.coeffs[0], batch, loss, None)
        functions = [
            partial(_store_share, own, share, loss, None if number == 0 else grads)
            for number, (own, share, grads) in enumerate(zip(self.coeffs, shares, self.grads, strict=False))
        ]
        logits = run_parts(functions, self.n_cores)
        for grads in self.grads[1 : len(shares)]:
            self.grads[0].add_(grads)
        return join_rows(logits)


def _store_share(coeffs: Coeffs, share: Batch, loss: Loss, grads: Tensor | None) -> Tensor:
    """Add the gradients of a part to its own, in place, which are zeros first. Many rows are taken piece by piece."""
    if grads is not None:
        grads.zero_()
    return join_rows([store_grads(coeffs, piece, loss) for piece in split_rows(share)])


def count_parts(work: int, n_coeffs: int) -> int:
    """Return in how many parts a step of so many multiply-adds is computed."""
    n_rows = work // (3 * n_coeffs)  # if they are dense: a coefficient takes three multiply-adds a row
    most = min(work // MIN_PART_WORK, n_rows // MIN_PART_ROWS, MAX_PARTS)
    return max(1, min(most, max(2, work // LARGE_PART_WORK)))


class Penalty:
    """The penalty ``decay / 2 * sum(weights ** 2)`` of each model. Biases have none.

    ``decays``, (*models, 1), are the penalty's strength divided by the number of samples in the mean loss that the
    penalty is added to.
    """

    def __init__(self, buffer: Buffer) -> None:
        n_weights = buffer.n_weights
        self.weights = buffer.flat[..., :n_weights]
        self.weight_grads = get_grad(buffer.flat)[..., :n_weights]
        self.squares = torch.zeros_like(buffer.flat[..., 0])  # (*models,), summed over weights and steps

    def add_grads(self, decays: Tensor) -> None:
        """Add the penalty's gradient to that of the weights, and the weights' squares to ``squares``, in place."""
        _add_squares(self.squares, self.weights)
        self.weight_grads.addcmul_(self.weights, decays)

    def add_to_losses(self, losses: Tensor, decays: Tensor) -> Tensor:
        """Return the losses, (*models,), plus the penalties of all steps since ``squares`` was zero."""
        return torch.addcmul(losses, self.squares, decays.squeeze(-1) / 2)


def calc_validation_losses(buffer: Buffer, validation: Data, batch: Batch, loss: Loss) -> Tensor:
    """Return the mean loss of each model, (*models,), over a batch. ``validation`` is the data of one model."""
    return calc_loss(validation.as_coeffs(buffer), batch.indeps, batch.deps, batch.sample_weights, loss)


def _add_squares(totals: Tensor, weights: Tensor, size: int = 16384) -> None:
    """Add the sum of squares of each model's weights to ``totals``, (*models,), in place.

    A longer sum than ``size`` would depend on the number of threads, so such sums are added up piece by piece.
    """
    for piece in (
        [weights] if weights.shape[-1] <= size else weights.split_with_sizes(count_sizes(weights.shape[-1], size), -1)
    ):
        norms = torch.linalg.vector_norm(piece, dim=-1)
        totals.addcmul_(norms, norms)
