"""What joblib, pickle and skops store of a model, and who can read it."""

import copy
import io
import json
import pickle
import re
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from helpers import ROOT, assert_same_fit, make_network, run_python
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scratchnn
from scratchnn import _compat
from scratchnn.exceptions import InconsistentVersionWarning

X, y = load_iris(return_X_y=True)
KEPT = sorted((ROOT / "tests" / "files").glob("scratchnn-*.json"))
# All types that a model may hold and skops does not trust by itself. docs/more/security.rst lists them for users.
TYPES = [
    "scratchnn.classifier.ScratchNNClassifier",
    "scratchnn.estimator.warm_start.WarmStartState",
    "scratchnn.tables.encoder.ColumnEncoder",
    "scratchnn.tables.statistics.Moments",
    "scratchnn.training.run.History",
]
STATE = {TYPES[1], TYPES[4]}  # to go on from
# Those that a model may hold, by its name in MODELS.
TYPES_OF = {"plain": set(), "warm": STATE, "parts": {*STATE, TYPES[3]}, "mixed": {TYPES[2]}}


def make_mixed_table():
    """Return iris with a column of text and missing values."""
    table = X.astype(object)
    table[:, 0] = np.where(X[:, 0] > 6, "long", "short")
    table[3, 1] = np.nan
    return table


def fit_models():
    """Return fitted models that together have every attribute that fits set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = {
            "plain": make_network().fit(X, y),
            "warm": make_network(warm_start=True, early_stopping=True, scoring="accuracy").fit(X, y),
            "parts": make_network().partial_fit(X, y, classes=[0, 1, 2]),
            "mixed": make_network().fit(make_mixed_table(), y),
        }
    for name, model in models.items():
        model.predict(make_mixed_table() if name == "mixed" else X)  # which prepares tensors
    return models


MODELS = fit_models()

READ = """
import joblib, pickle, warnings
import numpy as np
warnings.simplefilter("error")
models = [joblib.load("model.joblib"), pickle.load(open("model.pickle", "rb"))]
X, y = np.load("X.npy"), np.load("y.npy")
for number, model in enumerate(models):
    np.save(f"{number}.npy", model.predict_proba(X))
    model.partial_fit(X, y)
    np.save(f"{number}-further.npy", model.predict_proba(X))
