"""The estimator: results, attributes, state, randomness."""

import re
import threading
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TARGETS, assert_same_fit, get_coeffs
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale

from scratchnn import ScratchNNClassifier, fused_fits
from scratchnn.network import train_model
from scratchnn.tables.split import _hash_rows
from scratchnn.tables.table import Table

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_learns_every_kind_of_target(problems, kind, solver):
    X, y = problems[kind]
    rate = 0.05 if solver == "sgd" else 0.01
    classifier = ScratchNNClassifier(
        solver=solver, learning_rate_init=rate, batch_size=20, alpha=1e-4, max_iter=200, random_state=0
    ).fit(X, y)
    assert classifier.score(X, y) > 0.95
    predictions = classifier.predict(X)
    assert predictions.shape == y.shape
    assert predictions.dtype.kind == y.dtype.kind


@pytest.mark.parametrize("kind", TARGETS)
def test_attributes_follow_mlp_classifier(problems, kind):
    X, y = problems[kind]
    common = {"hidden_layer_sizes": (7, 4), "max_iter": 3, "random_state": 0}
    ours = ScratchNNClassifier(**common, numeric_encoding=None).fit(X, y)
    theirs = MLPClassifier(**common).fit(X, y)
    for name in ["n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_"]:
        assert getattr(ours, name) == getattr(theirs, name), name
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert [coef.shape for coef in ours.coefs_] == [coef.shape for coef in theirs.coefs_]
    assert [bias.shape for bias in ours.intercepts_] == [bias.shape for bias in theirs.intercepts_]
    assert len(ours.loss_curve_) == 3
    assert ours.loss_ == ours.loss_curve_[-1]
    assert ours.best_loss_ == min(ours.loss_curve_)
    assert ours.validation_scores_ is None
    assert ours.best_validation_score_ is None
    assert ours.validation_loss_curve_ is None


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_training_agrees_with_mlp_classifier_step_by_step(problems, kind, solver):
    """From the same coefficients, with rows in their given order: the same losses and the same coefficients."""
    X, y = problems[kind]
    common = {
        "hidden_layer_sizes": (6,),
        "solver": solver,
        "shuffle": False,
        "batch_size": 40,
        "alpha": 0.1,
        "learning_rate": "constant",
        "learning_rate_init": 0.01,
        "max_iter": 4,
        "warm_start": True,
        "random_state": 0,
    }
    theirs = MLPClassifier(**common | {"max_iter": 1}).fit(X, y)
    plain = {"numeric_encoding": None, "standardize": False, "dtype": "float64"}
    ours = ScratchNNClassifier(**common, **plain).set_params(max_iter=1).fit(X, y)
    start = [array.copy() for array in [*theirs.coefs_, *theirs.intercepts_]]
    ours.coefs_, ours.intercepts_ = [array.copy() for array in start[:2]], [array.copy() for array in start[2:]]
    ours._state = None  # a fresh solver, as MLPClassifier has in each fit
    theirs.set_params(max_iter=4).fit(X, y)
    ours.set_params(max_iter=4).fit(X, y)
    np.testing.assert_allclose(ours.loss_curve_[1:], theirs.loss_curve_[1:], rtol=1e-10)
    for left, right in zip(get_coeffs(ours), [*theirs.coefs_, *theirs.intercepts_], strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-10)


def test_coef_is_on_the_scale_of_the_original_columns(cancer):
    X, y = cancer
    classifier = ScratchNNClassifier((), solver="lbfgs").fit(X, y)
    np.testing.assert_allclose(
        X @ classifier.coef_[0] + classifier.intercept_[0], classifier.decision_function(X), rtol=1e-9, atol=1e-9
    )


def test_coef_exists_only_without_hidden_layer(iris):
    assert not hasattr(ScratchNNClassifier(()), "coef_")
    classifier = ScratchNNClassifier((3,), max_iter=2).fit(*iris)
    assert not hasattr(classifier, "coef_")
    assert not hasattr(classifier, "intercept_")


@pytest.mark.parametrize("labels", [[False, True], ["b", "a"], [-1, 1], [2.0, 5.0]])
def test_labels_of_any_type_come_back(iris, labels):
    X, y = iris
    y = np.array(labels)[(y > 0).astype(int)]
    classifier = ScratchNNClassifier((), solver="lbfgs").fit(X, y)
    np.testing.assert_array_equal(classifier.classes_, np.unique(y))
    np.testing.assert_array_equal(classifier.predict(X), y)


