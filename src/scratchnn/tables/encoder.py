"""The encoding of raw columns as numbers: parts of dates, filled missing values and indicators, one-hot categories."""

import copy
import math
from collections.abc import Sequence
from functools import reduce
from itertools import compress
from operator import add
from typing import Any

import numpy as np
import torch
from scipy import sparse

from .._compat import warn_user
from .arrays import Array, Features, to_host, to_tensor
from .categories import CodedRows, choose_categories, count_categories, describe_problem, find_codes
from .dataframe import IN_TRAINING, PARTS, TEXT_KINDS, UNNAMED, RawTable, to_raw_table
from .statistics import find_moments
from .summary import gather, merge_flags
from .table import Table

MIN_PREDICTED = 50  # samples: in fewer, all categories of a column may be infrequent by chance


class ColumnEncoder:
    """Encodes raw columns as floats: numbers and parts of dates, missing-value indicators, and one-hot categories.

    ``numbers`` are pairs of a raw column and a part of a date, or "" for the whole value. ``means``, (n_numbers,), fill
    missing values, and the numbers with the indices ``missing`` have indicators. For each column of text or categories,
    ``categories`` are those with a feature of their own (None for missing values), and ``are_numbers`` says whether
    they are numbers. Infrequent categories share another feature. ``starts`` is as in `CodedRows`.
    """

    def __init__(self, table: RawTable, kinds: list[str], weights: Array | None = None) -> None:
        rows = slice(None) if weights is None or not weights.any() else weights > 0
        self.kinds = kinds
        widths, problems = self._learn_categories(table, rows)
        self.numbers = [(column, part) for column, kind in enumerate(kinds) for part in PARTS.get(kind, ())]
        numbers = self._read_numbers(table, UNNAMED)[rows]
        problems |= self._learn_numbers(numbers, None if weights is None else weights[rows])
        self.starts = len(self.numbers) + len(self.missing) + np.cumsum([0, *widths])
        warn_of_problems(problems, table.names)

    def _learn_categories(self, table: RawTable, rows: slice | Array) -> tuple[list[int], dict[int, str | None]]:
        """Set the categories of all parts, in place. Return the number of features and the problem of each column."""
        self.categorical = [column for column, kind in enumerate(self.kinds) if kind in TEXT_KINDS]
        codes = [table.read_codes(column) for column in self.categorical]
        are_numbers = [not any(isinstance(value, str) for value in values) for _, values in codes]
        self.are_numbers = [all(parts) for parts in zip(*gather(are_numbers), strict=True)]
        own_counts = [count_categories(own[rows], values) for own, values in codes]
        counts = [reduce(add, parts) for parts in zip(*gather(own_counts), strict=True)]
        self.categories = [choose_categories(own) for own in counts]
        problems, widths = {}, []
        for column, own, categories in zip(self.categorical, counts, self.categories, strict=True):
            problems[column] = describe_problem(own, categories, self.kinds[column] == "category")
            widths.append(len(categories) + (len(categories) < len(own)))
        return widths, problems

    def _learn_numbers(self, numbers: Array, weights: Array | None) -> dict[int, str | None]:
        """Set the numbers that are kept, their means and indicators, in place. Return the problem of each column.

        ``numbers`` are (n_samples, n_numbers), NaN where they are missing. Parts of dates are kept if they vary.
        """
        is_there = ~np.isnan(numbers)
        present, n_values = np.where(is_there, numbers, 0), is_there.sum(0)
        sums, totals = present.sum(0, dtype=np.float64), n_values
        if weights is not None:
            sums, totals = weights @ present, weights @ is_there
        own = np.stack([len(numbers) - n_values, n_values, sums, totals])
        n_missing, n_values, sums, totals = np.sum(gather(own), axis=0)
        low = np.min(gather(np.fmin.reduce(numbers, initial=np.inf)), 0)
        high = np.max(gather(np.fmax.reduce(numbers, initial=-np.inf)), 0)
        is_whole = np.array([not part for _, part in self.numbers], bool)
        is_kept = is_whole | (low < high)
        wholes = [column for column, part in self.numbers if not part]
        self.numbers = list(compress(self.numbers, is_kept))
        self.means = (sums / np.where(totals > 0, totals, 1.0))[is_kept]
        self.missing = np.flatnonzero((is_whole & (n_missing > 0))[is_kept])
        return {column: None if n else "no values" for column, n in zip(wholes, n_values[is_whole], strict=True)}

    def name_columns(self, names: Array) -> Array:
        """Return the names of the encoded columns, given the ``names`` of the raw columns."""
        found = [f"{names[column]}_{part}" if part else f"{names[column]}" for column, part in self.numbers]
        found += [f"missingindicator_{found[place]}" for place in self.missing]
        for column, categories, width in zip(self.categorical, self.categories, np.diff(self.starts), strict=True):
            found += [f"{names[column]}_{category}" for category in categories]
            found += [f"{names[column]}_infrequent_sklearn"] * int(width - len(categories))
        return np.array(found, object)

    @property
    def indicators(self) -> Array:
        """The index of the missing-value indicator of each encoded column, or -1."""
        indicators = np.full(self.starts[-1], -1)
        indicators[self.missing] = len(self.numbers) + np.arange(len(self.missing))
        return indicators

    def encode(self, table: RawTable) -> Features:
        """Return the rows of a raw table as `CodedRows` if it has categories, and otherwise as an array."""
        numbers = self._read_numbers(table)
        is_missing = np.isnan(numbers)
        if len(self.missing) or is_missing.any():
            filled = np.where(is_missing, self.means.astype(numbers.dtype), numbers)
            numbers = np.concatenate([filled, is_missing[:, self.missing]], 1)
        if not self.categories:
            return numbers
        codes = np.empty((table.shape[0], len(self.categories)), np.int8)
        others = self._list_others()
        for place, (column, categories) in enumerate(zip(self.categorical, self.categories, strict=True)):
            own, values = table.read_codes(column)
            codes[:, place] = find_codes(values, categories, self.are_numbers[place], others[place])[own]
        return CodedRows(numbers, codes, self.starts)

    def _list_others(self) -> list[int]:
        """Return the code of infrequent and unknown categories in each column of categories."""
        counts = map(len, self.categories)
        return [n if width > n else -1 for n, width in zip(counts, np.diff(self.starts), strict=True)]

    def warn_of_unknown(self, codes: Array, names: Sequence[Any]) -> None:
        """Warn of columns whose categories are all infrequent or unknown."""
        is_unknown = (codes == self._list_others()).all(0) & np.array([len(each) > 0 for each in self.categories])
        unknown = [repr(names[column]) for column in compress(self.categorical, is_unknown)]
        if unknown:
            warn_user(
                f"Columns of X have none of the categories that training knows: {', '.join(unknown)}. Compare their "
                "values with feature_names_encoded_: spelling, upper case and spaces count."
            )

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
        """Return an encoder that fills the columns without missing values in training with ``means``."""
        encoder = copy.copy(self)
        is_complete = self.indicators[: len(self.numbers)] < 0
        encoder.means = np.where(is_complete, means[: len(self.numbers)], self.means)
        return encoder


