"""Losses on logits: values of every output and, by hand, their slopes, the gradients with respect to the logits.

Shapes are those of ``network``: all are ``(*models, n_samples, n_outputs)``, and the loss of a sample is the sum.
``output`` says what turns logits into probabilities, "logistic" or "softmax". Targets must be 0 or 1.
"""

from collections.abc import Callable

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


def get_loss(loss: str | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Return the loss of a name, or one made of a function of logits and targets, with slopes by autograd."""
    if isinstance(loss, str):
        return LOSSES[loss]

    def calc_slopes(logits: Tensor, deps: Tensor, output: str) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = logits.clone().requires_grad_()
            (slopes,) = torch.autograd.grad(_call_on_each(loss, leaf, deps.clone()).sum(), leaf)
        return slopes

    return Loss(lambda logits, deps, output: _call_on_each(loss, logits, deps), calc_slopes)


def _call_on_each(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, deps: Tensor) -> Tensor:
    """Call a function of matrices, (n_samples, n_outputs), on each model's."""
    if logits.ndim == 3:
        pairs = zip(logits, deps.expand_as(logits), strict=True)
        return torch.stack([_call_on_each(function, *pair) for pair in pairs])
    values = function(logits, deps)
    if not isinstance(values, Tensor) or values.shape not in (logits.shape, logits.shape[:1]):
        raise ValueError(
            "loss, a function of logits and targets, must return a tensor with a value for each sample, "
            f"({len(logits)},), or each output, {tuple(logits.shape)}, got "
            f"{f'shape {tuple(values.shape)}' if isinstance(values, Tensor) else type(values).__name__}. Leave sums "
            "and means to training: reduction='none'."
        )
    return values if values.ndim == 2 else values.unsqueeze(-1)
