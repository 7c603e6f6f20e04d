"""Piecewise-linear encoding of columns of numbers: how far a value is through each of a few bins.

Gorishniy, Rubachev & Babenko, 2022: On Embeddings for Numerical Features in Tabular Deep Learning.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_BINS = 64  # of a column
MAX_ALL_BINS = 512  # of all columns together
LIMIT = 3.0  # standard deviations that a column with bins stays below, once scaled
WIDE_LIMIT = 30.0  # for the other columns: beyond what values of most tables reach
MIN_WIDTH = float(np.finfo(np.float64).tiny)  # of a bin: one over it is finite


class Bins:
    """The bins of some columns, on a device.

    In each, a value counts as 0 below the lower edge and as 1 above the upper one, and rises linearly between them.
    """

    def __init__(self, edges: NDArray[Any], device: torch.device) -> None:
        columns = np.flatnonzero(~np.isnan(edges[:, 0]))
        of, low, high = list_bins(edges)
        with np.errstate(over="ignore"):
            width = np.minimum(high - low, np.finfo(np.float64).max)
        self.columns = torch.from_numpy(columns).to(device) if len(columns) < len(edges) else None  # None: all
        self.of = torch.from_numpy(of).to(device)  # the column of each bin
        self.one = torch.ones((), dtype=torch.float64, device=device)
        # A bin without width is never entered.
        self.low = torch.from_numpy(np.where(width > MIN_WIDTH, low, np.inf)).to(device)
        self.slope = torch.from_numpy(1 / np.where(width > MIN_WIDTH, width, 1.0)).to(device)

    def calc(self, values: Tensor) -> Tensor:
        """Return the encoded columns of rows, (n_rows, n_bins), in double precision, from 0 to 1."""
        # Before rounding to float32, which would lose what timestamps differ by.
        return (values.index_select(1, self.of).double() - self.low).mul_(self.slope).clamp_(0, 1)

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


def list_bins(edges: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the column, the lower and the upper edge of each bin, (n_bins,) each."""
    if edges is None:
        return np.empty(0, np.int64), np.empty(0), np.empty(0)
    is_bin = ~np.isnan(edges[:, 1:])
    return np.nonzero(is_bin)[0], edges[:, :-1][is_bin], edges[:, 1:][is_bin]


def count_bins(edges: NDArray[Any] | None) -> int:
    """Return how many bins all columns have together."""
    return len(list_bins(edges)[0])


def find_entered(edges: NDArray[Any] | None) -> NDArray[Any]:
    """Return which bins have a width, (n_bins,) of bool. The others are zeros."""
    _, low, high = list_bins(edges)
    return np.asarray(high - low > MIN_WIDTH)


def name_bins(names: NDArray[Any], edges: NDArray[Any] | None) -> list[str]:
    """Return the names of the bins, (n_bins,): that of the column, and the edges. Those without width have none: ""."""
    bins = zip(*list_bins(edges), find_entered(edges), strict=True)
    return [f"{names[column]}[{low:g}, {high:g}]" if has_width else "" for column, low, high, has_width in bins]


def choose_n_bins(n_samples: float, n_columns: int) -> int:
    """Return how many bins each of some columns has at most: the more, the more samples and the fewer columns.

    The number falls gradually to none: columns of a very wide table have one edge each, and no bin.
    """
    n_all = min(MAX_ALL_BINS, 4 * n_samples**0.5)
    return int(min(MAX_BINS, 0.8 * n_samples**0.4, n_all / max(1, n_columns)))


def calc_edges(values: Tensor, n_bins: int, weights: Tensor | None = None) -> NDArray[Any]:
    """Return the edges of at most ``n_bins`` bins for a column, NaN where it has two values or fewer.

    NaN do not count. The edges are all values if there are few, and otherwise quantiles, for which a sample of weight k
    counts as k. A value with more samples than a bin is one edge, and the other edges divide the other samples. The
    last edges coincide if there are fewer values, so that folds have the same number of bins and train in one stack.
    """
    # KBinsDiscretizer merges edges that coincide, and its weighted quantiles need scikit-learn 1.7 or later.
    is_there = ~values.isnan()
    values, weights = values[is_there], None if weights is None else weights[is_there]
    if not n_bins and len(values):  # of one of many columns: without a sort
        low, high = values.aminmax()
        return np.array([float(low) if bool(((values != low) & (values != high)).any()) else np.nan])
    distinct, places = values.double().unique(return_inverse=True)
    if len(distinct) <= 2:
        return np.full(1, np.nan)
    n_bins = min(n_bins, 1 << (len(distinct) - 2).bit_length())
    steps = torch.arange(n_bins + 1, device=values.device)
    if len(distinct) <= n_bins + 1:
        edges = distinct[steps.clamp(max=len(distinct) - 1)]
    else:
        shares = places.bincount(weights).double()
        ends = shares.clamp(max=find_share(shares, n_bins)).cumsum(0)
        # Sums of equal weights may differ by rounding.
        found = torch.searchsorted(ends * n_bins, steps * (ends[-1] * (1 + 1e-12)))
        edges = distinct[found.clamp(max=len(distinct) - 1)]
    return np.asarray(edges.cpu().numpy())


def find_share(shares: Tensor, n_bins: int) -> float:
    """Return the share of samples of each bin: that of all, less those of values with more samples than a bin has."""
    largest = shares.sort(descending=True).values[:n_bins]
    left = shares.sum() - largest.cumsum(0) + largest  # without the values before each
    parts = left / torch.arange(n_bins, 0, -1, device=shares.device)
    return float(parts[int((largest <= parts).nonzero()[0])])