def warn_of_problems(problems: dict[int, str | None], names: Sequence[Any]) -> None:
    """Warn once of all columns that count for little or nothing."""
    listed = [f"{names[column]!r} ({problem})" for column, problem in sorted(problems.items()) if problem is not None]
    if listed:
        warn_user(
            f"Columns of X count for little or nothing: {', '.join(listed)}. Convert text to numbers with "
            "pandas.to_numeric(..., errors='coerce'), or to dates with pandas.to_datetime; leave out columns whose "
            "values are all different or missing. Text that is meant as categories may get the dtype 'category'."
        )


def find_raw_table(estimator: Any, X: Any, *, reset: bool) -> RawTable | None:
    """Return X as a raw table if its columns need an encoder; None if scikit-learn converts it to floats.

    With ``reset``, X has the training rows, and ``categorical_features`` names the categories. Otherwise the encoder
    has learned them.

    Raises ValueError if categories are named for a sparse table.
    """
    chosen = estimator.categorical_features
    names_categories = not (chosen is None or isinstance(chosen, str)) if reset else has_categories(estimator)
    if names_categories and sparse.issparse(X):
        raise ValueError(
            f"categorical_features must be None or 'from_dtype' for a sparse X, got {chosen!r}. Encode the categories "
            "with sklearn's OneHotEncoder, which returns a sparse table."
            if reset
            else "X must be dense, as in training, where it had categories, got a sparse X. Pass X.toarray()."
        )
    return to_raw_table(X, names_categories)


