"""What predictions prepare is kept between calls, and never stale."""

import copy
import pickle

import numpy as np
import pytest
from helpers import make_table

from scratchnn import ScratchNNClassifier
from scratchnn.estimator import prepared

X, y = make_table(200, 5)


@pytest.fixture
def classifier():
    model = ScratchNNClassifier((6,), max_iter=3, tol=0, n_iter_no_change=np.inf, random_state=0).fit(X, y)
    model.predict_proba(X)
    return model


def count_preparations(monkeypatch, action):
    calls = []
    original = prepared.Prepared.__init__
    monkeypatch.setattr(prepared.Prepared, "__init__", lambda *args: (calls.append(1), original(*args))[1])
    action()
    return len(calls)


def test_the_network_is_prepared_once(classifier, monkeypatch):
    def predict():
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            getattr(classifier, method)(X[:3])

    assert count_preparations(monkeypatch, predict) == 0


CHANGES = {
    "first weight": lambda model: model.coefs_[0].__imul__(-2),
    "last weight": lambda model: model.coefs_[-1].__imul__(-2),
    "first bias": lambda model: model.intercepts_[0].__iadd__(1),
    "last bias": lambda model: model.intercepts_[-1].__iadd__(1),
    "mean": lambda model: model.mean_.__iadd__(1),
    "scale": lambda model: model.scale_.__imul__(3),
    "edges": lambda model: model.bin_edges_.__iadd__(0.5),
    "new weight": lambda model: model.coefs_.__setitem__(0, -model.coefs_[0]),
    "lists": lambda model: setattr(model, "coefs_", [(-each).tolist() for each in model.coefs_]),
    "float64": lambda model: setattr(model, "coefs_", [-each.astype(float) for each in model.coefs_]),
    "activation": lambda model: model.set_params(activation="tanh"),
    "fit": lambda model: model.fit(-X, y),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_of_fitted_attributes_count_in_place_or_not(classifier, change):
    before = classifier.predict_proba(X)
    change(classifier)
    after = classifier.predict_proba(X)
    assert np.abs(after - before).max() > 1e-3
    anew = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(anew.predict_proba(X), after)


def test_copies_and_files_hold_nothing_prepared(classifier):
    size = len(pickle.dumps(classifier))
    classifier.predict_proba(X)
    assert len(pickle.dumps(classifier)) == size
    for twin in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert twin._memo.prepared is None
        twin.coefs_[0] *= -2
        assert np.abs(twin.predict_proba(X) - classifier.predict_proba(X)).max() > 1e-3


def test_models_of_files_without_the_attribute_predict(classifier):
    expected = classifier.predict_proba(X)
    del classifier._memo
    np.testing.assert_array_equal(classifier.predict_proba(X), expected)
