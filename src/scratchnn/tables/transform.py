"""The transform of columns for the network: centered, scaled, with bins, and as tensors."""

import copy

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .arrays import Array, Features, is_mapped_file, to_tensor
from .bins import WIDE_LIMIT, Bins, count_bins
from .categories import CodedRows
from .table import Table

MAX_DENSE_VALUES = 2**25  # of a table with categories or bins; larger tables are encoded batch by batch


class ColumnTransform:
    """Centers and scales columns in double precision, and appends their bins.

    Without ``mean``, (n_columns,), columns are not centered. Without ``scale``, they are neither centered nor scaled.
    ``edges``, (n_columns, n_edges), delimit the bins, and ``device`` is where the table is.
    """

    def __init__(self, mean: Array | None, scale: Array | None, edges: Array | None, device: torch.device) -> None:
        self.factor = None if scale is None else torch.from_numpy(1 / scale).to(device)
        self.shift = None if mean is None or scale is None else torch.from_numpy(-mean / scale).to(device)
        self.bins = None if edges is None else Bins(edges, device)
        self.n_bins = count_bins(edges)
        self.centered = np.empty(0, int) if mean is None else np.flatnonzero(mean)

    def apply(self, values: Tensor) -> Tensor:
        """Return dense rows as the network reads them, (n_rows, n_columns + n_bins)."""
        scaled = values
        if self.factor is not None:
            shift, factor = self.shift, self.factor
            scaled = values * factor if shift is None else torch.addcmul(shift, values.double(), factor)
            scaled = scaled.clamp_(-WIDE_LIMIT, WIDE_LIMIT) if self.bins is None else self.bins.clip(scaled)
        return scaled if self.bins is None else torch.cat([scaled, self.bins.calc(values)], 1)

    def apply_to_sparse(self, block: Features) -> Features:
        """Return scaled rows in CSR format, with an entry in every row for the columns that are centered."""
        if self.factor is None:
            return block
        block = copy.copy(block)  # shallow, as SciPy takes longer to make a new one
        block.data = block.data * self.factor.numpy()[block.indices]
        if self.shift is not None and len(self.centered):
            n_rows, n_centered = block.shape[0], len(self.centered)
            shifts = np.tile(self.shift.numpy()[self.centered], n_rows)
            ends = np.arange(n_rows + 1) * n_centered
            block = block + sparse.csr_array((shifts, np.tile(self.centered, n_rows), ends), block.shape)
        block.data.clip(-WIDE_LIMIT, WIDE_LIMIT, out=block.data)
        return block


class TensorRows:
    """Samples of a table that are converted to tensors, of one dtype and device, when they are taken.

    Samples of a sparse table stay sparse, unless columns have bins or most of them are centered, as these have an entry
    in every row. Of a sparse table, ``columns`` may name the columns that ``scaling`` is for. Others are left out.
    """

    def __init__(
        self,
        table: Table,
        scaling: ColumnTransform,
        dtype: torch.dtype,
        device: torch.device,
        columns: Array | None = None,
    ) -> None:
        self.table, self.scaling, self.dtype, self.device = table, scaling, dtype, device
        n_features = table.X.shape[1]
        self.shape = (len(table), (n_features if columns is None else len(columns)) + scaling.n_bins)
        self.positions: Array | None = None  # of the columns of X among ``columns``, or -1
        if columns is not None:
            self.positions = np.full(n_features, -1)
            self.positions[columns] = np.arange(len(columns))
        self.n_centered = len(scaling.centered) if sparse.issparse(table.X) else 0
        self.is_sparse = sparse.issparse(table.X) and scaling.bins is None and 2 * self.n_centered <= self.shape[1]

    def take(self, samples: slice | torch.Tensor) -> torch.Tensor:
        """Return samples, (n_taken, n_columns); in COO format if ``is_sparse``."""
        block = self.table.get_features(samples if isinstance(samples, slice) else samples.cpu().numpy())
        if not sparse.issparse(block):
            return self._convert(to_tensor(block))
        if self.positions is not None:
            block = _select_columns(block, self.positions, self.shape[1])
        if not self.is_sparse:
            return self._convert(torch.from_numpy(block.toarray()))
        block = self.scaling.apply_to_sparse(block)
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        indices = torch.from_numpy(np.stack([rows, block.indices]).astype(np.int64, copy=False))
        values = to_tensor(block.data).to(self.dtype)
        return torch.sparse_coo_tensor(
            indices, values, block.shape, device="cpu", is_coalesced=True, check_invariants=False
        ).to(self.device)

    def convert(self, bias_column: bool) -> "torch.Tensor | TensorRows":
        """Return all samples as one tensor, or ``self`` if they are sparse or may exceed the memory.

        If the values need no change, the tensor is a view of the table, memory-mapped or not. Otherwise it is a copy.
        With ``bias_column``, the copy ends in a column of ones, see `Buffer.as_coeffs`.
        """
        if sparse.issparse(self.table.X):
            return self
        dtype_name = str(self.dtype).removeprefix("torch.")
        is_mapped = is_mapped_file(self.table.X)
        is_encoded = isinstance(self.table.X, CodedRows) or self.scaling.bins is not None
        is_whole = self.table.rows is None and not is_encoded
        is_ready = self.scaling.factor is None and is_whole and str(self.table.X.dtype).endswith(dtype_name)
        if is_ready and (not is_mapped or self.table.X.flags.c_contiguous):
            return to_tensor(self.table.X).to(self.device)
        is_long = is_encoded and self.shape[0] * self.shape[1] > MAX_DENSE_VALUES
        if is_mapped or is_long:
            return self
        n_samples, n_columns = self.shape
        if isinstance(self.table.X, torch.Tensor):
            result = torch.empty((n_samples, n_columns + bias_column), dtype=self.dtype, device=self.table.X.device)
        else:  # NumPy requests large pages, which the system allocates several times faster
            result = torch.from_numpy(np.empty((n_samples, n_columns + bias_column), dtype_name))
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
