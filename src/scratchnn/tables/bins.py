"""Piecewise-linear encoding of columns of numbers: how far a value is through each of a few bins.

Gorishniy, Rubachev & Babenko, 2022: On Embeddings for Numerical Features in Tabular Deep Learning.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

N_BINS = 8  # of each column with more than two values; 16 predict no better
LIMIT = 3.0  # standard deviations that a column with bins stays below, once scaled
WIDE_LIMIT = 30.0  # for the other columns: beyond what values of most tables reach
MIN_WIDTH = float(np.finfo(np.float64).tiny)  # of a bin: one over it is finite


class Bins:
    """The bins of some columns, on a device.

    In each, a value counts as 0 below the lower edge and as 1 above the upper one, and rises linearly between them.
    """

    def __init__(self, edges: NDArray[Any], device: torch.device) -> None:
        columns = find_binned(edges)
        low, high = edges[columns, :-1], edges[columns, 1:]
        with np.errstate(over="ignore"):
            width = np.minimum(high - low, np.finfo(np.float64).max)
        self.columns = torch.from_numpy(columns).to(device) if len(columns) < len(edges) else None  # None: all
        self.one = torch.ones((), dtype=torch.float64, device=device)
        # A bin without width is never entered.
        self.low = torch.from_numpy(np.where(width > MIN_WIDTH, low, np.inf)).to(device)
        self.slope = torch.from_numpy(1 / np.where(width > MIN_WIDTH, width, 1.0)).to(device)

    def calc(self, values: Tensor) -> Tensor:
        """Return the encoded columns of rows, (n_rows, n_binned * n_bins), in double precision, from 0 to 1."""
        # Before rounding to float32, which would lose what timestamps differ by.
        columns = values if self.columns is None else values.index_select(1, self.columns)
        return (columns.double().unsqueeze(-1) - self.low).mul_(self.slope).clamp_(0, 1).flatten(1)

    def clip(self, scaled: Tensor) -> Tensor:
        """Return scaled rows in which the columns with bins are clipped smoothly, and the others at ``WIDE_LIMIT``.

        A scaled value z becomes ``z / sqrt(1 + (z / LIMIT)**2)``: outliers keep their order, but not their weight.
        """
        z = scaled if self.columns is None else scaled.index_select(1, self.columns)
        z = z.double().clamp(-1e100, 1e100)  # whose squares are finite
        z = z.mul_(torch.addcmul(self.one, z, z, value=LIMIT**-2).rsqrt_())
        if self.columns is None:
            return z
        return scaled.double().clamp(-WIDE_LIMIT, WIDE_LIMIT).index_copy_(1, self.columns, z)


def find_binned(edges: NDArray[Any] | None) -> NDArray[Any]:
    """Return the numbers of the columns that have bins, (n_binned,)."""
    return np.empty(0, np.int64) if edges is None else np.flatnonzero(~np.isnan(edges[:, 0]))


def count_bins(edges: NDArray[Any] | None) -> int:
    """Return how many bins all columns have together."""
    return 0 if edges is None else len(find_binned(edges)) * (edges.shape[1] - 1)


def find_entered(edges: NDArray[Any] | None) -> NDArray[Any]:
    """Return which bins have a width, (n_bins,) of bool. The others are zeros."""
    return np.empty(0, bool) if edges is None else (np.diff(edges[find_binned(edges)], axis=1) > MIN_WIDTH).ravel()


def name_bins(names: NDArray[Any], edges: NDArray[Any] | None) -> list[str]:
    """Return the names of the bins, (n_bins,): that of the column, and the edges. Those without width have none: ""."""
    if edges is None:
        return []
    found = [
        f"{names[column]}[{low:g}, {high:g}]"
        for column in find_binned(edges)
        for low, high in zip(edges[column, :-1], edges[column, 1:], strict=True)
    ]
    return [name if has_width else "" for name, has_width in zip(found, find_entered(edges), strict=True)]


def calc_edges(values: Tensor, weights: Tensor | None = None) -> NDArray[Any]:
    """Return the edges for a column, (N_BINS + 1,): NaN if it has two values or fewer. NaN do not count as values.

    They are all its values, if these are few, and else weighted quantiles, which are values, too: a row of weight k
    counts as k rows. Where there are fewer values than edges, or many rows have the same value, edges coincide, so that
    fits on other rows of a table have the same number of bins and train in one stack.
    """
    # KBinsDiscretizer merges edges that coincide, and its weighted quantiles need scikit-learn 1.7 or later.
    is_there = ~values.isnan()
    values, weights = values[is_there], None if weights is None else weights[is_there]
    ordered, order = values.double().sort(stable=True)
    distinct = ordered.unique_consecutive()
    if len(distinct) <= 2:
        return np.full(N_BINS + 1, np.nan)
    places = torch.arange(N_BINS + 1, device=values.device)
    if len(distinct) <= N_BINS + 1:
        edges = distinct[places.clamp(max=len(distinct) - 1)]
    else:
        ends = (torch.ones_like(ordered) if weights is None else weights[order]).cumsum(0)
        parts = places * (ends[-1] * (1 - 1e-12))  # sums of equal weights may differ by rounding
        edges = ordered[torch.searchsorted(ends * N_BINS, parts)]
    return np.asarray(edges.cpu().numpy())
