"""Small searches for the tests of `fused_fits` where memory or threads are scarce."""

import numpy as np
import torch
from fusion_helpers import alphas, network
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] + X[:, 1] > 0).astype(int)


def search(**settings):
    return GridSearchCV(network(), alphas, **{"cv": KFold(3), "scoring": "neg_log_loss", "refit": False, **settings})


def score(**settings):
    return search(**settings).fit(X, y).cv_results_["mean_test_score"]


def score_nested():
    return cross_val_score(search(refit=True), X, y, cv=2)


def score_bagging():
    return BaggingClassifier(network(), n_estimators=6, random_state=0).fit(X, y).predict_proba(X)


def score_with_early_stopping():
    return (
        GridSearchCV(network(early_stopping=True), alphas, cv=3, scoring="neg_log_loss", refit=False)
        .fit(X, y)
        .cv_results_["mean_test_score"]
    )


SEARCHES = [score, score_nested, score_bagging, score_with_early_stopping]


def allocate_too_much():
    return torch.empty(2**60, dtype=torch.uint8)
