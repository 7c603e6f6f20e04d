"""Tables of rows as scikit-learn has validated them: arrays, tensors or sparse; and what is known of their columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.sparsefuncs import mean_variance_axis, min_max_axis
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


def count_values(X: Any) -> int:
    """Return how many values X holds: its entries if it is sparse, and 0 if it has no two known lengths, as a list."""
    if sparse.issparse(X):
        return int(X.nnz)
    shape: Any = getattr(X, "shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(isinstance(length, int) for length in shape):
        return 0
    return int(shape[0] * shape[1])


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
    """Mean, variance and range of the columns of all tables added so far, in double precision."""

    n_samples: float = 0.0  # the sum of the weights, where there are any
    mean: Array | float = 0.0
    variance: Array | float = 0.0
    low: Array | float = np.inf
    high: Array | float = -np.inf

    def add(self, table: Table) -> None:
        """Add the samples of a table, in place (Chan, Golub & LeVeque, 1983)."""
        n_added = len(table) if table.weights is None else float(table.weights.sum())
        mean, variance, low, high = _describe_columns(table, n_added)
        n_samples = self.n_samples + n_added
        share = n_added / n_samples
        distance = mean - self.mean
        self.mean = self.mean + distance * share
        self.variance = self.variance * (1 - share) + variance * share + distance**2 * share * (1 - share)
        self.n_samples = n_samples
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def calc_scale(self, is_centred: bool = True) -> Array:
        """Return what to divide the columns by, (n_features,): their standard deviations, but for some.

        Columns of two values, such as a one-hot encoder's, are divided by the distance of these: a deviation would make
        the rarer value the larger, the rarer it is. So it is with columns that are not centred, sparse ones, in which
        zeros are common: they are divided by their largest absolute value. Constant columns, those that vary by
        rounding, are divided by 1.
        """
        if not is_centred:
            size = np.maximum(np.abs(self.low), np.abs(self.high))
            return np.where(size > 0, size, 1.0)
        # The variance is the largest for this mean and range where all values are at an end (Bhatia & Davis, 2000).
        largest = (self.high - self.mean) * (self.mean - self.low)
        scale = np.where(self.variance >= largest * (1 - 1e-9), self.high - self.low, np.sqrt(self.variance))
        eps = np.finfo(float).eps
        rounding = self.n_samples * eps * self.variance + (self.n_samples * self.mean * eps) ** 2
        return np.where(self.variance <= rounding, 1.0, scale)

    def calc_row_length(self, scale: Array | None) -> float:
        """Return the root mean square length of the rows, centred and divided by ``scale``.

        A column that varies by more than 1 counts as one that varies by 1.
        """
        variance = self.variance if scale is None else self.variance / scale**2
        return float(np.sqrt(np.minimum(variance, 1.0).sum()))


def _describe_columns(table: Table, n_samples: float) -> list[Array]:
    """Return mean, variance, least and largest value of the columns, (n_features,) each.

    The variance is found in a second pass, which is exact.
    """
    if sparse.issparse(table.X):
        X = table.get_features()
        return [*mean_variance_axis(X.astype(np.float64), axis=0, weights=table.weights), *min_max_axis(X, axis=0)]
    device = get_device(table.X)
    total = torch.zeros(table.X.shape[1], dtype=torch.float64, device=device)
    low, high = total + np.inf, total - np.inf
    for samples, block in table.split():
        values = to_tensor(block)
        lows, highs = torch.aminmax(values, dim=0)
        low, high = torch.minimum(low, lows), torch.maximum(high, highs)
        total += _weigh(values, table, samples).sum(0, dtype=torch.float64)
    mean = total / n_samples
    squares = torch.zeros_like(total)
    for samples, block in table.split():
        squares += _weigh((to_tensor(block) - mean).square_(), table, samples).sum(0)
    return [column.cpu().numpy() for column in (mean, squares / n_samples, low, high)]


def _weigh(values: Tensor, table: Table, samples: slice) -> Tensor:
    if table.weights is None:
        return values
    return values * to_tensor(table.weights[samples]).to(values.device).unsqueeze(-1)
