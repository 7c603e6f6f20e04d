"""Raw columns to numbers: dates in parts, missing values filled and marked, categories one-hot."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse

from .._compat import warn_user
from .arrays import Array, Features, to_host, to_tensor
from .categories import CodedRows, choose_categories, count_categories, describe_problem, find_codes
from .dataframe import DATE_PARTS, IN_TRAINING, TEXT_KINDS, UNNAMED, RawTable, to_raw_table
from .statistics import find_moments
from .summary import gather, merge_columns, merge_flags
from .table import Table

KINDS = ("category", "text", "date", "duration", "number", "object")  # a column is of the first one in any part


class ColumnEncoder:
    """Makes floats of raw columns: numbers and parts of dates, missing-value indicators, and one-hot categories.

    ``numbers`` has a raw column and a part of the date, or "", for each number; ``means``, (n_numbers,), fill them, and
    those of the indices ``missing`` have indicators. ``categories`` has those with a feature of their own, None for
    missing values, for each column of text or categories, and ``are_numbers`` whether they are numbers. ``starts`` are
    those of `CodedRows`: columns with infrequent categories have one feature more than ``categories``.
    """

    def __init__(self, table: RawTable, kinds: list[str], weights: Array | None = None) -> None:
        rows = slice(None) if weights is None or not weights.any() else weights > 0
        self.kinds = kinds
        self.categorical = [column for column, kind in enumerate(kinds) if kind in TEXT_KINDS]
        self.numbers = [
            (column, part)
            for column, kind in enumerate(kinds)
            if kind not in TEXT_KINDS
            for part in ("", *(DATE_PARTS if kind == "date" else ()))
        ]
        codes = [table.read_codes(column) for column in self.categorical]
        counts = [count_categories(own[rows], values) for own, values in codes]
        are_numbers = [not any(isinstance(value, str) for value in values) for _, values in codes]
        own_weights = None if weights is None else weights[rows]
        summary = merge_columns(self._read_numbers(table, UNNAMED)[rows], counts, are_numbers, own_weights)
        found = zip(self.numbers, summary.n_values, strict=True)
        problems = {column: "no values" for (column, part), n_values in found if not part and not n_values}
        is_whole = np.array([not part for _, part in self.numbers], bool)
        is_kept = is_whole | (summary.low < summary.high)
        self.numbers = [each for each, whether in zip(self.numbers, is_kept, strict=True) if whether]
        self.means = summary.means[is_kept]
        self.missing = np.flatnonzero((is_whole & summary.is_incomplete)[is_kept])
        self.are_numbers = summary.are_numbers
        self.categories = [choose_categories(own) for own in summary.counts]
        widths = [len(own) + (len(own) < len(all_)) for own, all_ in zip(self.categories, summary.counts, strict=True)]
        self.starts = len(self.numbers) + len(self.missing) + np.cumsum([0, *widths])
        for column, own, categories in zip(self.categorical, summary.counts, self.categories, strict=True):
            problem = describe_problem(own, categories, kinds[column] == "category")
            if problem is not None:
                problems[column] = problem
        warn_of_problems(problems, table.names)

    def name_columns(self, names: Array) -> Array:
        """Return the names of the columns that come out, from those of the raw columns."""
        found = [f"{names[column]}_{part}" if part else f"{names[column]}" for column, part in self.numbers]
        found += [f"missingindicator_{found[place]}" for place in self.missing]
        for column, categories, width in zip(self.categorical, self.categories, np.diff(self.starts), strict=True):
            found += [f"{names[column]}_{category}" for category in categories]
            found += [f"{names[column]}_infrequent_sklearn"] * int(width - len(categories))
        return np.array(found, object)

    @property
    def indicators(self) -> Array:
        """The index of the missing-value indicator of each column that comes out, or -1."""
        indicators = np.full(self.starts[-1], -1)
        indicators[self.missing] = len(self.numbers) + np.arange(len(self.missing))
        return indicators

    def encode(self, table: RawTable) -> Features:
        """Return the encoded rows of a raw table: `CodedRows` if it has categories, else an array."""
        numbers = self._read_numbers(table)
        is_missing = np.isnan(numbers)
        if len(self.missing) or is_missing.any():
            filled = np.where(is_missing, self.means.astype(numbers.dtype), numbers)
            numbers = np.concatenate([filled, is_missing[:, self.missing]], 1)
        if not self.categories:
            return numbers
        codes = np.empty((table.shape[0], len(self.categories)), np.int8)
        widths = np.diff(self.starts)
        for place, (column, categories) in enumerate(zip(self.categorical, self.categories, strict=True)):
            own, values = table.read_codes(column)
            other = len(categories) if widths[place] > len(categories) else -1
            codes[:, place] = find_codes(values, categories, self.are_numbers[place], other)[own]
        return CodedRows(numbers, codes, self.starts)

    def _read_numbers(self, table: RawTable, reason: str = IN_TRAINING) -> Array:
        """Return the numbers and parts of dates, (n_rows, n_numbers), NaN where they are missing."""
        columns = np.array([column for column, _ in self.numbers], int)
        is_time = np.array([self.kinds[column] != "number" for column in columns], bool)
        numbers = table.read_numbers(columns[~is_time].tolist(), reason)
        if is_time.any():
            plain, numbers = numbers, np.empty((table.shape[0], len(columns)))
            numbers[:, ~is_time] = plain
            times = {column: table.read_times(column, self.kinds[column]) for column in set(columns[is_time].tolist())}
            for place in np.flatnonzero(is_time):
                column, part = self.numbers[place]
                numbers[:, place] = times[column][part]
        check_finite(numbers, [table.names[column] for column in columns])
        return numbers

    def with_means(self, means: Array) -> "ColumnEncoder":
        """Return an encoder that fills columns of which no value was missing in training with ``means``."""
        encoder = copy.copy(self)
        is_complete = self.indicators[: len(self.numbers)] < 0
        encoder.means = np.where(is_complete, means[: len(self.numbers)], self.means)
        return encoder


def warn_of_problems(problems: dict[int, str], names: Sequence[Any]) -> None:
    """Warn of columns that count for little or nothing, all at once."""
    if problems:
        listed = ", ".join(f"{names[column]!r} ({problems[column]})" for column in sorted(problems))
        warn_user(
            f"Columns of X count for little or nothing: {listed}. Make numbers of text with pandas.to_numeric(..., "
            "errors='coerce'), and dates with pandas.to_datetime; leave out columns whose values are all different "
            "or missing. Text that is meant as categories may get the dtype 'category'."
        )


def find_raw_table(estimator: Any, X: Any, *, reset: bool) -> RawTable | None:
    """Return X as a raw table, if it is to be encoded column by column; None where scikit-learn makes floats of it.

    With ``reset``, X has the rows to train on, and ``categorical_features`` counts, else what the encoder learned.

    Raises ValueError if categories are named for a sparse table.
    """
    chosen = estimator.categorical_features
    names_categories = (chosen is not None and not _is_automatic(chosen)) if reset else has_categories(estimator)
    if names_categories and sparse.issparse(X):
        if not reset:
            raise ValueError(
                "X must be dense, as in training, where it had categories, got a sparse X. Pass X.toarray()."
            )
        raise ValueError(
            f"categorical_features must be None or 'from_dtype' for a sparse X, got {chosen!r}. Encode the categories "
            "with sklearn's OneHotEncoder, which returns a sparse table."
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

    Raises ValueError if there are infinite values; TypeError if a raw column has values of a type that is neither a
    number nor a category.
    """
    is_raw = isinstance(X, RawTable)
    is_incomplete = not is_raw and has_missing(estimator, X)
    if reset:
        needs_encoder = merge_flags(is_raw or is_incomplete)
        estimator.encoder_ = _make_encoder(estimator, _to_raw_table(X), weights) if needs_encoder else None
    encoder: ColumnEncoder | None = estimator.encoder_
    encoded: Features = X
    if encoder is not None:
        encoded, is_incomplete = encoder.encode(_to_raw_table(X)), False
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
    fill = getattr(estimator, "_fill", None)
    return np.broadcast_to(to_host(estimator.mean_) if fill is None else fill[0], count_columns(estimator))


