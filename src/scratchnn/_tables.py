"""Tables of rows as scikit-learn has validated them: arrays, tensors or sparse; and what is known of their columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.sparsefuncs import mean_variance_axis
from torch import Tensor

Array = NDArray[Any]
Features = Any  # (n_rows, n_features): an ndarray, a tensor, or a CSR matrix or array of scipy


@dataclass(eq=False)
class Table:
    """Valid rows: ``y`` for `Labels.encode`, ``weights`` (n_samples,) or None, and ``X`` (n_rows, n_features).

    The samples are the rows of ``X`` that ``rows`` counts, or all: a part of a large table is not copied.
    """

    X: Features
    y: Array
    weights: Array | None = None
    rows: Array | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, mask: Array) -> "Table":
        """Return the samples of a mask, (n_samples,)."""
        rows = np.flatnonzero(mask) if self.rows is None else self.rows[mask]
        return Table(self.X, self.y[mask], None if self.weights is None else self.weights[mask], rows)

    def get_features(self, samples: slice | Array = slice(None)) -> Features:
        """Return the rows of X for the samples."""
        rows = samples if self.rows is None else self.rows[samples]
        return self.X[torch.from_numpy(rows) if isinstance(self.X, Tensor) and isinstance(rows, np.ndarray) else rows]

    def split(self) -> Iterator[tuple[slice, Features]]:
        """Yield the samples in blocks, with their features, where a whole copy would be a waste."""
        size = count_block_rows(self.X)
        for start in range(0, len(self), size):
            samples = slice(start, min(start + size, len(self)))
            yield samples, self.get_features(samples)


def count_block_rows(X: Features, width: int = 1) -> int:
    """Return how many rows to work on at a time: as many as the cache holds, and ``width`` values for each."""
    n_values = int(X.nnz // max(1, X.shape[0]) + 1 if sparse.issparse(X) else X.shape[1])
    return min(8192, max(1, 2**18 // max(n_values, width)))


def get_device(X: Features) -> torch.device:
    """Return where the rows are."""
    return X.device if isinstance(X, Tensor) else torch.device("cpu")


def to_tensor(array: Any) -> Tensor:
    """Return the array as a tensor where it is, without a copy if it can be. It must not be written to."""
    if not isinstance(array, np.ndarray):
        return array.detach() if isinstance(array, Tensor) else torch.utils.dlpack.from_dlpack(array)
    array = np.ascontiguousarray(array)
    if not array.flags.writeable and array.size:
        array = np.asarray(_Memory(array))  # PyTorch knows no read-only tensors and would warn
    return torch.from_numpy(array)


def to_host(array: Any) -> Array:
    """Return an array of any library as NumPy's, without a copy if it can be."""
    return array if isinstance(array, np.ndarray) else to_tensor(array).cpu().numpy()


class _Memory:
    """The memory of an array that may be read-only, offered as writable."""

    def __init__(self, array: Array) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self.owner = array


@dataclass(eq=False)
class Moments:
    """Mean and variance of the columns of all tables added so far, as StandardScaler's, in double precision."""

    n_samples: float = 0.0  # the sum of the weights, where there are any
    mean: Array | float = 0.0
    variance: Array | float = 0.0

    def add(self, table: Table) -> None:
        """Add the samples of a table, in place (Chan, Golub & LeVeque, 1983)."""
        n_added = len(table) if table.weights is None else float(table.weights.sum())
        mean, variance = _calc_moments(table, n_added)
        n_samples = self.n_samples + n_added
        share = n_added / n_samples
        distance = mean - self.mean
        self.mean = self.mean + distance * share
        self.variance = self.variance * (1 - share) + variance * share + distance**2 * share * (1 - share)
        self.n_samples = n_samples

    def calc_scale(self) -> Array:
        """Return the standard deviations, (n_features,), and 1 for constant columns: those that vary by rounding."""
        eps = np.finfo(float).eps
        rounding = self.n_samples * eps * self.variance + (self.n_samples * self.mean * eps) ** 2
        return np.sqrt(np.where(self.variance <= rounding, 1.0, self.variance))


def _calc_moments(table: Table, n_samples: float) -> tuple[Array, Array]:
    """Return mean and variance of the columns, (n_features,) each: the variance in a second pass, which is exact."""
    if sparse.issparse(table.X):
        mean, variance = mean_variance_axis(table.get_features().astype(np.float64), axis=0, weights=table.weights)
        return mean, variance
    mean = _sum_blocks(table, None) / n_samples
    return mean.cpu().numpy(), (_sum_blocks(table, mean) / n_samples).cpu().numpy()


def _sum_blocks(table: Table, mean: Tensor | None) -> Tensor:
    """Return the sum of each column, or of its squared distances to a mean, (n_features,), weighted."""
    total = torch.zeros(table.X.shape[1], dtype=torch.float64, device=get_device(table.X))
    for samples, block in table.split():
        values = to_tensor(block)
        if mean is not None:
            values = (values - mean).square_()
        if table.weights is not None:
            values = values * to_tensor(table.weights[samples]).to(total.device).unsqueeze(-1)
        total += values.sum(0, dtype=torch.float64)
    return total
