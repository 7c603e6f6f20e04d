"""Whatever goes in: a model whose probabilities are finite and sum to one, or an error that says what was wrong.

An error names the parameter, the rule, the value and the remedy. First come the errors by name, then values at the
edge of what can be computed with. At the end, hypothesis draws tables, targets, weights and parameters. Of these an
error is clear if it is a ValueError or a TypeError that names a parameter or an input, and if a check raised it: its
traceback ends in a ``raise`` statement of scratchnn, or in scikit-learn's validation, and not where NumPy or PyTorch
happened to fail. Warnings other than UserWarning, such as NumPy's RuntimeWarning, are errors, too. A hundred examples
of each test run by default, always the same ones, and 10,000 with ``HYPOTHESIS_PROFILE=long``. A fault that they found
has a plain test, too.
"""

import copy
import linecache
import math
import pickle
import re
import traceback
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sklearn
import torch
from helpers import assert_same_fit, make_network, make_table
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from strategies import (
    PLAIN_FORMS,
    PLAIN_LABELS,
    PLAIN_WEIGHTS,
    VALID,
    make_labels,
    make_parameters,
    make_tables,
    make_weights,
)

import scratchnn
from scratchnn import ScratchNNClassifier

X, y = make_table(40, 3)
LABELS = np.column_stack([y, 1 - y])
METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]
network = partial(make_network, hidden_layer_sizes=(3,), max_iter=2)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# --- parameters

BAD_PARAMETERS = {
    "hidden_layer_sizes": ["wide", -1, 0, 2.5, (5, 0), (5, -2), (2.5,), [True], None],
    "activation": ["selu", None],
    "solver": ["newton", 1],
    "alpha": [-1e-9, "big", None],
    "C": [0, -1.0, "auto"],
    "batch_size": [0, -1, 2.5, "half"],
    "learning_rate": ["warm"],
    "learning_rate_init": [0, -0.1, "fast"],
    "power_t": [-1, "x"],
    "max_iter": [0, -5, 1.5],
    "shuffle": ["yes", 3],
    "random_state": ["seed", -1, 1.5],
    "tol": [-1e-4, "x"],
    "verbose": ["loud", -1],
    "warm_start": ["no"],
    "momentum": [-0.1, 1.1],
    "nesterovs_momentum": ["yes"],
    "early_stopping": ["yes"],
    "validation_fraction": [-0.1, 1.0],
    "beta_1": [-0.1, 1.0],
    "beta_2": [-0.1, 1.0],
    "epsilon": [0, -1],
    "n_iter_no_change": [0, -1, 2.5],
    "max_fun": [0, 1.5],
    "loss": ["hinge", None],
    "dropout": [-0.1, 1.0, "half"],
    "class_weight": ["even", {0: -1.0}, {0: np.nan}, [{0: 1}], 2.0],
    "categorical_features": ["by name", 3],
    "numeric_encoding": ["bins", True],
    "standardize": ["yes", None],
    "init": ["zeros"],
    "hidden_bias": ["no"],
    "device": [3, None, "gpu", "mps", "cuda:-1"],
    "dtype": ["float16", np.float32],
    "scoring": ["applause", 3],
}


def test_every_parameter_is_tried():
    assert sorted(BAD_PARAMETERS) == sorted(ScratchNNClassifier().get_params())


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_PARAMETERS.items() for value in values]
)
def test_parameter_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError) as error:
        ScratchNNClassifier(**{name: value}).fit(X, y)
    message = str(error.value)
    assert name in message
    assert "must" in message
    assert repr(value).strip("[]()").rstrip(",") in message


