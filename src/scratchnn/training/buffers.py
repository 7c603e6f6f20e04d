"""The flat buffers of coefficients, one for each model: how they are stacked, and cut into parts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import Coeffs
from .run import Data


def stack_buffers(buffers: list[Tensor]) -> Tensor:
    """Return the buffers stacked; one alone, which may be large, is not copied."""
    return buffers[0].unsqueeze(0) if len(buffers) == 1 else torch.stack(buffers)


def make_column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return a value for each model, (models, 1), to work with flat buffers of the dtype and device of ``like``."""
    return like.new_tensor(values).unsqueeze(-1)


def meet(coeffs: Coeffs, data: Data) -> Coeffs:
    """Return the network, on the same buffer, for inputs as ``data`` has them: with a column of ones or without."""
    return coeffs.with_ones() if data.indeps.shape[-1] > coeffs.sizes[0] else coeffs


def count_sizes(total: int, size: int) -> list[int]:
    """Return the sizes of the parts when ``total`` entries are cut after every ``size``."""
    n_whole, n_rest = divmod(total, size)
    return [size] * n_whole + [n_rest] * (n_rest > 0)
