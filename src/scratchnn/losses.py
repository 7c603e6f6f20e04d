"""Losses on logits: values of every output and, by hand, their slopes, the gradients with respect to the logits.

Shapes are those of ``network``: all are ``(*models, n_samples, n_outputs)``, and the loss of a sample is the sum.
``output`` says what turns logits into probabilities, "logistic" or "softmax". Targets must be 0 or 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import OUTPUTS, Loss, apply_to_rows, mean_absolute_error


def _log_losses(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    """Return ``-log(pred)`` of the true class, from logits: finite and exact where probabilities round to 0 or 1."""
    if output == "softmax":
        return (apply_to_rows(F.log_softmax, logits) * deps).neg_()
    margins = torch.addcmul(logits, logits, deps, value=-2)  # the logit of the class that is not the true one
    return F.softplus(margins, threshold=40)


def _log_loss_slopes(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    preds = OUTPUTS[output](logits)
    if output == "softmax":  # processors are many times slower on numbers (and squares of them) near underflow
        F.threshold(preds, torch.finfo(preds.dtype).tiny ** 0.5, 0, inplace=True)
    return preds.sub_(deps)


def _squared_errors(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    """Return ``(pred - dep) ** 2``, halved for a softmax (Brier, 1950)."""
    squares = (OUTPUTS[output](logits) - deps).square()
    return squares / 2 if output == "softmax" else squares


def _squared_error_slopes(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    preds = OUTPUTS[output](logits)
    errors = preds - deps
    if output == "softmax":
        return preds * (errors - (errors * preds).sum(-1, keepdim=True))
    return 2 * errors * preds * (1 - preds)


LOSSES = {
    "log_loss": Loss(_log_losses, _log_loss_slopes),
    "mae": mean_absolute_error,
    "brier": Loss(_squared_errors, _squared_error_slopes),
}
