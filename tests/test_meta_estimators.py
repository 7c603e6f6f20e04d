"""scikit-learn's meta-estimators and tools around the classifier."""

import functools

import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_breast_cancer, load_iris, make_classification, make_multilabel_classification
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import RFE, SelectFromModel, SequentialFeatureSelector
from sklearn.inspection import DecisionBoundaryDisplay, partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    HalvingGridSearchCV,
    TunedThresholdClassifierCV,
    learning_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from scratchnn import ScratchNNClassifier

matplotlib.use("Agg")
X, y = load_iris(return_X_y=True)
cancer, target = load_breast_cancer(return_X_y=True)
# Columns 0 to 2 tell the classes apart; the other five are noise.
noisy, noisy_y = make_classification(300, 8, n_informative=3, n_redundant=0, shuffle=False, random_state=0)


network = functools.partial(ScratchNNClassifier, hidden_layer_sizes=100, random_state=0)


WRAPPED = {
    "CalibratedClassifierCV, sigmoid": lambda: CalibratedClassifierCV(network(), cv=3),
    "CalibratedClassifierCV, isotonic": lambda: CalibratedClassifierCV(network(), method="isotonic", cv=3),
    "Stacking": lambda: StackingClassifier(
        [("net", network()), ("linear", LogisticRegression(max_iter=500))], network(), cv=3
    ),
    "Voting, hard": lambda: VotingClassifier([("net", network()), ("linear", LogisticRegression(max_iter=500))]),
    "Voting, soft": lambda: VotingClassifier([("a", network()), ("b", network(random_state=1))], voting="soft"),
    "Bagging": lambda: BaggingClassifier(network(), n_estimators=4, random_state=0),
    "AdaBoost": lambda: AdaBoostClassifier(network(), n_estimators=4, random_state=0),
    "OneVsRest": lambda: OneVsRestClassifier(network()),
    "OneVsOne": lambda: OneVsOneClassifier(network()),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_classifiers_learn(make):
    model = make().fit(X, y)
    assert model.score(X, y) > 0.93
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)


def test_adaboost_weighs_the_rows():
    """Its weights sum up to 1, which must not make the penalty large against the rows."""
    model = AdaBoostClassifier(network(), n_estimators=4, random_state=0).fit(X, y)
    np.testing.assert_allclose(
        network().fit(X, y, np.full(150, 1 / 150)).predict_proba(X), network().fit(X, y).predict_proba(X), atol=1e-4
    )
    assert len({estimator.coefs_[0].tobytes() for estimator in model.estimators_}) == len(model.estimators_) > 1


def test_multioutput_and_chain():
    rows, labels = make_multilabel_classification(200, 8, n_classes=3, random_state=0)
    for wrapper in (MultiOutputClassifier, ClassifierChain):
        model = wrapper(network()).fit(rows, labels)
        assert (model.predict(rows) == labels).mean() > 0.85
        assert len(model.estimators_) == 3


def test_self_training_learns_from_rows_without_labels():
    partly = np.where(np.random.default_rng(0).random(len(y)) < 0.7, -1, y)
    model = SelfTrainingClassifier(network(), threshold=0.8).fit(X, partly)
    assert (model.labeled_iter_ > 0).any()
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("scale", [1, 1e4], ids=["scaled", "raw"])
def test_linear_networks_select_features(scale):
    """By ``coef_``, which is there without hidden layer, for columns of one scale."""
    linear = network(hidden_layer_sizes=(), standardize=scale != 1)
    rfe = RFE(linear, n_features_to_select=3).fit(noisy * scale, noisy_y)
    chosen = SelectFromModel(linear, max_features=3, threshold=-np.inf).fit(noisy * scale, noisy_y)
    for selector in (rfe, chosen):
        assert selector.get_support()[:3].sum() >= 2
        assert selector.transform(noisy).shape == (300, 3)


