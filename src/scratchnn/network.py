"""A neural network by hand: seven functions on PyTorch tensors.

The method: draw coefficients, predict, measure the loss, follow its gradient downhill, again and again. `train_model`
is all of it on one screen; the other six functions are its parts, in the order of their use.

Every function works on one network or on a stack of them, because shapes may have any leading axes, ``*models``:

- weights ``(*models, fan_in, fan_out)``, biases ``(*models, 1, fan_out)``;
- ``indeps``, the inputs, ``(*models, n_samples, n_features)``, or ``(n_samples, n_features)`` shared by all models, as
  sparse ones (in COO format) must be, or ``(n_sources, n_samples, n_features)``, each shared by as many of the models;
- ``deps``, the targets, and whatever is computed per sample, ``(*models, n_samples, n_outputs)``.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    """Samples, with weights ``(*models, n_samples)`` if they have any.

    Where models have different numbers of samples, ``counts``, ``(*models,)``, rows of weight 0 fill up the shorter
    ones. ``masks`` are factors of the hidden layers' values, ``(*models, n_samples, width)`` each: dropout.
    """

    indeps: Tensor
    deps: Tensor
    weights: Tensor | None = None
    counts: Tensor | None = None
    masks: list[Tensor] | None = None


@dataclass(frozen=True)
class Loss:
    """What training minimizes: two functions of logits, targets, and the name of the output.

    ``values`` are to be summed, and ``slopes`` their gradients with respect to the logits; all of one shape,
    ``(*models, n_samples, n_outputs)``.
    """

    values: Callable[[Tensor, Tensor, str], Tensor]
    slopes: Callable[[Tensor, Tensor, str], Tensor]


class Activation(NamedTuple):
    """What a hidden layer applies to its sums, and the chain rule back through it.

    ``forward`` takes the sums, and may overwrite them. ``backward`` takes the gradient with respect to the result,
    which it may overwrite, and what ``forward`` left of the sums.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


# Grads where hidden > 0, else 0, in one pass: a mask and a product take seven times as long.
_where_positive = torch.ops.aten.threshold_backward.grad_input


def _backward_relu(grads: Tensor, hidden: Tensor) -> Tensor:
    _where_positive(grads, hidden, 0, grad_input=grads)
    return grads


def _backward_gelu(grads: Tensor, sums: Tensor) -> Tensor:
    density = torch.exp(-sums * sums / 2) / math.sqrt(2 * math.pi)
    return grads.mul_(torch.special.ndtr(sums) + sums * density)


def _backward_silu(grads: Tensor, sums: Tensor) -> Tensor:
    gates = torch.sigmoid(sums)
    return grads.mul_(gates * (1 + sums * (1 - gates)))


ACTIVATIONS = {
    "relu": Activation(torch.relu_, _backward_relu),
    "tanh": Activation(torch.tanh_, lambda grads, hidden: grads.mul_(1 - hidden * hidden)),
    "logistic": Activation(torch.sigmoid_, lambda grads, hidden: grads.mul_(hidden).mul_(1 - hidden)),
    "identity": Activation(lambda sums: sums, lambda grads, hidden: grads),
    "leaky_relu": Activation(F.leaky_relu_, lambda grads, hidden: torch.where(hidden > 0, grads, 0.01 * grads)),
    "gelu": Activation(F.gelu, _backward_gelu),
    "silu": Activation(F.silu, _backward_silu),
}