"""


def test_another_process_reads_a_model_and_trains_it_further(tmp_path):
    model = copy.deepcopy(MODELS["parts"])
    joblib.dump(model, tmp_path / "model.joblib")
    with open(tmp_path / "model.pickle", "wb") as file:
        pickle.dump(model, file)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    run_python(READ, cwd=tmp_path)
    before = model.predict_proba(X)
    after = model.partial_fit(X, y).predict_proba(X)
    assert np.abs(after - before).max() > 0
    for number in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{number}.npy"), before)
        np.testing.assert_array_equal(np.load(tmp_path / f"{number}-further.npy"), after)


def dump_with_version(model, version, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_compat, "__version__", version)
        return pickle.dumps(model)


@pytest.mark.parametrize("name", ["plain", "parts", "mixed"])
def test_a_file_of_another_version_brings_one_warning_that_names_both(name, monkeypatch):
    pipeline = make_pipeline(StandardScaler(), MODELS[name])
    stored = dump_with_version(pipeline, "0.0.7", monkeypatch)
    with pytest.warns(InconsistentVersionWarning) as warned:
        loaded = pickle.loads(stored)
    assert len(warned) == 1
    message = (
        f"This ScratchNNClassifier was saved by scratchnn 0.0.7, and is loaded by scratchnn {scratchnn.__version__}: "
    )
    assert str(warned[0].message).startswith(message)
    assert_same_fit(loaded[-1], MODELS[name])
    pickle.loads(pickle.dumps(loaded))  # saved again, it warns no more


def test_a_file_without_a_version_warns():
    model = copy.copy(MODELS["plain"])
    with pytest.warns(InconsistentVersionWarning, match="by scratchnn of an unknown version"):
        model.__setstate__(vars(MODELS["plain"]))
    np.testing.assert_array_equal(model.predict(X), MODELS["plain"].predict(X))


def test_copies_and_files_of_this_version_do_not_warn_and_hold_no_other_attributes():
    for model in MODELS.values():
        for twin in [copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))]:
            assert vars(twin).keys() == vars(model).keys()
            assert not twin._cache
        assert not hasattr(clone(model), "coefs_")


class NotingUnpickler(pickle.Unpickler):
    """Notes what a file needs to import."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.names = set()

    def find_class(self, module, name):
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize("name", MODELS)
def test_files_need_nothing_of_torch(name):
    """So a model trained on CUDA is loaded where there is none, and PyTorch's versions do not matter."""
    unpickler = NotingUnpickler(pickle.dumps(MODELS[name]))
    unpickler.load()
    modules = {entry.split(".")[0] for entry in unpickler.names}
    assert "scratchnn" in modules
    assert modules <= {"scratchnn", "sklearn", "numpy", "builtins", "_codecs", "copyreg"}
    ours = {entry for entry in unpickler.names if entry.startswith("scratchnn")}
    assert ours == {TYPES[0], *TYPES_OF[name]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_model_trained_on_cuda_predicts_where_there_is_none(device):
    loaded = pickle.loads(pickle.dumps(copy.copy(MODELS["plain"]).set_params(device=device)))
    for method in ["predict", "predict_proba", "predict_log_proba", "decision_function"]:
        with pytest.warns(UserWarning, match=r"device='cuda.*' is missing, .* on the CPU. Call set_params"):
            values = getattr(loaded, method)(X)
        np.testing.assert_array_equal(values, getattr(MODELS["plain"], method)(X))
    loaded.set_params(device="auto").predict(X)
    with pytest.raises(ValueError, match="device must be available"):
        loaded.set_params(device=device).fit(X, y)


@pytest.mark.parametrize("name", MODELS)
def test_skops_asks_to_trust_no_other_types_than_documented(name):
    skops_io = pytest.importorskip("skops.io")
    data = skops_io.dumps(MODELS[name])
    untrusted = skops_io.get_untrusted_types(data=data)
    assert set(untrusted) == {TYPES[0], *TYPES_OF[name]}
    loaded = skops_io.loads(data, trusted=untrusted)
    table = make_mixed_table() if name == "mixed" else X
    np.testing.assert_array_equal(loaded.predict_proba(table), MODELS[name].predict_proba(table))
    if name in ("parts", "warm"):
        twin = copy.deepcopy(MODELS[name])
        method = "partial_fit" if name == "parts" else "fit"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_same_fit(getattr(loaded, method)(X, y), getattr(twin, method)(X, y))


def test_the_types_to_trust_are_documented():
    text = (ROOT / "docs" / "more" / "security.rst").read_text()
    assert sorted(set(re.findall(r'"((?:numpy|scratchnn)\.\S+)"', text))) == TYPES


def load_kept(path, suffix):
    """Return the model of a kept file. Those of other versions warn."""
    path = path.with_suffix(suffix)
    version = path.stem.removeprefix("scratchnn-")

    def load():
        if suffix == ".joblib":
            return joblib.load(path)
        skops_io = pytest.importorskip("skops.io")
        return skops_io.load(path, trusted=skops_io.get_untrusted_types(file=path))

    if version == scratchnn.__version__:
        return load()
    with pytest.warns(InconsistentVersionWarning, match=re.escape(f"saved by scratchnn {version}, and is loaded")):
        return load()


@pytest.mark.parametrize("suffix", [".joblib", ".skops"])
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_files_of_every_version_are_loaded_and_train_further(path, suffix):
    model = load_kept(path, suffix)
    expected = json.loads(path.read_text())["predict_proba"]
    np.testing.assert_allclose(model.predict_proba(X[::15]), expected, rtol=1e-4)
    model.partial_fit(X, load_iris().target_names[y])
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_file_of_this_version_is_kept():
    assert Path(f"scratchnn-{scratchnn.__version__}") in [Path(path.stem) for path in KEPT]
