"""Tables as life makes them: what goes in counts, or is named."""

import pickle
import tracemalloc
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from scratchnn import ScratchNNClassifier, TableEncoder
from scratchnn.tables import transform
from scratchnn.tables.dataframe import RawTable, find_chosen

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
rng = np.random.default_rng(0)
N_ROWS = 120
AGE = rng.normal(40, 12, N_ROWS)
SEX = np.where(rng.random(N_ROWS) < 0.5, "male", "female")
y = (AGE > 40) ^ (SEX == "male")
FRAME = pd.DataFrame({"age": AGE, "sex": SEX})


def network(**changes):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 5, "tol": 0, "random_state": 0, "dtype": "float64"}
    return ScratchNNClassifier(**(settings | changes))


def encode(frame, rows=None, **parameters):
    return TableEncoder(**parameters).fit(frame).transform(frame if rows is None else rows)


MAKERS = {
    "pandas object": lambda values: pd.DataFrame({"a": pd.Series(values, dtype=object)}),
    "pandas string": lambda values: pd.DataFrame({"a": pd.Series(values, dtype="string")}),
    "pandas category": lambda values: pd.DataFrame({"a": pd.Categorical(values)}),
    "polars": lambda values: pl.DataFrame({"a": pl.Series(values, dtype=pl.String)}),
    "polars category": lambda values: pl.DataFrame({"a": pl.Series(values, dtype=pl.Categorical)}),
    "pyarrow": lambda values: pa.table({"a": pa.array(values, pa.string())}),
    "pyarrow dictionary": lambda values: pa.table({"a": pa.array(values, pa.string()).dictionary_encode()}),
    "array": lambda values: np.array(values, object)[:, np.newaxis],
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_text_without_any_value_in_a_fold_is_a_category_all_the_same(make):
    with pytest.warns(UserWarning, match=r"('a'|0) \(no values\)"):
        encoder = TableEncoder().fit(make([None] * 4))
    assert encoder.kinds_[0] in ("text", "category")
    np.testing.assert_array_equal(encoder.transform(make(["x", None, "y", "x"] * 40)), [[0], [1], [0], [0]] * 40)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_categories_are_sorted_text_and_the_rare_and_unknown_ones_share_a_feature(make):
    encoder = TableEncoder().fit(make(["b", "a", None, "b", "c", "a", None]))
    assert [name.split("_")[1] for name in encoder.get_feature_names_out()] == ["a", "b", "None", "infrequent"]
    expected = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    np.testing.assert_array_equal(encoder.transform(make(["a", None, "c", "new"] * 40)), expected * 40)


def test_the_first_part_of_a_stream_may_lack_a_column_but_must_not_be_small():
    first = FRAME.assign(sex=pd.Series([None] * N_ROWS, dtype=object))
    with pytest.warns(UserWarning, match=r"'sex' \(no values\)"):
        model = network().partial_fit(first, y, classes=[False, True])
    with pytest.warns(UserWarning, match="none of the categories that training knows: 'sex'"):
        assert np.isfinite(model.partial_fit(FRAME, y).predict_proba(FRAME)).all()
    with pytest.warns(UserWarning, match=r"first call of partial_fit got 10 samples, .*at least 80 samples first"):
        network().partial_fit(FRAME[:10], y[:10], classes=[False, True])


def test_sparse_frames_count_or_say_what_they_must_not_have():
    dense = pd.DataFrame({"a": np.r_[np.nan, AGE[1:]], "b": AGE * (AGE > 40)})
    with pytest.raises(ValueError, match=r"must not have missing .* if it is sparse.*to_dense"):
        network().fit(dense.astype(pd.SparseDtype(float, 0)), y)
    rows = dense.astype(pd.SparseDtype(float, np.nan))
    expected = network().fit(dense, y).predict_proba(dense)
    np.testing.assert_allclose(network().fit(rows, y).predict_proba(rows), expected, rtol=1e-12)


def test_ids_beyond_the_digits_of_floats_stay_apart():
    ids = [76561198000000000 + k for k in range(16)] * 5
    for frame in (pd.DataFrame({"id": pd.Categorical(ids)}), pl.DataFrame({"id": ids}), np.array(ids)[:, np.newaxis]):
        chosen = "from_dtype" if isinstance(frame, pd.DataFrame) else [0] if isinstance(frame, np.ndarray) else ["id"]
        encoder = TableEncoder(categorical_features=chosen).fit(frame)
        assert encoder.categories_ == [[str(each) for each in ids[:16]]]
        np.testing.assert_array_equal(encoder.transform(frame), np.tile(np.eye(16), (5, 1)))


NUMBERS = {"int": [1, 2], "float": [1.0, 2.0], "numpy": [np.int8(1), np.float32(2)], "bool": [True, 2.0]}
NUMBERS |= {"text": ["1", "2"], "text of floats": ["1.0", "2.0"], "decimal": [Decimal(1), Decimal("2.0")]}


@pytest.mark.parametrize("trained", NUMBERS)
@pytest.mark.parametrize("given", NUMBERS)
def test_numbers_are_categories_by_value_and_text_by_its_letters(trained, given):
    encoder = TableEncoder([0]).fit(pd.DataFrame({"a": pd.Series(NUMBERS[trained] * 2, dtype=object)}))
    rows = encoder.transform(pd.DataFrame({"a": pd.Series(NUMBERS[given], dtype=object)}))
    other_text = trained.startswith("text") and given.startswith("text") and trained != given
    np.testing.assert_array_equal(rows, np.zeros((2, 2)) if other_text else np.eye(2))
    if given in ("int", "float", "text", "text of floats"):
        np.testing.assert_array_equal(encoder.transform(pl.DataFrame({"a": NUMBERS[given]})), rows)


AMOUNTS = [f"{k}.5" for k in range(N_ROWS)]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([*AMOUNTS[1:], " "], "reads as numbers in 119 of 120 rows"),
        ([f"2024-01-{1 + k % 28:02}" for k in range(N_ROWS)], "reads as dates in 120 of 120 rows"),
        ([f"{1 + k % 28}/3/2024 12:00" for k in range(N_ROWS)], "reads as dates in 120 of 120 rows"),
        ([f"id {k}" for k in range(N_ROWS)], "all values different: counts for nothing"),
        ([f"{max(k, 40) / 8}".replace(".", ",") for k in range(N_ROWS)], "79 of 120 values are infrequent"),
    ],
)
@pytest.mark.parametrize("library", [pd, pl])
def test_text_that_is_no_category_is_named_with_what_it_looks_like(values, problem, library):
    frame = library.DataFrame({"age": AGE, "total": values, "code": ["a", "b"] * 60, "other": AMOUNTS})
    with pytest.warns(UserWarning, match=rf"'total' \({problem}\), 'other' \(reads as numbers.*to_numeric"):
        network().fit(frame, y)


