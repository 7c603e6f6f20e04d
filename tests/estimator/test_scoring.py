"""The score that early stopping monitors: validation samples may lack a class."""

import warnings

import numpy as np
import pytest
import sklearn
from helpers import assert_same_fit
from sklearn.base import clone
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    get_scorer_names,
    hinge_loss,
    log_loss,
    make_scorer,
    roc_auc_score,
    top_k_accuracy_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier


def make_classes(names=(0, 1, 2)):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    codes = np.argmax(X + rng.normal(size=X.shape), axis=1) % len(names)
    return X, np.array(names)[codes]


def make_network(scoring, **params):
    """Return a network of few epochs, which it is not to be warned of."""
    model = ScratchNNClassifier((4,), early_stopping=True, scoring=scoring, random_state=0, dtype="float64", max_iter=3)
    return model.set_params(tol=0, n_iter_no_change=np.inf, numeric_encoding=None, **params)


def fit_without(lacking, scoring, names=(0, 1, 2)):
    """Fit with validation rows of some classes only. Returns the model, these rows, and the classes."""
    X, y = make_classes(names)
    keeps = ~np.isin(y, lacking)
    model = make_network(scoring).fit(X, y, X_val=X[keeps], y_val=y[keeps])
    return model, X[keeps], y[keeps]


SCORES = {
    "neg_log_loss": lambda y, p: -log_loss(y, p, labels=[0, 1, 2]),
    "neg_brier_score": lambda y, p: -np.mean(np.sum((np.eye(3)[y] - p) ** 2, axis=1)),
    "top_k_accuracy": lambda y, p: top_k_accuracy_score(y, p, labels=[0, 1, 2]),
    "balanced_accuracy": lambda y, p: np.mean([np.mean(p[y == k].argmax(1) == k) for k in np.unique(y)]),
    "f1_macro": lambda y, p: f1_score(y, p.argmax(1), average="macro"),
    "accuracy": lambda y, p: np.mean(p.argmax(1) == y),
}


@pytest.mark.parametrize("lacking", [[2], [0], [0, 1]], ids=str)
@pytest.mark.parametrize("scoring", SCORES)
def test_scores_know_the_classes_that_the_validation_rows_lack(scoring, lacking):
    model, X, y = fit_without(lacking, scoring)
    assert model.best_validation_score_ == pytest.approx(SCORES[scoring](y, model.predict_proba(X)))


@pytest.mark.parametrize("scoring", ["roc_auc_ovo", "d2_log_loss_score", "roc_auc_ovr_weighted"])
def test_scores_of_two_classes_of_three(scoring):
    if scoring not in get_scorer_names():
        pytest.skip("this scikit-learn has no such scorer")
    model, X, y = fit_without([2], scoring)
    if scoring == "roc_auc_ovo":
        expected = roc_auc_score(y, model.predict_proba(X), multi_class="ovo", labels=[0, 1, 2])
        assert model.best_validation_score_ == pytest.approx(expected)
    assert -1 < model.best_validation_score_ < 1


@pytest.mark.parametrize("lacking", [["no"], ["yes"], []], ids=str)
@pytest.mark.parametrize("scoring", ["neg_log_loss", "neg_brier_score"])
def test_scores_of_two_classes_know_which_is_which(scoring, lacking):
    model, X, y = fit_without(lacking, scoring, names=("no", "yes"))
    of_own = model.predict_proba(X)[np.arange(len(y)), (y == "yes").astype(int)]
    expected = np.mean(np.log(of_own)) if scoring == "neg_log_loss" else -np.mean((1 - of_own) ** 2)
    assert model.best_validation_score_ == pytest.approx(expected)


def test_the_lower_of_two_numbers_is_not_taken_for_the_positive_class():
    model, X, _ = fit_without([2], "neg_brier_score", names=(1, 2))
    assert model.best_validation_score_ == pytest.approx(-np.mean(model.predict_proba(X)[:, 1] ** 2))


@pytest.mark.parametrize(
    "scorer",
    [
        make_scorer(log_loss, response_method="predict_proba", greater_is_better=False),
        make_scorer(log_loss, response_method="predict_proba", greater_is_better=False, labels=[0, 1, 2]),
        make_scorer(hinge_loss, response_method="decision_function", greater_is_better=False),
        make_scorer(brier_score_loss, response_method=("predict_proba",), greater_is_better=False),
        lambda model, X, y: -log_loss(y, model.predict_proba(X), labels=model.classes_),
    ],
)
def test_scorers_of_ones_own_know_the_classes(scorer):
    model, _, _ = fit_without([1], scorer)
    assert np.isfinite(model.validation_scores_).all()


