"""Tables of validated samples."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .arrays import Array, Features, count_block_rows, get_float_dtype


@dataclass(eq=False)
class Table:
    """Validated samples: ``X`` (n_rows, n_features), ``y`` for `Labels.encode`, and weights (n_samples,) or None.

    The samples are the ``rows`` of ``X``, (n_samples,), or all of them if this is None, so that samples can be taken
    from a large table without a copy. Errors use the ``names`` of the features.
    """

    X: Features
    y: Array
    sample_weights: Array | None = None
    rows: Array | None = None
    names: Array | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def weights_or_ones(self) -> Array:
        """The weight of each sample, (n_samples,)."""
        return np.ones(len(self)) if self.sample_weights is None else self.sample_weights

    def take(self, mask: Array) -> "Table":
        """Return the samples where ``mask``, (n_samples,) of bool, is true."""
        rows = np.flatnonzero(mask) if self.rows is None else self.rows[mask]
        weights = None if self.sample_weights is None else self.sample_weights[mask]
        return replace(self, y=self.y[mask], sample_weights=weights, rows=rows)

    def get_features(self, samples: slice | Array = slice(None)) -> Features:
        """Return the features of samples as floats, also of a mapped file of integers."""
        rows = samples if self.rows is None else self.rows[samples]
        if isinstance(self.X, Tensor):
            return self.X[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows]
        is_whole = sparse.issparse(self.X) and isinstance(rows, slice) and rows == slice(None)  # which SciPy would copy
        return (self.X if is_whole else self.X[rows]).astype(get_float_dtype(self.X), copy=False)

    def split(self, width: int = 1) -> Iterator[tuple[slice, Features]]:
        """Yield the samples in blocks that fit in the cache: their slice of all samples, and their features.

        ``width`` is the number of values that are computed for each sample.
        """
        size = count_block_rows(self.X, width)
        for start in range(0, len(self), size):
            samples = slice(start, min(start + size, len(self)))
            yield samples, self.get_features(samples)