@pytest.mark.parametrize("values", [" male", "Male", 1, None])
def test_a_column_without_any_known_category_is_named_at_prediction(values):
    """Spaces, upper case, or codes instead of text."""
    model = network().fit(FRAME, y)
    with pytest.warns(UserWarning, match="none of the categories that training knows: 'sex'. Compare"):
        model.predict(FRAME.assign(sex=values))
    model.predict(pd.concat([FRAME[:1], FRAME[1:].assign(sex=values)]))
    model.predict(FRAME[:49].assign(sex=values))


def test_text_of_an_array_is_named_by_its_index_and_chosen_categories_are_not():
    table = np.column_stack([AGE.round(), SEX])
    with pytest.warns(UserWarning, match=r"Columns of X count for little or nothing: 0 \(reads as numbers in 120"):
        network().fit(table, y)
    network(categorical_features=[0, 1]).fit(table, y)
    network().fit(pd.DataFrame(table).astype("category"), y)


MOMENTS = [datetime(2023, 12, 31, 23) + timedelta(hours=7 * k) for k in range(10)]
SERIES = pd.Series(MOMENTS)
ZONED, ARROW = SERIES.dt.tz_localize("UTC"), SERIES.astype("timestamp[us][pyarrow]")
DATES = [each.to_frame("when") for each in (SERIES, ZONED, ARROW)]
DATES += [pl.DataFrame({"when": MOMENTS}), pl.from_pandas(DATES[1]), pa.table({"when": MOMENTS})]
DATES += [DATES[0].astype(object)]


@pytest.mark.parametrize("frame", DATES, ids=["pandas", "zone", "arrow", "polars", "polars zone", "pyarrow", "objects"])
def test_dates_become_seconds_and_the_parts_that_vary(frame):
    encoder = TableEncoder().fit(frame)
    names = ["when", "when_year", "when_month", "when_day_of_week", "when_hour"]
    assert encoder.get_feature_names_out().tolist() == names
    expected = [
        [(each - datetime(1970, 1, 1)).total_seconds(), each.year, each.month, each.weekday(), each.hour]
        for each in MOMENTS
    ]
    np.testing.assert_array_equal(encoder.transform(frame), expected)


def test_parts_of_dates_are_those_of_their_time_zone():
    frame = pd.DataFrame({"when": pd.to_datetime(MOMENTS).tz_localize("UTC").tz_convert("Asia/Tokyo")})
    for rows in (frame, pl.from_pandas(frame)):
        encoded = encode(rows)
        assert encoded[:2].tolist() == [[1704063600, 0, 8], [1704088800, 0, 15]]  # Monday, the first of January


def test_dates_without_hours_durations_and_missing_ones():
    days = [date(2024, 2, 1), date(2024, 2, 29), None]
    waits = [timedelta(days=1), timedelta(milliseconds=1500), None]
    for frame in (
        pl.DataFrame({"day": days, "wait": waits}),
        pd.DataFrame({"day": pd.to_datetime(pd.Series(days)), "wait": pd.to_timedelta(pd.Series(waits))}),
        pd.DataFrame({"day": days, "wait": waits}, dtype=object),
        pd.DataFrame({"day": pd.array(days, "date32[pyarrow]"), "wait": pd.array(waits, "duration[us][pyarrow]")}),
    ):
        encoder = TableEncoder().fit(frame)
        names = ["day", "wait", "missingindicator_day", "missingindicator_wait"]
        assert encoder.get_feature_names_out().tolist() == names  # both days are Thursdays in February
        first, second = 1706745600, 1709164800
        expected = [[first, 86400, 0, 0], [second, 1.5, 0, 0], [(first + second) / 2, 43200.75, 1, 1]]
        np.testing.assert_array_equal(encoder.transform(frame), expected)
        np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"day": [None], "wait": [None]})), expected[2:])
    with pytest.raises(TypeError, match=r"Column 'day' of X must hold dates, as in training, got dtype .*to_datetime"):
        encoder.transform(pd.DataFrame({"day": ["2024-02-01"], "wait": [None]}))
    for mixed in ("2024-02-01", datetime(2024, 2, 1, tzinfo=timezone.utc)):
        with pytest.raises(TypeError, match=r"Column 'day' of X has values of type date.* time zone by pandas.to_date"):
            TableEncoder().fit(pd.DataFrame({"day": [*days, mixed]}, dtype=object))
    assert encode(np.array([["2024-02-01"], ["2024-02-02"]], "M8[s]"))[:, 0].tolist() == [first, first + 86400]


def test_a_network_learns_from_dates():
    when = pd.date_range("2024-01-01", periods=700, freq="D")
    weekend = when.day_of_week >= 5
    model = network(max_iter=30).fit(pd.DataFrame({"when": when[:500]}), weekend[:500])
    assert model.score(pd.DataFrame({"when": when[500:]}), weekend[500:]) > 0.95


@pytest.mark.parametrize("other", [{}, {"sex": SEX}])
def test_infinite_and_huge_values_are_named_by_their_columns(other):
    for library in (pd, pl):
        frame = library.DataFrame({"first": AGE, "age": np.r_[[np.inf, -np.inf], AGE[2:]], **other})
        with pytest.raises(ValueError, match=r"Input X contains infinity .*: 2 in column 'age'\. Make"):
            network().fit(frame, y)
        frame = library.DataFrame({"first": AGE, "age": np.r_[1e150, AGE[1:]], **other})
        with pytest.raises(ValueError, match=r"no values beyond 1e\+100 .* in column 'age'"):
            network().fit(frame, y)


def test_all_columns_of_other_values_are_named_at_once():
    frame = FRAME.assign(pair=[(1, [2])] * N_ROWS, odd=[Decimal("sNaN")] * N_ROWS, z=1j)
    with pytest.raises(TypeError, match=r"'pair', 'odd', 'z' of X have values of type tuple, Decimal, complex128"):
        network().fit(frame, y)
    with pytest.raises(TypeError, match=r"^Column 'sex' of X has values of type tuple"):
        network().fit(FRAME, y).predict(FRAME.assign(sex=frame["pair"]))


def test_frames_of_pyarrow_count_and_lazy_ones_say_what_to_call():
    table = pa.Table.from_pandas(FRAME)
    model = network().fit(table, y)
    np.testing.assert_array_equal(model.predict_proba(table), network().fit(FRAME, y).predict_proba(FRAME))
    with pytest.raises(TypeError, match=r"got a lazy polars frame\. Call \.collect\(\)"):
        network().fit(pl.DataFrame({"a": AGE}).lazy(), y)
    dask = pytest.importorskip("dask.dataframe")
    with pytest.raises(TypeError, match=r"got a lazy dask frame\. Call \.compute\(\)"):
        network().fit(dask.from_pandas(FRAME, npartitions=2), y)


def make_codes(n_rows, n_columns, n_codes=150):
    return pd.DataFrame(rng.integers(0, n_codes, (n_rows, n_columns))).add_prefix("c").astype("category")


def test_categories_are_encoded_for_each_minibatch_in_little_memory(monkeypatch):
    frame = make_codes(40_000, 10)
    labels = np.arange(len(frame)) % 2
    network(max_iter=1, dtype="float32").fit(frame[:300], labels[:300])
    monkeypatch.setattr(transform, "MAX_DENSE_VALUES", 0)
    tracemalloc.start()
    network(max_iter=1, dtype="float32", alpha=1.0).fit(frame, labels).predict_proba(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * frame.size + 4 * 2**21  # blocks in double precision


def test_a_minibatch_is_encoded_as_the_whole_table(monkeypatch):
    frame = pd.concat([FRAME, make_codes(N_ROWS, 2, 5)], axis=1)
    whole = network().fit(frame, y)
    monkeypatch.setattr(transform, "MAX_DENSE_VALUES", 0)
    parts = network().fit(frame, y)
    np.testing.assert_allclose(parts.predict_proba(frame), whole.predict_proba(frame), rtol=1e-9)


def test_text_where_numbers_must_be_has_two_messages():
    with pytest.raises(TypeError, match=r"'sex' .* as categorical_features does not name it, got '(fe)?male'"):
        network(categorical_features=None).fit(FRAME, y)
    model = network().fit(pd.DataFrame({"alone": y, "age": AGE}), y)
    with pytest.raises(TypeError, match=r"'alone' of X must hold numbers or booleans, as in training, got 'true'"):
        model.predict(pd.DataFrame({"alone": ["true"], "age": [1.0]}))


@pytest.mark.filterwarnings("ignore:Columns of X have none of the categories")
def test_unknown_categories_count_as_infrequent_ones_where_rarity_matters():
    domains = [f"site {k}" if k % 2 else "common" for k in range(400)]
    labels = np.arange(400) % 2
    model = network(max_iter=30).fit(pd.DataFrame({"domain": domains}), labels)
    for library in (pd, pl):
        rows = library.DataFrame({"domain": [f"new {each}" for each in domains[1::2]]})
        assert model.score(rows, labels[1::2]) > 0.95


def test_files_hold_only_the_categories_that_have_a_feature():
    notes = [f"a note about patient {k}" if k % 2 else "none" for k in range(N_ROWS)]
    model = network().fit(FRAME.assign(note=notes), y)
    stored = pickle.dumps(model)
    assert (b"none" in stored, b"patient" in stored) == (True, False)


def test_many_names_of_categories_are_found():
    frame = pd.DataFrame(np.ones((4, 20_000)), columns=[f"column {k}" for k in range(20_000)])
    is_chosen = find_chosen(list(frame.columns[1:]), RawTable(frame))
    assert is_chosen.tolist() == [False, *[True] * 19_999]


def test_the_encoder_in_a_pipeline_gives_what_the_network_encodes():
    frame = FRAME.assign(age=FRAME["age"].mask(AGE < 30), when=pd.date_range("2024", periods=N_ROWS))
    plain = network(numeric_encoding=None)  # bins leave out filled values, which only the network's own encoder knows
    model = make_pipeline(TableEncoder(), clone(plain)).fit(frame, y)
    np.testing.assert_allclose(model.predict_proba(frame), plain.fit(frame, y).predict_proba(frame))
    names = TableEncoder().set_output(transform="pandas").fit_transform(frame).columns.tolist()
    assert names == network().fit(frame, y).feature_names_encoded_.tolist()[: len(names)]


def test_categories_without_scaling_train_as_one_hot_columns():
    frame = pd.DataFrame({"c": ["u", "v", "w"] * 8})
    labels = [0, 1, 1] * 8
    params = {"standardize": False, "numeric_encoding": None, "dtype": "float64", "alpha": 0.1}
    by_hand = network(**params).fit(pd.get_dummies(frame["c"]).to_numpy(float), labels)
    np.testing.assert_array_equal(network(**params).fit(frame, labels).coefs_[0], by_hand.coefs_[0])


def test_large_whole_numbers_train_alike_in_all_frames():
    data = {"id": [2**60 + 10**6 * k for k in range(20)], "flag": [None, True] * 10}
    frames = [pd.DataFrame(data).astype({"flag": "boolean"}), pl.DataFrame(data), pa.table(data)]
    coefs = [network().fit(frame, [0, 1] * 10).coefs_[0] for frame in frames]
    np.testing.assert_array_equal(coefs, coefs[:1] * 3)


REPEATED = np.eye(4)[:3]


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(REPEATED.T, columns=list("aba")), pa.table(list(REPEATED), list("aba"))]
)
def test_columns_of_one_name_are_refused_by_that_name(frame):
    with pytest.raises(ValueError, match=r"X must have columns of different names, got 'a' more than once. Rename"):
        network().fit(frame, [0, 1, 0, 1])


def test_a_sparse_table_where_training_had_categories_is_refused():
    model = network().fit(FRAME, y)
    with pytest.raises(ValueError, match=r"X must be dense, as in training.*toarray"):
        model.predict(sparse.csr_array((1, FRAME.shape[1])))


def test_what_fills_missing_values_leaves_the_split_to_early_stopping_alone():
    """Repeated rows have another mean than weighted ones, in the last bits, and the split hashes filled values."""
    rng = np.random.default_rng(0)
    X = np.where(rng.random((130, 3)) < 0.3, np.nan, rng.normal(size=(130, 3)))
    labels, weights = np.arange(130) % 2, rng.integers(1, 4, 130)
    params = {"hidden_layer_sizes": (), "early_stopping": True, "batch_size": "full"}
    frame = pd.DataFrame(X).add_prefix("x").astype("Float64")
    in_frame = network(**params).fit(frame, labels)
    np.testing.assert_array_equal(in_frame.predict_proba(frame), network(**params).fit(X, labels).predict_proba(X))
    weighted = network(**params).fit(X, labels, weights)
    repeated = network(**params).fit(np.repeat(X, weights, 0), np.repeat(labels, weights))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9)
