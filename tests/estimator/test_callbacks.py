"""scikit-learn's callbacks: what they see, when they are called, and that they can stop a fit."""

import re
import textwrap
from collections import Counter
from contextlib import nullcontext

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn.pipeline
from helpers import ALL_EPOCHS, ROOT, run_python
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from scratchnn import ScratchNNClassifier, fused_fits

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")

X, y = load_iris(return_X_y=True)
SOLVERS = {"adam": ALL_EPOCHS, "lbfgs": {"tol": 1e-9}}


def network(solver="adam", **changes):
    settings = {"hidden_layer_sizes": 5, "max_iter": 6, "learning_rate": "constant", "random_state": 0}
    return ScratchNNClassifier(solver=solver, **(settings | SOLVERS[solver] | changes))


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


class Raiser(Recorder):
    def on_fit_task_end(self, estimator, context):
        if context.task_id == 2:
            raise RuntimeError("no more")


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


def test_weights_are_copied_only_for_a_callback_that_wants_them(monkeypatch):
    from scratchnn.training import TrainingRun

    copied = []
    original = TrainingRun.copy_buffer
    monkeypatch.setattr(TrainingRun, "copy_buffer", lambda *args: copied.append(1) or original(*args))
    network().set_callbacks(callback.ProgressBar()).fit(X, y)
    assert not copied
    network().set_callbacks(callback.ProgressBar(), Recorder(), Recorder()).fit(X, y)
    assert len(copied) == 6


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


@pytest.mark.parametrize("block", range(2))
def test_the_lines_of_the_guide_work(block):
    section = (ROOT / "docs" / "guide" / "callbacks.rst").read_text()
    blocks = [textwrap.dedent(code) for code in re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", section)]
    assert len(blocks) == 2
    names = {"ScratchNNClassifier": network, "GridSearchCV": GridSearchCV, "StandardScaler": StandardScaler}
    names |= {"make_pipeline": sklearn.pipeline.make_pipeline, "X": X, "y": y}
    names |= {"ProgressBar": callback.ProgressBar, "monitor": callback.ScoringMonitor(scoring="neg_log_loss")}
    exec(blocks[block], names)
    n_fits = [1, 2 * 5 + 1][block]  # the search is the most recent run: 2 alphas x 5 folds, and the refit
    assert len(get_rows(names["monitor"])) == 6 * n_fits
    assert len(names["monitor"].get_logs().data) == 7 * n_fits


def test_scikit_learn_refuses_a_bar_on_an_inner_estimator():
    with pytest.raises(TypeError, match="Register them directly on the meta-estimator"):
        make_pipeline(callback.ProgressBar()).fit(X, y)
    search = GridSearchCV(network().set_callbacks(callback.ProgressBar()), {"alpha": [1.0]}, error_score="raise")
    with pytest.raises(TypeError, match="Register them directly on the meta-estimator"):
        search.fit(X, y)


@pytest.mark.parametrize("make", [lambda: make_pipeline(), lambda: GridSearchCV(network(), {"alpha": [1.0]})])
def test_a_monitor_on_an_outer_estimator_has_nothing_to_score(make):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    make().set_callbacks(monitor).fit(X, y)
    with pytest.raises(ValueError, match="No logs to retrieve"):
        monitor.get_logs()


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


def test_a_transformer_without_callbacks_is_missing_in_the_bar():
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipeline = Pipeline([("scale", MinMaxScaler()), ("net", network().set_callbacks(monitor))])
    with pytest.warns(UserWarning, match="MinMaxScaler does not support callbacks"):
        pipeline.set_callbacks(callback.ProgressBar()).fit(X, y)
    assert len(get_rows(monitor)) == 6


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


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_error_of_a_callback_ends_the_fit(solver):
    raiser = Raiser()
    with pytest.raises(RuntimeError, match="no more"):
        network(solver).set_callbacks(raiser).fit(X, y)
    assert raiser.calls[-1] == "teardown"


def test_an_error_of_a_callback_fails_alone():
    """Which of the fused fits raises is up to the epochs that it has."""
    grid = {"max_iter": [2, 6]}
    with fused_fits(), pytest.warns(match="no more"):
        search = GridSearchCV(network().set_callbacks(Raiser()), grid, cv=3, refit=False, error_score=-1).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] > 0
    assert scores[1] == -1


def test_older_scikit_learn_works_without():
    code = (
        "import sys; sys.modules['sklearn.callback'] = None\n"
        "from scratchnn import ScratchNNClassifier\n"
        "model = ScratchNNClassifier(max_iter=30, tol=1).fit([[0.0], [1.0]], [0, 1])\n"
        "assert not hasattr(model, 'set_callbacks') and model.n_iter_ > 1"
    )
    # scikit-learn's own modules need theirs, so they come first.
    code = "import sklearn.linear_model, sklearn.pipeline, sklearn.model_selection, sklearn.preprocessing\n" + code
    run_python(code)
