"""Going on from fitted attributes: as a call left them, or as somebody has set them."""

import numpy as np
import pytest
from helpers import make_network, make_table
from sklearn.base import clone

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


FORMS = {
    "float64": lambda array: array.astype(np.float64),
    "float16": lambda array: array.astype(np.float16),
    "list": lambda array: array.tolist(),
    "Fortran": np.asfortranarray,
    "big-endian": lambda array: array.astype(">f4"),
    "object": lambda array: array.astype(object),
}
METHODS = {
    "partial_fit": lambda classifier, X, y: classifier.partial_fit(X, y),
    "fit": lambda classifier, X, y: classifier.set_params(warm_start=True).fit(X, y),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [{}, {"warm_start": True}, {"warm_start": True, "early_stopping": True}])
def test_training_goes_on_from_coefficients_of_any_float_type(form, method, before):
    X, y = make_table(200, 4, 2)
    untouched, changed = (make_network(**before).fit(X, y) for _ in range(2))
    changed.coefs_ = [FORMS[form](coef) for coef in changed.coefs_]
    changed.intercepts_ = [FORMS[form](intercept) for intercept in changed.intercepts_]
    rtol = 1e-2 if form == "float16" else 1e-5
    np.testing.assert_allclose(changed.predict_proba(X), untouched.predict_proba(X), rtol=rtol)
    for classifier in (untouched, changed):
        METHODS[method](classifier.set_params(early_stopping=False), X, y)
    np.testing.assert_allclose(changed.predict_proba(X), untouched.predict_proba(X), rtol=0.05)
    assert changed.coefs_[0].dtype == (np.float32 if form in ("float16", "Fortran") else np.float64)


@pytest.mark.parametrize("how", ["list", "entries", "in place"])
def test_training_goes_on_from_coefficients_that_were_averaged(how):
    """Federated averaging: also where early stopping keeps the last coefficients beside the best ones."""
    X, y = make_table(200, 4, 2)
    params = {"warm_start": True, "early_stopping": True, "learning_rate_init": 1e-9, "max_iter": 1, "alpha": 0}
    classifier = make_network(**params, n_iter_no_change=1).fit(X, y)
    values = [np.full_like(coef, 0.25) for coef in classifier.coefs_]
    if how == "list":
        classifier.coefs_ = values
    else:
        for layer, value in enumerate(values):
            if how == "entries":
                classifier.coefs_[layer] = value
            else:
                classifier.coefs_[layer][:] = value
    classifier.fit(X, y)
    for coef in classifier.coefs_:
        np.testing.assert_allclose(coef, 0.25, rtol=1e-6)


def test_scales_that_were_set_stay_in_partial_fit():
    X, y = make_table(200, 4, 2)
    classifier = make_network()
    for _ in range(2):
        classifier.partial_fit(X, y, classes=[0, 1])
    np.testing.assert_allclose(classifier.mean_, X.mean(0))
    classifier.mean_, classifier.scale_ = [1.0] * 4, np.full(4, 2, np.float32)
    expected = make_network(standardize=False)
    expected.classes_, expected.n_features_in_ = classifier.classes_, 4
    probabilities = classifier.predict_proba(X)
    classifier.partial_fit(X, y)
    np.testing.assert_array_equal(classifier.mean_, np.ones(4))
    np.testing.assert_array_equal(classifier.scale_, np.full(4, 2))
    assert not np.array_equal(classifier.predict_proba(X), probabilities)


def drop_last(values):
    return values[:-1]


@pytest.mark.parametrize("method", [*METHODS, "predict"])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("coefs_", drop_last, "coefs_ and intercepts_ must be the weights"),
        ("coefs_", lambda coefs: [coef.T for coef in coefs], "coefs_ and intercepts_ must be the weights"),
        ("coefs_", lambda coefs: [coef[:, 0] for coef in coefs], "coefs_ and intercepts_ must be the weights"),
        ("intercepts_", drop_last, "coefs_ and intercepts_ must be the weights"),
        ("intercepts_", lambda each: [each[0][:-1], each[1]], "coefs_ and intercepts_ must be the weights"),
        ("coefs_", lambda coefs: [coefs[0].astype(str) + "x", coefs[1]], "coefs_ must hold arrays of real numbers"),
        ("intercepts_", lambda each: [each[0], np.array(["x"])], "intercepts_ must hold arrays of real numbers"),
        ("mean_", drop_last, r"mean_ must have shape \(4,\), one number per column, got \(3,\)"),
        ("scale_", lambda scale: 1.0, r"scale_ must have shape \(4,\), one number per column, got \(\)"),
    ],
)
def test_attributes_that_are_no_network_are_an_error(name, change, message, method):
    X, y = make_table(200, 4, 2)
    classifier = make_network().fit(X, y)
    setattr(classifier, name, change(getattr(classifier, name)))
    with pytest.raises(ValueError, match=message):
        METHODS.get(method, lambda classifier, X, y: classifier.predict(X))(classifier, X, y)


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_that_are_not_finite_are_an_error(method):
    X, y = make_table(200, 4, 2)
    classifier = make_network().fit(X, y)
    classifier.coefs_[0][0, 0] = np.inf
    with pytest.raises(ValueError, match="coefs_ and intercepts_ must be finite when training resumes"):
        METHODS[method](classifier, X, y)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"solver": "lbfgs"}])
def test_curves_of_a_warm_start_hold_all_calls(params):
    X, y = make_table(200, 4, 2)
    classifier = make_network(warm_start=True, **params)
    lengths = []
    for _ in range(3):
        classifier.fit(X, y)
        lengths.append(len(classifier.loss_curve_))
        if "early_stopping" in params:
            assert len(classifier.validation_scores_) == len(classifier.loss_curve_)
    assert lengths[0] < lengths[1] < lengths[2]
    assert clone(classifier).fit(X, y).loss_curve_ == classifier.loss_curve_[: lengths[0]]


def test_call_that_fails_leaves_everything_as_it_was():
    X, y = make_table(200, 4, 2)
    classifier, other = (make_network().partial_fit(X, y, classes=[0, 1]) for _ in range(2))
    before = [*classifier.loss_curve_]
    with pytest.raises(ValueError, match="diverged"):
        classifier.set_params(learning_rate_init=1e36, solver="sgd").partial_fit(X[:, ::-1] * 1e30, y)
    assert classifier.loss_curve_ == before
    classifier.set_params(learning_rate_init=0.005, solver="adam").partial_fit(X, y)
    other.partial_fit(X, y)
    np.testing.assert_array_equal(classifier.coefs_[0], other.coefs_[0])