@pytest.mark.parametrize("kind", TARGETS)
def test_probabilities_logits_and_labels_agree(problems, kind):
    X, y = problems[kind]
    classifier = ScratchNNClassifier(max_iter=20, random_state=0).fit(X, y)
    logits, probabilities = classifier.decision_function(X), classifier.predict_proba(X)
    if kind == "multiclass":
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        expected = exponentials / exponentials.sum(1, keepdims=True)
        labels = classifier.classes_[logits.argmax(1)]
    elif kind == "binary":
        expected = np.column_stack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))])
        labels = classifier.classes_[(logits > 0).astype(int)]
    else:
        expected = 1 / (1 + np.exp(-logits))
        labels = (logits > 0).astype(int)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-9)
    np.testing.assert_allclose(classifier.predict_log_proba(X), np.log(expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(classifier.predict(X), labels)


def test_log_probabilities_are_exact_where_probabilities_round():
    classifier = ScratchNNClassifier((), standardize=False, max_iter=1).fit([[0.0], [1.0]], [0, 1])
    classifier.coefs_, classifier.intercepts_ = [np.array([[1.0]])], [np.array([0.0])]
    log_probabilities = classifier.predict_log_proba([[1000.0], [-1000.0], [40.0]])
    # log(1 - sigmoid(z)) = -z - log(1 + exp(-z)), and log(sigmoid(40)) = -log(1 + exp(-40))
    np.testing.assert_allclose(log_probabilities[:2], [[-1000.0, 0.0], [0.0, -1000.0]])
    np.testing.assert_allclose(log_probabilities[2], [-40.0, -np.exp(-40.0)], rtol=1e-12)
    probabilities = classifier.predict_proba([[1000.0], [-1000.0]])
    assert ((probabilities > 0) & (probabilities < 1)).all()
    np.testing.assert_allclose(probabilities, [[0, 1], [1, 0]], atol=1e-15)


def test_mae_and_brier_train(problems):
    X, y = problems["multiclass"]
    for loss in ["mae", "brier"]:
        classifier = ScratchNNClassifier(loss=loss, learning_rate_init=0.01, random_state=0).fit(X, y)
        assert classifier.score(X, y) > 0.95, loss


# --- standardize


def test_standardize_equals_scaling_before(cancer):
    X, y = cancer
    settings = {"alpha": 1.0, "max_iter": 5, "random_state": 0, "dtype": "float64", "numeric_encoding": None}
    inside = ScratchNNClassifier(**settings).fit(X, y)
    outside = ScratchNNClassifier(**settings, standardize=False).fit(scale(X), y)
    np.testing.assert_allclose(inside.predict_proba(X), outside.predict_proba(scale(X)), rtol=1e-9)
    np.testing.assert_allclose(inside.mean_, X.mean(0))
    np.testing.assert_allclose(inside.scale_, X.std(0))
    assert outside.mean_ is None


@pytest.mark.parametrize(("dtype", "spread"), [(np.float64, 1e4), (np.float64, 100), (np.float32, 1e4)])
def test_a_column_far_from_zero_learns(dtype, spread):
    """Timestamps: their own precision, not that of training (128 seconds apart, here), must carry the differences."""
    times = 1.7e9 + np.random.default_rng(0).uniform(-spread, spread, 1000)
    X, y = times[:, np.newaxis].astype(dtype), times > 1.7e9
    classifier = ScratchNNClassifier(max_iter=100, random_state=0, dtype="float32").fit(X, y)
    assert classifier.score(X, y) > 0.98


# --- sample weights


@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_count_rows(iris, early_stopping):
    """Weight 0 is a row left out, weight k a row k times, with all rows in one batch."""
    X, y = iris
    X, y = X[::2], y[::2]
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    classifier = ScratchNNClassifier(
        (8,), batch_size="full", random_state=0, max_iter=30, early_stopping=early_stopping, dtype="float64"
    )
    weighted = clone(classifier).fit(X, y, sample_weight=weights)
    repeated = clone(classifier).fit(X.repeat(weights, axis=0), y.repeat(weights))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9)
    assert weighted.n_iter_ == repeated.n_iter_


def test_weights_of_one_change_nothing(cancer):
    X, y = cancer
    plain = ScratchNNClassifier(max_iter=5, random_state=0).fit(X, y)
    weighted = ScratchNNClassifier(max_iter=5, random_state=0).fit(X, y, sample_weight=np.ones(len(X)))
    assert_same_fit(plain, weighted)


def test_weighted_minibatches_move_as_repeated_rows_do(cancer):
    """With a tiny rate, an epoch moves by the sum of its batches' gradients.

    Rows repeated 2.25 times on average give 2.25 times as many batches: the rate makes up for it.
    """
    X, y = scale(cancer[0][:560]), cancer[1][:560]
    weights = np.tile([1, 3, 4, 1], 140)
    classifier = ScratchNNClassifier(
        (), solver="sgd", momentum=0, batch_size=20, max_iter=1, alpha=0, standardize=False, learning_rate="constant"
    )
    classifier.set_params(learning_rate_init=1e-6, dtype="float64", random_state=0)
    repeated = clone(classifier).fit(X.repeat(weights, axis=0), y.repeat(weights))
    weighted = classifier.set_params(learning_rate_init=2.25e-6).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-3)


