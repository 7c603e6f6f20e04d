"""Small searches for the tests of `fused_fits` where memory or threads are scarce."""

import functools

import fusion_helpers
from fusion_helpers import network
from helpers import make_table
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import cross_val_score

X, y = make_table(60, 4, 2)


search = functools.partial(fusion_helpers.search, scoring="neg_log_loss", refit=False)


def score(**settings):
    return search(**settings).fit(X, y).cv_results_["mean_test_score"]


def score_nested():
    return cross_val_score(search(refit=True), X, y, cv=2)


def score_bagging():
    return BaggingClassifier(network(), n_estimators=6, random_state=0).fit(X, y).predict_proba(X)


def score_with_early_stopping():
    return search(network(early_stopping=True), cv=3).fit(X, y).cv_results_["mean_test_score"]


SEARCHES = [score, score_nested, score_bagging, score_with_early_stopping]
