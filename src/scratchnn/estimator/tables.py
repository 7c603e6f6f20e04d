"""Tables of validated rows, which may be arrays, tensors or sparse, and their rows as tensors for the network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from .bins import Bins, count_bins

Array = NDArray[Any]
Features = Any  # (n_rows, n_features): an ndarray, a tensor, or a CSR matrix or array of scipy


@dataclass(eq=False)
class Table:
    """Validated samples: ``X`` (n_rows, n_features), ``y`` for `Labels.encode`, and ``weights`` (n_samples,) or None.

    ``rows``, (n_samples,), are the numbers of the rows of ``X`` that are samples, or None for all. So samples can be
    taken from a large table without a copy.
    """

    X: Features
    y: Array
    weights: Array | None = None
    rows: Array | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, mask: Array) -> "Table":
        """Return the samples where ``mask``, (n_samples,) of bool, is true."""
        rows = np.flatnonzero(mask) if self.rows is None else self.rows[mask]
        return Table(self.X, self.y[mask], None if self.weights is None else self.weights[mask], rows)

    def get_features(self, samples: slice | Array = slice(None)) -> Features:
        """Return the rows of X for the samples."""
        rows = samples if self.rows is None else self.rows[samples]
        return self.X[torch.from_numpy(rows) if isinstance(self.X, Tensor) and isinstance(rows, np.ndarray) else rows]

    def split(self, width: int = 1) -> Iterator[tuple[slice, Features]]:
        """Yield the samples in blocks that fit in the cache: their slice of all samples, and their features.

        ``width`` is how many values are made of each.
        """
        size = count_block_rows(self.X, width)
        for start in range(0, len(self), size):
            samples = slice(start, min(start + size, len(self)))
            yield samples, self.get_features(samples)


def count_block_rows(X: Features, width: int = 1) -> int:
    """Return how many rows a block has: as many as fit in the cache, with ``width`` values computed for each."""
    n_values = int(X.nnz // max(1, X.shape[0]) + 1 if sparse.issparse(X) else X.shape[1])
    return min(8192, max(1, 2**18 // max(n_values, width)))


def count_values(X: Any) -> int:
    """Return how many values X holds: its entries if it is sparse, and 0 if its shape is not known, as of a list."""
    if sparse.issparse(X):
        return int(X.nnz)
    shape: Any = getattr(X, "shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(isinstance(length, int) for length in shape):
        return 0
    return int(shape[0] * shape[1])


def get_device(X: Features) -> torch.device:
    """Return the device of the rows."""
    return X.device if isinstance(X, Tensor) else torch.device("cpu")


def to_tensor(array: Any) -> Tensor:
    """Return the array as a tensor on its device, if possible without a copy. It must not be written to."""
    if not isinstance(array, np.ndarray):
        return array.detach() if isinstance(array, Tensor) else torch.utils.dlpack.from_dlpack(array)
    array = np.ascontiguousarray(array)
    if min(array.strides, default=0) < 0:  # as of a single row that is reversed, which NumPy calls contiguous
        array = array.copy()
    if not array.flags.writeable and array.size:
        array = np.asarray(_Memory(array))  # PyTorch knows no read-only tensors and would warn
    return torch.from_numpy(array)


def has_own_library(array: Any) -> bool:
    """Return whether this is an array of another library than NumPy."""
    return hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray)


def to_host(array: Any) -> Array:
    """Return an array of any library, or nested lists, as a NumPy array, if possible without a copy."""
    return to_tensor(array).cpu().numpy() if has_own_library(array) else np.asarray(array)


class _Memory:
    """The memory of an array that may be read-only, offered as writable."""

    def __init__(self, array: Array) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self.owner = array


class Scaling:
    """How the network reads columns: centred and scaled in double precision, and some with bins, which follow them all.

    Parameters
    ----------
    mean, scale : ndarray of shape (n_columns,) or None
        Without ``mean``, columns are not centred; without ``scale``, they are neither centred nor scaled.
    edges : ndarray of shape (n_columns, n_edges) or None
        The edges of the bins, see `bins.calc_edges`.
    device : torch.device
        Where the table is.
    """

    def __init__(self, mean: Array | None, scale: Array | None, edges: Array | None, device: torch.device) -> None:
        self.factor = None if scale is None else torch.from_numpy(1 / scale).to(device)
        self.shift = None if mean is None or scale is None else torch.from_numpy(-mean / scale).to(device)
        self.bins = None if edges is None else Bins(edges, device)
        self.n_bins = count_bins(edges)
        self.centred = np.empty(0, int) if mean is None else np.flatnonzero(mean)

    def apply(self, values: Tensor) -> Tensor:
        """Return dense rows as the network reads them."""
        encoded = None if self.bins is None else self.bins.calc(values)
        if self.shift is not None and self.factor is not None:
            values = torch.addcmul(self.shift, values.double(), self.factor)
        elif self.factor is not None:
            values = values * self.factor
        if self.bins is not None and encoded is not None:
            values = values if self.factor is None else self.bins.clip(values)
            values = torch.cat([values, encoded], 1)
        return values

    def apply_to_sparse(self, block: Features) -> Features:
        """Return rows in CSR format, scaled, and with an entry in every row for the columns that are centred."""
        if self.factor is None:
            return block
        scaled = block.data * self.factor.numpy()[block.indices]
        block = sparse.csr_array((scaled, block.indices, block.indptr), block.shape)
        if self.shift is None or not len(self.centred):
            return block
        n_rows, n_centred = block.shape[0], len(self.centred)
        shifts = np.tile(self.shift.numpy()[self.centred], n_rows)
        ends = np.arange(n_rows + 1) * n_centred
        return block + sparse.csr_array((shifts, np.tile(self.centred, n_rows), ends), block.shape)


class ScaledRows:
    """Samples of a table that become tensors, of one dtype and device, when they are taken.

    Samples of a sparse table stay sparse, unless columns have bins or most are centred, as those have an entry in every
    row. For a sparse table, ``columns`` are those to read, which ``scaling`` is for, and the others are left out.
    """

    def __init__(
        self,
        table: Table,
        scaling: Scaling,
        dtype: torch.dtype,
        device: torch.device,
        columns: Array | None = None,
    ) -> None:
        self.table, self.scaling, self.dtype, self.device = table, scaling, dtype, device
        n_rows, n_features = table.X.shape
        self.shape = (len(table), (n_features if columns is None else len(columns)) + scaling.n_bins)
        self.positions: Array | None = None  # of the columns of X among those read, or -1
        if columns is not None:
            self.positions = np.full(n_features, -1)
            self.positions[columns] = np.arange(len(columns))
        self.n_centred = len(scaling.centred) if sparse.issparse(table.X) else 0  # that zeros must be made entries for
        self.is_sparse = sparse.issparse(table.X) and scaling.bins is None and 2 * self.n_centred <= self.shape[1]
        self.n_values = (count_values(table.X) + n_rows * scaling.n_bins) * len(table) // max(1, n_rows)

    def take(self, samples: slice | torch.Tensor) -> torch.Tensor:
        """Return samples, (n_taken, n_features); in COO format if ``is_sparse``."""
        block = self.table.get_features(samples if isinstance(samples, slice) else samples.cpu().numpy())
        if not sparse.issparse(block):
            return self._convert(to_tensor(block))
        if self.positions is not None:
            block = _select_columns(block, self.positions, self.shape[1])
        if not self.is_sparse:
            return self._convert(torch.from_numpy(block.toarray()))
        entries = self.scaling.apply_to_sparse(block).tocoo()
        indices = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
        values = torch.from_numpy(entries.data).to(self.dtype)
        return torch.sparse_coo_tensor(
            indices, values, block.shape, device="cpu", is_coalesced=True, check_invariants=False
        ).to(self.device)

    def convert(self, ones: bool) -> "torch.Tensor | ScaledRows":
        """Return all samples as one tensor, or ``self`` if they are sparse or memory-mapped and may exceed memory.

        If the values need no change, the tensor is a view of the table, memory-mapped or not. Otherwise it is a copy,
        which ends in a column of ones if ``ones`` is set, see `Buffer.view`.
        """
        if sparse.issparse(self.table.X):
            return self
        dtype_name = str(self.dtype).removeprefix("torch.")
        is_mapped = _is_mapped(self.table.X)
        is_whole = self.table.rows is None and self.scaling.bins is None
        is_ready = self.scaling.factor is None and is_whole and str(self.table.X.dtype).endswith(dtype_name)
        if is_ready and (not is_mapped or self.table.X.flags.c_contiguous):
            return to_tensor(self.table.X).to(self.device)
        if is_mapped:
            return self
        n_samples, n_columns = self.shape
        if isinstance(self.table.X, torch.Tensor):
            result = torch.empty((n_samples, n_columns + ones), dtype=self.dtype, device=self.table.X.device)
        else:  # NumPy asks for large pages, which the system hands out several times faster
            result = torch.from_numpy(np.empty((n_samples, n_columns + ones), dtype_name))
        for samples, block in self.table.split(n_columns):
            result[samples, :n_columns] = self.scaling.apply(to_tensor(block))  # rounds as it copies
            result[samples, n_columns:] = 1
        return result.to(self.device)

    def _convert(self, values: torch.Tensor) -> torch.Tensor:
        return self.scaling.apply(values).to(self.device, self.dtype)


def _select_columns(block: Features, positions: Array, n_columns: int) -> Features:
    """Return rows in CSR format with the columns whose ``positions`` are not negative, at these positions."""
    columns = positions[block.indices]
    is_read = columns >= 0
    ends = np.concatenate([[0], np.cumsum(is_read)])[block.indptr]
    return sparse.csr_array((block.data[is_read], columns[is_read], ends), (block.shape[0], n_columns))


def _is_mapped(X: Array | None) -> bool:
    """Return whether the user has mapped an array. One that joblib has mapped for its workers fitted in memory."""
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return "joblib_memmapping_folder" not in str(X.filename)
        X = X.base
    return False