# Parameters that do not go with one another, or with the data.
COMBINATIONS = [
    ({"C": 2, "alpha": 0.5}, "C and alpha must not both be set, as alpha is 1 / C, got C=2 and alpha=0.5. Leave"),
    ({"dropout": 0.5, "solver": "lbfgs"}, r"dropout must be 0 with solver='lbfgs'.*got 0.5.*Use solver='adam'"),
    ({"dtype": "tf32", "solver": "lbfgs"}, r"dtype must be .* with solver='lbfgs'.*got 'tf32'.*use solver='adam'"),
    ({"dtype": "bfloat16", "solver": "lbfgs"}, r"dtype must be .* with solver='lbfgs'.*got 'bfloat16'.*use solver="),
    ({"class_weight": [{0: 1}]}, "class_weight must be a dict, 'balanced' or None for targets of one column"),
    ({"class_weight": {0: np.inf}}, "class_weight must have finite weights"),
    ({"class_weight": {0: 0, 1: 0}}, "class_weight must have a positive value, got only zeros"),
    *[
        ({"class_weight": {0: weight}}, r"class_weight must give each class a number, got {0: .*}: .* Pass a dict")
        for weight in ("x", 1j, [1])
    ],
    *[
        ({"class_weight": keys}, r"number, got {.*: The classes, .*, are not in class_weight. Pass .* no keys except")
        for keys in ({7: 1.0}, {"no": 1, "yes": 2}, {0: 1, 5: 2}, {"0": 1.0})
    ],
    ({"early_stopping": True, "validation_fraction": 0}, "validation set is too small: validation_fraction=0 of 40"),
    ({"early_stopping": True, "validation_fraction": 0.99}, "validation_fraction=0.99 of 40 .* Increase"),
]


@pytest.mark.parametrize(("params", "message"), COMBINATIONS)
def test_parameters_that_do_not_go_together_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        network(**params).fit(X, y)


@pytest.mark.parametrize("spec", [{0: 1}, [{0: 1}]])
def test_class_weights_of_several_labels_are_a_list_of_dicts(spec):
    with pytest.raises(ValueError, match="class_weight must be 'balanced' or a list of 2 dicts"):
        network(class_weight=spec).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"class_weight must give each class a number, got 1: "):
        network(class_weight=[1, 2]).fit(X, LABELS)


SCORES = {
    ("r2", 2): r"could not convert .* Choose another, such as 'loss' or 'accuracy'\.$",
    ("average_precision", 2): r"pos_label=1 .* positive class: sklearn.*make_scorer\(\.\.\., pos_label='b'\)\.$",
    ("roc_auc", 3): r"multi_class .*\. Use 'roc_auc_ovr'\.$",
    ("f1", 3): r"Target is multiclass .*[^.]\. Use 'f1_macro'\.$",
}


@pytest.mark.parametrize(("scoring", "n_classes"), SCORES)
def test_a_score_that_does_not_suit_the_labels_is_refused_with_what_does(scoring, n_classes):
    message = f"^scoring must suit the labels .*, got '{scoring}', .*: {SCORES[scoring, n_classes]}"
    with pytest.raises(ValueError, match=message):
        network(early_stopping=True, scoring=scoring).fit(X, np.resize(["a", "b", "c"][:n_classes], 40))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_cuda_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=r"device must be available, got .*cuda.* Use device='cpu' or 'auto'"):
        network(device=device).fit(X, y)


def test_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match=r"one of the recipes \['logistic_regression', 'scratch'\], got 'fry'"):
        ScratchNNClassifier.from_recipe("fry")


# --- tables, targets and weights


def with_value(value, dtype=float):
    table = X.astype(dtype)
    table[7, 1] = value
    return table


def with_infinities():
    table = with_value(np.inf)
    table[8, 1] = -np.inf
    return table


