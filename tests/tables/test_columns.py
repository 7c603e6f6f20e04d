"""Which columns have weights, and how far from training a row to predict may be."""

import copy
import functools

import numpy as np
import pytest
import torch
from helpers import make_network, make_table
from scipy import sparse
from sklearn.model_selection import KFold, cross_validate
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.activations import ACTIVATIONS
from scratchnn.network import init_coeffs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
FORMS = [np.asarray, sparse.csr_array]


make_classifier = functools.partial(make_network, hidden_layer_sizes=(8,), max_iter=8)


# --- columns that do not vary


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"solver": "sgd"}, {"early_stopping": True}])
@pytest.mark.parametrize("form", FORMS, ids=["dense", "sparse"])
@pytest.mark.parametrize("constant", [0.0, 7.0, 1.7e9 + 0.1])
def test_constant_column_has_no_weights_and_may_change_later(form, constant, params):
    X, y = make_table(300, 6, 2)
    X[:, 3] = constant
    classifier = make_classifier(**params).fit(form(X), y)
    assert (classifier.coefs_[0][3] == 0).all()
    assert (classifier.coefs_[0][[0, 1, 2, 4, 5]] != 0).any(1).all()
    expected = classifier.predict_proba(form(X))
    X[:, 3] = 5000.0
    np.testing.assert_allclose(classifier.predict_proba(form(X)), expected, rtol=1e-6)


def test_column_that_varies_by_rounding_has_no_weights():
    X, y = make_table(300, 6, 2)
    X[:, 3] = np.where(y, 0.3, 0.1 + 0.2)
    assert np.ptp(X[:, 3]) > 0
    assert (make_classifier().fit(X, y).coefs_[0][3] == 0).all()


@pytest.mark.parametrize("form", FORMS, ids=["dense", "sparse"])
def test_columns_without_weights_leave_the_others_their_initialisation(form):
    """Which is that of a network without these columns."""
    X, y = make_table(300, 6, 2)
    wide = np.insert(X, [2, 4], 7.0, axis=1)
    for params in [{}, {"solver": "lbfgs", "dtype": "float64"}]:
        narrow_fit, wide_fit = make_classifier(**params).fit(form(X), y), make_classifier(**params).fit(form(wide), y)
        np.testing.assert_allclose(np.delete(wide_fit.coefs_[0], [2, 5], 0), narrow_fit.coefs_[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(wide_fit.predict_proba(form(wide)), narrow_fit.predict_proba(form(X)), rtol=1e-3)


@pytest.mark.parametrize("form", FORMS, ids=["dense", "sparse"])
def test_constant_column_that_the_network_sees_has_weights(form):
    X, y = make_table(300, 6, 2)
    X[:, 3], X[:, 4] = 1.0, 0.0
    first = make_classifier(standardize=False).fit(form(X), y).coefs_[0]
    assert (first[3] != 0).all()
    assert (first[4] == 0).all()


def test_scratch_recipe_draws_weights_for_all_columns(cancer):
    X = np.insert(StandardScaler().fit_transform(cancer[0]), [0, 3], 0.0, axis=1).astype(np.float32)
    recipe = ScratchNNClassifier.from_recipe("scratch", random_state=442, max_iter=1, learning_rate_init=1e-12)
    drawn = init_coeffs(X.shape[1], generator=torch.Generator().manual_seed(442))
    for form in FORMS:
        fitted = recipe.fit(form(X), cancer[1])
        np.testing.assert_allclose(fitted.coefs_[0], drawn.weights[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=["dense", "sparse"])
def test_table_of_constants_gives_the_frequencies(form):
    classifier = make_classifier(max_iter=100, learning_rate_init=0.05, tol=0, n_iter_no_change=100)
    classifier.fit(form(np.full((100, 3), 5.0)), np.arange(100) % 4 == 0)
    np.testing.assert_allclose(classifier.predict_proba(form(np.full((1, 3), 9.0)))[0, 1], 0.25, atol=0.02)


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"early_stopping": True}])
@pytest.mark.parametrize("form", FORMS, ids=["dense", "sparse"])
def test_two_warm_fits_equal_one_where_columns_have_no_weights(form, params):
    X, y = make_table(300, 6, 2)
    X[:, 3], X[:, 4] = 0.1, 0.0
    common = {"tol": 0, "n_iter_no_change": 100, "learning_rate": "constant", **params}
    once = make_classifier(max_iter=8, **common).fit(form(X), y)
    twice = make_classifier(max_iter=4, warm_start=True, **common).fit(form(X), y).fit(form(X), y)
    rtol = 1e-3 if "solver" in params else 0  # L-BFGS begins its memory anew
    if "solver" not in params:
        np.testing.assert_allclose(twice.coefs_[0], once.coefs_[0], rtol=rtol)
    assert (twice.coefs_[0][3:5] == 0).all()