def test_features_are_selected_one_after_the_other():
    selector = SequentialFeatureSelector(network(hidden_layer_sizes=(), max_iter=20, tol=1), n_features_to_select=2)
    assert selector.set_params(cv=3).fit(noisy, noisy_y).get_support()[:3].sum() == 2


def test_thresholds():
    tuned = TunedThresholdClassifierCV(network(), scoring="balanced_accuracy", cv=3).fit(cancer, target)
    assert 0 < tuned.best_threshold_ < 1
    assert tuned.score(cancer, target) > 0.95
    fitted = network().fit(cancer, target)
    fixed = FixedThresholdClassifier(fitted, threshold=0.9, response_method="predict_proba").fit(cancer, target)
    np.testing.assert_array_equal(fixed.predict(cancer), fitted.predict_proba(cancer)[:, 1] >= 0.9)


def test_inspection():
    model = network().fit(noisy, noisy_y)
    importance = permutation_importance(model, noisy, noisy_y, n_repeats=5, random_state=0).importances_mean
    assert importance[:3].max() > 3 * importance[3:].max()
    average = partial_dependence(model, noisy, [0], grid_resolution=5)["average"]
    assert average.shape == (1, 5)
    assert np.ptp(average) > 0.01
    for method in ("predict", "predict_proba", "decision_function"):
        display = DecisionBoundaryDisplay.from_estimator(
            network().fit(noisy[:, :2], noisy_y), noisy[:, :2], response_method=method, grid_resolution=20
        )
        assert display.response.shape == (20, 20)
        assert np.ptp(display.response) > 0.1


def test_learning_curve_rises():
    sizes, _, scores = learning_curve(network(), cancer, target, train_sizes=[20, 200], cv=3, shuffle=True)
    assert sizes.tolist() == [20, 200]
    assert scores[1].mean() > scores[0].mean() > 0.8


def test_halving_search_over_epochs():
    search = HalvingGridSearchCV(
        network(tol=0, n_iter_no_change=np.inf),
        {"alpha": [0.01, 0.1, 1.0, 1e4]},
        resource="max_iter",
        min_resources=5,
        max_resources=20,
        factor=2,
        cv=3,
        random_state=0,
    ).fit(X, y)
    assert search.n_resources_ == [5, 10, 20]
    assert search.best_params_["alpha"] < 1e4
    assert search.best_estimator_.n_iter_ == 20


def test_text_of_a_vectorizer():
    lines = [f"{word} {other} film" for word in ["good", "great", "fine"] for other in ["quiet", "long", "new"]] * 10
    lines += [f"{word} {other} film" for word in ["bad", "poor", "dull"] for other in ["quiet", "long", "new"]] * 10
    labels = ["praise"] * 90 + ["blame"] * 90
    assert make_pipeline(TfidfVectorizer(), network()).fit(lines, labels).score(lines, labels) == 1


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_columns_of_frames(frame):
    rng = np.random.default_rng(0)
    table = frame({"size": cancer[:, 0], "kind": rng.choice(["a", "b", "c"], len(cancer)), "depth": cancer[:, 1]})
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), ["size", "depth"]), ("kinds", OneHotEncoder(sparse_output=False), ["kind"])]
    )
    output = "pandas" if frame is pd.DataFrame else "polars"
    pipeline = make_pipeline(columns, network()).set_output(transform=output).fit(table, target)
    assert pipeline.score(table, target) > 0.85
    assert list(pipeline[-1].feature_names_in_) == list(columns.fit_transform(table).columns)
    assert [str(name) for name in pipeline[-1].feature_names_in_][:2] == ["numbers__size", "numbers__depth"]
    with pytest.raises(ValueError, match="feature names"):
        pipeline[-1].predict(pd.DataFrame(np.zeros((2, 5)), columns=list("abcde")))
    if frame is pd.DataFrame:
        numbers = ColumnTransformer([("numbers", StandardScaler(), make_column_selector(dtype_include="number"))])
        assert make_pipeline(numbers, network()).fit(table, target).score(table, target) > 0.85