def test_labels_choose_classes_where_a_scorer_says_so():
    scorer = make_scorer(f1_score, labels=[0], average="macro")
    model, X, y = fit_without([1], scorer)
    assert model.best_validation_score_ == pytest.approx(f1_score(y == 0, model.predict(X) == 0))


def test_a_class_of_a_single_row_is_not_held_out_and_not_missed():
    X, y = make_classes((0, 1))
    y[0] = 2
    model = make_network("neg_log_loss").fit(X, y)
    assert model.predict_proba(X).shape == (120, 3)
    assert np.isfinite(model.validation_scores_).all()


@pytest.mark.parametrize(
    ("scoring", "names", "lacking", "message"),
    [
        ("roc_auc", (0, 1), [0], r"lack the classes \[0\], got 'roc_auc', which is not: the score is nan\. Pass X_val"),
        ("roc_auc_ovr", (0, 1, 2), [1], r"lack the classes \[1\], got 'roc_auc_ovr', which is not: the score is nan"),
        ("roc_auc_ovo", (0, 1, 2), [0, 1], r"lack the classes \[0 1\], got 'roc_auc_ovo', which is not: the score"),
        ("roc_auc_ovo_weighted", (0, 1, 2), [0, 1], r"got 'roc_auc_ovo_weighted', which is not: Weights sum to zero"),
        ("d2_brier_score", (0, 1, 2), [0, 1], r"got 'd2_brier_score', which is not: the score is -inf"),
        ("average_precision", (0, 1, 2), [2], r"got 'average_precision', which is not: .* or scoring='loss'"),
    ],
)
def test_a_score_that_needs_the_class_is_refused(scoring, names, lacking, message):
    if scoring == "d2_brier_score":
        pytest.importorskip("sklearn", "1.8")  # the first that has it
    with pytest.raises(ValueError, match=r"scoring must be defined for the validation samples, which .*" + message):
        fit_without(lacking, scoring, names)


def test_a_class_of_weight_zero_is_one_that_lacks():
    X, y = make_classes((0, 1))
    model = make_network("roc_auc", class_weight={0: 0.0})
    with pytest.raises(ValueError, match=r"lack the classes \[0\], got 'roc_auc'"):
        model.fit(X, y, X_val=X, y_val=y)


def test_labels_of_one_value_leave_some_scores_undefined():
    X, y = make_classes()
    labels = np.column_stack([y == 0, y == 1]).astype(int)
    validation = {"X_val": X[y != 1], "y_val": labels[y != 1]}
    with pytest.raises(ValueError, match=r"which have only one value of the labels \[1\], got 'roc_auc'"):
        make_network("roc_auc").fit(X, labels, **validation)
    model = make_network("f1_micro").fit(X, labels, **validation)
    expected = f1_score(validation["y_val"], model.predict(validation["X_val"]), average="micro")
    assert model.best_validation_score_ == pytest.approx(expected)


def test_what_a_scorer_of_ones_own_warns_of_is_heard():
    def warn(model, X, y):
        warnings.warn("of its own", UserWarning, stacklevel=1)
        return balanced_accuracy_score(y, model.predict(X))

    with pytest.warns(UserWarning, match="of its own"):
        fit_without([1], warn)


@pytest.mark.parametrize("scoring", ["loss", "balanced_accuracy", "neg_log_loss", lambda model, X, y: X.mean()])
def test_validation_data_go_through_the_pipeline(scoring):
    X, y = make_classes()
    rows, others = X[:80] * 9, X[80:] * 9
    scaler = StandardScaler().fit(rows)
    model = make_network(scoring, standardize=False)
    with sklearn.config_context(enable_metadata_routing=True):
        net = clone(model).set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline([("scale", StandardScaler()), ("net", net)], transform_input=["X_val"])
        pipeline.fit(rows, y[:80], X_val=others, y_val=y[80:])
    model.fit(scaler.transform(rows), y[:80], X_val=scaler.transform(others), y_val=y[80:])
    assert_same_fit(pipeline[-1], model)
    np.testing.assert_array_equal(pipeline[-1].validation_scores_, model.validation_scores_)
    assert len(model.validation_scores_) == model.n_iter_ == 3


@pytest.mark.parametrize(
    ("scoring", "labels", "remedy"),
    [
        ("average_precision", ["no", "yes"], r"make_scorer\(..., pos_label='yes'\)"),
        ("roc_auc", [0, 1, 2], "Use 'roc_auc_ovr'"),
    ],
)
def test_a_score_that_does_not_suit_the_labels_has_its_own_remedy(scoring, labels, remedy):
    X = np.random.default_rng(0).normal(size=(120, 3))
    y = np.array(labels)[np.arange(120) % len(labels)]
    with pytest.raises(ValueError, match=remedy):
        make_network(scoring).fit(X, y)