SETS = [[("a", "b"), ("a",)] * 20, [["a", "b"], ["c", "a"]] * 20, [{"a"}, set()] * 20]
SETS += [pl.Series([["a", "b"], ["c"]] * 20)]
MIXED = [np.resize(np.array(labels, dtype=object), 40) for labels in (["a", 1], ["a", {}])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.empty((0, 3)), np.empty(0)), r"Found array with 0 sample"),
        ((X, np.zeros(40)), r"y must have at least two classes, got one class: \[0.\]. Add samples"),
        ((np.where(X > 2, np.inf, X), y), "Input X contains infinity"),
        ((sparse.csr_array(with_infinities()), y), "Input X contains infinity"),  # without a warning of inf - inf
        ((sparse.csr_array(with_value(np.nan)), y), "Input X contains NaN"),
        ((X, np.where(y == 1, np.nan, 0.0)), r"y has \d+ missing values \(first at index 0\). Drop these samples."),
        ((X, y[:-1]), r"inconsistent numbers of samples: \[40, 39\]"),
        ((X, X[:, 0]), "Unknown label type: continuous"),
        ((X, np.column_stack([y, y + 1])), "y must be one label per sample, .* got multiclass-multioutput of shape"),
        *[((X, sets), "^y must be one label per sample, .* sets .*.MultiLabelBinarizer.$") for sets in SETS],
        *[((X, mixed), "^y must hold class labels of one type, which can be sorted, got other") for mixed in MIXED],
        ((X, y, np.ones(39)), r"sample_weight must have shape \(40,\), one weight per sample, got \(39,\)"),
        ((X, y, -np.ones(40)), "sample_weight must not have negative values, got -1. Use 0"),
        ((X, y, np.zeros(40)), "sample_weight must have a positive value, got only zeros. Use 0"),
        ((X, y, np.full(40, np.nan)), "Input sample_weight contains NaN"),
        *[
            ((X, y, weights), r"sample_weight must hold one real number per sample, got other values: ")
            for weights in (["a"] * 40, [None] * 39 + ["b"], [1j] * 40)
        ],
        ((np.full((40, 2), b"x"), y), "Columns 0, 1 of X have values of type .*S1"),
        ((np.full((40, 2), np.void(b"x")), y), "Columns 0, 1 of X have values of type .*V1"),
        (([[b"x"] * 2] * 40, y), "Columns 0, 1 of X have values of type .*bytes"),
        (([[1j] * 2] * 40, y), "Columns 0, 1 of X have values of type .*complex"),
        ((np.full((40, 2), 1j), y), "Complex data not supported"),
    ],
)
def test_bad_training_data_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        network().fit(*arguments)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"X_val": X}, "X_val and y_val must be given together, got None for y_val."),
        ({"y_val": y}, "got None for X_val"),
        ({"sample_weight_val": np.ones(40)}, "got None for X_val"),
        ({"X_val": X[:, :2], "y_val": y}, "X has 2 features, but ScratchNNClassifier is expecting 3"),
        (
            {"X_val": X, "y_val": y + 1},
            r"y_val must hold no labels except the classes of training, \[0 1\], got also \[2\]",
        ),
        ({"X_val": X, "y_val": y[:5]}, "inconsistent numbers of samples"),
        ({"X_val": X, "y_val": LABELS}, "y_val must have the form of the training targets, one"),
        ({"X_val": X + np.inf, "y_val": y}, "The validation data, X_val and y_val, .* Input X contains infinity"),
        ({"X_val": X, "y_val": y, "sample_weight_val": -np.ones(40)}, "sample_weight_val must not have negative"),
        ({"X_val": X, "y_val": y, "sample_weight_val": np.zeros(40)}, "sample_weight_val must have a positive value"),
    ],
)
def test_bad_validation_data_are_refused(validation, message):
    with pytest.raises(ValueError, match=message):
        network().fit(X, y, **validation)


def test_validation_rows_whose_class_has_no_weight_are_refused():
    with pytest.raises(ValueError, match="class_weight must have a positive value"):
        network(class_weight={1: 0}).fit(X, y, X_val=X[y == 1], y_val=y[y == 1])


@pytest.mark.parametrize("refuse", [lambda model: model.fit(X[:, :2], y[:9]), lambda model: model.fit(X, y * 0)])
def test_a_fit_that_is_refused_changes_nothing(refuse):
    model = network(warm_start=True).fit(X, y)
    before, attributes = model.predict_proba(X), dict(vars(model))
    with pytest.raises(ValueError):
        refuse(model)
    assert vars(model) == attributes
    np.testing.assert_array_equal(model.predict_proba(X), before)
    new = network()
    with pytest.raises(ValueError):
        refuse(new)
    assert vars(new) == vars(network())


# --- calls one after the other


