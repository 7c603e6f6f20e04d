"""All coefficients of a stack in one tensor, so that an update is a handful of operations, however deep the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..network import Coeffs


@dataclass(eq=False)
class Buffer:
    """The coefficients of a network, or of a stack: ``flat``, (*models, n_coeffs), with gradients in ``flat.grad``.

    The weights come first, from the last layer's to the first's, then the biases, from the first to the last. So the
    first weight and the first bias are neighbours, and `as_coeffs` can offer both as one weight.
    """

    flat: Tensor
    sizes: tuple[int, ...]  # neurons per layer, from the features to the outputs
    activation: str
    output: str
    n_biases: int  # layers that have a bias, counted from the last

    @property
    def n_weights(self) -> int:
        """The number of coefficients that are weights, which come first in ``flat``."""
        return sum(fan_in * fan_out for fan_in, fan_out in pairwise(self.sizes))

    def as_coeffs(self, *, with_ones: bool = False) -> Coeffs:
        """Return the network as views of the buffer, and of its gradients if there are any.

        With ``with_ones``, the network is for inputs that end in a column of ones. The first bias is then one more row
        of the first weight, so one product computes both.
        """
        sizes, n_biases = self.sizes, self.n_biases
        if with_ones:
            sizes, n_biases = (sizes[0] + 1, *sizes[1:]), n_biases - 1
        fans = list(pairwise(sizes))
        n_layers = len(fans)
        shapes = fans[::-1] + [(1, fan_out) for _, fan_out in fans[n_layers - n_biases :]]
        values = _split(self.flat, shapes)
        if self.flat.grad is not None:
            for value, grad in zip(values, _split(self.flat.grad, shapes), strict=True):
                value.grad = grad
        biases = [None] * (n_layers - n_biases) + values[n_layers:]
        return Coeffs(values[:n_layers][::-1], biases, self.activation, self.output)


def pack(coeffs: Coeffs) -> Buffer:
    """Return a copy of the coefficients of one network as a buffer."""
    biases = [bias for bias in coeffs.biases if bias is not None]
    flat = torch.cat([value.detach().flatten() for value in (*coeffs.weights[::-1], *biases)])
    sizes = (*(len(weight) for weight in coeffs.weights), coeffs.weights[-1].shape[1])
    return Buffer(flat, sizes, coeffs.activation, coeffs.output, len(biases))


def stack_buffers(buffers: list[Tensor]) -> Tensor:
    """Return the buffers stacked. A single buffer, which may be large, is not copied."""
    return buffers[0].unsqueeze(0) if len(buffers) == 1 else torch.stack(buffers)


def make_column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one value per model as a column, (models, 1), with the dtype and device of ``like``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)


def count_sizes(total: int, size: int) -> list[int]:
    """Return the sizes of the pieces when ``total`` entries are cut after every ``size``."""
    n_whole, n_rest = divmod(total, size)
    return [size] * n_whole + [n_rest] * (n_rest > 0)


def _split(flat: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    pieces = flat.detach().split_with_sizes([height * width for height, width in shapes], dim=-1)
    return [piece.view(*piece.shape[:-1], *shape).detach() for piece, shape in zip(pieces, shapes, strict=True)]
