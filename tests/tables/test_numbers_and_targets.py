"""Numbers and targets as life makes them: codes for "no data", tiny columns, masks, files, objects, missing labels."""

import decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import assert_same_fit
from scipy import sparse
from sklearn.feature_selection import RFE, SelectFromModel

from scratchnn import ScratchNNClassifier
from scratchnn.tables.bins import calc_edges
from scratchnn.tables.statistics import Moments, find_reach
from scratchnn.tables.table import Table
from scratchnn.tables.transform import TensorRows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
rng = np.random.default_rng(0)
X = rng.normal(size=(1500, 6))
y = (X[:, 0] + X[:, 1] > 0).astype(int)
TRAIN, TEST = slice(1000), slice(1000, None)


def network(**changes):
    return ScratchNNClassifier(**({"hidden_layer_sizes": (20,), "max_iter": 20, "random_state": 0} | changes))


def calc_moments(rows, weights=None):
    moments = Moments()
    moments.add(Table(rows, np.zeros(rows.shape[0]), weights))
    return moments


# --- far values


@pytest.mark.parametrize("form", [np.asarray, np.float32, pd.DataFrame, sparse.csr_array])
@pytest.mark.parametrize("code", [1e6, 1e15, 1e20, 9.97e36, -3.4e38])
def test_codes_for_no_data_leave_the_scale_of_a_column(code, form):
    """With 1 % of 1e20, a column counted as one of two values, and was divided by their distance."""
    coded = X.copy()
    coded[np.random.default_rng(0).random(len(X)) < 0.01, 0] = code
    model = network().fit(form(coded[TRAIN]), y[TRAIN])
    near = coded[TRAIN, 0] == X[TRAIN, 0]
    np.testing.assert_allclose(model.scale_[0], X[TRAIN][near, 0].std() * np.sqrt(near.mean()), rtol=0.01)
    assert abs(model.mean_[0]) < 0.1
    assert model.score(form(coded[TEST]), y[TEST]) > (0.89 if form is sparse.csr_array else 0.94)
    if model.bin_edges_ is not None:
        np.testing.assert_allclose(model.bin_edges_[0, [0, -1]], [X[TRAIN][near, 0].min(), X[TRAIN][near, 0].max()])


def test_a_far_row_does_not_hide_the_others_in_a_table_without_bins():
    wide = rng.normal(size=(1500, 120))
    labels = wide[:, 0] + wide[:, 1] > 0
    spoilt = np.where(np.arange(1000)[:, np.newaxis] == 5, 1e6, wide[TRAIN])
    clean, other = (network().fit(rows, labels[TRAIN]) for rows in (wide[TRAIN], spoilt))
    assert other.score(wide[TEST], labels[TEST]) > clean.score(wide[TEST], labels[TEST]) - 0.03
    np.testing.assert_allclose(other.scale_, clean.scale_, rtol=0.01)


def test_the_scale_changes_gradually_with_the_distance_of_a_value():
    def calc_scale(value):
        return float(calc_moments(np.vstack([X[:500, :1], [[value]]])).calc_scale()[0])

    limit = float(find_reach(Table(X[:500, :1], np.zeros(500)))[1][0])
    values = limit * np.geomspace(0.5, 100, 60)
    scales = np.array([calc_scale(value) for value in values])
    assert (np.abs(np.diff(np.log(scales))) < 0.1).all()
    assert abs(scales[-1] / X[:500, 0].std() - 1) < 0.01
    np.testing.assert_allclose(scales[:5], [np.append(X[:500, 0], value).std() for value in values[:5]], rtol=1e-12)


def test_a_row_of_weight_k_counts_as_k_rows_where_values_are_far():
    rows, weights = rng.normal(size=(200, 2)), rng.integers(1, 4, 200)
    rows[3, 0] = 1e9
    weighted, repeated = calc_moments(rows, weights * 1.0), calc_moments(np.repeat(rows, weights, axis=0))
    np.testing.assert_allclose(weighted.calc_scale(), repeated.calc_scale(), rtol=1e-9)
    np.testing.assert_allclose(weighted.mean, repeated.mean, atol=1e-9)


def test_columns_of_two_values_are_counted():
    columns = np.column_stack([np.r_[np.zeros(500), np.ones(500)], np.r_[np.zeros(500), np.ones(499), 1 - 1e-12]])
    for form in (np.asarray, torch.from_numpy, sparse.csr_array):
        moments = calc_moments(form(columns[:500]))  # one value in each
        moments.add(Table(form(columns[500:]), np.zeros(500)))
        np.testing.assert_array_equal(moments.is_two_valued, [True, False])


@pytest.mark.parametrize("size", [1e-100, 1e-160, 1e-170, 1e-290])
def test_a_tiny_column_is_learned(size):
    tiny = X * np.where(np.arange(6) == 0, size, 1)
    model = network().fit(tiny[TRAIN], y[TRAIN])
    assert model.score(tiny[TEST], y[TEST]) > 0.95
    assert 0.1 < np.abs(tiny[:, 0] / model.scale_[0]).max() < 10


