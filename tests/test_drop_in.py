"""What LogisticRegression and MLPClassifier do, and what goes beyond: class weights, schedules, dropout, losses."""

import functools

import numpy as np
import pytest
import sklearn
import torch
import torch.nn.functional as F
from helpers import ALL_EPOCHS, assert_same_fit
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from scratchnn import ScratchNNClassifier

X, y = make_classification(300, 6, n_informative=4, n_classes=3, weights=[0.7, 0.2, 0.1], random_state=0)
labels = np.stack([y > 0, X[:, 0] > 1], 1).astype(int)


network = functools.partial(
    ScratchNNClassifier, hidden_layer_sizes=8, max_iter=6, learning_rate="constant", random_state=0, **ALL_EPOCHS
)


def assert_same_training(first, second):
    """Check that two fits ended in the same coefficients, and had the same losses and scores on the way."""
    assert_same_fit(first, second)
    for name in ("loss_curve_", "validation_scores_"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


# Class weights


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("weights", [{0: 1, 1: 1, 2: 1}, {}, {2: 1.0}], ids=str)
def test_class_weights_of_one_change_no_bit(weights, early_stopping):
    model = network(early_stopping=early_stopping)
    weighted = clone(model).set_params(class_weight=weights).fit(X, y)
    assert_same_training(weighted, model.fit(X, y))


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
    ours = network(
        hidden_layer_sizes=(),
        solver="lbfgs",
        standardize=False,
        dtype="float64",
        alpha=1.0,
        class_weight=spec,
        tol=1e-8,
        max_iter=500,
    ).fit(X, names)
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
    with pytest.raises(ValueError, match=r"class_weight must be a dict or None for partial_fit.*'balanced'.*compute"):
        network(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("spec", "targets", "message"),
    [
        ([{0: 1}], y, "class_weight must be a dict, 'balanced' or None for targets of one column"),
        ({0: 1}, labels, "class_weight must be 'balanced' or a list of 2 dicts"),
        ([{0: 1}], labels, "class_weight must be 'balanced' or a list of 2 dicts"),
        ({0: np.inf}, y, "class_weight must have finite weights"),
        ({7: 1.0}, y, "not in class_weight"),
    ],
)
def test_class_weight_that_does_not_fit_the_targets(spec, targets, message):
    with pytest.raises(ValueError, match=message):
        network(class_weight=spec).fit(X, targets)


# Validation data


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize("scoring", ["loss", "balanced_accuracy", "neg_log_loss", lambda model, X, y: X.mean()])
def test_validation_data_go_through_the_pipeline(routing, scoring):
    scaler = StandardScaler().fit(X[:200] * 9)
    model = network(early_stopping=True, scoring=scoring, standardize=False)
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("net", clone(model).set_fit_request(X_val=True, y_val=True))],
        transform_input=["X_val"],
    )
    pipeline.fit(X[:200] * 9, y[:200], X_val=X[200:] * 9, y_val=y[200:])
    model.fit(scaler.transform(X[:200] * 9), y[:200], X_val=scaler.transform(X[200:] * 9), y_val=y[200:])
    assert_same_training(pipeline[-1], model)
    assert len(model.validation_scores_) == model.n_iter_ > 1


def test_weights_are_routed_through_a_search_to_training_and_scores(routing):
    weights = np.where(y == 0, 0.1, 3.0)
    pipeline = Pipeline([("scale", StandardScaler()), ("net", network())])
    pipeline.set_params(
        scale=StandardScaler().set_fit_request(sample_weight=False),
        net=network().set_fit_request(sample_weight=True),
    )
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    search = GridSearchCV(pipeline, {"net__alpha": [0.1, 10.0]}, cv=3, scoring=scorer)
    plain = clone(search).fit(X, y)
    search.fit(X, y, sample_weight=weights)
    assert np.abs(search.cv_results_["mean_test_score"] - plain.cv_results_["mean_test_score"]).min() > 0.01
    expected = network(alpha=search.best_params_["net__alpha"]).fit(StandardScaler().fit_transform(X), y, weights)
    assert_same_training(search.best_estimator_[-1], expected)


# Dropout


def test_dropout_trains_on_another_part_of_the_network_at_each_step():
    model = network(hidden_layer_sizes=50, max_iter=100, learning_rate_init=0.01)
    plain, thinned = clone(model).fit(X, y), clone(model).set_params(dropout=0.5).fit(X, y)
    assert thinned.loss_ > plain.loss_
    assert_same_training(thinned, clone(thinned).fit(X, y))
    assert thinned.score(X, y) > 0.75
    np.testing.assert_array_equal(thinned.predict_proba(X), thinned.predict_proba(X))  # nothing is left out


