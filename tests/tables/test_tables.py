"""Tables: moments of columns, tensors in the memory of arrays, and the layouts and types that X may come in."""

import gc
import weakref

import numpy as np
import pytest
import torch
from helpers import assert_same_fit, make_network, make_read_only
from scipy import sparse
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler, scale

from scratchnn import ScratchNNClassifier
from scratchnn.tables.arrays import to_tensor
from scratchnn.tables.bins import WIDE_LIMIT
from scratchnn.tables.statistics import Moments
from scratchnn.tables.table import Table
from scratchnn.tables.transform import ColumnTransform, TensorRows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
CPU = torch.device("cpu")


def make_columns(n_rows=50):
    """Return a plain column, a constant one, timestamps, and mostly zeros."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n_rows, 4)) * [1, 0, 3600, 1] + [0, 7.3, 1.7e9, 0]
    X[generator.random(n_rows) < 0.8, 3] = 0
    return X


@pytest.fixture
def make_mapped(tmp_path):
    def save_and_map(X):
        np.save(tmp_path / "X.npy", X)
        return np.load(tmp_path / "X.npy", mmap_mode="r")

    return save_and_map


# --- moments


# scikit-learn takes the square root of a variance that rounding made negative, before it sees a constant column.
@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt:RuntimeWarning:sklearn")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("splits", [[], [1, 9500]], ids=["at once", "in parts"])
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (np.asarray, np.float64),
        (np.asarray, np.float32),
        (sparse.csr_matrix, np.float64),
        (sparse.csr_matrix, np.float32),
    ],
)
def test_moments_are_those_of_standard_scaler(form, dtype, splits, weighted):
    """Of every second row of a table, more than a block of them; float32 values count as what they are in float64."""
    X = make_columns(20_000).astype(dtype)
    rows = np.arange(0, 20_000, 2)
    weights = np.random.default_rng(1).uniform(0.1, 3, len(rows)) if weighted else None
    moments = Moments()
    for part in np.split(np.arange(len(rows)), splits):
        moments.add(Table(form(X), np.zeros(len(part)), None if weights is None else weights[part], rows[part]))
    scaler = StandardScaler(with_mean=form is np.asarray).fit(form(X[rows].astype(np.float64)), sample_weight=weights)
    np.testing.assert_allclose(moments.mean, scaler.mean_, rtol=1e-9, atol=1e-12)
    is_centered = np.array([True, True, True, form is np.asarray])  # most entries of the last one are zeros
    expected = np.where(is_centered, scaler.scale_, np.abs(X[rows]).max(0))
    np.testing.assert_allclose(moments.calc_scale(), expected, rtol=1e-9)
    np.testing.assert_allclose(moments.calc_mean(), np.where(is_centered, scaler.mean_, 0), rtol=1e-9, atol=1e-12)
    assert moments.calc_scale()[1] == 1


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("splits", [[], [10, 900]], ids=["at once", "in parts"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, torch.tensor], ids=["array", "sparse", "tensor"])
def test_columns_of_two_values_are_divided_by_their_distance(form, splits, weighted):
    """However rare one of the values is, and whatever they are; any third value makes it another column."""
    rng = np.random.default_rng(0)
    two = (rng.random((1000, 3)) < [0.5, 0.1, 0.004]).astype(float)
    third = two[:, 1].copy()
    third[[0, 3]] = 0, 0.25
    X = np.column_stack([two, two[:, 2] * 1e-3 + 5, -7e6 * two[:, 1], third, rng.normal(size=1000)])
    weights = rng.uniform(0.1, 3, 1000) if weighted else None
    moments = Moments()
    for rows in np.split(np.arange(1000), splits):
        part = None if weights is None else weights[rows]
        moments.add(Table(form(X[rows]), np.zeros(len(rows)), part))
    deviations = StandardScaler().fit(X, sample_weight=weights).scale_
    of_third = 1 if form is sparse.csr_array else deviations[5]  # zeros are common in it
    np.testing.assert_allclose(moments.calc_scale(), [1, 1, 1, 1e-3, 7e6, of_third, deviations[6]], rtol=1e-8)


# --- tensors


@pytest.mark.parametrize("layout", [np.copy, make_read_only], ids=["writable", "read-only"])
def test_tensor_shares_the_memory_of_a_contiguous_array_and_keeps_it(layout):
    array = layout(np.arange(6.0).reshape(2, 3))
    tensor, owner = to_tensor(array), weakref.ref(array)
    assert tensor.data_ptr() == array.ctypes.data
    np.testing.assert_array_equal(tensor, array)
    del array
    gc.collect()
    assert owner() is not None


@pytest.mark.parametrize("index", [np.s_[::-1], np.s_[:, ::2]], ids=["reversed", "strided"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_tensor_of_another_layout_is_a_copy(order, index):
    array = np.array(np.arange(12.0).reshape(3, 4), order=order)[index]
    tensor = to_tensor(array)
    np.testing.assert_array_equal(tensor, array)
    assert not np.shares_memory(tensor.numpy(), array)


def convert(X, *, scales=(None, None), rows=None, ones=True):
    y = np.zeros(X.shape[0] if rows is None else len(rows))
    return TensorRows(Table(X, y, None, rows), ColumnTransform(*scales, None, CPU), torch.float32, CPU).convert(ones)


def test_float32_rows_to_be_left_as_they_are_become_a_tensor_in_place(make_mapped):
    X = np.ones((5, 3), np.float32)
    for array in [X, make_read_only(X), make_mapped(X)]:
        assert convert(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows", [None, np.array([0, 3, 9_500])], ids=["all", "a part"])
def test_rows_are_scaled_in_double_precision_and_followed_by_ones(rows, dtype, ones):
    X = make_columns(20_000).astype(dtype)
    scaler = StandardScaler().fit(X.astype(np.float64))
    result = convert(X, scales=(scaler.mean_, scaler.scale_), rows=rows, ones=ones)
    expected = scaler.transform((X if rows is None else X[rows]).astype(np.float64))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result[:, :4], expected, rtol=2**-23, atol=1e-9)
    np.testing.assert_array_equal(result[:, 4:], np.ones((len(expected), int(ones))))


def test_mapped_and_sparse_rows_stay_where_they_are_until_taken(make_mapped):
    X, scales, rows = make_columns(), (np.ones(4), np.full(4, 2.0)), np.array([1, 3, 4, 7])
    mapped32 = make_mapped(X.astype(np.float32))
    by_column = make_mapped(np.asfortranarray(X, np.float32))
    for lazy in [
        convert(mapped32, scales=scales),
        convert(mapped32, rows=rows),
        convert(by_column),
        convert(sparse.csr_array(X)),
    ]:
        assert isinstance(lazy, TensorRows)
    mapped = convert(make_mapped(X), scales=scales, rows=rows)
    assert isinstance(mapped, TensorRows)
    taken = mapped.take(torch.tensor([2, 0]))
    np.testing.assert_array_equal(taken, ((X[[4, 1]] - 1) / 2).clip(-WIDE_LIMIT, WIDE_LIMIT).astype(np.float32))


# --- fits


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "layout",
    [np.asfortranarray, lambda X: np.repeat(X, 2, axis=1)[:, ::2], lambda X: X[::-1].copy()[::-1], make_read_only],
    ids=["Fortran", "strided", "reversed", "read-only"],
)
def test_layout_of_the_rows_changes_no_bit(cancer, layout, dtype, standardize):
    X, y = scale(cancer[0]).astype(dtype), cancer[1]
    plain, other = (make_network(max_iter=2, standardize=standardize).fit(rows, y) for rows in (X, layout(X)))
    assert_same_fit(other, plain)
    np.testing.assert_array_equal(other.predict_proba(layout(X)), plain.predict_proba(X))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weights of zero"])
@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True}, {"early_stopping": True, "scoring": "roc_auc"}, {"solver": "lbfgs"}]
)
@pytest.mark.parametrize("standardize", [True, False])
def test_mapped_rows_train_as_those_in_memory(cancer, make_mapped, standardize, params, weighted):
    X, y = scale(cancer[0]).astype(np.float32), cancer[1]
    weights = np.arange(len(y)) % 3 if weighted else None
    model = make_network(max_iter=4, standardize=standardize, **params)
    memory, mapped = (clone(model).fit(rows, y, weights) for rows in (X, make_mapped(X)))
    assert_same_fit(mapped, memory, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mapped.predict_proba(make_mapped(X)), memory.predict_proba(X), rtol=1e-5)
    np.testing.assert_array_equal(mapped.bin_edges_, memory.bin_edges_)
    assert mapped.alpha_ == memory.alpha_


def test_mapped_rows_are_taken_batch_by_batch(cancer, make_mapped, monkeypatch):
    taken, take = [], TensorRows.take
    monkeypatch.setattr(TensorRows, "take", lambda rows, samples: taken.append(take(rows, samples)) or taken[-1])
    ScratchNNClassifier((), batch_size=100, max_iter=2).fit(make_mapped(cancer[0]), cancer[1])
    assert [len(rows) for rows in taken] == [100, 100, 100, 100, 100, 69] * 2


def test_mapped_rows_train_part_by_part(cancer, make_mapped):
    X, y = cancer
    memory, mapped = (make_network() for _ in range(2))
    for part in np.split(np.arange(len(y)), [250]):
        memory.partial_fit(X[part], y[part], classes=[0, 1])
        mapped.partial_fit(make_mapped(X[part]), y[part], classes=[0, 1])
    assert_same_fit(mapped, memory, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mapped.scale_, memory.scale_)


@pytest.mark.parametrize("n_features", [1, 30])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
@pytest.mark.parametrize("params", [{"batch_size": "full"}, {"batch_size": 50}, {"solver": "lbfgs"}])
def test_training_in_the_memory_of_x_leaves_it_alone(cancer, params, hidden, n_features):
    X = scale(cancer[0]).astype(np.float32)[:, :n_features].copy()
    before = X.copy()
    classifier = ScratchNNClassifier(hidden, max_iter=2, standardize=False, **params).fit(X, cancer[1])
    classifier.predict(X)
    np.testing.assert_array_equal(X, before)


# --- what may be predicted


@pytest.mark.parametrize("standardize", [True, False])
def test_predictions_depend_on_the_values_alone(standardize):
    X = np.random.default_rng(0).integers(-3, 4, (60, 3))
    classifier = ScratchNNClassifier((5,), max_iter=3, standardize=standardize).fit(X.astype(np.float64), X[:, 0] > 0)
    expected = classifier.predict_proba(X.astype(np.float64))
    forms = [X, X.tolist(), np.asfortranarray(X, np.float64), *map(X.astype, [">f8", ">f4", "f4", "f2", "i1", object])]
    for rows in forms:
        np.testing.assert_array_equal(classifier.predict_proba(rows), expected)


def test_rows_to_predict_may_have_a_sum_that_is_not_finite(iris):
    classifier = ScratchNNClassifier((), max_iter=1, standardize=False, dtype="float64").fit(iris[0], iris[1] > 0)
    X = np.full((3, 4), 1e308)
    np.testing.assert_allclose(classifier.decision_function(X), X @ classifier.coef_[0], rtol=1e-12)