# --- validation and early stopping


def test_early_stopping_returns_to_the_best_epoch(cancer):
    X, y = cancer
    classifier = ScratchNNClassifier(early_stopping=True, learning_rate_init=0.02, random_state=0, alpha=0).fit(
        X[:300], y[:300], X_val=X[300:], y_val=y[300:]
    )
    scores = classifier.validation_scores_
    assert len(scores) == len(classifier.validation_loss_curve_) == classifier.n_iter_ < 200
    assert classifier.best_validation_score_ == max(scores) > scores[-1]
    assert classifier.best_loss_ is None
    np.testing.assert_allclose(scores, [-loss for loss in classifier.validation_loss_curve_])
    assert log_loss(y[300:], classifier.predict_proba(X[300:])) == pytest.approx(-max(scores), rel=1e-5)


def test_early_stopping_watches_any_scorer(cancer):
    X, y = cancer
    X_val = pd.DataFrame(X[400:], columns=[f"c{i}" for i in range(30)])
    classifier = ScratchNNClassifier(early_stopping=True, scoring="roc_auc", random_state=0, max_iter=30)
    classifier.fit(
        pd.DataFrame(X[:400], columns=X_val.columns),
        y[:400],
        X_val=X_val,
        y_val=y[400:],
        sample_weight_val=y[400:] + 1.0,
    )
    expected = roc_auc_score(y[400:], classifier.predict_proba(X_val)[:, 1], sample_weight=y[400:] + 1.0)
    assert classifier.best_validation_score_ == pytest.approx(expected)


def test_validation_data_are_watched_without_early_stopping(iris):
    X, y = iris
    classifier = ScratchNNClassifier(max_iter=4, random_state=0).fit(X, y, X_val=X[::3], y_val=y[::3])
    assert len(classifier.validation_loss_curve_) == 4
    assert_same_fit(classifier, ScratchNNClassifier(max_iter=4, random_state=0).fit(X, y))


def test_rows_of_whole_numbers_are_told_apart():
    X = np.array([[i, j, k] for i in range(30) for j in range(30) for k in range(2)], dtype=float)
    assert len(np.unique(_hash_rows(Table(X, np.zeros(len(X)))))) == len(X)
    np.testing.assert_array_equal(
        _hash_rows(Table(np.array([[0.0]]), np.zeros(1))), _hash_rows(Table(np.array([[-0.0]]), np.zeros(1)))
    )


# --- the scratch recipe


@pytest.mark.parametrize(("epochs", "rate"), [(30, 1.4), (30, 20), (100, 10)])
def test_scratch_recipe_is_train_model(cancer, epochs, rate):
    """With the seed of `train_model`: tests/test_network.py holds that against the plain method."""
    X, y = cancer
    X = X / X.max(0)
    indeps, deps = torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None]
    coeffs, losses = train_model(indeps, deps, epochs, rate)
    classifier = ScratchNNClassifier.from_recipe("scratch", max_iter=epochs, learning_rate_init=rate, random_state=442)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all the epochs asked for: nothing to warn about
        classifier.fit(X, y)
    np.testing.assert_allclose(classifier.loss_curve_, losses, atol=1e-4, rtol=0)
    np.testing.assert_allclose(classifier.coefs_[0], coeffs.weights[0], atol=1e-4)


# --- randomness and state


