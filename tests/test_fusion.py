"""`fused_fits`: the same results as without it, networks trained together, nothing stuck, nothing left behind."""

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings

import joblib
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.fusion import pool
from scratchnn.fusion.backend import FusedBackend
from scratchnn.fusion.scheduler import Scheduler
from scratchnn.training import make_stacks, train, trainer

SHAPE = {"n_features": 4, "n_informative": 3, "n_redundant": 0, "random_state": 0}
X, y = make_classification(120, n_classes=3, n_clusters_per_class=1, **SHAPE)
y2 = (y > 0).astype(int)
labels = make_multilabel_classification(120, n_features=4, n_classes=3, random_state=0)[1]
groups = np.arange(120) // 5
sample_weight = np.random.default_rng(0).uniform(0.5, 2, 120)
alphas = {"alpha": [1e-4, 0.1, 1.0, 10.0]}
folds = KFold(3)


def network(**changes):
    settings = {"max_iter": 4, "tol": 0, "n_iter_no_change": np.inf, "dtype": "float64", "random_state": 0}
    return ScratchNNClassifier(**{"hidden_layer_sizes": (5,), "learning_rate_init": 0.01, **settings, **changes})


def within(seconds):
    """Fail a test that takes longer, instead of waiting forever."""

    def decorate(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            outcomes = []

            def work():
                try:
                    outcomes.append((test(*args, **kwargs), None))
                except BaseException as error:
                    outcomes.append((None, error))

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(seconds)
            assert outcomes, f"still not done after {seconds} s"
            result, error = outcomes[0]
            if error is not None:
                raise error
            return result

        return run

    return decorate


def count_task_threads():
    return sum(thread.name == "scratchnn-task" for thread in threading.enumerate())


def wait_for_task_threads():
    for thread in threading.enumerate():
        if thread.name == "scratchnn-task":
            thread.join(10)
    assert count_task_threads() == 0


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    filters, backend = list(warnings.filters), type(joblib.parallel.get_active_backend()[0])
    yield
    assert warnings.filters == filters
    assert type(joblib.parallel.get_active_backend()[0]) is backend
    wait_for_task_threads()


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


def flatten(result):
    """Return all numbers of a result but the times."""
    if isinstance(result, dict):
        return [value for name in sorted(result) if "time" not in name for value in flatten(result[name])]
    if isinstance(result, ScratchNNClassifier):
        return [
            *result.coefs_,
            *result.intercepts_,
            np.array(result.loss_curve_),
            np.array([result.n_iter_, result.t_]),
        ]
    if isinstance(result, list | tuple):
        return [value for part in result for value in flatten(part)]
    if hasattr(result, "cv_results_"):
        # Ranks are left out, as equal scores that round differently have none that is the right one.
        scores = {name: value for name, value in result.cv_results_.items() if not name.startswith(("param", "rank"))}
        return flatten(scores) + (flatten(result.best_estimator_.predict_proba(X)) if result.refit else [])
    if hasattr(result, "predict_proba"):
        return flatten(result.predict_proba(X))
    return [np.asarray(result)]


def assert_equal_results(fused, plain):
    fused, plain = flatten(fused), flatten(plain)
    assert len(fused) == len(plain)
    for left, right in zip(fused, plain, strict=True):
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
    """A transformer that does something in each fit, and changes nothing."""

    def __init__(self, action=None):
        self.action = action

    def fit(self, X, y=None):
        if self.action is not None:
            self.action()
        return self

    def transform(self, X):
        return X


class SpecialError(Exception):
    pass


def fail():
    raise SpecialError("of a task")


def interrupt():
    raise KeyboardInterrupt


def make_pipeline_of_two_fits(action):
    """Return a pipeline that does something between two fits."""
    selector = SelectFromModel(network(hidden_layer_sizes=()), importance_getter="coef_")
    return make_pipeline(selector, Doing(action), network())


def fit_alone():
    return network().fit(X, y)


USES = {
    "GridSearchCV": lambda: search().fit(X, y),
    "RandomizedSearchCV": lambda: RandomizedSearchCV(network(), alphas, n_iter=3, cv=folds, random_state=0).fit(X, y),
    "HalvingGridSearchCV": lambda: HalvingGridSearchCV(network(), alphas, cv=3, factor=2, random_state=0).fit(X, y),
    "HalvingRandomSearchCV": lambda: HalvingRandomSearchCV(
        network(), alphas, n_candidates=4, cv=3, factor=2, random_state=0
    ).fit(X, y),
    "cross_val_score": lambda: cross_val_score(network(), X, y, cv=5),
    "cross_validate": lambda: cross_validate(
        network(),
        X,
        y,
        cv=3,
        scoring=["neg_log_loss", "accuracy", "roc_auc_ovr"],
        return_train_score=True,
        return_estimator=True,
    ),
    "cross_val_predict": lambda: cross_val_predict(network(), X, y, cv=4, method="predict_proba"),
    "learning_curve": lambda: learning_curve(network(), X, y, train_sizes=[0.4, 1.0], cv=folds, return_times=False),
    "learning_curve, step by step": lambda: learning_curve(
        network(), X, y, train_sizes=[0.4, 1.0], cv=3, exploit_incremental_learning=True
    ),
    "validation_curve": lambda: validation_curve(
        network(), X, y, param_name="alpha", param_range=[0.1, 1.0], cv=3, scoring="neg_log_loss"
    ),
    "permutation_test_score": lambda: permutation_test_score(
        network(), X, y, cv=3, n_permutations=4, scoring="neg_log_loss", random_state=0
    ),
    "OneVsRest": lambda: OneVsRestClassifier(network()).fit(X, y),
    "OneVsOne": lambda: OneVsOneClassifier(network()).fit(X, y).decision_function(X),
    "Bagging": lambda: BaggingClassifier(network(), n_estimators=4, random_state=0).fit(X, y),
    "Bagging of columns": lambda: BaggingClassifier(
        network(), n_estimators=4, max_samples=0.7, max_features=0.5, random_state=0
    ).fit(X, y),
    "Voting": lambda: VotingClassifier(
        [("a", network()), ("b", network(alpha=1.0)), ("c", LogisticRegression())], voting="soft"
    ).fit(X, y),
    "Stacking": lambda: StackingClassifier([("a", network()), ("b", network(alpha=1.0))], network(), cv=3).fit(X, y),
    "Calibrated": lambda: CalibratedClassifierCV(network(), cv=3).fit(X, y),
    "Calibrated, isotonic, one model": lambda: CalibratedClassifierCV(
        network(), cv=3, ensemble=False, method="isotonic"
    ).fit(X, y),
    "MultiOutput": lambda: MultiOutputClassifier(network()).fit(X, labels).predict_proba(X),
    "ClassifierChain": lambda: ClassifierChain(network()).fit(X, labels).predict_proba(X),
    "grid around OneVsRest": lambda: search(OneVsRestClassifier(network()), {"estimator__alpha": [0.1, 1.0]}).fit(X, y),
    "nested search": lambda: cross_val_score(search(scoring="neg_log_loss"), X, y, cv=2),
    "Pipeline": lambda: search(
        make_pipeline(StandardScaler(), network(standardize=False)), {"scratchnnclassifier__alpha": [0.1, 1.0]}
    ).fit(X, y),
    "ColumnTransformer": lambda: cross_val_score(
        make_pipeline(
            ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2, 3])], n_jobs=2), network()
        ),
        X,
        y,
        scoring="neg_log_loss",
    ),
    "several one after another": lambda: search(
        make_pipeline(SelectFromModel(network(hidden_layer_sizes=()), importance_getter="coef_"), network()),
        {"scratchnnclassifier__alpha": [0.1, 1.0], "selectfrommodel__estimator__alpha": [0.1, 1.0]},
    ).fit(X, y),
    "no networks": lambda: search(LogisticRegression(), {"C": [0.1, 1.0]}).fit(X, y),
    "partly networks": lambda: search(
        Pipeline([("model", network())]), {"model": [LogisticRegression(), network(), network(alpha=1.0)]}
    ).fit(X, y),
    "two searches": lambda: [search().fit(X, y), search().fit(X, y2)],
    "no search": lambda: network().fit(X, y),
    "sample weights": lambda: search().fit(X, y, sample_weight=sample_weight),
    "sample weights of cross_validate": lambda: cross_validate(
        network(batch_size=20), X, y, cv=4, params={"sample_weight": sample_weight}, scoring="neg_log_loss"
    ),
    "groups": lambda: search(cv=GroupKFold(3)).fit(X, y, groups=groups),
    "generator": lambda: search(network(random_state=np.random.RandomState(0))).fit(X, y),
    "strings": lambda: search().fit(X, np.array(["a", "b", "c"])[y]),
    "two classes": lambda: search(scoring="roc_auc").fit(X, y2),
    "multilabel": lambda: search(scoring="roc_auc").fit(X, labels),
    "sparse": lambda: cross_val_score(network(), sparse.csr_array(X), y, scoring="neg_log_loss"),
}


