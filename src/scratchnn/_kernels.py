"""Matrix products and other small operations, written for speed.

The first line of each docstring says what the function computes. The body is longer only to be fast.

Shapes are those of ``@``, with one extension. If ``right`` is a stack of n_models matrices, ``left`` may be one matrix,
which all models use, or a stack of n_sources matrices. Then each of these is used by n_models / n_sources successive
models.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LARGE_STACK = 16  # a stack of this many models or more is multiplied with the samples last in memory


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right``."""
    if left.is_sparse:
        return left @ right if right.ndim == 2 else torch.stack([matmul(left, each) for each in right])
    if right.ndim != 3:
        product = left @ right
    elif right.shape[0] >= LARGE_STACK:
        product = _multiply_large_stack(left, right)
    elif right.shape[2] == 1 < right.shape[0] and right.is_cpu:
        # For stacks of columns, BLAS has another kernel, which rounds differently and takes several times as long.
        pairs = zip(_repeat(left, right.shape[0]).split(1), right.split(1), strict=True)
        product = torch.cat([torch.bmm(*pair) for pair in pairs])
    else:
        product = torch.bmm(_repeat(left, right.shape[0]), right)  # faster than @, as it checks less
    return product.to(right.dtype) if product.dtype is torch.bfloat16 else product  # from autocast


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left.T @ right`` to ``total``, in place. Only the entries of a sparse ``left`` cost time."""
    if left.is_sparse and total.ndim > 2:
        for total_of_model, right_of_model in zip(total, right, strict=True):
            add_product(total_of_model, left, right_of_model)
    elif torch.is_autocast_enabled("cpu" if total.is_cpu else "cuda") and not left.is_sparse:
        # Autocast ignores products that are added in place.
        total.add_(matmul(left.mT, right))
    elif total.ndim == 2:
        total.addmm_(left.t(), right)
    elif total.ndim == 3 and total.shape[0] < LARGE_STACK:
        total.baddbmm_(_repeat(left, total.shape[0]).mT, right)
    else:
        total.add_(matmul(left.mT, right))


def get_grad(value: Tensor) -> Tensor:
    """Return ``value.grad``. If it is None, set it to zeros first, in place."""
    if value.grad is None:
        value.grad = torch.zeros_like(value)
    return value.grad


def apply_to_rows(function: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Return ``function(values, dim=-1)``. Short rows are transposed: PyTorch is several times faster along columns."""
    if values.shape[-1] > 32:
        return function(values, dim=-1)
    return function(values.mT.contiguous(), dim=-2).mT


def _repeat(left: Tensor, n_models: int) -> Tensor:
    """Return the matrix of each model, (n_models, n_rows, n_columns)."""
    if left.ndim == 2:
        return left.unsqueeze(0) if n_models == 1 else left.expand(n_models, *left.shape)
    n_sources = left.shape[0]
    return left if n_sources == n_models else left.repeat_interleave(n_models // n_sources, 0)


def _multiply_large_stack(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right`` for a stack of many models, with the samples last in memory.

    With few long rows, BLAS and the operations on the result are several times faster than with long columns. All
    models that use the same ``left`` are computed as one product with a wide matrix.
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
