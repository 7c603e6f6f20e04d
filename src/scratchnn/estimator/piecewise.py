"""Which columns are encoded piecewise linearly, and the edges of their bins."""

from typing import Any

import numpy as np
from scipy import sparse

from .bins import Bins
from .parameters import resolve_hidden_layer_sizes
from .scaling import Moments
from .tables import Array, Features, Table, to_host, to_tensor

N_BINS = 8  # of each column with more than two values
MAX_FEATURES = 100  # numeric_encoding="auto" encodes tables of up to so many columns
MAX_EDGE_ROWS = 100_000  # rows, evenly spaced, of which edges are found
COUNTS_IN_ALPHA = False  # whether the bins add to the length of the rows that alpha="auto" goes by


def uses_bins(estimator: Any, X: Features) -> bool:
    """Return whether a first call of `fit` or `partial_fit` is to encode the columns of X.

    Raises
    ------
    ValueError
        If ``numeric_encoding`` asks for bins of a sparse table.
    """
    if estimator.numeric_encoding == "piecewise":
        if sparse.issparse(X):
            raise ValueError(
                "numeric_encoding must be None or 'auto' for a sparse X, got 'piecewise': the bins of a zero are not "
                "zero. Choose one of these, or pass X.toarray()."
            )
        return True
    if estimator.numeric_encoding is None or sparse.issparse(X):
        return False
    return bool(resolve_hidden_layer_sizes(estimator.hidden_layer_sizes)) and X.shape[1] <= MAX_FEATURES


def find_bin_edges(table: Table, moments: Moments) -> Array | None:
    """Return the edges of the bins, (n_columns, N_BINS + 1) with NaN for columns without bins; None if none has any.

    Constant columns and those of two values have none. Each other column has ``N_BINS``, so that fits on other rows of
    the table have the same shapes and train in one stack. Edges coincide where there are fewer values than bins, or
    where many rows have the same value.
    """
    edges = np.full((table.X.shape[1], N_BINS + 1), np.nan)
    columns: Any = np.flatnonzero(moments.find_varying() & ~moments.find_two_valued()) if len(table) else []
    if not len(columns):
        return None
    samples = _find_samples(table)
    values = to_host(table.get_features(samples))
    weights = None if table.weights is None else table.weights[samples]
    for column in columns:
        edges[column] = calc_edges(values[:, column], weights)
    return None if np.isnan(edges).all() else edges


def calc_edges(values: Array, weights: Array | None = None) -> Array:
    """Return the edges for a column, (N_BINS + 1,): NaN if it has two values or fewer.

    They are all its values, if these are few, and else weighted quantiles, which are values, too: a row of weight k
    counts as k rows.
    """
    order = np.argsort(values, kind="stable") if weights is not None else None
    ordered = np.sort(values) if order is None else values[order]
    distinct = ordered[np.flatnonzero(np.diff(ordered, prepend=np.nan))]
    if len(distinct) <= 2:
        return np.full(N_BINS + 1, np.nan)
    if len(distinct) <= N_BINS + 1:
        return np.pad(distinct.astype(np.float64), (0, N_BINS + 1 - len(distinct)), mode="edge")
    ends = np.arange(1, len(ordered) + 1) if weights is None or order is None else np.cumsum(weights[order])
    parts = np.arange(N_BINS + 1) * (ends[-1] * (1 - 1e-12))  # the sums of equal weights may differ by rounding
    return np.asarray(ordered[np.searchsorted(ends * N_BINS, parts)], np.float64)


def _find_samples(table: Table) -> Any:
    if len(table) <= MAX_EDGE_ROWS:
        return slice(None)
    return np.linspace(0, len(table) - 1, MAX_EDGE_ROWS).astype(np.int64)


def calc_bin_variance(table: Table, edges: Array | None) -> float:
    """Return the variance of the encoded columns, summed, for ``alpha="auto"``: 0 unless ``COUNTS_IN_ALPHA``."""
    if edges is None or not COUNTS_IN_ALPHA:
        return 0.0
    values = to_tensor(table.get_features(_find_samples(table)))
    return float(Bins(edges, values.device).calc(values).var(0, unbiased=False).sum())
