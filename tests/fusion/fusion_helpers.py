"""Data, estimators and checks that the tests of `fused_fits` share."""

import functools
import os

import joblib
import numpy as np
import uses
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from small_problems import X, y
from uses import flatten

from scratchnn import fused_fits
from scratchnn.training import train, trainer

alphas = {"alpha": [1e-4, 0.1, 1.0, 10.0]}
folds = KFold(3)
network = functools.partial(uses.network, max_iter=4)


def count_fits(use):
    """Return the result of a use, and the number of networks that this thread fits itself."""
    runs = []

    def note(run):
        runs.append(run)
        train([run])

    token = trainer.set(note)
    try:
        return use(), len(runs)
    finally:
        trainer.reset(token)


def assert_equal_results(fused, plain):
    """Check that all numbers of two results are equal, except times."""
    fused, plain = flatten(fused), flatten(plain)
    assert len(fused) == len(plain)
    for left, right in zip(fused, plain, strict=True):
        if left.dtype.kind in "OU":  # labels
            np.testing.assert_array_equal(left, right)
        else:
            np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)


def check_same(use):
    """Run a use with and without fusion, and return the report, which holds all fits but those outside of tasks."""
    plain, n_fits = count_fits(use)
    with fused_fits() as report:
        fused, n_outside = count_fits(use)
    assert_equal_results(fused, plain)
    assert report.n_fits == n_fits - n_outside
    return report


def search(estimator=None, grid=alphas, **settings):
    return GridSearchCV(network() if estimator is None else estimator, grid, **{"cv": folds, **settings})


class Doing(TransformerMixin, BaseEstimator):
    """A transformer that does something in each fit, notes its process, and changes nothing."""

    def __init__(self, action=None):
        self.action = action

    def fit(self, X, y=None):
        if self.action is not None:
            self.action()
        self.process_ = os.getpid()
        return self

    def transform(self, X):
        return X


class OwnError(Exception):
    pass


def fail():
    raise OwnError("of a task")


def interrupt():
    raise KeyboardInterrupt


def make_two_fits(action):
    """Return a pipeline that does something between two fits."""
    selector = SelectFromModel(network(hidden_layer_sizes=()), importance_getter="coef_")
    return make_pipeline(selector, Doing(action), network())


def squared_logits(logits, deps):
    return (logits - 2 * deps + 1).square().sum(-1)


def fit(k):
    return network(alpha=float(k)).fit(X, y).loss_


def run(task, n_tasks=3, **settings):
    return joblib.Parallel(**settings)(joblib.delayed(task)(k) for k in range(n_tasks))


def run_fused(task, n_tasks=3):
    """Return what tasks return, and how many models each stack had."""
    with fused_fits() as report:
        results = run(task, n_tasks)
    return results, [stack.n_models for stack in report.stacks]
