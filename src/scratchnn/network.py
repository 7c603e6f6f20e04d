"""A neural network by hand, on PyTorch tensors: the whole method in eight functions.

::

    coeffs = init_coeffs(n_features)             draw weights and biases at random
    for every epoch:                             execute_epoch
        preds = calc_preds(coeffs, indeps)       predict
        loss = calc_loss(coeffs, indeps, deps)   measure how wrong the predictions are
        store_grads(coeffs, batch)               find how the loss changes with each coefficient: the chain rule
        update_coeffs(coeffs, lr)                move each coefficient a little, against its gradient

`train_model`, at the end of the file, is this loop, and `model_accuracy` evaluates the result. `store_grads` does the
work of ``loss.backward()``, with hand-derived gradients.

Without the leading axes ``*models``, every shape below is that of one network; with them, it is that of a stack of
networks that train together. The functions are the same for both.

- ``indeps``, the inputs, may be sparse: ``(*models, n_samples, n_features)``, or ``(n_samples, n_features)`` for all.
- ``deps``, the targets, zeros and ones: ``(*models, n_samples, n_outputs)``.
- the weight of a layer: ``(*models, fan_in, fan_out)``; its bias: ``(*models, 1, fan_out)``.

Helpers are written for speed: ``matmul(a, b)`` means ``a @ b``, ``add_product(total, a, b)`` ``total += a.T @ b``, and
``get_grad(value)`` ``value.grad``. A `Batch` holds ``indeps`` and ``deps`` of one step; ``split_rows`` divides it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ._kernels import add_product, get_grad, matmul
from .activations import ACTIVATIONS, INITS, OUTPUTS, calc_init_bounds, check_name
from .batch import Batch, check_deps, check_indeps, split_rows
from .losses import Loss, MeanLoss, mean_absolute_error


@dataclass(eq=False)
class Coeffs:
    """The coefficients of a network. Their gradients are where autograd stores them, in each tensor's ``grad``."""

    weights: list[Tensor]
    biases: list[Tensor | None]  # None: a layer without a bias
    activation: str = "relu"  # of the hidden layers
    output: str = "logistic"  # "logistic": independent outputs; "softmax": exclusive classes

    def __post_init__(self) -> None:
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("output", self.output, OUTPUTS)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.weights
        yield from (bias for bias in self.biases if bias is not None)

    def requires_grad_(self) -> "Coeffs":
        """Let autograd track the coefficients, in place: ``calc_loss(...).backward()`` then stores the gradients."""
        for value in self:
            value.requires_grad_()
        return self


def init_coeffs(
    n_features: int,
    n_hidden: int | tuple[int, ...] = 20,
    n_outputs: int = 1,
    *,
    generator: torch.Generator | None = None,
    init: str = "scratch",
    activation: str = "relu",
    output: str = "logistic",
    hidden_bias: bool = False,
) -> Coeffs:
    """Draw the coefficients of one network, in float32 on the CPU: for each layer its weight, then its bias.

    The method's own rule, "scratch", is written out here. The others draw uniformly from ``[-bound, bound]``, or start
    at zero without a hidden layer, as there is no symmetry to break. The default generator is PyTorch's global one.
    """
    check_name("init", init, INITS)
    hidden_sizes = (n_hidden,) if isinstance(n_hidden, int) else tuple(n_hidden)
    coeffs = Coeffs([], [], activation, output)
    for fan_in, fan_out in pairwise((n_features, *hidden_sizes, n_outputs)):
        is_output = len(coeffs.weights) == len(hidden_sizes)
        weight = torch.zeros(fan_in, fan_out, dtype=torch.float32, device="cpu")
        bias = torch.zeros(1, fan_out, dtype=torch.float32, device="cpu") if is_output or hidden_bias else None
        if init == "scratch":
            weight.uniform_(generator=generator)
            if is_output and bias is not None:
                weight.sub_(0.3)
                bias.uniform_(generator=generator)
            else:
                weight.sub_(0.5).div_(fan_out)
        elif hidden_sizes:
            bounds = calc_init_bounds(init, activation, fan_in, fan_out, is_output)
            for value, bound in zip((weight,) if bias is None else (weight, bias), bounds, strict=False):
                value.uniform_(-bound, bound, generator=generator)
        coeffs.weights.append(weight)
        coeffs.biases.append(bias)
    return coeffs


class Forward(NamedTuple):
    """The results of a forward pass, for the backward pass."""

    inputs: list[Tensor]  # of each layer: indeps, then the values of the hidden layers
    cache: list[Tensor]  # of each hidden layer: the tensor that its activation's ``backward`` needs
    logits: Tensor  # (*models, n_samples, n_outputs)


def run_forward(coeffs: Coeffs, indeps: Tensor, masks: list[Tensor] | None = None) -> Forward:
    """Compute the logits of samples: each layer multiplies and adds, and hidden layers apply the activation."""
    check_indeps(indeps, coeffs.weights[0].shape[-2])
    inputs, cache = [indeps], []
    *hidden_layers, output_layer = zip(coeffs.weights, coeffs.biases, strict=True)
    for layer, (weight, bias) in enumerate(hidden_layers):
        sums = _calc_sums(inputs[-1], weight, bias)  # (*models, n_samples, fan_out)
        values, cached = ACTIVATIONS[coeffs.activation].forward(sums)
        cache.append(cached)
        inputs.append(values if masks is None else values * masks[layer])
    return Forward(inputs, cache, _calc_sums(inputs[-1], *output_layer))