def _make_encoder(estimator: Any, table: RawTable, weights: Array | None) -> ColumnEncoder | None:
    """Return the encoder of a table of training rows, or None where all of them are numbers, and none is missing."""
    table.names = getattr(estimator, "feature_names_in_", table.names)
    kinds = find_kinds(estimator.categorical_features, table)
    if set(kinds) == {"number"}:
        numbers = table.read_numbers(range(len(kinds)), UNNAMED)
        if not merge_flags(bool(np.isnan(numbers).any())):
            return None
    return ColumnEncoder(table, kinds, weights)


def find_kinds(categorical_features: Any, table: RawTable) -> list[str]:
    """Return what the columns of all parts hold, as the parameter and dtypes say: text where there is no value."""
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
        known = set(names)
        unknown = [name for name in chosen.tolist() if name not in known]
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

    Raises ValueError if there are infinite values.
    """
    if sparse.issparse(X) or math.isfinite(X.sum()):  # sparse ones are checked, as their NaN are an error
        return False
    values = to_host(X)
    check_finite(values, getattr(estimator, "feature_names_in_", range(values.shape[1])))
    return math.isnan(values.min())


@np.errstate(over="ignore", invalid="ignore")  # in the sum, by which most values are found to be finite
def check_finite(values: Array, names: Sequence[Any]) -> None:
    """Raise ValueError if values are infinite. It names their columns, and how many there are."""
    if math.isfinite(values.sum()):
        return
    counts = np.isinf(values).sum(0)
    if counts.any():
        listed = ", ".join(f"{counts[place]} in column {names[place]!r}" for place in np.flatnonzero(counts).tolist())
        raise ValueError(
            f"Input X contains infinity or a value too large for {values.dtype!r}: {listed}. Make these values NaN if "
            "they stand for missing ones, or replace them by large numbers."
        )


def fill_missing(X: Features, fill: Any) -> Features:
    """Return a dense table with numbers, one for all columns or (n_features,), in the place of its NaN."""
    values = to_tensor(X)
    stand_ins = to_tensor(np.asarray(fill, np.float64)).to(values)  # whatever PyTorch's default type is
    filled = torch.where(torch.isnan(values), stand_ins, values)
    return filled if isinstance(X, torch.Tensor) else filled.numpy()


def has_categories(estimator: Any) -> bool:
    """Return whether a fitted estimator reads categories."""
    return estimator.encoder_ is not None and len(estimator.encoder_.categories) > 0


def count_columns(estimator: Any) -> int:
    """Return how many columns the rows of a fitted estimator have, encoded."""
    return int(estimator.n_features_in_ if estimator.encoder_ is None else estimator.encoder_.starts[-1])


def name_columns(estimator: Any) -> Array | None:
    """Return the names of the encoded columns of an estimator, or None if they are numbers without names."""
    names = getattr(estimator, "feature_names_in_", None)
    if estimator.encoder_ is None:
        return names
    encoded: Array = estimator.encoder_.name_columns(name_features(names, estimator.n_features_in_))
    return encoded


def name_features(names: Any, n_features: int) -> Array:
    """Return the names of columns, (n_features,), as scikit-learn names those that have none."""
    return np.array([f"x{number}" for number in range(n_features)] if names is None else names, object)


def _is_automatic(categorical_features: Any) -> bool:
    return isinstance(categorical_features, str) and categorical_features == "from_dtype"
