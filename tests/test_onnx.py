"""ONNX models of fitted networks: onnxruntime predicts what they predict."""

import importlib
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, TARGETS, find_code_blocks, make_network, make_table
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from scratchnn import TableEncoder
from scratchnn.activations import ACTIVATIONS

skl2onnx = pytest.importorskip("skl2onnx", reason="needs skl2onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: E402

import scratchnn.onnx  # noqa: E402, F401

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PLAIN = {"zipmap": False}  # probabilities as an array


network = partial(make_network, numeric_encoding=None)


def convert(model, X, options=PLAIN, **arguments):
    return skl2onnx.to_onnx(model, X, options={id(get_network(model)): options}, **arguments)


def get_network(model):
    return model[-1] if hasattr(model, "steps") else model


def make_session(onnx_model):
    return onnxruntime.InferenceSession(onnx_model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(onnx_model, X):
    """Return what onnxruntime makes of a table, or of the columns of a frame."""
    session = make_session(onnx_model)
    tables = [X] if isinstance(X, np.ndarray) else [X[[name]].to_numpy() for name in X]
    feed = {each.name: table for each, table in zip(session.get_inputs(), tables, strict=True)}
    return session.run(None, feed)


def assert_agree(model, X, initial_types=None, atol=1e-5):
    """Check that onnxruntime returns the labels and the probabilities of a fitted model."""
    onnx_model = convert(model, X[:1] if initial_types is None else None, initial_types=initial_types)
    labels, probabilities = run(onnx_model, X)
    assert labels.tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(probabilities, model.predict_proba(X), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(), (5, 4)])
@pytest.mark.parametrize("target", TARGETS)
def test_targets_and_depths(problems, target, sizes, dtype):
    X, y = problems[target]
    assert_agree(network(hidden_layer_sizes=sizes).fit(X, y), X.astype(dtype))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(iris, activation, precision):
    X, y = iris
    fitted = network(activation=activation, dtype=precision, hidden_layer_sizes=(5, 4)).fit(X, y)
    assert_agree(fitted, X.astype(np.float32))


@pytest.mark.parametrize("standardize", [True, False])
def test_bins_beside_columns_without_and_outliers(standardize):
    X, y = make_table(120, 4)
    X[:, 1] = X[:, 1] > 0  # two values: no bins
    fitted = network(numeric_encoding="piecewise", standardize=standardize).fit(X, y)
    assert np.isnan(fitted.bin_edges_).any(1).tolist() == [False, True, False, False]
    X[0] = [1e6, 1, -1e6, 40]
    assert_agree(fitted, X)
    assert_agree(fitted, X.astype(np.float32))


def test_bins_in_all_columns_and_a_constant_column():
    X, y = make_table(120, 2)
    assert_agree(network(numeric_encoding="piecewise").fit(X, y), X)
    X[:, 1] = 3
    assert_agree(network(numeric_encoding="piecewise").fit(X, y), X)


def test_scaling_in_double_precision_keeps_what_timestamps_differ_by():
    X, y = make_table(60, 2)
    X[:, 0] += 1.7e9
    fitted = network(max_iter=20).fit(X, y)
    assert_agree(fitted, X)
    rounded = X.astype(np.float32)
    assert_agree(fitted, rounded)  # which both round in the same way
    assert np.abs(fitted.predict_proba(rounded) - fitted.predict_proba(X)).max() > 1e-2


def test_missing_numbers_are_filled_and_marked():
    X, y = make_table(80, 3)
    X[::7, 1] = np.nan
    fitted = network().fit(X, y)
    assert fitted.encoder_ is not None
    X[::5, 0] = np.nan  # which training had not
    assert_agree(fitted, X)
    assert_agree(fitted, X.astype(np.float32))


@pytest.mark.parametrize("standardize", [True, False])
def test_missing_numbers_that_training_had_not_are_filled(standardize):
    X, y = make_table(80, 3)
    fitted = network(standardize=standardize).fit(X + 2, y)
    assert fitted.encoder_ is None
    X[::5, 0] = np.nan
    assert_agree(fitted, X + 2)


def make_frame(n_rows=90):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(n_rows) < 0.2, np.nan, rng.normal(30, 12, n_rows)),
            "sex": rng.choice(["male", "female"], n_rows).astype(object),
            "siblings": rng.integers(0, 4, n_rows),
            "alone": rng.random(n_rows) < 0.6,
            "port": rng.choice(np.array(["S", "C", "Q", None], object), n_rows),
        }
    )
    frame.loc[3, "port"] = "rare"
    frame.loc[4, "port"] = "seldom"
    return frame, np.where((frame["sex"] == "female") ^ frame["alone"], "yes", "no")


def test_frames_with_categories_missing_values_and_bins():
    frame, y = make_frame()
    fitted = network(numeric_encoding="auto").fit(frame, y)
    assert {"port_None", "port_infrequent_sklearn", "missingindicator_age"} <= set(fitted.feature_names_encoded_)
    frame.loc[0, ["sex", "port"]] = ["neither", "unheard of"]
    frame.loc[1, "sex"] = None
    assert_agree(fitted, frame)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, ""])
