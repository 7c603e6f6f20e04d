"""Whatever goes in: a model whose probabilities are finite and sum to one, or an error that says what was wrong.

An error is clear if it is a ValueError or a TypeError that names a parameter or an input, and if a check raised it: its
traceback ends in a ``raise`` statement of scratchnn, or in scikit-learn's validation, and not where NumPy or PyTorch
happened to fail. Warnings other than UserWarning, such as NumPy's RuntimeWarning, are errors, too.

A hundred examples of each test run by default, always the same ones, and 10,000 with ``HYPOTHESIS_PROFILE=long``.
"""

import copy
import linecache
import math
import pickle
import re
import traceback
import warnings
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import scratchnn
from scratchnn import ScratchNNClassifier

OURS, SKLEARN = (str(Path(package.__file__).parent) for package in (scratchnn, sklearn))
# What the user passed, by the names that scikit-learn's errors and ours have for it.
INPUTS = [
    "X",
    "X_val",
    "y",
    "y_val",
    "sample_weight",
    "sample_weight_val",
    "classes",
    "array",
    "features",
    "samples",
    "data",
    "label",
]
NAMES = re.compile(rf"\b({'|'.join([*ScratchNNClassifier().get_params(), 'alphas', 'cv', *INPUTS])})\b")


def find_fault(error):
    """Return why an error is not clear, or None if it is."""
    if not isinstance(error, ValueError | TypeError):
        return "its type"
    if not NAMES.search(str(error)):
        return "it names nothing that was passed"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno).strip()
    if frame.filename.startswith(OURS) and line.startswith("raise"):
        return None
    # scikit-learn converts X and y with NumPy and pandas, whose errors about a value it lets through.
    is_checked = any(frame.filename.startswith(SKLEARN) for frame in traceback.extract_tb(error.__traceback__))
    return None if is_checked else f"it comes from {frame.filename}:{frame.lineno}: {line}"


