"""The validation split: how much of which rows is held out."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import AdaBoostClassifier
from sklearn.utils.class_weight import compute_sample_weight

from scratchnn import ScratchNNClassifier
from scratchnn.tables.split import cut_table, split_validation
from scratchnn.tables.table import Table


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_flags():
    """Return 2000 rows, 1 in 5 of those of flag 0 and 4 in 5 of those of flag 1 of class 1."""
    y = np.tile([0, 0, 0, 0, 1], 400)
    y[1000:] = 1 - y[1000:]
    return np.repeat([[0.0], [1.0]], 1000, 0), y


def make_ratings(rng, n_samples):
    """Two questions of five levels, and the probability of class 1."""
    X = rng.integers(1, 6, (n_samples, 2)).astype(float)
    probabilities = 1 / (1 + np.exp(-0.8 * (X[:, 0] - X[:, 1])))
    return X, (rng.uniform(size=n_samples) < probabilities).astype(int), probabilities


def sum_groups(X, y, weights):
    """Return the weight of each distinct row of X and y, by the row."""
    groups = {}
    for row, weight in zip(np.column_stack([X, y]).tolist(), weights, strict=True):
        groups[tuple(row)] = groups.get(tuple(row), 0) + weight
    return groups


def predict_flags(model):
    return model.predict_proba([[0.0], [1.0]])[:, 1]


# --- groups of equal rows


@pytest.mark.parametrize("seed", range(3))
def test_early_stopping_learns_the_shares_of_classes_among_equal_rows(seed):
    """All copies of a row went to one side, and what stayed for training said the opposite."""
    model = ScratchNNClassifier(early_stopping=True, random_state=seed).fit(*make_flags())
    np.testing.assert_allclose(predict_flags(model), [0.2, 0.8], atol=0.03)


@pytest.mark.filterwarnings("ignore:sample_weight has a mean")
def test_early_stopping_learns_the_shares_of_classes_from_a_table_of_counts():
    X, y = [[0.0], [0.0], [1.0], [1.0]], [0, 1, 0, 1]
    model = ScratchNNClassifier(early_stopping=True, random_state=0, solver="lbfgs")
    model.fit(X, y, [800, 200, 200, 800])
    np.testing.assert_allclose(predict_flags(model), [0.2, 0.8], atol=0.03)


def test_early_stopping_learns_the_odds_of_classes_that_are_balanced():
    X, y = make_flags()
    X, y = X[:1400], y[:1400]  # 880 rows of class 0
    shares = [(y[X[:, 0] == flag] == 1).mean() for flag in (0, 1)]
    odds = np.array([share / (1 - share) for share in shares]) * (y == 0).sum() / (y == 1).sum()
    model = ScratchNNClassifier(40, early_stopping=True, random_state=0, class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(predict_flags(model), odds / (1 + odds), atol=0.04)


def test_early_stopping_learns_the_probabilities_of_ratings_that_repeat(rng):
    X, y, _ = make_ratings(rng, 2000)
    rows, _, probabilities = make_ratings(rng, 20_000)
    model = ScratchNNClassifier(early_stopping=True, random_state=0).fit(X, y)
    ours = model.predict_proba(rows)[:, 1]
    excess = probabilities * np.log(probabilities / ours)
    excess += (1 - probabilities) * np.log((1 - probabilities) / (1 - ours))
    assert excess.mean() < 0.01


def test_early_stopping_learns_the_shares_of_labels_among_equal_rows():
    X, y = make_flags()
    model = ScratchNNClassifier(40, early_stopping=True, random_state=0).fit(X, np.column_stack([y, 1 - y]))
    np.testing.assert_allclose(model.predict_proba([[0.0], [1.0]]), [[0.2, 0.8], [0.8, 0.2]], atol=0.03)


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_the_fraction_is_held_out_of_each_group_of_equal_rows(rng, fraction):
    X, y, _ = make_ratings(rng, 3000)
    held_out = split_validation(Table(X, y), fraction, seed=0)
    assert set(held_out) == {0, 1}
    assert held_out.sum() == 3000 * fraction
    groups, parts = sum_groups(X, y, np.ones(3000)), sum_groups(X, y, held_out)
    assert len(groups) == 50
    assert all(abs(parts[row] - fraction * size) < 1.01 for row, size in groups.items())


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.33])
@pytest.mark.parametrize("n_samples", [20, 101, 1000])
def test_the_fraction_is_held_out_of_each_class_of_distinct_rows(rng, n_samples, fraction):
    X, y = rng.normal(size=(n_samples, 3)), rng.choice(3, n_samples, p=[0.6, 0.3, 0.1])
    held_out = split_validation(Table(X, y), fraction, seed=0)
    assert held_out.sum() == max(np.ceil(fraction * n_samples), 3)
    for n_class, n_held_out in zip(np.bincount(y), np.bincount(y, held_out), strict=True):
        assert 1 <= n_held_out < n_class
        assert abs(n_held_out - fraction * n_class) <= 1
    assert (split_validation(Table(X, y), fraction, seed=1) != held_out).any()


def test_every_row_is_held_out_as_often_as_any_other(rng):
    """Over 2000 seeds, 10 rows in groups of 1, 2, 3 and 4: 3 of 10 each, up to 4 standard errors."""
    X = np.repeat([0.0, 1.0, 2.0, 3.0], [1, 2, 3, 4])[:, np.newaxis]
    counts = sum(split_validation(Table(X, np.zeros(10, int)), 0.3, seed) for seed in range(2000))
    shares = [counts[X[:, 0] == group].mean() / 2000 for group in range(4)]
    np.testing.assert_allclose(shares, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 2000))


def test_every_class_of_two_rows_is_on_both_sides_and_one_of_a_single_row_in_training(rng):
    y = np.array([0] * 50 + [1] * 2 + [2])
    held_out = split_validation(Table(rng.normal(size=(53, 2)), y), 0.1, seed=0)
    assert np.bincount(y, held_out).tolist() == [5, 1, 0]


@pytest.mark.parametrize("weights", [None, "whole", "fractions"])
def test_the_order_of_the_rows_does_not_matter(rng, weights):
    X, y, _ = make_ratings(rng, 500)
    if weights is not None:
        weights = rng.integers(1, 5, 500).astype(float) if weights == "whole" else rng.uniform(size=500)
    order = rng.permutation(500)
    cuts = []
    for rows in (np.arange(500), order):
        table = Table(X[rows], y[rows], None if weights is None else weights[rows])
        held_out = cut_table(table, split_validation(table, 0.2, seed=3))
        n_rows = np.ones(len(held_out)) if weights is None else held_out.sample_weights
        cuts.append(sum_groups(held_out.get_features(), held_out.y, n_rows))
    assert cuts[0] == pytest.approx(cuts[1])


@pytest.mark.parametrize("form", [sparse.csr_array, torch.from_numpy, np.float32])
def test_the_form_of_X_does_not_matter(rng, form):
    X, y, _ = make_ratings(rng, 300)
    expected = split_validation(Table(X, y), 0.1, seed=0)
    np.testing.assert_array_equal(split_validation(Table(form(X), y), 0.1, seed=0), expected)


# --- weights


def test_rows_of_whole_weight_are_cut_as_repeated_rows_are(rng):
    X, y, _ = make_ratings(rng, 200)
    weights = rng.integers(1, 30, 200)
    table = Table(X, y, weights.astype(float))
    repeated = Table(X.repeat(weights, axis=0), y.repeat(weights))
    shares = split_validation(table, 0.1, seed=0)
    training, validation = cut_table(table, 1 - shares), cut_table(table, shares)
    expected = sum_groups(repeated.X, repeated.y, split_validation(repeated, 0.1, seed=0))
    parts = sum_groups(X, y, shares * weights)
    assert parts == pytest.approx(expected)
    assert validation.sample_weights.sum() == pytest.approx(np.ceil(weights.sum() * 0.1))
    assert training.sample_weights.sum() + validation.sample_weights.sum() == pytest.approx(weights.sum())
    assert training.sample_weights.min() > 0.5 < validation.sample_weights.min()
    assert len(training) + len(validation) > 200  # some rows are on both sides


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 2.5}])
@pytest.mark.parametrize("n_levels", [2, 1000])
def test_weights_count_rows_with_early_stopping(rng, n_levels, class_weight):
    X = rng.integers(n_levels, size=(60, 2)) / n_levels
    y, weights = rng.integers(2, size=60), rng.integers(0, 8, 60)
    model = ScratchNNClassifier(
        (8,), batch_size="full", max_iter=10, early_stopping=True, dtype="float64", class_weight=class_weight
    ).set_params(random_state=0, tol=0, n_iter_no_change=np.inf)
    weighted = clone(model).fit(X, y, sample_weight=weights)
    repeated = clone(model).fit(X.repeat(weights, axis=0), y.repeat(weights))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-7)
    np.testing.assert_allclose(weighted.validation_scores_, repeated.validation_scores_, rtol=1e-7)


def test_weights_that_are_no_numbers_of_rows_leave_rows_whole(rng):
    X, y, _ = make_ratings(rng, 1000)
    weights = rng.uniform(0.1, 5, 1000)
    held_out = split_validation(Table(X, y, weights), 0.1, seed=0)
    assert set(held_out) == {0, 1}
    assert held_out.sum() == 100
    assert weights @ held_out / weights.sum() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("size", [1e12, 1e300])
def test_weights_beyond_all_numbers_of_rows(rng, size):
    weights = size * rng.integers(1, 4, 200)
    held_out = split_validation(Table(rng.normal(size=(200, 2)), np.arange(200) % 2, weights), 0.1, seed=0)
    assert (held_out >= 0).all()
    assert (held_out <= 1).all()
    assert weights / size @ held_out / (weights / size).sum() == pytest.approx(0.1, abs=0.03)


def test_class_weights_cut_no_rows(rng):
    """A class weight of 4 is no 4 rows: with one of them held out, the others would give it away."""
    X, y = rng.normal(size=(80, 2)), np.arange(80) % 2
    model = ScratchNNClassifier((4,), early_stopping=True, batch_size="full", random_state=0)
    weighted = clone(model).set_params(class_weight={1: 4}).fit(X, y)
    assert weighted.t_ == 72 * weighted.n_iter_
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y)
    assert balanced.loss_curve_ == model.fit(X, y, compute_sample_weight("balanced", y)).loss_curve_


def test_boosting_hands_on_weights_that_are_shares():
    X, y = make_flags()
    network = ScratchNNClassifier(40, early_stopping=True)
    model = AdaBoostClassifier(network, n_estimators=1, random_state=0).fit(X, y)
    np.testing.assert_allclose(predict_flags(model.estimators_[0]), [0.2, 0.8], atol=0.05)


@pytest.mark.parametrize(
    ("y", "fraction", "n_rows"),
    [([0] * 5 + [1] * 5, 0.95, 10), ([0, 0, 0, 1], 0.1, 4), (np.arange(10), 0.3, 10), ([0, 1] * 20, 0, 40)],
)
def test_a_split_that_leaves_too_little_is_refused(rng, y, fraction, n_rows):
    table = Table(rng.normal(size=(len(y), 2)), np.asarray(y))
    rule = "must .* at least two samples, and one of each class .* Increase"
    message = rf"validation_fraction={fraction} of {n_rows} samples {rule}"
    with pytest.raises(ValueError, match=message):
        split_validation(table, fraction, seed=0)
