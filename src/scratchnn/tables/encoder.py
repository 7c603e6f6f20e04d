"""Raw columns to numbers: categories one-hot, missing values filled and marked."""

import copy
import math
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils import assert_all_finite

from .arrays import Array, Features, to_host, to_tensor
from .dataframe import RawTable, is_frame, to_raw_table
from .statistics import find_moments
from .summary import gather, merge_categories, merge_flags, merge_numbers
from .table import Table

MIN_ROWS = 2  # categories of fewer rows have one column together
MAX_CATEGORIES = 100  # columns for one column of categories, at most: the most frequent, and one for all others


class TableEncoder(BaseEstimator):
    """Makes floats of a raw table: its numbers, marks of those missing, and a column for each category.

    Missing numbers are filled. A missing category is a category, and one that training had not is none.

    Parameters
    ----------
    is_categorical : ndarray of shape (n_features,)
        Which columns hold categories. The others hold numbers.

    Attributes
    ----------
    imputer_ : SimpleImputer or None
        Of the numbers; None where there are none.
    one_hot_ : OneHotEncoder or None
        Of the categories; None where there are none.
    n_columns_ : int
        Number of columns that come out.
    """

    def __init__(self, is_categorical: Array) -> None:
        self.is_categorical = is_categorical

    def fit(self, table: RawTable, weights: Array | None = None) -> "TableEncoder":
        """Learn what to fill, and the categories, from the rows of positive weight of a raw table."""
        rows = slice(None) if weights is None or not weights.any() else weights > 0
        numbers, categories = (np.flatnonzero(mask) for mask in (~self.is_categorical, self.is_categorical))
        # Whatever `set_config` says of outputs, they are arrays here.
        self.imputer_ = self.one_hot_ = None
        if len(numbers):
            imputer = SimpleImputer(add_indicator=True, keep_empty_features=True)
            values = table.read_numbers(numbers, rows)
            self.imputer_ = imputer.set_output(transform="default").fit(merge_numbers(values))
            if merge_flags(weights is not None):
                self.imputer_.statistics_ = _calc_means(
                    values, np.ones(len(values)) if weights is None else weights[rows]
                )
        if len(categories):
            one_hot = OneHotEncoder(
                handle_unknown="ignore", min_frequency=MIN_ROWS, max_categories=MAX_CATEGORIES, sparse_output=False
            )
            texts = merge_categories(table.read_categories(categories, rows))
            self.one_hot_ = one_hot.set_output(transform="default").fit(texts)
        self.n_columns_ = len(self.get_feature_names_out())
        return self

    def transform(self, table: RawTable) -> Array:
        """Return the floats, (n_rows, n_columns_)."""
        parts = []
        if self.imputer_ is not None:
            numbers = table.read_numbers(np.flatnonzero(~self.is_categorical))
            parts.append(self.imputer_.transform(numbers))
        if self.one_hot_ is not None:
            parts.append(self.one_hot_.transform(table.read_categories(np.flatnonzero(self.is_categorical))))
        return np.concatenate(parts, 1) if len(parts) > 1 else np.asarray(parts[0])

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the columns that come out, those of the raw columns first: "x0", ... without names."""
        names = name_features(input_features, len(self.is_categorical))
        numbers, categories = names[~self.is_categorical], names[self.is_categorical]
        parts = [[] if self.imputer_ is None else self.imputer_.get_feature_names_out(numbers)]
        parts += [[] if self.one_hot_ is None else self.one_hot_.get_feature_names_out(categories)]
        return np.concatenate(parts).astype(object)

    def with_means(self, means: Array) -> "TableEncoder":
        """Return an encoder that fills columns of which no value was missing in training with ``means``."""
        if self.imputer_ is None:
            return self
        encoder = copy.copy(self)
        encoder.imputer_ = copy.copy(self.imputer_)
        known = self.imputer_.statistics_
        means, is_complete = (values[: len(known)] for values in (means, self.indicators < 0))
        encoder.imputer_.statistics_ = np.where(is_complete, means, known)
        return encoder

    @property
    def indicators(self) -> Array:
        """The index of the missing-value indicator of each column that comes out, (n_columns_,), or -1."""
        indicators = np.full(self.n_columns_, -1)
        if self.imputer_ is not None:
            marked = self.imputer_.indicator_.features_
            indicators[marked] = len(self.imputer_.statistics_) + np.arange(len(marked))
        return indicators


def find_raw_table(estimator: Any, X: Any, *, reset: bool) -> RawTable | None:
    """Return X as a raw table, if it is to be encoded column by column; None where scikit-learn makes floats of it.

    With ``reset``, X has the rows to train on, and ``categorical_features`` counts, else what the encoder learned.

    Raises
    ------
    ValueError
        If categories are named for a sparse table.
    """
    chosen = estimator.categorical_features
    names_categories = (chosen is not None and not _is_automatic(chosen)) if reset else has_categories(estimator)
    if names_categories and sparse.issparse(X):
        raise ValueError(
            "categorical_features must be None or 'from_dtype' for a sparse X, got "
            f"{chosen!r}. Encode the categories with sklearn's OneHotEncoder, which returns a "
            "sparse table."
        )
    return to_raw_table(X, names_categories)


@np.errstate(over="ignore", invalid="ignore")  # in sums by which values are found to be finite
def encode(
    estimator: Any,
    X: Features | RawTable,
    *,
    weights: Array | None = None,
    reset: bool = False,
    training: Table | None = None,
) -> Features:
    """Return the rows as floats, none of them missing.

    With ``reset``, an encoder is made where the rows, which are then those of training, need one: for categories or
    missing values. Without one, missing values are filled with the means of ``training``, or of the rows trained on.

    Raises
    ------
    ValueError
        If there are infinite values.
    TypeError
        If a raw column has values of a type that is neither a number nor a category.
    """
    table = X if isinstance(X, RawTable) else None
    is_incomplete = table is None and has_missing(estimator, X)
    if reset:
        needs_encoder = merge_flags(table is not None or is_incomplete)
        estimator.encoder_ = _make_encoder(estimator, _to_raw_table(X), weights) if needs_encoder else None
    encoder: TableEncoder | None = estimator.encoder_
    encoded: Features = X
    if encoder is not None:
        encoded = encoder.transform(_to_raw_table(X))
        is_incomplete = has_missing(estimator, encoded)
    elif table is not None:
        encoded = table.read_numbers(range(table.shape[1]))
        is_incomplete = has_missing(estimator, encoded)
    if training is not None:
        is_incomplete = merge_flags(is_incomplete)
    if is_incomplete:
        encoded = fill_missing(encoded, find_fill(estimator, training))
    if isinstance(X, torch.Tensor) and isinstance(encoded, np.ndarray):
        return torch.from_numpy(encoded).to(X.device)
    return encoded


def _to_raw_table(X: Any) -> RawTable:
    if isinstance(X, RawTable):
        return X
    return RawTable(X.toarray() if sparse.issparse(X) else to_host(X))


def find_fill(estimator: Any, training: Table | None = None) -> Any:
    """Return what stands for missing numbers of columns that had none in training: one for each, or one for all."""
    if training is not None:
        return find_moments(training).mean
    fill = getattr(estimator, "_fill", None)
    return np.broadcast_to(to_host(estimator.mean_) if fill is None else fill[0], count_columns(estimator))


def _make_encoder(estimator: Any, table: RawTable, weights: Array | None) -> TableEncoder | None:
    """Return the encoder of a table of training rows, or None where all of them are numbers, and none is missing."""
    is_categorical = np.any(gather(find_categories(estimator.categorical_features, table)), axis=0)
    if not is_categorical.any() and not merge_flags(bool(np.isnan(table.read_numbers(range(table.shape[1]))).any())):
        return None
    return TableEncoder(is_categorical).fit(table, weights)


def _calc_means(values: Array, weights: Array) -> Array:
    """Return the weighted means of the values that are there, (n_columns,), of all parts. Without any, it is 0."""
    is_there = ~np.isnan(values)
    sums = weights @ np.where(is_there, values, 0.0), weights @ is_there
    total, weight = np.sum(gather(np.stack(sums)), axis=0)
    return np.asarray(total / np.where(weight > 0, weight, 1.0))


def find_categories(categorical_features: Any, table: RawTable) -> Array:
    """Return which columns hold categories, (n_features,) of bool, as the parameter says."""
    n_features = table.shape[1]
    if _is_automatic(categorical_features):
        return np.array([table.holds_categories(number) for number in range(n_features)], bool)
    is_categorical = np.zeros(n_features, bool)
    if categorical_features is None:
        return is_categorical
    chosen = np.asarray(categorical_features)
    names = list(table.source.columns) if is_frame(table.source) else []
    if chosen.dtype.kind in "OUT" and chosen.ndim == 1:
        unknown = [name for name in chosen.tolist() if name not in names]
        places = [place for place, name in enumerate(names) if name in chosen.tolist()]
    elif chosen.dtype.kind == "b" or chosen.ndim != 1:
        unknown = [] if chosen.shape == (n_features,) else [chosen.tolist()]
        places = np.flatnonzero(chosen).tolist()
    else:
        unknown = [place for place in chosen.tolist() if place != int(place) or not 0 <= place < n_features]
        places = chosen.tolist()
    if unknown:
        raise ValueError(
            f"categorical_features must be names of columns of a frame, their numbers from 0 to {n_features - 1}, or a "
            f"mask of {n_features} booleans, got {unknown[0]!r}. Name columns that X has, or leave it 'from_dtype'."
        )
    is_categorical[np.asarray(places, int)] = True
    return is_categorical


def has_missing(estimator: Any, X: Features) -> bool:
    """Return whether there are NaN among the values of a dense table. A finite sum proves that there are none.

    Raises
    ------
    ValueError
        If there are infinite values.
    """
    if sparse.issparse(X):  # checked, as its NaN are an error
        return False
    if math.isfinite(X.sum()):
        return False
    values = to_host(X)
    assert_all_finite(values, allow_nan=True, estimator_name=type(estimator).__name__, input_name="X")
    return bool(values.size) and math.isnan(values.min())


def fill_missing(X: Features, fill: Any) -> Features:
    """Return a dense table with numbers, one for all columns or (n_features,), in the place of its NaN."""
    values = to_tensor(X)
    stand_ins = to_tensor(np.asarray(fill, np.float64)).to(values)  # whatever PyTorch's default type is
    filled = torch.where(torch.isnan(values), stand_ins, values)
    return filled if isinstance(X, torch.Tensor) else filled.numpy()


def has_categories(estimator: Any) -> bool:
    """Return whether a fitted estimator reads categories."""
    return estimator.encoder_ is not None and bool(estimator.encoder_.is_categorical.any())


def count_columns(estimator: Any) -> int:
    """Return how many columns the rows of a fitted estimator have, encoded."""
    return int(estimator.n_features_in_ if estimator.encoder_ is None else estimator.encoder_.n_columns_)


def name_features(names: Any, n_features: int) -> Array:
    """Return the names of columns, (n_features,), as scikit-learn names those that have none."""
    return np.array([f"x{number}" for number in range(n_features)] if names is None else names, object)


def _is_automatic(categorical_features: Any) -> bool:
    return isinstance(categorical_features, str) and categorical_features == "from_dtype"