@contextmanager
def only_user_warnings():
    """Make errors of warnings, except of those for users, such as ConvergenceWarning and DataConversionWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UserWarning)
        yield


@only_user_warnings()
def call_or_refuse(call):
    """Make a call, and return its result, or None if it raised a clear error."""
    try:
        return call()
    except Exception as error:
        fault = find_fault(error)
        if fault is not None:
            raise AssertionError(f"The error is not clear, see {fault}: {type(error).__name__}: {error}") from error
        event(f"refused: {str(error)[:40]}")
        return None


@only_user_warnings()
def assert_sound(model, X, n_rows):
    """Check what a model predicts for rows, which it may refuse."""
    probabilities = call_or_refuse(lambda: model.predict_proba(X))
    if probabilities is None:
        return
    assert probabilities.shape == (n_rows, len(model.classes_))
    assert np.isfinite(probabilities).all()
    assert ((probabilities > 0) & (probabilities < 1)).all()
    if model.out_activation_ == "softmax" or model.n_outputs_ == 1:
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
        assert np.isin(model.predict(X), model.classes_).all()
    assert np.isfinite(model.predict_log_proba(X)).all()
    assert np.isfinite(model.decision_function(X)).all()


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
    "read-only": lambda X: make_read_only(X),
    "list": lambda X: X.tolist(),
    "matrix of objects": lambda X: X.astype(object),
    "objects with None": lambda X: np.where(X > 1, None, X.astype(object)),
    "text": lambda X: to_text(X),
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


def make_read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


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
    "text": lambda values: to_text(values),
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
    "activation": ["relu", "tanh", "logistic", "identity", "leaky_relu", "gelu", "silu"],
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


def network(**changes):
    return ScratchNNClassifier(**({"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0} | changes))


@given(st.data())
def test_any_table_is_learned_from_or_refused(data):
    X, n_rows = data.draw(make_tables())
    y = data.draw(make_labels(n_rows, PLAIN_LABELS))
    changes = data.draw(make_parameters(1))
    model = call_or_refuse(lambda: network(**changes).fit(X, y))
    if model is not None:
        assert_sound(model, X, n_rows)
        other, n_others = data.draw(make_tables())
        assert_sound(model, other, n_others)


@given(st.data())
def test_numbers_of_any_scale_are_learned_from_or_refused(data):
    X, n_rows = data.draw(make_tables(forms=PLAIN_FORMS, dtypes=["float64", "float64", "float32"]))
    y = data.draw(make_labels(n_rows, ["binary", "multiclass", "multilabel"]))
    changes = data.draw(make_parameters())
    model = call_or_refuse(lambda: network(**changes).fit(X, y))
    if model is not None:
        assert_sound(model, X, n_rows)


@given(st.data())
def test_any_targets_and_weights_are_learned_from_or_refused(data):
    columns = ["normal", "two values", "times"]
    X, n_rows = data.draw(make_tables(forms=["same"], columns=columns, dtypes=["float64"]))
    y, weights = data.draw(make_labels(n_rows)), data.draw(make_weights(n_rows))
    changes = data.draw(make_parameters(2))
    model = call_or_refuse(lambda: network(**changes).fit(X, y, sample_weight=weights))
    if model is not None:
        assert_sound(model, X, n_rows)


@given(st.data())
def test_any_validation_data_are_used_or_refused(data):
    X, n_rows = data.draw(make_tables(n_rows=20, forms=["same", "text", "CSR"], columns=["normal"], dtypes=["float64"]))
    y = data.draw(make_labels(n_rows, PLAIN_LABELS))
    X_val, n_val = data.draw(make_tables())
    y_val, weights = data.draw(make_labels(n_val)), data.draw(make_weights(n_val))
    changes = {"early_stopping": True, "scoring": data.draw(st.sampled_from(VALID["scoring"]))}
    validation = {"X_val": X_val, "y_val": y_val, "sample_weight_val": weights}
    model = call_or_refuse(lambda: network(**changes).fit(X, y, **validation))
    if model is not None:
        assert_sound(model, X, n_rows)


@given(st.data())
def test_cross_validation_chooses_a_sound_model_or_refuses(data):
    X, n_rows = data.draw(make_tables(forms=PLAIN_FORMS))
    y = data.draw(make_labels(n_rows, PLAIN_LABELS))
    weights = data.draw(make_weights(n_rows))
    changes = {
        "alphas": data.draw(st.sampled_from(["auto", [0.1, 1.0], [1e300], [], [-1], None, "x", [[1]], ["a"]])),
        "cv": data.draw(st.sampled_from([None, 2, 3, 1, 0, 50, "x"])),
    }
    changes |= {
        name: value
        for name, value in data.draw(make_parameters(1)).items()
        if name in ScratchNNClassifierCV().get_params()
    }
    parameters = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0} | changes
    model = call_or_refuse(lambda: ScratchNNClassifierCV(**parameters).fit(X, y, sample_weight=weights))
    if model is not None:
        assert_sound(model, X, n_rows)


class Uses(RuleBasedStateMachine):
    """Any sequence of calls: one that is refused changes nothing."""

    @initialize(changes=make_parameters())
    def make(self, changes):
        self.model = network(**changes)
        self.rows, self.n_rows, self.probabilities = None, 0, None

    def train(self, call, X, n_rows):
        was_fitted = hasattr(self.model, "coefs_")
        before = self.predict()
        if call_or_refuse(call) is None:
            assert hasattr(self.model, "coefs_") == was_fitted
            after = self.predict()
            assert (before is None) == (after is None)
            if before is not None:
                np.testing.assert_array_equal(after, before)
        else:
            self.rows, self.n_rows = X, n_rows

    def predict(self):
        if not hasattr(self.model, "coefs_"):
            return None
        return call_or_refuse(lambda: self.model.predict_proba(self.rows))

    @rule(data=st.data())
    def fit(self, data):
        X, n_rows = data.draw(make_tables(columns=["normal", "huge", "missing", "constant"]))
        y = data.draw(make_labels(n_rows, [*PLAIN_LABELS, "one class"]))
        self.train(lambda: self.model.fit(X, y), X, n_rows)

    @rule(data=st.data())
    def partial_fit(self, data):
        forms = ["same", "same", "same", "text", "CSR", "list"]
        X, n_rows = data.draw(make_tables(forms=forms, columns=["normal", "huge", "missing"], dtypes=["float64"]))
        y = data.draw(make_labels(n_rows, ["binary", "multiclass", "text"]))
        weights = data.draw(make_weights(n_rows, [*PLAIN_WEIGHTS, "zeros", "huge"]))
        classes = data.draw(st.sampled_from([None, [0, 1], [0, 1, 2], ["maybe", "no", "yes"], [0], []]))
        if hasattr(self.model, "partial_fit"):
            self.train(lambda: self.model.partial_fit(X, y, weights, classes=classes), X, n_rows)

    @rule(changes=make_parameters(2))
    def set_params(self, changes):
        self.model.set_params(**changes)

    @rule()
    def fit_again(self):
        if self.n_rows and hasattr(self.model, "coefs_"):
            y = np.resize(self.model.classes_, self.n_rows)
            self.train(lambda: self.model.fit(self.rows, y), self.rows, self.n_rows)

    @rule(is_deep=st.booleans())
    def copy(self, is_deep):
        before = self.predict()
        self.model = copy.deepcopy(self.model) if is_deep else pickle.loads(pickle.dumps(self.model))
        if before is not None:
            np.testing.assert_array_equal(self.predict(), before)

    @rule()
    def clone(self):
        self.model = clone(self.model)
        assert not hasattr(self.model, "coefs_")

    @invariant()
    def predicts_soundly(self):
        model = getattr(self, "model", None)
        if model is None:
            return
        if hasattr(model, "coefs_"):
            assert_sound(model, self.rows, self.n_rows)
            return
        try:
            model.predict([[0.0]])
        except NotFittedError:
            return
        raise AssertionError("a model that is not fitted predicts")


TestAnySequenceOfCallsLeavesASoundModel = Uses.TestCase
TestAnySequenceOfCallsLeavesASoundModel.settings = settings(
    max_examples=math.ceil(settings().max_examples / 4), stateful_step_count=10
)
