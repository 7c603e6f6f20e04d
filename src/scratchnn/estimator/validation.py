"""Checks of samples, targets and weights, in addition to those of scikit-learn."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_array, check_X_y, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from .._compat import check_partial_fit_first_call, check_same_namespace, warn_user
from ..tables.arrays import Array, Features, find_array_library, get_float_dtypes, is_mapped_file, to_numpy, to_tensor
from ..tables.dataframe import NUMBER_TYPES, is_missing
from ..tables.encoder import encode, find_raw_table, name_columns
from ..tables.summary import check_form, merge_flags
from ..tables.table import Table
from ..tables.targets import Labels, check_known, find_labels
from .attributes import read_labels

WEIGHT_RANGE = (1e-50, 1e50)  # of the largest weight: sums of weights times squares of X stay finite
MAX_WEIGHT_MEAN = 100.0  # larger ones, as in surveys, are hardly counts
WEIGHT_REMEDY = "Use 0 for samples or classes to leave out, and positive numbers for the others."
TARGETS_RULE = "must be one label per sample, or 0 and 1 for each of several labels"
SET_TYPES = (list, tuple, set, frozenset, np.ndarray)
SETS_REMEDY = "Encode sets of labels with sklearn.preprocessing.MultiLabelBinarizer."


def validate_table(estimator: Any, X: Any, y: Any, sample_weight: Any, *, resume: bool) -> tuple[Table, Labels]:
    """Return the samples of `fit`, and the labels of their targets."""
    table, multilabel = _validate_rows(estimator, X, y, sample_weight, reset=not resume)
    labels = find_labels(table.y, multilabel)
    if resume and not np.array_equal(labels.classes, estimator.classes_):
        raise ValueError(
            "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
            f"Previously got {estimator.classes_}, `y` has {labels.classes}. Use partial_fit, or warm_start=False."
        )
    return table, labels


def validate_part(
    estimator: Any, X: Any, y: Any, sample_weight: Any, classes: Any, *, resume: bool
) -> tuple[Table, Labels]:
    """Return the samples of `partial_fit`, and the labels of all its calls. Set ``classes_`` at the first call."""
    with _explain_labels("classes"):
        check_partial_fit_first_call(estimator, None if classes is None else with_plain_numbers(to_numpy(classes)))
    table, multilabel = _validate_rows(estimator, X, y, sample_weight, reset=not resume)
    labels = read_labels(estimator) if resume else Labels(estimator.classes_, multilabel)
    if len(labels.classes) < 2:
        raise ValueError(
            f"classes must have at least two class labels, got {labels.classes}. Pass the labels of all calls."
        )
    check_known(table.y, multilabel, labels, "y")
    return table, labels


def validate_validation_table(
    estimator: Any, X_val: Any, y_val: Any, sample_weight_val: Any, labels: Labels, training: Table
) -> Table | None:
    """Return the validation samples, or None if there are none. Errors say that they concern these samples."""
    is_given = not (X_val is None and y_val is None and sample_weight_val is None)
    if merge_flags(is_given) and not is_given:
        raise ValueError(
            "X_val and y_val must be given in all processes of data_parallel, or in none, got them in some. Pass each "
            "process a part of the validation data."
        )
    if not is_given:
        return None
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val must be given together, got None for {missing}.")
    try:
        table, multilabel = _validate_rows(
            estimator, X_val, y_val, sample_weight_val, reset=False, suffix="_val", training=training
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"The validation data, X_val and y_val, are invalid: {error}") from error
    check_known(table.y, multilabel, labels, "y_val")
    return table


def validate_features(estimator: Any, X: Any, method: str) -> Features:
    """Return the samples to predict with ``method``, after the checks of scikit-learn.

    These checks take longer than the prediction of a few samples. A plain float array of the right shape is only
    checked to be finite, which a finite sum proves.
    """
    if (
        type(X) is np.ndarray
        and X.dtype in (np.float64, np.float32)
        and X.ndim == 2
        and X.shape[0] > 0
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
        and estimator.encoder_ is None
        and type(estimator.coefs_[0]) is np.ndarray
        and math.isfinite(to_tensor(X).sum())
    ):
        return X
    check_same_namespace(X, estimator, attribute="_first_coef", method=method)
    features = _read_features(estimator, unmask(X), reset=False)
    return encode(estimator, features)


def _validate_rows(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool, suffix: str = "", training: Table | None = None
) -> tuple[Table, bool]:
    """Return the samples, and whether the targets are multilabel. For validation data, pass the ``training`` table.

    Samples of another library than NumPy stay on their device, as a tensor. Targets and weights become NumPy arrays.
    """
    y, sample_weight = read_targets(to_numpy(y), f"y{suffix}"), unmask(to_numpy(sample_weight))
    features, y = _read_features(estimator, unmask(X), y, reset=reset)
    y, multilabel = check_targets(y, f"y{suffix}")
    weights = check_weights(sample_weight, len(y), f"sample_weight{suffix}")
    if training is None:
        names = getattr(estimator, "feature_names_in_", None)
        check_form(
            f"{features.shape[1]} columns",
            "without names" if names is None else f"named {list(names)}",
            "sparse" if sparse.issparse(features) else "dense",
            "and targets of one column" if y.ndim == 1 else f"and targets of {y.shape[1]} columns",
        )
    X = encode(estimator, features, weights=weights, reset=reset, training=training)
    return Table(X, y, weights, names=name_columns(estimator)), multilabel


@np.errstate(invalid="ignore")  # in the sums with which scikit-learn checks that values are finite
def _read_features(estimator: Any, X: Any, *y: Any, reset: bool) -> Any:
    """Return X after scikit-learn's checks, as floats (perhaps missing or infinite) or as a raw table, and y."""
    raw = find_raw_table(estimator, X, reset=reset)
    if raw is not None:
        validate_data(estimator, raw.source, *y, skip_check_array=True, reset=reset)
        zeros = np.broadcast_to(0.0, raw.shape)  # for the checks of shapes and of y alone
        if y:
            return raw, check_X_y(zeros, *y, multi_output=True, estimator=estimator)[1]
        check_array(zeros, estimator=estimator)
        return raw
    array_library = find_array_library(X)
    is_number_file = is_mapped_file(X) and X.dtype.kind in "biuf"  # read as floats batch by batch
    dtypes = None if is_number_file else get_float_dtypes(array_library)
    checks = {"accept_sparse": "csr", "dtype": dtypes, "ensure_all_finite": sparse.issparse(X)}
    if y:
        X, y_checked = validate_data(estimator, X, *y, **checks, multi_output=True, reset=reset)
    else:
        X = validate_data(estimator, X, **checks, reset=reset)
    if sparse.issparse(X) and not np.isfinite(X.data).all():  # of a frame, which scikit-learn does not check
        raise ValueError(
            "X must not have missing or infinite values if it is sparse, got NaN or infinity. Call "
            "X.sparse.to_dense() on the frame, or replace these values."
        )
    features = with_sorted_entries(X) if array_library is None else to_tensor(X)
    return (features, y_checked) if y else features


