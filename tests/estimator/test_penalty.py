"""alpha="auto" follows the noise of the table."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import make_network
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.datasets import make_classification
from sklearn.kernel_ridge import KernelRidge

from scratchnn.estimator.penalty import STRENGTHS, calc_kernel, fit_evidence_ridge


def make_table(noise, n_rows=300):
    return make_classification(n_rows, 6, n_informative=4, flip_y=noise, random_state=0)


network = partial(make_network, hidden_layer_sizes=(8,), max_iter=2, batch_size="full")


def fit(X, y, sample_weight=None, **changes):
    return network(**changes).fit(X, y, sample_weight)


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_ridge_has_the_strength_of_the_highest_evidence_and_the_norm_of_kernel_ridge():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 3))
    target = np.maximum(rows[:, 0], 0) - rows[:, 1] + 0.5 * rng.normal(size=100)
    strength, norm = fit_evidence_ridge(torch.from_numpy(rows), torch.from_numpy(target[:, None]), 1)
    assert strength in STRENGTHS

    center = np.eye(100) - 1 / 100
    kernel = center @ calc_kernel(torch.from_numpy(rows - rows.mean(0))).numpy() @ center
    target = center @ target
    # The directions of the centered kernel, in which a draw with the best variance for each strength has a density.
    basis = np.linalg.svd(center)[0][:, :99]

    def calc_evidence(strength):
        covariance = basis.T @ kernel @ basis / strength + np.eye(99)
        along = basis.T @ target
        variance = along @ np.linalg.solve(covariance, along) / 99
        return multivariate_normal.logpdf(along, cov=variance * covariance)

    assert strength == max(STRENGTHS, key=calc_evidence)
    fitted = KernelRidge(alpha=strength, kernel="precomputed").fit(kernel, target)
    assert norm == pytest.approx(np.sqrt(fitted.dual_coef_ @ kernel @ fitted.dual_coef_), rel=1e-6)


def test_the_kernel_is_the_mean_over_random_neurons():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    weights = np.random.default_rng(1).normal(size=(4, 400_000))
    neurons = np.maximum(np.c_[rows, np.ones(4)] @ weights, 0)
    expected = 2 * neurons @ neurons.T / 400_000
    np.testing.assert_allclose(calc_kernel(torch.from_numpy(rows)).numpy(), expected, rtol=0.02)


def test_copies_are_no_sign_of_little_noise():
    X, y = make_table(0.5)
    copied = fit(np.r_[X, X[:100]], np.r_[y, y[:100]])
    assert copied.alpha_ == pytest.approx(fit(X, y).alpha_ * 4 / 3, rel=0.05)


def test_what_a_network_can_learn_is_no_noise():
    """To a linear model, each class of a checkerboard looks like noise."""
    X = np.random.default_rng(0).uniform(-2, 2, (600, 2))
    y = (X[:, 0] > 0) ^ (X[:, 1] > 0)
    assert fit(X, y).alpha_ < 0.3 * fit(X, np.random.default_rng(1).permutation(y)).alpha_


def test_rare_classes_of_much_weight_do_not_make_the_penalty_weaker():
    X, y = make_classification(1500, 10, n_informative=5, weights=[0.96], flip_y=0.02, random_state=1)
    assert fit(X, y, class_weight="balanced").alpha_ > 3 * fit(X, y).alpha_


@pytest.mark.filterwarnings("ignore:sample_weight has a mean")
def test_weights_of_any_size_train_one_model():
    """As survey weights, each stands for thousands of people."""
    X, y = make_table(0.2, 60)
    weights = np.random.default_rng(0).uniform(0.5, 2, 60)
    network = partial(fit, X, y, dtype="float64", numeric_encoding=None)
    scaled = network(weights / weights.mean() * 190_000)
    np.testing.assert_allclose(scaled.predict_proba(X), network(weights / weights.mean()).predict_proba(X), atol=1e-3)


def test_noise_makes_the_penalty_stronger():
    assert fit(*make_table(0.5)).alpha_ > 1.5 * fit(*make_table(0.0)).alpha_


def test_weights_and_repeated_rows_have_one_penalty():
    X, y = make_table(0.2, 60)
    weights = np.arange(60) % 3
    repeated = fit(np.repeat(X, weights, 0), np.repeat(y, weights))
    assert fit(X, y, weights).alpha_ == pytest.approx(repeated.alpha_, rel=1e-3)


def test_parts_of_a_whole_as_weights_do_not_change_the_penalty_of_a_row():
    X, y = make_table(0.2, 60)
    plain = fit(X, y)
    parts = fit(X, y, np.full(60, 1 / 60))
    assert parts.alpha_ == pytest.approx(plain.alpha_ / 60, rel=1e-3)
    np.testing.assert_allclose(parts.predict_proba(X), plain.predict_proba(X), atol=1e-4)


def test_penalty_is_that_of_a_batch_where_rows_are_in_batches():
    X, y = make_table(0.2)
    assert fit(X, y, batch_size=50).alpha_ == pytest.approx(fit(X, y).alpha_ / 6, rel=1e-9)


def test_hopeless_and_separable_tables_have_a_finite_penalty():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    for X in (rng.normal(size=(40, 3)), y[:, None] * np.ones(3), np.c_[y, np.ones(40)], np.ones((40, 2))):
        alpha = fit(X, y).alpha_
        assert np.isfinite(alpha)
        assert alpha >= 0


def test_long_and_wide_tables_are_sampled_the_same_way_each_time():
    rng = np.random.default_rng(0)
    for shape in ((3000, 3), (30, 200)):
        X = rng.normal(size=shape)
        y = X[:, 0] > 0
        assert fit(X, y, max_iter=1).alpha_ == fit(X, y, max_iter=1).alpha_ > 0


def test_where_no_linear_model_can_tell_the_length_of_the_rows_does():
    X, y = make_table(0.5)
    length = np.sqrt(6)
    for changes in ({"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (5, 5)}, {"loss": "brier"}):
        assert fit(X, y, **changes).alpha_ == pytest.approx(length, rel=1e-6)
    assert fit(sparse.csr_array(X), y).alpha_ > 0
    part = network().partial_fit(X, y, classes=[0, 1])
    assert part.alpha_ == pytest.approx(length, rel=1e-6)


def test_number_and_C_are_reported_as_alpha():
    X, y = make_table(0.2, 60)
    assert fit(X, y, alpha=0.3).alpha_ == 0.3
    assert fit(X, y, C=4.0).alpha_ == 0.25


def test_labels_of_any_kind_have_a_penalty():
    X, y = make_table(0.2)
    one_label = fit(X, np.c_[y, 1 - y])  # two labels that say the same
    assert one_label.alpha_ == pytest.approx(fit(X, y).alpha_, rel=0.3)
    assert fit(X, (X[:, 0] > 0) + (X[:, 1] > 1) * 2).alpha_ > 0