# --- bins


def test_edges_come_from_the_values_that_are_there():
    """Of a column of which 60 % were missing, half of the bins had no width."""
    incomplete = X[:, :2].copy()
    incomplete[rng.random(len(X)) < 0.6, 0] = np.nan
    is_there = ~np.isnan(incomplete[:, 0])
    there = incomplete[is_there, 0]
    for form in (np.asarray, pd.DataFrame, pl.DataFrame):
        model = network().fit(form(incomplete), y)
        quantiles = np.quantile(there, np.linspace(0, 1, model.bin_edges_.shape[1]))
        np.testing.assert_allclose(model.bin_edges_[0], quantiles, atol=0.1)
        assert (np.diff(model.bin_edges_[:2]) > 0).all()
    weights = rng.integers(1, 3, len(X))
    weighted = network().fit(incomplete, y, weights).bin_edges_[0]
    np.testing.assert_array_equal(
        weighted, calc_edges(torch.from_numpy(np.repeat(there, weights[is_there])), len(weighted) - 1)
    )


# --- numbers missing only at prediction


@pytest.mark.filterwarnings("ignore:.*batch_size")
@pytest.mark.parametrize("weights", [None, np.linspace(0.1, 3, 1000)], ids=["plain", "weights"])
@pytest.mark.parametrize("incremental", [False, True], ids=["fit", "partial_fit"])
@pytest.mark.parametrize("params", [{}, {"standardize": False, "alpha": 0.1}, {"numeric_encoding": None}, None])
@pytest.mark.parametrize("is_encoded", [False, True], ids=["complete", "another column incomplete"])
def test_numbers_missing_only_at_prediction_are_filled_with_the_mean(is_encoded, params, incremental, weights):
    """The mean was that of the first part, or 0, or did not mind the weights."""
    model = ScratchNNClassifier.from_recipe("scratch") if params is None else network(**params)
    training = X[TRAIN] + np.linspace(0, 5, 1000)[:, np.newaxis]
    training[::3, 5] = np.nan if is_encoded else 0
    for part in np.split(np.arange(1000), [300] if incremental else []):
        args = (training[part], y[part], None if weights is None else weights[part])
        model = model.partial_fit(*args, classes=[0, 1]) if incremental else model.fit(*args)
    rows = np.full((2, 6), 0.5)
    rows[:, 1] = np.nan, np.average(training[:, 1], weights=weights)
    first, second = model.predict_proba(rows)
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float16, None), (torch.float32, "meta")])
def test_what_is_filled_does_not_depend_on_torch(dtype, device):
    model = network(standardize=False).fit(X, y)
    rows = np.where(np.arange(6) == 2, np.nan, X[:5])
    expected = model.predict_proba(rows)
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        np.testing.assert_array_equal(model.predict_proba(rows), expected)
        np.testing.assert_array_equal(network(standardize=False).fit(X, y).predict_proba(rows), expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


# --- masks and files


@pytest.mark.parametrize("dtype", [float, np.float32, int, object])
def test_masked_values_are_missing_values(dtype):
    rows = (X * 10).astype(int).astype(dtype)
    mask = rng.random(X.shape) < 0.1
    hidden = rows.copy()
    hidden[mask] = 999_999
    missing = rows.astype(np.float32 if dtype is np.float32 else float)
    missing[mask] = np.nan
    masked, plain = network().fit(np.ma.masked_array(hidden, mask), y), network().fit(missing, y)
    assert_same_fit(masked, plain)
    np.testing.assert_array_equal(masked.predict(np.ma.masked_array(hidden, mask)), plain.predict(missing))
    with pytest.raises(ValueError, match=r"y has 2 missing values \(first at index 3\). Drop these samples"):
        network().fit(X, np.ma.masked_array(y, np.isin(np.arange(1500), [3, 9])))
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        network().fit(X, y, np.ma.masked_array(np.ones(1500), np.arange(1500) == 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, ">f4", np.int64, bool])
@pytest.mark.parametrize("params", [{}, {"standardize": False, "numeric_encoding": None}, {"solver": "lbfgs"}])
def test_files_of_other_numbers_are_read_batch_by_batch(dtype, params, tmp_path, monkeypatch):
    rows = (X * 3 > 2 if dtype is bool else np.abs(X * 20)).astype(dtype)
    labels = rows[:, 0] > np.median(rows[:, 0])
    np.save(tmp_path / "X.npy", rows)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    plain = network(max_iter=3, **params).fit(rows.astype(float), labels)
    taken, take = [], TensorRows.take
    monkeypatch.setattr(TensorRows, "take", lambda rows, samples: taken.append(take(rows, samples)) or taken[-1])
    model = network(max_iter=3, **params).fit(mapped, labels)
    if "solver" not in params:
        assert sum(len(rows) <= 144 for rows in taken) >= 30  # minibatches
    assert_same_fit(model, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(mapped), plain.predict_proba(rows.astype(float)), rtol=1e-4)


# --- coef_


def test_features_are_selected_where_values_are_missing():
    incomplete = np.where(rng.random(X.shape) < 0.1, np.nan, X)
    linear = network(hidden_layer_sizes=(), solver="lbfgs")
    model = linear.fit(incomplete, y)
    assert model.coef_.shape == (1, 6)
    np.testing.assert_allclose(X @ model.coef_[0] + model.intercept_, model.decision_function(X), rtol=1e-9)
    for selector in (RFE(linear, n_features_to_select=2), SelectFromModel(linear, max_features=2)):
        np.testing.assert_array_equal(selector.fit(incomplete, y).get_support(), [True, True, *[False] * 4])


def test_a_linear_model_of_categories_says_why_it_has_no_coefficient_for_each_feature():
    frame = pd.DataFrame(X).assign(kind=np.where(y, "a", "b"))
    frame.columns = frame.columns.astype(str)
    linear = network(hidden_layer_sizes=()).fit(frame, y)
    message = "coef_ has one value per feature, but each category has a weight of its own. See coefs_"
    with pytest.raises(AttributeError, match=message):
        _ = linear.coef_
    with pytest.raises(AttributeError, match=message):
        SelectFromModel(linear, prefit=True, importance_getter="coef_").fit(frame).get_support()


# --- targets


@pytest.mark.parametrize("convert", [int, bool, decimal.Decimal, np.int64, float])
def test_targets_of_objects_train_as_numbers(convert):
    rows, labels = X[:100], np.array([convert(int(each)) for each in y[:100]], object)
    plain = network().fit(rows, y[:100])
    for form in (labels, labels.tolist(), pd.Series(labels), np.column_stack([rows.astype(object), labels])[:, -1]):
        model = network().fit(rows, form)
        np.testing.assert_array_equal(model.classes_, [0, 1])
        assert model.classes_.dtype.kind in "bif"
        assert_same_fit(model, plain)
    model = network().partial_fit(rows, labels, classes=np.array([convert(0), convert(1)], object))
    assert_same_fit(model, network().partial_fit(rows, y[:100], classes=[0, 1]))
    several = np.column_stack([labels, labels[::-1]])
    assert_same_fit(network().fit(rows, several), network().fit(rows, several.astype(int)))


TEXT = np.where(y, "yes", "no").astype(object)
MISSING = {
    "None": lambda labels: np.where(labels == 2, None, labels),
    "nan": lambda labels: np.where(labels == 2, np.nan, labels),
    "NA": lambda labels: pd.Series(labels, dtype="Int64").replace(2, pd.NA),
    "bool": lambda labels: pd.Series(np.where(labels == 2, None, labels == 1), dtype="boolean"),
    "NaT": lambda labels: pd.Series(labels, dtype=object).where(labels != 2, pd.NaT),
    "text": lambda labels: np.where(labels == 2, None, TEXT).tolist(),
    "text and nan": lambda labels: np.where(labels == 2, np.nan, TEXT).tolist(),
    "category": lambda labels: pd.Series(np.where(labels == 2, None, TEXT), dtype="category"),
    "polars": lambda labels: pl.Series(np.where(labels == 2, None, labels).tolist()),
    "polars text": lambda labels: pl.Series(np.where(labels == 2, None, TEXT).tolist()),
    "polars bool": lambda labels: pl.Series([None if each == 2 else bool(each) for each in labels]),
}


@pytest.mark.parametrize("form", MISSING.values(), ids=MISSING)
def test_missing_targets_are_one_clear_error(form):
    labels = y.copy()
    labels[[1, 5, 8]] = 2
    message = r"{} has 3 missing values \(first at index 1\)\. Drop these samples\."
    with pytest.raises(ValueError, match="^" + message.format("y")):
        network().fit(X, form(labels))
    with pytest.raises(ValueError, match=message.format("y_val")):
        network().fit(X, y, X_val=X, y_val=form(labels))
    labels[[5, 8]] = 0
    with pytest.raises(ValueError, match=r"y has 1 missing value \(first at index 1\)"):
        network().fit(X, form(labels))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(("pair", "other"), [((-1, 1), -1), ((0, 255), 255), ((0, 2), 2), ((2, 2), 2)])
def test_multilabel_targets_have_zeros_and_ones(pair, other, form):
    labels = np.column_stack([np.where(y, *pair), np.where(X[:, 2] > 0, *pair)])
    message = f"must .*0 and 1 for each of several labels, got (also .{other}.|multiclass-multioutput)"
    with pytest.raises(ValueError, match=f"^y {message}"):
        network().fit(X, form(labels))
    with pytest.raises(ValueError, match=f"y_val {message}"):
        network().fit(X, (X[:, :2] > 0).astype(int), X_val=X, y_val=form(labels))