SETTINGS = [
    {},
    {"dtype": "float64"},
    {"batch_size": "full", "loss": "mae"},
    {"solver": "lbfgs"},
    {"early_stopping": True},
]


@pytest.fixture
def ambient():
    """Leave torch as it was found."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("params", SETTINGS)
def test_number_of_threads_changes_no_bit(cancer, ambient, n_threads, params):
    classifier = ScratchNNClassifier(random_state=0, max_iter=5, numeric_encoding=None, **params)  # small steps
    expected = clone(classifier).fit(*cancer)
    torch.set_num_threads(n_threads)
    assert_same_fit(clone(classifier).fit(*cancer), expected)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.manual_seed(1) and np.random.seed(1),  # noqa: NPY002
        lambda: torch.set_float32_matmul_precision("medium"),
    ],
    ids=["default dtype", "default device", "deterministic", "seeds", "precision"],
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("params", SETTINGS)
def test_ambient_settings_change_no_bit(cancer, ambient, setting, form, params):
    classifier = ScratchNNClassifier(random_state=0, max_iter=5, **params)
    X, y = form(cancer[0]), cancer[1]
    expected = clone(classifier).fit(X, y)
    probabilities = expected.predict_proba(X)
    setting()
    fitted = clone(classifier).fit(X, y)
    assert_same_fit(fitted, expected)
    np.testing.assert_array_equal(fitted.predict_proba(X), probabilities)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "params",
    [
        {"dropout": 0.5},
        {"early_stopping": True, "scoring": "accuracy"},
        {"warm_start": True},
        {"loss": lambda logits, deps: (logits - deps) ** 2},
        {"standardize": False, "class_weight": "balanced"},
    ],
    ids=["dropout", "scoring", "warm start", "loss", "raw"],
)
def test_default_device_changes_no_bit(problems, ambient, form, params):
    results = []
    for device in [None, "meta"]:
        torch.set_default_device(device)
        for X, y in problems.values():
            if "class_weight" in params and y.ndim == 2:
                continue
            classifier = ScratchNNClassifier((5,), random_state=0, max_iter=3, **params).fit(form(X), y)
            results.append(classifier.fit(form(X), y).predict_proba(form(X) * 1e38))
            if not classifier.early_stopping and classifier.class_weight is None:
                results.append(classifier.partial_fit(form(X), y).decision_function(form(X)))
    half = len(results) // 2
    for with_default, without in zip(results[half:], results[:half], strict=True):
        np.testing.assert_array_equal(with_default, without)


@pytest.mark.parametrize("random_state", [None, 3])
def test_global_generators_are_left_alone(iris, random_state):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    ScratchNNClassifier(max_iter=2, random_state=random_state, early_stopping=True).fit(*iris)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_random_state_none_differs_and_a_generator_goes_on(iris):
    generator = np.random.RandomState(0)
    seeds = [None, None, generator, generator, np.random.RandomState(0)]
    fits = [ScratchNNClassifier(max_iter=1, random_state=seed).fit(*iris) for seed in seeds]
    assert len({fit.coefs_[0].tobytes() for fit in fits}) == 4
    assert_same_fit(fits[2], fits[4])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu")])
def test_ambient_modes_change_no_bit(iris, mode):
    classifier = ScratchNNClassifier(random_state=0, max_iter=5)
    expected = clone(classifier).fit(*iris)
    with mode():
        fitted = clone(classifier).fit(*iris)
        np.testing.assert_array_equal(fitted.predict_proba(iris[0]), expected.predict_proba(iris[0]))
    assert_same_fit(fitted, expected)


def test_fits_in_threads_do_not_disturb_each_other(cancer):
    expected = [ScratchNNClassifier(max_iter=5, random_state=seed).fit(*cancer) for seed in range(4)]
    fitted = [ScratchNNClassifier(max_iter=5, random_state=seed) for seed in range(4)]
    threads = [threading.Thread(target=classifier.fit, args=cancer) for classifier in fitted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for left, right in zip(expected, fitted, strict=True):
        assert_same_fit(left, right)


def test_small_tables_keep_their_precision_and_large_ones_use_float32(cancer):
    X, y = cancer
    for rows, dtype, expected in [
        (100, np.float64, np.float64),
        (101, np.float64, np.float32),
        (50, np.float32, np.float32),
    ]:
        classifier = ScratchNNClassifier((2,), max_iter=1).fit(X[:rows].astype(dtype), y[:rows])
        assert classifier.coefs_[0].dtype == expected
    assert ScratchNNClassifier((2,), max_iter=1, solver="lbfgs").fit(X, y).coefs_[0].dtype == np.float64


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"early_stopping": True, "scoring": "accuracy"},
        {"hidden_layer_sizes": (), "dtype": "float64"},
        {"hidden_bias": False},
        {"random_state": None},
    ],
)
def test_warm_start_goes_on_bit_for_bit_through_a_file(cancer, tmp_path, params):
    params = {"random_state": 0, "n_iter_no_change": 100, "learning_rate": "constant"} | params
    half = ScratchNNClassifier(max_iter=10, warm_start=True, **params).fit(*cancer)
    if params["random_state"] is None:
        params["random_state"] = half._state.seed
    joblib.dump(half, tmp_path / "half.joblib")
    resumed = joblib.load(tmp_path / "half.joblib").fit(*cancer)
    whole = ScratchNNClassifier(max_iter=20, **params).fit(*cancer)
    assert_same_fit(resumed, whole)
    assert resumed.loss_curve_ == whole.loss_curve_
    assert resumed.validation_scores_ == whole.validation_scores_
    assert resumed.t_ == whole.t_
    assert resumed.n_iter_ == 10


def test_partial_fit_equals_epochs_of_fit(iris):
    """In full batches; the scaler's running means see the same rows again and again."""
    X, y = iris
    classifier = ScratchNNClassifier(
        batch_size="full", alpha=0.1, learning_rate="constant", random_state=0, dtype="float64", n_iter_no_change=np.inf
    )
    whole = clone(classifier).set_params(max_iter=10).fit(X, y)
    parts = clone(classifier)
    for _ in range(10):
        parts.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), rtol=1e-9)
    assert parts.t_ == whole.t_
    assert parts.n_iter_ == 1
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-9)


