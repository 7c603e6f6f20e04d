"""Raw tables as users have them: frames, and arrays of objects. What each column holds, and its values."""

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
from scipy import sparse

from .arrays import Array

NUMBER_TYPES = (Real, Decimal, np.bool_)
# What arrays hold, by the letter of their dtype. scikit-learn makes floats of the first ones.
ARRAY_KINDS = dict.fromkeys("fiub", "number") | dict.fromkeys("UT", "text")
ARRAY_KINDS |= {"O": "object", "M": "date", "m": "duration"}
FRAME_KINDS = {nw.String: "text", nw.Categorical: "category", nw.Enum: "category", nw.Date: "date"}
FRAME_KINDS |= {nw.Datetime: "date", nw.Duration: "duration"}
# Why a column must hold numbers.
IN_TRAINING, UNNAMED = "as in training", "as categorical_features does not name it"
TEXT_KINDS = ("category", "text")
DATE_PARTS = ("year", "month", "day_of_week", "hour")


class RawTable:
    """A frame of any library that narwhals reads, or an array, of which each column may be of another kind.

    The ``kinds`` of columns are "number", "text", "category", "date" and "duration", as their dtypes say; "object" if
    the dtype says nothing; and "refused". Missing values are None, NaN, and pandas' NA and NaT.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shape: tuple[int, int] = tuple(source.shape)
        self.is_pandas_like = nw.dependencies.is_pandas_like_dataframe(source)
        if isinstance(source, np.ndarray):
            self.frame: Any = None
            self.names: Sequence[Any] = range(self.shape[1])
            self.dtypes = [source.dtype] * self.shape[1]
        else:
            self.frame = nw.from_native(source)
            self.names = self.frame.columns
            self.dtypes = list(source.dtypes if hasattr(source, "dtypes") else source.schema.types)
        places = {dtype: place for place, dtype in enumerate(self.dtypes)}  # as there may be thousands of columns
        kinds = {dtype: self._find_kind(place) for dtype, place in places.items()}
        self.kinds = [kinds[dtype] for dtype in self.dtypes]
        self._codes: dict[int, tuple[Array, list[Any]]] = {}

    def find_kinds(self, is_chosen: Array | None) -> list[str]:
        """Return the kinds of columns; "object" only of those without values, as the values decide.

        They are "number" if all values are numbers, and else "text". If the user has chosen the columns of categories,
        only these are, and all others hold numbers.

        Raises TypeError if columns hold something else. All are named.
        """
        kinds, refused = list(self.kinds), {}
        for column, kind in enumerate(kinds):
            if kind == "object":
                try:
                    types = {type(value) for value in self.read_codes(column)[1] if not is_missing(value)}
                except TypeError:  # of the hash of a value
                    refused[column] = self._find_unhashable(column)
                    continue
                others = [each.__name__ for each in types if not issubclass(each, (str, *NUMBER_TYPES))]
                if others:
                    refused[column] = min(others)
                elif types:
                    kinds[column] = "number" if all(issubclass(each, NUMBER_TYPES) for each in types) else "text"
            elif kind == "refused" or (is_chosen is not None and is_chosen[column] and kind in ("date", "duration")):
                refused[column] = str(self.dtypes[column])
            if is_chosen is not None and kind not in ("date", "duration"):
                kinds[column] = "category" if is_chosen[column] else "number"
        if refused:
            raise TypeError(self._refuse(refused))
        return kinds

    def read_numbers(self, columns: Iterable[int], reason: str = IN_TRAINING) -> Array:
        """Return columns of numbers, (n_rows, n_columns), as floats with NaN where a value is missing.

        Raises TypeError if a column holds something else, which ``reason`` explains.
        """
        columns = list(columns)
        if isinstance(self.source, np.ndarray) and self.source.dtype.kind in "fiub":
            dtype = np.float32 if self.source.dtype == np.float32 else np.float64
            taken: Array = self.source[:, columns].astype(dtype, copy=False)
            return taken
        result: Array = np.empty((self.shape[0], len(columns)))
        if self.is_pandas_like:  # all at once, as there may be thousands
            numbers = [place for place, column in enumerate(columns) if self.kinds[column] == "number"]
            frame = self.source.iloc[:, [columns[place] for place in numbers]]
            result[:, numbers] = frame.to_numpy(np.float64, na_value=np.nan)
        for place, column in enumerate(columns):
            if self.kinds[column] != "number":
                codes, values = self.read_codes(column)
                result[:, place] = np.array([self._to_float(value, column, reason) for value in values])[codes]
            elif not self.is_pandas_like:  # in NumPy: pyarrow refuses to make floats of whole numbers above 2**53
                result[:, place] = self._take(column).to_numpy()
        return result

    def read_codes(self, column: int) -> tuple[Array, list[Any]]:
        """Return for each row of a column the index of its value, and the different values. The first one is None.

        Raises TypeError if values have no hash.
        """
        if column not in self._codes:
            try:
                self._codes[column] = self._factorize(column)
            except TypeError as error:
                raise TypeError(self._refuse({column: self._find_unhashable(column)})) from error
        return self._codes[column]

    def read_times(self, column: int, kind: str) -> dict[str, Array]:
        """Return the seconds, as "", of a column of durations or dates, and of dates the DATE_PARTS; (n_rows,) each.

        Raises TypeError if it is of another ``kind``.
        """
        parts = DATE_PARTS if kind == "date" else ()
        if self.kinds[column] != kind:
            if self.kinds[column] in ("date", "duration") or not all(map(is_missing, self.read_codes(column)[1])):
                raise TypeError(
                    f"Column {self.names[column]!r} of X must hold {kind}s, as in training, got dtype "
                    f"{self.dtypes[column]}. Convert it, for example with pandas.to_datetime or pandas.to_timedelta."
                )
            return dict.fromkeys(("", *parts), np.full(self.shape[0], np.nan))
        local = universal = self._take(column)
        if self.frame is not None:
            zone = getattr(local.dtype, "time_zone", None)
            if kind == "date":
                local = universal = local.cast(nw.Datetime("us", zone))
            if zone is not None:
                universal = local.dt.convert_time_zone("UTC")
                local, universal = (each.dt.replace_time_zone(None) for each in (local, universal))
            local, universal = local.to_numpy(), universal.to_numpy()
        unit = "M8[us]" if kind == "date" else "m8[us]"
        local, universal = np.asarray(local, unit), np.asarray(universal, unit)
        found: list[Array] = [universal.view(np.int64) / 1e6]
        if kind == "date":
            hours, months = local.view(np.int64) // 3_600_000_000, local.astype("M8[M]").view(np.int64)
            found += [1970 + months // 12, 1 + months % 12, (hours // 24 + 3) % 7, hours % 24]
        return {part: np.where(np.isnat(local), np.nan, each) for part, each in zip(("", *parts), found, strict=True)}

    def _take(self, column: int) -> Any:
        """Return a column as a series of narwhals, or of an array as an array."""
        return self.source[:, column] if self.frame is None else self.frame[:, int(column)]

    def _list_values(self, column: int) -> list[Any]:
        values: list[Any] = self._take(column).tolist() if self.frame is None else self._take(column).to_list()
        return values

    def _factorize(self, column: int) -> tuple[Array, list[Any]]:
        is_long = self.shape[0] > 100  # shorter columns are sooner listed
        if is_long and self.is_pandas_like:
            codes, found = self._take(column).to_native().factorize()
            values = found.tolist()
        elif (
            is_long
            and self.frame is not None
            and self.frame.implementation.is_polars()
            and self.kinds[column] in TEXT_KINDS
        ):
            series = self._take(column).cast(nw.Categorical)
            physical = nw.from_native(series.to_native().to_physical(), series_only=True).cast(nw.Int64)
            _, rows, codes = np.unique(physical.fill_null(-1).to_numpy(), return_index=True, return_inverse=True)
            values = series[rows.tolist()].to_list()
        else:
            places: dict[Any, int] = {}
            listed = self._list_values(column)
            codes = np.fromiter((places.setdefault(value, len(places)) for value in listed), np.int32, len(listed))
            values = list(places)
        return codes.astype(np.int32) + np.int32(1), [None, *values]

    def _find_unhashable(self, column: int) -> str:
        """Return the type of a value that has no hash."""
        for value in self._list_values(column):
            try:
                hash(value)
            except TypeError:
                return type(value).__name__
        return "unknown"

    def _find_kind(self, column: int) -> str:
        """Return what a column holds, by its dtype in its own library and in narwhals."""
        native = self.dtypes[column]
        if isinstance(native, np.dtype):
            return ARRAY_KINDS.get(native.kind, "refused")
        dtype = self._take(column).dtype
        if isinstance(dtype, nw.Object) or str(native).lower().startswith("null"):
            return "object"
        if dtype.is_numeric() or isinstance(dtype, nw.Boolean) or _is_sparse(native):
            return "number"
        return next((kind for each, kind in FRAME_KINDS.items() if isinstance(dtype, each)), "refused")

    def _to_float(self, value: Any, column: int, reason: str) -> float:
        if is_missing(value):
            return np.nan
        if isinstance(value, NUMBER_TYPES):
            return float(value)
        raise TypeError(
            f"Column {self.names[column]!r} of X must hold numbers or booleans, {reason}, got {value!r}. Make numbers "
            "of its values, or name it in categorical_features and fit again."
        )

    def _refuse(self, refused: dict[int, str]) -> str:
        """Return the error about columns that the network has no use for, with the types of their values."""
        names = ", ".join(repr(self.names[column]) for column in refused)
        types = ", ".join(dict.fromkeys(refused.values()))
        one, it = ("Column {} of X has", "it") if len(refused) == 1 else ("Columns {} of X have", "them")
        return (
            f"{one.format(names)} values of type {types}: the argument must be a table of strings, categories, "
            "numbers, dates and durations. Make other columns of the values (of lists the lengths or the elements), or "
            f"leave {it} out."
        )


def to_raw_table(X: Any, always: bool) -> RawTable | None:
    """Return X as a raw table, if it may hold categories or types that scikit-learn does not turn into numbers.

    With ``always``, any dense table becomes one.

    Raises TypeError if X is a frame whose values are not computed yet; ValueError if it has two columns of one name.
    """
    if isinstance(X, list | tuple):
        X = _to_array(X)
    if isinstance(X, np.ndarray):
        return RawTable(X) if X.ndim == 2 and X.dtype.kind != "c" and (always or X.dtype.kind not in "fiub") else None
    if sparse.issparse(X):
        return None
    is_dask = nw.dependencies.is_dask_dataframe(X)
    try:
        frame = X if is_dask else nw.from_native(X, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        names = Counter(X.columns if hasattr(X, "iloc") else X.column_names)
        twice = ", ".join(repr(name) for name, count in names.items() if count > 1)
        raise ValueError(f"X must have columns of different names, got {twice} more than once. Rename them.") from error
    if is_dask or isinstance(frame, nw.LazyFrame):
        remedy = "compute" if is_dask else "collect"
        raise TypeError(
            f"X must be a table in memory, got a lazy {type(X).__module__.partition('.')[0]} frame. Call "
            f".{remedy}() and pass what it returns."
        )
    if not isinstance(frame, nw.DataFrame):
        return None
    table = RawTable(X)
    return table if always or not all(map(_is_plain, set(table.dtypes))) else None


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or pandas' NA and NaT."""
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
        objects = None if kind in "fiub" else np.array(rows, dtype=object)
    except ValueError:
        objects = np.array(rows, dtype=object)
    # Of rows of different lengths, scikit-learn says so.
    return rows if objects is None or objects.ndim != 2 else objects


def _is_plain(dtype: Any) -> bool:
    """Return whether scikit-learn makes floats of a column, without losing a missing value."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "fiub"
    return str(dtype) in ("Float32", "Float64") or (_is_sparse(dtype) and dtype.fill_value == 0)


def _is_sparse(dtype: Any) -> bool:
    """Return whether pandas keeps only some numbers of a column."""
    return str(dtype).startswith("Sparse") and dtype.subtype.kind in "fiub"