def test_missing_text_in_every_spelling_is_the_category_of_missing_values(missing):
    frame, y = make_frame()
    fitted = network().fit(frame, y)
    row = frame[:1].assign(port=pd.Series([None], dtype=object))
    _, probabilities = run(convert(fitted, row), row.assign(port=pd.Series([missing], dtype=object)))
    np.testing.assert_allclose(probabilities, fitted.predict_proba(row), atol=1e-5)


def test_a_category_that_reads_as_a_missing_value_is_refused_beside_missing_values():
    frame, y = make_frame()
    frame["port"] = frame["port"].replace("Q", "None")
    with pytest.raises(
        ValueError, match="Column 'port' of X must not have both missing values and the category 'None'"
    ):
        convert(network().fit(frame, y), frame[:1])
    frame["port"] = frame["port"].replace("None", "")  # the empty text may be a category
    assert_agree(network().fit(frame, y), frame)


def test_one_input_may_hold_several_columns():
    frame, y = make_frame()
    frame = frame[["age", "siblings", "sex", "port"]]
    fitted = network().fit(frame, y)
    initial_types = [("numbers", FloatTensorType([None, 2])), ("text", StringTensorType([None, 2]))]
    session = make_session(convert(fitted, None, initial_types=initial_types))
    feed = {"numbers": frame[["age", "siblings"]].to_numpy(np.float32), "text": frame[["sex", "port"]].to_numpy(object)}
    np.testing.assert_allclose(session.run(None, feed)[1], fitted.predict_proba(frame), atol=1e-5)


def test_categories_of_numbers():
    frame, y = make_frame()
    frame["age"] = frame["age"].round(-1)
    fitted = network(categorical_features=["age", "siblings", "alone"]).fit(frame.drop(columns=["sex", "port"]), y)
    frame.loc[0, ["age", "siblings"]] = [35.5, 17]  # unknown ones
    assert_agree(fitted, frame.drop(columns=["sex", "port"]))


def test_arrays_of_text(iris):
    X = np.array([["a", "x"], ["b", "y"], ["a", "y"], ["b", "x"]] * 5, object)
    assert_agree(network().fit(X, X[:, 0] == "a"), X)


def test_rows_far_from_training_have_finite_probabilities():
    X, y = make_table(60, 2)
    fitted = network().fit(X, y)
    X[:3] = [[1e30, 0], [-1e200, 1], [0, 1e300]]
    assert_agree(fitted, X)


@pytest.mark.parametrize("target_opset", [12, {"": 18, "ai.onnx.ml": 2}])
def test_older_operator_sets(target_opset):
    frame, y = make_frame()
    fitted = network(numeric_encoding="auto", activation="gelu").fit(frame, y)
    _, probabilities = run(convert(fitted, frame[:1], target_opset=target_opset), frame)
    np.testing.assert_allclose(probabilities, fitted.predict_proba(frame), atol=1e-5)


def test_columns_that_were_sparse_in_training():
    X, y = make_table(60, 4)
    X[:, :2] *= X[:, :2] > 0.5
    fitted = network().fit(sparse.csr_array(X), y)
    assert_agree(fitted, X)


def test_pipelines(cancer):
    X, y = cancer
    assert_agree(make_pipeline(StandardScaler(), network(standardize=False)).fit(X, y), X)
    assert_agree(make_pipeline(StandardScaler(), network()).fit(X, y), X.astype(np.float32))


def test_a_column_transformer_before_the_network():
    frame, y = make_frame()
    frame = frame[["sex", "siblings", "age"]].fillna(0)
    columns = make_column_transformer((OneHotEncoder(sparse_output=False), ["sex"]), (StandardScaler(), ["age"]))
    assert_agree(make_pipeline(columns, network()).fit(frame, y), frame)


def test_in_searches_and_calibration(cancer):
    X, y = cancer[0][:100].astype(np.float32), cancer[1][:100]
    for model in (GridSearchCV(network(), {"alpha": [0.1]}, cv=2), CalibratedClassifierCV(network(), cv=2)):
        model.fit(X, y)
        labels, probabilities = run(skl2onnx.to_onnx(model, X[:1], options={"zipmap": False}), X)
        np.testing.assert_array_equal(labels, model.predict(X))
        np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-5)


def test_options_are_those_of_scikit_learns_classifiers(problems):
    X, y = problems["binary"][0].astype(np.float32), problems["binary"][1]
    fitted = network().fit(X, y)
    expected = fitted.predict_proba(X)
    _, *columns = run(convert(fitted, X[:1], {"zipmap": "columns"}), X)
    np.testing.assert_allclose(np.transpose(columns), expected, atol=1e-5)
    codes, _ = run(convert(fitted, X[:1], {"nocl": True, "zipmap": False}), X)
    np.testing.assert_array_equal(fitted.classes_[codes], fitted.predict(X))
    *_, classes = run(convert(fitted, X[:1], {"output_class_labels": True, "zipmap": False}), X)
    assert classes.tolist() == ["no", "yes"]
    _, scores = run(convert(fitted, X[:1], {"raw_scores": True, "zipmap": False}), X)
    logits = fitted.decision_function(X)
    np.testing.assert_allclose(scores, np.stack([-logits, logits], 1), atol=1e-5)


