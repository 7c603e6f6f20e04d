"""The encoder of tables as a transformer for pipelines: parameters and documentation."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from ._compat import check_feature_names_in
from .tables.arrays import Array
from .tables.dataframe import RawTable, to_raw_table
from .tables.encoder import ColumnEncoder


class TableEncoder(TransformerMixin, BaseEstimator):
    """Encodes a table as floats: numbers, dates, text, categories and missing values in any mixture.

    `ScratchNNClassifier` encodes its tables in the same way. In a pipeline, the encoder serves other estimators.

    - Numbers stay as they are, and booleans become 0 and 1.
    - Dates become seconds since 1970, and each of year, month, day of week (0 is Monday) and hour that varies.
      Durations become seconds.
    - Missing numbers and dates are replaced by the mean of their column, which gets a missing-value indicator.
    - Text and categories are one-hot encoded. Missing values form a category of their own. Infrequent categories (of a
      single sample, or beyond the 99 most frequent) share one feature, and unknown categories count as infrequent. In a
      column without infrequent categories, unknown categories get zeros.

    Parameters
    ----------
    categorical_features : array-like of {bool, int, str} of shape (n_features,) or (n_categorical_features,), \
            'from_dtype' or None, default='from_dtype'
        Columns of X that hold categories: a mask, their indices, or their names in a frame. 'from_dtype' selects the
        columns of a categorical dtype and text columns.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str of shape (n_features,)
        Names of the columns, if all are text.
    kinds_ : list of str
        What each column holds: 'number', 'date', 'duration', 'text' or 'category'.
    categories_ : list of lists of str or None
        The categories of each column that have a feature of their own. None stands for missing values.

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
        """Find the means, the parts of dates, and the categories.

        Parameters
        ----------
        X : {array-like, frame} of shape (n_samples, n_features)
            Training data.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : TableEncoder
            The fitted encoder.
        """
        table = self._read(X, reset=True)
        self.encoder_ = ColumnEncoder(table, table.find_kinds(self.categorical_features))
        return self

    def transform(self, X: Any) -> Array:
        """Return the encoded table.

        Parameters
        ----------
        X : {array-like, frame} of shape (n_samples, n_features)
            Data with the columns of training.

        Returns
        -------
        encoded : ndarray of shape (n_samples, n_features_out)
            Floats, none of them missing.
        """
        check_is_fitted(self)
        encoded: Array = self.encoder_.encode(self._read(X, reset=False))[:]
        return encoded

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the encoded columns.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            Names of the columns of X. The default is the names in training, or "x0", "x1", ...

        Returns
        -------
        names : ndarray of str of shape (n_features_out,)
            Numbers and parts of dates, then missing-value indicators, then categories.
        """
        check_is_fitted(self)
        return self.encoder_.name_columns(check_feature_names_in(self, input_features))

    @property
    def kinds_(self) -> list[str]:
        """What each column holds."""
        return self.encoder_.kinds

    @property
    def categories_(self) -> list[list[str | None]]:
        """The categories that have a feature of their own."""
        return self.encoder_.categories

    def _read(self, X: Any, reset: bool) -> RawTable:
        table = to_raw_table(X, True)
        if table is None:
            return RawTable(validate_data(self, X, dtype=np.float64, ensure_all_finite=False, reset=reset))
        validate_data(self, table.source, skip_check_array=True, reset=reset)
        check_array(np.broadcast_to(0.0, table.shape), estimator=self)
        return table

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags
