"""Frames, arrays of objects, and missing values, as they are."""

import datetime
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
from helpers import assert_same_fit, make_network
from scipy import sparse
from sklearn.model_selection import cross_validate

from scratchnn import TableEncoder, fused_fits

pl = pytest.importorskip("polars")
rng = np.random.default_rng(0)
N_ROWS = 120


network = partial(make_network, hidden_layer_sizes=6, max_iter=12)


def make_columns():
    """Columns as plain lists; None is missing."""
    return {
        "age": [None if row % 7 == 0 else float(row % 60) + 0.5 for row in range(N_ROWS)],
        "fare": rng.exponential(size=N_ROWS).tolist(),
        "siblings": [None if row % 11 == 0 else row % 4 for row in range(N_ROWS)],
        "alone": [row % 3 == 0 for row in range(N_ROWS)],
        "insured": [None if row % 13 == 0 else row % 5 == 0 for row in range(N_ROWS)],
        "port": [None if row % 9 == 0 else "SCQ"[row % 3] for row in range(N_ROWS)],
        "sex": ["male" if row % 2 else "female" for row in range(N_ROWS)],
    }


COLUMNS = make_columns()
y = np.array([(sex == "male") ^ (fare > 1) for sex, fare in zip(COLUMNS["sex"], COLUMNS["fare"], strict=True)])
NAMES = [
    *("age", "fare", "siblings", "alone", "insured"),
    *("missingindicator_age", "missingindicator_siblings", "missingindicator_insured"),
    *("port_C", "port_Q", "port_S", "port_None", "sex_female", "sex_male"),
]


def encode_by_hand():
    def fill(values):
        known = [float(value) for value in values if value is not None]
        return [np.mean(known) if value is None else float(value) for value in values]

    numbers = [fill(COLUMNS[name]) for name in ("age", "fare", "siblings", "alone", "insured")]
    marks = [[float(value is None) for value in COLUMNS[name]] for name in ("age", "siblings", "insured")]
    ports = [[float(value == port) for value in COLUMNS["port"]] for port in ("C", "Q", "S", None)]
    sexes = [[float(value == sex) for value in COLUMNS["sex"]] for sex in ("female", "male")]
    return np.array([*numbers, *marks, *ports, *sexes]).T


def make_pandas(types):
    return pd.DataFrame({name: pd.array(values, types[name]) for name, values in COLUMNS.items()})


FRAMES = {
    "numpy": pd.DataFrame(COLUMNS),
    "nullable": make_pandas(
        {**dict.fromkeys(["age", "fare"], "Float64"), "siblings": "Int64", "alone": "bool", "insured": "boolean"}
        | {"port": "string", "sex": "category"}
    ),
    "pyarrow": make_pandas(
        {**dict.fromkeys(["age", "fare"], "double[pyarrow]"), "siblings": "int8[pyarrow]", "alone": "bool[pyarrow]"}
        | {"insured": "bool[pyarrow]", "port": "string[pyarrow]", "sex": "string[pyarrow]"}
    ),
    "objects": pd.DataFrame(COLUMNS).astype(object),
    "polars": pl.DataFrame(COLUMNS),
    "polars categories": pl.DataFrame(COLUMNS).with_columns(
        pl.col("port").cast(pl.Categorical),
        pl.col("sex").cast(pl.Enum(["male", "female"])),
        pl.col("age").cast(pl.Decimal(6, 2)),
    ),
}
FRAME = FRAMES["numpy"]


@pytest.fixture(scope="module")
def by_hand():
    """The network on columns that are encoded by hand."""
    return network(numeric_encoding=None).fit(encode_by_hand(), y)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_of_all_types_train_the_network_of_columns_encoded_by_hand(frame, by_hand):
    model = network(numeric_encoding=None).fit(frame, y)
    rows = encode_by_hand()
    np.testing.assert_allclose(model.predict_proba(frame), by_hand.predict_proba(rows), rtol=1e-10)
    np.testing.assert_allclose(model.decision_function(frame), by_hand.decision_function(rows), rtol=1e-8)
    assert model.score(frame, y) == by_hand.score(rows, y)
    assert model.feature_names_encoded_[: len(NAMES)].tolist() == NAMES
    assert model.coefs_[0].shape[0] == len(model.feature_names_encoded_) == by_hand.coefs_[0].shape[0]
    assert model.n_features_in_ == 7
    assert model.feature_names_in_.tolist() == list(COLUMNS)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_of_other_types_are_predicted_alike(frame):
    model = network().fit(FRAME, y)
    np.testing.assert_array_equal(model.predict_proba(frame), model.predict_proba(FRAME))


def test_arrays_and_lists_of_objects_are_as_frames(by_hand):
    rows = FRAMES["objects"].to_numpy(object)
    for X in (rows, rows.tolist()):
        model = network(numeric_encoding=None).fit(X, y)
        np.testing.assert_allclose(model.predict_proba(X), by_hand.predict_proba(encode_by_hand()), rtol=1e-10)
        assert model.feature_names_encoded_[:2].tolist() == ["x0", "x1"]


def test_numbers_without_gaps_give_what_arrays_give():
    X = np.column_stack([COLUMNS["fare"], COLUMNS["alone"], np.arange(N_ROWS)]).astype(float)
    expected = network().fit(X, y)
    frame = pd.DataFrame({"fare": X[:, 0], "alone": X[:, 1] > 0, "n": np.arange(N_ROWS)})
    names = pd.Series(np.array(["a", "b"])[y.astype(int)], dtype="category")
    for table, targets in [
        (frame, pd.Series(y)),
        (frame.astype({"n": "Int64", "alone": "boolean"}), names),
        (pl.DataFrame(frame.to_dict("list")), pl.Series(y)),
    ]:
        model = network().fit(table, targets)
        assert model.encoder_ is None
        assert_same_fit(model, expected)
        np.testing.assert_array_equal(model.predict_proba(table), expected.predict_proba(X))


def test_coefficients_of_a_frame_of_numbers_are_for_its_columns():
    frame = pd.DataFrame({"a": rng.normal(size=N_ROWS), "b": rng.normal(size=N_ROWS)})
    model = network(hidden_layer_sizes=()).fit(frame, y)
    assert model.coef_.shape == (1, 2)
    logits = frame.to_numpy() @ model.coef_[0] + model.intercept_
    np.testing.assert_allclose(logits, model.decision_function(frame), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_may_lack_values(dtype):
    X = rng.normal(size=(N_ROWS, 3)).astype(dtype)
    X[::5, 1] = np.nan
    model = network(numeric_encoding=None).fit(X, y)
    filled = np.where(np.isnan(X), np.nanmean(X, 0), X)
    plain = network(numeric_encoding=None).fit(np.column_stack([filled, np.isnan(X[:, 1])]).astype(dtype), y)
    np.testing.assert_allclose(
        model.predict_proba(X), plain.predict_proba(np.column_stack([filled, np.isnan(X[:, 1])])), rtol=1e-6
    )
    assert model.feature_names_encoded_[:4].tolist() == ["x0", "x1", "x2", "missingindicator_x1"]


@pytest.mark.parametrize("standardize", [True, False])
def test_values_missing_only_at_prediction_are_filled_with_the_mean(standardize):
    X = rng.normal(3.0, size=(N_ROWS, 2))
    model = network(standardize=standardize).fit(X, y, sample_weight=np.arange(N_ROWS) % 3)
    rows = X[:4].copy()
    rows[1, 0] = np.nan
    filled = rows.copy()
    filled[1, 0] = np.average(X[:, 0], weights=np.arange(N_ROWS) % 3)
    np.testing.assert_allclose(model.predict_proba(rows), model.predict_proba(filled), rtol=1e-5)
    frame = pd.DataFrame({"a": pd.array([None, 1.0], "Float64"), "b": [1, 2]})
    assert np.isfinite(model.predict_proba(frame.set_axis([0, 1], axis=1))).all()


def test_values_missing_only_in_validation_rows_are_filled_with_the_mean_of_training():
    X = rng.normal(3.0, size=(N_ROWS, 2))
    X_val, filled = X[:30].copy(), X[:30].copy()
    X_val[::2, 1], filled[::2, 1] = np.nan, X[:, 1].mean()
    curves = [network().fit(X, y, X_val=rows, y_val=y[:30]).validation_loss_curve_ for rows in (X_val, filled)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-6)


def test_a_category_or_gap_unknown_to_training_counts_as_none():
    model = network().fit(FRAME, y)
    unknown = FRAME.iloc[:2].copy()
    unknown.loc[0, "sex"], unknown.loc[1, "sex"] = "unknown", None
    encoded = TableEncoder().fit(FRAME).transform(unknown)
    assert encoded[:, -2:].sum() == 0
    assert np.isfinite(model.predict_proba(unknown)).all()


def test_rare_categories_share_a_column():
    frame = pd.DataFrame({"city": ["Rome"] * 50 + ["Oslo"] * 50 + [f"village {row}" for row in range(20)]})
    model = network().fit(frame, y)
    assert model.feature_names_encoded_.tolist() == ["city_Oslo", "city_Rome", "city_infrequent_sklearn"]


def test_equal_numbers_are_one_category_whatever_their_type():
    frame = pd.DataFrame({"code": pd.Categorical([1, 2, 3] * 40)})
    model = network().fit(frame, y)
    assert model.feature_names_encoded_.tolist() == ["code_1", "code_2", "code_3"]
    expected = model.predict_proba(frame)
    for codes in ([1.0, 2.0, 3.0], [1, 2, 3], np.array([1, 2, 3], "uint8"), [np.int64(1), 2.0, 3]):
        np.testing.assert_array_equal(model.predict_proba(pd.DataFrame({"code": list(codes) * 40})), expected)


@pytest.mark.parametrize("choice", [[0], ["code"], [True, False], np.array([0])], ids=str)
def test_columns_of_numbers_can_be_chosen_as_categories(choice):
    frame = pd.DataFrame({"code": [1, 2, 3] * 40, "fare": COLUMNS["fare"]})
    model = network(categorical_features=choice).fit(frame, y)
    assert model.feature_names_encoded_[:4].tolist() == ["fare", "code_1", "code_2", "code_3"]
    if not isinstance(choice[0], str):
        array = network(categorical_features=choice).fit(frame.to_numpy(), y)
        np.testing.assert_array_equal(array.predict_proba(frame.to_numpy()), model.predict_proba(frame))


@pytest.mark.parametrize("form", [np.asarray, lambda column: pd.DataFrame({"x0": column[:, 0]}), np.ndarray.tolist])
def test_categories_may_be_numbers_of_which_some_are_missing(form):
    # A column of floats has a new NaN each time it is listed, and a dict does not find it again.
    column = np.where(np.arange(N_ROWS) % 4 == 0, np.nan, np.arange(N_ROWS) % 3)[:, np.newaxis]
    model = network(categorical_features=[0]).fit(form(column), y)
    assert model.feature_names_encoded_.tolist() == ["x0_0", "x0_1", "x0_2", "x0_None"]


def test_intervals_of_a_categorical_type_are_categories():
    model = network().fit(pd.DataFrame({"band": pd.cut(pd.Series(COLUMNS["fare"]), 3)}), y)
    assert len(model.feature_names_encoded_) == 3


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.period_range("2020-01-01", periods=N_ROWS), "period"),
        ([datetime.time(9)] * N_ROWS, "time"),
        ([[1, 2]] * N_ROWS, "list"),
        ([{"a": 1}] * N_ROWS, "dict"),
        (np.full(N_ROWS, 1j), "complex128"),
        ([b"text"] * N_ROWS, "bytes"),
        (["text", datetime.date(2020, 1, 1)] * (N_ROWS // 2), "date"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns_of_other_types_are_refused_by_name(values, kind):
    frame = pd.DataFrame({"fare": COLUMNS["fare"], "when": values})
    with pytest.raises(TypeError, match=rf"Column 'when' of X has values of type {kind}.*or leave it out"):
        network().fit(frame, y)
    rows = frame.assign(when=1.0)
    with pytest.raises(TypeError, match=r"Column 'when' of X (has values of type|must hold numbers)"):
        network().fit(rows, y).predict(frame)


def test_polars_columns_of_other_types_are_refused_by_name():
    for dtype in (pl.Time, pl.List(pl.Int64), pl.Struct({"a": pl.Int64}), pl.Binary):
        frame = pl.DataFrame({"fare": COLUMNS["fare"], "when": pl.Series([None] * N_ROWS, dtype=dtype)})
        with pytest.raises(TypeError, match=r"Column 'when' of X has values of type (Time|List|Struct|Binary)"):
            network().fit(frame, y)


def test_text_that_is_no_category_is_refused():
    with pytest.raises(
        TypeError, match=r"'sex' of X must hold numbers .* does not name it, got '(fe)?male'.*name it in"
    ):
        network(categorical_features=None).fit(FRAME[["fare", "sex"]], y)
    model = network().fit(FRAME[["fare"]], y)
    with pytest.raises(TypeError, match=r"'fare' of X must hold numbers or booleans, as in training, got 'much'"):
        model.predict(pd.DataFrame({"fare": ["much"]}))


@pytest.mark.parametrize("choice", [["nobody"], [7], [-1], [0.5], [True], ["x0"], [[0]], [["sex"]]], ids=str)
def test_categories_that_are_not_there_are_refused(choice):
    with pytest.raises(ValueError, match=r"categorical_features must be names of columns of a frame, .* Name columns"):
        network(categorical_features=choice).fit(FRAME, y)


def test_categories_of_sparse_tables_are_refused():
    with pytest.raises(
        ValueError, match=r"categorical_features must be None or 'from_dtype' for a sparse X, got \[0\]"
    ):
        network(categorical_features=[0]).fit(sparse.eye_array(N_ROWS, 3, format="csr"), y)


def test_infinite_numbers_are_refused():
    columns = [{"fare": [np.inf, other] * (N_ROWS // 2)} for other in (np.inf, -np.inf, np.nan)]
    for bad in (FRAME.assign(**column) for column in columns):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            network().fit(bad, y)
        with pytest.raises(ValueError, match="Input X contains infinity"):
            network().fit(FRAME, y).predict(bad)


def test_names_of_columns_are_checked_as_scikit_learn_does():
    model = network().fit(FRAME, y)
    for rows, message in [
        (FRAME[list(COLUMNS)[::-1]], "The feature names should match"),
        (FRAME.drop(columns="age"), "Feature names seen at fit time, yet now missing"),
        (FRAME.assign(more=1), "Feature names unseen at fit time"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.predict(rows)
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        model.predict(FRAME.iloc[:0])
    with pytest.raises(ValueError, match="Found array with 0 sample"):
        network().fit(FRAME.iloc[:0], y[:0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        network().fit(FRAME, y[1:])
    with pytest.raises(ValueError, match="requires y to be passed"):
        network().fit(FRAME, None)


def test_columns_without_any_value_and_of_one_category_do_not_count():
    frame = FRAME[["fare"]].assign(empty=np.nan, nothing=None, same="x")
    with pytest.warns(UserWarning, match=r"'empty' \(no values\), 'nothing' \(no values\)"):
        model = network().fit(frame, y)
    other = frame.assign(empty=5.0)
    np.testing.assert_array_equal(model.predict_proba(frame), model.predict_proba(other))


def test_rows_of_weight_0_are_left_out():
    weights = np.r_[np.ones(N_ROWS), np.zeros(2)]
    more = pd.concat([FRAME, FRAME.iloc[:2].assign(sex="unknown", age=1e6, fare=-1e6)], ignore_index=True)
    model = network().fit(more, np.r_[y, y[:2]], sample_weight=weights)
    np.testing.assert_array_equal(model.predict_proba(FRAME), network().fit(FRAME, y).predict_proba(FRAME))


def test_fused_fits_of_frames_have_the_scores_and_penalties_of_plain_ones():
    validate = partial(cross_validate, cv=3, scoring="neg_log_loss", return_estimator=True, error_score="raise")
    for model in (network(), network(alpha=10.0)):
        plain = validate(model, FRAME, y)
        with fused_fits():
            fused = validate(model, FRAME, y)
        np.testing.assert_allclose(fused["test_score"], plain["test_score"], rtol=1e-4)
        alphas = [[each.alpha_ for each in result["estimator"]] for result in (fused, plain)]
        assert alphas[0] == alphas[1]


def test_validation_frames_are_encoded_as_training():
    model = network(early_stopping=True, scoring="accuracy").fit(FRAME, y, X_val=FRAME, y_val=y)
    assert model.best_validation_score_ == pytest.approx(model.score(FRAME, y))
    with pytest.raises(
        TypeError, match=r"The validation data, X_val and y_val, .*Column 'fare' of X must hold numbers"
    ):
        network().fit(FRAME, y, X_val=FRAME.assign(fare="much"), y_val=y)


@pytest.mark.filterwarnings("ignore:Columns of X have none of the categories")
def test_training_goes_on_with_the_categories_of_the_first_call():
    other = FRAME.assign(sex="unknown", fare=None)
    for model in (network(warm_start=True).fit(FRAME, y), network().partial_fit(FRAME, y, classes=[False, True])):
        names = model.feature_names_encoded_.tolist()
        again = model.fit(other, y) if model.warm_start else model.partial_fit(other, y)
        assert again.feature_names_encoded_.tolist() == names
        assert np.isfinite(again.coefs_[0]).all()


def test_transform_output_set_to_frames_changes_nothing():
    expected = network().fit(FRAME, y).predict_proba(FRAME)
    with sklearn.config_context(transform_output="pandas"):
        np.testing.assert_array_equal(network().fit(FRAME, y).predict_proba(FRAME), expected)
