"""Losses on logits: each returns the loss of every output and, by hand, its gradient with respect to the logits.

Shapes are those of ``network``: all are ``(*models, n_samples, n_outputs)``, and the loss of a sample is the sum.
``output`` says what turns logits into probabilities, "logistic" (outputs are summed) or "softmax".
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import OUTPUTS, Loss, mean_absolute_error


def log_loss(logits: Tensor, deps: Tensor, output: str) -> tuple[Tensor, Tensor]:
    """Return ``-log(pred)`` of the true class; its gradient is ``pred - dep`` for either output.

    From logits, so that it stays finite and exact where probabilities round to 0 or 1. Targets must be 0 or 1.
    """
    if output == "softmax":
        log_preds = torch.log_softmax(logits, dim=-1)
        return -(deps * log_preds), log_preds.exp() - deps
    margins = torch.addcmul(logits, logits, deps, value=-2)  # the logit of the class that is not the true one
    losses = F.softplus(margins, threshold=40)
    return losses, torch.sigmoid(logits).sub_(deps)


def brier(logits: Tensor, deps: Tensor, output: str) -> tuple[Tensor, Tensor]:
    """Return ``(pred - dep) ** 2``, halved for a softmax (Brier, 1950), and its gradient."""
    preds = OUTPUTS[output](logits)
    errors = preds - deps
    if output == "softmax":
        return errors.square() / 2, preds * (errors - (errors * preds).sum(-1, keepdim=True))
    return errors.square(), 2 * errors * preds * (1 - preds)


LOSSES: dict[str, Loss] = {"log_loss": log_loss, "mae": mean_absolute_error, "brier": brier}