@pytest.mark.parametrize("use", USES)
@within(60)
def test_same_results_as_without_fusion(use):
    check_same(USES[use])


def squared_logits(logits, deps):
    return (logits - 2 * deps + 1).square().sum(-1)


GRIDS = {
    "widths": {"hidden_layer_sizes": [(), 5, (3, 4), 5]},
    "solvers": {"solver": ["adam", "sgd", "lbfgs"]},
    "rates": {"learning_rate_init": [0.001, 0.01, 0.1], "max_iter": [3, 5, 8]},
    "rates of sgd": {"learning_rate_init": [0.001, 0.1], "learning_rate": ["constant", "invscaling", "adaptive"]},
    "momentum": {"solver": ["sgd"], "momentum": [0.0, 0.5, 0.9], "nesterovs_momentum": [False, True]},
    "decays of adam": {"beta_1": [0.5, 0.9], "beta_2": [0.9, 0.999], "epsilon": [1e-8, 1e-3]},
    "patience": {"tol": [0, 1e-3, 1e-2, 1e-1], "n_iter_no_change": [1, 2], "max_iter": [8]},
    "adaptive patience": {
        "solver": ["sgd"],
        "learning_rate": ["adaptive"],
        "tol": [1e-3, 1e-1, 1],
        "n_iter_no_change": [1, 2],
        "max_iter": [20],
    },
    "minibatches": {"batch_size": [9, 20, "full"], "shuffle": [False, True]},
    "activations": {"activation": ["leaky_relu", "gelu", "silu"], "hidden_layer_sizes": [(4, 3)]},
    "dropout": {"dropout": [0.0, 0.2, 0.5], "hidden_layer_sizes": [(6,), (6, 4)], "random_state": [0, 1]},
    "schedules": {"learning_rate": ["cosine", "one_cycle", "constant"], "solver": ["adam", "sgd"], "max_iter": [4, 7]},
    "class weights": {"class_weight": [None, "balanced", {0: 2.0}, {0: 0.5, 1: 3.0}]},
    "loss of one's own": {"loss": [squared_logits, "log_loss"], "solver": ["adam", "lbfgs"]},
    "losses": {"loss": ["log_loss", "mae", "brier"], "activation": ["relu", "tanh"]},
    "starts": {"random_state": [0, 1, 2], "init": ["glorot_uniform", "scratch"], "hidden_bias": [False, True]},
    "early stopping": {
        "early_stopping": [True],
        "validation_fraction": [0.1, 0.3],
        "scoring": ["loss", "accuracy", "roc_auc_ovr"],
        "n_iter_no_change": [1, np.inf],
        "max_iter": [8],
    },
    "early stopping or not": {"early_stopping": [True, False], "alpha": [0.1, 1.0]},
    "precisions": {"dtype": ["float64", "float32", "auto"]},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("batch_size", ["auto", 9])
@pytest.mark.parametrize("grid", GRIDS)
@within(60)
def test_any_grid_gives_the_same(grid, batch_size):
    estimator = network(batch_size=batch_size, solver="sgd" if grid == "rates of sgd" else "adam")
    check_same(lambda: search(estimator, GRIDS[grid], scoring="neg_log_loss").fit(X, y))


@pytest.mark.filterwarnings("ignore:batch_size=99 is larger")
@pytest.mark.parametrize("batch_size", [13, 20, 98, 99, "full"])
@pytest.mark.parametrize("weights", [None, sample_weight[:118]])
@within(60)
def test_folds_that_differ_by_a_row_train_together(batch_size, weights):
    def use():
        estimator = network(batch_size=batch_size, early_stopping=batch_size == 20)
        return search(estimator, cv=KFold(6), scoring="neg_log_loss", refit=False).fit(
            X[:118], y[:118], sample_weight=weights
        )

    report = check_same(use)
    assert max(stack.n_models for stack in report.stacks) >= 8


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
@within(60)
def test_n_jobs_changes_nothing(n_jobs):
    def use(n_jobs=n_jobs):
        inner = OneVsRestClassifier(network(), n_jobs=n_jobs)
        return search(inner, {"estimator__alpha": [0.1, 1.0]}, n_jobs=n_jobs, scoring="neg_log_loss").fit(X, y)

    plain, n_fits = count_fits(lambda: use(None))
    with fused_fits() as report:
        fused = use()
    assert_equal_results(fused, plain)
    assert n_fits == 3 * (2 * 3 + 1)
    assert max(stack.n_models for stack in report.stacks) == 18


@within(60)
def test_every_fit_of_equal_shape_is_in_one_stack():
    assert [stack.n_models for stack in check_same(lambda: search().fit(X, y)).stacks] == [12]
    assert [stack.n_models for stack in check_same(lambda: cross_val_score(network(), X, y)).stacks] == [5]
    assert [stack.n_models for stack in check_same(lambda: OneVsRestClassifier(network()).fit(X, y)).stacks] == [3]
    nested = check_same(lambda: cross_val_score(search(), X, y, cv=2))
    assert [stack.n_models for stack in nested.stacks] == [24, 2]


@within(60)
def test_fits_that_cannot_be_stacked_are_reported():
    with fused_fits() as report:
        cross_val_score(network(solver="lbfgs", tol=1e9), X, y, cv=2)
        cross_val_score(network(), sparse.csr_array(X), y, cv=2)
    assert [(stack.n_models, stack.alone is not None) for stack in report.stacks] == [(1, True)] * 4
    assert str(report).startswith("4 fits in 4 stacks")


@within(60)
def test_unseeded_fits_differ():
    with fused_fits() as report:
        fits = cross_validate(network(random_state=None), X, y, cv=folds, return_estimator=True)["estimator"]
        more = joblib.Parallel()(joblib.delayed(network(random_state=None).fit)(X, y) for _ in range(3))
    assert report.n_fits == 6
    assert [stack.n_models for stack in report.stacks] == [3, 3]
    assert len({fit.loss_ for fit in [*fits, *more]}) == 6


@pytest.mark.parametrize("weights", [None, sample_weight])
@pytest.mark.parametrize("early_stopping", [False, True])
@within(60)
def test_folds_of_many_candidates_are_kept_once(monkeypatch, weights, early_stopping):
    runs = []

    def record(given):
        runs.extend(given)
        return make_stacks(given)

    monkeypatch.setattr(pool, "make_stacks", record)
    with fused_fits():
        search(network(early_stopping=early_stopping), refit=False).fit(X, y, sample_weight=weights)
    assert len(runs) == 12
    assert len({id(run.data) for run in runs}) == 3
    assert len({id(run.validation) for run in runs}) == (3 if early_stopping else 1)


@within(60)
def test_data_that_differ_in_one_number_are_kept_apart():
    changed_X, changed_y, changed_weight = X.copy(), y.copy(), sample_weight.copy()
    changed_X[7, 2] += 1
    changed_y[7] = (y[7] + 1) % 3
    changed_weight[7] *= 2
    datas = [(X, y, sample_weight), (changed_X, y, sample_weight), (X, changed_y, sample_weight), (X, y, None)]
    datas += [(X, y, changed_weight), (X, y, 2 * sample_weight)]

    def use():
        fits = [network(standardize=False, alpha=1.0).fit for _ in datas]
        return joblib.Parallel()(joblib.delayed(fit)(*data) for fit, data in zip(fits, datas, strict=True))

    report = check_same(use)
    assert [stack.n_models for stack in report.stacks] == [6]


# Never stuck: errors, interrupts, nesting.


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(60)
def test_a_task_that_fails_gets_the_error_score_and_the_others_are_unaffected():
    candidates = {"doing__action": [None, fail, None], "network__alpha": [0.1, 1.0]}
    pipeline = Pipeline([("doing", Doing()), ("network", network())])
    with pytest.warns(FitFailedWarning, match="6 fits failed"):
        report = check_same(lambda: search(pipeline, candidates, refit=False).fit(X, y))
    assert [stack.n_models for stack in report.stacks] == [12]


@pytest.mark.parametrize("position", [0, 1, 3])
@within(60)
def test_an_error_to_be_raised_is_that_very_error(position):
    actions = [None, None, None, None]
    actions[position] = fail
    pipeline = Pipeline([("doing", Doing()), ("network", network())])
    with fused_fits(), pytest.raises(SpecialError, match="of a task"):
        search(pipeline, {"doing__action": actions}, error_score="raise").fit(X, y)


@within(60)
def test_a_fused_context_is_usable_after_an_error():
    with fused_fits() as report:
        with pytest.raises(SpecialError):
            cross_val_score(make_pipeline_of_two_fits(fail), X, y, error_score="raise")
        with pytest.raises(SpecialError):
            cross_val_score(make_pipeline(Doing(fail), network()), X, y, error_score="raise")
        scores = cross_val_score(network(), X, y)
    assert_equal_results(scores, cross_val_score(network(), X, y))
    assert report.stacks[-1].n_models == 5


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("loss", ["log_loss", "mae"])
@within(60)
def test_a_diverging_fit_fails_alone(loss):
    rates = {"learning_rate_init": [0.01, 1e300, 0.1]}
    estimator = network(solver="sgd", loss=loss, batch_size=9, activation="identity")

    def use():
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            return search(estimator, rates, refit=False).fit(X, y)

    report = check_same(use)
    assert max(stack.n_models for stack in report.stacks) == 9


def raise_while_scoring(estimator, X, y):
    raise SpecialError("while scoring")


def raise_while_scoring_once_in_a_while(estimator, X, y):
    if estimator.alpha == 1.0:
        raise SpecialError("while scoring")
    return estimator.score(X, y)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize(
    ("grid", "n_failed"),
    [
        ({"scoring": ["loss", raise_while_scoring, "accuracy"]}, 3),
        ({"scoring": [raise_while_scoring_once_in_a_while], "alpha": [0.1, 1.0, 10.0]}, 3),
    ],
)
@pytest.mark.parametrize("batch_size", [9, "full"])
@within(60)
def test_scoring_that_raises_during_training_fails_alone(grid, n_failed, batch_size):
    def use():
        with pytest.warns(FitFailedWarning, match=f"{n_failed} fits failed"):
            return search(network(early_stopping=True, batch_size=batch_size), grid, refit=False).fit(X, y)

    with fused_fits() as report:
        fused = use()
    assert_equal_results(fused, use())
    assert [stack.n_models for stack in report.stacks] == [9]
    with fused_fits(), pytest.raises(SpecialError, match="while scoring"):
        search(network(early_stopping=True), grid, error_score="raise").fit(X, y)


def refuse_one_fold(logits, deps):
    if deps[:, 0].sum() == 1:
        raise SpecialError("in the loss")
    return squared_logits(logits, deps)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(60)
def test_a_loss_that_raises_fails_alone():
    first, others = np.flatnonzero(y == 0), np.flatnonzero(y > 0)
    splits = [(np.r_[first[:n], others[: 30 - n]], others[-10:]) for n in (3, 1, 5)]
    net = network(loss=refuse_one_fold, batch_size="full")

    def use():
        with pytest.warns(FitFailedWarning, match="2 fits failed"):
            return GridSearchCV(net, {"alpha": [0.1, 1.0]}, cv=splits, refit=False).fit(X, y)

    with fused_fits() as report:
        fused = use()
    assert_equal_results(fused, use())
    assert [stack.alone for stack in report.stacks] == ["its stack failed"] * 4


@within(60)
def test_all_tasks_may_fail():
    with fused_fits() as report, pytest.raises(ValueError, match="All the 12 fits failed"):
        search(network(hidden_layer_sizes=(-1,))).fit(X, y)
    assert report.n_fits == 0


@within(60)
def test_tasks_without_fits_end():
    with fused_fits() as report:
        assert joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(k, 2) for k in range(5)) == [0, 1, 4, 9, 16]
        assert joblib.Parallel()([]) == []
    assert report.n_fits == 0


