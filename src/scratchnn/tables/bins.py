"""Piecewise-linear encoding of columns of numbers: the position of a value in each of a few bins.

Gorishniy, Rubachev & Babenko, 2022: On Embeddings for Numerical Features in Tabular Deep Learning.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_BINS = 64  # of a column
MAX_ALL_BINS = 512  # of all columns together
LIMIT = 3.0  # of scaled columns with bins, see `Bins.clip`
WIDE_LIMIT = 30.0  # of other scaled columns: few tables have values beyond it
MIN_WIDTH = float(np.finfo(np.float64).tiny)  # of a bin: its reciprocal is finite


class Bins:
    """The bins of some columns, on a device.

    Each bin is a feature: 0 for values below the lower edge, 1 above the upper edge, and linear between them.
    """

    def __init__(self, edges: NDArray[Any], device: torch.device) -> None:
        columns = np.flatnonzero(~np.isnan(edges[:, 0]))
        of, low, high = list_bins(edges)
        with np.errstate(over="ignore"):
            width = np.minimum(high - low, np.finfo(np.float64).max)
        self.columns = torch.from_numpy(columns).to(device) if len(columns) < len(edges) else None  # None: all
        self.of = torch.from_numpy(of).to(device)  # the column of each bin
        self.one = torch.ones((), dtype=torch.float64, device=device)
        # A bin without width is 0 for all values.
        self.low = torch.from_numpy(np.where(width > MIN_WIDTH, low, np.inf)).to(device)
        self.slope = torch.from_numpy(1 / np.where(width > MIN_WIDTH, width, 1.0)).to(device)

    def calc(self, values: Tensor) -> Tensor:
        """Return the features of rows, (n_rows, n_bins), in double precision, from 0 to 1."""
        # In float32, timestamps would lose their differences.
        return (values.index_select(1, self.of).double() - self.low).mul_(self.slope).clamp_(0, 1)

    def clip(self, scaled: Tensor) -> Tensor:
        """Return scaled rows in which the columns with bins are clipped smoothly, and the others at ``WIDE_LIMIT``.

        A scaled value z becomes ``z / sqrt(1 + (z / LIMIT)**2)``, so that outliers keep their order.
        """
        z = scaled if self.columns is None else scaled.index_select(1, self.columns)
        z = z.double().clamp(-1e100, 1e100)  # so that squares are finite
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
    """Return the number of bins of all columns together."""
    return len(list_bins(edges)[0])


def find_entered(edges: NDArray[Any] | None) -> NDArray[Any]:
    """Return which bins have a width, (n_bins,) of bool. The others are 0 for all values."""
    _, low, high = list_bins(edges)
    return np.asarray(high - low > MIN_WIDTH)


def name_bins(names: NDArray[Any], edges: NDArray[Any] | None) -> list[str]:
    """Return the names of the bins, (n_bins,): the column and the edges, or "" for a bin without width."""
    bins = zip(*list_bins(edges), find_entered(edges), strict=True)
    return [f"{names[column]}[{low:g}, {high:g}]" if has_width else "" for column, low, high, has_width in bins]


def choose_n_bins(n_samples: float, n_columns: int) -> int:
    """Return the maximum number of bins of each column. It grows with the samples and shrinks with the columns.

    It shrinks gradually to 0, for the columns of a very wide table.
    """
    n_all = min(MAX_ALL_BINS, 4 * n_samples**0.5)
    return int(min(MAX_BINS, 0.8 * n_samples**0.4, n_all / max(1, n_columns)))


def calc_edges(values: Tensor, n_bins: int, weights: Tensor | None = None) -> NDArray[Any]:
    """Return the edges of at most ``n_bins`` bins of a column, or a NaN if it has at most two values.

    NaN are left out. If there are few values, all of them are edges. Otherwise the edges are quantiles, for which a
    sample of weight k counts as k. A value with more samples than a bin is one edge, and the other edges divide the
    other samples. The last edges are equal if there are fewer values, so that folds have the same number of bins and
    train in one stack.
    """
    # KBinsDiscretizer merges equal edges, and its weighted quantiles need scikit-learn 1.7 or later.
    is_there = ~values.isnan()
    values, weights = values[is_there], None if weights is None else weights[is_there]
    if not n_bins and len(values):  # no sort is needed, which would be slow for many columns
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
        # The tolerance is for rounding in sums of equal weights.
        found = torch.searchsorted(ends * n_bins, steps * (ends[-1] * (1 + 1e-12)))
        edges = distinct[found.clamp(max=len(distinct) - 1)]
    return np.asarray(edges.cpu().numpy())


def find_share(shares: Tensor, n_bins: int) -> float:
    """Return the share of samples of a bin, given the ``shares`` of values. Values with a larger share are left out."""
    largest = shares.sort(descending=True).values[:n_bins]
    left = shares.sum() - largest.cumsum(0) + largest  # without all larger values
    parts = left / torch.arange(n_bins, 0, -1, device=shares.device)
    return float(parts[int((largest <= parts).nonzero()[0])])