def apply_to_rows(function: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Return ``function(values, dim=-1)``. PyTorch is several times slower along short rows than along columns."""
    if values.shape[-1] > 32:
        return function(values, dim=-1)
    return function(values.mT.contiguous(), dim=-2).mT


OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": torch.sigmoid,
    "softmax": lambda logits: apply_to_rows(torch.softmax, logits),
}


@dataclass(eq=False)
class Layers:
    """What the forward pass needs of a network: for each layer a weight, and a bias or None."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    activation: str
    output: str


@dataclass(eq=False)
class Coeffs:
    """Weights and biases of a network (or a stack): views of one flat buffer, as their gradients are of another.

    ``flat`` is ``(*models, n_coeffs)``, so that an update is a handful of operations whatever the number of layers: all
    weights, from the last layer's to the first's, then the biases, from the first that there is. So the first weight
    and its bias lie together, and `with_ones` can take them as one. `store_grads` fills each view's ``grad``, as
    autograd would after `requires_grad_`.
    """

    flat: Tensor
    sizes: tuple[int, ...]  # neurons per layer, from the features to the outputs
    activation: str = "relu"
    output: str = "logistic"
    n_biases: int = 1  # layers that have a bias, counted from the last

    def __post_init__(self) -> None:
        self.n_weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise(self.sizes))
        self.weights, self.biases = self._split(self.flat)

    @cached_property
    def grads(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """The gradients of weights and biases: views of that of the buffer, which is made when they are first used."""
        weight_grads, bias_grads = self._split(get_grads(self.flat))
        for value, grad in zip([*self.weights, *self.biases], [*weight_grads, *bias_grads], strict=True):
            if value is not None:
                value.grad = grad
        return weight_grads, bias_grads

    def _split(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        fans = list(pairwise(self.sizes))
        n_layers, n_biased = len(fans), self.n_biases
        shapes = fans[::-1] + [(1, width) for _, width in fans[n_layers - n_biased :]]
        parts = flat.detach().split_with_sizes([rows * columns for rows, columns in shapes], dim=-1)
        views = [part.view(*part.shape[:-1], *shape).detach() for part, shape in zip(parts, shapes, strict=True)]
        return views[:n_layers][::-1], [*[None] * (n_layers - n_biased), *views[n_layers:]]

    def with_ones(self) -> "Coeffs":
        """Return the network, on the same buffer, for inputs with a column of ones at the end: it meets the first bias.

        The bias is a row of the first weight then, and rides in its products.
        """
        return replace(self, sizes=(self.sizes[0] + 1, *self.sizes[1:]), n_biases=self.n_biases - 1)

    def requires_grad_(self) -> "Coeffs":
        """Let autograd follow the coefficients, in place: ``calc_loss(...).backward()`` then stores the gradients."""
        _ = self.grads  # where autograd is to add
        for view in [*self.weights, *(bias for bias in self.biases if bias is not None)]:
            view.requires_grad_()
        return self


def get_grads(values: Tensor) -> Tensor:
    """Return the gradients stored for a tensor: zeros, where there are none yet."""
    if values.grad is None:
        values.grad = torch.zeros_like(values)
    return values.grad


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
    """Draw the coefficients of one network, in float32 on the CPU: for each layer its weights, then its bias.

    Without ``generator``, PyTorch's global one serves, as ``torch.manual_seed`` sets it; the estimator passes its own.
    ``init``: "scratch" draws small hidden weights, ``(rand - 0.5) / n_hidden``, output weights ``rand - 0.3`` and an
    output bias ``rand``; "glorot_uniform" (Glorot & Bengio, 2010) and "he_uniform" (He et al., 2015) draw from
    ``[-bound, bound]``. These two start at zero where there is no hidden layer, as nothing has to be told apart.
    """
    hidden_sizes = (n_hidden,) if isinstance(n_hidden, int) else tuple(n_hidden)
    sizes = (n_features, *hidden_sizes, n_outputs)
    n_coeffs = sum(fan_in * fan_out for fan_in, fan_out in pairwise(sizes)) + sum(
        sizes[1:] if hidden_bias else sizes[-1:]
    )
    flat = torch.zeros(n_coeffs, dtype=torch.float32, device="cpu")
    coeffs = Coeffs(flat, sizes, activation, output, len(sizes) - 1 if hidden_bias else 1)
    if init != "scratch" and not hidden_sizes:
        return coeffs
    last = len(hidden_sizes)
    for layer, (weight, bias) in enumerate(zip(coeffs.weights, coeffs.biases, strict=True)):
        fan_in, fan_out = weight.shape
        if init == "scratch":
            weight.uniform_(generator=generator)
            weight.sub_(0.3) if layer == last else weight.sub_(0.5).div_(fan_out)
            if layer == last and bias is not None:
                bias.uniform_(generator=generator)
        else:
            bound = (6 / fan_in) ** 0.5
            if init == "glorot_uniform":
                bound = ((2 if activation == "logistic" else 6) / (fan_in + fan_out)) ** 0.5
            weight.uniform_(-bound, bound, generator=generator)
            if bias is not None:
                bias.uniform_(-bound, bound, generator=generator)
    return coeffs


def matmul(left: Tensor, right: Tensor, block: int = 256) -> Tensor:
    """Return ``left @ right``, with bits that do not depend on how many threads BLAS uses, but in large stacks.

    BLAS shares out long sums and products with vectors among its threads, and the rounding changes with the shares.
    So a long sum goes block by block, and a vector goes without BLAS, unless the product is small.

    A stack's ``left`` may also be that of one model, which all the others share, or there may be one for each so many
    successive models.
    """
    if left.is_sparse:
        return left @ right if right.ndim == 2 else torch.stack([matmul(left, each) for each in right])
    n_rows, n_inner = left.shape[-2:]
    if right.ndim == 3 and right.shape[0] >= 16:
        return _multiply_stacks(left, right)
    n_columns, n_models = right.shape[-1], right.shape[0]  # len takes longer, which counts for small networks
    if right.ndim == 3:
        left = left.expand(n_models, n_rows, n_inner) if left.ndim == 2 else left
        if left.shape[0] < n_models:
            left = left.repeat_interleave(n_models // left.shape[0], 0)
    else:
        # Copied, because BLAS rounds products with a transposed right side differently per number of threads.
        right = right.contiguous()
    if n_inner == 1:
        return left * right
    is_stack = right.ndim == 3
    # A stack's products with vectors are not shared out, nor are small ones.
    is_safe_vector = (is_stack and n_models > 1) or (n_rows * n_inner <= 4096 and left.is_contiguous())
    if n_inner <= block and ((n_columns > 1 and n_rows > 1) or (n_columns == 1 and is_safe_vector)):
        # bmm has less to find out than matmul, which counts for small networks.
        return torch.bmm(left, right) if is_stack else left @ right
    if n_columns == 1 and n_inner <= block:
        return (left * right.mT).sum(-1, keepdim=True)
    if n_rows == 1:
        return (left.mT * right).sum(-2, keepdim=True)
    n_blocks = n_inner // block
    if n_blocks * n_rows * n_columns <= 2**20 and n_blocks > 1 and left.stride(0) > 0:  # all at once, as one more axis
        end = n_blocks * block
        lefts = left[..., :end].unflatten(-1, (n_blocks, block)).movedim(-2, -3)
        result: Tensor = (lefts @ right[..., :end, :].unflatten(-2, (n_blocks, block))).sum(-3)
    else:
        end = max(1, n_blocks // 2) * block
        result = matmul(left[..., :end], right[..., :end, :], block)
    return result if end == n_inner else result.add_(matmul(left[..., end:], right[..., end:, :], block))


def _multiply_stacks(left: Tensor, right: Tensor) -> Tensor:
    """Multiply many matrices. The values of a layer come out with the samples last in memory.

    BLAS is several times as fast with few long rows as with long columns, and so is what follows. Models that share
    their ``left`` are one wide product.
    """
    n_models, n_inner, n_columns = right.shape
    if left.ndim == 2:
        left = left.unsqueeze(0)
    n_sources, n_rows = left.shape[:2]
    if n_sources == n_models:
        return (torch.bmm(right.mT, left.mT) if n_inner > 1 else right.mT * left.mT).mT
    wide = right.unflatten(0, (n_sources, -1)).movedim(1, 2).flatten(2)
    if n_rows < n_inner:
        result: Tensor = torch.bmm(left, wide).unflatten(2, (-1, n_columns)).movedim(2, 1).flatten(0, 1)
        return result
    return torch.bmm(wide.mT, left.mT).view(n_models, n_columns, n_rows).mT


def calc_layers(coeffs: Coeffs | Layers, indeps: Tensor) -> list[Tensor]:
    """Forward pass: the values of every layer, ``(*models, n_samples, width)``, from the inputs to the logits."""
    return _calc_layers(coeffs, indeps, None)[0]


def _calc_layers(
    coeffs: Coeffs | Layers, indeps: Tensor, masks: list[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the values of every layer, and for the way back what the activations left of the hidden layers' sums."""
    layers, kept = [indeps], []
    for layer, (weight, bias) in enumerate(zip(coeffs.weights, coeffs.biases, strict=True)):
        values = matmul(layers[-1], weight)
        if bias is not None:
            values.add_(bias)
        if layer < len(coeffs.weights) - 1:
            kept.append(values)
            values = ACTIVATIONS[coeffs.activation].forward(values)
            if masks is not None:
                values = values * masks[layer]
        layers.append(values)
    return layers, kept


def calc_preds(coeffs: Coeffs, indeps: Tensor) -> Tensor:
    """Return the probabilities that the network gives, ``(*models, n_samples, n_outputs)``."""
    return OUTPUTS[coeffs.output](calc_layers(coeffs, indeps)[-1])


def _absolute_errors(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    errors = (OUTPUTS[output](logits) - deps).abs()
    return errors / 2 if output == "softmax" else errors


def _absolute_error_slopes(logits: Tensor, deps: Tensor, output: str) -> Tensor:
    preds = OUTPUTS[output](logits)
    signs = (preds - deps).sign()
    if output == "softmax":
        return preds * (signs - (signs * preds).sum(-1, keepdim=True)) / 2
    return signs * preds * (1 - preds)


# ``|pred - dep|``. With a softmax, where each error counts twice, half of that: ``1 - pred`` of the class.
mean_absolute_error = Loss(_absolute_errors, _absolute_error_slopes)


def sum_losses(
    logits: Tensor,
    deps: Tensor,
    weights: Tensor | None = None,
    loss: Loss = mean_absolute_error,
    output: str = "logistic",
) -> Tensor:
    """Return the loss of each model, summed over samples, ``(*models,)``."""
    values = loss.values(logits, deps, output)
    return (values if weights is None else values * weights.unsqueeze(-1)).sum((-2, -1))


def calc_loss(
    coeffs: Coeffs,
    indeps: Tensor,
    deps: Tensor,
    weights: Tensor | None = None,
    loss: Loss = mean_absolute_error,
    counts: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of each model, ``(*models,)``. Row ``weights``, ``(*models, n_samples)``, multiply.

    ``counts``, ``(*models,)``, are the numbers of samples, where rows of weight 0 fill up the shorter ones.
    """
    sums = [
        sum_losses(
            _check_logits(calc_layers(coeffs, block)[-1], block_deps), block_deps, block_weights, loss, coeffs.output
        )
        for block, block_deps, block_weights, _, _ in _row_blocks(indeps, deps, weights)
    ]
    return reduce(torch.add, sums) / (deps.shape[-2] if counts is None else counts)


def store_grads(
    coeffs: Coeffs,
    indeps: Tensor,
    deps: Tensor,
    weights: Tensor | None = None,
    loss: Loss = mean_absolute_error,
    counts: Tensor | None = None,
    masks: list[Tensor] | None = None,
) -> Tensor:
    """Add the gradient of `calc_loss` to each coefficient's ``grad``, in place. Return the logits.

    ``masks``, if there are any, multiply the values of the hidden layers, as in a ``Batch``.
    """
    logits = []
    if counts is not None and weights is not None:
        weights = weights * (deps.shape[-2] / counts).unsqueeze(-1)
    share = 1 / deps.shape[-2]  # of a sample: the gradient is that of a mean
    for block, block_deps, block_weights, _, block_masks in _row_blocks(indeps, deps, weights, masks):
        (*layers, block_logits), kept = _calc_layers(coeffs, block, block_masks)
        deltas = loss.slopes(_check_logits(block_logits, block_deps), block_deps, coeffs.output)
        if block_weights is not None:
            deltas = deltas * block_weights.unsqueeze(-1)
        _backpropagate(coeffs, layers, kept, block_masks, deltas, share)
        logits.append(block_logits)
    return logits[0] if len(logits) == 1 else torch.cat(logits, -2)


def _backpropagate(
    coeffs: Coeffs,
    layers: list[Tensor],
    kept: list[Tensor],
    masks: list[Tensor] | None,
    deltas: Tensor,
    share: float,
) -> None:
    """Follow the chain rule from the logits back to the inputs, in place.

    With ``deltas``, the gradient at a layer's sums ``inputs @ weight + bias``, the gradient of the weight is
    ``inputs.T @ deltas``, that of the bias ``deltas`` summed over samples, and that of the inputs
    ``deltas @ weight.T``, which goes through the activation to become the deltas of the layer below.
    """
    backward = ACTIVATIONS[coeffs.activation].backward
    weight_grads, bias_grads = coeffs.grads
    for layer in range(len(layers) - 1, -1, -1):
        inputs, bias_grad = layers[layer], bias_grads[layer]
        _add_product(weight_grads[layer], inputs, deltas, share)
        if bias_grad is not None:
            bias_grad.add_(deltas.sum(-2, keepdim=True), alpha=share)
        if layer > 0:
            deltas = matmul(deltas, coeffs.weights[layer].mT)
            if masks is not None:
                deltas.mul_(masks[layer - 1])
            deltas = backward(deltas, kept[layer - 1])


def _add_product(grads: Tensor, inputs: Tensor, deltas: Tensor, share: float) -> None:
    if not inputs.is_sparse:
        grads.add_(matmul(inputs.mT, deltas), alpha=share)
    elif grads.ndim == 2:
        grads.addmm_(inputs.t(), deltas, alpha=share)  # touches only the features that the samples have
    else:
        for model_grads, model_deltas in zip(grads, deltas, strict=True):
            _add_product(model_grads, inputs, model_deltas, share)


def _row_blocks(
    indeps: Tensor, deps: Tensor, weights: Tensor | None, masks: list[Tensor] | None = None, size: int = 8192
) -> Iterable[Batch]:
    """Return the samples in blocks, so that the memory at work does not grow with their number."""
    n_samples = deps.shape[-2]
    if n_samples <= size:
        return [Batch(indeps, deps, weights, None, masks)]
    starts = range(0, n_samples, size)
    narrow = torch.narrow_copy if indeps.is_sparse else torch.narrow
    axis = indeps.ndim - 2
    return (
        Batch(
            narrow(indeps, axis, start, min(size, n_samples - start)),
            deps[..., start : start + size, :],
            None if weights is None else weights[..., start : start + size],
            None,
            None if masks is None else [mask[..., start : start + size, :] for mask in masks],
        )
        for start in starts
    )


def _check_logits(logits: Tensor, deps: Tensor) -> Tensor:
    if (
        logits.shape != deps.shape and logits.shape[-2:] != deps.shape[-2:]
    ):  # broadcasting would train on every pair of samples, silently
        raise ValueError(f"deps must end in (n_samples, n_outputs)={tuple(logits.shape[-2:])}, got {tuple(deps.shape)}")
    return logits


def update_coeffs(coeffs: Coeffs, lr: float | Tensor) -> None:
    """Take one step of gradient descent in place: ``coeffs -= lr * grad``. The stored gradients are then cleared."""
    coeffs.flat.sub_(get_grads(coeffs.flat) * lr)
    get_grads(coeffs.flat).zero_()


def execute_epoch(
    coeffs: Coeffs,
    batches: Iterable[Batch],
    update: Callable[[Coeffs], None],
    loss: Loss = mean_absolute_error,
) -> Tensor:
    """For each batch: loss, gradients, update, in place. Return the mean of the losses before each update."""
    with torch.no_grad():
        n_samples: int | Tensor = 0
        sums: list[Tensor] = []
        seen: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for batch in batches:
            indeps, deps, weights, counts, masks = batch if len(batch) == 5 else Batch(*batch)
            logits = store_grads(coeffs, indeps, deps, weights, loss, counts, masks)
            update(coeffs)
            n_samples = n_samples + (deps.shape[-2] if counts is None else counts)
            # The losses of eight batches cost little more than those of one.
            if seen and (len(seen) == 8 or (seen[-1][2] is None) != (weights is None)):
                sums.append(_sum_seen(seen, loss, coeffs.output))
                seen = []
            seen.append((logits, deps, weights))
        return reduce(torch.add, [*sums, _sum_seen(seen, loss, coeffs.output)]) / n_samples


def _sum_seen(seen: list[tuple[Tensor, Tensor, Tensor | None]], loss: Loss, output: str) -> Tensor:
    logits, deps, weights = zip(*seen, strict=True)
    joined_weights = None if weights[0] is None else torch.cat(weights, -1)
    # Along columns: losses work on those, see `apply_to_rows`.
    joined_logits = torch.cat([each.mT for each in logits], -1).mT
    return sum_losses(joined_logits, torch.cat(deps, -2), joined_weights, loss, output)


def train_model(
    indeps: Tensor,
    deps: Tensor,
    epochs: int = 30,
    lr: float = 0.1,
    *,
    n_hidden: int | tuple[int, ...] = 20,
    seed: int = 442,
) -> tuple[Coeffs, list[float]]:
    """Draw coefficients and train them for some epochs on all the data. Return them, and the loss of each epoch."""
    generator = torch.Generator("cpu").manual_seed(seed)
    coeffs = init_coeffs(indeps.shape[-1], n_hidden, deps.shape[-1], generator=generator)
    losses = []
    for _ in range(epochs):
        losses.append(execute_epoch(coeffs, [Batch(indeps, deps)], lambda coeffs: update_coeffs(coeffs, lr)).item())
    return coeffs, losses


def model_accuracy(coeffs: Coeffs, indeps: Tensor, deps: Tensor) -> Tensor:
    """Return the share of samples, ``(*models,)``, for which the likelier class (of every output) is the right one."""
    preds = calc_preds(coeffs, indeps)
    if coeffs.output == "softmax":
        hits = preds.argmax(-1) == deps.argmax(-1)
    else:
        hits = ((preds > 0.5) == (deps > 0.5)).all(-1)
    return hits.double().mean(-1)
