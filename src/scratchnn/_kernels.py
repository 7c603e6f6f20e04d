"""Products of matrices, written for speed. Each function says in its first line what it means; the rest is how.

Besides the shapes of ``@``: where ``right`` is a stack, ``left`` may have no models axis, and serves all models, or
fewer models than ``right``, each of which serves as many successive models.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LARGE_STACK = 16  # models from which on a stack is multiplied with the samples last in memory


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right``."""
    if left.is_sparse:
        return left @ right if right.ndim == 2 else torch.stack([matmul(left, each) for each in right])
    if right.ndim != 3:
        return left @ right
    n_models = right.shape[0]
    if n_models >= LARGE_STACK:
        return _multiply_large_stack(left, right)
    if left.ndim == 2:
        left = left.expand(n_models, *left.shape)
    elif left.shape[0] < n_models:
        left = left.repeat_interleave(n_models // left.shape[0], 0)
    return torch.bmm(left, right)  # has less to find out than @, which counts for small networks


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left.T @ right`` to ``total``, in place. A sparse ``left`` costs only as much as it has entries."""
    if not left.is_sparse:
        total.add_(matmul(left.mT, right))
    elif total.ndim == 2:
        total.addmm_(left.t(), right)
    else:
        for total_of_model, right_of_model in zip(total, right, strict=True):
            add_product(total_of_model, left, right_of_model)


def get_grad(value: Tensor) -> Tensor:
    """Return ``value.grad``: zeros, where nothing has been added yet."""
    if value.grad is None:
        value.grad = torch.zeros_like(value)
    return value.grad


def apply_to_rows(function: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Return ``function(values, dim=-1)``. PyTorch is several times slower along short rows than along columns."""
    if values.shape[-1] > 32:
        return function(values, dim=-1)
    return function(values.mT.contiguous(), dim=-2).mT


def _multiply_large_stack(left: Tensor, right: Tensor) -> Tensor:
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
