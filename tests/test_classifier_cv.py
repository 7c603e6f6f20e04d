"""ScratchNNClassifierCV: the penalty by cross-validation."""

import inspect

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from scratchnn import ScratchNNClassifier, ScratchNNClassifierCV, fused_fits
from scratchnn.estimator.choosing import choose_alpha

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 5, "numeric_encoding": None, "random_state": 0}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:The least populated class")
@parametrize_with_checks(
    [ScratchNNClassifierCV((8,), batch_size="full", learning_rate_init=0.05, max_iter=20, alphas=[0.01, 0.1])]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_scores_are_those_of_the_plain_classifier_on_the_folds(iris):
    X, y = iris
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    model = ScratchNNClassifierCV(alphas=[0.1, 10.0], cv=folds, **SMALL).fit(X, y)
    for fold, (train_rows, test_rows) in enumerate(folds):
        for column, alpha in enumerate([0.1, 10.0]):
            plain = ScratchNNClassifier(alpha=alpha, **SMALL).fit(X[train_rows], y[train_rows])
            expected = -log_loss(y[test_rows], plain.predict_proba(X[test_rows]))
            assert model.scores_[fold, column] == pytest.approx(expected, rel=1e-5)
    assert model.alpha_ == [0.1, 10.0][model.scores_.mean(0).argmax()]


def test_the_model_is_the_plain_classifier_with_the_chosen_penalty(iris):
    model = ScratchNNClassifierCV(**SMALL).fit(*iris)
    plain = ScratchNNClassifier(**SMALL).fit(*iris)
    np.testing.assert_allclose(model.alphas_, plain.alpha_ * np.array([1 / 3, 1, 3]))
    refitted = ScratchNNClassifier(alpha=model.alpha_, **SMALL).fit(*iris)
    np.testing.assert_array_equal(model.predict_proba(iris[0]), refitted.predict_proba(iris[0]))


def test_a_multiple_of_auto_must_be_better_in_each_fold():
    scores = np.array([[0.5, 0.4, 0.6], [0.5, 0.4, np.nan]])
    assert choose_alpha(scores, None) == 0
    assert choose_alpha(np.array([[0.9, 0.4, 0.5], [0.3, 0.4, 0.5]]), None) == 2
    assert choose_alpha(np.array([[0.9, 0.4, 0.5], [0.3, 0.4, 0.3]]), None) == 1
    assert choose_alpha(np.array([[0.9, 0.4], [0.3, 0.4]]), np.array([0.1, 1.0])) == 0  # of given ones, the best mean


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "roc_auc_ovr"])
def test_scorers_choose(iris, scoring):
    model = ScratchNNClassifierCV(scoring=scoring, cv=StratifiedKFold(2, shuffle=True, random_state=0), **SMALL)
    model.set_params(alphas=[0.1, 1.0])
    assert np.isfinite(model.fit(*iris).scores_).all()
    loss = clone(model).set_params(scoring="loss").fit(*iris)
    if scoring == "neg_log_loss":
        np.testing.assert_allclose(model.scores_, loss.scores_, rtol=1e-5)


def test_multilabel_weights_and_early_stopping(iris):
    X, y = make_multilabel_classification(80, 5, n_classes=3, random_state=0)
    assert ScratchNNClassifierCV(**SMALL).fit(X, y).predict(X).shape == y.shape
    X, y = iris
    weights = np.arange(150) % 3
    folds = list(StratifiedKFold(2).split(X, y))
    model = ScratchNNClassifierCV(cv=folds, alphas=[0.5], **SMALL).fit(X, y, weights)
    train_rows, test_rows = folds[0]
    plain = ScratchNNClassifier(alpha=0.5, **SMALL).fit(X[train_rows], y[train_rows], weights[train_rows])
    expected = -log_loss(y[test_rows], plain.predict_proba(X[test_rows]), sample_weight=weights[test_rows])
    assert model.scores_[0, 0] == pytest.approx(expected, rel=1e-5)
    stopped = ScratchNNClassifierCV(early_stopping=True, **SMALL).fit(X, y)
    assert stopped.best_validation_score_ is not None