def test_dropout_keeps_the_mean_of_the_values(monkeypatch):
    drawn = []
    from scratchnn.training import stack

    def execute_epoch(coeffs, batches, *arguments, **more):
        kept = list(batches)
        drawn.extend(mask for batch in kept for mask in batch.masks)
        return original(coeffs, kept, *arguments, **more)

    original = stack.execute_epoch
    monkeypatch.setattr(stack, "execute_epoch", execute_epoch)
    network(dropout=0.2, hidden_layer_sizes=(50, 10), batch_size=100, max_iter=3).fit(X, y)
    assert [mask.shape[-2:] for mask in drawn[:4]] == [(100, 50), (100, 10)] * 2
    assert torch.cat([mask.flatten() for mask in drawn]).unique().tolist() == [0, 1.25]
    assert torch.cat([mask.flatten() for mask in drawn]).mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_goes_on_after_a_warm_start():
    once = network(max_iter=4, dropout=0.3).fit(X, y)
    twice = network(max_iter=2, dropout=0.3, warm_start=True).fit(X, y)
    np.testing.assert_array_equal(twice.fit(X, y).coefs_[0], once.coefs_[0])


def test_dropout_is_not_for_lbfgs():
    with pytest.raises(ValueError, match=r"dropout must be 0 with solver='lbfgs'.*got 0.5.*Use solver='adam'"):
        network(dropout=0.5, solver="lbfgs").fit(X, y)


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16"])
def test_rounded_products_are_not_for_lbfgs(dtype):
    with pytest.raises(ValueError, match=rf"dtype must be .* with solver='lbfgs'.*got '{dtype}'.*use solver='adam'"):
        network(dtype=dtype, solver="lbfgs").fit(X, y)


# Schedules


def follow_rates(monkeypatch, fit):
    """Return the learning rates of a fit's steps of SGD."""
    from scratchnn.training.solvers import SGD

    rates = []
    update = SGD.update
    monkeypatch.setattr(SGD, "update", lambda *args: (rates.append(args[3].item()), update(*args)))
    fit(network(solver="sgd", learning_rate_init=0.2, batch_size=100, max_iter=10))
    return np.array(rates)


def test_cosine_falls_to_zero(monkeypatch):
    rates = follow_rates(monkeypatch, lambda model: model.set_params(learning_rate="cosine").fit(X, y))
    np.testing.assert_allclose(rates, 0.1 * (1 + np.cos(np.pi * np.arange(30) / 30)), rtol=1e-6)


def test_one_cycle_is_that_of_pytorch(monkeypatch):
    rates = follow_rates(monkeypatch, lambda model: model.set_params(learning_rate="one_cycle").fit(X, y))
    assert rates[0] == pytest.approx(0.2 / 25)
    assert rates[9] == rates.max() == pytest.approx(0.2)
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[9:]) < 0)
    assert rates[-1] < 0.2 / 25


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_each_call_of_fit_has_a_schedule_of_its_own_and_partial_fit_none(monkeypatch, schedule):
    def fit(model):
        model.set_params(learning_rate=schedule, warm_start=True)
        model.fit(X, y).fit(X, y).partial_fit(X, y)

    rates = follow_rates(monkeypatch, fit)
    np.testing.assert_array_equal(rates[:30], rates[30:60])
    np.testing.assert_allclose(rates[60:], 0.2)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_schedules_train(schedule, solver):
    model = network(learning_rate=schedule, solver=solver, max_iter=100, learning_rate_init=0.01).fit(X, y)
    assert model.score(X, y) > 0.8
    assert model.loss_curve_ != network(solver=solver, max_iter=100, learning_rate_init=0.01).fit(X, y).loss_curve_


# A loss of one's own


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_callable_loss_is_as_the_one_by_hand(solver):
    def cross_entropy(logits, deps):
        assert logits.shape == deps.shape
        return F.cross_entropy(logits, deps, reduction="none")

    def cross_entropies(logits, deps):
        return F.binary_cross_entropy_with_logits(logits, deps, reduction="none")

    for function, targets in [(cross_entropy, y), (cross_entropies, y > 0), (cross_entropies, labels)]:
        ours = network(loss=function, alpha=1.0, solver=solver, dtype="float64").fit(X, targets)
        theirs = network(alpha=1.0, solver=solver, dtype="float64").fit(X, targets)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)


def test_brier_loss_is_the_mean_squared_error_of_the_true_class():
    cancer, target = load_breast_cancer(return_X_y=True)
    model = network(loss="brier", alpha=0.0, batch_size="full", max_iter=30).fit(cancer, target)
    before = clone(model).set_params(max_iter=29).fit(cancer, target).predict_proba(cancer)[:, 1]
    assert model.loss_ == pytest.approx(np.mean((target - before) ** 2), rel=1e-4)


@pytest.mark.parametrize(
    "function", [lambda logits, deps: 1.0, lambda logits, deps: (logits - deps).mean(), lambda logits, deps: logits[1:]]
)
def test_a_callable_loss_must_give_a_value_for_each_sample(function):
    with pytest.raises(ValueError, match=r"loss, a function .* must return a tensor .* got .*reduction='none'"):
        network(loss=function).fit(X, y)
