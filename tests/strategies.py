"""What hypothesis draws for tests/test_invalid_input.py: tables, targets, weights and parameters, valid or not."""

import warnings
from datetime import datetime

import numpy as np
import pandas as pd
from helpers import make_read_only
from hypothesis import strategies as st
from scipy import sparse

from scratchnn.activations import ACTIVATIONS

# Columns of numbers, by the generator that draws them: each takes a generator and the number of rows.
COLUMNS = {
    "normal": lambda generator, n: generator.normal(size=n),
    "constant": lambda generator, n: np.full(n, 3.7),
    "zeros": lambda generator, n: np.zeros(n),
    "two values": lambda generator, n: generator.integers(2, size=n) * 5.0,
    "tiny": lambda generator, n: generator.normal(size=n) * 1e-300,
    "denormal": lambda generator, n: generator.normal(size=n) * 5e-320,
    "huge": lambda generator, n: generator.normal(size=n) * 1e300,
    "large": lambda generator, n: generator.normal(size=n) * 1e160,
    "largest": lambda generator, n: generator.choice([-1.0, 1.0], size=n) * np.finfo(float).max,
    "all scales": lambda generator, n: 10.0 ** generator.uniform(-300, 300, size=n),
    "one far": lambda generator, n: np.where(np.arange(n) == n // 2, 1e200, generator.normal(size=n)),
    "times": lambda generator, n: 1.7e9 + generator.uniform(-1, 1, size=n),
    "nearly constant": lambda generator, n: 1.0 + np.finfo(float).eps * generator.integers(2, size=n),
    "missing": lambda generator, n: np.where(generator.random(n) < 0.3, np.nan, generator.normal(size=n)),
    "all missing": lambda generator, n: np.full(n, np.nan),
    "infinite": lambda generator, n: np.where(generator.random(n) < 0.2, np.inf, generator.normal(size=n)),
}
DTYPES = ["float64"] * 4 + ["float32", "float16", "longdouble", "int64", "int8", "uint8", "bool", "complex128"]


def to_text(values):
    return np.where(values > 0, "high", "low").astype(object)


# What a table becomes: each takes the table of floats.
FORMS = {
    "same": lambda X: X,
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, 0), 2, 1)[::2, ::2],
    "reversed": lambda X: X[::-1, ::-1],
    "read-only": make_read_only,
    "list": lambda X: X.tolist(),
    "matrix of objects": lambda X: X.astype(object),
    "objects with None": lambda X: np.where(X > 1, None, X.astype(object)),
    "text": to_text,
    "text of a fixed width": lambda X: np.asarray(to_text(X), "U4"),
    "bytes": lambda X: np.asarray(to_text(X), "S4"),
    "objects of every kind": lambda X: np.where(X > 1, {}, np.where(X < -1, "low", X.astype(object))),
    "dates": lambda X: np.full(X.shape, np.datetime64("2026-01-01")),
    "durations": lambda X: np.full(X.shape, np.timedelta64(1, "D")),
    "datetime objects": lambda X: np.full(X.shape, datetime(2026, 1, 1), dtype=object),
    "frame": lambda X: pd.DataFrame(X),
    "nullable floats": lambda X: pd.DataFrame(X).astype("Float64"),
    "nullable integers": lambda X: pd.DataFrame(np.where(np.abs(X) < 1e9, X, 0.0)).round().astype("Int64"),
    "nullable booleans": lambda X: pd.DataFrame(X > 0).astype("boolean").where(pd.DataFrame(X < 1)),
    "nullable text": lambda X: pd.DataFrame(to_text(X)).astype("string"),
    "categories": lambda X: pd.DataFrame(to_text(X)).astype("category"),
    "frame of dates": lambda X: pd.DataFrame(np.full(X.shape, np.datetime64("2026-01-01"))),
    "CSR": sparse.csr_array,
    "CSC": sparse.csc_matrix,
    "COO": sparse.coo_array,
    "one dimension": np.ravel,
    "three dimensions": lambda X: X[np.newaxis],
    "a number": lambda X: 1.0,
    "None": lambda X: None,
    "masked": lambda X: np.ma.masked_greater(X, 1),
}
PLAIN_FORMS = ["same", "Fortran", "strided", "reversed", "read-only", "list", "frame", "CSR"]