def fit_nested(depth):
    loss = network(alpha=depth).fit(X, y).loss_
    if depth == 0:
        return [loss]
    results = joblib.Parallel()(joblib.delayed(fit_nested)(depth - 1) for _ in range(2))
    return [loss, results, network(alpha=depth + 0.5).fit(X, y).loss_]


@within(60)
def test_calls_inside_tasks_train_together():
    report = check_same(lambda: joblib.Parallel()(joblib.delayed(fit_nested)(3) for _ in range(2)))
    assert report.n_fits == 2 * (2 * 7 + 8)
    assert max(stack.n_models for stack in report.stacks) >= 8


@within(60)
def test_calls_may_be_made_while_they_are_taken():
    """The iterator of the calls itself fits, and calls joblib."""

    def make_calls():
        for k in range(3):
            network(alpha=k).fit(X, y)
            cross_val_score(network(alpha=k), X, y)
            yield joblib.delayed(network(alpha=k).fit)(X, y)

    def use():
        return joblib.Parallel()(make_calls())

    def use_within_tasks():
        return joblib.Parallel()(joblib.delayed(use)() for _ in range(2))

    check_same(use)
    check_same(use_within_tasks)


@pytest.mark.parametrize("pre_dispatch", [1, 2, "all", "2*n_jobs"])
@within(60)
def test_pre_dispatch_and_batches_change_nothing(pre_dispatch):
    check_same(lambda: search(pre_dispatch=pre_dispatch).fit(X, y))
    check_same(
        lambda: joblib.Parallel(batch_size=3, pre_dispatch=pre_dispatch)(
            joblib.delayed(network(alpha=k).fit)(X, y) for k in range(8)
        )
    )


