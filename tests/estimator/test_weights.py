"""Rows and classes of weight 0."""

import functools

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression

from scratchnn import ScratchNNClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make_problem(n_classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(150) % n_classes
    return rng.normal(size=(150, 4)) + y[:, np.newaxis], y


make_classifier = functools.partial(ScratchNNClassifier, hidden_layer_sizes=(5,), max_iter=5, random_state=0)


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
    classifier = make_classifier(learning_rate_init=0.05, **params).fit(X, y, weights)
    assert classifier.classes_.tolist() == [0, 1, 2]
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (150, 3)
    assert probabilities[:, left_out].mean() < probabilities.mean()


def test_class_weight_of_zero_is_a_weight_of_zero_for_its_rows():
    X, y = make_problem()
    by_class = make_classifier(class_weight={1: 0}).fit(X, y)
    by_row = make_classifier().fit(X, y, np.where(y == 1, 0, 1))
    np.testing.assert_array_equal(by_class.coefs_[0], by_row.coefs_[0])
    assert by_class.classes_.tolist() == [0, 1, 2]


def test_bags_may_miss_a_rare_class():
    X, _ = make_problem()
    y = np.zeros(150, int)
    y[:2] = 1
    bags = BaggingClassifier(make_classifier(), n_estimators=25, random_state=0).fit(X, y)
    expected = BaggingClassifier(LogisticRegression(), n_estimators=25, random_state=0).fit(X, y)
    assert bags.predict_proba(X).shape == expected.predict_proba(X).shape == (150, 2)


def test_soft_voting_goes_along_with_weights_of_zero():
    X, y = make_problem()
    voters = [("network", make_classifier()), ("line", LogisticRegression())]
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
    first = make_classifier(**weight, **params).partial_fit(*nothing, classes=[0, 1, 2])
    assert np.isfinite(first.predict_proba(X)).all()
    assert (first.loss_curve_, first.t_) == ([], 0)
    other = make_classifier(**weight, **params)
    for classifier in (first, other):
        classifier.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_allclose(first.coefs_[0], other.coefs_[0], rtol=1e-4, atol=1e-6)
    before, n_seen = first.predict_proba(X), first.t_
    np.testing.assert_allclose(before, other.predict_proba(X), rtol=1e-5)
    first.partial_fit(*nothing)
    np.testing.assert_array_equal(first.predict_proba(X), before)
    assert (len(first.loss_curve_), first.t_) == (1, n_seen)


@pytest.mark.parametrize(
    ("params", "weights", "message"),
    [
        ({}, np.zeros(150), "sample_weight must have a positive value, got only zeros"),
        ({"class_weight": dict.fromkeys(range(3), 0)}, None, "class_weight must have a positive value, got only zeros"),
        ({"class_weight": {0: 0, 1: 0}}, (np.arange(150) % 3 < 2) * 1.0, "class_weight must have a positive value"),
        ({"class_weight": "balanced"}, np.zeros(150), "sample_weight must have a positive value"),
    ],
)
def test_fit_on_rows_of_weight_zero_is_an_error(params, weights, message):
    with pytest.raises(ValueError, match=message):
        make_classifier(**params).fit(*make_problem(), weights)


@pytest.mark.parametrize(
    ("params", "weights", "message"),
    [
        ({}, np.zeros(50), "sample_weight_val must have a positive value"),
        ({"class_weight": {1: 0}}, None, "class_weight must have a positive value"),
    ],
)
def test_validation_rows_of_weight_zero_are_an_error(params, weights, message):
    X, y = make_problem()
    with pytest.raises(ValueError, match=message):
        make_classifier(**params).fit(X, y, X_val=X[y == 1], y_val=y[y == 1], sample_weight_val=weights)
