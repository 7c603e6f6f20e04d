"""Raw columns to numbers: dates in parts, missing values filled and marked, categories one-hot."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from .._compat import check_feature_names_in, warn_user
from .arrays import Array, Features, to_host, to_tensor
from .categories import CodedRows, choose_categories, count_categories, describe_problem, find_codes
from .dataframe import DATE_PARTS, RawTable, to_raw_table
from .statistics import find_moments
from .summary import ColumnSummary, gather, merge_columns, merge_flags
from .table import Table

KINDS = ("category", "text", "date", "duration", "number", "object")  # a column is of the first one in any part


class TableEncoder(TransformerMixin, BaseEstimator):
    """Makes floats of a table as it is: numbers, dates, text, categories and missing values in any mixture.

    `ScratchNNClassifier` encodes its tables so. In a pipeline, the encoder does it for other estimators.

    - Numbers stay as they are, and booleans become 0 and 1.
    - Dates become seconds since 1970, and those of year, month, day of week (0 is Monday) and hour that vary. Durations
      become seconds.
    - Missing numbers are filled with the mean of their column, and a missing-value indicator says which they are.
    - Text and categories are encoded one-hot. Missing values are a category. The infrequent ones, those of a single
      sample and those beyond the 99 most frequent, share a feature, which unknown categories get, too. Where there is
      none, unknown categories get zeros.

    Parameters
    ----------
    categorical_features : array-like of {bool, int, str} of shape (n_features,) or (n_categorical_features,), \
            'from_dtype' or None, default='from_dtype'
        Columns of X that hold categories: a mask, their indices, or their names in a frame. With 'from_dtype' they are
        those of a categorical type, and those that hold text.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Names of the columns, if all are text.
    kinds_ : list of str
        What each column holds: 'number', 'date', 'duration', 'text' or 'category'.
    categories_ : list of lists of str or None
        The categories that have a feature of their own, for each column of text or categories. None stands for missing
        values.
    n_columns_ : int
        Number of columns that come out.

    Examples
    --------
    >>> import pandas as pd
    >>> from scratchnn import TableEncoder
    >>> frame = pd.DataFrame({"age": [20, None, 40, 60], "port": ["S", "C", "C", "S"]})
    >>> encoder = TableEncoder().fit(frame)
    >>> encoder.get_feature_names_out()
    array(['age', 'missingindicator_age', 'port_C', 'port_S'], dtype=object)
    >>> encoder.transform(frame)
    array([[20.,  0.,  0.,  1.],
           [40.,  1.,  1.,  0.],
           [40.,  0.,  1.,  0.],
           [60.,  0.,  0.,  1.]])
    """

    def __init__(self, categorical_features: Any = "from_dtype") -> None:
        self.categorical_features = categorical_features

    def fit(self, X: Any, y: Any = None) -> "TableEncoder":
        """Learn what to fill, the parts of dates, and the categories.

        Parameters
        ----------
        X : {array-like, frame} of shape (n_samples, n_features)
            Training data.
        y : None
            Ignored.

        Returns
        -------
        self : TableEncoder
            The fitted encoder.
        """
        table = self._read(X, reset=True)
        return self.fit_table(table, find_kinds(self.categorical_features, table))

    def transform(self, X: Any) -> Array:
        """Return the encoded table.

        Parameters
        ----------
        X : {array-like, frame} of shape (n_samples, n_features)
            Data with the columns of training.

        Returns
        -------
        encoded : ndarray of shape (n_samples, n_columns_)
            Floats, none of them missing.
        """
        check_is_fitted(self)
        encoded: Array = self.encode_table(self._read(X, reset=False))[:]
        return encoded

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the columns that come out.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features_in_,), default=None
            Names of the columns of X. By default those of training, or "x0", "x1", ...

        Returns
        -------
        names : ndarray of str of shape (n_columns_,)
            Numbers and parts of dates, then missing-value indicators, then categories.
        """
        check_is_fitted(self)
        names = check_feature_names_in(self, input_features)
        found = [f"{names[column]}_{part}" if part else f"{names[column]}" for column, part in self.numbers_]
        found += [f"missingindicator_{found[place]}" for place in self.missing_]
        for name, categories, width in zip(
            names[self.is_categorical], self.categories_, np.diff(self.starts_), strict=True
        ):
            found += [f"{name}_{category}" for category in categories]
            found += [f"{name}_infrequent_sklearn"] * int(width - len(categories))
        return np.array(found, object)

    @property
    def is_categorical(self) -> Array:
        """Which columns hold text or categories, (n_features_in_,) of bool."""
        return np.isin(self.kinds_, ("category", "text"))

    def fit_table(self, table: RawTable, kinds: list[str], rows: Any = slice(None)) -> "TableEncoder":
        """Learn from rows of a raw table, whose columns are of these ``kinds``."""
        self.kinds_ = kinds
        self.numbers_ = [
            (column, part)
            for column in np.flatnonzero(~self.is_categorical).tolist()
            for part in ("", *(DATE_PARTS if kinds[column] == "date" else ()))
        ]
        is_automatic = _is_automatic(self.categorical_features)
        numbers = self._read_numbers(table, "as its other values" if is_automatic else "as categorical_features says")
        codes = [table.read_codes(column) for column in np.flatnonzero(self.is_categorical)]
        counts = [count_categories(own[rows], values) for own, values in codes]
        are_numbers = [not any(isinstance(value, str) for value in values) for _, values in codes]
        summary = merge_columns(numbers[rows], counts, are_numbers)
        is_kept = np.array([not part for _, part in self.numbers_], bool)
        self.missing_ = np.flatnonzero((is_kept & summary.is_incomplete)[is_kept | (summary.low < summary.high)])
        is_kept |= summary.low < summary.high
        self.numbers_ = [each for each, whether in zip(self.numbers_, is_kept, strict=True) if whether]
        self.means_ = summary.means[is_kept]
        self.are_numbers_ = summary.are_numbers
        self.categories_ = [choose_categories(own) for own in summary.counts]
        widths = [len(own) + (len(own) < len(all_)) for own, all_ in zip(self.categories_, summary.counts, strict=True)]
        self.starts_ = len(self.numbers_) + len(self.missing_) + np.cumsum([0, *widths])
        self.n_columns_ = int(self.starts_[-1])
        self._warn_of_problems(table, summary, summary.n_values[is_kept] == 0)
        return self

    def encode_table(self, table: RawTable) -> Features:
        """Return the encoded rows of a raw table: `CodedRows` if it has categories, else an array."""
        numbers = self._read_numbers(table)
        is_missing = np.isnan(numbers)
        if len(self.missing_) or is_missing.any():
            filled = np.where(is_missing, self.means_.astype(numbers.dtype), numbers)
            numbers = np.concatenate([filled, is_missing[:, self.missing_]], 1)
        columns = np.flatnonzero(self.is_categorical)
        if not len(columns):
            return numbers
        codes = np.empty((table.shape[0], len(columns)), np.int8)
        for place, column in enumerate(columns):
            categories = self.categories_[place]
            has_other = self.starts_[place + 1] - self.starts_[place] > len(categories)
            own, values = table.read_codes(column)
            other = len(categories) if has_other else -1
            codes[:, place] = find_codes(values, categories, self.are_numbers_[place], other)[own]
        return CodedRows(numbers, codes, self.starts_)

    def _read(self, X: Any, reset: bool) -> RawTable:
        table = to_raw_table(X, True)
        if table is None:
            return RawTable(validate_data(self, X, dtype=np.float64, ensure_all_finite=False, reset=reset))
        validate_data(self, table.source, skip_check_array=True, reset=reset)
        check_array(np.broadcast_to(0.0, table.shape), estimator=self)
        return table

    def _read_numbers(self, table: RawTable, reason: str = "as in training") -> Array:
        """Return the numbers and parts of dates, (n_rows, n_numbers), NaN where they are missing."""
        is_number = np.array([self.kinds_[column] == "number" for column, _ in self.numbers_], bool)
        columns = [column for column, _ in self.numbers_]
        numbers = table.read_numbers(np.array(columns, int)[is_number].tolist(), reason=reason)
        if not is_number.all():
            values = np.empty((len(numbers), len(columns)))
            values[:, is_number] = numbers
            times = {columns[place]: self.kinds_[columns[place]] for place in np.flatnonzero(~is_number)}
            parts = {column: table.read_times(column, kind) for column, kind in times.items()}
            for place in np.flatnonzero(~is_number):
                column, part = self.numbers_[place]
                values[:, place] = parts[column][part]
            numbers = values
        check_finite(numbers, [f"{table.names[column]!r}" for column in columns])
        return numbers

    def _warn_of_problems(self, table: RawTable, summary: ColumnSummary, is_empty: Array) -> None:
        """Warn of columns that count for little or nothing, all at once."""
        problems = {
            column: "no values" for (column, part), none in zip(self.numbers_, is_empty, strict=True) if none and not part
        }
        for column, counts, categories in zip(
            np.flatnonzero(self.is_categorical), summary.counts, self.categories_, strict=True
        ):
            problem = describe_problem(counts, categories, self.kinds_[column] == "category")
            problems |= {} if problem is None else {int(column): problem}
        if problems:
            listed = ", ".join(f"{table.names[column]!r} ({problems[column]})" for column in sorted(problems))
            warn_user(
                f"Columns of X count for little or nothing: {listed}. Make numbers of text with pandas.to_numeric(..., "
                "errors='coerce'), and dates with pandas.to_datetime; leave out columns whose values are all different "
                "or missing. Text that is meant as categories may get the dtype 'category'."
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags


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
    is_raw = isinstance(X, RawTable)
    is_incomplete = not is_raw and has_missing(estimator, X)
    if reset:
        needs_encoder = merge_flags(is_raw or is_incomplete)
        estimator.encoder_ = _make_encoder(estimator, _to_raw_table(X), weights) if needs_encoder else None
    encoder: TableEncoder | None = estimator.encoder_
    encoded: Features = X
    if encoder is not None:
        encoded, is_incomplete = encoder.encode_table(_to_raw_table(X)), False
    elif is_raw:
        encoded = X.read_numbers(range(X.shape[1]))
        is_incomplete = has_missing(estimator, encoded)
    if training is not None:
        is_incomplete = merge_flags(is_incomplete)
    if is_incomplete:
        encoded = fill_missing(encoded, find_fill(estimator, training))
    if isinstance(X, torch.Tensor) and not isinstance(encoded, torch.Tensor):
        return torch.from_numpy(encoded[:]).to(X.device)
    return encoded


def _to_raw_table(X: Any) -> RawTable:
    if isinstance(X, RawTable):
        return X
    return RawTable(X.toarray() if sparse.issparse(X) else to_host(X))


def find_fill(estimator: Any, training: Table | None = None) -> Any:
    """Return what stands for missing numbers of columns that had none in training: one for each, or one for all."""
    if training is not None:
        return find_moments(training).mean
    mean = getattr(estimator, "mean_", None)
    return getattr(estimator, "_fill", 0.0) if mean is None else to_host(mean)


def _make_encoder(estimator: Any, table: RawTable, weights: Array | None) -> TableEncoder | None:
    """Return the encoder of a table of training rows, or None where all of them are numbers, and none is missing."""
    chosen = estimator.categorical_features
    kinds = find_kinds(chosen, table)
    rows = slice(None) if weights is None or not weights.any() else weights > 0
    if set(kinds) == {"number"} and not merge_flags(bool(np.isnan(table.read_numbers(range(len(kinds)))).any())):
        return None
    return TableEncoder(chosen).fit_table(table, kinds, rows)


def find_kinds(categorical_features: Any, table: RawTable) -> list[str]:
    """Return what the columns of all parts hold, as the parameter and their dtypes say. Without any value, it is text."""
    is_chosen = None if _is_automatic(categorical_features) else find_chosen(categorical_features, table)
    found = gather(table.find_kinds(is_chosen))
    kinds = [min(each, key=KINDS.index) for each in zip(*found, strict=True)]
    return ["text" if kind == "object" else kind for kind in kinds]


def find_chosen(categorical_features: Any, table: RawTable) -> Array:
    """Return which columns the parameter names as categories, (n_features,) of bool."""
    n_features = table.shape[1]
    is_categorical = np.zeros(n_features, bool)
    if categorical_features is None:
        return is_categorical
    chosen = np.asarray(categorical_features)
    if chosen.dtype.kind in "OUT" and chosen.ndim == 1:
        names, wanted = ([] if isinstance(table.source, np.ndarray) else table.names), set(chosen.tolist())
        unknown = [name for name in chosen.tolist() if name not in set(names)]
        places = [place for place, name in enumerate(names) if name in wanted]
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
    if sparse.issparse(X) or math.isfinite(X.sum()):  # sparse ones are checked, as their NaN are an error
        return False
    values = to_host(X)
    names = getattr(estimator, "feature_names_in_", range(values.shape[1]))
    check_finite(values, [repr(name) for name in names])
    return bool(values.size) and math.isnan(values.min())


@np.errstate(over="ignore", invalid="ignore")  # in the sum, by which most values are found to be finite
def check_finite(values: Array, names: Sequence[str]) -> None:
    """Raise ValueError if values are infinite. It names their columns, and how many there are."""
    if math.isfinite(values.sum()):
        return
    counts = np.isinf(values).sum(0)
    if counts.any():
        listed = ", ".join(f"{counts[place]} in column {names[place]}" for place in np.flatnonzero(counts))
        raise ValueError(
            f"Input X contains infinity or a value too large for {values.dtype!r}: {listed}. Make these values NaN if "
            "they stand for missing ones, or replace them by large numbers."
        )


def fill_missing(X: Features, fill: Any) -> Features:
    """Return a dense table with numbers, one for all columns or (n_features,), in the place of its NaN."""
    values = to_tensor(X)
    filled = torch.where(torch.isnan(values), torch.as_tensor(fill).to(values), values)
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