@pytest.mark.parametrize("first_form", FORMS, ids=["dense first", "sparse first"])
@pytest.mark.parametrize("second_form", FORMS, ids=["then dense", "then sparse"])
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"solver": "lbfgs", "early_stopping": True}])
def test_column_that_begins_to_vary_gets_weights_in_a_warm_start(first_form, second_form, params):
    X, y = make_table(300, 6, 2)
    was_constant = X.copy()
    was_constant[:, 0] = 0.0
    classifier = make_classifier(warm_start=True, max_iter=30, **params).fit(first_form(was_constant), y)
    assert (classifier.coefs_[0][0] == 0).all()
    before = classifier.score(second_form(X), y)
    classifier.fit(second_form(X), y)
    assert (classifier.coefs_[0] != 0).any(1).all()
    assert classifier.score(second_form(X), y) > before + 0.1


def test_partial_fit_after_fit_learns_all_columns():
    X, y = make_table(300, 6, 2)
    was_constant = X.copy()
    was_constant[:, 0] = 0.0
    classifier = make_classifier(hidden_layer_sizes=()).fit(was_constant, y)
    for _ in range(30):
        classifier.partial_fit(X, y)
    assert classifier.score(X, y) > 0.9


def test_fits_on_folds_train_together_though_other_columns_are_constant_in_each():
    X, y = make_table(300, 6, 2)
    X[:, 3] = np.arange(len(X)) < 20  # constant outside the first fold
    X[:, 4] = np.arange(len(X)) >= 280
    options = {"cv": KFold(3), "return_estimator": True}
    alone = cross_validate(make_classifier(), X, y, **options)
    with fused_fits() as report:
        fused = cross_validate(make_classifier(), X, y, **options)
    assert [stack.n_models for stack in report.stacks] == [3]
    for left, right in zip(alone["estimator"], fused["estimator"], strict=True):
        np.testing.assert_allclose(right.coefs_[0], left.coefs_[0], rtol=1e-4, atol=1e-6)


def test_wide_table_with_few_columns_in_use_trains_a_small_network(monkeypatch):
    from scratchnn.training import loop

    sizes = []
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda runs: sizes.append(runs[0].buffer.sizes) or train(runs))
    rng = np.random.default_rng(0)
    columns = rng.choice(2**18, 50, replace=False)
    entries = rng.choice(columns, 900)
    X = sparse.csr_array((np.ones(900), (np.repeat(np.arange(300), 3), entries)), (300, 2**18))
    X.sum_duplicates()
    classifier = make_classifier(hidden_layer_sizes=(3,), early_stopping=True, scoring="accuracy")
    classifier.fit(X, np.arange(300) % 2)
    n_used = len(np.unique(entries))
    assert n_used - 5 <= sizes[0][0] <= n_used  # some may be in the validation rows only
    assert classifier.coefs_[0].shape == (2**18, 3)
    assert classifier.predict_proba(X).shape == (300, 2)


