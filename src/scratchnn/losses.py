"""Losses on logits: each returns the loss of every sample and, by hand, its gradient with respect to the logits.

Shapes are those of ``network``: logits and targets ``(*models, n_samples, n_outputs)``, losses without the last axis.
``output`` says what turns logits into probabilities, "logistic" (outputs are summed) or "softmax".
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import OUTPUTS, Loss, mean_absolute_error


def log_loss(logits: Tensor, deps: Tensor, output: str) -> tuple[Tensor, Tensor]:
    """Return ``-log(pred)`` of the true class; its gradient is ``pred - dep`` for either output.

    From logits, so that it stays finite and exact where probabilities round to 0 or 1.
    """
    if output == "softmax":
        log_preds = torch.log_softmax(logits, dim=-1)
        return -(deps * log_preds).sum(-1), log_preds.exp() - deps
    losses = F.softplus(logits, threshold=40).addcmul_(logits, deps, value=-1)
    return losses.sum(-1), torch.sigmoid(logits).sub_(deps)


def brier(logits: Tensor, deps: Tensor, output: str) -> tuple[Tensor, Tensor]:
    """Return ``(pred - dep) ** 2``, halved for a softmax (Brier, 1950), and its gradient."""
    preds = OUTPUTS[output](logits)
    errors = preds - deps
    if output == "softmax":
        return errors.square().sum(-1) / 2, preds * (errors - (errors * preds).sum(-1, keepdim=True))
    return errors.square().sum(-1), 2 * errors * preds * (1 - preds)


LOSSES: dict[str, Loss] = {"log_loss": log_loss, "mae": mean_absolute_error, "brier": brier}