def call_in_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("call", [fit_alone, lambda: search().fit(X, y)])
@within(60)
def test_a_task_may_fit_in_a_thread_of_its_own(call):
    def use():
        return joblib.Parallel()(joblib.delayed(call_in_thread)(call) for _ in range(3))

    with fused_fits():
        fused = use()
    assert_equal_results(fused, use())


@within(60)
def test_a_task_may_fit_in_a_pool_of_threads():
    def fit_both():
        return joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(fit_alone)() for _ in range(4))

    def use():
        return joblib.Parallel()(joblib.delayed(fit_both)() for _ in range(2))

    with fused_fits():
        fused = use()
    assert_equal_results(fused, use())


@within(60)
def test_fused_inside_fused():
    def use():
        with fused_fits() as report:
            result = search().fit(X, y)
            network().fit(X, y)
        assert report.n_fits == 12 or threading.current_thread().name == "scratchnn-task"
        return result

    plain = search().fit(X, y)
    with fused_fits() as report:
        assert_equal_results(use(), plain)
        cross_val_score(network(), X, y)
        assert report.n_fits == 5
        assert_equal_results(joblib.Parallel()(joblib.delayed(use)() for _ in range(3)), [plain] * 3)
        assert_equal_results(search().fit(X, y), plain)


@pytest.mark.parametrize("backend", [None, "loky"])
@within(60)
def test_zero_jobs_are_refused_as_joblib_does(backend):
    with pytest.raises(ValueError, match="n_jobs == 0") as expected:
        joblib.Parallel(n_jobs=0)(joblib.delayed(pow)(1, 1) for _ in range(2))
    with fused_fits(backend=backend), pytest.raises(ValueError, match="n_jobs == 0") as error:
        joblib.Parallel(n_jobs=0)(joblib.delayed(pow)(1, 1) for _ in range(2))
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"n_jobs": 2}, ["n_jobs must go with a backend", "got 2", "Use backend="]),
        ({"n_jobs": 0}, ["n_jobs must not be 0", "got 0", "Use "]),
        ({"n_jobs": 0, "backend": "loky"}, ["n_jobs must not be 0", "got 0", "Use "]),
    ],
)
def test_wrong_parameters_are_refused(settings, parts):
    with pytest.raises(ValueError) as error, fused_fits(**settings):
        pass
    for part in parts:
        assert part in str(error.value)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="no_such"), fused_fits(backend="no_such"):
        cross_val_score(network(), X, y)


