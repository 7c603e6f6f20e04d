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

    ``decays``, (*models, 1), are the penalty's strength divided by the number of samples whose mean loss it joins.
    """

    def __init__(self, buffer: Buffer) -> None:
        n_weights = buffer.n_weights
        self.weights = buffer.flat[..., :n_weights]
        self.weight_grads = get_grad(buffer.flat)[..., :n_weights]
        self.squares = torch.zeros_like(buffer.flat[..., 0])  # (*models,), of the weights, summed over steps

    def add_grads(self, decays: Tensor) -> None:
        """Add the gradient to that of the weights, in place, and the squares of the weights to their sum."""
        _add_squares(self.squares, self.weights)
        self.weight_grads.addcmul_(self.weights, decays)

    def add_to_losses(self, losses: Tensor, decays: Tensor) -> Tensor:
        """Return the losses, (*models,), with the penalty of the steps since `squares` was zero."""
        return torch.addcmul(losses, self.squares, decays.squeeze(-1) / 2)


def calc_validation_losses(buffer: Buffer, validation: Data, batch: Batch, loss: Loss) -> Tensor:
    """Return the mean loss of each model, (*models,), over a batch of samples such as one model's ``validation``."""
    with use_threads(validation.count_work(len(validation.deps), buffer)):
        return calc_loss(validation.view(buffer), batch.indeps, batch.deps, batch.weights, loss)


def _add_squares(totals: Tensor, weights: Tensor, block: int = 16384) -> None:
    """Add the sum of the squares of each model's weights, (models,). By blocks: long sums depend on the threads."""
    for part in (
        [weights] if weights.shape[-1] <= block else weights.split_with_sizes(count_sizes(weights.shape[-1], block), -1)
    ):
        norms = torch.linalg.vector_norm(part, dim=-1)
        totals.addcmul_(norms, norms)