def test_a_fold_may_lack_a_class(iris):
    X, y = iris
    folds = [(np.flatnonzero(y < 2), np.flatnonzero(y == 2)), (np.arange(0, 150, 2), np.arange(1, 150, 2))]
    model = ScratchNNClassifierCV(cv=folds, alphas=[0.1, 1.0], **SMALL).fit(X, y)
    assert np.isfinite(model.scores_).all()
    assert list(model.classes_) == [0, 1, 2]


def test_groups_are_routed(iris):
    groups = np.arange(150) % 3
    with pytest.raises(ValueError, match=r"params|groups|enable_metadata_routing"):
        ScratchNNClassifierCV(cv=GroupKFold(3), **SMALL).fit(*iris, groups=groups)
    with sklearn.config_context(enable_metadata_routing=True):
        model = ScratchNNClassifierCV(cv=GroupKFold(3), **SMALL).fit(*iris, groups=groups)
        ScratchNNClassifierCV(**SMALL).fit(*iris)
    assert model.scores_.shape == (3, 3)


def test_without_refit_there_is_no_model(iris):
    model = ScratchNNClassifierCV(refit=False, **SMALL).fit(*iris)
    assert model.alpha_ in model.alphas_
    with pytest.raises(NotFittedError):
        model.predict(iris[0])


def test_frames_go_in(iris):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": iris[0][:, 0], "b": np.where(iris[1] > 0, "x", None)})
    model = ScratchNNClassifierCV(**SMALL).fit(frame, iris[1])
    assert model.predict(frame).shape == (150,)
    assert list(model.feature_names_in_) == ["a", "b"]


def test_fused_and_saved_models_are_the_same(iris, tmp_path):
    X, y = iris
    model = ScratchNNClassifierCV(**SMALL)
    alone = cross_val_score(model, X, y, cv=3)
    with fused_fits():
        np.testing.assert_array_equal(cross_val_score(model, X, y, cv=3), alone)
    joblib.dump(model.fit(X, y), tmp_path / "model")
    np.testing.assert_array_equal(joblib.load(tmp_path / "model").predict_proba(X), model.predict_proba(X))


def test_parameters_are_those_of_the_plain_classifier_and_how_to_choose():
    plain, ours = (inspect.signature(each).parameters for each in (ScratchNNClassifier, ScratchNNClassifierCV))
    assert set(plain) - set(ours) == {"alpha", "C", "warm_start"}
    assert set(ours) - set(plain) == {"alphas", "cv", "refit"}
    assert all(plain[name].default == ours[name].default for name in set(plain) & set(ours))


def test_recipes_leave_the_penalty_out(iris):
    model = ScratchNNClassifierCV.from_recipe("logistic_regression", alphas=[0.1, 1.0]).fit(*iris)
    assert model.coef_.shape == (3, 4)


def test_there_is_no_partial_fit():
    assert not hasattr(ScratchNNClassifierCV(), "partial_fit")
    with pytest.raises(AttributeError, match=r"has no partial_fit, as cross-validation needs all rows\. Use fit"):
        ScratchNNClassifierCV().partial_fit  # noqa: B018


@pytest.mark.parametrize("alphas", [[], [-1.0], [np.inf], ["a"], 3.0, [[1.0]]])
def test_error_names_alphas(iris, alphas):
    with pytest.raises(ValueError, match=r"alphas' parameter|alphas must be a list of finite numbers from 0 up"):
        ScratchNNClassifierCV(alphas=alphas, **SMALL).fit(*iris)


def test_divergence_of_all_candidates_is_an_error_and_that_of_one_is_none(iris):
    X, y = iris
    settings = SMALL | {"solver": "sgd", "momentum": 0.0, "learning_rate": "constant", "learning_rate_init": 1.0}
    model = ScratchNNClassifierCV(alphas=[0.1, 1e6], **(settings | {"max_iter": 30})).fit(X, y)
    assert np.isnan(model.scores_[:, 1]).all()
    assert model.alpha_ == 0.1
    with pytest.raises(ValueError, match="Training diverged"):
        ScratchNNClassifierCV(alphas=[1e6], **(settings | {"max_iter": 30})).fit(X, y)