@within(60)
def test_an_interrupt_in_a_task_leaves_nothing_behind():
    with fused_fits(), pytest.raises(KeyboardInterrupt):
        search(make_pipeline_of_two_fits(None), {"doing": ["passthrough", Doing(interrupt)]}).fit(X, y)
    for model in [Doing(interrupt), make_pipeline_of_two_fits(interrupt)]:
        with pytest.raises(KeyboardInterrupt), fused_fits():
            joblib.Parallel()(joblib.delayed(each.fit)(X, y) for each in [network(), model, network()])
        assert type(joblib.parallel.get_active_backend()[0]) is not FusedBackend
        wait_for_task_threads()


def interrupt_while_scoring(estimator, X, y):
    raise KeyboardInterrupt


@within(60)
def test_an_interrupt_during_training_ends_the_fits_as_it_does_alone():
    estimator = network(early_stopping=True, scoring=interrupt_while_scoring)
    with fused_fits() as report, pytest.warns(UserWarning, match="interrupted by user"):
        fits = cross_validate(estimator, X, y, return_estimator=True)["estimator"]
    assert report.n_fits == 5
    assert {fit.n_iter_ for fit in fits} <= {0, 1}


CTRL_C = """
import os, signal, sys, threading
from joblib import Parallel, delayed
from sklearn.datasets import load_iris
from scratchnn import ScratchNNClassifier, fused_fits

def strike(depth):
    network.fit(*load_iris(return_X_y=True))
    if depth:
        return Parallel(n_jobs=2)(delayed(strike)(depth - 1) for _ in range(2))
    os.kill(os.getpid(), signal.SIGINT)

network = ScratchNNClassifier((5,), max_iter=2, tol=0)
try:
    with fused_fits():
        Parallel(n_jobs=2)(delayed(strike)(int(sys.argv[1])) for _ in range(3))
except KeyboardInterrupt:
    names = [thread.name for thread in threading.enumerate()]
    print("interrupted", names)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("depth", [0, 1])
def test_ctrl_c_while_tasks_run_reaches_the_user(depth):
    command = [sys.executable, "-W", "ignore", "-c", CTRL_C, str(depth)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.startswith("interrupted"), done.stderr
    assert "scratchnn-task" not in done.stdout


# What was before is there again.


def get_state():
    return type(joblib.parallel.get_active_backend()[0]), list(warnings.filters), torch.get_num_threads()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@within(60)
def test_state_is_restored(two_threads):
    before = get_state()
    with fused_fits():
        search().fit(X, y)
        assert get_state()[1] == before[1]
    assert get_state() == before
    assert call_in_thread(get_state) == before


@within(60)
def test_state_is_restored_after_an_error(two_threads):
    before = get_state()
    with pytest.raises(SpecialError), fused_fits():  # noqa: PT012
        search().fit(X, y)
        fail()
    assert get_state() == before
    with pytest.raises(SpecialError), fused_fits():
        cross_val_score(make_pipeline_of_two_fits(fail), X, y, error_score="raise")
    assert get_state() == before
    assert call_in_thread(get_state) == before


@within(60)
def test_state_is_restored_within_the_block(two_threads):
    with fused_fits():
        search().fit(X, y)
        assert torch.get_num_threads() == 2


@within(60)
def test_several_threads_each_with_their_own_fused_fits(two_threads):
    before = get_state()
    plain = search().fit(X, y)
    start = threading.Barrier(4)
    outcomes = []

    def use():
        try:
            start.wait()
            for _ in range(5):
                with fused_fits() as report:
                    outcomes.append((report, search().fit(X, y)))
        except BaseException as error:
            outcomes.append((error, None))

    threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 20
    for report, result in outcomes:
        assert report.n_fits == 12
        assert_equal_results(result, plain)
    assert get_state() == before
    assert call_in_thread(get_state) == before


@within(60)
def test_warnings_of_tasks_reach_the_user_as_without_fusion():
    def use():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search(network(n_iter_no_change=100), refit=False).fit(X, y)
        return sorted((each.category.__name__, str(each.message), each.filename, each.lineno) for each in caught)

    plain = use()
    assert len(plain) == 12
    with fused_fits():
        assert use() == plain
    with fused_fits(), pytest.warns(ConvergenceWarning, match="has not converged"):
        search(network(n_iter_no_change=100), refit=False).fit(X, y)


@within(60)
def test_warnings_as_errors_are_errors_of_their_task():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fused_fits(), pytest.raises(ConvergenceWarning):
            cross_val_score(network(n_iter_no_change=100), X, y, error_score="raise")


def warn_within(action, name):
    """Fit within filters of this task's own, and return what became of a warning afterwards."""
    with warnings.catch_warnings(record=action == "record") as caught:
        warnings.simplefilter("always" if action == "record" else action)
        network().fit(X, y)
        try:
            warnings.warn(name, UserWarning, stacklevel=1)
        except UserWarning:
            return "error"
        network(alpha=1.0).fit(X, y)
        return "silent" if caught is None else [str(each.message) for each in caught]