@st.composite
def make_tables(draw, n_rows=None, forms=tuple(FORMS), columns=tuple(COLUMNS), dtypes=tuple(DTYPES)):
    """Draw a table and its number of rows."""
    n_rows = draw(st.sampled_from([0, 1, 2, 3, 10, 40, 90])) if n_rows is None else n_rows
    generator = np.random.default_rng(draw(st.integers(0, 3)))
    kinds = draw(st.lists(st.sampled_from(columns), min_size=draw(st.sampled_from([0, 1, 1, 1])), max_size=4))
    X = np.array([COLUMNS[kind](generator, n_rows) for kind in kinds]).T.reshape(n_rows, len(kinds))
    if len(kinds) > 1 and draw(st.booleans()):
        X[:, -1] = X[:, 0]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = X.astype(draw(st.sampled_from(dtypes)))
        form = draw(st.sampled_from(forms))
        try:
            return FORMS[form](X), n_rows
        except (TypeError, ValueError, AttributeError):  # there is no such form of this dtype or shape
            return X, n_rows


# Targets, each from codes (0, 1 or 2 for each row).
LABELS = {
    "binary": lambda codes: codes % 2,
    "multiclass": lambda codes: codes,
    "floats": lambda codes: codes.astype(float),
    "far integers": lambda codes: codes * 2**62 - 2**61,
    "booleans": lambda codes: codes > 0,
    "unsigned": lambda codes: codes.astype(np.uint8),
    "text": lambda codes: np.array(["no", "yes", "maybe"])[codes],
    "objects": lambda codes: np.array(["no", "yes", "maybe"], dtype=object)[codes],
    "list": lambda codes: codes.tolist(),
    "series": lambda codes: pd.Series(codes, index=np.arange(len(codes))[::-1]),
    "nullable": lambda codes: pd.Series(codes).astype("Int64"),
    "categories": lambda codes: pd.Series(np.array(["no", "yes", "maybe"])[codes]).astype("category"),
    "column": lambda codes: codes[:, np.newaxis],
    "multilabel": lambda codes: np.column_stack([codes > 0, codes > 1, codes == 0]).astype(int),
    "sparse multilabel": lambda codes: sparse.csr_array(np.column_stack([codes > 0, codes > 1]).astype(int)),
    "one class": lambda codes: np.zeros(len(codes), int),
    "continuous": lambda codes: codes + 0.5,
    "mixed": lambda codes: np.array([0, "yes", None], dtype=object)[codes],
    "missing": lambda codes: np.where(codes == 2, np.nan, codes),
    "infinite": lambda codes: np.where(codes == 2, np.inf, codes),
    "complex": lambda codes: codes * 1j,
    "dates": lambda codes: np.datetime64("2026-01-01") + codes.astype("timedelta64[D]"),
    "too short": lambda codes: codes[:-1],
    "too wide": lambda codes: np.column_stack([codes, codes, codes]),
    "None": lambda codes: None,
    "a number": lambda codes: 1,
}
PLAIN_LABELS = ["binary", "multiclass", "floats", "booleans", "text", "multilabel"]


