"""The classifier where people use it: inside scikit-learn, in the place of LogisticRegression."""

from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from helpers import ALL_EPOCHS, assert_same_fit, make_network
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_iris
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from uses import USES, frame, make_uses, y

from scratchnn import ScratchNNClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SETTINGS = {"tol": 1e-10, "max_iter": 10_000}
THEIRS = make_uses(partial(LogisticRegression, **SETTINGS))
OURS = make_uses(partial(ScratchNNClassifier.from_recipe, "logistic_regression", **SETTINGS))


@pytest.mark.parametrize("name", THEIRS)
def test_a_linear_network_in_the_place_of_logistic_regression_has_its_results(name):
    for ours, theirs in zip(OURS[name](), THEIRS[name](), strict=True):
        if theirs.dtype.kind in "fc":
            np.testing.assert_allclose(ours, theirs, atol=2e-4)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in USES if name not in THEIRS])
def test_uses_that_logistic_regression_has_not_give_finite_numbers(name):
    assert all(np.isfinite(each).all() for each in USES[name]())


def test_a_halving_search_may_spend_epochs():
    model = make_network(hidden_layer_sizes=20, learning_rate_init=0.05, **ALL_EPOCHS)
    settings = {"resource": "max_iter", "min_resources": 5, "max_resources": 20, "factor": 2}
    search = HalvingGridSearchCV(model, {"alpha": [0.01, 0.1, 1.0, 1e4]}, cv=3, random_state=0, **settings)
    search.fit(*load_iris(return_X_y=True))
    assert search.n_resources_ == [5, 10, 20]
    assert search.best_params_["alpha"] < 1e4
    assert search.best_estimator_.n_iter_ == 20


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_frames_that_a_pipeline_makes_keep_their_names(kind):
    table = kind(frame.to_dict("list"))
    numbers = ("numbers", StandardScaler(), make_column_selector(dtype_include="number"))
    if kind is pl.DataFrame:
        numbers = ("numbers", StandardScaler(), ["size", "depth", "age"])
    columns = ColumnTransformer([numbers, ("kinds", OneHotEncoder(sparse_output=False), ["kind"])])
    pipeline = make_pipeline(columns, make_network()).set_output(transform=kind.__module__.partition(".")[0])
    names = pipeline.fit(table, y)[-1].feature_names_in_.tolist()
    assert names == [
        "numbers__size",
        "numbers__depth",
        "numbers__age",
        "kinds__kind_a",
        "kinds__kind_b",
        "kinds__kind_c",
    ]
    plain = make_pipeline(clone(columns).set_output(transform="default"), make_network()).fit(table, y)
    np.testing.assert_array_equal(pipeline.predict_proba(table), plain.predict_proba(table))
    with pytest.raises(ValueError, match="feature names"):
        pipeline[-1].predict(pd.DataFrame(np.zeros((2, 5)), columns=list("abcde")))


def test_weights_are_routed_through_a_search_to_training_and_scores():
    X, y = load_iris(return_X_y=True)
    weights = np.where(y == 0, 0.1, 3.0)
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = Pipeline([("scale", scaler), ("net", make_network().set_fit_request(sample_weight=True))])
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        search = GridSearchCV(pipeline, {"net__alpha": [0.1, 10.0]}, cv=3, scoring=scorer)
        plain = clone(search).fit(X, y)
        search.fit(X, y, sample_weight=weights)
    assert np.abs(search.cv_results_["mean_test_score"] - plain.cv_results_["mean_test_score"]).min() > 0.01
    expected = make_network(alpha=search.best_params_["net__alpha"]).fit(scaler.fit_transform(X), y, weights)
    assert_same_fit(search.best_estimator_[-1], expected)
