"""The columns of tables: their moments, and the means and scales with which the network reads them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.sparsefuncs import mean_variance_axis, min_max_axis
from torch import Tensor

from .arrays import Array, get_device, to_host, to_tensor
from .bins import N_BINS, calc_edges, find_entered
from .summary import gather, join_samples, locate
from .table import Table
from .transform import ColumnTransform, TensorRows

MAX_VALUE = 1e100  # of a column to train on: sums of weights times squares stay finite
MAX_EDGE_ROWS = 100_000  # rows, evenly spaced, of which the edges of bins are found


@dataclass(eq=False)
class Moments:
    """Mean, variance and range of the columns of all tables added so far, in double precision."""

    n_samples: float = 0.0  # the sum of the weights, where there are any
    mean: Array | float = 0.0
    variance: Array | float = 0.0
    low: Array | float = np.inf
    high: Array | float = -np.inf
    filled: Array | float = 1.0  # share of the samples that are not zero; 1 if the first table was dense
    counts_zeros: bool = False  # whether the first table was sparse

    def add(self, table: Table) -> None:
        """Add the samples of a table, in place (Chan, Golub & LeVeque, 1983).

        Raises
        ------
        ValueError
            If a value is larger than ``MAX_VALUE``.
        """
        n_added = len(table) if table.sample_weights is None else float(table.sample_weights.sum())
        counts_zeros = self.counts_zeros if self.n_samples else sparse.issparse(table.X)
        mean, variance, low, high = _describe_columns(table, n_added)
        _check_range(low, high, table)
        filled = _count_filled(table) / n_added if counts_zeros else 1.0
        self.merge(Moments(n_added, mean, variance, low, high, filled, counts_zeros))

    def merge(self, other: "Moments") -> None:
        """Add the samples of other moments, in place (Chan, Golub & LeVeque, 1983)."""
        n_samples = self.n_samples + other.n_samples
        share = other.n_samples / n_samples
        distance = other.mean - self.mean
        self.mean = self.mean + distance * share
        self.variance = self.variance * (1 - share) + other.variance * share + distance**2 * share * (1 - share)
        self.filled = self.filled * (1 - share) + other.filled * share
        self.counts_zeros = self.counts_zeros if self.n_samples else other.counts_zeros
        self.n_samples = n_samples
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    @property
    def is_centered(self) -> Array:
        """Which columns to centre, (n_features,) of bool: those of a sparse table only where zeros are the minority.

        Centring makes an entry of every zero, which costs memory. Where zeros are common, as in one-hot columns and
        counts of words, it brings nothing: the mean is small compared with the standard deviation.
        """
        return np.broadcast_to(np.asarray(self.filled) > 0.5, np.shape(self.low))

    def calc_mean(self) -> Array | None:
        """Return what to subtract from the columns, (n_features,): 0 where they are not centered; None if none is."""
        if not self.is_centered.any():
            return None
        # The mean of a constant column is exact, so that centring leaves exact zeros of it.
        return np.where(self.is_centered, np.where(self.low == self.high, self.low, self.mean), 0.0)

    def calc_scale(self) -> Array:
        """Return what to divide the columns by, (n_features,): their standard deviations, with three exceptions.

        - Columns of two values, such as a one-hot encoder's, are divided by the distance of these. Divided by the
          deviation, a value would be the larger, the rarer it is.
        - Columns that are not centered, in which zeros are common, are divided by their largest absolute value.
        - Columns that do not vary are divided by 1.
        """
        scale = np.where(self.find_two_valued(), self.high - self.low, np.sqrt(self.variance))
        return np.where(self.find_varying(), np.where(self.is_centered, scale, self._calc_size()), 1.0)

    def find_two_valued(self) -> Array:
        """Return which columns have two values, or one, (n_features,) of bool."""
        # The largest variance for this mean and range; only columns of two values have it (Bhatia & Davis, 2000).
        largest = (self.high - self.mean) * (self.mean - self.low)
        return np.asarray(self.variance >= largest * (1 - 1e-9))

    def find_varying(self, is_scaled: bool = True) -> Array:
        """Return which columns are not all zeros as the network reads them, (n_features,) of bool.

        With ``is_scaled``, it reads them centered and scaled, else as they are. A centered column whose variance may be
        due to rounding counts as zeros.
        """
        size = self._calc_size()
        if not is_scaled:
            return size > 0
        eps = np.finfo(float).eps
        rounding = self.n_samples * eps * self.variance + (self.n_samples * self.mean * eps) ** 2
        # With weights the mean of a constant column may be off by more than that, but its range is exact.
        varies = np.asarray(self.high > self.low) & (self.variance > rounding)
        return np.where(self.is_centered, varies, size > 0)

    def calc_row_length(self, scale: Array | None) -> float:
        """Return the root mean square length of the rows, centered and divided by ``scale``.

        A column that varies by more than 1 counts as one that varies by 1.
        """
        deviation = np.sqrt(self.variance) if scale is None else np.sqrt(self.variance) / scale
        return float(np.sqrt((np.minimum(deviation, 1.0) ** 2).sum()))

    def _calc_size(self) -> Array:
        return np.maximum(np.abs(self.low), np.abs(self.high))


def find_moments(table: Table, earlier: Moments | None = None) -> Moments:
    """Return the moments of the columns of a table, in all processes, and of ``earlier`` ones."""
    own = Moments() if earlier is None else replace(earlier)
    own.add(table)
    merged, *others = gather(own)
    for other in others:
        if other.n_samples:
            merged.merge(other)
    return merged


def _check_range(low: Array, high: Array, table: Table) -> None:
    sizes = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    if len(sizes) and sizes.max() > MAX_VALUE:
        column: Any = int(sizes.argmax())
        column = column if table.names is None else repr(table.names[column])
        raise ValueError(
            f"X must have no values beyond {MAX_VALUE:g} to train on, as their squares must be finite, got "
            f"{sizes.max():g} in column {column}. Divide the column by a number, take its logarithm, or make "
            "these values NaN if they stand for missing ones."
        )


def _count_filled(table: Table) -> Array:
    """Return the weight of the samples that are not zero, for each column, (n_features,)."""
    weights = np.ones(len(table)) if table.sample_weights is None else table.sample_weights
    total = np.zeros(table.X.shape[1])
    for samples, block in table.split():
        if sparse.issparse(block):
            entry_weights = np.repeat(weights[samples], np.diff(block.indptr)) * (block.data != 0)
            total += np.bincount(block.indices, entry_weights, minlength=len(total))
        else:
            total += weights[samples] @ (to_host(block) != 0)
    return total


def _describe_columns(table: Table, n_samples: float) -> list[Array]:
    """Return mean, variance, least and largest value of the columns, (n_features,) each.

    The variance of dense columns is computed in a second pass, so that no digits cancel.
    """
    if sparse.issparse(table.X):
        X = table.get_features()
        return [
            *mean_variance_axis(X.astype(np.float64), axis=0, weights=table.sample_weights),
            *min_max_axis(X, axis=0),
        ]
    device = get_device(table.X)
    total = torch.zeros(table.X.shape[1], dtype=torch.float64, device=device)
    low, high = total + np.inf, total - np.inf
    for samples, block in table.split():
        values = to_tensor(block)
        # `torch.aminmax` takes up to five times as long along columns.
        low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
        total += _weigh(values, table, samples).sum(0, dtype=torch.float64)
    mean = total / n_samples
    squares = torch.zeros_like(total)
    for samples, block in table.split():
        squares += _weigh((to_tensor(block) - mean).square_(), table, samples).sum(0)
    return [column.cpu().numpy() for column in (mean, squares / n_samples, low, high)]


def _weigh(values: Tensor, table: Table, samples: slice) -> Tensor:
    if table.sample_weights is None:
        return values
    return values * to_tensor(table.sample_weights[samples]).to(values.device).unsqueeze(-1)


@dataclass(frozen=True)
class ColumnStatistics:
    """How the network reads the columns of X, (n_features,) each, and their bins, which follow the columns.

    Columns that are zero in all training rows, as the network reads them, cannot be learned from: their weights are
    zeros. For a sparse table the network leaves them out, and ``columns`` are the others. For a dense table they stay,
    so that fits on other rows of the table have the same shapes and train in one stack.
    """

    mean: Array | None
    scale: Array | None
    is_read: Array | None = None  # of bool: which columns and bins may have other weights than zeros; None: all
    columns: Array | None = None  # (n_read,), where the others are left out
    edges: Array | None = None  # of the bins, see `find_bin_edges`

    @property
    def n_features(self) -> int:
        """The number of columns and bins, where some are not read."""
        return 0 if self.is_read is None else len(self.is_read)

    def make_rows(self, table: Table, like: torch.Tensor) -> TensorRows:
        """Return the samples of a table as training reads them, as tensors ``like`` this one."""
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
    """Return the mean and scale of the columns: the ``known`` ones if there is a scale, else those of the moments."""
    if known is not None and known[1] is not None:
        return ColumnStatistics(*known)
    if moments.n_samples == 0:
        return ColumnStatistics(None, np.ones(n_features))
    return ColumnStatistics(moments.calc_mean(), moments.calc_scale())


def find_bin_edges(table: Table, moments: Moments) -> Array | None:
    """Return the edges of the bins, (n_columns, N_BINS + 1) with NaN for columns without bins; None if none has any.

    Constant columns and those of two values have none. ``moments`` are those of the table.
    """
    columns = np.flatnonzero(moments.find_varying() & ~moments.find_two_valued()) if len(table) else np.empty(0, int)
    edges = np.full((table.X.shape[1], N_BINS + 1), np.nan)
    _, n_samples = locate(len(table))
    n_taken = MAX_EDGE_ROWS * len(table) // max(1, n_samples)
    is_long = n_samples > MAX_EDGE_ROWS
    samples = np.linspace(0, len(table) - 1, n_taken).astype(np.int64) if is_long else slice(None)
    values = to_tensor(table.get_features(samples))
    weights = (
        None
        if table.sample_weights is None
        else join_samples(to_tensor(table.sample_weights[samples]).to(values.device))
    )
    for column in columns:
        edges[column] = calc_edges(join_samples(values[:, column]), weights)
    return None if np.isnan(edges).all() else edges


def find_read_columns(
    statistics: ColumnStatistics, moments: Moments, table: Table, is_trained: Array | None
) -> ColumnStatistics:
    """Return the statistics with the columns to read: those that vary, and those that ``is_trained`` names."""
    is_read = np.concatenate([moments.find_varying(statistics.scale is not None), find_entered(statistics.edges)])
    if is_trained is not None:
        is_read |= is_trained
    if is_read.all():
        return statistics
    leaves_out = sparse.issparse(table.X) and statistics.edges is None
    return replace(statistics, is_read=is_read, columns=list_columns(is_read) if leaves_out else None)


def list_columns(is_read: Array) -> Array:
    """Return the numbers of the columns that a network reads: at least one, as a network needs an input."""
    return np.flatnonzero(is_read) if is_read.any() else np.array([0])
