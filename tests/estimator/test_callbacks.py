"""scikit-learn's callbacks: what they see, when they are called, and that they can stop a fit."""

import traceback
from collections import Counter
from contextlib import nullcontext

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import ALL_EPOCHS, make_network
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import fused_fits

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")

X, y = load_iris(return_X_y=True)
SOLVERS = {"adam": ALL_EPOCHS, "lbfgs": {"tol": 1e-9}}


def network(solver="adam", **changes):
    return make_network(**({"solver": solver, "max_iter": 6, "learning_rate": "constant"} | SOLVERS[solver] | changes))


class Recorder:
    """Notes each call, and what the network says; asks to stop at an epoch."""

    def __init__(self, stop_at=None):
        self.calls, self.probabilities, self.stop_at = [], [], stop_at

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        self.calls.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.calls.append(f"end {context.task_name} {context.task_id}")
        self.probabilities.append(fitted_estimator.predict_proba(X))
        return self.stop_at is not None and context.task_id >= self.stop_at


class OwnError(Exception):
    pass


def raise_own():
    raise OwnError("no more")


class Raiser(Recorder):
    """Raises an error at the third epoch, before it or after it."""

    def __init__(self, method="on_fit_task_end"):
        super().__init__()
        self.method = method

    def on_fit_task_begin(self, estimator, context):
        if self.method == "on_fit_task_begin" and context.task_id == 2:
            raise_own()

    def on_fit_task_end(self, estimator, context):
        if self.method == "on_fit_task_end" and context.task_id == 2:
            raise_own()


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_and_its_epochs_are_reported_in_order(solver):
    recorder = Recorder()
    model = network(solver).set_callbacks(recorder).fit(X, y)
    epochs = [call for k in range(6) for call in (f"begin epoch {k}", f"end epoch {k}")]
    assert recorder.calls == ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]
    for n_epochs, seen in zip([1, 2, 3, 4, 5, 6, 6], recorder.probabilities, strict=True):
        np.testing.assert_allclose(seen, network(solver, max_iter=n_epochs).fit(X, y).predict_proba(X), atol=1e-12)
    assert joblib.hash(model.coefs_) == joblib.hash(network(solver).fit(X, y).coefs_)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_stops_the_fit(solver):
    recorder = Recorder(stop_at=2)
    model = network(solver, max_iter=50).set_callbacks(recorder).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert recorder.calls[-3:] == ["end epoch 2", "end fit 0", "teardown"]
    np.testing.assert_allclose(model.predict_proba(X), recorder.probabilities[2], atol=1e-12)
    np.testing.assert_allclose(
        model.predict_proba(X), network(solver, max_iter=3).fit(X, y).predict_proba(X), atol=1e-12
    )


def test_the_end_of_the_fit_has_the_best_coefficients():
    recorder = Recorder()
    model = network(early_stopping=True, n_iter_no_change=2, max_iter=50, learning_rate_init=0.5)
    model.set_callbacks(recorder).fit(X, y)
    assert model.n_iter_ < 50
    np.testing.assert_array_equal(recorder.probabilities[-1], model.predict_proba(X))
    assert np.abs(recorder.probabilities[-2] - recorder.probabilities[-1]).max() > 0


def get_rows(monitor):
    return [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]


@pytest.mark.parametrize("as_frame", [False, True])
def test_scoring_monitor_and_progress_bar_alone(as_frame, capsys):
    monitor = callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    table = pd.DataFrame(X, columns=list("abcd")) if as_frame else X
    model = network().set_callbacks(callback.ProgressBar(), monitor).fit(table, y)
    rows = get_rows(monitor)
    assert [row["task_id"] for row in rows] == list(range(6))
    assert rows[-1]["accuracy"] == pytest.approx(model.score(table, y))
    assert -rows[-1]["neg_log_loss"] == pytest.approx(-np.mean(model.predict_log_proba(table)[range(150), y]))
    assert "ScratchNNClassifier" in capsys.readouterr().out


