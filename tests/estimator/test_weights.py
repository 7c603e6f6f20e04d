"""Weights of rows and of classes, and those of 0."""

import warnings
from functools import partial

import numpy as np
import pytest
from helpers import ALL_EPOCHS, assert_same_fit, make_network
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from scratchnn import ScratchNNClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make_problem(n_classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(150) % n_classes
    return rng.normal(size=(150, 4)) + y[:, np.newaxis], y


X, y = make_classification(300, 6, n_informative=4, n_classes=3, weights=[0.7, 0.2, 0.1], random_state=0)
labels = np.stack([y > 0, X[:, 0] > 1], 1).astype(int)
network = partial(make_network, learning_rate="constant", **ALL_EPOCHS)


def assert_same_training(first, second):
    """Check that two fits ended in the same coefficients, and had the same losses and scores on the way."""
    assert_same_fit(first, second)
    for name in ("loss_curve_", "validation_scores_"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


# --- class weights


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("weights", [{0: 1, 1: 1, 2: 1}, {}, {2: 1.0}], ids=str)
def test_class_weights_of_one_change_no_bit(weights, early_stopping):
    model = network(early_stopping=early_stopping)
    weighted = clone(model).set_params(class_weight=weights).fit(X, y)
    assert_same_training(weighted, model.fit(X, y))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weights_of_one_change_no_bit_where_values_are_missing(early_stopping):
    incomplete = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    model = network(early_stopping=early_stopping, dtype="float64")
    assert_same_training(clone(model).fit(incomplete, y, np.ones(300)), model.fit(incomplete, y))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("sample_weight", [None, np.arange(300) % 3 + 0.5], ids=["plain", "weighted"])
@pytest.mark.parametrize("spec", ["balanced", {0: 1, 1: 2.5, 2: 0.3}, {1: 4}], ids=str)
def test_class_weight_is_a_weight_of_the_rows(spec, sample_weight, solver):
    rows = np.ones(300) if sample_weight is None else sample_weight
    if spec == "balanced":
        totals = np.array([rows[y == label].sum() for label in range(3)])
        expected = rows * (rows.sum() / (3 * totals))[y]
    else:
        expected = rows * compute_sample_weight(spec, y)
    weighted = network(class_weight=spec, solver=solver).fit(X, y, sample_weight=sample_weight)
    np.testing.assert_allclose(
        weighted.predict_proba(X), network(solver=solver).fit(X, y, expected).predict_proba(X), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("spec", ["balanced", {"no": 1, "yes": 3.0}], ids=str)
def test_class_weight_is_that_of_logistic_regression(spec):
    names = np.array(["no", "yes"])[(y > 0).astype(int)]
    ours = ScratchNNClassifier.from_recipe("logistic_regression", class_weight=spec, tol=1e-8).fit(X, names)
    theirs = LogisticRegression(class_weight=spec, tol=1e-8, max_iter=500).fit(X, names)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-6)


def test_class_weight_counts_in_the_validation_score():
    model = network(early_stopping=True, scoring="accuracy", class_weight={0: 0.0, 1: 1.0, 2: 0.0})
    model.fit(X, y, X_val=X, y_val=y)
    assert model.validation_scores_[-1] == pytest.approx(np.mean(model.predict(X[y == 1]) == 1))


def test_class_weight_of_labels_is_a_product():
    spec = [{0: 1, 1: 2.0}, {1: 3.0}]
    rows = np.where(labels[:, 0], 2.0, 1.0) * np.where(labels[:, 1], 3.0, 1.0)
    assert_same_training(network(class_weight=spec).fit(X, labels), network().fit(X, labels, rows))
    assert network(class_weight="balanced").fit(X, labels).predict_proba(X).shape == (300, 2)


def test_class_weight_in_partial_fit():
    spec = {1: 5.0}
    ours = network(class_weight=spec).partial_fit(X, y, classes=[0, 1, 2])
    assert_same_training(ours, network().partial_fit(X, y, compute_sample_weight(spec, y), classes=[0, 1, 2]))


# --- weights of zero


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "lbfgs"},
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "accuracy"},
        {"class_weight": "balanced"},
        {"warm_start": True},
    ],
)
@pytest.mark.parametrize("left_out", [[2], [0, 1]])
def test_classes_of_weight_zero_stay_classes(params, left_out):
    X, y = make_problem()
    weights = np.where(np.isin(y, left_out), 0.0, 1.0)
    classifier = make_network(learning_rate_init=0.05, **params).fit(X, y, weights)
    assert classifier.classes_.tolist() == [0, 1, 2]
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (150, 3)
    assert probabilities[:, left_out].mean() < probabilities.mean()