@pytest.mark.parametrize("method", METHODS)
def test_predicting_needs_a_fit(method):
    with pytest.raises(NotFittedError, match="ScratchNNClassifier"):
        getattr(network(), method)(X)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:, :2], "X has 2 features, but ScratchNNClassifier is expecting 3 features"),
        (np.ones((2, 5)), "X has 5 features"),
        (np.ones(3), "Expected 2D array"),
        (np.ones((0, 3)), "0 sample"),
        (X + np.inf, "Input X contains infinity"),
        (with_value(-np.inf, np.float32), "Input X contains infinity"),
        (sparse.csr_array(with_value(-np.inf)), "Input X contains infinity"),
        (sparse.csr_array(with_value(np.nan)), "Input X contains NaN"),
    ],
)
def test_rows_to_predict_must_be_finite_and_have_the_columns_of_training(rows, message):
    with pytest.raises(ValueError, match=message):
        network().fit(X, y).predict(rows)


@pytest.mark.parametrize("device", [object(), 1j, None])
def test_predictions_refuse_a_device_of_another_type(device):
    model = network().fit(X, y).set_params(device=device)
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu', 'cuda'"):
        model.predict(X)


@pytest.mark.parametrize(
    ("params", "reason"), [({"solver": "lbfgs"}, "solver='lbfgs'"), ({"early_stopping": True}, "early_stopping=True")]
)
def test_partial_fit_says_why_it_is_not_there(params, reason):
    classifier = network(**params)
    assert not hasattr(classifier, "partial_fit")
    for error in (AttributeError, ValueError):
        with pytest.raises(error, match=f"partial_fit does not support {reason}.* Use fit, or set"):
            classifier.partial_fit(X, y, classes=[0, 1])


def test_partial_fit_cannot_balance_classes():
    with pytest.raises(ValueError, match=r"class_weight must be a dict or None for partial_fit.*'balanced'.*compute"):
        network(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_partial_fit_checks_classes():
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        network().partial_fit(X, y)
    classifier = network().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"is not the same as on last call to partial_fit"):
        classifier.partial_fit(X, y, classes=[1, 2])
    message = r"y must hold no labels except the classes of training, \[0 1\], got also \[7\]"
    with pytest.raises(ValueError, match=message):
        classifier.partial_fit(X, y + 7 * (y == 0))


@pytest.mark.parametrize("classes", [[0], [], np.array(["only"])])
def test_partial_fit_refuses_fewer_than_two_classes(classes):
    model = network()
    with pytest.raises(ValueError, match=r"classes must have at least two class labels, got"):
        model.partial_fit(X, np.resize(classes, 40) if len(classes) else y, classes=classes)
    model.partial_fit(X, y, classes=[0, 1])  # nothing is left of them


@pytest.mark.parametrize("classes", [["a", None], [0, np.nan], [0.5, 1.5], [1j, 2], 3])
def test_classes_that_are_no_labels_are_refused_by_name(classes):
    with pytest.raises((TypeError, ValueError), match=r"^classes must hold class labels of one type, which can be sor"):
        network().partial_fit(X, y, classes=classes)


def test_warm_start_refuses_other_classes_and_another_architecture():
    classifier = network(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"same classes as in the previous call to fit. Previously got \[0 1\]"):
        classifier.fit(X, y + 1)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes must not change .* got \(6,\)"):
        classifier.set_params(hidden_layer_sizes=(6,)).fit(X, y)


# --- at the edge of what can be computed with


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("value", [1.1e100, -1e300, np.finfo(float).max])
def test_values_whose_squares_overflow_are_refused(value, convert):
    message = r"X must have no values beyond 1e\+100 to train on, .* in column 1. Divide the column"
    with pytest.raises(ValueError, match=message):
        network().fit(convert(with_value(value)), y)
    with pytest.raises(ValueError, match=message):
        network().partial_fit(convert(with_value(value)), y, classes=[0, 1])


@pytest.mark.parametrize(("value", "dtype"), [(1e100, float), (-1e100, float), (1e-300, float), (3e38, np.float32)])
def test_values_up_to_there_are_learned_from(value, dtype):
    """Also in float32, where NumPy would warn that the limit, 1e100, overflows."""
    model = network().fit(with_value(value, dtype), y)
    assert np.isfinite(model.scale_).all()
    assert np.isfinite(model.predict_proba(with_value(value, dtype))).all()
    assert np.isfinite(model.predict_proba(with_value(np.finfo(float).max))).all()


