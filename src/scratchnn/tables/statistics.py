"""The moments of columns, and the means, scales and bins that follow from them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.sparsefuncs import mean_variance_axis, min_max_axis
from torch import Tensor

from .arrays import Array, Features, get_device, to_host, to_tensor
from .bins import calc_edges, choose_n_bins, find_entered
from .categories import CodedRows
from .summary import draw_rows, gather, join_samples
from .table import Table
from .transform import ColumnTransform, TensorRows

MAX_VALUE = 1e100  # in training: sums of weights times squares stay finite
MIN_RANGE = 1e-300  # a column of a smaller range counts as constant
MIN_SQUARED = 1e-150  # the variance of a column of a smaller range is rounded to 0
FAR = 100.0  # in median distances from the median, see `find_reach`
MAX_MEDIAN_ROWS, MAX_EDGE_ROWS = 1000, 100_000  # drawn from longer tables, for medians and the edges of bins


@dataclass(eq=False)
class Moments:
    """Mean, variance and range of the columns of all tables added so far, in double precision.

    The farther away a far value is, the less it counts: at k times the limit of `find_reach`, it counts as a value at
    1 / k of the limit.
    """

    n_samples: float = 0.0  # the sum of the weights, where there are any
    mean: Array | float = 0.0
    variance: Array | float = 0.0
    low: Array | float = np.inf
    high: Array | float = -np.inf
    is_two_valued: Any = True  # (n_features,) of bool: which columns have at most two values
    filled: Array | float = 1.0  # the share of samples that are not zero; 1 if the first table was dense
    counts_zeros: bool = False  # whether the first table was sparse
    reach: tuple[Array, Array] | None = None  # of the table added first

    def add(self, table: Table) -> None:
        """Add the samples of a table, in place.

        Raises ValueError if a value is larger than ``MAX_VALUE``.
        """
        n_added = float(table.weights_or_ones.sum())
        counts_zeros = self.counts_zeros if self.n_samples else sparse.issparse(table.X)
        filled = _count_filled(table) / n_added if counts_zeros else np.ones(table.X.shape[1])
        if sparse.issparse(table.X):
            added = _describe_sparse_columns(table, n_added, filled)
        else:
            added = _describe_columns(table, n_added)
        self.merge(replace(added, filled=filled, counts_zeros=counts_zeros))

    def merge(self, other: "Moments") -> None:
        """Add the samples of other moments, in place (Chan, Golub & LeVeque, 1983)."""
        if not self.n_samples:
            vars(self).update(vars(other))
            return
        ends = np.stack([self.low, self.high, other.low, other.high])
        self.low, self.high = ends.min(0), ends.max(0)
        has_only_ends = ((ends == self.low) | (ends == self.high)).all(0)
        self.is_two_valued = self.is_two_valued & other.is_two_valued & has_only_ends
        self.n_samples += other.n_samples
        share, distance = other.n_samples / self.n_samples, other.mean - self.mean
        self.mean = self.mean + distance * share
        self.variance = self.variance * (1 - share) + other.variance * share + distance**2 * share * (1 - share)
        self.filled = self.filled * (1 - share) + other.filled * share

    @property
    def is_centered(self) -> Array:
        """Which columns to center, (n_features,) of bool: all of a dense table, and of a sparse one those of few zeros.

        Centering makes every zero an entry, which costs memory. It has no benefit where zeros are common, as in one-hot
        columns and counts of words: the mean is small compared with the standard deviation.
        """
        return np.broadcast_to(np.asarray(self.filled) > 0.5, np.shape(self.low))

    def calc_mean(self) -> Array | None:
        """Return what to subtract from the columns, (n_features,), 0 if not centered; None if no column is."""
        if not self.is_centered.any():
            return None
        # The mean of a constant column is exact, so that the column is exactly zero once centered.
        return np.where(self.is_centered, np.where(self.low == self.high, self.low, self.mean), 0.0)

    def calc_scale(self) -> Array:
        """Return what to divide the columns by, (n_features,): their standard deviations, with three exceptions.

        - Columns of two values, such as those of a one-hot encoder, are divided by the difference of these values.
          Divided by the deviation, rare values would become large.
        - Columns that are not centered are divided by their largest absolute value.
        - Columns that do not vary are divided by 1.
        """
        scale = np.where(self.is_two_valued, self.high - self.low, self._calc_deviation())
        return np.where(self.find_varying(), np.where(self.is_centered, scale, self._calc_size()), 1.0)

    def find_varying(self, is_scaled: bool = True) -> Array:
        """Return which columns have other values than zeros as the network reads them, (n_features,) of bool.

        With ``is_scaled``, it reads them centered and scaled, otherwise as they are. If the variance of a centered
        column may be due to rounding, the column counts as zeros.
        """
        size = self._calc_size()
        if not is_scaled:
            return size > 0
        eps = np.finfo(float).eps
        deviation = self._calc_deviation()
        rounding = np.hypot(np.sqrt(self.n_samples * eps) * deviation, self.n_samples * eps * self.mean)
        # With weights, the error of the mean of a constant column may be larger, but its range is exact.
        varies = np.asarray(self.high - self.low > MIN_RANGE) & (deviation > rounding)
        return np.where(self.is_centered, varies, size > 0)

    def calc_row_length(self, scale: Array | None) -> float:
        """Return the root mean square norm of the rows, centered and divided by ``scale``.

        The deviation of a column counts as at most 1.
        """
        deviation = self._calc_deviation() / (1.0 if scale is None else scale)
        return float(np.sqrt((np.minimum(deviation, 1.0) ** 2).sum()))

    def _calc_deviation(self) -> Array:
        width = np.asarray(self.high - self.low)
        return np.where((width > 0) & (width < MIN_SQUARED), width / 4, np.sqrt(self.variance))

    def _calc_size(self) -> Array:
        return np.maximum(np.abs(self.low), np.abs(self.high))


def find_moments(table: Table, earlier: Moments | None = None) -> Moments:
    """Return the moments of the columns of a table, in all processes, and of ``earlier`` samples."""
    own = Moments() if earlier is None else replace(earlier)
    own.add(table)
    merged, *others = gather(own)
    for other in others:
        merged.merge(other)
    return merged


def _check_range(low: Array, high: Array, table: Table) -> None:
    sizes = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    if len(sizes) and sizes.max() > MAX_VALUE:
        column = sizes.argmax() if table.names is None else repr(table.names[sizes.argmax()])
        raise ValueError(
            f"X must have no values beyond {MAX_VALUE:g} to train on, as their squares must be finite, got "
            f"{sizes.max():g} in column {column}. Divide the column by a number, take its logarithm, or make "
            "these values NaN if they represent missing ones."
        )


def _count_filled(table: Table) -> Array:
    """Return the weight of the samples that are not zero, for each column, (n_features,)."""
    weights, total = table.weights_or_ones, np.zeros(table.X.shape[1])
    for samples, block in table.split():
        total += weights[samples] @ ((block if sparse.issparse(block) else to_host(block)) != 0)
    return total


def find_reach(table: Table) -> tuple[Tensor, Tensor]:
    """Return the median of each column of a dense table, and the distance from it beyond which values are far.

    This limit is ``FAR`` times the median distance of the values that differ from the median. It is larger if these are
    few.
    """
    rows = draw_rows(len(table), MAX_MEDIAN_ROWS)
    values = join_samples(to_tensor(table.get_features(rows))).double().T.contiguous()
    counts = None
    if table.sample_weights is not None:
        counts = join_samples(to_tensor(table.sample_weights[rows])).to(values)
        counts = counts / counts.mean().clamp(max=1)  # weights with a mean below 1 are no counts
    center = _find_medians(values, counts)
    distances = (values - center.unsqueeze(1)).abs_()
    differs = distances > 0
    n_differing = differs.sum(1) if counts is None else differs.double() @ counts
    limit = FAR * _find_medians(distances.masked_fill_(~differs, torch.nan), counts) * (1 + 20 / n_differing)
    return center, limit.nan_to_num_(torch.inf, torch.inf)


def _find_medians(values: Tensor, counts: Tensor | None) -> Tensor:
    """Return the medians along the last axis. NaN are left out, and a value of count k counts as k values."""
    if counts is None:
        return values.nanmedian(-1).values
    ordered, order = values.sort(-1)  # NaN come last
    ends = (counts[order] * ~ordered.isnan()).cumsum(-1)
    return ordered.gather(-1, torch.searchsorted(ends, ends[:, -1:] / 2)).squeeze(-1)


def _describe_sparse_columns(table: Table, n_samples: float, filled: Array) -> Moments:
    """Return the moments of the columns of a sparse table. Columns of mostly zeros have no far values."""
    X = table.get_features()
    low, high = min_max_axis(X, axis=0)
    _check_range(low, high, table)
    mean, variance = mean_variance_axis(X.astype(np.float64), axis=0, weights=table.sample_weights)
    others = (X.data != low[X.indices]) & (X.data != high[X.indices]) & (X.data != 0)
    is_two_valued = (np.bincount(X.indices, others, len(low)) == 0) & ((low == 0) | (high == 0))
    moments = Moments(n_samples, mean, variance, low, high, is_two_valued)
    columns = np.flatnonzero(np.mean(gather(filled), axis=0) > 0.5)
    if len(columns):
        dense = _describe_columns(replace(table, X=X[:, columns].toarray(), rows=None), n_samples)
        for name in ("mean", "variance", "low", "high", "is_two_valued"):
            getattr(moments, name)[columns] = getattr(dense, name)
    return moments


def _describe_columns(table: Table, n_samples: float) -> Moments:
    """Return the moments of the columns of a dense table. A second pass for the variance avoids cancellation."""
    reach = center, limit = find_reach(table)
    total, low, high = _sum_columns(table)
    _check_range(low.cpu().numpy(), high.cpu().numpy(), table)
    far = reach if bool(((low < center - limit) | (high > center + limit)).any()) else None
    if far is not None:
        total, low, high = _sum_columns(table, far)
    mean = total / n_samples
    squares, has_others = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.bool)
    for samples, block in table.split():
        values = _fold(block, far)
        squares += _weigh((values - mean).square_(), table, samples).sum(0)
        rest = (~has_others).nonzero()[:, 0]  # few columns or none after the first block
        has_others[rest] = ((values[:, rest] != low[rest]) & (values[:, rest] != high[rest])).any(0)
    described: list[Any] = [each.cpu().numpy() for each in (mean, squares / n_samples, low, high, ~has_others)]
    return replace(Moments(n_samples, *described), reach=(center.cpu().numpy(), limit.cpu().numpy()))


def _sum_columns(table: Table, far: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum, the minimum and the maximum of each column of a dense table, (n_features,) each."""
    total = torch.zeros(table.X.shape[1], dtype=torch.float64, device=get_device(table.X))
    low, high = total + np.inf, total - np.inf
    for samples, block in table.split():
        values = _fold(block, far)
        # `torch.aminmax` takes up to five times as long along columns.
        low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
        total += _weigh(values, table, samples).sum(0, dtype=torch.float64)
    return total, low, high


