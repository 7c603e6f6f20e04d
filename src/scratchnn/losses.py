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
    """Return the loss of a name, or one made of a function of logits and targets, with slopes by autograd.

    The functions of the loss raise ValueError if the user's function fails, gives no tensor with a value for each
    sample or output, or one that autograd cannot follow back to the logits.
    """
    if isinstance(loss, str):
        return LOSSES[loss]

    def calc_slopes(logits: Tensor, deps: Tensor, output: str) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = logits.clone().requires_grad_()
            values = _call_on_each(loss, leaf.clone(), deps)  # autograd lets no function change a leaf
            if not values.requires_grad:
                raise ValueError(
                    "loss, a function of logits and targets, must return values that autograd can follow back to the "
                    f"logits, got {values.dtype} without a gradient. {_REMEDY}"
                )
            (slopes,) = torch.autograd.grad(values.sum(), leaf)
        return slopes

    return Loss(lambda logits, deps, output: _call_on_each(loss, logits, deps), calc_slopes)


_REMEDY = (
    "Write it with PyTorch's functions and tensors from end to end: torch.exp, not np.exp or math.exp, and no "
    "numpy(), item(), detach() or comparison on the way from the logits to the loss."
)


# What functions raise that are written for arrays, or for other shapes. Other exceptions are the function's own affair.
_WRONG_WAYS = (TypeError, AttributeError, ValueError, IndexError, RuntimeError, UserWarning)


def _call_on_each(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, deps: Tensor) -> Tensor:
    """Call a function of matrices, (n_samples, n_outputs), on each model's, and check what it returns."""
    if logits.ndim == 3:
        deps = deps.expand_as(logits)
        return torch.stack([_call_on_each(function, logits[model], deps[model]) for model in range(len(logits))])
    try:
        values = function(logits, deps.clone())  # a function that changes the targets must not change the data
    except torch.cuda.OutOfMemoryError:
        raise
    except _WRONG_WAYS as error:
        raise ValueError(
            "loss, a function of logits and targets, must work on two tensors of shape (n_samples, n_outputs), with "
            f"one output for two classes, got {type(error).__name__} for shape {tuple(logits.shape)}: "
            f"{str(error).rstrip('.')}. {_REMEDY}"
        ) from error
    is_tensor = isinstance(values, Tensor)
    if not is_tensor or values.shape not in (logits.shape, logits.shape[:1]) or values.is_complex():
        got = f"shape {tuple(values.shape)} of {values.dtype}" if is_tensor else type(values).__name__
        raise ValueError(
            "loss, a function of logits and targets, must return a tensor with a real value for each sample, "
            f"({len(logits)},), or each output, {tuple(logits.shape)}, got {got}. Leave sums "
            f"and means to training: reduction='none'.{'' if is_tensor else f' {_REMEDY}'}"
        )
    return values if values.ndim == 2 else values.unsqueeze(-1)