@pytest.mark.parametrize("target", ["multiclass", "multilabel"])
def test_raw_scores_are_those_of_the_decision_function(problems, target):
    X, y = problems[target]
    fitted = network().fit(X, y)
    _, scores = run(convert(fitted, X[:1], {"raw_scores": True, "zipmap": False}), X)
    np.testing.assert_allclose(scores, fitted.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_by_default_there_is_a_dict_for_each_row_whatever_the_input(problems, target):
    X, y = problems[target]
    fitted = network().fit(X, y)
    for dtype in (np.float32, np.float64):
        labels, maps = run(skl2onnx.to_onnx(fitted, X[:1].astype(dtype)), X.astype(dtype))
        assert labels.tolist() == fitted.predict(X).tolist()
        probabilities = [[each[label] for label in fitted.classes_.tolist()] for each in maps]
        np.testing.assert_allclose(probabilities, fitted.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("labels", [[3.0, 7.0], [False, True], [-2, 5]])
def test_labels_that_are_whole_numbers(labels):
    X, y = make_table(40, 2)
    assert_agree(network().fit(X, np.array(labels)[y]), X)


def test_columns_of_another_type_than_in_training_are_named():
    frame, y = make_frame()
    fitted = network().fit(frame, y)
    with pytest.raises(TypeError, match=r"Column 'siblings' of X must be an ONNX input of numbers.*got text"):
        convert(fitted, frame[:1].astype({"siblings": object}))
    with pytest.raises(TypeError, match=r"Column 'port' of X must be an ONNX input of text.*got numbers"):
        convert(fitted, frame[:1].assign(port=1.0))
    with pytest.raises(ValueError, match="must have the order of the columns in training"):
        convert(fitted, frame[:1][["sex", "age", "siblings", "alone", "port"]])
    for widths in ([4], [None, 1]):
        types = [(f"input{width}", StringTensorType([None, width])) for width in widths]
        with pytest.raises(ValueError, match="must have the 5 columns of X"):
            convert(fitted, None, initial_types=types)


def test_an_unfitted_network_is_refused(iris):
    with pytest.raises(ValueError, match="is not fitted yet"):
        convert(network(), iris[0][:1])


def test_without_skl2onnx_the_message_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "scratchnn.onnx")
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(
        ImportError, match=r"scratchnn\.onnx needs skl2onnx, which cannot be imported .*\. Install it: pip install"
    ):
        importlib.import_module("scratchnn.onnx")


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    blocks = find_code_blocks((ROOT / "docs" / "guide" / "onnx.rst").read_text())
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for _, code in blocks:
        exec(compile(code, "onnx.rst", "exec"), namespace)
    assert (tmp_path / "model.onnx").exists()
    expected = namespace["network"].predict_proba(namespace["table"])
    np.testing.assert_allclose(namespace["probabilities"], expected, atol=1e-5)


def test_unknown_categories_count_as_infrequent_ones():
    frame, y = make_frame()
    fitted = network().fit(frame, y)
    row = frame[:1].assign(port="unheard of")
    _, probabilities = run(convert(fitted, row), row)
    np.testing.assert_allclose(
        probabilities, fitted.predict_proba(frame[3:4].assign(**row.drop(columns="port").iloc[0]))
    )


def test_the_encoder_alone_and_in_a_pipeline():
    frame, y = make_frame()
    frame.loc[0, ["sex", "port"]] = ["neither", "unheard of"]
    encoder = TableEncoder().fit(frame)
    (encoded,) = run(skl2onnx.to_onnx(encoder, frame[:1]), frame)
    np.testing.assert_array_equal(encoded, encoder.transform(frame))
    assert_agree(make_pipeline(TableEncoder(), network()).fit(frame, y), frame)
    whole = pd.DataFrame({"id": pd.Categorical([2**53 + k for k in range(4)] * 3)})
    encoder = TableEncoder().fit(whole)
    (encoded,) = run(skl2onnx.to_onnx(encoder, whole[:1].astype("int64")), whole.astype("int64"))
    np.testing.assert_array_equal(encoded, encoder.transform(whole))


def test_dates_are_refused_by_name():
    frame, y = make_frame()
    fitted = network().fit(frame.assign(when=pd.date_range("2024", periods=len(frame))), y)
    with pytest.raises(TypeError, match="Column 'when' of X must hold numbers or text in ONNX, which has no dates"):
        convert(fitted, None, initial_types=[("when", FloatTensorType([None, 6]))])