def test_partial_fit_learns_raw_columns_from_a_stream(cancer):
    X, y = cancer
    classifier = ScratchNNClassifier(random_state=0, learning_rate_init=0.01)
    for _ in range(5):
        for start in range(0, len(X), 20):
            classifier.partial_fit(X[start : start + 20], y[start : start + 20], classes=[0, 1])
    assert classifier.score(X, y) > 0.95
    np.testing.assert_allclose(classifier.mean_, X.mean(0))


def test_partial_fit_takes_classes_that_come_later_and_follows_fit():
    classifier = ScratchNNClassifier(random_state=0)
    classifier.partial_fit([[1], [2], [3]], ["a", "b", "c"], classes=["a", "b", "c", "d"])
    classifier.partial_fit([[4]], ["d"])
    assert list(classifier.classes_) == ["a", "b", "c", "d"]
    fitted = ScratchNNClassifier(random_state=0, max_iter=5).fit([[1.0], [2.0], [3.0]], ["a", "b", "a"])
    scales = fitted.mean_
    fitted.partial_fit([[9.0]], ["b"])
    assert fitted.t_ == 16
    np.testing.assert_array_equal(fitted.mean_, scales)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"hidden_layer_sizes": ()}, {"dtype": "float64"}])
def test_file_is_about_the_size_of_the_parameters(cancer, tmp_path, params):
    classifier = ScratchNNClassifier(random_state=0, **params).fit(*cancer)
    joblib.dump(classifier, tmp_path / "model.joblib")
    n_bytes = sum(array.nbytes for array in get_coeffs(classifier))
    assert (tmp_path / "model.joblib").stat().st_size <= 1.15 * n_bytes + 4096


# --- what MLPClassifier's users rely on