def _fold(block: Features, far: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return rows in which far values are replaced as `Moments` says. Without ``far``, there are no such values."""
    values = to_tensor(block)
    if far is None:
        return values
    center, limit = far
    distances = values.double() - center
    return torch.where(distances.abs() > limit, center + limit * (limit / distances), values.double())


def _weigh(values: Tensor, table: Table, samples: slice) -> Tensor:
    if table.sample_weights is None:
        return values
    return values * to_tensor(table.sample_weights[samples]).to(values.device).unsqueeze(-1)


@dataclass(frozen=True)
class ColumnStatistics:
    """The means and scales of the columns of X, (n_features,) each, and their bins, which follow the columns.

    Columns that are zero in all training rows, as the network reads them, have weights of zero. The network leaves them
    out if the table is sparse. It keeps those of a dense table, so that fits on different rows train in one stack.
    """

    mean: Array | None
    scale: Array | None
    is_read: Array | None = None  # of bool: which columns and bins may have weights other than zero; None: all
    columns: Array | None = None  # (n_read,): the columns that are not left out; None: all
    edges: Array | None = None  # of the bins, see `find_bin_edges`

    @property
    def n_features(self) -> int:
        """The number of columns and bins, or 0 if all are read."""
        return 0 if self.is_read is None else len(self.is_read)

    def make_rows(self, table: Table, like: torch.Tensor) -> TensorRows:
        """Return the samples of a table as the network reads them, of the dtype and device of ``like``."""
        mean, scale = self.mean, self.scale
        if scale is not None and self.is_read is not None:
            # Columns that vary only by rounding become zeros, too.
            scale = np.where(self.is_read[: len(scale)], scale, np.inf)
        if self.columns is not None:
            mean, scale = (None if each is None else each[self.columns] for each in (mean, scale))
        scaling = ColumnTransform(mean, scale, self.edges, get_device(table.X))
        return TensorRows(table, scaling, like.dtype, like.device, self.columns)


def find_statistics(
    moments: Moments, n_features: int, known: tuple[Array | None, Array | None] | None = None
) -> ColumnStatistics:
    """Return the means and scales of the columns: the ``known`` ones if there are scales, or those of the moments."""
    if known is not None and known[1] is not None:
        return ColumnStatistics(*known)
    if moments.n_samples == 0:
        return ColumnStatistics(None, np.ones(n_features))
    return ColumnStatistics(moments.calc_mean(), moments.calc_scale())


def find_bin_edges(table: Table, moments: Moments, n_samples: float, indicators: Array | None = None) -> Array | None:
    """Return the edges of the bins, (n_columns, n_edges), NaN after the last one; None if no column has bins.

    Columns of at most two values have none. Far values and filled missing values do not count. ``moments`` describe
    the table, ``n_samples`` is the sum of all weights, and ``indicators`` is as in `ColumnEncoder`.
    """
    columns = np.flatnonzero(moments.find_varying() & ~moments.is_two_valued) if len(table) else np.empty(0, int)
    if not len(columns):
        return None
    n_bins = choose_n_bins(n_samples, len(columns))
    edges = np.full((table.X.shape[1], n_bins + 1), np.nan)
    rows = draw_rows(len(table), MAX_EDGE_ROWS)
    is_coded = isinstance(table.X, CodedRows)  # one-hot columns have no bins
    values = to_tensor((replace(table, X=table.X.numbers) if is_coded else table).get_features(rows))
    weights = None
    if table.sample_weights is not None:
        weights = join_samples(to_tensor(table.sample_weights[rows]).to(values.device))
    for column, center, limit in zip(columns, *(each[columns] for each in moments.reach or ()), strict=True):
        taken = values[:, column].double()
        is_left_out = (taken - center).abs() > limit
        if indicators is not None and indicators[column] >= 0:
            is_left_out |= values[:, indicators[column]] > 0
        found = calc_edges(join_samples(taken.masked_fill(is_left_out, torch.nan)), n_bins, weights)
        edges[column, : len(found)] = found
    return None if np.isnan(edges).all() else edges


def find_read_columns(
    statistics: ColumnStatistics, moments: Moments, table: Table, is_trained: Array | None
) -> ColumnStatistics:
    """Return the statistics with the columns that the network reads, because they vary or ``is_trained`` names them."""
    is_read = np.concatenate([moments.find_varying(statistics.scale is not None), find_entered(statistics.edges)])
    if is_trained is not None:
        is_read |= is_trained
    if is_read.all():
        return statistics
    leaves_out = sparse.issparse(table.X) and statistics.edges is None
    return replace(statistics, is_read=is_read, columns=list_columns(is_read) if leaves_out else None)


def list_columns(is_read: Array) -> Array:
    """Return the indices of the columns that the network reads: at least one, as a network needs an input."""
    return np.flatnonzero(is_read) if is_read.any() else np.array([0])
