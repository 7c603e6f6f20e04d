"""fused_fits: the same results as without it, together, and never stuck."""

import faulthandler
import os
import signal
import threading
import warnings

import joblib
import numpy as np
import pytest
import torch
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scratchnn.fusion
from scratchnn import ScratchNNClassifier, fused_fits

X, y = load_iris(return_X_y=True)
GRID = {"net__alpha": [0.1, 1.0], "net__learning_rate_init": [0.01, 0.1]}
LOSS = {"scoring": "neg_log_loss", "error_score": "raise"}


@pytest.fixture(autouse=True)
def time_limit():
    """End the process, with all stacks printed, if a test is stuck."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def nothing_is_left():
    filters, threads = list(warnings.filters), torch.get_num_threads()
    yield
    assert warnings.filters == filters
    assert torch.get_num_threads() == threads
    assert not [thread for thread in threading.enumerate() if thread.name == "scratchnn-task"]
    assert not isinstance(get_active_backend()[0], scratchnn.fusion.FusedBackend)


def make_net(**changes):
    settings = {
        "hidden_layer_sizes": (5,),
        "max_iter": 6,
        "tol": 0,
        "n_iter_no_change": np.inf,
        "dtype": "float64",
        "random_state": 0,
        "batch_size": 32,
    }
    return ScratchNNClassifier(**(settings | changes))


def make_pipe(**changes):
    pipe = make_pipeline(StandardScaler(), make_net(**changes))
    pipe.steps[-1] = ("net", pipe.steps[-1][1])
    return pipe


def search(estimator, grid=GRID, kind=GridSearchCV, fit_params=None, **settings):
    found = kind(estimator, grid, cv=settings.pop("cv", 4), **LOSS, **settings).fit(X, y, **(fit_params or {}))
    return found.cv_results_["mean_test_score"], found.predict_proba(X)


PROGRAMS = {
    "grid": (lambda n: search(make_pipe(), n_jobs=n), 16, [16]),
    "random": (lambda n: search(make_pipe(), n_jobs=n, kind=RandomizedSearchCV, n_iter=3, random_state=0), 12, [12]),
    "halving": (lambda n: search(make_pipe(), n_jobs=n, kind=HalvingGridSearchCV, random_state=0), None, None),
    "random halving": (lambda n: search(make_pipe(), n_jobs=n, kind=HalvingRandomSearchCV, random_state=0), None, None),
    "weights": (
        lambda n: search(make_net(), {"alpha": [0.1, 1]}, n_jobs=n, fit_params={"sample_weight": y + 1.0}),
        8,
        [8],
    ),
    "scores": (lambda n: cross_val_score(make_pipe(), X, y, n_jobs=n, **LOSS), 5, [5]),
    "uneven folds": (lambda n: cross_val_score(make_pipe(), X, y, cv=7, n_jobs=n, **LOSS), 7, [3, 4]),  # 4 or 5 batches
    "uneven full batches": (
        lambda n: cross_val_score(make_pipe(batch_size="auto"), X, y, cv=7, n_jobs=n, **LOSS),
        7,
        [7],
    ),
    "groups": (
        lambda n: cross_val_score(make_pipe(), X, y, groups=np.arange(150) % 10, cv=GroupKFold(5), n_jobs=n, **LOSS),
        5,
        [5],
    ),
    "validate": (
        lambda n: [
            cross_validate(
                make_pipe(), X, y, cv=3, n_jobs=n, scoring=["accuracy", "neg_log_loss"], return_train_score=True
            )[k]
            for k in ("test_neg_log_loss", "train_accuracy")
        ],
        6,
        [3, 3],
    ),
    "predict": (lambda n: cross_val_predict(make_pipe(), X, y, n_jobs=n, method="predict_proba"), 5, [5]),
    "learning curve": (
        lambda n: learning_curve(make_pipe(), X, y, shuffle=True, random_state=0, n_jobs=n, **LOSS)[2],
        25,
        None,
    ),
    "widths": (
        lambda n: validation_curve(
            make_pipe(), X, y, param_name="net__hidden_layer_sizes", param_range=[(), (4,), (5, 3)], n_jobs=n, **LOSS
        )[1],
        15,
        [5, 5, 5],
    ),
    "permutations": (
        lambda n: permutation_test_score(make_pipe(), X, y, n_permutations=4, random_state=0, n_jobs=n)[1],
        None,
        None,
    ),
    "one against rest": (lambda n: OneVsRestClassifier(make_net(), n_jobs=n).fit(X, y).predict_proba(X), 3, [3]),
    "one against one": (lambda n: OneVsOneClassifier(make_net(), n_jobs=n).fit(X, y).decision_function(X), 3, [3]),
    "bagging": (
        lambda n: BaggingClassifier(make_net(), 12, random_state=0, n_jobs=n).fit(X, y).predict_proba(X),
        12,
        None,
    ),
    "voting": (
        lambda n: (
            VotingClassifier(
                [("a", make_net()), ("b", LogisticRegression()), ("c", make_net(alpha=3))], voting="soft", n_jobs=n
            )
            .fit(X, y)
            .predict_proba(X)
        ),
        2,
        [2],
    ),
    "stacking": (
        lambda n: (
            StackingClassifier([("a", make_net()), ("b", make_net(alpha=3))], n_jobs=n).fit(X, y).predict_proba(X)
        ),
        12,
        [2, 10],
    ),
    "calibration": (lambda n: CalibratedClassifierCV(make_net(), n_jobs=n).fit(X, y).predict_proba(X), 5, [5]),
    "outputs": (
        lambda n: MultiOutputClassifier(make_net(), n_jobs=n).fit(X, np.c_[y == 0, y == 1]).predict_proba(X),
        2,
        [2],
    ),
    "search in folds": (
        lambda n: cross_val_score(GridSearchCV(make_pipe(), GRID, cv=3, **LOSS), X, y, cv=3, n_jobs=n, **LOSS),
        39,
        [36, 3],
    ),
    "search around": (
        lambda n: search(OneVsRestClassifier(make_net()), {"estimator__alpha": [0.1, 1]}, cv=3, n_jobs=n),
        21,
        [18, 3],
    ),
    "early stopping": (
        lambda n: cross_val_score(
            make_pipe(early_stopping=True, max_iter=30, n_iter_no_change=2), X, y, cv=7, n_jobs=n, **LOSS
        ),
        7,
        [7],
    ),
    "scorer": (
        lambda n: cross_val_score(
            make_pipe(early_stopping=True, scoring="accuracy", max_iter=40, n_iter_no_change=2, tol=1e-3),
            X,
            y,
            n_jobs=n,
            **LOSS,
        ),
        5,
        None,
    ),
    "rates and patience": (
        lambda n: search(
            make_pipe(max_iter=300, n_iter_no_change=2, tol=1e-2, solver="sgd"),
            {"net__learning_rate": ["constant", "adaptive", "invscaling"], "net__momentum": [0.5, 0.9]},
            n_jobs=n,
        ),
        None,
        None,
    ),
    "epochs": (
        lambda n: search(
            make_pipe(),
            {"net__max_iter": [3, 4, 9], "net__beta_1": [0.8, 0.9]},
            n_jobs=n,
        ),
        24,
        None,
    ),
    "lbfgs": (
        lambda n: cross_val_score(make_pipe(solver="lbfgs", tol=1e-2, max_iter=200), X, y, n_jobs=n, **LOSS),
        5,
        [1] * 5,
    ),
}


@pytest.mark.parametrize(
    ("name", "n_jobs"),
    [(name, None) for name in PROGRAMS] + [(name, n) for name in ("grid", "bagging") for n in (1, 2, -1)],
)
@pytest.mark.filterwarnings("ignore")
def test_results_are_those_without_fusion(name, n_jobs):
    program, n_fits, stacks = PROGRAMS[name]
    plain = program(None)
    with fused_fits() as report:
        fused = program(n_jobs)
    for one, other in zip(plain, fused, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert n_fits is None or report.n_fits == n_fits
    assert stacks is None or [stack.n_models for stack in report.stacks] == stacks
    assert report.n_fits > 1
    assert not [stack for stack in report.stacks if stack.alone and name != "lbfgs"]


def test_results_in_float32_are_equal_up_to_rounding():
    pipe = make_pipe(dtype="float32")
    plain = cross_val_predict(pipe, X, y, method="predict_proba")
    with fused_fits():
        fused = cross_val_predict(pipe, X, y, method="predict_proba")
    np.testing.assert_allclose(plain, fused, atol=1e-5)


def test_the_report_says_what_was_trained_and_why_alone():
    with fused_fits() as report:
        cross_val_score(make_pipe(), X, y, cv=3)
        make_net().fit(X, y)  # no task of joblib: nothing to meet
        cross_val_score(make_pipe(solver="lbfgs", tol=1e-2, max_iter=200), X, y, cv=2)
    assert (report.n_fits, [stack.n_models for stack in report.stacks]) == (5, [3, 1, 1])
    assert report.stacks[0].sizes == (4, 5, 3)
    assert report.stacks[0].share == report.stacks[0].seconds / 3 > 0
    assert report.stacks[0].alone is None
    assert "lbfgs" in report.stacks[1].alone
    assert "3 x 4-5-3 on 100 rows" in str(report)


def test_verbose_prints_the_stacks(capsys):
    with fused_fits(verbose=True):
        cross_val_score(make_pipe(), X, y, cv=3)
    assert "[fused_fits] 3 x 4-5-3 on 100 rows" in capsys.readouterr().out


def test_folds_are_stored_once_for_all_candidates(monkeypatch):
    seen = []
    make_stacks = scratchnn.fusion.make_stacks
    monkeypatch.setattr(
        scratchnn.fusion, "make_stacks", lambda runs: seen.append([r.data for r in runs]) or make_stacks(runs)
    )
    with fused_fits():
        GridSearchCV(make_pipe(), {"net__alpha": [0.1, 1, 2]}, cv=3, refit=False).fit(X, y)
    (datas,) = seen
    assert (len(datas), len(set(map(id, datas)))) == (9, 3)


class Failing(TransformerMixin, BaseEstimator):
    """Raises in some folds."""

    def __init__(self, error=ValueError, size=100):
        self.error, self.size = error, size

    def fit(self, X, y=None):
        if X[0, 0] == self.size:
            raise self.error("chosen")
        return self

    def transform(self, X):
        return X


def test_tasks_that_fail_fail_alone():
    marked = X.copy()
    marked[0, 0] = 100  # the first fold holds it out, the others fail
    pipe = make_pipeline(Failing(), make_net())
    pipe.steps[0] = ("failing", Failing())
    with fused_fits() as report, pytest.warns(FitFailedWarning, match="2 fits failed"):
        scores = cross_val_score(pipe, marked, y, cv=3)
    assert np.isnan(scores).tolist() == [False, True, True]
    assert report.n_fits == 1
    with fused_fits(), pytest.raises(ValueError, match="chosen"):
        cross_val_score(pipe, marked, y, cv=3, error_score="raise")


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_divergence_and_scorers_fail_in_their_own_task():
    nets = GridSearchCV(make_net(solver="sgd"), {"learning_rate_init": [0.1, 1e200]}, cv=3, refit=False)
    with fused_fits() as report, pytest.warns(FitFailedWarning, match="3 fits failed"):
        scores = nets.fit(X, y).cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, True]
    assert [stack.n_models for stack in report.stacks] == [6]

    def raise_sometimes(y_true, y_pred):
        if len(y_true) == 12:
            raise RuntimeError("no score")
        return 0.5

    def fit(size):
        net = make_net(early_stopping=True, scoring=make_scorer(raise_sometimes), max_iter=3)
        try:
            return net.fit(X[:size], y[:size] > 0).n_iter_
        except RuntimeError as error:
            return str(error)

    with fused_fits() as report:
        results = joblib.Parallel()(joblib.delayed(fit)(size) for size in (150, 149, 117))
    assert results == [3, 3, "no score"]


def test_interrupts_end_everything():
    marked = X.copy()
    marked[0, 0] = 100
    pipe = make_pipeline(Failing(KeyboardInterrupt), make_net())
    with fused_fits(), pytest.raises(KeyboardInterrupt):
        cross_val_score(pipe, marked, y, cv=3)


@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_a_signal_while_training_keeps_the_models_so_far():
    nets = GridSearchCV(make_net(max_iter=100_000), {"alpha": [0.1, 1]}, cv=2, refit=False)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with fused_fits() as report:
        scores = nets.fit(X, y).cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert report.n_fits == 4


def test_warnings_reach_the_user():
    with fused_fits(), pytest.warns(ConvergenceWarning, match="max_iter"):
        cross_val_score(make_net(n_iter_no_change=3), X, y, cv=3)


def test_tasks_have_warning_filters_of_their_own():
    def task(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if number % 2 else "error", FutureWarning)
            make_net().fit(X, y)
            try:
                warnings.warn("later", FutureWarning, stacklevel=1)
            except FutureWarning:
                return "error"
            return "ignore"

    with fused_fits():
        results = joblib.Parallel()(joblib.delayed(task)(number) for number in range(4))
    assert results == ["error", "ignore"] * 2


def fit_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(make_net().fit(X, y).loss_))
    thread.start()
    thread.join()
    return found[0]


def fit_fused():
    with fused_fits() as report:
        cross_val_score(make_net(), X, y, cv=3)
    return report.n_fits


def test_threads_of_tasks_and_fusion_inside_fusion():
    with fused_fits():
        results = joblib.Parallel()(joblib.delayed(task)() for task in (fit_in_a_thread, fit_fused, fit_fused))
    assert results == [make_net().fit(X, y).loss_, 3, 3]


def test_from_several_threads():
    results = []
    threads = [threading.Thread(target=lambda: results.append(fit_fused())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3, 3, 3]


def test_fits_while_tasks_are_being_made():
    def make_tasks():
        for size in (100, 120, 140):
            yield joblib.delayed(cross_val_score)(make_net().fit(X[:size], y[:size]), X, y, cv=3)

    def outer():
        return joblib.Parallel(pre_dispatch=1)(make_tasks())

    with fused_fits():
        results = joblib.Parallel()(joblib.delayed(outer)() for _ in range(2))
    np.testing.assert_array_equal(results[0], results[1])


def test_thousands_of_fits_have_a_bounded_number_of_threads():
    n_threads = []

    def task(seed):
        n_threads.append(sum(thread.name == "scratchnn-task" for thread in threading.enumerate()))
        return make_net(random_state=seed, max_iter=1).fit(X, y).loss_

    with fused_fits() as report:
        losses = joblib.Parallel()(joblib.delayed(task)(seed) for seed in range(600))
    assert len(set(losses)) == report.n_fits == 600
    assert max(n_threads) <= scratchnn.fusion.MAX_TASKS


def test_joblib_keeps_its_rule_on_no_jobs():
    with fused_fits(), pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(abs)(x) for x in range(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_jobs": 0}, "n_jobs must not be 0, got 0"), ({"n_jobs": 2}, "must go with a backend, got 2")],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message), fused_fits(**settings):
        pass


# --- nested tasks at random


def test_random_programs_end_as_they_would_without():
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    leaves = st.sampled_from(["fit", "fit twice", "nothing", "raise"])
    programs = st.recursive(leaves, lambda children: st.lists(children, max_size=4), max_leaves=8)

    def run(program):
        if isinstance(program, list):
            return joblib.Parallel()(joblib.delayed(run)(child) for child in program)
        if program == "raise":
            raise ValueError("chosen")
        return [
            make_net(max_iter=2).fit(X[:40], y[:40] > 0).loss_
            for _ in range(["nothing", "fit", "fit twice"].index(program))
        ]

    def get_outcome(program):
        try:
            return run(program)
        except ValueError as error:
            return str(error)

    X_two, y_two = X[30:70], y[30:70]

    @hypothesis.settings(max_examples=40, deadline=None)
    @hypothesis.given(programs)
    def check(program):
        plain = get_outcome(program)
        with fused_fits():
            assert get_outcome(program) == plain

    def fit(_):
        return make_net(max_iter=2).fit(X_two, y_two).loss_

    assert fit(0) == fit(1)
    check()


# --- other workers


def test_loky_deals_out_shares():
    plain = search(make_pipe())
    with fused_fits(backend="loky", n_jobs=2) as report:
        fused = search(make_pipe())
    np.testing.assert_allclose(plain[0], fused[0], atol=1e-6)
    np.testing.assert_allclose(plain[1], fused[1], atol=1e-6)
    assert [stack.n_models for stack in report.stacks] == [8, 8]
    with fused_fits(backend="loky", n_jobs=2), pytest.raises(ValueError, match="alpha"):
        cross_val_score(make_net(alpha=-1), X, y, error_score="raise")


class Deadly(TransformerMixin, BaseEstimator):
    """Kills its process, once."""

    def __init__(self, flag):
        self.flag = flag

    def fit(self, X, y=None):
        if not os.path.exists(self.flag):
            with open(self.flag, "w"):
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        return self

    def transform(self, X):
        return X


@pytest.mark.filterwarnings("ignore")
def test_dask_deals_out_shares_and_survives_a_killed_worker(tmp_path):
    distributed = pytest.importorskip("distributed")
    plain = search(make_pipe())
    with (
        distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        with fused_fits(backend="dask") as report:
            fused = search(make_pipe())
        assert [stack.n_models for stack in report.stacks] == [8, 8]
        np.testing.assert_allclose(plain[0], fused[0], atol=1e-6)
        assert len(client.scheduler_info()["workers"]) == 2
        pipe = make_pipe()
        pipe.steps.insert(0, ("deadly", Deadly(str(tmp_path / "flag"))))
        with fused_fits(backend="dask"):
            scores = GridSearchCV(pipe, GRID, cv=4, refit=False, **LOSS).fit(X, y).cv_results_["mean_test_score"]
        np.testing.assert_allclose(plain[0], scores, atol=1e-6)
        assert (tmp_path / "flag").exists()


def test_what_runs_between_calls_has_all_threads():
    n_threads = torch.get_num_threads()
    with fused_fits():
        cross_val_score(make_pipe(), X, y, cv=3)
        assert torch.get_num_threads() == n_threads
