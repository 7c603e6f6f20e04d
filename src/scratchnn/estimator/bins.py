"""Piecewise-linear encoding of numeric columns: how far a value is through each of a few bins.

Gorishniy, Rubachev & Babenko, 2022: On Embeddings for Numerical Features in Tabular Deep Learning.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FACTOR = 1.0  # what the encoded columns, from 0 to 1, are multiplied by


class Bins:
    """The bins of some columns, on a device.

    In each, a value counts as 0 below the lower edge and as 1 above the upper one, and rises linearly between them.
    """

    def __init__(self, edges: NDArray[Any], device: torch.device) -> None:
        columns = find_binned(edges)
        low, high = edges[columns, :-1], edges[columns, 1:]
        with np.errstate(over="ignore"):
            width = np.minimum(high - low, np.finfo(np.float64).max)
        self.columns = torch.from_numpy(columns).to(device)
        self.n_columns = count_bins(edges)
        # A bin without width is never entered.
        self.low = torch.from_numpy(np.where(width > 0, low, np.inf)).to(device)
        self.slope = torch.from_numpy(1 / np.where(width > 0, width, 1.0)).to(device)

    def calc(self, values: Tensor) -> Tensor:
        """Return the encoded columns of rows, (n_rows, n_columns), in double precision, from 0 to ``FACTOR``."""
        # Before rounding to float32, which would lose what timestamps differ by.
        columns = values.index_select(1, self.columns).double().unsqueeze(-1)
        encoded = (columns - self.low).mul_(self.slope).clamp_(0, 1).flatten(1)
        return encoded if FACTOR == 1 else encoded.mul_(FACTOR)


def find_binned(edges: NDArray[Any] | None) -> NDArray[Any]:
    """Return the numbers of the columns that have bins, (n_binned,)."""
    return np.empty(0, np.int64) if edges is None else np.flatnonzero(~np.isnan(edges[:, 0]))


def count_bins(edges: NDArray[Any] | None) -> int:
    """Return how many columns the bins are, together."""
    return 0 if edges is None else len(find_binned(edges)) * (edges.shape[1] - 1)


def find_entered(edges: NDArray[Any] | None) -> NDArray[Any]:
    """Return which bins have a width, (n_bins,) of bool. The others are zeros."""
    return np.empty(0, bool) if edges is None else (np.diff(edges[find_binned(edges)], axis=1) > 0).ravel()


def name_bins(names: NDArray[Any], edges: NDArray[Any] | None) -> list[str]:
    """Return the names of the encoded columns: that of the column, and the edges of the bin."""
    if edges is None:
        return []
    return [
        f"{names[column]}[{low:g}, {high:g}]"
        for column in find_binned(edges)
        for low, high in zip(edges[column, :-1], edges[column, 1:], strict=True)
    ]
