"""Every refusal names the parameter, the rule, the value and the remedy."""

import numpy as np
import pytest
import torch
from helpers import make_table
from sklearn.exceptions import NotFittedError

from scratchnn import ScratchNNClassifier

X, y = make_table(40, 3)

BAD_PARAMETERS = {
    "hidden_layer_sizes": ["wide", -1, 0, 2.5, (5, 0), (5, -2), (2.5,), [True], None],
    "activation": ["selu", None],
    "solver": ["newton", 1],
    "alpha": [-1e-9, "big", None],
    "C": [0, -1.0, "auto"],
    "batch_size": [0, -1, 2.5, "half"],
    "learning_rate": ["warm"],
    "learning_rate_init": [0, -0.1, "fast"],
    "power_t": [-1, "x"],
    "max_iter": [0, -5, 1.5],
    "shuffle": ["yes", 3],
    "random_state": ["seed", -1, 1.5],
    "tol": [-1e-4, "x"],
    "verbose": ["loud", -1],
    "warm_start": ["no"],
    "momentum": [-0.1, 1.1],
    "nesterovs_momentum": ["yes"],
    "early_stopping": ["yes"],
    "validation_fraction": [-0.1, 1.0],
    "beta_1": [-0.1, 1.0],
    "beta_2": [-0.1, 1.0],
    "epsilon": [0, -1],
    "n_iter_no_change": [0, -1, 2.5],
    "max_fun": [0, 1.5],
    "loss": ["hinge", None],
    "dropout": [-0.1, 1.0, "half"],
    "class_weight": ["even", {0: -1.0}, {0: np.nan}, [{0: 1}], 2.0],
    "categorical_features": ["by name", 3],
    "numeric_encoding": ["bins", True],
    "standardize": ["yes", None],
    "init": ["zeros"],
    "hidden_bias": ["no"],
    "device": [3, None, "gpu", "mps", "cuda:-1"],
    "dtype": ["float16", np.float32],
    "scoring": ["applause", 3],
}


def test_every_parameter_is_tried():
    assert sorted(BAD_PARAMETERS) == sorted(ScratchNNClassifier().get_params())


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_PARAMETERS.items() for value in values]
)
def test_parameter_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError) as error:
        ScratchNNClassifier(**{name: value}).fit(X, y)
    message = str(error.value)
    assert name in message
    assert "must" in message
    assert repr(value).strip("[]()").rstrip(",") in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.empty((0, 3)), np.empty(0)), r"Found array with 0 sample"),
        ((X, np.zeros(40)), r"y must have at least two classes, got one class: \[0.\]. Add rows"),
        ((np.where(X > 2, np.inf, X), y), "Input X contains infinity"),
        ((X, np.where(y == 1, np.nan, 0.0)), r"y has 19 missing values \(first at index 0\). Drop these rows."),
        ((X, y[:-1]), r"inconsistent numbers of samples: \[40, 39\]"),
        ((X, X[:, 0]), "Unknown label type: continuous"),
        ((X, np.column_stack([y, y + 1])), "y must be one label per row, .* got multiclass-multioutput of shape"),
        ((X, y, np.ones(39)), r"sample_weight must have shape \(40,\), one weight a row, got \(39,\)"),
        ((X, y, -np.ones(40)), "sample_weight must not have negative values, got -1. Use 0"),
        ((X, y, np.zeros(40)), "sample_weight must have a positive value, got only zeros. Use 0"),
        ((X, y, np.full(40, np.nan)), "Input sample_weight contains NaN"),
    ],
)
def test_bad_training_data_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScratchNNClassifier().fit(*arguments)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"X_val": X}, "X_val and y_val must be given together, got None for y_val. Pass both."),
        ({"y_val": y}, "got None for X_val"),
        ({"sample_weight_val": np.ones(40)}, "got None for X_val"),
        ({"X_val": X[:, :2], "y_val": y}, "X has 2 features, but ScratchNNClassifier is expecting 3"),
        (
            {"X_val": X, "y_val": y + 1},
            r"y_val must hold no labels except the classes of training, \[0 1\], got also \[2\]",
        ),
        ({"X_val": X, "y_val": y[:5]}, "inconsistent numbers of samples"),
        ({"X_val": X, "y_val": np.column_stack([y, 1 - y])}, "y_val must have the form of the training targets, one"),
        ({"X_val": X + np.inf, "y_val": y}, "The validation data, X_val and y_val, .* Input X contains infinity"),
        ({"X_val": X, "y_val": y, "sample_weight_val": -np.ones(40)}, "sample_weight_val must not have negative"),
    ],
)
def test_bad_validation_data_are_refused(validation, message):
    with pytest.raises(ValueError, match=message):
        ScratchNNClassifier().fit(X, y, **validation)


def test_validation_split_too_small_is_refused():
    with pytest.raises(ValueError, match=r"validation set is too small: validation_fraction=0.1 of 3 .* Increase"):
        ScratchNNClassifier(early_stopping=True).fit(X[:3], [0, 0, 1])
    with pytest.raises(ValueError, match=r"validation_fraction=0 of"):
        ScratchNNClassifier(early_stopping=True, validation_fraction=0).fit(X, y)


def test_predicting_asks_for_a_fit_and_for_the_same_columns():
    for method in ["predict", "predict_proba", "predict_log_proba", "decision_function"]:
        with pytest.raises(NotFittedError, match="ScratchNNClassifier"):
            getattr(ScratchNNClassifier(), method)(X)
    classifier = ScratchNNClassifier((), solver="lbfgs").fit(X, y)
    with pytest.raises(ValueError, match="X has 2 features, but ScratchNNClassifier is expecting 3 features"):
        classifier.predict(X[:, :2])
    with pytest.raises(ValueError, match="Input X contains infinity"):
        classifier.predict(X + np.inf)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_cuda_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=r"device must be one that is there, got .*cuda.* Use device='cpu' or 'auto'"):
        ScratchNNClassifier(device=device).fit(X, y)


def test_divergence_says_when_and_what_to_change():
    classifier = ScratchNNClassifier(solver="sgd", learning_rate_init=1e300, dtype="float64")
    with pytest.raises(ValueError, match=r"Training diverged: .* at epoch \d+. Lower learning_rate_init=1e\+300"):
        classifier.fit(X, y)


def test_partial_fit_says_why_it_is_not_there():
    for params, reason in [({"solver": "lbfgs"}, "solver='lbfgs'"), ({"early_stopping": True}, "early_stopping=True")]:
        classifier = ScratchNNClassifier(**params)
        assert not hasattr(classifier, "partial_fit")
        for error in (AttributeError, ValueError):
            with pytest.raises(error, match=f"partial_fit does not support {reason}.* Use fit, or set"):
                classifier.partial_fit(X, y, classes=[0, 1])


def test_partial_fit_checks_classes():
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        ScratchNNClassifier().partial_fit(X, y)
    classifier = ScratchNNClassifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"is not the same as on last call to partial_fit"):
        classifier.partial_fit(X, y, classes=[1, 2])
    message = r"y must hold no labels except the classes of training, \[0 1\], got also \[7\]"
    with pytest.raises(ValueError, match=message):
        classifier.partial_fit(X, y + 7 * (y == 0))


def test_warm_start_refuses_other_classes():
    classifier = ScratchNNClassifier((), solver="lbfgs", warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"same classes as in the previous call to fit. Previously got \[0 1\]"):
        classifier.fit(X, y + 1)
