"""Raw tables as users have them: frames, and arrays of objects. Which columns hold what, and their values."""

from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse

from .arrays import Array

NUMBER_KINDS = "fiub"  # of NumPy's dtypes, and of those of pandas
VALUE_KINDS = "OUT"  # of dtypes that do not say what the values are, or that they are text
REFUSED_KINDS = "mMSV"  # of dates, durations, bytes and records, which scikit-learn would try to make numbers of
NUMBER_TYPES = (Real, Decimal, np.bool_)


class RawTable:
    """A frame of pandas or polars, or an array, of which each column may be of another kind.

    Missing values are None, NaN, and pandas' NA and NaT.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shape: tuple[int, int] = tuple(source.shape)
        self.dtypes = list(source.dtypes) if is_frame(source) else [source.dtype] * self.shape[1]

    def holds_categories(self, number: int) -> bool:
        """Return whether a column holds categories, by its dtype or, if that does not say, by its values.

        Raises
        ------
        TypeError
            If it holds neither categories nor numbers.
        """
        dtype = self.dtypes[number]
        if _is_category(dtype):
            return True
        if _is_number(dtype):
            return False
        if not _may_be_anything(dtype):
            raise TypeError(self._describe(number, str(dtype)))
        types = {type(value) for value in self._find_values(number) if not is_missing(value)}
        for other in types:
            if not issubclass(other, (str, *NUMBER_TYPES)):
                raise TypeError(self._describe(number, other.__name__))
        return any(issubclass(each, str) for each in types)

    def read_numbers(self, numbers: Iterable[int], rows: Any = slice(None)) -> Array:
        """Return columns of numbers, (n_rows, n_columns), as floats with NaN where a value is missing.

        Raises
        ------
        TypeError
            If a column holds something else.
        """
        numbers = list(numbers)
        if isinstance(self.source, np.ndarray) and self.source.dtype.kind in NUMBER_KINDS:
            dtype = np.float32 if self.source.dtype == np.float32 else np.float64
            taken: Array = self.source[:, numbers][rows].astype(dtype, copy=False)
            return taken
        result: Array = np.empty((self.shape[0], len(numbers)))
        for place, number in enumerate(numbers):
            result[:, place] = self._read_number_column(number)
        return np.asarray(result[rows])

    def read_categories(self, numbers: Iterable[int], rows: Any = slice(None)) -> Array:
        """Return columns of categories, (n_rows, n_columns): their text, or None where a value is missing.

        Numbers that are equal have the same text, whatever their types.
        """
        numbers = list(numbers)
        result = np.empty((self.shape[0], len(numbers)), object)
        for place, number in enumerate(numbers):
            values = self._list_values(number)  # once: only the very same NaN are found as keys
            texts = {value: to_text(value) for value in self._find_different(number, values)}
            result[:, place] = [texts[value] for value in values]
        return np.asarray(result[rows])

    def _read_number_column(self, number: int) -> Array:
        dtype, column = self.dtypes[number], self._get_column(number)
        if _is_number(dtype):
            if hasattr(column, "cast"):  # polars
                return np.asarray(column.cast(float).to_numpy())
            if isinstance(dtype, np.dtype):
                return np.asarray(column, np.float64)
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        values = self._list_values(number)
        for value in self._find_values(number):
            if not is_missing(value) and not isinstance(value, NUMBER_TYPES):
                raise TypeError(
                    f"Column {self._get_name(number)} of X must hold numbers, got {value!r}: it held numbers in "
                    "training, or categorical_features leaves it out. Make numbers of its values, or name it in "
                    "categorical_features and fit again."
                )
        return np.array([np.nan if is_missing(value) else float(value) for value in values], np.float64)

    def _get_column(self, number: int) -> Any:
        if hasattr(self.source, "iloc"):
            return self.source.iloc[:, number]
        return self.source[:, int(number)]

    def _list_values(self, number: int) -> list[Any]:
        column = self._get_column(number)
        values: list[Any] = column.to_list() if hasattr(column, "to_list") else column.tolist()
        return values

    def _find_values(self, number: int) -> set[Any]:
        """Return the different values of a column."""
        return self._find_different(number, self._list_values(number))

    def _find_different(self, number: int, values: list[Any]) -> set[Any]:
        """Return the different ones of a column's values, which must have hashes."""
        try:
            return set(values)
        except TypeError as error:
            nested = next(value for value in values if getattr(value, "__hash__", None) is None)
            raise TypeError(self._describe(number, type(nested).__name__)) from error

    def _get_name(self, number: int) -> str:
        return repr(list(self.source.columns)[number]) if is_frame(self.source) else str(number)

    def _describe(self, number: int, found: str) -> str:
        """Return the error about a column of values that the network has no use for."""
        return (
            f"Column {self._get_name(number)} of X has values of type {found}, where each argument must be a string, a "
            "category or a number. Make columns of numbers of it (of dates for example the year, the weekday, and the "
            "days since some day; of lists their lengths or their elements), or leave it out."
        )


def is_frame(X: Any) -> bool:
    """Return whether X is a frame in memory, of pandas, polars, or a library that does as they do."""
    return hasattr(X, "shape") and hasattr(X, "columns") and hasattr(X, "dtypes")


def to_raw_table(X: Any, always: bool) -> RawTable | None:
    """Return X as a raw table, if it may hold categories or types that scikit-learn does not turn into numbers.

    With ``always``, any dense table becomes one.
    """
    if sparse.issparse(X):
        return None
    if isinstance(X, list | tuple):
        X = _to_array(X)
    if is_frame(X):
        return RawTable(X) if always or not all(map(_is_plain, X.dtypes)) else None
    if not isinstance(X, np.ndarray) or X.ndim != 2:
        return None
    return RawTable(X) if always or X.dtype.kind in VALUE_KINDS + REFUSED_KINDS else None


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or pandas' NA or NaT."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # what pandas' NA is, nobody can say
        return True


def _to_array(rows: Any) -> Any:
    """Return nested lists of anything but real numbers as an array of objects, and others as they are."""
    try:
        kind = np.asarray(rows).dtype.kind
    except ValueError:  # rows of different lengths: scikit-learn says so
        return rows
    return np.array(rows, dtype=object) if kind in VALUE_KINDS + REFUSED_KINDS + "c" else rows


def _is_plain(dtype: Any) -> bool:
    """Return whether scikit-learn makes floats of a column with this dtype, in whatever library."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in NUMBER_KINDS
    return str(dtype).startswith("Sparse") or (str(dtype) in ("Float32", "Float64") and hasattr(dtype, "is_numeric"))


def _is_category(dtype: Any) -> bool:
    return str(dtype) == "category" or str(dtype).startswith(("Categorical", "Enum"))


def _is_number(dtype: Any) -> bool:
    if hasattr(dtype, "kind"):
        return dtype.kind in NUMBER_KINDS
    return bool(dtype.is_numeric()) or str(dtype) in ("Boolean", "Null")


def _may_be_anything(dtype: Any) -> bool:
    return dtype.kind in VALUE_KINDS if hasattr(dtype, "kind") else str(dtype) in ("String", "Object")


def to_text(value: Any) -> str | None:
    """Return the text of a category: the same for numbers that are equal. None if the value is missing."""
    if is_missing(value):
        return None
    if not isinstance(value, NUMBER_TYPES):
        return str(value)
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)
