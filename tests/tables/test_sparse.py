"""Sparse X, against the same rows dense."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TARGETS, assert_same_fit, make_network
from scipy import sparse
from sklearn.preprocessing import MaxAbsScaler

from scratchnn import ScratchNNClassifier
from scratchnn._kernels import get_grad
from scratchnn.batch import Batch
from scratchnn.network import calc_loss, calc_preds, init_coeffs, store_grads
from scratchnn.tables.bins import WIDE_LIMIT
from scratchnn.training.buffers import pack

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make_problem(kind="binary", n_rows=120):
    """Return mostly empty rows of columns that differ in scale, dense, and targets that they tell."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n_rows, 8)) * (generator.random((n_rows, 8)) < 0.3) * 2.0 ** np.arange(-4, 4)
    labels = X[:, 2:5] + 0.1 * generator.normal(size=(n_rows, 3)) > 0
    return X, {"binary": labels[:, 0], "multiclass": labels.argmax(1), "multilabel": labels.astype(int)}[kind]


make_classifier = functools.partial(
    make_network, batch_size=50, learning_rate_init=0.01, dtype="float64", numeric_encoding=None
)


@pytest.mark.parametrize("n_samples", [50, 20_000], ids=["one block", "several blocks"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("models", [(), (2,)], ids=["alone", "stacked"])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=["none", "one", "two"])
def test_network_takes_sparse_inputs_as_dense_ones(hidden, models, weighted, n_samples):
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    buffer = pack(init_coeffs(6, hidden, 3, generator=generator, output="softmax", hidden_bias=True))
    buffer = replace(buffer, flat=torch.randn(*models, len(buffer.flat), **options))
    dense = torch.randn(n_samples, 6, **options) * (torch.rand(n_samples, 6, **options) < 0.3)
    deps = torch.eye(3, dtype=torch.float64)[torch.randint(3, (n_samples,), generator=generator)]
    weights = torch.rand(*models, n_samples, **options) if weighted else None
    results = []
    for indeps in [dense, dense.to_sparse()]:
        current = replace(buffer, flat=buffer.flat.clone())
        grads = get_grad(current.flat)
        coeffs = current.as_coeffs()
        logits = store_grads(coeffs, Batch(indeps, deps, weights))
        results.append([grads, logits, calc_loss(coeffs, indeps, deps, weights), calc_preds(coeffs, indeps)])
    assert (results[0][0] != 0).any(-1).all()
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)