@within(60)
def test_tasks_have_warning_filters_of_their_own():
    actions = ["ignore", "error", "record", "ignore", "record", "error", "record"]
    before = list(warnings.filters)

    def use():
        return joblib.Parallel()(joblib.delayed(warn_within)(action, str(k)) for k, action in enumerate(actions))

    plain = use()
    assert plain == ["silent", "error", ["2"], "silent", ["4"], "error", ["6"]]
    with fused_fits():
        assert use() == plain
        assert warnings.filters == before


@within(60)
def test_an_error_leaves_no_filters_of_a_task_behind():
    actions = ["ignore", "record", "ignore"]
    before, show = list(warnings.filters), warnings._showwarnmsg_impl
    calls = [joblib.delayed(fail)(), *(joblib.delayed(warn_within)(action, "") for action in actions)]
    for order in (calls, calls[::-1], [*calls[1:3], calls[0], calls[3]]):
        with fused_fits(), pytest.raises(SpecialError):
            joblib.Parallel()(order)
        assert warnings.filters == before
        assert warnings._showwarnmsg_impl is show


# Whatever tasks do, and however many there are.


def execute(node):
    """Run a random program: a task's result is nested lists of losses."""
    kind, value = node
    if kind == "fit":
        return network(alpha=value, max_iter=1 + value % 3).fit(X[:60], y[:60]).loss_
    if kind == "fit twice":
        return [execute(("fit", value)), execute(("fit", value + 1))]
    if kind == "raise":
        raise value("of a program")
    if kind == "catch":
        try:
            return execute(value)
        except (ValueError, KeyError) as error:
            return type(error).__name__
    if kind == "tasks":
        return joblib.Parallel()(joblib.delayed(execute)(child) for child in value)
    return None


