"""Losses as functions of the logits, with handwritten gradients with respect to the logits.

All shapes are ``(*models, n_samples, n_outputs)``, and targets are 0 or 1. A sample's loss is the sum over its outputs.
With a softmax, an error appears in two outputs, so "mae" and "brier" are halved: two classes have the same loss with
one output and with two.

For a softmax, targets may also be class indices, ``(*models, n_samples, 1)`` of int64. They are one-hot encoded only
for the samples whose loss is computed, so that memory does not grow with samples times classes.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ._kernels import apply_to_rows
from .activations import OUTPUTS
from .batch import Batch, check_deps

LossFunction: TypeAlias = Callable[[Tensor, Tensor, str], Tensor]  # of logits, targets, and the name of the output


class Loss:
    """A loss function: its value for each output, and its gradient with respect to the logit."""

    def __init__(self, calc_loss: LossFunction, calc_gradient: LossFunction) -> None:
        self.calc_loss, self.calc_gradient = calc_loss, calc_gradient

    def loss(self, logits: Tensor, deps: Tensor, output: str) -> Tensor:
        """Return the loss of every output. Raises ValueError if targets and logits differ in their last two axes."""
        return self.calc_loss(logits, _check_targets(deps, logits, output), output)

    def gradient(self, logits: Tensor, deps: Tensor, output: str) -> Tensor:
        """Return the gradient of every loss with respect to its logit. Raises as `loss` does."""
        return self.calc_gradient(logits, _check_targets(deps, logits, output), output)


def _check_targets(deps: Tensor, logits: Tensor, output: str) -> Tensor:
    """Return one-hot targets. Raises ValueError if targets and logits differ in their last two axes."""
    has_indices = output == "softmax" and isinstance(deps, Tensor) and deps.dtype == torch.int64
    if has_indices and deps.shape[-2:] == (logits.shape[-2], 1):
        return torch.zeros_like(logits).scatter_(-1, deps.expand(*logits.shape[:-1], 1), 1.0)
    return check_deps(deps, logits)


def _make_loss_of_errors(function: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor]) -> Loss:
    """Return the loss ``function(preds - deps)``, given the derivative of the function."""

    def calc_loss(logits: Tensor, deps: Tensor, output: str) -> Tensor:
        losses = function(OUTPUTS[output].forward(logits) - deps)
        return losses / 2 if output == "softmax" else losses

    def calc_gradient(logits: Tensor, deps: Tensor, output: str) -> Tensor:
        preds = OUTPUTS[output].forward(logits)
        grads = OUTPUTS[output].backward(derivative(preds - deps), preds)
        return grads / 2 if output == "softmax" else grads

    return Loss(calc_loss, calc_gradient)


def _log_loss(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    """Return ``-log(pred)`` of the true class, from logits: finite and exact where probabilities round to 0 or 1."""
    if output == "softmax":
        return (apply_to_rows(F.log_softmax, logits) * deps).neg_()
    margins = torch.addcmul(logits, logits, deps, value=-2)  # the logit of the wrong class
    return F.softplus(margins, threshold=40)


def _log_loss_gradient(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    preds = OUTPUTS[output].forward(logits)
    if output == "softmax":  # processors are many times slower if squares of probabilities underflow
        F.threshold(preds, torch.finfo(preds.dtype).tiny ** 0.5, 0, inplace=True)
    return preds.sub_(deps)


mean_absolute_error = _make_loss_of_errors(torch.abs, torch.sign)
brier = _make_loss_of_errors(torch.square, lambda errors: 2 * errors)  # Brier, 1950
LOSSES = {"log_loss": Loss(_log_loss, _log_loss_gradient), "mae": mean_absolute_error, "brier": brier}


class MeanLoss:
    """Each model's mean loss over the batches of an epoch.

    The losses of eight batches are computed together, which takes little longer than those of one batch.
    """

    def __init__(self, loss: Loss, output: str) -> None:
        self.loss, self.output = loss, output
        self.waiting: list[tuple[Tensor, Batch]] = []
        self.totals: list[Tensor] = []
        self.n_samples: int | Tensor = 0

    def add(self, logits: Tensor, batch: Batch) -> None:
        """Add the losses of a batch, whose logits are given, in place."""
        is_weighted = batch.sample_weights is not None
        if self.waiting and (len(self.waiting) == 8 or (self.waiting[-1][1].sample_weights is not None) != is_weighted):
            self._add_up()
        self.waiting.append((logits, batch))
        self.n_samples = self.n_samples + batch.count_samples()

    def calc(self) -> Tensor:
        """Return the mean loss over all batches that were added, ``(*models,)``."""
        self._add_up()
        n_samples = self.n_samples.squeeze(-1) if isinstance(self.n_samples, Tensor) else self.n_samples
        return torch.stack(self.totals).sum(0) / n_samples

    def _add_up(self) -> None:
        logits = torch.cat([each.mT for each, _ in self.waiting], -1).mT  # samples last in memory, see `apply_to_rows`
        values = self.loss.loss(logits, torch.cat([batch.deps for _, batch in self.waiting], -2), self.output)
        weights = [batch.sample_weights for _, batch in self.waiting if batch.sample_weights is not None]
        if weights:
            values = values * torch.cat(weights, -1).unsqueeze(-1)
        self.totals.append(values.sum((-2, -1)))
        self.waiting = []


def get_loss(loss: str | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Return a loss by its name, or make one from a user's function of logits and targets, with gradients by autograd.

    Such a loss raises ValueError if the function fails, if it does not return a tensor with a value for each sample or
    output, or if autograd cannot follow the values back to the logits.
    """
    if isinstance(loss, str):
        return LOSSES[loss]

    def calc_gradient(logits: Tensor, deps: Tensor, output: str) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = logits.clone().requires_grad_()
            values = _call_on_each(loss, leaf.clone(), deps)  # autograd forbids changes of a leaf
            if not values.requires_grad:
                raise ValueError(
                    "loss, a function of logits and targets, must return values that autograd can follow back to the "
                    f"logits, got {values.dtype} without a gradient. {_REMEDY}"
                )
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return gradient

    return Loss(lambda logits, deps, output: _call_on_each(loss, logits, deps), calc_gradient)


_REMEDY = (
    "Write it with PyTorch's functions and tensors from end to end: torch.exp, not np.exp or math.exp, and no "
    "numpy(), item(), detach() or comparison between the logits and the loss."
)
# Errors of functions that were written for arrays or for other shapes. Other exceptions pass unchanged.
_MISUSE_ERRORS = (TypeError, AttributeError, ValueError, IndexError, RuntimeError, UserWarning)


def _call_on_each(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, deps: Tensor) -> Tensor:
    """Call a function of matrices, (n_samples, n_outputs), for each model, and check the values that it returns."""
    if logits.ndim == 3:
        deps = deps.expand_as(logits)
        return torch.stack([_call_on_each(function, logits[model], deps[model]) for model in range(len(logits))])
    try:
        values = function(logits, deps.clone())  # the function may change its targets, but not the data
    except torch.cuda.OutOfMemoryError:
        raise
    except _MISUSE_ERRORS as error:
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
