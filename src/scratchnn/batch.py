"""The samples of one step, and the parts in which a large batch is computed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PART_ROWS = 8192  # samples per part, at most


class Batch(NamedTuple):
    """The samples of one step."""

    indeps: Tensor
    deps: Tensor
    sample_weights: Tensor | None = None  # (*models, n_samples)
    masks: list[Tensor] | None = None  # dropout: factors for the values of each hidden layer
    n_samples: int | Tensor | None = None  # None: all; (*models, 1) if samples of weight 0 pad short batches

    def count_samples(self) -> int | Tensor:
        """Return the divisor of means over the samples."""
        return self.deps.shape[-2] if self.n_samples is None else self.n_samples


def split_rows(batch: Batch, size: int = PART_ROWS) -> list[Batch]:
    """Divide a batch into parts of at most ``size`` samples, so that memory does not grow with the number of samples.

    Each part keeps the number of samples of the batch, so the means of the parts add up to the mean of the batch.
    """
    n_rows = batch.indeps.shape[-2:][0]  # a vector is refused later, see `check_indeps`
    if n_rows <= size:
        return [batch]
    narrow = torch.narrow_copy if batch.indeps.is_sparse else torch.narrow
    parts = []
    for start in range(0, n_rows, size):
        rows = slice(start, start + size)
        parts.append(
            Batch(
                narrow(batch.indeps, batch.indeps.ndim - 2, start, min(size, n_rows - start)),
                batch.deps[..., rows, :],
                None if batch.sample_weights is None else batch.sample_weights[..., rows],
                None if batch.masks is None else [mask[..., rows, :] for mask in batch.masks],
                batch.count_samples(),
            )
        )
    return parts


def join_rows(parts: Sequence[Tensor]) -> Tensor:
    """Return the results of all parts as one tensor, ``(*models, n_samples, width)``."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -2)


def check_indeps(indeps: Tensor, n_features: int) -> None:
    """Raise TypeError if the inputs are not a tensor, and ValueError if they do not have ``n_features`` columns."""
    if not isinstance(indeps, Tensor):
        raise TypeError(f"indeps must be a tensor, got {type(indeps).__name__}. Pass torch.as_tensor(indeps).")
    if indeps.ndim < 2 or indeps.shape[-1] != n_features:
        raise ValueError(
            f"indeps must end in (n_samples, n_features), with n_features={n_features}, got {tuple(indeps.shape)}. "
            "Pass one row per sample, or draw coefficients for this number of features."
        )


def check_deps(deps: Tensor, logits: Tensor) -> Tensor:
    """Return the targets. Raise TypeError if they are not a tensor, and ValueError if the logits' shape differs."""
    if not isinstance(deps, Tensor):
        raise TypeError(f"deps must be a tensor, got {type(deps).__name__}. Pass torch.as_tensor(deps).")
    if deps.shape[-2:] != logits.shape[-2:]:  # broadcasting would silently train on all pairs of samples
        raise ValueError(
            f"deps must end in (n_samples, n_outputs)={tuple(logits.shape[-2:])}, got {tuple(deps.shape)}. "
            "deps.unsqueeze(-1) makes a vector one column."
        )
    return deps