def run_program(program):
    """Return the result, or the type of error, of a program."""
    try:
        return execute(program)
    except Exception as error:
        return type(error)


def assert_equal_nested(left, right):
    if isinstance(right, list):
        assert isinstance(left, list)
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_equal_nested(*pair)
    elif isinstance(right, float):
        assert left == pytest.approx(right, rel=1e-6)
    else:
        assert left == right


def test_random_programs_of_nested_tasks_give_what_they_give_in_sequence():
    hypothesis = pytest.importorskip("hypothesis")
    some = hypothesis.strategies
    leaf = some.one_of(
        some.tuples(some.just("fit"), some.integers(0, 5)),
        some.tuples(some.just("fit twice"), some.integers(0, 5)),
        some.tuples(some.just("raise"), some.sampled_from([ValueError, KeyError])),
        some.just(("nothing", None)),
    )

    def branch(children):
        return some.one_of(
            some.tuples(some.just("tasks"), some.lists(children, max_size=4)), some.tuples(some.just("catch"), children)
        )

    programs = some.lists(some.recursive(leaf, branch, max_leaves=12), min_size=1, max_size=4)

    @hypothesis.settings(deadline=None, max_examples=25, derandomize=True, database=None)
    @hypothesis.given(programs)
    def check(programs):
        program = ("tasks", programs)

        @within(30)
        def run():
            with fused_fits():
                return run_program(program)

        assert_equal_nested(run(), run_program(program))
        wait_for_task_threads()

    check()


@within(60)
def test_thousands_of_tasks_need_few_threads():
    most = 0

    def count_and_fit(k):
        nonlocal most
        most = max(most, count_task_threads())
        return network(max_iter=1, alpha=k).fit(X[:20], y[:20]).loss_

    with fused_fits() as report:
        losses = joblib.Parallel(n_jobs=2)(joblib.delayed(count_and_fit)(k) for k in range(600))
    assert len(set(losses)) == 600
    assert report.n_fits == 600
    assert 1 < most <= Scheduler.MAX_TASKS


@within(60)
def test_thousands_of_nested_tasks_need_few_threads(monkeypatch):
    monkeypatch.setattr(Scheduler, "MAX_TASKS", 8)
    most = 0

    def work(depth):
        nonlocal most
        most = max(most, count_task_threads())
        if depth:
            return joblib.Parallel()(joblib.delayed(work)(depth - 1) for _ in range(6))
        return network(max_iter=1).fit(X[:20], y[:20]).loss_

    with fused_fits() as report:
        work(3)
    assert report.n_fits == 216
    assert most <= 8 + 3 * 8  # a task that waits for inner ones lets them go on