def unmask(values: Any) -> Any:
    """Return a masked array as an array with NaN, or None, for masked values. Return other arrays unchanged."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    missing: Any = np.nan if values.dtype.kind in "biuf" else None
    return np.where(np.ma.getmaskarray(values), missing, values.data)


def read_targets(y: Any, name: str) -> Any:
    """Return targets as an array. Sparse targets and None are returned unchanged.

    Raises ValueError if values are missing (None, NaN, pandas' NA and NaT, or masked). The message contains the
    argument's ``name``.
    """
    if y is None or sparse.issparse(y):
        return y
    try:
        values = np.asarray(unmask(y), object if isinstance(y, list | tuple) else None)
    except ValueError:  # rows of different lengths: scikit-learn raises the error
        return y
    if values.dtype.kind == "O" and any(isinstance(value, SET_TYPES) for value in values.flat):
        raise ValueError(f"{name} {TARGETS_RULE}, got sets of labels. {SETS_REMEDY}")
    if values.dtype.kind in "fcmMO":
        is_missing_there = np.frompyfunc(is_missing, 1, 1) if values.dtype.kind == "O" else lambda each: each != each
        places = np.argwhere(np.atleast_1d(is_missing_there(values)).astype(bool))
        if len(places):
            raise ValueError(
                f"{name} has {len(places)} missing value{'s' * (len(places) > 1)} (first at index {places[0][0]}). "
                "Drop these samples."
            )
    return with_plain_numbers(y if isinstance(y, list | tuple) else values)


def with_plain_numbers(labels: Any) -> Any:
    """Return labels as an array. Numbers in an array of objects become numbers of one of NumPy's types."""
    values = np.asarray(labels)
    if values.dtype.kind != "O" or not all(isinstance(value, NUMBER_TYPES) for value in values.flat):
        return values
    plain = [float(value) if isinstance(value, Decimal) else value for value in values.flat]
    return np.array(plain).reshape(values.shape)


def check_targets(y: Any, name: str) -> tuple[Array, bool]:
    """Return targets as an array, (n_samples,) or (n_samples, n_outputs), and whether they are multilabel.

    Errors contain the ``name`` of the argument.
    """
    if _are_plain_codes(y):
        return y, False
    with _explain_labels("y"):
        kind = type_of_target(y, input_name="y")
    if kind == "multilabel-indicator":
        y = y.toarray() if sparse.issparse(y) else np.asarray(y)
        others = np.setdiff1d(y, [0, 1])
        if len(others):
            raise ValueError(
                f"{name} must have 0 and 1 for each of several labels, got also {others.tolist()}. Pass y == 1, or "
                "another condition for having a label."
            )
        return y, True
    if kind == "multiclass-multioutput":
        raise ValueError(
            f"{name} {TARGETS_RULE}, got {kind} of shape {np.shape(y)}. Fit one classifier per column with "
            f"sklearn.multioutput.MultiOutputClassifier. {SETS_REMEDY}"
        )
    if kind not in ("binary", "multiclass"):
        check_classification_targets(y)  # raises
    return column_or_1d(y, warn=True), False


@contextmanager
def _explain_labels(name: str) -> Iterator[None]:
    """Add the argument's name to scikit-learn's errors about labels that lack it."""
    try:
        with np.errstate(invalid="ignore"):  # scikit-learn casts NaN to integers
            yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must hold class labels of one type, which can be sorted, got other values: "
            f"{str(error).rstrip('.')}. Make them all whole numbers, or all text."
        ) from error


