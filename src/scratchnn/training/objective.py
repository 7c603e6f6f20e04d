"""The objective of all solvers: gradients in parts, the penalty, and the validation loss."""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .._kernels import get_grad
from ..batch import Batch, join_rows, split_rows
from ..losses import Loss
from ..network import Coeffs, calc_loss, store_grads
from .buffers import Buffer
from .run import Data, TrainingRun
from .threads import count_cores, run_parts

# A step has two parts if each gets this many multiply-adds and samples, and more parts if each gets many more.
MIN_PART_WORK, MIN_PART_ROWS = 2**24, 64
LARGE_PART_WORK, MAX_PARTS = 2**26, 8


class PartedGrads:
    """The gradients of steps in parts, which are shares of a minibatch's samples. Each part has its own gradients.

    The number of parts depends on the step of one model, so that a model trains in a stack as it does alone.
    """

    def __init__(self, run: TrainingRun, buffer: Buffer) -> None:
        n_rows, n_parts = run.count_rows(), 1
        if isinstance(run.data.inputs, Tensor) and buffer.flat.is_cpu:
            n_parts = count_parts(n_rows, buffer.n_weights)
        self.n_rows = math.ceil(n_rows / n_parts)
        buffers = [buffer, *(replace(buffer, flat=buffer.flat.detach()) for _ in range(n_parts - 1))]
        self.grads = [get_grad(each.flat) for each in buffers]
        self.coeffs = [run.data.as_coeffs(each) for each in buffers]
        # A user's function may not be thread-safe.
        self.n_cores = 1 if n_parts == 1 or callable(run.hyperparameters.loss) else count_cores()

    def store(self, coeffs: Coeffs, batch: Batch, loss: Loss) -> Tensor:
        """Add the gradients of a minibatch to those of the buffer, in place, as `network.store_grads` does."""
        n_parts = len(self.coeffs)
        if n_parts == 1:
            return self._store_part(0, batch, loss)
        # Padded minibatches of a stack may have a few more samples, and the last minibatch of an epoch has fewer.
        parts = split_rows(batch, max(self.n_rows, math.ceil(batch.deps.shape[-2] / n_parts)))
        logits = run_parts([partial(self._store_part, *each, loss) for each in enumerate(parts)], self.n_cores)
        for grads in self.grads[1 : len(parts)]:
            self.grads[0].add_(grads)
        return join_rows(logits)

    def _store_part(self, number: int, part: Batch, loss: Loss) -> Tensor:
        if number:
            self.grads[number].zero_()
        pieces = split_rows(part)  # so that memory use does not grow with the number of samples
        return join_rows([store_grads(self.coeffs[number], piece, loss) for piece in pieces])


def count_parts(n_rows: int, n_weights: int) -> int:
    """Return the number of parts of a step."""
    work = 3 * n_rows * n_weights  # multiply-adds: the backward pass takes twice as many as the forward pass
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
        norms = torch.linalg.vector_norm(self.weights, dim=-1)
        self.squares.addcmul_(norms, norms)
        self.weight_grads.addcmul_(self.weights, decays)

    def add_to_losses(self, losses: Tensor, decays: Tensor) -> Tensor:
        """Return the losses, (*models,), plus the penalties of all steps since ``squares`` was zero."""
        return torch.addcmul(losses, self.squares, decays.squeeze(-1) / 2)


def calc_validation_losses(buffer: Buffer, validation: Data, batch: Batch, loss: Loss) -> Tensor:
    """Return the mean loss of each model, (*models,), over a batch. ``validation`` is the data of one model."""
    return calc_loss(validation.as_coeffs(buffer), batch.indeps, batch.deps, batch.sample_weights, loss)