def test_convergence_warning_and_verbose_output(iris, capsys):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(max_iter=2\) reached"):
        ScratchNNClassifier(max_iter=2, verbose=True, early_stopping=True).fit(*iris)
    lines = capsys.readouterr().out.splitlines()
    pattern = r"Iteration {}, loss = \d\.\d{{8}}, validation score = -\d\.\d{{6}}"
    assert len(lines) == 2
    for epoch, line in enumerate(lines, 1):
        assert re.fullmatch(pattern.format(epoch), line)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_training_loss_curve_has_no_penalty_and_goes_on(solver, cancer):
    X, y = cancer
    settings = {"hidden_layer_sizes": (5,), "solver": solver, "max_iter": 12, "tol": 1e-9, "random_state": 0}
    plain = ScratchNNClassifier(alpha=0, **settings).fit(X, y)
    assert plain.training_loss_curve_ == plain.loss_curve_
    model = ScratchNNClassifier(alpha=10.0, warm_start=True, **settings)
    for n_fits in (1, 2):
        model.fit(X, y)
        assert len(model.training_loss_curve_) == len(model.loss_curve_) == 12 * n_fits
        assert all(type(loss) is float for loss in model.training_loss_curve_)
    assert all(np.less(model.training_loss_curve_, model.loss_curve_))
    if solver == "lbfgs":  # the loss after an iteration, of the coefficients that it ends with
        assert model.training_loss_curve_[-1] == pytest.approx(log_loss(y, model.predict_proba(X)), rel=1e-6)
    else:
        model.partial_fit(X, y).partial_fit(X, y)
        assert len(model.training_loss_curve_) == len(model.loss_curve_) == 26


def test_training_loss_curve_is_there_without_the_state_of_an_earlier_call(cancer):
    """As after a fit without warm_start, which keeps the attributes only."""
    model = ScratchNNClassifier((5,), random_state=0, max_iter=12).fit(*cancer).partial_fit(*cancer)
    assert len(model.training_loss_curve_) == len(model.loss_curve_) == 13


def test_training_loss_curve_of_a_fused_fit_is_that_of_the_fit_alone(cancer):
    network = ScratchNNClassifier((5,), max_iter=12, dtype="float64", random_state=0)
    voting = VotingClassifier([(str(alpha), clone(network).set_params(alpha=alpha)) for alpha in (0, 0.1, 10.0)])
    with fused_fits() as report:
        voting.fit(*cancer)
    assert [stack.n_models for stack in report.stacks] == [3]
    for fused in voting.estimators_:
        alone = clone(fused).fit(*cancer)
        np.testing.assert_allclose(fused.training_loss_curve_, alone.training_loss_curve_, rtol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "place", "end"), [("constant", -1, "Stopping."), ("auto", 12, "The learning rate falls to zero.")]
)
def test_verbose_says_why_training_stops(iris, capsys, schedule, place, end):
    ScratchNNClassifier(tol=10, verbose=True, learning_rate=schedule, random_state=0).fit(*iris)
    line = capsys.readouterr().out.splitlines()[place]
    assert line == f"Training loss did not improve more than tol=10.000000 for 10 epochs. {end}"


def test_shuffle_changes_minibatches_but_not_full_batches(iris):
    for batch_size, equal in [(10, False), ("full", True)]:
        fits = [
            ScratchNNClassifier(max_iter=1, batch_size=batch_size, random_state=0, shuffle=shuffle).fit(*iris)
            for shuffle in (True, False)
        ]
        assert np.array_equal(fits[0].coefs_[0], fits[1].coefs_[0]) == equal


def test_batch_larger_than_the_data_is_clipped_with_a_warning(iris):
    with pytest.warns(UserWarning, match="batch_size=200 is larger than the 150 training samples"):
        clipped = ScratchNNClassifier(batch_size=200, max_iter=1, random_state=0).fit(*iris)
    assert_same_fit(clipped, ScratchNNClassifier(batch_size="full", max_iter=1, random_state=0).fit(*iris))


def test_sparse_multilabel_targets_train_as_dense_ones(problems):
    X, y = problems["multilabel"]
    dense, other = (
        ScratchNNClassifier(max_iter=2, random_state=0).fit(X, labels) for labels in (y, sparse.csr_array(y))
    )
    assert_same_fit(dense, other)


def test_init_and_hidden_bias_are_what_they_say(iris):
    X, y = iris
    none = ScratchNNClassifier((6, 5), hidden_bias=False, max_iter=2, init="he_uniform").fit(X, y)
    assert not none.intercepts_[0].any()
    assert not none.intercepts_[1].any()
    assert none.intercepts_[2].any()
    glorot, he = (
        ScratchNNClassifier((100,), max_iter=1, learning_rate_init=1e-12, init=init, numeric_encoding=None).fit(X, y)
        for init in ["glorot_uniform", "he_uniform"]
    )
    assert 0.9 * (6 / 104) ** 0.5 < np.abs(glorot.coefs_[0]).max() <= (6 / 104) ** 0.5 + 1e-6
    assert 0.9 * (6 / 4) ** 0.5 < np.abs(he.coefs_[0]).max() <= (6 / 4) ** 0.5 + 1e-6
