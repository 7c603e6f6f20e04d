"""The network where people use it: inside scikit-learn."""

import functools

import joblib
import numpy as np
import pytest
from helpers import run_python
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import ScratchNNClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


make_network = functools.partial(ScratchNNClassifier, max_iter=30, learning_rate_init=0.01, random_state=0)


def test_pipeline_after_train_test_split(cancer):
    X_train, X_test, y_train, y_test = train_test_split(*cancer, random_state=0)
    pipeline = make_pipeline(StandardScaler(), make_network(standardize=False)).fit(X_train, y_train)
    assert pipeline.score(X_test, y_test) > 0.95
    np.testing.assert_allclose(pipeline.predict_proba(X_test).sum(1), 1)


def test_cross_val_score(cancer):
    scores = cross_val_score(make_network(), *cancer, cv=3, scoring="roc_auc")
    assert scores.min() > 0.97


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search_over_pipeline_parameters(cancer, n_jobs):
    pipeline = make_pipeline(StandardScaler(), make_network())
    grid = {"scratchnnclassifier__alpha": [1e-3, 1], "scratchnnclassifier__learning_rate_init": [1e-5, 1e-2]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs).fit(*cancer)
    assert search.best_params_["scratchnnclassifier__learning_rate_init"] == 1e-2
    assert search.best_score_ > 0.95
    alone = GridSearchCV(pipeline, {name: [value] for name, value in search.best_params_.items()}, cv=3).fit(*cancer)
    assert alone.best_score_ == search.best_score_


def test_in_the_place_of_logistic_regression(cancer):
    """The same code, another class: fit, predict, probabilities, decision function, coefficients of the same shape."""
    X_train, X_test, y_train, y_test = train_test_split(*cancer, random_state=0)
    theirs = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
    ours = make_pipeline(StandardScaler(), ScratchNNClassifier((), solver="lbfgs", alpha=1.0)).fit(X_train, y_train)
    assert abs(ours.score(X_test, y_test) - theirs.score(X_test, y_test)) < 0.01
    for method in ["predict", "predict_proba", "predict_log_proba", "decision_function"]:
        left, right = getattr(ours, method)(X_test), getattr(theirs, method)(X_test)
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, atol=1e-2, rtol=1e-2)
    np.testing.assert_allclose(ours[-1].coef_, theirs[-1].coef_, atol=1e-2)


def test_a_pipeline_in_a_file_predicts_the_same_in_a_new_process(cancer, tmp_path):
    X, y = cancer
    pipeline = make_pipeline(StandardScaler(), make_network()).fit(X, y)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    np.save(tmp_path / "X.npy", X)
    code = "import joblib, numpy as np; np.save('P.npy', joblib.load('model.joblib').predict_proba(np.load('X.npy')))"
    run_python(code, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "P.npy"), pipeline.predict_proba(X))