# --- fits


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", TARGETS)
def test_sparse_rows_train_and_predict_as_dense_ones(kind, solver, form):
    X, y = make_problem(kind)
    dense, other = (make_classifier(solver=solver, standardize=False).fit(rows, y) for rows in (X, form(X)))
    assert_same_fit(other, dense, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.predict_proba(form(X)), dense.predict_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(other.predict(form(X)), dense.predict(X))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "params",
    [
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": (4, 3), "hidden_bias": False},
        {"batch_size": "full"},
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "accuracy"},
        {"early_stopping": True, "solver": "lbfgs"},
        {"warm_start": True},
    ],
)
def test_every_way_of_training_takes_sparse_rows_as_dense_ones(params, weighted):
    X, y = make_problem(n_rows=9000 if "solver" in params else 120)  # more and fewer than are taken at once
    weights = np.arange(len(y)) % 3 if weighted else None
    dense, other = (make_classifier(standardize=False, **params) for _ in range(2))
    for _ in range(2):
        dense.fit(X, y, weights)
        other.fit(sparse.csr_array(X), y, weights)
    assert_same_fit(other, dense, rtol=1e-9, atol=1e-12)
    if other.early_stopping:
        np.testing.assert_allclose(other.validation_scores_, dense.validation_scores_, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_columns_are_scaled_but_not_centered(solver, weighted):
    X, y = make_problem()
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else None
    scaler = MaxAbsScaler().fit(X)
    inside = make_classifier(solver=solver).fit(sparse.csr_array(X), y, weights)
    outside = make_classifier(solver=solver, standardize=False).fit(X / scaler.scale_, y, weights)
    assert inside.mean_ is None
    np.testing.assert_allclose(inside.scale_, scaler.scale_, rtol=1e-12)
    assert_same_fit(inside, outside, rtol=1e-9, atol=1e-12)
    for rows in [X, sparse.csr_array(X)]:
        np.testing.assert_allclose(inside.predict_proba(rows), outside.predict_proba(X / scaler.scale_), rtol=1e-9)


def test_coef_of_a_sparse_fit_is_on_the_scale_of_the_original_columns():
    X, y = make_problem()
    classifier = make_classifier(hidden_layer_sizes=()).fit(sparse.csr_array(X), y)
    logits = X @ classifier.coef_[0] + classifier.intercept_
    np.testing.assert_allclose(classifier.decision_function(sparse.csr_array(X)), logits, rtol=1e-9)


@pytest.mark.parametrize("kind", TARGETS)
def test_partial_fit_takes_sparse_rows_and_scales_go_along(kind):
    X, y = make_problem(kind)
    dense, other = (make_classifier(standardize=False) for _ in range(2))
    scaled, scaler = make_classifier(), MaxAbsScaler()
    for part in np.split(np.arange(len(y)), [70]):
        classes = np.arange(3) if kind == "multilabel" else np.unique(y)
        dense.partial_fit(X[part], y[part], classes=classes)
        other.partial_fit(sparse.csr_array(X[part]), y[part], classes=classes)
        scaled.partial_fit(sparse.csr_array(X[part]), y[part], classes=classes)
        np.testing.assert_allclose(scaled.scale_, scaler.partial_fit(X[part]).scale_, rtol=1e-9)
    assert scaled.mean_ is None
    assert_same_fit(other, dense, rtol=1e-9, atol=1e-12)


def test_partial_fit_goes_on_with_the_form_it_began_with():
    X, y = make_problem()
    for first, second in [(X, sparse.csr_array(X)), (sparse.csr_array(X), X)]:
        classifier = make_classifier().partial_fit(first[:70], y[:70], classes=[False, True])
        classifier.partial_fit(second[70:], y[70:])
        np.testing.assert_allclose(classifier.scale_, X.std(0) if first is X else np.abs(X).max(0), rtol=1e-9)
        assert (classifier.mean_ is None) == sparse.issparse(first)


def test_one_form_may_follow_the_other():
    """Rows to predict or to validate with are transformed as those of training were."""
    X, y = make_problem()
    csr = sparse.csr_array(X)
    for rows in [X, csr]:
        by_dense, by_sparse = (make_classifier().fit(rows, y, X_val=X_val, y_val=y) for X_val in (X, csr))
        np.testing.assert_allclose(by_sparse.validation_loss_curve_, by_dense.validation_loss_curve_, rtol=1e-9)
        assert_same_fit(by_sparse, by_dense, rtol=1e-9, atol=1e-12)
        assert (by_dense.mean_ is None) == (rows is csr)
        np.testing.assert_allclose(by_dense.predict_proba(csr), by_dense.predict_proba(X), rtol=1e-9)


# --- matrices as they come


def make_messy(X):
    """Return the rows in CSR format with every entry as two halves, some explicit zeros, and columns out of order."""
    generator = np.random.default_rng(0)
    row, column = np.nonzero(X)
    zero_row, zero_column = np.argwhere(X == 0)[::7].T
    rows, columns = np.concatenate([row, row, zero_row]), np.concatenate([column, column, zero_column])
    values = np.concatenate([X[row, column] / 2, X[row, column] / 2, np.zeros(len(zero_row))])
    order = generator.permutation(len(rows))
    order = order[np.argsort(rows[order], kind="stable")]
    ends = np.cumsum(np.bincount(rows, minlength=len(X)))
    return sparse.csr_array((values[order], columns[order], np.concatenate([[0], ends])), X.shape)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_order_and_duplicates_of_entries_do_not_matter_and_stay(early_stopping):
    X, y = make_problem()
    messy = make_messy(X)
    np.testing.assert_array_equal(messy.toarray(), X)
    before = [array.copy() for array in (messy.data, messy.indices, messy.indptr)]
    plain, other = (
        make_classifier(early_stopping=early_stopping).fit(rows, y) for rows in (sparse.csr_array(X), messy)
    )
    assert_same_fit(other, plain, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.predict_proba(messy), plain.predict_proba(X), rtol=1e-9)
    for array, copy in zip((messy.data, messy.indices, messy.indptr), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_indices_may_be_of_64_bits():
    X, y = make_problem()
    wide = sparse.csr_array(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    plain, other = (make_classifier(early_stopping=True).fit(rows, y) for rows in (sparse.csr_array(X), wide))
    assert_same_fit(other, plain, atol=1e-12)
    np.testing.assert_array_equal(other.predict_proba(wide), plain.predict_proba(sparse.csr_array(X)))


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array])
@pytest.mark.usefixtures("never_dense")
def test_wide_rows_are_never_made_dense(form, early_stopping):
    generator = np.random.default_rng(0)
    entries = generator.integers(2000, size=20_000), generator.integers(100_000, size=20_000)
    X = form((generator.random(20_000), entries), (2000, 100_000))
    with pytest.raises(AssertionError, match="made dense"):
        X[:2].todense()
    classifier = ScratchNNClassifier((2,), max_iter=2, early_stopping=early_stopping, random_state=0)
    classifier.fit(X, np.arange(2000) % 2)
    first, last = classifier.coefs_
    scaled = sparse.csr_array(X.multiply(1 / classifier.scale_))
    scaled.data.clip(max=WIDE_LIMIT, out=scaled.data)  # of columns that hardly vary in training
    hidden = np.maximum(scaled @ first + classifier.intercepts_[0], 0)
    logits = hidden @ last + classifier.intercepts_[1]
    np.testing.assert_allclose(classifier.decision_function(X), logits[:, 0], rtol=1e-4, atol=1e-5)


def test_entries_of_one_place_whose_sum_is_not_finite_are_named():
    X = sparse.csr_matrix((np.array([1e308, 1e308, 1.0]), np.array([0, 0, 1]), np.array([0, 2, 3])), (2, 2))
    with pytest.raises(ValueError, match="X must be finite, got duplicate entries"), np.errstate(over="ignore"):
        ScratchNNClassifier((), max_iter=1).fit(X, [0, 1])


def test_predictions_for_read_only_rows_neither_change_nor_warn():
    """joblib's workers get memory-mapped arrays."""
    X, y = make_problem()
    rows = sparse.csr_array(X.astype(np.float32))
    model = make_classifier(dtype="float32", standardize=False).fit(rows, y)
    expected, values = model.predict_proba(rows), rows.data.copy()
    for array in (rows.data, rows.indices, rows.indptr):
        array.flags.writeable = False
    np.testing.assert_array_equal(model.predict_proba(rows), expected)
    np.testing.assert_array_equal(rows.data, values)
