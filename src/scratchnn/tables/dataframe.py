"""Raw tables, as users pass them: frames, and arrays of objects. The kinds of their columns, and their values."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
from scipy import sparse

from .arrays import Array
from .summary import gather

NUMBER_TYPES = (Real, Decimal, np.bool_)
OBJECT_KINDS: dict[str, Any] = {  # the first that suits a value; NumPy's durations are also real numbers
    "duration": (timedelta, np.timedelta64),
    "date": (date, np.datetime64),
    "number": NUMBER_TYPES,
    "text": str,
}
# What arrays hold, by the kind of their dtype. scikit-learn converts numbers to floats.
ARRAY_KINDS = dict.fromkeys("fiub", "number") | dict.fromkeys("UT", "text")
ARRAY_KINDS |= {"O": "object", "M": "date", "m": "duration"}
FRAME_KINDS = {nw.String: "text", nw.Categorical: "category", nw.Enum: "category", nw.Date: "date"}
FRAME_KINDS |= {nw.Datetime: "date", nw.Duration: "duration"}
KINDS = ("category", "text", "date", "duration", "number", "object")  # the first one that a column has in any part
TEXT_KINDS, TIME_KINDS = ("category", "text"), ("date", "duration")
PARTS = {
    "number": ("",),
    "duration": ("",),
    "date": ("", "year", "month", "day_of_week", "hour"),
}  # "": all of it
IN_TRAINING, UNNAMED = "as in training", "as categorical_features does not name it"  # why a column must hold numbers


class RawTable:
    """A frame of any library that narwhals reads, or an array. Its columns may be of different kinds.

    The ``kinds`` of columns follow from their dtypes: "number", "text", "category", "date" and "duration"; "object" if
    the values decide; and "refused". Missing values are None, NaN, and pandas' NA and NaT.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shape: tuple[int, int] = tuple(source.shape)
        self.is_pandas_like = nw.dependencies.is_pandas_like_dataframe(source)
        self.is_polars = nw.dependencies.is_polars_dataframe(source)
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

    def find_kinds(self, categorical_features: Any) -> list[str]:
        """Return the kinds of columns in all parts, by the parameter, the dtypes, and the values of objects.

        Objects are "number", "date" or "duration" if all of them are, and otherwise "text". If the parameter names
        categories, all other columns hold numbers, dates or durations.

        Raises TypeError if columns hold something else. It names all of them.
        """
        is_chosen = find_chosen(categorical_features, self)
        kinds, refused = [], []
        for column, dtype_kind in enumerate(self.kinds):
            kind = self._find_kind_of_objects(column) if dtype_kind == "object" else dtype_kind
            if kind == "refused" or (kind in TIME_KINDS and is_chosen is not None and is_chosen[column]):
                refused.append(column)
            elif is_chosen is not None and kind not in TIME_KINDS:
                kind = "category" if is_chosen[column] else "number"
            kinds.append(kind)
        if refused:
            raise self._refuse(refused)
        merged = [min(parts, key=KINDS.index) for parts in zip(*gather(kinds), strict=True)]
        return ["text" if kind == "object" else kind for kind in merged]

    def read_numbers(self, columns: Sequence[int], reason: str = IN_TRAINING) -> Array:
        """Return columns of numbers, (n_rows, n_columns), as floats with NaN for missing values.

        Raises TypeError if a column holds something else. The message contains the ``reason`` for the rule.
        """
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
            elif not self.is_pandas_like:  # converted by NumPy, as pyarrow raises errors for integers above 2**53
                result[:, place] = self._take(column).to_numpy()
        return result

    def read_codes(self, column: int) -> tuple[Array, list[Any]]:
        """Return the index of the value in each row of a column, and the distinct values. The first value is None.

        Raises TypeError if a value has no hash.
        """
        if column not in self._codes:
            try:
                self._codes[column] = self._factorize(column)
            except TypeError as error:
                raise self._refuse([column]) from error
        return self._codes[column]

    def read_times(self, column: int, kind: str) -> dict[str, Array]:
        """Return the ``PARTS`` of a column of dates or durations, (n_rows,) each. The whole value is in seconds.

        Raises TypeError if the column is of another ``kind``.
        """
        is_object = self.kinds[column] == "object"
        own_kind = self._find_kind_of_objects(column) if is_object else self.kinds[column]
        if own_kind != kind:
            if own_kind in TIME_KINDS or not all(map(is_missing, self.read_codes(column)[1])):
                raise TypeError(
                    f"Column {self.names[column]!r} of X must hold {kind}s, as in training, got dtype "
                    f"{self.dtypes[column]}. Convert it, for example with pandas.to_datetime or pandas.to_timedelta."
                )
            return dict.fromkeys(PARTS[kind], np.full(self.shape[0], np.nan))
        unit = "M8[us]" if kind == "date" else "m8[us]"
        local = universal = self._take(column)
        if is_object:
            objects = [None if is_missing(value) else value for value in self._list_values(column)]
            local = universal = np.array(objects, unit)
        elif self.frame is not None:
            zone = getattr(local.dtype, "time_zone", None)
            if kind == "date":
                local = universal = local.cast(nw.Datetime("us", zone))
            if zone is not None:
                universal = local.dt.convert_time_zone("UTC")
                local, universal = (each.dt.replace_time_zone(None) for each in (local, universal))
            local, universal = local.to_numpy(), universal.to_numpy()
        local, universal = np.asarray(local, unit), np.asarray(universal, unit)
        found: list[Array] = [universal.view(np.int64) / 1e6]
        if kind == "date":
            hours, months = local.view(np.int64) // 3_600_000_000, local.astype("M8[M]").view(np.int64)
            found += [1970 + months // 12, 1 + months % 12, (hours // 24 + 3) % 7, hours % 24]
        is_missing_there = np.isnat(local)
        return {part: np.where(is_missing_there, np.nan, each) for part, each in zip(PARTS[kind], found, strict=True)}

    def _take(self, column: int) -> Any:
        """Return a column as a series of narwhals, or of an array as an array."""
        return self.source[:, column] if self.frame is None else self.frame[:, column]

    def _list_values(self, column: int) -> list[Any]:
        values: list[Any] = self._take(column).tolist() if self.frame is None else self._take(column).to_list()
        return values

    def _factorize(self, column: int) -> tuple[Array, list[Any]]:
        is_short = self.shape[0] <= 100  # sooner listed
        if self.is_pandas_like and not is_short:
            codes, found = self._take(column).to_native().factorize()
            values = found.tolist()
        elif self.is_polars and not is_short and self.kinds[column] in TEXT_KINDS:
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

    def _find_kind(self, column: int) -> str:
        """Return the kind of a column, by its dtype in its own library and in narwhals."""
        native = self.dtypes[column]
        if isinstance(native, np.dtype):
            return ARRAY_KINDS.get(native.kind, "refused")
        dtype = self._take(column).dtype
        if isinstance(dtype, nw.Object) or str(native).lower().startswith("null"):
            return "object"
        if dtype.is_numeric() or isinstance(dtype, nw.Boolean) or _is_sparse(native):
            return "number"
        return next((kind for each, kind in FRAME_KINDS.items() if isinstance(dtype, each)), "refused")

    def _find_kind_of_objects(self, column: int) -> str:
        """Return the kind of a column of objects, by its values; "object" if there are none."""
        try:
            kinds = {_find_kind_of_value(value) for value in self.read_codes(column)[1] if not is_missing(value)}
        except TypeError:
            return "refused"
        if len(kinds) > 1:
            return "text" if kinds == {"number", "text"} else "refused"
        return kinds.pop() if kinds else "object"

    def _to_float(self, value: Any, column: int, reason: str) -> float:
        if is_missing(value):
            return np.nan
        if isinstance(value, NUMBER_TYPES):
            return float(value)
        raise TypeError(
            f"Column {self.names[column]!r} of X must hold numbers or booleans, {reason}, got {value!r}. Convert its "
            "values to numbers, or name it in categorical_features and fit again."
        )

    def _refuse(self, columns: Sequence[int]) -> TypeError:
        """Return the error about columns of which the network has no use, with the types of their values."""
        names = ", ".join(repr(self.names[column]) for column in columns)
        types = ", ".join(dict.fromkeys(map(self._name_type, columns)))
        one, it = ("Column {} of X has", "it") if len(columns) == 1 else ("Columns {} of X have", "them")
        return TypeError(
            f"{one.format(names)} values of type {types}: the argument must be a table of strings, categories, "
            "numbers, booleans, dates and durations. Convert the values (for example, lists to their lengths, and "
            f"objects of dates with a time zone by pandas.to_datetime), or leave {it} out."
        )

    def _name_type(self, column: int) -> str:
        """Return the type of the values of a refused column: its dtype, or the type of the first refused object."""
        if self.kinds[column] != "object":
            return str(self.dtypes[column])
        types = (type(value).__name__ for value in self._list_values(column) if not _is_usable(value))
        return next(types, "object")


def to_raw_table(X: Any, always: bool) -> RawTable | None:
    """Return X as a raw table if it may hold categories or types that scikit-learn does not convert to numbers.

    With ``always``, any dense table becomes one.

    Raises TypeError if X is a lazy frame; ValueError if columns have the same name.
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
        raise TypeError(
            f"X must be a table in memory, got a lazy {type(X).__module__.partition('.')[0]} frame. Call "
            f".{'compute' if is_dask else 'collect'}() and pass the result."
        )
    if not isinstance(frame, nw.DataFrame):
        return None
    table = RawTable(X)
    return table if always or not all(map(_is_plain, set(table.dtypes))) else None


def find_chosen(categorical_features: Any, table: RawTable) -> Array | None:
    """Return which columns the parameter names as categories, (n_features,) of bool; None if their dtypes decide."""
    if isinstance(categorical_features, str) and categorical_features == "from_dtype":
        return None
    n_features = table.shape[1]
    chosen = np.asarray([] if categorical_features is None else categorical_features)
    if chosen.dtype == bool and chosen.shape == (n_features,):
        return chosen
    is_list = chosen.dtype != bool and chosen.ndim == 1
    is_named, listed = chosen.dtype.kind in "OUT", chosen.tolist()
    names = table.names if is_named else range(n_features)
    known = set() if is_named and table.frame is None else set(names)  # an array has no names
    unknown = [each for each in listed if each not in known] if is_list else [listed]
    if unknown:
        raise ValueError(
            f"categorical_features must be names of columns of a frame, their indices from 0 to {n_features - 1}, or a "
            f"mask of {n_features} booleans, got {unknown[0]!r}. Name columns of X, or leave it 'from_dtype'."
        )
    wanted = set(listed)
    return np.array([name in wanted for name in names], bool)


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or pandas' NA and NaT."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA compared with itself is NA, which is neither true nor false
        return True


def _find_kind_of_value(value: Any) -> str:
    """Return the kind of an object that is not missing."""
    if getattr(value, "tzinfo", None) is not None:  # NumPy has no time zones
        return "refused"
    return next((kind for kind, types in OBJECT_KINDS.items() if isinstance(value, types)), "refused")


def _is_usable(value: Any) -> bool:
    """Return whether an object is a number, text or missing, and has a hash."""
    try:
        hash(value)
    except TypeError:
        return False
    return is_missing(value) or _find_kind_of_value(value) in ("number", "text")


def _to_array(rows: Any) -> Any:
    """Return nested lists of anything except real numbers as an array of objects, and other lists unchanged."""
    with suppress(ValueError):  # of rows of different lengths
        if np.asarray(rows).dtype.kind in "fiub":
            return rows
    objects = np.array(rows, dtype=object)
    return objects if objects.ndim == 2 else rows  # scikit-learn raises the error


def _is_plain(dtype: Any) -> bool:
    """Return whether scikit-learn converts a column to floats without losing a missing value."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "fiub"
    return str(dtype) in ("Float32", "Float64") or (_is_sparse(dtype) and dtype.fill_value == 0)


def _is_sparse(dtype: Any) -> bool:
    """Return whether this is a sparse dtype of pandas for numbers."""
    return str(dtype).startswith("Sparse") and dtype.subtype.kind in "fiub"
