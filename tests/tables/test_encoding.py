"""Bins of numeric columns: exact values, which columns have them, and every way by which rows come to the network."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import make_network
from scipy import sparse
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV

from scratchnn import fused_fits
from scratchnn.tables import bins
from scratchnn.tables import statistics as scaling
from scratchnn.tables.bins import LIMIT, Bins, choose_n_bins
from scratchnn.tables.statistics import Moments, find_bin_edges
from scratchnn.tables.table import Table

N_BINS = 7  # of a column of the table
X, y = make_classification(240, 5, n_informative=4, n_redundant=0, random_state=0)


network = partial(make_network, hidden_layer_sizes=6, max_iter=10, numeric_encoding="piecewise")


def calc_edges(values, weights=None, n_bins=8):
    return bins.calc_edges(torch.as_tensor(values), n_bins, None if weights is None else torch.as_tensor(weights))


def encode_by_hand(values, edges):
    """The definition, value by value: (n_values, n_bins)."""
    edges = edges[~np.isnan(edges)]
    encoded = np.zeros((len(values), len(edges) - 1))
    for row, value in enumerate(values):
        for place in range(len(edges) - 1):
            low, high = edges[place], edges[place + 1]
            if high > low:
                encoded[row, place] = 0.0 if value < low else 1.0 if value > high else (value - low) / (high - low)
    return encoded


def test_values_rise_from_0_to_1_in_each_bin():
    edges = np.array([[0.0, 2.0, 4.0, 4.0, 8.0]])
    values = torch.tensor([[-1.0], [0.0], [0.5], [2.0], [3.0], [4.0], [5.0], [8.0], [1e30]])
    expected = [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0.25, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 0.5, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0.25],
        [1, 1, 0, 1],
        [1, 1, 0, 1],
    ]
    np.testing.assert_array_equal(Bins(edges, torch.device("cpu")).calc(values).numpy(), expected)


def test_columns_without_bins_are_left_out_and_extreme_values_are_finite():
    edges = np.array([[np.nan, np.nan], [-1e308, 1e308], [3.0, 3.0]])
    values = torch.tensor([[7.0, 1e308, 1.7e308], [7.0, -1e308, -1.7e308]], dtype=torch.float64)
    np.testing.assert_array_equal(Bins(edges, torch.device("cpu")).calc(values).numpy(), [[1, 0], [0, 0]])


def test_edges_are_all_values_of_a_column_of_few():
    """As many as a power of two, so that a fold which lacks a value has the same number."""
    np.testing.assert_array_equal(calc_edges(np.array([5, 1, 1, 2, 5, 1.0])), [1, 2, 5])
    np.testing.assert_array_equal(calc_edges(np.array([5, 1, 3, 2, 5, 4.0])), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(calc_edges(np.array([5, 1, 3, 2, 5, 1.0])), [1, 2, 3, 5, 5])
    for values in ([1, 1, 1], [1, 2, 1]):
        assert np.isnan(calc_edges(np.array(values, float))).all()


def test_edges_are_quantiles_of_a_column_of_many_values():
    # Of the values 1 to 80, an eighth is 10: bin j starts behind the 10 j-th value.
    values = np.random.default_rng(0).permutation(np.arange(1.0, 81))
    np.testing.assert_array_equal(calc_edges(values), [1, *range(11, 80, 10), 80])
    np.testing.assert_array_equal(calc_edges(values, n_bins=2), [1, 41, 80])
    np.testing.assert_array_equal(calc_edges(values, n_bins=0), [1])


def test_a_value_of_many_rows_takes_one_bin():
    """Three quarters are zeros: with plain quantiles, six of eight bins had no width."""
    edges = calc_edges(np.r_[np.zeros(60), np.arange(1.0, 21)])
    assert (np.diff(edges) > 0).all()
    assert edges[0] == 0
    assert edges[-1] == 20
    np.testing.assert_allclose(edges[1:], np.linspace(0, 20, 9)[1:], atol=2)
    in_the_middle = calc_edges(np.r_[np.zeros(500), np.arange(-50.0, 51)], n_bins=10)
    assert np.count_nonzero(in_the_middle == 0) == 1
    assert (np.diff(in_the_middle) > 5).all()  # 100 other values in nine bins
    assert (np.diff(in_the_middle) < 12).all()


def test_the_number_of_bins_grows_with_the_samples_and_falls_with_the_columns():
    chosen = [[choose_n_bins(n, columns) for columns in (1, 10, 50, 100, 1000)] for n in (20, 300, 3000, 30_000, 10**6)]
    assert chosen == [[2, 1, 0, 0, 0], [7, 6, 1, 0, 0], [19, 19, 4, 2, 0], [49, 49, 10, 5, 0], [64, 51, 10, 5, 0]]
    for n_columns in (1, 9, 30):  # nowhere a jump
        assert np.abs(np.diff([choose_n_bins(n, n_columns) for n in range(2, 30_000)])).max() == 1


def test_edges_of_weighted_rows_are_those_of_repeated_rows():
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=50), rng.integers(1, 5, size=50)
    expected = calc_edges(np.repeat(values, weights))
    np.testing.assert_array_equal(calc_edges(values, weights.astype(float)), expected)
    np.testing.assert_array_equal(calc_edges(values, weights * 0.1), expected)


def test_constant_and_two_valued_columns_have_no_bins():
    columns = np.column_stack([np.ones(240), np.arange(240) % 2, np.arange(240) % 3, X[:, 0]])
    model = network().fit(columns, y)
    assert np.isnan(model.bin_edges_[:2]).all()
    np.testing.assert_array_equal(model.bin_edges_[2], [0, 1, 2, *[np.nan] * (N_BINS - 2)])
    assert model.coefs_[0].shape == (4 + 2 + N_BINS, 6)
    names = ["x0", "x1", "x2", "x3", "x2[0, 1]", "x2[1, 2]"]
    assert model.feature_names_encoded_[:6].tolist() == names
    np.testing.assert_array_equal(np.flatnonzero((model.coefs_[0] == 0).all(1)), [0])  # the constant column
    assert network().fit(columns[:, :2], y).bin_edges_ is None


def test_the_network_reads_scaled_and_clipped_columns_and_then_bins():
    model = network().fit(X, y)
    scaled = (X - model.mean_) / model.scale_
    rows = np.column_stack(
        [
            scaled / np.sqrt(1 + (scaled / LIMIT) ** 2),
            *[encode_by_hand(column, edges) for column, edges in zip(X.T, model.bin_edges_, strict=True)],
        ]
    )
    hidden = np.maximum(rows @ model.coefs_[0] + model.intercepts_[0], 0)
    logits = hidden @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_allclose(model.decision_function(X), logits[:, 0], atol=1e-5)


def test_encoding_by_hand_trains_the_same_network():
    model = network(dtype="float64", standardize=False, alpha=0.1).fit(X, y)
    encoded = [encode_by_hand(column, edges) for column, edges in zip(X.T, model.bin_edges_, strict=True)]
    rows = np.column_stack([X, *encoded])
    plain = network(numeric_encoding=None, dtype="float64", standardize=False, alpha=0.1).fit(rows, y)
    np.testing.assert_allclose(model.predict_proba(X), plain.predict_proba(rows), rtol=1e-8)


def test_auto_encodes_dense_tables_with_a_hidden_layer():
    def has_bins(rows, **changes):
        model = network(numeric_encoding="auto", max_iter=1, n_iter_no_change=1, **changes)
        return model.fit(rows, y[: rows.shape[0]]).bin_edges_ is not None

    assert has_bins(X)
    assert has_bins(X[:5])
    assert not has_bins(X, hidden_layer_sizes=())
    assert not has_bins(sparse.csr_array(X))


def test_outliers_are_clipped_and_keep_their_order():
    model = network(hidden_layer_sizes=()).fit(X, y)
    rows = np.repeat(X[:1], 4, axis=0)
    rows[:, 0] = [10.0, 100.0, 1e300, np.finfo(float).max]  # beyond all bins
    steps = np.diff(model.decision_function(rows))
    assert (steps * np.sign(model.coefs_[0][0]) >= 0).all()
    assert np.abs(steps).sum() < LIMIT * abs(model.coefs_[0][0, 0])


def test_bins_of_sparse_tables_are_refused():
    with pytest.raises(
        ValueError, match=r"numeric_encoding must be None or 'auto' for a sparse X.*got 'piecewise'.*toarray"
    ):
        network().fit(sparse.csr_array(X), y)


def test_coefficients_of_columns_need_a_fit_without_bins():
    model = network(hidden_layer_sizes=()).fit(X, y)
    with pytest.raises(AttributeError, match=r"coef_ is available only after fit.*numeric_encoding=None"):
        _ = model.coef_


def test_missing_numbers_are_filled_before_they_are_encoded():
    frame = pd.DataFrame(X, columns=list("abcde"))
    frame["kind"] = np.where(X[:, 0] > 0, "high", "low")
    frame.loc[::6, "b"] = np.nan
    model = network().fit(frame, y)
    names = model.feature_names_encoded_.tolist()
    assert names[:8] == [*"abcde", "missingindicator_b", "kind_high", "kind_low"]
    assert len(names) == 8 + 5 * N_BINS == model.coefs_[0].shape[0]


def test_edges_are_found_on_rows_drawn_from_a_long_table(monkeypatch):
    """Each second row of pairs, such as home and away, is of one kind."""
    monkeypatch.setattr(scaling, "MAX_EDGE_ROWS", 500)
    rows = np.where(np.arange(1000) % 2, 1.0, -1.0)[:, np.newaxis] * np.arange(1, 1001)[:, np.newaxis]
    moments = Moments()
    moments.add(Table(rows, np.zeros(1000)))
    edges = find_bin_edges(Table(rows, np.zeros(1000)), moments, 240)[0]
    np.testing.assert_allclose(edges, np.quantile(rows, np.linspace(0, 1, N_BINS + 1)), atol=80)
    np.testing.assert_array_equal(edges, find_bin_edges(Table(rows, np.zeros(1000)), moments, 240)[0])


def test_values_far_from_zero_keep_their_differences():
    """In float32, a second of a timestamp of today is nothing."""
    times = 1.7e9 + np.arange(240.0)[:, np.newaxis]
    model = network(standardize=False, alpha=0.0).fit(times, y)
    encoded = Bins(model.bin_edges_, torch.device("cpu")).calc(torch.from_numpy(times)).numpy()
    np.testing.assert_allclose(encoded.sum(1), encode_by_hand(times[:, 0], model.bin_edges_[0]).sum(1), rtol=1e-12)
    assert len(np.unique(encoded.sum(1))) == 240


def test_a_fused_search_equals_a_plain_one_and_stacks_the_folds():
    # The last column has five values, one of which a fold may lack.
    rows = np.column_stack([X, np.r_[np.arange(236) % 4, np.full(4, 4)]])
    grid = {"alpha": [0.01, 1.0]}
    plain = GridSearchCV(network(), grid, cv=3, scoring="neg_log_loss").fit(rows, y)
    with fused_fits() as report:
        fused = GridSearchCV(network(), grid, cv=3, scoring="neg_log_loss").fit(rows, y)
    np.testing.assert_allclose(fused.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], rtol=1e-4)
    assert [stack.n_models for stack in report.stacks] == [6]


def test_training_goes_on_with_the_bins_of_the_first_call():
    model = network(warm_start=True).fit(X, y)
    edges = model.bin_edges_
    model.fit(X + 1, y)
    np.testing.assert_array_equal(model.bin_edges_, edges)
    parts = network().partial_fit(X[:120], y[:120], classes=[0, 1])
    edges = parts.bin_edges_
    parts.partial_fit(X[120:] + 1, y[120:])
    np.testing.assert_array_equal(parts.bin_edges_, edges)


def test_validation_rows_are_encoded_with_the_edges_of_training():
    model = network().fit(X[:200], y[:200], X_val=X[200:] * 3, y_val=y[200:])
    expected = sklearn.metrics.log_loss(y[200:], model.predict_proba(X[200:] * 3))
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-4)
    scored = network(early_stopping=True, scoring="neg_log_loss").fit(X, y)
    assert np.isfinite(scored.validation_scores_).all()