def test_sample_weights_reach_the_scores():
    weights = np.where(y == 0, 5.0, 1.0)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = network().set_callbacks(monitor).fit(X, y, sample_weight=weights)
    assert get_rows(monitor)[-1]["accuracy"] == pytest.approx(model.score(X, y, weights))


def make_pipeline(*callbacks):
    return Pipeline([("scale", StandardScaler()), ("net", network().set_callbacks(*callbacks))])


def test_callbacks_in_a_pipeline():
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(monitor).set_callbacks(callback.ProgressBar()).fit(X, y)
    rows = get_rows(monitor)
    assert len(rows) == 6
    assert rows[-1]["accuracy"] == pytest.approx(pipeline.score(X, y))


@pytest.mark.parametrize("how", ["n_jobs=1", "n_jobs=2", "fused"])
def test_callbacks_in_a_search(how):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    search = GridSearchCV(make_pipeline(monitor), {"net__alpha": [0.1, 1.0]}, cv=3)
    search.set_callbacks(callback.ProgressBar())
    if how == "fused":
        with fused_fits():
            search.fit(X, y)
    else:
        search.set_params(n_jobs=int(how[-1])).fit(X, y)
    rows = get_rows(monitor)
    per_fit = Counter(row["parent_task_id_path"] for row in rows)
    assert sorted(per_fit.values()) == [6] * 7  # 2 alphas x 3 folds, and the refit
    last = [row["accuracy"] for row in rows if row["task_id"] == 5]
    assert search.best_estimator_.score(X, y) in last
    plain = GridSearchCV(make_pipeline(), {"net__alpha": [0.1, 1.0]}, cv=3).fit(X, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


@pytest.mark.parametrize("fit", ["cross_val_score", "voting", "one against the rest"])
@pytest.mark.parametrize("fused", [False, True])
def test_both_go_on_the_network_where_nothing_is_handed_down(fit, fused, capsys):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = network().set_callbacks(monitor, callback.ProgressBar())
    with fused_fits() if fused else nullcontext():
        if fit == "cross_val_score":
            cross_val_score(model, X, y, cv=3)
        elif fit == "voting":
            VotingClassifier([(name, model) for name in "abc"]).fit(X, y)
        else:
            OneVsRestClassifier(model).fit(X, y)
    assert [len(log.data) for log in monitor.get_logs(select="all")] == [7] * 3  # six epochs and the fit
    assert capsys.readouterr().out.count("ScratchNNClassifier - fit") >= 3


def test_partial_fit_is_not_reported():
    recorder = Recorder()
    network().set_callbacks(recorder).partial_fit(X, y, classes=[0, 1, 2])
    assert recorder.calls == []


def test_a_fused_fit_is_stopped_alone():
    search = GridSearchCV(network().set_callbacks(Recorder(stop_at=1)), {"alpha": [0.1, 1.0]}, cv=3, refit=False)
    plain = GridSearchCV(network(max_iter=2), {"alpha": [0.1, 1.0]}, cv=3, refit=False).fit(X, y)
    with fused_fits() as report:
        search.fit(X, y)
    assert report.n_fits == 6
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


@pytest.mark.parametrize("method", ["on_fit_task_begin", "on_fit_task_end"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_error_of_a_callback_ends_the_fit_with_its_own_traceback(solver, method):
    raiser = Raiser(method)
    with pytest.raises(OwnError) as raised:
        network(solver).set_callbacks(raiser).fit(X, y)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-2:] == [method, "raise_own"]
    assert raiser.calls[-1] == "teardown"


def test_an_error_of_a_callback_fails_alone():
    """Which of the fused fits raises is up to the epochs that it has."""
    grid = {"max_iter": [2, 6]}
    with fused_fits(), pytest.warns(match="no more"):
        search = GridSearchCV(network().set_callbacks(Raiser()), grid, cv=3, refit=False, error_score=-1).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] > 0
    assert scores[1] == -1