@pytest.mark.parametrize("weight", [1e51, 1e300, 1e-51, 5e-324])
def test_weights_beyond_what_can_be_summed_are_refused(weight):
    weights = np.full(40, weight)
    message = r"must have a largest value from 1e-50 to 1e\+50, got .* Multiply all weights by the same number"
    with pytest.raises(ValueError, match=f"sample_weight {message}"):
        network().fit(X, y, weights)
    with pytest.raises(ValueError, match=f"sample_weight {message}"):
        network().partial_fit(X, y, weights, classes=[0, 1])
    with pytest.raises(ValueError, match=f"sample_weight_val {message}"):
        network().fit(X, y, X_val=X, y_val=y, sample_weight_val=weights)
    with pytest.raises(ValueError, match=f"class_weight {message}"):
        network(class_weight={0: weight, 1: weight}).fit(X, y)


@pytest.mark.filterwarnings("ignore:sample_weight has a mean")
@pytest.mark.parametrize("weight", [1e50, 1e-50])
def test_weights_up_to_there_are_equal_to_ones_times_a_number(weight):
    model = network().fit(X, y, np.full(40, weight))
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_few_tiny_weights_leave_their_rows_out():
    weights = np.where(np.arange(40) < 30, 1.0, 1e-300)
    kept = network(alpha=0).fit(X[:30], y[:30])
    model = network(alpha=0, batch_size="full").fit(X, y, weights)
    np.testing.assert_allclose(model.mean_, kept.mean_, rtol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_a_constant_column_is_constant_for_any_weights(seed):
    """Weights below 1 gave it a variance from rounding, and then a scale of 0."""
    generator = np.random.default_rng(seed)
    table = np.column_stack([X, np.full(40, generator.normal())])
    model = network().fit(table, y, generator.random(40) * 1e-3)
    assert model.scale_[3] == 1
    assert not model.coefs_[0][3].any()


@pytest.mark.parametrize("n_rows", [1, 2, 40])
def test_reversed_rows_are_read_however_few_they_are(n_rows):
    """NumPy calls a reversed array of one row contiguous, but PyTorch takes no negative strides."""
    model = network().fit(X, y)
    rows = X[:n_rows]
    np.testing.assert_array_equal(model.predict_proba(rows[::-1]), model.predict_proba(rows)[::-1])
    np.testing.assert_array_equal(model.predict(rows[::-1, :]), model.predict(rows)[::-1])
    weights, labels = np.ones(n_rows)[::-1], y[:n_rows][::-1]
    tables = (rows[::-1], labels, weights), (rows[::-1].copy(), labels.copy(), weights.copy())
    assert_same_fit(*(network().partial_fit(*table, classes=[0, 1]) for table in tables))


def test_sparse_rows_are_predicted_by_a_model_that_saw_missing_values():
    """The encoder took the sparse table for a single object."""
    model = network().fit(with_value(np.nan), y)
    table = X.round()
    np.testing.assert_array_equal(model.predict_proba(sparse.csr_array(table)), model.predict_proba(table))
    twins = [
        network().fit(with_value(np.nan), y).partial_fit(kind(table), y) for kind in (np.asarray, sparse.csr_array)
    ]
    assert_same_fit(*twins)


@pytest.mark.parametrize("scale", [1e-170, 1e-162, 1e-155])
def test_columns_whose_scale_has_no_square_are_learned_from(scale):
    model = network().fit(np.column_stack([y * scale, X]), y)
    assert 0 < model.alpha_ < 100
    assert np.isfinite(model.predict_proba(np.column_stack([y * scale, X]))).all()


def test_a_power_that_overflows_makes_the_rate_zero():
    """(n + 1) ** 1e300 raised OverflowError."""
    params = {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0}
    long = network(**params, power_t=1e300, max_iter=3, tol=0, n_iter_no_change=np.inf).fit(X, y)
    short = network(**params, power_t=1e300, max_iter=1).fit(X, y)
    assert_same_fit(long, short)


# --- whatever hypothesis draws

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
NAMES = re.compile(rf"\b({'|'.join([*ScratchNNClassifier().get_params(), *INPUTS])})\b")


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