# --- sparse columns far from zero


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"hidden_layer_sizes": ()}])
@pytest.mark.parametrize("low", [2004, 273.15, 1.7e9, -120])
def test_sparse_columns_far_from_zero_train_as_dense_ones(low, params):
    """The others are one-hot columns, of which a dense fit subtracts the mean, so that the two differ a little."""
    rng = np.random.default_rng(0)
    values = low + rng.integers(0, 20, 600)
    X = np.column_stack([np.eye(10)[rng.integers(0, 10, 600)], values])
    y = values > low + 10
    dense, other = (
        make_classifier(max_iter=60, learning_rate_init=0.01, **params).fit(form(X[:400]), y[:400]) for form in FORMS
    )
    np.testing.assert_allclose(other.mean_, [*np.zeros(10), dense.mean_[10]], rtol=1e-12)
    np.testing.assert_allclose(other.scale_, dense.scale_, rtol=1e-9)
    assert other.score(sparse.csr_array(X[400:]), y[400:]) >= dense.score(X[400:], y[400:]) - 0.02 > 0.9
    np.testing.assert_allclose(other.predict_proba(X[400:]), other.predict_proba(sparse.csr_array(X[400:])), rtol=1e-5)


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"batch_size": "full"}])
def test_full_sparse_table_trains_as_the_dense_one(params):
    rng = np.random.default_rng(0)
    X = rng.lognormal(10, 1.5, size=(200, 3))
    y = X[:, 0] > np.exp(10)
    dense, other = (make_classifier(dtype="float64", numeric_encoding=None, **params).fit(form(X), y) for form in FORMS)
    for left, right in zip(other.coefs_, dense.coefs_, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("never_dense")
def test_one_full_column_leaves_a_wide_table_sparse():
    rng = np.random.default_rng(0)
    words = sparse.random_array((400, 30_000), density=1e-3, rng=rng, format="csr")
    year = rng.integers(2004, 2024, 400)
    X = sparse.hstack([words, year[:, np.newaxis]], format="csr")
    classifier = make_classifier(max_iter=50).fit(X, year > 2014)
    assert classifier.score(X, year > 2014) > 0.98
    assert np.flatnonzero(classifier.mean_).tolist() == [30_000]


def test_partial_fit_centres_a_sparse_column_by_all_rows_so_far():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(2004, 2024, 500), rng.random(500) < 0.1]).astype(float)
    y = X[:, 0] > 2013
    classifier = make_classifier(learning_rate_init=0.02)
    for _ in range(20):
        for rows in np.split(np.arange(500), [1, 2, 100, 350]):
            classifier.partial_fit(sparse.csr_array(X[rows]), y[rows], classes=[False, True])
    np.testing.assert_allclose(classifier.mean_, [X[:, 0].mean(), 0])
    np.testing.assert_allclose(classifier.scale_, [X[:, 0].std(), 1])
    assert classifier.score(sparse.csr_array(X), y) > 0.95


# --- rows far from those of training


@pytest.mark.parametrize("form", FORMS, ids=["dense", "sparse"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "linear"])
@pytest.mark.parametrize("value", [np.finfo(np.float32).min, np.finfo(np.float32).max])
def test_predictions_of_rows_beyond_float32_are_those_of_float64(value, kind, activation, form):
    X, y = make_table(300, 6, 2)
    X *= 0.01
    if kind == "multiclass":
        y = y + (X[:, 2] > 0)
    elif kind == "multilabel":
        y = (X[:, :3] > 0).astype(int)
    params = {"hidden_layer_sizes": () if kind == "linear" else (8,), "activation": activation, "max_iter": 2}
    classifier = make_classifier(**params).fit(form(X), y)
    wide = copy.copy(classifier)
    wide.coefs_ = [coef.astype(np.float64) for coef in classifier.coefs_]
    wide.intercepts_ = [intercept.astype(np.float64) for intercept in classifier.intercepts_]
    rows = X[:6].copy()
    rows[2, 0] = rows[4, 3] = rows[4, 1] = value
    for method in ["decision_function", "predict_proba", "predict_log_proba"]:
        result = getattr(classifier, method)(form(rows))
        assert np.isfinite(result).all()
        np.testing.assert_allclose(result, getattr(wide, method)(form(rows)), rtol=1e-3, atol=1e-6)
        near = [0, 1, 3, 5]
        np.testing.assert_allclose(result[near], getattr(classifier, method)(form(rows[near])), rtol=1e-5)
    assert classifier.predict(form(rows)).shape == y[:6].shape


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_predictions_of_rows_beyond_float64_are_finite(hidden, standardize):
    """As those of a row far out in the same direction, where products of float64 are finite still."""
    X, y = make_table(300, 6, 2)
    X *= 0.01
    classifier = make_classifier(hidden_layer_sizes=hidden, standardize=standardize).fit(X, y)
    rows = np.vstack([X[:2], [[1e308, 0, 0, 0, 0, 0], [1e90, 0, 0, 0, 0, 0]]])
    probabilities = classifier.predict_proba(rows)
    assert np.isfinite(classifier.decision_function(rows)).all()
    np.testing.assert_array_equal(probabilities[2], probabilities[3])
    np.testing.assert_array_equal(rows[2], [1e308, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("name", ["coefs_", "intercepts_", "mean_", "scale_"])
def test_attributes_that_are_not_finite_are_an_error_of_predictions(name):
    X, y = make_table(300, 6, 2)
    classifier = make_classifier().fit(X, y)
    values = getattr(classifier, name)
    setattr(classifier, name, [each * np.nan for each in values] if isinstance(values, list) else values * np.nan)
    with pytest.raises(ValueError, match="coefs_, intercepts_, mean_ and scale_ must be finite"):
        classifier.predict(X)
