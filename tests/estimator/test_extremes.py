"""Values at the edge of what can be computed with, and of types that are no numbers. test_bad_input.py found them."""

import warnings

import numpy as np
import pytest
from helpers import assert_same_fit, make_table
from scipy import sparse

from scratchnn import ScratchNNClassifier

X, y = make_table(40, 3)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def network(**changes):
    return ScratchNNClassifier(**({"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0} | changes))


def with_value(value, dtype=float):
    table = X.astype(dtype)
    table[7, 1] = value
    return table


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("value", [1.1e100, -1e300, np.finfo(float).max])
def test_values_whose_squares_overflow_are_refused(value, convert):
    message = r"X must have no values beyond 1e\+100 to train on, .* in column 1. Divide the column"
    with pytest.raises(ValueError, match=message):
        network().fit(convert(with_value(value)), y)
    with pytest.raises(ValueError, match=message):
        network().partial_fit(convert(with_value(value)), y, classes=[0, 1])


@pytest.mark.parametrize("value", [1e100, -1e100, 1e-300, np.float32(3e38)])
def test_values_up_to_there_are_learned_from(value):
    model = network().fit(with_value(value), y)
    assert np.isfinite(model.predict_proba(with_value(value))).all()
    assert np.isfinite(model.predict_proba(with_value(np.finfo(float).max))).all()


def test_the_range_of_float32_is_compared_in_float64():
    """NumPy would warn that 1e100 overflows in float32."""
    model = network().fit(with_value(3e38, np.float32), y)
    assert np.isfinite(model.scale_).all()


def test_infinities_of_both_signs_in_a_sparse_table_are_refused_without_a_warning():
    table = with_value(np.inf)
    table[8, 1] = -np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        network().fit(sparse.csr_array(table), y)


@pytest.mark.parametrize("weight", [1e51, 1e300, 1e-51, 5e-324])
def test_weights_beyond_what_can_be_summed_are_refused(weight):
    weights = np.full(40, weight)
    message = r"must have a largest value from 1e-50 to 1e\+50, got .* Multiply all weights by the same number"
    with pytest.raises(ValueError, match=f"sample_weight {message}"):
        network().fit(X, y, weights)
    with pytest.raises(ValueError, match=f"sample_weight {message}"):
        network().partial_fit(X, y, weights, classes=[0, 1])
    with pytest.raises(ValueError, match=f"sample_weight_val {message}"):
        network().fit(X, y, X_val=X, y_val=y, sample_weight_val=weights)
    with pytest.raises(ValueError, match=f"class_weight {message}"):
        network(class_weight={0: weight, 1: weight}).fit(X, y)


@pytest.mark.parametrize("weight", [1e50, 1e-50])
def test_weights_up_to_there_are_equal_to_ones_times_a_number(weight):
    model = network().fit(X, y, np.full(40, weight))
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_few_tiny_weights_leave_their_rows_out():
    weights = np.where(np.arange(40) < 30, 1.0, 1e-300)
    kept = network(alpha=0).fit(X[:30], y[:30])
    model = network(alpha=0, batch_size="full").fit(X, y, weights)
    np.testing.assert_allclose(model.mean_, kept.mean_, rtol=1e-9)


@pytest.mark.parametrize("weights", [["a"] * 40, [None] * 39 + ["b"], [1j] * 40])
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(ValueError, match=r"sample_weight must hold one real number a row, got other values: "):
        network().fit(X, y, weights)


@pytest.mark.parametrize(
    ("value", "kind"), [(b"x", "S1"), (np.void(b"x"), "V1"), ([b"x"], "bytes"), ([1j], "complex"), (1j, None)]
)
def test_values_that_are_neither_numbers_nor_text_are_refused(value, kind):
    table = [value * 2] * 40 if isinstance(value, list) else np.full((40, 2), value)
    message = "Complex data not supported" if kind is None else rf"Columns 0, 1 of X have values of type .*{kind}"
    with pytest.raises((TypeError, ValueError), match=message):
        network().fit(table, y)


def test_missing_numbers_are_a_category_of_their_own():
    """Each NaN of a list is another object."""
    table = X.round()
    table[::3, 1] = np.nan
    model = network(categorical_features=[1]).fit(table, y)
    names = [name for name in model.feature_names_encoded_ if name.startswith("x1_")]
    assert names == ["x1_-1", "x1_0", "x1_1", "x1_None", "x1_infrequent_sklearn"]
    assert np.isfinite(model.predict_proba(table)).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_constant_column_is_constant_for_any_weights(seed):
    """Weights below 1 gave it a variance from rounding, and then a scale of 0."""
    generator = np.random.default_rng(seed)
    table = np.column_stack([X, np.full(40, generator.normal())])
    model = network().fit(table, y, generator.random(40) * 1e-3)
    assert model.scale_[3] == 1
    assert not model.coefs_[0][3].any()


@pytest.mark.parametrize("n_rows", [1, 2, 40])
def test_reversed_rows_are_read_however_few_they_are(n_rows):
    """NumPy calls a reversed array of one row contiguous, but PyTorch takes no negative strides."""
    model = network().fit(X, y)
    rows = X[:n_rows]
    np.testing.assert_array_equal(model.predict_proba(rows[::-1]), model.predict_proba(rows)[::-1])
    np.testing.assert_array_equal(model.predict(rows[::-1, :]), model.predict(rows)[::-1])
    weights, labels = np.ones(n_rows)[::-1], y[:n_rows][::-1]
    twins = [network().partial_fit(*table, classes=[0, 1]) for table in [(rows[::-1], labels, weights)]]
    twins += [network().partial_fit(rows[::-1].copy(), labels.copy(), weights.copy(), classes=[0, 1])]
    assert_same_fit(*twins)


def test_sparse_rows_are_predicted_by_a_model_that_saw_missing_values():
    """The encoder took the sparse table for a single object."""
    model = network().fit(with_value(np.nan), y)
    table = X.round()
    np.testing.assert_array_equal(model.predict_proba(sparse.csr_array(table)), model.predict_proba(table))
    twins = [
        network().fit(with_value(np.nan), y).partial_fit(kind(table), y) for kind in (np.asarray, sparse.csr_array)
    ]
    assert_same_fit(*twins)


@pytest.mark.parametrize("scale", [1e-170, 1e-162, 1e-155])
def test_columns_whose_scale_has_no_square_are_learned_from(scale):
    model = network().fit(np.column_stack([y * scale, X]), y)
    assert 0 < model.alpha_ < 100
    assert np.isfinite(model.predict_proba(np.column_stack([y * scale, X]))).all()


@pytest.mark.parametrize("classes", [[0], [], np.array(["only"])])
def test_partial_fit_refuses_fewer_than_two_classes(classes):
    model = network()
    with pytest.raises(ValueError, match=r"classes must have at least two class labels, got"):
        model.partial_fit(X, np.resize(classes, 40) if len(classes) else y, classes=classes)
    model.partial_fit(X, y, classes=[0, 1])  # nothing is left of them


@pytest.mark.parametrize("labels", [["a", None], ["a", {}]])
def test_labels_that_cannot_be_sorted_are_refused_by_name(labels):
    mixed = np.resize(np.array(labels, dtype=object), 40)
    with pytest.raises(TypeError, match=r"^y must hold class labels of one type, which can be sorted, got other"):
        network().fit(X, mixed)


@pytest.mark.parametrize("labels", [["a", None], [0, np.nan], [0.5, 1.5], [1j, 2], 3])
def test_classes_that_are_no_labels_are_refused_by_name(labels):
    with pytest.raises((TypeError, ValueError), match=r"^classes must hold class labels of one type, which can be sor"):
        network().partial_fit(X, y, classes=labels)


@pytest.mark.parametrize("weight", ["x", 1j, [1]])
def test_class_weights_that_are_no_numbers_are_refused_by_name(weight):
    with pytest.raises(ValueError, match=r"class_weight must give each class a number, got {0: .*}: .* Pass a dict"):
        network(class_weight={0: weight}).fit(X, y)
    with pytest.raises(ValueError, match=r"class_weight must give each class a number, got 1: "):
        network(class_weight=[1, 2]).fit(X, np.column_stack([y, 1 - y]))


def test_scores_that_do_not_suit_the_labels_are_refused_by_name():
    texts = np.where(y > 0, "yes", "no")
    with pytest.raises(ValueError, match=r"scoring must suit the labels .*, got 'r2', which raised ValueError: could"):
        network(early_stopping=True, scoring="r2").fit(X, texts)


def test_scores_that_are_no_numbers_are_refused():
    """The search for the error of a run that diverged found none, and raised StopIteration."""

    def score_nothing(estimator, X, y):
        return np.nan

    model = ScratchNNClassifierCV((3,), alphas=[0.1, 1.0], cv=2, max_iter=2, scoring=score_nothing)
    with pytest.raises(ValueError, match=r"scoring must be a number for the rows that each fold leaves out, got <func"):
        model.fit(X, y)


def test_folds_that_cannot_be_made_are_refused_by_name():
    few = np.r_[np.zeros(39, int), 1]
    with pytest.raises(ValueError, match=r"cv must be able to split the rows, got 2, which cannot: n_splits=2"):
        ScratchNNClassifierCV((3,), cv=2).fit(X[:2], [0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"y must have at least two classes|cv must"):
            ScratchNNClassifierCV((3,), cv=40).fit(X, few)


def test_a_power_that_overflows_makes_the_rate_zero():
    """(n + 1) ** 1e300 raised OverflowError."""
    params = {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0}
    long = network(**params, power_t=1e300, max_iter=3, tol=0, n_iter_no_change=np.inf).fit(X, y)
    short = network(**params, power_t=1e300, max_iter=1).fit(X, y)
    assert_same_fit(long, short)


@pytest.mark.parametrize("activation", ["relux", None, [], 3])
def test_predictions_refuse_an_activation_that_was_set_since_and_does_not_exist(activation):
    model = network().fit(X, y).set_params(activation=activation)
    with pytest.raises(ValueError, match=r"activation must be one of \['gelu', .*, got .* Set the one that"):
        model.predict(X)


@pytest.mark.parametrize("device", [object(), 1j, None])
def test_predictions_refuse_a_device_of_another_type(device):
    model = network().fit(X, y).set_params(device=device)
    with pytest.raises(ValueError, match=r"device must be 'auto', 'cpu', 'cuda'"):
        model.predict(X)


@pytest.mark.parametrize("refuse", [lambda model: model.fit(X[:, :2], y[:9]), lambda model: model.fit(X, y * 0)])
def test_a_fit_that_is_refused_changes_nothing(refuse):
    model = network(warm_start=True).fit(X, y)
    before, attributes = model.predict_proba(X), dict(vars(model))
    with pytest.raises(ValueError):
        refuse(model.set_params(hidden_layer_sizes=(3,)))
    assert vars(model) == attributes
    np.testing.assert_array_equal(model.predict_proba(X), before)
    new = network()
    with pytest.raises(ValueError):
        refuse(new)
    assert vars(new) == vars(network())