def _calc_sums(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    sums = matmul(inputs, weight)
    return sums if bias is None else sums.add_(bias)


def calc_preds(coeffs: Coeffs, indeps: Tensor, convert: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the predicted probabilities, ``(*models, n_samples, n_outputs)``. ``convert`` changes the logits first."""
    logits = run_forward(coeffs, indeps).logits
    return OUTPUTS[coeffs.output].forward(logits if convert is None else convert(logits))


def calc_loss(
    coeffs: Coeffs, indeps: Tensor, deps: Tensor, sample_weights: Tensor | None = None, loss: Loss = mean_absolute_error
) -> Tensor:
    """Return the mean loss of each model, ``(*models,)``. ``sample_weights`` are ``(*models, n_samples)``."""
    parts = split_rows(Batch(indeps, deps, sample_weights))
    losses = (loss.loss(run_forward(coeffs, part.indeps).logits, part.deps, coeffs.output) for part in parts)
    return reduce(torch.add, (_weigh(values, part).sum((-2, -1)) for values, part in zip(losses, parts, strict=True)))


def store_grads(coeffs: Coeffs, batch: Batch, loss: Loss = mean_absolute_error) -> Tensor:
    """Add the gradient of the batch's mean loss to each coefficient's ``grad``, in place. Return the logits."""
    forward = run_forward(coeffs, batch.indeps, batch.masks)
    deltas = _weigh(loss.gradient(forward.logits, batch.deps, coeffs.output), batch)
    _backpropagate(coeffs, forward, batch.masks, deltas)
    return forward.logits


def _weigh(values: Tensor, batch: Batch) -> Tensor:
    """Multiply each sample's values by its share of the mean: its weight, divided by the number of samples."""
    part = 1 / batch.count_samples()
    return values * part if batch.sample_weights is None else values * (batch.sample_weights * part).unsqueeze(-1)


def _backpropagate(coeffs: Coeffs, forward: Forward, masks: list[Tensor] | None, deltas: Tensor) -> None:
    """Follow the chain rule from the logits to the inputs, adding to the gradients in place.

    ``deltas`` is the gradient of the loss at a layer's sums, ``inputs @ weight + bias``. It yields the gradients of

    - the weight: ``inputs.T @ deltas``;
    - the bias: ``deltas`` summed over the samples;
    - the inputs: ``deltas @ weight.T``, which the activation's derivative turns into the deltas of the layer below.
    """
    for layer in reversed(range(len(coeffs.weights))):
        weight, bias = coeffs.weights[layer], coeffs.biases[layer]
        add_product(get_grad(weight), forward.inputs[layer], deltas)  # weight.grad += inputs.T @ deltas
        if bias is not None:
            get_grad(bias).add_(deltas.sum(-2, keepdim=True))
        if layer > 0:
            deltas = matmul(deltas, weight.mT)
            if masks is not None:
                deltas *= masks[layer - 1]
            deltas = ACTIVATIONS[coeffs.activation].backward(deltas, forward.cache[layer - 1])


@torch.no_grad()
def update_coeffs(coeffs: Coeffs, lr: float | Tensor) -> None:
    """Take one step of gradient descent in place, ``value -= lr * grad``, and clear the gradients.

    Each model of a stack may have its own learning rate, with ``lr`` of shape ``(*models, 1, 1)``.
    """
    for value in coeffs:
        value.sub_(get_grad(value) * lr)
        get_grad(value).zero_()


@torch.no_grad()
def execute_epoch(
    coeffs: Coeffs,
    batches: Iterable[Batch],
    update: Callable[[Coeffs], None],
    loss: Loss = mean_absolute_error,
    store: Callable[[Coeffs, Batch, Loss], Tensor] = store_grads,
) -> Tensor:
    """Compute the gradients of each batch and update, in place. Return each model's mean loss before its updates."""
    mean = MeanLoss(loss, coeffs.output)
    for batch in batches:
        mean.add(store(coeffs, batch, loss), batch)
        update(coeffs)
    return mean.calc()


def train_model(
    indeps: Tensor,
    deps: Tensor,
    epochs: int = 30,
    lr: float = 0.1,
    *,
    n_hidden: int | tuple[int, ...] = 20,
    seed: int = 442,
) -> tuple[Coeffs, list[float]]:
    """Draw coefficients and train them on all samples at once. Return them, and the loss of each epoch."""
    generator = torch.Generator("cpu").manual_seed(seed)
    coeffs = init_coeffs(indeps.shape[-1], n_hidden, deps.shape[-1], generator=generator)
    batches, update = [Batch(indeps, deps)], partial(update_coeffs, lr=lr)
    return coeffs, [execute_epoch(coeffs, batches, update).item() for _ in range(epochs)]


def model_accuracy(coeffs: Coeffs, indeps: Tensor, deps: Tensor) -> Tensor:
    """Return the fraction of samples with a correct prediction (in every output), ``(*models,)``."""
    preds = calc_preds(coeffs, indeps)
    check_deps(deps, preds)
    is_softmax = coeffs.output == "softmax"
    hits = preds.argmax(-1) == deps.argmax(-1) if is_softmax else ((preds > 0.5) == (deps > 0.5)).all(-1)
    return hits.double().mean(-1)
