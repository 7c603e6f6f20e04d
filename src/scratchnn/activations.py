"""Activations of the hidden layers and of the output, each with the chain rule back through it."""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._kernels import apply_to_rows

# Grads where values > 0, else 0, in one pass. A mask and a product take seven times as long.
_pass_where_positive = torch.ops.aten.threshold_backward.grad_input


class Activation(NamedTuple):
    """The activation of a hidden layer, applied to its sums. Both functions may overwrite their first argument.

    ``forward`` takes the sums. It returns the values, and the tensor that ``backward`` needs.
    ``backward`` takes the gradient with respect to the values, and this tensor. It returns the gradient with respect to
    the sums.
    """

    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor], Tensor]


def _keep_values(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def forward(sums: Tensor) -> tuple[Tensor, Tensor]:
        values = function(sums)
        return values, values

    return forward


def _backward_gelu(grads: Tensor, sums: Tensor) -> Tensor:
    density = torch.exp(-sums * sums / 2) / math.sqrt(2 * math.pi)
    return grads.mul_(torch.special.ndtr(sums) + sums * density)


def _backward_silu(grads: Tensor, sums: Tensor) -> Tensor:
    gates = torch.sigmoid(sums)
    return grads.mul_(gates * (1 + sums * (1 - gates)))


ACTIVATIONS = {
    "relu": Activation(
        _keep_values(torch.relu_), lambda grads, values: _pass_where_positive(grads, values, 0, grad_input=grads)
    ),
    "tanh": Activation(_keep_values(torch.tanh_), lambda grads, values: grads.mul_(1 - values * values)),
    "logistic": Activation(_keep_values(torch.sigmoid_), lambda grads, values: grads.mul_(values).mul_(1 - values)),
    "identity": Activation(_keep_values(lambda sums: sums), lambda grads, values: grads),
    "leaky_relu": Activation(
        _keep_values(F.leaky_relu_), lambda grads, values: torch.where(values > 0, grads, 0.01 * grads)
    ),
    "gelu": Activation(lambda sums: (F.gelu(sums), sums), _backward_gelu),
    "gaussian": Activation(
        lambda sums: ((values := (sums * sums).neg_().exp_()), sums * values),
        lambda grads, products: grads.mul_(products).mul_(-2),
    ),
    "silu": Activation(lambda sums: (F.silu(sums), sums), _backward_silu),
}


class Output(NamedTuple):
    """The activation of the output, which turns logits into probabilities.

    ``backward`` takes the gradient with respect to the probabilities, and the probabilities. It returns the gradient
    with respect to the logits.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


OUTPUTS = {
    "logistic": Output(torch.sigmoid, lambda grads, preds: grads * preds * (1 - preds)),
    "softmax": Output(
        lambda logits: apply_to_rows(torch.softmax, logits),
        lambda grads, preds: preds * (grads - (grads * preds).sum(-1, keepdim=True)),
    ),
}
INITS = ("scratch", "glorot_uniform", "he_uniform")  # the method's; Glorot & Bengio, 2010; He et al., 2015


def calc_init_bounds(init: str, activation: str, fan_in: int, fan_out: int, is_output: bool) -> tuple[float, float]:
    """Return the bounds of a layer's weights and biases. A Gaussian's width is about 1, so its biases are up to 1."""
    factor = 2 if activation == "logistic" else 6
    bound = math.sqrt(6 / fan_in if init == "he_uniform" else factor / (fan_in + fan_out))
    return bound, 1.0 if activation == "gaussian" and not is_output else bound


def check_name(parameter: str, name: str, names: Collection[str]) -> None:
    """Raise ValueError if ``name``, the value of ``parameter``, is not one of ``names``."""
    if name not in names:
        raise ValueError(f"{parameter} must be one of {sorted(names)}, got {name!r}.")
