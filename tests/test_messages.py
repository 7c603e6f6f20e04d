"""Warnings come only where the user can act, and say what to change for the solver at hand; so do errors."""

import functools
import inspect
import math
import re
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import make_network, make_table
from scipy.optimize import OptimizeResult
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scratchnn import fused_fits
from scratchnn.training import lbfgs, stopping

X, y = make_table(60, 3)


network = functools.partial(make_network, hidden_layer_sizes=(4,), max_iter=None)


def find_warnings(model, X=X, y=y, **data):
    """Return the texts of the ConvergenceWarnings of a fit, which may give no other warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, **data)
    assert all(issubclass(each.category, ConvergenceWarning) for each in caught)
    return [str(each.message) for each in caught]


# --- the end of a fit


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_iter": 50},
        {"max_iter": 20},
        {"max_iter": 50, "n_iter_no_change": np.inf},
        {"max_iter": 12, "early_stopping": True},
        {"max_iter": 12, "solver": "sgd"},
    ],
)
def test_a_schedule_that_ran_to_its_end_gives_no_warning(schedule, changes):
    model = network(learning_rate=schedule, tol=1e-9, **changes)
    assert find_warnings(model) == []
    assert model.n_iter_ == changes.get("max_iter", 50)


def test_a_schedule_shorter_than_patience_asks_for_more_epochs_only():
    (message,) = find_warnings(network(max_iter=3))
    assert "Set max_iter to more than 3, or leave it None" in message
    assert "n_iter_no_change=10" in message
    assert "tol" not in message
    assert "learning_rate" not in message


@pytest.mark.parametrize("changes", [{}, {"solver": "sgd"}, {"solver": "sgd", "learning_rate": "adaptive"}])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_rate_that_does_not_end_by_itself_asks_for_what_ends_the_fit(changes, early_stopping):
    settings = {"learning_rate": "constant", "max_iter": 4, "early_stopping": early_stopping}
    (message,) = find_warnings(network(**(settings | changes)))
    assert message.startswith("Maximum iterations (max_iter=4) reached and the training has not converged yet.")
    assert "more than 4, or raise tol=0.0001 or learning_rate_init=0.005, or set learning_rate='auto'" in message


@pytest.mark.parametrize("max_iter", [None, 5])
@pytest.mark.parametrize("standardize", [False, True])
def test_lbfgs_asks_for_what_lbfgs_has(cancer, max_iter, standardize):
    model = network(hidden_layer_sizes=5, solver="lbfgs", max_iter=max_iter, standardize=standardize)
    (message,) = find_warnings(model, *cancer)
    assert f"Set max_iter to more than {max_iter or 200}, or raise tol=0.0001" in message
    assert "learning_rate" not in message
    assert ("set standardize=True" in message) != standardize


def test_lbfgs_that_converges_gives_no_warning_and_max_fun_is_named():
    assert find_warnings(network(hidden_layer_sizes=(), solver="lbfgs")) == []
    model = network(solver="lbfgs", max_fun=3)
    (message,) = find_warnings(model)
    assert message.endswith("max_fun=3 evaluations of the loss were made. Raise max_fun, or tol=0.0001.")
    assert model.n_iter_ <= 3


def test_no_rule_no_warning():
    assert find_warnings(network(max_iter=3, tol=0, n_iter_no_change=np.inf, learning_rate="constant")) == []


def test_partial_fit_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network().partial_fit(X, y, classes=[0, 1])


@pytest.mark.parametrize(("dtype", "smallest"), [(torch.float64, 1.5e-8), (torch.float32, 3.5e-4)])
def test_a_line_search_that_stops_at_rounding_has_converged(dtype, smallest, monkeypatch):
    """The root of the spacing of floats is what a gradient comes to: 2 ** -26, 2 ** -11.5."""
    reasons = []
    for gradient in (0.9 * smallest, 1.1 * smallest, np.nan):
        result = OptimizeResult(status=2, jac=np.array([0.0, -gradient]), fun=0.3, message="ABNORMAL: ")
        monkeypatch.setattr(lbfgs.scipy.optimize, "minimize", lambda *args, result=result, **settings: result)
        settings = {"max_iter": 1, "max_fun": 1, "tol": 0.0, "on_iteration": print}
        reasons.append(lbfgs.minimize_lbfgs(lambda flat: (0.0, flat), torch.zeros(2, dtype=dtype), **settings))
    assert reasons == [None, "line search", "line search"]


@pytest.mark.parametrize("loss", ["log_loss", F.binary_cross_entropy_with_logits])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_line_search_that_fails_says_what_helps(loss, standardize, dtype, monkeypatch):
    result = OptimizeResult(status=2, jac=np.ones(1), fun=0.3, message="ABNORMAL: ")
    monkeypatch.setattr(lbfgs.scipy.optimize, "minimize", lambda *args, **settings: result)
    function = loss if loss == "log_loss" else functools.partial(loss, reduction="none")
    model = network(hidden_layer_sizes=(), solver="lbfgs", loss=function, standardize=standardize, dtype=dtype)
    (message,) = find_warnings(model)
    assert message.startswith("lbfgs stopped short of its tolerance: its line search found no smaller loss. Raise tol=")
    assert ("standardize=True" in message) != standardize
    assert ("dtype='float64'" in message) == (dtype == "float32")
    assert ("make sure that loss, your function," in message) == callable(function)
    assert message.endswith(", or set solver='adam', which needs no smooth loss.")


# --- divergence


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("standardize", [False, True])
def test_divergence_does_not_advise_what_is_set(solver, standardize):
    model = network(solver=solver, learning_rate_init=1e300, standardize=standardize, dtype="float64")
    with pytest.raises(
        ValueError, match=r"Training diverged: .* at epoch \d+. Lower learning_rate_init=1e\+300"
    ) as error:
        model.fit(X, y)
    assert ("standardize" in str(error.value)) != standardize
    assert "momentum" not in str(error.value)


def test_divergence_names_a_large_momentum():
    with pytest.raises(ValueError, match=r"Lower learning_rate_init=1e\+300, or lower momentum=1.0"):
        network(solver="sgd", momentum=1.0, learning_rate_init=1e300, dtype="float64").fit(X, y)


def test_divergence_with_early_stopping_does_not_advise_what_is_set():
    model = network(solver="sgd", early_stopping=True, learning_rate_init=1.0, learning_rate="constant", max_iter=500)
    model.set_params(alpha=30.0, batch_size=10, tol=0, n_iter_no_change=np.inf)
    (message,) = find_warnings(model)
    assert "coefficients of the best epoch are kept. Lower learning_rate_init=1.0." in message


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_loss_that_is_no_number_names_the_function(solver):
    def broken(logits, targets):
        return (logits - targets) * math.nan

    with pytest.raises(ValueError, match=r"Training diverged: .*ake sure that loss, your function, .* finite"):
        network(solver=solver, loss=broken).fit(X, y)


def test_lbfgs_that_cannot_start_is_refused_without_a_rate():
    with pytest.raises(ValueError, match=r"not finite at the start. Scale the columns of X") as error:
        network(solver="lbfgs", standardize=False, dtype="float32").fit(X * 1e39, y)
    assert "learning_rate" not in str(error.value)


# --- losses


def losses_of(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


NOT_PYTORCH = {
    "numpy": lambda logits, targets: np.log1p(np.exp(logits)) - logits * targets,
    "to numpy": lambda logits, targets: logits.numpy() - targets.numpy(),
    "methods of arrays": lambda logits, targets: (logits - targets).astype(float) ** 2,
    "math": lambda logits, targets: math.log1p(math.exp(logits)),
    "one argument": lambda logits: logits,
    "a class": torch.nn.BCEWithLogitsLoss,
    "softmax for two classes": lambda logits, targets: F.cross_entropy(logits, targets.long()[:, 0], reduction="none"),
    "probabilities": lambda logits, targets: F.binary_cross_entropy(logits, targets, reduction="none"),
    "vectors": lambda logits, targets: torch.dot(logits, targets),
}
NO_GRADIENT = {
    "detached": lambda logits, targets: losses_of(logits.detach(), targets),
    "through numpy": lambda logits, targets: torch.from_numpy(logits.detach().numpy() - targets.numpy()) ** 2,
    "hits": lambda logits, targets: (logits > 0) != (targets > 0),
    "integers": lambda logits, targets: (logits.long() - targets.long()) ** 2,
    "targets alone": lambda logits, targets: targets * 1.0,
}
NO_VALUES = {
    "mean": (lambda logits, targets: losses_of(logits, targets).mean(), r"shape \(\) of torch.float"),
    "item": (lambda logits, targets: losses_of(logits, targets).sum().item(), "got float"),
    "list": (lambda logits, targets: logits.tolist(), "got list"),
    "metric": (lambda logits, targets: accuracy_score(targets, logits > 0), "got float"),
    "nothing": (lambda logits, targets: None, "got NoneType"),
    "one fewer": (lambda logits, targets: logits[1:], r"shape \(\d+, 1\)"),
    "pairs": (lambda logits, targets: losses_of(logits, targets) * torch.ones(3), r"shape \(\d+, 3\)"),
    "complex": (lambda logits, targets: losses_of(logits, targets).to(torch.complex64), "torch.complex64"),
}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", NOT_PYTORCH)
def test_a_loss_that_fails_on_tensors_is_refused_with_the_way_out(name, solver):
    with pytest.raises(
        ValueError, match=r"loss, .* must work on two tensors .* \(\d+, 1\): .* Write it with PyTorch's"
    ):
        network(loss=NOT_PYTORCH[name], solver=solver).fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", NO_GRADIENT)
def test_a_loss_without_gradient_is_refused_with_the_way_out(name, solver):
    with pytest.raises(ValueError, match=r"loss, .* autograd can follow back .* got torch.* Write it with PyTorch's"):
        network(loss=NO_GRADIENT[name], solver=solver).fit(X, y)


@pytest.mark.parametrize("name", NO_VALUES)
def test_a_loss_without_a_value_for_each_sample_is_refused(name):
    function, got = NO_VALUES[name]
    with pytest.raises(ValueError, match=rf"loss, .* must return a tensor .* got .*{got.removeprefix('got ')}.*'none'"):
        network(loss=function).fit(X, y)


def test_other_errors_of_a_loss_are_its_own():
    with pytest.raises(ZeroDivisionError):
        network(loss=lambda logits, targets: 1 / 0).fit(X, y)


def test_a_loss_may_change_its_arguments_and_no_data():
    def smoothed(logits, targets):
        return losses_of(logits.mul_(2), targets.mul_(0.8).add_(0.1))

    def same(logits, targets):
        return losses_of(2 * logits, 0.8 * targets + 0.1)

    for solver in ("adam", "lbfgs"):
        changing, plain = (
            network(loss=loss, solver=solver, max_iter=20, tol=1e-2).fit(X, y, X_val=X, y_val=y)
            for loss in (smoothed, same)
        )
        assert changing.validation_loss_curve_ == plain.validation_loss_curve_
        np.testing.assert_array_equal(changing.coefs_[0], plain.coefs_[0])


def test_a_bad_loss_in_a_fused_search_says_the_same():
    search = GridSearchCV(network(loss=NOT_PYTORCH["numpy"]), {"alpha": [0.1, 1.0]}, cv=2)
    with fused_fits(), pytest.raises(ValueError, match="Write it with PyTorch's functions"):
        search.fit(X, y)


# --- values that other libraries take


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        ({"learning_rate": 0.01}, "learning_rate is the schedule. Set learning_rate_init=0.01"),
        ({"learning_rate": np.float64(0.01)}, "Set learning_rate_init=0.01,"),
        ({"learning_rate_init": "cosine"}, "learning_rate_init is the rate, a number, and learning_rate the schedule."),
        ({"batch_size": 0.1}, "batch_size counts samples"),
        ({"alpha": "none"}, "Set alpha=0 for no penalty"),
        ({"alpha": None}, "Set alpha=0 for no penalty"),
        ({"hidden_layer_sizes": None}, "Set hidden_layer_sizes=() for no hidden layer"),
        ({"activation": "sigmoid"}, "The sigmoid is 'logistic'"),
        ({"early_stopping": 10}, "Set early_stopping=True, and n_iter_no_change=10"),
        ({"validation_fraction": 20}, "Pass X_val and y_val"),
        ({"n_iter_no_change": None}, "n_iter_no_change=np.inf"),
        ({"tol": None}, "Set tol=0"),
        ({"loss": "binary_crossentropy"}, "Cross-entropy, binary or not, is 'log_loss'"),
        ({"dropout": (0.1, 0.2)}, "dropout is one fraction for all hidden layers"),
        ({"dtype": torch.float32}, "dtype='float32'"),
        ({"device": 0}, "device='cuda:0'"),
        ({"scoring": ["accuracy", "roc_auc"]}, "Pass one name or one scorer"),
    ],
)
def test_values_of_other_libraries_are_refused_with_ours(params, hint):
    with pytest.raises(ValueError, match=rf"must be .* Got .* instead. .*{re.escape(hint)}"):
        network(**params).fit(X, y)
    with pytest.raises(ValueError, match="partial_fit" if "early_stopping" in params else re.escape(hint)):
        network(**params).partial_fit(X, y, classes=[0, 1])


@pytest.mark.parametrize("params", [{"solver": "saga"}, {"learning_rate": "warm"}, {"alpha": -1}])
def test_other_values_are_refused_with_the_options_alone(params):
    with pytest.raises(ValueError, match=r"must be .* Got .* instead.$"):
        network(**params).fit(X, y)


def test_class_weight_may_name_classes_that_a_fold_lacks():
    model = network(class_weight={0: 1, 1: 2, 2: 3}, hidden_layer_sizes=(20,))
    assert model.fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(
    "metric",
    [accuracy_score, lambda y_true, y_pred: 1.0, lambda estimator, X, y: [1.0, 2.0]],
    ids=["theirs", "ours", "list"],
)
def test_a_metric_in_the_place_of_a_scorer_names_make_scorer(metric):
    with pytest.raises(ValueError, match=r"scor.*make_scorer"):
        network(early_stopping=True, scoring=metric).fit(X, y)


@pytest.mark.parametrize("selector", [RFE, SelectFromModel])
def test_a_network_without_coefficients_of_features_says_what_selects_features(selector):
    """Only with the name of the attribute: scikit-learn asks "auto" whether there is one, and drops the reason."""
    with pytest.raises(
        AttributeError, match=r"^coef_ is available only .*hidden_layer_sizes=.* SequentialFeatureSelector"
    ):
        selector(network(), importance_getter="coef_").fit(X, y).get_support()


# --- the line that a warning names


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: make_pipeline(StandardScaler(), model)])
@pytest.mark.parametrize("params", [{"max_iter": 1}, {"batch_size": 1000}])
def test_warning_of_fit_names_the_line_of_the_caller(wrap, params):
    check_warned_lines(wrap(network(**params)).fit, X, y)


def test_warning_of_partial_fit_names_the_line_of_the_caller():
    check_warned_lines(network(batch_size=1000).partial_fit, X, y, classes=[0, 1])


def test_warning_of_an_interrupted_fit_names_the_line_of_the_caller(monkeypatch):
    monkeypatch.setattr(stopping, "end_epoch", raise_interrupt)
    check_warned_lines(network().fit, X, y)


def raise_interrupt(*args, **settings):
    raise KeyboardInterrupt


def check_warned_lines(call, *data, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno + 1
        call(*data, **settings)
    assert caught
    assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, line)}


def test_warning_where_no_frame_is_the_users_is_given_all_the_same():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=functools.partial(network(max_iter=1).fit, X, y))
        thread.start()
        thread.join()
    assert [warning.category for warning in caught] == [ConvergenceWarning]
