"""What every solver minimizes and watches: the penalty beside the loss, and the loss on validation data."""

import torch
from torch import Tensor

from .._kernels import get_grad
from ..batch import Batch
from ..losses import Loss
from ..network import calc_loss
from .buffers import Buffer, count_sizes
from .run import Data
from .threads import use_threads


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
    with use_threads(validation.count_work(len(validation), buffer)):
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