@np.errstate(over="ignore", invalid="ignore")  # in the sums that show whether values are finite
def encode(
    estimator: Any,
    X: Features | RawTable,
    *,
    weights: Array | None = None,
    reset: bool = False,
    training: Table | None = None,
) -> Features:
    """Return the rows as floats, none of them missing.

    With ``reset``, X has the training rows, and the estimator gets an encoder if they have categories or missing
    values. Without an encoder, missing values are filled with the means of ``training``, or of the training rows.

    Raises ValueError if there are infinite values; TypeError if a raw column has values that are neither numbers nor
    categories.
    """
    is_raw = isinstance(X, RawTable)
    is_incomplete = not is_raw and has_missing(estimator, X)
    if reset:
        needs_encoder = merge_flags(is_raw or is_incomplete)
        estimator.encoder_ = _make_encoder(estimator, _to_raw_table(estimator, X), weights) if needs_encoder else None
    if estimator.encoder_ is not None:
        table = _to_raw_table(estimator, X)
        encoded: Features = estimator.encoder_.encode(table)
        if isinstance(encoded, CodedRows) and not reset and table.shape[0] >= MIN_PREDICTED:
            estimator.encoder_.warn_of_unknown(encoded.codes, table.names)
        return torch.from_numpy(encoded[:]).to(X.device) if isinstance(X, torch.Tensor) else encoded
    if is_raw:
        X = X.read_numbers(range(X.shape[1]))
        is_incomplete = has_missing(estimator, X)
    if training is not None:
        is_incomplete = merge_flags(is_incomplete)
    return fill_missing(X, find_fill(estimator, training)) if is_incomplete else X


def _to_raw_table(estimator: Any, X: Any) -> RawTable:
    table = X if isinstance(X, RawTable) else RawTable(X.toarray() if sparse.issparse(X) else to_host(X))
    table.names = getattr(estimator, "feature_names_in_", table.names)
    return table


def find_fill(estimator: Any, training: Table | None = None) -> Any:
    """Return what replaces missing numbers of columns without missing values in training, (n_columns,)."""
    if training is not None:
        return find_moments(training).mean
    fill = getattr(estimator, "_fill", None)
    return np.broadcast_to(to_host(estimator.mean_) if fill is None else fill[0], count_columns(estimator))


def _make_encoder(estimator: Any, table: RawTable, weights: Array | None) -> ColumnEncoder | None:
    """Return the encoder of a table of training rows; None if all columns are numbers, and none is missing."""
    kinds = table.find_kinds(estimator.categorical_features)
    if set(kinds) == {"number"}:
        numbers = table.read_numbers(range(len(kinds)), UNNAMED)
        if not merge_flags(bool(np.isnan(numbers).any())):
            return None
    return ColumnEncoder(table, kinds, weights)


def has_missing(estimator: Any, X: Features) -> bool:
    """Return whether a dense table has missing values. A finite sum proves that it has none.

    Raises ValueError if there are infinite values.
    """
    if sparse.issparse(X) or math.isfinite(X.sum()):  # NaN in a sparse table were an error before
        return False
    values = to_host(X)
    check_finite(values, getattr(estimator, "feature_names_in_", range(values.shape[1])))
    return math.isnan(values.min())


@np.errstate(over="ignore", invalid="ignore")  # in the sum
def check_finite(values: Array, names: Sequence[Any]) -> None:
    """Raise ValueError if values are infinite. The message has their columns and their counts."""
    if math.isfinite(values.sum()):
        return
    counts = np.isinf(values).sum(0)
    if counts.any():
        listed = ", ".join(f"{counts[place]} in column {names[place]!r}" for place in np.flatnonzero(counts).tolist())
        raise ValueError(
            f"Input X contains infinity or a value too large for {values.dtype!r}: {listed}. Make these values NaN if "
            "they represent missing ones, or replace them by large numbers."
        )


def fill_missing(X: Features, fill: Any) -> Features:
    """Return a dense table with the numbers of ``fill``, (n_features,), in place of NaN."""
    values = to_tensor(X)
    fill = to_tensor(np.asarray(fill, np.float64)).to(values)  # independent of PyTorch's default dtype
    filled = torch.where(torch.isnan(values), fill, values)
    return filled if isinstance(X, torch.Tensor) else filled.numpy()


def has_categories(estimator: Any) -> bool:
    """Return whether a fitted estimator encodes categories."""
    return estimator.encoder_ is not None and len(estimator.encoder_.categories) > 0


def count_columns(estimator: Any) -> int:
    """Return the number of encoded columns of a fitted estimator."""
    return int(estimator.n_features_in_ if estimator.encoder_ is None else estimator.encoder_.starts[-1])


def name_columns(estimator: Any) -> Array | None:
    """Return the names of the encoded columns of an estimator; None if X has no names and needs no encoder."""
    names = getattr(estimator, "feature_names_in_", None)
    if estimator.encoder_ is None:
        return names
    encoded: Array = estimator.encoder_.name_columns(name_features(names, estimator.n_features_in_))
    return encoded


def name_features(names: Any, n_features: int) -> Array:
    """Return the names of columns, (n_features,): by default "x0", "x1", ..., as in scikit-learn."""
    return np.array([f"x{index}" for index in range(n_features)] if names is None else names, object)