@within(60)
def test_little_memory_trains_what_there_is(monkeypatch):
    monkeypatch.setattr(pool, "count_memory", lambda: 4 * 5 * 3 * 80 * (4 + 3) * 8)
    report = check_same(lambda: search(refit=False).fit(X, y))
    assert 1 < len(report.stacks) <= 12


# Shares for workers.


class Noting(Doing):
    """A transformer that notes the process it was fitted in."""

    def fit(self, X, y=None):
        self.process_ = os.getpid()
        return self


class DyingOnce(Doing):
    """A transformer whose first fit kills its process. ``action`` is the path of a file to remember that by."""

    def fit(self, X, y=None):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.action, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        return self


def check_same_on_workers(backend, use):
    """Run a use plainly and on two workers, and return its result and the report."""
    plain, n_fits = count_fits(use)
    with fused_fits(backend=backend, n_jobs=2) as report:
        dealt, n_outside = count_fits(use)
    assert_equal_results(dealt, plain)
    assert report.n_fits == n_fits - n_outside
    return dealt, report


WORKER_USES = {
    name: USES[name]
    for name in ["GridSearchCV", "HalvingGridSearchCV", "cross_validate", "OneVsRest", "nested search", "no networks"]
}


def check_workers(backend):
    """Check what holds for any backend: each worker fuses its share; errors arrive."""
    for use in WORKER_USES.values():
        _, report = check_same_on_workers(backend, use)
    report = check_same_on_workers(backend, USES["GridSearchCV"])[1]
    assert [stack.n_models for stack in report.stacks] == [6, 6]
    with fused_fits(backend=backend, n_jobs=2) as report:
        noting = make_pipeline(Noting(), network())
        fits = cross_validate(noting, X, y, cv=6, return_estimator=True)["estimator"]
    assert [stack.n_models for stack in report.stacks] == [3, 3]
    processes = {fit[0].process_ for fit in fits}
    assert len(processes) == 2
    assert os.getpid() not in processes
    for model in [make_pipeline(Doing(fail), network()), make_pipeline_of_two_fits(fail)]:
        with fused_fits(backend=backend, n_jobs=2), pytest.raises(SpecialError, match="of a task"):
            cross_val_score(model, X, y, error_score="raise")
    candidates = {"doing": ["passthrough", Doing(fail), "passthrough"]}
    failing = search(make_pipeline_of_two_fits(None), candidates, refit=False)
    with pytest.warns(FitFailedWarning, match="3 fits failed"), fused_fits(backend=backend, n_jobs=2):
        result = failing.fit(X, y)
    failing.set_params(error_score="raise")
    with fused_fits(backend=backend, n_jobs=2), pytest.raises(SpecialError, match="of a task"):
        failing.fit(X, y)
    assert np.isnan(result.cv_results_["mean_test_score"]).tolist() == [False, True, False]


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@within(120)
def test_loky_workers_fuse_their_shares():
    check_workers("loky")


@within(60)
def test_more_calls_than_are_taken_at_once_are_dealt(monkeypatch):
    monkeypatch.setattr(Scheduler, "MAX_TASKS", 2)
    _, report = check_same_on_workers("loky", lambda: search(refit=False, pre_dispatch=4).fit(X, y))
    assert report.n_fits == 12


@pytest.fixture
def client():
    distributed = pytest.importorskip("distributed")
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)
    where = {"host": "127.0.0.1", "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=logging.CRITICAL, **where) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
    log.setLevel(level)


@pytest.mark.filterwarnings("ignore")
def test_dask_workers_fuse_their_shares_and_may_die(client, tmp_path):
    within(60)(check_workers)("dask")
    dying = make_pipeline(DyingOnce(str(tmp_path / "died")), network())

    @within(60)
    def use():
        with fused_fits(backend="dask", n_jobs=2) as report:
            return cross_val_score(dying, X, y, scoring="neg_log_loss", error_score="raise"), report

    scores, report = use()
    assert (tmp_path / "died").exists()
    assert_equal_results(scores, cross_val_score(network(), X, y, scoring="neg_log_loss"))
    assert report.n_fits == 5


# --- what is seen


@within(60)
def test_the_report_says_what_was_trained_and_why_alone(capsys):
    with fused_fits(verbose=True) as report:
        cross_val_score(network(), X, y, cv=3)
        cross_val_score(network(solver="lbfgs", max_iter=500, tol=0.1), X, y, cv=2)
    assert [stack.n_models for stack in report.stacks] == [3, 1, 1]
    assert report.stacks[0].sizes == (4, 5, 3)
    assert report.stacks[0].seconds_per_fit == report.stacks[0].seconds / 3 > 0
    assert report.stacks[0].alone is None
    assert "lbfgs" in report.stacks[1].alone
    assert "3 x 4-5-3 on 80 rows" in str(report)
    assert "[fused_fits] 3 x 4-5-3 on 80 rows" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_a_signal_during_training_keeps_the_models_so_far():
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with fused_fits() as report:
        scores = cross_val_score(network(max_iter=100_000), X, y, cv=2)
    assert np.isfinite(scores).all()
    assert report.n_fits == 2