def _are_plain_codes(y: Any) -> bool:
    """Return whether targets are integers in a range so small that scikit-learn warns of no excess of classes."""
    return (
        type(y) is np.ndarray
        and y.ndim == 1
        and y.dtype.kind in "iu"
        and len(y) > 0
        and int(y.max()) - int(y.min()) < len(y) // 2
    )


def check_weights(weights: Any, n_samples: int, name: str) -> Array | None:
    """Return the sample weights as float64 of shape (n_samples,), or None if there are none, or all are 1."""
    if weights is None:
        return None
    if isinstance(weights, Real):
        weights = np.full(n_samples, weights)
    try:
        checked: Array = check_array(weights, ensure_2d=False, dtype=np.float64, input_name=name)
    except (TypeError, ValueError) as error:
        if name in str(error):
            raise
        raise ValueError(f"{name} must hold one real number per sample, got other values: {error}") from error
    if checked.shape != (n_samples,):
        raise ValueError(f"{name} must have shape ({n_samples},), one weight per sample, got {checked.shape}.")
    if (checked < 0).any():
        raise ValueError(f"{name} must not have negative values, got {checked.min():g}. {WEIGHT_REMEDY}")
    return None if (checked == 1).all() else checked


def leave_out_rows(table: Table, name: str, *, may_be_all: bool = False) -> Table:
    """Return the samples of positive weight.

    Raise ValueError if there are none, except with ``may_be_all``, or if the weights are too large or too small to
    compute with. The message contains the ``name`` of the weights.
    """
    largest = 0.0 if table.sample_weights is None else table.sample_weights.max(initial=0.0)
    if largest and not WEIGHT_RANGE[0] <= largest <= WEIGHT_RANGE[1]:
        raise ValueError(
            f"{name} must have a largest value from {WEIGHT_RANGE[0]:g} to {WEIGHT_RANGE[1]:g}, got {largest:g}. "
            "Multiply all weights by the same number."
        )
    if table.sample_weights is None or table.sample_weights.all():
        return table
    if not (may_be_all or table.sample_weights.any()):
        raise ValueError(f"{name} must have a positive value, got only zeros. {WEIGHT_REMEDY}")
    return table.take(table.sample_weights > 0)


def warn_of_weights(weights: Array | None) -> None:
    """Warn if sample weights are so large that they are hardly counts."""
    if weights is not None and len(weights) and weights.mean() > MAX_WEIGHT_MEAN:
        warn_user(
            f"sample_weight has a mean of {weights.mean():.6g}, so that each sample counts as that many equal samples. "
            "Divide it by its mean if the weights are not counts."
        )


def with_sorted_entries(X: Features) -> Features:
    """Return X, or for a sparse X with unsorted or duplicate entries a copy with sorted and unique ones."""
    if sparse.issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
        if not np.isfinite(X.data).all():
            raise ValueError("X must be finite, got duplicate entries whose sum is not. Scale X, or remove duplicates.")
    return X