def test_class_weight_of_zero_is_a_weight_of_zero_for_its_rows():
    X, y = make_problem()
    by_class = make_network(class_weight={1: 0}).fit(X, y)
    by_row = make_network().fit(X, y, np.where(y == 1, 0, 1))
    np.testing.assert_array_equal(by_class.coefs_[0], by_row.coefs_[0])
    assert by_class.classes_.tolist() == [0, 1, 2]


def test_bags_may_miss_a_rare_class():
    X, _ = make_problem()
    y = np.zeros(150, int)
    y[:2] = 1
    bags = BaggingClassifier(make_network(), n_estimators=25, random_state=0).fit(X, y)
    expected = BaggingClassifier(LogisticRegression(), n_estimators=25, random_state=0).fit(X, y)
    assert bags.predict_proba(X).shape == expected.predict_proba(X).shape == (150, 2)


def test_soft_voting_goes_along_with_weights_of_zero():
    X, y = make_problem()
    voters = [("network", make_network()), ("line", LogisticRegression())]
    voting = VotingClassifier(voters, voting="soft").fit(X, y, sample_weight=np.where(y == 2, 0.0, 1.0))
    assert voting.predict_proba(X).shape == (150, 3)


# --- weights that leave nothing


@pytest.mark.parametrize("params", [{}, {"solver": "sgd"}, {"alpha": 0.1, "standardize": False}])
@pytest.mark.parametrize("kind", ["class_weight", "sample_weight"])
def test_partial_fit_on_rows_of_weight_zero_learns_nothing(kind, params):
    X, y = make_problem()
    ones = y == 1
    weight = {"class_weight": {0: 1, 1: 0, 2: 1}} if kind == "class_weight" else {}
    nothing = (X[ones], y[ones]) if kind == "class_weight" else (X[ones], y[ones], np.zeros(50))
    first = make_network(**weight, **params).partial_fit(*nothing, classes=[0, 1, 2])
    assert np.isfinite(first.predict_proba(X)).all()
    assert (first.loss_curve_, first.t_) == ([], 0)
    other = make_network(**weight, **params)
    for classifier in (first, other):
        classifier.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_allclose(first.coefs_[0], other.coefs_[0], rtol=1e-4, atol=1e-6)
    before, n_seen = first.predict_proba(X), first.t_
    np.testing.assert_allclose(before, other.predict_proba(X), rtol=1e-5)
    first.partial_fit(*nothing)
    np.testing.assert_array_equal(first.predict_proba(X), before)
    assert (len(first.loss_curve_), first.t_) == (1, n_seen)


def test_weights_of_a_survey_get_a_warning_with_the_remedy():
    """They are how many people a sample stands for, not how many samples there are."""
    weights = np.random.default_rng(0).uniform(100_000, 300_000, 300)
    with pytest.warns(UserWarning, match=r"mean of 20\d{4}, so .* Divide it by its mean"):
        network().fit(X, y, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        network().fit(X, y, weights / weights.mean())
        network().fit(X, y, np.full(300, 50.0))  # counts
        network().fit(X, y, np.full(300, 1 / 300))  # as AdaBoost's