@st.composite
def make_labels(draw, n_rows, kinds=tuple(LABELS)):
    codes = np.random.default_rng(draw(st.integers(0, 3))).integers(3, size=n_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LABELS[draw(st.sampled_from(kinds))](codes)


# Weights, each from numbers between 0 and 1.
WEIGHTS = {
    "none": lambda values: None,
    "fractions": lambda values: values,
    "counts": lambda values: np.floor(values * 4),
    "list": lambda values: values.tolist(),
    "a number": lambda values: 2.0,
    "zeros": lambda values: np.zeros_like(values),
    "one positive": lambda values: (np.arange(len(values)) == 0).astype(float),
    "huge": lambda values: values * 1e300,
    "tiny": lambda values: values * 1e-300,
    "denormal": lambda values: values * 1e-320,
    "all scales": lambda values: 10 ** (600 * values - 300),
    "negative": lambda values: values - 0.5,
    "missing": lambda values: np.where(values > 0.5, np.nan, values),
    "infinite": lambda values: np.where(values > 0.5, np.inf, values),
    "text": to_text,
    "integers": lambda values: (values * 3).astype(np.int8),
    "booleans": lambda values: values > 0.5,
    "too short": lambda values: values[:-1],
    "column": lambda values: values[:, np.newaxis],
    "complex": lambda values: values * 1j,
}
PLAIN_WEIGHTS = ["none", "none", "none", "fractions", "counts"]


@st.composite
def make_weights(draw, n_rows, kinds=tuple(WEIGHTS)):
    values = np.random.default_rng(draw(st.integers(0, 3))).random(n_rows)
    return WEIGHTS[draw(st.sampled_from(kinds))](values)


VALID = {
    "hidden_layer_sizes": [(), (2,), 3, (2, 2), np.array([2]), [np.int8(2)]],
    "activation": list(ACTIVATIONS),
    "solver": ["adam", "sgd", "lbfgs"],
    "alpha": ["auto", 0, 1.0, 1e-300, 1e300, np.float32(1)],
    "C": [None, 1.0, 1e-300, 1e300, np.inf],
    "batch_size": ["auto", "full", 1, 7, 10**9],
    "learning_rate": ["constant", "invscaling", "adaptive", "cosine", "one_cycle"],
    "learning_rate_init": [1e-3, 1.0, 1e-300, 1e300],
    "power_t": [0, 0.5, 1e300],
    "max_iter": [1, 3],
    "shuffle": [True, False],
    "random_state": [0, 2**32 - 1, None],
    "tol": [0, 1e-4, 1e300],
    "warm_start": [False, True],
    "momentum": [0, 0.9, 1],
    "nesterovs_momentum": [True, False],
    "early_stopping": [False, True],
    "validation_fraction": [0, 0.1, 0.5, 0.999],
    "beta_1": [0, 0.9, 1 - 1e-16],
    "beta_2": [0, 0.999, 1 - 1e-16],
    "epsilon": [1e-8, 1e-300, 1e300],
    "n_iter_no_change": [1, np.inf],
    "max_fun": [1, 100],
    "loss": ["log_loss", "mae", "brier"],
    "dropout": [0.0, 0.5, 0.999],
    "class_weight": [None, "balanced", {0: 2, 1: 0.5}, {0: 0}, {0: 1e300}, {"no": 3}, [{0: 1}, {1: 2}, {}]],
    "categorical_features": ["from_dtype", None, [0], [True], ["a"], [-1], [0.5]],
    "numeric_encoding": ["auto", "piecewise", None],
    "standardize": [True, False],
    "init": ["he_uniform", "glorot_uniform", "scratch"],
    "hidden_bias": [True, False],
    "device": ["auto", "cpu"],
    "dtype": ["auto", "float32", "float64"],
    "scoring": ["loss", "accuracy", "roc_auc", "neg_log_loss", "r2"],
}
# For every parameter.
INVALID = [None, -1, 0, 1.5, np.nan, np.inf, -np.inf, "no such name", "", [], {}, (1, 2, 3), object(), 1j, b"x", [None]]


@st.composite
def make_parameters(draw, n_most=3):
    """Draw values of some parameters, valid ones for the most part."""
    names = draw(st.lists(st.sampled_from(sorted(VALID)), max_size=n_most, unique=True))
    is_invalid = draw(st.integers(0, 4)) == 0
    return {
        name: draw(st.sampled_from(INVALID if is_invalid and place == 0 else VALID[name]))
        for place, name in enumerate(names)
    }
